package attest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/bundle"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/rules"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// The faults of a nonce that is ours. They name no times, so that a repetition is the same judgement.
const (
	faultExpired = "the challenge had expired when the evidence arrived"
	faultUsed    = "the challenge has been answered already, or a later one has: this evidence was sent before"
)

// prepare gathers what the judgement needs. What it refuses is a fault of the request.
func (s *Service) prepare(ctx context.Context, a *appraisal) error {
	if err := s.readNonce(ctx, a); err != nil {
		return err
	}
	var err error
	if a.candidates, err = s.candidates(a.inputs.Versions); err != nil {
		return err
	}
	if a.rules, err = s.compiledRules(ctx, a.inputs.Policy.Rules, a.inputs.PolicyRef); err != nil {
		return err
	}
	a.key = s.attestationKey(a.inputs.Key, a.inputs.Trust)
	if a.endorsement, err = s.endorsement(ctx, a.tenant, a.inputs.Key); err != nil {
		return err
	}
	if err := s.findPlatform(ctx, a); err != nil {
		return err
	}
	if err := s.findLog(ctx, a); err != nil {
		return err
	}
	return a.readIMA()
}

// readNonce finds which challenge the evidence answers. A nonce that is not ours for this machine is
// written to the audit record and refused; one that is ours but late or used is left to the judgement.
func (s *Service) readNonce(ctx context.Context, a *appraisal) error {
	nonce, err := a.peekNonce()
	if err != nil {
		return err
	}
	expires, err := s.nonces.check(a.tenant, a.machineID, nonce, a.now)
	if err != nil {
		detail, _ := json.Marshal(map[string]string{"nonce": fmt.Sprintf("%x", nonce)})
		if err := s.store.RecordUnknownChallenge(ctx, a.tenant, a.machineID, detail, a.now, a.actor); err != nil {
			return fmt.Errorf("record unknown challenge: %w", err)
		}
		if err := s.noteForeignQuote(ctx, a); err != nil {
			return err
		}
		return errorf(CodeUnknownChallenge, "the quote's nonce is no challenge that was made for this machine; ask for one and quote again")
	}
	a.nonce = nonce
	switch {
	case !a.now.Before(expires):
		a.freshness = tpm.Freshness{Fault: faultExpired}
	case bytes.Compare(nonce[:orderKeySize], a.inputs.LastChallenge) <= 0:
		a.freshness = tpm.Freshness{Fault: faultUsed}
	default:
		a.freshness = tpm.Freshness{Nonce: nonce}
	}
	return nil
}

// peekNonce is the nonce that the evidence carries, of a quote or, for a machine without a TPM, of its hardware report.
// Nothing of it is verified yet.
func (a *appraisal) peekNonce() ([]byte, error) {
	if a.evidence.NoTPM {
		return a.evidence.Platform.PeekNonce(), nil
	}
	message := a.evidence.Quotes[0].Message
	nonce, err := tpm.PeekExtraData(message)
	if err != nil {
		return nil, fieldErrorf("/quotes/0/message", "no TPMS_ATTEST: %s", err)
	}
	if attest, err := tpm.ParseAttest(message); err == nil {
		// It decides only whether a log or an IMA offset is expected; where it lies, the signature does not hold and
		// nothing else counts.
		a.resetCount = &attest.Clock.ResetCount
	}
	return nonce, nil
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
		return nil //nolint:nilerr // a finding about the machine
	}
	a.imaList = list
	return nil
}

// sameBoot tells whether the quote claims to be of the boot that the last genuine quote was of.
func (a *appraisal) sameBoot() bool {
	last := a.inputs.LastClock
	return last != nil && a.resetCount != nil && *a.resetCount == last.ResetCount
}

// attestationKey parses the machine's active key, or says why there is none to trust.
func (s *Service) attestationKey(key *store.AttestationKey, trust *store.TenantTrust) parsedKey {
	if key == nil {
		return parsedKey{fault: "no attestation key of this machine is enrolled"}
	}
	k, ok := s.keys.get(key.ID)
	if !ok {
		k = parseKey(key)
		s.keys.put(key.ID, k, 1)
	}
	if key.AnchorFingerprint != "" && !trust.AnchorFingerprints[key.AnchorFingerprint] {
		k.fault = "the trust anchor that the key's proof ended in (SHA-256 " + key.AnchorFingerprint[:min(16, len(key.AnchorFingerprint))] + "…) is not trusted any more; enrol the machine again"
	}
	return k
}

