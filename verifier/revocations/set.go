package revocations

import (
	"bytes"
	"compress/gzip"
	"crypto/sha1" // #nosec G505 -- Microsoft's list names certificates by it; nothing is trusted by it
	"crypto/sha256"
	"crypto/x509"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

//go:embed data
var files embed.FS

// Kind is a kind of data.
type Kind string

// The kinds of data.
const (
	KindDBX   Kind = "dbx"        // a signed update of dbx
	KindInfo  Kind = "dbx_info"   // Microsoft's list that explains dbx
	KindLevel Kind = "sbat_level" // an SBAT revocation level
)

// Source is one piece of data that a set was made of.
type Source struct {
	Kind    Kind
	Name    string // of a shipped one its file; else the SHA-256 of it
	Version string // date of dbx_info and sbat_level; empty of dbx, whose updates have none
	Entries int
	SHA256  [32]byte
	Origin  string // where a shipped one is from; empty of others
}

// Entry is one revoked thing.
type Entry struct {
	kind entryKind
	// Digest is the Authenticode SHA-256 of an image, or the SHA-256 of a certificate.
	Digest [32]byte
	Advisory
	// Signed says that a signed update revokes it; else a list alone does, on the word of whoever imported it.
	Signed     bool
	thumbprint [20]byte // SHA-1 of a certificate
	// Optional says that the revocation is in none of the updates that every machine is meant to have.
	Optional bool
}

// Certificate tells whether the entry is a certificate, and not an image.
func (e *Entry) Certificate() bool { return e.kind != imageHash }

// list is the dbx that machines of one architecture are meant to have.
type list struct {
	architecture string
	digests      [][32]byte
}

// level is an SBAT level with what is known of it.
type level struct {
	Level
	cves []string
	what string
}

// Set is all that is known to be bad. It is immutable and safe for concurrent use.
type Set struct {
	version  [32]byte
	entries  map[[32]byte]*Entry
	lists    []list
	svns     map[[16]byte]svn
	svnNames map[[16]byte]Advisory
	levels   []level // ascending
	sources  []Source
}

// Version identifies the set by its content.
func (s *Set) Version() string { return hex.EncodeToString(s.version[:8]) }

// Sources lists what the set was made of, the shipped first.
func (s *Set) Sources() []Source { return s.sources }

// Lookup finds an entry by its digest.
func (s *Set) Lookup(digest [32]byte) (*Entry, bool) {
	e, ok := s.entries[digest]
	return e, ok
}

// Addition is a piece of data that a tenant adds to the shipped set. Bodies are as ParseUpdate, ParseInfo and
// ParseLevel take them; the signature of an update must have been verified before.
type Addition struct {
	Kind Kind
	Body []byte
}

// origin is where the shipped files are from (data/README.md).
const (
	originMicrosoft = "github.com/microsoft/secureboot_objects@06fe58a31d2d"
	originShim      = "github.com/rhboot/shim@893252718ebd"
)

// shippedUpdates are the signed updates that are shipped; those without an architecture are optional.
var shippedUpdates = []struct{ file, architecture string }{
	{"DBXUpdate-amd64.bin", "x64"}, {"DBXUpdate-arm64.bin", "aarch64"}, {"DBXUpdate-x86.bin", "ia32"},
	{"DBXUpdate2024.bin", ""}, {"DBXUpdateSVN.bin", ""},
}

// shippedData is the shipped data, parsed once.
type shippedData struct {
	updates []*Update
	info    *Info
	levels  []level
	sources []Source
	kek     []*x509.Certificate
}

var shipped = sync.OnceValues(readShipped)

var shippedSet = sync.OnceValues(func() (*Set, error) { return With(nil) })

// Shipped is the set that comes with Assay. It fails only where a file that is built in does not fit, which a test
// rules out.
func Shipped() (*Set, error) { return shippedSet() }

// KeyExchangeKeys are Microsoft's certificates of 2011 and 2023 that updates of dbx must lead to. It fails as Shipped
// does.
func KeyExchangeKeys() ([]*x509.Certificate, error) {
	data, err := shipped()
	if err != nil {
		return nil, err
	}
	return data.kek, nil
}

func readShipped() (*shippedData, error) {
	data := &shippedData{}
	for _, f := range shippedUpdates {
		raw, err := files.ReadFile("data/" + f.file)
		if err != nil {
			return nil, err
		}
		update, err := ParseUpdate(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.file, err)
		}
		data.updates = append(data.updates, update)
		data.sources = append(data.sources, Source{KindDBX, f.file, "", update.Entries(), sha256.Sum256(raw), originMicrosoft})
	}
	const infoFile, levelFile = "dbx_info_msft_latest.json", "sbat_levels.json"
	raw, err := inflate("data/" + infoFile + ".gz")
	if err != nil {
		return nil, err
	}
	if data.info, err = ParseInfo(raw); err != nil {
		return nil, fmt.Errorf("%s: %w", infoFile, err)
	}
	data.sources = append(data.sources, Source{KindInfo, infoFile, data.info.Version, data.info.Entries(), sha256.Sum256(raw), originMicrosoft})
	if raw, err = files.ReadFile("data/" + levelFile); err != nil {
		return nil, err
	}
	if data.levels, err = readLevels(raw); err != nil {
		return nil, fmt.Errorf("%s: %w", levelFile, err)
	}
	data.sources = append(data.sources, Source{KindLevel, levelFile, data.levels[len(data.levels)-1].Version, len(data.levels), sha256.Sum256(raw), originShim})
	for _, name := range []string{"KEK-MicCorKEKCA2011_2011-06-24.der", "KEK-microsoft_corporation_kek_2k_ca_2023.der"} {
		der, err := files.ReadFile("data/" + name)
		if err != nil {
			return nil, err
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		data.kek = append(data.kek, c)
	}
	return data, nil
}

func inflate(name string) ([]byte, error) {
	packed, err := files.ReadFile(name)
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(z, MaxInfo+1))
}

