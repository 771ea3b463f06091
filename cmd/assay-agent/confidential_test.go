package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/integration/faketsm"
	"github.com/assay-verifier/assay/integration/swtpm"
)

func platformSpecimen(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("platform", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// azureBox makes a software TPM into a vTPM of Azure: the key of the paravisor, and a report constructed around it.
func azureBox(t *testing.T, box *swtpm.TPM, seed string) {
	t.Helper()
	ak, err := box.PersistentAK(0x81000003, seed)
	if err != nil {
		t.Fatal(err)
	}
	report, err := swtpm.HCLReport(ak, platformSpecimen(t, "trustee-snp-v0.hcl")[32:32+1184], 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := box.WriteNV(0x01400001, report); err != nil {
		t.Fatal(err)
	}
}

// sent tells how the last evidence carried its platform evidence.
func (s *verifierServer) sent() string {
	switch {
	case s.lastBody["platform_evidence"] != nil:
		return "whole"
	case s.lastBody["platform_evidence_digest"] != nil:
		return "digest"
	}
	return "none"
}

func says(t *testing.T, text string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(text, w) {
			t.Errorf("%q is not in:\n%s", w, text)
		}
	}
}

// An Azure confidential VM, its report constructed and its metadata service recorded: enrolled at once by its report,
// which is sent whole once and by its digest from then on.
func TestAzureConstructedReport(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	azureBox(t, box, "")
	s := newServer(t, box, false)
	asked := 0
	imds := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		_ = json.NewEncoder(w).Encode(map[string]string{"vcekCert": string(platformSpecimen(t, "trustee-snp-v0.vcek.pem")),
			"certificateChain": string(platformSpecimen(t, "ask_ark_milan.pem")), "tcbm": "DB18000000000004"})
	}))
	defer imds.Close()
	h := newHost(t, box, s)
	h.seams.MetadataURL, h.flags = imds.URL, []string{"--fetch-endorsements"}
	write(t, h.eventLog, specimen(t, "sb-on-1/evidence/binary_bios_measurements"))

	says(t, h.must(0, "enroll", "--join-token", s.joinToken, "--external-id", h.externalID),
		"tee_bound", "rsassa, made by the paravisor", "azure, confidential_snp", "evidence   azure_hcl")
	e := s.enrolled
	if e.PlatformEvidence == nil || e.PlatformEvidence.Type != client.AzureHCL || len(e.PlatformEvidence.Certificates) != 3 ||
		e.AKCertificate != nil || e.EKPublic == nil || asked != 1 {
		t.Errorf("%+v, asked %d times", e, asked)
	}
	if s.calls["POST activation"] != 0 {
		t.Error("activated, though it was active")
	}
	for i, want := range []string{"whole", "digest", "digest"} {
		if says(t, h.must(0, "attest"), "affirming  assurance tee_bound"); s.sent() != want {
			t.Errorf("attestation %d: %s, not %s", i, s.sent(), want)
		}
	}
	if asked != 1 {
		t.Errorf("the metadata service was asked %d times", asked)
	}
	// The server loses what it held: each is sent whole, once.
	s.platforms, s.logs = map[string]bool{}, map[string][]byte{}
	posts := s.calls["POST evidence"]
	h.must(0, "attest")
	if s.sent() != "whole" || s.lastBody["event_log"] == nil || s.calls["POST evidence"] != posts+3 {
		t.Errorf("%s, %v", s.sent(), s.calls)
	}
	if h.must(0, "attest"); s.sent() != "digest" {
		t.Error(s.sent())
	}
	if h.must(0, "attest", "--platform-evidence", "none"); s.sent() != "none" {
		t.Error(s.sent())
	}
	says(t, h.must(0, "status"), "evidence   azure_hcl", "rsassa, made by the paravisor")
	says(t, h.must(0, "status", "--output", "json"), `"platform_evidence": "azure_hcl"`)
	h.enroll() // again, with the same key: no conflict
	h.must(0, "attest")

	// A machine that is redeployed has another key.
	azureBox(t, box, "another")
	code, _, stderr := h.agent(t.Context(), "attest")
	if says(t, stderr, "not of this TPM"); code != 2 {
		t.Error(code)
	}
	code, _, stderr = h.agent(t.Context(), "enroll", "--join-token", s.joinToken, "--external-id", h.externalID)
	if says(t, stderr, "409 identity_conflict", "have an administrator release its keys first"); code != 2 {
		t.Error(code)
	}
}

