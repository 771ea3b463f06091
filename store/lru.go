package store

import (
	"container/list"
	"sync"
)

// lru keeps what was used last, up to a total cost.
type lru[K comparable, V any] struct {
	mu    sync.Mutex
	limit int
	used  int
	order *list.List // of *lruEntry, most recently used first
	items map[K]*list.Element
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
	cost  int
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{limit: limit, order: list.New(), items: map[K]*list.Element{}}
}

func (c *lru[K, V]) get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[key]
	if !ok {
		var none V
		return none, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*lruEntry[K, V]).value, true
}

func (c *lru[K, V]) remove(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.items[key]; ok {
		c.order.Remove(e)
		delete(c.items, key)
		c.used -= e.Value.(*lruEntry[K, V]).cost
	}
}

func (c *lru[K, V]) put(key K, value V, cost int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[key]; ok || cost > c.limit {
		return
	}
	c.items[key] = c.order.PushFront(&lruEntry[K, V]{key, value, cost})
	c.used += cost
	for c.used > c.limit {
		oldest := c.order.Back()
		entry := oldest.Value.(*lruEntry[K, V])
		c.order.Remove(oldest)
		delete(c.items, entry.key)
		c.used -= entry.cost
	}
}
