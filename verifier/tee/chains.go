package tee

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"
)

// Chains remembers certificate chains that were verified, so that a chain is verified once and then only when one of
// its certificates ends: RSA-4096 signatures cost more than all else about a report. It belongs to one set of
// anchors: with other anchors comes another Chains. Revocation is asked each time. It is safe for concurrent use.
type Chains struct {
	mu      sync.Mutex
	limit   int
	entries map[[32]byte]verifiedChain
}

type verifiedChain struct {
	chain       []*x509.Certificate
	from, until time.Time
}

// NewChains remembers up to limit chains.
func NewChains(limit int) *Chains {
	return &Chains{limit: limit, entries: make(map[[32]byte]verifiedChain)}
}

// verified answers a chain of the leaf that was verified before and still holds.
func (c *Chains) verified(leaf *x509.Certificate, now time.Time) ([]*x509.Certificate, bool) {
	if c == nil {
		return nil, false
	}
	key := sha256.Sum256(leaf.Raw)
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok || now.Before(e.from) || now.After(e.until) {
		return nil, false
	}
	return e.chain, true
}

// remember keeps a chain that holds at now.
func (c *Chains) remember(chain []*x509.Certificate) {
	if c == nil {
		return
	}
	e := verifiedChain{chain: chain, from: chain[0].NotBefore, until: chain[0].NotAfter}
	for _, cert := range chain[1:] {
		if cert.NotBefore.After(e.from) {
			e.from = cert.NotBefore
		}
		if cert.NotAfter.Before(e.until) {
			e.until = cert.NotAfter
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= c.limit {
		clear(c.entries) // verified again, when they are asked for
	}
	c.entries[sha256.Sum256(chain[0].Raw)] = e
}
