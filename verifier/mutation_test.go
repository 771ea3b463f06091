package verifier_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// rank orders verdicts by what a machine gains from them. "none" says nothing, so it gains nothing.
func rank(s verifier.Status) int {
	switch s {
	case verifier.Affirming:
		return 2
	case verifier.Warning:
		return 1
	}
	return 0
}

func flip(b []byte, i int) []byte {
	out := bytes.Clone(b)
	out[i] ^= 0x01
	return out
}

// Any changed byte of a quote or a signature, and any changed claimed value, is origin_unverified.
func TestFlippedQuote(t *testing.T) {
	candidates := golden(t, "sb-on-1", "sha256")
	for _, ak := range []string{"rsassa", "rsapss", "ecdsa256", "ecdsa384"} {
		c := loadCapture(t, "sb-on-1", ak, "sha256")
		in := c.inputs(t)
		in.Candidates = candidates
		if got := verifier.Appraise(c.ev, in); got.Status != verifier.Affirming {
			t.Fatalf("%s is %s before the change\n%s", ak, got.Status, render(got))
		}
		refused := func(what string, ev verifier.Evidence) {
			t.Helper()
			got := verifier.Appraise(&ev, in)
			if got.Status != verifier.Contraindicated || got.Reason != verifier.OriginUnverified || got.Genuine {
				t.Fatalf("%s %s: %s %q\n%s", ak, what, got.Status, got.Reason, render(got))
			}
		}
		q := c.ev.Quotes[0]
		for i := range q.Message {
			ev := *c.ev
			ev.Quotes = []tpm.Quote{{Message: flip(q.Message, i), Signature: q.Signature}}
			refused("message", ev)
		}
		for i := range q.Signature {
			ev := *c.ev
			ev.Quotes = []tpm.Quote{{Message: q.Message, Signature: flip(q.Signature, i)}}
			refused("signature", ev)
		}
		for pcr, value := range c.ev.PCRs[0].Values {
			for i := range value {
				ev := *c.ev
				ev.PCRs = slices.Clone(c.ev.PCRs)
				ev.PCRs[0].Values[pcr] = flip(value, i)
				refused("PCR value", ev)
			}
			// A PCR left out of the claim, and its value under the name of another.
			ev := *c.ev
			ev.PCRs = slices.Clone(c.ev.PCRs)
			ev.PCRs[0].Mask &^= 1 << pcr
			ev.PCRs[0].Values[pcr] = nil
			refused("dropped PCR", ev)
			if !bytes.Equal(value, c.ev.PCRs[0].Values[23]) {
				ev := *c.ev
				ev.PCRs = slices.Clone(c.ev.PCRs)
				ev.PCRs[0].Values[pcr], ev.PCRs[0].Values[23] = c.ev.PCRs[0].Values[23], value
				refused("PCR listed as the resettable 23", ev)
			}
		}
	}
}

// Every byte of the log, changed: a digest or the data of a covered event is never affirmed again.
func TestFlippedLog(t *testing.T) {
	for _, name := range []string{"sb-on-1", "uki-sdboot-1"} {
		candidates := golden(t, name, "sha256")
		c := loadCapture(t, name, "ecdsa256", "sha256")
		in := c.inputs(t)
		in.Candidates = candidates
		before := verifier.Appraise(c.ev, in)
		covered := coveredBytes(in.Log, c.ev.EventLog)
		n := 0
		for i := range c.ev.EventLog {
			if !covered[i] {
				continue
			}
			n++
			ev := *c.ev
			ev.EventLog = flip(c.ev.EventLog, i)
			mutated := in
			withLogs(&mutated, &ev)
			if got := verifier.Appraise(&ev, mutated); got.Status == verifier.Affirming {
				t.Errorf("%s: byte %d flipped (%s): still affirming", name, i, eventAt(in.Log, c.ev.EventLog, i))
			}
		}
		if n == 0 || before.Status != verifier.Affirming {
			t.Errorf("%s: %d covered bytes, before %s\n%s", name, n, before.Status, render(before))
		}
	}
}

