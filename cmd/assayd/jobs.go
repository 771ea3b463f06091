package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/schedule"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/keyring"
)

const (
	partitionMonths   = 3 // made ahead
	partitionInterval = 12 * time.Hour
	collateralFetch   = "collateral-fetch"

	signingKeys         = "signing-keys"
	signingKeysInterval = 30 * time.Second // a replica knows by then what another has changed
)

// worker is what jobs work with. To list the jobs, the configuration is enough.
type worker struct {
	st          *store.Store
	attestation *attest.Service
	tokens      *token.Service
	fetch       *FetchConfig
	silence     *SilenceConfig
	retention   *RetentionConfig
	audit       *AuditConfig
}

// jobs are all jobs that can also be called by hand, whether the service does them or not.
func (w *worker) jobs() []schedule.Job {
	st, tokens, f := w.st, w.tokens, w.fetch
	each := func(of func(tenant uuid.UUID) schedule.Job) schedule.Job { return schedule.ForTenants(st, of) }
	return []schedule.Job{
		{Name: "partitions", Every: partitionInterval, Run: func(ctx context.Context) (string, error) { return makePartitions(ctx, st) },
			About: "Makes the monthly partitions of verdicts, evidence and the audit record ahead of time."},
		each(func(t uuid.UUID) schedule.Job { return schedule.Deadlines(st, t, w.silence.limits(), databaseClock) }),
		each(func(t uuid.UUID) schedule.Job { return schedule.Rollups(st, t, time.Now) }),
		each(func(t uuid.UUID) schedule.Job { return schedule.EndGrace(st, t, time.Now) }),
		each(func(t uuid.UUID) schedule.Job { return schedule.CountIncidents(st, t, time.Now) }),
		each(func(t uuid.UUID) schedule.Job { return schedule.EndExemptions(st, t, time.Now) }),
		each(func(t uuid.UUID) schedule.Job { return schedule.FleetDetection(st, t, time.Now) }),
		each(func(t uuid.UUID) schedule.Job {
			return schedule.Collateral(schedule.CollateralConfig{Store: st, Tenant: t, Now: time.Now,
				AMDKDS: f.AMDKDSURL, IntelPCS: f.IntelPCSURL, IntelRootCRL: f.IntelRootCRLURL})
		}),
		each(func(t uuid.UUID) schedule.Job { return schedule.Reappraise(w.attestation, t) }),
		{Name: signingKeys, Every: signingKeysInterval, Run: func(ctx context.Context) (string, error) { return tokens.Keep(ctx) },
			About: "Publishes the keys that will sign results next, lets them sign when it is time, and erases those that have ended."},
		schedule.EndDeliveries(st, time.Now),
		each(func(t uuid.UUID) schedule.Job {
			return schedule.PruneAlerts(st, t, w.retention.alerts(), time.Now)
		}),
		each(func(t uuid.UUID) schedule.Job { return schedule.Retention(st, t, w.retention.standard(), time.Now) }),
		schedule.DropPartitions(st, time.Now),
		each(func(t uuid.UUID) schedule.Job { return schedule.AuditChain(st, t, time.Now) }),
		each(func(t uuid.UUID) schedule.Job { return schedule.AuditCheckpoints(w.attestation, t, w.audit.every()) }),
	}
}

// heartbeat is the one job that only the service does.
func (w *worker) heartbeat() schedule.Job {
	return schedule.ForTenants(w.st, func(t uuid.UUID) schedule.Job { return schedule.Heartbeat(w.st, t, databaseClock) })
}

// runs tells whether the service does the job by itself.
func (w *worker) runs(job string) bool {
	switch job {
	case collateralFetch:
		return w.fetch.CollateralFetch
	case schedule.AuditCheckpointName:
		return w.audit.CheckpointInterval > 0
	}
	return true
}

// makePartitions makes the partitions that are missing. Without them rows go to the default partitions, so a failure
// loses nothing.
func makePartitions(ctx context.Context, st *store.Store) (string, error) {
	made, err := st.MakePartitions(ctx, time.Now(), partitionMonths)
	if err != nil || made == 0 {
		return "", err
	}
	return fmt.Sprintf("%d partitions made", made), nil
}

// databaseClock is the time that stands for the database's clock: replicas whose clocks differ keep one record of who serves.
func databaseClock() time.Time { return time.Time{} }

// startJobs does the jobs until ctx ends or stop is called, which returns when none is under way. The partitions of this
// month are made when it returns: an insert that has chosen the default partition while this month's is being made
// is refused by Postgres, so the one time that this can happen, on a fresh database, comes before the first request.
func startJobs(ctx context.Context, w *worker, log *slog.Logger) (stop func(), err error) {
	if report, err := makePartitions(ctx, w.st); err != nil && ctx.Err() == nil {
		log.Error("partitions were not made", "error", err)
	} else if report != "" {
		log.Info(report)
	}
	heartbeat := w.heartbeat()
	if _, err := heartbeat.Run(ctx); err != nil && ctx.Err() == nil { // before anybody looks at deadlines
		log.Error("no heartbeat was noted", "error", err)
	}
	due := []schedule.Job{heartbeat}
	for _, j := range w.jobs() {
		if w.runs(j.Name) {
			due = append(due, j)
		}
	}
	scheduler, err := schedule.New(log, due...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		scheduler.Run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}, nil
}

