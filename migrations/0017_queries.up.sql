-- Orders of the lists, and what charts are drawn from.

-- An index for each order of a list that may hold a million rows. Names are compared byte by byte: the same in every
-- database, and good for "begins with".
CREATE INDEX machines_name_bytes ON machines (tenant_id, name COLLATE "C", machine_id);
CREATE INDEX machines_status ON machines (tenant_id, status, machine_id);
CREATE INDEX machines_platform ON machines (tenant_id, platform, machine_id);
CREATE INDEX alerts_severity ON alerts (tenant_id, (CASE severity WHEN 'high' THEN 3 WHEN 'medium' THEN 2 ELSE 1 END), alert_id);
CREATE INDEX alerts_status ON alerts (tenant_id, status, alert_id);
CREATE INDEX alerts_code ON alerts (tenant_id, code, alert_id);
CREATE INDEX alerts_updated ON alerts (tenant_id, updated_at, alert_id);
CREATE INDEX recommendations_severity ON recommendations (tenant_id, (CASE severity WHEN 'high' THEN 3 WHEN 'medium' THEN 2 ELSE 1 END), recommendation_id);
CREATE INDEX recommendations_code ON recommendations (tenant_id, code, recommendation_id);
CREATE INDEX recommendations_first_seen ON recommendations (tenant_id, first_seen_at, recommendation_id);
CREATE INDEX assessments_status ON assessments (tenant_id, status, machine_id, code);
CREATE INDEX assessments_severity ON assessments (tenant_id, (CASE severity WHEN 'high' THEN 3 WHEN 'medium' THEN 2 ELSE 1 END), machine_id, code);
CREATE INDEX assessments_changed ON assessments (tenant_id, status_changed_at, machine_id, code);

-- Every statement that changes what is counted adds rows here and meets no row of another: commits do not wait for each
-- other. A job moves them into the rollups; a reader adds up both, so that its answer is exact at any time.
CREATE TABLE rollup_deltas (
    tenant_id uuid NOT NULL,
    delta_id  uuid NOT NULL DEFAULT gen_random_uuid(),
    metric    text NOT NULL,
    hour      timestamptz NOT NULL,
    key       text NOT NULL,
    n         bigint NOT NULL,
    PRIMARY KEY (tenant_id, delta_id)
);
COMMENT ON TABLE rollup_deltas IS 'What was counted and is not in rollup_hours and rollup_days yet.';
COMMENT ON COLUMN rollup_deltas.tenant_id IS 'Owner.';
COMMENT ON COLUMN rollup_deltas.delta_id IS 'Random: triggers make it, and nothing asks for an order.';
COMMENT ON COLUMN rollup_deltas.metric IS 'As in rollup_hours.';
COMMENT ON COLUMN rollup_deltas.hour IS 'As in rollup_hours.';
COMMENT ON COLUMN rollup_deltas.key IS 'As in rollup_hours.';
COMMENT ON COLUMN rollup_deltas.n IS 'To be added.';

CREATE TABLE rollup_hours (
    tenant_id uuid NOT NULL,
    metric    text NOT NULL,
    hour      timestamptz NOT NULL,
    key       text NOT NULL,
    n         bigint NOT NULL,
    PRIMARY KEY (tenant_id, metric, hour, key)
);
COMMENT ON TABLE rollup_hours IS 'Counts by hour, without rollup_deltas; kept for a quarter.';
COMMENT ON COLUMN rollup_hours.tenant_id IS 'Owner.';
COMMENT ON COLUMN rollup_hours.metric IS 'verdicts_by_status: verdicts recorded. alerts_opened, alerts_closed: by what opened or closed them, again too. machines_by_status: change of the number of machines. time_to_attest: first verdicts of machines.';
COMMENT ON COLUMN rollup_hours.hour IS 'Begin of the hour in UTC, by the time of the event.';
COMMENT ON COLUMN rollup_hours.key IS 'Status, severity, or the upper bound of the time between a machine''s becoming known and its first verdict, in seconds or inf.';
COMMENT ON COLUMN rollup_hours.n IS 'How many; of machines_by_status, how many more.';

