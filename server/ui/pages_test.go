package ui_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/ui"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/finding"
)

// contains checks that a page says everything of want.
func contains(t *testing.T, path, page string, want ...string) {
	t.Helper()
	for _, text := range want {
		if !strings.Contains(page, text) {
			t.Errorf("%s does not say %q", path, text)
		}
	}
}

func TestPagesSayWhatIsKnown(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	c := signIn(t, site, f.reader)
	machine := func(name string) string { return "/ui/machines/" + f.machines[name].String() }
	verdict := func(name string) string { return "/ui/verdicts/" + f.verdicts[name].String() }
	for path, want := range map[string][]string{
		"/ui/":             {"8 machines by status", "Affirming", "Contraindicated", "Not attested", "Origin unverified", "Baseline deviation", "1 more is suppressed", "Oldest attestation"},
		"/ui/machines":     {"web-1", "build-7", "Confidential (TDX)", "Google Cloud", "EK activated"},
		machine("web-3"):   {"Verdict history", "Attestation failed", "Guest attestation status should be healthy", "Unhealthy", "env=prod", "/ui/verdicts/" + f.verdicts["web-3"].String()},
		machine("build-7"): {"never attested", "Guest attestation agent", "How to remediate"},
		verdict("web-3"):   {"Contraindicated: Baseline deviation", "Chain of origin", "mitigations=off", "Kernel command line", "quote.signature", "TPM 2.0 Part", "Boot log", "EV_IPL", "/ui/baselines/" + f.baseline.BaselineID.String() + "/versions/1"},
		verdict("web-1"):   {"Affirming", "booted what its baseline expects", "Secure Boot effective", "Unknown from this evidence"},
		verdict("db-1"):    {"Contraindicated: Origin unverified", "Nothing vouches for it"},
		machine("cvm-1"):   {"Azure HCL report", "0f8fad5b-d9cb-469f-a165-70867728950e", "acme-prod", "europe-west4-a", "proven by the AK certificate", "TCB"},
		verdict("cvm-1"): {"TEE bound", "Confidential VM", "AMD SEV-SNP", "AMD EPYC Genoa", "Launch measurement", "bootloader 4, tee 2, snp 24, microcode 219", "VMPL",
			"VM id", "Debugging allowed", "Serial console enabled, as the paravisor says", "ARK-Genoa", "Not checked for want of collateral", "no CRL of ARK-Genoa is held",
			"The host cannot debug the guest", "The report is of the certificate&#39;s chip", "For relying parties", "Boot and TPM"},
		"/ui/alerts":                      {"web-3", "db-1", "Medium", "Active"},
		"/ui/recommendations":             {"build-7", "build-8", "Secure Boot should be enabled", "remediate"},
		"/ui/baselines":                   {"debian-12 web", "platform azure or gcp or vmware", "version 1", "Captured"},
		"/ui/catalog":                     {"Secure Boot should not rest on test keys", "Confidential VMs", "test_platform_keys", "/ui/recommendations?code=secure_boot_enabled", "/ui/alerts?code=attestation_failed"},
		"/ui/catalog/secure_boot_enabled": {"When it is raised", "Why it matters", "gcloud compute instances update", "UEFI Specification 2.10", "claims.secure_boot", "Active recommendations"},
		"/ui/catalog/attestation_failed":  {"Open alerts", "RFC 9334"},
		"/ui/suppressions":                {"legacy driver needs Secure Boot off", "agreed with the platform team", "scale set is legacy", "Enabled", "no end"},
		"/ui/verdicts":                    {"web-1", "db-1"},
		"/ui/audit":                       {"verdict.change", "machine:" + f.machines["web-3"].String(), "assay audit verify", "No checkpoint was made yet", "Details"},
		"/ui/verdicts?machine=" + f.machines["web-3"].String():            {"Verdicts of web-3", "Affirming", "Contraindicated"},
		"/ui/baselines/" + f.baseline.BaselineID.String():                 {"Version 1", "Active", "baselines promote"},
		"/ui/baselines/" + f.baseline.BaselineID.String() + "/versions/1": {"acme/images", "4f2a9c1", "PCR values", "Secure Boot", "required", "Made by a pipeline, verified", "repo:acme/images:ref:refs/heads/main", "release images", "99381"},
	} {
		res, page := get(t, c, site.URL+path)
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, res.Status)
		}
		contains(t, path, page, want...)
		contains(t, path, page, `<html lang="en">`, "<main", "<nav", "<h1>", `href="#content"`)
	}
	_, page := get(t, c, site.URL+machine("web-3"))
	if !regexp.MustCompile(`<time datetime="2026-03-14T09:16:53Z" title="2026-03-14T09:16:53Z">10 min ago</time>`).MatchString(page) {
		t.Error("times are not relative with the exact one in reach")
	}
}

