-- Service keys are sealed under a key-encryption key, and those that sign results have a life: published, active, retiring,
-- gone. Code of the version before goes on with what is there as long as nothing is sealed.

ALTER TABLE service_keys
    ADD COLUMN kek_id         text,
    ADD COLUMN public_key     bytea,
    ADD COLUMN activated_at   timestamptz,
    ADD COLUMN revoked_at     timestamptz,
    ADD COLUMN revoked_reason text NOT NULL DEFAULT '',
    ADD COLUMN erased_at      timestamptz;
COMMENT ON TABLE service_keys IS 'Secret keys that all replicas of the service share: result signing, challenge MAC, token MAC. Whoever can read a key that is not sealed can impersonate the service.';
COMMENT ON COLUMN service_keys.generation IS 'Counts rotations from 1. Unique, so that of two replicas that make a key at once one does and both use it.';
COMMENT ON COLUMN service_keys.key IS 'The secret key in the encoding of its purpose; where kek_id is set, an envelope around it (package keyring). Empty once it was erased.';
COMMENT ON COLUMN service_keys.kek_id IS 'Id of the key-encryption key that seals the key; null where it is not sealed.';
COMMENT ON COLUMN service_keys.public_key IS 'Public half of a key that signs, PKIX DER; null of others, and of one that a version before this made.';
COMMENT ON COLUMN service_keys.activated_at IS 'From when a key signs; null while it is only published. Generation 1 signs from the beginning.';
COMMENT ON COLUMN service_keys.revoked_at IS 'When somebody declared the key compromised: it is published and accepted no more.';
COMMENT ON COLUMN service_keys.revoked_reason IS 'In his words.';
COMMENT ON COLUMN service_keys.erased_at IS 'When the secret key was overwritten, because nothing needs it any more.';

ALTER TABLE api_tokens DROP CONSTRAINT api_tokens_role_check;
ALTER TABLE api_tokens ADD CONSTRAINT api_tokens_role_check CHECK (role IN ('admin', 'reader', 'relying_party'));
COMMENT ON COLUMN api_tokens.role IS 'admin; reader, who sees all; relying_party, who may only ask whether a result still holds.';
