package attest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
)

// provenPlatform is hardware evidence and what was made of it. It is kept by the digest of the evidence, and good
// as long as the tenant's anchors and collateral are the same and nothing of what it rests on has ended.
type provenPlatform struct {
	evidence   *tee.Evidence
	result     *tee.Result
	ccLog      parsedLog // the CC event log in the evidence
	generation int64     // of store.TenantTrust
	at         time.Time // when it was verified
	// chip is the endorsement key that was found in the store; nil where it came along, or none was needed.
	chip *tee.Collateral
}

type platformKey struct {
	tenant     uuid.UUID
	digest     [32]byte
	requireCRL bool
}

// maxCachedChains bounds the AMD chains that are remembered for one state of a tenant's anchors.
const maxCachedChains = 20_000

// chainsKey names the memory of verified chains of one state of a tenant's anchors.
type chainsKey struct {
	tenant     uuid.UUID
	generation int64
}

func (p *provenPlatform) good(generation int64, now time.Time) bool {
	return p.generation == generation && p.result.Report != nil && !now.Before(p.at) && now.Before(p.result.ValidUntil)
}

// findPlatform finds the hardware evidence, in the body or by digest, and verifies it unless that was done before.
func (s *Service) findPlatform(ctx context.Context, a *appraisal) error {
	ev := a.evidence
	var digest [32]byte
	switch {
	case ev.Platform != nil:
		digest = ev.Platform.Digest()
	case ev.PlatformDigest != nil:
		digest = *ev.PlatformDigest
	default:
		return nil
	}
	key := platformKey{a.tenant, digest, a.inputs.Policy.PlatformEvidence.RequireCRL}
	known, cached := s.platforms.get(key)
	brings := ev.Platform != nil && len(ev.Platform.Collateral) > 0 && cached && len(known.result.Wants) > 0
	if cached && !brings && known.good(a.inputs.Trust.Generation, a.now) {
		a.platform, a.evidence.Platform, a.platformDigest, a.platformHeld = known, known.evidence, digest, true
		return nil
	}
	if ev.Platform == nil {
		held, err := s.heldPlatform(ctx, a.tenant, digest)
		if err != nil {
			return err
		}
		a.evidence.Platform, a.platformHeld = held, true
	}
	result, chip, err := s.verifyPlatform(ctx, a.tenant, a.evidence.Platform, a.inputs.Trust, &a.inputs.Policy, a.now)
	if err != nil {
		return err
	}
	p := provenPlatform{evidence: withoutCollateral(a.evidence.Platform), result: result, generation: a.inputs.Trust.Generation, at: a.now, chip: chip}
	if log := a.evidence.Platform.EventLog; len(log) > 0 {
		p.ccLog = parseLog(log)
	}
	a.platform, a.platformDigest = p, digest
	a.wants, a.collateral = result.Wants, result.Used
	if repeats(a.evidence.Platform) && result.Report != nil {
		s.platforms.put(key, p, platformCost(p.evidence))
	}
	return nil
}

// repeats tells whether a machine sends the same evidence again and again: the report of a paravisor is made once a
// boot, that of a guest's own making for each challenge.
func repeats(e *tee.Evidence) bool { return e.Type == tee.TypeAzureHCL }

// withoutCollateral is evidence as it is kept: collateral is kept by itself.
func withoutCollateral(e *tee.Evidence) *tee.Evidence {
	kept := *e
	kept.Collateral = nil
	return &kept
}

func platformCost(e *tee.Evidence) int64 {
	n := 8<<10 + len(e.HCLReport) + len(e.Quote) + len(e.Report) + (1+logOverhead)*len(e.EventLog)
	for _, c := range e.Certificates {
		n += 4 * len(c)
	}
	return int64(n)
}

// heldPlatform reads evidence that the store holds.
func (s *Service) heldPlatform(ctx context.Context, tenant uuid.UUID, digest [32]byte) (*tee.Evidence, error) {
	body, err := s.store.GetPlatformEvidence(ctx, tenant, digest[:])
	if errors.Is(err, store.ErrNotFound) {
		return nil, &Error{Code: CodePlatformRequired, Pointer: "/platform_evidence_digest", Detail: "this hardware evidence is not held; send it whole"}
	}
	if err != nil {
		return nil, fmt.Errorf("read hardware evidence: %w", err)
	}
	var e tee.Evidence
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, fmt.Errorf("stored hardware evidence %x: %w", digest, err)
	}
	return &e, nil
}

// verifyPlatform verifies hardware evidence under what the tenant trusts and holds. The certificate of a chip that did
// not come along is looked for among those that are held, and answered where it was found.
func (s *Service) verifyPlatform(ctx context.Context, tenant uuid.UUID, e *tee.Evidence, held *store.TenantTrust, policy *verifier.Policy, now time.Time) (*tee.Result, *tee.Collateral, error) {
	chains, known := s.chains.get(chainsKey{tenant, held.Generation})
	if !known {
		chains = tee.NewChains(maxCachedChains)
		s.chains.put(chainsKey{tenant, held.Generation}, chains, 1)
	}
	trust := &tee.Trust{SNP: held.SNP, TDX: held.TDX, Collateral: held.Collateral, RequireCRL: policy.PlatformEvidence.RequireCRL, Chains: chains}
	result := tee.Verify(e, trust, now)
	for _, w := range result.Wants {
		if w.Kind != tee.KindVCEK {
			continue
		}
		c, err := s.store.Collateral(ctx, tenant, w.Kind, w.Name)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("read collateral: %w", err)
		}
		more := *trust
		more.Collateral = append(append([]tee.Collateral{}, trust.Collateral...), c)
		return tee.Verify(e, &more, now), &c, nil
	}
	return result, nil, nil
}
