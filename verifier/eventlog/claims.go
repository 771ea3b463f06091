package eventlog

import (
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"
)

// Claims is what proven events say of the boot. A field is set only from a PCR that replayed, and from
// data only where the digest covers it; nil means unknown, and is never to be read as false.
type Claims struct {
	// SecureBoot is the firmware's variable of that name, as it was measured before the separator of
	// PCR 7. Contradictory measurements are never true.
	SecureBoot   *bool `json:"secure_boot"`
	SetupMode    *bool `json:"setup_mode"`
	AuditMode    *bool `json:"audit_mode"`
	DeployedMode *bool `json:"deployed_mode"`
	// ShimValidationDisabled says whether shim was told not to validate signatures (MokSBState): then
	// Secure Boot is on and yet anything boots.
	ShimValidationDisabled *bool `json:"shim_validation_disabled"`
	// SecureBootEffective is SecureBoot and not ShimValidationDisabled.
	SecureBootEffective *bool `json:"secure_boot_effective"`
	// FirmwareDebugger says that firmware measured a debugger ("UEFI Debug Mode" in PCR 7).
	FirmwareDebugger *bool `json:"firmware_debugger"`
	// DMAProtectionDisabled says that firmware measured its protection against DMA to be off ("DMA Protection
	// Disabled" in PCR 7). It is true or nil: firmware that does not know of the protection measures nothing either.
	DMAProtectionDisabled *bool `json:"dma_protection_disabled"`

	PK  *SignatureDatabase `json:"pk"`
	KEK *SignatureDatabase `json:"kek"`
	DB  *SignatureDatabase `json:"db"`
	DBX *SignatureDatabase `json:"dbx"`
	// BootAuthorities are what verified the images that were booted, each once, in order.
	BootAuthorities []Authority `json:"boot_authorities"`

	// BootLoaders are the images in PCR 4; of a TDX guest all that RTMR 1 holds beside what explains itself. Their
	// digests are proven, their paths are not.
	BootLoaders   []Image `json:"boot_loaders"`
	ShimSBATLevel *string `json:"shim_sbat_level"`
	// MOKList are the digests of what shim measured of the machine owner's keys (PCR 14).
	MOKList []NamedDigest `json:"mok_list"`
	Kernel  *NamedDigest  `json:"kernel"`
	Initrd  []NamedDigest `json:"initrd"`
	// KernelCmdline is the command line as the kernel shows it in /proc/cmdline. Where the log does not tell which of
	// several was the kernel's, it is nil, and KernelCmdlineCandidates has those that were measured: whoever can extend a
	// PCR later can add one, but take none away.
	KernelCmdline           *string  `json:"kernel_cmdline"`
	KernelCmdlineCandidates []string `json:"kernel_cmdline_candidates,omitempty"`
	// UKI says whether systemd-stub booted a unified kernel image.
	UKI          *bool         `json:"uki"`
	UKISections  []NamedDigest `json:"uki_sections"`
	GRUBCommands []string      `json:"grub_commands"`

	BootOrder       []string         `json:"boot_order"`
	BootEntries     []BootEntry      `json:"boot_entries"`
	GPT             []PartitionTable `json:"gpt"`
	OptionROMs      []Image          `json:"option_roms"`
	Drivers         []Image          `json:"drivers"`
	FirmwareVersion *string          `json:"firmware_version"`
	Windows         *Windows         `json:"windows"`
}

// SignatureDatabase is PK, KEK, db or dbx.
type SignatureDatabase struct {
	Certificates []Certificate `json:"certificates"`
	// CertificatesOmitted is the number of certificates beyond those listed.
	CertificatesOmitted int `json:"certificates_omitted,omitempty"`
	HashCount           int `json:"hash_count"`
	// Digests are the proven digests of the whole variable, hex by bank.
	Digests map[string]string `json:"digests"`

	value []byte
}

// Hashes calls visit with each entry that is no certificate: its kind ("sha256", "x509_sha256", …,
// empty if unknown), its owner's GUID of 16 bytes, and its data. The slices must not be changed.
func (s *SignatureDatabase) Hashes(visit func(kind string, owner, data []byte)) {
	_ = walkSignatures(s.value, func(kind string, owner, data []byte) {
		if kind != "x509" {
			visit(kind, owner, data)
		}
	})
}

