-- Who may do what, the service's own keys, the record of changes, and the monthly partitions.

CREATE TABLE tenants (
    tenant_id         uuid PRIMARY KEY,
    name              text NOT NULL,
    config_generation bigint NOT NULL DEFAULT 1,
    created_at        timestamptz NOT NULL
);
COMMENT ON TABLE tenants IS 'One customer of the service. Every other table belongs to exactly one tenant.';
COMMENT ON COLUMN tenants.tenant_id IS 'UUIDv7 made by the service.';
COMMENT ON COLUMN tenants.name IS 'Name for people.';
COMMENT ON COLUMN tenants.config_generation IS 'Counts changes of policies and fleet baselines; a replica reloads its cached configuration when it differs.';
COMMENT ON COLUMN tenants.created_at IS 'When the tenant was made.';

CREATE TABLE api_tokens (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    token_id     uuid NOT NULL,
    name         text NOT NULL,
    role         text NOT NULL CHECK (role IN ('admin', 'reader')),
    token_hash   bytea NOT NULL CHECK (octet_length(token_hash) = 32),
    expires_at   timestamptz,
    created_at   timestamptz NOT NULL,
    last_used_at timestamptz,
    PRIMARY KEY (tenant_id, token_id)
);
CREATE INDEX api_tokens_hash ON api_tokens (token_hash);
COMMENT ON TABLE api_tokens IS 'Bearer tokens of people and pipelines. The token itself is never stored.';
COMMENT ON COLUMN api_tokens.tenant_id IS 'Owner.';
COMMENT ON COLUMN api_tokens.token_id IS 'UUIDv7.';
COMMENT ON COLUMN api_tokens.name IS 'Name for people.';
COMMENT ON COLUMN api_tokens.role IS 'What the bearer may do: admin or reader.';
COMMENT ON COLUMN api_tokens.token_hash IS 'SHA-256 of the token. Looked up without a tenant, because the token is what tells the tenant.';
COMMENT ON COLUMN api_tokens.expires_at IS 'End of validity; null for none.';
COMMENT ON COLUMN api_tokens.created_at IS 'When it was made.';
COMMENT ON COLUMN api_tokens.last_used_at IS 'Last use, to the minute.';

CREATE TABLE join_tokens (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    token_id   uuid NOT NULL,
    name       text NOT NULL,
    token_hash bytea NOT NULL CHECK (octet_length(token_hash) = 32),
    uses_left  integer NOT NULL CHECK (uses_left >= 0),
    expires_at timestamptz NOT NULL,
    scale_set  text NOT NULL DEFAULT '',
    labels     jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, token_id)
);
CREATE INDEX join_tokens_hash ON join_tokens (token_hash);
COMMENT ON TABLE join_tokens IS 'Tokens that let agents enrol. The token itself is never stored.';
COMMENT ON COLUMN join_tokens.tenant_id IS 'Owner.';
COMMENT ON COLUMN join_tokens.token_id IS 'UUIDv7.';
COMMENT ON COLUMN join_tokens.name IS 'Name for people.';
COMMENT ON COLUMN join_tokens.token_hash IS 'SHA-256 of the token. Looked up without a tenant, because the token is what tells the tenant.';
COMMENT ON COLUMN join_tokens.uses_left IS 'Enrolments it still admits; taken in the transaction of the enrolment.';
COMMENT ON COLUMN join_tokens.expires_at IS 'End of validity.';
COMMENT ON COLUMN join_tokens.scale_set IS 'Forced onto the machines it admits; empty for none.';
COMMENT ON COLUMN join_tokens.labels IS 'Object of text to text, forced onto the machines it admits.';
COMMENT ON COLUMN join_tokens.created_at IS 'When it was made.';

CREATE TABLE service_keys (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    key_id     uuid NOT NULL,
    purpose    text NOT NULL,
    generation integer NOT NULL CHECK (generation > 0),
    key        bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key_id),
    CONSTRAINT service_keys_generation UNIQUE (tenant_id, purpose, generation)
);
COMMENT ON TABLE service_keys IS 'Secret keys that all replicas of the service share: result signing, challenge MAC, token MAC. Whoever can read this table can impersonate the service.';
COMMENT ON COLUMN service_keys.tenant_id IS 'Owner.';
COMMENT ON COLUMN service_keys.key_id IS 'Random UUID.';
COMMENT ON COLUMN service_keys.purpose IS 'What the key is for, for example result_signing.';
COMMENT ON COLUMN service_keys.generation IS 'Counts rotations from 1. Unique, so that of two replicas that start together one makes the key and both use it.';
COMMENT ON COLUMN service_keys.key IS 'The secret key, in the encoding of its purpose.';
COMMENT ON COLUMN service_keys.created_at IS 'When it was made.';

CREATE TABLE idempotency_keys (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    principal    text NOT NULL,
    key          text NOT NULL,
    request_hash bytea NOT NULL,
    status       integer,
    content_type text NOT NULL DEFAULT '',
    body         bytea,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, principal, key)
);
COMMENT ON TABLE idempotency_keys IS 'Answers to writes that carried an Idempotency-Key, for a day.';
COMMENT ON COLUMN idempotency_keys.tenant_id IS 'Owner.';
COMMENT ON COLUMN idempotency_keys.principal IS 'Who sent the request; a key is only good for its principal.';
COMMENT ON COLUMN idempotency_keys.key IS 'The header''s value.';
COMMENT ON COLUMN idempotency_keys.request_hash IS 'Hash of method, path and body: the same key with another request is a conflict.';
COMMENT ON COLUMN idempotency_keys.status IS 'HTTP status of the answer; null while the first request is still running.';
COMMENT ON COLUMN idempotency_keys.content_type IS 'Of the answer.';
COMMENT ON COLUMN idempotency_keys.body IS 'The answer, sealed by the service, because it may hold a token that is shown once.';
COMMENT ON COLUMN idempotency_keys.created_at IS 'When the first request came.';
COMMENT ON COLUMN idempotency_keys.expires_at IS 'From then on the key is free again.';

