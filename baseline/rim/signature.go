package rim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha256" // the hashes that signatures may use
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"
	"strings"

	"github.com/assay-verifier/assay/baseline"
)

const (
	spaceDsig = "http://www.w3.org/2000/09/xmldsig#"

	algorithmEnveloped = spaceDsig + "enveloped-signature"

	maxCertificates = 16 // in KeyInfo
	maxReferences   = 8
)

// digestMethods are the hashes by the names of XML Signature and RFC 6931.
var digestMethods = map[string]crypto.Hash{
	"http://www.w3.org/2001/04/xmlenc#sha256":       crypto.SHA256,
	"http://www.w3.org/2001/04/xmldsig-more#sha384": crypto.SHA384,
	"http://www.w3.org/2001/04/xmlenc#sha512":       crypto.SHA512,
}

// signatureMethod is one way to sign.
type signatureMethod struct {
	kind string // "rsa", "rsa-pss" or "ecdsa"
	hash crypto.Hash
}

// signatureMethods are the ways to sign by their names (XML Signature 1.1 section 6.4; RFC 6931 sections 2.3.2 to 2.3.10).
var signatureMethods = map[string]signatureMethod{
	"http://www.w3.org/2001/04/xmldsig-more#rsa-sha256":      {"rsa", crypto.SHA256},
	"http://www.w3.org/2001/04/xmldsig-more#rsa-sha384":      {"rsa", crypto.SHA384},
	"http://www.w3.org/2001/04/xmldsig-more#rsa-sha512":      {"rsa", crypto.SHA512},
	"http://www.w3.org/2007/05/xmldsig-more#sha256-rsa-MGF1": {"rsa-pss", crypto.SHA256},
	"http://www.w3.org/2007/05/xmldsig-more#sha384-rsa-MGF1": {"rsa-pss", crypto.SHA384},
	"http://www.w3.org/2007/05/xmldsig-more#sha512-rsa-MGF1": {"rsa-pss", crypto.SHA512},
	"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256":    {"ecdsa", crypto.SHA256},
	"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384":    {"ecdsa", crypto.SHA384},
	"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512":    {"ecdsa", crypto.SHA512},
}

// verified is a document whose signature is good and whose signer is trusted.
type verified struct {
	// tag is the root element without its signature: exactly what was hashed.
	tag        *node
	signer     *baseline.Signer
	reindented bool // white space between elements was added after signing
	// signature is the Signature element. Nothing of it but timestamps is signed content.
	signature  *node
	timestamps []*node // SignatureProperty elements that a reference covers
}

// verify checks the signature of the document:
//   - there is one Signature, and it is a child of the root;
//   - SignedInfo has one reference to the whole document, all others point into the Signature;
//   - each reference's digest is that of what it points to, by allowed transforms and hashes;
//   - the signature over SignedInfo is good, by an allowed method;
//   - its key is trusted: that of an embedded certificate that chains to trust.Roots at trust.Now, that of a
//     certificate in trust.Roots that is valid then, or one of trust.Keys.
//
// The caller reads nothing but verified.tag and verified.timestamps.
func verify(root *node, trust *baseline.ImportTrust) (*verified, error) {
	signature, err := findSignature(root)
	if err != nil {
		return nil, err
	}
	v, err := verifyIn(root, signature, trust)
	if err == nil {
		return v, nil
	}
	var broken *digestError
	if !errors.As(err, &broken) {
		return nil, err
	}
	// The digest is wrong. Once more without the white space between elements; if that does not help, the first error
	// is the one to report.
	stripped := root.without(nil, true)
	again, findErr := findSignature(stripped)
	if findErr != nil {
		return nil, broken.reported
	}
	v, stripErr := verifyIn(stripped, again, trust)
	if stripErr == nil {
		v.reindented = true
		return v, nil
	}
	if errors.As(stripErr, &broken) {
		return nil, broken.reported
	}
	return nil, stripErr
}

// digestError is a digest that does not match.
type digestError struct{ reported error }

func (e *digestError) Error() string { return e.reported.Error() }

