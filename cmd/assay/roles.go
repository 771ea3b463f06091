package main

import (
	"strings"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
)

// RolesCommand holds the commands about roles and who has them.
type RolesCommand struct {
	List     RolesList         `cmd:"" default:"withargs" help:"List the roles and what each may (also without \"list\")."`
	Bindings RoleBindingsList  `cmd:"" help:"List which people have which role."`
	Bind     RoleBind          `cmd:"" help:"Give people a role, by what their identity tokens say."`
	Show     RoleBindingShow   `cmd:"" help:"Show a binding as JSON."`
	Unbind   RoleBindingRemove `cmd:"" help:"Take a binding away, at once."`
}

// RolesList lists the roles.
type RolesList struct{}

// Run lists them.
func (c *RolesList) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.ListRolesWithResponse(a.ctx)
	x, raw, err := answer[client.RoleList](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	rows := make([][]cell, len(x.Items))
	for i, r := range x.Items {
		rows[i] = []cell{plain(string(r.Role)), plain(strings.Join(r.Permissions, " "))}
	}
	a.print.table([]string{"ROLE", "MAY"}, rows)
	return nil
}

// reachText says for which machines a role is given.
func reachText(s *client.ScopeSelector) string {
	if s == nil {
		return "all"
	}
	out := client.Selector{ScaleSet: s.ScaleSet, MachineIds: s.MachineIds}
	if s.Labels != nil {
		labels := client.Labels(*s.Labels)
		out.Labels = &labels
	}
	if s.Platform != nil {
		platforms := make([]client.Platform, len(*s.Platform))
		for i, p := range *s.Platform {
			platforms[i] = client.Platform(p)
		}
		out.Platform = &platforms
	}
	return selectorText(out)
}

// RoleBindingsList lists bindings.
type RoleBindingsList struct {
	Paging `embed:""`
}

// Run lists them.
func (c *RoleBindingsList) Run(a *app) error {
	items, all, err := a.roleBindings(c.Paging)
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no role binding: nobody has a role by an identity token.", func(list []client.RoleBinding) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			rows[i] = []cell{plain(x.Name), plain(string(x.Role)), plain(reachText(x.Selector)), plain(admitsText(x.Subject, x.Conditions)), {x.ID.String(), dim}}
		}
		a.print.table([]string{"NAME", "ROLE", "MACHINES", "ADMITS", "ID"}, rows)
	})
}

func (a *app) roleBindings(p Paging) ([]client.RoleBinding, page, error) {
	return fetchList[client.RoleBinding](a, p, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListRoleBindingsWithResponse(a.ctx, &client.ListRoleBindingsParams{Limit: limit, Cursor: cursor})
	})
}

// RoleBind gives people a role.
type RoleBind struct {
	Name          string `required:"" help:"Name of the binding."`
	Provider      string `required:"" placeholder:"ID|NAME" help:"Identity provider whose tokens it is about."`
	Role          string `required:"" enum:"admin,viewer,reader,responder,baseline_author,baseline_approver,operator,relying_party" help:"${enum}; \"assay roles\" says what each may."`
	IdentityFlags `embed:""`
	SelectorFlags `embed:""`
}

// Help says what a condition on an address means.
func (c *RoleBind) Help() string {
	return "Several bindings each give their own: what one lets people do is never done where another one reaches. A condition on email holds only of an address that the issuer has verified. Without a selector the role is for all machines."
}

// Run gives it.
func (c *RoleBind) Run(a *app) error {
	return a.withProvider(c.Provider, func(api *client.ClientWithResponses, p client.IdentityProvider) error {
		body := client.RoleBindingInput{Name: c.Name, ProviderID: p.ID, Role: client.Role(c.Role)}
		var err error
		if body.Subject, body.Conditions, err = c.who(); err != nil {
			return err
		}
		if body.Selector, err = c.selector(a); err != nil {
			return err
		}
		resp, err := api.CreateRoleBindingWithResponse(a.ctx, &client.CreateRoleBindingParams{}, body)
		x, raw, err := answer[client.RoleBinding](a, resp, err)
		if err != nil {
			return err
		}
		if a.json {
			return a.printJSON(raw)
		}
		a.print.line("%s  %s", clean(x.Name), a.print.paint(dim, x.ID.String()))
		return nil
	})
}

// RoleBindingShow shows a binding.
type RoleBindingShow struct {
	Binding string `arg:"" help:"Id, as \"bindings\" shows it."`
}

// Run shows it.
func (c *RoleBindingShow) Run(a *app) error {
	return a.withBinding(c.Binding, func(api *client.ClientWithResponses, id uuid.UUID) error {
		resp, err := api.GetRoleBindingWithResponse(a.ctx, id)
		_, raw, err := answer[client.RoleBinding](a, resp, err)
		if err != nil {
			return err
		}
		return a.printJSON(raw)
	})
}

func (a *app) withBinding(text string, f func(*client.ClientWithResponses, uuid.UUID) error) error {
	id, err := parseID("a role binding", text)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	return f(api, id)
}

// RoleBindingRemove takes a binding away.
type RoleBindingRemove struct {
	Binding string `arg:"" help:"Id, as \"bindings\" shows it."`
}

// Run takes it away.
func (c *RoleBindingRemove) Run(a *app) error {
	return a.withBinding(c.Binding, func(api *client.ClientWithResponses, id uuid.UUID) error {
		resp, err := api.DeleteRoleBindingWithResponse(a.ctx, id, &client.DeleteRoleBindingParams{})
		_, _, err = answer[struct{}](a, resp, err)
		return err
	})
}
