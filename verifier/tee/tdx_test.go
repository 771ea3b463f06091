package tee

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

// under is the trust of one Intel with collateral.
func under(i *teetest.Intel, collateral ...Collateral) *Trust {
	return &Trust{TDX: i.Anchors(), Collateral: collateral}
}

func TestAQuoteThatIsNotGenuineProvesNothing(t *testing.T) {
	intel, other := teetest.NewIntel(t), teetest.NewIntel(t)
	stranger := teetest.P256(t)
	pck := intel.PCK(teetest.DefaultPlatform())
	for name, c := range map[string]struct {
		edit   func(*teetest.Quote)
		reason string
	}{
		"signed by another attestation key":         {func(q *teetest.Quote) { q.QuoteSigner = stranger }, "unable to verify message digest"},
		"QE report signed by another PCK":           {func(q *teetest.Quote) { q.QESigner = stranger }, "QE report's signature verification"},
		"QE report data of another attestation key": {func(q *teetest.Quote) { q.QEReportData = bytes.Repeat([]byte{1}, 32) }, "QE Report Data does not match"},
		"QE report data with a tail": {func(q *teetest.Quote) {
			q.QEReportData = append(bytes.Repeat([]byte{1}, 32), 1)
		}, "QE Report Data does not match"},
		"an enclave of somebody else's": {func(q *teetest.Quote) { q.QEMRSigner = bytes.Repeat([]byte{7}, 32) }, "another enclave than Intel's"},
		"another enclave of Intel's":    {func(q *teetest.Quote) { q.QEProduct = 1 }, "another enclave than Intel's"},
		"a quoting enclave under debug": {func(q *teetest.Quote) { q.QEAttributes = []byte{0x13} }, "runs under debug"},
		"PCK of another root": {func(q *teetest.Quote) {
			q.Chain = teetest.PEM(other.PCK(teetest.DefaultPlatform()), other.PCKCA, other.Root)
		}, "does not chain to a trusted Intel root"},
		"PCK CA of another root":         {func(q *teetest.Quote) { q.Chain = teetest.PEM(pck, other.PCKCA, intel.Root) }, "does not chain to a trusted Intel root"},
		"a root of another in the chain": {func(q *teetest.Quote) { q.Chain = teetest.PEM(pck, intel.PCKCA, other.Root) }, "Intermediate CA certificate"},
		"a chain without its root":       {func(q *teetest.Quote) { q.Chain = teetest.PEM(pck, intel.PCKCA) }, "incomplete PCK Certificate chain"},
		"a chain of no certificates":     {func(q *teetest.Quote) { q.Chain = []byte("no PEM") }, "incomplete PCK Certificate chain"},
		"a PCK without SGX extensions": {func(q *teetest.Quote) {
			q.PCK = intel.PCK(teetest.DefaultPlatform(), func(c *x509.Certificate) { c.ExtraExtensions = nil })
		}, "extensions length"},
		"an expired PCK": {func(q *teetest.Quote) {
			q.PCK = intel.PCK(teetest.DefaultPlatform(), func(c *x509.Certificate) { c.NotAfter = teetest.Now.Add(-time.Second) })
		}, "expired"},
		"a PCK of tomorrow": {func(q *teetest.Quote) {
			q.PCK = intel.PCK(teetest.DefaultPlatform(), func(c *x509.Certificate) { c.NotBefore = teetest.Now.Add(time.Hour) })
		}, "not yet valid"},
		"not of TDX":                         {func(q *teetest.Quote) { q.TEEType = 0 }, "TEE type is not TDX"},
		"an attestation key of another kind": {func(q *teetest.Quote) { q.AttestationKeyType = 3 }, "attestation key type"},
		"certification data of another kind": {func(q *teetest.Quote) { q.CertificationType = 5 }, "certification data type invalid"},
		"a PCK chain of another kind":        {func(q *teetest.Quote) { q.ChainType = 1 }, "certificate chain data type invalid"},
		"version 5":                          {func(q *teetest.Quote) { q.Version = 5 }, "unsupported: TD quote version 5; version 4 is read"},
		"a quote larger than what is read":   {func(q *teetest.Quote) { q.Padding = maxQuote }, "bytes; 1020 to 65536 are possible"},
	} {
		t.Run(name, func(t *testing.T) {
			r := Verify(quote(intel, c.edit), under(intel), teetest.Now)
			said(t, r, StepReport, c.reason)
			if r.Root != nil || r.Unsupported != (name == "version 5") || len(r.Steps) != 1 {
				t.Errorf("root %v, unsupported %v, %v", r.Root, r.Unsupported, r.Steps)
			}
		})
	}
	said(t, Verify(&Evidence{Type: TypeTDX, Quote: make([]byte, 1019)}, under(intel), teetest.Now), StepReport, "a TD quote of 1019 bytes")
}

