package store

import (
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// query is a SELECT whose conditions are known only when it is run. Each set of filters is a statement of
// its own, so that Postgres plans it for the indexes that fit.
type query struct {
	sql  strings.Builder
	args []any
}

// newQuery begins with "SELECT … WHERE x.tenant_id = $1".
func newQuery(sql string, tenant uuid.UUID) *query {
	q := &query{args: []any{pgUUID(tenant)}}
	q.sql.WriteString(sql)
	return q
}

// and adds a condition; each ? in it stands for arg.
func (q *query) and(cond string, arg any) {
	q.args = append(q.args, arg)
	q.sql.WriteString(" AND " + strings.ReplaceAll(cond, "?", "$"+strconv.Itoa(len(q.args))))
}

// text adds a condition where value is not empty.
func (q *query) text(cond, value string) {
	if value != "" {
		q.and(cond, value)
	}
}

// page adds order and limit of a list by id, newest first, from where the cursor points.
func (q *query) page(id string, before pgtype.UUID, p Page) {
	if before.Valid {
		q.and(id+" < ?", before)
	}
	q.sql.WriteString(" ORDER BY " + id + " DESC")
	q.limit(p)
}

// limit asks for one row more than the page holds, to know whether there is a next page.
func (q *query) limit(p Page) {
	q.args = append(q.args, p.limit()+1)
	q.sql.WriteString(" LIMIT $" + strconv.Itoa(len(q.args)))
}
