-- The inventory, how machines prove who they are, and the one hot row a machine.

CREATE TABLE machines (
    tenant_id                       uuid NOT NULL REFERENCES tenants,
    machine_id                      uuid NOT NULL,
    external_id                     text NOT NULL DEFAULT '',
    name                            text NOT NULL,
    os                              text NOT NULL DEFAULT '' CHECK (os IN ('', 'linux', 'windows')),
    platform                        text NOT NULL DEFAULT '' CHECK (platform IN ('', 'azure', 'gcp', 'aws', 'vmware', 'qemu', 'physical', 'other')),
    security_type                   text NOT NULL DEFAULT '' CHECK (security_type IN ('', 'confidential_snp', 'confidential_tdx', 'trusted_launch', 'standard', 'physical')),
    scale_set                       text NOT NULL DEFAULT '',
    labels                          jsonb NOT NULL DEFAULT '{}',
    declared_secure_boot_supported  boolean,
    declared_secure_boot            boolean,
    declared_vtpm                   boolean,
    declared_agent_installed        boolean,
    observed_secure_boot_supported  boolean,
    observed_secure_boot            boolean,
    observed_vtpm                   boolean,
    observed_agent_installed        boolean,
    state                           text NOT NULL CHECK (state IN ('registered', 'enrolling', 'active')),
    status                          text NOT NULL DEFAULT 'none' CHECK (status IN ('none', 'affirming', 'warning', 'contraindicated')),
    reason                          text NOT NULL DEFAULT '' CHECK (reason IN ('', 'origin_unverified', 'baseline_deviation')),
    assurance                       text NOT NULL DEFAULT '' CHECK (assurance IN ('', 'tee_bound', 'ek_activated', 'ak_certified', 'first_use')),
    last_verdict_id                 uuid,
    ek_public                       bytea,
    ek_fingerprint                  bytea CHECK (octet_length(ek_fingerprint) = 32),
    created_at                      timestamptz NOT NULL,
    updated_at                      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, machine_id)
);
CREATE UNIQUE INDEX machines_external_id ON machines (tenant_id, external_id) WHERE external_id <> '';
CREATE UNIQUE INDEX machines_plain_name ON machines (tenant_id, name) WHERE external_id = '';
CREATE UNIQUE INDEX machines_ek ON machines (tenant_id, ek_fingerprint) WHERE ek_fingerprint IS NOT NULL;
CREATE INDEX machines_name ON machines (tenant_id, name, machine_id);
CREATE INDEX machines_scale_set ON machines (tenant_id, scale_set, machine_id);
CREATE INDEX machines_labels ON machines USING gin (labels);
COMMENT ON TABLE machines IS 'The inventory: RFC 9334 Attesters, and machines that have no agent yet. Changes only when something about the machine changes.';
COMMENT ON COLUMN machines.tenant_id IS 'Owner.';
COMMENT ON COLUMN machines.machine_id IS 'UUIDv7.';
COMMENT ON COLUMN machines.external_id IS 'Id in the cloud or CMDB; unique in the tenant where not empty.';
COMMENT ON COLUMN machines.name IS 'Name for people; unique only among machines without external_id.';
COMMENT ON COLUMN machines.os IS 'linux or windows; empty if unknown.';
COMMENT ON COLUMN machines.platform IS 'Where it runs; empty if unknown.';
COMMENT ON COLUMN machines.security_type IS 'Kind of (virtual) machine; empty if unknown.';
COMMENT ON COLUMN machines.scale_set IS 'Scale set or pool; empty for a single machine.';
COMMENT ON COLUMN machines.labels IS 'Object of text to text.';
COMMENT ON COLUMN machines.declared_secure_boot_supported IS 'What the inventory says; null if it says nothing.';
COMMENT ON COLUMN machines.declared_secure_boot IS 'What the inventory says; null if it says nothing.';
COMMENT ON COLUMN machines.declared_vtpm IS 'What the inventory says; null if it says nothing.';
COMMENT ON COLUMN machines.declared_agent_installed IS 'What the inventory says; null if it says nothing.';
COMMENT ON COLUMN machines.observed_secure_boot_supported IS 'What attestation proved; wins over declared; null if unknown.';
COMMENT ON COLUMN machines.observed_secure_boot IS 'What attestation proved; wins over declared; null if unknown.';
COMMENT ON COLUMN machines.observed_vtpm IS 'What attestation proved; wins over declared; null if unknown.';
COMMENT ON COLUMN machines.observed_agent_installed IS 'What attestation proved; wins over declared; null if unknown.';
COMMENT ON COLUMN machines.state IS 'registered: inventory only. enrolling: made by an enrolment whose key awaits activation. active: an attestation key is active.';
COMMENT ON COLUMN machines.status IS 'Status of the last verdict; none without one.';
COMMENT ON COLUMN machines.reason IS 'Reason of the last verdict; empty for none.';
COMMENT ON COLUMN machines.assurance IS 'Of the last verdict, or of the active key before the first verdict; empty without a key.';
COMMENT ON COLUMN machines.last_verdict_id IS 'The verdict that stands; null before the first.';
COMMENT ON COLUMN machines.ek_public IS 'The EK that the machine enrolled with, DER SubjectPublicKeyInfo; another EK is an identity conflict. Null while unclaimed.';
COMMENT ON COLUMN machines.ek_fingerprint IS 'SHA-256 of ek_public; unique in the tenant: one EK is one machine.';
COMMENT ON COLUMN machines.created_at IS 'When it was first known.';
COMMENT ON COLUMN machines.updated_at IS 'Last change of this row.';

