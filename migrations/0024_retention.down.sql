DO $$ BEGIN
    IF to_regclass('table_access') IS NOT NULL THEN
        EXECUTE $access$DELETE FROM table_access WHERE table_name IN ('retention_marks', 'retention_policies')$access$;
    END IF;
END $$;
DROP FUNCTION assay_stray_rows(regclass);
DROP FUNCTION assay_drop_empty_partitions(regclass, timestamptz);
DROP FUNCTION assay_prune_audit(uuid, uuid, integer, timestamptz);
DROP FUNCTION assay_prune_boot_logs(uuid, timestamptz, integer);
DROP FUNCTION assay_prune_evidence(uuid, uuid, uuid, integer, timestamptz);
DROP FUNCTION assay_prune_verdicts(uuid, uuid, uuid, integer, timestamptz);
DROP FUNCTION assay_needed_verdicts(uuid, uuid[]);
DROP TABLE retention_marks;
DROP TABLE retention_policies;
