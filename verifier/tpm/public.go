package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// Alg is a TPM_ALG_ID that is not a hash (TCG Algorithm Registry, table 3).
type Alg uint16

// The algorithms that keys and signatures name.
const (
	AlgRSA    Alg = 0x0001
	AlgAES    Alg = 0x0006
	AlgNull   Alg = 0x0010
	AlgRSASSA Alg = 0x0014
	AlgRSAES  Alg = 0x0015
	AlgRSAPSS Alg = 0x0016
	AlgOAEP   Alg = 0x0017
	AlgECDSA  Alg = 0x0018
	AlgECDH   Alg = 0x0019
	AlgECDAA  Alg = 0x001A
	AlgECC    Alg = 0x0023
	AlgCFB    Alg = 0x0043
)

// String is the algorithm's name in upper case, or its number.
func (a Alg) String() string {
	switch a {
	case AlgRSA:
		return "RSA"
	case AlgAES:
		return "AES"
	case AlgNull:
		return "NULL"
	case AlgRSASSA:
		return "RSASSA"
	case AlgRSAES:
		return "RSAES"
	case AlgRSAPSS:
		return "RSAPSS"
	case AlgOAEP:
		return "OAEP"
	case AlgECDSA:
		return "ECDSA"
	case AlgECDH:
		return "ECDH"
	case AlgECDAA:
		return "ECDAA"
	case AlgECC:
		return "ECC"
	case AlgCFB:
		return "CFB"
	}
	return fmt.Sprintf("algorithm 0x%04x", uint16(a))
}

// Attributes is a TPMA_OBJECT (Part 2, section 8.3).
type Attributes uint32

// The attributes that the rules for AKs and EKs look at.
const (
	FixedTPM            Attributes = 1 << 1
	FixedParent         Attributes = 1 << 4
	SensitiveDataOrigin Attributes = 1 << 5
	UserWithAuth        Attributes = 1 << 6
	AdminWithPolicy     Attributes = 1 << 7
	Restricted          Attributes = 1 << 16
	Decrypt             Attributes = 1 << 17
	Sign                Attributes = 1 << 18
)

// Has tells whether all bits of want are set.
func (a Attributes) Has(want Attributes) bool { return a&want == want }

// Scheme is a TPMT_RSA_SCHEME or TPMT_ECC_SCHEME. Hash is 0 where the scheme has none.
type Scheme struct {
	Alg  Alg
	Hash HashAlg
}

// String is, for instance, "RSASSA with sha256".
func (s Scheme) String() string {
	if s.Hash == 0 {
		return s.Alg.String()
	}
	return s.Alg.String() + " with " + s.Hash.String()
}

// Symmetric is a TPMT_SYM_DEF_OBJECT: the cipher with which a storage key protects its children
// and an EK its credentials. Alg is AlgNull where there is none.
type Symmetric struct {
	Alg  Alg
	Bits int
	Mode Alg
}

// Public is the public part of a TPM key, parsed once and immutable afterwards. It comes from
// ParsePublic or PublicFromCrypto; the zero value has no key and verifies nothing.
type Public struct {
	raw        []byte // TPMT_PUBLIC; nil when made by PublicFromCrypto
	nameAlg    HashAlg
	attributes Attributes
	policy     []byte
	symmetric  Symmetric
	scheme     Scheme
	rsa        *rsa.PublicKey // exactly one of rsa and ecdsa is set
	ecdsa      *ecdsa.PublicKey
}

// ParsePublic reads a TPMT_PUBLIC, or a TPM2B_PUBLIC around one (Part 2, sections 12.2.4 and
// 12.2.5), of an RSA key of 1024 to 4096 bits or of an ECC key on NIST P-256, P-384 or P-521. The
// two forms cannot be confused: a TPMT_PUBLIC begins with the algorithm RSA (1) or ECC (35), and no
// such key fits into as few bytes as that number would be as a size. Bytes that follow the
// structure, other kinds of object and keys that are no keys (a point that is not on its curve, an
// even modulus) are errors. b is copied.
func ParsePublic(b []byte) (*Public, error) {
	p, err := parsePublic(b)
	if err != nil {
		return nil, fmt.Errorf("TPMT_PUBLIC: %w", err)
	}
	return p, nil
}

