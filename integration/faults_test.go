package integration_test

import (
	"cmp"
	"fmt"
	mathrand "math/rand/v2"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// world is a fleet, two replicas of the service, a Postgres with its standby, and what stands between them.
type world struct {
	t        *testing.T
	chance   *mathrand.Rand
	cluster  *cluster
	lines    [2]*line
	replicas [2]*service
	fleet    *subjects
	heard    *listener
}

// fault is something that happens, until lift ends it.
type fault struct {
	name   string
	rank   int // what is struck, and lifted, later has the higher one
	strike func() (lift func())
}

const (
	ofNetwork  = iota
	ofFailover // which a standby has to be made for
	ofDatabase
	ofService
)

// seedOf is the seed of a randomized run: ASSAY_TEST_SEED, or a fixed one.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	s := os.Getenv("ASSAY_TEST_SEED")
	if s == "" {
		return 20261125
	}
	seed, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

// Faults of the network, of Postgres and of the service itself come in an order that a seed decides, one or two at a time,
// while machines send evidence of which the truth is known. Afterwards the whole database is what the machines were told: no
// accepted evidence is lost, none is counted twice, no verdict is better than its evidence; each event was told; and all
// attest again, without a hand on anything. With ASSAY_TEST_LONG there are more machines and rounds; ASSAY_TEST_SEED is
// another order.
func TestFaults(t *testing.T) {
	t.Parallel()
	seed, rounds, each, long := seedOf(t), 1, 2, os.Getenv("ASSAY_TEST_LONG") != ""
	if long {
		rounds, each = 12, 6
	}
	t.Logf("ASSAY_TEST_SEED=%d", seed)
	w := newWorld(t, seed, each)
	stop := w.fleet.run()
	w.fleet.progress(t, &w.fleet.judged, 40)
	for range rounds {
		w.round(long)
	}
	begun := time.Now()
	phase := func(name string) {
		t.Logf("%s: %s", name, time.Since(begun).Round(time.Millisecond))
		begun = time.Now()
	}
	stop()
	w.fleet.recover(t)
	phase("all machines are affirmed again")
	db := connect(t, w.cluster.primary.URL())
	expectTold(t, db, w.heard)
	phase("all events are told")
	for i, r := range w.replicas {
		select {
		case <-r.exited:
			t.Errorf("replica %d has ended by itself: %v\n%s", i, r.err, r.logTail())
		default:
			if err := r.terminate(); err != nil { // in order, after all that
				t.Errorf("replica %d: %v\n%s", i, err, r.logTail())
			}
		}
	}
	phase("the replicas have ended")
	answers, open := w.fleet.check(t, db)
	t.Logf("%d verdicts were answered, %d posts had no answer, %d events were told", answers, open, len(w.heard.ids))
	if answers == 0 || open == 0 {
		t.Error("hardly anything happened")
	}
}

func newWorld(t *testing.T, seed uint64, each int) *world {
	t.Helper()
	w := &world{t: t, chance: mathrand.New(mathrand.NewPCG(seed, 0)), cluster: newCluster(t), heard: &listener{events: map[string]told{}}}
	dir := newFolder(t)
	for i := range w.replicas {
		w.lines[i] = newLine(t, fmt.Sprintf("replica-%d", i), w.cluster.relay)
		var err error
		w.replicas[i], err = startService(dir+"/data", "--database-url", w.lines[i].url(), "--database-connections", "8",
			"--notify-allow-networks", "127.0.0.0/8", "--notify-allow-http")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = w.replicas[i].terminate() })
	}
	refuseOtherKernels(t, w.cluster.primary.URL())
	receiver := httptest.NewServer(w.heard)
	t.Cleanup(receiver.Close)
	w.replicas[0].post(t, "/v1/webhooks", map[string]any{"name": "siem", "url": receiver.URL}, nil)
	w.fleet = newSubjects(t, w.replicas[0], seed, each, good, deviating, forged, foreign, replayed)
	for i, r := range w.replicas {
		w.fleet.at(i, r.url)
	}
	return w
}

