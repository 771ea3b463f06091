package predict

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// State says whether Secure Boot is on; the zero value says that it is not known.
type State int

// The states of Secure Boot.
const (
	Unknown State = iota
	Off
	On
)

// Input is what a prediction is made from. What is nil or empty was not given.
type Input struct {
	Banks []tpm.HashAlg
	// The chain, in its order: firmware starts the first of them that is given. A UKI may follow each of the others.
	Shim, SystemdBoot, GRUB, UKI *File
	Kernel                       *File   // that GRUB loads, if its configuration names a file that Files does not hold
	Initrds                      []*File // likewise
	// Files are those on the boot disk, by path, that GRUB can read. A file that is not among them is taken as absent.
	Files map[string]*File
	// EarlyConfig replaces the configuration in the GRUB image.
	EarlyConfig *string
	// Cmdline is checked against what GRUB's configuration or the UKI says.
	Cmdline *string
	// BootPath is where firmware finds what it starts, for example "/EFI/BOOT/BOOTX64.EFI".
	BootPath string
	// BootDevice is GRUB's name of the boot partition ("hd0,gpt1" if empty), SearchResult that of what "search" finds.
	BootDevice, SearchResult string
	// Outcomes says of GRUB's commands whether they succeed, where only the machine can tell: "loadfont", "fwsetup", ….
	Outcomes map[string]bool

	SecureBoot       State
	PK, KEK, DB, DBX *Database
	MOK, MOKX        *Database // what the machine's owner enrolled in shim
	SBATLevel        string    // that the machine holds; shim's own if empty
}

func (in *Input) bootDevice() string {
	if in.BootDevice == "" {
		return "hd0,gpt1"
	}
	return strings.Trim(in.BootDevice, "()")
}

// grubPath is where GRUB itself was started from.
func (in *Input) grubPath() string {
	folder := "/EFI/BOOT"
	if i := strings.LastIndexByte(in.BootPath, '/'); i > 0 {
		folder = in.BootPath[:i]
	}
	return folder + "/grubx64.efi"
}

// Event is one predicted event. Some ways of booting may lack it if it is not Required.
type Event struct {
	PCR         int                 `json:"pcr"`
	Type        string              `json:"type"`
	Digests     map[string][]string `json:"digests"`
	Component   string              `json:"component"`
	Key         string              `json:"key,omitempty"`
	Description string              `json:"description"`
	Required    bool                `json:"required"`
}

// The statuses of a Finding.
const (
	Determined   = "determined"   // all of the PCR's events are known, and its values
	EventsOnly   = "events"       // all of its events are known, but not in which of several ways they add up
	Partly       = "partly"       // some of its events are known
	Undetermined = "undetermined" // none is
	Untouched    = "not_extended" // nothing in this way of booting extends it
)

// Finding says of one PCR whether the given files determine it.
type Finding struct {
	PCR    int    `json:"pcr"`
	Status string `json:"status"`
	Reason string `json:"reason"`
	// Values are the acceptable values by bank, where they are determined: more than one where versions differ in how
	// they measure, and of PCR 11 those at each boot phase.
	Values map[string][]string `json:"values,omitempty"`
}

// Result is a prediction.
type Result struct {
	ReferenceValues verifier.ReferenceValues `json:"reference_values"`
	Events          []Event                  `json:"events"`
	PCRs            []Finding                `json:"pcrs"`
	Assumptions     []string                 `json:"assumptions"`
	Warnings        []string                 `json:"warnings"`
}

// lastPCR is the last PCR that a finding is made for: those after it are not of the boot (PFP 1.06, section 3.3.4).
const lastPCR = 15

// bootPhases are what systemd-pcrphase extends PCR 11 with as a system with systemd comes up (systemd-pcrphase.service(8)).
var bootPhases = []string{"enter-initrd", "leave-initrd", "sysinit", "ready"}

// Predict computes what booting the given files measures. The error is an *Error about a file; what the files do not
// determine is in the result.
func Predict(in *Input) (*Result, error) {
	if len(in.Banks) == 0 {
		return nil, errorf(CodeMissingInput, "", "", "no PCR bank is named")
	}
	for _, alg := range in.Banks {
		if !slices.Contains(supportedBanks, alg) {
			return nil, errorf(CodeMissingInput, "", "", "events cannot be computed for the bank %s", alg)
		}
	}
	if in.Shim == nil && in.SystemdBoot == nil && in.GRUB == nil && in.UKI == nil {
		return nil, errorf(CodeMissingInput, "", "", "there is nothing to boot: give a unified kernel image, or shim or a boot loader")
	}
	if err := in.checkRoles(); err != nil {
		return nil, err
	}
	p := &prediction{in: in}
	var sequences []*sequence
	for _, v := range in.variants() {
		s := &sequence{in: in, variant: v, out: p, open: map[int]string{}}
		if err := s.build(); err != nil {
			return nil, err
		}
		if err := s.decode(); err != nil {
			return nil, err
		}
		sequences = append(sequences, s)
	}
	return p.result(sequences)
}

