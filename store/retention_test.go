package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// dayOf is a time so many days after one a year before t0: the database's own clock must not be before the test's.
func dayOf(n int) time.Time { return t0.AddDate(-1, 0, n) }

var short = store.Retention{EvidenceDays: 10, VerdictDays: 40, AuditDays: 365}

// TestRetention: what is older than the tenant keeps it goes, from the beginning of each series, and what is needed stays.
func TestRetention(t *testing.T) {
	s, conn := newStore(t)
	token := joinToken(t, s, "join", 9)
	steady, failing, quiet := active(t, s, token, "steady"), active(t, s, token, "failing"), active(t, s, token, "quiet")
	var of [3][]uuid.UUID
	for day := range 5 { // a verdict each month
		at := dayOf(day * 30)
		of[0] = append(of[0], record(t, s, judgement(steady, at, verifier.Affirming, fmt.Sprint("steady", day))).VerdictID)
		status := verifier.Affirming
		if day >= 2 {
			status = verifier.Contraindicated // its alert is open from the third on
		}
		of[1] = append(of[1], record(t, s, judgement(failing, at, status, fmt.Sprint("failing", day))).VerdictID)
	}
	of[2] = append(of[2], record(t, s, judgement(quiet, dayOf(0), verifier.Affirming, "quiet")).VerdictID)
	now := dayOf(200) // all are older than any bound
	p := must[store.Pruned](t)(s.PruneTenant(t.Context(), tenant, short, now))
	if p.Verdicts != 4+2 || p.Evidence == 0 {
		t.Errorf("pruned %+v", p)
	}
	for i, want := range [][]uuid.UUID{of[0][4:], of[1][2:], of[2]} {
		machine := []store.Enrollment{steady, failing, quiet}[i].MachineID
		rows, _ := conn.Query(t.Context(), `SELECT verdict_id FROM verdicts WHERE machine_id = $1 ORDER BY 1`, machine)
		got := must[[]uuid.UUID](t)(pgx.CollectRows(rows, pgx.RowTo[uuid.UUID]))
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("machine %d has the verdicts %v, want %v", i, got, want)
		}
	}
	// Every verdict that is needed has its evidence; what only its age kept, up to the first needed one, has none.
	for id, has := range map[uuid.UUID]bool{of[0][4]: true, of[1][2]: true, of[1][4]: true, of[2][0]: true} {
		if _, err := s.GetEvidence(t.Context(), tenant, id); (err == nil) != has {
			t.Errorf("evidence of %s: %v", id, err)
		}
	}
	m := must[store.RetentionMark](t)(s.GetRetentionMark(t.Context(), tenant, "verdicts", steady.MachineID))
	if m.LastID != of[0][3] || m.Count != 4 || !m.PrunedAt.Equal(now) {
		t.Errorf("mark %+v", m)
	}
	if _, err := s.GetRetentionMark(t.Context(), tenant, "verdicts", quiet.MachineID); err == nil {
		t.Error("a machine of which nothing was pruned has a mark")
	}
	if was := must[bool](t)(s.WasPruned(t.Context(), tenant, "verdicts", of[0][0])); !was {
		t.Error("a pruned verdict is not known as one")
	}
	if was := must[bool](t)(s.WasPruned(t.Context(), store.DefaultTenant, "verdicts", of[0][4])); was {
		t.Error("a verdict that stands passes for pruned")
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'retention.prune'`); n == 0 {
		t.Error("the audit record says nothing")
	}
	if again := must[store.Pruned](t)(s.PruneTenant(t.Context(), tenant, short, now)); again.Verdicts != 0 || again.Evidence != 0 {
		t.Errorf("a second round prunes %+v", again)
	}
}

// TestRetentionByAge: what is younger stays.
func TestRetentionByAge(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "join", 9), "m")
	for day := range 6 {
		record(t, s, judgement(e, dayOf(day*10), verifier.Affirming, fmt.Sprint(day)))
	}
	p := must[store.Pruned](t)(s.PruneTenant(t.Context(), tenant, store.Retention{EvidenceDays: 15, VerdictDays: 35, AuditDays: 365}, dayOf(51)))
	if p.Verdicts != 2 || p.Evidence != 4 {
		t.Errorf("pruned %+v of verdicts 51 to 1 days old", p)
	}
	if n := number(t, conn, `SELECT count(*) FROM verdicts`); n != 4 {
		t.Errorf("%d verdicts left", n)
	}
}

// TestRetentionKeepsWhatABaselineCameFrom: the verdict that a captured version names stays, and all after it.
func TestRetentionKeepsWhatABaselineCameFrom(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "join", 9), "m")
	var all []uuid.UUID
	for day := range 4 {
		all = append(all, record(t, s, judgement(e, dayOf(day), verifier.Affirming, fmt.Sprint(day))).VerdictID)
	}
	provenance := fmt.Sprintf(`{"machine_id": %q, "verdict_id": %q}`, e.MachineID, all[1])
	b := must[store.BaselineVersion](t)(s.CreateBaseline(t.Context(), tenant, "golden", verifier.Selector{ScaleSet: []string{"web"}},
		store.BaselineVersion{State: "active", Origin: "captured", Provenance: []byte(provenance)}, t0, system))
	p := must[store.Pruned](t)(s.PruneTenant(t.Context(), tenant, short, dayOf(300)))
	if p.Verdicts != 1 {
		t.Errorf("pruned %+v", p)
	}
	if _, err := s.GetEvidence(t.Context(), tenant, all[1]); err != nil {
		t.Errorf("the golden evidence: %v", err)
	}
	if _, err := conn.Exec(t.Context(), `UPDATE baseline_versions SET state = 'retired' WHERE baseline_id = $1`, b.BaselineID); err != nil {
		t.Fatal(err)
	}
	if p := must[store.Pruned](t)(s.PruneTenant(t.Context(), tenant, short, dayOf(300))); p.Verdicts != 2 {
		t.Errorf("once the version is retired %+v is pruned", p)
	}
}

// TestAuditIsPrunedByOneWayOnly: the oldest events go by the function, which notes up to where; nothing else removes one, a younger
// one than a year stays whatever is asked, and triggers are in force afterwards.
func TestAuditIsPrunedByOneWayOnly(t *testing.T) {
	s, conn := newStore(t)
	if _, err := conn.Exec(t.Context(), `SELECT assay_make_partitions('audit_events', 'event_id', '2019-03-05', 1)`); err != nil {
		t.Fatal(err)
	}
	// The chain is in the order in which events came: what the set-up left must not be before them.
	for _, table := range []string{"audit_chain", "audit_events"} {
		for _, sql := range []string{`ALTER TABLE {} DISABLE TRIGGER USER`, `DELETE FROM {}`, `ALTER TABLE {} ENABLE TRIGGER USER`} {
			if _, err := conn.Exec(t.Context(), strings.ReplaceAll(sql, "{}", table)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for day := range 40 {
		if _, err := conn.Exec(t.Context(), `INSERT INTO audit_events (tenant_id, event_id, at, actor_kind, actor_id, action, target)
			VALUES ($1, assay_uuid7_floor($2), $2, 'system', '', 'test', 'x:')`, tenant, time.Date(2019, 3, 1+day, 0, 0, 0, 0, time.UTC)); err != nil {
			t.Fatal(err)
		}
	}
	last := texts(t, conn, `SELECT encode(hash, 'hex') FROM audit_chain WHERE seq = 35`)
	before := number(t, conn, `SELECT count(*) FROM audit_events`)
	p := must[store.Pruned](t)(s.PruneTenant(t.Context(), tenant, store.Retention{EvidenceDays: 7, VerdictDays: 30, AuditDays: 365}, time.Date(2020, 4, 4, 0, 0, 0, 0, time.UTC)))
	if p.AuditEvents != 35 { // 1 March to 4 April, a leap year between
		t.Errorf("pruned %+v", p)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'test'`); n != 5 {
		t.Errorf("%d of %d left", n, before)
	}
	m := must[store.RetentionMark](t)(s.GetRetentionMark(t.Context(), tenant, "audit_events", tenant))
	if len(last) != 1 || fmt.Sprintf("%x", m.LastHash) != last[0] || m.Count != 35 {
		t.Errorf("mark %+v", m)
	}
	if n := must[int](t)(s.DropEmptyPartitions(t.Context(), time.Date(2020, 4, 4, 0, 0, 0, 0, time.UTC))); n != 1 {
		t.Errorf("%d partitions dropped; March is empty, April is not", n)
	}
	if number(t, conn, `SELECT count(*) FROM pg_class WHERE relname IN ('audit_events_y2019m03', 'audit_events_y2019m04')`) != 1 {
		t.Error("the wrong partition is gone")
	}
	for _, change := range []string{`DELETE FROM audit_events`, `UPDATE audit_events SET action = 'x'`, `DELETE FROM audit_events_y2019m04`} {
		if _, err := conn.Exec(t.Context(), change); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", change, err)
		}
	}
	young := number(t, conn, `SELECT count(*) FROM audit_events WHERE action <> 'test'`)
	if n := number(t, conn, `SELECT assay_prune_audit($1, assay_uuid7_floor(now()), 3, now())`, tenant); n != 3 {
		t.Errorf("%d events went, and 3 were asked for", n)
	}
	if n := number(t, conn, `SELECT assay_prune_audit($1, assay_uuid7_floor(now()), 10, now())`, tenant); n > 2 || number(t, conn, `SELECT count(*) FROM audit_events WHERE action <> 'test'`) != young {
		t.Errorf("%d events went: a year is kept, whatever is asked", n)
	}
}

