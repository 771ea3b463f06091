package attest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// The states of an enrolment that an answer can show.
const (
	StatusActive             = "active"
	StatusActivationRequired = "activation_required"
)

// activationLifetime is how long the secret of a credential may be answered.
const activationLifetime = 5 * time.Minute

// secretSize is the length of the secret in a credential: the size of a SHA-256 digest, the most that
// every EK's name algorithm can carry (TPM 2.0 Part 1, section 24.4).
const secretSize = 32

// EnrolResult answers an enrolment. CredentialBlob (TPM2B_ID_OBJECT) and EncryptedSecret
// (TPM2B_ENCRYPTED_SECRET) are set with StatusActivationRequired; Assurance, Challenge and
// MachineToken with StatusActive.
type EnrolResult struct {
	EnrollmentID    uuid.UUID
	MachineID       uuid.UUID
	Status          string
	CredentialBlob  []byte
	EncryptedSecret []byte
	Assurance       verifier.Assurance
	Challenge       *Challenge
	MachineToken    string
}

// ActivateResult answers an activation that succeeded.
type ActivateResult struct {
	MachineID    uuid.UUID
	Status       string // StatusActive
	Assurance    verifier.Assurance
	Challenge    *Challenge
	MachineToken string
}

// keyProof is kept with the attestation key, for people: what proved it.
type keyProof struct {
	Method        string `json:"method"` // ak_certificate, credential_activation, vouched
	Subject       string `json:"subject,omitempty"`
	Issuer        string `json:"issuer,omitempty"`
	Fingerprint   string `json:"fingerprint,omitempty"` // SHA-256 of the certificate, hex
	Root          string `json:"root,omitempty"`
	EKCertified   bool   `json:"ek_certified"`
	Comment       string `json:"comment,omitempty"`
	VouchedBy     string `json:"vouched_by,omitempty"`
	AKCertificate string `json:"ak_certificate,omitempty"` // why a given AK certificate was not enough
}

// Enrol admits a machine by what proves its keys (see the package documentation). joinTokenHash is the
// SHA-256 of the join token; one use of it is taken in the transaction that stores the enrolment, so a
// request that is refused costs none. The checks, in order:
//
//   - the AK keeps the rules of tpm.CheckAK, and the join token is good
//   - an AK certificate, where given, is of this AK and chains to an anchor of purpose "ak": active at once
//   - else there is an EK: its certificate chains to an anchor of purpose "ek" now, and an EK public, where
//     given too, is the certificate's; without certificate, only if the policy does not require one
//   - the machine does not exist with another EK or AK (store, in the same transaction)
//
// The error is an *Error, or a failure of ours.
func (s *Service) Enrol(ctx context.Context, tenant uuid.UUID, req EnrolRequest, joinTokenHash []byte, actor store.Actor) (*EnrolResult, error) {
	now := s.now()
	if req.PlatformEvidence != "" {
		return nil, &Error{Code: CodePlatformUnsupported, Pointer: "/platform_evidence",
			Detail: "this version does not enrol by a hardware report; enrol by AK certificate or credential activation"}
	}
	ak, err := parseAK(req.AKPublic)
	if err != nil {
		return nil, err
	}
	in := store.EnrollmentInput{
		JoinTokenHash: joinTokenHash,
		Machine:       req.Machine,
		AKPublic:      ak.Raw(),
		AKName:        ak.Name(),
	}
	token, err := s.joinToken(ctx, tenant, joinTokenHash, now)
	if err != nil {
		return nil, err
	}
	ek, err := s.checkEK(ctx, tenant, req, token, now)
	if err != nil {
		return nil, err
	}
	if ek != nil {
		in.EKPublic, in.EKCertificate = ek.identity, ek.certificate
	}
	proof, refused, err := s.proveAKByCertificate(ctx, tenant, req, ak, now)
	if err != nil {
		return nil, err
	}
	if proof != nil {
		in.Proved, in.Assurance = true, verifier.AKCertified
		proof.EKCertified = ek != nil && ek.certificate != nil
		return s.enrolProved(ctx, tenant, in, *proof, now, actor)
	}
	if ek == nil {
		if refused != "" {
			return nil, &Error{Code: CodeAKRefused, Pointer: "/ak_certificate", Detail: refused}
		}
		return nil, &Error{Code: CodeEKUntrusted, Pointer: "/ek_certificate",
			Detail: "nothing proves the attestation key: an EK certificate, or an AK certificate that chains to a trusted root, is needed"}
	}
	ek.proof.AKCertificate = refused
	return s.enrolByActivation(ctx, tenant, in, ek, ak, now, actor)
}

