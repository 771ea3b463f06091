-- Deadlines: which machines are silent, since when, and when the service itself was not there to hear them.

-- next_due_at changes with each attestation and has no index: the overdue are found by reading the table. An index would end
-- the heap-only updates: at 100,000 machines an unchanged attestation wrote 106 bytes of WAL in one record without it, and 276
-- in three with it. The table is then 60 MB. What is known of silent machines is in a table of its own.
ALTER TABLE machine_attestation_state
    ADD COLUMN boot_id      text NOT NULL DEFAULT '',
    ADD COLUMN boot_count   bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_boot_at timestamptz,
    ADD COLUMN heard_at     timestamptz,
    ADD COLUMN stale_at     timestamptz;
UPDATE machine_attestation_state SET heard_at = run_last_at;
COMMENT ON COLUMN machine_attestation_state.heard_at IS 'When its last evidence was received, whatever it was worth; null before the first. Stored evidence that is judged again moves run_last_at and not this.';
COMMENT ON COLUMN machine_attestation_state.boot_id IS 'What the agent called the boot of the last genuine evidence; empty if it said nothing.';
COMMENT ON COLUMN machine_attestation_state.boot_count IS 'Boots that genuine evidence has shown, counted from migration 0013 on.';
COMMENT ON COLUMN machine_attestation_state.last_boot_at IS 'When the first genuine evidence of the last of them was received; null before.';
COMMENT ON COLUMN machine_attestation_state.stale_at IS 'When the machine was found to be silent past its deadline; null while it is not. The next evidence ends it. It is set exactly while silent_machines has a row.';
COMMENT ON COLUMN machine_attestation_state.next_due_at IS 'When the next evidence is expected at the latest; null where none is: without an active key.';

CREATE TABLE silent_machines (
    tenant_id  uuid NOT NULL,
    machine_id uuid NOT NULL,
    since      timestamptz NOT NULL,
    stale_at   timestamptz NOT NULL,
    alert_due_at timestamptz NOT NULL,
    interval_seconds bigint NOT NULL,
    alerted_at timestamptz,
    silence_id uuid,
    PRIMARY KEY (tenant_id, machine_id),
    FOREIGN KEY (tenant_id, machine_id) REFERENCES machines
);
COMMENT ON TABLE silent_machines IS 'The machines that are silent past their deadline now; the transaction of a machine''s next evidence takes it out.';
COMMENT ON COLUMN silent_machines.tenant_id IS 'Owner.';
COMMENT ON COLUMN silent_machines.machine_id IS 'The machine.';
COMMENT ON COLUMN silent_machines.since IS 'The deadline that it missed.';
COMMENT ON COLUMN silent_machines.stale_at IS 'When that was found.';
COMMENT ON COLUMN silent_machines.alert_due_at IS 'When the alert attestation_missing is due, by the policy of the time at which it was found.';
COMMENT ON COLUMN silent_machines.interval_seconds IS 'The interval of that policy: what cut machines off at one moment made each miss a deadline within it.';
COMMENT ON COLUMN silent_machines.alerted_at IS 'When that alert was raised for the machine itself; null if it was not.';
COMMENT ON COLUMN silent_machines.silence_id IS 'The mass silence that the machine is part of; null if of none.';

-- A machine that enrolled and never attested is expected too.
UPDATE machine_attestation_state st SET next_due_at = k.created_at + interval '5 minutes'
    FROM attestation_keys k WHERE k.tenant_id = st.tenant_id AND k.machine_id = st.machine_id AND k.state = 'active' AND st.next_due_at IS NULL;
UPDATE machine_attestation_state st SET next_due_at = NULL
    FROM machines m WHERE m.tenant_id = st.tenant_id AND m.machine_id = st.machine_id AND m.state <> 'active' AND st.next_due_at IS NOT NULL;

ALTER TABLE verdicts
    ADD COLUMN trigger text CHECK (trigger IN ('first', 'boot', 'periodic', 'unknown', 'reappraisal'));
COMMENT ON COLUMN verdicts.trigger IS 'What its first evidence came after, as that evidence says: first of the machine''s key, a boot, an interval, unknown where it names no boot; reappraisal where stored evidence was judged again. Null for verdicts from before migration 0013.';

CREATE TABLE silences (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    silence_id uuid NOT NULL,
    scope      text NOT NULL,
    alert_id   uuid,
    silent     bigint NOT NULL,
    peak       bigint NOT NULL,
    since      timestamptz NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz,
    PRIMARY KEY (tenant_id, silence_id)
);
CREATE UNIQUE INDEX silences_open ON silences (tenant_id, scope) WHERE ended_at IS NULL;
COMMENT ON TABLE silences IS 'Mass silences: many machines of one scope that went silent together, and have one alert between them.';
COMMENT ON COLUMN silences.tenant_id IS 'Owner.';
COMMENT ON COLUMN silences.silence_id IS 'UUIDv7 of started_at.';
COMMENT ON COLUMN silences.scope IS 'fleet, platform:X, scale_set:X, label:site=X or label:region=X.';
COMMENT ON COLUMN silences.alert_id IS 'The alert attestation_missing that was opened for it.';
COMMENT ON COLUMN silences.silent IS 'Members that are silent now.';
COMMENT ON COLUMN silences.peak IS 'The most that were.';
COMMENT ON COLUMN silences.since IS 'The first deadline that a member missed.';
COMMENT ON COLUMN silences.started_at IS 'When it was found.';
COMMENT ON COLUMN silences.ended_at IS 'When most members were back, or it had its greatest age; null while it lasts. Whether somebody closed its alert does not count.';

CREATE TABLE deadline_watch (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    checked_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id)
);
COMMENT ON TABLE deadline_watch IS 'Whoever decides about silent machines holds this row, so that two replicas never decide at once.';
COMMENT ON COLUMN deadline_watch.tenant_id IS 'Owner.';
COMMENT ON COLUMN deadline_watch.checked_at IS 'The last time that deadlines were looked at.';

CREATE TABLE service_heartbeats (
    tenant_id uuid NOT NULL REFERENCES tenants,
    beat_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id)
);
COMMENT ON TABLE service_heartbeats IS 'Written every few seconds by each replica that serves the tenant: when it is old, nobody was there to hear machines.';
COMMENT ON COLUMN service_heartbeats.tenant_id IS 'Tenant that is served.';
COMMENT ON COLUMN service_heartbeats.beat_at IS 'The last beat of any replica.';

CREATE TABLE service_outages (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL CHECK (ended_at > started_at),
    PRIMARY KEY (tenant_id, started_at)
);
COMMENT ON TABLE service_outages IS 'Times in which no replica served the tenant. Deadlines that passed in them are extended.';
COMMENT ON COLUMN service_outages.tenant_id IS 'Tenant that was not served.';
COMMENT ON COLUMN service_outages.started_at IS 'The last beat before.';
COMMENT ON COLUMN service_outages.ended_at IS 'The first beat after.';