func TestAPaddedQuoteIsTheSameQuote(t *testing.T) {
	intel := teetest.NewIntel(t)
	passes(t, Verify(quote(intel, func(q *teetest.Quote) { q.Padding = 4000 }), under(intel), teetest.Now))
}

func TestWhatIntelRevokedProvesNothing(t *testing.T) {
	intel, other := teetest.NewIntel(t), teetest.NewIntel(t)
	pck := intel.PCK(teetest.DefaultPlatform())
	e := quote(intel, func(q *teetest.Quote) { q.PCK = pck })
	past := teetest.CollateralFrom.AddDate(-1, 0, 0)
	stale := collected(t, KindPCKCRL, intel.CRL(intel.PCKCA, past, past.AddDate(0, 1, 0), pck), nil)
	future := collected(t, KindPCKCRL, intel.CRL(intel.PCKCA, teetest.Now.AddDate(0, 1, 0), teetest.Now.AddDate(0, 2, 0), pck), nil)
	for name, c := range map[string]struct {
		held, sent []Collateral
		reason     string
	}{
		"PCK":                          {[]Collateral{pckCRL(t, intel, pck)}, nil, "the certificate of Intel SGX PCK Certificate was revoked at 2026-11-10T00:00:00Z"},
		"PCK, by an expired CRL":       {[]Collateral{stale}, nil, "was revoked at"},
		"PCK, by a CRL of next month":  {[]Collateral{future}, nil, "was revoked at"},
		"PCK, by a CRL that was sent":  {nil, []Collateral{pckCRL(t, intel, pck)}, "was revoked at"},
		"PCK, where a good CRL is too": {[]Collateral{pckCRL(t, intel), pckCRL(t, intel, pck)}, nil, "was revoked at"},
		"PCK CA":                       {[]Collateral{pckCRL(t, intel), rootCRL(t, intel, intel.PCKCA)}, nil, "the certificate of Intel SGX PCK Platform CA was revoked at 2026-11-10T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			withSent := *e
			withSent.Collateral = c.sent
			r := Verify(&withSent, under(intel, c.held...), teetest.Now)
			said(t, r, StepReport, c.reason)
			if r.Root != nil {
				t.Errorf("root %v", r.Root.Subject)
			}
		})
	}
	t.Run("another Intel's CRL revokes nothing", func(t *testing.T) {
		otherCRL := collected(t, KindPCKCRL, other.CRL(other.PCKCA, teetest.CollateralFrom, teetest.CRLUntil, pck), nil)
		r := Verify(e, under(intel, otherCRL, rootCRL(t, other, intel.PCKCA)), teetest.Now)
		passes(t, r)
		for _, w := range []Want{{KindPCKCRL, "Intel SGX PCK Platform CA"}, {KindRootCRL, "Intel SGX Root CA"}} {
			if !slices.Contains(r.Wants, w) {
				t.Errorf("%v is not in %v", w, r.Wants)
			}
		}
	})
	t.Run("a CRL that cannot be read is none", func(t *testing.T) {
		r := Verify(e, under(intel, Collateral{Kind: KindPCKCRL, Name: "Intel SGX PCK Platform CA", Body: []byte("no CRL"), NotAfter: teetest.CRLUntil}), teetest.Now)
		passes(t, r)
		if !slices.Contains(r.Wants, Want{KindPCKCRL, "Intel SGX PCK Platform CA"}) {
			t.Error(r.Wants)
		}
	})
	t.Run("RequireCRL wants both", func(t *testing.T) {
		for _, held := range [][]Collateral{nil, {pckCRL(t, intel)}, {rootCRL(t, intel)}, {stale0(t, intel), rootCRL(t, intel)}} {
			trust := under(intel, held...)
			trust.RequireCRL = true
			said(t, Verify(e, trust, teetest.Now), StepReport, "and the policy requires one")
		}
	})
}

// stale0 is an expired CRL that revokes nothing.
func stale0(t *testing.T, i *teetest.Intel) Collateral {
	return collected(t, KindPCKCRL, i.CRL(i.PCKCA, teetest.CollateralFrom.AddDate(-1, 0, 0), teetest.Now), nil)
}

