package tee

import (
	"bytes"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

// said fails the test unless the result proves nothing and the step says why.
func said(t *testing.T, r *Result, s Step, reason string) {
	t.Helper()
	if got := step(r, s); r.Report != nil || got.Outcome != Fail || !strings.Contains(got.Detail, reason) {
		t.Errorf("want %s to fail for %q, have %+v (report %v)", s, reason, r.Steps, r.Report != nil)
	}
	if !r.ValidUntil.IsZero() {
		t.Errorf("nothing is proven, until %s", r.ValidUntil)
	}
}

// passes fails the test unless the result proves a report.
func passes(t *testing.T, r *Result) *Report {
	t.Helper()
	if r.Report == nil || step(r, StepReport).Outcome != Pass {
		t.Fatalf("not proven: %+v", r.Steps)
	}
	return r.Report
}

// A host that masks the chip id (SNP_CONFIG.MASK_CHIP_ID) still has its reports signed by the chip's key. MASK_CHIP_KEY
// is another switch: it turns the signature off.
func TestAMaskedChipIDIsNoMismatch(t *testing.T) {
	for _, name := range products {
		amd := teetest.NewAMD(t, name)
		for _, info := range []uint32{0, teetest.SignerMaskChipKey} {
			r := Verify(genuine(amd, 3, func(f *teetest.Report) { f.ChipID, f.SignerInfo = nil, info }), &Trust{SNP: amd.Anchors()}, teetest.Now)
			c := passes(t, r).Claims()
			if s := step(r, StepChipID); s.Outcome != Skipped || !strings.Contains(s.Detail, "masks the chip id") || c.ChipID != "" {
				t.Errorf("%+v %q", s, c.ChipID)
			}
			r = Verify(&Evidence{Type: TypeSEVSNP, Report: amd.Report(func() teetest.Report { f := amd.Fields(3); f.ChipID = nil; return f }())}, &Trust{SNP: amd.Anchors()}, teetest.Now)
			if said(t, r, StepReport, "neither sent nor is it held"); len(r.Wants) != 0 {
				t.Errorf("nobody can ask for the VCEK of no chip: %v", r.Wants)
			}
		}
		other := genuine(amd, 3, func(f *teetest.Report) {
			f.ChipID, f.SignerInfo = bytes.Repeat([]byte{1}, 64), teetest.SignerMaskChipKey
		})
		said(t, Verify(other, &Trust{SNP: amd.Anchors()}, teetest.Now), StepChipID, "the report is of chip 0101010101010101…")
	}
}

func TestAReportThatIsNotGenuineProvesNothing(t *testing.T) {
	amd, impostor := teetest.NewAMD(t, teetest.Milan), teetest.NewFalseAMD(t, teetest.Milan)
	other := teetest.NewAMD(t, teetest.Milan) // another chip
	trust := &Trust{SNP: amd.Anchors()}
	raw := func(edit func([]byte)) *Evidence {
		e := genuine(amd, 3)
		edit(e.Report)
		return e
	}
	p256 := func(c *x509.Certificate) { c.PublicKey = &teetest.P256(t).PublicKey }
	rsaKey := func(c *x509.Certificate) { c.PublicKey = &teetest.RSAKey(t, "ak").PublicKey }
	with := func(certificates ...[]byte) *Evidence { e := genuine(amd, 3); e.Certificates = certificates; return e }
	for name, c := range map[string]struct {
		e      *Evidence
		reason string
	}{
		"signed by another chip":         {raw(func(b []byte) { amd.Sign(b, other.VCEKKey) }), "the signature does not verify"},
		"signed by the VLEK":             {raw(func(b []byte) { amd.Sign(b, amd.VLEKKey) }), "the signature does not verify"},
		"not signed":                     {genuine(amd, 3, func(f *teetest.Report) { f.SignerInfo = teetest.SignerNone }), "the report is not signed (SIGNING_KEY is none)"},
		"signature of zeros":             {raw(func(b []byte) { clear(b[0x2A0:]) }), "the signature does not verify"},
		"signature algorithm none":       {genuine(amd, 3, func(f *teetest.Report) { f.SignatureAlgo = 0 }), "the signature does not verify"},
		"a signing key that is reserved": {genuine(amd, 3, func(f *teetest.Report) { f.SignerInfo = 2 << 2 }), "signing_key values 2-6 are reserved"},
		"a policy that is reserved":      {genuine(amd, 3, func(f *teetest.Report) { f.Policy = 0 }), "malformed guest policy"},
		"version 1":                      {genuine(amd, 1), "unsupported: report version 1; versions 2 to 5 are read"},
		"version 6":                      {genuine(amd, 6), "unsupported: report version 6"},
		"a processor of tomorrow":        {genuine(amd, 3, func(f *teetest.Report) { f.Family = 0x1b }), "unsupported: a processor of family 0x1b, model 0x1"},
		"short":                          {&Evidence{Type: TypeSEVSNP, Report: make([]byte, 1183)}, "an attestation report has 1184 bytes, not 1183"},
		"long":                           {&Evidence{Type: TypeSEVSNP, Report: make([]byte, 1185)}, "not 1185"},
		"nothing":                        {&Evidence{}, `"" is no type of hardware evidence`},
		"no certificate":                 {with(), "the certificate of the VCEK that signed the report was neither sent nor is it held"},
		"another chip's certificate":     {with(other.VCEK(other.ChipID, amd.TCB)), "the signature does not verify"},
		"a VLEK for a VCEK's report":     {with(amd.VLEK("cloud", amd.TCB)), "the certificate of the VCEK that signed the report was neither sent"},
		"a VCEK for a VLEK's report": {func() *Evidence {
			e := with(amd.VCEK(amd.ChipID, amd.TCB))
			e.Report = genuine(amd, 3, byVLEK).Report
			return e
		}(), "the certificate of the VLEK that signed the report was neither sent"},
		"a certificate of another root":     {with(impostor.VCEK(amd.ChipID, amd.TCB, func(c *x509.Certificate) { c.PublicKey = &amd.VCEKKey.PublicKey }), impostor.ASK.Raw, impostor.ARK.Raw), "does not chain to a trusted AMD root"},
		"a certificate of another product":  {with(teetest.NewAMD(t, teetest.Genoa).VCEK(amd.ChipID, amd.TCB)), "the VCEK is one of Genoa, but the report is of a Milan processor"},
		"a P-256 key":                       {with(amd.VCEK(amd.ChipID, amd.TCB, p256)), "neither sent"},
		"an RSA key":                        {with(amd.VCEK(amd.ChipID, amd.TCB, rsaKey)), "neither sent"},
		"expired":                           {with(amd.VCEK(amd.ChipID, amd.TCB, func(c *x509.Certificate) { c.NotAfter = teetest.Now.Add(-time.Second) })), "expired"},
		"not yet valid":                     {with(amd.VCEK(amd.ChipID, amd.TCB, func(c *x509.Certificate) { c.NotBefore = teetest.Now.Add(time.Second) })), "not yet valid"},
		"signed by an endorsement key":      {with(issuedByVCEK(t, amd)), "does not chain to a trusted AMD root"},
		"a certificate larger than is read": {with(amd.VCEK(amd.ChipID, amd.TCB, teetest.SetExtension(teetest.OIDProductName[:8], make([]byte, maxCertificate)))), "neither sent"},
	} {
		t.Run(name, func(t *testing.T) {
			r := Verify(c.e, trust, teetest.Now)
			said(t, r, StepReport, c.reason)
			if r.Root != nil || r.Unsupported != strings.HasPrefix(c.reason, "unsupported") || len(r.Steps) != 1 {
				t.Errorf("root %v, unsupported %v, steps %v", r.Root, r.Unsupported, r.Steps)
			}
		})
	}
	// A version 2 report does not tell its product: the signature does.
	e := genuine(amd, 2)
	e.Certificates = [][]byte{teetest.NewAMD(t, teetest.Genoa).VCEK(amd.ChipID, amd.TCB), e.Certificates[0]}
	if c := passes(t, Verify(e, &Trust{SNP: append(teetest.NewAMD(t, teetest.Genoa).Anchors(), amd.Anchors()...)}, teetest.Now)).Claims(); c.Product != Milan {
		t.Error(c.Product)
	}
}

// issuedByVCEK is a VCEK that another VCEK issued.
func issuedByVCEK(t *testing.T, a *teetest.AMD) []byte {
	parent, err := x509.ParseCertificate(a.VCEK(a.ChipID, a.TCB, func(c *x509.Certificate) { c.Subject.CommonName = "SEV-Milan" }))
	if err != nil {
		t.Fatal(err)
	}
	return a.VCEKUnder(parent, a.VCEKKey, a.ChipID, a.TCB, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA384 })
}

