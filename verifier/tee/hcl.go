package tee

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// The layout of an HCL report, as Azure's paravisor writes it to NV index 0x01400001: a header, the hardware
// report in a field of the size of an SEV-SNP report, and the runtime data that report_data covers
// (github.com/Azure/confidential-computing-cvm-guest-attestation, cvm-guest-attestation.md; openhcl's
// IgvmAttestation structures).
const (
	hclHeaderSize   = 32
	hclReportSize   = 1184
	hclRuntimeStart = hclHeaderSize + hclReportSize
	hclRuntimeFixed = 20 // data size, version, report type, hash type, size of the JSON
	maxHCL          = 16 << 10
	hclTypeSNP      = 2
	hclTypeTDX      = 4
)

// runtimeData is the JSON that a paravisor binds to its VM by report_data.
type runtimeData struct {
	raw      []byte
	hash     []byte // what the first bytes of report_data have to be
	ak       *tpm.Public
	ek       *rsa.PublicKey
	vm       VMConfiguration
	userData []byte
}

// VMConfiguration is what Azure's paravisor says of the virtual machine ("vm-configuration"). It is as true as the
// launch measurement is trusted, since the paravisor is what was measured. Nil is not told.
type VMConfiguration struct {
	SecureBoot     *bool  `json:"secure_boot"`
	TPMEnabled     *bool  `json:"tpm_enabled"`
	ConsoleEnabled *bool  `json:"console_enabled"`
	TPMPersisted   *bool  `json:"tpm_persisted,omitempty"`
	VMID           string `json:"vm_id,omitempty"`
}

// hclReport is a decoded HCL report.
type hclReport struct {
	kind     uint32 // hclTypeSNP or hclTypeTDX
	hardware []byte // an SEV-SNP report, or a TDREPORT
	runtime  *runtimeData
}

// parseHCL decodes an HCL report. What follows the runtime data in the NV index is padding.
func parseHCL(b []byte) (*hclReport, error) {
	if len(b) < hclRuntimeStart+hclRuntimeFixed || len(b) > maxHCL {
		return nil, fmt.Errorf("an HCL report of %d bytes; %d to %d are possible", len(b), hclRuntimeStart+hclRuntimeFixed, maxHCL)
	}
	if !bytes.Equal(b[:4], []byte("HCLA")) {
		return nil, errors.New("at byte 0: not an HCL report, which begins with HCLA")
	}
	if version := binary.LittleEndian.Uint32(b[4:]); version != 1 && version != 2 {
		return nil, fmt.Errorf("unsupported: HCL header version %d; 1 and 2 are read", version)
	}
	header, fixed := b[:hclHeaderSize], b[hclRuntimeStart:]
	kind, hashType, size := binary.LittleEndian.Uint32(fixed[8:]), binary.LittleEndian.Uint32(fixed[12:]), binary.LittleEndian.Uint32(fixed[16:])
	if kind != hclTypeSNP && kind != hclTypeTDX {
		return nil, fmt.Errorf("unsupported: HCL report type %d; SEV-SNP (2) and TDX (4) are read", kind)
	}
	if uint64(size) > uint64(len(fixed)-hclRuntimeFixed) {
		return nil, fmt.Errorf("at byte %d: runtime data of %d bytes, but only %d are there", hclRuntimeStart+16, size, len(fixed)-hclRuntimeFixed)
	}
	if err := checkHCLSizes(header, fixed, size); err != nil {
		return nil, err
	}
	runtime, err := parseRuntime(fixed[hclRuntimeFixed:hclRuntimeFixed+int(size)], hashType)
	if err != nil {
		return nil, err
	}
	return &hclReport{kind: kind, hardware: b[hclHeaderSize : hclHeaderSize+hclReportSize], runtime: runtime}, nil
}

// checkHCLSizes checks what the structures say of themselves: no signature covers them, so what does not fit
// together was altered, or is of a kind that is not read.
func checkHCLSizes(header, fixed []byte, size uint32) error {
	u32 := binary.LittleEndian.Uint32
	switch {
	case u32(header[12:]) != 2:
		return fmt.Errorf("unsupported: HCL request type %d; that of an attestation report is 2", u32(header[12:]))
	case u32(header[16:]) != 0:
		return fmt.Errorf("at byte 16: the HCL report has the status %d; 0 is success", u32(header[16:]))
	case !isZero(header[20:]):
		return errors.New("at byte 20: reserved bytes of the HCL header are not zero")
	case u32(fixed[4:]) != 1:
		return fmt.Errorf("unsupported: runtime data version %d; 1 is read", u32(fixed[4:]))
	case uint64(u32(fixed)) != uint64(size)+hclRuntimeFixed:
		return fmt.Errorf("at byte %d: the runtime data states %d bytes, and holds %d", hclRuntimeStart, u32(fixed), uint64(size)+hclRuntimeFixed)
	case uint64(u32(header[8:])) != uint64(u32(fixed))+hclRuntimeStart:
		return fmt.Errorf("at byte 8: the HCL report states %d bytes, and holds %d", u32(header[8:]), uint64(u32(fixed))+hclRuntimeStart)
	}
	return nil
}

// The JSON of the runtime data; what is not named here is passed over.
type wireRuntime struct {
	Keys wireKeys `json:"keys"`
	VM   *struct {
		SecureBoot     *bool  `json:"secure-boot"`
		TPMEnabled     *bool  `json:"tpm-enabled"`
		ConsoleEnabled *bool  `json:"console-enabled"`
		TPMPersisted   *bool  `json:"tpm-persisted"`
		VMUniqueID     string `json:"vmUniqueId"`
	} `json:"vm-configuration"`
	UserData string `json:"user-data"`
}