// joinToken looks the token up early, so that nobody without one makes the service verify chains.
// Whether a use of it is left is decided where the use is taken.
func (s *Service) joinToken(ctx context.Context, tenant uuid.UUID, hash []byte, now time.Time) (store.JoinToken, error) {
	owner, token, err := s.store.LookupJoinToken(ctx, hash, now)
	switch {
	case errors.Is(err, store.ErrTokenInvalid), err == nil && owner != tenant:
		return token, errorf(CodeForbidden, joinTokenRefused)
	case err != nil:
		return token, fmt.Errorf("look up join token: %w", err)
	}
	return token, nil
}

const joinTokenRefused = "the join token is unknown, expired or used up"

func parseAK(raw []byte) (*tpm.Public, error) {
	ak, err := tpm.ParsePublic(raw)
	if err != nil {
		return nil, fieldErrorf("/ak_public", "%s", err)
	}
	if err := tpm.CheckAK(ak); err != nil {
		return nil, &Error{Code: CodeAKRefused, Pointer: "/ak_public", Detail: err.Error()}
	}
	return ak, nil
}

// enrolProved stores an enrolment whose AK is proved already.
func (s *Service) enrolProved(ctx context.Context, tenant uuid.UUID, in store.EnrollmentInput, proof keyProof, now time.Time, actor store.Actor) (*EnrolResult, error) {
	e, err := s.storeEnrolment(ctx, tenant, in, proof, now, actor)
	if err != nil {
		return nil, err
	}
	challenge, err := s.Challenge(ctx, tenant, e.MachineID, actor)
	if err != nil {
		return nil, err
	}
	return &EnrolResult{
		EnrollmentID: e.ID, MachineID: e.MachineID, Status: StatusActive, Assurance: e.Assurance, Challenge: challenge,
		MachineToken: s.token.MachineToken(tenant, e.MachineID, e.KeyID, now),
	}, nil
}

// enrolByActivation makes the credential that only the TPM with this EK and this AK can open. The
// secret leaves this function inside the credential only; the store learns its hash.
func (s *Service) enrolByActivation(ctx context.Context, tenant uuid.UUID, in store.EnrollmentInput, ek *endorsement, ak *tpm.Public, now time.Time, actor store.Actor) (*EnrolResult, error) {
	secret := make([]byte, secretSize)
	if _, err := io.ReadFull(s.random, secret); err != nil {
		return nil, fmt.Errorf("make credential: %w", err)
	}
	blob, encrypted, err := tpm.MakeCredential(ek.public, ak.Name(), secret, s.random)
	if err != nil {
		return nil, &Error{Code: CodeEKUntrusted, Pointer: ek.pointer, Detail: "no credential can be made for this EK: " + err.Error()}
	}
	hash := sha256.Sum256(secret)
	in.SecretHash, in.ExpiresAt = hash[:], now.Add(activationLifetime)
	in.Assurance = verifier.FirstUse
	if ek.certificate != nil {
		in.Assurance = verifier.EKActivated
	}
	e, err := s.storeEnrolment(ctx, tenant, in, ek.proof, now, actor)
	if err != nil {
		return nil, err
	}
	return &EnrolResult{
		EnrollmentID: e.ID, MachineID: e.MachineID, Status: StatusActivationRequired,
		CredentialBlob: blob, EncryptedSecret: encrypted,
	}, nil
}

func (s *Service) storeEnrolment(ctx context.Context, tenant uuid.UUID, in store.EnrollmentInput, proof keyProof, now time.Time, actor store.Actor) (store.Enrollment, error) {
	evidence, err := json.Marshal(proof)
	if err != nil {
		return store.Enrollment{}, fmt.Errorf("enrol: %w", err)
	}
	in.Evidence = evidence
	e, err := s.store.CreateEnrollment(ctx, tenant, in, now, actor)
	if errors.Is(err, store.ErrTokenInvalid) {
		return e, errorf(CodeForbidden, joinTokenRefused)
	}
	return e, fromStore("enrol", err)
}

