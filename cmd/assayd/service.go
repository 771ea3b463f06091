package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os/signal"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/server/ui"
	"github.com/assay-verifier/assay/store"
)

// serve runs the service until p.ctx ends. What is started is stopped in the reverse order: first the
// listeners and the requests in flight, then the store with its group commits, the traces, and Postgres
// last of all. issuer says what results name as their issuer; announce is told the address and, on a fresh database, the admin token.
func serve(p *process, c *Config, issuer func(public net.Listener) string, announce func(url, newToken string)) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	log := newLogger(p.stderr, c.LogLevel, c.LogFormat)
	ready := false
	var closers []func() error
	defer func() {
		for i := len(closers) - 1; i >= 0; i-- {
			err = errors.Join(err, closers[i]())
		}
		if ready {
			log.Info("stopped")
		}
	}()

	// The addresses first: a second service on the same ones must not touch the database.
	public, admin, err := listen(p.ctx, c)
	if err != nil {
		return err
	}
	closers = append(closers, func() error { closeQuietly(public, admin); return nil })

	url, stopDatabase, err := startDatabase(p.ctx, c, log)
	if err != nil {
		return err
	}
	closers = append(closers, stopDatabase)

	traces, stopTraces, err := startTracing(p.ctx, c, log)
	if err != nil {
		return err
	}
	closers = append(closers, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := stopTraces(ctx); err != nil {
			log.Warn("the last traces were not sent", "error", err)
		}
		return nil
	})

	st, err := openStore(p.ctx, c, url, traces, log)
	if err != nil {
		return err
	}
	closers = append(closers, func() error { st.Close(); return nil })

	if err := syncTrustBundles(p.ctx, st, c.TrustBundle, time.Now()); err != nil {
		return err
	}
	metrics, err := server.NewMetrics()
	if err != nil {
		return err
	}
	notifications, err := newNotify(p.ctx, c, st, metrics, log)
	if err != nil {
		return err
	}
	srv, attestation, tokens, err := newServer(p.ctx, c, st, issuer(public), notifications, metrics, traces, log)
	if err != nil {
		return err
	}
	secret, err := bootstrapAdmin(p.ctx, st, c.tokenFile(), time.Now())
	if err != nil {
		return err
	}
	if secret != "" {
		log.Info("a fresh database: the first admin token was written", "file", c.tokenFile())
	}
	stopJobs, err := startJobs(p.ctx, &worker{st: st, attestation: attestation, tokens: tokens, fetch: &c.Fetch, silence: &c.Silence, retention: &c.Retention, audit: &c.Audit}, log)
	if err != nil {
		return err
	}
	closers = append(closers, func() error { stopJobs(); return nil }, startNotify(p.ctx, notifications))

	warnOfPlainText(c, public, log)
	ready = true
	log.Info("ready", "version", version, "listen", public.Addr().String(), "admin_listen", addressOf(admin))
	announce(c.baseURL(public), secret)
	return srv.Serve(p.ctx, public, admin)
}

// listen opens both addresses.
func listen(ctx context.Context, c *Config) (public, admin net.Listener, err error) {
	var lc net.ListenConfig
	if public, err = lc.Listen(ctx, "tcp", c.Listen); err != nil {
		return nil, nil, err
	}
	if c.AdminListen == "" {
		return public, nil, nil
	}
	if admin, err = lc.Listen(ctx, "tcp", c.AdminListen); err != nil {
		return nil, nil, errors.Join(err, public.Close())
	}
	return public, admin, nil
}

// closeQuietly closes what the server has not closed itself.
func closeQuietly(listeners ...net.Listener) {
	for _, l := range listeners {
		if l != nil {
			_ = l.Close()
		}
	}
}

func addressOf(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// openStore migrates, unless told not to, and opens the store with its tenant.
func openStore(ctx context.Context, c *Config, url string, traces trace.TracerProvider, log *slog.Logger) (*store.Store, error) {
	if !c.NoMigrate {
		if err := c.migrateDatabase(ctx, url); err != nil {
			return nil, err
		}
	}
	quotas, err := c.Limits.quotas()
	if err != nil {
		return nil, err
	}
	st, err := c.openWithKeys(ctx, url, store.Options{MaxConns: c.DatabaseConnections, TracerProvider: traces, Quotas: quotas, Role: c.Roles.DatabaseAppRole}, log)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(checkFence(ctx, st, log), st.EnsureTenant(ctx, store.DefaultTenant, time.Now())); err != nil {
		st.Close()
		return nil, err
	}
	return st, nil
}

// newServer wires the use cases, the pages and the HTTP layer.
func newServer(ctx context.Context, c *Config, st *store.Store, issuer string, notifications *notify.Service, metrics *server.Metrics, traces trace.TracerProvider, log *slog.Logger) (*server.Server, *attest.Service, *token.Service, error) {
	tokens, attestation, err := newAttestation(ctx, st, issuer, &c.Results, c.MachineTokenLifetime, log, metrics.Appraisal)
	if err != nil {
		return nil, nil, nil, err
	}
	var srv *server.Server // the pages ask it, once it is there
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { srv.Inner().ServeHTTP(w, r) })
	pages, err := newPages(c, st, attestation, notifications, tokens, api, log)
	if err != nil {
		return nil, nil, nil, err
	}
	roots, err := c.Issuers.roots()
	if err != nil {
		return nil, nil, nil, err
	}
	files, err := c.TLSConfig.load()
	if err != nil {
		return nil, nil, nil, err
	}
	limits, err := c.Limits.limits(log)
	if err != nil {
		return nil, nil, nil, err
	}
	srv, err = server.New(server.Config{
		Store: st, Attest: attestation, Token: tokens, Issuer: issuer, Notify: notifications, Logger: log, Metrics: metrics, TracerProvider: traces, UI: pages,
		Issuers: c.Issuers.reach(), IssuerRoots: roots, Retention: c.Retention.standard(), MaxTokenLifetime: c.MaxTokenLifetime,
		ShutdownTimeout: c.ShutdownTimeout, TLS: files, Reload: hangups(signal.Notify), BindMachineTokens: c.BindMachineTokens, Limits: limits,
	})
	return srv, attestation, tokens, err
}

