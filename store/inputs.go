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

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// selectInputs is the one statement of a steady appraisal's read, for all machines that are asked for at the
// moment. Of the baselines that name a machine it tells which versions are valid; what is in them never changes,
// and is kept in memory.
const selectInputs = `SELECT u.ord, ` + machineColumns + `,
		k.key_id, k.ak_public, k.ak_name, k.assurance, k.evidence, k.created_at, k.kind, k.anchor_fingerprint, k.certificate_not_after,
		st.clock_key_id, st.clock, st.reset_count, st.restart_count, st.clock_safe, st.firmware_version,
		st.last_challenge, st.last_log, st.last_platform, st.ima_state, st.boot_id, CASE WHEN st.fingerprint IS NOT NULL THEN st.verdict_id END,
		t.config_generation, own.own, own.ids, own.versions, own.states, own.untils, own.ended,
		matches.ids, matches.versions, matches.activations, matches.highest_versions, matches.highest_activations
	FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY u (tenant_id, machine_id, ord)
	JOIN machines m ON m.tenant_id = u.tenant_id AND m.machine_id = u.machine_id
	JOIN machine_attestation_state st ON st.tenant_id = u.tenant_id AND st.machine_id = u.machine_id
	JOIN tenants t ON t.tenant_id = u.tenant_id
	LEFT JOIN attestation_keys k ON k.tenant_id = u.tenant_id AND k.machine_id = u.machine_id AND k.state = 'active'
	LEFT JOIN LATERAL (SELECT bool_or(a.own) AS own, array_agg(v.baseline_id) AS ids, array_agg(v.version) AS versions,
			array_agg(v.state) AS states, array_agg(v.active_until) AS untils,
			json_agg((` + endedVersion + `)) FILTER (WHERE v.baseline_id IS NULL) AS ended
		FROM baseline_assignments a
		LEFT JOIN baseline_versions v ON v.tenant_id = a.tenant_id AND v.baseline_id = a.baseline_id AND v.state IN ('active', 'grace')
		WHERE a.tenant_id = u.tenant_id AND a.machine_id = u.machine_id) own ON true
	LEFT JOIN LATERAL (SELECT array_agg(x.baseline_id) AS ids, array_agg(x.version) AS versions, array_agg(x.activation) AS activations,
			array_agg(x.highest_version) AS highest_versions, array_agg(x.highest_activation) AS highest_activations
		FROM baseline_matches x
		WHERE x.tenant_id = u.tenant_id AND x.machine_id = u.machine_id) matches ON true`

// endedVersion is the version of an assigned baseline without a valid one that was valid last; null where none ever was,
// and for a baseline that was released. It costs nothing for a baseline that has a valid version.
const endedVersion = `SELECT json_build_object('BaselineID', b.baseline_id, 'Name', b.name, 'Selector', b.selector, 'Version', x.version,
		'State', x.state, 'ActiveUntil', x.active_until, 'Activation', x.activation)
	FROM baselines b JOIN baseline_versions x ON x.tenant_id = b.tenant_id AND x.baseline_id = b.baseline_id AND x.activation IS NOT NULL
	WHERE b.tenant_id = a.tenant_id AND b.baseline_id = a.baseline_id
		AND NOT EXISTS (SELECT FROM baseline_versions y WHERE y.tenant_id = b.tenant_id AND y.baseline_id = b.baseline_id AND y.last_change = '` + changeReleased + `')
	ORDER BY x.changed_at DESC NULLS LAST, x.activation DESC LIMIT 1`

// inputsRow receives selectInputs.
type inputsRow struct {
	machineRow
	ord                              int64
	keyID, clockKey                  pgtype.UUID
	akPublic, akName, evidence       []byte
	assurance                        pgtype.Text
	keyCreated                       pgtype.Timestamptz
	keyKind, keyAnchor               pgtype.Text
	keyNotAfter                      pgtype.Timestamptz
	lastPlatform                     []byte
	clock, reset, restart, firmware  pgtype.Int8
	safe                             pgtype.Bool
	lastChallenge, lastLog, imaState []byte
	bootID                           string
	run                              pgtype.UUID
	generation                       int64
	own                              pgtype.Bool
	ids                              []pgtype.UUID
	versions                         []pgtype.Int4
	states                           []pgtype.Text
	untils                           []pgtype.Timestamptz
	ended                            []byte // JSON, an array of endedVersion; nil if all are valid
	matches                          matchColumns
}

