package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"math/big"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

const akAttributes = FixedTPM | FixedParent | SensitiveDataOrigin | UserWithAuth | Restricted | Sign

// rsaPublic is the TPMT_PUBLIC of an RSA-2048 signing key without a policy.
func rsaPublic(modulus []byte, scheme Alg, hash HashAlg) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(AlgRSA))
	b = binary.BigEndian.AppendUint16(b, uint16(SHA256))
	b = binary.BigEndian.AppendUint32(b, uint32(akAttributes))
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(AlgNull))
	b = binary.BigEndian.AppendUint16(b, uint16(scheme))
	if scheme != AlgNull {
		b = binary.BigEndian.AppendUint16(b, uint16(hash))
	}
	b = binary.BigEndian.AppendUint16(b, uint16(8*len(modulus)))
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(modulus)))
	return append(b, modulus...)
}

// publics are the TPMT_PUBLICs of all captures.
func publics(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(boots, "*", "evidence", "*.tpmt_public"))
	if err != nil || len(files) < 90 {
		t.Fatalf("%d public areas, %v", len(files), err)
	}
	out := map[string][]byte{}
	for _, file := range files {
		out[file] = read(t, file)
	}
	return out
}

// Differential: go-tpm reads the same out of every captured key.
func TestParsePublicAgreesWithGoTPM(t *testing.T) {
	for file, b := range publics(t) {
		p, err := ParsePublic(b)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		theirs, err := tpm2.Unmarshal[tpm2.TPMTPublic](b)
		if err != nil {
			t.Fatal(err)
		}
		name, err := tpm2.ObjectName(theirs)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p.Name(), name.Buffer) || !bytes.Equal(p.Raw(), b) {
			t.Errorf("%s: name %x", file, p.Name())
		}
		key, err := tpm2.Pub(*theirs)
		if err != nil {
			t.Fatal(err)
		}
		other, err := PublicFromCrypto(key)
		if err != nil {
			t.Fatal(err)
		}
		if !p.SameKey(other) || other.Name() != nil || other.Raw() != nil {
			t.Errorf("%s: another key", file)
		}
		a := theirs.ObjectAttributes
		if p.Attributes().Has(Restricted) != a.Restricted || p.Attributes().Has(Sign) != a.SignEncrypt || p.Attributes().Has(Decrypt) != a.Decrypt ||
			p.Attributes().Has(FixedTPM) != a.FixedTPM || p.Attributes().Has(FixedParent) != a.FixedParent || p.Attributes().Has(SensitiveDataOrigin) != a.SensitiveDataOrigin {
			t.Errorf("%s: attributes %x", file, p.Attributes())
		}
		again, err := ParsePublic(prefixed(b))
		if err != nil || !bytes.Equal(again.Raw(), b) {
			t.Errorf("%s: as TPM2B_PUBLIC: %v", file, err)
		}
		isAK := strings.HasPrefix(filepath.Base(file), "ak-")
		if err := CheckAK(p); (err == nil) != isAK {
			t.Errorf("%s: as AK: %v", file, err)
		}
		if err := CheckEK(p); (err == nil) == isAK {
			t.Errorf("%s: as EK: %v", file, err)
		}
	}
}

func TestParsePublicErrors(t *testing.T) {
	dir := filepath.Join(boots, "sb-on-1", "evidence")
	rsaKey, eccKey := read(t, dir, "ak-rsassa.tpmt_public"), read(t, dir, "ak-ecdsa256.tpmt_public")
	with := func(b []byte, off int, v ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[off:], v)
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":                             {nil, "empty"},
		"huge":                              {make([]byte, 1<<20), "1048576 bytes"},
		"keyed hash":                        {with(rsaKey, 0, 0, 8), "nor the type of an RSA or ECC key"},
		"unknown nameAlg":                   {with(rsaKey, 2, 0, 0x12), "nameAlg sm3_256"},
		"trailing byte":                     {append(bytes.Clone(rsaKey), 0), "1 bytes follow"},
		"trailing in TPM2B":                 {append(prefixed(rsaKey), 0), "neither the size"},
		"short in TPM2B":                    {prefixed(rsaKey)[:100], "neither the size"},
		"policy too long":                   {with(rsaKey, 8, 0xff, 0xff), "authPolicy has a size of 65535"},
		"even modulus":                      {with(rsaKey, len(rsaKey)-1, 0x10), "not that of an RSA key"},
		"modulus too small":                 {with(rsaKey, len(rsaKey)-256, 0x01), "not that of an RSA key"},
		"512 bits":                          {rsaPublic(new(big.Int).SetBit(big.NewInt(1), 511, 1).Bytes(), AlgRSASSA, SHA256), "an RSA key of 512 bits"},
		"even exponent":                     {with(rsaKey, 18, 0, 1, 0, 0), "65536 is no RSA exponent"},
		"exponent one":                      {with(rsaKey, 18, 0, 0, 0, 1), "1 is no RSA exponent"},
		"exponent too large":                {with(rsaKey, 18, 0xff, 0xff, 0xff, 0xff), "4294967295 is no RSA exponent"},
		"unknown curve":                     {with(eccKey, 16, 0, 0x10), "curve 0x0010"},
		"off the curve":                     {with(eccKey, len(eccKey)-1, eccKey[len(eccKey)-1]^1), "not on curve P-256"},
		"coordinate too long for the curve": {append(append(bytes.Clone(eccKey[:20]), 0, 33, 0), eccKey[22:]...), "longer than the 32 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := ParsePublic(c.b); err == nil || !strings.Contains(err.Error(), c.want) || p != nil {
				t.Errorf("%v, %v", p, err)
			}
		})
	}
	for i := range rsaKey {
		if _, err := ParsePublic(rsaKey[:i]); err == nil {
			t.Fatalf("%d bytes are enough", i)
		}
	}
}

