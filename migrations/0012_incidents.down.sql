DROP TRIGGER alerts_turned_by_version_before ON alerts;
DROP TRIGGER alerts_of_version_before ON alerts;
DROP FUNCTION assay_alert_of_version_before();
DELETE FROM outbox WHERE kind NOT IN ('alert.opened', 'alert.resolved', 'alert.status_changed');
ALTER TABLE outbox DROP CONSTRAINT outbox_kind_check;
ALTER TABLE outbox ADD CONSTRAINT outbox_kind_check CHECK (kind IN ('alert.opened', 'alert.resolved', 'alert.status_changed'));
COMMENT ON COLUMN outbox.subject_id IS 'The alert that it happened to.';
DROP INDEX recommendations_exemption;
DROP TABLE recommendation_events;
DROP TABLE incident_touches;
DROP TABLE incident_members;
DROP TABLE incidents;
DROP TABLE alert_events;
DROP TABLE alert_occurrences;
DELETE FROM alerts WHERE machine_id IS NULL;
DROP INDEX alerts_scope_code;
DROP INDEX alerts_machine_code;
DROP INDEX alerts_open_scope;
ALTER TABLE alerts
    DROP CONSTRAINT alerts_of,
    DROP CONSTRAINT alerts_group_key,
    DROP COLUMN scope,
    DROP COLUMN details,
    DROP COLUMN opened_at,
    DROP COLUMN reopened_count,
    DROP COLUMN closed_at,
    DROP COLUMN closed_by,
    DROP COLUMN over_at,
    DROP COLUMN assignee,
    DROP COLUMN group_key,
    ALTER COLUMN machine_id SET NOT NULL;
COMMENT ON TABLE alerts IS 'What happened to a machine. At most one alert of a machine and code is open (active or in_progress); a repetition counts it up.';
COMMENT ON COLUMN alerts.machine_id IS 'The machine.';
