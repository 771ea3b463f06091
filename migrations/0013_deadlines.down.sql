DROP TABLE service_outages;
DROP TABLE service_heartbeats;
DROP TABLE deadline_watch;
DROP TABLE silences;
ALTER TABLE verdicts DROP COLUMN trigger;
DROP TABLE silent_machines;
ALTER TABLE machine_attestation_state DROP COLUMN boot_id, DROP COLUMN boot_count, DROP COLUMN last_boot_at, DROP COLUMN heard_at, DROP COLUMN stale_at;
COMMENT ON COLUMN machine_attestation_state.next_due_at IS 'When the next evidence is expected.';
