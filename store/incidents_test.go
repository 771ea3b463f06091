package store_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// caused is a failed judgement of a cause.
func caused(e store.Enrollment, at time.Time, cause string) store.AppraisalRecord {
	rec := judgement(e, at, verifier.Contraindicated, cause)
	rec.Findings.Alerts[0].Group = finding.Group{Cause: []string{cause}, Title: cause + " changed"}
	return rec
}

// told are the incident events in the outbox, oldest first.
func told(t testing.TB, conn *pgx.Conn) string {
	t.Helper()
	rows, _ := conn.Query(t.Context(), `SELECT substr(kind, 10) || ' ' || (payload->>'alerts') FROM outbox WHERE kind LIKE 'incident.%' ORDER BY event_id`)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must0(t, err)
	return strings.Join(list, ", ")
}

func TestOneCauseIsOneIncident(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 99)
	var machines []store.Enrollment
	for i := range 12 {
		machines = append(machines, active(t, s, token, fmt.Sprintf("web-%d", i)))
	}
	clock := t0
	count := func() store.IncidentsCounted {
		t.Helper()
		clock = clock.Add(time.Second)
		return must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, clock))
	}
	only := func() store.Incident {
		t.Helper()
		list, _, err := s.ListIncidents(t.Context(), tenant, store.IncidentFilter{}, store.Page{})
		must0(t, err)
		for _, i := range list {
			if i.Title == "grub changed" {
				return i
			}
		}
		t.Fatal("no incident of the cause")
		return store.Incident{}
	}
	expect := func(story, want string) {
		t.Helper()
		i := only()
		if got := fmt.Sprintf("%s %d of %d of %d, reopened %d, closed %v", i.Status, i.Open, i.Episode, i.All, i.ReopenedCount, i.ClosedAt != nil); got != want {
			t.Errorf("%s: incident is %q, want %q", story, got, want)
		}
	}
	fail := func(cause string, some ...store.Enrollment) {
		t.Helper()
		for _, e := range some {
			clock = clock.Add(time.Second)
			record(t, s, caused(e, clock, cause))
		}
	}
	heal := func(some ...store.Enrollment) {
		t.Helper()
		for _, e := range some {
			clock = clock.Add(time.Second)
			record(t, s, judgement(e, clock, verifier.Affirming, "good"))
		}
	}
	fail("grub", machines[:3]...)
	if c := count(); c.Opened != 1 || c.Counted != 1 {
		t.Errorf("counted %+v", c)
	}
	expect("three machines", "active 3 of 3 of 3, reopened 0, closed false")
	if i := only(); i.Summary() != "grub changed on 3 machines of scale set web since 2026-11-23 12:00 UTC" || i.ScaleSets["web"] != 3 {
		t.Errorf("summary %q, scale sets %v", i.Summary(), i.ScaleSets)
	}
	if c := count(); c.Counted != 0 {
		t.Errorf("nothing changed, and %d were counted", c.Counted)
	}
	fail("grub", machines[3:]...)
	count()
	expect("twelve machines", "active 12 of 12 of 12, reopened 0, closed false")
	fail("kernel", machines[11])
	count()
	expect("one is of another cause now", "active 11 of 12 of 12, reopened 0, closed false")
	id := only().ID
	if n, err := s.SetIncidentStatus(t.Context(), tenant, id, store.AlertChange{To: "in_progress", Assignee: "alex"}, clock, system); err != nil || n != 11 {
		t.Errorf("%d in progress: %v", n, err)
	}
	count()
	expect("taken up", "in_progress 11 of 12 of 12, reopened 0, closed false")
	if n, err := s.CommentIncident(t.Context(), tenant, id, "new boot loader", clock, system); err != nil || n != 11 {
		t.Errorf("%d commented: %v", n, err)
	}
	heal(machines[:5]...)
	count()
	expect("five are healthy", "in_progress 6 of 12 of 12, reopened 0, closed false")
	if n, err := s.SetIncidentStatus(t.Context(), tenant, id, store.AlertChange{To: "dismissed"}, clock, system); err != nil || n != 6 {
		t.Errorf("%d dismissed: %v", n, err)
	}
	count()
	expect("the rest dismissed", "resolved 0 of 12 of 12, reopened 0, closed true")
	if _, err := s.SetIncidentStatus(t.Context(), tenant, id, store.AlertChange{To: "dismissed"}, clock, system); !errors.Is(err, store.ErrConflict) {
		t.Errorf("dismissed with nothing open: %v", err)
	}
	if _, err := s.SetIncidentStatus(t.Context(), tenant, uuid.New(), store.AlertChange{To: "dismissed"}, clock, system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such incident: %v", err)
	}
	fail("grub", machines[0])
	count()
	expect("it comes back", "active 1 of 1 of 12, reopened 1, closed false")
	if n, err := s.SetIncidentStatus(t.Context(), tenant, id, store.AlertChange{To: "dismissed"}, clock, system); err != nil || n != 1 {
		t.Errorf("%d dismissed: %v", n, err)
	}
	count()
	expect("all of it dismissed", "dismissed 0 of 1 of 12, reopened 1, closed true")
	fail("shim", machines[1])
	heal(machines[1])
	if c := count(); c.Opened != 1 || c.Closed != 1 {
		t.Errorf("opened and over between two counts: %+v", c)
	}
	want := "opened 3, grown 12, opened 1, resolved 12, opened 1, resolved 1, opened 1, resolved 1"
	if got := told(t, conn); got != want {
		t.Errorf("receivers were told %q, want %q", got, want)
	}
	members, next, err := s.IncidentMembers(t.Context(), tenant, id, false, store.Page{Limit: 10}, clock)
	must0(t, err)
	more, _, err := s.IncidentMembers(t.Context(), tenant, id, false, store.Page{Limit: 10, Cursor: next}, clock)
	must0(t, err)
	as := map[string]int{}
	for _, m := range append(members, more...) {
		as[m.LeftAs]++
	}
	if as["changed"] != 1 || as["resolved"] != 4 || as["dismissed"] != 7 {
		t.Errorf("members left as %v", as)
	}
}

