package notify

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/notify/event"
	"github.com/assay-verifier/assay/server/notify/format"
	"github.com/assay-verifier/assay/server/reach"
	"github.com/assay-verifier/assay/store"
)

const (
	perChannel  = 4                // deliveries of a channel that are under way at once, over all replicas
	claimLease  = time.Minute      // more than an attempt and its recording can take
	jobBudget   = 20 * time.Second // after that a channel's worker hands over to whoever comes next
	fanOutPage  = 200              // events in one transaction, and in memory
	keepFor     = 30 * 24 * time.Hour
	deletedPage = 1000
)

// Config is what a Service is made of. Store and Keys are needed.
type Config struct {
	Store *store.Store
	Keys  KeySource
	// Now is the clock; nil means time.Now. Random makes secrets; nil means crypto/rand.
	Now    func() time.Time
	Random io.Reader
	// Logger gets what operators should see; nil discards it. No secret, URL or payload is ever logged.
	Logger *slog.Logger
	// Reach says which receivers' addresses are asked beside public ones; AllowHTTP whether webhooks may be without TLS.
	Reach     reach.Rules
	AllowHTTP bool
	// Version of the software, and the address of its pages without a slash at its end; empty for no links.
	Version, PublicURL string
	// Timeout bounds one attempt, from the look-up of the name to the answer; 0 means 15 s.
	Timeout time.Duration
	// Observe is told each attempt; nil for nobody.
	Observe func(Observation)
	// Stats is told at each sweep how deliveries of all tenants stand; nil for nobody.
	Stats func(pending, dead int64, oldest time.Duration)
}

// Observation is one attempt.
type Observation struct {
	ChannelKind string
	State       string // of the delivery from then on: pending (it will be tried again), delivered or dead
	Duration    time.Duration
}

// Service delivers. All its methods may be called at once.
type Service struct {
	cfg      Config
	store    *store.Store
	seal     *sealer
	origin   format.Origin
	stopping atomic.Bool
	// One fan-out at a time in this process: who waits while one begins has nothing left to do when it ends.
	fanOutMu   sync.Mutex
	fanOuts    atomic.Int64 // begun
	lastTenant uuid.UUID    // of the last that began; guarded by fanOutMu
}

// New makes a service; nothing is delivered before Run, Deliver or Sweep.
func New(ctx context.Context, cfg Config) (*Service, error) {
	if cfg.Store == nil || cfg.Keys == nil {
		return nil, errors.New("notify: Store and Keys are needed")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = attemptTimeout
	}
	if cfg.Observe == nil {
		cfg.Observe = func(Observation) {}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "assay"
	}
	s := &Service{cfg: cfg, store: cfg.Store, origin: format.Origin{Version: cfg.Version, Source: cfg.PublicURL, Host: host}}
	if s.seal, err = newSealer(ctx, cfg.Keys, cfg.Random); err != nil {
		return nil, fmt.Errorf("notify: %w", err)
	}
	return s, nil
}

// now is the time in UTC, as Postgres keeps it.
func (s *Service) now() time.Time { return s.cfg.Now().UTC().Truncate(time.Microsecond) }

// Seal encrypts the secrets of a channel for the store.
func (s *Service) Seal(tenant, channel uuid.UUID, secrets Secrets) ([]byte, error) {
	return s.seal.seal(tenant, channel, secrets)
}

// Open decrypts them.
func (s *Service) Open(tenant uuid.UUID, c *store.Channel) (Secrets, error) {
	return s.seal.open(tenant, c.ID, c.Secrets)
}

// FanOut makes deliveries of all events that have none, and says how many.
func (s *Service) FanOut(ctx context.Context, tenant uuid.UUID) (deliveries int, err error) {
	for {
		events, made, err := s.store.FanOut(ctx, tenant, s.now(), fanOutPage, func(events []store.OutboxEvent, channels []store.Channel) ([]store.Telling, error) {
			return s.choose(tenant, events, channels)
		})
		deliveries += made
		if err != nil || events == 0 {
			return deliveries, err
		}
	}
}

// choose says who is told what.
func (s *Service) choose(tenant uuid.UUID, events []store.OutboxEvent, channels []store.Channel) ([]store.Telling, error) {
	if len(channels) == 0 {
		return nil, nil
	}
	var out []store.Telling
	open := map[[2]uuid.UUID]bool{} // by channel and subject: whether the last that the channel is told, of these events, leaves it open
	for i := range events {
		e, err := s.describe(tenant, &events[i])
		if err != nil {
			return nil, err
		}
		t := store.Telling{EventID: e.ID}
		for j := range channels {
			at := [2]uuid.UUID{channels[j].ID, events[i].SubjectID}
			toldOpen, here := open[at]
			if !here {
				toldOpen = slices.Contains(events[i].ToldOpen, channels[j].ID)
			}
			if wants(&channels[j].Filter, e, toldOpen) {
				t.Channels, open[at] = append(t.Channels, channels[j].ID), !closes(e)
			}
		}
		if len(t.Channels) == 0 {
			continue
		}
		if t.Document, err = json.Marshal(e); err != nil {
			return nil, fmt.Errorf("write event %s: %w", e.ID, err)
		}
		out = append(out, t)
	}
	return out, nil
}

