package attester

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/platform"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/store/keyring"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Enrollment says how to enrol.
type Enrollment struct {
	JoinToken keyring.Secret
	AKAlg     tpmdevice.AKAlg // default ECDSA
	// Machine overrides what is detected, field by field.
	Machine client.Machine
	// EKCertificateChain are intermediates (DER) that the TPM does not hold itself.
	EKCertificateChain [][]byte
	// AKCertificateChain are intermediates (DER) of a key that the cloud certified.
	AKCertificateChain [][]byte
}

// Enrolled is the outcome of an enrolment.
type Enrolled struct {
	MachineID string         `json:"machine_id"`
	Server    string         `json:"server"`
	Assurance string         `json:"assurance"`
	EK        string         `json:"ek"` // in words
	AK        string         `json:"ak"` // ecdsa, rsassa, rsapss; empty on a machine without TPM
	Machine   client.Machine `json:"machine"`

	PlatformEvidence string `json:"platform_evidence"` // its type; empty for none

	// AKText is AK for people.
	AKText string `json:"-"`
}

// Enroll registers this machine and proves its attestation key. A key that the agent makes is stored before it is
// sent, and used again by the next try: an enrolment that broke off does not become a conflict.
//
// Which key it is depends on what the machine has: the paravisor's on an Azure confidential VM, one that the cloud
// certified where there is one, else one of the agent's own. With platform.None it is the agent's own everywhere.
func (a *Attester) Enroll(ctx context.Context, e Enrollment) (out *Enrolled, err error) {
	if a.client == nil {
		return nil, errors.New("a server address is needed")
	}
	if e.JoinToken.Empty() {
		return nil, errors.New("a join token is needed")
	}
	if e.AKAlg == "" {
		e.AKAlg = tpmdevice.ECDSA
	}
	device, noTPM := tpmdevice.Open(a.config.TPM)
	if noTPM != nil && !errors.Is(noTPM, tpmdevice.ErrNoTPM) {
		return nil, noTPM
	}
	if noTPM == nil {
		defer func() { err = errors.Join(err, device.Close()) }()
	}
	kind, err := a.collector.Detect(device)
	if err != nil {
		return nil, err
	}
	if noTPM != nil && kind == "" {
		return nil, fmt.Errorf("%w, nor does it give SEV-SNP or TDX evidence that could stand in for one", noTPM)
	}
	p := &proof{request: &client.EnrollmentRequest{Machine: DetectMachine(a.config.Host, device)}, key: &AK{}}
	defer func() { err = errors.Join(err, p.close()) }()
	if device != nil {
		if err := a.prove(device, kind, &e, p); err != nil {
			return nil, err
		}
	}
	if kind != "" {
		evidence, err := a.collector.Collect(ctx, kind, device, platform.Binding{Nonce: platform.NoNonce(), AK: p.request.AKPublic})
		if err != nil {
			return nil, err
		}
		p.request.PlatformEvidence = evidence
		p.request.Machine.SecurityType = platform.SecurityType(evidence)
		if kind == client.AzureHCL {
			p.request.Machine.Platform = "azure"
		}
	}
	p.request.Machine = merge(p.request.Machine, e.Machine)

	answer, err := a.client.Enroll(ctx, string(e.JoinToken.Reveal()), p.request)
	if client.IsProblem(err, codeIdentityConflict) && a.state.Enrolled() && !bytes.Equal(a.state.AK.Public, p.key.Public) {
		return nil, fmt.Errorf("%w\n  %s", err, a.otherKey(p.key))
	}
	if err != nil {
		return nil, err
	}
	if answer.Status == client.ActivationRequired {
		if answer, err = a.activate(ctx, device, p, answer); err != nil {
			return nil, err
		}
	}
	if answer.Status != client.Active || answer.MachineToken == "" || answer.MachineID == "" {
		return nil, fmt.Errorf("the server answered an enrolment of status %q without a machine token", answer.Status)
	}

	s := a.state
	s.AK, s.Pending, s.Platform = *p.key, nil, kind
	s.Server, s.MachineID, s.Token = a.config.Server, answer.MachineID, keyring.NewSecret([]byte(answer.MachineToken))
	s.Assurance, s.EnrolledAt, s.Last = answer.Assurance, time.Now().UTC(), nil
	s.EK = p.ekText()
	if err := s.Save(); err != nil {
		return nil, err
	}
	return &Enrolled{MachineID: s.MachineID, Server: s.Server, Assurance: s.Assurance, EK: s.EK, AK: string(s.AK.Alg),
		Machine: p.request.Machine, PlatformEvidence: kind, AKText: s.AK.Text()}, nil
}

// otherKey says what to do when the server knows this machine by another key than it has now.
func (a *Attester) otherKey(now *AK) string {
	known := &a.state.AK
	todo := "have an administrator release its keys first (assay machines release)"
	if len(known.Blob) > 0 && len(now.Blob) == 0 {
		todo = "keep that one with --platform-evidence none, or " + todo
	}
	return fmt.Sprintf("this machine is enrolled with another key (%s) than it would be now (%s): %s", known.Text(), now.Text(), todo)
}

const codeIdentityConflict = "identity_conflict"

// proof is what an enrolment is proved with.
type proof struct {
	request *client.EnrollmentRequest
	key     *AK
	ak      *tpmdevice.Key // nil on a machine without TPM
	ek      *tpmdevice.EK  // nil where there is none, or none that can be used
	ekErr   error          // why
}

