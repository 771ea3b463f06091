// Command assay-agent attests the machine that it runs on to an Assay server: it enrols the machine's TPM
// once, or the confidential VM that it is, and then proves at the interval that the server sets what the machine booted.
//
//	assay-agent enroll --server https://assay.example:8440 --join-token TOKEN
//	assay-agent run
//
// It needs to read the TPM and securityfs, which as a rule means root. It listens on nothing, trusts the
// server for nothing but when to come again, and keeps its state in one directory.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/assay-verifier/assay/cmd/assay-agent/attester"
	"github.com/assay-verifier/assay/cmd/assay-agent/platform"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = ""

// The exit codes.
const (
	exitOK             = 0
	exitNotAffirming   = 1 // attest: the verdict is another than affirming
	exitError          = 2
	defaultStateDir    = "/var/lib/assay-agent"
	programDescription = "Attests this machine to an Assay server. Every flag can be given as environment variable, too: ASSAY_ and the flag's name."
)

// cli is the whole configuration.
type cli struct {
	TPM      string `name:"tpm" placeholder:"PATH-OR-SOCKET" help:"TPM device, or unix socket of a software TPM; none to do without, as a confidential VM can. Default: /dev/tpmrm0, else /dev/tpm0."`
	StateDir string `name:"state-dir" placeholder:"DIR" default:"${state_dir}" help:"Where attestation key, machine id and machine token are kept (${default})."`
	Server   string `name:"server" placeholder:"URL" help:"The Assay server. Default: that of the enrolment."`
	CA       string `name:"ca" placeholder:"FILE" help:"PEM certificates that the server's certificate must chain to. Default: those of the system."`
	Cert     string `name:"client-cert" placeholder:"FILE" help:"PEM certificate chain to show to a server that asks for one, leaf first. Read again at each connection."`
	Key      string `name:"client-key" placeholder:"FILE" help:"Its private key, which other users must not be able to read."`
	EventLog string `name:"event-log" placeholder:"FILE" help:"Boot log; an absent or empty one is not sent. Default: ${event_log}."`
	IMALog   string `name:"ima-log" placeholder:"FILE" help:"IMA list, binary or ASCII; an absent or empty one is not sent. Default: ${ima_log}."`

	PlatformEvidence  string `name:"platform-evidence" enum:"auto,none,azure,sev-snp,tdx" default:"auto" help:"Hardware evidence of a confidential VM: auto (at enrolment what there is, from then on the same), azure (the vTPM's HCL report), sev-snp or tdx (through configfs-tsm or /dev/sev-guest); none for the TPM alone, with a key that the agent makes."`
	FetchEndorsements bool   `name:"fetch-endorsements" help:"Allow requests to the cloud's metadata service (169.254.169.254, nothing else): on Azure for the chip's certificates (SEV-SNP; else the server has to have them) and for the TD quote (TDX; there is no other way). The answers are kept in the state directory."`
	TSMReportDir      string `name:"tsm-report-dir" placeholder:"DIR" default:"${tsm_dir}" help:"Where configfs-tsm makes reports (${default})."`
	CCEventLog        string `name:"cc-event-log" placeholder:"FILE" default:"${cc_event_log}" help:"Boot log of a TDX machine; an absent or empty one is not sent (${default})."`

	Output string `name:"output" enum:"text,json" default:"text" help:"text for people, json for programs."`

	Enroll  enrollCmd  `cmd:"" help:"Enrol this machine: prove that its attestation key is in its TPM, or in a confidential VM's."`
	Attest  attestCmd  `cmd:"" help:"Attest once and print the verdict. Exits 0 for affirming, 1 for any other verdict, 2 for an error."`
	Run     runCmd     `cmd:"" help:"Attest now and at the interval that the server sets, until SIGTERM."`
	Token   tokenCmd   `cmd:"" help:"Print a signed result about this machine for a relying party (passport model). Attest first."`
	Status  statusCmd  `cmd:"" help:"Print what this agent knows. Exits 2 when the machine is not enrolled."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

// app is what commands work with.
type app struct {
	cli            *cli
	stdout, stderr io.Writer
	seams          platform.Options
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// exitCode is an error that only carries a process exit code: all has been said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// run is main without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	return runOn(ctx, args, stdout, stderr, platform.Options{})
}

// runOn is run with seams for tests, where there is neither a confidential VM nor a cloud.
func runOn(ctx context.Context, args []string, stdout, stderr io.Writer, seams platform.Options) (code int) {
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("assay-agent"),
		kong.Description(programDescription),
		kong.DefaultEnvars("ASSAY"),
		kong.Vars{"state_dir": defaultStateDir, "event_log": attester.DefaultEventLog, "ima_log": attester.DefaultIMALog,
			"tsm_dir": platform.DefaultTSMDir, "cc_event_log": platform.DefaultCCEventLog},
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.BindTo(ctx, (*context.Context)(nil)),
	)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "assay-agent:", err)
		return exitError
	}
	kctx, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "assay-agent:", err)
		return exitError
	}
	err = kctx.Run(ctx, &app{cli: &c, stdout: stdout, stderr: stderr, seams: seams})
	var only exitCode
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &only):
		return int(only)
	}
	_, _ = fmt.Fprintln(stderr, "assay-agent:", err)
	return exitError
}

// attester makes the attester of the flags.
func (a *app) attester() (*attester.Attester, error) {
	config := attester.Config{
		Server: a.cli.Server, StateDir: a.cli.StateDir, TPM: a.cli.TPM,
		EventLog: a.cli.EventLog, IMALog: a.cli.IMALog, Version: versionText(), Platform: a.seams,
	}
	p := &config.Platform
	p.Mode, p.FetchEndorsements = platform.Mode(a.cli.PlatformEvidence), a.cli.FetchEndorsements
	p.TSMDir, p.CCEventLog = a.cli.TSMReportDir, a.cli.CCEventLog
	p.Warn = func(text string) { a.warnf("%s", text) }
	if a.cli.CA != "" {
		pool, _, err := readCertificates(a.cli.CA)
		if err != nil {
			return nil, err
		}
		config.RootCAs = pool
	}
	if (a.cli.Cert == "") != (a.cli.Key == "") {
		return nil, errors.New("--client-cert and --client-key go together")
	}
	if a.cli.Cert != "" {
		config.Certificate = func() (*tls.Certificate, error) { return clientCertificate(a.cli.Cert, a.cli.Key) }
		if _, err := config.Certificate(); err != nil {
			return nil, err
		}
	}
	at, err := attester.New(config)
	if err != nil {
		return nil, err
	}
	a.warnPlain(at.Server())
	return at, nil
}

// clientCertificate reads the certificate that is shown to a server that asks for one.
func clientCertificate(chain, key string) (*tls.Certificate, error) {
	info, err := os.Stat(key)
	if err != nil {
		return nil, fmt.Errorf("client key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return nil, fmt.Errorf("client key: %s can be read or written by other users (mode %04o): chmod 600 it", key, mode)
	}
	pair, err := tls.LoadX509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	return &pair, nil
}

// readCertificates reads a PEM file, as a pool and as DER.
func readCertificates(path string) (*x509.CertPool, [][]byte, error) {
	text, err := os.ReadFile(path) // #nosec G304 -- the operator names it
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	var der [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: certificate %d: %w", path, len(der)+1, err)
		}
		pool.AddCert(cert)
		der = append(der, block.Bytes)
	}
	if len(der) == 0 {
		return nil, nil, fmt.Errorf("%s holds no PEM certificate", path)
	}
	return pool, der, nil
}

func (a *app) json(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (a *app) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stdout, format, args...)
}

func (a *app) warnf(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stderr, "assay-agent: "+format+"\n", args...)
}

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(_ context.Context, a *app) error {
	if a.cli.Output == "json" {
		return a.json(map[string]string{"version": versionText()})
	}
	a.printf("assay-agent %s\n", versionText())
	return nil
}
