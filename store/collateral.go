package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/assay-verifier/assay/verifier/tee"
)

// Where collateral comes from.
const (
	CollateralFromEvidence = "evidence"
	CollateralUploaded     = "uploaded"
	CollateralFetched      = "fetched"
)

// StoredCollateral is one row of collateral.
type StoredCollateral struct {
	tee.Collateral // without Body and IssuerChain in lists
	SHA256         [32]byte
	Source         string // evidence, uploaded, fetched
	CreatedAt      time.Time
	CreatedBy      string
}

// CollateralFilter narrows ListCollateral.
type CollateralFilter struct {
	Kind           tee.Kind
	Name           string
	ExpiringBefore *time.Time
}

// collateralName names collateral of a tenant.
type collateralName struct {
	tenant uuid.UUID
	kind   tee.Kind
	name   string
}

// collateralMark names exact collateral of a tenant.
type collateralMark struct {
	collateralName
	digest [32]byte
}

func nameOf(tenant uuid.UUID, c *tee.Collateral) collateralName {
	return collateralName{tenant, c.Kind, c.Name}
}

func markOf(tenant uuid.UUID, c *tee.Collateral) collateralMark {
	h := sha256.New()
	h.Write(c.Body)
	h.Write(c.IssuerChain)
	return collateralMark{nameOf(tenant, c), [32]byte(h.Sum(nil))}
}

// Bounds of what is kept in memory of collateral.
const (
	cachedCollateralBytes = 8 << 20
	cachedCollateralMarks = 20_000
)

// newCollateral is what the record brings that this process has not offered to the database yet.
func (s *Store) newCollateral(tenant uuid.UUID, rec *AppraisalRecord) []tee.Collateral {
	var out []tee.Collateral
	for i := range rec.Collateral {
		if _, known := s.offered.get(markOf(tenant, &rec.Collateral[i])); !known {
			out = append(out, rec.Collateral[i])
		}
	}
	return out
}

// noteCollateral remembers what the record brought and lacked, once that is on disk.
func (s *Store) noteCollateral(tenant uuid.UUID, p *pending) {
	for i := range p.collateral {
		s.offered.put(markOf(tenant, &p.collateral[i]), struct{}{}, 1)
		s.byName.remove(nameOf(tenant, &p.collateral[i]))
	}
	for _, w := range p.wants {
		name := collateralName{tenant, w.Kind, w.Name}
		s.wanted.remove(name)
		s.wanted.put(name, p.rec.ReceivedAt, 1)
	}
}

// changesTrust tells whether the group may change what the tenant's appraisals share.
func changesTrust(group []*pending, tenant uuid.UUID) bool {
	return slices.ContainsFunc(group, func(p *pending) bool { return p.tenant == tenant && slices.ContainsFunc(p.collateral, shared) })
}

// putCollateral stores what is newer than what is held; marks the change of configuration, ends the wants and
// records each for the auditor. A later statement of an issuer replaces an earlier one, never the other way: who
// replays an old CRL brings nothing back. What all machines share and a later statement replaces, or somebody brings,
// lets stored evidence be judged again: a CRL may revoke, and a TCB level may no longer do.
const putCollateral = `WITH u AS (SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::timestamptz[], $7::timestamptz[],
			$8::text[], $9::timestamptz[], $10::uuid[], $11::text[], $12::text[], $13::text[], $14::text[])
		u (tenant_id, kind, name, body, issuer_chain, not_before, not_after, source, at, event_id, actor_kind, actor_id, remote_addr, request_id)),
	put AS (INSERT INTO collateral AS c (tenant_id, kind, name, body, issuer_chain, not_before, not_after, source, created_at, created_by)
		SELECT tenant_id, kind, name, body, issuer_chain, not_before, not_after, source, at, actor_kind || ':' || actor_id FROM u
		ON CONFLICT (tenant_id, kind, name) DO UPDATE SET body = excluded.body, issuer_chain = excluded.issuer_chain, not_before = excluded.not_before,
			not_after = excluded.not_after, source = excluded.source, created_at = excluded.created_at, created_by = excluded.created_by
		WHERE excluded.not_before > c.not_before OR excluded.not_before = c.not_before AND excluded.not_after > c.not_after
		RETURNING c.tenant_id, c.kind, c.name, c.xmax <> 0 AS replaced),
	queued AS (INSERT INTO reappraisals (tenant_id, reappraisal_id, cause_kind, cause_id, cause_detail, scope, state, requested_by, requested_at)
		SELECT u.tenant_id, u.event_id, 'collateral', u.kind || '/' || u.name, u.kind || ' ' || u.name || ' was replaced',
			jsonb_build_object('platform_types', jsonb_build_array('azure_hcl', CASE WHEN u.kind LIKE 'tdx%' THEN 'tdx' ELSE 'sev_snp' END)),
			'queued', u.actor_kind || ':' || u.actor_id, u.at
		FROM u JOIN put USING (tenant_id, kind, name) WHERE u.kind <> 'vcek' AND (put.replaced OR u.source <> 'evidence') ` + onQueuedTwice + `),
	marked AS (UPDATE tenants t SET config_generation = t.config_generation + 1
		WHERE t.tenant_id IN (SELECT tenant_id FROM put WHERE kind <> 'vcek')),
	satisfied AS (DELETE FROM collateral_wants w USING put WHERE w.tenant_id = put.tenant_id AND w.kind = put.kind AND w.name = put.name),
	audited AS (INSERT INTO audit_events (tenant_id, event_id, at, actor_kind, actor_id, remote_addr, request_id, action, target, after)
		SELECT u.tenant_id, u.event_id, u.at, u.actor_kind, u.actor_id, u.remote_addr, u.request_id, 'collateral.store', 'collateral:' || u.kind || '/' || u.name,
			json_build_object('source', u.source, 'sha256', encode(sha256(u.body), 'hex'), 'not_before', u.not_before, 'not_after', u.not_after)
		FROM u JOIN put USING (tenant_id, kind, name))
	SELECT count(*) FROM put`

