package finding

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Outage is a time in which nobody was there to hear machines.
type Outage struct{ From, To time.Time }

// Recovery is for how long after an outage of the service no machine counts as silent for it. An agent that gets no
// answer tries again after at most ten minutes.
const Recovery = 15 * time.Minute

// Deadline is the end of a time that a machine has to be heard in, which ends at the given end. An outage of the service
// that began before it, and after which the machine has not been heard, extends it to the end of Recovery after the
// outage. heard is when the machine was heard last, or was enrolled. outages are in the order of their beginning.
func Deadline(end, heard time.Time, outages []Outage) time.Time {
	for _, o := range outages {
		if !o.From.Before(end) {
			break
		}
		if until := o.To.Add(Recovery); o.To.After(heard) && until.After(end) {
			end = until
		}
	}
	return end
}

// The kinds of scopes.
const (
	scopeFleet    = "fleet"
	scopePlatform = "platform"
	scopeScaleSet = "scale_set"
	scopeLabel    = "label"
)

// siteLabels are the labels that say where a machine is.
var siteLabels = []string{"site", "region"}

// Scopes are what a machine has in common with others, for mass silences: "fleet", "platform:azure", "scale_set:web",
// "label:site=berlin", "label:region=eu".
func Scopes(m *Machine) []string {
	out := []string{scopeFleet}
	if m.Platform != "" {
		out = append(out, scopePlatform+":"+m.Platform)
	}
	for _, label := range siteLabels {
		if value := m.Labels[label]; value != "" {
			out = append(out, scopeLabel+":"+label+"="+value)
		}
	}
	if m.ScaleSet != "" {
		out = append(out, scopeScaleSet+":"+m.ScaleSet)
	}
	return out
}

// SilenceLimits say when many silent machines are one event. Percentages are 1 to 100.
type SilenceLimits struct {
	// Machines that fall silent together at least; below it each has an alert of its own.
	Machines int
	// Percent that they are at least, of those of their scope that were expected meanwhile: themselves, and those
	// that have attested since the first of them missed its deadline.
	Percent int
	// EndPercent: a mass silence ends once no more than that share of its largest extent is silent.
	EndPercent int
	// MaxAge: it ends at that age too, whoever is silent then and whatever became of its alert. What lasts longer is no
	// event any more that explains each machine, and a machine must not be hidden by it for ever.
	MaxAge time.Duration
}

// DefaultSilenceLimits are 5 machines, half of a scope, four fifths back, and a day.
func DefaultSilenceLimits() SilenceLimits {
	return SilenceLimits{Machines: 5, Percent: 50, EndPercent: 20, MaxAge: 24 * time.Hour}
}

// SilentMachine is a machine that is stale, and has no alert of its own for it.
type SilentMachine struct {
	Scopes   []string
	Since    time.Time     // the deadline that it missed
	Interval time.Duration // in which its policy wants evidence
	AlertAt  time.Time     // when its alert is due
	// Silence is the mass silence that it is part of: its index in the open ones; -1 for none.
	Silence int
}

// OpenSilence is a mass silence that lasts.
type OpenSilence struct {
	Scope   string
	Peak    int       // the most machines that were silent at once
	Since   time.Time // the first deadline that a member missed
	BegunAt time.Time // when it was found
}

// explains tells whether a machine may be silent by the same event. What cut machines off at one moment has made each of
// them miss a deadline within an interval from then on; what its policy leaves after that, until the alert, is for jitter
// and retries. The time counts from the first deadline and not from the last member, so that machines which are cut off one
// after the other are not hidden one behind the other.
func (o *OpenSilence) explains(m *SilentMachine) bool {
	return m.Since.Sub(o.Since).Abs() <= m.Interval+m.AlertAt.Sub(m.Since)
}

// SilenceDecision is what follows. Machines are named by their index, silences by that of the open ones.
type SilenceDecision struct {
	Begin []BegunSilence
	Join  map[int][]int // machines that become part of an open silence
	End   []int         // open silences that end; their machines are free again
	Alone []int         // machines whose own alert is raised now
}

// BegunSilence is a mass silence that begins.
type BegunSilence struct {
	Scope   string
	Members []int
}

