package ima

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// field is a template field (Linux: supported_fields in ima_template.c).
type field uint8

const (
	fieldDigest     field = iota // d: bare digest
	fieldName                    // n: event name, at most 255 bytes
	fieldDigestNG                // d-ng: "alg:\0" and the digest
	fieldDigestNGv2              // d-ngv2: "type:alg:\0" and the digest
	fieldNameNG                  // n-ng: event name with its NUL
	fieldSig                     // sig
	fieldBuf                     // buf
	fieldModDigest               // d-modsig: as d-ng
	fieldModsig                  // modsig
	fieldEVMSig                  // evmsig
	fieldUID                     // iuid: 32 bits
	fieldGID                     // igid: 32 bits
	fieldMode                    // imode: 16 bits
	fieldXattrNames              // xattrnames: text with its NUL
	fieldXattrBytes              // xattrlengths, xattrvalues
)

var fieldNames = map[string]field{
	"d": fieldDigest, "n": fieldName, "d-ng": fieldDigestNG, "d-ngv2": fieldDigestNGv2,
	"n-ng": fieldNameNG, "sig": fieldSig, "buf": fieldBuf, "d-modsig": fieldModDigest,
	"modsig": fieldModsig, "evmsig": fieldEVMSig, "iuid": fieldUID, "igid": fieldGID,
	"imode": fieldMode, "xattrnames": fieldXattrNames, "xattrlengths": fieldXattrBytes,
	"xattrvalues": fieldXattrBytes,
}

// The templates by number. Number 0 is any other.
const (
	templateUnknown uint8 = iota
	templateIMA           // its layout and its hash differ from all others
	templateNamed         // the first of those below
)

type template struct {
	name   string
	fields []field
}

// templates is builtin_templates of ima_template.c.
var templates = [...]template{
	templateUnknown: {},
	templateIMA:     {"ima", []field{fieldDigest, fieldName}},
	templateNamed:   {"ima-ng", []field{fieldDigestNG, fieldNameNG}},
	3:               {"ima-sig", []field{fieldDigestNG, fieldNameNG, fieldSig}},
	4:               {"ima-ngv2", []field{fieldDigestNGv2, fieldNameNG}},
	5:               {"ima-sigv2", []field{fieldDigestNGv2, fieldNameNG, fieldSig}},
	6:               {"ima-buf", []field{fieldDigestNG, fieldNameNG, fieldBuf}},
	7:               {"ima-modsig", []field{fieldDigestNG, fieldNameNG, fieldSig, fieldModDigest, fieldModsig}},
	8: {"evm-sig", []field{fieldDigestNG, fieldNameNG, fieldEVMSig, fieldXattrNames, fieldXattrBytes,
		fieldXattrBytes, fieldUID, fieldGID, fieldMode}},
}

func templateNumber(name []byte) uint8 {
	for i := int(templateIMA); i < len(templates); i++ {
		if string(name) == templates[i].name {
			return uint8(i)
		}
	}
	return templateUnknown
}

// maxFields is TEMPLATE_NUM_FIELDS_MAX of the kernel.
const maxFields = 15

// customFields reads a template format ("d-ng|n-ng|sig") that stands where the name of a template
// would. Only formats that begin with a digest and a name are read: the name of a template is covered by
// no digest, so a freely chosen order would let an attacker read one field as another.
func customFields(name string) []field {
	parts := strings.Split(name, "|")
	if len(parts) < 2 || len(parts) > maxFields {
		return nil
	}
	out := make([]field, 0, len(parts))
	for i, p := range parts {
		f, ok := fieldNames[p]
		isDigest := f == fieldDigest || f == fieldDigestNG || f == fieldDigestNGv2
		isName := f == fieldName || f == fieldNameNG
		if !ok || (i == 0) != isDigest || (i == 1) != isName {
			return nil
		}
		out = append(out, f)
	}
	return out
}

// view is an entry's template data taken apart without copying.
type view struct {
	digestType, alg, digest   []byte
	path                      []byte
	signature, buffer         []byte
	modAlg, modDigest, modsig []byte
	fault                     string // the data does not read as its template: nothing else is set
	signatureFault            string
	isBuffer                  bool // the template has a buffer: a key, a command line, a hash
}

