// Package anchors is the vendors' roots and intermediates as data: what a service may offer its tenants to trust.
// Nothing here is trusted by being here. Each file of bundle/ is one anchor: certificates of one vendor for one
// purpose. bundle.json says where each certificate comes from, and its fingerprint, which is what is checked: a
// certificate that was put into a file by mistake or by malice is an error, until somebody writes it down too.
package anchors

import (
	"crypto/sha256"
	"crypto/x509"
	"embed"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"sync"
	"time"
)

//go:embed bundle
var files embed.FS

// The purposes of the bundle's anchors, as the API spells them.
const (
	EK  = "ek"  // certificates of endorsement keys of TPMs
	AK  = "ak"  // certificates of attestation keys that clouds issue
	SNP = "snp" // AMD SEV-SNP
	TDX = "tdx" // Intel TDX
)

// Anchor is one file of the bundle.
type Anchor struct {
	File         string // "snp-amd.pem"
	Name         string // for people
	Purpose      string
	Source       string // project@commit (licence), one or several
	Certificates []*x509.Certificate
}

// entry is an anchor as bundle.json lists it.
type entry struct {
	File         string   `json:"file"`
	Name         string   `json:"name"`
	Purpose      string   `json:"purpose"`
	Source       string   `json:"source"`
	Certificates []listed `json:"certificates"`
}

// listed is a certificate as bundle.json lists it.
type listed struct {
	Subject  string    `json:"subject"`
	SHA256   string    `json:"sha256"`
	NotAfter time.Time `json:"not_after"`
	Source   string    `json:"source"` // project@commit:path (licence)
}

var bundle = sync.OnceValues(func() ([]Anchor, error) {
	index, err := files.ReadFile("bundle/bundle.json")
	if err != nil {
		return nil, err
	}
	return read(index, func(name string) ([]byte, error) { return files.ReadFile("bundle/" + name) })
})

// Bundle is all anchors that are shipped, in the order of their files. It fails where a certificate is not exactly as it
// is listed. The answer is shared and must not be modified.
func Bundle() ([]Anchor, error) { return bundle() }

// Purpose is the certificates of all anchors of a purpose; none where Bundle fails.
func Purpose(purpose string) []*x509.Certificate {
	all, err := bundle()
	if err != nil {
		return nil
	}
	var out []*x509.Certificate
	for _, a := range all {
		if a.Purpose == purpose {
			out = append(out, a.Certificates...)
		}
	}
	return out
}

func read(index []byte, open func(name string) ([]byte, error)) ([]Anchor, error) {
	var entries []entry
	if err := json.Unmarshal(index, &entries); err != nil {
		return nil, fmt.Errorf("bundle.json: %w", err)
	}
	out := make([]Anchor, len(entries))
	for i, e := range entries {
		body, err := open(e.File)
		if err != nil {
			return nil, err
		}
		if !slices.Contains([]string{EK, AK, SNP, TDX}, e.Purpose) {
			return nil, fmt.Errorf("%s: %q is no purpose", e.File, e.Purpose)
		}
		out[i] = Anchor{File: e.File, Name: e.Name, Purpose: e.Purpose, Source: e.Source}
		if out[i].Certificates, err = certificates(body); err != nil {
			return nil, fmt.Errorf("%s: %w", e.File, err)
		}
		if have, want := len(out[i].Certificates), len(e.Certificates); have != want {
			return nil, fmt.Errorf("%s: %d certificates, %d are listed", e.File, have, want)
		}
		for n, c := range out[i].Certificates {
			if err := e.Certificates[n].is(c); err != nil {
				return nil, fmt.Errorf("%s: certificate %d: %w", e.File, n+1, err)
			}
		}
	}
	return out, nil
}

// certificates reads a file that holds PEM certificates and nothing else.
func certificates(body []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for len(body) > 0 {
		block, rest := pem.Decode(body)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("after certificate %d comes something else", len(out))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out)+1, err)
		}
		out, body = append(out, c), rest
	}
	return out, nil
}

func (l *listed) is(c *x509.Certificate) error {
	switch sum := fingerprint(c); {
	case sum != l.SHA256:
		return fmt.Errorf("its SHA-256 is %s, listed is %s", sum, l.SHA256)
	case c.Subject.String() != l.Subject:
		return fmt.Errorf("its subject is %q, listed is %q", c.Subject, l.Subject)
	case !c.NotAfter.Equal(l.NotAfter):
		return fmt.Errorf("it ends %s, listed is %s", c.NotAfter, l.NotAfter)
	case !c.IsCA:
		return fmt.Errorf("%q is no authority", c.Subject)
	}
	return nil
}

func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