// Image is an image that firmware or a boot loader started.
type Image struct {
	Digests map[string]string `json:"digests"` // Authenticode, hex by bank; proven
	Path    string            `json:"path,omitempty"`
	File    string            `json:"file,omitempty"`
}

// NamedDigest is something whose digest is proven while its name is what the log says.
type NamedDigest struct {
	Name    string            `json:"name"`
	Digests map[string]string `json:"digests"` // hex by bank
}

// BootEntry is a Boot#### variable. Its description and path are proven, its number is not.
type BootEntry struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Path        string `json:"path,omitempty"`
	Active      bool   `json:"active"`
}

// The most entries of each list of the claims.
const (
	maxCertificates = 64
	maxImages       = 128
	maxAuthorities  = 32
	maxNamed        = 64
	maxCommands     = 512
	maxTables       = 8
)

// Claims draws the claims, once; they are shared and must not be changed. They are never nil.
func (m *Measurements) Claims() *Claims {
	if m.view == nil {
		return &Claims{}
	}
	m.view.claimsOnce.Do(func() {
		r := claimsReader{verified: m.Verified, registers: m.view.key.registers, claims: &Claims{}}
		r.read(m.view.events)
		m.view.claims = r.claims
	})
	return m.view.claims
}

// ClaimsJSON is the JSON form of Claims, made once for each set of proven PCRs: thousands of machines booted
// the same log, and marshalling it would be the dearest step of their appraisals. It must not be changed.
func (m *Measurements) ClaimsJSON() ([]byte, error) {
	if m.view == nil {
		return json.Marshal(m.Claims())
	}
	m.view.jsonOnce.Do(func() { m.view.json, m.view.jsonErr = json.Marshal(m.Claims()) })
	return m.view.json, m.view.jsonErr
}

// claimsReader draws claims from proven events.
type claimsReader struct {
	claims    *Claims
	verified  func(pcr int) bool
	registers bool // the events are of RTMRs

	secure  secureBootReader
	windows windowsReader
	command commandLineReader
	// wbcl tells that the separator of Windows' measurements was passed, partial that something before it was not covered.
	wbcl, partial [24]bool
}

func (r *claimsReader) read(events []Event) {
	if r.registers {
		r.readRegisters(events)
		return
	}
	r.windows.modules = map[string]int{}
	for i := range events {
		e := &events[i]
		switch e.PCR {
		case 0:
			r.firmware(e)
		case 1, 5:
			r.platform(e)
		case 2:
			r.driver(e)
		case 4:
			r.bootLoader(e)
		case 7:
			r.secure.read(r.claims, e)
		case 8, 9:
			r.command.read(r.claims, e)
		case 11, 12, 13, 14:
			r.late(e)
		}
	}
	if r.verified(7) {
		r.secure.finish(r.claims, r.verified(14))
	}
	r.command.finish(r.claims)
	if r.verified(11) {
		uki := len(r.claims.UKISections) > 0
		r.claims.UKI = &uki
	}
	if r.windows.seen {
		r.claims.Windows = &r.windows.claims
		r.windows.claims.Complete = r.wbcl[12] && r.wbcl[13] && !r.partial[12] && !r.partial[13]
	}
}

func (r *claimsReader) firmware(e *Event) {
	if e.Type == EvSCRTMVersion && e.Covered && r.claims.FirmwareVersion == nil {
		s := text(e.Data)
		if s == "" && len(e.Data) == 16 && nonZero(e.Data) {
			s = guid(e.Data)
		}
		if s = strings.TrimSpace(s); s != "" {
			r.claims.FirmwareVersion = &s
		}
	}
}

// platform reads boot options and partition tables.
func (r *claimsReader) platform(e *Event) {
	if !e.Covered {
		return
	}
	c := r.claims
	if isGPT(e.Data) {
		if t, ok := parseGPT(e.Data); ok && len(c.GPT) < maxTables {
			c.GPT = append(c.GPT, t)
		}
		return
	}
	v, ok := parseVariable(e.Data)
	if !ok || v.vendor != guidGlobal {
		return
	}
	name := utf16String(v.name)
	switch {
	case name == "BootOrder":
		c.BootOrder = bootOrder(v.value)
	case bootVariable(name) && name != "BootNext" && len(c.BootEntries) < maxBootOptions:
		if o, ok := parseLoadOption(v.value); ok {
			c.BootEntries = append(c.BootEntries, BootEntry{Name: name, Description: o.description, Path: devicePath(o.path), Active: o.active})
		}
	}
}

