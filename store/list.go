package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// listing is what the queries of one list have in common: how a row is read, and the closed set of orders that the
// list can be asked for. All keys of an order go the same way, so that an index serves it forwards and backwards, and a
// page begins with one comparison of rows.
type listing[T any] struct {
	name    string
	columns string
	sorts   map[string][]sortKey // by name; the last key, or all keys together, are of one row only
	initial string               // the order where none is asked for
	scan    func(pgx.Row) (T, error)
}

// sortKey is one expression that a list is ordered by. It is never null, and where the table may be large it is that of
// an index, word by word.
type sortKey struct {
	expr string
	kind keyKind
}

// keyKind is the type of a sort key's values.
type keyKind byte

const (
	keyID keyKind = iota
	keyText
	keyTime
	keyNumber
)

// ids are the keys of an order by these columns.
func ids(columns ...string) []sortKey {
	keys := make([]sortKey, len(columns))
	for i, c := range columns {
		keys[i] = sortKey{c, keyID}
	}
	return keys
}

func byText(expr string, then ...sortKey) []sortKey {
	return append([]sortKey{{expr, keyText}}, then...)
}

func byTime(expr string, then ...sortKey) []sortKey {
	return append([]sortKey{{expr, keyTime}}, then...)
}

func byNumber(expr string, then ...sortKey) []sortKey {
	return append([]sortKey{{expr, keyNumber}}, then...)
}

// severityRank orders low, medium, high. The indexes of the findings are over this very expression.
func severityRank(column string) string {
	return `(CASE ` + column + ` WHEN 'high' THEN 3 WHEN 'medium' THEN 2 ELSE 1 END)`
}

// named is the order of people: byte by byte, so that it is the same in every database.
func named(column string) string { return column + ` COLLATE "C"` }

// order is a sort as it was asked for.
type order struct {
	name string
	keys []sortKey
	desc bool
}

func (l *listing[T]) order(sort string) (order, error) {
	if sort == "" {
		sort = l.initial
	}
	name, desc := strings.CutPrefix(sort, "-")
	keys, ok := l.sorts[name]
	if !ok {
		return order{}, fmt.Errorf("list %s has no sort %q: %w", l.name, sort, ErrInvalidSort)
	}
	return order{name: sort, keys: keys, desc: desc}, nil
}

// position is where a page ended: the list, its order, the filters, and the keys of the page's last row.
type position struct {
	List   string   `json:"l"`
	Sort   string   `json:"s"`
	Filter string   `json:"f"`
	Key    []string `json:"k"`
}

func (p position) encode() string {
	b, err := json.Marshal(p)
	if err != nil { // texts only
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodePosition reads a cursor that was made for the same list, order and filters. ErrInvalidCursor; ErrOtherCursor where
// only the order or the filters differ.
func decodePosition(cursor string, want position) (position, error) {
	var p position
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil || !utf8.Valid(b) || json.Unmarshal(b, &p) != nil || p.List != want.List {
		return position{}, ErrInvalidCursor
	}
	if p.Sort != want.Sort || p.Filter != want.Filter {
		return position{}, ErrOtherCursor
	}
	return p, nil
}

// check refuses what is no cursor of this list, before anything else is looked for.
func (l *listing[T]) check(p Page) error {
	if p.Cursor == "" {
		return nil
	}
	o, err := l.order(p.Sort)
	if err != nil {
		return err
	}
	if _, err = decodePosition(p.Cursor, position{List: l.name, Sort: o.name}); errors.Is(err, ErrOtherCursor) {
		return nil // of which kind is for page to tell, which knows the filters
	}
	return err
}

// statement is the SELECT of one page. with is the position that it begins behind, if it is not the first page.
func (l *listing[T]) statement(q *query, p Page) (sql string, args []any, o order, err error) {
	if o, err = l.order(p.Sort); err != nil {
		return "", nil, o, err
	}
	args = append(args, q.args...)
	exprs := make([]string, len(o.keys))
	way, past := "", " > "
	if o.desc {
		way, past = " DESC", " < "
	}
	by := make([]string, len(o.keys))
	for i, k := range o.keys {
		exprs[i], by[i] = k.expr, k.expr+way
	}
	var b strings.Builder
	b.WriteString(q.before + "SELECT " + l.columns + ", " + strings.Join(exprs, ", ") + q.sql.String())
	if p.Cursor != "" {
		from, err := decodePosition(p.Cursor, position{List: l.name, Sort: o.name, Filter: q.fingerprint()})
		if err != nil {
			return "", nil, o, err
		}
		values, err := o.values(from.Key)
		if err != nil {
			return "", nil, o, err
		}
		marks := make([]string, len(values))
		for i, v := range values {
			args = append(args, v)
			marks[i] = "$" + strconv.Itoa(len(args))
		}
		b.WriteString(" AND (" + strings.Join(exprs, ", ") + ")" + past + "(" + strings.Join(marks, ", ") + ")")
	}
	args = append(args, p.limit()+1)
	b.WriteString(" ORDER BY " + strings.Join(by, ", ") + " LIMIT $" + strconv.Itoa(len(args)))
	return b.String(), args, o, nil
}

// values reads the keys of a cursor, which anybody may have written.
func (o order) values(key []string) ([]any, error) {
	if len(key) != len(o.keys) {
		return nil, ErrInvalidCursor
	}
	out := make([]any, len(key))
	for i, text := range key {
		switch o.keys[i].kind {
		case keyID:
			id, err := uuid.Parse(text)
			if err != nil {
				return nil, ErrInvalidCursor
			}
			out[i] = pgtype.UUID{Bytes: id, Valid: true}
		case keyTime:
			at, err := time.Parse(time.RFC3339Nano, text)
			if err != nil || at.Year() < 0 {
				return nil, ErrInvalidCursor
			}
			out[i] = at
		case keyNumber:
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, ErrInvalidCursor
			}
			out[i] = n
		default:
			if strings.ContainsRune(text, 0) {
				return nil, ErrInvalidCursor
			}
			out[i] = text
		}
	}
	return out, nil
}

// page reads one page of what q chooses; q is "FROM … WHERE …" and its conditions.
func (l *listing[T]) page(ctx context.Context, db querier, q *query, p Page) (items []T, next string, err error) {
	sql, args, o, err := l.statement(q, p)
	if err != nil {
		return nil, "", err
	}
	rows, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, "", fmt.Errorf("list %s: %w", l.name, err)
	}
	r := newKeyedRow(rows, o)
	defer rows.Close()
	var last []string
	for rows.Next() {
		if len(items) == p.limit() {
			next = position{l.name, o.name, q.fingerprint(), last}.encode()
			break
		}
		item, err := l.scan(r)
		if err != nil {
			return nil, "", fmt.Errorf("list %s: %w", l.name, err)
		}
		items = append(items, item)
		last = r.key()
	}
	if rows.Close(); rows.Err() != nil {
		return nil, "", fmt.Errorf("list %s: %w", l.name, rows.Err())
	}
	return items, next, nil
}

