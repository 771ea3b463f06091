package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
)

// VerifyCommand judges evidence without a service.
type VerifyCommand struct {
	Evidence     string    `xor:"what" required:"" type:"path" placeholder:"FILE" help:"The JSON of an evidence POST with an \"enrollment\" object that identifies the AK, or a gotpm binarypb attestation; - is standard input."`
	Bundle       string    `xor:"what" required:"" type:"path" placeholder:"FILE" help:"A bundle of verdicts (assay export): each is judged again, and their chain is checked. Takes --checkpoint and --jwks, and nothing else."`
	Checkpoints  []string  `name:"checkpoint" type:"path" placeholder:"FILE" help:"With --bundle: a checkpoint that was kept, whose key is trusted with it. May be repeated."`
	JWKS         string    `name:"jwks" type:"path" placeholder:"FILE" help:"With --bundle: a key set that was kept."`
	Nonce        string    `placeholder:"HEX" help:"The nonce that the quote must carry. Without it freshness is not checked, and the verdict is at best warning."`
	Baseline     string    `type:"path" placeholder:"FILE" help:"Reference values to compare with."`
	Policy       string    `type:"path" placeholder:"FILE" help:"Appraisal policy; the default policy otherwise."`
	TrustAnchors string    `type:"path" placeholder:"PEM" help:"Roots that an AK certificate must chain to; those of AMD or Intel among them take the place of the ones that come with this command, for hardware reports."`
	Collateral   []string  `type:"path" placeholder:"FILE" help:"What hardware reports are checked with: a VCEK or VLEK, a CRL, TCB info or QE identity. Intel's JSON needs its issuer chain beside it, in FILE.chain.pem. May be repeated."`
	At           time.Time `placeholder:"TIME" help:"Judge as of this time (RFC 3339); now otherwise."`

	Machine map[string]string `placeholder:"FIELD=VALUE" help:"What the policy's rules see as machine: name, platform, os, security_type, scale_set, and labels.NAME. May be repeated. Without it a rule that asks for the machine does not hold."`
}

// Help explains the exit code.
func (c *VerifyCommand) Help() string {
	return "Exit code: 0 affirming, 1 any other verdict, 2 input that cannot be read. With --bundle: 0 every verdict agrees, 1 something is wrong or differs, " +
		"3 nothing is wrong, but some verdicts could not be judged again, since what is needed is not held any more."
}

// Run judges and prints the verdict.
func (c *VerifyCommand) Run(a *app) error {
	if c.Bundle != "" {
		if c.Nonce != "" || c.Baseline != "" || c.Policy != "" || c.TrustAnchors != "" || len(c.Collateral) > 0 || len(c.Machine) > 0 || !c.At.IsZero() {
			return badUsage("--bundle takes --checkpoint and --jwks only: a bundle brings with it what its verdicts were judged with")
		}
		return c.verifyBundle(a)
	}
	if len(c.Checkpoints) > 0 || c.JWKS != "" {
		return badUsage("--checkpoint and --jwks are for --bundle")
	}
	in := offlineInput{evidenceFile: c.Evidence, baselineFile: c.Baseline, policyFile: c.Policy, anchorsFile: c.TrustAnchors, collateral: c.Collateral, at: c.At}
	if in.at.IsZero() {
		in.at = a.now()
	}
	in.at = in.at.UTC()
	var err error
	if in.machine, err = machineFacts(c.Machine); err != nil {
		return err
	}
	if c.Nonce != "" {
		nonce, err := parseNonce(c.Nonce)
		if err != nil {
			return err
		}
		in.nonce = nonce
	}
	appraisal, _, err := judgeOffline(in, a.stdin)
	if err != nil {
		return err
	}
	document := offlineVerdict{ReceivedAt: in.at, Appraisal: appraisal}
	if a.json {
		if err := a.printJSON(document); err != nil {
			return err
		}
	} else if err := a.printOfflineVerdict(document); err != nil {
		return err
	}
	if appraisal.Status != verifier.Affirming {
		return quietExit(exitFailed)
	}
	return nil
}

