package main

import "github.com/assay-verifier/assay/store"

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
}

func (c *RetentionConfig) standard() store.Retention {
	return store.Retention{EvidenceDays: c.RetentionEvidence, VerdictDays: c.RetentionVerdicts, AuditDays: c.RetentionAudit}
}

func (c *RetentionConfig) check() error {
	if err := c.standard().Check(); err != nil {
		return badConfig("--retention-evidence-days, --retention-verdict-days and --retention-audit-days: %v", err)
	}
	return nil
}
