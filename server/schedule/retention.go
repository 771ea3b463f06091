package schedule

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

// RetentionName is the name of the job of Retention.
const RetentionName = "retention"

// retentionEvery is how often it runs: what it deletes is counted in days.
const retentionEvery = 6 * time.Hour

// Retention is the job that takes out what the tenant keeps no longer; standard is what holds without a decision of its own.
func Retention(st *store.Store, tenant uuid.UUID, standard store.Retention, now func() time.Time) Job {
	return Job{
		Name:  RetentionName,
		About: "Takes out evidence, boot logs, verdicts and audit events that are older than the tenant keeps them, but for what is still needed.",
		Every: retentionEvery,
		Run: func(ctx context.Context) (string, error) {
			p, err := st.PruneTenant(ctx, tenant, standard, now())
			if err != nil || p == (store.Pruned{}) {
				return "", err
			}
			return fmt.Sprintf("taken out: %d evidence, %d boot logs, %d verdicts, %d audit events, %d kept answers", p.Evidence, p.BootLogs, p.Verdicts, p.AuditEvents, p.Answers), nil
		},
	}
}

// DropPartitions is the job that drops the months of which no tenant has a row left.
func DropPartitions(st *store.Store, now func() time.Time) Job {
	return Job{
		Name:  "partitions-end",
		About: "Drops the past monthly partitions of verdicts, evidence and the audit record that hold nothing any more.",
		Every: 4 * retentionEvery,
		Run: func(ctx context.Context) (string, error) {
			n, err := st.DropEmptyPartitions(ctx, now())
			if err != nil || n == 0 {
				return "", err
			}
			return fmt.Sprintf("%d partitions dropped", n), nil
		},
	}
}
