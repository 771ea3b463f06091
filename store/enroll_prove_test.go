package store_test

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
)

// rowOf is all that the store holds of a machine beside its enrolments.
func rowOf(t *testing.T, conn *pgx.Conn, machine uuid.UUID) string {
	t.Helper()
	var text string
	must0(t, conn.QueryRow(t.Context(), `SELECT m::text || s::text || (SELECT count(*) FROM attestation_keys k WHERE k.machine_id = m.machine_id)::text
		FROM machines m JOIN machine_attestation_state s USING (tenant_id, machine_id) WHERE machine_id = $1`, machine).Scan(&text))
	return text
}

// enrolLab is a store with a join token that forces nothing, and one that forces a scale set and a label.
type enrolLab struct {
	t            *testing.T
	s            *store.Store
	conn         *pgx.Conn
	join, forced []byte
}

func newEnrolLab(t *testing.T) *enrolLab {
	s, conn := newStore(t)
	l := &enrolLab{t: t, s: s, conn: conn, join: joinToken(t, s, "j", 999), forced: hash("forced")}
	must0(t, s.CreateJoinToken(t.Context(), tenant, store.JoinToken{Name: "forced", UsesLeft: 9, ExpiresAt: t0.Add(time.Hour), ScaleSet: "pool",
		Labels: map[string]string{"env": "prod"}, CreatedAt: t0}, l.forced, system))
	return l
}

func (l *enrolLab) begin(token []byte, in store.MachineInput, ek, ak string) store.Enrollment {
	l.t.Helper()
	return must[store.Enrollment](l.t)(l.s.CreateEnrollment(l.t.Context(), tenant, pendingEnrolment(token, in, ek, ak), t0.Add(time.Second), system))
}

func (l *enrolLab) activate(id uuid.UUID) error {
	_, err := l.s.ActivateEnrollment(l.t.Context(), tenant, id, hash("secret"), t0.Add(2*time.Second), system)
	return err
}

func (l *enrolLab) machine(id uuid.UUID) store.Machine {
	l.t.Helper()
	return must[store.Machine](l.t)(l.s.GetMachine(l.t.Context(), tenant, id))
}

func (l *enrolLab) registered(in store.MachineInput) uuid.UUID {
	l.t.Helper()
	return must[[]store.Machine](l.t)(l.s.UpsertMachines(l.t.Context(), tenant, []store.MachineInput{in}, nil, t0, system))[0].ID
}

// hostile is what somebody with a join token says of the machine with that external id.
func hostile(ext string) store.MachineInput {
	return store.MachineInput{ExternalID: ext, Name: "hostile", OS: "windows", Platform: "qemu", SecurityType: "standard", ScaleSet: "lax",
		Labels: map[string]string{"env": "lab", "new": "claimed"}}
}

// Until it is proved an enrolment changes nothing of a machine that was there before, whatever becomes of it.
func TestUnprovedEnrolmentChangesNothing(t *testing.T) {
	l := newEnrolLab(t)
	done := l.begin(l.forced, store.MachineInput{ExternalID: "1", Name: "web-1", OS: "linux"}, "ek 1", "ak 1")
	must0(t, l.activate(done.ID))
	for story, id := range map[string]uuid.UUID{
		"active":     done.MachineID,
		"registered": l.registered(store.MachineInput{ExternalID: "2", Name: "web-2", Labels: map[string]string{"env": "prod"}}),
	} {
		n := map[string]string{"active": "1", "registered": "2"}[story]
		before := rowOf(t, l.conn, id)
		pending := l.begin(l.join, hostile(n), "ek "+n, "ak "+n)
		if pending.MachineID != id {
			t.Fatalf("%s: the enrolment is of another machine", story)
		}
		if after := rowOf(t, l.conn, id); after != before {
			t.Errorf("%s, begun:\n%s\n%s", story, before, after)
		}
		if _, err := l.s.ActivateEnrollment(t.Context(), tenant, pending.ID, hash("guess"), t0.Add(time.Second), system); !errors.Is(err, store.ErrTokenInvalid) {
			t.Error(err)
		}
		late := l.begin(l.join, hostile(n), "ek "+n, "ak "+n)
		if _, err := l.s.ActivateEnrollment(t.Context(), tenant, late.ID, hash("secret"), late.ExpiresAt, system); !errors.Is(err, store.ErrTokenInvalid) {
			t.Error(err)
		}
		if after := rowOf(t, l.conn, id); after != before {
			t.Errorf("%s, failed and expired:\n%s\n%s", story, before, after)
		}
	}
	for story, in := range map[string]store.EnrollmentInput{
		"another EK": pendingEnrolment(l.join, hostile("1"), "ek x", "ak 1"),
		"another AK": pendingEnrolment(l.join, hostile("1"), "ek 1", "ak x"),
		"EK of another machine, at a registered one": pendingEnrolment(l.join, hostile("2"), "ek 1", "ak y"),
		"AK of another machine, at a registered one": pendingEnrolment(l.join, hostile("2"), "ek y", "ak 1"),
	} {
		if _, err := l.s.CreateEnrollment(t.Context(), tenant, in, t0, system); !errors.Is(err, store.ErrIdentityConflict) {
			t.Errorf("%s: %v", story, err)
		}
	}
}

