package ima_test

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

func proven(t *testing.T, entries []measured) (*ima.List, ima.Report) {
	t.Helper()
	l := parse(t, writeBinary(binary.LittleEndian, crypto.SHA1, entries))
	_, rep := l.Replay(map[tpm.HashAlg][]byte{tpm.SHA256: extend(tpm.SHA256, false, binary.LittleEndian, entries)}, nil)
	if rep.Status != ima.Pass {
		t.Fatalf("%+v", rep)
	}
	return l, rep
}

func TestJudge(t *testing.T) {
	one, two := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	sum1 := "sha256:" + strings.Repeat("01", 32)
	entries := []measured{
		ng("sha256", two, "boot_aggregate"),
		ng("sha256", one, "/usr/bin/[", nil),
		ng("sha256", one, "/usr/bin/ls"),
		ng("sha256", two, "/usr/bin/ls"),
		ng("sha256", one, "/usr/bin/x/y"),
		ng("sha256", two, "/var/log/syslog"),
		ng("sha256", two, "/evil/var/log/x"),
		ng("sha256", two, "boot_aggregate"),
		ng("sha1", bytes.Repeat([]byte{1}, 20), "/usr/bin/ls"),
	}
	entries[1].fields, entries[1].template = entries[1].fields[:2], "ima-ng"
	violation := ng("sha256", two, "/var/log/wtmp")
	violation.violation = true
	elsewhere := ng("sha256", one, "/usr/bin/ls")
	elsewhere.pcr = 11
	entries = append(entries, violation, elsewhere, ng("sha256", one, "/opt/a/b/c"))
	l, rep := proven(t, entries)
	p := ima.Policy{
		Allow:   []ima.Allow{{Path: "/usr/bin/*", Digests: []string{sum1}}, {Path: "/opt/**", Digests: []string{sum1}}},
		Exclude: []string{"/var/log/.*"},
	}
	c, err := p.Compile()
	if err != nil {
		t.Fatal(err)
	}
	j := l.Judge(c, rep)
	var got []string
	for _, f := range j.Findings {
		got = append(got, itoa(f.Index)+" "+f.Why)
	}
	want := []string{
		"3 /usr/bin/ls has another content than the reference values allow",
		"4 /usr/bin/x/y is not among the files that the reference values allow",
		"6 /evil/var/log/x is not among the files that the reference values allow",
		"7 boot_aggregate is not among the files that the reference values allow",
		"8 /usr/bin/ls has another content than the reference values allow",
		"9 /var/log/wtmp was changed while it was measured, or measured while it was open for writing",
		"10 /usr/bin/ls is measured into PCR 11, which nothing proves here",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || j.Unexpected != len(want) || j.Judged != len(entries) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if d := j.Findings[0].Digest; d != "sha256:"+strings.Repeat("02", 32) {
		t.Error(d)
	}
	p.AllowViolations = true
	if c, err = p.Compile(); err != nil {
		t.Fatal(err)
	}
	if again := l.Judge(c, rep); again.Unexpected != j.Unexpected-1 {
		t.Errorf("violations allowed: %d", again.Unexpected)
	}
	// What is not proven is not judged.
	if j := l.Judge(c, ima.Report{Status: ima.Fail, Matched: l.Len()}); j.Judged != 0 {
		t.Errorf("%+v", j)
	}
	rep.Matched = 4
	if j := l.Judge(c, rep); j.Judged != 4 || j.Unexpected != 1 {
		t.Errorf("%+v", j)
	}
	// Only the first entry of the boot is the boot_aggregate.
	rep.First = 5
	if j := l.Judge(c, rep); j.Unexpected != 2 || j.Findings[0].Index != 5 {
		t.Errorf("%+v", j)
	}
}

// An fs-verity digest is not a file digest.
func TestVerityDigestIsAnother(t *testing.T) {
	m := ng("verity:sha256", make([]byte, 32), "/a")
	m.template = "ima-ngv2"
	l, rep := proven(t, []measured{m})
	for digest, want := range map[string]int{"sha256:": 1, "ima:sha256:": 1, "verity:sha256:": 0} {
		c, err := (&ima.Policy{Allow: []ima.Allow{{Path: "/a", Digests: []string{digest + strings.Repeat("00", 32)}}}}).Compile()
		if err != nil {
			t.Fatal(err)
		}
		if j := l.Judge(c, rep); j.Unexpected != want {
			t.Errorf("%s: %+v", digest, j)
		}
	}
}

func TestMalformedSignatureIsFound(t *testing.T) {
	l := parse(t, readFile(t, "testdata/bad-signature-size.ascii"))
	j := l.Judge(allowAll(t, l), ima.Report{Status: ima.Pass, Matched: 1})
	if len(j.Findings) != 1 || !strings.HasPrefix(j.Findings[0].Why, "/usr/bin/zmore has a malformed signature") {
		t.Errorf("%+v", j)
	}
}

func TestFindingsAreBounded(t *testing.T) {
	entries := make([]measured, ima.MaxFindings+10)
	for i := range entries {
		entries[i] = ng("sha256", make([]byte, 32), "/x")
	}
	l, rep := proven(t, entries)
	c, err := (&ima.Policy{}).Compile()
	if err != nil {
		t.Fatal(err)
	}
	if j := l.Judge(c, rep); len(j.Findings) != ima.MaxFindings || j.Unexpected != len(entries) {
		t.Errorf("%d findings, %d unexpected", len(j.Findings), j.Unexpected)
	}
}

func TestPolicyErrors(t *testing.T) {
	for _, c := range []struct {
		policy  ima.Policy
		pointer string
	}{
		{ima.Policy{Allow: []ima.Allow{{Path: "/a"}, {}}}, "/allow/1/path"},
		{ima.Policy{Allow: []ima.Allow{{Path: `/a\`}}}, "/allow/0/path"},
		{ima.Policy{Allow: []ima.Allow{{Path: "/a", Digests: []string{"sha1:" + strings.Repeat("0", 40), "00"}}}}, "/allow/0/digests/1"},
		{ima.Policy{Allow: []ima.Allow{{Path: "/a", Digests: []string{"sha256:00"}}}}, "/allow/0/digests/0"},
		{ima.Policy{Allow: []ima.Allow{{Path: "/a", Digests: []string{"sha256:zz"}}}}, "/allow/0/digests/0"},
		{ima.Policy{Allow: []ima.Allow{{Path: "/a", Digests: []string{"foo:00"}}}}, "/allow/0/digests/0"},
		{ima.Policy{Allow: []ima.Allow{{Path: "/a", Digests: []string{"x:sha1:00"}}}}, "/allow/0/digests/0"},
		{ima.Policy{Exclude: []string{"ok", "a)|(b"}}, "/exclude/1"},
	} {
		_, err := c.policy.Compile()
		var pe *ima.PolicyError
		if !errors.As(err, &pe) || pe.Pointer != c.pointer {
			t.Errorf("%s: %v", c.pointer, err)
		}
	}
}

func TestBootAggregateNeedsItsPCRs(t *testing.T) {
	if ima.BootAggregate(nil) != nil || ima.BootAggregate(&tpm.Bank{Alg: tpm.SHA256}) != nil {
		t.Error("a digest out of nothing")
	}
	bank := tpm.Bank{Alg: tpm.SHA1}
	for i := range bank.Values {
		bank.Values[i] = make([]byte, 20)
	}
	if got := ima.BootAggregate(&bank); len(got) != 1 || !bytes.Equal(got[0], sum(crypto.SHA1, make([]byte, 160))) {
		t.Errorf("%x", got)
	}
}
