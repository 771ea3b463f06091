package soak

import (
	"crypto/sha256"
	"io"
	"log"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/store"
)

const attempt = 2 * time.Second // of real time, until a receiver is given up

// channel is a receiver, and what it is to be told.
type channel struct {
	store.Channel
	*receiver
	wants func(kind, scaleSet string) bool
}

// receiver takes webhooks, and is not always well.
type receiver struct {
	*httptest.Server
	clock func() time.Time

	mu     sync.Mutex
	chance *mathrand.Rand
	well   bool      // from now on always
	down   time.Time // until then it takes nothing
	asked  int
	got    []receipt
}

// receipt is a webhook that was taken, whether its sender knows or not.
type receipt struct {
	id   string
	body [sha256.Size]byte
}

// subscribe makes the channels: one for all, one for some kinds, one for a scale set.
func (w *world) subscribe() {
	w.t.Helper()
	resolutions := []string{"alert.resolved", "incident.resolved"}
	for i, c := range []*channel{
		{Channel: store.Channel{Name: "all"}, wants: func(string, string) bool { return true }},
		{Channel: store.Channel{Name: "resolutions", Filter: store.ChannelFilter{Kinds: resolutions}}, wants: func(kind, _ string) bool { return slices.Contains(resolutions, kind) }},
		{Channel: store.Channel{Name: "set-1", Filter: store.ChannelFilter{ScaleSets: []string{"set-1"}}}, wants: func(_, set string) bool { return set == "" || set == "set-1" }},
	} {
		c.receiver = &receiver{clock: w.clock, chance: mathrand.New(mathrand.NewPCG(w.plan.seed, uint64(100+i))), well: w.plan.well}
		c.Server = httptest.NewUnstartedServer(http.HandlerFunc(c.take))
		c.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
		c.Start()
		w.t.Cleanup(c.Close)
		r := w.replicas[0]
		c.ID, c.Kind, c.Enabled, c.Format = store.NewChannelID(begin), store.ChannelWebhook, true, "assay"
		c.Config.URL = c.URL
		var err error
		if c.Secrets, err = r.notify.Seal(tenantID, c.ID, notify.Secrets{Signing: make([]byte, 32)}); err != nil {
			w.t.Fatal(err)
		}
		if c.Channel, err = r.store.CreateChannel(w.t.Context(), tenantID, c.Channel, begin, system); err != nil {
			w.t.Fatal(err)
		}
		w.channels = append(w.channels, c)
	}
}

// take takes a webhook, or does what receivers do.
func (r *receiver) take(rw http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	in := receipt{req.Header.Get("webhook-id"), sha256.Sum256(body)}
	switch mood := r.mood(in); mood {
	case 0:
	case -1: // it has it, and its sender will never know
		<-req.Context().Done()
	case 1:
		panic(http.ErrAbortHandler)
	case http.StatusTooManyRequests:
		rw.Header().Set("Retry-After", "45")
		rw.WriteHeader(mood)
	case http.StatusTemporaryRedirect:
		rw.Header().Set("Location", "/elsewhere")
		rw.WriteHeader(mood)
	default:
		rw.WriteHeader(mood)
	}
}

// mood is how it answers: 0 for well, -1 for never, 1 for a closed connection, or an HTTP status.
func (r *receiver) mood(in receipt) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	mood := 0
	if !r.well {
		switch n := r.chance.IntN(300); {
		case r.clock().Before(r.down):
			mood = []int{1, http.StatusServiceUnavailable}[n%2]
		case n == 0 || r.asked == 3:
			mood = -1
		case n < 60:
			mood = []int{1, http.StatusInternalServerError, http.StatusTooManyRequests, http.StatusTemporaryRedirect, http.StatusNotFound}[n%5]
		}
	}
	if mood <= 0 {
		r.got = append(r.got, in)
	}
	return mood
}

// fallIll lets receivers go down, now and then.
func (w *world) fallIll() {
	for _, c := range w.channels {
		if w.perHour(0.2) {
			c.mu.Lock()
			c.down = w.now.Add(time.Duration(1+w.chance.IntN(90)) * time.Minute)
			c.mu.Unlock()
		}
	}
}

// deliver lets all replicas count incidents, and tell receivers what is due.
func (w *world) deliver() {
	w.t.Helper()
	w.everyReplica(func(r *replica) error {
		if err := r.do("incidents"); err != nil {
			return err
		}
		return r.deliver()
	})
}

// deliver is a round of the sweep and of the workers it wakes, in the place of River, which knows no time but the real one.
func (r *replica) deliver() error {
	if err := r.notify.Sweep(r.ctx); err != nil {
		return err
	}
	due, err := r.store.DueChannels(r.ctx, tenantID, r.clock())
	if err != nil {
		return err
	}
	errs := make(chan error, len(due))
	for _, c := range due {
		go func() {
			_, _, err := r.notify.Deliver(r.ctx, tenantID, c)
			errs <- err
		}()
	}
	for range due {
		if e := <-errs; e != nil {
			err = e
		}
	}
	return err
}

