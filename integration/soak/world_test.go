package soak

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/integration/software"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/schedule"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/tpm"
)

const (
	step   = 10 * time.Second // of simulated time
	tenant = "01900000-0000-7000-8000-000000000001"
)

var (
	tenantID = uuid.MustParse(tenant)
	begin    = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	system   = store.Actor{Kind: "system", ID: "soak"}
	limits   = finding.DefaultSilenceLimits()
)

// plan is one soak.
type plan struct {
	seed     uint64
	machines int
	hours    int
	pace     float64 // how often things happen
	replicas int
	kills    bool // connections to the database, and replicas, are killed in the middle of what they do
	outages  bool // all replicas are down for a while, now and then
	masses   bool // a scale set, or the whole fleet, falls silent, now and then
}

// machine is one of the fleet, with what its agent remembers.
type machine struct {
	*software.Machine
	id       uuid.UUID
	scaleSet string
	next     *attest.Challenge
	sendLog  bool
	nextAt   time.Time // of its next attestation
	failures int
	silent   time.Time // until then it is off
	bad      bool      // it booted what the policy refuses
}

// replica is one service on the database.
type replica struct {
	store  *store.Store
	attest *attest.Service
	jobs   []schedule.Job
}

// world is a fleet, the replicas that serve it, and the model of what they must find.
type world struct {
	t        *testing.T
	plan     plan
	chance   *mathrand.Rand
	url      string
	db       *pgx.Conn
	mu       sync.Mutex // of now, which services read at any time
	now      time.Time
	replicas []*replica
	machines []*machine
	down     time.Time // until then no replica serves
	model    *model
	boots    [2][]byte // a good log and a bad one

	attestations, killed int
}

func newWorld(t *testing.T, p plan) *world {
	t.Helper()
	w := &world{t: t, plan: p, chance: mathrand.New(mathrand.NewPCG(p.seed, 1)), url: database(t, fmt.Sprintf("soak_%d", p.seed)), now: begin}
	for i, boot := range []string{"sb-on-1", "cmdline"} {
		raw, err := os.ReadFile(filepath.Join("..", "testdata", "boots", boot, "evidence", "binary_bios_measurements"))
		if err != nil {
			t.Fatal(err)
		}
		w.boots[i] = raw
	}
	var err error
	if w.db, err = pgx.Connect(t.Context(), w.url); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.db.Close(context.Background()) })
	for range p.replicas {
		w.replicas = append(w.replicas, w.start())
	}
	t.Cleanup(func() {
		for _, r := range w.replicas {
			r.store.Close()
		}
	})
	w.model = newModel()
	w.enrol()
	return w
}

// start starts a replica.
func (w *world) start() *replica {
	w.t.Helper()
	st, err := store.Open(w.t.Context(), w.url, store.Options{MaxConns: 6})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := st.EnsureTenant(w.t.Context(), tenantID, begin); err != nil {
		w.t.Fatal(err)
	}
	clock := func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.now
	}
	tokens, err := token.New(w.t.Context(), token.Config{Store: st, Tenant: tenantID, Now: clock})
	if err != nil {
		w.t.Fatal(err)
	}
	service, err := attest.New(attest.Config{Store: st, Token: tokens, Now: clock, Random: rand.Reader, Build: "soak"})
	if err != nil {
		w.t.Fatal(err)
	}
	return &replica{st, service, []schedule.Job{schedule.Heartbeat(st, tenantID, clock), schedule.Deadlines(st, tenantID, limits, clock)}}
}

// slow is the policy of every third scale set.
func slow() verifier.Policy {
	p := verifier.DefaultPolicy()
	p.AttestationIntervalSeconds, p.StaleAfterSeconds, p.AttestationMissingDelaySeconds = 900, 300, 1200
	p.Selector.ScaleSet = []string{"set-2"}
	return p
}

