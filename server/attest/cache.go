package attest

import (
	"container/list"
	"sync"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// What is cached is immutable by its key: a log by its digest, a key row by its id, a baseline version
// by its id and number. Nothing is ever invalidated, only dropped for room.
type (
	logKey struct {
		tenant uuid.UUID // a tenant may not learn that another tenant has a log
		digest [32]byte
	}
	// parsedLog is a parsed event log, or why it cannot be parsed.
	parsedLog struct {
		log   *eventlog.Log
		fault string
		size  int // raw bytes
	}
	// parsedKey is a parsed AK, or why it cannot be.
	parsedKey struct {
		public *tpm.Public
		noTPM  bool // the machine has no TPM: its hardware report stands in place of a key
		// launched is the launch measurement of the enrolment of a machine without a TPM, in hex.
		launched string
		fault    string
	}
	versionKey struct {
		baseline uuid.UUID
		version  int
	}
)

const (
	maxCachedKeys       = 100_000 // about 1 KB each
	maxCachedReferences = 2_000
	maxCachedTenants    = 64 // of verified chains
	// logOverhead estimates what a parsed log holds beside its raw bytes, as a multiple of them.
	logOverhead = 3
)

// lru is a map that forgets what was least recently used once the costs of its entries exceed a limit.
type lru[K comparable, V any] struct {
	mu      sync.Mutex
	limit   int64
	used    int64
	order   *list.List // front is most recent; values are *lruEntry[K, V]
	entries map[K]*list.Element
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
	cost  int64
}

func newLRU[K comparable, V any](limit int64) *lru[K, V] {
	return &lru[K, V]{limit: limit, order: list.New(), entries: make(map[K]*list.Element)}
}

func (c *lru[K, V]) get(key K) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok {
		return value, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*lruEntry[K, V]).value, true
}

// put stores value at a cost. What costs more than the whole limit is not kept.
func (c *lru[K, V]) put(key K, value V, cost int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[key]; ok {
		c.remove(e)
	}
	if cost > c.limit {
		return
	}
	c.entries[key] = c.order.PushFront(&lruEntry[K, V]{key: key, value: value, cost: cost})
	c.used += cost
	for c.used > c.limit {
		c.remove(c.order.Back())
	}
}

func (c *lru[K, V]) remove(e *list.Element) {
	entry := c.order.Remove(e).(*lruEntry[K, V])
	delete(c.entries, entry.key)
	c.used -= entry.cost
}