// machineFacts reads what is said of the machine; nil where nothing is.
func machineFacts(given map[string]string) (*verifier.MachineFacts, error) {
	if len(given) == 0 {
		return nil, nil
	}
	m := &verifier.MachineFacts{Labels: map[string]string{}}
	fields := map[string]*string{"name": &m.Name, "platform": &m.Platform, "os": &m.OS, "security_type": &m.SecurityType, "scale_set": &m.ScaleSet}
	for name, value := range given {
		label, isLabel := strings.CutPrefix(name, "labels.")
		switch {
		case fields[name] != nil:
			*fields[name] = value
		case isLabel && label != "":
			m.Labels[label] = value
		default:
			return nil, &problem{Title: "The command line cannot be used", Code: "usage", exit: exitBadCall,
				Detail: fmt.Sprintf("--machine has no field %q: name, platform, os, security_type, scale_set or labels.NAME", name)}
		}
	}
	return m, nil
}

// printOfflineVerdict goes through the JSON form, so that people see exactly what programs get.
func (a *app) printOfflineVerdict(document offlineVerdict) error {
	body, err := json.Marshal(document)
	if err != nil {
		return fmt.Errorf("write the verdict: %w", err)
	}
	v, err := parseVerdict(body)
	if err != nil {
		return err
	}
	a.print.verdict(v)
	return nil
}

// CaptureCommand makes reference values of genuine evidence without a service.
type CaptureCommand struct {
	Evidence     string    `required:"" type:"path" placeholder:"FILE" help:"As for verify."`
	Policy       string    `type:"path" placeholder:"FILE" help:"Appraisal policy whose baseline_pcrs are captured; the default policy otherwise."`
	TrustAnchors string    `type:"path" placeholder:"PEM" help:"Roots that an AK certificate must chain to; those of AMD or Intel among them take the place of the ones that come with this command, for hardware reports."`
	Collateral   []string  `type:"path" placeholder:"FILE" help:"What hardware reports are checked with: a VCEK or VLEK, a CRL, TCB info or QE identity. Intel's JSON needs its issuer chain beside it, in FILE.chain.pem. May be repeated."`
	IncludeIMA   bool      `name:"include-ima" help:"Also take the files, keys and buffers that the evidence's IMA list proves."`
	At           time.Time `placeholder:"TIME" help:"Judge certificates as of this time (RFC 3339); now otherwise."`
}

// Help explains the exit code.
func (c *CaptureCommand) Help() string {
	return "Prints reference_values as JSON, ready for `assay baselines register --file` and `assay verify --baseline`. " +
		"Exit code: 0 captured, 1 the evidence is not genuine, 2 input that cannot be read."
}

// Run judges the origin of the evidence and prints what it measured.
func (c *CaptureCommand) Run(a *app) error {
	at := c.At
	if at.IsZero() {
		at = a.now()
	}
	appraisal, policy, err := judgeOffline(offlineInput{evidenceFile: c.Evidence, policyFile: c.Policy, anchorsFile: c.TrustAnchors, collateral: c.Collateral, at: at.UTC()}, a.stdin)
	if err != nil {
		return err
	}
	values, err := baseline.Capture(appraisal, policy)
	if err == nil && c.IncludeIMA {
		values.IMA, _, err = baseline.CaptureIMA(appraisal)
	}
	if err != nil {
		p := &problem{Title: "No baseline was captured", Code: "evidence_unusable", Detail: err.Error()}
		for _, check := range appraisal.Checks {
			if check.Status == verifier.Fail {
				p.Errors = append(p.Errors, problemError{Pointer: string(check.Code), Detail: check.Detail})
			}
		}
		return p
	}
	return a.printJSON(values)
}
