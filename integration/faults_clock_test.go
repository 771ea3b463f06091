package integration_test

import (
	"context"
	"crypto/rand"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/limit"
	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/server/schedule"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
	silence "github.com/assay-verifier/assay/verifier/finding"
)

// clocked is a replica in this process, whose clock is wrong by what offset says.
type clocked struct {
	*service
	offset atomic.Int64
	jobs   []schedule.Job
}

func (c *clocked) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

func newClocked(t *testing.T, databaseURL string) *clocked {
	t.Helper()
	c := &clocked{service: &service{http: &http.Client{Timeout: patience}}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	st, err := store.Open(t.Context(), databaseURL, store.Options{MaxConns: 6})
	must(err)
	t.Cleanup(st.Close)
	tenant := store.DefaultTenant
	must(st.EnsureTenant(t.Context(), tenant, time.Now()))
	tokens, err := token.New(t.Context(), token.Config{Store: st, Tenant: tenant, Now: c.now})
	must(err)
	appraisals, err := attest.New(attest.Config{Store: st, Token: tokens, Now: c.now, Random: rand.Reader, Build: "clocked"})
	must(err)
	keys := func(ctx context.Context, purpose string, generate func() ([]byte, error)) ([]byte, error) {
		return st.ServiceKey(ctx, tenant, purpose, generate)
	}
	notifications, err := notify.New(t.Context(), notify.Config{Store: st, Keys: keys, Now: c.now})
	must(err)
	limits := server.DefaultLimits()
	limits.Machine, limits.Principal, limits.Join, limits.Source, limits.Failures = limit.Rate{}, limit.Rate{}, limit.Rate{}, limit.Rate{}, limit.Rate{} // they go by the monotonic clock, which does not jump as this one does
	api, err := server.New(server.Config{Store: st, Attest: appraisals, Token: tokens, Notify: notifications, Now: c.now, Limits: &limits, Logger: slog.New(slog.DiscardHandler)})
	must(err)
	if c.admin, err = server.BootstrapAdminToken(t.Context(), st, tenant, time.Now(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(api.Handler())
	t.Cleanup(listener.Close)
	c.url = listener.URL
	c.jobs = []schedule.Job{schedule.Heartbeat(st, tenant, c.now), schedule.Deadlines(st, tenant, silence.DefaultSilenceLimits(), c.now),
		schedule.CountIncidents(st, tenant, c.now), schedule.Rollups(st, tenant, c.now), schedule.EndGrace(st, tenant, c.now), schedule.EndExemptions(st, tenant, c.now),
		schedule.EndDeliveries(st, c.now), {Name: "signing-keys", Every: time.Minute, Run: tokens.Keep}}
	return c
}

// work does a round of each job.
func (c *clocked) work(t *testing.T) {
	t.Helper()
	for _, j := range c.jobs {
		if _, err := schedule.Once(t.Context(), c.jobs, j.Name); err != nil {
			t.Errorf("clock wrong by %s: job %s: %v", time.Duration(c.offset.Load()), j.Name, err)
		}
	}
}

// The clocks of two replicas jump, together or one alone, by seconds and by days, forward and back, while machines attest and
// all jobs run. No verdict is better than its evidence meanwhile; one may be worse, where a challenge is late by the clock
// that is wrong. Once the clocks are right, all machines are affirmed again at once, whatever was recorded in the future.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	seed, jumps, each := seedOf(t), 8, 1
	if os.Getenv("ASSAY_TEST_LONG") != "" {
		jumps, each = 200, 3
	}
	t.Logf("ASSAY_TEST_SEED=%d", seed)
	pg, err := embedded.Start(t.Context(), embedded.Config{DataDir: newFolder(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Stop(context.Background()) })
	if err := store.Migrate(t.Context(), pg.URL()); err != nil {
		t.Fatal(err)
	}
	replicas := []*clocked{newClocked(t, pg.URL()), newClocked(t, pg.URL())}
	refuseOtherKernels(t, pg.URL())
	fleet := newSubjects(t, replicas[0].service, seed, each, good, deviating, forged, foreign, replayed)
	for i, r := range replicas {
		fleet.at(i, r.url)
	}
	chance := mathrand.New(mathrand.NewPCG(seed, 2))
	hour := time.Hour
	offsets := []time.Duration{0, 5 * time.Second, -30 * time.Second, 11 * time.Minute, hour, -hour, 36 * hour, -48 * hour, 40 * 24 * hour} // less than anything is kept for
	fleet.skewed.Store(true)
	stop := fleet.run()
	for range jumps {
		offset := offsets[chance.IntN(len(offsets))]
		alone := chance.IntN(3)
		for i, r := range replicas {
			if alone != i {
				r.offset.Store(int64(offset))
			}
			r.work(t)
		}
		fleet.progress(t, &fleet.done, 30)
	}
	stop()
	for _, r := range replicas {
		r.offset.Store(0)
		r.work(t)
	}
	for _, s := range fleet.all {
		s.next = nil // made by a clock that was wrong
	}
	fleet.skewed.Store(false)
	fleet.recover(t)
	for _, s := range fleet.all {
		tries := 0
		for i := len(s.attempts) - 1; i >= 0 && !s.attempts[i].skewed; i-- {
			tries++
		}
		if tries != 1 {
			t.Errorf("%s machine %s needed %d tries once the clocks were right", s.kind, s.id, tries)
		}
	}
	answers, _ := fleet.check(t, connect(t, pg.URL()))
	t.Logf("%d verdicts were answered", answers)
}
