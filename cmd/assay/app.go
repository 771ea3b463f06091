package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/assay-verifier/assay/openapi/client"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailed  = 1 // refused, unreachable, or a verdict that is not affirming
	exitBadCall = 2 // the command line or an input file cannot be read
)

// environment is what the process gives: tests pass their own.
type environment struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	now            func() time.Time
	stdoutTerminal bool
	stderrTerminal bool
}

func processEnvironment() environment {
	return environment{
		stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, now: time.Now,
		stdoutTerminal: isTerminal(os.Stdout), stderrTerminal: isTerminal(os.Stderr),
	}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// app is what every command gets: where to print and how to ask.
type app struct {
	environment
	ctx   context.Context
	cli   *CLI
	json  bool
	print *printer
	// service is made at the first call of api.
	service *client.ClientWithResponses
}

// quietExit ends the process with a code when all that is to be said has been printed.
type quietExit int

func (e quietExit) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// run parses the command line, runs the command and gives the exit code.
func run(ctx context.Context, args []string, env environment) (code int) {
	cli := &CLI{}
	left := -1 // set where kong itself ends the run: --help
	parser, err := kong.New(cli,
		kong.Name("assay"),
		kong.Description("Asks an Assay service, and judges evidence offline with the same engine."),
		kong.Writers(env.stdout, env.stderr),
		kong.Exit(func(c int) { left = c; panic(errKongExit) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 110}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "findings", Title: "What is known of the fleet:"},
			{Key: "reference", Title: "What the fleet is meant to be:"},
			{Key: "admin", Title: "Administration:"},
			{Key: "offline", Title: "Without a service:"},
		}),
	)
	if err != nil {
		fmt.Fprintln(env.stderr, "assay:", err)
		return exitBadCall
	}
	defer func() {
		if r := recover(); r != nil {
			if r != errKongExit { //nolint:errorlint // a recovered value, compared by identity
				panic(r)
			}
			code = left
		}
	}()
	a := &app{environment: env, ctx: ctx, cli: cli}
	kctx, err := parser.Parse(args)
	a.json = cli.Output == "json" || (err != nil && wantsJSON(args))
	a.print = &printer{w: env.stdout, color: a.useColor(env.stdoutTerminal), now: env.now}
	if err != nil {
		return a.fail(&problem{Title: "The command line cannot be used", Code: "usage", Detail: err.Error(), Hint: "assay --help", exit: exitBadCall})
	}
	if err := kctx.Run(a); err != nil {
		return a.fail(err)
	}
	return exitOK
}

var errKongExit = errors.New("kong ended the run")

// wantsJSON looks for --output json in a command line that did not parse.
func wantsJSON(args []string) bool {
	for i, arg := range args {
		if arg == "--output=json" || arg == "-ojson" || ((arg == "--output" || arg == "-o") && i+1 < len(args) && args[i+1] == "json") {
			return true
		}
	}
	return false
}

// useColor follows the terminal and NO_COLOR (https://no-color.org).
func (a *app) useColor(terminal bool) bool {
	return terminal && !a.json && a.getenv("NO_COLOR") == "" && a.getenv("TERM") != "dumb"
}

// fail prints an error as the problem document that it is, and gives the exit code.
func (a *app) fail(err error) int {
	var quiet quietExit
	if errors.As(err, &quiet) {
		return int(quiet)
	}
	p := problemOf(err)
	if a.json {
		body, jsonErr := json.MarshalIndent(p, "", "  ")
		if jsonErr == nil {
			fmt.Fprintln(a.stderr, string(body))
			return p.exitCode()
		}
	}
	fmt.Fprint(a.stderr, p.text(&printer{w: a.stderr, color: a.useColor(a.stderrTerminal), now: a.now}))
	return p.exitCode()
}

// printJSON writes v, or, for a []byte, the JSON document in it, indented.
func (a *app) printJSON(v any) error {
	var body []byte
	switch raw := v.(type) {
	case []byte:
		if len(strings.TrimSpace(string(raw))) == 0 {
			return nil // 204: there is nothing to print
		}
		var doc json.RawMessage
		if err := json.Unmarshal(raw, &doc); err != nil {
			return fmt.Errorf("the service's answer is not JSON: %w", err)
		}
		body = doc
	default:
		doc, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("write JSON: %w", err)
		}
		body = doc
	}
	indented, err := json.MarshalIndent(json.RawMessage(body), "", "  ")
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	_, err = fmt.Fprintln(a.stdout, string(indented))
	return err
}
