package tpm

import (
	"crypto/subtle"
	"errors"
	"fmt"
)

// maxQuotes bounds the quotes of one piece of evidence: a bank a quote is all that anyone sends.
const maxQuotes = 8

// Freshness says what the quotes' extraData must be. The zero value fails.
type Freshness struct {
	Nonce     []byte // the expected extraData
	Fault     string // not empty: the nonce was ours, but is expired or used; the step fails with this text
	Unchecked bool   // with neither Nonce nor Fault: judged offline without a nonce, so the step is skipped
}

// Expectation is what a verifier asks of quotes beyond their being genuine.
type Expectation struct {
	Freshness     Freshness
	Required      []Selection // PCRs that must be quoted, each in the named bank or in a stronger one
	AllowSHA1PCRs bool        // values of a SHA-1 bank count
	Last          *ClockState // the clock in this AK's last accepted quote; nil for the first
	// ClockThen is what the step found when these quotes were first verified. It stands in place of the comparison with
	// Last where stored quotes are verified again: the clock that they followed is no longer known. Nil otherwise.
	ClockThen *StepResult
}

// Verify checks that quotes were made by the TPM of ak, for this verifier's nonce, over exactly the
// claimed PCR values. It returns the verified values, or nil when any step failed, and in both cases
// a report with one result a step, over all quotes. The checks, in order:
//
//  1. quote.signature: there are 1 to 8 quotes; ak passes CheckAK where its attributes are known; each
//     signature covers exactly the bytes of its message, made with ak, in ak's own scheme (or, where ak
//     has none, in one that fits its type), with SHA-256, SHA-384 or SHA-512.
//  2. quote.type: each message is a TPMS_ATTEST with the magic that only a TPM writes there, made by
//     TPM2_Quote, with nothing left over; all name the same signer.
//  3. quote.nonce: each extraData is the expected nonce, compared in constant time.
//  4. quote.selection: the PCRs quoted, over all quotes, are exactly the PCRs claimed, bank by bank, and
//     not none; they hold what is required in the required bank or in a stronger one; SHA-1 alone is not
//     enough unless allowed.
//  5. quote.digest: each pcrDigest is the hash, by the signature's algorithm, of the claimed values in
//     the order of that quote's selection.
//  6. quote.clock: all quotes are of one boot, and neither counters nor clock went back since Last.
//
// After a failed signature or type nothing else in the messages means anything, and after a failed
// selection there are no values to digest: those steps are reported as skipped, with the reason.
//
// The caller must have established whose key ak is, that nobody revoked it, and that the nonce was
// made for this machine.
func Verify(ak *Public, quotes []Quote, pcrs PCRs, e Expectation) (*VerifiedQuote, Report) {
	v := verification{ak: ak, quotes: quotes, pcrs: pcrs, expect: e}
	report := newReport()
	report.set(v.checkSignatures())
	if report.Steps[StepSignature].Outcome != Pass {
		report.skipFrom(StepType, "not checked, since the signature does not hold")
		return nil, report
	}
	report.set(v.checkTypes())
	if report.Steps[StepType].Outcome != Pass {
		report.skipFrom(StepNonce, "not checked, since the message is not a quote")
		return nil, report
	}
	report.set(v.checkNonce())
	report.set(v.checkSelection())
	if report.Steps[StepSelection].Outcome == Pass {
		report.set(v.checkDigest())
	} else {
		report.Steps[StepDigest].Detail = "not checked, since the claimed PCRs are not those that were quoted"
	}
	report.set(v.checkClock())
	if !report.allows(e.Freshness) {
		return nil, report
	}
	return v.verified(report.Steps[StepNonce].Outcome == Pass), report
}

// verification is the state of one call of Verify.
type verification struct {
	ak       *Public
	quotes   []Quote
	pcrs     PCRs
	expect   Expectation
	schemes  [maxQuotes]Scheme
	attests  [maxQuotes]Attest
	selected []Selection // union over all quotes, one entry a bank, without empty ones
}

// which names the quote in a detail, where there is more than one.
func (v *verification) which(i int) string {
	if len(v.quotes) == 1 {
		return "the quote"
	}
	return fmt.Sprintf("quote %d of %d", i+1, len(v.quotes))
}

// checkSignatures must come first: what follows reads the messages.
func (v *verification) checkSignatures() StepResult {
	fail := func(detail string) StepResult { return StepResult{StepSignature, Fail, detail} }
	if len(v.quotes) == 0 {
		return fail("there is no quote")
	}
	if len(v.quotes) > maxQuotes {
		return fail(fmt.Sprintf("there are %d quotes, at most %d are accepted", len(v.quotes), maxQuotes))
	}
	// A key that may sign anything signs forged quotes too, so this is asked again here although
	// the caller asked it at enrolment.
	if err := CheckAK(v.ak); err != nil && !errors.Is(err, ErrAttributesUnknown) {
		return fail(err.Error())
	}
	for i, q := range v.quotes {
		var s Signature
		if err := s.parse(q.Signature); err != nil {
			return fail(fmt.Sprintf("%s: TPMT_SIGNATURE: %v", v.which(i), err))
		}
		if len(q.Message) > maxStructure {
			return fail(fmt.Sprintf("%s: the message has %d bytes, more than a TPM can make", v.which(i), len(q.Message)))
		}
		if err := s.verify(v.ak, q.Message); err != nil {
			return fail(fmt.Sprintf("%s: %v", v.which(i), err))
		}
		v.schemes[i] = s.Scheme
	}
	return StepResult{StepSignature, Pass, "signed by the attestation key"}
}

