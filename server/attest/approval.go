package attest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// The scopes of an approval.
const (
	ScopeBaseline = "baseline" // a version of the baseline that was deviated from, for all machines that it covers
	ScopeMachine  = "machine"  // a layer of the machine's own, over what covers it
)

// ApprovalChoice says what an approval is to change. The zero value adds to the baseline what was measured.
type ApprovalChoice struct {
	Scope      string     // ScopeBaseline where it is empty
	BaselineID *uuid.UUID // of several baselines that were deviated from, the one that is meant
	Replace    bool       // what was measured takes the place of what was expected, and is not only added to it
}

// ApprovalRequest is an approval. VerdictID and BasedOn, where given, are what the approver has seen in the preview.
type ApprovalRequest struct {
	ApprovalChoice
	Comment   string
	VerdictID *uuid.UUID
	BasedOn   *int
	Activate  bool
	Grace     store.Grace
	Force     bool
}

// Approval is what approving an alert would do.
type Approval struct {
	Alert     store.Alert
	VerdictID uuid.UUID
	// BaselineID is the baseline that would get a version, BasedOn the version that it is made out of; nil and 0 where a
	// baseline of the machine's own would be made.
	BaselineID *uuid.UUID
	Name       string
	BasedOn    int
	Selector   verifier.Selector
	// Deviations are those of the stored evidence, judged again by what is valid today, that the version would allow.
	Deviations []verifier.Deviation
	Reference  verifier.ReferenceValues
	// Changes are the difference from BasedOn to Reference.
	Changes []verifier.Deviation
	// Remaining is what the evidence would fail by all the same, in plain words.
	Remaining   []string
	NeedsSecond bool
	Refused     *store.AlertDecision // somebody has refused the same deviations before

	digest    [32]byte
	effective verifier.ReferenceValues
	before    verifier.ReferenceValues // of BasedOn; the zero value where there is none
}

// PreviewApproval shows what approving an alert would allow. Only genuine evidence can be approved, and it is judged
// again for that. The error is an *Error: not_found, origin_unverified or not_approvable.
func (s *Service) PreviewApproval(ctx context.Context, tenant, alertID uuid.UUID, choice ApprovalChoice) (*Approval, error) {
	p, verdict, err := s.approvable(ctx, tenant, alertID)
	if err != nil {
		return nil, err
	}
	again, err := s.judgeVerdict(ctx, tenant, verdict, false)
	if err != nil {
		return nil, err
	}
	switch {
	case again == nil:
		return nil, errorf(CodeNotApprovable, "the evidence behind the alert is not kept any more, or its key is no longer the machine's")
	case !again.appraisal.Genuine:
		return nil, errorf(CodeOriginUnverified, "judged again, the evidence is not proven to come from the machine's own TPM: %s", firstFailure(again.appraisal))
	}
	versions := again.stored.Versions
	candidates, err := s.candidates(versions)
	if err != nil {
		return nil, err
	}
	if len(candidates) == 0 {
		if gone := again.stored.Withdrawn; len(gone) > 0 {
			return nil, errorf(CodeNotApprovable, "%s: promote another version of that baseline, or release its machines from it", &gone[0])
		}
		return nil, errorf(CodeNotApprovable, "no baseline applies to the machine; capture one from it")
	}
	judged := again.against(candidates)
	deviations := slices.DeleteFunc(slices.Clone(judged.Deviations), isFile)
	for _, d := range verdict.Appraisal.Deviations {
		if isFile(d) { // the part of the list that was sent is judged by what was read before, which is gone
			deviations = append(deviations, d)
		}
	}
	if len(deviations) == 0 {
		return nil, errorf(CodeNotApprovable, "nothing that was measured deviates from the baselines that are valid now; what the machine failed by is not theirs: %s", firstFailure(&verdict.Appraisal))
	}
	p.effective, p.digest = candidates[0].Reference.Values(), deviationDigest(deviations)
	if err := s.chooseTarget(p, choice, versions, &candidates[0], deviations); err != nil {
		return nil, err
	}
	if err := p.extend(choice, judged); err != nil {
		return nil, err
	}
	p.Remaining = remainingOfIMA(p, &verdict.Appraisal, deviations)
	if err := s.foresee(p, again, versions); err != nil {
		return nil, err
	}
	if err := s.explainKnown(ctx, tenant, p.Deviations); err != nil {
		return nil, err
	}
	if p.NeedsSecond, err = s.store.NeedsTwoPersons(ctx, tenant, p.Selector); err != nil {
		return nil, err
	}
	p.Refused, err = s.store.Refusal(ctx, tenant, p.digest[:])
	return p, err
}

