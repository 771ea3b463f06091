package store_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// One Postgres serves the test binary; each test has a database of its own, copied from a migrated template.
var (
	serverURL string
	databases atomic.Int64
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if u := os.Getenv(childURL); u != "" {
		streamUntilKilled(u)
	}
	if slices.ContainsFunc(os.Args, func(arg string) bool { return strings.HasPrefix(arg, "-test.fuzzworker") }) {
		return m.Run() // which needs no database
	}
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx := context.Background()
	pg, err := embedded.Start(ctx, embedded.Config{DataDir: dir})
	if err != nil {
		panic(err)
	}
	serverURL = pg.URL()
	admin(ctx, `CREATE DATABASE template_assay`)
	if err := store.Migrate(ctx, databaseURL("template_assay")); err != nil {
		panic(err)
	}
	code := m.Run()
	if err := pg.Stop(ctx); err != nil {
		panic(err)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

func databaseURL(name string) string {
	u, err := url.Parse(serverURL)
	if err != nil {
		panic(err)
	}
	u.Path = "/" + name
	return u.String()
}

func admin(ctx context.Context, sql string) {
	conn, err := pgx.Connect(ctx, serverURL)
	if err != nil {
		panic(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, sql); err != nil {
		panic(err)
	}
}

// t0 is when every test begins.
var t0 = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

var (
	tenant = store.DefaultTenant
	system = store.Actor{Kind: "system", ID: "test"}
)

// emptyDatabase gives a database of the test's own; template "" has no schema.
func emptyDatabase(t testing.TB, template string) string {
	t.Helper()
	name := fmt.Sprintf("t%d", databases.Add(1))
	sql := `CREATE DATABASE ` + name
	if template != "" {
		sql += ` TEMPLATE ` + template
	}
	admin(t.Context(), sql)
	t.Cleanup(func() { admin(context.Background(), `DROP DATABASE `+name+` WITH (FORCE)`) })
	return databaseURL(name)
}

func open(t testing.TB, url string, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// newStore is a store on a database of the test's own with the default tenant, and a connection to look at it.
func newStore(t testing.TB) (*store.Store, *pgx.Conn) {
	t.Helper()
	u := emptyDatabase(t, "template_assay")
	s := open(t, u, store.Options{})
	must0(t, s.EnsureTenant(t.Context(), tenant, t0))
	return s, connectTo(t, u)
}

// connectTo is a connection as the owner of all tables.
func connectTo(t testing.TB, u string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func must0(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// number runs a query that answers one number.
func number(t testing.TB, c *pgx.Conn, sql string, args ...any) int64 {
	t.Helper()
	var n int64
	must0(t, c.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

func hash(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// joinToken makes a token that admits uses machines, and returns its hash.
func joinToken(t testing.TB, s *store.Store, name string, uses int) []byte {
	t.Helper()
	must0(t, s.CreateJoinToken(t.Context(), tenant, store.JoinToken{Name: name, UsesLeft: uses, ExpiresAt: t0.Add(24 * time.Hour), CreatedAt: t0}, hash(name), system))
	return hash(name)
}

// enrolment is a request to enrol with keys made of words; proved by a certificate, so active at once.
func enrolment(token []byte, machine store.MachineInput, ek, ak string) store.EnrollmentInput {
	in := store.EnrollmentInput{JoinTokenHash: token, Machine: machine, AKPublic: []byte(ak), AKName: hash(ak),
		ExpiresAt: t0.Add(5 * time.Minute), Proved: true, Assurance: verifier.AKCertified}
	if ek != "" {
		in.EKPublic = []byte(ek)
	}
	return in
}

// active enrols a machine of that name and gives its id and key.
func active(t testing.TB, s *store.Store, token []byte, name string) store.Enrollment {
	t.Helper()
	return must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, enrolment(token, store.MachineInput{Name: name, ExternalID: "id-" + name, ScaleSet: "web"}, "ek "+name, "ak "+name), t0, system))
}

var challenges atomic.Uint64

// nextChallenge is an order key above all earlier ones.
func nextChallenge() []byte {
	return fmt.Appendf(nil, "%016x", challenges.Add(1))
}

// judgement is a record of one appraisal. what is its fingerprint in words.
func judgement(e store.Enrollment, at time.Time, status verifier.Status, what string) store.AppraisalRecord {
	rec := store.AppraisalRecord{
		MachineID: e.MachineID, KeyID: e.KeyID, ReceivedAt: at, NextDueAt: at.Add(5 * time.Minute), ChallengeKey: nextChallenge(),
		Appraisal: &verifier.Appraisal{
			Status: status, Assurance: verifier.AKCertified, Genuine: true,
			Checks: []verifier.Check{{Code: verifier.CheckAKTrusted, Status: verifier.Pass, Detail: what}},
		},
		Clock:       &tpm.ClockState{Clock: uint64(at.UnixMilli()), ResetCount: 7, RestartCount: 1, Safe: true, FirmwareVersion: 1 << 63},
		Fingerprint: sha256.Sum256([]byte(what)), EvidenceType: "application/json", Evidence: []byte(`{"what":"` + what + `"}`),
		Actor:    store.Actor{Kind: "machine", ID: e.MachineID.String()},
		Findings: finding.Result{EvaluatedAlerts: []string{"attestation_failed"}, EvaluatedRecommendations: []string{"secure_boot_enabled"}},
	}
	assessment := finding.Assessment{Code: "guest_attestation_healthy", DisplayName: "Healthy?", Severity: finding.Medium, Status: finding.Healthy, Cause: "ok"}
	if status != verifier.Affirming {
		rec.Appraisal.Reason = verifier.BaselineDeviation
		assessment.Status, assessment.Cause = finding.Unhealthy, "baseline_deviation"
		rec.Findings.Alerts = []finding.Alert{{Code: "attestation_failed", DisplayName: "Attestation failed", Severity: finding.Medium,
			Reason: verifier.BaselineDeviation, Description: what, RemediationSteps: []string{"look"}}}
	}
	rec.Findings.Assessments = []finding.Assessment{assessment}
	return rec
}

func record(t testing.TB, s *store.Store, rec store.AppraisalRecord) store.Recorded {
	t.Helper()
	return must[store.Recorded](t)(s.RecordAppraisal(t.Context(), tenant, rec))
}

func alertsOf(t testing.TB, s *store.Store, f store.AlertFilter, now time.Time) []store.Alert {
	t.Helper()
	items, _, err := s.ListAlerts(t.Context(), tenant, f, store.Page{}, now)
	must0(t, err)
	return items
}

func statuses(as []store.Alert) string {
	var out []string
	for _, a := range as {
		out = append(out, fmt.Sprintf("%s×%d", a.Status, a.Count))
	}
	return strings.Join(out, " ")
}
