package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier"
)

// matchColumns are a machine's rows of baseline_matches, column by column.
type matchColumns struct {
	ids                                                        []pgtype.UUID
	versions, activations, highestVersions, highestActivations []int32
}

func (c *matchColumns) list() []BaselineMatch {
	if len(c.ids) == 0 {
		return nil
	}
	out := make([]BaselineMatch, len(c.ids))
	for i := range c.ids {
		out[i] = BaselineMatch{BaselineID: c.ids[i].Bytes, Version: int(c.versions[i]), Activation: int(c.activations[i]),
			HighestVersion: int(c.highestVersions[i]), HighestActivation: int(c.highestActivations[i])}
	}
	return out
}

// matchTable is what the records of a group have matched.
type matchTable struct {
	tenants, machines, baselines, verdicts []pgtype.UUID
	versions, activations                  []int
	ats                                    []time.Time
}

func (t *matchTable) add(p *pending, verdict uuid.UUID) {
	for _, m := range p.rec.Matched {
		t.tenants, t.machines = append(t.tenants, pgUUID(p.tenant)), append(t.machines, pgUUID(p.rec.MachineID))
		t.baselines, t.verdicts = append(t.baselines, pgUUID(m.BaselineID)), append(t.verdicts, pgUUID(verdict))
		t.versions, t.activations = append(t.versions, m.Version), append(t.activations, m.Activation)
		t.ats = append(t.ats, p.rec.ReceivedAt)
	}
}

// A version that is matched again is not written again.
const upsertMatches = `INSERT INTO baseline_matches AS x
	(tenant_id, machine_id, baseline_id, version, activation, highest_version, highest_activation, verdict_id, since)
	SELECT u.tenant_id, u.machine_id, u.baseline_id, u.version, u.activation, u.version, u.activation, u.verdict_id, u.at
	FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::integer[], $6::uuid[], $7::timestamptz[])
		u (tenant_id, machine_id, baseline_id, version, activation, verdict_id, at)
	ON CONFLICT (tenant_id, machine_id, baseline_id) DO UPDATE SET version = EXCLUDED.version, activation = EXCLUDED.activation,
		highest_version = CASE WHEN EXCLUDED.activation >= x.highest_activation THEN EXCLUDED.version ELSE x.highest_version END,
		highest_activation = GREATEST(x.highest_activation, EXCLUDED.activation), verdict_id = EXCLUDED.verdict_id, since = EXCLUDED.since
	WHERE x.version <> EXCLUDED.version OR x.activation <> EXCLUDED.activation`

func (t *matchTable) queue(b *pgx.Batch) {
	if len(t.baselines) > 0 {
		b.Queue(upsertMatches, t.tenants, t.machines, t.baselines, t.versions, t.activations, t.verdicts, t.ats)
	}
}

// maxEarlierVersions bounds the versions that a machine that deviates is asked for whether it has gone back to one.
const maxEarlierVersions = 8

// EarlierVersions are the retired versions of a baseline that were active before the one with that place in the order
// of activations, newest first, with their reference values; at most eight.
func (s *Store) EarlierVersions(ctx context.Context, tenant, baselineID uuid.UUID, activation int) ([]BaselineVersion, error) {
	ctx = withTenant(ctx, tenant)
	rows, _ := s.pool.Query(ctx, `SELECT `+versionColumns+`, r.body `+versionTables+`
		JOIN reference_values r ON r.tenant_id = v.tenant_id AND r.digest = v.reference_digest
		WHERE b.tenant_id = $1 AND b.baseline_id = $2 AND v.state = 'retired' AND v.activation < $3
		ORDER BY v.activation DESC LIMIT $4`, pgUUID(tenant), pgUUID(baselineID), activation, maxEarlierVersions)
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (BaselineVersion, error) { return scanVersionWithReference(row) })
	if err != nil {
		return nil, fmt.Errorf("read earlier versions of baseline %s: %w", baselineID, err)
	}
	return out, nil
}

const insertReferenceEvent = `INSERT INTO reference_events (tenant_id, event_digest, reference_digest, description)
	SELECT $1, u.digest, $2, u.description FROM unnest($3::bytea[], $4::text[]) u (digest, description) ON CONFLICT DO NOTHING`

// insertReferenceEvents makes the events of new reference values known by their digests.
func insertReferenceEvents(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, reference []byte, events []verifier.ReferenceEvent) error {
	var digests [][]byte
	var descriptions []string
	for i := range events {
		for _, list := range events[i].Digests {
			for _, text := range list {
				digest, err := hex.DecodeString(text)
				if err != nil {
					return fmt.Errorf("digest %q of event %d: %w", text, i, err)
				}
				digests, descriptions = append(digests, digest), append(descriptions, storable(events[i].Description))
			}
		}
	}
	if len(digests) == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, insertReferenceEvent, tenant, reference, digests, descriptions); err != nil {
		return fmt.Errorf("list the events of reference values: %w", err)
	}
	return nil
}

// storable is text as Postgres takes it: a machine's log may hold any bytes.
func storable(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "")
}

// KnownEvent is an event of some reference values.
type KnownEvent struct {
	Digest      []byte
	Description string // empty if they say nothing of it
	Baseline    string // name
	Version     int
	State       string
}

// KnownEvents looks digests up in the reference values of all versions of all baselines; of several that list one
// the one that judges is told, else the newest.
func (s *Store) KnownEvents(ctx context.Context, tenant uuid.UUID, digests [][]byte) ([]KnownEvent, error) {
	ctx = withTenant(ctx, tenant)
	rows, _ := s.pool.Query(ctx, `SELECT DISTINCT ON (e.event_digest) e.event_digest, e.description, b.name, v.version, v.state
		FROM reference_events e
		JOIN baseline_versions v ON v.tenant_id = e.tenant_id AND v.reference_digest = e.reference_digest
		JOIN baselines b ON b.tenant_id = v.tenant_id AND b.baseline_id = v.baseline_id
		WHERE e.tenant_id = $1 AND e.event_digest = ANY($2)
		ORDER BY e.event_digest, v.state NOT IN ('active', 'grace'), v.created_at DESC, b.baseline_id DESC, v.version DESC`, pgUUID(tenant), digests)
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[KnownEvent])
	if err != nil {
		return nil, fmt.Errorf("look for known events: %w", err)
	}
	return out, nil
}
