DROP TABLE trust_anchor_certificates;
DROP TABLE trust_anchors;
DROP TABLE machine_attestation_state;
DROP TABLE enrollments;
DROP TABLE attestation_keys;
DROP TABLE machines;
