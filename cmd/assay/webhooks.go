package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/assay-verifier/assay/openapi/client"
)

// WebhooksCommand holds the commands about webhooks.
type WebhooksCommand struct {
	List    WebhooksList   `cmd:"" default:"withargs" help:"List webhooks (also without \"list\")."`
	Add     WebhookAdd     `cmd:"" help:"Tell a URL what happens. Prints the secret that deliveries are signed with, once."`
	Show    WebhookShow    `cmd:"" help:"Show a webhook, and what came of its last deliveries."`
	Enable  WebhookEnable  `cmd:"" help:"Deliver to it again."`
	Disable WebhookDisable `cmd:"" help:"Deliver to it no more. What waits for it goes on waiting."`
	Test    WebhookTest    `cmd:"" help:"Send a test event now, and say what came of it."`
	Rotate  WebhookRotate  `cmd:"" help:"Make a new secret and print it, once. The old one signs as well until the overlap ends."`
	Remove  WebhookRemove  `cmd:"" help:"Delete a webhook with its deliveries."`
}

// WebhooksList lists webhooks.
type WebhooksList struct {
	Paging `embed:""`
}

// Run lists them.
func (c *WebhooksList) Run(a *app) error {
	items, all, err := a.webhooks(c.Paging)
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no webhook. `assay webhooks add --name siem --url https://siem.example/assay` makes one.", func(list []client.Webhook) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			rows[i] = []cell{plain(x.Name), plain(webhookState(x)), plain(x.URL), plain(string(x.Format)), plain(a.print.agoPtr(x.LastSuccessAt)), {x.ID.String(), dim}}
		}
		a.print.table([]string{"NAME", "STATE", "URL", "FORMAT", "DELIVERED", "ID"}, rows)
	})
}

func webhookState(x *client.Webhook) string {
	switch {
	case x.DisabledReason != nil:
		return "disabled (" + *x.DisabledReason + ")"
	case x.FailingSince != nil:
		return fmt.Sprintf("failing (%d times)", x.ConsecutiveFailures)
	}
	return enabledText(x.Enabled)
}

func (a *app) webhooks(p Paging) ([]client.Webhook, page, error) {
	return fetchList[client.Webhook](a, p, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListWebhooksWithResponse(a.ctx, &client.ListWebhooksParams{Limit: limit, Cursor: cursor})
	})
}

// withWebhook finds a webhook by id or name. Names are unique.
func (a *app) withWebhook(text string, f func(*client.ClientWithResponses, client.Webhook) error) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	list, _, err := a.webhooks(Paging{All: true})
	if err != nil {
		return err
	}
	for i := range list {
		if list[i].ID.String() == strings.ToLower(text) || list[i].Name == text {
			return f(api, list[i])
		}
	}
	return exactlyOne("webhook", text, nil)
}

// WebhookAdd makes a webhook.
type WebhookAdd struct {
	Name        string   `required:"" help:"Name for people."`
	URL         string   `required:"" help:"https address of the receiver. Put no secret into it: whoever may read sees it."`
	Format      string   `enum:"assay,cloudevents,ocsf,cef" default:"assay" help:"assay, cloudevents, ocsf or cef."`
	CA          string   `name:"receiver-ca" type:"existingfile" placeholder:"PEM" help:"Certificates that the receiver's must chain to, in the place of the system's."`
	Kind        []string `placeholder:"KIND" help:"Only these kinds of events, such as alert.opened."`
	Code        []string `placeholder:"CODE" help:"Only alerts of these codes."`
	MinSeverity string   `enum:",low,medium,high" default:"" help:"Only what is at least this severe: low, medium or high."`
	ScaleSet    []string `placeholder:"NAME" help:"Only machines of these scale sets."`
	Suppressed  bool     `help:"Also alerts that a suppression rule hides."`
	Incidents   bool     `help:"Only incidents, and not each alert of theirs."`
}

// Run makes it.
func (c *WebhookAdd) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	format := client.NotificationFormat(c.Format)
	filter := client.NotificationFilter{IncludeSuppressed: &c.Suppressed, IncidentsOnly: &c.Incidents}
	if len(c.Kind) > 0 {
		kinds := make([]client.NotificationKind, len(c.Kind))
		for i, k := range c.Kind {
			kinds[i] = client.NotificationKind(k)
		}
		filter.Kinds = &kinds
	}
	if len(c.Code) > 0 {
		filter.AlertCodes = &c.Code
	}
	if len(c.ScaleSet) > 0 {
		filter.ScaleSets = &c.ScaleSet
	}
	if c.MinSeverity != "" {
		severity := client.Severity(c.MinSeverity)
		filter.MinSeverity = &severity
	}
	body := client.WebhookInput{Name: c.Name, URL: c.URL, Format: &format, Filter: &filter}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return err
		}
		text := string(pem)
		body.CaPem = &text
	}
	resp, err := api.CreateWebhookWithResponse(a.ctx, &client.CreateWebhookParams{}, body)
	return a.showWebhook(resp, err)
}

