package schedule

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

// FleetDetection is the job that compares what has changed with the whole fleet: clones, relays, and TPMs that went back. What an
// attestation or an enrolment shows by itself is looked at at once; the job finds what only two machines together show,
// what was left by a crash, and what is over.
func FleetDetection(st *store.Store, tenant uuid.UUID, now func() time.Time) Job {
	return Job{
		Name:  "fleet-detection",
		About: "Looks for machines that share an identity, and for TPMs whose history went back or forked, and ends what is gone.",
		Every: 30 * time.Second,
		Run: func(ctx context.Context) (string, error) {
			r, err := st.DetectFleet(ctx, tenant, now())
			if err != nil || r == (store.FleetReport{}) {
				return "", err
			}
			return fmt.Sprintf("%d changes looked at, %d conflicts seen, %d alerts opened, %d conflicts ended", r.Changes, r.Conflicts, r.Opened, r.Ended), nil
		},
	}
}
