package baseline

import (
	"errors"
	"fmt"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/ima"
)

// ErrNoIMA is returned where the evidence does not prove an IMA list from the first entry of the boot on.
var ErrNoIMA = errors.New("the evidence proves no IMA list from the start of the boot on")

// CaptureIMA makes a file list of the entries that the evidence of a machine that is known to be good proves: each file
// with the digests that it had, the keys that were loaded into keyrings, and other measured buffers. Entries that prove
// nothing (violations, unreadable ones, those of another PCR) are left out, and counted in a note. ErrNotGenuine, ErrNoIMA.
func CaptureIMA(a *verifier.Appraisal) (out *verifier.ReferenceIMA, notes []string, err error) {
	if a == nil || !a.Genuine {
		return nil, nil, ErrNotGenuine
	}
	if a.IMA == nil || a.IMAReport.Status != ima.Pass || a.IMAReport.First != 0 || a.IMAReport.Matched == 0 {
		return nil, nil, ErrNoIMA
	}
	c := imaCapture{out: &verifier.ReferenceIMA{}, files: map[string]int{}, seen: map[string]bool{}}
	for i := range a.IMAReport.Matched {
		e := a.IMA.Entry(i)
		c.entry(&e, i == 0)
	}
	if c.left > 0 {
		notes = append(notes, fmt.Sprintf("%d entries of the IMA list are not taken: violations, and what cannot be read or is measured into another PCR", c.left))
	}
	if len(c.out.Allow) == 0 && len(c.out.Keyrings) == 0 && len(c.out.Buffers) == 0 {
		return nil, nil, fmt.Errorf("%w: it holds boot_aggregate alone", ErrNoIMA)
	}
	return c.out, notes, nil
}

type imaCapture struct {
	out   *verifier.ReferenceIMA
	files map[string]int // path -> index in Allow
	seen  map[string]bool
	left  int
}

func (c *imaCapture) entry(e *ima.Entry, first bool) {
	switch {
	case e.Violation || e.Fault != "" || e.PCR != ima.PCR || e.Path == "" || e.Digest() == "":
		c.left++
		return
	case first && e.Path == ima.BootAggregateName:
		return
	}
	digest := e.Digest()
	if id := e.Path + "\x00" + digest; c.seen[id] {
		return
	} else {
		c.seen[id] = true
	}
	switch e.BufferKind() {
	case ima.BufferKey:
		put(&c.out.Keyrings, e.Path, digest)
	case ima.BufferOther:
		put(&c.out.Buffers, e.Path, digest)
	default:
		i, known := c.files[e.Path]
		if !known {
			i = len(c.out.Allow)
			c.files[e.Path] = i
			c.out.Allow = append(c.out.Allow, verifier.ReferenceFile{Path: ima.EscapeGlob(e.Path)})
		}
		c.out.Allow[i].Digests = append(c.out.Allow[i].Digests, digest)
	}
}

func put(into *map[string][]string, name, digest string) {
	if *into == nil {
		*into = map[string][]string{}
	}
	(*into)[name] = append((*into)[name], digest)
}
