package soak

import (
	"context"
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
	begin    = time.Now().UTC().Truncate(24 * time.Hour).Add(36 * time.Hour) // what the database itself dates is not in the future then
	system   = store.Actor{Kind: "system", ID: "soak"}
	limits   = finding.DefaultSilenceLimits()
)

// plan is one soak.
type plan struct {
	seed     uint64
	machines int
	hours    int
	pace     float64 // how often things happen
	slower   int     // how much longer the times of policies are than the default's
	replicas int
	kills    bool // replicas, and connections to the database, are killed in the middle of what they do
	outages  bool // all replicas are down for a while, now and then
	well     bool // receivers are
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
	heard    time.Time // last
	failures int
	silent   time.Time // until then it is off
	bad      bool      // it booted what the policy refuses
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
	started  int // replicas, ever
	machines []*machine
	channels []*channel
	down     time.Time // until then no replica serves
	model    *model
	boots    [2][]byte // a good log and a bad one

	attestations, struck, killed int
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
			r.end()
		}
	})
	w.model = newModel()
	w.enrol()
	w.subscribe()
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

// policies are that of every third scale set, and that of the others: the default's times, slower as the plan says.
func (p *plan) policies() (slow, usual verifier.Policy) {
	usual = verifier.DefaultPolicy()
	usual.AttestationIntervalSeconds *= p.slower
	usual.StaleAfterSeconds *= p.slower
	usual.AttestationMissingDelaySeconds *= p.slower
	slow = usual
	slow.AttestationIntervalSeconds, slow.StaleAfterSeconds, slow.AttestationMissingDelaySeconds = 900*p.slower, 300*p.slower, 1200*p.slower
	usual.Selector.ScaleSet, slow.Selector.ScaleSet = []string{"set-0", "set-1"}, []string{"set-2"}
	return slow, usual
}

func (w *world) enrol() {
	w.t.Helper()
	r := w.replicas[0]
	slow, usual := w.plan.policies()
	for name, p := range map[string]verifier.Policy{"slow": slow, "usual": usual} {
		if _, err := r.store.PutPolicy(w.t.Context(), tenantID, name, p, begin, system); err != nil {
			w.t.Fatal(err)
		}
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
		policy := usual
		if m.scaleSet == "set-2" {
			policy = slow
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
		w.everyReplica(func(r *replica) error { return r.do(schedule.HeartbeatName) })
		w.model.beat(w.now)
	}
	w.attestAll(serving)
	if serving {
		w.look()
		if w.now.Sub(begin)%(3*step) == 0 {
			w.deliver()
		}
	}
	w.pass(step)
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
	w.fallIll()
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
	ctx, actor := r.ctx, store.Actor{Kind: "machine", ID: m.id.String()}
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
		m.heard = w.now
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
