package eventlog

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Outcome is the result of a replay. The zero value is Failed.
type Outcome uint8

// The outcomes of a replay.
const (
	Failed   Outcome = iota // the log does not lead to the quoted PCRs
	Empty                   // there is no log: nothing is explained, and nothing contradicted
	Replayed                // the log leads to the quoted PCRs
)

// String is the outcome in lower case.
func (o Outcome) String() string {
	switch o {
	case Empty:
		return "empty"
	case Replayed:
		return "replayed"
	}
	return "failed"
}

// PCRState says how a quoted PCR and the log agree. The zero value is Mismatch.
type PCRState uint8

// The states of a PCR.
const (
	Mismatch    PCRState = iota // the log leads to another value: the replay fails
	Match                       // the log leads to the quoted value; without events, to the reset value
	Unexplained                 // the log has no events and keeps none for this PCR: nothing follows
	NotJudged                   // judged elsewhere, as PCR 10 is by IMA, or in a capped bank
)

// String is the state in lower case.
func (s PCRState) String() string {
	switch s {
	case Match:
		return "match"
	case Unexplained:
		return "unexplained"
	case NotJudged:
		return "not_judged"
	}
	return "mismatch"
}

// PCRResult compares one quoted PCR with the log.
type PCRResult struct {
	PCR    int
	State  PCRState
	Events bool   // the log has events for it in this bank
	Quoted []byte // the quoted value
	Logged []byte // the value that the log leads to
	// Phases are the boot phases of systemd-pcrphase that were extended after the log ended (PCR 11).
	Phases []string
}

// BankState says what became of a quoted bank. The zero value is BankFailed.
type BankState uint8

// The states of a bank.
const (
	BankFailed      BankState = iota // at least one PCR mismatches
	BankReplayed                     // no PCR mismatches
	BankCapped                       // closed by Windows since another bank is in use: nothing is derived from it
	BankNotCovered                   // quoted, but the log has no digests of it
	BankNotComputed                  // the log has it, but its algorithm is not computed here (SM3)
)

// String is the state in lower case.
func (s BankState) String() string {
	switch s {
	case BankReplayed:
		return "replayed"
	case BankCapped:
		return "capped"
	case BankNotCovered:
		return "not_covered"
	case BankNotComputed:
		return "not_computed"
	}
	return "failed"
}

// BankResult compares one quoted bank with the log.
type BankResult struct {
	Alg   tpm.HashAlg
	State BankState
	PCRs  []PCRResult // ascending; nil where the bank was not compared
}

// Report is the whole comparison.
type Report struct {
	Outcome Outcome
	Detail  string // plain words: why it failed, or what was replayed
	Banks   []BankResult
	// Contradicted lists the events (by Event.Index) whose data is not what their digest covers,
	// though their type is one whose digest always is the hash of its data. The PCRs replay all the
	// same, so nothing untrue is believed; but somebody changed the log. Nothing of it may be affirmed
	// without a look.
	Contradicted []int
}

// pcrValues is what a replay compares with: the quoted values, or claimed ones.
type pcrValues interface {
	PCR(alg tpm.HashAlg, index int) (value []byte, ok bool)
	Banks() []tpm.HashAlg
}

// claimed lets plain PCR values stand where quoted ones do.
type claimed tpm.PCRs

func (c claimed) PCR(alg tpm.HashAlg, index int) ([]byte, bool) {
	b := tpm.PCRs(c).Bank(alg)
	if b == nil || index < 0 || index >= tpm.NumPCRs || b.Mask&(1<<uint(index)) == 0 {
		return nil, false
	}
	return b.Values[index], true
}

func (c claimed) Banks() []tpm.HashAlg {
	out := make([]tpm.HashAlg, len(c))
	for i := range c {
		out[i] = c[i].Alg
	}
	return out
}

// Replay compares the log with quoted PCRs. It checks, for each quoted bank that the log has:
//   - a PCR with events has the value that they lead to;
//   - PCR 11 may have been extended further by the phases of systemd-pcrphase, and by nothing else;
//   - a PCR of 0-9 and 14 without events has its reset value: firmware, boot loaders and shim log all
//     that they extend there;
//   - other PCRs without events are Unexplained if they do not have their reset value: the operating
//     system extends them and keeps no log here. PCR 10 is left to IMA.
//
// A bank that Windows capped (closed, since a stronger one is in use) is no failure if another bank
// replays. The log fails if it shares no bank with the quote. Of several logs in one buffer the last
// one that replays counts; if none does, the report is that of the last.
//
// The Measurements hold only what the replay proved; they are empty if it failed.
func Replay(q *tpm.VerifiedQuote, log *Log) (*Measurements, Report) {
	if q == nil || log == nil {
		return &Measurements{}, Report{Detail: "no verified quote or no log to replay"}
	}
	return log.replay(q)
}

// Compare is Replay with PCR values that nobody vouches for. It makes no Measurements.
func (l *Log) Compare(pcrs tpm.PCRs) Report {
	_, report := l.replay(claimed(pcrs))
	return report
}

func (l *Log) replay(values pcrValues) (*Measurements, Report) {
	if l.Empty() {
		return &Measurements{log: l, empty: true}, Report{Outcome: Empty, Detail: "the log is empty: the PCRs stand alone"}
	}
	last := len(l.segments) - 1
	var key viewKey
	report := l.segments[last].compare(values, &key)
	key.segment = last
	for i := last - 1; i >= 0 && report.Outcome != Replayed; i-- {
		earlier := viewKey{segment: i}
		if r := l.segments[i].compare(values, &earlier); r.Outcome == Replayed {
			report, key = r, earlier
			report.Detail += fmt.Sprintf(" (log %d of %d in the buffer)", i+1, last+1)
		}
	}
	if report.Outcome != Replayed {
		return &Measurements{log: l}, report
	}
	v := l.view(key)
	report.Contradicted = v.contradicted
	return &Measurements{log: l, view: v}, report
}

