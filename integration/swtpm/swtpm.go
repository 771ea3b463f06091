// Package swtpm makes and serves software TPMs for tests and for the demo: TPM 2.0s with
// endorsement keys (RSA-2048 and ECC P-384), EK certificates from a private CA in their NV, and the
// PCR banks that are asked for. A TPM is a folder that survives restarts; serving it is a machine
// reset, which clears its PCRs and counts resetCount up.
//
// In a test:
//
//	t := swtpm.New(tb, swtpm.Options{})
//	device, err := linuxudstpm.Open(t.Socket)
//	roots, err := t.RootPEM()
//
// It needs the Debian packages swtpm, swtpm-tools and gnutls-bin.
package swtpm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// Options say how a TPM is made. The zero value is a TPM with a CA of its own and three banks.
type Options struct {
	// CADir holds the CA that certifies the EK. TPMs with the same CADir have the same root; it is
	// made when first used, also by several TPMs at once. Empty: a folder "ca" beside the state.
	CADir string
	// Name is the subject of the EK certificates. Empty: the name of the TPM's folder.
	Name string
	// Banks are the active PCR banks. Empty: sha1, sha256 and sha384.
	Banks []string
}

// TPM is a software TPM that is being served.
type TPM struct {
	Socket   string // unix socket of plain TPM commands, as linuxudstpm.Open takes it; Socket+".ctrl" is the control channel
	StateDir string // holds ek-rsa2048.crt and ek-secp384r1.crt (DER) beside the state
	CADir    string
	PID      int // of the serving process, which outlives the caller unless Stop is called

	socketDir string
	exited    chan struct{}
}

// startTimeout bounds how long swtpm may take to open its sockets, and to end.
const startTimeout = 20 * time.Second

// Start serves the TPM in dir, making it first if there is none. dir becomes absolute, since swtpm
// needs that. The TPM runs until Stop; ctx only bounds making and starting it.
func Start(ctx context.Context, dir string, o Options) (*TPM, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	t := &TPM{StateDir: filepath.Join(dir, "state"), CADir: filepath.Join(dir, "ca")}
	if o.CADir != "" {
		if t.CADir, err = filepath.Abs(o.CADir); err != nil {
			return nil, err
		}
	}
	if o.Name == "" {
		o.Name = filepath.Base(dir)
	}
	if len(o.Banks) == 0 {
		o.Banks = []string{"sha1", "sha256", "sha384"}
	}
	if _, err := os.Stat(filepath.Join(t.StateDir, "tpm2-00.permall")); errors.Is(err, os.ErrNotExist) {
		if err := manufacture(ctx, t, o); err != nil {
			return nil, err
		}
	}
	if err := t.serve(ctx); err != nil {
		return nil, err
	}
	return t, nil
}

// manufacture makes keys, certificates and state with swtpm_setup.
func manufacture(ctx context.Context, t *TPM, o Options) error {
	for _, tool := range []string{"swtpm", "swtpm_setup", "swtpm_localca"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed (apt-get install swtpm swtpm-tools gnutls-bin): %w", tool, err)
		}
	}
	for _, dir := range []string{t.StateDir, t.CADir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	config, err := writeConfig(t)
	if err != nil {
		return err
	}
	log := filepath.Join(t.StateDir, "setup.log")
	cmd := exec.CommandContext(ctx, "swtpm_setup", "--tpm2", "--tpm-state", t.StateDir, "--config", config,
		"--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--vmid", o.Name,
		"--pcr-banks", strings.Join(o.Banks, ","), "--write-ek-cert-files", t.StateDir, "--overwrite", "--logfile", log)
	if out, err := cmd.CombinedOutput(); err != nil {
		text, _ := os.ReadFile(log)
		return fmt.Errorf("swtpm_setup: %w\n%s%s", err, out, text)
	}
	return nil
}

