package ima_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// fileSignature signs a digest as evmctl does (security.ima, version 2).
func fileSignature(t *testing.T, key *ecdsa.PrivateKey, digest []byte) []byte {
	t.Helper()
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	id := sha1.Sum(point)
	out := append([]byte{3, 2, 4}, id[16:]...)
	return append(binary.BigEndian.AppendUint16(out, uint16(len(sig))), sig...)
}

func ecKey(t *testing.T) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// judged is what the policy finds, one line an entry.
func judged(t *testing.T, p ima.Policy, entries []measured) string {
	t.Helper()
	l, rep := proven(t, entries)
	c, err := p.Compile()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range l.Judge(c, rep).Findings {
		out = append(out, itoa(f.Index)+" "+f.Why)
	}
	return strings.Join(out, "\n")
}

func withSignature(m measured, sig []byte) measured {
	m.template, m.fields = "ima-sig", append(m.fields[:2:2], sig)
	return m
}

func TestFilesPassByTheirSignature(t *testing.T) {
	key, trusted := ecKey(t)
	stranger, _ := ecKey(t)
	one, two := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	sum1 := "sha256:" + strings.Repeat("01", 32)
	damaged := fileSignature(t, key, one)
	damaged[len(damaged)-1] ^= 1
	verity := measured{pcr: 10, template: "ima-sigv2", fields: [][]byte{append([]byte("verity:sha256:\x00"), one...), []byte("/usr/bin/verity\x00"), fileSignature(t, key, one)}}
	entries := []measured{
		withSignature(ng("sha256", one, "/usr/bin/signed"), fileSignature(t, key, one)),
		withSignature(ng("sha256", one, "/usr/bin/stranger"), fileSignature(t, stranger, one)),
		withSignature(ng("sha256", two, "/usr/bin/other-file"), fileSignature(t, key, one)),
		withSignature(ng("sha256", one, "/usr/bin/damaged"), damaged),
		ng("sha256", one, "/usr/bin/plain"),
		withSignature(ng("sha256", two, "/usr/bin/listed"), fileSignature(t, key, two)),
		withSignature(ng("sha256", one, "/usr/bin/listed"), nil),
		verity,
	}
	got := judged(t, ima.Policy{Keys: []string{trusted}, Allow: []ima.Allow{{Path: "/usr/bin/listed", Digests: []string{sum1}}}}, entries)
	const notNamed = " is not among the files that the reference values allow"
	want := strings.Join([]string{
		"1 /usr/bin/stranger" + notNamed + ", and its signature does not make up for it: the reference values trust no key with the id ",
		"2 /usr/bin/other-file" + notNamed + ", and its signature does not make up for it: the ECDSA signature does not verify",
		"3 /usr/bin/damaged" + notNamed + ", and its signature does not make up for it: the ECDSA signature does not verify",
		"4 /usr/bin/plain" + notNamed,
		"5 /usr/bin/listed has another content than the reference values allow",
		"7 /usr/bin/verity" + notNamed + ", and its signature does not make up for it: signatures over fs-verity digests are not verified",
	}, "\n")
	if cut := cutIDs(got); cut != want {
		t.Errorf("got\n%s\nnot\n%s", cut, want)
	}
	// Without trusted keys a signature counts for nothing.
	if got := judged(t, ima.Policy{}, entries[:1]); got != "0 /usr/bin/signed"+notNamed {
		t.Error(got)
	}
}

// cutIDs takes the key ids out, which differ from run to run.
func cutIDs(s string) string {
	var out []string
	for line := range strings.SplitSeq(s, "\n") {
		if i := strings.Index(line, "with the id "); i >= 0 {
			line = line[:i+len("with the id ")]
		}
		out = append(out, line)
	}
	return strings.Join(out, "\n")
}

