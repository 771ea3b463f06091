-- The service's role stays, since it is the cluster's; it is left without rights here. Without its tables'
-- privileges a service of this version does not work any more: services of the version before run as the owner.
DO $$
DECLARE
    t record;
    r record;
BEGIN
    FOR t IN SELECT p.polrelid::regclass AS tab FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
            WHERE p.polname = 'tenant' AND c.relnamespace = current_schema()::regnamespace LOOP
        EXECUTE format('DROP POLICY tenant ON %s', t.tab);
        EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', t.tab);
        FOR r IN SELECT DISTINCT x.grantee::regrole AS name FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = t.tab AND x.grantee NOT IN (0, c.relowner) LOOP
            EXECUTE format('REVOKE ALL ON %s FROM %s', t.tab, r.name);
        END LOOP;
    END LOOP;
END $$;
DROP FUNCTION assay_admit(name);
ALTER FUNCTION assay_make_partitions(regclass, text, timestamptz, integer) SECURITY INVOKER RESET search_path;
GRANT EXECUTE ON FUNCTION assay_make_partitions(regclass, text, timestamptz, integer) TO PUBLIC;
DROP FUNCTION assay_notified_tenants();
DROP FUNCTION assay_tenant_ids();
DROP FUNCTION assay_enrollment_tenant(uuid);
DROP FUNCTION assay_find_join_token(bytea);
DROP FUNCTION assay_find_api_token(bytea);
DROP FUNCTION assay_secure(regclass, name);
DROP TABLE table_access;