// findSignature finds the one Signature of the document.
func findSignature(root *node) (*node, error) {
	var found []*node
	var based *node
	root.walk(func(n *node) bool {
		if n.is(spaceDsig, "Signature") {
			found = append(found, n)
		}
		if slices.ContainsFunc(n.attributes, func(a attribute) bool { return a.space == spaceXML && a.local == "base" }) {
			based = n
		}
		return true
	})
	switch {
	case len(found) == 0:
		return nil, untrusted(path(root), "the base RIM is not signed: it has no Signature")
	case len(found) > 1:
		return nil, untrusted(path(found[1]), "the document has %d signatures; exactly one is accepted", len(found))
	case found[0].parent != root:
		return nil, untrusted(path(found[0]), "the signature is not a child of the root element, so it signs something else")
	case based != nil:
		return nil, unsupported(path(based), "the attribute xml:base is not supported in a signed document")
	}
	return found[0], nil
}

func verifyIn(root, signature *node, trust *baseline.ImportTrust) (*verified, error) {
	parts, err := partsOf(signature)
	if err != nil {
		return nil, err
	}
	v := &verified{tag: root.without(signature, false), signature: signature}
	if err := v.references(root, parts.signedInfo); err != nil {
		return nil, err
	}
	if v.signer, err = parts.signer(trust); err != nil {
		return nil, err
	}
	return v, nil
}

// parts are the children of a Signature (XML Signature 1.1, section 4.2).
type parts struct {
	signedInfo *node
	value      *node
	keyInfo    *node // or nil
}

func partsOf(signature *node) (*parts, error) {
	var p parts
	for _, e := range signature.elements() {
		var at **node
		switch {
		case e.is(spaceDsig, "SignedInfo"):
			at = &p.signedInfo
		case e.is(spaceDsig, "SignatureValue"):
			at = &p.value
		case e.is(spaceDsig, "KeyInfo"):
			at = &p.keyInfo
		case e.is(spaceDsig, "Object"):
			continue
		default:
			return nil, malformed(path(e), "not an element of a Signature")
		}
		if *at != nil {
			return nil, malformed(path(e), "a Signature has one %s", e.local)
		}
		*at = e
	}
	if p.signedInfo == nil || p.value == nil {
		return nil, malformed(path(signature), "SignedInfo and SignatureValue are needed")
	}
	return &p, nil
}

// references checks each reference of SignedInfo and notes the time stamps that they cover.
func (v *verified) references(root, signedInfo *node) error {
	whole, count := 0, 0
	for _, e := range signedInfo.elements() {
		if e.is(spaceDsig, "CanonicalizationMethod") || e.is(spaceDsig, "SignatureMethod") {
			continue
		}
		if !e.is(spaceDsig, "Reference") {
			return malformed(path(e), "not an element of SignedInfo")
		}
		if count++; count > maxReferences {
			return tooLarge(path(e), "more than %d references", maxReferences)
		}
		if !slices.ContainsFunc(e.attributes, func(a attribute) bool { return a.space == "" && a.local == "URI" }) {
			return untrusted(path(e), "the reference has no URI")
		}
		if e.attribute("URI") == "" {
			whole++
			if err := v.wholeDocument(root, e); err != nil {
				return err
			}
			continue
		}
		if err := v.insideSignature(root, e); err != nil {
			return err
		}
	}
	if whole != 1 {
		return untrusted(path(signedInfo), `%d references have the URI "", which is the whole document; exactly one is needed`, whole)
	}
	return nil
}

// wholeDocument checks the reference to the document: the signature is taken out, what is left is hashed.
func (v *verified) wholeDocument(root, reference *node) error {
	transforms := transformsOf(reference)
	if len(transforms) == 0 || transforms[0].attribute("Algorithm") != algorithmEnveloped || len(transforms[0].elements()) > 0 {
		return untrusted(path(reference), "the first transform must be enveloped-signature, with which the signature does not cover itself")
	}
	method, err := canonicalizationIn(transforms[1:])
	if err != nil {
		return err
	}
	return compareDigest(reference, method.write(root.without(v.signature, false)), "the document was changed after it was signed")
}