func TestTrustInAMDIsGivenAndTimed(t *testing.T) {
	amd, impostor := teetest.NewAMD(t, teetest.Genoa), teetest.NewFalseAMD(t, teetest.Genoa)
	e := genuine(amd, 3)
	said(t, Verify(e, nil, teetest.Now), StepReport, "no AMD root key (ARK) is trusted")
	said(t, Verify(e, &Trust{}, teetest.Now), StepReport, "no AMD root key (ARK) is trusted")
	said(t, Verify(e, &Trust{TDX: amd.Anchors()}, teetest.Now), StepReport, "no AMD root key (ARK) is trusted")
	said(t, Verify(e, &Trust{SNP: []*x509.Certificate{amd.ASK, amd.ASVK}}, teetest.Now), StepReport, "no AMD root key (ARK) is trusted")
	said(t, Verify(e, &Trust{SNP: amd.Anchors()}, time.Time{}), StepReport, "the time to judge at is not given")
	said(t, Verify(e, &Trust{SNP: amd.Anchors()}, teetest.LeafUntil.Add(time.Second)), StepReport, "expired")
	said(t, Verify(e, &Trust{SNP: amd.Anchors()}, time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC)), StepReport, "not yet valid")

	brings := genuine(impostor, 3)
	for _, c := range impostor.Anchors() {
		brings.Certificates = append(brings.Certificates, c.Raw)
	}
	said(t, Verify(brings, &Trust{SNP: amd.Anchors()}, teetest.Now), StepReport, "does not chain to a trusted AMD root")
	said(t, Verify(brings, &Trust{}, teetest.Now), StepReport, "no AMD root key (ARK) is trusted")

	// The root alone is enough where the machine sends the intermediate; neither it nor a foreign root may be missing.
	rootOnly := &Trust{SNP: []*x509.Certificate{amd.ARK}}
	said(t, Verify(e, rootOnly, teetest.Now), StepReport, "does not chain to a trusted AMD root")
	e.Certificates = append(e.Certificates, []byte("no certificate"), impostor.ARK.Raw, amd.ASK.Raw)
	r := Verify(e, rootOnly, teetest.Now)
	passes(t, r)
	if r.Root != amd.ARK || !r.ValidUntil.Equal(teetest.LeafUntil) || !strings.Contains(step(r, StepReport).Detail, "version 3, signed by a Genoa VCEK key that chains to ARK-Genoa; no CRL of ARK-Genoa is held") {
		t.Errorf("root %v, until %s, %v", r.Root, r.ValidUntil, r.Steps)
	}
	if len(r.Used) != 1 || r.Used[0].Kind != KindVCEK || !bytes.Equal(r.Used[0].Body, e.Certificates[0]) || r.Used[0].Name != endorsementName(t, e.Certificates[0]) ||
		!r.Used[0].NotAfter.Equal(teetest.LeafUntil) || r.Used[0].NotBefore.IsZero() {
		t.Errorf("used %+v", r.Used)
	}
	if len(r.Wants) != 1 || r.Wants[0] != (Want{KindSNPCRL, "ARK-Genoa"}) {
		t.Errorf("wants %v", r.Wants)
	}
	// An intermediate that is sent and is no CA issues nothing.
	noCA, key := amd.Intermediate(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature })
	e.Certificates = [][]byte{amd.VCEKUnder(noCA, key, amd.ChipID, amd.TCB), noCA.Raw}
	said(t, Verify(e, rootOnly, teetest.Now), StepReport, "does not chain to a trusted AMD root")
}

