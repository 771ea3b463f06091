package tpmdevice

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// AKAlg is the kind of an attestation key.
type AKAlg string

// The kinds of attestation key. All sign with SHA-256.
const (
	ECDSA  AKAlg = "ecdsa"  // P-256
	RSASSA AKAlg = "rsassa" // RSA-2048, PKCS #1 v1.5
	RSAPSS AKAlg = "rsapss" // RSA-2048
)

// akTemplate is a restricted signing key that never leaves its TPM: it signs only what the TPM itself
// made.
func akTemplate(alg AKAlg) (tpm2.TPMTPublic, error) {
	t := tpm2.TPMTPublic{
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
	}
	hash := tpm2.TPMAlgSHA256
	switch alg {
	case ECDSA:
		t.Type = tpm2.TPMAlgECC
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash}),
			},
			CurveID: tpm2.TPMECCNistP256,
		})
		return t, nil
	case RSASSA, RSAPSS:
		scheme := tpm2.TPMTRSAScheme{
			Scheme:  tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: hash}),
		}
		if alg == RSAPSS {
			scheme = tpm2.TPMTRSAScheme{
				Scheme:  tpm2.TPMAlgRSAPSS,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSAPSS, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: hash}),
			}
		}
		t.Type = tpm2.TPMAlgRSA
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Scheme: scheme, KeyBits: 2048})
		return t, nil
	}
	return t, fmt.Errorf("attestation key algorithm %q is none of %s, %s, %s", alg, ECDSA, RSASSA, RSAPSS)
}

// akParent makes the storage key under which AKs are wrapped. It lies in the endorsement hierarchy, not
// the owner's: an owner who clears his hierarchy keeps the AK, and the TPM reports its counters
// and firmware version as they are only to keys of the endorsement and platform hierarchies (Part 1,
// section 36.7). The same key comes out each time, so that nothing has to be stored in the TPM.
func (d *Device) akParent() (*Key, error) {
	return d.createPrimary(tpm2.ECCSRKTemplate)
}

// CreateAK makes a new attestation key. blob is what LoadAK needs to load it again: only this TPM can use
// it, so it is no secret. The key is to be closed.
func (d *Device) CreateAK(alg AKAlg) (blob []byte, ak *Key, err error) {
	template, err := akTemplate(alg)
	if err != nil {
		return nil, nil, err
	}
	parent, err := d.akParent()
	if err != nil {
		return nil, nil, fmt.Errorf("make the attestation key's parent: %w", err)
	}
	defer func() { err = errors.Join(err, parent.Close()) }()
	rsp, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: parent.handle, Name: tpm2.TPM2BName{Buffer: parent.Name}, Auth: tpm2.PasswordAuth(nil)},
		InPublic:     tpm2.New2B(template),
	}.Execute(d.tpm)
	if err != nil {
		return nil, nil, explain("TPM2_Create", err)
	}
	ak, err = d.load(parent, rsp.OutPrivate, rsp.OutPublic)
	if err != nil {
		return nil, nil, err
	}
	return append(tpm2.Marshal(rsp.OutPublic), tpm2.Marshal(rsp.OutPrivate)...), ak, nil
}

// LoadAK loads a key that CreateAK made in this TPM. The key is to be closed.
func (d *Device) LoadAK(blob []byte) (ak *Key, err error) {
	// TPM2B_PUBLIC, then TPM2B_PRIVATE.
	if len(blob) < 2 || len(blob)-2 < int(binary.BigEndian.Uint16(blob)) {
		return nil, errors.New("the stored attestation key is damaged")
	}
	cut := 2 + int(binary.BigEndian.Uint16(blob))
	public, err := tpm2.Unmarshal[tpm2.TPM2BPublic](blob[:cut])
	if err != nil {
		return nil, fmt.Errorf("the stored attestation key is damaged: %w", err)
	}
	private, err := tpm2.Unmarshal[tpm2.TPM2BPrivate](blob[cut:])
	if err != nil {
		return nil, fmt.Errorf("the stored attestation key is damaged: %w", err)
	}
	parent, err := d.akParent()
	if err != nil {
		return nil, fmt.Errorf("make the attestation key's parent: %w", err)
	}
	defer func() { err = errors.Join(err, parent.Close()) }()
	return d.load(parent, *private, *public)
}

// ErrForeignKey is the error of LoadAK for a key of another TPM, or of this one before its endorsement
// hierarchy was cleared.
var ErrForeignKey = errors.New("the attestation key is not of this TPM")

func (d *Device) load(parent *Key, private tpm2.TPM2BPrivate, public tpm2.TPM2BPublic) (*Key, error) {
	rsp, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: parent.handle, Name: tpm2.TPM2BName{Buffer: parent.Name}, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    private,
		InPublic:     public,
	}.Execute(d.tpm)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return nil, ErrForeignKey
	}
	if err != nil {
		return nil, explain("TPM2_Load", err)
	}
	key, err := d.newKey(rsp.ObjectHandle, public, rsp.Name, true)
	if err != nil {
		return nil, errors.Join(err, d.flush(rsp.ObjectHandle))
	}
	return key, nil
}
