package store

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// newID makes a UUIDv7 of the given time (RFC 9562, section 5.7): 48 bits of milliseconds, 12 bits of the
// fraction of a millisecond (method 3 of section 6.2), and random bits.
func newID(at time.Time) uuid.UUID {
	var id uuid.UUID
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	ms := uint64(at.UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	fraction := uint64(at.Nanosecond()%1e6) << 12 / 1e6
	id[6] = 0x70 | byte(fraction>>8)
	id[7] = byte(fraction)
	id[8] = 0x80 | id[8]&0x3f
	return id
}

// pgUUID is id in the form that pgx encodes without reflection; uuid.Nil becomes NULL.
func pgUUID(id uuid.UUID) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: id != uuid.Nil} }

func pgUUIDPtr(id *uuid.UUID) pgtype.UUID {
	if id == nil {
		return pgtype.UUID{}
	}
	return pgUUID(*id)
}

func uuidPtr(id pgtype.UUID) *uuid.UUID {
	if !id.Valid {
		return nil
	}
	u := uuid.UUID(id.Bytes)
	return &u
}

func timePtr(t pgtype.Timestamptz) *time.Time {
	if !t.Valid {
		return nil
	}
	return &t.Time
}

// timeOfID is the time that newID made an id of, to the millisecond.
func timeOfID(id uuid.UUID) time.Time {
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms).UTC()
}

func (p Page) limit() int {
	switch {
	case p.Limit <= 0:
		return 50
	case p.Limit > 500:
		return 500
	}
	return p.Limit
}

// cursor is where a page ended: the list that it is of, and the key of its last row.
func encodeCursor(list string, key ...string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(list + "\x00" + strings.Join(key, "\x00")))
}

// decodeCursor gives the n parts of a cursor's key, or nil for no cursor.
func decodeCursor(list, cursor string, n int) ([]string, error) {
	if cursor == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return nil, ErrInvalidCursor
	}
	parts := strings.Split(string(b), "\x00")
	if len(parts) != n+1 || parts[0] != list {
		return nil, ErrInvalidCursor
	}
	return parts[1:], nil
}

// beforeID is the exclusive upper bound of a list ordered by id, newest first: NULL on its first page.
func (p Page) beforeID(list string) (pgtype.UUID, error) {
	key, err := decodeCursor(list, p.Cursor, 1)
	if err != nil || key == nil {
		return pgtype.UUID{}, err
	}
	id, err := uuid.Parse(key[0])
	if err != nil {
		return pgtype.UUID{}, ErrInvalidCursor
	}
	return pgUUID(id), nil
}

// cut takes the row too many off a page that was read with limit+1, and makes the next cursor of its last row.
func cut[T any](items []T, p Page, list string, key func(T) []string) ([]T, string) {
	if len(items) <= p.limit() {
		return items, ""
	}
	items = items[:p.limit()]
	return items, encodeCursor(list, key(items[len(items)-1])...)
}

// String is kind:id, as columns created_by hold it.
func (a Actor) String() string { return fmt.Sprintf("%s:%s", a.Kind, a.ID) }
