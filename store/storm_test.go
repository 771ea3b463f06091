package store_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// BenchmarkStormOfOneCause is the store's part of workload W7 (make bench): 10,000 machines fail for one cause within a minute,
// while others attest as ever.
// Of a run with -benchtime 1x, calm-ops/s is what 500 unchanged machines reach by themselves, storm-ops/s what they reach
// while the others fail 167 a second and incidents are counted each three seconds; count-ms is the longest count.
func BenchmarkStormOfOneCause(b *testing.B) {
	const failing, steady, pace = 10_000, 500, time.Minute
	for b.Loop() {
		s, conn, calmOnes := fleet(b, steady)
		stormy := enrolMany(b, s, failing)
		var unchanged atomic.Int64
		attest := func(ctx context.Context) {
			var wg sync.WaitGroup
			for w := range 20 {
				wg.Go(func() {
					for i := w; ctx.Err() == nil; i++ {
						if _, err := s.RecordAppraisal(context.WithoutCancel(ctx), tenant, judgement(calmOnes[i%steady], t0, verifier.Affirming, "good")); err == nil {
							unchanged.Add(1)
						}
					}
				})
			}
			wg.Wait()
		}
		ctx, cancel := context.WithTimeout(b.Context(), 15*time.Second)
		attest(ctx)
		cancel()
		b.ReportMetric(float64(unchanged.Swap(0))/15, "calm-ops/s")

		ctx, cancel = context.WithCancel(b.Context())
		begun := time.Now()
		var others sync.WaitGroup
		others.Go(func() { attest(ctx) })
		var longest time.Duration
		others.Go(func() {
			for ctx.Err() == nil {
				at := time.Now()
				if _, err := s.CountIncidents(context.WithoutCancel(ctx), tenant, t0.Add(time.Hour)); err != nil {
					b.Error(err)
				}
				longest = max(longest, time.Since(at))
				select {
				case <-ctx.Done():
				case <-time.After(3 * time.Second):
				}
			}
		})
		var storm sync.WaitGroup
		for i, e := range stormy {
			if wait := time.Until(begun.Add(pace * time.Duration(i) / failing)); wait > 0 {
				time.Sleep(wait)
			}
			storm.Go(func() { record(b, s, caused(e, t0.Add(time.Duration(i)*time.Millisecond), "grub")) })
		}
		storm.Wait()
		took := time.Since(begun)
		cancel()
		others.Wait()
		b.ReportMetric(float64(unchanged.Load())/took.Seconds(), "storm-ops/s")
		b.ReportMetric(failing/took.Seconds(), "failing/s")
		b.ReportMetric(float64(longest.Milliseconds()), "count-ms")
		must[store.IncidentsCounted](b)(s.CountIncidents(b.Context(), tenant, t0.Add(2*time.Hour)))
		list, _, err := s.ListIncidents(b.Context(), tenant, store.IncidentFilter{}, store.Page{})
		must0(b, err)
		if len(list) != 1 || list[0].Open != failing || number(b, conn, `SELECT count(*) FROM outbox WHERE kind = 'incident.opened'`) != 1 {
			b.Fatalf("incidents %+v", list)
		}
		b.ReportMetric(float64(number(b, conn, `SELECT count(*) FROM outbox WHERE kind LIKE 'incident.%'`)), "incident-events")
	}
}

// enrolMany enrols machines that each have one good verdict.
func enrolMany(b *testing.B, s *store.Store, n int) []store.Enrollment {
	out := make([]store.Enrollment, n)
	var wg sync.WaitGroup
	const workers = 20
	for w := range workers {
		token := joinToken(b, s, fmt.Sprint("storm ", w, uuid.NewString()), n)
		wg.Go(func() {
			for i := w; i < n; i += workers {
				out[i] = active(b, s, token, fmt.Sprint("storm-", i))
				record(b, s, judgement(out[i], t0, verifier.Affirming, "good"))
			}
		})
	}
	wg.Wait()
	return out
}
