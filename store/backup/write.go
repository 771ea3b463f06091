package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/assay-verifier/assay/migrations"
)

// ErrNoSchema is a database in which Assay has no tables.
var ErrNoSchema = errors.New("the database holds no tables of Assay")

// ErrNewer is a schema that this program does not know.
var ErrNewer = errors.New("the schema is newer than this program")

// Options are what both ways take.
type Options struct {
	// Assay is the version of the program, for the manifest.
	Assay string
	// Progress is told of each table that is done; nil for silence.
	Progress func(table string, rows, bytes int64)
}

func (o *Options) progress(e TableEnd) {
	if o.Progress != nil {
		o.Progress(e.Name, e.Rows, e.Bytes)
	}
}

// lockWait bounds the wait for the tables where a migration holds them.
const lockWait = "30s"

// Write writes the database at url to w. A service may go on working on it: one that wants to change the schema waits.
//
// Errors: ErrNoSchema; ErrNewer; a schema whose last migration failed halfway; a role that may not read all rows.
func Write(ctx context.Context, url string, w io.Writer, o Options) (m Manifest, err error) {
	conn, err := connect(ctx, url)
	if err != nil {
		return Manifest{}, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		m, err = write(ctx, tx, w, o)
		return err
	})
	return m, err
}

func connect(ctx context.Context, url string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = "assayd backup"
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("the database does not answer: %w", err)
	}
	return conn, nil
}

func write(ctx context.Context, tx pgx.Tx, to io.Writer, o Options) (Manifest, error) {
	h, err := snapshot(ctx, tx, o)
	if err != nil {
		return Manifest{}, err
	}
	w, err := newWriter(to, h)
	if err != nil {
		return Manifest{}, err
	}
	for _, t := range h.Tables {
		if err := w.begin(); err != nil {
			return Manifest{}, err
		}
		tag, err := tx.Conn().PgConn().CopyTo(ctx, w, `COPY (SELECT `+sqlColumns(t)+` FROM `+sqlName(t.Name)+`) TO STDOUT`)
		if err != nil {
			return Manifest{}, copyFailed("save", t, err)
		}
		if err := w.finish(tag.RowsAffected()); err != nil {
			return Manifest{}, err
		}
		o.progress(w.end)
	}
	return w.close()
}

// copyFailed says what Postgres says without the rows that it may quote: they can hold secrets.
func copyFailed(what string, t Table, err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return fmt.Errorf("%s table %s: %s (SQLSTATE %s)", what, t.Name, pg.Message, pg.Code)
	}
	return fmt.Errorf("%s table %s: %w", what, t.Name, err)
}

// snapshot locks all tables against changes of their form, and reads what the header says. Locks come first: the snapshot
// is taken by the first statement that reads, and must not be older than a migration that they waited for.
func snapshot(ctx context.Context, tx pgx.Tx, o Options) (Header, error) {
	h := Header{Assay: o.Assay}
	if _, err := tx.Exec(ctx, session+`; SET LOCAL lock_timeout = '`+lockWait+`'`); err != nil {
		return h, fmt.Errorf("prepare the backup: %w", err)
	}
	names, err := lockable(ctx, tx)
	if err != nil {
		return h, err
	}
	if _, err := tx.Exec(ctx, `LOCK TABLE `+strings.Join(names, ", ")+` IN ACCESS SHARE MODE`); err != nil {
		return h, fmt.Errorf("lock the tables: %w", err)
	}
	var dirty bool
	if h.SchemaVersion, dirty, h.JobsVersion, err = versions(ctx, tx); err != nil {
		return h, err
	}
	switch {
	case dirty:
		return h, fmt.Errorf("migration %d failed halfway: put the schema in order first", h.SchemaVersion)
	case h.SchemaVersion > migrations.Last():
		return h, fmt.Errorf("the schema is at version %d, and this program knows %d: %w", h.SchemaVersion, migrations.Last(), ErrNewer)
	}
	if h.Tables, err = tables(ctx, tx); err != nil {
		return h, err
	}
	if len(h.Tables) != len(names) {
		return h, errors.New("the schema was changed meanwhile: try again")
	}
	if err := tx.QueryRow(ctx, `SELECT now(), current_setting('server_version'), (SELECT count(*) FROM tenants)`).Scan(&h.CreatedAt, &h.Postgres, &h.Tenants); err != nil {
		return h, fmt.Errorf("read the manifest: %w", err)
	}
	h.CreatedAt = h.CreatedAt.UTC()
	return h, keysIn(ctx, tx, &h)
}

// lockable are the tables by another transaction's eyes: this one must not have a snapshot yet.
func lockable(ctx context.Context, tx pgx.Tx) ([]string, error) {
	other, err := pgx.ConnectConfig(ctx, tx.Conn().Config())
	if err != nil {
		return nil, fmt.Errorf("the database does not answer: %w", err)
	}
	defer func() { _ = other.Close(context.WithoutCancel(ctx)) }()
	var names []string
	err = pgx.BeginFunc(ctx, other, func(tx pgx.Tx) error {
		all, err := tables(ctx, tx)
		for _, t := range all {
			names = append(names, sqlName(t.Name))
		}
		return err
	})
	return names, err
}

// keysIn tells which keys are needed to open those in the file. Before migration 0016 none was sealed.
func keysIn(ctx context.Context, tx pgx.Tx, h *Header) error {
	h.KeyEncryptionKeys = []string{}
	sealed := `SELECT coalesce(array_agg(DISTINCT kek_id) FILTER (WHERE kek_id IS NOT NULL), '{}'), count(*) FILTER (WHERE kek_id IS NULL AND length(key) > 0) FROM service_keys`
	if h.SchemaVersion < 16 {
		sealed = `SELECT '{}'::text[], count(*) FROM service_keys`
	}
	if err := tx.QueryRow(ctx, sealed).Scan(&h.KeyEncryptionKeys, &h.PlainKeys); err != nil {
		return fmt.Errorf("read which keys are needed: %w", err)
	}
	return nil
}
