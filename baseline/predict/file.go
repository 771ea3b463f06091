package predict

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// File is what is known of one file of the boot: an entry of a file manifest. ReadFile makes it of the file itself.
type File struct {
	Name string `json:"-"` // for people: the name that the file was given by
	Size int64  `json:"size"`
	// Digests of the whole file, by bank. In JSON they stand beside size.
	Digests Digests `json:"-"`
	// Authenticode hashes of a PE image, by bank.
	Authenticode Digests `json:"authenticode,omitempty"`
	// Text of a configuration file.
	Text *string `json:"text,omitempty"`
	// Signatures of a PE image: for each the DER certificates, the signer's first.
	Signatures [][][]byte `json:"signatures,omitempty"`
	// SignatureFault is why what is signed cannot be relied on.
	SignatureFault string `json:"signature_fault,omitempty"`
	// SBAT is the section .sbat as text.
	SBAT string `json:"sbat,omitempty"`
	// SystemdBoot is the version of a systemd-boot image.
	SystemdBoot string `json:"systemd_boot,omitempty"`
	Shim        *Shim  `json:"shim,omitempty"`
	GRUB        *GRUB  `json:"grub,omitempty"`
	UKI         *UKI   `json:"uki,omitempty"`

	// reader is set where the file itself is at hand.
	reader io.ReaderAt
}

// MarshalJSON writes the digests beside the other members.
func (f *File) MarshalJSON() ([]byte, error) {
	type plain File
	b, err := json.Marshal((*plain)(f))
	if err != nil {
		return nil, err
	}
	d, err := json.Marshal(f.Digests)
	if err != nil || len(f.Digests) == 0 {
		return b, err
	}
	return append(append(b[:len(b)-1], ','), d[1:]...), nil
}

// maxTextFile bounds a configuration file.
const maxTextFile = 1 << 20

// ReadFile computes what a prediction needs of a file. It reads the file in pieces; text and facts are bounded.
func ReadFile(name string, r io.ReaderAt, size int64, algs []tpm.HashAlg) (*File, error) {
	f := &File{Name: name, Size: size, reader: r}
	var err error
	if f.Digests, err = digestReader(algs, io.NewSectionReader(r, 0, size)); err != nil {
		return nil, errorf(CodeMissingInput, name, "", "cannot be read: %v", err)
	}
	magic := make([]byte, 2)
	if n, _ := r.ReadAt(magic, 0); n == 2 && bytes.Equal(magic, []byte("MZ")) {
		return f, f.readImage(algs)
	}
	if size <= maxTextFile && isConfig(name) {
		b := make([]byte, size)
		if _, err := r.ReadAt(b, 0); err != nil && err != io.EOF { //nolint:errorlint // io.ReaderAt returns io.EOF itself
			return nil, errorf(CodeMissingInput, name, "", "cannot be read: %v", err)
		}
		if utf8.Valid(b) {
			text := string(b)
			f.Text = &text
		}
	}
	return f, nil
}

func isConfig(name string) bool {
	return strings.HasSuffix(name, ".cfg") || strings.HasSuffix(name, ".conf")
}

// readImage computes what is measured of a PE image and reads who signed it and what it is.
func (f *File) readImage(algs []tpm.HashAlg) error {
	p, err := parsePE(f.Name, f.reader, f.Size)
	if err != nil {
		return err
	}
	// dbx and db hold SHA-256 hashes whatever banks are asked for.
	withSHA256 := append([]tpm.HashAlg{tpm.SHA256}, without(algs, tpm.SHA256)...)
	if f.Authenticode, err = p.authenticode(withSHA256); err != nil {
		return err
	}
	signatures, err := p.signatures()
	if err != nil {
		f.SignatureFault = err.Error()
	}
	for i := range signatures {
		var chain [][]byte
		for _, c := range signatures[i].Chain {
			chain = append(chain, c.Raw)
		}
		f.Signatures = append(f.Signatures, chain)
	}
	if f.SBAT, _, err = p.text(".sbat"); err != nil {
		return err
	}
	if what, version, err := p.systemdVersion(); err != nil {
		return err
	} else if what == "systemd-boot" {
		f.SystemdBoot = version
	}
	if f.Shim, err = p.readShim(); err != nil {
		return err
	}
	if f.GRUB, err = p.readGRUB(); err != nil {
		return err
	}
	f.UKI, err = p.readUKI(algs)
	return err
}

func without(algs []tpm.HashAlg, alg tpm.HashAlg) []tpm.HashAlg {
	var out []tpm.HashAlg
	for _, a := range algs {
		if a != alg {
			out = append(out, a)
		}
	}
	return out
}

// signatures parses the certificates again; those of a manifest may be unreadable.
func (f *File) signatures() []Signature {
	var out []Signature
	for _, chain := range f.Signatures {
		var s Signature
		for _, der := range chain {
			c, err := x509.ParseCertificate(der)
			if err != nil {
				break
			}
			s.Chain = append(s.Chain, c)
		}
		if len(s.Chain) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// knowsSigner tells whether it is known who signed the image, nobody included.
func (f *File) knowsSigner() bool {
	return f.SignatureFault == "" && (f.reader != nil || len(f.Signatures) > 0)
}

// sbatVersion is the version that the image's last SBAT entry of a vendor states: component, generation, vendor,
// package, version, address (shim, SBAT.md).
func (f *File) sbatVersion(component string) string {
	version := ""
	for _, line := range strings.Split(f.SBAT, "\n") {
		fields := strings.Split(strings.TrimSpace(line), ",")
		if len(fields) < 5 || fields[0] == "sbat" || fields[0] != component && !strings.HasPrefix(fields[0], component+".") {
			continue
		}
		version = fields[4]
	}
	return version
}

// hasSBAT tells whether the image's SBAT has an entry of this name.
func (f *File) hasSBAT(name string) bool {
	for _, line := range strings.Split(f.SBAT, "\n") {
		if strings.HasPrefix(line, name+",") {
			return true
		}
	}
	return false
}

// describe tells who signed the image and its version, as far as is known: ", signed by X, version Y".
func (f *File) describe(component string) string {
	var out string
	var names []string
	for _, s := range f.signatures() {
		names = append(names, s.Signer())
	}
	switch {
	case len(names) > 0:
		out = ", signed by " + strings.Join(names, " and ")
	case f.reader != nil && f.SignatureFault == "":
		out = ", not signed"
	}
	version := f.sbatVersion(component)
	if f.SystemdBoot != "" {
		version = f.SystemdBoot
	}
	if version != "" {
		out += ", version " + version
	}
	return out
}
