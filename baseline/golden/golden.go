// Package golden imports evidence of a machine that is known to be good: what an agent posts, with the "enrollment" that
// identifies its key, or what `gotpm attest` and go-tpm-tools write (attest.Attestation). The evidence is judged as
// `assay verify` does, by the default policy and without a nonce, and its measurements become the reference values.
package golden

import (
	"crypto/x509"
	"errors"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/offline"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Format is the name of the format in provenance.
const Format = "evidence"

// Import judges the evidence and captures its measurements. Evidence counts as signed where the certificate of its
// attestation key leads to a root of trust; else whoever imports it vouches for it, and the quote only proves that it is
// whole. The error is a *baseline.ImportError.
func Import(b []byte, trust *baseline.ImportTrust) (*baseline.Imported, error) {
	ev, err := verifier.DecodeOffline(b)
	if err != nil {
		return nil, refused(err)
	}
	if ev.Platform != nil && (trust == nil || trust.Platform == nil) {
		return nil, baseline.ImportErrorf(baseline.ImportUnsupported, "/platform_evidence", "nothing is held that its hardware report could be checked with")
	}
	signer, leaf := signerOf(ev, trust)
	var anchors []*x509.Certificate
	if signer != nil {
		anchors = trust.Roots
	}
	inputs := verifier.Inputs{Freshness: tpm.Freshness{Unchecked: true}, Policy: verifier.DefaultPolicy()}
	if trust != nil {
		inputs.Now = trust.Now
		err = offline.Complete(ev, &inputs, anchors, trust.Platform)
	} else {
		err = offline.Complete(ev, &inputs, nil, nil)
	}
	if err != nil {
		return nil, refused(err)
	}
	appraisal := verifier.Appraise(ev, inputs)
	values, err := baseline.Capture(appraisal, inputs.Policy)
	if errors.Is(err, baseline.ErrNotGenuine) {
		return nil, baseline.ImportErrorf(baseline.ImportUntrusted, "", "the evidence does not prove what it says: %s", firstFailure(appraisal))
	}
	if err != nil {
		return nil, baseline.ImportErrorf(baseline.ImportNothingFound, "", "%s", err)
	}
	out := &baseline.Imported{Format: Format, Values: values, Signer: signer, Provenance: map[string]string{"assurance": string(appraisal.Assurance)},
		Notes: []string{"the evidence is not fresh: no nonce was expected of it"}}
	if leaf != nil {
		out.Provenance["ak_certificate"] = leaf.Subject.String()
	}
	if len(ev.IMALog) > 0 {
		out.Notes = append(out.Notes, "the files of its IMA list are not taken; capture a baseline of an enrolled machine with include_ima")
	}
	return out, baseline.CheckValues(values, func(string) string { return "" })
}

// signerOf is who vouches for the attestation key, if its certificate leads to a root.
func signerOf(ev *verifier.Evidence, trust *baseline.ImportTrust) (*baseline.Signer, *x509.Certificate) {
	if trust == nil || len(trust.Roots) == 0 || ev.Enrollment == nil || len(ev.Enrollment.AKCertificate) == 0 {
		return nil, nil
	}
	leaf, err := tpm.ParseEKCertificate(ev.Enrollment.AKCertificate)
	if err != nil {
		return nil, nil
	}
	var chain []*x509.Certificate
	for _, der := range ev.Enrollment.AKCertificateChain {
		if c, err := tpm.ParseEKCertificate(der); err == nil {
			chain = append(chain, c)
		}
	}
	verified, err := tpm.VerifyAKChain(leaf, chain, trust.Roots, trust.Now)
	if err != nil {
		return nil, nil
	}
	return baseline.Certified(leaf, verified[len(verified)-1]), leaf
}

func firstFailure(a *verifier.Appraisal) string {
	for i := range a.Checks {
		if c := &a.Checks[i]; c.Status == verifier.Fail {
			return string(c.Code) + ": " + c.Detail
		}
	}
	return "nothing in it could be verified"
}

func refused(err error) error {
	var decode *verifier.DecodeError
	if errors.As(err, &decode) {
		return baseline.ImportErrorf(baseline.ImportMalformed, decode.Pointer, "%s", decode.Detail)
	}
	return baseline.ImportErrorf(baseline.ImportMalformed, "", "%s", err)
}
