package notify_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/store"
)

// A transaction that writes events enqueues one fan-out, one that is rolled back none, and one without events none.
func TestOneJobATransaction(t *testing.T) {
	b := newBench(t)
	const jobs = `SELECT count(*) FROM river.river_job WHERE kind = 'notify_fan_out'`
	b.alerts("a", "b", "c")
	if n := b.number(jobs); n != 1 {
		t.Errorf("three events of one transaction enqueued %d jobs", n)
	}
	b.alerts("a", "b", "c") // again: nothing happened
	if n := b.number(jobs); n != 1 {
		t.Errorf("a transaction without events enqueued a job: %d", n)
	}
	b.healthy("a")
	if n := b.number(jobs); n != 2 {
		t.Errorf("%d jobs after the second transaction with events", n)
	}
	tx, err := b.conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `UPDATE outbox SET event_id = gen_random_uuid(); INSERT INTO outbox SELECT tenant_id, gen_random_uuid(), kind, subject_id, payload, created_at FROM outbox`); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := b.number(jobs); n != 2 {
		t.Errorf("a transaction that was rolled back left a job: %d", n)
	}
	// Whoever writes the events, in whatever statement: two statements are one job still.
	if _, err := b.conn.Exec(t.Context(), `BEGIN; INSERT INTO outbox SELECT tenant_id, gen_random_uuid(), kind, subject_id, payload, created_at FROM outbox;
		INSERT INTO outbox SELECT tenant_id, gen_random_uuid(), kind, subject_id, payload, created_at FROM outbox; COMMIT`); err != nil {
		t.Fatal(err)
	}
	if n := b.number(jobs); n != 3 {
		t.Errorf("two statements of one transaction: %d jobs", n)
	}
}

