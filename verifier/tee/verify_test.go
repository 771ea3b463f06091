package tee

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

// A verification that comes to no end has failed, and of several reasons the first is told.
func TestAVerificationFailsOnceAndAlways(t *testing.T) {
	v := &verification{trust: &Trust{}, result: &Result{}}
	v.finish()
	said(t, v.result, StepReport, "nothing was proven")
	v = &verification{trust: &Trust{}, result: &Result{}}
	v.fail("the first")
	v.fail("the second")
	v.finish()
	if said(t, v.result, StepReport, "the first"); len(v.result.Steps) != 1 {
		t.Errorf("%+v", v.result.Steps)
	}
}

// Collateral is found by kind and name both, among what was sent and what is held.
func TestCollateralIsFoundByKindAndName(t *testing.T) {
	sent := []Collateral{{Kind: KindTCBInfo, Name: "a", Body: []byte("1")}, {Kind: KindQEIdentity, Name: "a", Body: []byte("2")}, {Kind: KindTCBInfo, Name: "b", Body: []byte("3")}}
	held := []Collateral{{Kind: KindTCBInfo, Name: "a", Body: []byte("4")}, {Kind: KindPCKCRL, Name: "a", Body: []byte("5")}}
	v := &verification{trust: &Trust{Collateral: held}, sent: sent, result: &Result{}}
	var found []byte
	for _, c := range v.collateral(KindTCBInfo, "a") {
		found = append(found, c.Body...)
	}
	if string(found) != "14" {
		t.Errorf("%s", found)
	}
	// What served is kept once, what was sent under another kind or only held is not.
	same := sent[1]
	same.Body = sent[0].Body
	v.sent = append(v.sent, same)
	for range 2 {
		for _, c := range append(held, sent[0], Collateral{Kind: KindRootCRL, Body: sent[0].Body}, same) {
			v.used(c)
		}
	}
	kinds := make([]Kind, 0, 2)
	for _, u := range v.result.Used {
		kinds = append(kinds, u.Kind)
	}
	if !slices.Equal(kinds, []Kind{KindTCBInfo, KindQEIdentity}) {
		t.Errorf("%v", kinds)
	}
}

// Held certificates that are labelled as something else, or that cannot be read in whole, serve nobody: they came past
// ParseCollateral.
func TestHeldCertificatesAreWhatTheySay(t *testing.T) {
	amd := teetest.NewAMD(t, teetest.Milan)
	e := genuine(amd, 3)
	good := e.Certificates[0]
	odd := amd.VCEK(amd.ChipID, amd.TCB, teetest.SetExtension(teetest.OIDCSPID, teetest.DER(t, "cloud")))
	e.Certificates = nil
	for name, c := range map[string]Collateral{"a VCEK named a VLEK": {Kind: KindVLEK, Body: good}, "a VCEK named a CRL": {Kind: KindSNPCRL, Body: good},
		"of a chip and of a cloud": {Kind: KindVCEK, Body: odd}} {
		if r := Verify(e, &Trust{SNP: amd.Anchors(), Collateral: []Collateral{c}}, teetest.Now); r.Report != nil {
			t.Error(name)
		}
	}
	passes(t, Verify(e, &Trust{SNP: amd.Anchors(), Collateral: []Collateral{{Kind: KindVCEK, Body: good}}}, teetest.Now))
	// Of what was sent, the certificate that served is kept.
	e.Certificates = [][]byte{amd.ASK.Raw, good, amd.ARK.Raw}
	r := Verify(e, &Trust{SNP: amd.Anchors()}, teetest.Now)
	if passes(t, r); len(r.Used) != 1 || r.Used[0].Kind != KindVCEK || !bytes.Equal(r.Used[0].Body, good) {
		t.Errorf("%+v", r.Used)
	}
}

// What a library might hand over beyond four registers is no register, and a report of nothing says nothing.
func TestReportsOfOddParts(t *testing.T) {
	intel := teetest.NewIntel(t)
	q, err := parseTDX(quote(intel).Quote)
	if err != nil {
		t.Fatal(err)
	}
	body := q.proto.GetTdQuoteBody()
	body.Rtmrs = append(body.Rtmrs, make([]byte, 48), make([]byte, 48))
	if _, ok := claimTDX(q, nil).RTMR(4); ok {
		t.Error("RTMR 4")
	}
	if (*Report)(nil).Paravisor() {
		t.Error("of nothing there is no paravisor")
	}
	if c := (&Report{technology: SEVSNP}).makeClaims(); c.Root != "" || c.RootSHA256 != "" {
		t.Errorf("%+v", c)
	}
}

