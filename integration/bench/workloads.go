package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// fleet is the load generator.
type fleet struct {
	s        *system
	o        options
	log      []byte // of the healthy boot
	machines []*machine
	primes   primes
	boots    atomic.Int64
	baseline string // id of the golden one
}

// request is one that a machine is about to send. The last of a machine's list is its evidence.
type request struct {
	method, path string
	body         any
}

// workloads runs what was asked for, on one fleet.
func workloads(ctx context.Context, s *system, o options, r *report) error {
	log, err := os.ReadFile(filepath.Join(o.boots, "sb-on-1", "evidence", "binary_bios_measurements")) // #nosec G304 -- the operator's choice
	if err != nil {
		return err
	}
	f := &fleet{s: s, o: o, log: log}
	if err := f.enrol(ctx); err != nil {
		return fmt.Errorf("enrol the fleet: %w", err)
	}
	if _, err := f.window(ctx, f.machines, f.first); err != nil {
		return fmt.Errorf("first attestation: %w", err)
	}
	// What autovacuum does within a minute of a fleet's enrolment: until then plans are made without statistics.
	if _, err := s.db.Exec(ctx, `ANALYZE`); err != nil {
		return err
	}
	for _, w := range []struct {
		name string
		run  func(context.Context, *report) error
	}{{"W1", f.steady}, {"W6", f.dryRun}, {"W1T", f.confidential}, {"W2", f.storm}, {"W3", f.ima}, {"W4", f.queries}, {"W7", f.outbreak}} {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), w.name) {
			continue
		}
		if err := w.run(ctx, r); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	return nil
}

// enrol registers the fleet's machines and the golden baseline.
func (f *fleet) enrol(ctx context.Context) error {
	if _, err := f.enrolMachines(ctx, f.o.machines); err != nil {
		return err
	}
	reference, err := f.golden()
	if err != nil {
		return err
	}
	var sets []string
	for i := range scaleSets {
		sets = append(sets, scaleSet(i))
	}
	golden := map[string]any{"name": "bench", "selector": map[string]any{"scale_set": sets}, "reference_values": reference}
	var made struct{ ID string }
	if err := f.s.call(ctx, http.MethodPost, "/v1/baselines", f.s.token, golden, &made); err != nil {
		return err
	}
	f.baseline = made.ID
	return nil
}

// enrolMachines adds machines to the fleet, and their keys by the administrator's word.
func (f *fleet) enrolMachines(ctx context.Context, n int) ([]*machine, error) {
	first := len(f.machines)
	for i := first; i < first+n; i++ {
		key, err := f.primes.key(i)
		if err != nil {
			return nil, err
		}
		m, err := newMachine(key, f.log)
		if err != nil {
			return nil, err
		}
		f.machines = append(f.machines, m)
	}
	for start := first; start < len(f.machines); start += 500 {
		batch := f.machines[start:min(start+500, len(f.machines))]
		var items []map[string]any
		for i := range batch {
			items = append(items, map[string]any{"name": fmt.Sprintf("bench-%d", start+i), "external_id": fmt.Sprintf("bench-%d", start+i),
				"os": "linux", "platform": "qemu", "security_type": "trusted_launch", "scale_set": scaleSet(start + i), "labels": map[string]string{"env": "bench"}})
		}
		var out struct {
			Items []struct{ ID string }
		}
		if err := f.s.call(ctx, http.MethodPost, "/v1/machines/batch", f.s.token, map[string]any{"items": items}, &out); err != nil {
			return nil, err
		}
		for i, m := range batch {
			m.id = out.Items[i].ID
		}
	}
	added := f.machines[first:]
	return added, inParallel(16, n, func(i int) error {
		m := added[i]
		var out struct {
			MachineToken string `json:"machine_token"`
		}
		err := f.s.call(ctx, http.MethodPost, "/v1/machines/"+m.id+"/attestation-keys", f.s.token, map[string]any{"ak_public": m.public, "comment": "bench"}, &out)
		m.token = out.MachineToken
		return err
	})
}

const scaleSets = 50

// scaleSet is the scale set of machine n.
func scaleSet(n int) string { return fmt.Sprintf("bench-%02d", n%scaleSets) }

