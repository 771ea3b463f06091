package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/verifier/tee"
)

// CollateralCommand holds the commands about collateral.
type CollateralCommand struct {
	List   CollateralList   `cmd:"" default:"withargs" help:"List what is held (also without \"list\")."`
	Import CollateralImport `cmd:"" help:"Upload certificates, CRLs and answers of Intel's PCS; the kind is told by the content."`
	Show   CollateralShow   `cmd:"" help:"Show one piece, or write it as it is."`
	Delete CollateralDelete `cmd:"" help:"Delete one piece."`
}

// CollateralList lists collateral.
type CollateralList struct {
	Kind           string    `help:"vcek, vlek, snp_crl, tdx_tcb_info, tdx_qe_identity, tdx_pck_crl or tdx_root_crl."`
	ExpiringBefore time.Time `placeholder:"TIME" help:"Only what is valid no longer than until then (RFC 3339)."`
	Paging         `embed:""`
}

func (a *app) collateral(params client.ListCollateralParams, paging Paging) ([]client.Collateral, page, error) {
	return fetchList[client.Collateral](a, paging, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		params.Limit, params.Cursor = limit, cursor
		return api.ListCollateralWithResponse(a.ctx, &params)
	})
}

// Run lists it.
func (c *CollateralList) Run(a *app) error {
	items, all, err := a.collateral(client.ListCollateralParams{Kind: several[client.CollateralKind](c.Kind), ExpiringBefore: optionalTime(c.ExpiringBefore)}, c.Paging)
	if err != nil {
		return err
	}
	return printList(a, items, all, "No collateral fits.", func(list []client.Collateral) {
		rows := make([][]cell, len(list))
		for i := range list {
			x := &list[i]
			end := plain(a.print.ago(x.NotAfter))
			if !a.now().Before(x.NotAfter) {
				end.color = red
			}
			rows[i] = []cell{plain(string(x.Kind)), plain(x.Name), end, plain(string(x.Source)), plain(x.Sha256[:min(16, len(x.Sha256))])}
		}
		a.print.table([]string{"KIND", "NAME", "EXPIRES", "FROM", "SHA-256"}, rows)
	})
}

// CollateralImport uploads files.
type CollateralImport struct {
	IssuerChain string   `placeholder:"PEM" help:"Chain of whoever signed the JSON or the PCK CRL, signer first, as Intel sends it in a header. Otherwise FILE.chain.pem is used where it exists."`
	Files       []string `arg:"" name:"file" placeholder:"FILE" help:"Certificate or CRL (DER or PEM), or an answer of Intel's PCS."`
}

// chainHeader is the header that the chain of a kind is sent in.
var chainHeader = map[tee.Kind]string{
	tee.KindTCBInfo:    "TCB-Info-Issuer-Chain",
	tee.KindQEIdentity: "SGX-Enclave-Identity-Issuer-Chain",
	tee.KindPCKCRL:     "SGX-PCK-CRL-Issuer-Chain",
}