func TestFilters(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	c := signIn(t, site, f.reader)
	for path, want := range map[string]struct{ shown, hidden string }{
		"/ui/machines?name=web-1":                      {"web-1", "web-2"},
		"/ui/machines?scale_set=legacy":                {"legacy-1", "web-1"},
		"/ui/machines?status=contraindicated":          {"web-3", "web-1"},
		"/ui/machines?platform=gcp":                    {"db-1", "web-1"},
		"/ui/machines?os=windows":                      {"build-7", "web-1"},
		"/ui/machines?label=region=eu-west":            {"web-1", "web-2"},
		"/ui/machines?security_type=confidential_tdx":  {"build-7", "build-8"},
		"/ui/machines?name=nobody":                     {"No machine fits the filter", "web-1"},
		"/ui/alerts?reason=origin_unverified":          {"db-1", "web-3"},
		"/ui/alerts?scale_set=web":                     {"web-3", "db-1"},
		"/ui/alerts?status=resolved":                   {"No alert fits", "db-1"},
		"/ui/alerts?severity=high":                     {"No alert fits", "db-1"},
		"/ui/recommendations?code=secure_boot_enabled": {"build-8", "build-7"},
		"/ui/recommendations?status=exempt":            {"No recommendation fits", "build-7"},
		"/ui/verdicts?reason=origin_unverified":        {"db-1", "web-1"},
		"/ui/verdicts?status=affirming":                {"web-1", "db-1"},
	} {
		res, page := get(t, c, site.URL+path)
		if res.StatusCode != http.StatusOK || !strings.Contains(page, want.shown) || strings.Contains(page, ">"+want.hidden+"<") {
			t.Errorf("%s: %s; shows %q: %v, hides %q: %v", path, res.Status, want.shown, strings.Contains(page, want.shown), want.hidden, !strings.Contains(page, ">"+want.hidden+"<"))
		}
	}
	log := site.URL + "/ui/verdicts/" + f.verdicts["web-3"].String()
	rows := func(query string) int {
		_, page := get(t, c, log+query)
		_, table, _ := strings.Cut(page, `<table class="log">`)
		return strings.Count(table, "<code class=\"digest\"")
	}
	all, pcr8, changed, verified, unverified := rows(""), rows("?pcr=8"), rows("?show=changed"), rows("?show=verified"), rows("?show=unverified")
	if all < 40 || pcr8 == 0 || pcr8 >= all || changed != 3 || verified == 0 || verified+unverified != all || rows("?pcr=23") != 0 || rows("?from=500") != 0 {
		t.Errorf("rows: %d all, %d of PCR 8, %d changed, %d verified, %d not", all, pcr8, changed, verified, unverified)
	}
}

func TestErrorPages(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	c := signIn(t, site, f.reader)
	for path, want := range map[string]int{
		"/ui/nothing": 404, "/ui/machines/x": 404, "/ui/machines/" + uuid.NewString(): 404, "/ui/verdicts/" + uuid.NewString(): 404,
		"/ui/alerts/" + uuid.NewString(): 404, "/ui/baselines/" + uuid.NewString(): 404, "/ui/verdicts?machine=" + uuid.NewString(): 404,
		"/ui/baselines/" + f.baseline.BaselineID.String() + "/versions/9": 404, "/ui/baselines/" + f.baseline.BaselineID.String() + "/versions/x": 404,
		"/ui/machines?cursor=broken": 400, "/ui/alerts?machine=x": 400, "/ui/machines?name=" + strings.Repeat("x", 300): 400,
		"/ui/verdicts/" + f.verdicts["web-1"].String() + "?from=-1": 400,
	} {
		res, page := get(t, c, site.URL+path)
		if res.StatusCode != want || !strings.Contains(page, "Go to the overview") {
			t.Errorf("%s: %s, want %d", path, res.Status, want)
		}
	}
}

