package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// Timeouts of connections. Agents keep theirs from one attestation to the next, so that the steady
// state has no TLS handshakes: idle connections live longer than the usual interval of five minutes.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 60 * time.Second // whole request: 16 MiB at 280 kB/s
	writeTimeout      = 120 * time.Second
	idleTimeout       = 11 * time.Minute
	maxHeaderBytes    = 32 << 10
)

// AdminHandler answers the second address, for operators only: /metrics, /debug/pprof/ and /healthz. It
// has no authentication and must not be reachable from outside.
func (s *Server) AdminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
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
	servers := []*http.Server{{
		Handler: s.Handler(), ErrorLog: logger, ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout,
		WriteTimeout: writeTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
	}}
	listeners := []net.Listener{public}
	if s.cfg.TLSCertFile != "" {
		certificate, err := tls.LoadX509KeyPair(s.cfg.TLSCertFile, s.cfg.TLSKeyFile)
		if err != nil {
			return errors.Join(fmt.Errorf("server: TLS: %w", err), public.Close(), closeIf(admin))
		}
		// Records as large as the answer: by default Go begins with records of one packet each, and each is a
		// system call; for a verdict's ten that was a fifth of what an unchanged attestation costs the service.
		servers[0].TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}, DynamicRecordSizingDisabled: true}
	}
	if admin != nil {
		// No write timeout: a CPU profile takes as long as it was asked to.
		servers = append(servers, &http.Server{
			Handler: s.AdminHandler(), ErrorLog: logger, ReadHeaderTimeout: readHeaderTimeout,
			ReadTimeout: readTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
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
