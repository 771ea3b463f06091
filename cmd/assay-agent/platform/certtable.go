package platform

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
)

// The certificate table that comes with an SEV-SNP report (GHCB specification, AMD 56421, section 4.1.8.1): entries of
// a GUID, an offset from the table's start and a length, ended by an entry of zeros; then what they point to.
const (
	tableEntrySize = 16 + 4 + 4
	maxTableEntry  = 32
	maxCertificate = 16 << 10
	maxTable       = 256 << 10
)

// The certificates that are sent, in this order; all else in the table is left out.
var tableGUIDs = [...]struct{ guid, name string }{
	{"63da758de6644564adc5f4b93be8accd", "VCEK"},
	{"a8074bc2a25a483eaae639c045a0b8a1", "VLEK"},
	{"4ab7b379bbac4fe4a02f05aef327c782", "ASK"},
	{"c0b406a4a803495297433fb6014cd0ae", "ARK"},
}

// parseCertificateTable takes the certificates (DER) out of a table. Every one of them can be parsed; none of them is
// believed.
func parseCertificateTable(table []byte) ([][]byte, error) {
	if len(table) > maxTable {
		return nil, fmt.Errorf("the certificate table has %d bytes, more than %d", len(table), maxTable)
	}
	found := make([][]byte, len(tableGUIDs))
	for i := 0; len(table) > 0; i++ {
		start := i * tableEntrySize
		if i == maxTableEntry {
			return nil, fmt.Errorf("the certificate table has more than %d entries", maxTableEntry)
		}
		if len(table)-start < tableEntrySize {
			return nil, fmt.Errorf("the certificate table ends within entry %d", i)
		}
		entry := table[start : start+tableEntrySize]
		guid := hex.EncodeToString(entry[:16])
		offset, length := uint64(binary.LittleEndian.Uint32(entry[16:])), uint64(binary.LittleEndian.Uint32(entry[20:]))
		if offset == 0 && length == 0 && bytes.Count(entry[:16], []byte{0}) == 16 {
			break
		}
		kind := slices.IndexFunc(tableGUIDs[:], func(g struct{ guid, name string }) bool { return g.guid == guid })
		if kind < 0 || length == 0 {
			continue
		}
		name := tableGUIDs[kind].name
		if offset < uint64(start+tableEntrySize) || offset+length > uint64(len(table)) {
			return nil, fmt.Errorf("the %s lies at bytes %d to %d, outside of the certificate table of %d bytes", name, offset, offset+length, len(table))
		}
		if found[kind] != nil {
			return nil, fmt.Errorf("the certificate table has two %ss", name)
		}
		der, err := certificateDER(table[offset : offset+length])
		if err != nil {
			return nil, fmt.Errorf("the %s in the certificate table: %w", name, err)
		}
		found[kind] = der
	}
	return slices.DeleteFunc(found, func(c []byte) bool { return c == nil }), nil
}

// certificateDER reads one certificate, DER or PEM: hosts put both into the table.
func certificateDER(b []byte) ([]byte, error) {
	if block, _ := pem.Decode(b); block != nil && block.Type == "CERTIFICATE" {
		b = block.Bytes
	}
	if len(b) > maxCertificate {
		return nil, fmt.Errorf("%d bytes are more than %d", len(b), maxCertificate)
	}
	cert, err := x509.ParseCertificate(b)
	if err != nil {
		return nil, err
	}
	return cert.Raw, nil
}
