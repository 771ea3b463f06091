package tpm

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// checkSelection guards against values that nobody signed (claimed but not quoted), against a
// machine that leaves out what it does not want to show, and against weak banks. It fills
// v.selected on the way.
func (v *verification) checkSelection() StepResult {
	if fault := v.checkClaims(); fault != "" {
		return StepResult{StepSelection, Fail, fault}
	}
	v.selected = v.union()
	if len(v.selected) == 0 {
		return StepResult{StepSelection, Fail, "no PCR was quoted"}
	}
	if fault := v.compareWithClaims(); fault != "" {
		return StepResult{StepSelection, Fail, fault}
	}
	if len(v.selected) == 1 && v.selected[0].Alg == SHA1 && !v.expect.AllowSHA1PCRs {
		return StepResult{StepSelection, Fail, "only the sha1 bank was quoted, which the policy does not allow"}
	}
	for _, required := range v.expect.Required {
		if fault := v.missing(required); fault != "" {
			return StepResult{StepSelection, Fail, fault}
		}
	}
	return StepResult{StepSelection, Pass, "exactly the claimed PCRs were quoted"}
}

// checkClaims checks that the claimed banks are well formed: PCRs is an open type that a decoder fills.
func (v *verification) checkClaims() string {
	for i := range v.pcrs {
		bank := &v.pcrs[i]
		if bank.Alg == RTMR {
			return fmt.Sprintf("%s is no PCR bank of a TPM", bank.Alg)
		}
		if bank.Mask >= 1<<NumPCRs {
			return fmt.Sprintf("a PCR beyond %d is claimed in bank %s", NumPCRs-1, bank.Alg)
		}
		for _, other := range v.pcrs[:i] {
			if other.Alg == bank.Alg {
				return fmt.Sprintf("bank %s is claimed twice", bank.Alg)
			}
		}
		for index, value := range bank.Values {
			if claimed := bank.Mask&(1<<index) != 0; claimed && (len(value) == 0 || len(value) != bank.Alg.Size()) {
				return fmt.Sprintf("PCR %d of bank %s is claimed with a value of %d bytes", index, bank.Alg, len(value))
			} else if !claimed && value != nil {
				return fmt.Sprintf("PCR %d of bank %s has a value but is not claimed", index, bank.Alg)
			}
		}
	}
	return ""
}

// union is what all quotes together cover, one entry a bank, ascending by algorithm. A PCR quoted
// twice is there once: both digests are compared with the one value claimed for it.
func (v *verification) union() []Selection {
	out := make([]Selection, 0, len(v.attests[0].Selections))
	for i := range v.quotes {
		for _, s := range v.attests[i].Selections {
			at := slices.IndexFunc(out, func(o Selection) bool { return o.Alg == s.Alg })
			switch {
			case s.Mask == 0: // a TPM repeats banks that it does not have, with nothing selected
			case at >= 0:
				out[at].Mask |= s.Mask
			default:
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, func(a, b Selection) int { return int(a.Alg) - int(b.Alg) })
	return out
}

func (v *verification) compareWithClaims() string {
	for _, s := range v.selected {
		claimed := uint32(0)
		if bank := v.pcrs.Bank(s.Alg); bank != nil {
			claimed = bank.Mask
		}
		if extra := s.Mask &^ claimed; extra != 0 {
			return fmt.Sprintf("PCR %s of bank %s was quoted, but no value is claimed for it", listPCRs(extra), s.Alg)
		}
	}
	for i := range v.pcrs {
		bank := &v.pcrs[i]
		if extra := bank.Mask &^ v.selectedMask(bank.Alg); extra != 0 {
			return fmt.Sprintf("PCR %s of bank %s is claimed, but was not quoted", listPCRs(extra), bank.Alg)
		}
	}
	return ""
}

func (v *verification) selectedMask(alg HashAlg) uint32 {
	for _, s := range v.selected {
		if s.Alg == alg {
			return s.Mask
		}
	}
	return 0
}

// missing explains which required PCRs no single acceptable bank holds; empty when one does.
func (v *verification) missing(required Selection) string {
	least := required.Mask
	for _, s := range v.selected {
		if !v.serves(s.Alg, required.Alg) {
			continue
		}
		lacking := required.Mask &^ s.Mask
		if bits.OnesCount32(lacking) < bits.OnesCount32(least) {
			least = lacking
		}
	}
	if least == 0 {
		return ""
	}
	return fmt.Sprintf("PCR %s is required in bank %s or a stronger one, but was not quoted", listPCRs(least), required.Alg)
}

// serves tells whether bank can stand for the required one: itself, or a stronger member of SHA-2.
// SHA-1 stands for nothing but itself, and only where it is allowed.
func (v *verification) serves(bank, required HashAlg) bool {
	if bank == required {
		return bank != SHA1 || v.expect.AllowSHA1PCRs
	}
	return strength(required) > 0 && strength(bank) > strength(required)
}

// strength orders SHA-1 and SHA-2; 0 is what is not comparable with them.
func strength(a HashAlg) int {
	switch a {
	case SHA1:
		return 1
	case SHA256:
		return 2
	case SHA384:
		return 3
	case SHA512:
		return 4
	}
	return 0
}

// listPCRs is "0, 4, 7".
func listPCRs(mask uint32) string {
	var b strings.Builder
	for i := range 32 {
		if mask&(1<<i) == 0 {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(strconv.Itoa(i))
	}
	return b.String()
}
