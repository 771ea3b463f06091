package predict

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"strings"
)

// Bounds of a signature database.
const (
	maxDatabase       = 4 << 20
	maxDatabaseEntry  = 100_000
	signatureListHead = 28
)

// The signature types that decide whether an image may run (UEFI 2.10, section 32.4.1), as they are stored.
var (
	typeX509   = mustGUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
	typeSHA256 = mustGUID("c1c41626-504c-4092-aca9-41f936934328")
	guidPKCS7  = mustGUID("4aafd29d-68df-49ee-8aa9-347d375665a7")
)

// Database is the value of PK, KEK, db, dbx, MokList or MokListX: EFI_SIGNATURE_LISTs. The zero value is an empty
// variable.
type Database struct {
	Raw     []byte
	Entries []DatabaseEntry
	// ownerless says that a certificate was given without its owner, so that the zero GUID stands for it.
	ownerless bool
}

// DatabaseEntry is one EFI_SIGNATURE_DATA. Raw is owner and data, as an authority event measures it.
type DatabaseEntry struct {
	Type [16]byte
	Raw  []byte
}

func (e *DatabaseEntry) data() []byte { return e.Raw[16:] }

// ParseDatabase reads one or more files of one variable, in their order: EFI_SIGNATURE_LISTs (.esl), an authenticated
// update (.auth, EFI_VARIABLE_AUTHENTICATION_2), a file of efivarfs (four bytes of attributes and the value), or
// certificates in PEM or DER. Certificates alone do not name their owner, which is measured too: owner stands for it,
// and nil for the zero GUID.
func ParseDatabase(names []string, files [][]byte, owner *[16]byte) (*Database, error) {
	db := &Database{}
	for i, b := range files {
		name := ""
		if i < len(names) {
			name = names[i]
		}
		if len(db.Raw)+len(b) > maxDatabase {
			return nil, errorf(CodeTooLarge, name, "", "more than %d bytes of signature database", maxDatabase)
		}
		value, err := db.value(name, b, owner)
		if err != nil {
			return nil, err
		}
		if err := db.add(name, value); err != nil {
			return nil, err
		}
	}
	return db, nil
}

// value finds the EFI_SIGNATURE_LISTs in a file.
func (db *Database) value(name string, b []byte, owner *[16]byte) ([]byte, error) {
	switch {
	case len(b) == 0:
		return nil, nil
	case bytes.Contains(b, []byte("-----BEGIN")):
		return db.fromPEM(name, b, owner)
	case len(b) > 4 && b[0] == 0x30 && b[1]&0x80 != 0:
		if _, err := x509.ParseCertificate(b); err != nil {
			return nil, errorf(CodeMalformedDatabase, name, "", "it looks like a DER certificate, and is none: %v", err)
		}
		return db.certificateList(b, owner), nil
	case isAuthenticated(b):
		size := 16 + int(binary.LittleEndian.Uint32(b[16:]))
		return b[size:], nil
	case len(b) == 4, len(b) >= 4+signatureListHead && plausibleList(b[4:]) && !plausibleList(b):
		return b[4:], nil
	}
	return b, nil
}

// isAuthenticated recognises EFI_VARIABLE_AUTHENTICATION_2 (UEFI 2.10, section 8.2.2): a time of 16 bytes, then a
// WIN_CERTIFICATE_UEFI_GUID of type PKCS#7.
func isAuthenticated(b []byte) bool {
	if len(b) < 16+24 || binary.LittleEndian.Uint16(b[20:]) != 0x0200 || binary.LittleEndian.Uint16(b[22:]) != 0x0EF1 {
		return false
	}
	size := uint64(binary.LittleEndian.Uint32(b[16:]))
	return bytes.Equal(b[24:40], guidPKCS7[:]) && size >= 24 && 16+size <= uint64(len(b))
}

func plausibleList(b []byte) bool {
	if len(b) < signatureListHead {
		return false
	}
	size := uint64(binary.LittleEndian.Uint32(b[16:]))
	return size >= signatureListHead && size <= uint64(len(b))
}

func (db *Database) fromPEM(name string, b []byte, owner *[16]byte) ([]byte, error) {
	var out []byte
	for n := 1; ; n++ {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, errorf(CodeMalformedDatabase, name, fmt.Sprintf("PEM block %d", n), "it is a %s; only certificates belong here", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return nil, errorf(CodeMalformedDatabase, name, fmt.Sprintf("PEM block %d", n), "%v", err)
		}
		out = append(out, db.certificateList(block.Bytes, owner)...)
	}
	if out == nil {
		return nil, errorf(CodeMalformedDatabase, name, "", "no PEM block can be read")
	}
	return out, nil
}

