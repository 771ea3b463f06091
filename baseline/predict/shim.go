package predict

import (
	"bytes"
	"encoding/binary"
	"io"
)

// Shim is what a shim carries and measures.
type Shim struct {
	// Certificate is the vendor certificate (DER); Allowed and Forbidden are vendor_db and vendor_dbx as signature lists.
	Certificate []byte `json:"vendor_certificate,omitempty"`
	Allowed     []byte `json:"vendor_db,omitempty"`
	Forbidden   []byte `json:"vendor_dbx,omitempty"`
	// SBATLevel is the revocation level that this shim sets where the machine has none or an older one.
	SBATLevel string `json:"sbat_level,omitempty"`
}

// maxVendorTable bounds the section .vendor_cert.
const maxVendorTable = 1 << 20

// The GUIDs of shim's variables and of its own certificates (shim, lib/guid.c).
var guidShim = mustGUID("605dab50-e046-4300-abb6-3dd810dd8b23")

// sbatOriginal is the level that shim falls back to where Secure Boot is off (shim, include/sbat.h, SBAT_VAR_ORIGINAL).
const sbatOriginal = "sbat,1,2021030218\n"

// readShim reads the sections .vendor_cert and .sbatlevel; nil if the image is no shim.
func (p *image) readShim() (*Shim, error) {
	vendor, found := p.find(".vendor_cert")
	if !found {
		return nil, nil
	}
	s := &Shim{}
	table, err := p.bounded(vendor, maxVendorTable)
	if err != nil {
		return nil, err
	}
	// shim, cert.S: sizes of what is allowed and forbidden, and their offsets from the start of the table.
	if len(table) < 16 {
		return nil, p.fail("section .vendor_cert", "%d bytes are too few for its table", len(table))
	}
	part := func(size, at uint32) ([]byte, bool) {
		if uint64(size)+uint64(at) > uint64(len(table)) {
			return nil, false
		}
		return table[at : at+size], true
	}
	number := func(i int) uint32 { return binary.LittleEndian.Uint32(table[i:]) }
	authorized, ok := part(number(0), number(8))
	forbidden, ok2 := part(number(4), number(12))
	if !ok || !ok2 {
		return nil, p.fail("section .vendor_cert", "its parts are outside the section of %d bytes", len(table))
	}
	s.Forbidden = forbidden
	if len(authorized) > 1 && authorized[0] == 0x30 {
		s.Certificate = authorized
	} else {
		s.Allowed = authorized
	}
	s.SBATLevel, err = p.readSBATLevel()
	return s, err
}

// readSBATLevel reads the level that shim applies by itself. The section holds a version and two offsets from behind
// that version: the level that is applied, and the newest, which an administrator can ask for (shim, sbat_var.S).
func (p *image) readSBATLevel() (string, error) {
	s, found := p.find(".sbatlevel")
	if !found {
		return "", nil
	}
	b, err := p.bounded(s, maxSectionText)
	if err != nil {
		return "", err
	}
	if len(b) < 12 || binary.LittleEndian.Uint32(b) != 0 {
		return "", p.fail("section .sbatlevel", "its version is not 0")
	}
	at := 4 + uint64(binary.LittleEndian.Uint32(b[4:]))
	if at >= uint64(len(b)) {
		return "", p.fail("section .sbatlevel", "the level is at offset %d, outside the section of %d bytes", at, len(b))
	}
	level, _, terminated := bytes.Cut(b[at:], []byte{0})
	if !terminated || !bytes.HasPrefix(level, []byte("sbat,")) {
		return "", p.fail("section .sbatlevel", "there is no level at offset %d", at)
	}
	return string(level), nil
}

// bounded reads a whole section as it stands in memory.
func (p *image) bounded(s section, limit int64) ([]byte, error) {
	if int64(s.virtualSize) > limit {
		return nil, p.fail("section "+s.name, "%d bytes; at most %d are accepted", s.virtualSize, limit)
	}
	r, err := p.contents(s)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, p.fail("section "+s.name, "cannot be read: %v", err)
	}
	return b, nil
}

// mirror is what shim measures of MokList or MokListX: what it brings itself, followed by what the machine's owner
// added. A value that begins with the former is taken as the whole, as MokListRT and MokListXRT hold it.
func mirror(vendor []byte, owner *Database) []byte {
	if owner == nil || len(owner.Raw) == 0 {
		return vendor
	}
	if bytes.HasPrefix(owner.Raw, vendor) {
		return owner.Raw
	}
	return append(append([]byte{}, vendor...), owner.Raw...)
}

// mokList is the value of MokList that shim measures.
func (s *Shim) mokList(owner *Database) []byte {
	vendor := s.Allowed
	if len(s.Certificate) > 0 {
		vendor = listOf(typeX509, append(append([]byte{}, guidShim[:]...), s.Certificate...))
	}
	return mirror(vendor, owner)
}

func (s *Shim) mokListX(owner *Database) []byte { return mirror(s.Forbidden, owner) }
