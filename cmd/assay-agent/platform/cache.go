package platform

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"time"
)

// cacheFile lies in the state directory. What it holds is public, and only saves requests: it may be deleted.
const cacheFile = "platform-cache.json"

const maxCache = 1 << 20

// keptData is what need not be asked for again: one report with its quote, and one chip's certificates.
type keptData struct {
	Azure        *keptReport       `json:"azure,omitempty"`
	Certificates *keptCertificates `json:"certificates,omitempty"`
}

type keptReport struct {
	Content string `json:"content"` // hclReport.content
	Report  []byte `json:"report"`
	Quote   []byte `json:"quote,omitempty"`
}

type keptCertificates struct {
	Chip  string    `json:"chip"` // hclReport.chip
	DER   [][]byte  `json:"der"`
	Until time.Time `json:"until,omitzero"` // zero: for as long as the chip and its TCB stay
}

// cache keeps it in a file, or in memory when it has no path.
type cache struct {
	path   string
	memory keptData
}

// load reads what was kept. A file that is damaged is as good as none.
func (c *cache) load() *keptData {
	kept := c.memory
	if c.path == "" {
		return &kept
	}
	raw, err := readBounded(c.path, maxCache)
	if err != nil || json.Unmarshal(raw, &kept) != nil {
		return &keptData{}
	}
	return &kept
}

// store writes a file of mode 0600 whole or not at all.
func (c *cache) store(kept *keptData) (err error) {
	if c.path == "" {
		c.memory = *kept
		return nil
	}
	raw, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(c.path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), c.path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
