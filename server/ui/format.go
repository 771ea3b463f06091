package ui

import (
	"fmt"
	"strings"
	"time"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
)

// moment is a time as pages show it: relative, with the exact time in reach.
type moment struct {
	Exact    string // RFC 3339, UTC, whole seconds
	Relative string
}

// at makes a moment of a time.Time or a *time.Time; nil and the zero time give an empty one.
func at(now time.Time, t any) moment {
	var v time.Time
	switch t := t.(type) {
	case time.Time:
		v = t
	case *time.Time:
		if t != nil {
			v = *t
		}
	}
	if v.IsZero() {
		return moment{}
	}
	return moment{Exact: v.UTC().Format(time.RFC3339), Relative: relative(v.Sub(now))}
}

// relative says a difference in its largest fitting unit.
func relative(d time.Duration) string {
	past := d <= 0
	if past {
		d = -d
	}
	var text string
	switch {
	case d < 10*time.Second:
		return "just now"
	case d < time.Minute:
		text = fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		text = fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		text = fmt.Sprintf("%d h", int(d.Hours()))
	case d < 60*24*time.Hour:
		text = fmt.Sprintf("%d days", int(d.Hours()/24))
	case d < 730*24*time.Hour:
		text = fmt.Sprintf("%d months", int(d.Hours()/24/30))
	default:
		text = fmt.Sprintf("%d years", int(d.Hours()/24/365))
	}
	if past {
		return text + " ago"
	}
	return "in " + text
}

// words makes a stable code readable: "boot_loader_config" is "Boot loader config".
func words(v any) string {
	s := strings.ReplaceAll(fmt.Sprint(v), "_", " ")
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

var componentNames = map[eventlog.Component]string{
	eventlog.ComponentFirmware:       "Firmware",
	eventlog.ComponentPlatformConfig: "Platform configuration",
	eventlog.ComponentOptionROM:      "Option ROM",
	eventlog.ComponentDriver:         "UEFI driver",
	eventlog.ComponentBootOrder:      "Boot order",
	eventlog.ComponentSecureBoot:     "Secure Boot policy",
	eventlog.ComponentAuthority:      "Boot authority",
	eventlog.ComponentShim:           "Shim",
	eventlog.ComponentMOK:            "Machine owner keys",
	eventlog.ComponentBootLoader:     "Boot loader",
	eventlog.ComponentBootConfig:     "Boot loader configuration",
	eventlog.ComponentKernel:         "Kernel",
	eventlog.ComponentInitrd:         "Initial RAM disk",
	eventlog.ComponentKernelCmdline:  "Kernel command line",
	eventlog.ComponentUKISection:     "Unified kernel image",
	eventlog.ComponentBootPhase:      "Boot phase",
	eventlog.ComponentPartitionTable: "Partition table",
	eventlog.ComponentWindows:        "Windows",
	eventlog.ComponentSeparator:      "Separator",
	eventlog.ComponentAction:         "Action",
	eventlog.ComponentIMA:            "Runtime file (IMA)",
	eventlog.ComponentUnknown:        "Unknown",
}

func componentName(c eventlog.Component) string {
	if name, ok := componentNames[c]; ok {
		return name
	}
	return words(string(c))
}

var statusWords = map[string]string{
	"affirming": "Affirming", "warning": "Warning", "contraindicated": "Contraindicated", "none": "No verdict",
	"unattested": "Not attested",
}

// statusWord names a verdict's status, which may be given as verifier.Status or as text.
func statusWord(v any) string {
	s := fmt.Sprint(v)
	if w, ok := statusWords[s]; ok {
		return w
	}
	return words(s)
}

func reasonWord(v any) string {
	switch s := fmt.Sprint(v); s {
	case string(verifier.OriginUnverified):
		return "Origin unverified"
	case string(verifier.BaselineDeviation):
		return "Baseline deviation"
	default:
		return words(s)
	}
}

var assuranceWords = map[verifier.Assurance][2]string{
	verifier.TEEBound:    {"TEE bound", "A hardware report of the confidential VM binds the attestation key."},
	verifier.EKActivated: {"EK activated", "The TPM proved, by credential activation against its certified endorsement key, that the attestation key is its own."},
	verifier.AKCertified: {"AK certified", "A certificate of the attestation key chains to a root that you trust."},
	verifier.FirstUse:    {"First use", "The key is trusted because somebody vouched for it; no hardware maker did."},
}

// assuranceWord gives the short name of an assurance level and a sentence about it.
func assuranceWord(a verifier.Assurance) [2]string {
	if w, ok := assuranceWords[a]; ok {
		return w
	}
	return [2]string{words(string(a)), ""}
}

// count writes a number with its noun: "1 machine", "1,204 machines".
func count(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(n) + " " + many
}

func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// kindWord says how an event deviates.
func kindWord(k verifier.DeviationKind) string {
	switch k {
	case verifier.Added:
		return "Added"
	case verifier.Removed:
		return "Missing"
	case verifier.Changed:
		return "Changed"
	}
	return words(string(k))
}
