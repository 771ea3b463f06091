package tpm

import (
	"strings"
	"testing"
)

func TestClockStep(t *testing.T) {
	f := newForger(t)
	sel := Selection{SHA256, 0xff}
	claims := restrict(f.pcrs, []Selection{sel})
	last := ClockState{Clock: 1000, ResetCount: 5, RestartCount: 2, Safe: true, FirmwareVersion: 9}
	for _, c := range []struct {
		name    string
		change  func(*ClockState)
		outcome Outcome
		detail  string
	}{
		{"same instant", func(*ClockState) {}, Pass, ""},
		{"later", func(c *ClockState) { c.Clock++ }, Pass, ""},
		{"next boot", func(c *ClockState) { c.ResetCount, c.RestartCount, c.Clock = 6, 0, 1001 }, Pass, ""},
		{"resumed", func(c *ClockState) { c.RestartCount, c.Clock = 3, 1001 }, Pass, ""},
		{"earlier in the same boot", func(c *ClockState) { c.Clock = 999 }, Fail, "clock went back from 1000 to 999 ms within one boot"},
		{"earlier in the same boot, unsafe", func(c *ClockState) { c.Clock, c.Safe = 999, false }, Fail, "within one boot"},
		{"next boot, earlier, safe", func(c *ClockState) { c.ResetCount, c.Clock = 6, 999 }, Fail, "calls it safe"},
		{"next boot, earlier, unsafe", func(c *ClockState) { c.ResetCount, c.Clock, c.Safe = 6, 999, false }, Warn, "power loss"},
		{"resumed, earlier, unsafe", func(c *ClockState) { c.RestartCount, c.Clock, c.Safe = 3, 999, false }, Warn, "power loss"},
		{"earlier boot", func(c *ClockState) { c.ResetCount, c.Clock = 4, 5000 }, Fail, "reset counter went back from 5 to 4"},
		{"earlier boot, unsafe", func(c *ClockState) { c.ResetCount, c.Safe = 0, false }, Fail, "reset counter went back"},
		{"earlier restart", func(c *ClockState) { c.RestartCount, c.Clock = 1, 5000 }, Fail, "restart counter went back"},
		{"new firmware", func(c *ClockState) { c.FirmwareVersion, c.ResetCount, c.RestartCount = 10, 6, 0 }, Warn, "firmware version changed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := f.message(sel)
			m.clock = last
			c.change(&m.clock)
			e := fresh()
			e.Last = &last
			v, r := Verify(f.ak, []Quote{f.sign(m.bytes())}, claims, e)
			got := r.Steps[StepClock]
			if got.Outcome != c.outcome || !strings.Contains(got.Detail, c.detail) {
				t.Errorf("%s: %s", got.Outcome, got.Detail)
			}
			if (v == nil) != (c.outcome == Fail) {
				t.Error(describe(r))
			}
			if v != nil && v.Clock() != m.clock {
				t.Errorf("clock %+v", v.Clock())
			}
		})
	}
}

func TestQuotesOfDifferentBootsFail(t *testing.T) {
	f := newForger(t)
	one, two := Selection{SHA256, 0x0f}, Selection{SHA256, 0xf0}
	claims := restrict(f.pcrs, []Selection{{SHA256, 0xff}})
	for name, change := range map[string]func(*ClockState){
		"reset":    func(c *ClockState) { c.ResetCount++ },
		"restart":  func(c *ClockState) { c.RestartCount++ },
		"firmware": func(c *ClockState) { c.FirmwareVersion++ },
	} {
		second := f.message(two)
		change(&second.clock)
		v, r := Verify(f.ak, []Quote{f.quote(one), f.sign(second.bytes())}, claims, fresh())
		t.Run(name, func(t *testing.T) { mustFail(t, StepClock, "different boots", v, r) })
	}
}

// The worst of several quotes counts, and what is remembered is the youngest.
func TestEveryQuotesClockIsCompared(t *testing.T) {
	f := newForger(t)
	one, two := f.message(Selection{SHA256, 0x0f}), f.message(Selection{SHA256, 0xf0})
	claims := restrict(f.pcrs, []Selection{{SHA256, 0xff}})
	one.clock.Clock, two.clock.Clock = 3000, 2000
	quotes := []Quote{f.sign(one.bytes()), f.sign(two.bytes())}

	e := fresh()
	for _, order := range [][]Quote{quotes, {quotes[1], quotes[0]}} {
		v, r := Verify(f.ak, order, claims, e)
		if mustPass(t, v, r).Clock().Clock != 3000 {
			t.Error(v.Clock())
		}
	}
	last := one.clock
	last.Clock = 2500
	e.Last = &last
	v, r := Verify(f.ak, quotes, claims, e)
	mustFail(t, StepClock, "from 2500 to 2000", v, r)
}

func TestRebootedMachineMovesForwardOnly(t *testing.T) {
	first, second := capture(t, "sb-on-1", "ecdsa256-sha256"), capture(t, "sb-on-2", "ecdsa256-sha256")
	v, r := Verify(first.ak, []Quote{first.quote}, first.claims(t), first.expectation())
	before := mustPass(t, v, r).Clock()
	e := second.expectation()
	e.Last = &before
	v, r = Verify(second.ak, []Quote{second.quote}, second.claims(t), e)
	after := mustPass(t, v, r).Clock()
	e = first.expectation()
	e.Last = &after
	v, r = Verify(first.ak, []Quote{first.quote}, first.claims(t), e)
	mustFail(t, StepClock, "went back", v, r)
}

// Where stored quotes are verified again, what was found then stands in place of the comparison; quotes of different boots
// fail all the same, and a result that says nothing proves nothing.
func TestClockThenStands(t *testing.T) {
	f := newForger(t)
	sel := Selection{SHA256, 0xff}
	claims := restrict(f.pcrs, []Selection{sel})
	m := f.message(sel)
	later := m.clock
	later.Clock += 1000
	for _, then := range []StepResult{{Outcome: Pass, Detail: "good then"}, {Outcome: Warn, Detail: "power was lost then"}, {Outcome: Fail, Detail: "bad then"}, {}} {
		e := fresh()
		e.Last, e.ClockThen = &later, &then
		v, r := Verify(f.ak, []Quote{f.sign(m.bytes())}, claims, e)
		if got := r.Steps[StepClock]; got.Outcome != then.Outcome || got.Detail != then.Detail || got.Step != StepClock {
			t.Errorf("%+v", got)
		}
		if good := then.Outcome == Pass || then.Outcome == Warn; (v != nil) != good {
			t.Errorf("%s: %s", then.Outcome, describe(r))
		}
	}
	one, two := f.message(Selection{SHA256, 0x0f}), f.message(Selection{SHA256, 0xf0})
	two.clock.ResetCount++
	e := fresh()
	e.ClockThen = &StepResult{Outcome: Pass}
	v, r := Verify(f.ak, []Quote{f.sign(one.bytes()), f.sign(two.bytes())}, claims, e)
	mustFail(t, StepClock, "different boots", v, r)
}
