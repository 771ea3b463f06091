package predict

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sort"
	"strconv"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Bounds of PE images.
const (
	maxSections      = 256
	maxOptional      = 4096     // bytes of an optional header; PE32+ with 16 directories has 240
	maxZeroPadding   = 64 << 20 // by which a section in memory may be longer than in the file
	maxSectionText   = 64 << 10 // of a section that is read as text
	certificateEntry = 4        // index of the certificate table among the data directories
)

// section is an entry of the section table (PE format, "Section Table").
type section struct {
	name                 string
	virtualSize, rawSize uint32
	offset               int64
}

// image is a PE32 or PE32+ image as far as Authenticode needs it. Parsing keeps no more than its headers.
type image struct {
	file                 string
	r                    io.ReaderAt
	size                 int64
	checksumAt           int64
	certDirectoryAt      int64 // 0: the optional header has no such directory
	headers              int64 // SizeOfHeaders
	certOffset, certSize int64
	sections             []section
	hashed               int64 // bytes of headers and sections
}

func (p *image) fail(place, format string, args ...any) error {
	return errorf(CodeMalformedPE, p.file, place, format, args...)
}

// parsePE reads the headers of a PE image (Microsoft PE Format) and checks that no two parts overlap or leave the file,
// since the Authenticode hash of such a file is not defined.
func parsePE(file string, r io.ReaderAt, size int64) (*image, error) {
	p := &image{file: file, r: r, size: size}
	dos, err := p.read("MS-DOS header", 0, 64)
	if err != nil {
		return nil, err
	}
	if dos[0] != 'M' || dos[1] != 'Z' {
		return nil, p.fail("offset 0", "no PE image: it does not start with MZ")
	}
	at := int64(binary.LittleEndian.Uint32(dos[0x3c:]))
	coff, err := p.read("PE header", at, 24)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(coff[:4], []byte("PE\x00\x00")) {
		return nil, p.fail(fmt.Sprintf("offset %d", at), "no PE signature")
	}
	count, optionalSize := int(binary.LittleEndian.Uint16(coff[6:])), int64(binary.LittleEndian.Uint16(coff[20:]))
	if count == 0 || count > maxSections {
		return nil, p.fail("PE header", "%d sections; 1 to %d are accepted", count, maxSections)
	}
	if optionalSize > maxOptional {
		return nil, p.fail("PE header", "an optional header of %d bytes; at most %d are accepted", optionalSize, maxOptional)
	}
	optional, err := p.read("optional header", at+24, optionalSize)
	if err != nil {
		return nil, err
	}
	if err := p.optional(at+24, optional); err != nil {
		return nil, err
	}
	table := at + 24 + optionalSize
	if table+40*int64(count) > p.headers {
		return nil, p.fail("section table", "it is not within SizeOfHeaders (%d)", p.headers)
	}
	raw, err := p.read("section table", table, 40*int64(count))
	if err != nil {
		return nil, err
	}
	strings := int64(binary.LittleEndian.Uint32(coff[12:]))
	if strings != 0 {
		strings += 18 * int64(binary.LittleEndian.Uint32(coff[16:]))
	}
	for i := range count {
		e := raw[40*i : 40*i+40]
		s := section{virtualSize: binary.LittleEndian.Uint32(e[8:]), rawSize: binary.LittleEndian.Uint32(e[16:]), offset: int64(binary.LittleEndian.Uint32(e[20:]))}
		s.name = p.sectionName(e[:8], strings)
		p.sections = append(p.sections, s)
	}
	return p, p.layout()
}

// optional reads the fields of the optional header that Authenticode leaves out of the hash.
func (p *image) optional(at int64, b []byte) error {
	if len(b) < 68 {
		return p.fail("optional header", "%d bytes are too few", len(b))
	}
	directories := 96
	switch magic := binary.LittleEndian.Uint16(b); magic {
	case 0x10b:
	case 0x20b:
		directories = 112
	default:
		return p.fail("optional header", "magic 0x%04x is neither PE32 (0x10b) nor PE32+ (0x20b)", magic)
	}
	p.headers = int64(binary.LittleEndian.Uint32(b[60:]))
	p.checksumAt = at + 64
	if p.headers > p.size || p.headers < at+int64(len(b)) {
		return p.fail("optional header", "SizeOfHeaders is %d; the headers end at %d and the file has %d bytes", p.headers, at+int64(len(b)), p.size)
	}
	if len(b) < directories {
		return p.fail("optional header", "%d bytes do not reach the data directories", len(b))
	}
	if n := binary.LittleEndian.Uint32(b[directories-4:]); n <= certificateEntry {
		return nil
	}
	entry := directories + 8*certificateEntry
	if len(b) < entry+8 {
		return p.fail("optional header", "the certificate table's directory is outside it")
	}
	p.certDirectoryAt = at + int64(entry)
	p.certOffset, p.certSize = int64(binary.LittleEndian.Uint32(b[entry:])), int64(binary.LittleEndian.Uint32(b[entry+4:]))
	if p.certSize == 0 {
		p.certOffset = p.size
		return nil
	}
	if p.certOffset < p.headers || p.certOffset+p.certSize != p.size {
		return p.fail("certificate table", "it spans bytes %d to %d; it must end the file of %d bytes", p.certOffset, p.certOffset+p.certSize, p.size)
	}
	return nil
}

