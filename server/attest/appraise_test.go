package attest

import (
	"encoding/base64"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

func nothing(store.Machine) finding.Result { return finding.Result{} }

func checkOf(a *verifier.Appraisal, code verifier.CheckCode) verifier.Check {
	for _, c := range a.Checks {
		if c.Code == code {
			return c
		}
	}
	return verifier.Check{}
}

func (b *bench) alerts(m *machine) []store.Alert {
	b.t.Helper()
	items, _, err := b.store.ListAlerts(b.ctx, b.tenant, store.AlertFilter{MachineID: &m.id, IncludeSuppressed: true}, store.Page{}, b.now())
	if err != nil {
		b.t.Fatal(err)
	}
	return items
}

// expect fails unless a result has this status and reason.
func expect(t testing.TB, r *Result, status verifier.Status, reason verifier.Reason) {
	t.Helper()
	if r.Appraisal.Status != status || r.Appraisal.Reason != reason {
		t.Fatalf("verdict %s %q, want %s %q: %s", r.Appraisal.Status, r.Appraisal.Reason, status, reason, firstFailure(r.Appraisal))
	}
}

// A healthy machine: affirming, recorded, signed, and the next challenge comes with the answer.
func TestHealthyMachine(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	r := b.attest(m)
	expect(t, r, verifier.Affirming, verifier.NoReason)
	if !r.New || r.MachineID != m.id || !r.ReceivedAt.Equal(b.now()) || r.NextAttestationAfterSeconds < 150 || r.NextAttestationAfterSeconds > 300 || len(r.Appraisal.Checks) != 15 {
		t.Errorf("%+v", r)
	}
	stored, err := b.store.GetVerdict(b.ctx, b.tenant, r.ID)
	if err != nil || stored.Appraisal.Status != verifier.Affirming || stored.MachineID != m.id || stored.Count != 1 {
		t.Errorf("stored %+v, %v", stored, err)
	}
	claims, err := b.token.Verify(b.ctx, r.ResultToken)
	if err != nil || claims.VerdictID != r.ID.String() || claims.ID == "" || claims.Subject != m.id.String() {
		t.Fatalf("result token %+v, %v", claims, err)
	}
	if machine, err := claims.Machine(); err != nil || machine.Status != "affirming" {
		t.Errorf("result token %+v, %v", machine, err)
	}
	if *claims.Expires != b.now().Add(300*time.Second).Unix() || claims.Issuer != "https://assay.test" || !strings.Contains(string(claims.Raw), `"assay test"`) {
		t.Errorf("result token %s", claims.Raw)
	}
	c := r.NextChallenge
	if c == nil || c.KnownEventLog == nil || !strings.HasPrefix(*c.KnownEventLog, "sha256:") || len(c.PCRSelection["sha256"]) != 15 {
		t.Fatalf("next challenge %+v", c)
	}
	machine, err := b.store.GetMachine(b.ctx, b.tenant, m.id)
	if err != nil || machine.Status != verifier.Affirming || machine.Observed.SecureBoot == nil || !*machine.Observed.SecureBoot || machine.LastSeenAt == nil {
		t.Errorf("machine %+v, %v", machine, err)
	}
	assessments, _, err := b.store.ListAssessments(b.ctx, b.tenant, store.AssessmentFilter{MachineID: &m.id, Code: "guest_attestation_healthy"}, store.Page{})
	if err != nil || len(assessments) != 1 || assessments[0].Status != finding.Healthy {
		t.Errorf("assessments %+v, %v", assessments, err)
	}
	if a := b.alerts(m); len(a) != 0 {
		t.Errorf("alerts %+v", a)
	}
}

// In steady state one round trip is enough: the answer's challenge, the log by name; and the verdict is
// counted up instead of stored again.
func TestSteadyState(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	first := b.attest(m)
	before := b.rows()
	last := first
	for range 3 {
		b.wait(5 * time.Minute / 3)
		e := m.quote(last.NextChallenge.Nonce[:])
		e.EventLog, e.EventLogDigest = "", *last.NextChallenge.KnownEventLog
		r, err := b.post(m, e)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, verifier.Affirming, verifier.NoReason)
		if r.New || r.ID != first.ID {
			t.Fatalf("another verdict %s after %s: new %t", r.ID, first.ID, r.New)
		}
		last = r
	}
	b.sameRows(before)
	v, err := b.store.GetVerdict(b.ctx, b.tenant, first.ID)
	if err != nil || v.Count != 4 || !v.FirstAt.Equal(start) || !v.LastAt.Equal(b.now()) {
		t.Errorf("run %+v, %v", v, err)
	}
	// Another replica, with empty caches, reads the log from the store.
	e := m.quote(last.NextChallenge.Nonce[:])
	e.EventLog, e.EventLogDigest = "", *last.NextChallenge.KnownEventLog
	r, err := b.service().Appraise(b.ctx, b.tenant, m.id, "application/json", e.body(t), admin)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
}

