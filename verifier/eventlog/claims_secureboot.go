package eventlog

import "bytes"

// What decides Secure Boot is recognised by digest, so that nothing that is changed in the log can
// hide it: the value of SecureBoot, and shim's switch.
var (
	secureBootOn    = newConstant(variableData(guidGlobal, "SecureBoot", []byte{1}))
	secureBootOff   = newConstant(variableData(guidGlobal, "SecureBoot", []byte{0}))
	secureBootNone  = newConstant(variableData(guidGlobal, "SecureBoot", nil)) // firmware without Secure Boot
	mokSBDisabled   = newConstant(variableData(guidShim, "MokSBState", []byte{1}))
	mokSBDisabledRT = newConstant(variableData(guidShim, "MokSBStateRT", []byte{1}))
	mokStateOn      = newConstant([]byte{1}) // PCR 14: the value alone, its name is unproven
	firmwareDebug   = newConstant([]byte("UEFI Debug Mode"))
	// Microsoft, Kernel DMA Protection for OEMs: firmware measures this where the IOMMU is off until the system takes over.
	dmaUnprotected  = newConstant([]byte("DMA Protection Disabled"))
	dmaUnprotected0 = newConstant([]byte("DMA Protection Disabled\x00"))
)

// secureBootReader reads PCR 7 and shim's part of PCR 14, in order.
type secureBootReader struct {
	mixed  bool // reads RTMR 0, which holds more than PCR 7: after the separator, only what incriminates counts
	closed bool // the separator of PCR 7 was passed
	failed bool // firmware measured an error in its place

	on, off        bool // SecureBoot was measured so before the separator
	variables      map[string]variableSeen
	debugger       bool
	dmaUnprotected bool
	validationOff  bool // MokSBState = 1 in PCR 7
	modernShim     bool // SbatLevel in PCR 7: a shim that measures all its switches there
	stateOn        bool // a switch of shim that is on in PCR 14
	stateNamedMokS bool // ... which the log names MokSBState
}

type variableSeen struct {
	value        []byte
	event        *Event
	contradicted bool
}

// read takes the next event of PCR 7.
func (s *secureBootReader) read(c *Claims, e *Event) {
	if found, failed := isSeparator(e); found {
		s.closed, s.failed = true, s.failed || failed && !s.closed
		return
	}
	switch {
	case mokSBDisabled.is(e.Digests), mokSBDisabledRT.is(e.Digests):
		s.validationOff = true
	case firmwareDebug.is(e.Digests):
		s.debugger = true
	case dmaUnprotected.is(e.Digests), dmaUnprotected0.is(e.Digests):
		s.dmaUnprotected = true
	}
	if !s.closed {
		switch {
		case secureBootOn.is(e.Digests):
			s.on = true
		case secureBootOff.is(e.Digests), secureBootNone.is(e.Digests):
			s.off = true
		}
	}
	v, ok := parseVariable(e.Data)
	if !ok || !e.Covered {
		return
	}
	name := utf16String(v.name)
	if v.is(guidShim, "SbatLevel") && !s.mixed {
		s.modernShim = true
		level := string(v.value)
		if len(level) <= maxText && isText(v.value) {
			c.ShimSBATLevel = &level
		}
		return
	}
	if v.is(guidShim, "MokSBState") || v.is(guidShim, "MokSBStateRT") {
		if on, ok := flag(v.value); !ok || on {
			s.validationOff = true
		}
		return
	}
	if !s.closed && (v.vendor == guidGlobal || v.vendor == guidSecurity) {
		s.note(name, v.value, e)
	}
	if !s.mixed && (s.closed || v.vendor == guidShim || v.vendor == guidSecurity) {
		s.authority(c, name, v.value)
	}
}

