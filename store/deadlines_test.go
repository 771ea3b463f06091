package store_test

import (
	"fmt"
	"slices"
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

// deadlineFleet is machines that attest, and a service that beats, at times of the test's choice. The default policy gives an
// interval of five minutes, two more until a machine is stale, and ten to the alert.
type deadlineFleet struct {
	t        *testing.T
	s        *store.Store
	conn     *pgx.Conn
	machines []store.Enrollment
	limits   finding.SilenceLimits
	clock    time.Time // of the next beat
}

func newDeadlineFleet(t *testing.T, n int) *deadlineFleet {
	t.Helper()
	s, conn := newStore(t)
	f := &deadlineFleet{t: t, s: s, conn: conn, limits: finding.DefaultSilenceLimits(), clock: t0}
	token := joinToken(t, s, "j", n+10)
	for i := range n {
		f.machines = append(f.machines, active(t, s, token, fmt.Sprintf("m%03d", i)))
	}
	return f
}

func minutes(n int) time.Time { return t0.Add(time.Duration(n) * time.Minute) }

// serve beats every ten seconds, from the last time on to a minute, looks at the deadlines each half a minute, and sums up.
func (f *deadlineFleet) serve(to int) (sum store.DeadlineRound) {
	f.t.Helper()
	for ; !f.clock.After(minutes(to)); f.clock = f.clock.Add(10 * time.Second) {
		must0(f.t, f.s.Beat(f.t.Context(), tenant, f.clock))
		if f.clock.Second()%30 == 0 {
			r := f.check(f.clock)
			sum.Stale, sum.Alerts, sum.Begun, sum.Ended = sum.Stale+r.Stale, sum.Alerts+r.Alerts, sum.Begun+r.Begun, sum.Ended+r.Ended
		}
	}
	return sum
}

// down lets time pass in which nobody serves.
func (f *deadlineFleet) down(to int) { f.clock = minutes(to) }

func (f *deadlineFleet) check(at time.Time) store.DeadlineRound {
	f.t.Helper()
	return must[store.DeadlineRound](f.t)(f.s.CheckDeadlines(f.t.Context(), tenant, f.limits, at, system))
}

// attest lets the machines from one to before another attest.
func (f *deadlineFleet) attest(from, to, minute int) {
	f.t.Helper()
	for _, m := range f.machines[from:to] {
		record(f.t, f.s, judgement(m, minutes(minute), verifier.Affirming, "good"))
	}
}

func (f *deadlineFleet) health(machine int) string {
	f.t.Helper()
	items, _, err := f.s.ListAssessments(f.t.Context(), tenant, store.AssessmentFilter{MachineID: &f.machines[machine].MachineID, Code: "guest_attestation_healthy"}, store.Page{})
	must0(f.t, err)
	if len(items) == 0 {
		return ""
	}
	return string(items[0].Status) + " " + items[0].Cause
}

// alerts are the statuses and counts, sorted: alerts of one instant have ids in no order.
func (f *deadlineFleet) alerts() string {
	f.t.Helper()
	all := strings.Fields(statuses(alertsOf(f.t, f.s, store.AlertFilter{Code: "attestation_missing"}, t0)))
	slices.Sort(all)
	return strings.Join(all, " ")
}

func (f *deadlineFleet) outbox() int64 {
	f.t.Helper()
	return number(f.t, f.conn, `SELECT count(*) FROM outbox WHERE payload ->> 'code' = 'attestation_missing'`)
}

func (f *deadlineFleet) machine(i int) store.Machine {
	f.t.Helper()
	return must[store.Machine](f.t)(f.s.GetMachine(f.t.Context(), tenant, f.machines[i].MachineID))
}

func expect[T comparable](t *testing.T, story string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", story, got, want)
	}
}

