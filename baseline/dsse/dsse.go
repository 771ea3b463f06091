// Package dsse opens DSSE envelopes (secure-systems-lab/dsse, protocol.md v1.0.2; envelope.md for the JSON) whose
// signature a tenant trusts. The payload is returned only once a signature over it and its type has been verified.
package dsse

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/jsondoc"
	"github.com/assay-verifier/assay/baseline/signed"
)

// Bounds of an envelope.
const (
	maxSignatures   = 16
	maxCertificates = 8
)

// Verified is the content of an envelope that one trusted key at least has signed.
type Verified struct {
	Payload     []byte
	PayloadType string
	Signer      baseline.Signer
}

type signature struct {
	sig   []byte
	chain []*x509.Certificate // leaf first; empty where the signature names no certificate
}

// IsEnvelope tells whether a JSON document looks like an envelope, whatever is in it.
func IsEnvelope(b []byte) bool {
	return jsondoc.FirstOf(b, func(name string) bool { return name == "payload" || name == "payloadType" || name == "signatures" }) != ""
}

// Open verifies an envelope: a threshold of one, by a bare key of trust or by a certificate ("cert" as PEM,
// "certificate" and "intermediates" as base64 of PEM) that leads to one of its roots. A key id is a hint that decides
// nothing. The error is a *baseline.ImportError.
func Open(b []byte, trust *baseline.ImportTrust) (*Verified, error) {
	out, signatures, err := parse(b)
	if err != nil {
		return nil, err
	}
	message := preAuthenticationEncoding(out.PayloadType, out.Payload)
	keys := signed.Candidates(trust)
	reasons := make([]string, len(signatures))
	for i, s := range signatures {
		candidates := keys
		reasons[i] = "it is not one of a key that is trusted for reference values"
		if len(s.chain) > 0 {
			signer, err := trust.SignerOf(s.chain[0], s.chain[1:])
			if err != nil {
				reasons[i] = err.Error()
				continue
			}
			candidates = []baseline.TrustedKey{{Key: s.chain[0].PublicKey, Signer: *signer}}
		}
		for _, c := range candidates {
			err := signed.Verify(c.Key, message, s.sig)
			if err == nil {
				out.Signer = c.Signer
				return out, nil
			}
			if len(candidates) == 1 {
				reasons[i] = err.Error()
			}
		}
	}
	if len(reasons) == 1 {
		return nil, baseline.ImportErrorf(baseline.ImportUntrusted, "/signatures/0", "%s", reasons[0])
	}
	return nil, baseline.ImportErrorf(baseline.ImportUntrusted, "/signatures", "none of %d signatures is trusted; of the first: %s", len(reasons), reasons[0])
}

// preAuthenticationEncoding is PAE of protocol.md: what is signed covers the type of the payload too.
func preAuthenticationEncoding(payloadType string, payload []byte) []byte {
	out := make([]byte, 0, len(payload)+len(payloadType)+64)
	out = append(out, "DSSEv1 "+strconv.Itoa(len(payloadType))+" "+payloadType+" "+strconv.Itoa(len(payload))+" "...)
	return append(out, payload...)
}

func parse(b []byte) (*Verified, []signature, error) {
	out := &Verified{}
	var signatures []signature
	given := map[string]bool{}
	r := jsondoc.New(b, "")
	r.Object(func(name string) {
		given[name] = true
		switch name {
		case "payload":
			out.Payload = decode(r)
		case "payloadType":
			out.PayloadType = r.Text()
		case "signatures":
			r.Array(func() {
				if len(signatures) == maxSignatures {
					r.Fail(baseline.ImportTooLarge, "more than %d signatures", maxSignatures)
					return
				}
				signatures = append(signatures, readSignature(r))
			})
		default:
			r.Unknown()
		}
	})
	r.End()
	for _, name := range []string{"payload", "payloadType", "signatures"} {
		if !given[name] {
			r.FailAt(baseline.ImportMalformed, "/"+name, "an envelope needs it")
		}
	}
	if r.Err() == nil && len(signatures) == 0 {
		r.FailAt(baseline.ImportUntrusted, "/signatures", "the envelope has no signature")
	}
	return out, signatures, r.Err()
}

func readSignature(r *jsondoc.Reader) signature {
	var s signature
	r.Object(func(name string) {
		switch name {
		case "keyid":
			if !r.Null() {
				_ = r.Text()
			}
		case "sig":
			s.sig = decode(r)
		case "cert":
			s.chain = append(s.chain, certificates(r, []byte(r.Text()))...)
		case "certificate":
			s.chain = append(s.chain, certificates(r, decode(r))...)
		case "intermediates":
			r.Array(func() { s.chain = append(s.chain, certificates(r, decode(r))...) })
		default:
			r.Unknown()
		}
		if len(s.chain) > maxCertificates {
			r.Fail(baseline.ImportTooLarge, "more than %d certificates", maxCertificates)
		}
	})
	if len(s.sig) == 0 {
		r.Fail(baseline.ImportMalformed, "the signature has no sig")
	}
	return s
}

// decode reads base64, of either alphabet (envelope.md).
func decode(r *jsondoc.Reader) []byte {
	text := r.Text()
	encoding := base64.StdEncoding
	if strings.ContainsAny(text, "-_") {
		encoding = base64.URLEncoding
	}
	b, err := encoding.Strict().DecodeString(text)
	if err != nil {
		r.Fail(baseline.ImportMalformed, "it is not base64 with padding")
	}
	return b
}

func certificates(r *jsondoc.Reader, text []byte) []*x509.Certificate {
	if r.Err() != nil {
		return nil
	}
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" || len(out) == maxCertificates {
			r.Fail(baseline.ImportMalformed, "up to %d PEM blocks of type CERTIFICATE are needed", maxCertificates)
			return nil
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			r.Fail(baseline.ImportMalformed, "%s", fmt.Sprintf("certificate %d cannot be read: %s", len(out)+1, strings.TrimPrefix(err.Error(), "x509: ")))
			return nil
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		r.Fail(baseline.ImportMalformed, "there is no PEM block of type CERTIFICATE")
	}
	return out
}
