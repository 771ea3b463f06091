package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
)

// stream posts evidence of one machine over and over, whatever happens to the service, and remembers what
// it was told.
type stream struct {
	svc  *service
	id   string
	next func(c *client.Challenge, round int) (body []byte, err error)

	url      atomic.Pointer[string] // nil while the service is away
	silent   bool                   // the machine is
	answered []*verdict
	lost     int // posts without an answer: recorded as a whole or not at all
	token    string
	err      error
}

// post sends one request to the service's address of the moment.
func (s *stream) post(ctx context.Context, path string, body []byte) (answer, error) {
	url := s.url.Load()
	if url == nil {
		return answer{}, errAway
	}
	at := &service{url: *url, http: s.svc.http}
	return at.send(ctx, http.MethodPost, "/v1/machines/"+s.id+path, s.token, "application/json", body)
}

var errAway = fmt.Errorf("the service is away")

// run posts until ctx ends. A request that has begun is waited for.
func (s *stream) run(ctx context.Context) {
	for round := 0; ctx.Err() == nil && s.err == nil; round++ {
		a, err := s.post(context.WithoutCancel(ctx), "/challenges", nil)
		if err != nil || a.status == http.StatusServiceUnavailable {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		var c client.Challenge
		if a.status != http.StatusCreated {
			s.err = fmt.Errorf("challenge: %d %s", a.status, a.body)
			return
		}
		if s.err = json.Unmarshal(a.body, &c); s.err != nil {
			return
		}
		var body []byte
		if body, s.err = s.next(&c, round); s.err != nil {
			return
		}
		a, err = s.post(context.WithoutCancel(ctx), "/evidence", body)
		switch {
		case err != nil:
			s.lost++
		case a.status == http.StatusCreated:
			v := &verdict{}
			if s.err = json.Unmarshal(a.body, v); s.err == nil {
				s.answered = append(s.answered, v)
			}
		case a.status >= 500: // the database went away under it
			s.lost++
		default:
			s.err = fmt.Errorf("evidence: %d %s", a.status, a.body)
		}
	}
}

// streams are posts of several machines at once.
type streams []*stream

func (all streams) to(svc *service) {
	for _, s := range all {
		if svc == nil {
			s.url.Store(nil)
			continue
		}
		url := svc.url
		s.url.Store(&url)
	}
}

// softStreams are machines with keys in memory that reboot every few rounds into one of two boots.
func softStreams(t *testing.T, svc *service, n int) streams {
	t.Helper()
	boots := [][]byte{readFile(t, bootLog(t, "sb-on-1")), readFile(t, bootLog(t, "cmdline"))}
	var all streams
	for i := range n {
		m := newSoftMachine(t, svc, fmt.Sprintf("soft-%d", i))
		all = append(all, &stream{svc: svc, id: m.id, token: m.token, next: func(c *client.Challenge, round int) ([]byte, error) {
			if round%5 == 0 || m.Log == nil {
				if err := m.Boot(boots[(i+round/5)%2]); err != nil {
					return nil, err
				}
			}
			return m.Evidence(c, true)
		}})
	}
	return all
}

// consistent holds what must hold at every moment: no row is half of something.
func consistent(t testing.TB, db *pgx.Conn) {
	t.Helper()
	for what, query := range map[string]string{
		"verdicts without evidence":                 `SELECT count(*) FROM verdicts v LEFT JOIN evidence e USING (tenant_id, verdict_id) WHERE e.verdict_id IS NULL`,
		"evidence without verdict":                  `SELECT count(*) FROM evidence e LEFT JOIN verdicts v USING (tenant_id, verdict_id) WHERE v.verdict_id IS NULL`,
		"verdicts whose log is missing":             `SELECT count(*) FROM verdicts v LEFT JOIN boot_logs b ON b.tenant_id = v.tenant_id AND b.digest = v.event_log_digest WHERE v.event_log_digest IS NOT NULL AND b.digest IS NULL`,
		"verdicts of no machine":                    `SELECT count(*) FROM verdicts v LEFT JOIN machines m USING (tenant_id, machine_id) WHERE m.machine_id IS NULL`,
		"alerts of a verdict that is missing":       `SELECT count(*) FROM alerts a LEFT JOIN verdicts v ON v.tenant_id = a.tenant_id AND v.verdict_id = a.verdict_id WHERE a.verdict_id IS NOT NULL AND v.verdict_id IS NULL`,
		"alerts without an event in the outbox":     `SELECT count(*) FROM alerts a WHERE NOT EXISTS (SELECT FROM outbox o WHERE o.tenant_id = a.tenant_id AND o.subject_id = a.alert_id AND o.kind = 'alert.opened')`,
		"machines whose status is not a verdict's":  `SELECT count(*) FROM machines m LEFT JOIN verdicts v ON v.tenant_id = m.tenant_id AND v.verdict_id = m.last_verdict_id WHERE m.last_verdict_id IS NOT NULL AND (v.status IS DISTINCT FROM m.status OR v.reason IS DISTINCT FROM m.reason)`,
		"machines whose run is another verdict":     `SELECT count(*) FROM machines m JOIN machine_attestation_state s USING (tenant_id, machine_id) WHERE m.last_verdict_id IS DISTINCT FROM s.verdict_id`,
		"open alerts of affirmed machines":          `SELECT count(*) FROM alerts a JOIN machines m USING (tenant_id, machine_id) WHERE a.code = 'attestation_failed' AND a.status IN ('active', 'in_progress') AND m.status = 'affirming'`,
		"failed machines without open alert":        `SELECT count(*) FROM machines m WHERE m.status = 'contraindicated' AND NOT EXISTS (SELECT FROM alerts a WHERE a.tenant_id = m.tenant_id AND a.machine_id = m.machine_id AND a.code = 'attestation_failed' AND a.status IN ('active', 'in_progress'))`,
		"machines with a verdict and no assessment": `SELECT count(*) FROM machines m WHERE m.last_verdict_id IS NOT NULL AND NOT EXISTS (SELECT FROM assessments a WHERE a.tenant_id = m.tenant_id AND a.machine_id = m.machine_id AND a.code = 'guest_attestation_healthy')`,
	} {
		if n := one[int](t, db, query); n != 0 {
			t.Errorf("%d %s", n, what)
		}
	}
}

// kept checks that every verdict that was answered is there, with what was answered, and that nothing
// is counted but what was posted. unanswered tells that a post may have been recorded and not answered.
func (all streams) kept(t *testing.T, svc *service, unanswered bool) {
	t.Helper()
	for _, s := range all {
		if s.err != nil {
			t.Errorf("machine %s: %v", s.id, s.err)
		}
		stored := map[string]*verdict{}
		var total int64
		for path := "/v1/machines/" + s.id + "/verdicts?limit=500"; path != ""; {
			var page struct {
				Items []*verdict
				Next  *string `json:"next_cursor"`
			}
			svc.get(t, path, &page)
			for _, v := range page.Items {
				stored[v.ID] = v
				total += v.Count
			}
			path = ""
			if page.Next != nil {
				path = "/v1/machines/" + s.id + "/verdicts?limit=500&cursor=" + *page.Next
			}
		}
		for _, a := range s.answered {
			v := stored[a.ID]
			if v == nil {
				t.Errorf("machine %s: the answered verdict %s is gone", s.id, a.ID)
				continue
			}
			if v.Status != a.Status || v.Reason != a.Reason || v.Assurance != a.Assurance || !reflect.DeepEqual(v.Deviations, a.Deviations) || !slices.Equal(v.statuses(), a.statuses()) {
				t.Errorf("machine %s: verdict %s is stored as %+v, answered was %+v", s.id, a.ID, v, a)
			}
		}
		answered := int64(len(s.answered))
		most := answered
		if unanswered {
			most += int64(s.lost)
		}
		if total < answered || total > most {
			t.Errorf("machine %s: %d attestations are counted; %d were answered and %d posts had no answer", s.id, total, answered, s.lost)
		}
		if answered == 0 {
			t.Errorf("machine %s: nothing was answered", s.id)
		}
	}
}

func (all streams) answers() (n int) {
	for _, s := range all {
		n += len(s.answered)
	}
	return n
}

// load runs the streams while during runs.
func (all streams) load(t *testing.T, during func(progress func(n int64))) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var posted atomic.Int64
	var done sync.WaitGroup
	defer func() { // also where the test fails
		all.to(nil)
		stop()
		done.Wait()
	}()
	for _, s := range all {
		next := s.next
		s.next = func(c *client.Challenge, round int) ([]byte, error) {
			posted.Add(1)
			return next(c, round)
		}
		done.Go(func() { s.run(ctx) })
	}
	during(func(n int64) {
		until := posted.Load() + n
		for deadline := time.Now().Add(patience); posted.Load() < until; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("only %d posts", posted.Load())
			}
		}
	})
}