// offer is collateral on its way into the database.
type offer struct {
	tenant uuid.UUID
	c      tee.Collateral
	source string
	at     time.Time
	actor  Actor
}

// collateralTable gathers the collateral and the wants of a group.
type collateralTable struct {
	offers []offer
	wants  []collateralName
	ats    []time.Time // of wants
}

func (t *collateralTable) add(p *pending) {
	for _, c := range p.collateral {
		t.offers = append(t.offers, offer{p.tenant, c, CollateralFromEvidence, p.rec.ReceivedAt, p.rec.Actor})
	}
	for _, w := range p.wants {
		t.wants, t.ats = append(t.wants, collateralName{p.tenant, w.Kind, w.Name}), append(t.ats, p.rec.ReceivedAt)
	}
}

func compareNames(a, b collateralName) int {
	return cmp.Or(bytes.Compare(a.tenant[:], b.tenant[:]), cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
}

// queue adds the statements. Rows are in one order, so that two groups cannot wait for each other, and a name is
// there once, with what is newest.
func (t *collateralTable) queue(b *pgx.Batch) {
	if len(t.wants) > 0 {
		b.Queue(insertWants, wantArgs(t.wants, t.ats)...)
	}
	if len(t.offers) > 0 {
		b.Queue(putCollateral, offerArgs(t.offers)...)
	}
}

func offerArgs(offers []offer) []any {
	slices.SortStableFunc(offers, func(x, y offer) int {
		return cmp.Or(compareNames(nameOf(x.tenant, &x.c), nameOf(y.tenant, &y.c)), y.c.NotBefore.Compare(x.c.NotBefore), y.c.NotAfter.Compare(x.c.NotAfter))
	})
	offers = slices.CompactFunc(offers, func(x, y offer) bool { return nameOf(x.tenant, &x.c) == nameOf(y.tenant, &y.c) })
	var tenants, events []pgtype.UUID
	var kinds, names, sources, actorKinds, actorIDs, addresses, requests []string
	var bodies, chains [][]byte
	var from, until, ats []time.Time
	for _, o := range offers {
		tenants, events = append(tenants, pgUUID(o.tenant)), append(events, pgUUID(newID(o.at)))
		kinds, names, sources = append(kinds, string(o.c.Kind)), append(names, o.c.Name), append(sources, o.source)
		actorKinds, actorIDs = append(actorKinds, o.actor.Kind), append(actorIDs, o.actor.ID)
		addresses, requests = append(addresses, o.actor.RemoteAddr), append(requests, o.actor.RequestID)
		bodies, chains = append(bodies, o.c.Body), append(chains, o.c.IssuerChain)
		from, until, ats = append(from, o.c.NotBefore), append(until, o.c.NotAfter), append(ats, o.at)
	}
	return []any{tenants, kinds, names, bodies, chains, from, until, sources, ats, events, actorKinds, actorIDs, addresses, requests}
}

// PutCollateral stores collateral that the caller has checked against the tenant's anchors; stored is false where
// what is held is as new.
func (s *Store) PutCollateral(ctx context.Context, tenant uuid.UUID, c tee.Collateral, source string, now time.Time, actor Actor) (stored bool, err error) {
	ctx = withTenant(ctx, tenant)
	var n int64
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		if err := lockConfig(ctx, tx, tenant); err != nil {
			return err
		}
		return tx.QueryRow(ctx, putCollateral, offerArgs([]offer{{tenant, c, source, now, actor}})...).Scan(&n)
	})
	if err != nil {
		return false, fmt.Errorf("store collateral %s %s: %w", c.Kind, c.Name, err)
	}
	s.byName.remove(nameOf(tenant, &c))
	return n > 0, nil
}