func TestTrustInIntelIsGivenAndTimed(t *testing.T) {
	intel := teetest.NewIntel(t)
	e := quote(intel)
	said(t, Verify(e, nil, teetest.Now), StepReport, "no Intel root is trusted")
	said(t, Verify(e, &Trust{}, teetest.Now), StepReport, "no Intel root is trusted")
	said(t, Verify(e, &Trust{TDX: []*x509.Certificate{intel.PCKCA}}, teetest.Now), StepReport, "no Intel root is trusted")
	said(t, Verify(e, &Trust{SNP: intel.Anchors()}, teetest.Now), StepReport, "no Intel root is trusted")
	said(t, Verify(e, under(teetest.NewIntel(t)), teetest.Now), StepReport, "does not chain to a trusted Intel root")
	said(t, Verify(e, under(intel), time.Time{}), StepReport, "the time to judge at is not given")
	said(t, Verify(e, under(intel), teetest.LeafUntil.Add(time.Second)), StepReport, "expired")
	said(t, Verify(e, under(intel), time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC)), StepReport, "not yet valid")
	if r := Verify(e, under(intel), teetest.Now); !passes(t, r).ValidUntil().Equal(teetest.LeafUntil) || !r.ValidUntil.Equal(teetest.LeafUntil) {
		t.Errorf("until %s", r.ValidUntil)
	}
}

// A result holds until the first thing ends that it rests on, whichever that is.
func TestAQuoteHoldsUntilTheFirstEnd(t *testing.T) {
	intel := teetest.NewIntel(t)
	soon := teetest.Now.Add(time.Hour)
	ends := func(key string) func(teetest.Object) { return func(o teetest.Object) { o[key] = soon } }
	crl := func(kind Kind, issuer *x509.Certificate) Collateral {
		return collected(t, kind, intel.CRL(issuer, teetest.CollateralFrom, soon), nil)
	}
	signer := intel.NewTCBSigner(func(c *x509.Certificate) { c.NotAfter = soon })
	body, chain := intel.SignedBy("tcbInfo", teetest.TCBInfo(), signer, intel.TCBSignerKey)
	all := allOf(t, intel)
	replaced := func(with Collateral) []Collateral {
		out := slices.Clone(all)
		for n := range out {
			if out[n].Kind == with.Kind {
				out[n] = with
			}
		}
		return out
	}
	for name, held := range map[string][]Collateral{
		"TCB info":               replaced(tcbInfo(t, intel, ends("nextUpdate"))),
		"QE identity":            replaced(qeIdentity(t, intel, ends("nextUpdate"))),
		"PCK CRL":                replaced(crl(KindPCKCRL, intel.PCKCA)),
		"root CRL":               replaced(crl(KindRootCRL, intel.Root)),
		"the signer of TCB info": replaced(collected(t, KindTCBInfo, body, chain)),
	} {
		if r := Verify(quote(intel), under(intel, held...), teetest.Now); !passes(t, r).ValidUntil().Equal(soon) {
			t.Errorf("%s: until %s", name, r.ValidUntil)
		}
	}
	pck := intel.PCK(teetest.DefaultPlatform(), func(c *x509.Certificate) { c.NotAfter = soon })
	if r := Verify(quote(intel, func(q *teetest.Quote) { q.PCK = pck }), under(intel, all...), teetest.Now); !passes(t, r).ValidUntil().Equal(soon) {
		t.Errorf("PCK: until %s", r.ValidUntil)
	}
	// Of two CRLs that hold the later end counts: the other is not needed.
	if r := Verify(quote(intel), under(intel, append(slices.Clone(all), crl(KindPCKCRL, intel.PCKCA))...), teetest.Now); !passes(t, r).ValidUntil().Equal(teetest.TCBInfoUntil) {
		t.Errorf("two CRLs: until %s", r.ValidUntil)
	}
}

// status is what is made of a quote by TCB info and QE identity.
func status(t *testing.T, i *teetest.Intel, e *Evidence, held ...Collateral) *TCBStatus {
	t.Helper()
	return passes(t, Verify(e, under(i, held...), teetest.Now)).TCBStatus()
}

func levels(l ...teetest.Object) func(teetest.Object) {
	return func(o teetest.Object) { o["tcbLevels"] = l }
}

// statuses are Intel's words in their order.
var statuses = []string{"UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
	"OutOfDate", "OutOfDateConfigurationNeeded", "Revoked"}