func endorsementName(t *testing.T, der []byte) string {
	c, err := ParseCollateral(KindVCEK, der, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c.Name
}

func TestTooManyPartsAreNotTried(t *testing.T) {
	amd := teetest.NewAMD(t, teetest.Milan)
	e := genuine(amd, 3)
	for len(e.Certificates) < maxSent {
		e.Certificates = append(e.Certificates, e.Certificates[0])
	}
	e.Collateral = make([]Collateral, maxSent)
	passes(t, Verify(e, &Trust{SNP: amd.Anchors()}, teetest.Now))
	e.Certificates = append(e.Certificates, e.Certificates[0])
	said(t, Verify(e, &Trust{SNP: amd.Anchors()}, teetest.Now), StepReport, "33 certificates and 32 pieces of collateral were sent; at most 32 of each")
	e.Certificates, e.Collateral = e.Certificates[:1], make([]Collateral, maxSent+1)
	said(t, Verify(e, &Trust{SNP: amd.Anchors()}, teetest.Now), StepReport, "33 pieces")
}

func snpCRL(t *testing.T, a *teetest.AMD, from, until time.Time, certificates ...*x509.Certificate) Collateral {
	t.Helper()
	return collected(t, KindSNPCRL, a.CRL(from, until, certificates...), nil)
}

func TestWhatAMDRevokedProvesNothing(t *testing.T) {
	amd, other := teetest.NewAMD(t, teetest.Milan), teetest.NewFalseAMD(t, teetest.Milan)
	from, until := teetest.CollateralFrom, teetest.CRLUntil
	e := genuine(amd, 3)
	leaf, err := x509.ParseCertificate(e.Certificates[0])
	if err != nil {
		t.Fatal(err)
	}
	good := snpCRL(t, amd, from, until, amd.ASVK)
	for name, c := range map[string]struct {
		held, sent []Collateral
		reason     string
	}{
		"ASK":                          {[]Collateral{snpCRL(t, amd, from, until, amd.ASK)}, nil, "the certificate of SEV-Milan was revoked at 2026-11-10T00:00:00Z"},
		"leaf":                         {[]Collateral{snpCRL(t, amd, from, until, leaf)}, nil, "the certificate of SEV-VCEK was revoked at"},
		"ASK, second of a list":        {[]Collateral{snpCRL(t, amd, from, until, amd.ASVK, amd.ASK)}, nil, "SEV-Milan was revoked"},
		"ASK, by an expired CRL":       {[]Collateral{snpCRL(t, amd, from.AddDate(-1, 0, 0), from, amd.ASK)}, nil, "SEV-Milan was revoked"},
		"ASK, by a CRL of next month":  {[]Collateral{snpCRL(t, amd, until, until.AddDate(0, 1, 0), amd.ASK)}, nil, "SEV-Milan was revoked"},
		"ASK, by a CRL that was sent":  {nil, []Collateral{snpCRL(t, amd, from, until, amd.ASK)}, "SEV-Milan was revoked"},
		"ASK, where a good CRL is too": {[]Collateral{good, snpCRL(t, amd, from, until, amd.ASK)}, []Collateral{good}, "SEV-Milan was revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			with := *e
			with.Collateral = c.sent
			r := Verify(&with, &Trust{SNP: amd.Anchors(), Collateral: c.held}, teetest.Now)
			if said(t, r, StepReport, c.reason); r.Root != nil {
				t.Error(r.Root.Subject)
			}
		})
	}
	ofVLEK := Verify(genuine(amd, 3, byVLEK), &Trust{SNP: amd.Anchors(), Collateral: []Collateral{good}}, teetest.Now)
	said(t, ofVLEK, StepReport, "the certificate of SEV-VLEK-Milan was revoked")

	soon := snpCRL(t, amd, from, teetest.Now.Add(time.Hour))
	for name, c := range map[string]struct {
		held, sent []Collateral
		wanted     bool
		until      time.Time
	}{
		"a good CRL":                      {[]Collateral{good}, nil, false, until},
		"one that was sent":               {nil, []Collateral{good}, false, until},
		"the later end of two counts":     {[]Collateral{soon}, []Collateral{good}, false, until},
		"none":                            {nil, nil, true, teetest.LeafUntil},
		"another root's":                  {[]Collateral{snpCRL(t, other, from, until, amd.ASK)}, nil, true, teetest.LeafUntil},
		"an expired one":                  {[]Collateral{snpCRL(t, amd, from, teetest.Now)}, nil, true, teetest.LeafUntil},
		"one that begins in a second":     {[]Collateral{snpCRL(t, amd, teetest.Now.Add(time.Second), until)}, nil, true, teetest.LeafUntil},
		"an expired one that says it not": {[]Collateral{{Kind: KindSNPCRL, Name: "ARK-Milan", Body: snpCRL(t, amd, from, teetest.Now).Body, NotAfter: until}}, nil, true, teetest.LeafUntil},
		"one that cannot be read":         {[]Collateral{{Kind: KindSNPCRL, Name: "ARK-Milan", Body: []byte("CRL"), NotAfter: until}}, nil, true, teetest.LeafUntil},
	} {
		t.Run(name, func(t *testing.T) {
			with := *e
			with.Collateral = c.sent
			trust := &Trust{SNP: amd.Anchors(), Collateral: c.held}
			r := Verify(&with, trust, teetest.Now)
			passes(t, r)
			if (len(r.Wants) == 1) != c.wanted || len(r.Used) != 1+len(c.sent) || !r.ValidUntil.Equal(c.until) {
				t.Errorf("wants %v, used %d, until %s", r.Wants, len(r.Used), r.ValidUntil)
			}
			if got := len(r.Report.Claims().Unknown) == 1; got != c.wanted {
				t.Error(r.Report.Claims().Unknown)
			}
			trust.RequireCRL = true
			if r = Verify(&with, trust, teetest.Now); c.wanted {
				said(t, r, StepReport, "no valid CRL of ARK-Milan is held, and the policy requires one")
			} else {
				passes(t, r)
			}
		})
	}
	twice := *e
	twice.Certificates = [][]byte{e.Certificates[0], e.Certificates[0]}
	if r := Verify(&twice, &Trust{SNP: amd.Anchors(), RequireCRL: true}, teetest.Now); len(r.Wants) != 1 {
		t.Errorf("wanted once: %v", r.Wants)
	}
}

