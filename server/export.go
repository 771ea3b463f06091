package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
)

// Limits of exports. A page is small, since a verdict may hold many deviations, and one page is all that is in memory.
const (
	maxExports   = 4
	exportPage   = 200
	exportTime   = 30 * time.Minute
	exportStall  = time.Minute // for a client to take one page
	mediaCSV     = "text/csv"
	exportRetry  = "5" // seconds
	exportEndCSV = "#complete"
)

// export answers a list whole, in another form than JSON, by asking the operation for one page after the other. No
// transaction spans the pages, so that a slow client holds nothing in the database.
type export struct {
	s       *Server
	list    http.HandlerFunc // answers a page as JSON
	columns []string         // of CSV: the item's properties in the contract's order
}

// newExport makes the export of an operation whose answer the contract also gives as CSV and NDJSON; nil for any other.
func newExport(s *Server, where string, rt route, op *openapi3.Operation) (*export, error) {
	answer := op.Responses.Value("200")
	if rt.method != http.MethodGet || answer == nil || answer.Value.Content[mediaCSV] == nil || answer.Value.Content[mediaNDJSON] == nil {
		return nil, nil //nolint:nilnil // most operations are no lists
	}
	page := answer.Value.Content.Get("application/json")
	if page == nil || page.Schema.Value.Properties["items"] == nil || page.Schema.Value.Properties["next_cursor"] == nil {
		return nil, fmt.Errorf("%s: only a list of items and next_cursor can be exported", where)
	}
	columns, err := columnsOf(page.Schema.Value.Properties["items"].Value.Items.Value)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	return &export{s: s, list: rt.handle, columns: columns}, nil
}

// columnsOf are the properties of an item: those that it always has first, in the order of the contract's required, then
// the others by name.
func columnsOf(item *openapi3.Schema) ([]string, error) {
	var columns []string
	properties := map[string]bool{}
	parts := openapi3.SchemaRefs{{Value: item}}
	for i := 0; i < len(parts); i++ { // what is made of others holds their properties
		parts = append(parts, parts[i].Value.AllOf...)
	}
	for _, part := range parts {
		for name := range part.Value.Properties {
			properties[name] = true
		}
	}
	for _, part := range parts {
		for _, name := range part.Value.Required {
			if properties[name] {
				columns = append(columns, name)
				delete(properties, name)
			}
		}
	}
	columns = append(columns, sortedKeys(properties)...)
	if len(columns) == 0 {
		return nil, errors.New("an exported item needs properties")
	}
	return columns, nil
}

// wantedExport is the media type that a request asks a list for; empty for JSON. The first acceptable type counts.
func wantedExport(r *http.Request) string {
	for _, accept := range r.Header.Values("Accept") {
		for _, part := range strings.Split(accept, ",") {
			media, parameters, err := mime.ParseMediaType(part)
			if err != nil || parameters["q"] == "0" {
				continue
			}
			switch media {
			case mediaCSV, mediaNDJSON:
				return media
			case "application/json", "application/*", "*/*":
				return ""
			}
		}
	}
	return ""
}

// serve answers the whole list. What fails before the first page is a problem document; afterwards the connection is cut,
// so that no client takes a part for the whole.
func (e *export) serve(w http.ResponseWriter, r *http.Request, media string) {
	if r.URL.Query().Has("limit") || r.URL.Query().Has("cursor") {
		e.s.fail(w, r, refuseParameter(codeInvalidField, "limit", "an export is of the whole list: it takes neither limit nor cursor"))
		return
	}
	select {
	case e.s.exports <- struct{}{}:
		defer func() { <-e.s.exports }()
	default:
		e.s.fail(w, r, refuse(codeExportRunning, fmt.Sprintf("%d exports are under way", maxExports)).with("Retry-After", exportRetry))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), exportTime)
	defer cancel()
	r = r.WithContext(ctx)
	page := e.page(r, "")
	if page.status != http.StatusOK {
		page.copyTo(w)
		return
	}
	var out exportWriter = &ndjsonWriter{}
	w.Header().Set("Content-Type", mediaNDJSON)
	if media == mediaCSV {
		out = &csvWriter{columns: e.columns}
		w.Header().Set("Content-Type", mediaCSV+"; charset=utf-8; header=present")
	}
	w.Header().Set("Content-Disposition", `attachment; filename="`+fileName(r.URL.Path)+`"`)
	w.Header().Set("Cache-Control", "no-store")
	if err := e.pages(w, r, page, out); err != nil {
		e.s.log.Warn("an export ended early", "path", r.URL.Path, "error", err)
		panic(http.ErrAbortHandler) // net/http's way to end an answer without its end
	}
}

func fileName(path string) string {
	name := strings.Trim(strings.ReplaceAll(strings.TrimPrefix(path, "/v1/"), "/", "-"), "-")
	return strings.Map(func(c rune) rune {
		if c == '-' || c == '.' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' {
			return c
		}
		return '_'
	}, name)
}

