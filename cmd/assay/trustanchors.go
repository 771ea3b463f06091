package main

import (
	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
)

// TrustAnchorsCommand holds the commands about trust anchors.
type TrustAnchorsCommand struct {
	List   TrustAnchorsList  `cmd:"" default:"withargs" help:"List trust anchors (also without \"list\")."`
	Add    TrustAnchorAdd    `cmd:"" help:"Trust the certificates of a PEM file for a purpose."`
	Delete TrustAnchorDelete `cmd:"" help:"Stop trusting an anchor."`
}

// TrustAnchorsList lists anchors.
type TrustAnchorsList struct {
	Purpose string `help:"ek, ak, snp, tdx or reference_values."`
	Paging  `embed:""`
}

func (a *app) trustAnchors(purpose string, paging Paging) ([]client.TrustAnchor, page, error) {
	return fetchList[client.TrustAnchor](a, paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListTrustAnchorsWithResponse(a.ctx, &client.ListTrustAnchorsParams{Limit: limit, Cursor: cursor, Purpose: optionalAs[client.TrustPurpose](purpose)})
	})
}

// Run lists them.
func (c *TrustAnchorsList) Run(a *app) error {
	items, all, err := a.trustAnchors(c.Purpose, c.Paging)
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
		list, _, err := a.trustAnchors("", Paging{All: true})
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
