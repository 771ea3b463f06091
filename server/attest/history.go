package attest

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// history is an appraisal beside the machine's earlier ones.
type history struct {
	matched   []store.BaselineMatch // that affirm it now
	rollbacks []finding.Rollback
	learned   bool            // this very boot becomes the machine's baseline
	firmware  *store.Firmware // that it shows, where it can be compared
	fleet     *finding.Fleet  // that it is compared with
}

// history tells which versions affirm the machine, and whether one that did before was newer. Of a machine that
// deviates from all that is valid, it asks the versions that are no longer: what matches one of them has gone back too.
func (s *Service) history(ctx context.Context, a *appraisal, judged *verifier.Appraisal) (history, error) {
	h := history{firmware: firmwareOf(&a.inputs.Machine, judged)}
	var err error
	if h.fleet, err = s.fleet(ctx, a, h.firmware); err != nil {
		return h, err
	}
	if !judged.Genuine || judged.Baseline == nil {
		return h, nil
	}
	if passed(judged, verifier.CheckBaselineMatch) {
		refs := judged.Layers
		if refs == nil {
			refs = []verifier.VersionRef{*judged.Baseline}
		}
		for _, ref := range refs {
			h.match(a, ref)
		}
		return h, nil
	}
	if !failed(judged, verifier.CheckBaselineMatch) {
		return h, nil
	}
	for _, before := range a.inputs.Matches {
		if err := s.findEarlier(ctx, a, before, &h); err != nil {
			return h, err
		}
	}
	return h, nil
}

// match notes a version that affirms the machine.
func (h *history) match(a *appraisal, ref verifier.VersionRef) {
	v := findVersion(a.inputs.Versions, ref)
	if v == nil {
		return // of no stored baseline
	}
	now := store.BaselineMatch{BaselineID: v.BaselineID, Version: v.Version}
	if v.Activation != nil {
		now.Activation = *v.Activation
	}
	h.matched = append(h.matched, now)
	for _, before := range a.inputs.Matches {
		if before.BaselineID == v.BaselineID && before.HighestActivation > now.Activation {
			h.rollbacks = append(h.rollbacks, finding.Rollback{Baseline: v.Name, MovedTo: before.HighestVersion, Now: v.Version, NowState: v.State})
		}
	}
}

// findEarlier judges the evidence as if the retired versions of a baseline, older than the newest that affirmed the
// machine, were still valid.
func (s *Service) findEarlier(ctx context.Context, a *appraisal, before store.BaselineMatch, h *history) error {
	applies := func(v store.BaselineVersion) bool { return v.BaselineID == before.BaselineID }
	if !slices.ContainsFunc(a.inputs.Versions, applies) {
		return nil // it is not the machine's any more
	}
	earlier, err := s.store.EarlierVersions(ctx, a.tenant, before.BaselineID, before.HighestActivation)
	if err != nil || len(earlier) == 0 {
		return err
	}
	versions := slices.DeleteFunc(slices.Clone(a.inputs.Versions), applies)
	for i := range earlier {
		v := earlier[i]
		v.State = baseline.StateGrace
		versions = append(versions, v)
	}
	in := a.verifierInputs()
	in.Withdrawn = nil // the question is what it matches, and not whether that is enough
	if in.Candidates, err = s.candidates(versions); err != nil {
		return err
	}
	again := verifier.Appraise(a.evidence, in)
	if !passed(again, verifier.CheckBaselineMatch) {
		return nil
	}
	for _, ref := range append([]verifier.VersionRef{*again.Baseline}, again.Layers...) {
		if v := findVersion(earlier, ref); v != nil {
			h.rollbacks = append(h.rollbacks, finding.Rollback{Baseline: v.Name, MovedTo: before.HighestVersion, Now: v.Version, NowState: v.State})
			return nil
		}
	}
	return nil
}

func findVersion(versions []store.BaselineVersion, ref verifier.VersionRef) *store.BaselineVersion {
	for i := range versions {
		if v := &versions[i]; v.Version == ref.Version && v.BaselineID.String() == ref.ID {
			return v
		}
	}
	return nil
}

// maxLookedUp bounds the digests that are looked for among all reference values.
const maxLookedUp = 64

// explainKnown names, for what was measured against the baseline, the reference values that know it: a draft, a version
// that is retired, another baseline. It changes words only.
func (s *Service) explainKnown(ctx context.Context, tenant uuid.UUID, deviations []verifier.Deviation) error {
	var digests [][]byte
	for i := range deviations {
		d := &deviations[i]
		if d.EventType == "" || d.Bank == "" || d.Actual == "" || len(digests) == maxLookedUp {
			continue
		}
		if digest, err := hex.DecodeString(d.Actual); err == nil {
			digests = append(digests, digest)
		}
	}
	if len(digests) == 0 {
		return nil
	}
	known, err := s.store.KnownEvents(ctx, tenant, digests)
	if err != nil {
		return fmt.Errorf("explain deviations: %w", err)
	}
	for _, k := range known {
		actual := hex.EncodeToString(k.Digest)
		for i := range deviations {
			if d := &deviations[i]; d.EventType != "" && d.Bank != "" && d.Actual == actual {
				d.NameKnown(k.Description, fmt.Sprintf("baseline %s version %d, %s", k.Baseline, k.Version, k.State))
			}
		}
	}
	return nil
}
