package attest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/ear"
)

// ResultRequest is how a relying party wants a result. None of it changes what the result says.
type ResultRequest struct {
	Audience  string // empty: for nobody in particular
	Nonce     string // the relying party's, echoed
	Algorithm string // empty: the default
	Profile   string // ear.Profile (also when empty) or ear.ProfileIETF
	// With an Audience, the machine has to be affirming but for these: its consumer may read who it is for, and not the status.
	AllowWarning bool // also warning
	AnyStatus    bool // any
}

// admits tells whether a result of that status may be made out as it is asked for.
func (r *ResultRequest) admits(status string) bool {
	return r.Audience == "" || r.AnyStatus || status == verifier.Affirming.String() || (r.AllowWarning && status == verifier.Warning.String())
}

// IssuedResult is a signed result about a machine's standing verdict.
type IssuedResult struct {
	Token     string
	VerdictID uuid.UUID
	Status    string // as the result says, which may be less than the verdict's
	Algorithm string
	ExpiresAt time.Time
}

// IssueResult signs what the machine was judged to be last, for a relying party. It is valid until the next evidence is due, or
// for as long as the service is configured. CodeNotFound; CodeNoVerdict before the first verdict; CodeVerdictStale where
// evidence is overdue, or the machine has no longer the attestation key that the verdict is about; CodeNotAffirming where
// it would be made out to an audience, and the machine's status is not what that takes.
func (s *Service) IssueResult(ctx context.Context, tenant, machineID uuid.UUID, r ResultRequest, opts ...Option) (*IssuedResult, error) {
	now := s.now()
	standing, err := s.store.Standing(ctx, tenant, machineID)
	if err != nil {
		return nil, fromStore("issue result", err)
	}
	if o := collect(opts); o.keyID != nil && (standing.KeyID == nil || *standing.KeyID != *o.keyID) {
		return nil, o.admits(nil)
	}
	if standing.VerdictID == nil {
		return nil, errorf(CodeNoVerdict, "the machine has sent no evidence yet")
	}
	v, err := s.store.GetVerdict(ctx, tenant, *standing.VerdictID)
	if err != nil {
		return nil, fmt.Errorf("issue result: %w", err)
	}
	if why := unsettled(&v, standing, now); why != "" {
		return nil, errorf(CodeVerdictStale, "%s; the machine has to attest again", why.text())
	}
	tokenID, err := uuid.NewV7FromReader(s.random)
	if err != nil {
		return nil, fmt.Errorf("issue result: %w", err)
	}
	lifetime := s.token.Lifetime(standing.NextDueAt.Sub(now))
	claims := ear.From(&v.Appraisal, ear.Context{
		TokenID: tokenID.String(), VerdictID: v.ID.String(), MachineID: machineID.String(), Issuer: s.issuer, Audience: r.Audience,
		Build: s.build, RelyingNonce: r.Nonce, IssuedAt: now, Lifetime: lifetime,
	})
	if status := claims.Submods[ear.Submodule].Status; !r.admits(status) {
		return nil, errorf(CodeNotAffirming, "the machine's status is %s; any_status gives a result to a relying party that reads it there", status)
	}
	out := &IssuedResult{VerdictID: v.ID, Status: claims.Submods[ear.Submodule].Status, Algorithm: r.Algorithm, ExpiresAt: time.Unix(claims.Expires, 0).UTC()}
	if out.Algorithm == "" {
		out.Algorithm = relying.EdDSA
	}
	var set any = claims
	if r.Profile == ear.ProfileIETF {
		set = claims.IETF()
	}
	if out.Token, err = s.token.Sign(ctx, out.Algorithm, set); err != nil {
		return nil, err
	}
	return out, nil
}

// InactiveReason is why a result does not hold any more.
type InactiveReason string