// writeConfig writes what swtpm_setup and swtpm_localca read. The files lie beside the state and not
// beside the CA, so that TPMs that share a CA can be made at the same time.
func writeConfig(t *TPM) (string, error) {
	localca, err := exec.LookPath("swtpm_localca")
	if err != nil {
		return "", err
	}
	in := func(name string) string { return filepath.Join(t.StateDir, name) }
	ca := func(name string) string { return filepath.Join(t.CADir, name) }
	files := map[string]string{
		in("swtpm-localca.conf"): fmt.Sprintf("statedir = %s\nsigningkey = %s\nissuercert = %s\ncertserial = %s\n",
			t.CADir, ca("signkey.pem"), ca("issuercert.pem"), ca("certserial")),
		in("swtpm-localca.options"): "--platform-manufacturer ExampleCorp\n--platform-version 1.0\n--platform-model testbox\n",
		in("swtpm_setup.conf"): fmt.Sprintf("create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\n",
			localca, in("swtpm-localca.conf"), in("swtpm-localca.options")),
	}
	for name, text := range files {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return in("swtpm_setup.conf"), nil
}

// serve starts swtpm and waits until its sockets answer.
func (t *TPM) serve(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "tpm") // short: a unix socket's path has at most 107 bytes
	if err != nil {
		return err
	}
	t.socketDir = dir
	t.Socket = filepath.Join(dir, "s")
	if len(t.Socket) >= 103 {
		_ = os.RemoveAll(dir)
		return fmt.Errorf("the socket path %s is too long; set TMPDIR to a shorter one", t.Socket)
	}
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+t.StateDir,
		"--server", "type=unixio,path="+t.Socket, "--ctrl", "type=unixio,path="+t.Socket+".ctrl",
		"--flags", "not-need-init,startup-clear", "--log", "file="+filepath.Join(t.StateDir, "swtpm.log")+",truncate")
	// A group of its own, so that ^C at a terminal does not kill it without TPM2_Shutdown.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		_ = os.RemoveAll(dir)
		return fmt.Errorf("start swtpm: %w", err)
	}
	t.PID = cmd.Process.Pid
	t.exited = make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(t.exited)
	}()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if listening(t.Socket) && listening(t.Socket+".ctrl") {
			return nil
		}
		select {
		case <-t.exited:
			log, _ := os.ReadFile(filepath.Join(t.StateDir, "swtpm.log"))
			_ = os.RemoveAll(dir)
			return fmt.Errorf("swtpm ended at once: %s", log)
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			_ = os.RemoveAll(dir)
			return fmt.Errorf("swtpm opens no socket: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// listening tells whether somebody listens on the socket: its file exists a moment earlier. The kernel's
// table is read, since a connection made to find out would take swtpm's only place in the queue.
func listening(socket string) bool {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(table)) {
		// Num RefCount Protocol Flags Type St Inode Path; the flag is __SO_ACCEPTCON.
		f := strings.Fields(line)
		if len(f) == 8 && f[7] == socket && f[3] == "00010000" {
			return true
		}
	}
	return false
}

// Stop shuts the TPM down in order and ends its process. A TPM that is killed without
// TPM2_Shutdown counts a failed authorization; after three it is locked for hours.
func (t *TPM) Stop() error {
	err := StopProcess(t.Socket, t.PID)
	if t.exited != nil {
		select {
		case <-t.exited:
		case <-time.After(startTimeout):
			return errors.Join(err, fmt.Errorf("swtpm (pid %d) does not end", t.PID))
		}
	}
	return errors.Join(err, os.RemoveAll(t.socketDir))
}

// StopProcess is Stop for a TPM that another process started: its socket and its pid are enough.
func StopProcess(socket string, pid int) error {
	err := shutdown(socket)
	if killErr := syscall.Kill(pid, syscall.SIGTERM); killErr != nil && !errors.Is(killErr, syscall.ESRCH) {
		err = errors.Join(err, fmt.Errorf("end swtpm (pid %d): %w", pid, killErr))
	}
	return err
}

func shutdown(socket string) error {
	device, err := linuxudstpm.Open(socket)
	if err != nil {
		return err
	}
	_, err = tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(device)
	if err != nil {
		err = fmt.Errorf("TPM2_Shutdown: %w", err)
	}
	return errors.Join(err, device.Close())
}

// Reset stops the TPM and serves it again, as a machine's reboot does: PCRs are cleared, resetCount
// is one more, and Socket and PID are new.
func (t *TPM) Reset(ctx context.Context) error {
	if err := t.Stop(); err != nil {
		return err
	}
	return t.serve(ctx)
}

// RootPEM is the root certificate of the TPM's CA.
func (t *TPM) RootPEM() ([]byte, error) {
	return os.ReadFile(filepath.Join(t.CADir, "swtpm-localca-rootca-cert.pem"))
}

// IntermediatePEM is the certificate that issued the EK certificates.
func (t *TPM) IntermediatePEM() ([]byte, error) {
	return os.ReadFile(filepath.Join(t.CADir, "issuercert.pem"))
}

// EKCertificate is the EK certificate (DER) of "rsa2048" or "secp384r1".
func (t *TPM) EKCertificate(kind string) ([]byte, error) {
	return os.ReadFile(filepath.Join(t.StateDir, "ek-"+kind+".crt"))
}

// TB is what New needs of a *testing.T; this package is used outside of tests too.
type TB interface {
	Helper()
	TempDir() string
	Cleanup(func())
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

// New makes and serves a TPM for the duration of a test.
func New(tb TB, o Options) *TPM {
	tb.Helper()
	t, err := Start(context.Background(), tb.TempDir(), o)
	if err != nil {
		tb.Fatalf("software TPM: %v", err)
	}
	tb.Cleanup(func() {
		if err := t.Stop(); err != nil {
			tb.Errorf("stop the software TPM: %v", err)
		}
	})
	return t
}