CREATE TABLE attestation_keys (
    tenant_id      uuid NOT NULL,
    key_id         uuid NOT NULL,
    machine_id     uuid NOT NULL,
    ak_public      bytea NOT NULL,
    ak_name        bytea NOT NULL,
    ek_public      bytea,
    ek_certificate bytea,
    assurance      text NOT NULL CHECK (assurance IN ('tee_bound', 'ek_activated', 'ak_certified', 'first_use')),
    state          text NOT NULL CHECK (state IN ('active', 'replaced', 'revoked')),
    evidence       json,
    created_at     timestamptz NOT NULL,
    ended_at       timestamptz,
    PRIMARY KEY (tenant_id, key_id),
    FOREIGN KEY (tenant_id, machine_id) REFERENCES machines
);
CREATE UNIQUE INDEX attestation_keys_active_machine ON attestation_keys (tenant_id, machine_id) WHERE state = 'active';
CREATE UNIQUE INDEX attestation_keys_active_name ON attestation_keys (tenant_id, ak_name) WHERE state = 'active';
COMMENT ON TABLE attestation_keys IS 'AKs that machines proved, or that somebody vouched for. One is active for a machine, and an active AK answers for one machine only.';
COMMENT ON COLUMN attestation_keys.tenant_id IS 'Owner.';
COMMENT ON COLUMN attestation_keys.key_id IS 'UUIDv7.';
COMMENT ON COLUMN attestation_keys.machine_id IS 'The machine it answers for.';
COMMENT ON COLUMN attestation_keys.ak_public IS 'TPMT_PUBLIC (TPM 2.0 Part 2, section 12.2.4).';
COMMENT ON COLUMN attestation_keys.ak_name IS 'Name: nameAlg and the digest of the public area (TPM 2.0 Part 1, section 16).';
COMMENT ON COLUMN attestation_keys.ek_public IS 'EK that it was proved against, DER SubjectPublicKeyInfo; null if none.';
COMMENT ON COLUMN attestation_keys.ek_certificate IS 'DER; null if none.';
COMMENT ON COLUMN attestation_keys.assurance IS 'How it was proved to be of this machine''s own TPM.';
COMMENT ON COLUMN attestation_keys.state IS 'active, replaced by another key, or revoked.';
COMMENT ON COLUMN attestation_keys.evidence IS 'What proved it, for people: certificate subjects, fingerprints, comment.';
COMMENT ON COLUMN attestation_keys.created_at IS 'When it became active.';
COMMENT ON COLUMN attestation_keys.ended_at IS 'When it was replaced or revoked.';

