package tee

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func TestCollateralThatIsNotInShape(t *testing.T) {
	amd, intel := teetest.NewAMD(t, teetest.Milan), teetest.NewIntel(t)
	vcek := amd.VCEK(amd.ChipID, amd.TCB)
	crl := amd.CRL(teetest.CollateralFrom, teetest.CRLUntil)
	info := func(key string, value any) []byte {
		o := teetest.TCBInfo()
		o[key] = value
		body, _ := intel.Signed("tcbInfo", o)
		return body
	}
	identity := func(key string, value any) []byte {
		o := teetest.QEIdentity()
		o[key] = value
		body, _ := intel.Signed("enclaveIdentity", o)
		return body
	}
	before := teetest.CollateralFrom.Add(-time.Second)
	for name, c := range map[string]struct {
		kind        Kind
		body, chain []byte
		reason      string
	}{
		"no kind":                            {"crl", crl, nil, `"crl" is no kind of collateral`},
		"a long issuer chain":                {KindRootCRL, crl, make([]byte, maxIssuerChain+1), "an issuer chain of 32769 bytes; at most 32768"},
		"a long certificate":                 {KindVCEK, make([]byte, maxCertificate+1), nil, "vcek: 16385 bytes; at most 16384"},
		"a long CRL":                         {KindSNPCRL, make([]byte, maxCRL+1), nil, "bytes; at most"},
		"a long answer":                      {KindTCBInfo, make([]byte, maxSignedJSON+1), nil, "bytes; at most"},
		"a long identity":                    {KindQEIdentity, make([]byte, maxSignedJSON+1), nil, "bytes; at most"},
		"no certificate":                     {KindVCEK, []byte("no"), nil, "vcek: malformed certificate"},
		"PEM of another type":                {KindVCEK, block("X509 CRL", vcek), nil, "one PEM block of type CERTIFICATE is needed"},
		"two PEM blocks":                     {KindVCEK, append(block("CERTIFICATE", vcek), block("CERTIFICATE", vcek)...), nil, "one PEM block"},
		"a certificate of another kind":      {KindVLEK, vcek, nil, "vlek: the certificate is that of a vcek"},
		"a certificate that is none":         {KindVCEK, amd.ASK.Raw, nil, `vcek: its subject is "SEV-Milan"`},
		"no CRL":                             {KindSNPCRL, []byte("no"), nil, "snp_crl: "},
		"PEM that is no CRL":                 {KindSNPCRL, block("CERTIFICATE", crl), nil, "one PEM block of type X509 CRL is needed"},
		"Intel's CRL as AMD's":               {KindSNPCRL, intel.CRL(intel.Root, teetest.CollateralFrom, teetest.CRLUntil), nil, `its issuer is "Intel SGX Root CA"`},
		"AMD's CRL as Intel's":               {KindRootCRL, crl, nil, `its issuer is "ARK-Milan"`},
		"the root's CRL as the PCK CA's":     {KindPCKCRL, intel.CRL(intel.Root, teetest.CollateralFrom, teetest.CRLUntil), nil, `its issuer is "Intel SGX Root CA"`},
		"no JSON":                            {KindTCBInfo, []byte("no"), nil, "tdx_tcb_info: not JSON"},
		"an identity that is no JSON":        {KindQEIdentity, []byte("no"), nil, "tdx_qe_identity: not JSON"},
		"hex that is cut":                    {KindRootCRL, []byte("308"), nil, "it is neither DER nor hex"},
		"an identity as TCB info":            {KindTCBInfo, identity("id", "TD_QE"), nil, `there is no "tcbInfo"`},
		"TCB info as an identity":            {KindQEIdentity, info("id", "TDX"), nil, `there is no "enclaveIdentity"`},
		"TCB info that is no object":         {KindTCBInfo, []byte(`{"tcbInfo":[]}`), nil, "tdx_tcb_info: tcbInfo: "},
		"an identity that is no object":      {KindQEIdentity, []byte(`{"enclaveIdentity":[]}`), nil, "tdx_qe_identity: enclaveIdentity: "},
		"TCB info of SGX":                    {KindTCBInfo, info("id", "SGX"), nil, `it is "SGX" of version 3; TDX of version 3 is needed`},
		"TCB info of version 2":              {KindTCBInfo, info("version", 2), nil, `it is "TDX" of version 2`},
		"an FMSPC of 5 bytes":                {KindTCBInfo, info("fmspc", "50806f0000"), nil, "its FMSPC has not 6 bytes"},
		"an FMSPC that goes on":              {KindTCBInfo, info("fmspc", "50806f0000001"), nil, "its FMSPC has not 6 bytes"},
		"an FMSPC of words":                  {KindTCBInfo, info("fmspc", "twelve_bytes"), nil, "its FMSPC has not 6 bytes"},
		"an identity of SGX":                 {KindQEIdentity, identity("id", "QE"), nil, `it is "QE" of version 2; TD_QE of version 2 is needed`},
		"an identity of version 1":           {KindQEIdentity, identity("version", 1), nil, "of version 1"},
		"TCB info that ends too early":       {KindTCBInfo, info("nextUpdate", before), nil, "it ends (2026-11-09T23:59:59Z) before it begins (2026-11-10T00:00:00Z)"},
		"an identity that ends as it begins": {KindQEIdentity, identity("nextUpdate", teetest.CollateralFrom), nil, "before it begins"},
	} {
		if _, err := ParseCollateral(c.kind, c.body, c.chain); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v, want %q", name, err, c.reason)
		}
	}
	endless := endlessCRL(crl, t)
	if _, err := ParseCollateral(KindSNPCRL, endless, nil); err == nil || !strings.Contains(err.Error(), "does not say until when") {
		t.Error(err)
	}
}

