package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/verifier/finding"
)

const (
	// BeatEvery is the time between two heartbeats of a replica.
	BeatEvery = 5 * time.Second
	// outageAfter is the age of the last heartbeat from which on nobody has served. A shorter break, as of a restart, is
	// made up for by the least time that a policy leaves after a deadline.
	outageAfter = 20 * time.Second
	// outagesKept is longer than any deadline can lie in the past without its machine being known to be stale.
	outagesKept = 30 * 24 * time.Hour
)

// Beat notes that this replica serves the tenant now. The first beat after a time in which no replica did notes that time as
// an outage, once. Before the very first beat nobody is known to have served.
//
// The zero time stands for the database's clock, which is one for all replicas: the beat of one whose clock is ahead would
// hide each outage until that time has come. A last beat in that clock's own future says that it was put back: the beat, and the
// outages that end in the future, were of a wrong time, and are taken back.
func (s *Store) Beat(ctx context.Context, tenant uuid.UUID, now time.Time) error {
	ctx = withTenant(ctx, tenant)
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		ofDatabase := now.IsZero()
		if err := databaseTime(ctx, tx, &now); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `INSERT INTO service_heartbeats (tenant_id, beat_at) VALUES ($1, $2) ON CONFLICT DO NOTHING`, pgUUID(tenant), now)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 1 {
			_, err := tx.Exec(ctx, `INSERT INTO service_outages (tenant_id, started_at, ended_at) SELECT tenant_id, created_at, $2 FROM tenants
				WHERE tenant_id = $1 AND created_at < $2`, pgUUID(tenant), now)
			return err
		}
		var last time.Time
		if err := tx.QueryRow(ctx, `SELECT beat_at FROM service_heartbeats WHERE tenant_id = $1 FOR UPDATE`, pgUUID(tenant)).Scan(&last); err != nil {
			return err
		}
		if now.Sub(last) >= outageAfter {
			if _, err := tx.Exec(ctx, `INSERT INTO service_outages (tenant_id, started_at, ended_at) VALUES ($1, $2, $3)`, pgUUID(tenant), last, now); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `DELETE FROM service_outages WHERE tenant_id = $1 AND ended_at < $2`, pgUUID(tenant), now.Add(-outagesKept)); err != nil {
				return err
			}
		}
		if ofDatabase && last.Sub(now) >= outageAfter {
			if _, err := tx.Exec(ctx, `DELETE FROM service_outages WHERE tenant_id = $1 AND ended_at > $2`, pgUUID(tenant), now); err != nil {
				return err
			}
		} else if !now.After(last) { // another replica's clock is ahead, or its beat was a moment earlier
			return nil
		}
		_, err = tx.Exec(ctx, `UPDATE service_heartbeats SET beat_at = $2 WHERE tenant_id = $1`, pgUUID(tenant), now)
		return err
	})
	if err != nil {
		return fmt.Errorf("note a heartbeat: %w", err)
	}
	return nil
}

// databaseTime sets a zero time to the database's clock.
func databaseTime(ctx context.Context, tx pgx.Tx, now *time.Time) error {
	if !now.IsZero() {
		return nil
	}
	if err := tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(now); err != nil {
		return fmt.Errorf("ask for the time: %w", err)
	}
	return nil
}

// served tells whether a replica serves the tenant, and the outages that may still count, in the order of their beginning.
func served(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, now time.Time) (serving bool, outages []finding.Outage, err error) {
	var last time.Time
	err = tx.QueryRow(ctx, `SELECT beat_at FROM service_heartbeats WHERE tenant_id = $1`, pgUUID(tenant)).Scan(&last)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil, nil
	}
	if err != nil {
		return false, nil, fmt.Errorf("read the last heartbeat: %w", err)
	}
	if now.Sub(last).Abs() >= outageAfter { // or so far in the future that the clock was put back since (Beat)
		return false, nil, nil
	}
	rows, _ := tx.Query(ctx, `SELECT started_at, ended_at FROM service_outages WHERE tenant_id = $1 AND ended_at >= $2 ORDER BY started_at`,
		pgUUID(tenant), now.Add(-outagesKept))
	outages, err = pgx.CollectRows(rows, pgx.RowToStructByPos[finding.Outage])
	if err != nil {
		return false, nil, fmt.Errorf("read outages: %w", err)
	}
	return true, outages, nil
}
