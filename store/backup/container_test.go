package backup

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/migrations"
)

// specimen is a small file with two tables.
func specimen(t testing.TB, schema uint, rows ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := newWriter(&b, Header{Assay: "test", SchemaVersion: schema, KeyEncryptionKeys: []string{"kek-1"}, Tables: []Table{{Name: "tenants", Columns: []string{"tenant_id"}}, {Name: "river.river_job", Columns: []string{"id"}}}})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.begin(); err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			if _, err := io.WriteString(w, row); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.finish(int64(len(rows))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestContainer: what was written is read, in any size, and every flipped bit and every cut is noticed.
func TestContainer(t *testing.T) {
	long := strings.Repeat("a row that is longer than a record\n", 100_000)
	m, err := Verify(bytes.NewReader(specimen(t, 1, long, "b\n")))
	if err != nil || m.Rows != 4 || m.Contents[0].Bytes != int64(len(long)+2) {
		t.Fatalf("%+v %v", m, err)
	}
	whole := specimen(t, 1, "x\n")
	for i := range whole {
		broken := bytes.Clone(whole)
		broken[i] ^= 1
		if _, err := Verify(bytes.NewReader(broken)); err == nil {
			t.Errorf("a flipped bit in byte %d of %d is not noticed", i, len(whole))
		}
		if _, err := Verify(bytes.NewReader(whole[:i])); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut off after %d bytes: %v", i, err)
		}
	}
}

// TestNewer: a file of a schema that this program does not know is refused before any database is asked.
func TestNewer(t *testing.T) {
	for _, schema := range []uint{0, migrations.Last() + 1} {
		if _, err := Restore(t.Context(), "postgres://nobody@127.0.0.1:1/none", bytes.NewReader(specimen(t, schema)), false, Options{}); !errors.Is(err, ErrNewer) {
			t.Errorf("schema %d: %v", schema, err)
		}
	}
	format2 := specimen(t, 1)
	format2[magicName] = 2
	if _, err := Verify(bytes.NewReader(format2)); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("another format: %v", err)
	}
}

// TestOrderOfTables: what is referred to comes first, and a circle is an error.
func TestOrderOfTables(t *testing.T) {
	all := []Table{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	got, err := inOrder(all, [][]int{{1, 2}, {2}, nil})
	if err != nil || got[0].Name != "c" || got[1].Name != "b" || got[2].Name != "a" {
		t.Errorf("%v %v", got, err)
	}
	if _, err := inOrder(all, [][]int{{1}, {0}, nil}); err == nil {
		t.Error("a circle passes")
	}
}

// TestSameTables: a file that has more or less than the schema is refused.
func TestSameTables(t *testing.T) {
	here := []Table{{Name: "a", Columns: []string{"x", "y"}}}
	for story, there := range map[string][]Table{"more": {here[0], {Name: "b"}}, "less": nil, "a column less": {{Name: "a", Columns: []string{"x"}}}} {
		if sameTables(here, there) == nil {
			t.Errorf("%s passes", story)
		}
	}
	if err := sameTables(here, []Table{{Name: "a", Columns: []string{"y", "x"}}}); err != nil {
		t.Error(err)
	}
}

// FuzzVerify: no file, however made, costs more memory than a record, or passes that was not written so.
func FuzzVerify(f *testing.F) {
	whole := specimen(f, 1, "x\n", "y\n")
	f.Add(whole)
	f.Add(whole[:len(whole)-40])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Verify(bytes.NewReader(b))
		if err == nil && len(m.Contents) != len(m.Tables) {
			t.Errorf("passes with %d of %d tables", len(m.Contents), len(m.Tables))
		}
	})
}
