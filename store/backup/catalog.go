package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// jobSchema is the schema of the job queue's tables.
const jobSchema = "river"

// A table of the service is one whose primary key begins with tenant_id; of the job queue what survives a restart of all
// workers. Columns that the database computes are made again.
const tablesQuery = `SELECT c.oid, CASE WHEN n.nspname = 'river' THEN 'river.' ELSE '' END || c.relname,
	(SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''),
	coalesce((SELECT a.attname::text FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0] WHERE p.partrelid = c.oid), ''),
	(SELECT array_agg(replace(substring(k.relname FROM '_y([0-9]{4}m[0-9]{2})$'), 'm', '-') ORDER BY k.relname) FROM pg_inherits i JOIN pg_class k ON k.oid = i.inhrelid
		WHERE i.inhparent = c.oid AND k.relname ~ '_y[0-9]{4}m[0-9]{2}$')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND (
	n.nspname = current_schema() AND EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
		WHERE i.indrelid = c.oid AND i.indisprimary AND a.attname = 'tenant_id')
	OR n.nspname = 'river' AND c.relname IN ('river_job', 'river_queue'))
ORDER BY 2`

// tables are the tables to save, those that are referred to before those that refer to them.
func tables(ctx context.Context, db pgx.Tx) ([]Table, error) {
	rows, _ := db.Query(ctx, tablesQuery)
	byOID := map[uint32]int{}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Table, err error) {
		var oid uint32
		err = row.Scan(&oid, &t.Name, &t.Columns, &t.PartitionKey, &t.Months)
		byOID[oid] = len(byOID)
		return t, err
	})
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	if !slices.ContainsFunc(all, func(t Table) bool { return t.Name == "tenants" }) {
		return nil, ErrNoSchema
	}
	needs := make([][]int, len(all))
	var from, to uint32
	rows, _ = db.Query(ctx, `SELECT conrelid, confrelid FROM pg_constraint WHERE contype = 'f' AND conrelid <> confrelid ORDER BY 1, 2`)
	if _, err := pgx.ForEachRow(rows, []any{&from, &to}, func() error {
		a, ok := byOID[from]
		b, known := byOID[to]
		if ok && known {
			needs[a] = append(needs[a], b)
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("list the references: %w", err)
	}
	return inOrder(all, needs)
}

// inOrder puts what a table needs before it.
func inOrder(all []Table, needs [][]int) ([]Table, error) {
	const open, visiting, done = 0, 1, 2
	state := make([]int, len(all))
	var out []Table
	var visit func(i int) error
	visit = func(i int) error {
		switch state[i] {
		case done:
			return nil
		case visiting:
			return fmt.Errorf("tables refer to each other in a circle, through %s", all[i].Name)
		}
		state[i] = visiting
		for _, n := range needs[i] {
			if err := visit(n); err != nil {
				return err
			}
		}
		state[i] = done
		out = append(out, all[i])
		return nil
	}
	for i := range all {
		if err := visit(i); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sqlName is a table's name for a statement.
func sqlName(name string) string {
	return pgx.Identifier(strings.Split(name, ".")).Sanitize()
}

// sqlColumns are a table's columns for a statement.
func sqlColumns(t Table) string {
	out := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		out[i] = pgx.Identifier{c}.Sanitize()
	}
	return strings.Join(out, ", ")
}

// session gives both sides one form of values, whatever the settings of role and database are. With row_security off a role
// that sees only a part of the rows gets an error, and no file that lacks the others.
const session = `SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; SET LOCAL timezone = 'UTC'; SET LOCAL bytea_output = 'hex';
	SET LOCAL extra_float_digits = 1; SET LOCAL client_encoding = 'UTF8'; SET LOCAL row_security = off;
	SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`

// versions are those of the schema and of the job queue.
func versions(ctx context.Context, db pgx.Tx) (schema uint, dirty bool, jobs int, err error) {
	var there bool
	if err := db.QueryRow(ctx, `SELECT to_regclass('schema_migrations') IS NOT NULL`).Scan(&there); err != nil {
		return 0, false, 0, fmt.Errorf("read the schema's version: %w", err)
	}
	if !there {
		return 0, false, 0, nil
	}
	var n int64
	if err := db.QueryRow(ctx, `SELECT coalesce(max(version), 0), coalesce(bool_or(dirty), false) FROM schema_migrations`).Scan(&n, &dirty); err != nil {
		return 0, false, 0, fmt.Errorf("read the schema's version: %w", err)
	}
	if err := db.QueryRow(ctx, `SELECT to_regclass('river.river_migration') IS NOT NULL`).Scan(&there); err != nil {
		return 0, false, 0, fmt.Errorf("read the job queue's version: %w", err)
	}
	if there {
		if err := db.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM river.river_migration`).Scan(&jobs); err != nil {
			return 0, false, 0, fmt.Errorf("read the job queue's version: %w", err)
		}
	}
	return uint(max(n, 0)), dirty, jobs, nil // #nosec G115 -- not negative
}
