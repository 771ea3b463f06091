package attest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// traits are what genuine evidence proves of which machine it is. They are never nil for genuine evidence: what it does not
// prove any more is forgotten.
func (a *appraisal) traits(judged *verifier.Appraisal) []store.MachineTrait {
	out := make([]store.MachineTrait, 0, 16)
	add := func(kind string, value []byte, strong bool) {
		out = append(out, store.NewTrait(a.tenant, kind, value, strong))
	}
	if a.key.public != nil {
		if der, err := x509.MarshalPKIXPublicKey(a.key.public.Key()); err == nil {
			add(store.TraitAK, der, true)
		}
	}
	if attest, ok := a.attested(); ok && judged.Quote != nil {
		add(store.TraitSigner, attest.QualifiedSigner, false)
	}
	if i := a.inputs.Machine.Instance; len(i) > 0 {
		add(store.TraitInstance, i, true)
	}
	if p := judged.Platform; p != nil {
		if vm, told := p.VM(); told && vm.VMID != "" {
			add(store.TraitVM, []byte(vm.VMID), true)
		}
		if id := p.GuestID(); id != nil {
			add(store.TraitGuest, id, true)
		}
	}
	for _, m := range []*eventlog.Measurements{judged.Measurements, judged.RTMRMeasurements} {
		out = append(out, a.logTraits(m)...)
	}
	return dedupe(out)
}

// traitsOf is the key under which a log's traits are kept with its measurements.
type traitsOf struct{ tenant uuid.UUID }

// logTraits are the facts of a boot log, and, where one of them is strong, all that name the machine together: another
// machine's log names all the same, while a card or a disk that was moved leaves the rest different.
func (a *appraisal) logTraits(m *eventlog.Measurements) []store.MachineTrait {
	if m == nil {
		return nil
	}
	return eventlog.Derived(m, traitsOf{a.tenant}, func() []store.MachineTrait {
		var out []store.MachineTrait
		identity := sha256.New()
		strong := false
		for _, t := range m.Traits() {
			out = append(out, store.NewTrait(a.tenant, string(t.Kind), []byte(t.Value), t.Strong))
			if t.Strong || t.Kind == eventlog.TraitDisk {
				fmt.Fprintf(identity, "%s=%s\n", t.Kind, t.Value)
			}
			strong = strong || t.Strong
		}
		if strong {
			out = append(out, store.NewTrait(a.tenant, store.TraitLogIdentity, identity.Sum(nil), true))
		}
		return out
	})
}

// dedupe keeps the first of equal kind and digest: a TDX guest's log names the same in two places.
func dedupe(traits []store.MachineTrait) []store.MachineTrait {
	seen := make(map[store.MachineTrait]bool, len(traits))
	out := traits[:0]
	for _, t := range traits {
		k := t
		k.Strong = false
		if !seen[k] {
			seen[k] = true
			out = append(out, t)
		}
	}
	return out
}

// attested is what the first quote says, whoever signed it.
func (a *appraisal) attested() (*tpm.Attest, bool) {
	if len(a.evidence.Quotes) == 0 {
		return nil, false
	}
	attest, err := tpm.ParseAttest(a.evidence.Quotes[0].Message)
	return attest, err == nil
}

// firmwarePCRs are those that only firmware and boot loaders extend: they stand still until the TPM is reset.
const firmwarePCRs = 8

// bootPoint is what a genuine quote tells of its TPM's life, by the strongest bank that was quoted.
func bootPoint(judged *verifier.Appraisal) *store.BootPoint {
	q := judged.Quote
	if q == nil {
		return nil
	}
	banks := q.Banks()
	if len(banks) == 0 {
		return nil
	}
	bank := banks[len(banks)-1]
	h := sha256.New()
	mask := 0
	for i := range firmwarePCRs {
		if value, ok := q.PCR(bank, i); ok {
			mask |= 1 << i
			h.Write(value)
		}
	}
	if mask == 0 {
		return nil
	}
	logged := judged.Measurements != nil && !judged.Measurements.Empty() && judged.Measurements.Verified(0)
	return &store.BootPoint{Clock: q.Clock(), Selection: fmt.Sprintf("%s:%02x", bank, mask), Boot: [sha256.Size]byte(h.Sum(nil)), Logged: logged}
}

// sighting is the conflict that a judgement shows, nil for none: evidence that another machine's TPM signed, and a TPM whose
// clock or counters went back, or faster than time.
func (s *Service) sighting(ctx context.Context, a *appraisal, judged *verifier.Appraisal) (*store.Sighting, error) {
	switch {
	case a.stored || a.inputs.Key == nil:
		return nil, nil
	case failed(judged, verifier.CheckQuoteSignature):
		return s.relayed(ctx, a)
	case failed(judged, verifier.CheckQuoteClock) && passed(judged, verifier.CheckQuoteNonce):
		return a.wentBack(), nil
	case judged.Genuine && judged.Quote != nil:
		return a.ranAhead(judged.Quote.Clock()), nil
	}
	return nil, nil
}

// relayed looks for the machine of the tenant whose AK made the quotes that this machine's key did not. The name of the
// signer in a quote finds it, and the signature proves it.
func (s *Service) relayed(ctx context.Context, a *appraisal) (*store.Sighting, error) {
	attest, ok := a.attested()
	if !ok {
		return nil, nil
	}
	key, err := s.store.MachineBySigner(ctx, a.tenant, store.NewTrait(a.tenant, store.TraitSigner, attest.QualifiedSigner, false))
	if err != nil || key == nil || key.MachineID == a.machineID {
		return nil, err
	}
	parsed := parseKey(key)
	if parsed.public == nil {
		return nil, nil
	}
	_, report := tpm.Verify(parsed.public, a.evidence.Quotes, nil, tpm.Expectation{})
	if report.Steps[tpm.StepSignature].Outcome != tpm.Pass {
		return nil, nil
	}
	proved := true
	return &store.Sighting{Kind: finding.QuoteRelayed, Other: &key.MachineID, Observed: finding.ConflictObserved{What: "quote",
		SHA256: fmt.Sprintf("%x", sha256.Sum256(a.evidence.Quotes[0].Message)), Proved: &proved, RemoteAddr: a.actor.RemoteAddr}}, nil
}

