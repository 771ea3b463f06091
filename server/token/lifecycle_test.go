package token

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/store"
)

// history is the rows of one purpose as transactions change them. Keys are cheap: the public half is random, and none signs.
type history struct{ rows []store.ServiceKeyRow } // newest first

func (h *history) add() (*store.NewSigningKey, error) {
	return algorithms[0].add(randomness)
}

// randomness is a counter: keys differ, and a failing history can be repeated.
var randomness = &counter{}

type counter struct{ n byte }

func (c *counter) Read(b []byte) (int, error) {
	for i := range b {
		c.n++
		b[i] = c.n ^ byte(i)
	}
	c.n += 3
	return len(b), nil
}

// apply does what store.ChangeSigningKeys does.
func (h *history) apply(now time.Time, c store.SigningChange) {
	rows := slices.Clone(h.rows)
	for i := range rows {
		k := &rows[i]
		if c.Activate != nil && k.ID == *c.Activate {
			k.ActivatedAt = &c.ActivateAt
		}
		if c.Revoke != nil && k.ID == *c.Revoke {
			k.RevokedAt, k.Erased = &now, true
		}
		k.Erased = k.Erased || slices.Contains(c.Erase, k.ID)
	}
	if c.Add != nil {
		rows = slices.Insert(rows, 0, store.ServiceKeyRow{ID: uuid.New(), Generation: len(rows) + 1, Public: c.Add.Public, CreatedAt: now})
	}
	h.rows = rows
}

func (h *history) keep(t fataler, now time.Time, rotateEvery time.Duration) {
	c, err := keep(h.rows, now, rotateEvery, func(*store.ServiceKeyRow) ([]byte, error) { return nil, errors.New("stored") }, h.add)
	if err != nil {
		t.Fatalf("%v", err)
	}
	h.apply(now, c)
}

func (h *history) rotate(t fataler, now time.Time) {
	c, err := rotate(h.rows, now, h.add)
	if err != nil {
		t.Fatalf("%v", err)
	}
	h.apply(now, c)
}

type fataler interface{ Fatalf(string, ...any) }

func newHistory(t fataler) *history {
	h := &history{}
	first, err := h.add()
	if err != nil {
		t.Fatalf("%v", err)
	}
	h.rows = []store.ServiceKeyRow{{ID: uuid.New(), Generation: 1, Public: first.Public, CreatedAt: t0, ActivatedAt: &t0}}
	h.keep(t, t0, 0)
	return h
}

// view is what somebody has read, and when.
type view struct {
	rows []store.ServiceKeyRow
	at   time.Time
}

// published are the ids of the keys that a set made of it at now names.
func (v *view) published(now time.Time) (ids []uuid.UUID) {
	for i := range v.rows {
		if s, _ := stateAt(v.rows, i, now); s == Next || s == Active || s == Retiring {
			ids = append(ids, v.rows[i].ID)
		}
	}
	return ids
}

// At any time, a result that has not expired verifies with a key set that was fetched at most MaxAge ago, whichever replica
// signed it, whichever published the set, and however often somebody rotates. A replica signs with keys that it read up to
// staleAfter ago, and publishes keys that it read up to refreshEvery ago; clocks differ by a few seconds.
func TestCachedKeySetsVerify(t *testing.T) {
	const replicas, skew = 3, 5 * time.Second
	rapid.Check(t, func(t *rapid.T) {
		rotateEvery := time.Duration(rapid.IntRange(0, 48).Draw(t, "rotate every")) * time.Hour
		h, now := newHistory(t), t0.Add(time.Minute)
		views := make([]view, replicas)
		for i := range views {
			views[i] = view{h.rows, now}
		}
		clock := func(replica int) time.Time { return now.Add(time.Duration(replica-1) * skew) }
		read := func(replica int, age time.Duration) *view {
			if v := &views[replica]; now.Sub(v.at) >= age {
				*v = view{h.rows, now}
			}
			return &views[replica]
		}
		type signed struct {
			key  uuid.UUID
			ends time.Time
		}
		var results []signed
		set, fetched := views[0].published(now), now // what one relying party has kept
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			// Mostly to where something changes: a key begins to sign, or a result is about to end.
			switch target := now; rapid.SampledFrom([]string{"wait", "to a beginning", "to an end"}).Draw(t, "time") {
			case "to a beginning":
				for i := range h.rows {
					if at := h.rows[i].ActivatedAt; at != nil && at.After(now) {
						target = at.Add(skew + time.Second)
					}
				}
				now = target
			case "to an end":
				if len(results) > 0 {
					target = results[rapid.IntRange(0, len(results)-1).Draw(t, "result")].ends.Add(-time.Second)
				}
				if target.After(now) {
					now = target
				}
			default:
				now = now.Add(rapid.SampledFrom([]time.Duration{time.Second, 20 * time.Second, 31 * time.Second, 4 * time.Minute, 11 * time.Minute, 5 * time.Hour}).Draw(t, "wait"))
			}
			r := rapid.IntRange(0, replicas-1).Draw(t, "replica")
			switch rapid.SampledFrom([]string{"keep", "rotate", "sign", "sign", "verify", "verify"}).Draw(t, "do") {
			case "keep":
				h.keep(t, clock(r), rotateEvery)
				views[r] = view{h.rows, now}
			case "rotate":
				h.rotate(t, clock(r))
				views[r] = view{h.rows, now}
			case "sign":
				v := read(r, staleAfter)
				i := find(v.rows, clock(r), Active)
				if i < 0 {
					t.Fatalf("nothing signs")
				}
				life := rapid.SampledFrom([]time.Duration{time.Minute, time.Hour, MaxLifetime}).Draw(t, "lifetime")
				results = append(results, signed{v.rows[i].ID, now.Add(life)})
			case "verify":
			}
			if now.Sub(fetched) >= MaxAge || rapid.Bool().Draw(t, "fetch early") {
				p := rapid.IntRange(0, replicas-1).Draw(t, "publisher")
				set, fetched = read(p, refreshEvery).published(clock(p)), now
			}
			for _, s := range results {
				if now.Before(s.ends) && !slices.Contains(set, s.key) {
					t.Fatalf("at %s a result that ends at %s cannot be verified with the key set of %s", now, s.ends, fetched)
				}
			}
			active := 0
			for i := range h.rows {
				if s, _ := stateAt(h.rows, i, now); s == Active {
					active++
				}
				if s, _ := stateAt(h.rows, i, now.Add(2*skew)); h.rows[i].Erased && s != Gone {
					t.Fatalf("a key was erased that is %s", s)
				}
			}
			if active != 1 {
				t.Fatalf("%d keys sign", active)
			}
		}
	})
}