func (w *world) enrol() {
	w.t.Helper()
	r := w.replicas[0]
	if _, err := r.store.PutPolicy(w.t.Context(), tenantID, "slow", slow(), begin, system); err != nil {
		w.t.Fatal(err)
	}
	log, err := eventlog.Parse(w.boots[0])
	if err != nil {
		w.t.Fatal(err)
	}
	commands, _, _ := log.PCR(tpm.SHA256, 8) // GRUB's commands, and the kernel's command line
	reference := verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {"8": {hex.EncodeToString(commands)}}}}
	if _, err := r.store.CreateBaseline(w.t.Context(), tenantID, "soak", verifier.Selector{}, store.BaselineVersion{Reference: reference}, begin, system); err != nil {
		w.t.Fatal(err)
	}
	for i := range w.plan.machines {
		soft, err := software.New()
		if err != nil {
			w.t.Fatal(err)
		}
		m := &machine{Machine: soft, scaleSet: fmt.Sprintf("set-%d", i%3), nextAt: begin, sendLog: true}
		known, err := r.store.UpsertMachines(w.t.Context(), tenantID, []store.MachineInput{{Name: fmt.Sprintf("m%04d", i), OS: "linux", Platform: "qemu",
			SecurityType: "trusted_launch", ScaleSet: m.scaleSet}}, nil, begin, system)
		if err != nil {
			w.t.Fatal(err)
		}
		m.id = known[0].ID
		if _, err := r.attest.VouchKey(w.t.Context(), tenantID, m.id, soft.Public, "soak", system); err != nil {
			w.t.Fatal(err)
		}
		w.boot(m)
		w.machines = append(w.machines, m)
		policy := verifier.DefaultPolicy()
		if m.scaleSet == "set-2" {
			policy = slow()
		}
		w.model.enrolled(m.id, finding.Machine{Name: fmt.Sprintf("m%04d", i), OS: "linux", Platform: "qemu", ScaleSet: m.scaleSet}, &policy, begin)
	}
}

func (w *world) boot(m *machine) {
	w.t.Helper()
	log := w.boots[0]
	if m.bad {
		log = w.boots[1]
	}
	if err := m.Boot(log); err != nil {
		w.t.Fatal(err)
	}
	m.BootID = fmt.Sprint("boot ", w.chance.Uint64())
	m.sendLog = true
}

// perHour is whether something happens in this step that happens so often in an hour.
func (w *world) perHour(times float64) bool {
	return w.chance.Float64() < times*w.plan.pace*step.Hours()
}

// live lets one step of time pass.
func (w *world) live() {
	w.t.Helper()
	w.happen()
	serving := !w.now.Before(w.down)
	if serving { // the beat comes first, as where a replica starts
		w.everyReplica(func(r *replica) error { return doJob(w, r, 0) })
		w.model.beat(w.now)
	}
	w.attestAll(serving)
	if serving {
		w.look()
	}
	w.mu.Lock()
	w.now = w.now.Add(step)
	w.mu.Unlock()
}

// happen lets things happen to machines and to the service.
func (w *world) happen() {
	for _, m := range w.machines {
		off := m.silent.After(w.now)
		switch {
		case off:
		case w.perHour(0.08):
			m.silent = w.now.Add(time.Duration(math.Exp(w.chance.Float64()*4) * float64(3*time.Minute))) // 3 minutes to 2.7 hours
		case w.perHour(0.1):
			m.bad = w.chance.IntN(3) == 0
			w.boot(m)
			m.nextAt = w.now // agents attest after a boot
		}
	}
	if w.plan.masses && (w.perHour(0.2) || w.now.Equal(begin.Add(20*time.Minute))) { // one at least
		set, until := fmt.Sprintf("set-%d", w.chance.IntN(4)), w.now.Add(time.Duration(20+w.chance.IntN(60))*time.Minute)
		for _, m := range w.machines {
			if m.scaleSet == set || set == "set-3" { // there is no such set: the whole fleet
				m.silent = until.Add(time.Duration(w.chance.IntN(600)) * time.Second)
				if w.chance.IntN(12) == 0 {
					m.silent = m.silent.Add(3 * time.Hour)
				}
			}
		}
	}
	if w.plan.outages && w.down.Before(w.now) && (w.perHour(0.2) || w.now.Equal(begin.Add(70*time.Minute))) {
		w.down = w.now.Add(time.Duration(10+w.chance.IntN(1800)) * time.Second)
	}
	if w.plan.kills && w.perHour(3) { // a process that ends, and one in its place
		i := w.chance.IntN(len(w.replicas))
		w.replicas[i].store.Close()
		w.replicas[i] = w.start()
		w.killed++
	}
}

