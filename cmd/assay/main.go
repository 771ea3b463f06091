// Command assay is the client of people and pipelines: it asks an Assay service for machines, verdicts,
// alerts, recommendations and baselines, and judges evidence offline with the service's own engine.
//
// Exit codes: 0 done (for verify: affirming); 1 the service refused, could not be reached, or the verdict
// is another than affirming; 2 the command line or an input file cannot be read.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker (-X main.version=…).
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], processEnvironment())
	stop()
	os.Exit(code)
}
