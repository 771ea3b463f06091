package revocations

import (
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"github.com/assay-verifier/assay/verifier/eventlog"
)

// Assessment is what a set says of one boot. What the evidence does not tell is nil.
type Assessment struct {
	// Revoked is what booted and is revoked; nil where no digest could be compared, empty where none is revoked.
	Revoked []Revoked `json:"revoked"`
	// DBX is how the machine's dbx stands to the list of its architecture; nil where dbx is unknown, where nothing of
	// Microsoft's is trusted and so its list is not meant for the machine, or where its architecture is not known.
	DBX *DBX `json:"dbx,omitempty"`
	// Keys are the certificates of 2011 that have no successor in KEK and db; nil where they are unknown or none of
	// Microsoft's is there.
	Keys *Keys `json:"keys,omitempty"`
	// SBAT is how the machine's level stands to the newest; nil where it is unknown, or none of Microsoft's authorities
	// is trusted: the levels are those of the shims that they sign.
	SBAT *SBAT `json:"sbat,omitempty"`

	digest string // of the JSON form
}

// Revoked is something that booted and is revoked.
type Revoked struct {
	Component string `json:"component"`      // boot_loader, driver, option_rom, windows, boot_authority
	Name      string `json:"name,omitempty"` // file, or the certificate's name
	Digest    string `json:"digest"`         // SHA-256 of the image (Authenticode) or certificate, hex
	Optional  bool   `json:"optional,omitempty"`
	Advisory
}

// DBX is the state of a machine's dbx.
type DBX struct {
	Architecture string `json:"architecture"`
	Expected     int    `json:"expected"` // entries of the list
	Missing      int    `json:"missing"`  // of these, what the machine's dbx lacks
	// Newest is the newest that is missing.
	Newest *Advisory `json:"newest,omitempty"`
	// Outdated are the security version numbers in dbx that are lower than the present ones.
	Outdated []Version `json:"outdated,omitempty"`
}

// Version is the least security version of one of Windows' boot applications.
type Version struct {
	File    string `json:"file"`
	Has     string `json:"has"`
	Present string `json:"present"`
}

// Keys tells of Microsoft's certificates of 2011.
type Keys struct {
	// Alone are those whose successor of 2023 is missing, each as "KEK: name".
	Alone []string `json:"alone"`
	// Missing are the successors.
	Missing []string `json:"missing"`
}

// SBAT is the state of a machine's SBAT level.
type SBAT struct {
	Level string `json:"level"`  // date
	Newer string `json:"newest"` // date of the newest level that is known
	// Raised are components whose generations the newest level raises.
	Raised []Generation `json:"raised,omitempty"`
	CVEs   []string     `json:"cves,omitempty"` // what the levels in between revoke for
}

// succession is a certificate of 2011 and who follows it.
type succession struct {
	database, old, name, successor, successorName string // fingerprints are SHA-256 of the DER
}

// successions are Microsoft's (github.com/microsoft/secureboot_objects, PreSignedObjects). The certificates of 2011
// end on 2026-06-24 (KEK), 2026-06-27 (UEFI CA) and 2026-10-19 (Windows Production PCA).
var successions = []succession{
	{"KEK", "a1117f516a32cefcba3f2d1ace10a87972fd6bbe8fe0d0b996e09e65d802a503", "Microsoft Corporation KEK CA 2011",
		"3cd3f0309edae228767a976dd40d9f4affc4fbd5218f2e8cc3c9dd97e8ac6f9d", "Microsoft Corporation KEK 2K CA 2023"},
	{"db", "e8e95f0733a55e8bad7be0a1413ee23c51fcea64b3c8fa6a786935fddcc71961", "Microsoft Windows Production PCA 2011",
		"076f1fea90ac29155ebf77c17682f75f1fdd1be196da302dc8461e350a9ae330", "Windows UEFI CA 2023"},
	{"db", "48e99b991f57fc52f76149599bff0a58c47154229b9f8d603ac40d3500248507", "Microsoft Corporation UEFI CA 2011",
		"f6124e34125bee3fe6d79a574eaa7b91c0e7bd9d929c1a321178efd611dad901", "Microsoft UEFI CA 2023"},
}