// Activate takes the one answer to a credential: secret is what the TPM decrypted. The right one makes
// the attestation key active; a wrong or late one uses up the enrolment all the same.
func (s *Service) Activate(ctx context.Context, tenant, enrollmentID uuid.UUID, secret []byte, actor store.Actor) (*ActivateResult, error) {
	now := s.now()
	hash := sha256.Sum256(secret)
	e, err := s.store.ActivateEnrollment(ctx, tenant, enrollmentID, hash[:], now, actor)
	switch {
	case errors.Is(err, store.ErrAttemptUsed):
		return nil, errorf(CodeActivationUsed, "this enrolment's one activation has been used; enrol again")
	case errors.Is(err, store.ErrTokenInvalid):
		return nil, errorf(CodeActivationFailed, "the secret is wrong, or came too late; enrol again")
	case err != nil:
		return nil, fromStore("activate", err)
	}
	challenge, err := s.Challenge(ctx, tenant, e.MachineID, actor)
	if err != nil {
		return nil, err
	}
	return &ActivateResult{
		MachineID: e.MachineID, Status: StatusActive, Assurance: e.Assurance, Challenge: challenge,
		MachineToken: s.token.MachineToken(tenant, e.MachineID, e.KeyID, now),
	}, nil
}

// VouchKey records that an administrator vouches for an AK, for clients that cannot activate a
// credential. It replaces nothing but a key of the same standing. The assurance is first_use.
func (s *Service) VouchKey(ctx context.Context, tenant, machineID uuid.UUID, akPublic []byte, comment string, actor store.Actor) (store.AttestationKey, error) {
	ak, err := parseAK(akPublic)
	if err != nil {
		return store.AttestationKey{}, err
	}
	if err := checkText("/comment", comment, 1000); err != nil {
		return store.AttestationKey{}, err
	}
	evidence, err := json.Marshal(keyProof{Method: "vouched", Comment: comment, VouchedBy: actor.ID})
	if err != nil {
		return store.AttestationKey{}, fmt.Errorf("vouch for key: %w", err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return store.AttestationKey{}, fmt.Errorf("vouch for key: %w", err)
	}
	now := s.now()
	key, err := s.store.AddAttestationKey(ctx, tenant, machineID, store.AttestationKey{
		ID: id, MachineID: machineID, Public: ak.Raw(), Name: ak.Name(),
		Assurance: verifier.FirstUse, State: "active", Evidence: evidence, CreatedAt: now,
	}, now, actor)
	return key, fromStore("vouch for key", err)
}

// endorsement is an EK that may be used, and how it was shown.
type endorsement struct {
	public      *tpm.Public
	identity    []byte // DER SubjectPublicKeyInfo: the same EK however it was sent
	certificate []byte // DER; nil where only the public area is known
	pointer     string // where the request gave it
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
	return &endorsement{public: public, identity: identity, certificate: cert.Raw, pointer: "/ek_certificate", proof: proof}, nil
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
		return nil, "the AK certificate does not chain to a trust anchor of purpose \"ak\": " + err.Error(), nil
	}
	p := proofOf("ak_certificate", cert, chain)
	return &p, "", nil
}

// anchors are the tenant's anchors of a purpose, and as intermediates the chain that came with the
// request. An anchor is trusted as it stands, whether or not it is self-signed.
func (s *Service) anchors(ctx context.Context, tenant uuid.UUID, purpose, pointer string, chain [][]byte) (roots, intermediates []*x509.Certificate, err error) {
	stored, err := s.store.ListTrustAnchors(ctx, tenant, purpose)
	if err != nil {
		return nil, nil, fmt.Errorf("read trust anchors: %w", err)
	}
	for _, a := range stored {
		for _, c := range a.Certificates {
			cert, err := x509.ParseCertificate(c.DER)
			if err != nil {
				return nil, nil, fmt.Errorf("trust anchor %s: %w", a.ID, err)
			}
			roots = append(roots, cert)
		}
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
	p := keyProof{
		Method: method, Subject: cert.Subject.String(), Issuer: cert.Issuer.String(), Fingerprint: hex.EncodeToString(sum[:]),
	}
	if len(chain) > 0 {
		p.Root = chain[len(chain)-1].Subject.String()
	}
	return p
}
