package finding

import (
	"github.com/assay-verifier/assay/verifier"
)

// Rules are all rules, in the order in which they are evaluated.
var Rules = []*Rule{
	secureBootEnabled,
	vtpmEnabled,
	guestAttestationInstalled,
	guestAttestationHealthy,
	attestationFailed,
	attestationMissing,
	baselineRollback,
	trustedBootComponents,
	kernelModuleSignatures,
	kernelModuleRefused,
	kernelLockdownOff,
	kernelCommandLineDangerous,
	imaOff,
	baselineMissing,
	baselineLearned,
	baselineExpiring,
	windowsDebugging,
	windowsTestSigning,
	windowsCodeIntegrityOff,
	windowsELAMOff,
	windowsVBSOff,
	windowsDEPOff,
	windowsRepairMode,
	windowsBootDevice,
	windowsBitLocker,
	teeTCBOutOfDate,
	teeCollateralExpiring,
	teeDebugEnabled,
	teeConsoleEnabled,
	akCertificateExpiring,
	evidenceWeakerThanPlatform,
	revokedBootComponent,
	dbxOutdated,
	secureBootCertificates2011,
	sbatLevelOutdated,
	secureBootSetupMode,
	testPlatformKeys,
	dmaProtectionDisabled,
	firmwareDebuggerEnabled,
	sha1BankOnly,
	tpmFirmwareWeakness,
	weakEndorsementKey,
	attestationKeyFirstUse,
	firmwareOlderThanFleet,
	identityConflict,
	rollbackDetected,
}

// About how many rules state an assessment and decide on an alert. More only cost an allocation.
const (
	usualAssessments = 12
	usualAlerts      = 4
)

// Derive evaluates every rule that one evaluation can decide.
func Derive(in Input) Result {
	// Every appraisal asks every rule, and most rules decide: lists of the right size are made at once.
	out := Result{
		Assessments: make([]Assessment, 0, usualAssessments), EvaluatedRecommendations: make([]string, 0, len(Rules)), EvaluatedAlerts: make([]string, 0, usualAlerts),
	}
	for _, r := range Rules {
		if r.evaluate != nil {
			r.evaluate(r, &in, &out)
		}
	}
	return out
}

// fact is what is known of one security feature: what attestation observed, else what the inventory
// declares, else nil.
func fact(observed, declared *bool) *bool {
	if observed != nil {
		return observed
	}
	return declared
}

func (in *Input) secureBoot() *bool {
	return fact(in.Machine.Observed.SecureBoot, in.Machine.Declared.SecureBoot)
}

// vtpm is whether the machine has a TPM that is on; an enrolled one is, unless it enrolled without.
func (in *Input) vtpm() *bool {
	if in.Machine.Enrolled && !in.Machine.NoTPM {
		return &in.Machine.Enrolled
	}
	return fact(in.Machine.Observed.VTPM, in.Machine.Declared.VTPM)
}

// agent is whether an agent is installed; one that has enrolled is.
func (in *Input) agent() *bool {
	if in.Machine.Enrolled {
		return &in.Machine.Enrolled
	}
	return fact(in.Machine.Observed.AgentInstalled, in.Machine.Declared.AgentInstalled)
}

func isTrue(b *bool) bool  { return b != nil && *b }
func isFalse(b *bool) bool { return b != nil && !*b }

func supportedOS(in *Input) bool { return in.Machine.OS == "linux" || in.Machine.OS == "windows" }

// checkStatus is the status of one check of the appraisal; skipped where it is absent.
func checkStatus(a *verifier.Appraisal, code verifier.CheckCode) verifier.CheckStatus {
	for i := range a.Checks {
		if a.Checks[i].Code == code {
			return a.Checks[i].Status
		}
	}
	return verifier.Skipped
}

// name is how a description calls the machine.
func (in *Input) name() string {
	if in.Machine.Name == "" {
		return "The machine"
	}
	return "Machine " + in.Machine.Name
}

// subject is the same inside a sentence.
func (in *Input) subject() string {
	if in.Machine.Name == "" {
		return "the machine"
	}
	return "machine " + in.Machine.Name
}

// osName is the operating system in words.
func (in *Input) osName() string {
	switch in.Machine.OS {
	case "linux":
		return "Linux"
	case "windows":
		return "Windows"
	}
	return "Windows or Linux"
}
