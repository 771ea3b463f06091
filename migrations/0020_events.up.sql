-- What stops being suppressed is told; the members of an incident are counted by what changed; and how far histories have been
-- pruned. Nothing here rewrites a table, or reads a large one but for the index below.

ALTER TABLE alert_events DROP CONSTRAINT alert_events_kind_check;
ALTER TABLE alert_events ADD CONSTRAINT alert_events_kind CHECK (kind IN ('opened', 'reopened', 'status_changed', 'unsuppressed', 'grown', 'commented',
    'approved', 'refused')) NOT VALID; -- and stays so: what is there met the narrower one, and reading it all would be under the lock
COMMENT ON COLUMN alert_events.kind IS 'What happened; unsuppressed: a rule hid it, and none does any more; grown: a mass silence is twice as large as was told; approved and refused are decisions about the deviations behind it.';
COMMENT ON TABLE alert_events IS 'The history of an alert: what changed, by whom, and what people said about it. Append-only, but that the first and the last event alone are kept of alerts that were closed longer ago than the retention. Of alerts older than the table it begins with the opening.';
COMMENT ON TABLE alert_occurrences IS 'The verdicts behind an alert, one row for consecutive occurrences of one verdict. Its count is the next row''s seen_before (the alert''s seen_count for the last) less its own, and its end the next row''s last_before_at (the alert''s last_seen_at). Of alerts that were closed longer ago than the retention the first and the last row are kept, and one without a verdict for all between.';
COMMENT ON COLUMN alert_occurrences.verdict_id IS 'The verdict; null where none raised it, and for occurrences whose verdicts are not kept any more.';

-- What a rule hid that has expired, and is open still, was told to nobody: the first count after this tells it.
UPDATE suppression_rules SET expiry_counted_at = NULL WHERE expiry_counted_at IS NOT NULL;
COMMENT ON COLUMN suppression_rules.expiry_counted_at IS 'When what it hid was shown again after it expired, and told. From then on it is over for every replica, whatever its clock says. Null before, and where it was changed since.';

-- One row for each change of a member, written by a trigger, so that no writer can forget it; whoever counts the incident takes
-- them out.
CREATE TABLE incident_changes (
    tenant_id     uuid NOT NULL,
    group_key     bytea NOT NULL,
    change_id     uuid NOT NULL DEFAULT gen_random_uuid(),
    is_new        boolean NOT NULL,
    was_joined_at timestamptz,
    was_left_at   timestamptz,
    was_left_as   text NOT NULL DEFAULT '',
    joined_at     timestamptz NOT NULL,
    left_at       timestamptz,
    left_as       text NOT NULL,
    PRIMARY KEY (tenant_id, group_key, change_id)
);
COMMENT ON TABLE incident_changes IS 'Changes of incident_members that their incident does not count yet. Only inserted and deleted, so that commits do not wait for each other.';
COMMENT ON COLUMN incident_changes.tenant_id IS 'Owner.';
COMMENT ON COLUMN incident_changes.group_key IS 'The cause: incidents.group_key.';
COMMENT ON COLUMN incident_changes.change_id IS 'Random: a trigger makes it, and nothing asks for an order.';
COMMENT ON COLUMN incident_changes.is_new IS 'The alert joined the cause for the first time.';
COMMENT ON COLUMN incident_changes.was_joined_at IS 'As in incident_members, before the change; null for a new member.';
COMMENT ON COLUMN incident_changes.was_left_at IS 'Likewise; null where it was an open member, or is new.';
COMMENT ON COLUMN incident_changes.was_left_as IS 'Likewise.';
COMMENT ON COLUMN incident_changes.joined_at IS 'As in incident_members, after the change.';
COMMENT ON COLUMN incident_changes.left_at IS 'Likewise.';
COMMENT ON COLUMN incident_changes.left_as IS 'Likewise.';

ALTER TABLE incidents
    ADD COLUMN counted_opened_at timestamptz,
    ADD COLUMN ever_members bigint NOT NULL DEFAULT 0,
    ADD COLUMN left_members bigint NOT NULL DEFAULT 0,
    ADD COLUMN left_undismissed bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_left_at timestamptz;
COMMENT ON COLUMN incidents.counted_opened_at IS 'The opened_at that the columns below are of. Where it differs, all members are read once: of rows older than migration 0020, and after a replica of the version before counted.';
COMMENT ON COLUMN incidents.ever_members IS 'Alerts that ever joined, also those whose membership is not kept any more. all_members is the same, for readers.';
COMMENT ON COLUMN incidents.left_members IS 'Members that have left since counted_opened_at, and are not back.';
COMMENT ON COLUMN incidents.left_undismissed IS 'Those of them that were not dismissed.';
COMMENT ON COLUMN incidents.last_left_at IS 'When a member left last.';

CREATE FUNCTION assay_note_member() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO incident_changes (tenant_id, group_key, is_new, was_joined_at, was_left_at, was_left_as, joined_at, left_at, left_as)
    VALUES (NEW.tenant_id, NEW.group_key, TG_OP = 'INSERT', CASE WHEN TG_OP = 'UPDATE' THEN OLD.joined_at END,
        CASE WHEN TG_OP = 'UPDATE' THEN OLD.left_at END, CASE WHEN TG_OP = 'UPDATE' THEN OLD.left_as ELSE '' END, NEW.joined_at, NEW.left_at, NEW.left_as);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION assay_note_member IS 'Trigger that notes a change of a member for whoever counts its incident.';
CREATE TRIGGER incident_members_note AFTER INSERT OR UPDATE ON incident_members FOR EACH ROW EXECUTE FUNCTION assay_note_member();

-- Without it, counting the open members would read all that ever were. While it is built, alerts cannot open or close: the
-- table is read once, and only what is open is written.
CREATE INDEX incident_members_open ON incident_members (tenant_id, group_key, alert_id) WHERE left_at IS NULL;

ALTER TABLE silences ADD COLUMN told bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN silences.told IS 'The size that receivers were told last; told again at twice that. 0 of rows older than migration 0020: then that is its peak at the first look after it.';

CREATE TABLE alert_retention (
    tenant_id  uuid NOT NULL REFERENCES tenants,
    kind       text NOT NULL CHECK (kind IN ('alerts', 'incidents')),
    updated_at timestamptz NOT NULL,
    last_id    uuid NOT NULL,
    PRIMARY KEY (tenant_id, kind)
);
COMMENT ON TABLE alert_retention IS 'How far the histories of closed alerts and incidents have been pruned. What changes afterwards has a later updated_at, and is met again.';
COMMENT ON COLUMN alert_retention.tenant_id IS 'Owner.';
COMMENT ON COLUMN alert_retention.kind IS 'Of what.';
COMMENT ON COLUMN alert_retention.updated_at IS 'updated_at of the last row that was looked at.';
COMMENT ON COLUMN alert_retention.last_id IS 'Its id.';