// approvable finds the alert and its verdict, and refuses what no approval can change.
func (s *Service) approvable(ctx context.Context, tenant, alertID uuid.UUID) (*Approval, *store.Verdict, error) {
	alert, err := s.store.GetAlert(ctx, tenant, alertID, s.now())
	if err != nil {
		return nil, nil, fromStore("approve an alert", err)
	}
	switch {
	case alert.Code != "attestation_failed":
		return nil, nil, errorf(CodeNotApprovable, "only alerts attestation_failed are about a baseline; this one is %s", alert.Code)
	case alert.Reason == verifier.OriginUnverified:
		return nil, nil, errorf(CodeOriginUnverified, "the evidence could not be verified to come from this machine's own TPM; nothing that it says can be approved")
	case alert.Status != "active" && alert.Status != "in_progress":
		return nil, nil, errorf(CodeNotApprovable, "the alert is %s", alert.Status)
	}
	verdict, err := s.store.GetVerdict(ctx, tenant, alert.VerdictID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, errorf(CodeNotApprovable, "the verdict behind the alert is not kept any more")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("approve an alert: %w", err)
	}
	return &Approval{Alert: alert, VerdictID: verdict.ID}, &verdict, nil
}

func isFile(d verifier.Deviation) bool { return d.EventType == "IMA" }

// deviationDigest identifies a set of deviations, on whatever machine they are.
func deviationDigest(deviations []verifier.Deviation) [32]byte {
	lines := make([]string, len(deviations))
	for i := range deviations {
		d := &deviations[i]
		shown := d.Actual
		if shown == "" {
			shown = strings.Join(d.Expected, " ")
		}
		lines[i] = fmt.Sprintf("%s %d %s %q %q", d.Bank, d.PCR, d.Kind, d.Now, shown)
		if d.EventType != "" && !isFile(*d) {
			lines[i] = fmt.Sprintf("%s %d %s %s", d.Bank, d.PCR, d.Kind, shown) // a digest says it all
		}
	}
	slices.Sort(lines)
	return sha256.Sum256([]byte(strings.Join(slices.Compact(lines), "\n")))
}

