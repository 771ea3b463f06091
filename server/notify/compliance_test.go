package notify_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/server/notify/event"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// life is one enrolled machine that attests.
type life struct {
	b    *bench
	e    store.Enrollment
	seen int
}

func newLife(b *bench) *life {
	b.t.Helper()
	hash := sha256.Sum256([]byte("join"))
	if err := b.store.CreateJoinToken(b.t.Context(), tenant, store.JoinToken{Name: "join", UsesLeft: 1, ExpiresAt: t0.Add(time.Hour), CreatedAt: t0}, hash[:], system); err != nil {
		b.t.Fatal(err)
	}
	e, err := b.store.CreateEnrollment(b.t.Context(), tenant, store.EnrollmentInput{JoinTokenHash: hash[:], Machine: store.MachineInput{Name: "web-1", ExternalID: "id-web-1", ScaleSet: "web"},
		AKPublic: []byte("ak"), AKName: hash[:], ExpiresAt: t0.Add(time.Hour), Proved: true, Assurance: verifier.AKCertified}, b.clock(), system)
	if err != nil {
		b.t.Fatal(err)
	}
	return &life{b: b, e: e}
}

// attest records an appraisal by which guest attestation has the status, and Secure Boot is to be turned on or not. The
// same words are the same judgement.
func (l *life) attest(status finding.AssessmentStatus, recommended bool, severity finding.Severity) {
	l.b.t.Helper()
	l.seen++
	what := fmt.Sprint(status, recommended, severity)
	rec := store.AppraisalRecord{MachineID: l.e.MachineID, KeyID: l.e.KeyID, ReceivedAt: l.b.clock(), NextDueAt: l.b.clock().Add(5 * time.Minute),
		ChallengeKey: fmt.Appendf(nil, "%016x", l.seen), Fingerprint: sha256.Sum256([]byte(what)), EvidenceType: "application/json", Evidence: []byte(`{}`),
		Appraisal: &verifier.Appraisal{Status: verifier.Affirming, Assurance: verifier.AKCertified, Genuine: true},
		Clock:     &tpm.ClockState{Clock: uint64(l.b.clock().UnixMilli()), ResetCount: 7, RestartCount: 1, Safe: true},
		Actor:     store.Actor{Kind: "machine", ID: l.e.MachineID.String()},
		Findings: finding.Result{EvaluatedRecommendations: []string{"secure_boot_enabled"}, Assessments: []finding.Assessment{
			{Code: "guest_attestation_healthy", DisplayName: "Guest attestation", Severity: severity, Status: status, Cause: "because", Description: "It is " + string(status) + "."},
			{Code: "vtpm_enabled", DisplayName: "vTPM", Severity: finding.Low, Status: finding.Healthy, Cause: "ok", Description: "It is there."},
		}}}
	if recommended {
		rec.Findings.Recommendations = []finding.Recommendation{{Code: "secure_boot_enabled", DisplayName: "Secure Boot", Severity: finding.High, Description: "It is off.", RemediationSteps: []string{"Turn it on."}}}
	}
	if _, err := l.b.store.RecordAppraisal(l.b.t.Context(), tenant, rec); err != nil {
		l.b.t.Fatal(err)
	}
}

// silent lets the machine pass its deadline while the service hears others.
func (l *life) silent() {
	l.b.t.Helper()
	stale := 0
	for range 180 {
		l.b.pass(10 * time.Second)
		if err := l.b.store.Beat(l.b.t.Context(), tenant, l.b.clock()); err != nil {
			l.b.t.Fatal(err)
		}
		r, err := l.b.store.CheckDeadlines(l.b.t.Context(), tenant, finding.DefaultSilenceLimits(), l.b.clock(), system)
		if err != nil {
			l.b.t.Fatal(err)
		}
		stale += r.Stale
	}
	if stale != 1 {
		l.b.t.Fatalf("%d machines became stale", stale)
	}
}

var complianceKinds = []string{"assessment.changed", "recommendation.opened", "recommendation.resolved"}

