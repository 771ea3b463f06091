package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/server/token/relying"
)

// TokenCommand holds the commands about results.
type TokenCommand struct {
	Verify     TokenVerify     `cmd:"" help:"Check a result with a key set, offline or online, and say in plain words what holds."`
	Introspect TokenIntrospect `cmd:"" help:"Ask the service whether a result still holds: a result that is valid by its signature may have been overtaken."`
	Create     TokenCreate     `cmd:"" help:"Let the service sign a result about a machine's standing verdict. It is printed alone on standard output."`
}

// resultFile is where a result is read from.
type resultFile struct {
	File string `arg:"" placeholder:"FILE" help:"File with the result; - is standard input. There is no flag for the result itself, since other users can read command lines."`
}

func (r *resultFile) read(a *app) (string, error) {
	body, err := readFile(r.File, relying.MaxToken+2, a.stdin)
	if err != nil {
		return "", unreadable(r.File, "a result", err)
	}
	text := strings.TrimSpace(string(body))
	if text == "" || strings.ContainsAny(text, " \r\n\t") {
		return "", unreadable(r.File, "a result", errors.New("it must hold one token and nothing else"))
	}
	return text, nil
}

// TokenVerify checks a result as a relying party does.
type TokenVerify struct {
	resultFile `embed:""`
	JWKS       string        `name:"jwks" placeholder:"URL|FILE" help:"Key set of the service that issued it; /.well-known/jwks.json of --server otherwise."`
	Issuer     string        `placeholder:"URL" help:"Who must have issued it."`
	Audience   string        `placeholder:"AUDIENCE" help:"Whom it must be made out to. A result that has an audience is refused without this."`
	Nonce      string        `placeholder:"TEXT" help:"The nonce that it must carry."`
	Leeway     time.Duration `default:"30s" placeholder:"DURATION" help:"By how much clocks may differ (${default}); at most 10m."`
	At         time.Time     `placeholder:"TIME" help:"Judge as of this time (RFC 3339); now otherwise."`
}

// Help explains the exit code.
func (c *TokenVerify) Help() string {
	return "Exit code: 0 everything holds and the status is affirming, 1 something does not or the status is another, 2 input that cannot be read."
}

// verifiedResult is what is printed of a result.
type verifiedResult struct {
	Valid  bool            `json:"valid"`
	Status string          `json:"status,omitempty"`
	Checks []relying.Check `json:"checks"`
	Claims any             `json:"claims,omitempty"`
}

// Run checks and prints.
func (c *TokenVerify) Run(a *app) error {
	if c.Leeway < 0 || c.Leeway > 10*time.Minute {
		return badUsage("--leeway takes 0s to 10m")
	}
	text, err := c.read(a)
	if err != nil {
		return err
	}
	parts, err := relying.Split(text)
	if err != nil {
		return unreadable(c.File, "a result", err)
	}
	set, from, err := c.keySet(a)
	if err != nil {
		return err
	}
	keys, err := relying.ParseKeySet(set)
	if err != nil {
		return unreadable(from, "a key set", err)
	}
	at := c.At
	if at.IsZero() {
		at = a.now()
	}
	out := check(text, &parts, keys, relying.Expect{Now: at, Leeway: c.Leeway, Issuer: c.Issuer, Audience: c.Audience, Nonce: c.Nonce})
	if a.json {
		if err := a.printJSON(out); err != nil {
			return err
		}
	} else {
		a.printResult(&out)
	}
	if !out.Valid || out.Status != "affirming" {
		return quietExit(exitFailed)
	}
	return nil
}

// check is the pure middle: what holds of a result.
func check(text string, parts *relying.Parts, keys []relying.Key, expect relying.Expect) verifiedResult {
	t, err := relying.Verify(text, keys)
	if err != nil {
		return verifiedResult{Checks: []relying.Check{{Name: "signature", Status: "fail", Detail: err.Error()}}}
	}
	out := verifiedResult{Checks: []relying.Check{{Name: "signature", Status: "pass", Detail: fmt.Sprintf("%s by the key %s", parts.Header.Algorithm, parts.Header.KeyID)}}}
	claims, err := relying.ReadClaims(t)
	var machine relying.Submod
	if err == nil {
		machine, err = claims.Machine()
	}
	if err != nil {
		out.Checks = append(out.Checks, relying.Check{Name: "type", Status: "fail", Detail: err.Error()})
		return out
	}
	out.Checks = append(out.Checks, claims.Check(expect)...)
	out.Valid, out.Status, out.Claims = relying.Holds(out.Checks), machine.Status, claims.Raw
	return out
}

