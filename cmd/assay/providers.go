package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
)

// IdentityProvidersCommand holds the commands about identity providers.
type IdentityProvidersCommand struct {
	List    ProvidersList   `cmd:"" default:"withargs" help:"List identity providers (also without \"list\")."`
	Add     ProviderAdd     `cmd:"" help:"Accept the identity tokens of an issuer. That allows nothing yet: see pipeline-rules."`
	Show    ProviderShow    `cmd:"" help:"Show an identity provider, and until when its keys are held."`
	Enable  ProviderEnable  `cmd:"" help:"Accept its tokens again."`
	Disable ProviderDisable `cmd:"" help:"Refuse its tokens, at once."`
	Remove  ProviderRemove  `cmd:"" help:"Delete an identity provider that no rule names any more."`
}

// ProvidersList lists identity providers.
type ProvidersList struct {
	Paging `embed:""`
}

// Run lists them.
func (c *ProvidersList) Run(a *app) error {
	items, all, err := a.identityProviders(c.Paging)
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no identity provider. `assay identity-providers add --name github --issuer https://token.actions.githubusercontent.com --audience AUDIENCE` accepts GitHub's tokens.", func(list []client.IdentityProvider) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			rows[i] = []cell{plain(x.Name), plain(enabledText(x.Enabled)), plain(x.Issuer), plain(strings.Join(x.Audiences, ", ")), plain(a.print.agoPtr(x.KeysExpireAt)), {x.ID.String(), dim}}
		}
		a.print.table([]string{"NAME", "STATE", "ISSUER", "AUDIENCES", "KEYS UNTIL", "ID"}, rows)
	})
}

func (a *app) identityProviders(p Paging) ([]client.IdentityProvider, page, error) {
	return fetchList[client.IdentityProvider](a, p, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListIdentityProvidersWithResponse(a.ctx, &client.ListIdentityProvidersParams{Limit: limit, Cursor: cursor})
	})
}

func enabledText(enabled bool) string {
	if enabled {
		return "enabled"
	}
	return "disabled"
}

// providerByName finds a provider by id or name. Names are unique.
func (a *app) providerByName(text string) (client.IdentityProvider, error) {
	list, _, err := a.identityProviders(Paging{All: true})
	if err != nil {
		return client.IdentityProvider{}, err
	}
	for _, p := range list {
		if p.ID.String() == strings.ToLower(text) || p.Name == text {
			return p, nil
		}
	}
	return client.IdentityProvider{}, exactlyOne("identity provider", text, nil)
}

// ProviderAdd adds an identity provider.
type ProviderAdd struct {
	Name        string        `required:"" help:"Name for people and rules."`
	Issuer      string        `required:"" placeholder:"URL" help:"The claim iss: https://token.actions.githubusercontent.com for GitHub, https://gitlab.com or the address of a GitLab of your own."`
	Audience    []string      `required:"" help:"What the claim aud must hold; the pipeline asks for its token with it."`
	Algorithm   []string      `placeholder:"ALG" help:"RS256, PS256, ES256, ES384 or EdDSA; RS256 and ES256 otherwise."`
	MaxLifetime time.Duration `default:"1h" help:"Tokens that live longer are refused."`
}

// Run adds it.
func (c *ProviderAdd) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	seconds := int(c.MaxLifetime.Seconds())
	body := client.IdentityProviderInput{Name: c.Name, Issuer: c.Issuer, Audiences: c.Audience, MaxTokenLifetimeSeconds: &seconds}
	if len(c.Algorithm) > 0 {
		algorithms := make([]client.TokenAlgorithm, len(c.Algorithm))
		for i, name := range c.Algorithm {
			algorithms[i] = client.TokenAlgorithm(name)
		}
		body.Algorithms = &algorithms
	}
	resp, err := api.CreateIdentityProviderWithResponse(a.ctx, &client.CreateIdentityProviderParams{}, body)
	return a.showProvider(resp, err)
}