// certificateList makes the EFI_SIGNATURE_LIST of one certificate.
func (db *Database) certificateList(der []byte, owner *[16]byte) []byte {
	if owner == nil {
		owner, db.ownerless = new([16]byte), true
	}
	return listOf(typeX509, append(append([]byte{}, owner[:]...), der...))
}

// listOf makes an EFI_SIGNATURE_LIST of one entry (owner and data).
func listOf(kind [16]byte, entry []byte) []byte {
	out := append([]byte{}, kind[:]...)
	out = binary.LittleEndian.AppendUint32(out, uint32(signatureListHead+len(entry)))
	out = binary.LittleEndian.AppendUint32(out, 0)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(entry)))
	return append(out, entry...)
}

// add appends EFI_SIGNATURE_LISTs (UEFI 2.10, section 32.4.1): type 16, size of the list 4, of its header 4, of an
// entry 4. Entries alias the value.
func (db *Database) add(name string, value []byte) error {
	for at := 0; at < len(value); {
		b := value[at:]
		fail := func(format string, args ...any) error {
			return errorf(CodeMalformedDatabase, name, fmt.Sprintf("signature list at offset %d", at), format, args...)
		}
		if len(b) < signatureListHead {
			return fail("%d bytes are too few for a list", len(b))
		}
		size, head, entry := uint64(binary.LittleEndian.Uint32(b[16:])), uint64(binary.LittleEndian.Uint32(b[20:])), uint64(binary.LittleEndian.Uint32(b[24:]))
		if size < signatureListHead+head || size > uint64(len(b)) {
			return fail("its size %d does not fit into the %d bytes that are left", size, len(b))
		}
		entries := b[signatureListHead+head : size]
		if len(entries) > 0 && (entry <= 16 || uint64(len(entries))%entry != 0) {
			return fail("entries of %d bytes do not fill %d bytes", entry, len(entries))
		}
		for ; len(entries) > 0; entries = entries[entry:] {
			if len(db.Entries) == maxDatabaseEntry {
				return errorf(CodeTooLarge, name, fmt.Sprintf("signature list at offset %d", at), "more than %d entries", maxDatabaseEntry)
			}
			db.Entries = append(db.Entries, DatabaseEntry{Type: [16]byte(b[:16]), Raw: entries[:entry:entry]})
		}
		at += int(size) // #nosec G115 -- at most maxDatabase
	}
	db.Raw = append(db.Raw, value...)
	return nil
}

// certificates are the entries that are certificates.
func (db *Database) certificates() []DatabaseEntry {
	var out []DatabaseEntry
	if db == nil {
		return nil
	}
	for _, e := range db.Entries {
		if e.Type == typeX509 {
			out = append(out, e)
		}
	}
	return out
}

// hash finds an image's SHA-256 among the entries.
func (db *Database) hash(authenticode Digests) (DatabaseEntry, bool) {
	if db == nil {
		return DatabaseEntry{}, false
	}
	want, err := hex.DecodeString(authenticode["sha256"])
	if err != nil || len(want) != 32 {
		return DatabaseEntry{}, false
	}
	for _, e := range db.Entries {
		if e.Type == typeSHA256 && bytes.Equal(e.data(), want) {
			return e, true
		}
	}
	return DatabaseEntry{}, false
}

// ParseGUID reads a GUID in its text form into the bytes that UEFI stores (UEFI 2.10, appendix A).
func ParseGUID(text string) ([16]byte, error) {
	var out [16]byte
	b, err := hex.DecodeString(strings.ReplaceAll(text, "-", ""))
	if err != nil || len(b) != 16 || len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return out, fmt.Errorf("%q is no GUID", text)
	}
	copy(out[:], b)
	out[0], out[1], out[2], out[3] = b[3], b[2], b[1], b[0]
	out[4], out[5], out[6], out[7] = b[5], b[4], b[7], b[6]
	return out, nil
}

func mustGUID(text string) [16]byte {
	g, err := ParseGUID(text)
	if err != nil {
		panic(err) // a constant of this package
	}
	return g
}
