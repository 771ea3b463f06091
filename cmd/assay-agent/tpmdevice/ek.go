package tpmdevice

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// EK is the endorsement key that an enrolment is made with.
type EK struct {
	*Key
	// Certificate is DER without the padding of its NV index; nil when the TPM has none for this key.
	Certificate []byte
	// Chain are further certificates that the TPM holds, as they lie there.
	Chain [][]byte
	// Subject and Issuer of Certificate, for people.
	Subject, Issuer string
}

// place is where the TCG puts an EK: its certificate, its persistent handle, its template (EK profile,
// sections 2.2.1.4 and 2.2.1.5, appendix B; TCG Registry of Reserved TPM 2.0 Handles).
type place struct {
	name       string
	nv         uint32
	persistent tpm2.TPMHandle
	template   func() tpm2.TPMTPublic
}

// places in the order of preference: RSA-2048 is what every verifier understands.
var places = []place{
	{"RSA-2048 (L-1)", 0x01c00002, 0x81010001, func() tpm2.TPMTPublic { return tpm2.RSAEKTemplate }},
	{"RSA-2048 (H-1)", 0x01c00012, 0x81010012, templateH1},
	{"ECC P-256 (L-2)", 0x01c0000a, 0x81010002, func() tpm2.TPMTPublic { return tpm2.ECCEKTemplate }},
	{"ECC P-256 (H-2)", 0x01c00014, 0x81010014, templateH2},
	{"ECC P-384 (H-3)", 0x01c00016, 0x81010016, templateH3},
	{"ECC P-521 (H-4)", 0x01c00018, 0x81010018, nil},
	{"RSA-3072 (H-6)", 0x01c0001c, 0x8101001c, nil},
	{"RSA-4096 (H-7)", 0x01c0001e, 0x8101001e, nil},
}

// EK finds the endorsement key: for each certificate in the TPM, in the order of preference, the key that
// it certifies, among the persistent ones or made from the TCG's template. Without any
// certificate it is the key of the first place. The result is to be closed.
func (d *Device) EK() (*EK, error) {
	var problems []error
	for _, p := range places {
		raw, err := d.ReadNV(p.nv)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if raw == nil {
			continue
		}
		cert, err := tpm.ParseEKCertificate(raw)
		if err != nil {
			problems = append(problems, fmt.Errorf("EK certificate %s: %w", p.name, err))
			continue
		}
		key, err := d.findEK(p, cert)
		if err != nil {
			problems = append(problems, fmt.Errorf("EK %s: %w", p.name, err))
			continue
		}
		chain, err := d.readChain()
		if err != nil {
			return nil, errors.Join(err, key.Close())
		}
		return &EK{Key: key, Certificate: cert.Raw, Chain: chain, Subject: cert.Subject.String(), Issuer: cert.Issuer.String()}, nil
	}
	if len(problems) > 0 {
		return nil, fmt.Errorf("no usable endorsement key: %w", errors.Join(problems...))
	}
	key, err := d.keyAt(places[0])
	if err != nil {
		return nil, fmt.Errorf("endorsement key: %w", err)
	}
	return &EK{Key: key}, nil
}

// keyAt is the persistent key of a place, or the one that its template gives.
func (d *Device) keyAt(p place) (*Key, error) {
	key, err := d.persistent(p.persistent)
	if err != nil || key != nil {
		return key, err
	}
	if p.template == nil {
		return nil, fmt.Errorf("there is no key at handle 0x%08x", p.persistent)
	}
	return d.createPrimary(p.template())
}

// findEK finds the key of a certificate: where it belongs, or at any other persistent handle, since some
// vendors put it elsewhere.
func (d *Device) findEK(p place, cert *x509.Certificate) (*Key, error) {
	want, err := tpm.PublicFromCertificate(cert)
	if err != nil {
		return nil, err
	}
	key, err := d.keyAt(p)
	if err == nil && certifies(want, key) {
		return key, nil
	}
	if key != nil {
		err = errors.Join(err, key.Close())
	}
	handles, listErr := d.handles(uint32(0x81000000))
	if listErr != nil {
		return nil, errors.Join(err, listErr)
	}
	for _, h := range handles {
		if other, err := d.persistent(h); err == nil && other != nil && certifies(want, other) {
			return other, nil
		}
	}
	if p.template != nil { // the handle was taken by another key
		key, createErr := d.createPrimary(p.template())
		if createErr == nil && certifies(want, key) {
			return key, nil
		}
		err = errors.Join(err, createErr, key.Close())
	}
	return nil, errors.Join(errors.New("no key in the TPM is the one that the certificate certifies"), err)
}