// chooseTarget finds the baseline that gets the version, and which of the deviations it judges.
func (s *Service) chooseTarget(p *Approval, choice ApprovalChoice, versions []store.BaselineVersion, effective *verifier.Candidate, deviations []verifier.Deviation) error {
	if choice.Scope == ScopeMachine {
		p.Deviations = deviations
		p.Selector = verifier.Selector{MachineIDs: []string{p.Alert.MachineID.String()}}
		p.Name = fmt.Sprintf("approved for %.100s, alert %s", p.Alert.MachineName, p.Alert.ID)
		for i := range versions {
			v := &versions[i]
			if v.State == baseline.StateActive && slices.Equal(v.Selector.MachineIDs, p.Selector.MachineIDs) && baseline.Specificity(v.Selector) == baseline.Specificity(p.Selector) {
				p.take(v)
				break
			}
		}
		return nil
	}
	layers := effective.Layers
	if layers == nil {
		layers = []verifier.VersionRef{effective.Baseline}
	}
	owners := map[uuid.UUID][]verifier.Deviation{}
	var names []string
	for i := range deviations {
		v, err := s.owner(versions, layers, &deviations[i])
		if err != nil {
			return err
		}
		if v == nil {
			continue
		}
		if owners[v.BaselineID] == nil {
			names = append(names, fmt.Sprintf("%q (%s)", v.Name, v.BaselineID))
		}
		owners[v.BaselineID] = append(owners[v.BaselineID], deviations[i])
	}
	var chosen uuid.UUID
	switch {
	case choice.BaselineID != nil:
		chosen = *choice.BaselineID
	case len(owners) > 1:
		return errorf(CodeNotApprovable, "the deviations are from several baselines: %s; name the one that is to change by baseline_id, or approve for the machine alone", strings.Join(names, ", "))
	default:
		for id := range owners {
			chosen = id
		}
	}
	if p.Deviations = owners[chosen]; len(p.Deviations) == 0 {
		return errorf(CodeNotApprovable, "that baseline judges none of the deviations")
	}
	if err := s.keepClaims(p.Deviations, chosen, versions, layers); err != nil {
		return err
	}
	for i := range versions {
		if v := &versions[i]; v.BaselineID == chosen && v.State == baseline.StateActive {
			p.take(v)
			return nil
		}
	}
	return errorf(CodeNotApprovable, "the baseline has no active version")
}

// take makes a version the one that the approval is based on.
func (p *Approval) take(v *store.BaselineVersion) {
	id := v.BaselineID
	p.BaselineID, p.BasedOn, p.Name, p.Selector, p.before = &id, v.Version, v.Name, v.Selector, v.Reference
}

// owner is the layer that judges what a deviation is about: the most specific one that names it.
func (s *Service) owner(versions []store.BaselineVersion, layers []verifier.VersionRef, d *verifier.Deviation) (*store.BaselineVersion, error) {
	return s.firstLayer(versions, layers, func(r *verifier.Reference) bool { return r.JudgesDeviation(d) })
}

// firstLayer is the most specific layer that judges something; nil where none does.
func (s *Service) firstLayer(versions []store.BaselineVersion, layers []verifier.VersionRef, judges func(*verifier.Reference) bool) (*store.BaselineVersion, error) {
	for _, ref := range layers {
		v := findVersion(versions, ref)
		if v == nil {
			continue
		}
		reference, err := s.compile(v)
		if err != nil {
			return nil, err
		}
		if judges(reference) {
			return v, nil
		}
	}
	return nil, nil
}

// keepClaims leaves of the deviations' claims those that the chosen baseline is judged by. A register and a claim that it
// carries may be of different layers.
func (s *Service) keepClaims(deviations []verifier.Deviation, chosen uuid.UUID, versions []store.BaselineVersion, layers []verifier.VersionRef) error {
	for i := range deviations {
		var kept []verifier.UnmetClaim
		for _, c := range deviations[i].Claims {
			v, err := s.firstLayer(versions, layers, func(r *verifier.Reference) bool { return r.JudgesClaim(c.Name) })
			if err != nil {
				return err
			}
			if v != nil && v.BaselineID == chosen {
				kept = append(kept, c)
			}
		}
		deviations[i].Claims = kept
	}
	return nil
}

// extend makes the reference values, and what changes by them.
func (p *Approval) extend(choice ApprovalChoice, judged *verifier.Appraisal) error {
	from := p.before
	var err error
	if choice.Scope == ScopeMachine {
		if from, err = baseline.Restrict(p.effective, p.Deviations); err != nil {
			return fmt.Errorf("approve an alert: %w", err)
		}
	}
	if p.Reference, err = (baseline.Extension{Replace: choice.Replace}).Extend(from, judged, p.Deviations); err != nil {
		return refused(err)
	}
	after, err := verifier.CompileReference(p.Reference)
	if err != nil {
		return refused(err)
	}
	before, err := verifier.CompileReference(cmpReference(p.before, from))
	if err != nil {
		return refused(err)
	}
	if choice.Scope == ScopeMachine && p.BaselineID != nil {
		own, err := verifier.CompileReference(p.before)
		if err != nil {
			return refused(err)
		}
		after = verifier.Merge(after, own)
		p.Reference, before = after.Values(), own
	}
	p.Changes = baseline.Diff(before, after)
	if len(p.Changes) == 0 {
		return errorf(CodeNotApprovable, "the evidence shows nothing that the baseline could allow: %s", p.Deviations[0].Description)
	}
	return nil
}

