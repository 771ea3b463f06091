package main

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/assay-verifier/assay/cmd/assay-agent/platform"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/integration/swtpm"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

const boots = "../../integration/testdata/boots"

// host is a machine under test: a TPM, its logs and the agent's state.
type host struct {
	t                *testing.T
	tpm              *swtpm.TPM
	dir              string
	eventLog, imaLog string
	server           *verifierServer
	externalID       string
	seams            platform.Options // of a confidential VM that is not there
	flags            []string
}

func newHost(t *testing.T, box *swtpm.TPM, s *verifierServer) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{t: t, tpm: box, server: s, dir: filepath.Join(dir, "state"), externalID: "box-1",
		eventLog: filepath.Join(dir, "binary_bios_measurements"), imaLog: filepath.Join(dir, "binary_runtime_measurements")}
	return h
}

// agent runs the command as a shell would.
func (h *host) agent(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errOut syncBuffer
	socket := tpmdevice.None
	if h.tpm != nil {
		socket = h.tpm.Socket
	}
	code = runOn(ctx, append(append(args, h.flags...), "--tpm", socket, "--state-dir", h.dir, "--server", h.server.URL,
		"--event-log", h.eventLog, "--ima-log", h.imaLog), &out, &errOut, h.seams)
	return code, out.String(), errOut.String()
}

func (h *host) must(code int, args ...string) (stdout string) {
	h.t.Helper()
	got, stdout, stderr := h.agent(h.t.Context(), args...)
	if got != code {
		h.t.Fatalf("assay-agent %s: exit %d, not %d\n%s%s", strings.Join(args, " "), got, code, stdout, stderr)
	}
	return stdout
}

func (h *host) enroll() {
	h.t.Helper()
	h.must(0, "enroll", "--join-token", h.server.joinToken, "--external-id", h.externalID)
}

// syncBuffer may be written by the agent and read by the test.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func specimen(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(boots, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEnrolAndAttest(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	s := newServer(t, box, false)
	h := newHost(t, box, s)
	h.must(2, "attest") // not enrolled
	h.must(2, "status")
	write(t, h.eventLog, specimen(t, "sb-on-1/evidence/binary_bios_measurements"))

	out := h.must(0, "enroll", "--join-token", s.joinToken, "--external-id", h.externalID, "--name", "web-1", "--label", "env=prod", "--label", "tier=a,b", "--platform", "qemu")
	for _, want := range []string{"enrolled web-1 as machine m-box-1", "ek_activated", "RSA-2048, certified by", "ecdsa", "qemu"} {
		if !strings.Contains(out, want) {
			t.Errorf("enroll does not say %q:\n%s", want, out)
		}
	}
	if got := s.inventory[h.externalID]; got.Labels["env"] != "prod" || got.Labels["tier"] != "a,b" || got.OS != "linux" || got.SecurityType == "" {
		t.Errorf("inventory: %+v", got)
	}
	token, err := os.Stat(filepath.Join(h.dir, "machine.token"))
	if err != nil || token.Mode().Perm() != 0o600 {
		t.Errorf("machine.token: %v, %v", token.Mode(), err)
	}

	if out = h.must(0, "attest"); !strings.HasPrefix(out, "affirming  assurance ek_activated") {
		t.Errorf("attest: %s", out)
	}
	if s.calls["PUT event-log"] != 1 || s.lastBody["event_log"] != nil || s.lastBody["event_log_digest"] == nil {
		t.Errorf("the first log goes ahead of the evidence: %v", s.calls)
	}
	h.must(0, "attest")
	if s.calls["PUT event-log"] != 1 || s.calls["POST evidence"] != 2 {
		t.Errorf("a log that is held is not sent again: %v", s.calls)
	}
	var agent struct {
		Version string `json:"version"`
		BootID  string `json:"boot_id"`
		Kernel  string `json:"kernel"`
	}
	if err := json.Unmarshal(s.lastBody["agent"], &agent); err != nil || agent.Version == "" || agent.BootID == "" || agent.Kernel == "" {
		t.Errorf("%+v, %v", agent, err)
	}
	var verdict struct {
		Status string          `json:"status"`
		Claims json.RawMessage `json:"claims"`
	}
	if err := json.Unmarshal([]byte(h.must(0, "attest", "--output", "json")), &verdict); err != nil || verdict.Status != "affirming" || verdict.Claims == nil {
		t.Errorf("%+v, %v", verdict, err)
	}
	if out = h.must(0, "status"); !strings.Contains(out, "m-box-1") || !strings.Contains(out, "affirming at ") {
		t.Errorf("status: %s", out)
	}
	if out = h.must(0, "status", "--output", "json"); !strings.Contains(out, `"enrolled": true`) || strings.Contains(out, s.machines[h.externalID].token) {
		t.Errorf("status: %s", out)
	}
	// Enrolling again uses the same key: no conflict.
	h.enroll()
	h.must(0, "attest")
}

// Every kind of key; with a file for the token and the environment for the rest; a chain that the agent
// sends.
func TestKindsOfKeys(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	s := newServer(t, box, false)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "token"), []byte(s.joinToken+"\n"))
	inter, err := box.IntermediatePEM()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "chain.pem"), inter)
	for _, alg := range []string{"ecdsa", "rsassa", "rsapss"} {
		h := newHost(t, box, s)
		h.externalID = alg
		t.Setenv("ASSAY_EXTERNAL_ID", alg)
		out := h.must(0, "enroll", "--join-token-file", filepath.Join(dir, "token"), "--ak-alg", alg,
			"--ek-certificate-chain", filepath.Join(dir, "chain.pem"), "--output", "json")
		if !strings.Contains(out, `"ak": "`+alg+`"`) {
			t.Errorf("%s", out)
		}
		h.must(0, "attest")
	}
}

