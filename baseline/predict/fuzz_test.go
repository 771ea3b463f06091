package predict

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func jsonOf(v any) ([]byte, error) { return json.Marshal(v) }

// allocated is how many bytes a call allocates in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// fuzzMemory is what reading an input may allocate: some copies of it, and the buffers.
func fuzzMemory(n int) uint64 { return 8<<20 + 64*uint64(n) }

// FuzzAuthenticode: no image panics or takes memory out of proportion, and one that is accepted has a hash that depends
// on neither checksum nor certificate table.
func FuzzAuthenticode(f *testing.F) {
	f.Add(fallback(f))
	f.Add(makePE([]part{{name: ".text", data: []byte("code")}}, []byte("tail")))
	f.Add(makeGRUB("echo x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var got *File
		var err error
		if used := allocated(func() { got, err = readImage(b) }); used > fuzzMemory(len(b)) {
			t.Fatalf("%d bytes for an image of %d", used, len(b))
		}
		if err != nil || got.Authenticode == nil {
			return
		}
		p, err := parsePE("x", bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		c := bytes.Clone(b)
		c[p.checksumAt] ^= 0xFF
		if p.certSize > 0 {
			c[len(c)-1] ^= 0xFF
		}
		again, err := parsePE("x", bytes.NewReader(c), int64(len(c)))
		if err != nil {
			return // the checksum overlaps another header
		}
		d, err := again.authenticode(testBanks[:1])
		if err != nil || d["sha256"] != got.Authenticode["sha256"] {
			t.Fatalf("%v: the hash depends on what it leaves out", err)
		}
	})
}

// FuzzUKI: sections of any shape are measured or refused; a prediction of what is accepted compiles as a baseline.
func FuzzUKI(f *testing.F) {
	inner := makePE([]part{{name: ".text", data: []byte("kernel")}}, nil)
	f.Add(makePE([]part{{name: ".linux", data: inner}, {name: ".cmdline", data: []byte("quiet")}, {name: ".sdmagic", data: []byte("#### LoaderInfo: systemd-stub 257 ####")}}, nil))
	f.Add(makePE([]part{{name: ".linux", data: inner}, {name: ".initrd", data: []byte("i"), virtual: 9}, {name: ".profile", data: []byte("p")}}, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := readImage(b)
		if err != nil || got.UKI == nil {
			return
		}
		for _, s := range got.UKI.Sections {
			if s.Size > int64(len(b))+maxZeroPadding || s.Size > math.MaxUint32 {
				t.Fatalf("section %s has %d bytes in an image of %d", s.Name, s.Size, len(b))
			}
		}
		if _, err := Predict(&Input{Banks: testBanks, UKI: got, SecureBoot: Off}); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzGrubConfig: no script runs for ever, panics or is followed beyond what is known.
func FuzzGrubConfig(f *testing.F) {
	for _, s := range []string{load, "if [ -e /x ]; then echo; fi", "function f { echo $1; }\nf a", "menuentry 'a' --id b {\n}\n", "while true; do set a=$a$a; done",
		"for i in a b; do echo ${i}; done", "search --fs-uuid --set=root 1\nlinux /k", "echo \"a\\\"$b\" 'c' \\d # e", debianEarlyConfig} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, config string) {
		if strings.Count(config, "source")+strings.Count(config, "configfile") > 8 {
			return
		}
		lines, open := runScript(t, grubInput(), config)
		if len(lines) > 8*maxCommands {
			t.Fatalf("%d lines", len(lines))
		}
		booted := false
		for _, l := range lines {
			booted = booted || strings.HasPrefix(l, "kernel: ")
		}
		if open == "" && !booted {
			t.Fatalf("it is said to boot and loads no kernel: %q", lines)
		}
	})
}

// FuzzSignatureDatabase: the entries of what is accepted are within it, and it serialises to itself.
func FuzzSignatureDatabase(f *testing.F) {
	for _, name := range []string{"microsoft/db", "microsoft/dbx", "own/PK", "MokListRT"} {
		f.Add(efivar(f, name))
	}
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var db *Database
		var err error
		if used := allocated(func() { db, err = ParseDatabase([]string{"x"}, [][]byte{b}, nil) }); used > fuzzMemory(len(b)) {
			t.Fatalf("%d bytes for a database of %d", used, len(b))
		}
		if err != nil {
			return
		}
		again := &Database{}
		if err := again.add("x", db.Raw); err != nil || len(again.Entries) != len(db.Entries) || !bytes.Equal(again.Raw, db.Raw) {
			t.Fatalf("%v: %d entries became %d", err, len(db.Entries), len(again.Entries))
		}
		for _, e := range db.Entries {
			if len(e.Raw) < 17 || len(e.Raw) > len(db.Raw) {
				t.Fatalf("an entry of %d bytes", len(e.Raw))
			}
		}
	})
}

// FuzzManifest: no manifest panics or takes memory out of proportion; what is read is written and read again as it was.
func FuzzManifest(f *testing.F) {
	for _, name := range []string{"debian-12.manifest.json", "uki.manifest.json"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add([]byte(`{"boot_disk_files":{"/a":{"size":1,"sha256":"` + strings.Repeat("0", 64) + `"}}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m *Manifest
		var err error
		if used := allocated(func() { m, err = ParseManifest("m.json", b) }); used > fuzzMemory(len(b)) {
			t.Fatalf("%d bytes for a manifest of %d", used, len(b))
		}
		if err != nil {
			return
		}
		written, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseManifest("m.json", written)
		if err != nil {
			t.Fatalf("%v: %s", err, written)
		}
		if second, err := json.Marshal(again); err != nil || !bytes.Equal(written, second) {
			t.Fatalf("%v: %s was read as %s", err, written, second)
		}
	})
}
