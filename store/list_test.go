package store_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/store"
)

// fillList makes n machines of a tenant, each with a verdict, an alert, a recommendation and an assessment, whose sort
// keys have many ties. Ids are random, and so in no order with anything else.
const fillList = `WITH m AS (INSERT INTO machines (tenant_id, machine_id, name, scale_set, platform, status, state, created_at, updated_at)
		SELECT $1, gen_random_uuid(), chr(97 + (random() * 3)::int) || chr(65 + (random() * 2)::int), (ARRAY['', 'a', 'b'])[1 + (random() * 2)::int],
			(ARRAY['azure', 'gcp', ''])[1 + (random() * 2)::int], (ARRAY['affirming', 'warning', 'contraindicated'])[1 + (random() * 2)::int], 'active', $3, $3
		FROM generate_series(1, $2) ON CONFLICT DO NOTHING RETURNING machine_id, status),
	st AS (INSERT INTO machine_attestation_state (tenant_id, machine_id, last_seen_at)
		SELECT $1, machine_id, CASE WHEN random() < 0.7 THEN $3::timestamptz + make_interval(secs => (random() * 2)::int) END FROM m RETURNING machine_id),
	v AS (INSERT INTO verdicts (tenant_id, verdict_id, machine_id, status, reason, assurance, genuine, first_at, last_at, run_count, appraisal)
		SELECT $1, gen_random_uuid(), machine_id, status, '', '', true, $3, $3, 1, json_build_object('status', status) FROM m),
	a AS (INSERT INTO alerts (tenant_id, alert_id, machine_id, code, display_name, severity, reason, description, remediation_steps, status, first_seen_at, last_seen_at, seen_count, updated_at)
		SELECT $1, gen_random_uuid(), machine_id, (ARRAY['x', 'y'])[1 + (random())::int], '', (ARRAY['low', 'medium', 'high'])[1 + (random() * 2)::int], '', '', '{}',
			(ARRAY['active', 'resolved'])[1 + random()::int], $3, $3, 1, $3::timestamptz + make_interval(secs => (random() * 2)::int) FROM m),
	r AS (INSERT INTO recommendations (tenant_id, recommendation_id, machine_id, code, display_name, severity, description, remediation_steps, open, first_seen_at, last_seen_at)
		SELECT $1, gen_random_uuid(), machine_id, (ARRAY['x', 'y'])[1 + (random())::int], '', (ARRAY['low', 'medium', 'high'])[1 + (random() * 2)::int], '', '{}',
			random() < 0.8, $3::timestamptz + make_interval(secs => (random() * 2)::int), $3 FROM m)
	INSERT INTO assessments (tenant_id, machine_id, code, display_name, severity, status, cause, description, first_evaluated_at, status_changed_at, evaluated_at)
	SELECT $1, machine_id, code, '', (ARRAY['low', 'medium', 'high'])[1 + (random() * 2)::int], (ARRAY['Healthy', 'Unhealthy'])[1 + random()::int], '', '', $3,
		$3::timestamptz + make_interval(secs => (random() * 2)::int), $3 FROM m CROSS JOIN (VALUES ('c1'), ('c2')) c (code)`

// changeList changes sort keys of the machines that it is given.
var changeList = []string{
	`UPDATE machines SET name = name || 'z', status = 'none', scale_set = 'c' WHERE tenant_id = $1 AND machine_id = ANY($2)`,
	`UPDATE machine_attestation_state SET last_seen_at = now() WHERE tenant_id = $1 AND machine_id = ANY($2)`,
	`UPDATE verdicts SET status = 'none' WHERE tenant_id = $1 AND machine_id = ANY($2)`,
	`UPDATE alerts SET severity = 'low', status = 'dismissed', updated_at = now() WHERE tenant_id = $1 AND machine_id = ANY($2)`,
	`UPDATE recommendations SET severity = 'high', first_seen_at = now() WHERE tenant_id = $1 AND machine_id = ANY($2)`,
	`UPDATE assessments SET status = 'NotApplicable', status_changed_at = now() WHERE tenant_id = $1 AND machine_id = ANY($2)`,
}

