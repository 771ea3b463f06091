package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strconv"
	"time"

	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/verifier"
)

// trial is the answer to a dry run or a policy test, as far as it is shown.
type trial struct {
	Covered          int              `json:"covered"`
	Judged           int              `json:"judged"`
	Healthy          int              `json:"healthy"`
	Unhealthy        int              `json:"unhealthy"`
	None             int              `json:"none"`
	NotJudged        int              `json:"not_judged"`
	BecomeUnhealthy  int              `json:"become_unhealthy"`
	BecomeHealthy    int              `json:"become_healthy"`
	NotJudgedBecause map[string]int   `json:"not_judged_because"`
	Deviations       []trialDeviation `json:"deviations"`
	MoreDeviations   int              `json:"more_deviations"`
	FailedChecks     []trialCheck     `json:"failed_checks"`
	Machines         []trialMachine   `json:"machines"`
	MoreMachines     int              `json:"more_machines"`
}

type trialDeviation struct {
	verifier.Deviation
	Machines int `json:"machines"`
}

type trialCheck struct {
	Code     verifier.CheckCode `json:"code"`
	Machines int                `json:"machines"`
	Detail   string             `json:"detail"`
}

type trialMachine struct {
	MachineName string               `json:"machine_name"`
	ScaleSet    string               `json:"scale_set"`
	StatusNow   string               `json:"status_now"`
	StatusThen  string               `json:"status_then"`
	FailedCheck string               `json:"failed_check"`
	Detail      string               `json:"detail"`
	Deviations  []verifier.Deviation `json:"deviations"`
}

// why says in a line why the machine would be judged so.
func (m *trialMachine) why() string {
	switch n := len(m.Deviations); {
	case n == 1:
		return m.Deviations[0].Description
	case n > 1:
		return fmt.Sprintf("%s, and %d more", m.Deviations[0].Description, n-1)
	case m.FailedCheck != "":
		return m.FailedCheck + ": " + m.Detail
	}
	return "–"
}

// trialLine is one line of the answer.
type trialLine struct {
	Progress *struct{ Done, Total int64 }
	Result   json.RawMessage
	Problem  *problem
}

// runTrial asks for a trial, tells of its progress on standard error, and shows the result. The exit code is 0 where no
// machine that is healthy would cease to be, 1 where one would, and 2 where the trial could not be made.
func (a *app) runTrial(ask func(*client.ClientWithResponses, client.RequestEditorFn) (*http.Response, error)) error {
	api, err := a.api()
	if err == nil {
		var raw json.RawMessage
		if raw, err = a.readTrial(ask(api, acceptLines)); err == nil {
			return a.showTrial(raw)
		}
	}
	p := problemOf(err)
	p.exit = exitBadCall
	return p
}

func acceptLines(_ context.Context, req *http.Request) error {
	req.Header.Set("Accept", "application/x-ndjson, application/problem+json")
	return nil
}

// readTrial reads lines up to the result.
func (a *app) readTrial(resp *http.Response, err error) (json.RawMessage, error) {
	if err != nil {
		return nil, a.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return nil, a.unreachable(err)
		}
		return nil, refused(client.DryRunBaselineVersionResponse{Body: body, HTTPResponse: resp})
	}
	lines := bufio.NewReader(resp.Body)
	told := a.now()
	for {
		raw, err := lines.ReadBytes('\n')
		if err != nil {
			return nil, a.unreachable(fmt.Errorf("the answer ends before the result: %w", errors.Join(err, a.ctx.Err())))
		}
		var line trialLine
		if err := json.Unmarshal(bytes.TrimSpace(raw), &line); err != nil {
			return nil, badAnswer(err)
		}
		switch {
		case line.Problem != nil:
			return nil, line.Problem
		case line.Result != nil:
			return line.Result, nil
		case line.Progress != nil && a.now().Sub(told) >= time.Second:
			told = a.now()
			fmt.Fprintf(a.stderr, "assay: %d of %d machines judged\n", line.Progress.Done, line.Progress.Total)
		}
	}
}

func (a *app) showTrial(raw json.RawMessage) error {
	var t trial
	if err := json.Unmarshal(raw, &t); err != nil {
		return badAnswer(err)
	}
	if a.json {
		if err := a.printJSON([]byte(raw)); err != nil {
			return err
		}
	} else {
		a.print.trial(&t)
	}
	if t.BecomeUnhealthy > 0 {
		return quietExit(exitFailed)
	}
	return nil
}