// The official library of Standard Webhooks accepts what is sent, also while a secret is rotated, and nothing else.
func TestTheOfficialLibraryVerifies(t *testing.T) {
	b := newBench(t)
	s := b.service(func(c *notify.Config) { c.Now = time.Now }) // the library looks at the clock
	rc := newReceiver(t, nil)
	c := b.webhook(s, "siem", rc.URL+"/hook?token=hidden", rc.ca(), store.ChannelFilter{})
	b.alerts("web-1")
	if n := b.deliver(s, c); n != 1 {
		t.Fatalf("%d attempts", n)
	}
	verify := func(in received, secret []byte) error {
		hook, err := standardwebhooks.NewWebhook(notify.ShowSecret(secret))
		if err != nil {
			t.Fatal(err)
		}
		return hook.Verify(in.body, in.header)
	}
	first := rc.all()[0]
	if err := verify(first, secret); err != nil {
		t.Errorf("the library refuses: %v", err)
	}
	if err := verify(first, []byte("another secret of some length....")); err == nil {
		t.Error("the library accepts another secret")
	}
	var payload struct {
		Type      string
		Timestamp time.Time
		Data      map[string]any
	}
	if err := json.Unmarshal(first.body, &payload); err != nil || payload.Type != "alert.opened" || payload.Timestamp.IsZero() || payload.Data["id"] != first.id {
		t.Errorf("payload %s: %v", first.body, err)
	}
	alert, machine := payload.Data["alert"].(map[string]any), payload.Data["machine"].(map[string]any)
	if alert["status"] != "active" || alert["severity"] != "medium" || alert["reason"] != "baseline_deviation" || machine["name"] != "web-1" || machine["scale_set"] != "web" ||
		!strings.HasPrefix(payload.Data["link"].(string), "https://assay.example/ui/alerts/") {
		t.Errorf("payload %s", first.body)
	}

	fresh, err := notify.NewSigningSecret(strings.NewReader(strings.Repeat("r", 32)))
	if err != nil {
		t.Fatal(err)
	}
	rotate := func(until time.Time) {
		if _, err := b.store.ChangeChannel(t.Context(), tenant, c.ID, "rotate_secret", t0, system, func(c *store.Channel) error {
			c.PreviousSecretUntil = &until
			c.Secrets, err = s.Seal(tenant, c.ID, notify.Secrets{Signing: fresh, Previous: secret})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	rotate(time.Now().Add(time.Hour))
	b.healthy("web-1")
	b.deliver(s, c)
	second := rc.all()[1]
	if err := verify(second, fresh); err != nil {
		t.Errorf("the new secret: %v", err)
	}
	if err := verify(second, secret); err != nil {
		t.Errorf("the old one in the overlap: %v", err)
	}
	rotate(time.Now().Add(-time.Second))
	b.alerts("web-1")
	b.deliver(s, c)
	third := rc.all()[2]
	if verify(third, fresh) != nil || verify(third, secret) == nil {
		t.Error("after the overlap the old secret must not sign, and the new one must")
	}
}

// Each way in which a receiver may fail: nothing is lost, the next attempt comes by the schedule with the same id, and neither
// log, error nor audit record has the secret or the URL's.
func TestReceiversThatFail(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	stop := make(chan struct{})
	defer close(stop)
	status := func(code int, header ...string) func(int, http.ResponseWriter, *http.Request) bool {
		return func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n > 1 {
				return true
			}
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
			return false
		}
	}
	for name, c := range map[string]struct {
		answer func(n int, w http.ResponseWriter, r *http.Request) bool
		url    string
		noCA   bool
		error  string
		atMost time.Duration // the pause before the second attempt
		ok     bool          // the first attempt is a delivery
	}{
		"down":            {url: "https://127.0.0.1:1", error: "connection refused"},
		"silent":          {url: "https://" + silent.Addr().String(), error: "no answer within"},
		"bad certificate": {noCA: true, error: "certificate"},
		"500":             {answer: status(500), error: "answered 500"},
		"404":             {answer: status(404), error: "answered 404"},
		"redirect":        {answer: status(307, "Location", "https://127.0.0.1:1/"), error: "307, a redirect, which is not followed"},
		"429":             {answer: status(429, "Retry-After", "120"), error: "answered 429", atMost: 2 * time.Minute},
		"closes early": {answer: func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n == 1 {
				panic(http.ErrAbortHandler)
			}
			return true
		}, error: "EOF"},
		"trickles": {answer: func(n int, w http.ResponseWriter, r *http.Request) bool {
			if n == 1 {
				conn, _, _ := w.(http.Hijacker).Hijack()
				go func() {
					defer func() { _ = conn.Close() }()
					for _, c := range "HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("x", 100) {
						if _, err := conn.Write([]byte{byte(c)}); err != nil {
							return
						}
						select {
						case <-stop:
							return
						case <-time.After(100 * time.Millisecond):
						}
					}
				}()
				return false
			}
			return true
		}, error: "no answer within"},
		"huge header": {answer: status(200, "X-Long", strings.Repeat("x", 1<<20)), error: "response headers exceeded"},
		"huge answer": {answer: func(n int, w http.ResponseWriter, _ *http.Request) bool {
			for range 100 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					break
				}
			}
			return true
		}, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := b.service()
			rc := newReceiver(t, c.answer)
			url, ca := rc.URL, rc.ca()
			if c.url != "" {
				url = c.url
			}
			if c.noCA {
				ca = ""
			}
			ch := b.webhook(s, "siem", url+"/in?key=url-secret", ca, store.ChannelFilter{})
			b.alerts("web-1")
			b.deliver(s, ch)
			d, _, attempts, err := b.store.GetDelivery(t.Context(), tenant, b.deliveries(store.DeliveryFilter{})[0].ID)
			if err != nil || len(attempts) != 1 {
				t.Fatal(attempts, err)
			}
			if c.ok {
				if d.State != "delivered" || len(rc.all()) != 1 {
					t.Errorf("%+v", d)
				}
				return
			}
			if d.State != "pending" || !strings.Contains(d.LastError, c.error) || attempts[0].Error != d.LastError || len(d.LastError) > 400 {
				t.Errorf("%+v, want an error with %q", d, c.error)
			}
			pause := d.NextAttemptAt.Sub(attempts[0].At.Add(attempts[0].Duration))
			if c.atMost > 0 && pause.Round(time.Second) != c.atMost {
				t.Errorf("the next attempt comes after %s, the receiver asked for %s", pause, c.atMost)
			}
			if c.atMost == 0 && (pause < 4*time.Second || pause > 6*time.Second) {
				t.Errorf("the next attempt comes after %s", pause)
			}
			if n := b.deliver(s, ch); n != 0 {
				t.Error("it was tried again at once")
			}
			if is := b.channel(ch); is.ConsecutiveFailures != 1 || is.FailingSince == nil || is.LastError != d.LastError {
				t.Errorf("channel %+v", is)
			}
			b.pass(5 * time.Minute)
			again := b.deliver(s, ch)
			if c.url == "" && !c.noCA {
				if got := rc.all(); again != 1 || len(got) != 1 || got[0].id != d.EventID.String() {
					t.Errorf("second attempt: %d, %d accepted", again, len(got))
				}
				if is := b.channel(ch); is.ConsecutiveFailures != 0 || is.FailingSince != nil || is.LastSuccessAt == nil {
					t.Errorf("channel %+v", is)
				}
			}
			var audited string
			if err := b.conn.QueryRow(t.Context(), `SELECT string_agg(concat(before, after, action), ' ') FROM audit_events`).Scan(&audited); err != nil {
				t.Fatal(err)
			}
			shown := notify.ShowSecret(secret)
			for _, text := range []string{shown, strings.TrimPrefix(shown, "whsec_"), string(secret)} {
				if strings.Contains(b.logs.String()+d.LastError+audited, text) {
					t.Errorf("the secret is in log, error or audit record")
				}
			}
			if strings.Contains(b.logs.String()+d.LastError, "url-secret") {
				t.Error("the URL's secret is in log or error")
			}
		})
	}
}

