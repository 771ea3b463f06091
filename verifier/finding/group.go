package finding

import (
	"crypto/sha256"
	"strings"
)

// Group is what the alerts of one cause share, on whatever machines: they are one incident. It holds nothing that is of
// one machine alone.
//
// The zero Group stands for all alerts of the code and reason.
type Group struct {
	// Cause names what happened, in stable words: it is part of the key.
	Cause []string
	// Title says it to people, without a machine ("grubx64.efi changed"). Empty stands for the alert's display name.
	Title string
}

// GroupKey is the SHA-256 that alerts of one cause share: over code, reason and the parts of the cause, each ended by a
// zero byte. Migration 0012 computes it likewise for alerts that were there before.
func (a *Alert) GroupKey() [32]byte {
	h := sha256.New()
	for _, part := range append([]string{a.Code, string(a.Reason)}, a.Group.Cause...) {
		h.Write([]byte(strings.ReplaceAll(part, "\x00", "\uFFFD")))
		h.Write([]byte{0})
	}
	return [32]byte(h.Sum(nil))
}

// GroupTitle is what the alerts of the cause are called.
func (a *Alert) GroupTitle() string {
	if a.Group.Title != "" {
		return a.Group.Title
	}
	return a.DisplayName
}
