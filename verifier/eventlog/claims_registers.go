package eventlog

// readRegisters draws the claims of a TDX guest from its RTMRs. They are fewer than those of a TPM's log, since a
// register holds what a TPM keeps apart (see registers.go). Drawn is:
//
//   - Secure Boot, its modes and keys: firmware measures them before the first separator of RTMR 0, where nothing
//     else has their structure, and SecureBoot is recognised by digest; also that shim was told not to validate;
//   - what RTMR 1 holds, as boot loaders: nothing but what explains itself is left out of the list;
//   - boot options and partition tables in their strict form;
//   - kernel, initrd, sections and machine owner keys: proven digests under the names that the log gives them.
//
// Not drawn, and so unknown, is what the log could forge or hide for whoever chooses what is measured:
//
//   - the kernel's command line and GRUB's commands: GRUB extends the same register with the hash of a command and
//     with that of a file, so that a file can pass for a command and a command for a file;
//   - whether it is a unified kernel image: a file can hold the name of a section;
//   - boot authorities, shim's SBAT level, and that shim does validate: a boot option or a blob of the hypervisor
//     can hold the structure of a variable; a shim before 15.7 measures nothing into an RTMR; and RTMR 0 can be
//     extended by whoever runs later;
//   - option ROMs and drivers (only the type tells them from boot loaders), firmware's version, Windows' state.
func (r *claimsReader) readRegisters(events []Event) {
	r.secure.mixed = true
	for i := range events {
		e := &events[i]
		switch e.PCR {
		case 0:
			r.secure.read(r.claims, e)
			if e.MachineSpecific {
				r.platform(e)
			}
		case 1:
			r.bootRegister(e)
		case 2:
			r.kernelRegister(e)
		}
	}
	if r.verified(0) {
		r.secure.finish(r.claims, false)
	}
}

// bootRegister reads RTMR 1. What is no image by its own structure is known by digest, so that no image can be
// called otherwise: not even one that is logged with all of its bytes.
func (r *claimsReader) bootRegister(e *Event) {
	switch {
	case e.MachineSpecific:
		r.platform(e)
		return
	case FixedText(e), e.Covered && e.Component == ComponentBootOrder:
		return
	}
	if len(r.claims.BootLoaders) < maxImages {
		r.claims.BootLoaders = append(r.claims.BootLoaders, imageOf(e))
	}
}

// kernelRegister reads RTMR 2: digests under the names that the log gives them.
func (r *claimsReader) kernelRegister(e *Event) {
	c := r.claims
	if _, ok := sectionName(e); ok || len(c.UKISections) > 0 && c.UKISections[len(c.UKISections)-1].Digests == nil {
		r.section(e)
		return
	}
	if g, ok := parseGRUB(e.Data); ok && e.Covered {
		r.command.decoder.command(g.line) // names kernel and initrd
		return
	}
	if tag, _, ok := parseTag(e.Data); ok && tag == tagInitrd {
		r.command.initrd(c, "initrd of the EFI stub", e)
		return
	}
	name := fileName(e.Data)
	if name == "" || e.Covered {
		return
	}
	if _, ok := shimState(name); ok {
		if len(c.MOKList) < maxNamed {
			c.MOKList = append(c.MOKList, NamedDigest{name, hexDigests(e.Digests)})
		}
		return
	}
	switch m := r.command.decoder.grubFile(name); m.component {
	case ComponentKernel:
		c.Kernel = &NamedDigest{name, hexDigests(e.Digests)}
	case ComponentInitrd:
		r.command.initrd(c, name, e)
	}
}
