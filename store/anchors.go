package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// The origins of trust anchors.
const (
	AnchorOfTenant = "tenant"
	AnchorShipped  = "shipped"
)

// What an anchor holds.
const (
	CertificateAnchor = "certificate"
	KeyAnchor         = "public_key"
)

// ReferenceAnchor is the purpose of anchors that signatures of imported reference values may end in.
const ReferenceAnchor = "reference_values"

// TrustAnchorFilter narrows ListTrustAnchors.
type TrustAnchorFilter struct {
	Purpose string
	Enabled *bool
	// NamePrefix is of lists only; there Purpose may hold several values with commas between them.
	NamePrefix string
	ids        []pgtype.UUID // no others; nil: all
}

// CreateTrustAnchor stores an anchor of the tenant's own with its certificates, enabled; the id, and who and when, are
// filled in.
func (s *Store) CreateTrustAnchor(ctx context.Context, tenant uuid.UUID, a TrustAnchor, now time.Time, actor Actor) (TrustAnchor, error) {
	ctx = withTenant(ctx, tenant)
	a.Origin, a.Enabled, a.Source = AnchorOfTenant, true, ""
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if err := lockConfig(ctx, tx, tenant); err != nil {
			return err
		}
		var err error
		if a, err = insertAnchor(ctx, tx, tenant, a, now, actor); err != nil {
			return err
		}
		if err := audit(ctx, tx, tenant, now, actor, "trust_anchor.create", "trust_anchor:"+a.ID.String(), nil,
			map[string]any{"name": a.Name, "purpose": a.Purpose, "fingerprints": a.fingerprints()}); err != nil {
			return err
		}
		return bumpConfig(ctx, tx, tenant)
	})
	if err != nil {
		return TrustAnchor{}, fmt.Errorf("make trust anchor: %w", err)
	}
	return a, nil
}