// jobCommand holds the commands about jobs.
type jobCommand struct {
	List jobListCommand `cmd:"" help:"List the jobs, how often the service does them, and whether it does."`
	Run  jobRunCommand  `cmd:"" help:"Do one round of a job now, and print what it did. collateral-fetch is done also where the service does not do it by itself."`
}

// jobListCommand lists the jobs.
type jobListCommand struct {
	Fetch  FetchConfig `embed:""`
	Audit  AuditConfig `embed:""`
	Output string      `short:"o" enum:"human,json" default:"human" help:"human or json."`
}

// Run lists them.
func (l *jobListCommand) Run(p *process) error {
	type listed struct {
		Name    string `json:"name"`
		Seconds int    `json:"interval_seconds"`
		Enabled bool   `json:"enabled"`
		About   string `json:"about"`
	}
	list := []listed{}
	w := &worker{fetch: &l.Fetch, silence: &SilenceConfig{}, retention: &RetentionConfig{}, audit: &l.Audit}
	for _, j := range w.jobs() {
		list = append(list, listed{j.Name, int(j.Every.Seconds()), w.runs(j.Name), j.About})
	}
	if l.Output == "json" {
		return json.NewEncoder(p.stdout).Encode(map[string]any{"items": list})
	}
	for _, j := range list {
		state := "every " + (time.Duration(j.Seconds) * time.Second).String()
		if !j.Enabled {
			state = "off"
		}
		fmt.Fprintf(p.stdout, "%-18s %-16s %s\n", j.Name, state, j.About)
	}
	return nil
}

// jobRunCommand does one round.
type jobRunCommand struct {
	DataDir     string          `env:"ASSAY_DATA_DIR" default:"${data_dir}" placeholder:"DIR" help:"As for serve; used without --database-url."`
	DatabaseURL keyring.Secret  `env:"ASSAY_DATABASE_URL" placeholder:"URL" help:"As for serve; without it the embedded Postgres, which no running service may use."`
	Fetch       FetchConfig     `embed:""`
	Silence     SilenceConfig   `embed:""`
	Retention   RetentionConfig `embed:""`
	KEK         KEKConfig       `embed:""`
	Results     ResultConfig    `embed:""`
	Roles       RoleConfig      `embed:""`
	Job         string          `arg:"" placeholder:"NAME" help:"Name of the job; assayd job list shows them."`
}

// Run does it.
func (r *jobRunCommand) Run(p *process) (err error) {
	if err := errors.Join(r.Fetch.check(), r.Silence.check(), r.Retention.check(), r.Results.check()); err != nil {
		return err
	}
	if !known(r.Job, &r.Fetch) { // before a database is started for it
		return badConfig("there is no job %q; assayd job list shows them", r.Job)
	}
	c := &Config{DataDir: r.DataDir, DatabaseURL: r.DatabaseURL, KEK: r.KEK, Roles: r.Roles}
	log := newLogger(p.stderr, "warn", "text")
	url, stop, err := startDatabase(p.ctx, c, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	st, err := r.open(p.ctx, c, url, log)
	if err != nil {
		return err
	}
	defer st.Close()
	var attestation *attest.Service
	var tokens *token.Service
	if r.needsKeys() { // the others need no keys, and nothing that a database has only once it was served
		if err := st.EnsureTenant(p.ctx, store.DefaultTenant, time.Now()); err != nil {
			return err
		}
		if tokens, attestation, err = newAttestation(p.ctx, st, "", &r.Results, token.MachineTokenLifetime, log, nil); err != nil {
			return err
		}
	}
	w := &worker{st: st, attestation: attestation, tokens: tokens, fetch: &r.Fetch, silence: &r.Silence, retention: &r.Retention, audit: &AuditConfig{}}
	report, err := schedule.Once(p.ctx, w.jobs(), r.Job)
	if err != nil {
		return err
	}
	if report == "" {
		report = "nothing to do"
	}
	_, err = fmt.Fprintln(p.stdout, report)
	return err
}

// needsKeys tells whether the job needs the service's keys.
func (r *jobRunCommand) needsKeys() bool {
	return r.Job == schedule.ReappraiseName || r.Job == signingKeys || r.Job == schedule.AuditCheckpointName
}

// open opens the store, with the keys where the job needs them.
func (r *jobRunCommand) open(ctx context.Context, c *Config, url string, log *slog.Logger) (*store.Store, error) {
	if r.needsKeys() {
		return c.openWithKeys(ctx, url, store.Options{MaxConns: 2, Role: c.Roles.DatabaseAppRole}, log)
	}
	st, err := store.Open(ctx, url, store.Options{MaxConns: 2, Role: c.Roles.DatabaseAppRole})
	if err != nil {
		return nil, err
	}
	if err := st.CheckMigrations(ctx); err != nil {
		st.Close()
		return nil, err
	}
	return st, nil
}

func known(name string, f *FetchConfig) bool {
	for _, j := range (&worker{fetch: f, silence: &SilenceConfig{}, retention: &RetentionConfig{}, audit: &AuditConfig{}}).jobs() {
		if j.Name == name {
			return true
		}
	}
	return false
}
