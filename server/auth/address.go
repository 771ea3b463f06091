package auth

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
)

// Reach is what the operator lets the service ask for an issuer's keys.
type Reach struct {
	// Private allows issuers at loopback and private addresses, such as a GitLab of one's own.
	Private bool
	// Insecure allows issuers at http:// on loopback, for development.
	Insecure bool
}

// never are the addresses that no setting allows: clouds' metadata services answer there, and whoever could make
// the service ask them could act as the machine it runs on.
var never = prefixes("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32", "168.63.129.16/32",
	"0.0.0.0/8", "::/128", "224.0.0.0/4", "ff00::/8", "240.0.0.0/4")

// private are the addresses that Reach.Private allows. Those that carry an IPv4 address inside (NAT64, 6to4,
// Teredo) are among them, since what they lead to cannot be seen.
var private = prefixes("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "192.88.99.0/24", "fc00::/7", "fec0::/10", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/23", "2001:db8::/32", "2002::/16", "100::/64", "3fff::/20", "5f00::/16", "::/96")

func prefixes(texts ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		out[i] = netip.MustParsePrefix(text)
	}
	return out
}

// allows tells whether the address may be asked.
func (r Reach) allows(address netip.Addr) bool {
	a := address.Unmap().WithZone("")
	if !a.IsValid() || within(a, never) {
		return false
	}
	if a.IsLoopback() {
		return r.Private || r.Insecure
	}
	return r.Private || !within(a, private)
}

func within(a netip.Addr, list []netip.Prefix) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// control refuses a connection to an address that is not allowed. It is called with the address that is about to
// be dialled: a name that resolves to another address the second time gains nothing.
func (r Reach) control(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	a, err := netip.ParseAddr(host)
	if err != nil || !r.allows(a) {
		return errForbiddenAddress
	}
	return nil
}

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
		return nil, errForbiddenAddress
	}
	return u, nil
}