func TestRefusalsAreReadable(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	s := newServer(t, box, false)
	h := newHost(t, box, s)
	code, _, stderr := h.agent(t.Context(), "enroll", "--join-token", "wrong")
	if code != 2 || !strings.Contains(stderr, "401 unauthenticated: Refused: the join token is unknown") {
		t.Errorf("%d %s", code, stderr)
	}
	h.enroll()
	// Another machine that says it is the same one.
	other := newHost(t, swtpm.New(t, swtpm.Options{CADir: box.CADir}), s)
	code, _, stderr = other.agent(t.Context(), "enroll", "--join-token", s.joinToken, "--external-id", h.externalID)
	if code != 2 || !strings.Contains(stderr, "409 identity_conflict: Refused: machine m-box-1 has another attestation key") {
		t.Errorf("%d %s", code, stderr)
	}
	other.must(2, "status")
	h.must(0, "attest") // nothing has changed for the first
	// Nor does another key that the server refuses replace the one that it knows.
	h.must(2, "enroll", "--join-token", s.joinToken, "--external-id", h.externalID, "--ak-alg", "rsassa")
	h.must(0, "attest")
	// The state copied to the other machine is of no use there.
	stolen := *other
	stolen.dir = h.dir
	code, _, stderr = stolen.agent(t.Context(), "attest")
	if code != 2 || !strings.Contains(stderr, "not of this TPM") {
		t.Errorf("%d %s", code, stderr)
	}
	for _, bad := range [][]string{{"enroll", "--ak-alg", "md5"}, {"enroll", "--server", "ftp://x"}, {"enroll"}, {"fly"},
		{"enroll", "--join-token", "x", "--tpm", "/dev/null/none"}, {"attest", "--ca", "/dev/null"}} {
		if code, _, stderr = h.agent(t.Context(), bad...); code != 2 || stderr == "" {
			t.Errorf("%v: %d %s", bad, code, stderr)
		}
	}
}

// A verdict that is not affirming exits 1 and says why.
func TestOtherVerdict(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	s := newServer(t, box, false)
	h := newHost(t, box, s)
	h.enroll()
	write(t, h.imaLog, specimen(t, "ima-tcb-1/evidence/ima_binary_runtime_measurements"))
	if out := h.must(1, "attest"); !strings.HasPrefix(out, "contraindicated") || !strings.Contains(out, "fail ima.replay: ") {
		t.Errorf("%s", out)
	}
}

func TestTLS(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	s := newServer(t, box, true)
	h := newHost(t, box, s)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	code, _, stderr := h.agent(t.Context(), "enroll", "--join-token", s.joinToken)
	if code != 2 || !strings.Contains(stderr, "certificate") {
		t.Errorf("an unknown server is trusted: %d %s", code, stderr)
	}
	h.must(0, "enroll", "--join-token", s.joinToken, "--ca", ca)
	h.must(0, "attest", "--ca", ca)
}

// extendIMA does to PCR 10 what the kernel did.
func extendIMA(t *testing.T, box *swtpm.TPM, raw []byte, from, to int) {
	t.Helper()
	list, err := ima.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	d, err := tpmdevice.Open(box.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close() //nolint:errcheck // nothing is lost
	for i := from; i < to; i++ {
		digests := map[tpm.HashAlg][]byte{}
		for _, alg := range []tpm.HashAlg{tpm.SHA1, tpm.SHA256, tpm.SHA384} {
			sum := crypto.Hash.New(alg.Hash())
			sum.Write(list.Entry(i).TemplateData)
			digests[alg] = sum.Sum(nil)
		}
		if err := d.Extend(10, digests); err != nil {
			t.Fatal(err)
		}
	}
}

// head is the first n entries of a binary list.
func head(t *testing.T, raw []byte, n int) []byte {
	t.Helper()
	rest, err := ima.Skip(raw, n)
	if err != nil {
		t.Fatal(err)
	}
	return raw[:len(raw)-len(rest)]
}

// The IMA list is sent once; what comes later follows; after a reset of the TPM it is sent whole.
func TestIMAListGrows(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	s := newServer(t, box, false)
	h := newHost(t, box, s)
	h.enroll()
	raw := specimen(t, "ima-tcb-1/evidence/ima_binary_runtime_measurements")
	list, err := ima.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	sent := func(offset, entries int) {
		t.Helper()
		h.must(0, "attest")
		var body []byte
		if err := json.Unmarshal(s.lastBody["ima_log"], &body); err != nil {
			t.Fatal(err)
		}
		l, err := ima.Parse(body)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		if text := s.lastBody["ima_log_offset"]; text != nil {
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
		}
		if l.Len() != entries || got != offset {
			t.Errorf("%d entries from %d on, not %d from %d", l.Len(), got, entries, offset)
		}
	}
	extendIMA(t, box, raw, 0, 5)
	write(t, h.imaLog, head(t, raw, 7)) // grew after the quote
	sent(0, 7)
	extendIMA(t, box, raw, 5, 9)
	write(t, h.imaLog, head(t, raw, 9))
	sent(5, 4)
	sent(9, 0)
	extendIMA(t, box, raw, 9, list.Len())
	write(t, h.imaLog, raw)
	sent(9, list.Len()-9)

	if err := box.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	extendIMA(t, box, raw, 0, list.Len())
	sent(0, list.Len())
	sent(list.Len(), 0)
}
