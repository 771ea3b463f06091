package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
)

// truth is what a piece of evidence is, known to who made it.
type truth int

const (
	good      truth = iota // the machine booted what its baseline allows
	deviating              // it booted something else
	forged                 // its quote is signed by another key
	foreign                // its nonce was made by nobody
	replayed               // the same body as the attempt before it
)

func (t truth) String() string {
	return [...]string{"good", "deviating", "forged", "foreign", "replayed"}[t]
}

// attempt is one evidence POST and what its sender was told.
type attempt struct {
	truth
	first   *attempt // of a replay: the attempt that it repeats
	skewed  bool     // clocks of replicas were wrong meanwhile
	status  int      // of the answer; 0 where there was none, so that nobody knows what became of it
	code    string   // of the problem
	verdict *verdict
}

// told tells whether the sender knows what became of it. Any failure of the service leaves that open.
func (a *attempt) told() bool { return a.status != 0 && a.status < http.StatusInternalServerError }

// subject is a machine that attests without pause, to whichever replica, and keeps account.
type subject struct {
	*softMachine
	kind     truth // what it sends beside good evidence
	fleet    *subjects
	chance   *mathrand.Rand
	next     *client.Challenge
	sent     bool // its log since the last boot
	attempts []*attempt
	refused  int // requests for a challenge without success
	err      error
}

// subjects are the fleet, and the replicas that it may ask.
type subjects struct {
	all      []*subject
	boots    [2][]byte // what the baseline allows, and what it does not
	http     *http.Client
	replicas []*atomic.Pointer[string] // their addresses; nil while one is away
	skewed   atomic.Bool               // clocks of replicas are wrong, or have been when challenges were made
	done     atomic.Int64              // attempts and refusals so far
	judged   atomic.Int64              // of them, those that a verdict was answered to
}

// newSubjects makes n machines of each kind. Their policy and baseline are those of softStreams.
func newSubjects(t *testing.T, svc *service, seed uint64, n int, kinds ...truth) *subjects {
	t.Helper()
	f := &subjects{boots: [2][]byte{readFile(t, bootLog(t, "sb-on-1")), readFile(t, bootLog(t, "cmdline"))}, http: &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{}}}
	t.Cleanup(f.http.CloseIdleConnections)
	for _, kind := range kinds {
		for i := range n {
			s := &subject{softMachine: newSoftMachine(t, svc, fmt.Sprintf("%s-%d", kind, i)), kind: kind, fleet: f,
				chance: mathrand.New(mathrand.NewPCG(seed, uint64(len(f.all))))}
			if err := s.boot(good); err != nil {
				t.Fatal(err)
			}
			f.all = append(f.all, s)
		}
	}
	return f
}

// at adds a replica, or says where it is now.
func (f *subjects) at(i int, url string) {
	for len(f.replicas) <= i {
		f.replicas = append(f.replicas, &atomic.Pointer[string]{})
	}
	if url == "" {
		f.replicas[i].Store(nil)
		return
	}
	f.replicas[i].Store(&url)
}

// run lets all attest until stop is called, which returns when each knows its last answer.
func (f *subjects) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, s := range f.all {
		running.Go(func() {
			for ctx.Err() == nil && s.err == nil {
				s.err = s.attest(s.draw())
			}
		})
	}
	return func() {
		cancel()
		running.Wait()
	}
}

// progress waits until the fleet has counted n more: of done, with whatever success, or of judged.
func (f *subjects) progress(t *testing.T, counter *atomic.Int64, n int64) {
	t.Helper()
	until := counter.Load() + n
	for deadline := time.Now().Add(patience); counter.Load() < until; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the fleet stands still: %d tries, %d verdicts", f.done.Load(), f.judged.Load())
		}
	}
}

// draw says what to send next.
func (s *subject) draw() truth {
	if s.kind != good && s.chance.IntN(3) > 0 {
		return s.kind
	}
	return good
}

func (s *subject) boot(t truth) error {
	s.sent = false
	if t == deviating {
		return s.Boot(s.fleet.boots[1])
	}
	return s.Boot(s.fleet.boots[0])
}