type wireJWK struct {
	KeyID    string `json:"kid"`
	KeyType  string `json:"kty"`
	Exponent string `json:"e"`
	Modulus  string `json:"n"`
}

const maxRuntimeKeys = 16

// wireKeys stops at a number of keys, since an empty one takes 3 bytes in JSON and 64 in memory.
type wireKeys []wireJWK

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (k *wireKeys) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if token, err := d.ReadToken(); err != nil || token.Kind() != '[' {
		return errors.Join(errors.New("keys is no array"), err)
	}
	for d.PeekKind() != ']' {
		if len(*k) == maxRuntimeKeys {
			return fmt.Errorf("more than %d keys", maxRuntimeKeys)
		}
		var key wireJWK
		if err := json.UnmarshalDecode(d, &key); err != nil {
			return err
		}
		*k = append(*k, key)
	}
	_, err := d.ReadToken()
	return err
}

func parseRuntime(raw []byte, hashType uint32) (*runtimeData, error) {
	r := &runtimeData{raw: raw}
	switch hashType { // IGVM_ATTEST_HASH_TYPE
	case 1:
		sum := sha256.Sum256(raw)
		r.hash = sum[:]
	case 2:
		sum := sha512.Sum384(raw)
		r.hash = sum[:]
	case 3:
		sum := sha512.Sum512(raw)
		r.hash = sum[:]
	default:
		return nil, fmt.Errorf("unsupported: runtime data with hash type %d", hashType)
	}
	var w wireRuntime
	if err := json.Unmarshal(raw, &w); err != nil { // repeated names are refused
		return nil, fmt.Errorf("the runtime data is not the JSON of a paravisor: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	for _, k := range w.Keys {
		if k.KeyID != "HCLAkPub" && k.KeyID != "HCLEkPub" {
			continue
		}
		key, err := k.rsa()
		if err != nil {
			return nil, fmt.Errorf("runtime data, key %s: %w", k.KeyID, err)
		}
		switch {
		case k.KeyID == "HCLAkPub" && r.ak == nil:
			if r.ak, err = akOf(key); err != nil {
				return nil, fmt.Errorf("runtime data, key HCLAkPub: %w", err)
			}
		case k.KeyID == "HCLEkPub" && r.ek == nil:
			r.ek = key
		default:
			return nil, fmt.Errorf("the runtime data holds key %s twice", k.KeyID)
		}
	}
	if r.ak == nil {
		return nil, errors.New("the runtime data holds no HCLAkPub")
	}
	if w.VM != nil {
		r.vm = VMConfiguration{SecureBoot: w.VM.SecureBoot, TPMEnabled: w.VM.TPMEnabled, ConsoleEnabled: w.VM.ConsoleEnabled, TPMPersisted: w.VM.TPMPersisted}
		if id := w.VM.VMUniqueID; len(id) <= 64 && !strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
			r.vm.VMID = strings.ToLower(id)
		}
	}
	if w.UserData != "" {
		var err error
		if r.userData, err = hex.DecodeString(w.UserData); err != nil || len(r.userData) > 64 {
			return nil, errors.New("the runtime data's user-data is not up to 64 bytes in hex")
		}
	}
	return r, nil
}

// rsa reads a JWK (RFC 7518, section 6.3).
func (k *wireJWK) rsa() (*rsa.PublicKey, error) {
	n, err := base64.RawURLEncoding.DecodeString(k.Modulus)
	if err != nil || k.KeyType != "RSA" {
		return nil, errors.New("it is no RSA key in JWK form")
	}
	e, err := base64.RawURLEncoding.DecodeString(k.Exponent)
	if err != nil || len(e) == 0 || len(e) > 4 {
		return nil, errors.New("its exponent cannot be read")
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	if bits := key.N.BitLen(); bits < 2048 || bits > 4096 || key.N.Bit(0) == 0 {
		return nil, fmt.Errorf("a modulus of %d bits; 2048 to 4096, odd, are accepted", bits)
	}
	if key.E < 3 || key.E&1 == 0 {
		return nil, fmt.Errorf("its exponent %d is not odd and at least 3", key.E)
	}
	return key, nil
}

// covered checks that report_data is the hash of the runtime data, followed by zeros. A nil receiver has nothing
// to check.
func (r *runtimeData) covered(reportData []byte) error {
	if r == nil {
		return nil
	}
	if !bytes.HasPrefix(reportData, r.hash) || !isZero(reportData[len(r.hash):]) {
		return errors.New("the runtime data is not what the report's report_data covers")
	}
	return nil
}

// azure verifies HCL evidence: the SEV-SNP report is inside, the quote of a TD beside it.
func (v *verification) azure(e *Evidence) {
	h, err := parseHCL(e.HCLReport)
	if err != nil {
		v.unsupported(err)
		return
	}
	if h.kind == hclTypeTDX {
		if len(e.Quote) == 0 {
			v.result.claimed = &Report{technology: TDX, runtime: h.runtime, ak: h.runtime.ak}
			v.fail("the HCL report of a TDX machine proves nothing without its TD quote, which was not sent")
			return
		}
		v.tdx(e.Quote, h)
		return
	}
	v.snp(h.hardware, h.runtime)
}

// isUnsupported tells a decoder's errors that are about the version.
func isUnsupported(err error) bool { return strings.HasPrefix(err.Error(), "unsupported: ") }