// showWebhook prints the webhook that a call answered, with its secret where the answer has it.
func (a *app) showWebhook(resp reply, err error) error {
	x, raw, err := answer[client.Webhook](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("%s  %s", p.paint(bold, clean(x.Name)), clean(webhookState(&x)))
	p.field("id", x.ID.String())
	p.field("url", clean(x.URL))
	p.field("format", string(x.Format))
	p.field("delivered", p.whenPtr(x.LastSuccessAt))
	p.field("failed", p.whenPtr(x.LastFailureAt))
	if x.LastError != nil {
		p.field("last error", clean(*x.LastError))
	}
	if x.Secret != nil {
		p.field("secret", *x.Secret)
		p.line("The secret is shown this once. Give it to the receiver, which verifies signatures with it (Standard Webhooks).")
	}
	return nil
}

// WebhookShow shows a webhook.
type WebhookShow struct {
	Webhook string `arg:"" help:"Id or name."`
}

// Run shows it.
func (c *WebhookShow) Run(a *app) error {
	return a.withWebhook(c.Webhook, func(api *client.ClientWithResponses, x client.Webhook) error {
		resp, err := api.GetWebhookWithResponse(a.ctx, x.ID)
		return a.showWebhook(resp, err)
	})
}

func (a *app) switchWebhook(text string, enabled bool) error {
	return a.withWebhook(text, func(api *client.ClientWithResponses, x client.Webhook) error {
		resp, err := api.PutWebhookWithResponse(a.ctx, x.ID, &client.PutWebhookParams{}, client.WebhookInput{
			Name: x.Name, URL: x.URL, Format: &x.Format, Filter: &x.Filter, CaPem: x.CaPem, Enabled: &enabled,
		})
		return a.showWebhook(resp, err)
	})
}

// WebhookEnable enables a webhook.
type WebhookEnable struct {
	Webhook string `arg:"" help:"Id or name."`
}

// Run enables it.
func (c *WebhookEnable) Run(a *app) error { return a.switchWebhook(c.Webhook, true) }

// WebhookDisable disables a webhook.
type WebhookDisable struct {
	Webhook string `arg:"" help:"Id or name."`
}

// Run disables it.
func (c *WebhookDisable) Run(a *app) error { return a.switchWebhook(c.Webhook, false) }

// WebhookTest sends a test event.
type WebhookTest struct {
	Webhook string `arg:"" help:"Id or name."`
}

// Run sends it. Not delivered is an error.
func (c *WebhookTest) Run(a *app) error {
	return a.withWebhook(c.Webhook, func(api *client.ClientWithResponses, x client.Webhook) error {
		resp, err := api.TestWebhookWithResponse(a.ctx, x.ID, &client.TestWebhookParams{})
		result, raw, err := answer[client.TestResult](a, resp, err)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(raw)
		}
		if !result.Delivered {
			return fmt.Errorf("not delivered: %s", clean(*result.Error))
		}
		a.print.line("delivered in %d ms", result.DurationMs)
		return nil
	})
}

// WebhookRotate makes a new secret.
type WebhookRotate struct {
	Webhook string        `arg:"" help:"Id or name."`
	Overlap time.Duration `default:"24h" help:"How long the old secret signs as well."`
}

// Run makes it.
func (c *WebhookRotate) Run(a *app) error {
	return a.withWebhook(c.Webhook, func(api *client.ClientWithResponses, x client.Webhook) error {
		seconds := int(c.Overlap.Seconds())
		resp, err := api.RotateWebhookSecretWithResponse(a.ctx, x.ID, &client.RotateWebhookSecretParams{}, client.RotateSecret{OverlapSeconds: &seconds})
		return a.showWebhook(resp, err)
	})
}

// WebhookRemove deletes a webhook.
type WebhookRemove struct {
	Webhook string `arg:"" help:"Id or name."`
}

// Run deletes it.
func (c *WebhookRemove) Run(a *app) error {
	return a.withWebhook(c.Webhook, func(api *client.ClientWithResponses, x client.Webhook) error {
		resp, err := api.DeleteWebhookWithResponse(a.ctx, x.ID, &client.DeleteWebhookParams{})
		_, _, err = answer[struct{}](a, resp, err)
		return err
	})
}
