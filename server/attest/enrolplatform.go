package attest

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// proveByPlatform checks hardware evidence that came with an enrolment. proof is set, and in filled in, where it
// admits the machine: a paravisor's report proves the AK that it names, and a report of a machine without a TPM
// stands in place of a key. Else it is nil and the AK has to be proved otherwise. The policy is the one that fits
// the join token, as for EKs (see uncertifiedEK).
func (s *Service) proveByPlatform(ctx context.Context, tenant uuid.UUID, req EnrolRequest, ak *tpm.Public, token store.JoinToken, in *store.EnrollmentInput, now time.Time) (*keyProof, error) {
	policy, _, err := s.store.PolicyFor(ctx, tenant, store.Machine{ScaleSet: token.ScaleSet, Labels: token.Labels})
	if err != nil {
		return nil, fromStore("enrol", err)
	}
	trust, err := s.store.TenantTrust(ctx, tenant)
	if err != nil {
		return nil, fmt.Errorf("read trust anchors: %w", err)
	}
	result, _, err := s.verifyPlatform(ctx, tenant, req.Platform, trust, &policy, now)
	if err != nil {
		return nil, err
	}
	if err := s.refusePlatform(ctx, tenant, result, &policy, now); err != nil {
		return nil, err
	}
	proof := &keyProof{Method: "platform_evidence", Root: result.Root.Subject.String(), Platform: result.Report.Claims()}
	proof.RootSHA256 = proof.Platform.RootSHA256
	in.Assurance, in.AnchorFingerprint = verifier.TEEBound, proof.RootSHA256
	until := result.ValidUntil
	switch {
	case result.Report.Paravisor():
		if ak != nil && !result.AK().SameKey(ak) {
			return nil, &Error{Code: CodePlatformRefused, Pointer: "/ak_public", Detail: "the hardware report names another attestation key: report and key are of different machines"}
		}
		if ak == nil {
			if in.AKPublic, in.AKName, err = bareKey(result.AK()); err != nil {
				return nil, &Error{Code: CodePlatformRefused, Pointer: "/platform_evidence", Detail: err.Error()}
			}
		}
	case ak == nil:
		in.Kind, in.AKPublic = store.KeyTEE, []byte{}
		if in.AKName, err = s.guestName(); err != nil {
			return nil, err
		}
	default:
		// Software in the guest made the report, and could have made the key up, too.
		in.Assurance, in.AnchorFingerprint = "", ""
		return nil, nil
	}
	in.Proved, in.CertificateNotAfter = true, &until
	return proof, nil
}

// refusePlatform turns what does not hold into an *Error, and keeps what was lacked for the job that fetches it.
func (s *Service) refusePlatform(ctx context.Context, tenant uuid.UUID, result *tee.Result, policy *verifier.Policy, now time.Time) error {
	if len(result.Wants) > 0 {
		if err := s.store.WantCollateral(ctx, tenant, result.Wants, now); err != nil {
			return fmt.Errorf("note collateral that was lacked: %w", err)
		}
	}
	steps := result.Steps
	if result.Report != nil {
		steps = append(steps[:len(steps):len(steps)], result.Report.Judge(&policy.PlatformEvidence)...)
	}
	for _, step := range steps {
		if step.Outcome == tee.Fail {
			code := CodePlatformRefused
			if result.Unsupported {
				code = CodePlatformUnsupported
			}
			return &Error{Code: code, Pointer: "/platform_evidence", Detail: string(step.Step) + ": " + step.Detail}
		}
	}
	if result.Report == nil {
		return &Error{Code: CodePlatformRefused, Pointer: "/platform_evidence", Detail: "the hardware report is not proven"}
	}
	return nil
}

// bareKey is how a key is stored of which only the public key is known, and not its TPM public area.
func bareKey(ak *tpm.Public) (public, name []byte, err error) {
	der, err := x509.MarshalPKIXPublicKey(ak.Key())
	if err != nil {
		return nil, nil, fmt.Errorf("the key in the runtime data cannot be stored: %w", err)
	}
	sum := sha256.Sum256(der)
	return der, append([]byte("spki"), sum[:]...), nil
}

// guestName is what stands in place of an AK's name for a machine without a TPM. No hardware report identifies a guest
// over its restarts, so the machine keeps the name by its machine token, and enrols anew only once it was released.
func (s *Service) guestName() ([]byte, error) {
	name := make([]byte, 3+32)
	copy(name, "tee")
	if _, err := io.ReadFull(s.random, name[3:]); err != nil {
		return nil, fmt.Errorf("name a guest: %w", err)
	}
	return name, nil
}

// describeInstance writes what an AK certificate proves of a cloud's VM over what the machine says of itself.
func describeInstance(m *store.MachineInput, i *tpm.Instance) {
	if i == nil {
		return
	}
	m.Instance, _ = json.Marshal(i) // text and numbers: it cannot fail
	m.Platform = "gcp"
	if m.ExternalID == "" {
		m.ExternalID = i.ResourceName()
	}
}