func insertAnchor(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, a TrustAnchor, now time.Time, actor Actor) (TrustAnchor, error) {
	a.ID, a.CreatedAt, a.CreatedBy = newID(now), now, actor.String()
	if _, err := tx.Exec(ctx, `INSERT INTO trust_anchors (tenant_id, anchor_id, name, purpose, origin, enabled, source, created_by, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, tenant, a.ID, a.Name, a.Purpose, a.Origin, a.Enabled, a.Source, a.CreatedBy, now); err != nil {
		return TrustAnchor{}, fmt.Errorf("anchor %q: %w", a.Name, err)
	}
	for i, c := range a.Certificates {
		notAfter := &c.NotAfter
		if c.Kind == KeyAnchor {
			notAfter = nil
		}
		if _, err := tx.Exec(ctx, `INSERT INTO trust_anchor_certificates (tenant_id, anchor_id, position, kind, der, subject, fingerprint, not_after)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`, tenant, a.ID, i, cmp.Or(c.Kind, CertificateAnchor), c.DER, c.Subject, c.Fingerprint, notAfter); err != nil {
			return TrustAnchor{}, fmt.Errorf("certificate %d of anchor %q: %w", i, a.Name, err)
		}
	}
	return a, nil
}

func (a *TrustAnchor) fingerprints() []string {
	prints := make([]string, len(a.Certificates))
	for i, c := range a.Certificates {
		prints[i] = c.Fingerprint
	}
	return prints
}

// ListTrustAnchors lists anchors, newest first, with their certificates.
func (s *Store) ListTrustAnchors(ctx context.Context, tenant uuid.UUID, f TrustAnchorFilter, page Page) (items []TrustAnchor, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(` FROM trust_anchors a WHERE a.tenant_id = $1`, tenant)
	q.oneOf("a.purpose", f.Purpose)
	q.prefix("a.name", f.NamePrefix)
	if f.Enabled != nil {
		q.and("a.enabled = ?", *f.Enabled)
	}
	chosen, next, err := anchorList.page(ctx, s.pool, q, page)
	if err != nil || len(chosen) == 0 {
		return nil, "", err
	}
	if items, err = readTrustAnchors(ctx, s.pool, tenant, TrustAnchorFilter{ids: chosen}); err != nil {
		return nil, "", fmt.Errorf("list trust anchors: %w", err)
	}
	return inOrder(chosen, items, func(a TrustAnchor) uuid.UUID { return a.ID }), next, nil
}

var anchorList = listing[pgtype.UUID]{
	name: "trust_anchors", columns: "a.anchor_id", scan: scanID, initial: "-id",
	sorts: map[string][]sortKey{
		"id":      ids("a.anchor_id"),
		"name":    byText(named("a.name"), ids("a.anchor_id")...),
		"purpose": byText("a.purpose", ids("a.anchor_id")...),
	},
}

// TrustAnchorsFor reads all enabled anchors of a purpose with their certificates: what a chain may end in.
func (s *Store) TrustAnchorsFor(ctx context.Context, tenant uuid.UUID, purpose string) ([]TrustAnchor, error) {
	ctx = withTenant(ctx, tenant)
	enabled := true
	all, err := readTrustAnchors(ctx, s.pool, tenant, TrustAnchorFilter{Purpose: purpose, Enabled: &enabled})
	if err != nil {
		return nil, fmt.Errorf("read trust anchors for %s: %w", purpose, err)
	}
	return all, nil
}

// readTrustAnchors reads anchors with their certificates, newest first.
func readTrustAnchors(ctx context.Context, db querier, tenant uuid.UUID, f TrustAnchorFilter) ([]TrustAnchor, error) {
	rows, err := db.Query(ctx, `SELECT a.anchor_id, a.name, a.purpose, a.origin, a.enabled, a.source, a.created_by, a.created_at, c.kind, c.der, c.subject, c.fingerprint, c.not_after
		FROM trust_anchors a LEFT JOIN trust_anchor_certificates c USING (tenant_id, anchor_id)
		WHERE a.tenant_id = $1 AND ($2 = '' OR a.purpose = $2) AND ($3::boolean IS NULL OR a.enabled = $3) AND ($4::uuid[] IS NULL OR a.anchor_id = ANY($4))
		ORDER BY a.anchor_id DESC, c.position`, tenant, f.Purpose, f.Enabled, f.ids)
	if err != nil {
		return nil, err
	}
	var out []TrustAnchor
	var a TrustAnchor
	var der []byte
	var kind, subject, fingerprint *string
	var notAfter *time.Time
	_, err = pgx.ForEachRow(rows, []any{&a.ID, &a.Name, &a.Purpose, &a.Origin, &a.Enabled, &a.Source, &a.CreatedBy, &a.CreatedAt, &kind, &der, &subject, &fingerprint, &notAfter}, func() error {
		if len(out) == 0 || out[len(out)-1].ID != a.ID {
			out = append(out, a)
		}
		if subject != nil {
			last := &out[len(out)-1]
			c := TrustCertificate{Kind: *kind, DER: der, Subject: *subject, Fingerprint: *fingerprint}
			if notAfter != nil {
				c.NotAfter = *notAfter
			}
			last.Certificates = append(last.Certificates, c)
		}
		return nil
	})
	return out, err
}

// GetTrustAnchor reads one anchor. ErrNotFound.
func (s *Store) GetTrustAnchor(ctx context.Context, tenant, id uuid.UUID) (TrustAnchor, error) {
	ctx = withTenant(ctx, tenant)
	return getAnchor(ctx, s.pool, tenant, id)
}

func getAnchor(ctx context.Context, db querier, tenant, id uuid.UUID) (TrustAnchor, error) {
	found, err := readTrustAnchors(ctx, db, tenant, TrustAnchorFilter{ids: []pgtype.UUID{pgUUID(id)}})
	if err != nil {
		return TrustAnchor{}, fmt.Errorf("read trust anchor %s: %w", id, err)
	}
	if len(found) == 0 {
		return TrustAnchor{}, notFound(pgx.ErrNoRows, "trust anchor", id)
	}
	return found[0], nil
}

// SetTrustAnchorEnabled lets chains end in an anchor, or withdraws it, which retires the baseline versions that it
// vouched for (Retired). What is so already changes nothing. ErrNotFound.
func (s *Store) SetTrustAnchorEnabled(ctx context.Context, tenant, id uuid.UUID, enabled bool, now time.Time, actor Actor) (TrustAnchor, error) {
	ctx = withTenant(ctx, tenant)
	var a TrustAnchor
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		err := lockConfig(ctx, tx, tenant)
		if err != nil {
			return err
		}
		if a, err = getAnchor(ctx, tx, tenant, id); err != nil || a.Enabled == enabled {
			return err
		}
		if _, err := tx.Exec(ctx, `UPDATE trust_anchors SET enabled = $3 WHERE tenant_id = $1 AND anchor_id = $2`, tenant, id, enabled); err != nil {
			return err
		}
		action := "trust_anchor.disable"
		if enabled {
			action = "trust_anchor.enable"
		}
		facts := func(on bool) map[string]any {
			return map[string]any{"name": a.Name, "purpose": a.Purpose, "origin": a.Origin, "enabled": on}
		}
		if err := audit(ctx, tx, tenant, now, actor, action, "trust_anchor:"+id.String(), facts(a.Enabled), facts(enabled)); err != nil {
			return err
		}
		a.Enabled = enabled
		if !enabled {
			if a.Retired, err = withdrawn(ctx, tx, tenant, &a, "disabled", now, actor); err != nil {
				return err
			}
		}
		return bumpConfig(ctx, tx, tenant)
	})
	if err != nil {
		return TrustAnchor{}, fmt.Errorf("switch trust anchor: %w", err)
	}
	return a, nil
}

// DeleteTrustAnchor removes an anchor of the tenant's own: chains that end in it are no longer trusted, and the baseline
// versions that it vouched for are retired (Retired). ErrNotFound. ErrConflict: a shipped anchor can only be disabled.
func (s *Store) DeleteTrustAnchor(ctx context.Context, tenant, id uuid.UUID, now time.Time, actor Actor) (TrustAnchor, error) {
	ctx = withTenant(ctx, tenant)
	var a TrustAnchor
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		err := lockConfig(ctx, tx, tenant)
		if err != nil {
			return err
		}
		if a, err = getAnchor(ctx, tx, tenant, id); err != nil {
			return err
		}
		if a.Origin == AnchorShipped {
			return fmt.Errorf("trust anchor %s is shipped with the service: %w", id, ErrConflict)
		}
		if a.Retired, err = withdrawn(ctx, tx, tenant, &a, "deleted", now, actor); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM trust_anchors WHERE tenant_id = $1 AND anchor_id = $2`, tenant, id); err != nil {
			return fmt.Errorf("delete trust anchor %s: %w", id, err)
		}
		if err := audit(ctx, tx, tenant, now, actor, "trust_anchor.delete", "trust_anchor:"+id.String(),
			map[string]any{"name": a.Name, "purpose": a.Purpose}, nil); err != nil {
			return err
		}
		return bumpConfig(ctx, tx, tenant)
	})
	if err != nil {
		return TrustAnchor{}, err
	}
	return a, nil
}