CREATE TABLE enrollments (
    tenant_id      uuid NOT NULL,
    enrollment_id  uuid NOT NULL,
    machine_id     uuid NOT NULL,
    status         text NOT NULL CHECK (status IN ('activation_required', 'active', 'failed', 'expired')),
    ak_public      bytea NOT NULL,
    ak_name        bytea NOT NULL,
    ek_public      bytea,
    ek_certificate bytea,
    inventory      jsonb NOT NULL,
    made_machine   boolean NOT NULL,
    secret_hash    bytea CHECK (octet_length(secret_hash) = 32),
    assurance      text NOT NULL CHECK (assurance IN ('tee_bound', 'ek_activated', 'ak_certified', 'first_use')),
    evidence       json,
    key_id         uuid,
    expires_at     timestamptz NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, enrollment_id),
    FOREIGN KEY (tenant_id, machine_id) REFERENCES machines
);
CREATE INDEX enrollments_pending ON enrollments (tenant_id, machine_id) WHERE status = 'activation_required';
CREATE INDEX enrollments_pending_ak ON enrollments (tenant_id, ak_name) WHERE status = 'activation_required';
COMMENT ON TABLE enrollments IS 'Requests of machines to become known, each with one try to activate its credential.';
COMMENT ON COLUMN enrollments.tenant_id IS 'Owner.';
COMMENT ON COLUMN enrollments.enrollment_id IS 'UUIDv7.';
COMMENT ON COLUMN enrollments.machine_id IS 'The machine that it is about.';
COMMENT ON COLUMN enrollments.status IS 'activation_required until the one try, the expiry, or success.';
COMMENT ON COLUMN enrollments.ak_public IS 'TPMT_PUBLIC to be proved.';
COMMENT ON COLUMN enrollments.ak_name IS 'Its Name.';
COMMENT ON COLUMN enrollments.ek_public IS 'EK that must open the credential, DER SubjectPublicKeyInfo; null if none.';
COMMENT ON COLUMN enrollments.ek_certificate IS 'DER; null if none.';
COMMENT ON COLUMN enrollments.inventory IS 'What the machine claims of itself and what its join token forces, written to machines once the key is proved.';
COMMENT ON COLUMN enrollments.made_machine IS 'The machine was not known before; its name is nobody''s proved word until a key is.';
COMMENT ON COLUMN enrollments.secret_hash IS 'SHA-256 of the credential''s secret; null where nothing has to be activated, or once tried.';
COMMENT ON COLUMN enrollments.assurance IS 'What the key will have once active.';
COMMENT ON COLUMN enrollments.evidence IS 'What proves the key, for people.';
COMMENT ON COLUMN enrollments.key_id IS 'attestation_keys row, once active.';
COMMENT ON COLUMN enrollments.expires_at IS 'End of the one try.';
COMMENT ON COLUMN enrollments.created_at IS 'When it was asked for.';
COMMENT ON COLUMN enrollments.updated_at IS 'Last change of status.';

