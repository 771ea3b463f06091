package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/klauspost/compress/zstd"
)

// The encoder and decoder are used by one-shot calls only, which are safe from many goroutines and start none.
var (
	encoder = mustEncoder()
	decoder = mustDecoder()
)

func mustEncoder() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(256<<10))
	if err != nil {
		panic(err) // the options are constants
	}
	return e
}

func mustDecoder() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
}

func compress(raw []byte) []byte { return encoder.EncodeAll(raw, make([]byte, 0, len(raw)/4+64)) }

// decompress fails where the frame does not hold exactly size bytes.
func decompress(frame []byte, size int) ([]byte, error) {
	raw, err := decoder.DecodeAll(frame, make([]byte, 0, size))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if len(raw) != size {
		return nil, fmt.Errorf("decompress: %d bytes where %d were stored", len(raw), size)
	}
	return raw, nil
}

// bootLog is a log as it is stored.
type bootLog struct {
	digest     []byte
	size       int
	compressed []byte
	at         time.Time
}

// bootLogTable is the parameters of insertBootLogs, column by column.
type bootLogTable struct {
	tenants             []pgtype.UUID
	digests, compressed [][]byte
	sizes               []int
	ats                 []time.Time
}

const insertBootLogs = `INSERT INTO boot_logs (tenant_id, digest, size, compressed, created_at)
	SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::integer[], $4::bytea[], $5::timestamptz[]) ON CONFLICT DO NOTHING`

func (t *bootLogTable) add(tenant uuid.UUID, l bootLog) {
	t.tenants, t.digests, t.sizes = append(t.tenants, pgUUID(tenant)), append(t.digests, l.digest), append(t.sizes, l.size)
	t.compressed, t.ats = append(t.compressed, l.compressed), append(t.ats, l.at)
}

func (t *bootLogTable) args() []any { return []any{t.tenants, t.digests, t.sizes, t.compressed, t.ats} }

func (t *bootLogTable) queue(b *pgx.Batch) {
	if len(t.digests) > 0 {
		b.Queue(insertBootLogs, t.args()...)
	}
}

// tenantLog is a log that a caller puts.
type tenantLog struct {
	tenant uuid.UUID
	log    bootLog
}

// putBootLogs stores the logs of concurrent callers in one transaction.
func (s *Store) putBootLogs(ctx context.Context, group []tenantLog) ([]struct{}, error) {
	ctx = withTenants(ctx, group, func(l tenantLog) uuid.UUID { return l.tenant })
	var t bootLogTable
	for _, l := range group {
		t.add(l.tenant, l.log)
	}
	_, err := s.grouped.Exec(ctx, insertBootLogs, t.args()...)
	return make([]struct{}, len(group)), err
}

// HasBootLog tells whether the event log with that SHA-256 is stored.
func (s *Store) HasBootLog(ctx context.Context, tenant uuid.UUID, digest []byte) (bool, error) {
	ctx = withTenant(ctx, tenant)
	var has bool
	err := s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM boot_logs WHERE tenant_id = $1 AND digest = $2)`, pgUUID(tenant), digest).Scan(&has)
	if err != nil {
		return false, fmt.Errorf("look for event log %x: %w", digest, err)
	}
	return has, nil
}

// PutBootLog stores an event log under its SHA-256, and returns when it is on disk; one that is held already is
// left as it is. Concurrent calls share a commit.
func (s *Store) PutBootLog(ctx context.Context, tenant uuid.UUID, digest, raw []byte, now time.Time) error {
	if sum := sha256.Sum256(raw); !bytes.Equal(sum[:], digest) {
		return fmt.Errorf("event log %x hashes to %x", digest, sum)
	}
	l := tenantLog{tenant, bootLog{digest: digest, size: len(raw), compressed: compress(raw), at: now}}
	put := s.bootLogs.do
	if len(l.log.compressed) > maxGroupedBytes {
		put = func(ctx context.Context, l tenantLog) (struct{}, error) {
			_, err := s.putBootLogs(ctx, []tenantLog{l})
			return struct{}{}, err
		}
	}
	if _, err := put(ctx, l); err != nil {
		return fmt.Errorf("store event log %x: %w", digest, err)
	}
	return nil
}

// GetBootLog reads the event log with that SHA-256. ErrNotFound.
func (s *Store) GetBootLog(ctx context.Context, tenant uuid.UUID, digest []byte) ([]byte, error) {
	ctx = withTenant(ctx, tenant)
	var size int
	var frame []byte
	if err := s.pool.QueryRow(ctx, `SELECT size, compressed FROM boot_logs WHERE tenant_id = $1 AND digest = $2`, pgUUID(tenant), digest).Scan(&size, &frame); err != nil {
		return nil, notFound(err, "event log", fmt.Sprintf("%x", digest))
	}
	raw, err := decompress(frame, size)
	if err != nil {
		return nil, fmt.Errorf("event log %x: %w", digest, err)
	}
	if sum := sha256.Sum256(raw); !bytes.Equal(sum[:], digest) {
		return nil, errors.New("the stored event log does not hash to its name")
	}
	return raw, nil
}