CREATE TABLE rollup_days (
    tenant_id uuid NOT NULL,
    metric    text NOT NULL,
    day       timestamptz NOT NULL,
    key       text NOT NULL,
    n         bigint NOT NULL,
    PRIMARY KEY (tenant_id, metric, day, key)
);
COMMENT ON TABLE rollup_days IS 'The same by day; kept for three years.';
COMMENT ON COLUMN rollup_days.tenant_id IS 'Owner.';
COMMENT ON COLUMN rollup_days.metric IS 'As in rollup_hours.';
COMMENT ON COLUMN rollup_days.day IS 'Begin of the day in UTC.';
COMMENT ON COLUMN rollup_days.key IS 'As in rollup_hours.';
COMMENT ON COLUMN rollup_days.n IS 'As in rollup_hours.';

CREATE FUNCTION assay_hour(at timestamptz) RETURNS timestamptz LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT date_bin('1 hour', at, '2001-01-01 00:00:00+00')
$$;
COMMENT ON FUNCTION assay_hour(timestamptz) IS 'The hour of a time, in UTC.';

-- One expression and not STRICT, so that Postgres puts it into the statement that asks: a call of its own costs more than all
-- else that the trigger does with a row.
CREATE FUNCTION assay_time_bucket(took interval) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN took IS NULL THEN NULL WHEN took <= interval '1 second' THEN '1' WHEN took <= interval '5 seconds' THEN '5'
        WHEN took <= interval '15 seconds' THEN '15' WHEN took <= interval '1 minute' THEN '60' WHEN took <= interval '5 minutes' THEN '300'
        WHEN took <= interval '15 minutes' THEN '900' WHEN took <= interval '1 hour' THEN '3600' WHEN took <= interval '6 hours' THEN '21600'
        WHEN took <= interval '1 day' THEN '86400' WHEN took <= interval '7 days' THEN '604800' ELSE 'inf' END
$$;
COMMENT ON FUNCTION assay_time_bucket(interval) IS 'The bucket of time_to_attest that a time is in: its upper bound in seconds, inclusive.';

CREATE FUNCTION assay_count_verdicts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rollup_deltas (tenant_id, metric, hour, key, n)
    SELECT tenant_id, 'verdicts_by_status', assay_hour(first_at), status, count(*) FROM made GROUP BY 1, 3, 4;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION assay_count_verdicts() IS 'Trigger that counts the verdicts of a statement, set by set.';
CREATE TRIGGER verdicts_count AFTER INSERT ON verdicts REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION assay_count_verdicts();

CREATE FUNCTION assay_count_machines() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rollup_deltas (tenant_id, metric, hour, key, n)
    SELECT tenant_id, 'machines_by_status', assay_hour(created_at), CASE WHEN last_verdict_id IS NULL THEN 'unattested' ELSE status END, count(*)
    FROM made GROUP BY 1, 3, 4;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION assay_count_machines() IS 'Trigger that counts machines that become known.';
CREATE TRIGGER machines_count AFTER INSERT ON machines REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION assay_count_machines();

CREATE FUNCTION assay_uncount_machines() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rollup_deltas (tenant_id, metric, hour, key, n)
    SELECT tenant_id, 'machines_by_status', assay_hour(now()), CASE WHEN last_verdict_id IS NULL THEN 'unattested' ELSE status END, -count(*)
    FROM gone GROUP BY 1, 3, 4;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION assay_uncount_machines() IS 'Trigger that takes deleted machines out of the count.';
CREATE TRIGGER machines_uncount AFTER DELETE ON machines REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION assay_uncount_machines();

