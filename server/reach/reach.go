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
// the service ask them could act as the machine it runs on. Those of IPv6 are of AWS (fd00:ec2::254 and, for pods, ::23),
// Google Cloud and Oracle Cloud; they lie in what Private allows.
var never = prefixes("169.254.0.0/16", "fe80::/10", "fd00:ec2::/112", "fd20:ce::254/128", "fd00:c1::a9fe:a9fe/128", "100.100.100.200/32", "168.63.129.16/32",
	"0.0.0.0/8", "::/128", "224.0.0.0/4", "ff00::/8", "240.0.0.0/4")

// metadata are those of IPv4 among never that a gateway could have a use for.
var metadata = prefixes("169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32")

// private are the addresses that Rules.Private allows. Those that carry an IPv4 address inside (NAT64, 6to4,
// Teredo) are among them, since a gateway says what they lead to.
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
	for _, inner := range carried(a) {
		if within(inner, metadata) {
			return false
		}
	}
	if within(a, r.Networks) {
		return true
	}
	if a.IsLoopback() {
		return r.Private || r.Loopback
	}
	return r.Private || !within(a, private)
}

var (
	translated = prefixes("64:ff9b::/96", "64:ff9b:1::/48", "::/96") // NAT64 (RFC 6052, RFC 8215); IPv4-compatible
	sixToFour  = netip.MustParsePrefix("2002::/16")                  // RFC 3056, section 2
	teredo     = netip.MustParsePrefix("2001::/32")                  // RFC 4380, section 4
)

// carried are the IPv4 addresses that a gateway may lead an IPv6 address to.
func carried(a netip.Addr) []netip.Addr {
	if !a.Is6() {
		return nil
	}
	b := a.As16()
	four := func(w, x, y, z byte) netip.Addr { return netip.AddrFrom4([4]byte{w, x, y, z}) }
	last := four(b[12], b[13], b[14], b[15])
	switch {
	case sixToFour.Contains(a):
		return []netip.Addr{four(b[2], b[3], b[4], b[5])}
	case teredo.Contains(a):
		return []netip.Addr{four(b[4], b[5], b[6], b[7]), four(^b[12], ^b[13], ^b[14], ^b[15])}
	case within(a, translated):
		// The prefix of a network's own NAT64 may be 48, 56, 64 or 96 bits long (RFC 6052, section 2.2).
		return []netip.Addr{last, four(b[6], b[7], b[9], b[10]), four(b[7], b[9], b[10], b[11]), four(b[9], b[10], b[11], b[12])}
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP (RFC 5214, section 6.1)
		return []netip.Addr{last}
	}
	return nil
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