func TestEveryWordOfIntelsIsToldAndJudged(t *testing.T) {
	intel := teetest.NewIntel(t)
	for rank, word := range statuses {
		s := status(t, intel, quote(intel), tcbInfo(t, intel, levels(teetest.Level(word, 5, 3, 11, "INTEL-SA-1", "INTEL-SA-1", strings.Repeat("x", 65)))), qeIdentity(t, intel))
		if s.Platform != word || s.QE != "UpToDate" || !slices.Equal(s.Advisories, []string{"INTEL-SA-1"}) {
			t.Errorf("%+v", s)
		}
		r := &Report{technology: TDX, tdx: &tdxFacts{}, tcbStatus: s}
		if fault, _ := r.judgeTCB(&Policy{}); (fault != "") != (word == "Revoked") {
			t.Errorf("%s by default: %q", word, fault)
		}
		for _, allowed := range statuses {
			fault, fine := r.judgeTCB(&Policy{TDX: TDXPolicy{AllowedTCBStatuses: []string{allowed}}})
			if (fault == "") != (allowed == word) || fault == "" && fine != "Intel says of the TCB: "+word {
				t.Errorf("%s where %s is allowed: %q %q", word, allowed, fault, fine)
			}
		}
		got := (&Claims{TCBStatus: s}).Outdated(&Policy{})
		if (got != "") != (rank >= 4) || got != "" && (!strings.Contains(got, "platform "+word) || !strings.HasSuffix(got, "; advisories INTEL-SA-1") || strings.Contains(got, "quoting enclave")) {
			t.Errorf("%s: %q", word, got)
		}
		s = status(t, intel, quote(intel), tcbInfo(t, intel), qeIdentity(t, intel, levels(teetest.SVNLevel(word, 4, "INTEL-SA-2"))))
		if s.Platform != "UpToDate" || s.QE != word || s.worst() != word || !slices.Equal(s.Advisories, []string{"INTEL-SA-2"}) {
			t.Errorf("%+v", s)
		}
		if got := (&Claims{TCBStatus: s}).Outdated(&Policy{}); (got != "") != (rank >= 4) || got != "" && !strings.Contains(got, "quoting enclave "+word) {
			t.Errorf("%s: %q", word, got)
		}
	}
}

func TestTwoWordsTogether(t *testing.T) {
	for _, c := range [][3]string{
		{"UpToDate", "UpToDate", "UpToDate"}, {"SWHardeningNeeded", "OutOfDate", "OutOfDate"},
		{"ConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"},
		{"ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"},
		{"ConfigurationNeeded", "Revoked", "Revoked"}, {"UpToDate", "a word of tomorrow", "a word of tomorrow"},
		{"Revoked", "a word of tomorrow", "a word of tomorrow"},
	} {
		for _, s := range []TCBStatus{{Platform: c[0], QE: c[1]}, {Platform: c[1], QE: c[0]}} {
			if got := s.worst(); got != c[2] {
				t.Errorf("%+v: %s", s, got)
			}
		}
	}
	if s := (TCBStatus{Platform: "OutOfDate"}); s.worst() != "OutOfDate" {
		t.Error(s.worst())
	}
	if s := (TCBStatus{QE: "OutOfDate"}); s.worst() != "OutOfDate" {
		t.Error(s.worst())
	}
}

func TestTheTCBLevelIsTheFirstThatIsReachedInWhole(t *testing.T) {
	intel := teetest.NewIntel(t)
	platform := func(edit func(*teetest.Platform)) func(*teetest.Quote) {
		p := teetest.DefaultPlatform()
		edit(&p)
		return func(q *teetest.Quote) { q.PCK = intel.PCK(p) }
	}
	for n := range 16 {
		e := quote(intel, platform(func(p *teetest.Platform) { p.CPUSVN[n] = 4 }))
		if s := status(t, intel, e, tcbInfo(t, intel)); s.Platform != "OutOfDate" || !slices.Equal(s.Advisories, []string{"INTEL-SA-00001"}) {
			t.Errorf("SGX component %d: %+v", n, s)
		}
		e = quote(intel, func(q *teetest.Quote) { q.TEETCBSVN[n] = 2 })
		want := "OutOfDate"
		if n == 1 {
			continue // another module
		}
		if s := status(t, intel, e, tcbInfo(t, intel)); s.Platform != want {
			t.Errorf("TDX component %d: %+v", n, s)
		}
	}
	if s := status(t, intel, quote(intel, platform(func(p *teetest.Platform) { p.PCESVN = 10 })), tcbInfo(t, intel)); s.Platform != "OutOfDate" {
		t.Errorf("PCE SVN: %+v", s)
	}
	said(t, Verify(quote(intel, platform(func(p *teetest.Platform) { p.PCESVN = 4 })), under(intel, tcbInfo(t, intel)), teetest.Now), StepReport, "its TCB is below every level that Intel lists")
	odd := teetest.Level("UpToDate", 1, 1, 1)
	odd["tcb"].(teetest.Object)["tdxtcbcomponents"] = []teetest.Object{{"svn": 0}}
	said(t, Verify(quote(intel), under(intel, tcbInfo(t, intel, levels(odd))), teetest.Now), StepReport, "below every level")
}

