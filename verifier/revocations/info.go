package revocations

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Advisory is what is known of one revoked thing.
type Advisory struct {
	Architecture string   `json:"architecture,omitempty"` // x64, ia32, aarch64, arm
	File         string   `json:"file,omitempty"`
	Company      string   `json:"company,omitempty"`
	Description  string   `json:"description,omitempty"`
	CVEs         []string `json:"cves,omitempty"`
	SignedBy     string   `json:"signed_by,omitempty"`
	Added        string   `json:"added,omitempty"` // date, 2026-04-09

	optional bool // the list says that the revocation is not meant for every machine
}

// Info is the list in which Microsoft explains dbx: dbx_info_msft_*.json of github.com/microsoft/secureboot_objects.
// It is not signed; whoever imports it vouches for it.
type Info struct {
	// Version is the newest date in it.
	Version string

	images       map[[32]byte]Advisory
	certificates map[[20]byte]Advisory // by the SHA-1 of the DER, as the list has it
	svns         map[[16]byte]Advisory
}

// MaxInfo is the largest list that is read.
const MaxInfo = 8 << 20

// infoFile is the list as it is written.
type infoFile struct {
	Images map[string][]struct {
		AuthenticodeHash string `json:"authenticodeHash"`
		HashType         string `json:"hashType"`
		Filename         string `json:"filename"`
		Description      string `json:"description"`
		CompanyName      string `json:"companyName"`
		DateOfAddition   string `json:"dateOfAddition"`
		SigningAuthority string `json:"signingAuthority"`
		IsOptional       any    `json:"isOptional"` // true or "true"
	} `json:"images"`
	Certificates []struct {
		Thumbprint     string `json:"thumbprint"`
		SubjectName    string `json:"subjectName"`
		IssuerName     string `json:"issuerName"`
		Description    string `json:"description"`
		DateOfAddition string `json:"dateOfAddition"`
	} `json:"certificates"`
	SVNs []struct {
		Value            string `json:"value"`
		Filename         string `json:"filename"`
		Description      string `json:"description"`
		DateOfLastChange string `json:"dateOfLastChange"`
	} `json:"svns"`
}

var cve = regexp.MustCompile(`CVE-[0-9]{4}-[0-9]{4,7}`)

// ParseInfo reads such a list. Fields that it does not know are passed over, since the list gains some now and then.
// Errors name the element as a JSON pointer.
func ParseInfo(raw []byte) (*Info, error) {
	if len(raw) > MaxInfo {
		return nil, fmt.Errorf("%d bytes are more than %d", len(raw), MaxInfo)
	}
	var file infoFile
	if err := json.Unmarshal(raw, &file); err != nil {
		return nil, fmt.Errorf("it is no list of dbx in JSON: %w", err)
	}
	info := &Info{images: map[[32]byte]Advisory{}, certificates: map[[20]byte]Advisory{}, svns: map[[16]byte]Advisory{}}
	architectures := make([]string, 0, len(file.Images))
	for architecture := range file.Images {
		architectures = append(architectures, architecture)
	}
	slices.Sort(architectures)
	count := 0
	for _, architecture := range architectures {
		for i, x := range file.Images[architecture] {
			at := fmt.Sprintf("/images/%s/%d", architecture, i)
			if count++; count > maxEntries {
				return nil, fmt.Errorf("%s: more than %d images", at, maxEntries)
			}
			digest, err := hexOf[[32]byte](x.AuthenticodeHash)
			if err != nil || x.HashType != "SHA256" {
				return nil, fmt.Errorf("%s/authenticodeHash: it is no SHA-256 in hex", at)
			}
			if err := info.date(at+"/dateOfAddition", x.DateOfAddition); err != nil {
				return nil, err
			}
			if _, again := info.images[digest]; again {
				continue // an image of two architectures
			}
			info.images[digest] = Advisory{Architecture: architecture, File: clean(x.Filename), Company: clean(x.CompanyName), Description: clean(x.Description),
				CVEs: cve.FindAllString(x.Description, -1), SignedBy: strings.TrimPrefix(clean(x.SigningAuthority), "CN = "), Added: x.DateOfAddition,
				optional: fmt.Sprint(x.IsOptional) == "true"}
		}
	}
	if count == 0 {
		return nil, fmt.Errorf("/images: the list names no image")
	}
	return info, info.others(&file)
}

// others reads certificates and security version numbers.
func (info *Info) others(file *infoFile) error {
	for i, x := range file.Certificates {
		at := fmt.Sprintf("/certificates/%d", i)
		thumbprint, err := hexOf[[20]byte](x.Thumbprint)
		if err != nil {
			return fmt.Errorf("%s/thumbprint: it is no SHA-1 in hex", at)
		}
		if err := info.date(at+"/dateOfAddition", x.DateOfAddition); err != nil {
			return err
		}
		info.certificates[thumbprint] = Advisory{File: strings.TrimPrefix(clean(x.SubjectName), "CN = "), SignedBy: strings.TrimPrefix(clean(x.IssuerName), "CN = "),
			Description: clean(x.Description), CVEs: cve.FindAllString(x.Description, -1), Added: x.DateOfAddition}
	}
	for i, x := range file.SVNs {
		at := fmt.Sprintf("/svns/%d", i)
		value, err := hexOf[[32]byte](x.Value)
		s, ok := parseSVN(value[:])
		if err != nil || !ok {
			return fmt.Errorf("%s/value: it is no security version number", at)
		}
		if err := info.date(at+"/dateOfLastChange", x.DateOfLastChange); err != nil {
			return err
		}
		info.svns[s.application] = Advisory{File: clean(x.Filename), Description: clean(x.Description), CVEs: cve.FindAllString(x.Description, -1), Added: x.DateOfLastChange}
	}
	return nil
}

// date takes one date into account for the version.
func (info *Info) date(at, text string) error {
	if _, err := time.Parse(time.DateOnly, text); err != nil {
		return fmt.Errorf("%s: %q is no date", at, clean(text))
	}
	info.Version = max(info.Version, text)
	return nil
}

// Entries is the number of things that the list explains.
func (info *Info) Entries() int { return len(info.images) + len(info.certificates) + len(info.svns) }

// hexOf reads the hex of a digest.
func hexOf[T [20]byte | [32]byte](text string) (out T, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(out) {
		return out, fmt.Errorf("no hex of %d bytes", len(out))
	}
	switch o := any(&out).(type) {
	case *[20]byte:
		copy(o[:], raw)
	case *[32]byte:
		copy(o[:], raw)
	}
	return out, nil
}

// maxText bounds texts of lists.
const maxText = 300

// clean makes a text of a list fit to be shown: one line, bounded.
func clean(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "\uFFFD")), " ")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}
