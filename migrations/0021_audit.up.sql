-- The record of changes and the verdicts become chains: each entry holds the hash of the one before, and signed checkpoints of
-- both can be kept elsewhere. What is hashed, byte by byte, is told by package verifier/chain; what is here has to agree.

CREATE FUNCTION assay_netstring(v text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(octet_length(v)::text || ':' || v || ',', '-,')
$$;
COMMENT ON FUNCTION assay_netstring(text) IS 'A text with its length in bytes before it, so that no two lists of texts become the same text; null is "-,".';

CREATE FUNCTION assay_chain_time(t timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;
COMMENT ON FUNCTION assay_chain_time(timestamptz) IS 'A time as chains write it: UTC, to the microsecond.';

CREATE TABLE audit_heads (
    tenant_id     uuid PRIMARY KEY,
    earlier_until uuid,
    earlier_done  boolean NOT NULL
);
COMMENT ON TABLE audit_heads IS 'One row a tenant, locked by whoever appends to its chain: at the end of his transaction, after all other locks.';
COMMENT ON COLUMN audit_heads.tenant_id IS 'Owner.';
COMMENT ON COLUMN audit_heads.earlier_until IS 'Of the events from before the chain, those with this id and greater ids have been chained; null at the beginning.';
COMMENT ON COLUMN audit_heads.earlier_done IS 'All events from before the chain have been chained, and an event of the chain says so.';

CREATE TABLE audit_chain (
    tenant_id uuid NOT NULL,
    seq       bigint NOT NULL CHECK (seq <> 0),
    event_id  uuid NOT NULL,
    prev_hash bytea NOT NULL CHECK (octet_length(prev_hash) = 32),
    hash      bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (tenant_id, seq)
);
CREATE UNIQUE INDEX audit_chain_event ON audit_chain (tenant_id, event_id);
COMMENT ON TABLE audit_chain IS 'The place of each audit event in the chain of its tenant. Written by trigger, at commit, in the transaction of the change; append-only.';
COMMENT ON COLUMN audit_chain.tenant_id IS 'Owner.';
COMMENT ON COLUMN audit_chain.seq IS 'From 1 without a gap, in the order of commits. Events from before the chain have -1 and down, the newest first.';
COMMENT ON COLUMN audit_chain.event_id IS 'The event, in audit_events.';
COMMENT ON COLUMN audit_chain.prev_hash IS 'Hash of the entry before: of seq - 1, and below 0 of seq + 1. 32 zero bytes for 1 and -1.';
COMMENT ON COLUMN audit_chain.hash IS 'SHA-256 over the event, its place and prev_hash (verifier/chain, Event.Hash).';
COMMENT ON COLUMN audit_events.prev_hash IS 'Not used: the chain is in audit_chain, so that an event is written once and never changed.';
COMMENT ON COLUMN audit_events.hash IS 'Not used: see audit_chain.';

CREATE FUNCTION assay_audit_hash(prev bytea, place bigint, tenant uuid, id uuid, at timestamptz, actor_kind text, actor_id text, remote_addr text,
        request_id text, action text, target text, before text, after text) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT sha256(convert_to(assay_netstring('assay-audit-event-v1') || assay_netstring(encode(prev, 'hex')) || assay_netstring(tenant::text)
        || assay_netstring(place::text) || assay_netstring(id::text) || assay_netstring(assay_chain_time(at)) || assay_netstring(actor_kind)
        || assay_netstring(actor_id) || assay_netstring(remote_addr) || assay_netstring(request_id) || assay_netstring(action)
        || assay_netstring(target) || assay_netstring(before) || assay_netstring(after), 'UTF8'))
$$;
COMMENT ON FUNCTION assay_audit_hash(bytea, bigint, uuid, uuid, timestamptz, text, text, text, text, text, text, text, text) IS 'Hash of an audit event at its place in the chain (verifier/chain, Event.Hash).';

CREATE FUNCTION assay_chain_audit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last_seq  bigint;
    last_hash bytea;
BEGIN
    PERFORM 1 FROM audit_heads WHERE tenant_id = NEW.tenant_id FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO audit_heads (tenant_id, earlier_done) VALUES (NEW.tenant_id, true) ON CONFLICT DO NOTHING;
        PERFORM 1 FROM audit_heads WHERE tenant_id = NEW.tenant_id FOR UPDATE;
    END IF;
    SELECT seq, hash INTO last_seq, last_hash FROM audit_chain WHERE tenant_id = NEW.tenant_id AND seq > 0 ORDER BY seq DESC LIMIT 1;
    last_seq := coalesce(last_seq, 0) + 1;
    last_hash := coalesce(last_hash, decode(repeat('00', 32), 'hex'));
    INSERT INTO audit_chain (tenant_id, seq, event_id, prev_hash, hash) VALUES (NEW.tenant_id, last_seq, NEW.event_id, last_hash,
        assay_audit_hash(last_hash, last_seq, NEW.tenant_id, NEW.event_id, NEW.at, NEW.actor_kind, NEW.actor_id, NEW.remote_addr, NEW.request_id,
            NEW.action, NEW.target, NEW.before::text, NEW.after::text));
    RETURN NULL;
END $$;
COMMENT ON FUNCTION assay_chain_audit() IS 'Trigger at commit: appends the event to the chain of its tenant, whose head is locked until the commit is over.';

CREATE FUNCTION assay_chain_earlier(tenant uuid, most integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    head      audit_heads;
    e         audit_events;
    last_seq  bigint;
    last_hash bytea;
    n         integer := 0;
BEGIN
    SELECT * INTO head FROM audit_heads WHERE tenant_id = tenant FOR UPDATE;
    IF NOT FOUND OR head.earlier_done THEN
        RETURN 0;
    END IF;
    SELECT seq, hash INTO last_seq, last_hash FROM audit_chain WHERE tenant_id = tenant AND seq < 0 ORDER BY seq LIMIT 1;
    FOR e IN SELECT a.* FROM audit_events a LEFT JOIN audit_chain c ON c.tenant_id = a.tenant_id AND c.event_id = a.event_id
            WHERE a.tenant_id = tenant AND (head.earlier_until IS NULL OR a.event_id < head.earlier_until) AND c.event_id IS NULL
            ORDER BY a.event_id DESC LIMIT most LOOP
        last_seq := coalesce(last_seq, 0) - 1;
        last_hash := coalesce(last_hash, decode(repeat('00', 32), 'hex'));
        INSERT INTO audit_chain (tenant_id, seq, event_id, prev_hash, hash) VALUES (tenant, last_seq, e.event_id, last_hash,
            assay_audit_hash(last_hash, last_seq, tenant, e.event_id, e.at, e.actor_kind, e.actor_id, e.remote_addr, e.request_id,
                e.action, e.target, e.before::text, e.after::text)) RETURNING hash INTO last_hash;
        head.earlier_until := e.event_id;
        n := n + 1;
    END LOOP;
    UPDATE audit_heads SET earlier_until = head.earlier_until WHERE tenant_id = tenant;
    RETURN n;
END $$;
COMMENT ON FUNCTION assay_chain_earlier(uuid, integer) IS 'Chains a page of the events from before the chain, backwards from the newest; answers how many.';

-- What is committed before the trigger exists is from before the chain: creating it waits for whoever writes.
CREATE CONSTRAINT TRIGGER audit_events_chain AFTER INSERT ON audit_events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION assay_chain_audit();
CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON audit_events FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse_change();
CREATE TRIGGER audit_chain_append_only BEFORE UPDATE OR DELETE ON audit_chain FOR EACH ROW EXECUTE FUNCTION assay_refuse_change();
CREATE TRIGGER audit_chain_no_truncate BEFORE TRUNCATE ON audit_chain FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse_change();
INSERT INTO audit_heads (tenant_id, earlier_done) SELECT tenant_id, false FROM tenants;

ALTER TABLE machines
    ADD COLUMN verdict_seq      bigint NOT NULL DEFAULT 0,
    ADD COLUMN verdict_hash     bytea,
    ADD COLUMN verdicts_earlier bigint;
COMMENT ON COLUMN machines.verdict_seq IS 'Place of the machine''s last verdict in the chain of its verdicts; 0 before the first.';
COMMENT ON COLUMN machines.verdict_hash IS 'Hash of that verdict; null before the first.';
COMMENT ON COLUMN machines.verdicts_earlier IS 'Verdicts of the machine from before its chain, which the first of the chain states; null before that.';

ALTER TABLE verdicts
    ADD COLUMN seq             bigint,
    ADD COLUMN evidence_digest bytea,
    ADD COLUMN judged_by       json;
COMMENT ON COLUMN verdicts.seq IS 'Place in the chain of the machine''s verdicts, from 1 without a gap; null for a verdict from before the chain.';
COMMENT ON COLUMN verdicts.evidence_digest IS 'SHA-256 of the raw evidence that was judged; null where the release before wrote the verdict.';
COMMENT ON COLUMN verdicts.judged_by IS 'What the evidence was judged with (verifier/bundle, Inputs), its text hashed as it stands; null where it was not kept.';
COMMENT ON COLUMN verdicts.prev_hash IS 'Hash of the machine''s verdict before this one; null for the first of the chain, and before the chain.';
COMMENT ON COLUMN verdicts.hash IS 'SHA-256 over this verdict, its place and prev_hash (verifier/chain, Verdict.Hash); null before the chain.';

-- Replicas of the release before know nothing of the chain: what they write is chained for them. Those of this release write
-- the hash themselves, and this is not called.
CREATE FUNCTION assay_chain_verdict() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    m         machines;
    was_last  timestamptz;
    was_count bigint;
BEGIN
    SELECT * INTO m FROM machines WHERE tenant_id = NEW.tenant_id AND machine_id = NEW.machine_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NEW;
    END IF;
    IF m.verdict_seq = 0 THEN
        SELECT count(*) INTO m.verdicts_earlier FROM verdicts WHERE tenant_id = NEW.tenant_id AND machine_id = NEW.machine_id;
    ELSE
        SELECT last_at, run_count INTO was_last, was_count FROM verdicts
            WHERE tenant_id = NEW.tenant_id AND machine_id = NEW.machine_id AND seq = m.verdict_seq;
    END IF;
    NEW.judged_by := NULL;
    NEW.evidence_digest := NULL;
    NEW.seq := m.verdict_seq + 1;
    NEW.prev_hash := m.verdict_hash;
    NEW.hash := sha256(convert_to(assay_netstring('assay-verdict-v1') || assay_netstring(encode(NEW.prev_hash, 'hex')) || assay_netstring(NEW.tenant_id::text)
        || assay_netstring(NEW.machine_id::text) || assay_netstring(NEW.seq::text)
        || assay_netstring(CASE WHEN NEW.seq = 1 THEN m.verdicts_earlier::text END)
        || assay_netstring(NEW.verdict_id::text) || assay_netstring(NEW.status) || assay_netstring(NEW.reason) || assay_netstring(NEW.assurance)
        || assay_netstring(NEW.genuine::text) || assay_netstring(assay_chain_time(NEW.first_at)) || assay_netstring(NEW.key_id::text)
        || assay_netstring(NEW.trigger) || assay_netstring(encode(sha256(convert_to(NEW.appraisal::text, 'UTF8')), 'hex'))
        || '-,'
        || assay_netstring(encode(NEW.event_log_digest, 'hex')) || '-,'
        || '-,-,-,' || assay_netstring(assay_chain_time(was_last)) || assay_netstring(was_count::text), 'UTF8'));
    UPDATE machines SET verdict_seq = NEW.seq, verdict_hash = NEW.hash, verdicts_earlier = m.verdicts_earlier
        WHERE tenant_id = NEW.tenant_id AND machine_id = NEW.machine_id;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION assay_chain_verdict() IS 'Trigger that chains a verdict whose writer did not.';
CREATE TRIGGER verdicts_chain BEFORE INSERT ON verdicts FOR EACH ROW WHEN (NEW.hash IS NULL) EXECUTE FUNCTION assay_chain_verdict();

CREATE TABLE audit_checkpoints (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    checkpoint_id uuid NOT NULL,
    number        bigint NOT NULL CHECK (number > 0),
    at            timestamptz NOT NULL,
    audit_seq     bigint NOT NULL,
    audit_hash    bytea NOT NULL,
    machines      bigint NOT NULL,
    verdicts      bigint NOT NULL,
    verdict_root  bytea NOT NULL,
    previous      bytea,
    key_id        text NOT NULL,
    statement     text NOT NULL,
    PRIMARY KEY (tenant_id, checkpoint_id),
    CONSTRAINT audit_checkpoints_number UNIQUE (tenant_id, number)
);
CREATE TRIGGER audit_checkpoints_append_only BEFORE UPDATE OR DELETE ON audit_checkpoints FOR EACH ROW EXECUTE FUNCTION assay_refuse_change();
CREATE TRIGGER audit_checkpoints_no_truncate BEFORE TRUNCATE ON audit_checkpoints FOR EACH STATEMENT EXECUTE FUNCTION assay_refuse_change();
COMMENT ON TABLE audit_checkpoints IS 'Signed statements of how far the chains of a tenant reached at a time. Whoever keeps one elsewhere can tell whether anything before it was changed.';
COMMENT ON COLUMN audit_checkpoints.tenant_id IS 'Owner.';
COMMENT ON COLUMN audit_checkpoints.checkpoint_id IS 'UUIDv7.';
COMMENT ON COLUMN audit_checkpoints.number IS 'From 1 without a gap.';
COMMENT ON COLUMN audit_checkpoints.at IS 'When it was made.';
COMMENT ON COLUMN audit_checkpoints.audit_seq IS 'The last event of the audit chain.';
COMMENT ON COLUMN audit_checkpoints.audit_hash IS 'Hash of that event.';
COMMENT ON COLUMN audit_checkpoints.machines IS 'Machines with a chain of verdicts.';
COMMENT ON COLUMN audit_checkpoints.verdicts IS 'Verdicts in all their chains.';
COMMENT ON COLUMN audit_checkpoints.verdict_root IS 'Root of the Merkle tree over the last verdicts of all machines (RFC 9162, section 2.1), in the order of the machines'' ids.';
COMMENT ON COLUMN audit_checkpoints.previous IS 'SHA-256 of the statement before; null for the first.';
COMMENT ON COLUMN audit_checkpoints.key_id IS 'Id of the key that signed.';
COMMENT ON COLUMN audit_checkpoints.statement IS 'The JWS in compact form. It states the same as the columns before it, which are for lists.';

CREATE TABLE audit_checkpoint_heads (
    tenant_id     uuid NOT NULL,
    checkpoint_id uuid NOT NULL,
    heads         bytea NOT NULL,
    PRIMARY KEY (tenant_id, checkpoint_id),
    FOREIGN KEY (tenant_id, checkpoint_id) REFERENCES audit_checkpoints
);
ALTER TABLE audit_checkpoint_heads ALTER COLUMN heads SET STORAGE EXTERNAL;
COMMENT ON TABLE audit_checkpoint_heads IS 'The leaves of the newest checkpoints'' trees, so that it can be shown that a machine is in them. Older ones are deleted.';
COMMENT ON COLUMN audit_checkpoint_heads.tenant_id IS 'Owner.';
COMMENT ON COLUMN audit_checkpoint_heads.checkpoint_id IS 'The checkpoint.';
COMMENT ON COLUMN audit_checkpoint_heads.heads IS '56 bytes a machine: machine id, place of its last verdict (big-endian), hash of that verdict; in the order of the ids.';