// cmpReference is what a new version is compared with: the version that it replaces, or for a baseline that is made what
// it was made out of.
func cmpReference(before, from verifier.ReferenceValues) verifier.ReferenceValues {
	if raw, _ := json.Marshal(before); bytes.Equal(raw, []byte("{}")) {
		return from
	}
	return before
}

func refused(err error) error {
	var field *verifier.FieldError
	if errors.As(err, &field) {
		return errorf(CodeNotApprovable, "the reference values that would come of it cannot be used: %s", field)
	}
	return fmt.Errorf("approve an alert: %w", err)
}

// remainingOfIMA is what IMA's list would fail by all the same. The stored evidence holds only the part of the list that
// was sent with it, so this is told by the verdict of then: what cannot be approved, what another baseline judges, what
// the verdict does not keep, and a list that was not judged at all.
func remainingOfIMA(p *Approval, then *verifier.Appraisal, deviations []verifier.Deviation) []string {
	if p.effective.IMA == nil {
		return nil
	}
	var out []string
	taken, files := slices.ContainsFunc(p.Deviations, isFile), 0
	for i := range deviations {
		d := &deviations[i]
		if !isFile(*d) {
			continue
		}
		files++
		switch {
		case !baseline.Approvable(d):
			out = append(out, d.Description+"; no digest in a baseline makes up for it")
		case !taken:
			out = append(out, d.Description)
		}
	}
	if then.Claims.IMA != nil && then.Claims.IMA.Unexpected > files {
		out = append(out, fmt.Sprintf("%d more entries of IMA's list, which the verdict does not name", then.Claims.IMA.Unexpected-files))
	}
	judged := false
	for i := range then.Checks {
		switch c := &then.Checks[i]; {
		case c.Code == verifier.CheckIMAReplay && c.Status == verifier.Fail, c.Code == verifier.CheckIMAPolicy && c.Status == verifier.Fail && files == 0:
			judged = true
			out = append(out, string(c.Code)+": "+c.Detail)
		case c.Code == verifier.CheckIMAPolicy && (c.Status == verifier.Pass || c.Status == verifier.Fail):
			judged = true
		}
	}
	if !judged {
		out = append(out, string(verifier.CheckIMAPolicy)+": the files that the machine measured have not been judged by these reference values; its next evidence is")
	}
	return out
}

// foresee judges the evidence as if the version were active already.
func (s *Service) foresee(p *Approval, again *judgedAgain, versions []store.BaselineVersion) error {
	next := store.BaselineVersion{Selector: p.Selector, State: baseline.StateActive, Reference: p.Reference, Version: p.BasedOn + 1}
	if p.BaselineID != nil {
		next.BaselineID = *p.BaselineID
	}
	layers := make([]baseline.Layer, 0, len(versions)+1)
	for _, v := range append([]store.BaselineVersion{next}, versions...) {
		if p.BaselineID != nil && v.BaselineID == *p.BaselineID && v.Version != next.Version {
			continue
		}
		reference, err := verifier.CompileReference(v.Reference)
		if err != nil {
			return refused(err)
		}
		layers = append(layers, baseline.Layer{ID: v.BaselineID.String(), Version: v.Version, State: v.State, Selector: v.Selector, Reference: reference})
	}
	for i := range again.stored.Withdrawn {
		p.Remaining = append(p.Remaining, again.stored.Withdrawn[i].String())
	}
	a := again.against(baseline.Effective(layers))
	for i := range a.Checks {
		switch c := &a.Checks[i]; {
		case c.Status != verifier.Fail:
		case c.Code == verifier.CheckIMAPolicy || c.Code == verifier.CheckIMAReplay: // its list is judged when it comes again
		case c.Code == verifier.CheckBaselineMatch:
			for j := range a.Deviations {
				p.Remaining = append(p.Remaining, a.Deviations[j].Description)
			}
		default:
			p.Remaining = append(p.Remaining, string(c.Code)+": "+c.Detail)
		}
	}
	return nil
}

