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

-- What follows runs by the right of the tables' owner: the service itself need not be able to delete what was written once. By the clock of
-- the database each keeps the shortest time that a policy can say, whatever it is asked.

CREATE FUNCTION assay_needed_verdicts(of_tenant uuid, of_machines uuid[]) RETURNS TABLE (machine_id uuid, verdict_id uuid) LANGUAGE sql STABLE AS $$
    SELECT n.machine_id, n.verdict_id FROM (
        SELECT st.machine_id, unnest(ARRAY[st.verdict_id, st.genuine_verdict_id]) AS verdict_id FROM machine_attestation_state st
            WHERE st.tenant_id = of_tenant AND st.machine_id = ANY (of_machines)
        UNION ALL SELECT m.machine_id, m.last_verdict_id FROM machines m WHERE m.tenant_id = of_tenant AND m.machine_id = ANY (of_machines)
        UNION ALL SELECT a.machine_id, unnest(ARRAY[a.verdict_id, o.verdict_id]) FROM alerts a
            LEFT JOIN alert_occurrences o ON o.tenant_id = a.tenant_id AND o.alert_id = a.alert_id
            WHERE a.tenant_id = of_tenant AND a.machine_id = ANY (of_machines) AND a.status IN ('active', 'in_progress')
        UNION ALL SELECT b.machine_id, b.verdict_id FROM baseline_matches b WHERE b.tenant_id = of_tenant AND b.machine_id = ANY (of_machines)
        UNION ALL SELECT (v.provenance->>'machine_id')::uuid, (v.provenance->>'verdict_id')::uuid FROM baseline_versions v
            WHERE v.tenant_id = of_tenant AND v.origin IN ('captured', 'learned') AND v.state <> 'retired' AND v.provenance->>'machine_id' = ANY (of_machines::text[])
    ) n WHERE n.verdict_id IS NOT NULL
$$;
COMMENT ON FUNCTION assay_needed_verdicts(uuid, uuid[]) IS 'Verdicts of machines that must not be taken out: the standing and the last genuine one, what an open alert rests on, what moved the machine to a version of a baseline, and what a version that is not retired was taken from.';

CREATE FUNCTION assay_prune_verdicts(of_tenant uuid, from_id uuid, below uuid, most integer, noted_at timestamptz, OUT pruned bigint, OUT reached uuid)
LANGUAGE sql SECURITY DEFINER AS $$
    WITH page AS MATERIALIZED (
        SELECT v.verdict_id, v.machine_id FROM verdicts v WHERE v.tenant_id = of_tenant AND v.verdict_id > from_id
            AND v.verdict_id < least(below, assay_uuid7_floor(now() - interval '30 days')) ORDER BY v.verdict_id LIMIT most),
    of_page AS MATERIALIZED (SELECT array_agg(DISTINCT machine_id) AS machines FROM page),
    needed AS MATERIALIZED (SELECT n.machine_id, n.verdict_id FROM of_page, assay_needed_verdicts(of_tenant, machines) n),
    free AS MATERIALIZED (
        SELECT m.id, (SELECT n.verdict_id FROM needed n WHERE n.machine_id = m.id ORDER BY n.verdict_id LIMIT 1) AS first_needed
        FROM of_page, unnest(machines) m (id)
        WHERE NOT EXISTS (SELECT FROM verdicts o WHERE o.tenant_id = of_tenant AND o.machine_id = m.id AND o.verdict_id <= from_id)),
    gone AS (DELETE FROM verdicts d USING page p JOIN free f ON f.id = p.machine_id
        WHERE d.tenant_id = of_tenant AND d.verdict_id = p.verdict_id AND (f.first_needed IS NULL OR d.verdict_id < f.first_needed)
        RETURNING d.machine_id, d.verdict_id, d.hash),
    marked AS (INSERT INTO retention_marks AS m (tenant_id, kind, subject_id, pruned_id, pruned_hash, pruned_count, pruned_at)
        SELECT of_tenant, 'verdicts', machine_id, (array_agg(verdict_id ORDER BY verdict_id DESC))[1], (array_agg(hash ORDER BY verdict_id DESC))[1], count(*), noted_at
        FROM gone GROUP BY machine_id
        ON CONFLICT (tenant_id, kind, subject_id) DO UPDATE SET pruned_id = EXCLUDED.pruned_id, pruned_hash = EXCLUDED.pruned_hash,
            pruned_count = m.pruned_count + EXCLUDED.pruned_count, pruned_at = EXCLUDED.pruned_at)
    SELECT (SELECT count(*) FROM gone), (SELECT verdict_id FROM page ORDER BY verdict_id DESC LIMIT 1)
$$;
COMMENT ON FUNCTION assay_prune_verdicts(uuid, uuid, uuid, integer, timestamptz) IS 'Takes a page of verdicts between two ids out: of each machine the oldest, up to the first that is still needed, and notes up to where. A machine of which something older than the page was left is passed over, so that what goes is always the beginning of its series. Answers how many, and where the page ends. The caller records it in the same transaction.';

