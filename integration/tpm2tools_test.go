package integration_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// script runs tpm2-tools.sh for a machine.
func (m *machine) script(args ...string) (stdout []byte, stderr string, code int) {
	m.t.Helper()
	path, err := filepath.Abs("tpm2-tools.sh")
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.CommandContext(m.t.Context(), path, append([]string{m.svc.url, m.state}, args...)...)
	cmd.Dir = newFolder(m.t)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "TPM2TOOLS_TCTI=swtpm:path=" + m.box.Socket,
		"EVENT_LOG=" + m.log, "EXTERNAL_ID=ext-" + m.name, "SECURITY_TYPE=" + m.kind}
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case err != nil:
		m.t.Fatal(err)
	}
	return out.Bytes(), problems.String(), code
}

// A client with nothing but tpm2-tools, curl and jq enrols, is judged as a machine with our agent is, and
// attests again after a reboot.
func TestTPM2Tools(t *testing.T) {
	svc := sharedService(t)
	agent := booted(t, svc, "tools-agent", "tools", "sb-on-1")
	ours := agent.attest()

	m := newMachine(t, svc, "tools-script", "tools")
	m.boot(bootLog(t, "sb-on-1"))
	token := writeFile(t, "token", []byte(svc.joinToken(t)+"\n"))
	if _, stderr, code := m.script(); code != 2 || !strings.Contains(stderr, "join token") {
		t.Errorf("without a join token: %d %s", code, stderr)
	}
	wrong := writeFile(t, "token", []byte("assay_join_wrong"))
	if _, stderr, code := m.script(wrong, m.name); code != 2 || !strings.Contains(stderr, "/v1/enrollments: 4") {
		t.Errorf("with a wrong join token: %d %s", code, stderr)
	}
	out, stderr, code := m.script(token, m.name)
	if code != 0 {
		t.Fatalf("tpm2-tools.sh: %d\n%s%s", code, out, stderr)
	}
	v := parseVerdict(t, out).must(t, "affirming", "")
	if v.Assurance != ours.Assurance || v.Assurance != "ek_activated" {
		t.Errorf("assurance %s, with our agent %s", v.Assurance, ours.Assurance)
	}
	status := func(checks []check) (list []string) {
		for _, c := range checks {
			list = append(list, c.Code+" "+c.Status)
		}
		return list
	}
	if !slices.Equal(status(v.Checks), status(ours.Checks)) {
		t.Errorf("the checks of the script:\n%q\nof our agent:\n%q", status(v.Checks), status(ours.Checks))
	}

	svc.post(t, "/v1/machines/"+v.MachineID+"/baseline", nil, nil)
	m.reboot("cmdline")
	out, stderr, code = m.script()
	if code != 1 {
		t.Fatalf("after the reboot: %d\n%s%s", code, out, stderr)
	}
	changed := parseVerdict(t, out).must(t, "contraindicated", "baseline_deviation", "baseline.match")
	if changed.MachineID != v.MachineID || !changed.describes(8, "kernel command line") {
		t.Errorf("after the reboot: %+v", changed)
	}
}
