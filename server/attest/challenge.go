package attest

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// Challenge makes the challenge for a machine's next quote. It stores nothing: a challenge is known
// again by its MAC, and an older one stays good until a later one has been redeemed.
func (s *Service) Challenge(ctx context.Context, tenant, machineID uuid.UUID, _ store.Actor, opts ...Option) (*Challenge, error) {
	now := s.now()
	in, err := s.store.AppraisalInputs(ctx, tenant, machineID, now)
	if err != nil {
		return nil, fromStore("challenge", err)
	}
	if err := collect(opts).admits(in.Key); err != nil {
		return nil, err
	}
	c := known{policy: &in.Policy, redeemed: in.LastChallenge, log: in.LastLog, platform: in.LastPlatform}
	if in.IMAState != nil {
		c.imaEntries = in.IMAState.Entries
	}
	return s.challenge(tenant, machineID, now, c, challengeLifetime(&in.Policy))
}

// known is what a challenge tells an agent, so that it sends nothing twice.
type known struct {
	policy     *verifier.Policy
	redeemed   []byte // order key of the last redeemed challenge; nil if none
	log        []byte // digest of the machine's last genuine log; nil if none
	platform   []byte // digest of its last genuine hardware evidence; nil if none
	imaEntries int
}

func (s *Service) challenge(tenant, machineID uuid.UUID, now time.Time, k known, lifetime time.Duration) (*Challenge, error) {
	nonce, err := s.nonces.make(tenant, machineID, now, orderTime(k.redeemed), lifetime, s.random)
	if err != nil {
		return nil, err
	}
	c := &Challenge{
		Nonce:        nonce,
		ExpiresAt:    expiry(nonce[:]),
		PCRSelection: k.policy.PCRs,
		IMALogOffset: k.imaEntries,
	}
	if len(k.log) > 0 {
		text := "sha256:" + hex.EncodeToString(k.log)
		c.KnownEventLog = &text
	}
	if len(k.platform) > 0 {
		text := "sha256:" + hex.EncodeToString(k.platform)
		c.KnownPlatformEvidence = &text
	}
	return c, nil
}

func challengeLifetime(p *verifier.Policy) time.Duration {
	return time.Duration(p.ChallengeLifetimeSeconds) * time.Second
}

// nextChallengeLifetime is that of the challenge that an answer carries: it is to be used one interval
// later, to which the agent adds jitter, so that a machine in steady state needs one request an
// attestation.
func nextChallengeLifetime(p *verifier.Policy) time.Duration {
	return interval(p)*5/4 + challengeLifetime(p)
}
