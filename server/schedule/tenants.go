package schedule

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

// ForTenants is a job that does a tenant's job for each tenant there is when the round begins, one after the other. The
// failure of one does not stop the others; all are told, each with its tenant. Reports name the tenant where it is not the
// default one. of makes the tenant's job once, so that what it remembers between rounds stays.
func ForTenants(st *store.Store, of func(tenant uuid.UUID) Job) Job {
	made := map[uuid.UUID]Job{}
	jobOf := func(tenant uuid.UUID) Job {
		if _, ok := made[tenant]; !ok {
			made[tenant] = of(tenant)
		}
		return made[tenant]
	}
	all := jobOf(store.DefaultTenant)
	all.Run = func(ctx context.Context) (string, error) {
		tenants, err := st.Tenants(ctx)
		if err != nil {
			return "", err
		}
		var reports []string
		var failures []error
		for _, tenant := range tenants {
			report, err := once(ctx, jobOf(tenant))
			if err != nil {
				failures = append(failures, fmt.Errorf("tenant %s: %w", tenant, err))
			}
			if report != "" && tenant != store.DefaultTenant {
				report = fmt.Sprintf("tenant %s: %s", tenant, report)
			}
			if report != "" {
				reports = append(reports, report)
			}
			if ctx.Err() != nil {
				break
			}
		}
		return strings.Join(reports, "; "), errors.Join(failures...)
	}
	return all
}
