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

// element takes one DER element off: its tag, its content, and what follows.
func element(b []byte) (tag byte, content, rest []byte, err error) {
	if len(b) < 2 || b[0]&0x1f == 0x1f {
		return 0, nil, nil, errCRL
	}
	size, head := uint64(b[1]), 2
	if size >= 0x80 {
		head += int(size & 0x7f)
		if head == 2 || head > 6 || len(b) < head || b[2] == 0 {
			return 0, nil, nil, errCRL
		}
		size = 0
		for _, c := range b[2:head] {
			size = size<<8 | uint64(c)
		}
		if size < 0x80 {
			return 0, nil, nil, errCRL
		}
	}
	if size > uint64(len(b)-head) {
		return 0, nil, nil, errCRL
	}
	return b[0], b[head : head+int(size)], b[head+int(size):], nil
}

// parseCRL decodes a CRL. Its signature is not verified.
func parseCRL(der []byte) (*crl, error) {
	tag, list, rest, err := element(der)
	if err != nil || tag != derSequence || len(rest) != 0 {
		return nil, errCRL
	}
	tag, _, afterTBS, err := element(list)
	if err != nil || tag != derSequence {
		return nil, errCRL
	}
	tbs := list[:len(list)-len(afterTBS)]
	entries, short, err := cutEntries(tbs)
	if err != nil {
		return nil, err
	}
	without, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: bytes.Join([][]byte{short, afterTBS}, nil)})
	if err != nil {
		return nil, errCRL
	}
	c := &crl{entries: entries}
	if c.RevocationList, err = x509.ParseRevocationList(without); err != nil {
		return nil, plainChainError(err)
	}
	c.Raw, c.RawTBSRevocationList = der, tbs // what the signature covers
	return c, c.each(func(serial []byte, at time.Time) bool { return true })
}

// cutEntries splits revokedCertificates from a TBSCertList: version, signature, issuer, thisUpdate, nextUpdate
// (optional), revokedCertificates (optional), extensions (optional), and nothing else.
func cutEntries(tbs []byte) (entries, without []byte, err error) {
	_, body, _, err := element(tbs)
	if err != nil {
		return nil, nil, err
	}
	without = tbs
	order := []byte{derInteger, derSequence, derSequence, derUTCTime, derUTCTime, derSequence, derExtensions}
	const nextUpdate, revokedCertificates = 4, 5
	for rest, place := body, 0; len(rest) > 0; place++ {
		tag, content, after, err := element(rest)
		if err != nil {
			return nil, nil, err
		}
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
			before := body[:len(body)-len(rest)]
			entries = content
			if without, err = asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: bytes.Join([][]byte{before, after}, nil)}); err != nil {
				return nil, nil, errCRL
			}
		}
		rest = after
	}
	return entries, without, nil
}

// each walks the entries until do answers false: the serial number's bytes, big-endian, without leading zeros.
func (c *crl) each(do func(serial []byte, at time.Time) bool) error {
	for rest := c.entries; len(rest) > 0; {
		tag, entry, after, err := element(rest)
		if err != nil || tag != derSequence {
			return errCRL
		}
		tag, serial, entry, err := element(entry)
		if err != nil || tag != derInteger || len(serial) == 0 {
			return errCRL
		}
		tag, when, entry, err := element(entry)
		if err != nil || tag != derUTCTime && tag != derGeneralTime {
			return errCRL
		}
		at, err := derTime(tag, when)
		if err != nil {
			return errCRL
		}
		if len(entry) > 0 { // crlEntryExtensions: when and why it was revoked do not make it valid again
			if tag, _, entry, err = element(entry); err != nil || tag != derSequence || len(entry) != 0 {
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
	if tag == derGeneralTime {
		return time.Parse("20060102150405Z", string(text))
	}
	at, err := time.Parse("060102150405Z", string(text))
	if at.Year() >= 2050 {
		at = at.AddDate(-100, 0, 0)
	}
	return at, err
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
