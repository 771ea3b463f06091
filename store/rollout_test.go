package store_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// rolling is a baseline "web" with version 1 active, and machines that it affirms.
type rolling struct {
	t        *testing.T
	s        *store.Store
	baseline uuid.UUID
	machines []store.Enrollment
	minute   int
}

func newRolling(t *testing.T, s *store.Store, machines int) *rolling {
	t.Helper()
	f := &rolling{t: t, s: s}
	v := must[store.BaselineVersion](t)(s.CreateBaseline(t.Context(), tenant, "web", verifier.Selector{ScaleSet: []string{"web"}}, reference("v1"), t0, system))
	f.baseline = v.BaselineID
	token := joinToken(t, s, "j", machines)
	for i := range machines {
		f.machines = append(f.machines, active(t, s, token, fmt.Sprintf("web-%d", i)))
	}
	return f
}

func (f *rolling) now() time.Time { return t0.Add(time.Duration(f.minute) * time.Minute) }

// affirm records that a version affirmed a machine.
func (f *rolling) affirm(machine, version int) {
	f.t.Helper()
	f.minute++
	e := f.machines[machine]
	rec := judgement(e, f.now(), verifier.Affirming, fmt.Sprintf("version %d", version))
	for _, v := range must[store.AppraisalInputs](f.t)(f.s.AppraisalInputs(f.t.Context(), tenant, e.MachineID, f.now())).Versions {
		if v.Version == version {
			rec.Matched = []store.BaselineMatch{{BaselineID: v.BaselineID, Version: version, Activation: *v.Activation}}
		}
	}
	if rec.Matched == nil {
		f.t.Fatalf("version %d is not valid for machine %d", version, machine)
	}
	record(f.t, f.s, rec)
}

func (f *rolling) promote(version int, g store.Grace) {
	f.t.Helper()
	must[store.BaselineVersion](f.t)(f.s.AddBaselineVersion(f.t.Context(), tenant, f.baseline, reference(fmt.Sprint("v", version)), f.now(), system))
	must[store.BaselineVersion](f.t)(f.s.PromoteVersion(f.t.Context(), tenant, f.baseline, version, store.Promotion{Grace: g}, f.now(), system))
}

// expect compares the rollout in one line.
func (f *rolling) expect(story, want string) {
	f.t.Helper()
	r := must[store.Rollout](f.t)(f.s.GetRollout(f.t.Context(), tenant, f.baseline, f.now()))
	got := fmt.Sprintf("%d covered %d attesting: %d moved %d behind %d none %d back;", r.Covered, r.Attesting, r.Moved, r.Behind, r.None, r.RolledBack)
	for _, v := range r.Versions {
		got += fmt.Sprintf(" %d %s×%d", v.Version, v.State, v.Machines)
	}
	for _, g := range r.Grace {
		got += fmt.Sprintf("; %d moved from %d", g.Moved, g.Version)
	}
	if got != want {
		f.t.Errorf("%s:\n got %s\nwant %s", story, got, want)
	}
}

// unmoved names them in the order of their names: those that were made in the same millisecond come in any.
func (f *rolling) unmoved() string {
	f.t.Helper()
	var names []string
	for cursor := ""; ; {
		items, next, err := f.s.ListUnmoved(f.t.Context(), tenant, f.baseline, store.Page{Limit: 1, Cursor: cursor}, f.now())
		must0(f.t, err)
		for _, m := range items {
			name := m.Name
			if m.Version != nil {
				name += fmt.Sprint("@", *m.Version)
			}
			if m.RolledBack {
				name += "!"
			}
			names = append(names, name)
		}
		if cursor = next; next == "" {
			slices.Sort(names)
			return strings.Join(names, " ")
		}
	}
}

func percent(n int) store.Grace { return store.Grace{MovedPercent: &n} }

