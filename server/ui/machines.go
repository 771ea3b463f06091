package ui

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

type machinesView struct {
	Items         []store.Machine
	Filter        store.MachineFilter
	Statuses      []choice
	Platforms     []choice
	SecurityTypes []choice
	Systems       []choice
	Stale         []choice
	Filtered      bool
	Paging        paging
	Sort          map[string]sortLink
	SortName      string
}

func (h *handler) machines(w http.ResponseWriter, r *http.Request, s session) error {
	var f store.MachineFilter
	if err := filterValues(r, map[string]*string{
		"name": &f.Name, "q": &f.NamePrefix, "scale_set": &f.ScaleSet, "platform": &f.Platform, "os": &f.OS,
		"security_type": &f.SecurityType, "label": &f.Label, "status": &f.Status,
	}); err != nil {
		return err
	}
	stale, err := filterValue(r, "stale")
	if err != nil {
		return err
	}
	if stale != "" {
		is, err := strconv.ParseBool(stale)
		if err != nil {
			return errBadFilter
		}
		f.Stale = &is
	}
	if f.SilenceAlert, err = queryID(r, "silence_alert_id"); err != nil {
		return err
	}
	items, next, err := h.Store.ListMachines(r.Context(), s.Tenant, f, pageOf(r))
	if err != nil {
		return err
	}
	page := pagingOf(r, next)
	page.Export = h.exportLink("machines", "name", f.Name, "q", f.NamePrefix, "scale_set", f.ScaleSet, "platform", f.Platform, "os", f.OS,
		"security_type", f.SecurityType, "label", f.Label, "status", f.Status, "sort", pageOf(r).Sort)
	h.render(w, r, s, http.StatusOK, "machines", "Machines", machinesView{
		Items: items, Filter: f, SortName: pageOf(r).Sort,
		Sort:          sortLinks(r, "-id", "name", "Name", "status", "Status", "scale_set", "Scale set", "platform", "Platform", "last_seen_at", "Last seen"),
		Statuses:      choices("Any status", f.Status, anyText(statusWord), "affirming", "warning", "contraindicated", "none"),
		Platforms:     choices("Any platform", f.Platform, platformName, "azure", "gcp", "aws", "vmware", "qemu", "physical", "other"),
		SecurityTypes: choices("Any security type", f.SecurityType, securityTypeName, "confidential_snp", "confidential_tdx", "trusted_launch", "standard", "physical"),
		Systems:       choices("Any system", f.OS, platformName, "linux", "windows"),
		Stale:         choices("Heard or silent", stale, anyText(silenceWord), "true", "false"),
		Filtered:      filtered(r) || f.Status != "",
		Paging:        page,
	})
	return nil
}

// silenceWord is a value of the filter stale in words.
func silenceWord(v any) string {
	if v == "true" {
		return "Silent past the deadline"
	}
	return "Heard in time"
}

// postureRow is one security feature: what attestation proved, else what the inventory says.
type postureRow struct {
	Label  string
	Value  string // yes, no, unknown
	Source string
	Differ bool // the inventory says otherwise
}

type machineView struct {
	store.Machine
	Posture         []postureRow
	Assessments     []store.Assessment
	Recommendations []store.Recommendation
	Alerts          []store.Alert
	Verdicts        []store.Verdict
	MoreVerdicts    bool
	Latest          *store.Verdict
	Cloud           *tpm.Instance // that the AK certificate proves
}

func (h *handler) machine(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	ctx, now := r.Context(), h.now()
	view := machineView{}
	if view.Machine, err = h.Store.GetMachine(ctx, s.Tenant, id); err != nil {
		return err
	}
	if len(view.Instance) > 0 {
		if err := json.Unmarshal(view.Instance, &view.Cloud); err != nil {
			return fmt.Errorf("instance of machine %s: %w", id, err)
		}
	}
	view.Posture = posture(view.Declared, view.Observed)
	if view.Assessments, _, err = h.Store.ListAssessments(ctx, s.Tenant, store.AssessmentFilter{MachineID: &id}, store.Page{Limit: 100}); err != nil {
		return err
	}
	if view.Recommendations, _, err = h.Store.ListRecommendations(ctx, s.Tenant, store.RecommendationFilter{MachineID: &id, Status: "active"}, store.Page{Limit: 100}, now); err != nil {
		return err
	}
	if view.Alerts, _, err = h.Store.ListAlerts(ctx, s.Tenant, store.AlertFilter{MachineID: &id, IncludeSuppressed: true}, store.Page{Limit: 20}, now); err != nil {
		return err
	}
	var next string
	if view.Verdicts, next, err = h.Store.ListVerdicts(ctx, s.Tenant, store.VerdictFilter{MachineID: &id}, store.Page{Limit: 15}); err != nil {
		return err
	}
	view.MoreVerdicts = next != ""
	for i := range view.Verdicts {
		if view.LastVerdict != nil && view.Verdicts[i].ID == *view.LastVerdict {
			view.Latest = &view.Verdicts[i]
		}
	}
	h.render(w, r, s, http.StatusOK, "machine", view.Name, view)
	return nil
}

