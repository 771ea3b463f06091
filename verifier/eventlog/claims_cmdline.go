package eventlog

import (
	"bytes"
	"slices"
	"strings"
)

// commandLineReader finds kernel, initrd and command line of a Linux boot.
type commandLineReader struct {
	linux    *string    // what GRUB's last command "linux" named: kernel and its command line
	followed bool       // its command line was measured after it
	grub     []string   // the command lines that GRUB measured for a command "linux", each once
	hidden   bool       // PCR 8 holds something that no data explains, where GRUB's text should stand
	systemd  []string   // what systemd-boot or systemd-stub measured, each once, in order
	options  [][]Digest // what the kernel's EFI stub was given
	sections [][]Digest // the .cmdline sections of a unified kernel image
	decoder  decoder    // remembers GRUB's commands, to tell kernel and initrd
}

// maxCandidates bounds the command lines that are kept; a boot has one.
const maxCandidates = 8

// read takes an event of PCR 8, 9 or 12.
func (r *commandLineReader) read(c *Claims, e *Event) {
	if e.PCR == 8 && e.Covered {
		if g, ok := parseGRUB(e.Data); ok {
			r.grubLine(c, g)
			return
		}
	}
	if e.PCR != 9 {
		r.hidden = r.hidden || e.PCR == 8 && !e.Covered
		if s, ok := utf16Text(e.Data); ok && e.Covered {
			r.systemd = once(r.systemd, s)
		}
		return
	}
	if tag, _, ok := parseTag(e.Data); ok && tag == tagLoadOptions {
		r.options = append(r.options, e.Digests)
		return
	} else if ok && tag == tagInitrd {
		r.initrd(c, "initrd of the EFI stub", e)
		return
	}
	if !isText(e.Data) {
		return
	}
	name := printable(string(bytes.TrimRight(e.Data, "\x00")))
	switch m := r.decoder.grubFile(name); m.component {
	case ComponentKernel:
		c.Kernel = &NamedDigest{name, hexDigests(e.Digests)}
	case ComponentInitrd:
		r.initrd(c, name, e)
	}
}

// grubLine takes a line of PCR 8. GRUB hashes it without its prefix, so that nothing proves whether it
// was a command or a command line: the kernel's line is the one that follows the last command "linux"
// and repeats its arguments, whatever either is labelled.
func (r *commandLineReader) grubLine(c *Claims, g grubText) {
	if args, ok := linuxArguments(string(g.line)); ok {
		r.linux, r.followed = &args, false
	} else if r.linux != nil && unquoted(string(g.line)) == unquoted(*r.linux) {
		r.followed = true
		r.grub = once(r.grub, "BOOT_IMAGE="+string(g.line)) // GRUB hashes the line without it (loader/i386/linux.c)
	}
	if g.kernelCmdline {
		return
	}
	r.decoder.command(g.line)
	if len(c.GRUBCommands) < maxCommands {
		c.GRUBCommands = append(c.GRUBCommands, printable(string(g.line[:min(len(g.line), maxText+1)])))
	}
}

// linuxArguments is what follows one of GRUB's commands that load a Linux kernel.
func linuxArguments(line string) (args string, ok bool) {
	command, args, found := strings.Cut(line, " ")
	switch command {
	case "linux", "linuxefi", "linux16":
		return args, found
	}
	return "", false
}

// unquoted drops what GRUB's parser and loader quote differently.
func unquoted(s string) string {
	return strings.NewReplacer(`"`, "", `'`, "", `\`, "").Replace(s)
}

func (r *commandLineReader) initrd(c *Claims, name string, e *Event) {
	if len(c.Initrd) < maxNamed {
		c.Initrd = append(c.Initrd, NamedDigest{name, hexDigests(e.Digests)})
	}
}

// finish decides the command line.
func (r *commandLineReader) finish(c *Claims) {
	lines, sure := r.lines()
	if sure && len(lines) == 1 {
		c.KernelCmdline = &lines[0]
		return
	}
	c.KernelCmdlineCandidates = lines
}

// lines are the command lines that the kernel may have been given, and whether nothing speaks against them. No
// separator ends what boot loaders measure, and what says which line was used can be extended later as well: so with two
// lines, neither is it for sure.
func (r *commandLineReader) lines() (lines []string, sure bool) {
	if len(r.grub) == 0 {
		return r.ofSystemd()
	}
	// What systemd's loaders measure has no place in a boot by GRUB, so that one of the two was added.
	lines = slices.Clone(r.grub)
	for _, s := range r.systemd {
		lines = once(lines, s)
	}
	return lines, r.followed && !r.hidden
}

// ofSystemd are the lines of systemd-boot and systemd-stub. What they measured may not be what the kernel was given, since a
// signed unified kernel image ignores it under Secure Boot: it counts only if the EFI stub's digest, or else the image's
// own .cmdline, says the same, or if neither was measured. The lines of addons (systemd-stub(7)) are measured one by one
// and given joined.
func (r *commandLineReader) ofSystemd() (lines []string, sure bool) {
	switch {
	case len(r.systemd) == 0:
		return nil, false
	case r.options != nil:
		return r.matching(r.options, func(s string) [][]byte {
			units := utf16Bytes(s)
			return [][]byte{units, append(units[:len(units):len(units)], 0, 0)}
		})
	case r.sections != nil:
		return r.matching(r.sections, func(s string) [][]byte {
			return [][]byte{[]byte(s), []byte(s + "\x00"), []byte(s + "\n")}
		})
	}
	return r.systemd, true
}

// matching are systemd's lines if one of the digests is of one of them, or of all joined, which then is a line too; and
// whether each digest is of one.
func (r *commandLineReader) matching(digests [][]Digest, forms func(string) [][]byte) (lines []string, sure bool) {
	lines, sure = slices.Clone(r.systemd), true
	joined, given := strings.Join(r.systemd, " "), false
	for _, d := range digests {
		found := slices.ContainsFunc(r.systemd, func(s string) bool { return coversAny(d, forms(s)...) })
		if !found && coversAny(d, forms(joined)...) {
			lines, found = once(lines, joined), true
		}
		given, sure = given || found, sure && found
	}
	if !given {
		return nil, false
	}
	return lines, sure
}

// once adds a line that is not there yet.
func once(lines []string, line string) []string {
	if len(lines) == maxCandidates || slices.Contains(lines, line) {
		return lines
	}
	return append(lines, line)
}
