package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/formats"
	"github.com/assay-verifier/assay/openapi/client"
)

// BaselineImport registers what a document of another format says.
type BaselineImport struct {
	File          string   `arg:"" placeholder:"FILE" help:"The document; - is standard input."`
	Name          string   `help:"Name of a new baseline."`
	Baseline      string   `placeholder:"ID|NAME" help:"Add a version to this baseline instead; it starts as a draft."`
	Support       []string `placeholder:"FILE" help:"A file that the document belongs with: the values that a .pcrsig signs, further components of a .pcrlock. May be repeated."`
	ContentType   string   `placeholder:"TYPE" help:"Media type of the document; its content tells it otherwise."`
	AllowUnsigned bool     `help:"Vouch for a document without a signature. The service keeps that you did."`
	State         string   `enum:",draft,active" default:"" help:"draft or active; a new baseline's first version is active otherwise, a further one a draft."`
	SelectorFlags `embed:""`
	Everywhere    bool `help:"A new baseline is for all machines, where no flag chooses any."`
}

// Help lists the formats.
func (c *BaselineImport) Help() string {
	return "Signatures are verified by the service, against its trust anchors of purpose reference_values (assay trust-anchors add --purpose reference_values). Media types: " +
		strings.Join(formats.MediaTypes(), ", ") + "."
}

