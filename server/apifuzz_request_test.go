package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
)

// request makes one request of an operation, and holds its answer to the contract.
func (z *apiFuzz) request(t *rapid.T, op fuzzedOperation) {
	target := op.path
	query := url.Values{}
	header := http.Header{}
	spoilt := rapid.IntRange(0, 3).Draw(t, "spoilt parameters") == 0
	for _, p := range op.op.Parameters {
		v := p.Value
		switch {
		case v.In == "path":
			text := z.parameter(t, v, spoilt)
			if text == "" { // which would be another path
				text = " "
			}
			target = strings.ReplaceAll(target, "{"+v.Name+"}", url.PathEscape(text))
		case v.In == "query" && rapid.IntRange(0, 4).Draw(t, v.Name+" given") == 0:
			query.Set(v.Name, z.parameter(t, v, spoilt))
		case v.In == "header" && rapid.IntRange(0, 5).Draw(t, v.Name+" given") == 0:
			header.Set(v.Name, headerText(z.parameter(t, v, spoilt)))
		}
	}
	if spoilt && rapid.IntRange(0, 3).Draw(t, "unknown parameter") == 0 {
		query.Set(rapid.SampledFrom([]string{"colour", "limit ", "tenant_id", "\x00"}).Draw(t, "name"), "1")
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	body := z.body(t, op, header)
	if op.method == http.MethodGet && rapid.IntRange(0, 9).Draw(t, "export") == 0 {
		header.Set("Accept", rapid.SampledFrom([]string{mediaCSV, mediaNDJSON, "text/html", "*/*;q=0"}).Draw(t, "Accept"))
	}
	needs, _ := op.op.Extensions["x-assay-role"].(string)
	who := z.fitting(role(needs))
	if rapid.IntRange(0, 4).Draw(t, "another principal") == 0 {
		who = rapid.SampledFrom(sortedKeys(z.principals)).Draw(t, "principal")
	}
	if token := z.principals[who]; token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	z.send(t, op, target, header, body)
}

// fitting is a principal that the operation is for.
func (z *apiFuzz) fitting(needs role) string {
	switch needs {
	case rolePublic:
		return "nobody"
	case roleJoin, roleMachine:
		return string(needs)
	default:
		return "admin"
	}
}

func (z *apiFuzz) send(t *rapid.T, op fuzzedOperation, target string, header http.Header, body []byte) {
	req, err := http.NewRequest(op.method, z.b.http.URL+target, bytes.NewReader(body)) //nolint:noctx // of a test, to this process
	if err != nil {
		return // what no client can send
	}
	req.Header = header
	z.heard.found = nil
	outer := z.b.t
	z.b.t = z.heard
	a := z.b.do(req)
	z.b.t = outer
	name := op.method + " " + op.path
	if z.answered[name] == nil {
		z.answered[name] = map[int]int{}
	}
	z.answered[name][a.status]++
	if a.status >= http.StatusInternalServerError && a.status != http.StatusServiceUnavailable {
		z.heard.Errorf("it is the service's fault")
	}
	if len(z.heard.found) > 0 {
		t.Fatalf("%s\n%s %s\n%v\n%s\nwas answered %d %s\nlog: %s", strings.Join(z.heard.found, "\n"), op.method, target, header, cut(body), a.status, cut(a.body), z.lastError())
	}
	z.learn(op, a)
}

// lastError is the log's last line of a failure.
func (z *apiFuzz) lastError() string {
	lines := strings.Split(z.b.logs.String(), "\n")
	for _, line := range slices.Backward(lines) {
		if strings.Contains(line, `"ERROR"`) {
			return line
		}
	}
	return "nothing"
}

// remember keeps a value for later requests; of each name the last hundred or so.
func (z *apiFuzz) remember(name, value string) {
	if value == "" || len(value) > 300 || z.spared[value] || slices.Contains(z.known[name], value) {
		return
	}
	z.known[name] = append(z.known[name], value)
	if len(z.known[name]) > 200 {
		z.known[name] = slices.Clone(z.known[name][100:])
	}
}

// learn takes up what an answer tells.
func (z *apiFuzz) learn(op fuzzedOperation, a answer) {
	if a.status >= 300 || a.header.Get("Content-Type") != jsonMedia {
		return
	}
	var v any
	if json.Unmarshal(a.body, &v) == nil {
		z.walk(op, "", v)
	}
}

func (z *apiFuzz) walk(op fuzzedOperation, name string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			z.walk(op, key, value)
		}
	case []any:
		for _, value := range v[:min(len(v), 5)] {
			z.walk(op, name, value)
		}
	case string:
		if name == "id" && op.lists != "" {
			name = op.lists
		}
		if name == "next_cursor" {
			name = "cursor"
		}
		z.remember(name, v)
		if uuid.Validate(v) == nil {
			z.remember("id", v)
		}
	}
}

