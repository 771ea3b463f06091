package main

import (
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
	"github.com/assay-verifier/assay/verifier/offline"
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
	var platform *tee.Trust
	if ev.Platform != nil {
		if platform, err = platformTrust(anchors, in.collateral, stdin); err != nil {
			return nil, none, err
		}
	}
	if err := offline.Complete(ev, &inputs, anchors, platform); err != nil {
		return nil, none, unreadable(in.evidenceFile, "evidence", err)
	}
	return verifier.Appraise(ev, inputs), inputs.Policy, nil
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