// checkRoles refuses a file that is not what it was given as, where the file itself is at hand.
func (in *Input) checkRoles() error {
	for _, role := range []struct {
		f    *File
		what string
		is   func(*File) bool
	}{
		{in.Shim, "shim: there is no section .vendor_cert in it", func(f *File) bool { return f.Shim != nil }},
		{in.SystemdBoot, "systemd-boot: there is no section .sdmagic in it that says so", func(f *File) bool { return f.SystemdBoot != "" }},
		{in.GRUB, "GRUB: there is no section mods in it", func(f *File) bool { return f.GRUB != nil }},
		{in.UKI, "unified kernel image: there is no section .linux in it", func(f *File) bool { return f.UKI != nil }},
		{in.Kernel, "kernel: it is no PE image, so that firmware cannot start it", func(f *File) bool { return len(f.Authenticode) > 0 }},
	} {
		if role.f != nil && role.f.reader != nil && !role.is(role.f) {
			return errorf(CodeMissingInput, role.f.Name, "", "no %s", role.what)
		}
	}
	return nil
}

// Judges tells whether there is any PCR that the prediction can judge a machine by.
func (r *Result) Judges() bool { return len(r.ReferenceValues.PCRs)+len(r.ReferenceValues.Events) > 0 }

// prediction gathers what the sequences have in common.
type prediction struct {
	in                    *Input
	assumptions, warnings []string
}

func addOnce(list *[]string, format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(*list, text) {
		*list = append(*list, text)
	}
}

func (p *prediction) assume(format string, args ...any) { addOnce(&p.assumptions, format, args...) }
func (p *prediction) warn(format string, args ...any)   { addOnce(&p.warnings, format, args...) }

// result puts the sequences together.
func (p *prediction) result(sequences []*sequence) (*Result, error) {
	r := &Result{Events: []Event{}, Assumptions: p.assumptions, Warnings: p.warnings}
	r.Events = union(sequences)
	r.ReferenceValues = verifier.ReferenceValues{PCRs: map[string]map[string][]string{}, Claims: map[string]json.RawMessage{}}
	judged := map[int]bool{}
	for pcr := 0; pcr <= lastPCR; pcr++ {
		f := p.finding(pcr, sequences)
		r.PCRs = append(r.PCRs, f)
		for bank, values := range f.Values {
			if r.ReferenceValues.PCRs[bank] == nil {
				r.ReferenceValues.PCRs[bank] = map[string][]string{}
			}
			r.ReferenceValues.PCRs[bank][strconv.Itoa(pcr)] = values
		}
		judged[pcr] = f.Status == Determined || f.Status == EventsOnly
	}
	seen := map[string]bool{}
	for _, e := range r.Events {
		// A reference matches by digest, so that one that is measured twice is named once.
		id := fmt.Sprint(e.PCR, e.Digests)
		if judged[e.PCR] && !seen[id] {
			seen[id] = true
			r.ReferenceValues.Events = append(r.ReferenceValues.Events, e.reference())
		}
	}
	if judged[7] && p.in.SecureBoot == On {
		r.ReferenceValues.Claims["secure_boot"] = json.RawMessage("true")
	}
	if len(r.Events) == 0 {
		return nil, errorf(CodeMissingInput, "", "", "nothing can be predicted from the given files")
	}
	if r.Assumptions == nil {
		r.Assumptions = []string{}
	}
	if r.Warnings == nil {
		r.Warnings = []string{}
	}
	return r, nil
}

func (e *Event) reference() verifier.ReferenceEvent {
	return verifier.ReferenceEvent{PCR: e.PCR, Type: e.Type, Digests: e.Digests, Description: e.Description, Component: e.Component, Key: e.Key, Required: e.Required}
}

// union lists the events of all sequences: those of the first in its order, and behind them what only others have. An
// event is required if each sequence has it.
func union(sequences []*sequence) []Event {
	var out []Event
	count := map[string]int{}
	for _, s := range sequences {
		mine := map[string]bool{}
		for _, e := range s.events {
			if id := e.id(); !mine[id] {
				mine[id] = true
				count[id]++
			}
		}
	}
	most := map[string]int{} // how often an event is listed
	for _, s := range sequences {
		mine := map[string]int{}
		for _, e := range s.events {
			id := e.id()
			if mine[id]++; mine[id] <= most[id] {
				continue
			}
			most[id] = mine[id]
			e.Required = count[id] == len(sequences)
			out = append(out, e)
		}
	}
	return out
}

func (e *Event) id() string { return fmt.Sprint(e.PCR, e.Key, e.Digests) }

