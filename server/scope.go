package server

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/verifier"
)

// roles names the roles of a principal, for people.
func (p principal) roles() string {
	names := make([]string, 0, len(p.grants))
	for _, g := range p.grants {
		if !slices.Contains(names, string(g.role)) {
			names = append(names, string(g.role))
		}
	}
	return "the role " + strings.Join(names, ", ")
}

// beyondScope is the refusal of what would reach machines that the caller may not.
func beyondScope(what string) error {
	return refuse(codeScopeForbids, what+" is for more than the machines that you may see; name machines, a scale set or labels of your selector")
}

// mayChoose refuses a selector that is wider than where the caller has the permission for this operation.
func (s *Server) mayChoose(ctx context.Context, selector verifier.Selector) error {
	covered, err := s.store.Covers(ctx, principalOf(ctx).tenant, callerScope(ctx), selector)
	if err == nil && !covered {
		err = beyondScope("the selector")
	}
	return err
}

// mayChange answers store.ErrNotFound for a baseline outside of the caller's scope that the path does not name.
func (s *Server) mayChange(ctx context.Context, baseline uuid.UUID) error {
	scope := callerScope(ctx)
	if scope == nil {
		return nil
	}
	return s.store.InScope(ctx, principalOf(ctx).tenant, scope, string(scopeBaseline), baseline)
}

// mayApprove refuses the approval of an alert that would be written into a baseline for machines outside of the scope.
func (s *Server) mayApprove(ctx context.Context, alert uuid.UUID, choice attest.ApprovalChoice) error {
	p := principalOf(ctx)
	if callerScope(ctx) == nil {
		return nil
	}
	a, err := s.attest.PreviewApproval(ctx, p.tenant, alert, choice)
	if err != nil {
		return err
	}
	covered, err := s.store.Covers(ctx, p.tenant, callerScope(ctx), a.Selector)
	if err == nil && !covered {
		err = refuse(string(attest.CodeNotApprovable), "the baseline "+quoted(a.Name)+" is for more than the machines that you may see; approve for the machine alone")
	}
	return err
}

// firstState settles the state that a new version is asked to begin in; fallback is for a request that asks for none, and
// asked what it becomes where the two-person rule is not in force. Who may not approve makes drafts. What a pipeline may is
// said by its rules.
func firstState(ctx context.Context, state, fallback string) (given, asked string, err error) {
	p := principalOf(ctx)
	draft := string(openapi.BaselineStateDraft)
	switch {
	case p.pipeline != nil || p.may(permApprove):
	case state == "":
		return draft, draft, nil
	case state != draft:
		return "", "", refuse(codeForbidden, "only who has the permission "+string(permApprove)+" makes a version that counts at once; leave the state out to register a draft")
	}
	if state == "" {
		return "", fallback, nil
	}
	return state, state, nil
}

// scopeFence stands between a handler and a principal that is limited to some machines: an answer that was made without
// asking for the limits is not sent. It is a second fence. The first is the handler, and a test asks each of them.
type scopeFence struct {
	http.ResponseWriter
	asked  *bool
	fail   func(http.ResponseWriter)
	header bool
	closed bool
}

// WriteHeader implements http.ResponseWriter. A refusal shows nothing of any machine.
func (f *scopeFence) WriteHeader(status int) {
	if f.header {
		return
	}
	f.header = true
	if !*f.asked && status < http.StatusBadRequest {
		f.closed = true
		f.fail(f.ResponseWriter)
		return
	}
	f.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (f *scopeFence) Write(b []byte) (int, error) {
	f.WriteHeader(http.StatusOK)
	if f.closed {
		return len(b), nil
	}
	return f.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (f *scopeFence) Unwrap() http.ResponseWriter { return f.ResponseWriter }