// The same evidence twice: the second is a recorded verdict of unverified origin, with an alert, and does
// not move what is remembered.
func TestReplayedEvidence(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	e := m.quote(b.nonce(m))
	r, err := b.post(m, e)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
	inputs, err := b.store.AppraisalInputs(b.ctx, b.tenant, m.id, b.now())
	if err != nil {
		t.Fatal(err)
	}
	replay, err := b.post(m, e)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, replay, verifier.Contraindicated, verifier.OriginUnverified)
	if c := checkOf(replay.Appraisal, verifier.CheckQuoteNonce); c.Status != verifier.Fail || c.Detail != faultUsed {
		t.Errorf("%+v", c)
	}
	after, err := b.store.AppraisalInputs(b.ctx, b.tenant, m.id, b.now())
	if err != nil || *after.LastClock != *inputs.LastClock || string(after.LastChallenge) != string(inputs.LastChallenge) {
		t.Errorf("the replay moved what is remembered: %+v, then %+v, %v", inputs.LastClock, after.LastClock, err)
	}
	claims, err := b.token.Verify(b.ctx, replay.ResultToken)
	if err != nil {
		t.Fatal(err)
	}
	if machine, err := claims.Machine(); err != nil || machine.Status != "contraindicated" {
		t.Errorf("%+v, %v", machine, err)
	}
	alerts := b.alerts(m)
	if len(alerts) != 1 || alerts[0].Code != "attestation_failed" || alerts[0].Reason != verifier.OriginUnverified || alerts[0].Count != 1 {
		t.Fatalf("alerts %+v", alerts)
	}
	// Once more: the same judgement, counted up, the alert too.
	again, err := b.post(m, e)
	if err != nil || again.New || again.ID != replay.ID {
		t.Errorf("%+v, %v", again, err)
	}
	if alerts := b.alerts(m); len(alerts) != 1 || alerts[0].Count != 2 {
		t.Errorf("alerts %+v", alerts)
	}
	// A fresh quote is healthy again, and the alert ends.
	expect(t, b.attest(m), verifier.Affirming, verifier.NoReason)
	if alerts := b.alerts(m); len(alerts) != 1 || alerts[0].Status != "resolved" {
		t.Errorf("alerts %+v", alerts)
	}
}

// An older challenge is not good any more once a later one has been answered.
func TestChallengesAreAnsweredInOrder(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	older := b.nonce(m)
	b.wait(time.Second)
	newer := b.nonce(m)
	e := m.quote(older)
	if r, err := b.post(m, m.quote(newer)); err != nil || r.Appraisal.Status != verifier.Affirming {
		t.Fatalf("%+v, %v", r, err)
	}
	r, err := b.post(m, e)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Contraindicated, verifier.OriginUnverified)
}

// A nonce that is not ours for this machine: refused, written to the audit record, and nothing else.
func TestUnknownChallenge(t *testing.T) {
	b := newBench(t)
	m, other := newMachine(t, "sb-on-1"), newMachine(t, "sb-on-1")
	b.trust(m, "ek")
	b.trust(other, "ek")
	b.enrol(m, "web-1")
	b.enrol(other, "web-2")
	forOther := m.quote(b.nonce(other))
	changed := b.nonce(m)
	changed[31] ^= 1
	for name, e := range map[string]*evidence{
		"made up":             m.quote([]byte("a nonce of my own choice, 32 byt")),
		"of another machine":  forOther,
		"with a changed byte": m.quote(changed),
		"too short":           m.quote([]byte("short")),
		"none":                m.quote(nil),
	} {
		before := b.rows()
		if _, err := b.post(m, e); code(err) != CodeUnknownChallenge {
			t.Errorf("%s: %v", name, err)
		}
		before["audit_events"]++
		b.sameRows(before)
	}
	// Evidence of one machine posted to another: the nonce is not that machine's.
	e := m.quote(b.nonce(m))
	if _, err := b.Appraise(b.ctx, b.tenant, other.id, "application/json", e.body(t), admin); code(err) != CodeUnknownChallenge {
		t.Errorf("to another machine: %v", err)
	}
	// A machine that signs another's challenge for it: ours for that machine, by the wrong key.
	r, err := b.post(other, m.quote(b.nonce(other)))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Contraindicated, verifier.OriginUnverified)
	if c := checkOf(r.Appraisal, verifier.CheckQuoteSignature); c.Status != verifier.Fail {
		t.Errorf("%+v", c)
	}
}

