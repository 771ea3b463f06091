package finding

import (
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier"
)

// A machine that has been affirmed by a version of a baseline and is later what an older version expects has gone back:
// to software that was replaced for a reason, be it a mistake or somebody who wants its holes back. While the older
// version is in grace its verdict is affirming all the same; a machine that has not moved yet is no concern. It ends
// with the evidence that a version matches which is no older than the newest that the machine has had.
var baselineRollback = &Rule{
	Code:     "baseline_rollback",
	Title:    "A machine went back to an older version of its baseline",
	Severity: Medium,
	Citation: "NIST SP 800-193, section 4.2.1.3 (rollback protection of firmware updates)",
	Steps: map[string][]string{
		"": {
			"Ask whether somebody set the machine back on purpose: a restored snapshot or disk image, an older entry chosen in the boot menu, a failed update.",
			"If not, treat it as an attack: old software is put back for its known vulnerabilities. Isolate the machine and keep its disk.",
			"Install the present software again; the alert ends with the next attestation that the newer version matches.",
			"If the newer version was withdrawn and the older software is meant to run, register it as a new version and promote that.",
		},
		"linux": {"On Linux, `journalctl --list-boots` and the package manager's log show when the machine booted the older software."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		a := in.Appraisal
		if a == nil || !a.Genuine {
			return
		}
		if len(in.Rollbacks) == 0 {
			if checkStatus(a, verifier.CheckBaselineMatch) == verifier.Pass {
				r.clear(out)
			}
			return
		}
		parts := make([]string, len(in.Rollbacks))
		for i := range in.Rollbacks {
			parts[i] = in.Rollbacks[i].text()
		}
		r.alert(in, out, verifier.NoReason, in.name()+" had moved on and has gone back: "+strings.Join(parts, "; ")+".")
		g := Group{Title: fmt.Sprintf("Went back to version %d of baseline %q", in.Rollbacks[0].Now, in.Rollbacks[0].Baseline)}
		for i := range in.Rollbacks {
			g.Cause = append(g.Cause, in.Rollbacks[i].Baseline, fmt.Sprint(in.Rollbacks[i].Now))
		}
		out.group(g)
	},
}

// Rollback is that a machine now is what an older version of a baseline expects than one that affirmed it before.
type Rollback struct {
	Baseline string `json:"baseline"`  // name
	MovedTo  int    `json:"moved_to"`  // the version activated last of those that affirmed the machine
	Now      int    `json:"now"`       // the older version that it matches now
	NowState string `json:"now_state"` // state of that version: grace or retired
}

func (b *Rollback) text() string {
	return fmt.Sprintf("baseline %q version %d affirmed it before, and now it matches only version %d, which is %s", b.Baseline, b.MovedTo, b.Now, stateWord(b.NowState))
}

func stateWord(state string) string {
	if state == "grace" {
		return "still valid for machines that have not moved yet (grace)"
	}
	return state
}
