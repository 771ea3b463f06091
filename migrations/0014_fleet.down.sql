DROP TABLE fleet_conflicts;
DROP TABLE fleet_changes;
DROP TABLE tpm_history;
DROP TABLE machine_traits;
