package eventlog

import (
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
)

// Certificate is an X.509 certificate of a signature database. Only the fingerprint is sure to be
// there: firmware accepts certificates that strict parsers refuse (negative serial numbers, odd
// names), and nobody checks their dates.
type Certificate struct {
	Name     string     `json:"name,omitempty"` // common name, else the organisation
	Subject  string     `json:"subject,omitempty"`
	Issuer   string     `json:"issuer,omitempty"`
	Serial   string     `json:"serial,omitempty"` // hex, with "-" before a negative one
	NotAfter *time.Time `json:"not_after,omitempty"`
	SHA256   string     `json:"sha256"` // of the DER, hex
}

// parseCertificate reads the fields of a DER certificate, as many as it can.
func parseCertificate(der []byte) Certificate {
	sum := sha256.Sum256(der)
	c := Certificate{SHA256: hex.EncodeToString(sum[:])}
	f, ok := certificateFields(der)
	if !ok {
		return c
	}
	c.Serial = serial(f.serial)
	c.Name, c.Subject = distinguishedName(f.subject)
	_, c.Issuer = distinguishedName(f.issuer)
	if t, ok := derTime(f.notAfter); ok {
		c.NotAfter = &t
	}
	return c
}

// certificateName is parseCertificate for the name alone.
func certificateName(der []byte) string {
	f, ok := certificateFields(der)
	if !ok {
		return ""
	}
	name, _ := distinguishedName(f.subject)
	return name
}

// element is one DER element: its tag and contents (X.690, section 8.1).
type element struct {
	tag  byte
	body []byte
}

// The DER tags that certificates use.
const (
	derInteger         = 0x02
	derOID             = 0x06
	derUTCTime         = 0x17
	derGeneralizedTime = 0x18
	derBMPString       = 0x1E
	derSequence        = 0x30
	derSet             = 0x31
	derVersion         = 0xA0 // [0] EXPLICIT
)

// readElement reads the element at the start of b and returns what follows it.
func readElement(b []byte) (e element, rest []byte, ok bool) {
	if len(b) < 2 || b[0]&0x1F == 0x1F {
		return e, nil, false
	}
	size, at := int(b[1]), 2
	if size >= 0x80 {
		digits := size & 0x7F
		if digits == 0 || digits > 3 || len(b) < 2+digits {
			return e, nil, false
		}
		size, at = 0, 2+digits
		for _, d := range b[2:at] {
			size = size<<8 | int(d)
		}
	}
	if size > len(b)-at {
		return e, nil, false
	}
	return element{b[0], b[at : at+size]}, b[at+size:], true
}

// expect reads an element that must have the tag.
func expect(b []byte, tag byte) (body, rest []byte, ok bool) {
	e, rest, ok := readElement(b)
	return e.body, rest, ok && e.tag == tag
}

type fields struct {
	serial, issuer, subject []byte
	notAfter                element
}

// certificateFields walks a certificate as far as its subject (RFC 5280, section 4.1): version,
// serialNumber, signature, issuer, validity, subject.
func certificateFields(der []byte) (f fields, ok bool) {
	certificate, _, ok := expect(der, derSequence)
	if !ok {
		return f, false
	}
	b, _, ok := expect(certificate, derSequence)
	if !ok {
		return f, false
	}
	if _, rest, isVersion := expect(b, derVersion); isVersion {
		b = rest
	}
	var validity []byte
	for _, part := range []struct {
		tag  byte
		into *[]byte
	}{{derInteger, &f.serial}, {derSequence, new([]byte)}, {derSequence, &f.issuer}, {derSequence, &validity}, {derSequence, &f.subject}} {
		if *part.into, b, ok = expect(b, part.tag); !ok {
			return f, false
		}
	}
	if _, rest, ok := readElement(validity); ok {
		f.notAfter, _, _ = readElement(rest)
	}
	return f, true
}

// serial writes an INTEGER as hex.
func serial(b []byte) string {
	if len(b) == 0 || len(b) > 64 {
		return ""
	}
	n := new(big.Int).SetBytes(b)
	if b[0]&0x80 != 0 { // two's complement
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b)))) // #nosec G115 -- at most 64 bytes
	}
	return n.Text(16)
}

func derTime(e element) (t time.Time, ok bool) {
	var err error
	switch e.tag {
	case derUTCTime:
		// RFC 5280, section 4.1.2.5.1: years from 50 are of the last century.
		if t, err = time.Parse("060102150405Z", string(e.body)); err == nil && t.Year() >= 2050 {
			t = t.AddDate(-100, 0, 0)
		}
	case derGeneralizedTime:
		t, err = time.Parse("20060102150405Z", string(e.body))
	default:
		return t, false
	}
	return t, err == nil
}

// attributeNames are the short names of RFC 4514, section 3, by the DER of their identifiers.
var attributeNames = map[string]string{
	"\x55\x04\x03": "CN", "\x55\x04\x06": "C", "\x55\x04\x07": "L", "\x55\x04\x08": "ST",
	"\x55\x04\x0a": "O", "\x55\x04\x0b": "OU", "\x55\x04\x05": "serialNumber",
	"\x2a\x86\x48\x86\xf7\x0d\x01\x09\x01":         "emailAddress",
	"\x09\x92\x26\x89\x93\xf2\x2c\x64\x01\x19":     "DC",
	"\x2b\x06\x01\x04\x01\x82\x37\x3c\x02\x01\x03": "jurisdictionC",
	"\x2b\x06\x01\x04\x01\x82\x37\x3c\x02\x01\x02": "jurisdictionST",
}

// maxAttributes is the most attributes of a name that are read.
const maxAttributes = 24

// distinguishedName writes a Name as RFC 4514 does, last attribute first, and its common name (else
// organisation).
func distinguishedName(b []byte) (short, full string) {
	var parts []string
	organisation := ""
	for len(b) > 0 && len(parts) < maxAttributes {
		set, rest, ok := expect(b, derSet)
		if !ok {
			break
		}
		b = rest
		for len(set) > 0 && len(parts) < maxAttributes {
			var attribute []byte
			if attribute, set, ok = expect(set, derSequence); !ok {
				break
			}
			id, value, ok := expect(attribute, derOID)
			if !ok {
				break
			}
			e, _, ok := readElement(value)
			if !ok {
				break
			}
			name, text := attributeNames[string(id)], attributeText(e)
			switch name {
			case "CN":
				short = text
			case "O":
				organisation = text
			case "":
				name = "OID." + hex.EncodeToString(id)
			}
			parts = append(parts, name+"="+escapeAttribute(text))
		}
	}
	if short == "" {
		short = organisation
	}
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return printable(short), printable(strings.Join(parts, ","))
}

// attributeText reads the string types of names: UTF-16 big-endian, or bytes.
func attributeText(e element) string {
	body := e.body[:min(len(e.body), maxText)]
	if e.tag != derBMPString {
		return string(body)
	}
	units := make([]uint16, len(body)/2)
	for i := range units {
		units[i] = uint16(body[2*i])<<8 | uint16(body[2*i+1])
	}
	return string(utf16.Decode(units))
}

func escapeAttribute(s string) string {
	if !strings.ContainsAny(s, `,+"\<>;=`) {
		return s
	}
	return strconv.Quote(s)
}

// isDERSequence tells whether b starts like a certificate: a SEQUENCE with a two-byte length that
// fits into b.
func isDERSequence(b []byte) bool {
	return len(b) > 4 && b[0] == derSequence && b[1] == 0x82 && 4+(int(b[2])<<8|int(b[3])) <= len(b)
}
