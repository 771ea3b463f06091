-- What a security team acts on: assessments, recommendations, alerts, and the rules that hide alerts.

CREATE TABLE assessments (
    tenant_id          uuid NOT NULL,
    machine_id         uuid NOT NULL,
    code               text NOT NULL,
    display_name       text NOT NULL,
    severity           text NOT NULL CHECK (severity IN ('low', 'medium', 'high')),
    status             text NOT NULL CHECK (status IN ('Healthy', 'Unhealthy', 'NotApplicable')),
    cause              text NOT NULL,
    description        text NOT NULL,
    first_evaluated_at timestamptz NOT NULL,
    status_changed_at  timestamptz NOT NULL,
    evaluated_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, machine_id, code),
    FOREIGN KEY (tenant_id, machine_id) REFERENCES machines
);
CREATE INDEX assessments_code ON assessments (tenant_id, code, machine_id);
COMMENT ON TABLE assessments IS 'Current state of a machine for each code.';
COMMENT ON COLUMN assessments.tenant_id IS 'Owner.';
COMMENT ON COLUMN assessments.machine_id IS 'The machine.';
COMMENT ON COLUMN assessments.code IS 'What is assessed.';
COMMENT ON COLUMN assessments.display_name IS 'Title for people.';
COMMENT ON COLUMN assessments.severity IS 'low, medium or high.';
COMMENT ON COLUMN assessments.status IS 'Healthy, Unhealthy or NotApplicable.';
COMMENT ON COLUMN assessments.cause IS 'Why, as a stable word for machines.';
COMMENT ON COLUMN assessments.description IS 'Why, in plain words.';
COMMENT ON COLUMN assessments.first_evaluated_at IS 'First evaluation of this code for the machine; never changes.';
COMMENT ON COLUMN assessments.status_changed_at IS 'Last change of status.';
COMMENT ON COLUMN assessments.evaluated_at IS 'Last evaluation that wrote this row; unchanged attestations since are in machine_attestation_state.run_last_at.';

CREATE TABLE recommendations (
    tenant_id            uuid NOT NULL,
    recommendation_id    uuid NOT NULL,
    machine_id           uuid NOT NULL,
    code                 text NOT NULL,
    display_name         text NOT NULL,
    severity             text NOT NULL CHECK (severity IN ('low', 'medium', 'high')),
    description          text NOT NULL,
    remediation_steps    text[] NOT NULL,
    open                 boolean NOT NULL,
    first_seen_at        timestamptz NOT NULL,
    last_seen_at         timestamptz NOT NULL,
    resolved_at          timestamptz,
    exemption_reason     text CHECK (exemption_reason IN ('waiver', 'mitigated')),
    exemption_comment    text NOT NULL DEFAULT '',
    exemption_expires_at timestamptz,
    exemption_by         text NOT NULL DEFAULT '',
    exemption_at         timestamptz,
    PRIMARY KEY (tenant_id, recommendation_id),
    CONSTRAINT recommendations_machine_code UNIQUE (tenant_id, machine_id, code),
    FOREIGN KEY (tenant_id, machine_id) REFERENCES machines
);
COMMENT ON TABLE recommendations IS 'What should be changed about a machine; one row for a machine and code, opened again when it comes back. resolved: not open. exempt: open and exempted, until the exemption ends. active: open otherwise.';
COMMENT ON COLUMN recommendations.tenant_id IS 'Owner.';
COMMENT ON COLUMN recommendations.recommendation_id IS 'UUIDv7.';
COMMENT ON COLUMN recommendations.machine_id IS 'The machine.';
COMMENT ON COLUMN recommendations.code IS 'What is recommended.';
COMMENT ON COLUMN recommendations.display_name IS 'Title for people.';
COMMENT ON COLUMN recommendations.severity IS 'low, medium or high.';
COMMENT ON COLUMN recommendations.description IS 'Why, in plain words.';
COMMENT ON COLUMN recommendations.remediation_steps IS 'What to do, in order.';
COMMENT ON COLUMN recommendations.open IS 'The condition holds.';
COMMENT ON COLUMN recommendations.first_seen_at IS 'When the condition began to hold, the last time that it did.';
COMMENT ON COLUMN recommendations.last_seen_at IS 'Last evaluation that found it and wrote this row.';
COMMENT ON COLUMN recommendations.resolved_at IS 'When it ceased; null while open.';
COMMENT ON COLUMN recommendations.exemption_reason IS 'waiver or mitigated; null if nobody exempted it.';
COMMENT ON COLUMN recommendations.exemption_comment IS 'Of who exempted it.';
COMMENT ON COLUMN recommendations.exemption_expires_at IS 'End of the exemption; null for none.';
COMMENT ON COLUMN recommendations.exemption_by IS 'Who exempted it.';
COMMENT ON COLUMN recommendations.exemption_at IS 'When it was exempted.';