-- fillfactor leaves room for a new version of the row in its page, and no changing column is indexed: the
-- update of an unchanged attestation is heap-only (HOT) and touches one page.
CREATE TABLE machine_attestation_state (
    tenant_id        uuid NOT NULL,
    machine_id       uuid NOT NULL,
    last_challenge   bytea,
    verdict_id       uuid,
    fingerprint      bytea,
    run_count        bigint NOT NULL DEFAULT 0,
    run_last_at      timestamptz,
    last_seen_at     timestamptz,
    next_due_at      timestamptz,
    clock_key_id     uuid,
    clock            bigint,
    reset_count      bigint,
    restart_count    bigint,
    clock_safe       boolean,
    firmware_version bigint,
    last_log         bytea,
    ima_state        json,
    genuine_verdict_id uuid,
    PRIMARY KEY (tenant_id, machine_id),
    FOREIGN KEY (tenant_id, machine_id) REFERENCES machines
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.1);
COMMENT ON TABLE machine_attestation_state IS 'The hot row of a machine: all that an unchanged attestation writes. The end of the current verdict run is here, and is copied to verdicts when the run ends.';
COMMENT ON COLUMN machine_attestation_state.tenant_id IS 'Owner.';
COMMENT ON COLUMN machine_attestation_state.machine_id IS 'The machine.';
COMMENT ON COLUMN machine_attestation_state.last_challenge IS 'Order key of the last redeemed challenge; only ever grows, which is what makes a nonce good once.';
COMMENT ON COLUMN machine_attestation_state.verdict_id IS 'The verdict run that an identical judgement extends; null before the first.';
COMMENT ON COLUMN machine_attestation_state.fingerprint IS 'Of the judgement of that run.';
COMMENT ON COLUMN machine_attestation_state.run_count IS 'Attestations in that run.';
COMMENT ON COLUMN machine_attestation_state.run_last_at IS 'The last of them.';
COMMENT ON COLUMN machine_attestation_state.last_seen_at IS 'Last genuine evidence.';
COMMENT ON COLUMN machine_attestation_state.next_due_at IS 'When the next evidence is expected.';
COMMENT ON COLUMN machine_attestation_state.clock_key_id IS 'The AK whose quote the clock columns are of; they mean nothing for another AK.';
COMMENT ON COLUMN machine_attestation_state.clock IS 'TPMS_CLOCK_INFO.clock of the last genuine quote, milliseconds; the 64 bits of the unsigned value.';
COMMENT ON COLUMN machine_attestation_state.reset_count IS 'TPMS_CLOCK_INFO.resetCount: boots.';
COMMENT ON COLUMN machine_attestation_state.restart_count IS 'TPMS_CLOCK_INFO.restartCount: resumes.';
COMMENT ON COLUMN machine_attestation_state.clock_safe IS 'TPMS_CLOCK_INFO.safe.';
COMMENT ON COLUMN machine_attestation_state.firmware_version IS 'TPMS_ATTEST.firmwareVersion; the 64 bits of the unsigned value.';
COMMENT ON COLUMN machine_attestation_state.last_log IS 'SHA-256 of the event log of the last genuine verdict; null if it had none.';
COMMENT ON COLUMN machine_attestation_state.ima_state IS 'How far the IMA list of this boot has been read: entries, and PCR 10 of each bank after them.';
COMMENT ON COLUMN machine_attestation_state.genuine_verdict_id IS 'The last verdict of genuine evidence: what a baseline can be captured from.';

CREATE TABLE trust_anchors (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    anchor_id  uuid NOT NULL,
    name       text NOT NULL,
    purpose    text NOT NULL CHECK (purpose IN ('ek', 'ak', 'snp', 'tdx', 'reference_values')),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, anchor_id)
);
COMMENT ON TABLE trust_anchors IS 'Roots and intermediates that the tenant trusts, by purpose. Vendor roots are data, not code.';
COMMENT ON COLUMN trust_anchors.tenant_id IS 'Owner.';
COMMENT ON COLUMN trust_anchors.anchor_id IS 'UUIDv7.';
COMMENT ON COLUMN trust_anchors.name IS 'Name for people.';
COMMENT ON COLUMN trust_anchors.purpose IS 'What chains may end in it.';
COMMENT ON COLUMN trust_anchors.created_by IS 'Who added it.';
COMMENT ON COLUMN trust_anchors.created_at IS 'When it was added.';

CREATE TABLE trust_anchor_certificates (
    tenant_id   uuid NOT NULL,
    anchor_id   uuid NOT NULL,
    position    integer NOT NULL,
    der         bytea NOT NULL,
    subject     text NOT NULL,
    fingerprint text NOT NULL,
    not_after   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, anchor_id, position),
    FOREIGN KEY (tenant_id, anchor_id) REFERENCES trust_anchors ON DELETE CASCADE
);
COMMENT ON TABLE trust_anchor_certificates IS 'The certificates of an anchor.';
COMMENT ON COLUMN trust_anchor_certificates.tenant_id IS 'Owner.';
COMMENT ON COLUMN trust_anchor_certificates.anchor_id IS 'The anchor.';
COMMENT ON COLUMN trust_anchor_certificates.position IS 'Order in which they were given, from 0.';
COMMENT ON COLUMN trust_anchor_certificates.der IS 'X.509 certificate.';
COMMENT ON COLUMN trust_anchor_certificates.subject IS 'For people.';
COMMENT ON COLUMN trust_anchor_certificates.fingerprint IS 'SHA-256 of der in lower-case hex.';
COMMENT ON COLUMN trust_anchor_certificates.not_after IS 'End of its validity.';
