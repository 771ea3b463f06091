package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/attester"
	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/integration/measure"
	"github.com/assay-verifier/assay/integration/swtpm"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// machine is a software TPM with the agent beside it.
type machine struct {
	t        *testing.T
	svc      *service
	server   string // what the agent is told: the service, or a proxy before it
	name     string
	scaleSet string
	kind     string // security type
	box      *swtpm.TPM
	state    string
	log, ima string // files
}

// newMachine makes a machine that has not booted yet.
func newMachine(t *testing.T, svc *service, name, scaleSet string) *machine {
	t.Helper()
	m := &machine{t: t, svc: svc, server: svc.url, name: name, scaleSet: scaleSet, kind: "trusted_launch", box: newTPM(t, name)}
	m.state = filepath.Join(newFolder(t), "agent")
	m.log, m.ima = filepath.Join(workDir, "none"), filepath.Join(workDir, "none")
	svc.trust(t, m.box)
	return m
}

// booted makes a machine, boots it and enrols it.
func booted(t *testing.T, svc *service, name, scaleSet, boot string) *machine {
	t.Helper()
	m := newMachine(t, svc, name, scaleSet)
	m.boot(bootLog(t, boot))
	m.enroll()
	return m
}

// with opens the TPM.
func (m *machine) with(use func(*tpmdevice.Device) error) {
	m.t.Helper()
	device, err := tpmdevice.Open(m.box.Socket)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := errors.Join(use(device), device.Close()); err != nil {
		m.t.Fatal(err)
	}
}

// boot extends the events of a recorded log into the TPM.
func (m *machine) boot(log string) {
	m.t.Helper()
	m.log = log
	raw := readFile(m.t, log)
	m.with(func(d *tpmdevice.Device) error { return measure.Log(d, raw, tpm.SHA1, tpm.SHA256) })
}

// reboot resets the TPM and boots a recorded boot.
func (m *machine) reboot(boot string) {
	m.t.Helper()
	if err := m.box.Reset(m.t.Context()); err != nil {
		m.t.Fatal(err)
	}
	m.boot(bootLog(m.t, boot))
}

// agent is the command line of assay-agent for this machine.
func (m *machine) agent(command string, more ...string) *exec.Cmd {
	args := append([]string{command, "--tpm", m.box.Socket, "--state-dir", m.state, "--server", m.server,
		"--event-log", m.log, "--ima-log", m.ima, "--output", "json"}, more...)
	cmd := exec.CommandContext(m.t.Context(), program("assay-agent"), args...)
	cmd.Env = []string{"HOME=" + m.state}
	return cmd
}

// enrollArgs are the flags of an enrolment.
func (m *machine) enrollArgs(joinToken string) []string {
	args := []string{"--join-token", joinToken, "--name", m.name, "--external-id", "ext-" + m.name,
		"--platform", "qemu", "--security-type", m.kind}
	if m.scaleSet != "" {
		args = append(args, "--scale-set", m.scaleSet)
	}
	return args
}

func (m *machine) enroll() {
	m.t.Helper()
	out, err := m.agent("enroll", m.enrollArgs(m.svc.joinToken(m.t))...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("enrol %s: %v\n%s", m.name, err, out)
	}
}

// agentState is what the agent knows.
func (m *machine) agentState() *attester.State {
	m.t.Helper()
	state, err := attester.LoadState(m.state)
	if err != nil {
		m.t.Fatal(err)
	}
	if !state.Enrolled() {
		m.t.Fatalf("%s is not enrolled", m.name)
	}
	return state
}

func (m *machine) id() string { return m.agentState().MachineID }

// attest runs the agent once.
func (m *machine) attest() *verdict {
	m.t.Helper()
	cmd := m.agent("attest")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		m.t.Fatalf("attest %s: %v\n%s%s", m.name, err, stdout.Bytes(), stderr.Bytes())
	}
	v := parseVerdict(m.t, stdout.Bytes())
	if (err == nil) != (v.Status == "affirming") {
		m.t.Errorf("the agent's exit (%v) does not fit the verdict %s", err, v.Status)
	}
	return v
}

// challenge asks for a nonce.
func (m *machine) challenge() *client.Challenge {
	m.t.Helper()
	state := m.agentState()
	var c client.Challenge
	m.svc.call(m.t, http.MethodPost, "/v1/machines/"+state.MachineID+"/challenges", state.Bearer(), nil, http.StatusCreated, &c)
	return &c
}

// evidence answers a challenge with the machine's TPM, as the JSON body of a POST.
func (m *machine) evidence(c *client.Challenge) []byte { return m.evidenceFrom(c, m.box.Socket, false) }

