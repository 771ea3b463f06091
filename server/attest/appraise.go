package attest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/ear"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/revocations"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// appraisal is one evidence POST on its way through the cycle.
type appraisal struct {
	tenant, machineID uuid.UUID
	now               time.Time
	actor             store.Actor
	contentType       string
	body              []byte

	evidence    *verifier.Evidence
	inputs      store.AppraisalInputs
	candidates  []verifier.Candidate
	rules       verifier.RuleSet // of the policy; nil where it has none
	freshness   tpm.Freshness
	nonce       []byte // of the first quote; ours for this machine
	key         parsedKey
	endorsement *finding.Endorsement // of key; nil where nothing is known
	log         parsedLog
	logDigest   []byte // SHA-256 of the log; nil without one
	logHeld     bool   // the store holds the log already
	resetCount  *uint32
	// imaList and imaFault are the parsed list; imaState what it continues.
	imaList  *ima.List
	imaFault string
	imaState *ima.State
	// platform is the hardware evidence and what was made of it; platformHeld: the store has it already.
	platform       provenPlatform
	platformDigest [32]byte
	platformHeld   bool
	wants          []tee.Want
	collateral     []tee.Collateral
	// stored tells that the evidence was judged before, when it came.
	stored bool
	// clockThen is what quote.clock said when the evidence came; nil for evidence that has just come.
	clockThen *tpm.StepResult
	// bodyDigest is the SHA-256 of stored evidence; nil for evidence that has just come.
	bodyDigest []byte
	// waived tells that the judgement asked for no baseline, since the boot was to be learned.
	waived bool
}

// Appraise judges one piece of evidence and records the judgement: steps 1 to 9 of the package
// documentation. The error is an *Error, where the request is at fault, or a failure of ours; in both
// cases no verdict was stored, and the challenge may be answered again.
func (s *Service) Appraise(ctx context.Context, tenant, machineID uuid.UUID, contentType string, body []byte, actor store.Actor, opts ...Option) (*Result, error) {
	started := time.Now()
	a := &appraisal{tenant: tenant, machineID: machineID, now: s.now(), actor: actor, contentType: contentType, body: body}
	var err error
	if a.evidence, err = verifier.Decode(contentType, body); err != nil {
		return nil, fromDecode(err)
	}
	if a.inputs, err = s.store.AppraisalInputs(ctx, tenant, machineID, a.now); err != nil {
		return nil, fromStore("appraise", err)
	}
	if err := collect(opts).admits(a.inputs.Key); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx, a); err != nil {
		return nil, err
	}
	judged, recorded, err := s.judgeAndRecord(ctx, a)
	if err != nil {
		return nil, err
	}
	result, err := s.answer(ctx, a, judged, recorded)
	if err != nil {
		return nil, err
	}
	s.observe(Observation{Status: judged.Status, Reason: judged.Reason, New: recorded.New,
		Duration: time.Since(started), LogBytes: len(a.evidence.EventLog)})
	return result, nil
}

// judgeAndRecord makes the judgement and stores it. Where another request has redeemed the challenge
// meanwhile, or a later one, the evidence is judged again with that as its fault: of several posts of
// one nonce exactly one counts.
func (s *Service) judgeAndRecord(ctx context.Context, a *appraisal) (*verifier.Appraisal, store.Recorded, error) {
	for {
		judged, learned, err := a.judge()
		if err != nil {
			return nil, store.Recorded{}, err
		}
		history, err := s.history(ctx, a, judged)
		if err != nil {
			return nil, store.Recorded{}, err
		}
		if err := s.explainKnown(ctx, a.tenant, judged.Deviations); err != nil {
			return nil, store.Recorded{}, err
		}
		record := a.record(judged, learned, history)
		record.JudgedBy = func() ([]byte, error) { return s.judgedBy(a) }
		if record.Sighting, err = s.sighting(ctx, a, judged); err != nil {
			return nil, store.Recorded{}, err
		}
		recorded, err := s.store.RecordAppraisal(ctx, a.tenant, record)
		if errors.Is(err, store.ErrNonceUsed) && a.freshness.Fault == "" {
			a.freshness = tpm.Freshness{Fault: faultUsed}
			continue
		}
		if errors.Is(err, store.ErrConflict) {
			return nil, recorded, errorf(CodeConflict, "the machine's attestation key was replaced while its evidence was judged; ask for a challenge and quote again")
		}
		if err != nil {
			return nil, recorded, fromStore("record appraisal", err)
		}
		s.remember(a)
		if record.Sighting != nil {
			s.detect(ctx, a.tenant, a.machineID, a.now)
		}
		if recorded.New {
			s.log.LogAttrs(ctx, levelOf(judged.Status), "verdict", verdictAttrs(a, judged, recorded)...)
		}
		return judged, recorded, nil
	}
}