// The life of one silence: stale after the deadline and the time that the policy leaves, an alert after the delay, and
// an end with the next evidence, also where its judgement is that of the run before.
func TestSilenceOfOneMachine(t *testing.T) {
	f := newDeadlineFleet(t, 1)
	f.attest(0, 1, 0)
	expect(t, "in time", f.serve(6), store.DeadlineRound{})
	expect(t, "before it counts", f.health(0), "Healthy ok")
	expect(t, "past the deadline and what the policy leaves", f.serve(16), store.DeadlineRound{Stale: 1})
	expect(t, "stale", f.health(0), "Unhealthy stale")
	if m := f.machine(0); m.StaleSince == nil || !m.StaleSince.Equal(minutes(7)) || m.Status != verifier.Affirming {
		t.Errorf("stale since %v, verdict %v", m.StaleSince, m.Status)
	}
	expect(t, "no alert before the delay", f.alerts(), "")
	expect(t, "after it", f.serve(60), store.DeadlineRound{Alerts: 1})
	expect(t, "the alert", f.alerts(), "active×1")

	f.attest(0, 1, 61)
	expect(t, "it is back", f.health(0), "Healthy ok")
	expect(t, "its alert", f.alerts(), "resolved×1")
	expect(t, "its run goes on", number(t, f.conn, `SELECT run_count FROM machine_attestation_state`), 2)
	expect(t, "events", f.outbox(), 2)
	if m := f.machine(0); m.StaleSince != nil {
		t.Errorf("still stale since %v", m.StaleSince)
	}
	expect(t, "silent rows", number(t, f.conn, `SELECT count(*) FROM silent_machines`), 0)
	expect(t, "again", f.serve(90), store.DeadlineRound{Stale: 1, Alerts: 1})
	expect(t, "within a week it is the same alert", f.alerts(), "active×2")

	// It comes back as another: the verdict decides, and the alert of silence ends all the same.
	record(t, f.s, judgement(f.machines[0], minutes(91), verifier.Contraindicated, "bad"))
	expect(t, "it is back, and bad", f.health(0), "Unhealthy baseline_deviation")
	expect(t, "its alert of silence", f.alerts(), "resolved×2")
	expect(t, "audited", number(t, f.conn, `SELECT count(*) FROM audit_events WHERE action IN ('machines.stale', 'machines.missing')`), 4)
}

// A failing machine that was silent and comes back failing alike: the open alert is counted once more, not opened.
func TestSilenceOfAFailingMachine(t *testing.T) {
	f := newDeadlineFleet(t, 1)
	record(t, f.s, judgement(f.machines[0], t0, verifier.Contraindicated, "bad"))
	expect(t, "silent", f.serve(20), store.DeadlineRound{Stale: 1, Alerts: 1})
	rec := record(t, f.s, judgement(f.machines[0], minutes(21), verifier.Contraindicated, "bad"))
	if rec.New || rec.Count != 2 {
		t.Errorf("%+v", rec)
	}
	expect(t, "its health", f.health(0), "Unhealthy baseline_deviation")
	expect(t, "its alerts", statuses(alertsOf(t, f.s, store.AlertFilter{}, t0)), "resolved×1 active×2")
}

// Who enrolled has to attest too; who is released has not; and who was never enrolled is not expected.
func TestDeadlinesOfEnrolment(t *testing.T) {
	f := newDeadlineFleet(t, 2)
	_, err := f.s.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: "no agent"}}, nil, t0, system)
	must0(t, err)
	if due := f.machine(0).NextDueAt; due == nil || !due.Equal(minutes(5)) {
		t.Errorf("first evidence is due at %v", due)
	}
	expect(t, "never attested", f.serve(20), store.DeadlineRound{Stale: 2, Alerts: 2})
	expect(t, "an assessment where there was none", f.health(0), "Unhealthy stale")
	must0(t, f.s.RevokeAttestationKey(t.Context(), tenant, f.machines[0].MachineID, minutes(21), system))
	expect(t, "released", f.alerts(), "active×1 resolved×1")
	expect(t, "from then on", f.serve(60), store.DeadlineRound{})
	if m := f.machine(0); m.StaleSince != nil || m.NextDueAt != nil {
		t.Errorf("a released machine is due at %v", m.NextDueAt)
	}
	// Enrolled anew, it has a first deadline again.
	e := must[store.Enrollment](t)(f.s.CreateEnrollment(t.Context(), tenant, func() store.EnrollmentInput {
		in := enrolment(hash("j"), store.MachineInput{Name: "m000", ExternalID: "id-m000"}, "ek two", "ak two")
		in.ExpiresAt = minutes(70)
		return in
	}(), minutes(61), system))
	expect(t, "the same machine", e.MachineID, f.machines[0].MachineID)
	expect(t, "it never attests", f.serve(90), store.DeadlineRound{Stale: 1, Alerts: 1})
	// Evidence of a silent machine that is judged again is no evidence of it: see TestReappraisalOfASilentMachine.
}

