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
	c := known{policy: &in.Policy, redeemed: in.LastChallenge, log: in.LastLog}
	if in.IMAState != nil {
		c.imaEntries = in.IMAState.Entries
	}
	return s.challenge(tenant, machineID, now, c)
}

// known is what a challenge tells an agent, so that it sends nothing twice.
type known struct {
	policy     *verifier.Policy
	redeemed   []byte // order key of the last redeemed challenge; nil if none
	log        []byte // digest of the machine's last genuine log; nil if none
	imaEntries int
}

func (s *Service) challenge(tenant, machineID uuid.UUID, now time.Time, k known) (*Challenge, error) {
	nonce, err := s.nonces.make(tenant, machineID, now, orderTime(k.redeemed), s.random)
	if err != nil {
		return nil, err
	}
	c := &Challenge{
		Nonce: nonce,
		// The lifetime counts from the time in the nonce, to the millisecond: see freshness.
		ExpiresAt:    orderTime(nonce[:]).Add(challengeLifetime(k.policy)),
		PCRSelection: k.policy.PCRs,
		IMALogOffset: k.imaEntries,
	}
	if len(k.log) > 0 {
		text := "sha256:" + hex.EncodeToString(k.log)
		c.KnownEventLog = &text
	}
	return c, nil
}

func challengeLifetime(p *verifier.Policy) time.Duration {
	return time.Duration(p.ChallengeLifetimeSeconds) * time.Second
}
