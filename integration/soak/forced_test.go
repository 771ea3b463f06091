package soak

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// A scale set falls silent, comes back but for one machine, and later the whole fleet falls silent. What must be found, and
// when, is worked out here from when each machine was heard last: it asks neither the service nor the model.
func TestForcedMassSilence(t *testing.T) {
	w := newWorld(t, plan{seed: 1, machines: 18, hours: 3, slower: 1, replicas: 2, well: true})
	at := func(minutes int) time.Time { return begin.Add(time.Duration(minutes) * time.Minute) }
	var set, others []*machine // of the scale set, and those whose policy has the same times
	for _, m := range w.machines {
		switch m.scaleSet {
		case "set-1":
			set = append(set, m)
		case "set-0":
			others = append(others, m)
		}
	}
	until := func(end time.Time) {
		for w.now.Before(end) {
			w.live()
		}
	}
	var want []string
	event := func(at time.Time, kind, of string) {
		want = append(want, fmt.Sprintf("%s %s %s", at.Sub(begin), kind, of))
	}

	until(at(10))
	for _, m := range set {
		m.silent = at(45)
	}
	last := set[3]
	last.silent = at(60)
	// The alert of the first is due after interval (300 s), tolerance (120 s) and delay (600 s). All are stale by then, since
	// the others were heard at most an interval later.
	first := firstLook(set, 1020*time.Second)
	event(first, "alert.opened", "scale_set:set-1")
	until(first)
	w.expectMembers("") // none yet: the delay is not over
	w.live()
	w.expectMembers("scale_set:set-1", set...)
	until(at(45))
	w.live() // five of six are back: that is over, and the sixth has an alert of its own, which was due long ago
	w.expectMembers("")
	event(at(45), "alert.opened", last.id.String())
	event(at(45), "alert.resolved", "scale_set:set-1")
	until(at(60))
	w.live()
	event(at(60), "alert.resolved", last.id.String())

	until(at(80))
	for _, m := range w.machines {
		m.silent = at(130)
	}
	first = firstLook(slices.Concat(set, others), 1020*time.Second)
	event(first, "alert.opened", "fleet")
	until(first)
	w.live()
	until(at(130)) // who was late because of longer times has joined by now
	w.expectMembers("fleet", w.machines...)
	w.live()
	w.expectMembers("")
	event(at(130), "alert.resolved", "fleet")
	until(at(135))

	rows, _ := w.db.Query(t.Context(), `SELECT o.created_at, o.kind, coalesce(a.machine_id::text, a.scope) FROM outbox o JOIN alerts a ON a.alert_id = o.subject_id ORDER BY o.created_at, o.kind`)
	var got []string
	var when time.Time
	var kind, of string
	if _, err := pgx.ForEachRow(rows, []any{&when, &kind, &of}, func() error {
		got = append(got, fmt.Sprintf("%s %s %s", when.UTC().Sub(begin), kind, of))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("told:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	w.compareAlerts()
	// All six; the three resolutions; and the six to who watches set-1, since a scope is no single machine's. An alert like no
	// other is an incident of one, of which is told as much.
	if n := w.compareDeliveries(); n != 2*(6+3+6) {
		t.Errorf("%d events were delivered", n)
	}
}

// firstLook is the first look at the deadlines a time after the first of the machines was heard last.
func firstLook(machines []*machine, after time.Duration) time.Time {
	first := machines[0].heard
	for _, m := range machines {
		if m.heard.Before(first) {
			first = m.heard
		}
	}
	return first.Add(after).Add(step - 1).Truncate(step)
}

// expectMembers holds that exactly these machines are part of a mass silence, and of that one.
func (w *world) expectMembers(scope string, machines ...*machine) {
	w.t.Helper()
	rows, _ := w.db.Query(w.t.Context(), `SELECT s.machine_id, x.scope FROM silent_machines s JOIN silences x USING (tenant_id, silence_id)`)
	got := map[uuid.UUID]string{}
	var id uuid.UUID
	var of string
	if _, err := pgx.ForEachRow(rows, []any{&id, &of}, func() error {
		got[id] = of
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	for _, m := range machines {
		if got[m.id] != scope {
			w.t.Errorf("%s: machine %s is part of %q, want %q", w.now, m.id, got[m.id], scope)
		}
	}
	if len(got) != len(machines) {
		w.t.Errorf("%s: %d machines are part of a mass silence, want %d of %q", w.now, len(got), len(machines), scope)
	}
}
