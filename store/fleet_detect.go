package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/finding"
)

// FleetReport is what a round of DetectFleet did.
type FleetReport struct {
	Changes   int // that were looked at
	Conflicts int // that were found or seen again
	Opened    int // alerts that were opened, or opened again
	Ended     int // conflicts that are gone
}

// fleetPage bounds the changes that one transaction looks at, and keptBoots the history of one key.
const (
	fleetPage = 200
	keptBoots = 64
)

// DetectFleet compares what has changed since the last call with the fleet of the tenant, raises alerts for what it finds,
// and ends the conflicts that are gone.
//
// A page of changes is one transaction: they are taken away, the conflicts written and the alerts raised, all or nothing.
// A change that another caller is looking at is passed over, so that of several callers each change is looked at once, and
// after a crash it is there again.
func (s *Store) DetectFleet(ctx context.Context, tenant uuid.UUID, now time.Time) (FleetReport, error) {
	var r FleetReport
	for {
		n := 0
		err := s.inTx(ctx, func(tx pgx.Tx) error {
			d := detection{store: s, tenant: tenant, now: now}
			var err error
			n, err = d.page(ctx, tx)
			if err == nil && n > 0 {
				r.Conflicts, r.Opened = r.Conflicts+len(d.found), r.Opened+d.opened
			}
			return err
		})
		if err != nil {
			return r, fmt.Errorf("compare the fleet: %w", err)
		}
		r.Changes += n
		if n < fleetPage {
			break
		}
	}
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		d := detection{store: s, tenant: tenant, now: now}
		if err := d.forkedSince(ctx, tx); err != nil {
			return err
		}
		if err := d.write(ctx, tx); err != nil {
			return err
		}
		r.Conflicts, r.Opened = r.Conflicts+len(d.found), r.Opened+d.opened
		return nil
	})
	if err != nil {
		return r, fmt.Errorf("look for forked histories: %w", err)
	}
	if r.Ended, err = s.endConflicts(ctx, tenant, now); err != nil {
		return r, fmt.Errorf("end conflicts: %w", err)
	}
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		d := detection{store: s, tenant: tenant, now: now}
		if err := d.resolvedStates(ctx, tx); err != nil {
			return err
		}
		err := d.write(ctx, tx)
		r.Opened += d.opened
		return err
	})
	if err != nil {
		return r, fmt.Errorf("look at what was resolved: %w", err)
	}
	return r, nil
}

// detection is one transaction of DetectFleet.
type detection struct {
	store  *Store
	tenant uuid.UUID
	now    time.Time
	found  []foundConflict
	opened int
}

// foundConflict is a Sighting of a machine at a time.
type foundConflict struct {
	Sighting
	machine uuid.UUID
	at      time.Time
}

// subject is what makes conflicts of one kind and machine the same.
func (f *foundConflict) subject() string {
	if f.Other != nil {
		return "machine:" + f.Other.String()
	}
	return "name:" + f.Name
}

const takeChanges = `DELETE FROM fleet_changes c USING (SELECT change_id FROM fleet_changes WHERE tenant_id = $1 ORDER BY change_id LIMIT $2 FOR UPDATE SKIP LOCKED) t
	WHERE c.tenant_id = $1 AND c.change_id = t.change_id RETURNING c.machine_id, c.noted_at, c.sighting`