// round lets each fault happen once, in an order left to chance.
func (w *world) round(long bool) {
	w.t.Helper()
	deck := slices.Concat(w.networkFaults(), w.databaseFaults(), w.serviceFaults())
	if long {
		deck = append(deck, w.slowFaults()...)
	}
	w.chance.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
	for len(deck) > 0 {
		n := min(1+w.chance.IntN(2), len(deck))
		step := slices.Clone(deck[:n])
		deck = deck[n:]
		slices.SortStableFunc(step, func(a, b fault) int { return cmp.Compare(a.rank, b.rank) })
		var names []string
		var lifts []func()
		begun := time.Now()
		for _, f := range step {
			names = append(names, f.name)
			lifts = append(lifts, f.strike())
		}
		w.fleet.progress(w.t, &w.fleet.done, 24)
		for _, lift := range lifts {
			lift()
		}
		w.fleet.progress(w.t, &w.fleet.judged, 16)
		w.t.Logf("%s: %s", strings.Join(names, " and "), time.Since(begun).Round(time.Millisecond))
	}
}

// spoiled is a fault of the line of one replica, or of those of both.
func (w *world) spoiled(name string, spoil func(l *line)) fault {
	return fault{name, ofNetwork, func() func() {
		lines := w.lines[:]
		if n := w.chance.IntN(3); n < len(lines) {
			lines = lines[n : n+1]
		}
		for _, l := range lines {
			spoil(l)
		}
		return func() {
			for _, l := range lines {
				l.heal()
			}
		}
	}}
}

func (w *world) networkFaults() []fault {
	return []fault{
		w.spoiled("latency", func(l *line) { l.spoil("latency", "", 1, `{"latency": 40, "jitter": 35}`) }),
		w.spoiled("little bandwidth", func(l *line) { l.spoil("bandwidth", "", 1, `{"rate": 60}`) }),
		w.spoiled("resets", func(l *line) { l.spoil("reset_peer", "", 0.5, `{"timeout": 30}`) }),
		w.spoiled("cut in the middle", func(l *line) { l.spoil("limit_data", "", 0.7, `{"bytes": 3000}`) }),
		w.spoiled("small pieces", func(l *line) { l.spoil("slicer", "", 1, `{"average_size": 100, "size_variation": 90, "delay": 20}`) }),
		w.spoiled("statements vanish", func(l *line) { l.spoil("timeout", "upstream", 1, `{"timeout": 0}`) }),
		w.spoiled("answers vanish", func(l *line) { l.spoil("timeout", "downstream", 1, `{"timeout": 0}`) }),
		{"the line is down", ofNetwork, func() func() {
			l := w.lines[w.chance.IntN(2)]
			l.Stop()
			return func() {
				if err := l.Start(); err != nil {
					w.t.Error(err)
				}
			}
		}},
	}
}

func (w *world) databaseFaults() []fault {
	once := func(f func()) func() func() {
		return func() func() {
			f()
			return func() {}
		}
	}
	return []fault{
		{"Postgres is restarted", ofDatabase, once(func() { w.cluster.primary.signal(syscall.SIGINT) })},
		{"Postgres is killed", ofDatabase, once(func() { w.cluster.primary.signal(syscall.SIGKILL) })},
		{"a backend is killed", ofDatabase, once(func() {
			if pid, err := w.cluster.backend(); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL) // which makes Postgres end all others
			}
		})},
		{"the disk is full", ofDatabase, func() func() {
			on := w.cluster.primary
			on.fill(w.t)
			return func() { on.free(w.t) }
		}},
		{"failover", ofFailover, once(func() {
			w.cluster.addStandby()
			w.fleet.progress(w.t, &w.fleet.done, 24)
			w.cluster.failOver()
		})},
	}
}

func (w *world) serviceFaults() []fault {
	return []fault{
		{"assayd is killed", ofService, func() func() {
			i := w.chance.IntN(2)
			w.fleet.at(i, "")
			if err := w.replicas[i].kill(); err != nil {
				w.t.Error(err)
			}
			return func() { w.restart(i) }
		}},
		{"assayd is frozen", ofService, func() func() {
			r := w.replicas[w.chance.IntN(2)]
			signal := func(s syscall.Signal) { _ = r.cmd.Process.Signal(s) } // it may have been killed in the same step
			signal(syscall.SIGSTOP)
			return func() { signal(syscall.SIGCONT) }
		}},
	}
}

// slowFaults are those whose end takes as long as the service's own patience: half a minute for a group of appraisals.
func (w *world) slowFaults() []fault {
	return []fault{{"peers have forgotten their connections", ofNetwork, func() func() {
		w.cluster.relay.strand()
		return func() {}
	}}}
}

// restart starts a replica again, as a supervisor does: until it stays.
func (w *world) restart(i int) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		err := w.replicas[i].start()
		if err == nil {
			w.fleet.at(i, w.replicas[i].url)
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal(err)
		}
	}
}
