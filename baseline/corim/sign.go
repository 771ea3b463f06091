package corim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/veraison/go-cose"

	"github.com/assay-verifier/assay/baseline"
)

const (
	maxHeader       = 64 << 10 // bytes of the protected or the unprotected header
	maxCertificates = 16
)

// contentTypes are those of the payload (section 11.12; the second one is of drafts before 04).
var contentTypes = map[string]bool{"application/rim+cbor": true, "application/corim-unsigned+cbor": true}

// algorithms are those that a signature may use (RFC 9053, section 2).
var algorithms = map[cose.Algorithm]bool{cose.AlgorithmES256: true, cose.AlgorithmES384: true, cose.AlgorithmES512: true,
	cose.AlgorithmPS256: true, cose.AlgorithmPS384: true, cose.AlgorithmPS512: true, cose.AlgorithmEdDSA: true}

// understood are the header labels that a document may call critical.
var understood = map[int64]bool{1: true, 2: true, 3: true, 4: true, 8: true, 15: true, 33: true}

// signed verifies a COSE_Sign1 (section 4.2) and returns the CoRIM that it signs. It checks that
//   - the protected header names an allowed algorithm, the content type of a CoRIM, and who signs (corim-meta or CWT claims);
//   - it calls nothing critical that is not understood;
//   - the document is valid at trust.Now;
//   - the signature is that of a trusted key: of the certificate in x5chain, which must chain to trust.Roots at
//     trust.Now, or of a certificate in trust.Roots that is valid then, or of one of trust.Keys. The key id is a hint.
func (r *reading) signed(v *value, trust *baseline.ImportTrust) (*value, error) {
	parts, err := v.content().elements()
	if err != nil {
		return nil, err
	}
	if len(parts) != 4 {
		return nil, v.malformed("a COSE_Sign1 has four elements; this has %d", len(parts))
	}
	for i, name := range [...]string{"protected", "unprotected", "payload", "signature"} {
		parts[i].step = name
		if i < 2 && len(parts[i].raw) > maxHeader {
			return nil, parts[i].tooLarge("%d bytes; at most %d are read", len(parts[i].raw), maxHeader)
		}
	}
	if parts[2].major != majorBytes || len(parts[2].body) == 0 {
		return nil, parts[2].unsupported("the payload is not in the document")
	}
	protected, err := parts[0].embedded()
	if err != nil {
		return nil, err
	}
	header, err := protected.fields(headerNames)
	if err != nil {
		return nil, err
	}
	unprotected, err := parts[1].fields(headerNames)
	if err != nil {
		return nil, err
	}
	if err := r.header(protected, header); err != nil {
		return nil, err
	}
	var message cose.Sign1Message
	if err := message.UnmarshalCBOR(v.raw); err != nil {
		return nil, v.malformed("not a COSE_Sign1: %s", err)
	}
	algorithm, err := message.Headers.Protected.Algorithm()
	if err != nil || !algorithms[algorithm] {
		return nil, protected.untrusted("the algorithm of the signature is not allowed; ES256, ES384, ES512, PS256, PS384, PS512 and EdDSA are")
	}
	chain := header.get(33)
	if chain == nil {
		chain = unprotected.get(33)
	}
	verifies := func(key crypto.PublicKey) bool {
		verifier, err := cose.NewVerifier(algorithm, key)
		return err == nil && message.Verify(nil, verifier) == nil
	}
	if r.out.Signer, err = signerOf(&parts[3], chain, trust, verifies); err != nil {
		return nil, err
	}
	return open(parts[2].body, v.parent, v.step)
}

