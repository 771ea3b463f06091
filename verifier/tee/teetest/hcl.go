package teetest

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math/big"
	"testing"
)

// HCL is what may be chosen of an HCL report; its zero value makes an ordinary one.
type HCL struct {
	Version  uint32         // of the header; 0 is 2
	HashType uint32         // 0 is 1, SHA-256
	EK       *rsa.PublicKey // HCLEkPub; nil leaves it out
	UserData []byte
	Runtime  []byte        // the JSON itself, instead of all that it is made of
	Fields   func(*Report) // SEV-SNP: of the report
	Quote    func(*Quote)  // TDX: of the TD quote
	Size     int           // the whole size, zero padded; 0 is 2600, as Azure's NV index has it
}

// VM is an ordinary "vm-configuration".
func VM() map[string]any {
	return map[string]any{"secure-boot": true, "tpm-enabled": true, "console-enabled": false, "tpm-persisted": true,
		"vmUniqueId": "0F8FAD5B-D9CB-469F-A165-70867728950E"}
}

// JWK is a key of the runtime data.
func JWK(name string, key *rsa.PublicKey) map[string]any {
	u := base64.RawURLEncoding.EncodeToString
	return map[string]any{"kid": name, "key_ops": []string{"sign"}, "kty": "RSA", "e": u(big.NewInt(int64(key.E)).Bytes()), "n": u(key.N.Bytes())}
}

// Runtime is the JSON of a paravisor; a nil vm is VM().
func (o HCL) runtime(t testing.TB, ak *rsa.PublicKey, vm map[string]any) []byte {
	if o.Runtime != nil {
		return o.Runtime
	}
	if vm == nil {
		vm = VM()
	}
	keys := []any{JWK("HCLAkPub", ak)}
	if o.EK != nil {
		keys = append(keys, JWK("HCLEkPub", o.EK))
	}
	user := o.UserData
	if user == nil {
		user = make([]byte, 64)
	}
	const digits = "0123456789ABCDEF"
	text := make([]byte, 0, 128)
	for _, b := range user {
		text = append(text, digits[b>>4], digits[b&15])
	}
	return must[[]byte](t)(json.Marshal(map[string]any{"keys": keys, "vm-configuration": vm, "user-data": string(text)}))
}

func (o HCL) reportData(runtime []byte) []byte {
	out := make([]byte, 64)
	switch o.HashType {
	case 2:
		sum := sha512.Sum384(runtime)
		copy(out, sum[:])
	case 3:
		sum := sha512.Sum512(runtime)
		copy(out, sum[:])
	default:
		sum := sha256.Sum256(runtime)
		copy(out, sum[:])
	}
	return out
}

func (o HCL) encode(kind uint32, hardware, runtime []byte) []byte {
	size := max(orDefault(o.Size, 2600), 32+ReportSize+20+len(runtime))
	b := make([]byte, size)
	u32 := binary.LittleEndian.PutUint32
	copy(b, "HCLA")
	u32(b[4:], orDefault(o.Version, 2))
	u32(b[8:], uint32(32+ReportSize+20+len(runtime)))
	u32(b[12:], 2)
	copy(b[32:], hardware)
	fixed := b[32+ReportSize:]
	u32(fixed[0:], uint32(20+len(runtime)))
	u32(fixed[4:], 1)
	u32(fixed[8:], kind)
	u32(fixed[12:], orDefault(o.HashType, 1))
	u32(fixed[16:], uint32(len(runtime)))
	copy(fixed[20:], runtime)
	return b
}

// HCL is the HCL report of an Azure confidential VM on this chip, whose vTPM's AK is ak; a nil vm is VM().
func (a *AMD) HCL(ak *rsa.PublicKey, vm map[string]any, o HCL) []byte {
	runtime := o.runtime(a.t, ak, vm)
	f := a.Fields(3)
	f.ReportData = o.reportData(runtime)
	if o.Fields != nil {
		o.Fields(&f)
	}
	return o.encode(2, a.Report(f), runtime)
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}
