package store

import (
	"context"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// VersionsRestingOn lists the baseline versions that were imported from a document whose signature ends in a certificate
// or key of the anchor, newest baseline first, retired versions too, without their reference values. ErrNotFound: no such
// anchor.
func (s *Store) VersionsRestingOn(ctx context.Context, tenant, anchorID uuid.UUID, page Page) (items []BaselineVersion, next string, err error) {
	after, err := decodeCursor("resting_versions", page.Cursor, 2)
	if err != nil {
		return nil, "", err
	}
	var last pgtype.UUID
	version := 0
	if after != nil {
		id, err := uuid.Parse(after[0])
		if err != nil {
			return nil, "", ErrInvalidCursor
		}
		if version, err = strconv.Atoi(after[1]); err != nil {
			return nil, "", ErrInvalidCursor
		}
		last = pgUUID(id)
	}
	if _, err := s.GetTrustAnchor(ctx, tenant, anchorID); err != nil {
		return nil, "", err
	}
	rows, _ := s.pool.Query(ctx, `SELECT `+versionColumns+` `+versionTables+`
		WHERE b.tenant_id = $1 AND v.import_anchor IN (SELECT fingerprint FROM trust_anchor_certificates WHERE tenant_id = $1 AND anchor_id = $2)
			AND ($3::uuid IS NULL OR (b.baseline_id, v.version) < ($3, $4))
		ORDER BY b.baseline_id DESC, v.version DESC LIMIT $5`, tenant, anchorID, last, version, page.limit()+1)
	items, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (BaselineVersion, error) { return scanVersion(row) })
	if err != nil {
		return nil, "", fmt.Errorf("list the baseline versions that rest on anchor %s: %w", anchorID, err)
	}
	items, next = cut(items, page, "resting_versions", func(v BaselineVersion) []string { return []string{v.BaselineID.String(), strconv.Itoa(v.Version)} })
	return items, next, nil
}