CREATE TABLE suppression_rules (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    rule_id    uuid NOT NULL,
    alert_code text NOT NULL,
    reason     text NOT NULL CHECK (reason <> ''),
    comment    text NOT NULL DEFAULT '',
    expires_at timestamptz,
    state      text NOT NULL CHECK (state IN ('enabled', 'disabled')),
    scope      jsonb NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, rule_id)
);
COMMENT ON TABLE suppression_rules IS 'Hide alerts of a scope, for example where Secure Boot has to stay off. They never change a verdict or an assessment.';
COMMENT ON COLUMN suppression_rules.tenant_id IS 'Owner.';
COMMENT ON COLUMN suppression_rules.rule_id IS 'UUIDv7.';
COMMENT ON COLUMN suppression_rules.alert_code IS 'Alert code that it hides, or * for all.';
COMMENT ON COLUMN suppression_rules.reason IS 'Why; required.';
COMMENT ON COLUMN suppression_rules.comment IS 'More for people.';
COMMENT ON COLUMN suppression_rules.expires_at IS 'From then on it hides nothing; null for no end.';
COMMENT ON COLUMN suppression_rules.state IS 'enabled or disabled; expired follows from expires_at.';
COMMENT ON COLUMN suppression_rules.scope IS 'The scope object of the API: conditions that must all hold.';
COMMENT ON COLUMN suppression_rules.created_by IS 'Who made it.';
COMMENT ON COLUMN suppression_rules.created_at IS 'When it was made.';
COMMENT ON COLUMN suppression_rules.updated_at IS 'Last change.';

CREATE TABLE alerts (
    tenant_id         uuid NOT NULL,
    alert_id          uuid NOT NULL,
    machine_id        uuid NOT NULL,
    code              text NOT NULL,
    display_name      text NOT NULL,
    severity          text NOT NULL CHECK (severity IN ('low', 'medium', 'high')),
    reason            text NOT NULL CHECK (reason IN ('', 'origin_unverified', 'baseline_deviation')),
    description       text NOT NULL,
    remediation_steps text[] NOT NULL,
    status            text NOT NULL CHECK (status IN ('active', 'in_progress', 'dismissed', 'resolved')),
    verdict_id        uuid,
    first_seen_at     timestamptz NOT NULL,
    last_seen_at      timestamptz NOT NULL,
    seen_count        bigint NOT NULL,
    suppressed_by     uuid,
    updated_at        timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, alert_id),
    FOREIGN KEY (tenant_id, machine_id) REFERENCES machines
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX alerts_open ON alerts (tenant_id, machine_id, code) WHERE status IN ('active', 'in_progress');
CREATE INDEX alerts_machine ON alerts (tenant_id, machine_id, alert_id);
CREATE INDEX alerts_open_list ON alerts (tenant_id, alert_id) WHERE status IN ('active', 'in_progress');
COMMENT ON TABLE alerts IS 'What happened to a machine. At most one alert of a machine and code is open (active or in_progress); a repetition counts it up.';
COMMENT ON COLUMN alerts.tenant_id IS 'Owner.';
COMMENT ON COLUMN alerts.alert_id IS 'UUIDv7 of first_seen_at.';
COMMENT ON COLUMN alerts.machine_id IS 'The machine.';
COMMENT ON COLUMN alerts.code IS 'What happened.';
COMMENT ON COLUMN alerts.display_name IS 'Title for people.';
COMMENT ON COLUMN alerts.severity IS 'low, medium or high.';
COMMENT ON COLUMN alerts.reason IS 'Reason of the last occurrence; empty where the code has none.';
COMMENT ON COLUMN alerts.description IS 'Of the last occurrence, in plain words.';
COMMENT ON COLUMN alerts.remediation_steps IS 'What to do, in order.';
COMMENT ON COLUMN alerts.status IS 'active, in_progress, dismissed or resolved.';
COMMENT ON COLUMN alerts.verdict_id IS 'Verdict of the last occurrence; null where no verdict raised it.';
COMMENT ON COLUMN alerts.first_seen_at IS 'First occurrence.';
COMMENT ON COLUMN alerts.last_seen_at IS 'Last occurrence.';
COMMENT ON COLUMN alerts.seen_count IS 'Occurrences.';
COMMENT ON COLUMN alerts.suppressed_by IS 'The suppression rule that hides it, while that rule is enabled and not expired; null for none.';
COMMENT ON COLUMN alerts.updated_at IS 'Last change of status, reason or suppression.';
