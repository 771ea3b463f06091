package swtpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// What clouds put into the TPMs of their virtual machines, put into a software TPM.

// use opens the TPM for the time of use.
func (t *TPM) use(f func(transport.TPM) error) error {
	device, err := linuxudstpm.Open(t.Socket)
	if err != nil {
		return err
	}
	return errors.Join(f(device), device.Close())
}

// WriteNV writes an NV index that everybody may read and write, in the place of one that is there. A software TPM
// takes at most 2048 bytes.
func (t *TPM) WriteNV(index uint32, content []byte) error {
	return t.use(func(device transport.TPM) error {
		owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
		handle := tpm2.TPMHandle(index)
		if old, err := (tpm2.NVReadPublic{NVIndex: handle}).Execute(device); err == nil {
			if _, err := (tpm2.NVUndefineSpace{AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: handle, Name: old.NVName}}).Execute(device); err != nil {
				return fmt.Errorf("TPM2_NV_UndefineSpace 0x%08x: %w", index, err)
			}
		}
		_, err := tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: handle, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(content)),
			Attributes: tpm2.TPMANV{OwnerRead: true, OwnerWrite: true, AuthRead: true, AuthWrite: true, NoDA: true},
		})}.Execute(device)
		if err != nil {
			return fmt.Errorf("TPM2_NV_DefineSpace 0x%08x: %w", index, err)
		}
		public, err := tpm2.NVReadPublic{NVIndex: handle}.Execute(device)
		if err != nil {
			return err
		}
		name := public.NVName // of the index before its first write
		for offset := 0; offset < len(content); {
			piece := content[offset:min(offset+1024, len(content))]
			_, err := tpm2.NVWrite{AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: handle, Name: name},
				Data: tpm2.TPM2BMaxNVBuffer{Buffer: piece}, Offset: uint16(offset)}.Execute(device)
			if err != nil {
				return fmt.Errorf("TPM2_NV_Write 0x%08x: %w", index, err)
			}
			offset += len(piece)
			if public, err = (tpm2.NVReadPublic{NVIndex: handle}).Execute(device); err != nil {
				return err
			}
			name = public.NVName
		}
		return nil
	})
}

// ReadNV reads an NV index of at most 1024 bytes.
func (t *TPM) ReadNV(index uint32) (content []byte, err error) {
	err = t.use(func(device transport.TPM) error {
		handle := tpm2.TPMHandle(index)
		public, err := tpm2.NVReadPublic{NVIndex: handle}.Execute(device)
		if err != nil {
			return err
		}
		contents, err := public.NVPublic.Contents()
		if err != nil {
			return err
		}
		rsp, err := tpm2.NVRead{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NVIndex: tpm2.NamedHandle{Handle: handle, Name: public.NVName}, Size: contents.DataSize}.Execute(device)
		if err == nil {
			content = rsp.Data.Buffer
		}
		return err
	})
	return content, err
}

// signingTemplate is a restricted signing key; seed makes it another key each.
func signingTemplate(ecc bool, seed string) tpm2.TPMTPublic {
	t := tpm2.TPMTPublic{NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true}}
	if ecc {
		t.Type = tpm2.TPMAlgECC
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}})
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte(seed)}})
		return t
	}
	t.Type = tpm2.TPMAlgRSA
	t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048,
		Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA,
			Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}})
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: []byte(seed)})
	return t
}

// primary makes a key of the endorsement hierarchy for the time of use.
func primary(device transport.TPM, template tpm2.TPMTPublic, use func(tpm2.NamedHandle, crypto.PublicKey) error) (err error) {
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		InPublic: tpm2.New2B(template)}.Execute(device)
	if err != nil {
		return err
	}
	defer func() {
		_, flushErr := tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(device)
		err = errors.Join(err, flushErr)
	}()
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return err
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		return err
	}
	return use(tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, key)
}

