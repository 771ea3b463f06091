package main

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// othersPace is how many attestations a second the machines make that nothing happens to.
const othersPace = 200

// outbreak is W7: 10,000 machines fail for one cause within a minute, while others attest at a steady pace. Then all
// recover within a minute, while a webhook that is told of each alert hangs. What is measured is what the others feel, and
// what people are told: one incident, and a handful of notifications.
func (f *fleet) outbreak(ctx context.Context, r *report) error {
	bad, err := os.ReadFile(filepath.Join(f.o.boots, "cmdline", "evidence", "binary_bios_measurements")) // #nosec G304 -- the operator's choice
	if err != nil {
		return err
	}
	others := f.machines[:min(1000, len(f.machines))]
	failing, err := f.outbreakMachines(ctx, len(others))
	if err != nil {
		return err
	}
	told, err := f.startReceiver(ctx)
	if err != nil {
		return err
	}
	defer told.close()
	incidents, err := f.number(ctx, `SELECT count(*) FROM incidents`)
	if err != nil {
		return err
	}
	add := func(name string, value float64, unit, goal string) {
		r.Outbreak = append(r.Outbreak, quantity{name, value, unit, goal})
	}

	calm, err := f.beside(ctx, others, func() error { return wait(ctx, f.o.outbreak/3) })
	if err != nil {
		return err
	}
	calm.report(add, "alone", "")
	var shown time.Duration
	storm, err := f.beside(ctx, others, func() error { return f.reboot(ctx, failing, bad, "contraindicated") })
	if err != nil {
		return err
	}
	storm.report(add, "while machines fail", "as alone")
	if shown, err = f.waitForMembers(ctx, len(failing)); err != nil {
		return err
	}
	a := spent{micros(storm.cpu-calm.share(storm.took)) / float64(len(failing)), micros(storm.service-calm.serviceShare(storm.took)) / float64(len(failing))}
	r.add("W7 a machine that fails", a, 0, "")
	add("W7 all members shown, after the last failed", shown.Seconds(), "s", "")
	now, err := f.number(ctx, `SELECT count(*) FROM incidents`)
	if err != nil {
		return err
	}
	if now-incidents != 1 {
		return fmt.Errorf("%d machines that fail for one cause made %d incidents", len(failing), now-incidents)
	}
	add("W7 incidents", float64(now-incidents), "", "1")
	add("W7 members of it", float64(len(failing)), "", "")

	hanging, err := f.startHanging(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = hanging.Close() }()
	recovery, err := f.beside(ctx, others, func() error { return f.reboot(ctx, failing, f.log, "affirming") })
	if err != nil {
		return err
	}
	recovery.report(add, "while they recover and a webhook hangs", "as alone")
	if _, err := f.waitForMembers(ctx, 0); err != nil {
		return err
	}
	if err := f.until(ctx, func() (bool, error) {
		n, err := f.number(ctx, `SELECT count(*) FROM outbox WHERE fanned_out_at IS NULL`)
		return n == 0, err
	}); err != nil {
		return fmt.Errorf("events that were not made deliveries of: %w", err)
	}
	events, err := f.number(ctx, `SELECT count(*) FROM outbox`)
	if err != nil {
		return err
	}
	add("W7 events in the outbox", float64(events), "", "")
	due, err := f.number(ctx, `SELECT count(*) FROM deliveries d JOIN notification_channels c USING (tenant_id, channel_id) WHERE c.name = 'bench incidents'`)
	if err != nil {
		return err
	}
	if err := f.until(ctx, func() (bool, error) { return told.count.Load() >= due, nil }); err != nil {
		return fmt.Errorf("%d of %d notifications of incidents came: %w", told.count.Load(), due, err)
	}
	add("W7 notifications of the incident", float64(told.count.Load()), "", "a handful")
	return nil
}

