-- What becomes of alerts: those of many machines, what happened at each occurrence, who did what, and the incidents that
-- alerts of one cause are.

ALTER TABLE alerts
    ALTER COLUMN machine_id DROP NOT NULL,
    ADD COLUMN scope text NOT NULL DEFAULT '',
    ADD COLUMN details jsonb,
    ADD COLUMN opened_at timestamptz,
    ADD COLUMN reopened_count integer NOT NULL DEFAULT 0,
    ADD COLUMN closed_at timestamptz,
    ADD COLUMN closed_by text NOT NULL DEFAULT '',
    ADD COLUMN over_at timestamptz,
    ADD COLUMN assignee text NOT NULL DEFAULT '',
    ADD COLUMN group_key bytea,
    ADD CONSTRAINT alerts_group_key CHECK (octet_length(group_key) = 32),
    ADD CONSTRAINT alerts_of CHECK ((machine_id IS NULL) <> (scope = ''));
UPDATE alerts SET opened_at = first_seen_at, closed_at = CASE WHEN status IN ('dismissed', 'resolved') THEN updated_at END,
    group_key = sha256(convert_to(code, 'UTF8') || '\x00'::bytea || convert_to(reason, 'UTF8') || '\x00'::bytea);
-- The defaults are for replicas of the version before, which know nothing of these columns: see alerts_of_version_before.
ALTER TABLE alerts
    ALTER COLUMN opened_at SET DEFAULT now(), ALTER COLUMN opened_at SET NOT NULL,
    ALTER COLUMN group_key SET DEFAULT decode(repeat('00', 32), 'hex'), ALTER COLUMN group_key SET NOT NULL;
CREATE UNIQUE INDEX alerts_open_scope ON alerts (tenant_id, scope, code) WHERE machine_id IS NULL AND status IN ('active', 'in_progress');
CREATE INDEX alerts_machine_code ON alerts (tenant_id, machine_id, code, alert_id);
CREATE INDEX alerts_scope_code ON alerts (tenant_id, scope, code, alert_id) WHERE machine_id IS NULL;
COMMENT ON TABLE alerts IS 'What happened to a machine, or to many at once. At most one alert of a machine (or scope) and code is open (active or in_progress); a repetition counts it up, and one that was resolved lately is opened again.';
COMMENT ON COLUMN alerts.machine_id IS 'The machine; null for an alert of many, which has a scope.';
COMMENT ON COLUMN alerts.scope IS 'What an alert of many machines is about, as a stable word; empty for one of a single machine.';
COMMENT ON COLUMN alerts.details IS 'More of the last occurrence, by code; null for none.';
COMMENT ON COLUMN alerts.opened_at IS 'When it was opened the last time: first_seen_at, or its last reopening.';
COMMENT ON COLUMN alerts.reopened_count IS 'How often it was opened again, by itself or by hand.';
COMMENT ON COLUMN alerts.closed_at IS 'When it was dismissed or resolved; null while open.';
COMMENT ON COLUMN alerts.closed_by IS 'Who closed it (kind:id), system:alerts where the cause was found gone; empty while open.';
COMMENT ON COLUMN alerts.over_at IS 'Of a dismissed alert: when its cause was found gone; null before. Until then repetitions stay dismissed.';
COMMENT ON COLUMN alerts.assignee IS 'Who works on it, as whoever took it up said; empty for nobody.';
COMMENT ON COLUMN alerts.group_key IS 'SHA-256 that alerts of one cause share (finding.Group); names the incident.';

