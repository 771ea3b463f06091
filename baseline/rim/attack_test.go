package rim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/importtest"
)

// The attacks begin with a document that is good.
func good(t *testing.T) (document string, support map[string][]byte) {
	t.Helper()
	log := bootLog(t)
	return string(theAuthority().sign(t, unsigned(fileElement("boot.rimel", log)), signing{})), map[string][]byte{"boot.rimel": log}
}

func TestGood(t *testing.T) {
	document, support := good(t)
	got, err := Import([]byte(document), support, theAuthority().trust())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Notes) != 0 || got.Signer.Subject != "CN=test signer" || got.Signer.AnchorSHA256 == got.Signer.KeySHA256 {
		t.Errorf("%+v, %+v", got.Notes, got.Signer)
	}
}

// signatureOf cuts the Signature out of a document.
func signatureOf(document string) (signature, rest string) {
	from, to := strings.Index(document, "<Signature "), strings.Index(document, "</Signature>")+len("</Signature>")
	return document[from:to], document[:from] + document[to:]
}

func TestSignatureWrapping(t *testing.T) {
	document, support := good(t)
	signature, rest := signatureOf(document)
	inner := rest // what was signed, to be carried somewhere in a document that says something else
	evil := unsigned(fileElement("boot.rimel", []byte("evil")))
	closing := "</SoftwareIdentity>"
	insert := func(document, what string) string { return strings.Replace(document, closing, what+closing, 1) }
	for _, test := range []struct {
		name, document, kind, want string
	}{
		{"no signature", rest, baseline.ImportUntrusted, "/SoftwareIdentity: the base RIM is not signed"},
		{"two signatures", insert(document, signature), baseline.ImportUntrusted, "/SoftwareIdentity/Signature[2]: the document has 2 signatures"},
		{"signature of another document", insert(evil, signature), baseline.ImportUntrusted, "Reference: the digest does not match"},
		{"the signed element inside of another one", insert(evil, inner+signature), baseline.ImportUntrusted, "the digest does not match"},
		{"the whole signed document inside of another one", insert(evil, document), baseline.ImportUntrusted, "/SoftwareIdentity/SoftwareIdentity/Signature: the signature is not a child of the root element"},
		{"the signed element in an Object of the signature", insert(evil, strings.Replace(signature, "</KeyInfo>", "</KeyInfo><Object>"+inner+"</Object>", 1)), baseline.ImportUntrusted, "the digest does not match"},
		{"a signature in an Object of the signature", insert(rest, strings.Replace(signature, "</KeyInfo>", "</KeyInfo><Object>"+signature+"</Object>", 1)), baseline.ImportUntrusted, "the document has 2 signatures"},
		{"the reference points to an element with an Id", strings.Replace(document, `URI=""`, `URI="#t"`, 1), baseline.ImportUntrusted, "0 elements have the Id"},
		{"an element was added", insert(document, `<Link href="https://evil.example"/>`), baseline.ImportUntrusted, "the digest does not match"},
		{"the payload was changed", strings.Replace(document, "boot.rimel", "evil.rimel", 1), baseline.ImportUntrusted, "the digest does not match"},
		{"text was added", strings.Replace(document, "<Payload>", "<Payload>x", 1), baseline.ImportUntrusted, "the digest does not match"},
		{"a second SignedInfo", strings.Replace(document, "<SignatureValue>", "<SignedInfo></SignedInfo><SignatureValue>", 1), baseline.ImportMalformed, "a Signature has one SignedInfo"},
		{"an unknown element in SignedInfo", strings.Replace(document, "</SignedInfo>", "<Other/></SignedInfo>", 1), baseline.ImportMalformed, "SignedInfo/Other: not an element of SignedInfo"},
		{"no SignedInfo", strings.Replace(strings.Replace(document, "<SignedInfo>", "<KeyInfo>", 1), "</SignedInfo>", "</KeyInfo>", 1), baseline.ImportMalformed, "a Signature has one KeyInfo"},
		{"no SignatureValue", rest[:len(rest)-len(closing)] + `<Signature xmlns="` + spaceDsig + `"><SignedInfo/></Signature>` + closing, baseline.ImportMalformed, "SignedInfo and SignatureValue are needed"},
		{"a digest with an element in it", strings.Replace(document, "<DigestValue>", "<DigestValue><x/>", 1), baseline.ImportMalformed, "DigestValue: not base64"},
		{"a signature that is no base64", strings.Replace(document, "<SignatureValue>", "<SignatureValue>!", 1), baseline.ImportMalformed, "SignatureValue: not base64"},
		{"two signature methods", strings.Replace(document, "<SignatureMethod ", `<SignatureMethod/><SignatureMethod `, 1), baseline.ImportMalformed, "SignedInfo: one CanonicalizationMethod and one SignatureMethod are needed"},
		{"no digest", strings.ReplaceAll(document, "DigestValue", "Digest"), baseline.ImportMalformed, "Reference: a DigestMethod and a DigestValue are needed"},
		{"another namespace's SignatureValue", strings.Replace(document, "<SignatureValue>", `<SignatureValue xmlns="x">`, 1), baseline.ImportMalformed, "not an element of a Signature"},
		{"a comment in the hash", strings.Replace(document, "S:hash=", "<!-- -->S:hash=", 1), baseline.ImportMalformed, "line 1"},
		{"xml:base", strings.Replace(document, "<Payload>", `<Payload xml:base="x">`, 1), baseline.ImportUnsupported, "xml:base"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.document == document {
				t.Fatal("the attack changed nothing")
			}
			_, err := Import([]byte(test.document), support, theAuthority().trust())
			importtest.WantError(t, err, test.kind, test.want)
		})
	}
	// A comment changes nothing: neither the signature nor what is read.
	if _, err := Import([]byte(strings.Replace(document, "<Payload>", "<Payload><!-- x -->", 1)), support, theAuthority().trust()); err != nil {
		t.Error(err)
	}
}

