package schedule

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

// CountIncidents is the job that brings incidents up to what their alerts are. It has next to nothing to do where no alert
// changed.
func CountIncidents(st *store.Store, tenant uuid.UUID, now func() time.Time) Job {
	return Job{
		Name:  "incidents",
		About: "Counts the alerts of each incident that changed, opens and closes incidents, and tells receivers of it.",
		Every: 3 * time.Second,
		Run: func(ctx context.Context) (string, error) {
			c, err := st.CountIncidents(ctx, tenant, now())
			if c.Opened+c.Grown+c.Closed == 0 {
				return "", err
			}
			return fmt.Sprintf("%d incidents opened, %d grown, %d closed", c.Opened, c.Grown, c.Closed), err
		},
	}
}

// endExemptions is the job's name, and who ended an exemption in the audit record.
const endExemptions = "exemptions"

// EndExemptions is the job that takes away exemptions whose time is over, so that receivers are told. A recommendation
// counts again at that time also without it.
func EndExemptions(st *store.Store, tenant uuid.UUID, now func() time.Time) Job {
	return Job{
		Name:  endExemptions,
		About: "Ends the exemptions of recommendations whose time is over, and tells receivers of it.",
		Every: time.Minute,
		Run: func(ctx context.Context) (string, error) {
			n, err := st.EndExemptions(ctx, tenant, now(), store.Actor{Kind: "system", ID: endExemptions})
			if n == 0 {
				return "", err
			}
			return fmt.Sprintf("%d exemptions ended", n), err
		},
	}
}
