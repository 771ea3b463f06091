-- The second fence between tenants: row-level security, for a role that owns nothing. The first fence is that each statement
-- names its tenant; this one holds where a statement forgets to, or is made to say something else.
--
-- Nothing here locks a table of the service. The fence itself is put up by assayd migrate (store.Migrate), after this, table by
-- table in transactions of their own, since ALTER TABLE and CREATE POLICY have to wait for whoever uses the table.

CREATE TABLE table_access (
    table_name     text PRIMARY KEY,
    privileges     text[] NOT NULL CHECK (privileges <@ ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
    update_columns text[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE table_access IS 'What the service may do with a table of tenants. A table that is not listed gets SELECT, INSERT, UPDATE and DELETE, of the rows of its tenant as all do. The one table that belongs to no tenant.';
COMMENT ON COLUMN table_access.table_name IS 'The table.';
COMMENT ON COLUMN table_access.privileges IS 'What the service''s role is granted.';
COMMENT ON COLUMN table_access.update_columns IS 'Where only some columns may change: those; UPDATE is not among the privileges then.';

-- Records of what was: they are written once, and not even the service can change them.
INSERT INTO table_access (table_name, privileges) SELECT t, ARRAY['SELECT', 'INSERT'] FROM unnest(ARRAY['alert_decisions', 'audit_chain', 'audit_checkpoints', 'audit_events', 'baseline_approvals', 'baseline_assignments', 'boot_logs', 'delivery_attempts', 'evidence', 'platform_evidence',
    'policy_versions', 'reappraisal_machines', 'recommendation_events', 'reference_events', 'reference_values', 'trust_anchor_certificates']) t;
INSERT INTO table_access (table_name, privileges) SELECT t, ARRAY['SELECT', 'INSERT', 'UPDATE'] FROM unnest(ARRAY['alerts', 'assessments',
    'attestation_keys', 'audit_heads', 'baseline_matches', 'baseline_versions', 'baselines', 'alert_retention', 'deadline_watch', 'enrollments', 'incidents',
    'machine_attestation_state', 'machine_firmware', 'machines', 'notification_state', 'policies', 'reappraisals', 'recommendations', 'service_heartbeats',
    'service_keys']) t;
INSERT INTO table_access (table_name, privileges, update_columns) VALUES
    ('tenants', ARRAY['SELECT', 'INSERT'], ARRAY['config_generation', 'name']),
    ('verdicts', ARRAY['SELECT', 'INSERT'], ARRAY['evidence_id', 'fingerprint', 'last_at', 'reappraisal_id', 'run_count', 'superseded_by', 'supersedes']);
INSERT INTO table_access (table_name, privileges) SELECT t, ARRAY['SELECT', 'INSERT', 'DELETE'] FROM unnest(ARRAY['alert_events', 'audit_checkpoint_heads', 'identity_provider_audiences',
    'incident_changes', 'machine_traits', 'revocations', 'service_outages']) t;
-- Of a queue rows are locked before they are taken, which needs UPDATE. Histories of what is over are pruned (store.PruneAlerts).
INSERT INTO table_access (table_name, privileges) SELECT t, ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE'] FROM unnest(ARRAY['alert_occurrences', 'api_tokens', 'collateral',
    'collateral_wants', 'deliveries', 'fleet_changes', 'fleet_conflicts', 'idempotency_keys', 'identity_providers', 'incident_members', 'incident_touches', 'join_tokens', 'notification_channels', 'outbox',
    'pipeline_rules', 'rollup_days', 'rollup_deltas', 'rollup_hours', 'silences', 'silent_machines', 'suppression_rules', 'tpm_history', 'trust_anchors']) t;

-- The policy. The setting holds the tenants of the statement, as an array of uuid: one, but for statements that do the work of
-- several callers at once. It is read once a statement (a sub-select of its own). Not set, or empty, is NULL, and so no row.
-- It is a filter on purpose, and not a condition that an index could serve: each statement names its tenants itself, and is
-- planned as it would be without the policy. IS NOT NULL counts as nearly always true in the planner's estimates.
CREATE FUNCTION assay_secure(tab regclass, app name) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    fence CONSTANT text := '(array_position((SELECT NULLIF(current_setting(''assay.tenants'', true), '''')::uuid[]), tenant_id) IS NOT NULL)';
    plain text := (SELECT relname FROM pg_class WHERE oid = tab);
    wanted text[] := coalesce((SELECT array_agg(p ORDER BY p) FROM table_access a, unnest(a.privileges) p WHERE a.table_name = plain),
        ARRAY['DELETE', 'INSERT', 'SELECT', 'UPDATE']);
    some_columns text[] := coalesce((SELECT array_agg(c ORDER BY c) FROM table_access a, unnest(a.update_columns) c WHERE a.table_name = plain), '{}');
    changed boolean := false;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = tab AND polname = 'tenant') THEN
        EXECUTE format('CREATE POLICY tenant ON %s USING %s WITH CHECK %s', tab, fence, fence);
        changed := true;
    END IF;
    IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = tab) THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', tab);
        changed := true;
    END IF;
    IF wanted IS DISTINCT FROM (SELECT array_agg(x.privilege_type::text ORDER BY x.privilege_type) FROM pg_class c, aclexplode(c.relacl) x
            WHERE c.oid = tab AND x.grantee = to_regrole(quote_ident(app)))
        OR some_columns IS DISTINCT FROM coalesce((SELECT array_agg(t.attname::text ORDER BY t.attname::text) FROM pg_attribute t, aclexplode(t.attacl) x
            WHERE t.attrelid = tab AND x.grantee = to_regrole(quote_ident(app))), '{}')
    THEN
        EXECUTE format('REVOKE ALL ON %s FROM %I', tab, app);
        EXECUTE format('GRANT %s ON %s TO %I', array_to_string(wanted, ', '), tab, app);
        IF some_columns <> '{}' THEN
            EXECUTE format('GRANT UPDATE (%s) ON %s TO %I', (SELECT string_agg(quote_ident(c), ', ') FROM unnest(some_columns) c), tab, app);
        END IF;
        changed := true;
    END IF;
    RETURN changed;
END $$;
COMMENT ON FUNCTION assay_secure(regclass, name) IS 'Puts a table of tenants behind row-level security, and gives the service''s role what table_access says. Answers whether anything was to be done.';

-- What comes before the tenant is known, or is of all tenants. These run as their owner, whom no policy binds; each answers one
-- question and no other.
CREATE FUNCTION assay_find_api_token(hash bytea) RETURNS SETOF api_tokens LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT * FROM api_tokens WHERE token_hash = hash
$$;
COMMENT ON FUNCTION assay_find_api_token(bytea) IS 'The token with that SHA-256: it is what tells the tenant.';
CREATE FUNCTION assay_find_join_token(hash bytea) RETURNS SETOF join_tokens LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT * FROM join_tokens WHERE token_hash = hash
$$;
COMMENT ON FUNCTION assay_find_join_token(bytea) IS 'The join token with that SHA-256: it is what tells the tenant.';
CREATE FUNCTION assay_enrollment_tenant(enrollment uuid) RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT t.tenant_id FROM tenants t WHERE EXISTS (SELECT FROM enrollments e WHERE e.tenant_id = t.tenant_id AND e.enrollment_id = enrollment)
$$;
COMMENT ON FUNCTION assay_enrollment_tenant(uuid) IS 'Whose an enrolment is: an agent that activates a credential has no token yet.';
CREATE FUNCTION assay_tenant_ids() RETURNS SETOF uuid LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT tenant_id FROM tenants ORDER BY tenant_id
$$;
COMMENT ON FUNCTION assay_tenant_ids() IS 'All tenants, for the jobs that do the work of each.';
CREATE FUNCTION assay_notified_tenants() RETURNS SETOF uuid LANGUAGE sql STABLE SECURITY DEFINER AS $$
    SELECT t.tenant_id FROM tenants t WHERE EXISTS (SELECT FROM notification_channels c WHERE c.tenant_id = t.tenant_id)
        OR EXISTS (SELECT FROM outbox o WHERE o.tenant_id = t.tenant_id AND o.fanned_out_at IS NULL) ORDER BY t.tenant_id
$$;
COMMENT ON FUNCTION assay_notified_tenants() IS 'The tenants that have events to fan out, or channels.';
ALTER FUNCTION assay_make_partitions(regclass, text, timestamptz, integer) SECURITY DEFINER;

-- Their search_path is this schema alone: a name cannot be made to mean something else.
DO $$
DECLARE
    f regprocedure;
BEGIN
    FOR f IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = current_schema()::regnamespace AND p.prosecdef AND starts_with(p.proname, 'assay_') LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', f, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
    END LOOP;
END $$;

CREATE FUNCTION assay_admit(app name) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    f regprocedure;
    changed boolean := false;
BEGIN
    IF NOT has_schema_privilege(app, current_schema(), 'USAGE') OR NOT has_table_privilege(app, 'schema_migrations', 'SELECT') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), app);
        EXECUTE format('GRANT SELECT ON schema_migrations TO %I', app);
        changed := true;
    END IF;
    FOR f IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = current_schema()::regnamespace AND p.prosecdef AND starts_with(p.proname, 'assay_')
            AND NOT has_function_privilege(app, p.oid, 'EXECUTE') LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', f, app);
        changed := true;
    END LOOP;
    IF EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'river'::regnamespace AND CASE WHEN c.relkind IN ('r', 'p') THEN NOT has_table_privilege(app, c.oid, 'INSERT') END)
        OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'river'::regnamespace AND CASE WHEN c.relkind = 'S' THEN NOT has_sequence_privilege(app, c.oid, 'USAGE') END) THEN
        EXECUTE format('GRANT USAGE ON SCHEMA river TO %I', app);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA river TO %I', app);
        EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA river TO %I', app);
        changed := true;
    END IF;
    RETURN changed;
END $$;
COMMENT ON FUNCTION assay_admit(name) IS 'Gives the service''s role what it needs beside the tables of tenants: the schema''s version, the functions above, the job queue. Answers whether anything was to be done.';
