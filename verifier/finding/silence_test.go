package finding

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func at(minutes int) time.Time { return now.Add(time.Duration(minutes) * time.Minute) }

func TestDeadline(t *testing.T) {
	outage := func(from, to int) Outage { return Outage{at(from), at(to)} }
	for name, c := range map[string]struct {
		end, heard int
		outages    []Outage
		want       int
	}{
		"no outage":                                   {10, 0, nil, 10},
		"it passed in an outage":                      {10, 0, []Outage{outage(5, 60)}, 75},
		"it passed just before the outage":            {10, 0, []Outage{outage(10, 60)}, 10},
		"it passed after one that was still felt":     {10, 0, []Outage{outage(2, 4)}, 19},
		"it passed long after the outage":             {100, 0, []Outage{outage(2, 4)}, 100},
		"the machine was heard after the outage":      {10, 5, []Outage{outage(2, 4)}, 10},
		"the machine was heard as the outage ended":   {10, 4, []Outage{outage(2, 4)}, 10},
		"a second outage in what the first added":     {10, 0, []Outage{outage(5, 60), outage(70, 80)}, 95},
		"a second outage after what the first added":  {10, 0, []Outage{outage(5, 60), outage(75, 80)}, 75},
		"an old outage and one that counts":           {10, 5, []Outage{outage(1, 2), outage(6, 20)}, 35},
		"of a machine that was never heard but added": {3, 0, []Outage{outage(-10, -5), outage(1, 2)}, 17},
	} {
		if got := Deadline(at(c.end), at(c.heard), c.outages); !got.Equal(at(c.want)) {
			t.Errorf("%s: %s, want %s", name, got, at(c.want))
		}
	}
}

func TestScopes(t *testing.T) {
	got := Scopes(&Machine{Platform: "azure", ScaleSet: "web", Labels: map[string]string{"region": "eu", "site": "b", "env": "x"}})
	if want := []string{"fleet", "platform:azure", "label:site=b", "label:region=eu", "scale_set:web"}; !slices.Equal(got, want) {
		t.Error(got)
	}
	if got := Scopes(&Machine{}); !slices.Equal(got, []string{"fleet"}) {
		t.Error(got)
	}
	for scope, words := range map[string]string{"fleet": "the fleet", "platform:azure": "platform azure", "label:site=b": "site b", "label:region=a=b": "region a=b", "scale_set:web:1": "scale set web:1"} {
		if got := MissingTogether(scope, 7, 2, now); !strings.HasPrefix(got.Description, "7 machines of "+words+" missed their deadline from 2026-11-23T12:00:00Z on; 2 others") {
			t.Error(got.Description)
		}
	}
}

// silent makes n machines of a scale set whose alerts are due at a minute; silence -1 for free ones.
func silent(n int, scaleSet string, due, silence int) []SilentMachine {
	out := make([]SilentMachine, n)
	for i := range out {
		out[i] = SilentMachine{Scopes: Scopes(&Machine{Platform: "qemu", ScaleSet: scaleSet}), Since: at(-12), Interval: 5 * time.Minute, AlertAt: at(due), Silence: silence}
	}
	return out
}

// recent is an open silence that began at the deadline of the machines of silent.
func recent(scope string, peak int) OpenSilence {
	return OpenSilence{Scope: scope, Peak: peak, Since: at(-12), BegunAt: now}
}

// missedAt gives the machines another deadline that they missed.
func missedAt(minute int, machines []SilentMachine) []SilentMachine {
	for i := range machines {
		machines[i].Since = at(minute)
	}
	return machines
}

