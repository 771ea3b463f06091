package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// VersionsRestingOn lists the baseline versions that were imported from a document whose signature ends in a certificate
// or key of the anchor, newest baseline first, retired versions too, without their reference values. ErrNotFound: no such
// anchor.
func (s *Store) VersionsRestingOn(ctx context.Context, tenant, anchorID uuid.UUID, page Page) (items []BaselineVersion, next string, err error) {
	ctx = withTenant(ctx, tenant)
	if err := restingVersionList.check(page); err != nil {
		return nil, "", err
	}
	if _, err := s.GetTrustAnchor(ctx, tenant, anchorID); err != nil {
		return nil, "", err
	}
	q := newQuery(` `+versionTables+`
		WHERE b.tenant_id = $1 AND v.import_anchor IN (SELECT fingerprint FROM trust_anchor_certificates WHERE tenant_id = $1 AND anchor_id = $2)`,
		tenant, pgUUID(anchorID))
	return restingVersionList.page(ctx, s.pool, q, page)
}

var restingVersionList = listing[BaselineVersion]{
	name: "resting_versions", columns: versionColumns, initial: "-baseline_id",
	scan:  func(row pgx.Row) (BaselineVersion, error) { return scanVersion(row) },
	sorts: map[string][]sortKey{"baseline_id": {{"b.baseline_id", keyID}, {"v.version", keyNumber}}},
}

// vouching are the fingerprints that vouch for the tenant's imported documents, but for those of anchor $2.
const vouching = `SELECT c.fingerprint FROM trust_anchors a JOIN trust_anchor_certificates c USING (tenant_id, anchor_id)
	WHERE a.tenant_id = $1 AND a.enabled AND a.purpose = '` + ReferenceAnchor + `' AND ($2::uuid IS NULL OR a.anchor_id <> $2)`

// retireImported retires the valid versions that were imported from a document which nobody but the withdrawn anchor
// vouches for. The tenant's row is locked, as it is where a version is imported or promoted.
func retireImported(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, a *TrustAnchor, now time.Time, actor Actor) ([]BaselineVersion, error) {
	if a.Purpose != ReferenceAnchor {
		return nil, nil
	}
	rows, _ := tx.Query(ctx, `UPDATE baselines b SET updated_at = $4 FROM baseline_versions v
		WHERE b.tenant_id = $1 AND v.tenant_id = $1 AND v.baseline_id = b.baseline_id AND v.state IN ('active', 'grace')
			AND v.import_anchor = ANY($3) AND v.import_anchor NOT IN (`+vouching+`)
		RETURNING b.baseline_id`, tenant, a.ID, a.fingerprints(), now)
	baselines, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("lock the baselines that rest on anchor %s: %w", a.ID, err)
	}
	// Read once they are locked.
	rows, _ = tx.Query(ctx, `SELECT `+versionColumns+` `+versionTables+`
		WHERE b.tenant_id = $1 AND b.baseline_id = ANY($4) AND v.state IN ('active', 'grace')
			AND v.import_anchor = ANY($3) AND v.import_anchor NOT IN (`+vouching+`)
		ORDER BY b.baseline_id DESC, v.version DESC`, tenant, a.ID, a.fingerprints(), baselines)
	retired, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (BaselineVersion, error) { return scanVersion(row) })
	if err != nil {
		return nil, fmt.Errorf("read the baseline versions that rest on anchor %s: %w", a.ID, err)
	}
	for i := range retired {
		if err := setVersionState(ctx, tx, tenant, &retired[i], stateChange{state: "retired", change: anchorWithdrawn, action: "baseline.retire"}, now, actor); err != nil {
			return nil, err
		}
	}
	return retired, nil
}

// anchorWithdrawn is the LastChange of a version that retireImported retired.
const anchorWithdrawn = "anchor_withdrawn"

// UnvouchedError tells that a version was imported from a document that no enabled anchor vouches for any more.
type UnvouchedError struct{ What string }

// Error implements error.
func (e *UnvouchedError) Error() string { return e.What }

// vouchedFor refuses a version whose document's signature ends in a certificate or key that is withdrawn; fingerprint is
// empty for what was imported without a signature, or not imported. The tenant's row is locked.
func vouchedFor(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, fingerprint string) error {
	if fingerprint == "" {
		return nil
	}
	var held bool
	if err := tx.QueryRow(ctx, `SELECT $3 IN (`+vouching+`)`, tenant, pgtype.UUID{}, fingerprint).Scan(&held); err != nil {
		return fmt.Errorf("look for the anchor of an imported version: %w", err)
	}
	if !held {
		return &UnvouchedError{"the version was imported from a document whose signature ends in a trust anchor that has been withdrawn (SHA-256 " + fingerprint + "): enable the anchor, or import a document that is signed otherwise"}
	}
	return nil
}

// importAnchor is the fingerprint that vouches for a version; empty if there is none.
func importAnchor(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, v *BaselineVersion) (fingerprint string, err error) {
	err = tx.QueryRow(ctx, `SELECT coalesce(import_anchor, '') FROM baseline_versions WHERE tenant_id = $1 AND baseline_id = $2 AND version = $3`,
		tenant, v.BaselineID, v.Version).Scan(&fingerprint)
	return fingerprint, err
}
