package attester

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
)

// Enrollment says how to enrol.
type Enrollment struct {
	JoinToken string
	AKAlg     tpmdevice.AKAlg // default ECDSA
	// Machine overrides what is detected, field by field.
	Machine client.Machine
	// EKCertificateChain are intermediates (DER) that the TPM does not hold itself.
	EKCertificateChain [][]byte
}

// Enrolled is the outcome of an enrolment.
type Enrolled struct {
	MachineID string         `json:"machine_id"`
	Server    string         `json:"server"`
	Assurance string         `json:"assurance"`
	EK        string         `json:"ek"` // in words
	AK        string         `json:"ak"` // ecdsa, rsassa, rsapss
	Machine   client.Machine `json:"machine"`
}

// Enroll registers this machine and proves its attestation key. The key is stored before it is sent, and
// used again by the next try: an enrolment that broke off does not become a conflict.
func (a *Attester) Enroll(ctx context.Context, e Enrollment) (out *Enrolled, err error) {
	if a.client == nil {
		return nil, errors.New("a server address is needed")
	}
	if e.JoinToken == "" {
		return nil, errors.New("a join token is needed")
	}
	if e.AKAlg == "" {
		e.AKAlg = tpmdevice.ECDSA
	}
	device, err := tpmdevice.Open(a.config.TPM)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	ek, err := device.EK()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ek.Close()) }()
	stored, ak, err := a.ak(device, e.AKAlg)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ak.Close()) }()

	machine := merge(DetectMachine(a.config.Host, device), e.Machine)
	answer, err := a.client.Enroll(ctx, e.JoinToken, &client.EnrollmentRequest{
		Machine:            machine,
		EKCertificate:      ek.Certificate,
		EKCertificateChain: append(e.EKCertificateChain, ek.Chain...),
		EKPublic:           ek.Public,
		AKPublic:           ak.Public,
	})
	if err != nil {
		return nil, err
	}
	if answer.Status == client.ActivationRequired {
		secret, err := device.Activate(ak, ek, answer.CredentialBlob, answer.EncryptedSecret)
		if err != nil {
			return nil, fmt.Errorf("open the server's credential: %w", err)
		}
		enrollment, machineID := answer.EnrollmentID, answer.MachineID
		if answer, err = a.client.Activate(ctx, enrollment, secret); err != nil {
			return nil, err
		}
		if answer.MachineID == "" {
			answer.MachineID = machineID
		}
	}
	if answer.Status != client.Active || answer.MachineToken == "" || answer.MachineID == "" {
		return nil, fmt.Errorf("the server answered an enrolment of status %q without a machine token", answer.Status)
	}

	s := a.state
	s.AK, s.Pending = *stored, nil
	s.Server, s.MachineID, s.Token = a.config.Server, answer.MachineID, answer.MachineToken
	s.Assurance, s.EnrolledAt, s.Last = answer.Assurance, time.Now().UTC(), nil
	s.EK = ek.Kind()
	if ek.Certificate == nil {
		s.EK += ", no certificate"
	} else {
		s.EK += ", certified by " + ek.Issuer
	}
	if err := s.Save(); err != nil {
		return nil, err
	}
	return &Enrolled{MachineID: s.MachineID, Server: s.Server, Assurance: s.Assurance, EK: s.EK, AK: string(s.AK.Alg), Machine: machine}, nil
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
