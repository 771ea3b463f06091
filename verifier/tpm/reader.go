package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// maxStructure bounds every structure that this package parses: the largest legal one, a
// TPMT_PUBLIC of an RSA-4096 key with a policy, has some 620 bytes.
const maxStructure = 1024

// reader walks big-endian TPM structures (Part 2, section 4.1 "data marshaling"). The first read
// past the end is remembered with its place; reads after it return zero values, so a parser checks
// err once at its end. What bytes2B returns aliases the input.
type reader struct {
	buf []byte
	off int
	err error
}

func newReader(what string, b []byte) *reader {
	r := &reader{buf: b}
	if len(b) == 0 {
		r.err = fmt.Errorf("%s is empty", what)
	} else if len(b) > maxStructure {
		r.err = fmt.Errorf("%s has %d bytes, more than the %d that a TPM can make", what, len(b), maxStructure)
	}
	return r
}

// failf keeps the first error only, with the offset at which it was noticed.
func (r *reader) failf(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("at byte %d: %w", r.off, fmt.Errorf(format, args...))
	}
}

var errShort = errors.New("the structure ends early")

func (r *reader) next(n int, field string) []byte {
	if r.err != nil {
		return nil
	}
	if n > len(r.buf)-r.off {
		r.err = fmt.Errorf("at byte %d: %s needs %d bytes, %d are left: %w", r.off, field, n, len(r.buf)-r.off, errShort)
		return nil
	}
	b := r.buf[r.off : r.off+n : r.off+n]
	r.off += n
	return b
}

func (r *reader) u8(field string) uint8 {
	if b := r.next(1, field); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16(field string) uint16 {
	if b := r.next(2, field); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32(field string) uint32 {
	if b := r.next(4, field); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64(field string) uint64 {
	if b := r.next(8, field); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// bytes2B reads a TPM2B: a 16-bit size, at most limit, and that many bytes.
func (r *reader) bytes2B(limit int, field string) []byte {
	n := int(r.u16(field + " size"))
	if r.err == nil && n > limit {
		r.off -= 2
		r.failf("%s has a size of %d, at most %d is possible", field, n, limit)
	}
	return r.next(n, field)
}

// end is the error so far, or one that says that bytes are left over.
func (r *reader) end() error {
	if r.err == nil && r.off != len(r.buf) {
		r.failf("%d bytes follow the structure", len(r.buf)-r.off)
	}
	return r.err
}
