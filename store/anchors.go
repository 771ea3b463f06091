package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// CreateTrustAnchor stores an anchor with its certificates; the id, and who and when, are filled in.
func (s *Store) CreateTrustAnchor(ctx context.Context, tenant uuid.UUID, a TrustAnchor, now time.Time, actor Actor) (TrustAnchor, error) {
	a.ID, a.CreatedAt, a.CreatedBy = newID(now), now, actor.String()
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO trust_anchors (tenant_id, anchor_id, name, purpose, created_by, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			tenant, a.ID, a.Name, a.Purpose, a.CreatedBy, now); err != nil {
			return fmt.Errorf("make trust anchor: %w", err)
		}
		prints := make([]string, len(a.Certificates))
		for i, c := range a.Certificates {
			prints[i] = c.Fingerprint
			if _, err := tx.Exec(ctx, `INSERT INTO trust_anchor_certificates (tenant_id, anchor_id, position, der, subject, fingerprint, not_after)
				VALUES ($1, $2, $3, $4, $5, $6, $7)`, tenant, a.ID, i, c.DER, c.Subject, c.Fingerprint, c.NotAfter); err != nil {
				return fmt.Errorf("store certificate %d of trust anchor: %w", i, err)
			}
		}
		return audit(ctx, tx, tenant, now, actor, "trust_anchor.create", "trust_anchor:"+a.ID.String(), nil,
			map[string]any{"name": a.Name, "purpose": a.Purpose, "fingerprints": prints})
	})
	if err != nil {
		return TrustAnchor{}, err
	}
	return a, nil
}

// ListTrustAnchors lists the anchors of a purpose (empty: of all), newest first, with their certificates.
func (s *Store) ListTrustAnchors(ctx context.Context, tenant uuid.UUID, purpose string, page Page) (items []TrustAnchor, next string, err error) {
	before, err := page.beforeID("trust_anchors")
	if err != nil {
		return nil, "", err
	}
	items, err = s.readTrustAnchors(ctx, tenant, purpose, before, pgtype.Int8{Int64: int64(page.limit()) + 1, Valid: true})
	if err != nil {
		return nil, "", fmt.Errorf("list trust anchors: %w", err)
	}
	items, next = cut(items, page, "trust_anchors", func(a TrustAnchor) []string { return []string{a.ID.String()} })
	return items, next, nil
}

// TrustAnchorsFor reads all anchors of a purpose with their certificates: what a chain may end in.
func (s *Store) TrustAnchorsFor(ctx context.Context, tenant uuid.UUID, purpose string) ([]TrustAnchor, error) {
	all, err := s.readTrustAnchors(ctx, tenant, purpose, pgtype.UUID{}, pgtype.Int8{})
	if err != nil {
		return nil, fmt.Errorf("read trust anchors for %s: %w", purpose, err)
	}
	return all, nil
}

// readTrustAnchors reads up to limit anchors (NULL: all) that are older than before (NULL: from the newest).
func (s *Store) readTrustAnchors(ctx context.Context, tenant uuid.UUID, purpose string, before pgtype.UUID, limit pgtype.Int8) ([]TrustAnchor, error) {
	rows, _ := s.pool.Query(ctx, `SELECT a.anchor_id, a.name, a.purpose, a.created_by, a.created_at, c.der, c.subject, c.fingerprint, c.not_after
		FROM (SELECT * FROM trust_anchors WHERE tenant_id = $1 AND ($2 = '' OR purpose = $2) AND ($3::uuid IS NULL OR anchor_id < $3)
			ORDER BY anchor_id DESC LIMIT $4) a
		LEFT JOIN trust_anchor_certificates c USING (tenant_id, anchor_id)
		ORDER BY a.anchor_id DESC, c.position`, tenant, purpose, before, limit)
	var out []TrustAnchor
	var a TrustAnchor
	var der []byte
	var subject, fingerprint *string
	var notAfter *time.Time
	_, err := pgx.ForEachRow(rows, []any{&a.ID, &a.Name, &a.Purpose, &a.CreatedBy, &a.CreatedAt, &der, &subject, &fingerprint, &notAfter}, func() error {
		if len(out) == 0 || out[len(out)-1].ID != a.ID {
			out = append(out, a)
		}
		if subject != nil {
			last := &out[len(out)-1]
			last.Certificates = append(last.Certificates, TrustCertificate{DER: der, Subject: *subject, Fingerprint: *fingerprint, NotAfter: *notAfter})
		}
		return nil
	})
	return out, err
}

// DeleteTrustAnchor removes an anchor: chains that end in it are no longer trusted. ErrNotFound.
func (s *Store) DeleteTrustAnchor(ctx context.Context, tenant, id uuid.UUID, now time.Time, actor Actor) error {
	return s.inTx(ctx, func(tx pgx.Tx) error {
		var name, purpose string
		err := tx.QueryRow(ctx, `DELETE FROM trust_anchors WHERE tenant_id = $1 AND anchor_id = $2 RETURNING name, purpose`, tenant, id).Scan(&name, &purpose)
		if err != nil {
			return notFound(err, "trust anchor", id)
		}
		return audit(ctx, tx, tenant, now, actor, "trust_anchor.delete", "trust_anchor:"+id.String(),
			map[string]any{"name": name, "purpose": purpose}, nil)
	})
}
