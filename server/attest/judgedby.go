package attest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/assay-verifier/assay/verifier/bundle"
)

// trustNames are the names of what hardware evidence is checked with in one state of a tenant's anchors and collateral.
type trustNames struct {
	anchors    []bundle.Anchor
	collateral []bundle.Collateral
}

// judgedBy writes down what evidence was judged with, so that whoever has the evidence can judge it again without this service
// (package bundle). It is asked only where a verdict begins, and says by digest what is large.
func (s *Service) judgedBy(a *appraisal) ([]byte, error) {
	policy, known := s.policies.get(a.inputs.PolicyRef)
	if !known {
		var err error
		if policy, err = json.Marshal(a.inputs.Policy); err != nil {
			return nil, fmt.Errorf("policy %s version %d: %w", a.inputs.PolicyRef.ID, a.inputs.PolicyRef.Version, err)
		}
		s.policies.put(a.inputs.PolicyRef, policy, 1)
	}
	judged := a.verifierInputs()
	in := bundle.Inputs{
		Engine: s.build, PolicyRef: a.inputs.PolicyRef, Policy: policy, BaselineWaived: a.waived, Withdrawn: judged.Withdrawn, Nonce: judged.Freshness.Nonce,
		NonceFault: judged.Freshness.Fault, LastClock: judged.LastClock, ClockThen: judged.ClockThen, HadLog: judged.HadLog, IMAState: judged.IMAState, Machine: judged.Machine,
		Key: bundle.Key{Assurance: judged.AK.Assurance, NoTPM: judged.AK.NoTPM, Launched: judged.AK.Launched, Fault: judged.AK.Fault},
	}
	if key := a.inputs.Key; key != nil {
		in.Key.ID = key.ID.String()
		if !judged.AK.NoTPM {
			in.Key.Public = key.Public
		}
	}
	for i := range a.inputs.Versions {
		v := &a.inputs.Versions[i]
		in.Baselines = append(in.Baselines, bundle.Layer{ID: v.BaselineID.String(), Version: v.Version, State: v.State, Selector: v.Selector,
			Reference: hex.EncodeToString(v.ReferenceDigest)})
	}
	if a.evidence.Platform != nil {
		names, err := s.trustNames(a)
		if err != nil {
			return nil, err
		}
		in.Anchors, in.Collateral = names.anchors, names.collateral
		if chip := a.platform.chip; chip != nil {
			_, name, err := bundle.MarshalCollateral(chip)
			if err != nil {
				return nil, fmt.Errorf("collateral %s %s: %w", chip.Kind, chip.Name, err)
			}
			in.Collateral = append(in.Collateral[:len(in.Collateral):len(in.Collateral)], name)
		}
	}
	out, err := json.Marshal(&in)
	if err != nil {
		return nil, fmt.Errorf("write down what evidence was judged with: %w", err)
	}
	return out, nil
}

// trustNames names what the tenant trusts and holds; it is the same for all that is judged until that changes.
func (s *Service) trustNames(a *appraisal) (trustNames, error) {
	trust := a.inputs.Trust
	key := chainsKey{a.tenant, trust.Generation}
	names, known := s.trusted.get(key)
	if known {
		return names, nil
	}
	for _, c := range trust.SNP {
		names.anchors = append(names.anchors, bundle.Anchor{Purpose: bundle.PurposeSNP, SHA256: bundle.Digest(c.Raw)})
	}
	for _, c := range trust.TDX {
		names.anchors = append(names.anchors, bundle.Anchor{Purpose: bundle.PurposeTDX, SHA256: bundle.Digest(c.Raw)})
	}
	for i := range trust.Collateral {
		_, name, err := bundle.MarshalCollateral(&trust.Collateral[i])
		if err != nil {
			return names, fmt.Errorf("collateral %s %s: %w", trust.Collateral[i].Kind, trust.Collateral[i].Name, err)
		}
		names.collateral = append(names.collateral, name)
	}
	s.trusted.put(key, names, 1)
	return names, nil
}
