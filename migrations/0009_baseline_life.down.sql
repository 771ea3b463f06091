DROP TABLE reference_events;
DROP TABLE alert_decisions;
DROP TABLE baseline_matches;
DROP TABLE baseline_approvals;
DROP INDEX baseline_versions_grace;
DROP INDEX baseline_versions_reference;
ALTER TABLE baseline_versions
    DROP CONSTRAINT baseline_versions_grace_ends,
    DROP COLUMN grace_moved_percent,
    DROP COLUMN activation,
    DROP COLUMN based_on,
    DROP COLUMN proposal,
    DROP COLUMN last_change,
    DROP COLUMN changed_by,
    DROP COLUMN changed_at;
COMMENT ON COLUMN baseline_versions.active_until IS 'End of grace.';