// attest sends one piece of evidence. The error is of the test; what the service does is kept in attempts.
func (s *subject) attest(t truth) error {
	if t == replayed {
		return s.replay()
	}
	c := s.challenge()
	if c == nil {
		return nil
	}
	deviates := bytes.Equal(s.Log, s.fleet.boots[1])
	if deviates != (t == deviating) || s.chance.IntN(8) == 0 {
		if err := s.boot(t); err != nil {
			return err
		}
	}
	body, err := s.body(c, t)
	if err != nil {
		return err
	}
	return s.post(&attempt{truth: t}, body)
}

// body is evidence of that kind. Where the log was sent since the boot, its digest is enough.
func (s *subject) body(c *client.Challenge, t truth) ([]byte, error) {
	if t == foreign {
		nonce := bytes.Clone(c.Nonce)
		nonce[len(nonce)-1] ^= 1 // of the MAC
		c = &client.Challenge{Nonce: nonce, PCRSelection: c.PCRSelection}
	}
	body, err := s.Evidence(c, !s.sent)
	if t != forged || err != nil {
		return body, err
	}
	var e client.Evidence
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, err
	}
	signature := e.Quotes[0].Signature
	signature[len(signature)-1] ^= 1
	return json.Marshal(e)
}

// replay sends the same good evidence twice.
func (s *subject) replay() error {
	c := s.challenge()
	if c == nil {
		return nil
	}
	body, err := s.Evidence(c, true)
	if err != nil {
		return err
	}
	first := &attempt{truth: good}
	if err := s.post(first, body); err != nil {
		return err
	}
	s.next = nil
	return s.post(&attempt{truth: replayed, first: first}, body)
}

// challenge is that of the last answer, or one that it asks for; nil where it gets none now.
func (s *subject) challenge() *client.Challenge {
	if c := s.next; c != nil && s.chance.IntN(2) == 0 {
		s.next = nil
		return c
	}
	s.next = nil
	status, body := s.send("/challenges", nil)
	var c client.Challenge
	if status != http.StatusCreated || json.Unmarshal(body, &c) != nil {
		s.refused++
		s.fleet.done.Add(1)
		time.Sleep(20 * time.Millisecond) // an agent waits longer
		return nil
	}
	return &c
}

// send posts to one of the replicas; status 0 is no answer.
func (s *subject) send(path string, body []byte) (status int, answer []byte) {
	url := s.fleet.replicas[s.chance.IntN(len(s.fleet.replicas))].Load()
	if url == nil {
		return 0, nil
	}
	at := &service{url: *url, http: s.fleet.http}
	a, err := at.send(context.Background(), http.MethodPost, "/v1/machines/"+s.id+path, s.token, "application/json", body)
	if err != nil {
		return 0, nil
	}
	return a.status, a.body
}

// post sends evidence and keeps what came of it.
func (s *subject) post(a *attempt, body []byte) error {
	var answer []byte
	a.skewed = s.fleet.skewed.Load()
	a.status, answer = s.send("/evidence", body)
	s.attempts = append(s.attempts, a)
	defer s.fleet.done.Add(1)
	switch {
	case a.status == http.StatusCreated:
		a.verdict = &verdict{}
		if err := json.Unmarshal(answer, a.verdict); err != nil {
			return fmt.Errorf("machine %s: %w: %s", s.id, err, answer)
		}
		s.fleet.judged.Add(1)
		s.next, s.sent = a.verdict.Next, a.truth != forged && a.truth != foreign
	case a.told():
		var p struct{ Code string }
		if err := json.Unmarshal(answer, &p); err != nil || p.Code == "" {
			return fmt.Errorf("machine %s: no problem document: %d %s", s.id, a.status, answer)
		}
		a.code = p.Code
		s.sent = s.sent && a.code != "event_log_required"
	default:
		s.sent = false
	}
	return nil
}

// recover holds that every machine is affirmed again, after a few tries at most, whatever it sent before.
func (f *subjects) recover(t *testing.T) {
	t.Helper()
	for _, s := range f.all {
		for try := 1; ; try++ {
			if s.err = s.attest(good); s.err != nil {
				t.Fatal(s.err)
			}
			last := s.attempts[len(s.attempts)-1]
			if last.verdict != nil && last.verdict.Status == "affirming" {
				break
			}
			if try == 60 {
				t.Fatalf("seed %d: %s machine %s does not recover: %+v", seedOf(t), s.kind, s.id, last)
			}
		}
	}
}
