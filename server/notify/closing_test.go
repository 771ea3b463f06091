package notify_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/store"
)

func (b *bench) hideWeb() (rule uuid.UUID) {
	b.t.Helper()
	r, err := b.store.CreateSuppressionRule(b.t.Context(), tenant, store.SuppressionRule{AlertCode: "*", Reason: "known",
		Scope: store.SuppressionScope{AllOf: []store.SuppressionCondition{{Field: "machine.scale_set", In: []string{"web"}}}}}, b.clock(), system)
	if err != nil {
		b.t.Fatal(err)
	}
	return r.ID
}

func kindsOf(rc *receiver) (kinds []string) {
	for _, r := range rc.all() {
		kinds = append(kinds, r.kind)
	}
	return kinds
}

func (b *bench) setStatus(machine, status string) {
	b.t.Helper()
	var id uuid.UUID
	if err := b.conn.QueryRow(b.t.Context(), `SELECT alert_id FROM alerts a JOIN machines m USING (tenant_id, machine_id) WHERE m.name = $1 ORDER BY alert_id DESC LIMIT 1`, machine).Scan(&id); err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.store.SetAlertStatus(b.t.Context(), tenant, id, store.AlertChange{To: status, Comment: "looked at"}, b.clock(), system); err != nil {
		b.t.Fatal(err)
	}
}

// Who was told that an alert was opened is told that it is over, though a rule hides it by then; whether both are fanned out
// at once or one after the other.
func TestTheEndOfWhatWasToldIsToldThoughItIsHidden(t *testing.T) {
	for name, end := range map[string]struct {
		by   func(b *bench)
		kind string
	}{
		"resolved":  {func(b *bench) { b.healthy("web-1") }, "alert.resolved"},
		"dismissed": {func(b *bench) { b.setStatus("web-1", "dismissed") }, "alert.status_changed"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := b.service()
			rc := newReceiver(t, nil)
			c := b.webhook(s, "all", rc.URL, rc.ca(), store.ChannelFilter{})
			b.alerts("web-1")
			b.deliver(s, c)
			b.hideWeb()
			b.pass(time.Minute)
			end.by(b)
			b.deliver(s, c)
			if got := kindsOf(rc); !slices.Equal(got, []string{"alert.opened", end.kind}) {
				t.Errorf("told %v", got)
			}
		})
	}
}

// Of what a channel was never told, the end is hidden as well; and one that was told of an end is not told of the next.
func TestTheEndOfWhatWasNeverToldIsHidden(t *testing.T) {
	b := newBench(t)
	s := b.service()
	rc, only := newReceiver(t, nil), newReceiver(t, nil)
	c := b.webhook(s, "all", rc.URL, rc.ca(), store.ChannelFilter{})
	o := b.webhook(s, "opened", only.URL, only.ca(), store.ChannelFilter{Kinds: []string{"alert.opened"}})
	b.alerts("web-1")
	b.deliver(s, c)
	b.healthy("web-1")
	b.hideWeb()
	b.deliver(s, c)
	b.deliver(s, o)
	b.alerts("web-1", "web-2") // hidden: the first is opened again, the other is new
	b.healthy("web-1", "web-2")
	b.deliver(s, c)
	b.deliver(s, o)
	if got := kindsOf(rc); !slices.Equal(got, []string{"alert.opened", "alert.resolved"}) {
		t.Errorf("told %v", got)
	}
	if got := kindsOf(only); !slices.Equal(got, []string{"alert.opened"}) {
		t.Errorf("told %v to a channel that wants only what is opened", got)
	}
}

// Deliveries of what is still open outlive the others: without them nobody would know who has to be told of the end.
func TestDeliveriesOfOpenAlertsAreKept(t *testing.T) {
	b := newBench(t)
	s := b.service()
	rc := newReceiver(t, nil)
	c := b.webhook(s, "all", rc.URL, rc.ca(), store.ChannelFilter{})
	b.alerts("web-1")
	b.deliver(s, c)
	b.pass(60 * 24 * time.Hour)
	if n, err := notify.End(t.Context(), b.store, b.clock()); err != nil || n != 0 {
		t.Fatal(n, err)
	}
	b.hideWeb()
	b.healthy("web-1")
	b.deliver(s, c)
	if got := kindsOf(rc); !slices.Equal(got, []string{"alert.opened", "alert.resolved"}) {
		t.Errorf("told %v", got)
	}
	b.pass(31 * 24 * time.Hour)
	if _, err := notify.End(t.Context(), b.store, b.clock()); err != nil || b.number(`SELECT count(*) FROM outbox`) != 0 {
		t.Error(err)
	}
}

// Events of a tenant without channels are deleted in their time too.
func TestEventsThatNobodyIsToldAreDeleted(t *testing.T) {
	b := newBench(t)
	s := b.service()
	b.alerts("web-1", "web-2")
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.pass(29 * 24 * time.Hour)
	if n, err := notify.End(t.Context(), b.store, b.clock()); err != nil || n != 0 {
		t.Fatal(n, err)
	}
	b.pass(2 * 24 * time.Hour)
	if n, err := notify.End(t.Context(), b.store, b.clock()); err != nil || n != 2 {
		t.Errorf("deleted %d events, %v", n, err)
	}
	if n := b.number(`SELECT count(*) FROM outbox`); n != 0 {
		t.Errorf("%d events are left", n)
	}
}

// Why a name has no address is said without the resolver that was asked, and why a connection broke without the
// service's own address.
func TestDeliveryErrorsDoNotShowTheNetworkInside(t *testing.T) {
	b := newBench(t)
	s := b.service()
	resolver := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = resolver })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("read udp 10.255.0.7:4242->10.255.255.53:53: refused")
	}}
	webhook := b.webhook(s, "hook", "https://siem.test/hook", "", store.ChannelFilter{})
	b.alerts("web-1")
	b.deliver(s, webhook)
	for kind, config := range map[string]store.ChannelConfig{
		store.ChannelSyslog: {Address: "siem.test:6514", Security: "tls"},
		store.ChannelSMTP:   {Address: "siem.test:587", Security: "starttls", From: "a@example.org", To: []string{"b@example.org"}},
	} {
		c, err := b.store.CreateChannel(t.Context(), tenant, store.Channel{ID: store.NewChannelID(b.clock()), Kind: kind, Name: kind, Enabled: true, Format: "ocsf", Config: config}, b.clock(), system)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Test(t.Context(), tenant, c.ID, system); err != nil {
			t.Fatal(err)
		}
	}
	tried := b.deliveries(store.DeliveryFilter{})
	if len(tried) != 3 {
		t.Fatalf("%d deliveries", len(tried))
	}
	for _, d := range tried {
		if strings.Contains(d.LastError, "10.255.") || !strings.Contains(d.LastError, "siem.test") {
			t.Errorf("%s: %s", d.ChannelName, d.LastError)
		}
	}
}
