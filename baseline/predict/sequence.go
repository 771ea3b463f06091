package predict

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"
	"strings"
	"unicode/utf16"

	"github.com/assay-verifier/assay/verifier/eventlog"
)

// variant is one way in which the given files may be measured, where that depends on something that is not known.
type variant struct {
	secureBoot    bool
	kernelCount   int  // how often GRUB has the kernel measured into PCR 4
	loadFile2     bool // GRUB hands the initrd to the kernel's EFI stub, which measures it
	innerKernel   bool // systemd-stub has firmware load, and so measure, the kernel in it
	uname         bool // systemd-stub measures .uname and .sbat
	trimmed       bool // systemd-stub trims the command line
	passesOptions bool // systemd-boot passes and measures the command line of a unified kernel image
}

// variants lists the ways that are possible (fail open to more of them where a version is not known).
func (in *Input) variants() []variant {
	list := []variant{{}}
	branch := func(set func(v *variant, choice int), choices ...int) {
		var next []variant
		for _, v := range list {
			for _, c := range choices {
				copied := v
				set(&copied, c)
				next = append(next, copied)
			}
		}
		list = next
	}
	switch in.SecureBoot {
	case On:
		branch(func(v *variant, _ int) { v.secureBoot = true }, 1)
	case Unknown:
		branch(func(v *variant, c int) { v.secureBoot = c == 1 }, 1, 0)
	}
	if in.GRUB != nil {
		in.grubVariants(branch, &list)
	}
	if u := in.UKI; u != nil && u.UKI != nil {
		branch(func(v *variant, c int) { v.uname = c == 1 }, since(majorVersion(u.UKI.Stub), 253, 254)...)
		branch(func(v *variant, c int) { v.innerKernel = c == 1 }, innerKernel(majorVersion(u.UKI.Stub))...)
		if u.UKI.Cmdline != nil && u.UKI.commandLine(true) != u.UKI.commandLine(false) {
			branch(func(v *variant, c int) { v.trimmed = c == 1 }, since(majorVersion(u.UKI.Stub), 253, 254)...)
		}
		if in.SystemdBoot != nil {
			choices := []int{1, 0}
			if v := majorVersion(in.SystemdBoot.SystemdBoot); v != 0 && v < 254 {
				choices = []int{1}
			}
			branch(func(v *variant, c int) { v.passesOptions = c == 1 }, choices...)
		}
	}
	return list
}

// since gives the choices of a property that versions from `after` on have and those before `unsure` lack.
func since(version, unsure, after int) []int {
	switch {
	case version >= after:
		return []int{1}
	case version > 0 && version < unsure:
		return []int{0}
	}
	return []int{0, 1}
}

// innerKernel tells how systemd-stub starts its kernel: up to 252 by itself, from 254 on with LoadImage, and since 258
// by itself again unless an old shim was involved (systemd, src/boot/linux.c).
func innerKernel(version int) []int {
	switch {
	case version > 0 && version < 253:
		return []int{0}
	case version >= 254 && version < 258:
		return []int{1}
	}
	return []int{0, 1}
}

// grubVersion is GRUB's upstream version, "" if it is not known.
func (in *Input) grubVersion() string {
	for _, line := range strings.Split(in.GRUB.SBAT, "\n") {
		if fields := strings.Split(line, ","); len(fields) > 4 && fields[0] == "grub" {
			return fields[4]
		}
	}
	return ""
}

// grubVariants: GRUB 2.06 has shim verify, and so measure, the kernel under Secure Boot only; with the patches of Debian
// and its kin ("linuxefi") twice. Later ones hand the initrd over by LoadFile2, and differ in how they start the kernel.
func (in *Input) grubVariants(branch func(func(*variant, int), ...int), list *[]variant) {
	version := in.grubVersion()
	old := strings.HasPrefix(version, "2.0") && version <= "2.06"
	set := func(v *variant, c int) { v.loadFile2 = c == 1 }
	switch {
	case old:
		branch(set, 0)
	case version != "":
		branch(set, 1)
	default:
		branch(set, 0, 1)
	}
	var next []variant
	for _, v := range *list {
		counts := []int{2, 1}
		switch {
		case old && !v.secureBoot:
			counts = []int{0}
		case old && in.GRUB.hasSBAT("grub.debian"):
			counts = []int{2}
		case !v.secureBoot:
			counts = []int{0, 1}
		}
		for _, c := range counts {
			v.kernelCount = c
			next = append(next, v)
		}
	}
	*list = next
}

// record is an event before it is decoded.
type record struct {
	pcr     int
	kind    eventlog.EventType
	digests []Digests // one of them
	data    []byte
	// What the log cannot tell.
	component        eventlog.Component
	key, description string
}

// sequence is what one way of booting measures.
type sequence struct {
	in      *Input
	variant variant
	out     *prediction
	records []record
	events  []Event
	// open tells of a PCR why not all of its events are known.
	open map[int]string

	authorities     [][]byte // that firmware has measured
	shimAuthorities [][]byte // that shim has
}

// leave notes why a PCR is not determined; the first reason stays.
func (s *sequence) leave(pcr int, format string, args ...any) {
	if s.open[pcr] == "" {
		s.open[pcr] = fmt.Sprintf(format, args...)
	}
}

func (s *sequence) add(r record) {
	for _, alg := range s.in.Banks {
		for _, d := range r.digests {
			if d[alg.String()] == "" {
				s.leave(r.pcr, "a digest of the bank %s is missing for: %s", alg, r.what())
				return
			}
		}
	}
	s.records = append(s.records, r)
}

