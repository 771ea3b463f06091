-- Fleet detection: what shows which machine answers, over time and over the whole inventory of one tenant.

CREATE TABLE machine_traits (
    tenant_id  uuid NOT NULL,
    machine_id uuid NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('ak', 'signer', 'vm', 'instance', 'guest', 'log_identity', 'mac', 'nvme', 'usb_serial', 'disk', 'partition')),
    digest     bytea NOT NULL CHECK (octet_length(digest) = 32),
    strong     boolean NOT NULL,
    seen_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, machine_id, kind, digest),
    FOREIGN KEY (tenant_id, machine_id) REFERENCES machines
);
CREATE INDEX machine_traits_digest ON machine_traits (tenant_id, kind, digest, machine_id);
COMMENT ON TABLE machine_traits IS 'What the machine''s last genuine evidence proved of which machine it is: a small set, replaced by each run of judgements that shows another.';
COMMENT ON COLUMN machine_traits.tenant_id IS 'Owner.';
COMMENT ON COLUMN machine_traits.machine_id IS 'The machine.';
COMMENT ON COLUMN machine_traits.kind IS 'ak: public key of the AK. signer: qualified name in its quotes. vm: the cloud''s id of the VM. instance: of an AK certificate. guest: REPORT_ID of an SEV-SNP report. log_identity: all strong traits of the boot log and its disks together. Others: single facts of the boot log.';
COMMENT ON COLUMN machine_traits.digest IS 'SHA-256 over tenant, kind and value: the value itself stands in the verdict, and equal values of two tenants are not equal here.';
COMMENT ON COLUMN machine_traits.strong IS 'No two machines may have it. Others only support what a strong one says.';
COMMENT ON COLUMN machine_traits.seen_at IS 'When it was first proved.';

CREATE TABLE tpm_history (
    tenant_id        uuid NOT NULL,
    key_id           uuid NOT NULL,
    reset_count      bigint NOT NULL,
    restart_count    bigint NOT NULL,
    selection        text NOT NULL,
    boot             bytea NOT NULL CHECK (octet_length(boot) = 32),
    machine_id       uuid NOT NULL,
    logged           boolean NOT NULL,
    firmware_version bigint NOT NULL,
    clock            bigint NOT NULL,
    first_at         timestamptz NOT NULL,
    last_clock       bigint NOT NULL,
    last_at          timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, key_id, reset_count, restart_count, selection, boot),
    FOREIGN KEY (tenant_id, machine_id) REFERENCES machines
);
CREATE INDEX tpm_history_instant ON tpm_history (tenant_id, clock, reset_count, restart_count);
COMMENT ON TABLE tpm_history IS 'The life of a TPM as its AK told it in genuine quotes: a row a boot, not an attestation. Of a key the last 64 rows are kept.';
COMMENT ON COLUMN tpm_history.tenant_id IS 'Owner.';
COMMENT ON COLUMN tpm_history.key_id IS 'attestation_keys row of the AK.';
COMMENT ON COLUMN tpm_history.reset_count IS 'TPMS_CLOCK_INFO.resetCount.';
COMMENT ON COLUMN tpm_history.restart_count IS 'TPMS_CLOCK_INFO.restartCount.';
COMMENT ON COLUMN tpm_history.selection IS 'Bank and which of PCR 0 to 7 boot is made of; rows of different selections say nothing of one another.';
COMMENT ON COLUMN tpm_history.boot IS 'SHA-256 over the quoted values of PCR 0 to 7: what firmware measured, which does not change until the TPM is reset.';
COMMENT ON COLUMN tpm_history.machine_id IS 'The machine that it answered for.';
COMMENT ON COLUMN tpm_history.logged IS 'A boot log explained the quote.';
COMMENT ON COLUMN tpm_history.firmware_version IS 'TPMS_ATTEST.firmwareVersion; the 64 bits of the unsigned value.';
COMMENT ON COLUMN tpm_history.clock IS 'TPMS_CLOCK_INFO.clock of the first such quote, milliseconds.';
COMMENT ON COLUMN tpm_history.first_at IS 'When that came.';
COMMENT ON COLUMN tpm_history.last_clock IS 'Clock of the last quote that began a run of judgements.';
COMMENT ON COLUMN tpm_history.last_at IS 'When that came.';

