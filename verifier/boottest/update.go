package boottest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"math/big"
	"slices"
	"testing"

	"github.com/smallstep/pkcs7"
)

// KeyExchangeKey is a key of a test's own that signs updates of firmware variables.
type KeyExchangeKey struct {
	Certificate *x509.Certificate
	key         *rsa.PrivateKey
}

// NewKeyExchangeKey makes one.
func NewKeyExchangeKey(t testing.TB) *KeyExchangeKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "KEK of a test"}, NotBefore: At.AddDate(-15, 0, 0), NotAfter: At.AddDate(-1, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &KeyExchangeKey{c, key}
}

// PEM is the certificate.
func (k *KeyExchangeKey) PEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: k.Certificate.Raw}))
}

// Update signs an update that appends digests of images to a variable of the image security database (UEFI 2.10,
// section 8.2.2).
func (k *KeyExchangeKey) Update(t testing.TB, variable string, digests ...[32]byte) []byte {
	t.Helper()
	sha256List := []byte{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}
	list := binary.LittleEndian.AppendUint32(sha256List, uint32(28+48*len(digests)))
	list = binary.LittleEndian.AppendUint32(list, 0)
	list = binary.LittleEndian.AppendUint32(list, 48)
	for _, d := range digests {
		list = append(append(list, make([]byte, 16)...), d[:]...)
	}
	at := make([]byte, 16)
	binary.LittleEndian.PutUint16(at, uint16(At.Year()))
	at[2], at[3] = byte(At.Month()), byte(At.Day())
	var name []byte
	for _, c := range variable {
		name = append(name, byte(c), 0)
	}
	database := []byte{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
	signed, err := pkcs7.NewSignedData(slices.Concat(name, database, []byte{0x67, 0, 0, 0}, at, list))
	if err != nil {
		t.Fatal(err)
	}
	signed.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if err := signed.SignWithoutAttr(k.Certificate, k.key, pkcs7.SignerInfoConfig{}); err != nil {
		t.Fatal(err)
	}
	signed.Detach()
	signature, err := signed.Finish()
	if err != nil {
		t.Fatal(err)
	}
	guid := []byte{0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7}
	out := binary.LittleEndian.AppendUint32(at, uint32(24+len(signature)))
	out = append(out, 0, 2, 0xf1, 0x0e)
	return slices.Concat(out, guid, signature, list)
}
