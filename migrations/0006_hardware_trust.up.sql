-- Confidential VMs: anchors that can be switched off, what hardware evidence is checked with, and what it proved.

ALTER TABLE trust_anchors
    ADD COLUMN origin  text NOT NULL DEFAULT 'tenant' CHECK (origin IN ('tenant', 'shipped')),
    ADD COLUMN enabled boolean NOT NULL DEFAULT true,
    ADD COLUMN source  text NOT NULL DEFAULT '';
COMMENT ON COLUMN trust_anchors.origin IS 'tenant: added by an administrator. shipped: came with the service, can be disabled but not deleted.';
COMMENT ON COLUMN trust_anchors.enabled IS 'Whether chains may end in it. The service never changes it by itself.';
COMMENT ON COLUMN trust_anchors.source IS 'Where a shipped anchor''s certificates come from; empty for the tenant''s own.';
CREATE INDEX trust_anchor_certificates_fingerprint ON trust_anchor_certificates (tenant_id, fingerprint);

ALTER TABLE attestation_keys
    ADD COLUMN kind                  text NOT NULL DEFAULT 'tpm' CHECK (kind IN ('tpm', 'tee')),
    ADD COLUMN anchor_fingerprint    text,
    ADD COLUMN certificate_not_after timestamptz;
CREATE INDEX attestation_keys_anchor ON attestation_keys (tenant_id, anchor_fingerprint) WHERE state = 'active' AND anchor_fingerprint IS NOT NULL;
COMMENT ON COLUMN attestation_keys.kind IS 'tpm: an AK. tee: a guest without a vTPM, whose hardware report itself answers the challenge; ak_public is then empty, and ak_name is what identifies the guest.';
COMMENT ON COLUMN attestation_keys.anchor_fingerprint IS 'SHA-256, in lower-case hex, of the trust anchor''s certificate that the proof ended in; null if unknown.';
COMMENT ON COLUMN attestation_keys.certificate_not_after IS 'End of the AK certificate or endorsement that proved it; null if none.';

ALTER TABLE enrollments
    ADD COLUMN kind                  text NOT NULL DEFAULT 'tpm' CHECK (kind IN ('tpm', 'tee')),
    ADD COLUMN anchor_fingerprint    text,
    ADD COLUMN certificate_not_after timestamptz;
COMMENT ON COLUMN enrollments.kind IS 'As in attestation_keys, where activation takes it.';
COMMENT ON COLUMN enrollments.anchor_fingerprint IS 'As in attestation_keys, where activation takes it.';
COMMENT ON COLUMN enrollments.certificate_not_after IS 'As in attestation_keys, where activation takes it.';

ALTER TABLE machines
    ADD COLUMN instance               jsonb,
    ADD COLUMN platform_evidence_type text NOT NULL DEFAULT '',
    ADD COLUMN platform_root          text NOT NULL DEFAULT '',
    ADD COLUMN vm_id                  text NOT NULL DEFAULT '';
CREATE INDEX machines_platform_root ON machines (tenant_id, platform_root, machine_id) WHERE platform_root <> '';
COMMENT ON COLUMN machines.instance IS 'Cloud instance (project, zone, id, name) that its AK certificate proves; null if none.';
COMMENT ON COLUMN machines.platform_evidence_type IS 'Type of the last genuine hardware evidence: azure_hcl, sev_snp, tdx; empty if there was none.';
COMMENT ON COLUMN machines.platform_root IS 'claims.platform.root_sha256 of the last verdict: the anchor''s certificate that its hardware evidence ended in; empty if none.';
COMMENT ON COLUMN machines.vm_id IS 'The cloud''s id of the VM, as the last genuine hardware evidence states it; empty if it did not.';

ALTER TABLE machine_attestation_state ADD COLUMN last_platform bytea;
COMMENT ON COLUMN machine_attestation_state.last_platform IS 'Digest of the hardware evidence of the last genuine verdict; null if it had none.';