func certifies(want *tpm.Public, key *Key) bool {
	got, err := tpm.ParsePublic(key.Public)
	return err == nil && want.SameKey(got)
}

// policyB of the high range: PolicyOR of PolicySecret(endorsement) and the policy in NV index 0x01c07f01
// and its siblings (EK profile, appendix B.6.2).
var (
	policyBSHA256 = []byte{
		0xca, 0x3d, 0x0a, 0x99, 0xa2, 0xb9, 0x39, 0x06, 0xf7, 0xa3, 0x34, 0x24, 0x14, 0xef, 0xcf, 0xb3,
		0xa3, 0x85, 0xd4, 0x4c, 0xd1, 0xfd, 0x45, 0x90, 0x89, 0xd1, 0x9b, 0x50, 0x71, 0xc0, 0xb7, 0xa0}
	policyBSHA384 = []byte{
		0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a,
		0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca,
		0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12}
)

func templateH1() tpm2.TPMTPublic {
	t := tpm2.RSAEKTemplate
	t.ObjectAttributes.UserWithAuth = true
	t.AuthPolicy = tpm2.TPM2BDigest{Buffer: policyBSHA256}
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	return t
}

func templateH2() tpm2.TPMTPublic {
	return eccTemplate(tpm2.TPMAlgSHA256, policyBSHA256, tpm2.TPMECCNistP256, 128)
}

func templateH3() tpm2.TPMTPublic {
	return eccTemplate(tpm2.TPMAlgSHA384, policyBSHA384, tpm2.TPMECCNistP384, 256)
}

func eccTemplate(nameAlg tpm2.TPMAlgID, policy []byte, curve tpm2.TPMECCCurve, aes tpm2.TPMKeyBits) tpm2.TPMTPublic {
	t := tpm2.ECCEKTemplate
	t.NameAlg = nameAlg
	t.ObjectAttributes.UserWithAuth = true
	t.AuthPolicy = tpm2.TPM2BDigest{Buffer: policy}
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, aes),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		CurveID: curve,
	})
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

// Kind is the key in words: "RSA-2048", "ECC P-256".
func (k *Key) Kind() string {
	p, err := tpm.ParsePublic(k.Public)
	if err != nil {
		return "unknown"
	}
	switch key := p.Key().(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA-%d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECC " + key.Curve.Params().Name
	}
	return "unknown"
}

// Activate opens a credential that was made for this EK and AK (TPM2_ActivateCredential, Part 3, section
// 12.5). credentialBlob is a TPM2B_ID_OBJECT, encryptedSecret a TPM2B_ENCRYPTED_SECRET. The result proves
// to whoever made the credential that both keys are in this TPM.
func (d *Device) Activate(ak *Key, ek *EK, credentialBlob, encryptedSecret []byte) ([]byte, error) {
	blob, err := tpm2.Unmarshal[tpm2.TPM2BIDObject](credentialBlob)
	if err != nil {
		return nil, fmt.Errorf("the credential is no TPM2B_ID_OBJECT: %w", err)
	}
	secret, err := tpm2.Unmarshal[tpm2.TPM2BEncryptedSecret](encryptedSecret)
	if err != nil {
		return nil, fmt.Errorf("the secret is no TPM2B_ENCRYPTED_SECRET: %w", err)
	}
	auth := tpm2.PasswordAuth(nil)
	if !ek.public.ObjectAttributes.UserWithAuth {
		// Keys of the low range are used by policy only: the endorsement hierarchy has to agree.
		auth = tpm2.Policy(ek.public.NameAlg, 16, func(t transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
			_, err := tpm2.PolicySecret{
				AuthHandle:    tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
				PolicySession: session,
				NonceTPM:      nonce,
			}.Execute(t)
			return err
		})
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: ak.handle, Name: tpm2.TPM2BName{Buffer: ak.Name}, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: ek.handle, Name: tpm2.TPM2BName{Buffer: ek.Name}, Auth: auth},
		CredentialBlob: *blob,
		Secret:         *secret,
	}.Execute(d.tpm)
	if err != nil {
		return nil, explain("TPM2_ActivateCredential", err)
	}
	return bytes.Clone(rsp.CertInfo.Buffer), nil
}