// Once proved, a claim fills what is empty and replaces nothing; the join token's word replaces.
func TestProvedEnrolmentFillsOnly(t *testing.T) {
	for _, proved := range []bool{false, true} {
		t.Run(fmt.Sprint("proved at once ", proved), func(t *testing.T) {
			l := newEnrolLab(t)
			id := l.registered(store.MachineInput{ExternalID: "1", Name: "web-1", OS: "linux", ScaleSet: "web", Labels: map[string]string{"env": "stage", "team": "a"}})
			enrol := func(token []byte, in store.MachineInput) store.Machine {
				t.Helper()
				if proved {
					must[store.Enrollment](t)(l.s.CreateEnrollment(t.Context(), tenant, enrolment(token, in, "ek 1", "ak 1"), t0, system))
				} else {
					must0(t, l.activate(l.begin(token, in, "ek 1", "ak 1").ID))
				}
				return l.machine(id)
			}
			m := enrol(l.join, hostile("1"))
			want := map[string]string{"env": "stage", "team": "a", "new": "claimed"}
			if m.Name != "web-1" || m.OS != "linux" || m.ScaleSet != "web" || m.Platform != "qemu" || m.SecurityType != "standard" || !maps.Equal(m.Labels, want) || m.State != "active" {
				t.Errorf("the claims gave %+v", m)
			}
			m = enrol(l.forced, hostile("1"))
			want["env"] = "prod"
			if m.ScaleSet != "pool" || !maps.Equal(m.Labels, want) {
				t.Errorf("the join token gave %+v", m)
			}
			if m = enrol(l.join, hostile("1")); m.ScaleSet != "pool" || !maps.Equal(m.Labels, want) {
				t.Errorf("the next join token undid the first: %+v", m)
			}
			// An administrator still has the last word.
			l.registered(store.MachineInput{ExternalID: "1", Name: "renamed", OS: "windows", ScaleSet: "s", Labels: map[string]string{"x": "y"}})
			if m = l.machine(id); m.Name != "renamed" || m.OS != "windows" || m.ScaleSet != "s" || len(m.Labels) != 1 {
				t.Errorf("the inventory gave %+v", m)
			}
			for i := range 9 { // labels that a machine gives itself come to an end
				labels := map[string]string{}
				for j := range 32 {
					labels[fmt.Sprint("l", i*32+j)] = "x"
				}
				m = enrol(l.join, store.MachineInput{ExternalID: "1", Name: "renamed", Labels: labels})
			}
			if len(m.Labels) != 64 {
				t.Errorf("%d labels", len(m.Labels))
			}
		})
	}
}

// The word of somebody who made the machine and proved nothing does not outlive him.
func TestMachineMadeByAStranger(t *testing.T) {
	for _, lapsed := range []bool{false, true} {
		l := newEnrolLab(t)
		stranger := l.begin(l.join, hostile("1"), "ek 1", "ak 1")
		at := t0.Add(time.Second)
		if lapsed {
			at = stranger.ExpiresAt
		}
		in := pendingEnrolment(l.join, store.MachineInput{ExternalID: "1", Name: "web-1", OS: "linux"}, "ek 1", "ak 1")
		in.ExpiresAt = at.Add(time.Minute)
		e := must[store.Enrollment](t)(l.s.CreateEnrollment(t.Context(), tenant, in, at, system))
		must[store.Enrollment](t)(l.s.ActivateEnrollment(t.Context(), tenant, e.ID, hash("secret"), at, system))
		m := l.machine(e.MachineID)
		if e.MachineID != stranger.MachineID || m.Name != "web-1" || m.OS != "linux" || m.ScaleSet+m.Platform != "" || len(m.Labels) != 0 {
			t.Errorf("lapsed %v: %+v", lapsed, m)
		}
	}
}

