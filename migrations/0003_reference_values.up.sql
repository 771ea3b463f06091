-- What machines are judged against: policies, and baselines with their immutable versions.

CREATE TABLE policies (
    tenant_id       uuid NOT NULL REFERENCES tenants,
    policy_id       uuid NOT NULL,
    name            text NOT NULL,
    current_version integer NOT NULL CHECK (current_version > 0),
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, policy_id),
    CONSTRAINT policies_name UNIQUE (tenant_id, name)
);
COMMENT ON TABLE policies IS 'RFC 9334 appraisal policies for evidence. The policy named default exists in every tenant.';
COMMENT ON COLUMN policies.tenant_id IS 'Owner.';
COMMENT ON COLUMN policies.policy_id IS 'UUIDv7; stable over versions.';
COMMENT ON COLUMN policies.name IS 'Unique in the tenant.';
COMMENT ON COLUMN policies.current_version IS 'The version that is judged by.';
COMMENT ON COLUMN policies.created_at IS 'When version 1 was made.';

CREATE TABLE policy_versions (
    tenant_id  uuid NOT NULL,
    policy_id  uuid NOT NULL,
    version    integer NOT NULL CHECK (version > 0),
    body       json NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, policy_id, version),
    FOREIGN KEY (tenant_id, policy_id) REFERENCES policies
);
COMMENT ON TABLE policy_versions IS 'Immutable versions of policies; a verdict names the one that it was judged by.';
COMMENT ON COLUMN policy_versions.tenant_id IS 'Owner.';
COMMENT ON COLUMN policy_versions.policy_id IS 'The policy.';
COMMENT ON COLUMN policy_versions.version IS 'From 1, without gaps.';
COMMENT ON COLUMN policy_versions.body IS 'The policy object of the API.';
COMMENT ON COLUMN policy_versions.created_by IS 'Who made it.';
COMMENT ON COLUMN policy_versions.created_at IS 'When it was made.';

CREATE TABLE reference_values (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    digest     bytea NOT NULL CHECK (octet_length(digest) = 32),
    body       json NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, digest)
);
COMMENT ON TABLE reference_values IS 'RFC 9334 Reference Values, content-addressed: machines of one image that each learned a baseline share them.';
COMMENT ON COLUMN reference_values.tenant_id IS 'Owner.';
COMMENT ON COLUMN reference_values.digest IS 'SHA-256 of body as stored.';
COMMENT ON COLUMN reference_values.body IS 'The reference_values object of the API.';
COMMENT ON COLUMN reference_values.created_at IS 'When it was first stored.';

CREATE TABLE baselines (
    tenant_id       uuid NOT NULL REFERENCES tenants,
    baseline_id     uuid NOT NULL,
    name            text NOT NULL,
    selector        jsonb NOT NULL,
    machine_bound   boolean NOT NULL,
    newest_version  integer NOT NULL CHECK (newest_version > 0),
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, baseline_id),
    CONSTRAINT baselines_name UNIQUE (tenant_id, name)
);
CREATE INDEX baselines_fleet ON baselines (tenant_id, baseline_id) WHERE NOT machine_bound;
COMMENT ON TABLE baselines IS 'Golden baselines: a name, the machines that it is for, and its versions.';
COMMENT ON COLUMN baselines.tenant_id IS 'Owner.';
COMMENT ON COLUMN baselines.baseline_id IS 'UUIDv7; stable over versions.';
COMMENT ON COLUMN baselines.name IS 'Unique in the tenant.';
COMMENT ON COLUMN baselines.selector IS 'Which machines it is for: scale_set, labels, platform, machine_ids.';
COMMENT ON COLUMN baselines.machine_bound IS 'The selector names machine_ids: found by baseline_assignments, and not part of the cached configuration of the fleet.';
COMMENT ON COLUMN baselines.newest_version IS 'Highest version number given out; the next version locks this row, so numbers have no gaps.';
COMMENT ON COLUMN baselines.created_at IS 'When version 1 was made.';
COMMENT ON COLUMN baselines.updated_at IS 'Last change of the baseline or one of its versions.';

CREATE TABLE baseline_versions (
    tenant_id        uuid NOT NULL,
    baseline_id      uuid NOT NULL,
    version          integer NOT NULL CHECK (version > 0),
    state            text NOT NULL CHECK (state IN ('draft', 'active', 'grace', 'retired')),
    active_until     timestamptz,
    reference_digest bytea NOT NULL,
    provenance       json,
    origin           text NOT NULL CHECK (origin IN ('registered', 'captured', 'learned')),
    created_by       text NOT NULL,
    created_at       timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, baseline_id, version),
    FOREIGN KEY (tenant_id, baseline_id) REFERENCES baselines,
    FOREIGN KEY (tenant_id, reference_digest) REFERENCES reference_values
);
CREATE UNIQUE INDEX baseline_versions_active ON baseline_versions (tenant_id, baseline_id) WHERE state = 'active';
COMMENT ON TABLE baseline_versions IS 'Versions of baselines. Their reference values never change; their state does.';
COMMENT ON COLUMN baseline_versions.tenant_id IS 'Owner.';
COMMENT ON COLUMN baseline_versions.baseline_id IS 'The baseline.';
COMMENT ON COLUMN baseline_versions.version IS 'From 1, without gaps.';
COMMENT ON COLUMN baseline_versions.state IS 'draft: not judged against. active: at most one. grace: replaced, still valid until active_until. retired.';
COMMENT ON COLUMN baseline_versions.active_until IS 'End of grace.';
COMMENT ON COLUMN baseline_versions.reference_digest IS 'Its reference values.';
COMMENT ON COLUMN baseline_versions.provenance IS 'Where it comes from: repository, commit, build_url.';
COMMENT ON COLUMN baseline_versions.origin IS 'registered by a client, captured from a machine''s verdict, or learned at first boot.';
COMMENT ON COLUMN baseline_versions.created_by IS 'Who made it.';
COMMENT ON COLUMN baseline_versions.created_at IS 'When it was made.';

CREATE TABLE baseline_assignments (
    tenant_id   uuid NOT NULL,
    machine_id  uuid NOT NULL,
    baseline_id uuid NOT NULL,
    own         boolean NOT NULL,
    PRIMARY KEY (tenant_id, machine_id, baseline_id),
    FOREIGN KEY (tenant_id, baseline_id) REFERENCES baselines
);
COMMENT ON TABLE baseline_assignments IS 'Which machines a baseline names by id, the other way round, so that an appraisal finds them by machine.';
COMMENT ON COLUMN baseline_assignments.tenant_id IS 'Owner.';
COMMENT ON COLUMN baseline_assignments.machine_id IS 'A machine that the selector names; it need not exist yet.';
COMMENT ON COLUMN baseline_assignments.baseline_id IS 'The baseline.';
COMMENT ON COLUMN baseline_assignments.own IS 'The baseline was captured or learned from this machine for itself: nothing is learned again.';