// decode takes template data apart. Data that does not fit gives a fault, never a partial reading that
// could be taken for a good one: digest and path are cleared.
func decode(fields []field, data []byte, order binary.ByteOrder, old bool) view {
	var v view
	v.fault = v.read(fields, data, order, old)
	if v.fault != "" {
		return view{fault: v.fault}
	}
	return v
}

func (v *view) read(fields []field, data []byte, order binary.ByteOrder, old bool) string {
	for i, f := range fields {
		var value []byte
		if old && f == fieldDigest {
			if len(data) < oldDigestSize {
				return "the digest is cut off"
			}
			value, data = data[:oldDigestSize], data[oldDigestSize:]
		} else {
			if len(data) < 4 {
				return fmt.Sprintf("field %d of %d is missing", i+1, len(fields))
			}
			n := order.Uint32(data)
			if uint64(n) > uint64(len(data)-4) {
				return fmt.Sprintf("field %d says %d bytes, but %d are left", i+1, n, len(data)-4)
			}
			value, data = data[4:4+n], data[4+n:]
		}
		if fault := v.set(f, value, old); fault != "" {
			return fault
		}
	}
	if len(data) != 0 {
		return fmt.Sprintf("%d bytes follow the last field", len(data))
	}
	return ""
}

func (v *view) set(f field, b []byte, old bool) (fault string) {
	switch f {
	case fieldDigest:
		v.digest = b
	case fieldDigestNG:
		_, v.alg, v.digest, fault = splitDigest(b, false)
	case fieldDigestNGv2:
		v.digestType, v.alg, v.digest, fault = splitDigest(b, true)
	case fieldName, fieldNameNG:
		if !old {
			if len(b) == 0 || b[len(b)-1] != 0 {
				return "the name does not end with NUL"
			}
			b = b[:len(b)-1]
		}
		if bytes.IndexByte(b, 0) >= 0 {
			return "the name holds a NUL"
		}
		v.path = b
	case fieldSig, fieldEVMSig:
		v.signature, v.signatureFault = b, signatureFault(b)
	case fieldBuf:
		v.buffer, v.isBuffer = b, true
	case fieldModDigest:
		if len(b) > 0 {
			_, v.modAlg, v.modDigest, fault = splitDigest(b, false)
		}
	case fieldModsig:
		v.modsig = b
	case fieldUID, fieldGID:
		if len(b) != 4 && len(b) != 0 {
			return "an owner is not 4 bytes long"
		}
	case fieldMode:
		if len(b) != 2 && len(b) != 0 {
			return "the mode is not 2 bytes long"
		}
	case fieldXattrNames, fieldXattrBytes:
		// Only covered by the template hash; nothing is decided by them.
	}
	return fault
}

// splitDigest reads "alg:\0digest" or, typed, "type:alg:\0digest". An empty alg (":\0") is what some
// kernels write for a violation.
func splitDigest(b []byte, typed bool) (kind, alg, digest []byte, fault string) {
	end := bytes.IndexByte(b, 0)
	if end < 1 || b[end-1] != ':' {
		return nil, nil, nil, "the digest does not begin with its algorithm"
	}
	alg, digest = b[:end-1], b[end+1:]
	if i := bytes.IndexByte(alg, ':'); i >= 0 {
		kind, alg = alg[:i], alg[i+1:]
	}
	if (kind != nil) != typed || bytes.IndexByte(alg, ':') >= 0 {
		return nil, nil, nil, "the digest's type does not fit its template"
	}
	if typed && string(kind) != "ima" && string(kind) != "verity" {
		return nil, nil, nil, "the digest's type is neither ima nor verity"
	}
	if n := digestSize(alg); n != 0 && n != len(digest) {
		return nil, nil, nil, fmt.Sprintf("a %s digest is %d bytes long, not %d", alg, n, len(digest))
	}
	return kind, alg, digest, ""
}

// digestSize is the length of a digest by the kernel's name of its algorithm (hash_algo_name), or 0.
func digestSize(alg []byte) int {
	switch string(alg) {
	case "md4", "md5", "rmd128":
		return 16
	case "sha1", "rmd160":
		return 20
	case "sha224":
		return 28
	case "sha256", "sm3", "sm3_256", "sha3-256", "wp256", "rmd256", "streebog256":
		return 32
	case "rmd320":
		return 40
	case "sha384", "sha3-384", "wp384":
		return 48
	case "sha512", "sha3-512", "wp512", "streebog512":
		return 64
	}
	return 0
}
