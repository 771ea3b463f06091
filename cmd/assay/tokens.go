package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/assay-verifier/assay/openapi/client"
)

// JoinTokensCommand holds the commands about join tokens.
type JoinTokensCommand struct {
	List   JoinTokensList  `cmd:"" default:"withargs" help:"List join tokens (also without \"list\"). The tokens themselves are never shown again."`
	Create JoinTokenCreate `cmd:"" help:"Create a join token. It is printed once, alone on standard output."`
	Revoke JoinTokenRevoke `cmd:"" help:"End a join token: nobody enrols with it any more. Machines that it admitted stay."`
}

// JoinTokensList lists join tokens.
type JoinTokensList struct {
	Paging `embed:""`
}

// Run lists them.
func (c *JoinTokensList) Run(a *app) error {
	items, all, err := fetchList[client.JoinToken](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListJoinTokensWithResponse(a.ctx, &client.ListJoinTokensParams{Limit: limit, Cursor: cursor})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no join token.", func(list []client.JoinToken) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			rows[i] = []cell{plain(x.Name), plain(strconv.Itoa(x.UsesLeft)), plain(a.print.ago(x.ExpiresAt)), plain(dash(x.ScaleSet)), plain(dash(labelText(x.Labels))), {x.ID.String(), dim}}
		}
		a.print.table([]string{"NAME", "USES LEFT", "EXPIRES", "SCALE SET", "LABELS", "ID"}, rows)
	})
}

// JoinTokenCreate creates a join token.
type JoinTokenCreate struct {
	Name      string            `required:"" help:"What it is for."`
	Uses      int               `default:"1" help:"How many machines may enrol with it."`
	ExpiresIn time.Duration     `default:"24h" placeholder:"DURATION" help:"How long it is valid."`
	ScaleSet  string            `help:"Forced onto the machines that it admits."`
	Label     map[string]string `placeholder:"KEY=VALUE" help:"Likewise."`
}

// Run creates it.
func (c *JoinTokenCreate) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	seconds := int(c.ExpiresIn.Seconds())
	body := client.JoinTokenInput{Name: c.Name, Uses: &c.Uses, ExpiresInSeconds: &seconds, ScaleSet: optional(c.ScaleSet)}
	if len(c.Label) > 0 {
		labels := client.Labels(c.Label)
		body.Labels = &labels
	}
	resp, err := api.CreateJoinTokenWithResponse(a.ctx, &client.CreateJoinTokenParams{}, body)
	x, raw, err := answer[client.JoinTokenCreated](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	fmt.Fprintf(a.stderr, "Join token %s for %s, expires %s. It is shown only now.\n", clean(x.Name), count(x.UsesLeft, "machine"), a.print.ago(x.ExpiresAt))
	a.print.line("%s", clean(x.Token))
	return nil
}

// APITokensCommand holds the commands about API tokens.
type APITokensCommand struct {
	List   APITokensList  `cmd:"" default:"withargs" help:"List API tokens (also without \"list\"). The tokens themselves are never shown again."`
	Create APITokenCreate `cmd:"" help:"Create an API token. It is printed once, alone on standard output."`
	Revoke APITokenRevoke `cmd:"" help:"End an API token, except the one that assay itself uses."`
}

// APITokensList lists API tokens.
type APITokensList struct {
	Paging `embed:""`
}

// Run lists them.
func (c *APITokensList) Run(a *app) error {
	items, all, err := fetchList[client.APIToken](a, c.Paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListAPITokensWithResponse(a.ctx, &client.ListAPITokensParams{Limit: limit, Cursor: cursor})
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no API token.", func(list []client.APIToken) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			ends := "never"
			if x.ExpiresAt != nil {
				ends = a.print.ago(*x.ExpiresAt)
			}
			rows[i] = []cell{plain(x.Name), plain(string(x.Role)), plain(reachText(x.Selector)), plain(dash(textOf(x.Owner))), plain(ends), plain(a.print.agoPtr(x.LastUsedAt)), {x.ID.String(), dim}}
		}
		a.print.table([]string{"NAME", "ROLE", "MACHINES", "OWNER", "EXPIRES", "LAST USED", "ID"}, rows)
	})
}

// APITokenCreate creates an API token.
type APITokenCreate struct {
	Name          string        `required:"" help:"Who or what it is for."`
	Role          string        `required:"" enum:"admin,viewer,reader,responder,baseline_author,baseline_approver,operator,relying_party" help:"${enum}; \"assay roles\" says what each may."`
	ExpiresIn     time.Duration `placeholder:"DURATION" help:"How long it is valid; as long as the service allows otherwise, which may be for ever."`
	Owner         string        `placeholder:"person:ISSUER|SUBJECT" help:"The person that it is of: where two persons are needed, what is done by it is done by that person."`
	SelectorFlags `embed:""`
}

// Run creates it.
func (c *APITokenCreate) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	body := client.APITokenInput{Name: c.Name, Role: client.Role(c.Role), Owner: optional(c.Owner)}
	if body.Selector, err = c.selector(a); err != nil {
		return err
	}
	if c.ExpiresIn > 0 {
		seconds := int(c.ExpiresIn.Seconds())
		body.ExpiresInSeconds = &seconds
	}
	resp, err := api.CreateAPITokenWithResponse(a.ctx, &client.CreateAPITokenParams{}, body)
	x, raw, err := answer[client.APITokenCreated](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	fmt.Fprintf(a.stderr, "API token %s (%s). It is shown only now.\n", clean(x.Name), clean(string(x.Role)))
	a.print.line("%s", clean(x.Token))
	return nil
}

// JoinTokenRevoke ends a join token.
type JoinTokenRevoke struct {
	ID string `arg:"" name:"id" help:"Id, as the list shows it."`
}

// Run ends it.
func (c *JoinTokenRevoke) Run(a *app) error {
	id, err := parseID("a join token", c.ID)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.RevokeJoinTokenWithResponse(a.ctx, id, &client.RevokeJoinTokenParams{})
	_, _, err = answer[struct{}](a, resp, err)
	return err
}

// APITokenRevoke ends an API token.
type APITokenRevoke struct {
	ID string `arg:"" name:"id" help:"Id, as the list shows it."`
}

// Run ends it.
func (c *APITokenRevoke) Run(a *app) error {
	id, err := parseID("an API token", c.ID)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.RevokeAPITokenWithResponse(a.ctx, id, &client.RevokeAPITokenParams{})
	_, _, err = answer[struct{}](a, resp, err)
	return err
}
