package server

import (
	"context"
	"errors"
	"time"

	"github.com/assay-verifier/assay/openapi"
)

// readinessTimeout bounds the questions of one readiness probe.
const readinessTimeout = 3 * time.Second

// GetHealth says that the process is alive; it asks nobody.
func (s *Server) GetHealth(context.Context, openapi.GetHealthRequestObject) (openapi.GetHealthResponseObject, error) {
	return openapi.GetHealth200JSONResponse{Status: openapi.Ok}, nil
}

// GetReadiness says whether the service can do its work. What is missing is named, not why: the reason
// is in the logs.
func (s *Server) GetReadiness(ctx context.Context, _ openapi.GetReadinessRequestObject) (openapi.GetReadinessResponseObject, error) {
	if s.draining.Load() {
		return nil, refuse(codeNotReady, "the service is shutting down")
	}
	ctx, cancel := context.WithTimeout(ctx, readinessTimeout)
	defer cancel()
	for _, c := range []struct {
		what string
		ask  func(context.Context) error
	}{
		{"the database does not answer", s.store.Ping},
		{"the database's schema is not of this version", s.store.CheckMigrations},
		{"the signing keys are not there", s.checkKeys},
		{"a part of the service is not ready", s.cfg.CheckReady},
	} {
		if c.ask == nil {
			continue
		}
		if err := c.ask(ctx); err != nil {
			s.log.WarnContext(ctx, "not ready", "request_id", requestID(ctx), "what", c.what, "error", err.Error())
			return nil, refuse(codeNotReady, c.what).with("Retry-After", "5")
		}
	}
	return openapi.GetReadiness200JSONResponse{Status: openapi.Ok}, nil
}

var errNoKeys = errors.New("no key signs results")

// checkKeys asks for a key that signs now.
func (s *Server) checkKeys(context.Context) error {
	if _, _, err := s.token.DocumentSigner(); err != nil {
		return errors.Join(errNoKeys, err)
	}
	return nil
}
