package server

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/server/tlsfile"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
)

// Config is what a Server is made of. Store, Attest, Token and Notify are needed.
type Config struct {
	Store  *store.Store
	Attest *attest.Service
	Token  *token.Service
	Notify *notify.Service

	// Issuer is the URL of this service that results name, as attest.Config has it; empty where they name none.
	Issuer string
	// Now is the clock; nil means time.Now. Random makes ids and tokens; nil means crypto/rand.
	Now    func() time.Time
	Random io.Reader
	// Logger gets one line a request and every failure; nil discards them. Tokens and bodies are never logged.
	Logger *slog.Logger
	// Metrics counts requests; share it with attest.Config.Observe so that appraisals are counted in the
	// same place. nil makes one.
	Metrics *Metrics
	// TracerProvider gets a span a request; nil means no tracing (and none of its cost).
	TracerProvider trace.TracerProvider
	// UI is mounted at /ui/; nil means that /ui/ is not found.
	UI http.Handler
	// CheckReady are further conditions of /readyz, beside database, migrations and keys.
	CheckReady func(ctx context.Context) error

	// BodyBudget bounds the bytes of all request bodies in work at one time; 0 means 256 MiB. A body of
	// unknown length counts as the largest that its operation accepts.
	BodyBudget int64
	// MaxTokenLifetime is the longest life of a new API token, and the life of one that is asked for without; 0 means that they
	// may live for ever.
	MaxTokenLifetime time.Duration
	// ShutdownTimeout is how long Serve waits for requests in flight; 0 means 30 s.
	ShutdownTimeout time.Duration
	// Issuers says which identity providers may be asked for their keys; the zero value: public https only.
	// IssuerRoots are the certificates that theirs must chain to; nil means the system's.
	Issuers     auth.Reach
	IssuerRoots *x509.CertPool
	// Retention is how long tenants that have decided nothing keep what was judged; the zero value is store.DefaultRetention.
	Retention store.Retention
	// TLS makes the public address speak TLS 1.2 and 1.3; nil means that it does not. Serve reloads it.
	TLS *tlsfile.Source
	// BindMachineTokens binds machine tokens to the certificate that the agent shows, where it shows one.
	BindMachineTokens bool
	// Limits bound what clients may take; nil means DefaultLimits.
	Limits *Limits
	// Reload, where something comes on it, makes Serve look at the files of TLS at once.
	Reload <-chan os.Signal
}

// Server answers the contract in package openapi. It is safe for concurrent use.
type Server struct {
	store    *store.Store
	attest   *attest.Service
	token    *token.Service
	now      func() time.Time
	random   io.Reader
	log      *slog.Logger
	metrics  *Metrics
	tokens   *tokenCache
	identity *auth.Verifier
	seal     cipher.AEAD
	budget   *semaphore.Weighted
	limits   *limiter
	problems map[string]problemKind
	cfg      Config
	handler  http.Handler
	upserts  chan struct{} // one place for each inventory write at work
	exports  chan struct{} // one place for each export under way
	draining atomic.Bool
}

// New makes a Server. It fails where the routes and the contract disagree (a missing route, a role that
// is not the documented one, a request schema that cannot be enforced), so that nothing is served by
// accident.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Attest == nil || cfg.Token == nil || cfg.Notify == nil {
		return nil, errors.New("server: Store, Attest, Token and Notify are needed")
	}
	cfg.setDefaults()
	if cfg.Metrics == nil {
		m, err := NewMetrics()
		if err != nil {
			return nil, err
		}
		cfg.Metrics = m
	}
	s := &Server{
		store: cfg.Store, attest: cfg.Attest, token: cfg.Token, now: cfg.Now, random: cfg.Random,
		log: cfg.Logger, metrics: cfg.Metrics, tokens: newTokenCache(),
		budget: semaphore.NewWeighted(cfg.BodyBudget), upserts: make(chan struct{}, maxConcurrentUpserts), exports: make(chan struct{}, maxExports), cfg: cfg,
	}
	var err error
	if s.limits, err = newLimiter(*cfg.Limits, cfg.Now, cfg.Metrics.refuse); err != nil {
		return nil, err
	}
	if err := cfg.Metrics.watchGates(s.limits.gates); err != nil {
		return nil, err
	}
	s.identity = auth.New(auth.Config{
		Providers: s.store.ProvidersOf, SaveKeys: s.store.SaveIssuerKeys, Now: cfg.Now, Logger: cfg.Logger, Reach: cfg.Issuers, Roots: cfg.IssuerRoots,
	})
	doc, err := loadContract()
	if err != nil {
		return nil, err
	}
	if s.problems, err = problemCatalogue(doc); err != nil {
		return nil, err
	}
	if err := checkTokenCodes(doc, s.problems); err != nil {
		return nil, err
	}
	if s.seal, err = s.newSeal(); err != nil {
		return nil, err
	}
	if s.handler, err = s.buildHandler(doc); err != nil {
		return nil, err
	}
	return s, nil
}