// checkTypes guards against an attestation that this AK made for something else than a quote, and
// against data that never was an attestation.
func (v *verification) checkTypes() StepResult {
	for i, q := range v.quotes {
		if err := v.attests[i].parse(q.Message); err != nil {
			return StepResult{StepType, Fail, fmt.Sprintf("%s: TPMS_ATTEST: %v", v.which(i), err)}
		}
		if !sameSigner(&v.attests[0], &v.attests[i]) {
			return StepResult{StepType, Fail, fmt.Sprintf("%s names another signer than the first", v.which(i))}
		}
	}
	return StepResult{StepType, Pass, "made by TPM2_Quote inside a TPM"}
}

// checkNonce guards against a quote of another time, or one made for another verifier.
func (v *verification) checkNonce() StepResult {
	f := v.expect.Freshness
	if f.Fault != "" {
		return StepResult{StepNonce, Fail, f.Fault}
	}
	unchecked := f.Unchecked && len(f.Nonce) == 0
	want := f.Nonce
	if unchecked {
		want = v.attests[0].ExtraData // the quotes must at least agree with one another
	} else if len(want) == 0 {
		return StepResult{StepNonce, Fail, "no nonce is expected from this machine"}
	}
	for i := range v.quotes {
		if subtle.ConstantTimeCompare(v.attests[i].ExtraData, want) != 1 {
			if unchecked {
				return StepResult{StepNonce, Fail, "the quotes carry different nonces"}
			}
			return StepResult{StepNonce, Fail, v.which(i) + " was made for another nonce than the one expected"}
		}
	}
	if unchecked {
		return StepResult{StepNonce, Skipped, "judged without a nonce, so nothing shows when the quote was made"}
	}
	return StepResult{StepNonce, Pass, "made for the nonce of this challenge"}
}

// checkDigest guards against claimed values that are not those in the TPM. TPM2_Quote computes
// pcrDigest with the hash of the signing scheme (Part 3, section 18.4) over the selected PCRs in
// the order of the selections, ascending within each.
func (v *verification) checkDigest() StepResult {
	for i := range v.quotes {
		a := &v.attests[i]
		h := v.schemes[i].Hash.Hash().New()
		for _, s := range a.Selections {
			bank := v.pcrs.Bank(s.Alg)
			for index := range NumPCRs {
				if s.Has(index) {
					h.Write(bank.Values[index])
				}
			}
		}
		var sum [64]byte
		if subtle.ConstantTimeCompare(h.Sum(sum[:0]), a.PCRDigest) != 1 {
			return StepResult{StepDigest, Fail, v.which(i) + " was made over other PCR values than those claimed"}
		}
	}
	return StepResult{StepDigest, Pass, "the claimed PCR values are those in the TPM"}
}

// verified copies what was proved, so that no later change of the input reaches it. The clock is
// that of the youngest quote.
func (v *verification) verified(fresh bool) *VerifiedQuote {
	q := &VerifiedQuote{fresh: fresh}
	size := 0
	for _, s := range v.selected {
		size += NumPCRs * s.Alg.Size()
	}
	values := make([]byte, 0, size+len(v.attests[0].ExtraData))
	own := func(b []byte) []byte {
		start := len(values)
		values = append(values, b...)
		return values[start:len(values):len(values)]
	}
	q.extraData = own(v.attests[0].ExtraData)
	q.banks = make([]Bank, 0, len(v.selected))
	for _, s := range v.selected {
		if s.Alg == SHA1 && !v.expect.AllowSHA1PCRs {
			continue
		}
		claimed := v.pcrs.Bank(s.Alg)
		bank := Bank{Alg: s.Alg, Mask: s.Mask}
		for i := range NumPCRs {
			if s.Has(i) {
				bank.Values[i] = own(claimed.Values[i])
			}
		}
		q.banks = append(q.banks, bank)
	}
	q.clock = v.attests[0].Clock
	for i := range v.quotes {
		if c := v.attests[i].Clock; c.Clock > q.clock.Clock {
			q.clock = c
		}
	}
	return q
}

// VerifiedQuote holds PCR values that a TPM signed. Only Verify makes one.
type VerifiedQuote struct {
	banks     []Bank // ascending by Alg
	clock     ClockState
	extraData []byte
	fresh     bool
}

// PCR is the verified value of one PCR, or ok false when it was not quoted in that bank (or the bank
// is SHA-1 and does not count). The bytes must not be modified.
func (q *VerifiedQuote) PCR(alg HashAlg, index int) (value []byte, ok bool) {
	bank := PCRs(q.banks).Bank(alg)
	if bank == nil || index < 0 || index >= NumPCRs || bank.Values[index] == nil {
		return nil, false
	}
	return bank.Values[index], true
}

// Banks lists the quoted banks that count, ascending by algorithm number: sha1 (where allowed),
// sha256, sha384, sha512.
func (q *VerifiedQuote) Banks() []HashAlg {
	algs := make([]HashAlg, len(q.banks))
	for i := range q.banks {
		algs[i] = q.banks[i].Alg
	}
	return algs
}

// Selections lists which PCRs are verified, bank by bank in the order of Banks.
func (q *VerifiedQuote) Selections() []Selection {
	out := make([]Selection, len(q.banks))
	for i := range q.banks {
		out[i] = Selection{Alg: q.banks[i].Alg, Mask: q.banks[i].Mask}
	}
	return out
}

// Clock is what to remember for Expectation.Last.
func (q *VerifiedQuote) Clock() ClockState { return q.clock }

// ExtraData is the nonce in the quotes. The bytes must not be modified.
func (q *VerifiedQuote) ExtraData() []byte { return q.extraData }

// Fresh tells whether the nonce was checked; false when Freshness.Unchecked let it pass.
func (q *VerifiedQuote) Fresh() bool { return q.fresh }
