package predict

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/assay-verifier/assay/verifier/eventlog"
)

// debianEarlyConfig is what Debian's signed GRUB carries on its memory disk (grub2, debian/build-efi-images; Debian 9
// to 13 and their derivatives). It stands in where the image is given by its hashes alone.
const debianEarlyConfig = `if [ -z "$prefix" -o ! -e "$prefix" ]; then
	if ! search --file --set=root /.disk/info; then
		search --file --set=root /.disk/mini-info
	fi
	set prefix=($root)/boot/grub
fi
if [ -e $prefix/x86_64-efi/grub.cfg ]; then
	source $prefix/x86_64-efi/grub.cfg
elif [ -e $prefix/grub.cfg ]; then
	source $prefix/grub.cfg
else
	source $cmdpath/grub.cfg
fi
`

// grub adds what GRUB measures: each command that it runs into PCR 8, each file that it reads into PCR 9 (GRUB manual,
// "Measured Boot"), and the kernel that shim verifies for it into PCR 4.
func (s *sequence) grub() error {
	prefix, early, ok := s.grubStart()
	if !ok {
		for _, pcr := range []int{8, 9} {
			s.leave(pcr, "the configuration in the GRUB image is not known: give the image itself, or its configuration")
		}
		s.leave(4, "which kernel GRUB loads is not known")
		return nil
	}
	s.out.assume("GRUB's boot partition is (%s), nobody uses its menu, and files that are not given do not exist", s.in.bootDevice())
	for _, name := range slices.Sorted(maps.Keys(s.in.Outcomes)) {
		s.out.assume("GRUB's command %s %s", name, map[bool]string{true: "succeeds", false: "fails"}[s.in.Outcomes[name]])
	}
	var initrds []*File
	run := newGRUBRun(s.in, s.variant.secureBoot, prefix, nil)
	run.emit = func(m grubMeasurement) {
		switch m.kind {
		case "command":
			s.text(8, "grub_cmd: ", m.text)
		case "cmdline":
			s.text(8, "kernel_cmdline: ", m.text)
		case "file":
			s.add(record{pcr: 9, kind: eventlog.EvIPL, digests: []Digests{m.file.Digests}, data: append([]byte(m.text), 0)})
		case "kernel":
			if initrds = nil; s.variant.kernelCount == 0 {
				return
			}
			// A kernel is verified each time that it is measured, and only then by another authority.
			s.authority(m.file, s.in.Shim != nil)
			for range s.variant.kernelCount {
				s.add(record{pcr: 4, kind: eventlog.EvEFIBootServicesApplication, digests: []Digests{m.file.Authenticode}, data: imageEvent(""),
					component: eventlog.ComponentKernel, key: "image:kernel",
					description: fmt.Sprintf("kernel image %s%s (Authenticode %s)", path.Base(m.text), m.file.describe("linux"), shownDigest(m.file.Authenticode))})
			}
		case "initrd":
			initrds = append(initrds, m.file)
		}
	}
	if err := run.boot("GRUB's own configuration", early); err != nil {
		return err
	}
	if run.open != "" {
		for _, pcr := range []int{4, 8, 9} {
			s.leave(pcr, "GRUB's configuration leaves it open: %s", run.open)
		}
		return nil
	}
	if s.in.Cmdline != nil {
		if _, args, _ := strings.Cut(run.cmdline, " "); args != *s.in.Cmdline {
			return errorf(CodeContradiction, run.file, "", "its kernel command line is %q, not %q", args, *s.in.Cmdline)
		}
	}
	if s.variant.loadFile2 {
		// GRUB counts no final zero (GRUB, grub-core/loader/efi/linux.c).
		s.stub("BOOT_IMAGE="+run.cmdline, utf16Bytes("BOOT_IMAGE="+run.cmdline), initrds)
	}
	return nil
}

// grubStart finds the configuration that GRUB starts with.
func (s *sequence) grubStart() (prefix, early string, ok bool) {
	facts := s.in.GRUB.GRUB
	if facts != nil {
		prefix = facts.Prefix
	}
	if s.in.EarlyConfig != nil {
		return prefix, *s.in.EarlyConfig, true
	}
	if facts != nil {
		if facts.EarlyConfig == nil {
			return "", "", false
		}
		return prefix, *facts.EarlyConfig, true
	}
	for name := range s.in.Files {
		if strings.EqualFold(name, "/EFI/debian/grub.cfg") {
			s.out.assume("the GRUB image, of which only hashes are given, is Debian's signed one, since there is /EFI/debian/grub.cfg: it carries Debian's own configuration")
			return "/EFI/debian", debianEarlyConfig, true
		}
	}
	return "", "", false
}

// text adds a text that GRUB hashes without its prefix.
func (s *sequence) text(pcr int, prefix, text string) {
	s.add(record{pcr: pcr, kind: eventlog.EvIPL, digests: []Digests{digestOf(s.in.Banks, []byte(text))}, data: append([]byte(prefix+text), 0)})
}

// The tags of what the kernel's EFI stub measures (Linux, drivers/firmware/efi/libstub/efistub.h).
const (
	tagInitrd      = 0x8F3B22EC
	tagLoadOptions = 0x8F3B22ED
)

func taggedEvent(tag uint32, text string) []byte {
	out := binary.LittleEndian.AppendUint32(nil, tag)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(text)+1)) // #nosec G115 -- a constant text
	return append(append(out, text...), 0)
}

