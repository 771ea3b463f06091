package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
)

// maxAnchorCertificates bounds one trust anchor.
const maxAnchorCertificates = 100

// minKeyBits is the smallest RSA key that may be trusted by itself.
const minKeyBits = 2048

// certificatesOf reads PEM. Anything but certificates is refused, and for reference values public keys: a private key
// that was pasted along must not end up in the database.
func certificatesOf(text, purpose string) ([]store.TrustCertificate, error) {
	const place = "/certificates_pem"
	accepted := "CERTIFICATE"
	if purpose == purposeReferences {
		accepted = "CERTIFICATE or PUBLIC KEY"
	}
	var out []store.TrustCertificate
	rest := []byte(text)
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		n := len(out) + 1
		if n > maxAnchorCertificates {
			return nil, refuseField(codeInvalidField, place, fmt.Sprintf("at most %d certificates are accepted", maxAnchorCertificates))
		}
		var c store.TrustCertificate
		var err error
		switch {
		case block.Type == "CERTIFICATE":
			c, err = anchorCertificate(block.Bytes)
		case block.Type == "PUBLIC KEY" && purpose == purposeReferences:
			c, err = anchorKey(block.Bytes)
		default:
			return nil, refuseField(codeInvalidField, place, fmt.Sprintf("block %d is %s; only %s is accepted", n, quoted(block.Type), accepted))
		}
		if err != nil {
			return nil, refuseField(codeInvalidField, place, fmt.Sprintf("block %d (%s) cannot be taken: %s", n, block.Type, strings.TrimPrefix(err.Error(), "x509: ")))
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, refuseField(codeInvalidField, place, "there is no PEM block of type "+accepted)
	}
	if len(strings.TrimSpace(string(rest))) > 0 {
		return nil, refuseField(codeInvalidField, place, "something that is not PEM follows the certificates")
	}
	return out, nil
}

func anchorCertificate(der []byte) (store.TrustCertificate, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return store.TrustCertificate{}, err
	}
	sum := sha256.Sum256(c.Raw)
	return store.TrustCertificate{Kind: store.CertificateAnchor, DER: c.Raw, Subject: strings.ToValidUTF8(c.Subject.String(), "?"), Fingerprint: hex.EncodeToString(sum[:]), NotAfter: c.NotAfter}, nil
}

// anchorKey reads a key whose signatures are trusted by themselves. It is kept as Go writes it, since its fingerprint is
// how versions name it.
func anchorKey(der []byte) (store.TrustCertificate, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return store.TrustCertificate{}, err
	}
	var subject string
	switch key := key.(type) {
	case *rsa.PublicKey:
		subject = fmt.Sprintf("RSA %d", key.N.BitLen())
		if key.N.BitLen() < minKeyBits {
			return store.TrustCertificate{}, fmt.Errorf("an RSA key of %d bits is too short; at least %d are needed", key.N.BitLen(), minKeyBits)
		}
	case *ecdsa.PublicKey:
		subject = "ECDSA " + key.Params().Name
		if key.Params().BitSize < 256 {
			return store.TrustCertificate{}, fmt.Errorf("the curve %s is too small", key.Params().Name)
		}
	case ed25519.PublicKey:
		subject = "Ed25519"
	default:
		return store.TrustCertificate{}, fmt.Errorf("keys of type %T are not supported", key)
	}
	if der, err = x509.MarshalPKIXPublicKey(key); err != nil {
		return store.TrustCertificate{}, err
	}
	sum := sha256.Sum256(der)
	return store.TrustCertificate{Kind: store.KeyAnchor, DER: der, Subject: subject, Fingerprint: hex.EncodeToString(sum[:])}, nil
}

func anchorDTO(a store.TrustAnchor) openapi.TrustAnchor {
	return openapi.TrustAnchor{
		ID: a.ID, Name: a.Name, Purpose: openapi.TrustPurpose(a.Purpose), Origin: openapi.TrustAnchorOrigin(a.Origin), Enabled: a.Enabled, Source: a.Source, CreatedBy: a.CreatedBy, CreatedAt: utc(a.CreatedAt),
		Certificates: each(a.Certificates, func(c store.TrustCertificate) openapi.TrustCertificate {
			out := openapi.TrustCertificate{Kind: openapi.TrustCertificateKind(c.Kind), Subject: c.Subject, Fingerprint: c.Fingerprint}
			if c.Kind != store.KeyAnchor {
				out.Kind, out.NotAfter = store.CertificateAnchor, utcOrNull(&c.NotAfter)
			}
			return out
		}),
	}
}

