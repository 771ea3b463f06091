// Package client speaks the agent's side of Assay's HTTP API: enrolment, activation, challenges, event
// logs, evidence.
//
//	c, err := client.New("https://assay.example:8440", client.Options{RootCAs: pool, UserAgent: "assay-agent/1.0"})
//	answer, err := c.Enroll(ctx, joinToken, request)
//	verdict, err := c.SubmitEvidence(ctx, machineID, machineToken, evidence)
//
// A refusal is a *Problem. The client keeps one connection open between calls and never tries again by
// itself: when and what to repeat is its caller's decision.
package client

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
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 8 << 20

// requestTimeout bounds one call, its body included.
const requestTimeout = 90 * time.Second

// Options of a Client; the zero value is usable.
type Options struct {
	RootCAs   *x509.CertPool // nil: the system's
	UserAgent string
	// Certificate gives the certificate to show to a server that asks for one; nil: none. It is asked at each new
	// connection, so that a file that was replaced counts.
	Certificate func() (*tls.Certificate, error)
}

// Client is safe for concurrent use.
type Client struct {
	base      string
	userAgent string
	http      *http.Client
}

// New makes a client for a server's base address, http or https.
func New(server string, o Options) (*Client, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("server address: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("server address %q is not of the form https://HOST[:PORT]", server)
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     &tls.Config{RootCAs: o.RootCAs, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: 20 * time.Second,
		ForceAttemptHTTP2:   true,
		MaxIdleConns:        2,
		MaxIdleConnsPerHost: 2,
		// No IdleConnTimeout: a new TLS connection costs the service more than an attestation, so the
		// connection is kept until the service closes it.
		ExpectContinueTimeout: time.Second,
	}
	if o.Certificate != nil {
		transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return o.Certificate() }
	}
	return &Client{
		base:      strings.TrimRight(u.String(), "/"),
		userAgent: o.UserAgent,
		http: &http.Client{
			Transport: transport,
			Timeout:   requestTimeout,
			// A redirect would carry the token elsewhere; the API has none.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Problem is an answer that refuses a request: an RFC 9457 problem document, or any other answer that is
// not the expected one.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"` // stable; empty when the answer was no problem document
	Errors []struct {
		Pointer   string `json:"pointer"`
		Parameter string `json:"parameter"`
		Detail    string `json:"detail"`
	} `json:"errors"`
	Instance string `json:"instance"`

	// RetryAfter is what the answer's Retry-After said, 0 if nothing.
	RetryAfter time.Duration `json:"-"`
}

// Error is the problem for a person: title, detail, code, and each field that does not fit.
func (p *Problem) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the server answered %d", p.Status)
	if p.Code != "" {
		fmt.Fprintf(&b, " %s", p.Code)
	}
	if p.Title != "" {
		fmt.Fprintf(&b, ": %s", p.Title)
	}
	if p.Detail != "" && p.Detail != p.Title {
		fmt.Fprintf(&b, ": %s", p.Detail)
	}
	for _, e := range p.Errors {
		fmt.Fprintf(&b, "\n  %s%s: %s", e.Pointer, e.Parameter, e.Detail)
	}
	return b.String()
}

// IsProblem tells whether err is a Problem with this code.
func IsProblem(err error, code string) bool {
	var p *Problem
	return errors.As(err, &p) && p.Code == code
}

// request is one call.
type request struct {
	method, path, token, contentType string
	body                             []byte
}

// do sends a request and decodes the answer of status want into out (nil: no content).
func (c *Client) do(ctx context.Context, r request, want int, out any) (http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, c.base+r.path, bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("User-Agent", c.userAgent)
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	rsp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer rsp.Body.Close() //nolint:errcheck // only read from
	body, err := io.ReadAll(io.LimitReader(rsp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("%s %s: read the answer: %w", r.method, r.path, err)
	}
	if len(body) > maxAnswer {
		return nil, fmt.Errorf("%s %s: the answer is longer than %d bytes", r.method, r.path, maxAnswer)
	}
	if rsp.StatusCode != want {
		return nil, problem(rsp, body)
	}
	if out == nil {
		return rsp.Header, nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return nil, fmt.Errorf("%s %s: the answer is not what the API promises: %w", r.method, r.path, err)
	}
	return rsp.Header, nil
}

func problem(rsp *http.Response, body []byte) *Problem {
	p := &Problem{}
	if kind, _, _ := mime.ParseMediaType(rsp.Header.Get("Content-Type")); kind == "application/problem+json" {
		if json.Unmarshal(body, p) != nil {
			p = &Problem{}
		}
	}
	p.Status = rsp.StatusCode
	if p.Title == "" {
		p.Title = http.StatusText(p.Status)
		if p.Status < 400 {
			p.Title = "an unexpected answer; is this an Assay server?"
		}
	}
	p.RetryAfter = retryAfter(rsp.Header.Get("Retry-After"), rsp.Header.Get("Date"))
	return p
}

// retryAfter reads the seconds or the date of a Retry-After (RFC 9110, section 10.2.3). A date is
// measured against the server's own clock.
func retryAfter(value, date string) time.Duration {
	if n, err := strconv.Atoi(value); err == nil {
		return time.Duration(max(0, min(n, 24*3600))) * time.Second
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(date)
	if err != nil {
		return 0
	}
	return max(0, min(at.Sub(now), 24*time.Hour))
}

func (c *Client) postJSON(ctx context.Context, path, token string, in any, want int, out any) (http.Header, error) {
	r := request{method: http.MethodPost, path: path, token: token}
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		r.body, r.contentType = body, "application/json"
	}
	return c.do(ctx, r, want, out)
}

// Enroll registers a machine.
func (c *Client) Enroll(ctx context.Context, joinToken string, e *EnrollmentRequest) (*Enrollment, error) {
	var out Enrollment
	if _, err := c.postJSON(ctx, "/v1/enrollments", joinToken, e, http.StatusCreated, &out); err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	return &out, nil
}

// Activate proves the AK of an enrolment by the secret of its credential. There is one try. The secret
// is the credential of this call: no token goes with it.
func (c *Client) Activate(ctx context.Context, enrollmentID string, secret []byte) (*Enrollment, error) {
	var out Enrollment
	path := "/v1/enrollments/" + url.PathEscape(enrollmentID) + "/activation"
	if _, err := c.postJSON(ctx, path, "", map[string][]byte{"secret": secret}, http.StatusOK, &out); err != nil {
		return nil, fmt.Errorf("activate the credential: %w", err)
	}
	return &out, nil
}

// Challenge asks for a nonce and what is to be quoted over it.
func (c *Client) Challenge(ctx context.Context, machineID, token string) (*Challenge, error) {
	var out Challenge
	path := "/v1/machines/" + url.PathEscape(machineID) + "/challenges"
	if _, err := c.postJSON(ctx, path, token, nil, http.StatusCreated, &out); err != nil {
		return nil, fmt.Errorf("ask for a challenge: %w", err)
	}
	return &out, nil
}

// PutEventLog sends a boot log ahead of the evidence. digest is its SHA-256 in hex.
func (c *Client) PutEventLog(ctx context.Context, machineID, token, digest string, log []byte) error {
	r := request{
		method: http.MethodPut, token: token, body: log, contentType: "application/octet-stream",
		path: "/v1/machines/" + url.PathEscape(machineID) + "/event-logs/" + url.PathEscape(digest),
	}
	if _, err := c.do(ctx, r, http.StatusNoContent, nil); err != nil {
		return fmt.Errorf("send the event log: %w", err)
	}
	return nil
}

// SubmitEvidence posts evidence and returns its verdict.
func (c *Client) SubmitEvidence(ctx context.Context, machineID, token string, e *Evidence) (*Verdict, error) {
	var raw json.RawMessage
	path := "/v1/machines/" + url.PathEscape(machineID) + "/evidence"
	header, err := c.postJSON(ctx, path, token, e, http.StatusCreated, &raw)
	if err != nil {
		return nil, fmt.Errorf("post evidence: %w", err)
	}
	out := Verdict{Raw: raw}
	if at, err := http.ParseTime(header.Get("Date")); err == nil {
		out.ServerTime = at
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("post evidence: the verdict cannot be read: %w", err)
	}
	if out.Status == "" {
		return nil, errors.New("post evidence: the answer is no verdict")
	}
	return &out, nil
}

// Result asks for a signed result about the machine's standing verdict.
func (c *Client) Result(ctx context.Context, machineID, token string, r *ResultRequest) (*Result, error) {
	var out Result
	path := "/v1/machines/" + url.PathEscape(machineID) + "/results"
	if _, err := c.postJSON(ctx, path, token, r, http.StatusCreated, &out); err != nil {
		return nil, fmt.Errorf("ask for a result: %w", err)
	}
	if out.Token == "" {
		return nil, errors.New("ask for a result: the answer holds none")
	}
	return &out, nil
}
