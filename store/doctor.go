package store

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/google/uuid"
)

// Examination is what an operator should know of a database. It holds no secret, and of tenants only counts and names that
// administrators gave.
type Examination struct {
	Server       string        // version of Postgres
	ClockAhead   time.Duration // how far the database's clock is before this process's
	Durable      bool          // fsync, full_page_writes and synchronous_commit are on
	NotDurable   string        // which of them is not
	Role         string
	BypassesRLS  string // why the role sees all rows of protected tables; empty where it does not
	ProtectedBy  int    // tables with row-level security
	SealedKeys   int
	PlainKeys    int
	OldestSigner time.Time // since when the active signing keys sign, the oldest of them; zero where there is none
	Anchors      []ExaminedAnchor
	Collateral   []ExaminedCollateral
	WantedLong   int // collateral that was asked for five times and not found
	Partitions   []ExaminedPartitions
	DeadLast7d   int      // deliveries
	ChannelsOff  []string // names of channels that the service disabled
	LastBeat     time.Time
	OldestJob    time.Duration // how long the oldest job of the queue is due
	OldestEvent  time.Duration // how long the oldest event waits to be told
	OldestDelta  time.Duration // how long the oldest count waits to be added up
	OldestReview time.Duration // how long the oldest reappraisal waits
}

// ExaminedAnchor is a certificate of an enabled trust anchor that ends within a month, or the state of a purpose.
type ExaminedAnchor struct {
	Purpose, Name string
	NotAfter      time.Time
}

// ExaminedCollateral is collateral that has ended or ends within a week.
type ExaminedCollateral struct {
	Kind, Name string
	NotAfter   time.Time
}

// ExaminedPartitions is the state of a partitioned table.
type ExaminedPartitions struct {
	Table          string
	ThisMonth      bool
	NextMonth      bool
	DefaultHasRows bool
}

// Bounds of what Examine lists.
const (
	examinedMost   = 20
	anchorsEndSoon = 30 * 24 * time.Hour
	collateralSoon = 7 * 24 * time.Hour
)

// examiner looks by a connection of its own at all tenants: as the owner of the tables where the URL names it, else as the service does.
type examiner struct{ db *pgx.Conn }

// Examine looks the database at url over, whose schema is that of this code. role is the service's (Options.Role), now this process's clock.
func Examine(ctx context.Context, url, role string, now func() time.Time) (x Examination, err error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return x, fmt.Errorf("the database does not answer: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	e := examiner{conn}
	steps := []func() error{
		func() error { return e.server(ctx, &x, now) },
		func() error { return e.role(ctx, &x) },
		func() error { return e.allTenants(ctx, cmp.Or(role, DefaultRole)) },
		func() error { return e.trust(ctx, &x, now()) },
		func() error { return e.partitions(ctx, &x, now()) },
		func() error { return e.work(ctx, &x, now()) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return x, fmt.Errorf("examine the database: %w", err)
		}
	}
	return x, nil
}

func (e examiner) server(ctx context.Context, x *Examination, now func() time.Time) error {
	var there time.Time
	before := now()
	if err := e.db.QueryRow(ctx, `SELECT clock_timestamp(), current_setting('server_version'), concat_ws(', ',
			CASE WHEN current_setting('fsync') = 'off' THEN 'fsync' END,
			CASE WHEN current_setting('full_page_writes') = 'off' THEN 'full_page_writes' END,
			CASE WHEN current_setting('synchronous_commit') = 'off' THEN 'synchronous_commit' END)`).Scan(&there, &x.Server, &x.NotDurable); err != nil {
		return err
	}
	x.ClockAhead = there.Sub(before.Add(now().Sub(before) / 2))
	x.Durable = x.NotDurable == ""
	return nil
}

// role asks the catalog alone, whatever the policies are.
func (e examiner) role(ctx context.Context, x *Examination) error {
	return e.db.QueryRow(ctx, `SELECT r.rolname, count(c.oid), CASE
			WHEN count(c.oid) = 0 THEN ''
			WHEN r.rolsuper THEN 'it is a superuser'
			WHEN r.rolbypassrls THEN 'it has BYPASSRLS'
			WHEN bool_or(pg_has_role(r.oid, c.relowner, 'USAGE') AND NOT c.relforcerowsecurity) THEN 'it owns tables that do not force it'
			ELSE '' END
		FROM pg_roles r LEFT JOIN pg_class c ON c.relnamespace = current_schema()::regnamespace AND c.relrowsecurity AND c.relkind IN ('r', 'p')
		WHERE r.rolname = current_user GROUP BY r.oid, r.rolname, r.rolsuper, r.rolbypassrls`).Scan(&x.Role, &x.ProtectedBy, &x.BypassesRLS)
}

// allTenants lets the connection see the rows of every tenant. A login that is bound by row-level security would see none, and find
// all well.
func (e examiner) allTenants(ctx context.Context, role string) error {
	var reads, bound bool
	if err := e.db.QueryRow(ctx, `SELECT has_table_privilege('service_keys', 'SELECT'), row_security_active('service_keys')`).Scan(&reads, &bound); err != nil {
		return err
	}
	if reads && !bound {
		return nil
	}
	if _, err := e.db.Exec(ctx, `SET ROLE `+pgx.Identifier{role}.Sanitize()); err != nil {
		return err
	}
	_, err := e.db.Exec(ctx, `SELECT set_config('assay.tenants', (SELECT coalesce(array_agg(t), '{}')::text FROM assay_tenant_ids() t), false), set_config('row_security', 'on', false)`)
	return err
}

func (e examiner) trust(ctx context.Context, x *Examination, now time.Time) error {
	if err := e.db.QueryRow(ctx, `SELECT count(*) FILTER (WHERE kek_id IS NOT NULL), count(*) FILTER (WHERE kek_id IS NULL AND length(key) > 0) FROM service_keys`).
		Scan(&x.SealedKeys, &x.PlainKeys); err != nil {
		return err
	}
	var oldest *time.Time
	if err := e.db.QueryRow(ctx, `SELECT min(since) FROM (SELECT purpose, max(coalesce(activated_at, created_at)) AS since FROM service_keys
		WHERE purpose LIKE 'result_signing%' AND revoked_at IS NULL AND erased_at IS NULL AND (activated_at <= $1 OR activated_at IS NULL AND generation = 1) GROUP BY purpose) k`, now).
		Scan(&oldest); err != nil {
		return err
	}
	if oldest != nil {
		x.OldestSigner = *oldest
	}
	rows, _ := e.db.Query(ctx, `SELECT a.purpose, a.name, min(c.not_after) FROM trust_anchors a JOIN trust_anchor_certificates c USING (tenant_id, anchor_id)
		WHERE a.enabled AND c.not_after < $1 GROUP BY a.tenant_id, a.anchor_id, a.purpose, a.name ORDER BY 3 LIMIT $2`, now.Add(anchorsEndSoon), examinedMost)
	var err error
	if x.Anchors, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ExaminedAnchor]); err != nil {
		return err
	}
	rows, _ = e.db.Query(ctx, `SELECT kind, name, not_after FROM collateral WHERE not_after < $1 ORDER BY 3 LIMIT $2`, now.Add(collateralSoon), examinedMost)
	if x.Collateral, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ExaminedCollateral]); err != nil {
		return err
	}
	return e.db.QueryRow(ctx, `SELECT count(*) FROM collateral_wants WHERE attempts >= 5`).Scan(&x.WantedLong)
}