// header reads what the protected header says besides the algorithm.
func (r *reading) header(protected *value, h *fields) error {
	if h.get(258) != nil {
		return h.get(258).unsupported("only the hash of the document is signed, and the document is not here")
	}
	if h.get(3) == nil {
		return protected.malformed("the content type (3) is missing")
	}
	contentType, err := h.get(3).text()
	if err != nil {
		return err
	}
	if !contentTypes[contentType] {
		return h.get(3).unsupported("%q is not the content type of a CoRIM", shown(contentType))
	}
	if critical := h.get(2); critical != nil {
		list, err := critical.oneOrMore()
		if err != nil {
			return err
		}
		for i := range list {
			if label, err := list[i].integer(); err != nil || !understood[label] {
				return list[i].unsupported("the critical header is not understood")
			}
		}
	}
	if h.get(8) == nil && h.get(15) == nil {
		return protected.malformed("corim-meta (8) or CWT claims (15) must say who signs")
	}
	metaFrom, metaUntil, err := r.meta(h.get(8))
	if err != nil {
		return err
	}
	cwtFrom, cwtUntil, err := r.cwt(h.get(15))
	if err != nil {
		return err
	}
	if h.get(8) != nil && h.get(15) != nil && (!metaFrom.Equal(cwtFrom) || !metaUntil.Equal(cwtUntil)) {
		return h.get(15).malformed("CWT claims and corim-meta give the signature different times")
	}
	return nil
}

// meta reads a corim-meta-map (section 4.2.3), which is in a byte string.
func (r *reading) meta(v *value) (from, until time.Time, err error) {
	if v == nil {
		return
	}
	meta, err := v.embedded()
	if err != nil {
		return
	}
	f, err := meta.fields(metaNames)
	if err != nil {
		return
	}
	if f.get(0) == nil {
		return from, until, meta.malformed("the signer (0) is missing")
	}
	signer, err := f.get(0).fields(signerNames)
	if err != nil {
		return
	}
	if err = r.factOf("signer", signer.get(0)); err != nil {
		return
	}
	if err = r.factOf("signer_uri", signer.get(1)); err != nil {
		return
	}
	r.noteRest(f.rest)
	r.noteRest(signer.rest)
	if err = r.validity(f.get(1), "signature_valid"); err != nil {
		return
	}
	return validityOf(f.get(1))
}

// cwt reads CWT claims (section 4.2.2; RFC 8392, section 3.1).
func (r *reading) cwt(v *value) (from, until time.Time, err error) {
	if v == nil {
		return
	}
	f, err := v.fields(cwtNames)
	if err != nil {
		return
	}
	if f.get(1) == nil {
		return from, until, v.malformed("the issuer (1) is missing")
	}
	if err = r.factOf("signer", f.get(1)); err != nil {
		return
	}
	if err = r.factOf("subject", f.get(2)); err != nil {
		return
	}
	r.noteRest(f.rest)
	for _, at := range []struct {
		v    *value
		to   *time.Time
		fact string
	}{{f.get(5), &from, "signature_valid_from"}, {f.get(4), &until, "signature_valid_until"}} {
		if at.v == nil {
			continue
		}
		if *at.to, err = timeOf(at.v); err != nil {
			return
		}
		r.fact(at.fact, at.to.Format(time.RFC3339))
	}
	if !from.IsZero() || !until.IsZero() {
		err = r.within(v, from, until)
	}
	return from, until, err
}

// signerOf finds who signed.
func signerOf(signature, chain *value, trust *baseline.ImportTrust, verifies func(crypto.PublicKey) bool) (*baseline.Signer, error) {
	if chain != nil {
		certificates, err := certificatesOf(chain)
		if err != nil {
			return nil, err
		}
		if !verifies(certificates[0].PublicKey) {
			return nil, signature.untrusted("the signature is not that of the certificate that came with it")
		}
		signer, err := trust.SignerOf(certificates[0], certificates[1:])
		if err != nil {
			return nil, chain.untrusted("%s", err)
		}
		return signer, nil
	}
	for _, k := range trust.TrustedKeys() {
		if !verifies(k.Key) {
			continue
		}
		if k.Problem != nil {
			return nil, signature.untrusted("%s", k.Problem)
		}
		return &k.Signer, nil
	}
	return nil, signature.untrusted("no trusted key verifies the signature")
}

// certificatesOf reads x5chain (RFC 9360, section 2): one certificate, or several, the signer's first.
func certificatesOf(v *value) ([]*x509.Certificate, error) {
	list := []value{*v}
	if v.major == majorArray {
		var err error
		if list, err = v.oneOrMore(); err != nil {
			return nil, err
		}
	}
	if len(list) > maxCertificates {
		return nil, v.tooLarge("more than %d certificates", maxCertificates)
	}
	out := make([]*x509.Certificate, len(list))
	for i := range list {
		der, err := list[i].bytes()
		if err != nil {
			return nil, err
		}
		if out[i], err = x509.ParseCertificate(der); err != nil {
			return nil, list[i].malformed("%s", err)
		}
	}
	return out, nil
}

