package ui_test

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tee/teetest"
	"github.com/assay-verifier/assay/verifier/tpm"
)

const boots = "../../integration/testdata/boots"

// fleet is a tenant with machines that were judged on real captured boots, through the store's methods.
type fleet struct {
	tenant   uuid.UUID
	now      time.Time
	machines map[string]uuid.UUID
	verdicts map[string]uuid.UUID // by machine: the latest
	alerts   map[string]store.Alert
	incident uuid.UUID // that of web-3's alert
	baseline store.BaselineVersion
	rule     store.SuppressionRule
	admin    string // tokens
	reader   string

	hardware map[string]*tee.Evidence // by machine: its hardware report
	silicon  tee.Trust                // what it is proven with

	measured map[[32]byte]*eventlog.Measurements // what the quotes prove of each log
}

var lead = store.Actor{Kind: "admin", ID: "test"}

// pipeline is one whose identity token was verified.
var pipeline = store.Actor{Kind: "pipeline", ID: "https://token.actions.githubusercontent.com|repo:acme/images:ref:refs/heads/main", Identity: json.RawMessage(
	`{"provider": "github", "issuer": "https://token.actions.githubusercontent.com", "subject": "repo:acme/images:ref:refs/heads/main", "rule": "release images", "claims": {"run_id": "99381", "workflow_ref": "acme/images/.github/workflows/image.yml@refs/heads/main"}}`)}