// endlessCRL is a CRL without nextUpdate; its signature no longer holds, which parsing does not ask.
func endlessCRL(der []byte, t *testing.T) []byte {
	next := append([]byte{0x17, 13}, teetest.CRLUntil.Format("060102150405Z")...)
	at := bytes.Index(der, next)
	if at < 0 {
		t.Fatal("no nextUpdate")
	}
	out := append(bytes.Clone(der[:at]), der[at+len(next):]...)
	for _, length := range []int{2, 6} { // CertificateList, TBSCertList: 2 bytes each
		n := int(out[length])<<8 | int(out[length+1])
		n -= len(next)
		out[length], out[length+1] = byte(n>>8), byte(n)
	}
	return out
}

func TestCollateralIsReadFromEveryForm(t *testing.T) {
	amd, intel := teetest.NewAMD(t, teetest.Milan), teetest.NewIntel(t)
	vcek, vlek := amd.VCEK(amd.ChipID, amd.TCB), amd.VLEK("cloud", amd.TCB)
	crl := amd.CRL(teetest.CollateralFrom, teetest.CRLUntil)
	root := intel.CRL(intel.Root, teetest.CollateralFrom, teetest.CRLUntil)
	turin := teetest.NewAMD(t, teetest.Turin)
	for _, c := range []struct {
		kind        Kind
		body        []byte
		want        []byte
		name        string
		from, until time.Time
	}{
		{KindVCEK, vcek, vcek, "milan/" + hex.EncodeToString(amd.ChipID) + "/-.04.02.18.dc", time.Time{}, teetest.LeafUntil},
		{KindVCEK, append(block("CERTIFICATE", vcek), " \n"...), vcek, "milan/" + hex.EncodeToString(amd.ChipID) + "/-.04.02.18.dc", time.Time{}, teetest.LeafUntil},
		{KindVCEK, turin.VCEK(turin.ChipID, turin.TCB), nil, "turin/" + hex.EncodeToString(turin.ChipID[:8]) + "/01.04.02.18.dc", time.Time{}, teetest.LeafUntil},
		{KindVLEK, vlek, vlek, "milan/cloud/-.04.02.18.dc", time.Time{}, teetest.LeafUntil},
		{KindSNPCRL, crl, crl, "ARK-Milan", teetest.CollateralFrom, teetest.CRLUntil},
		{KindSNPCRL, block("X509 CRL", crl), crl, "ARK-Milan", teetest.CollateralFrom, teetest.CRLUntil},
		{KindRootCRL, fmt.Appendf(nil, "%x\n", root), root, "Intel SGX Root CA", teetest.CollateralFrom, teetest.CRLUntil},
	} {
		got, err := ParseCollateral(c.kind, c.body, nil)
		if err != nil || got.Name != c.name || c.want != nil && !bytes.Equal(got.Body, c.want) || !got.NotAfter.Equal(c.until) || !c.from.IsZero() && !got.NotBefore.Equal(c.from) || got.NotBefore.IsZero() {
			t.Errorf("%s: %v %q %s %s", c.kind, err, got.Name, got.NotBefore, got.NotAfter)
		}
	}
	for _, c := range append(allOf(t, intel), tcbInfo(t, intel, func(o teetest.Object) { o["fmspc"] = "50806F0000AB" })) {
		want := map[Kind]string{KindTCBInfo: "50806f000000", KindQEIdentity: "td", KindPCKCRL: "Intel SGX PCK Platform CA", KindRootCRL: "Intel SGX Root CA"}[c.Kind]
		if c.Name != want && c.Name != "50806f0000ab" || !c.NotBefore.Equal(teetest.CollateralFrom) || !c.NotAfter.After(teetest.Now) {
			t.Errorf("%s: %q", c.Kind, c.Name)
		}
	}
	if len(Kinds) != 7 {
		t.Error(Kinds)
	}
}

