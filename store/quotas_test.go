package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

func quota(n int64) *int64 { return &n }

// TestQuotasHoldInARace: of many at once, by two replicas, exactly as many get in as there may be.
func TestQuotasHoldInARace(t *testing.T) {
	s, conn := newStore(t)
	replica := open(t, conn.Config().ConnString(), store.Options{})
	secure := verifier.ReferenceValues{}
	for kind, add := range map[store.QuotaKind]func(s *store.Store, i int) error{
		store.QuotaMachines: func(s *store.Store, i int) error {
			_, err := s.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: fmt.Sprintf("m-%d", i), OS: "linux"}}, nil, t0, system)
			return err
		},
		store.QuotaAPITokens: func(s *store.Store, i int) error {
			return s.CreateAPIToken(t.Context(), tenant, store.APIToken{Name: "a", Role: store.RoleReader, CreatedAt: t0}, hash(fmt.Sprint("api", i)), system)
		},
		store.QuotaJoinTokens: func(s *store.Store, i int) error {
			return s.CreateJoinToken(t.Context(), tenant, store.JoinToken{Name: "j", UsesLeft: 1, ExpiresAt: t0.Add(time.Hour), CreatedAt: t0}, hash(fmt.Sprint("join", i)), system)
		},
		store.QuotaBaselines: func(s *store.Store, i int) error {
			_, err := s.CreateBaseline(t.Context(), tenant, fmt.Sprintf("b-%d", i), verifier.Selector{ScaleSet: []string{"web"}}, store.BaselineVersion{State: "draft", Reference: secure}, t0, system)
			return err
		},
	} {
		t.Run(string(kind), func(t *testing.T) {
			const most, tried = 5, 24
			must0(t, s.SetQuota(context.Background(), tenant, kind, quota(most), t0, system))
			var made atomic.Int64
			var wg sync.WaitGroup
			for i := range tried {
				on := s
				if i%2 == 0 {
					on = replica
				}
				wg.Add(1)
				go func() {
					defer wg.Done()
					err := add(on, i)
					var exceeded *store.QuotaError
					switch {
					case err == nil:
						made.Add(1)
					case !errors.As(err, &exceeded) || exceeded.Kind != kind || exceeded.Limit != most || exceeded.Used != most:
						t.Errorf("refused by %v", err)
					}
				}()
			}
			wg.Wait()
			if made.Load() != most {
				t.Errorf("%d of %d were made", made.Load(), most)
			}
		})
	}
}

// TestQuotas: what is counted, what a change of the quota does, and that what is there already may be changed at any quota.
func TestQuotas(t *testing.T) {
	s, conn := newStore(t)
	put := func(name string) error {
		_, err := s.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: name, OS: "linux"}}, nil, t0, system)
		return err
	}
	must0(t, put("a"))
	must0(t, s.SetQuota(t.Context(), tenant, store.QuotaMachines, quota(0), t0, system))
	must0(t, put("a"))
	var exceeded *store.QuotaError
	if err := put("b"); !errors.As(err, &exceeded) || exceeded.Used != 1 || exceeded.Limit != 0 {
		t.Errorf("beyond: %v", err)
	}
	find := func(kind store.QuotaKind) store.Quota {
		t.Helper()
		for _, q := range must[[]store.Quota](t)(s.Quotas(t.Context(), tenant, t0)) {
			if q.Kind == kind {
				return q
			}
		}
		t.Fatalf("no quota of %s", kind)
		return store.Quota{}
	}
	if q := find(store.QuotaMachines); q.Limit != 0 || q.Used != 1 || !q.Own {
		t.Errorf("%+v", q)
	}
	must0(t, s.SetQuota(t.Context(), tenant, store.QuotaMachines, nil, t0, system))
	must0(t, put("b"))
	if q := find(store.QuotaMachines); q.Limit != store.Unlimited || q.Used != 2 || q.Own {
		t.Errorf("%+v", q)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'quota.set'`); n != 2 {
		t.Errorf("%d audit records", n)
	}
	if err := s.SetQuota(t.Context(), tenant, "nonsense", nil, t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a kind that does not exist: %v", err)
	}
	if err := s.SetQuota(t.Context(), uuid.New(), store.QuotaMachines, nil, t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a tenant that does not exist: %v", err)
	}
	// The service's own defaults count where nothing is set.
	own := open(t, conn.Config().ConnString(), store.Options{Quotas: map[store.QuotaKind]int64{store.QuotaMachines: 2}})
	if _, err := own.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: "c", OS: "linux"}}, nil, t0, system); !errors.As(err, &exceeded) || exceeded.Limit != 2 {
		t.Errorf("the service's default: %v", err)
	}
	// An enrolment that is refused costs no use of its token.
	token := joinToken(t, s, "j", 1)
	must0(t, s.SetQuota(t.Context(), tenant, store.QuotaMachines, quota(2), t0, system))
	if _, err := s.CreateEnrollment(t.Context(), tenant, pendingEnrolment(token, store.MachineInput{Name: "new"}, "ek", "ak"), t0, system); !errors.As(err, &exceeded) {
		t.Errorf("an enrolment beyond: %v", err)
	}
	if _, _, err := s.LookupJoinToken(t.Context(), token, t0); err != nil {
		t.Errorf("the token's use is gone: %v", err)
	}
	must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, pendingEnrolment(token, store.MachineInput{Name: "a"}, "ek", "ak"), t0, system))
}