// The reasons.
const (
	InactiveUnknown    InactiveReason = "unknown"               // no result of this tenant
	InactiveExpired    InactiveReason = "expired"               //
	InactiveKeyRevoked InactiveReason = "key_revoked"           // the key that signed it was withdrawn
	InactiveSuperseded InactiveReason = "superseded"            // the same evidence was judged again
	InactiveReplaced   InactiveReason = "replaced"              // later evidence was judged otherwise
	InactiveKeyEnded   InactiveReason = "attestation_key_ended" // the machine was released, or has another key
	InactiveStale      InactiveReason = "stale"                 // evidence is overdue
)

func (r InactiveReason) text() string {
	switch r {
	case InactiveSuperseded, InactiveReplaced:
		return "the verdict was judged again"
	case InactiveKeyEnded:
		return "the machine has no longer the attestation key that its verdict is about"
	case InactiveUnknown, InactiveExpired, InactiveKeyRevoked, InactiveStale:
	}
	return "the machine's evidence is overdue"
}

// unsettled tells why a verdict is not what is known of its machine now; empty where it is.
func unsettled(v *store.Verdict, standing store.Standing, now time.Time) InactiveReason {
	switch {
	case v.SupersededBy != nil:
		return InactiveSuperseded
	case standing.VerdictID == nil || *standing.VerdictID != v.ID:
		return InactiveReplaced
	case standing.KeyID == nil || *standing.KeyID != v.KeyID:
		return InactiveKeyEnded
	case standing.NextDueAt == nil || !now.Before(*standing.NextDueAt):
		return InactiveStale
	}
	return ""
}

// Introspection is what is known of a result.
type Introspection struct {
	MachineID *uuid.UUID // whom the result is about; nil where it names nothing of ours
	Active    bool
	Claims    relying.Claims // of an active result
	Reason    InactiveReason // of another
	// CurrentStatus is what the machine's last evidence was judged to be; none where that is not told.
	CurrentStatus verifier.Status
	Known         bool // CurrentStatus is told: the result is of a machine of the tenant
}

// Introspect tells whether a result holds: that it is ours and of this tenant, has not expired, that its key was not revoked,
// and that its verdict is still what the machine was judged to be last. The error is a failure of ours.
func (s *Service) Introspect(ctx context.Context, tenant uuid.UUID, result string) (Introspection, error) {
	claims, err := s.token.Verify(ctx, result)
	var reason InactiveReason
	switch {
	case errors.Is(err, token.ErrInvalid):
		return Introspection{Reason: InactiveUnknown}, nil
	case errors.Is(err, token.ErrExpired):
		reason = InactiveExpired
	case errors.Is(err, token.ErrRevoked):
		reason = InactiveKeyRevoked
	case err != nil:
		return Introspection{}, err
	}
	machineID, noMachine := uuid.Parse(claims.Subject)
	verdictID, noVerdict := uuid.Parse(claims.VerdictID)
	if noMachine != nil || noVerdict != nil {
		return Introspection{Reason: InactiveUnknown}, nil //nolint:nilerr // that a token names nothing of ours is the answer
	}
	v, err := s.store.GetVerdict(ctx, tenant, verdictID)
	if errors.Is(err, store.ErrNotFound) || (err == nil && v.MachineID != machineID) { // another tenant's, or deleted
		return Introspection{Reason: InactiveUnknown}, nil
	}
	if err != nil {
		return Introspection{}, fmt.Errorf("introspect: %w", err)
	}
	standing, err := s.store.Standing(ctx, tenant, machineID)
	if err != nil {
		return Introspection{}, fmt.Errorf("introspect: %w", err)
	}
	if reason == "" {
		reason = unsettled(&v, standing, s.now())
	}
	out := Introspection{MachineID: &machineID, Active: reason == "", Reason: reason, Known: reason != InactiveKeyRevoked, CurrentStatus: v.Appraisal.Status}
	if out.Active {
		out.Claims = claims
		return out, nil
	}
	if standing.VerdictID != nil && *standing.VerdictID != v.ID {
		current, err := s.store.GetVerdict(ctx, tenant, *standing.VerdictID)
		if err != nil {
			return Introspection{}, fmt.Errorf("introspect: %w", err)
		}
		out.CurrentStatus = current.Appraisal.Status
	}
	return out, nil
}