// strike kills connections of replicas while they are at work: whatever transaction they are in is lost, or is committed
// and nobody is told.
func (w *world) strike() (stop func()) {
	if !w.plan.kills || !w.perHour(6) {
		return func() {}
	}
	w.killed++
	ended := make(chan struct{})
	ctx, cancel := context.WithCancel(w.t.Context())
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			_, _ = w.db.Exec(context.WithoutCancel(ctx), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle' AND random() < 0.3`)
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// everyReplica runs f for all replicas at once, under fire, and then for each until it has succeeded, as a supervisor that
// starts what has died.
func (w *world) everyReplica(f func(*replica) error) {
	w.t.Helper()
	stop := w.strike()
	var wg sync.WaitGroup
	failed := make([]bool, len(w.replicas))
	for i, r := range w.replicas {
		wg.Go(func() { failed[i] = f(r) != nil })
	}
	wg.Wait()
	stop()
	for i, r := range w.replicas {
		if failed[i] {
			w.untilDone(func() error { return f(r) })
		}
	}
}

// untilDone tries again and again, since connections that were killed are found out one by one.
func (w *world) untilDone(f func() error) {
	w.t.Helper()
	var err error
	for range 20 {
		if err = f(); err == nil {
			return
		}
	}
	w.t.Fatalf("seed %d: it does not recover: %v", w.plan.seed, err)
}

func doJob(w *world, r *replica, job int) error {
	_, err := schedule.Once(w.t.Context(), r.jobs, r.jobs[job].Name)
	return err
}

// look lets all replicas look at the deadlines, and the model say what they must find.
func (w *world) look() {
	w.t.Helper()
	w.everyReplica(func(r *replica) error { return doJob(w, r, 1) })
	if len(w.replicas) > 1 { // where one died while the others left it to it, this is the next look; else it finds nothing
		w.untilDone(func() error { return doJob(w, w.replicas[0], 1) })
	}
	w.model.look(w.now)
}

// attestAll lets the machines attest whose time has come, some at once.
func (w *world) attestAll(serving bool) {
	w.t.Helper()
	var due []*machine
	for _, m := range w.machines {
		if !m.nextAt.After(w.now) && !m.silent.After(w.now) {
			due = append(due, m)
		}
	}
	if !serving {
		for _, m := range due {
			w.backOff(m)
		}
		return
	}
	stop := w.strike()
	results := make([]*attest.Result, len(due))
	errs := make([]error, len(due))
	var wg sync.WaitGroup
	free := make(chan struct{}, 16)
	for i, m := range due {
		free <- struct{}{}
		r := w.replicas[w.chance.IntN(len(w.replicas))]
		wg.Go(func() {
			results[i], errs[i] = w.attest(r, m)
			<-free
		})
	}
	wg.Wait()
	stop()
	for i, m := range due {
		w.answered(m, results[i], errs[i])
	}
}

func (w *world) attest(r *replica, m *machine) (*attest.Result, error) {
	ctx, actor := w.t.Context(), store.Actor{Kind: "machine", ID: m.id.String()}
	c := m.next
	if c == nil || !w.now.Before(c.ExpiresAt) {
		var err error
		if c, err = r.attest.Challenge(ctx, tenantID, m.id, actor); err != nil {
			return nil, err
		}
	}
	m.next = nil
	body, err := m.Evidence(&client.Challenge{Nonce: c.Nonce[:], PCRSelection: c.PCRSelection}, m.sendLog)
	if err != nil {
		return nil, err
	}
	return r.attest.Appraise(ctx, tenantID, m.id, "application/json", body, actor)
}

func (w *world) answered(m *machine, r *attest.Result, err error) {
	w.t.Helper()
	if err == nil {
		m.next, m.sendLog, m.failures = r.NextChallenge, false, 0
		m.nextAt = w.now.Add(time.Duration(r.NextAttestationAfterSeconds) * time.Second)
		w.attestations++
		if want := map[bool]verifier.Status{false: verifier.Affirming, true: verifier.Contraindicated}[m.bad]; r.Appraisal.Status != want {
			w.t.Fatalf("seed %d, %s: machine %s is %s: %+v", w.plan.seed, w.now, m.id, r.Appraisal.Status, r.Appraisal.Checks)
		}
		w.model.heard(m.id, w.now, m.bad)
		return
	}
	// Whether it was recorded is not known to the machine; what the database says is what counts.
	if !w.plan.kills {
		w.t.Fatalf("seed %d, %s: machine %s: %v", w.plan.seed, w.now, m.id, err)
	}
	var recorded bool
	if err := w.db.QueryRow(w.t.Context(), `SELECT coalesce(heard_at = $2, false) FROM machine_attestation_state WHERE machine_id = $1`, m.id, w.now).Scan(&recorded); err != nil {
		w.t.Fatal(err)
	}
	if recorded {
		w.model.heard(m.id, w.now, m.bad)
	}
	m.sendLog = true
	w.backOff(m)
}

// backOff is the agent's: twice as long each time up to ten minutes, half of it by chance.
func (w *world) backOff(m *machine) {
	m.failures++
	wait := min(time.Second<<min(m.failures-1, 10), 10*time.Minute)
	m.nextAt = w.now.Add(wait/2 + time.Duration(w.chance.Float64()*float64(wait/2)))
}