// The window of a version that was replaced ends with the share of machines that have moved on.
func TestRolloutByShare(t *testing.T) {
	s, conn := newStore(t)
	f := newRolling(t, s, 4)
	other := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, enrolment(joinToken(t, s, "k", 1), store.MachineInput{Name: "db", ScaleSet: "db"}, "ek db", "ak db"), t0, system))
	f.expect("nobody has attested", "4 covered 0 attesting: 0 moved 0 behind 0 none 0 back; 1 active×0")
	for i := range 3 {
		f.affirm(i, 1)
	}
	f.expect("three are at version 1", "4 covered 3 attesting: 3 moved 0 behind 0 none 0 back; 1 active×3")
	f.promote(2, percent(67))
	f.expect("promoted", "4 covered 3 attesting: 0 moved 3 behind 0 none 0 back; 2 active×0 1 grace×3; 0 moved from 1")
	f.affirm(0, 2)
	f.affirm(1, 2)
	f.expect("two of three", "4 covered 3 attesting: 2 moved 1 behind 0 none 0 back; 2 active×2 1 grace×1; 2 moved from 1")
	if got := f.unmoved(); got != "web-2@1" {
		t.Errorf("not moved: %s", got)
	}
	if ended := must[[]store.EndedGrace](t)(s.EndGrace(t.Context(), tenant, f.now(), system)); len(ended) != 0 { // 66.6 %
		t.Errorf("grace ended too early: %+v", ended)
	}
	f.affirm(1, 1)
	f.expect("one goes back", "4 covered 3 attesting: 1 moved 2 behind 0 none 1 back; 2 active×1 1 grace×2; 1 moved from 1")
	if got := f.unmoved(); got != "web-1@1! web-2@1" {
		t.Errorf("not moved: %s", got)
	}
	f.affirm(1, 2)
	f.affirm(2, 2)

	// Several replicas end it once.
	audits := func() int64 {
		return number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'baseline.end_grace'`)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var ended []store.EndedGrace
	for range 8 {
		wg.Go(func() {
			list, err := s.EndGrace(t.Context(), tenant, f.now(), system)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			ended = append(ended, list...)
		})
	}
	wg.Wait()
	if len(ended) != 1 || ended[0].Version != 1 || ended[0].Why != "3 of 3 machines have moved" || audits() != 1 {
		t.Errorf("ended %+v, %d in the audit record", ended, audits())
	}
	f.expect("over", "4 covered 3 attesting: 3 moved 0 behind 0 none 0 back; 2 active×3")
	if got := valid(t, s, f.machines[3].MachineID, f.now()); got != "v2 " {
		t.Errorf("still judged by %s", got)
	}
	v1 := must[store.BaselineVersion](t)(s.GetBaselineVersion(t.Context(), tenant, f.baseline, 1))
	if v1.State != "retired" || v1.LastChange != "grace_ended" || v1.ChangedBy != "system:test" || v1.GraceMovedPercent != nil {
		t.Errorf("%+v", v1)
	}
	// A machine that has been silent for longer than any policy allows holds nothing up.
	f.minute += 8 * 24 * 60
	f.expect("a week later", "4 covered 0 attesting: 0 moved 0 behind 0 none 0 back; 2 active×0")
	record(t, s, judgement(other, f.now(), verifier.Affirming, "db"))
	if _, _, err := s.ListUnmoved(t.Context(), tenant, uuid.New(), store.Page{}, f.now()); !isNotFound(err) {
		t.Error(err)
	}
	if _, err := s.GetRollout(t.Context(), tenant, uuid.New(), f.now()); !isNotFound(err) {
		t.Error(err)
	}
}

// Time and share end a window, whichever is first; each version in grace has its own.
func TestRolloutByTimeAndShare(t *testing.T) {
	s, _ := newStore(t)
	f := newRolling(t, s, 2)
	f.affirm(0, 1)
	f.affirm(1, 1)
	until, half := f.now().Add(10*time.Minute), 50
	f.promote(2, store.Grace{Until: &until, MovedPercent: &half})
	f.promote(3, percent(100))
	f.affirm(0, 3)
	f.expect("one has moved past both", "2 covered 2 attesting: 1 moved 1 behind 0 none 0 back; 3 active×1 2 grace×0 1 grace×1; 1 moved from 2; 1 moved from 1")
	ended := must[[]store.EndedGrace](t)(s.EndGrace(t.Context(), tenant, f.now(), system))
	if len(ended) != 1 || ended[0].Version != 1 {
		t.Errorf("ended %+v", ended)
	}
	// The end by time holds at the appraisal, whether or not the job has run.
	later := f.now().Add(time.Minute)
	f.promote(4, store.Grace{Until: &later})
	if got := valid(t, s, f.machines[0].MachineID, later.Add(-time.Second)); got != "v4 v3 v2 " {
		t.Errorf("judged by %s", got)
	}
	if got := valid(t, s, f.machines[0].MachineID, later); got != "v4 v2 " {
		t.Errorf("judged by %s", got)
	}
	if ended := must[[]store.EndedGrace](t)(s.EndGrace(t.Context(), tenant, later, system)); len(ended) != 1 || ended[0].Version != 3 || ended[0].Why != "its time was over" {
		t.Errorf("ended %+v", ended)
	}
}

// Newer goes by when a version became active, and not by its number.
func TestActivationOrder(t *testing.T) {
	s, _ := newStore(t)
	f := newRolling(t, s, 1)
	f.affirm(0, 1)
	for range 2 {
		must[store.BaselineVersion](t)(s.AddBaselineVersion(t.Context(), tenant, f.baseline, reference("v"), f.now(), system))
	}
	must[store.BaselineVersion](t)(s.PromoteVersion(t.Context(), tenant, f.baseline, 3, store.Promotion{Grace: percent(100)}, f.now(), system))
	f.affirm(0, 3)
	must[store.BaselineVersion](t)(s.PromoteVersion(t.Context(), tenant, f.baseline, 2, store.Promotion{Grace: percent(100)}, f.now(), system))
	f.affirm(0, 2)
	f.expect("version 2 was promoted last", "1 covered 1 attesting: 1 moved 0 behind 0 none 0 back; 2 active×1 3 grace×0 1 grace×0; 1 moved from 3; 1 moved from 1")
	in := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, f.machines[0].MachineID, f.now()))
	if m := in.Matches; len(m) != 1 || m[0].Version != 2 || m[0].HighestVersion != 2 || m[0].HighestActivation != 3 {
		t.Errorf("%+v", m)
	}
	must[[]store.EndedGrace](t)(s.EndGrace(t.Context(), tenant, f.now(), system))
	earlier := must[[]store.BaselineVersion](t)(s.EarlierVersions(t.Context(), tenant, f.baseline, 3))
	if len(earlier) != 2 || earlier[0].Version != 3 || earlier[1].Version != 1 || earlier[1].Reference.PCRs["sha256"]["7"][0] != "v1" {
		t.Errorf("%+v", earlier)
	}
}

func TestKnownEvents(t *testing.T) {
	s, _ := newStore(t)
	event := func(digest, text string) store.BaselineVersion {
		return store.BaselineVersion{Reference: verifier.ReferenceValues{Events: []verifier.ReferenceEvent{{PCR: 4, Description: text, Digests: map[string][]string{"sha256": {digest}}}}}}
	}
	v := must[store.BaselineVersion](t)(s.CreateBaseline(t.Context(), tenant, "web", verifier.Selector{}, event("aa", "grub 2.06-13"), t0, system))
	must[store.BaselineVersion](t)(s.AddBaselineVersion(t.Context(), tenant, v.BaselineID, event("bb", "grub 2.06-14 \x00\xff"), t0, system))
	must[store.BaselineVersion](t)(s.AddBaselineVersion(t.Context(), tenant, v.BaselineID, event("aa", "grub 2.06-13"), t0, system))
	known := must[[]store.KnownEvent](t)(s.KnownEvents(t.Context(), tenant, [][]byte{{0xaa}, {0xbb}, {0xcc}}))
	got := ""
	for _, k := range known {
		got += fmt.Sprintf("%x %q of %s %d %s; ", k.Digest, k.Description, k.Baseline, k.Version, k.State)
	}
	if want := `aa "grub 2.06-13" of web 1 active; bb "grub 2.06-14 ` + "\uFFFD" + `" of web 2 draft; `; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