// A late answer is judged, and fails at the nonce; it redeems nothing.
func TestExpiredChallenge(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	e := m.quote(b.nonce(m))
	b.wait(119 * time.Second)
	inTime := m.quote(b.nonce(m))
	b.wait(time.Second)
	r, err := b.post(m, e)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Contraindicated, verifier.OriginUnverified)
	if c := checkOf(r.Appraisal, verifier.CheckQuoteNonce); c.Status != verifier.Fail || c.Detail != faultExpired {
		t.Errorf("%+v", c)
	}
	if r, err = b.post(m, inTime); err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
}

// Of several posts of one nonce at once exactly one counts.
func TestOneNonceOneVerdict(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	services := []*Service{b.Service, b.service(), b.service(), b.service()}
	for range 5 {
		body := m.quote(b.nonce(m)).body(t)
		results := make([]*Result, len(services))
		var wg sync.WaitGroup
		for i, s := range services {
			wg.Add(1)
			go func() {
				defer wg.Done()
				r, err := s.Appraise(b.ctx, b.tenant, m.id, "application/json", body, admin)
				if err != nil {
					t.Error(err)
					return
				}
				results[i] = r
			}()
		}
		wg.Wait()
		good := 0
		for _, r := range results {
			if r == nil {
				continue
			}
			if r.Appraisal.Status == verifier.Affirming {
				good++
			} else if r.Appraisal.Reason != verifier.OriginUnverified {
				t.Errorf("%s %s", r.Appraisal.Status, r.Appraisal.Reason)
			}
		}
		if good != 1 {
			t.Fatalf("%d of %d posts of one nonce were affirmed", good, len(results))
		}
		b.wait(time.Second)
	}
}

// Evidence that another TPM signed, or nobody, leaves the challenge to be answered by the machine.
func TestForgeryDoesNotRedeem(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	nonce := b.nonce(m)
	good := m.quote(nonce)
	forged := *good
	signature, err := base64.StdEncoding.DecodeString(good.Quotes[0]["signature"])
	if err != nil {
		t.Fatal(err)
	}
	signature[20] ^= 1
	forged.Quotes = []map[string]string{{"message": good.Quotes[0]["message"], "signature": base64.StdEncoding.EncodeToString(signature)}}
	r, err := b.post(m, &forged)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Contraindicated, verifier.OriginUnverified)
	if r, err = b.post(m, good); err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
}

// Every flipped byte of a quote, a signature or a claimed PCR value: never affirming, never accepted as
// genuine.
func TestFlippedBytes(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	try := func(name string, change func(e *evidence)) {
		t.Helper()
		e := m.quote(b.nonce(m))
		change(e)
		r, err := b.post(m, e)
		if err == nil && (r.Appraisal.Status == verifier.Affirming || r.Appraisal.Genuine) {
			t.Errorf("%s: %s", name, r.Appraisal.Status)
		}
		b.wait(time.Millisecond)
	}
	sample := m.quote(b.nonce(m))
	for _, field := range []string{"message", "signature"} {
		raw, err := base64.StdEncoding.DecodeString(sample.Quotes[0][field])
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(raw); i += 7 { // verifier/tpm flips every byte; this shows that nothing is lost on the way here
			try(field, func(e *evidence) {
				raw, err := base64.StdEncoding.DecodeString(e.Quotes[0][field])
				if err != nil {
					t.Fatal(err)
				}
				raw[i%len(raw)] ^= 0x40
				e.Quotes[0][field] = base64.StdEncoding.EncodeToString(raw)
			})
		}
	}
	try("pcr", func(e *evidence) { e.PCRs["sha256"]["4"] = strings.Repeat("00", 32) })
	try("pcr dropped", func(e *evidence) { delete(e.PCRs["sha256"], "4") })
	try("pcr added", func(e *evidence) { e.PCRs["sha256"]["23"] = strings.Repeat("00", 32) })
	try("log of another boot", func(e *evidence) {
		e.EventLog = base64.StdEncoding.EncodeToString(specimen(t, "cmdline", bootLog))
	})
	try("log that is no log", func(e *evidence) { e.EventLog = base64.StdEncoding.EncodeToString([]byte("garbage")) })
}

