package store_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// trait is one of the default tenant's.
func trait(kind, value string) store.MachineTrait {
	return store.NewTrait(tenant, kind, []byte(value), kind != store.TraitSigner && kind != "disk")
}

// identified is a genuine judgement that proves traits and, with a boot, what the TPM told of it.
func identified(e store.Enrollment, at time.Time, what, boot string, traits ...store.MachineTrait) store.AppraisalRecord {
	rec := judgement(e, at, verifier.Affirming, what+boot)
	rec.Identity = func() ([]store.MachineTrait, *store.BootPoint) {
		if boot == "" {
			return append([]store.MachineTrait{}, traits...), nil
		}
		return append([]store.MachineTrait{}, traits...), &store.BootPoint{Clock: *rec.Clock, Selection: "sha256:ff", Boot: sha256.Sum256([]byte(boot)), Logged: true}
	}
	return rec
}

func detect(t testing.TB, s *store.Store, at time.Time) store.FleetReport {
	t.Helper()
	return must[store.FleetReport](t)(s.DetectFleet(t.Context(), tenant, at))
}

// conflicts are the open ones in words: kind and names of the pair.
func conflicts(t testing.TB, s *store.Store) []string {
	t.Helper()
	items, _, err := s.ListFleetConflicts(t.Context(), tenant, store.FleetConflictFilter{}, store.Page{})
	must0(t, err)
	var out []string
	for i := range items {
		d := &items[i].Details
		var names []string
		for _, m := range d.Machines {
			names = append(names, m.Name)
		}
		if !d.Event() {
			slices.Sort(names) // which was known first is chance here: all are of one instant
		}
		out = append(out, string(d.Kind)+" "+strings.Join(names, " "))
	}
	slices.Sort(out)
	return out
}

func wantConflicts(t testing.TB, s *store.Store, want ...string) {
	t.Helper()
	if got := conflicts(t, s); !slices.Equal(got, want) {
		t.Errorf("open conflicts %q, want %q", got, want)
	}
}

// inConflict are the machines with an open alert of the code, by name.
func inConflict(t testing.TB, s *store.Store, code string) []string {
	t.Helper()
	var out []string
	for _, a := range alertsOf(t, s, store.AlertFilter{Code: code, Status: "active"}, t0) {
		if a.Severity != finding.High || a.Reason != verifier.OriginUnverified || a.Description == "" || len(a.RemediationSteps) == 0 {
			t.Errorf("alert %+v", a)
		}
		out = append(out, a.MachineName)
	}
	slices.Sort(out)
	return out
}

func wantAlerts(t testing.TB, s *store.Store, code string, want ...string) {
	t.Helper()
	if got := inConflict(t, s, code); !slices.Equal(got, want) {
		t.Errorf("%s of %q, want %q", code, got, want)
	}
}

// Each strong trait that two machines with keys have is a conflict, under its own kind; what only supports is none.
func TestSharedTraitsAreFoundOnce(t *testing.T) {
	for kind, want := range map[string]string{
		store.TraitAK: "ak_shared a b", store.TraitVM: "vm_shared a b", store.TraitInstance: "vm_shared a b", store.TraitGuest: "vm_shared a b",
		store.TraitLogIdentity: "log_of_other a b", store.TraitSigner: "", "disk": "",
	} {
		t.Run(kind, func(t *testing.T) {
			s, conn := newStore(t)
			token := joinToken(t, s, "j", 9)
			a, b := active(t, s, token, "a"), active(t, s, token, "b")
			record(t, s, identified(a, t0, "good", "", trait(kind, "x"), trait("disk", "template")))
			record(t, s, identified(b, t0, "good", "", trait(kind, "x"), trait("disk", "template")))
			detect(t, s, t0)
			if want == "" {
				wantConflicts(t, s)
				return
			}
			wantConflicts(t, s, want)
			wantAlerts(t, s, "identity_conflict", "a", "b")
			// The same traits in a later run, and a second look, are nothing new.
			record(t, s, identified(b, t0.Add(time.Minute), "other", "", trait(kind, "x")))
			if n := number(t, conn, `SELECT count(*) FROM fleet_changes`); n != 0 {
				t.Errorf("%d changes although nothing new was proved", n)
			}
			if r := detect(t, s, t0.Add(time.Minute)); r != (store.FleetReport{}) {
				t.Errorf("a second look: %+v", r)
			}
			if n := number(t, conn, `SELECT sum(seen_count)::bigint FROM alerts WHERE code = 'identity_conflict'`); n != 2 {
				t.Errorf("counted %d occurrences, want one a machine", n)
			}
			// It ends by itself once the evidence shows it no more.
			record(t, s, identified(b, t0.Add(2*time.Minute), "third", "", trait(kind, "y")))
			if r := detect(t, s, t0.Add(2*time.Minute)); r.Ended != 1 {
				t.Errorf("after b has its own: %+v", r)
			}
			wantConflicts(t, s)
			wantAlerts(t, s, "identity_conflict")
		})
	}
}

