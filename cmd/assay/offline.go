package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/rules"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Bounds of input files.
const (
	maxEvidenceFile = 64 << 20
	maxSmallFile    = 16 << 20
)

// fromFile is the version reference of a baseline or policy that came from a file.
var fromFile = verifier.VersionRef{ID: "file", Version: 0}

// offlineInput is what an offline judgement is made from. Everything but Evidence may be empty.
type offlineInput struct {
	evidenceFile string
	nonce        []byte // nil: the nonce is not checked
	baselineFile string
	policyFile   string
	anchorsFile  string
	collateral   []string // files
	at           time.Time
	machine      *verifier.MachineFacts // nil: nothing is known of it
}

// offlineVerdict is the verdict in the shape of the API's, with what only a service knows left null.
type offlineVerdict struct {
	ID         *string   `json:"id"`
	MachineID  *string   `json:"machine_id"`
	ReceivedAt time.Time `json:"received_at"` // the time it was judged at
	*verifier.Appraisal
}

// judgeOffline reads the files and appraises the evidence with the service's own engine. An error is a
// *problem about the input; what is wrong with the machine is in the appraisal.
func judgeOffline(in offlineInput, stdin io.Reader) (*verifier.Appraisal, verifier.Policy, error) {
	none := verifier.Policy{}
	body, err := readFile(in.evidenceFile, maxEvidenceFile, stdin)
	if err != nil {
		return nil, none, unreadable(in.evidenceFile, "evidence", err)
	}
	ev, err := verifier.DecodeOffline(body)
	if err != nil {
		return nil, none, unreadable(in.evidenceFile, "evidence", err)
	}
	if ev.PlatformDigest != nil {
		return nil, none, unreadable(in.evidenceFile, "evidence", &verifier.DecodeError{Code: "platform_evidence_required", Pointer: "/platform_evidence_digest",
			Detail: "the hardware evidence is only named here, and without a service there is nobody to ask for it: put it into platform_evidence"})
	}
	if ev.EventLogDigest != nil {
		return nil, none, unreadable(in.evidenceFile, "evidence", &verifier.DecodeError{Code: "event_log_required", Pointer: "/event_log_digest",
			Detail: "the log is only named here, and without a service there is nobody to ask for it: put the log itself into event_log"})
	}
	inputs := verifier.Inputs{
		Now:       in.at,
		Freshness: tpm.Freshness{Nonce: in.nonce, Unchecked: in.nonce == nil},
		Policy:    verifier.DefaultPolicy(),
		PolicyRef: verifier.VersionRef{ID: "default", Version: 0},
		Machine:   in.machine,
	}
	if in.policyFile != "" {
		if inputs.Policy, inputs.Rules, err = readPolicy(in.policyFile, stdin); err != nil {
			return nil, none, err
		}
		inputs.PolicyRef = fromFile
	}
	if in.baselineFile != "" {
		reference, err := readReference(in.baselineFile, stdin)
		if err != nil {
			return nil, none, err
		}
		inputs.Candidates = []verifier.Candidate{{Baseline: fromFile, Reference: reference}}
	}
	var anchors []*x509.Certificate
	if in.anchorsFile != "" {
		if anchors, err = readCertificates(in.anchorsFile, stdin); err != nil {
			return nil, none, err
		}
	}
	if ev.Platform != nil {
		trust, err := platformTrust(anchors, in.collateral, stdin)
		if err != nil {
			return nil, none, err
		}
		trust.RequireCRL = inputs.Policy.PlatformEvidence.RequireCRL
		inputs.Platform = tee.Verify(ev.Platform, trust, in.at)
	}
	if inputs.AK, err = offlineKey(ev, inputs.Platform, anchors, in.at); err != nil {
		return nil, none, unreadable(in.evidenceFile, "evidence", err)
	}
	parseLogs(ev, &inputs)
	return verifier.Appraise(ev, inputs), inputs.Policy, nil
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

// platformTrust is what hardware reports may lead to: the vendors' roots that come with this command, or in place of
// those of AMD or Intel the ones among the caller's anchors.
func platformTrust(anchors []*x509.Certificate, files []string, stdin io.Reader) (*tee.Trust, error) {
	trust := &tee.Trust{}
	for _, c := range anchors {
		switch {
		case slices.Contains(c.Subject.Organization, "Advanced Micro Devices"):
			trust.SNP = append(trust.SNP, c)
		case c.Subject.CommonName == "Intel SGX Root CA":
			trust.TDX = append(trust.TDX, c)
		}
	}
	for _, shipped := range []struct {
		purpose string
		into    *[]*x509.Certificate
	}{{"snp", &trust.SNP}, {"tdx", &trust.TDX}} {
		if len(*shipped.into) == 0 {
			*shipped.into = shippedAnchors(shipped.purpose)
		}
	}
	for _, file := range files {
		c, err := readCollateral(file, "", stdin)
		if err != nil {
			return nil, err
		}
		trust.Collateral = append(trust.Collateral, c)
	}
	return trust, nil
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

// offlineKey decides what is known of the attestation key: that the caller names it (first_use), that
// its certificate chains to an anchor the caller trusts (ak_certified), or that a hardware report names it. An error means that the file's
// certificates cannot be read; a key or chain that does not hold is a Fault.
func offlineKey(ev *verifier.Evidence, platform *tee.Result, anchors []*x509.Certificate, at time.Time) (verifier.AttestationKey, error) {
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

// readPolicy reads a policy and compiles its rules.
func readPolicy(file string, stdin io.Reader) (verifier.Policy, verifier.RuleSet, error) {
	body, err := readFile(file, maxSmallFile, stdin)
	if err != nil {
		return verifier.Policy{}, nil, unreadable(file, "a policy", err)
	}
	return parsePolicy(file, body)
}

// parsePolicy parses a policy and compiles its rules. What is wrong with several rules is told of all.
func parsePolicy(file string, body []byte) (verifier.Policy, verifier.RuleSet, error) {
	policy, err := verifier.ParsePolicy(body)
	if err != nil {
		return verifier.Policy{}, nil, unreadable(file, "a policy", err)
	}
	set, err := rules.Compile(policy.Rules)
	if err != nil {
		p := unreadable(file, "a policy", err)
		p.Errors = nil
		for _, fault := range rules.Lint(policy.Rules) {
			p.Errors = append(p.Errors, problemError{Pointer: fault.Pointer, Detail: fault.Detail})
		}
		return verifier.Policy{}, nil, p
	}
	return policy, set, nil
}

// readReference reads a reference_values object, alone or as a member of a document.
func readReference(file string, stdin io.Reader) (*verifier.Reference, error) {
	body, err := readFile(file, maxSmallFile, stdin)
	if err != nil {
		return nil, unreadable(file, "reference values", err)
	}
	reference, _, err := parseReference(file, body)
	return reference, err
}

// parseReference compiles reference values, or those in a document that has them as a member.
func parseReference(file string, body []byte) (*verifier.Reference, provenanceDocument, error) {
	values, provenance, err := referenceValues(body)
	if err != nil {
		return nil, provenance, unreadable(file, "reference values", err)
	}
	reference, err := verifier.ParseReferenceValues(values)
	if err != nil {
		return nil, provenance, unreadable(file, "reference values", err)
	}
	return reference, provenance, nil
}

// readCertificates reads the certificates of a PEM file. Other blocks are refused, so that a private key
// given by mistake is noticed.
func readCertificates(file string, stdin io.Reader) ([]*x509.Certificate, error) {
	body, err := readFile(file, maxSmallFile, stdin)
	if err != nil {
		return nil, unreadable(file, "PEM certificates", err)
	}
	var out []*x509.Certificate
	for rest := body; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, unreadable(file, "PEM certificates", fmt.Errorf("it holds a %s; only certificates belong here", block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, unreadable(file, "PEM certificates", fmt.Errorf("certificate %d: %w", len(out)+1, err))
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, unreadable(file, "PEM certificates", errors.New("there is no CERTIFICATE block in it"))
	}
	return out, nil
}

// readFile reads a file of at most limit bytes; "-" is standard input.
func readFile(file string, limit int64, stdin io.Reader) ([]byte, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file) //nolint:gosec // the user names the file
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	body, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("larger than %d bytes", limit)
	}
	return body, nil
}

// parseNonce reads the hex of a nonce.
func parseNonce(text string) ([]byte, error) {
	nonce, err := hex.DecodeString(strings.TrimPrefix(text, "0x"))
	if err != nil || len(nonce) == 0 || len(nonce) > 64 {
		return nil, &problem{Title: "The command line cannot be used", Code: "usage",
			Detail: "--nonce takes 1 to 64 bytes in hex", exit: exitBadCall}
	}
	return nonce, nil
}
