package predict

import (
	"regexp"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// UKI is what a unified kernel image holds (systemd-stub(7); UAPI.5).
type UKI struct {
	// Stub is the version of systemd-stub as it states it, for example "252.39-1~deb12u2".
	Stub string `json:"stub,omitempty"`
	// Sections are those of the image that a stub may measure, in the order of the image.
	Sections []UKISection `json:"sections"`
	Cmdline  *string      `json:"cmdline,omitempty"`
	// Kernel is the Authenticode hash of the kernel in .linux.
	Kernel Digests `json:"kernel_authenticode,omitempty"`
}

// UKISection is one section: its size in memory and the digests of its contents.
type UKISection struct {
	Name    string  `json:"name"`
	Size    int64   `json:"size"`
	Digests Digests `json:"digests"`
}

// measuredSections is the order in which systemd-stub measures (systemd, src/fundamental/uki.h: "canonical order"). since
// is the version from which a stub knows the section; where 253 stands, sources differ and both are computed.
var measuredSections = []struct {
	name  string
	since int
}{
	{".linux", 0}, {".osrel", 0}, {".cmdline", 0}, {".initrd", 0}, {".ucode", 256}, {".splash", 0}, {".dtb", 0},
	{".uname", 254}, {".sbat", 254}, {".pcrpkey", 0}, {".profile", 257}, {".hwids", 257},
}

// hardwareSections are chosen by the machine's hardware.
var hardwareSections = map[string]bool{".dtbauto": true, ".efifw": true}

var sdMagic = regexp.MustCompile(`^#### LoaderInfo: (systemd-(?:stub|boot)) ([^ ]+) ####`)

// systemdVersion is what a systemd-boot or systemd-stub image says it is.
func (p *image) systemdVersion() (what, version string, err error) {
	text, _, err := p.text(".sdmagic")
	if err != nil {
		return "", "", err
	}
	if m := sdMagic.FindStringSubmatch(text); m != nil {
		return m[1], m[2], nil
	}
	return "", "", nil
}

// readUKI reads the sections of a unified kernel image; nil if there is no kernel in it.
func (p *image) readUKI(algs []tpm.HashAlg) (*UKI, error) {
	linux, found := p.find(".linux")
	if !found {
		return nil, nil
	}
	u := &UKI{}
	var err error
	if _, u.Stub, err = p.systemdVersion(); err != nil {
		return nil, err
	}
	profile := false
	seen := map[string]bool{}
	for _, s := range p.sections {
		if !knownSection(s.name) {
			continue
		}
		if seen[s.name] && !profile {
			return nil, p.fail("section "+s.name, "it occurs twice, so that it is not known which one is used")
		}
		seen[s.name] = true
		profile = profile || s.name == ".profile"
		r, err := p.contents(s)
		if err != nil {
			return nil, err
		}
		digests, err := digestReader(algs, r)
		if err != nil {
			return nil, p.fail("section "+s.name, "cannot be read: %v", err)
		}
		u.Sections = append(u.Sections, UKISection{Name: s.name, Size: int64(s.virtualSize), Digests: digests})
	}
	text, found, err := p.text(".cmdline")
	if err != nil {
		return nil, err
	}
	if found {
		u.Cmdline = &text
	}
	size := min(int64(linux.rawSize), int64(linux.virtualSize))
	inner, err := parsePE(p.file+": section .linux", sectionAt{p.r, linux.offset, size}, size)
	if err != nil {
		return nil, err
	}
	u.Kernel, err = inner.authenticode(algs)
	return u, err
}

func knownSection(name string) bool {
	for _, s := range measuredSections {
		if s.name == name {
			return true
		}
	}
	return hardwareSections[name] || name == ".pcrsig" // which signs what the others measure, and is not measured
}

func (u *UKI) section(name string) (UKISection, bool) {
	for _, s := range u.Sections {
		if s.Name == name {
			return s, true
		}
	}
	return UKISection{}, false
}

// commandLine is .cmdline as the stub hands it to the kernel: control characters become spaces, and from version 254 on
// spaces at both ends go (systemd, src/boot/util.c, mangle_stub_cmdline).
func (u *UKI) commandLine(trim bool) string {
	text := strings.Map(func(r rune) rune {
		if r <= 0x1F {
			return ' '
		}
		return r
	}, *u.Cmdline)
	if trim {
		text = strings.Trim(text, " ")
	}
	return text
}

// majorVersion is the first number of a version, 0 if there is none.
func majorVersion(version string) int {
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		version = version[:end]
	}
	n, err := strconv.Atoi(version)
	if err != nil {
		return 0
	}
	return n
}
