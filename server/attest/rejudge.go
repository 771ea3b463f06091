package attest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/rules"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// NotJudged is why stored evidence cannot be judged again, as a stable word.
type NotJudged string

// Why stored evidence is not judged again.
const (
	NoEvidence              NotJudged = "no_evidence"               // the machine never attested, or its evidence is not kept
	KeyChanged              NotJudged = "key_changed"               // the key that signed is no longer the machine's
	EvidenceUnreadable      NotJudged = "evidence_unreadable"       // it cannot be decoded (any more)
	ChallengeUnknown        NotJudged = "challenge_unknown"         // its nonce is none that this service made
	EventLogMissing         NotJudged = "event_log_missing"         // the log that it names is not held
	PlatformEvidenceMissing NotJudged = "platform_evidence_missing" // the hardware evidence that it names is not held
	IMAIncrement            NotJudged = "ima_increment"             // its IMA list continues one whose end was not kept
)

// assumption is what stored evidence is judged by instead of what is in force; the zero value assumes nothing.
type assumption struct {
	version *baseline.Layer // in place of all versions of its baseline
	policy  *store.PolicyVersion
	rules   *rules.Set // of policy, compiled
}

// judgeStored judges a machine's stored evidence by the engine and the inputs of today, or by what is assumed of them.
// Nothing is recorded, and nothing that was there is used up. Three things are as they were when the evidence came,
// since they cannot be found anew:
//
//   - freshness: the nonce was redeemed then. One that failed then, late or used, fails now
//   - the TPM's clock: what it was compared with is not kept, so what was found then stands (verifier.Inputs.ClockThen)
//   - an IMA list that continues an earlier part starts from the state that is kept with it. The files of the earlier
//     part are not judged again, as they are not when a baseline changes between two attestations
//
// Certificates, CRLs and TCB levels are judged now, as those of the machine's next evidence will be.
func (s *Service) judgeStored(ctx context.Context, tenant uuid.UUID, j *store.StoredJudgement, as assumption, now time.Time) (*appraisal, *verifier.Appraisal, NotJudged, error) {
	a, why, err := s.prepareStored(ctx, tenant, j, as, now)
	if why != "" || err != nil {
		return nil, nil, why, err
	}
	judged, _, err := a.judge()
	return a, judged, "", err
}

func (s *Service) prepareStored(ctx context.Context, tenant uuid.UUID, j *store.StoredJudgement, as assumption, now time.Time) (*appraisal, NotJudged, error) {
	switch {
	case !j.Kept:
		return nil, NoEvidence, nil
	case j.Inputs.Key == nil || j.Inputs.Key.ID != j.KeyID:
		return nil, KeyChanged, nil
	}
	kept, err := s.store.EvidenceOf(ctx, tenant, j)
	if err != nil {
		return nil, "", fmt.Errorf("judge stored evidence: %w", err)
	}
	a := &appraisal{tenant: tenant, machineID: j.Inputs.Machine.ID, now: now, inputs: j.Inputs, contentType: kept.ContentType, stored: true}
	if a.evidence, err = verifier.Decode(kept.ContentType, kept.Body); err != nil {
		return nil, EvidenceUnreadable, nil //nolint:nilerr // said of the machine
	}
	if as == (assumption{}) { // what is assumed is not recorded
		sum := sha256.Sum256(kept.Body)
		a.bodyDigest = sum[:]
	}
	if as.policy != nil {
		a.inputs.Policy, a.inputs.PolicyRef = as.policy.Policy, verifier.VersionRef{ID: as.policy.ID.String(), Version: as.policy.Version}
	}
	if as.version != nil { // it is valid in the place of all of its baseline
		a.inputs.Withdrawn = without(a.inputs.Withdrawn, as.version.ID)
	}
	if a.candidates, err = s.assumedCandidates(j.Inputs.Versions, as.version); err != nil {
		return nil, "", err
	}
	if as.policy == nil {
		if a.rules, err = s.compiledRules(ctx, a.inputs.Policy.Rules, a.inputs.PolicyRef); err != nil {
			return nil, "", err
		}
	} else if as.rules != nil {
		a.rules = as.rules.Within(ctx)
	}
	a.key = s.attestationKey(a.inputs.Key, a.inputs.Trust)
	if a.endorsement, err = s.endorsement(ctx, a.tenant, a.inputs.Key); err != nil {
		return nil, "", err
	}
	if why := s.asItCame(a, j); why != "" {
		return nil, why, nil
	}
	if why, err := missing(PlatformEvidenceMissing, s.findPlatform(ctx, a)); why != "" || err != nil {
		return nil, why, err
	}
	if why, err := missing(EventLogMissing, s.findStoredLog(ctx, a, kept.EventLogHash)); why != "" || err != nil {
		return nil, why, err
	}
	return a, a.storedIMA(j), nil
}

