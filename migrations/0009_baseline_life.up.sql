-- The life of baseline versions: rollout windows, who approved what, and which version each machine has matched.

ALTER TABLE baseline_versions
    ADD COLUMN grace_moved_percent smallint CHECK (grace_moved_percent BETWEEN 1 AND 100),
    ADD COLUMN activation          integer,
    ADD COLUMN based_on            integer,
    ADD COLUMN proposal            json,
    ADD COLUMN last_change         text NOT NULL DEFAULT 'created',
    ADD COLUMN changed_by          text NOT NULL DEFAULT '',
    ADD COLUMN changed_at          timestamptz;
UPDATE baseline_versions SET activation = version WHERE state <> 'draft';
ALTER TABLE baseline_versions ADD CONSTRAINT baseline_versions_grace_ends
    CHECK (state <> 'grace' OR active_until IS NOT NULL OR grace_moved_percent IS NOT NULL);
CREATE INDEX baseline_versions_reference ON baseline_versions (tenant_id, reference_digest);
CREATE INDEX baseline_versions_grace ON baseline_versions (tenant_id, baseline_id, version) WHERE state = 'grace';
COMMENT ON COLUMN baseline_versions.active_until IS 'End of grace by time; null where only the share of moved machines ends it.';
COMMENT ON COLUMN baseline_versions.grace_moved_percent IS 'Grace ends once this share of the covered, attesting machines has moved to a version that was activated later; null for no such end.';
COMMENT ON COLUMN baseline_versions.activation IS 'Order in which the versions of a baseline became active, from 1: what is older or newer goes by it, and not by the version number. Null for a version that never was, and for one that an older service activated.';
COMMENT ON COLUMN baseline_versions.based_on IS 'The version that was active when this one was made out of it by approving an alert; it replaces no other. Null for versions that were registered.';
COMMENT ON COLUMN baseline_versions.proposal IS 'What happens once a second person has approved: the window of its activation, and the alert that it came from. Null where nothing is proposed.';
COMMENT ON COLUMN baseline_versions.last_change IS 'Last change of its state, as a word: created, promoted, replaced, retired, released, grace_ended, ended, anchor_withdrawn.';
COMMENT ON COLUMN baseline_versions.changed_by IS 'Who made that change; empty for created, which created_by tells.';
COMMENT ON COLUMN baseline_versions.changed_at IS 'When; null for created.';

CREATE TABLE baseline_approvals (
    tenant_id   uuid NOT NULL,
    baseline_id uuid NOT NULL,
    version     integer NOT NULL,
    approved_by text NOT NULL,
    approved_at timestamptz NOT NULL,
    comment     text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, baseline_id, version, approved_by),
    FOREIGN KEY (tenant_id, baseline_id, version) REFERENCES baseline_versions
);
COMMENT ON TABLE baseline_approvals IS 'Who, beside its author, stood up for a version. Kept with the version for good.';
COMMENT ON COLUMN baseline_approvals.tenant_id IS 'Owner.';
COMMENT ON COLUMN baseline_approvals.baseline_id IS 'The baseline.';
COMMENT ON COLUMN baseline_approvals.version IS 'The version.';
COMMENT ON COLUMN baseline_approvals.approved_by IS 'Principal, kind:id; never that of created_by.';
COMMENT ON COLUMN baseline_approvals.approved_at IS 'When.';
COMMENT ON COLUMN baseline_approvals.comment IS 'Of who approved.';

CREATE TABLE baseline_matches (
    tenant_id          uuid NOT NULL,
    machine_id         uuid NOT NULL,
    baseline_id        uuid NOT NULL,
    version            integer NOT NULL,
    activation         integer NOT NULL,
    highest_version    integer NOT NULL,
    highest_activation integer NOT NULL,
    verdict_id         uuid NOT NULL,
    since              timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, machine_id, baseline_id),
    FOREIGN KEY (tenant_id, machine_id) REFERENCES machines ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, baseline_id) REFERENCES baselines
);
CREATE INDEX baseline_matches_version ON baseline_matches (tenant_id, baseline_id, activation, machine_id);
COMMENT ON TABLE baseline_matches IS 'Which version of each baseline affirmed a machine last, and which is the newest that ever did: rollouts are counted by it, and a machine that goes back is found by it.';
COMMENT ON COLUMN baseline_matches.tenant_id IS 'Owner.';
COMMENT ON COLUMN baseline_matches.machine_id IS 'The machine.';
COMMENT ON COLUMN baseline_matches.baseline_id IS 'The baseline, on any layer.';
COMMENT ON COLUMN baseline_matches.version IS 'Version that the machine matched last.';
COMMENT ON COLUMN baseline_matches.activation IS 'Its place in the order of activations; 0 if unknown.';
COMMENT ON COLUMN baseline_matches.highest_version IS 'The version activated last of those that the machine has ever matched.';
COMMENT ON COLUMN baseline_matches.highest_activation IS 'Its place in the order of activations.';
COMMENT ON COLUMN baseline_matches.verdict_id IS 'The verdict that began with the match of version.';
COMMENT ON COLUMN baseline_matches.since IS 'When that verdict began.';
INSERT INTO baseline_matches (tenant_id, machine_id, baseline_id, version, activation, highest_version, highest_activation, verdict_id, since)
    SELECT m.tenant_id, m.machine_id, b.baseline_id, b.version, coalesce(b.activation, 0), b.version, coalesce(b.activation, 0), v.verdict_id, v.first_at
    FROM machines m
    JOIN verdicts v ON v.tenant_id = m.tenant_id AND v.verdict_id = m.last_verdict_id AND v.status IN ('affirming', 'warning')
    JOIN baseline_versions b ON b.tenant_id = m.tenant_id AND b.baseline_id::text = v.appraisal->'baseline'->>'id'
        AND b.version::text = v.appraisal->'baseline'->>'version';

