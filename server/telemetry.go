package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
)

// requestTrace is what telemetry knows of a request. The guard and fail add to it; only the goroutine
// that serves the request touches it.
type requestTrace struct {
	id        string
	remote    string
	principal string
	problem   string
	tls       *tls.ConnectionState // nil without TLS
}

type traceKey struct{}

func traceOf(ctx context.Context) *requestTrace {
	if t, ok := ctx.Value(traceKey{}).(*requestTrace); ok {
		return t
	}
	return &requestTrace{}
}

// requestID is the id that the answer, the log line, the audit record and a problem document share.
func requestID(ctx context.Context) string { return traceOf(ctx).id }

func notePrincipal(ctx context.Context, p principal) { traceOf(ctx).principal = p.name() }

func noteProblem(ctx context.Context, code string) { traceOf(ctx).problem = code }

// telemetry gives each request its id, security headers, recovery, log line and metrics.
func (s *Server) telemetry(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := s.now()
		t := &requestTrace{id: s.requestIDFor(r), remote: s.limits.clientAddress(r), tls: r.TLS}
		r = r.WithContext(context.WithValue(r.Context(), traceKey{}, t))
		answer := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		setSecurityHeaders(w.Header(), t.id, r.TLS != nil)
		defer func() {
			if v := recover(); v != nil {
				if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(v)
				}
				s.log.ErrorContext(r.Context(), "panic", "request_id", t.id, "panic", v, "stack", string(debug.Stack()))
				if answer.Status() == 0 {
					s.fail(answer, r, refuse(codeInternal, "the request could not be completed; its id finds the reason in the logs"))
				}
			}
			s.account(r, t, answer, s.now().Sub(start))
		}()
		next.ServeHTTP(answer, r)
	})
}

// account writes the log line and counts the request. The route is the pattern, never the path: a path
// may hold anything.
func (s *Server) account(r *http.Request, t *requestTrace, answer middleware.WrapResponseWriter, took time.Duration) {
	route := "none"
	if c := chi.RouteContext(r.Context()); c != nil && c.RoutePattern() != "" && c.RoutePattern() != "/*" {
		route = c.RoutePattern()
	}
	status := answer.Status()
	if status == 0 {
		status = http.StatusOK
	}
	method := knownMethod(r.Method)
	s.metrics.request(method, route, status, took)
	if span := trace.SpanFromContext(r.Context()); span.IsRecording() {
		span.SetName(method + " " + route)
		span.SetAttributes(attribute.String("http.route", route), attribute.String("assay.request_id", t.id))
	}
	if !s.log.Enabled(r.Context(), slog.LevelInfo) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request_id", t.id), slog.String("method", method), slog.String("route", route),
		slog.Int("status", status), slog.Duration("duration", took), slog.Int("bytes", answer.BytesWritten()),
		slog.String("principal", t.principal), slog.String("remote", t.remote),
	}
	if t.problem != "" {
		attrs = append(attrs, slog.String("problem", t.problem))
	}
	s.log.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
}

// requestIDFor takes the client's X-Request-Id where it is short and plain, else makes a UUIDv7.
func (s *Server) requestIDFor(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); plainID(id) {
		return id
	}
	id, err := s.newID()
	if err != nil { // no randomness: the request itself will fail where it needs some
		return "unknown"
	}
	return id.String()
}

func plainID(id string) bool {
	if id == "" || len(id) > 128 {
		return false
	}
	for i := 0; i < len(id); i++ {
		c := id[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}

func setSecurityHeaders(h http.Header, id string, tls bool) {
	h.Set("X-Request-Id", id)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cache-Control", "no-store")
	if tls {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

func remoteHost(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

// knownMethod keeps methods that a client made up out of labels.
func knownMethod(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return "OTHER"
}

// traced wraps the router in spans where tracing is configured. The client's Host is no attribute: it
// is the client's choice.
func (s *Server) traced(h http.Handler) http.Handler {
	if s.cfg.TracerProvider == nil {
		return h
	}
	return otelhttp.NewHandler(h, "request",
		otelhttp.WithTracerProvider(s.cfg.TracerProvider),
		otelhttp.WithMeterProvider(noop.NewMeterProvider()), // metrics.go has its own
		otelhttp.WithServerName("assay"),
		otelhttp.WithSpanNameFormatter(func(string, *http.Request) string { return "request" }),
	)
}
