package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// machineColumns are read by machineRow from machines m and machine_attestation_state st.
const machineColumns = `m.machine_id, m.external_id, m.name, m.os, m.platform, m.security_type, m.scale_set, m.labels,
	m.declared_secure_boot_supported, m.declared_secure_boot, m.declared_vtpm, m.declared_agent_installed,
	m.observed_secure_boot_supported, m.observed_secure_boot, m.observed_vtpm, m.observed_agent_installed,
	m.state, m.status, m.reason, m.assurance, m.last_verdict_id, m.instance, m.platform_evidence_type, m.vm_id,
	m.created_at, m.updated_at, st.last_seen_at, st.next_due_at, st.stale_at, st.last_boot_at, st.boot_count`

const machineTables = ` FROM machines m JOIN machine_attestation_state st USING (tenant_id, machine_id) `

// machineRow receives machineColumns without reflection on the way of every appraisal.
type machineRow struct {
	id                 pgtype.UUID
	labels, instance   []byte
	status             string
	lastVerdict        pgtype.UUID
	created, updated   pgtype.Timestamptz
	lastSeen, nextDue  pgtype.Timestamptz
	stale, lastBoot    pgtype.Timestamptz
	m                  Machine
	reason, assurance  string
	declared, observed [4]pgtype.Bool
}

func (r *machineRow) targets() []any {
	return []any{&r.id, &r.m.ExternalID, &r.m.Name, &r.m.OS, &r.m.Platform, &r.m.SecurityType, &r.m.ScaleSet, &r.labels,
		&r.declared[0], &r.declared[1], &r.declared[2], &r.declared[3],
		&r.observed[0], &r.observed[1], &r.observed[2], &r.observed[3],
		&r.m.State, &r.status, &r.reason, &r.assurance, &r.lastVerdict, &r.instance, &r.m.PlatformEvidenceType, &r.m.VMID,
		&r.created, &r.updated, &r.lastSeen, &r.nextDue, &r.stale, &r.lastBoot, &r.m.BootCount}
}

func (r *machineRow) machine() (Machine, error) {
	m := r.m
	m.ID = r.id.Bytes
	m.Declared, m.Observed = posture(&r.declared), posture(&r.observed)
	if err := m.Status.UnmarshalText([]byte(r.status)); err != nil {
		return Machine{}, err
	}
	m.Reason, m.Assurance = verifier.Reason(r.reason), verifier.Assurance(r.assurance)
	m.LastVerdict = uuidPtr(r.lastVerdict)
	if r.instance != nil {
		m.Instance = r.instance
	}
	m.CreatedAt, m.UpdatedAt = r.created.Time, r.updated.Time
	m.LastSeenAt, m.NextDueAt = timePtr(r.lastSeen), timePtr(r.nextDue)
	m.StaleSince, m.LastBootAt = timePtr(r.stale), timePtr(r.lastBoot)
	if len(r.labels) > len("{}") {
		if err := json.Unmarshal(r.labels, &m.Labels); err != nil {
			return Machine{}, fmt.Errorf("labels of machine %s: %w", m.ID, err)
		}
	}
	return m, nil
}

func posture(b *[4]pgtype.Bool) finding.Posture {
	var p finding.Posture
	for i, to := range []**bool{&p.SecureBootSupported, &p.SecureBoot, &p.VTPM, &p.AgentInstalled} {
		if b[i].Valid {
			v := b[i].Bool
			*to = &v
		}
	}
	return p
}

func scanMachine(row pgx.Row) (Machine, error) {
	var r machineRow
	if err := row.Scan(r.targets()...); err != nil {
		return Machine{}, err
	}
	return r.machine()
}