// row is one item of a list: what tells it from others, its machine, and its values by sort, in a form whose order as text
// is theirs.
type row struct {
	id      string
	machine uuid.UUID
	keys    map[string]string
}

type walked func(ctx context.Context, tenant uuid.UUID, filter string, p store.Page) ([]row, string, error)

func rowsOf[T any](items []T, next string, err error, of func(T) row) ([]row, string, error) {
	out := make([]row, len(items))
	for i, item := range items {
		out[i] = of(item)
	}
	return out, next, err
}

var ranks = map[string]string{"low": "1", "medium": "2", "high": "3"}

func stamp(t time.Time) string { return t.UTC().Format("20060102150405.000000") }

// walkedLists reads each list. The filter is one that the list has: two values of one field.
func walkedLists(s *store.Store) map[string]walked {
	return map[string]walked{
		"machines": func(ctx context.Context, tenant uuid.UUID, filter string, p store.Page) ([]row, string, error) {
			items, next, err := s.ListMachines(ctx, tenant, store.MachineFilter{Status: filter}, p)
			return rowsOf(items, next, err, func(m store.Machine) row {
				seen := ""
				if m.LastSeenAt != nil {
					seen = stamp(*m.LastSeenAt)
				}
				return row{m.ID.String(), m.ID, map[string]string{"name": m.Name, "scale_set": m.ScaleSet, "status": m.Status.String(), "platform": m.Platform, "last_seen_at": seen}}
			})
		},
		"verdicts": func(ctx context.Context, tenant uuid.UUID, filter string, p store.Page) ([]row, string, error) {
			items, next, err := s.ListVerdicts(ctx, tenant, store.VerdictFilter{Status: filter}, p)
			return rowsOf(items, next, err, func(v store.Verdict) row {
				return row{v.ID.String(), v.MachineID, map[string]string{"machine_id": v.MachineID.String(), "status": v.Appraisal.Status.String()}}
			})
		},
		"alerts": func(ctx context.Context, tenant uuid.UUID, filter string, p store.Page) ([]row, string, error) {
			items, next, err := s.ListAlerts(ctx, tenant, store.AlertFilter{Severity: filter}, p, t0)
			return rowsOf(items, next, err, func(a store.Alert) row {
				return row{a.ID.String(), a.MachineID, map[string]string{"severity": ranks[string(a.Severity)], "status": a.Status, "code": a.Code, "updated_at": stamp(a.UpdatedAt)}}
			})
		},
		"recommendations": func(ctx context.Context, tenant uuid.UUID, filter string, p store.Page) ([]row, string, error) {
			items, next, err := s.ListRecommendations(ctx, tenant, store.RecommendationFilter{Severity: filter}, p, t0)
			return rowsOf(items, next, err, func(r store.Recommendation) row {
				return row{r.ID.String(), r.MachineID, map[string]string{"severity": ranks[string(r.Severity)], "code": r.Code, "first_seen_at": stamp(r.FirstSeenAt)}}
			})
		},
		"assessments": func(ctx context.Context, tenant uuid.UUID, filter string, p store.Page) ([]row, string, error) {
			items, next, err := s.ListAssessments(ctx, tenant, store.AssessmentFilter{Severity: filter}, p)
			return rowsOf(items, next, err, func(a store.Assessment) row {
				return row{a.MachineID.String() + a.Code, a.MachineID, map[string]string{"code": a.Code, "status": string(a.Status), "severity": ranks[string(a.Severity)], "status_changed_at": stamp(a.StatusChangedAt)}}
			})
		},
	}
}

// filters are, by list, values of the filtered field; the empty one filters nothing.
var filters = map[string][]string{
	"machines": {"", "warning", "affirming,contraindicated"}, "verdicts": {"", "warning", "affirming,contraindicated"},
	"alerts": {"", "high", "low,medium"}, "recommendations": {"", "high", "low,medium"}, "assessments": {"", "high", "low,medium"},
}

