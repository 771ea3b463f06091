-- Quotas of tenants, and API tokens that are bound to a client certificate.

CREATE TABLE tenant_quotas (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    kind       text NOT NULL,
    max_count  bigint CHECK (max_count >= 0),
    changed_at timestamptz,
    changed_by text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, kind)
);
COMMENT ON TABLE tenant_quotas IS 'How much a tenant may have of a kind, where that is not the service''s default; its row is the lock under which what a tenant has is counted.';
COMMENT ON COLUMN tenant_quotas.tenant_id IS 'Whose quota it is.';
COMMENT ON COLUMN tenant_quotas.kind IS 'What is counted (store.QuotaKind).';
COMMENT ON COLUMN tenant_quotas.max_count IS 'The most that there may be; the largest bigint is no limit; null for the service''s default.';
COMMENT ON COLUMN tenant_quotas.changed_at IS 'When an operator set it last; null where none has.';
COMMENT ON COLUMN tenant_quotas.changed_by IS 'Who did.';

ALTER TABLE api_tokens ADD COLUMN certificate_sha256 bytea CHECK (octet_length(certificate_sha256) = 32);
COMMENT ON COLUMN api_tokens.certificate_sha256 IS 'SHA-256 of the client certificate without which the token is refused (RFC 8705); null for none.';

INSERT INTO table_access (table_name, privileges) VALUES ('tenant_quotas', ARRAY['SELECT', 'INSERT', 'UPDATE']);
