DROP TABLE reappraisal_machines;
DROP TABLE reappraisals;
ALTER TABLE evidence DROP COLUMN ima_from;
ALTER TABLE verdicts DROP COLUMN fingerprint, DROP COLUMN reappraisal_id, DROP COLUMN evidence_id, DROP COLUMN superseded_by, DROP COLUMN supersedes;
