package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/schedule"
	"github.com/assay-verifier/assay/store"
)

const (
	partitionMonths   = 3 // made ahead
	partitionInterval = 12 * time.Hour
	collateralFetch   = "collateral-fetch"
)

// jobs are all jobs, whether the service does them or not. To be listed they need neither st nor attestation.
func jobs(st *store.Store, attestation *attest.Service, f *FetchConfig) []schedule.Job {
	return []schedule.Job{
		{Name: "partitions", Every: partitionInterval, Run: func(ctx context.Context) (string, error) { return makePartitions(ctx, st) },
			About: "Makes the monthly partitions of verdicts, evidence and the audit record ahead of time."},
		schedule.EndGrace(st, store.DefaultTenant, time.Now),
		schedule.CountIncidents(st, store.DefaultTenant, time.Now),
		schedule.EndExemptions(st, store.DefaultTenant, time.Now),
		schedule.Collateral(schedule.CollateralConfig{Store: st, Tenant: store.DefaultTenant, Now: time.Now,
			AMDKDS: f.AMDKDSURL, IntelPCS: f.IntelPCSURL, IntelRootCRL: f.IntelRootCRLURL}),
		schedule.Reappraise(attestation, store.DefaultTenant),
		schedule.EndDeliveries(st, time.Now),
	}
}

// runs tells whether the service does the job by itself.
func (f *FetchConfig) runs(job string) bool { return job != collateralFetch || f.CollateralFetch }

// makePartitions makes the partitions that are missing. Without them rows go to the default partitions, so a failure
// loses nothing.
func makePartitions(ctx context.Context, st *store.Store) (string, error) {
	made, err := st.MakePartitions(ctx, time.Now(), partitionMonths)
	if err != nil || made == 0 {
		return "", err
	}
	return fmt.Sprintf("%d partitions made", made), nil
}

// startJobs does the jobs until ctx ends or stop is called, which returns when none is under way. The partitions of this
// month are made when it returns: an insert that has chosen the default partition while this month's is being made
// is refused by Postgres, so the one time that this can happen, on a fresh database, comes before the first request.
func startJobs(ctx context.Context, c *Config, st *store.Store, attestation *attest.Service, log *slog.Logger) (stop func(), err error) {
	if report, err := makePartitions(ctx, st); err != nil && ctx.Err() == nil {
		log.Error("partitions were not made", "error", err)
	} else if report != "" {
		log.Info(report)
	}
	var due []schedule.Job
	for _, j := range jobs(st, attestation, &c.Fetch) {
		if c.Fetch.runs(j.Name) {
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
	for _, j := range jobs(nil, nil, &l.Fetch) {
		list = append(list, listed{j.Name, int(j.Every.Seconds()), l.Fetch.runs(j.Name), j.About})
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
	DataDir     string      `env:"ASSAY_DATA_DIR" default:"${data_dir}" placeholder:"DIR" help:"As for serve; used without --database-url."`
	DatabaseURL string      `env:"ASSAY_DATABASE_URL" placeholder:"URL" help:"As for serve; without it the embedded Postgres, which no running service may use."`
	Fetch       FetchConfig `embed:""`
	Job         string      `arg:"" placeholder:"NAME" help:"Name of the job; assayd job list shows them."`
}

// Run does it.
func (r *jobRunCommand) Run(p *process) (err error) {
	if err := r.Fetch.check(); err != nil {
		return err
	}
	if !known(r.Job, &r.Fetch) { // before a database is started for it
		return badConfig("there is no job %q; assayd job list shows them", r.Job)
	}
	c := &Config{DataDir: r.DataDir, DatabaseURL: r.DatabaseURL}
	url, stop, err := startDatabase(p.ctx, c, newLogger(p.stderr, "warn", "text"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	st, err := store.Open(p.ctx, url, store.Options{MaxConns: 2})
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.CheckMigrations(p.ctx); err != nil {
		return err
	}
	var attestation *attest.Service
	if r.Job == schedule.ReappraiseName { // the others need no keys, and nothing that a database has only once it was served
		if err := st.EnsureTenant(p.ctx, store.DefaultTenant, time.Now()); err != nil {
			return err
		}
		if _, attestation, err = newAttestation(p.ctx, st, "", newLogger(p.stderr, "warn", "text"), nil); err != nil {
			return err
		}
	}
	report, err := schedule.Once(p.ctx, jobs(st, attestation, &r.Fetch), r.Job)
	if err != nil {
		return err
	}
	if report == "" {
		report = "nothing to do"
	}
	_, err = fmt.Fprintln(p.stdout, report)
	return err
}

func known(name string, f *FetchConfig) bool {
	for _, j := range jobs(nil, nil, f) {
		if j.Name == name {
			return true
		}
	}
	return false
}
