package attest

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/bundle"
	"github.com/assay-verifier/assay/verifier/chain"
)

func (b *bench) bundle(req BundleRequest) []byte {
	b.t.Helper()
	out, err := b.PrepareBundle(b.ctx, b.tenant, req)
	if err != nil {
		b.t.Fatal(err)
	}
	var raw bytes.Buffer
	if err := out.Write(b.ctx, &raw); err != nil {
		b.t.Fatal(err)
	}
	return raw.Bytes()
}

func (b *bench) checkpointed() {
	b.t.Helper()
	if _, err := b.Checkpoint(b.ctx, b.tenant, 0, admin); err != nil {
		b.t.Fatal(err)
	}
}

// check checks a bundle as somebody does who has the service's keys.
func (b *bench) check(raw []byte) (bundle.Summary, []bundle.Result) {
	b.t.Helper()
	set, err := b.token.JWKS(b.ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	keys, err := relying.ParseKeySet(set.Document)
	if err != nil {
		b.t.Fatal(err)
	}
	r, err := bundle.Open(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		b.t.Fatal(err)
	}
	var results []bundle.Result
	sum, err := bundle.Check(b.ctx, r, func(jws string) ([]byte, error) { return relying.VerifyCheckpoint(jws, keys) },
		func(res bundle.Result) error { results = append(results, res); return nil })
	if err != nil {
		b.t.Fatal(err)
	}
	return sum, results
}

// Tests that leave behind what cannot be judged again, or is not what was judged, with the reason.
var unbundled = map[string]string{
	"TestBundleWithoutEvidence":        "deletes evidence",
	"TestStoredIncrementOfAnIMAList":   "deletes evidence",
	"TestEnrolJudgesTheCertificateNow": "its clock stands before the service's keys",
}

// agrees judges all that a test recorded again, elsewhere: whatever was judged here has to come out the same there.
func (b *bench) agrees() {
	name, _, _ := strings.Cut(b.t.Name(), "/")
	if _, isTest := b.t.(*testing.T); !isTest || b.t.Failed() || unbundled[name] != "" || b.store.Ping(b.ctx) != nil {
		return
	}
	b.checkpointed()
	sum, results := b.check(b.bundle(BundleRequest{}))
	for _, r := range results {
		if r.Outcome != bundle.Agreed || r.Note != "" || len(r.Faults) > 0 {
			b.t.Errorf("judged again elsewhere: %+v", r)
		}
	}
	if sum.Faults != 0 || sum.Uncovered != 0 || !sum.AllMachines || sum.Covered != sum.Verdicts {
		b.t.Errorf("the bundle of the whole test: %+v", sum)
	}
}

// story is a machine with five verdicts: learned, deviating, back, and twice more, and a checkpoint.
func story(t *testing.T) (*bench, *machine) {
	b := newBench(t)
	b.policy(func(p *verifier.Policy) { p.LearnFirstBoot, p.RequireBaseline = true, true })
	m := b.enrolled("sb-on-1")
	expect(t, b.attest(m), verifier.Affirming, verifier.NoReason)
	for i, boot := range []string{"cmdline", "sb-on-1", "cmdline", "sb-on-1"} {
		b.wait(time.Minute)
		m.reboot(specimen(t, boot, bootLog))
		want, why := verifier.Affirming, verifier.NoReason
		if i%2 == 0 {
			want, why = verifier.Contraindicated, verifier.BaselineDeviation
		}
		expect(t, b.attest(m), want, why)
		b.wait(time.Minute)
		b.attest(m)
	}
	b.checkpointed()
	return b, m
}

// What a bundle holds is judged again elsewhere with the same result, and the same verdicts are the same bytes.
func TestBundleIsJudgedAgain(t *testing.T) {
	b, m := story(t)
	raw := b.bundle(BundleRequest{})
	sum, results := b.check(raw)
	if sum.Verdicts != 5 || sum.Agreed != 5 || sum.Faults != 0 || sum.Covered != 5 || !sum.AllMachines || sum.Checkpoint == nil || len(results) != 5 {
		t.Errorf("%+v\n%+v", sum, results)
	}
	if again := b.bundle(BundleRequest{}); !bytes.Equal(raw, again) {
		t.Error("the same verdicts gave other bytes")
	}
	// Part of the time: what lies between in the chain, and no more.
	since, until := b.now().Add(-6*time.Minute), b.now().Add(-2*time.Minute)
	part, _ := b.check(b.bundle(BundleRequest{Machine: &m.id, Since: &since, Until: &until}))
	if part.Verdicts == 0 || part.Verdicts >= 5 || part.Agreed != part.Verdicts || part.Faults != 0 {
		t.Errorf("a part: %+v", part)
	}
	// After the checkpoint.
	b.wait(time.Minute)
	m.reboot(specimen(t, "cmdline", bootLog))
	b.attest(m)
	if sum, _ := b.check(b.bundle(BundleRequest{})); sum.Uncovered != 1 || sum.Covered != 5 || sum.Faults != 0 {
		t.Errorf("with a tail: %+v", sum)
	}
	b.bundleVerdicts = 5
	if _, err := b.PrepareBundle(b.ctx, b.tenant, BundleRequest{}); err == nil || !strings.Contains(err.Error(), "6 verdicts") {
		t.Errorf("too large: %v", err)
	}
	b.bundleVerdicts = maxBundleVerdicts
}

// Evidence that retention has deleted is said to be missing: that is no agreement, and no fault.
func TestBundleWithoutEvidence(t *testing.T) {
	b, _ := story(t)
	conn, err := pgx.Connect(b.ctx, b.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(b.ctx) }()
	if _, err := conn.Exec(b.ctx, `DELETE FROM evidence WHERE verdict_id = (SELECT verdict_id FROM verdicts WHERE seq = 2)`); err != nil {
		t.Fatal(err)
	}
	sum, results := b.check(b.bundle(BundleRequest{}))
	if sum.Agreed != 4 || sum.NotJudged != 1 || sum.Faults != 0 || results[1].Outcome != bundle.NotJudged || !strings.Contains(results[1].Why, "not held any more") {
		t.Errorf("%+v %+v", sum, results[1])
	}
}

// entry is one file of a bundle.
type entry struct {
	name string
	body []byte
}

func unpack(t testing.TB, raw []byte) []entry {
	t.Helper()
	archive, err := zip.NewReader(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	var out []entry
	for _, f := range archive.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, entry{f.Name, body})
	}
	return out
}