// GetMachine reads one machine. ErrNotFound.
func (s *Store) GetMachine(ctx context.Context, tenant, machineID uuid.UUID) (Machine, error) {
	ctx = withTenant(ctx, tenant)
	m, err := scanMachine(s.pool.QueryRow(ctx, `SELECT `+machineColumns+machineTables+`WHERE m.tenant_id = $1 AND m.machine_id = $2`, pgUUID(tenant), pgUUID(machineID)))
	if err != nil {
		return Machine{}, notFound(err, "machine", machineID)
	}
	return m, nil
}

var machineList = listing[Machine]{
	name: "machines", columns: machineColumns, scan: scanMachine, initial: "-id",
	sorts: map[string][]sortKey{
		"id":        ids("m.machine_id"),
		"name":      byText(named("m.name"), ids("m.machine_id")...),
		"scale_set": byText("m.scale_set", ids("m.machine_id")...),
		"status":    byText("m.status", ids("m.machine_id")...),
		"platform":  byText("m.platform", ids("m.machine_id")...),
		// The only order without an index: one over a column that each attestation changes would cost every one of them its
		// heap-only update. It is a scan of the tenant's hot rows, of which the page's are kept.
		"last_seen_at": byTime("coalesce(st.last_seen_at, timestamptz '0001-01-01 00:00:00+00')", ids("m.machine_id")...),
	},
}

// ListMachines lists machines, newest first.
func (s *Store) ListMachines(ctx context.Context, tenant uuid.UUID, f MachineFilter, page Page) (items []Machine, next string, err error) {
	ctx = withTenant(ctx, tenant)
	return machineList.page(ctx, s.pool, machineQuery(tenant, f), page)
}

func machineQuery(tenant uuid.UUID, f MachineFilter) *query {
	q := newQuery(machineTables+`WHERE m.tenant_id = $1`, tenant)
	q.text("m.name = ?", f.Name)
	q.prefix("m.name", f.NamePrefix)
	q.text("m.scale_set = ?", f.ScaleSet)
	q.oneOf("m.platform", f.Platform)
	q.oneOf("m.os", f.OS)
	q.oneOf("m.security_type", f.SecurityType)
	q.oneOf("m.status", f.Status)
	q.oneOf("m.assurance", f.Assurance)
	q.oneOf("m.state", f.State)
	for _, label := range append(f.Labels, f.Label) {
		if key, value, both := strings.Cut(label, "="); both {
			q.and("m.labels @> ?", map[string]string{key: value})
		} else if key != "" {
			q.and("jsonb_exists(m.labels, ?)", key)
		}
	}
	if f.Stale != nil {
		q.and("(st.stale_at IS NOT NULL) = ?", *f.Stale)
		if *f.Stale { // the same, in terms of a small table
			q.sql.WriteString(" AND EXISTS (SELECT FROM silent_machines x WHERE x.tenant_id = m.tenant_id AND x.machine_id = m.machine_id)")
		}
	}
	if f.SilenceAlert != nil {
		q.and(`EXISTS (SELECT FROM silent_machines x JOIN silences s ON s.tenant_id = x.tenant_id AND s.silence_id = x.silence_id
			WHERE x.tenant_id = m.tenant_id AND x.machine_id = m.machine_id AND s.alert_id = ?)`, pgUUID(*f.SilenceAlert))
	}
	q.at("(st.last_seen_at IS NULL OR st.last_seen_at < ?)", f.SeenBefore)
	q.at("st.next_due_at < ?", f.DueBefore)
	return q.within(f.Scope)
}