// Schemes with more fields than the usual ones are read to their end, and then refused as AK.
func TestParsePublicOfRareSchemes(t *testing.T) {
	ecc := read(t, boots, "sb-on-1", "evidence", "ak-ecdsa256.tpmt_public") // scheme at 12, hash 14, curve 16, KDF 18
	for name, middle := range map[string][]byte{
		"ECDAA":        {0, 0x1a, 0, 0x0b, 0, 7, 0, 3, 0, 0x10},
		"KDF1 of ECDH": {0, 0x19, 0, 0x0b, 0, 3, 0, 0x20, 0, 0x0b},
	} {
		p, err := ParsePublic(append(append(bytes.Clone(ecc[:12]), middle...), ecc[20:]...))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if err := CheckAK(p); err == nil || !strings.Contains(err.Error(), "signing scheme is") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPublicFromCryptoErrors(t *testing.T) {
	_, good := rsaAK(t)
	n := good.Key().(*rsa.PublicKey).N
	for name, key := range map[string]any{
		"nil":           nil,
		"ed25519":       ed25519.PublicKey(make([]byte, 32)),
		"nil RSA":       (*rsa.PublicKey)(nil),
		"RSA without N": &rsa.PublicKey{E: 65537},
		"even N":        &rsa.PublicKey{N: new(big.Int).Sub(n, big.NewInt(1)), E: 65537},
		"even E":        &rsa.PublicKey{N: n, E: 4},
		"huge N":        &rsa.PublicKey{N: new(big.Int).Lsh(n, 8000), E: 65537},
		"nil ECDSA":     (*ecdsa.PublicKey)(nil),
		"P-224":         &ecdsa.PublicKey{Curve: elliptic.P224(), X: big.NewInt(1), Y: big.NewInt(1)}, //nolint:staticcheck // a key that no encoder would make
		"off the curve": &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)}, //nolint:staticcheck // likewise
	} {
		if p, err := PublicFromCrypto(key); err == nil {
			t.Errorf("%s: %v", name, p)
		}
	}
}