// ListTrustAnchors lists the anchors, for one purpose or all.
func (s *Server) ListTrustAnchors(ctx context.Context, req openapi.ListTrustAnchorsRequestObject) (openapi.ListTrustAnchorsResponseObject, error) {
	q := req.Params
	items, next, err := s.store.ListTrustAnchors(ctx, principalOf(ctx).tenant,
		store.TrustAnchorFilter{Purpose: joined(q.Purpose), Enabled: q.Enabled, NamePrefix: value(q.Q)}, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListTrustAnchors200JSONResponse{Items: each(items, anchorDTO), NextCursor: nextCursor(next)}, nil
}

// CreateTrustAnchor trusts certificates for a purpose.
func (s *Server) CreateTrustAnchor(ctx context.Context, req openapi.CreateTrustAnchorRequestObject) (openapi.CreateTrustAnchorResponseObject, error) {
	certificates, err := certificatesOf(req.Body.CertificatesPem, string(req.Body.Purpose))
	if err != nil {
		return nil, err
	}
	p := principalOf(ctx)
	a := store.TrustAnchor{Name: req.Body.Name, Purpose: string(req.Body.Purpose), Certificates: certificates, CreatedBy: actorOf(ctx).String()}
	if a, err = s.store.CreateTrustAnchor(ctx, p.tenant, a, s.now(), actorOf(ctx)); err != nil {
		return nil, err
	}
	return openapi.CreateTrustAnchor201JSONResponse(anchorDTO(a)), nil
}

// DeleteTrustAnchor ends the trust in an anchor of the tenant's own.
func (s *Server) DeleteTrustAnchor(ctx context.Context, req openapi.DeleteTrustAnchorRequestObject) (openapi.DeleteTrustAnchorResponseObject, error) {
	_, err := s.store.DeleteTrustAnchor(ctx, principalOf(ctx).tenant, req.AnchorID, s.now(), actorOf(ctx))
	if errors.Is(err, store.ErrConflict) {
		return nil, refuse(codeConflict, "the anchor is shipped with the service: disable it")
	}
	if err != nil {
		return nil, err
	}
	return openapi.DeleteTrustAnchor204Response{}, nil
}

// DisableTrustAnchor withdraws an anchor.
func (s *Server) DisableTrustAnchor(ctx context.Context, req openapi.DisableTrustAnchorRequestObject) (openapi.DisableTrustAnchorResponseObject, error) {
	out, err := s.switchTrustAnchor(ctx, req.AnchorID, false)
	if err != nil {
		return nil, err
	}
	return openapi.DisableTrustAnchor200JSONResponse(out), nil
}

// EnableTrustAnchor lets chains end in an anchor again.
func (s *Server) EnableTrustAnchor(ctx context.Context, req openapi.EnableTrustAnchorRequestObject) (openapi.EnableTrustAnchorResponseObject, error) {
	out, err := s.switchTrustAnchor(ctx, req.AnchorID, true)
	if err != nil {
		return nil, err
	}
	return openapi.EnableTrustAnchor200JSONResponse(out), nil
}

// maxResting is how many of the machines that rest on an anchor an answer lists.
const maxResting = 100

func (s *Server) switchTrustAnchor(ctx context.Context, id uuid.UUID, enabled bool) (openapi.SwitchedTrustAnchor, error) {
	tenant := principalOf(ctx).tenant
	a, err := s.store.SetTrustAnchorEnabled(ctx, tenant, id, enabled, s.now(), actorOf(ctx))
	if err != nil {
		return openapi.SwitchedTrustAnchor{}, err
	}
	count, err := s.store.CountMachinesRestingOn(ctx, tenant, id)
	if err != nil {
		return openapi.SwitchedTrustAnchor{}, err
	}
	items, _, err := s.store.MachinesRestingOn(ctx, tenant, id, store.Page{Limit: maxResting})
	if err != nil {
		return openapi.SwitchedTrustAnchor{}, err
	}
	retired, err := restingVersions(a.Retired)
	if err != nil {
		return openapi.SwitchedTrustAnchor{}, err
	}
	dto := anchorDTO(a)
	return openapi.SwitchedTrustAnchor{
		ID: dto.ID, Name: dto.Name, Purpose: dto.Purpose, Origin: dto.Origin, Enabled: dto.Enabled, Source: dto.Source,
		Certificates: dto.Certificates, CreatedBy: dto.CreatedBy, CreatedAt: dto.CreatedAt,
		RestingMachines: openapi.RestingMachines{Count: count, Items: each(items, restingDTO)}, RetiredVersions: retired,
	}, nil
}

func restingDTO(m store.RestingMachine) openapi.RestingMachine {
	return openapi.RestingMachine{MachineID: m.MachineID, Name: m.Name, How: openapi.RestingHow(m.How)}
}

// ListTrustAnchorMachines lists the machines that rest on an anchor.
func (s *Server) ListTrustAnchorMachines(ctx context.Context, req openapi.ListTrustAnchorMachinesRequestObject) (openapi.ListTrustAnchorMachinesResponseObject, error) {
	items, next, err := s.store.MachinesRestingOn(ctx, principalOf(ctx).tenant, req.AnchorID, pageOf(req.Params.Limit, req.Params.Cursor, req.Params.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListTrustAnchorMachines200JSONResponse{Items: each(items, restingDTO), NextCursor: nextCursor(next)}, nil
}
