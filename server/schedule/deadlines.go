package schedule

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// HeartbeatName and StaleName are the names of the jobs of this file.
const (
	HeartbeatName = "heartbeat"
	StaleName     = "stale"
)

// staleEvery is the time between two looks at the deadlines, and so the most by which a missed one is found late.
const staleEvery = 15 * time.Second

// Heartbeat is the job that notes that this replica serves. It must run only where machines are listened to: what it
// has not noted counts as an outage, in which no machine is expected. The zero time is the database's clock (store.Beat).
func Heartbeat(st *store.Store, tenant uuid.UUID, now func() time.Time) Job {
	return Job{
		Name:  HeartbeatName,
		About: "Notes that the service is there to hear machines, so that its own outage makes none of them stale.",
		Every: store.BeatEvery,
		Run: func(ctx context.Context) (string, error) {
			return "", st.Beat(ctx, tenant, now())
		},
	}
}

// Deadlines is the job that finds machines that are silent past their deadline. The zero time is the database's clock, which the
// heartbeats go by too.
func Deadlines(st *store.Store, tenant uuid.UUID, limits finding.SilenceLimits, now func() time.Time) Job {
	return Job{
		Name:  StaleName,
		About: "Finds machines that are silent past their deadline, and raises the alert that their attestation is missing: one for many that went silent together.",
		Every: staleEvery,
		Run: func(ctx context.Context) (string, error) {
			r, err := st.CheckDeadlines(ctx, tenant, limits, now(), store.Actor{Kind: "system", ID: StaleName})
			if err != nil {
				return "", err
			}
			return deadlineReport(r), nil
		},
	}
}

func deadlineReport(r store.DeadlineRound) string {
	if r.NotServing {
		return "no replica serves, so that no machine could have been heard"
	}
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{r.Stale, "machines are stale"}, {r.Alerts, "alerts of single machines"}, {r.Begun, "mass silences began"}, {r.Ended, "mass silences ended"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	return strings.Join(parts, ", ")
}
