package server

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// purposeIdempotency is the service key that stored answers are sealed with: they may hold a token that
// is shown once, and the database is not to be a place to read it from.
const purposeIdempotency = "idempotency_seal"

func (s *Server) newSeal() (cipher.AEAD, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	key, err := s.store.ServiceKey(ctx, store.DefaultTenant, purposeIdempotency, func() ([]byte, error) {
		b := make([]byte, 32)
		_, err := io.ReadFull(s.random, b)
		return b, err
	})
	if err != nil {
		return nil, fmt.Errorf("server: key of stored answers: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("server: key of stored answers: %w", err)
	}
	return cipher.NewGCM(block)
}

// once is one request with an Idempotency-Key.
type once struct {
	tenant    uuid.UUID
	principal string
	key       string
}

// serveOnce lets a request through once per key. A repetition of the same request is answered from the
// store. After a crash between the handler and finish the key stays reserved for as long as
// store.BeginIdempotent says: until then a repetition is refused rather than done twice.
func (g *guard) serveOnce(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	s := g.s
	p := principalOf(r.Context())
	o := once{tenant: p.tenant, principal: p.name(), key: key}
	if p.kind == rolePublic { // anyone: the path holds the credential
		o.principal += ":" + r.URL.Path
	}
	stored, err := s.store.BeginIdempotent(r.Context(), o.tenant, o.principal, key, requestHash(r, body, p.scope), s.now())
	switch {
	case errors.Is(err, store.ErrConflict):
		s.fail(w, r, refuse(codeIdempotencyConflict, "the key was used with another request, or that request is still running"))
		return
	case err != nil:
		s.fail(w, r, fmt.Errorf("begin idempotent request: %w", err))
		return
	case stored != nil:
		callerScope(r.Context()) // the request's hash holds the scope that the answer was made for
		s.replay(w, r, o, stored)
		return
	}
	answer := &recordedAnswer{header: http.Header{}, status: http.StatusOK}
	done := false
	// The outcome is noted even where the client has gone away: it will ask again.
	ctx := context.WithoutCancel(r.Context())
	defer func() {
		if !done { // the handler panicked or failed: a repetition may try again
			if err := s.store.AbandonIdempotent(ctx, o.tenant, o.principal, key); err != nil {
				s.log.ErrorContext(ctx, "abandon idempotent request", "request_id", requestID(ctx), "error", err.Error())
			}
		}
	}()
	g.route.handle(answer, r)
	if answer.status < http.StatusInternalServerError {
		done = true
		if err := s.finish(ctx, o, answer); err != nil {
			s.log.ErrorContext(ctx, "keep idempotent answer", "request_id", requestID(ctx), "error", err.Error())
		}
	}
	answer.copyTo(w)
}

func (s *Server) finish(ctx context.Context, o once, a *recordedAnswer) error {
	nonce := make([]byte, s.seal.NonceSize())
	if _, err := io.ReadFull(s.random, nonce); err != nil {
		return err
	}
	sealed := s.seal.Seal(nonce, nonce, a.body.Bytes(), o.binding())
	return s.store.FinishIdempotent(ctx, o.tenant, o.principal, o.key, store.IdempotentResponse{
		Status: a.status, ContentType: a.header.Get("Content-Type"), Body: sealed,
	}, s.now())
}

func (s *Server) replay(w http.ResponseWriter, r *http.Request, o once, stored *store.IdempotentResponse) {
	n := s.seal.NonceSize()
	if len(stored.Body) < n {
		s.fail(w, r, errors.New("stored answer is too short"))
		return
	}
	body, err := s.seal.Open(nil, stored.Body[:n], stored.Body[n:], o.binding())
	if err != nil {
		s.fail(w, r, fmt.Errorf("open stored answer: %w", err))
		return
	}
	h := w.Header()
	h.Set("Idempotency-Replayed", "true")
	h.Set("Cache-Control", "no-store")
	if stored.ContentType != "" {
		h.Set("Content-Type", stored.ContentType)
	}
	if stored.Status != http.StatusNoContent {
		h.Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(stored.Status)
	_, _ = w.Write(body) //nolint:gosec // what was answered before, with its own content type and nosniff
}

// binding ties a sealed answer to its request, so that rows cannot be swapped.
func (o once) binding() []byte {
	return []byte(o.tenant.String() + "\x00" + o.principal + "\x00" + o.key)
}

// requestHash stands for a request and for where its sender has the permission for it: an answer from another scope is not
// answered again.
func requestHash(r *http.Request, body []byte, scope store.Scope) []byte {
	h := sha256.New()
	parts := []string{r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding")}
	if scope != nil {
		parts = append(parts, fmt.Sprint([]verifier.Selector(scope)))
	}
	for _, part := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	_, _ = h.Write(body)
	return h.Sum(nil)
}

// recordedAnswer keeps an answer so that it can be stored before it is sent.
type recordedAnswer struct {
	header http.Header
	status int
	wrote  bool
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *recordedAnswer) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *recordedAnswer) WriteHeader(status int) {
	if !a.wrote {
		a.wrote, a.status = true, status
	}
}

// Write implements http.ResponseWriter.
func (a *recordedAnswer) Write(b []byte) (int, error) {
	a.wrote = true
	return a.body.Write(b)
}

func (a *recordedAnswer) copyTo(w http.ResponseWriter) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body.Bytes())
}
