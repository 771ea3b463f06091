package schedule

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	requestTimeout = 30 * time.Second
	maxAnswer      = 1 << 20
	maxHeaders     = 64 << 10
	maxRedirects   = 3
)

// client asks vendors. It follows no redirect to another host, uses no proxy that the environment names, and reads no
// answer that is larger than collateral is.
type client struct{ http *http.Client }

func newClient() *client {
	return &client{&http.Client{
		Timeout: requestTimeout,
		Transport: &http.Transport{
			Proxy: nil, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, MaxResponseHeaderBytes: maxHeaders,
			TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: requestTimeout, DisableKeepAlives: true, DisableCompression: true,
		},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if req.URL.Host != via[0].URL.Host || req.URL.Scheme != via[0].URL.Scheme {
				return errors.New("it redirects to another host")
			}
			if len(via) > maxRedirects {
				return errors.New("it redirects too often")
			}
			return nil
		},
	}}
}

// fetched is an answer.
type fetched struct {
	body, chain []byte
}

// unavailableError is a source that is to be left alone: it throttles, fails, or is not there.
type unavailableError struct {
	text       string
	retryAfter time.Duration
}

func (e *unavailableError) Error() string { return e.text }

// get asks for an address. The error is an *unavailableError where the source is to be left alone, and any other where it
// has nothing of use there.
func (c *client) get(ctx context.Context, address, chainHeader string, now func() time.Time) (got fetched, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return got, err
	}
	resp, err := c.http.Do(req) //nolint:gosec // the operator says which source to ask
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the address, which holds what a machine said
		}
		return got, &unavailableError{text: "it cannot be reached: " + err.Error()}
	}
	defer func() { _ = resp.Body.Close() }()
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusTooManyRequests || code >= 500:
		return got, &unavailableError{text: "it answers " + resp.Status[:min(len(resp.Status), 100)], retryAfter: retryAfter(resp.Header.Get("Retry-After"), now())}
	default:
		return got, fmt.Errorf("the source answers %d", code)
	}
	if got.body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1)); err != nil {
		return got, &unavailableError{text: "its answer ended early: " + err.Error()}
	}
	if len(got.body) > maxAnswer {
		return got, fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	}
	if chainHeader != "" {
		chain, err := url.PathUnescape(resp.Header.Get(chainHeader))
		if err != nil || chain == "" {
			return got, fmt.Errorf("the header %s is missing or cannot be read", chainHeader)
		}
		got.chain = []byte(chain)
	}
	return got, nil
}

// retryAfter reads the header (RFC 9110, section 10.2.3): seconds, or a time.
func retryAfter(text string, now time.Time) time.Duration {
	text = strings.TrimSpace(text)
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		return max(0, time.Duration(seconds)*time.Second)
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
