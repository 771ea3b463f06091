package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// withdrawnFrom are the baselines that a machine has lost, as text.
func withdrawnFrom(t *testing.T, s *store.Store, machine uuid.UUID, now time.Time) string {
	t.Helper()
	in := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, machine, now))
	var out []string
	for i := range in.Withdrawn {
		out = append(out, in.Withdrawn[i].String())
	}
	return strings.Join(out, "; ")
}

// A baseline without a valid version is known to the machines that it covers, until one is promoted or its machines are
// released; of the fleet, and of the machine alone.
func TestWithdrawnBaselines(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	token := joinToken(t, s, "j", 2)
	m, other := active(t, s, token, "web-0").MachineID, active(t, s, token, "web-1").MachineID
	for name, selector := range map[string]verifier.Selector{
		"fleet": {ScaleSet: []string{"web"}, Labels: map[string]string{}}, "bound": {MachineIDs: []string{m.String()}},
	} {
		now := t0
		expect := func(story, want string) {
			t.Helper()
			if got := withdrawnFrom(t, s, m, now); got != want {
				t.Errorf("%s: %s: %q, want %q", name, story, got, want)
			}
		}
		draft := reference("draft")
		draft.State = "draft"
		base := must[store.BaselineVersion](t)(s.CreateBaseline(ctx, tenant, name, selector, draft, now, system)).BaselineID
		retire := func(n int, r store.Retirement) error {
			now = now.Add(time.Minute)
			_, err := s.RetireVersion(ctx, tenant, base, n, r, now, system)
			return err
		}
		next := func() {
			t.Helper()
			now = now.Add(time.Minute)
			v := must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, base, reference(fmt.Sprint(now)), now, system))
			must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, base, v.Version, store.Promotion{}, now, system))
		}
		if changed(retire(1, store.Retirement{Release: true})) == "" {
			t.Error("a draft was released")
		}
		must0(t, retire(1, store.Retirement{}))
		expect("a draft judged nobody", "")
		next()
		expect("valid", "")
		must0(t, retire(2, store.Retirement{}))
		expect("retired", "version 2 of "+name+" was withdrawn and nothing replaces it")
		if name == "bound" && withdrawnFrom(t, s, other, now) != "" {
			t.Error("another machine's")
		}
		if changed(retire(1, store.Retirement{Release: true})) == "" {
			t.Error("a version that never was active was released")
		}
		must0(t, retire(2, store.Retirement{Release: true}))
		expect("released afterwards", "")
		if err := retire(2, store.Retirement{Release: true}); !strings.Contains(changed(err), "its machines released") {
			t.Errorf("released twice: %v", err)
		}
		next()
		must0(t, retire(3, store.Retirement{}))
		expect("it judged again", "version 3 of "+name+" was withdrawn and nothing replaces it")
		next()
		expect("replaced", "")
		until := now.Add(time.Hour)
		v := must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, base, reference("v5"), now, system))
		must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, base, v.Version, store.Promotion{Grace: store.Grace{Until: &until}}, now, system))
		if err := retire(5, store.Retirement{Release: true}); !strings.Contains(changed(err), "another version of the baseline is valid") {
			t.Errorf("released with another valid: %v", err)
		}
		must0(t, retire(5, store.Retirement{}))
		expect("one is in grace", "")
		now = until
		expect("grace is over", "version 4 of "+name+" ended at "+until.Format(time.RFC3339)+" and nothing replaces it")
		must0(t, retire(5, store.Retirement{Release: true})) // before the job has noted the end of version 4
		expect("released", "")
	}
}

