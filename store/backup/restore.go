package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/migrations"
	"github.com/assay-verifier/assay/store"
)

// ErrNotEmpty is a database that a backup would replace.
var ErrNotEmpty = errors.New("the database is not empty")

// ErrInUse is a database that others are connected to.
var ErrInUse = errors.New("the database is in use")

// Restore makes the database at url what it was: nothing else is in it afterwards. The file is read twice: before anything is changed
// all of it is checked. Then the schema is brought to the file's version, the rows are loaded in one transaction, and the schema is
// brought to the version of this program. Where it fails on the way the database is as it was, or holds an empty schema.
//
// replace allows a database with content, which is lost. No service may run on it.
//
// Errors: ErrDamaged, ErrNewer, ErrNotEmpty, ErrInUse.
func Restore(ctx context.Context, url string, file io.ReadSeeker, replace bool, o Options) (Manifest, error) {
	m, err := Verify(file)
	if err != nil {
		return Manifest{}, err
	}
	if m.SchemaVersion == 0 || m.SchemaVersion > migrations.Last() {
		return Manifest{}, fmt.Errorf("the backup has schema version %d, and this program knows %d: %w", m.SchemaVersion, migrations.Last(), ErrNewer)
	}
	if err := prepare(ctx, url, m.Header, replace); err != nil {
		return Manifest{}, err
	}
	if err := store.MigrateTo(ctx, url, m.SchemaVersion, m.JobsVersion); err != nil {
		return Manifest{}, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return Manifest{}, err
	}
	if err := load(ctx, url, file, m, o); err != nil {
		return Manifest{}, err
	}
	return m, store.Migrate(ctx, url)
}

// prepare refuses a database that must not be touched. One of another version is emptied here, since migrations refuse to take back
// what holds data; one of the same version in the transaction that loads.
func prepare(ctx context.Context, url string, h Header, replace bool) error {
	conn, err := connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := nobodyElse(ctx, conn); err != nil {
		return err
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		schema, dirty, _, err := versions(ctx, tx)
		switch {
		case err != nil:
			return err
		case schema == 0:
			return nil
		case dirty:
			return fmt.Errorf("migration %d failed halfway: restore into another database", schema)
		case schema > migrations.Last():
			return fmt.Errorf("the database's schema is at version %d, and this program knows %d: %w", schema, migrations.Last(), ErrNewer)
		}
		all, err := tables(ctx, tx)
		if err != nil {
			return err
		}
		var tenants int
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM tenants`).Scan(&tenants); err != nil {
			return fmt.Errorf("look whether the database is empty: %w", err)
		}
		if tenants > 0 && !replace {
			return ErrNotEmpty
		}
		if schema == h.SchemaVersion {
			return nil
		}
		restoreTriggers, err := triggers(ctx, tx)
		if err != nil {
			return err
		}
		return errors.Join(empty(ctx, tx, all), restoreTriggers())
	})
}

// leaving is how long connections that have just been closed may take to end.
const leaving = 5 * time.Second

// nobodyElse refuses a database that others of this role are connected to.
func nobodyElse(ctx context.Context, conn *pgx.Conn) error {
	for end := time.Now().Add(leaving); ; {
		var others int
		if err := conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
			AND backend_type = 'client backend'`).Scan(&others); err != nil {
			return fmt.Errorf("look who uses the database: %w", err)
		}
		if others == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w: %d other connections of this role are open; stop the service first", ErrInUse, others)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// load loads the rows in one transaction.
func load(ctx context.Context, url string, file io.Reader, m Manifest, o Options) error {
	r, err := newReader(file)
	if err != nil {
		return err
	}
	defer r.close()
	conn, err := connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, session); err != nil {
			return fmt.Errorf("prepare the restore: %w", err)
		}
		here, err := tables(ctx, tx)
		if err != nil {
			return err
		}
		if err := sameTables(here, r.Header.Tables); err != nil {
			return err
		}
		if err := makePartitions(ctx, tx, r.Header.Tables); err != nil {
			return err
		}
		restoreTriggers, err := triggers(ctx, tx)
		if err != nil {
			return err
		}
		if err := empty(ctx, tx, here); err != nil {
			return err
		}
		if err := loadRows(ctx, tx, r, m, o); err != nil {
			return err
		}
		if err := sequences(ctx, tx, here); err != nil {
			return err
		}
		return restoreTriggers()
	})
	if err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `ANALYZE`); err != nil {
		return fmt.Errorf("collect statistics: %w", err)
	}
	return nil
}

