package eventlog

import (
	"reflect"
	"sync"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Measurements is what a replay proved. Only Replay and ReplayRTMR make it. Of a TDX guest's registers, the
// index of an RTMR stands where that of a PCR does, and tpm.RTMR where the bank does. The zero value proves nothing.
type Measurements struct {
	log   *Log
	view  *view // nil: nothing was proved
	empty bool
}

// viewKey names a set of proven PCRs: of which segment, and for each PCR the banks (bit i is the
// segment's i-th algorithm) in which it replayed.
type viewKey struct {
	segment   int
	registers bool // of RTMRs
	proven    [tpm.NumPCRs]uint16
}

// view is the decoded log as far as a set of PCRs proves it. It is immutable but for what is drawn from it,
// which is made once.
type view struct {
	key          viewKey
	events       []Event
	contradicted []int

	claimsOnce sync.Once
	claims     *Claims

	jsonOnce sync.Once
	json     []byte
	jsonErr  error

	derived sync.Map // reflect.Type of the key -> memo (Derived)
}

// view decodes the events that the key proves, or finds them decoded.
func (l *Log) view(key viewKey) *view {
	if v := l.proven.Load(); v != nil && v.key == key {
		return v
	}
	v := &view{key: key}
	v.events, v.contradicted = l.decode(&l.segments[key.segment], &key.proven, key.registers)
	l.proven.Store(v)
	return v
}

// Empty tells whether there was no log at all: what only a log can tell is then unknown.
func (m *Measurements) Empty() bool { return m.empty }

// Verified tells whether PCR index replayed, in at least one bank.
func (m *Measurements) Verified(index int) bool {
	return m.view != nil && index >= 0 && index < tpm.NumPCRs && m.view.key.proven[index] != 0
}

// Banks lists the banks in which at least one PCR replayed.
func (m *Measurements) Banks() []tpm.HashAlg {
	if m.view == nil {
		return nil
	}
	var all uint16
	for _, banks := range m.view.key.proven {
		all |= banks
	}
	if m.view.key.registers {
		if all == 0 {
			return nil
		}
		return []tpm.HashAlg{tpm.RTMR}
	}
	var out []tpm.HashAlg
	for i, a := range m.log.segments[m.view.key.segment].algorithms {
		if all&(1<<i) != 0 {
			out = append(out, a.id)
		}
	}
	return out
}

// Events lists, in the order of the log, the events that extended a PCR which replayed. An event has
// only the digests of banks that replayed, and Covered is judged by those alone. The slice is shared:
// it must not be changed.
func (m *Measurements) Events() []Event {
	if m.view == nil {
		return nil
	}
	return m.view.events
}

// Log is the log that was replayed, nil if there was none.
func (m *Measurements) Log() *Log { return m.log }

// memo is a value that was derived from a view for a key.
type memo struct{ key, value any }

// Derived is the value that derive draws from these measurements, made once for each set of proven PCRs and key:
// what thousands of machines booted alike need not be looked at again for each. The last of each key's type is kept.
// Key must be comparable and stand for all that derive depends on beside the measurements; the value is shared and
// must not be changed.
func Derived[K comparable, V any](m *Measurements, key K, derive func() V) V {
	if m == nil || m.view == nil {
		return derive()
	}
	kind := reflect.TypeFor[K]()
	if known, ok := m.view.derived.Load(kind); ok {
		if kept := known.(memo); kept.key == any(key) {
			return kept.value.(V) //nolint:errcheck // a key's type has one type of value
		}
	}
	value := derive()
	m.view.derived.Store(kind, memo{key, value})
	return value
}
