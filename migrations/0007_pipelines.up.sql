-- Pipelines without secrets: issuers of identity tokens, and which of their identities may write which baseline.

CREATE TABLE identity_providers (
    tenant_id          uuid NOT NULL REFERENCES tenants,
    provider_id        uuid NOT NULL,
    name               text NOT NULL,
    issuer             text NOT NULL,
    algorithms         text[] NOT NULL,
    max_token_lifetime integer NOT NULL CHECK (max_token_lifetime > 0),
    enabled            boolean NOT NULL,
    jwks               bytea,
    jwks_fetched_at    timestamptz,
    jwks_expires_at    timestamptz,
    created_by         text NOT NULL,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, provider_id),
    CONSTRAINT identity_providers_name UNIQUE (tenant_id, name),
    CHECK ((jwks IS NULL) = (jwks_fetched_at IS NULL) AND (jwks IS NULL) = (jwks_expires_at IS NULL))
);
COMMENT ON TABLE identity_providers IS 'OpenID Connect issuers whose tokens prove who calls. Nobody may do anything by that alone: see pipeline_rules.';
COMMENT ON COLUMN identity_providers.tenant_id IS 'Owner.';
COMMENT ON COLUMN identity_providers.provider_id IS 'UUIDv7.';
COMMENT ON COLUMN identity_providers.name IS 'Unique in the tenant.';
COMMENT ON COLUMN identity_providers.issuer IS 'The claim iss, exactly. It never changes: rules rest on it.';
COMMENT ON COLUMN identity_providers.algorithms IS 'JWS algorithms that its tokens may be signed with.';
COMMENT ON COLUMN identity_providers.max_token_lifetime IS 'Longest time from iat to exp that is accepted, in seconds.';
COMMENT ON COLUMN identity_providers.enabled IS 'Whether its tokens are accepted.';
COMMENT ON COLUMN identity_providers.jwks IS 'The issuer''s keys as last fetched, so that a restart does not depend on the issuer; null before the first token and after each change of the provider.';
COMMENT ON COLUMN identity_providers.jwks_fetched_at IS 'When they were fetched.';
COMMENT ON COLUMN identity_providers.jwks_expires_at IS 'From then on they are not used.';
COMMENT ON COLUMN identity_providers.created_by IS 'Who made it.';
COMMENT ON COLUMN identity_providers.created_at IS 'When it was made.';
COMMENT ON COLUMN identity_providers.updated_at IS 'Last change by an administrator. Keys that were fetched for an earlier state are not stored.';

CREATE TABLE identity_provider_audiences (
    tenant_id   uuid NOT NULL,
    issuer      text NOT NULL,
    audience    text NOT NULL,
    provider_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, issuer, audience),
    FOREIGN KEY (tenant_id, provider_id) REFERENCES identity_providers ON DELETE CASCADE
);
CREATE INDEX identity_provider_audiences_provider ON identity_provider_audiences (tenant_id, provider_id);
COMMENT ON TABLE identity_provider_audiences IS 'What a token must be made out to. Issuer and audience say which provider is meant; the audience''s text says which tenant.';
COMMENT ON COLUMN identity_provider_audiences.tenant_id IS 'Owner.';
COMMENT ON COLUMN identity_provider_audiences.issuer IS 'As in identity_providers.';
COMMENT ON COLUMN identity_provider_audiences.audience IS 'The claim aud holds it, exactly.';
COMMENT ON COLUMN identity_provider_audiences.provider_id IS 'The provider.';

CREATE TABLE pipeline_rules (
    tenant_id   uuid NOT NULL,
    rule_id     uuid NOT NULL,
    provider_id uuid NOT NULL,
    name        text NOT NULL,
    body        jsonb NOT NULL,
    created_by  text NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, rule_id),
    FOREIGN KEY (tenant_id, provider_id) REFERENCES identity_providers,
    CONSTRAINT pipeline_rules_name UNIQUE (tenant_id, name)
);
CREATE INDEX pipeline_rules_provider ON pipeline_rules (tenant_id, provider_id);
COMMENT ON TABLE pipeline_rules IS 'Which pipelines may write which baselines. What no rule allows is refused.';
COMMENT ON COLUMN pipeline_rules.tenant_id IS 'Owner.';
COMMENT ON COLUMN pipeline_rules.rule_id IS 'UUIDv7.';
COMMENT ON COLUMN pipeline_rules.provider_id IS 'Whose tokens it is about.';
COMMENT ON COLUMN pipeline_rules.name IS 'Unique in the tenant.';
COMMENT ON COLUMN pipeline_rules.body IS 'Conditions on subject and claims, and what is allowed: the rule object of the API.';
COMMENT ON COLUMN pipeline_rules.created_by IS 'Who made it.';
COMMENT ON COLUMN pipeline_rules.created_at IS 'When it was made.';
COMMENT ON COLUMN pipeline_rules.updated_at IS 'Last change.';
