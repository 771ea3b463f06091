package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// fillVerdicts makes verdicts in the shape of a stored one: a second apart, over all machines, every tenth
// contraindicated. The claims are left out to keep the table small; no query looks into them.
const fillVerdicts = `INSERT INTO verdicts (tenant_id, verdict_id, machine_id, key_id, status, reason, assurance, genuine, first_at, last_at, run_count, appraisal)
	SELECT m.tenant_id,
		(lpad(to_hex((extract(epoch FROM g.at) * 1000)::bigint), 12, '0') || '7' || lpad(to_hex(g.i % 4096), 3, '0') || '8' || lpad(to_hex(g.i), 15, '0'))::uuid,
		m.machine_id, NULL, CASE WHEN g.i % 10 = 0 THEN 'contraindicated' ELSE 'affirming' END, CASE WHEN g.i % 10 = 0 THEN 'baseline_deviation' ELSE '' END,
		'first_use', true, g.at, g.at, 1, sample.appraisal
	FROM (SELECT i, now() - make_interval(secs => $1 - i) AS at FROM generate_series(1, $1) i) g
	JOIN (SELECT tenant_id, machine_id, row_number() OVER () - 1 AS n, count(*) OVER () AS total FROM machines) m ON m.n = g.i % m.total
	CROSS JOIN (SELECT json_build_object('status', a->'status', 'reason', a->'reason', 'assurance', a->'assurance', 'checks', a->'checks', 'deviations', a->'deviations',
			'claims', '{}'::json, 'baseline', a->'baseline', 'policy', a->'policy') AS appraisal
		FROM (SELECT appraisal AS a FROM verdicts WHERE status = 'affirming' LIMIT 1) one) sample`

// queries is W4: filtered pages of 50 out of many verdicts, in order, so that each page's CPU time in
// Postgres can be told.
func (f *fleet) queries(ctx context.Context, r *report) error {
	if _, err := f.s.db.Exec(ctx, fillVerdicts, f.o.rows); err != nil {
		return fmt.Errorf("fill the table: %w", err)
	}
	if _, err := f.s.db.Exec(ctx, `VACUUM ANALYZE verdicts`); err != nil {
		return err
	}
	filters := []url.Values{
		{},
		{"status": {"contraindicated"}},
		{"reason": {"baseline_deviation"}},
		{"since": {time.Now().Add(-24 * time.Hour).UTC().Format(time.RFC3339)}},
		{"until": {time.Now().Add(-24 * time.Hour).UTC().Format(time.RFC3339)}, "status": {"affirming"}},
		{"sort": {"first_at"}},
		{"sort": {"-status"}},
		{"sort": {"status"}, "fleet": {"1"}},
		{"sort": {"machine_id"}, "fleet": {"1"}},
		{"status": {"affirming,contraindicated"}, "fleet": {"1"}},
	}
	var database, api []float64
	for i := range 400 {
		values := url.Values{"limit": {"50"}}
		for k, v := range filters[i%len(filters)] {
			values[k] = v
		}
		path := "/v1/machines/" + f.machines[i*7919%len(f.machines)].id + "/verdicts?"
		if values.Has("fleet") { // of all machines
			values.Del("fleet")
			path = "/v1/verdicts?"
		}
		for range 2 { // the first page and the next
			before, err := f.s.counted.usage()
			if err != nil {
				return err
			}
			var page struct {
				Items      []struct{ ID string }
				NextCursor string `json:"next_cursor"`
			}
			started := time.Now()
			if err := f.s.call(ctx, http.MethodGet, path+values.Encode(), f.s.token, nil, &page); err != nil {
				return err
			}
			api = append(api, micros(time.Since(started)))
			after, err := f.s.counted.usage()
			if err != nil {
				return err
			}
			database = append(database, micros(after.since(before)-after.of(before, f.s.service.Process.Pid)))
			if page.NextCursor == "" {
				break
			}
			values.Set("cursor", page.NextCursor)
		}
	}
	r.Rows = f.o.rows
	r.Queries = append(r.Queries,
		quantity{"W4 CPU in Postgres a page, p50", median(database) / 1000, "ms", "0.2"},
		quantity{"W4 API latency, p50", median(api) / 1000, "ms", ""},
		quantity{"W4 API latency, p99", quantile(api, 0.99) / 1000, "ms", "10"})
	return nil
}
