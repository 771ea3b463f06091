package tee

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"time"
)

// crl is a decoded CRL (RFC 5280, section 5.1). crypto/x509 decodes what stands before and behind its entries; these
// are walked where they stand, since x509 would make some hundred bytes of each of their twenty.
type crl struct {
	*x509.RevocationList // without entries
	entries              []byte
}

const (
	derInteger     = 0x02
	derUTCTime     = 0x17
	derGeneralTime = 0x18
	derSequence    = 0x30
	derExtensions  = 0xa0
)

var errCRL = errors.New("malformed CRL")

// element takes one DER element off: its tag, its content, and what follows. The tag 0 says that there is none.
func element(b []byte) (tag byte, content, rest []byte) {
	if len(b) < 2 || b[0]&0x1f == 0x1f {
		return 0, nil, nil
	}
	size, head := int(b[1]), 2
	if size >= 0x80 {
		head += size & 0x7f
		if head == 2 || head > 5 || len(b) < head || b[2] == 0 { // 3 bytes count to 16 MB
			return 0, nil, nil
		}
		size = 0
		for _, c := range b[2:head] {
			size = size<<8 | int(c)
		}
		if size < 0x80 {
			return 0, nil, nil
		}
	}
	if size > len(b)-head {
		return 0, nil, nil
	}
	return b[0], b[head : head+size], b[head+size:]
}

// parseCRL decodes a CRL. Its signature is not verified.
func parseCRL(der []byte) (*crl, error) {
	tag, list, rest := element(der)
	if tag != derSequence || len(rest) != 0 {
		return nil, errCRL
	}
	_, body, afterTBS := element(list)
	entries, without, err := cutEntries(body)
	if err != nil {
		return nil, err
	}
	short := sequence(sequence(without), afterTBS)
	c := &crl{entries: entries}
	if c.RevocationList, err = x509.ParseRevocationList(short); err != nil {
		return nil, plainChainError(err)
	}
	c.Raw, c.RawTBSRevocationList = der, list[:len(list)-len(afterTBS)] // what the signature covers
	return c, c.each(func([]byte, time.Time) bool { return true })
}

// sequence encodes a SEQUENCE of what is encoded.
func sequence(parts ...[]byte) []byte {
	b, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: bytes.Join(parts, nil)})
	if err != nil {
		return nil // nothing that asn1 knows of
	}
	return b
}

// cutEntries splits revokedCertificates from the content of a TBSCertList: version, signature, issuer, thisUpdate,
// nextUpdate (optional), revokedCertificates (optional), extensions (optional), and nothing else.
func cutEntries(body []byte) (entries, without []byte, err error) {
	without = body
	order := [...]byte{derInteger, derSequence, derSequence, derUTCTime, derUTCTime, derSequence, derExtensions}
	const nextUpdate, revokedCertificates = 4, 5
	for rest, place := body, 0; len(rest) > 0; place++ {
		tag, content, after := element(rest)
		if tag == derGeneralTime {
			tag = derUTCTime
		}
		for place >= nextUpdate && place < len(order) && tag != order[place] { // what is left out
			place++
		}
		if place == len(order) || tag != order[place] {
			return nil, nil, errCRL
		}
		if place == revokedCertificates {
			entries, without = content, bytes.Join([][]byte{body[:len(body)-len(rest)], after}, nil)
		}
		rest = after
	}
	return entries, without, nil
}

// each walks the entries until do answers false: the serial number's bytes, big-endian, without leading zeros.
func (c *crl) each(do func(serial []byte, at time.Time) bool) error {
	for rest := c.entries; len(rest) > 0; {
		tag, entry, after := element(rest)
		if tag != derSequence {
			return errCRL
		}
		tag, serial, entry := element(entry)
		if tag != derInteger || len(serial) == 0 {
			return errCRL
		}
		tag, when, entry := element(entry)
		at, err := derTime(tag, when)
		if err != nil {
			return errCRL
		}
		if len(entry) > 0 { // crlEntryExtensions: why it was revoked does not make it valid again
			if tag, _, entry = element(entry); tag != derSequence || len(entry) != 0 {
				return errCRL
			}
		}
		if serial[0] < 0x80 && !do(bytes.TrimLeft(serial, "\x00"), at) { // no certificate has a negative one
			return nil
		}
		rest = after
	}
	return nil
}

// derTime reads a time as RFC 5280, section 4.1.2.5, wants it.
func derTime(tag byte, text []byte) (time.Time, error) {
	switch tag {
	case derUTCTime:
		at, err := time.Parse("060102150405Z", string(text))
		if at.Year() >= 2050 {
			at = at.AddDate(-100, 0, 0)
		}
		return at, err
	case derGeneralTime:
		return time.Parse("20060102150405Z", string(text))
	}
	return time.Time{}, errCRL
}

// revoked tells when a certificate was revoked, if the list names it.
func (c *crl) revoked(cert *x509.Certificate) (at time.Time, found bool) {
	want := cert.SerialNumber.Bytes()
	_ = c.each(func(serial []byte, when time.Time) bool {
		if found = bytes.Equal(serial, want); found {
			at = when
		}
		return !found
	})
	return at, found
}
