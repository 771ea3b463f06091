package bundle

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/chain"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/rules"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// judged is what came of judging one verdict's evidence again.
type judged struct {
	outcome   Outcome
	why, note string
	faults    []Fault
}

// missing is that something is not in the bundle, so that evidence cannot be judged.
type missing struct{ what string }

func (m missing) Error() string { return m.what }

// altered is that an entry is not what its name says.
type altered struct{ fault Fault }

func (a altered) Error() string { return a.fault.Detail }

// cached bounds what is kept from one verdict to the next: parsed logs and compiled reference values.
const cached = 24

// judge judges evidence with what the bundle holds.
type judge struct {
	ctx        context.Context //nolint:containedctx // of one check of one bundle
	r          *Reader
	logs       map[string]*eventlog.Log
	references map[string]*verifier.Reference
}

func newJudge(ctx context.Context, r *Reader) *judge {
	return &judge{ctx: ctx, r: r, logs: map[string]*eventlog.Log{}, references: map[string]*verifier.Reference{}}
}

// verdict judges the evidence of a verdict again, by what it was judged with, and compares.
func (j *judge) verdict(folder string, v *Verdict, link *chain.Verdict) judged {
	again, err := j.again(folder, v, link)
	var lacks missing
	var other altered
	switch {
	case errors.As(err, &lacks):
		return judged{outcome: NotJudged, why: lacks.what}
	case errors.As(err, &other):
		return judged{outcome: NotJudged, why: "what it was judged with was altered", faults: []Fault{other.fault}}
	case err != nil:
		return judged{outcome: NotJudged, why: err.Error(), faults: []Fault{faultOf(err, FaultUnreadable, folder)}}
	}
	var stored verifier.Appraisal
	if err := json.Unmarshal(link.Appraisal, &stored); err != nil {
		return judged{outcome: NotJudged, why: "its appraisal cannot be read", faults: []Fault{{Kind: FaultUnreadable, Entry: folder + "appraisal.json", Detail: err.Error()}}}
	}
	return compare(folder, v, &stored, again)
}

func (j *judge) again(folder string, v *Verdict, link *chain.Verdict) (*verifier.Appraisal, error) {
	if !j.r.has(folder + "evidence") {
		return nil, missing{"its evidence is not held any more"}
	}
	if link.JudgedBy == nil {
		return nil, missing{"it was recorded by a release that did not keep what evidence was judged with"}
	}
	in, err := parseInputs(link.JudgedBy)
	if err != nil {
		return nil, &Error{Entry: folder + "judged-by.json", Detail: err.Error()}
	}
	body, err := j.r.read(folder + "evidence")
	if err != nil {
		return nil, err
	}
	if found := Digest(body); found != v.EvidenceDigest {
		return nil, altered{Fault{Kind: FaultAltered, Entry: folder + "evidence", Detail: "the evidence is not that which was judged", Expected: v.EvidenceDigest, Found: found}}
	}
	ev, err := verifier.Decode(v.EvidenceType, body)
	if err != nil {
		return nil, &Error{Entry: folder + "evidence", Detail: "the evidence cannot be decoded: " + err.Error()}
	}
	inputs, err := j.inputs(in, v.FirstAt)
	if err != nil {
		return nil, err
	}
	if err := j.platform(ev, in, inputs); err != nil {
		return nil, err
	}
	if err := j.log(ev, v.EventLogDigest, inputs); err != nil {
		return nil, err
	}
	if len(ev.IMALog) > 0 || ev.IMALogOffset > 0 {
		if inputs.IMA, err = ima.Parse(ev.IMALog); err != nil {
			inputs.IMAFault = err.Error()
		}
	}
	return verifier.Appraise(ev, *inputs), nil
}

// inputs is what was known beside the evidence.
func (j *judge) inputs(in *Inputs, at time.Time) (*verifier.Inputs, error) {
	policy, err := verifier.ParsePolicy(in.Policy)
	if err != nil {
		return nil, fmt.Errorf("the policy: %w", err)
	}
	out := &verifier.Inputs{Now: at, Policy: policy, PolicyRef: in.PolicyRef, Freshness: tpm.Freshness{Nonce: in.Nonce, Fault: in.NonceFault},
		LastClock: in.LastClock, ClockThen: in.ClockThen, Withdrawn: in.Withdrawn, Machine: in.Machine, HadLog: in.HadLog, IMAState: in.IMAState,
		AK: verifier.AttestationKey{Assurance: in.Key.Assurance, NoTPM: in.Key.NoTPM, Launched: in.Key.Launched, Fault: in.Key.Fault}}
	if in.BaselineWaived {
		out.Policy.RequireBaseline = false
	}
	if len(policy.Rules) > 0 {
		set, err := rules.Compile(policy.Rules)
		if err != nil {
			return nil, fmt.Errorf("the policy's rules: %w", err)
		}
		out.Rules = set.Within(j.ctx)
	}
	if len(in.Key.Public) > 0 {
		if out.AK.Public, err = ParseKey(in.Key.Public); err != nil && in.Key.Fault == "" {
			return nil, fmt.Errorf("the attestation key: %w", err)
		}
	}
	layers := make([]baseline.Layer, len(in.Baselines))
	for i := range in.Baselines {
		l := &in.Baselines[i]
		reference, err := j.reference(l.Reference)
		if err != nil {
			return nil, err
		}
		layers[i] = baseline.Layer{ID: l.ID, Version: l.Version, State: l.State, Selector: l.Selector, Reference: reference}
	}
	if len(layers) > 0 {
		out.Candidates = baseline.Effective(layers)
	}
	return out, nil
}