// A machine whose key was revoked answers for nothing: a machine that was reinstalled under a new name after the old entry
// was retired is no conflict, and the conflict of two entries ends when one is released.
func TestRetiredMachinesDoNotConflict(t *testing.T) {
	s, _ := newStore(t)
	token := joinToken(t, s, "j", 9)
	old := active(t, s, token, "old")
	record(t, s, identified(old, t0, "good", "", trait(store.TraitVM, "vm")))
	must0(t, s.RevokeAttestationKey(t.Context(), tenant, old.MachineID, t0, system))
	again := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, enrolment(token, store.MachineInput{Name: "new", ExternalID: "id-new"}, "ek old", "ak old"), t0, system))
	record(t, s, identified(again, t0, "good", "", trait(store.TraitVM, "vm")))
	detect(t, s, t0)
	wantConflicts(t, s)

	other := active(t, s, token, "other")
	record(t, s, identified(other, t0, "good", "", trait(store.TraitVM, "vm")))
	detect(t, s, t0)
	wantConflicts(t, s, "vm_shared new other")
	must0(t, s.RevokeAttestationKey(t.Context(), tenant, again.MachineID, t0, system))
	detect(t, s, t0)
	wantConflicts(t, s)
	wantAlerts(t, s, "identity_conflict")
	items, _, err := s.ListFleetConflicts(t.Context(), tenant, store.FleetConflictFilter{IncludeEnded: true, MachineID: &other.MachineID}, store.Page{})
	must0(t, err)
	if len(items) != 1 || items[0].EndedWhy != "key_ended" || items[0].EndedAt == nil {
		t.Errorf("what has ended: %+v", items)
	}
}

