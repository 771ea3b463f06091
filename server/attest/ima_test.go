package attest

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
)

// measuring is a machine whose kernel measures files: entries of a captured list, extended one by one.
type measuring struct {
	*machine
	lines    [][]byte // of ascii_runtime_measurements
	list     *ima.List
	extended int
}

func (b *bench) measuring() *measuring {
	b.t.Helper()
	m := b.enrolled("ima-tcb-1")
	raw := specimen(b.t, "ima-tcb-1", "ima_ascii_runtime_measurements")
	list, err := ima.Parse(raw)
	if err != nil {
		b.t.Fatal(err)
	}
	return &measuring{machine: m, lines: bytes.SplitAfter(raw, []byte("\n")), list: list}
}

// measure extends PCR 10 by the next n entries.
func (m *measuring) measure(n int) {
	m.t.Helper()
	for range n {
		e := m.list.Entry(m.extended)
		digest := sha256.Sum256(e.TemplateData)
		if e.Violation {
			digest = [32]byte(bytes.Repeat([]byte{0xff}, 32))
		}
		m.extend(ima.PCR, digest[:])
		m.extended++
	}
}

// evidence is a quote with the list from an offset on.
func (m *measuring) evidence(nonce []byte, offset int) *evidence {
	e := m.quote(nonce)
	e.IMALog = base64.StdEncoding.EncodeToString(bytes.Join(m.lines[offset:m.extended], nil))
	e.IMALogOffset = offset
	return e
}

// The list is read once: each round continues where the last one ended, an empty one included; and a
// machine that booted anew begins again.
func TestIMAIncrements(t *testing.T) {
	b := newBench(t)
	m := b.measuring()
	m.measure(8)
	r, err := b.post(m.machine, m.evidence(b.nonce(m.machine), 0))
	if err != nil {
		t.Fatal(err)
	}
	first := r.ID
	for round, more := range []int{5, 0, 3} {
		expect(t, r, verifier.Affirming, verifier.NoReason)
		if c := checkOf(r.Appraisal, verifier.CheckIMAReplay); c.Status != verifier.Pass || r.NextChallenge.IMALogOffset != m.extended {
			t.Fatalf("round %d: %+v, next offset %d of %d", round, c, r.NextChallenge.IMALogOffset, m.extended)
		}
		if c, err := b.Challenge(b.ctx, b.tenant, m.id, admin); err != nil || c.IMALogOffset != m.extended {
			t.Fatalf("round %d: challenge %+v, %v", round, c, err)
		}
		from := m.extended
		m.measure(more)
		if r, err = b.post(m.machine, m.evidence(b.nonce(m.machine), from)); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
	if r.ID != first {
		t.Error("a longer list made another verdict")
	}
	if _, err := b.post(m.machine, m.evidence(b.nonce(m.machine), 7)); code(err) != CodeInvalidField {
		t.Errorf("an offset that was not asked for: %v", err)
	}
	read := m.extended
	m.reboot(m.log)
	m.extended = 0
	m.measure(read + 1)
	if _, err := b.post(m.machine, m.evidence(b.nonce(m.machine), read)); code(err) != CodeInvalidField {
		t.Errorf("an offset into the list of another boot: %v", err)
	}
	if r, err = b.post(m.machine, m.evidence(b.nonce(m.machine), 0)); err != nil || r.NextChallenge.IMALogOffset != m.extended {
		t.Fatalf("%+v, %v", r, err)
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
}

// A list that does not lead to the quoted PCR 10 is of unverified origin, and nothing of it is remembered.
func TestIMAListThatLies(t *testing.T) {
	b := newBench(t)
	m := b.measuring()
	m.measure(10)
	e := m.evidence(b.nonce(m.machine), 0)
	e.IMALog = base64.StdEncoding.EncodeToString(bytes.Join(m.lines[1:10], nil))
	r, err := b.post(m.machine, e)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Contraindicated, verifier.OriginUnverified)
	if r.NextChallenge.IMALogOffset != 0 {
		t.Errorf("next offset %d", r.NextChallenge.IMALogOffset)
	}
	e = m.evidence(b.nonce(m.machine), 0)
	e.IMALog = base64.StdEncoding.EncodeToString([]byte("no list\n"))
	if r, err = b.post(m.machine, e); err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Contraindicated, verifier.OriginUnverified)
}

