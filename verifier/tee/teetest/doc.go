// Package teetest makes hardware evidence for tests: an AMD and an Intel of its own, with roots, endorsement keys,
// revocation lists and collateral, that sign reports and quotes in which every field is the test's choice.
//
// It signs what no hardware made, so nothing but tests may import it (a lint rule keeps it so). It does not import
// package tee, whose own tests use it.
//
//	amd := teetest.NewAMD(t, teetest.Milan)
//	evidence := &tee.Evidence{Type: tee.TypeAzureHCL, HCLReport: amd.HCL(ak, nil, teetest.HCL{}),
//		Certificates: [][]byte{amd.VCEK(amd.ChipID, amd.TCB)}}
//	result := tee.Verify(evidence, &tee.Trust{SNP: amd.Anchors()}, teetest.Now)
package teetest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"sync"
	"testing"
	"time"
)

// Now lies within the validity of all that is made here by default.
var Now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// The default dates of what is made here; all differ, so that a test can tell which of them counted.
var (
	RootUntil         = time.Date(2045, 1, 1, 0, 0, 0, 0, time.UTC)
	IntermediateUntil = time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)
	LeafUntil         = time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
	begin             = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Edit changes the template of a certificate before it is signed. Its PublicKey is the subject's key.
type Edit func(template *x509.Certificate)

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// Issue signs a certificate; the template's PublicKey is the subject's.
func Issue(t testing.TB, template, parent *x509.Certificate, signer any, edits ...Edit) *x509.Certificate {
	t.Helper()
	for _, edit := range edits {
		edit(template)
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, parent, template.PublicKey, signer))
	return must[*x509.Certificate](t)(x509.ParseCertificate(der))
}

// rsaKeys are made once for a test binary, since they are slow to make: 2048 bits, where AMD's have 4096.
var rsaKeys struct {
	sync.Mutex
	made map[string]*rsa.PrivateKey
}

// RSAKey is a key of 2048 bits that stays the same for a name while the test binary runs.
func RSAKey(t testing.TB, name string) *rsa.PrivateKey {
	t.Helper()
	rsaKeys.Lock()
	defer rsaKeys.Unlock()
	if rsaKeys.made == nil {
		rsaKeys.made = map[string]*rsa.PrivateKey{}
	}
	if rsaKeys.made[name] == nil {
		rsaKeys.made[name] = must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	}
	return rsaKeys.made[name]
}

// revoked lists certificates for a CRL.
func revoked(certificates []*x509.Certificate, at time.Time) []x509.RevocationListEntry {
	var out []x509.RevocationListEntry
	for _, c := range certificates {
		out = append(out, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: at})
	}
	return out
}

func serial(n int64) *big.Int { return big.NewInt(n) }