// A required signature is asked for whatever the digest, and no exclusion excepts it.
func TestRequiredSignatures(t *testing.T) {
	key, trusted := ecKey(t)
	one, two := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	p := ima.Policy{Keys: []string{trusted}, RequireSignatures: []string{"/lib/modules/**", "/sbin/init"}, Exclude: []string{"/lib/.*"},
		Allow: []ima.Allow{{Path: "/lib/modules/a.ko", Digests: []string{"sha256:" + strings.Repeat("01", 32)}}}}
	short := fileSignature(t, key, one)
	got := judged(t, p, []measured{
		withSignature(ng("sha256", one, "/lib/modules/a.ko"), fileSignature(t, key, one)),
		withSignature(ng("sha256", two, "/lib/modules/a.ko"), fileSignature(t, key, two)),
		ng("sha256", one, "/lib/modules/a.ko"),
		ng("sha256", two, "/lib/modules/deep/b.ko"),
		withSignature(ng("sha256", two, "/lib/modules/deep/c.ko"), fileSignature(t, key, two)),
		ng("sha256", one, "/sbin/init"),
		ng("sha256", one, "/lib/free.so"),
		withSignature(ng("sha256", one, "/lib/modules/d.ko"), short[:len(short)-1]),
	})
	want := strings.Join([]string{
		"1 /lib/modules/a.ko has another content than the reference values allow",
		"2 /lib/modules/a.ko needs a trusted signature: it has no signature",
		"3 /lib/modules/deep/b.ko needs a trusted signature: it has no signature",
		"5 /sbin/init needs a trusted signature: it has no signature",
	}, "\n")
	if !strings.HasPrefix(got, want+"\n7 /lib/modules/d.ko has a malformed signature: ") {
		t.Errorf("got\n%s\nnot\n%s", got, want)
	}
}

// The published list of Keylime: dd is signed by an RSA key.
func TestPublishedSignaturesPass(t *testing.T) {
	l := parse(t, readFile(t, "testdata/signatures-ima-sig.ascii"))
	quoted := map[tpm.HashAlg][]byte{tpm.SHA1: statedPCR(l, l.Len())}
	_, rep := l.Replay(quoted, nil)
	c, err := (&ima.Policy{Keys: []string{string(readFile(t, "testdata/rsa2048pub.pem"))}}).Compile()
	if err != nil {
		t.Fatal(err)
	}
	j := l.Judge(c, rep)
	if j.Judged != 2 || len(j.Findings) != 1 || j.Findings[0].Path != "/usr/bin/zmore" || !strings.HasSuffix(j.Findings[0].Why, "no key with the id 531f4025") {
		t.Errorf("%+v", j)
	}
}

// A finding tells among what its digest belongs, or that none makes up for it.
func TestFindingsTellTheirKind(t *testing.T) {
	_, trusted := ecKey(t)
	der, text := []byte{0x30, 1, 0}, []byte("root=/dev/sda1")
	hash := func(b []byte) []byte { sum := sha256.Sum256(b); return sum[:] }
	buffer := func(path string, digest, buf []byte) measured {
		m := ng("sha256", digest, path, buf)
		m.template = "ima-buf"
		return m
	}
	other := "sha256:" + strings.Repeat("00", 32)
	rules := ima.Policy{Allow: []ima.Allow{{Path: "allowed-keyring", Digests: []string{other}}}, Keyrings: map[string][]string{".ima": {other}},
		Buffers: map[string][]string{"dm_table_load": {other}}, IgnoredKeyrings: []string{"ignored"},
		Keys: []string{trusted}, RequireSignatures: []string{"/sbin/init"}}
	for name, c := range map[string]struct {
		entry measured
		want  ima.EntryKind
	}{
		"a file":                           {ng("sha256", hash(text), "/usr/bin/a"), ima.KindFile},
		"a key of a named keyring":         {buffer(".ima", hash(der), der), ima.KindKeyring},
		"another buffer that is named":     {buffer("dm_table_load", hash(text), text), ima.KindBuffer},
		"a key of a keyring of no name":    {buffer(".evm", hash(der), der), ima.KindKeyring},
		"another buffer of no name":        {buffer("kexec-cmdline", hash(text), text), ima.KindBuffer},
		"a keyring that files allow":       {buffer("allowed-keyring", hash(der), der), ima.KindFile},
		"a file whose signature is itself": {buffer("/usr/bin/a", hash(text), text), ima.KindFile},
		"a digest of something else":       {buffer(".ima", hash(text), der), ima.KindUnprovable},
		"a file that needs a signature":    {ng("sha256", hash(text), "/sbin/init"), ima.KindSignature},
		"no key":                           {buffer("ignored", hash(text), text), ima.KindUnprovable},
	} {
		compiled, err := rules.Compile()
		if err != nil {
			t.Fatal(err)
		}
		l, rep := proven(t, []measured{c.entry})
		if got := l.Judge(compiled, rep).Findings; len(got) != 1 || got[0].Kind != c.want {
			t.Errorf("%s: %+v, not %s", name, got, c.want)
		}
	}
}

