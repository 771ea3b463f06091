package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/store/keyring"
)

const (
	maxAnswer   = 64 << 20
	maxAttempts = 3 // of a GET; nothing else is ever repeated
	firstWait   = 200 * time.Millisecond
	longestWait = 5 * time.Second
	// patience is how long a person waits before being told what for.
	patience = 2 * time.Second
)

// api is the client of the service that the command line names.
func (a *app) api() (*client.ClientWithResponses, error) {
	if a.service != nil {
		return a.service, nil
	}
	server, err := url.Parse(a.cli.Server)
	if err != nil || (server.Scheme != "http" && server.Scheme != "https") || server.Host == "" {
		return nil, &problem{Title: "The command line cannot be used", Code: "usage", exit: exitBadCall,
			Detail: fmt.Sprintf("--server takes an address such as https://assay.example:8440, not %q", a.cli.Server)}
	}
	transport, err := a.transport()
	if err != nil {
		return nil, err
	}
	bearer, err := a.bearer()
	if err != nil {
		return nil, err
	}
	token, err := bearer(a.ctx) // what is missing is said before anything is asked
	if err != nil {
		return nil, err
	}
	if token != "" && server.Scheme == "http" && !isLoopback(server.Hostname()) {
		fmt.Fprintf(a.stderr, "assay: the token travels unencrypted to %s; use https\n", server.Host)
	}
	doer := &patientDoer{app: a, http: &http.Client{Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	a.service, err = client.NewClientWithResponses(a.cli.Server, client.WithHTTPClient(doer),
		client.WithRequestEditorFn(func(ctx context.Context, req *http.Request) error {
			req.Header.Set("User-Agent", "assay/"+version)
			token, err := bearer(ctx)
			if err != nil {
				return err
			}
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			return nil
		}))
	return a.service, err
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// token is the bearer token: of --token-file (or ASSAY_TOKEN_FILE), else of ASSAY_TOKEN. There is no
// flag that takes the token itself, since every user of a machine can read command lines.
func (a *app) token() (string, error) {
	if a.cli.TokenFile == "" {
		return strings.TrimSpace(a.getenv("ASSAY_TOKEN")), nil
	}
	if a.cli.TokenFile != "-" {
		if err := keyring.CheckNotPublic(a.cli.TokenFile); err != nil {
			return "", unreadable(a.cli.TokenFile, "a token", err)
		}
	}
	body, err := readFile(a.cli.TokenFile, 64<<10, a.stdin)
	if err != nil {
		return "", unreadable(a.cli.TokenFile, "a token", err)
	}
	token := strings.TrimSpace(string(body))
	if token == "" || strings.ContainsAny(token, " \r\n\t") {
		return "", unreadable(a.cli.TokenFile, "a token", errors.New("it must hold one token and nothing else"))
	}
	return token, nil
}

func (a *app) transport() (http.RoundTripper, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if a.cli.CA != "" {
		certs, err := readCertificates(a.cli.CA, a.stdin)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		for _, cert := range certs {
			t.TLSClientConfig.RootCAs.AddCert(cert)
		}
	}
	return t, nil
}

// patientDoer sends requests, says on standard error what it waits for, and repeats a GET that failed
// for a passing reason.
type patientDoer struct {
	app  *app
	http *http.Client
}

// Do implements client.HttpRequestDoer.
func (d *patientDoer) Do(req *http.Request) (*http.Response, error) {
	defer d.app.progress("waiting for " + req.URL.Host)()
	wait := firstWait
	for attempt := 1; ; attempt++ {
		resp, err := d.http.Do(req) //nolint:gosec // the user says which service to ask
		if req.Method != http.MethodGet || attempt == maxAttempts || !passing(resp, err) || req.Context().Err() != nil {
			if resp != nil {
				resp.Body = bounded{io.LimitReader(resp.Body, maxAnswer), resp.Body, resp.Body}
			}
			return resp, err
		}
		pause := wait
		if resp != nil {
			if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds >= 0 {
				pause = min(time.Duration(seconds)*time.Second, longestWait)
			}
			_ = resp.Body.Close()
		}
		select {
		case <-req.Context().Done():
			return nil, req.Context().Err()
		case <-time.After(pause):
		}
		wait *= 3
	}
}

// bounded is a body that ends at maxAnswer: what is cut off is no JSON.
type bounded struct {
	io.Reader
	io.Closer
	whole io.ReadCloser
}

// passing tells whether the same request may well succeed a moment later. A certificate that does not
// hold, or a name that does not exist, will not.
func passing(resp *http.Response, err error) bool {
	if err == nil {
		return resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable ||
			resp.StatusCode == http.StatusGatewayTimeout || resp.StatusCode == http.StatusTooManyRequests
	}
	var op *net.OpError
	var dns *net.DNSError
	return (errors.As(err, &op) && !errors.As(err, &dns)) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// progress says what is being waited for once it takes longer than people like to wait in silence. The
// result ends it.
func (a *app) progress(what string) (stop func()) {
	done := make(chan struct{})
	started := time.Now()
	go func() {
		tick := time.NewTicker(patience)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				fmt.Fprintf(a.stderr, "assay: %s (%d s)\n", what, int(time.Since(started).Seconds()))
			}
		}
	}()
	return func() { close(done) }
}

// reply is what all of the client's answers have in common.
type reply interface {
	GetBody() []byte
	Status() string
	StatusCode() int
	ContentType() string
}

// answer reads a reply: the body as T (and raw) where the service did what it was asked, otherwise the
// problem that it answered.
func answer[T any](a *app, resp reply, err error) (value T, raw []byte, _ error) {
	var network *url.Error
	switch {
	case errors.As(err, &network), errors.Is(err, context.Canceled):
		return value, nil, a.unreachable(err)
	case errors.As(err, new(*problem)):
		return value, nil, err
	case err != nil:
		return value, nil, badAnswer(err)
	case resp.StatusCode() < 200 || resp.StatusCode() > 299:
		return value, nil, refused(resp)
	}
	raw = resp.GetBody()
	if len(bytes.TrimSpace(raw)) == 0 {
		return value, raw, nil
	}
	if err := json.Unmarshal(raw, &value); err != nil {
		return value, nil, badAnswer(err)
	}
	return value, raw, nil
}

func badAnswer(err error) error {
	return &problem{Title: "The service's answer cannot be read", Code: "bad_answer", Detail: err.Error(),
		Hint: "is this an Assay service, and of this version?"}
}

func (a *app) unreachable(err error) error {
	var p *problem
	if errors.As(err, &p) {
		return p
	}
	if errors.Is(err, context.Canceled) {
		return &problem{Title: "Interrupted", Code: "interrupted", Detail: "the service may or may not have done what was asked"}
	}
	out := &problem{Title: "The service cannot be reached", Code: "unreachable", Detail: err.Error(), Hint: "--server URL (or ASSAY_SERVER); is assayd running?"}
	var inner *url.Error
	if errors.As(err, &inner) {
		out.Detail = fmt.Sprintf("%s: %s", a.cli.Server, inner.Err)
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		out.Hint = "--ca PEM (or ASSAY_CA) with the certificate of the service's CA"
	}
	return out
}

// refused reads the service's problem document, or makes one of whatever else answered.
func refused(resp reply) error {
	media, _, _ := mime.ParseMediaType(resp.ContentType())
	p := &problem{}
	if media != "application/problem+json" || json.Unmarshal(resp.GetBody(), p) != nil || p.Title == "" {
		p = &problem{Title: "The server refused", Status: resp.StatusCode(), Code: "bad_answer",
			Detail: resp.Status() + ", without a problem document: this may not be an Assay service"}
	}
	if p.Status == http.StatusUnauthorized {
		p.Hint = "--token-file FILE (or ASSAY_TOKEN): assayd writes the first one to admin.token in its data directory"
	}
	return p
}

// page is one answer of a list, its items as they came.
type page struct {
	Items      []json.RawMessage `json:"items"`
	NextCursor *string           `json:"next_cursor"`
}

// Paging is how much of a list is asked for.
type Paging struct {
	Limit  int    `default:"50" help:"Show at most this many."`
	All    bool   `help:"Show all, page by page."`
	Cursor string `placeholder:"CURSOR" help:"Go on where an earlier list ended."`
	Sort   string `placeholder:"[-]FIELD" help:"Order; \"-\" turns it round. An unknown one is answered with those that the list has."`
	// Listed is true on every command line: what a command looks up for itself is no list that it was asked for.
	Listed bool `hidden:"" default:"true"`
}

// order puts the order into a request for a list.
func (p *Paging) order(_ context.Context, req *http.Request) error {
	if p.Sort != "" {
		query := req.URL.Query()
		query.Set("sort", p.Sort)
		req.URL.RawQuery = query.Encode()
	}
	return nil
}

const maxPage = 500

// fetchList asks for pages until there are enough items, and gives them as T and as the JSON to print.
func fetchList[T any](a *app, p Paging, ask func(c *client.ClientWithResponses, limit *int, cursor *string) (reply, error)) ([]T, page, error) {
	c, exports, err := a.listing(p)
	if err != nil {
		return nil, page{}, err
	}
	if exports {
		resp, err := ask(c, nil, nil)
		_, _, err = answer[page](a, resp, err)
		return nil, page{}, err
	}
	if p.Limit < 1 && !p.All {
		return nil, page{}, &problem{Title: "The command line cannot be used", Code: "usage", Detail: "--limit takes a number from 1", exit: exitBadCall}
	}
	all := page{Items: []json.RawMessage{}}
	cursor := optional(p.Cursor)
	for {
		limit := maxPage
		if !p.All {
			limit = min(maxPage, p.Limit-len(all.Items))
		}
		resp, err := ask(c, &limit, cursor)
		got, _, err := answer[page](a, resp, err)
		if err != nil {
			return nil, page{}, err
		}
		all.Items = append(all.Items, got.Items...)
		all.NextCursor = got.NextCursor
		cursor = got.NextCursor
		if cursor == nil || len(got.Items) == 0 || (!p.All && len(all.Items) >= p.Limit) {
			break
		}
	}
	items := make([]T, len(all.Items))
	for i, raw := range all.Items {
		if err := json.Unmarshal(raw, &items[i]); err != nil {
			return nil, page{}, badAnswer(err)
		}
	}
	return items, all, nil
}

// printList prints the list as JSON, or with show for people, saying where it goes on.
func printList[T any](a *app, items []T, all page, empty string, show func([]T)) error {
	if _, exported := exportTypes[a.cli.Output]; exported {
		return nil // it was written as it came
	}
	if a.json {
		return a.printJSON(all)
	}
	if len(items) == 0 {
		fmt.Fprintln(a.stderr, empty)
		return nil
	}
	show(items)
	if all.NextCursor != nil {
		fmt.Fprintf(a.stderr, "%s; there are more: --all, or --cursor %s\n", count(len(items), "row"), *all.NextCursor)
	}
	return nil
}

// optional gives nil for an empty flag, so that a filter that was not given is not sent.
func optional[S ~string](s S) *S {
	if s == "" {
		return nil
	}
	return &s
}

// optionalAs is optional for a flag whose type the client has a name for.
func optionalAs[T ~string](s string) *T { return optional(T(s)) }

// several is optionalAs for a flag that may hold several values with commas between them.
func several[T ~string](s string) *[]T {
	if s == "" {
		return nil
	}
	var values []T
	for _, v := range strings.Split(s, ",") {
		values = append(values, T(strings.TrimSpace(v)))
	}
	return &values
}

func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// textOf is the text behind a pointer, "" for nil.
func textOf[S ~string](s *S) string {
	if s == nil {
		return ""
	}
	return string(*s)
}
