package attest

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
)

// EnrolRequest is a decoded and bounded POST /v1/enrollments: what a machine says of itself, and the
// keys that it wants to be known by. Nothing in it is believed yet.
type EnrolRequest struct {
	Machine            store.MachineInput // Declared is empty: a machine does not declare its own posture
	EKCertificate      []byte             // DER, NV header and padding tolerated; nil if none
	EKCertificateChain [][]byte           // DER, issuer first
	EKPublic           []byte             // TPMT_PUBLIC or TPM2B_PUBLIC; nil if none
	AKPublic           []byte             // TPMT_PUBLIC or TPM2B_PUBLIC
	AKCertificate      []byte             // DER; nil if none
	AKCertificateChain [][]byte           // DER, issuer first
	// Platform is the hardware evidence of a confidential VM; nil if none came along.
	Platform *tee.Evidence
}

// Bounds of an enrolment.
const (
	maxNameLength        = 253 // a DNS name
	maxExternalIDLength  = 512 // a resource id of a cloud
	maxLabels            = 32
	maxLabelKeyLength    = 63
	maxLabelValueLength  = 255
	maxChainCertificates = 8
	maxCertificateSize   = 16 << 10
	maxPublicSize        = 4 << 10
)

type wireMachine struct {
	Name         string            `json:"name"`
	ExternalID   string            `json:"external_id"`
	OS           string            `json:"os"`
	Platform     string            `json:"platform"`
	SecurityType string            `json:"security_type"`
	ScaleSet     string            `json:"scale_set"`
	Labels       map[string]string `json:"labels"`
}

type wireEnrolment struct {
	Machine            *wireMachine           `json:"machine"`
	EKCertificate      []byte                 `json:"ek_certificate"`
	EKCertificateChain [][]byte               `json:"ek_certificate_chain"`
	EKPublic           []byte                 `json:"ek_public"`
	AKPublic           []byte                 `json:"ak_public"`
	AKCertificate      []byte                 `json:"ak_certificate"`
	AKCertificateChain [][]byte               `json:"ak_certificate_chain"`
	PlatformEvidence   *verifier.WirePlatform `json:"platform_evidence"`
}

// ParseEnrolRequest reads the JSON body of an enrolment. Unknown and repeated fields are refused; base64 is
// strict, with padding. The error is an *Error with a pointer where one place is at fault.
func ParseEnrolRequest(body []byte) (EnrolRequest, error) {
	var w wireEnrolment
	if err := verifier.DecodeStrict(body, &w); err != nil {
		return EnrolRequest{}, fromDecode(err)
	}
	if w.Machine == nil {
		return EnrolRequest{}, fieldErrorf("/machine", "it is needed")
	}
	machine, err := w.Machine.input()
	if err != nil {
		return EnrolRequest{}, err
	}
	if err := w.checkKeys(); err != nil {
		return EnrolRequest{}, err
	}
	req := EnrolRequest{
		Machine:       machine,
		EKCertificate: w.EKCertificate, EKCertificateChain: w.EKCertificateChain, EKPublic: w.EKPublic,
		AKPublic: w.AKPublic, AKCertificate: w.AKCertificate, AKCertificateChain: w.AKCertificateChain,
	}
	if w.PlatformEvidence != nil {
		if req.Platform, err = w.PlatformEvidence.Evidence(); err != nil {
			return EnrolRequest{}, fromDecode(err)
		}
	}
	return req, nil
}