func TestKeyrings(t *testing.T) {
	l := parse(t, readFile(t, "testdata/keyrings-ima-buf.ascii"))
	_, rep := l.Replay(map[tpm.HashAlg][]byte{tpm.SHA1: statedPCR(l, l.Len())}, nil)
	const known = "sha256:a7d52aaa18c23d2d9bb2abb4308c0eeee67387a42259f4a6b1a42257065f3d5a"
	other := "sha256:" + strings.Repeat("00", 32)
	for name, c := range map[string]struct {
		policy ima.Policy
		why    string
	}{
		"allowed":          {ima.Policy{Keyrings: map[string][]string{".ima": {known}}}, ""},
		"ignored":          {ima.Policy{IgnoredKeyrings: []string{".ima"}}, ""},
		"all are ignored":  {ima.Policy{IgnoredKeyrings: []string{"*"}}, ""},
		"another key":      {ima.Policy{Keyrings: map[string][]string{".ima": {other}}}, `.ima (keyring) was given a key that the reference values do not allow: "CN=ecdsa-ca-signed-ec-key"`},
		"another keyring":  {ima.Policy{Keyrings: map[string][]string{".evm": {known}}}, ".ima is not among the files that the reference values allow"},
		"named wins":       {ima.Policy{Keyrings: map[string][]string{".ima": {other}}, IgnoredKeyrings: []string{"*"}}, `.ima (keyring) was given a key that the reference values do not allow: "CN=ecdsa-ca-signed-ec-key"`},
		"as it was before": {ima.Policy{Allow: []ima.Allow{{Path: ".ima", Digests: []string{known}}}}, ""},
	} {
		compiled, err := c.policy.Compile()
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if j := l.Judge(compiled, rep); len(j.Findings) > 0 {
			got = j.Findings[0].Why
		}
		if got != c.why {
			t.Errorf("%s: %q, not %q", name, got, c.why)
		}
	}
	if e := l.Entry(0); e.BufferKind() != ima.BufferKey {
		t.Errorf("the key is taken for %v", e.BufferKind())
	}
}

