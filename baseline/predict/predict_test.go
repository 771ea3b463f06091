package predict

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

func finding(t testing.TB, r *Result, pcr int) Finding {
	t.Helper()
	return r.PCRs[pcr]
}

// eventsOf lists the keys of a PCR's events.
func eventsOf(r *Result, pcr int) (out []string) {
	for _, e := range r.Events {
		if e.PCR == pcr {
			required := ""
			if !e.Required {
				required = " (optional)"
			}
			out = append(out, e.Key+required)
		}
	}
	return out
}

// makeUKI is a unified kernel image of a stub of this version.
func makeUKI(t testing.TB, version string, sections ...string) *File {
	t.Helper()
	parts := []part{{name: ".linux", data: makePE([]part{{name: ".text", data: []byte("kernel")}}, nil)}}
	if version != "" {
		parts = append(parts, part{name: ".sdmagic", data: []byte("#### LoaderInfo: systemd-stub " + version + " ####\x00")})
	}
	for _, s := range sections {
		name, text, _ := strings.Cut(s, "=")
		parts = append(parts, part{name: name, data: []byte(text)})
	}
	f, err := readImage(makePE(parts, nil))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func predictOK(t testing.TB, in *Input) *Result {
	t.Helper()
	r, err := Predict(in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestStubVersions: which sections a stub measures, and what it does to the kernel and the command line, follow its
// version; where that is not known, each way is computed and none is required.
func TestStubVersions(t *testing.T) {
	sections := []string{".profile=ID=a", ".pcrpkey=k", ".sbat=sbat,1", ".uname=6.1", ".dtb=d", ".splash=s", ".ucode=u", ".initrd=i", ".cmdline=quiet ", ".osrel=ID=x"}
	for _, c := range []struct {
		version      string
		sections     string
		inner        bool
		values       int // of PCR 4 in the first bank
		pcr9, pcr11  string
		commandLines int
	}{
		{"252.39-1", ".linux .osrel .cmdline .initrd .splash .dtb .pcrpkey", false, 1, Partly, Determined, 1},
		{"255.4", ".linux .osrel .cmdline .initrd .splash .dtb .uname .sbat .pcrpkey", true, 1, Partly, Determined, 1},
		{"257", ".linux .osrel .cmdline .initrd .ucode .splash .dtb .uname .sbat .pcrpkey .profile", true, 1, Partly, Determined, 1},
		{"259~rc1", ".linux .osrel .cmdline .initrd .ucode .splash .dtb .uname .sbat .pcrpkey .profile", true, 2, Partly, Determined, 1},
		{"", "", true, 2, Partly, Partly, 2},
		{"251", "", false, 1, Partly, Partly, 1},
	} {
		r := predictOK(t, &Input{Banks: testBanks, UKI: makeUKI(t, c.version, sections...), SecureBoot: Off})
		var got []string
		for _, key := range eventsOf(r, 11) {
			if name, found := strings.CutPrefix(key, "section:"); found {
				got = append(got, name)
			}
		}
		if c.sections != "" && strings.Join(got, " ") != c.sections {
			t.Errorf("%q measures %v", c.version, got)
		}
		if inner := strings.Contains(strings.Join(eventsOf(r, 4), ","), ",kernel") || len(eventsOf(r, 4)) == 4; inner != c.inner {
			t.Errorf("%q: inner kernel %v: %v", c.version, inner, eventsOf(r, 4))
		}
		if n := len(finding(t, r, 4).Values["sha256"]); n != c.values {
			t.Errorf("%q: %d values of PCR 4", c.version, n)
		}
		if f9, f11 := finding(t, r, 9).Status, finding(t, r, 11).Status; f9 != c.pcr9 || f11 != c.pcr11 {
			t.Errorf("%q: PCR 9 %s, PCR 11 %s", c.version, f9, f11)
		}
		lines := 0
		for _, e := range r.Events {
			if e.Key == "efistub:load_options" {
				lines++
			}
		}
		if lines != c.commandLines {
			t.Errorf("%q: %d command lines", c.version, lines)
		}
	}
	for version, status := range map[string]string{"252": Determined, "254.1": Determined, "256": Determined, "257": Partly, "": Partly} {
		r := predictOK(t, &Input{Banks: testBanks, UKI: makeUKI(t, version, ".initrd=i", ".cmdline=quiet"), SecureBoot: Off})
		if f := finding(t, r, 9); f.Status != status {
			t.Errorf("%q: PCR 9: %+v", version, f)
		}
	}
	for says, more := range map[string][]string{
		"2 profiles":         {".profile=a", ".profile=b"},
		".dtbauto is chosen": {".dtbauto=a"},
	} {
		r := predictOK(t, &Input{Banks: testBanks, UKI: makeUKI(t, "257", more...), SecureBoot: Off})
		if f := finding(t, r, 11); f.Status != Partly || !strings.Contains(f.Reason, says) {
			t.Errorf("%s: %+v", says, f)
		}
	}
}

// TestPhases: the values of PCR 11 follow systemd's phases, and no others.
func TestPhases(t *testing.T) {
	r := predictOK(t, &Input{Banks: testBanks, UKI: makeUKI(t, "252", ".osrel=a"), SecureBoot: Off})
	values := finding(t, r, 11).Values["sha256"]
	if len(values) != 5 {
		t.Fatalf("%d values", len(values))
	}
	for i, phase := range bootPhases {
		before, _ := hex.DecodeString(values[i])
		after, _ := extend(tpm.SHA256, before, digestOf(testBanks, []byte(phase))["sha256"])
		if hex.EncodeToString(after) != values[i+1] {
			t.Errorf("after %s: %s", phase, values[i+1])
		}
	}
}

// newGRUB is a GRUB 2.12 that is given by hashes.
func newGRUB() *File {
	early := "configfile $prefix/grub.cfg\n"
	return &File{Name: "grubx64.efi", Digests: digestOf(testBanks, []byte("grub")), Authenticode: digestOf(testBanks, []byte("grub's")),
		SBAT: "sbat,1,SBAT Version\ngrub,5,Free Software Foundation,grub,2.12,x\n", GRUB: &GRUB{Prefix: "/EFI/x", EarlyConfig: &early}}
}

// TestNewGRUB: from 2.12 on the kernel's EFI stub measures command line and initrds.
func TestNewGRUB(t *testing.T) {
	file := func(name, text string) *File {
		f, err := ReadFile(name, strings.NewReader(text), int64(len(text)), testBanks)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	in := &Input{Banks: testBanks, GRUB: newGRUB(), SecureBoot: Off, Kernel: file("vmlinuz", "kernel"), Initrds: []*File{file("a", "12345"), file("b", "67")},
		Files: map[string]*File{"/EFI/x/grub.cfg": textFile("linux /k quiet\ninitrd /ucode /initrd\nboot\n")}}
	in.Kernel.reader, in.Kernel.Authenticode = nil, digestOf(testBanks, []byte("kernel's"))
	r := predictOK(t, in)
	want := map[string]Digests{
		"efistub:load_options": digestOf(testBanks, utf16Bytes("BOOT_IMAGE=/k quiet")),
		"efistub:initrd":       digestOf(testBanks, []byte("12345\x00\x00\x0067")),
	}
	for _, e := range r.Events {
		if d, found := want[e.Key]; found && e.Digests["sha256"][0] == d["sha256"] {
			delete(want, e.Key)
		}
	}
	if len(want) > 0 {
		t.Errorf("missing %v", want)
	}
	if f := finding(t, r, 9); f.Status != Determined || len(f.Values["sha256"]) != 1 {
		t.Errorf("PCR 9: %+v", f)
	}
	if f := finding(t, r, 4); f.Status != Determined || len(f.Values["sha256"]) != 2 {
		t.Errorf("PCR 4: %+v", f)
	}
	if !slices.Contains(eventsOf(r, 4), "image:kernel (optional)") {
		t.Errorf("the kernel is required in PCR 4: %v", eventsOf(r, 4))
	}
	in.Initrds[0].reader = nil
	if f := finding(t, predictOK(t, in), 9); f.Status != Partly || !strings.Contains(f.Reason, "hashes alone") {
		t.Errorf("initrds without their bytes: %+v", f)
	}
	line := "other"
	in.Cmdline = &line
	var at *Error
	if _, err := Predict(in); !errors.As(err, &at) || at.Code != CodeContradiction || !strings.Contains(err.Error(), `"quiet", not "other"`) {
		t.Errorf("%v", err)
	}
}

func keysOf(t testing.TB, name string) *Database {
	t.Helper()
	db, err := ParseDatabase([]string{name}, [][]byte{efivar(t, name)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestAuthorities: what PCR 7 says of who allowed an image.
func TestAuthorities(t *testing.T) {
	signed, err := readImage(fallback(t))
	if err != nil {
		t.Fatal(err)
	}
	signed.UKI, signed.Name = &UKI{Stub: "252"}, "fb.efi"
	empty := &Database{}
	debian := &Database{} // the certificate that issued the signer's
	if err := debian.add("db", listOf(typeX509, append(make([]byte, 16), keysOf(t, "MokListRT").Entries[0].data()...))); err != nil {
		t.Fatal(err)
	}
	sum, _ := hex.DecodeString(signed.Authenticode["sha256"])
	byHash := &Database{}
	if err := byHash.add("db", listOf(typeSHA256, append(make([]byte, 16), sum...))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, status, says string
		db, dbx            *Database
		unknown            bool
	}{
		{"issuer", Determined, "", debian, empty, false},
		{"hash", Determined, "", byHash, empty, false},
		{"nobody", Partly, "nothing that is given allows", keysOf(t, "microsoft/db"), empty, false},
		{"nobody known", Partly, "nothing that is given allows", empty, empty, true},
		{"one of two", EventsOnly, "one of several", keysOf(t, "microsoft/db"), empty, true},
		{"the only one", Determined, "", debian, empty, true},
		{"no dbx", Partly, "dbx is not given", debian, nil, false},
		{"no db", Partly, "db is not given", nil, empty, false},
	} {
		f := *signed
		if c.unknown {
			f.reader, f.Signatures = nil, nil
		}
		r := predictOK(t, &Input{Banks: testBanks, UKI: &f, SecureBoot: On, PK: empty, KEK: empty, DB: c.db, DBX: c.dbx})
		if got := finding(t, r, 7); got.Status != c.status || !strings.Contains(got.Reason, c.says) {
			t.Errorf("%s: %+v", c.name, got)
		}
		warned := strings.Contains(strings.Join(r.Warnings, " "), "will not boot")
		if warned != strings.HasPrefix(c.name, "nobody") {
			t.Errorf("%s: warnings %q", c.name, r.Warnings)
		}
		if judged := len(r.ReferenceValues.Claims) > 0; judged != (c.status != Partly) {
			t.Errorf("%s: claims %s", c.name, r.ReferenceValues.Claims)
		}
		if _, err := verifier.CompileReference(r.ReferenceValues); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	r := predictOK(t, &Input{Banks: testBanks, UKI: signed, SecureBoot: On, PK: empty, KEK: empty, DB: debian, DBX: byHash})
	if !strings.Contains(strings.Join(r.Warnings, " "), "revoked by the given dbx") {
		t.Errorf("warnings %q", r.Warnings)
	}
	broken := bytes.Clone(fallback(t))
	broken[len(broken)-40] ^= 1
	f, err := readImage(broken)
	if err != nil {
		t.Fatal(err)
	}
	f.UKI = &UKI{Stub: "252"}
	r = predictOK(t, &Input{Banks: testBanks, UKI: f, SecureBoot: On, PK: empty, KEK: empty, DB: keysOf(t, "microsoft/db"), DBX: empty})
	if finding(t, r, 7).Status == Determined {
		t.Errorf("an image whose signature does not hold is taken as allowed")
	}
}

// TestOlderShim: one that measures in another way leaves PCR 7 open.
func TestOlderShim(t *testing.T) {
	for version, older := range map[string]bool{"": false, "15.4": true, "15+1533136590.3beb971": true, "15.8-1": false, "16.1": false, "14": true} {
		f := &File{SBAT: "sbat,1,x\nshim,4,UEFI shim,shim,1,x\nshim.debian,1,Debian,shim," + version + ",x\n"}
		if f.olderShim() != older {
			t.Errorf("%q is older: %v", version, !older)
		}
	}
}

// TestMissingInput: what is not given is said, and nothing is made of nothing.
func TestMissingInput(t *testing.T) {
	hashes := &File{Name: "x", Digests: digestOf(testBanks, nil), Authenticode: digestOf([]tpm.HashAlg{tpm.SHA256}, nil)}
	whole, err := readImage(makePE([]part{{name: ".text", data: []byte("x")}}, nil))
	if err != nil {
		t.Fatal(err)
	}
	for says, in := range map[string]*Input{
		"no PCR bank":             {UKI: hashes},
		"cannot be computed":      {UKI: hashes, Banks: []tpm.HashAlg{tpm.SM3}},
		"nothing to boot":         {Banks: testBanks},
		"no shim":                 {Banks: testBanks, Shim: whole},
		"no GRUB":                 {Banks: testBanks, GRUB: whole},
		"no systemd-boot":         {Banks: testBanks, SystemdBoot: whole},
		"no unified kernel image": {Banks: testBanks, UKI: whole},
	} {
		if _, err := Predict(in); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q: %v", says, err)
		}
	}
	for says, in := range map[string]*Input{
		"of the bank sha1 is missing":      {Banks: []tpm.HashAlg{tpm.SHA256, tpm.SHA1}, UKI: hashes, SecureBoot: Off},
		"what shim starts is not given":    {Banks: testBanks[:1], Shim: hashes, SecureBoot: Off},
		"systemd-boot starts is not given": {Banks: testBanks[:1], SystemdBoot: hashes, SecureBoot: Off},
		"configuration in the GRUB image":  {Banks: testBanks[:1], GRUB: hashes, SecureBoot: Off},
	} {
		r := predictOK(t, in)
		all := ""
		for _, f := range r.PCRs {
			all += f.Reason + "\n"
		}
		if !strings.Contains(all, says) || r.Judges() {
			t.Errorf("want %q in\n%s", says, all)
		}
	}
}

// TestManifests: refused with the place; roles follow from the places of the files.
func TestManifests(t *testing.T) {
	zeros := strings.Repeat("0", 64)
	entry := `{"size":1,"sha256":"` + zeros + `"}`
	for says, body := range map[string]string{
		"/boot_disk_files: it is missing": `{}`,
		"/format":                         `{"format":"x","boot_disk_files":{"/a":` + entry + `}}`,
		"0 files":                         `{"boot_disk_files":{}}`,
		"given twice":                     `{"boot_disk_files":{"/a":` + entry + `,"/a":` + entry + `}}`,
		"/boot_disk_files/~1a: it has no": `{"boot_disk_files":{"/a":{"size":1}}}`,
		"64 lower-case hex digits":        `{"boot_disk_files":{"/a":{"size":1,"sha256":"00"}}}`,
		"no PCR bank":                     `{"boot_disk_files":{"/a":{"size":1,"authenticode":{"md5":"00"}}}}`,
		"colour":                          `{"boot_disk_files":{"/a":{"size":1,"sha256":"` + zeros + `","colour":1}}}`,
	} {
		_, err := ParseManifest("m.json", []byte(body))
		var at *Error
		if !errors.As(err, &at) || at.Code != CodeMalformedManifest || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q: %v", says, err)
		}
	}
	for _, c := range []struct {
		paths, boot, want, says string
	}{
		{"/EFI/BOOT/BOOTX64.EFI", "", "uki", ""},
		{"/EFI/BOOT/BOOTX64.EFI /EFI/BOOT/grubx64.efi", "", "shim grub", ""},
		{"/EFI/BOOT/BOOTX64.EFI /EFI/debian/shimx64.efi /EFI/debian/grubx64.efi", "/EFI/debian/shimx64.efi", "shim grub", ""},
		{"/EFI/BOOT/BOOTX64.EFI /EFI/Linux/a.efi", "", "systemd-boot uki", ""},
		{"/EFI/BOOT/BOOTX64.EFI /EFI/Linux/a.efi /EFI/Linux/b.efi", "", "", "can boot /EFI/Linux/a.efi too"},
		{"/EFI/BOOT/BOOTX64.EFI /EFI/BOOT/BOOTAA64.EFI", "", "", "say which one"},
		{"/vmlinuz", "", "", "no such file to boot from"},
	} {
		m := &Manifest{Files: map[string]*File{}}
		for _, p := range strings.Fields(c.paths) {
			m.Files[p] = &File{Name: p}
		}
		in := &Input{}
		err := m.Roles(in, c.boot)
		var got []string
		for _, role := range []struct {
			name string
			f    *File
		}{{"shim", in.Shim}, {"systemd-boot", in.SystemdBoot}, {"grub", in.GRUB}, {"uki", in.UKI}} {
			if role.f != nil {
				got = append(got, role.name)
			}
		}
		if strings.Join(got, " ") != c.want || (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %v", c.paths, got, err)
		}
	}
	a, b := &Manifest{Files: map[string]*File{"/a": {Digests: Digests{"sha256": zeros}}}}, &Manifest{Files: map[string]*File{"/a": {Digests: Digests{"sha256": "1" + zeros[1:]}}}}
	if err := a.Add(b); err == nil || !strings.Contains(err.Error(), "one manifest says") {
		t.Errorf("two manifests that contradict each other: %v", err)
	}
}

// TestManifestOfFiles: a manifest that was written says all that the files do.
func TestManifestOfFiles(t *testing.T) {
	early := makeGRUB("source $prefix/grub.cfg\n")
	grub, err := readImage(early)
	if err != nil {
		t.Fatal(err)
	}
	uki := makeUKI(t, "252", ".cmdline=quiet", ".initrd=i")
	for _, in := range []*Input{
		{Banks: testBanks, GRUB: grub, Kernel: textFile("k"), SecureBoot: Off, BootPath: "/EFI/BOOT/BOOTX64.EFI", Files: map[string]*File{"/EFI/test/grub.cfg": textFile("linux /k\nboot\n")}},
		{Banks: testBanks, UKI: uki, SecureBoot: Off, BootPath: "/EFI/BOOT/BOOTX64.EFI"},
	} {
		if in.Kernel != nil {
			in.Kernel.Name, in.Kernel.Authenticode = "k", digestOf(testBanks, []byte("k"))
		}
		b, err := jsonOf(ManifestOf(in))
		if err != nil {
			t.Fatal(err)
		}
		m, err := ParseManifest("m.json", b)
		if err != nil {
			t.Fatalf("%v: %s", err, b)
		}
		again := &Input{Banks: testBanks, SecureBoot: Off}
		if err := m.Roles(again, ""); err != nil {
			t.Fatal(err)
		}
		want, got := predictOK(t, in), predictOK(t, again)
		if len(got.Events) != len(want.Events) || finding(t, got, 9).Values["sha256"][0] != finding(t, want, 9).Values["sha256"][0] {
			t.Errorf("%d events of the manifest, %d of the files", len(got.Events), len(want.Events))
		}
	}
}
