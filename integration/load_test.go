package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/integration/software"
)

// resident is a machine of a large fleet, as its agent runs it: with the challenge of the last answer, at the moment that the
// last answer named, and with its log only when it is new.
type resident struct {
	*software.Machine
	id, token string
	next      *client.Challenge
	posts     int64
}

// fleetLoad is that fleet.
type fleetLoad struct {
	svc      *service
	machines []*resident
	answered atomic.Int64
	failed   atomic.Int64
	first    atomic.Pointer[string] // of the failures
}

// newFleetLoad puts n machines into the inventory, in batches, with a policy of that interval.
func newFleetLoad(t *testing.T, svc *service, n, interval int) *fleetLoad {
	t.Helper()
	f := &fleetLoad{svc: svc}
	log := readFile(t, bootLog(t, "sb-on-1"))
	svc.policy(t, "load", map[string]any{"attestation_interval_seconds": interval})
	const batch = 500
	for first := 0; first < n; first += batch {
		items := []map[string]any{}
		for i := first; i < min(n, first+batch); i++ {
			items = append(items, map[string]any{"name": fmt.Sprintf("load-%05d", i), "os": "linux", "platform": "qemu", "security_type": "trusted_launch", "scale_set": "load"})
		}
		var made struct{ Items []struct{ ID string } }
		svc.call(t, http.MethodPost, "/v1/machines/batch", svc.admin, map[string]any{"items": items}, http.StatusOK, &made)
		for _, m := range made.Items {
			soft, err := software.New()
			if err != nil {
				t.Fatal(err)
			}
			if err := soft.Boot(log); err != nil {
				t.Fatal(err)
			}
			var key struct {
				Token string `json:"machine_token"`
			}
			svc.post(t, "/v1/machines/"+m.ID+"/attestation-keys", map[string]any{"ak_public": soft.Public}, &key)
			f.machines = append(f.machines, &resident{Machine: soft, id: m.ID, token: key.Token})
		}
	}
	return f
}

// post sends as the machine, and wants 201.
func (f *fleetLoad) post(m *resident, path string, body []byte, into any) error {
	a, err := f.svc.send(context.Background(), http.MethodPost, "/v1/machines/"+m.id+path, m.token, "application/json", body)
	if err != nil {
		return err
	}
	if a.status != http.StatusCreated {
		return fmt.Errorf("%s: %d %s", path, a.status, a.body)
	}
	return json.Unmarshal(a.body, into)
}

// attest attests once and tells when to attest again.
func (f *fleetLoad) attest(m *resident) (wait time.Duration, err error) {
	withLog := m.next == nil
	if m.next == nil {
		m.next = &client.Challenge{}
		if err := f.post(m, "/challenges", nil, m.next); err != nil {
			return 0, err
		}
	}
	body, err := m.Evidence(m.next, withLog)
	if err != nil {
		return 0, err
	}
	var v struct {
		verdict
		After int `json:"next_attestation_after_seconds"`
	}
	if err := f.post(m, "/evidence", body, &v); err != nil {
		return 0, err
	}
	m.posts++
	m.next = v.Next
	if v.Status != "affirming" || v.Next == nil || v.After < 1 {
		return 0, fmt.Errorf("verdict %s %s, next in %d s", v.Status, v.Reason, v.After)
	}
	return time.Duration(v.After) * time.Second, nil
}

// live lets all machines attest at their interval for so long. They begin at a moment of their own in the first interval.
func (f *fleetLoad) live(t *testing.T, seed uint64, interval, duration time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	chance := mathrand.New(mathrand.NewPCG(seed, 3))
	var running sync.WaitGroup
	for _, m := range f.machines {
		wait := time.Duration(chance.Int64N(int64(interval)))
		running.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
				var err error
				if wait, err = f.attest(m); err != nil {
					if f.failed.Add(1) == 1 {
						text := err.Error()
						f.first.Store(&text)
					}
					return
				}
				f.answered.Add(1)
			}
		})
	}
	running.Wait()
}

// A fleet attests at its interval, and nothing goes wrong: each answer affirms, each is counted, nobody is missed. With
// ASSAY_TEST_LONG it is 10,000 machines that attest once a minute (167 a second) for ten minutes, or ASSAY_TEST_MINUTES.
func TestFleetAtItsInterval(t *testing.T) {
	n, interval, duration := 300, 10, 15*time.Second
	if os.Getenv("ASSAY_TEST_LONG") != "" {
		n, interval, duration = 10_000, 60, 10*time.Minute
		if minutes := os.Getenv("ASSAY_TEST_MINUTES"); minutes != "" {
			var err error
			if duration, err = time.ParseDuration(minutes + "m"); err != nil {
				t.Fatal(err)
			}
		}
	} else {
		t.Parallel()
	}
	svc := newService(t)
	svc.http.Transport = &http.Transport{MaxConnsPerHost: 128, MaxIdleConnsPerHost: 128}
	t.Cleanup(svc.http.CloseIdleConnections)
	f := newFleetLoad(t, svc, n, interval)
	f.live(t, seedOf(t), time.Duration(interval)*time.Second, duration)
	if failed := f.failed.Load(); failed > 0 {
		t.Errorf("%d of %d machines failed, the first with: %s", failed, n, *f.first.Load())
	}
	db := svc.sql(t)
	counted := map[string]int64{}
	for _, m := range f.machines {
		counted[m.id] = m.posts
	}
	rows, err := db.Query(t.Context(), `SELECT machine_id::text, run_count FROM machine_attestation_state WHERE verdict_id IS NOT NULL`)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var id string
		var n int64
		if err := rows.Scan(&id, &n); err != nil {
			t.Fatal(err)
		}
		if counted[id] != n {
			t.Errorf("machine %s: %d attestations are counted, %d were answered", id, n, counted[id])
		}
		delete(counted, id)
	}
	if rows.Err() != nil {
		t.Fatal(rows.Err())
	}
	for id, n := range counted {
		if n > 0 {
			t.Errorf("machine %s: nothing is counted, %d were answered", id, n)
		}
	}
	if alerts := one[int](t, db, `SELECT count(*) FROM alerts`); alerts > 0 {
		t.Errorf("%d alerts of a fleet that is well", alerts)
	}
	consistent(t, db)
	t.Logf("%d machines, %d attestations in %s", n, f.answered.Load(), duration)
	if f.answered.Load() < int64(n) {
		t.Errorf("hardly anything happened: %d attestations of %d machines", f.answered.Load(), n)
	}
}
