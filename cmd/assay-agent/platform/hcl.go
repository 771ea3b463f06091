package platform

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
)

// Where Azure's paravisor puts its report, what a guest may put into it, and its attestation key.
const (
	hclIndex      = 0x01400001
	userDataIndex = 0x01400002
	hclAKHandle   = 0x81000003
)

// The report: a header that begins with "HCLA", the hardware report, then the description of the runtime data (size,
// version, type of report, type of hash, size of the JSON that follows; 32 bits each, little-endian) and that JSON
// (OpenHCL, openhcl_attestation_protocol, igvm_attest::get::IgvmAttestRequest).
const (
	hclHeader      = 32
	hclDescription = hclHeader + snpReportSize
	hclRuntime     = hclDescription + 20
	hclTypeSNP     = 2
	hclTypeTDX     = 4
)

var (
	errNoHCL           = fmt.Errorf("there is no HCL report in NV index 0x%08x: this is no confidential VM of Azure", hclIndex)
	errNotConfidential = errors.New("the HCL report is not of a confidential VM")
)

// hclReport is an HCL report taken apart.
type hclReport struct {
	raw      []byte
	kind     string // sev_snp, tdx
	hardware []byte // SEV-SNP report or TDREPORT
	runtime  []byte // JSON
	ak       *rsa.PublicKey
}

// readHCL reads the report of this machine.
func readHCL(device *tpmdevice.Device) (*hclReport, error) {
	raw, err := device.ReadNV(hclIndex)
	if err != nil {
		return nil, fmt.Errorf("read the HCL report: %w", err)
	}
	if raw == nil {
		return nil, errNoHCL
	}
	return parseHCL(raw)
}

func parseHCL(raw []byte) (*hclReport, error) {
	if len(raw) < hclRuntime || !bytes.HasPrefix(raw, []byte("HCLA")) {
		return nil, fmt.Errorf("the %d bytes in NV index 0x%08x are no HCL report", len(raw), hclIndex)
	}
	field := func(i int) uint32 { return binary.LittleEndian.Uint32(raw[hclDescription+4*i:]) }
	r := &hclReport{raw: raw}
	switch kind := field(2); kind {
	case hclTypeSNP:
		r.kind, r.hardware = client.SEVSNP, raw[hclHeader:hclHeader+snpReportSize]
	case hclTypeTDX:
		r.kind, r.hardware = client.TDX, raw[hclHeader:hclHeader+tdReportSize]
	default:
		return nil, fmt.Errorf("%w: its type is %d, SEV-SNP has %d and TDX %d", errNotConfidential, kind, hclTypeSNP, hclTypeTDX)
	}
	size := field(4)
	if uint64(size) > uint64(len(raw)-hclRuntime) {
		return nil, fmt.Errorf("the HCL report's runtime data has %d bytes, of which %d are there", size, len(raw)-hclRuntime)
	}
	r.runtime = raw[hclRuntime : hclRuntime+int(size)]
	var err error
	r.ak, err = hclAK(r.runtime)
	return r, err
}

// hclAK reads the vTPM's attestation key out of the runtime data.
func hclAK(runtime []byte) (*rsa.PublicKey, error) {
	var data struct {
		Keys []struct {
			ID       string `json:"kid"`
			Type     string `json:"kty"`
			Exponent string `json:"e"`
			Modulus  string `json:"n"`
		} `json:"keys"`
	}
	if err := json.Unmarshal(runtime, &data); err != nil {
		return nil, fmt.Errorf("the HCL report's runtime data: %w", err)
	}
	for _, k := range data.Keys {
		if k.ID != "HCLAkPub" {
			continue
		}
		n, err := base64.RawURLEncoding.DecodeString(k.Modulus)
		e, err2 := base64.RawURLEncoding.DecodeString(k.Exponent)
		if err = errors.Join(err, err2); err != nil {
			return nil, fmt.Errorf("the HCL report's HCLAkPub: %w", err)
		}
		if k.Type != "RSA" || len(n) < 256 || len(n) > 512 || len(e) == 0 || len(e) > 4 {
			return nil, fmt.Errorf("the HCL report's HCLAkPub is no RSA key of 2048 to 4096 bits: type %q, %d bytes", k.Type, len(n))
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
	}
	return nil, errors.New("the HCL report's runtime data names no HCLAkPub")
}

// content names what the report says: two reports with the same content differ in their signature only, which newer
// paravisors make again at each reading.
func (r *hclReport) content() string {
	body := r.hardware
	if r.kind == client.SEVSNP {
		body = body[:snpSignature]
	}
	sum := sha256.Sum256(slices.Concat([]byte(r.kind), body, r.runtime))
	return hex.EncodeToString(sum[:])
}

// chip names the endorsement key of a SEV-SNP report: the chip and its TCB.
func (r *hclReport) chip() string {
	sum := sha256.Sum256(slices.Concat(r.hardware[snpReportedTCB:snpReportedTCB+8], r.hardware[snpChipID:snpChipID+64]))
	return hex.EncodeToString(sum[:])
}

// tcb is the SEV-SNP report's TCB as the metadata service writes it.
func (r *hclReport) tcb() uint64 { return binary.LittleEndian.Uint64(r.hardware[snpReportedTCB:]) }