func parsePublic(b []byte) (*Public, error) {
	r := newReader("the public area", b)
	kind := Alg(r.u16("type"))
	if r.err == nil && kind != AlgRSA && kind != AlgECC && int(kind) == len(b)-2 {
		b = b[2:]
		r = newReader("the public area", b)
		kind = Alg(r.u16("type"))
	}
	if r.err == nil && kind != AlgRSA && kind != AlgECC {
		return nil, fmt.Errorf("at byte 0: %d is neither the size of what follows nor the type of an RSA or ECC key", kind)
	}
	p := &Public{}
	p.nameAlg = HashAlg(r.u16("nameAlg"))
	p.attributes = Attributes(r.u32("objectAttributes"))
	policy := r.bytes2B(64, "authPolicy")
	if r.err != nil {
		return nil, r.err
	}
	if p.nameAlg.Hash() == 0 {
		return nil, fmt.Errorf("at byte 2: nameAlg %s is not supported", p.nameAlg)
	}
	if kind == AlgRSA {
		p.readRSA(r)
	} else {
		p.readECC(r)
	}
	if err := r.end(); err != nil {
		return nil, err
	}
	p.raw = append([]byte(nil), b...)
	p.policy = append([]byte(nil), policy...)
	return p, nil
}

// readSymmetric reads a TPMT_SYM_DEF_OBJECT (Part 2, section 11.1.7).
func readSymmetric(r *reader) Symmetric {
	s := Symmetric{Alg: Alg(r.u16("symmetric.algorithm"))}
	if s.Alg == AlgNull {
		return s
	}
	s.Bits = int(r.u16("symmetric.keyBits"))
	s.Mode = Alg(r.u16("symmetric.mode"))
	return s
}

// readScheme reads a TPMT_RSA_SCHEME or TPMT_ECC_SCHEME (Part 2, sections 11.2.4.2 and 11.2.5.6).
func readScheme(r *reader) Scheme {
	s := Scheme{Alg: Alg(r.u16("scheme"))}
	switch s.Alg {
	case AlgNull, AlgRSAES:
		return s
	}
	s.Hash = HashAlg(r.u16("scheme.hashAlg"))
	if s.Alg == AlgECDAA {
		r.u16("scheme.count")
	}
	return s
}

// readRSA reads TPMS_RSA_PARMS and the modulus (Part 2, sections 12.2.3.5 and 11.2.4.5).
func (p *Public) readRSA(r *reader) {
	p.symmetric = readSymmetric(r)
	p.scheme = readScheme(r)
	bits := int(r.u16("keyBits"))
	exponent := r.u32("exponent")
	modulus := r.bytes2B(512, "modulus")
	if r.err != nil {
		return
	}
	if bits < 1024 || bits > 4096 || bits%8 != 0 {
		r.failf("an RSA key of %d bits is not supported", bits)
		return
	}
	if exponent == 0 {
		exponent = 65537 // Part 2, table 208: zero stands for the default
	}
	if exponent < 3 || exponent%2 == 0 || exponent > 1<<31-1 {
		r.failf("%d is no RSA exponent", exponent)
		return
	}
	n := new(big.Int).SetBytes(modulus)
	if len(modulus) != bits/8 || n.BitLen() != bits || n.Bit(0) == 0 {
		r.failf("the modulus (%d bytes) is not that of an RSA key of %d bits", len(modulus), bits)
		return
	}
	p.rsa = &rsa.PublicKey{N: n, E: int(exponent)}
}

// readECC reads TPMS_ECC_PARMS and the point (Part 2, sections 12.2.3.6 and 11.2.5.2).
func (p *Public) readECC(r *reader) {
	p.symmetric = readSymmetric(r)
	p.scheme = readScheme(r)
	id := r.u16("curveID")
	if kdf := Alg(r.u16("kdf.scheme")); kdf != AlgNull {
		r.u16("kdf.hashAlg")
	}
	x := r.bytes2B(66, "unique.x")
	y := r.bytes2B(66, "unique.y")
	if r.err != nil {
		return
	}
	curve := curveOf(id)
	if curve == nil {
		r.failf("curve 0x%04x is not supported", id)
		return
	}
	key, err := pointOn(curve, x, y)
	if err != nil {
		r.failf("%w", err)
		return
	}
	p.ecdsa = key
}

// curveOf maps a TPM_ECC_CURVE (TCG Algorithm Registry, table 4).
func curveOf(id uint16) elliptic.Curve {
	switch id {
	case 0x0003:
		return elliptic.P256()
	case 0x0004:
		return elliptic.P384()
	case 0x0005:
		return elliptic.P521()
	}
	return nil
}

// pointOn makes a key of two coordinates, each at most as long as the curve's field.
func pointOn(curve elliptic.Curve, x, y []byte) (*ecdsa.PublicKey, error) {
	size := (curve.Params().BitSize + 7) / 8
	if len(x) > size || len(y) > size {
		return nil, fmt.Errorf("a coordinate is longer than the %d bytes of %s", size, curve.Params().Name)
	}
	point := make([]byte, 1+2*size) // SEC 1, section 2.3.3, uncompressed
	point[0] = 4
	copy(point[1+size-len(x):], x)
	copy(point[1+2*size-len(y):], y)
	key, err := ecdsa.ParseUncompressedPublicKey(curve, point)
	if err != nil {
		return nil, fmt.Errorf("the point is not on curve %s", curve.Params().Name)
	}
	return key, nil
}

