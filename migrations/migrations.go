// Package migrations holds the database schema as numbered steps, each with its way back. Package store
// applies them (store.Migrate).
//
// Rules of the schema: every primary key begins with tenant_id and every query names it; identifiers are
// UUIDv7 made by the service, never sequences; no foreign key crosses a tenant; time-ordered tables are
// range-partitioned by month on their UUIDv7. A step only expands what the running version relies on;
// what is no longer needed is dropped by a later step. Each table and column carries a COMMENT.
package migrations

import (
	"embed"
	"fmt"
	"io/fs"
)

// FS holds NNNN_name.up.sql and NNNN_name.down.sql, as golang-migrate's iofs source reads them.
//
//go:embed *.sql
var FS embed.FS

// Last is the number of the last step.
func Last() uint {
	names, err := fs.Glob(FS, "*.up.sql")
	if err != nil { // the pattern is wrong, which a test would see
		panic(err)
	}
	var last uint
	for _, name := range names {
		var n uint
		if _, err := fmt.Sscanf(name, "%d_", &n); err == nil && n > last {
			last = n
		}
	}
	return last
}