// Many machines that fail at once, counted by two replicas meanwhile, are one incident with all of them, told of once a step.
func TestIncidentsRaceWithAlerts(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 200)
	var wg, counters sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		counters.Go(func() {
			for {
				if _, err := s.CountIncidents(t.Context(), tenant, t0.Add(time.Hour)); err != nil {
					t.Error(err)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range 120 {
		e := active(t, s, token, fmt.Sprintf("m%d", i))
		wg.Go(func() { record(t, s, caused(e, t0.Add(time.Duration(i)*time.Millisecond), "grub")) })
	}
	wg.Wait()
	close(stop)
	counters.Wait()
	must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, t0.Add(time.Hour)))
	list, _, err := s.ListIncidents(t.Context(), tenant, store.IncidentFilter{Open: true}, store.Page{})
	must0(t, err)
	if len(list) != 1 || list[0].Open != 120 || number(t, conn, `SELECT count(*) FROM incident_touches`) != 0 {
		t.Fatalf("incidents %+v", list)
	}
	for kind, most := range map[string]int64{"incident.opened": 1, "incident.grown": 2, "incident.resolved": 0} {
		if n := number(t, conn, `SELECT count(*) FROM outbox WHERE kind = $1`, kind); n > most || kind == "incident.opened" && n != 1 {
			t.Errorf("%d %s", n, kind)
		}
	}
}

// A rule that expires by itself: its incident's count follows, once, and again where the rule is given a new end.
func TestExpiredSuppressionIsCounted(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 9)
	for _, name := range []string{"web-1", "web-2"} {
		record(t, s, caused(active(t, s, token, name), t0, "grub"))
	}
	end := t0.Add(time.Hour)
	rule := must[store.SuppressionRule](t)(s.CreateSuppressionRule(t.Context(), tenant, store.SuppressionRule{AlertCode: "*", Reason: "lab", ExpiresAt: &end,
		Scope: store.SuppressionScope{AllOf: []store.SuppressionCondition{{Field: "machine.name", In: []string{"web-1"}}}}}, t0, system))
	expect := func(story string, at time.Time, suppressed int64, counted int) {
		t.Helper()
		if c := must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, at)); c.Counted != counted {
			t.Errorf("%s: %d counted, want %d", story, c.Counted, counted)
		}
		if n := number(t, conn, `SELECT sum(suppressed_members) FROM incidents`); n != suppressed {
			t.Errorf("%s: %d suppressed, want %d", story, n, suppressed)
		}
	}
	expect("in force", t0, 1, 1)
	expect("before its end", end.Add(-time.Second), 1, 0)
	expect("expired", end, 0, 1)
	expect("once", end.Add(time.Second), 0, 0)
	later := end.Add(time.Hour)
	rule.ExpiresAt = &later
	must[store.SuppressionRule](t)(s.UpdateSuppressionRule(t.Context(), tenant, rule, end.Add(time.Minute), system))
	expect("with a new end", end.Add(time.Minute), 1, 1)
	expect("which passes too", later, 0, 1)
}