CREATE TABLE alert_occurrences (
    tenant_id      uuid NOT NULL,
    alert_id       uuid NOT NULL,
    seen_before    bigint NOT NULL,
    verdict_id     uuid,
    first_at       timestamptz NOT NULL,
    last_before_at timestamptz,
    PRIMARY KEY (tenant_id, alert_id, seen_before),
    FOREIGN KEY (tenant_id, alert_id) REFERENCES alerts ON DELETE CASCADE
);
COMMENT ON TABLE alert_occurrences IS 'The verdicts behind an alert, one row for consecutive occurrences of one verdict. Written once: its count is the next row''s seen_before (the alert''s seen_count for the last) less its own, and its end the next row''s last_before_at (the alert''s last_seen_at).';
COMMENT ON COLUMN alert_occurrences.tenant_id IS 'Owner.';
COMMENT ON COLUMN alert_occurrences.alert_id IS 'The alert.';
COMMENT ON COLUMN alert_occurrences.seen_before IS 'How often the alert had been seen before.';
COMMENT ON COLUMN alert_occurrences.verdict_id IS 'The verdict; null where none raised it.';
COMMENT ON COLUMN alert_occurrences.first_at IS 'First occurrence of the verdict.';
COMMENT ON COLUMN alert_occurrences.last_before_at IS 'Last occurrence of what came before; null for the first.';
INSERT INTO alert_occurrences (tenant_id, alert_id, seen_before, verdict_id, first_at) SELECT tenant_id, alert_id, 0, verdict_id, first_seen_at FROM alerts;

CREATE TABLE alert_events (
    tenant_id   uuid NOT NULL,
    alert_id    uuid NOT NULL,
    event_id    uuid NOT NULL,
    at          timestamptz NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('opened', 'reopened', 'status_changed', 'commented', 'approved', 'refused')),
    actor       text NOT NULL,
    from_status text NOT NULL DEFAULT '',
    to_status   text NOT NULL DEFAULT '',
    comment     text NOT NULL DEFAULT '',
    assignee    text NOT NULL DEFAULT '',
    PRIMARY KEY (tenant_id, alert_id, event_id),
    FOREIGN KEY (tenant_id, alert_id) REFERENCES alerts ON DELETE CASCADE
);
COMMENT ON TABLE alert_events IS 'The history of an alert: what changed, by whom, and what people said about it. Append-only. Of alerts older than the table it begins with the opening.';
COMMENT ON COLUMN alert_events.tenant_id IS 'Owner.';
COMMENT ON COLUMN alert_events.alert_id IS 'The alert.';
COMMENT ON COLUMN alert_events.event_id IS 'UUIDv7 of at; the id of the event in the outbox, where there is one.';
COMMENT ON COLUMN alert_events.at IS 'When.';
COMMENT ON COLUMN alert_events.kind IS 'What happened; approved and refused are decisions about the deviations behind it.';
COMMENT ON COLUMN alert_events.actor IS 'Who (kind:id); system:alerts where it happened by itself.';
COMMENT ON COLUMN alert_events.from_status IS 'Status before; empty where it began or did not change.';
COMMENT ON COLUMN alert_events.to_status IS 'Status after; empty where it did not change.';
COMMENT ON COLUMN alert_events.comment IS 'Of the actor.';
COMMENT ON COLUMN alert_events.assignee IS 'Who took it up, where that was said.';
INSERT INTO alert_events (tenant_id, alert_id, event_id, at, kind, actor, to_status)
    SELECT tenant_id, alert_id, alert_id, first_seen_at, 'opened', 'system:alerts', 'active' FROM alerts;

