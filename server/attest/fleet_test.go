package attest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-verifier/assay/integration/swtpm"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// conflicts are the open conflicts, by kind.
func (b *bench) conflicts() map[finding.ConflictKind]store.FleetConflict {
	b.t.Helper()
	items, _, err := b.store.ListFleetConflicts(b.ctx, b.tenant, store.FleetConflictFilter{}, store.Page{})
	if err != nil {
		b.t.Fatal(err)
	}
	out := map[finding.ConflictKind]store.FleetConflict{}
	for _, c := range items {
		out[c.Details.Kind] = c
	}
	return out
}

// wantConflict asks for exactly one open conflict of the kind over these machines, and an open alert on each of them that
// names them all.
func (b *bench) wantConflict(kind finding.ConflictKind, machines ...*machine) finding.Conflict {
	b.t.Helper()
	c, ok := b.conflicts()[kind]
	if !ok {
		b.t.Fatalf("no conflict %s among %v", kind, b.conflicts())
	}
	for _, m := range machines {
		id := m.id.String()
		if !slices.ContainsFunc(c.Details.Machines, func(x finding.ConflictMachine) bool { return x.ID == id && x.Name != "" }) {
			b.t.Errorf("%s names %v, and not %s", kind, c.Details.Machines, id)
		}
		alerts, _, err := b.store.ListAlerts(b.ctx, b.tenant, store.AlertFilter{MachineID: &m.id, Code: c.Code, Status: "active"}, store.Page{}, b.now())
		if err != nil {
			b.t.Fatal(err)
		}
		if len(alerts) != 1 {
			b.t.Errorf("%d alerts %s of machine %s", len(alerts), c.Code, id)
			continue
		}
		for _, x := range c.Details.Machines {
			if !strings.Contains(alerts[0].Description, x.Name) || !strings.Contains(string(alerts[0].Details), x.Name) {
				b.t.Errorf("the alert does not name %s: %s %s", x.Name, alerts[0].Description, alerts[0].Details)
			}
		}
	}
	return c.Details
}

func (b *bench) noConflict() {
	b.t.Helper()
	if c := b.conflicts(); len(c) != 0 {
		b.t.Errorf("conflicts %v", c)
	}
}

func (b *bench) detectFleet() {
	b.t.Helper()
	if _, err := b.store.DetectFleet(b.ctx, b.tenant, b.now()); err != nil {
		b.t.Fatal(err)
	}
}

// A challenge of one machine that another machine's TPM answers is a relay, and names the TPM's machine.
func TestRelayedQuoteNamesTheMachineThatSigned(t *testing.T) {
	b := newBench(t)
	victim, helper := b.enrolled("sb-on-1"), b.enrolled("sb-on-1")
	b.attest(victim)
	b.attest(helper)
	b.detectFleet()
	b.noConflict() // the same boot log on two machines of one image
	r, err := b.post(victim, helper.quote(b.nonce(victim)))
	if err != nil {
		t.Fatal(err)
	}
	if r.Appraisal.Reason != verifier.OriginUnverified {
		t.Errorf("verdict %s %s", r.Appraisal.Status, r.Appraisal.Reason)
	}
	if c := b.wantConflict(finding.QuoteRelayed, victim, helper); c.Observed.Proved == nil || !*c.Observed.Proved || c.Machines[0].ID != victim.id.String() {
		t.Errorf("%+v", c)
	}
}

// A quote that another machine's TPM made for that machine's own challenge is refused, and tells of the relay all the same.
func TestQuoteOfAnotherMachinesChallenge(t *testing.T) {
	b := newBench(t)
	victim, helper := b.enrolled("sb-on-1"), b.enrolled("sb-on-1")
	b.attest(victim)
	redeemed := helper.quote(b.nonce(helper))
	if _, err := b.post(helper, redeemed); err != nil {
		t.Fatal(err)
	}
	if _, err := b.post(victim, redeemed); code(err) != CodeUnknownChallenge {
		t.Fatalf("%v", err)
	}
	b.wantConflict(finding.QuoteRelayed, victim, helper)
}

// What nobody of the fleet signed, and what only names a signer of the fleet, is a bad signature and no relay.
func TestForgedQuoteIsNoRelay(t *testing.T) {
	b := newBench(t)
	victim, helper, stranger := b.enrolled("sb-on-1"), b.enrolled("sb-on-1"), newMachine(t, "sb-on-1")
	b.attest(victim)
	b.attest(helper)
	if _, err := b.post(victim, stranger.quote(b.nonce(victim))); err != nil {
		t.Fatal(err)
	}
	mixed := helper.quote(b.nonce(victim))
	mixed.Quotes[0]["signature"] = stranger.quote(b.nonce(victim)).Quotes[0]["signature"]
	if _, err := b.post(victim, mixed); err != nil {
		t.Fatal(err)
	}
	b.detectFleet()
	b.noConflict()
}

