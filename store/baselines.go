package store

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier"
)

const versionColumns = `b.baseline_id, b.name, b.selector, v.version, v.state, v.active_until, v.provenance, v.origin, v.created_at, v.created_by, v.reference_digest,
	v.grace_moved_percent, v.activation, v.based_on, v.proposal, v.last_change, v.changed_by, v.changed_at`

const versionTables = `FROM baselines b JOIN baseline_versions v ON v.tenant_id = b.tenant_id AND v.baseline_id = b.baseline_id `

func scanVersion(row pgx.Row, more ...any) (BaselineVersion, error) {
	var v BaselineVersion
	err := row.Scan(append([]any{&v.BaselineID, &v.Name, &v.Selector, &v.Version, &v.State, &v.ActiveUntil, &v.Provenance, &v.Origin,
		&v.CreatedAt, &v.CreatedBy, &v.ReferenceDigest, &v.GraceMovedPercent, &v.Activation, &v.BasedOn, &v.Proposal,
		&v.LastChange, &v.ChangedBy, &v.ChangedAt}, more...)...)
	return v, err
}

func scanVersionWithReference(row pgx.Row) (BaselineVersion, error) {
	var body []byte
	v, err := scanVersion(row, &body)
	if err != nil {
		return BaselineVersion{}, err
	}
	if err := json.Unmarshal(body, &v.Reference); err != nil {
		return BaselineVersion{}, fmt.Errorf("stored reference values of baseline %s version %d: %w", v.BaselineID, v.Version, err)
	}
	return v, nil
}

// CreateBaseline makes a baseline with version 1. Of v, Reference, Provenance, Origin (empty: registered) and
// State are taken: draft or active. Where it is empty it becomes active, or draft under the two-person rule; under that
// rule active is a *SecondPersonError. ErrConflict: the name is taken.
func (s *Store) CreateBaseline(ctx context.Context, tenant uuid.UUID, name string, selector verifier.Selector, v BaselineVersion, now time.Time, actor Actor) (BaselineVersion, error) {
	ctx = withTenant(ctx, tenant)
	v.Name, v.Selector = name, selector
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if len(selector.MachineIDs) == 0 {
			if err := bumpConfig(ctx, tx, tenant); err != nil {
				return err
			}
		}
		if err := s.firstState(ctx, tx, tenant, &v, "active"); err != nil {
			return err
		}
		var err error
		if v, err = createBaseline(ctx, tx, tenant, v, now, actor); err != nil {
			return err
		}
		if err := s.withinQuota(ctx, tx, tenant, QuotaBaselines, now); err != nil {
			return err
		}
		return s.withinQuota(ctx, tx, tenant, QuotaBaselineVersions, now)
	})
	if isViolation(err, "baselines_name") {
		return BaselineVersion{}, &StateError{fmt.Sprintf("a baseline has the name %q", name)}
	}
	if err != nil {
		return BaselineVersion{}, fmt.Errorf("make baseline %q: %w", name, err)
	}
	return v, nil
}

