package attest

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
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
	Method        string     `json:"method"` // ak_certificate, credential_activation, platform_evidence, vouched
	Subject       string     `json:"subject,omitempty"`
	Issuer        string     `json:"issuer,omitempty"`
	Fingerprint   string     `json:"fingerprint,omitempty"` // SHA-256 of the certificate, hex
	NotAfter      *time.Time `json:"not_after,omitempty"`   // of the certificate
	Root          string     `json:"root,omitempty"`
	RootSHA256    string     `json:"root_sha256,omitempty"` // of the anchor that the chain ended in, hex
	EKCertified   bool       `json:"ek_certified"`
	Comment       string     `json:"comment,omitempty"`
	VouchedBy     string     `json:"vouched_by,omitempty"`
	AKCertificate string     `json:"ak_certificate,omitempty"` // why a given AK certificate was not enough
	// Instance is the cloud's identity of the VM in its AK certificate.
	Instance *tpm.Instance `json:"instance,omitempty"`
	// Platform is what the hardware report proved.
	Platform *tee.Claims `json:"platform,omitempty"`
}

// Enrol admits a machine by what proves its keys (see the package documentation). joinTokenHash is the
// SHA-256 of the join token; one use of it is taken in the transaction that stores the enrolment, so a
// request that is refused costs none. The checks, in order:
//
//   - the AK keeps the rules of tpm.CheckAK, and the join token is good
//   - hardware evidence, where given, is genuine and passes the policy that fits the join token; that of a paravisor names
//     the AK and proves it (tee_bound), that of a machine without an AK stands in place of one, and other evidence
//     proves no key, since software in the guest made it
//   - an AK certificate, where given, is of this AK and chains to an anchor of purpose "ak": active at once
//   - else there is an EK: its certificate chains to an anchor of purpose "ek" now, and an EK public, where
//     given too, is the certificate's; without certificate, only if the policy does not require one
//   - the machine does not exist with another EK or AK (store, in the same transaction)
//
// Of a machine that exists nothing changes before its AK is proved. Then what the join token forces replaces,
// and what the machine says of itself fills what is empty: it must not pick a weaker policy, baseline or
// suppression rule by enrolling again.
//
// The error is an *Error, or a failure of ours.
func (s *Service) Enrol(ctx context.Context, tenant uuid.UUID, req EnrolRequest, joinTokenHash []byte, actor store.Actor) (*EnrolResult, error) {
	now := s.now()
	var ak *tpm.Public
	in := store.EnrollmentInput{JoinTokenHash: joinTokenHash, Machine: req.Machine}
	if len(req.AKPublic) > 0 {
		var err error
		if ak, err = parseAK(req.AKPublic); err != nil {
			return nil, err
		}
		in.AKPublic, in.AKName = ak.Raw(), ak.Name()
	}
	token, err := s.joinToken(ctx, tenant, joinTokenHash, now)
	if err != nil {
		return nil, err
	}
	if req.Platform != nil {
		proof, err := s.proveByPlatform(ctx, tenant, req, ak, token, &in, now)
		if err != nil {
			return nil, err
		}
		if proof != nil {
			return s.enrolProved(ctx, tenant, in, *proof, now, actor)
		}
	}
	ek, err := s.checkEK(ctx, tenant, req, token, now)
	if err != nil {
		return nil, err
	}
	if ek != nil {
		in.EKPublic, in.EKCertificate = ek.identity, ek.certificate
		in.AnchorFingerprint, in.CertificateNotAfter = ek.anchor, ek.notAfter
	}
	proof, refused, err := s.proveAKByCertificate(ctx, tenant, req, ak, now)
	if err != nil {
		return nil, err
	}
	if proof != nil {
		in.Proved, in.Assurance = true, verifier.AKCertified
		// An EK is bound by activation alone: its certificate is public and proves no possession.
		in.EKPublic, in.EKCertificate = nil, nil
		in.AnchorFingerprint, in.CertificateNotAfter = proof.RootSHA256, proof.NotAfter
		describeInstance(&in.Machine, proof.Instance)
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
		MachineToken: s.token.MachineToken(token.Machine{Tenant: tenant, MachineID: e.MachineID, KeyID: e.KeyID, Issued: now}),
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
	err = s.noteRefused(ctx, tenant, now, err, func() (bool, error) {
		return s.store.NoteRefusedEnrollment(ctx, tenant, in, now, actor)
	})
	return e, fromStore("enrol", err)
}

// Activate takes the one answer to a credential: secret is what the TPM decrypted. The right one makes
// the attestation key active; a wrong or late one uses up the enrolment all the same.
func (s *Service) Activate(ctx context.Context, tenant, enrollmentID uuid.UUID, secret []byte, actor store.Actor) (*ActivateResult, error) {
	now := s.now()
	hash := sha256.Sum256(secret)
	e, err := s.store.ActivateEnrollment(ctx, tenant, enrollmentID, hash[:], now, actor)
	err = s.noteRefused(ctx, tenant, now, err, func() (bool, error) {
		return s.store.NoteRefusedActivation(ctx, tenant, enrollmentID, now, actor)
	})
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
		MachineToken: s.token.MachineToken(token.Machine{Tenant: tenant, MachineID: e.MachineID, KeyID: e.KeyID, Issued: now}),
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
	err = s.noteRefused(ctx, tenant, now, err, func() (bool, error) {
		return s.store.NoteRefusedKey(ctx, tenant, machineID, ak.Name(), now, actor)
	})
	return key, fromStore("vouch for key", err)
}