// Run uploads them one after the other, and stops at the first that is refused.
func (c *CollateralImport) Run(a *app) error {
	type upload struct {
		file string
		c    tee.Collateral
	}
	var uploads []upload
	for _, file := range c.Files { // all are read before any is sent
		read, err := readCollateral(file, c.IssuerChain, a.stdin)
		if err != nil {
			return err
		}
		u := upload{file, read}
		uploads = append(uploads, u)
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	answers := page{Items: []json.RawMessage{}}
	for _, u := range uploads {
		resp, err := api.PutCollateralWithBodyWithResponse(a.ctx, client.CollateralKind(u.c.Kind), &client.PutCollateralParams{}, "application/octet-stream", bytes.NewReader(u.c.Body),
			func(_ context.Context, req *http.Request) error {
				if header := chainHeader[u.c.Kind]; len(u.c.IssuerChain) > 0 && header != "" {
					req.Header.Set(header, url.PathEscape(string(u.c.IssuerChain)))
				}
				return nil
			})
		x, raw, err := answer[client.Collateral](a, resp, err)
		if err != nil {
			var p *problem
			if errors.As(err, &p) {
				p.Detail = u.file + ": " + p.Detail
			}
			return err
		}
		answers.Items = append(answers.Items, raw)
		if !a.json {
			what := "stored"
			if resp.StatusCode() == http.StatusOK {
				what = "nothing newer than what is held"
			}
			a.print.line("%s: %s %s, %s; expires %s", clean(u.file), x.Kind, clean(x.Name), what, a.print.ago(x.NotAfter))
		}
	}
	if a.json {
		return a.printJSON(answers)
	}
	return nil
}

// chainOf is the chain that belongs to a file: that of chainFile, else of FILE.chain.pem.
func chainOf(file, chainFile string, stdin io.Reader) ([]byte, error) {
	from := chainFile
	if from == "" {
		from = file + ".chain.pem"
	}
	chain, err := readFile(from, maxSmallFile, stdin)
	if errors.Is(err, fs.ErrNotExist) && chainFile == "" {
		return nil, &problem{Title: file + " needs the chain of whoever signed it", Code: "unreadable_input", exit: exitBadCall,
			Detail: "there is no " + from, Hint: "what Intel's PCS sent in the header that ends in Issuer-Chain, URL-decoded"}
	}
	if err != nil {
		return nil, unreadable(from, "a certificate chain", err)
	}
	return chain, nil
}

// kindOf tells the kind of collateral by its content.
func kindOf(body []byte) (tee.Kind, error) {
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) == nil {
		switch {
		case members["tcbInfo"] != nil:
			return tee.KindTCBInfo, nil
		case members["enclaveIdentity"] != nil:
			return tee.KindQEIdentity, nil
		}
		return "", errors.New(`this JSON has neither "tcbInfo" nor "enclaveIdentity": is it an answer of Intel's PCS?`)
	}
	der := body
	if block, _ := pem.Decode(body); block != nil {
		der = block.Bytes
	}
	if cert, err := x509.ParseCertificate(der); err == nil {
		for _, kind := range []tee.Kind{tee.KindVCEK, tee.KindVLEK} {
			if _, err := tee.ParseCollateral(kind, body, nil); err == nil {
				return kind, nil
			}
		}
		return "", fmt.Errorf("the certificate of %q is no VCEK or VLEK; roots and intermediates are added with assay trust-anchors add", cert.Subject)
	}
	var last error
	for _, kind := range []tee.Kind{tee.KindSNPCRL, tee.KindPCKCRL, tee.KindRootCRL} {
		if _, last = tee.ParseCollateral(kind, body, nil); last == nil {
			return kind, nil
		}
	}
	return "", fmt.Errorf("it is no certificate of AMD, no CRL of AMD or Intel, and no JSON (%w)", last)
}

// CollateralShow shows one piece.
type CollateralShow struct {
	Kind string `arg:"" help:"Kind, as the list shows it."`
	Name string `arg:"" help:"Name, as the list shows it."`
	Raw  bool   `help:"Write the body as it is: DER or JSON."`
}

// Run shows it.
func (c *CollateralShow) Run(a *app) error {
	if c.Raw {
		api, err := a.api()
		if err != nil {
			return err
		}
		// The body is bytes and not the client's to interpret.
		resp, err := api.ClientInterface.GetCollateral(a.ctx, client.CollateralKind(c.Kind), c.Name)
		if err != nil {
			return a.unreachable(err)
		}
		defer resp.Body.Close()
		var body bytes.Buffer
		if _, err := body.ReadFrom(resp.Body); err != nil {
			return a.unreachable(err)
		}
		if resp.StatusCode != http.StatusOK {
			return refused(client.GetCollateralResponse{Body: body.Bytes(), HTTPResponse: resp})
		}
		_, err = a.stdout.Write(body.Bytes())
		return err
	}
	kind := []client.CollateralKind{client.CollateralKind(c.Kind)}
	items, all, err := a.collateral(client.ListCollateralParams{Kind: &kind, Name: &c.Name}, Paging{Limit: 1})
	if err != nil {
		return err
	}
	if len(items) == 0 {
		return &problem{Title: fmt.Sprintf("There is no %s named %q", c.Kind, c.Name), Code: "not_found"}
	}
	if a.json {
		return a.printJSON([]byte(all.Items[0]))
	}
	x := &items[0]
	a.print.line("%s %s", x.Kind, clean(x.Name))
	a.print.field("issued", a.print.when(x.NotBefore))
	a.print.field("expires", a.print.when(x.NotAfter))
	a.print.field("from", fmt.Sprintf("%s, by %s, %s", x.Source, clean(x.CreatedBy), a.print.ago(x.CreatedAt)))
	a.print.field("sha256", clean(x.Sha256))
	return nil
}

// CollateralDelete deletes one piece.
type CollateralDelete struct {
	Kind string `arg:"" help:"Kind, as the list shows it."`
	Name string `arg:"" help:"Name, as the list shows it."`
}

// Run deletes it.
func (c *CollateralDelete) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.DeleteCollateralWithResponse(a.ctx, client.CollateralKind(c.Kind), c.Name, &client.DeleteCollateralParams{})
	_, _, err = answer[struct{}](a, resp, err)
	if err == nil && !a.json {
		a.print.line("%s %s: deleted", clean(c.Kind), clean(strings.TrimSpace(c.Name)))
	}
	return err
}