// keyedRow is a row whose last columns are its sort keys.
type keyedRow struct {
	row  pgx.Row
	keys []sortKey
	ids  []pgtype.UUID
	text []string
	at   []time.Time
	n    []int64
	to   []any
}

func newKeyedRow(row pgx.Row, o order) *keyedRow {
	count := len(o.keys)
	r := &keyedRow{row: row, keys: o.keys, ids: make([]pgtype.UUID, count), text: make([]string, count), at: make([]time.Time, count), n: make([]int64, count)}
	for i, k := range o.keys {
		switch k.kind {
		case keyID:
			r.to = append(r.to, &r.ids[i])
		case keyTime:
			r.to = append(r.to, &r.at[i])
		case keyNumber:
			r.to = append(r.to, &r.n[i])
		default:
			r.to = append(r.to, &r.text[i])
		}
	}
	return r
}

// Scan implements pgx.Row: the caller's columns, and behind them the keys.
func (r *keyedRow) Scan(dest ...any) error {
	return r.row.Scan(append(append(make([]any, 0, len(dest)+len(r.to)), dest...), r.to...)...)
}

func (r *keyedRow) key() []string {
	out := make([]string, len(r.keys))
	for i, k := range r.keys {
		switch k.kind {
		case keyID:
			out[i] = uuid.UUID(r.ids[i].Bytes).String()
		case keyTime:
			out[i] = r.at[i].UTC().Format(time.RFC3339Nano)
		case keyNumber:
			out[i] = strconv.FormatInt(r.n[i], 10)
		default:
			out[i] = r.text[i]
		}
	}
	return out
}

// fingerprint stands for the conditions of q in a cursor.
func (q *query) fingerprint() string {
	sum := sha256.Sum256([]byte(q.filters.String()))
	return hex.EncodeToString(sum[:8])
}

// scanID reads a row that is an id: of a list whose rows are read by another statement.
func scanID(row pgx.Row) (id pgtype.UUID, err error) {
	err = row.Scan(&id)
	return id, err
}

// inOrder puts items in the order of their ids; what is not there any more is left out.
func inOrder[T any](ids []pgtype.UUID, items []T, of func(T) uuid.UUID) []T {
	at := make(map[uuid.UUID]int, len(items))
	for i := range items {
		at[of(items[i])] = i
	}
	out := make([]T, 0, len(items))
	for _, id := range ids {
		if i, ok := at[id.Bytes]; ok {
			out = append(out, items[i])
		}
	}
	return out
}

// collected is scan in the form that pgx.CollectRows takes.
func collected[T any](scan func(pgx.Row) (T, error)) pgx.RowToFunc[T] {
	return func(row pgx.CollectableRow) (T, error) { return scan(row) }
}
