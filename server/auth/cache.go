package auth

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

// How often an issuer is asked.
const (
	unknownKeyGap = time.Minute     // between two fetches for key ids that are not among the keys
	firstBackOff  = time.Second     // after a fetch that failed; doubled each time,
	longestBack   = 2 * time.Minute // up to this
)

// maxStates bounds the memory for providers; there is one state for each that was used.
const maxStates = 4096

// state is what this process remembers of a provider. The keys themselves are in the database.
type state struct {
	fetching chan struct{} // holds one place: whoever has it may fetch
	// What follows belongs to whoever has the place in fetching.
	failures int
	next     time.Time // not to be asked before, after a failure
	why      string    // the last failure, in words

	mu     sync.Mutex
	latest *heldKeys // the newest that this process has parsed
}

// heldKeys are parsed keys with where they are from.
type heldKeys struct {
	set               keySet
	providerChanged   time.Time // store.IdentityProvider.UpdatedAt: keys of an earlier state do not count
	fetchedAt, expiry time.Time
}

type states struct {
	mu   sync.Mutex
	byID map[uuid.UUID]*state
}

func (s *states) of(id uuid.UUID) *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.byID[id]; st != nil {
		return st
	}
	if s.byID == nil || len(s.byID) >= maxStates {
		s.byID = map[uuid.UUID]*state{}
	}
	st := &state{fetching: make(chan struct{}, 1)}
	s.byID[id] = st
	return st
}

// held gives the provider's keys as far as they are known: those of the database, or newer ones of this process.
// nil where there are none.
func (st *state) held(p *store.IdentityProvider) *heldKeys {
	st.mu.Lock()
	defer st.mu.Unlock()
	if l := st.latest; l != nil && l.providerChanged.Equal(p.UpdatedAt) && (p.Keys == nil || !p.Keys.FetchedAt.After(l.fetchedAt)) {
		return l
	}
	if p.Keys == nil {
		return nil
	}
	set, err := parseKeys(p.Keys.JWKS)
	if err != nil {
		return nil // kept by a version that could use them
	}
	st.latest = &heldKeys{set: set, providerChanged: p.UpdatedAt, fetchedAt: p.Keys.FetchedAt, expiry: p.Keys.ExpiresAt}
	return st.latest
}

// choose gives the key of a token while the keys live.
func (h *heldKeys) choose(t *unverified, now time.Time) (*issuerKey, bool) {
	if h == nil || !now.Before(h.expiry) {
		return nil, false
	}
	return h.set.choose(t.keyID, t.algorithm)
}

// due tells whether half of the keys' life is over.
func (h *heldKeys) due(now time.Time) bool {
	return h == nil || !now.Before(h.fetchedAt.Add(h.expiry.Sub(h.fetchedAt)/2))
}

// keyFor finds the key that a token must be signed with. It asks the issuer where it has to, one request at a time
// for each provider.
func (v *Verifier) keyFor(ctx context.Context, tenant uuid.UUID, p *store.IdentityProvider, t *unverified, now time.Time) (*issuerKey, error) {
	st := v.states.of(p.ID)
	held := st.held(p)
	key, found := held.choose(t, now)
	if found && !held.due(now) {
		return key, nil
	}
	if found { // the keys are good: nobody waits for fresher ones, and one request fetches them
		select {
		case st.fetching <- struct{}{}:
		default:
			return key, nil
		}
	} else {
		select {
		case st.fetching <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer func() { <-st.fetching }()
	held = st.held(p) // another request may have fetched meanwhile
	if v.mayAsk(st, held, now) {
		fresh, err := v.refresh(ctx, st, tenant, p, now)
		if err != nil {
			return nil, err
		}
		if fresh != nil {
			held = fresh
		}
	}
	if key, found := held.choose(t, now); found {
		return key, nil
	}
	if held != nil && now.Before(held.expiry) {
		return nil, refuse(CodeKeyUnknown, "the issuer has published no key of this kid that fits the algorithm")
	}
	return nil, &Error{Code: CodeIssuerUnavailable, Detail: "the keys of the issuer cannot be fetched: " + st.why, RetryAfter: max(time.Second, st.next.Sub(now))}
}

// mayAsk tells whether the issuer may be asked now.
func (v *Verifier) mayAsk(st *state, held *heldKeys, now time.Time) bool {
	if now.Before(st.next) {
		return false
	}
	if held == nil || held.due(now) {
		return true
	}
	return !now.Before(held.fetchedAt.Add(unknownKeyGap))
}

// refresh asks the issuer and keeps what it answers. Keys are nil where it failed, which is noted; an error is a
// failure of the database.
func (v *Verifier) refresh(ctx context.Context, st *state, tenant uuid.UUID, p *store.IdentityProvider, now time.Time) (*heldKeys, error) {
	// Others wait for the answer: it does not end with the request that happened to ask.
	raw, life, err := v.fetch.keys(context.WithoutCancel(ctx), p.Issuer)
	if err == nil {
		keys := store.IssuerKeys{JWKS: raw, FetchedAt: now, ExpiresAt: now.Add(life)}
		return v.keep(ctx, st, tenant, p, keys)
	}
	wait := min(firstBackOff<<min(st.failures, 10), longestBack)
	st.failures++
	st.next, st.why = now.Add(wait), "the issuer cannot be asked"
	var known *fetchError
	if errors.As(err, &known) {
		st.why = known.text
	}
	v.log.WarnContext(ctx, "the keys of an identity provider cannot be fetched", "provider", p.Name, "provider_id", p.ID.String(), "issuer", p.Issuer, "error", err.Error())
	return nil, nil
}

func (v *Verifier) keep(ctx context.Context, st *state, tenant uuid.UUID, p *store.IdentityProvider, keys store.IssuerKeys) (*heldKeys, error) {
	set, err := parseKeys(keys.JWKS)
	if err != nil {
		return nil, err
	}
	if err := v.save(context.WithoutCancel(ctx), tenant, *p, keys); err != nil {
		return nil, err
	}
	st.failures, st.next, st.why = 0, time.Time{}, ""
	fresh := &heldKeys{set: set, providerChanged: p.UpdatedAt, fetchedAt: keys.FetchedAt, expiry: keys.ExpiresAt}
	st.mu.Lock()
	st.latest = fresh
	st.mu.Unlock()
	return fresh, nil
}