// object reads an entry that is named by its SHA-256.
func (j *judge) object(name, digest, what string) ([]byte, error) {
	if !j.r.has(name) {
		return nil, missing{fmt.Sprintf("%s that it was judged with are not held any more (SHA-256 %.16s…)", what, digest)}
	}
	body, err := j.r.read(name)
	if err != nil {
		return nil, err
	}
	if found := Digest(body); found != digest {
		return nil, altered{Fault{Kind: FaultAltered, Entry: name, Detail: what + " were exchanged or altered", Expected: digest, Found: found}}
	}
	return body, nil
}

func (j *judge) reference(digest string) (*verifier.Reference, error) {
	if known := j.references[digest]; known != nil {
		return known, nil
	}
	body, err := j.object(folderReferences+digest+".json", digest, "reference values")
	if err != nil {
		return nil, err
	}
	var values verifier.ReferenceValues
	if err := json.Unmarshal(body, &values); err != nil {
		return nil, fmt.Errorf("reference values %.16s…: %w", digest, err)
	}
	reference, err := verifier.CompileReference(values)
	if err != nil {
		return nil, fmt.Errorf("reference values %.16s…: %w", digest, err)
	}
	keep(j.references, digest, reference)
	return reference, nil
}

// keep remembers a value among not too many others.
func keep[V any](cache map[string]V, key string, value V) {
	if len(cache) >= cached {
		clear(cache)
	}
	cache[key] = value
}

// platform finds the hardware evidence, and verifies it under what the tenant trusted and held then.
func (j *judge) platform(ev *verifier.Evidence, in *Inputs, inputs *verifier.Inputs) error {
	if ev.Platform == nil && ev.PlatformDigest != nil {
		digest := hex.EncodeToString(ev.PlatformDigest[:])
		name := folderPlatforms + digest + ".json"
		if !j.r.has(name) {
			return missing{"the hardware evidence that its evidence names is not held any more"}
		}
		body, err := j.r.read(name)
		if err != nil {
			return err
		}
		ev.Platform = &tee.Evidence{}
		if err := json.Unmarshal(body, ev.Platform); err != nil {
			return &Error{Entry: name, Detail: err.Error()}
		}
		if found := ev.Platform.Digest(); found != *ev.PlatformDigest {
			return altered{Fault{Kind: FaultAltered, Entry: name, Detail: "the hardware evidence was exchanged or altered", Expected: digest, Found: hex.EncodeToString(found[:])}}
		}
	}
	if ev.Platform == nil {
		return nil
	}
	trust, err := j.trust(in)
	if err != nil {
		return err
	}
	trust.RequireCRL = inputs.Policy.PlatformEvidence.RequireCRL
	inputs.Platform = tee.Verify(ev.Platform, trust, inputs.Now)
	if len(ev.Platform.EventLog) > 0 {
		if inputs.CCLog, err = eventlog.Parse(ev.Platform.EventLog); err != nil {
			inputs.CCLogFault = err.Error()
		}
	}
	return nil
}

func (j *judge) trust(in *Inputs) (*tee.Trust, error) {
	trust := &tee.Trust{}
	for _, a := range in.Anchors {
		der, err := j.object(folderAnchors+a.SHA256+".der", a.SHA256, "trust anchors")
		if err != nil {
			return nil, err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("the trust anchor %.16s…: %w", a.SHA256, err)
		}
		switch a.Purpose {
		case PurposeSNP:
			trust.SNP = append(trust.SNP, cert)
		case PurposeTDX:
			trust.TDX = append(trust.TDX, cert)
		default:
			return nil, fmt.Errorf("a trust anchor has the purpose %.40q", a.Purpose)
		}
	}
	for _, c := range in.Collateral {
		body, err := j.object(folderCollateral+c.SHA256+".json", c.SHA256, "collateral ("+string(c.Kind)+" "+c.Name+")")
		if err != nil {
			return nil, err
		}
		var e collateralEntry
		if err := json.Unmarshal(body, &e); err != nil {
			return nil, fmt.Errorf("collateral %s %s: %w", c.Kind, c.Name, err)
		}
		parsed, err := tee.ParseCollateral(e.Kind, e.Body, e.IssuerChain)
		if err != nil {
			return nil, fmt.Errorf("collateral %s %s: %w", c.Kind, c.Name, err)
		}
		trust.Collateral = append(trust.Collateral, parsed)
	}
	return trust, nil
}

// log finds the boot log in the evidence, or by its digest.
func (j *judge) log(ev *verifier.Evidence, digest string, inputs *verifier.Inputs) error {
	raw := ev.EventLog
	if ev.EventLogDigest != nil {
		digest = hex.EncodeToString(ev.EventLogDigest[:])
		if known := j.logs[digest]; known != nil {
			inputs.Log = known
			return nil
		}
		var err error
		if raw, err = j.object(folderLogs+digest, digest, "boot logs"); err != nil {
			return err
		}
	}
	if len(raw) == 0 {
		return nil
	}
	if sum := sha256.Sum256(raw); digest != hex.EncodeToString(sum[:]) {
		return altered{Fault{Kind: FaultAltered, Entry: "verdict.json", Detail: "the verdict names another boot log than its evidence holds", Expected: digest, Found: hex.EncodeToString(sum[:])}}
	}
	log, err := eventlog.Parse(raw)
	if err != nil {
		inputs.LogFault = err.Error()
		return nil //nolint:nilerr // it is part of what is judged
	}
	inputs.Log = log
	keep(j.logs, digest, log)
	return nil
}