func (c *Config) setDefaults() {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Random == nil {
		c.Random = rand.Reader
	}
	if c.Retention == (store.Retention{}) {
		c.Retention = store.DefaultRetention
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.BodyBudget == 0 {
		c.BodyBudget = 256 << 20
	}
	c.BodyBudget = max(c.BodyBudget, maxEvidenceBody)
	if c.Limits == nil {
		limits := DefaultLimits()
		c.Limits = &limits
	}
	if c.ShutdownTimeout == 0 {
		c.ShutdownTimeout = 30 * time.Second
	}
}

// Handler answers the public address.
func (s *Server) Handler() http.Handler { return s.handler }

// Inner answers requests that a page makes out of one that it is answering itself: the router must not take them for a
// part of that one's path.
func (s *Server) Inner() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), chi.RouteCtxKey, (*chi.Context)(nil))
		s.handler.ServeHTTP(w, r.WithContext(context.WithValue(ctx, innerKey{}, true)))
	})
}

// loadContract parses and validates the embedded contract.
func loadContract() (*openapi3.T, error) {
	loader := openapi3.NewLoader()
	doc, err := loader.LoadFromData(openapi.Document)
	if err != nil {
		return nil, fmt.Errorf("server: openapi.yaml: %w", err)
	}
	if err := doc.Validate(loader.Context, openapi3.DisableExamplesValidation()); err != nil {
		return nil, fmt.Errorf("server: openapi.yaml: %w", err)
	}
	return doc, nil
}

// problemCatalogue reads the contract's table of problem codes.
func problemCatalogue(doc *openapi3.T) (map[string]problemKind, error) {
	raw, ok := doc.Extensions["x-problem-catalogue"].(map[string]any)
	if !ok {
		return nil, errors.New("server: openapi.yaml has no x-problem-catalogue")
	}
	kinds := make(map[string]problemKind, len(raw))
	for code, v := range raw {
		entry, _ := v.(map[string]any)
		status, isNumber := entry["status"].(float64)
		title, isText := entry["title"].(string)
		detail, hasDetail := entry["detail"].(string)
		if !isNumber || !isText || !hasDetail {
			return nil, fmt.Errorf("server: openapi.yaml: x-problem-catalogue: %s needs status, title and detail", code)
		}
		kinds[code] = problemKind{status: int(status), title: title, detail: detail}
	}
	return kinds, nil
}

// checkTokenCodes makes sure that the contract lists what an identity token is refused with.
func checkTokenCodes(doc *openapi3.T, problems map[string]problemKind) error {
	listed, _ := doc.Extensions["x-token-problem-codes"].([]any)
	for _, code := range auth.TokenCodes() {
		if _, known := problems[code]; !known || !slices.Contains(listed, any(code)) {
			return fmt.Errorf("server: openapi.yaml: %s is not in x-token-problem-codes and the catalogue", code)
		}
	}
	if len(listed) != len(auth.TokenCodes()) {
		return errors.New("server: openapi.yaml: x-token-problem-codes lists a code that no token is refused with")
	}
	return nil
}

// newID makes a UUIDv7 from the server's randomness.
func (s *Server) newID() (uuid.UUID, error) { return uuid.NewV7FromReader(s.random) }