// golden are the reference values of the healthy boot, captured as the service does.
func (f *fleet) golden() (verifier.ReferenceValues, error) {
	m := f.machines[0]
	m.nonce = make([]byte, 32)
	body, err := m.evidence(nil)
	if err != nil {
		return verifier.ReferenceValues{}, err
	}
	ev, err := verifier.Decode(verifier.MediaTypeJSON, body)
	if err != nil {
		return verifier.ReferenceValues{}, err
	}
	ak, err := tpm.ParsePublic(m.public)
	if err != nil {
		return verifier.ReferenceValues{}, err
	}
	log, err := eventlog.Parse(f.log)
	if err != nil {
		return verifier.ReferenceValues{}, err
	}
	policy := verifier.DefaultPolicy()
	judged := verifier.Appraise(ev, verifier.Inputs{Now: time.Now(), AK: verifier.AttestationKey{Public: ak, Assurance: verifier.FirstUse},
		Freshness: tpm.Freshness{Nonce: m.nonce}, Policy: policy, Log: log})
	return baseline.Capture(judged, policy)
}

// post is the list of one evidence POST.
func (m *machine) post(extra map[string]any) ([]request, error) {
	body, err := m.evidence(extra)
	return []request{{http.MethodPost, "/v1/machines/" + m.id + "/evidence", body}}, err
}

// spent is the CPU time of one window for each attestation, in microseconds.
type spent struct{ total, service float64 }

// window lets each machine attest once. Quotes are signed before the clock starts, since what a TPM does is
// not measured.
func (f *fleet) window(ctx context.Context, machines []*machine, prepare func(*machine) ([]request, error)) (spent, error) {
	lists := make([][]request, len(machines))
	err := inParallel(max(f.o.concurrency/8, runtime.NumCPU()), len(machines), func(i int) error {
		if err := f.refresh(ctx, machines[i]); err != nil {
			return err
		}
		var err error
		lists[i], err = prepare(machines[i])
		return err
	})
	if err != nil {
		return spent{}, err
	}
	before, err := f.s.counted.usage()
	if err != nil {
		return spent{}, err
	}
	if err := inParallel(f.o.concurrency, len(machines), func(i int) error { return f.attest(ctx, machines[i], lists[i]) }); err != nil {
		return spent{}, err
	}
	after, err := f.s.counted.usage()
	n := float64(len(machines))
	return spent{micros(after.since(before)) / n, micros(after.of(before, f.s.service.Process.Pid)) / n}, err
}

// windows takes the median of several.
func (f *fleet) windows(ctx context.Context, machines []*machine, prepare func(*machine) ([]request, error)) (spent, error) {
	var total, service []float64
	for range f.o.windows {
		w, err := f.window(ctx, machines, prepare)
		if err != nil {
			return spent{}, err
		}
		total, service = append(total, w.total), append(service, w.service)
	}
	return spent{median(total), median(service)}, nil
}

// refresh asks for a challenge where the last answer's is missing or near its end.
func (f *fleet) refresh(ctx context.Context, m *machine) error {
	if m.nonce != nil && time.Since(m.nonceAt) < 45*time.Second {
		return nil
	}
	var challenge struct{ Nonce []byte }
	if err := f.s.call(ctx, http.MethodPost, "/v1/machines/"+m.id+"/challenges", m.token, nil, &challenge); err != nil {
		return err
	}
	m.nonce, m.nonceAt = challenge.Nonce, time.Now()
	return nil
}

// attest sends a machine's requests; the answer to the last must affirm.
func (f *fleet) attest(ctx context.Context, m *machine, list []request) error {
	return f.attestAs(ctx, m, list, "affirming")
}

// attestAs is attest for another status. The answer brings the next challenge.
func (f *fleet) attestAs(ctx context.Context, m *machine, list []request, want string) error {
	for _, r := range list[:len(list)-1] {
		if err := f.s.call(ctx, r.method, r.path, m.token, r.body, nil); err != nil {
			return err
		}
	}
	last := list[len(list)-1]
	var answer struct {
		Status        string
		Checks        json.RawMessage
		NextChallenge struct{ Nonce []byte } `json:"next_challenge"`
	}
	if err := f.s.call(ctx, last.method, last.path, m.token, last.body, &answer); err != nil {
		return err
	}
	if answer.Status != want {
		return fmt.Errorf("machine %s is judged %s: %s", m.id, answer.Status, answer.Checks)
	}
	m.nonce, m.nonceAt = answer.NextChallenge.Nonce, time.Now()
	m.ima.sent = m.ima.entries
	return nil
}

