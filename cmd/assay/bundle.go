package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/verifier/bundle"
)

// exitIncomplete: a bundle holds, but not all of it could be judged again.
const exitIncomplete = 3

// ExportCommand writes a bundle.
type ExportCommand struct {
	Bundle     string     `required:"" type:"path" placeholder:"FILE" help:"File to write; it must not exist. It holds evidence, which tells of machines: keep it as such."`
	Machine    *uuid.UUID `placeholder:"ID" help:"Only the verdicts of this machine."`
	Since      *time.Time `placeholder:"TIME" help:"Not over before this (RFC 3339)."`
	Until      *time.Time `placeholder:"TIME" help:"Not begun after this (RFC 3339)."`
	Checkpoint bool       `help:"Make a checkpoint first, so that it covers everything in the bundle."`
}

// Run writes it.
func (c *ExportCommand) Run(a *app) error {
	if c.Checkpoint {
		if _, _, err := a.makeCheckpoint(); err != nil {
			return err
		}
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	inner, ok := api.ClientInterface.(*client.Client)
	if !ok {
		return fmt.Errorf("the client is %T", api.ClientInterface)
	}
	var written int64
	err = writeNew(c.Bundle, func(f *os.File) (err error) {
		with := *inner
		with.Client = &downloadDoer{inner: inner.Client, app: a, to: f, written: &written}
		download := client.ClientWithResponses{ClientInterface: &with}
		resp, err := download.GetAuditBundleWithResponse(a.ctx, &client.GetAuditBundleParams{MachineID: c.Machine, Since: c.Since, Until: c.Until})
		_, _, err = answer[struct{}](a, resp, err)
		return err
	})
	if err != nil {
		return err
	}
	machines, verdicts, err := countBundle(c.Bundle)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(map[string]any{"file": c.Bundle, "bytes": written, "machines": machines, "verdicts": verdicts})
	}
	a.print.line("%s: %d bytes, %s of %s", c.Bundle, written, count(verdicts, "verdict"), count(machines, "machine"))
	return nil
}

// downloadDoer copies an archive to a file as it comes; the generated client then reads an empty answer.
type downloadDoer struct {
	inner   client.HttpRequestDoer
	app     *app
	to      io.Writer
	written *int64
}

// Do implements client.HttpRequestDoer.
func (d *downloadDoer) Do(req *http.Request) (*http.Response, error) {
	resp, err := d.inner.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	defer func() { _ = resp.Body.Close() }()
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "application/zip") {
		return nil, badAnswer(fmt.Errorf("it is %q, not an archive", resp.Header.Get("Content-Type")))
	}
	body := resp.Body
	if b, ok := body.(bounded); ok { // an archive may be larger than any other answer, and is not held
		body = b.whole
	}
	stop := d.app.progress("fetching the bundle")
	*d.written, err = io.Copy(d.to, body)
	stop()
	if err != nil {
		return nil, &problem{Title: "The bundle is not complete", Code: "incomplete", Detail: err.Error(), Hint: "ask again"}
	}
	resp.Body = io.NopCloser(strings.NewReader(""))
	return resp, nil
}

// openBundle opens a bundle for reading.
func openBundle(file string) (*bundle.Reader, *os.File, error) {
	f, err := os.Open(file) //nolint:gosec // the user names the file
	if err != nil {
		return nil, nil, unreadable(file, "a bundle", err)
	}
	info, err := f.Stat()
	if err == nil {
		var r *bundle.Reader
		if r, err = bundle.Open(f, info.Size()); err == nil {
			return r, f, nil
		}
	}
	f.Close()
	return nil, nil, unreadable(file, "a bundle", err)
}

func countBundle(file string) (machines, verdicts int, err error) {
	r, f, err := openBundle(file)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	machines, verdicts = r.Counts()
	return machines, verdicts, nil
}

// bundleReport is what `verify --bundle --output json` prints.
type bundleReport struct {
	Valid bool `json:"valid"`
	bundle.Summary
	KeysPinned bool            `json:"keys_pinned"`
	Results    []bundle.Result `json:"results"`
}

// maxReported bounds the verdicts that agree and are listed in JSON; whatever is wrong is always listed.
const maxReported = 10_000

