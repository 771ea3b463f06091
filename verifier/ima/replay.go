package ima

import (
	"bytes"
	"crypto/sha1" // #nosec G505 -- PCR banks and template hashes of the kernel
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"maps"
	"slices"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Status is the outcome of a replay, of one bank or of all. The zero value is Unsupported: nothing is
// proven.
type Status uint8

// The outcomes.
const (
	Unsupported Status = iota // nothing could be checked
	Fail                      // the list is not what the quoted PCR 10 says
	Pass
)

// String is "unsupported", "fail" or "pass".
func (s Status) String() string {
	switch s {
	case Pass:
		return "pass"
	case Fail:
		return "fail"
	}
	return "unsupported"
}

// BankReport is how one PCR bank fared.
type BankReport struct {
	Alg    tpm.HashAlg
	Status Status
	// Padded: the kernel extends this bank with the zero-padded SHA-1 template hash.
	Padded bool
	Detail string // plain words
}

// Report is the outcome of Replay. Only when Status is Pass are the first Matched entries proven.
type Report struct {
	Status  Status
	Detail  string // plain words, about the whole
	Banks   []BankReport
	First   int // entries that came before this list: its entry i is the boot's entry First+i
	Matched int // entries of this list that the quote proves
	Beyond  int // entries of this list that are later than the quote
	// Violations and Elsewhere count proven entries that are violations, and entries among the first
	// Matched that are measured into another PCR than 10 and so are not proven.
	Violations int
	Elsewhere  int
	// NeedWhole: an increment cannot be judged, and the list is needed from its first entry on.
	NeedWhole bool
}

// Replay finds the prefix of the list that extends PCR 10 to the quoted value. It checks that
//
//  1. in every quoted bank some prefix gives the quoted value, from the value in from (or zeros);
//  2. all banks prove the same number of entries;
//  3. a bank is extended by one rule throughout: with the template hash in the bank's own algorithm, or
//     with the zero-padded SHA-1 hash (kernels before 5.8, and later ones for an algorithm that was not
//     built in), and by the same rule as in from;
//  4. the template hash that the list states for each of those entries is the hash of its template data;
//  5. a list with entries is not paired with a PCR 10 that was never extended.
//
// quoted holds PCR 10 by bank, out of a verified quote; banks whose hash is not computed here are
// unsupported. from is what the machine's earlier evidence of the same boot has proven, nil if
// nothing: the caller drops it when the TPM's reset count has moved. next is to be remembered if
// the status is Pass and is a copy of from otherwise.
func (l *List) Replay(quoted map[tpm.HashAlg][]byte, from *State) (next State, rep Report) {
	if from == nil {
		from = &State{}
	}
	next = State{Entries: from.Entries, PCR: maps.Clone(from.PCR), Padded: maps.Clone(from.Padded), Modsig: from.Modsig}
	rep = Report{First: from.Entries}
	if len(quoted) == 0 {
		rep.Detail = "no quote covers PCR 10"
		return next, rep
	}
	runs := make([]run, 0, len(quoted))
	for _, alg := range slices.Sorted(maps.Keys(quoted)) {
		r := l.replayBank(alg, quoted[alg], from)
		runs = append(runs, r)
		rep.Banks = append(rep.Banks, r.report)
		rep.NeedWhole = rep.NeedWhole || r.needWhole
	}
	rep.Status, rep.Detail = conclude(runs)
	if rep.Status == Fail {
		if lie := l.checkStatedHashes(&Report{First: rep.First, Matched: len(l.recs)}); lie != "" {
			rep.Detail += "; " + lie
		}
	}
	if rep.Status != Pass {
		return next, rep
	}
	for _, r := range runs {
		if r.report.Status == Pass {
			rep.Matched = r.matched
		}
	}
	if detail := l.checkStatedHashes(&rep); detail != "" {
		rep.Status, rep.Detail, rep.Matched = Fail, detail, 0
		return next, rep
	}
	rep.Beyond = len(l.recs) - rep.Matched
	rep.Detail = fmt.Sprintf("%d entries give the quoted PCR 10; %d are later than the quote", rep.First+rep.Matched, rep.Beyond)

	next.Entries += rep.Matched
	next.Modsig = next.Modsig || l.hasModsig(rep.Matched)
	next.PCR = make(map[string][]byte, len(runs))
	next.Padded = make(map[string]bool, len(runs))
	for _, r := range runs {
		if r.report.Status != Pass {
			continue
		}
		name := r.report.Alg.String()
		next.PCR[name] = bytes.Clone(quoted[r.report.Alg])
		if r.decided {
			next.Padded[name] = r.report.Padded
		}
	}
	return next, rep
}

// hasModsig tells whether one of the first n entries carries an appended signature.
func (l *List) hasModsig(n int) bool {
	for i := range l.recs[:n] {
		rec := &l.recs[i]
		if rec.pcr == PCR && templates[rec.template].name == "ima-modsig" && rec.flags&flagViolation == 0 && len(l.view(rec).modsig) > 0 {
			return true
		}
	}
	return false
}

// conclude joins the banks: one that fails fails all, and all that pass must agree.
func conclude(runs []run) (Status, string) {
	passed := -1
	for i := range runs {
		switch r := &runs[i]; r.report.Status {
		case Fail:
			return Fail, r.report.Detail
		case Pass:
			if passed >= 0 && runs[passed].matched != r.matched {
				return Fail, fmt.Sprintf("the quoted banks prove different numbers of entries: %s %d, %s %d",
					runs[passed].report.Alg, runs[passed].matched, r.report.Alg, r.matched)
			}
			passed = i
		}
	}
	if passed < 0 {
		return Unsupported, runs[0].report.Detail
	}
	return Pass, ""
}

// run is the replay of one bank.
type run struct {
	report    BankReport
	matched   int
	decided   bool // report.Padded is known, not assumed
	needWhole bool
}

func (l *List) replayBank(alg tpm.HashAlg, want []byte, from *State) run {
	out := run{report: BankReport{Alg: alg}}
	done := func(s Status, format string, args ...any) run {
		out.report.Status, out.report.Detail = s, fmt.Sprintf(format, args...)
		return out
	}
	size := alg.Size()
	if alg.Hash() == 0 {
		return done(Unsupported, "PCR bank %s is not computed", alg)
	}
	if len(want) != size {
		return done(Fail, "the quoted PCR 10 of bank %s is %d bytes long, not %d", alg, len(want), size)
	}
	var start digest
	if from.Entries > 0 {
		before := from.PCR[alg.String()]
		if len(before) != size {
			out.needWhole = true
			return done(Unsupported, "bank %s was not quoted before: the IMA list is needed from its first entry on", alg)
		}
		copy(start[:], before)
	}
	if from.Entries == 0 && len(l.recs) > 0 && isZero(want) {
		return done(Fail, "PCR 10 of bank %s was never extended, but the IMA list has %d entries", alg, len(l.recs))
	}
	known, decided := from.Padded[alg.String()]
	if alg == tpm.SHA1 { // the two rules are one
		known, decided = false, true
	}
	for _, padded := range [...]bool{false, true} {
		if decided && padded != known {
			continue
		}
		matched, telling, ok := l.chain(alg, padded, start, want)
		if !ok {
			continue
		}
		out.matched, out.report.Padded, out.decided = matched, padded, decided || telling
		if padded {
			return done(Pass, "bank %s is extended with zero-padded SHA-1 by this kernel", alg)
		}
		return done(Pass, "bank %s is extended with its own hash", alg)
	}
	if l.opaqueFor(alg) {
		return done(Unsupported, "an ASCII list with a template that is not known replays in the SHA-1 bank only")
	}
	if len(l.recs) == 0 {
		return done(Fail, "PCR 10 of bank %s has moved, but no IMA list entries were sent", alg)
	}
	return done(Fail, "no prefix of the %d entries gives the quoted PCR 10 of bank %s", len(l.recs), alg)
}

// opaqueFor tells whether an entry of PCR 10 cannot be hashed for the bank because its bytes are not known.
func (l *List) opaqueFor(alg tpm.HashAlg) bool {
	if alg == tpm.SHA1 && l.hashSize == sha1.Size {
		return false
	}
	for i := range l.recs {
		if l.recs[i].flags&flagOpaque != 0 && l.recs[i].pcr == PCR {
			return true
		}
	}
	return false
}

// chain extends cur entry by entry until it is want. telling is true when an entry was folded in for
// which padding makes a difference.
func (l *List) chain(alg tpm.HashAlg, padded bool, cur digest, want []byte) (matched int, telling, ok bool) {
	var (
		buf     [2 * maxDigest]byte
		sum     digest
		scratch [oldDigestSize + oldNameSize]byte
		size    = alg.Size()
		own     = alg
	)
	if padded {
		own = tpm.SHA1
	}
	copy(buf[:], cur[:size])
	if bytes.Equal(buf[:size], want) {
		return 0, false, true
	}
	for i := range l.recs {
		rec := &l.recs[i]
		if rec.pcr != PCR {
			continue
		}
		second := buf[size : 2*size]
		switch {
		case rec.flags&flagViolation != 0:
			for j := range second {
				second[j] = 0xff
			}
		case rec.flags&flagOpaque != 0:
			if own != tpm.SHA1 || l.hashSize != sha1.Size {
				return 0, false, false
			}
			clear(second[copy(second, l.hash(rec)):])
			telling = true
		default:
			n := sum.of(own, l.hashed(rec, &scratch))
			clear(second[copy(second, sum[:n]):])
			telling = true
		}
		sum.of(alg, buf[:2*size])
		copy(buf[:], sum[:size])
		if bytes.Equal(buf[:size], want) {
			return i + 1, telling, true
		}
	}
	return 0, false, false
}

// checkStatedHashes walks the proven entries, counts, and says where the list's own template hash is
// not the hash of its data.
func (l *List) checkStatedHashes(rep *Report) string {
	for i := 0; i < rep.Matched; i++ {
		rec := &l.recs[i]
		switch {
		case rec.pcr != PCR:
			rep.Elsewhere++
			continue
		case rec.flags&flagViolation != 0:
			rep.Violations++
			continue
		case rec.flags&flagOpaque != 0:
			continue
		}
		if !l.statedHashFits(rec) {
			return fmt.Sprintf("entry %d: the template hash that the list states is not the hash of its template data", rep.First+i)
		}
	}
	return ""
}

// hashed is what the template hash is over: the template data with its lengths, except in the old
// template ima, where it is the digest and the name padded to 256 bytes (Linux:
// ima_calc_field_array_hash_tfm in ima_crypto.c).
func (l *List) hashed(rec *record, scratch *[oldDigestSize + oldNameSize]byte) []byte {
	data := l.data(rec)
	if rec.template != templateIMA {
		return data
	}
	copy(scratch[:oldDigestSize], data)
	clear(scratch[oldDigestSize+copy(scratch[oldDigestSize:], data[oldDigestSize+4:]):])
	return scratch[:]
}

const maxDigest = sha512.Size

// digest has room for a digest of any bank.
type digest [maxDigest]byte

// of hashes data and returns the size; 0 for an algorithm that is not computed. The functions of the
// standard library are called directly, since the hash.Hash interface would allocate.
func (d *digest) of(alg tpm.HashAlg, data []byte) int {
	switch alg {
	case tpm.SHA1:
		sum := sha1.Sum(data) // #nosec G401 -- a bank of the TPM
		return copy(d[:], sum[:])
	case tpm.SHA256:
		sum := sha256.Sum256(data)
		return copy(d[:], sum[:])
	case tpm.SHA384:
		sum := sha512.Sum384(data)
		return copy(d[:], sum[:])
	case tpm.SHA512:
		sum := sha512.Sum512(data)
		return copy(d[:], sum[:])
	}
	return 0
}

func algOfSize(n int) tpm.HashAlg {
	switch n {
	case sha256.Size:
		return tpm.SHA256
	case sha512.Size384:
		return tpm.SHA384
	case sha512.Size:
		return tpm.SHA512
	}
	return tpm.SHA1
}