// assessed is the key under which a log keeps what a set says of it.
type assessed struct{ set *Set }

// Assess is what the set says of a boot. It is made once for each log and set: who booted the same log need not be
// looked at again. The result is shared and must not be changed. Claims are those of the measurements, or others where
// there are none; they must be proven.
func (s *Set) Assess(m *eventlog.Measurements, claims *eventlog.Claims) *Assessment {
	if m != nil && claims != m.Claims() {
		m = nil
	}
	return eventlog.Derived(m, assessed{s}, func() *Assessment { return s.assess(claims) })
}

// Digest identifies what the assessment says: 32 bytes.
func (a *Assessment) Digest() string { return a.digest }

func (s *Set) assess(c *eventlog.Claims) *Assessment {
	out := &Assessment{}
	if c != nil {
		out = &Assessment{Revoked: s.revoked(c), DBX: s.dbx(c), Keys: keys(c), SBAT: s.sbat(c)}
	}
	raw, err := json.Marshal(out)
	if err != nil { // texts and numbers: it cannot fail
		raw = []byte(err.Error())
	}
	digest := digestOf(raw)
	out.digest = string(digest[:])
	return out
}

// revoked compares what ran, and what vouched for it.
func (s *Set) revoked(c *eventlog.Claims) []Revoked {
	var out []Revoked
	compared := false
	look := func(component, name, digest string, certificates bool) {
		raw, err := hexOf[[32]byte](digest)
		if err != nil {
			return
		}
		compared = true
		e, found := s.entries[raw]
		if !found || e.Certificate() != certificates || slices.ContainsFunc(out, func(r Revoked) bool { return r.Digest == digest && r.Component == component }) {
			return
		}
		out = append(out, Revoked{Component: component, Name: name, Digest: digest, Optional: e.Optional, Advisory: e.Advisory})
	}
	for _, group := range []struct {
		component eventlog.Component
		images    []eventlog.Image
	}{{eventlog.ComponentOptionROM, c.OptionROMs}, {eventlog.ComponentDriver, c.Drivers}, {eventlog.ComponentBootLoader, c.BootLoaders}} {
		for i := range group.images {
			look(string(group.component), group.images[i].File, group.images[i].Digests["sha256"], false)
		}
	}
	if c.Windows != nil {
		for i := range c.Windows.Modules {
			m := &c.Windows.Modules[i]
			look(string(eventlog.ComponentWindows), m.Path, m.Authenticode, false)
		}
	}
	for i := range c.BootAuthorities {
		a := &c.BootAuthorities[i]
		if a.Certificate != nil {
			look(string(eventlog.ComponentAuthority), a.Certificate.Name, a.Certificate.SHA256, true)
		} else {
			look(string(eventlog.ComponentAuthority), "", a.Hash, false)
		}
	}
	if compared && out == nil {
		return []Revoked{}
	}
	return out
}

// dbx compares the machine's dbx with the list of its architecture.
func (s *Set) dbx(c *eventlog.Claims) *DBX {
	if c.DBX == nil || c.DB == nil || !trustsMicrosoft(c.DB) {
		return nil
	}
	held := map[[32]byte]bool{}
	var versions []svn
	c.DBX.Hashes(func(kind string, owner, data []byte) {
		switch v, ok := parseSVN(data); {
		case kind != "sha256" || len(data) != 32:
		case ok && [16]byte(owner) == svnOwner:
			versions = append(versions, v)
		default:
			held[[32]byte(data)] = true
		}
	})
	l := s.listFor(c, held)
	if l == nil {
		return nil
	}
	out := &DBX{Architecture: l.architecture, Expected: len(l.digests)}
	for _, digest := range l.digests {
		if held[digest] {
			continue
		}
		out.Missing++
		if a := &s.entries[digest].Advisory; out.Newest == nil || a.Added > out.Newest.Added || a.Added == out.Newest.Added && len(a.CVEs) > len(out.Newest.CVEs) {
			out.Newest = a
		}
	}
	out.Outdated = s.outdated(versions)
	return out
}