func posture(declared, observed finding.Posture) []postureRow {
	row := func(label string, declared, observed *bool) postureRow {
		switch {
		case observed != nil:
			return postureRow{label, yesNo(*observed), "attested", declared != nil && *declared != *observed}
		case declared != nil:
			return postureRow{label, yesNo(*declared), "inventory", false}
		}
		return postureRow{label, "unknown", "", false}
	}
	return []postureRow{
		row("Secure Boot supported", declared.SecureBootSupported, observed.SecureBootSupported),
		row("Secure Boot on", declared.SecureBoot, observed.SecureBoot),
		row("vTPM on", declared.VTPM, observed.VTPM),
		row("Attestation agent", declared.AgentInstalled, observed.AgentInstalled),
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

type verdictsView struct {
	Items    []store.Verdict
	Machine  *store.Machine
	Statuses []choice
	Reasons  []choice
	Filtered bool
	Paging   paging
	Sort     map[string]sortLink
	SortName string

	Since, Until, ScaleSet string
}

// verdicts is the history of one machine, or of the fleet.
func (h *handler) verdicts(w http.ResponseWriter, r *http.Request, s session) error {
	var f store.VerdictFilter
	err := filterValues(r, map[string]*string{"status": &f.Status, "reason": &f.Reason, "scale_set": &f.ScaleSet})
	if err != nil {
		return err
	}
	if f.MachineID, err = queryID(r, "machine"); err != nil {
		return err
	}
	var since, until string
	if f.Since, since, err = queryDay(r, "since"); err != nil {
		return err
	}
	if f.Until, until, err = queryDay(r, "until"); err != nil {
		return err
	}
	view := verdictsView{
		Since: since, Until: until, ScaleSet: f.ScaleSet, SortName: pageOf(r).Sort,
		Sort:     sortLinks(r, "-id", "status", "Verdict", "first_at", "First"),
		Statuses: choices("Any status", f.Status, anyText(statusWord), "affirming", "warning", "contraindicated", "none"),
		Reasons:  choices("Any reason", f.Reason, anyText(reasonWord), string(verifier.OriginUnverified), string(verifier.BaselineDeviation)),
		Filtered: filtered(r) || f.Status != "",
	}
	title := "Verdicts"
	if f.MachineID != nil {
		m, err := h.Store.GetMachine(r.Context(), s.Tenant, *f.MachineID)
		if err != nil {
			return err
		}
		view.Machine, title = &m, "Verdicts of "+m.Name
	}
	items, next, err := h.Store.ListVerdicts(r.Context(), s.Tenant, f, pageOf(r))
	if err != nil {
		return err
	}
	view.Items, view.Paging = items, pagingOf(r, next)
	view.Paging.Export = h.exportLink("verdicts", "status", f.Status, "reason", f.Reason, "machine_id", idText(f.MachineID), "scale_set", f.ScaleSet,
		"since", dayText(f.Since), "until", dayText(f.Until), "sort", pageOf(r).Sort)
	h.render(w, r, s, http.StatusOK, "verdicts", title, view)
	return nil
}

var platformNames = map[string]string{
	"azure": "Azure", "gcp": "Google Cloud", "aws": "AWS", "vmware": "VMware", "qemu": "QEMU", "physical": "Physical",
	"other": "Other", "linux": "Linux", "windows": "Windows",
}

func platformName(s string) string {
	if n, ok := platformNames[s]; ok {
		return n
	}
	return words(s)
}

var securityTypeNames = map[string]string{
	"confidential_snp": "Confidential (SEV-SNP)", "confidential_tdx": "Confidential (TDX)", "trusted_launch": "Trusted launch",
	"standard": "Standard", "physical": "Physical",
}

// evidenceName is a type of hardware evidence in words.
func evidenceName(s string) string {
	switch s {
	case tee.TypeAzureHCL:
		return "Azure HCL report"
	case tee.TypeSEVSNP:
		return "SEV-SNP report"
	case tee.TypeTDX:
		return "TD quote"
	}
	return words(s)
}

func securityTypeName(s string) string {
	if n, ok := securityTypeNames[s]; ok {
		return n
	}
	return words(s)
}
