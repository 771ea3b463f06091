package schedule

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
)

const (
	auditChainInterval = 10 * time.Minute
	auditChainPage     = 2000
)

// AuditCheckpointName is the name of the job that makes checkpoints.
const AuditCheckpointName = "audit-checkpoint"

// AuditChain is the job that chains the audit events from before the chain, in pages. When it has, it has nothing to do.
func AuditChain(st *store.Store, tenant uuid.UUID, now func() time.Time) Job {
	return Job{Name: "audit-chain", Every: auditChainInterval, About: "Chains the audit events from before there was a chain, once.",
		Run: func(ctx context.Context) (string, error) {
			chained := 0
			for {
				n, err := st.ChainEarlierAudit(ctx, tenant, auditChainPage, now())
				if err != nil {
					return "", err
				}
				if chained += n; n < auditChainPage {
					break
				}
			}
			if chained == 0 {
				return "", nil
			}
			return fmt.Sprintf("%d earlier audit events chained", chained), nil
		}}
}

// AuditCheckpoints is the job that makes a signed checkpoint of the tenant's chains, where something was written since the last. Of
// several replicas one makes it.
func AuditCheckpoints(a *attest.Service, tenant uuid.UUID, every time.Duration) Job {
	return Job{Name: AuditCheckpointName, Every: every, About: "Signs how far the record of changes, and the verdicts of all machines, reach.",
		Run: func(ctx context.Context) (string, error) {
			c, err := a.Checkpoint(ctx, tenant, every/2, store.Actor{Kind: "system", ID: AuditCheckpointName})
			if errors.Is(err, store.ErrNoCheckpoint) || errors.Is(err, store.ErrConflict) {
				return "", nil
			}
			if err != nil {
				return "", err
			}
			return fmt.Sprintf("checkpoint %d: %d events, %d verdicts of %d machines", c.Number, c.AuditSeq, c.Verdicts, c.Machines), nil
		}}
}
