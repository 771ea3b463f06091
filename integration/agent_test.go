package integration_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/integration/measure"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// measureIMA extends entries into PCR 10 and adds them to the machine's list.
func (m *machine) measureIMA(entries []byte) {
	m.t.Helper()
	m.with(func(d *tpmdevice.Device) error { return measure.IMA(d, entries, tpm.SHA1, tpm.SHA256) })
	list, err := os.OpenFile(m.ima, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	_, err = list.Write(entries)
	if closeErr := list.Close(); err != nil || closeErr != nil {
		m.t.Fatal(err, closeErr)
	}
}

// The agent sends a boot log once, and of the IMA list only what was measured since.
func TestIMAIncrement(t *testing.T) {
	svc := sharedService(t)
	m := newMachine(t, svc, "ima-web", "ima")
	m.boot(bootLog(t, "ima-tcb-1"))
	m.ima = filepath.Join(newFolder(t), "list")
	list := readFile(t, bootFile(t, "ima-tcb-1", "ima_binary_runtime_measurements"))
	const first = 5 // entries measured before the first attestation
	rest, err := ima.Skip(list, first)
	if err != nil || len(rest) == 0 {
		t.Fatalf("%v, %d bytes after %d entries", err, len(rest), first)
	}
	parsed, err := ima.Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	m.measureIMA(list[:len(list)-len(rest)])
	m.enroll()
	p := newProxy(t, svc)
	m.server = p.url
	log := readFile(t, m.log)

	// round attests and checks what went over the wire.
	round := func(what string, puts, offset int, entries []byte) {
		t.Helper()
		v := m.attest().must(t, "affirming", "")
		if v.check("ima.replay").Status != "pass" {
			t.Errorf("%s: %+v", what, v.check("ima.replay"))
		}
		sent := p.take()
		logs, posts := only(sent, "PUT", "/event-logs/"), only(sent, "POST", "/evidence")
		if len(logs) != puts || len(posts) != 1 {
			t.Fatalf("%s: %d logs and %d pieces of evidence were sent", what, len(logs), len(posts))
		}
		for _, l := range logs {
			if !bytes.Equal(l.body, log) {
				t.Errorf("%s: the log that was sent is not the machine's", what)
			}
		}
		var e client.Evidence
		if err := json.Unmarshal(posts[0].body, &e); err != nil {
			t.Fatal(err)
		}
		if e.EventLog != nil || e.EventLogDigest == "" {
			t.Errorf("%s: the evidence holds a log of %d bytes, digest %q", what, len(e.EventLog), e.EventLogDigest)
		}
		if e.IMALogOffset != offset || !bytes.Equal(e.IMALog, entries) {
			t.Errorf("%s: %d bytes of the list from entry %d were sent, want %d bytes from %d", what, len(e.IMALog), e.IMALogOffset, len(entries), offset)
		}
	}
	round("the first attestation", 1, 0, list[:len(list)-len(rest)])
	m.measureIMA(rest)
	round("after more was measured", 0, first, rest)
	round("nothing new", 0, parsed.Len(), nil)

	if err := m.box.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.boot(m.log)
	if err := os.Remove(m.ima); err != nil {
		t.Fatal(err)
	}
	m.measureIMA(list)
	round("after a reboot", 0, 0, list)
}

// lines passes on what a program prints, line by line, until it ends.
func lines(r io.Reader) <-chan string {
	out := make(chan string, 100)
	go func() {
		defer close(out)
		scanner := bufio.NewScanner(r)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			out <- scanner.Text()
		}
	}()
	return out
}

// await takes the next line that has this part.
func await(t *testing.T, from <-chan string, part string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case line, ok := <-from:
			if !ok {
				t.Fatalf("the program ended before it said %q", part)
			}
			if strings.Contains(line, part) {
				return line
			}
		case <-deadline:
			t.Fatalf("nothing says %q", part)
		}
	}
}

// `assay-agent run` attests at its start and at the interval that the policy sets, over one connection and
// with one challenge asked for; it outlives a service that goes away, and ends in order.
func TestAgentRun(t *testing.T) {
	t.Parallel()
	svc := newService(t)
	svc.policy(t, "run", map[string]any{"attestation_interval_seconds": 10})
	m := booted(t, svc, "run-web", "run", "sb-on-1")
	p := newProxy(t, svc)
	m.server = p.url
	agent := m.agent("run")
	stdout, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := agent.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	verdicts, problems := lines(stdout), lines(stderr)
	next := func() *verdict {
		t.Helper()
		return parseVerdict(t, []byte(await(t, verdicts, `"status"`))).must(t, "affirming", "")
	}
	first := next()
	second := next()
	if second.ID != first.ID {
		t.Errorf("nothing changed, and the verdict is another: %s, it was %s", second.ID, first.ID)
	}
	sent := p.take()
	for part, want := range map[string]int{"/challenges": 1, "/evidence": 2} {
		if n := len(only(sent, "POST", part)); n != want {
			t.Errorf("%d requests to %s, want %d", n, part, want)
		}
	}
	if n := len(only(sent, "PUT", "/event-logs/")); n != 1 {
		t.Errorf("the log was sent %d times", n)
	}
	if n := p.connections(); n != 1 {
		t.Errorf("the agent made %d connections", n)
	}

	if err := svc.terminate(); err != nil {
		t.Error(err)
	}
	await(t, problems, "next try in")
	if err := svc.start(); err != nil {
		t.Fatal(err)
	}
	p.to(t, svc)
	if v := next(); v.ID != first.ID {
		t.Errorf("after the service was away the verdict is %s, it was %s", v.ID, first.ID)
	}
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for range verdicts { // until it has ended; Wait closes the pipes
	}
	for range problems {
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}
