package schedule

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

const (
	// LeastAlertRetention is the shortest time for which histories are kept: an alert that was resolved within a week is opened
	// again, and receivers are told for a month.
	LeastAlertRetention = 30 * 24 * time.Hour
	prunedPage          = 1000 // rows in one transaction
)

// PruneAlerts is the job that deletes the histories of alerts, incidents, silences and fleet conflicts that have been over for
// longer than keep.
func PruneAlerts(st *store.Store, tenant uuid.UUID, keep time.Duration, now func() time.Time) Job {
	return Job{
		Name:  "alerts-retention",
		About: "Deletes histories of alerts and incidents, silences and fleet conflicts that have been over for longer than --retention-alert-days.",
		Every: time.Hour,
		Run: func(ctx context.Context) (string, error) {
			p, err := st.PruneAlerts(ctx, tenant, now().Add(-keep), prunedPage)
			if p.Sum() == 0 {
				return "", err
			}
			return fmt.Sprintf("deleted %d occurrences and %d events of alerts, %d members of incidents, %d silences, %d fleet conflicts",
				p.Occurrences, p.Events, p.Members, p.Silences, p.Conflicts), err
		},
	}
}
