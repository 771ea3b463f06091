DROP FUNCTION assay_drop_empty_partitions(regclass, timestamptz);
DROP FUNCTION assay_prune_audit(uuid, uuid, integer, timestamptz);
DROP TABLE retention_marks;
DROP TABLE retention_policies;