// SignerMeta is what a signature says of itself.
type SignerMeta struct {
	Name string // who signs; needed
	URI  string // of the same; may be empty
	// NotBefore and NotAfter bound the time in which the signature is to be accepted. A NotBefore needs a NotAfter.
	NotBefore, NotAfter time.Time
	// Certificates are the signer's and those that it chains to, so that a reader who trusts a root finds it.
	Certificates []*x509.Certificate
	// Rand is the randomness of the signature. Nil makes ECDSA deterministic (RFC 6979); RSA needs it.
	Rand io.Reader
}

// Sign makes a signed CoRIM (COSE_Sign1, tag 18) of an unsigned one. The algorithm follows from the key: ES256, ES384
// or ES512 by the curve, PS256 for RSA, EdDSA for Ed25519. keyID may be empty.
func Sign(corim []byte, signer crypto.Signer, keyID []byte, meta SignerMeta) ([]byte, error) {
	document, err := open(corim, nil, "")
	if err != nil {
		return nil, err
	}
	if _, ok := document.tagged(tagUnsigned); !ok {
		return nil, document.unsupported("an unsigned CoRIM (tag 501) is needed; this is %s", document.kind())
	}
	algorithm, hash, err := algorithmOf(signer.Public())
	if err != nil {
		return nil, err
	}
	if meta.Name == "" {
		return nil, errors.New("the name of the signer is needed")
	}
	signerMap := map[int]any{0: meta.Name}
	if meta.URI != "" {
		signerMap[1] = uri(meta.URI)
	}
	metaMap := map[int]any{0: signerMap}
	if validity, err := exportValidity(meta.NotBefore, meta.NotAfter); err != nil {
		return nil, err
	} else if validity != nil {
		metaMap[1] = validity
	}
	encoded, err := encoding.Marshal(metaMap)
	if err != nil {
		return nil, err
	}
	protected := cose.ProtectedHeader{cose.HeaderLabelAlgorithm: algorithm, cose.HeaderLabelContentType: "application/rim+cbor", int64(8): encoded}
	if len(keyID) > 0 {
		protected[cose.HeaderLabelKeyID] = keyID
	}
	switch chain := meta.Certificates; len(chain) {
	case 0:
	case 1:
		protected[cose.HeaderLabelX5Chain] = chain[0].Raw
	default:
		var list []any
		for _, c := range chain {
			list = append(list, c.Raw)
		}
		protected[cose.HeaderLabelX5Chain] = list
	}
	coseSigner, err := cose.NewSigner(algorithm, hashing{signer, hash})
	if err != nil {
		return nil, err
	}
	message := cose.Sign1Message{Headers: cose.Headers{Protected: protected, Unprotected: cose.UnprotectedHeader{}}, Payload: corim}
	if err := message.Sign(meta.Rand, nil, coseSigner); err != nil {
		return nil, fmt.Errorf("signing the CoRIM: %w", err)
	}
	return message.MarshalCBOR()
}

// hashing is a key that is told which hash it signs, where the library does not tell it: without, ECDSA cannot be
// deterministic, and keys in hardware may refuse.
type hashing struct {
	crypto.Signer
	hash crypto.Hash
}

// Sign implements crypto.Signer.
func (h hashing) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil {
		opts = h.hash
	}
	return h.Signer.Sign(rand, digest, opts)
}

func algorithmOf(key crypto.PublicKey) (cose.Algorithm, crypto.Hash, error) {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		switch key.Curve.Params().BitSize {
		case 256:
			return cose.AlgorithmES256, crypto.SHA256, nil
		case 384:
			return cose.AlgorithmES384, crypto.SHA384, nil
		case 521:
			return cose.AlgorithmES512, crypto.SHA512, nil
		}
	case *rsa.PublicKey:
		return cose.AlgorithmPS256, crypto.SHA256, nil
	case ed25519.PublicKey:
		return cose.AlgorithmEdDSA, 0, nil
	}
	return 0, 0, fmt.Errorf("no algorithm of COSE signs with a %T", key)
}
