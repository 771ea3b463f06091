package store_test

import (
	"encoding/base64"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// allOf walks a list page by page, one item a page.
func allOf[T any](t *testing.T, list func(store.Page) ([]T, string, error)) []T {
	t.Helper()
	var all []T
	page := store.Page{Limit: 1}
	for range 100 {
		items, next, err := list(page)
		must0(t, err)
		if len(items) > 1 {
			t.Fatalf("%d items on a page of 1", len(items))
		}
		all = append(all, items...)
		if next == "" {
			return all
		}
		page.Cursor = next
	}
	t.Fatal("the list does not end")
	return nil
}

func TestForeignCursors(t *testing.T) {
	s, _ := newStore(t)
	for _, key := range []string{"policies\x00\xff", "policies", "trust_anchors\x00x", "machines\x00" + uuid.NewString()} {
		page := store.Page{Cursor: base64.RawURLEncoding.EncodeToString([]byte(key))}
		if _, _, err := s.ListPolicies(t.Context(), tenant, "", page); !errors.Is(err, store.ErrInvalidCursor) {
			t.Errorf("policies from %q: %v", key, err)
		}
		if _, _, err := s.ListTrustAnchors(t.Context(), tenant, store.TrustAnchorFilter{}, page); !errors.Is(err, store.ErrInvalidCursor) {
			t.Errorf("trust anchors from %q: %v", key, err)
		}
	}
}

// A machine that lost its key, or whose TPM was replaced, enrols again after its release and not before. What is
// under way with the old key changes nothing any more.
func TestRevokeAttestationKey(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 99)
	old := active(t, s, token, "web-1")
	other := active(t, s, token, "web-2")
	record(t, s, judgement(old, t0, verifier.Affirming, "as ever"))
	kept := record(t, s, judgement(other, t0, verifier.Affirming, "as ever"))
	machine := store.MachineInput{Name: "web-1", ExternalID: "id-web-1"}
	reborn := enrolment(token, machine, "ek of a new mainboard", "ak new")
	later := t0.Add(time.Minute)
	if _, err := s.CreateEnrollment(t.Context(), tenant, reborn, later, system); !errors.Is(err, store.ErrIdentityConflict) {
		t.Fatalf("before the release: %v", err)
	}
	pending := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, pendingEnrolment(token, machine, "ek web-1", "ak web-1"), t0, system))

	admin := store.Actor{Kind: "admin", ID: "somebody"}
	must0(t, s.RevokeAttestationKey(t.Context(), tenant, old.MachineID, later, admin))
	in := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, old.MachineID, later))
	m := in.Machine
	if in.Key != nil || in.LastClock != nil || in.IMAState != nil || in.LastLog != nil || in.CurrentRun != nil {
		t.Errorf("something of the key is left: %+v", in)
	}
	if in.LastChallenge == nil {
		t.Error("the order of the challenges is forgotten: a challenge would be good twice")
	}
	if m.State != "registered" || m.Assurance != "" || m.LastVerdict == nil || m.Status != verifier.Affirming {
		t.Errorf("the machine is %+v", m)
	}
	for what, sql := range map[string]string{
		"revoked key":     `SELECT count(*) FROM attestation_keys WHERE key_id = $1 AND state = 'revoked' AND ended_at IS NOT NULL`,
		"audit event":     `SELECT count(*) FROM audit_events WHERE action = 'attestation_key.revoke' AND actor_id = 'somebody' AND (before ->> 'key_id')::uuid = $1`,
		"free EK":         `SELECT count(*) FROM machines m JOIN attestation_keys k USING (machine_id) WHERE k.key_id = $1 AND m.ek_public IS NULL AND m.ek_fingerprint IS NULL`,
		"forgotten reset": `SELECT count(*) FROM machine_attestation_state st JOIN attestation_keys k USING (machine_id) WHERE k.key_id = $1 AND clock IS NULL AND reset_count IS NULL AND clock_key_id IS NULL`,
	} {
		if n := number(t, conn, sql, old.KeyID); n != 1 {
			t.Errorf("%s: %d rows, want 1", what, n)
		}
	}
	if _, err := s.ActivateEnrollment(t.Context(), tenant, pending.ID, hash("secret"), later, system); !errors.Is(err, store.ErrTokenInvalid) {
		t.Errorf("an activation that was pending: %v", err)
	}
	if _, err := s.RecordAppraisal(t.Context(), tenant, judgement(old, later, verifier.Affirming, "as ever")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a judgement by the revoked key: %v", err)
	}
	before := number(t, conn, `SELECT count(*) FROM audit_events`)
	if err := s.RevokeAttestationKey(t.Context(), tenant, old.MachineID, later, admin); !errors.Is(err, store.ErrConflict) {
		t.Errorf("no key is active: %v", err)
	}
	if err := s.RevokeAttestationKey(t.Context(), tenant, uuid.New(), later, admin); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such machine: %v", err)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events`); n != before {
		t.Errorf("refused revocations left %d audit events", n-before)
	}

	again := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, reborn, later, system))
	if again.MachineID != old.MachineID || again.KeyID == old.KeyID || again.KeyID == uuid.Nil {
		t.Errorf("enrolled again as %+v, was %+v", again, old)
	}
	record(t, s, judgement(again, later, verifier.Affirming, "as ever"))
	if _, err := s.RecordAppraisal(t.Context(), tenant, judgement(old, later, verifier.Affirming, "something else")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a judgement by the revoked key beside the new one: %v", err)
	}
	// The freed keys are anybody's again, and the other machine noticed nothing.
	must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, enrolment(token, store.MachineInput{Name: "web-3", ExternalID: "id-web-3"}, "ek web-1", "ak web-1"), later, system))
	if r := record(t, s, judgement(other, later, verifier.Affirming, "as ever")); r.New || r.VerdictID != kept.VerdictID {
		t.Errorf("the other machine's run: %+v", r)
	}
}