// UpsertMachines registers machines or updates what the inventory says of them, all in one transaction. A
// machine is found by its ExternalID, or, without one, by its name among machines that have none. Fields
// that an input leaves empty keep their value. derive gives the findings that follow from the inventory
// alone; they are recorded in the same transaction. The answer is in the order of inputs.
func (s *Store) UpsertMachines(ctx context.Context, tenant uuid.UUID, inputs []MachineInput, derive func(Machine) finding.Result, now time.Time, actor Actor) ([]Machine, error) {
	ctx = withTenant(ctx, tenant)
	// In one order of locks, whatever the order of the request, two batches cannot wait for each other.
	order := make([]int, len(inputs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(inputs[a].ExternalID, inputs[b].ExternalID), cmp.Compare(inputs[a].Name, inputs[b].Name))
	})
	out, made := make([]Machine, len(inputs)), false
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		rules, err := s.lockSuppressionRules(ctx, tx, tenant)
		if err != nil {
			return err
		}
		for _, i := range order {
			m, inserted, err := upsertMachine(ctx, tx, tenant, inputs[i], now, actor)
			made = made || inserted
			if err != nil {
				return fmt.Errorf("machine %d (%q): %w", i, inputs[i].Name, err)
			}
			if derive != nil {
				set := findingSet{tenant: tenant, machine: m, result: derive(m), at: now, rules: rules}
				if err := set.apply(ctx, tx); err != nil {
					return fmt.Errorf("machine %d (%q): %w", i, inputs[i].Name, err)
				}
			}
			if err := resuppress(ctx, tx, tenant, openOfMachine, pgUUID(m.ID), rules, now, actor.String()); err != nil {
				return err
			}
			out[i] = m
		}
		if !made {
			return nil
		}
		return s.withinQuota(ctx, tx, tenant, QuotaMachines, now)
	})
	if err != nil {
		return nil, fmt.Errorf("register machines: %w", err)
	}
	return out, nil
}

func upsertMachine(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, in MachineInput, now time.Time, actor Actor) (m Machine, inserted bool, err error) {
	for range 3 {
		m, err := lockMachine(ctx, tx, tenant, `(m.external_id = $2 AND $2 <> '' OR $2 = '' AND m.external_id = '' AND m.name = $3)`, in.ExternalID, in.Name)
		if err == nil {
			m, err = mergeMachine(ctx, tx, tenant, m, in, now, actor)
			return m, false, err
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return Machine{}, false, err
		}
		m, inserted, err := insertMachine(ctx, tx, tenant, in, "registered", now, actor)
		if err != nil || inserted {
			return m, inserted, err
		}
		// Somebody else has just registered it: it is there now.
	}
	return Machine{}, false, ErrConflict
}

// lockMachine reads and locks the machine that fits cond, whose parameters begin at $2.
func lockMachine(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, cond string, args ...any) (Machine, error) {
	return scanMachine(tx.QueryRow(ctx, `SELECT `+machineColumns+machineTables+`WHERE m.tenant_id = $1 AND `+cond+` FOR NO KEY UPDATE OF m`,
		append([]any{pgUUID(tenant)}, args...)...))
}