// drain lets receivers be well, and time pass until nothing waits.
func (w *world) drain() {
	w.t.Helper()
	for _, c := range w.channels {
		c.mu.Lock()
		c.well = true
		c.mu.Unlock()
	}
	for pending := -1; pending != 0; w.pass(10 * time.Minute) {
		if w.now.Sub(begin) > time.Duration(w.plan.hours+30)*time.Hour {
			w.t.Fatalf("seed %d: %d deliveries wait for ever", w.plan.seed, pending)
		}
		w.deliver()
		if err := w.db.QueryRow(w.t.Context(), `SELECT (SELECT count(*) FROM deliveries WHERE state = 'pending') + (SELECT count(*) FROM outbox WHERE fanned_out_at IS NULL)`).Scan(&pending); err != nil {
			w.t.Fatal(err)
		}
	}
}

// compareDeliveries compares what each receiver took with the events it was to be told: each, by its id; the same content
// each time; of each subject in order; and no more often than an attempt had no known end.
func (w *world) compareDeliveries() (delivered int) {
	w.t.Helper()
	w.drain()
	type told struct{ kind, subject, set string }
	events := map[string]told{}
	var order []string
	rows, _ := w.db.Query(w.t.Context(), `SELECT o.event_id::text, o.kind, o.subject_id::text, coalesce(m.scale_set, '') FROM outbox o
		LEFT JOIN alerts a ON a.tenant_id = o.tenant_id AND a.alert_id = o.subject_id
		LEFT JOIN machines m ON m.tenant_id = o.tenant_id AND m.machine_id = a.machine_id ORDER BY o.written_at, o.event_id`)
	var id string
	var e told
	if _, err := pgx.ForEachRow(rows, []any{&id, &e.kind, &e.subject, &e.set}, func() error {
		events[id] = e
		order = append(order, id)
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	for _, c := range w.channels {
		want, got := map[string][]string{}, map[string][]string{} // by subject
		for _, id := range order {
			if e := events[id]; c.wants(e.kind, e.set) {
				want[e.subject] = append(want[e.subject], id)
			}
		}
		first := map[string]receipt{}
		for _, in := range c.got {
			before, again := first[in.id]
			if again && before != in {
				w.t.Errorf("seed %d: %s was told event %s in two ways", w.plan.seed, c.Name, in.id)
			}
			if first[in.id] = in; !again {
				subject := events[in.id].subject
				got[subject] = append(got[subject], in.id)
				delivered++
			}
		}
		for subject := range got {
			if want[subject] == nil {
				w.t.Errorf("seed %d: %s was told of %s: %s", w.plan.seed, c.Name, subject, got[subject])
			}
		}
		for subject, ids := range want {
			if !slices.Equal(got[subject], ids) {
				w.t.Errorf("seed %d: %s was told %s of %s, want %s", w.plan.seed, c.Name, strings.Join(got[subject], " "), subject, strings.Join(ids, " "))
			}
		}
		w.compareAttempts(c, len(first))
	}
	return delivered
}

// compareAttempts compares the database's account of a channel with the receiver's.
func (w *world) compareAttempts(c *channel, events int) {
	w.t.Helper()
	var rows, done, recorded, unanswered int
	if err := w.db.QueryRow(w.t.Context(), `SELECT count(*), count(*) FILTER (WHERE d.state = 'delivered'), coalesce(sum(a.n), 0), coalesce(sum(a.unanswered), 0)
		FROM deliveries d CROSS JOIN LATERAL (SELECT count(*) n, count(*) FILTER (WHERE error LIKE 'no answer%') unanswered FROM delivery_attempts a
			WHERE a.tenant_id = d.tenant_id AND a.delivery_id = d.delivery_id) a WHERE d.channel_id = $1`, c.ID).Scan(&rows, &done, &recorded, &unanswered); err != nil {
		w.t.Fatal(err)
	}
	if rows != events || done != events {
		w.t.Errorf("seed %d: %s has %d deliveries, %d of them delivered, of %d events", w.plan.seed, c.Name, rows, done, events)
	}
	lost := c.asked - recorded // attempts that were made and not recorded: their process was killed
	again := len(c.got) - events
	if lost < 0 || lost > 0 && !w.plan.kills || again > unanswered+lost || !w.plan.kills && again != unanswered {
		w.t.Errorf("seed %d: %s was asked %d times, %d of them recorded, %d without an answer, and took %d twice", w.plan.seed, c.Name, c.asked, recorded, unanswered, again)
	}
}
