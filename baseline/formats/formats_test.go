package formats_test

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/formats"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// specimens by the media type that they are.
var specimens = map[string]string{
	"../keylime/testdata/example_reference_state.json":    "application/vnd.keylime.mb-refstate+json",
	"../keylime/testdata/runtime-policy-test.json":        "application/vnd.keylime.runtime-policy+json",
	"../keylime/testdata/runtime-policy-test-signed.json": "application/vnd.dsse.envelope.v1+json",
	"../systemd/testdata/measure.json":                    "application/vnd.systemd.measure+json",
	"../systemd/testdata/pcrsig.json":                     "application/vnd.systemd.pcrsig+json",
	"../../verifier/testdata/gce-cos-85-nonce9009.pb":     "application/x-protobuf",
}

func TestGuess(t *testing.T) {
	for name, want := range specimens {
		if got := formats.Guess(read(t, name)); got != want {
			t.Errorf("%s: %q, not %q", name, got, want)
		}
	}
	for body, want := range map[string]string{
		`{"records": []}`:            "application/vnd.systemd.pcrlock+json",
		`{"pcrs": {}, "events": []}`: "application/vnd.assay.reference-values+json",
		`{"pcrs": {}, "quotes": []}`: "application/vnd.assay.evidence+json",
		` {"enrollment": {}}`:        "application/vnd.assay.evidence+json",
		"\x0a\x01a\x12\x01b":         "application/vnd.google.vm-launch-endorsement",
		`{}`:                         "", `[]`: "", "": "", "\x00": "", "<xml/>": "application/swid+xml", "\xd2\x84": "application/rim+cose", "\xd9\x01\xf5\xa0": "application/rim+cbor",
	} {
		if got := formats.Guess([]byte(body)); got != want {
			t.Errorf("%q: %q, not %q", body, got, want)
		}
	}
	for _, media := range specimens {
		if !slices.Contains(formats.MediaTypes(), media) {
			t.Errorf("%s is not listed", media)
		}
	}
}

func TestImport(t *testing.T) {
	values := []byte(`{"claims": {"secure_boot": true}}`)
	out, err := formats.Import("application/json", &formats.Request{Document: values})
	if err != nil || out.Format != "assay" || out.Signer != nil {
		t.Errorf("%+v, %v", out, err)
	}
	measure := read(t, "../systemd/testdata/measure.json")
	for name, c := range map[string]struct {
		media, kind string
		request     formats.Request
	}{
		"empty":                 {"application/json", baseline.ImportMalformed, formats.Request{}},
		"too large":             {"application/json", baseline.ImportTooLarge, formats.Request{Document: bytes.Repeat([]byte(" "), formats.MaxDocument+1)}},
		"of no type":            {"text/plain", baseline.ImportUnsupported, formats.Request{Document: values}},
		"of no known content":   {"application/octet-stream", baseline.ImportUnsupported, formats.Request{Document: []byte("x")}},
		"support where none is": {"application/json", baseline.ImportMalformed, formats.Request{Document: values, Support: map[string][]byte{"a": nil}}},
		"too much support":      {"application/vnd.systemd.pcrsig+json", baseline.ImportMalformed, formats.Request{Document: read(t, "../systemd/testdata/pcrsig.json"), Support: map[string][]byte{"a": measure, "b": measure}}},
		"signature untrusted":   {"application/vnd.systemd.pcrsig+json", baseline.ImportUntrusted, formats.Request{Document: read(t, "../systemd/testdata/pcrsig.json"), Support: map[string][]byte{"a": measure}}},
		"values that fit none":  {"application/json", baseline.ImportMalformed, formats.Request{Document: []byte(`{"claims": {"what": 1}}`)}},
		"values given twice":    {"application/json", baseline.ImportMalformed, formats.Request{Document: []byte(`{"claims": {}, "claims": {}}`)}},
	} {
		_, err := formats.Import(c.media, &c.request)
		var e *baseline.ImportError
		if !errors.As(err, &e) || e.Kind != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzImport(f *testing.F) {
	for name := range specimens {
		f.Add(read(f, name))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, media := range formats.MediaTypes() {
			_, err := formats.Import(media, &formats.Request{Document: b, Trust: &baseline.ImportTrust{}})
			var e *baseline.ImportError
			if err != nil && (!errors.As(err, &e) || e.Kind == "") {
				t.Fatalf("%s: %v", media, err)
			}
		}
	})
}