// A policy's times count for its machines alone, and from the moment on at which they are set.
func TestDeadlinesByPolicy(t *testing.T) {
	f := newDeadlineFleet(t, 2)
	p := verifier.DefaultPolicy()
	p.StaleAfterSeconds, p.AttestationMissingDelaySeconds = 3600, 0
	p.Selector.MachineIDs = []string{f.machines[1].MachineID.String()}
	must[store.PolicyVersion](t)(f.s.PutPolicy(t.Context(), tenant, "slow", p, t0, system))
	f.attest(0, 2, 0)
	expect(t, "one is stale", f.serve(60), store.DeadlineRound{Stale: 1, Alerts: 1})
	expect(t, "the other has its time", f.health(1), "Healthy ok")
	expect(t, "and no delay", f.serve(66), store.DeadlineRound{Stale: 1, Alerts: 1})
}

// While nobody served, nobody could be heard: no machine is stale for it, nor alerted, until it had the time to come back.
func TestOwnOutage(t *testing.T) {
	f := newDeadlineFleet(t, 3)
	f.attest(0, 3, 0)
	expect(t, "in time", f.serve(1), store.DeadlineRound{})
	expect(t, "by hand while nobody serves", f.check(minutes(20)), store.DeadlineRound{NotServing: true})
	f.down(60)
	expect(t, "just back", f.serve(70), store.DeadlineRound{})
	f.attest(0, 1, 71)
	expect(t, "one machine is back", f.serve(74), store.DeadlineRound{})
	expect(t, "the others had their time", f.serve(75), store.DeadlineRound{Stale: 2})
	outages := func() int64 { return number(t, f.conn, `SELECT count(*) FROM service_outages`) }
	expect(t, "outages", outages(), 1)
	f.down(90) // while the delay of the others runs; the one was heard before
	expect(t, "after another outage", f.serve(104), store.DeadlineRound{})
	expect(t, "and then", f.serve(105), store.DeadlineRound{Stale: 1, Alerts: 2})
	must0(t, f.s.Beat(t.Context(), tenant, f.clock.Add(19*time.Second-10*time.Second)))
	must0(t, f.s.Beat(t.Context(), tenant, f.clock.Add(-time.Hour))) // a replica whose clock is behind
	expect(t, "a restart is no outage", outages(), 2)
}

// What was before the first heartbeat is not known to have been served: machines of before get the time to come back.
func TestFirstHeartbeat(t *testing.T) {
	f := newDeadlineFleet(t, 1)
	f.down(30)
	expect(t, "an upgrade", f.serve(44), store.DeadlineRound{})
	expect(t, "it had its time", f.serve(45), store.DeadlineRound{Stale: 1})
}

// Many that go silent together have one alert; it lists them, ends when most are back, and those that are not have theirs.
func TestMassSilence(t *testing.T) {
	f := newDeadlineFleet(t, 20)
	f.attest(0, 20, 0)
	f.serve(2)
	for minute := 3; minute < 17; minute += 2 { // the last five go on
		f.attest(15, 20, minute)
		f.serve(minute + 1)
	}
	f.attest(15, 20, 17)
	expect(t, "they are stale one by one", number(t, f.conn, `SELECT count(*) FROM machine_attestation_state WHERE stale_at IS NOT NULL`), 15)
	expect(t, "one event", f.serve(18), store.DeadlineRound{Begun: 1})
	alerts := alertsOf(t, f.s, store.AlertFilter{Code: "attestation_missing"}, t0)
	if len(alerts) != 1 || alerts[0].Scope != "fleet" || alerts[0].MachineID != uuid.Nil {
		t.Fatalf("%+v", alerts)
	}
	list := func() int {
		items, _, err := f.s.ListMachines(t.Context(), tenant, store.MachineFilter{SilenceAlert: &alerts[0].ID}, store.Page{Limit: 100})
		must0(t, err)
		return len(items)
	}
	expect(t, "its members", list(), 15)
	expect(t, "events", f.outbox(), 1)

	f.attest(4, 15, 19)
	f.attest(15, 20, 19)
	expect(t, "most are back", f.serve(20), store.DeadlineRound{})
	expect(t, "its members", list(), 4)
	expect(t, "it says so", number(t, f.conn, `SELECT (details ->> 'silent')::int FROM alerts WHERE machine_id IS NULL`), 4)
	f.attest(3, 20, 21)
	expect(t, "four fifths are", f.serve(22), store.DeadlineRound{Ended: 1, Alerts: 3})
	expect(t, "alerts", f.alerts(), "active×1 active×1 active×1 resolved×1")
	f.attest(0, 20, 23)
	expect(t, "all are", f.serve(24), store.DeadlineRound{})
	expect(t, "alerts", f.alerts(), "resolved×1 resolved×1 resolved×1 resolved×1")
	expect(t, "events", f.outbox(), 8)
	yes, no := true, false
	for stale, want := range map[*bool]int{&yes: 0, &no: 20} {
		items, _, err := f.s.ListMachines(t.Context(), tenant, store.MachineFilter{Stale: stale}, store.Page{Limit: 100})
		must0(t, err)
		expect(t, "listed", len(items), want)
	}
}