// hostile are texts that have broken parsers, logs, paths and databases.
var hostile = []string{"", " ", "\x00", "a\x00b", "\x1b[31m", "\u202eevil", "\ufeff", "\ufffd", "../../etc/passwd", "%00", "%2e%2e%2f", "'; DROP TABLE machines; --", "{{7*7}}",
	"-1", "0", "NaN", "1e999", "9223372036854775808", "99999999999999999999999999", "null", "true", "[]", "a,b", "\xff\xfe", strings.Repeat("a", 9000), strings.Repeat("é", 257),
	"01900000-0000-7000-8000-0000000000FF", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2024-02-30T00:00:00Z", "-0001-01-01T00:00:00Z"}

// parameter is the text of a path, query or header parameter.
func (z *apiFuzz) parameter(t *rapid.T, p *openapi3.Parameter, spoilt bool) string {
	if spoilt && rapid.Bool().Draw(t, "spoilt") {
		return rapid.SampledFrom(hostile).Draw(t, p.Name)
	}
	if p.Name == "machine_id" && rapid.IntRange(0, 9).Draw(t, "another machine") > 0 {
		return z.machineID
	}
	if values := z.known[p.Name]; len(values) > 0 && rapid.IntRange(0, 9).Draw(t, p.Name+" known") > 0 {
		return rapid.SampledFrom(values[max(0, len(values)-5):]).Draw(t, p.Name) // older ones are often gone
	}
	v := z.value(t, p.Schema.Value, p.Name, 0)
	if list, ok := v.([]any); ok {
		texts := make([]string, len(list))
		for i := range list {
			texts[i] = fmt.Sprint(list[i])
		}
		return strings.Join(texts, ",")
	}
	return fmt.Sprint(v)
}

// headerText is the text as a client can send it in a header.
func headerText(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, text)
}

// body makes a body and names its type: valid, spoilt in one place or two, or no JSON at all.
func (z *apiFuzz) body(t *rapid.T, op fuzzedOperation, header http.Header) []byte {
	request := op.op.RequestBody
	if request == nil {
		if op.method != http.MethodGet && rapid.IntRange(0, 19).Draw(t, "a body all the same") == 0 {
			header.Set("Content-Type", jsonMedia)
			return []byte(rapid.SampledFrom([]string{"{}", "[]", "x", `{"a": 1}`}).Draw(t, "body"))
		}
		return nil
	}
	media := rapid.SampledFrom(sortedKeys(request.Value.Content)).Draw(t, "media type")
	header.Set("Content-Type", media)
	if rapid.IntRange(0, 29).Draw(t, "another type") == 0 {
		header.Set("Content-Type", rapid.SampledFrom([]string{"text/plain", "application/json; charset=latin1", "application/json;", "multipart/form-data; boundary=x", "", "\"", jsonMedia}).Draw(t, "Content-Type"))
	}
	if rapid.IntRange(0, 39).Draw(t, "an encoding") == 0 {
		header.Set("Content-Encoding", rapid.SampledFrom([]string{"gzip", "zstd", "br", "identity", "gzip, gzip"}).Draw(t, "Content-Encoding"))
	}
	if !request.Value.Required && rapid.IntRange(0, 3).Draw(t, "no body") == 0 {
		return nil
	}
	if media != jsonMedia {
		return []byte(rapid.StringN(0, 60, 200).Draw(t, "body"))
	}
	var v any
	if make := z.bodies[op.op.OperationID]; make != nil && rapid.IntRange(0, 3).Draw(t, "a real body") > 0 {
		v = make()
	}
	if v == nil && rapid.Bool().Draw(t, "a fitting body") {
		v = z.fittingBody(op.op.OperationID)
	}
	if v == nil {
		v = z.value(t, request.Value.Content[media].Schema.Value, "", 0)
	}
	if rapid.IntRange(0, 2).Draw(t, "spoilt body") == 0 {
		for range rapid.IntRange(1, 2).Draw(t, "places") {
			v = spoil(t, v)
		}
	}
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("%v in %v", err, v)
	}
	if rapid.IntRange(0, 19).Draw(t, "spoilt JSON") == 0 {
		raw = spoilText(t, raw)
	}
	return raw
}

