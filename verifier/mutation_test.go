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
	lax := verifier.DefaultPolicy()
	lax.RequireSecureBoot = false
	for _, name := range []string{"sb-on-1", "cmdline", "grubcfg-tampered", "initrd-tampered", "mok-signed", "hw-changed", "unlogged-extend", "uki-direct"} {
		c := loadCapture(t, name, "ecdsa256", "sha256")
		for _, policy := range []verifier.Policy{verifier.DefaultPolicy(), lax} {
			for _, known := range [][]verifier.Candidate{nil, candidates} {
				in := c.inputs(t)
				in.Policy, in.Candidates = policy, known
				before := verifier.Appraise(c.ev, in)
				for what, log := range tamperings(in.Log, c.ev.EventLog) {
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
	}
	return out
}