// A file that the baseline refuses is refused in every round until the machine boots anew: the list is not
// read past it.
func TestRefusedFileStaysRefused(t *testing.T) {
	b := newBench(t)
	m := b.measuring()
	reference := verifier.ReferenceValues{
		Claims: map[string]json.RawMessage{"secure_boot": json.RawMessage("true")},
		IMA:    &verifier.ReferenceIMA{},
	}
	for i := range 10 {
		e := m.list.Entry(i)
		reference.IMA.Allow = append(reference.IMA.Allow, verifier.ReferenceFile{Path: e.Path, Digests: []string{e.Digest()}})
	}
	if _, err := b.store.CreateBaseline(b.ctx, b.tenant, "files", verifier.Selector{}, store.BaselineVersion{
		State: "active", Reference: reference, Origin: "registered", CreatedAt: b.now()}, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	m.measure(10)
	r, err := b.post(m.machine, m.evidence(b.nonce(m.machine), 0))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
	for i := 10; ; i++ { // up to a file that is none of those allowed
		m.measure(1)
		if e := m.list.Entry(i); !allowed(reference.IMA.Allow, e.Path, e.Digest()) {
			break
		}
	}
	for round := range 3 {
		from := 10
		r, err = b.post(m.machine, m.evidence(b.nonce(m.machine), from))
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, verifier.Contraindicated, verifier.BaselineDeviation)
		if c := checkOf(r.Appraisal, verifier.CheckIMAPolicy); c.Status != verifier.Fail || r.NextChallenge.IMALogOffset != from {
			t.Fatalf("round %d: %+v, next offset %d", round, c, r.NextChallenge.IMALogOffset)
		}
	}
	if alerts := b.alerts(m.machine); len(alerts) != 1 || alerts[0].Status != "active" || alerts[0].Count != 3 {
		t.Errorf("alerts %s", fmt.Sprint(alerts))
	}
}

// A baseline captured with the files of a golden machine accepts them and names the first other one.
func TestCaptureWithFiles(t *testing.T) {
	b := newBench(t)
	m := b.measuring()
	m.measure(10)
	if _, err := b.post(m.machine, m.evidence(b.nonce(m.machine), 0)); err != nil {
		t.Fatal(err)
	}
	v, err := b.CaptureGolden(b.ctx, b.tenant, m.id, CaptureOptions{Name: "golden", IncludeIMA: true}, admin)
	if err != nil {
		t.Fatal(err)
	}
	files := v.Reference.IMA
	if files == nil || len(files.Allow) == 0 || len(v.Reference.PCRs) == 0 {
		t.Fatalf("captured %+v", v.Reference)
	}
	for i := 1; i < 10; i++ { // the first is boot_aggregate
		if e := m.list.Entry(i); e.Digest() != "" && !e.Violation && !allowed(files.Allow, ima.EscapeGlob(e.Path), e.Digest()) {
			t.Errorf("%s is not among the captured files", e.Path)
		}
	}
	m.reboot(m.log)
	m.extended = 0
	m.measure(10)
	r, err := b.post(m.machine, m.evidence(b.nonce(m.machine), 0))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
	var stranger string
	for i := 10; stranger == ""; i++ {
		m.measure(1)
		if e := m.list.Entry(i); !allowed(files.Allow, ima.EscapeGlob(e.Path), e.Digest()) {
			stranger = e.Path
		}
	}
	if r, err = b.post(m.machine, m.evidence(b.nonce(m.machine), 10)); err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Contraindicated, verifier.BaselineDeviation)
	if c := checkOf(r.Appraisal, verifier.CheckIMAPolicy); !strings.Contains(c.Detail, stranger) {
		t.Errorf("the reason does not name %s: %s", stranger, c.Detail)
	}
}

