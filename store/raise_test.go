package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// missing is an occurrence of a machine, or of a scope.
func missing(machine *uuid.UUID, scope string) store.RaisedAlert {
	return store.RaisedAlert{MachineID: machine, Scope: scope, Details: map[string]int{"machines": 3},
		Alert: finding.Alert{Code: "attestation_missing", DisplayName: "Attestation is missing", Severity: finding.Medium, Description: "silent", RemediationSteps: []string{"look", "again"}}}
}

func TestAlertsRaisedOutsideAppraisals(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	day := 24 * time.Hour
	raise := func(at time.Duration, raised ...store.RaisedAlert) int {
		t.Helper()
		return len(must[[]uuid.UUID](t)(s.Raise(t.Context(), tenant, t0.Add(at), raised...)))
	}
	expect := func(story, want string) {
		t.Helper()
		if got := statuses(alertsOf(t, s, store.AlertFilter{}, t0)); got != want {
			t.Errorf("%s: alerts (newest first) %q, want %q", story, got, want)
		}
	}
	one, many := missing(&e.MachineID, ""), missing(nil, "fleet")
	for i, r := range []store.RaisedAlert{many, one, missing(nil, "site-a")} { // ids go by time
		if n := raise(time.Duration(i)*time.Second, r); n != 1 {
			t.Errorf("opened %d", n)
		}
	}
	if n := raise(time.Minute, one, many, one); n != 0 {
		t.Errorf("a repetition opened %d", n)
	}
	all := alertsOf(t, s, store.AlertFilter{}, t0)
	seen := map[string]string{}
	for _, a := range all {
		seen[a.Scope] = fmt.Sprintf("%s ×%d %s %s %s", a.MachineName, a.Count, a.VerdictID, a.Details, strings.Join(a.RemediationSteps, ","))
	}
	nobody := uuid.Nil.String()
	for scope, want := range map[string]string{"": "web-1 ×2 ", "fleet": " ×2 ", "site-a": " ×1 "} {
		if want += nobody + ` {"machines": 3} look,again`; seen[scope] != want {
			t.Errorf("alert of %q is %q, want %q", scope, seen[scope], want)
		}
	}
	must0(t, s.End(t.Context(), tenant, t0.Add(day), "attestation_missing", []uuid.UUID{e.MachineID, uuid.New()}, []string{"fleet", "site-b"}))
	expect("over", "active×1 resolved×2 resolved×2")
	if n := raise(2*day, one, many); n != 2 {
		t.Errorf("reopened %d", n)
	}
	expect("it comes back within a week", "active×1 active×3 active×3")
	must0(t, s.End(t.Context(), tenant, t0.Add(3*day), "attestation_missing", []uuid.UUID{e.MachineID}, []string{"fleet", "site-a"}))
	if n := raise(10*day, one); n != 1 {
		t.Errorf("opened %d", n)
	}
	expect("it comes back later", "active×1 resolved×1 resolved×3 resolved×3")

	// What was dismissed stays quiet until it is over; what comes after is another alert.
	newest := alertsOf(t, s, store.AlertFilter{}, t0)[0]
	must[store.Alert](t)(s.SetAlertStatus(t.Context(), tenant, newest.ID, store.AlertChange{To: "dismissed", Comment: "known"}, t0.Add(10*day), system))
	if n := raise(10*day+time.Hour, one); n != 0 {
		t.Errorf("what was dismissed opened %d", n)
	}
	expect("dismissed, still there", "dismissed×2 resolved×1 resolved×3 resolved×3")
	must0(t, s.End(t.Context(), tenant, t0.Add(11*day), "attestation_missing", []uuid.UUID{e.MachineID}, nil))
	if n := raise(12*day, one); n != 1 {
		t.Errorf("opened %d", n)
	}
	expect("dismissed, over, and back", "active×1 dismissed×2 resolved×1 resolved×3 resolved×3")

	if _, err := s.Raise(t.Context(), tenant, t0, missing(nil, "")); err == nil {
		t.Error("an alert of nothing was raised")
	}
	if _, err := s.Raise(t.Context(), tenant, t0, missing(&e.MachineID, "fleet")); err == nil {
		t.Error("an alert of a machine and a scope was raised")
	}
	gone := uuid.New()
	if n := raise(12*day, missing(&gone, "")); n != 0 {
		t.Errorf("an alert of no machine: opened %d", n)
	}
	if n := number(t, conn, `SELECT count(*) FROM outbox`); n != 5+2+5+1 {
		t.Errorf("%d events in the outbox", n)
	}
}

func TestRaisedAlertsAreSuppressed(t *testing.T) {
	s, _ := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	rule := must[store.SuppressionRule](t)(s.CreateSuppressionRule(t.Context(), tenant, store.SuppressionRule{AlertCode: "attestation_missing", Reason: "maintenance",
		Scope: store.SuppressionScope{AllOf: []store.SuppressionCondition{{Field: "machine.name", In: []string{"web-1"}}}}}, t0, system))
	must[[]uuid.UUID](t)(s.Raise(t.Context(), tenant, t0, missing(&e.MachineID, ""), missing(nil, "fleet")))
	shown := alertsOf(t, s, store.AlertFilter{}, t0)
	if len(shown) != 1 || shown[0].Scope != "fleet" {
		t.Errorf("shown are %+v", shown)
	}
	must0(t, s.DeleteSuppressionRule(t.Context(), tenant, rule.ID, t0, system))
	if n := len(alertsOf(t, s, store.AlertFilter{}, t0)); n != 2 {
		t.Errorf("%d are shown without the rule", n)
	}
	must[store.SuppressionRule](t)(s.CreateSuppressionRule(t.Context(), tenant, store.SuppressionRule{AlertCode: "*", Reason: "all"}, t0, system))
	if n := len(alertsOf(t, s, store.AlertFilter{}, t0)); n != 0 {
		t.Errorf("%d are shown though all are hidden", n)
	}
}
