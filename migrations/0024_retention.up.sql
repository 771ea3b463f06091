-- How long a tenant keeps what was judged, and what was taken out because of it.

CREATE TABLE retention_policies (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    evidence_days integer NOT NULL CHECK (evidence_days BETWEEN 7 AND 36500),
    verdict_days  integer NOT NULL CHECK (verdict_days BETWEEN 30 AND 36500),
    audit_days    integer NOT NULL CHECK (audit_days BETWEEN 365 AND 36500),
    updated_by    text NOT NULL,
    updated_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id),
    CONSTRAINT retention_policies_order CHECK (evidence_days <= verdict_days)
);
COMMENT ON TABLE retention_policies IS 'How long a tenant keeps what was judged, where it decided itself; the others keep it as the service is configured.';
COMMENT ON COLUMN retention_policies.tenant_id IS 'Owner.';
COMMENT ON COLUMN retention_policies.evidence_days IS 'Raw evidence and boot logs.';
COMMENT ON COLUMN retention_policies.verdict_days IS 'Verdicts, by their first time.';
COMMENT ON COLUMN retention_policies.audit_days IS 'Events of the audit record. Not less than a year: an administrator must not be able to let his own traces go.';
COMMENT ON COLUMN retention_policies.updated_by IS 'Who decided, as kind:id.';
COMMENT ON COLUMN retention_policies.updated_at IS 'When.';

CREATE TABLE retention_marks (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    kind         text NOT NULL CHECK (kind IN ('audit_events', 'verdicts', 'evidence')),
    subject_id   uuid NOT NULL,
    pruned_id    uuid NOT NULL,
    pruned_hash  bytea,
    pruned_count bigint NOT NULL,
    pruned_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, kind, subject_id)
);
COMMENT ON TABLE retention_marks IS 'Up to where a series was taken out, always from its beginning, so that the rest can be verified: the hash that the first of the rest names as the one before it is here.';
COMMENT ON COLUMN retention_marks.tenant_id IS 'Owner.';
COMMENT ON COLUMN retention_marks.kind IS 'Which series: audit_events of the tenant, verdicts of a machine, evidence of the tenant.';
COMMENT ON COLUMN retention_marks.subject_id IS 'The machine of verdicts, else the tenant.';
COMMENT ON COLUMN retention_marks.pruned_id IS 'The last row that was taken out; of evidence a bound, since some of it is kept.';
COMMENT ON COLUMN retention_marks.pruned_hash IS 'Its hash; null of evidence, and where it had none.';
COMMENT ON COLUMN retention_marks.pruned_count IS 'How many were taken out so far.';
COMMENT ON COLUMN retention_marks.pruned_at IS 'When the last were.';

-- The one way out of the audit record. Triggers that keep it append-only rest on the one partition and in this transaction
-- alone, by the right of the tables' owner: there is no setting that would let anybody else through. A partition that gets rows of
-- now is never touched.
CREATE FUNCTION assay_prune_audit(of_tenant uuid, below uuid, most integer, noted_at timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    part    regclass;
    resting text[];
    one     text;
    gone    bigint;
    last    uuid;
    seal    bytea;
BEGIN
    below := least(below, assay_uuid7_floor(now() - interval '365 days'));
    SELECT e.tableoid::regclass INTO part FROM audit_events e WHERE e.tenant_id = of_tenant AND e.event_id < below ORDER BY e.event_id LIMIT 1;
    IF part IS NULL THEN
        RETURN 0;
    END IF;
    SELECT array_agg(tgname ORDER BY tgname) INTO resting FROM pg_trigger WHERE tgrelid = part AND NOT tgisinternal AND tgenabled = 'O';
    FOREACH one IN ARRAY coalesce(resting, '{}') LOOP
        EXECUTE format('ALTER TABLE ONLY %s DISABLE TRIGGER %I', part, one);
    END LOOP;
    EXECUTE format('WITH old AS (SELECT event_id FROM ONLY %1$s WHERE tenant_id = $1 AND event_id < $2 ORDER BY event_id LIMIT $3),
        gone AS (DELETE FROM ONLY %1$s a USING old WHERE a.tenant_id = $1 AND a.event_id = old.event_id RETURNING a.event_id, a.hash)
        SELECT count(*), (array_agg(event_id ORDER BY event_id DESC))[1], (array_agg(hash ORDER BY event_id DESC))[1] FROM gone', part)
        INTO gone, last, seal USING of_tenant, below, most;
    FOREACH one IN ARRAY coalesce(resting, '{}') LOOP
        EXECUTE format('ALTER TABLE ONLY %s ENABLE TRIGGER %I', part, one);
    END LOOP;
    INSERT INTO retention_marks AS m (tenant_id, kind, subject_id, pruned_id, pruned_hash, pruned_count, pruned_at)
        VALUES (of_tenant, 'audit_events', of_tenant, last, seal, gone, noted_at)
        ON CONFLICT (tenant_id, kind, subject_id) DO UPDATE SET pruned_id = EXCLUDED.pruned_id, pruned_hash = EXCLUDED.pruned_hash,
            pruned_count = m.pruned_count + EXCLUDED.pruned_count, pruned_at = EXCLUDED.pruned_at;
    RETURN gone;
END $$;
COMMENT ON FUNCTION assay_prune_audit(uuid, uuid, integer, timestamptz) IS 'Takes the oldest events of a tenant below an id out of the audit record, and notes up to where; answers how many. By the clock of the database a year is kept, whatever is asked. The caller records it in the same transaction.';

CREATE FUNCTION assay_drop_empty_partitions(parent regclass, month_of timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    part    record;
    full_of boolean;
    dropped integer := 0;
BEGIN
    IF parent NOT IN ('verdicts'::regclass, 'evidence'::regclass, 'audit_events'::regclass) THEN
        RAISE EXCEPTION 'table % keeps its partitions', parent;
    END IF;
    FOR part IN SELECT c.oid::regclass AS name FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = parent AND c.relname ~ '_y[0-9]{4}m[0-9]{2}$'
            AND substring(c.relname FROM '_y([0-9]{4}m[0-9]{2})$') < to_char(least(month_of, now()) AT TIME ZONE 'UTC', 'YYYY"m"MM') LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s)', part.name) INTO full_of;
        CONTINUE WHEN full_of;
        EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', part.name);
        EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s)', part.name) INTO full_of;
        CONTINUE WHEN full_of;
        EXECUTE format('DROP TABLE %s', part.name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;
COMMENT ON FUNCTION assay_drop_empty_partitions(regclass, timestamptz) IS 'Drops the monthly partitions before the month of a time that hold no row of any tenant; answers how many.';
REVOKE ALL ON FUNCTION assay_prune_audit(uuid, uuid, integer, timestamptz), assay_drop_empty_partitions(regclass, timestamptz) FROM PUBLIC;
