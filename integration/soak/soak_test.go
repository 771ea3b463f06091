package soak

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// A fleet lives for a while, and all that had to be found was found: each missed deadline once and in its time, no machine
// that attested; alerts, occurrences, events and deliveries exactly. With ASSAY_TEST_LONG there are 500 machines and two days;
// ASSAY_TEST_SEED is another seed.
func TestSoak(t *testing.T) {
	seed := uint64(20261125)
	if s := os.Getenv("ASSAY_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 32); err != nil {
			t.Fatal(err)
		}
	}
	machines, hours, pace, slower := 30, [2]int{1, 2}, 4.0, 1
	if os.Getenv("ASSAY_TEST_LONG") != "" {
		machines, hours, pace, slower = 500, [2]int{48, 48}, 1, 3
	}
	for i, p := range []plan{
		{replicas: 1, masses: true},
		{replicas: 2, masses: true, outages: true, kills: true},
	} {
		p.seed, p.machines, p.hours, p.pace, p.slower = seed+uint64(i), machines, hours[i], pace, slower
		t.Run(fmt.Sprintf("replicas=%d,seed=%d", p.replicas, p.seed), func(t *testing.T) {
			w := newWorld(t, p)
			end := begin.Add(time.Duration(p.hours) * time.Hour)
			for w.now.Before(end) {
				w.live()
				if w.now.Sub(begin)%(10*time.Minute) == 0 {
					w.compareSilence()
				}
			}
			w.compareSilence()
			w.compareAlerts()
			w.compareEvents()
			delivered := w.compareDeliveries()
			w.t.Logf("seed %d: %d machines, %d h, %d attestations, %d deadlines missed, %d mass silences, %d outages, %d events delivered, %d replicas killed, %d strikes",
				p.seed, p.machines, p.hours, w.attestations, w.model.stale, len(w.model.masses), len(w.model.outages), delivered, w.killed, w.struck)
			if w.attestations < p.machines*p.hours/p.slower || w.model.stale < machines/4 || delivered == 0 || len(w.model.masses) == 0 ||
				p.outages != (len(w.model.outages) > 0) || p.kills != (w.killed > 0 && w.struck > 0) {
				t.Errorf("seed %d: hardly anything happened", p.seed)
			}
		})
	}
}

// compareSilence compares who is stale, since when, and who is part of what.
func (w *world) compareSilence() {
	w.t.Helper()
	type state struct {
		stale, since, alertAt time.Time
		alerted               bool
		scope, health, cause  string
	}
	rows, _ := w.db.Query(w.t.Context(), `SELECT st.machine_id, coalesce(st.stale_at, '0001-01-01 00:00:00Z'), coalesce(s.since, '0001-01-01 00:00:00Z'),
			coalesce(s.alert_due_at, '0001-01-01 00:00:00Z'), s.alerted_at IS NOT NULL, coalesce(x.scope, ''), coalesce(a.status, ''), coalesce(a.cause, '')
		FROM machine_attestation_state st LEFT JOIN silent_machines s USING (tenant_id, machine_id)
		LEFT JOIN silences x ON x.tenant_id = s.tenant_id AND x.silence_id = s.silence_id
		LEFT JOIN assessments a ON a.tenant_id = st.tenant_id AND a.machine_id = st.machine_id AND a.code = 'guest_attestation_healthy'`)
	got := map[uuid.UUID]state{}
	var id uuid.UUID
	var s state
	if _, err := pgx.ForEachRow(rows, []any{&id, &s.stale, &s.since, &s.alertAt, &s.alerted, &s.scope, &s.health, &s.cause}, func() error {
		s.stale, s.since, s.alertAt = s.stale.UTC(), s.since.UTC(), s.alertAt.UTC()
		got[id] = s
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	for _, k := range w.model.machines {
		var want state
		switch {
		case !k.staleAt.IsZero():
			want = state{stale: k.staleAt, since: k.since, alertAt: k.alertAt, alerted: k.alerted, health: "Unhealthy", cause: "stale"}
			if k.silence != nil {
				want.scope = k.silence.scope
			}
		case k.bad:
			want = state{health: "Unhealthy", cause: "baseline_deviation"}
		case k.ever:
			want = state{health: "Healthy", cause: "attested"}
		}
		if got[k.id] != want {
			w.t.Fatalf("seed %d, %s: machine %s is\n%+v, want\n%+v", w.plan.seed, w.now, k.facts.Name, got[k.id], want)
		}
	}
}

// alertState is what is left of an alert, or of several of one machine (or scope) and code.
type alertState struct {
	open                          bool
	occurrences, opened, resolved int
}

// wanted are the alerts of the model, by machine or scope and code.
func (w *world) wanted() map[string]alertState {
	out := map[string]alertState{}
	add := func(of, code string, l *ledger) {
		if l.opened > 0 {
			out[of+" "+code] = alertState{l.open, l.occurrences, l.opened, l.resolved}
		}
	}
	for _, k := range w.model.machines {
		add(k.id.String(), "attestation_missing", &k.missing)
		add(k.id.String(), "attestation_failed", &k.failed)
	}
	for scope, l := range w.model.masses {
		add(scope, "attestation_missing", l)
	}
	return out
}

// compareAlerts compares every alert, its occurrences, and how often it was opened and resolved by the outbox.
func (w *world) compareAlerts() {
	w.t.Helper()
	rows, _ := w.db.Query(w.t.Context(), `SELECT coalesce(a.machine_id::text, a.scope), a.code, bool_or(a.status = 'active'), sum(a.seen_count)::int,
			(SELECT count(*) FROM outbox o WHERE o.subject_id = ANY (array_agg(a.alert_id)) AND o.kind IN ('alert.opened', 'alert.reopened')),
			(SELECT count(*) FROM outbox o WHERE o.subject_id = ANY (array_agg(a.alert_id)) AND o.kind = 'alert.resolved')
		FROM alerts a GROUP BY 1, 2`)
	got := map[string]alertState{}
	var of, code string
	var s alertState
	if _, err := pgx.ForEachRow(rows, []any{&of, &code, &s.open, &s.occurrences, &s.opened, &s.resolved}, func() error {
		got[of+" "+code] = s
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	want := w.wanted()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			w.t.Errorf("seed %d: alert of %s is %+v, want %+v", w.plan.seed, name, got[name], want[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, there := want[name]; !there {
			w.t.Errorf("seed %d: an alert of %s that must not be: %+v", w.plan.seed, name, got[name])
		}
	}
}

// compareEvents compares the number of events by kind: what a receiver of all of them gets, each at least once. Whoever
// delivers them is counted here too.
func (w *world) compareEvents() {
	w.t.Helper()
	opened, resolved := 0, 0
	for _, s := range w.wanted() {
		opened, resolved = opened+s.opened, resolved+s.resolved
	}
	var gotOpened, gotResolved, others int
	if err := w.db.QueryRow(w.t.Context(), `SELECT count(*) FILTER (WHERE kind IN ('alert.opened', 'alert.reopened')), count(*) FILTER (WHERE kind = 'alert.resolved'),
			count(*) FILTER (WHERE kind LIKE 'alert.%' AND kind NOT IN ('alert.opened', 'alert.reopened', 'alert.grown', 'alert.resolved')) FROM outbox`).Scan(&gotOpened, &gotResolved, &others); err != nil {
		w.t.Fatal(err)
	}
	if gotOpened != opened || gotResolved != resolved || others != 0 {
		w.t.Errorf("seed %d: %d events of opening, %d of resolving and %d others, want %d and %d", w.plan.seed, gotOpened, gotResolved, others, opened, resolved)
	}
}