func TestDecideSilence(t *testing.T) {
	all := func(from, to int) (out []int) {
		for i := from; i < to; i++ {
			out = append(out, i)
		}
		return out
	}
	web := func(n int) map[string]int {
		return map[string]int{"fleet": 1000, "platform:qemu": 1000, "scale_set:web": n}
	}
	for name, c := range map[string]struct {
		machines []SilentMachine
		heard    map[string]int
		open     []OpenSilence
		want     SilenceDecision
	}{
		"nobody":                                  {},
		"a few of a fleet have an alert each":     {machines: silent(3, "", 0, -1), heard: web(0), want: SilenceDecision{Alone: all(0, 3)}},
		"four are no mass, whatever their share":  {machines: silent(4, "web", 0, -1), want: SilenceDecision{Alone: all(0, 4)}},
		"five of five are":                        {machines: silent(5, "web", 0, -1), want: SilenceDecision{Begin: []BegunSilence{{"fleet", all(0, 5)}}}},
		"half of a scale set is":                  {machines: silent(10, "web", 0, -1), heard: web(10), want: SilenceDecision{Begin: []BegunSilence{{"scale_set:web", all(0, 10)}}}},
		"less than half is not":                   {machines: silent(10, "web", 0, -1), heard: web(11), want: SilenceDecision{Alone: all(0, 10)}},
		"who is not due waits":                    {machines: silent(10, "web", 1, -1)},
		"who is not due counts, and is a member":  {machines: append(silent(1, "web", 0, -1), silent(9, "web", 7, -1)...), heard: web(9), want: SilenceDecision{Begin: []BegunSilence{{"scale_set:web", all(0, 10)}}}},
		"who is not due waits, where none is":     {machines: append(silent(1, "web", 0, -1), silent(2, "web", 7, -1)...), heard: web(9), want: SilenceDecision{Alone: []int{0}}},
		"all of a fleet is one event":             {machines: append(silent(30, "web", 0, -1), silent(30, "db", 0, -1)...), heard: map[string]int{"fleet": 2, "platform:qemu": 2, "scale_set:web": 2}, want: SilenceDecision{Begin: []BegunSilence{{"fleet", all(0, 60)}}}},
		"two scale sets of a large fleet are two": {machines: append(silent(30, "web", 0, -1), silent(40, "db", 0, -1)...), heard: web(0), want: SilenceDecision{Begin: []BegunSilence{{"scale_set:db", all(30, 70)}, {"scale_set:web", all(0, 30)}}}},
		"a scale set and two others":              {machines: append(silent(30, "web", 0, -1), silent(2, "db", 0, -1)...), heard: map[string]int{"fleet": 20, "platform:qemu": 20}, want: SilenceDecision{Begin: []BegunSilence{{"scale_set:web", all(0, 30)}}, Alone: []int{30, 31}}},
		"who joins an open one, due or not":       {machines: append(silent(9, "web", 0, 0), append(silent(1, "web", 5, -1), silent(1, "db", 0, -1)...)...), heard: web(50), open: []OpenSilence{recent("scale_set:web", 9)}, want: SilenceDecision{Join: map[int][]int{0: {9}}, Alone: []int{10}}},
		"the older one is joined":                 {machines: append(silent(9, "web", 0, 1), append(silent(9, "db", 0, 0), silent(1, "web", 0, -1)...)...), open: []OpenSilence{recent("fleet", 9), recent("scale_set:web", 9)}, want: SilenceDecision{Join: map[int][]int{0: {18}}}},
		"it lasts while more than a fifth is":     {machines: silent(3, "web", 0, 0), open: []OpenSilence{recent("scale_set:web", 14)}},
		"it ends with a fifth, who have their own": {machines: silent(3, "web", 0, 0), open: []OpenSilence{recent("scale_set:web", 15)}, heard: web(1),
			want: SilenceDecision{End: []int{0}, Alone: all(0, 3)}},
		"it ends, and who is not due waits": {machines: append(silent(1, "web", 0, 0), silent(1, "web", 9, 0)...), open: []OpenSilence{recent("scale_set:web", 15)}, heard: web(1),
			want: SilenceDecision{End: []int{0}, Alone: []int{0}}},
		"it ends with the last": {open: []OpenSilence{recent("scale_set:web", 15)}, want: SilenceDecision{End: []int{0}}},
		"the rest of a large one is not the next": {machines: silent(20, "web", 0, 0), open: []OpenSilence{recent("scale_set:web", 100)}, heard: web(0),
			want: SilenceDecision{End: []int{0}, Alone: all(0, 20)}},
		"who misses its deadline an interval later is one of them": {machines: append(silent(9, "web", 0, 0), missedAt(12-5, silent(1, "web", 12, -1))...), heard: web(50),
			open: []OpenSilence{{"scale_set:web", 9, at(-3), now}}, want: SilenceDecision{Join: map[int][]int{0: {9}}}},
		"who misses it later than that is not": {machines: append(silent(9, "web", 0, 0), missedAt(-1, silent(1, "web", 0, -1))...), heard: web(50),
			open: []OpenSilence{{"scale_set:web", 9, at(-8), now}}, want: SilenceDecision{Alone: []int{9}}},
		"who missed it long before is not": {machines: append(silent(9, "web", 0, 0), missedAt(-40, silent(1, "web", -30, -1))...), heard: web(50),
			open: []OpenSilence{{"scale_set:web", 9, at(-12), now}}, want: SilenceDecision{Alone: []int{9}}},
		"a later event in an open scope has a narrower one": {machines: append(silent(9, "web", 0, 0), missedAt(-1, silent(9, "db", 0, -1))...),
			open: []OpenSilence{{"fleet", 9, at(-20), now}, {"platform:qemu", 1, at(-20), now}}, want: SilenceDecision{End: []int{1}, Begin: []BegunSilence{{"platform:qemu", all(9, 18)}}}},
		"and where there is none, an alert each": {machines: append(silent(9, "web", 0, 0), append(silent(1, "db", 0, 1), missedAt(-1, silent(9, "", 0, -1))...)...),
			open: []OpenSilence{{"fleet", 9, at(-20), now}, {"platform:qemu", 1, at(-20), now}}, want: SilenceDecision{Alone: all(10, 19)}},
		"it ends at its age":   {machines: silent(9, "web", 0, 0), open: []OpenSilence{{"scale_set:web", 9, at(-12), at(-24 * 60)}}, want: SilenceDecision{End: []int{0}, Alone: all(0, 9)}},
		"and lasts until then": {machines: silent(9, "web", 0, 0), open: []OpenSilence{{"scale_set:web", 9, at(-12), at(-24*60 + 1)}}},
	} {
		if c.want.Join == nil {
			c.want.Join = map[int][]int{}
		}
		if got := DecideSilence(now, c.machines, c.heard, c.open, DefaultSilenceLimits()); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n%+v, want\n%+v", name, got, c.want)
		}
	}
}

