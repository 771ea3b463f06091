package tee

import (
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

// A remembered chain holds from the last beginning to the first end of its certificates, each instant included, and for
// its own leaf alone.
func TestChainsHoldAsLongAsTheirCertificates(t *testing.T) {
	from, until := teetest.Now.Add(-time.Hour), teetest.Now.Add(time.Hour)
	wide := func(raw string) *x509.Certificate {
		return &x509.Certificate{Raw: []byte(raw), NotBefore: from.Add(-time.Hour), NotAfter: until.Add(time.Hour)}
	}
	for n := range 3 { // which of leaf, intermediate and root is valid for the shortest time
		c := NewChains(8)
		chain := []*x509.Certificate{wide("leaf"), wide("intermediate"), wide("root")}
		chain[n].NotBefore, chain[n].NotAfter = from, until
		c.remember(chain)
		for at, want := range map[time.Time]bool{from.Add(-1): false, from: true, teetest.Now: true, until: true, until.Add(1): false} {
			if got, ok := c.verified(chain[0], at); ok != want || want && !slices.Equal(got, chain) {
				t.Errorf("certificate %d, at %s: %v", n, at, ok)
			}
		}
		for _, other := range []*x509.Certificate{chain[1], wide("another")} {
			if _, ok := c.verified(other, teetest.Now); ok {
				t.Errorf("%s was never verified", other.Raw)
			}
		}
	}
}

// What is remembered is bounded, and to remember nothing is possible.
func TestChainsAreBounded(t *testing.T) {
	leaf := func(n byte) *x509.Certificate {
		return &x509.Certificate{Raw: []byte{n}, NotBefore: teetest.Now.Add(-1), NotAfter: teetest.Now.Add(1)}
	}
	c := NewChains(2)
	for n, want := range []int{1, 2, 1} {
		c.remember([]*x509.Certificate{leaf(byte(n))})
		if _, ok := c.verified(leaf(byte(n)), teetest.Now); !ok || len(c.entries) != want {
			t.Errorf("%d: %v, %d entries", n, ok, len(c.entries))
		}
	}
	var none *Chains
	none.remember([]*x509.Certificate{leaf(1)})
	if _, ok := none.verified(leaf(1), teetest.Now); ok {
		t.Error("nothing was remembered")
	}
}

// A chain that was verified is remembered, and does not outlive its certificates nor the root that is trusted no more.
func TestARememberedChainIsNoLongerTrustedThanItsRoot(t *testing.T) {
	amd := teetest.NewAMD(t, teetest.Milan)
	e := genuine(amd, 3)
	trust := &Trust{SNP: amd.Anchors(), Chains: NewChains(8)}
	for range 2 {
		passes(t, Verify(e, trust, teetest.Now))
		if len(trust.Chains.entries) != 1 {
			t.Errorf("%d chains", len(trust.Chains.entries))
		}
	}
	said(t, Verify(e, trust, teetest.LeafUntil.Add(time.Second)), StepReport, "expired")
	said(t, Verify(e, &Trust{Chains: trust.Chains}, teetest.Now), StepReport, "no AMD root key (ARK) is trusted")
}