// A bound is the last size that is accepted, and what is cut short of its form is told as such.
func TestBoundsAreInclusive(t *testing.T) {
	amd, intel := teetest.NewAMD(t, teetest.Milan), teetest.NewIntel(t)
	body, chain := intel.Signed("tcbInfo", teetest.TCBInfo())
	padded := func(b []byte, size int, with string) []byte {
		return append(bytes.Clone(b), bytes.Repeat([]byte(with), size-len(b))...)
	}
	for name, c := range map[string]struct {
		kind        Kind
		body, chain []byte
	}{
		"an issuer chain": {KindTCBInfo, body, padded(chain, maxIssuerChain, "\n")},
		"an answer":       {KindTCBInfo, padded(body, maxSignedJSON, " "), chain},
		"a certificate":   {KindVCEK, padded(block("CERTIFICATE", amd.VCEK(amd.ChipID, amd.TCB)), maxCertificate, "\n"), nil},
	} {
		if _, err := ParseCollateral(c.kind, c.body, c.chain); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	full := quote(intel)
	full.Quote = append(full.Quote, make([]byte, maxQuote-len(full.Quote))...)
	passes(t, Verify(full, under(intel), teetest.Now))
	said(t, Verify(&Evidence{Type: TypeTDX, Quote: quote(intel).Quote[:1020]}, under(intel), teetest.Now), StepReport, "TD quote: ")

	for n, want := range map[int]bool{-1: false, 0: true, 255: true, 256: false} {
		if got, err := derByte(teetest.DER(t, n)); (err == nil) != want || want && int(got) != n {
			t.Errorf("%d as a part of a TCB version: %d, %v", n, got, err)
		}
	}
	for text, want := range map[string]bool{strings.Repeat("!", 64): true, strings.Repeat("~", 64): true, strings.Repeat("a", 65): false, "a b": false, "a\x7f": false, "a/b": false} {
		if got, err := derIA5(teetest.DER(t, text)); (err == nil) != want || want && got != text {
			t.Errorf("%q as a name: %q, %v", text, got, err)
		}
	}

	s := &TCBStatus{}
	s.advise([]string{strings.Repeat("a", 64), strings.Repeat("b", 65), "c", "c"})
	if len(s.Advisories) != 2 {
		t.Errorf("%v", s.Advisories)
	}
	for i := range 2 * maxAdvisories {
		s.advise([]string{strconv.Itoa(i)})
	}
	if len(s.Advisories) != maxAdvisories {
		t.Errorf("%d advisories", len(s.Advisories))
	}
}

// What is checked is read again, and what cannot be read is told as that, not as untrusted or out of date.
func TestWhatIsCheckedIsReadAgain(t *testing.T) {
	intel := teetest.NewIntel(t)
	trust := under(intel)
	junk := Collateral{Kind: KindTCBInfo, Body: []byte("no")}
	for name, c := range map[string]struct {
		err    error
		reason string
	}{
		"no time":       {trust.CheckCollateral(tcbInfo(t, intel), time.Time{}), "the time to judge at is not given"},
		"no JSON":       {trust.CheckCollateral(junk, teetest.Now), "not JSON"},
		"a certificate": {trust.checkEndorsement(junk, teetest.Now), "malformed certificate"},
		"no VCEK":       {trust.checkEndorsement(Collateral{Body: intel.Root.Raw}, teetest.Now), "neither SEV-VCEK nor SEV-VLEK"},
		"a CRL":         {checkCRL(junk, intel.Anchors()), "malformed CRL"},
		"a PCK CRL":     {trust.checkPCKCRL(Collateral{Body: junk.Body, IssuerChain: teetest.PEM(intel.PCKCA, intel.Root)}, teetest.Now), "malformed CRL"},
	} {
		if c.err == nil || !strings.Contains(c.err.Error(), c.reason) {
			t.Errorf("%s: %v, want %q", name, c.err, c.reason)
		}
	}
	if _, err := trust.checkSigned(junk, teetest.Now); err == nil || !strings.Contains(err.Error(), "not JSON") {
		t.Errorf("an answer: %v", err)
	}
}

// What is malformed behind its last digit, or in its outermost tag alone, is malformed.
func TestEndsAndTags(t *testing.T) {
	intel := teetest.NewIntel(t)
	info := tcbInfo(t, intel)
	info.Body = append(bytes.TrimSuffix(bytes.Clone(info.Body), []byte(`"}`)), `0"}`...)
	if err := under(intel).CheckCollateral(info, teetest.Now); err == nil || !strings.Contains(err.Error(), "its signature has not 64 bytes in hex") {
		t.Errorf("a digit behind a signature: %v", err)
	}
	if chain, err := parseChain(teetest.PEM(intel.Root, intel.Root, intel.Root, intel.Root)); err != nil || len(chain) != 4 {
		t.Errorf("4 certificates: %v", err)
	}
	// From 2050 on a time is a GeneralizedTime (RFC 5280, section 5.1.2.4).
	late := time.Date(2055, 1, 1, 0, 0, 0, 0, time.UTC)
	if c, err := parseCRL(intel.CRL(intel.Root, late, late.AddDate(1, 0, 0), intel.PCKCA)); err != nil || !c.ThisUpdate.Equal(late) {
		t.Errorf("a CRL of 2055: %v", err)
	}
	revoked := append([]byte{derSequence, 18, derInteger, 1, 5, derUTCTime, 13}, "260101000000Z"...)
	for tag, want := range map[byte]bool{derSequence: true, 0x31: false, derExtensions: false} {
		revoked[0] = tag
		if err := (&crl{entries: revoked}).each(func([]byte, time.Time) bool { return true }); (err == nil) != want {
			t.Errorf("an entry of tag %#x: %v", tag, err)
		}
	}
}
