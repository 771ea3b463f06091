package server

import (
	"context"
	"strings"

	"github.com/assay-verifier/assay/store"
)

// fleetConflicts has the machine's EK asked for under a second name, and lists what follows; then the alert is closed, and it
// is over.
func fleetConflicts(b *bench, m *machine) {
	e := m.enrollment("web-9")
	e["ak_public"] = m.otherKey(2)
	b.refused("identity_conflict", "", "POST", "/v1/enrollments", b.joinToken(), e)
	list := b.want(200, "GET", "/v1/fleet/conflicts?limit=500", b.admin, nil).json(b.t)["items"].([]any)
	if len(list) == 0 {
		b.t.Fatal("the refused enrolment left no conflict")
	}
	found := false
	for _, x := range list {
		c := x.(map[string]any)
		details := c["details"].(map[string]any)
		pair := details["machines"].([]any)
		first := pair[0].(map[string]any)
		if first["id"] != m.id || c["ended_at"] != nil {
			continue
		}
		found = true
		alert := b.want(200, "GET", "/v1/alerts?machine_id="+m.id+"&code="+c["code"].(string), b.admin, nil).json(b.t)["items"].([]any)
		if len(alert) != 1 {
			b.t.Fatalf("%v: %v", c, alert)
		}
		a := alert[0].(map[string]any)
		if a["severity"] != "high" || a["details"].(map[string]any)["kind"] == "" || !strings.Contains(a["description"].(string), first["name"].(string)) {
			b.t.Errorf("%v", a)
		}
		b.want(200, "POST", "/v1/alerts/"+a["id"].(string)+"/resolve", b.admin, nil)
		kind := details["kind"].(string)
		if same := b.want(200, "GET", "/v1/fleet/conflicts?include_ended=true&machine_id="+m.id+"&kind="+kind, b.admin, nil).json(b.t)["items"].([]any); len(same) == 0 {
			b.t.Errorf("no conflict of kind %s and this machine", kind)
		}
	}
	if !found {
		b.t.Errorf("no conflict of machine %s: %v", m.id, list)
	}
	if _, err := b.server.store.DetectFleet(context.Background(), store.DefaultTenant, b.server.now()); err != nil {
		b.t.Fatal(err)
	}
	if left := b.want(200, "GET", "/v1/fleet/conflicts", b.admin, nil).json(b.t)["items"].([]any); len(left) != 0 {
		b.t.Errorf("left: %v", left)
	}
	b.refused("invalid_field", "", "GET", "/v1/fleet/conflicts?kind=nonsense", b.admin, nil)
	b.refused("unknown_field", "", "GET", "/v1/fleet/conflicts?nonsense=1", b.admin, nil)
	b.refused("invalid_cursor", "", "GET", "/v1/fleet/conflicts?cursor=nonsense", b.admin, nil)
}