func (w *wireEnrolment) checkKeys() error {
	if len(w.AKPublic) == 0 {
		if w.PlatformEvidence == nil {
			return fieldErrorf("/ak_public", "a TPMT_PUBLIC or TPM2B_PUBLIC is needed")
		}
		for _, f := range []struct {
			pointer string
			given   bool
		}{
			{"/ak_certificate", len(w.AKCertificate) > 0}, {"/ek_certificate", len(w.EKCertificate) > 0}, {"/ek_public", len(w.EKPublic) > 0},
		} {
			if f.given {
				return fieldErrorf("/ak_public", "a TPMT_PUBLIC or TPM2B_PUBLIC is needed beside %s", f.pointer[1:])
			}
		}
	}
	for _, f := range []struct {
		pointer string
		value   []byte
		limit   int
	}{
		{"/ak_public", w.AKPublic, maxPublicSize}, {"/ek_public", w.EKPublic, maxPublicSize},
		{"/ak_certificate", w.AKCertificate, maxCertificateSize}, {"/ek_certificate", w.EKCertificate, maxCertificateSize},
	} {
		if len(f.value) > f.limit {
			return fieldErrorf(f.pointer, "%d bytes; at most %d are accepted", len(f.value), f.limit)
		}
	}
	for _, f := range []struct {
		pointer string
		chain   [][]byte
	}{{"/ek_certificate_chain", w.EKCertificateChain}, {"/ak_certificate_chain", w.AKCertificateChain}} {
		if len(f.chain) > maxChainCertificates {
			return fieldErrorf(f.pointer, "%d certificates; at most %d are accepted", len(f.chain), maxChainCertificates)
		}
		for i, c := range f.chain {
			if len(c) == 0 || len(c) > maxCertificateSize {
				return fieldErrorf(f.pointer+"/"+strconv.Itoa(i), "a certificate has 1 to %d bytes", maxCertificateSize)
			}
		}
	}
	return nil
}

func (w *wireMachine) input() (store.MachineInput, error) {
	in := store.MachineInput{
		ExternalID: w.ExternalID, Name: w.Name, OS: w.OS, Platform: w.Platform,
		SecurityType: w.SecurityType, ScaleSet: w.ScaleSet, Labels: w.Labels,
	}
	if in.Name == "" {
		return in, fieldErrorf("/machine/name", "it is needed")
	}
	for _, f := range []struct {
		field, text string
		limit       int
	}{
		{"name", in.Name, maxNameLength}, {"external_id", in.ExternalID, maxExternalIDLength}, {"scale_set", in.ScaleSet, maxNameLength},
	} {
		if err := checkText("/machine/"+f.field, f.text, f.limit); err != nil {
			return in, err
		}
	}
	// What is not given stays unknown, so that an enrolment never overwrites what the inventory knows.
	for _, f := range []struct {
		field   string
		value   *string
		allowed []string
	}{
		{"os", &in.OS, []string{"linux", "windows"}},
		{"platform", &in.Platform, []string{"azure", "gcp", "aws", "vmware", "qemu", "physical", "other"}},
		{"security_type", &in.SecurityType, []string{"confidential_snp", "confidential_tdx", "trusted_launch", "standard", "physical"}},
	} {
		if *f.value != "" && !contains(f.allowed, *f.value) {
			return in, fieldErrorf("/machine/"+f.field, "%q is none of %s", *f.value, strings.Join(f.allowed, ", "))
		}
	}
	if len(in.Labels) > maxLabels {
		return in, fieldErrorf("/machine/labels", "%d labels; at most %d are accepted", len(in.Labels), maxLabels)
	}
	for k, v := range in.Labels {
		pointer := "/machine/labels/" + strings.NewReplacer("~", "~0", "/", "~1").Replace(k)
		if k == "" {
			return in, fieldErrorf("/machine/labels", "a label has no name")
		}
		if err := checkText(pointer, k, maxLabelKeyLength); err != nil {
			return in, err
		}
		if err := checkText(pointer, v, maxLabelValueLength); err != nil {
			return in, err
		}
	}
	return in, nil
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// checkText refuses what could not be stored or would forge a line in a log: control characters, NUL
// among them, and invalid UTF-8.
func checkText(pointer, s string, limit int) error {
	if utf8.RuneCountInString(s) > limit {
		return fieldErrorf(pointer, "at most %d characters are accepted", limit)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || (r >= 0x7f && r < 0xa0) }) {
		return fieldErrorf(pointer, "control characters are not accepted")
	}
	return nil
}