func (d *detection) page(ctx context.Context, tx pgx.Tx) (n int, err error) {
	var machines []pgtype.UUID
	rows, _ := tx.Query(ctx, takeChanges, pgUUID(d.tenant), fleetPage)
	var machine uuid.UUID
	var at time.Time
	var sighting []byte
	_, err = pgx.ForEachRow(rows, []any{&machine, &at, &sighting}, func() error {
		n++
		if sighting == nil {
			machines = append(machines, pgUUID(machine))
			return nil
		}
		f := foundConflict{machine: machine, at: at}
		if err := json.Unmarshal(sighting, &f.Sighting); err != nil {
			return fmt.Errorf("a sighting of machine %s: %w", machine, err)
		}
		d.found = append(d.found, f)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("take changes: %w", err)
	}
	if len(machines) > 0 {
		for _, look := range []func(context.Context, pgx.Tx, []pgtype.UUID) error{d.sharedTraits, d.forkedBoots, d.sharedSeries, d.trimHistory} {
			if err := look(ctx, tx, machines); err != nil {
				return 0, err
			}
		}
	}
	return n, d.write(ctx, tx)
}

// traitKinds says which conflict a strong trait of each kind is.
var traitKinds = map[string]finding.ConflictKind{
	TraitAK: finding.AKShared, TraitVM: finding.VMShared, TraitInstance: finding.VMShared, TraitGuest: finding.VMShared, TraitLogIdentity: finding.LogOfOther,
}

// For each trait the first other machine that has it, so that a trait of many machines makes a star and not a web. Only
// machines with an active key answer for anything.
const selectShared = `SELECT t.kind, t.digest, t.machine_id, o.machine_id, o.sharing
	FROM machine_traits t
	JOIN attestation_keys tk ON tk.tenant_id = t.tenant_id AND tk.machine_id = t.machine_id AND tk.state = 'active'
	CROSS JOIN LATERAL (SELECT x.machine_id, count(*) OVER () AS sharing FROM machine_traits x
		JOIN attestation_keys xk ON xk.tenant_id = x.tenant_id AND xk.machine_id = x.machine_id AND xk.state = 'active'
		WHERE x.tenant_id = t.tenant_id AND x.kind = t.kind AND x.digest = t.digest AND x.machine_id <> t.machine_id AND x.strong
		ORDER BY x.machine_id LIMIT 1) o
	WHERE t.tenant_id = $1 AND t.machine_id = ANY ($2::uuid[]) AND t.strong AND t.kind IN ('ak', 'vm', 'instance', 'guest', 'log_identity')
	ORDER BY t.machine_id, t.kind`

func (d *detection) sharedTraits(ctx context.Context, tx pgx.Tx, machines []pgtype.UUID) error {
	rows, _ := tx.Query(ctx, selectShared, pgUUID(d.tenant), machines)
	var kind string
	var digest []byte
	var machine, other uuid.UUID
	var sharing int
	_, err := pgx.ForEachRow(rows, []any{&kind, &digest, &machine, &other, &sharing}, func() error {
		d.pair(traitKinds[kind], machine, other, finding.ConflictObserved{What: kind, SHA256: fmt.Sprintf("%x", digest), Sharing: sharing + 1})
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for shared traits: %w", err)
	}
	return nil
}

// pair notes what two machines have in common, under the one that was known first.
func (d *detection) pair(kind finding.ConflictKind, a, b uuid.UUID, seen finding.ConflictObserved) {
	if slices.Compare(a[:], b[:]) > 0 {
		a, b = b, a
	}
	d.found = append(d.found, foundConflict{machine: a, at: d.now, Sighting: Sighting{Kind: kind, Other: &b, Observed: seen}})
}

// One boot, by the counters, and two sets of firmware measurements: PCRs 0 to 7 do not change until the TPM is reset. Both
// have to be explained by a log, since whoever is root can extend a PCR; or the first one came back, which no extension does.
const selectForks = `SELECT DISTINCT ON (a.key_id) a.machine_id, a.reset_count, a.restart_count, a.clock, a.firmware_version, a.boot, a.first_at,
		b.last_clock, b.firmware_version, b.boot, b.last_at
	FROM tpm_history a JOIN tpm_history b ON b.tenant_id = a.tenant_id AND b.key_id = a.key_id AND b.reset_count = a.reset_count
		AND b.restart_count = a.restart_count AND b.selection = a.selection AND b.boot <> a.boot AND a.first_at < b.first_at
	JOIN attestation_keys k ON k.tenant_id = a.tenant_id AND k.key_id = a.key_id AND k.state = 'active'
	WHERE a.tenant_id = $1 AND a.machine_id = ANY ($2::uuid[]) AND (a.logged AND b.logged OR a.last_at > b.first_at)
	ORDER BY a.key_id, b.last_at DESC`

func (d *detection) forkedBoots(ctx context.Context, tx pgx.Tx, machines []pgtype.UUID) error {
	rows, _ := tx.Query(ctx, selectForks, pgUUID(d.tenant), machines)
	var machine uuid.UUID
	var reset, restart, clock, firmware, clock2, firmware2 int64
	var boot, boot2 []byte
	var at, at2 time.Time
	_, err := pgx.ForEachRow(rows, []any{&machine, &reset, &restart, &clock, &firmware, &boot, &at, &clock2, &firmware2, &boot2, &at2}, func() error {
		first, second := conflictState(at, reset, restart, clock, firmware, boot), conflictState(at2, reset, restart, clock2, firmware2, boot2)
		d.found = append(d.found, foundConflict{machine: machine, at: d.now, Sighting: Sighting{Kind: finding.HistoryForked, First: first, Second: second,
			Observed: finding.ConflictObserved{MayBe: []string{finding.MayBeClone, finding.MayBeSnapshot}}}})
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for forked histories: %w", err)
	}
	return nil
}

func conflictState(at time.Time, reset, restart, clock, firmware int64, boot []byte) *finding.ConflictState {
	s := &finding.ConflictState{At: at, ResetCount: uint32(reset), RestartCount: uint32(restart), ClockMS: uint64(clock), // #nosec G115 -- stored from these types
		FirmwareVersion: fmt.Sprintf("%016x", uint64(firmware))} // #nosec G115 -- the same bits
	if boot != nil {
		s.Boot = fmt.Sprintf("%x", boot)
	}
	return s
}

// seriesBoots is how many boots must agree to the millisecond. Machines of a scale set that were made, and are booted
// again, in the same second may agree once by chance (one pair in a thousand), and hardly ever three times.
const seriesBoots = 3

// seriesStar is how many machines of one instant are compared with each other one of it: those with the lowest ids, so that
// an instant of n machines makes n * seriesStar pairs and not n * n. Machines of one series share several instants: a crowd
// that has one of them by chance does not come between them at the others.
const seriesStar = 8

// The rows of an instant are read once, however many of the machines have it. Of a machine the first other one is named.
const selectSeries = `WITH mine AS MATERIALIZED (
		SELECT h.machine_id, h.clock, h.reset_count, h.restart_count, h.firmware_version FROM tpm_history h
		JOIN attestation_keys k ON k.tenant_id = h.tenant_id AND k.key_id = h.key_id AND k.state = 'active'
		WHERE h.tenant_id = $1 AND h.machine_id = ANY ($2::uuid[])),
	instants AS MATERIALIZED (SELECT DISTINCT clock, reset_count, restart_count, firmware_version FROM mine),
	stars AS MATERIALIZED (
		SELECT i.*, o.machine_id, o.key_id FROM instants i CROSS JOIN LATERAL (
			SELECT DISTINCT h.machine_id, h.key_id FROM tpm_history h
			JOIN attestation_keys k ON k.tenant_id = h.tenant_id AND k.key_id = h.key_id AND k.state = 'active'
			WHERE h.tenant_id = $1 AND h.clock = i.clock AND h.reset_count = i.reset_count AND h.restart_count = i.restart_count
				AND h.firmware_version = i.firmware_version
			ORDER BY h.machine_id LIMIT $4) o),
	pairs AS MATERIALIZED (
		SELECT DISTINCT a.machine_id, b.machine_id AS other_id, b.key_id AS other_key FROM mine a
		JOIN stars b USING (clock, reset_count, restart_count, firmware_version) WHERE b.machine_id <> a.machine_id)
	SELECT DISTINCT ON (p.machine_id) p.machine_id, p.other_id, count(DISTINCT a.clock)
	FROM pairs p JOIN mine a ON a.machine_id = p.machine_id
	JOIN tpm_history h ON h.tenant_id = $1 AND h.key_id = p.other_key AND h.reset_count = a.reset_count AND h.restart_count = a.restart_count
		AND h.clock = a.clock AND h.firmware_version = a.firmware_version
	GROUP BY p.machine_id, p.other_id HAVING count(DISTINCT a.clock) >= $3 ORDER BY p.machine_id, p.other_id`

func (d *detection) sharedSeries(ctx context.Context, tx pgx.Tx, machines []pgtype.UUID) error {
	rows, _ := tx.Query(ctx, selectSeries, pgUUID(d.tenant), machines, seriesBoots, seriesStar)
	var machine, other uuid.UUID
	var boots int
	_, err := pgx.ForEachRow(rows, []any{&machine, &other, &boots}, func() error {
		d.pair(finding.SeriesShared, machine, other, finding.ConflictObserved{Boots: boots})
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for shared clocks: %w", err)
	}
	return nil
}

const trimHistory = `DELETE FROM tpm_history h USING (SELECT key_id, reset_count, restart_count, selection, boot,
			row_number() OVER (PARTITION BY key_id ORDER BY last_at DESC) AS place
		FROM tpm_history WHERE tenant_id = $1 AND key_id IN (SELECT key_id FROM attestation_keys WHERE tenant_id = $1 AND machine_id = ANY ($2::uuid[]))) o
	WHERE h.tenant_id = $1 AND h.key_id = o.key_id AND h.reset_count = o.reset_count AND h.restart_count = o.restart_count
		AND h.selection = o.selection AND h.boot = o.boot AND o.place > $3`

func (d *detection) trimHistory(ctx context.Context, tx pgx.Tx, machines []pgtype.UUID) error {
	if _, err := tx.Exec(ctx, trimHistory, pgUUID(d.tenant), machines, keptBoots); err != nil {
		return fmt.Errorf("trim histories: %w", err)
	}
	return nil
}

// A TPM that went back is one TPM that was put back, as long as what it was ahead of is not heard of again. Genuine evidence
// of the boot that was ahead, on whose clock as much time has passed as here, shows that both live.
const selectForkedSince = `SELECT c.machine_id, c.details, st.reset_count, st.restart_count, st.clock, st.firmware_version, st.last_seen_at
	FROM fleet_conflicts c
	JOIN machine_attestation_state st ON st.tenant_id = c.tenant_id AND st.machine_id = c.machine_id AND st.clock_key_id = c.key_id
	WHERE c.tenant_id = $1 AND c.ended_at IS NULL AND c.kind IN ('clock_back', 'reset_back') AND st.last_seen_at > c.last_seen_at
		AND st.reset_count = (c.details #>> '{first,reset_count}')::bigint AND st.restart_count = (c.details #>> '{first,restart_count}')::bigint
		AND NOT EXISTS (SELECT FROM fleet_conflicts f WHERE f.tenant_id = c.tenant_id AND f.machine_id = c.machine_id AND f.kind = 'history_forked' AND f.ended_at IS NULL)
		AND abs(extract(epoch FROM st.last_seen_at - (c.details #>> '{first,at}')::timestamptz) * 1000 - (st.clock - (c.details #>> '{first,clock_ms}')::bigint))
			<= 60000 + 0.15 * extract(epoch FROM st.last_seen_at - (c.details #>> '{first,at}')::timestamptz) * 1000`

func (d *detection) forkedSince(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, selectForkedSince, pgUUID(d.tenant))
	var machine uuid.UUID
	var details []byte
	var reset, restart, clock, firmware int64
	var at time.Time
	_, err := pgx.ForEachRow(rows, []any{&machine, &details, &reset, &restart, &clock, &firmware, &at}, func() error {
		var before finding.Conflict
		if err := json.Unmarshal(details, &before); err != nil {
			return fmt.Errorf("a conflict of machine %s: %w", machine, err)
		}
		d.found = append(d.found, foundConflict{machine: machine, at: d.now, Sighting: Sighting{Kind: finding.HistoryForked,
			First: before.Second, Second: conflictState(at, reset, restart, clock, firmware, nil),
			Observed: finding.ConflictObserved{MayBe: []string{finding.MayBeClone}}}})
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for forked histories: %w", err)
	}
	return nil
}

// A state that was there before is not news while people know of it (told); an event is, each time.
const upsertConflict = `INSERT INTO fleet_conflicts AS c (tenant_id, conflict_id, code, kind, machine_id, other_id, subject, key_id, other_key_id, details, first_seen_at, last_seen_at)
	SELECT $1, $2, $3, $4, $5, $6, $7,
		(SELECT key_id FROM attestation_keys WHERE tenant_id = $1 AND machine_id = $5 AND state = 'active'),
		(SELECT key_id FROM attestation_keys WHERE tenant_id = $1 AND machine_id = $6 AND state = 'active'), $8, $9, $9
	ON CONFLICT (tenant_id, kind, machine_id, subject) WHERE ended_at IS NULL DO UPDATE SET last_seen_at = GREATEST(c.last_seen_at, EXCLUDED.last_seen_at),
		seen_count = c.seen_count + 1, details = CASE WHEN $10 THEN EXCLUDED.details ELSE c.details END
	RETURNING c.conflict_id = $2`

// write stores what was found and raises the alerts, in one order of conflicts and then as raiseAlerts locks.
func (d *detection) write(ctx context.Context, tx pgx.Tx) error {
	if len(d.found) == 0 {
		return nil
	}
	slices.SortStableFunc(d.found, func(a, b foundConflict) int {
		return cmp.Or(slices.Compare(a.machine[:], b.machine[:]), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.subject(), b.subject()))
	})
	known, err := readNamed(ctx, tx, d.tenant, d.found)
	if err != nil {
		return err
	}
	var raised []RaisedAlert
	for i := range d.found {
		f := &d.found[i]
		c := f.conflict(known)
		details, err := json.Marshal(c)
		if err != nil {
			return fmt.Errorf("marshal a conflict: %w", err)
		}
		code := codeIdentityConflict
		if f.Kind.Rollback() {
			code = codeRollbackDetected
		}
		event := c.Event()
		var isNew bool
		if err := tx.QueryRow(ctx, upsertConflict, pgUUID(d.tenant), pgUUID(newID(f.at)), code, string(f.Kind), pgUUID(f.machine), pgUUIDPtr(f.Other),
			f.subject(), details, f.at, event).Scan(&isNew); err != nil {
			return fmt.Errorf("write a conflict: %w", err)
		}
		for _, m := range c.Machines {
			if m.ID == "" {
				continue
			}
			id := uuid.MustParse(m.ID) // it was a UUID
			if !isNew && !event {
				if told, err := d.told(ctx, tx, id, code); err != nil {
					return err
				} else if told {
					continue
				}
			}
			raised = append(raised, RaisedAlert{MachineID: &id, Alert: c.Alert(m.ID, known[id].os), Details: c})
		}
	}
	opened, err := d.store.raiseAlerts(ctx, tx, d.tenant, d.now, raised)
	d.opened += len(opened)
	return err
}

// A state that still holds, of which the newest alert of one of its machines was resolved.
const selectResolvedStates = `SELECT c.machine_id, c.other_id, c.details FROM fleet_conflicts c
	WHERE c.tenant_id = $1 AND c.ended_at IS NULL AND (c.kind = 'series_shared' OR c.details #> '{observed,machines_sharing}' IS NOT NULL)
		AND EXISTS (SELECT FROM unnest(ARRAY[c.machine_id, c.other_id]) m (machine_id) CROSS JOIN LATERAL (SELECT a.status FROM alerts a
			WHERE a.tenant_id = c.tenant_id AND a.machine_id = m.machine_id AND a.code = c.code
			ORDER BY a.status IN ('active', 'in_progress') DESC, a.alert_id DESC LIMIT 1) x WHERE x.status = 'resolved')`

func (d *detection) resolvedStates(ctx context.Context, tx pgx.Tx) error {
	rows, _ := tx.Query(ctx, selectResolvedStates, pgUUID(d.tenant))
	var machine uuid.UUID
	var other pgtype.UUID
	var details []byte
	_, err := pgx.ForEachRow(rows, []any{&machine, &other, &details}, func() error {
		var c finding.Conflict
		if err := json.Unmarshal(details, &c); err != nil {
			return fmt.Errorf("a conflict of machine %s: %w", machine, err)
		}
		d.found = append(d.found, foundConflict{machine: machine, at: d.now, Sighting: Sighting{Kind: c.Kind, Other: uuidPtr(other),
			Observed: c.Observed, First: c.First, Second: c.Second}})
		return nil
	})
	if err != nil {
		return fmt.Errorf("read resolved conflicts: %w", err)
	}
	return nil
}

// told tells whether people know of a state that lasts: an alert of the machine is open, or the newest was dismissed. One that
// somebody resolved said that it is over, and it is not.
func (d *detection) told(ctx context.Context, tx pgx.Tx, machine uuid.UUID, code string) (told bool, err error) {
	err = tx.QueryRow(ctx, `SELECT coalesce((SELECT status <> 'resolved' FROM alerts WHERE tenant_id = $1 AND machine_id = $2 AND code = $3
		ORDER BY status IN ('active', 'in_progress') DESC, alert_id DESC LIMIT 1), false)`, pgUUID(d.tenant), pgUUID(machine), code).Scan(&told)
	if err != nil {
		return false, fmt.Errorf("read the alert of a conflict: %w", err)
	}
	return told, nil
}

// The codes of the alerts, as verifier/finding has them.
const (
	codeIdentityConflict = "identity_conflict"
	codeRollbackDetected = "rollback_detected"
)

// conflict is what people see.
func (f *foundConflict) conflict(known map[uuid.UUID]namedMachine) *finding.Conflict {
	c := &finding.Conflict{Kind: f.Kind, Observed: f.Observed, First: f.First, Second: f.Second,
		Machines: []finding.ConflictMachine{{ID: f.machine.String(), Name: known[f.machine].name}}}
	switch {
	case f.Other != nil:
		c.Machines = append(c.Machines, finding.ConflictMachine{ID: f.Other.String(), Name: known[*f.Other].name})
	case f.Name != "":
		c.Machines = append(c.Machines, finding.ConflictMachine{Name: f.Name})
	}
	return c
}

type namedMachine struct{ name, os string }

func readNamed(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, found []foundConflict) (map[uuid.UUID]namedMachine, error) {
	var ids []pgtype.UUID
	for i := range found {
		ids = append(ids, pgUUID(found[i].machine))
		if o := found[i].Other; o != nil {
			ids = append(ids, pgUUID(*o))
		}
	}
	out := map[uuid.UUID]namedMachine{}
	rows, _ := tx.Query(ctx, `SELECT machine_id, name, os FROM machines WHERE tenant_id = $1 AND machine_id = ANY ($2::uuid[])`, pgUUID(tenant), ids)
	var id uuid.UUID
	var m namedMachine
	if _, err := pgx.ForEachRow(rows, []any{&id, &m.name, &m.os}, func() error { out[id] = m; return nil }); err != nil {
		return nil, fmt.Errorf("read the machines of conflicts: %w", err)
	}
	return out, nil
}