// coveredBytes marks the bytes of the log that are digests of the quoted bank or covered data. The data
// ends where the next record begins.
func coveredBytes(log *eventlog.Log, raw []byte) []bool {
	out := make([]bool, len(raw))
	mark := func(at, n int) {
		for i := at; i < at+n; i++ {
			out[i] = true
		}
	}
	events := log.Events()
	for n, e := range events {
		end := len(raw)
		if n+1 < len(events) {
			end = events[n+1].Offset
		}
		if !e.Extended {
			continue
		}
		for _, d := range e.Digests {
			if d.Alg == tpm.SHA256 {
				mark(e.Offset+bytes.Index(raw[e.Offset:], d.Bytes), len(d.Bytes))
			}
		}
		start, length := coveredPart(e)
		mark(end-len(e.Data)+start, length)
	}
	return out
}

// coveredPart is the part of the event's data that its SHA-256 digest is the hash of: all of it, or what
// follows a prefix (of a GRUB command, of a UEFI variable's name), with or without the closing zero.
func coveredPart(e eventlog.Event) (start, length int) {
	for _, d := range e.Digests {
		if d.Alg != tpm.SHA256 {
			continue
		}
		for start := 0; start < min(len(e.Data), 128); start++ {
			for _, end := range []int{len(e.Data), len(e.Data) - 1} {
				if sum := sha256.Sum256(e.Data[start:max(start, end)]); end > start && bytes.Equal(sum[:], d.Bytes) {
					return start, end - start
				}
			}
		}
	}
	return 0, 0
}

func eventAt(log *eventlog.Log, raw []byte, i int) string {
	text := ""
	for _, e := range log.Events() {
		if e.Offset <= i {
			text = e.Type.String() + ": " + e.Description
		}
	}
	return text
}

// What an attacker can do to a log without breaking its replay, or by breaking it: the verdict is never
// better than that of the log as it was.
func TestTamperedLogIsNeverBetter(t *testing.T) {
	candidates := golden(t, "sb-on-1", "sha256")
	cmdline := []verifier.Candidate{{Reference: reference(t, `{"claims": {"kernel_cmdline": {"any_of": ["BOOT_IMAGE=/vmlinuz console=ttyS0,115200", "BOOT_IMAGE=set timeout=0"]}}}`)}}
	healthy := map[string]bool{}
	golden1 := loadCapture(t, "sb-on-1", "ecdsa256", "sha256")
	for _, e := range golden1.inputs(t).Log.Events() {
		healthy[sha256Of(e)] = true
	}
	lax := verifier.DefaultPolicy()
	lax.RequireSecureBoot = false
	for _, name := range []string{"sb-on-1", "cmdline", "grubcfg-tampered", "initrd-tampered", "mok-signed", "hw-changed", "unlogged-extend", "uki-direct"} {
		c := loadCapture(t, name, "ecdsa256", "sha256")
		for _, policy := range []verifier.Policy{verifier.DefaultPolicy(), lax} {
			for _, known := range [][]verifier.Candidate{nil, candidates, madeByHand(t, candidates, 1<<24-1), madeByHand(t, candidates, 1<<8), cmdline} {
				in := c.inputs(t)
				in.Policy, in.Candidates = policy, known
				before := verifier.Appraise(c.ev, in)
				logs := tamperings(in.Log, c.ev.EventLog)
				logs["every strange event rewritten as a boot option"] = rewriteAll(in.Log, c.ev.EventLog, func(e eventlog.Event, preimage []byte) []byte {
					if healthy[sha256Of(e)] {
						return nil
					}
					return bootVariable("Boot0001", preimage)
				})
				logs["the command line relabelled"] = rewriteAll(in.Log, c.ev.EventLog, func(_ eventlog.Event, preimage []byte) []byte {
					if string(preimage) == "set timeout=0" {
						return []byte("kernel_cmdline: set timeout=0\x00")
					}
					if bytes.HasPrefix(preimage, []byte("/vmlinuz")) {
						return slices.Concat([]byte("grub_cmd: "), preimage, []byte{0})
					}
					return nil
				})
				for what, log := range logs {
					ev := *c.ev
					ev.EventLog = log
					mutated := in
					withLogs(&mutated, &ev)
					got := verifier.Appraise(&ev, mutated)
					if rank(got.Status) > rank(before.Status) {
						t.Errorf("%s, %s: %s became %s\n%s", name, what, before.Status, got.Status, render(got))
					}
				}
			}
		}
	}
}

