-- Reliable delivery: where notifications go, what is to be told to whom, and what came of it.

-- River keeps its own tables here (store.Migrate makes them by River's own migrations). They hold no state of a tenant
-- that is not in the tables below: a lost job is made again by the sweep.
CREATE SCHEMA river;
COMMENT ON SCHEMA river IS 'Tables of the job queue River, made by its own migrations. They wake workers up and hold nothing else.';

ALTER TABLE outbox RENAME COLUMN delivered_at TO fanned_out_at;
ALTER TABLE outbox
    ADD COLUMN written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN document json;
DROP INDEX outbox_pending;
CREATE INDEX outbox_pending ON outbox (tenant_id, written_at, event_id) WHERE fanned_out_at IS NULL;
CREATE INDEX outbox_told ON outbox (tenant_id, created_at) WHERE fanned_out_at IS NOT NULL;
ALTER TABLE outbox DROP CONSTRAINT outbox_kind_check;
ALTER TABLE outbox ADD CONSTRAINT outbox_kind CHECK (kind ~ '^[a-z_]+(\.[a-z_]+)?$');
COMMENT ON TABLE outbox IS 'What happened that others may want to be told, written in the transaction of the change. A trigger enqueues its fan-out, so that no writer can forget it.';
COMMENT ON COLUMN outbox.event_id IS 'UUIDv7; the same for every receiver and at each retry.';
COMMENT ON COLUMN outbox.subject_id IS 'What it happened to: an alert, an incident, a channel. Events of one subject are delivered in order.';
COMMENT ON COLUMN outbox.payload IS 'The facts of that moment: status, reason, severity. What describes the subject is read at the fan-out.';
COMMENT ON COLUMN outbox.fanned_out_at IS 'When it was made deliveries of, or found to interest nobody; null until then.';
COMMENT ON COLUMN outbox.written_at IS 'By the clock of the database. Whoever writes about a subject holds its lock, so that this is the order of its events whatever the clocks of replicas say.';
COMMENT ON COLUMN outbox.document IS 'The event as every receiver is told it (NotificationEvent of the API), made once at the fan-out; null where nobody is told.';

CREATE TABLE notification_state (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    fanned_out_at timestamptz,
    PRIMARY KEY (tenant_id)
);
COMMENT ON TABLE notification_state IS 'Its row is locked by a fan-out, so that one after the other makes deliveries and their order holds.';
COMMENT ON COLUMN notification_state.tenant_id IS 'Owner.';
COMMENT ON COLUMN notification_state.fanned_out_at IS 'The last fan-out that found something.';

CREATE TABLE notification_channels (
    tenant_id            uuid NOT NULL REFERENCES tenants,
    channel_id           uuid NOT NULL,
    kind                 text NOT NULL CHECK (kind IN ('webhook', 'syslog', 'smtp')),
    name                 text NOT NULL,
    enabled              boolean NOT NULL,
    disabled_reason      text NOT NULL DEFAULT '' CHECK (disabled_reason IN ('', 'operator', 'gone', 'failing')),
    format               text NOT NULL,
    filter               jsonb NOT NULL,
    config               jsonb NOT NULL,
    secrets              bytea,
    previous_secret_until timestamptz,
    last_success_at      timestamptz,
    last_failure_at      timestamptz,
    last_error           text NOT NULL DEFAULT '',
    failing_since        timestamptz,
    consecutive_failures bigint NOT NULL DEFAULT 0,
    created_by           text NOT NULL,
    created_at           timestamptz NOT NULL,
    updated_at           timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, channel_id),
    CONSTRAINT notification_channels_name UNIQUE (tenant_id, name)
);
COMMENT ON TABLE notification_channels IS 'Where notifications go.';
COMMENT ON COLUMN notification_channels.tenant_id IS 'Owner.';
COMMENT ON COLUMN notification_channels.channel_id IS 'UUIDv7.';
COMMENT ON COLUMN notification_channels.kind IS 'webhook, syslog or smtp.';
COMMENT ON COLUMN notification_channels.name IS 'Unique in the tenant.';
COMMENT ON COLUMN notification_channels.enabled IS 'What happens while it is not enabled is not told to it.';
COMMENT ON COLUMN notification_channels.disabled_reason IS 'operator, gone (the receiver answered 410) or failing (for days); empty while it is enabled.';
COMMENT ON COLUMN notification_channels.format IS 'How events are written: assay, cloudevents, ocsf, cef or text.';
COMMENT ON COLUMN notification_channels.filter IS 'Which events it is told: kinds, codes, severity, scale sets, labels, suppressed alerts, incidents only.';
COMMENT ON COLUMN notification_channels.config IS 'The receiver: URL or address, TLS, recipients. Nothing secret.';
COMMENT ON COLUMN notification_channels.secrets IS 'Signing secrets or password, sealed by the service; null for none.';
COMMENT ON COLUMN notification_channels.previous_secret_until IS 'Until then the secret before the last rotation signs as well; null for none.';
COMMENT ON COLUMN notification_channels.last_success_at IS 'The last delivery.';
COMMENT ON COLUMN notification_channels.last_failure_at IS 'The last attempt that failed.';
COMMENT ON COLUMN notification_channels.last_error IS 'Why it failed, in words, without secrets.';
COMMENT ON COLUMN notification_channels.failing_since IS 'The first failure since the last delivery; null while the last attempt succeeded.';
COMMENT ON COLUMN notification_channels.consecutive_failures IS 'Failures since the last delivery.';
COMMENT ON COLUMN notification_channels.created_by IS 'Who made it.';
COMMENT ON COLUMN notification_channels.created_at IS 'When it was made.';
COMMENT ON COLUMN notification_channels.updated_at IS 'Last change by a person, or by the service where it disabled the channel.';

