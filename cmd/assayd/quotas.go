package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/keyring"
)

// quotasCommand holds the commands about what tenants may have.
type quotasCommand struct {
	Set  quotasSetCommand  `cmd:"" help:"Set what a tenant may have. What it has above that stays."`
	Show quotasShowCommand `cmd:"" help:"Show what a tenant may have, and has."`
}

// quotaStore are the settings of the commands that open the database without its keys.
type quotaStore struct {
	DataDir     string            `env:"ASSAY_DATA_DIR" default:"${data_dir}" placeholder:"DIR" help:"As for serve; used without --database-url."`
	DatabaseURL keyring.Secret    `env:"ASSAY_DATABASE_URL" placeholder:"URL" help:"As for serve; without it the embedded Postgres, which no running service may use."`
	Quota       map[string]string `env:"ASSAY_QUOTA" mapsep:"," placeholder:"KIND=N,..." help:"As for serve: what tenants may have for which nothing else was set."`

	Roles RoleConfig `embed:""`
}

// with opens the database for f.
func (q *quotaStore) with(p *process, f func(*store.Store) error) (err error) {
	defaults, err := (&LimitConfig{Quota: q.Quota}).quotas()
	if err != nil {
		return err
	}
	c := &Config{DataDir: q.DataDir, DatabaseURL: q.DatabaseURL, Roles: q.Roles}
	url, stop, err := startDatabase(p.ctx, c, newLogger(p.stderr, "warn", "text"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	st, err := store.Open(p.ctx, url, store.Options{MaxConns: 2, Quotas: defaults, Role: c.Roles.DatabaseAppRole})
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.CheckMigrations(p.ctx); err != nil {
		return err
	}
	return f(st)
}

// quotasSetCommand sets quotas.
type quotasSetCommand struct {
	Tenant uuid.UUID         `arg:"" placeholder:"TENANT" help:"Id of the tenant."`
	Quotas map[string]string `arg:"" placeholder:"KIND=N" help:"Number, unlimited, or default for what the service gives all: machines, baselines, baseline_versions, join_tokens, api_tokens, notification_channels, evidence_bytes_per_day."`
	Store  quotaStore        `embed:""`
}

// Run sets them.
func (s *quotasSetCommand) Run(p *process) error {
	set := map[store.QuotaKind]*int64{}
	for name, text := range s.Quotas {
		kind, n, err := readQuota(name, text)
		if err != nil {
			return err
		}
		set[kind] = n
	}
	return s.Store.with(p, func(st *store.Store) error {
		for _, kind := range slices.Sorted(maps.Keys(set)) {
			if err := st.SetQuota(p.ctx, s.Tenant, kind, set[kind], time.Now(), store.Actor{Kind: "system", ID: "assayd"}); err != nil {
				return err
			}
		}
		return nil
	})
}

// quotasShowCommand shows quotas.
type quotasShowCommand struct {
	Tenant uuid.UUID  `arg:"" placeholder:"TENANT" help:"Id of the tenant."`
	Output string     `short:"o" enum:"human,json" default:"human" help:"human or json."`
	Store  quotaStore `embed:""`
}

// shownQuota is one in JSON; a limit that is absent is none.
type shownQuota struct {
	Kind  store.QuotaKind `json:"kind"`
	Limit *int64          `json:"limit"`
	Used  int64           `json:"used"`
	Own   bool            `json:"own"`
}

// Run shows them.
func (s *quotasShowCommand) Run(p *process) error {
	var list []store.Quota
	err := s.Store.with(p, func(st *store.Store) (err error) {
		list, err = st.Quotas(p.ctx, s.Tenant, time.Now())
		return err
	})
	if err != nil {
		return err
	}
	if s.Output == "json" {
		shown := make([]shownQuota, len(list))
		for i, q := range list {
			shown[i] = shownQuota{Kind: q.Kind, Used: q.Used, Own: q.Own}
			if q.Limit != store.Unlimited {
				shown[i].Limit = &list[i].Limit
			}
		}
		return json.NewEncoder(p.stdout).Encode(map[string]any{"quotas": shown})
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KIND\tLIMIT\tUSED\tSET BY")
	for _, q := range list {
		limit, by := fmt.Sprint(q.Limit), "default"
		if q.Limit == store.Unlimited {
			limit = "unlimited"
		}
		if q.Own {
			by = "operator"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", q.Kind, limit, q.Used, by)
	}
	return w.Flush()
}
