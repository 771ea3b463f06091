package ima

import "fmt"

// PCR is the register that IMA extends by default (Linux: CONFIG_IMA_MEASURE_PCR_IDX).
const PCR = 10

// State is how far a machine's IMA list has been read: the entry count and PCR 10 of each bank after
// those entries. It makes the next appraisal incremental.
type State struct {
	Entries int               `json:"entries"`
	PCR     map[string][]byte `json:"pcr"` // bank name -> PCR 10 after Entries entries
	// Padded tells, for each bank whose rule is known, whether the kernel extends it with the zero-padded
	// SHA-1 template hash instead of the hash in the bank's own algorithm. A bank keeps its rule for the
	// whole boot; a bank that is absent has shown no entry yet that tells the two apart.
	Padded map[string]bool `json:"padded,omitempty"`
	// Modsig: a proven entry of this boot carries an appended signature. IMA collects these only where its policy asks for
	// them, so that before one was seen, an entry without says nothing.
	Modsig bool `json:"modsig,omitempty"`
}

// ParseError tells where a list cannot be read. Line is set (from 1) for ASCII lists, Offset (in bytes)
// for binary ones.
type ParseError struct {
	Line   int // 0 for a binary list
	Offset int
	Entry  int // index of the entry, from 0
	Detail string
}

// Error implements error.
func (e *ParseError) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("IMA list, line %d (entry %d): %s", e.Line, e.Entry, e.Detail)
	}
	return fmt.Sprintf("IMA list, byte %d (entry %d): %s", e.Offset, e.Entry, e.Detail)
}

// Entry is one measurement as the list states it. Byte slices alias the list.
type Entry struct {
	Index        int // position in this list, from 0
	PCR          int
	TemplateName string
	TemplateHash []byte // as stated; all zero for a violation
	TemplateData []byte // what the template hash covers; nil for an unknown template of an ASCII list

	DigestType    string // "ima" or "verity" in templates with d-ngv2, else empty
	FileDigestAlg string // "sha256"; empty where the list does not name it
	FileDigest    []byte
	Path          string // file path, or the name of the event for boot_aggregate and buffers
	Signature     []byte // security.ima or security.evm signature
	Buffer        []byte // data of ima-buf, for example a key or a kernel command line
	hasBuffer     bool
	ModsigAlg     string // ima-modsig: the digest without the appended signature, and that signature
	ModsigDigest  []byte
	Modsig        []byte

	// Violation: the file was open for writing while it was measured, or the reverse (open_writers,
	// ToMToU). Nothing covers the entry's data.
	Violation bool
	// Fault is why the template data does not read as the template says, or what is wrong with the
	// signature's header; or empty.
	Fault string
}

// Digest is the file digest in the form that reference values use: "sha256:<hex>", or
// "verity:sha256:<hex>" for the digest of an fs-verity file.
func (e *Entry) Digest() string {
	return digestText(e.DigestType, e.FileDigestAlg, e.FileDigest)
}

func digestText(kind, alg string, digest []byte) string {
	if alg == "" {
		alg = algBySize(len(digest))
	}
	if kind == "verity" {
		return fmt.Sprintf("verity:%s:%x", alg, digest)
	}
	return fmt.Sprintf("%s:%x", alg, digest)
}

// algBySize names the digest of templates that do not: the old template holds MD5 or SHA-1.
func algBySize(n int) string {
	if n == 16 {
		return "md5"
	}
	return "sha1"
}
