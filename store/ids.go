package store

import (
	"crypto/rand"
	"fmt"
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

// String is kind:id, as columns created_by hold it.
func (a Actor) String() string {
	if a.Owner != "" {
		return a.Owner
	}
	return fmt.Sprintf("%s:%s", a.Kind, a.ID)
}
