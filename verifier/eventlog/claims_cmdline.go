package eventlog

import (
	"bytes"
	"strings"
)

// commandLineReader finds kernel, initrd and command line of a Linux boot.
type commandLineReader struct {
	linux   *string  // what GRUB's last command "linux" named: kernel and its command line
	grub    *string  // the command line that GRUB measured for it
	systemd *string  // the last command line that systemd-boot or systemd-stub measured
	options []Digest // what the kernel's EFI stub was given
	section []Digest // the .cmdline section of a unified kernel image
	decoder decoder  // remembers GRUB's commands, to tell kernel and initrd
}

// read takes an event of PCR 8, 9 or 12.
func (r *commandLineReader) read(c *Claims, e *Event) {
	if e.PCR == 8 && e.Covered {
		if g, ok := parseGRUB(e.Data); ok {
			r.grubLine(c, g)
			return
		}
	}
	if e.PCR != 9 {
		if s, ok := utf16Text(e.Data); ok && e.Covered {
			r.systemd = &s
		}
		return
	}
	if tag, _, ok := parseTag(e.Data); ok && tag == tagLoadOptions {
		r.options = e.Digests
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
		r.linux, r.grub = &args, nil
	} else if r.linux != nil && unquoted(string(g.line)) == unquoted(*r.linux) {
		line := "BOOT_IMAGE=" + string(g.line) // GRUB hashes the line without it (loader/i386/linux.c)
		r.grub = &line
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

// finish decides the command line. What systemd measured may not be what the kernel was given, since a
// signed unified kernel image ignores it under Secure Boot: it counts only if the EFI stub's digest, or
// else the image's own .cmdline, says the same, or if neither was measured.
func (r *commandLineReader) finish(c *Claims) {
	switch {
	case r.grub != nil:
		c.KernelCmdline = r.grub
	case r.systemd == nil:
	case r.options != nil:
		units := utf16Bytes(*r.systemd)
		if coversAny(r.options, append(units, 0, 0), units) {
			c.KernelCmdline = r.systemd
		}
	case r.section != nil:
		line := []byte(*r.systemd)
		if coversAny(r.section, line, append(line, 0), append(line, '\n')) {
			c.KernelCmdline = r.systemd
		}
	default:
		c.KernelCmdline = r.systemd
	}
}
