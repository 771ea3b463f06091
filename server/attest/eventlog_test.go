package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/verifier"
)

func sum(b []byte) [32]byte { return sha256.Sum256(b) }

// A log that was put ahead of the evidence is found by its name.
func TestPutEventLog(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	if err := b.PutEventLog(b.ctx, b.tenant, m.id, sum([]byte("other")), m.log); code(err) != CodeDigestMismatch {
		t.Fatalf("a body of another name: %v", err)
	}
	for range 2 { // also when already held
		if err := b.PutEventLog(b.ctx, b.tenant, m.id, sum(m.log), m.log, ByKey(m.keyID)); err != nil {
			t.Fatal(err)
		}
	}
	e := m.quote(b.nonce(m))
	digest := sum(m.log)
	e.EventLog, e.EventLogDigest = "", "sha256:"+hex.EncodeToString(digest[:])
	r, err := b.post(m, e)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
}

// The decoded log says of each event whether the verdict's quote proves it.
func TestDecodedLog(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("cmdline")
	r := b.attest(m)
	events, err := b.DecodedLog(b.ctx, b.tenant, r.ID)
	if err != nil {
		t.Fatal(err)
	}
	verified, cmdline, files := 0, false, 0
	for _, e := range events {
		if e.Verified {
			verified++
		}
		if e.Type == "" || e.Component == "" || e.Description == "" {
			t.Errorf("event %d is not described: %+v", e.Index, e)
		}
		if e.Type == "EV_NO_ACTION" && e.Verified {
			t.Errorf("event %d extends nothing and counts as verified", e.Index)
		}
		if e.PCR == 9 && !e.Verified { // the digest is of the file's content, and the name beside it is covered by nothing
			files++
		}
		cmdline = cmdline || (e.Verified && e.PCR == 8 && strings.Contains(e.Description, "linux"))
	}
	if verified == 0 || verified == len(events) || !cmdline {
		t.Errorf("%d of %d events verified, kernel command line among them: %t", verified, len(events), cmdline)
	}
	if files == 0 {
		t.Error("every file that GRUB names counts as verified")
	}
	// Of evidence that is not genuine nothing is verified.
	e := m.quote(b.nonce(m))
	b.wait(time.Hour)
	late, err := b.post(m, e)
	if err != nil {
		t.Fatal(err)
	}
	events, err = b.DecodedLog(b.ctx, b.tenant, late.ID)
	if err != nil || len(events) == 0 {
		t.Fatalf("%d events, %v", len(events), err)
	}
	for _, e := range events {
		if e.Verified {
			t.Fatalf("event %d of an unverified origin counts as verified", e.Index)
		}
	}
	if _, err := b.DecodedLog(b.ctx, b.tenant, uuid.New()); code(err) != CodeNotFound {
		t.Errorf("unknown verdict: %v", err)
	}
}

// A machine without a log has a verdict and an empty decoded log.
func TestDecodedLogOfNoLog(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	m.log = nil
	r := b.attest(m)
	if events, err := b.DecodedLog(b.ctx, b.tenant, r.ID); err != nil || events == nil || len(events) != 0 {
		t.Errorf("%v, %v", events, err)
	}
	e := m.quote(b.nonce(m))
	e.EventLog = "Z2FyYmFnZQ=="
	bad, err := b.post(m, e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.DecodedLog(b.ctx, b.tenant, bad.ID); code(err) != CodeInvalidField {
		t.Errorf("a log that cannot be read: %v", err)
	}
}