// Of one alert the later event waits for the earlier, others go on; at the end each was accepted in order.
func TestOrderOfAnAlert(t *testing.T) {
	b := newBench(t)
	s := b.service()
	refuse := true
	rc := newReceiver(t, nil)
	rc.answer = func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if refuse && r.Header.Get("webhook-id") != "" {
			w.WriteHeader(503)
			return false
		}
		return true
	}
	c := b.webhook(s, "siem", rc.URL, rc.ca(), store.ChannelFilter{})
	b.alerts("a")
	b.deliver(s, c)
	b.pass(time.Second)
	b.healthy("a")
	b.alerts("b")
	if n := b.deliver(s, c); n != 1 { // b opened; that a was resolved waits
		t.Errorf("%d attempts", n)
	}
	waiting := b.deliveries(store.DeliveryFilter{State: "pending"})
	if len(waiting) != 3 {
		t.Fatalf("%+v", waiting)
	}
	refuse = false
	b.pass(time.Hour)
	b.deliver(s, c)
	var kinds []string
	for _, in := range rc.all() {
		if in.machine == "a" {
			kinds = append(kinds, in.kind)
		}
	}
	if !slices.Equal(kinds, []string{"alert.opened", "alert.resolved"}) || len(rc.all()) != 3 {
		t.Errorf("accepted: %v", kinds)
	}
}

