// Package offline makes of evidence what an appraisal needs to know where there is no service: no enrolment that proved
// the key, no stored log that a digest could name. It is pure.
package offline

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Complete fills in of inputs, whose Now and Policy are set, what comes from the evidence: the key, the hardware report
// and the logs. anchors are what an AK certificate must chain to; platform is what a hardware report is checked with, and
// is needed where the evidence has one. An error is a *verifier.DecodeError about the evidence: what is wrong with the machine is
// the appraisal's to say.
func Complete(ev *verifier.Evidence, inputs *verifier.Inputs, anchors []*x509.Certificate, platform *tee.Trust) error {
	if ev.PlatformDigest != nil {
		return &verifier.DecodeError{Code: "platform_evidence_required", Pointer: "/platform_evidence_digest",
			Detail: "the hardware evidence is only named here, and without a service there is nobody to ask for it: put it into platform_evidence"}
	}
	if ev.EventLogDigest != nil {
		return &verifier.DecodeError{Code: "event_log_required", Pointer: "/event_log_digest",
			Detail: "the log is only named here, and without a service there is nobody to ask for it: put the log itself into event_log"}
	}
	if ev.Platform != nil {
		trust := *platform
		trust.RequireCRL = inputs.Policy.PlatformEvidence.RequireCRL
		inputs.Platform = tee.Verify(ev.Platform, &trust, inputs.Now)
	}
	var err error
	if inputs.AK, err = attestationKey(ev, inputs.Platform, anchors, inputs.Now); err != nil {
		return err
	}
	parseLogs(ev, inputs)
	return nil
}

// parseLogs reads the two logs. One that cannot be read is a finding about the machine.
func parseLogs(ev *verifier.Evidence, in *verifier.Inputs) {
	if len(ev.EventLog) > 0 {
		log, err := eventlog.Parse(ev.EventLog)
		if err != nil {
			in.LogFault = err.Error()
		}
		in.Log = log
	}
	if ev.Platform != nil && len(ev.Platform.EventLog) > 0 {
		log, err := eventlog.Parse(ev.Platform.EventLog)
		if err != nil {
			in.CCLogFault = err.Error()
		}
		in.CCLog = log
	}
	if len(ev.IMALog) > 0 {
		list, err := ima.Parse(ev.IMALog)
		if err != nil {
			in.IMAFault = err.Error()
		}
		in.IMA = list
	}
}

// platformKey is the key of evidence whose hardware report has to tell it.
func platformKey(ev *verifier.Evidence, platform *tee.Result) verifier.AttestationKey {
	if ev.NoTPM {
		return verifier.AttestationKey{NoTPM: true, Assurance: verifier.FirstUse}
	}
	ak := platform.AK()
	if ak == nil {
		return verifier.AttestationKey{Fault: fmt.Sprintf("nothing identifies the attestation key: the evidence has no enrollment, and its %s evidence names none", ev.Platform.Type)}
	}
	key := verifier.AttestationKey{Public: ak, Assurance: verifier.TEEBound}
	if platform.Report == nil {
		key.Assurance, key.Fault = verifier.FirstUse, "the attestation key is named by a hardware report that does not hold"
	}
	return key
}

// attestationKey decides what is known of the attestation key: that the caller names it (first_use), that
// its certificate chains to an anchor the caller trusts (ak_certified), or that a hardware report names it. An error
// means that the file's certificates cannot be read; a key or chain that does not hold is a Fault.
func attestationKey(ev *verifier.Evidence, platform *tee.Result, anchors []*x509.Certificate, at time.Time) (verifier.AttestationKey, error) {
	k := ev.Enrollment
	if k == nil || (k.AKPublic == nil && len(k.AKCertificate) == 0) {
		if platform != nil {
			return platformKey(ev, platform), nil
		}
		return verifier.AttestationKey{Fault: "nothing identifies the attestation key: the evidence has no enrollment.ak_public and no enrollment.ak_certificate"}, nil
	}
	if len(k.AKCertificate) == 0 {
		key := verifier.AttestationKey{Public: k.AKPublic, Assurance: verifier.FirstUse, Note: "named in the evidence file"}
		if len(anchors) > 0 {
			key.Unproven = "trust anchors were given, but the evidence file has no AK certificate that could chain to one: nothing but the file itself vouches for its key"
		}
		return key, nil
	}
	leaf, err := tpm.ParseEKCertificate(k.AKCertificate)
	if err != nil {
		return verifier.AttestationKey{}, certificateError("/enrollment/ak_certificate", err)
	}
	chain := make([]*x509.Certificate, len(k.AKCertificateChain))
	for i, der := range k.AKCertificateChain {
		if chain[i], err = tpm.ParseEKCertificate(der); err != nil {
			return verifier.AttestationKey{}, certificateError(fmt.Sprintf("/enrollment/ak_certificate_chain/%d", i), err)
		}
	}
	key := verifier.AttestationKey{Public: k.AKPublic, Assurance: verifier.FirstUse}
	if key.Public == nil {
		if key.Public, err = tpm.PublicFromCertificate(leaf); err != nil {
			key.Fault = "the AK certificate holds no usable key: " + err.Error()
			return key, nil //nolint:nilerr // it is a finding about the machine
		}
	} else if err := tpm.MatchAK(leaf, key.Public); err != nil {
		key.Fault = "ak_public is not the key of the AK certificate: " + err.Error()
		return key, nil //nolint:nilerr // likewise
	}
	if len(anchors) == 0 {
		// No better and no worse than the key without its certificate, so that leaving it out gains nothing.
		key.Note = "named in the evidence file; its certificate was not checked, since no trust anchors were given"
		return key, nil
	}
	verified, err := tpm.VerifyAKChain(leaf, chain, anchors, at)
	if err != nil {
		key.Fault = "the AK certificate does not hold: " + err.Error()
		return key, nil //nolint:nilerr // likewise
	}
	root := verified[len(verified)-1]
	sum := sha256.Sum256(root.Raw)
	key.Assurance = verifier.AKCertified
	subject := leaf.Subject.String()
	if subject == "" { // as in the AK certificates of some clouds
		subject = "serial number " + leaf.SerialNumber.Text(16)
	}
	key.Note = fmt.Sprintf("%s, by %s, SHA-256 %s", subject, root.Subject, hex.EncodeToString(sum[:8]))
	if instance, err := tpm.InstanceOf(leaf); err == nil && instance != nil {
		key.Note += ", instance " + instance.ResourceName()
	}
	return key, nil
}

func certificateError(pointer string, err error) error {
	return &verifier.DecodeError{Code: verifier.CodeInvalidField, Pointer: pointer, Detail: err.Error()}
}