// One EK under two names: the attempt changes nothing of the machine, and is recorded, and raises the alert.
func TestRefusedEnrolmentsRaiseTheAlert(t *testing.T) {
	type attempt struct {
		name, external, ek, ak string
		proved                 bool
	}
	for story, c := range map[string]struct {
		attempt
		want string
	}{
		"the EK under another id":               {attempt{"clone", "id-clone", "ek web-1", "ak clone", false}, "ek_shared web-1 clone"},
		"the EK under the id of a machine":      {attempt{"web-2", "id-web-2", "ek web-1", "ak clone", false}, "ek_shared web-1 web-2"},
		"the AK under another id":               {attempt{"clone", "id-clone", "ek clone", "ak web-1", true}, "ak_shared web-1 clone"},
		"the name with another TPM":             {attempt{"web-1", "id-web-1", "ek thief", "ak thief", false}, "name_claimed web-1 web-1"},
		"the same TPM with another AK":          {attempt{"web-1", "id-web-1", "ek web-1", "ak lost", false}, ""},
		"the name with another AK and no EK":    {attempt{"web-1", "id-web-1", "", "ak lost", true}, ""},
		"a new machine with a new TPM":          {attempt{"web-3", "id-web-3", "ek web-3", "ak web-3", true}, ""},
		"the same machine once more":            {attempt{"web-1", "id-web-1", "ek web-1", "ak web-1", true}, ""},
		"the same machine, renamed, same id":    {attempt{"renamed", "id-web-1", "ek web-1", "ak web-1", true}, ""},
		"its EK without an id: it is the owner": {attempt{"web-1", "", "ek web-1", "ak web-1", true}, ""},
	} {
		t.Run(story, func(t *testing.T) {
			s, conn := newStore(t)
			token := joinToken(t, s, "j", 9)
			owner := active(t, s, token, "web-1")
			active(t, s, token, "web-2")
			before := must[store.Machine](t)(s.GetMachine(t.Context(), tenant, owner.MachineID))
			in := enrolment(token, store.MachineInput{Name: c.name, ExternalID: c.external}, c.ek, c.ak)
			in.Proved = c.proved
			if !c.proved {
				in.SecretHash = hash("secret")
			}
			_, err := s.CreateEnrollment(t.Context(), tenant, in, t0, system)
			if errors.Is(err, store.ErrIdentityConflict) {
				noted, noteErr := s.NoteRefusedEnrollment(t.Context(), tenant, in, t0, store.Actor{Kind: "machine", ID: "join", RemoteAddr: "192.0.2.7"})
				must0(t, noteErr)
				if noted != (c.want != "") {
					t.Errorf("noted %v", noted)
				}
				if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'enrollment.refuse' AND remote_addr = '192.0.2.7'`); n != 1 {
					t.Errorf("%d audit records of the refusal", n)
				}
			} else {
				must0(t, err)
			}
			detect(t, s, t0)
			if c.want == "" {
				wantConflicts(t, s)
				return
			}
			wantConflicts(t, s, c.want)
			both := []string{"web-1"}
			if strings.HasSuffix(c.want, "web-2") {
				both = append(both, "web-2")
			}
			wantAlerts(t, s, "identity_conflict", both...)
			items, _, err := s.ListFleetConflicts(t.Context(), tenant, store.FleetConflictFilter{}, store.Page{})
			must0(t, err)
			if o := items[0].Details.Observed; o.Proved == nil || *o.Proved != c.proved || o.RemoteAddr != "192.0.2.7" || o.SHA256 == "" {
				t.Errorf("observed %+v", o)
			}
			after := must[store.Machine](t)(s.GetMachine(t.Context(), tenant, owner.MachineID))
			if fmt.Sprintf("%+v", after) != fmt.Sprintf("%+v", before) {
				t.Errorf("the machine was changed:\n%+v\n%+v", before, after)
			}
			// Once more is one more occurrence of the same conflict.
			must[bool](t)(s.NoteRefusedEnrollment(t.Context(), tenant, in, t0.Add(time.Minute), system))
			detect(t, s, t0.Add(time.Minute))
			items, _, err = s.ListFleetConflicts(t.Context(), tenant, store.FleetConflictFilter{}, store.Page{})
			must0(t, err)
			if len(items) != 1 || items[0].Count != 2 {
				t.Errorf("after the second attempt: %+v", items)
			}
			// An event does not last: whoever closes its alerts ends it, and the next one is a new one.
			for _, a := range alertsOf(t, s, store.AlertFilter{Code: "identity_conflict"}, t0) {
				_, err := s.SetAlertStatus(t.Context(), tenant, a.ID, store.AlertChange{To: "resolved"}, t0.Add(2*time.Minute), system)
				must0(t, err)
			}
			if r := detect(t, s, t0.Add(2*time.Minute)); r.Ended != 1 {
				t.Errorf("after the alerts were closed: %+v", r)
			}
			wantConflicts(t, s)
		})
	}
}

// A TPM that proves at its activation that it has another machine's EK.
func TestRefusedActivationIsProved(t *testing.T) {
	s, _ := newStore(t)
	token := joinToken(t, s, "j", 9)
	e := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, pendingEnrolment(token, store.MachineInput{Name: "clone", ExternalID: "id-clone"}, "ek clone", "ak shared"), t0, system))
	// Meanwhile somebody vouches for the AK at another machine, which ends with that machine having it.
	must0(t, func() error {
		_, err := s.CreateEnrollment(t.Context(), tenant, enrolment(token, store.MachineInput{Name: "web-1", ExternalID: "id-web-1"}, "ek web-1", "ak web-1"), t0, system)
		return err
	}())
	noted, err := s.NoteRefusedActivation(t.Context(), tenant, e.ID, t0, system)
	must0(t, err)
	if noted {
		t.Error("an activation that conflicts with nothing was noted")
	}
	if _, err := s.NoteRefusedActivation(t.Context(), tenant, uuid.New(), t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such enrolment: %v", err)
	}
}

func TestVouchingForAnothersKeyIsAConflict(t *testing.T) {
	s, _ := newStore(t)
	token := joinToken(t, s, "j", 9)
	owner := active(t, s, token, "web-1")
	other := must[[]store.Machine](t)(s.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: "legacy"}},
		func(store.Machine) finding.Result { return finding.Result{} }, t0, system))[0]
	_, err := s.AddAttestationKey(t.Context(), tenant, other.ID, store.AttestationKey{Public: owner.AKPublic, Name: owner.AKName, Assurance: verifier.FirstUse}, t0, system)
	if !errors.Is(err, store.ErrIdentityConflict) {
		t.Fatalf("vouching for another's AK: %v", err)
	}
	must[bool](t)(s.NoteRefusedKey(t.Context(), tenant, other.ID, owner.AKName, t0, system))
	detect(t, s, t0)
	wantConflicts(t, s, "ak_shared web-1 legacy")
	wantAlerts(t, s, "identity_conflict", "legacy", "web-1")
}

// What belongs to two tenants is two machines: neither learns of the other.
func TestConflictsStayWithinTheirTenant(t *testing.T) {
	s, conn := newStore(t)
	other := uuid.MustParse("00000000-0000-7000-8000-0000000000aa")
	if _, err := conn.Exec(t.Context(), `INSERT INTO tenants (tenant_id, name, created_at) VALUES ($1, 'other', $2)`, other, t0); err != nil {
		t.Fatal(err)
	}
	must0(t, s.CreateJoinToken(t.Context(), other, store.JoinToken{Name: "o", UsesLeft: 9, ExpiresAt: t0.Add(time.Hour), CreatedAt: t0}, hash("o"), system))
	mine := active(t, s, joinToken(t, s, "j", 9), "web-1")
	// The same EK, AK, name and id are another machine there, and nothing there tells of the one here.
	in := enrolment(hash("o"), store.MachineInput{Name: "clone", ExternalID: "id-clone"}, "ek web-1", "ak web-1")
	must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), other, in, t0, system))
	in.Machine = store.MachineInput{Name: "again", ExternalID: "id-again"}
	if noted := must[bool](t)(s.NoteRefusedEnrollment(t.Context(), other, in, t0, system)); !noted {
		t.Error("the conflict within the other tenant was not noted")
	}
	must[store.FleetReport](t)(s.DetectFleet(t.Context(), other, t0))
	wantConflicts(t, s)
	wantAlerts(t, s, "identity_conflict")
	theirs, _, err := s.ListFleetConflicts(t.Context(), other, store.FleetConflictFilter{}, store.Page{})
	must0(t, err)
	if len(theirs) != 1 || strings.Contains(fmt.Sprintf("%+v", theirs), "web-1") || strings.Contains(fmt.Sprintf("%+v", theirs), mine.MachineID.String()) {
		t.Errorf("the other tenant's conflicts: %+v", theirs)
	}
	if a, b := store.NewTrait(tenant, store.TraitVM, []byte("vm"), true), store.NewTrait(other, store.TraitVM, []byte("vm"), true); a.Digest == b.Digest {
		t.Error("one value has one digest in two tenants")
	}
	record(t, s, identified(mine, t0, "good", "", trait(store.TraitSigner, "qn")))
	if k := must[*store.AttestationKey](t)(s.MachineBySigner(t.Context(), tenant, trait(store.TraitSigner, "qn"))); k == nil || k.MachineID != mine.MachineID {
		t.Errorf("the signer's machine: %+v", k)
	}
	if k := must[*store.AttestationKey](t)(s.MachineBySigner(t.Context(), other, trait(store.TraitSigner, "qn"))); k != nil {
		t.Errorf("another tenant found %+v", k)
	}
	detect(t, s, t0)
	if r := must[store.FleetReport](t)(s.DetectFleet(t.Context(), other, t0)); r != (store.FleetReport{}) {
		t.Errorf("the other tenant's round: %+v", r)
	}
}

// booted is genuine evidence of a boot.
func booted(e store.Enrollment, at time.Time, boot string, reset, restart uint32, clock uint64) store.AppraisalRecord {
	rec := identified(e, at, fmt.Sprint(reset, " ", restart, " ", clock, " "), boot, trait(store.TraitAK, e.MachineID.String()))
	rec.Clock.ResetCount, rec.Clock.RestartCount, rec.Clock.Clock = reset, restart, clock
	return rec
}

// One boot, by the counters, with two logs is two histories. What is legal raises nothing.
func TestForkedBoots(t *testing.T) {
	for story, c := range map[string]struct {
		boots []string // what each evidence booted
		reset []uint32
		rest  []uint32
		bare  bool // no log explains it
		want  bool
	}{
		"two boots with one reset counter":                       {boots: []string{"A", "B"}, reset: []uint32{7, 7}, rest: []uint32{0, 0}, want: true},
		"a boot after another":                                   {boots: []string{"A", "B"}, reset: []uint32{7, 8}, rest: []uint32{0, 0}},
		"the same boot, again and again, and kexec":              {boots: []string{"A", "A", "A"}, reset: []uint32{7, 7, 7}, rest: []uint32{0, 0, 0}},
		"resumed from sleep or hibernation":                      {boots: []string{"A", "B"}, reset: []uint32{7, 7}, rest: []uint32{0, 1}},
		"root extended a PCR, without a log":                     {boots: []string{"A", "B"}, reset: []uint32{7, 7}, rest: []uint32{0, 0}, bare: true},
		"two boots alternate, without a log: no extension does":  {boots: []string{"A", "B", "A"}, reset: []uint32{7, 7, 7}, rest: []uint32{0, 0, 0}, bare: true, want: true},
		"the same software booted again with every reset":        {boots: []string{"A", "A", "A"}, reset: []uint32{7, 8, 9}, rest: []uint32{0, 0, 0}},
		"an update, and back to the software before, in 3 boots": {boots: []string{"A", "B", "A"}, reset: []uint32{7, 8, 9}, rest: []uint32{0, 0, 0}},
	} {
		t.Run(story, func(t *testing.T) {
			s, _ := newStore(t)
			e := active(t, s, joinToken(t, s, "j", 9), "web-1")
			for i, boot := range c.boots {
				rec := booted(e, t0.Add(time.Duration(i)*time.Hour), boot, c.reset[i], c.rest[i], uint64(i+1)*3_600_000)
				if c.bare {
					identity := rec.Identity
					rec.Identity = func() ([]store.MachineTrait, *store.BootPoint) {
						traits, p := identity()
						p.Logged = false
						return traits, p
					}
				}
				record(t, s, rec)
			}
			detect(t, s, t0.Add(9*time.Hour))
			if !c.want {
				wantConflicts(t, s)
				return
			}
			wantConflicts(t, s, "history_forked web-1")
			wantAlerts(t, s, "rollback_detected", "web-1")
			items, _, err := s.ListFleetConflicts(t.Context(), tenant, store.FleetConflictFilter{Kind: "history_forked", Code: "rollback_detected"}, store.Page{})
			must0(t, err)
			if d := items[0].Details; d.First == nil || d.Second == nil || d.First.Boot == d.Second.Boot || d.First.ResetCount != 7 || len(d.Observed.MayBe) == 0 {
				t.Errorf("details %+v", d)
			}
		})
	}
}

// A TPM that went back and then answers from where it was ahead lives twice; one that went back and stays there once.
func TestAheadBranchThatAnswersAgainIsAFork(t *testing.T) {
	for story, alive := range map[string]bool{"both answer": true, "one answers": false} {
		t.Run(story, func(t *testing.T) {
			s, _ := newStore(t)
			e := active(t, s, joinToken(t, s, "j", 9), "web-1")
			hour := uint64(3_600_000)
			record(t, s, booted(e, t0, "A", 11, 0, 100*hour))
			back := judgement(e, t0.Add(time.Hour), verifier.Contraindicated, "clock")
			back.Appraisal.Genuine, back.Appraisal.Reason, back.Clock = false, verifier.OriginUnverified, nil
			back.Sighting = &store.Sighting{Kind: finding.ResetBack,
				First:  &finding.ConflictState{At: t0, ResetCount: 11, ClockMS: 100 * hour},
				Second: &finding.ConflictState{At: t0.Add(time.Hour), ResetCount: 10, ClockMS: 90 * hour}}
			record(t, s, back)
			detect(t, s, t0.Add(time.Hour))
			wantConflicts(t, s, "reset_back web-1")
			next := booted(e, t0.Add(2*time.Hour), "A", 11, 0, 102*hour)
			if !alive {
				next = booted(e, t0.Add(20*time.Hour), "A", 11, 0, 101*hour) // it has caught up
			}
			record(t, s, next)
			detect(t, s, t0.Add(20*time.Hour))
			if alive {
				wantConflicts(t, s, "history_forked web-1", "reset_back web-1")
			} else {
				wantConflicts(t, s, "reset_back web-1")
			}
			wantAlerts(t, s, "rollback_detected", "web-1")
			// Genuine evidence does not end it; a new key does.
			must0(t, s.RevokeAttestationKey(t.Context(), tenant, e.MachineID, t0.Add(21*time.Hour), system))
			detect(t, s, t0.Add(21*time.Hour))
			wantConflicts(t, s)
			wantAlerts(t, s, "rollback_detected")
		})
	}
}

// Two keys that tell the same instants at three boots are of one TPM; machines of a scale set that were made and booted
// together are not.
func TestSharedSeries(t *testing.T) {
	for story, c := range map[string]struct {
		off  uint64 // ms that the second clock differs by
		n    int
		want bool
	}{"the same to the millisecond": {0, 3, true}, "two boots only": {0, 2, false}, "one made 3 ms later": {3, 5, false}} {
		t.Run(story, func(t *testing.T) {
			s, _ := newStore(t)
			token := joinToken(t, s, "j", 9)
			a, b := active(t, s, token, "a"), active(t, s, token, "b")
			for i := range c.n {
				at := t0.Add(time.Duration(i) * time.Hour)
				record(t, s, booted(a, at, "A", uint32(i), 0, uint64(i+1)*3_600_000))
				record(t, s, booted(b, at, "A", uint32(i), 0, uint64(i+1)*3_600_000+c.off))
			}
			detect(t, s, t0)
			if c.want {
				wantConflicts(t, s, "series_shared a b")
				wantAlerts(t, s, "identity_conflict", "a", "b")
			} else {
				wantConflicts(t, s)
			}
		})
	}
}

// Very many machines of one series make a star and not a web, and a crowd that shares one instant by chance hides no series.
func TestAWidelySharedSeriesIsBounded(t *testing.T) {
	for story, c := range map[string]struct{ alike, want int }{"all are one series": {30, 29}, "two among a crowd": {2, 1}} {
		t.Run(story, func(t *testing.T) {
			s, _ := newStore(t)
			token := joinToken(t, s, "j", 99)
			for i := range 30 {
				e := active(t, s, token, fmt.Sprintf("m%02d", i))
				for boot := range 3 {
					clock := uint64(boot+1) * 3_600_000
					if boot > 0 && i < 30-c.alike {
						clock += uint64(1000 * (i + 1))
					}
					record(t, s, booted(e, t0.Add(time.Duration(boot)*time.Hour), "A", uint32(boot), 0, clock))
				}
			}
			detect(t, s, t0)
			if n := len(conflicts(t, s)); n != c.want {
				t.Errorf("%d conflicts, want %d", n, c.want)
			}
			if n := len(inConflict(t, s, "identity_conflict")); n != c.alike {
				t.Errorf("%d machines alerted, want %d", n, c.alike)
			}
		})
	}
}

// The history of a key is bounded, and an unchanged attestation writes nothing of it.
func TestHistoryIsBounded(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	for i := range 70 {
		record(t, s, booted(e, t0.Add(time.Duration(i)*time.Hour), "A", uint32(i), 0, uint64(i+1)*3_600_000))
	}
	detect(t, s, t0)
	if n := number(t, conn, `SELECT count(*) FROM tpm_history`); n != 64 {
		t.Errorf("%d rows of history", n)
	}
	if n := number(t, conn, `SELECT min(reset_count) FROM tpm_history`); n != 6 {
		t.Errorf("the oldest boot kept is %d", n)
	}
	again := booted(e, t0.Add(70*time.Hour), "A", 69, 0, 70*3_600_000)
	record(t, s, again)
	if n := number(t, conn, `SELECT count(*) FROM fleet_changes`); n != 0 {
		t.Errorf("an unchanged attestation noted %d changes", n)
	}
}

// Of many callers at once each change is looked at by one, and a pair becomes one conflict.
func TestDetectionByManyAtOnce(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 999)
	for i := range 40 {
		e := active(t, s, token, fmt.Sprintf("m%02d", i))
		record(t, s, identified(e, t0, "good", "", trait(store.TraitVM, fmt.Sprint(i/2))))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := s.DetectFleet(t.Context(), tenant, t0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(conflicts(t, s)); n != 20 {
		t.Errorf("%d conflicts, want 20", n)
	}
	if n := number(t, conn, `SELECT sum(seen_count)::bigint FROM alerts WHERE code = 'identity_conflict'`); n != 40 {
		t.Errorf("%d occurrences, want one for each of 40 machines", n)
	}
	if n := number(t, conn, `SELECT count(*) FROM fleet_changes`); n != 0 {
		t.Errorf("%d changes are left", n)
	}
}

// A trait that very many machines have makes a star, and not a web of pairs.
func TestAWidelySharedTraitIsBounded(t *testing.T) {
	s, _ := newStore(t)
	token := joinToken(t, s, "j", 999)
	for i := range 30 {
		record(t, s, identified(active(t, s, token, fmt.Sprintf("m%02d", i)), t0, "good", "", trait(store.TraitVM, "one")))
	}
	detect(t, s, t0)
	if n := len(conflicts(t, s)); n != 29 {
		t.Errorf("%d conflicts of 30 machines, want 29", n)
	}
	if n := len(inConflict(t, s, "identity_conflict")); n != 30 {
		t.Errorf("%d machines alerted", n)
	}
}

// What failed halfway is found again: the change is taken away by the transaction that writes what it found.
func TestDetectionFailsWhole(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 9)
	for _, name := range []string{"a", "b"} {
		record(t, s, identified(active(t, s, token, name), t0, "good", "", trait(store.TraitVM, "one")))
	}
	exec := func(sql string) {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	exec(`ALTER TABLE outbox ADD CONSTRAINT broken CHECK (kind <> 'alert.opened') NOT VALID`)
	if _, err := s.DetectFleet(t.Context(), tenant, t0); err == nil {
		t.Fatal("no error although the alert could not be written")
	}
	if n := number(t, conn, `SELECT count(*) FROM fleet_changes`) + 10*number(t, conn, `SELECT count(*) FROM fleet_conflicts`); n != 2 {
		t.Errorf("after the failure: %d", n)
	}
	exec(`ALTER TABLE outbox DROP CONSTRAINT broken`)
	detect(t, s, t0)
	wantConflicts(t, s, "vm_shared a b")
	wantAlerts(t, s, "identity_conflict", "a", "b")
}

// What somebody closed: a state that was resolved by hand and still holds is told again; one that was dismissed is not; and
// neither swallows another conflict of the machine.
func TestConflictsClosedByHand(t *testing.T) {
	for to, want := range map[string]int{"dismissed": 0, "resolved": 2} {
		s, _ := newStore(t)
		token := joinToken(t, s, "j", 9)
		a, b, c := active(t, s, token, "a"), active(t, s, token, "b"), active(t, s, token, "c")
		record(t, s, identified(a, t0, "good", "", trait(store.TraitLogIdentity, "x")))
		record(t, s, identified(b, t0, "good", "", trait(store.TraitLogIdentity, "x")))
		detect(t, s, t0)
		for _, al := range alertsOf(t, s, store.AlertFilter{Code: "identity_conflict"}, t0) {
			must[store.Alert](t)(s.SetAlertStatus(t.Context(), tenant, al.ID, store.AlertChange{To: to}, t0.Add(time.Minute), system))
		}
		at := t0.Add(time.Hour)
		record(t, s, identified(a, at, "another boot", "", trait(store.TraitLogIdentity, "x")))
		expect(t, to+", and it still holds", detect(t, s, at).Opened, want)
		record(t, s, identified(a, at.Add(time.Minute), "a third", "", trait(store.TraitLogIdentity, "x")))
		expect(t, to+", and people know again", detect(t, s, at.Add(time.Minute)).Opened, 0)

		open := len(alertsOf(t, s, store.AlertFilter{Code: "identity_conflict", Status: "active"}, t0))
		must0(t, s.NoteSighting(t.Context(), tenant, a.MachineID, store.Sighting{Kind: finding.QuoteRelayed, Other: &c.MachineID, Observed: finding.ConflictObserved{What: "quote"}}, at))
		expect(t, to+", and another conflict", detect(t, s, at.Add(time.Hour)).Opened, 2-open/2)
	}
}