func readLevels(raw []byte) ([]level, error) {
	var file []struct {
		Level string   `json:"level"`
		CVEs  []string `json:"cves"`
		What  string   `json:"what"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, err
	}
	var out []level
	for i, x := range file {
		l, err := ParseLevel([]byte(x.Level))
		if err != nil {
			return nil, fmt.Errorf("/%d/level: %w", i, err)
		}
		out = append(out, level{*l, x.CVEs, x.What})
	}
	return out, nil
}

// With is the shipped set and what a tenant adds to it. Nothing that is added takes anything away: what was revoked
// stays so, and a list that explains is taken where it is newer.
func With(additions []Addition) (*Set, error) {
	data, err := shipped()
	if err != nil {
		return nil, err
	}
	s := &Set{entries: map[[32]byte]*Entry{}, svns: map[[16]byte]svn{}, svnNames: map[[16]byte]Advisory{}, levels: slices.Clone(data.levels), sources: slices.Clone(data.sources)}
	for i, f := range shippedUpdates {
		s.addUpdate(data.updates[i], f.architecture)
	}
	infos := []*Info{data.info}
	for _, a := range additions {
		source := Source{Kind: a.Kind, SHA256: sha256.Sum256(a.Body)}
		source.Name = hex.EncodeToString(source.SHA256[:])
		switch a.Kind {
		case KindDBX:
			u, err := ParseUpdate(a.Body)
			if err != nil {
				return nil, fmt.Errorf("dbx %s: %w", source.Name, err)
			}
			s.addUpdate(u, s.architectureOf(u))
			source.Entries = u.Entries()
		case KindInfo:
			info, err := ParseInfo(a.Body)
			if err != nil {
				return nil, fmt.Errorf("dbx_info %s: %w", source.Name, err)
			}
			infos = append(infos, info)
			source.Version, source.Entries = info.Version, info.Entries()
		case KindLevel:
			l, err := ParseLevel(a.Body)
			if err != nil {
				return nil, fmt.Errorf("sbat_level %s: %w", source.Name, err)
			}
			s.levels = append(s.levels, level{Level: *l, what: "a level that was imported"})
			source.Version, source.Entries = l.Version, len(l.Components)
		default:
			return nil, fmt.Errorf("%q is no kind of revocations", a.Kind)
		}
		s.sources = append(s.sources, source)
	}
	slices.SortStableFunc(infos, func(a, b *Info) int { return strings.Compare(a.Version, b.Version) })
	for _, info := range infos {
		s.explain(info)
	}
	slices.SortStableFunc(s.levels, func(a, b level) int { return strings.Compare(a.Version, b.Version) })
	h := sha256.New()
	for i := range s.sources {
		h.Write(s.sources[i].SHA256[:])
	}
	s.version = [32]byte(h.Sum(nil))
	return s, nil
}

// addUpdate adds what a signed update revokes; with an architecture to the list that its machines are meant to have.
func (s *Set) addUpdate(u *Update, architecture string) {
	add := func(kind entryKind, digest [32]byte) {
		e, known := s.entries[digest]
		if !known {
			e = &Entry{kind: kind, Digest: digest, Optional: true}
			s.entries[digest] = e
		}
		e.Signed, e.Optional = true, e.Optional && architecture == ""
		if architecture != "" && kind == imageHash {
			s.expect(architecture, digest)
		}
	}
	for _, digest := range u.hashes {
		add(imageHash, digest)
	}
	for _, digest := range u.tbsHashes {
		add(tbsHash, digest)
	}
	for _, der := range u.certificates {
		add(certificate, digestOf(der))
		s.entries[digestOf(der)].File = certificateName(der)
		s.entries[digestOf(der)].thumbprint = sha1.Sum(der) // #nosec G401 -- as above
	}
	for _, v := range u.svns {
		if held, ok := s.svns[v.application]; !ok || held.less(v) {
			s.svns[v.application] = v
		}
	}
}

// expect adds a digest to an architecture's list.
func (s *Set) expect(architecture string, digest [32]byte) {
	i := slices.IndexFunc(s.lists, func(l list) bool { return l.architecture == architecture })
	if i < 0 {
		i = len(s.lists)
		s.lists = append(s.lists, list{architecture: architecture})
	}
	if !slices.Contains(s.lists[i].digests, digest) {
		s.lists[i].digests = append(s.lists[i].digests, digest)
	}
}

// architectureOf tells whose list an update continues: that of which it holds at least half. Others revoke, but
// nobody is asked whether he has them.
func (s *Set) architectureOf(u *Update) string {
	held := make(map[[32]byte]bool, len(u.hashes))
	for _, digest := range u.hashes {
		held[digest] = true
	}
	for _, l := range s.lists {
		common := 0
		for _, digest := range l.digests {
			if held[digest] {
				common++
			}
		}
		if 2*common >= len(l.digests) {
			return l.architecture
		}
	}
	return ""
}

// explain adds what a list says, and revokes what it lists and no update does.
func (s *Set) explain(info *Info) {
	for digest, a := range info.images {
		e, known := s.entries[digest]
		if !known {
			e = &Entry{kind: imageHash, Digest: digest}
			s.entries[digest] = e
		}
		e.Advisory = a
		if !e.Signed {
			e.Optional = a.optional
		}
	}
	for _, e := range s.entries {
		if a, ok := info.certificates[e.thumbprint]; ok && e.kind == certificate {
			e.Advisory = a
		}
	}
	for application, a := range info.svns {
		s.svnNames[application] = a
	}
}

// certificateName is the common name of a certificate, or its digest where it cannot be read.
func certificateName(der []byte) string {
	if c, err := x509.ParseCertificate(der); err == nil && c.Subject.CommonName != "" {
		return clean(c.Subject.CommonName)
	}
	digest := digestOf(der)
	return "certificate " + hex.EncodeToString(digest[:8])
}

// Covers tells whether the set revokes all that another does by signed updates.
func (s *Set) Covers(o *Set) bool {
	for digest, e := range o.entries {
		if mine := s.entries[digest]; e.Signed && (mine == nil || !mine.Signed || mine.Optional && !e.Optional) {
			return false
		}
	}
	for application, v := range o.svns {
		if held, ok := s.svns[application]; !ok || held.less(v) {
			return false
		}
	}
	return true
}
