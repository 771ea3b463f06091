package schedule

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/attest"
)

// reappraiseInterval is how long a withdrawal waits at most before stored evidence is judged without what it withdrew.
const reappraiseInterval = 10 * time.Second

// reappraiseLimit is enough for the evidence of a large fleet; what a round leaves, the next one does.
const reappraiseLimit = 2 * time.Hour

// ReappraiseName is the name of the job.
const ReappraiseName = "reappraise"

// Reappraise judges stored evidence again where what it rested on was withdrawn (attest.Service.Reappraise).
func Reappraise(s *attest.Service, tenant uuid.UUID) Job {
	return Job{
		Name: ReappraiseName, Every: reappraiseInterval, Limit: reappraiseLimit,
		About: "Judges stored evidence again where a baseline version, trust anchor, TCB level or known-bad entry was withdrawn or changed, or where somebody asked.",
		Run:   func(ctx context.Context) (string, error) { return s.Reappraise(ctx, tenant) },
	}
}
