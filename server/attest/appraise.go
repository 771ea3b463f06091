package attest

import (
	"bytes"
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
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// The faults of a nonce that is ours. They name no times, so that a repetition is the same judgement.
const (
	faultExpired = "the challenge had expired when the evidence arrived"
	faultUsed    = "the challenge has been answered already, or a later one has: this evidence was sent before"
)

// appraisal is one evidence POST on its way through the cycle.
type appraisal struct {
	tenant, machineID uuid.UUID
	now               time.Time
	actor             store.Actor
	contentType       string
	body              []byte

	evidence   *verifier.Evidence
	inputs     store.AppraisalInputs
	candidates []verifier.Candidate
	freshness  tpm.Freshness
	nonce      []byte // of the first quote; ours for this machine
	key        parsedKey
	log        parsedLog
	logDigest  []byte // SHA-256 of the log; nil without one
	resetCount *uint32
	// imaList and imaFault are the parsed list; imaState what it continues.
	imaList  *ima.List
	imaFault string
	imaState *ima.State
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
	result, err := s.answer(a, judged, recorded)
	if err != nil {
		return nil, err
	}
	s.observe(Observation{Status: judged.Status, Reason: judged.Reason, New: recorded.New,
		Duration: time.Since(started), LogBytes: len(a.evidence.EventLog)})
	return result, nil
}

// prepare gathers what the judgement needs. What it refuses is a fault of the request.
func (s *Service) prepare(ctx context.Context, a *appraisal) error {
	if err := s.readNonce(ctx, a); err != nil {
		return err
	}
	var err error
	if a.candidates, err = s.candidates(a.inputs.Versions); err != nil {
		return err
	}
	a.key = s.attestationKey(a.inputs.Key)
	if a.log, a.logDigest, err = s.eventLog(ctx, a.tenant, a.evidence); err != nil {
		return err
	}
	return a.readIMA()
}

// readNonce finds which challenge the evidence answers. A nonce that is not ours for this machine is
// written to the audit record and refused; one that is ours but late or used is left to the judgement.
func (s *Service) readNonce(ctx context.Context, a *appraisal) error {
	message := a.evidence.Quotes[0].Message
	nonce, err := tpm.PeekExtraData(message)
	if err != nil {
		return fieldErrorf("/quotes/0/message", "no TPMS_ATTEST: %s", err)
	}
	if attest, err := tpm.ParseAttest(message); err == nil {
		// Not verified yet. It decides only whether a log or an IMA offset is expected; where it lies,
		// the signature does not hold and nothing else counts.
		a.resetCount = &attest.Clock.ResetCount
	}
	made, err := s.nonces.check(a.tenant, a.machineID, nonce, a.now)
	if err != nil {
		detail, _ := json.Marshal(map[string]string{"nonce": fmt.Sprintf("%x", nonce)})
		if err := s.store.RecordUnknownChallenge(ctx, a.tenant, a.machineID, detail, a.now, a.actor); err != nil {
			return fmt.Errorf("record unknown challenge: %w", err)
		}
		return errorf(CodeUnknownChallenge, "the quote's nonce is no challenge that was made for this machine; ask for one and quote again")
	}
	a.nonce = nonce
	switch {
	case !a.now.Before(made.Add(challengeLifetime(&a.inputs.Policy))):
		a.freshness = tpm.Freshness{Fault: faultExpired}
	case bytes.Compare(nonce[:orderKeySize], a.inputs.LastChallenge) <= 0:
		a.freshness = tpm.Freshness{Fault: faultUsed}
	default:
		a.freshness = tpm.Freshness{Nonce: nonce}
	}
	return nil
}

// readIMA parses the list and finds the state that it continues. A list that starts where nothing was
// read yet cannot be judged and says nothing about the machine, so it is refused.
func (a *appraisal) readIMA() error {
	offset := a.evidence.IMALogOffset
	if len(a.evidence.IMALog) == 0 && offset == 0 {
		return nil
	}
	if offset > 0 {
		state := a.inputs.IMAState
		if state == nil || state.Entries != offset {
			read := 0
			if state != nil {
				read = state.Entries
			}
			return fieldErrorf("/ima_log_offset", "the list starts at entry %d, but %d entries of this machine's list have been read; send it from 0", offset, read)
		}
		if !a.sameBoot() {
			return fieldErrorf("/ima_log_offset", "the machine has booted since its list was read; send it from 0")
		}
		a.imaState = state
	}
	// An increment may be empty: nothing was measured since, and PCR 10 has to stand where it stood.
	list, err := ima.Parse(a.evidence.IMALog)
	if err != nil {
		a.imaFault = err.Error()
		return nil
	}
	a.imaList = list
	return nil
}

// sameBoot tells whether the quote claims to be of the boot that the last genuine quote was of.
func (a *appraisal) sameBoot() bool {
	last := a.inputs.LastClock
	return last != nil && a.resetCount != nil && *a.resetCount == last.ResetCount
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
		record := a.record(judged, learned)
		recorded, err := s.store.RecordAppraisal(ctx, a.tenant, record)
		if errors.Is(err, store.ErrNonceUsed) && a.freshness.Fault == "" {
			a.freshness = tpm.Freshness{Fault: faultUsed}
			continue
		}
		if err != nil {
			return nil, recorded, fmt.Errorf("record appraisal: %w", err)
		}
		s.remember(a)
		if recorded.New {
			s.log.LogAttrs(ctx, levelOf(judged.Status), "verdict", verdictAttrs(a, judged, recorded)...)
		}
		return judged, recorded, nil
	}
}

