package predict

import (
	"bytes"
	"path"
	"strings"

	"github.com/assay-verifier/assay/verifier/eventlog"
)

// The vendor GUIDs of Secure Boot's variables (UEFI 2.10, section 3.3 and 32.6.1).
var (
	guidGlobal   = mustGUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
	guidSecurity = mustGUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
)

// firmware adds what firmware measures before it starts the first image (PFP 1.06, section 3.3.4.5 and 3.3.4.8).
func (s *sequence) firmware() {
	s.secureBootVariables()
	s.data(7, eventlog.EvSeparator, make([]byte, 4))
	s.data(4, eventlog.EvEFIAction, []byte("Calling EFI Application from Boot Option"))
	s.data(4, eventlog.EvSeparator, make([]byte, 4))
	s.out.assume("firmware boots from its first boot option, without trying others before it")
}

func (s *sequence) secureBootVariables() {
	var missing []string
	in := s.in
	for _, v := range []struct {
		name string
		db   *Database
	}{{"the platform key (PK)", in.PK}, {"the key exchange keys (KEK)", in.KEK}, {"db", in.DB}, {"dbx", in.DBX}} {
		if v.db == nil {
			missing = append(missing, v.name)
		} else if v.db.ownerless {
			s.out.assume("certificates of %s that were given without their owner are owned by the zero GUID", v.name)
		}
	}
	if in.SecureBoot == Unknown {
		s.leave(7, "it is not said whether Secure Boot is on")
	}
	if len(missing) > 0 {
		s.leave(7, "firmware measures its Secure Boot variables, of which %s is not given", strings.Join(missing, ", "))
		return
	}
	state := byte(0)
	if s.variant.secureBoot {
		state = 1
	}
	s.data(7, eventlog.EvEFIVariableDriverConfig, variableData(guidGlobal, "SecureBoot", []byte{state}))
	s.data(7, eventlog.EvEFIVariableDriverConfig, variableData(guidGlobal, "PK", in.PK.Raw))
	s.data(7, eventlog.EvEFIVariableDriverConfig, variableData(guidGlobal, "KEK", in.KEK.Raw))
	s.data(7, eventlog.EvEFIVariableDriverConfig, variableData(guidSecurity, "db", in.DB.Raw))
	s.data(7, eventlog.EvEFIVariableDriverConfig, variableData(guidSecurity, "dbx", in.DBX.Raw))
	s.out.assume("firmware measures SecureBoot, PK, KEK, db and dbx into PCR 7 and no further variable, as EDK II does")
}

// authoritySource is a place that may allow an image: a database of firmware or shim.
type authoritySource struct {
	vendor [16]byte
	name   string
	db     *Database
}

// authority adds the event that names what allowed an image to run (PFP 1.06, section 3.3.4.8), once for each authority.
func (s *sequence) authority(f *File, byShim bool) {
	if !s.variant.secureBoot {
		return // nothing is verified
	}
	if _, revoked := s.in.DBX.hash(f.Authenticode); revoked {
		s.out.warn("%s is revoked by the given dbx: firmware will refuse it", path.Base(f.Name))
	}
	sources := []authoritySource{{guidSecurity, "db", s.in.DB}}
	if byShim {
		list := s.shimList()
		if list == nil {
			s.leave(7, "what shim verifies images by is not known: the shim is given by its hashes alone")
			return
		}
		if s.in.Shim.olderShim() {
			s.leave(7, "this shim, older than 15.8, names in other ways what it verifies images by")
			return
		}
		if s.in.Shim.sbatVersion("shim") == "" {
			s.out.assume("shim is version 15.8 or later, which names its vendor's certificate as one of MokListRT")
		}
		sources = append(sources, authoritySource{guidShim, "MokListRT", list})
	}
	if s.in.DB == nil {
		s.leave(7, "firmware measures its Secure Boot variables, of which db is not given")
		return
	}
	measured := &s.authorities
	if byShim {
		measured = &s.shimAuthorities
	}
	candidates, known := s.candidates(f, sources)
	if len(candidates) == 0 {
		s.out.warn("%s is not allowed by what is given (db%s): it will not boot with Secure Boot on%s", path.Base(f.Name), map[bool]string{true: " and shim's keys"}[byShim], because(f.SignatureFault))
		s.leave(7, "nothing that is given allows %s to boot", path.Base(f.Name))
		return
	}
	if !known && len(candidates) > 1 {
		s.ambiguousAuthority(f, candidates, measured)
		return
	}
	if containsBytes(*measured, candidates[0]) {
		return
	}
	*measured = append(*measured, candidates[0])
	s.data(7, eventlog.EvEFIVariableAuthority, candidates[0])
}

