package main

import (
	"github.com/assay-verifier/assay/openapi/client"
)

// RetentionCommand holds the commands about how long what was judged is kept.
type RetentionCommand struct {
	Show RetentionShow `cmd:"" default:"1" help:"Show how long what was judged is kept (also without \"show\")."`
	Set  RetentionSet  `cmd:"" help:"Decide how long. What is not given stays as it is."`
}

// RetentionShow shows it.
type RetentionShow struct{}

// Run shows it.
func (RetentionShow) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.GetRetentionWithResponse(a.ctx)
	return a.showRetention(resp, err)
}

// RetentionSet sets it.
type RetentionSet struct {
	Evidence int `placeholder:"DAYS" help:"Raw evidence and boot logs, 7 days and more."`
	Verdicts int `placeholder:"DAYS" help:"Verdicts, 30 days and more."`
	Audit    int `placeholder:"DAYS" help:"The audit record, 365 days and more."`
}

// Run sets it.
func (c *RetentionSet) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.GetRetentionWithResponse(a.ctx)
	now, _, err := answer[client.Retention](a, resp, err)
	if err != nil {
		return err
	}
	pick := func(given, stands int) int {
		if given != 0 {
			return given
		}
		return stands
	}
	body := client.RetentionRequest{EvidenceDays: pick(c.Evidence, now.EvidenceDays), VerdictDays: pick(c.Verdicts, now.VerdictDays), AuditDays: pick(c.Audit, now.AuditDays)}
	set, err := api.PutRetentionWithResponse(a.ctx, &client.PutRetentionParams{}, body)
	return a.showRetention(set, err)
}

func (a *app) showRetention(resp reply, err error) error {
	r, raw, err := answer[client.Retention](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	days := func(n int) string { return count(n, "day") }
	a.print.field("evidence, logs", days(r.EvidenceDays))
	a.print.field("verdicts", days(r.VerdictDays))
	a.print.field("audit record", days(r.AuditDays))
	by := "the service's settings"
	if r.UpdatedBy != nil {
		by = *r.UpdatedBy
	}
	a.print.field("decided by", by)
	return nil
}