CREATE TABLE alert_decisions (
    tenant_id        uuid NOT NULL,
    alert_id         uuid NOT NULL,
    decision_id      uuid NOT NULL,
    decision         text NOT NULL CHECK (decision IN ('approved', 'refused')),
    verdict_id       uuid NOT NULL,
    deviation_digest bytea NOT NULL CHECK (octet_length(deviation_digest) = 32),
    comment          text NOT NULL,
    decided_by       text NOT NULL,
    decided_at       timestamptz NOT NULL,
    baseline_id      uuid,
    version          integer,
    PRIMARY KEY (tenant_id, alert_id, decision_id),
    FOREIGN KEY (tenant_id, alert_id) REFERENCES alerts ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, baseline_id, version) REFERENCES baseline_versions
);
CREATE INDEX alert_decisions_deviation ON alert_decisions (tenant_id, deviation_digest, decision_id);
COMMENT ON TABLE alert_decisions IS 'What people decided about the deviations behind an alert.';
COMMENT ON COLUMN alert_decisions.tenant_id IS 'Owner.';
COMMENT ON COLUMN alert_decisions.alert_id IS 'The alert.';
COMMENT ON COLUMN alert_decisions.decision_id IS 'UUIDv7 of decided_at.';
COMMENT ON COLUMN alert_decisions.decision IS 'approved: made a version out of what was measured. refused: not to be allowed.';
COMMENT ON COLUMN alert_decisions.verdict_id IS 'The verdict that was decided about.';
COMMENT ON COLUMN alert_decisions.deviation_digest IS 'SHA-256 over the set of its deviations: what was refused once is known again on another machine.';
COMMENT ON COLUMN alert_decisions.comment IS 'Of who decided.';
COMMENT ON COLUMN alert_decisions.decided_by IS 'Principal, kind:id.';
COMMENT ON COLUMN alert_decisions.decided_at IS 'When.';
COMMENT ON COLUMN alert_decisions.baseline_id IS 'The baseline of the version that an approval made; null for a refusal.';
COMMENT ON COLUMN alert_decisions.version IS 'That version.';

CREATE TABLE reference_events (
    tenant_id        uuid NOT NULL,
    event_digest     bytea NOT NULL,
    reference_digest bytea NOT NULL,
    description      text NOT NULL,
    PRIMARY KEY (tenant_id, event_digest, reference_digest),
    FOREIGN KEY (tenant_id, reference_digest) REFERENCES reference_values ON DELETE CASCADE
);
COMMENT ON TABLE reference_events IS 'The events of all reference values by digest: what a machine measured against its baseline may be known from another version.';
COMMENT ON COLUMN reference_events.tenant_id IS 'Owner.';
COMMENT ON COLUMN reference_events.event_digest IS 'Digest of the event, in any bank.';
COMMENT ON COLUMN reference_events.reference_digest IS 'The reference values that list it.';
COMMENT ON COLUMN reference_events.description IS 'What they say that it is; empty if nothing.';
INSERT INTO reference_events (tenant_id, event_digest, reference_digest, description)
    SELECT r.tenant_id, decode(d.digest, 'hex'), r.digest, min(CASE WHEN position('\u0000' IN e.event::text) > 0 THEN '' ELSE coalesce(e.event->>'description', '') END)
    FROM reference_values r, json_array_elements(r.body->'events') e(event), json_each(e.event->'digests') b(bank, digests),
        json_array_elements_text(b.digests) d(digest)
    GROUP BY r.tenant_id, decode(d.digest, 'hex'), r.digest;
