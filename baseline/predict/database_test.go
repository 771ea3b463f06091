package predict

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"os"
	"strings"
	"testing"
)

func efivar(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/efivars/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDatabaseForms: the same keys in each form that people have them in.
func TestDatabaseForms(t *testing.T) {
	file := efivar(t, "own/db")
	list := file[4:]
	owner := [16]byte(list[28:44])
	der := list[44:]
	// EFI_VARIABLE_AUTHENTICATION_2 with a signature of eight bytes that nobody checks here.
	auth := make([]byte, 16)
	auth = binary.LittleEndian.AppendUint32(auth, 32)
	auth = append(auth, 0, 2, 0xf1, 0x0e)
	auth = append(append(append(auth, guidPKCS7[:]...), make([]byte, 8)...), list...)
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, b := range map[string][]byte{"efivarfs": file, "esl": list, "auth": auth, "der": der, "pem": encoded} {
		db, err := ParseDatabase([]string{name}, [][]byte{b}, &owner)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(db.Raw, list) || len(db.Entries) != 1 || db.ownerless {
			t.Errorf("%s: %d entries, %d bytes", name, len(db.Entries), len(db.Raw))
		}
	}
	db, err := ParseDatabase([]string{"pem"}, [][]byte{encoded}, nil)
	if err != nil || !db.ownerless || db.Entries[0].Raw[0] != 0 {
		t.Errorf("without an owner: %v", err)
	}
	for _, empty := range [][]byte{nil, {7, 0, 0, 0}} {
		if db, err := ParseDatabase([]string{"empty"}, [][]byte{empty}, nil); err != nil || len(db.Raw) != 0 {
			t.Errorf("an empty variable: %v", err)
		}
	}
	if db, err := ParseDatabase([]string{"a", "b"}, [][]byte{file, efivar(t, "microsoft/db")}, nil); err != nil || len(db.Entries) != 3 {
		t.Errorf("two files: %v", err)
	}
}

// TestHostileDatabases: refused with the place, without trust in any size.
func TestHostileDatabases(t *testing.T) {
	list := efivar(t, "own/db")[4:]
	set := func(at int, v uint32) []byte {
		b := bytes.Clone(list)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	many := bytes.Repeat([]byte{0}, 28+17*(maxDatabaseEntry+1))
	binary.LittleEndian.PutUint32(many[16:], uint32(len(many)))
	binary.LittleEndian.PutUint32(many[24:], 17)
	for says, b := range map[string][]byte{
		"at offset 0: its size 0":          set(16, 0),
		"at offset 0: its size 4294967295": set(16, 0xFFFFFFFF),
		"entries of 0 bytes":               set(24, 0),
		"entries of 17 bytes":              set(24, 17),
		"at offset 840: 3 bytes":           append(bytes.Clone(list), 1, 2, 3),
		"it looks like a DER certificate":  []byte("\x30\x82\x01\x00nothing of the kind"),
		"PEM block 1: it is a PRIVATE KEY": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}),
		"no PEM block":                     []byte("-----BEGIN CERTIFICATE-----\nrubbish"),
		"more than 100000 entries":         many,
		"more than 4194304 bytes":          make([]byte, maxDatabase+1),
	} {
		_, err := ParseDatabase([]string{"db.esl"}, [][]byte{b}, nil)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "db.esl: ") {
			t.Errorf("want %q: %v", says, err)
		}
	}
}