// evidenceFrom is evidence of the TPM at socket, signed by the machine's AK or, if foreign, a new one.
func (m *machine) evidenceFrom(c *client.Challenge, socket string, foreign bool) []byte {
	m.t.Helper()
	device, err := tpmdevice.Open(socket)
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = device.Close() }()
	var ak *tpmdevice.Key
	if foreign {
		_, ak, err = device.CreateAK(tpmdevice.ECDSA)
	} else {
		ak, err = device.LoadAK(m.agentState().AK.Blob)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = ak.Close() }()
	return m.evidenceBy(device, ak, c)
}

// evidenceBy answers a challenge with a key of an open TPM.
func (m *machine) evidenceBy(device *tpmdevice.Device, ak *tpmdevice.Key, c *client.Challenge) []byte {
	m.t.Helper()
	policy := verifier.Policy{PCRs: c.PCRSelection}
	quoted, err := device.Quote(ak, c.Nonce, policy.RequiredSelections())
	if err != nil {
		m.t.Fatal(err)
	}
	e := client.Evidence{
		Quotes: []client.Quote{{Message: quoted.Message, Signature: quoted.Signature}},
		PCRs:   client.PCRValues(quoted.PCRs),
	}
	if raw, err := os.ReadFile(m.log); err == nil {
		e.EventLog = raw
	}
	body, err := json.Marshal(e)
	if err != nil {
		m.t.Fatal(err)
	}
	return body
}

// submit posts evidence as the machine.
func (m *machine) submit(body []byte) answer {
	m.t.Helper()
	state := m.agentState()
	a, err := m.svc.send(m.t.Context(), http.MethodPost, "/v1/machines/"+state.MachineID+"/evidence", state.Bearer(), "application/json", body)
	if err != nil {
		m.t.Fatal(err)
	}
	return a
}

// judged posts evidence and expects a verdict.
func (m *machine) judged(body []byte) *verdict {
	m.t.Helper()
	a := m.submit(body)
	if a.status != http.StatusCreated {
		m.t.Fatalf("evidence of %s: %d %s", m.name, a.status, a.body)
	}
	return parseVerdict(m.t, a.body)
}

type check struct{ Code, Status, Detail string }

type deviation struct {
	PCR         int
	Kind        string
	Component   string
	Description string
}

// verdict is what the tests look at in a verdict.
type verdict struct {
	ID         string
	MachineID  string    `json:"machine_id"`
	ReceivedAt time.Time `json:"received_at"`
	Status     string
	Reason     string
	Assurance  string
	Checks     []check
	Deviations []deviation
	Claims     json.RawMessage
	Count      int64
	Token      string            `json:"result_token"`
	Next       *client.Challenge `json:"next_challenge"`
}

func parseVerdict(t testing.TB, body []byte) *verdict {
	t.Helper()
	var v verdict
	if err := json.Unmarshal(body, &v); err != nil || v.Status == "" {
		t.Fatalf("no verdict (%v): %s", err, body)
	}
	var claims bytes.Buffer
	if err := json.Compact(&claims, v.Claims); err != nil {
		t.Fatal(err)
	}
	v.Claims = claims.Bytes()
	return &v
}

// must fails the test unless the verdict is as given, and names the checks that must have failed.
func (v *verdict) must(t testing.TB, status, reason string, failed ...string) *verdict {
	t.Helper()
	if v.Status != status || v.Reason != reason {
		t.Fatalf("verdict %s %q, want %s %q: %+v %+v", v.Status, v.Reason, status, reason, v.Checks, v.Deviations)
	}
	for _, code := range failed {
		if v.check(code).Status != "fail" {
			t.Errorf("check %s is %+v, want fail", code, v.check(code))
		}
	}
	return v
}

func (v *verdict) check(code string) check {
	for _, c := range v.Checks {
		if c.Code == code {
			return c
		}
	}
	return check{}
}

// statuses are the checks with their status and, where they do not pass, what they say.
func (v *verdict) statuses() []check {
	out := slices.Clone(v.Checks)
	for i := range out {
		if out[i].Status == "pass" {
			out[i].Detail = ""
		}
	}
	return out
}

// describes tells whether a deviation in this PCR says all of these words.
func (v *verdict) describes(pcr int, words ...string) bool {
	return slices.ContainsFunc(v.Deviations, func(d deviation) bool {
		return d.PCR == pcr && !slices.ContainsFunc(words, func(w string) bool {
			return !strings.Contains(strings.ToLower(d.Component+" "+d.Description), w)
		})
	})
}