// A real report of another machine beside one's own key does not become an enrolment.
func TestAzureReportOfAnotherMachine(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	azureBox(t, box, "")
	if err := box.WriteNV(0x01400001, platformSpecimen(t, "kinvolk-snp.hcl")); err != nil {
		t.Fatal(err)
	}
	s := newServer(t, box, false)
	h := newHost(t, box, s)
	code, _, stderr := h.agent(t.Context(), "enroll", "--join-token", s.joinToken)
	if says(t, stderr, "is not the HCLAkPub of the HCL report"); code != 2 || s.calls["POST enrollments"] != 0 {
		t.Errorf("exit %d, %v", code, s.calls)
	}
	// The TPM alone, with a key of the agent's own, still is a way; what kind of machine it is, is still told.
	says(t, h.must(0, "enroll", "--join-token", s.joinToken, "--platform-evidence", "none", "--platform", "azure"),
		"ek_activated", "ecdsa\n", "evidence   of the TPM alone")
	h.must(0, "attest", "--platform-evidence", "none")
	if h.must(0, "attest"); s.sent() != "none" {
		t.Error(s.sent())
	}
}

// stateBefore is a state file as agents wrote it before there was platform evidence.
const stateBefore = `{
  "server": %SERVER%,
  "machine_id": "m-box-1",
  "assurance": "ek_activated",
  "enrolled_at": "2026-01-02T03:04:05Z",
  "ek": "RSA-2048, certified by CN=swtpm-localca",
  "ak": {"alg": "ecdsa", "blob": %BLOB%, "public": %PUBLIC%},
  "last": {"at": "2026-01-02T03:05:05Z", "verdict_id": "v-1", "status": "affirming", "boot_id": "b", "reset_count": 1}
}
`

// A machine that was enrolled by an older agent goes on as it was, also where there is hardware evidence; to send that,
// it has to be enrolled anew, and is told so.
func TestStateOfAnOlderAgent(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	s := newServer(t, box, false)
	h := newHost(t, box, s)
	h.enroll()
	state := filepath.Join(h.dir, "state.json")
	raw, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	var now struct {
		Server json.RawMessage `json:"server"`
		AK     struct {
			Blob, Public json.RawMessage
		} `json:"ak"`
	}
	if err := json.Unmarshal(raw, &now); err != nil {
		t.Fatal(err)
	}
	write(t, state, []byte(strings.NewReplacer("%SERVER%", string(now.Server), "%BLOB%", string(now.AK.Blob), "%PUBLIC%", string(now.AK.Public)).Replace(stateBefore)))
	azureBox(t, box, "")
	says(t, h.must(0, "status"), "evidence   of the TPM alone", "AK         ecdsa\n", "affirming at 2026-01-02")
	if says(t, h.must(0, "attest"), "affirming  assurance ek_activated"); s.sent() != "none" {
		t.Error(s.sent())
	}
	code, _, stderr := h.agent(t.Context(), "attest", "--platform-evidence", "azure")
	if says(t, stderr, "enrol again with --platform-evidence azure"); code != 2 {
		t.Error(code)
	}
	code, _, stderr = h.agent(t.Context(), "enroll", "--join-token", s.joinToken, "--external-id", h.externalID)
	if says(t, stderr, "409 identity_conflict", "enrolled with another key (ecdsa) than it would be now (rsassa, made by the paravisor): keep that one with --platform-evidence none"); code != 2 {
		t.Error(code)
	}
	h.must(0, "attest")
	h.must(0, "enroll", "--join-token", s.joinToken, "--external-id", h.externalID, "--platform-evidence", "none")
	h.must(0, "attest")
}

// A machine of Google Compute Engine is enrolled by the key that the cloud certified; template and certificate are put
// into a software TPM.
func TestGoogleAKFromNV(t *testing.T) {
	for _, c := range []struct {
		name, alg string
		ecc       bool
	}{{"RSA", "rsassa", false}, {"ECC", "ecdsa", true}} {
		t.Run(c.name, func(t *testing.T) {
			box := swtpm.New(t, swtpm.Options{})
			root, intermediate, cert, err := box.GoogleAK(c.ecc)
			if err != nil {
				t.Fatal(err)
			}
			s := newServer(t, box, false)
			h := newHost(t, box, s)
			s.akRoots = certs(t, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}))
			code, _, stderr := h.agent(t.Context(), "enroll", "--join-token", s.joinToken, "--external-id", h.externalID)
			if says(t, stderr, "422 ak_untrusted"); code != 2 {
				t.Error(code)
			}
			chain := filepath.Join(t.TempDir(), "chain.pem")
			write(t, chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: intermediate.Raw}))
			says(t, h.must(0, "enroll", "--join-token", s.joinToken, "--external-id", h.externalID, "--ak-chain", chain),
				"ak_certified", c.alg+", certified by the cloud", "gcp, trusted_launch", "evidence   of the TPM alone")
			if !bytes.Equal(s.enrolled.AKCertificate, cert.Raw) || len(s.enrolled.AKCertificateChain) != 1 {
				t.Errorf("%+v", s.enrolled)
			}
			for range 2 {
				says(t, h.must(0, "attest"), "affirming  assurance ak_certified")
			}
			says(t, h.must(0, "status"), c.alg+", certified by the cloud")
		})
	}
}

// over puts data into a real report or quote; its signature no longer fits, which the agent does not see.
func over(report []byte, at int) func([]byte) []byte {
	return func(data []byte) []byte {
		b := bytes.Clone(report)
		copy(b[at:], data)
		return b
	}
}