// outbreakMachines are those that fail: the fleet's from n on, and more where it has too few.
func (f *fleet) outbreakMachines(ctx context.Context, n int) ([]*machine, error) {
	if missing := n + f.o.failing - len(f.machines); missing > 0 {
		more, err := f.enrolMachines(ctx, missing)
		if err != nil {
			return nil, err
		}
		if _, err := f.window(ctx, more, f.first); err != nil {
			return nil, fmt.Errorf("first attestation: %w", err)
		}
		if _, err := f.s.db.Exec(ctx, `ANALYZE`); err != nil {
			return nil, err
		}
	}
	// Whatever other workloads have left: from here on all run the healthy boot.
	healthy := func(m *machine) ([]request, error) {
		m.resetCount++
		if err := m.boot(f.log); err != nil {
			return nil, err
		}
		return f.first(m)
	}
	if _, err := f.window(ctx, f.machines[:n], healthy); err != nil {
		return nil, err
	}
	return f.machines[n : n+f.o.failing], nil
}

// felt is what the others feel while something happens.
type felt struct {
	latencies    []float64 // of each attestation, in milliseconds
	took         time.Duration
	cpu, service time.Duration // of all that is counted, and of the service alone
}

// share is the CPU time that the same load takes in another time.
func (w *felt) share(took time.Duration) time.Duration {
	return time.Duration(float64(w.cpu) * took.Seconds() / w.took.Seconds())
}

func (w *felt) serviceShare(took time.Duration) time.Duration {
	return time.Duration(float64(w.service) * took.Seconds() / w.took.Seconds())
}

func (w *felt) report(add func(name string, value float64, unit, goal string), when, goal string) {
	add("W7 others, "+when, float64(len(w.latencies))/w.took.Seconds(), "/s", goal)
	add("W7 others, "+when+", p50", median(w.latencies), "ms", goal)
	add("W7 others, "+when+", p99", quantile(w.latencies, 0.99), "ms", goal)
}

// beside lets machines attest at the steady pace, unchanged, until happens returns.
func (f *fleet) beside(ctx context.Context, machines []*machine, happens func() error) (felt, error) {
	digest := "sha256:" + logDigest(f.log)
	unchanged := func(m *machine) ([]request, error) { return m.post(map[string]any{"event_log_digest": digest}) }
	for _, m := range machines { // a challenge for each, so that all that is measured is one request
		if err := f.refresh(ctx, m); err != nil {
			return felt{}, err
		}
	}
	before, err := f.s.counted.usage()
	if err != nil {
		return felt{}, err
	}
	ended := make(chan struct{})
	var happened error
	begun := time.Now()
	go func() { defer close(ended); happened = happens() }()
	w := felt{}
	w.latencies, err = atPace(ctx, f, machines, othersPace, -1, ended, unchanged, "affirming")
	<-ended
	w.took = time.Since(begun)
	if err = errors.Join(err, happened); err != nil {
		return felt{}, err
	}
	after, err := f.s.counted.usage()
	w.cpu, w.service = after.since(before), after.of(before, f.s.service.Process.Pid)
	return w, err
}

// reboot lets all machines boot into that log and attest once each, evenly over the outbreak's time. They have connections of
// their own, so that in the load generator the others do not wait for them.
func (f *fleet) reboot(ctx context.Context, machines []*machine, log []byte, want string) error {
	own := *f.s
	own.client = &http.Client{Timeout: patience, Transport: f.s.client.Transport.(*http.Transport).Clone()}
	apart := &fleet{s: &own, o: f.o}
	sum := logDigest(log)
	if err := own.call(ctx, http.MethodPut, "/v1/machines/"+machines[0].id+"/event-logs/"+sum, machines[0].token, rawLog(log), nil); err != nil {
		return err
	}
	booted := func(m *machine) ([]request, error) {
		m.resetCount++
		if err := m.boot(log); err != nil {
			return nil, err
		}
		return m.post(map[string]any{"event_log_digest": "sha256:" + sum})
	}
	pace := float64(len(machines)) / f.o.outbreak.Seconds()
	_, err := atPace(ctx, apart, machines, pace, len(machines), nil, booted, want)
	return err
}