// insideSignature checks a reference to a part of the Signature, as time stamps are signed (XML Signature 1.1, section 5.2).
func (v *verified) insideSignature(root, reference *node) error {
	uri := reference.attribute("URI")
	id, ok := strings.CutPrefix(uri, "#")
	if !ok || id == "" {
		return untrusted(path(reference), "the reference to %q: only the document itself and parts of its Signature may be signed", uri)
	}
	var targets []*node
	root.walk(func(n *node) bool {
		for _, name := range [...]string{"Id", "ID", "id"} {
			if n.attribute(name) == id {
				targets = append(targets, n)
				break
			}
		}
		return true
	})
	if len(targets) != 1 {
		return untrusted(path(reference), "%d elements have the Id %q; exactly one is needed", len(targets), id)
	}
	inside := false
	for at := targets[0].parent; at != nil; at = at.parent {
		inside = inside || at.is(spaceDsig, "Object") && at.parent == v.signature
	}
	if !inside {
		return untrusted(path(reference), "the reference to %s: only parts of an Object of the Signature may be signed besides the document", path(targets[0]))
	}
	method, err := canonicalizationIn(transformsOf(reference))
	if err != nil {
		return err
	}
	if err := compareDigest(reference, method.write(targets[0]), "what the reference points to was changed after it was signed"); err != nil {
		return err
	}
	v.timestamps = append(v.timestamps, targets[0])
	return nil
}

func transformsOf(reference *node) []*node {
	if list := reference.child(spaceDsig, "Transforms"); list != nil {
		return list.elements()
	}
	return nil
}

// canonicalizationIn reads the transforms that follow: none, which is Canonical XML 1.0 (XML Signature 1.1, section
// 4.4.3.2), or one that is allowed.
func canonicalizationIn(transforms []*node) (canonicalization, error) {
	if len(transforms) == 0 {
		return c14n10, nil
	}
	method, ok := canonicalizationOf(transforms[0])
	if !ok || len(transforms) > 1 || !transforms[0].is(spaceDsig, "Transform") {
		at := transforms[len(transforms)-1]
		return method, untrusted(path(at), "the transform %q is not allowed here", at.attribute("Algorithm"))
	}
	return method, nil
}

func compareDigest(reference *node, content []byte, reason string) error {
	method, value := reference.child(spaceDsig, "DigestMethod"), reference.child(spaceDsig, "DigestValue")
	if method == nil || value == nil {
		return malformed(path(reference), "a DigestMethod and a DigestValue are needed")
	}
	hash, ok := digestMethods[method.attribute("Algorithm")]
	if !ok {
		return untrusted(path(method), "the digest method %q is not allowed; SHA-256, SHA-384 and SHA-512 are", method.attribute("Algorithm"))
	}
	want, err := decodeBase64(value)
	if err != nil {
		return err
	}
	h := hash.New()
	h.Write(content)
	if !bytes.Equal(h.Sum(nil), want) {
		return &digestError{untrusted(path(reference), "the digest does not match: %s", reason)}
	}
	return nil
}

