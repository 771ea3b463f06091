package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/keyring"
)

// tenantsCommand holds the commands about tenants. They ask the database and not the service, since no token reaches beyond its
// tenant; a running service knows a new tenant at once.
type tenantsCommand struct {
	Create tenantsCreateCommand `cmd:"" help:"Make a tenant, and print the token of its first administrator, which is shown this once."`
	List   tenantsListCommand   `cmd:"" help:"List the tenants, in the order in which they were made."`
	Rename tenantsRenameCommand `cmd:"" help:"Give a tenant another name. Nothing but people goes by it."`
}

// tenantStore are the settings of the commands about tenants.
type tenantStore struct {
	DataDir     string         `env:"ASSAY_DATA_DIR" default:"${data_dir}" placeholder:"DIR" help:"As for serve; used without --database-url."`
	DatabaseURL keyring.Secret `env:"ASSAY_DATABASE_URL" placeholder:"URL" help:"As for serve; without it the embedded Postgres, which no running service may use."`
	Roles       RoleConfig     `embed:""`
	Output      string         `short:"o" enum:"human,json" default:"human" help:"human or json."`
}

// with opens the database for f.
func (t *tenantStore) with(ctx context.Context, p *process, f func(*store.Store) error) (err error) {
	c := &Config{DataDir: t.DataDir, DatabaseURL: t.DatabaseURL, Roles: t.Roles}
	url, stop, err := startDatabase(ctx, c, newLogger(p.stderr, "warn", "text"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	st, err := store.Open(ctx, url, store.Options{MaxConns: 2, Role: c.Roles.DatabaseAppRole})
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.CheckMigrations(ctx); err != nil {
		return err
	}
	return f(st)
}

// tenantJSON is a tenant as a machine reads it.
type tenantJSON struct {
	ID         uuid.UUID `json:"id"`
	Name       string    `json:"name"`
	CreatedAt  time.Time `json:"created_at"`
	AdminToken string    `json:"admin_token,omitempty"` // of one that was just made
}

func tenantOf(t store.Tenant) tenantJSON {
	return tenantJSON{ID: t.ID, Name: t.Name, CreatedAt: t.CreatedAt}
}

// operator is who does what the command line says, in the tenant's audit record.
var operator = store.Actor{Kind: "system", ID: "assayd tenants"}

// tenantsCreateCommand makes a tenant.
type tenantsCreateCommand struct {
	tenantStore `embed:""`
	Name        string `arg:"" help:"Name of the tenant, 1 to 200 characters."`
	ID          string `name:"id" placeholder:"UUID" help:"Its id, where it has to be one that is known already; a new one otherwise."`
	TrustBundle string `env:"ASSAY_TRUST_BUNDLE" enum:"enabled,disabled,none" default:"enabled" help:"As for serve: how the shipped roots of vendors begin for it."`
}

// Run makes it.
func (t *tenantsCreateCommand) Run(p *process) error {
	now := time.Now()
	id := store.NewTenantID(now)
	if t.ID != "" {
		var err error
		if id, err = uuid.Parse(t.ID); err != nil || id == uuid.Nil {
			return badConfig("--id: %q is no UUID", t.ID)
		}
	}
	return t.with(p.ctx, p, func(st *store.Store) error {
		made, err := st.CreateTenant(p.ctx, id, t.Name, now, operator)
		if errors.Is(err, store.ErrTenantName) || errors.Is(err, store.ErrConflict) {
			return badConfig("%v", err)
		}
		if err != nil {
			return err
		}
		if err := syncTrustBundle(p.ctx, st, id, t.TrustBundle, now); err != nil {
			return fmt.Errorf("the tenant %s is made, and its trust anchors are not yet (the service brings them at its next start): %w", id, err)
		}
		secret, err := server.NewAdminToken(p.ctx, st, id, "first administrator", now, rand.Reader)
		if err != nil {
			return fmt.Errorf("the tenant %s is made, and its token is not (assayd admin-token --tenant makes one): %w", id, err)
		}
		out := tenantOf(made)
		out.AdminToken = secret
		if t.Output == "json" {
			return json.NewEncoder(p.stdout).Encode(out)
		}
		_, err = fmt.Fprintf(p.stdout, "tenant       %s\nname         %s\nadmin token  %s\n", out.ID, out.Name, out.AdminToken)
		return err
	})
}

// tenantsListCommand lists tenants.
type tenantsListCommand struct {
	tenantStore `embed:""`
}

// Run lists them.
func (t *tenantsListCommand) Run(p *process) error {
	return t.with(p.ctx, p, func(st *store.Store) error {
		all, err := st.ListTenants(p.ctx)
		if err != nil {
			return err
		}
		items := make([]tenantJSON, len(all))
		for i, tenant := range all {
			items[i] = tenantOf(tenant)
		}
		if t.Output == "json" {
			return json.NewEncoder(p.stdout).Encode(map[string]any{"items": items})
		}
		w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
		for _, i := range items {
			fmt.Fprintf(w, "%s\t%s\t%s\n", i.ID, i.CreatedAt.UTC().Format(time.RFC3339), i.Name)
		}
		return w.Flush()
	})
}

// tenantsRenameCommand renames a tenant.
type tenantsRenameCommand struct {
	tenantStore `embed:""`
	ID          string `arg:"" name:"id" placeholder:"UUID" help:"The tenant."`
	Name        string `arg:"" help:"Its new name."`
}

// Run renames it.
func (t *tenantsRenameCommand) Run(p *process) error {
	id, err := uuid.Parse(t.ID)
	if err != nil {
		return badConfig("%q is no UUID; assayd tenants list shows those of the tenants", t.ID)
	}
	return t.with(p.ctx, p, func(st *store.Store) error {
		renamed, err := st.RenameTenant(p.ctx, id, t.Name, time.Now(), operator)
		if errors.Is(err, store.ErrTenantName) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
			return badConfig("%v", err)
		}
		if err != nil {
			return err
		}
		if t.Output == "json" {
			return json.NewEncoder(p.stdout).Encode(tenantOf(renamed))
		}
		_, err = fmt.Fprintf(p.stdout, "tenant  %s\nname    %s\n", renamed.ID, renamed.Name)
		return err
	})
}