// withdrawn retires the baseline versions that the anchor vouched for, and asks that the evidence of the machines that
// rest on it is judged without it.
func withdrawn(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, a *TrustAnchor, how string, now time.Time, actor Actor) ([]BaselineVersion, error) {
	retired, err := retireImported(ctx, tx, tenant, a, now, actor)
	if err != nil {
		return nil, err
	}
	cause := ReappraisalCause{Kind: CauseTrustAnchor, ID: a.ID.String(), Detail: fmt.Sprintf("trust anchor %s (%s) was %s", a.Name, a.Purpose, how)}
	_, err = EnqueueReappraisal(ctx, tx, tenant, cause, MachineScope{AnchorFingerprints: a.fingerprints()}, now, actor)
	return retired, err
}

// ShippedAnchor is an anchor that comes with the service.
type ShippedAnchor struct {
	Name, Purpose string
	Source        string // where the certificates come from
	Certificates  []TrustCertificate
}

// SyncShippedAnchors brings the tenant the anchors that the service ships; enabled is how a new one begins. An anchor is
// known by its purpose and certificates: one that is there keeps its switch, and takes the name and source of the
// shipped one. One that is no longer shipped stays as it is. A new one that has a certificate of a shipped anchor of
// its purpose that somebody disabled begins disabled: no update of the service may bring back what was withdrawn.
func (s *Store) SyncShippedAnchors(ctx context.Context, tenant uuid.UUID, shipped []ShippedAnchor, enabled bool, now time.Time) error {
	ctx = withTenant(ctx, tenant)
	actor := Actor{Kind: "system", ID: "trust-bundle"}
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if err := lockConfig(ctx, tx, tenant); err != nil {
			return err
		}
		all, err := readTrustAnchors(ctx, tx, tenant, TrustAnchorFilter{})
		if err != nil {
			return err
		}
		known := map[string]TrustAnchor{}
		withdrawn := map[string]bool{}
		for _, a := range all {
			if a.Origin != AnchorShipped {
				continue
			}
			known[contentOf(a)] = a
			for _, print := range a.fingerprints() {
				withdrawn[a.Purpose+" "+print] = withdrawn[a.Purpose+" "+print] || !a.Enabled
			}
		}
		var added, changed []map[string]any
		for _, in := range shipped {
			a := TrustAnchor{Name: in.Name, Purpose: in.Purpose, Source: in.Source, Certificates: in.Certificates, Origin: AnchorShipped, Enabled: enabled}
			if old, ok := known[contentOf(a)]; ok {
				if old.Name == a.Name && old.Source == a.Source {
					continue
				}
				if _, err := tx.Exec(ctx, `UPDATE trust_anchors SET name = $3, source = $4 WHERE tenant_id = $1 AND anchor_id = $2`, tenant, old.ID, a.Name, a.Source); err != nil {
					return err
				}
				changed = append(changed, map[string]any{"id": old.ID, "name": a.Name, "source": a.Source})
				continue
			}
			for _, print := range a.fingerprints() {
				a.Enabled = a.Enabled && !withdrawn[a.Purpose+" "+print]
			}
			if a, err = insertAnchor(ctx, tx, tenant, a, now, actor); err != nil {
				return err
			}
			known[contentOf(a)] = a
			added = append(added, map[string]any{"id": a.ID, "name": a.Name, "purpose": a.Purpose, "enabled": a.Enabled, "fingerprints": a.fingerprints()})
		}
		if added == nil && changed == nil {
			return nil
		}
		if err := audit(ctx, tx, tenant, now, actor, "trust_anchor.sync", "tenant:"+tenant.String(), nil, map[string]any{"added": added, "changed": changed}); err != nil {
			return err
		}
		return bumpConfig(ctx, tx, tenant)
	})
	if err != nil {
		return fmt.Errorf("sync the shipped trust anchors: %w", err)
	}
	return nil
}