func TestCollateralIsCheckedUpToAnAnchor(t *testing.T) {
	amd, impostor := teetest.NewAMD(t, teetest.Milan), teetest.NewFalseAMD(t, teetest.Milan)
	intel, other := teetest.NewIntel(t), teetest.NewIntel(t)
	trust := &Trust{SNP: amd.Anchors(), TDX: intel.Anchors()}
	vcek := collected(t, KindVCEK, amd.VCEK(amd.ChipID, amd.TCB), nil)
	vlek := collected(t, KindVLEK, amd.VLEK("cloud", amd.TCB), nil)
	good := append(allOf(t, intel), vcek, vlek, snpCRL(t, amd, teetest.CollateralFrom, teetest.CRLUntil))
	for _, c := range good {
		if err := trust.CheckCollateral(c, teetest.Now); err != nil {
			t.Error(err)
		}
		for _, at := range []struct {
			now    time.Time
			reason string
		}{{time.Time{}, "the time to judge at is not given"}, {c.NotAfter, "it is not valid since " + c.NotAfter.UTC().Format(time.RFC3339)},
			{c.NotBefore.Add(-time.Second), "it is not valid before " + c.NotBefore.UTC().Format(time.RFC3339)}} {
			lying := c
			lying.NotBefore, lying.NotAfter = c.NotBefore.AddDate(-1, 0, 0), c.NotAfter.AddDate(1, 0, 0)
			for _, c := range []Collateral{c, lying} {
				if err := trust.CheckCollateral(c, at.now); err == nil || !strings.Contains(err.Error(), at.reason) {
					t.Errorf("%s at %s: %v", c.Kind, at.now, err)
				}
			}
		}
		for _, at := range []time.Time{c.NotBefore, c.NotAfter.Add(-time.Second)} {
			if c.Kind != KindVCEK && c.Kind != KindVLEK || at.After(teetest.Now) {
				if err := trust.CheckCollateral(c, at); err != nil {
					t.Errorf("%s at %s: %v", c.Kind, at, err)
				}
			}
		}
		if err := (&Trust{}).CheckCollateral(c, teetest.Now); err == nil || !strings.Contains(err.Error(), "trusted") {
			t.Errorf("%s, without trust: %v", c.Kind, err)
		}
		if err := (&Trust{SNP: impostor.Anchors(), TDX: other.Anchors()}).CheckCollateral(c, teetest.Now); err == nil {
			t.Errorf("%s, trusting others, holds", c.Kind)
		}
	}
	edited := func(c Collateral, edit func(*Collateral)) Collateral {
		c.Body = bytes.Clone(c.Body)
		edit(&c)
		return c
	}
	chain := func(c ...*x509.Certificate) func(*Collateral) {
		return func(x *Collateral) { x.IssuerChain = teetest.PEM(c...) }
	}
	info, qe, pck, root, snp := good[0], good[1], good[2], good[3], good[6]
	signedBy := func(signer *x509.Certificate) Collateral {
		body, chain := intel.SignedBy("tcbInfo", teetest.TCBInfo(), signer, intel.TCBSignerKey)
		return collected(t, KindTCBInfo, body, chain)
	}
	named := intel.NewTCBSigner(func(c *x509.Certificate) { c.Subject.CommonName = "Intel SGX PCK Certificate" })
	expired := intel.NewTCBSigner(func(c *x509.Certificate) { c.NotAfter = teetest.Now.Add(-time.Second) })
	rsaSigner := intel.NewTCBSigner(func(c *x509.Certificate) { c.PublicKey = &teetest.RSAKey(t, "ak").PublicKey })
	p384 := intel.NewTCBSigner(func(c *x509.Certificate) { c.PublicKey = &amd.VCEKKey.PublicKey })
	otherKey := intel.NewTCBSigner(func(c *x509.Certificate) { c.PublicKey = &teetest.P256(t).PublicKey })
	signature := func(hex string) func(*Collateral) {
		return func(c *Collateral) {
			at := bytes.Index(c.Body, []byte(`"signature":"`))
			c.Body = fmt.Appendf(c.Body[:at:at], `"signature":"%s"}`, hex)
		}
	}
	flip := func(c *Collateral) { c.Body[len(c.Body)-1] ^= 1 }
	badLevel := tcbInfo(t, intel, levels(teetest.Level("Fine", 1, 1, 1)))
	badQE := qeIdentity(t, intel, levels(teetest.SVNLevel("Fine", 1)))
	for name, c := range map[string]struct {
		c      Collateral
		reason string
	}{
		"no kind":                        {Collateral{Kind: "x"}, "no kind of collateral"},
		"no body":                        {Collateral{Kind: KindVCEK, NotAfter: teetest.CRLUntil}, "vcek: "},
		"a VCEK of another root":         {collected(t, KindVCEK, impostor.VCEK(amd.ChipID, amd.TCB), nil), "vcek: "},
		"a VLEK of another root":         {collected(t, KindVLEK, impostor.VLEK("cloud", amd.TCB), nil), "vlek: "},
		"an altered VCEK":                {edited(vcek, flip), "vcek: "},
		"an altered SNP CRL":             {edited(snp, flip), "snp_crl: its signature does not verify with the trusted root"},
		"an altered root CRL":            {edited(root, flip), ""},
		"an SNP CRL of another root":     {snpCRL(t, impostor, teetest.CollateralFrom, teetest.CRLUntil), "its signature does not verify with the trusted root"},
		"an SNP CRL of another product":  {snpCRL(t, teetest.NewAMD(t, teetest.Genoa), teetest.CollateralFrom, teetest.CRLUntil), `its issuer "ARK-Genoa" is not trusted`},
		"a root CRL of another root":     {rootCRL(t, other), "its signature does not verify with the trusted root"},
		"a PCK CRL without a chain":      {edited(pck, chain()), "the issuer chain is missing"},
		"a PCK CRL, another's chain":     {edited(pck, chain(other.PCKCA, other.Root)), "tdx_pck_crl: "},
		"a PCK CRL, the wrong issuer":    {edited(pck, chain(intel.Root)), "its signature does not verify with the issuer chain's first certificate"},
		"an altered PCK CRL":             {edited(pck, flip), ""},
		"TCB info without a chain":       {edited(info, chain()), "the issuer chain is missing"},
		"a chain that is none":           {edited(info, func(c *Collateral) { c.IssuerChain = block("CERTIFICATE", []byte("no")) }), "issuer chain: "},
		"a chain of five":                {edited(info, chain(intel.TCBSigner, intel.Root, intel.Root, intel.Root, intel.Root)), "more than 4 certificates"},
		"TCB info, another's chain":      {edited(info, chain(other.TCBSigner, other.Root)), "tdx_tcb_info: its signer: "},
		"TCB info, signed by a PCK":      {signedBy(named), `it is signed by "Intel SGX PCK Certificate", not by "Intel SGX TCB Signing"`},
		"TCB info, signer expired":       {signedBy(expired), "its signer: "},
		"TCB info, signer RSA":           {signedBy(rsaSigner), "its signer has no P-256 key"},
		"TCB info, signer P-384":         {signedBy(p384), "its signer has no P-256 key"},
		"TCB info, signed by another":    {signedBy(otherKey), "its signature does not verify"},
		"a signature of 63 bytes":        {edited(info, signature(strings.Repeat("00", 63))), "its signature has not 64 bytes in hex"},
		"a signature of words":           {edited(info, signature(strings.Repeat("xy", 64))), "its signature has not 64 bytes in hex"},
		"a signature of zeros":           {edited(info, signature(strings.Repeat("00", 64))), "its signature does not verify"},
		"an identity's for TCB info":     {edited(qe, signature(strings.Repeat("11", 64))), "its signature does not verify"},
		"a status that is no word":       {badLevel, "tdx_tcb_info: tcbInfo: unexpected tcb status"},
		"a QE status that is no word":    {badQE, "tdx_qe_identity: enclaveIdentity: unexpected tcb status"},
		"TCB info beside the identity's": {edited(info, func(c *Collateral) { c.Kind = KindQEIdentity }), `there is no "enclaveIdentity"`},
	} {
		if err := trust.CheckCollateral(c.c, teetest.Now); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v, want %q", name, err, c.reason)
		}
	}
	// The intermediate that a chain brings is no root, and a root that is held is one of several.
	both := &Trust{SNP: append(impostor.Anchors(), amd.Anchors()...), TDX: append(other.Anchors(), intel.Root)}
	for _, c := range good {
		if err := both.CheckCollateral(c, teetest.Now); err != nil {
			t.Error(err)
		}
	}
	if err := (&Trust{SNP: []*x509.Certificate{amd.ASK}}).CheckCollateral(snp, teetest.Now); err == nil {
		t.Error("an intermediate is no root")
	}
	// Nor is a certificate of the root's name and key that another issued.
	cross := teetest.Issue(t, &x509.Certificate{SerialNumber: intel.Root.SerialNumber, RawSubject: intel.Root.RawSubject, NotBefore: intel.Root.NotBefore, NotAfter: intel.Root.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign, PublicKey: &intel.RootKey.PublicKey}, other.PCKCA, other.PCKCAKey)
	if err := (&Trust{TDX: []*x509.Certificate{cross}}).CheckCollateral(rootCRL(t, intel), teetest.Now); err == nil || !strings.Contains(err.Error(), "is not trusted") {
		t.Errorf("cross-signed: %v", err)
	}
}