// A version with an end of its own is kept with it through promotion and replacement, and judges nobody afterwards.
func TestActiveUntil(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	f := newRolling(t, s, 1)
	m := f.machines[0].MachineID
	end, late := f.now().Add(time.Hour), f.now().Add(3*time.Hour)
	second := reference("v2")
	second.ActiveUntil = &end
	if v := must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, f.baseline, second, f.now(), system)); !v.ActiveUntil.Equal(end) {
		t.Errorf("%+v", v)
	}
	if _, err := s.PromoteVersion(ctx, tenant, f.baseline, 2, store.Promotion{}, end, system); !strings.Contains(changed(err), "version 2 ended at") {
		t.Errorf("promoted after its end: %v", err)
	}
	v := must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, f.baseline, 2, store.Promotion{}, f.now(), system))
	if v.ActiveUntil == nil || !v.ActiveUntil.Equal(end) {
		t.Errorf("promoted: %+v", v)
	}
	before, after := end.Add(-time.Second), end.Add(time.Second)
	if got := valid(t, s, m, before); got != "v2 " {
		t.Errorf("judged by %s", got)
	}
	told := "version 2 of web ended at " + end.Format(time.RFC3339) + " and nothing replaces it"
	if got := valid(t, s, m, end); got != "" || withdrawnFrom(t, s, m, end) != told {
		t.Errorf("after its end judged by %s, %s", got, withdrawnFrom(t, s, m, end))
	}
	// The job notes it, and has the machines judged again.
	queued := len(waiting(t, s, store.CauseBaselineVersion))
	if ended := must[[]store.EndedGrace](t)(s.EndGrace(ctx, tenant, before, system)); len(ended) != 0 {
		t.Errorf("too early: %+v", ended)
	}
	if ended := must[[]store.EndedGrace](t)(s.EndGrace(ctx, tenant, after, system)); len(ended) != 1 || ended[0].Version != 2 || ended[0].Why != "its time was over" {
		t.Errorf("%+v", ended)
	}
	if v := must[store.BaselineVersion](t)(s.GetBaselineVersion(ctx, tenant, f.baseline, 2)); v.State != "retired" || v.LastChange != "ended" ||
		len(waiting(t, s, store.CauseBaselineVersion)) != queued+1 || withdrawnFrom(t, s, m, after) != told {
		t.Errorf("%+v, %s", v, withdrawnFrom(t, s, m, after))
	}
	// Grace does not make it longer.
	third := reference("v3")
	third.ActiveUntil, third.State = &late, "active"
	must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, f.baseline, third, after, system))
	must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, f.baseline, reference("v4"), after, system))
	must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, f.baseline, 4, store.Promotion{Grace: percent(95)}, after, system))
	if got := valid(t, s, m, late.Add(-time.Second)) + valid(t, s, m, late); got != "v4 v3 v4 " {
		t.Errorf("judged by %s", got)
	}
}

// A share that is never reached does not keep a version for good, and a machine that has failed since has not moved.
func TestGraceByShareEnds(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	f := newRolling(t, s, 1)
	f.affirm(0, 1)
	f.promote(2, percent(100))
	v := must[store.BaselineVersion](t)(s.GetBaselineVersion(ctx, tenant, f.baseline, 1))
	if v.ActiveUntil == nil || !v.ActiveUntil.Equal(f.now().Add(store.MaxGraceByShare)) {
		t.Errorf("%+v", v)
	}
	f.affirm(0, 2)
	f.minute++
	record(t, s, judgement(f.machines[0], f.now(), verifier.Contraindicated, "bad"))
	f.expect("failed since", "1 covered 1 attesting: 0 moved 1 behind 0 none 0 back; 2 active×1 1 grace×0; 0 moved from 1")
	if got := f.unmoved(); got != "web-0@2" {
		t.Errorf("not moved: %s", got)
	}
	if ended := must[[]store.EndedGrace](t)(s.EndGrace(ctx, tenant, f.now(), system)); len(ended) != 0 {
		t.Errorf("%+v", ended)
	}
	f.affirm(0, 2)
	if ended := must[[]store.EndedGrace](t)(s.EndGrace(ctx, tenant, f.now(), system)); len(ended) != 1 {
		t.Errorf("%+v", ended)
	}
}
