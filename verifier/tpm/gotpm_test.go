package tpm

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/google/go-tpm-tools/proto/attest"
	"google.golang.org/protobuf/proto"
)

// What `gotpm attest` writes: a quote for each bank, the AK, its certificate and the intermediates.
func TestGotpmAttestation(t *testing.T) {
	var a attest.Attestation
	if err := proto.Unmarshal(read(t, "testdata/gotpm/gce-cos-85-nonce9009.pb"), &a); err != nil {
		t.Fatal(err)
	}
	ak := mustParse(t, a.GetAkPub())
	if err := CheckAK(ak); err != nil {
		t.Error(err)
	}
	var quotes []Quote
	var claims PCRs
	for _, q := range a.GetQuotes() {
		bank := Bank{Alg: HashAlg(q.GetPcrs().GetHash())}
		for i, value := range q.GetPcrs().GetPcrs() {
			bank.Values[i] = value
			bank.Mask |= 1 << i
		}
		claims = append(claims, bank)
		quotes = append(quotes, Quote{Message: q.GetQuote(), Signature: q.GetRawSig()})
	}
	e := Expectation{Freshness: Freshness{Nonce: []byte{0x90, 0x09}}, Required: []Selection{{SHA256, 0xffff}}}
	v, r := Verify(ak, quotes, claims, e)
	mustPass(t, v, r)
	for _, bank := range v.Banks() {
		if bank == SHA1 {
			t.Error("sha1 is exposed")
		}
	}
	for i := range quotes {
		v, r = Verify(ak, quotes[i:i+1], claims, e)
		mustFail(t, StepSelection, "claimed, but was not quoted", v, r)
	}

	if len(a.GetAkCert()) == 0 {
		t.Fatal("no AK certificate")
	}
	cert, err := ParseEKCertificate(a.GetAkCert())
	if err != nil {
		t.Fatal(err)
	}
	if err := MatchAK(cert, ak); err != nil {
		t.Error(err)
	}
	dir := "testdata/certs/gce"
	intermediates := []*x509.Certificate{certificate(t, dir, "gcp_ek_ak_ca_intermediate_v3.crt"),
		certificate(t, dir, "tpm_ek_intermediate_2.crt"), certificate(t, dir, "tpm_ek_intermediate_3.crt")}
	for _, der := range a.GetIntermediateCerts() {
		c, err := ParseEKCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		intermediates = append(intermediates, c)
	}
	roots := []*x509.Certificate{certificate(t, dir, "tpm_ek_root_1.cer"), certificate(t, dir, "gcp_ek_ak_ca_root.crt")}
	if _, err := VerifyAKChain(cert, intermediates, roots, cert.NotBefore.Add(time.Hour)); err != nil {
		t.Error(err)
	}
}