CREATE TABLE outbox (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    event_id     uuid NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('alert.opened', 'alert.resolved', 'alert.status_changed')),
    subject_id   uuid NOT NULL,
    payload      jsonb NOT NULL,
    created_at   timestamptz NOT NULL,
    delivered_at timestamptz,
    PRIMARY KEY (tenant_id, event_id)
);
CREATE INDEX outbox_pending ON outbox (tenant_id, event_id) WHERE delivered_at IS NULL;
COMMENT ON TABLE outbox IS 'Events to deliver to others, written in the transaction of the change that they report.';
COMMENT ON COLUMN outbox.tenant_id IS 'Owner.';
COMMENT ON COLUMN outbox.event_id IS 'UUIDv7; the order of delivery.';
COMMENT ON COLUMN outbox.kind IS 'What happened.';
COMMENT ON COLUMN outbox.subject_id IS 'The alert that it happened to.';
COMMENT ON COLUMN outbox.payload IS 'What the receiver is told.';
COMMENT ON COLUMN outbox.created_at IS 'When it happened.';
COMMENT ON COLUMN outbox.delivered_at IS 'When it was delivered; null until then.';

CREATE TABLE audit_events (
    tenant_id   uuid NOT NULL,
    event_id    uuid NOT NULL,
    at          timestamptz NOT NULL,
    actor_kind  text NOT NULL,
    actor_id    text NOT NULL,
    remote_addr text NOT NULL DEFAULT '',
    request_id  text NOT NULL DEFAULT '',
    action      text NOT NULL,
    target      text NOT NULL,
    before      json,
    after       json,
    prev_hash   bytea,
    hash        bytea,
    PRIMARY KEY (tenant_id, event_id)
) PARTITION BY RANGE (event_id);
CREATE TABLE audit_events_default PARTITION OF audit_events DEFAULT;
COMMENT ON TABLE audit_events IS 'Append-only record of changes, written only inside the transaction of the change.';
COMMENT ON COLUMN audit_events.tenant_id IS 'Owner.';
COMMENT ON COLUMN audit_events.event_id IS 'UUIDv7 of the time of the change; partition key.';
COMMENT ON COLUMN audit_events.at IS 'When it happened.';
COMMENT ON COLUMN audit_events.actor_kind IS 'admin, reader, join, machine or system.';
COMMENT ON COLUMN audit_events.actor_id IS 'Which one: id of the token or machine.';
COMMENT ON COLUMN audit_events.remote_addr IS 'Network address of the request; empty if there was none.';
COMMENT ON COLUMN audit_events.request_id IS 'Finds the request in the service''s logs.';
COMMENT ON COLUMN audit_events.action IS 'What was done, for example baseline.promote.';
COMMENT ON COLUMN audit_events.target IS 'What it was done to, as kind:id.';
COMMENT ON COLUMN audit_events.before IS 'What it was; null where it was new.';
COMMENT ON COLUMN audit_events.after IS 'What it became; null where it was deleted.';
COMMENT ON COLUMN audit_events.prev_hash IS 'Hash of the tenant''s event before this one; null until the hash chain is in use.';
COMMENT ON COLUMN audit_events.hash IS 'SHA-256 over this event and prev_hash; null until the hash chain is in use.';

CREATE FUNCTION assay_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME;
END $$;
COMMENT ON FUNCTION assay_refuse_change() IS 'Trigger that keeps a table append-only.';
CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE ON audit_events
    FOR EACH ROW EXECUTE FUNCTION assay_refuse_change();

CREATE FUNCTION assay_uuid7_floor(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
COMMENT ON FUNCTION assay_uuid7_floor(timestamptz) IS 'The smallest UUIDv7 of a time, to the millisecond.';

-- The rows of a month that came before its partition was made are in the DEFAULT partition; they are moved
-- over, because Postgres refuses a partition whose rows the default one holds. The new table is filled before
-- it is attached, so the append-only trigger is not yet on it; on the default one it rests for the move.
CREATE FUNCTION assay_make_partitions(parent regclass, key text, at timestamptz, months integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    first timestamptz;
    part  text;
    low   uuid;
    high  uuid;
    made  integer := 0;
BEGIN
    FOR i IN 0..months LOOP
        first := (date_trunc('month', at AT TIME ZONE 'UTC') + make_interval(months => i)) AT TIME ZONE 'UTC';
        part := parent || to_char(first AT TIME ZONE 'UTC', '"_y"YYYY"m"MM');
        CONTINUE WHEN to_regclass(part) IS NOT NULL;
        low := assay_uuid7_floor(first);
        high := assay_uuid7_floor(((first AT TIME ZONE 'UTC') + interval '1 month') AT TIME ZONE 'UTC');
        EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE', parent);
        CONTINUE WHEN to_regclass(part) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)', part, parent);
        EXECUTE format('ALTER TABLE %s_default DISABLE TRIGGER USER', parent);
        EXECUTE format('WITH moved AS (DELETE FROM %1$s_default WHERE %2$I >= $1 AND %2$I < $2 RETURNING *)
                        INSERT INTO %3$I SELECT * FROM moved', parent, key, part) USING low, high;
        EXECUTE format('ALTER TABLE %s_default ENABLE TRIGGER USER', parent);
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, part, low, high);
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION assay_make_partitions(regclass, text, timestamptz, integer) IS 'Makes the monthly partitions of a table from the month of a time to so many months ahead, where they are missing; answers how many it made.';