// Each rule alone makes the key unacceptable, in a sentence of its own.
func TestCheckAKRules(t *testing.T) {
	dir := filepath.Join(boots, "sb-on-1", "evidence")
	raw := read(t, dir, "ak-rsassa.tpmt_public")
	good, err := ParsePublic(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckAK(good); err != nil {
		t.Fatal(err)
	}
	attributes := func(a Attributes) []byte {
		b := bytes.Clone(raw)
		binary.BigEndian.PutUint32(b[4:], uint32(a))
		return b
	}
	at := func(off int, v ...byte) []byte {
		b := bytes.Clone(raw)
		copy(b[off:], v)
		return b
	}
	small := new(big.Int).SetBit(big.NewInt(1), 1023, 1).Bytes()
	scheme := func(alg Alg, hash HashAlg) []byte { return rsaPublic(raw[len(raw)-256:], alg, hash) }
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"restricted":          {attributes(good.Attributes() &^ Restricted), "not restricted"},
		"sign":                {attributes(good.Attributes() &^ Sign), "lacks the attribute sign."},
		"decrypt":             {attributes(good.Attributes() | Decrypt), "has the attribute decrypt"},
		"fixedTPM":            {attributes(good.Attributes() &^ FixedTPM), "lacks the attribute fixedTPM"},
		"fixedParent":         {attributes(good.Attributes() &^ FixedParent), "lacks the attribute fixedParent"},
		"sensitiveDataOrigin": {attributes(good.Attributes() &^ SensitiveDataOrigin), "lacks the attribute sensitiveDataOrigin"},
		"nameAlg":             {at(2, 0, 4), "nameAlg is not"},
		"exponent":            {at(18, 0, 0, 0, 3), "exponent is less than 65537"},
		"1024 bits":           {rsaPublic(small, AlgRSASSA, SHA256), "fewer than 2048 bits"},
		"signs with SHA-1":    {scheme(AlgRSASSA, SHA1), "signs with sha1"},
		"OAEP":                {scheme(AlgOAEP, SHA256), "signing scheme is OAEP"},
		"ECDSA on RSA":        {scheme(AlgECDSA, SHA256), "signing scheme is ECDSA"},
		"no scheme":           {scheme(AlgNull, 0), "signing scheme is NULL"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := ParsePublic(c.b)
			if err != nil {
				t.Fatal(err)
			}
			var broken *KeyError
			if err := CheckAK(p); !errors.As(err, &broken) || len(broken.Violations) != 1 || !strings.Contains(broken.Violations[0], c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	_, bare := rsaAK(t)
	if err := CheckAK(bare); !errors.Is(err, ErrAttributesUnknown) {
		t.Error(err)
	}
	weak, err := PublicFromCrypto(&rsa.PublicKey{N: new(big.Int).SetBytes(small), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckAK(weak); err == nil || errors.Is(err, ErrAttributesUnknown) {
		t.Error("a weak key passes because its attributes are unknown")
	}
	for _, p := range []*Public{nil, {}} {
		if CheckAK(p) == nil || CheckEK(p) == nil {
			t.Error("no key is a good key")
		}
	}
}

func TestCheckEKRules(t *testing.T) {
	dir := filepath.Join(boots, "sb-on-1", "evidence")
	raw := read(t, dir, "ek-rsa2048.tpmt_public")
	good, err := ParsePublic(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckEK(good); err != nil {
		t.Fatal(err)
	}
	attributes := func(a Attributes) []byte {
		b := bytes.Clone(raw)
		binary.BigEndian.PutUint32(b[4:], uint32(a))
		return b
	}
	symmetric := func(v ...byte) []byte { // after the 32-byte policy
		b := bytes.Clone(raw)
		copy(b[42:], v)
		return b
	}
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"restricted":          {attributes(good.Attributes() &^ Restricted), "not restricted"},
		"decrypt":             {attributes(good.Attributes() &^ Decrypt), "lacks the attribute decrypt"},
		"sign":                {attributes(good.Attributes() | Sign), "has the attribute sign"},
		"fixedTPM":            {attributes(good.Attributes() &^ FixedTPM), "fixedTPM"},
		"fixedParent":         {attributes(good.Attributes() &^ FixedParent), "fixedParent"},
		"sensitiveDataOrigin": {attributes(good.Attributes() &^ SensitiveDataOrigin), "sensitiveDataOrigin"},
		"cipher":              {symmetric(0, 0x26), "not AES-CFB"},
		"key size":            {symmetric(0, 6, 0, 64), "not AES-CFB"},
		"mode":                {symmetric(0, 6, 0, 128, 0, 0x44), "not AES-CFB"},
		"RSAES":               {symmetric(0, 6, 0, 128, 0, 0x43, 0, 0x15), "scheme of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := ParsePublic(c.b)
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckEK(p); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
	ecc := read(t, dir, "ek-ecc-p256.tpmt_public") // its scheme, NULL, becomes ECDSA with sha256
	ecc = append(append(bytes.Clone(ecc[:48]), 0, 0x18, 0, 0x0b), ecc[50:]...)
	if err := CheckEK(mustParse(t, ecc)); err == nil || !strings.Contains(err.Error(), "scheme of its own") {
		t.Error(err)
	}
}

func TestPublicString(t *testing.T) {
	dir := filepath.Join(boots, "sb-on-1", "evidence")
	for file, want := range map[string]string{
		"ak-rsassa.tpmt_public":   "RSA-2048, RSASSA with sha256",
		"ak-ecdsa384.tpmt_public": "P-384, ECDSA with sha384",
		"ek-rsa2048.tpmt_public":  "RSA-2048",
	} {
		if got := mustParse(t, read(t, dir, file)).String(); got != want {
			t.Errorf("%s: %q", file, got)
		}
	}
	if got := (Scheme{Alg: AlgNull}).String() + ", " + (Scheme{Alg: AlgRSAES}).String() + ", " + (&Public{}).String(); got != "NULL, RSAES, no key" {
		t.Error(got)
	}
}