CREATE TABLE platform_evidence (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    digest     bytea NOT NULL CHECK (octet_length(digest) = 32),
    type       text NOT NULL,
    size       integer NOT NULL,
    body       bytea NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, digest)
);
ALTER TABLE platform_evidence ALTER COLUMN body SET STORAGE EXTERNAL;
COMMENT ON TABLE platform_evidence IS 'Hardware evidence, content-addressed: a report that a machine sends unchanged is stored once.';
COMMENT ON COLUMN platform_evidence.tenant_id IS 'Owner.';
COMMENT ON COLUMN platform_evidence.digest IS 'Names the evidence: SHA-256 over its parts (verifier/tee, Evidence.Digest).';
COMMENT ON COLUMN platform_evidence.type IS 'azure_hcl, sev_snp or tdx.';
COMMENT ON COLUMN platform_evidence.size IS 'Bytes of the JSON; bounds the memory of decompression.';
COMMENT ON COLUMN platform_evidence.body IS 'The evidence as JSON in one zstd frame.';
COMMENT ON COLUMN platform_evidence.created_at IS 'When it was first stored.';

CREATE TABLE collateral (
    tenant_id    uuid NOT NULL REFERENCES tenants,
    kind         text NOT NULL CHECK (kind IN ('vcek', 'vlek', 'snp_crl', 'tdx_tcb_info', 'tdx_qe_identity', 'tdx_pck_crl', 'tdx_root_crl')),
    name         text NOT NULL,
    body         bytea NOT NULL,
    issuer_chain bytea,
    not_before   timestamptz NOT NULL,
    not_after    timestamptz NOT NULL,
    source       text NOT NULL CHECK (source IN ('evidence', 'uploaded', 'fetched')),
    created_at   timestamptz NOT NULL,
    created_by   text NOT NULL,
    PRIMARY KEY (tenant_id, kind, name)
);
CREATE INDEX collateral_not_after ON collateral (tenant_id, not_after);
COMMENT ON TABLE collateral IS 'What hardware evidence is checked with beside itself: endorsement keys, CRLs, TCB info. Only what was signed up to an anchor when it was stored; it is checked again at each use.';
COMMENT ON COLUMN collateral.tenant_id IS 'Owner.';
COMMENT ON COLUMN collateral.kind IS 'As verifier/tee names it.';
COMMENT ON COLUMN collateral.name IS 'What it is for, read from its content: chip id and TCB, FMSPC, CA.';
COMMENT ON COLUMN collateral.body IS 'DER, or the exact JSON that was signed.';
COMMENT ON COLUMN collateral.issuer_chain IS 'PEM chain of whoever signed the JSON; null where the kind needs none.';
COMMENT ON COLUMN collateral.not_before IS 'When it was issued. A later one replaces it, an earlier one never: a withdrawn statement cannot come back.';
COMMENT ON COLUMN collateral.not_after IS 'From then on it is not valid.';
COMMENT ON COLUMN collateral.source IS 'evidence: came with a machine''s evidence. uploaded: by an administrator. fetched: from the vendor.';
COMMENT ON COLUMN collateral.created_at IS 'When it was stored.';
COMMENT ON COLUMN collateral.created_by IS 'Who stored it.';

CREATE TABLE collateral_wants (
    tenant_id       uuid NOT NULL REFERENCES tenants,
    kind            text NOT NULL CHECK (kind IN ('vcek', 'vlek', 'snp_crl', 'tdx_tcb_info', 'tdx_qe_identity', 'tdx_pck_crl', 'tdx_root_crl')),
    name            text NOT NULL,
    first_wanted_at timestamptz NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz NOT NULL,
    last_error      text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, kind, name)
);
CREATE INDEX collateral_wants_due ON collateral_wants (tenant_id, next_attempt_at);
COMMENT ON TABLE collateral_wants IS 'Collateral that a check lacked, for the job that fetches. A row goes when it is fetched.';
COMMENT ON COLUMN collateral_wants.tenant_id IS 'Owner.';
COMMENT ON COLUMN collateral_wants.kind IS 'As in collateral.';
COMMENT ON COLUMN collateral_wants.name IS 'As in collateral.';
COMMENT ON COLUMN collateral_wants.first_wanted_at IS 'When a check first lacked it.';
COMMENT ON COLUMN collateral_wants.attempts IS 'Fetches that failed.';
COMMENT ON COLUMN collateral_wants.next_attempt_at IS 'Not to be fetched before; whoever claims it moves it on, so that of two replicas one fetches.';
COMMENT ON COLUMN collateral_wants.last_error IS 'Why the last fetch failed, in words; empty before the first.';