func (r *inputsRow) scan(row pgx.Row) error {
	return row.Scan(append(append(make([]any, 0, 64), &r.ord), append(r.targets(), &r.keyID, &r.akPublic, &r.akName, &r.assurance, &r.evidence, &r.keyCreated, &r.keyKind, &r.keyAnchor, &r.keyNotAfter,
		&r.clockKey, &r.clock, &r.reset, &r.restart, &r.safe, &r.firmware,
		&r.lastChallenge, &r.lastLog, &r.lastPlatform, &r.imaState, &r.bootID, &r.run,
		&r.generation, &r.own, &r.ids, &r.versions, &r.states, &r.untils, &r.ended,
		&r.matches.ids, &r.matches.versions, &r.matches.activations, &r.matches.highestVersions, &r.matches.highestActivations)...)...)
}

// readInputs reads the rows of a group of machines in one statement; nil for a machine that does not exist.
func (s *Store) readInputs(ctx context.Context, db querier, group []machineKey) ([]*inputsRow, error) {
	tenants, machines := make([]pgtype.UUID, len(group)), make([]pgtype.UUID, len(group))
	for i, k := range group {
		tenants[i], machines[i] = pgUUID(k.tenant), pgUUID(k.machine)
	}
	rows, err := db.Query(ctx, selectInputs, tenants, machines)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := make([]*inputsRow, len(group))
	for rows.Next() {
		r := new(inputsRow)
		if err := r.scan(rows); err != nil {
			return nil, err
		}
		out[r.ord-1] = r
	}
	return out, rows.Err()
}

// AppraisalInputs reads all that the store knows for an appraisal of the machine's evidence, as of one
// snapshot. Versions are in the order in which deviations should be explained against them: active before
// grace, more specific selectors first, newer first. ErrNotFound: no such machine.
func (s *Store) AppraisalInputs(ctx context.Context, tenant, machineID uuid.UUID, now time.Time) (AppraisalInputs, error) {
	key := machineKey{tenant, machineID}
	r, err := s.inputs.do(ctx, key)
	if err != nil {
		return AppraisalInputs{}, fmt.Errorf("read machine %s: %w", machineID, err)
	}
	if r == nil {
		return AppraisalInputs{}, notFound(pgx.ErrNoRows, "machine", machineID)
	}
	cfg := s.configs.get(tenant, r.generation)
	bound, known := s.knownVersions(tenant, r)
	if cfg == nil || !known {
		// Something is not in memory: read again, all in one snapshot of its own.
		ctx = withTenant(ctx, tenant)
		readAll := func(tx pgx.Tx) error {
			rows, err := s.readInputs(ctx, tx, []machineKey{key})
			if err != nil {
				return fmt.Errorf("read machine %s: %w", machineID, err)
			}
			if r = rows[0]; r == nil {
				return notFound(pgx.ErrNoRows, "machine", machineID)
			}
			if cfg, err = s.configAt(ctx, tx, tenant, r.generation); err != nil {
				return err
			}
			bound, err = s.loadVersions(ctx, tx, tenant, r)
			return err
		}
		_, err := retryUnsent(ctx, s.pool, func() (struct{}, error) {
			return struct{}{}, pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, readAll)
		})
		if err != nil {
			return AppraisalInputs{}, err
		}
	}
	return r.inputs(cfg, bound, now)
}