// Run posts it.
func (c *BaselineImport) Run(a *app) error {
	if (c.Name == "") == (c.Baseline == "") {
		return badUsage("give either --name, for a new baseline, or --baseline, for a version of one")
	}
	if c.Baseline == "" && !c.anyGiven() && !c.Everywhere {
		return everywhereUsage()
	}
	document, err := readFile(c.File, formats.MaxDocument, a.stdin)
	if err != nil {
		return unreadable(c.File, "a document to import", err)
	}
	contentType := cmp.Or(c.ContentType, formats.Guess(document), "application/octet-stream")
	body, bodyType := io.Reader(bytes.NewReader(document)), contentType
	if len(c.Support) > 0 {
		if body, bodyType, err = c.form(a, document, contentType); err != nil {
			return err
		}
	}
	params := &client.ImportBaselineParams{Name: optionalAs[client.Name](c.Name), State: optionalAs[client.ImportBaselineParamsState](c.State)}
	if c.AllowUnsigned {
		params.AllowUnsigned = &c.AllowUnsigned
	}
	if params.BaselineID, params.Selector, err = c.target(a); err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.ImportBaselineWithBodyWithResponse(a.ctx, params, bodyType, body)
	v, raw, err := answer[client.BaselineVersion](a, resp, err)
	if err != nil {
		return importHint(err)
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.version(&v)
	a.print.imported(v.Imported)
	return nil
}

// importHint says what makes a document trusted that is not.
func importHint(err error) error {
	var p *problem
	if errors.As(err, &p) && p.Code == baseline.ImportUntrusted {
		p.Hint = "assay trust-anchors add --purpose reference_values --name NAME SIGNER.pem, to trust its signer; --allow-unsigned, to vouch for a document without a signature"
	}
	return err
}

// target is the baseline of a version, or the selector of a new baseline as JSON.
func (c *BaselineImport) target(a *app) (*uuid.UUID, *string, error) {
	selector, err := c.selector(a)
	if err != nil {
		return nil, nil, err
	}
	if c.Baseline != "" {
		b, err := a.baseline(c.Baseline)
		if err != nil {
			return nil, nil, err
		}
		return &b.ID, nil, keepsSelector(b, selector, c.Everywhere)
	}
	if selector == nil {
		return nil, nil, nil
	}
	body, err := json.Marshal(selector)
	text := string(body)
	return nil, &text, err
}

// form is the document with its support, as multipart/form-data.
func (c *BaselineImport) form(a *app, document []byte, contentType string) (io.Reader, string, error) {
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	add := func(part, file, media string, content []byte) error {
		h := textproto.MIMEHeader{}
		h.Set("Content-Disposition", fmt.Sprintf(`form-data; name=%q; filename=%q`, part, filepath.Base(file)))
		h.Set("Content-Type", media)
		p, err := w.CreatePart(h)
		if err == nil {
			_, err = p.Write(content)
		}
		return err
	}
	if err := add("document", c.File, contentType, document); err != nil {
		return nil, "", fmt.Errorf("write the form: %w", err)
	}
	for _, file := range c.Support {
		content, err := readFile(file, formats.MaxDocument, a.stdin)
		if err != nil {
			return nil, "", unreadable(file, "support of the document", err)
		}
		if err := add("support", file, "application/octet-stream", content); err != nil {
			return nil, "", fmt.Errorf("write the form: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, "", fmt.Errorf("write the form: %w", err)
	}
	return &body, w.FormDataContentType(), nil
}

// imported shows what a version was imported from.
func (p *printer) imported(x *client.ImportedDocument) {
	if x == nil {
		return
	}
	signer := "nobody; the importer vouched for it"
	if s := x.Signer; s != nil {
		signer = fmt.Sprintf("%s, key %s, by anchor %s", clean(s.Subject), clean(s.KeySha256), clean(s.AnchorSha256))
	}
	p.field("imported", clean(x.Format)+", SHA-256 "+clean(x.Sha256))
	p.field("signed by", signer)
	for _, note := range x.Notes {
		p.field("note", clean(note))
	}
}

// BaselineExport writes a version as a document.
type BaselineExport struct {
	VersionName `embed:""`
	Format      string `enum:"assay,corim" default:"assay" help:"assay: the reference_values object, as assay verify --baseline takes it. corim: a CoRIM signed by the service's result key, of a version that is active or in grace."`
	Out         string `name:"out" placeholder:"FILE" help:"Where to write it; standard output otherwise."`
}

// Run writes it.
func (c *BaselineExport) Run(a *app) error {
	id, version, err := c.find(a)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	format := client.ExportFormat(c.Format)
	resp, err := api.ExportBaselineVersionWithResponse(a.ctx, id, version, &client.ExportBaselineVersionParams{Format: &format})
	if err == nil && resp.StatusCode() == http.StatusOK { // not always JSON
		return c.write(a, resp.GetBody())
	}
	_, _, err = answer[any](a, resp, err)
	return err
}

func (c *BaselineExport) write(a *app, raw []byte) error {
	if c.Out == "" {
		_, err := a.print.w.Write(raw)
		return err
	}
	if err := os.WriteFile(c.Out, raw, 0o600); err != nil {
		return &problem{Title: c.Out + " cannot be written", Code: "unwritable_output", Detail: err.Error(), exit: exitBadCall}
	}
	a.print.line("%s: %d bytes", clean(c.Out), len(raw))
	return nil
}

// TrustAnchorBaselines lists the versions that rest on an anchor.
type TrustAnchorBaselines struct {
	Anchor string `arg:"" help:"Id or name."`
	Paging `embed:""`
}

// Run lists them.
func (c *TrustAnchorBaselines) Run(a *app) error {
	id, _, err := a.anchor(c.Anchor)
	if err != nil {
		return err
	}
	items, all, err := a.versionsRestingOn(id, c.Paging)
	if err != nil {
		return err
	}
	return printList(a, items, all, "No baseline version rests on this anchor.", a.print.restingVersions)
}

func (a *app) versionsRestingOn(anchor uuid.UUID, p Paging) ([]client.RestingVersion, page, error) {
	return fetchList[client.RestingVersion](a, p, func(api *client.ClientWithResponses, limit *int, cursor *string) (reply, error) {
		return api.ListTrustAnchorBaselinesWithResponse(a.ctx, anchor, &client.ListTrustAnchorBaselinesParams{Limit: limit, Cursor: cursor})
	})
}

func (p *printer) restingVersions(list []client.RestingVersion) {
	rows := make([][]cell, len(list))
	for i := range list {
		x := &list[i]
		state := status(string(x.State))
		if x.State == baseline.StateActive {
			state.color = green
		}
		rows[i] = []cell{plain(x.Name), plain(fmt.Sprint(x.Version)), state, plain(x.Imported.Format), {x.BaselineID.String(), dim}}
	}
	p.table([]string{"BASELINE", "VERSION", "STATE", "FORMAT", "ID"}, rows)
}