// noteForeignQuote records that a quote came which another machine's TPM made for a challenge of its own: the request is
// refused, since its nonce was never ours for this machine, and says all the same who answers for whom.
func (s *Service) noteForeignQuote(ctx context.Context, a *appraisal) error {
	if a.inputs.Key == nil {
		return nil
	}
	seen, err := s.relayed(ctx, a)
	if err != nil || seen == nil {
		return err
	}
	if err := s.store.NoteSighting(ctx, a.tenant, a.machineID, *seen, a.now); err != nil {
		return fmt.Errorf("record a relayed quote: %w", err)
	}
	s.detect(ctx, a.tenant, a.machineID, a.now)
	return nil
}

// wentBack compares the quotes, which are fresh and signed by the machine's key, with the last genuine one. Quotes of two
// boots put together say nothing about the TPM.
func (a *appraisal) wentBack() *store.Sighting {
	if a.inputs.LastClock == nil {
		return nil
	}
	first := clockState(a.inputs.Machine.LastSeenAt, *a.inputs.LastClock)
	for _, q := range a.evidence.Quotes {
		attest, err := tpm.ParseAttest(q.Message)
		if err != nil {
			return nil
		}
		second := clockState(&a.now, attest.Clock)
		if kind, mayBe, behind := finding.CompareStates(first, second); behind {
			return &store.Sighting{Kind: kind, First: first, Second: second, Observed: finding.ConflictObserved{MayBe: mayBe}}
		}
	}
	return nil
}

func clockState(at *time.Time, c tpm.ClockState) *finding.ConflictState {
	s := &finding.ConflictState{ResetCount: c.ResetCount, RestartCount: c.RestartCount, ClockMS: c.Clock, FirmwareVersion: fmt.Sprintf("%016x", c.FirmwareVersion)}
	if at != nil {
		s.At = *at
	}
	return s
}

// A TPM's oscillator may be wrong by as much as 15 %, and after a power loss the clock goes on from what was written to NV
// last, at most 2^22 ms ago, or in some TPMs as much ahead (TPM 2.0 Part 1, section 36; Part 2, section 10.11.1).
const (
	clockDrift = 0.15
	clockSlack = 2 * (1 << 22) * time.Millisecond
)

// ranAhead tells that more time has passed for the TPM than for us since its last genuine quote, which was made after its
// challenge, so that an answer which was held up does not count. Less time is no matter: a TPM that is off, a virtual
// machine that is paused, saved or moved does not count it.
func (a *appraisal) ranAhead(now tpm.ClockState) *store.Sighting {
	last, seen := a.inputs.LastClock, a.inputs.Machine.LastSeenAt
	if last == nil || seen == nil || now.Clock <= last.Clock {
		return nil
	}
	earliest := *seen
	if len(a.inputs.LastChallenge) >= orderKeySize {
		if asked := orderTime(a.inputs.LastChallenge); asked.Before(earliest) {
			earliest = asked
		} else { // that challenge was redeemed by evidence which was not genuine; the genuine one's was earlier
			earliest = earliest.Add(-nextChallengeLifetime(&a.inputs.Policy))
		}
	}
	passedMS := float64(a.now.Sub(earliest).Milliseconds())
	ahead := float64(now.Clock-last.Clock) - passedMS*(1+clockDrift) - float64(clockSlack.Milliseconds())
	if ahead <= 0 {
		return nil
	}
	return &store.Sighting{Kind: finding.HistoryForked, First: clockState(seen, *last), Second: clockState(&a.now, now),
		Observed: finding.ConflictObserved{AheadMS: int64(float64(now.Clock-last.Clock) - passedMS), MayBe: []string{finding.MayBeClone, finding.MayBeClockSet}}}
}

// A comparison of the fleet reads more than a refused request should cost: whoever repeats one, or has many machines of its own,
// causes one in detectEvery for each machine, or for all refused enrolments of a tenant together.
const (
	detectEvery = 30 * time.Second // the job fleet-detection comes as often
	maxDetected = 4096             // machines that are remembered
)

// detectKey is who causes a comparison of the fleet.
type detectKey struct{ tenant, machine uuid.UUID }

// detect raises what was just noted about a machine (uuid.Nil: about an enrolment). The note is in the database: where this
// fails, or we crash here, or it was done lately, the job fleet-detection finds it.
func (s *Service) detect(ctx context.Context, tenant, machine uuid.UUID, now time.Time) {
	key := detectKey{tenant, machine}
	if last, before := s.detected.get(key); before && now.Before(last.Add(detectEvery)) {
		return
	}
	s.detected.put(key, now, 1)
	if _, err := s.store.DetectFleet(ctx, tenant, now); err != nil && !errors.Is(err, context.Canceled) {
		s.log.WarnContext(ctx, "a conflict was noted and is looked at later", "error", err.Error())
	}
}

// noteRefused records what an identity conflict was about, and answers that conflict.
func (s *Service) noteRefused(ctx context.Context, tenant uuid.UUID, now time.Time, refused error, note func() (bool, error)) error {
	if !errors.Is(refused, store.ErrIdentityConflict) {
		return refused
	}
	noted, err := note()
	if err != nil {
		return err
	}
	if noted {
		s.detect(ctx, tenant, uuid.Nil, now)
	}
	return refused
}