// Without a list there is nothing to learn files from, and the capture says so.
func TestCaptureWithFilesNeedsAList(t *testing.T) {
	b := newBench(t)
	m := b.measuring()
	e := m.evidence(b.nonce(m.machine), 0)
	e.IMALog = ""
	if _, err := b.post(m.machine, e); err != nil {
		t.Fatal(err)
	}
	_, err := b.CaptureGolden(b.ctx, b.tenant, m.id, CaptureOptions{Name: "golden", IncludeIMA: true}, admin)
	var refused *Error
	if !errors.As(err, &refused) || refused.Code != CodeNoGenuineVerdict || refused.Pointer != "/include_ima" {
		t.Errorf("%v", err)
	}
}

func allowed(allow []verifier.ReferenceFile, path, digest string) bool {
	for _, f := range allow {
		if f.Path == path && slices.Contains(f.Digests, digest) {
			return true
		}
	}
	return false
}

// Only an entry of the template that shows signatures, of a plain module without one, tells of a refusal.
func TestUnsignedModule(t *testing.T) {
	good := ima.Entry{TemplateName: "ima-modsig", PCR: ima.PCR, Path: "/lib/modules/x.ko"}
	if !unsignedModule(&good) {
		t.Error("an unsigned module was passed over")
	}
	for name, change := range map[string]func(*ima.Entry){
		"signed":            func(e *ima.Entry) { e.Modsig = []byte{1} },
		"another template":  func(e *ima.Entry) { e.TemplateName = "ima-ng" },
		"compressed":        func(e *ima.Entry) { e.Path += ".xz" },
		"not a module":      func(e *ima.Entry) { e.Path = "/bin/sh" },
		"a violation":       func(e *ima.Entry) { e.Violation = true },
		"of another PCR":    func(e *ima.Entry) { e.PCR = 11 },
		"data that is none": func(e *ima.Entry) { e.Fault = "short" },
	} {
		e := good
		change(&e)
		if unsignedModule(&e) {
			t.Errorf("%s: counts as an unsigned module", name)
		}
	}
}

// A module without a signature was refused only where the kernel has shown that it collects signatures, and among the
// entries that are proven now.
func TestRefusedModulesNeedCollectedSignatures(t *testing.T) {
	digest := "sha256:" + strings.Repeat("11", 32)
	line := func(path, signature string) string {
		return fmt.Sprintf("10 %s ima-modsig %s %s  %s %s\n", strings.Repeat("22", 20), digest, path, digest, signature)
	}
	list, err := ima.Parse([]byte(line("/m/signed.ko", "09") + line("/m/unsigned.ko", "") + line("/m/later.ko", "")))
	if err != nil || list.Len() != 3 {
		t.Fatal(err)
	}
	cmdline := "ro module.sig_enforce=1"
	judged := func(next ima.State) *verifier.Appraisal {
		return &verifier.Appraisal{Genuine: true, NextIMA: &next, Claims: verifier.Claims{Claims: &eventlog.Claims{KernelCmdline: &cmdline}}}
	}
	a := &appraisal{imaList: list}
	if got := a.refusedModules(judged(ima.State{Entries: 2, Modsig: true})); !slices.Equal(got, []string{"/m/unsigned.ko"}) {
		t.Errorf("%v", got)
	}
	if got := a.refusedModules(judged(ima.State{Entries: 2})); got != nil {
		t.Errorf("signatures are not collected, and %v are said to be refused", got)
	}
	a.imaState = &ima.State{Entries: 2}
	if got := a.refusedModules(judged(ima.State{Entries: 3, Modsig: true})); got != nil {
		t.Errorf("%v of an earlier list", got) // one entry is new, and it is the signed one
	}
}