// ownTPM is a machine whose TPM no other test uses; it is not enrolled.
func ownTPM(t *testing.T, b *bench) (m *machine, dir string) {
	t.Helper()
	dir = t.TempDir()
	box, err := swtpm.Start(t.Context(), dir, swtpm.Options{Banks: []string{"sha256"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = box.Stop() })
	m = &machine{t: t, box: box}
	m.connect()
	m.ek, m.ak = m.readEK(), m.newAK()
	m.boot(specimen(t, "sb-on-1", bootLog))
	b.trust(m, "ek")
	return m, dir
}

// copyOf starts a copy of the TPM's state as it is in its files.
func copyOf(t *testing.T, m *machine, dir string) *machine {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(filepath.Join(to, "state"), os.DirFS(filepath.Join(dir, "state"))); err != nil {
		t.Fatal(err)
	}
	box, err := swtpm.Start(t.Context(), to, swtpm.Options{CADir: filepath.Join(dir, "ca")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = box.Stop() })
	c := *m
	c.box = box
	c.connect()
	c.boot(m.log)
	return &c
}

// A virtual TPM is copied while its machine goes on. The copy is behind; then the original answers again, and both live.
func TestClonedTPM(t *testing.T) {
	b := newBench(t)
	m, dir := ownTPM(t, b)
	b.enrol(m, "original")
	m.persist()
	b.attest(m)
	clone := copyOf(t, m, dir) // one boot later than what it was copied from
	for range 3 {
		m.reboot(m.log)
		b.wait(time.Second)
		if r := b.attest(m); !r.Appraisal.Genuine {
			t.Fatalf("%+v", r.Appraisal.Checks)
		}
	}
	b.detectFleet()
	b.noConflict()
	b.wait(time.Second)
	r := b.attest(clone)
	if r.Appraisal.Reason != verifier.OriginUnverified {
		t.Fatalf("the clone: %s %s", r.Appraisal.Status, r.Appraisal.Reason)
	}
	c := b.wantConflict(finding.ResetBack, m)
	if c.First.ResetCount != c.Second.ResetCount+2 || !slices.Contains(c.Observed.MayBe, finding.MayBeClone) || !slices.Contains(c.Observed.MayBe, finding.MayBeSnapshot) {
		t.Errorf("%+v %+v %+v", c.First, c.Second, c.Observed)
	}
	b.wait(time.Second)
	b.attest(m)
	b.detectFleet()
	if c := b.wantConflict(finding.HistoryForked, m); c.Observed.MayBe[0] != finding.MayBeClone {
		t.Errorf("%+v", c)
	}
	// The clone asks to enrol under a name of its own: one EK under two names.
	before, err := b.store.GetMachine(b.ctx, b.tenant, m.id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Enrol(b.ctx, b.tenant, clone.request("clone"), b.join, admin); code(err) != CodeIdentityConflict {
		t.Fatalf("%v", err)
	}
	shared := b.wantConflict(finding.EKShared, m)
	if len(shared.Machines) != 2 || shared.Machines[1] != (finding.ConflictMachine{Name: "clone"}) {
		t.Errorf("%+v", shared)
	}
	if after, err := b.store.GetMachine(b.ctx, b.tenant, m.id); err != nil || after.UpdatedAt != before.UpdatedAt || after.Name != before.Name {
		t.Errorf("the machine was changed: %v %v", after, err)
	}
	// Once the machine is released and has enrolled anew, all of it is over.
	if err := b.store.RevokeAttestationKey(b.ctx, b.tenant, m.id, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	b.enrol(m, "original")
	b.attest(m)
	b.detectFleet()
	b.noConflict()
}

// TPM2_Clear begins clock and counters anew, and the endorsement hierarchy makes the same AK again.
func TestClearedTPMIsSaidToBeCleared(t *testing.T) {
	b := newBench(t)
	m, _ := ownTPM(t, b)
	template := m.template()
	endorsed := func() key {
		r := execute[tpm2.CreatePrimaryResponse](t, m.device, tpm2.CreatePrimary{
			PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template)})
		return key{r.ObjectHandle, r.Name, r.OutPublic.Bytes()}
	}
	m.ak = endorsed()
	b.enrol(m, "cleared")
	for range 3 { // a TPM that has lived
		if err := m.box.Reset(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.connect()
	}
	m.ak = endorsed()
	m.boot(m.log)
	b.attest(m)
	execute[tpm2.ClearResponse](t, m.device, tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}})
	m.ak = endorsed()
	b.wait(time.Minute)
	if r := b.attest(m); r.Appraisal.Reason != verifier.OriginUnverified {
		t.Fatalf("%s %s", r.Appraisal.Status, r.Appraisal.Reason)
	}
	if c := b.wantConflict(finding.ResetBack, m); c.Observed.MayBe[0] != finding.MayBeCleared || c.Second.ResetCount != 0 {
		t.Errorf("%+v %+v", c.Second, c.Observed)
	}
}

// Two machines that booted logs which name the same cards and disks; the logs are of a real server.
func TestLogOfAnotherMachine(t *testing.T) {
	b := newBench(t)
	log, err := os.ReadFile("../../verifier/eventlog/testdata/eventlogs/baremetal/guard-set-h12ssl-values/eventlog.bin")
	if err != nil {
		t.Fatal(err)
	}
	var machines []*machine
	for range 2 {
		m := b.enrolled("sb-on-1")
		m.reboot(log)
		if r := b.attest(m); !r.Appraisal.Genuine {
			t.Fatalf("%+v", r.Appraisal.Checks)
		}
		machines = append(machines, m)
	}
	b.detectFleet()
	if c := b.wantConflict(finding.LogOfOther, machines...); c.Observed.Sharing != 2 || c.Observed.What != "log_identity" {
		t.Errorf("%+v", c.Observed)
	}
	// One of them boots its own disk again: the evidence shows it no more.
	machines[1].reboot(specimen(t, "sb-on-1", bootLog))
	b.wait(time.Minute)
	b.attest(machines[1])
	b.detectFleet()
	b.noConflict()
}

// More time for the TPM than for us is a jump; less is none, since a TPM that is off or paused counts nothing.
func TestClockThatRanAhead(t *testing.T) {
	seen := start
	hour := uint64(time.Hour.Milliseconds())
	base := tpm.ClockState{Clock: 100 * hour, ResetCount: 7, Safe: true}
	for story, c := range map[string]struct {
		wall  time.Duration
		clock uint64
		want  bool
	}{
		"as much as for us":                      {10 * time.Hour, 110 * hour, false},
		"paused, saved, suspended or migrated":   {1000 * time.Hour, 101 * hour, false},
		"a tenth too fast":                       {100 * time.Hour, 210 * hour, false},
		"an hour ahead after a power loss":       {time.Hour, 102 * hour, false},
		"half a day in an hour":                  {time.Hour, 112 * hour, true},
		"a day ahead in five minutes":            {5 * time.Minute, 124 * hour, true},
		"back: that is the clock check's":        {time.Hour, 99 * hour, false},
		"just behind what drift and slack allow": {100 * time.Hour, 100*hour + 117*hour, false},
		"just beyond what drift and slack allow": {100 * time.Hour, 100*hour + 118*hour, true},
	} {
		t.Run(story, func(t *testing.T) {
			a := &appraisal{now: seen.Add(c.wall), inputs: store.AppraisalInputs{LastClock: &base, Machine: store.Machine{LastSeenAt: &seen}}}
			got := a.ranAhead(tpm.ClockState{Clock: c.clock, ResetCount: 7, Safe: true})
			if (got != nil) != c.want {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Resuming, rebooting and time that passes on the other side only are a machine's everyday life.
func TestHealthyLifeIsNoConflict(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	b.attest(m)
	for _, pause := range []time.Duration{time.Second, 6 * time.Hour, 30 * 24 * time.Hour} {
		b.wait(pause)
		b.attest(m)
		m.reboot(m.log)
		b.attest(m)
	}
	m.reboot(specimen(t, "cmdline", bootLog)) // other software
	b.attest(m)
	m.reboot(specimen(t, "sb-on-1", bootLog))
	b.attest(m)
	b.detectFleet()
	b.noConflict()
}

// A machine that repeats another's quotes causes one comparison of the fleet in a while, and all that it did is found all the same.
func TestRelaysDoNotCompareTheFleetEachTime(t *testing.T) {
	b := newBench(t)
	victim, other, helper := b.enrolled("sb-on-1"), b.enrolled("sb-on-1"), b.enrolled("sb-on-1")
	for _, m := range []*machine{victim, other, helper} {
		b.attest(m)
	}
	b.detectFleet()
	relay := func(m *machine) (waiting int) {
		t.Helper()
		if _, err := b.post(m, helper.quote(b.nonce(m))); err != nil {
			t.Fatal(err)
		}
		return b.rows()["fleet_changes"]
	}
	for i, want := range []int{0, 1, 2} {
		if got := relay(victim); got != want {
			t.Errorf("after relay %d %d sightings wait, want %d", i, got, want)
		}
	}
	if got := relay(other); got != 0 { // another machine's is looked at at once, and all with it
		t.Errorf("%d wait after another machine's", got)
	}
	b.wait(detectEvery / 2)
	if got := relay(victim); got != 1 {
		t.Errorf("%d wait within %s", got, detectEvery)
	}
	b.wait(detectEvery)
	if got := relay(victim); got != 0 {
		t.Errorf("%d wait after %s", got, detectEvery)
	}
	items, _, err := b.store.ListFleetConflicts(b.ctx, b.tenant, store.FleetConflictFilter{}, store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*machine{victim, other} { // each with the one that answered for it
		if !slices.ContainsFunc(items, func(c store.FleetConflict) bool {
			names := func(m *machine) bool {
				return slices.ContainsFunc(c.Details.Machines, func(x finding.ConflictMachine) bool { return x.ID == m.id.String() })
			}
			return c.Details.Kind == finding.QuoteRelayed && c.Details.Observed.What == "quote" && names(m) && names(helper)
		}) {
			t.Errorf("no conflict of %s among %+v", m.id, items)
		}
	}
}