// finding says what the sequences tell of a PCR.
func (p *prediction) finding(pcr int, sequences []*sequence) Finding {
	f := Finding{PCR: pcr}
	any, differ := false, false
	for _, s := range sequences {
		if why := s.open[pcr]; why != "" && f.Reason == "" {
			f.Reason = why
		}
		any = any || s.extends(pcr)
	}
	switch {
	case f.Reason != "" && any:
		f.Status = Partly
		return f
	case f.Reason != "":
		f.Status = Undetermined
		return f
	}
	values := map[string][]string{}
	for _, s := range sequences {
		for bank, list := range s.values(pcr) {
			for _, v := range list {
				if !slices.Contains(values[bank], v) {
					values[bank] = append(values[bank], v)
				}
			}
			differ = differ || len(list) == 0
		}
	}
	switch {
	case !any && !p.in.expectsReset(pcr):
		f.Status, f.Reason = Untouched, "nothing in this way of booting extends it; it is not judged"
	case differ:
		f.Status, f.Reason = EventsOnly, "each event is known, but one of them is one of several"
	case !any:
		f.Status, f.Reason, f.Values = Determined, "nothing extends it: it keeps its reset value", values
	case pcr == 11:
		f.Status, f.Reason, f.Values = Determined, "the value after the image, and after each boot phase of systemd", values
	default:
		f.Status, f.Values = Determined, values
		f.Reason = "all of its events follow from the given files"
		if n := len(values[p.in.Banks[0].String()]); n > 1 {
			f.Reason += fmt.Sprintf("; versions of the software differ in how they measure, so that there are %d values", n)
		}
	}
	return f
}

// expectsReset tells whether a PCR that nothing extends is worth judging: that no kernel parameters, credentials or
// extensions come from beside a unified kernel image.
func (in *Input) expectsReset(pcr int) bool {
	return (pcr == 12 || pcr == 13) && in.UKI != nil && in.UKI.UKI != nil
}

// extends tells whether the sequence has an event of the PCR.
func (s *sequence) extends(pcr int) bool {
	return slices.ContainsFunc(s.events, func(e Event) bool { return e.PCR == pcr })
}

// values computes the PCR, by bank; no value where an event has several digests.
func (s *sequence) values(pcr int) map[string][]string {
	out := map[string][]string{}
	for _, alg := range s.in.Banks {
		bank := alg.String()
		value := make([]byte, alg.Size())
		ok := true
		for _, e := range s.events {
			if e.PCR == pcr && ok {
				if ok = len(e.Digests[bank]) == 1; ok {
					value, ok = extend(alg, value, e.Digests[bank][0])
				}
			}
		}
		if !ok {
			out[bank] = nil
			continue
		}
		out[bank] = []string{hex.EncodeToString(value)}
		if pcr == 11 && s.extends(11) {
			for _, phase := range bootPhases {
				value, _ = extend(alg, value, digestOf([]tpm.HashAlg{alg}, []byte(phase))[bank])
				out[bank] = append(out[bank], hex.EncodeToString(value))
			}
		}
	}
	return out
}

// decode has the verifier's own decoder name the events, so that a prediction speaks of them as a verdict does.
func (s *sequence) decode() error {
	log, err := eventlog.Parse(s.log())
	if err != nil {
		return errorf(CodeMissingInput, "", "", "the predicted log cannot be read: %v", err)
	}
	events := log.Events()
	if len(events) != len(s.records)+1 {
		return errorf(CodeMissingInput, "", "", "the predicted log has %d events instead of %d", len(events), len(s.records)+1)
	}
	for i, r := range s.records {
		e := &events[i+1]
		out := Event{PCR: r.pcr, Type: r.kind.String(), Digests: map[string][]string{}, Component: string(e.Component), Key: e.Key, Description: e.Description}
		if r.component != "" {
			out.Component = string(r.component)
		}
		if r.key == noKey {
			out.Key = ""
		} else if r.key != "" {
			out.Key = r.key
		}
		if r.description != "" {
			out.Description = r.description
		}
		for _, d := range r.digests {
			for _, alg := range s.in.Banks {
				bank := alg.String()
				if d[bank] != "" && !slices.Contains(out.Digests[bank], d[bank]) {
					out.Digests[bank] = append(out.Digests[bank], d[bank])
				}
			}
		}
		s.events = append(s.events, out)
	}
	return nil
}

// log serialises the records as firmware's event log (PFP 1.06, section 10).
func (s *sequence) log() []byte {
	var b bytes.Buffer
	u16 := func(v int) { b.Write([]byte{byte(v), byte(v >> 8)}) }
	u32 := func(v int) { u16(v); u16(v >> 16) }
	u32(0)
	u32(int(eventlog.EvNoAction))
	b.Write(make([]byte, 20))
	u32(16 + 12 + 4*len(s.in.Banks) + 1)
	b.WriteString("Spec ID Event03\x00\x00\x00\x00\x00\x00\x02\x00\x02")
	u32(len(s.in.Banks))
	for _, alg := range s.in.Banks {
		u16(int(alg))
		u16(alg.Size())
	}
	b.WriteByte(0)
	for _, r := range s.records {
		u32(r.pcr)
		u32(int(r.kind))
		u32(len(s.in.Banks))
		for _, alg := range s.in.Banks {
			u16(int(alg))
			d, err := hex.DecodeString(r.digests[0][alg.String()])
			if err != nil || len(d) != alg.Size() {
				d = make([]byte, alg.Size())
			}
			b.Write(d)
		}
		u32(len(r.data))
		b.Write(r.data)
	}
	return b.Bytes()
}
