package store_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/ima"
)

func TestVerdictsAreRuns(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	at := func(minutes int) time.Time { return t0.Add(time.Duration(minutes) * time.Minute) }

	first := record(t, s, judgement(e, at(0), verifier.Affirming, "good"))
	for i := 1; i <= 3; i++ {
		again := record(t, s, judgement(e, at(i), verifier.Affirming, "good"))
		if again.VerdictID != first.VerdictID || again.New || again.Count != int64(i+1) {
			t.Fatalf("repetition %d: %+v, want run %s extended", i, again, first.VerdictID)
		}
	}
	bad := record(t, s, judgement(e, at(4), verifier.Contraindicated, "bad"))
	back := record(t, s, judgement(e, at(5), verifier.Affirming, "good"))
	if !bad.New || !back.New || back.VerdictID == first.VerdictID {
		t.Fatalf("a change did not begin a new run: %+v %+v", bad, back)
	}
	record(t, s, judgement(e, at(6), verifier.Affirming, "good"))

	items, next, err := s.ListVerdicts(t.Context(), tenant, store.VerdictFilter{MachineID: &e.MachineID}, store.Page{})
	must0(t, err)
	var got []string
	for _, v := range items {
		got = append(got, fmt.Sprintf("%s %d-%d ×%d", v.Appraisal.Status, int(v.FirstAt.Sub(t0).Minutes()), int(v.LastAt.Sub(t0).Minutes()), v.Count))
	}
	want := "affirming 5-6 ×2, contraindicated 4-4 ×1, affirming 0-3 ×4"
	if strings.Join(got, ", ") != want || next != "" {
		t.Errorf("runs are %s, want %s", strings.Join(got, ", "), want)
	}
	// Since and until choose the runs that touch the time, the one that is still running included.
	for _, c := range []struct{ since, until, want int }{{0, 9, 3}, {6, 9, 1}, {4, 4, 1}, {2, 4, 2}, {7, 9, 0}} {
		since, until := at(c.since), at(c.until)
		items, _, err := s.ListVerdicts(t.Context(), tenant, store.VerdictFilter{Since: &since, Until: &until}, store.Page{})
		must0(t, err)
		if len(items) != c.want {
			t.Errorf("runs from %d to %d: %d, want %d", c.since, c.until, len(items), c.want)
		}
	}
	m := must[store.Machine](t)(s.GetMachine(t.Context(), tenant, e.MachineID))
	if m.Status != verifier.Affirming || *m.LastVerdict != back.VerdictID || !m.LastSeenAt.Equal(at(6)) || !m.NextDueAt.Equal(at(11)) {
		t.Errorf("the machine's row says %+v", m)
	}
	v, ev, err := s.LastGenuineVerdict(t.Context(), tenant, e.MachineID)
	must0(t, err)
	if v.ID != back.VerdictID || string(ev.Body) != `{"what":"good"}` || ev.ContentType != "application/json" {
		t.Errorf("last genuine verdict %s with %+v", v.ID, ev)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'verdict.change'`); n != 3 {
		t.Errorf("%d audit records of changed verdicts, want 3", n)
	}
	if n := number(t, conn, `SELECT count(*) FROM evidence`); n != 3 {
		t.Errorf("%d pieces of evidence, want one a change: 3", n)
	}
}

func TestAppraisalInputsTellWhatWasRecorded(t *testing.T) {
	s, _ := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	in := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, e.MachineID, t0))
	if in.Key == nil || in.Key.ID != e.KeyID || string(in.Key.Public) != "ak web-1" || in.LastClock != nil || in.CurrentRun != nil || in.LastLog != nil {
		t.Errorf("inputs of a new machine: %+v", in)
	}
	if in.Policy.AttestationIntervalSeconds != 300 || in.PolicyRef.Version != 1 {
		t.Errorf("policy %+v %+v", in.Policy, in.PolicyRef)
	}
	log := bytes.Repeat([]byte("boot log "), 1000)
	rec := judgement(e, t0, verifier.Affirming, "good")
	rec.EventLog, rec.EventLogHash = log, hash(string(log))
	rec.IMAState = &ima.State{Entries: 3, PCR: map[string][]byte{"sha256": {1, 2}}}
	got := record(t, s, rec)

	in = must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, e.MachineID, t0))
	if in.LastClock == nil || *in.LastClock != *rec.Clock || !bytes.Equal(in.LastChallenge, rec.ChallengeKey) || *in.CurrentRun != got.VerdictID ||
		!bytes.Equal(in.LastLog, rec.EventLogHash) || in.IMAState == nil || in.IMAState.Entries != 3 || !bytes.Equal(in.IMAState.PCR["sha256"], []byte{1, 2}) {
		t.Errorf("inputs after a genuine verdict: %+v", in)
	}
	if raw := must[[]byte](t)(s.GetBootLog(t.Context(), tenant, rec.EventLogHash)); !bytes.Equal(raw, log) {
		t.Error("the boot log came back changed")
	}
	// Evidence that is not genuine moves the challenge and nothing else of what is remembered.
	forged := judgement(e, t0.Add(time.Minute), verifier.Contraindicated, "forged")
	forged.Appraisal.Genuine, forged.Clock, forged.IMAState = false, nil, nil
	record(t, s, forged)
	in = must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, e.MachineID, t0))
	if *in.LastClock != *rec.Clock || !bytes.Equal(in.LastLog, rec.EventLogHash) || in.IMAState == nil || !bytes.Equal(in.LastChallenge, forged.ChallengeKey) || !in.Machine.LastSeenAt.Equal(t0) {
		t.Errorf("inputs after forged evidence: %+v", in)
	}
	// Another boot ends the IMA list's state.
	reboot := judgement(e, t0.Add(2*time.Minute), verifier.Affirming, "good")
	reboot.Clock.ResetCount++
	record(t, s, reboot)
	in = must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, e.MachineID, t0))
	if in.IMAState != nil || in.LastLog != nil {
		t.Errorf("after a reboot the state of the boot before is still there: %+v", in)
	}
	if _, err := s.AppraisalInputs(t.Context(), tenant, uuid.New(), t0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("inputs of no machine: %v", err)
	}
	if _, err := s.AppraisalInputs(t.Context(), uuid.New(), e.MachineID, t0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("inputs of another tenant's machine: %v", err)
	}
}

// Of many posts of one challenge exactly one is recorded; of the others nothing is.
func TestOneChallengeIsRedeemedOnce(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	for _, story := range []string{"first verdict", "unchanged", "changed"} {
		challenge := nextChallenge()
		before := number(t, conn, `SELECT coalesce(sum(run_count), 0) FROM machine_attestation_state`) + number(t, conn, `SELECT count(*) FROM verdicts`)*1000
		var won, lost int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 32 {
			rec := judgement(e, t0, verifier.Affirming, "good")
			if story == "changed" {
				rec = judgement(e, t0, verifier.Contraindicated, fmt.Sprint("bad ", i))
			}
			rec.ChallengeKey = challenge
			wg.Go(func() {
				_, err := s.RecordAppraisal(t.Context(), tenant, rec)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					won++
				case errors.Is(err, store.ErrNonceUsed):
					lost++
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if won != 1 || lost != 31 {
			t.Errorf("%s: %d won and %d lost, want 1 and 31", story, won, lost)
		}
		after := number(t, conn, `SELECT coalesce(sum(run_count), 0) FROM machine_attestation_state`) + number(t, conn, `SELECT count(*) FROM verdicts`)*1000
		// A change ends the run of two and begins one of one.
		if want := map[string]int64{"first verdict": 1000 + 1, "unchanged": 1, "changed": 1000 - 1}[story]; after-before != want {
			t.Errorf("%s: the rows moved by %d, want %d", story, after-before, want)
		}
	}
}

// A group commit must not let one record fail another.
func TestGroupedRecordsAreIndependent(t *testing.T) {
	s, _ := newStore(t)
	token := joinToken(t, s, "j", 99)
	var wg sync.WaitGroup
	for i := range 40 {
		e := active(t, s, token, fmt.Sprintf("m%d", i))
		for round := range 3 {
			wg.Go(func() {
				rec := judgement(e, t0, verifier.Affirming, "good")
				want := error(nil)
				switch i % 4 {
				case 1:
					rec.MachineID, rec.KeyID, want = uuid.New(), uuid.Nil, store.ErrNotFound
				case 2:
					// Postgres refuses this value, in the middle of the group's batch.
					rec.Findings.Assessments[0].Description = "zero \x00 byte"
					want = errAny
				case 3:
					rec.KeyID, want = uuid.New(), store.ErrConflict
				}
				_, err := s.RecordAppraisal(t.Context(), tenant, rec)
				switch {
				case want == nil && err != nil && !errors.Is(err, store.ErrNonceUsed): // rounds race for the order of challenges
					t.Errorf("machine %d round %d: %v", i, round, err)
				case want == errAny && err == nil, want != nil && want != errAny && !errors.Is(err, want):
					t.Errorf("machine %d round %d: %v, want %v", i, round, err, want)
				}
			})
		}
	}
	wg.Wait()
	items, _, err := s.ListVerdicts(t.Context(), tenant, store.VerdictFilter{}, store.Page{Limit: 500})
	must0(t, err)
	if len(items) != 10 {
		t.Errorf("%d verdicts, want those of the 10 good machines", len(items))
	}
}

var errAny = errors.New("any error")

func TestGivingUpWaitingNeitherLosesNorDoubles(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "j", 99)
	var wg sync.WaitGroup
	var mu sync.Mutex
	answered := map[string]bool{}
	for i := range 50 {
		e := active(t, s, token, fmt.Sprintf("m%d", i))
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			if i%2 == 0 {
				cancel()
			}
			defer cancel()
			rec := judgement(e, t0, verifier.Affirming, "good")
			_, err := s.RecordAppraisal(ctx, tenant, rec)
			if err == nil {
				mu.Lock()
				answered[e.MachineID.String()] = true
				mu.Unlock()
				return
			}
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			// The same again: recorded once, now or before.
			if _, err = s.RecordAppraisal(t.Context(), tenant, rec); err != nil && !errors.Is(err, store.ErrNonceUsed) {
				t.Error(err)
			}
			mu.Lock()
			answered[e.MachineID.String()] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	if n := number(t, conn, `SELECT count(*) FROM machine_attestation_state WHERE run_count = 1`); n != 50 || len(answered) != 50 {
		t.Errorf("%d machines have one attestation, want 50", n)
	}
}

func TestCloseDrains(t *testing.T) {
	u := emptyDatabase(t, "template_assay")
	s := open(t, u, store.Options{})
	must0(t, s.EnsureTenant(t.Context(), tenant, t0))
	token := joinToken(t, s, "j", 99)
	var es []store.Enrollment
	for i := range 20 {
		es = append(es, active(t, s, token, fmt.Sprintf("m%d", i)))
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	ok := 0
	for _, e := range es {
		wg.Go(func() {
			if _, err := s.RecordAppraisal(t.Context(), tenant, judgement(e, t0, verifier.Affirming, "good")); err == nil {
				mu.Lock()
				ok++
				mu.Unlock()
			}
		})
	}
	s.Close()
	wg.Wait()
	if _, err := s.RecordAppraisal(t.Context(), tenant, judgement(es[0], t0, verifier.Affirming, "late")); err == nil {
		t.Error("a closed store recorded something")
	}
	s2 := open(t, u, store.Options{})
	items, _, err := s2.ListVerdicts(t.Context(), tenant, store.VerdictFilter{}, store.Page{})
	must0(t, err)
	if len(items) != ok {
		t.Errorf("%d answered, %d stored", ok, len(items))
	}
}

func TestKeyReplacedMeanwhileRefusesTheRecord(t *testing.T) {
	s, _ := newStore(t)
	m := must[[]store.Machine](t)(s.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: "a"}}, nil, t0, system))[0]
	old := must[store.AttestationKey](t)(s.AddAttestationKey(t.Context(), tenant, m.ID, store.AttestationKey{Public: []byte("a"), Name: []byte("a"), Assurance: verifier.FirstUse}, t0, system))
	e := store.Enrollment{MachineID: m.ID, KeyID: old.ID}
	record(t, s, judgement(e, t0, verifier.Affirming, "good"))
	next := must[store.AttestationKey](t)(s.AddAttestationKey(t.Context(), tenant, m.ID, store.AttestationKey{Public: []byte("b"), Name: []byte("b"), Assurance: verifier.FirstUse}, t0, system))
	if _, err := s.RecordAppraisal(t.Context(), tenant, judgement(e, t0, verifier.Affirming, "good")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a judgement by the replaced key: %v, want ErrConflict", err)
	}
	in := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, m.ID, t0))
	if in.Key.ID != next.ID || in.LastClock != nil || in.CurrentRun != nil {
		t.Errorf("the new key inherits what was known of the old one: %+v", in)
	}
}

func TestLearnedBaselineIsTheMachinesOwn(t *testing.T) {
	s, _ := newStore(t)
	token := joinToken(t, s, "j", 9)
	reference := &verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {"7": {"aa"}}}}
	for _, name := range []string{"web-1", "web-2"} {
		e := active(t, s, token, name)
		for range 2 { // learned once
			rec := judgement(e, t0, verifier.Affirming, "good")
			rec.LearnBaseline = reference
			record(t, s, rec)
		}
		for range 2 { // from the database, then from memory
			in := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, e.MachineID, t0))
			if !in.HasOwnBaseline || len(in.Versions) != 1 || in.Versions[0].Origin != "learned" || in.Versions[0].Reference.PCRs["sha256"]["7"][0] != "aa" {
				t.Fatalf("inputs with a learned baseline: %+v", in.Versions)
			}
		}
	}
}

const childURL = "ASSAY_TEST_STORE_CHILD"

// streamUntilKilled is the test binary as a service: it records appraisals of many machines at once and says
// on standard output which were answered.
func streamUntilKilled(u string) {
	ctx := context.Background()
	s, err := store.Open(ctx, u, store.Options{})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	machines, _, err := s.ListMachines(ctx, tenant, store.MachineFilter{}, store.Page{Limit: 500})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var mu sync.Mutex
	for _, m := range machines {
		in, err := s.AppraisalInputs(ctx, tenant, m.ID, t0)
		if err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		go func() {
			for i := 1; ; i++ {
				rec := judgement(store.Enrollment{MachineID: m.ID, KeyID: in.Key.ID}, t0.Add(time.Duration(i)*time.Second), verifier.Contraindicated, fmt.Sprint("judgement ", i/2))
				rec.ChallengeKey = fmt.Appendf(nil, "%016d", i)
				if _, err := s.RecordAppraisal(ctx, tenant, rec); err != nil {
					continue
				}
				mu.Lock()
				fmt.Println("answered", m.ID, i)
				mu.Unlock()
			}
		}()
	}
	select {}
}

// The service is killed in the middle of a stream: what it answered is there, and nothing is there by half.
func TestKilledInTheMiddleOfAStream(t *testing.T) {
	u := emptyDatabase(t, "template_assay")
	s := open(t, u, store.Options{})
	must0(t, s.EnsureTenant(t.Context(), tenant, t0))
	token := joinToken(t, s, "j", 99)
	for i := range 10 {
		active(t, s, token, fmt.Sprintf("m%d", i))
	}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childURL+"="+u)
	out, err := child.StdoutPipe()
	must0(t, err)
	must0(t, child.Start())
	answered, lines := map[string]int{}, 0
	for scan := bufio.NewScanner(out); scan.Scan(); {
		f := strings.Fields(scan.Text())
		if len(f) != 3 || f[0] != "answered" {
			t.Errorf("the service says %q", scan.Text())
			_ = child.Process.Kill()
			break
		}
		answered[f[1]], _ = strconv.Atoi(f[2])
		if lines++; lines == 500 {
			must0(t, child.Process.Kill())
		}
	}
	_ = child.Wait()

	machines, _, err := s.ListMachines(t.Context(), tenant, store.MachineFilter{}, store.Page{Limit: 500})
	must0(t, err)
	for _, m := range machines {
		in := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, m.ID, t0))
		redeemed, err := strconv.Atoi(string(in.LastChallenge))
		must0(t, err)
		if redeemed < answered[m.ID.String()] {
			t.Errorf("machine %s was answered %d, but %d is the last there is", m.Name, answered[m.ID.String()], redeemed)
		}
		verdicts, _, err := s.ListVerdicts(t.Context(), tenant, store.VerdictFilter{MachineID: &m.ID}, store.Page{Limit: 500})
		must0(t, err)
		total := int64(0)
		for _, v := range verdicts {
			total += v.Count
			if _, err := s.GetEvidence(t.Context(), tenant, v.ID); err != nil {
				t.Errorf("verdict %s without its evidence: %v", v.ID, err)
			}
		}
		if total != int64(redeemed) || *m.LastVerdict != verdicts[0].ID || *in.CurrentRun != verdicts[0].ID {
			t.Errorf("machine %s: %d attestations in its runs, %d challenges redeemed", m.Name, total, redeemed)
		}
		as := alertsOf(t, s, store.AlertFilter{MachineID: &m.ID}, t0)
		if len(as) != 1 || as[0].Count != int64(redeemed) || as[0].VerdictID != verdicts[0].ID {
			t.Errorf("machine %s: alerts %s after %d failures", m.Name, statuses(as), redeemed)
		}
	}
}

func TestAppraisalComesBackWhole(t *testing.T) {
	s, _ := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 9), "web-1")
	rec := judgement(e, t0, verifier.Contraindicated, "bad")
	rec.Appraisal.Baseline = &verifier.VersionRef{ID: "b", Version: 3}
	rec.Appraisal.Deviations = []verifier.Deviation{{PCR: 4, Kind: verifier.Changed, Expected: []string{"00"}, Actual: "ff"}}
	rec.Appraisal.Claims.TPM.Banks = []string{"sha256"}
	got := record(t, s, rec)
	v := must[store.Verdict](t)(s.GetVerdict(t.Context(), tenant, got.VerdictID))
	a, err := json.Marshal(rec.Appraisal)
	must0(t, err)
	b, err := json.Marshal(v.Appraisal)
	must0(t, err)
	if !bytes.Equal(a, b) || !v.Appraisal.Genuine || v.MachineName != "web-1" || v.KeyID != e.KeyID {
		t.Errorf("stored\n%s\nread\n%s", a, b)
	}
}

// Postgres itself is killed in the middle of a stream. Calls fail meanwhile, and work again when it is back; what
// was answered is there.
func TestDatabaseKilledInTheMiddleOfAStream(t *testing.T) {
	dir, err := os.MkdirTemp("", "pg")
	must0(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	pg, err := embedded.Start(t.Context(), embedded.Config{DataDir: dir, Logf: t.Logf})
	must0(t, err)
	t.Cleanup(func() { _ = pg.Stop(context.Background()) })
	must0(t, store.Migrate(t.Context(), pg.URL()))
	s := open(t, pg.URL(), store.Options{})
	must0(t, s.EnsureTenant(t.Context(), tenant, t0))
	token := joinToken(t, s, "j", 99)
	var wg sync.WaitGroup
	var answers, recovered atomic.Int64
	killed := make(chan struct{})
	for i := range 8 {
		e := active(t, s, token, fmt.Sprintf("m%d", i))
		wg.Go(func() {
			last, afterKill, failed := 0, 0, 0
			for n := 1; afterKill < 20 && failed < 3000; n++ {
				rec := judgement(e, t0.Add(time.Duration(n)*time.Second), verifier.Affirming, fmt.Sprint("judgement ", n/2))
				rec.ChallengeKey = fmt.Appendf(nil, "%016d", n)
				if _, err := s.RecordAppraisal(t.Context(), tenant, rec); err != nil {
					failed++
					time.Sleep(10 * time.Millisecond)
					continue
				}
				last = n
				answers.Add(1)
				select {
				case <-killed:
					if failed > 0 {
						afterKill++
					}
				default:
				}
			}
			recovered.Add(int64(afterKill))
			in, err := s.AppraisalInputs(t.Context(), tenant, e.MachineID, t0)
			if err != nil || string(in.LastChallenge) != fmt.Sprintf("%016d", last) {
				t.Errorf("machine %d was answered %d, but %s is the last there is (%v)", i, last, in.LastChallenge, err)
			}
		})
	}
	for answers.Load() < 50 {
		time.Sleep(time.Millisecond)
	}
	pid, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	must0(t, err)
	n, err := strconv.Atoi(strings.Fields(string(pid))[0])
	must0(t, err)
	must0(t, syscall.Kill(n, syscall.SIGKILL))
	close(killed)
	wg.Wait()
	if recovered.Load() != 8*20 {
		t.Errorf("%d appraisals were recorded after the crash, want 160", recovered.Load())
	}
}
