package store

import (
	"errors"
	"testing"
	"time"
)

// FuzzCursor: anybody may write a cursor. One that is taken has as many values as the order has keys, of their kinds; any
// other is refused as such and never reaches Postgres. What a list answers is taken by it.
func FuzzCursor(f *testing.F) {
	o := order{name: "-last_seen_at", keys: []sortKey{{"a", keyTime}, {"b", keyNumber}, {"c", keyText}, {"d", keyID}}}
	want := position{List: "machines", Sort: o.name, Filter: "f"}
	for _, key := range [][]string{
		{time.Now().UTC().Format(time.RFC3339Nano), "7", "web-1", "01900000-0000-7000-8000-000000000001"},
		{"0001-01-01T00:00:00Z", "-9223372036854775808", "", "01900000-0000-7000-8000-000000000001"},
		{"", "", "a\x00", ""}, {}, nil,
	} {
		p := want
		p.Key = key
		f.Add(p.encode())
	}
	f.Add("e30")
	f.Add("bnVsbA")
	f.Fuzz(func(t *testing.T, cursor string) {
		p, err := decodePosition(cursor, want)
		if err != nil {
			if !errors.Is(err, ErrInvalidCursor) && !errors.Is(err, ErrOtherCursor) {
				t.Fatal(err)
			}
			return
		}
		values, err := o.values(p.Key)
		if err != nil && !errors.Is(err, ErrInvalidCursor) || err == nil && len(values) != len(o.keys) {
			t.Fatalf("%d values: %v", len(values), err)
		}
		if again, err := decodePosition(p.encode(), want); err != nil || again.encode() != p.encode() {
			t.Fatalf("%+v came back as %+v: %v", p, again, err)
		}
	})
}
