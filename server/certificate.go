package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"net/http"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
)

// holds refuses a token that is bound to a client certificate (RFC 8705, section 3: x5t#S256) where the connection has shown
// another one, or none: whoever has the token alone has nothing. It says no more than that, not even which it would be.
func (p *principal) holds(r *http.Request) error {
	if p.certificate == nil || bytes.Equal(p.certificate, traceOf(r.Context()).clientCertificate()) {
		return nil
	}
	return errNotBound()
}

func errNotBound() *requestError {
	return unauthenticated("the token is bound to a client certificate, and this connection has not shown it")
}

// clientCertificate is the SHA-256 of the certificate that the client proved to have the key of; nil without one. It was
// verified in the handshake: without a chain there are no VerifiedChains.
func (t *requestTrace) clientCertificate() []byte {
	return certificateOf(t.tls)
}

func certificateOf(state *tls.ConnectionState) []byte {
	if state == nil || len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return nil
	}
	sum := sha256.Sum256(state.PeerCertificates[0].Raw)
	return sum[:]
}

// CheckBinding answers store.ErrTokenInvalid for a token that is bound to another certificate than the request in whose
// context it is used came with. It is for who looks tokens up without the API, as the pages do.
func CheckBinding(ctx context.Context, t *store.APIToken) error {
	if t.CertificateSHA256 == nil || bytes.Equal(t.CertificateSHA256, traceOf(ctx).clientCertificate()) {
		return nil
	}
	return store.ErrTokenInvalid
}

// bound is a machine token that was just made, bound to the client's certificate where the service is told to bind tokens and
// the client has shown one.
func (s *Server) bound(ctx context.Context, made string) string {
	certificate := traceOf(ctx).clientCertificate()
	if !s.cfg.BindMachineTokens || certificate == nil || made == "" {
		return made
	}
	m, err := s.token.VerifyMachineToken(made, s.now())
	if err != nil { // it was made a moment ago; one that is not bound is not given out in its place
		return ""
	}
	m.Certificate = certificate
	return s.token.MachineToken(m)
}

// renewed is the machine token that replaces the one that evidence came with; empty where that is still young. Only genuine
// evidence earns one: it took the attestation key, which a thief of the token does not have. It is bound as the one before
// was, or to the certificate that the client has shown, where tokens are bound now and this one was not.
func (s *Server) renewed(ctx context.Context, r *attest.Result) string {
	p, now := principalOf(ctx), s.now()
	if p.kind != roleMachine || !r.Appraisal.Genuine || !s.token.Renews(p.tokenIssued, now) {
		return ""
	}
	m := token.Machine{Tenant: p.tenant, MachineID: p.machineID, KeyID: p.keyID, Issued: now, Certificate: p.certificate}
	if m.Certificate == nil && s.cfg.BindMachineTokens {
		m.Certificate = traceOf(ctx).clientCertificate()
	}
	return s.token.MachineToken(m)
}

// boundTo is the certificate that an API token is to be bound to. A service that asks for no certificates would refuse such a
// token for ever, so that it makes none.
func (s *Server) boundTo(asked *string) ([]byte, error) {
	if asked == nil {
		return nil, nil
	}
	if s.cfg.TLS == nil || !s.cfg.TLS.AsksClients() {
		return nil, refuseField(codeInvalidField, "/certificate_sha256", "this service does not ask clients for certificates (--tls-client-ca)")
	}
	sum, err := hex.DecodeString(*asked)
	if err != nil { // the guard has checked it
		return nil, refuseField(codeInvalidField, "/certificate_sha256", "64 hex digits are needed")
	}
	return sum, nil
}

func hexOrAbsent(sum []byte) *string {
	if sum == nil {
		return nil
	}
	text := hex.EncodeToString(sum)
	return &text
}