// verifyBundle judges a bundle.
func (c *VerifyCommand) verifyBundle(a *app) error {
	pinned, keys, err := readPinned(a, c.Checkpoints, c.JWKS)
	if err != nil {
		return err
	}
	r, f, err := openBundle(c.Bundle)
	if err != nil {
		return err
	}
	defer f.Close()
	report := bundleReport{KeysPinned: len(keys) > 0, Results: []bundle.Result{}}
	verify := func(jws string) ([]byte, error) {
		trusted := keys
		if !report.KeysPinned { // the bundle's own key, which shows that it is consistent
			if trusted, err = ownKeys(r); err != nil {
				return nil, err
			}
		}
		for _, p := range pinned {
			if p.said.Number == checkpointNumber(jws, trusted) && p.jws != jws {
				return nil, fmt.Errorf("it is another one than %s, which was kept", p.file)
			}
		}
		return relying.VerifyCheckpoint(jws, trusted)
	}
	_, total := r.Counts()
	done, shown := 0, a.now()
	report.Summary, err = bundle.Check(a.ctx, r, verify, func(res bundle.Result) error {
		if res.VerdictID != "" {
			done++
		}
		if now := a.now(); now.Sub(shown) > 2*time.Second {
			fmt.Fprintf(a.stderr, "assay: %d of %d verdicts judged\n", done, total)
			shown = now
		}
		if a.json {
			if len(report.Results) < maxReported || len(res.Faults) > 0 {
				report.Results = append(report.Results, res)
			}
			return nil
		}
		a.printBundleResult(&res)
		return nil
	})
	if err != nil {
		return err
	}
	report.Valid = report.Faults == 0
	if a.json {
		if err := a.printJSON(report); err != nil {
			return err
		}
	} else {
		a.printBundle(&report)
	}
	switch {
	case !report.Valid:
		return quietExit(exitFailed)
	case report.NotJudged > 0:
		return quietExit(exitIncomplete)
	}
	return nil
}

func checkpointNumber(jws string, keys []relying.Key) int64 {
	said, err := verifyCheckpoint(jws, keys)
	if err != nil {
		return 0
	}
	return said.Number
}

func ownKeys(r *bundle.Reader) ([]relying.Key, error) {
	s, err := r.Checkpoint()
	if err != nil || s == nil {
		return nil, err
	}
	return keysOf(s.JWK)
}

func (a *app) printBundleResult(r *bundle.Result) {
	p := a.print
	name := fmt.Sprintf("machine %s, verdict %d", clean(r.MachineID), r.Seq)
	switch {
	case r.MachineID == "":
		name = "the bundle"
	case r.VerdictID == "" && r.Seq == 0:
		name = "machine " + clean(r.MachineID)
	}
	switch {
	case len(r.Faults) > 0:
		p.line("%s  %s", p.paint(red, pad("WRONG", 10)), name)
	case r.Outcome == bundle.NotJudged:
		p.line("%s  %s: %s", p.paint(yellow, pad("not judged", 10)), name, clean(r.Why))
	default:
		p.line("%s  %s: %s", p.paint(green, pad("agreed", 10)), name, clean(r.Status))
	}
	for _, f := range r.Faults {
		p.line("            %s: %s", clean(f.Kind), clean(f.Detail))
		if f.Expected != "" || f.Found != "" {
			p.line("            expected %s", clean(f.Expected))
			p.line("            found    %s", clean(f.Found))
		}
	}
	if r.Note != "" {
		p.line("            %s", clean(r.Note))
	}
}

func bound(word string, at *time.Time) string {
	if at == nil {
		return ""
	}
	return word + at.UTC().Format(time.RFC3339)
}

func (a *app) printBundle(r *bundleReport) {
	p := a.print
	verdict := p.paint(green, "HOLDS")
	if !r.Valid {
		verdict = p.paint(red, "BROKEN")
	}
	p.line("\n%s  %s of %s: %d agreed, %d differ, %d not judged, %d faults", verdict, count(r.Verdicts, "verdict"), count(r.Machines, "machine"), r.Agreed, r.Differ, r.NotJudged, r.Faults)
	if of := r.Of; of.Machine != "" || of.Since != nil || of.Until != nil {
		p.field("of", clean(strings.TrimSpace(of.Machine+bound(" since ", of.Since)+bound(" until ", of.Until)))+" only, as the bundle says")
	}
	if r.Checkpoint == nil {
		p.field("checkpoint", "none: the chains are consistent in themselves, and no more")
		return
	}
	p.field("checkpoint", fmt.Sprintf("%d of %s covers %d of them; %d came later", r.Checkpoint.Number, clean(r.Checkpoint.At), r.Covered, r.Uncovered))
	if !r.AllMachines {
		p.field("machines", fmt.Sprintf("%d of the %d that the checkpoint covers", r.Machines, r.Checkpoint.Verdicts.Machines))
	}
	if !r.KeysPinned {
		p.field("note", "the checkpoint's key came with the bundle: give --jwks or --checkpoint to find a bundle that was made anew as a whole")
	}
}