// The report's chip and TCB have to be those that the certificate of the key was made for.
func TestChipAndTCBAreTheCertificates(t *testing.T) {
	for product, name := range products {
		amd := teetest.NewAMD(t, name)
		trust := &Trust{SNP: amd.Anchors()}
		check := func(s Step, reason string, edit func(*teetest.Report)) {
			t.Helper()
			r := Verify(genuine(amd, 3, edit), trust, teetest.Now)
			if said(t, r, s, reason); step(r, StepReport).Outcome != Pass || len(r.Steps) != 3 {
				t.Errorf("%+v", r.Steps)
			}
		}
		check(StepChipID, "the report is of chip", func(f *teetest.Report) { f.ChipID = bytes.Clone(f.ChipID); f.ChipID[0] ^= 1 })
		check(StepChipID, "the report is of chip", func(f *teetest.Report) { f.ChipID = bytes.Clone(f.ChipID); f.ChipID[63] ^= 1 })
		parts := []func(*teetest.TCB) *uint8{func(t *teetest.TCB) *uint8 { return &t.Bootloader }, func(t *teetest.TCB) *uint8 { return &t.TEE },
			func(t *teetest.TCB) *uint8 { return &t.SNP }, func(t *teetest.TCB) *uint8 { return &t.Microcode }}
		if product == Turin {
			parts = append(parts, func(t *teetest.TCB) *uint8 { return &t.FMC })
		}
		for _, part := range parts {
			for _, by := range []uint8{1, 255} {
				check(StepTCB, "is not the one that its VCEK was made for", func(f *teetest.Report) { *part(&f.Reported) += by })
			}
			// Only the reported TCB is the certificate's.
			passes(t, Verify(genuine(amd, 3, func(f *teetest.Report) { *part(&f.Current)++; *part(&f.Committed)++; *part(&f.Launch)++ }), trust, teetest.Now))
		}
		r := Verify(genuine(amd, 3, byVLEK, func(f *teetest.Report) { f.ChipID = bytes.Repeat([]byte{9}, 64) }), trust, teetest.Now)
		passes(t, r)
		if s := step(r, StepChipID); s.Outcome != Skipped || s.Detail != "signed by a VLEK of cloud, which stands for no single chip" {
			t.Errorf("%+v", s)
		}
		check(StepTCB, "is not the one that its VLEK was made for", func(f *teetest.Report) { byVLEK(f); f.Reported.SNP++ })
		r = Verify(genuine(amd, 3), trust, teetest.Now)
		if s := r.Steps; len(s) != 3 || s[1].Outcome != Pass || s[1].Detail != "the report and its VCEK name the same chip" || s[2].Outcome != Pass || !strings.HasPrefix(s[2].Detail, "the report and its VCEK name the same TCB: ") {
			t.Errorf("%+v", s)
		}
	}
}

