package finding

import (
	"fmt"
	"strings"
	"time"

	"github.com/assay-verifier/assay/verifier"
)

// ConflictKind is what was seen of two machines that cannot both be what they say, or of one TPM with two histories.
type ConflictKind string

// The kinds. Those from ClockBack on are of one TPM and raise rollback_detected; the others identity_conflict.
const (
	EKShared      ConflictKind = "ek_shared"      // one EK asked for under two names
	AKShared      ConflictKind = "ak_shared"      // one AK under two names
	VMShared      ConflictKind = "vm_shared"      // hardware, or the cloud, says that both are one virtual machine
	NameClaimed   ConflictKind = "name_claimed"   // another TPM asked for the machine's name
	QuoteRelayed  ConflictKind = "quote_relayed"  // one machine's TPM answered for another
	LogOfOther    ConflictKind = "log_of_other"   // the boot log names another machine
	SeriesShared  ConflictKind = "series_shared"  // two keys, and the same clock at each boot
	ClockBack     ConflictKind = "clock_back"     // the clock, or the restart counter, went back within one boot
	ResetBack     ConflictKind = "reset_back"     // the reset counter went back
	HistoryForked ConflictKind = "history_forked" // two lives of one TPM, each going on by itself
)

// Rollback tells that it is about one TPM's history, and not about two machines.
func (k ConflictKind) Rollback() bool { return k == ClockBack || k == ResetBack || k == HistoryForked }

// ConflictMachine is one machine of a pair; ID is empty for a name that somebody claimed and that no machine has.
type ConflictMachine struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name"`
}

// ConflictState is what a TPM told at one time.
type ConflictState struct {
	At              time.Time `json:"at"`
	ResetCount      uint32    `json:"reset_count"`
	RestartCount    uint32    `json:"restart_count"`
	ClockMS         uint64    `json:"clock_ms"`
	FirmwareVersion string    `json:"firmware_version,omitempty"` // hex
	Boot            string    `json:"boot_sha256,omitempty"`      // over PCR 0 to 7, hex
}

func (s *ConflictState) text() string {
	return fmt.Sprintf("reset counter %d, restart counter %d, clock %d ms", s.ResetCount, s.RestartCount, s.ClockMS)
}

// ConflictObserved is what shows the conflict. A field that does not belong to the kind is left out.
type ConflictObserved struct {
	What       string   `json:"what,omitempty"`        // ek, ak, vm, instance, guest, log_identity, …: what both have
	SHA256     string   `json:"sha256,omitempty"`      // of it; of a trait the digest that the fleet is searched by
	Proved     *bool    `json:"proved,omitempty"`      // whoever asked showed that it has the key
	RemoteAddr string   `json:"remote_addr,omitempty"` // that asked
	Sharing    int      `json:"machines_sharing,omitempty"`
	Boots      int      `json:"boots,omitempty"`    // that agree
	AheadMS    int64    `json:"ahead_ms,omitempty"` // by how much the clock ran ahead of ours
	MayBe      []string `json:"may_be,omitempty"`   // stable words, most likely first
}

// Conflict is the pair, or the two states, behind an alert: the alert's details.
type Conflict struct {
	Kind     ConflictKind      `json:"kind"`
	Machines []ConflictMachine `json:"machines"`
	Observed ConflictObserved  `json:"observed"`
	First    *ConflictState    `json:"first,omitempty"`
	Second   *ConflictState    `json:"second,omitempty"`
}

// Event tells that it happened at a moment, and is not a state that the present evidence of the two shows or does not show.
func (c *Conflict) Event() bool { return c.Observed.Sharing == 0 && c.Kind != SeriesShared }

// What a TPM whose history does not go on may be.
const (
	MayBeSnapshot = "snapshot_restored"
	MayBeClone    = "vtpm_cloned"
	MayBeCleared  = "tpm_cleared"
	MayBeFirmware = "tpm_firmware_updated"
	MayBeReplay   = "old_quote"
	MayBeClockSet = "clock_set_forward"
)

var mayBeWords = map[string]string{
	MayBeSnapshot: "a snapshot of the virtual machine was restored",
	MayBeClone:    "the virtual TPM was cloned and both copies answer",
	MayBeCleared:  "the TPM was cleared, which sets clock and counters to zero",
	MayBeFirmware: "the TPM's firmware was updated or replaced",
	MayBeReplay:   "quotes came out of order",
	MayBeClockSet: "the TPM's owner set its clock forward",
}

// clearedResets is the highest reset counter, and clearedClock the highest clock in milliseconds, that still looks like a
// TPM which was cleared lately: it began at zero.
const (
	clearedResets = 8
	clearedClock  = 7 * 24 * 3600 * 1000
)

// CompareStates says which kind of going back from the first state to the second is, and what it may be; ok is false
// where the second state is not behind the first (TPM 2.0 Part 1, section 36).
func CompareStates(first, second *ConflictState) (kind ConflictKind, mayBe []string, ok bool) {
	switch {
	case second.ResetCount < first.ResetCount:
		kind = ResetBack
	case second.ResetCount == first.ResetCount && second.RestartCount < first.RestartCount, second.ClockMS < first.ClockMS:
		kind = ClockBack
	default:
		return "", nil, false
	}
	if first.FirmwareVersion != second.FirmwareVersion {
		mayBe = append(mayBe, MayBeFirmware)
	}
	// TPM2_Clear sets clock, resetCount and restartCount to zero (Part 3, section 24.6).
	if kind == ResetBack && second.ResetCount <= clearedResets && second.ClockMS <= clearedClock && second.ClockMS < first.ClockMS {
		mayBe = append(mayBe, MayBeCleared)
	}
	if kind == ClockBack && second.ResetCount == first.ResetCount && second.RestartCount == first.RestartCount {
		mayBe = append(mayBe, MayBeReplay)
	}
	return kind, append(mayBe, MayBeSnapshot, MayBeClone), true
}

// Alert is the alert that the conflict raises on one of its machines, which runs the given operating system.
func (c *Conflict) Alert(id, os string) Alert {
	rule, reason := identityConflict, verifier.OriginUnverified
	words := c.identityWords
	if c.Kind.Rollback() {
		rule, words = rollbackDetected, c.rollbackWords
	}
	own, other := "The machine", "another machine"
	group := Group{Cause: []string{string(c.Kind)}}
	var names []string
	for _, m := range c.Machines {
		if m.ID == id {
			own = "Machine " + m.Name
		} else {
			other = "machine " + m.Name
		}
		group.Cause, names = append(group.Cause, m.ID+"/"+m.Name), append(names, m.Name)
	}
	// Both machines of a pair are one incident.
	group.Title = rule.Title + ": " + strings.Join(names, " and ")
	var out Result
	in := Input{Machine: Machine{OS: os}}
	rule.alert(&in, &out, reason, words(own, other))
	out.Alerts[0].Group = group
	return out.Alerts[0]
}

func (c *Conflict) mayBeText() string {
	if len(c.Observed.MayBe) == 0 {
		return ""
	}
	parts := make([]string, len(c.Observed.MayBe))
	for i, m := range c.Observed.MayBe {
		parts[i] = mayBeWords[m]
	}
	return " It may be that " + strings.Join(parts, ", or ") + "."
}