// Whatever is silent: each machine is told of at most once, whoever is due is told of, only scopes that reach the limits
// begin, none that is open begins again, and the order of the machines decides nothing.
func TestDecideSilenceHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := SilenceLimits{rapid.IntRange(1, 6).Draw(t, "machines"), rapid.IntRange(1, 100).Draw(t, "percent"), rapid.IntRange(1, 100).Draw(t, "end"), 24 * time.Hour}
		var open []OpenSilence
		for _, scope := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"fleet", "platform:a", "scale_set:0", "scale_set:1"}), 0, 3, rapid.ID).Draw(t, "open") {
			open = append(open, OpenSilence{scope, rapid.IntRange(1, 12).Draw(t, "peak"), at(-10), at(rapid.SampledFrom([]int{0, -24 * 60}).Draw(t, "begun"))})
		}
		machines := make([]SilentMachine, rapid.IntRange(0, 30).Draw(t, "n"))
		for i := range machines {
			m := Machine{Platform: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "platform"), ScaleSet: fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "set"))}
			machines[i] = SilentMachine{Scopes: Scopes(&m), AlertAt: at(rapid.IntRange(-1, 1).Draw(t, "due")),
				Since: at(-rapid.IntRange(1, 40).Draw(t, "since")), Silence: rapid.IntRange(-1, len(open)-1).Draw(t, "silence")}
		}
		heard := rapid.MapOf(rapid.SampledFrom([]string{"fleet", "platform:a", "platform:b", "scale_set:0", "scale_set:1"}), rapid.IntRange(0, 20)).Draw(t, "heard")
		d := DecideSilence(now, machines, heard, open, limits)

		told := map[int]int{}
		for _, b := range d.Begin {
			if len(b.Members) < limits.Machines || len(b.Members)*100 < (len(b.Members)+heard[b.Scope])*limits.Percent {
				t.Fatalf("%s begins with %d of %d", b.Scope, len(b.Members), len(b.Members)+heard[b.Scope])
			}
			for i, o := range open {
				if o.Scope == b.Scope && !slices.Contains(d.End, i) {
					t.Fatalf("%s begins while it lasts", b.Scope)
				}
			}
			for _, i := range b.Members {
				if told[i]++; !slices.Contains(machines[i].Scopes, b.Scope) {
					t.Fatalf("machine %d is not in %s", i, b.Scope)
				}
			}
		}
		for j, members := range d.Join {
			if slices.Contains(d.End, j) {
				t.Fatalf("silence %d ends and is joined", j)
			}
			for _, i := range members {
				if told[i]++; machines[i].Since.Before(at(-10).Add(-machines[i].AlertAt.Sub(machines[i].Since))) {
					t.Fatalf("machine %d joins an event of long after", i)
				}
			}
		}
		for _, i := range d.Alone {
			if told[i]++; machines[i].AlertAt.After(now) {
				t.Fatalf("machine %d has an alert before it is due", i)
			}
		}
		for i, m := range machines {
			inside := m.Silence >= 0 && !slices.Contains(d.End, m.Silence)
			if due := !m.AlertAt.After(now); told[i] > 1 || inside && told[i] != 0 || due && !inside && told[i] != 1 {
				t.Fatalf("machine %d (due %t, in a silence %t) is told of %d times", i, due, inside, told[i])
			}
		}
		slices.Reverse(machines)
		r := DecideSilence(now, machines, heard, open, limits)
		if len(r.Alone) != len(d.Alone) || len(r.Begin) != len(d.Begin) || !slices.Equal(r.End, d.End) {
			t.Fatalf("in another order: %+v, not %+v", r, d)
		}
		for i := range r.Begin {
			if r.Begin[i].Scope != d.Begin[i].Scope || len(r.Begin[i].Members) != len(d.Begin[i].Members) {
				t.Fatalf("in another order: %+v, not %+v", r, d)
			}
		}
	})
}
