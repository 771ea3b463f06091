package ui

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
)

// Config is what the pages are made from. Store, EventLog, Authenticate, May and Now are needed.
type Config struct {
	Store *store.Store

	// EventLog decodes the boot log behind a verdict: attest.Service.DecodedLog.
	EventLog func(ctx context.Context, tenant, verdictID uuid.UUID) ([]attest.DecodedEvent, error)

	// DryRun judges stored evidence by a baseline version: attest.Service.DryRunVersion. nil leaves the button out.
	DryRun func(ctx context.Context, tenant, baselineID uuid.UUID, version int, progress attest.Progress) (*attest.Trial, error)

	// Authenticate says whose the bearer token is. An error that is store.ErrTokenInvalid or
	// store.ErrNotFound means that the token is no good and leads to the sign-in page; any other error
	// is a failure of the service. Principals who may not look at the fleet as a whole are refused by the pages.
	Authenticate func(ctx context.Context, bearer string) (Principal, error)

	// May tells whether a role has a permission: server.RoleMay, the table by which the API decides.
	May func(role store.Role, permission string) bool

	// PreviewApproval, ApproveAlert and RefuseAlert are those of attest.Service, DiffVersion too. Without them the pages offer
	// neither approval nor comparison.
	PreviewApproval func(ctx context.Context, tenant, alertID uuid.UUID, choice attest.ApprovalChoice) (*attest.Approval, error)
	ApproveAlert    func(ctx context.Context, tenant, alertID uuid.UUID, r attest.ApprovalRequest, actor store.Actor) (*attest.Approval, store.BaselineVersion, error)
	RefuseAlert     func(ctx context.Context, tenant, alertID uuid.UUID, comment string, verdictID *uuid.UUID, actor store.Actor) error
	DiffVersion     func(ctx context.Context, tenant, baselineID uuid.UUID, n, from int) (attest.VersionDiff, error)

	// API is asked for lists as CSV, with the token of whoever is signed in. Without it the pages offer no download.
	API http.Handler

	// TestChannel is that of notify.Service. Without it the pages offer no test.
	TestChannel func(ctx context.Context, tenant, channel uuid.UUID, actor store.Actor) (store.ClaimedDelivery, store.AttemptResult, error)

	// Tokens holds the keys that sign results. Without it there is no page of them.
	Tokens *token.Service

	// Now is the clock: times are shown relative to it.
	Now func() time.Time

	// Version is shown in the footer, e.g. "1.4.0".
	Version string

	// SecureCookies marks the session cookie Secure, so that browsers never send it over plain HTTP. Set
	// it wherever people reach the service by HTTPS. Danger: without it a session can be read off the
	// network; with it nobody can sign in over plain HTTP (browsers make an exception for localhost).
	SecureCookies bool

	// Logger gets what went wrong inside; pages show an id instead. nil discards it.
	Logger *slog.Logger
}

// Principal is who a bearer token stands for.
type Principal struct {
	Tenant  uuid.UUID
	TokenID uuid.UUID
	Name    string // the token's name, shown to its owner
	Role    store.Role
	Owner   string      // the person that the token is of: store.APIToken.Owner
	Scope   store.Scope // what the role is given for; the pages are for the whole tenant only
}

// handler serves the pages.
type handler struct {
	Config
	pages map[string]*template.Template
}