CREATE FUNCTION assay_prune_evidence(of_tenant uuid, from_id uuid, below uuid, most integer, noted_at timestamptz, OUT pruned bigint, OUT reached uuid)
LANGUAGE sql SECURITY DEFINER AS $$
    WITH page AS MATERIALIZED (
        SELECT e.verdict_id FROM evidence e WHERE e.tenant_id = of_tenant AND e.verdict_id > from_id
            AND e.verdict_id < least(below, assay_uuid7_floor(now() - interval '7 days')) ORDER BY e.verdict_id LIMIT most),
    of_page AS MATERIALIZED (
        SELECT array_agg(DISTINCT v.machine_id) AS machines FROM page p JOIN verdicts v ON v.tenant_id = of_tenant AND v.verdict_id = p.verdict_id),
    needed AS MATERIALIZED (
        SELECT coalesce(w.evidence_id, n.verdict_id) AS verdict_id FROM of_page CROSS JOIN LATERAL assay_needed_verdicts(of_tenant, machines) n
        LEFT JOIN verdicts w ON w.tenant_id = of_tenant AND w.verdict_id = n.verdict_id),
    gone AS (DELETE FROM evidence d USING page p WHERE d.tenant_id = of_tenant AND d.verdict_id = p.verdict_id
        AND NOT EXISTS (SELECT FROM needed n WHERE n.verdict_id = p.verdict_id) RETURNING d.verdict_id),
    marked AS (INSERT INTO retention_marks AS m (tenant_id, kind, subject_id, pruned_id, pruned_count, pruned_at)
        SELECT of_tenant, 'evidence', of_tenant, (array_agg(verdict_id ORDER BY verdict_id DESC))[1], count(*), noted_at FROM gone HAVING count(*) > 0
        ON CONFLICT (tenant_id, kind, subject_id) DO UPDATE SET pruned_id = greatest(m.pruned_id, EXCLUDED.pruned_id),
            pruned_count = m.pruned_count + EXCLUDED.pruned_count, pruned_at = EXCLUDED.pruned_at)
    SELECT (SELECT count(*) FROM gone), (SELECT verdict_id FROM page ORDER BY verdict_id DESC LIMIT 1)
$$;
COMMENT ON FUNCTION assay_prune_evidence(uuid, uuid, uuid, integer, timestamptz) IS 'Takes a page of evidence between two ids out, but for what is needed: that of needed verdicts, or what those name as theirs. Answers as assay_prune_verdicts.';

CREATE FUNCTION assay_prune_boot_logs(of_tenant uuid, before_at timestamptz, most integer) RETURNS bigint
LANGUAGE sql SECURITY DEFINER AS $$
    WITH gone AS (
    DELETE FROM boot_logs b WHERE b.tenant_id = of_tenant AND b.digest IN (
            SELECT l.digest FROM boot_logs l WHERE l.tenant_id = of_tenant AND l.created_at < least(before_at, now() - interval '7 days')
                AND NOT EXISTS (SELECT FROM evidence e WHERE e.tenant_id = of_tenant AND e.event_log_digest = l.digest)
                AND NOT EXISTS (SELECT FROM machine_attestation_state st WHERE st.tenant_id = of_tenant AND st.last_log = l.digest)
            LIMIT most)
    RETURNING 1) SELECT count(*) FROM gone
$$;
COMMENT ON FUNCTION assay_prune_boot_logs(uuid, timestamptz, integer) IS 'Takes boot logs out that no evidence names and no machine has shown last; answers how many.';

