package ui

import (
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
)

// hop is one link of the chain of origin: what vouches for the next.
type hop struct {
	Name   string
	Says   string // what it vouches for, or what it fails to, in plain words
	Status verifier.CheckStatus
	Broken bool // an earlier hop failed, so that nothing vouches for this one
	Checks []verifier.Check
	alone  bool
}

// hardwareHop is the place of the hardware report among hops. All checks of "platform." are its.
const hardwareHop = 0

// hops are the links in order, each with its checks; a verdict's checks keep their own order inside.
var hops = []struct {
	name, says, fails string
	codes             []verifier.CheckCode
	alone             bool // stands by itself: what comes before does not vouch for it
}{
	{"Hardware report", "The processor vouches for the virtual machine and its TPM.", "The processor does not vouch for this virtual machine and its TPM.", nil, false},
	{"Attestation key", "The key belongs to this machine's own TPM.", "Nothing proves that the key belongs to this machine's own TPM.", []verifier.CheckCode{verifier.CheckAKTrusted}, false},
	{"Quote", "The TPM signed these PCR values now, for our challenge.", "This machine's TPM did not sign these PCR values for our challenge.", []verifier.CheckCode{verifier.CheckQuoteSignature, verifier.CheckQuoteType, verifier.CheckQuoteNonce, verifier.CheckQuoteSelection, verifier.CheckQuoteDigest, verifier.CheckQuoteClock}, false},
	{"Event log", "The boot log adds up to the signed PCR values.", "The boot log does not add up to the signed PCR values.", []verifier.CheckCode{verifier.CheckEventLogReplay}, false},
	{"Boot components", "What was booted is what was meant to boot.", "What was booted is not what was meant to boot.", []verifier.CheckCode{verifier.CheckSecureBoot, verifier.CheckBaselineMatch}, false},
	{"Runtime", "What ran since is what was meant to run.", "What ran since is not what was meant to run.", []verifier.CheckCode{verifier.CheckIMAReplay, verifier.CheckIMAPolicy}, false},
	{"Policy", "The rules of your own policy.", "A rule of your own policy does not hold.", []verifier.CheckCode{verifier.CheckPolicyRules}, true},
}

// chain sorts a verdict's checks into hops. A check that no hop knows gets a hop of its own at the end,
// so that nothing a verdict says is left out.
func chain(checks []verifier.Check) []hop {
	place := make(map[verifier.CheckCode]int)
	out := make([]hop, len(hops), len(hops)+1)
	failing := make(map[string]string, len(hops))
	for i, h := range hops {
		failing[h.name] = h.fails
		out[i] = hop{Name: h.name, Says: h.says, alone: h.alone}
		for _, code := range h.codes {
			place[code] = i
		}
	}
	other := hop{Name: "Other checks", alone: true, Says: "Checks that this version of the page does not sort."}
	for _, c := range checks {
		i, ok := place[c.Code]
		switch {
		case ok:
			out[i].Checks = append(out[i].Checks, c)
		case strings.HasPrefix(string(c.Code), "platform."):
			out[hardwareHop].Checks = append(out[hardwareHop].Checks, c)
		default:
			other.Checks = append(other.Checks, c)
		}
	}
	if len(other.Checks) > 0 {
		out = append(out, other)
	}
	kept := out[:0]
	broken := false
	for _, h := range out {
		if len(h.Checks) == 0 {
			continue
		}
		h.Status, h.Broken = worst(h.Checks), broken && !h.alone
		if text := failing[h.Name]; h.Status == verifier.Fail && text != "" {
			h.Says = text
		}
		if h.Name == hops[hardwareHop].name && h.Status == verifier.Fail && bound(h.Checks) {
			h.Says = "The virtual machine that the processor vouches for is not as your policy asks."
		}
		broken = broken || breaks(h.Checks)
		kept = append(kept, h)
	}
	return kept
}

// bound tells whether a hardware report is genuine and this machine's, whatever it says.
func bound(checks []verifier.Check) bool {
	proven := 0
	for _, c := range checks {
		if (c.Code == verifier.CheckPlatformReport || c.Code == verifier.CheckPlatformBinding) && c.Status == verifier.Pass {
			proven++
		}
	}
	return proven == 2
}

// breaks tells whether what follows is not vouched for any more. That a virtual machine was launched with something
// else than was expected is a deviation: whose evidence it is stays proven.
func breaks(checks []verifier.Check) bool {
	for _, c := range checks {
		switch c.Code {
		case verifier.CheckCode(tee.StepMeasurement), verifier.CheckCode(tee.StepSigner), verifier.CheckPlatformConfig:
		default:
			if mark(c.Status) == string(verifier.Fail) {
				return true
			}
		}
	}
	return false
}

// worst is the outcome of a hop. A status that is none of the four counts as failed.
func worst(checks []verifier.Check) verifier.CheckStatus {
	rank := map[verifier.CheckStatus]int{verifier.Skipped: 1, verifier.Pass: 2, verifier.Warn: 3, verifier.Fail: 4}
	out := verifier.Skipped
	for _, c := range checks {
		switch r := rank[c.Status]; {
		case r == 0:
			return verifier.Fail
		case r > rank[out]:
			out = c.Status
		}
	}
	return out
}

var checkTitles = map[verifier.CheckCode]string{
	verifier.CheckAKTrusted:       "The attestation key is this machine's",
	verifier.CheckPlatformReport:  "Hardware report is genuine",
	verifier.CheckPlatformConfig:  "The paravisor and the machine say the same",
	verifier.CheckPlatformBinding: "Hardware report binds the attestation key",

	verifier.CheckCode(tee.StepChipID):      "The report is of the certificate's chip",
	verifier.CheckCode(tee.StepTCB):         "Firmware of the processor is as new as required",
	verifier.CheckCode(tee.StepVMPL):        "The report was made at a trusted privilege level",
	verifier.CheckCode(tee.StepDebug):       "The host cannot debug the guest",
	verifier.CheckCode(tee.StepMigration):   "No migration agent can move the guest",
	verifier.CheckCode(tee.StepMeasurement): "Launch measurement is allowed",
	verifier.CheckCode(tee.StepSigner):      "Launch was signed by whom the policy allows",

	verifier.CheckQuoteSignature: "Quote is signed by the attestation key",
	verifier.CheckQuoteType:      "Signed structure is a quote made by a TPM",
	verifier.CheckQuoteNonce:     "Quote answers our challenge, once",
	verifier.CheckQuoteSelection: "Quote covers the PCRs that the policy needs",
	verifier.CheckQuoteDigest:    "PCR values are the quoted ones",
	verifier.CheckQuoteClock:     "TPM clock and counters move forward",
	verifier.CheckEventLogReplay: "Boot log replays to the quoted PCRs",
	verifier.CheckSecureBoot:     "Secure Boot is on and effective",
	verifier.CheckBaselineMatch:  "Boot matches the golden baseline",
	verifier.CheckIMAReplay:      "Runtime list replays to PCR 10",
	verifier.CheckIMAPolicy:      "Files that ran are allowed",
	verifier.CheckPolicyRules:    "Policy rules hold",
}

func checkTitle(c verifier.CheckCode) string {
	if t, ok := checkTitles[c]; ok {
		return t
	}
	return words(string(c))
}