// PublicFromCrypto makes a Public of an *rsa.PublicKey or *ecdsa.PublicKey (P-256, P-384, P-521)
// where nothing else of the TPM key is known: an EK or AK certificate, or the AK in a hardware
// report. It has no name, no attributes and no scheme of its own: CheckAK and CheckEK then answer
// ErrAttributesUnknown, and Verify accepts every signature scheme that fits the kind of key.
func PublicFromCrypto(pub crypto.PublicKey) (*Public, error) {
	switch key := pub.(type) {
	case *rsa.PublicKey:
		bits := 0
		if key != nil && key.N != nil {
			bits = key.N.BitLen()
		}
		if bits < 1024 || bits > 4096 || bits%8 != 0 || key.N.Bit(0) == 0 || key.N.Sign() < 0 {
			return nil, fmt.Errorf("an RSA key of %d bits is not supported", bits)
		}
		if key.E < 3 || key.E%2 == 0 || key.E > 1<<31-1 {
			return nil, fmt.Errorf("%d is no RSA exponent", key.E)
		}
		copied := &rsa.PublicKey{N: new(big.Int).Set(key.N), E: key.E}
		return &Public{rsa: copied, scheme: Scheme{Alg: AlgNull}, symmetric: Symmetric{Alg: AlgNull}}, nil
	case *ecdsa.PublicKey:
		if key == nil {
			return nil, errors.New("the key is nil")
		}
		switch key.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
		default:
			return nil, errors.New("the key's curve is none of P-256, P-384, P-521")
		}
		point, err := key.Bytes()
		if err != nil {
			return nil, fmt.Errorf("the key is not on its curve: %w", err)
		}
		copied, err := ecdsa.ParseUncompressedPublicKey(key.Curve, point)
		if err != nil {
			return nil, fmt.Errorf("the key is not on its curve: %w", err)
		}
		return &Public{ecdsa: copied, scheme: Scheme{Alg: AlgNull}, symmetric: Symmetric{Alg: AlgNull}}, nil
	}
	return nil, fmt.Errorf("a key of type %T is neither RSA nor ECDSA", pub)
}

// Name is the object's name: nameAlg and the digest of the TPMT_PUBLIC (Part 1, section 16), 34
// bytes for SHA-256. It is nil for a key made by PublicFromCrypto.
func (p *Public) Name() []byte {
	if p.raw == nil {
		return nil
	}
	name := binary.BigEndian.AppendUint16(make([]byte, 0, 2+p.nameAlg.Size()), uint16(p.nameAlg))
	h := p.nameAlg.Hash().New()
	h.Write(p.raw)
	return h.Sum(name)
}

// Raw is a copy of the TPMT_PUBLIC, without a size prefix; nil for a key made by PublicFromCrypto.
func (p *Public) Raw() []byte { return append([]byte(nil), p.raw...) }

// Key is the *rsa.PublicKey or *ecdsa.PublicKey. It must not be modified.
func (p *Public) Key() crypto.PublicKey {
	if p.rsa != nil {
		return p.rsa
	}
	if p.ecdsa != nil {
		return p.ecdsa
	}
	return nil
}

// HasAttributes tells whether the key came as a TPMT_PUBLIC, so that NameAlg, Attributes, Scheme,
// Symmetric and Policy mean something.
func (p *Public) HasAttributes() bool { return p.raw != nil }

// NameAlg is the hash of the key's name; 0 when not known.
func (p *Public) NameAlg() HashAlg { return p.nameAlg }

// Attributes are the object attributes; 0 when not known.
func (p *Public) Attributes() Attributes { return p.attributes }

// Scheme is the key's own scheme; Alg is AlgNull when it has none or it is not known.
func (p *Public) Scheme() Scheme { return p.scheme }

// Symmetric is the cipher for what the key protects; Alg is AlgNull for signing keys.
func (p *Public) Symmetric() Symmetric { return p.symmetric }

// Policy is a copy of the authPolicy digest; empty when there is none.
func (p *Public) Policy() []byte { return append([]byte(nil), p.policy...) }

// String describes the key for a person: "RSA-2048, RSASSA with sha256".
func (p *Public) String() string {
	var b strings.Builder
	switch {
	case p.rsa != nil:
		fmt.Fprintf(&b, "RSA-%d", p.rsa.N.BitLen())
	case p.ecdsa != nil:
		b.WriteString(p.ecdsa.Params().Name)
	default:
		return "no key"
	}
	if p.scheme.Alg != AlgNull {
		b.WriteString(", " + p.scheme.String())
	}
	return b.String()
}
