package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/integration/measure"
	"github.com/assay-verifier/assay/integration/swtpm"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// machine is one member of the fleet: a software TPM, the agent's state, and what it booted.
type machine struct {
	story        *story
	name         string
	scaleSet     string
	securityType string
	tpm          *swtpm.TPM
	log          string // file of the boot log that it booted last
}

// newMachine makes a machine with a TPM of its own; all TPMs are certified by one vendor's CA.
func (s *story) newMachine(name, scaleSet, securityType string) (*machine, error) {
	m := &machine{story: s, name: name, scaleSet: scaleSet, securityType: securityType}
	var err error
	m.tpm, err = swtpm.Start(s.ctx, filepath.Join(s.WorkDir, "tpm", name), swtpm.Options{
		CADir: filepath.Join(s.WorkDir, "vendor-ca"), Name: name, Banks: []string{"sha1", "sha256"}})
	if err != nil {
		return nil, err
	}
	s.machines = append(s.machines, m)
	return m, nil
}

// boot extends the events of a recorded boot into the machine's TPM, as its firmware, boot loader and
// kernel did when it was recorded.
func (m *machine) boot(log string) error {
	raw, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	device, err := tpmdevice.Open(m.tpm.Socket)
	if err != nil {
		return err
	}
	defer device.Close()
	m.log = log
	return measure.Log(device, raw, tpm.SHA1, tpm.SHA256)
}

func (m *machine) bootRecorded(name string) error {
	return m.boot(filepath.Join(m.story.Boots, name, "evidence", "binary_bios_measurements"))
}

func (m *machine) agentArgs(command string, more ...string) []string {
	return append([]string{command,
		"--tpm", m.tpm.Socket, "--state-dir", m.stateDir(), "--server", m.story.Server,
		"--event-log", m.log, "--ima-log", filepath.Join(m.story.WorkDir, "none")}, more...)
}

func (m *machine) stateDir() string { return filepath.Join(m.story.WorkDir, "agent", m.name) }

// enroll runs the agent's enrolment: credential activation against the EK certificate.
func (m *machine) enroll() error {
	args := m.agentArgs("enroll", "--join-token", m.story.joinToken, "--name", m.name, "--external-id", "demo-"+m.name,
		"--platform", "qemu", "--security-type", m.securityType)
	if m.scaleSet != "" {
		args = append(args, "--scale-set", m.scaleSet)
	}
	_, err := m.story.command(nil, "assay-agent", args...)
	return err
}

// attest runs the agent once and returns the verdict that the service answered.
func (m *machine) attest() (*verdict, error) {
	out, err := m.story.command([]int{1}, "assay-agent", m.agentArgs("attest", "--output", "json")...)
	if err != nil {
		return nil, err
	}
	return parseVerdict([]byte(out))
}

// verdict is what the story tells of a verdict.
type verdict struct {
	ID         string `json:"id"`
	MachineID  string `json:"machine_id"`
	Status     string `json:"status"`
	Reason     string `json:"reason"`
	Assurance  string `json:"assurance"`
	Deviations []struct {
		PCR         int    `json:"pcr"`
		Description string `json:"description"`
	} `json:"deviations"`
	Checks []struct {
		Code, Status, Detail string
	} `json:"checks"`
}

func parseVerdict(body []byte) (*verdict, error) {
	var v verdict
	if err := json.Unmarshal(body, &v); err != nil {
		return nil, fmt.Errorf("reading the verdict: %w", err)
	}
	return &v, nil
}

// tell prints a verdict and why, and fails the demo if it is not the expected one.
func (m *machine) tell(v *verdict, status, reason string) error {
	mark := "✓"
	if v.Status != "affirming" {
		mark = "✗"
	}
	fmt.Printf("%s %-8s %s", mark, m.name, v.Status)
	if v.Reason != "" {
		fmt.Printf(" (%s)", v.Reason)
	}
	fmt.Printf(", assurance %s\n", v.Assurance)
	for _, c := range v.Checks {
		if c.Status == "fail" && c.Code != "baseline.match" {
			fmt.Printf("    %s: %s\n", c.Code, c.Detail)
		}
	}
	for _, d := range v.Deviations {
		fmt.Printf("    PCR %d: %s\n", d.PCR, d.Description)
	}
	if v.Status != status || v.Reason != reason {
		return fmt.Errorf("%s is %s %q; the story expects %s %q", m.name, v.Status, v.Reason, status, reason)
	}
	return nil
}

// attestAndTell is attest and tell.
func (m *machine) attestAndTell(status, reason string) error {
	v, err := m.attest()
	if err != nil {
		return err
	}
	return m.tell(v, status, reason)
}

func (s *story) stopMachines() {
	for _, m := range s.machines {
		if m.tpm == nil {
			continue
		}
		if err := m.tpm.Stop(); err != nil {
			fmt.Fprintf(os.Stderr, "stopping the TPM of %s: %v\n", m.name, err)
		}
	}
}