// boot is the evidence of one capture, decoded.
func boot(t testing.TB, variant, ak string) (*verifier.Evidence, []byte, *tpm.Public, []byte) {
	t.Helper()
	dir := filepath.Join(boots, variant, "evidence")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	message := read("quote-" + ak + "-sha256.tpms_attest")
	quoted, err := tpm.ParseAttest(message)
	if err != nil {
		t.Fatal(err)
	}
	var values struct {
		PCRs map[string]map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal(read("tpm.json"), &values); err != nil {
		t.Fatal(err)
	}
	pcrs := map[string]string{}
	for _, s := range quoted.Selections {
		for _, i := range s.Indices() {
			pcrs[fmt.Sprint(i)] = values.PCRs["sha256"][fmt.Sprint(i)]
		}
	}
	doc := map[string]any{
		"quotes": []any{map[string]any{"message": message, "signature": read("quote-" + ak + "-sha256.tpmt_signature")}},
		"pcrs":   map[string]any{"sha256": pcrs},
	}
	if log, err := os.ReadFile(filepath.Join(dir, "binary_bios_measurements")); err == nil && len(log) > 0 {
		doc["event_log"] = log
	}
	body, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := verifier.Decode("application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm.ParsePublic(read("ak-" + ak + ".tpmt_public"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(boots, variant, "nonce.hex"))
	if err != nil {
		t.Fatal(err)
	}
	nonce, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return ev, body, public, nonce
}

// judge appraises one capture and records it as the machine's, count times.
func (f *fleet) judge(t testing.TB, name, variant, ak string, at time.Time, count int) verifier.Appraisal {
	t.Helper()
	ctx := context.Background()
	ev, body, public, nonce := boot(t, variant, ak)
	id := f.machines[name]
	m, err := db.GetMachine(ctx, f.tenant, id)
	must(t, err)
	inputs, err := db.AppraisalInputs(ctx, f.tenant, id, at)
	must(t, err)
	in := verifier.Inputs{
		Now: at, Policy: inputs.Policy, PolicyRef: inputs.PolicyRef, Freshness: tpm.Freshness{Nonce: nonce},
		AK: verifier.AttestationKey{Public: public, Assurance: verifier.EKActivated, Note: "its EK certificate is by a maker that you trust"},
	}
	for _, v := range inputs.Versions {
		reference, err := verifier.CompileReference(v.Reference)
		must(t, err)
		in.Candidates = append(in.Candidates, verifier.Candidate{Baseline: verifier.VersionRef{ID: v.BaselineID.String(), Version: v.Version}, Reference: reference})
	}
	rec := store.AppraisalRecord{MachineID: id, KeyID: inputs.Key.ID, ReceivedAt: at, NextDueAt: at.Add(5 * time.Minute), EvidenceType: "application/json", Evidence: body, Actor: lead}
	if len(ev.EventLog) > 0 {
		in.Log, err = eventlog.Parse(ev.EventLog)
		must(t, err)
		sum := sha256.Sum256(ev.EventLog)
		rec.EventLog, rec.EventLogHash = ev.EventLog, sum[:]
	}
	if e := f.hardware[name]; e != nil {
		ev.Platform, in.Platform = e, tee.Verify(e, &f.silicon, at)
		in.AK.Assurance, in.AK.Note = verifier.TEEBound, ""
		rec.PlatformType = e.Type
		if vm, told := in.Platform.Report.VM(); told {
			rec.VMID = vm.VMID
		}
	}
	a := verifier.Appraise(ev, in)
	if len(rec.EventLogHash) > 0 && a.Measurements != nil {
		f.measured[[32]byte(rec.EventLogHash)] = a.Measurements
	}
	yes := true
	rec.Appraisal, rec.Observed = a, finding.Posture{VTPM: &yes, AgentInstalled: &yes}
	if a.Claims.Claims != nil {
		rec.Observed.SecureBoot = a.Claims.SecureBoot
	}
	rec.Clock = &tpm.ClockState{}
	if !a.Genuine {
		rec.Clock = nil
	}
	rec.Findings = finding.Derive(finding.Input{Machine: finding.Machine{
		Name: m.Name, OS: m.OS, Platform: m.Platform, SecurityType: m.SecurityType, ScaleSet: m.ScaleSet,
		Declared: m.Declared, Observed: rec.Observed, Enrolled: true, PlatformEvidence: m.PlatformEvidenceType,
	}, Appraisal: a, Policy: inputs.Policy, Now: at})
	rec.Fingerprint = sha256.Sum256([]byte(variant))
	for i := range count {
		rec.ReceivedAt = at.Add(time.Duration(i) * 5 * time.Minute)
		rec.NextDueAt = rec.ReceivedAt.Add(5 * time.Minute)
		rec.ChallengeKey = fmt.Appendf(nil, "%020d", rec.ReceivedAt.UnixNano())
		done, err := db.RecordAppraisal(ctx, f.tenant, rec)
		must(t, err)
		f.verdicts[name] = done.VerdictID
		if i == 0 {
			rec.EventLog = nil
		}
	}
	return *a
}

// emptyFleet makes a tenant of its own, so that tests do not see each other's machines.
func emptyFleet(t testing.TB) *fleet {
	t.Helper()
	database(t)
	now := time.Date(2026, 3, 14, 9, 26, 53, 0, time.UTC)
	f := &fleet{tenant: uuid.Must(uuid.NewV7()), now: now, machines: map[string]uuid.UUID{}, verdicts: map[string]uuid.UUID{},
		alerts: map[string]store.Alert{}, measured: map[[32]byte]*eventlog.Measurements{}}
	start := now.Add(-26 * time.Hour)
	must(t, db.EnsureTenant(context.Background(), f.tenant, start))
	f.admin, f.reader = f.token(t, "ops-admin", store.RoleAdmin, start), f.token(t, "dashboard", store.RoleReader, start)
	return f
}

// newFleet is a fleet with every kind of machine that the pages tell apart.
func newFleet(t testing.TB) *fleet {
	t.Helper()
	ctx := context.Background()
	f := emptyFleet(t)
	now, start := f.now, f.now.Add(-26*time.Hour)

	yes, no := true, false
	inventory := []store.MachineInput{
		{ExternalID: "i-1", Name: "web-1", OS: "linux", Platform: "azure", SecurityType: "confidential_snp", ScaleSet: "web", Labels: map[string]string{"env": "prod", "region": "eu-west"}, Declared: finding.Posture{SecureBootSupported: &yes, SecureBoot: &yes, VTPM: &yes}},
		{ExternalID: "i-2", Name: "web-2", OS: "linux", Platform: "azure", SecurityType: "confidential_snp", ScaleSet: "web", Labels: map[string]string{"env": "prod"}, Declared: finding.Posture{SecureBootSupported: &yes, SecureBoot: &yes, VTPM: &yes}},
		{ExternalID: "i-3", Name: "web-3", OS: "linux", Platform: "azure", SecurityType: "confidential_snp", ScaleSet: "web", Labels: map[string]string{"env": "prod"}, Declared: finding.Posture{SecureBootSupported: &yes, SecureBoot: &yes, VTPM: &yes}},
		{ExternalID: "i-4", Name: "db-1", OS: "linux", Platform: "gcp", SecurityType: "trusted_launch", Labels: map[string]string{"env": "prod"}, Declared: finding.Posture{SecureBootSupported: &yes, SecureBoot: &yes, VTPM: &yes}},
		{ExternalID: "i-5", Name: "legacy-1", OS: "linux", Platform: "vmware", SecurityType: "standard", ScaleSet: "legacy", Declared: finding.Posture{SecureBootSupported: &yes, SecureBoot: &yes, VTPM: &yes}},
		{ExternalID: "i-6", Name: "build-7", OS: "windows", Platform: "azure", SecurityType: "confidential_tdx", Declared: finding.Posture{SecureBootSupported: &yes, SecureBoot: &yes, VTPM: &yes, AgentInstalled: &no}},
		{ExternalID: "i-7", Name: "build-8", OS: "windows", Platform: "azure", SecurityType: "confidential_snp", Declared: finding.Posture{SecureBootSupported: &yes, SecureBoot: &no, VTPM: &yes, AgentInstalled: &no}},
		{ExternalID: "i-8", Name: "cvm-1", OS: "linux", Platform: "azure", SecurityType: "confidential_snp", Declared: finding.Posture{SecureBootSupported: &yes, SecureBoot: &yes, VTPM: &yes},
			Instance: json.RawMessage(`{"zone": "europe-west4-a", "project_id": "acme-prod", "project_number": 618, "instance_name": "cvm-1", "instance_id": 4231}`)},
	}
	machines, err := db.UpsertMachines(ctx, f.tenant, inventory, func(m store.Machine) finding.Result {
		return attest.InventoryFindings(m, verifier.DefaultPolicy())
	}, start, lead)
	must(t, err)
	for _, m := range machines {
		f.machines[m.Name] = m.ID
	}
	_, _, public, _ := boot(t, "sb-on-otherbox", "rsapss")
	amd := teetest.NewAMD(t, teetest.Genoa)
	vm := teetest.VM()
	vm["console-enabled"] = true
	behind := amd.TCB // of what the platform has committed to
	behind.Microcode--
	f.silicon = tee.Trust{SNP: amd.Anchors()}
	f.hardware = map[string]*tee.Evidence{"cvm-1": {Type: tee.TypeAzureHCL, Certificates: [][]byte{amd.VCEK(amd.ChipID, behind)},
		HCLReport: amd.HCL(public.Key().(*rsa.PublicKey), vm, teetest.HCL{Fields: func(r *teetest.Report) { r.Reported = behind }})}}
	for name, key := range map[string][2]string{
		"web-1": {"sb-on-1", "rsassa"}, "web-2": {"sb-on-otherbox", "rsassa"}, "web-3": {"cmdline", "rsapss"},
		"cvm-1": {"sb-on-otherbox", "rsapss"},
		"db-1":  {"unlogged-extend", "ecdsa256"}, "legacy-1": {"sb-disabled", "ecdsa384"},
	} {
		_, _, public, _ := boot(t, key[0], key[1])
		raw, err := os.ReadFile(filepath.Join(boots, key[0], "evidence", "ak-"+key[1]+".tpmt_public"))
		must(t, err)
		_, err = db.AddAttestationKey(ctx, f.tenant, f.machines[name], store.AttestationKey{Public: raw, Name: public.Name(), Assurance: verifier.EKActivated}, start, lead)
		must(t, err)
	}
	f.rule, err = db.CreateSuppressionRule(ctx, f.tenant, store.SuppressionRule{
		AlertCode: "attestation_failed", Reason: "legacy driver needs Secure Boot off", Comment: "agreed with the platform team", State: "enabled",
		Scope: store.SuppressionScope{AllOf: []store.SuppressionCondition{{Field: "machine.scale_set", In: []string{"legacy"}}}},
	}, start, lead)
	must(t, err)

	golden := f.judge(t, "web-1", "sb-on-1", "rsassa", start.Add(time.Minute), 1)
	reference, err := baseline.Capture(&golden, verifier.DefaultPolicy())
	must(t, err)
	f.baseline, err = db.CreateBaseline(ctx, f.tenant, "debian-12 web", verifier.Selector{Platform: []string{"azure", "gcp", "vmware"}},
		store.BaselineVersion{Reference: reference, Origin: "captured", State: "active", CreatedBy: "ops-admin",
			Provenance: json.RawMessage(`{"repository": "acme/images", "commit": "4f2a9c1", "build_url": "https://ci.example/builds/812"}`)}, start.Add(2*time.Minute), pipeline)
	must(t, err)
	f.judge(t, "web-1", "sb-on-2", "rsassa", now.Add(-8*time.Hour), 12)
	f.judge(t, "web-2", "sb-on-otherbox", "rsassa", now.Add(-4*time.Hour), 6)
	f.judge(t, "web-3", "sb-on-2", "rsapss", now.Add(-5*time.Hour), 5)
	f.judge(t, "web-3", "cmdline", "rsapss", now.Add(-50*time.Minute), 9)
	f.judge(t, "db-1", "unlogged-extend", "ecdsa256", now.Add(-3*time.Hour), 4)
	f.judge(t, "cvm-1", "sb-on-otherbox", "rsapss", now.Add(-90*time.Minute), 2)
	f.judge(t, "legacy-1", "sb-disabled", "ecdsa384", now.Add(-2*time.Hour), 3)
	alerts, _, err := db.ListAlerts(ctx, f.tenant, store.AlertFilter{IncludeSuppressed: true}, store.Page{Limit: 100}, now)
	must(t, err)
	for _, a := range alerts {
		if a.Code == "attestation_failed" {
			f.alerts[a.MachineName] = a
		}
	}
	_, err = db.CountIncidents(ctx, f.tenant, now)
	must(t, err)
	incident, err := db.IncidentOf(ctx, f.tenant, f.alerts["web-3"].ID)
	must(t, err)
	f.incident = *incident
	return f
}

// token makes an API token as the service does: the store keeps only its hash.
func (f *fleet) token(t testing.TB, name string, role store.Role, at time.Time) string {
	t.Helper()
	return f.scopedToken(t, name, role, nil, at)
}

func (f *fleet) scopedToken(t testing.TB, name string, role store.Role, scope store.Scope, at time.Time) string {
	t.Helper()
	text := fmt.Sprintf("assay_%s_%s", role[:3], uuid.NewString())
	sum := sha256.Sum256([]byte(text))
	must(t, db.CreateAPIToken(context.Background(), f.tenant, store.APIToken{ID: uuid.Must(uuid.NewV7()), Name: name, Role: role, Scope: scope, CreatedAt: at}, sum[:], lead))
	return text
}

// eventLog decodes a verdict's stored log, and says of each event whether the quote proved it.
func (f *fleet) eventLog(ctx context.Context, tenant, verdictID uuid.UUID) ([]attest.DecodedEvent, error) {
	v, err := db.GetVerdict(ctx, tenant, verdictID)
	if err != nil || len(v.EventLogHash) == 0 {
		return nil, err
	}
	raw, err := db.GetBootLog(ctx, tenant, v.EventLogHash)
	if err != nil {
		return nil, err
	}
	log, err := eventlog.Parse(raw)
	if err != nil {
		return nil, &attest.Error{Code: attest.CodeInvalidField, Detail: err.Error()}
	}
	proven := map[int]bool{}
	if m := f.measured[[32]byte(v.EventLogHash)]; m != nil {
		for _, e := range m.Events() {
			proven[e.Offset] = e.Covered
		}
	}
	var out []attest.DecodedEvent
	for _, e := range log.Events() {
		d := attest.DecodedEvent{Index: e.Index, PCR: e.PCR, Type: e.Type.String(), Description: e.Description, Component: e.Component,
			Verified: proven[e.Offset], Digests: map[string]string{}}
		for _, digest := range e.Digests {
			d.Digests[digest.Alg.String()] = hex.EncodeToString(digest.Bytes)
		}
		out = append(out, d)
	}
	return out, nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