// PersistentAK makes an RSA attestation key at a persistent handle, as Azure's paravisor does at 0x81000003, in the
// place of one that is there. Another seed gives another key.
func (t *TPM) PersistentAK(handle uint32, seed string) (key *rsa.PublicKey, err error) {
	err = t.use(func(device transport.TPM) error {
		persistent := tpm2.TPMHandle(handle)
		owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
		if old, err := (tpm2.ReadPublic{ObjectHandle: persistent}).Execute(device); err == nil {
			_, err := tpm2.EvictControl{Auth: owner, ObjectHandle: &tpm2.NamedHandle{Handle: persistent, Name: old.Name},
				PersistentHandle: persistent}.Execute(device)
			if err != nil {
				return err
			}
		}
		return primary(device, signingTemplate(false, seed), func(h tpm2.NamedHandle, public crypto.PublicKey) error {
			key = public.(*rsa.PublicKey)
			_, err := tpm2.EvictControl{Auth: owner, ObjectHandle: &h, PersistentHandle: persistent}.Execute(device)
			return err
		})
	})
	return key, err
}

// HCLReport makes a report in the form of Azure's paravisor: reportType is 2 for SEV-SNP and 4 for TDX. Its hardware
// report is not over the runtime data, unless the caller makes one that is.
func HCLReport(ak *rsa.PublicKey, hardware []byte, reportType uint32, userData []byte) ([]byte, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	runtime, err := json.Marshal(map[string]any{
		"keys": []map[string]any{{"kid": "HCLAkPub", "key_ops": []string{"sign"}, "kty": "RSA",
			"e": b64(big.NewInt(int64(ak.E)).Bytes()), "n": b64(ak.N.Bytes())}},
		"vm-configuration": map[string]any{"console-enabled": true, "secure-boot": true, "tpm-enabled": true, "vmUniqueId": "00000000-0000-0000-0000-000000000000"},
		"user-data":        fmt.Sprintf("%X", append(bytes.Clone(userData), make([]byte, 64-len(userData))...)),
	})
	if err != nil {
		return nil, err
	}
	const hardwareSize = 1184
	out := append([]byte("HCLA"), make([]byte, 28+hardwareSize)...)
	copy(out[32:], hardware)
	for _, n := range []uint32{uint32(20 + len(runtime)), 1, reportType, 1, uint32(len(runtime))} {
		out = binary.LittleEndian.AppendUint32(out, n)
	}
	return append(out, runtime...), nil
}

// GoogleAK puts the template of an attestation key and its certificate into NV, as Google Compute Engine does:
// 0x01c10000 and 0x01c10001 for RSA, 0x01c10002 and 0x01c10003 for ECC. The certificate is of a root and an intermediate
// made for it.
func (t *TPM) GoogleAK(ecc bool) (root, intermediate, certificate *x509.Certificate, err error) {
	template := signingTemplate(ecc, "")
	var key crypto.PublicKey
	err = t.use(func(device transport.TPM) error {
		return primary(device, template, func(_ tpm2.NamedHandle, public crypto.PublicKey) error {
			key = public
			return nil
		})
	})
	if err != nil {
		return nil, nil, nil, err
	}
	var signer crypto.Signer
	issuer := &x509.Certificate{}
	issue := func(name string, ca bool, public crypto.PublicKey, with crypto.Signer, by *x509.Certificate) (*x509.Certificate, error) {
		c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true, IsCA: ca,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature}
		if ca {
			c.KeyUsage = x509.KeyUsageCertSign
		}
		if by == nil {
			by = c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, by, public, with)
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(der)
	}
	for i, name := range []string{"EK/AK CA Root", "EK/AK CA Intermediate"} {
		next, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, nil, err
		}
		if i == 0 {
			root, err = issue(name, true, next.Public(), next, nil)
			issuer = root
		} else {
			intermediate, err = issue(name, true, next.Public(), signer, issuer)
			issuer = intermediate
		}
		if err != nil {
			return nil, nil, nil, err
		}
		signer = next
	}
	if certificate, err = issue("instance", false, key, signer, issuer); err != nil {
		return nil, nil, nil, err
	}
	index := uint32(0x01c10000)
	if ecc {
		index = 0x01c10002
	}
	return root, intermediate, certificate, errors.Join(t.WriteNV(index, certificate.Raw), t.WriteNV(index+1, tpm2.Marshal(template)))
}
