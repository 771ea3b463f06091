package ui

import (
	"encoding/json"
	"net/http"
	"sort"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

type baselineRow struct {
	store.Baseline
	Scope  string
	Active []int // versions that machines are judged by now
	Newest *store.BaselineVersion
}

type baselinesView struct {
	Items  []baselineRow
	Paging paging
}

func (h *handler) baselines(w http.ResponseWriter, r *http.Request, s session) error {
	var f store.BaselineFilter
	if err := filterValues(r, map[string]*string{"q": &f.NamePrefix, "state": &f.State}); err != nil {
		return err
	}
	items, next, err := h.Store.ListBaselines(r.Context(), s.Tenant, f, pageOf(r))
	if err != nil {
		return err
	}
	view := baselinesView{Paging: pagingOf(r, next)}
	view.Paging.Export = h.exportLink("baselines", "q", f.NamePrefix, "state", f.State, "sort", pageOf(r).Sort)
	for _, b := range items {
		view.Items = append(view.Items, rowOf(b))
	}
	h.render(w, r, s, http.StatusOK, "baselines", "Baselines", view)
	return nil
}

func rowOf(b store.Baseline) baselineRow {
	row := baselineRow{Baseline: b, Scope: scopeOf(b.Selector)}
	for i, v := range b.Versions {
		if v.State == "active" || v.State == "grace" {
			row.Active = append(row.Active, v.Version)
		}
		if i == 0 {
			row.Newest = &b.Versions[0]
		}
	}
	return row
}

func (h *handler) baseline(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	b, err := h.Store.GetBaseline(r.Context(), s.Tenant, id)
	if err != nil {
		return err
	}
	view := baselineView{baselineRow: rowOf(b)}
	if view.Rollout, err = h.Store.GetRollout(r.Context(), s.Tenant, id, h.now()); err != nil {
		return err
	}
	var next string
	if view.Unmoved, next, err = h.Store.ListUnmoved(r.Context(), s.Tenant, id, pageOf(r), h.now()); err != nil {
		return err
	}
	view.Paging = pagingOf(r, next)
	h.render(w, r, s, http.StatusOK, "baseline", b.Name, view)
	return nil
}

// baselineView is a baseline with how far its machines have moved.
type baselineView struct {
	baselineRow
	Rollout store.Rollout
	Unmoved []store.RolloutMachine
	Paging  paging
}

// Share is the share of the machines that have moved, for the bar; Figure the same in words.
func (v baselineView) Share() float64 { return v.Rollout.Percent(v.Rollout.Moved) }
func (v baselineView) Figure() string { return strconv.FormatFloat(v.Share(), 'f', 1, 64) }

// referencePCR is one PCR of a version with its acceptable values.
type referencePCR struct {
	Bank   string
	Index  int
	Values []string
}

// referenceText is a claim with its rule, or a name with digests, as text.
type referenceText struct{ Name, Text string }

type baselineVersionView struct {
	store.BaselineVersion
	PCRs       []referencePCR
	Events     []verifier.ReferenceEvent
	MoreEvents int
	Claims     []referenceText
	Provenance []referenceText
	Imported   []referenceText // of the document that it was imported from
	Verified   []referenceText // what the identity token of the pipeline said that made it
	IMAFiles   int
	CanTry     bool
	Diff       *attest.VersionDiff // nil where there is nothing to compare with
	Done       string
	// Own: the reader's token made it, so that another's has to approve it.
	Own                               bool
	MayPromote, MayApprove, MayRetire bool
}

func (h *handler) baselineVersion(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil || n < 1 {
		return errNoPage
	}
	v, err := h.Store.GetBaselineVersion(r.Context(), s.Tenant, id, n)
	if err != nil {
		return err
	}
	view := baselineVersionView{BaselineVersion: v, Events: v.Reference.Events, CanTry: h.DryRun != nil}
	if len(view.Events) > eventsPerPage {
		view.MoreEvents = len(view.Events) - eventsPerPage
		view.Events = view.Events[:eventsPerPage]
	}
	for bank, values := range v.Reference.PCRs {
		for index, digests := range values {
			i, err := strconv.Atoi(index)
			if err != nil {
				continue // CompileReference refuses such an index before it is stored
			}
			view.PCRs = append(view.PCRs, referencePCR{bank, i, digests})
		}
	}
	sort.Slice(view.PCRs, func(i, j int) bool {
		a, b := view.PCRs[i], view.PCRs[j]
		return a.Index < b.Index || (a.Index == b.Index && a.Bank < b.Bank)
	})
	view.Claims = texts(v.Reference.Claims)
	var provenance map[string]json.RawMessage
	if len(v.Provenance) > 0 && json.Unmarshal(v.Provenance, &provenance) == nil {
		view.Imported = importedTexts(provenance["imported"])
		delete(provenance, "imported")
		view.Verified = verifiedTexts(provenance["verified"])
		delete(provenance, "verified")
		view.Provenance = texts(provenance)
	}
	if v.Reference.IMA != nil {
		view.IMAFiles = len(v.Reference.IMA.Allow)
	}
	if err := h.versionLife(r, s, &view); err != nil {
		return err
	}
	h.render(w, r, s, http.StatusOK, "baseline-version", v.Name+", version "+strconv.Itoa(n), view)
	return nil
}

// verifiedTexts lists who made a version, as the store recorded it of a verified token: issuer and subject first, then
// the claims. Empty where it was no pipeline.
func verifiedTexts(raw json.RawMessage) []referenceText {
	var v struct {
		Provider, Issuer, Subject, Rule string
		Claims                          map[string]json.RawMessage
	}
	if len(raw) == 0 || json.Unmarshal(raw, &v) != nil {
		return nil
	}
	out := []referenceText{{"issuer", v.Issuer}, {"subject", v.Subject}, {"pipeline rule", v.Rule}}
	return append(out, texts(v.Claims)...)
}

// texts sorts JSON values by name; plain strings lose their quotes.
func texts(values map[string]json.RawMessage) []referenceText {
	out := make([]referenceText, 0, len(values))
	for name, raw := range values {
		text := string(raw)
		var plain string
		if json.Unmarshal(raw, &plain) == nil {
			text = plain
		}
		if text != "" && text != "null" {
			out = append(out, referenceText{name, text})
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}

// importedTexts says which document a version was imported from; nil where it was not.
func importedTexts(raw json.RawMessage) []referenceText {
	var document struct {
		Format string `json:"format"`
		SHA256 string `json:"sha256"`
		Signer *struct {
			Subject   string `json:"subject"`
			KeySHA256 string `json:"key_sha256"`
		} `json:"signer"`
		Provenance map[string]json.RawMessage `json:"provenance"`
		Notes      []string                   `json:"notes"`
	}
	if len(raw) == 0 || json.Unmarshal(raw, &document) != nil {
		return nil
	}
	out := []referenceText{{"imported from", document.Format}, {"document SHA-256", document.SHA256}}
	if s := document.Signer; s != nil {
		out = append(out, referenceText{"signed by", s.Subject + ", key " + s.KeySHA256})
	} else {
		out = append(out, referenceText{"signed by", "nobody: the importer vouched for it"})
	}
	out = append(out, texts(document.Provenance)...)
	for _, note := range document.Notes {
		out = append(out, referenceText{"note", note})
	}
	return out
}

// scopeOf says a selector in words.
func scopeOf(s verifier.Selector) string {
	var parts []string
	if len(s.ScaleSet) > 0 {
		parts = append(parts, "scale set "+strings.Join(s.ScaleSet, " or "))
	}
	if len(s.Platform) > 0 {
		parts = append(parts, "platform "+strings.Join(s.Platform, " or "))
	}
	keys := make([]string, 0, len(s.Labels))
	for k := range s.Labels {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		parts = append(parts, k+"="+s.Labels[k])
	}
	switch n := len(s.MachineIDs); {
	case n == 1:
		parts = append(parts, "one machine")
	case n > 1:
		parts = append(parts, strconv.Itoa(n)+" named machines")
	}
	if len(parts) == 0 {
		return "every machine"
	}
	return strings.Join(parts, ", ")
}
