-- Stored evidence judged again: which verdict superseded which, and the work that does it.

ALTER TABLE verdicts
    ADD COLUMN supersedes     uuid,
    ADD COLUMN superseded_by  uuid,
    ADD COLUMN evidence_id    uuid,
    ADD COLUMN reappraisal_id uuid,
    ADD COLUMN fingerprint    bytea;
COMMENT ON COLUMN verdicts.supersedes IS 'The verdict that stood before, where stored evidence was judged again; null where a machine attested.';
COMMENT ON COLUMN verdicts.superseded_by IS 'The verdict that judged its evidence again; null if none did. As last_at it is of the run, and no part of the judgement.';
COMMENT ON COLUMN verdicts.evidence_id IS 'The verdict whose evidence was judged again; null where the evidence is its own.';
COMMENT ON COLUMN verdicts.reappraisal_id IS 'The reappraisal that made it; null where a machine attested.';
COMMENT ON COLUMN verdicts.fingerprint IS 'Of a judgement made by a reappraisal, so that the next one knows whether anything changed. Such a run is never extended by an attestation.';

ALTER TABLE evidence ADD COLUMN ima_from json;
COMMENT ON COLUMN evidence.ima_from IS 'How far the IMA list had been read where the evidence holds only what came after; null for a whole list.';

CREATE TABLE reappraisals (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    reappraisal_id uuid NOT NULL,
    cause_kind   text NOT NULL,
    cause_id     text NOT NULL DEFAULT '',
    cause_detail text NOT NULL DEFAULT '',
    scope        jsonb NOT NULL,
    state        text NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL,
    started_at   timestamptz,
    finished_at  timestamptz,
    claimed_until timestamptz,
    attempts     integer NOT NULL DEFAULT 0,
    error        text NOT NULL DEFAULT '',
    after_machine uuid,
    machines     bigint,
    unchanged    bigint NOT NULL DEFAULT 0,
    worse        bigint NOT NULL DEFAULT 0,
    better       bigint NOT NULL DEFAULT 0,
    changed      bigint NOT NULL DEFAULT 0,
    not_judged   bigint NOT NULL DEFAULT 0,
    alerts_opened bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, reappraisal_id)
);
CREATE INDEX reappraisals_open ON reappraisals (tenant_id, reappraisal_id) WHERE state IN ('queued', 'running');
CREATE UNIQUE INDEX reappraisals_queued_once ON reappraisals (tenant_id, cause_kind, cause_id) WHERE state = 'queued' AND cause_kind = 'collateral';
COMMENT ON TABLE reappraisals IS 'Stored evidence that is to be judged again because what it rested on was withdrawn, or because somebody asked; and what came of it.';
COMMENT ON COLUMN reappraisals.tenant_id IS 'Owner.';
COMMENT ON COLUMN reappraisals.reappraisal_id IS 'UUIDv7.';
COMMENT ON COLUMN reappraisals.cause_kind IS 'What was withdrawn or changed: baseline_version, trust_anchor, collateral, policy, known_bad; request if somebody asked.';
COMMENT ON COLUMN reappraisals.cause_id IS 'Which one.';
COMMENT ON COLUMN reappraisals.cause_detail IS 'What happened to it, in words; the comment of who asked.';
COMMENT ON COLUMN reappraisals.scope IS 'Machines whose evidence is judged: selector, anchor_fingerprints, platform_types. All that are given must hold.';
COMMENT ON COLUMN reappraisals.state IS 'queued, running (a worker has it, or had it until claimed_until), done or failed.';
COMMENT ON COLUMN reappraisals.requested_by IS 'Whose change it was, or who asked.';
COMMENT ON COLUMN reappraisals.requested_at IS 'In the transaction of the change.';
COMMENT ON COLUMN reappraisals.started_at IS 'When a worker first took it.';
COMMENT ON COLUMN reappraisals.finished_at IS 'When it was done or given up.';
COMMENT ON COLUMN reappraisals.claimed_until IS 'Until then it is one worker''s; whoever dies leaves it to another.';
COMMENT ON COLUMN reappraisals.attempts IS 'Rounds that failed since the last page was written.';
COMMENT ON COLUMN reappraisals.error IS 'Why the last round failed, in words.';
COMMENT ON COLUMN reappraisals.after_machine IS 'The last machine that was done: pages go by machine_id, and whoever writes one has to find this where it began.';
COMMENT ON COLUMN reappraisals.machines IS 'Machines in scope when it began; null before.';
COMMENT ON COLUMN reappraisals.unchanged IS 'Machines whose verdict stands.';
COMMENT ON COLUMN reappraisals.worse IS 'Machines whose status is worse than before.';
COMMENT ON COLUMN reappraisals.better IS 'Machines whose status is better than before.';
COMMENT ON COLUMN reappraisals.changed IS 'Machines that are judged otherwise with the same status.';
COMMENT ON COLUMN reappraisals.not_judged IS 'Machines whose evidence could not be judged again.';
COMMENT ON COLUMN reappraisals.alerts_opened IS 'Alerts that were opened.';

CREATE TABLE reappraisal_machines (
    tenant_id      uuid NOT NULL,
    reappraisal_id uuid NOT NULL,
    machine_id     uuid NOT NULL,
    outcome        text NOT NULL CHECK (outcome IN ('worse', 'better', 'changed', 'not_judged')),
    why            text NOT NULL DEFAULT '',
    verdict_id     uuid,
    superseded_id  uuid,
    status_before  text NOT NULL,
    status_after   text NOT NULL DEFAULT '',
    reason_after   text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, reappraisal_id, machine_id),
    FOREIGN KEY (tenant_id, reappraisal_id) REFERENCES reappraisals
);
COMMENT ON TABLE reappraisal_machines IS 'What a reappraisal changed, machine by machine; those whose verdict stands are only counted.';
COMMENT ON COLUMN reappraisal_machines.tenant_id IS 'Owner.';
COMMENT ON COLUMN reappraisal_machines.reappraisal_id IS 'The reappraisal.';
COMMENT ON COLUMN reappraisal_machines.machine_id IS 'The machine.';
COMMENT ON COLUMN reappraisal_machines.outcome IS 'worse, better, changed with the same status, or not_judged.';
COMMENT ON COLUMN reappraisal_machines.why IS 'Why it was not judged, as a stable word; empty if it was.';
COMMENT ON COLUMN reappraisal_machines.verdict_id IS 'The new verdict; null if it was not judged.';
COMMENT ON COLUMN reappraisal_machines.superseded_id IS 'The verdict that stood before.';
COMMENT ON COLUMN reappraisal_machines.status_before IS 'Of the verdict that stood before.';
COMMENT ON COLUMN reappraisal_machines.status_after IS 'Of the new verdict.';
COMMENT ON COLUMN reappraisal_machines.reason_after IS 'Of the new verdict.';
