package bundle

import (
	"archive/zip"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/assay-verifier/assay/verifier/chain"
	"github.com/assay-verifier/assay/verifier/tee"
)

// Writer writes a bundle to a stream. In memory it holds one entry, and the names of those that it has written. The order of calls is
// that of the package documentation, so that the same content gives the same bytes.
type Writer struct {
	zip      *zip.Writer
	written  map[string]struct{} // entries that are named by their content
	Verdicts int64
}

// NewWriter writes the header.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	out := &Writer{zip: zip.NewWriter(w), written: map[string]struct{}{}}
	h.Format = Format
	return out, out.json("bundle.json", h)
}

func (w *Writer) json(name string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.entry(name, body)
}

func (w *Writer) entry(name string, body []byte) error {
	// No times: they would differ each time.
	e, err := w.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate})
	if err == nil {
		_, err = e.Write(body)
	}
	if err != nil {
		return fmt.Errorf("bundle: write %s: %w", name, err)
	}
	return nil
}

// once writes an entry that is named by its content, unless it was written before.
func (w *Writer) once(name string, content func() ([]byte, error)) error {
	if _, done := w.written[name]; done {
		return nil
	}
	body, err := content()
	if err != nil || body == nil { // what is not held any more is left out, and whoever reads the bundle is told
		return err
	}
	w.written[name] = struct{}{}
	return w.entry(name, body)
}

// Checkpoint writes the newest checkpoint.
func (w *Writer) Checkpoint(s Signed) error { return w.json("checkpoint.json", s) }

// Machine begins a machine.
func (w *Writer) Machine(m Machine) error {
	return w.json("machines/"+m.MachineID+"/machine.json", m)
}

// Held is what of a verdict is not hashed, and the evidence, where it is held.
type Held struct {
	Hash         []byte
	LastAt       time.Time
	Count        int64
	SupersededBy string
	EvidenceType string
	Evidence     []byte
}

// Verdict writes a verdict and its evidence. What it names by content has to be written before.
func (w *Writer) Verdict(c *chain.Verdict, h Held) error {
	v := newVerdict(c, h.Hash)
	v.LastAt, v.Count, v.SupersededBy, v.EvidenceType = h.LastAt.UTC(), h.Count, h.SupersededBy, h.EvidenceType
	folder := verdictFolder(c.MachineID, c.Seq)
	if err := w.json(folder+"verdict.json", v); err != nil {
		return err
	}
	if err := w.entry(folder+"appraisal.json", c.Appraisal); err != nil {
		return err
	}
	if c.JudgedBy != nil {
		if err := w.entry(folder+"judged-by.json", c.JudgedBy); err != nil {
			return err
		}
	}
	w.Verdicts++
	if h.EvidenceType == "" {
		return nil
	}
	return w.entry(folder+"evidence", h.Evidence)
}

// EventLog writes a boot log; content is asked once, and answers nil where it is not held, as for all that follows.
func (w *Writer) EventLog(digest []byte, content func() ([]byte, error)) error {
	return w.once(folderLogs+hex.EncodeToString(digest), content)
}

// ReferenceValues writes reference values.
func (w *Writer) ReferenceValues(digest string, content func() ([]byte, error)) error {
	return w.once(folderReferences+digest+".json", content)
}

// PlatformEvidence writes hardware evidence by its own digest.
func (w *Writer) PlatformEvidence(digest [32]byte, content func() ([]byte, error)) error {
	return w.once(folderPlatforms+hex.EncodeToString(digest[:])+".json", content)
}

// Collateral writes a piece of collateral, if it is still the one that is named.
func (w *Writer) Collateral(name Collateral, content func() (*tee.Collateral, error)) error {
	return w.once(folderCollateral+name.SHA256+".json", func() ([]byte, error) {
		c, err := content()
		if err != nil || c == nil {
			return nil, err
		}
		entry, is, err := MarshalCollateral(c)
		if err != nil || is.SHA256 != name.SHA256 {
			return nil, err
		}
		return entry, nil
	})
}

// Anchor writes a certificate.
func (w *Writer) Anchor(digest string, content func() ([]byte, error)) error {
	return w.once(folderAnchors+digest+".der", content)
}

// Close ends the archive; without it nobody can read it.
func (w *Writer) Close() error { return w.zip.Close() }
