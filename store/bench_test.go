package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// fleet enrols machines that each have one good verdict and one baseline for all.
func fleet(b *testing.B, n int) (*store.Store, *pgx.Conn, []store.Enrollment) {
	s, conn := newStore(b)
	must[store.BaselineVersion](b)(s.CreateBaseline(b.Context(), tenant, "web", verifier.Selector{ScaleSet: []string{"web"}}, reference("v1"), t0, system))
	token := joinToken(b, s, "j", n)
	es := make([]store.Enrollment, n)
	for i := range es {
		es[i] = active(b, s, token, fmt.Sprint("m", i))
		record(b, s, judgement(es[i], t0, verifier.Affirming, "good"))
	}
	// What autovacuum does within a minute: without statistics the planner finds machines by their tenant alone.
	_, err := conn.Exec(b.Context(), `ANALYZE`)
	must0(b, err)
	return s, conn, es
}

// BenchmarkRecordAppraisalSteady is the write of workload W1. server-cpu-ns/op is the CPU time of the
// connection's Postgres processes for each operation.
func BenchmarkRecordAppraisalSteady(b *testing.B) {
	for _, failing := range []bool{false, true} {
		b.Run(fmt.Sprintf("failing=%v", failing), func(b *testing.B) {
			s, conn, es := fleet(b, 300)
			status, what := verifier.Affirming, "good"
			if failing {
				status, what = verifier.Contraindicated, "bad"
				for _, e := range es {
					record(b, s, judgement(e, t0, status, what))
				}
			}
			var next atomic.Int64
			before := serverCPU(b, conn)
			b.ReportAllocs()
			b.SetParallelism(50)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					e := es[int(next.Add(1))%len(es)]
					rec := judgement(e, t0, status, what)
					// Two workers can come to one machine in either order; the challenge only has to be new.
					if r, err := s.RecordAppraisal(b.Context(), tenant, rec); err == nil && r.New {
						b.Errorf("a new run: %+v", r)
					}
				}
			})
			b.StopTimer()
			b.ReportMetric((serverCPU(b, conn)-before)/float64(b.N), "server-cpu-ns/op")
		})
	}
}

func BenchmarkRecordAppraisalChanged(b *testing.B) {
	s, conn, es := fleet(b, 300)
	var next atomic.Int64
	before := serverCPU(b, conn)
	b.ReportAllocs()
	b.SetParallelism(50)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := next.Add(1)
			rec := judgement(es[int(i)%len(es)], t0, verifier.Affirming, fmt.Sprint("boot ", i))
			_, _ = s.RecordAppraisal(b.Context(), tenant, rec)
		}
	})
	b.StopTimer()
	b.ReportMetric((serverCPU(b, conn)-before)/float64(b.N), "server-cpu-ns/op")
}

// BenchmarkAppraisalInputs is the read of workload W1.
func BenchmarkAppraisalInputs(b *testing.B) {
	s, conn, es := fleet(b, 300)
	var next atomic.Int64
	before := serverCPU(b, conn)
	b.ReportAllocs()
	b.SetParallelism(50)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			in, err := s.AppraisalInputs(b.Context(), tenant, es[int(next.Add(1))%len(es)].MachineID, t0)
			if err != nil || len(in.Versions) != 1 {
				b.Error(in.Versions, err)
			}
		}
	})
	b.StopTimer()
	b.ReportMetric((serverCPU(b, conn)-before)/float64(b.N), "server-cpu-ns/op")
}

// serverCPU is the CPU time in nanoseconds that the live Postgres processes have used, from /proc (proc(5):
// utime and stime in ticks of 10 ms).
func serverCPU(b *testing.B, conn *pgx.Conn) float64 {
	rows, _ := conn.Query(b.Context(), `SELECT pid::text FROM pg_stat_activity`)
	pids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must0(b, err)
	total := 0.0
	for _, pid := range pids {
		stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		if err != nil {
			continue // a worker that has just ended
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		for _, f := range fields[11:13] {
			ticks, err := strconv.ParseFloat(f, 64)
			must0(b, err)
			total += ticks * 1e7
		}
	}
	return total
}