// madeByHand is the reference as a person would write it: nothing is required to be there.
func madeByHand(t *testing.T, captured []verifier.Candidate, pcrs uint32) []verifier.Candidate {
	t.Helper()
	var values verifier.ReferenceValues
	for _, e := range captured[0].Reference.Values().Events {
		if e.Required = false; pcrs&(1<<e.PCR) != 0 {
			values.Events = append(values.Events, e)
		}
	}
	ref, err := verifier.CompileReference(values)
	if err != nil {
		t.Fatal(err)
	}
	return []verifier.Candidate{{Baseline: captured[0].Baseline, Reference: ref}}
}

func sha256Of(e eventlog.Event) string {
	for _, d := range e.Digests {
		if d.Alg == tpm.SHA256 {
			return string(d.Bytes)
		}
	}
	return ""
}

// rewriteAll gives events other data around the same preimage, where data answers any.
func rewriteAll(log *eventlog.Log, raw []byte, data func(e eventlog.Event, preimage []byte) []byte) []byte {
	var out []byte
	events := log.Events()
	for i, e := range events {
		end := len(raw)
		if i+1 < len(events) {
			end = events[i+1].Offset
		}
		record := raw[e.Offset:end]
		if start, n := coveredPart(e); n > 0 && e.Extended {
			if d := data(e, e.Data[start:start+n]); d != nil {
				record = withData(record, len(e.Data), d)
			}
		}
		out = append(out, record...)
	}
	return out
}

// withData gives the record other data.
func withData(record []byte, length int, data []byte) []byte {
	head := record[:len(record)-length-4]
	return append(binary.LittleEndian.AppendUint32(bytes.Clone(head), uint32(len(data))), data...)
}

// bootVariable is a UEFI_VARIABLE_DATA of the EFI global vendor.
func bootVariable(name string, value []byte) []byte {
	out := []byte{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	out = binary.LittleEndian.AppendUint64(out, uint64(len(name)))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(value)))
	for _, c := range name {
		out = append(out, byte(c), 0)
	}
	return append(out, value...)
}

func tamperings(log *eventlog.Log, raw []byte) map[string][]byte {
	out := map[string][]byte{"log dropped": nil}
	events := log.Events()
	end := func(i int) int {
		if i+1 < len(events) {
			return events[i+1].Offset
		}
		return len(raw)
	}
	for i := 1; i < len(events); i++ {
		e := events[i]
		record := raw[e.Offset:end(i)]
		name := e.Type.String() + " " + e.Description
		for _, typ := range []uint32{0x03, 0x04, 0x05, 0x06, 0x0d, 0x80000001, 0x80000002, 0x80000003, 0x80000006, 0x80000007, 0x800000e0} {
			retyped := bytes.Clone(raw)
			binary.LittleEndian.PutUint32(retyped[e.Offset+4:], typ)
			out[name+" retyped to "+eventlog.EventType(typ).String()] = retyped
		}
		moved := bytes.Clone(raw)
		binary.LittleEndian.PutUint32(moved[e.Offset:], uint32(e.PCR+1)%8)
		out[name+" moved to another PCR"] = moved
		out[name+" repeated"] = slices.Concat(raw[:end(i)], record, raw[end(i):])
		out[name+" appended again at the end"] = slices.Concat(raw, record)
		out[name+" dropped"] = slices.Concat(raw[:e.Offset], raw[end(i):])
		if start, n := coveredPart(e); n > 0 {
			// The same digest, its preimage dressed up as something that only names the machine.
			preimage := e.Data[start : start+n]
			for _, variable := range []string{"Boot0001", "BootOrder"} {
				out[name+" rewritten as "+variable] = slices.Concat(raw[:e.Offset], withData(record, len(e.Data), bootVariable(variable, preimage)), raw[end(i):])
			}
			for _, prefix := range []string{"grub_cmd: ", "kernel_cmdline: "} {
				out[name+" rewritten as "+prefix] = slices.Concat(raw[:e.Offset], withData(record, len(e.Data), append([]byte(prefix), preimage...)), raw[end(i):])
			}
		}
	}
	return out
}