// The life of a machine, as the document that receivers are told and as OCSF: each change of health once, with what was so at that
// moment, and nothing where nothing changed.
func TestComplianceIsTold(t *testing.T) {
	b := newBench(t)
	s := b.service()
	plain, siem, quiet := newReceiver(t, nil), newReceiver(t, nil), newReceiver(t, nil)
	channels := []store.Channel{b.webhook(s, "plain", plain.URL, plain.ca(), store.ChannelFilter{Kinds: complianceKinds}),
		b.webhook(s, "siem", siem.URL, siem.ca(), store.ChannelFilter{Kinds: complianceKinds}), b.webhook(s, "all else", quiet.URL, quiet.ca(), store.ChannelFilter{})}
	if _, err := b.store.ChangeChannel(t.Context(), tenant, channels[1].ID, "update", t0, system, func(c *store.Channel) error { c.Format = "ocsf"; return nil }); err != nil {
		t.Fatal(err)
	}
	if err := b.store.Beat(t.Context(), tenant, t0); err != nil {
		t.Fatal(err)
	}
	l := newLife(b)
	var done int
	step := func(story string, want ...string) {
		t.Helper()
		for _, c := range channels {
			b.deliver(s, c)
			b.deliver(s, c) // what waited for an earlier one of its subject
		}
		var got []string
		for _, in := range plain.all()[done:] {
			var p struct{ Data event.Event }
			if err := json.Unmarshal(in.body, &p); err != nil {
				t.Fatal(err)
			}
			c := p.Data.Compliance
			got = append(got, fmt.Sprintf("%s %s %s: %q -> %s", p.Data.Kind, c.Code, c.Severity, c.Previous, c.Status))
			if p.Data.Machine == nil || p.Data.Machine.Name != "web-1" || len(c.Citations) == 0 || c.Description == "" || c.FirstSeen.IsZero() || p.Data.Link == "" {
				t.Errorf("%s: %s", story, in.body)
			}
		}
		done += len(got)
		slices.Sort(got)
		if slices.Sort(want); !slices.Equal(got, want) {
			t.Errorf("%s: told\n%s\nwant\n%s", story, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		b.pass(time.Minute)
	}
	const health, secureBoot = "assessment.changed guest_attestation_healthy ", "secure_boot_enabled high: "
	l.attest(finding.Healthy, false, finding.Medium)
	step("the first is healthy")
	l.attest(finding.Unhealthy, true, finding.Medium)
	step("unhealthy", health+`medium: "Healthy" -> Unhealthy`, "recommendation.opened "+secureBoot+`"" -> active`)
	l.attest(finding.Unhealthy, true, finding.High)
	step("worse, and unhealthy still")
	l.attest(finding.Healthy, false, finding.Medium)
	step("healthy again", health+`medium: "Unhealthy" -> Healthy`, "recommendation.resolved "+secureBoot+`"active" -> resolved`)
	l.attest(finding.Healthy, false, finding.Medium)
	step("and still is")
	l.attest(finding.NotApplicable, false, finding.Medium)
	step("not applicable is not unhealthy")
	l.silent()
	step("silent", health+`medium: "NotApplicable" -> Unhealthy`)
	l.attest(finding.NotApplicable, false, finding.Medium) // the judgement that it had
	step("it is back", health+`medium: "Unhealthy" -> NotApplicable`)
	l.attest(finding.Healthy, true, finding.Medium)
	step("the recommendation comes back", "recommendation.opened "+secureBoot+`"resolved" -> active`)

	var results []string
	for _, in := range siem.all() {
		var f struct {
			ClassUID   int `json:"class_uid"`
			Message    string
			Compliance struct {
				Standards []string
				Status    string
			}
		}
		if err := json.Unmarshal(in.body, &f); err != nil {
			t.Fatal(err)
		}
		if f.ClassUID != 2003 || len(f.Compliance.Standards) == 0 {
			t.Errorf("%s", in.body)
		}
		results = append(results, f.Compliance.Status)
	}
	slices.Sort(results)
	if want := []string{"Fail", "Fail", "Fail", "Fail", "Pass", "Pass", "Warning"}; !slices.Equal(results, want) {
		t.Errorf("as OCSF: %v, want %v", results, want)
	}
	if n := b.number(`SELECT count(*) FROM outbox WHERE kind = 'assessment.changed' AND payload ->> 'cause' = 'stale'`); n != 1 {
		t.Errorf("%d events of the silence", n)
	}
	for _, in := range quiet.all() {
		if slices.Contains(complianceKinds, in.kind) {
			t.Errorf("who names no kinds is told %s", in.kind)
		}
	}
}

// Nobody who asks for them by name: no row. One whose first evaluation is bad is told.
func TestComplianceIsWrittenForWhoAsks(t *testing.T) {
	b := newBench(t)
	s := b.service()
	rc := newReceiver(t, nil)
	b.webhook(s, "all", rc.URL, rc.ca(), store.ChannelFilter{})
	b.webhook(s, "incidents", rc.URL, rc.ca(), store.ChannelFilter{Kinds: complianceKinds, IncidentsOnly: true})
	off := b.webhook(s, "off", rc.URL, rc.ca(), store.ChannelFilter{Kinds: complianceKinds})
	enable := func(on bool) {
		t.Helper()
		if _, err := b.store.ChangeChannel(t.Context(), tenant, off.ID, "update", b.clock(), system, func(c *store.Channel) error {
			if c.Enabled, c.DisabledReason = on, ""; !on {
				c.DisabledReason = store.DisabledByOperator
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	enable(false)
	l := newLife(b)
	l.attest(finding.Unhealthy, true, finding.Medium)
	l.attest(finding.Healthy, false, finding.Medium)
	const written = `SELECT count(*) FROM outbox WHERE kind = ANY ('{assessment.changed,recommendation.opened,recommendation.resolved}')`
	if n := b.number(written); n != 0 {
		t.Errorf("%d events that nobody asks for", n)
	}
	enable(true)
	l.attest(finding.Unhealthy, true, finding.Medium)
	if n := b.number(written); n != 2 {
		t.Errorf("%d events for who asks", n)
	}
	if _, err := b.conn.Exec(t.Context(), `DELETE FROM outbox; DELETE FROM assessments`); err != nil {
		t.Fatal(err)
	}
	l.attest(finding.Unhealthy, true, finding.High)
	if n := b.number(written); n != 1 {
		t.Errorf("%d events of a first evaluation that is bad", n)
	}
}