// A held certificate serves where the report names its chip; the name of the one that is lacked is told.
func TestAHeldVCEKServes(t *testing.T) {
	for product, name := range products {
		amd, other := teetest.NewAMD(t, name), teetest.NewAMD(t, name)
		e := genuine(amd, 3)
		held := collected(t, KindVCEK, e.Certificates[0], nil)
		e.Certificates = nil
		r := Verify(e, &Trust{SNP: amd.Anchors()}, teetest.Now)
		if said(t, r, StepReport, "neither sent nor is it held"); len(r.Wants) != 1 || r.Wants[0] != (Want{KindVCEK, held.Name}) || !strings.HasPrefix(held.Name, string(product)+"/") {
			t.Errorf("wants %v, holds %s", r.Wants, held.Name)
		}
		ofOther := collected(t, KindVCEK, other.VCEK(other.ChipID, amd.TCB), nil)
		broken := Collateral{Kind: KindVCEK, Name: held.Name, Body: []byte("none")}
		r = Verify(e, &Trust{SNP: amd.Anchors(), Collateral: []Collateral{broken, ofOther, held}}, teetest.Now)
		passes(t, r)
		if len(r.Used) != 0 {
			t.Error("what is held need not be kept")
		}
		r = Verify(e, &Trust{SNP: amd.Anchors(), Collateral: []Collateral{ofOther}}, teetest.Now)
		said(t, r, StepReport, "neither sent nor is it held")
		e.Collateral = []Collateral{held}
		passes(t, Verify(e, &Trust{SNP: amd.Anchors()}, teetest.Now))

		vlek := genuine(amd, 3, byVLEK)
		heldVLEK := collected(t, KindVLEK, vlek.Certificates[0], nil)
		vlek.Certificates = nil
		passes(t, Verify(vlek, &Trust{SNP: amd.Anchors(), Collateral: []Collateral{held, heldVLEK}}, teetest.Now))
		r = Verify(vlek, &Trust{SNP: amd.Anchors(), Collateral: []Collateral{{Kind: KindVLEK, Body: held.Body}}}, teetest.Now)
		if said(t, r, StepReport, "of the VLEK that signed"); len(r.Wants) != 0 {
			t.Errorf("nobody can ask for a VLEK: %v", r.Wants)
		}
		if e := genuine(amd, 2); product != Turin {
			e.Certificates = nil
			if r = Verify(e, &Trust{SNP: amd.Anchors()}, teetest.Now); len(r.Wants) != 0 {
				t.Errorf("version 2 does not tell the product: %v", r.Wants)
			}
			passes(t, Verify(e, &Trust{SNP: amd.Anchors(), Collateral: []Collateral{held}}, teetest.Now))
		}
		for p, n := range products { // the same chip id in another product line is another chip
			if p != product && p != Turin && product != Turin {
				foreign := collected(t, KindVCEK, teetest.NewAMD(t, n).VCEK(amd.ChipID, amd.TCB), nil)
				said(t, Verify(genuineWithout(amd), &Trust{SNP: amd.Anchors(), Collateral: []Collateral{foreign}}, teetest.Now), StepReport, "neither sent nor is it held")
			}
		}
	}
}