// Deliver sends what is due for a channel until nothing is, or until it has taken long enough for others to have their turn
// (more is then true). It answers how many attempts it made. Attempts that are under way are finished when ctx ends.
func (s *Service) Deliver(ctx context.Context, tenant, channel uuid.UUID) (attempts int, more bool, err error) {
	for began := time.Now(); ; {
		if s.stopping.Load() || ctx.Err() != nil || time.Since(began) > jobBudget {
			return attempts, true, ctx.Err()
		}
		c, claimed, err := s.store.ClaimDeliveries(ctx, tenant, channel, s.now(), claimLease, perChannel)
		if err != nil || len(claimed) == 0 {
			return attempts, false, err
		}
		errs := make([]error, len(claimed))
		var wg sync.WaitGroup
		for i := range claimed {
			wg.Go(func() { _, errs[i] = s.attempt(context.WithoutCancel(ctx), tenant, &c, &claimed[i], false) })
		}
		wg.Wait()
		attempts += len(claimed)
		if err := errors.Join(errs...); err != nil {
			return attempts, false, err
		}
	}
}

// attempt sends one claimed delivery and records what came of it. A panic ends the attempt, as a failure.
func (s *Service) attempt(ctx context.Context, tenant uuid.UUID, c *store.Channel, d *store.ClaimedDelivery, once bool) (store.AttemptResult, error) {
	r := store.AttemptResult{DeliveryID: d.ID, ChannelID: c.ID, Claim: d.Claim, At: s.now(), State: store.DeliveryDelivered}
	began := time.Now()
	out := s.guarded(ctx, tenant, c, d.Document)
	r.Duration, r.Status = time.Since(began), out.status
	if out.err != nil {
		r.Error = oneLine(out.err.Error())
		s.failed(&r, c, d, out, once)
	}
	s.cfg.Observe(Observation{c.Kind, r.State, r.Duration})
	if r.State == store.DeliveryDead {
		s.cfg.Logger.WarnContext(ctx, "a notification was given up", "channel_id", c.ID, "delivery_id", d.ID, "event_id", d.EventID, "error", r.Error)
	}
	_, err := s.store.RecordAttempt(ctx, tenant, r)
	return r, err
}

func (s *Service) failed(r *store.AttemptResult, c *store.Channel, d *store.ClaimedDelivery, out outcome, once bool) {
	end := r.At.Add(r.Duration)
	at, again := nextAttempt(d.RoundAttempts+1, end, out.retryAfter, chance())
	switch {
	case once:
		r.State = store.DeliveryDead
	case out.gone:
		r.State, r.Disable = store.DeliveryDead, store.DisabledGone
	case c.FailingSince != nil && end.Sub(*c.FailingSince) >= giveUpAfter:
		r.State, r.Disable = store.DeliveryDead, store.DisabledFailing
	case again:
		r.State, r.RetryAt = store.DeliveryPending, at
	default:
		r.State = store.DeliveryDead
	}
}

func (s *Service) guarded(ctx context.Context, tenant uuid.UUID, c *store.Channel, document []byte) (out outcome) {
	defer func() {
		if r := recover(); r != nil {
			s.cfg.Logger.ErrorContext(ctx, "panic", "channel_id", c.ID, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			out = outcome{err: errors.New("the service failed; its log says why")}
		}
	}()
	return s.send(ctx, tenant, c, document)
}

// Test tells a channel a test event, once and now, and answers what came of it. ErrNotFound.
func (s *Service) Test(ctx context.Context, tenant, channel uuid.UUID, actor store.Actor) (store.ClaimedDelivery, store.AttemptResult, error) {
	now := s.now()
	c, d, err := s.store.AddTestDelivery(ctx, tenant, channel, now, claimLease, actor, func(id uuid.UUID, c store.Channel) ([]byte, error) {
		return json.Marshal(event.Event{SchemaVersion: event.SchemaVersion, ID: id, Kind: event.Test, Time: now, TenantID: tenant,
			Channel: &event.Channel{ID: c.ID, Name: c.Name, Kind: c.Kind}, Link: s.link("notifications", uuid.Nil)})
	})
	if err != nil {
		return d, store.AttemptResult{}, err
	}
	r, err := s.attempt(ctx, tenant, &c, &d, true)
	return d, r, err
}

// Sweep fans out what no job was made for, and wakes the workers of channels with something due. It is all that a lost
// job costs.
func (s *Service) Sweep(ctx context.Context) error {
	tenants, err := s.store.NotificationTenants(ctx)
	if err != nil {
		return err
	}
	for _, tenant := range tenants {
		if _, err := s.FanOut(ctx, tenant); err != nil {
			return err
		}
		if _, err := s.store.WakeDueChannels(ctx, tenant, s.now()); err != nil {
			return err
		}
	}
	if s.cfg.Stats == nil {
		return nil
	}
	return s.count(ctx, tenants)
}

// count tells how deliveries stand.
func (s *Service) count(ctx context.Context, tenants []uuid.UUID) error {
	var pending, dead int64
	var oldest time.Duration
	for _, tenant := range tenants {
		stats, err := s.store.GetDeliveryStats(ctx, tenant)
		if err != nil {
			return err
		}
		pending, dead = pending+stats.Pending, dead+stats.Dead
		if stats.OldestPending != nil {
			oldest = max(oldest, s.now().Sub(*stats.OldestPending))
		}
	}
	s.cfg.Stats(pending, dead, oldest)
	return nil
}

// End deletes deliveries that were finished more than 30 days before now, but for those of alerts and incidents that are
// open, and events that nobody is told any more, of all tenants, and says how much.
func End(ctx context.Context, st *store.Store, now time.Time) (int64, error) {
	tenants, err := st.Tenants(ctx)
	if err != nil {
		return 0, err
	}
	var all int64
	for _, tenant := range tenants {
		for {
			n, err := st.EndDeliveries(ctx, tenant, now.Add(-keepFor), deletedPage)
			all += n
			if err != nil {
				return all, err
			}
			if n == 0 {
				break
			}
		}
	}
	return all, nil
}
