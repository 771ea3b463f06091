package schedule

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

// endGrace is the job's name, and who ended a grace in the audit record.
const endGrace = "baseline-grace"

// EndGrace is the job that ends rollout windows: a version in grace is retired when its time is over, or when enough machines
// have moved on. The end by time also holds without it, since an appraisal looks at the time itself.
func EndGrace(st *store.Store, tenant uuid.UUID, now func() time.Time) Job {
	return Job{
		Name:  endGrace,
		About: "Retires baseline versions in grace whose time is over, or from which enough machines have moved on.",
		Every: time.Minute,
		Run: func(ctx context.Context) (string, error) {
			ended, err := st.EndGrace(ctx, tenant, now(), store.Actor{Kind: "system", ID: endGrace})
			parts := make([]string, len(ended))
			for i, e := range ended {
				parts[i] = fmt.Sprintf("baseline %s version %d retired: %s", e.Name, e.Version, e.Why)
			}
			return strings.Join(parts, "; "), err
		},
	}
}
