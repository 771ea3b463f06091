package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/assay-verifier/assay/verifier"
)

// dryRun is W6: a version is registered and judged against the stored evidence of every machine, which is that of its
// first attestation, with the log in the body. First a version that all machines fit, then one that none does.
func (f *fleet) dryRun(ctx context.Context, r *report) error {
	fits, err := f.golden()
	if err != nil {
		return err
	}
	differs := fits
	differs.Events = nil
	for _, e := range fits.Events {
		if e.PCR != 4 {
			differs.Events = append(differs.Events, e)
		}
	}
	// Every boot loader and kernel that was started is one too many.
	differs.PCRs = map[string]map[string][]string{"sha256": {"4": {strings.Repeat("00", 32)}}}
	for _, v := range []struct {
		name    string
		values  verifier.ReferenceValues
		healthy int
	}{{"W6 dry run, a machine that fits", fits, len(f.machines)}, {"W6 dry run, a machine that deviates", differs, 0}} {
		if err := f.trial(ctx, r, v.name, v.values, v.healthy); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) trial(ctx context.Context, r *report, name string, values verifier.ReferenceValues, healthy int) error {
	var totals, services, seconds []float64
	for range max(1, f.o.windows/2) {
		watched, watch := context.WithCancel(ctx)
		most := make(chan float64, 1)
		go func() { most <- f.s.mostResident(watched) }()
		before, err := f.s.counted.usage()
		if err != nil {
			watch()
			return err
		}
		began := time.Now()
		err = f.registerAndTry(ctx, values, healthy)
		took := time.Since(began)
		watch()
		r.TrialResidentMiB = max(r.TrialResidentMiB, <-most)
		if err != nil {
			return err
		}
		after, err := f.s.counted.usage()
		if err != nil {
			return err
		}
		n := float64(len(f.machines))
		totals, services = append(totals, micros(after.since(before))/n), append(services, micros(after.of(before, f.s.service.Process.Pid))/n)
		seconds = append(seconds, took.Seconds())
	}
	w := spent{median(totals), median(services)}
	r.add(name, w, 5.8, "W1")
	r.TrialSeconds = max(r.TrialSeconds, median(seconds))
	for _, steady := range r.Workloads {
		if steady.Name == steadyFleet {
			r.TrialOverSteady = max(r.TrialOverSteady, w.total/steady.Micros)
		}
	}
	return nil
}

func (f *fleet) registerAndTry(ctx context.Context, values verifier.ReferenceValues, healthy int) error {
	versions := "/v1/baselines/" + f.baseline + "/versions"
	var made struct{ Version int }
	if err := f.s.call(ctx, http.MethodPost, versions, f.s.token, map[string]any{"reference_values": values}, &made); err != nil {
		return err
	}
	var result struct{ Covered, Judged, Healthy int }
	if err := f.s.call(ctx, http.MethodPost, fmt.Sprintf("%s/%d/dry-run", versions, made.Version), f.s.token, nil, &result); err != nil {
		return err
	}
	if n := len(f.machines); result.Covered != n || result.Judged != n || result.Healthy != healthy {
		return fmt.Errorf("the dry run covered %d, judged %d and found %d healthy of %d machines", result.Covered, result.Judged, result.Healthy, n)
	}
	return nil
}

// mostResident watches the service's memory until ctx ends, in MiB.
func (s *system) mostResident(ctx context.Context) float64 {
	var most float64
	for ctx.Err() == nil {
		if now, err := residentMiB(s.service.Process.Pid); err == nil {
			most = max(most, now)
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return most
}
