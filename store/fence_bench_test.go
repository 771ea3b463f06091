package store_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// BenchmarkFence is workload W1's read and write behind row-level security (role assay_app) and without it (role assay, which owns
// the tables), for machines of one tenant and of twenty. server-cpu-ns/op is the cost of the fence in Postgres.
func BenchmarkFence(b *testing.B) {
	for _, tenants := range []int{1, 20} {
		u := emptyDatabase(b, "template_assay")
		s := open(b, u, store.Options{})
		type machine struct {
			tenant uuid.UUID
			store.Enrollment
		}
		var all []machine
		for i := range tenants {
			id := tenant
			if i > 0 {
				id = store.NewTenantID(t0.Add(time.Duration(i) * time.Second))
			}
			must0(b, s.EnsureTenant(b.Context(), id, t0))
			token := hash(fmt.Sprint("j", i))
			must0(b, s.CreateJoinToken(b.Context(), id, store.JoinToken{Name: "j", UsesLeft: 300, ExpiresAt: t0.Add(24 * time.Hour), CreatedAt: t0}, token, system))
			for n := range 200 / tenants {
				name := fmt.Sprint("m", n)
				e := must[store.Enrollment](b)(s.CreateEnrollment(b.Context(), id, enrolment(token, store.MachineInput{Name: name, ExternalID: name}, "ek "+name, "ak "+name), t0, system))
				must[store.Recorded](b)(s.RecordAppraisal(b.Context(), id, judgement(e, t0, verifier.Affirming, "good")))
				all = append(all, machine{id, e})
			}
		}
		conn := connectTo(b, u)
		must[any](b)(conn.Exec(b.Context(), `ANALYZE`))
		for _, role := range []string{"assay", store.DefaultRole} {
			s := open(b, u, store.Options{Role: role})
			var next atomic.Int64
			for what, do := range map[string]func(m machine) error{
				"read": func(m machine) error {
					_, err := s.AppraisalInputs(b.Context(), m.tenant, m.MachineID, t0)
					return err
				},
				"write": func(m machine) error {
					_, _ = s.RecordAppraisal(b.Context(), m.tenant, judgement(m.Enrollment, t0, verifier.Affirming, "good")) // a challenge may be overtaken
					return nil
				},
			} {
				b.Run(fmt.Sprintf("tenants=%d/%s/%s", tenants, what, role), func(b *testing.B) {
					before := serverCPU(b, conn)
					b.SetParallelism(50)
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							if err := do(all[int(next.Add(1))%len(all)]); err != nil {
								b.Error(err)
							}
						}
					})
					b.StopTimer()
					b.ReportMetric((serverCPU(b, conn)-before)/float64(b.N), "server-cpu-ns/op")
				})
			}
		}
	}
}