// DecideSilence says which silent machines are one event, and which have an alert each. heard counts, by scope, the
// machines that are not silent and have attested since the first of the due ones missed its deadline. open is in the order
// of their beginning.
//
//   - An open silence ends when most of its machines are back, or at its greatest age. Those that are not back are free
//     again, and have their own alerts at once where these are due: they are not taken for the next mass silence.
//   - A machine in the scope of an open silence becomes part of it if it missed its deadline at about the time at which
//     that began.
//   - Once a machine's alert is due, all that are free, due or not, are looked at: the scope that explains most of them
//     best (their number times their share of those expected) is a mass silence if it reaches the limits; then the rest
//     again. So one event has one alert, also where the machines' deadlines come one after the other. The scope of an
//     open silence is none of these: a later event has an alert of its own, of a narrower scope, or of each machine.
//   - Who is due and still free has an alert of its own.
//
// It is pure: the same arguments give the same decision.
func DecideSilence(now time.Time, machines []SilentMachine, heard map[string]int, open []OpenSilence, limits SilenceLimits) SilenceDecision {
	d := SilenceDecision{Join: map[int][]int{}}
	members := make([]int, len(open))
	for _, m := range machines {
		if m.Silence >= 0 {
			members[m.Silence]++
		}
	}
	lasting := map[string]int{}
	ended := make([]bool, len(open))
	for i, o := range open {
		// The peak may be of a moment ago: who has just come back is no reason to end at one glance and to begin at the next.
		if members[i]*100 <= max(o.Peak, members[i])*limits.EndPercent || members[i] == 0 || now.Sub(o.BegunAt) >= limits.MaxAge {
			d.End, ended[i] = append(d.End, i), true
		} else if _, twice := lasting[o.Scope]; !twice {
			lasting[o.Scope] = i
		}
	}
	var free []int
	anyDue := false
	for i := range machines {
		m := &machines[i]
		due := !m.AlertAt.After(now)
		switch {
		case m.Silence >= 0 && !ended[m.Silence]:
		case m.Silence >= 0 && due:
			d.Alone = append(d.Alone, i)
		default:
			if j, found := inLasting(m, open, lasting); found {
				d.Join[j] = append(d.Join[j], i)
				continue
			}
			free, anyDue = append(free, i), anyDue || due
		}
	}
	for anyDue {
		scope := bestScope(machines, free, heard, lasting, limits)
		if scope == "" {
			break
		}
		var inside, rest []int
		for _, i := range free {
			if slices.Contains(machines[i].Scopes, scope) {
				inside = append(inside, i)
			} else {
				rest = append(rest, i)
			}
		}
		d.Begin, free = append(d.Begin, BegunSilence{scope, inside}), rest
	}
	for _, i := range free {
		if !machines[i].AlertAt.After(now) {
			d.Alone = append(d.Alone, i)
		}
	}
	slices.Sort(d.Alone)
	return d
}

func inLasting(m *SilentMachine, open []OpenSilence, lasting map[string]int) (silence int, found bool) {
	for _, scope := range m.Scopes {
		if i, ok := lasting[scope]; ok && open[i].explains(m) && (!found || i < silence) {
			silence, found = i, true
		}
	}
	return silence, found
}

// bestScope is the scope, of those that have no lasting silence, that reaches the limits and explains the free machines best;
// empty if none does. Of scopes that explain them alike it is the wider one, and then the first by name.
func bestScope(machines []SilentMachine, free []int, heard, lasting map[string]int, limits SilenceLimits) string {
	silent := map[string]int{}
	for _, i := range free {
		for _, scope := range machines[i].Scopes {
			silent[scope]++
		}
	}
	best := ""
	for scope, n := range silent {
		expected := n + heard[scope]
		if _, open := lasting[scope]; open || n < limits.Machines || n*100 < expected*limits.Percent {
			continue
		}
		if best == "" {
			best = scope
			continue
		}
		b := silent[best]
		// n²/expected against b²/(b's expected), without division
		if c := cmp.Or(cmp.Compare(n*n*(b+heard[best]), b*b*expected), cmp.Compare(narrowness(best), narrowness(scope)), cmp.Compare(best, scope)); c > 0 {
			best = scope
		}
	}
	return best
}

// narrowness orders the kinds of scopes, the widest first.
func narrowness(scope string) int {
	kind, _, _ := strings.Cut(scope, ":")
	return slices.Index([]string{scopeFleet, scopePlatform, scopeLabel, scopeScaleSet}, kind)
}