func genuineWithout(a *teetest.AMD) *Evidence {
	e := genuine(a, 3)
	e.Certificates = nil
	return e
}

func TestAnEndorsementCertificateHasToSayAll(t *testing.T) {
	der := func(v any) []byte { return teetest.DER(t, v) }
	milan, turin := teetest.NewAMD(t, teetest.Milan), teetest.NewAMD(t, teetest.Turin)
	vcek := func(a *teetest.AMD, edits ...teetest.Edit) []byte { return a.VCEK(a.ChipID, a.TCB, edits...) }
	vlek := func(edits ...teetest.Edit) []byte { return milan.VLEK("cloud", milan.TCB, edits...) }
	set, subject := teetest.SetExtension, func(name string) teetest.Edit {
		return func(c *x509.Certificate) { c.Subject.CommonName = name }
	}
	under := func(issuer string, kind string) []byte {
		ca, key := milan.Intermediate(func(c *x509.Certificate) { c.Subject.CommonName = issuer })
		if kind == "vcek" {
			return milan.VCEKUnder(ca, key, milan.ChipID, milan.TCB)
		}
		return milan.VLEKUnder(ca, key, "cloud", milan.TCB)
	}
	for name, c := range map[string]struct {
		der    []byte
		reason string
	}{
		"no bootloader":               {vcek(milan, set(teetest.OIDBootloader, nil)), "does not name the whole TCB"},
		"no TEE":                      {vcek(milan, set(teetest.OIDTEE, nil)), "does not name the whole TCB"},
		"no SNP":                      {vcek(milan, set(teetest.OIDSNP, nil)), "does not name the whole TCB"},
		"no microcode":                {vcek(milan, set(teetest.OIDMicrocode, nil)), "does not name the whole TCB"},
		"a Turin without FMC":         {vcek(turin, set(teetest.OIDFMC, nil)), "does not name the whole TCB"},
		"no chip":                     {vcek(milan, set(teetest.OIDHWID, nil)), "it names no chip (HWID)"},
		"a chip of 63 bytes":          {vcek(milan, set(teetest.OIDHWID, make([]byte, 63))), "a chip id of milan has 64 bytes"},
		"a tagged chip of 63 bytes":   {vcek(milan, set(teetest.OIDHWID, der(make([]byte, 63)))), "a chip id of milan has 64 bytes"},
		"a Turin chip of 64 bytes":    {vcek(turin, set(teetest.OIDHWID, make([]byte, 64))), "a chip id of turin has 8 bytes"},
		"a chip with a tail":          {vcek(milan, set(teetest.OIDHWID, append(der(make([]byte, 64)), 0))), "a chip id of milan has 64 bytes"},
		"chip and cloud":              {vcek(milan, set(teetest.OIDCSPID, der("cloud"))), "it names both a chip and a cloud provider"},
		"cloud and chip":              {vlek(set(teetest.OIDHWID, make([]byte, 64))), "it names both a chip and a cloud provider"},
		"no cloud":                    {vlek(set(teetest.OIDCSPID, nil)), "it names no cloud provider (CSP_ID)"},
		"a cloud with a slash":        {vlek(set(teetest.OIDCSPID, der("a/b"))), "it is no short IA5String"},
		"a cloud with a space":        {vlek(set(teetest.OIDCSPID, der("a b"))), "it is no short IA5String"},
		"a cloud with a delete":       {vlek(set(teetest.OIDCSPID, der("a\x7f"))), "it is no short IA5String"},
		"a cloud of 65 letters":       {vlek(set(teetest.OIDCSPID, der(strings.Repeat("a", 65)))), "it is no short IA5String"},
		"a cloud with a tail":         {vlek(set(teetest.OIDCSPID, append(der("cloud"), 0))), "it is no short IA5String"},
		"a cloud that is a number":    {vlek(set(teetest.OIDCSPID, der(1))), "it is no short IA5String"},
		"a product that is a number":  {vcek(milan, set(teetest.OIDProductName, der(1))), "it is no short IA5String"},
		"a TCB part of 256":           {vcek(milan, set(teetest.OIDSNP, der(256))), "it is no number from 0 to 255"},
		"a TCB part below 0":          {vcek(milan, set(teetest.OIDSNP, der(-1))), "it is no number from 0 to 255"},
		"a TCB part with a tail":      {vcek(milan, set(teetest.OIDSNP, append(der(24), 0))), "it is no number from 0 to 255"},
		"a TCB part that is a text":   {vcek(milan, set(teetest.OIDSNP, der("24"))), "it is no number from 0 to 255"},
		"another subject":             {vcek(milan, subject("SEV-VCEK2")), `its subject is "SEV-VCEK2", neither SEV-VCEK nor SEV-VLEK`},
		"a VCEK of the ASVK":          {milan.VCEKUnder(milan.ASVK, milan.ASVKKey(), milan.ChipID, milan.TCB), `its issuer "SEV-VLEK-Milan" is of no known product`},
		"a VLEK of the ASK":           {milan.VLEKUnder(milan.ASK, milan.ASKKey(), "cloud", milan.TCB), `its issuer "SEV-Milan" is of no known product`},
		"a product of tomorrow":       {under("SEV-Venice", "vcek"), `its issuer "SEV-Venice" is of no known product`},
		"an issuer without SEV":       {under("Milan", "vcek"), `its issuer "Milan" is of no known product`},
		"an issuer without SEV, VLEK": {under("Milan", "vlek"), `its issuer "Milan" is of no known product`},
		"an issuer without a product": {under("SEV-", "vcek"), "is of no known product"},
		"a P-256 key":                 {vcek(milan, func(c *x509.Certificate) { c.PublicKey = &teetest.P256(t).PublicKey }), "its key is not ECDSA P-384"},
		"an RSA key":                  {vcek(milan, func(c *x509.Certificate) { c.PublicKey = &teetest.RSAKey(t, "ak").PublicKey }), "its key is not ECDSA P-384"},
	} {
		kind, a := KindVCEK, milan
		if strings.Contains(name, "cloud") && name != "chip and cloud" {
			kind = KindVLEK
		}
		if _, err := ParseCollateral(kind, c.der, nil); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v, want %q", name, err, c.reason)
		}
		if strings.Contains(name, "Turin") {
			a = turin
		}
		e := genuine(a, 3)
		if kind == KindVLEK {
			e = genuine(a, 3, byVLEK)
		}
		e.Certificates = [][]byte{c.der}
		if r := Verify(e, &Trust{SNP: a.Anchors()}, teetest.Now); r.Report != nil {
			t.Errorf("%s proves a report", name)
		}
	}
	// x509 refuses a repeated extension before it comes here; the reader does so too.
	twice, err := x509.ParseCertificate(vcek(milan))
	if err != nil {
		t.Fatal(err)
	}
	twice.Extensions = append(twice.Extensions, twice.Extensions[0])
	if _, err := readEndorsement(twice); err == nil || !strings.Contains(err.Error(), "stands there twice") {
		t.Error(err)
	}
	// The HWID may be tagged; a Milan's FMC says nothing.
	for _, edit := range []teetest.Edit{set(teetest.OIDHWID, der(milan.ChipID)), set(teetest.OIDFMC, der(9))} {
		e := genuine(milan, 3)
		e.Certificates = [][]byte{vcek(milan, edit)}
		passes(t, Verify(e, &Trust{SNP: milan.Anchors()}, teetest.Now))
	}
	// What cannot be used is told, if it is AMD's.
	e := genuine(milan, 3)
	e.Certificates = [][]byte{vcek(milan, subject("SEV-VCEK2")), milan.ASK.Raw, e.Certificates[0]}
	if got := step(Verify(e, &Trust{SNP: milan.Anchors()}, teetest.Now), StepReport).Detail; strings.Count(got, "a certificate of AMD's that was sent cannot be used") != 1 {
		t.Error(got)
	}
}

func TestProductsByTheirCPUID(t *testing.T) {
	for _, c := range []struct {
		family, model byte
		want          Product
	}{
		{0x19, 0x00, Milan}, {0x19, 0x0f, Milan}, {0x19, 0x10, Genoa}, {0x19, 0x1f, Genoa}, {0x19, 0x20, ""}, {0x19, 0x9f, ""},
		{0x19, 0xa0, Genoa}, {0x19, 0xaf, Genoa}, {0x19, 0xb0, ""}, {0x1a, 0x00, Turin}, {0x1a, 0x1f, Turin}, {0x1a, 0x20, ""},
		{0x18, 0x01, ""}, {0x1b, 0x01, ""}, {0x17, 0x31, ""},
	} {
		if got, ok := productOfCPUID(c.family, c.model); got != c.want || ok != (c.want != "") {
			t.Errorf("family %x model %x: %q", c.family, c.model, got)
		}
	}
	if Product("").amdName() != "" || Milan.amdName() != "Milan" {
		t.Error("names")
	}
}
