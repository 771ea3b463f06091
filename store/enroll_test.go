package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// pendingEnrolment needs an activation whose secret is the word "secret".
func pendingEnrolment(token []byte, machine store.MachineInput, ek, ak string) store.EnrollmentInput {
	in := enrolment(token, machine, ek, ak)
	in.Proved, in.Assurance, in.SecretHash = false, verifier.EKActivated, hash("secret")
	return in
}

func TestEnrolAndActivate(t *testing.T) {
	s, conn := newStore(t)
	must0(t, s.CreateJoinToken(t.Context(), tenant, store.JoinToken{Name: "j", UsesLeft: 1, ExpiresAt: t0.Add(time.Hour), ScaleSet: "forced", Labels: map[string]string{"env": "prod"}, CreatedAt: t0}, hash("j"), system))
	e := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant,
		pendingEnrolment(hash("j"), store.MachineInput{Name: "web-1", OS: "linux", Labels: map[string]string{"env": "test", "a": "b"}}, "ek", "ak"), t0, system))
	m := must[store.Machine](t)(s.GetMachine(t.Context(), tenant, e.MachineID))
	if e.Status != "activation_required" || m.State != "enrolling" || m.Name != "web-1" || m.OS+m.ScaleSet != "" || len(m.Labels) != 0 {
		t.Errorf("enrolment %+v of machine %+v", e, m)
	}
	if in := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, m.ID, t0)); in.Key != nil {
		t.Error("a key is active before its activation")
	}
	if _, _, err := s.LookupJoinToken(t.Context(), hash("j"), t0); !errors.Is(err, store.ErrTokenInvalid) {
		t.Errorf("the used up token: %v", err)
	}
	done := must[store.Enrollment](t)(s.ActivateEnrollment(t.Context(), tenant, e.ID, hash("secret"), t0, system))
	in := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, m.ID, t0))
	if done.Status != "active" || in.Key == nil || in.Key.ID != done.KeyID || in.Key.Assurance != verifier.EKActivated || in.Machine.State != "active" ||
		in.Machine.OS != "linux" || in.Machine.ScaleSet != "forced" || in.Machine.Labels["env"] != "prod" || in.Machine.Labels["a"] != "b" {
		t.Errorf("after activation: %+v, key %+v", done, in.Key)
	}
	if _, err := s.ActivateEnrollment(t.Context(), tenant, e.ID, hash("secret"), t0, system); !errors.Is(err, store.ErrAttemptUsed) {
		t.Errorf("a second activation: %v", err)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action LIKE 'enrollment.%'`); n != 2 {
		t.Errorf("%d audit records of the enrolment, want 2", n)
	}
}

func TestActivationHasOneTry(t *testing.T) {
	s, _ := newStore(t)
	token := joinToken(t, s, "j", 99)
	wrong := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, pendingEnrolment(token, store.MachineInput{Name: "a"}, "ek a", "ak a"), t0, system))
	if _, err := s.ActivateEnrollment(t.Context(), tenant, wrong.ID, hash("guess"), t0, system); !errors.Is(err, store.ErrTokenInvalid) {
		t.Errorf("a wrong secret: %v", err)
	}
	if _, err := s.ActivateEnrollment(t.Context(), tenant, wrong.ID, hash("secret"), t0, system); !errors.Is(err, store.ErrAttemptUsed) {
		t.Errorf("the right secret after a wrong one: %v", err)
	}
	late := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, pendingEnrolment(token, store.MachineInput{Name: "b"}, "ek b", "ak b"), t0, system))
	if _, err := s.ActivateEnrollment(t.Context(), tenant, late.ID, hash("secret"), late.ExpiresAt, system); !errors.Is(err, store.ErrTokenInvalid) {
		t.Errorf("an activation too late: %v", err)
	}
	if _, err := s.ActivateEnrollment(t.Context(), tenant, uuid.New(), hash("secret"), t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such enrolment: %v", err)
	}
	// Who proved nothing claims nothing: another TPM may take the name, and another name the TPM.
	for _, in := range []store.EnrollmentInput{
		pendingEnrolment(token, store.MachineInput{Name: "a"}, "ek c", "ak c"),
		pendingEnrolment(token, store.MachineInput{Name: "d"}, "ek b", "ak b"),
	} {
		if _, err := s.CreateEnrollment(t.Context(), tenant, in, late.ExpiresAt, system); err != nil {
			t.Errorf("enrolment of %s after a failed one: %v", in.Machine.Name, err)
		}
	}
	race := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, pendingEnrolment(token, store.MachineInput{Name: "e"}, "ek e", "ak e"), t0, system))
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 16 {
		wg.Go(func() {
			if _, err := s.ActivateEnrollment(t.Context(), tenant, race.ID, hash("secret"), t0, system); err == nil {
				mu.Lock()
				won++
				mu.Unlock()
			} else if !errors.Is(err, store.ErrAttemptUsed) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 {
		t.Errorf("%d of 16 concurrent activations succeeded", won)
	}
}

func TestIdentityConflictChangesNothing(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 99)
	machine := func(name, ext string) store.MachineInput { return store.MachineInput{Name: name, ExternalID: ext} }
	create := func(in store.EnrollmentInput) (store.Enrollment, error) {
		return s.CreateEnrollment(t.Context(), tenant, in, t0, system)
	}
	a := must[store.Enrollment](t)(create(enrolment(token, machine("a", "1"), "ek a", "ak a")))
	must[store.Enrollment](t)(create(enrolment(token, machine("b", ""), "ek b", "ak b")))
	snapshot := func() string {
		var text string
		must0(t, conn.QueryRow(t.Context(), `SELECT (SELECT jsonb_agg(m ORDER BY machine_id) FROM machines m)::text || (SELECT jsonb_agg(k ORDER BY key_id) FROM attestation_keys k)::text
			|| (SELECT count(*) FROM enrollments) || (SELECT sum(uses_left) FROM join_tokens) || (SELECT count(*) FROM audit_events)`).Scan(&text))
		return text
	}
	before := snapshot()
	for story, in := range map[string]store.EnrollmentInput{
		"external id, other EK and AK":   enrolment(token, machine("a", "1"), "ek x", "ak x"),
		"external id, other EK":          enrolment(token, machine("a", "1"), "ek x", "ak a"),
		"external id, other AK":          enrolment(token, machine("a", "1"), "ek a", "ak x"),
		"external id, other AK, no EK":   enrolment(token, machine("a", "1"), "", "ak x"),
		"EK under another external id":   enrolment(token, machine("a", "2"), "ek a", "ak a"),
		"EK under another name":          enrolment(token, machine("c", ""), "ek b", "ak x"),
		"AK of another machine":          enrolment(token, machine("c", "3"), "ek c", "ak a"),
		"name, other EK":                 enrolment(token, machine("b", ""), "ek x", "ak b"),
		"activation, AK of another":      pendingEnrolment(token, machine("c", "3"), "ek c", "ak a"),
		"external id, EK of a third one": enrolment(token, machine("a", "1"), "ek b", "ak a"),
	} {
		if _, err := create(in); !errors.Is(err, store.ErrIdentityConflict) {
			t.Errorf("%s: %v, want ErrIdentityConflict", story, err)
		}
		if after := snapshot(); after != before {
			t.Errorf("%s changed something:\n%s\n%s", story, before, after)
			before = after
		}
	}
	again := must[store.Enrollment](t)(create(enrolment(token, machine("a", "1"), "ek a", "ak a")))
	if again.MachineID != a.MachineID || again.KeyID != a.KeyID {
		t.Errorf("the same machine again: %+v, was %+v", again, a)
	}
	better := pendingEnrolment(token, machine("a", "1"), "ek a", "ak a")
	e := must[store.Enrollment](t)(create(better))
	done := must[store.Enrollment](t)(s.ActivateEnrollment(t.Context(), tenant, e.ID, hash("secret"), t0, system))
	if in := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, a.MachineID, t0)); done.KeyID != a.KeyID || in.Key.Assurance != verifier.EKActivated {
		t.Errorf("a better proof of the same key gives %+v", in.Key)
	}
	if _, err := create(enrolment(hash("no such token"), machine("z", ""), "ek z", "ak z")); !errors.Is(err, store.ErrTokenInvalid) {
		t.Errorf("enrolment without a token: %v", err)
	}
}

// Of racing first enrolments of one identity with different keys exactly one wins.
func TestRacingEnrolments(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 999)
	for story, input := range map[string]func(i int) store.EnrollmentInput{
		"external id": func(i int) store.EnrollmentInput {
			return pendingEnrolment(token, store.MachineInput{Name: fmt.Sprint("r", i), ExternalID: "same"}, fmt.Sprint("ek r", i), fmt.Sprint("ak r", i))
		},
		"name": func(i int) store.EnrollmentInput {
			return pendingEnrolment(token, store.MachineInput{Name: "same"}, fmt.Sprint("ek n", i), fmt.Sprint("ak n", i))
		},
		"EK": func(i int) store.EnrollmentInput {
			return pendingEnrolment(token, store.MachineInput{Name: fmt.Sprint("e", i), ExternalID: fmt.Sprint("e", i)}, "ek same", fmt.Sprint("ak e", i))
		},
		"AK, proved": func(i int) store.EnrollmentInput {
			return enrolment(token, store.MachineInput{Name: fmt.Sprint("a", i), ExternalID: fmt.Sprint("a", i)}, fmt.Sprint("ek a", i), "ak same")
		},
	} {
		before := number(t, conn, `SELECT count(*) FROM machines`)
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for i := range 12 {
			wg.Go(func() {
				_, err := s.CreateEnrollment(t.Context(), tenant, input(i), t0, system)
				if err == nil {
					mu.Lock()
					won++
					mu.Unlock()
				} else if !errors.Is(err, store.ErrIdentityConflict) {
					t.Errorf("%s: %v", story, err)
				}
			})
		}
		wg.Wait()
		if made := number(t, conn, `SELECT count(*) FROM machines`) - before; won != 1 || made != 1 {
			t.Errorf("%s: %d enrolments won and %d machines were made, want 1 and 1", story, won, made)
		}
	}
}

func TestAdministratorVouchesForAKey(t *testing.T) {
	s, _ := newStore(t)
	proved := active(t, s, joinToken(t, s, "j", 9), "web-1")
	key := func(name string) store.AttestationKey {
		return store.AttestationKey{Public: []byte(name), Name: []byte(name), Assurance: verifier.FirstUse, Evidence: []byte(`{"comment":"mine"}`)}
	}
	add := func(machine uuid.UUID, name string) (store.AttestationKey, error) {
		return s.AddAttestationKey(t.Context(), tenant, machine, key(name), t0, system)
	}
	if _, err := add(proved.MachineID, "x"); !errors.Is(err, store.ErrIdentityConflict) {
		t.Errorf("vouching over a proved key: %v", err)
	}
	ms := must[[]store.Machine](t)(s.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: "a"}, {Name: "b"}}, nil, t0, system))
	one := must[store.AttestationKey](t)(add(ms[0].ID, "k1"))
	same := must[store.AttestationKey](t)(add(ms[0].ID, "k1"))
	two := must[store.AttestationKey](t)(add(ms[0].ID, "k2"))
	if same.ID != one.ID || two.ID == one.ID {
		t.Errorf("keys %v %v %v", one.ID, same.ID, two.ID)
	}
	if _, err := add(ms[1].ID, "k2"); !errors.Is(err, store.ErrIdentityConflict) {
		t.Errorf("vouching for a key of another machine: %v", err)
	}
	if _, err := add(uuid.New(), "k3"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("vouching for no machine: %v", err)
	}
	in := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, ms[0].ID, t0))
	if in.Key.ID != two.ID || !bytes.Equal(in.Key.Name, []byte("k2")) || in.Machine.State != "active" || in.Machine.Assurance != verifier.FirstUse {
		t.Errorf("active key %+v of %+v", in.Key, in.Machine)
	}
}

func TestInventory(t *testing.T) {
	s, conn := newStore(t)
	yes, no := true, false
	recommend := func(m store.Machine) finding.Result {
		r := finding.Result{EvaluatedRecommendations: []string{"guest_attestation_installed"}}
		if m.Declared.AgentInstalled != nil && !*m.Declared.AgentInstalled {
			r.Recommendations = []finding.Recommendation{{Code: "guest_attestation_installed", DisplayName: "Install", Severity: finding.Low, RemediationSteps: []string{"do"}}}
		}
		return r
	}
	upsert := func(in ...store.MachineInput) []store.Machine {
		return must[[]store.Machine](t)(s.UpsertMachines(t.Context(), tenant, in, recommend, t0, system))
	}
	ms := upsert(
		store.MachineInput{Name: "z", ExternalID: "2", Platform: "azure", Declared: finding.Posture{VTPM: &yes, AgentInstalled: &no}},
		store.MachineInput{Name: "a", Labels: map[string]string{"env": "prod"}})
	if ms[0].Name != "z" || ms[1].Name != "a" || ms[0].State != "registered" || ms[0].Declared.SecureBoot != nil || !*ms[0].Declared.VTPM {
		t.Errorf("registered %+v", ms)
	}
	recs, _, err := s.ListRecommendations(t.Context(), tenant, store.RecommendationFilter{Status: "active"}, store.Page{}, t0)
	must0(t, err)
	if len(recs) != 1 || recs[0].MachineID != ms[0].ID {
		t.Errorf("recommendations %+v", recs)
	}
	audits := number(t, conn, `SELECT count(*) FROM audit_events`)
	same := upsert(store.MachineInput{Name: "z", ExternalID: "2"}, store.MachineInput{Name: "a"})
	if same[0].ID != ms[0].ID || same[1].ID != ms[1].ID || same[0].Platform != "azure" || same[1].Labels["env"] != "prod" || number(t, conn, `SELECT count(*) FROM audit_events`) != audits {
		t.Errorf("the same again is not the same: %+v", same)
	}
	upsert(store.MachineInput{Name: "renamed", ExternalID: "2", Declared: finding.Posture{AgentInstalled: &yes}})
	recs, _, err = s.ListRecommendations(t.Context(), tenant, store.RecommendationFilter{Status: "active"}, store.Page{}, t0)
	must0(t, err)
	if len(recs) != 0 {
		t.Errorf("still recommended: %+v", recs)
	}
	for _, c := range []struct {
		f    store.MachineFilter
		want int
	}{
		{store.MachineFilter{}, 2}, {store.MachineFilter{Name: "renamed"}, 1}, {store.MachineFilter{Platform: "azure"}, 1}, {store.MachineFilter{Label: "env=prod"}, 1},
		{store.MachineFilter{Label: "env"}, 1}, {store.MachineFilter{Label: "env=test"}, 0}, {store.MachineFilter{Status: "none"}, 2}, {store.MachineFilter{ScaleSet: "x"}, 0},
		{store.MachineFilter{SeenBefore: &t0}, 2}, {store.MachineFilter{OS: "linux"}, 0}, {store.MachineFilter{SecurityType: "standard"}, 0},
	} {
		items, _, err := s.ListMachines(t.Context(), tenant, c.f, store.Page{})
		must0(t, err)
		if len(items) != c.want {
			t.Errorf("%+v finds %d machines, want %d", c.f, len(items), c.want)
		}
	}
	// An agent finds the machine that the inventory registered, by name.
	e := active(t, s, joinToken(t, s, "j", 9), "other")
	if e.MachineID == ms[1].ID {
		t.Error("another name found the machine")
	}
	byName := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, enrolment(hash("j"), store.MachineInput{Name: "renamed"}, "ek q", "ak q"), t0, system))
	if byName.MachineID != ms[0].ID {
		t.Error("the agent made a second machine of the same name")
	}
}

// Concurrent registration of the same machines, in different orders, neither fails nor doubles.
func TestConcurrentInventory(t *testing.T) {
	s, conn := newStore(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			var in []store.MachineInput
			for j := range 20 {
				k := (j*7 + i*3) % 20
				in = append(in, store.MachineInput{Name: fmt.Sprint("m", k), ExternalID: map[bool]string{true: fmt.Sprint("x", k)}[k%2 == 0], ScaleSet: fmt.Sprint("s", i)})
			}
			if _, err := s.UpsertMachines(t.Context(), tenant, in, nil, t0, system); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := number(t, conn, `SELECT count(*) FROM machines`); n != 20 {
		t.Errorf("%d machines, want 20", n)
	}
}