func (r *record) what() string {
	if r.description != "" {
		return r.description
	}
	return strings.TrimRight(string(r.data), "\x00")
}

// data adds an event whose digest is that of its data.
func (s *sequence) data(pcr int, kind eventlog.EventType, data []byte) {
	s.add(record{pcr: pcr, kind: kind, digests: []Digests{digestOf(s.in.Banks, data)}, data: data})
}

// build follows the boot.
func (s *sequence) build() error {
	for pcr, why := range map[int]string{
		0:  "firmware measures itself and its settings: that depends on the machine, not on the files",
		1:  "firmware measures the machine's configuration and boot order",
		2:  "firmware measures the option ROMs of the machine's devices",
		3:  "firmware measures the configuration of option ROMs and drivers",
		5:  "firmware measures the partition table of the machine's disk, and boot managers their settings",
		6:  "it is the platform manufacturer's",
		10: "IMA in the running kernel measures what is run: that is judged by its own list",
	} {
		s.leave(pcr, "%s", why)
	}
	s.firmware()
	switch {
	case s.in.Shim != nil:
		s.image(s.in.Shim, s.in.BootPath, "boot loader", "shim", false)
		s.shim()
	case s.in.SystemdBoot != nil:
		s.image(s.in.SystemdBoot, s.in.BootPath, "boot loader", "systemd", false)
	case s.in.GRUB != nil:
		s.image(s.in.GRUB, s.in.BootPath, "boot loader", "grub", false)
	default:
		s.image(s.in.UKI, s.in.BootPath, "kernel", "systemd", false)
	}
	if s.in.Shim != nil && s.in.SystemdBoot != nil {
		s.image(s.in.SystemdBoot, s.in.grubPath(), "boot loader", "systemd", true)
	}
	if s.in.GRUB != nil {
		if s.in.Shim != nil {
			s.image(s.in.GRUB, s.in.grubPath(), "boot loader", "grub", true)
		}
		return s.grub()
	}
	if s.in.UKI != nil {
		if s.in.SystemdBoot != nil || s.in.Shim != nil {
			s.image(s.in.UKI, s.ukiPath(), "kernel", "systemd", s.in.Shim != nil)
		}
		s.uki()
		return nil
	}
	for _, pcr := range []int{4, 8, 9, 11, 12} {
		s.leave(pcr, "what %s starts is not given", s.first())
	}
	return nil
}

func (s *sequence) first() string {
	if s.in.SystemdBoot != nil {
		return "systemd-boot"
	}
	return "shim"
}

// ukiPath is where the boot loader finds the unified kernel image.
func (s *sequence) ukiPath() string {
	for p, f := range s.in.Files {
		if f == s.in.UKI {
			return p
		}
	}
	if s.in.SystemdBoot == nil {
		return s.in.grubPath() // shim's second stage
	}
	return "/EFI/Linux/" + path.Base(s.in.UKI.Name)
}

// image adds the measurement of an image into PCR 4, and what says in PCR 7 by which authority it may run.
func (s *sequence) image(f *File, at, what, component string, byShim bool) {
	s.authority(f, byShim)
	s.add(record{pcr: 4, kind: eventlog.EvEFIBootServicesApplication, digests: []Digests{f.Authenticode}, data: imageEvent(at),
		key: imageKey(at), description: fmt.Sprintf("%s image %s%s (Authenticode %s)", what, shownPath(f, at), f.describe(component), shownDigest(f.Authenticode))})
}

// shownPath writes a path as firmware does, so that it reads as the one in a log.
func shownPath(f *File, at string) string {
	if at == "" {
		return path.Base(f.Name)
	}
	return strings.ReplaceAll(at, "/", `\`)
}

// imageKey leaves the key to the decoder if there is a path, and else names none, so that a change pairs by component.
func imageKey(at string) string {
	if at == "" {
		return noKey
	}
	return ""
}

// noKey stands for an empty key that the decoder must not fill.
const noKey = "-"

func shownDigest(d Digests) string {
	for _, bank := range []string{"sha256", "sha384", "sha512", "sha1"} {
		if d[bank] != "" {
			return bank + " " + d[bank]
		}
	}
	return "unknown"
}

// imageEvent is a UEFI_IMAGE_LOAD_EVENT with a device path of one file (PFP 1.06, section 10.2.3). Where in memory the
// image lies is left out: no digest covers it.
func imageEvent(at string) []byte {
	var node []byte
	if at != "" {
		name := append(utf16Bytes(strings.ReplaceAll(at, "/", `\`)), 0, 0)
		node = append([]byte{4, 4}, binary.LittleEndian.AppendUint16(nil, uint16(4+len(name)))...) // #nosec G115 -- paths are short; the log is not measured
		node = append(append(node, name...), 0x7F, 0xFF, 4, 0)
	}
	out := make([]byte, 24, 32+len(node))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(node)))
	return append(out, node...)
}

func utf16Bytes(text string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(text)) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

// variableData is a UEFI_VARIABLE_DATA (PFP 1.06, section 10.2.6).
func variableData(vendor [16]byte, name string, value []byte) []byte {
	out := append([]byte{}, vendor[:]...)
	out = binary.LittleEndian.AppendUint64(out, uint64(len(name)))
	out = binary.LittleEndian.AppendUint64(out, uint64(len(value)))
	return append(append(out, utf16Bytes(name)...), value...)
}

func containsBytes(list [][]byte, b []byte) bool {
	for _, each := range list {
		if bytes.Equal(each, b) {
			return true
		}
	}
	return false
}
