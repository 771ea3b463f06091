package schedule

import (
	"context"
	"fmt"
	"time"

	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/store"
)

// EndDeliveries is the job that deletes old deliveries and the events that nobody is told any more.
func EndDeliveries(st *store.Store, now func() time.Time) Job {
	return Job{
		Name:  "deliveries-end",
		About: "Deletes deliveries that were finished more than 30 days ago, and the events that nobody is told any more.",
		Every: time.Hour,
		Run: func(ctx context.Context) (string, error) {
			n, err := notify.End(ctx, st, now())
			if err != nil || n == 0 {
				return "", err
			}
			return fmt.Sprintf("%d deliveries and events deleted", n), nil
		},
	}
}