const steadyFleet = "W1 steady fleet"

// steady is W1: unchanged PCRs, the log by its digest.
func (f *fleet) steady(ctx context.Context, r *report) error {
	digest := "sha256:" + logDigest(f.log)
	unchanged := func(m *machine) ([]request, error) { return m.post(map[string]any{"event_log_digest": digest}) }
	list, err := unchanged(f.machines[0])
	if err != nil {
		return err
	}
	r.SteadyBody = len(list[0].body.(json.RawMessage))
	if _, err := f.window(ctx, f.machines, unchanged); err != nil { // warm
		return err
	}
	var w spent
	err = f.s.profiled(ctx, f.o, "W1", func() (err error) { w, err = f.windows(ctx, f.machines, unchanged); return err })
	if err != nil {
		return err
	}
	resident, err := residentMiB(f.s.service.Process.Pid)
	r.ResidentMiB = resident
	r.add(steadyFleet, w, 5.8, "86–106 µs")
	return err
}

// storm is W2: every machine boots anew, with a log that nobody has seen, sent raw ahead of the evidence.
func (f *fleet) storm(ctx context.Context, r *report) error {
	reboot := func(m *machine) ([]request, error) {
		boot := f.boots.Add(1)
		log, err := freshLog(f.log, 34<<10+int(boot*4099)%(15<<10), fmt.Sprintf("%s boot %d", m.id, boot))
		if err != nil {
			return nil, err
		}
		if err := m.boot(log); err != nil {
			return nil, err
		}
		m.resetCount++
		sum := logDigest(log)
		evidence, err := m.post(map[string]any{"event_log_digest": "sha256:" + sum})
		put := request{http.MethodPut, "/v1/machines/" + m.id + "/event-logs/" + sum, rawLog(log)}
		return append([]request{put}, evidence...), err
	}
	var w spent
	err := f.s.profiled(ctx, f.o, "W2", func() (err error) { w, err = f.windows(ctx, f.machines, reboot); return err })
	r.add("W2 reboot storm, 34–50 KB a log", w, 10.7, "166 µs")
	return err
}

const (
	imaMachines = 100
	imaEntries  = 10_000
	imaMore     = 20
)

// ima is W3: a whole list after each boot, then what was measured since.
func (f *fleet) ima(ctx context.Context, r *report) error {
	machines := f.machines[:min(imaMachines, len(f.machines))]
	list := func(m *machine, from int) ([]request, error) {
		return m.post(map[string]any{"event_log_digest": "sha256:" + logDigest(m.log),
			"ima_log": base64.StdEncoding.EncodeToString(m.ima.raw[from:]), "ima_log_offset": m.ima.sent})
	}
	log := map[string]any{"event_log": base64.StdEncoding.EncodeToString(f.log)}
	// A machine goes back to the healthy boot first, so that only the list is new afterwards.
	whole := func(m *machine) ([]request, error) {
		m.measure(imaEntries)
		return list(m, 0)
	}
	more := func(m *machine) ([]request, error) {
		from := len(m.ima.raw)
		m.measure(imaMore)
		return list(m, from)
	}
	boot := func(m *machine) ([]request, error) {
		m.resetCount++
		if err := m.boot(f.log); err != nil {
			return nil, err
		}
		return m.post(log)
	}
	var total, service []float64
	err := f.s.profiled(ctx, f.o, "W3", func() error {
		for range max(1, f.o.windows/2) {
			if _, err := f.window(ctx, machines, boot); err != nil {
				return err
			}
			w, err := f.window(ctx, machines, whole)
			if err != nil {
				return err
			}
			total, service = append(total, w.total), append(service, w.service)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.add("W3 IMA, 10,000 entries at once", spent{median(total), median(service)}, 4000/26.0, "2.2 ms")
	w, err := f.windows(ctx, machines, more)
	r.add("W3 IMA, 20 more entries", w, 1.1*5.8, "W1 + 5 µs")
	return err
}
