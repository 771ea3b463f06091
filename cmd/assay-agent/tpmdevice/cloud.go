package tpmdevice

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// PersistentKey is the key at a persistent handle; nil when there is none. It is to be closed.
func (d *Device) PersistentKey(handle uint32) (*Key, error) {
	return d.persistent(tpm2.TPMHandle(handle))
}

// CertifiedAK is an attestation key that the cloud made with the machine and certified.
type CertifiedAK struct {
	*Key
	Certificate []byte // DER
	Template    uint32 // NV index of the template that gives the key
}

// certifiedAKs is where Google Compute Engine puts the templates and the certificates of its AKs (go-tpm-tools,
// client/handles.go).
var certifiedAKs = []struct {
	alg            AKAlg
	cert, template uint32
}{
	{RSASSA, 0x01c10000, 0x01c10001},
	{ECDSA, 0x01c10002, 0x01c10003},
}

// CertifiedAK finds an attestation key that the cloud certified, of the preferred kind if there is one; nil
// where there is none. It is to be closed.
func (d *Device) CertifiedAK(preferred AKAlg) (*CertifiedAK, error) {
	var found *CertifiedAK
	for _, p := range certifiedAKs {
		raw, err := d.ReadNV(p.cert)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("AK certificate: %w", err), found.close())
		}
		if raw == nil || (found != nil && p.alg != preferred) {
			continue
		}
		next, err := d.certifiedAK(raw, p.template)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("AK certificate in NV index 0x%08x: %w", p.cert, err), found.close())
		}
		if next == nil { // a certificate of a key that cannot be made again
			continue
		}
		if err := found.close(); err != nil {
			return nil, errors.Join(err, next.Close())
		}
		found = next
	}
	return found, nil
}

func (k *CertifiedAK) close() error {
	if k == nil {
		return nil
	}
	return k.Close()
}

func (d *Device) certifiedAK(raw []byte, template uint32) (*CertifiedAK, error) {
	cert, err := tpm.ParseEKCertificate(raw)
	if err != nil {
		return nil, err
	}
	want, err := tpm.PublicFromCertificate(cert)
	if err != nil {
		return nil, err
	}
	key, err := d.AKFromTemplate(template)
	if err != nil || key == nil {
		return nil, err
	}
	if !certifies(want, key) {
		return nil, errors.Join(fmt.Errorf("the template in NV index 0x%08x gives another key than the one that is certified", template), key.Close())
	}
	return &CertifiedAK{Key: key, Certificate: cert.Raw, Template: template}, nil
}

// AKFromTemplate makes the key of the endorsement hierarchy that a template in NV (TPMT_PUBLIC) gives; nil
// when there is no template. It is to be closed.
func (d *Device) AKFromTemplate(index uint32) (*Key, error) {
	raw, err := d.ReadNV(index)
	if err != nil || raw == nil {
		return nil, err
	}
	template, err := tpm2.Unmarshal[tpm2.TPMTPublic](raw)
	if err != nil {
		return nil, fmt.Errorf("the template in NV index 0x%08x is no TPMT_PUBLIC: %w", index, err)
	}
	return d.createPrimary(*template)
}
