package bundle_test

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/bundle"
	"github.com/assay-verifier/assay/verifier/chain"
)

const (
	tenant  = "01900000-0000-7000-8000-000000000001"
	machine = "01930000-0000-7000-8000-000000000001"
)

// small is a bundle of two verdicts of one machine, whose evidence proves nothing.
func small(t testing.TB) []byte {
	t.Helper()
	var raw bytes.Buffer
	w, err := bundle.NewWriter(&raw, bundle.Header{TenantID: tenant})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Machine(bundle.Machine{MachineID: machine, Name: "web-1", From: 1, To: 2}); err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	var previous []byte
	for seq := int64(1); seq <= 2; seq++ {
		v := chain.Verdict{TenantID: tenant, MachineID: machine, VerdictID: fmt.Sprintf("01930000-0000-7000-8000-00000000001%d", seq), Seq: seq, Status: "none", FirstAt: at,
			Appraisal: []byte(`{"status":"none","policy":{"id":"p","version":1}}`), JudgedBy: []byte(`{"policy":{"id":"p","version":1},"policy_document":{}}`),
			PreviousLastAt: at, PreviousCount: 3, PrevHash: previous}
		evidence := fmt.Appendf(nil, `{"quotes":[],"seq":%d}`, seq)
		v.EvidenceDigest = chainDigest(evidence)
		hash := v.Hash()
		if err := w.Verdict(&v, bundle.Held{Hash: hash[:], LastAt: at, Count: 3, EvidenceType: "application/json", Evidence: evidence}); err != nil {
			t.Fatal(err)
		}
		previous = hash[:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return raw.Bytes()
}

func chainDigest(b []byte) []byte {
	var out []byte
	_, _ = fmt.Sscanf(bundle.Digest(b), "%x", &out)
	return out
}

var errNoKey = errors.New("no key is trusted here")

func check(r *bundle.Reader) (bundle.Summary, error) {
	return bundle.Check(context.Background(), r, func(string) ([]byte, error) { return nil, errNoKey }, func(bundle.Result) error { return nil })
}

// FuzzBundle: whatever is handed in, nothing panics, and nothing agrees that was not in the seed.
func FuzzBundle(f *testing.F) {
	f.Add(small(f))
	f.Add([]byte("PK\x05\x06" + strings.Repeat("\x00", 18)))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := bundle.Open(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			var e *bundle.Error
			if !errors.As(err, &e) {
				t.Fatalf("the error is %T", err)
			}
			return
		}
		sum, err := check(r)
		if err != nil || sum.Agreed > 0 {
			t.Errorf("%+v, %v", sum, err)
		}
	})
}

func TestEvidenceThatCannotBeDecodedIsNoAgreement(t *testing.T) {
	raw := small(t)
	r, err := bundle.Open(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	sum, err := check(r)
	if err != nil || sum.NotJudged != 2 || sum.Faults != 2 || sum.Checkpoint != nil {
		t.Errorf("%+v, %v", sum, err)
	}
}

// Archives that are no bundles are refused before anything is unpacked, with the entry that is wrong.
func TestHostileArchives(t *testing.T) {
	archive := func(entries ...string) []byte { // name, content, …
		var raw bytes.Buffer
		w := zip.NewWriter(&raw)
		for i := 0; i < len(entries); i += 2 {
			e, err := w.CreateHeader(&zip.FileHeader{Name: entries[i], Method: zip.Deflate})
			if err == nil {
				_, err = e.Write([]byte(entries[i+1]))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return raw.Bytes()
	}
	const header = `{"format":"assay-bundle-v1","tenant_id":"` + tenant + `"}`
	folder := "machines/" + machine + "/000000000001/"
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"nothing":            {nil, "ZIP"},
		"a text":             {[]byte("no archive"), "ZIP"},
		"no header":          {archive(), "not in the bundle"},
		"another format":     {archive("bundle.json", `{"format":"x","tenant_id":""}`), "the format"},
		"an unknown member":  {archive("bundle.json", `{"format":"assay-bundle-v1","tenant_id":"","x":1}`), "bundle.json"},
		"a member twice":     {archive("bundle.json", `{"format":"assay-bundle-v1","format":"assay-bundle-v1","tenant_id":""}`), "bundle.json"},
		"a path upwards":     {archive("bundle.json", header, "../bundle.json", ""), "no entry of this name"},
		"an absolute path":   {archive("bundle.json", header, "/etc/passwd", ""), "no entry of this name"},
		"a backslash":        {archive("bundle.json", header, `machines\x`, ""), "no entry of this name"},
		"upper case":         {archive("bundle.json", header, "machines/"+strings.ToUpper(machine[:35])+"A/machine.json", "{}"), "no entry of this name"},
		"an entry twice":     {archive("bundle.json", header, "bundle.json", header), "twice"},
		"beside no verdict":  {archive("bundle.json", header, folder+"evidence", "x"), "no verdict.json"},
		"an entry too large": {archive("bundle.json", header, "machines/"+machine+"/machine.json", strings.Repeat(" ", 64<<10+1)), "more than"},
		"cut off":            {small(t)[:500], "ZIP"},
	} {
		_, err := bundle.Open(bytes.NewReader(c.raw), int64(len(c.raw)))
		var e *bundle.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// An archive that unpacks to more than a bundle does is refused by what its list says; one whose list lies is refused at the entry.
func TestBombs(t *testing.T) {
	var raw bytes.Buffer
	w := zip.NewWriter(&raw)
	w.RegisterCompressor(zip.Deflate, func(out io.Writer) (io.WriteCloser, error) { return flate.NewWriter(out, flate.BestCompression) })
	zeros := make([]byte, 16<<20)
	for i := range 8 {
		e, err := w.CreateHeader(&zip.FileHeader{Name: fmt.Sprintf("event-logs/%064x", i), Method: zip.Deflate})
		if err == nil {
			_, err = e.Write(zeros)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Open(bytes.NewReader(raw.Bytes()), int64(raw.Len())); err == nil || !strings.Contains(err.Error(), "times its size") {
		t.Errorf("a bomb: %v", err)
	}

	lying := small(t)
	list := bytes.Index(lying, []byte("PK\x01\x02")) // the list's first entry is bundle.json
	binary.LittleEndian.PutUint32(lying[list+24:], 7)
	if _, err := bundle.Open(bytes.NewReader(lying), int64(len(lying))); err == nil {
		t.Error("a list that lies about a size was believed")
	}
}