func (p *proof) close() error {
	err := p.ak.Close()
	if p.ek != nil {
		err = errors.Join(err, p.ek.Close())
	}
	return err
}

func (p *proof) ekText() string {
	switch {
	case p.ek == nil:
		return "none"
	case p.ek.Certificate == nil:
		return p.ek.Kind() + ", no certificate"
	}
	return p.ek.Kind() + ", certified by " + p.ek.Issuer
}

// prove finds the keys of a machine with a TPM.
func (a *Attester) prove(device *tpmdevice.Device, kind string, e *Enrollment, p *proof) error {
	r := p.request
	if err := a.chooseAK(device, kind, e, p); err != nil {
		return err
	}
	r.AKPublic = p.ak.Public
	p.ek, p.ekErr = device.EK()
	switch {
	case p.ekErr == nil:
		r.EKCertificate, r.EKPublic = p.ek.Certificate, p.ek.Public
		r.EKCertificateChain = append(e.EKCertificateChain, p.ek.Chain...)
	case kind == "" && r.AKCertificate == nil: // then nothing else proves the key
		return p.ekErr
	}
	return nil
}

// chooseAK gets the attestation key ready.
func (a *Attester) chooseAK(device *tpmdevice.Device, kind string, e *Enrollment, p *proof) (err error) {
	if kind == client.AzureHCL {
		if p.ak, err = a.collector.AzureAK(device); err == nil {
			p.key = &AK{Alg: signingAlg(p.ak), Handle: platform.AzureAKHandle, Public: p.ak.Public}
		}
		return err
	}
	if a.collector.Mode() != platform.None {
		certified, err := device.CertifiedAK(e.AKAlg)
		if err != nil {
			a.config.Platform.Warn(err.Error() + "; going on with a key of the agent's own")
		}
		if err == nil && certified != nil {
			p.ak = certified.Key
			p.key = &AK{Alg: signingAlg(p.ak), Template: certified.Template, Public: p.ak.Public}
			p.request.AKCertificate, p.request.AKCertificateChain = certified.Certificate, e.AKCertificateChain
			p.request.Machine.Platform = "gcp" // no other cloud puts one there
			if p.request.Machine.SecurityType == "standard" {
				p.request.Machine.SecurityType = "trusted_launch"
			}
			return nil
		}
	}
	p.key, p.ak, err = a.ak(device, e.AKAlg)
	return err
}

// signingAlg is the kind of a key that somebody else made.
func signingAlg(key *tpmdevice.Key) tpmdevice.AKAlg {
	public, err := tpm.ParsePublic(key.Public)
	if err != nil {
		return "unknown"
	}
	return tpmdevice.AKAlg(strings.ToLower(public.Scheme().Alg.String()))
}

// activate proves the key by credential activation.
func (a *Attester) activate(ctx context.Context, device *tpmdevice.Device, p *proof, asked *client.Enrollment) (*client.Enrollment, error) {
	if p.ak == nil || p.ek == nil {
		return nil, fmt.Errorf("the server wants the attestation key proved by an endorsement key, and this machine has none to use: %w",
			cmp.Or(p.ekErr, tpmdevice.ErrNoTPM))
	}
	secret, err := device.Activate(p.ak, p.ek, asked.CredentialBlob, asked.EncryptedSecret)
	if err != nil {
		return nil, fmt.Errorf("open the server's credential: %w", err)
	}
	answer, err := a.client.Activate(ctx, asked.EnrollmentID, secret)
	if err != nil {
		return nil, err
	}
	if answer.MachineID == "" {
		answer.MachineID = asked.MachineID
	}
	return answer, nil
}

// ak loads a stored attestation key that is of this TPM and of the wanted kind, or else makes one and
// stores it as pending.
func (a *Attester) ak(device *tpmdevice.Device, alg tpmdevice.AKAlg) (*AK, *tpmdevice.Key, error) {
	for _, stored := range []*AK{&a.state.AK, a.state.Pending} {
		if stored == nil || stored.Alg != alg || len(stored.Blob) == 0 {
			continue
		}
		key, err := device.LoadAK(stored.Blob)
		if err == nil {
			return stored, key, nil
		}
		if !errors.Is(err, tpmdevice.ErrForeignKey) {
			return nil, nil, fmt.Errorf("load the attestation key: %w", err)
		}
	}
	blob, key, err := device.CreateAK(alg)
	if err != nil {
		return nil, nil, fmt.Errorf("make an attestation key: %w", err)
	}
	a.state.Pending = &AK{Alg: alg, Blob: blob, Public: key.Public}
	if err := a.state.Save(); err != nil {
		return nil, nil, errors.Join(err, key.Close())
	}
	return a.state.Pending, key, nil
}

// merge takes what is given over what was detected.
func merge(m, given client.Machine) client.Machine {
	for _, f := range []struct {
		to   *string
		from string
	}{
		{&m.Name, given.Name}, {&m.ExternalID, given.ExternalID}, {&m.OS, given.OS}, {&m.Platform, given.Platform},
		{&m.SecurityType, given.SecurityType}, {&m.ScaleSet, given.ScaleSet},
	} {
		if f.from != "" {
			*f.to = f.from
		}
	}
	if len(given.Labels) > 0 {
		m.Labels = given.Labels
	}
	return m
}