CREATE TABLE deliveries (
    tenant_id       uuid NOT NULL,
    delivery_id     uuid NOT NULL,
    channel_id      uuid NOT NULL,
    event_id        uuid NOT NULL,
    subject_id      uuid NOT NULL,
    written_at      timestamptz NOT NULL,
    state           text NOT NULL CHECK (state IN ('pending', 'delivered', 'dead')),
    attempts        integer NOT NULL DEFAULT 0,
    round_attempts  integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    claim           uuid,
    claimed_until   timestamptz,
    last_status     integer,
    last_error      text NOT NULL DEFAULT '',
    created_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    PRIMARY KEY (tenant_id, delivery_id),
    FOREIGN KEY (tenant_id, channel_id) REFERENCES notification_channels ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, event_id) REFERENCES outbox,
    CONSTRAINT deliveries_once UNIQUE (tenant_id, event_id, channel_id)
);
CREATE INDEX deliveries_due ON deliveries (tenant_id, channel_id, next_attempt_at) WHERE state = 'pending' AND next_attempt_at IS NOT NULL;
CREATE INDEX deliveries_subject ON deliveries (tenant_id, channel_id, subject_id, written_at, event_id) WHERE state = 'pending';
CREATE INDEX deliveries_told ON deliveries (tenant_id, subject_id, channel_id, written_at, event_id);
CREATE INDEX deliveries_claimed ON deliveries (tenant_id, channel_id) WHERE claim IS NOT NULL;
CREATE INDEX deliveries_pending ON deliveries (tenant_id, created_at) WHERE state = 'pending';
CREATE INDEX deliveries_dead ON deliveries (tenant_id, channel_id, delivery_id) WHERE state = 'dead';
CREATE INDEX deliveries_channel ON deliveries (tenant_id, channel_id, delivery_id);
CREATE INDEX deliveries_finished ON deliveries (tenant_id, finished_at) WHERE finished_at IS NOT NULL;
COMMENT ON TABLE deliveries IS 'One event to be told to one channel.';
COMMENT ON COLUMN deliveries.tenant_id IS 'Owner.';
COMMENT ON COLUMN deliveries.delivery_id IS 'UUIDv7.';
COMMENT ON COLUMN deliveries.channel_id IS 'Where it goes.';
COMMENT ON COLUMN deliveries.event_id IS 'What is told.';
COMMENT ON COLUMN deliveries.subject_id IS 'As in outbox. A later event of it waits until this one is delivered or dead.';
COMMENT ON COLUMN deliveries.written_at IS 'As in outbox: the order within a subject.';
COMMENT ON COLUMN deliveries.state IS 'pending, delivered, or dead: given up, until somebody replays it.';
COMMENT ON COLUMN deliveries.attempts IS 'Attempts whose result was recorded.';
COMMENT ON COLUMN deliveries.round_attempts IS 'Those since it was made or replayed: the place in the schedule of retries.';
COMMENT ON COLUMN deliveries.next_attempt_at IS 'Not before; null while it waits for an earlier event of its subject, and when it is finished.';
COMMENT ON COLUMN deliveries.claim IS 'The attempt that is under way; null for none.';
COMMENT ON COLUMN deliveries.claimed_until IS 'From then on another worker may try: whoever had it has died.';
COMMENT ON COLUMN deliveries.last_status IS 'HTTP status (or SMTP reply code) of the last attempt; null where there was no answer.';
COMMENT ON COLUMN deliveries.last_error IS 'Why the last attempt failed, in words, without secrets; empty if it did not.';
COMMENT ON COLUMN deliveries.created_at IS 'When the fan-out made it.';
COMMENT ON COLUMN deliveries.finished_at IS 'When it was delivered or given up.';

