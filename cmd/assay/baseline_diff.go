package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/verifier"
)

// BaselineDiff compares two sets of reference values.
type BaselineDiff struct {
	Before string `arg:"" help:"A file with reference_values, or NAME@VERSION of the service."`
	After  string `arg:"" help:"Likewise."`
}

// Help explains the exit code.
func (c *BaselineDiff) Help() string { return "Exit code: 0 nothing changed, 1 something did." }

// Run compares them.
func (c *BaselineDiff) Run(a *app) error {
	before, err := a.loadReference(c.Before)
	if err != nil {
		return err
	}
	after, err := a.loadReference(c.After)
	if err != nil {
		return err
	}
	changes := baseline.Diff(before, after)
	if a.json {
		if changes == nil {
			changes = []verifier.Deviation{}
		}
		if err := a.printJSON(map[string]any{"deviations": changes}); err != nil {
			return err
		}
	} else if len(changes) == 0 {
		fmt.Fprintln(a.stderr, "Nothing changed.")
	} else {
		a.print.deviations("Changes", changes)
	}
	if len(changes) > 0 {
		return quietExit(exitFailed)
	}
	return nil
}

// loadReference reads a file where there is one of that name, else asks the service for NAME@VERSION.
func (a *app) loadReference(text string) (*verifier.Reference, error) {
	if _, err := os.Stat(text); err == nil || text == "-" || !strings.Contains(text, "@") {
		return readReference(text, a.stdin)
	}
	id, version, err := a.baselineVersion(text)
	if err != nil {
		return nil, err
	}
	api, err := a.api()
	if err != nil {
		return nil, err
	}
	resp, err := api.GetBaselineVersionWithResponse(a.ctx, id, version)
	v, _, err := answer[client.BaselineVersion](a, resp, err)
	if err != nil {
		return nil, err
	}
	if v.ReferenceValues == nil {
		return nil, &problem{Title: "The service's answer cannot be read", Code: "bad_answer", Detail: "the version came without its reference values"}
	}
	reference, err := verifier.ParseReferenceValues(*v.ReferenceValues)
	if err != nil {
		return nil, unreadable(text, "reference values", err)
	}
	return reference, nil
}
