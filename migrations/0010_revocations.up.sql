-- What is known to be bad, as far as a tenant adds to what comes with the service.

CREATE TABLE revocations (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    kind       text NOT NULL CHECK (kind IN ('dbx', 'dbx_info', 'sbat_level')),
    digest     bytea NOT NULL CHECK (octet_length(digest) = 32),
    version    text NOT NULL,
    entries    integer NOT NULL,
    body       bytea NOT NULL,
    created_at timestamptz NOT NULL,
    created_by text NOT NULL,
    PRIMARY KEY (tenant_id, kind, digest)
);
COMMENT ON TABLE revocations IS 'Revocations that administrators imported: signed updates of dbx, lists that explain dbx, SBAT levels. They add to what is shipped and take nothing away.';
COMMENT ON COLUMN revocations.tenant_id IS 'Owner.';
COMMENT ON COLUMN revocations.kind IS 'dbx: signed updates, several at once. dbx_info, sbat_level: at most one, replaced by a newer one.';
COMMENT ON COLUMN revocations.digest IS 'SHA-256 of the body.';
COMMENT ON COLUMN revocations.version IS 'Date as the body states it; empty of dbx, whose updates all state the same.';
COMMENT ON COLUMN revocations.entries IS 'How many things it revokes or explains.';
COMMENT ON COLUMN revocations.body IS 'As it was imported. The signature of a dbx update was verified then.';
COMMENT ON COLUMN revocations.created_at IS 'When it was imported.';
COMMENT ON COLUMN revocations.created_by IS 'Who imported it.';