func TestTDXModulesAreJudgedByTheirIdentity(t *testing.T) {
	intel := teetest.NewIntel(t)
	module := func(key string, value any) func(teetest.Object) {
		return func(o teetest.Object) { o["tdxModuleIdentities"].([]teetest.Object)[0][key] = value }
	}
	old := func(q *teetest.Quote) { q.TEETCBSVN[1] = 0 } // TDX 1.0: no identity of its own
	// Components 0 and 1 are the platform's where the module has no identity, and the identity's where it has one.
	if s := status(t, intel, quote(intel, old), tcbInfo(t, intel, levels(teetest.Level("UpToDate", 5, 3, 11), teetest.Level("OutOfDate", 0, 0, 0)))); s.Platform != "OutOfDate" {
		t.Errorf("%+v", s)
	}
	if s := status(t, intel, quote(intel), tcbInfo(t, intel)); s.Platform != "UpToDate" || s.Date != "2026-01-01T00:00:00Z" {
		t.Errorf("%+v", s)
	}
	if s := status(t, intel, quote(intel), tcbInfo(t, intel, module("tcbLevels", []teetest.Object{teetest.SVNLevel("OutOfDate", 5, "INTEL-SA-9")}))); s.Platform != "OutOfDate" || s.Date != "2025-01-01T00:00:00Z" || s.Advisories[0] != "INTEL-SA-9" {
		t.Errorf("%+v", s)
	}
	said(t, Verify(quote(intel), under(intel, tcbInfo(t, intel, module("tcbLevels", []teetest.Object{teetest.SVNLevel("UpToDate", 6)}))), teetest.Now), StepReport, "its TDX module is below every level")
	said(t, Verify(quote(intel), under(intel, tcbInfo(t, intel, module("id", "TDX_02"))), teetest.Now), StepReport, "it lists no TDX module TDX_01")
	said(t, Verify(quote(intel), under(intel, tcbInfo(t, intel, module("mrsigner", strings.Repeat("11", 48)))), teetest.Now), StepReport, "its TDX module has another signer")
	said(t, Verify(quote(intel, func(q *teetest.Quote) { q.SeamAttributes = []byte{1} }), under(intel, tcbInfo(t, intel)), teetest.Now), StepReport, "its TDX module has other attributes")
	passes(t, Verify(quote(intel, func(q *teetest.Quote) { q.SeamAttributes = []byte{1} }), under(intel, tcbInfo(t, intel, module("attributesMask", "feffffffffffffff"))), teetest.Now))
	said(t, Verify(quote(intel), under(intel, tcbInfo(t, intel, module("attributesMask", "ff"))), teetest.Now), StepReport, "its TDX module has other attributes")
	oldModule := func(o teetest.Object) { o["tdxModule"].(teetest.Object)["mrsigner"] = strings.Repeat("11", 48) }
	said(t, Verify(quote(intel, old), under(intel, tcbInfo(t, intel, oldModule)), teetest.Now), StepReport, "its TDX module has another signer")
	passes(t, Verify(quote(intel), under(intel, tcbInfo(t, intel, func(o teetest.Object) { o["tdxModule"] = nil })), teetest.Now))
}

func TestTCBInfoOfAnotherPlatformIsNotAsked(t *testing.T) {
	intel := teetest.NewIntel(t)
	other := tcbInfo(t, intel, func(o teetest.Object) { o["fmspc"] = "00906ED50000" })
	if other.Name != "00906ed50000" {
		t.Error(other.Name)
	}
	renamed := other
	renamed.Name = "50806f000000"
	for _, held := range []Collateral{other, renamed} {
		r := Verify(quote(intel), under(intel, held), teetest.Now)
		if passes(t, r).TCBStatus() != nil || !slices.Contains(r.Wants, Want{KindTCBInfo, "50806f000000"}) {
			t.Errorf("%+v, wants %v", r.Report.TCBStatus(), r.Wants)
		}
	}
	if r := Verify(quote(intel), under(intel, renamed), teetest.Now); !strings.Contains(step(r, StepReport).Detail, "it is of 00906ed50000") {
		t.Error(r.Steps)
	}
	said(t, Verify(quote(intel), under(intel, tcbInfo(t, intel, func(o teetest.Object) { o["pceId"] = "0001" })), teetest.Now), StepReport, "PCE id 0000, not 0001")
}