// Whoever claims an EK or AK without proof does not keep its owner from enrolling.
func TestOwnerEnrolsAfterAStranger(t *testing.T) {
	owner := store.MachineInput{ExternalID: "1", Name: "web-1"}
	for story, claim := range map[string]func(l *enrolLab){
		"EK at another existing machine": func(l *enrolLab) {
			l.registered(store.MachineInput{ExternalID: "2", Name: "web-2"})
			l.begin(l.join, store.MachineInput{ExternalID: "2", Name: "web-2"}, "ek 1", "ak x")
		},
		"EK and AK at another existing machine": func(l *enrolLab) {
			l.registered(store.MachineInput{ExternalID: "2", Name: "web-2"})
			l.begin(l.join, store.MachineInput{ExternalID: "2", Name: "web-2"}, "ek 1", "ak 1")
		},
		"EK at a machine made for it":        func(l *enrolLab) { l.begin(l.join, hostile("3"), "ek 1", "ak x") },
		"EK and AK at a machine made for it": func(l *enrolLab) { l.begin(l.join, hostile("3"), "ek 1", "ak 1") },
		"other keys at the owner's machine":  func(l *enrolLab) { l.begin(l.join, hostile("1"), "ek x", "ak x") },
		"the owner's keys at its machine":    func(l *enrolLab) { l.begin(l.join, hostile("1"), "ek 1", "ak 1") },
		"EK at an active machine without one": func(l *enrolLab) {
			must[store.Enrollment](l.t)(l.s.CreateEnrollment(l.t.Context(), tenant, enrolment(l.join, store.MachineInput{ExternalID: "2", Name: "web-2"}, "", "ak 2"), t0, system))
			l.begin(l.join, store.MachineInput{ExternalID: "2", Name: "web-2"}, "ek 1", "ak 2")
		},
	} {
		for _, first := range []bool{true, false} { // the stranger comes first, or between the owner's two steps
			t.Run(fmt.Sprintf("%s, first %v", story, first), func(t *testing.T) {
				l := newEnrolLab(t)
				id := l.registered(owner)
				if first {
					claim(l)
				}
				e := l.begin(l.join, owner, "ek 1", "ak 1")
				if !first {
					claim(l)
				}
				must0(t, l.activate(e.ID))
				if m := l.machine(e.MachineID); e.MachineID != id || m.State != "active" || m.Name != "web-1" || len(m.Labels) != 0 {
					t.Errorf("%+v", m)
				}
				if n := number(t, l.conn, `SELECT count(*) FROM machines WHERE machine_id = $1 AND ek_public = $2`, id, []byte("ek 1")); n != 1 {
					t.Error("the EK is not the owner's")
				}
			})
		}
	}
}

// Of pending enrolments of one machine, and of one EK at several machines, the first to be activated wins; the
// others are refused and change nothing.
func TestFirstActivationWins(t *testing.T) {
	for story, input := range map[string]func(l *enrolLab, i int) store.Enrollment{
		"one machine": func(l *enrolLab, i int) store.Enrollment {
			l.registered(store.MachineInput{ExternalID: "1", Name: "web-1"})
			return l.begin(l.join, store.MachineInput{ExternalID: "1", Name: "web-1", Labels: map[string]string{"n": fmt.Sprint(i)}}, fmt.Sprint("ek ", i), fmt.Sprint("ak ", i))
		},
		"one EK": func(l *enrolLab, i int) store.Enrollment {
			in := store.MachineInput{ExternalID: fmt.Sprint(i), Name: fmt.Sprint(i)}
			l.registered(in)
			return l.begin(l.join, in, "ek", fmt.Sprint("ak ", i))
		},
		"one AK": func(l *enrolLab, i int) store.Enrollment {
			in := store.MachineInput{ExternalID: fmt.Sprint(i), Name: fmt.Sprint(i)}
			l.registered(in)
			return l.begin(l.join, in, fmt.Sprint("ek ", i), "ak")
		},
	} {
		t.Run(story, func(t *testing.T) {
			l := newEnrolLab(t)
			var all []store.Enrollment
			for i := range 8 {
				all = append(all, input(l, i))
			}
			var wg sync.WaitGroup
			won := make([]bool, len(all))
			for i, e := range all {
				wg.Go(func() {
					err := l.activate(e.ID)
					won[i] = err == nil
					if err != nil && !errors.Is(err, store.ErrIdentityConflict) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			winners := 0
			for _, w := range won {
				if w {
					winners++
				}
			}
			if winners != 1 {
				t.Errorf("%d activations won", winners)
			}
			for what, sql := range map[string]string{
				"active keys":           `SELECT count(*) FROM attestation_keys`,
				"machines with an EK":   `SELECT count(*) FROM machines WHERE ek_public IS NOT NULL`,
				"active machines":       `SELECT count(*) FROM machines WHERE state = 'active'`,
				"key and EK that agree": `SELECT count(*) FROM machines m JOIN attestation_keys k USING (machine_id) WHERE m.ek_public = k.ek_public`,
			} {
				if n := number(t, l.conn, sql); n != 1 {
					t.Errorf("%d %s, want 1", n, what)
				}
			}
		})
	}
}
