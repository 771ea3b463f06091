package soak

import (
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// model is what must have been found. It knows what happened and not what the database holds; which silent machines are one
// event it asks of finding.DecideSilence, which has tests of its own.
type model struct {
	machines []*known
	at       map[uuid.UUID]*known
	lastBeat time.Time
	outages  []finding.Outage
	silences []*silence
	masses   map[string]*ledger // alerts of scopes
	stale    int                // deadlines found missed
}

// known is one machine in the model.
type known struct {
	id     uuid.UUID
	facts  finding.Machine
	policy *verifier.Policy
	heard  time.Time // or enrolled
	ever   bool      // it has attested
	bad    bool

	staleAt, since, alertAt time.Time // zero while it is not stale
	alerted                 bool
	silence                 *silence

	missing, failed ledger
}

type silence struct {
	since, begun time.Time
	scope        string
	peak         int
}

// ledger is the life of one alert.
type ledger struct {
	open                          bool
	opened, occurrences, resolved int
}

func (l *ledger) raise() {
	if l.occurrences++; !l.open {
		l.open = true
		l.opened++
	}
}

func (l *ledger) end() {
	if l.open {
		l.open = false
		l.resolved++
	}
}

func newModel() *model {
	return &model{at: map[uuid.UUID]*known{}, masses: map[string]*ledger{}}
}

func (m *model) enrolled(id uuid.UUID, facts finding.Machine, policy *verifier.Policy, now time.Time) {
	k := &known{id: id, facts: facts, policy: policy, heard: now}
	m.machines, m.at[id] = append(m.machines, k), k
}

func (m *model) beat(now time.Time) {
	if !m.lastBeat.IsZero() && now.Sub(m.lastBeat) > 2*step {
		m.outages = append(m.outages, finding.Outage{From: m.lastBeat, To: now})
	}
	m.lastBeat = now
}

func (m *model) heard(id uuid.UUID, now time.Time, bad bool) {
	k := m.at[id]
	k.heard, k.ever, k.bad = now, true, bad
	k.staleAt, k.alerted, k.silence = time.Time{}, false, nil
	k.missing.end()
	if bad {
		k.failed.raise()
	} else {
		k.failed.end()
	}
}

func seconds(n int) time.Duration { return time.Duration(n) * time.Second }

// extended is a deadline with the time that outages of the service give: until a quarter of an hour after the end of each
// that began before it, if the machine was not heard since.
func (m *model) extended(end, heard time.Time) time.Time {
	for _, o := range m.outages {
		if o.From.Before(end) && o.To.After(heard) && o.To.Add(15*time.Minute).After(end) {
			end = o.To.Add(15 * time.Minute)
		}
	}
	return end
}

// look is one look at the deadlines.
func (m *model) look(now time.Time) {
	for _, k := range m.machines {
		due := k.heard.Add(seconds(k.policy.AttestationIntervalSeconds))
		limit := m.extended(due.Add(seconds(k.policy.StaleAfterSeconds)), k.heard)
		if k.staleAt.IsZero() && !now.Before(limit) {
			k.staleAt, k.since, k.alertAt = now, due, limit.Add(seconds(k.policy.AttestationMissingDelaySeconds))
			m.stale++
		}
	}
	m.settle(now)
}

func (m *model) settle(now time.Time) {
	var list []*known
	var machines []finding.SilentMachine
	var first time.Time
	for _, k := range m.machines {
		if k.staleAt.IsZero() || k.alerted {
			continue
		}
		alertAt := m.extended(k.alertAt, k.since)
		i := -1
		if k.silence != nil {
			i = slices.Index(m.silences, k.silence)
		} else if !alertAt.After(now) && (first.IsZero() || k.since.Before(first)) {
			first = k.since
		}
		list = append(list, k)
		machines = append(machines, finding.SilentMachine{Scopes: finding.Scopes(&k.facts), Since: k.since,
			Interval: seconds(k.policy.AttestationIntervalSeconds), AlertAt: alertAt, Silence: i})
	}
	heard := map[string]int{}
	for _, k := range m.machines {
		if k.staleAt.IsZero() && k.ever && !first.IsZero() && k.heard.After(first) {
			for _, scope := range finding.Scopes(&k.facts) {
				heard[scope]++
			}
		}
	}
	open := make([]finding.OpenSilence, len(m.silences))
	for i, s := range m.silences {
		open[i] = finding.OpenSilence{Scope: s.scope, Peak: s.peak, Since: s.since, BegunAt: s.begun}
	}
	m.apply(finding.DecideSilence(now, machines, heard, open, limits), list, now)
}

func (m *model) apply(d finding.SilenceDecision, list []*known, now time.Time) {
	for _, i := range d.End {
		m.masses[m.silences[i].scope].end()
		for _, k := range list {
			if k.silence == m.silences[i] {
				k.silence = nil
			}
		}
	}
	for i, members := range d.Join {
		for _, j := range members {
			list[j].silence = m.silences[i]
		}
	}
	var lasting []*silence
	for i, s := range m.silences {
		if !slices.Contains(d.End, i) {
			lasting = append(lasting, s)
		}
	}
	for _, b := range d.Begin {
		s := &silence{scope: b.Scope, begun: now, since: list[b.Members[0]].since}
		for _, j := range b.Members {
			list[j].silence = s
			if list[j].since.Before(s.since) {
				s.since = list[j].since
			}
		}
		if m.masses[b.Scope] == nil {
			m.masses[b.Scope] = &ledger{}
		}
		m.masses[b.Scope].raise()
		lasting = append(lasting, s)
	}
	m.silences = lasting
	for _, i := range d.Alone {
		list[i].alerted = true
		list[i].missing.raise()
	}
	for _, s := range m.silences {
		silent := 0
		for _, k := range list {
			if k.silence == s {
				silent++
			}
		}
		s.peak = max(s.peak, silent)
	}
}