func TestAQuotingEnclaveThatIsNotIntelsIdentity(t *testing.T) {
	intel := teetest.NewIntel(t)
	set := func(key string, value any) Collateral {
		return qeIdentity(t, intel, func(o teetest.Object) { o[key] = value })
	}
	for reason, c := range map[string]Collateral{
		"its MISCSELECT is another":   set("miscselect", "01000000"),
		"its ATTRIBUTES are others":   set("attributes", "15000000000000000000000000000000"),
		"its MRSIGNER is another":     set("mrsigner", strings.Repeat("11", 32)),
		"its ISVPRODID is 2, not 1":   set("isvprodid", 1),
		"its ISVSVN 4 is below every": set("tcbLevels", []teetest.Object{teetest.SVNLevel("UpToDate", 5)}),
	} {
		said(t, Verify(quote(intel), under(intel, c), teetest.Now), StepReport, "the quoting enclave is not Intel's: "+reason)
	}
	if s := status(t, intel, quote(intel, func(q *teetest.Quote) { q.QESVN = 3 }), qeIdentity(t, intel)); s.QE != "OutOfDate" || s.Platform != "" {
		t.Errorf("%+v", s)
	}
	// MISCSELECT is little-endian, and masked.
	misc := func(q *teetest.Quote) { q.QEMiscSelect = 0x01000002 }
	passes(t, Verify(quote(intel, misc), under(intel, set("miscselect", "02000001")), teetest.Now))
	said(t, Verify(quote(intel, misc), under(intel, qeIdentity(t, intel)), teetest.Now), StepReport, "its MISCSELECT is another")
	passes(t, Verify(quote(intel, misc), under(intel, set("miscselectMask", "00000000")), teetest.Now))
}

// Collateral that does not hold leaves its question open, says so, and is asked for.
func TestCollateralThatDoesNotHoldIsUnknownAndWanted(t *testing.T) {
	intel, other := teetest.NewIntel(t), teetest.NewIntel(t)
	old := func(o teetest.Object) { o["issueDate"], o["nextUpdate"] = teetest.Now.AddDate(0, -2, 0), teetest.Now }
	future := func(o teetest.Object) {
		o["issueDate"], o["nextUpdate"] = teetest.Now.Add(time.Hour), teetest.Now.AddDate(0, 1, 0)
	}
	lying := func(c Collateral) Collateral {
		c.NotBefore, c.NotAfter = teetest.CollateralFrom, teetest.CRLUntil
		return c
	}
	forged := tcbInfo(t, intel)
	forged.Body = bytes.Replace(forged.Body, []byte("UpToDate"), []byte("Up2oDate"), 1)
	for name, c := range map[string]struct {
		held   []Collateral
		reason string
	}{
		"none":                           {nil, "TCB info of 50806f000000 is not held, so the TCB's status is unknown"},
		"expired":                        {[]Collateral{tcbInfo(t, intel, old), qeIdentity(t, intel, old)}, "does not hold: tdx_tcb_info: it is not valid since 2026-11-25T12:00:00Z"},
		"expired, with other dates told": {[]Collateral{lying(tcbInfo(t, intel, old)), lying(qeIdentity(t, intel, old))}, "does not hold: tdx_tcb_info: it is not valid since 2026-11-25T12:00:00Z"},
		"of tomorrow":                    {[]Collateral{lying(tcbInfo(t, intel, future)), lying(qeIdentity(t, intel, future))}, "it is not valid before 2026-11-25T13:00:00Z"},
		"of another Intel":               {[]Collateral{tcbInfo(t, other), qeIdentity(t, other)}, "its signer"},
		"altered":                        {[]Collateral{forged}, "its signature does not verify"},
		"signer revoked":                 {[]Collateral{tcbInfo(t, intel), qeIdentity(t, intel), rootCRL(t, intel, intel.TCBSigner)}, "does not hold: tdx_tcb_info: the certificate of Intel SGX TCB Signing was revoked"},
	} {
		t.Run(name, func(t *testing.T) {
			r := Verify(quote(intel), under(intel, c.held...), teetest.Now)
			report := passes(t, r)
			if report.TCBStatus() != nil || !slices.Contains(r.Wants, Want{KindTCBInfo, "50806f000000"}) || !slices.Contains(r.Wants, Want{KindQEIdentity, "td"}) {
				t.Errorf("status %v, wants %v", report.TCBStatus(), r.Wants)
			}
			if !strings.Contains(step(r, StepReport).Detail, c.reason) || !strings.Contains(strings.Join(report.Claims().Unknown, "\n"), c.reason) ||
				!strings.Contains(step(r, StepReport).Detail, "so the enclave's own TCB status is unknown") {
				t.Errorf("%s\n%v", step(r, StepReport).Detail, report.Claims().Unknown)
			}
			if !r.ValidUntil.Equal(teetest.LeafUntil) && name != "signer revoked" {
				t.Errorf("rests on what does not hold: %s", r.ValidUntil)
			}
			if fault, fine := report.judgeTCB(&Policy{}); fault != "" || fine != "" {
				t.Errorf("%q %q", fault, fine)
			}
			if fault, _ := report.judgeTCB(&Policy{TDX: TDXPolicy{AllowedTCBStatuses: statuses}}); !strings.Contains(fault, "no TCB info of Intel's is held") {
				t.Error(fault)
			}
		})
	}
}