func pack(t testing.TB, entries []entry) []byte {
	t.Helper()
	var raw bytes.Buffer
	w := zip.NewWriter(&raw)
	for _, e := range entries {
		f, err := w.Create(e.name)
		if err == nil {
			_, err = f.Write(e.body)
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

// Whatever is changed in a bundle is found and named.
func TestTamperedBundleIsFound(t *testing.T) {
	b, m := story(t)
	whole := b.bundle(BundleRequest{})
	folder := func(seq int) string { return fmt.Sprintf("machines/%s/%012d/", m.id, seq) }
	edit := func(entries []entry, name string, change func([]byte) []byte) []entry {
		done := false
		for i := range entries {
			if strings.HasPrefix(entries[i].name, name) && !done {
				entries[i].body, done = change(bytes.Clone(entries[i].body)), true
			}
		}
		if !done {
			t.Fatalf("no entry %s", name)
		}
		return entries
	}
	replace := func(old, with string) func([]byte) []byte {
		return func(body []byte) []byte {
			if !bytes.Contains(body, []byte(old)) {
				t.Fatalf("no %q in %.300s", old, body)
			}
			return bytes.Replace(body, []byte(old), []byte(with), 1)
		}
	}
	drop := func(entries []entry, prefix string) []entry {
		return slices.DeleteFunc(entries, func(e entry) bool { return strings.HasPrefix(e.name, prefix) })
	}
	field := func(name string, value any) func([]byte) []byte {
		return func(body []byte) []byte {
			var doc map[string]any
			if err := json.Unmarshal(body, &doc); err != nil {
				t.Fatal(err)
			}
			doc[name] = value
			out, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			return out
		}
	}
	swap := func(entries []entry, a, b string) []entry {
		for i := range entries {
			switch name := entries[i].name; {
			case strings.HasPrefix(name, a):
				entries[i].name = b + strings.TrimPrefix(name, a)
			case strings.HasPrefix(name, b):
				entries[i].name = a + strings.TrimPrefix(name, b)
			}
		}
		return entries
	}
	for name, c := range map[string]struct {
		tamper func([]entry) []entry
		kind   string // of the first fault
		at     string // in its entry
	}{
		"a bit of evidence": {func(e []entry) []entry {
			return edit(e, folder(3)+"evidence", func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		}, bundle.FaultAltered, folder(3) + "evidence"},
		"evidence of another verdict": {func(e []entry) []entry {
			i := slices.IndexFunc(e, func(x entry) bool { return x.name == folder(1)+"evidence" })
			return edit(e, folder(3)+"evidence", func([]byte) []byte { return e[i].body })
		}, bundle.FaultAltered, folder(3) + "evidence"},
		"a status": {func(e []entry) []entry {
			return edit(e, folder(2)+"verdict.json", replace(`"contraindicated"`, `"affirming"`))
		}, bundle.FaultHash, folder(2)},
		"a time": {func(e []entry) []entry {
			return edit(e, folder(2)+"verdict.json", field("first_at", "2020-01-01T00:00:00Z"))
		}, bundle.FaultHash, folder(2)},
		"an appraisal": {func(e []entry) []entry {
			return edit(e, folder(2)+"appraisal.json", replace(`"status":"contraindicated"`, `"status":"affirming"`))
		}, bundle.FaultHash, folder(2)},
		"what it was judged with": {func(e []entry) []entry {
			return edit(e, folder(2)+"judged-by.json", replace(`"require_baseline":true`, `"require_baseline":false`))
		}, bundle.FaultHash, folder(2)},
		"a middle verdict dropped": {func(e []entry) []entry { return drop(e, folder(3)) }, bundle.FaultMissing, "machine.json"},
		"the last verdict dropped": {func(e []entry) []entry { return drop(e, folder(5)) }, bundle.FaultMissing, "machine.json"},
		"the last verdict dropped, and the machine's entry made to fit": {func(e []entry) []entry {
			return edit(drop(e, folder(5)), "machines/"+m.id.String()+"/machine.json", field("last_seq", 4))
		}, bundle.FaultHead, "machine.json"},
		"two verdicts exchanged": {func(e []entry) []entry { return swap(e, folder(2), folder(4)) }, bundle.FaultPlace, folder(2)},
		"how long one held":      {func(e []entry) []entry { return edit(e, folder(2)+"verdict.json", field("count", 99)) }, bundle.FaultRun, folder(3)},
		"a machine dropped":      {func(e []entry) []entry { return drop(e, "machines/") }, bundle.FaultMissing, "bundle.json"},
		"reference values exchanged": {func(e []entry) []entry {
			return edit(e, "reference-values/", func([]byte) []byte { return []byte(`{"pcrs":{}}`) })
		}, bundle.FaultAltered, "reference-values/"},
		"a checkpoint forged": {func(e []entry) []entry {
			return edit(e, "checkpoint.json", func(body []byte) []byte {
				var s bundle.Signed
				if err := json.Unmarshal(body, &s); err != nil {
					t.Fatal(err)
				}
				parts := strings.Split(s.JWS, ".")
				s.JWS = parts[0] + "." + parts[1][:len(parts[1])-4] + "AAAA." + parts[2]
				out, _ := json.Marshal(s)
				return out
			})
		}, bundle.FaultCheckpoint, "checkpoint.json"},
		"a result in place of a checkpoint": {func(e []entry) []entry {
			result, err := b.token.Sign(b.ctx, "", map[string]any{"format": "assay-checkpoint-v1"})
			if err != nil {
				t.Fatal(err)
			}
			return edit(e, "checkpoint.json", field("jws", result))
		}, bundle.FaultCheckpoint, "checkpoint.json"},
		"a proof": {func(e []entry) []entry {
			return edit(e, "machines/"+m.id.String()+"/machine.json", replace(`"seq":5`, `"seq":4`))
		}, bundle.FaultHead, "machine.json"},
		"a history made anew as a whole": {func(e []entry) []entry { return rehashed(t, e, b.tenant.String(), folder) }, bundle.FaultHead, folder(5)},
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			sum, results := b.check(pack(t, c.tamper(unpack(t, whole))))
			var found []bundle.Fault
			for _, r := range results {
				found = append(found, r.Faults...)
			}
			if len(found) == 0 || sum.Faults == 0 {
				t.Fatalf("it was not found: %+v", sum)
			}
			if !slices.ContainsFunc(found, func(f bundle.Fault) bool { return f.Kind == c.kind && strings.Contains(f.Entry, c.at) }) {
				t.Errorf("found %+v, want %s at %s", found, c.kind, c.at)
			}
		})
	}
	b.t = t
}

// rehashed turns the second verdict into a good one and computes all later hashes anew, as somebody can who has the database.
func rehashed(t testing.TB, entries []entry, tenant string, folder func(int) string) []entry {
	t.Helper()
	var previous string
	for seq := 2; seq <= 5; seq++ {
		var v bundle.Verdict
		var appraisal, judgedBy []byte
		at := -1
		for i, e := range entries {
			switch e.name {
			case folder(seq) + "verdict.json":
				at = i
				if err := json.Unmarshal(e.body, &v); err != nil {
					t.Fatal(err)
				}
			case folder(seq) + "appraisal.json":
				appraisal = e.body
			case folder(seq) + "judged-by.json":
				judgedBy = e.body
			}
		}
		if seq == 2 {
			v.Status, v.Reason = "affirming", ""
		} else {
			v.PrevHash = previous
		}
		link := chain.Verdict{TenantID: tenant, MachineID: v.MachineID, VerdictID: v.VerdictID, Seq: v.Seq, Status: v.Status, Reason: v.Reason, Assurance: v.Assurance, Genuine: v.Genuine,
			FirstAt: v.FirstAt, KeyID: v.KeyID, Trigger: v.Trigger, Appraisal: appraisal, JudgedBy: judgedBy, EventLogDigest: unhex(t, v.EventLogDigest), EvidenceDigest: unhex(t, v.EvidenceDigest),
			PreviousLastAt: *v.PreviousLastAt, PreviousCount: *v.PreviousCount, PrevHash: unhex(t, v.PrevHash)}
		hash := link.Hash()
		v.Hash = fmt.Sprintf("%x", hash)
		previous = v.Hash
		body, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		entries[at].body = body
	}
	return entries
}

func unhex(t testing.TB, text string) (out []byte) {
	t.Helper()
	if text == "" {
		return nil
	}
	if _, err := fmt.Sscanf(text, "%x", &out); err != nil {
		t.Fatal(err)
	}
	return out
}