// compare judges one segment and notes in key which PCRs each bank proves.
func (g *segment) compare(values pcrValues, key *viewKey) Report {
	quoted := values.Banks()
	report := Report{Banks: make([]BankResult, len(quoted))}
	replayed, failed, common := -1, -1, false
	for i, alg := range quoted {
		result := &report.Banks[i]
		result.Alg = alg
		n := indexOf(g.algorithms, alg)
		switch {
		case n < 0:
			result.State = BankNotCovered
			continue
		case !g.banks[n].computed:
			result.State, common = BankNotComputed, true
			continue
		}
		common = true
		result.PCRs = g.comparePCRs(n, values)
		result.State = BankReplayed
		for _, p := range result.PCRs {
			if p.State == Mismatch {
				result.State = BankFailed
			}
		}
		if result.State == BankReplayed && len(result.PCRs) > 0 && (replayed < 0 || stronger(alg, quoted[replayed])) {
			replayed = i
		}
	}
	for i := range report.Banks {
		if result := &report.Banks[i]; result.State == BankFailed {
			if replayed >= 0 && stronger(report.Banks[replayed].Alg, result.Alg) && g.capped(result) {
				result.State = BankCapped
			} else if failed < 0 {
				failed = i
			}
		}
	}
	switch {
	case failed >= 0:
		report.Detail = mismatchDetail(&report.Banks[failed])
	case replayed >= 0:
		report.Outcome = Replayed
		report.Detail = g.replayedDetail(&report)
		g.prove(&report, key)
	case common:
		report.Detail = "no quoted PCR could be compared with the log: its algorithm is not computed here, or the quote selects none"
	default:
		report.Detail = "the log has no PCR bank that was quoted"
	}
	return report
}

// comparePCRs judges the quoted PCRs of one bank.
func (g *segment) comparePCRs(n int, values pcrValues) []PCRResult {
	alg, size, b := g.algorithms[n].id, g.algorithms[n].size, &g.banks[n]
	results := make([]PCRResult, 0, tpm.NumPCRs)
	for pcr := range tpm.NumPCRs {
		quoted, ok := values.PCR(alg, pcr)
		if !ok {
			continue
		}
		p := PCRResult{PCR: pcr, Quoted: quoted, Logged: b.value(size, pcr), Events: b.extended&(1<<pcr) != 0}
		switch {
		case bytes.Equal(p.Quoted, p.Logged):
			p.State = Match
		case pcr == 10 && !p.Events:
			p.State = NotJudged
		case pcr == 11 && len(quoted) == size:
			if p.Phases = phases(alg, p.Logged, quoted); p.Phases != nil {
				p.State = Match
			} else if !p.Events {
				p.State = Unexplained
			}
		case !p.Events && pcr > 9 && pcr != 14:
			p.State = Unexplained
		}
		results = append(results, p)
	}
	return results
}

func stronger(a, b tpm.HashAlg) bool { return a.Size() > b.Size() }

// capped tells whether Windows closed the bank: it extends PCR 0 to 13 of a bank that it does not use
// once with zeros, so that nobody can use it to hide what it measures into the other one. From then on
// the bank says nothing of the boot, so its PCRs become NotJudged.
func (g *segment) capped(result *BankResult) bool {
	size := result.Alg.Size()
	var zero, value [maxComputed]byte
	seen := false
	for _, p := range result.PCRs {
		if p.PCR > 7 || len(p.Quoted) != size {
			continue
		}
		copy(value[:size], p.Logged)
		extend(result.Alg, value[:size], zero[:size])
		if !bytes.Equal(value[:size], p.Quoted) {
			return false
		}
		seen = true
	}
	if seen {
		for i := range result.PCRs {
			result.PCRs[i].State = NotJudged
		}
	}
	return seen
}

// prove notes the PCRs with the banks that match.
func (g *segment) prove(report *Report, key *viewKey) {
	for _, result := range report.Banks {
		if result.State != BankReplayed {
			continue
		}
		n := indexOf(g.algorithms, result.Alg)
		for _, p := range result.PCRs {
			if p.State == Match {
				key.proven[p.PCR] |= 1 << n
			}
		}
	}
}

func mismatchDetail(result *BankResult) string {
	var with, without []int
	for _, p := range result.PCRs {
		if p.State != Mismatch {
			continue
		}
		if p.Events {
			with = append(with, p.PCR)
		} else {
			without = append(without, p.PCR)
		}
	}
	switch {
	case len(without) == 0:
		return fmt.Sprintf("the log does not lead to the quoted value of PCR %s (%v)", numbers(with), result.Alg)
	case len(with) == 0:
		return fmt.Sprintf("PCR %s was extended and the log does not explain it (%v)", numbers(without), result.Alg)
	}
	return fmt.Sprintf("the log does not lead to the quoted value of PCR %s, and does not explain PCR %s at all (%v)", numbers(with), numbers(without), result.Alg)
}

func numbers(list []int) string {
	var b []byte
	for i, n := range list {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = fmt.Append(b, n)
	}
	return string(b)
}

// replayedDetail names the banks; it avoids fmt, since every good appraisal comes here.
func (g *segment) replayedDetail(report *Report) string {
	detail, separator := "the log replays to the quoted PCRs (", ""
	for _, b := range report.Banks {
		detail += separator + b.Alg.String()
		if b.State != BankReplayed {
			detail += " " + strings.ReplaceAll(b.State.String(), "_", " ")
		}
		separator = ", "
	}
	return detail + ")"
}
