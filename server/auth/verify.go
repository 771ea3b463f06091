package auth

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

// leeway is how far another clock may be ahead: for iat and nbf. Nothing is added to exp.
const leeway = time.Minute

// Config is what a Verifier is made of.
type Config struct {
	// Providers gives a tenant's enabled providers of an issuer (store.ProvidersOf).
	Providers func(ctx context.Context, tenant uuid.UUID, issuer string) ([]store.IdentityProvider, error)
	// SaveKeys keeps fetched keys (store.SaveIssuerKeys).
	SaveKeys func(ctx context.Context, tenant uuid.UUID, p store.IdentityProvider, keys store.IssuerKeys) error
	Now      func() time.Time
	Logger   *slog.Logger
	// Reach is what the service may ask; the zero value allows public https only.
	Reach Reach
	// Roots are the certificates that issuers' certificates must chain to; nil means the system's.
	Roots *x509.CertPool
}

// Verifier checks identity tokens. It is safe for concurrent use.
type Verifier struct {
	providers func(ctx context.Context, tenant uuid.UUID, issuer string) ([]store.IdentityProvider, error)
	save      func(ctx context.Context, tenant uuid.UUID, p store.IdentityProvider, keys store.IssuerKeys) error
	now       func() time.Time
	log       *slog.Logger
	fetch     *fetcher
	states    states
}

// New makes a Verifier. It asks nobody.
func New(cfg Config) *Verifier {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Verifier{providers: cfg.Providers, save: cfg.SaveKeys, now: cfg.Now, log: cfg.Logger, fetch: newFetcher(cfg.Reach, cfg.Roots)}
}

// Identity is who a token proves. Only Verify makes one.
type Identity struct {
	Tenant       uuid.UUID
	ProviderID   uuid.UUID
	ProviderName string
	Issuer       string
	Subject      string
	Claims       Claims
	IssuedAt     time.Time
	ExpiresAt    time.Time
}

// Name identifies the identity in records: issuer|subject. An issuer has no "|".
func (i *Identity) Name() string { return i.Issuer + "|" + i.Subject }

// Verify checks a token as the package documentation lists. An *Error is a statement about the token; any other
// error is a failure of the service.
func (v *Verifier) Verify(ctx context.Context, raw string) (Identity, error) {
	t, err := read(raw)
	if err != nil {
		return Identity{}, err
	}
	tenant, p, err := v.providerOf(ctx, t)
	if err != nil {
		return Identity{}, err
	}
	if !slices.Contains(p.Algorithms, t.algorithm) || !slices.Contains(Algorithms(), t.algorithm) {
		return Identity{}, refuse(CodeAlgorithm, "the token's alg is not one that the identity provider may use: "+strings.Join(p.Algorithms, ", "))
	}
	now := v.now()
	if err := t.checkTimes(now, p.MaxTokenLifetime); err != nil {
		return Identity{}, err
	}
	if t.subject == "" || len(t.subject) > maxSubject || strings.ContainsFunc(t.subject, isControl) {
		return Identity{}, refuse(CodeClaims, "the claim sub is missing, too long, or has control characters")
	}
	key, err := v.keyFor(ctx, tenant, p, t, now)
	if err != nil {
		return Identity{}, err
	}
	if !key.holds(t) {
		return Identity{}, refuse(CodeSignature, "the signature is not of the issuer's key")
	}
	return Identity{
		Tenant: tenant, ProviderID: p.ID, ProviderName: p.Name, Issuer: t.issuer, Subject: t.subject, Claims: t.claims,
		IssuedAt: t.issuedAt, ExpiresAt: t.expires,
	}, nil
}

// providerOf finds the one provider that a token is meant for.
func (v *Verifier) providerOf(ctx context.Context, t *unverified) (uuid.UUID, *store.IdentityProvider, error) {
	if t.issuer == "" || len(t.issuer) > maxIssuer {
		return uuid.Nil, nil, refuse(CodeIssuer, "the claim iss is missing or too long")
	}
	asked := map[uuid.UUID]bool{}
	var tenant uuid.UUID
	var found *store.IdentityProvider
	known := false
	for _, audience := range t.audiences {
		of := TenantOf(audience)
		if asked[of] {
			continue
		}
		asked[of] = true
		list, err := v.providers(ctx, of, t.issuer)
		if err != nil {
			return uuid.Nil, nil, fmt.Errorf("look up the identity provider: %w", err)
		}
		known = known || len(list) > 0
		for i := range list {
			if !intersect(list[i].Audiences, t.audiences) {
				continue
			}
			if found != nil {
				return uuid.Nil, nil, refuse(CodeAudience, "the claim aud names audiences of several identity providers")
			}
			tenant, found = of, &list[i]
		}
	}
	switch {
	case len(t.audiences) == 0:
		return uuid.Nil, nil, refuse(CodeAudience, "the claim aud is missing")
	case !known:
		return uuid.Nil, nil, refuse(CodeIssuer, "no enabled identity provider has this issuer")
	case found == nil:
		return uuid.Nil, nil, refuse(CodeAudience, "the claim aud names no audience of the identity provider")
	}
	return tenant, found, nil
}

func intersect(a, b []string) bool {
	return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
}

func (t *unverified) checkTimes(now time.Time, longest time.Duration) error {
	switch {
	case t.expires.IsZero() || t.issuedAt.IsZero():
		return refuse(CodeClaims, "the claims exp and iat are needed")
	case !now.Before(t.expires):
		return refuse(CodeExpired, "the token has expired")
	case t.issuedAt.After(now.Add(leeway)) || t.notBefore.After(now.Add(leeway)):
		return refuse(CodeNotYetValid, "the token is not valid yet (iat, nbf)")
	case t.expires.Sub(t.issuedAt) > longest:
		return refuse(CodeLifetime, fmt.Sprintf("the token lives longer than the %s that the identity provider may give", longest))
	}
	return nil
}

func isControl(r rune) bool { return r < 0x20 || (r >= 0x7f && r < 0xa0) || r == 0x2028 || r == 0x2029 }
