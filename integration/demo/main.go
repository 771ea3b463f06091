// Command demo tells Assay's story on real evidence: it makes a small fleet of software TPMs, extends
// real boot logs into them, enrols each through the agent, and shows what the service makes of a
// healthy boot, a reboot, changed boots, Secure Boot off, replayed and forged quotes, and a machine
// without an agent. run.sh starts the service for it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

type options struct {
	Server  string `required:"" help:"Address of the running service."`
	DataDir string `required:"" help:"The service's data folder, where admin.token is."`
	WorkDir string `required:"" help:"Folder for the fleet's state."`
	Bin     string `required:"" help:"Folder of the built programs."`
	Boots   string `required:"" help:"Recorded boots."`
	Logs    string `required:"" help:"Boot logs of real machines."`
}

func main() {
	var o options
	kong.Parse(&o, kong.Name("demo"), kong.UsageOnError())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "the demo failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	s := &story{options: o, ctx: ctx}
	defer s.stopMachines()
	for _, chapter := range []func() error{
		s.prepare, s.healthy, s.rebooted, s.subscribed, s.changed, s.toldOnce, s.relied, s.predicted, s.rolledOut, s.secureBootOff, s.forged, s.noAgent, s.confidential, s.suppressed, s.recorded, s.ending,
	} {
		if err := chapter(); err != nil {
			return err
		}
	}
	return nil
}

// story holds what the chapters share.
type story struct {
	options
	ctx       context.Context
	tokenFile string
	joinToken string
	machines  []*machine
	receiver  *receiver
}

const (
	bold  = "\x1b[1m"
	plain = "\x1b[0m"
)

// title begins a chapter.
func title(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if fi, err := os.Stdout.Stat(); err == nil && fi.Mode()&os.ModeCharDevice != 0 {
		text = bold + text + plain
	}
	fmt.Printf("\n%s\n", text)
}

// command runs one of the built programs and returns what it printed. A program that answers with one
// of the allowed exit codes has not failed.
func (s *story) command(allowed []int, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(s.ctx, filepath.Join(s.Bin, name), args...)
	cmd.Env = append(os.Environ(), "ASSAY_SERVER="+s.Server, "ASSAY_TOKEN_FILE="+s.tokenFile)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		for _, code := range allowed {
			if exit.ExitCode() == code {
				return string(out), nil
			}
		}
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out), nil
}

// assay runs the CLI.
func (s *story) assay(args ...string) (string, error) { return s.command(nil, "assay", args...) }

// show runs the CLI and prints what it answers.
func (s *story) show(args ...string) error {
	return s.showAs(nil, args...)
}

// verdict runs the CLI offline: exit code 1 says that the evidence is contraindicated.
func (s *story) verdict(args ...string) error { return s.showAs([]int{1}, args...) }

// showAs is show for commands whose exit code is an answer.
func (s *story) showAs(allowed []int, args ...string) error {
	out, err := s.command(allowed, "assay", args...)
	if err != nil {
		return err
	}
	fmt.Printf("$ assay %s\n%s", strings.Join(args, " "), indent(out))
	return nil
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("  " + line)
	}
	return b.String()
}