// The service is killed in the middle of a stream of posts, several times, with and without its Postgres.
// Afterwards every verdict that was answered is there, and nothing is half there.
func TestKill(t *testing.T) {
	t.Parallel()
	svc := newService(t)
	all := softStreams(t, svc, 6)
	real := booted(t, svc, "kill-tpm", "", "sb-on-1")
	state := real.agentState()
	all = append(all, &stream{svc: svc, id: state.MachineID, token: state.Bearer(), next: func(c *client.Challenge, _ int) ([]byte, error) {
		return real.evidence(c), nil
	}})
	all.to(svc)
	all.load(t, func(progress func(int64)) {
		for _, kill := range []func() error{svc.kill, svc.killAll, svc.kill, svc.killAll} {
			progress(60)
			if err := kill(); err != nil {
				t.Error(err)
			}
			all.to(nil)
			if err := svc.start(); err != nil {
				t.Fatal(err)
			}
			all.to(svc)
		}
		progress(60)
	})
	all.kept(t, svc, true)
	consistent(t, svc.sql(t))
	t.Logf("%d verdicts were answered", all.answers())
}

// SIGTERM in the middle of a stream ends the service in order: what it had accepted is answered, and what
// was answered is there after a restart.
func TestTerminate(t *testing.T) {
	t.Parallel()
	svc := newService(t)
	all := softStreams(t, svc, 4)
	all.to(svc)
	all.load(t, func(progress func(int64)) {
		for range 2 {
			progress(40)
			if err := svc.terminate(); err != nil {
				t.Error(err)
			}
			all.to(nil)
			if err := svc.start(); err != nil {
				t.Fatal(err)
			}
			all.to(svc)
		}
		progress(40)
	})
	all.kept(t, svc, false)
	consistent(t, svc.sql(t))
}