CREATE FUNCTION assay_move_machines() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rollup_deltas (tenant_id, metric, hour, key, n)
    SELECT c.tenant_id, x.metric, assay_hour(c.at), x.key, sum(x.n) FROM (
        SELECT tenant_id, n.updated_at AS at, n.updated_at - n.created_at AS took,
            CASE WHEN o.last_verdict_id IS NULL THEN 'unattested' ELSE o.status END AS was,
            CASE WHEN n.last_verdict_id IS NULL THEN 'unattested' ELSE n.status END AS is_now
        FROM made n JOIN gone o USING (tenant_id, machine_id)) c
    CROSS JOIN LATERAL (VALUES
        ('machines_by_status', c.was, -1), ('machines_by_status', c.is_now, 1),
        ('time_to_attest', CASE WHEN c.was = 'unattested' THEN assay_time_bucket(c.took) END, 1)) x (metric, key, n)
    WHERE c.was <> c.is_now AND x.key IS NOT NULL GROUP BY 1, 2, 3, 4;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION assay_move_machines() IS 'Trigger that counts machines whose status changes, and how long after they became known the first verdict came.';
CREATE TRIGGER machines_move AFTER UPDATE ON machines REFERENCING OLD TABLE AS gone NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION assay_move_machines();

-- Alerts are written one by one, and most statements only count one up: a condition on the row costs those next to nothing.
CREATE FUNCTION assay_count_alert() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rollup_deltas (tenant_id, metric, hour, key, n)
    VALUES (NEW.tenant_id, CASE WHEN NEW.status IN ('active', 'in_progress') THEN 'alerts_opened' ELSE 'alerts_closed' END,
        assay_hour(NEW.updated_at), NEW.severity, 1);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION assay_count_alert() IS 'Trigger that counts an alert that was opened or closed.';
CREATE TRIGGER alerts_opened AFTER INSERT ON alerts FOR EACH ROW
    WHEN (NEW.status IN ('active', 'in_progress')) EXECUTE FUNCTION assay_count_alert();
CREATE TRIGGER alerts_turned AFTER UPDATE ON alerts FOR EACH ROW
    WHEN (OLD.status <> NEW.status AND (OLD.status IN ('active', 'in_progress')) <> (NEW.status IN ('active', 'in_progress')))
    EXECUTE FUNCTION assay_count_alert();

-- What is there already. Of an alert only its first opening and its last end are known.
INSERT INTO rollup_hours (tenant_id, metric, hour, key, n)
SELECT tenant_id, metric, assay_hour(at), key, sum(n) FROM (
    SELECT tenant_id, 'verdicts_by_status' AS metric, first_at AS at, status AS key, 1 AS n FROM verdicts
    UNION ALL SELECT tenant_id, 'alerts_opened', first_seen_at, severity, 1 FROM alerts
    UNION ALL SELECT tenant_id, 'alerts_closed', updated_at, severity, 1 FROM alerts WHERE status NOT IN ('active', 'in_progress')
    UNION ALL SELECT tenant_id, 'machines_by_status', created_at, 'unattested', 1 FROM machines
    UNION ALL SELECT v.tenant_id, x.metric, v.first_at, x.key, x.n
        FROM (SELECT v.tenant_id, v.machine_id, v.first_at, v.first_at - m.created_at AS took, v.status AS is_now,
                lag(v.status, 1, 'unattested') OVER (PARTITION BY v.tenant_id, v.machine_id ORDER BY v.verdict_id) AS was
            FROM verdicts v JOIN machines m ON m.tenant_id = v.tenant_id AND m.machine_id = v.machine_id) v
        CROSS JOIN LATERAL (VALUES
            ('machines_by_status', v.was, -1), ('machines_by_status', v.is_now, 1),
            ('time_to_attest', CASE WHEN v.was = 'unattested' THEN assay_time_bucket(v.took) END, 1)) x (metric, key, n)
        WHERE v.was <> v.is_now AND x.key IS NOT NULL) e
GROUP BY 1, 2, 3, 4;
INSERT INTO rollup_days (tenant_id, metric, day, key, n)
SELECT tenant_id, metric, date_bin('1 day', hour, '2001-01-01 00:00:00+00'), key, sum(n) FROM rollup_hours GROUP BY 1, 2, 3, 4;
