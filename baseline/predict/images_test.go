package predict

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/tpm"
)

var testBanks = []tpm.HashAlg{tpm.SHA256, tpm.SHA1}

// part is a section of a made-up image.
type part struct {
	name    string
	data    []byte
	virtual uint32 // 0: as long as the data
}

// makePE builds a PE32+ image of the sections, and of tail behind them.
func makePE(parts []part, tail []byte) []byte {
	const at, optional, headers = 64, 240, 1024
	b := make([]byte, headers)
	copy(b, "MZ")
	binary.LittleEndian.PutUint32(b[0x3c:], at)
	copy(b[at:], "PE\x00\x00\x64\x86")
	binary.LittleEndian.PutUint16(b[at+6:], uint16(len(parts)))
	binary.LittleEndian.PutUint16(b[at+20:], optional)
	o := b[at+24:]
	binary.LittleEndian.PutUint16(o, 0x20b)
	binary.LittleEndian.PutUint32(o[60:], headers)
	binary.LittleEndian.PutUint32(o[108:], 16)
	for i, p := range parts {
		e := o[optional+40*i:]
		copy(e[:8], p.name)
		virtual := p.virtual
		if virtual == 0 {
			virtual = uint32(len(p.data))
		}
		binary.LittleEndian.PutUint32(e[8:], virtual)
		binary.LittleEndian.PutUint32(e[16:], uint32(len(p.data)))
		binary.LittleEndian.PutUint32(e[20:], uint32(len(b)))
		b = append(b, p.data...)
		o = b[at+24:]
	}
	return append(b, tail...)
}

func readImage(b []byte) (*File, error) {
	return ReadFile("image.efi", bytes.NewReader(b), int64(len(b)), testBanks)
}