// showProvider prints the provider that a call answered.
func (a *app) showProvider(resp reply, err error) error {
	x, raw, err := answer[client.IdentityProvider](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("%s  %s", p.paint(bold, clean(x.Name)), enabledText(x.Enabled))
	p.field("id", x.ID.String())
	p.field("issuer", clean(x.Issuer))
	p.field("audiences", clean(strings.Join(x.Audiences, ", ")))
	algorithms := make([]string, len(x.Algorithms))
	for i, name := range x.Algorithms {
		algorithms[i] = string(name)
	}
	p.field("algorithms", clean(strings.Join(algorithms, ", ")))
	p.field("lifetime", "at most "+(time.Duration(x.MaxTokenLifetimeSeconds)*time.Second).String())
	p.field("keys", fmt.Sprintf("fetched %s, used until %s", p.whenPtr(x.KeysFetchedAt), p.whenPtr(x.KeysExpireAt)))
	p.field("created", p.when(x.CreatedAt)+" by "+clean(x.CreatedBy))
	return nil
}

// ProviderShow shows an identity provider.
type ProviderShow struct {
	Provider string `arg:"" help:"Id or name."`
}

// Run shows it.
func (c *ProviderShow) Run(a *app) error {
	return a.withProvider(c.Provider, func(api *client.ClientWithResponses, p client.IdentityProvider) error {
		resp, err := api.GetIdentityProviderWithResponse(a.ctx, p.ID)
		return a.showProvider(resp, err)
	})
}

func (a *app) withProvider(text string, f func(*client.ClientWithResponses, client.IdentityProvider) error) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	p, err := a.providerByName(text)
	if err != nil {
		return err
	}
	return f(api, p)
}

func (a *app) switchProvider(text string, enabled bool) error {
	return a.withProvider(text, func(api *client.ClientWithResponses, p client.IdentityProvider) error {
		resp, err := api.PutIdentityProviderWithResponse(a.ctx, p.ID, &client.PutIdentityProviderParams{}, client.IdentityProviderInput{
			Name: p.Name, Issuer: p.Issuer, Audiences: p.Audiences, Algorithms: &p.Algorithms, MaxTokenLifetimeSeconds: &p.MaxTokenLifetimeSeconds, Enabled: &enabled,
		})
		return a.showProvider(resp, err)
	})
}

// ProviderEnable enables an identity provider.
type ProviderEnable struct {
	Provider string `arg:"" help:"Id or name."`
}

// Run enables it.
func (c *ProviderEnable) Run(a *app) error { return a.switchProvider(c.Provider, true) }

// ProviderDisable disables an identity provider.
type ProviderDisable struct {
	Provider string `arg:"" help:"Id or name."`
}

// Run disables it.
func (c *ProviderDisable) Run(a *app) error { return a.switchProvider(c.Provider, false) }

// ProviderRemove deletes an identity provider.
type ProviderRemove struct {
	Provider string `arg:"" help:"Id or name."`
}

// Run deletes it.
func (c *ProviderRemove) Run(a *app) error {
	return a.withProvider(c.Provider, func(api *client.ClientWithResponses, p client.IdentityProvider) error {
		resp, err := api.DeleteIdentityProviderWithResponse(a.ctx, p.ID, &client.DeleteIdentityProviderParams{})
		_, _, err = answer[struct{}](a, resp, err)
		return err
	})
}

// ruleByName finds a pipeline rule by id or name. Names are unique.
func (a *app) ruleByName(text string) (uuid.UUID, error) {
	list, _, err := a.pipelineRules(Paging{All: true})
	if err != nil {
		return uuid.Nil, err
	}
	for i := range list {
		if list[i].ID.String() == strings.ToLower(text) || list[i].Name == text {
			return list[i].ID, nil
		}
	}
	return uuid.Nil, exactlyOne("pipeline rule", text, nil)
}
