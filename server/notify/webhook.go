package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/assay-verifier/assay/server/reach"
	"github.com/assay-verifier/assay/store"
)

// maxHeader bounds what a receiver's answer may cost; its body is not read.
const maxHeader = 16 << 10

// sendWebhook posts a body after Standard Webhooks 1.0.0. Only 2xx is a delivery; redirects are not followed, since they
// would carry the signed body to whoever the receiver names.
func (s *Service) sendWebhook(ctx context.Context, c *store.Channel, secrets *Secrets, m *message, config *tls.Config) outcome {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Config.URL, bytes.NewReader(m.body))
	if err != nil {
		return outcome{err: errors.New("the URL cannot be used")}
	}
	at := s.now()
	keys := [][]byte{secrets.Signing}
	if len(secrets.Previous) > 0 && c.PreviousSecretUntil != nil && at.Before(*c.PreviousSecretUntil) {
		keys = append(keys, secrets.Previous)
	}
	id := m.event.ID.String()
	req.Header.Set("Content-Type", m.contentType)
	req.Header.Set("User-Agent", "Assay/"+s.cfg.Version)
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	req.Header.Set("Webhook-Signature", sign(id, at, m.body, keys...))
	transport := &http.Transport{
		Proxy: nil, DialContext: s.dial, TLSClientConfig: config,
		MaxResponseHeaderBytes: maxHeader, DisableKeepAlives: true, DisableCompression: true, ForceAttemptHTTP2: false,
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return outcome{err: s.plainError(ctx, err)}
	}
	_ = resp.Body.Close() // unread: what it says changes nothing, and it may be endless
	return judge(resp, at)
}

// judge says what a receiver's answer means.
func judge(resp *http.Response, now time.Time) outcome {
	out := outcome{status: &resp.StatusCode}
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
	case code == http.StatusGone:
		out.err, out.gone = errors.New("the receiver answered 410: it is gone for good"), true
	case code >= 300 && code < 400:
		out.err = fmt.Errorf("the receiver answered %d, a redirect, which is not followed", code)
	default:
		out.err = fmt.Errorf("the receiver answered %d", code)
		out.retryAfter = retryAfter(resp.Header.Get("Retry-After"), now)
	}
	return out
}

// retryAfter reads seconds or a date (RFC 9110, section 10.2.3); 0 for none.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64); err == nil {
		return time.Duration(max(0, min(seconds, int64(longestRetryAfter/time.Second)))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// rootsOf are the certificates that a channel names in the place of the system's; nil for those.
func rootsOf(pem string) (*x509.CertPool, error) {
	if pem == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(pem)) {
		return nil, errors.New("ca_pem holds no certificate")
	}
	return pool, nil
}

// maxError bounds the text of an error that is kept, in bytes.
const maxError = 300

// plainError is why nothing was sent, or no answer came, in words that may be kept and shown: without the URL, which may
// hold a secret, in one line and short.
func (s *Service) plainError(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, reach.ErrForbidden):
		return errors.New("the receiver's address is private, or of a kind that is never asked; the operator can allow networks (--notify-allow-networks)")
	case ctx.Err() != nil:
		return fmt.Errorf("no answer within %s", s.cfg.Timeout)
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var connection *net.OpError
	if errors.As(err, &connection) && connection.Source != nil { // the service's own address
		bare := *connection
		bare.Source = nil
		err = &bare
	}
	return errors.New(oneLine(err.Error()))
}

// dial connects to a receiver. Why a name has no address is said without the resolver that was asked: which there are inside
// is nobody's business, and the text of the cause may name them.
func (s *Service) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := s.cfg.Reach.Dial(ctx, network, address)
	var lookup *net.DNSError
	if !errors.As(err, &lookup) {
		return conn, err
	}
	reason := "the look-up failed"
	switch {
	case lookup.IsNotFound:
		reason = "there is no such host"
	case lookup.IsTimeout:
		reason = "the look-up took too long"
	}
	return nil, fmt.Errorf("the name %q has no address: %s", lookup.Name, reason)
}

// oneLine is text without control characters, cut short.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > maxError {
		text = strings.ToValidUTF8(text[:maxError], "") + "…"
	}
	return text
}

// maxURL bounds a webhook's URL, in bytes.
const maxURL = 2048

// CheckURL tells why a URL cannot be a webhook's; nil if it can. It asks nobody.
func (s *Service) CheckURL(text string) error {
	if len(text) > maxURL {
		return fmt.Errorf("it is longer than %d bytes", maxURL)
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "" || strings.ContainsAny(text, " |<>\"\\") {
		return errors.New("it is no URL such as https://siem.example/assay")
	}
	if u.User != nil || u.Fragment != "" || strings.HasSuffix(text, "#") {
		return errors.New("it must have neither user nor fragment")
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !s.cfg.AllowHTTP) {
		return errors.New("it must be https")
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil && !s.cfg.Reach.Allow(a) {
		return reach.ErrForbidden
	}
	return nil
}

// CheckRoots tells why certificates cannot be a channel's roots; nil if they can.
func CheckRoots(pem string) error {
	_, err := rootsOf(pem)
	return err
}