func TestRevokeTokens(t *testing.T) {
	s, conn := newStore(t)
	ctx := t.Context()
	token := joinToken(t, s, "j", 99)
	tokens, _, err := s.ListJoinTokens(ctx, tenant, store.TokenFilter{}, store.Page{})
	must0(t, err)
	must0(t, s.RevokeJoinToken(ctx, tenant, tokens[0].ID, t0, system))
	if _, err := s.CreateEnrollment(ctx, tenant, enrolment(token, store.MachineInput{Name: "a"}, "ek", "ak"), t0, system); !errors.Is(err, store.ErrTokenInvalid) {
		t.Errorf("enrolment with a revoked token: %v", err)
	}
	if _, _, err := s.LookupJoinToken(ctx, token, t0); !errors.Is(err, store.ErrTokenInvalid) {
		t.Errorf("a revoked join token: %v", err)
	}
	if err := s.RevokeJoinToken(ctx, tenant, tokens[0].ID, t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("revoked twice: %v", err)
	}
	id := uuid.New()
	must0(t, s.CreateAPIToken(ctx, tenant, store.APIToken{ID: id, Name: "x", Role: store.RoleReader, CreatedAt: t0}, hash("x"), system))
	if err := s.RevokeAPIToken(ctx, uuid.New(), id, t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another tenant's: %v", err)
	}
	must0(t, s.RevokeAPIToken(ctx, tenant, id, t0, system))
	if _, _, err := s.LookupAPIToken(ctx, hash("x"), t0); !errors.Is(err, store.ErrTokenInvalid) {
		t.Errorf("a revoked API token: %v", err)
	}
	if err := s.RevokeAPIToken(ctx, tenant, id, t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("revoked twice: %v", err)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action IN ('join_token.revoke', 'api_token.revoke') AND before ->> 'name' IN ('j', 'x')`); n != 2 {
		t.Errorf("%d audit events of revocations, want 2", n)
	}
}