// The life of a key, step by step.
func TestLife(t *testing.T) {
	h := newHistory(t)
	states := func(now time.Time) (out []State) {
		for i := range h.rows {
			s, _ := stateAt(h.rows, i, now)
			out = append(out, s)
		}
		return out
	}
	check := func(story string, now time.Time, want ...State) {
		t.Helper()
		if got := states(now); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", story, got, want)
		}
	}
	check("a fresh database", t0, Next, Active)
	soon := t0.Add(time.Minute)
	h.rotate(t, soon)
	check("rotated before relying parties have the next key", soon, Next, Next, Active)
	h.rotate(t, soon.Add(time.Second))
	check("and once more", soon.Add(time.Second), Next, Next, Active)
	begin := t0.Add(publishLead)
	check("the lead is over", begin, Next, Active, Retiring)
	check("all that the first signed has ended", begin.Add(retireAfter), Next, Active, Gone)
	h.keep(t, begin.Add(retireAfter), 0)
	if !h.rows[2].Erased || h.rows[1].Erased {
		t.Errorf("not exactly the key that is gone was erased: %+v", h.rows)
	}
	later := begin.Add(30 * 24 * time.Hour)
	h.keep(t, later.Add(-time.Second), 30*24*time.Hour)
	check("a second before it is due", later, Next, Active, Gone)
	h.keep(t, later, 30*24*time.Hour)
	check("when it is due", later, Next, Active, Retiring, Gone)
	h.keep(t, later, 30*24*time.Hour)
	check("another replica, at the same time", later, Next, Active, Retiring, Gone)
}

func TestRevocation(t *testing.T) {
	id := func(k *store.ServiceKeyRow) string {
		kid, err := keyIDOf(k.Public)
		if err != nil {
			t.Fatal(err)
		}
		return kid
	}
	for story, c := range map[string]struct {
		row  int
		want []State
	}{
		"the one that signs": {1, []State{Next, Active, Revoked, Retiring}},
		"the next one":       {0, []State{Next, Revoked, Active, Retiring}},
		"one that has":       {2, []State{Next, Active, Revoked}},
	} {
		h := newHistory(t)
		now := t0.Add(time.Hour)
		h.rotate(t, now)
		change, err := revoke(h.rows, now.Add(time.Second), id(&h.rows[c.row]), "stolen", h.add)
		if err != nil {
			t.Fatal(story, err)
		}
		h.apply(now.Add(time.Second), change)
		var got []State
		for i := range h.rows {
			s, _ := stateAt(h.rows, i, now.Add(2*time.Second))
			got = append(got, s)
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", story, got, c.want)
		}
		for i := range h.rows {
			if got[i] == Revoked {
				if _, err := revoke(h.rows, now.Add(time.Minute), id(&h.rows[i]), "again", h.add); !errors.Is(err, ErrKeyEnded) {
					t.Errorf("%s, twice: %v", story, err)
				}
			}
		}
	}
	if _, err := revoke(newHistory(t).rows, t0, "nobody", "x", nil); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("an unknown key: %v", err)
	}
}

// A revoked key is not published, and what it signed is refused, whatever its signature says.
func TestRevokedKeyInAService(t *testing.T) {
	s := newService(t, at(t0))
	result := sign(t, s, relying.EdDSA, claims(t0))
	k := s.keys.Load()
	k.rings[0].rows[1].RevokedAt = &t0
	if _, err := s.verify(result); !errors.Is(err, ErrRevoked) {
		t.Errorf("a result of a revoked key: %v", err)
	}
	for _, published := range k.published(t0) {
		if published.Kid == k.rings[0].signers[1].jwk.Kid {
			t.Error("the revoked key is published")
		}
	}
	if _, err := k.active(relying.EdDSA, t0); err == nil {
		t.Error("the revoked key signs")
	}
}
