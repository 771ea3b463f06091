package jsondoc_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/jsondoc"
)

// read walks a document of {"text": "", "number": 1, "flag": true, "list": [...], "any": ...}.
func read(b []byte) (texts []string, raw string, err error) {
	r := jsondoc.New(b, "/doc")
	r.Object(func(name string) {
		switch name {
		case "text":
			texts = append(texts, r.Text())
		case "number":
			r.Int(10)
		case "flag":
			r.Bool()
		case "list":
			if !r.Null() {
				r.Array(func() { texts = append(texts, r.Text()) })
			}
		case "any":
			b, _ := r.Raw()
			raw = string(b)
		case "skip":
			r.Skip()
		default:
			r.Unknown()
		}
	})
	r.End()
	return texts, raw, r.Err()
}

func TestReader(t *testing.T) {
	texts, raw, err := read([]byte(` {"text": "a", "number": 10, "flag": false, "list": ["b", "c"], "any": {"x": [1, 2]}, "skip": [[]]} `))
	if err != nil || strings.Join(texts, "") != "abc" || raw != `{"x": [1, 2]}` {
		t.Errorf("%q %q %v", texts, raw, err)
	}
	if _, _, err := read([]byte(`{"list": null}`)); err != nil {
		t.Error(err)
	}
	for body, place := range map[string]string{
		``: "/doc", `[]`: "/doc", `{"text": 1}`: "/doc/text", `{"number": "1"}`: "/doc/number", `{"number": 11}`: "/doc/number", `{"number": -1}`: "/doc/number",
		`{"number": 1.5}`: "/doc/number", `{"flag": 1}`: "/doc/flag", `{"list": {}}`: "/doc/list", `{"list": ["a", 1]}`: "/doc/list/1", `{"x~/": 1}`: "/doc/x~0~1",
		`{"text": "a", "text": "b"}`: "/doc/text", `{"any": {"a": 1, "a": 2}}`: "/doc/any/a", `{"skip": {"a": 1, "a": 2}}`: "/doc/skip/a",
		`{} x`: "/doc", `{"text": "a"`: "/doc", "{\"text\": \"\xff\"}": "/doc/text", `{"any": ` + strings.Repeat("[", 20000): ("/doc/any" + strings.Repeat("/0", 9998))[:1024],
	} {
		_, _, err := read([]byte(body))
		var e *baseline.ImportError
		if !errors.As(err, &e) || e.Kind != baseline.ImportMalformed || e.Element != place {
			t.Errorf("%.40s: %.80v, not at %.40s", body, err, place)
		}
	}
}

// Elements are counted over the whole document, those of values that are taken as they are too.
func TestElementsAreCounted(t *testing.T) {
	half := strings.TrimSuffix(strings.Repeat(`"",`, jsondoc.MaxElements/2), ",")
	for body, fits := range map[string]bool{
		`{"list": [` + half + `]}`:                            true,
		`{"list": [` + half + `,` + half + `]}`:               false,
		`{"any": [` + half + `], "list": [` + half + `]}`:     false,
		`{"any": [` + half + `,` + half + `]}`:                false,
		`{"any": {"a": [` + half + `], "b": [` + half + `]}}`: false,
	} {
		_, _, err := read([]byte(body))
		var e *baseline.ImportError
		if fits != (err == nil) || err != nil && (!errors.As(err, &e) || e.Kind != baseline.ImportTooLarge) {
			t.Errorf("%.40s…: %v", body, err)
		}
	}
}

func TestFirstOf(t *testing.T) {
	wanted := func(name string) bool { return name == "b" || name == "c" }
	for body, want := range map[string]string{`{"a": {"b": 1}, "c": 1, "b": 2}`: "c", `{"a": 1}`: "", `[]`: "", `{`: "", `{"a": x, "b": 1}`: ""} {
		if got := jsondoc.FirstOf([]byte(body), wanted); got != want {
			t.Errorf("%s: %q", body, got)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"text": "a", "number": 10, "flag": false, "list": ["b", "c"], "any": {"x": [1, 2]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, err := read(b)
		var e *baseline.ImportError
		if err != nil && (!errors.As(err, &e) || !strings.HasPrefix(e.Element, "/doc")) {
			t.Fatalf("%v", err)
		}
		jsondoc.FirstOf(b, func(name string) bool { return name == "any" })
	})
}
