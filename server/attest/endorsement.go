package attest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// endorsement is an EK that may be used, and how it was shown.
type endorsement struct {
	public      *tpm.Public
	identity    []byte // DER SubjectPublicKeyInfo: the same EK however it was sent
	certificate []byte // DER; nil where only the public area is known
	pointer     string // where the request gave it
	anchor      string // SHA-256 of the anchor that its chain ended in, hex; empty without certificate
	notAfter    *time.Time
	proof       keyProof
}

// checkEK finds the EK of a request; nil where it has none. What is given has to hold, even where an AK
// certificate would prove the AK alone: an EK that is stored with the machine identifies it later.
func (s *Service) checkEK(ctx context.Context, tenant uuid.UUID, req EnrolRequest, token store.JoinToken, now time.Time) (*endorsement, error) {
	if len(req.EKCertificate) == 0 && len(req.EKPublic) == 0 {
		return nil, nil
	}
	var public *tpm.Public
	if len(req.EKPublic) > 0 {
		var err error
		if public, err = tpm.ParsePublic(req.EKPublic); err != nil {
			return nil, fieldErrorf("/ek_public", "%s", err)
		}
		if err := tpm.CheckEK(public); err != nil {
			return nil, &Error{Code: CodeEKUntrusted, Pointer: "/ek_public", Detail: err.Error()}
		}
	}
	if len(req.EKCertificate) == 0 {
		return s.uncertifiedEK(ctx, tenant, req, token, public)
	}
	cert, err := tpm.ParseEKCertificate(req.EKCertificate)
	if err != nil {
		return nil, fieldErrorf("/ek_certificate", "%s", err)
	}
	if public == nil {
		if public, err = tpm.PublicFromCertificate(cert); err != nil {
			return nil, &Error{Code: CodeEKUntrusted, Pointer: "/ek_certificate", Detail: err.Error()}
		}
	} else if err := tpm.MatchEK(cert, public); err != nil {
		return nil, &Error{Code: CodeEKUntrusted, Pointer: "/ek_public", Detail: err.Error()}
	}
	roots, intermediates, err := s.anchors(ctx, tenant, "ek", "/ek_certificate_chain", req.EKCertificateChain)
	if err != nil {
		return nil, err
	}
	chain, err := tpm.VerifyEKChain(cert, intermediates, roots, now)
	if err != nil {
		return nil, &Error{Code: CodeEKUntrusted, Pointer: "/ek_certificate",
			Detail: "the EK certificate does not chain to a trust anchor of purpose \"ek\": " + err.Error()}
	}
	identity, err := x509.MarshalPKIXPublicKey(public.Key())
	if err != nil {
		return nil, fieldErrorf("/ek_certificate", "%s", err)
	}
	proof := proofOf("credential_activation", cert, chain)
	proof.EKCertified = true
	return &endorsement{public: public, identity: identity, certificate: cert.Raw, pointer: "/ek_certificate",
		anchor: proof.RootSHA256, notAfter: proof.NotAfter, proof: proof}, nil
}

// uncertifiedEK admits an EK of which nobody says who made it, where the policy does. The policy is
// chosen by what the join token says of the machine, and not by what the machine says of itself: it must
// not pick a weaker policy by claiming a label.
func (s *Service) uncertifiedEK(ctx context.Context, tenant uuid.UUID, req EnrolRequest, token store.JoinToken, public *tpm.Public) (*endorsement, error) {
	policy, _, err := s.store.PolicyFor(ctx, tenant, store.Machine{ScaleSet: token.ScaleSet, Labels: token.Labels})
	if err != nil {
		return nil, fromStore("enrol", err)
	}
	if policy.RequireEKCertificate {
		// With an AK certificate the AK may still be proved; the EK then only names the machine.
		if len(req.AKCertificate) == 0 {
			return nil, &Error{Code: CodeEKUntrusted, Pointer: "/ek_certificate", Detail: "the policy requires an EK certificate"}
		}
		return nil, nil
	}
	identity, err := x509.MarshalPKIXPublicKey(public.Key())
	if err != nil {
		return nil, fieldErrorf("/ek_public", "%s", err)
	}
	return &endorsement{public: public, identity: identity, pointer: "/ek_public", proof: keyProof{Method: "credential_activation"}}, nil
}

// proveAKByCertificate checks a given AK certificate. proof is nil where there is none or it does not
// chain to an anchor; refused then says why. A certificate of another key is an error.
func (s *Service) proveAKByCertificate(ctx context.Context, tenant uuid.UUID, req EnrolRequest, ak *tpm.Public, now time.Time) (proof *keyProof, refused string, err error) {
	if len(req.AKCertificate) == 0 {
		return nil, "", nil
	}
	cert, err := tpm.ParseEKCertificate(req.AKCertificate)
	if err != nil {
		return nil, "", fieldErrorf("/ak_certificate", "%s", err)
	}
	if err := tpm.MatchAK(cert, ak); err != nil {
		return nil, "", fieldErrorf("/ak_certificate", "%s", err)
	}
	roots, intermediates, err := s.anchors(ctx, tenant, "ak", "/ak_certificate_chain", req.AKCertificateChain)
	if err != nil {
		return nil, "", err
	}
	chain, err := tpm.VerifyAKChain(cert, intermediates, roots, now)
	if err != nil {
		return nil, "the AK certificate does not chain to a trust anchor of purpose \"ak\": " + err.Error(), nil //nolint:nilerr // a refusal, not a failure
	}
	p := proofOf("ak_certificate", cert, chain)
	if p.Instance, err = tpm.InstanceOf(cert); err != nil {
		return nil, "", fieldErrorf("/ak_certificate", "%s", err)
	}
	return &p, "", nil
}

// anchors are the tenant's anchors of a purpose, and as intermediates the chain that came with the
// request. An anchor is trusted as it stands, whether or not it is self-signed.
func (s *Service) anchors(ctx context.Context, tenant uuid.UUID, purpose, pointer string, chain [][]byte) (roots, intermediates []*x509.Certificate, err error) {
	trust, err := s.store.TenantTrust(ctx, tenant)
	if err != nil {
		return nil, nil, fmt.Errorf("read trust anchors: %w", err)
	}
	roots = trust.AK
	if purpose == "ek" {
		roots = trust.EK
	}
	for i, der := range chain {
		cert, err := tpm.ParseEKCertificate(der)
		if err != nil {
			return nil, nil, fieldErrorf(fmt.Sprintf("%s/%d", pointer, i), "%s", err)
		}
		intermediates = append(intermediates, cert)
	}
	return roots, intermediates, nil
}

func proofOf(method string, cert *x509.Certificate, chain []*x509.Certificate) keyProof {
	sum := sha256.Sum256(cert.Raw)
	end := cert.NotAfter.UTC()
	p := keyProof{
		NotAfter: &end,
		Method:   method, Subject: cert.Subject.String(), Issuer: cert.Issuer.String(), Fingerprint: hex.EncodeToString(sum[:]),
	}
	if len(chain) > 0 {
		root := chain[len(chain)-1]
		sum := sha256.Sum256(root.Raw)
		p.Root, p.RootSHA256 = root.Subject.String(), hex.EncodeToString(sum[:])
	}
	return p
}
