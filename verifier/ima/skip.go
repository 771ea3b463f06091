package ima

import (
	"bytes"
	"fmt"
)

// Skip returns raw without its first entries: what a machine sends when the verifier has read as many of
// the list (ima_log_offset of a challenge). A list that has no more than that gives an empty result, one
// that has fewer an error, since then it is not the list that was read before. raw is either format.
func Skip(raw []byte, entries int) ([]byte, error) {
	if entries == 0 {
		return raw, nil
	}
	fewer := func(n int) error {
		return fmt.Errorf("the IMA list has %d entries, fewer than the %d to skip", n, entries)
	}
	if len(raw) > 0 && raw[0] >= ' ' {
		rest := raw
		for i := range entries {
			if len(rest) == 0 {
				return nil, fewer(i)
			}
			_, rest, _ = bytes.Cut(rest, []byte{'\n'})
		}
		return rest, nil
	}
	l, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	switch n := l.Len(); {
	case n < entries:
		return nil, fewer(n)
	case n == entries:
		return raw[len(raw):], nil
	}
	return raw[l.recs[entries].off-4:], nil
}