func createBaseline(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, v BaselineVersion, now time.Time, actor Actor) (BaselineVersion, error) {
	v.BaselineID, v.Version = newID(now), 1
	if _, err := tx.Exec(ctx, `INSERT INTO baselines (tenant_id, baseline_id, name, selector, machine_bound, newest_version, created_at, updated_at)
		VALUES ($1, $2, $3, $4, $5, 1, $6, $6)`, tenant, v.BaselineID, v.Name, v.Selector, len(v.Selector.MachineIDs) > 0, now); err != nil {
		return BaselineVersion{}, err
	}
	v, err := insertVersion(ctx, tx, tenant, v, now, actor)
	if err != nil {
		return BaselineVersion{}, err
	}
	// A baseline of one machine alone that came out of that machine is its own.
	own := v.Origin != "registered" && len(v.Selector.MachineIDs) == 1
	for _, text := range v.Selector.MachineIDs {
		machine, err := uuid.Parse(text)
		if err != nil {
			return BaselineVersion{}, fmt.Errorf("machine id %q of the selector: %w", text, err)
		}
		if _, err := tx.Exec(ctx, `INSERT INTO baseline_assignments (tenant_id, machine_id, baseline_id, own) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
			tenant, machine, v.BaselineID, own); err != nil {
			return BaselineVersion{}, err
		}
	}
	return v, audit(ctx, tx, tenant, now, actor, "baseline.create", baselineTarget(v), nil, versionSummary(v))
}

func baselineTarget(v BaselineVersion) string {
	return fmt.Sprintf("baseline:%s/%d", v.BaselineID, v.Version)
}

func versionSummary(v BaselineVersion) map[string]any {
	return map[string]any{"name": v.Name, "selector": v.Selector, "state": v.State, "active_until": v.ActiveUntil,
		"grace_until_moved_percent": v.GraceMovedPercent, "based_on": v.BasedOn, "proposal": v.Proposal, "origin": v.Origin, "provenance": v.Provenance, "reference_values_sha256": fmt.Sprintf("%x", v.ReferenceDigest)}
}

// insertVersion writes a version and its reference values; v.BaselineID and v.Version are set.
func insertVersion(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, v BaselineVersion, now time.Time, actor Actor) (BaselineVersion, error) {
	if v.Origin == "" {
		v.Origin = "registered"
	}
	if v.State != "draft" {
		v.State = "active"
	}
	v.CreatedAt, v.CreatedBy, v.LastChange = now, actor.String(), "created"
	body, err := json.Marshal(v.Reference)
	if err != nil {
		return BaselineVersion{}, fmt.Errorf("reference values: %w", err)
	}
	digest := sha256.Sum256(body)
	v.ReferenceDigest = digest[:]
	tag, err := tx.Exec(ctx, `INSERT INTO reference_values (tenant_id, digest, body, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`,
		tenant, digest[:], body, now)
	if err != nil {
		return BaselineVersion{}, err
	}
	if tag.RowsAffected() > 0 {
		if err := insertReferenceEvents(ctx, tx, tenant, digest[:], v.Reference.Events); err != nil {
			return BaselineVersion{}, err
		}
	}
	if v.Provenance, err = withIdentity(v.Provenance, actor); err != nil {
		return BaselineVersion{}, err
	}
	provenance, err := marshalOrNull(v.Provenance)
	if err != nil {
		return BaselineVersion{}, err
	}
	if v.Activation = nil; v.State == "active" {
		if v.Activation, err = nextActivation(ctx, tx, tenant, v.BaselineID); err != nil {
			return BaselineVersion{}, err
		}
	}
	_, err = tx.Exec(ctx, `INSERT INTO baseline_versions (tenant_id, baseline_id, version, state, reference_digest, provenance, origin, created_by, created_at,
			activation, based_on, proposal, import_anchor, active_until)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`, tenant, v.BaselineID, v.Version, v.State, digest[:], provenance, v.Origin, v.CreatedBy, now,
		v.Activation, v.BasedOn, v.Proposal, textOrNull(v.ImportAnchor), v.ActiveUntil)
	return v, err
}

// changeBaseline locks a baseline, which puts all changes of its versions in one order, and marks the change
// of configuration where it is one of the fleet.
func (s *Store) changeBaseline(ctx context.Context, tenant, id uuid.UUID, now time.Time, f func(tx pgx.Tx, b Baseline, newest int) error) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		var bound bool
		if err := tx.QueryRow(ctx, `SELECT machine_bound FROM baselines WHERE tenant_id = $1 AND baseline_id = $2`, tenant, id).Scan(&bound); err != nil {
			return notFound(err, "baseline", id)
		}
		var one int
		if !bound {
			if err := bumpConfig(ctx, tx, tenant); err != nil {
				return err
			}
		} else if err := tx.QueryRow(ctx, `SELECT 1 FROM tenants WHERE tenant_id = $1 FOR SHARE`, tenant).Scan(&one); err != nil {
			return notFound(err, "tenant", tenant) // locked before the baseline, as by whoever withdraws an anchor
		}
		b := Baseline{ID: id}
		var newest int
		if err := tx.QueryRow(ctx, `UPDATE baselines SET updated_at = $3 WHERE tenant_id = $1 AND baseline_id = $2 RETURNING name, selector, newest_version`,
			tenant, id, now).Scan(&b.Name, &b.Selector, &newest); err != nil {
			return notFound(err, "baseline", id)
		}
		return f(tx, b, newest)
	})
}

// AddBaselineVersion adds the next version. Of v, Reference, Provenance, Origin, ActiveUntil and State are taken: draft (the
// default here, since an active version would replace another without a word), or active where the baseline has no
// active version; else ErrConflict. Under the two-person rule active is a *SecondPersonError. ErrNotFound.
func (s *Store) AddBaselineVersion(ctx context.Context, tenant, baselineID uuid.UUID, v BaselineVersion, now time.Time, actor Actor) (BaselineVersion, error) {
	ctx = withTenant(ctx, tenant)
	err := s.changeBaseline(ctx, tenant, baselineID, now, func(tx pgx.Tx, b Baseline, newest int) error {
		v.Name, v.Selector = b.Name, b.Selector
		if err := s.firstState(ctx, tx, tenant, &v, "draft"); err != nil {
			return err
		}
		var err error
		if v, err = addVersion(ctx, tx, tenant, b, newest, v, now, actor); err != nil {
			return err
		}
		return s.withinQuota(ctx, tx, tenant, QuotaBaselineVersions, now)
	})
	if isViolation(err, "baseline_versions_active") {
		err = &StateError{"another version of the baseline is active: register this one as a draft, and promote it"}
	}
	if err != nil {
		return BaselineVersion{}, fmt.Errorf("add a version to baseline %s: %w", baselineID, err)
	}
	return v, nil
}

// addVersion adds the next version to a baseline that changeBaseline has locked, with the state that v has.
func addVersion(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, b Baseline, newest int, v BaselineVersion, now time.Time, actor Actor) (BaselineVersion, error) {
	v.BaselineID, v.Name, v.Selector, v.Version = b.ID, b.Name, b.Selector, newest+1
	if _, err := tx.Exec(ctx, `UPDATE baselines SET newest_version = $3 WHERE tenant_id = $1 AND baseline_id = $2`, tenant, b.ID, v.Version); err != nil {
		return v, err
	}
	v, err := insertVersion(ctx, tx, tenant, v, now, actor)
	if err != nil {
		return v, err
	}
	return v, audit(ctx, tx, tenant, now, actor, "baseline.add_version", baselineTarget(v), nil, versionSummary(v))
}

// lockedVersion reads a version of a baseline that changeBaseline has locked.
func lockedVersion(ctx context.Context, tx pgx.Tx, tenant, baselineID uuid.UUID, n int) (BaselineVersion, error) {
	v, err := scanVersion(tx.QueryRow(ctx, `SELECT `+versionColumns+` `+versionTables+`WHERE b.tenant_id = $1 AND b.baseline_id = $2 AND v.version = $3`, tenant, baselineID, n))
	if err != nil {
		return BaselineVersion{}, notFound(err, "baseline version", fmt.Sprintf("%s/%d", baselineID, n))
	}
	return v, nil
}

// GetBaselineVersion reads one version with its reference values. ErrNotFound.
func (s *Store) GetBaselineVersion(ctx context.Context, tenant, id uuid.UUID, n int) (BaselineVersion, error) {
	ctx = withTenant(ctx, tenant)
	v, err := scanVersionWithReference(s.pool.QueryRow(ctx, `SELECT `+versionColumns+`, r.body `+versionTables+`
		JOIN reference_values r ON r.tenant_id = v.tenant_id AND r.digest = v.reference_digest
		WHERE b.tenant_id = $1 AND b.baseline_id = $2 AND v.version = $3`, tenant, id, n))
	if err != nil {
		return BaselineVersion{}, notFound(err, "baseline version", fmt.Sprintf("%s/%d", id, n))
	}
	return v, s.readApproval(ctx, tenant, &v)
}

// BaselineScope reads a baseline's name and selector, which never change. ErrNotFound.
func (s *Store) BaselineScope(ctx context.Context, tenant, id uuid.UUID) (name string, selector verifier.Selector, err error) {
	ctx = withTenant(ctx, tenant)
	err = s.pool.QueryRow(ctx, `SELECT name, selector FROM baselines WHERE tenant_id = $1 AND baseline_id = $2`, tenant, id).Scan(&name, &selector)
	if err != nil {
		return "", verifier.Selector{}, notFound(err, "baseline", id)
	}
	return name, selector, nil
}

// GetBaseline reads a baseline with all its versions and their reference values, newest first. ErrNotFound.
func (s *Store) GetBaseline(ctx context.Context, tenant, id uuid.UUID) (Baseline, error) {
	ctx = withTenant(ctx, tenant)
	b := Baseline{ID: id}
	// One statement is one snapshot: every baseline has a version.
	rows, _ := s.pool.Query(ctx, `SELECT `+versionColumns+`, r.body, b.created_at, b.updated_at `+versionTables+`
		JOIN reference_values r ON r.tenant_id = v.tenant_id AND r.digest = v.reference_digest
		WHERE b.tenant_id = $1 AND b.baseline_id = $2 ORDER BY v.version DESC`, tenant, id)
	versions, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (BaselineVersion, error) {
		var body []byte
		v, err := scanVersion(row, &body, &b.CreatedAt, &b.UpdatedAt)
		if err != nil {
			return v, err
		}
		return v, json.Unmarshal(body, &v.Reference)
	})
	if err != nil {
		return Baseline{}, fmt.Errorf("read baseline %s: %w", id, err)
	}
	if len(versions) == 0 {
		return Baseline{}, fmt.Errorf("baseline %s: %w", id, ErrNotFound)
	}
	b.Name, b.Selector, b.Versions = versions[0].Name, versions[0].Selector, versions
	return b, nil
}

// ListBaselines lists baselines, newest first, with their versions but without reference values.
func (s *Store) ListBaselines(ctx context.Context, tenant uuid.UUID, f BaselineFilter, page Page) (items []Baseline, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(" FROM baselines b WHERE b.tenant_id = $1", tenant)
	q.prefix("b.name", f.NamePrefix)
	if f.State != "" {
		q.and("EXISTS (SELECT FROM baseline_versions v WHERE v.tenant_id = b.tenant_id AND v.baseline_id = b.baseline_id AND v.state = ANY(?))", strings.Split(f.State, ","))
	}
	chosen, next, err := baselineList.page(ctx, s.pool, q.within(f.Scope), page)
	if err != nil || len(chosen) == 0 {
		return nil, "", err
	}
	rows, _ := s.pool.Query(ctx, `SELECT `+versionColumns+`, b.created_at, b.updated_at `+versionTables+`
		WHERE b.tenant_id = $1 AND b.baseline_id = ANY($2) ORDER BY b.baseline_id, v.version DESC`, pgUUID(tenant), chosen)
	_, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (struct{}, error) {
		var created, updated time.Time
		v, err := scanVersion(row, &created, &updated)
		if err != nil {
			return struct{}{}, err
		}
		if len(items) == 0 || items[len(items)-1].ID != v.BaselineID {
			items = append(items, Baseline{ID: v.BaselineID, Name: v.Name, Selector: v.Selector, CreatedAt: created, UpdatedAt: updated})
		}
		last := &items[len(items)-1]
		last.Versions = append(last.Versions, v)
		return struct{}{}, nil
	})
	if err != nil {
		return nil, "", fmt.Errorf("list baselines: %w", err)
	}
	return inOrder(chosen, items, func(b Baseline) uuid.UUID { return b.ID }), next, nil
}

// BaselineFilter narrows ListBaselines. State may hold several values with commas between them; a baseline fits that has a
// version in one of them.
type BaselineFilter struct {
	NamePrefix, State string
	Scope             Scope
}

var baselineList = listing[pgtype.UUID]{
	name: "baselines", columns: "b.baseline_id", scan: scanID, initial: "-id",
	sorts: map[string][]sortKey{
		"id":         ids("b.baseline_id"),
		"name":       byText(named("b.name"), ids("b.baseline_id")...),
		"updated_at": byTime("b.updated_at", ids("b.baseline_id")...),
	},
}

var versionList = listing[BaselineVersion]{
	name: "versions", columns: versionColumns, initial: "-version",
	scan:  func(row pgx.Row) (BaselineVersion, error) { return scanVersion(row) },
	sorts: map[string][]sortKey{"version": byNumber("v.version")},
}

// ListBaselineVersions lists the versions of a baseline, newest first, without reference values. state may hold several
// states with commas between them. ErrNotFound is for the caller to tell: a baseline that does not exist has no version.
func (s *Store) ListBaselineVersions(ctx context.Context, tenant, baselineID uuid.UUID, state string, page Page) (items []BaselineVersion, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(" "+versionTables+"WHERE b.tenant_id = $1", tenant)
	q.and("b.baseline_id = ?", pgUUID(baselineID))
	q.oneOf("v.state", state)
	return versionList.page(ctx, s.pool, q, page)
}