func (r *inputsRow) inputs(cfg *tenantConfig, bound []BaselineVersion, now time.Time) (AppraisalInputs, error) {
	m, err := r.machine()
	if err != nil {
		return AppraisalInputs{}, err
	}
	in := AppraisalInputs{
		Machine: m, LastChallenge: r.lastChallenge, LastLog: r.lastLog, LastPlatform: r.lastPlatform, Trust: cfg.trust, Revocations: cfg.revocations, CurrentRun: uuidPtr(r.run), HasOwnBaseline: r.own.Bool,
		Matches: r.matches.list(), LastBootID: r.bootID,
	}
	if r.keyID.Valid {
		in.Key = &AttestationKey{ID: r.keyID.Bytes, MachineID: m.ID, Public: r.akPublic, Name: r.akName,
			Assurance: verifier.Assurance(r.assurance.String), State: "active", Evidence: r.evidence, CreatedAt: r.keyCreated.Time,
			Kind: r.keyKind.String, AnchorFingerprint: r.keyAnchor.String, CertificateNotAfter: timePtr(r.keyNotAfter)}
		if r.clockKey == r.keyID {
			in.LastClock = &tpm.ClockState{Clock: uint64(r.clock.Int64), ResetCount: uint32(r.reset.Int64), RestartCount: uint32(r.restart.Int64), // #nosec G115 -- stored as the same bits
				Safe: r.safe.Bool, FirmwareVersion: uint64(r.firmware.Int64)} // #nosec G115 -- stored as the same bits
		}
	}
	if r.imaState != nil {
		in.IMAState = new(ima.State)
		if err := json.Unmarshal(r.imaState, in.IMAState); err != nil {
			return AppraisalInputs{}, fmt.Errorf("stored IMA state of machine %s: %w", m.ID, err)
		}
	}
	facts := factsOf(&m)
	in.Policy, in.PolicyRef = cfg.policyFor(facts)
	boundEnded, err := r.boundEnded()
	if err != nil {
		return AppraisalInputs{}, err
	}
	var ended []*BaselineVersion
	for _, list := range [...][]BaselineVersion{bound, boundEnded, cfg.byScaleSet[m.ScaleSet], cfg.any} {
		for i := range list {
			v := &list[i]
			switch {
			case !baseline.Matches(v.Selector, facts):
			case v.validAt(now):
				in.Versions = append(in.Versions, *v)
			default:
				ended = append(ended, v)
			}
		}
	}
	in.Withdrawn = withdrawnOf(ended, in.Versions)
	if len(in.Versions) > 1 {
		slices.SortStableFunc(in.Versions, func(a, b BaselineVersion) int {
			return cmp.Or(cmp.Compare(a.State, b.State), // "active" < "grace"
				cmp.Compare(specificity(b.Selector), specificity(a.Selector)), b.CreatedAt.Compare(a.CreatedAt))
		})
	}
	return in, nil
}

// versionKey names an immutable baseline version.
type versionKey struct {
	tenant, baseline uuid.UUID
	version          int32
}

// knownVersions is the machine's own valid versions, if all are in memory. State and end are of the row: they
// are what changes.
func (s *Store) knownVersions(tenant uuid.UUID, r *inputsRow) (out []BaselineVersion, known bool) {
	for i := range r.ids {
		if !r.ids[i].Valid {
			continue // an assignment whose baseline has no valid version
		}
		v, ok := s.versions.get(versionKey{tenant, r.ids[i].Bytes, r.versions[i].Int32})
		if ok {
			v.Reference, ok = s.references.get(refKey{tenant, [32]byte(v.ReferenceDigest)})
		}
		if !ok {
			return nil, false
		}
		v.State, v.ActiveUntil = r.states[i].String, timePtr(r.untils[i])
		out = append(out, v)
	}
	return out, true
}

// refKey names reference values by content: machines of one image that each learned a baseline share one
// parsed copy.
type refKey struct {
	tenant uuid.UUID
	digest [32]byte
}

func (s *Store) loadVersions(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, r *inputsRow) ([]BaselineVersion, error) {
	out, known := s.knownVersions(tenant, r)
	if known {
		return out, nil
	}
	out = nil
	for i := range r.ids {
		if !r.ids[i].Valid {
			continue
		}
		var body []byte
		v, err := scanVersion(tx.QueryRow(ctx, `SELECT `+versionColumns+`, r.body `+versionTables+`
			JOIN reference_values r ON r.tenant_id = v.tenant_id AND r.digest = v.reference_digest
			WHERE b.tenant_id = $1 AND b.baseline_id = $2 AND v.version = $3`, pgUUID(tenant), r.ids[i], r.versions[i].Int32), &body)
		if err != nil {
			return nil, notFound(err, "baseline version", fmt.Sprintf("%s/%d", uuid.UUID(r.ids[i].Bytes), r.versions[i].Int32))
		}
		key := refKey{tenant, [32]byte(v.ReferenceDigest)}
		reference, ok := s.references.get(key)
		if !ok {
			if err := json.Unmarshal(body, &reference); err != nil {
				return nil, fmt.Errorf("stored reference values of baseline %s version %d: %w", v.BaselineID, v.Version, err)
			}
			s.references.put(key, reference, len(body))
		}
		s.versions.put(versionKey{tenant, r.ids[i].Bytes, r.versions[i].Int32}, v, 1)
		v.Reference = reference
		out = append(out, v)
	}
	return out, nil
}
