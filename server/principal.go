package server

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
)

// prefixJoin begins the join tokens.
const prefixJoin = "assay_join_"

// prefixes begin the API tokens of each role, so that secret scanners know what they found. Who a token is of is decided by
// its row and never by its prefix.
var prefixes = map[role]string{
	roleAdmin: "assay_adm_", roleViewer: "assay_rdr_", roleReader: "assay_rdr_", roleRelyingParty: "assay_rp_",
	roleResponder: "assay_rsp_", roleAuthor: "assay_bla_", roleApprover: "assay_blp_", roleOperator: "assay_opr_",
}

func isAPIToken(secret string) bool {
	for _, prefix := range prefixes {
		if strings.HasPrefix(secret, prefix) {
			return true
		}
	}
	return false
}

// maxSecret is the longest token that can be one of ours, in bytes. Identity tokens are longer: auth.MaxTokenSize.
const maxSecret = 512

// tokenSecretSize is the random part of a token in bytes.
const tokenSecretSize = 32

// principal is who sent a request.
type principal struct {
	kind   role // the role of an API token; kindPerson, roleJoin, roleMachine, rolePipeline, or rolePublic for anyone
	tenant uuid.UUID
	id     string // of the token; of the machine for machine tokens; issuer|subject for people and pipelines
	owner  string // the person that an API token is of, as "person:issuer|subject"; empty where nobody has said

	// grants are what it may do and where. They are never mixed: what one role may is never done in another's scope.
	grants []grant
	scope  store.Scope // of the permission that this call needs; set by the guard
	asked  *bool       // whether the handler has asked for the scope; nil but for calls that have to

	joinHash  []byte    // SHA-256 of a join token
	machineID uuid.UUID // of a machine token
	keyID     uuid.UUID // attestation key that the machine token names
	pipeline  *pipeline // nil but for pipelines

	tokenIssued time.Time // of a machine token
	certificate []byte    // SHA-256 of the client certificate that the token is bound to; nil for one that is bound to none
}

// grant is a role and the machines that it is given for; a nil scope is the whole tenant.
type grant struct {
	role  role
	scope store.Scope
}

// kindPerson is what a principal is whose identity token a role binding admits. It is no role: the bindings give those.
const kindPerson role = "person"

// may tells whether one of the grants has a permission, wherever.
func (p principal) may(needs permission) bool {
	return needs == permPublic || slices.ContainsFunc(p.grants, func(g grant) bool { return g.role.may(needs) })
}

// is tells whether one of the grants is of a role.
func (p principal) is(r role) bool {
	return slices.ContainsFunc(p.grants, func(g grant) bool { return g.role == r })
}

// scopeFor is where a principal has a permission: the union of the scopes of the grants that have it, and of no others. nil
// is the whole tenant, so that it is only asked about a permission that the principal has.
func (p principal) scopeFor(needs permission) store.Scope {
	scope := store.Scope{}
	for _, g := range p.grants {
		switch {
		case !g.role.may(needs):
		case g.scope == nil:
			return nil
		default:
			scope = append(scope, g.scope...)
		}
	}
	return scope
}

// name identifies the principal in logs and audit records. It is no secret.
func (p principal) name() string {
	if p.id == "" {
		return string(p.kind)
	}
	return string(p.kind) + ":" + p.id
}

type principalKey struct{}

func withPrincipal(ctx context.Context, p principal) context.Context {
	return context.WithValue(ctx, principalKey{}, p)
}

// principalOf is who the guard let in. Whether they may is decided there, and nowhere else.
func principalOf(ctx context.Context) principal {
	p, _ := ctx.Value(principalKey{}).(principal)
	return p
}

// callerScope is where the caller has the permission that this operation needs. Every handler of a route with scopeFiltered
// asks for it before it answers: the guard refuses its answer otherwise.
func callerScope(ctx context.Context) store.Scope {
	p := principalOf(ctx)
	if p.asked != nil {
		*p.asked = true
	}
	return p.scope
}

