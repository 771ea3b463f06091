package attest

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/bundle"
	"github.com/assay-verifier/assay/verifier/chain"
	"github.com/assay-verifier/assay/verifier/tee"
)

// Checkpoint makes a checkpoint of the tenant's chains, signed; see store.MakeAuditCheckpoint.
func (s *Service) Checkpoint(ctx context.Context, tenant uuid.UUID, unless time.Duration, actor store.Actor) (store.AuditCheckpoint, error) {
	return s.store.MakeAuditCheckpoint(ctx, tenant, unless, s.now(), actor, func(c chain.Checkpoint) (string, string, error) {
		return s.token.SignCheckpoint(ctx, c)
	})
}

// maxBundleVerdicts is how many verdicts a bundle may hold.
const maxBundleVerdicts = 50_000

// BundleTooLargeError is a bundle that would hold more verdicts than one may.
type BundleTooLargeError struct{ Verdicts, Most int64 }

// Error implements error.
func (e *BundleTooLargeError) Error() string {
	return fmt.Sprintf("the bundle would hold %d verdicts, and may hold %d: ask for one machine, or for less time", e.Verdicts, e.Most)
}

// BundleRequest chooses the verdicts of a bundle: of one machine, or of all; those whose run touches the time from Since to Until,
// and what lies between them in the chain.
type BundleRequest struct {
	Machine      *uuid.UUID
	Since, Until *time.Time
}

// Bundle is a bundle that is about to be written.
type Bundle struct {
	s        *Service
	tenant   uuid.UUID
	req      BundleRequest
	segments []store.ChainSegment
	Verdicts int64
}

// PrepareBundle finds out what a bundle will hold. The error is a *BundleTooLargeError, store.ErrNotFound where the machine does not
// exist, or a failure of ours.
func (s *Service) PrepareBundle(ctx context.Context, tenant uuid.UUID, req BundleRequest) (*Bundle, error) {
	if req.Machine != nil {
		if _, err := s.store.GetMachine(ctx, tenant, *req.Machine); err != nil {
			return nil, err
		}
	}
	b := &Bundle{s: s, tenant: tenant, req: req}
	var err error
	if b.segments, err = s.store.ChainSegments(ctx, tenant, req.Machine, req.Since, req.Until); err != nil {
		return nil, err
	}
	for i := range b.segments {
		b.Verdicts += b.segments[i].To - b.segments[i].From + 1
	}
	if b.Verdicts > s.bundleVerdicts {
		return nil, &BundleTooLargeError{b.Verdicts, s.bundleVerdicts}
	}
	return b, nil
}

// Write writes the bundle. In memory are one verdict with its evidence, and the names of what was written.
func (b *Bundle) Write(ctx context.Context, w io.Writer) error {
	header := bundle.Header{TenantID: b.tenant.String(), Since: b.req.Since, Until: b.req.Until}
	if b.req.Machine != nil {
		header.Machine = b.req.Machine.String()
	}
	out, err := bundle.NewWriter(w, header)
	if err != nil {
		return err
	}
	heads, tree, err := b.checkpoint(ctx, out)
	if err != nil {
		return err
	}
	e := &exporter{Bundle: b, out: out}
	for i := range b.segments {
		if err := e.machine(ctx, &b.segments[i], heads, tree); err != nil {
			return err
		}
	}
	return out.Close()
}

// checkpoint writes the newest checkpoint and gives its tree; nil where there is none.
func (b *Bundle) checkpoint(ctx context.Context, out *bundle.Writer) (chain.Heads, *chain.Tree, error) {
	c, heads, err := b.s.store.CheckpointWithHeads(ctx, b.tenant)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	signed := bundle.Signed{JWS: c.Statement, JWK: json.RawMessage("null")}
	key, ok, err := b.s.token.PublicKey(ctx, c.KeyID)
	if err != nil {
		return nil, nil, err
	}
	if ok {
		if signed.JWK, err = json.Marshal(key); err != nil {
			return nil, nil, err
		}
	}
	return heads, chain.NewTree(heads), out.Checkpoint(signed)
}

// exporter writes the verdicts of a bundle.
type exporter struct {
	*Bundle
	out *bundle.Writer
}