// loadRows loads all tables, and holds what was read against the manifest of the first reading: the file may have been
// changed in between.
func loadRows(ctx context.Context, tx pgx.Tx, r *reader, m Manifest, o Options) error {
	for {
		t, ok, err := r.next()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		tag, err := tx.Conn().PgConn().CopyFrom(ctx, r, `COPY `+sqlName(t.Name)+` (`+sqlColumns(t)+`) FROM STDIN`)
		if err != nil {
			return copyFailed("load", t, err)
		}
		end := r.ends[len(r.ends)-1]
		if r.open || tag.RowsAffected() != end.Rows {
			return fmt.Errorf("load table %s: %d rows became %d", t.Name, end.Rows, tag.RowsAffected())
		}
		o.progress(end)
	}
	again, err := r.finish()
	if err != nil {
		return err
	}
	if again.SHA256 != m.SHA256 {
		return damaged("it was changed while it was read")
	}
	return nil
}

// sameTables refuses a file whose tables are not those that the migrations made.
func sameTables(here, there []Table) error {
	byName := map[string]Table{}
	for _, t := range here {
		byName[t.Name] = t
	}
	for _, t := range there {
		own, ok := byName[t.Name]
		if !ok {
			return fmt.Errorf("the backup has a table %s, which the schema of its version has not", t.Name)
		}
		a, b := slices.Sorted(slices.Values(own.Columns)), slices.Sorted(slices.Values(t.Columns))
		if !slices.Equal(a, b) {
			return fmt.Errorf("table %s has the columns %s in the backup, and %s in the schema of its version", t.Name, strings.Join(b, ", "), strings.Join(a, ", "))
		}
		delete(byName, t.Name)
	}
	for name := range byName {
		return fmt.Errorf("the schema of the backup's version has a table %s, which is not in it", name)
	}
	return nil
}

// makePartitions makes the months that the tables had, before rows come that belong there.
func makePartitions(ctx context.Context, tx pgx.Tx, all []Table) error {
	for _, t := range all {
		for _, month := range t.Months {
			if _, err := tx.Exec(ctx, `SELECT assay_make_partitions($1::text::regclass, $2, ($3::text || '-01 00:00:00+00')::timestamptz, 0)`, sqlName(t.Name), t.PartitionKey, month); err != nil {
				return fmt.Errorf("make the partition %s of %s: %w", month, t.Name, err)
			}
		}
	}
	return nil
}

// empty takes all rows out of the tables.
func empty(ctx context.Context, tx pgx.Tx, all []Table) error {
	names := make([]string, len(all))
	for i, t := range all {
		names[i] = sqlName(t.Name)
	}
	if _, err := tx.Exec(ctx, `TRUNCATE `+strings.Join(names, ", ")); err != nil {
		return fmt.Errorf("empty the tables: %w", err)
	}
	return nil
}

// triggers lets the triggers of all tables rest, since what they did is in the file: they would count, tell and chain again.
// The other end puts each back as it was. Constraints stay in force.
func triggers(ctx context.Context, tx pgx.Tx) (restore func() error, err error) {
	rows, _ := tx.Query(ctx, `SELECT format('ALTER TABLE ONLY %I.%I', n.nspname, c.relname), quote_ident(t.tgname), t.tgenabled::text
		FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname IN (current_schema(), $1) AND NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY 1, 2`, jobSchema)
	type trigger struct{ table, name, state string }
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t trigger, err error) {
		err = row.Scan(&t.table, &t.name, &t.state)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the triggers: %w", err)
	}
	alter := func(what func(trigger) string) error {
		for _, t := range all {
			if _, err := tx.Exec(ctx, t.table+` `+what(t)+` TRIGGER `+t.name); err != nil {
				return fmt.Errorf("switch the trigger %s: %w", t.name, err)
			}
		}
		return nil
	}
	return func() error {
		return alter(func(t trigger) string {
			return map[string]string{"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}[t.state]
		})
	}, alter(func(trigger) string { return "DISABLE" })
}

// sequences lets those that number rows (the job queue's) go on behind the highest number that was loaded.
func sequences(ctx context.Context, tx pgx.Tx, all []Table) error {
	for _, t := range all {
		name := sqlName(t.Name)
		rows, _ := tx.Query(ctx, `SELECT attname::text, pg_get_serial_sequence($1, attname) FROM pg_attribute WHERE attrelid = $1::text::regclass
			AND attnum > 0 AND NOT attisdropped AND pg_get_serial_sequence($1, attname) IS NOT NULL`, name)
		type numbered struct{ Column, Sequence string }
		columns, err := pgx.CollectRows(rows, pgx.RowToStructByPos[numbered])
		if err != nil {
			return fmt.Errorf("look for the sequences of %s: %w", t.Name, err)
		}
		for _, c := range columns {
			if _, err := tx.Exec(ctx, `SELECT setval($1::text::regclass, coalesce((SELECT max(`+pgx.Identifier{c.Column}.Sanitize()+`) FROM `+name+`), 0) + 1, false)`, c.Sequence); err != nil {
				return fmt.Errorf("set the sequence of %s.%s: %w", t.Name, c.Column, err)
			}
		}
	}
	return nil
}
