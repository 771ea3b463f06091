package rim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/importtest"
)

var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

func specimen(t testing.TB, name string) []byte {
	t.Helper()
	return importtest.Read(t, filepath.Join("testdata", name))
}

func certificates(t testing.TB, name string) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for rest := specimen(t, name); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return out
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, cert)
	}
}

// bootLog is the support RIM of the specimens.
func bootLog(t testing.TB) []byte {
	t.Helper()
	return importtest.Read(t, "../../verifier/eventlog/testdata/eventlogs/misc/hirs-TpmLog.bin")
}

// hirs trusts the specimens' signer.
func hirs(t testing.TB) *baseline.ImportTrust {
	t.Helper()
	return &baseline.ImportTrust{Roots: certificates(t, "RimSignCert.pem"), Now: now}
}

// authority is a CA of the tests with one signer.
type authority struct {
	ca, cert *x509.Certificate
	key      crypto.Signer
}

var theAuthority = sync.OnceValue(func() *authority {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return newAuthority(key, nil)
})

// newAuthority makes a CA and a certificate of the key, which change may alter before it is signed.
func newAuthority(key crypto.Signer, change func(*x509.Certificate)) *authority {
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	issue := func(template, parent *x509.Certificate, public crypto.PublicKey) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, caKey)
		if err != nil {
			panic(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			panic(err)
		}
		return cert
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageCertSign}
	ca = issue(ca, ca, caKey.Public())
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test signer"},
		NotBefore: now.AddDate(0, -1, 0), NotAfter: now.AddDate(0, 1, 0), KeyUsage: x509.KeyUsageDigitalSignature}
	if change != nil {
		change(template)
	}
	return &authority{ca: ca, cert: issue(template, ca, key.Public()), key: key}
}

func (a *authority) trust() *baseline.ImportTrust {
	return &baseline.ImportTrust{Roots: []*x509.Certificate{a.ca}, Now: now}
}

// unsigned is a small base RIM whose payload is the elements given.
func unsigned(payload string) string {
	return `<SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd" xmlns:S="http://www.w3.org/2001/04/xmlenc#sha256" ` +
		`xmlns:rim="https://trustedcomputinggroup.org/wp-content/uploads/TCG_RIM_Model" name="Test" tagId="t" version="1" xml:lang="en">` +
		`<Entity name="Vendor" role="tagCreator"/><Meta rim:bindingSpec="PC Client RIM"/><Payload><Directory name="rim">` + payload +
		`</Directory></Payload></SoftwareIdentity>`
}

func fileElement(name string, content []byte) string {
	h := crypto.SHA256.New()
	h.Write(content)
	return fmt.Sprintf(`<File name="%s" size="%d" S:hash="%x"/>`, name, len(content), h.Sum(nil))
}

// signing says how sign signs; the zero value is RSA with SHA-256, Canonical XML 1.0 and an embedded certificate.
type signing struct {
	method, c14n, digest string
	transforms           []string // after enveloped-signature
	references           string   // more references
	keyInfo              *string  // instead of the certificate
	object               string
	insert               string // before which text the signature goes; "" is the end of the root
}

func (s signing) or(value, standard string) string {
	if value == "" {
		return standard
	}
	return value
}

// sign signs a document as another implementation would, but for canonicalization, which TestCanonicalAgainstAnother
// and the specimens check.
func (a *authority) sign(t testing.TB, document string, s signing) []byte {
	t.Helper()
	method := s.or(s.method, "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256")
	digest := s.or(s.digest, "http://www.w3.org/2001/04/xmlenc#sha256")
	keyInfo := `<X509Data><X509Certificate>` + base64.StdEncoding.EncodeToString(a.cert.Raw) + `</X509Certificate></X509Data>`
	if s.keyInfo != nil {
		keyInfo = *s.keyInfo
	}
	transforms := ""
	for _, algorithm := range append([]string{algorithmEnveloped}, s.transforms...) {
		transforms += `<Transform Algorithm="` + algorithm + `"/>`
	}
	compose := func(digestValue, signatureValue string) string {
		signature := `<Signature xmlns="` + spaceDsig + `"><SignedInfo><CanonicalizationMethod Algorithm="` + s.or(s.c14n, algorithmC14N10) +
			`"/><SignatureMethod Algorithm="` + method + `"/><Reference URI=""><Transforms>` + transforms + `</Transforms><DigestMethod Algorithm="` + digest +
			`"/><DigestValue>` + digestValue + `</DigestValue></Reference>` + s.references + `</SignedInfo><SignatureValue>` + signatureValue +
			`</SignatureValue><KeyInfo>` + keyInfo + `</KeyInfo>` + s.object + `</Signature>`
		at := s.or(s.insert, "</SoftwareIdentity>")
		return strings.Replace(document, at, signature+at, 1)
	}
	root, err := parse([]byte(compose("", "")))
	if err != nil {
		t.Fatal(err)
	}
	signature := root.child(spaceDsig, "Signature")
	c14n := c14n10
	if len(s.transforms) > 0 {
		if list := transformsOf(signature.child(spaceDsig, "SignedInfo").child(spaceDsig, "Reference")); len(list) > 1 {
			if c, ok := canonicalizationOf(list[1]); ok {
				c14n = c
			}
		}
	}
	hash := crypto.SHA256
	if h, ok := digestMethods[digest]; ok {
		hash = h
	}
	sum := func(hash crypto.Hash, b []byte) []byte { h := hash.New(); h.Write(b); return h.Sum(nil) }
	digestValue := base64.StdEncoding.EncodeToString(sum(hash, c14n.write(root.without(signature, false))))
	if root, err = parse([]byte(compose(digestValue, ""))); err != nil {
		t.Fatal(err)
	}
	info := root.child(spaceDsig, "Signature").child(spaceDsig, "SignedInfo")
	canonical, ok := canonicalizationOf(info.child(spaceDsig, "CanonicalizationMethod"))
	if !ok {
		canonical = c14n10
	}
	how, ok := signatureMethods[method]
	if !ok {
		how = signatureMethod{"rsa", crypto.SHA256}
		if strings.HasSuffix(method, "sha1") {
			how.hash = crypto.SHA1
		}
	}
	return []byte(compose(digestValue, base64.StdEncoding.EncodeToString(a.signDigest(t, how, sum(how.hash, canonical.write(info))))))
}

func (a *authority) signDigest(t testing.TB, how signatureMethod, digest []byte) []byte {
	t.Helper()
	var out []byte
	var err error
	switch key := a.key.(type) {
	case *rsa.PrivateKey:
		if how.kind == "rsa-pss" {
			out, err = rsa.SignPSS(rand.Reader, key, how.hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		} else {
			out, err = rsa.SignPKCS1v15(rand.Reader, key, how.hash, digest)
		}
	case *ecdsa.PrivateKey:
		var r, s *big.Int
		if r, s, err = ecdsa.Sign(rand.Reader, key, digest); err == nil {
			size := (key.Curve.Params().N.BitLen() + 7) / 8
			out = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func base64Of(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
