package store

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
)

// query is the part of a SELECT from FROM on, whose conditions are known only when it is run. Each set of filters is a
// statement of its own, so that Postgres plans it for the indexes that fit.
type query struct {
	before  string // what the statement begins with, ahead of SELECT
	sql     strings.Builder
	filters strings.Builder // the conditions with their values, for cursors
	args    []any
}

// newQuery begins with "FROM … WHERE x.tenant_id = $1"; args are $2 and on, and no filters.
func newQuery(sql string, tenant uuid.UUID, args ...any) *query {
	q := &query{args: append([]any{pgUUID(tenant)}, args...)}
	q.sql.WriteString(sql)
	return q
}

// and adds a condition; each ? in it stands for arg.
func (q *query) and(cond string, arg any) {
	q.args = append(q.args, arg)
	q.sql.WriteString(" AND " + strings.ReplaceAll(cond, "?", "$"+strconv.Itoa(len(q.args))))
	value, err := json.Marshal(arg)
	if err != nil { // what Postgres takes and JSON does not would only make two cursors alike
		value = fmt.Append(nil, err)
	}
	fmt.Fprintf(&q.filters, "%s\x00%s\x00", cond, value)
}

// plain adds a condition without a value.
func (q *query) plain(cond string) {
	q.sql.WriteString(" AND " + cond)
	q.filters.WriteString(cond + "\x00")
}

// text adds a condition where value is not empty.
func (q *query) text(cond, value string) {
	if value != "" {
		q.and(cond, value)
	}
}

// oneOf asks that expr is one of the values, which commas part; no value is no condition.
func (q *query) oneOf(expr, values string) {
	switch list := strings.Split(values, ","); {
	case values == "":
	case len(list) == 1: // an equality leaves the index its order
		q.and(expr+" = ?", values)
	default:
		q.and(expr+" = ANY(?)", list)
	}
}

// id adds a condition where id is given.
func (q *query) id(cond string, id *uuid.UUID) {
	if id != nil {
		q.and(cond, pgUUID(*id))
	}
}

// at adds a condition where the time is given.
func (q *query) at(cond string, at *time.Time) {
	if at != nil {
		q.and(cond, *at)
	}
}

// prefix asks that a name begins with text, byte by byte: the index over the name in the collation "C" serves it. It is asked as
// a range, since ^@ is not leakproof, and behind row-level security an index is used for what is.
func (q *query) prefix(column, text string) {
	if text == "" {
		return
	}
	q.and(named(column)+" >= ?", text)
	if end, ok := prefixEnd(text); ok {
		q.and(named(column)+" < ?", end)
	}
}

// prefixEnd is the first text, byte by byte, that comes after all that begin with prefix; not ok where none does.
func prefixEnd(prefix string) (end string, ok bool) {
	runes := []rune(prefix)
	for i := len(runes) - 1; i >= 0; i-- {
		switch r := runes[i]; {
		case r == unicode.MaxRune:
			continue
		case r == 0xd7ff: // before the surrogates, which no text holds
			runes[i] = 0xe000
		default:
			runes[i] = r + 1
		}
		return string(runes[:i+1]), true
	}
	return "", false
}