// parseKey reads a stored key: a TPMT_PUBLIC, or the bare public key that a paravisor's runtime data names.
func parseKey(key *store.AttestationKey) parsedKey {
	if key.Kind == store.KeyTEE {
		var proof keyProof
		if err := json.Unmarshal(key.Evidence, &proof); err != nil || proof.Platform == nil {
			return parsedKey{noTPM: true, fault: "the hardware report that the machine enrolled by is not on record"}
		}
		return parsedKey{noTPM: true, launched: proof.Platform.LaunchMeasurement}
	}
	public, err := bundle.ParseKey(key.Public)
	if err != nil {
		return parsedKey{fault: "the enrolled attestation key cannot be read: " + err.Error()}
	}
	return parsedKey{public: public}
}

// candidates compiles the reference values that apply. Versions are immutable, so each is compiled
// once. Values that do not compile were not accepted by this version of the service: it then judges
// nothing rather than leave them out.
func (s *Service) candidates(versions []store.BaselineVersion) ([]verifier.Candidate, error) {
	if len(versions) == 0 {
		return nil, nil
	}
	layers, err := s.layers(versions)
	if err != nil {
		return nil, err
	}
	return baseline.Effective(layers), nil
}

func (s *Service) layers(versions []store.BaselineVersion) ([]baseline.Layer, error) {
	layers := make([]baseline.Layer, 0, len(versions)+1)
	for i := range versions {
		v := &versions[i]
		reference, err := s.compile(v)
		if err != nil {
			return nil, err
		}
		layers = append(layers, baseline.Layer{
			ID: v.BaselineID.String(), Version: v.Version, State: v.State, Selector: v.Selector, Reference: reference,
		})
	}
	return layers, nil
}

// compiledRules are the rules of a policy, compiled once for each version; nil where it has none. Rules that do not
// compile were not accepted by this version of the service: it then judges nothing rather than leave them out. When
// ctx ends, so does their evaluation.
func (s *Service) compiledRules(ctx context.Context, list []verifier.PolicyRule, policy verifier.VersionRef) (verifier.RuleSet, error) {
	if len(list) == 0 {
		return nil, nil
	}
	set, known := s.rules.get(policy)
	if !known {
		var err error
		if set, err = rules.Compile(list); err != nil {
			return nil, fmt.Errorf("policy %s version %d: %w", policy.ID, policy.Version, err)
		}
		s.rules.put(policy, set, 1)
	}
	return set.Within(ctx), nil
}

// ruleFacts is what rules may ask of the inventory.
func ruleFacts(m *store.Machine) *verifier.MachineFacts {
	return &verifier.MachineFacts{Name: m.Name, Platform: m.Platform, OS: m.OS, SecurityType: m.SecurityType, ScaleSet: m.ScaleSet, Labels: m.Labels}
}

func (s *Service) compile(v *store.BaselineVersion) (*verifier.Reference, error) {
	key := versionKey{v.BaselineID, v.Version}
	if reference, ok := s.compiled.get(key); ok {
		return reference, nil
	}
	reference, err := verifier.CompileReference(v.Reference)
	if err != nil {
		return nil, fmt.Errorf("baseline %s version %d: %w", v.BaselineID, v.Version, err)
	}
	s.compiled.put(key, reference, 1)
	return reference, nil
}

// findLog finds the event log: in the evidence, or by digest in the cache or the store. What is in the
// cache is in the store, so it need not be stored again.
func (s *Service) findLog(ctx context.Context, a *appraisal) error {
	ev := a.evidence
	switch {
	case len(ev.EventLog) > 0:
		digest := sha256.Sum256(ev.EventLog)
		a.logDigest = digest[:]
		if a.log, a.logHeld = s.logs.get(logKey{a.tenant, digest}); !a.logHeld {
			a.log = parseLog(ev.EventLog)
		}
	case ev.EventLogDigest != nil:
		log, err := s.heldLog(ctx, a.tenant, *ev.EventLogDigest)
		if errors.Is(err, store.ErrNotFound) {
			return &Error{Code: CodeEventLogRequired, Pointer: "/event_log_digest", Detail: "this event log is not held; send it"}
		}
		if err != nil {
			return err
		}
		a.log, a.logHeld, a.logDigest = log, true, ev.EventLogDigest[:]
	}
	return nil
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
	if a.logDigest != nil && !a.logHeld {
		s.keepLog(a.tenant, [32]byte(a.logDigest), a.log)
	}
}

func (s *Service) keepLog(tenant uuid.UUID, digest [32]byte, log parsedLog) {
	s.logs.put(logKey{tenant, digest}, log, int64(log.size)*logOverhead)
}