// keysOf gives the service's keys.
func keysOf(st *store.Store) func(ctx context.Context, purpose string, generate func() ([]byte, error)) ([]byte, error) {
	return func(ctx context.Context, purpose string, generate func() ([]byte, error)) ([]byte, error) {
		return st.ServiceKey(ctx, store.DefaultTenant, purpose, generate)
	}
}

// newNotify makes what delivers notifications.
func newNotify(ctx context.Context, c *Config, st *store.Store, metrics *server.Metrics, log *slog.Logger) (*notify.Service, error) {
	rules, err := c.Notify.reach()
	if err != nil {
		return nil, err
	}
	return notify.New(ctx, notify.Config{Store: st, Keys: keysOf(st), Logger: log, Reach: rules, AllowHTTP: c.Notify.NotifyAllowHTTP,
		Version: version, PublicURL: strings.TrimRight(c.PublicURL, "/"), Observe: metrics.Delivery, Stats: metrics.Deliveries})
}

// startNotify delivers until ctx ends or stop is called, which returns when nothing is under way.
func startNotify(ctx context.Context, s *notify.Service) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return func() error {
		cancel()
		return <-ended
	}
}

// newAttestation makes the use cases, with the service's keys.
func newAttestation(ctx context.Context, st *store.Store, issuer string, results *ResultConfig, machineTokens time.Duration, log *slog.Logger, observe func(attest.Observation)) (*token.Service, *attest.Service, error) {
	config := results.tokens(st)
	config.MachineLifetime = machineTokens
	tokens, err := token.New(ctx, config)
	if err != nil {
		return nil, nil, err
	}
	attestation, err := attest.New(attest.Config{
		Store: st, Token: tokens, Now: time.Now, Random: rand.Reader, Logger: log,
		Build: "assay " + version, Issuer: issuer, Observe: observe,
	})
	return tokens, attestation, err
}

// newPages makes the web pages. They take API tokens, as the API does.
func newPages(c *Config, st *store.Store, attestation *attest.Service, notifications *notify.Service, tokens *token.Service, api http.Handler, log *slog.Logger) (http.Handler, error) {
	return ui.New(ui.Config{
		Store: st, EventLog: attestation.DecodedLog, DryRun: attestation.DryRunVersion, PreviewApproval: attestation.PreviewApproval,
		ApproveAlert: attestation.ApproveAlert, RefuseAlert: attestation.RefuseAlert, DiffVersion: attestation.DiffVersion, TestChannel: notifications.Test,
		Tokens: tokens, API: api, Now: time.Now, Version: version, Logger: log,
		SecureCookies: c.TLSCert != "" || strings.HasPrefix(c.PublicURL, "https://"),
		May:           server.RoleMay,
		Authenticate: func(ctx context.Context, bearer string) (ui.Principal, error) {
			hash := sha256.Sum256([]byte(bearer))
			tenant, t, err := st.LookupAPIToken(ctx, hash[:], time.Now())
			if err != nil {
				return ui.Principal{}, fmt.Errorf("look up the token: %w", err)
			}
			if err := server.CheckBinding(ctx, &t); err != nil {
				return ui.Principal{}, err
			}
			return ui.Principal{Tenant: tenant, TokenID: t.ID, Name: t.Name, Role: t.Role, Owner: t.Owner, Scope: t.Scope}, nil
		},
	})
}

// warnOfPlainText says so where tokens would cross a network unencrypted.
func warnOfPlainText(c *Config, public net.Listener, log *slog.Logger) {
	address, ok := public.Addr().(*net.TCPAddr)
	if ok && !address.IP.IsLoopback() && c.TLSCert == "" {
		log.Warn("the public address is reachable from elsewhere and has no TLS: put a proxy that has before it, or set --tls-cert and --tls-key", "listen", address.String())
	}
}

// baseURL is the address to give to people.
func (c *Config) baseURL(public net.Listener) string {
	if c.PublicURL != "" {
		return strings.TrimRight(c.PublicURL, "/")
	}
	scheme := "http"
	if c.TLSCert != "" {
		scheme = "https"
	}
	return scheme + "://" + reachable(public.Addr().String())
}

// reachable is the address with a host that can be called: loopback for "all addresses".
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port)
}
