package ima

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	_ "crypto/sha256" // hash algorithms of signatures
	_ "crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
)

// The extended attribute types that a signature field begins with (Linux: enum evm_ima_xattr_type in
// security/integrity/integrity.h).
const (
	xattrSignature       = 0x03 // EVM_IMA_XATTR_DIGSIG
	xattrPortable        = 0x05 // EVM_XATTR_PORTABLE_DIGSIG
	xattrVeritySignature = 0x06 // IMA_VERITY_DIGSIG

	signatureHeader = 9 // struct signature_v2_hdr
)

// signatureFault checks the header of a security.ima or security.evm signature (struct
// signature_v2_hdr: type, version 2 or 3, hash algorithm, key id of 4 bytes, big-endian size). The
// kernel records the attribute as it is, so a wrong one is a statement about the file, not about the
// list. Attributes that hold no signature (0x01, 0x02, 0x04) are left alone.
func signatureFault(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	switch b[0] {
	case xattrSignature, xattrPortable, xattrVeritySignature:
	default:
		return ""
	}
	if len(b) >= 2 && b[1] == 1 {
		return "" // version 1 has another header (struct signature_hdr)
	}
	if len(b) < signatureHeader {
		return fmt.Sprintf("a signature of %d bytes is shorter than its header", len(b))
	}
	if n := int(binary.BigEndian.Uint16(b[7:])); n != len(b)-signatureHeader {
		return fmt.Sprintf("the signature's header says %d bytes, but %d follow", n, len(b)-signatureHeader)
	}
	return ""
}

// signatureHashes are the kernel's numbers of hash algorithms (enum hash_algo in
// include/uapi/linux/hash_info.h) that a signature is accepted with. SHA-1 is not among them.
var signatureHashes = map[byte]crypto.Hash{4: crypto.SHA256, 5: crypto.SHA384, 6: crypto.SHA512}

// VerifySignature checks the file signature (security.ima, version 2) of an entry over its file digest
// with an RSA (PKCS #1 v1.5) or ECDSA public key. The digest must be SHA-256, SHA-384 or SHA-512. The
// entry itself must have been proved by Replay. Signatures over fs-verity digests (version 3) and of
// EVM are not checked here.
func VerifySignature(e *Entry, key crypto.PublicKey) error {
	return verifySignature(e.Signature, e.FileDigestAlg, e.FileDigest, key)
}

func verifySignature(sig []byte, alg string, digest []byte, key crypto.PublicKey) error {
	hash, err := signatureHash(sig)
	if err != nil {
		return err
	}
	if len(digest) != hash.Size() || alg != kernelName(hash) {
		return fmt.Errorf("the signature is over a %s digest, the entry has %s", kernelName(hash), alg)
	}
	switch key := key.(type) {
	case *rsa.PublicKey:
		if rsa.VerifyPKCS1v15(key, hash, digest, sig[signatureHeader:]) != nil {
			return errors.New("the RSA signature does not verify")
		}
		return nil
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(key, digest, sig[signatureHeader:]) {
			return errors.New("the ECDSA signature does not verify")
		}
		return nil
	}
	return fmt.Errorf("keys of type %T are not supported", key)
}

// signatureHash reads the header of a file signature of version 2.
func signatureHash(sig []byte) (crypto.Hash, error) {
	if fault := signatureFault(sig); fault != "" {
		return 0, errors.New(fault)
	}
	if len(sig) < signatureHeader || sig[0] != xattrSignature || sig[1] != 2 {
		return 0, errors.New("the entry has no file signature of version 2")
	}
	hash, ok := signatureHashes[sig[2]]
	if !ok {
		return 0, fmt.Errorf("signatures with hash algorithm %d are not accepted", sig[2])
	}
	return hash, nil
}

func kernelName(h crypto.Hash) string {
	switch h {
	case crypto.SHA256:
		return "sha256"
	case crypto.SHA384:
		return "sha384"
	default:
		return "sha512"
	}
}