// stub adds what the kernel's EFI stub measures into PCR 9: its command line and the initrd that the boot loader hands
// over; options is the command line as it is handed over, in UTF-16 (Linux, drivers/firmware/efi/libstub/efi-stub-helper.c, efi_measure_tagged_event).
func (s *sequence) stub(cmdline string, options []byte, initrds []*File) {
	s.add(record{pcr: 9, kind: eventlog.EvEventTag, digests: []Digests{digestOf(s.in.Banks, options)},
		data: taggedEvent(tagLoadOptions, "LOADED_IMAGE::LoadOptions"), description: "command line that the kernel's EFI stub was given: " + cmdline})
	s.out.assume("the kernel's EFI stub measures its command line and its initrd (Linux 6.0 or later)")
	if len(initrds) == 0 {
		return
	}
	digest, err := joined(s.in, initrds)
	if err != nil {
		s.leave(9, "the kernel's EFI stub measures all initrds as one: %v", err)
		return
	}
	s.add(record{pcr: 9, kind: eventlog.EvEventTag, digests: []Digests{digest}, data: taggedEvent(tagInitrd, "Linux initrd")})
}

// joined is the digest of the initrds as GRUB hands them over, each padded to four bytes before the next.
func joined(in *Input, initrds []*File) (Digests, error) {
	if len(initrds) == 1 {
		return initrds[0].Digests, nil
	}
	h := newHasher(in.Banks)
	for i, f := range initrds {
		if f.reader == nil {
			return nil, fmt.Errorf("%s is given by its hashes alone", f.Name)
		}
		if _, err := io.Copy(h, io.NewSectionReader(f.reader, 0, f.Size)); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		if pad := -f.Size & 3; pad > 0 && i < len(initrds)-1 {
			_, _ = h.Write(make([]byte, pad))
		}
	}
	return h.sum(), nil
}

// uki adds what systemd-stub and the kernel in it measure (systemd-stub(7), "TPM PCR Notes").
func (s *sequence) uki() {
	u := s.in.UKI.UKI
	if u == nil {
		for _, pcr := range []int{4, 9, 11, 12, 13} {
			s.leave(pcr, "what is in %s is not known: it is given by its hashes alone", path.Base(s.in.UKI.Name))
		}
		return
	}
	s.out.assume("no credentials, addons or system extensions lie beside the unified kernel image, and nothing overrides its command line")
	line := ""
	if u.Cmdline != nil {
		line = u.commandLine(s.variant.trimmed)
	}
	if s.in.SystemdBoot != nil && s.variant.passesOptions && line != "" {
		s.data(12, eventlog.EvIPL, append(utf16Bytes(line), 0, 0))
	}
	s.sections(u)
	if s.variant.innerKernel {
		s.add(record{pcr: 4, kind: eventlog.EvEFIBootServicesApplication, digests: []Digests{u.Kernel}, data: imageEvent(""),
			component: eventlog.ComponentKernel, key: noKey, description: "kernel in the unified kernel image (Authenticode " + shownDigest(u.Kernel) + ")"})
	}
	s.ukiStub(u, line)
}

// ukiStub adds what the kernel in a unified kernel image measures by its EFI stub.
func (s *sequence) ukiStub(u *UKI, line string) {
	if line != "" {
		s.stub(line, append(utf16Bytes(line), 0, 0), nil)
	}
	initrd, has := u.section(".initrd")
	version := majorVersion(u.Stub)
	added := version == 0 || version >= 257 // then its .osrel, and .profile
	for _, name := range []string{".pcrsig", ".pcrpkey", ".ucode"} {
		if _, found := u.section(name); found && (name != ".ucode" || version >= 256) {
			added = true
		}
	}
	switch {
	case added:
		s.leave(9, "the kernel's EFI stub measures its initrd with what systemd-stub %sadds to it, which is not followed", spaced(u.Stub))
	case has:
		s.add(record{pcr: 9, kind: eventlog.EvEventTag, digests: []Digests{initrd.Digests}, data: taggedEvent(tagInitrd, "Linux initrd")})
	}
}

func spaced(text string) string {
	if text == "" {
		return ""
	}
	return text + " "
}

// sections adds the sections in PCR 11: for each its name with a final zero, and its contents.
func (s *sequence) sections(u *UKI) {
	version := majorVersion(u.Stub)
	profiles := 0
	for _, have := range u.Sections {
		if hardwareSections[have.Name] {
			s.leave(11, "the section %s is chosen by the machine's hardware", have.Name)
		}
		if have.Name == ".profile" {
			profiles++
		}
	}
	if profiles > 1 {
		s.leave(11, "the image has %d profiles, one of which is chosen at boot", profiles)
	}
	if version > 0 && version < 252 {
		s.leave(11, "systemd-stub %s measures otherwise than those from 252 on", u.Stub)
	}
	for _, known := range measuredSections {
		if known.since == 254 && !s.variant.uname || known.since > 254 && version > 0 && version < known.since {
			continue
		}
		have, found := u.section(known.name)
		if !found {
			continue
		}
		if known.since > 254 && version == 0 {
			s.leave(11, "whether the stub measures %s depends on its version, which is not known", known.name)
		}
		logged := append(utf16Bytes(have.Name), 0, 0)
		s.add(record{pcr: 11, kind: eventlog.EvIPL, digests: []Digests{digestOf(s.in.Banks, append([]byte(have.Name), 0))}, data: logged})
		r := record{pcr: 11, kind: eventlog.EvIPL, digests: []Digests{have.Digests}, data: logged}
		if have.Name == ".cmdline" && u.Cmdline != nil {
			r.description = "unified kernel image section .cmdline: " + *u.Cmdline
		}
		s.add(r)
	}
}