// A machine may send collateral that is valid still, and older than what is held: Intel's newest word counts.
func TestTheNewestWordOfIntelsCounts(t *testing.T) {
	intel := teetest.NewIntel(t)
	now := tcbInfo(t, intel, levels(teetest.Level("Revoked", 5, 3, 11)), func(o teetest.Object) { o["tcbEvaluationDataNumber"] = 16 })
	sameNumber := tcbInfo(t, intel, levels(teetest.Level("Revoked", 5, 3, 11)), func(o teetest.Object) { o["issueDate"] = teetest.CollateralFrom.Add(time.Hour) })
	before := tcbInfo(t, intel)
	for _, newest := range []Collateral{now, sameNumber} {
		for _, c := range [][2][]Collateral{{{before}, {newest}}, {{newest}, {before}}, {{before, newest}, nil}, {nil, {newest, before}}} {
			e := quote(intel)
			e.Collateral = c[0]
			r := Verify(e, under(intel, c[1]...), teetest.Now)
			if s := passes(t, r).TCBStatus(); s.Platform != "Revoked" {
				t.Errorf("%+v", s)
			}
			for _, u := range r.Used {
				if !bytes.Equal(u.Body, newest.Body) {
					t.Error("the older one is kept")
				}
			}
		}
	}
	newID := qeIdentity(t, intel, levels(teetest.SVNLevel("OutOfDate", 1)), func(o teetest.Object) { o["tcbEvaluationDataNumber"] = 16 })
	if s := status(t, intel, quote(intel), qeIdentity(t, intel), newID); s.QE != "OutOfDate" {
		t.Errorf("%+v", s)
	}
}

func TestCollateralThatWasSentServesAndIsKept(t *testing.T) {
	intel, other := teetest.NewIntel(t), teetest.NewIntel(t)
	e := quote(intel)
	e.Collateral = append(append(allOf(t, other), allOf(t, intel)...), pckCRL(t, intel))
	e.Collateral = append(e.Collateral, e.Collateral[len(e.Collateral)-1]) // twice
	trust := under(intel)
	trust.RequireCRL = true
	r := Verify(e, trust, teetest.Now)
	passes(t, r)
	var kinds []Kind
	for _, u := range r.Used {
		kinds = append(kinds, u.Kind)
		if chain, err := parseChain(u.IssuerChain); u.Kind == KindTCBInfo && (err != nil || !chain[1].Equal(intel.Root)) {
			t.Error("another Intel's is kept")
		}
	}
	if want := []Kind{KindPCKCRL, KindPCKCRL, KindRootCRL, KindTCBInfo, KindQEIdentity}; !slices.Equal(kinds, want) || len(r.Wants) != 0 {
		t.Errorf("used %v, wants %v", kinds, r.Wants)
	}
}

func TestOnlyAPartOfIntelsWord(t *testing.T) {
	intel := teetest.NewIntel(t)
	all := &Policy{TDX: TDXPolicy{AllowedTCBStatuses: statuses}}
	for _, held := range []Collateral{tcbInfo(t, intel), qeIdentity(t, intel)} {
		r := passes(t, Verify(quote(intel), under(intel, held), teetest.Now))
		if fault, _ := r.judgeTCB(all); !strings.Contains(fault, "only a part of Intel's collateral is held") {
			t.Error(fault)
		}
	}
	// The quoting enclave's word is none about the platform.
	r := passes(t, Verify(quote(intel), under(intel, qeIdentity(t, intel)), teetest.Now))
	if got := r.Judge(&Policy{})[0]; got.Step != StepTCB || got.Outcome != Skipped || !strings.Contains(got.Detail, "is unknown") {
		t.Errorf("%+v", got)
	}
	r = passes(t, Verify(quote(intel), under(intel, qeIdentity(t, intel, levels(teetest.SVNLevel("Revoked", 1)))), teetest.Now))
	if got := r.Judge(&Policy{})[0]; got.Step != StepTCB || got.Outcome != Fail {
		t.Errorf("%+v", got)
	}
}

