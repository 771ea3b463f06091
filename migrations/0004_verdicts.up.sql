-- What was judged, and the raw evidence behind it.

CREATE TABLE boot_logs (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    digest     bytea NOT NULL CHECK (octet_length(digest) = 32),
    size       integer NOT NULL,
    compressed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, digest)
);
ALTER TABLE boot_logs ALTER COLUMN compressed SET STORAGE EXTERNAL;
COMMENT ON TABLE boot_logs IS 'TCG event logs, content-addressed: shared by all machines that booted the same.';
COMMENT ON COLUMN boot_logs.tenant_id IS 'Owner.';
COMMENT ON COLUMN boot_logs.digest IS 'SHA-256 of the raw log.';
COMMENT ON COLUMN boot_logs.size IS 'Bytes of the raw log; bounds the memory of decompression.';
COMMENT ON COLUMN boot_logs.compressed IS 'The raw log in one zstd frame.';
COMMENT ON COLUMN boot_logs.created_at IS 'When it was first stored.';

CREATE TABLE verdicts (
    tenant_id        uuid NOT NULL,
    verdict_id       uuid NOT NULL,
    machine_id       uuid NOT NULL,
    key_id           uuid,
    status           text NOT NULL CHECK (status IN ('none', 'affirming', 'warning', 'contraindicated')),
    reason           text NOT NULL CHECK (reason IN ('', 'origin_unverified', 'baseline_deviation')),
    assurance        text NOT NULL CHECK (assurance IN ('', 'tee_bound', 'ek_activated', 'ak_certified', 'first_use')),
    genuine          boolean NOT NULL,
    first_at         timestamptz NOT NULL,
    last_at          timestamptz NOT NULL,
    run_count        bigint NOT NULL,
    appraisal        json NOT NULL,
    event_log_digest bytea,
    prev_hash        bytea,
    hash             bytea,
    PRIMARY KEY (tenant_id, verdict_id)
) PARTITION BY RANGE (verdict_id);
CREATE INDEX verdicts_machine ON verdicts (tenant_id, machine_id, verdict_id);
CREATE INDEX verdicts_status ON verdicts (tenant_id, status, verdict_id);
CREATE INDEX verdicts_reason ON verdicts (tenant_id, reason, verdict_id) WHERE reason <> '';
CREATE TABLE verdicts_default PARTITION OF verdicts DEFAULT;
COMMENT ON TABLE verdicts IS 'One row a change of judgement: a run of identical judgements of one machine. While the run is the machine''s current one, its end is in machine_attestation_state.';
COMMENT ON COLUMN verdicts.tenant_id IS 'Owner.';
COMMENT ON COLUMN verdicts.verdict_id IS 'UUIDv7 of first_at; partition key.';
COMMENT ON COLUMN verdicts.machine_id IS 'The machine.';
COMMENT ON COLUMN verdicts.key_id IS 'The AK that the evidence was judged with; null if the machine had none.';
COMMENT ON COLUMN verdicts.status IS 'In the words of AR4SI.';
COMMENT ON COLUMN verdicts.reason IS 'Why it failed, one of two; empty if it did not.';
COMMENT ON COLUMN verdicts.assurance IS 'How the AK was proved.';
COMMENT ON COLUMN verdicts.genuine IS 'Every check of origin passed.';
COMMENT ON COLUMN verdicts.first_at IS 'First judgement of the run.';
COMMENT ON COLUMN verdicts.last_at IS 'Last judgement of the run, once it has ended; before that, its first.';
COMMENT ON COLUMN verdicts.run_count IS 'Judgements in the run, once it has ended; before that, 1.';
COMMENT ON COLUMN verdicts.appraisal IS 'Checks, deviations, claims, baseline and policy of the first judgement.';
COMMENT ON COLUMN verdicts.event_log_digest IS 'SHA-256 of the event log that it was judged by; null if there was none.';
COMMENT ON COLUMN verdicts.prev_hash IS 'Hash of the machine''s verdict before this one; null until the hash chain is in use.';
COMMENT ON COLUMN verdicts.hash IS 'SHA-256 over this verdict and prev_hash; null until the hash chain is in use.';

CREATE TABLE evidence (
    tenant_id        uuid NOT NULL,
    verdict_id       uuid NOT NULL,
    content_type     text NOT NULL,
    size             integer NOT NULL,
    compressed       bytea NOT NULL,
    event_log_digest bytea,
    PRIMARY KEY (tenant_id, verdict_id)
) PARTITION BY RANGE (verdict_id);
ALTER TABLE evidence ALTER COLUMN compressed SET STORAGE EXTERNAL;
CREATE TABLE evidence_default PARTITION OF evidence DEFAULT;
COMMENT ON TABLE evidence IS 'The raw evidence behind the first judgement of a verdict, so that it can be judged again.';
COMMENT ON COLUMN evidence.tenant_id IS 'Owner.';
COMMENT ON COLUMN evidence.verdict_id IS 'The verdict; partition key.';
COMMENT ON COLUMN evidence.content_type IS 'How the body is to be decoded.';
COMMENT ON COLUMN evidence.size IS 'Bytes of the raw body; bounds the memory of decompression.';
COMMENT ON COLUMN evidence.compressed IS 'The raw body in one zstd frame.';
COMMENT ON COLUMN evidence.event_log_digest IS 'SHA-256 of the event log, which is in boot_logs; null if there was none.';
