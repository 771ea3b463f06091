package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/verifier"
)

// BaselineDiff compares two sets of reference values.
type BaselineDiff struct {
	Sides []string `arg:"" placeholder:"BEFORE AFTER" help:"Two of: a file with reference_values, NAME@VERSION or NAME VERSION of the service. Of two versions of one baseline the second needs no name."`
}

// sides are what is compared, in the forms that loadReference takes.
func (c *BaselineDiff) sides() (before, after string, err error) {
	var sides []string
	name := "" // of the version before
	for i := 0; i < len(c.Sides); i++ {
		side := c.Sides[i]
		switch {
		case isFile(side):
			name = ""
		case isVersion(side) && name != "":
			side = name + "@" + side
		case i+1 < len(c.Sides) && !strings.Contains(side, "@") && isVersion(c.Sides[i+1]):
			name = side
			i++
			side += "@" + c.Sides[i]
		default:
			name, _, _ = strings.Cut(side, "@")
		}
		sides = append(sides, side)
	}
	if len(sides) != 2 {
		return "", "", badUsage(fmt.Sprintf("two are compared, and %s named: for example NAME@1 NAME@2, or NAME 1 2", map[bool]string{true: "one is", false: strconv.Itoa(len(sides)) + " are"}[len(sides) == 1]))
	}
	return sides[0], sides[1], nil
}

func isVersion(text string) bool {
	n, err := strconv.Atoi(text)
	return err == nil && n > 0 && !isFile(text)
}

func isFile(text string) bool {
	_, err := os.Stat(text)
	return err == nil || text == "-"
}

// Help explains the exit code.
func (c *BaselineDiff) Help() string { return "Exit code: 0 nothing changed, 1 something did." }

// Run compares them.
func (c *BaselineDiff) Run(a *app) error {
	from, to, err := c.sides()
	if err != nil {
		return err
	}
	before, err := a.loadReference(from)
	if err != nil {
		return err
	}
	after, err := a.loadReference(to)
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
	if isFile(text) || !strings.Contains(text, "@") {
		return readReference(text, a.stdin)
	}
	which := VersionName{Baseline: text}
	id, version, err := which.find(a)
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