-- The one way out of the audit record. Triggers that keep it append-only rest in this transaction alone, on the one partition and on the
-- chain, whose lock keeps everybody else out meanwhile: there is no setting that would let anybody through.
CREATE FUNCTION assay_prune_audit(of_tenant uuid, below uuid, most integer, noted_at timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    chained CONSTANT boolean := to_regclass('audit_chain') IS NOT NULL;
    ready   boolean := true;
    part    regclass;
    ids     uuid[];
    seal    bytea;
    resting text[];
    one     text;
BEGIN
    below := least(below, assay_uuid7_floor(now() - interval '365 days'));
    -- In the order of the chain, whose events from before it have negative places, the newest of them -1: as far as all is old, and in one partition.
    IF chained THEN
        EXECUTE 'SELECT coalesce(bool_and(earlier_done), true) FROM audit_heads WHERE tenant_id = $1' INTO ready USING of_tenant;
        IF NOT ready THEN -- the events from before the chain are still being numbered
            RETURN 0;
        END IF;
        EXECUTE 'WITH page AS (SELECT c.seq, c.event_id, c.hash, e.tableoid AS part FROM audit_chain c JOIN audit_events e ON e.tenant_id = c.tenant_id AND e.event_id = c.event_id
                WHERE c.tenant_id = $1 AND c.event_id < $2
                    AND c.seq < coalesce((SELECT min(k.seq) FROM audit_chain k WHERE k.tenant_id = $1 AND k.seq > 0 AND k.event_id >= $2), 9223372036854775807)
                    AND c.seq < (SELECT max(k.seq) FROM audit_chain k WHERE k.tenant_id = $1) -- the last stays: the next is chained to it
                ORDER BY c.seq LIMIT $3),
            together AS (SELECT *, bool_and(part = first_part) OVER (ORDER BY seq) AS same
                FROM (SELECT *, first_value(part) OVER (ORDER BY seq) AS first_part FROM page) p)
            SELECT (array_agg(part))[1]::regclass, array_agg(event_id ORDER BY seq), (array_agg(hash ORDER BY seq DESC))[1] FROM together WHERE same'
            INTO part, ids, seal USING of_tenant, below, most;
    ELSE
        SELECT e.tableoid::regclass INTO part FROM audit_events e WHERE e.tenant_id = of_tenant AND e.event_id < below ORDER BY e.event_id LIMIT 1;
        SELECT array_agg(e.event_id ORDER BY e.event_id), (array_agg(e.hash ORDER BY e.event_id DESC))[1] INTO ids, seal
            FROM (SELECT event_id, hash FROM audit_events WHERE tenant_id = of_tenant AND event_id < below AND tableoid = part ORDER BY event_id LIMIT most) e;
    END IF;
    IF ids IS NULL THEN
        RETURN 0;
    END IF;
    SELECT array_agg(format('ALTER TABLE ONLY %s %%s TRIGGER %I', tgrelid::regclass, tgname) ORDER BY tgrelid, tgname) INTO resting
        FROM pg_trigger WHERE tgrelid IN (part, to_regclass('audit_chain')) AND NOT tgisinternal AND tgenabled = 'O';
    FOREACH one IN ARRAY coalesce(resting, '{}') LOOP
        EXECUTE format(one, 'DISABLE');
    END LOOP;
    EXECUTE format('DELETE FROM ONLY %s WHERE tenant_id = $1 AND event_id = ANY ($2)', part) USING of_tenant, ids;
    IF chained THEN
        EXECUTE 'DELETE FROM audit_chain WHERE tenant_id = $1 AND event_id = ANY ($2)' USING of_tenant, ids;
    END IF;
    FOREACH one IN ARRAY coalesce(resting, '{}') LOOP
        EXECUTE format(one, 'ENABLE');
    END LOOP;
    INSERT INTO retention_marks AS m (tenant_id, kind, subject_id, pruned_id, pruned_hash, pruned_count, pruned_at)
        VALUES (of_tenant, 'audit_events', of_tenant, ids[cardinality(ids)], seal, cardinality(ids), noted_at)
        ON CONFLICT (tenant_id, kind, subject_id) DO UPDATE SET pruned_id = EXCLUDED.pruned_id, pruned_hash = EXCLUDED.pruned_hash,
            pruned_count = m.pruned_count + EXCLUDED.pruned_count, pruned_at = EXCLUDED.pruned_at;
    RETURN cardinality(ids);
END $$;
COMMENT ON FUNCTION assay_prune_audit(uuid, uuid, integer, timestamptz) IS 'Takes the oldest events of a tenant below an id out of the audit record and its chain, from the beginning, and notes up to where; answers how many. The caller records it in the same transaction.';

CREATE FUNCTION assay_drop_empty_partitions(parent regclass, month_of timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER AS $$
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

CREATE FUNCTION assay_stray_rows(parent regclass) RETURNS boolean LANGUAGE plpgsql STABLE SECURITY DEFINER AS $$
DECLARE
    stray boolean;
BEGIN
    IF parent NOT IN ('verdicts'::regclass, 'evidence'::regclass, 'audit_events'::regclass) THEN
        RAISE EXCEPTION 'table % has no default partition', parent;
    END IF;
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', (parent::text || '_default')::regclass) INTO stray;
    RETURN stray;
END $$;
COMMENT ON FUNCTION assay_stray_rows(regclass) IS 'Whether the default partition of a table holds rows of any tenant: such as came before the partition of their month.';

-- Nobody calls them but whom assayd migrate lets, and their names mean what is in this schema.
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = current_schema()::regnamespace AND p.prosecdef
            AND (starts_with(p.proname, 'assay_prune_') OR p.proname IN ('assay_drop_empty_partitions', 'assay_stray_rows')) LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
    IF to_regclass('table_access') IS NOT NULL THEN
        EXECUTE $access$INSERT INTO table_access (table_name, privileges) VALUES ('retention_marks', ARRAY['SELECT']), ('retention_policies', ARRAY['SELECT', 'INSERT', 'UPDATE'])$access$;
    END IF;
END $$;
