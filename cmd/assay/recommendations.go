package main

import (
	"time"

	"github.com/assay-verifier/assay/openapi/client"
)

// RecommendationsCommand holds the commands about recommendations.
type RecommendationsCommand struct {
	List   RecommendationsList  `cmd:"" default:"withargs" help:"List recommendations (also without \"list\")."`
	Show   RecommendationShow   `cmd:"" help:"Show a recommendation and what to do."`
	Exempt RecommendationExempt `cmd:"" help:"State why one does not count for its machine."`

	Unexempt RecommendationUnexempt `cmd:"" help:"End its exemption: it counts again."`
}

// RecommendationsList lists recommendations.
type RecommendationsList struct {
	Code     string `help:"secure_boot_enabled, guest_attestation_installed, ..."`
	Status   string `help:"active, resolved or exempt."`
	Severity string `help:"low, medium or high."`
	Machine  string `placeholder:"ID|NAME" help:"Of this machine."`
	ScaleSet string `help:"Of this scale set."`

	ExemptionEndsIn time.Duration `placeholder:"DURATION" help:"Exempt now, and no more after this time, for example 720h."`
	Paging          `embed:""`
}

// Run lists them.
func (c *RecommendationsList) Run(a *app) error {
	machine, err := a.optionalMachine(c.Machine)
	if err != nil {
		return err
	}
	items, all, err := fetchList[client.Recommendation](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListRecommendationsWithResponse(a.ctx, &client.ListRecommendationsParams{
			Limit: limit, Cursor: cursor, Code: optional(c.Code), Status: optionalAs[client.RecommendationStatus](c.Status),
			Severity: optionalAs[client.Severity](c.Severity), MachineID: machine, ScaleSet: optional(c.ScaleSet),
			ExemptionEndsBefore: a.after(c.ExemptionEndsIn),
		})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "No recommendation fits.", func(list []client.Recommendation) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			rows[i] = []cell{status(string(x.Severity)), status(string(x.Status)), plain(x.MachineName), plain(x.DisplayName), plain(a.print.ago(x.FirstSeenAt)), {x.ID.String(), dim}}
		}
		a.print.table([]string{"SEVERITY", "STATUS", "MACHINE", "RECOMMENDATION", "SINCE", "ID"}, rows)
	})
}

// RecommendationShow shows one recommendation.
type RecommendationShow struct {
	ID string `arg:"" help:"Id of the recommendation."`
}

// Run shows it.
func (c *RecommendationShow) Run(a *app) error {
	id, err := parseID("a recommendation", c.ID)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.GetRecommendationWithResponse(a.ctx, id)
	return a.printRecommendation(resp, err)
}

// RecommendationExempt exempts a machine from one.
type RecommendationExempt struct {
	ID        string        `arg:"" help:"Id of the recommendation."`
	Reason    string        `required:"" enum:"waiver,mitigated" help:"waiver (the risk is accepted) or mitigated (it is met otherwise)."`
	Comment   string        `help:"Why, for the auditor."`
	ExpiresIn time.Duration `placeholder:"DURATION" help:"The exemption ends after this, for example 720h; it does not end otherwise."`
}

// Run exempts it.
func (c *RecommendationExempt) Run(a *app) error {
	id, err := parseID("a recommendation", c.ID)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	body := client.ExemptionRequest{Reason: client.ExemptionRequestReason(c.Reason), Comment: optional(c.Comment), ExpiresAt: a.after(c.ExpiresIn)}
	resp, err := api.ExemptRecommendationWithResponse(a.ctx, id, &client.ExemptRecommendationParams{}, body)
	return a.printRecommendation(resp, err)
}

// RecommendationUnexempt ends an exemption.
type RecommendationUnexempt struct {
	ID   string `arg:"" help:"Id of the recommendation."`
	Note `embed:""`
}

// Run ends it.
func (c *RecommendationUnexempt) Run(a *app) error {
	id, err := parseID("a recommendation", c.ID)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.UnexemptRecommendationWithResponse(a.ctx, id, &client.UnexemptRecommendationParams{}, c.note())
	return a.printRecommendation(resp, err)
}

// after is the time that far ahead; nil where none was given.
func (a *app) after(d time.Duration) *time.Time {
	if d <= 0 {
		return nil
	}
	t := a.now().Add(d).UTC().Truncate(time.Second)
	return &t
}

func (a *app) printRecommendation(resp reply, err error) error {
	x, raw, err := answer[client.Recommendation](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("%s  %s  %s", p.paint(bold, clean(x.DisplayName)), p.paint(statusColor(string(x.Severity)), clean(string(x.Severity))), p.paint(statusColor(string(x.Status)), clean(string(x.Status))))
	p.field("id", x.ID.String())
	p.field("machine", clean(x.MachineName)+" "+p.paint(dim, x.MachineID.String()))
	p.field("since", p.when(x.FirstSeenAt))
	if e := x.Exemption; e != nil {
		p.field("exempt", clean(string(e.Reason))+": "+clean(e.Comment))
		p.field("until", p.whenPtr(e.ExpiresAt))
	}
	p.line("\n  %s", clean(x.Description))
	p.steps(x.RemediationSteps)
	return nil
}

// AssessmentsCommand lists assessments.
type AssessmentsCommand struct {
	List AssessmentsList `cmd:"" default:"withargs" help:"List assessments (also without \"list\")."`
}

// AssessmentsList lists assessments.
type AssessmentsList struct {
	Code     string `help:"guest_attestation_healthy, secure_boot_enabled, ..."`
	Status   string `help:"Healthy, Unhealthy or NotApplicable."`
	Severity string `help:"low, medium or high."`
	Machine  string `placeholder:"ID|NAME" help:"Of this machine."`
	ScaleSet string `help:"Of this scale set."`
	Paging   `embed:""`
}

// Run lists them.
func (c *AssessmentsList) Run(a *app) error {
	machine, err := a.optionalMachine(c.Machine)
	if err != nil {
		return err
	}
	items, all, err := fetchList[client.Assessment](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListAssessmentsWithResponse(a.ctx, &client.ListAssessmentsParams{
			Limit: limit, Cursor: cursor, Code: optional(c.Code), Status: optionalAs[client.AssessmentStatus](c.Status),
			Severity: optionalAs[client.Severity](c.Severity), MachineID: machine, ScaleSet: optional(c.ScaleSet),
		})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "No assessment fits.", func(list []client.Assessment) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			rows[i] = []cell{plain(x.MachineName), plain(x.Code), status(string(x.Status)), plain(string(x.Severity)), plain(a.print.ago(x.StatusChangedAt)), plain(x.Cause)}
		}
		a.print.table([]string{"MACHINE", "CODE", "STATUS", "SEVERITY", "SINCE", "CAUSE"}, rows)
	})
}