func TestEmptyPagesSayWhatToDo(t *testing.T) {
	f := emptyFleet(t)
	site := f.site(t)
	c := signIn(t, site, f.admin)
	for path, want := range map[string]string{
		"/ui/": "assay-agent enroll --server " + site.URL, "/ui/machines": "assay-agent enroll --server " + site.URL, "/ui/alerts": "No active alert",
		"/ui/recommendations": "No active recommendation", "/ui/baselines": "baselines capture --machine NAME", "/ui/suppressions": "/v1/suppression-rules", "/ui/verdicts": "No verdict yet",
	} {
		_, page := get(t, c, site.URL+path)
		contains(t, path, page, want)
	}
}

// TestPaging: every machine is on exactly one page.
func TestPaging(t *testing.T) {
	f := emptyFleet(t)
	var inputs []store.MachineInput
	for i := range 120 {
		inputs = append(inputs, store.MachineInput{ExternalID: fmt.Sprint("x", i), Name: fmt.Sprintf("node-%03d", i), OS: "linux", Platform: "qemu", SecurityType: "standard"})
	}
	_, err := db.UpsertMachines(context.Background(), f.tenant, inputs, func(store.Machine) finding.Result { return finding.Result{} }, f.now, lead)
	must(t, err)
	site := f.site(t)
	c := signIn(t, site, f.reader)
	seen := map[string]int{}
	next := "/ui/machines"
	for pages := 0; next != "" && pages < 5; pages++ {
		_, page := get(t, c, site.URL+next)
		for _, m := range regexp.MustCompile(`>(node-\d+)<`).FindAllStringSubmatch(page, -1) {
			seen[m[1]]++
		}
		next = ""
		if m := regexp.MustCompile(`href="([^"]+)" rel="next"`).FindStringSubmatch(page); m != nil {
			next = strings.ReplaceAll(m[1], "&amp;", "&")
		}
	}
	if len(seen) != 120 {
		t.Errorf("%d of 120 machines are shown", len(seen))
	}
	for name, n := range seen {
		if n != 1 {
			t.Errorf("%s is shown %d times", name, n)
		}
	}
}

// hostileText is what a machine could call itself: markup, script, quotes, template code, control
// characters, and controls that turn the direction of text around.
const hostileText = "<script>document.title='owned'</script>\"'`{{.}}--><img src=x onerror=\"document.title='owned'\">\u202egpj.exe\u2066\x1b[2J\x07\u200b"