// TestWalks walks pages of every list that may be large, in every order, while rows come and change. The rows that do not
// change are each on one page, in order, and no others that the filter leaves out.
func TestWalks(t *testing.T) {
	s, conn := newStore(t)
	lists, sorts := walkedLists(s), store.SortsOf()
	names := []string{"alerts", "assessments", "machines", "recommendations", "verdicts"}
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		own := uuid.New()
		check := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		exec := func(sql string, args ...any) {
			_, err := conn.Exec(t.Context(), sql, args...)
			check(err)
		}
		check(s.EnsureTenant(t.Context(), own, t0))
		exec(fillList, own, rapid.IntRange(0, 25).Draw(rt, "machines"), t0)
		name := rapid.SampledFrom(names).Draw(rt, "list")
		slices.Sort(sorts[name])
		sort := rapid.SampledFrom(sorts[name]).Draw(rt, "sort")
		filter := rapid.SampledFrom(filters[name]).Draw(rt, "filter")
		limit := rapid.IntRange(1, 9).Draw(rt, "limit")
		all, more, err := lists[name](t.Context(), own, filter, store.Page{Limit: 500})
		check(err)
		unfiltered, _, err := lists[name](t.Context(), own, "", store.Page{Limit: 500})
		check(err)
		if more != "" || (filter == "" && len(all) != len(unfiltered)) {
			rt.Fatalf("%d of %d rows", len(all), len(unfiltered))
		}
		changed := map[uuid.UUID]bool{}
		var got []row
		for page := (store.Page{Limit: limit, Sort: sort}); ; {
			items, next, err := lists[name](t.Context(), own, filter, page)
			check(err)
			if len(items) > limit || (next != "" && len(items) < limit) {
				rt.Fatalf("a page of %d rows", len(items))
			}
			got = append(got, items...)
			if page.Cursor = next; next == "" {
				break
			}
			switch rapid.IntRange(0, 2).Draw(rt, "meanwhile") {
			case 1:
				exec(fillList, own, 2, t0)
			case 2:
				if m := rapid.SampledFrom(all).Draw(rt, "changed").machine; len(changed) < 5 {
					changed[m] = true
					for _, sql := range changeList {
						exec(sql, own, []uuid.UUID{m})
					}
				}
			}
		}
		sameWalk(rt, all, got, changed, sort)
	})
	if run == 0 {
		t.Error("nothing was walked")
	}
}

// sameWalk compares the rows that were walked with all that the filter chose at the beginning, but for those of changed
// machines and those that came.
func sameWalk(t *rapid.T, all, got []row, changed map[uuid.UUID]bool, sort string) {
	by, desc := strings.CutPrefix(sort, "-")
	old := map[string]bool{}
	for _, r := range all {
		old[r.id] = true
	}
	keep := func(rows []row) []row {
		return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return changed[r.machine] || !old[r.id] })
	}
	want := keep(all)
	slices.SortFunc(want, func(a, b row) int {
		c := cmp.Or(cmp.Compare(a.keys[by], b.keys[by]), cmp.Compare(a.id, b.id))
		if desc {
			return -c
		}
		return c
	})
	walked := keep(got)
	for i := range max(len(want), len(walked)) {
		if i >= len(want) || i >= len(walked) || want[i].id != walked[i].id {
			t.Fatalf("by %s: row %d of %d differs (%d walked)", sort, i, len(want), len(walked))
		}
	}
}

// A cursor is good for its own list, order and filters, and whatever somebody writes into one is refused.
func TestCursorsAreOfOneList(t *testing.T) {
	s, conn := newStore(t)
	if _, err := conn.Exec(t.Context(), fillList, tenant, 20, t0); err != nil {
		t.Fatal(err)
	}
	_, next, err := s.ListMachines(t.Context(), tenant, store.MachineFilter{Status: "affirming,warning"}, store.Page{Limit: 2, Sort: "name"})
	must0(t, err)
	ask := func(f store.MachineFilter, sort string) error {
		_, _, err := s.ListMachines(t.Context(), tenant, f, store.Page{Limit: 2, Sort: sort, Cursor: next})
		return err
	}
	must0(t, ask(store.MachineFilter{Status: "affirming,warning"}, "name"))
	for _, c := range []struct {
		f    store.MachineFilter
		sort string
	}{{store.MachineFilter{Status: "affirming,warning"}, "-name"}, {store.MachineFilter{Status: "affirming"}, "name"}, {store.MachineFilter{}, "name"},
		{store.MachineFilter{Status: "affirming,warning", Labels: []string{"a=b"}}, "name"}, {store.MachineFilter{Status: "affirming,warning"}, ""}} {
		if err := ask(c.f, c.sort); !errors.Is(err, store.ErrOtherCursor) || !errors.Is(err, store.ErrInvalidCursor) {
			t.Errorf("%+v by %q: %v", c.f, c.sort, err)
		}
	}
	if _, _, err := s.ListMachines(t.Context(), tenant, store.MachineFilter{}, store.Page{Sort: "nonsense"}); !errors.Is(err, store.ErrInvalidSort) {
		t.Errorf("an unknown order: %v", err)
	}
}