func (p *image) read(what string, at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || at > p.size || n > p.size-at {
		return nil, p.fail(what, "%d bytes at offset %d are outside the file of %d bytes", n, at, p.size)
	}
	b := make([]byte, n)
	if _, err := p.r.ReadAt(b, at); err != nil && err != io.EOF { //nolint:errorlint // io.ReaderAt returns io.EOF itself
		return nil, p.fail(what, "cannot be read: %v", err)
	}
	return b, nil
}

// sectionName resolves names of more than eight characters, which are "/" and an offset into the COFF string table.
func (p *image) sectionName(raw []byte, strings int64) string {
	name := string(bytes.TrimRight(raw, "\x00"))
	if len(name) < 2 || name[0] != '/' || strings == 0 {
		return name
	}
	offset, err := strconv.ParseInt(name[1:], 10, 32)
	if err != nil || strings+offset >= p.size {
		return name
	}
	b, err := p.read("string table", strings+offset, min(32, p.size-strings-offset))
	if err != nil {
		return name
	}
	if long, _, found := bytes.Cut(b, []byte{0}); found && len(long) > 0 {
		return string(long)
	}
	return name
}

// layout checks that headers, sections and certificate table do not overlap, and orders the sections as they are
// hashed: by their place in the file.
func (p *image) layout() error {
	end := p.size - p.certSize
	order := make([]section, 0, len(p.sections))
	for _, s := range p.sections {
		if s.rawSize > 0 {
			order = append(order, s)
		}
	}
	sort.SliceStable(order, func(i, j int) bool { return order[i].offset < order[j].offset })
	at, before := p.headers, "headers"
	p.hashed = p.headers
	for _, s := range order {
		if s.offset < at {
			return p.fail("section "+s.name, "it begins at offset %d, within the %s, which end at %d", s.offset, before, at)
		}
		at, before = s.offset+int64(s.rawSize), "contents of section "+s.name
		if at > end {
			return p.fail("section "+s.name, "it ends at offset %d; the file's contents end at %d", at, end)
		}
		p.hashed += int64(s.rawSize)
	}
	return nil
}

// authenticode computes the image's Authenticode hash as firmware measures it into PCR 4 (Windows Authenticode PE
// Signature Format 1.0, "Calculating the PE Image Hash"; PFP 1.06, section 10.2.3): all of the file but the checksum,
// the directory entry of the certificate table and that table.
func (p *image) authenticode(algs []tpm.HashAlg) (Digests, error) {
	h := newHasher(algs)
	part := func(from, to int64) error {
		_, err := io.Copy(h, io.NewSectionReader(p.r, from, to-from))
		if err != nil {
			return p.fail(fmt.Sprintf("offset %d", from), "cannot be read: %v", err)
		}
		return nil
	}
	bounds := []int64{0, p.checksumAt, p.checksumAt + 4, p.headers}
	if p.certDirectoryAt != 0 {
		bounds = []int64{0, p.checksumAt, p.checksumAt + 4, p.certDirectoryAt, p.certDirectoryAt + 8, p.headers}
	}
	for i := 0; i < len(bounds); i += 2 {
		if err := part(bounds[i], bounds[i+1]); err != nil {
			return nil, err
		}
	}
	order := append([]section{}, p.sections...)
	sort.SliceStable(order, func(i, j int) bool { return order[i].offset < order[j].offset })
	for _, s := range order {
		if s.rawSize > 0 {
			if err := part(s.offset, s.offset+int64(s.rawSize)); err != nil {
				return nil, err
			}
		}
	}
	// What stands behind the sections. Its place is counted by the bytes hashed so far, gaps or not, as EDK II does.
	if end := p.size - p.certSize; end > p.hashed {
		if err := part(p.hashed, end); err != nil {
			return nil, err
		}
	}
	return h.sum(), nil
}

// find is the first section of a name.
func (p *image) find(name string) (section, bool) {
	for _, s := range p.sections {
		if s.name == name {
			return s, true
		}
	}
	return section{}, false
}

// contents is a section as it stands in memory: as long as VirtualSize says, filled up with zeros.
func (p *image) contents(s section) (io.Reader, error) {
	stored := min(int64(s.rawSize), int64(s.virtualSize))
	padding := int64(s.virtualSize) - stored
	if padding > maxZeroPadding {
		return nil, p.fail("section "+s.name, "it is %d bytes longer in memory than in the file; at most %d are accepted", padding, maxZeroPadding)
	}
	return io.MultiReader(io.NewSectionReader(p.r, s.offset, stored), io.LimitReader(zeros{}, padding)), nil
}

// text is a short section's contents up to its first zero.
func (p *image) text(name string) (text string, found bool, err error) {
	s, found := p.find(name)
	if !found {
		return "", false, nil
	}
	if s.virtualSize > maxSectionText {
		return "", true, p.fail("section "+name, "%d bytes; at most %d are read as text", s.virtualSize, maxSectionText)
	}
	r, err := p.contents(s)
	if err != nil {
		return "", true, err
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return "", true, p.fail("section "+name, "cannot be read: %v", err)
	}
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b), true, nil
}

// zeros reads as zeros without end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// sectionAt is a part of a file as a file of its own.
type sectionAt struct {
	r            io.ReaderAt
	offset, size int64
}

// ReadAt implements io.ReaderAt.
func (s sectionAt) ReadAt(b []byte, at int64) (int, error) {
	return io.NewSectionReader(s.r, s.offset, s.size).ReadAt(b, at)
}