func decodeBase64(n *node) ([]byte, error) {
	if len(n.elements()) > 0 {
		return nil, malformed(path(n), "not base64")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(strings.Join(strings.Fields(n.content()), ""))
	if err != nil {
		return nil, malformed(path(n), "not base64")
	}
	return b, nil
}

// signer verifies the signature over SignedInfo and finds who made it.
func (p *parts) signer(trust *baseline.ImportTrust) (*baseline.Signer, error) {
	c14n, method := p.signedInfo.child(spaceDsig, "CanonicalizationMethod"), p.signedInfo.child(spaceDsig, "SignatureMethod")
	if c14n == nil || method == nil {
		return nil, malformed(path(p.signedInfo), "one CanonicalizationMethod and one SignatureMethod are needed")
	}
	canonical, ok := canonicalizationOf(c14n)
	if !ok {
		return nil, untrusted(path(c14n), "the canonicalization %q is not allowed", c14n.attribute("Algorithm"))
	}
	how, ok := signatureMethods[method.attribute("Algorithm")]
	if !ok || len(method.elements()) > 0 {
		return nil, untrusted(path(method), "the signature method %q is not allowed; RSA and ECDSA with SHA-256, SHA-384 or SHA-512 are", method.attribute("Algorithm"))
	}
	signature, err := decodeBase64(p.value)
	if err != nil {
		return nil, err
	}
	h := how.hash.New()
	h.Write(canonical.write(p.signedInfo))
	digest := h.Sum(nil)

	certificates, err := p.certificates()
	if err != nil {
		return nil, err
	}
	if len(certificates) > 0 {
		return p.embedded(certificates, trust, func(key crypto.PublicKey) bool { return how.verifies(key, digest, signature) })
	}
	for _, k := range trust.TrustedKeys() {
		if !how.verifies(k.Key, digest, signature) {
			continue
		}
		if k.Problem != nil {
			return nil, untrusted(path(p.value), "%s", k.Problem)
		}
		return &k.Signer, nil
	}
	return nil, untrusted(path(p.value), "no trusted key verifies the signature%s", p.named())
}

// embedded finds the signer among the certificates that came with the document.
func (p *parts) embedded(certificates []*x509.Certificate, trust *baseline.ImportTrust, verifies func(crypto.PublicKey) bool) (*baseline.Signer, error) {
	for i, cert := range certificates {
		if !verifies(cert.PublicKey) {
			continue
		}
		signer, err := trust.SignerOf(cert, slices.Delete(slices.Clone(certificates), i, i+1))
		if err != nil {
			return nil, untrusted(path(p.keyInfo), "%s", err)
		}
		return signer, nil
	}
	return nil, untrusted(path(p.value), "the signature is not that of the certificate that came with it")
}

// named says by what name the document calls its signer, for an error.
func (p *parts) named() string {
	if p.keyInfo == nil {
		return ""
	}
	if name := p.keyInfo.child(spaceDsig, "KeyName"); name != nil {
		return "; the document calls it " + shown(strings.TrimSpace(name.content()))
	}
	return ""
}

// shown is text of a document, short enough for an error or a note.
func shown(text string) string { return baseline.Shown(text, 120) }

// certificates are those in KeyInfo, in their order.
func (p *parts) certificates() ([]*x509.Certificate, error) {
	if p.keyInfo == nil {
		return nil, nil
	}
	var out []*x509.Certificate
	for _, data := range p.keyInfo.elements() {
		if !data.is(spaceDsig, "X509Data") {
			continue
		}
		for _, e := range data.elements() {
			if !e.is(spaceDsig, "X509Certificate") {
				continue
			}
			if len(out) == maxCertificates {
				return nil, tooLarge(path(e), "more than %d certificates", maxCertificates)
			}
			der, err := decodeBase64(e)
			if err != nil {
				return nil, err
			}
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return nil, malformed(path(e), "%s", err)
			}
			out = append(out, cert)
		}
	}
	return out, nil
}

// verifies checks a signature by one key. Keys of another kind do not verify it.
func (m signatureMethod) verifies(key crypto.PublicKey, digest, signature []byte) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		switch m.kind {
		case "rsa":
			return rsa.VerifyPKCS1v15(key, m.hash, digest, signature) == nil
		case "rsa-pss":
			return rsa.VerifyPSS(key, m.hash, digest, signature, &rsa.PSSOptions{SaltLength: m.hash.Size(), Hash: m.hash}) == nil
		}
	case *ecdsa.PublicKey:
		// r and s, each as long as the order of the curve (RFC 6931, section 2.3.6).
		size := (key.Curve.Params().N.BitLen() + 7) / 8
		if m.kind == "ecdsa" && len(signature) == 2*size {
			r, s := new(big.Int).SetBytes(signature[:size]), new(big.Int).SetBytes(signature[size:])
			return ecdsa.Verify(key, digest, r, s)
		}
	}
	return false
}

// digestText is a digest as lower-case hex.
func digestText(b []byte) string { return hex.EncodeToString(b) }
