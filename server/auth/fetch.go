package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/assay-verifier/assay/server/reach"
)

// Bounds on what an issuer may cost.
const (
	fetchTimeout     = 10 * time.Second
	maxDiscovery     = 256 << 10
	maxKeySet        = 512 << 10
	maxFetchedHeader = 64 << 10
)

// The life of fetched keys, by Cache-Control: max-age of the key set.
const (
	shortestLife = 5 * time.Minute
	usualLife    = time.Hour // where the issuer does not say
	longestLife  = 24 * time.Hour
)

// fetcher asks issuers. It follows no redirect, uses no proxy that the environment names, and reads no answer that
// is larger than such documents are.
type fetcher struct {
	reach   Reach
	timeout time.Duration // discovery and keys together
	http    *http.Client
}

func newFetcher(to Reach, roots *x509.CertPool) *fetcher {
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: to.rules().Control}
	return &fetcher{reach: to, timeout: fetchTimeout, http: &http.Client{
		Transport: &http.Transport{
			Proxy: nil, DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
			MaxResponseHeaderBytes: maxFetchedHeader, TLSHandshakeTimeout: 5 * time.Second, DisableKeepAlives: true, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// fetchError is why an issuer's keys cannot be had: in words for whoever sent the token, and the cause for the log.
type fetchError struct {
	text  string
	cause error
}

func (e *fetchError) Error() string {
	if e.cause != nil {
		return e.text + ": " + e.cause.Error()
	}
	return e.text
}

func (e *fetchError) Unwrap() error { return e.cause }

// keys fetches an issuer's key set and says how long it is good for.
func (f *fetcher) keys(ctx context.Context, issuer string) (raw []byte, life time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	body, _, err := f.get(ctx, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", maxDiscovery, "its discovery document")
	if err != nil {
		return nil, 0, err
	}
	var discovery struct {
		Issuer  string `json:"issuer"`
		KeysURL string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(body, &discovery); err != nil {
		return nil, 0, &fetchError{"its discovery document cannot be read", err}
	}
	// OpenID Connect Discovery 1.0, section 4.3: exactly the issuer that was asked, or another could speak for it.
	if discovery.Issuer != issuer {
		return nil, 0, &fetchError{text: "its discovery document is of another issuer"}
	}
	if _, err := f.reach.checkURL(discovery.KeysURL); err != nil {
		return nil, 0, &fetchError{"the jwks_uri of its discovery document cannot be used", err}
	}
	raw, header, err := f.get(ctx, discovery.KeysURL, maxKeySet, "its key set")
	if err != nil {
		return nil, 0, err
	}
	if _, err := parseKeys(raw); err != nil {
		return nil, 0, &fetchError{"its key set cannot be used", err}
	}
	return raw, lifeOf(header.Values("Cache-Control")), nil
}

func (f *fetcher) get(ctx context.Context, address string, limit int64, what string) ([]byte, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, nil, &fetchError{what + " has no usable address", err}
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "assay")
	resp, err := f.http.Do(req) //nolint:gosec // an administrator configured the issuer, and the dialer checks the address
	if err != nil {
		text := what + " cannot be reached"
		if errors.Is(err, reach.ErrForbidden) {
			text = what + " is at an address that this service may not ask"
		}
		return nil, nil, &fetchError{text, err}
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return nil, nil, &fetchError{text: what + " is a redirect, which is not followed"}
	case resp.StatusCode != http.StatusOK:
		return nil, nil, &fetchError{text: fmt.Sprintf("%s answers %d", what, resp.StatusCode)}
	}
	if media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && media == "text/html" {
		return nil, nil, &fetchError{text: what + " is a page, not JSON"}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, nil, &fetchError{what + " ended early or came too slowly", err}
	}
	if int64(len(body)) > limit {
		return nil, nil, &fetchError{text: fmt.Sprintf("%s is larger than %d KiB", what, limit>>10)}
	}
	return body, resp.Header, nil
}

// lifeOf reads Cache-Control (RFC 9111, section 5.2.2) and keeps it within bounds.
func lifeOf(headers []string) time.Duration {
	life := usualLife
	for _, directive := range strings.Split(strings.Join(headers, ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return shortestLife
		case "max-age":
			seconds, err := strconv.ParseInt(strings.Trim(value, `" `), 10, 64)
			switch {
			case err != nil:
			case seconds > int64(longestLife/time.Second):
				life = longestLife
			default:
				life = time.Duration(seconds) * time.Second
			}
		}
	}
	return min(max(life, shortestLife), longestLife)
}
