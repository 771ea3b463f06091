package server

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
)

// createEnrollment admits a machine by its join token. Its body has a decoder of its own, so that
// certificates and keys are decoded once.
func (s *Server) createEnrollment(w http.ResponseWriter, r *http.Request) {
	req, err := attest.ParseEnrolRequest(bodyOf(r))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	p := principalOf(r.Context())
	result, err := s.attest.Enrol(r.Context(), p.tenant, req, p.joinHash, actorOf(r.Context()))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	out := openapi.Enrollment{
		EnrollmentID: result.EnrollmentID, MachineID: result.MachineID, Status: openapi.EnrollmentStatus(result.Status),
		Assurance: (*openapi.Assurance)(textOrNull(result.Assurance)), MachineToken: textOrNull(s.bound(r.Context(), result.MachineToken)),
	}
	if result.CredentialBlob != nil {
		out.CredentialBlob, out.EncryptedSecret = &result.CredentialBlob, &result.EncryptedSecret
	}
	if result.Challenge != nil {
		c := challengeDTO(result.Challenge)
		out.Challenge = &c
	}
	if err := (jsonAnswer{http.StatusCreated, out}).write(w); err != nil {
		s.fail(w, r, err)
	}
}

// ActivateEnrollment proves the AK by the secret of the credential.
func (s *Server) ActivateEnrollment(ctx context.Context, req openapi.ActivateEnrollmentRequestObject) (openapi.ActivateEnrollmentResponseObject, error) {
	tenant, err := s.store.EnrollmentTenant(ctx, req.EnrollmentID)
	if err != nil {
		return nil, err
	}
	result, err := s.attest.Activate(ctx, tenant, req.EnrollmentID, req.Body.Secret, actorOf(ctx))
	if err != nil {
		return nil, err
	}
	return openapi.ActivateEnrollment200JSONResponse{
		MachineID: result.MachineID, Status: openapi.ActivationStatus(result.Status), Assurance: openapi.Assurance(result.Assurance),
		Challenge: challengeDTO(result.Challenge), MachineToken: s.bound(ctx, result.MachineToken),
	}, nil
}

// CreateChallenge makes a challenge for the machine that asks.
func (s *Server) CreateChallenge(ctx context.Context, _ openapi.CreateChallengeRequestObject) (openapi.CreateChallengeResponseObject, error) {
	p := principalOf(ctx)
	c, err := s.attest.Challenge(ctx, p.tenant, p.machineID, actorOf(ctx), attest.ByKey(p.keyID))
	if err != nil {
		return nil, err
	}
	return openapi.CreateChallenge201JSONResponse(challengeDTO(c)), nil
}

// submitEvidence appraises evidence. verifier.Decode checks the body in the one pass that decodes it.
func (s *Server) submitEvidence(w http.ResponseWriter, r *http.Request) {
	p := principalOf(r.Context())
	result, err := s.attest.Appraise(r.Context(), p.tenant, p.machineID, r.Header.Get("Content-Type"), bodyOf(r), actorOf(r.Context()), attest.ByKey(p.keyID))
	if err != nil {
		s.limits.refusedEvidence(&p, err)
		s.fail(w, r, err)
		return
	}
	answer, err := evidenceAnswer(result, s.renewed(r.Context(), result))
	if err != nil {
		// The verdict is recorded; only its answer cannot be written.
		s.fail(w, r, fmt.Errorf("answer verdict %s: %w", result.ID, err))
		return
	}
	writeJSON(w, http.StatusCreated, answer)
}

// putEventLog takes a raw log ahead of the evidence that names it.
func (s *Server) putEventLog(w http.ResponseWriter, r *http.Request) {
	digest, err := hex.DecodeString(chi.URLParam(r, "sha256"))
	if err != nil || len(digest) != 32 { // the guard has checked it
		s.fail(w, r, refuseParameter(codeInvalidField, "sha256", "64 hex digits are needed"))
		return
	}
	raw, err := decompress(strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))), bodyOf(r))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	p := principalOf(r.Context())
	if err := s.attest.PutEventLog(r.Context(), p.tenant, p.machineID, [32]byte(digest), raw, attest.ByKey(p.keyID)); err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// VouchAttestationKey makes a key active on an administrator's word. The machine token comes along,
// since a client that cannot activate a credential has no other way to get one.
func (s *Server) VouchAttestationKey(ctx context.Context, req openapi.VouchAttestationKeyRequestObject) (openapi.VouchAttestationKeyResponseObject, error) {
	p := principalOf(ctx)
	key, err := s.attest.VouchKey(ctx, p.tenant, req.MachineID, req.Body.AkPublic, value(req.Body.Comment), actorOf(ctx))
	if err != nil {
		return nil, err
	}
	if key.ID == uuid.Nil {
		return nil, fmt.Errorf("vouched key of machine %s has no id", req.MachineID)
	}
	return openapi.VouchAttestationKey201JSONResponse{
		ID: key.ID, MachineID: key.MachineID, AkPublic: key.Public, AkName: hex.EncodeToString(key.Name),
		Assurance: openapi.Assurance(key.Assurance), State: openapi.AttestationKeyState(key.State), CreatedAt: utc(key.CreatedAt),
		MachineToken: s.token.MachineToken(token.Machine{Tenant: p.tenant, MachineID: key.MachineID, KeyID: key.ID, Issued: s.now()}),
	}, nil
}

// RevokeAttestationKey releases a machine from its keys, so that it can enrol again.
func (s *Server) RevokeAttestationKey(ctx context.Context, req openapi.RevokeAttestationKeyRequestObject) (openapi.RevokeAttestationKeyResponseObject, error) {
	err := s.store.RevokeAttestationKey(ctx, principalOf(ctx).tenant, req.MachineID, s.now(), actorOf(ctx))
	if errors.Is(err, store.ErrConflict) {
		return nil, refuse(codeConflict, "the machine has no active key")
	}
	if err != nil {
		return nil, err
	}
	return openapi.RevokeAttestationKey204Response{}, nil
}