// pages writes the first page and all that follow.
func (e *export) pages(w http.ResponseWriter, r *http.Request, page *pageAnswer, out exportWriter) error {
	control := http.NewResponseController(w)
	var b bytes.Buffer
	out.begin(&b)
	count := 0
	for {
		var list struct {
			Items      []json.RawMessage `json:"items"`
			NextCursor *string           `json:"next_cursor"`
		}
		if page.status != http.StatusOK {
			return fmt.Errorf("a page was answered with %d: %.200s", page.status, page.body.String())
		}
		if err := json.Unmarshal(page.body.Bytes(), &list); err != nil {
			return fmt.Errorf("a page: %w", err)
		}
		for _, item := range list.Items {
			if err := out.item(&b, item); err != nil {
				return fmt.Errorf("item %d: %w", count, err)
			}
			count++
		}
		if list.NextCursor == nil {
			out.end(&b, count)
		}
		// Not every writer has deadlines (that of a test has none); where there are some, a client that takes nothing is left.
		if err := control.SetWriteDeadline(time.Now().Add(exportStall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
		if err := control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if list.NextCursor == nil {
			return nil
		}
		if err := r.Context().Err(); err != nil {
			return err
		}
		b.Reset()
		page = e.page(r, *list.NextCursor)
	}
}

// page asks the operation for one page.
func (e *export) page(r *http.Request, cursor string) *pageAnswer {
	query := r.URL.Query()
	query.Set("limit", strconv.Itoa(exportPage))
	if cursor != "" {
		query.Set("cursor", cursor)
	}
	ask := r.WithContext(r.Context())
	address := *r.URL
	address.RawQuery = query.Encode()
	ask.URL = &address
	ask.Header = r.Header.Clone()
	ask.Header.Set("Accept", "application/json")
	answer := &pageAnswer{header: http.Header{}, status: http.StatusOK}
	e.list(answer, ask)
	return answer
}

// pageAnswer holds the answer of one page.
type pageAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *pageAnswer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *pageAnswer) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *pageAnswer) Write(b []byte) (int, error) { return a.body.Write(b) }

func (a *pageAnswer) copyTo(w http.ResponseWriter) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes()) // an error means that the client went away
}

// exportWriter is a form of a list.
type exportWriter interface {
	begin(*bytes.Buffer)
	item(b *bytes.Buffer, item json.RawMessage) error
	end(b *bytes.Buffer, count int)
}

type ndjsonWriter struct{}

func (*ndjsonWriter) begin(*bytes.Buffer) {}

func (*ndjsonWriter) item(b *bytes.Buffer, item json.RawMessage) error {
	if err := json.Compact(b, item); err != nil {
		return err
	}
	b.WriteByte('\n')
	return nil
}

func (*ndjsonWriter) end(b *bytes.Buffer, count int) {
	fmt.Fprintf(b, `{"complete":true,"count":%d}`+"\n", count)
}

// csvWriter writes RFC 4180: CRLF, and quotes where they are needed.
type csvWriter struct{ columns []string }

func (c *csvWriter) begin(b *bytes.Buffer) { c.record(b, c.columns) }

func (c *csvWriter) item(b *bytes.Buffer, item json.RawMessage) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(item, &fields); err != nil {
		return err
	}
	cells := make([]string, len(c.columns))
	for i, name := range c.columns {
		var err error
		if cells[i], err = cell(fields[name]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		delete(fields, name)
	}
	if len(fields) > 0 {
		return fmt.Errorf("the contract does not have %v", sortedKeys(fields))
	}
	c.record(b, cells)
	return nil
}

func (c *csvWriter) end(b *bytes.Buffer, count int) {
	cells := make([]string, max(len(c.columns), 2))
	cells[0], cells[1] = exportEndCSV, strconv.Itoa(count)
	c.record(b, cells)
}

// cell is a JSON value as the text of a cell: a text as it is, null and what is absent empty, what is nested as JSON.
func cell(value json.RawMessage) (string, error) {
	switch {
	case len(value) == 0 || string(value) == "null":
		return "", nil
	case value[0] == '"':
		var text string
		if err := json.Unmarshal(value, &text); err != nil {
			return "", err
		}
		return defused(text), nil
	}
	var b bytes.Buffer
	err := json.Compact(&b, value)
	return string(plainJSON(b.Bytes())), err
}

// plainJSON writes <, > and & in JSON as they are: encoding/json escapes them for pages, and nobody could search a table for them.
func plainJSON(text []byte) []byte {
	out := text[:0]
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			out = append(out, text[i])
			continue
		}
		if i+5 < len(text) && text[i+1] == 'u' {
			if c, ok := map[string]byte{"003c": '<', "003e": '>', "0026": '&'}[string(text[i+2:i+6])]; ok {
				out = append(out, c)
				i += 5
				continue
			}
		}
		out = append(out, text[i], text[i+1]) // an escaped backslash begins nothing
		i++
	}
	return out
}

// defused is a text that no spreadsheet takes for a formula (OWASP, CSV Injection): those that begin with one of its
// characters, or with the full-width forms that are read as them, get an apostrophe.
func defused(text string) string {
	if text == "" {
		return ""
	}
	switch first := []rune(text[:min(len(text), 4)])[0]; first {
	case '=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠':
		return "'" + text
	}
	return text
}

func (c *csvWriter) record(b *bytes.Buffer, cells []string) {
	for i, text := range cells {
		if i > 0 {
			b.WriteByte(',')
		}
		if !strings.ContainsAny(text, "\",\r\n") && strings.TrimSpace(text) == text {
			b.WriteString(text)
			continue
		}
		b.WriteByte('"')
		b.WriteString(strings.ReplaceAll(text, `"`, `""`))
		b.WriteByte('"')
	}
	b.WriteString("\r\n")
}
