package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/limit"
	"github.com/assay-verifier/assay/server/tlsfile"
)

// Timeouts of connections. Agents keep theirs from one attestation to the next, so that the steady
// state has no TLS handshakes: idle connections live longer than the usual interval of five minutes.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = bodyGrace // whole request; the guard gives a body that comes fast enough more
	writeTimeout      = 120 * time.Second
	adminReadTimeout  = time.Minute
	idleTimeout       = 11 * time.Minute
	maxHeaderBytes    = 32 << 10
)

// HTTP/2 lets one connection ask for much at once. The server of net/http counts streams that were reset until their handlers
// have ended, and ends a connection that goes on (CVE-2023-44487).
const (
	maxStreams       = 64      // of a connection
	streamWindow     = 1 << 20 // bytes of a body that may come before they are read
	connectionWindow = 4 << 20
	pingAfter        = 30 * time.Second // of silence
	pingTimeout      = 15 * time.Second
	stalledWrite     = 30 * time.Second // nothing of an answer could be written
)

// reloadEvery is how often the files of TLS are looked at.
const reloadEvery = 10 * time.Second

// AdminHandler answers the second address, for operators only: /metrics, /debug/pprof/, /healthz and /readyz. It
// has no authentication and must not be reachable from outside.
func (s *Server) AdminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"status":"ok"}` + "\n"))
	})
	// Where the public address asks for certificates of clients, a health check asks here.
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if _, err := s.GetReadiness(r.Context(), openapi.GetReadinessRequestObject{}); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"status":"not ready"}` + "\n"))
			return
		}
		_, _ = w.Write([]byte(`{"status":"ok"}` + "\n"))
	})
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// Serve answers on the public listener and, where it is not nil, on the admin listener, until ctx ends.
// It then stops accepting, turns /readyz to not ready, finishes the requests in flight for up to
// Config.ShutdownTimeout, and returns nil; what was accepted is answered and stored. It closes the
// listeners. The caller closes the store afterwards, never before.
func (s *Server) Serve(ctx context.Context, public, admin net.Listener) error {
	logger := slog.NewLogLogger(s.log.Handler(), slog.LevelWarn)
	bounded := limit.NewListener(public, s.connections())
	unwatch, err := s.metrics.watchConnections(bounded)
	if err != nil {
		return errors.Join(err, public.Close(), closeIf(admin))
	}
	defer func() { _ = unwatch() }()
	servers := []*http.Server{{
		Handler: s.Handler(), ErrorLog: logger, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout,
		WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes, ConnState: bounded.State,
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerStream: streamWindow, MaxReceiveBufferPerConnection: connectionWindow,
			SendPingTimeout: pingAfter, PingTimeout: pingTimeout, WriteByteTimeout: stalledWrite},
	}}
	listeners := []net.Listener{bounded}
	if s.cfg.TLS != nil {
		servers[0].TLSConfig = s.cfg.TLS.Config()
		s.metrics.noteCertificate(s.cfg.TLS)
		watching, stop := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			s.cfg.TLS.Watch(watching, reloadEvery, s.cfg.Reload, func(c tlsfile.Change, err error) { s.reloaded(bounded, c, err) })
		}()
		defer func() { stop(); <-ended }()
	}
	if admin != nil {
		// No write timeout: a CPU profile takes as long as it was asked to.
		servers = append(servers, &http.Server{
			Handler: s.AdminHandler(), ErrorLog: logger, ReadHeaderTimeout: readHeaderTimeout,
			ReadTimeout: adminReadTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		})
		listeners = append(listeners, admin)
	}
	failed := make(chan error, len(servers))
	for i, srv := range servers {
		go func() {
			if srv.TLSConfig != nil {
				failed <- srv.ServeTLS(listeners[i], "", "")
				return
			}
			failed <- srv.Serve(listeners[i])
		}()
	}
	var problem error
	running := len(servers)
	select {
	case <-ctx.Done():
	case err := <-failed:
		problem = fmt.Errorf("server: %w", err)
		running--
	}
	return errors.Join(problem, s.drain(servers, failed, running))
}

// connections are the limits of the public address's. A proxy stands for all its clients.
func (s *Server) connections() limit.Connections {
	c := s.cfg.Limits.Connections
	if c.Exempt == nil && len(s.limits.proxies) > 0 {
		c.Exempt = s.limits.trusts
	}
	return c
}

// reloaded says that other files of TLS are in use, or why they are not. Where other certificates of clients are accepted, what is
// connected has to show one again.
func (s *Server) reloaded(l *limit.Listener, c tlsfile.Change, err error) {
	s.metrics.reloaded(err == nil)
	if err != nil {
		s.log.Error("the files of TLS changed and cannot be used: those before stay in use", "error", err.Error())
		return
	}
	s.metrics.noteCertificate(s.cfg.TLS)
	s.log.Info("the files of TLS changed and are in use", "certificate_ends", s.cfg.TLS.NotAfter(), "client_ca_changed", c.ClientCA)
	if c.ClientCA {
		l.Retire()
	}
}

// drain shuts the servers down and waits for their accept loops to end.
func (s *Server) drain(servers []*http.Server, failed <-chan error, running int) error {
	s.draining.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ShutdownTimeout)
	defer cancel()
	var problem error
	for _, srv := range servers {
		if err := srv.Shutdown(ctx); err != nil {
			problem = errors.Join(problem, fmt.Errorf("server: requests were still running: %w", err), srv.Close())
		}
	}
	for ; running > 0; running-- {
		if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
			problem = errors.Join(problem, err)
		}
	}
	return problem
}

func closeIf(l net.Listener) error {
	if l == nil {
		return nil
	}
	return l.Close()
}