// outdated lists the applications whose security version in dbx is lower than the present one. A machine that has none
// has not been moved to them, which is for its administrator to decide.
func (s *Set) outdated(versions []svn) []Version {
	has := map[[16]byte]svn{}
	for _, v := range versions {
		if held, ok := has[v.application]; !ok || held.less(v) {
			has[v.application] = v
		}
	}
	var out []Version
	for application, v := range has {
		present, known := s.svns[application]
		if !known || !v.less(present) {
			continue
		}
		name := s.svnNames[application].File
		if name == "" {
			name = hex.EncodeToString(application[:])
		}
		out = append(out, Version{File: name, Has: v.String(), Present: present.String()})
	}
	slices.SortFunc(out, func(a, b Version) int { return strings.Compare(a.File, b.File) })
	return out
}

// listFor is the list of the machine's architecture: the one of which its dbx has most, else the one that the names of
// its boot loaders tell. Nil where neither tells.
func (s *Set) listFor(c *eventlog.Claims, held map[[32]byte]bool) *list {
	var best *list
	most := 0
	for i := range s.lists {
		common := 0
		for _, digest := range s.lists[i].digests {
			if held[digest] {
				common++
			}
		}
		if common > most {
			best, most = &s.lists[i], common
		}
	}
	if best != nil {
		return best
	}
	for i := range s.lists {
		for j := range c.BootLoaders {
			if strings.HasSuffix(strings.ToLower(c.BootLoaders[j].File), fileSuffix[s.lists[i].architecture]) {
				return &s.lists[i]
			}
		}
	}
	return nil
}

// fileSuffix is how the names of boot loaders end (UEFI 2.10, section 3.5.1.1).
var fileSuffix = map[string]string{"x64": "x64.efi", "ia32": "ia32.efi", "aarch64": "aa64.efi"}

// trustsMicrosoft tells whether db holds one of Microsoft's authorities: the list is meant for those who trust them.
func trustsMicrosoft(db *eventlog.SignatureDatabase) bool {
	return slices.ContainsFunc(successions, func(x succession) bool {
		return x.database == "db" && (holds(db, x.old) || holds(db, x.successor))
	})
}

func holds(db *eventlog.SignatureDatabase, fingerprint string) bool {
	return db != nil && slices.ContainsFunc(db.Certificates, func(c eventlog.Certificate) bool { return c.SHA256 == fingerprint })
}

// keys looks for certificates of 2011 without their successors.
func keys(c *eventlog.Claims) *Keys {
	out := &Keys{Alone: []string{}, Missing: []string{}}
	found := false
	for _, x := range successions {
		db := c.DB
		if x.database == "KEK" {
			db = c.KEK
		}
		if db == nil || db.CertificatesOmitted > 0 {
			return nil
		}
		old, successor := holds(db, x.old), holds(db, x.successor)
		found = found || old || successor
		if old && !successor {
			out.Alone, out.Missing = append(out.Alone, x.database+": "+x.name), append(out.Missing, x.database+": "+x.successorName)
		}
	}
	if !found {
		return nil
	}
	return out
}

// sbat compares the level that shim measured.
func (s *Set) sbat(c *eventlog.Claims) *SBAT {
	if c.ShimSBATLevel == nil || len(s.levels) == 0 || c.DB == nil || !trustsMicrosoft(c.DB) {
		return nil
	}
	has, err := ParseLevel([]byte(*c.ShimSBATLevel))
	if err != nil {
		return nil
	}
	newest := &s.levels[len(s.levels)-1]
	out := &SBAT{Level: has.Version, Newer: newest.Version}
	for _, g := range newest.Components {
		if has.least(g.Component) < g.Least {
			out.Raised = append(out.Raised, g)
		}
	}
	for i := range s.levels {
		if s.levels[i].Version > has.Version {
			out.CVEs = append(out.CVEs, s.levels[i].cves...)
		}
	}
	return out
}