func (h *host) guest(tsm *faketsm.Tree) {
	h.seams.Mkdir, h.seams.Rmdir = tsm.Mkdir, tsm.Rmdir
	h.flags = append(h.flags, "--tsm-report-dir", tsm.Dir)
}

// A guest without TPM attests with its hardware alone; configfs-tsm is a fake, and the reports are real but for the
// data that they are over.
func TestFakeConfigFSWithoutTPM(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{}) // for the server's CA only
	ccel := platformSpecimen(t, "ccel.bin")
	for _, c := range []struct {
		name, provider, security string
		report                   func([]byte) []byte
	}{
		{"sev_snp", "sev_guest", "confidential_snp", over(platformSpecimen(t, "snp-report.bin"), 0x50)},
		{"tdx", "tdx_guest", "confidential_tdx", over(platformSpecimen(t, "trustee-tdx-v0.quote"), 568)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t, box, false)
			h := newHost(t, nil, s)
			log := filepath.Join(t.TempDir(), "CCEL")
			h.flags = []string{"--cc-event-log", log}
			code, _, stderr := h.agent(t.Context(), "enroll", "--join-token", s.joinToken, "--tsm-report-dir", log)
			if says(t, stderr, "no TPM 2.0", "nor does it give SEV-SNP or TDX evidence"); code != 2 {
				t.Error(code)
			}
			tsm := faketsm.New(t, c.provider, c.report)
			h.guest(tsm)
			write(t, log, ccel)
			out := h.must(0, "enroll", "--join-token", s.joinToken, "--external-id", h.externalID)
			says(t, out, "tee_bound", "EK         none", "AK         none", c.security, "evidence   "+c.name)
			if e := s.enrolled; e.AKPublic != nil || e.EKPublic != nil || e.EKCertificate != nil || e.PlatformEvidence.Type != c.name || e.PlatformEvidence.EventLog != nil {
				t.Errorf("%+v", e)
			}
			for i := range 3 {
				says(t, h.must(0, "attest"), "affirming  assurance tee_bound")
				if s.sent() != "whole" || s.lastBody["quotes"] != nil || s.lastBody["pcrs"] != nil || s.lastBody["ima_log"] != nil ||
					s.lastBody["event_log_digest"] == nil || s.calls["PUT event-log"] != 1 {
					t.Errorf("attestation %d: %s, %v", i, s.sent(), s.calls)
				}
			}
			says(t, h.must(0, "status"), "AK         none", "evidence   "+c.name)
			code, _, stderr = h.agent(t.Context(), "attest", "--platform-evidence", "none")
			if says(t, stderr, "leaves nothing to attest with"); code != 2 {
				t.Error(code)
			}
			if left, err := tsm.Left(); err != nil || len(left) != 0 {
				t.Errorf("%v, %v", left, err)
			}
			// The report cannot be had: no evidence is sent without it.
			posts := s.calls["POST evidence"]
			tsm.Report = func([]byte) []byte { return nil }
			if code, _, stderr = h.agent(t.Context(), "attest"); code != 2 || s.calls["POST evidence"] != posts {
				t.Errorf("%d, %s", code, stderr)
			}
		})
	}
}

// A guest with a TPM binds both together, and has two boot logs; configfs-tsm is a fake as above.
func TestFakeConfigFSWithTPM(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	s := newServer(t, box, false)
	h := newHost(t, box, s)
	log := filepath.Join(t.TempDir(), "CCEL")
	h.flags = []string{"--cc-event-log", log}
	write(t, log, platformSpecimen(t, "ccel.bin"))
	write(t, h.eventLog, specimen(t, "sb-on-1/evidence/binary_bios_measurements"))
	h.guest(faketsm.New(t, "tdx_guest", over(platformSpecimen(t, "trustee-tdx-v0.quote"), 568)))
	says(t, h.must(0, "enroll", "--join-token", s.joinToken, "--external-id", h.externalID), "tee_bound", "ecdsa\n", "confidential_tdx", "evidence   tdx")
	for range 2 {
		says(t, h.must(0, "attest"), "affirming  assurance tee_bound")
		var e client.PlatformEvidence
		if err := json.Unmarshal(s.lastBody["platform_evidence"], &e); err != nil || !bytes.Equal(e.EventLog, platformSpecimen(t, "ccel.bin")) ||
			s.lastBody["quotes"] == nil || s.lastBody["event_log_digest"] == nil {
			t.Errorf("%v", err)
		}
	}
	// Without leave to make reports the machine still enrols by its TPM, and says what it lacks.
	other := newHost(t, box, s)
	other.externalID = "box-2"
	other.seams.Mkdir = func(path string) error { return &os.PathError{Op: "mkdir", Path: path, Err: os.ErrPermission} }
	code, out, stderr := other.agent(t.Context(), "enroll", "--join-token", s.joinToken, "--external-id", other.externalID)
	if says(t, out, "ek_activated"); code != 0 {
		t.Error(code)
	}
	says(t, stderr, "permission denied; going on with the TPM alone")
}