CREATE TABLE fleet_changes (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    change_id  uuid NOT NULL,
    machine_id uuid NOT NULL,
    noted_at   timestamptz NOT NULL,
    sighting   jsonb,
    PRIMARY KEY (tenant_id, change_id)
);
COMMENT ON TABLE fleet_changes IS 'Machines whose traits or history changed, and conflicts that were seen, for the job that compares them with the fleet. It deletes what it has looked at in the transaction that writes what it found.';
COMMENT ON COLUMN fleet_changes.tenant_id IS 'Owner.';
COMMENT ON COLUMN fleet_changes.change_id IS 'UUIDv7; where a verdict brought the change, its id. Each change has a row of its own, so that whoever notes one waits for nobody.';
COMMENT ON COLUMN fleet_changes.machine_id IS 'The machine.';
COMMENT ON COLUMN fleet_changes.noted_at IS 'When it changed.';
COMMENT ON COLUMN fleet_changes.sighting IS 'The conflict that was seen; null where the machine has to be compared.';

CREATE TABLE fleet_conflicts (
    tenant_id     uuid NOT NULL REFERENCES tenants,
    conflict_id   uuid NOT NULL,
    code          text NOT NULL CHECK (code IN ('identity_conflict', 'rollback_detected')),
    kind          text NOT NULL CHECK (kind IN ('ek_shared', 'ak_shared', 'vm_shared', 'name_claimed', 'quote_relayed', 'log_of_other', 'series_shared', 'clock_back', 'reset_back', 'history_forked')),
    machine_id    uuid NOT NULL,
    other_id      uuid,
    subject       text NOT NULL,
    key_id        uuid,
    other_key_id  uuid,
    details       jsonb NOT NULL,
    first_seen_at timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL,
    seen_count    bigint NOT NULL DEFAULT 1,
    ended_at      timestamptz,
    ended_why     text NOT NULL DEFAULT '' CHECK (ended_why IN ('', 'key_ended', 'no_longer_shared', 'closed_by_hand')),
    PRIMARY KEY (tenant_id, conflict_id),
    FOREIGN KEY (tenant_id, machine_id) REFERENCES machines,
    FOREIGN KEY (tenant_id, other_id) REFERENCES machines (tenant_id, machine_id)
);
CREATE UNIQUE INDEX fleet_conflicts_open ON fleet_conflicts (tenant_id, kind, machine_id, subject) WHERE ended_at IS NULL;
CREATE INDEX fleet_conflicts_machine ON fleet_conflicts (tenant_id, machine_id) WHERE ended_at IS NULL;
CREATE INDEX fleet_conflicts_other ON fleet_conflicts (tenant_id, other_id) WHERE ended_at IS NULL AND other_id IS NOT NULL;
COMMENT ON TABLE fleet_conflicts IS 'Two machines that cannot both be what they say, or one TPM with two histories. Both machines of a pair have an alert while a row of theirs is open.';
COMMENT ON COLUMN fleet_conflicts.tenant_id IS 'Owner. No conflict is ever looked for over two tenants.';
COMMENT ON COLUMN fleet_conflicts.conflict_id IS 'UUIDv7.';
COMMENT ON COLUMN fleet_conflicts.code IS 'The alert that it raises.';
COMMENT ON COLUMN fleet_conflicts.kind IS 'What was seen.';
COMMENT ON COLUMN fleet_conflicts.machine_id IS 'The machine: of a pair that both have it the one that was known first.';
COMMENT ON COLUMN fleet_conflicts.other_id IS 'The other machine; null where it has only a name, or where one TPM is two.';
COMMENT ON COLUMN fleet_conflicts.subject IS 'With kind and machine_id what makes it one conflict: the other machine''s id, or the name that was claimed.';
COMMENT ON COLUMN fleet_conflicts.key_id IS 'The machine''s active key at that time; null if it had none. With another key the conflict is gone.';
COMMENT ON COLUMN fleet_conflicts.other_key_id IS 'The same of the other machine.';
COMMENT ON COLUMN fleet_conflicts.details IS 'The FleetConflictDetails of the API.';
COMMENT ON COLUMN fleet_conflicts.first_seen_at IS 'First occurrence.';
COMMENT ON COLUMN fleet_conflicts.last_seen_at IS 'Last occurrence.';
COMMENT ON COLUMN fleet_conflicts.seen_count IS 'Occurrences.';
COMMENT ON COLUMN fleet_conflicts.ended_at IS 'When it was gone; null while it stands.';
COMMENT ON COLUMN fleet_conflicts.ended_why IS 'key_ended: a key of the pair was replaced or revoked. no_longer_shared: the evidence shows it no more. closed_by_hand: somebody closed the alerts of an event that does not last.';