// A boot that has shown its log cannot hide it later; the next boot may have none.
func TestDroppedLog(t *testing.T) {
	b := newBench(t)
	b.policy(func(p *verifier.Policy) { p.RequireSecureBoot = false })
	m := b.enrolled("sb-on-1")
	expect(t, b.attest(m), verifier.Affirming, verifier.NoReason)
	log := m.log
	m.log = nil
	r := b.attest(m)
	expect(t, r, verifier.Contraindicated, verifier.OriginUnverified)
	if c := checkOf(r.Appraisal, verifier.CheckEventLogReplay); c.Status != verifier.Fail {
		t.Errorf("%+v", c)
	}
	m.reboot(log)
	m.log = nil
	expect(t, b.attest(m), verifier.None, verifier.NoReason)
}

// A request that does not fit is an error with its place, and stores nothing.
func TestRefusedEvidence(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	good := m.quote(b.nonce(m))
	unknownLog := *good
	unknownLog.EventLog, unknownLog.EventLogDigest = "", "sha256:"+strings.Repeat("ab", 32)
	noAttest := *good
	noAttest.Quotes = []map[string]string{{"message": "AAAA", "signature": good.Quotes[0]["signature"]}}
	offset := *good
	offset.IMALogOffset = 7
	before := b.rows()
	for name, c := range map[string]struct {
		contentType string
		body        []byte
		code        Code
		pointer     string
	}{
		"a log that is not held":      {"application/json", unknownLog.body(t), CodeEventLogRequired, "/event_log_digest"},
		"no TPMS_ATTEST":              {"application/json", noAttest.body(t), CodeInvalidField, "/quotes/0/message"},
		"an offset into nothing":      {"application/json", offset.body(t), CodeInvalidField, "/ima_log_offset"},
		"not JSON":                    {"application/json", []byte("{"), CodeMalformedJSON, ""},
		"an unknown field":            {"application/json", []byte(`{"nonce": "AAAA"}`), CodeUnknownField, "/nonce"},
		"no quotes":                   {"application/json", []byte(`{"quotes": [], "pcrs": {}}`), CodeInvalidField, "/quotes"},
		"another content type":        {"text/plain", good.body(t), CodeUnsupportedMedia, ""},
		"protobuf that is no message": {"application/x-protobuf", []byte{0xff, 0xff}, "malformed_protobuf", ""},
	} {
		_, err := b.Appraise(b.ctx, b.tenant, m.id, c.contentType, c.body, admin)
		if e, ok := err.(*Error); !ok || e.Code != c.code || (c.pointer != "" && e.Pointer != c.pointer) {
			t.Errorf("%s: %v, want %s at %q", name, err, c.code, c.pointer)
		}
	}
	b.sameRows(before)
	if _, err := b.Appraise(b.ctx, b.tenant, uuid.New(), "application/json", good.body(t), admin); code(err) != CodeNotFound {
		t.Errorf("unknown machine: %v", err)
	}
	if r, err := b.post(m, good); err != nil || r.Appraisal.Status != verifier.Affirming {
		t.Errorf("the challenge could not be answered after the refusals: %v", err)
	}
}

// A machine token ends with the key that it was issued for.
func TestTokenEndsWithItsKey(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	m.keyID = uuid.New()
	if _, err := b.post(m, m.quote(b.nonce(m))); code(err) != CodeUnauthenticated {
		t.Errorf("evidence: %v", err)
	}
	if _, err := b.Challenge(b.ctx, b.tenant, m.id, admin, ByKey(m.keyID)); code(err) != CodeUnauthenticated {
		t.Errorf("challenge: %v", err)
	}
	if err := b.PutEventLog(b.ctx, b.tenant, m.id, sum(m.log), m.log, ByKey(m.keyID)); code(err) != CodeUnauthenticated {
		t.Errorf("event log: %v", err)
	}
}

// Evidence for a machine that has no key is of unverified origin, and recorded.
func TestMachineWithoutKey(t *testing.T) {
	b := newBench(t)
	m := newMachine(t, "sb-on-1")
	machines, err := b.store.UpsertMachines(b.ctx, b.tenant, []store.MachineInput{{ExternalID: "e", Name: "no-key", OS: "linux", Platform: "qemu",
		SecurityType: "standard"}}, nothing, b.now(), admin)
	if err != nil {
		t.Fatal(err)
	}
	m.id = machines[0].ID
	r, err := b.Appraise(b.ctx, b.tenant, m.id, "application/json", m.quote(b.nonce(m)).body(t), admin)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Contraindicated, verifier.OriginUnverified)
	if c := checkOf(r.Appraisal, verifier.CheckAKTrusted); c.Status != verifier.Fail {
		t.Errorf("%+v", c)
	}
}
