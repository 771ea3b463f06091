DROP TABLE collateral_wants;
DROP TABLE collateral;
DROP TABLE platform_evidence;
ALTER TABLE machine_attestation_state DROP COLUMN last_platform;
ALTER TABLE machines DROP COLUMN instance, DROP COLUMN platform_evidence_type, DROP COLUMN platform_root, DROP COLUMN vm_id;
ALTER TABLE enrollments DROP COLUMN kind, DROP COLUMN anchor_fingerprint, DROP COLUMN certificate_not_after;
ALTER TABLE attestation_keys DROP COLUMN kind, DROP COLUMN anchor_fingerprint, DROP COLUMN certificate_not_after;
DROP INDEX trust_anchor_certificates_fingerprint;
ALTER TABLE trust_anchors DROP COLUMN origin, DROP COLUMN enabled, DROP COLUMN source;