// The template's name is covered by nothing: a program whose signature field is read as a buffer stays a program.
func TestAProgramIsNoKey(t *testing.T) {
	buffer := []byte{0x30, 1, 0}
	sum := sha256.Sum256(buffer)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	dressed := func(path string, digest, buf []byte) measured {
		m := ng("sha256", digest, path, buf)
		m.template = "ima-buf"
		return m
	}
	evil := bytes.Repeat([]byte{6}, 32)
	got := judged(t, ima.Policy{IgnoredKeyrings: []string{"*", "named"}, Buffers: map[string][]string{"kexec-cmdline": {digest}}}, []measured{
		dressed(".ima", sum[:], buffer),
		dressed(".ima", evil, buffer),
		dressed("/usr/bin/evil", evil, buffer),
		dressed("/usr/bin/evil", sum[:], buffer),
		dressed("named", evil, nil),
		dressed("kexec-cmdline", sum[:], buffer),
		dressed("kexec-cmdline", evil, buffer),
	})
	want := strings.Join([]string{
		"1 .ima is measured with a digest that is not that of its buffer",
		"2 /usr/bin/evil is not among the files that the reference values allow",
		"3 /usr/bin/evil is not among the files that the reference values allow",
		"4 named is measured with a digest that is not that of its buffer",
		"6 kexec-cmdline is measured with a digest that is not that of its buffer",
	}, "\n")
	if got != want {
		t.Errorf("got\n%s\nnot\n%s", got, want)
	}
	text := []byte("root=/dev/sda1")
	textSum := sha256.Sum256(text)
	got = judged(t, ima.Policy{IgnoredKeyrings: []string{"*"}, Buffers: map[string][]string{"kexec-cmdline": {digest}}}, []measured{
		dressed(".evm", textSum[:], text), dressed("kexec-cmdline", textSum[:], text)})
	if want := ".evm is no key, and only keys of this keyring are passed over"; !strings.Contains(got, want) || !strings.Contains(got, "1 kexec-cmdline (measured buffer) has another content") {
		t.Errorf("%s, not %s", got, want)
	}
}

func TestPolicyOfSignaturesIsChecked(t *testing.T) {
	_, good := ecKey(t)
	ed := "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"
	small := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: readFile(t, "testdata/imakey.der")})) // RSA 1024
	digests := make([]string, ima.MaxDigests+1)
	for i := range digests {
		digests[i] = "sha256:" + strings.Repeat("01", 32)
	}
	globs := make([]ima.Allow, ima.MaxPatterns+1)
	for i := range globs {
		globs[i] = ima.Allow{Path: fmt.Sprintf("/%d/*", i)}
	}
	for pointer, p := range map[string]ima.Policy{
		"/verification_keys/0":  {Keys: []string{"no key"}},
		"/verification_keys/1":  {Keys: []string{good, good + good}},
		"/verification_keys/2":  {Keys: []string{good, good, small}},
		"/verification_keys/3":  {Keys: []string{good, good, good, ed}},
		"/verification_keys":    {Keys: make([]string, ima.MaxKeys+1)},
		"/require_signatures/0": {RequireSignatures: []string{"/sbin/*"}},
		"/require_signatures/1": {Keys: []string{good}, RequireSignatures: []string{"/sbin/*", ""}},
		"/keyrings/.ima/0":      {Keyrings: map[string][]string{".ima": {"sha256:zz"}}},
		"/keyrings/":            {Keyrings: map[string][]string{"": nil}},
		"/buffers/.ima":         {Keyrings: map[string][]string{".ima": nil}, Buffers: map[string][]string{".ima": nil}},
		"/ignored_keyrings/0":   {IgnoredKeyrings: []string{""}},
		"/allow/0/digests":      {Allow: []ima.Allow{{Path: "/a", Digests: digests}}},
		"/allow/1000/path":      {Allow: globs},
		"/exclude/1000":         {Exclude: strings.Split(strings.Repeat("a,", ima.MaxPatterns+1), ",")},
	} {
		_, err := p.Compile()
		var at *ima.PolicyError
		if !errors.As(err, &at) || at.Pointer != pointer {
			t.Errorf("%s: %v", pointer, err)
		}
	}
}

// A list of a hundred thousand files costs one look-up an entry, and little memory each.
func BenchmarkJudgeLargePolicy(b *testing.B) {
	allow := make([]ima.Allow, 100_000)
	for i := range allow {
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16)})
		allow[i] = ima.Allow{Path: fmt.Sprintf("/usr/lib/package/file-%d", i), Digests: []string{"sha256:" + hex.EncodeToString(sum[:])}}
	}
	c, err := (&ima.Policy{Allow: allow}).Compile()
	if err != nil {
		b.Fatal(err)
	}
	_, l, quoted := benchmarkList(b)
	_, rep := l.Replay(quoted, nil)
	b.ReportAllocs()
	for b.Loop() {
		l.Judge(c, rep)
	}
	perEntry(b, l)
}