// note keeps a variable of before the separator, and whether it was measured with two values.
func (s *secureBootReader) note(name string, value []byte, e *Event) {
	switch name {
	case "SetupMode", "AuditMode", "DeployedMode", "PK", "KEK", "db", "dbx":
	default:
		return
	}
	if s.variables == nil {
		s.variables = map[string]variableSeen{}
	}
	if databaseNames[name] != "" && walkSignatures(value, func(string, []byte, []byte) {}) != nil {
		return // an authority, measured before the separator
	}
	seen, again := s.variables[name]
	if !again {
		s.variables[name] = variableSeen{value: value, event: e}
	} else if !bytes.Equal(seen.value, value) {
		seen.contradicted = true
		s.variables[name] = seen
	}
}

// authority keeps what verified an image.
func (s *secureBootReader) authority(c *Claims, name string, value []byte) {
	a := authority(value)
	if !a.known() || len(c.BootAuthorities) == maxAuthorities {
		return
	}
	a.Source = printable(name)
	for _, b := range c.BootAuthorities {
		same := b.Source == a.Source && b.Hash == a.Hash && (b.Certificate == nil) == (a.Certificate == nil)
		if same && (a.Certificate == nil || a.Certificate.SHA256 == b.Certificate.SHA256) {
			return
		}
	}
	c.BootAuthorities = append(c.BootAuthorities, a)
}

// shimState takes an event of PCR 14, where shim measures the value of a switch without its name.
func (s *secureBootReader) shimState(e *Event) {
	if !mokStateOn.is(e.Digests) {
		return
	}
	s.stateOn = true
	if bytes.Equal(bytes.TrimRight(e.Data, "\x00"), []byte("MokSBState")) {
		s.stateNamedMokS = true
	}
}

// finish draws the claims once PCR 7 was read; pcr14 says whether PCR 14 replayed too.
func (s *secureBootReader) finish(c *Claims, pcr14 bool) {
	switch {
	case s.off:
		c.SecureBoot = pointer(false) // also if it was measured on as well
	case s.on && s.closed && !s.failed:
		c.SecureBoot = pointer(true)
	}
	if s.closed || s.debugger {
		c.FirmwareDebugger = pointer(s.debugger)
	}
	if s.dmaUnprotected {
		c.DMAProtectionDisabled = pointer(true)
	}
	c.SetupMode, c.AuditMode, c.DeployedMode = s.switchOf("SetupMode"), s.switchOf("AuditMode"), s.switchOf("DeployedMode")
	c.PK, c.KEK, c.DB, c.DBX = s.database("PK"), s.database("KEK"), s.database("db"), s.database("dbx")
	c.ShimValidationDisabled = s.validation(pcr14)
	switch {
	case c.SecureBoot != nil && !*c.SecureBoot, c.ShimValidationDisabled != nil && *c.ShimValidationDisabled:
		c.SecureBootEffective = pointer(false)
	case c.SecureBoot != nil && c.ShimValidationDisabled != nil:
		c.SecureBootEffective = pointer(true)
	}
}

// validation decides whether shim validates signatures. A shim that measures SbatLevel measures
// MokSBState in PCR 7 too, name and value, if it is set. An older one measures only the value, in PCR
// 14: a switch that is on there is MokSBState if the log says so, and else unknown.
func (s *secureBootReader) validation(pcr14 bool) *bool {
	switch {
	case s.validationOff, s.stateNamedMokS:
		return pointer(true)
	case s.modernShim:
		return pointer(false)
	case !s.closed, !pcr14, s.stateOn:
		return nil
	}
	return pointer(false)
}

func (s *secureBootReader) switchOf(name string) *bool {
	seen, ok := s.variables[name]
	if !ok || seen.contradicted {
		return nil
	}
	on, ok := flag(seen.value)
	if !ok {
		return nil
	}
	return &on
}

func (s *secureBootReader) database(name string) *SignatureDatabase {
	seen, ok := s.variables[name]
	if !ok || seen.contradicted {
		return nil
	}
	return newDatabase(seen.event, seen.value)
}

func pointer[T any](v T) *T { return &v }