// judge is the pure middle of the cycle. learned is set where the policy lets this very boot become
// the machine's baseline.
func (a *appraisal) judge() (judged *verifier.Appraisal, learned *verifier.ReferenceValues, err error) {
	in := a.verifierInputs()
	a.waived = false
	if !a.mayLearn() {
		return verifier.Appraise(a.evidence, in), nil, nil
	}
	// The boot that is being learned cannot be asked for a baseline yet.
	in.Policy.RequireBaseline = false
	judged = verifier.Appraise(a.evidence, in)
	if judged.Status == verifier.Affirming {
		reference, err := baseline.Capture(judged, a.inputs.Policy)
		switch {
		case err == nil:
			a.waived = a.inputs.Policy.RequireBaseline
			return judged, &reference, nil
		case !errors.Is(err, baseline.ErrNothingToCapture):
			return nil, nil, fmt.Errorf("learn baseline: %w", err)
		}
	}
	in.Policy.RequireBaseline = a.inputs.Policy.RequireBaseline
	return verifier.Appraise(a.evidence, in), nil, nil
}

// verifierInputs is what the evidence is judged by.
func (a *appraisal) verifierInputs() verifier.Inputs {
	in := verifier.Inputs{
		Now:        a.now,
		AK:         verifier.AttestationKey{Public: a.key.public, NoTPM: a.key.noTPM, Launched: a.key.launched, Fault: a.key.fault},
		Platform:   a.platform.result,
		CCLog:      a.platform.ccLog.log,
		CCLogFault: a.platform.ccLog.fault,
		Freshness:  a.freshness,
		LastClock:  a.inputs.LastClock,
		ClockThen:  a.clockThen,
		Policy:     a.inputs.Policy,
		PolicyRef:  a.inputs.PolicyRef,
		Candidates: a.candidates,
		Withdrawn:  a.inputs.Withdrawn,
		Rules:      a.rules,
		Log:        a.log.log,
		LogFault:   a.log.fault,
		HadLog:     a.inputs.LastLog != nil && a.sameBoot(),
		IMA:        a.imaList,
		IMAFault:   a.imaFault,
		IMAState:   a.imaState,
	}
	if a.rules != nil {
		in.Machine = ruleFacts(&a.inputs.Machine)
	}
	if a.inputs.Key != nil {
		in.AK.Assurance = a.inputs.Key.Assurance
	}
	return in
}

// mayLearn tells whether this boot may become the machine's baseline: it is the first genuine evidence of a machine that no
// baseline covers. Evidence that was judged before teaches nothing, also where it is found genuine only now.
func (a *appraisal) mayLearn() bool {
	return !a.stored && a.inputs.Machine.LastSeenAt == nil && a.inputs.Policy.LearnFirstBoot && !a.inputs.HasOwnBaseline && len(a.candidates) == 0 && a.freshness.Fault == ""
}

// consequences are what follows from a judgement: the posture that it shows, the findings, and what of it is known to be bad.
type consequences struct {
	observed finding.Posture
	findings finding.Result
	bad      *revocations.Assessment
}

// derive tells what follows from a judgement.
func (a *appraisal) derive(judged *verifier.Appraisal, h history) consequences {
	machine := findingMachine(&a.inputs.Machine, a.inputs.Key)
	machine.Endorsement = a.endorsement
	machine.Observed = observe(a.inputs.Machine.Observed, judged, a.inputs.Key)
	c := consequences{observed: machine.Observed, bad: knownBad(judged, a.inputs.Revocations)}
	c.findings = finding.Derive(finding.Input{Machine: machine, Appraisal: judged, Policy: a.inputs.Policy,
		RefusedModules: a.refusedModules(judged), KnownBad: c.bad, Rollbacks: h.rollbacks, Fleet: h.fleet, Baselines: a.baselines(h.learned), Now: a.now})
	return c
}

