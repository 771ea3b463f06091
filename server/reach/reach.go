// Package reach says which addresses the service may connect to on somebody's behalf: an identity provider's, a
// webhook's. Whoever configures one of those could otherwise make the service ask what only it can reach.
package reach

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// ErrForbidden says no more: which addresses exist inside is nobody's business.
var ErrForbidden = errors.New("its address is private, or of a kind that is never asked")

// Rules is what is allowed beside public addresses. The zero value allows nothing else.
type Rules struct {
	Private  bool           // private addresses and loopback
	Loopback bool           // loopback alone
	Networks []netip.Prefix // these, whatever they are but never
}

// never are the addresses that no setting allows: clouds' metadata services answer there, and whoever could make
// the service ask them could act as the machine it runs on.
var never = prefixes("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32", "168.63.129.16/32",
	"0.0.0.0/8", "::/128", "224.0.0.0/4", "ff00::/8", "240.0.0.0/4")

// private are the addresses that Rules.Private allows. Those that carry an IPv4 address inside (NAT64, 6to4,
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

// Allow tells whether the address may be asked.
func (r Rules) Allow(address netip.Addr) bool {
	a := address.Unmap().WithZone("")
	if !a.IsValid() || within(a, never) {
		return false
	}
	if within(a, r.Networks) {
		return true
	}
	if a.IsLoopback() {
		return r.Private || r.Loopback
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

// Control refuses a connection to an address that is not allowed. A net.Dialer calls it with the address that is about
// to be dialled: a name that resolves to another address the second time gains nothing.
func (r Rules) Control(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	a, err := netip.ParseAddr(host)
	if err != nil || !r.Allow(a) {
		return ErrForbidden
	}
	return nil
}

// Dial connects to a "host:port" of which an address is allowed.
func (r Rules) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: 10 * time.Second, Control: r.Control}
	return dialer.DialContext(ctx, network, address)
}