// A worker that dies between sending and recording: the delivery comes again, with the same id, and its late record counts
// for nothing.
func TestKilledBetweenSendingAndRecording(t *testing.T) {
	b := newBench(t)
	s := b.service()
	rc := newReceiver(t, nil)
	c := b.webhook(s, "siem", rc.URL, rc.ca(), store.ChannelFilter{})
	b.alerts("a")
	if _, err := s.FanOut(t.Context(), tenant); err != nil {
		t.Fatal(err)
	}
	_, claimed, err := b.store.ClaimDeliveries(t.Context(), tenant, c.ID, b.clock(), time.Minute, 4) // and dies
	if err != nil || len(claimed) != 1 {
		t.Fatal(claimed, err)
	}
	if n := b.deliver(s, c); n != 0 {
		t.Error("it is another's")
	}
	if due, err := b.store.DueChannels(t.Context(), tenant, b.clock()); err != nil || len(due) != 0 {
		t.Error(due, err)
	}
	b.pass(time.Minute)
	if due, err := b.store.DueChannels(t.Context(), tenant, b.clock()); err != nil || len(due) != 1 {
		t.Error(due, err)
	}
	if n := b.deliver(s, c); n != 1 || rc.all()[0].id != claimed[0].EventID.String() {
		t.Errorf("%d attempts, %+v", n, rc.all())
	}
	recorded, err := b.store.RecordAttempt(t.Context(), tenant, store.AttemptResult{DeliveryID: claimed[0].ID, ChannelID: c.ID, Claim: claimed[0].Claim, At: b.clock(), State: "dead", Error: "late"})
	if err != nil || recorded {
		t.Error("the late record counted", err)
	}
	if d := b.deliveries(store.DeliveryFilter{})[0]; d.State != "delivered" || d.Attempts != 1 {
		t.Errorf("%+v", d)
	}
}