// notImage tells whether the event's data explains the digest: then it is no image.
func notImage(e *Event) bool { return e.Covered || e.Component == ComponentSeparator }

func (r *claimsReader) driver(e *Event) {
	if notImage(e) {
		return
	}
	list := &r.claims.Drivers
	if e.Component == ComponentOptionROM {
		list = &r.claims.OptionROMs
	}
	if len(*list) < maxImages {
		*list = append(*list, imageOf(e))
	}
}

func (r *claimsReader) bootLoader(e *Event) {
	if notImage(e) || len(r.claims.BootLoaders) == maxImages {
		return
	}
	r.claims.BootLoaders = append(r.claims.BootLoaders, imageOf(e))
}

func imageOf(e *Event) Image {
	i, _ := parseImage(e.Data)
	return Image{Digests: hexDigests(e.Digests), Path: devicePath(i.path), File: baseName(filePath(i.path))}
}

func hexDigests(digests []Digest) map[string]string {
	out := make(map[string]string, len(digests))
	for _, d := range digests {
		out[d.Alg.String()] = hex.EncodeToString(d.Bytes)
	}
	return out
}

// late reads what runs after the boot loader: unified kernel images, shim's keys and Windows.
func (r *claimsReader) late(e *Event) {
	if e.PCR >= 12 && separatorWBCL.is(e.Digests) {
		r.wbcl[e.PCR] = true
		return
	}
	r.partial[e.PCR] = r.partial[e.PCR] || !r.wbcl[e.PCR] && !(e.Covered && isSIPA(e.Data))
	switch {
	case e.Covered && isSIPA(e.Data) && !r.wbcl[e.PCR]:
		r.windows.read(e.Data)
	case e.PCR == 11:
		r.section(e)
	case e.PCR == 12:
		r.command.read(r.claims, e)
	case e.PCR == 14:
		r.secure.shimState(e)
		if len(r.claims.MOKList) < maxNamed && isText(e.Data) && !e.Covered {
			r.claims.MOKList = append(r.claims.MOKList, NamedDigest{printable(string(e.Data)), hexDigests(e.Digests)})
		}
	}
}

// section pairs the proven name of a UKI section with the digest that was measured right after it.
func (r *claimsReader) section(e *Event) {
	c := r.claims
	if name, ok := sectionName(e); ok {
		if len(c.UKISections) < maxNamed {
			c.UKISections = append(c.UKISections, NamedDigest{Name: printable(name)})
		}
		return
	}
	if n := len(c.UKISections); n > 0 && c.UKISections[n-1].Digests == nil {
		c.UKISections[n-1].Digests = hexDigests(e.Digests)
		switch c.UKISections[n-1].Name {
		case ".linux":
			kernel := c.UKISections[n-1]
			c.Kernel = &kernel
		case ".initrd":
			c.Initrd = append(c.Initrd, c.UKISections[n-1])
		case ".cmdline":
			r.command.sections = append(r.command.sections, e.Digests)
		}
	}
}

// newDatabase reads the value of a signature database; nil if it is none.
func newDatabase(e *Event, value []byte) *SignatureDatabase {
	s := &SignatureDatabase{Digests: hexDigests(e.Digests), value: value, Certificates: []Certificate{}}
	err := walkSignatures(value, func(kind string, _, data []byte) {
		switch {
		case kind != "x509":
			s.HashCount++
		case len(s.Certificates) == maxCertificates:
			s.CertificatesOmitted++
		default:
			s.Certificates = append(s.Certificates, parseCertificate(data))
		}
	})
	if err != nil {
		return nil
	}
	return s
}

// Expired tells whether a certificate's date has passed at a time. Firmware does not look at it.
func (c *Certificate) Expired(at time.Time) bool { return c.NotAfter != nil && at.After(*c.NotAfter) }
