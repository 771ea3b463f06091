package verifier_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
)

// BenchmarkAppraise is the judgement of workload W1: a known log, a golden baseline, an RSA-2048 quote.
func BenchmarkAppraise(b *testing.B) {
	c := loadCapture(b, "sb-on-1", "rsassa", "sha256")
	in := c.inputs(b)
	in.Candidates = golden(b, "sb-on-1", "sha256")
	c.ev.EventLog = nil
	b.ReportAllocs()
	for b.Loop() {
		if a := verifier.Appraise(c.ev, in); a.Status != verifier.Affirming {
			b.Fatal(a.Status, a.Checks)
		}
	}
}

// BenchmarkAppraiseFreshLog is that of workload W2: the log is parsed and its meaning drawn anew.
func BenchmarkAppraiseFreshLog(b *testing.B) {
	c := loadCapture(b, "sb-on-1", "rsassa", "sha256")
	in := c.inputs(b)
	in.Candidates = golden(b, "sb-on-1", "sha256")
	b.SetBytes(int64(len(c.ev.EventLog)))
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if in.Log, err = eventlog.Parse(c.ev.EventLog); err != nil {
			b.Fatal(err)
		}
		if a := verifier.Appraise(c.ev, in); a.Status != verifier.Affirming {
			b.Fatal(a.Status, a.Checks)
		}
	}
}

// BenchmarkAppraisalJSON compares the two ways to an appraisal's JSON form.
func BenchmarkAppraisalJSON(b *testing.B) {
	c := loadCapture(b, "sb-on-1", "rsassa", "sha256")
	a := verifier.Appraise(c.ev, c.inputs(b))
	for name, f := range map[string]func() ([]byte, error){
		"AppendJSON": func() ([]byte, error) { return a.AppendJSON(nil) },
		"Marshal":    func() ([]byte, error) { return json.Marshal(a) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				raw, err := f()
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(raw)))
			}
		})
	}
}

// AppendJSON writes what json.Marshal writes: of every captured boot, healthy or deviating, with and without
// a log, with texts that need escapes, and of no evidence at all.
func TestAppendJSONIsTheJSONForm(t *testing.T) {
	same := func(t *testing.T, a *verifier.Appraisal) {
		t.Helper()
		fast, err := a.AppendJSON(nil)
		if err != nil {
			t.Fatal(err)
		}
		slow, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var got, want any
		if err := json.Unmarshal(fast, &got); err != nil {
			t.Fatalf("%v in %s", err, fast)
		}
		if err := json.Unmarshal(slow, &want); err != nil {
			t.Fatal(err)
		}
		// One more round makes both texts of one form: keys in order, no escapes that need not be.
		g, _ := json.Marshal(got)
		w, _ := json.Marshal(want)
		if string(g) != string(w) {
			t.Fatalf("AppendJSON\n%s\njson.Marshal\n%s", g, w)
		}
	}
	candidates := golden(t, "sb-on-1", "sha256")
	entries, err := os.ReadDir(boots)
	if err != nil {
		t.Fatal(err)
	}
	deviating := 0
	for _, e := range entries {
		quote := filepath.Join(boots, e.Name(), "evidence", "quote-rsassa-sha256.tpms_attest")
		if _, err := os.Stat(quote); err != nil {
			continue
		}
		c := loadCapture(t, e.Name(), "rsassa", "sha256")
		in := c.inputs(t)
		in.Candidates = candidates
		a := verifier.Appraise(c.ev, in)
		same(t, a)
		if len(a.Deviations) > 0 {
			deviating++
		}
		in.Log = nil
		same(t, verifier.Appraise(c.ev, in))
	}
	if deviating == 0 {
		t.Fatal("no captured boot deviates: nothing was shown of deviations")
	}
	c := loadCapture(t, "sb-on-1", "rsassa", "sha256")
	a := verifier.Appraise(c.ev, c.inputs(t))
	a.Checks[0].Detail = "quotes \" and \\, <tags> & \u2028, \x00 and \xff bytes"
	a.Claims.IMA = &verifier.IMAClaims{Entries: 3}
	a.Claims.TPM.Banks = nil
	same(t, a)
	same(t, &verifier.Appraisal{Checks: []verifier.Check{}, Deviations: []verifier.Deviation{}})
}
