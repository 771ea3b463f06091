package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/verifier"
)

// mediaNDJSON asks for progress: one JSON object a line (https://github.com/ndjson/ndjson-spec).
const mediaNDJSON = "application/x-ndjson"

// trialPatience is how long a client may take to read a line of progress, and a trial to get to its next.
const trialPatience = 2 * time.Minute

// trialFunc is a trial that only lacks somebody to tell of its progress.
type trialFunc func(attest.Progress) (*attest.Trial, error)

// dryRunVersion judges stored evidence by a version.
func (s *Server) dryRunVersion(w http.ResponseWriter, r *http.Request) {
	id, idErr := uuid.Parse(pathParameter(r, "baseline_id"))
	version, versionErr := strconv.Atoi(pathParameter(r, "version"))
	if idErr != nil || versionErr != nil { // the guard has looked at both
		s.fail(w, r, refuse(codeNotFound, "there is no such version"))
		return
	}
	if err := s.mayWriteTo(r.Context(), id, auth.ActionDryRun, ""); err != nil {
		s.fail(w, r, err)
		return
	}
	s.answerTrial(w, r, func(p attest.Progress) (*attest.Trial, error) {
		return s.attest.DryRunVersion(r.Context(), principalOf(r.Context()).tenant, id, version, p)
	})
}

// dryRunValues judges stored evidence by reference values that are not registered.
func (s *Server) dryRunValues(w http.ResponseWriter, r *http.Request) {
	var body openapi.DryRunRequest
	err := json.Unmarshal(bodyOf(r), &body)
	var values verifier.ReferenceValues
	if err == nil {
		values, err = referenceOf(body.ReferenceValues)
	}
	if err == nil && body.BaselineID != nil && body.Selector != nil {
		err = refuseField(codeInvalidField, "/selector", "the baseline that baseline_id names has its own")
	}
	if err == nil {
		err = s.mayTry(r.Context(), &body)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.answerTrial(w, r, func(p attest.Progress) (*attest.Trial, error) {
		return s.attest.DryRunValues(r.Context(), principalOf(r.Context()).tenant, body.BaselineID, selectorOf(body.Selector), values, p)
	})
}

// mayTry decides whether the caller may ask what would become of the machines that the values are for: the answer names
// them. Whoever is no pipeline may.
func (s *Server) mayTry(ctx context.Context, body *openapi.DryRunRequest) error {
	if body.BaselineID != nil {
		if err := s.mayChange(ctx, *body.BaselineID); err != nil {
			return err
		}
		return s.mayWriteTo(ctx, *body.BaselineID, auth.ActionDryRun, "")
	}
	attempt := auth.Attempt{Action: auth.ActionDryRun, Selector: selectorOf(body.Selector)}
	if body.Name != nil {
		attempt.Baseline = *body.Name
	}
	return s.mayWrite(ctx, attempt)
}

// testPolicy judges stored evidence by a policy.
func (s *Server) testPolicy(w http.ResponseWriter, r *http.Request) {
	var body openapi.PolicyTestRequest
	err := json.Unmarshal(bodyOf(r), &body)
	var policy verifier.Policy
	if err == nil {
		if policy, err = policyOf(body.Policy); err != nil {
			err = within("/policy", err)
		}
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	var selector *verifier.Selector
	if body.Selector != nil {
		chosen := selectorOf(body.Selector)
		selector = &chosen
	}
	s.answerTrial(w, r, func(p attest.Progress) (*attest.Trial, error) {
		return s.attest.TestPolicy(r.Context(), principalOf(r.Context()).tenant, policy, selector, p)
	})
}

// answerTrial runs a trial and answers it: whole, or with its progress where the client asks for that. It ends when the
// client goes away.
func (s *Server) answerTrial(w http.ResponseWriter, r *http.Request, try trialFunc) {
	l := trialLines{w: w, wanted: accepts(r, mediaNDJSON)}
	result, err := try(l.progress)
	switch {
	case err != nil && !l.begun:
		s.fail(w, r, err)
	case err != nil:
		_, doc := s.problemOf(r, err)
		l.write(map[string]any{"problem": doc})
	case l.wanted:
		l.write(map[string]any{"result": result})
	default:
		if err := (jsonAnswer{http.StatusOK, result}).write(w); err != nil {
			s.fail(w, r, err)
		}
	}
}

// accepts tells whether the client names a media type in its Accept header.
func accepts(r *http.Request, media string) bool {
	for _, header := range r.Header.Values("Accept") {
		for _, part := range strings.Split(header, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), media) {
				return true
			}
		}
	}
	return false
}

// trialLines writes a trial as lines, each as soon as it is known.
type trialLines struct {
	w      http.ResponseWriter
	wanted bool
	begun  bool
}

// progress tells of the progress, and moves on the time by which the connection is given up.
func (l *trialLines) progress(done, total int64) {
	// Not every ResponseWriter has a deadline: an answer that is kept for an Idempotency-Key is not sent yet.
	_ = http.NewResponseController(l.w).SetWriteDeadline(time.Now().Add(trialPatience))
	if l.wanted {
		l.write(map[string]any{"progress": map[string]int64{"done": done, "total": total}})
	}
}

func (l *trialLines) write(line any) {
	if !l.begun {
		l.begun = true
		h := l.w.Header()
		h.Set("Content-Type", mediaNDJSON)
		h.Set("Cache-Control", "no-store")
		l.w.WriteHeader(http.StatusOK)
	}
	// A client that has gone away is noticed by its context.
	_ = json.NewEncoder(l.w).Encode(line)
	_ = http.NewResponseController(l.w).Flush()
}
