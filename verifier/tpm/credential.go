package tpm

import (
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/google/go-tpm/tpm2"
)

// MakeCredential encrypts secret so that only the TPM that holds both the EK and a key of the name
// akName gives it back (TPM2_ActivateCredential): whoever returns the secret has proved that the AK
// lives beside the EK (Part 1, section 24). It works without a TPM.
//
// ek is an RSA-2048 to RSA-4096, P-256, P-384 or P-521 key that CheckEK accepts. Where only its
// certificate is known (PublicFromCertificate), the parameters are those of the TCG's default
// templates for that kind of key: L-1, L-2 and H-1 to H-7 (TCG EK Credential Profile 2.5, appendix B).
// akName is the AK's name as Public.Name computes it, and must be computed here and not be taken
// from the machine without its public area. secret has 1 byte to the length of the EK's nameAlg
// digest. random must be a cryptographic source.
//
// The results are a TPM2B_ID_OBJECT and a TPM2B_ENCRYPTED_SECRET, size prefixes included.
func MakeCredential(ek *Public, akName, secret []byte, random io.Reader) (credentialBlob, encryptedSecret []byte, err error) {
	if err := CheckEK(ek); err != nil && !errors.Is(err, ErrAttributesUnknown) {
		return nil, nil, err
	}
	if random == nil {
		return nil, nil, errors.New("make credential: there is no source of randomness")
	}
	if err := checkName(akName); err != nil {
		return nil, nil, fmt.Errorf("make credential: %w", err)
	}
	seal := encapsulation{key: ek, nameAlg: ek.nameAlg, symmetricBits: ek.symmetric.Bits}
	if !ek.HasAttributes() {
		seal.applyTemplate()
	}
	if len(secret) == 0 || len(secret) > seal.nameAlg.Size() {
		return nil, nil, fmt.Errorf("make credential: a secret of %d bytes, the EK takes 1 to %d", len(secret), seal.nameAlg.Size())
	}
	object, sealed, err := tpm2.CreateCredential(random, &seal, akName, secret)
	if err != nil {
		return nil, nil, fmt.Errorf("make credential: %w", err)
	}
	return prefixed(object), prefixed(sealed), nil
}

// checkName checks that a name has the form of an object's: a hash algorithm and its digest.
func checkName(name []byte) error {
	if len(name) < 2 {
		return fmt.Errorf("an AK name of %d bytes", len(name))
	}
	alg := HashAlg(binary.BigEndian.Uint16(name))
	if !signatureHash(alg) || len(name) != 2+alg.Size() {
		return fmt.Errorf("an AK name of %d bytes with nameAlg %s", len(name), alg)
	}
	return nil
}

// prefixed is the TPM2B of b.
func prefixed(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...)
}

// encapsulation is the labelled key encapsulation of an EK (Part 1, sections B.10.3 and C.6.1). It
// implements tpm2.LabeledEncapsulationKey. go-tpm's own ECC implementation takes its ephemeral key
// from the process's random source; here randomness only ever comes from the caller.
type encapsulation struct {
	key           *Public
	nameAlg       HashAlg
	symmetricBits int
}

// applyTemplate sets the parameters that the TCG's templates give to a key of this kind. Low and
// high range do not differ in them.
func (e *encapsulation) applyTemplate() {
	e.nameAlg, e.symmetricBits = SHA256, 128 // L-1, H-1: RSA-2048; L-2, H-2: P-256
	switch {
	case e.key.rsa != nil && e.key.rsa.N.BitLen() > 2048: // H-6, H-7
		e.nameAlg, e.symmetricBits = SHA384, 256
	case e.key.ecdsa != nil && e.key.ecdsa.Params().BitSize == 384: // H-3
		e.nameAlg, e.symmetricBits = SHA384, 256
	case e.key.ecdsa != nil && e.key.ecdsa.Params().BitSize == 521: // H-4
		e.nameAlg, e.symmetricBits = SHA512, 256
	}
}

// NameAlg implements tpm2.LabeledEncapsulationKey.
func (e *encapsulation) NameAlg() tpm2.TPMAlgID { return tpm2.TPMAlgID(e.nameAlg) }

// SymmetricParameters implements tpm2.LabeledEncapsulationKey. Every accepted EK uses AES-CFB.
func (e *encapsulation) SymmetricParameters() *tpm2.TPMTSymDefObject {
	return &tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(e.symmetricBits)),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
}

// Encapsulate implements tpm2.LabeledEncapsulationKey.
func (e *encapsulation) Encapsulate(random io.Reader, label string) (seed, ciphertext []byte, err error) {
	if e.key.rsa != nil {
		return e.encapsulateRSA(random, label)
	}
	return e.encapsulateECC(random, label)
}

func (e *encapsulation) encapsulateRSA(random io.Reader, label string) (seed, ciphertext []byte, err error) {
	seed = make([]byte, e.nameAlg.Size())
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, nil, err
	}
	// An EK has no scheme, so OAEP uses nameAlg. The label counts its terminating zero (Part 1, section B.4).
	ciphertext, err = rsa.EncryptOAEP(e.nameAlg.Hash().New(), random, e.key.rsa, seed, append([]byte(label), 0))
	return seed, ciphertext, err
}

func (e *encapsulation) encapsulateECC(random io.Reader, label string) (seed, ciphertext []byte, err error) {
	static, err := e.key.ecdsa.ECDH()
	if err != nil {
		return nil, nil, err
	}
	ephemeral, err := ephemeralKey(e.key.ecdsa, static.Curve(), random)
	if err != nil {
		return nil, nil, err
	}
	z, err := ephemeral.ECDH(static)
	if err != nil {
		return nil, nil, err
	}
	size := (e.key.ecdsa.Params().BitSize + 7) / 8
	point := ephemeral.PublicKey().Bytes()[1:] // X and Y of the uncompressed form
	x, y := point[:size], point[size:]
	seed = tpm2.KDFe(e.nameAlg.Hash(), z, label, x, static.Bytes()[1:1+size], 8*e.nameAlg.Size())
	return seed, append(prefixed(x), prefixed(y)...), nil
}

// ephemeralKey draws a private key by rejection (FIPS 186-5, section A.2.2). On every NIST curve
// a draw, cut to the bits of the order, succeeds with at least one chance in two.
func ephemeralKey(key *ecdsa.PublicKey, curve ecdh.Curve, random io.Reader) (*ecdh.PrivateKey, error) {
	order := key.Params().N.BitLen()
	draw := make([]byte, (order+7)/8)
	for range 128 {
		if _, err := io.ReadFull(random, draw); err != nil {
			return nil, err
		}
		if order%8 != 0 {
			draw[0] &= 1<<(order%8) - 1
		}
		if private, err := curve.NewPrivateKey(draw); err == nil {
			return private, nil
		}
	}
	return nil, errors.New("the source of randomness gives no usable key")
}
