DROP INDEX baseline_versions_import_anchor;
ALTER TABLE baseline_versions DROP COLUMN import_anchor;
COMMENT ON COLUMN baseline_versions.provenance IS 'Where it comes from: repository, commit, build_url.';

DELETE FROM trust_anchor_certificates WHERE kind = 'public_key';
ALTER TABLE trust_anchor_certificates
    DROP COLUMN kind,
    ALTER COLUMN not_after SET NOT NULL;
COMMENT ON TABLE trust_anchor_certificates IS 'The certificates of an anchor.';
COMMENT ON COLUMN trust_anchor_certificates.der IS 'X.509 certificate.';
COMMENT ON COLUMN trust_anchor_certificates.subject IS 'For people.';
COMMENT ON COLUMN trust_anchor_certificates.not_after IS 'End of its validity.';
