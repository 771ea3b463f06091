package auth

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/assay-verifier/assay/server/reach"
)

// Reach is what the operator lets the service ask for an issuer's keys.
type Reach struct {
	// Private allows issuers at loopback and private addresses, such as a GitLab of one's own.
	Private bool
	// Insecure allows issuers at http:// on loopback, for development.
	Insecure bool
}

// rules are the addresses that may be asked.
func (r Reach) rules() reach.Rules { return reach.Rules{Private: r.Private, Loopback: r.Insecure} }

// allows tells whether the address may be asked.
func (r Reach) allows(address netip.Addr) bool { return r.rules().Allow(address) }

// maxIssuer bounds an issuer and the address of its keys, in bytes.
const maxIssuer = 512

// CheckIssuer tells why an issuer cannot be used; nil if it can. It asks nobody.
func (r Reach) CheckIssuer(issuer string) error {
	u, err := r.checkURL(issuer)
	if err != nil {
		return err
	}
	if u.RawQuery != "" || u.ForceQuery {
		return fmt.Errorf("an issuer has no query (OpenID Connect Discovery 1.0, section 3)")
	}
	return nil
}

func (r Reach) checkURL(text string) (*url.URL, error) {
	if len(text) > maxIssuer {
		return nil, fmt.Errorf("it is longer than %d bytes", maxIssuer)
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.Opaque != "" || strings.ContainsAny(text, " |<>\"\\") {
		return nil, fmt.Errorf("it is no URL such as https://token.actions.githubusercontent.com")
	}
	if u.User != nil || u.Fragment != "" || strings.HasSuffix(text, "#") {
		return nil, fmt.Errorf("it must have neither user nor fragment")
	}
	literal, literalErr := netip.ParseAddr(u.Hostname())
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && r.Insecure && (u.Hostname() == "localhost" || (literalErr == nil && literal.Unmap().IsLoopback())):
	case u.Scheme == "http" && r.Insecure:
		return nil, fmt.Errorf("http is accepted on loopback only")
	default:
		return nil, fmt.Errorf("it must be https")
	}
	if literalErr == nil && !r.allows(literal) {
		return nil, reach.ErrForbidden
	}
	return u, nil
}
