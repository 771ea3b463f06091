package server

import (
	"encoding/csv"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// plainLists are operations that answer items and next_cursor and are no lists to sort and export, with the reason.
var plainLists = map[string]string{
	"/v1/catalog":      "it is the same for everybody and answered whole, in the order of its areas",
	"/v1/signing-keys": "a handful, answered whole in the order of their lives",
}

// TestListsOfferTheSame holds every list of the contract to what all lists offer: limit, cursor, a closed set of orders
// each of which can be turned round, and the export media types with their problem code.
func TestListsOfferTheSame(t *testing.T) {
	doc, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for path, item := range doc.Paths.Map() {
		if item.Get == nil || !isList(item.Get) {
			continue
		}
		found++
		if _, plain := plainLists[path]; plain {
			continue
		}
		for _, why := range listFaults(item.Get) {
			t.Errorf("GET %s: %s", path, why)
		}
	}
	if found < 20 {
		t.Errorf("only %d lists were found", found)
	}
	for path := range plainLists {
		if item := doc.Paths.Find(path); item == nil || item.Get == nil || !isList(item.Get) {
			t.Errorf("%s is excepted and is no list", path)
		}
	}
}

func isList(op *openapi3.Operation) bool {
	answer := op.Responses.Value("200")
	if answer == nil || answer.Value.Content["application/json"] == nil {
		return false
	}
	properties := answer.Value.Content["application/json"].Schema.Value.Properties
	return properties["items"] != nil && properties["next_cursor"] != nil
}

func listFaults(op *openapi3.Operation) (faults []string) {
	for _, name := range []string{"limit", "cursor"} {
		if op.Parameters.GetByInAndName("query", name) == nil {
			faults = append(faults, "has no "+name)
		}
	}
	sort := op.Parameters.GetByInAndName("query", "sort")
	if sort == nil || len(sort.Schema.Value.Enum) == 0 || !slices.Contains(sort.Schema.Value.Enum, sort.Schema.Value.Default) {
		return append(faults, "has no sort with an enum and a default out of it")
	}
	for _, v := range sort.Schema.Value.Enum {
		if name := v.(string); name[0] != '-' && !slices.Contains(sort.Schema.Value.Enum, any("-"+name)) {
			faults = append(faults, "sort "+name+" cannot be turned round")
		}
	}
	for _, media := range []string{mediaCSV, mediaNDJSON} {
		if op.Responses.Value("200").Value.Content[media] == nil {
			faults = append(faults, "does not answer "+media)
		}
	}
	codes, _ := op.Extensions["x-problem-codes"].([]any)
	for _, code := range []string{codeInvalidCursor, codeExportRunning} {
		if !slices.Contains(codes, any(code)) {
			faults = append(faults, "does not document "+code)
		}
	}
	return faults
}

// What is answered whole is exported as well, by the same rules.
func TestPlainListsAreExported(t *testing.T) {
	doc, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	for path := range plainLists {
		op := doc.Paths.Find(path).Get
		codes, _ := op.Extensions["x-problem-codes"].([]any)
		if content := op.Responses.Value("200").Value.Content; content[mediaCSV] == nil || content[mediaNDJSON] == nil || !slices.Contains(codes, any(codeExportRunning)) {
			t.Errorf("GET %s does not say that it is exported", path)
		}
	}
}

// lists walks and exports every list of the contract in each of its orders.
func lists(b *bench, m *machine) {
	b.want(200, "GET", "/v1/overview/series?metric=verdicts_by_status", b.admin, nil)
	b.refused("invalid_field", "since", "GET", "/v1/overview/series?metric=alerts_opened&since=2020-01-01T00:00:00Z", b.admin, nil)
	b.refused("invalid_field", "metric", "GET", "/v1/overview/series", b.admin, nil)
	b.refused("invalid_field", "status", "GET", "/v1/alerts?status=active,nonsense", b.admin, nil)
	b.refused("invalid_field", "status", "GET", "/v1/alerts?status=active&status=resolved", b.admin, nil)
	first := func(path string) string {
		items := b.want(200, "GET", path, b.admin, nil).json(b.t)["items"].([]any)
		return items[0].(map[string]any)["id"].(string)
	}
	ids := strings.NewReplacer("{machine_id}", m.id, "{baseline_id}", first("/v1/baselines"), "{anchor_id}", first("/v1/trust-anchors"),
		"{reappraisal_id}", first("/v1/reappraisals"), "{alert_id}", first("/v1/alerts?include_suppressed=true"), "{incident_id}", first("/v1/incidents"),
		"{recommendation_id}", first("/v1/recommendations"), "{name}", "default")
	doc, err := loadContract()
	if err != nil {
		b.t.Fatal(err)
	}
	for path, item := range doc.Paths.Map() {
		if item.Get == nil || !isList(item.Get) || plainLists[path] != "" {
			continue
		}
		sorts := item.Get.Parameters.GetByInAndName("query", "sort").Schema.Value.Enum
		for i, sort := range sorts {
			query := "?sort=" + url.QueryEscape(sort.(string))
			b.wholeList(ids.Replace(path), query, "&sort="+url.QueryEscape(sorts[(i+1)%len(sorts)].(string)))
		}
		b.refused("invalid_field", "limit", "GET", ids.Replace(path)+"?limit=5", b.admin, nil, "Accept", "text/csv")
	}
	for path := range plainLists {
		items := b.want(200, "GET", path, b.admin, nil).json(b.t)["items"].([]any)
		a := b.want(200, "GET", path, b.admin, nil, "Accept", "text/csv")
		table, err := csv.NewReader(strings.NewReader(string(a.body))).ReadAll()
		if err != nil || len(table) != len(items)+2 || table[len(table)-1][1] != strconv.Itoa(len(items)) || strings.Contains(string(a.body), `\u003c`) {
			b.t.Errorf("%s as CSV: %d rows for %d items, %v", path, len(table), len(items), err)
		}
		lines := strings.Split(strings.TrimSpace(string(b.want(200, "GET", path, b.admin, nil, "Accept", mediaNDJSON).body)), "\n")
		if len(lines) != len(items)+1 {
			b.t.Errorf("%s as NDJSON: %d lines for %d items", path, len(lines), len(items))
		}
	}
	p := b.signIn(b.admin)
	if page := p.see("/ui/machines?sort=name"); !strings.Contains(page, `href="/ui/export/machines?sort=name"`) {
		b.t.Error("the page of machines does not offer its list as CSV")
	}
	if table := p.see("/ui/export/machines?sort=name"); !strings.HasPrefix(table, "id,") || !strings.Contains(table, "\r\n"+exportEndCSV+",") {
		b.t.Errorf("the downloaded list is %.300q", table)
	}
	for range maxExports {
		b.server.exports <- struct{}{}
	}
	for path, item := range doc.Paths.Map() {
		if item.Get != nil && isList(item.Get) {
			if a := b.refused("export_running", "", "GET", ids.Replace(path), b.admin, nil, "Accept", "text/html, text/csv;q=0.9"); a.header.Get("Retry-After") == "" {
				b.t.Errorf("%s: no Retry-After", path)
			}
			b.want(200, "GET", ids.Replace(path), b.admin, nil, "Accept", "text/csv;q=0, */*")
		}
	}
	for range maxExports {
		<-b.server.exports
	}
}

// wholeList compares a list walked in pages of two with what its exports hold.
func (b *bench) wholeList(path, query, other string) {
	b.t.Helper()
	var all []string
	for cursor := ""; ; {
		page := b.want(200, "GET", path+query+"&limit=2"+cursor, b.admin, nil)
		var list struct {
			Items      []json.RawMessage `json:"items"`
			NextCursor *string           `json:"next_cursor"`
		}
		if err := json.Unmarshal(page.body, &list); err != nil {
			b.t.Fatal(err)
		}
		for _, item := range list.Items {
			all = append(all, string(item))
		}
		if list.NextCursor == nil {
			break
		}
		cursor = "&cursor=" + *list.NextCursor
		b.refused("invalid_cursor", "cursor", "GET", path+"?limit=2"+cursor+other, b.admin, nil)
	}
	ndjson := b.want(200, "GET", path+query, b.admin, nil, "Accept", mediaNDJSON)
	lines := strings.Split(strings.TrimSuffix(string(ndjson.body), "\n"), "\n")
	if want := `{"complete":true,"count":` + strconv.Itoa(len(all)) + `}`; lines[len(lines)-1] != want || !slices.Equal(lines[:len(lines)-1], all) {
		b.t.Errorf("%s%s: the export holds %d lines and ends in %s, the pages %d items", path, query, len(lines), lines[len(lines)-1], len(all))
	}
	answer := b.want(200, "GET", path+query, b.admin, nil, "Accept", mediaCSV)
	records, err := csv.NewReader(strings.NewReader(string(answer.body))).ReadAll() // refuses records of different lengths
	if err != nil || len(records) != len(all)+2 {
		b.t.Fatalf("%s%s: %d records: %v", path, query, len(records), err)
	}
	if end := records[len(records)-1]; end[0] != exportEndCSV || end[1] != strconv.Itoa(len(all)) {
		b.t.Errorf("%s%s: the last record is %q", path, query, end)
	}
	if !strings.HasPrefix(answer.header.Get("Content-Type"), "text/csv; charset=utf-8") || answer.header.Get("Vary") != "Accept" {
		b.t.Errorf("%s: %v", path, answer.header)
	}
}

func TestCells(t *testing.T) {
	for in, want := range map[string]string{
		`"plain"`: "plain", `null`: "", ``: "", `-5`: "-5", `true`: "true", `{"a": [1, "=x"]}`: `{"a":[1,"=x"]}`,
		`["\u003cimg\u003e \u0026 x"]`: `["<img> & x"]`, `["\\u003c", "\\\u003c", "\u00e9", "\""]`: `["\\u003c","\\<","\u00e9","\""]`, `"\u003c"`: "<",
		`"=1+1"`: "'=1+1", `"+1"`: "'+1", `"-1"`: "'-1", `"@SUM(A1)"`: "'@SUM(A1)", `"\tx"`: "'\tx", `"\rx"`: "'\rx", `"\nx"`: "'\nx",
		`"＝1"`: "'＝1", `"a=1"`: "a=1", `"ü=1"`: "ü=1",
	} {
		if got, err := cell(json.RawMessage(in)); err != nil || got != want {
			t.Errorf("%s becomes %q, not %q: %v", in, got, want, err)
		}
	}
}

// An export whose second page fails is cut off: neither its form nor its connection ends as a whole one does.
func TestBrokenExportDoesNotLookComplete(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked := 0
		e := &export{s: newBench(t, nil).server, columns: []string{"id", "name"}, list: func(w http.ResponseWriter, _ *http.Request) {
			if asked++; asked == 3 {
				w.WriteHeader(http.StatusInternalServerError)
				return
			}
			_, _ = w.Write([]byte(`{"items":[{"id":"1","name":"a\"b,c"},{"id":"2"}],"next_cursor":"x"}`))
		}}
		e.serve(w, r, wantedExport(r))
	}))
	defer server.Close()
	for _, media := range []string{mediaCSV, mediaNDJSON} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", media)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		buffer := make([]byte, 4096)
		for err == nil {
			var n int
			n, err = resp.Body.Read(buffer)
			got.Write(buffer[:n])
		}
		_ = resp.Body.Close()
		if err.Error() != "unexpected EOF" || strings.Contains(got.String(), "complete") {
			t.Errorf("%s ended with %v after %q", media, err, got.String())
		}
		if media == mediaCSV && got.String() != "id,name\r\n1,\"a\"\"b,c\"\r\n2,\r\n1,\"a\"\"b,c\"\r\n2,\r\n" {
			t.Errorf("it holds %q", got.String())
		}
	}
}

