package eventlog

import (
	"bytes"
)

// commandLineReader finds kernel, initrd and command line of a Linux boot.
type commandLineReader struct {
	grub    *string  // the last "kernel_cmdline" of GRUB
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

func (r *commandLineReader) grubLine(c *Claims, g grubText) {
	if g.kernelCmdline {
		line := "BOOT_IMAGE=" + string(g.line) // GRUB hashes the line without it (loader/i386/linux.c)
		r.grub = &line
		return
	}
	r.decoder.command(g.line)
	if len(c.GRUBCommands) < maxCommands {
		c.GRUBCommands = append(c.GRUBCommands, printable(string(g.line[:min(len(g.line), maxText+1)])))
	}
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