func TestSimulatedSuppression(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 99)
	day := 24 * time.Hour
	for i, e := range []store.Enrollment{active(t, s, token, "web-1"), active(t, s, token, "web-2"), active(t, s, token, "web-3"), active(t, s, token, "web-4"), active(t, s, token, "db-1")} {
		record(t, s, judgement(e, t0.Add(time.Duration(i)*day), verifier.Contraindicated, "bad"))
		a := alertsOf(t, s, store.AlertFilter{MachineID: &e.MachineID}, t0)[0]
		switch i {
		case 1:
			record(t, s, judgement(e, t0.Add(5*day), verifier.Affirming, "good"))
		case 2:
			must[store.Alert](t)(s.SetAlertStatus(t.Context(), tenant, a.ID, store.AlertChange{To: "resolved"}, t0.Add(5*day), system))
		case 3:
			must[store.Alert](t)(s.SetAlertStatus(t.Context(), tenant, a.ID, store.AlertChange{To: "dismissed"}, t0.Add(5*day), system))
		}
	}
	before := number(t, conn, `SELECT count(*) FROM audit_events`)
	web := store.SuppressionRule{AlertCode: "attestation_failed", State: "disabled",
		Scope: store.SuppressionScope{AllOf: []store.SuppressionCondition{{Field: "machine.name", Contains: "web-"}}}}
	x := must[store.Simulation](t)(s.SimulateSuppression(t.Context(), tenant, web, t0.Add(-day), t0.Add(6*day)))
	if x.Alerts != 5 || x.WouldHide != 4 || x.Machines != 4 || x.Open != 1 || x.ByItself != 1 || x.ByHand != 1 || x.Dismissed != 1 || len(x.Items) != 4 || !x.Complete {
		t.Errorf("simulated %+v", x)
	}
	x = must[store.Simulation](t)(s.SimulateSuppression(t.Context(), tenant, web, t0.Add(day+time.Hour), t0.Add(6*day)))
	if x.Alerts != 3 || x.WouldHide != 2 {
		t.Errorf("of the last days %+v", x)
	}
	web.AlertCode = "other"
	if x = must[store.Simulation](t)(s.SimulateSuppression(t.Context(), tenant, web, t0.Add(-day), t0.Add(6*day))); x.Alerts != 0 || x.WouldHide != 0 {
		t.Errorf("of another code %+v", x)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events`) - before; n != 0 || number(t, conn, `SELECT count(*) FROM suppression_rules`) != 0 {
		t.Errorf("a simulation wrote %d audit events, or a rule", n)
	}
}

func TestExemptionsEnd(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	rec := judgement(e, t0, verifier.Affirming, "good")
	for _, code := range []string{"secure_boot_enabled", "other"} {
		rec.Findings.Recommendations = append(rec.Findings.Recommendations, finding.Recommendation{Code: code, DisplayName: "Do", Severity: finding.Low})
	}
	record(t, s, rec)
	list, _, err := s.ListRecommendations(t.Context(), tenant, store.RecommendationFilter{}, store.Page{}, t0)
	must0(t, err)
	until := t0.Add(time.Hour)
	for _, r := range list {
		must[store.Recommendation](t)(s.ExemptRecommendation(t.Context(), tenant, r.ID, store.Exemption{Reason: "waiver", ExpiresAt: &until}, t0, system))
	}
	soon, late := t0.Add(2*time.Hour), t0.Add(time.Minute)
	for at, want := range map[*time.Time]int{&soon: 2, &late: 0} {
		if got, _, err := s.ListRecommendations(t.Context(), tenant, store.RecommendationFilter{ExemptionEndsBefore: at}, store.Page{}, t0); err != nil || len(got) != want {
			t.Errorf("%d exemptions end before %s: %v", len(got), at, err)
		}
	}
	must[store.Recommendation](t)(s.UnexemptRecommendation(t.Context(), tenant, list[0].ID, "over", t0, system))
	if _, err := s.UnexemptRecommendation(t.Context(), tenant, list[0].ID, "", t0, system); !errors.Is(err, store.ErrConflict) {
		t.Errorf("ended twice: %v", err)
	}
	for _, c := range []struct {
		at   time.Time
		want int
	}{{until.Add(-time.Second), 0}, {until, 1}, {until.Add(time.Second), 0}} {
		if n := must[int](t)(s.EndExemptions(t.Context(), tenant, c.at, system)); n != c.want {
			t.Errorf("at %s %d exemptions ended, want %d", c.at, n, c.want)
		}
	}
	history, _, err := s.RecommendationHistory(t.Context(), tenant, list[1].ID, store.Page{}, until)
	must0(t, err)
	if len(history) != 2 || history[0].Kind != "exemption_ended" || history[1].Kind != "exempted" {
		t.Errorf("history %+v", history)
	}
	r := must[store.Recommendation](t)(s.GetRecommendation(t.Context(), tenant, list[1].ID, until))
	if r.Status != "active" || r.Exemption != nil {
		t.Errorf("afterwards it is %+v", r)
	}
	if n := number(t, conn, `SELECT count(*) FROM outbox WHERE kind = 'recommendation.exemption_ended' AND subject_id = $1`, list[1].ID); n != 1 {
		t.Errorf("%d events in the outbox", n)
	}
}

// Whoever walks the incidents page by page in the order that is not asked for meets each once, though some are opened again
// meanwhile; by when they were opened he does not.
func TestWalkOfIncidentsThatAreOpenedAgain(t *testing.T) {
	walk := func(sort string) (seen []string) {
		s, _ := newStore(t)
		token := joinToken(t, s, "j", 9)
		var machines []store.Enrollment
		for i := range 4 {
			machines = append(machines, active(t, s, token, fmt.Sprint("m", i)))
			record(t, s, caused(machines[i], t0.Add(time.Duration(i)*time.Second), fmt.Sprint("cause ", i)))
			must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, t0.Add(time.Duration(i)*time.Second)))
		}
		page := store.Page{Limit: 1, Sort: sort}
		for i := 0; ; i++ {
			items, next, err := s.ListIncidents(t.Context(), tenant, store.IncidentFilter{}, page)
			must0(t, err)
			for _, one := range items {
				seen = append(seen, one.Title)
			}
			if next == "" {
				return seen
			}
			page.Cursor = next
			if i == 0 { // the oldest, which was not met yet
				at := t0.Add(time.Hour)
				record(t, s, judgement(machines[0], at, verifier.Affirming, "good"))
				must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, at))
				record(t, s, caused(machines[0], at.Add(time.Second), "cause 0"))
				must[store.IncidentsCounted](t)(s.CountIncidents(t.Context(), tenant, at.Add(time.Second)))
			}
		}
	}
	if got := walk(""); strings.Join(got, ", ") != "cause 3 changed, cause 2 changed, cause 1 changed, cause 0 changed" {
		t.Errorf("met %v", got)
	}
	if got := walk("-opened_at"); len(got) != 3 {
		t.Errorf("by the time of opening, which changes, met %v", got)
	}
}