// discard counts what is written and keeps nothing.
type discard struct {
	header http.Header
	bytes  int64
	last   []byte
}

func (d *discard) Header() http.Header { return d.header }

func (d *discard) WriteHeader(int) {}

func (d *discard) Write(b []byte) (int, error) {
	d.bytes += int64(len(b))
	d.last = append(d.last[:0], b[max(0, len(b)-40):]...)
	return len(b), nil
}

// A million rows are exported in the memory of a page: the heap in use never grows by more than a few megabytes.
func TestExportIsBounded(t *testing.T) {
	const rows = 1_000_000
	var page []byte
	for i := range exportPage {
		page = append(page, `,{"id":"`+strconv.Itoa(i)+`","name":"machine","labels":{"a":"b"}}`...)
	}
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var peak uint64
	asked := 0
	e := &export{s: newBench(t, nil).server, columns: []string{"id", "name", "labels"}, list: func(w http.ResponseWriter, _ *http.Request) {
		next := `"more"`
		if asked += exportPage; asked == rows {
			next = "null"
		}
		if asked%(rows/10) == 0 {
			runtime.GC()
			runtime.ReadMemStats(&now)
			peak = max(peak, now.HeapAlloc)
		}
		_, _ = w.Write([]byte(`{"items":[` + string(page[1:]) + `],"next_cursor":` + next + `}`))
	}}
	w := &discard{header: http.Header{}}
	e.serve(w, httptest.NewRequest(http.MethodGet, "/v1/machines", nil), mediaCSV)
	if !strings.HasSuffix(string(w.last), exportEndCSV+",1000000,\r\n") || w.bytes < rows*20 {
		t.Errorf("%d bytes that end in %q", w.bytes, w.last)
	}
	if peak > before.HeapAlloc+16<<20 {
		t.Errorf("the heap grew from %d to %d bytes", before.HeapAlloc, peak)
	}
}