// contentOf is what an anchor is known by: its purpose and the set of its certificates.
func contentOf(a TrustAnchor) string {
	prints := a.fingerprints()
	slices.Sort(prints)
	return a.Purpose + " " + strings.Join(slices.Compact(prints), " ")
}

// How a machine rests on an anchor.
const (
	RestsByKey    = "attestation_key" // the proof of its active key ended in it
	RestsByReport = "platform_report" // the hardware evidence of its last verdict ended in it
)

// RestingMachine is a machine whose trust ends in an anchor.
type RestingMachine struct {
	MachineID uuid.UUID
	Name      string
	How       string // RestsByKey, RestsByReport
}

const restingMachines = ` FROM (
		SELECT k.machine_id, '` + RestsByKey + `' AS how FROM attestation_keys k JOIN trust_anchor_certificates c ON c.tenant_id = k.tenant_id AND c.fingerprint = k.anchor_fingerprint
			WHERE k.tenant_id = $1 AND k.state = 'active' AND c.anchor_id = $2
		UNION SELECT m.machine_id, '` + RestsByReport + `' FROM machines m JOIN trust_anchor_certificates c ON c.tenant_id = m.tenant_id AND c.fingerprint = m.platform_root
			WHERE m.tenant_id = $1 AND m.platform_root <> '' AND c.anchor_id = $2) r `

var restingList = listing[RestingMachine]{
	name: "resting", columns: "r.machine_id, m.name, r.how", initial: "machine_id",
	scan: func(row pgx.Row) (RestingMachine, error) {
		var m RestingMachine
		err := row.Scan(&m.MachineID, &m.Name, &m.How)
		return m, err
	},
	sorts: map[string][]sortKey{
		"machine_id": {{"r.machine_id", keyID}, {"r.how", keyText}},
		"name":       {{named("m.name"), keyText}, {"r.machine_id", keyID}, {"r.how", keyText}},
	},
}

// MachinesRestingOn lists the machines whose trust ends in a certificate of the anchor: by the proof of their active
// key, by the hardware evidence of their last verdict, or by both (two items). ErrNotFound: no such anchor.
func (s *Store) MachinesRestingOn(ctx context.Context, tenant, anchorID uuid.UUID, page Page) (items []RestingMachine, next string, err error) {
	ctx = withTenant(ctx, tenant)
	if err := restingList.check(page); err != nil {
		return nil, "", err
	}
	if _, err := s.GetTrustAnchor(ctx, tenant, anchorID); err != nil {
		return nil, "", err
	}
	q := newQuery(restingMachines+`JOIN machines m ON m.tenant_id = $1 AND m.machine_id = r.machine_id WHERE true`, tenant, pgUUID(anchorID))
	return restingList.page(ctx, s.pool, q, page)
}

// CountMachinesRestingOn counts the machines that MachinesRestingOn lists, each once.
func (s *Store) CountMachinesRestingOn(ctx context.Context, tenant, anchorID uuid.UUID) (int64, error) {
	ctx = withTenant(ctx, tenant)
	var n int64
	if err := s.pool.QueryRow(ctx, `SELECT count(DISTINCT r.machine_id)`+restingMachines, tenant, anchorID).Scan(&n); err != nil {
		return 0, fmt.Errorf("count the machines that rest on anchor %s: %w", anchorID, err)
	}
	return n, nil
}