// spoil changes one place of a JSON value.
func spoil(t *rapid.T, v any) any {
	places := []func(any){func(x any) { v = x }}
	var find func(v any)
	find = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, key := range sortedKeys(v) {
				places = append(places, func(x any) { v[key] = x })
				find(v[key])
			}
			places = append(places, func(x any) { v["no_such_field"] = x })
			if keys := sortedKeys(v); len(keys) > 0 {
				gone := rapid.SampledFrom(keys).Draw(t, "left out")
				places = append(places, func(any) { delete(v, gone) })
			}
		case []any:
			for i := range v {
				places = append(places, func(x any) { v[i] = x })
				find(v[i])
			}
		}
	}
	find(v)
	deep := any("deep")
	for range 40 {
		deep = []any{deep}
	}
	values := []any{nil, true, -1, 0, 1.5, json.Number("1e999"), json.Number("-9223372036854775809"), json.Number("18446744073709551616"), 1 << 40, map[string]any{}, []any{}, map[string]any{"\x00": 1}, deep,
		slices.Repeat([]any{"x"}, 300)}
	for _, s := range hostile {
		values = append(values, s)
	}
	rapid.SampledFrom(places).Draw(t, "place")(rapid.SampledFrom(values).Draw(t, "value"))
	return v
}

// spoilText makes what is no JSON, or JSON of a kind that decoders disagree about.
func spoilText(t *rapid.T, raw []byte) []byte {
	at := rapid.IntRange(0, len(raw)).Draw(t, "at")
	switch rapid.IntRange(0, 5).Draw(t, "how") {
	case 0:
		return raw[:at]
	case 1:
		return slices.Insert(slices.Clone(raw), at, rapid.SampledFrom([]byte("\x00\xff\"{}[],:\\0x")).Draw(t, "byte"))
	case 2:
		return append(slices.Clone(raw), " {}"...)
	case 3:
		return []byte(strings.Repeat("[", 20_000))
	case 4: // a field twice
		return []byte(strings.Replace(string(raw), "{", `{"name": "x", "name": "y", `, 1))
	default:
		return []byte(strings.Replace(string(raw), `"`, `"\ud800`, 1))
	}
}

// value makes what a schema allows.
func (z *apiFuzz) value(t *rapid.T, s *openapi3.Schema, name string, depth int) any {
	if len(s.AllOf) > 0 {
		s = s.AllOf[0].Value
	}
	if s.Nullable && rapid.IntRange(0, 5).Draw(t, name+" null") == 0 {
		return nil
	}
	switch {
	case s.Type.Is("string"):
		return z.text(t, s, name)
	case s.Type.Is("integer"), s.Type.Is("number"):
		return number64(t, s, name)
	case s.Type.Is("boolean"):
		return rapid.Bool().Draw(t, name)
	case s.Type.Is("array"):
		least, most := int(s.MinItems), 3 //nolint:gosec // small constants of the contract
		if s.MaxItems != nil {
			most = min(most, int(*s.MaxItems)) //nolint:gosec // as above
		}
		out := []any{}
		for range rapid.IntRange(least, max(least, most)).Draw(t, name+" items") {
			out = append(out, z.value(t, s.Items.Value, name, depth+1))
		}
		return out
	case s.Type.Is("object"):
		return z.object(t, s, depth)
	}
	return rapid.SampledFrom([]any{nil, 1, "x", []any{}, map[string]any{"a": []any{1.5}}}).Draw(t, name)
}

