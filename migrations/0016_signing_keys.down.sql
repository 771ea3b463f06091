-- Sealed keys mean nothing to the version before: it would sign with envelopes. They are opened first, by assayd keys rewrap --plain.
DO $$ BEGIN
    IF EXISTS (SELECT FROM service_keys WHERE kek_id IS NOT NULL) THEN
        RAISE EXCEPTION 'service keys are sealed: run assayd keys rewrap --plain first';
    END IF;
END $$;
-- The version before signs with the newest generation: what is not active, or was withdrawn, must not be it.
DELETE FROM service_keys WHERE erased_at IS NOT NULL OR revoked_at IS NOT NULL OR purpose = 'result_signing_es256';
DELETE FROM service_keys WHERE purpose = 'result_signing' AND generation > 1 AND (activated_at IS NULL OR activated_at > now());
ALTER TABLE service_keys
    DROP COLUMN erased_at,
    DROP COLUMN revoked_reason,
    DROP COLUMN revoked_at,
    DROP COLUMN activated_at,
    DROP COLUMN public_key,
    DROP COLUMN kek_id;
COMMENT ON TABLE service_keys IS 'Secret keys that all replicas of the service share: result signing, challenge MAC, token MAC. Whoever can read this table can impersonate the service.';
COMMENT ON COLUMN service_keys.generation IS 'Counts rotations from 1. Unique, so that of two replicas that start together one makes the key and both use it.';
COMMENT ON COLUMN service_keys.key IS 'The secret key, in the encoding of its purpose.';

DELETE FROM api_tokens WHERE role = 'relying_party';
ALTER TABLE api_tokens DROP CONSTRAINT api_tokens_role_check;
ALTER TABLE api_tokens ADD CONSTRAINT api_tokens_role_check CHECK (role IN ('admin', 'reader'));
COMMENT ON COLUMN api_tokens.role IS 'What the bearer may do: admin or reader.';
