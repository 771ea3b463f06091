-- Who may do what, and for which machines: more roles, tokens that are limited to some machines, people by identity tokens.

ALTER TABLE api_tokens ADD COLUMN scope jsonb CHECK (scope IS NULL OR jsonb_typeof(scope) = 'array' AND jsonb_array_length(scope) > 0);
COMMENT ON COLUMN api_tokens.scope IS 'Selectors, of which one has to choose a machine for the bearer to have the role there; null for the whole tenant.';
ALTER TABLE api_tokens DROP CONSTRAINT api_tokens_role_check;
-- Not checked of the rows that are there: each has one of the roles that were before, which are among these.
ALTER TABLE api_tokens ADD CONSTRAINT api_tokens_role_check CHECK ((scope IS NOT NULL) = (role LIKE 'scoped:%') AND replace(role, 'scoped:', '') IN
    ('admin', 'reader', 'viewer', 'responder', 'baseline_author', 'baseline_approver', 'operator', 'relying_party')) NOT VALID;
COMMENT ON COLUMN api_tokens.role IS 'The role that the bearer has, with "scoped:" before it where there is a scope: a version of the service that knows of no scopes knows no such role either, and refuses the token. reader is the same as viewer, and older.';
ALTER TABLE api_tokens ADD COLUMN owner text NOT NULL DEFAULT '';
COMMENT ON COLUMN api_tokens.owner IS 'The person that the token is of, as person:issuer|subject; empty where nobody has said. What is done by it counts as done by that person.';
ALTER TABLE api_tokens ADD COLUMN created_by text NOT NULL DEFAULT '';
COMMENT ON COLUMN api_tokens.created_by IS 'Who made it; empty where it was made before this column.';

CREATE TABLE role_bindings (
    tenant_id   uuid NOT NULL,
    binding_id  uuid NOT NULL,
    provider_id uuid NOT NULL,
    name        text NOT NULL,
    role        text NOT NULL CHECK (role IN
        ('admin', 'reader', 'viewer', 'responder', 'baseline_author', 'baseline_approver', 'operator', 'relying_party')),
    scope       jsonb CHECK (scope IS NULL OR jsonb_typeof(scope) = 'array' AND jsonb_array_length(scope) > 0),
    body        jsonb NOT NULL,
    created_by  text NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, binding_id),
    FOREIGN KEY (tenant_id, provider_id) REFERENCES identity_providers,
    CONSTRAINT role_bindings_name UNIQUE (tenant_id, name)
);
CREATE INDEX role_bindings_provider ON role_bindings (tenant_id, provider_id);
COMMENT ON TABLE role_bindings IS 'Which people have which role. An identity token that no binding admits is no person.';
COMMENT ON COLUMN role_bindings.tenant_id IS 'Owner.';
COMMENT ON COLUMN role_bindings.binding_id IS 'UUIDv7.';
COMMENT ON COLUMN role_bindings.provider_id IS 'Whose tokens it is about.';
COMMENT ON COLUMN role_bindings.name IS 'Unique in the tenant.';
COMMENT ON COLUMN role_bindings.role IS 'The role that it gives.';
COMMENT ON COLUMN role_bindings.scope IS 'As in api_tokens.';
COMMENT ON COLUMN role_bindings.body IS 'Conditions on subject and claims: those of the API''s object.';
COMMENT ON COLUMN role_bindings.created_by IS 'Who made it.';
COMMENT ON COLUMN role_bindings.created_at IS 'When it was made.';
COMMENT ON COLUMN role_bindings.updated_at IS 'Last change.';