func because(fault string) string {
	if fault == "" {
		return ""
	}
	return " (" + fault + ")"
}

// ambiguousAuthority is for an image of which the signer is not known.
func (s *sequence) ambiguousAuthority(f *File, candidates [][]byte, measured *[][]byte) {
	for _, c := range candidates {
		if containsBytes(*measured, c) {
			// It may be by one that was measured already, so that there may be no event.
			s.leave(7, "who signed %s is not known: it is given by its hashes alone", path.Base(f.Name))
			return
		}
	}
	r := record{pcr: 7, kind: eventlog.EvEFIVariableAuthority, data: candidates[0], component: eventlog.ComponentAuthority,
		description: "what was booted is verified by one of the given certificates (who signed " + path.Base(f.Name) + " is not known)"}
	for _, c := range candidates {
		r.digests = append(r.digests, digestOf(s.in.Banks, c))
	}
	*measured = append(*measured, candidates...)
	s.add(r)
}

// candidates are the authority events that the image may lead to, in the order in which firmware and shim look; known
// says that the first is the one.
func (s *sequence) candidates(f *File, sources []authoritySource) (out [][]byte, known bool) {
	signatures := f.signatures()
	for _, source := range sources {
		event := func(e DatabaseEntry) []byte { return variableData(source.vendor, source.name, e.Raw) }
		if e, found := source.db.hash(f.Authenticode); found {
			return [][]byte{event(e)}, true
		}
		if !f.knowsSigner() {
			for _, e := range source.db.certificates() {
				out = append(out, event(e))
			}
			continue
		}
		for i := range signatures {
			for _, e := range source.db.certificates() {
				if signatures[i].verifiedBy(e.data()) {
					return [][]byte{event(e)}, true
				}
			}
		}
	}
	return out, false
}

// olderShim tells whether a shim is known to be older than 15.8. Those up to 15.4 measure the variable "Shim" for what
// their vendor's certificate verifies.
func (f *File) olderShim() bool {
	major, rest, _ := strings.Cut(f.sbatVersion("shim"), ".")
	n := majorVersion(major)
	return n > 0 && (n < 15 || n == 15 && majorVersion(rest) < 8)
}

// shimList is the list of certificates and hashes that shim verifies by; nil if it is not known.
func (s *sequence) shimList() *Database {
	if s.in.Shim.Shim == nil && s.in.MOK == nil {
		return nil
	}
	value := []byte(nil)
	if s.in.Shim.Shim != nil {
		value = s.in.Shim.Shim.mokList(s.in.MOK)
	} else {
		value = s.in.MOK.Raw
	}
	db := &Database{}
	if err := db.add("MokList", value); err != nil {
		return nil
	}
	return db
}

// shim adds what shim measures of itself (shim, mok.c, sbat.c): MokList, MokListX and MokListTrusted into PCR 14, and
// the SBAT revocation level into PCR 7.
func (s *sequence) shim() {
	facts := s.in.Shim.Shim
	s.out.assume("the machine's owner enrolled no other keys in shim than those given (MokList), switched nothing off (MokSBState, MokDBState), and lets the kernel trust MokList")
	var list, listX []byte
	switch {
	case facts != nil:
		list, listX = facts.mokList(s.in.MOK), facts.mokListX(s.in.MOKX)
	case s.in.MOK != nil && s.in.MOKX != nil:
		list, listX = s.in.MOK.Raw, s.in.MOKX.Raw
	default:
		s.leave(14, "shim measures its vendor's keys and the machine owner's: the shim is given by its hashes alone, and MokListRT and MokListXRT are not given")
	}
	s.mok("MokList", list)
	s.mok("MokListX", listX)
	s.sbatLevel(facts)
	s.mok("MokListTrusted", []byte{1})
}

func (s *sequence) mok(name string, value []byte) {
	if len(value) > 0 {
		s.add(record{pcr: 14, kind: eventlog.EvIPL, digests: []Digests{digestOf(s.in.Banks, value)}, data: append([]byte(name), 0)})
	}
}

func (s *sequence) sbatLevel(facts *Shim) {
	level := s.in.SBATLevel
	switch {
	case level != "":
	case !s.variant.secureBoot:
		level = sbatOriginal
	case facts != nil && facts.SBATLevel != "":
		level = facts.SBATLevel
		s.out.assume("the machine holds no newer SBAT revocation level than the one that this shim sets")
	default:
		s.leave(7, "shim measures its SBAT revocation level, which is not known: the shim is given by its hashes alone")
		return
	}
	s.data(7, eventlog.EvEFIVariableAuthority, variableData(guidShim, "SbatLevel", bytes.TrimRight([]byte(level), "\x00")))
}