func (e examiner) partitions(ctx context.Context, x *Examination, now time.Time) error {
	month := time.Date(now.UTC().Year(), now.UTC().Month(), 1, 0, 0, 0, 0, time.UTC)
	for _, table := range []string{"verdicts", "evidence", "audit_events"} {
		p := ExaminedPartitions{Table: table}
		name := func(m time.Time) string { return table + m.Format("_y2006m01") }
		if err := e.db.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL, to_regclass($2) IS NOT NULL, assay_stray_rows($3::text::regclass)`,
			name(month), name(month.AddDate(0, 1, 0)), table).Scan(&p.ThisMonth, &p.NextMonth, &p.DefaultHasRows); err != nil {
			return err
		}
		x.Partitions = append(x.Partitions, p)
	}
	return nil
}

func (e examiner) work(ctx context.Context, x *Examination, now time.Time) error {
	if err := e.db.QueryRow(ctx, `SELECT (SELECT count(*) FROM deliveries WHERE state = 'dead' AND finished_at > $1),
		(SELECT coalesce(array_agg(name ORDER BY name), '{}') FROM (SELECT name FROM notification_channels WHERE NOT enabled AND disabled_reason IN ('gone', 'failing') ORDER BY name LIMIT $2) c)`,
		now.AddDate(0, 0, -7), examinedMost).Scan(&x.DeadLast7d, &x.ChannelsOff); err != nil {
		return err
	}
	since := func(into *time.Duration, sql string, args ...any) error {
		var at *time.Time
		if err := e.db.QueryRow(ctx, sql, args...).Scan(&at); err != nil {
			return err
		}
		if at != nil {
			*into = now.Sub(*at)
		}
		return nil
	}
	var beat time.Duration
	for _, q := range []struct {
		into *time.Duration
		sql  string
	}{
		{&beat, `SELECT max(beat_at) FROM service_heartbeats`},
		{&x.OldestJob, `SELECT min(scheduled_at) FROM river.river_job WHERE state IN ('available', 'retryable', 'scheduled')`},
		{&x.OldestEvent, `SELECT min(written_at) FROM outbox WHERE fanned_out_at IS NULL`},
		{&x.OldestDelta, `SELECT min(hour) + interval '1 hour' FROM rollup_deltas`},
		{&x.OldestReview, `SELECT min(requested_at) FROM reappraisals WHERE state = 'queued'`},
	} {
		if err := since(q.into, q.sql); err != nil {
			return err
		}
	}
	if beat != 0 {
		x.LastBeat = now.Add(-beat)
	}
	return nil
}

// OpenAllKeys opens every key of the service, and tells the first that does not open, without making or changing any.
func (s *Store) OpenAllKeys(ctx context.Context) (opened int, err error) {
	tenants, err := s.Tenants(ctx)
	if err != nil {
		return 0, err
	}
	for _, tenant := range tenants {
		purposes, err := s.keyPurposes(ctx, tenant)
		if err != nil {
			return opened, err
		}
		for _, purpose := range purposes {
			keys, err := s.ServiceKeys(ctx, tenant, purpose)
			if err != nil {
				return opened, err
			}
			opened += len(keys)
		}
	}
	return opened, nil
}

func (s *Store) keyPurposes(ctx context.Context, tenant uuid.UUID) ([]string, error) {
	ctx = withTenant(ctx, tenant)
	rows, _ := s.pool.Query(ctx, `SELECT DISTINCT purpose FROM service_keys WHERE tenant_id = $1 ORDER BY 1`, pgUUID(tenant))
	purposes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list the purposes of keys: %w", err)
	}
	return purposes, nil
}
