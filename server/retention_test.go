package server

import (
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
)

// retention: the tenant decides, within bounds; what was pruned is told from what never was by its age alone.
func retention(b *bench, _ *machine) {
	const path = "/v1/retention"
	a := b.want(200, "GET", path, b.admin, nil).json(b.t)
	if a["evidence_days"] != float64(store.DefaultRetention.EvidenceDays) || a["updated_by"] != nil || a["updated_at"] != nil {
		b.t.Errorf("before anybody decided: %v", a)
	}
	set := b.want(200, "PUT", path, b.admin, `{"evidence_days": 30, "verdict_days": 60, "audit_days": 365}`).json(b.t)
	if got := b.want(200, "GET", path, b.admin, nil).json(b.t); got["verdict_days"] != float64(60) || got["updated_by"] != set["updated_by"] || got["updated_at"] == nil {
		b.t.Errorf("%v, set %v", got, set)
	}
	for body, at := range map[string]string{
		`{"evidence_days": 61, "verdict_days": 60, "audit_days": 365}`:  "/evidence_days",
		`{"evidence_days": 6, "verdict_days": 60, "audit_days": 365}`:   "/evidence_days",
		`{"evidence_days": 7, "verdict_days": 29, "audit_days": 365}`:   "/verdict_days",
		`{"evidence_days": 7, "verdict_days": 30, "audit_days": 364}`:   "/audit_days",
		`{"evidence_days": 7, "verdict_days": 30, "audit_days": 36501}`: "/audit_days",
		`{"evidence_days": 7, "verdict_days": 30}`:                      "/audit_days",
	} {
		b.refused("invalid_field", at, "PUT", path, b.admin, body)
	}
	b.refused("unknown_field", "/days", "PUT", path, b.admin, `{"evidence_days": 30, "verdict_days": 60, "audit_days": 365, "days": 1}`)
	b.refused("malformed_json", "", "PUT", path, b.admin, `{`)

	conn, err := pgx.Connect(b.t.Context(), b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(b.t.Context())
	const old, young = "01800000-0000-7000-8000-000000000001", "01b00000-0000-7000-8000-000000000001"
	unknown := b.want(404, "GET", "/v1/verdicts/"+old, b.admin, nil)
	if strings.Contains(string(unknown.body), "taken out") {
		b.t.Errorf("nothing was pruned yet: %s", unknown.body)
	}
	for _, kind := range []string{"verdicts", "evidence"} {
		if _, err := conn.Exec(b.t.Context(), `INSERT INTO retention_marks (tenant_id, kind, subject_id, pruned_id, pruned_count, pruned_at)
			VALUES ($1, $2, gen_random_uuid(), '01850000-0000-7000-8000-000000000001', 1, now())`, store.DefaultTenant, kind); err != nil {
			b.t.Fatal(err)
		}
	}
	for id, told := range map[string]bool{old: true, young: false} {
		for _, of := range []string{"", "/event-log"} {
			a := b.want(404, "GET", "/v1/verdicts/"+id+of, b.admin, nil)
			if strings.Contains(string(a.body), "taken out") != told {
				b.t.Errorf("%s%s: %s", id, of, a.body)
			}
		}
	}
}
