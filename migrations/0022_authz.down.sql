DROP TABLE role_bindings;
ALTER TABLE api_tokens DROP CONSTRAINT api_tokens_role_check;
-- What an earlier version does not know, or would not limit, it must not accept.
DELETE FROM api_tokens WHERE scope IS NOT NULL OR role NOT IN ('admin', 'reader', 'viewer', 'relying_party');
UPDATE api_tokens SET role = 'reader' WHERE role = 'viewer';
ALTER TABLE api_tokens DROP COLUMN created_by;
ALTER TABLE api_tokens DROP COLUMN owner;
ALTER TABLE api_tokens DROP COLUMN scope;
ALTER TABLE api_tokens ADD CONSTRAINT api_tokens_role_check CHECK (role IN ('admin', 'reader', 'relying_party'));
COMMENT ON COLUMN api_tokens.role IS 'admin; reader, who sees all; relying_party, who may only ask whether a result still holds.';
