package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/verifier/revocations"
)

// RevocationsCommand holds the commands about what is known to be bad.
type RevocationsCommand struct {
	List   RevocationsList   `cmd:"" default:"withargs" help:"List the data that boots are looked up in (also without \"list\")."`
	Import RevocationsImport `cmd:"" help:"Add signed updates of dbx, Microsoft's dbx_info JSON, or SBAT levels; the kind is told by the content."`
	Show   RevocationsShow   `cmd:"" help:"Tell whether a digest is revoked, and why."`
}

// RevocationsList lists the data.
type RevocationsList struct{}

// Run lists it.
func (c *RevocationsList) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.ListRevocationsWithResponse(a.ctx)
	list, raw, err := answer[client.RevocationsList](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	rows := make([][]cell, len(list.Items))
	for i := range list.Items {
		x := &list.Items[i]
		from := string(x.Origin)
		if x.CreatedAt != nil {
			from += " " + a.print.ago(*x.CreatedAt)
		}
		version := "-"
		if x.Version != nil {
			version = *x.Version
		}
		rows[i] = []cell{plain(string(x.Kind)), plain(x.Name[:min(32, len(x.Name))]), plain(version), plain(strconv.Itoa(x.Entries)), plain(from)}
	}
	a.print.table([]string{"KIND", "NAME", "VERSION", "ENTRIES", "FROM"}, rows)
	return nil
}

// RevocationsImport uploads files.
type RevocationsImport struct {
	Files []string `arg:"" name:"file" placeholder:"FILE" help:"DBXUpdate.bin, dbx_info_msft_*.json, or the text of an SbatLevel; - is standard input."`
}

// revocationsKind tells the kind by the content.
func revocationsKind(body []byte) (revocations.Kind, error) {
	kind, err := revocations.KindDBX, error(nil)
	switch trimmed := bytes.TrimSpace(body); {
	case bytes.HasPrefix(trimmed, []byte("{")):
		kind = revocations.KindInfo
		_, err = revocations.ParseInfo(body)
	case bytes.HasPrefix(trimmed, []byte("sbat,")):
		kind = revocations.KindLevel
		_, err = revocations.ParseLevel(body)
	default:
		_, err = revocations.ParseUpdate(body)
	}
	return kind, err
}

// Run uploads them one after the other, and stops at the first that is refused.
func (c *RevocationsImport) Run(a *app) error {
	type upload struct {
		file string
		kind revocations.Kind
		body []byte
	}
	var uploads []upload
	for _, file := range c.Files { // all are read before any is sent
		body, err := readFile(file, revocations.MaxInfo, a.stdin)
		if err != nil {
			return unreadable(file, "revocations", err)
		}
		kind, err := revocationsKind(body)
		if err != nil {
			return unreadable(file, "revocations", err)
		}
		uploads = append(uploads, upload{file, kind, body})
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	answers := page{Items: []json.RawMessage{}}
	for _, u := range uploads {
		resp, err := api.PutRevocationsWithBodyWithResponse(a.ctx, client.RevocationsKind(u.kind), &client.PutRevocationsParams{}, "application/octet-stream", bytes.NewReader(u.body))
		x, raw, err := answer[client.Revocations](a, resp, err)
		if err != nil {
			var p *problem
			if errors.As(err, &p) {
				p.Detail = u.file + ": " + p.Detail
			}
			return err
		}
		answers.Items = append(answers.Items, raw)
		if !a.json {
			what := "added"
			if resp.StatusCode() == http.StatusOK {
				what = "held already"
			}
			a.print.line("%s: %s, %d entries: %s", clean(u.file), x.Kind, x.Entries, what)
		}
	}
	if a.json {
		return a.printJSON(answers)
	}
	return nil
}

// RevocationsShow looks a digest up.
type RevocationsShow struct {
	Digest string `arg:"" placeholder:"SHA256" help:"Authenticode SHA-256 of an image, or SHA-256 of a certificate's DER, in hex."`
}

// Run looks it up.
func (c *RevocationsShow) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.GetRevokedEntryWithResponse(a.ctx, strings.ToLower(strings.TrimPrefix(c.Digest, "sha256:")))
	x, raw, err := answer[client.RevokedEntry](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	by := "a signed update"
	if !x.Signed {
		by = "a list alone, on the word of whoever imported it"
	}
	if x.Optional {
		by += "; optional"
	}
	a.print.line("%s %s: revoked", x.Kind, clean(x.Sha256))
	a.print.field("by", by)
	for _, f := range []struct {
		name string
		text *string
	}{{"file", x.File}, {"company", x.Company}, {"signed by", x.SignedBy}, {"architecture", x.Architecture}, {"added", x.Added}, {"why", x.Description}} {
		if f.text != nil {
			a.print.field(f.name, clean(*f.text))
		}
	}
	if len(x.Cves) > 0 {
		a.print.field("advisories", clean(strings.Join(x.Cves, ", ")))
	}
	return nil
}
