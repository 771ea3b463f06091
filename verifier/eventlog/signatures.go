package eventlog

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// The signature types of a signature database (UEFI 2.10, section 32.4.1), as they stand in a log.
var signatureTypes = map[[16]byte]string{
	{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}: "x509",
	{0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28}: "sha256",
	{0x12, 0xa5, 0x6c, 0x82, 0x10, 0xcf, 0xc9, 0x4a, 0xb1, 0x87, 0xbe, 0x01, 0x49, 0x66, 0x31, 0xbd}: "sha1",
	{0x07, 0x53, 0x3e, 0xff, 0xd0, 0x9f, 0xc9, 0x48, 0x85, 0xf1, 0x8a, 0xd5, 0x6c, 0x70, 0x1e, 0x01}: "sha384",
	{0xae, 0x0f, 0x3e, 0x09, 0xc4, 0xa6, 0x50, 0x4f, 0x9f, 0x1b, 0xd4, 0x1e, 0x2b, 0x89, 0xc1, 0x9a}: "sha512",
	{0x92, 0xa4, 0xd2, 0x3b, 0xc0, 0x96, 0x79, 0x40, 0xb4, 0x20, 0xfc, 0xf9, 0x8e, 0xf1, 0x03, 0xed}: "x509_sha256",
	{0x6e, 0x87, 0x76, 0x70, 0xc2, 0x80, 0xe6, 0x4e, 0xaa, 0xd2, 0x28, 0xb3, 0x49, 0xa6, 0x86, 0x5b}: "x509_sha384",
	{0x63, 0xbf, 0x6d, 0x44, 0x02, 0x25, 0xda, 0x4c, 0xbc, 0xfa, 0x24, 0x65, 0xd2, 0xb0, 0xfe, 0x9d}: "x509_sha512",
	{0xe8, 0x66, 0x57, 0x3c, 0x9c, 0x26, 0x34, 0x4e, 0xaa, 0x14, 0xed, 0x77, 0x6e, 0x85, 0xb3, 0xb6}: "rsa2048",
}

var errSignatureList = errors.New("malformed signature list")

// walkSignatures calls visit with each entry of a series of EFI_SIGNATURE_LISTs: type 16, size of the
// list 4, of its header 4, of an entry 4; entries of an owner GUID and the data. It allocates nothing,
// whatever sizes the lists state. data aliases b.
func walkSignatures(b []byte, visit func(kind string, owner, data []byte)) error {
	for len(b) > 0 {
		if len(b) < 28 {
			return errSignatureList
		}
		list := uint64(binary.LittleEndian.Uint32(b[16:]))
		header := uint64(binary.LittleEndian.Uint32(b[20:]))
		entry := uint64(binary.LittleEndian.Uint32(b[24:]))
		if list < 28+header || list > uint64(len(b)) {
			return errSignatureList
		}
		entries := b[28+header : list]
		if len(entries) > 0 && (entry <= 16 || uint64(len(entries))%entry != 0) {
			return errSignatureList
		}
		kind := signatureTypes[[16]byte(b[:16])]
		for ; len(entries) > 0; entries = entries[entry:] {
			visit(kind, entries[:16], entries[16:entry:entry])
		}
		b = b[list:]
	}
	return nil
}

// summarise counts the entries of a signature database in words; ok is false if it is none.
func summarise(b []byte) (words string, ok bool) {
	certificates, hashes := 0, 0
	var names []string
	err := walkSignatures(b, func(kind string, _, data []byte) {
		if kind != "x509" {
			hashes++
			return
		}
		certificates++
		if len(names) < 4 {
			if name := certificateName(data); name != "" {
				names = append(names, name)
			}
		}
	})
	switch {
	case err != nil:
		return "", false
	case certificates+hashes == 0:
		return "empty", true
	}
	var parts []string
	if certificates > 0 {
		part := plural(certificates, "certificate")
		if len(names) > 0 {
			list := strings.Join(names, ", ")
			if certificates > len(names) {
				list += ", …"
			}
			part += " (" + printable(list) + ")"
		}
		parts = append(parts, part)
	}
	switch {
	case hashes == 1:
		parts = append(parts, "1 hash")
	case hashes > 1:
		parts = append(parts, fmt.Sprintf("%d hashes", hashes))
	}
	return strings.Join(parts, " and "), true
}

// Authority is what verified an image before it ran: a certificate of a signature database or of
// shim, or the hash of the image itself.
type Authority struct {
	Source      string       `json:"source"` // the variable that held it: db, MokListRT, Shim, …
	Owner       string       `json:"owner,omitempty"`
	Certificate *Certificate `json:"certificate,omitempty"`
	Hash        string       `json:"hash,omitempty"` // hex
}

// authority reads the value of an EV_EFI_VARIABLE_AUTHORITY: an EFI_SIGNATURE_DATA (owner GUID and
// certificate or hash), or a certificate alone, as old shims wrote it.
func authority(value []byte) Authority {
	var a Authority
	switch {
	case isDERSequence(value):
		c := parseCertificate(value)
		a.Certificate = &c
	case len(value) > 16 && isDERSequence(value[16:]):
		c := parseCertificate(value[16:])
		a.Certificate, a.Owner = &c, guid(value)
	case len(value) == 16+32:
		a.Owner, a.Hash = guid(value), hex.EncodeToString(value[16:])
	}
	return a
}

// known tells whether the value could be read.
func (a Authority) known() bool { return a.Certificate != nil || a.Hash != "" }

func (a Authority) describe() string {
	switch {
	case a.Certificate != nil && a.Certificate.Name != "":
		return "certificate " + printable(a.Certificate.Name)
	case a.Certificate != nil:
		return "certificate with SHA-256 " + a.Certificate.SHA256
	case a.Hash != "":
		return "hash " + a.Hash
	}
	return "unknown data"
}

// WalkSignatures calls visit with each entry of a series of EFI_SIGNATURE_LISTs: its kind ("x509", "sha256", …; empty
// if unknown), its owner's GUID of 16 bytes, and its data. It allocates nothing for them. The slices alias b. An error
// means that the series is malformed; entries before the fault were visited.
func WalkSignatures(b []byte, visit func(kind string, owner, data []byte)) error {
	return walkSignatures(b, visit)
}
