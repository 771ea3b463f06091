package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

func TestAlertLifecycle(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	minute := 0
	attest := func(status verifier.Status, what string) store.Recorded {
		t.Helper()
		minute++
		rec := judgement(e, t0.Add(time.Duration(minute)*time.Minute), status, what)
		for i := range rec.Findings.Alerts {
			rec.Findings.Alerts[i].Group.Cause = []string{what}
		}
		return record(t, s, rec)
	}
	set := func(to string) store.Alert {
		t.Helper()
		open := alertsOf(t, s, store.AlertFilter{}, t0)
		return must[store.Alert](t)(s.SetAlertStatus(t.Context(), tenant, open[0].ID, store.AlertChange{To: to}, t0, system))
	}
	expect := func(story, want string) {
		t.Helper()
		if got := statuses(alertsOf(t, s, store.AlertFilter{}, t0)); got != want {
			t.Errorf("%s: alerts (newest first) %q, want %q", story, got, want)
		}
	}
	bad, good := verifier.Contraindicated, verifier.Affirming

	if r := attest(bad, "bad"); len(r.OpenedAlerts) != 1 {
		t.Errorf("opened %v", r.OpenedAlerts)
	}
	expect("first failure", "active×1")
	if r := attest(bad, "bad"); len(r.OpenedAlerts) != 0 {
		t.Errorf("a repetition opened %v", r.OpenedAlerts)
	}
	expect("repeated in the same run", "active×2")
	r := attest(bad, "worse")
	expect("failing otherwise", "active×3")
	if a := alertsOf(t, s, store.AlertFilter{}, t0)[0]; a.VerdictID != r.VerdictID || a.Description != "worse" || !a.FirstSeenAt.Equal(t0.Add(time.Minute)) || !a.LastSeenAt.Equal(t0.Add(3*time.Minute)) {
		t.Errorf("the alert does not tell its last occurrence: %+v", a)
	}
	set("in_progress")
	attest(bad, "worse")
	expect("repeated while in progress", "in_progress×4")
	attest(good, "good")
	expect("healthy again", "resolved×4")
	attest(bad, "bad")
	expect("it comes back", "active×5")
	set("dismissed")
	attest(bad, "bad")
	expect("dismissed, the same run", "dismissed×6")
	attest(bad, "worse")
	expect("dismissed, then something else", "active×1 dismissed×6")
	set("resolved")
	if r := attest(bad, "worse"); len(r.OpenedAlerts) != 1 {
		t.Errorf("opened %v", r.OpenedAlerts)
	}
	expect("resolved by hand, the cause is still there", "active×2 dismissed×6")

	all := alertsOf(t, s, store.AlertFilter{}, t0)
	if all[0].ReopenedCount != 1 || all[1].ReopenedCount != 1 || all[0].ClosedAt != nil || all[1].ClosedBy != "system:test" {
		t.Errorf("the alerts do not tell what became of them: %+v", all)
	}
	if _, err := s.SetAlertStatus(t.Context(), tenant, all[1].ID, store.AlertChange{To: "active"}, t0, system); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a second open alert of the machine and code: %v", err)
	}
	if _, err := s.SetAlertStatus(t.Context(), tenant, all[1].ID, store.AlertChange{To: "resolved"}, t0, system); !errors.Is(err, store.ErrConflict) {
		t.Errorf("dismissed to resolved: %v", err)
	}
	if _, err := s.SetAlertStatus(t.Context(), tenant, uuid.New(), store.AlertChange{To: "active"}, t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such alert: %v", err)
	}
	for kind, want := range map[string]int64{"alert.opened": 2, "alert.reopened": 2, "alert.resolved": 2, "alert.status_changed": 2} {
		if got := number(t, conn, `SELECT count(*) FROM outbox WHERE kind = $1`, kind); got != want {
			t.Errorf("outbox: %d %s, want %d", got, kind, want)
		}
	}
	for _, c := range []struct {
		f    store.AlertFilter
		want int
	}{
		{store.AlertFilter{Status: "active"}, 1}, {store.AlertFilter{Status: "dismissed"}, 1}, {store.AlertFilter{Code: "attestation_failed"}, 2}, {store.AlertFilter{Severity: "low"}, 0},
		{store.AlertFilter{Reason: "baseline_deviation"}, 2}, {store.AlertFilter{Reason: "origin_unverified"}, 0}, {store.AlertFilter{ScaleSet: "web"}, 2},
	} {
		if got := alertsOf(t, s, c.f, t0); len(got) != c.want {
			t.Errorf("%+v finds %d alerts, want %d", c.f, len(got), c.want)
		}
	}
}