// judge is the pure middle of the cycle. learned is set where the policy lets this very boot become
// the machine's baseline.
func (a *appraisal) judge() (judged *verifier.Appraisal, learned *verifier.ReferenceValues, err error) {
	in := verifier.Inputs{
		Now:        a.now,
		AK:         verifier.AttestationKey{Public: a.key.public, Fault: a.key.fault},
		Freshness:  a.freshness,
		LastClock:  a.inputs.LastClock,
		Policy:     a.inputs.Policy,
		PolicyRef:  a.inputs.PolicyRef,
		Candidates: a.candidates,
		Log:        a.log.log,
		LogFault:   a.log.fault,
		HadLog:     a.inputs.LastLog != nil && a.sameBoot(),
		IMA:        a.imaList,
		IMAFault:   a.imaFault,
		IMAState:   a.imaState,
	}
	if a.inputs.Key != nil {
		in.AK.Assurance = a.inputs.Key.Assurance
	}
	if !a.mayLearn() {
		return verifier.Appraise(a.evidence, in), nil, nil
	}
	// The boot that is being learned cannot be asked for a baseline yet.
	in.Policy.RequireBaseline = false
	judged = verifier.Appraise(a.evidence, in)
	if judged.Genuine && judged.Status != verifier.Contraindicated {
		reference, err := baseline.Capture(judged, a.inputs.Policy)
		switch {
		case err == nil:
			return judged, &reference, nil
		case !errors.Is(err, baseline.ErrNothingToCapture):
			return nil, nil, fmt.Errorf("learn baseline: %w", err)
		}
	}
	in.Policy.RequireBaseline = a.inputs.Policy.RequireBaseline
	return verifier.Appraise(a.evidence, in), nil, nil
}

func (a *appraisal) mayLearn() bool {
	return a.inputs.Policy.LearnFirstBoot && !a.inputs.HasOwnBaseline && len(a.candidates) == 0 && a.freshness.Fault == ""
}

