package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
	"github.com/assay-verifier/assay/store/keyring"
)

// doctorCommand looks the settings, the host and the database over. It takes the settings of serve.
type doctorCommand struct {
	Config
	Output string `short:"o" enum:"human,json" default:"human" help:"human or json."`
}

// Help explains the exit codes.
func (d *doctorCommand) Help() string {
	return "Give it the settings of the service. It changes nothing and prints no secret. The exit code is 0 where all is well, 1 where there are warnings, and 2 where something fails. The codes of its checks are stable; deploy/README.md lists them."
}

// The outcomes of a check, worst last.
const (
	doctorOK      = "ok"
	doctorSkipped = "skipped" // it needs what another check found missing
	doctorWarning = "warning"
	doctorFailure = "failure"
)

// doctorCheck is one finding.
type doctorCheck struct {
	Code   string `json:"code"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Advice string `json:"advice,omitempty"`
}

// doctorReport is what was found so far.
type doctorReport struct {
	Status string        `json:"status"`
	Checks []doctorCheck `json:"checks"`
}

func (r *doctorReport) ok(code, format string, args ...any) {
	r.add(doctorOK, code, "", format, args...)
}

func (r *doctorReport) warn(code, advice, format string, args ...any) {
	r.add(doctorWarning, code, advice, format, args...)
}

func (r *doctorReport) fail(code, advice, format string, args ...any) {
	r.add(doctorFailure, code, advice, format, args...)
}

// skip notes checks that could not be made.
func (r *doctorReport) skip(why string, codes ...string) {
	for _, code := range codes {
		r.add(doctorSkipped, code, "", "%s", why)
	}
}

func (r *doctorReport) add(status, code, advice, format string, args ...any) {
	r.Checks = append(r.Checks, doctorCheck{Code: code, Status: status, Detail: fmt.Sprintf(format, args...), Advice: advice})
	worse := map[string]int{doctorOK: 0, doctorSkipped: 0, doctorWarning: 1, doctorFailure: 2}
	if r.Status == "" || worse[status] > worse[r.Status] {
		r.Status = status
	}
	if r.Status == doctorSkipped {
		r.Status = doctorOK
	}
}

// doctorVerdict is the error that the exit code follows from; the report is printed already.
type doctorVerdict struct{ code int }

func (doctorVerdict) Error() string { return "" }

// Run looks everything over.
func (d *doctorCommand) Run(p *process) (err error) {
	r := &doctorReport{}
	d.examineHost(p.ctx, r)
	if err := d.examineDatabase(p.ctx, r); err != nil {
		return err
	}
	if d.Output == "json" {
		if err := json.NewEncoder(p.stdout).Encode(r); err != nil {
			return err
		}
	} else {
		for _, c := range r.Checks {
			fmt.Fprintf(p.stdout, "%-8s %-20s %s\n", c.Status, c.Code, c.Detail)
			if c.Advice != "" {
				fmt.Fprintf(p.stdout, "%-8s %-20s → %s\n", "", "", c.Advice)
			}
		}
	}
	switch r.Status {
	case doctorWarning:
		return doctorVerdict{exitFailed}
	case doctorFailure:
		return doctorVerdict{exitBadCall}
	}
	return nil
}

// The checks that need a database, in their order.
var databaseChecks = []string{"migrations", "clock", "durability", "role", "keys_sealed", "keys_open", "key_rotation", "trust_anchors", "collateral", "partitions",
	"default_partitions", "deliveries", "service", "jobs"}

// examineDatabase looks at the database, as far as there is one.
func (d *doctorCommand) examineDatabase(ctx context.Context, r *doctorReport) (err error) {
	log := slog.New(slog.DiscardHandler)
	if d.DatabaseURL.Empty() && !exists(d.postgresDir()) {
		r.warn("database", "assayd serve makes it, or --database-url names another", "there is none yet in %s", d.DataDir)
		r.skip("there is no database", databaseChecks...)
		return nil
	}
	address, stop, err := reachDatabase(ctx, &d.Config, log)
	if err != nil {
		message, _ := explain(err)
		r.fail("database", adviceOn(err), "%s", message)
		r.skip("the database cannot be asked", databaseChecks...)
		return nil
	}
	defer func() { err = errors.Join(err, stop()) }()
	st, err := store.Open(ctx, address, store.Options{MaxConns: 2, ConnectTimeout: 3 * time.Second, Role: d.Roles.DatabaseAppRole})
	if err != nil {
		message, _ := explain(err)
		r.fail("database", adviceOn(err), "%s", message)
		r.skip("the database cannot be asked", databaseChecks...)
		return nil
	}
	defer st.Close()
	if err := st.CheckMigrations(ctx); err != nil {
		r.ok("database", "it answers")
		r.fail("migrations", "run assayd migrate; where one failed halfway, restore a backup or put the schema in order by hand", "%v", err)
		r.skip("the schema is not that of this version", databaseChecks[1:]...)
		return nil
	}
	if d.DatabaseURL.Empty() {
		address = asLogin(address, embeddedLogin) // as the service comes
	}
	x, err := store.Examine(ctx, address, d.Roles.DatabaseAppRole, time.Now)
	if err != nil {
		r.fail("database", "look at the database's log, and at the rights of its role", "%v", err)
		r.skip("the database cannot be asked", databaseChecks...)
		return nil
	}
	r.ok("database", "it answers, Postgres %s", x.Server)
	if v, _, err := st.MigrationVersion(ctx); err == nil {
		r.ok("migrations", "schema version %d", v)
	}
	examineServer(r, &x)
	d.examineKeys(ctx, r, st, &x)
	examineTrust(r, &x, d.Fetch.CollateralFetch)
	examineWork(r, &x)
	return nil
}

// asLogin is the URL of a database for another login, which needs no password.
func asLogin(database, login string) string {
	u, err := url.Parse(database)
	if err != nil {
		return database
	}
	u.User = url.User(login)
	return u.String()
}

func adviceOn(err error) string {
	if errors.Is(err, embedded.ErrNotInstalled) {
		return "apt-get install -y postgresql, or give --database-url"
	}
	return "see that Postgres runs, and that --database-url names its host, database, role and password as they are"
}

// Bounds of what is well.
const (
	clockOff      = 2 * time.Second  // agents' challenges and tokens still hold
	clockWrong    = 30 * time.Second // less than a challenge lives
	workLate      = 5 * time.Minute
	workVeryLate  = time.Hour
	beatLate      = 30 * time.Second
	rotationGrace = 24 * time.Hour
)

func examineServer(r *doctorReport, x *store.Examination) {
	const sync = "let NTP or PTP set the clocks of both hosts"
	switch ahead := x.ClockAhead.Abs(); {
	case ahead > clockWrong:
		r.fail("clock", sync, "the database's clock and this host's are %s apart", ahead.Round(time.Millisecond))
	case ahead > clockOff:
		r.warn("clock", sync, "the database's clock and this host's are %s apart", ahead.Round(time.Millisecond))
	default:
		r.ok("clock", "the database's and this host's agree to %s", max(ahead.Round(time.Millisecond), time.Millisecond))
	}
	if x.Durable {
		r.ok("durability", "what is committed is on disk")
	} else {
		r.fail("durability", "turn it on: after a crash, evidence that was answered would be gone", "off in Postgres: %s", x.NotDurable)
	}
	switch {
	case x.ProtectedBy == 0:
		r.ok("role", "%s; no table has row-level security", x.Role)
	case x.BypassesRLS != "":
		r.warn("role", "let the service use a role that owns no table and has neither SUPERUSER nor BYPASSRLS", "row-level security of %d tables does not bind %s: %s", x.ProtectedBy, x.Role, x.BypassesRLS)
	default:
		r.ok("role", "%s is bound by the row-level security of %d tables", x.Role, x.ProtectedBy)
	}
}

// examineKeys opens every key. It makes none: neither a key file nor a key.
func (d *doctorCommand) examineKeys(ctx context.Context, r *doctorReport, st *store.Store, x *store.Examination) {
	const keep = "name the key that sealed them with --key-file, --key-command or --key-pkcs11-module; without it agents have to enrol again"
	if x.PlainKeys > 0 {
		r.warn("keys_sealed", "give --key-file (assayd keys generate makes one), then rotate the signing keys", "%d of the service's keys are in the database as they are, %d are sealed", x.PlainKeys, x.SealedKeys)
	} else {
		r.ok("keys_sealed", "%d keys, all sealed", x.SealedKeys)
	}
	if err := d.giveRing(ctx, st); err != nil {
		message, _ := explain(err)
		r.fail("keys_open", keep, "%s", message)
	} else if n, err := st.OpenAllKeys(ctx); err != nil {
		message, _ := explain(err)
		r.fail("keys_open", keep, "%s", message)
	} else {
		r.ok("keys_open", "all %d open", n)
	}
	every := d.Results.SigningKeyRotation
	switch age := time.Since(x.OldestSigner); {
	case x.OldestSigner.IsZero():
		r.ok("key_rotation", "no key signs yet")
	case every == 0:
		r.ok("key_rotation", "by hand; the oldest active key signs since %s", x.OldestSigner.UTC().Format(time.RFC3339))
	case age > every+rotationGrace:
		r.warn("key_rotation", "see that a service runs and its job signing-keys does not fail; assayd keys rotate does it now", "a key signs since %s and should have been followed", x.OldestSigner.UTC().Format(time.RFC3339))
	default:
		r.ok("key_rotation", "next at %s", x.OldestSigner.Add(every).UTC().Format(time.RFC3339))
	}
}

// giveRing gives the store the configured key-encryption keys; unlike the service it makes no key file.
func (d *doctorCommand) giveRing(ctx context.Context, st *store.Store) error {
	inUse, err := st.KEKsInUse(ctx)
	if err != nil {
		return err
	}
	if len(inUse) == 0 && d.KEK.KeyFile == "" && d.DatabaseURL.Empty() && !exists(d.ownKeyFile()) {
		return nil
	}
	var ring *keyring.Ring
	if ring, err = d.ring(inUse, slog.New(slog.DiscardHandler)); err == nil && ring != nil {
		st.UseKeys(ring)
	}
	return err
}

func examineTrust(r *doctorReport, x *store.Examination, fetched bool) {
	now, before := time.Now(), len(r.Checks)
	for _, a := range x.Anchors {
		if a.NotAfter.Before(now) {
			r.warn("trust_anchors", "add its successor with assay trust-anchors add, and disable it", "%s (%s) ended on %s and is enabled", a.Name, a.Purpose, a.NotAfter.UTC().Format(time.DateOnly))
		} else {
			r.warn("trust_anchors", "add its successor with assay trust-anchors add", "%s (%s) ends on %s", a.Name, a.Purpose, a.NotAfter.UTC().Format(time.DateOnly))
		}
	}
	if len(r.Checks) == before {
		r.ok("trust_anchors", "no enabled one ends within 30 days")
	}
	before = len(r.Checks)
	advice := "import what AMD or Intel publish with assay collateral import, or set --collateral-fetch"
	if fetched {
		advice = "assayd job run collateral-fetch says why it was not fetched"
	}
	for _, c := range x.Collateral {
		r.warn("collateral", advice, "%s %s: its time ends on %s", c.Kind, c.Name, c.NotAfter.UTC().Format(time.DateOnly))
	}
	if x.WantedLong > 0 && fetched {
		r.warn("collateral", advice, "%d pieces that checks lack were asked for five times and not found", x.WantedLong)
	}
	if len(r.Checks) == before {
		r.ok("collateral", "none ends within 7 days")
	}
}

func examineWork(r *doctorReport, x *store.Examination) {
	const make = "assayd job run partitions makes them"
	missing, later, filled := "", "", ""
	for _, p := range x.Partitions {
		if !p.ThisMonth {
			missing += " " + p.Table
		} else if !p.NextMonth {
			later += " " + p.Table
		}
		if p.DefaultHasRows {
			filled += " " + p.Table
		}
	}
	switch {
	case missing != "":
		r.fail("partitions", make, "the one of this month is missing:%s", missing)
	case later != "":
		r.warn("partitions", make, "the one of next month is missing:%s", later)
	default:
		r.ok("partitions", "made for this month and the next")
	}
	if filled != "" {
		r.warn("default_partitions", "they are moved when the partition of their month is made; see whether a clock was wrong", "rows are in the default partition of:%s", filled)
	} else {
		r.ok("default_partitions", "empty")
	}
	switch {
	case len(x.ChannelsOff) > 0:
		r.warn("deliveries", "put the receiver right, then assay notifications enable and replay", "disabled because it failed or is gone: %q", x.ChannelsOff)
	case x.DeadLast7d > 0:
		r.warn("deliveries", "assay notifications deliveries --state dead shows why; replay sends again", "%d deliveries were given up in the last 7 days", x.DeadLast7d)
	default:
		r.ok("deliveries", "none was given up in the last 7 days")
	}
	running := time.Since(x.LastBeat) < beatLate
	if running {
		r.ok("service", "one works on this database")
	} else {
		r.warn("service", "start it: nobody judges evidence", "none works on this database")
	}
	late, worst := "", time.Duration(0)
	for what, age := range map[string]time.Duration{"a job of the queue": x.OldestJob, "an event that is to be told": x.OldestEvent, "a count": x.OldestDelta, "a reappraisal": x.OldestReview} {
		if age > worst {
			late, worst = what, age
		}
	}
	const why = "see that a service runs and what its log says of jobs"
	switch {
	case worst > workVeryLate:
		r.fail("jobs", why, "%s waits for %s", late, worst.Round(time.Second))
	case worst > workLate:
		r.warn("jobs", why, "%s waits for %s", late, worst.Round(time.Second))
	default:
		r.ok("jobs", "nothing waits")
	}
}
