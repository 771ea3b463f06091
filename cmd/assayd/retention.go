package main

import (
	"time"

	"github.com/assay-verifier/assay/server/schedule"
	"github.com/assay-verifier/assay/store"
)

// RetentionConfig is how long what was judged is kept by tenants that have decided nothing (PUT /v1/retention). What is still needed
// stays: the standing verdict of a machine, what an open alert rests on, and what a baseline was taken from.
//
// Danger: what is older is deleted. Take a backup before you make one of these shorter.
type RetentionConfig struct {
	// RetentionEvidence is for raw evidence and boot logs. Without its evidence a verdict cannot be judged again.
	RetentionEvidence int `name:"retention-evidence-days" env:"ASSAY_RETENTION_EVIDENCE_DAYS" default:"90" placeholder:"DAYS" help:"How long raw evidence and boot logs are kept (${default}); what is still needed stays."`

	// RetentionVerdicts is for verdicts.
	RetentionVerdicts int `name:"retention-verdict-days" env:"ASSAY_RETENTION_VERDICT_DAYS" default:"400" placeholder:"DAYS" help:"How long verdicts are kept (${default}); what is still needed stays."`

	// RetentionAudit is for the audit record; a year at least.
	RetentionAudit int `name:"retention-audit-days" env:"ASSAY_RETENTION_AUDIT_DAYS" default:"2557" placeholder:"DAYS" help:"How long the audit record is kept (${default}, seven years; 365 at least)."`

	// RetentionAlerts is how long the history and the occurrences of a closed alert, the members of a closed incident, and
	// silences and fleet conflicts that ended are kept. Alerts and incidents themselves stay, with their counts, the first and the
	// last event and occurrence; nothing that is open is ever deleted.
	//
	// Danger: what was said and done about an alert is gone afterwards, but for the audit record.
	RetentionAlerts int `name:"retention-alert-days" env:"ASSAY_RETENTION_ALERT_DAYS" default:"400" placeholder:"DAYS" help:"How long histories of closed alerts and incidents, and ended silences and fleet conflicts are kept (${default})."`
}

func (c *RetentionConfig) alerts() time.Duration {
	return time.Duration(c.RetentionAlerts) * 24 * time.Hour
}

func (c *RetentionConfig) standard() store.Retention {
	return store.Retention{EvidenceDays: c.RetentionEvidence, VerdictDays: c.RetentionVerdicts, AuditDays: c.RetentionAudit}
}

func (c *RetentionConfig) check() error {
	if err := c.standard().Check(); err != nil {
		return badConfig("--retention-evidence-days, --retention-verdict-days and --retention-audit-days: %v", err)
	}
	if c.alerts() < schedule.LeastAlertRetention {
		return badConfig("--retention-alert-days: %d days are less than %d", c.RetentionAlerts, schedule.LeastAlertRetention/(24*time.Hour))
	}
	return nil
}