// trial writes a trial for people: the counts, what differs on how many machines, and the machines.
func (p *printer) trial(t *trial) {
	p.line("Of %s that it would cover, %s.", count(t.Covered, "machine"), p.paint(green, fmt.Sprintf("%d would be healthy", t.Healthy)))
	p.field("unhealthy", strconv.Itoa(t.Unhealthy))
	p.field("healthy now, and not then", strconv.Itoa(t.BecomeUnhealthy))
	p.field("not healthy now, but then", strconv.Itoa(t.BecomeHealthy))
	if t.None > 0 {
		p.field("nothing to judge", strconv.Itoa(t.None))
	}
	reasons := make([]string, 0, len(t.NotJudgedBecause))
	for why := range t.NotJudgedBecause {
		reasons = append(reasons, why)
	}
	sort.Strings(reasons)
	for _, why := range reasons {
		p.field("not judged", fmt.Sprintf("%d %s", t.NotJudgedBecause[why], clean(why)))
	}
	if len(t.Deviations) > 0 {
		p.heading("What differs")
		rows := make([][]cell, len(t.Deviations))
		for i := range t.Deviations {
			d := &t.Deviations[i]
			where := "claim"
			if d.PCR >= 0 {
				where = d.Register()
			}
			rows[i] = []cell{plain(strconv.Itoa(d.Machines)), plain(where), plain(d.Description), {d.Actual, dim}}
		}
		p.table([]string{"MACHINES", "PCR", "DIFFERENCE", "MEASURED"}, rows)
	}
	if t.MoreDeviations > 0 {
		p.line("and %d occurrences of others", t.MoreDeviations)
	}
	if len(t.Machines) == 0 {
		return
	}
	p.heading("Machines")
	rows := make([][]cell, len(t.Machines))
	for i := range t.Machines {
		m := &t.Machines[i]
		rows[i] = []cell{plain(m.MachineName), plain(dash(m.ScaleSet)), status(m.StatusNow), status(m.StatusThen), plain(m.why())}
	}
	p.table([]string{"MACHINE", "SCALE SET", "NOW", "THEN", "WHY"}, rows)
	if t.MoreMachines > 0 {
		p.line("and %d more", t.MoreMachines)
	}
}

// BaselineDryRun judges stored evidence by a version, or by values that are not registered.
type BaselineDryRun struct {
	Baseline        string `arg:"" optional:"" help:"NAME@VERSION, or, with --reference-values, the NAME that they would be the next version of."`
	Version         int    `arg:"" optional:"" help:"The version, where it is not in the name."`
	ReferenceValues string `placeholder:"FILE" help:"Reference values that are not registered, as assay capture prints them; - is standard input."`
	SelectorFlags   `embed:""`
}

// Help is what --help says beneath.
func (*BaselineDryRun) Help() string {
	return "Exits with 0 where no machine that is healthy would cease to be, with 1 where one would, and with 2 where it could not be tried."
}

// Run asks.
func (c *BaselineDryRun) Run(a *app) error {
	usage := func(detail string) error {
		return &problem{Title: "The command line cannot be used", Code: "usage", Detail: detail, exit: exitBadCall}
	}
	switch {
	case c.ReferenceValues == "" && c.Baseline == "":
		return usage("name a version (NAME@VERSION), or give --reference-values")
	case c.ReferenceValues != "" && c.Version != 0:
		return usage("with --reference-values name the baseline alone: they would be its next version")
	case c.ReferenceValues == "" && c.given(), c.Baseline != "" && c.given():
		return usage("a baseline keeps the machines it was registered for: leave --scale-set, --label, --platform and --for out")
	case c.ReferenceValues == "":
		which := VersionName{Baseline: c.Baseline, Version: c.Version}
		id, version, err := which.find(a)
		if err != nil {
			return asBadCall(err)
		}
		return a.runTrial(func(api *client.ClientWithResponses, lines client.RequestEditorFn) (*http.Response, error) {
			return api.DryRunBaselineVersion(a.ctx, id, version, &client.DryRunBaselineVersionParams{}, lines)
		})
	}
	reference, err := readReference(c.ReferenceValues, a.stdin)
	if err != nil {
		return asBadCall(err)
	}
	values, err := json.Marshal(reference.Values())
	if err != nil {
		return fmt.Errorf("write reference values: %w", err)
	}
	body := client.DryRunRequest{ReferenceValues: values}
	if c.Baseline != "" {
		id, err := a.baselineID(c.Baseline)
		if err != nil {
			return asBadCall(err)
		}
		body.BaselineID = &id
	}
	if body.Selector, err = c.selector(a); err != nil {
		return asBadCall(err)
	}
	return a.runTrial(func(api *client.ClientWithResponses, lines client.RequestEditorFn) (*http.Response, error) {
		return api.DryRunReferenceValues(a.ctx, &client.DryRunReferenceValuesParams{}, body, lines)
	})
}

// asBadCall lets an error exit with 2: 1 is an answer.
func asBadCall(err error) error {
	p := problemOf(err)
	p.exit = exitBadCall
	return p
}

// PolicyTest judges stored evidence by a policy.
type PolicyTest struct {
	File          string `arg:"" help:"The policy as JSON; - is standard input."`
	SelectorFlags `embed:""`
}

// Help is what --help says beneath.
func (*PolicyTest) Help() string {
	return "Without flags it is tried on the machines that the policy's own selector chooses. Exits as baselines dry-run does."
}

// Run asks.
func (c *PolicyTest) Run(a *app) error {
	policy, err := readPolicyObject(c.File, a)
	if err != nil {
		return asBadCall(err)
	}
	selector, err := c.selector(a)
	if err != nil {
		return asBadCall(err)
	}
	body, err := json.Marshal(map[string]any{"policy": json.RawMessage(policy), "selector": selector})
	if selector == nil {
		body, err = json.Marshal(map[string]any{"policy": json.RawMessage(policy)})
	}
	if err != nil {
		return fmt.Errorf("write the policy: %w", err)
	}
	return a.runTrial(func(api *client.ClientWithResponses, lines client.RequestEditorFn) (*http.Response, error) {
		return api.TestPolicyWithBody(a.ctx, &client.TestPolicyParams{}, "application/json", bytes.NewReader(body), lines)
	})
}