// actorOf says who changes something, for the audit record.
func actorOf(ctx context.Context) store.Actor {
	p := principalOf(ctx)
	t := traceOf(ctx)
	actor := store.Actor{Kind: string(p.kind), ID: p.id, Owner: p.owner, RemoteAddr: t.remote, RequestID: t.id}
	if p.pipeline != nil {
		// A second fence: an operation that forgot to ask writes nothing, and answers internal.
		if p.pipeline.allowed == nil {
			panic("server: a pipeline is about to write what no rule was asked about")
		}
		actor.Identity = p.pipeline.verifiedIdentity()
	}
	return actor
}

func unauthenticated(detail string) *requestError {
	return refuse(codeUnauthenticated, detail).with("WWW-Authenticate", `Bearer realm="assay"`)
}

// authenticate finds out who sent the request. The error never repeats the token.
func (s *Server) authenticate(r *http.Request) (principal, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return principal{}, unauthenticated("send Authorization: Bearer and a token")
	}
	scheme, secret, found := strings.Cut(header, " ")
	if !found || !strings.EqualFold(scheme, "Bearer") || secret == "" {
		return principal{}, unauthenticated("the Authorization header is not a bearer token")
	}
	if auth.LooksLikeToken(secret) {
		if err := s.limits.mayTry(r.Context()); err != nil {
			return principal{}, err
		}
		return s.identityPrincipal(r.Context(), secret)
	}
	if len(secret) > maxSecret {
		return principal{}, unauthenticated("the Authorization header is not a bearer token")
	}
	now := s.now()
	switch {
	case strings.HasPrefix(secret, token.MachinePrefix):
		m, err := s.token.VerifyMachineToken(secret, now)
		if err != nil {
			return principal{}, unauthenticated("the machine token is not valid")
		}
		return principal{kind: roleMachine, tenant: m.Tenant, id: m.MachineID.String(), grants: machineGrants, machineID: m.MachineID, keyID: m.KeyID, tokenIssued: m.Issued, certificate: m.Certificate}, nil
	case isAPIToken(secret):
		return s.apiPrincipal(r.Context(), sha256.Sum256([]byte(secret)), now)
	case strings.HasPrefix(secret, prefixJoin):
		if err := s.limits.mayTry(r.Context()); err != nil {
			return principal{}, err
		}
		hash := sha256.Sum256([]byte(secret))
		tenant, t, err := s.store.LookupJoinToken(r.Context(), hash[:], now)
		if err != nil {
			return principal{}, tokenError(err)
		}
		return principal{kind: roleJoin, tenant: tenant, id: t.ID.String(), grants: []grant{{role: roleJoin}}, joinHash: hash[:]}, nil
	}
	return principal{}, unauthenticated("this is no token of this service")
}

// machineGrants are those of every machine; a variable, since each attestation has them.
var machineGrants = []grant{{role: roleMachine}}

func (s *Server) apiPrincipal(ctx context.Context, hash [32]byte, now time.Time) (principal, error) {
	if p, ok := s.tokens.get(hash, now); ok {
		return p, nil
	}
	if err := s.limits.mayTry(ctx); err != nil {
		return principal{}, err
	}
	tenant, t, err := s.store.LookupAPIToken(ctx, hash[:], now)
	if err != nil {
		return principal{}, tokenError(err)
	}
	kind := role(t.Role)
	if !slices.Contains(personal, kind) {
		return principal{}, fmt.Errorf("api token %s has the unknown role %q", t.ID, t.Role)
	}
	p := principal{kind: kind, tenant: tenant, id: t.ID.String(), owner: t.Owner, grants: []grant{{role: kind, scope: t.Scope}}, certificate: t.CertificateSHA256}
	s.tokens.put(hash, p, now, t.ExpiresAt)
	return p, nil
}

