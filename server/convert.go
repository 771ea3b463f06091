package server

import (
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

func pageOf[S ~string](limit *openapi.Limit, cursor *openapi.Cursor, sort *S) store.Page {
	return store.Page{Limit: value(limit), Cursor: value(cursor), Sort: text(sort)}
}

// joined is a filter of several values as the store has it; the contract's values hold no comma.
func joined[T ~string](p *[]T) string {
	if p == nil {
		return ""
	}
	values := make([]string, len(*p))
	for i, v := range *p {
		values[i] = string(v)
	}
	return strings.Join(values, ",")
}

// nextCursor is null on the last page.
func nextCursor(next string) *string { return textOrNull(next) }

// value is what p points to, or the zero value.
func value[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}

// text is an optional enumeration of the contract as the store has it: empty if absent.
func text[T ~string](p *T) string {
	if p == nil {
		return ""
	}
	return string(*p)
}

// trueOrNull leaves out what is not so.
func trueOrNull(b bool) *bool {
	if !b {
		return nil
	}
	return &b
}

func textOrNull[T ~string](s T) *string {
	if s == "" {
		return nil
	}
	t := string(s)
	return &t
}

// idOrNull is null for no id.
func idOrNull(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}

// utc is the only way a time leaves the service.
func utc(t time.Time) time.Time { return t.UTC() }

func utcOrNull(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

// each converts a list; the result is never nil, so that it is never null on the wire.
func each[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, v := range in {
		out[i] = f(v)
	}
	return out
}

func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func labelsOf(l *openapi.Labels) map[string]string {
	if l == nil {
		return nil
	}
	return *l
}

func labelsDTO(l map[string]string) map[string]string {
	if l == nil {
		return map[string]string{}
	}
	return l
}

func postureOf(p *openapi.Posture) finding.Posture {
	if p == nil {
		return finding.Posture{}
	}
	return finding.Posture{SecureBootSupported: p.SecureBootSupported, SecureBoot: p.SecureBoot, VTPM: p.Vtpm, AgentInstalled: p.AgentInstalled}
}

func postureDTO(p finding.Posture) openapi.Posture {
	return openapi.Posture{SecureBootSupported: p.SecureBootSupported, SecureBoot: p.SecureBoot, Vtpm: p.VTPM, AgentInstalled: p.AgentInstalled}
}

func selectorOf(s *openapi.Selector) verifier.Selector {
	if s == nil {
		return verifier.Selector{}
	}
	out := verifier.Selector{Labels: labelsOf(s.Labels), ScaleSet: value(s.ScaleSet)}
	for _, p := range value(s.Platform) {
		out.Platform = append(out.Platform, string(p))
	}
	for _, id := range value(s.MachineIds) {
		out.MachineIDs = append(out.MachineIDs, id.String())
	}
	return out
}

// selectorDTO leaves out what does not restrict. Machine ids that are no UUIDs cannot have come in by
// this API; they are left out.
func selectorDTO(s verifier.Selector) openapi.Selector {
	var out openapi.Selector
	if len(s.ScaleSet) > 0 {
		out.ScaleSet = &s.ScaleSet
	}
	if len(s.Labels) > 0 {
		labels := openapi.Labels(s.Labels)
		out.Labels = &labels
	}
	if len(s.Platform) > 0 {
		platforms := each(s.Platform, func(p string) openapi.Platform { return openapi.Platform(p) })
		out.Platform = &platforms
	}
	if len(s.MachineIDs) > 0 {
		ids := make([]uuid.UUID, 0, len(s.MachineIDs))
		for _, text := range s.MachineIDs {
			if id, err := uuid.Parse(text); err == nil {
				ids = append(ids, id)
			}
		}
		out.MachineIds = &ids
	}
	return out
}

func challengeDTO(c *attest.Challenge) openapi.Challenge {
	return openapi.Challenge{
		Nonce: c.Nonce[:], ExpiresAt: utc(c.ExpiresAt), PcrSelection: c.PCRSelection,
		KnownEventLog: c.KnownEventLog, KnownPlatformEvidence: c.KnownPlatformEvidence, ImaLogOffset: c.IMALogOffset,
	}
}

// inFuture refuses an end that has passed already.
func inFuture(pointer string, t *time.Time, now time.Time) error {
	if t != nil && !t.After(now) {
		return refuseField(codeInvalidField, pointer, "it has passed already")
	}
	return nil
}