CREATE TABLE incidents (
    tenant_id          uuid NOT NULL REFERENCES tenants,
    incident_id        uuid NOT NULL,
    group_key          bytea NOT NULL CHECK (octet_length(group_key) = 32),
    code               text NOT NULL,
    display_name       text NOT NULL,
    severity           text NOT NULL CHECK (severity IN ('low', 'medium', 'high')),
    reason             text NOT NULL,
    title              text NOT NULL,
    status             text NOT NULL CHECK (status IN ('active', 'in_progress', 'dismissed', 'resolved')),
    first_seen_at      timestamptz NOT NULL,
    last_joined_at     timestamptz NOT NULL,
    opened_at          timestamptz NOT NULL,
    reopened_count     integer NOT NULL DEFAULT 0,
    closed_at          timestamptz,
    open_members       bigint NOT NULL,
    suppressed_members bigint NOT NULL,
    episode_members    bigint NOT NULL,
    all_members        bigint NOT NULL,
    told_members       bigint NOT NULL,
    scale_sets         jsonb NOT NULL,
    of_scope           boolean NOT NULL,
    updated_at         timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, incident_id),
    CONSTRAINT incidents_group UNIQUE (tenant_id, group_key)
);
CREATE INDEX incidents_opened ON incidents (tenant_id, opened_at, incident_id);
COMMENT ON TABLE incidents IS 'One cause and the alerts that it raised, on however many machines. One row for a cause: it is opened again when it comes back. Counts follow the members, a moment later (incident_touches).';
COMMENT ON COLUMN incidents.tenant_id IS 'Owner.';
COMMENT ON COLUMN incidents.incident_id IS 'UUIDv7 of when it was made.';
COMMENT ON COLUMN incidents.group_key IS 'What its alerts share (alerts.group_key).';
COMMENT ON COLUMN incidents.code IS 'Code of its alerts.';
COMMENT ON COLUMN incidents.display_name IS 'Title of its alerts, for people.';
COMMENT ON COLUMN incidents.severity IS 'low, medium or high.';
COMMENT ON COLUMN incidents.reason IS 'Reason of its alerts; empty where the code has none.';
COMMENT ON COLUMN incidents.title IS 'What its alerts share, in plain words, without the number of machines.';
COMMENT ON COLUMN incidents.status IS 'Of its open alerts: active if one is, else in_progress. With none open: dismissed if all of the last opening were, else resolved.';
COMMENT ON COLUMN incidents.first_seen_at IS 'When its first alert ever joined.';
COMMENT ON COLUMN incidents.last_joined_at IS 'When an alert joined last.';
COMMENT ON COLUMN incidents.opened_at IS 'When it was opened the last time.';
COMMENT ON COLUMN incidents.reopened_count IS 'How often it was opened again.';
COMMENT ON COLUMN incidents.closed_at IS 'When the last of its alerts was closed; null while open.';
COMMENT ON COLUMN incidents.open_members IS 'Its open alerts.';
COMMENT ON COLUMN incidents.suppressed_members IS 'Those of them that a suppression rule hides.';
COMMENT ON COLUMN incidents.episode_members IS 'Its alerts since opened_at, closed ones included.';
COMMENT ON COLUMN incidents.all_members IS 'Its alerts ever.';
COMMENT ON COLUMN incidents.told_members IS 'The number of members that receivers were told last: 1, 10, 100, and so on.';
COMMENT ON COLUMN incidents.scale_sets IS 'Open members by scale set, the largest twenty; machines without one are under an empty name.';
COMMENT ON COLUMN incidents.of_scope IS 'Its alerts are of many machines each, not of one.';
COMMENT ON COLUMN incidents.updated_at IS 'Last change of the row.';

CREATE TABLE incident_members (
    tenant_id  uuid NOT NULL,
    group_key  bytea NOT NULL,
    alert_id   uuid NOT NULL,
    joined_at  timestamptz NOT NULL,
    left_at    timestamptz,
    left_as    text NOT NULL DEFAULT '' CHECK (left_as IN ('', 'dismissed', 'resolved', 'changed')),
    PRIMARY KEY (tenant_id, group_key, alert_id),
    FOREIGN KEY (tenant_id, alert_id) REFERENCES alerts ON DELETE CASCADE
);
COMMENT ON TABLE incident_members IS 'Alerts of a cause, with when they joined and left. It is written with the alert, and names the cause and not the incident, so that no transaction waits for another over an incident''s row.';
COMMENT ON COLUMN incident_members.tenant_id IS 'Owner.';
COMMENT ON COLUMN incident_members.group_key IS 'The cause: incidents.group_key.';
COMMENT ON COLUMN incident_members.alert_id IS 'The alert.';
COMMENT ON COLUMN incident_members.joined_at IS 'When it joined the last time.';
COMMENT ON COLUMN incident_members.left_at IS 'When it left: closed, or of another cause; null while it is an open member.';
COMMENT ON COLUMN incident_members.left_as IS 'How it left: dismissed, resolved, or changed to another cause.';
INSERT INTO incident_members (tenant_id, group_key, alert_id, joined_at) SELECT tenant_id, group_key, alert_id, first_seen_at FROM alerts WHERE status IN ('active', 'in_progress');

