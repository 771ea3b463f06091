CREATE TABLE machine_firmware (
    tenant_id  uuid NOT NULL,
    machine_id uuid NOT NULL,
    family     text NOT NULL,
    version    text NOT NULL,
    since      timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, machine_id),
    FOREIGN KEY (tenant_id, machine_id) REFERENCES machines ON DELETE CASCADE
);
CREATE INDEX machine_firmware_family ON machine_firmware (tenant_id, family, version);
COMMENT ON TABLE machine_firmware IS 'The firmware version that a machine''s genuine evidence showed last, where it can be compared with others.';
COMMENT ON COLUMN machine_firmware.tenant_id IS 'Owner.';
COMMENT ON COLUMN machine_firmware.family IS 'Which versions it can be compared with: maker and model (finding.FirmwareFamily).';
COMMENT ON COLUMN machine_firmware.version IS 'As it was measured (EV_S_CRTM_VERSION).';
COMMENT ON COLUMN machine_firmware.since IS 'When the machine first showed it, since it showed another.';
COMMENT ON COLUMN machine_firmware.machine_id IS 'The machine; it has one row.';
