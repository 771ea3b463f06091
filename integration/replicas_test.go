package integration_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// listener is a webhook receiver that keeps the ids it took, in that order, and what opened.
type listener struct {
	mu     sync.Mutex
	ids    []string
	events map[string]told
}

type told struct {
	Type string
	Data struct {
		Alert   struct{ ID, Code string }
		Machine struct{ ID string }
	}
}

func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var e told
	if err != nil || json.Unmarshal(body, &e) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	id := r.Header.Get("webhook-id")
	if _, again := l.events[id]; !again {
		l.ids = append(l.ids, id)
	}
	l.events[id] = e
}

// machines are those that the receiver was told such an event of.
func (l *listener) machines(kind, code string) map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := map[string]int{}
	for _, e := range l.events {
		if e.Type == kind && e.Data.Alert.Code == code {
			out[e.Data.Machine.ID]++
		}
	}
	return out
}

// pair is two replicas on one database, of which one at a time is killed.
type pair struct {
	t     *testing.T
	at    [2]*service
	all   streams
	kills int
}

// kill kills one with SIGKILL in the middle of what it does, lets the other have its machines, and starts it again.
func (p *pair) kill() {
	p.t.Helper()
	i := p.kills % 2
	if err := p.at[i].kill(); err != nil {
		p.t.Error(err)
	}
	p.kills++
	p.all.serve(p.at[1-i])
	if err := p.at[i].start(); err != nil {
		p.t.Fatal(err)
	}
	p.share()
}

// share gives each replica half of the machines.
func (p *pair) share() {
	for i, s := range p.all {
		streams{s}.serve(p.at[i%2])
	}
}

// serve is to, but for those that are silent.
func (all streams) serve(svc *service) {
	for _, s := range all {
		if !s.silent {
			streams{s}.to(svc)
		}
	}
}

// Two replicas are killed in turn, again and again, while machines boot what their baseline refuses and what it does not: each
// event of the database reaches the receiver, those of one alert in order. With ASSAY_TEST_LONG it is done for longer, and some
// machines fall silent meanwhile: each is found once, and no other is.
func TestReplicasKilled(t *testing.T) {
	t.Parallel()
	pg, err := embedded.Start(t.Context(), embedded.Config{DataDir: newFolder(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pg.Stop(context.Background()) })
	args := []string{"--database-url", pg.URL(), "--notify-allow-networks", "127.0.0.0/8", "--notify-allow-http"}
	p := &pair{t: t}
	p.at[0] = newService(t, args...)
	if p.at[1], err = startService(p.at[0].dataDir, args...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.at[1].terminate(); err != nil {
			t.Error(err)
		}
	})
	svc := p.at[0]
	refuseOtherKernels(t, pg.URL())
	heard := &listener{events: map[string]told{}}
	receiver := httptest.NewServer(heard)
	t.Cleanup(receiver.Close)
	svc.post(t, "/v1/webhooks", map[string]any{"name": "siem", "url": receiver.URL}, nil)

	p.all = softStreams(t, svc, 8)
	kills, long := 6, os.Getenv("ASSAY_TEST_LONG") != ""
	if long {
		kills = 60
		svc.policy(t, "soft", map[string]any{"attestation_interval_seconds": 10, "stale_after_seconds": 30, "attestation_missing_delay_seconds": 0})
	}
	missing := map[string]map[string]int{} // by kind of event and machine; when all have ended, all are missing
	p.share()
	p.all.load(t, func(progress func(int64)) {
		for range kills {
			progress(40)
			p.kill()
		}
		if !long {
			return
		}
		silent := p.all[:3]
		for _, s := range silent {
			s.silent = true
		}
		silent.to(nil)
		wait := func(what, kind string) {
			t.Helper()
			for deadline := time.Now().Add(patience); len(missing[kind]) < len(silent); missing[kind] = heard.machines(kind, "attestation_missing") {
				if time.Now().After(deadline) {
					t.Fatalf("%s: %v", what, missing[kind])
				}
				progress(40)
				p.kill()
			}
			for _, s := range silent {
				if missing[kind][s.id] != 1 || len(missing[kind]) != len(silent) {
					t.Errorf("%s: %v", what, missing[kind])
				}
			}
		}
		wait("silent machines are found", "alert.opened")
		for _, s := range silent {
			s.silent = false
		}
		p.share()
		wait("that they are back is found", "alert.resolved")
	})
	p.all.kept(t, svc, true)
	db := connect(t, pg.URL())
	consistent(t, db)
	expectTold(t, db, heard)
	t.Logf("%d verdicts were answered, %d events told, %d replicas killed", p.all.answers(), len(heard.ids), p.kills)
}

// refuseOtherKernels is a baseline of one of the two boots of softStreams.
func refuseOtherKernels(t *testing.T, url string) {
	t.Helper()
	st, err := store.Open(t.Context(), url, store.Options{MaxConns: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	log, err := eventlog.Parse(readFile(t, bootLog(t, "sb-on-1")))
	if err != nil {
		t.Fatal(err)
	}
	commands, _, _ := log.PCR(tpm.SHA256, 8) // GRUB's commands, and the kernel's command line
	reference := verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {"8": {hex.EncodeToString(commands)}}}}
	if _, err := st.CreateBaseline(t.Context(), store.DefaultTenant, "soft", verifier.Selector{}, store.BaselineVersion{Reference: reference}, time.Now(), store.Actor{Kind: "system", ID: "test"}); err != nil {
		t.Fatal(err)
	}
}

// expectTold waits until nothing waits, and holds that each event was told, once by the database's account, and those of one
// subject in order.
func expectTold(t *testing.T, db *pgx.Conn, heard *listener) {
	t.Helper()
	const waiting = `SELECT (SELECT count(*) FROM outbox WHERE fanned_out_at IS NULL) + (SELECT count(*) FROM deliveries WHERE state = 'pending')`
	for deadline := time.Now().Add(patience); one[int](t, db, waiting) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d deliveries wait", one[int](t, db, waiting))
		}
	}
	rows, _ := db.Query(t.Context(), `SELECT o.subject_id::text, o.event_id::text, (SELECT count(*) FROM deliveries d WHERE d.event_id = o.event_id AND d.state = 'delivered')
		FROM outbox o ORDER BY o.written_at, o.event_id`)
	want, subjects := map[string][]string{}, map[string]string{}
	var subject, id string
	var deliveries int
	if _, err := pgx.ForEachRow(rows, []any{&subject, &id, &deliveries}, func() error {
		want[subject], subjects[id] = append(want[subject], id), subject
		if deliveries != 1 {
			t.Errorf("event %s was delivered %d times", id, deliveries)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	heard.mu.Lock()
	defer heard.mu.Unlock()
	got := map[string][]string{}
	for _, id := range heard.ids {
		got[subjects[id]] = append(got[subjects[id]], id)
	}
	if len(want) == 0 || !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("told %v, want %v", got, want)
	}
}
