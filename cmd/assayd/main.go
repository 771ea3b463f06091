// Command assayd is the service: it takes evidence, judges it, keeps the verdicts and answers questions
// about the fleet. Its configuration is documented at Config.
//
// Exit codes: 0 it ended in order; 1 it failed, and the last line says why; 2 the command line or the
// configuration cannot be used.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/assay-verifier/assay/server/schedule"
)

// version is set by the linker (-X main.version=…).
var version = "dev"

// The exit codes.
const (
	exitFailed  = 1
	exitBadCall = 2
)

// commands is the command line.
type commands struct {
	Serve       serveCommand       `cmd:"" help:"Run the service."`
	Dev         devCommand         `cmd:"" help:"Run the service for trying out: as serve, with a log for people and the admin token shown."`
	Migrate     migrateCommand     `cmd:"" help:"Bring the database's schema up to date and print its version."`
	AdminToken  adminTokenCommand  `cmd:"" help:"Make a new administrator's token and print it: for an operator who has lost every other."`
	Tenants     tenantsCommand     `cmd:"" help:"Make, list and rename the tenants that share the service."`
	Job         jobCommand         `cmd:"" help:"List the jobs that the service does by time, or do a round of one by hand."`
	Backup      backupCommand      `cmd:"" help:"Write the whole database into one file, while the service runs or not. The key-encryption key is not in it."`
	Restore     restoreCommand     `cmd:"" help:"Make the database of a file that assayd backup wrote, of this version or an earlier one. No service may run on it."`
	Doctor      doctorCommand      `cmd:"" help:"Look settings, host and database over, and say what to do about what is not well."`
	Keys        keysCommand        `cmd:"" help:"Keys that sign results, and the key-encryption keys that seal them."`
	Quotas      quotasCommand      `cmd:"" help:"What tenants may have: machines, baselines, tokens, notification channels, stored evidence."`
	Healthcheck healthcheckCommand `cmd:"" help:"Ask the service that runs with the same settings whether it is ready; for container health checks."`
	Version     versionCommand     `cmd:"" help:"Print the version."`
}

// process is what the operating system gives a command.
type process struct {
	ctx            context.Context // ends with the first SIGTERM or SIGINT
	stdout, stderr io.Writer
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	go func() {
		<-ctx.Done()
		stop() // from here on a second signal ends the process at once
	}()
	os.Exit(run(os.Args[1:], &process{ctx: ctx, stdout: os.Stdout, stderr: os.Stderr}))
}

func run(args []string, p *process) int {
	cli := &commands{}
	parser, err := kong.New(cli,
		kong.Name("assayd"),
		kong.Description("Assay, a verifier of measured boot. Each flag can be given by the environment variable named with it."),
		kong.Writers(p.stdout, p.stderr),
		kong.Vars{"data_dir": defaultDataDir(), "amd_kds": schedule.DefaultAMDKDS, "intel_pcs": schedule.DefaultIntelPCS, "intel_root_crl": schedule.DefaultIntelRootCRL},
		kong.ConfigureHelp(kong.HelpOptions{WrapUpperBound: 110}),
	)
	if err != nil {
		fmt.Fprintln(p.stderr, "assayd:", err)
		return exitFailed
	}
	kctx, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintln(p.stderr, "assayd:", err)
		fmt.Fprintln(p.stderr, "try: assayd --help")
		return exitBadCall
	}
	if err := kctx.Run(p); err != nil {
		var verdict doctorVerdict
		if errors.As(err, &verdict) { // it has said everything
			return verdict.code
		}
		message, code := explain(err)
		fmt.Fprintln(p.stderr, "assayd:", message)
		return code
	}
	return 0
}