// keySet reads the key set, and says where from.
func (c *TokenVerify) keySet(a *app) (set []byte, from string, err error) {
	address := c.JWKS
	if address == "" {
		address = strings.TrimRight(a.cli.Server, "/") + "/.well-known/jwks.json"
	}
	if !strings.Contains(address, "://") {
		if address == "-" && c.File == "-" {
			return nil, "", badUsage("the result and the key set cannot both be read from standard input")
		}
		set, err = readFile(address, 256<<10, a.stdin)
		if err != nil {
			return nil, "", unreadable(address, "a key set", err)
		}
		return set, address, nil
	}
	u, err := url.Parse(address)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return nil, "", badUsage("--jwks takes a file, or an address such as https://assay.example/.well-known/jwks.json")
	}
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		return nil, "", badUsage("--jwks: whoever can change the key set on its way can sign results: use https, or a file")
	}
	set, err = a.fetch(u)
	return set, address, err
}

// fetch gets a document without any token.
func (a *app) fetch(u *url.URL) ([]byte, error) {
	transport, err := a.transport()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(a.ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	doer := &patientDoer{app: a, http: &http.Client{Transport: transport, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	resp, err := doer.Do(req)
	if err != nil {
		return nil, &problem{Title: "The key set cannot be fetched", Code: "unreachable", Detail: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 256<<10+1))
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil, &problem{Title: "The key set cannot be fetched", Code: "unreachable", Detail: fmt.Sprintf("%s answers %s", u.Host, resp.Status)}
	}
	return body, nil
}

// printResult tells people what holds.
func (a *app) printResult(r *verifiedResult) {
	word := "This result holds"
	color := green
	if !r.Valid {
		word, color = "This result does not hold", red
	}
	line := a.print.paint(color, word)
	if r.Status != "" {
		line += ": the machine's status is " + a.print.paint(statusColor(r.Status), r.Status)
	}
	a.print.line("%s", line)
	for _, c := range r.Checks {
		word := c.Status
		if word == "skipped" {
			word = "not asked"
		}
		a.print.line("  %s  %s  %s", a.print.paint(statusColor(c.Status), pad(word, 9)), pad(c.Name, 9), clean(c.Detail))
	}
}

// TokenIntrospect asks the service about a result.
type TokenIntrospect struct {
	resultFile `embed:""`
}

// Help explains the exit code.
func (c *TokenIntrospect) Help() string {
	return "Exit code: 0 active and affirming, 1 otherwise, 2 input that cannot be read. A token of the role relying_party is enough."
}

// Run asks and prints.
func (c *TokenIntrospect) Run(a *app) error {
	text, err := c.read(a)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.IntrospectResultWithResponse(a.ctx, &client.IntrospectResultParams{}, client.IntrospectionRequest{Token: text})
	x, raw, err := answer[client.Introspection](a, resp, err)
	if err != nil {
		return err
	}
	switch {
	case a.json:
		err = a.printJSON(raw)
	case x.Active:
		a.print.line("%s: machine %s, status %s", a.print.paint(green, "active"), clean(textOf(x.Sub)), clean(textOf(x.Status)))
	default:
		line := a.print.paint(red, "not active") + ": " + inactiveText(textOf(x.InactiveReason))
		if x.CurrentStatus != nil {
			line += "; the machine's status is " + clean(string(*x.CurrentStatus)) + " now"
		}
		a.print.line("%s", line)
	}
	if err == nil && (!x.Active || textOf(x.Status) != "affirming") {
		return quietExit(exitFailed)
	}
	return err
}

func inactiveText(reason string) string {
	text, ok := map[string]string{
		"unknown":               "this is no result of this service",
		"expired":               "it has expired",
		"key_revoked":           "the key that signed it was withdrawn",
		"superseded":            "the evidence behind it was judged again",
		"replaced":              "later evidence was judged otherwise",
		"attestation_key_ended": "the machine was released, or has another key",
		"stale":                 "the machine's evidence is overdue",
	}[reason]
	if !ok {
		return clean(reason)
	}
	return text
}

// TokenCreate lets the service sign a result.
type TokenCreate struct {
	Machine   string `arg:"" placeholder:"MACHINE" help:"Name or id of the machine."`
	Audience  string `placeholder:"AUDIENCE" help:"Whom it is made out to."`
	Warning   bool   `name:"allow-warning" help:"With --audience: also where the machine's status is warning. Otherwise it has to be affirming."`
	AnyStatus bool   `help:"With --audience: whatever the machine's status is. For relying parties that read it in the result."`
	Nonce     string `placeholder:"BASE64" help:"The relying party's nonce, 8 to 88 characters."`
	Algorithm string `enum:"EdDSA,ES256" default:"EdDSA" help:"EdDSA or ES256."`
	Profile   string `enum:"dots,underscores" default:"dots" help:"Names of the claims: dots (draft-ietf-rats-ear-00 to -02) or underscores (-04)."`
}

// Run asks for it.
func (c *TokenCreate) Run(a *app) error {
	id, err := a.machineID(c.Machine)
	if err != nil {
		return err
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	body := client.ResultRequest{Audience: optional(c.Audience), Nonce: optional(c.Nonce), Algorithm: optionalAs[client.ResultAlgorithm](c.Algorithm)}
	if c.Warning {
		body.AllowWarning = &c.Warning
	}
	if c.AnyStatus {
		body.AnyStatus = &c.AnyStatus
	}
	if c.Profile == "underscores" {
		body.Profile = optionalAs[client.ResultProfile]("tag:ietf.org,2026:rats/ear#04")
	}
	resp, err := api.CreateResultWithResponse(a.ctx, id, &client.CreateResultParams{}, body)
	x, raw, err := answer[client.IssuedResult](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	fmt.Fprintf(a.stderr, "Result of machine %s: %s, expires %s.\n", id, x.Status, a.print.ago(x.ExpiresAt))
	a.print.line("%s", clean(x.Token))
	return nil
}

// SigningKeysCommand holds the commands about the keys that sign results.
type SigningKeysCommand struct {
	List   SigningKeysList  `cmd:"" default:"withargs" help:"List the keys that sign results (also without \"list\")."`
	Rotate SigningKeyRotate `cmd:"" help:"Let the next key sign, at once or as soon as relying parties have had time to fetch it."`
	Revoke SigningKeyRevoke `cmd:"" help:"Withdraw a key that may be in other hands: results that it signed are not accepted any more."`
}

// SigningKeysList lists the keys.
type SigningKeysList struct{}

// Run lists them.
func (c *SigningKeysList) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.ListSigningKeysWithResponse(a.ctx)
	return a.printKeys(resp, err)
}

func (a *app) printKeys(resp reply, err error) error {
	list, raw, err := answer[client.SigningKeyList](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	rows := make([][]cell, len(list.Items))
	for i := range list.Items {
		k := &list.Items[i]
		when := "published " + a.print.ago(k.PublishedAt)
		switch {
		case k.RevokedAt != nil:
			when = "revoked " + a.print.ago(*k.RevokedAt) + ": " + k.RevokedReason
		case k.EndsAt != nil:
			when = "until " + a.print.ago(*k.EndsAt)
		case k.ActivatedAt != nil:
			when = "signs since " + a.print.ago(*k.ActivatedAt)
			if k.ActivatedAt.After(a.now()) {
				when = "signs " + a.print.ago(*k.ActivatedAt)
			}
		}
		rows[i] = []cell{plain(string(k.State)), plain(string(k.Algorithm)), plain(when), {k.KeyID, dim}}
	}
	a.print.table([]string{"STATE", "ALGORITHM", "WHEN", "KEY ID"}, rows)
	return nil
}

// SigningKeyRotate lets the next key sign.
type SigningKeyRotate struct {
	Algorithm string `enum:",EdDSA,ES256" default:"" help:"EdDSA or ES256; both otherwise."`
}

// Run rotates and lists.
func (c *SigningKeyRotate) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.RotateSigningKeysWithResponse(a.ctx, &client.RotateSigningKeysParams{}, client.RotateRequest{Algorithm: optionalAs[client.RotateRequestAlgorithm](c.Algorithm)})
	return a.printKeys(resp, err)
}

// SigningKeyRevoke withdraws a key.
type SigningKeyRevoke struct {
	KeyID  string `arg:"" name:"key-id" help:"Id, as the list shows it."`
	Reason string `required:"" help:"Why, for the audit record."`
}

// Run revokes and lists.
func (c *SigningKeyRevoke) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	resp, err := api.RevokeSigningKeyWithResponse(a.ctx, c.KeyID, &client.RevokeSigningKeyParams{}, client.RevokeKeyRequest{Reason: c.Reason})
	return a.printKeys(resp, err)
}
