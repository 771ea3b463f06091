package keylime

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"regexp"
	"strings"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/jsondoc"
	"github.com/assay-verifier/assay/verifier"
)

// pemOf reads the DER of a public key in base64, or PEM.
func pemOf(r *jsondoc.Reader) string {
	text := r.Text()
	if strings.Contains(text, "-----BEGIN") || r.Err() != nil {
		return text
	}
	der, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		r.Fail(baseline.ImportMalformed, "it is not base64")
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

type stateReader struct {
	*jsondoc.Reader
	out        *baseline.Imported
	events     map[string]bool // PCR and digests, each once
	cmdlines   []string
	secureBoot bool
	vmlinuz    []string // hex, for machines without Secure Boot
	unjudged   map[string]bool
	given      map[string]bool
	hasMOK     bool
}

func refState(b []byte) (*baseline.Imported, error) {
	s := &stateReader{Reader: jsondoc.New(b, ""), events: map[string]bool{}, secureBoot: true, unjudged: map[string]bool{}, given: map[string]bool{}}
	s.out = &baseline.Imported{Format: FormatRefState, Values: verifier.ReferenceValues{Claims: map[string]json.RawMessage{}}}
	s.Object(s.member)
	s.End()
	if s.Err() == nil && !s.given["kernels"] && !s.given["scrtm_and_bios"] {
		s.FailAt(baseline.ImportNothingFound, "", "it is neither a runtime policy (digests) nor a measured boot reference state (kernels, scrtm_and_bios)")
	}
	if s.Err() != nil {
		return nil, s.Err()
	}
	s.finish()
	return s.out, baseline.CheckValues(s.out.Values, func(string) string { return "" })
}

func (s *stateReader) member(name string) {
	s.given[name] = true
	switch name {
	case "scrtm_and_bios":
		s.Array(func() { s.Object(s.firmware) })
	case "kernels":
		s.Array(func() { s.Object(s.kernel) })
	case "mokdig":
		s.mok("MokList")
	case "mokxdig":
		s.mok("MokListX")
	case "pk", "kek", "db", "dbx", "vendor_db":
		s.signatures(name)
	case "has_secureboot":
		s.secureBoot = s.Bool()
	default:
		s.Unknown()
	}
}

func (s *stateReader) firmware(name string) {
	switch name {
	case "scrtm":
		s.event(0, "EV_S_CRTM_VERSION", "firmware version", s.digestMap())
	case "platform_firmware":
		s.Array(func() { s.event(0, "EV_EFI_PLATFORM_FIRMWARE_BLOB", "platform firmware", s.digestMap()) })
	default:
		s.Unknown()
	}
}

// kernelImages are what the firmware and shim measure into PCR 4.
var kernelImages = map[string]string{
	"shim_authcode_sha256":   "shim",
	"grub_authcode_sha256":   "GRUB",
	"kernel_authcode_sha256": "kernel",
}

func (s *stateReader) kernel(name string) {
	if image := kernelImages[name]; image != "" {
		s.event(4, "EV_EFI_BOOT_SERVICES_APPLICATION", image, map[string][]string{"sha256": {s.hex(sha256.Size)}})
		return
	}
	switch name {
	case "kernel_cmdline":
		text := s.Text()
		if _, err := regexp.Compile(text); err != nil && s.Err() == nil {
			s.Fail(baseline.ImportUnsupported, "this pattern of Python is none of RE2: %s", strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		}
		s.cmdlines = append(s.cmdlines, "(?:"+text+")")
	case "vmlinuz_plain_sha256":
		s.vmlinuz = append(s.vmlinuz, s.hex(sha256.Size))
	case "initrd_plain_sha256":
		s.hex(sha256.Size)
		s.unjudged["initrd_plain_sha256"] = true
	default:
		s.Unknown()
	}
}

// mok reads digests of a list of machine owner keys, which shim measures into PCR 14.
func (s *stateReader) mok(variable string) {
	s.Array(func() {
		s.hasMOK = true
		s.event(14, "EV_IPL", variable, s.digestMap())
	})
}

// signatures reads keys or hashes of a Secure Boot variable. They are checked and not judged.
func (s *stateReader) signatures(name string) {
	s.Array(func() {
		s.unjudged[name] = true
		s.Object(func(field string) {
			switch field {
			case "SignatureOwner":
				_ = s.Text()
			case "SignatureData":
				s.hex(0)
			default:
				s.Unknown()
			}
		})
	})
}

func (s *stateReader) digestMap() map[string][]string {
	out := map[string][]string{}
	s.Object(func(alg string) {
		size := map[string]int{"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}[alg]
		if size == 0 {
			s.Fail(baseline.ImportUnsupported, "there is no PCR bank of this algorithm")
			return
		}
		out[alg] = []string{s.hex(size)}
	})
	if len(out) == 0 {
		s.Fail(baseline.ImportMalformed, "a digest is needed")
	}
	return out
}

// hex reads "0x" and hex of a size in bytes (0: any).
func (s *stateReader) hex(size int) string {
	text, ok := strings.CutPrefix(s.Text(), "0x")
	b, err := hex.DecodeString(text)
	if s.Err() == nil && (!ok || err != nil || size != 0 && len(b) != size) {
		s.Fail(baseline.ImportMalformed, "0x and %s are needed", hexDigits(size))
	}
	return strings.ToLower(text)
}

func hexDigits(size int) string {
	if size == 0 {
		return "hex digits"
	}
	return fmt.Sprintf("%d hex digits", 2*size)
}

func (s *stateReader) event(pcr int, typ, description string, digests map[string][]string) {
	if s.Err() != nil {
		return
	}
	id := fmt.Sprint(pcr, digests)
	if s.events[id] {
		return
	}
	s.events[id] = true
	s.out.Values.Events = append(s.out.Values.Events, verifier.ReferenceEvent{PCR: pcr, Type: typ, Description: description, Digests: digests})
}

// mokListTrusted are the two values that shim can measure of MokListTrusted; Keylime accepts either.
var mokListTrusted = [][]byte{{0}, {1}}

func (s *stateReader) finish() {
	claims := s.out.Values.Claims
	claims["secure_boot"] = json.RawMessage(fmt.Sprint(s.secureBoot))
	if len(s.cmdlines) > 0 {
		claims["kernel_cmdline"] = quote(map[string]string{"pattern": strings.Join(s.cmdlines, "|")})
	}
	if s.hasMOK {
		for _, value := range mokListTrusted {
			sum := sha256.Sum256(value)
			s.event(14, "EV_IPL", "MokListTrusted", map[string][]string{"sha256": {hex.EncodeToString(sum[:])}})
		}
	}
	note := func(format string, args ...any) { s.out.Notes = append(s.out.Notes, fmt.Sprintf(format, args...)) }
	if len(s.vmlinuz) > 0 && !s.secureBoot {
		note("vmlinuz_plain_sha256 is not judged: PCR 9 holds all that GRUB reads, and the document names only the kernel and the initrd")
	}
	if s.unjudged["initrd_plain_sha256"] {
		note("initrd_plain_sha256 is not judged: PCR 9 holds all that GRUB reads, and the document names only the kernel and the initrd; name PCR 9 in a captured or predicted baseline")
	}
	var variables []string
	for _, name := range []string{"pk", "kek", "db", "dbx", "vendor_db"} {
		if s.unjudged[name] {
			variables = append(variables, name)
		}
	}
	if len(variables) > 0 {
		note("%s are not judged: the document lists keys and hashes, and not the variables as the firmware measures them into PCR 7", strings.Join(variables, ", "))
	}
	if len(s.given) > 0 {
		note("firmware, boot loaders and kernels are each judged alone: that they belong to one another in the document is not")
	}
}

func quote(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil { // strings alone: cannot happen
		return json.RawMessage("null")
	}
	return b
}