func (e *exporter) machine(ctx context.Context, m *store.ChainSegment, heads chain.Heads, tree *chain.Tree) error {
	doc := bundle.Machine{MachineID: m.MachineID.String(), Name: m.Name, Earlier: m.Earlier, From: m.From, To: m.To}
	if place, ok := heads.Find(m.MachineID); ok {
		head := heads.At(place)
		doc.Proof = &bundle.Proof{Place: int64(place), Size: int64(heads.Len()), Seq: head.Seq, Hash: hex.EncodeToString(head.Hash[:]), Path: []string{}}
		for _, p := range tree.Path(place) {
			doc.Proof.Path = append(doc.Proof.Path, hex.EncodeToString(p[:]))
		}
	}
	if err := e.out.Machine(doc); err != nil {
		return err
	}
	return e.s.store.EachChainedVerdict(ctx, e.tenant, *m, func(v *store.ChainedVerdict) error { return e.verdict(ctx, v) })
}

func (e *exporter) verdict(ctx context.Context, v *store.ChainedVerdict) error {
	if v.EvidenceType != "" && v.JudgedBy != nil {
		if err := e.inputs(ctx, v); err != nil {
			return fmt.Errorf("what verdict %s was judged with: %w", v.VerdictID, err)
		}
	}
	held := bundle.Held{Hash: v.Hash, LastAt: v.LastAt, Count: v.Count, EvidenceType: v.EvidenceType, Evidence: v.Evidence}
	if v.SupersededBy != nil {
		held.SupersededBy = v.SupersededBy.String()
	}
	return e.out.Verdict(&v.Verdict, held)
}

// unlessGone gives what is held; nothing where it is held no more, which whoever reads the bundle is told.
func unlessGone[T any](v T, err error) (T, error) {
	var none T
	if errors.Is(err, store.ErrNotFound) {
		return none, nil
	}
	return v, err
}

// inputs writes what a verdict was judged with and its evidence only names.
func (e *exporter) inputs(ctx context.Context, v *store.ChainedVerdict) error {
	var in bundle.Inputs
	if err := json.Unmarshal(v.JudgedBy, &in); err != nil {
		return err
	}
	st := e.s.store
	for i := range in.Baselines {
		digest, err := hex.DecodeString(in.Baselines[i].Reference)
		if err != nil {
			return err
		}
		if err := e.out.ReferenceValues(in.Baselines[i].Reference, func() ([]byte, error) { return unlessGone(st.ReferenceBody(ctx, e.tenant, digest)) }); err != nil {
			return err
		}
	}
	if ev, err := verifier.Decode(v.EvidenceType, v.Evidence); err == nil { // else whoever reads the bundle is told
		if ev.EventLogDigest != nil {
			digest := ev.EventLogDigest[:]
			if err := e.out.EventLog(digest, func() ([]byte, error) { return unlessGone(st.GetBootLog(ctx, e.tenant, digest)) }); err != nil {
				return err
			}
		}
		if digest := ev.PlatformDigest; digest != nil {
			if err := e.out.PlatformEvidence(*digest, func() ([]byte, error) { return unlessGone(st.GetPlatformEvidence(ctx, e.tenant, digest[:])) }); err != nil {
				return err
			}
		}
	}
	return e.trust(ctx, &in)
}

// trust writes the anchors and the collateral that hardware evidence was checked with, as far as they are still held.
func (e *exporter) trust(ctx context.Context, in *bundle.Inputs) error {
	for _, a := range in.Anchors {
		if err := e.out.Anchor(a.SHA256, func() ([]byte, error) { return unlessGone(e.s.store.AnchorCertificate(ctx, e.tenant, a.SHA256)) }); err != nil {
			return err
		}
	}
	for _, c := range in.Collateral {
		if err := e.out.Collateral(c, func() (*tee.Collateral, error) {
			held, err := e.s.store.Collateral(ctx, e.tenant, c.Kind, c.Name)
			if errors.Is(err, store.ErrNotFound) {
				return nil, nil //nolint:nilnil // it is held no more
			}
			return &held, err
		}); err != nil {
			return err
		}
	}
	return nil
}