func TestSuppressionHidesAlertsAndNothingElse(t *testing.T) {
	s, _ := newStore(t)
	token := joinToken(t, s, "j", 9)
	web, db := active(t, s, token, "web-1"), active(t, s, token, "db-1")
	must[[]store.Machine](t)(s.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: "db-1", ExternalID: "id-db-1", ScaleSet: "db", Labels: map[string]string{"env": "lab"}}}, nil, t0, system))
	record(t, s, judgement(web, t0, verifier.Contraindicated, "bad"))
	record(t, s, judgement(db, t0, verifier.Contraindicated, "bad"))
	visible := func(now time.Time) string {
		out := ""
		for _, a := range alertsOf(t, s, store.AlertFilter{}, now) {
			out += a.MachineName + " "
		}
		return out
	}
	expect := func(story string, now time.Time, want string) {
		t.Helper()
		if got := visible(now); got != want {
			t.Errorf("%s: visible %q, want %q", story, got, want)
		}
	}
	both := visible(t0)
	scope := func(field string, in ...string) store.SuppressionScope {
		return store.SuppressionScope{AllOf: []store.SuppressionCondition{{Field: field, In: in}}}
	}
	for story, sc := range map[string]store.SuppressionScope{
		"scale set": scope("machine.scale_set", "db"), "name": scope("machine.name", "db-1", "db-2"), "label": scope("machine.labels.env", "lab"),
		"contains": {AllOf: []store.SuppressionCondition{{Field: "machine.name", Contains: "b-1"}, {Field: "machine.name", Contains: "db"}}},
	} {
		r := must[store.SuppressionRule](t)(s.CreateSuppressionRule(t.Context(), tenant, store.SuppressionRule{AlertCode: "attestation_failed", Reason: "lab", Scope: sc}, t0, system))
		expect(story, t0, "web-1 ")
		must0(t, s.DeleteSuppressionRule(t.Context(), tenant, r.ID, t0, system))
		expect(story+" deleted", t0, both)
	}
	for story, r := range map[string]store.SuppressionRule{
		"other code":        {AlertCode: "other"},
		"other reason":      {AlertCode: "*", Scope: scope("alert.reason", "origin_unverified")},
		"unknown field":     {AlertCode: "*", Scope: scope("machine.colour", "red")},
		"disabled":          {AlertCode: "*", State: "disabled"},
		"missing label":     {AlertCode: "*", Scope: scope("machine.labels.none", "")},
		"empty condition":   {AlertCode: "*", Scope: scope("machine.name")},
		"one of two is not": {AlertCode: "*", Scope: store.SuppressionScope{AllOf: []store.SuppressionCondition{{Field: "machine.name", In: []string{"db-1"}}, {Field: "alert.reason", In: []string{"x"}}}}},
	} {
		r.Reason = "test"
		must[store.SuppressionRule](t)(s.CreateSuppressionRule(t.Context(), tenant, r, t0, system))
		expect(story, t0, both)
	}

	expires := t0.Add(time.Hour)
	rule := must[store.SuppressionRule](t)(s.CreateSuppressionRule(t.Context(), tenant, store.SuppressionRule{AlertCode: "*", Reason: "lab", Scope: scope("machine.labels.env", "lab"), ExpiresAt: &expires}, t0, system))
	expect("until it expires", t0, "web-1 ")
	expect("when it has expired", expires, both)
	if got := must[store.SuppressionRule](t)(s.GetSuppressionRule(t.Context(), tenant, rule.ID, expires)); got.State != "expired" || rule.State != "enabled" {
		t.Errorf("states %q then %q", rule.State, got.State)
	}
	// It holds for alerts that open later, follows the machine's labels, and leaves the rest as it is.
	record(t, s, judgement(db, t0, verifier.Affirming, "good"))
	record(t, s, judgement(db, t0, verifier.Contraindicated, "bad"))
	hidden := alertsOf(t, s, store.AlertFilter{IncludeSuppressed: true, Status: "active", ScaleSet: "db"}, t0)
	if len(hidden) != 1 || hidden[0].SuppressedBy == nil || *hidden[0].SuppressedBy != rule.ID {
		t.Errorf("the later alert: %+v", hidden)
	}
	if m := must[store.Machine](t)(s.GetMachine(t.Context(), tenant, db.MachineID)); m.Status != verifier.Contraindicated {
		t.Errorf("suppression changed the machine's status to %s", m.Status)
	}
	as, _, err := s.ListAssessments(t.Context(), tenant, store.AssessmentFilter{MachineID: &db.MachineID}, store.Page{})
	must0(t, err)
	if len(as) != 1 || as[0].Status != finding.Unhealthy {
		t.Errorf("suppression changed the assessment: %+v", as)
	}
	o := must[store.Overview](t)(s.Overview(t.Context(), tenant, nil, t0))
	if o.SuppressedAlerts != 1 || o.OpenAlertsBySeverity["medium"] != 1 || o.MachinesByStatus["contraindicated"] != 2 || o.AssessmentsByStatus["Unhealthy"] != 2 || o.OpenAlertsByReason["baseline_deviation"] != 1 || o.Machines != 2 || o.OldestAttestation == nil {
		t.Errorf("overview %+v", o)
	}
	must[[]store.Machine](t)(s.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: "db-1", ExternalID: "id-db-1", Labels: map[string]string{"env": "prod"}}}, nil, t0, system))
	if got := alertsOf(t, s, store.AlertFilter{Status: "active"}, t0); len(got) != 2 {
		t.Errorf("after the label has gone %d alerts are visible, want 2", len(got))
	}
	rule.Scope = scope("machine.labels.env", "prod")
	must[store.SuppressionRule](t)(s.UpdateSuppressionRule(t.Context(), tenant, rule, t0, system))
	if got := alertsOf(t, s, store.AlertFilter{Status: "active"}, t0); len(got) != 1 {
		t.Errorf("after the rule was changed %d alerts are visible, want 1", len(got))
	}
	if err := s.DeleteSuppressionRule(t.Context(), tenant, uuid.New(), t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

// An alert that opens while a rule is being made is hidden by it, whichever comes first.
func TestSuppressionRulesRaceWithAlerts(t *testing.T) {
	s, _ := newStore(t)
	token := joinToken(t, s, "j", 99)
	var wg sync.WaitGroup
	for i := range 20 {
		e := active(t, s, token, fmt.Sprintf("m%d", i))
		wg.Go(func() { record(t, s, judgement(e, t0, verifier.Contraindicated, "bad")) })
		if i == 10 {
			wg.Go(func() {
				if _, err := s.CreateSuppressionRule(t.Context(), tenant, store.SuppressionRule{AlertCode: "*", Reason: "all"}, t0, system); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if n := len(alertsOf(t, s, store.AlertFilter{}, t0)); n != 0 {
		t.Errorf("%d alerts slipped through", n)
	}
}

func TestAssessmentsAndRecommendations(t *testing.T) {
	s, _ := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	attest := func(minute int, status verifier.Status, recommend bool, what string) {
		t.Helper()
		rec := judgement(e, t0.Add(time.Duration(minute)*time.Minute), status, what)
		if recommend {
			rec.Findings.Recommendations = []finding.Recommendation{{Code: "secure_boot_enabled", DisplayName: "Enable", Severity: finding.Low, RemediationSteps: []string{"do"}}}
		}
		record(t, s, rec)
	}
	now := func() store.Recommendation {
		t.Helper()
		items, _, err := s.ListRecommendations(t.Context(), tenant, store.RecommendationFilter{}, store.Page{}, t0)
		must0(t, err)
		return items[0]
	}
	attest(0, verifier.Affirming, true, "a")
	attest(1, verifier.Affirming, true, "b")
	attest(2, verifier.Contraindicated, true, "c")
	attest(3, verifier.Contraindicated, true, "c")
	as, _, err := s.ListAssessments(t.Context(), tenant, store.AssessmentFilter{Code: "guest_attestation_healthy", Status: "Unhealthy", ScaleSet: "web", Severity: "medium"}, store.Page{})
	must0(t, err)
	if len(as) != 1 || !as[0].FirstEvaluatedAt.Equal(t0) || !as[0].StatusChangedAt.Equal(t0.Add(2*time.Minute)) || !as[0].EvaluatedAt.Equal(t0.Add(3*time.Minute)) || as[0].MachineName != "web-1" {
		t.Errorf("assessments %+v", as)
	}
	r := now()
	if r.Status != "active" || !r.FirstSeenAt.Equal(t0) {
		t.Errorf("recommendation %+v", r)
	}
	until := t0.Add(time.Hour)
	r = must[store.Recommendation](t)(s.ExemptRecommendation(t.Context(), tenant, r.ID, store.Exemption{Reason: "waiver", Comment: "c", ExpiresAt: &until}, t0, system))
	attest(4, verifier.Affirming, true, "d")
	if got := now(); r.Status != "exempt" || got.Status != "exempt" || got.Exemption.Comment != "c" || got.Exemption.CreatedBy != "system:test" {
		t.Errorf("exempted %+v, then %+v", r, got)
	}
	if late := must[store.Recommendation](t)(s.GetRecommendation(t.Context(), tenant, r.ID, until)); late.Status != "active" {
		t.Errorf("after the exemption it is %s", late.Status)
	}
	attest(5, verifier.Affirming, false, "e")
	if got := now(); got.Status != "resolved" {
		t.Errorf("when it no longer holds it is %s", got.Status)
	}
	if _, err := s.ExemptRecommendation(t.Context(), tenant, r.ID, store.Exemption{Reason: "waiver"}, t0, system); !errors.Is(err, store.ErrConflict) {
		t.Errorf("exempting a resolved one: %v", err)
	}
	if _, err := s.ExemptRecommendation(t.Context(), tenant, uuid.New(), store.Exemption{Reason: "waiver"}, t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("exempting none: %v", err)
	}
	attest(6, verifier.Affirming, true, "f")
	if got := now(); got.Status != "exempt" || got.ID != r.ID || !got.FirstSeenAt.Equal(t0.Add(6*time.Minute)) {
		t.Errorf("when it comes back it is %+v", got)
	}
	o := must[store.Overview](t)(s.Overview(t.Context(), tenant, nil, until))
	if o.RecommendationsByCode["secure_boot_enabled"] != 1 || o.RecommendationsBySev["low"] != 1 {
		t.Errorf("overview %+v", o)
	}
}
