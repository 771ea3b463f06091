package schedule

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

const (
	rollupInterval = time.Minute
	rollupBatch    = 20_000
)

// Rollups moves what was of a tenant counted into the rollups by hour and day, and deletes those that are kept no longer. Charts are
// exact without it; it keeps them cheap. Replicas share the work.
func Rollups(st *store.Store, tenant uuid.UUID, now func() time.Time) Job {
	return Job{Name: "rollups", Every: rollupInterval, About: "Moves what was counted for charts into the rollups by hour and day, and deletes old ones.",
		Run: func(ctx context.Context) (string, error) {
			var moved int64
			for {
				n, err := st.FoldRollups(ctx, tenant, rollupBatch)
				if err != nil {
					return "", err
				}
				if moved += n; n < rollupBatch {
					break
				}
			}
			deleted, err := st.PruneRollups(ctx, tenant, now())
			if err != nil || moved+deleted == 0 {
				return "", err
			}
			return fmt.Sprintf("%d counts moved, %d old ones deleted", moved, deleted), nil
		}}
}