CREATE TABLE incident_touches (
    tenant_id    uuid NOT NULL,
    touch_id     uuid NOT NULL,
    group_key    bytea NOT NULL,
    code         text NOT NULL,
    display_name text NOT NULL,
    severity     text NOT NULL,
    reason       text NOT NULL,
    title        text NOT NULL,
    PRIMARY KEY (tenant_id, touch_id)
);
COMMENT ON TABLE incident_touches IS 'Causes whose members changed, one row a transaction and cause; a job takes them out and counts anew. Only inserted and deleted, so that commits do not wait for each other.';
COMMENT ON COLUMN incident_touches.tenant_id IS 'Owner.';
COMMENT ON COLUMN incident_touches.touch_id IS 'UUIDv7.';
COMMENT ON COLUMN incident_touches.group_key IS 'The cause.';
COMMENT ON COLUMN incident_touches.code IS 'Of the alert that joined, left or changed; as the other columns.';
COMMENT ON COLUMN incident_touches.display_name IS 'Of the alert.';
COMMENT ON COLUMN incident_touches.severity IS 'Of the alert.';
COMMENT ON COLUMN incident_touches.reason IS 'Of the alert.';
COMMENT ON COLUMN incident_touches.title IS 'What alerts of the cause share, in plain words; empty where nothing joined.';
INSERT INTO incident_touches (tenant_id, touch_id, group_key, code, display_name, severity, reason, title)
    SELECT DISTINCT ON (tenant_id, group_key) tenant_id, alert_id, group_key, code, display_name, severity, reason, display_name
    FROM alerts WHERE status IN ('active', 'in_progress') ORDER BY tenant_id, group_key, alert_id;

CREATE TABLE recommendation_events (
    tenant_id         uuid NOT NULL,
    recommendation_id uuid NOT NULL,
    event_id          uuid NOT NULL,
    at                timestamptz NOT NULL,
    kind              text NOT NULL CHECK (kind IN ('exempted', 'unexempted', 'exemption_ended')),
    actor             text NOT NULL,
    reason            text NOT NULL DEFAULT '',
    comment           text NOT NULL DEFAULT '',
    expires_at        timestamptz,
    PRIMARY KEY (tenant_id, recommendation_id, event_id),
    FOREIGN KEY (tenant_id, recommendation_id) REFERENCES recommendations ON DELETE CASCADE
);
COMMENT ON TABLE recommendation_events IS 'The history of the exemptions of a recommendation. Append-only.';
COMMENT ON COLUMN recommendation_events.tenant_id IS 'Owner.';
COMMENT ON COLUMN recommendation_events.recommendation_id IS 'The recommendation.';
COMMENT ON COLUMN recommendation_events.event_id IS 'UUIDv7 of at.';
COMMENT ON COLUMN recommendation_events.at IS 'When.';
COMMENT ON COLUMN recommendation_events.kind IS 'What happened.';
COMMENT ON COLUMN recommendation_events.actor IS 'Who (kind:id).';
COMMENT ON COLUMN recommendation_events.reason IS 'Of an exemption: waiver or mitigated; else empty.';
COMMENT ON COLUMN recommendation_events.comment IS 'Of the actor.';
COMMENT ON COLUMN recommendation_events.expires_at IS 'End of the exemption; null for none.';
INSERT INTO recommendation_events (tenant_id, recommendation_id, event_id, at, kind, actor, reason, comment, expires_at)
    SELECT tenant_id, recommendation_id, recommendation_id, exemption_at, 'exempted', exemption_by, exemption_reason, exemption_comment, exemption_expires_at
    FROM recommendations WHERE exemption_reason IS NOT NULL AND exemption_at IS NOT NULL;
CREATE INDEX recommendations_exemption ON recommendations (tenant_id, exemption_expires_at) WHERE exemption_expires_at IS NOT NULL;

