package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/verifier"
)

// PoliciesCommand holds the commands about policies.
type PoliciesCommand struct {
	List PoliciesList `cmd:"" default:"withargs" help:"List policies (also without \"list\")."`
	Show PolicyShow   `cmd:"" help:"Print a policy as JSON, ready for set --file and verify --policy."`
	Set  PolicySet    `cmd:"" help:"Create a policy, or a further version of it."`
}

// policyHead is the identity of a policy version, which the policy object itself does not have.
type policyHead struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Version   int       `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	CreatedBy string    `json:"created_by"`
}

var policyHeadFields = []string{"id", "name", "version", "created_at", "created_by"}

// PoliciesList lists policies.
type PoliciesList struct{}

// Run lists them.
func (c *PoliciesList) Run(a *app) error {
	items, all, err := fetchList[policyHead](a, Paging{All: true}, func(api *client.ClientWithResponses, _ *int, _ *string) (reply, error) {
		return api.ListPoliciesWithResponse(a.ctx)
	})
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no policy.", func(list []policyHead) {
		rows := make([][]cell, len(list))
		for i, x := range list {
			rows[i] = []cell{plain(x.Name), plain(strconv.Itoa(x.Version)), plain(a.print.ago(x.CreatedAt)), plain(x.CreatedBy)}
		}
		a.print.table([]string{"NAME", "VERSION", "CHANGED", "BY"}, rows)
	})
}

// PolicyShow shows a policy.
type PolicyShow struct {
	Name string `arg:"" default:"default" help:"Name of the policy."`
}

// Run shows it.
func (c *PolicyShow) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.GetPolicyWithResponse(a.ctx, c.Name)
	head, raw, err := answer[policyHead](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	fmt.Fprintf(a.stderr, "%s, version %d, changed %s by %s\n", clean(head.Name), head.Version, a.print.ago(head.CreatedAt), clean(head.CreatedBy))
	policy, err := withoutHead(raw)
	if err != nil {
		return err
	}
	return a.printJSON(policy)
}

// withoutHead leaves the policy object of a policy version.
func withoutHead(raw []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("read the policy: %w", err)
	}
	for _, name := range policyHeadFields {
		delete(fields, name)
	}
	return json.Marshal(fields)
}

// PolicySet sets a policy.
type PolicySet struct {
	Name string `arg:"" default:"default" help:"Name of the policy."`
	File string `required:"" placeholder:"FILE" help:"The policy as JSON, for example what show printed, changed; absent fields take their default; - is standard input."`
}

// Run sets it.
func (c *PolicySet) Run(a *app) error {
	body, err := readFile(c.File, maxSmallFile, a.stdin)
	if err != nil {
		return unreadable(c.File, "a policy", err)
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) == nil {
		if body, err = withoutHead(body); err != nil {
			return err
		}
	}
	if _, err := verifier.ParsePolicy(body); err != nil {
		return unreadable(c.File, "a policy", err)
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.PutPolicyWithBodyWithResponse(a.ctx, c.Name, &client.PutPolicyParams{}, "application/json", bytes.NewReader(body))
	head, raw, err := answer[policyHead](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("%s is now at version %d", clean(head.Name), head.Version)
	return nil
}

// TrustAnchorsCommand holds the commands about trust anchors.
type TrustAnchorsCommand struct {
	List   TrustAnchorsList  `cmd:"" default:"withargs" help:"List trust anchors (also without \"list\")."`
	Add    TrustAnchorAdd    `cmd:"" help:"Trust the certificates of a PEM file for a purpose."`
	Delete TrustAnchorDelete `cmd:"" help:"Stop trusting an anchor."`
}

// TrustAnchorsList lists anchors.
type TrustAnchorsList struct {
	Purpose string `help:"ek, ak, snp, tdx or reference_values."`
}

func (a *app) trustAnchors(purpose string) ([]client.TrustAnchor, page, error) {
	return fetchList[client.TrustAnchor](a, Paging{All: true}, func(api *client.ClientWithResponses, _ *int, _ *string) (reply, error) {
		return api.ListTrustAnchorsWithResponse(a.ctx, &client.ListTrustAnchorsParams{Purpose: optionalAs[client.TrustPurpose](purpose)})
	})
}

// Run lists them.
func (c *TrustAnchorsList) Run(a *app) error {
	items, all, err := a.trustAnchors(c.Purpose)
	if err != nil {
		return err
	}
	return printList(a, items, all, "There is no trust anchor: agents can only enrol where the policy does without EK certificates.", func(list []client.TrustAnchor) {
		var rows [][]cell
		for i := range list {
			x := &list[i]
			for _, cert := range x.Certificates {
				rows = append(rows, []cell{plain(x.Name), plain(string(x.Purpose)), plain(cert.Subject), plain(a.print.ago(cert.NotAfter)), plain(cert.Fingerprint[:min(16, len(cert.Fingerprint))]), {x.ID.String(), dim}})
			}
		}
		a.print.table([]string{"NAME", "PURPOSE", "SUBJECT", "EXPIRES", "SHA-256", "ID"}, rows)
	})
}

// TrustAnchorAdd adds an anchor.
type TrustAnchorAdd struct {
	Name    string `required:"" help:"Name of the anchor."`
	Purpose string `required:"" enum:"ek,ak,snp,tdx,reference_values" help:"ek (endorsement keys), ak (attestation keys), snp, tdx (hardware reports) or reference_values (signed baselines)."`
	File    string `arg:"" placeholder:"PEM" help:"Certificates; - is standard input."`
}

// Run adds it.
func (c *TrustAnchorAdd) Run(a *app) error {
	body, err := readFile(c.File, maxSmallFile, a.stdin)
	if err != nil {
		return unreadable(c.File, "PEM certificates", err)
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.CreateTrustAnchorWithResponse(a.ctx, &client.CreateTrustAnchorParams{},
		client.TrustAnchorInput{Name: c.Name, Purpose: client.TrustPurpose(c.Purpose), CertificatesPem: string(body)})
	x, raw, err := answer[client.TrustAnchor](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("%s: %s trusted for %s  %s", clean(x.Name), count(len(x.Certificates), "certificate"), clean(string(x.Purpose)), a.print.paint(dim, x.ID.String()))
	return nil
}

// TrustAnchorDelete deletes an anchor.
type TrustAnchorDelete struct {
	Anchor string `arg:"" help:"Id or name."`
}

// Run deletes it.
func (c *TrustAnchorDelete) Run(a *app) error {
	id, err := uuid.Parse(c.Anchor)
	if err != nil {
		list, _, err := a.trustAnchors("")
		if err != nil {
			return err
		}
		var ids []string
		for i := range list {
			if list[i].Name == c.Anchor {
				id = list[i].ID
				ids = append(ids, id.String())
			}
		}
		if err := exactlyOne("trust anchor", c.Anchor, ids); err != nil {
			return err
		}
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.DeleteTrustAnchorWithResponse(a.ctx, id, &client.DeleteTrustAnchorParams{})
	_, _, err = answer[struct{}](a, resp, err)
	return err
}

// JoinTokensCommand holds the commands about join tokens.
type JoinTokensCommand struct {
	List   JoinTokensList  `cmd:"" default:"withargs" help:"List join tokens (also without \"list\"). The tokens themselves are never shown again."`
	Create JoinTokenCreate `cmd:"" help:"Create a join token. It is printed once, alone on standard output."`
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
			rows[i] = []cell{plain(x.Name), plain(string(x.Role)), plain(ends), plain(a.print.agoPtr(x.LastUsedAt)), {x.ID.String(), dim}}
		}
		a.print.table([]string{"NAME", "ROLE", "EXPIRES", "LAST USED", "ID"}, rows)
	})
}

// APITokenCreate creates an API token.
type APITokenCreate struct {
	Name      string        `required:"" help:"Who or what it is for."`
	Role      string        `required:"" enum:"admin,reader" help:"admin or reader."`
	ExpiresIn time.Duration `placeholder:"DURATION" help:"How long it is valid; for ever otherwise."`
}

// Run creates it.
func (c *APITokenCreate) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	body := client.APITokenInput{Name: c.Name, Role: client.APITokenInputRole(c.Role)}
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

// OverviewCommand shows the fleet in numbers.
type OverviewCommand struct{}

// Run shows it.
func (c *OverviewCommand) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.GetOverviewWithResponse(a.ctx)
	x, raw, err := answer[client.Overview](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	p := a.print
	p.line("%s", p.paint(bold, count(int(x.Machines), "machine")))
	p.counts("By last verdict", x.MachinesByStatus)
	p.counts("By platform", x.MachinesByPlatform)
	p.counts("Open alerts by severity", x.OpenAlertsBySeverity)
	p.counts("Open alerts by reason", x.OpenAlertsByReason)
	p.counts("Recommendations", x.RecommendationsByCode)
	p.counts("Guest attestation status", x.AssessmentsByStatus)
	p.line("")
	if x.SuppressedAlerts > 0 {
		p.field("suppressed alerts", strconv.FormatInt(x.SuppressedAlerts, 10))
	}
	if x.OldestAttestationAt != nil {
		p.field("oldest attestation", p.when(*x.OldestAttestationAt))
	}
	return nil
}

func (p *printer) counts(title string, counts client.Counts) {
	words := make([]string, 0, len(counts))
	for word, n := range counts {
		if n > 0 {
			words = append(words, word)
		}
	}
	if len(words) == 0 {
		return
	}
	sort.Slice(words, func(i, j int) bool {
		if counts[words[i]] != counts[words[j]] {
			return counts[words[i]] > counts[words[j]]
		}
		return words[i] < words[j]
	})
	p.heading("%s", title)
	for _, word := range words {
		p.line("  %6d  %s", counts[word], p.paint(statusColor(word), clean(word)))
	}
}