// baselines are those that cover the machine, as rules see them.
func (a *appraisal) baselines(learned bool) *finding.Baselines {
	out := &finding.Baselines{}
	for i := range a.inputs.Versions {
		v := &a.inputs.Versions[i]
		out.Valid = append(out.Valid, finding.BaselineVersion{Name: v.Name, Version: v.Version, Until: v.ActiveUntil, Learned: v.Origin == "learned"})
	}
	for i := range a.inputs.Withdrawn {
		out.Withdrawn = append(out.Withdrawn, a.inputs.Withdrawn[i].Name)
	}
	if learned {
		out.Valid = append(out.Valid, finding.BaselineVersion{Name: store.LearnedName(a.machineID, a.now), Version: 1, Learned: true})
	}
	return out
}

// fingerprint tells whether a judgement of the evidence, and what follows from it, differs from another. What the agent
// calls the boot counts too: a guest without a TPM has no reset counter, and a kernel that starts another (kexec) resets none.
func (a *appraisal) fingerprint(judged *verifier.Appraisal, c *consequences) [32]byte {
	print := fingerprint(judged, &c.findings, c.bad, a.logDigest)
	if boot := a.evidence.Agent.BootID; boot != "" {
		return sha256.Sum256(append(print[:], boot...))
	}
	return print
}

// record is all that one judgement changes.
func (a *appraisal) record(judged *verifier.Appraisal, learned *verifier.ReferenceValues, h history) store.AppraisalRecord {
	h.learned = learned != nil
	c := a.derive(judged, h)
	r := store.AppraisalRecord{
		MachineID:     a.machineID,
		ReceivedAt:    a.now,
		NextDueAt:     a.now.Add(interval(&a.inputs.Policy)),
		Appraisal:     judged,
		Fingerprint:   a.fingerprint(judged, &c),
		Trigger:       a.trigger(),
		BootID:        a.evidence.Agent.BootID,
		EventLogHash:  a.logDigest,
		EvidenceType:  a.contentType,
		Evidence:      a.body,
		IMAFrom:       a.imaState,
		Findings:      c.findings,
		Observed:      c.observed,
		LearnBaseline: learned,
		Matched:       h.matched,
		Firmware:      h.firmware,
		Actor:         a.actor,
	}
	if !a.stored {
		r.Identity = func() ([]store.MachineTrait, *store.BootPoint) { return a.traits(judged), bootPoint(judged) }
	}
	if !a.logHeld {
		r.EventLog = a.evidence.EventLog
	}
	if a.inputs.Key != nil {
		r.KeyID = a.inputs.Key.ID
	}
	a.recordPlatform(judged, &r)
	// A challenge is redeemed once a quote signed by the machine's key has carried it, whatever else is
	// wrong with the evidence. A quote of anybody else's leaves it to be answered.
	if passed(judged, verifier.CheckQuoteNonce) {
		r.ChallengeKey = a.nonce[:orderKeySize]
	}
	if judged.Genuine {
		if judged.Quote != nil {
			clock := judged.Quote.Clock()
			r.Clock = &clock
		}
		r.IMAState = a.nextIMA(judged)
	}
	return r
}

// knownBad is what is known to be bad of what booted; nil of evidence that proves nothing.
func knownBad(judged *verifier.Appraisal, set *revocations.Set) *revocations.Assessment {
	if !judged.Genuine || set == nil {
		return nil
	}
	measurements := judged.Measurements
	if measurements == nil {
		measurements = judged.RTMRMeasurements
	}
	return set.Assess(measurements, judged.Claims.Claims)
}

