package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// platformTable is the parameters of insertPlatforms, column by column.
type platformTable struct {
	tenants       []pgtype.UUID
	digests, body [][]byte
	types         []string
	sizes         []int
	ats           []time.Time
}

const insertPlatforms = `INSERT INTO platform_evidence (tenant_id, digest, type, size, body, created_at)
	SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::text[], $4::integer[], $5::bytea[], $6::timestamptz[]) ON CONFLICT DO NOTHING`

func (t *platformTable) add(p *pending) {
	t.tenants, t.digests, t.types = append(t.tenants, pgUUID(p.tenant)), append(t.digests, p.rec.PlatformDigest), append(t.types, p.rec.PlatformType)
	t.sizes, t.body, t.ats = append(t.sizes, len(p.rec.PlatformEvidence)), append(t.body, p.prepared.platform), append(t.ats, p.rec.ReceivedAt)
}

func (t *platformTable) queue(b *pgx.Batch) {
	if len(t.digests) > 0 {
		b.Queue(insertPlatforms, t.tenants, t.digests, t.types, t.sizes, t.body, t.ats)
	}
}

// HasPlatformEvidence tells whether the hardware evidence of that digest is stored.
func (s *Store) HasPlatformEvidence(ctx context.Context, tenant uuid.UUID, digest []byte) (bool, error) {
	ctx = withTenant(ctx, tenant)
	var has bool
	err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM platform_evidence WHERE tenant_id = $1 AND digest = $2)`, pgUUID(tenant), digest).Scan(&has)
	if err != nil {
		return false, fmt.Errorf("look for hardware evidence %x: %w", digest, err)
	}
	return has, nil
}

// GetPlatformEvidence reads the hardware evidence of that digest, as JSON. ErrNotFound.
func (s *Store) GetPlatformEvidence(ctx context.Context, tenant uuid.UUID, digest []byte) ([]byte, error) {
	ctx = withTenant(ctx, tenant)
	var size int
	var frame []byte
	if err := s.pool.QueryRow(ctx, `SELECT size, body FROM platform_evidence WHERE tenant_id = $1 AND digest = $2`, pgUUID(tenant), digest).Scan(&size, &frame); err != nil {
		return nil, notFound(err, "hardware evidence", fmt.Sprintf("%x", digest))
	}
	raw, err := decompress(frame, size)
	if err != nil {
		return nil, fmt.Errorf("hardware evidence %x: %w", digest, err)
	}
	return raw, nil
}