// record is all that one judgement changes.
func (a *appraisal) record(judged *verifier.Appraisal, learned *verifier.ReferenceValues) store.AppraisalRecord {
	machine := findingMachine(&a.inputs.Machine, a.inputs.Key != nil)
	machine.Observed = observe(a.inputs.Machine.Observed, judged, a.inputs.Key != nil)
	findings := finding.Derive(finding.Input{Machine: machine, Appraisal: judged, Policy: a.inputs.Policy,
		RefusedModules: a.refusedModules(judged), Now: a.now})
	r := store.AppraisalRecord{
		MachineID:     a.machineID,
		ReceivedAt:    a.now,
		NextDueAt:     a.now.Add(interval(&a.inputs.Policy)),
		Appraisal:     judged,
		Fingerprint:   fingerprint(judged, a.logDigest),
		EventLog:      a.evidence.EventLog,
		EventLogHash:  a.logDigest,
		EvidenceType:  a.contentType,
		Evidence:      a.body,
		Findings:      findings,
		Observed:      machine.Observed,
		LearnBaseline: learned,
		Actor:         a.actor,
	}
	if a.inputs.Key != nil {
		r.KeyID = a.inputs.Key.ID
	}
	// A challenge is redeemed once a quote signed by the machine's key has carried it, whatever else is
	// wrong with the evidence. A quote of anybody else's leaves it to be answered.
	if passed(judged, verifier.CheckQuoteNonce) {
		r.ChallengeKey = a.nonce[:orderKeySize]
	}
	if judged.Genuine {
		clock := judged.Quote.Clock()
		r.Clock = &clock
		r.IMAState = a.nextIMA(judged)
	}
	return r
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
func (s *Service) answer(a *appraisal, judged *verifier.Appraisal, recorded store.Recorded) (*Result, error) {
	policy := &a.inputs.Policy
	next := known{policy: policy, redeemed: a.inputs.LastChallenge, log: a.inputs.LastLog}
	state := a.inputs.IMAState
	if passed(judged, verifier.CheckQuoteNonce) {
		next.redeemed = a.nonce
	}
	if judged.Genuine {
		next.log = a.logDigest
		state = a.nextIMA(judged)
	}
	if state != nil {
		next.imaEntries = state.Entries
	}
	challenge, err := s.challenge(a.tenant, a.machineID, a.now, next)
	if err != nil {
		return nil, err
	}
	result := &Result{
		ID:                          recorded.VerdictID,
		MachineID:                   a.machineID,
		ReceivedAt:                  a.now,
		Appraisal:                   judged,
		New:                         recorded.New,
		NextChallenge:               challenge,
		NextAttestationAfterSeconds: policy.AttestationIntervalSeconds,
	}
	result.ResultToken, err = s.token.Sign(ear.From(judged, ear.Context{
		VerdictID: recorded.VerdictID.String(),
		MachineID: a.machineID.String(),
		Issuer:    s.issuer,
		Build:     s.build,
		Nonce:     a.nonce,
		IssuedAt:  a.now,
		Lifetime:  interval(policy),
	}))
	if err != nil {
		return nil, fmt.Errorf("sign result: %w", err)
	}
	return result, nil
}

func interval(p *verifier.Policy) time.Duration {
	return time.Duration(p.AttestationIntervalSeconds) * time.Second
}

// attestationKey parses the machine's active key, or says why there is none to trust.
func (s *Service) attestationKey(key *store.AttestationKey) parsedKey {
	if key == nil {
		return parsedKey{fault: "no attestation key of this machine is enrolled"}
	}
	if k, ok := s.keys.get(key.ID); ok {
		return k
	}
	k := parsedKey{}
	var err error
	if k.public, err = tpm.ParsePublic(key.Public); err != nil {
		k = parsedKey{fault: "the enrolled attestation key cannot be read: " + err.Error()}
	}
	s.keys.put(key.ID, k, 1)
	return k
}

// candidates compiles the reference values that apply. Versions are immutable, so each is compiled
// once. Values that do not compile were not accepted by this version of the service: it then judges
// nothing rather than leave them out.
func (s *Service) candidates(versions []store.BaselineVersion) ([]verifier.Candidate, error) {
	if len(versions) == 0 {
		return nil, nil
	}
	layers := make([]baseline.Layer, 0, len(versions))
	for i := range versions {
		v := &versions[i]
		key := versionKey{v.BaselineID, v.Version}
		reference, ok := s.compiled.get(key)
		if !ok {
			var err error
			if reference, err = verifier.CompileReference(v.Reference); err != nil {
				return nil, fmt.Errorf("baseline %s version %d: %w", v.BaselineID, v.Version, err)
			}
			s.compiled.put(key, reference, 1)
		}
		layers = append(layers, baseline.Layer{
			ID: v.BaselineID.String(), Version: v.Version, State: v.State, Selector: v.Selector, Reference: reference,
		})
	}
	return baseline.Effective(layers), nil
}

// eventLog finds the log of a piece of evidence: in it, or by digest in the cache or the store.
func (s *Service) eventLog(ctx context.Context, tenant uuid.UUID, ev *verifier.Evidence) (parsedLog, []byte, error) {
	switch {
	case len(ev.EventLog) > 0:
		digest := sha256.Sum256(ev.EventLog)
		if known, ok := s.logs.get(logKey{tenant, digest}); ok {
			return known, digest[:], nil
		}
		return parseLog(ev.EventLog), digest[:], nil
	case ev.EventLogDigest != nil:
		log, err := s.heldLog(ctx, tenant, *ev.EventLogDigest)
		if errors.Is(err, store.ErrNotFound) {
			return log, nil, &Error{Code: CodeEventLogRequired, Pointer: "/event_log_digest", Detail: "this event log is not held; send it"}
		}
		return log, ev.EventLogDigest[:], err
	}
	return parsedLog{}, nil, nil
}

// heldLog is a log that the store holds, parsed.
func (s *Service) heldLog(ctx context.Context, tenant uuid.UUID, digest [32]byte) (parsedLog, error) {
	if known, ok := s.logs.get(logKey{tenant, digest}); ok {
		return known, nil
	}
	raw, err := s.store.GetBootLog(ctx, tenant, digest[:])
	if err != nil {
		return parsedLog{}, fmt.Errorf("read event log: %w", err)
	}
	log := parseLog(raw)
	s.keepLog(tenant, digest, log)
	return log, nil
}

func parseLog(raw []byte) parsedLog {
	log, err := eventlog.Parse(raw)
	if err != nil {
		return parsedLog{fault: err.Error(), size: len(raw)}
	}
	return parsedLog{log: log, size: len(raw)}
}

// remember caches a log that came with evidence, now that the store holds it.
func (s *Service) remember(a *appraisal) {
	if len(a.evidence.EventLog) > 0 {
		s.keepLog(a.tenant, [32]byte(a.logDigest), a.log)
	}
}

func (s *Service) keepLog(tenant uuid.UUID, digest [32]byte, log parsedLog) {
	s.logs.put(logKey{tenant, digest}, log, int64(log.size)*logOverhead)
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
