package attest

import (
	"testing"

	"pgregory.net/rapid"
)

func TestLRUForgetsTheLeastRecentlyUsed(t *testing.T) {
	c := newLRU[string, int](10)
	c.put("a", 1, 4)
	c.put("b", 2, 4)
	if _, ok := c.get("a"); !ok {
		t.Fatal("a is gone too early")
	}
	c.put("c", 3, 4) // b is the one not used since
	if _, ok := c.get("b"); ok {
		t.Fatal("b outlived a, which was used later")
	}
	for key, want := range map[string]int{"a": 1, "c": 3} {
		if got, ok := c.get(key); !ok || got != want {
			t.Errorf("%s: %d, %t", key, got, ok)
		}
	}
	c.put("huge", 4, 11)
	if _, ok := c.get("huge"); ok {
		t.Error("what is larger than the cache was kept")
	}
	c.put("a", 5, 1)
	if got, _ := c.get("a"); got != 5 {
		t.Errorf("a is %d after being put again", got)
	}
}

// The costs kept never exceed the limit, and the books always balance.
func TestLRUStaysWithinItsLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newLRU[int, int](100)
		for range rapid.IntRange(1, 200).Draw(t, "operations") {
			k := rapid.IntRange(0, 20).Draw(t, "key")
			if rapid.Bool().Draw(t, "get") {
				c.get(k)
				continue
			}
			c.put(k, k, rapid.Int64Range(0, 120).Draw(t, "cost"))
			sum := int64(0)
			for _, e := range c.entries {
				sum += e.Value.(*lruEntry[int, int]).cost
			}
			if sum != c.used || c.used > c.limit || c.order.Len() != len(c.entries) {
				t.Fatalf("used %d, entries cost %d, limit %d, %d listed of %d", c.used, sum, c.limit, c.order.Len(), len(c.entries))
			}
		}
	})
}
