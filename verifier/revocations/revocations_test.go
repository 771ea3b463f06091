package revocations

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/boottest"
	"github.com/assay-verifier/assay/verifier/eventlog"
)

func read(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func kek(t testing.TB) []*x509.Certificate {
	t.Helper()
	out, err := KeyExchangeKeys()
	if err != nil || len(out) != 2 {
		t.Fatal(out, err)
	}
	return out
}

func shippedSetOf(t testing.TB) *Set {
	t.Helper()
	s, err := Shipped()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every update that is shipped, and those of earlier years, is signed by Microsoft.
func TestOfficialUpdatesVerify(t *testing.T) {
	for path, entries := range map[string]int{
		"data/DBXUpdate-amd64.bin": 443, "data/DBXUpdate-arm64.bin": 26, "data/DBXUpdate-x86.bin": 45, "data/DBXUpdate2024.bin": 4, "data/DBXUpdateSVN.bin": 3,
		"testdata/dbxupdate-2014-08-11.bin": 13, "testdata/dbxupdate_x64-2020-10-12.bin": 186, "testdata/dbxupdate_x64-2021-04-29.bin": 211,
	} {
		u, err := ParseUpdate(read(t, path))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if u.Entries() != entries {
			t.Errorf("%s: %d entries, want %d", path, u.Entries(), entries)
		}
		if err := u.Verify(kek(t)); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if err := u.Verify(nil); err == nil {
			t.Errorf("%s: verifies without a key that is trusted", path)
		}
	}
}

// What is signed for another variable, by another, or was changed, is refused.
func TestOtherUpdatesAreRefused(t *testing.T) {
	for path, want := range map[string]string{
		"testdata/DBUpdate2024.bin": "does not hold for an update that appends to dbx", // Microsoft's, of db
		"testdata/db.auth":          "does not hold",
		"testdata/KEK.auth":         "does not hold",
	} {
		u, err := ParseUpdate(read(t, path))
		if err != nil {
			t.Fatal(path, err)
		}
		if err := u.Verify(kek(t)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	good := read(t, "data/DBXUpdate-arm64.bin")
	lists := bytes.Index(good, []byte{0x26, 0x16, 0xc4, 0xc1})
	for what, at := range map[string]int{"time": 2, "signature": lists - 10, "owner": lists + 28, "digest": lists + 28 + 16} {
		changed := bytes.Clone(good)
		changed[at] ^= 1
		u, err := ParseUpdate(changed)
		if err == nil {
			err = u.Verify(kek(t))
		}
		if err == nil {
			t.Errorf("an update whose %s was changed verifies", what)
		}
	}
}

// A key of the tenant's own signs as well as Microsoft's, for dbx alone, and only where it is trusted.
func TestOwnKeyExchangeKey(t *testing.T) {
	own := boottest.NewKeyExchangeKey(t)
	raw := own.Update(t, "dbx", [32]byte{1}, [32]byte{2})
	u, err := ParseUpdate(raw)
	if err != nil || u.Entries() != 2 {
		t.Fatal(u, err)
	}
	if err := u.Verify([]*x509.Certificate{own.Certificate}); err != nil {
		t.Error(err)
	}
	if err := u.Verify(kek(t)); err == nil || !strings.Contains(err.Error(), `the signer "KEK of a test" does not lead to a key exchange key that is trusted`) {
		t.Error(err)
	}
	other, err := ParseUpdate(own.Update(t, "db", [32]byte{1}))
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Verify([]*x509.Certificate{own.Certificate}); err == nil {
		t.Error("an update of db is taken for one of dbx")
	}
}

func TestMalformedUpdates(t *testing.T) {
	good := read(t, "data/DBXUpdate-arm64.bin")
	lists := bytes.Index(good, []byte{0x26, 0x16, 0xc4, 0xc1})
	with := func(at int, b ...byte) []byte {
		c := bytes.Clone(good)
		copy(c[at:], b)
		return c
	}
	for _, c := range []struct {
		name, want string
		raw        []byte
	}{
		{"empty", "offset 0: ", nil},
		{"short", "offset 0: ", good[:39]},
		{"revision", "offset 20: ", with(20, 0, 1)},
		{"type", "offset 24: ", with(24, 0)},
		{"length", "offset 16: ", with(16, 0xff, 0xff, 0xff, 0xff)},
		{"no signature", "offset 16: ", with(16, 24, 0, 0, 0)},
		{"nothing revoked", "revokes nothing", good[:lists]},
		{"cut short", "malformed signature list", good[:len(good)-1]},
		{"unknown entry", "cannot be judged by", with(lists, 0)},
		{"too large", "bytes are more than", make([]byte, MaxUpdate+1)},
	} {
		if _, err := ParseUpdate(c.raw); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestShippedSet(t *testing.T) {
	s := shippedSetOf(t)
	if len(s.entries) < 600 || len(s.lists) != 3 || len(s.svns) != 3 {
		t.Errorf("%d entries, %d lists, %d security versions", len(s.entries), len(s.lists), len(s.svns))
	}
	for digest, want := range map[string]Entry{
		// The first of Microsoft's list, and one of the optional ones of ARM that no signed update has.
		"80b4d96931bf0d02fd91a61e19d14f1da452e66db2408ca8604d411f92659f0a": {Signed: true, Advisory: Advisory{Architecture: "x64", File: "shim.efi", Company: "Unknown", SignedBy: "Microsoft Corporation UEFI CA 2011", Added: "2018-04-01"}},
		"e8e95f0733a55e8bad7be0a1413ee23c51fcea64b3c8fa6a786935fddcc71961": {Signed: true, Optional: true, Advisory: Advisory{File: "Microsoft Windows Production PCA 2011"}},
	} {
		raw, _ := hexOf[[32]byte](digest)
		e, ok := s.Lookup(raw)
		if !ok || e.Signed != want.Signed || e.Optional != want.Optional || e.File != want.File || e.Company != want.Company || want.Added != "" && e.Added != want.Added || e.Certificate() != want.Optional {
			t.Errorf("%s: %+v", digest, e)
		}
	}
	for _, e := range s.entries {
		if e.Signed && e.Added == "" && e.kind == imageHash {
			t.Errorf("%x has no advisory", e.Digest)
		}
	}
	for _, source := range s.Sources() {
		if source.Origin == "" || source.Entries == 0 {
			t.Errorf("%+v", source)
		}
	}
	if bootmgr := s.svns[[16]byte{0x61, 0x2b, 0x13, 0x9d, 0xd5, 0x59, 0x88, 0x43, 0xab, 0x1c, 0x18, 0x5c, 0x3c, 0xb2, 0xeb, 0x92}]; bootmgr.String() != "9.0" {
		t.Error(bootmgr)
	}
}

// What is added never takes anything away, whatever its age; and the version changes with the content.
func TestAdditionsOnlyAdd(t *testing.T) {
	base := shippedSetOf(t)
	old := read(t, "testdata/dbxupdate_x64-2020-10-12.bin")
	s, err := With([]Addition{{KindDBX, old}, {KindLevel, []byte("sbat,1,2021030218\n")},
		{KindInfo, []byte(`{"images":{"x64":[{"authenticodeHash":"80B4D96931BF0D02FD91A61E19D14F1DA452E66DB2408CA8604D411F92659F0A","hashType":"SHA256","filename":"old.efi","dateOfAddition":"2017-01-01"}]}}`)}})
	if err != nil {
		t.Fatal(err)
	}
	for digest, e := range base.entries {
		if got, ok := s.entries[digest]; !ok || got.File != e.File || got.Signed != e.Signed || got.Optional != e.Optional {
			t.Errorf("%x became %+v", digest, got)
		}
	}
	if len(s.entries) <= len(base.entries) {
		t.Error("an update with entries of its own added none")
	}
	if s.levels[len(s.levels)-1].Version != "2025021800" {
		t.Error("an old level stands for the newest")
	}
	if s.Version() == base.Version() || len(s.Sources()) != len(base.Sources())+3 {
		t.Error(s.Version(), len(s.Sources()))
	}
	// Of an earlier update that holds half of the present one's entries machines would be asked for the rest too; this
	// one does not.
	if got := len(s.lists[0].digests); got != 443 {
		t.Errorf("the list of x64 has %d entries", got)
	}
	newer, err := With([]Addition{{KindLevel, []byte("sbat,1,2026110100\nshim,5\ngrub,6\n")}})
	if err != nil || newer.levels[len(newer.levels)-1].Version != "2026110100" {
		t.Error(err)
	}
	for _, a := range []Addition{{KindDBX, []byte("x")}, {KindInfo, []byte("{}")}, {KindLevel, []byte("x")}, {"other", nil}} {
		if _, err := With([]Addition{a}); err == nil {
			t.Errorf("%s takes anything", a.Kind)
		}
	}
}

func TestInfoErrorsNameTheElement(t *testing.T) {
	image := func(hash, kind, date string) string {
		return `{"authenticodeHash":"` + hash + `","hashType":"` + kind + `","dateOfAddition":"` + date + `"}`
	}
	hash := strings.Repeat("ab", 32)
	for raw, want := range map[string]string{
		`[]`: "no list of dbx", `{`: "no list of dbx", `{"images":{}}`: "/images: ",
		`{"images":{"x64":[` + image(hash, "SHA256", "2020-01-01") + `,` + image("zz", "SHA256", "2020-01-01") + `]}}`: "/images/x64/1/authenticodeHash",
		`{"images":{"x64":[` + image(hash, "SHA1", "2020-01-01") + `]}}`:                                               "/images/x64/0/authenticodeHash",
		`{"images":{"x64":[` + image(hash, "SHA256", "soon") + `]}}`:                                                   "/images/x64/0/dateOfAddition",
		`{"images":{"x64":[` + image(hash, "SHA256", "2020-01-01") + `]},"certificates":[{"thumbprint":"00"}]}`:        "/certificates/0/thumbprint",
		`{"images":{"x64":[` + image(hash, "SHA256", "2020-01-01") + `]},"svns":[{"value":"` + hash + `"}]}`:           "/svns/0/value",
	} {
		if _, err := ParseInfo([]byte(raw)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100s: %v, want %q", raw, err, want)
		}
	}
	if _, err := ParseInfo(make([]byte, MaxInfo+1)); err == nil {
		t.Error("a list of any size is read")
	}
	many := `{"images":{"x64":[` + strings.Repeat(image(hash, "SHA256", "2020-01-01")+",", maxEntries) + image(hash, "SHA256", "2020-01-01") + `]}}`
	if _, err := ParseInfo([]byte(many)); err == nil || !strings.Contains(err.Error(), "more than 20000") {
		t.Error(err)
	}
}

func TestLevelErrorsNameTheLine(t *testing.T) {
	for raw, want := range map[string]string{
		"": "line 1", "shim,2\n": "line 1", "sbat,2,2021030218": "line 1", "sbat,1,20210302": "line 1", "sbat,1,2021139918": "line 1", "sbat,1,20210302x8": "line 1",
		"sbat,1,2021030218\nshim": "line 2", "sbat,1,2021030218\nshim,0": "line 2", "sbat,1,2021030218\nshim,02": "line 2", "sbat,1,2021030218\nshim,1,x": "line 2",
		"sbat,1,2021030218\nshim,2\nshim,3": "line 3", "sbat,1,2021030218\n\nshim,3": "line 2", "sbat,1,2021030218\n,3": "line 2", "sbat,1,2021030218\na b,3": "line 2",
		"sbat,1,2021030218" + strings.Repeat("\nx", 200): "128", strings.Repeat("x", MaxLevel+1): "4096",
	} {
		if _, err := ParseLevel([]byte(raw)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", raw, err, want)
		}
	}
	for _, raw := range []string{"sbat,1,2025021800\nshim,4\ngrub,5\n", "sbat,1,2025021800\r\nshim,4\r\ngrub,5\r\n", "sbat,1,2025021800\nshim,4\ngrub,5\n\x00\x00"} {
		if l, err := ParseLevel([]byte(raw)); err != nil || l.Version != "2025021800" || l.least("grub") != 5 || l.least("shim") != 4 || l.least("x") != 0 {
			t.Errorf("%q: %+v %v", raw, l, err)
		}
	}
}

// database is a signature database with certificates of these fingerprints.
func database(fingerprints ...string) *eventlog.SignatureDatabase {
	db := &eventlog.SignatureDatabase{}
	for _, f := range fingerprints {
		db.Certificates = append(db.Certificates, eventlog.Certificate{SHA256: f})
	}
	return db
}

func TestKeys(t *testing.T) {
	k11, k23, w11, w23, u11, u23 := successions[0].old, successions[0].successor, successions[1].old, successions[1].successor, successions[2].old, successions[2].successor
	for _, c := range []struct {
		name    string
		kek, db []string
		alone   int // -1: nothing to say
	}{
		{"2011 alone", []string{k11}, []string{w11, u11}, 3},
		{"both", []string{k11, k23}, []string{w11, w23, u11, u23}, 0},
		{"2023 alone", []string{k23}, []string{w23}, 0},
		{"Windows alone", []string{k11, k23}, []string{w11, w23}, 0},
		{"third party left behind", []string{k11, k23}, []string{w11, w23, u11}, 1},
		{"own keys", []string{"aa"}, []string{"bb"}, -1},
	} {
		got := keys(&eventlog.Claims{KEK: database(c.kek...), DB: database(c.db...)})
		if got == nil && c.alone >= 0 || got != nil && len(got.Alone) != c.alone {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	if keys(&eventlog.Claims{DB: database(w11)}) != nil {
		t.Error("an unknown KEK is judged")
	}
	cut := database(w11)
	cut.CertificatesOmitted = 1
	if keys(&eventlog.Claims{KEK: database(k11), DB: cut}) != nil {
		t.Error("a db that is known in part is judged")
	}
}

// The certificates of the successions are those of Microsoft that are shipped, or stand in real logs.
func TestSuccessionsAreMicrosofts(t *testing.T) {
	for i, c := range kek(t) {
		digest := digestOf(c.Raw)
		want := []string{successions[0].old, successions[0].successor}[i]
		if hex.EncodeToString(digest[:]) != want {
			t.Errorf("%s: %x", c.Subject, digest)
		}
	}
	raw, _ := hexOf[[32]byte](successions[1].old)
	if e, ok := shippedSetOf(t).Lookup(raw); !ok || !e.Certificate() {
		t.Error("the Windows Production PCA is not the certificate that DBXUpdate2024 revokes")
	}
}

func FuzzDBXUpdate(f *testing.F) {
	for _, pattern := range []string{"data/*.bin", "testdata/*.bin", "testdata/*.auth"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			f.Add(read(f, path))
		}
	}
	anchors := kek(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		u, err := ParseUpdate(raw)
		if err != nil {
			return
		}
		if 32*(len(u.hashes)+len(u.tbsHashes)+len(u.svns)) > len(raw) {
			t.Fatal("more entries than the update has room for")
		}
		if u.Verify(anchors) == nil {
			if _, err := With([]Addition{{KindDBX, raw}}); err != nil {
				t.Fatalf("a signed update that cannot be added: %v", err)
			}
		}
	})
}

func FuzzSBAT(f *testing.F) {
	for _, l := range shippedSetOf(f).levels {
		text := "sbat,1," + l.Version + "\n"
		for _, c := range l.Components {
			text += c.Component + ",1\n"
		}
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := ParseLevel(raw)
		if err != nil {
			return
		}
		if len(l.Components) > maxComponents || len(l.Version) != 10 {
			t.Fatalf("%+v", l)
		}
		level := string(raw)
		shippedSetOf(t).sbat(&eventlog.Claims{ShimSBATLevel: &level, DB: database(successions[2].old)})
	})
}

func FuzzDBXInfo(f *testing.F) {
	f.Add([]byte(`{"images":{"x64":[{"authenticodeHash":"80B4D96931BF0D02FD91A61E19D14F1DA452E66DB2408CA8604D411F92659F0A","hashType":"SHA256","dateOfAddition":"2018-04-01","isOptional":"true"}]},"svns":[]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		info, err := ParseInfo(raw)
		if err == nil && info.Entries() == 0 {
			t.Fatal("a list of nothing")
		}
	})
}

func BenchmarkAssess(b *testing.B) {
	s := shippedSetOf(b)
	c := &eventlog.Claims{KEK: database(successions[0].old), DB: database(successions[2].old), DBX: database(), BootLoaders: []eventlog.Image{{File: "shimx64.efi", Digests: map[string]string{"sha256": strings.Repeat("ab", 32)}}}}
	b.ReportAllocs()
	for b.Loop() {
		s.assess(c)
	}
}

func BenchmarkWith(b *testing.B) {
	update := read(b, "testdata/dbxupdate_x64-2021-04-29.bin")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := With([]Addition{{KindDBX, update}}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAssessKept is what an unchanged machine's attestation costs: the assessment is kept with its log.
func BenchmarkAssessKept(b *testing.B) {
	s := shippedSetOf(b)
	a := boottest.Appraise(b, "../../integration/testdata/boots/sb-on-1/evidence/binary_bios_measurements")
	first := s.Assess(a.Measurements, a.Claims.Claims)
	if again := s.Assess(a.Measurements, a.Claims.Claims); again != first {
		b.Fatal("an assessment is made again for the same log")
	}
	b.ReportAllocs()
	for b.Loop() {
		s.Assess(a.Measurements, a.Claims.Claims)
	}
}
