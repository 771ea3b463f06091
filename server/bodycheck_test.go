package server

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/assay-verifier/assay/openapi"
)

// requestSchemas are the schemas of all JSON bodies that the guard checks, by operation.
func requestSchemas(t testing.TB) map[string]*openapi3.SchemaRef {
	t.Helper()
	doc, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*openapi3.SchemaRef{}
	for _, item := range doc.Paths.Map() {
		for _, op := range item.Operations() {
			if op.RequestBody != nil && op.RequestBody.Value.Content["application/json"] != nil {
				out[op.OperationID] = op.RequestBody.Value.Content["application/json"].Schema
			}
		}
	}
	return out
}

// FuzzCheckBody compares the body check with kin-openapi's validator: what the one refuses the other
// does, but for what only ours looks at (repeated fields, NUL, keys, strict base64 and times, UUIDs).
func FuzzCheckBody(f *testing.F) {
	schemas := requestSchemas(f)
	rules := map[string]*rule{}
	names := sortedKeys(schemas)
	for _, name := range names {
		r, err := compileRule(name, schemas[name])
		if err != nil {
			f.Fatal(err)
		}
		rules[name] = r
	}
	for i, name := range names {
		f.Add(uint8(i), fittingBodies[name]) //nolint:gosec // a few dozen
	}
	for _, s := range []string{`{}`, `[]`, `null`, `{"name": "x", "os": "linux", "labels": {"a": "b"}, "declared": {"vtpm": null}}`,
		`{"name": "x", "uses": 1e3}`, `{"name": "x", "uses": 5, "expires_in_seconds": 1}`, `{"pcrs": {"sha256": [0, 23]}}`,
		`{"name": "x", "reference_values": {"events": [{"pcr": 4, "digests": {"sha1": ["` + strings.Repeat("a", 40) + `"]}}]}}`} {
		for i := range names {
			f.Add(uint8(i), s) //nolint:gosec // a few dozen
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		name := names[int(which)%len(names)]
		err := checkBody([]byte(body), rules[name])
		var refused *requestError
		if err != nil && !errors.As(err, &refused) {
			t.Fatalf("not a request error: %v", err)
		}
		if refused != nil && (len(refused.errors) == 0 || len(refused.errors) > maxFieldProblems) {
			t.Fatalf("%d places", len(refused.errors))
		}
		var tree any
		if json.Unmarshal([]byte(body), &tree) != nil {
			if err == nil {
				t.Fatalf("accepted what is not JSON: %q", body)
			}
			return
		}
		other := schemas[name].Value.VisitJSON(tree)
		if err == nil && other != nil {
			t.Fatalf("%s: accepted %q, which kin-openapi refuses: %v", name, body, other)
		}
		if err != nil && other == nil && !onlyOurs(refused) {
			t.Fatalf("%s: refused %q with %v, which kin-openapi accepts", name, body, err)
		}
	})
}

func onlyOurs(e *requestError) bool {
	if e.code == codeMalformedJSON {
		return true
	}
	for _, p := range e.errors {
		for _, why := range []string{"NUL", "key here", "base64", "RFC 3339", "UUID", "no integer", "out of range"} {
			if strings.Contains(p.Detail, why) {
				return true
			}
		}
	}
	return false
}

// A schema that leaves the type open takes no null: it would come back in answers, where the contract has none.
func TestOpenSchemaTakesNoNull(t *testing.T) {
	r, err := compileRule("createBaseline", requestSchemas(t)["createBaseline"])
	if err != nil {
		t.Fatal(err)
	}
	var refused *requestError
	if err := checkBody([]byte(`{"name": "x", "reference_values": {"claims": {"secure_boot": null}}}`), r); !errors.As(err, &refused) ||
		refused.code != codeInvalidField || refused.errors[0].Pointer != "/reference_values/claims/secure_boot" {
		t.Errorf("a claim that is null: %v", err)
	}
	if err := checkBody([]byte(`{"name": "x", "reference_values": {"claims": {"secure_boot": {"any_of": [true]}}}}`), r); err != nil {
		t.Errorf("a claim that is not: %v", err)
	}
}

func TestBodyCheckStaysInMemory(t *testing.T) {
	schemas := requestSchemas(t)
	r, err := compileRule("createBaseline", schemas["createBaseline"])
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{
		"small values":   `{"name": "x", "reference_values": {"claims": {"a": [` + strings.Repeat("1,", 500_000) + `1]}}}`,
		"unknown fields": `{` + strings.Repeat(`"a":1,`, 1) + strings.TrimSuffix(manyFields(100_000), ",") + `}`,
		"open brackets":  strings.Repeat(`{"a":`, 200_000),
		"one long text":  `{"name": "` + strings.Repeat("x", 1<<20) + `"}`,
	} {
		used := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = checkBody([]byte(body), r)
			}
		}).AllocedBytesPerOp()
		if used > 8*int64(len(body)) {
			t.Errorf("%s: %d bytes for a body of %d", name, used, len(body))
		}
	}
}

func manyFields(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(`"f`)
		b.WriteString(number(float64(i)))
		b.WriteString(`":1,`)
	}
	return b.String()
}

// TestContractIsEnforced breaks the contract in ways that New has to notice.
func TestContractIsEnforced(t *testing.T) {
	b := newBench(t, nil)
	for name, breaks := range map[string]func(*openapi3.T){
		"no permission":      func(d *openapi3.T) { delete(op(d).Extensions, "x-assay-permission") },
		"another permission": func(d *openapi3.T) { op(d).Extensions["x-assay-permission"] = "public" },
		"no scope":           func(d *openapi3.T) { delete(op(d).Extensions, "x-assay-scope") },
		"another scope":      func(d *openapi3.T) { op(d).Extensions["x-assay-scope"] = "same" },
		"unknown code":       func(d *openapi3.T) { op(d).Extensions["x-problem-codes"] = []any{"made_up"} },
		"no codes":           func(d *openapi3.T) { delete(op(d).Extensions, "x-problem-codes") },
		"route missing":      func(d *openapi3.T) { d.Paths.Set("/v1/more", &openapi3.PathItem{Get: op(d)}) },
		"operation missing":  func(d *openapi3.T) { d.Paths.Delete("/v1/join-tokens") },
		"open object": func(d *openapi3.T) {
			d.Components.Schemas["JoinTokenInput"].Value.AdditionalProperties = openapi3.AdditionalProperties{}
		},
		"unknown keyword": func(d *openapi3.T) {
			d.Components.Schemas["JoinTokenInput"].Value.AnyOf = openapi3.SchemaRefs{{Value: openapi3.NewStringSchema()}}
		},
		"unknown format": func(d *openapi3.T) { d.Components.Schemas["Comment"].Value.Format = "email" },
		"no key":         func(d *openapi3.T) { op(d).Parameters = nil },
	} {
		t.Run(name, func(t *testing.T) {
			doc, err := loadContract()
			if err != nil {
				t.Fatal(err)
			}
			breaks(doc)
			if _, err := b.server.buildHandler(doc); err == nil {
				t.Error("the handler was built")
			}
		})
	}
	if _, err := b.server.buildHandler(mustContract(t)); err != nil {
		t.Errorf("the unbroken contract: %v", err)
	}
	if len(openapi.Document) == 0 {
		t.Error("no document")
	}
}

func op(d *openapi3.T) *openapi3.Operation {
	return d.Paths.Value("/v1/join-tokens").GetOperation(http.MethodPost)
}

func mustContract(t testing.TB) *openapi3.T {
	t.Helper()
	doc, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}
