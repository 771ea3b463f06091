// Command bench measures the workloads W1 to W4, a dry run of a baseline version over the stored evidence of the whole
// fleet (W6), and thousands of machines that fail for one cause within a minute (W7), against the real service and a real
// Postgres, and prints them beside calibrators that were measured in the same run: absolute figures do not carry from machine
// to machine, multiples of R (one RSA-2048 verification) do.
//
//	go run ./integration/bench [--quick] [--machines N] [--rows N] [--json FILE] [--profile DIR]
//
// It starts the embedded Postgres and bin/assayd (serve, TLS), and plays a fleet whose TPMs are keys in
// software: only the load generator's quotes are made so; the service judges them as any other. What is
// counted is the CPU time (user and system) of assayd and of all its Postgres processes, divided by the
// attestations that were completed; the load generator is another process and is not counted. A result is
// the median of several windows. The bench never fails because something was slow; it fails where an
// answer is not the one that the workload must get.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

// options are the command's flags.
type options struct {
	assayd      string
	boots       string
	machines    int
	concurrency int
	windows     int
	rows        int
	json        string
	profile     string
	only        string
	failing     int
	outbreak    time.Duration
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == calibrateServerArg {
		os.Exit(calibrateServer(os.Args[2:]))
	}
	o := options{}
	quick := flag.Bool("quick", false, "a short run: fewer machines, windows and rows; the figures scatter more")
	flag.StringVar(&o.assayd, "assayd", "bin/assayd", "the service's binary")
	flag.StringVar(&o.boots, "boots", "integration/testdata/boots", "folder of the captured boots")
	flag.IntVar(&o.machines, "machines", 1000, "machines of the fleet")
	flag.IntVar(&o.concurrency, "concurrency", 128, "requests in flight")
	flag.IntVar(&o.windows, "windows", 7, "windows that a median is taken of")
	flag.IntVar(&o.rows, "rows", 1_000_000, "verdicts in the table for W4")
	flag.IntVar(&o.failing, "failing", 10_000, "machines that fail for one cause in W7")
	flag.DurationVar(&o.outbreak, "outbreak", time.Minute, "time within which they do, and recover")
	flag.StringVar(&o.json, "json", ".bench/result.json", "where the result goes")
	flag.StringVar(&o.profile, "profile", "", "folder for CPU profiles of the service during W1 and W2")
	flag.StringVar(&o.only, "only", "", "workloads to run, such as W1,W2; all otherwise")
	flag.Parse()
	if *quick {
		o.machines, o.windows, o.rows = min(o.machines, 300), min(o.windows, 3), min(o.rows, 50_000)
		o.failing, o.outbreak = min(o.failing, 1000), min(o.outbreak, 10*time.Second)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has run
	}
}

// run measures everything and writes the report.
func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "assay-bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o711); err != nil { // #nosec G302 -- as root, Postgres runs as another user below it
		return err
	}
	sut, err := startSystem(ctx, o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sut.stop()) }()

	r := &report{Machines: o.machines, Concurrency: o.concurrency, Windows: o.windows}
	if err := calibrate(ctx, sut, o, r); err != nil {
		return err
	}
	if err := workloads(ctx, sut, o, r); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(o.json), 0o750); err != nil {
		return err
	}
	if err := r.write(o.json); err != nil {
		return err
	}
	return r.print(os.Stdout)
}