// Several replicas at once find each thing once, whatever they meet of each other and of machines that come back.
func TestDeadlinesConcurrently(t *testing.T) {
	f := newDeadlineFleet(t, 40)
	f.limits.Machines = 1000 // an alert each
	f.attest(0, 40, 0)
	must0(t, f.s.Beat(t.Context(), tenant, t0))
	if _, err := f.conn.Exec(t.Context(), `UPDATE service_heartbeats SET beat_at = $1`, minutes(62)); err != nil { // as if it had served all the time
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var sum store.DeadlineRound
	for range 4 {
		wg.Go(func() {
			for range 3 {
				r, err := f.s.CheckDeadlines(t.Context(), tenant, f.limits, minutes(62), system)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				sum.Stale, sum.Alerts = sum.Stale+r.Stale, sum.Alerts+r.Alerts
				mu.Unlock()
			}
		})
	}
	for _, m := range f.machines[:20] {
		wg.Go(func() {
			rec := judgement(m, minutes(62), verifier.Affirming, "good")
			rec.NextDueAt = minutes(100)
			if _, err := f.s.RecordAppraisal(t.Context(), tenant, rec); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	last := f.check(minutes(62)) // what was locked at the time is found the next time
	sum.Stale, sum.Alerts = sum.Stale+last.Stale, sum.Alerts+last.Alerts
	expect(t, "silent now", number(t, f.conn, `SELECT count(*) FROM silent_machines`), 20)
	opened := number(t, f.conn, `SELECT count(*) FROM outbox WHERE kind = 'alert.opened'`)
	expect(t, "alerts told of once each", int64(sum.Alerts), opened)
	expect(t, "of those that are back, resolved", number(t, f.conn, `SELECT count(*) FROM alerts WHERE status = 'resolved'`), opened-20)
	expect(t, "each counted once", number(t, f.conn, `SELECT count(*) FROM alerts WHERE seen_count <> 1`), 0)
	expect(t, "silent and flagged alike", number(t, f.conn, `SELECT count(*) FROM machine_attestation_state st FULL JOIN silent_machines s USING (tenant_id, machine_id)
		WHERE (st.stale_at IS NULL) <> (s.machine_id IS NULL)`), 0)
}

// What an attestation came after is kept with the run that it begins, and the boots are counted.
func TestBootsAreKept(t *testing.T) {
	f := newDeadlineFleet(t, 1)
	for i, step := range []struct {
		trigger verifier.Trigger
		boot    string
		genuine bool
		boots   int64
		last    int
	}{
		{verifier.TriggerFirst, "a", true, 1, 0},
		{verifier.TriggerPeriodic, "a", true, 1, 0},
		{verifier.TriggerBoot, "b", true, 2, 2},
		{verifier.TriggerBoot, "c", false, 2, 2}, // what is not genuine says nothing
		{verifier.TriggerFirst, "b", true, 2, 2}, // another key, the same boot
		{verifier.TriggerFirst, "", true, 3, 5},
	} {
		rec := judgement(f.machines[0], minutes(i), verifier.Affirming, fmt.Sprint("judgement ", i))
		rec.Trigger, rec.BootID, rec.Appraisal.Genuine = step.trigger, step.boot, step.genuine
		id := record(t, f.s, rec).VerdictID
		expect(t, "kept", must[store.Verdict](t)(f.s.GetVerdict(t.Context(), tenant, id)).Trigger, step.trigger)
		m := f.machine(0)
		expect(t, fmt.Sprint("boots after ", i), m.BootCount, step.boots)
		if m.LastBootAt == nil || !m.LastBootAt.Equal(minutes(step.last)) {
			t.Errorf("after %d: last boot at %v", i, m.LastBootAt)
		}
	}
	expect(t, "of evidence that said none", must[store.AppraisalInputs](t)(f.s.AppraisalInputs(t.Context(), tenant, f.machines[0].MachineID, t0)).LastBootID, "")
}

// A mass silence explains who missed a deadline as it began, and nobody else; and nobody for longer than a day.
func TestMassSilenceHidesNobodyForEver(t *testing.T) {
	f := newDeadlineFleet(t, 20)
	keep := func(from, until int) {
		for m := from; m < until; m += 4 {
			f.attest(14-7, 14, m)
			f.serve(m + 3)
		}
	}
	f.attest(0, 20, 0)
	expect(t, "all are silent", f.serve(20), store.DeadlineRound{Stale: 20, Begun: 1})
	f.attest(0, 14, 21)
	f.serve(24)
	keep(25, 60) // of those that are back, seven fall silent at once
	expect(t, "a later event has another alert, of a narrower scope", f.alerts(), "active×1 active×1")
	f.attest(0, 7, 60)
	keep(61, 70)
	expect(t, "the first lasts", number(t, f.conn, `SELECT silent FROM silences WHERE ended_at IS NULL`), 6)
	alerts := alertsOf(t, f.s, store.AlertFilter{Code: "attestation_missing", Status: "active"}, t0)
	must[store.Alert](t)(f.s.SetAlertStatus(t.Context(), tenant, alerts[len(alerts)-1].ID, store.AlertChange{To: "dismissed"}, minutes(73), system))
	if _, err := f.conn.Exec(t.Context(), `UPDATE silences SET started_at = started_at - interval '1 day'`); err != nil {
		t.Fatal(err)
	}
	must0(t, f.s.Beat(t.Context(), tenant, minutes(73)))
	r := f.check(minutes(73))
	expect(t, "a day later, though somebody dismissed it", [2]int{r.Ended, r.Alerts}, [2]int{1, 6})
}

// A large silence that ends with members who stay silent gives each of them an alert, over as many pages as it takes.
func TestMassSilenceEndsOverPages(t *testing.T) {
	f := newDeadlineFleet(t, 230)
	f.limits.MaxAge = time.Minute
	sum := f.serve(19)
	expect(t, "it ends at its age, once", sum, store.DeadlineRound{Stale: 230, Begun: 1, Ended: 1, Alerts: 230})
	expect(t, "each has an alert", number(t, f.conn, `SELECT count(*) FROM alerts WHERE status = 'active' AND machine_id IS NOT NULL`), 230)
	expect(t, "nobody is left", number(t, f.conn, `SELECT count(*) FROM silent_machines WHERE alerted_at IS NULL OR silence_id IS NOT NULL`), 0)
}

func TestHeartbeatOfTheDatabasesClock(t *testing.T) {
	s, conn := newStore(t)
	must0(t, s.Beat(t.Context(), tenant, time.Time{}))
	expect(t, "by its clock", number(t, conn, `SELECT count(*) FROM service_heartbeats WHERE beat_at BETWEEN transaction_timestamp() - interval '1 hour' AND clock_timestamp()`), 1)
}

// A clock of the database that was ahead and is put back: the beats and outages of the wrong time are taken back, and until then
// nobody is taken to serve.
func TestClockOfTheDatabaseIsPutBack(t *testing.T) {
	s, conn := newStore(t)
	must0(t, s.Beat(t.Context(), tenant, time.Time{}))
	for _, sql := range []string{
		`UPDATE service_heartbeats SET beat_at = clock_timestamp() + interval '1 day'`,
		`INSERT INTO service_outages (tenant_id, started_at, ended_at) SELECT tenant_id, clock_timestamp() - interval '1 minute', beat_at FROM service_heartbeats`,
		`INSERT INTO service_outages (tenant_id, started_at, ended_at) SELECT tenant_id, clock_timestamp() - interval '3 hours', clock_timestamp() - interval '2 hours' FROM service_heartbeats`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	check := func() store.DeadlineRound {
		t.Helper()
		return must[store.DeadlineRound](t)(s.CheckDeadlines(t.Context(), tenant, finding.DefaultSilenceLimits(), time.Time{}, system))
	}
	expect(t, "the beat is of another time", check(), store.DeadlineRound{NotServing: true})
	must0(t, s.Beat(t.Context(), tenant, time.Time{}))
	expect(t, "it is put right", number(t, conn, `SELECT count(*) FROM service_heartbeats WHERE beat_at BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp()`), 1)
	expect(t, "the outage of the wrong time is gone", number(t, conn, `SELECT count(*) FROM service_outages WHERE ended_at > clock_timestamp()`), 0)
	expect(t, "the true one is there", number(t, conn, `SELECT count(*) FROM service_outages WHERE ended_at < clock_timestamp() - interval '1 hour'`), 1)
	expect(t, "it serves", check(), store.DeadlineRound{})
	expect(t, "by the same clock", number(t, conn, `SELECT count(*) FROM deadline_watch WHERE checked_at BETWEEN clock_timestamp() - interval '1 minute' AND clock_timestamp()`), 1)
}

// Machines that fall silent one by one, and too few for a mass silence, are incidents of their own.
func TestASingleSilentMachineIsAnIncidentOfItsOwn(t *testing.T) {
	f := newDeadlineFleet(t, 2)
	f.attest(0, 2, 0)
	expect(t, "both have an alert", f.serve(20).Alerts, 2)
	must[store.IncidentsCounted](t)(f.s.CountIncidents(t.Context(), tenant, f.clock))
	list, _, err := f.s.ListIncidents(t.Context(), tenant, store.IncidentFilter{}, store.Page{})
	must0(t, err)
	expect(t, "incidents", len(list), 2)
	for _, i := range list {
		expect(t, "of one machine", i.Open, 1)
	}
}

// A mass silence that becomes twice as large as was told is told once, with its size; and not where its alert was closed.
func TestGrowthOfAMassSilence(t *testing.T) {
	for name, closed := range map[string]bool{"open": false, "closed by hand": true} {
		t.Run(name, func(t *testing.T) {
			f := newDeadlineFleet(t, 24)
			f.limits.Percent = 10
			told := func() string {
				return fmt.Sprint(number(t, f.conn, `SELECT count(*) FROM outbox WHERE kind = 'alert.grown'`), number(t, f.conn, `SELECT count(*) FROM alert_events WHERE kind = 'grown'`))
			}
			silent := func() int64 { return number(t, f.conn, `SELECT silent FROM silences`) }
			f.attest(0, 24, 0)
			for minute := 4; minute <= 12; minute += 4 { // six fall silent
				f.serve(minute - 1)
				f.attest(6, 24, minute)
			}
			f.serve(15)
			f.attest(11, 24, 16) // and five more, that miss their deadline at the seventeenth minute
			f.serve(17)
			expect(t, "it began", silent(), 6)
			f.serve(19)
			expect(t, "not twice as many", fmt.Sprint(silent(), " ", told()), "11 0 0")
			a := alertsOf(t, f.s, store.AlertFilter{Code: "attestation_missing"}, t0)[0]
			if closed {
				must[store.Alert](t)(f.s.SetAlertStatus(t.Context(), tenant, a.ID, store.AlertChange{To: "dismissed"}, f.clock, system))
			}
			f.attest(13, 24, 20)
			f.serve(23)
			want := "13 1 1"
			if closed {
				want = "13 0 0"
			}
			expect(t, "more than twice as many", fmt.Sprint(silent(), " ", told()), want)
			f.attest(13, 24, 24)
			f.serve(25)
			expect(t, "once", fmt.Sprint(silent(), " ", told()), want)
			a = must[store.Alert](t)(f.s.GetAlert(t.Context(), tenant, a.ID, t0))
			if says := strings.HasPrefix(a.Description, "13 machines of the fleet are silent by now; the first of them missed its deadline at 2026-11-23T12:05:00Z."); says == closed {
				t.Errorf("the alert says %q", a.Description)
			}
		})
	}
}