// Before a signature is verified, what is read costs no more than a few times its size.
func TestUnsignedCollateralCostsLittleMemory(t *testing.T) {
	levels := strings.Repeat(`{},`, 150_000) + `{}`
	for name, c := range map[string]struct {
		kind Kind
		body string
	}{
		"TCB levels":  {KindTCBInfo, `{"tcbInfo":{"id":"TDX","version":3,"fmspc":"50806f000000","issueDate":"2026-11-10T00:00:00Z","nextUpdate":"2026-12-10T00:00:00Z","tcbLevels":[` + levels + `]},"signature":""}`},
		"QE levels":   {KindQEIdentity, `{"enclaveIdentity":{"id":"TD_QE","version":2,"issueDate":"2026-11-10T00:00:00Z","nextUpdate":"2026-12-10T00:00:00Z","tcbLevels":[` + levels + `]},"signature":""}`},
		"other names": {KindTCBInfo, `{"x":[` + levels + `]}`},
	} {
		body := []byte(c.body)
		trust := &Trust{TDX: teetest.NewIntel(t).Anchors()}
		var parsed Collateral
		if n := allocated(func() { parsed, _ = ParseCollateral(c.kind, body, nil) }); n > 8*uint64(len(body)) {
			t.Errorf("%s: parsing %d bytes takes %d", name, len(body), n)
		}
		parsed.Kind, parsed.Body = c.kind, body
		if n := allocated(func() { _ = trust.CheckCollateral(parsed, teetest.Now) }); n > 8*uint64(len(body)) {
			t.Errorf("%s: checking %d bytes takes %d", name, len(body), n)
		}
	}
}