// insertMachine makes a machine with its hot row; inserted is false where one of the same identity exists.
func insertMachine(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, in MachineInput, state string, now time.Time, actor Actor) (m Machine, inserted bool, err error) {
	id := newID(now)
	d := in.Declared
	tag, err := tx.Exec(ctx, `INSERT INTO machines (tenant_id, machine_id, external_id, name, os, platform, security_type, scale_set, labels,
			declared_secure_boot_supported, declared_secure_boot, declared_vtpm, declared_agent_installed, state, created_at, updated_at, instance)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15, $16) ON CONFLICT DO NOTHING`,
		tenant, id, in.ExternalID, in.Name, in.OS, in.Platform, in.SecurityType, in.ScaleSet, labelsOrEmpty(in.Labels),
		d.SecureBootSupported, d.SecureBoot, d.VTPM, d.AgentInstalled, state, now, in.Instance)
	if err != nil {
		return Machine{}, false, fmt.Errorf("register: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return Machine{}, false, nil
	}
	if _, err := tx.Exec(ctx, `INSERT INTO machine_attestation_state (tenant_id, machine_id) VALUES ($1, $2)`, tenant, id); err != nil {
		return Machine{}, false, fmt.Errorf("register: %w", err)
	}
	if m, err = lockMachine(ctx, tx, tenant, `m.machine_id = $2`, id); err != nil {
		return Machine{}, false, fmt.Errorf("register: %w", err)
	}
	return m, true, audit(ctx, tx, tenant, now, actor, "machine.create", "machine:"+id.String(), nil, inventory(m))
}

// inventory is what the audit record keeps of a machine.
func inventory(m Machine) map[string]any {
	facts := map[string]any{"external_id": m.ExternalID, "name": m.Name, "os": m.OS, "platform": m.Platform,
		"security_type": m.SecurityType, "scale_set": m.ScaleSet, "labels": m.Labels, "declared": m.Declared}
	if m.Instance != nil {
		facts["instance"] = m.Instance
	}
	return facts
}

// mergeMachine writes what in says over a locked machine; empty fields keep their value.
func mergeMachine(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, m Machine, in MachineInput, now time.Time, actor Actor) (Machine, error) {
	was := m
	for _, f := range []struct {
		to   *string
		with string
	}{{&m.ExternalID, in.ExternalID}, {&m.Name, in.Name}, {&m.OS, in.OS}, {&m.Platform, in.Platform},
		{&m.SecurityType, in.SecurityType}, {&m.ScaleSet, in.ScaleSet}} {
		*f.to = cmp.Or(f.with, *f.to)
	}
	if in.Labels != nil {
		m.Labels = in.Labels
	}
	m.Declared = mergePosture(m.Declared, in.Declared)
	if in.Instance != nil && !sameJSON(m.Instance, in.Instance) {
		m.Instance = in.Instance
	}
	if was.ExternalID == m.ExternalID && was.Name == m.Name && was.OS == m.OS && was.Platform == m.Platform && was.SecurityType == m.SecurityType &&
		was.ScaleSet == m.ScaleSet && maps.Equal(was.Labels, m.Labels) && samePosture(was.Declared, m.Declared) &&
		bytes.Equal(was.Instance, m.Instance) {
		return m, nil
	}
	m.UpdatedAt = now
	d := m.Declared
	_, err := tx.Exec(ctx, `UPDATE machines SET external_id = $3, name = $4, os = $5, platform = $6, security_type = $7, scale_set = $8, labels = $9,
			declared_secure_boot_supported = $10, declared_secure_boot = $11, declared_vtpm = $12, declared_agent_installed = $13, updated_at = $14, instance = $15
		WHERE tenant_id = $1 AND machine_id = $2`,
		tenant, m.ID, m.ExternalID, m.Name, m.OS, m.Platform, m.SecurityType, m.ScaleSet, labelsOrEmpty(m.Labels),
		d.SecureBootSupported, d.SecureBoot, d.VTPM, d.AgentInstalled, now, m.Instance)
	if isViolation(err, "machines_plain_name") || isViolation(err, "machines_external_id") {
		return Machine{}, fmt.Errorf("another machine has that name or external id: %w", ErrConflict)
	}
	if err != nil {
		return Machine{}, fmt.Errorf("update: %w", err)
	}
	return m, audit(ctx, tx, tenant, now, actor, "machine.update", "machine:"+m.ID.String(), inventory(was), inventory(m))
}

// sameJSON tells whether two documents say the same: Postgres gives jsonb back in a form of its own.
func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

func mergePosture(old, with finding.Posture) finding.Posture {
	return finding.Posture{
		SecureBootSupported: cmp.Or(with.SecureBootSupported, old.SecureBootSupported),
		SecureBoot:          cmp.Or(with.SecureBoot, old.SecureBoot),
		VTPM:                cmp.Or(with.VTPM, old.VTPM),
		AgentInstalled:      cmp.Or(with.AgentInstalled, old.AgentInstalled),
	}
}

func samePosture(a, b finding.Posture) bool {
	same := func(x, y *bool) bool { return x == y || x != nil && y != nil && *x == *y }
	return same(a.SecureBootSupported, b.SecureBootSupported) && same(a.SecureBoot, b.SecureBoot) &&
		same(a.VTPM, b.VTPM) && same(a.AgentInstalled, b.AgentInstalled)
}