// What the signer himself may not do, since it leaves something uncovered or rests on something weak.
func TestRefusedSignatures(t *testing.T) {
	log := bootLog(t)
	document := unsigned(fileElement("boot.rimel", log))
	keyName := `<KeyName>x</KeyName>`
	property := `<Object><SignatureProperties><SignatureProperty Id="T" Target="#S"/></SignatureProperties></Object>`
	reference := func(uri, more string) string {
		return `<Reference ` + uri + `>` + more + `<DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256"/><DigestValue>AAAA</DigestValue></Reference>`
	}
	for _, test := range []struct {
		name    string
		signing signing
		want    string
	}{
		{"RSA with SHA-1", signing{method: "http://www.w3.org/2000/09/xmldsig#rsa-sha1"}, `SignatureMethod: the signature method "http://www.w3.org/2000/09/xmldsig#rsa-sha1" is not allowed`},
		{"HMAC", signing{method: "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"}, "SignatureMethod: the signature method"},
		{"digest by SHA-1", signing{digest: "http://www.w3.org/2000/09/xmldsig#sha1"}, `DigestMethod: the digest method "http://www.w3.org/2000/09/xmldsig#sha1" is not allowed`},
		{"XSLT", signing{transforms: []string{"http://www.w3.org/TR/1999/REC-xslt-19991116"}}, "Transform[2]: the transform"},
		{"XPath", signing{transforms: []string{"http://www.w3.org/TR/1999/REC-xpath-19991116"}}, "Transform[2]: the transform"},
		{"two canonicalizations", signing{transforms: []string{algorithmC14N10, algorithmC14N11}}, "Transform[3]: the transform"},
		{"canonicalization with comments", signing{c14n: algorithmC14N10 + "#WithComments"}, "CanonicalizationMethod: the canonicalization"},
		{"a reference out of the document", signing{references: reference(`URI="https://evil.example/x"`, "")}, `the reference to "https://evil.example/x"`},
		{"a reference without URI", signing{references: reference("", "")}, "Reference[2]: the reference has no URI"},
		{"two references to the document", signing{references: reference(`URI=""`, `<Transforms><Transform Algorithm="`+algorithmEnveloped+`"/></Transforms>`)}, "Reference[2]: the digest does not match"},
		{"a reference to nothing", signing{references: reference(`URI="#T"`, "")}, "0 elements have the Id"},
		{"a reference to two elements", signing{references: reference(`URI="#T"`, ""), object: property + property}, "2 elements have the Id"},
		{"a changed time stamp", signing{references: reference(`URI="#T"`, ""), object: property}, "what the reference points to was changed"},
		{"a time stamp with XPath", signing{references: reference(`URI="#T"`, `<Transforms><Transform Algorithm="http://www.w3.org/TR/1999/REC-xpath-19991116"/></Transforms>`), object: property}, "is not allowed here"},
		{"only a key name", signing{keyInfo: &keyName}, "no trusted key verifies the signature; the document calls it x"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Import(theAuthority().sign(t, document, test.signing), map[string][]byte{"boot.rimel": log}, theAuthority().trust())
			importtest.WantError(t, err, baseline.ImportUntrusted, test.want)
		})
	}
	t.Run("a reference to the payload alone", func(t *testing.T) {
		document := strings.Replace(document, "<Payload>", `<Payload Id="P">`, 1)
		signed := theAuthority().sign(t, document, signing{references: reference(`URI="#P"`, "")})
		_, err := Import(signed, map[string][]byte{"boot.rimel": log}, theAuthority().trust())
		importtest.WantError(t, err, baseline.ImportUntrusted, "Reference[2]: the reference to /SoftwareIdentity/Payload: only parts of an Object")
	})
	t.Run("without the enveloped transform", func(t *testing.T) {
		signed := strings.Replace(string(theAuthority().sign(t, document, signing{transforms: []string{algorithmC14N10}})), `<Transform Algorithm="`+algorithmEnveloped+`"/>`, "", 1)
		_, err := Import([]byte(signed), map[string][]byte{"boot.rimel": log}, theAuthority().trust())
		importtest.WantError(t, err, baseline.ImportUntrusted, "the first transform must be enveloped-signature")
	})
	t.Run("another's certificate", func(t *testing.T) {
		other := newAuthority(theKey(t), nil)
		keyInfo := `<X509Data><X509Certificate>` + base64Of(other.cert.Raw) + `</X509Certificate></X509Data>`
		_, err := Import(theAuthority().sign(t, document, signing{keyInfo: &keyInfo}), map[string][]byte{"boot.rimel": log}, other.trust())
		importtest.WantError(t, err, baseline.ImportUntrusted, "the signature is not that of the certificate that came with it")
	})
	t.Run("a certificate that is none", func(t *testing.T) {
		keyInfo := `<X509Data><X509Certificate>AAAA</X509Certificate></X509Data>`
		_, err := Import(theAuthority().sign(t, document, signing{keyInfo: &keyInfo}), nil, theAuthority().trust())
		importtest.WantError(t, err, baseline.ImportMalformed, "KeyInfo/X509Data/X509Certificate: x509")
	})
	t.Run("many certificates", func(t *testing.T) {
		keyInfo := `<X509Data>` + strings.Repeat(`<X509Certificate>`+base64Of(theAuthority().cert.Raw)+`</X509Certificate>`, maxCertificates+1) + `</X509Data>`
		_, err := Import(theAuthority().sign(t, document, signing{keyInfo: &keyInfo}), nil, theAuthority().trust())
		importtest.WantError(t, err, baseline.ImportTooLarge, "more than 16 certificates")
	})
	t.Run("references", func(t *testing.T) {
		// What the references point to must be right, or another check refuses them first.
		root, err := parse(theAuthority().sign(t, document, signing{object: property}))
		if err != nil {
			t.Fatal(err)
		}
		var digest string
		root.walk(func(n *node) bool {
			if n.local == "SignatureProperty" {
				sum := sha256.Sum256(c14n10.write(n))
				digest = base64Of(sum[:])
			}
			return true
		})
		good := strings.Replace(reference(`URI="#T"`, ""), "AAAA", digest, 1)
		support := map[string][]byte{"boot.rimel": log}
		if _, err := Import(theAuthority().sign(t, document, signing{references: strings.Repeat(good, maxReferences-1), object: property}), support, theAuthority().trust()); err != nil {
			t.Error(err)
		}
		_, err = Import(theAuthority().sign(t, document, signing{references: strings.Repeat(good, maxReferences), object: property}), support, theAuthority().trust())
		importtest.WantError(t, err, baseline.ImportTooLarge, "Reference[9]: more than 8 references")
		// Exactly one reference is to the document, be the others as right as they may.
		signed := string(theAuthority().sign(t, document, signing{references: good, object: property}))
		from, to := strings.Index(signed, `<Reference URI="">`), strings.Index(signed, "</Reference>")+len("</Reference>")
		_, err = Import(theAuthority().sign(t, document, signing{references: signed[from:to]}), support, theAuthority().trust())
		importtest.WantError(t, err, baseline.ImportUntrusted, `2 references have the URI ""`)
		_, err = Import([]byte(signed[:from]+signed[to:]), support, theAuthority().trust())
		importtest.WantError(t, err, baseline.ImportUntrusted, `0 references have the URI ""`)
	})
}

func theKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestRefusedSigners(t *testing.T) {
	log := bootLog(t)
	document := unsigned(fileElement("boot.rimel", log))
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name      string
		authority *authority
		want      string
	}{
		{"a short RSA key", newAuthority(weak, nil), "the RSA key has 1024 bits"},
		{"a certificate that may not sign documents", newAuthority(theAuthority().key, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), "does not allow to sign documents"},
		{"an expired certificate", newAuthority(theAuthority().key, func(c *x509.Certificate) { c.NotAfter = now.AddDate(0, 0, -1) }), "expired on 2026-11-24"},
		{"a certificate of tomorrow", newAuthority(theAuthority().key, func(c *x509.Certificate) { c.NotBefore = now.AddDate(0, 0, 1) }), "is not valid before 2026-11-26"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Import(test.authority.sign(t, document, signing{}), map[string][]byte{"boot.rimel": log}, test.authority.trust())
			importtest.WantError(t, err, baseline.ImportUntrusted, test.want)
		})
	}
}

func TestHostileXML(t *testing.T) {
	laughs := `<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY lol "lol">`
	for i := range 9 {
		laughs += fmt.Sprintf(`<!ENTITY lol%d "%s">`, i+1, strings.Repeat(fmt.Sprintf("&lol%d;", i), 10))
	}
	laughs += `]><SoftwareIdentity>&lol9;</SoftwareIdentity>`
	attributes, declarations := "", ""
	for i := range maxAttributes + 1 {
		attributes += fmt.Sprintf(` a%d=""`, i)
	}
	for i := range maxNamespaces + 1 {
		declarations += fmt.Sprintf(` xmlns:a%d="x"`, i)
	}
	for _, test := range []struct {
		name, document, kind, want string
	}{
		{"billion laughs", laughs, baseline.ImportMalformed, "<!DOCTYPE at byte 21: document types and entities are not read"},
		{"an external entity", `<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>`, baseline.ImportMalformed, "<!DOCTYPE"},
		{"an undeclared entity", `<a>&lol;</a>`, baseline.ImportMalformed, "line 1, column 9: XML syntax error on line 1: invalid character entity &lol;"},
		{"a declaration in lower case", `<!doctype a><a/>`, baseline.ImportMalformed, "document types"},
		{"deep nesting", strings.Repeat("<a>", 100000), baseline.ImportTooLarge, "nested more than 32 deep"},
		{"10^6 elements", "<a>" + strings.Repeat("<b/>", 1000000) + "</a>", baseline.ImportTooLarge, "the base RIM has 4000007 bytes"},
		{"as many elements as fit", "<a>" + strings.Repeat("<b/>", 250000) + "</a>", baseline.ImportTooLarge, "more than 20000 elements"},
		{"10^5 attributes", "<a" + strings.Repeat(` a=""`, 200000) + "/>", baseline.ImportTooLarge, "<a> has 200000 attributes"},
		{"some attributes too many", "<a" + attributes + "/>", baseline.ImportTooLarge, "<a> has 65 attributes"},
		{"namespaces", "<a" + declarations + "/>", baseline.ImportTooLarge, "more than 32 namespace declarations"},
		{"a processing instruction", `<?xml version="1.0"?><?xml-stylesheet href="x"?><a/>`, baseline.ImportMalformed, `the processing instruction "xml-stylesheet"`},
		{"UTF-16", "\xff\xfe<\x00a\x00/\x00>\x00", baseline.ImportMalformed, ""},
		{"another encoding", `<?xml version="1.0" encoding="ISO-8859-1"?><a/>`, baseline.ImportMalformed, "line 1"},
		{"two attributes of a name", `<a b="" b=""/>`, baseline.ImportMalformed, "has the attribute b twice"},
		{"two attributes of a name by two prefixes", `<a xmlns:x="u" xmlns:y="u" x:b="" y:b=""/>`, baseline.ImportMalformed, "has the attribute y:b twice"},
		{"a prefix declared twice", `<a xmlns:x="u" xmlns:x="v"/>`, baseline.ImportMalformed, "declared twice"},
		{"an undeclared prefix", `<x:a/>`, baseline.ImportMalformed, "the prefix of <x:a> is not declared"},
		{"an undeclared prefix of an attribute", `<a x:b=""/>`, baseline.ImportMalformed, "the prefix of the attribute x:b"},
		{"a prefix for nothing", `<a xmlns:x=""/>`, baseline.ImportMalformed, "declared for no namespace"},
		{"the prefix xml", `<a xmlns:xml="u"/>`, baseline.ImportMalformed, "the namespaces of XML itself"},
		{"another prefix of xml", `<a xmlns:x="http://www.w3.org/XML/1998/namespace"/>`, baseline.ImportMalformed, "the namespaces of XML itself"},
		{"a name with two colons", `<a:b:c/>`, baseline.ImportMalformed, ""},
		{"a name that ends in a colon", `<a: xmlns:a="u"/>`, baseline.ImportMalformed, ""},
		{"an attribute that begins with a colon", `<a :b=""/>`, baseline.ImportMalformed, ""},
		{"a line break in an attribute", "<a b=\"1\n2\"/>", baseline.ImportMalformed, "has a line break"},
		{"two roots", `<a/><a/>`, baseline.ImportMalformed, "after the root element"},
		{"text after the root", `<a/>x`, baseline.ImportMalformed, "text outside the root element"},
		{"no end", `<a><b>`, baseline.ImportMalformed, "/a/b: the element has no end"},
		{"another end", `<a><b></a>`, baseline.ImportMalformed, "</a> ends no element"},
		{"nothing", ``, baseline.ImportMalformed, "there is no element"},
		{"another root", `<Other/>`, baseline.ImportUntrusted, "is not signed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			used := allocated(func() {
				_, err := Import([]byte(test.document), nil, theAuthority().trust())
				importtest.WantError(t, err, test.kind, test.want)
			})
			if used > 64<<20 {
				t.Errorf("%d bytes were allocated for a document of %d", used, len(test.document))
			}
		})
	}
}

