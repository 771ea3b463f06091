-- Imported reference values: bare keys as trust anchors, and which versions rest on an anchor.

ALTER TABLE trust_anchor_certificates
    ADD COLUMN kind text NOT NULL DEFAULT 'certificate' CHECK (kind IN ('certificate', 'public_key')),
    ALTER COLUMN not_after DROP NOT NULL;
COMMENT ON TABLE trust_anchor_certificates IS 'The certificates and bare keys of an anchor.';
COMMENT ON COLUMN trust_anchor_certificates.kind IS 'certificate; public_key: a key that is trusted by itself, for the purpose reference_values alone.';
COMMENT ON COLUMN trust_anchor_certificates.der IS 'X.509 certificate, or SubjectPublicKeyInfo.';
COMMENT ON COLUMN trust_anchor_certificates.subject IS 'For people: of the certificate, or the type of the key.';
COMMENT ON COLUMN trust_anchor_certificates.not_after IS 'End of its validity; null for a key.';

ALTER TABLE baseline_versions ADD COLUMN import_anchor text;
CREATE INDEX baseline_versions_import_anchor ON baseline_versions (tenant_id, import_anchor) WHERE import_anchor IS NOT NULL;
COMMENT ON COLUMN baseline_versions.import_anchor IS 'Fingerprint of the trust anchor''s certificate or key that the imported document''s signature ends in; null where it was not imported, or has no signature.';
COMMENT ON COLUMN baseline_versions.provenance IS 'Where it comes from: repository, commit, build_url; imported: the document, its signer and what it says.';