func (z *apiFuzz) object(t *rapid.T, s *openapi3.Schema, depth int) any {
	out := map[string]any{}
	for _, name := range sortedKeys(s.Properties) {
		p := s.Properties[name].Value
		if !p.ReadOnly && (slices.Contains(s.Required, name) || depth < 4 && rapid.IntRange(0, 3).Draw(t, name+" given") == 0) {
			out[name] = z.value(t, p, name, depth+1)
		}
	}
	if rest := s.AdditionalProperties.Schema; rest != nil && depth < 5 {
		keys := []string{"sha256", "sha384", "0", "7", "env", "milan", "a.b"}
		if p, ok := s.Extensions["x-key-pattern"].(string); ok && rapid.Bool().Draw(t, "a key by its pattern") {
			keys = []string{rapid.StringMatching(p).Draw(t, "key")}
		}
		for range rapid.IntRange(int(s.MinProps), 2).Draw(t, "more") { //nolint:gosec // small constants of the contract
			out[rapid.SampledFrom(keys).Draw(t, "key")] = z.value(t, rest.Value, "", depth+1)
		}
	}
	return out
}

// dates are valid, and many of them at some edge.
var dates = []string{"2020-01-01T00:00:00Z", "2099-12-31T23:59:59Z", "2024-02-29T12:00:00.123456789+14:00", "1969-12-31T23:59:59-12:00", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "0000-01-01T00:00:00Z"}

// unreachable are addresses that nobody is at, and nobody is asked for.
var unreachable = map[string][]string{
	"url":     {"https://127.0.0.1:1/hook", "http://127.0.0.1:1", "https://[::1]:1/?secret=x", "ftp://127.0.0.1", "https://", "https://user:pw@127.0.0.1:1/#x", "//x", "\u007f"},
	"issuer":  {"https://127.0.0.1:1", "https://127.0.0.1:1/", "http://127.0.0.1:1", "https://127.0.0.1:1/a?b", "x"},
	"address": {"127.0.0.1:1", "[::1]:1", "127.0.0.1:99999", "::1:1", "127.0.0.1:0"},
}

func (z *apiFuzz) text(t *rapid.T, s *openapi3.Schema, name string) string {
	if places := unreachable[name]; places != nil {
		return rapid.SampledFrom(places).Draw(t, name)
	}
	if len(s.Enum) > 0 {
		return fmt.Sprint(rapid.SampledFrom(s.Enum).Draw(t, name))
	}
	if known := z.known[name]; len(known) > 0 && rapid.Bool().Draw(t, name+" known") {
		return rapid.SampledFrom(known).Draw(t, name)
	}
	switch s.Format {
	case "uuid":
		return rapid.SampledFrom(append([]string{nobody}, z.known["id"]...)).Draw(t, name)
	case "date-time":
		return rapid.SampledFrom(dates).Draw(t, name)
	case "byte":
		return mustJSONText(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, name))
	}
	if example, ok := s.Example.(string); ok && rapid.Bool().Draw(t, name+" as in the example") {
		return example
	}
	most := 40
	if s.MaxLength != nil {
		most = int(*s.MaxLength) //nolint:gosec // small constants of the contract
	}
	if s.Pattern != "" {
		text := []rune(rapid.StringMatching(s.Pattern).Draw(t, name))
		return string(text[:min(len(text), most)])
	}
	if s.MaxLength != nil && rapid.IntRange(0, 9).Draw(t, name+" as long as can be") == 0 {
		return strings.Repeat("é", most)
	}
	least := int(s.MinLength) //nolint:gosec // as above
	return rapid.StringN(least, max(least, min(most, 40)), -1).Draw(t, name)
}

// mustJSONText is bytes as JSON has them, without the quotes.
func mustJSONText(b []byte) string {
	raw, err := json.Marshal(b)
	if err != nil {
		panic(err)
	}
	return strings.Trim(string(raw), `"`)
}

func number64(t *rapid.T, s *openapi3.Schema, name string) any {
	least, most := int64(-3), int64(100)
	if s.Min != nil {
		least, most = int64(*s.Min), int64(*s.Min)+100
	}
	if s.Max != nil {
		most = int64(*s.Max)
	}
	if rapid.Bool().Draw(t, name+" small") {
		most = min(most, least+5)
	}
	return rapid.Int64Range(least, max(least, most)).Draw(t, name)
}

func fuzzedChallenge(t testing.TB, a answer) *client.Challenge {
	t.Helper()
	var c client.Challenge
	if err := json.Unmarshal(a.body, &c); err != nil {
		t.Fatal(err)
	}
	return &c
}

func parsedJSON(t testing.TB, raw []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