// missing turns what would be a fault of a request, that something named by digest is not held, into a reason.
func missing(why NotJudged, err error) (NotJudged, error) {
	var refused *Error
	if errors.As(err, &refused) || errors.Is(err, store.ErrNotFound) {
		return why, nil
	}
	return "", err
}

// without leaves a baseline out of those that were withdrawn.
func without(list []verifier.Withdrawn, baselineID string) []verifier.Withdrawn {
	return slices.DeleteFunc(slices.Clone(list), func(w verifier.Withdrawn) bool { return w.Baseline.ID == baselineID })
}

// assumedCandidates are the candidates with one version in place of all of its baseline.
func (s *Service) assumedCandidates(versions []store.BaselineVersion, assumed *baseline.Layer) ([]verifier.Candidate, error) {
	if assumed == nil {
		return s.candidates(versions)
	}
	others := make([]store.BaselineVersion, 0, len(versions))
	for i := range versions {
		if versions[i].BaselineID.String() != assumed.ID {
			others = append(others, versions[i])
		}
	}
	layers, err := s.layers(others)
	if err != nil {
		return nil, err
	}
	return baseline.Effective(append(layers, *assumed)), nil
}

// asItCame sets what is taken as it was when the evidence came.
func (s *Service) asItCame(a *appraisal, j *store.StoredJudgement) NotJudged {
	nonce, err := a.peekNonce()
	if err != nil {
		return EvidenceUnreadable
	}
	expires, err := s.nonces.check(a.tenant, a.machineID, nonce, a.now)
	if err != nil {
		return ChallengeUnknown
	}
	a.nonce = nonce
	switch then := checkThen(j.Checks, verifier.CheckQuoteNonce); {
	case then.Status == verifier.Fail && (then.Detail == faultUsed || then.Detail == faultExpired):
		a.freshness = tpm.Freshness{Fault: then.Detail}
	case !j.EvidenceAt.Before(expires):
		a.freshness = tpm.Freshness{Fault: faultExpired}
	default:
		a.freshness = tpm.Freshness{Nonce: nonce}
	}
	if !j.Genuine || a.evidence.NoTPM {
		// Evidence that was not genuine left nothing behind: clock, log and IMA state are what it was judged by.
		return ""
	}
	quote, err := tpm.ParseAttest(a.evidence.Quotes[0].Message)
	if err != nil {
		return EvidenceUnreadable
	}
	clock := quote.Clock
	a.inputs.LastClock, a.inputs.LastLog = &clock, nil // it was genuine with the log that it has, or without one
	a.clockThen = &tpm.StepResult{Step: tpm.StepClock, Outcome: tpm.Pass, Detail: "clock and reset counter had not gone back when the evidence came"}
	if then := checkThen(j.Checks, verifier.CheckQuoteClock); then.Status == verifier.Warn {
		a.clockThen.Outcome, a.clockThen.Detail = tpm.Warn, then.Detail
	}
	return ""
}

func checkThen(checks []verifier.Check, code verifier.CheckCode) verifier.Check {
	for i := range checks {
		if checks[i].Code == code {
			return checks[i]
		}
	}
	return verifier.Check{}
}

// findStoredLog finds the log of stored evidence by the digest that is kept with it, so that one that came with the
// evidence of many machines is parsed once and hashed never.
func (s *Service) findStoredLog(ctx context.Context, a *appraisal, digest []byte) error {
	if len(digest) != len(logKey{}.digest) {
		return nil
	}
	log, err := s.heldLog(ctx, a.tenant, [32]byte(digest))
	if err != nil {
		return err
	}
	a.log, a.logHeld, a.logDigest = log, true, digest
	return nil
}

// storedIMA parses the list, and finds what it continues: for genuine evidence, what is kept with it; evidence that was
// not genuine did not move the machine's state.
func (a *appraisal) storedIMA(j *store.StoredJudgement) NotJudged {
	offset := a.evidence.IMALogOffset
	if len(a.evidence.IMALog) == 0 && offset == 0 {
		return ""
	}
	if offset > 0 {
		from := j.IMAFrom
		if from == nil && !j.Genuine {
			from = j.Inputs.IMAState
		}
		if from == nil || from.Entries != offset || !a.sameBoot() {
			return IMAIncrement
		}
		a.imaState = from
	}
	list, err := ima.Parse(a.evidence.IMALog)
	if err != nil {
		a.imaFault = err.Error()
		return ""
	}
	a.imaList = list
	return ""
}