// TestRetentionOfATenant: a decision holds for the tenant and is in the audit record; what cannot be is refused.
func TestRetentionOfATenant(t *testing.T) {
	s, conn := newStore(t)
	if _, err := s.PutRetention(t.Context(), tenant, store.Retention{EvidenceDays: 50, VerdictDays: 40, AuditDays: 365}, store.DefaultRetention, t0, system); err == nil {
		t.Error("evidence may outlive its verdict")
	}
	must[store.RetentionPolicy](t)(s.PutRetention(t.Context(), tenant, short, store.DefaultRetention, t0, system))
	if got := must[store.RetentionPolicy](t)(s.GetRetention(t.Context(), tenant, store.DefaultRetention)); got.Retention != short || got.UpdatedBy != system.String() {
		t.Errorf("%+v", got)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'retention.update' AND after->>'verdict_days' = '40' AND before->>'verdict_days' = '400'`); n != 1 {
		t.Errorf("%d audit events", n)
	}
}

// TestClockAheadPrunesNothing: a host whose clock jumped ten years ahead takes nothing out that the database's clock finds young.
func TestClockAheadPrunesNothing(t *testing.T) {
	s, _ := newStore(t)
	e := active(t, s, joinToken(t, s, "join", 9), "m")
	for i := range 3 {
		record(t, s, judgement(e, t0.Add(time.Duration(i)*time.Hour), verifier.Affirming, fmt.Sprint(i)))
	}
	if p := must[store.Pruned](t)(s.PruneTenant(t.Context(), tenant, short, t0.AddDate(10, 0, 0))); p != (store.Pruned{}) {
		t.Errorf("pruned %+v", p)
	}
}

// TestKeptAnswersEnd: answers that are kept for repetitions go when they have expired.
func TestKeptAnswersEnd(t *testing.T) {
	s, conn := newStore(t)
	for i := range 3 {
		if _, err := conn.Exec(t.Context(), `INSERT INTO idempotency_keys (tenant_id, principal, key, request_hash, created_at, expires_at) VALUES ($1, 'p', $2, '', $3, $4)`,
			tenant, fmt.Sprint(i), dayOf(0), dayOf(0).Add(time.Duration(i)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if p := must[store.Pruned](t)(s.PruneTenant(t.Context(), tenant, short, dayOf(0).Add(90*time.Minute))); p.Answers != 2 {
		t.Errorf("%+v", p)
	}
}