// allocated is how much memory f asked for in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// The elements, as many as may be, cost a bounded amount of work even where a signature has to be looked for twice.
func TestLargeDocument(t *testing.T) {
	var files strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&files, `<File name="%d" S:hash="%064d"/>`, i, i)
	}
	signed := theAuthority().sign(t, unsigned(files.String()), signing{})
	used := allocated(func() {
		_, err := Import(bytes.Replace(signed, []byte(`name="4999"`), []byte(`name="x"`), 1), nil, theAuthority().trust())
		importtest.WantError(t, err, baseline.ImportUntrusted, "the digest does not match")
	})
	if used > 256<<20 {
		t.Errorf("%d bytes were allocated for a document of %d", used, len(signed))
	}
	_, err := Import(signed, nil, theAuthority().trust())
	importtest.WantError(t, err, baseline.ImportTooLarge, "/SoftwareIdentity/Payload/Directory/File[257]: more than 256 files")
}

// A document cannot fill an error, nor what is told of it.
func TestLongNames(t *testing.T) {
	long := strings.Repeat("n", 100000)
	for _, document := range []string{"<" + long + ">", "<a>&" + long + ";</a>", "<a " + long + `="1" ` + long + `="2"/>`, strings.Repeat("<"+long[:1000]+">", 40)} {
		_, err := Import([]byte(document), nil, nil)
		if err == nil || len(err.Error()) > 1100 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
}