// hostileFleet holds one machine all of whose texts are hostile, its verdict, alert and baseline included.
func hostileFleet(t testing.TB) (*fleet, http.Handler) {
	t.Helper()
	ctx := context.Background()
	f := emptyFleet(t)
	machines, err := db.UpsertMachines(ctx, f.tenant, []store.MachineInput{{ExternalID: hostileText, Name: hostileText, OS: "linux", Platform: "other",
		SecurityType: "standard", ScaleSet: hostileText, Labels: map[string]string{hostileText: hostileText}}},
		func(store.Machine) finding.Result {
			return finding.Result{EvaluatedRecommendations: []string{"secure_boot_enabled"}, Recommendations: []finding.Recommendation{{Code: "secure_boot_enabled",
				DisplayName: hostileText, Severity: "low", Description: hostileText, RemediationSteps: []string{hostileText}}}}
		}, f.now, lead)
	must(t, err)
	f.machines["hostile"] = machines[0].ID
	key, err := db.AddAttestationKey(ctx, f.tenant, machines[0].ID, store.AttestationKey{Public: []byte{1}, Name: []byte(uuid.NewString()), Assurance: verifier.FirstUse}, f.now, lead)
	must(t, err)
	text := hostileText
	sum := sha256.Sum256([]byte(text))
	done, err := db.RecordAppraisal(ctx, f.tenant, store.AppraisalRecord{
		MachineID: machines[0].ID, KeyID: key.ID, ReceivedAt: f.now, NextDueAt: f.now, ChallengeKey: []byte{1}, Fingerprint: sum, Actor: lead, EvidenceType: "application/json", Evidence: []byte("{}"),
		Appraisal: &verifier.Appraisal{Status: verifier.Contraindicated, Reason: verifier.BaselineDeviation, Assurance: verifier.FirstUse,
			Checks:     []verifier.Check{{Code: verifier.CheckBaselineMatch, Status: verifier.Fail, Detail: text, Citation: text}, {Code: verifier.CheckCode(text), Status: "odd"}},
			Deviations: []verifier.Deviation{{PCR: 8, Kind: verifier.Changed, Component: eventlog.Component(text), Description: text, EventType: text, Expected: []string{text}, Actual: text}},
			Claims:     verifier.Claims{Claims: &eventlog.Claims{KernelCmdline: &text, GRUBCommands: []string{text}, BootEntries: []eventlog.BootEntry{{Name: text, Description: text, Path: text}}}},
		},
		Findings: finding.Result{EvaluatedAlerts: []string{"attestation_failed"}, Alerts: []finding.Alert{{Code: "attestation_failed", DisplayName: text, Severity: "medium", Reason: verifier.BaselineDeviation, Description: text, RemediationSteps: []string{text}}},
			Assessments: []finding.Assessment{{Code: "guest_attestation_healthy", DisplayName: text, Severity: "medium", Status: finding.Unhealthy, Cause: text, Description: text}}},
	})
	must(t, err)
	f.verdicts["hostile"] = done.VerdictID
	alerts, _, err := db.ListAlerts(ctx, f.tenant, store.AlertFilter{}, store.Page{}, f.now)
	must(t, err)
	f.alerts["hostile"] = alerts[0]
	said, err := json.Marshal(map[string]any{"issuer": text, "subject": text, "rule": text, "claims": map[string]string{text: text}})
	must(t, err)
	hostile := store.Actor{Kind: "pipeline", ID: text, Identity: said}
	f.baseline, err = db.CreateBaseline(ctx, f.tenant, text, verifier.Selector{Labels: map[string]string{text: text}}, store.BaselineVersion{Origin: "registered", State: "active", CreatedBy: text,
		Provenance: []byte(`{"repository": "<script>document.title='owned'</script>\u202e", "imported": {"format": "<script>document.title='owned'</script>\u202e", "sha256": "<img src=x>",
			"signer": {"subject": "<script>document.title='owned'</script>\u202e"}, "provenance": {"<img src=x>\u202e": "<img src=x>"}, "notes": ["<img src=x>\u202e"]}}`), Reference: verifier.ReferenceValues{Events: []verifier.ReferenceEvent{{PCR: 8, Description: text, Component: text, Type: text, Digests: map[string][]string{"sha256": {strings.Repeat("ab", 32)}}}}}}, f.now, hostile)
	must(t, err)
	f.rule, err = db.CreateSuppressionRule(ctx, f.tenant, store.SuppressionRule{AlertCode: "*", Reason: text, Comment: text, State: "disabled",
		Scope: store.SuppressionScope{AllOf: []store.SuppressionCondition{{Field: "machine.name", Contains: text}}}}, f.now, lead)
	must(t, err)
	handler, err := ui.New(ui.Config{May: server.RoleMay, Store: db, Authenticate: authenticate(f.clock), Now: f.clock, Version: "1.2.3",
		EventLog: func(context.Context, uuid.UUID, uuid.UUID) ([]attest.DecodedEvent, error) {
			return []attest.DecodedEvent{{Index: 1, PCR: 8, Type: text, Description: text, Component: eventlog.Component(text), Digests: map[string]string{text: text, "sha256": text}}}, nil
		}})
	must(t, err)
	return f, handler
}

func (f *fleet) hostilePaths() []string {
	b := "/ui/baselines/" + f.baseline.BaselineID.String()
	return []string{"/ui/", "/ui/machines", "/ui/verdicts", "/ui/alerts", "/ui/recommendations", "/ui/baselines", b, b + "/versions/1", "/ui/suppressions",
		"/ui/machines/" + f.machines["hostile"].String(), "/ui/verdicts/" + f.verdicts["hostile"].String(), "/ui/alerts/" + f.alerts["hostile"].ID.String(),
		"/ui/verdicts?machine=" + f.machines["hostile"].String()}
}

func TestHostileText(t *testing.T) {
	f, handler := hostileFleet(t)
	site := httptest.NewServer(handler)
	defer site.Close()
	c := signIn(t, site, f.admin)
	for _, path := range f.hostilePaths() {
		res, page := get(t, c, site.URL+path)
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, res.Status)
		}
		if strings.Contains(page, "<script>document") || strings.Contains(page, "<img src=x") {
			t.Errorf("%s: markup of a machine's text is live", path)
		}
		if strings.ContainsAny(page, "\u202e\u2066\u200b\x1b\x07") {
			t.Errorf("%s: hidden characters reach the page", path)
		}
		if !strings.Contains(page, "⟨U+202E⟩") && path != "/ui/verdicts" {
			t.Errorf("%s: does not show the text at all", path)
		}
	}
}
