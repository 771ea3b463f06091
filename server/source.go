package server

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/assay-verifier/assay/server/limit"
)

// maxForwarded is how many addresses of X-Forwarded-For are looked at.
const maxForwarded = 16

// clientAddress is where a request comes from: the connection's other end, or, where that is a proxy that is trusted, the last
// address in X-Forwarded-For that is not one. What stands before that was written by whoever asked.
func (l *limiter) clientAddress(r *http.Request) string {
	remote := remoteHost(r.RemoteAddr)
	if len(l.proxies) == 0 {
		return remote
	}
	at, err := netip.ParseAddr(remote)
	if err != nil || !l.trusts(at) {
		return remote
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && i >= len(hops)-maxForwarded; i-- {
		hop, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break // no proxy of ours writes that
		}
		at = hop
		if !l.trusts(hop) {
			break
		}
	}
	return at.Unmap().WithZone("").String()
}

func (l *limiter) trusts(a netip.Addr) bool {
	for _, p := range l.proxies {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// source is what counts as one address; the zero address where there is none.
func (t *requestTrace) source() netip.Addr {
	a, err := netip.ParseAddr(t.remote)
	if err != nil {
		return netip.Addr{}
	}
	return limit.Source(a)
}