// fallback is Debian's signed fbx64.efi, a real image with a real signature.
func fallback(t testing.TB) []byte {
	t.Helper()
	packed, err := os.ReadFile("testdata/fbx64.efi.signed.gz")
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAuthenticode: a real image has the hash that is signed and that osslsigncode computes, its signature is that of
// Debian, and only what Authenticode leaves out may change.
func TestAuthenticode(t *testing.T) {
	b := fallback(t)
	f, err := readImage(b)
	if err != nil {
		t.Fatal(err)
	}
	const want = "f08e1ed5914bd0f4d1dd8731e53c8bc54ad0ce7daf49bfbea01d760b249b136f"
	if f.Authenticode["sha256"] != want || f.Authenticode["sha1"] != "5f423ab610117f167481ba34103a08267eaa079d" {
		t.Errorf("%v", f.Authenticode)
	}
	if f.SignatureFault != "" || len(f.Signatures) != 1 || !strings.Contains(f.describe("shim"), "signed by Debian Secure Boot Signer 2022 - shim, version 16.1") {
		t.Errorf("fault %q, %d signatures, %s", f.SignatureFault, len(f.Signatures), f.describe("shim"))
	}
	p, err := parsePE("x", bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	changed := func(at int64) *File {
		t.Helper()
		c := bytes.Clone(b)
		c[at] ^= 1
		f, err := readImage(c)
		if err != nil {
			t.Fatalf("offset %d: %v", at, err)
		}
		return f
	}
	for _, at := range []int64{p.checksumAt, p.checksumAt + 3, p.size - 40} {
		if f := changed(at); f.Authenticode["sha256"] != want {
			t.Errorf("offset %d is hashed", at)
		}
	}
	for _, at := range []int64{70, p.checksumAt + 4, p.sections[0].offset, p.certOffset - 1} {
		if f := changed(at); f.Authenticode["sha256"] == want || !strings.Contains(f.SignatureFault, "over another image") {
			t.Errorf("offset %d is not hashed, or its signature holds: %s", at, f.SignatureFault)
		}
	}
	// The end of the signature is the signer's; the start of the table its length.
	for at, says := range map[int64]string{p.size - 40: "", p.certOffset + 2: "does not fit", p.certOffset + 6: "is not PKCS#7"} {
		if f := changed(at); f.SignatureFault == "" || !strings.Contains(f.SignatureFault, says) || len(f.Signatures) > 0 {
			t.Errorf("offset %d: fault %q, want %q", at, f.SignatureFault, says)
		}
	}
}

// TestTrailingData: what stands behind the sections is hashed.
func TestTrailingData(t *testing.T) {
	parts := []part{{name: ".text", data: []byte("code")}}
	a, err := readImage(makePE(parts, nil))
	if err != nil {
		t.Fatal(err)
	}
	b, err := readImage(makePE(parts, []byte("more")))
	if err != nil {
		t.Fatal(err)
	}
	if a.Authenticode["sha256"] == b.Authenticode["sha256"] {
		t.Error("trailing data is not hashed")
	}
}

// TestHostileImages: each is refused, and the error names the place.
func TestHostileImages(t *testing.T) {
	whole := makePE([]part{{name: ".text", data: make([]byte, 64)}, {name: ".data", data: make([]byte, 64)}}, nil)
	const table = 64 + 24 + 240
	set32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], v); return b }
	}
	set16 := func(at int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint16(b[at:], v); return b }
	}
	for _, c := range []struct {
		says string
		make func([]byte) []byte
	}{
		{"MS-DOS header", func(b []byte) []byte { return b[:40] }},
		{"PE header", set32(0x3c, 0xFFFFFFF0)},
		{"no PE signature", set32(64, 0)},
		{"0 sections", set16(64+6, 0)},
		{"sections; 1 to", set16(64+6, 9999)},
		{"section table", set16(64+6, 200)},
		{"optional header of 65535", set16(64+20, 65535)},
		{"too few", set16(64+20, 8)},
		{"magic 0x0107", set16(64+24, 0x107)},
		{"SizeOfHeaders", set32(64+24+60, 16)},
		{"SizeOfHeaders", set32(64+24+60, 1<<30)},
		{"section .data: it begins at offset 1056, within the contents of section .text", set32(table+40+20, 1056)},
		{"section .text: it begins at offset 8, within the headers", set32(table+20, 8)},
		{"section .data: it ends", set32(table+40+16, 0xFFFFFFFF)},
		{"certificate table: it spans", func(b []byte) []byte { return set32(64+24+112+36, 8)(set32(64+24+112+32, 1024)(b)) }},
	} {
		_, err := readImage(c.make(bytes.Clone(whole)))
		var at *Error
		if !errors.As(err, &at) || at.Code != CodeMalformedPE || at.File != "image.efi" || !strings.Contains(err.Error(), c.says) {
			t.Errorf("want %q: %v", c.says, err)
		}
	}
	if _, err := readImage(makePE([]part{{name: ".sdmagic", data: []byte("x"), virtual: 1 << 31}}, nil)); err == nil || !strings.Contains(err.Error(), "section .sdmagic") {
		t.Errorf("a text of 2 GiB: %v", err)
	}
	inner := makePE([]part{{name: ".text", data: []byte("kernel")}}, nil)
	for says, parts := range map[string][]part{
		"section .osrel: it occurs twice":    {{name: ".linux", data: inner}, {name: ".osrel", data: []byte("a")}, {name: ".osrel", data: []byte("b")}},
		"section .initrd: it is":             {{name: ".linux", data: inner}, {name: ".initrd", data: []byte("a"), virtual: 1 << 31}},
		"section .linux: MS-DOS header":      {{name: ".linux", data: []byte("MZ")}},
		"section .vendor_cert":               {{name: ".vendor_cert", data: []byte("MZ")}}, // cut to eight characters: no shim
		"section mods: no list of GRUB's":    {{name: "mods", data: make([]byte, 64)}},
		"section mods: its list of":          {{name: "mods", data: append([]byte("mimg\x00\x00\x00\x00\x18"), bytes.Repeat([]byte{255}, 20)...)}},
		"section mods: the object at offset": {{name: "mods", data: append([]byte("mimg\x00\x00\x00\x00\x18\x00\x00\x00\x00\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00\x00"), make([]byte, 64)...)}},
	} {
		f, err := readImage(makePE(parts, nil))
		if says == "section .vendor_cert" {
			if err != nil || f.Shim != nil {
				t.Errorf("a section with a shorter name is a shim: %v", err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q: %v", says, err)
		}
	}
}

// TestZeroFilled: a section that is longer in memory than in the file is measured with its zeros.
func TestZeroFilled(t *testing.T) {
	inner := makePE([]part{{name: ".text", data: []byte("kernel")}}, nil)
	f, err := readImage(makePE([]part{{name: ".linux", data: inner}, {name: ".osrel", data: []byte("ID=x"), virtual: 8}, {name: ".cmdline", data: []byte("quiet\n\x00\x00"), virtual: 6}}, nil))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{".osrel": "ID=x\x00\x00\x00\x00", ".cmdline": "quiet\n"} {
		s, _ := f.UKI.section(name)
		if got := s.Digests["sha256"]; got != digestOf(testBanks, []byte(want))["sha256"] {
			t.Errorf("%s: %s", name, got)
		}
	}
	if *f.UKI.Cmdline != "quiet\n" || f.UKI.commandLine(false) != "quiet " || f.UKI.commandLine(true) != "quiet" {
		t.Errorf("command line %q", *f.UKI.Cmdline)
	}
}

// makeGRUB is an image with a memory disk that holds grub.cfg.
func makeGRUB(config string) []byte {
	disk := make([]byte, 512*8)
	copy(disk[11:], []byte{0, 2, 1, 1, 0, 1, 16, 0, 8, 0, 0xf8, 1, 0}) // sectors of 512, clusters of one, one table of one sector, 16 entries
	disk[510], disk[511] = 0x55, 0xAA
	copy(disk[512:], []byte{0xf8, 0xff, 0xff, 0x03, 0xf0, 0xff}) // cluster 2 leads to 3, which is the last
	entry := disk[1024:]
	copy(entry, "GRUB    CFG\x20")
	entry[26] = 2
	binary.LittleEndian.PutUint32(entry[28:], uint32(len(config)))
	copy(disk[1536:], config)
	object := func(kind uint32, body []byte) []byte {
		out := binary.LittleEndian.AppendUint32(nil, kind)
		return append(binary.LittleEndian.AppendUint32(out, uint32(8+len(body))), body...)
	}
	objects := append(object(0, []byte("\x7fELF")), object(grubObjectMemdisk, disk)...)
	objects = append(objects, object(grubObjectConfig, []byte("# first\nnormal (memdisk)/grub.cfg\n\x00"))...)
	objects = append(objects, object(grubObjectPrefix, []byte("/EFI/test\x00"))...)
	head := append([]byte("mimg"), make([]byte, 4)...)
	head = binary.LittleEndian.AppendUint64(head, 24)
	head = binary.LittleEndian.AppendUint64(head, uint64(24+len(objects)))
	return makePE([]part{{name: "mods", data: append(head, objects...)}}, nil)
}

func TestGRUBImage(t *testing.T) {
	config := "source $prefix/grub.cfg\n" + strings.Repeat("# a comment\n", 50) // two clusters
	f, err := readImage(makeGRUB(config))
	if err != nil {
		t.Fatal(err)
	}
	if f.GRUB == nil || f.GRUB.Prefix != "/EFI/test" || f.GRUB.EarlyConfig == nil || *f.GRUB.EarlyConfig != config {
		t.Errorf("%+v", f.GRUB)
	}
	b := makeGRUB(config)
	i := bytes.Index(b, []byte("GRUB    CFG"))
	b[i+26] = 200 // a cluster outside the disk
	if _, err := readImage(b); err == nil || !strings.Contains(err.Error(), "cluster 200") {
		t.Errorf("%v", err)
	}
	b = makeGRUB(config)
	binary.LittleEndian.PutUint32(b[i+28:], 1<<30)
	if _, err := readImage(b); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("%v", err)
	}
}