// The quote of an Azure TDX machine has to be of the TDREPORT in its HCL report, in every field.
func TestTDREPORTOfAnotherTD(t *testing.T) {
	intel := teetest.NewIntel(t)
	ak := &teetest.RSAKey(t, "ak").PublicKey
	e := &Evidence{Type: TypeAzureHCL}
	e.HCLReport, e.Quote = intel.HCL(ak, nil, teetest.HCL{})
	passes(t, Verify(e, under(intel), teetest.Now))
	for name, at := range map[string][2]int{"report_data": {128, 192}, "module": {264, 384}, "TD": {512, 912}} {
		for n := at[0]; n < at[1]; n++ {
			b := bytes.Clone(e.HCLReport)
			b[32+n] ^= 1
			want := "not of the same TD"
			if name == "report_data" {
				want = "different report_data"
			}
			said(t, Verify(&Evidence{Type: TypeAzureHCL, HCLReport: b, Quote: e.Quote}, under(intel), teetest.Now), StepReport, want)
		}
	}
	r := Verify(&Evidence{Type: TypeAzureHCL, HCLReport: e.HCLReport}, under(intel), teetest.Now)
	said(t, r, StepReport, "proves nothing without its TD quote")
	if !r.AK().SameKey(akKey(t)) || r.Binding(akKey(t), nil) != BoundRuntime || r.Nonce() != nil {
		t.Error("the key that it names is known all the same")
	}
	said(t, Verify(&Evidence{Type: TypeAzureHCL, HCLReport: e.HCLReport, Quote: quote(intel).Quote}, under(intel), teetest.Now), StepReport, "not what the report's report_data covers")
}

func TestRTMRs(t *testing.T) {
	intel := teetest.NewIntel(t)
	r := passes(t, Verify(quote(intel), under(intel), teetest.Now))
	for n := range 4 {
		if v, ok := r.RTMR(n); !ok || !bytes.Equal(v, bytes.Repeat([]byte{0x40 + byte(n)}, 48)) {
			t.Errorf("RTMR %d: %x", n, v)
		}
	}
	for _, n := range []int{-1, 4} {
		if _, ok := r.RTMR(n); ok {
			t.Errorf("RTMR %d", n)
		}
	}
	amd := teetest.NewAMD(t, teetest.Milan)
	if _, ok := passes(t, Verify(genuine(amd, 3), &Trust{SNP: amd.Anchors()}, teetest.Now)).RTMR(0); ok {
		t.Error("an SEV-SNP report has no RTMR")
	}
	if _, ok := (*Report)(nil).RTMR(0); ok {
		t.Error("nothing has no RTMR")
	}
	if r.Technology() != TDX || !bytes.Equal(r.Measurement(), bytes.Repeat([]byte{0x3e}, 48)) || r.Paravisor() {
		t.Errorf("%s %x", r.Technology(), r.Measurement())
	}
}

func TestLibraryPanicsAreErrors(t *testing.T) {
	if err := guarded("a decoder", func() error { panic("slice bounds") }); err == nil || err.Error() != "a decoder: malformed: slice bounds" {
		t.Error(err)
	}
	if err := guarded("a decoder", func() error { return fmt.Errorf("no") }); err == nil || err.Error() != "a decoder: no" {
		t.Error(err)
	}
	if err := guarded("a decoder", func() error { return nil }); err != nil {
		t.Error(err)
	}
	intel := teetest.NewIntel(t)
	b := quote(intel).Quote
	for n := 0x278; n < len(b); n++ { // where the sizes are, which go-tdx-guest slices by
		cut := bytes.Clone(b[:n])
		if n >= 0x27C {
			cut[0x278], cut[0x279], cut[0x27A], cut[0x27B] = byte(n-0x27C), byte((n-0x27C)>>8), 0, 0
		}
		if r := Verify(&Evidence{Type: TypeTDX, Quote: cut}, under(intel), teetest.Now); r.Report != nil {
			t.Fatalf("cut at %d", n)
		}
	}
}