// ApproveAlert makes a version that allows what an alert is about, as PreviewApproval shows it. Under the two-person rule it
// is a draft that a second principal has to approve. The error is an *Error, or one of store.ApproveAlert.
func (s *Service) ApproveAlert(ctx context.Context, tenant, alertID uuid.UUID, r ApprovalRequest, actor store.Actor) (*Approval, store.BaselineVersion, error) {
	var none store.BaselineVersion
	p, err := s.PreviewApproval(ctx, tenant, alertID, r.ApprovalChoice)
	if err != nil {
		return nil, none, err
	}
	if r.VerdictID != nil && *r.VerdictID != p.VerdictID {
		return nil, none, &store.VersionChangedError{What: fmt.Sprintf("the machine has attested otherwise since: the alert is of verdict %s now", p.VerdictID)}
	}
	if r.BasedOn != nil && *r.BasedOn != p.BasedOn {
		return nil, none, &store.VersionChangedError{What: fmt.Sprintf("the baseline has changed since: version %d is active now, and not %d", p.BasedOn, *r.BasedOn)}
	}
	provenance, err := json.Marshal(map[string]string{"machine_id": p.Alert.MachineID.String(), "verdict_id": p.VerdictID.String(), "alert_id": p.Alert.ID.String()})
	if err != nil {
		return nil, none, fmt.Errorf("approve an alert: %w", err)
	}
	now := s.now()
	if p.BaselineID == nil { // names are unique, and what was approved and retired keeps its own
		p.Name += ", " + now.UTC().Format(time.RFC3339Nano)
	}
	v, err := s.store.ApproveAlert(ctx, tenant, store.AlertApproval{
		Decision:   store.Decision{AlertID: alertID, VerdictID: p.VerdictID, DeviationDigest: p.digest[:], Comment: r.Comment},
		Force:      r.Force,
		BaselineID: p.BaselineID, BasedOn: p.BasedOn, Name: p.Name, Selector: p.Selector,
		Version:  store.BaselineVersion{Reference: p.Reference, Provenance: provenance},
		Activate: r.Activate, Grace: r.Grace,
	}, now, actor)
	return p, v, err
}

// RefuseAlert records that what an alert is about is not to be allowed. It needs no evidence: what is not genuine can be
// refused too.
func (s *Service) RefuseAlert(ctx context.Context, tenant, alertID uuid.UUID, comment string, verdictID *uuid.UUID, actor store.Actor) error {
	alert, err := s.store.GetAlert(ctx, tenant, alertID, s.now())
	if err != nil {
		return fromStore("refuse an alert", err)
	}
	if alert.Code != "attestation_failed" {
		return errorf(CodeNotApprovable, "only alerts attestation_failed are approved or refused; this one is %s", alert.Code)
	}
	var digest [32]byte
	p, err := s.PreviewApproval(ctx, tenant, alertID, ApprovalChoice{Scope: ScopeMachine})
	var cannot *Error
	switch {
	case err == nil:
		digest = p.digest
	case errors.As(err, &cannot):
		digest = sha256.Sum256(alertID[:]) // nothing that another alert could be about
	default:
		return err
	}
	seen := alert.VerdictID
	if verdictID != nil {
		seen = *verdictID
	}
	return s.store.RefuseAlert(ctx, tenant, store.Decision{AlertID: alertID, VerdictID: seen, DeviationDigest: digest[:], Comment: comment}, s.now(), actor)
}