func tokenError(err error) error {
	if errors.Is(err, store.ErrTokenInvalid) || errors.Is(err, store.ErrNotFound) {
		return unauthenticated("the token is unknown, expired or used up")
	}
	return fmt.Errorf("look up token: %w", err)
}

// tokenCacheLifetime is for how long an API token that another replica revoked may still be accepted by this one.
const tokenCacheLifetime = 5 * time.Second

const maxCachedTokens = 1024

// tokenCache remembers API tokens that were found, by hash. What was not found is never remembered, so
// that guessing fills nothing.
type tokenCache struct {
	mu      sync.Mutex
	entries map[[32]byte]cachedToken
}

type cachedToken struct {
	principal principal
	until     time.Time
}

func newTokenCache() *tokenCache { return &tokenCache{entries: map[[32]byte]cachedToken{}} }

func (c *tokenCache) get(hash [32]byte, now time.Time) (principal, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[hash]
	if !ok || !now.Before(e.until) {
		return principal{}, false
	}
	return e.principal, true
}

func (c *tokenCache) put(hash [32]byte, p principal, now time.Time, expires *time.Time) {
	until := now.Add(tokenCacheLifetime)
	if expires != nil && expires.Before(until) {
		until = *expires
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= maxCachedTokens {
		clear(c.entries)
	}
	c.entries[hash] = cachedToken{principal: p, until: until}
}

// forget drops a token that was revoked.
func (c *tokenCache) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for hash, e := range c.entries {
		if e.principal.id == id {
			delete(c.entries, hash)
		}
	}
}

// newSecret makes a token and the hash that is stored of it.
func newSecret(prefix string, random io.Reader) (secret string, hash []byte, err error) {
	var b [tokenSecretSize]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return "", nil, fmt.Errorf("make token: %w", err)
	}
	secret = prefix + base64.RawURLEncoding.EncodeToString(b[:])
	sum := sha256.Sum256([]byte(secret))
	return secret, sum[:], nil
}

// BootstrapAdminToken makes the first administrator's token of a tenant, named "bootstrap", for a
// service that was just created. It answers an empty secret where the tenant has an administrator's
// token already. Only its SHA-256 is stored: the caller shows the secret or loses it.
func BootstrapAdminToken(ctx context.Context, st *store.Store, tenant uuid.UUID, now time.Time, random io.Reader) (secret string, err error) {
	page := store.Page{Limit: 500}
	for {
		items, next, err := st.ListAPITokens(ctx, tenant, store.TokenFilter{}, page)
		if err != nil {
			return "", fmt.Errorf("bootstrap admin token: %w", err)
		}
		for _, t := range items {
			if t.Role == store.RoleAdmin && t.Scope == nil && (t.ExpiresAt == nil || t.ExpiresAt.After(now)) {
				return "", nil
			}
		}
		if next == "" {
			break
		}
		page.Cursor = next
	}
	return NewAdminToken(ctx, st, tenant, "bootstrap", now, random)
}

// NewAdminToken makes an administrator's API token without being asked by one: for an operator with
// access to the database who has lost every other. It is in the audit record as made by the system.
func NewAdminToken(ctx context.Context, st *store.Store, tenant uuid.UUID, name string, now time.Time, random io.Reader) (secret string, err error) {
	secret, hash, err := newSecret(prefixes[roleAdmin], random)
	if err != nil {
		return "", err
	}
	id, err := uuid.NewV7FromReader(random)
	if err != nil {
		return "", fmt.Errorf("new admin token: %w", err)
	}
	t := store.APIToken{ID: id, Name: name, Role: store.RoleAdmin, CreatedAt: now}
	if err := st.CreateAPIToken(ctx, tenant, t, hash, store.Actor{Kind: "system", ID: name}); err != nil {
		return "", fmt.Errorf("new admin token: %w", err)
	}
	return secret, nil
}
