package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/backup"
	"github.com/assay-verifier/assay/store/embedded"
	"github.com/assay-verifier/assay/store/keyring"
)

// databaseFlags name the database of the commands that look at it, or make it anew.
type databaseFlags struct {
	DataDir     string         `env:"ASSAY_DATA_DIR" default:"${data_dir}" placeholder:"DIR" help:"As for serve; used without --database-url."`
	DatabaseURL keyring.Secret `env:"ASSAY_DATABASE_URL" placeholder:"URL" help:"As for serve. Give a password by the variable or by passfile=, not by the flag."`

	Owner OwnerConfig `embed:""`
}

// reachDatabase gives the owner's URL of the configured database, that of a service which runs at this moment too; the embedded
// one is started where it does not run. stop ends what was started.
func reachDatabase(ctx context.Context, c *Config, log *slog.Logger) (url string, stop func() error, err error) {
	url, stop, err = startDatabase(ctx, c, log)
	if !errors.Is(err, embedded.ErrInUse) {
		return c.owner(url), stop, err
	}
	url, err = embedded.Running(c.postgresDir())
	return url, func() error { return nil }, err
}

// backupCommand writes the database into a file.
type backupCommand struct {
	databaseFlags
	File   string `arg:"" placeholder:"FILE" help:"Where to write it, mode 0600; one that is there stays."`
	Output string `short:"o" enum:"human,json" default:"human" help:"human or json."`
}

// Run writes it. Half a file has another name, and is removed.
func (b *backupCommand) Run(p *process) (err error) {
	if exists(b.File) {
		return badConfig("%s is there already: nothing was changed", b.File)
	}
	c := &Config{DataDir: b.DataDir, DatabaseURL: b.DatabaseURL, Owner: b.Owner}
	url, stop, err := reachDatabase(p.ctx, c, newLogger(p.stderr, "warn", "text"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	f, err := os.CreateTemp(filepath.Dir(b.File), "."+filepath.Base(b.File)+".part-*") // mode 0600
	if err != nil {
		return badConfig("the backup cannot be written: %v", err)
	}
	defer func() { err = errors.Join(err, ignoreMissing(os.Remove(f.Name()))) }()
	m, err := backup.Write(p.ctx, url, f, backup.Options{Assay: version, Progress: progress(p.stderr, "saved")})
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), b.File); err != nil { // unlike rename it does not replace
		return fmt.Errorf("give the backup its name: %w", err)
	}
	return printManifest(p.stdout, b.Output, "saved", b.File, &m)
}

// restoreCommand makes a database of a file.
type restoreCommand struct {
	databaseFlags
	File    string `arg:"" placeholder:"FILE" help:"File that assayd backup wrote."`
	Replace bool   `help:"Replace what is in the database. It is lost."`
	Check   bool   `help:"Read the whole file, say what is in it, and touch no database."`
	Output  string `short:"o" enum:"human,json" default:"human" help:"human or json."`
}

// Run restores it.
func (r *restoreCommand) Run(p *process) (err error) {
	f, err := os.Open(r.File)
	if err != nil {
		return badConfig("the backup cannot be read: %v", err)
	}
	defer f.Close()
	if r.Check {
		m, err := backup.Verify(f)
		if err != nil {
			return explainBackup(r.File, err)
		}
		return printManifest(p.stdout, r.Output, "holds", r.File, &m)
	}
	c := &Config{DataDir: r.DataDir, DatabaseURL: r.DatabaseURL, Owner: r.Owner}
	url, stop, err := startDatabase(p.ctx, c, newLogger(p.stderr, "warn", "text"))
	if err != nil {
		return explainBackup(r.File, err)
	}
	defer func() { err = errors.Join(err, stop()) }()
	url = c.owner(url)
	m, err := backup.Restore(p.ctx, url, f, r.Replace, backup.Options{Progress: progress(p.stderr, "restored")})
	if err != nil {
		return explainBackup(r.File, err)
	}
	if err := auditRestore(p.ctx, url, &m); err != nil {
		return err
	}
	return printManifest(p.stdout, r.Output, "restored", r.File, &m)
}

// explainBackup adds what can be done.
func explainBackup(file string, err error) error {
	switch {
	case errors.Is(err, backup.ErrDamaged):
		return fmt.Errorf("%s: %w; the database is as it was", file, err)
	case errors.Is(err, backup.ErrNotEmpty):
		return badConfig("%v: --replace restores all the same, and what is there is lost", err)
	case errors.Is(err, backup.ErrNewer):
		return badConfig("%v: use an assayd of that version or a later one", err)
	case errors.Is(err, embedded.ErrInUse):
		return fmt.Errorf("%w: stop the service first", err)
	}
	return err
}

// auditRestore records in the restored database that it was.
func auditRestore(ctx context.Context, url string, m *backup.Manifest) error {
	st, err := store.Open(ctx, url, store.Options{MaxConns: 2})
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.EnsureTenant(ctx, store.DefaultTenant, time.Now()); err != nil {
		return err
	}
	detail, err := json.Marshal(map[string]any{"created_at": m.CreatedAt, "sha256": m.SHA256, "rows": m.Rows, "schema_version": m.SchemaVersion})
	if err != nil {
		return err
	}
	return st.RecordAudit(ctx, store.DefaultTenant, "database.restore", "database:", detail, time.Now(), store.Actor{Kind: "system", ID: "operator"})
}

// progress tells of each table that is done.
func progress(to io.Writer, what string) func(table string, rows, bytes int64) {
	return func(table string, rows, bytes int64) {
		if rows > 0 {
			fmt.Fprintf(to, "%s %-28s %10d rows %9.1f MB\n", what, table, rows, float64(bytes)/1e6)
		}
	}
}

func printManifest(to io.Writer, output, what, file string, m *backup.Manifest) error {
	if output == "json" {
		return json.NewEncoder(to).Encode(m)
	}
	fmt.Fprintf(to, "%s %s: %d rows of %d tables, schema version %d, as of %s\nsha256 %s\n", what, file, m.Rows, len(m.Tables), m.SchemaVersion, m.CreatedAt.Format(time.RFC3339), m.SHA256)
	if len(m.KeyEncryptionKeys) > 0 {
		fmt.Fprintf(to, "The service's keys in it are sealed with %s. That key is not in the file: keep a copy of it elsewhere.\n", strings.Join(m.KeyEncryptionKeys, ", "))
	}
	if m.PlainKeys > 0 {
		fmt.Fprintf(to, "%d of the service's keys are in it as they are: keep the file as you keep private keys.\n", m.PlainKeys)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
