package ui_test

import (
	"context"
	"testing"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// The page of an alert about two machines, or about two states of one TPM, shows them side by side.
func TestAlertPageShowsThePair(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	c := signIn(t, site, f.reader)
	ctx := context.Background()
	first, other, proved := f.machines["web-1"], f.machines["web-3"], true
	must(t, db.NoteSighting(ctx, f.tenant, first, store.Sighting{Kind: finding.QuoteRelayed, Other: &other, Observed: finding.ConflictObserved{What: "quote", SHA256: "beef", Proved: &proved, RemoteAddr: "192.0.2.9"}}, f.now))
	must(t, db.NoteSighting(ctx, f.tenant, first, store.Sighting{Kind: finding.ResetBack, First: &finding.ConflictState{At: f.now, ResetCount: 4711, ClockMS: 99}, Second: &finding.ConflictState{At: f.now, ResetCount: 4700, ClockMS: 98},
		Observed: finding.ConflictObserved{MayBe: []string{finding.MayBeSnapshot, finding.MayBeClone}}}, f.now))
	_, err := db.DetectFleet(ctx, f.tenant, f.now)
	must(t, err)
	page := func(machine, code string) (path, text string) {
		id := f.machines[machine]
		alerts, _, err := db.ListAlerts(ctx, f.tenant, store.AlertFilter{MachineID: &id, Code: code}, store.Page{}, f.now)
		must(t, err)
		if len(alerts) != 1 {
			t.Fatalf("%d alerts %s of %s", len(alerts), code, machine)
		}
		path = "/ui/alerts/" + alerts[0].ID.String()
		_, text = get(t, c, site.URL+path)
		return path, text
	}
	for _, machine := range []string{"web-1", "web-3"} {
		path, text := page(machine, "identity_conflict")
		contains(t, path, text, "The two machines", "/ui/machines/"+first.String(), "/ui/machines/"+other.String(), "Quote relayed", "beef", "192.0.2.9", "Yes, with the key itself", "What to do")
	}
	path, text := page("web-1", "rollback_detected")
	contains(t, path, text, "The two states", "Earlier", "Later", "4711", "4700", "99 ms", "Snapshot restored, Vtpm cloned")
}