// The larger tables are read by an index in every order that has one: no plan sorts, and none reads a table whole.
func TestOrdersHaveIndexes(t *testing.T) {
	s, conn := newStore(t)
	for _, sql := range []string{
		`INSERT INTO machines (tenant_id, machine_id, name, scale_set, platform, status, state, created_at, updated_at)
			SELECT $1, gen_random_uuid(), 'web-' || i, 's' || i % 50, 'azure', CASE WHEN i % 20 = 0 THEN 'contraindicated' ELSE 'affirming' END, 'active', now(), now()
			FROM generate_series(1, 10000) i`,
		`INSERT INTO machine_attestation_state (tenant_id, machine_id, last_seen_at) SELECT tenant_id, machine_id, now() FROM machines WHERE tenant_id = $1`,
		`INSERT INTO verdicts (tenant_id, verdict_id, machine_id, status, reason, assurance, genuine, first_at, last_at, run_count, appraisal)
			SELECT tenant_id, gen_random_uuid(), machine_id, status, '', '', true, now(), now(), 1, '{}' FROM machines CROSS JOIN generate_series(1, 4) WHERE tenant_id = $1`,
		`INSERT INTO alerts (tenant_id, alert_id, machine_id, code, display_name, severity, reason, description, remediation_steps, status, first_seen_at, last_seen_at, seen_count, updated_at)
			SELECT tenant_id, gen_random_uuid(), machine_id, 'c' || i, '', (ARRAY['low', 'medium', 'high'])[i], '', '', '{}', CASE WHEN i = 1 THEN 'active' ELSE 'resolved' END, now(), now(), 1, now()
			FROM machines CROSS JOIN generate_series(1, 3) i WHERE tenant_id = $1`,
		`INSERT INTO recommendations (tenant_id, recommendation_id, machine_id, code, display_name, severity, description, remediation_steps, open, first_seen_at, last_seen_at)
			SELECT tenant_id, gen_random_uuid(), machine_id, 'c' || i, '', (ARRAY['low', 'medium', 'high'])[i], '', '{}', true, now(), now()
			FROM machines CROSS JOIN generate_series(1, 3) i WHERE tenant_id = $1`,
		`INSERT INTO assessments (tenant_id, machine_id, code, display_name, severity, status, cause, description, first_evaluated_at, status_changed_at, evaluated_at)
			SELECT tenant_id, machine_id, 'c' || i, '', (ARRAY['low', 'medium', 'high'])[i], CASE WHEN i = 1 THEN 'Unhealthy' ELSE 'Healthy' END, '', '', now(), now(), now()
			FROM machines CROSS JOIN generate_series(1, 3) i WHERE tenant_id = $1`,
	} {
		if _, err := conn.Exec(t.Context(), sql, tenant); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := conn.Exec(t.Context(), `ANALYZE`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	plans := 0
	must0(t, store.ExplainLists(t.Context(), store.PoolOf(s), tenant, t0, func(name, plan string) {
		plans++
		for _, line := range strings.Split(plan, "\n") {
			large := strings.Contains(line, "Seq Scan") && !strings.Contains(line, "suppression_rules")
			if large || strings.Contains(line, "Sort") {
				t.Errorf("%s:\n%s", name, plan)
				break
			}
		}
	}))
	if plans < 60 {
		t.Errorf("only %d plans: %s", plans, fmt.Sprint(store.SortsOf()))
	}
}