ALTER TABLE outbox DROP CONSTRAINT outbox_kind_check;
ALTER TABLE outbox ADD CONSTRAINT outbox_kind_check CHECK (kind IN ('alert.opened', 'alert.reopened', 'alert.resolved', 'alert.status_changed',
    'incident.opened', 'incident.grown', 'incident.resolved', 'recommendation.exemption_ended'));
COMMENT ON COLUMN outbox.subject_id IS 'The alert, incident or recommendation that it happened to.';

-- During a rolling upgrade replicas of the version before write alerts too. What they leave out is written here: cause,
-- history, membership. Of code that knows these columns no statement meets the conditions of the triggers.
CREATE FUNCTION assay_alert_of_version_before() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    cause bytea := NEW.group_key;
    is_open boolean := NEW.status IN ('active', 'in_progress');
BEGIN
    IF TG_OP = 'INSERT' THEN
        cause := sha256(convert_to(NEW.code, 'UTF8') || '\x00'::bytea || convert_to(NEW.reason, 'UTF8') || '\x00'::bytea);
        UPDATE alerts SET group_key = cause, opened_at = NEW.first_seen_at WHERE tenant_id = NEW.tenant_id AND alert_id = NEW.alert_id;
        INSERT INTO alert_occurrences (tenant_id, alert_id, seen_before, verdict_id, first_at)
            VALUES (NEW.tenant_id, NEW.alert_id, 0, NEW.verdict_id, NEW.first_seen_at);
        INSERT INTO alert_events (tenant_id, alert_id, event_id, at, kind, actor, to_status)
            VALUES (NEW.tenant_id, NEW.alert_id, NEW.alert_id, NEW.first_seen_at, 'opened', 'system:alerts', NEW.status);
    ELSE
        UPDATE alerts SET closed_at = CASE WHEN NOT is_open THEN NEW.updated_at END, closed_by = CASE WHEN is_open THEN '' ELSE 'system:alerts' END,
            opened_at = CASE WHEN is_open THEN NEW.updated_at ELSE opened_at END, over_at = NULL, reopened_count = reopened_count + is_open::integer
            WHERE tenant_id = NEW.tenant_id AND alert_id = NEW.alert_id;
        INSERT INTO alert_events (tenant_id, alert_id, event_id, at, kind, actor, from_status, to_status)
            VALUES (NEW.tenant_id, NEW.alert_id, gen_random_uuid(), NEW.updated_at, CASE WHEN is_open THEN 'reopened' ELSE 'status_changed' END,
                'system:alerts', OLD.status, NEW.status);
    END IF;
    IF is_open THEN
        INSERT INTO incident_members (tenant_id, group_key, alert_id, joined_at) VALUES (NEW.tenant_id, cause, NEW.alert_id, NEW.updated_at)
            ON CONFLICT (tenant_id, group_key, alert_id) DO UPDATE SET joined_at = EXCLUDED.joined_at, left_at = NULL, left_as = '';
    ELSE
        UPDATE incident_members SET left_at = NEW.updated_at, left_as = NEW.status
            WHERE tenant_id = NEW.tenant_id AND group_key = cause AND alert_id = NEW.alert_id AND left_at IS NULL;
    END IF;
    INSERT INTO incident_touches (tenant_id, touch_id, group_key, code, display_name, severity, reason, title)
        VALUES (NEW.tenant_id, gen_random_uuid(), cause, NEW.code, NEW.display_name, NEW.severity, NEW.reason, CASE WHEN is_open THEN NEW.display_name ELSE '' END);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION assay_alert_of_version_before IS 'Writes what replicas of the version before 0012 leave out when they open, close or reopen an alert.';
CREATE TRIGGER alerts_of_version_before AFTER INSERT ON alerts FOR EACH ROW
    WHEN (NEW.group_key = '\x0000000000000000000000000000000000000000000000000000000000000000'::bytea) EXECUTE FUNCTION assay_alert_of_version_before();
CREATE TRIGGER alerts_turned_by_version_before AFTER UPDATE ON alerts FOR EACH ROW
    WHEN (OLD.status <> NEW.status AND (NEW.status IN ('active', 'in_progress')) = (NEW.closed_at IS NOT NULL)) EXECUTE FUNCTION assay_alert_of_version_before();