// Collateral reads the collateral of that name for an appraisal; endorsement keys are kept in memory. ErrNotFound.
func (s *Store) Collateral(ctx context.Context, tenant uuid.UUID, kind tee.Kind, name string) (tee.Collateral, error) {
	ctx = withTenant(ctx, tenant)
	key := collateralName{tenant, kind, name}
	if c, ok := s.byName.get(key); ok {
		return c, nil
	}
	stored, err := s.GetCollateral(ctx, tenant, kind, name)
	if err != nil {
		return tee.Collateral{}, err
	}
	if !shared(stored.Collateral) { // another replica may have changed the others
		s.byName.put(key, stored.Collateral, len(stored.Body)+len(stored.IssuerChain))
	}
	return stored.Collateral, nil
}

// GetCollateral reads one piece of collateral. ErrNotFound.
func (s *Store) GetCollateral(ctx context.Context, tenant uuid.UUID, kind tee.Kind, name string) (StoredCollateral, error) {
	ctx = withTenant(ctx, tenant)
	c := StoredCollateral{Collateral: tee.Collateral{Kind: kind, Name: name}}
	err := s.pool.QueryRow(ctx, `SELECT body, issuer_chain, not_before, not_after, source, created_at, created_by FROM collateral
		WHERE tenant_id = $1 AND kind = $2 AND name = $3`, pgUUID(tenant), string(kind), name).
		Scan(&c.Body, &c.IssuerChain, &c.NotBefore, &c.NotAfter, &c.Source, &c.CreatedAt, &c.CreatedBy)
	if err != nil {
		return StoredCollateral{}, notFound(err, "collateral", fmt.Sprintf("%s %s", kind, name))
	}
	c.SHA256 = sha256.Sum256(c.Body)
	return c, nil
}

var collateralList = listing[StoredCollateral]{
	name: "collateral", columns: "kind, name, sha256(body), not_before, not_after, source, created_at, created_by", initial: "kind",
	scan: func(row pgx.Row) (StoredCollateral, error) {
		var c StoredCollateral
		var digest []byte
		err := row.Scan(&c.Kind, &c.Name, &digest, &c.NotBefore, &c.NotAfter, &c.Source, &c.CreatedAt, &c.CreatedBy)
		copy(c.SHA256[:], digest)
		return c, err
	},
	sorts: map[string][]sortKey{
		"kind":       {{"kind", keyText}, {"name", keyText}},
		"not_after":  {{"not_after", keyTime}, {"kind", keyText}, {"name", keyText}},
		"created_at": {{"created_at", keyTime}, {"kind", keyText}, {"name", keyText}},
	},
}

// ListCollateral lists what is held, by kind and name, without bodies.
func (s *Store) ListCollateral(ctx context.Context, tenant uuid.UUID, f CollateralFilter, page Page) (items []StoredCollateral, next string, err error) {
	ctx = withTenant(ctx, tenant)
	q := newQuery(" FROM collateral WHERE tenant_id = $1", tenant)
	q.oneOf("kind", string(f.Kind))
	q.text("name = ?", f.Name)
	q.at("not_after < ?", f.ExpiringBefore)
	return collateralList.page(ctx, s.pool, q, page)
}

// platformTypesOf are the types of hardware evidence that collateral of a kind is checked with (the same as in putCollateral).
func platformTypesOf(kind tee.Kind) []string {
	if strings.HasPrefix(string(kind), "tdx") {
		return []string{tee.TypeAzureHCL, tee.TypeTDX}
	}
	return []string{tee.TypeAzureHCL, tee.TypeSEVSNP}
}

// DeleteCollateral removes collateral; a machine may bring it again. ErrNotFound.
func (s *Store) DeleteCollateral(ctx context.Context, tenant uuid.UUID, kind tee.Kind, name string, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	c := tee.Collateral{Kind: kind, Name: name}
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if err := lockConfig(ctx, tx, tenant); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `DELETE FROM collateral WHERE tenant_id = $1 AND kind = $2 AND name = $3 RETURNING body, issuer_chain, not_after`,
			tenant, string(kind), name).Scan(&c.Body, &c.IssuerChain, &c.NotAfter)
		if err != nil {
			return notFound(err, "collateral", fmt.Sprintf("%s %s", kind, name))
		}
		if err := audit(ctx, tx, tenant, now, actor, "collateral.delete", "collateral:"+string(kind)+"/"+name,
			map[string]any{"sha256": fmt.Sprintf("%x", sha256.Sum256(c.Body)), "not_after": c.NotAfter}, nil); err != nil {
			return err
		}
		if shared(c) {
			cause := ReappraisalCause{Kind: CauseCollateral, ID: string(kind) + "/" + name, Detail: fmt.Sprintf("%s %s was deleted", kind, name)}
			if _, err := EnqueueReappraisal(ctx, tx, tenant, cause, MachineScope{PlatformTypes: platformTypesOf(kind)}, now, actor); err != nil {
				return err
			}
		}
		return bumpConfig(ctx, tx, tenant)
	})
	if err != nil {
		return fmt.Errorf("delete collateral: %w", err)
	}
	s.offered.remove(markOf(tenant, &c))
	s.byName.remove(nameOf(tenant, &c))
	return nil
}
