DELETE FROM table_access WHERE table_name = 'tenant_quotas';
-- A token that is bound to a certificate must not become one that is bound to nothing.
DELETE FROM api_tokens WHERE certificate_sha256 IS NOT NULL;
ALTER TABLE api_tokens DROP COLUMN certificate_sha256;
DROP TABLE tenant_quotas;