// After the last attempt a delivery is dead, what waited for it goes on, and it can be replayed.
func TestDeadLettersAndReplay(t *testing.T) {
	b := newBench(t)
	s := b.service()
	up := false
	rc := newReceiver(t, nil)
	rc.answer = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		if !up {
			w.WriteHeader(500)
		}
		return up
	}
	c := b.webhook(s, "siem", rc.URL, rc.ca(), store.ChannelFilter{})
	b.alerts("a")
	attempts, began := 0, b.clock()
	for range 20 {
		n := b.deliver(s, c)
		attempts += n
		pending := b.deliveries(store.DeliveryFilter{State: "pending"})
		if len(pending) == 0 {
			break
		}
		b.pass(pending[0].NextAttemptAt.Sub(b.clock()))
	}
	lasted := b.clock().Sub(began)
	dead := b.deliveries(store.DeliveryFilter{State: "dead", ChannelID: &c.ID})
	if attempts != 13 || len(dead) != 1 || dead[0].Attempts != 13 || lasted < 60*time.Hour || lasted > 90*time.Hour {
		t.Fatalf("%d attempts in %s, dead: %+v", attempts, lasted, dead)
	}
	if _, err := b.store.ReplayDelivery(t.Context(), tenant, uuid.New(), b.clock(), system); err == nil {
		t.Error("a delivery that is not there was replayed")
	}
	up = true
	if d, err := b.store.ReplayDelivery(t.Context(), tenant, dead[0].ID, b.clock(), system); err != nil || d.State != "pending" {
		t.Fatal(d, err)
	}
	if _, err := b.store.ReplayDelivery(t.Context(), tenant, dead[0].ID, b.clock(), system); err == nil {
		t.Error("what is pending was replayed")
	}
	b.deliver(s, c)
	if got := rc.all(); len(got) != 1 || got[0].id != dead[0].EventID.String() {
		t.Errorf("%+v", got)
	}
	if n, err := b.store.ReplayChannel(t.Context(), tenant, c.ID, b.clock(), system); err != nil || n != 0 {
		t.Error("nothing is dead any more", n, err)
	}
	// What is finished is deleted in the end, with its event, once nothing is open that it told of.
	b.healthy("a")
	b.deliver(s, c)
	b.pass(31 * 24 * time.Hour)
	if n, err := notify.End(t.Context(), b.store, b.clock()); err != nil || n == 0 {
		t.Error(n, err)
	}
	if n := b.number(`SELECT (SELECT count(*) FROM deliveries) + (SELECT count(*) FROM outbox) + (SELECT count(*) FROM delivery_attempts)`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// A receiver that is gone, or fails for days, is disabled; the others are told, and its deliveries are dead and can be replayed.
func TestChannelsThatAreGivenUp(t *testing.T) {
	for name, code := range map[string]int{"gone": 410, "failing": 500} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			s := b.service()
			up := false
			rc, other := newReceiver(t, nil), newReceiver(t, nil)
			rc.answer = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
				if !up {
					w.WriteHeader(code)
				}
				return up
			}
			c := b.webhook(s, "siem", rc.URL, rc.ca(), store.ChannelFilter{})
			watch := b.webhook(s, "watch", other.URL, other.ca(), store.ChannelFilter{Kinds: []string{"channel.disabled"}})
			b.alerts("a")
			b.deliver(s, c)
			b.pass(time.Second)
			b.healthy("a")
			if name == "failing" {
				b.deliver(s, c)
				b.pass(5 * 24 * time.Hour)
				b.deliver(s, c)
			}
			if is := b.channel(c); is.Enabled || is.DisabledReason != name {
				t.Fatalf("%+v", is)
			}
			if n := b.number(`SELECT count(*) FROM audit_events WHERE action = 'notification_channel.disable'`); n != 1 {
				t.Errorf("%d audit events", n)
			}
			b.deliver(s, watch)
			if got := other.all(); len(got) != 1 || got[0].kind != "channel.disabled" {
				t.Errorf("the other channel was told %+v", got)
			}
			dead := b.deliveries(store.DeliveryFilter{State: "dead", ChannelID: &c.ID})
			if len(dead) == 0 || len(b.deliveries(store.DeliveryFilter{State: "pending", ChannelID: &c.ID})) != 0 {
				t.Errorf("dead: %+v", dead)
			}
			if _, err := b.store.ReplayChannel(t.Context(), tenant, c.ID, b.clock(), system); err == nil {
				t.Error("a disabled channel was replayed")
			}
			up = true
			if _, err := b.store.ChangeChannel(t.Context(), tenant, c.ID, "update", b.clock(), system, func(c *store.Channel) error {
				c.Enabled, c.DisabledReason = true, ""
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if n, err := b.store.ReplayChannel(t.Context(), tenant, c.ID, b.clock(), system); err != nil || n != int64(len(dead)) {
				t.Error(n, err)
			}
			b.deliver(s, c)
			if got := rc.all(); len(got) != len(dead) || got[0].kind != "alert.opened" {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Addresses inside are not asked, by name or number, whatever the name resolves to.
func TestForbiddenAddresses(t *testing.T) {
	b := newBench(t)
	s := b.service(func(c *notify.Config) { c.Reach.Loopback = false })
	rc := newReceiver(t, nil)
	_, port, _ := net.SplitHostPort(rc.Listener.Addr().String())
	for _, url := range []string{"https://127.0.0.1:" + port, "https://localhost:" + port, "https://[::ffff:127.0.0.1]:" + port, "https://169.254.169.254", "https://[64:ff9b::7f00:1]:" + port} {
		c := b.webhook(s, url, url, rc.ca(), store.ChannelFilter{})
		_, r, err := s.Test(t.Context(), tenant, c.ID, system)
		if err != nil || r.State != "dead" || !strings.Contains(r.Error, "private") {
			t.Errorf("%s: %+v %v", url, r, err)
		}
	}
	if len(rc.all()) != 0 {
		t.Error("it was asked")
	}
	for url, ok := range map[string]bool{"https://siem.example/x": true, "http://siem.example": false, "https://10.0.0.1": false, "https://u:p@siem.example": false,
		"https://siem.example/#x": false, "ftp://siem.example": false, "siem.example": false, "https://" + strings.Repeat("a", 3000): false, "https://[::1]": false} {
		if err := s.CheckURL(url); (err == nil) != ok {
			t.Errorf("%.40s: %v", url, err)
		}
	}
}

// The button: sent once and now, recorded, and never tried again.
func TestTheTestButton(t *testing.T) {
	b := newBench(t)
	s := b.service()
	rc := newReceiver(t, func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n == 2 {
			w.WriteHeader(500)
		}
		return n != 2
	})
	c := b.webhook(s, "siem", rc.URL, rc.ca(), store.ChannelFilter{Kinds: []string{"alert.opened"}})
	d, r, err := s.Test(t.Context(), tenant, c.ID, system)
	if err != nil || r.State != "delivered" || *r.Status != 200 || len(rc.all()) != 1 || rc.all()[0].kind != "test" {
		t.Fatalf("%+v %+v %v", d, r, err)
	}
	if _, r, err = s.Test(t.Context(), tenant, c.ID, system); err != nil || r.State != "dead" || *r.Status != 500 {
		t.Errorf("%+v %v", r, err)
	}
	if n := len(b.deliveries(store.DeliveryFilter{})); n != 2 {
		t.Errorf("%d deliveries", n)
	}
	if _, _, err := s.Test(t.Context(), tenant, uuid.New(), system); err == nil {
		t.Error("a channel that is not there was tested")
	}
}

// What a channel is told.
func TestFilters(t *testing.T) {
	b := newBench(t)
	s := b.service()
	rc := newReceiver(t, nil)
	want := map[string]bool{}
	filters := map[string]store.ChannelFilter{
		"all": {}, "resolved": {Kinds: []string{"alert.resolved"}}, "code": {AlertCodes: []string{"attestation_failed"}}, "other code": {AlertCodes: []string{"x"}},
		"medium": {MinSeverity: "medium"}, "high": {MinSeverity: "high"}, "web": {ScaleSets: []string{"web"}}, "db": {ScaleSets: []string{"db"}},
		"prod": {Labels: map[string]string{"env": "prod"}}, "test": {Labels: map[string]string{"env": "test"}}, "no such label": {Labels: map[string]string{"x": ""}},
		"incidents": {IncidentsOnly: true},
	}
	for _, name := range []string{"all", "code", "medium", "web", "prod"} {
		want[name] = true
	}
	for name, f := range filters {
		b.webhook(s, name, rc.URL, rc.ca(), f)
	}
	b.alerts("web-1")
	if n, err := s.FanOut(t.Context(), tenant); err != nil || n != len(want) {
		t.Error(n, err)
	}
	for _, d := range b.deliveries(store.DeliveryFilter{}) {
		if !want[d.ChannelName] {
			t.Errorf("%s is told", d.ChannelName)
		}
	}
	// A suppressed alert is told to those who asked for such.
	if _, err := b.conn.Exec(t.Context(), `UPDATE outbox SET fanned_out_at = NULL, payload = payload || '{"suppressed_by": "0195a000-0000-7000-8000-000000000001"}'; DELETE FROM deliveries`); err != nil {
		t.Fatal(err)
	}
	b.webhook(s, "suppressed too", rc.URL, rc.ca(), store.ChannelFilter{IncludeSuppressed: true})
	if n, err := s.FanOut(t.Context(), tenant); err != nil || n != 1 {
		t.Error(n, err)
	}
	if d := b.deliveries(store.DeliveryFilter{}); len(d) != 1 || d[0].ChannelName != "suppressed too" {
		t.Errorf("%+v", d)
	}
}

// Ten thousand events for a receiver that is down cost pages, and no more attempts at once than a channel may have.
func TestABacklogIsBounded(t *testing.T) {
	b := newBench(t)
	s := b.service()
	busy, most := 0, 0
	rc := newReceiver(t, nil)
	rc.answer = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		rc.mu.Lock()
		busy++
		most = max(most, busy)
		rc.mu.Unlock()
		_, _ = io.WriteString(io.Discard, "")
		rc.mu.Lock()
		busy--
		rc.mu.Unlock()
		return true
	}
	c := b.webhook(s, "siem", rc.URL, rc.ca(), store.ChannelFilter{})
	var names []string
	for i := range 500 {
		names = append(names, fmt.Sprintf("m%03d", i))
	}
	b.alerts(names...)
	if n, err := s.FanOut(t.Context(), tenant); err != nil || n != 500 {
		t.Fatal(n, err)
	}
	if n, _, err := s.Deliver(t.Context(), tenant, c.ID); err != nil || n != 500 || most > 4 {
		t.Errorf("%d attempts, %d at once, %v", n, most, err)
	}
	seen := map[string]bool{}
	for _, in := range rc.all() {
		seen[in.id] = true
	}
	if len(seen) != 500 || len(rc.all()) != 500 {
		t.Errorf("%d accepted, %d different", len(rc.all()), len(seen))
	}
}