CREATE TABLE delivery_attempts (
    tenant_id   uuid NOT NULL,
    delivery_id uuid NOT NULL,
    attempt     integer NOT NULL,
    at          timestamptz NOT NULL,
    duration_ms bigint NOT NULL,
    status      integer,
    error       text NOT NULL,
    PRIMARY KEY (tenant_id, delivery_id, attempt),
    FOREIGN KEY (tenant_id, delivery_id) REFERENCES deliveries ON DELETE CASCADE
);
COMMENT ON TABLE delivery_attempts IS 'Each attempt whose result is known.';
COMMENT ON COLUMN delivery_attempts.tenant_id IS 'Owner.';
COMMENT ON COLUMN delivery_attempts.delivery_id IS 'The delivery.';
COMMENT ON COLUMN delivery_attempts.attempt IS 'From 1.';
COMMENT ON COLUMN delivery_attempts.at IS 'When it began.';
COMMENT ON COLUMN delivery_attempts.duration_ms IS 'Until the answer, or until it was given up.';
COMMENT ON COLUMN delivery_attempts.status IS 'HTTP status or SMTP reply code; null where there was no answer.';
COMMENT ON COLUMN delivery_attempts.error IS 'Why it failed, in words, without secrets; empty if it did not.';

-- One job a transaction and tenant, whichever statements wrote the events: the setting is the transaction's own and
-- ends with it. Where River's tables are not there (yet), the sweep finds the events.
CREATE FUNCTION assay_enqueue_fan_out() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    done text := coalesce(current_setting('assay.fan_out', true), '');
    owner uuid;
BEGIN
    FOR owner IN SELECT DISTINCT tenant_id FROM told LOOP
        CONTINUE WHEN position(owner::text IN done) > 0;
        IF to_regclass('river.river_job') IS NOT NULL THEN
            INSERT INTO river.river_job (kind, args, queue, max_attempts)
            VALUES ('notify_fan_out', jsonb_build_object('tenant_id', owner), 'notify_fan_out', 5);
        END IF;
        done := done || owner::text;
        PERFORM set_config('assay.fan_out', done, true);
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION assay_enqueue_fan_out IS 'Enqueues the fan-out of events in the transaction that writes them.';
CREATE TRIGGER outbox_fan_out AFTER INSERT ON outbox REFERENCING NEW TABLE AS told
    FOR EACH STATEMENT EXECUTE FUNCTION assay_enqueue_fan_out();