// recordPlatform adds what the hardware evidence changes. Evidence that a machine sends again and again is kept by
// digest, so that it need not be sent again; other evidence is in the body that the verdict keeps.
func (a *appraisal) recordPlatform(judged *verifier.Appraisal, r *store.AppraisalRecord) {
	r.CollateralWants, r.Collateral = a.wants, a.collateral
	if judged.Platform == nil {
		return
	}
	a.namePlatform(judged, r)
	if !repeats(a.evidence.Platform) {
		return
	}
	r.PlatformDigest = a.platformDigest[:]
	if !a.platformHeld {
		// Text, numbers and bytes: it cannot fail.
		r.PlatformEvidence, _ = json.Marshal(a.platform.evidence)
	}
}

// namePlatform says which hardware evidence is proven.
func (a *appraisal) namePlatform(judged *verifier.Appraisal, r *store.AppraisalRecord) {
	r.PlatformType = a.evidence.Platform.Type
	if vm, told := judged.Platform.VM(); told {
		r.VMID = vm.VMID
	}
}

// nextIMA is how far the list has been read. It does not move past a file that the baseline refuses, so
// that the next list starts there again and the refusal stands until the machine boots anew or the
// baseline allows the file. A boot without a list starts at nothing.
func (a *appraisal) nextIMA(judged *verifier.Appraisal) *ima.State {
	switch {
	case failed(judged, verifier.CheckIMAPolicy):
	case judged.NextIMA != nil:
		return judged.NextIMA
	}
	if a.sameBoot() || a.inputs.IMAState == nil {
		return a.inputs.IMAState
	}
	return &ima.State{}
}

// answer signs what is recorded and makes the next challenge.
func (s *Service) answer(ctx context.Context, a *appraisal, judged *verifier.Appraisal, recorded store.Recorded) (*Result, error) {
	policy := &a.inputs.Policy
	next := known{policy: policy, redeemed: a.inputs.LastChallenge, log: a.inputs.LastLog, platform: a.inputs.LastPlatform}
	state := a.inputs.IMAState
	if passed(judged, verifier.CheckQuoteNonce) {
		next.redeemed = a.nonce
	}
	if judged.Genuine {
		next.log = a.logDigest
		next.platform = nil
		if judged.Platform != nil && repeats(a.evidence.Platform) {
			next.platform = a.platformDigest[:]
		}
		state = a.nextIMA(judged)
	}
	if state != nil {
		next.imaEntries = state.Entries
	}
	challenge, err := s.challenge(a.tenant, a.machineID, a.now, next, nextChallengeLifetime(policy))
	if err != nil {
		return nil, err
	}
	result := &Result{
		ID:                          recorded.VerdictID,
		MachineID:                   a.machineID,
		ReceivedAt:                  a.now,
		Trigger:                     a.trigger(),
		Appraisal:                   judged,
		New:                         recorded.New,
		NextChallenge:               challenge,
		NextAttestationAfterSeconds: int(nextAttestation(a.machineID, a.now, policy) / time.Second),
	}
	tokenID, err := uuid.NewV7FromReader(s.random)
	if err != nil {
		return nil, fmt.Errorf("sign result: %w", err)
	}
	result.ResultToken, err = s.token.Sign(ctx, "", ear.From(judged, ear.Context{
		TokenID:   tokenID.String(),
		VerdictID: recorded.VerdictID.String(),
		MachineID: a.machineID.String(),
		Issuer:    s.issuer,
		Build:     s.build,
		Nonce:     a.nonce,
		IssuedAt:  a.now,
		Lifetime:  s.token.Lifetime(interval(policy)),
	}))
	if err != nil {
		return nil, fmt.Errorf("sign result: %w", err)
	}
	return result, nil
}

func interval(p *verifier.Policy) time.Duration {
	return time.Duration(p.AttestationIntervalSeconds) * time.Second
}

func passed(a *verifier.Appraisal, code verifier.CheckCode) bool {
	return statusOf(a, code) == verifier.Pass
}

func failed(a *verifier.Appraisal, code verifier.CheckCode) bool {
	return statusOf(a, code) == verifier.Fail
}

func statusOf(a *verifier.Appraisal, code verifier.CheckCode) verifier.CheckStatus {
	for i := range a.Checks {
		if a.Checks[i].Code == code {
			return a.Checks[i].Status
		}
	}
	return verifier.Skipped
}