// New checks the configuration and returns the handler of everything below /ui/.
func New(cfg Config) (http.Handler, error) {
	if cfg.Store == nil || cfg.EventLog == nil || cfg.Authenticate == nil || cfg.May == nil || cfg.Now == nil {
		return nil, errors.New("ui: Store, EventLog, Authenticate, May and Now are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	pages, err := parsePages()
	if err != nil {
		return nil, fmt.Errorf("ui: %w", err)
	}
	return (&handler{Config: cfg, pages: pages}).routes(), nil
}

// routes is the table of pages. What page wraps needs a session; what change wraps needs the
// permission, and the form's token.
func (h *handler) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ui/static/{file}", h.static)
	mux.HandleFunc("GET /ui/sign-in", h.signInPage)
	mux.HandleFunc("POST /ui/sign-in", h.signIn)
	mux.HandleFunc("POST /ui/sign-out", h.signOut)

	mux.HandleFunc("GET /ui/{$}", h.page(h.overview))
	mux.HandleFunc("GET /ui/machines", h.page(h.machines))
	mux.HandleFunc("GET /ui/machines/{id}", h.page(h.machine))
	mux.HandleFunc("GET /ui/verdicts", h.page(h.verdicts))
	mux.HandleFunc("GET /ui/verdicts/{id}", h.page(h.verdict))
	mux.HandleFunc("GET /ui/alerts", h.page(h.alerts))
	mux.HandleFunc("GET /ui/alerts/{id}", h.page(h.alert))
	mux.HandleFunc("POST /ui/alerts/{id}/{action}", h.change(mayAlerts, h.changeAlert))
	mux.HandleFunc("POST /ui/alerts/{id}/approve", h.change(mayApprove, h.approveAlert))
	mux.HandleFunc("POST /ui/alerts/{id}/refuse", h.change(mayRefuse, h.refuseAlert))
	mux.HandleFunc("POST /ui/alerts/{id}/comments", h.change(mayAlerts, h.commentAlert))
	mux.HandleFunc("GET /ui/incidents", h.page(h.incidents))
	mux.HandleFunc("GET /ui/incidents/{id}", h.page(h.incident))
	mux.HandleFunc("POST /ui/incidents/{id}/{action}", h.change(mayAlerts, h.changeIncident))
	mux.HandleFunc("GET /ui/recommendations", h.page(h.recommendations))
	mux.HandleFunc("GET /ui/catalog", h.page(h.catalog))
	mux.HandleFunc("GET /ui/catalog/{code}", h.page(h.catalogEntry))
	mux.HandleFunc("GET /ui/baselines", h.page(h.baselines))
	mux.HandleFunc("GET /ui/baselines/{id}", h.page(h.baseline))
	mux.HandleFunc("GET /ui/baselines/{id}/versions/{n}", h.page(h.baselineVersion))
	mux.HandleFunc("POST /ui/baselines/{id}/versions/{n}/dry-run", h.page(h.dryRun))
	mux.HandleFunc("POST /ui/baselines/{id}/versions/{n}/promote", h.change(mayPromote, h.changeVersion("promote")))
	mux.HandleFunc("POST /ui/baselines/{id}/versions/{n}/approve", h.change(mayApprove, h.changeVersion("approve")))
	mux.HandleFunc("POST /ui/baselines/{id}/versions/{n}/retire", h.change(mayApprove, h.changeVersion("retire")))
	mux.HandleFunc("GET /ui/suppressions", h.page(h.suppressions))
	mux.HandleFunc("GET /ui/notifications", h.page(h.notifications))
	mux.HandleFunc("POST /ui/notifications/{id}/{action}", h.change(mayChannels, h.changeChannel))
	mux.HandleFunc("POST /ui/deliveries/{id}/replay", h.change(mayChannels, h.replayDelivery))
	mux.HandleFunc("GET /ui/audit", h.page(h.audit))
	mux.HandleFunc("GET /ui/signing-keys", h.page(h.signingKeys))
	mux.HandleFunc("POST /ui/signing-keys/rotate", h.change(mayKeys, h.rotateSigningKeys))
	mux.HandleFunc("POST /ui/signing-keys/{kid}/revoke", h.change(mayKeys, h.revokeSigningKey))
	mux.HandleFunc("POST /ui/suppressions", h.change(maySuppress, h.makeSuppression))
	mux.HandleFunc("POST /ui/suppressions/simulate", h.change(mayLook, h.simulateSuppression))
	mux.HandleFunc("GET /ui/export/{list}", h.page(h.export))
	mux.HandleFunc("GET /ui/", h.page(func(http.ResponseWriter, *http.Request, session) error { return errNoPage }))

	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.fail(w, r, session{}, errCrossOrigin)
	}))
	return secured(guard.Handler(mux))
}

// secured sets the headers that every answer carries. Everything comes from the service itself, nothing
// inline; the referrer policy keeps paths from other sites yet lets browsers send Origin with forms.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "+
			"form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("X-Frame-Options", "DENY")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		header.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}