// atPace begins so many attestations a second, whether or not those before were answered, one machine after the other: n
// of them, or until ended. It returns how long each took to be answered.
func atPace(ctx context.Context, via *fleet, machines []*machine, pace float64, n int, ended <-chan struct{},
	prepare func(*machine) ([]request, error), want string) (latencies []float64, err error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	busy := make([]sync.Mutex, len(machines)) // a machine makes one attestation after the other
	begun := time.Now()
	for i := 0; i != n; i++ {
		select {
		case <-ended:
			n = i + 1 // the last
		case <-ctx.Done():
			wg.Wait()
			return nil, ctx.Err()
		case <-time.After(time.Until(begun.Add(time.Duration(float64(i) / pace * float64(time.Second))))):
		}
		wg.Go(func() {
			k := i % len(machines)
			busy[k].Lock()
			defer busy[k].Unlock()
			took, one := via.attestOnce(ctx, machines[k], prepare, want)
			mu.Lock()
			defer mu.Unlock()
			latencies, err = append(latencies, took), errors.Join(err, one)
		})
	}
	wg.Wait()
	return latencies, err
}

// attestOnce makes one attestation and tells in milliseconds how long the service took to answer.
func (f *fleet) attestOnce(ctx context.Context, m *machine, prepare func(*machine) ([]request, error), want string) (float64, error) {
	if err := f.refresh(ctx, m); err != nil {
		return 0, err
	}
	list, err := prepare(m)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	err = f.attestAs(ctx, m, list, want)
	return micros(time.Since(begun)) / 1000, err
}

// waitForMembers waits until the open incident has so many open members, or for none until no incident of failed
// attestation is open, and tells how long that took.
func (f *fleet) waitForMembers(ctx context.Context, n int) (time.Duration, error) {
	begun := time.Now()
	var last int
	err := f.until(ctx, func() (bool, error) {
		var list struct {
			Items []struct {
				Open int `json:"open_alerts"`
			}
		}
		if err := f.s.call(ctx, http.MethodGet, "/v1/incidents?open=true&code=attestation_failed", f.s.token, nil, &list); err != nil {
			return false, err
		}
		last = 0
		for _, i := range list.Items {
			last = max(last, i.Open)
		}
		return last == n, nil
	})
	if err != nil {
		return 0, fmt.Errorf("the incident shows %d open members, %d are: %w", last, n, err)
	}
	return time.Since(begun), nil
}

// until asks again and again, and gives up when patience ends.
func (f *fleet) until(ctx context.Context, done func() (bool, error)) error {
	for deadline := time.Now().Add(patience); ; {
		ok, err := done()
		if err != nil || ok {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s", patience)
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (f *fleet) number(ctx context.Context, sql string) (n int64, err error) {
	return n, f.s.db.QueryRow(ctx, sql).Scan(&n)
}

// receiver counts the notifications that it accepts.
type receiver struct {
	count  atomic.Int64
	server *http.Server
}

func (r *receiver) close() { _ = r.server.Close() }

// startReceiver starts a webhook that is told of incidents only.
func (f *fleet) startReceiver(ctx context.Context) (*receiver, error) {
	certificate, err := tls.LoadX509KeyPair(f.s.certificate, filepath.Join(filepath.Dir(f.s.certificate), "tls.key"))
	if err != nil {
		return nil, err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13})
	if err != nil {
		return nil, err
	}
	out := &receiver{}
	out.server = &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		out.count.Add(1)
		w.WriteHeader(http.StatusNoContent)
	})}
	go func() { _ = out.server.Serve(l) }()
	return out, f.makeWebhook(ctx, "bench incidents", l.Addr(), map[string]any{"incidents_only": true})
}

// startHanging starts a webhook that is told of everything, takes connections, and never says a word.
func (f *fleet) startHanging(ctx context.Context) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return l, f.makeWebhook(ctx, "bench hanging", l.Addr(), nil) // the kernel accepts for it
}

func (f *fleet) makeWebhook(ctx context.Context, name string, at net.Addr, filter map[string]any) error {
	pem, err := os.ReadFile(f.s.certificate)
	if err != nil {
		return err
	}
	body := map[string]any{"name": name, "url": "https://" + at.String() + "/", "ca_pem": string(pem)}
	if filter != nil {
		body["filter"] = filter
	}
	return f.s.call(ctx, http.MethodPost, "/v1/webhooks", f.s.token, body, nil)
}

// first is a machine's first attestation, with the log in the body.
func (f *fleet) first(m *machine) ([]request, error) {
	return m.post(map[string]any{"event_log": base64.StdEncoding.EncodeToString(m.log)})
}
