package attest

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/assay-verifier/assay/store"
)

// TestMACBeforeSignature: evidence whose nonce was never ours is refused by its MAC, before a key is parsed, a signature verified or
// a log looked at. What is wrong with all of these shows nothing then, and nothing of them is in memory afterwards.
func TestMACBeforeSignature(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	e := m.quote(bytes.Repeat([]byte{7}, 32))
	signature, err := base64.StdEncoding.DecodeString(e.Quotes[0]["signature"])
	if err != nil {
		t.Fatal(err)
	}
	signature[len(signature)-1] ^= 1
	e.Quotes[0]["signature"] = base64.StdEncoding.EncodeToString(signature)
	e.EventLog = base64.StdEncoding.EncodeToString([]byte("no log at all"))
	e.IMALog, e.IMALogOffset = base64.StdEncoding.EncodeToString([]byte("no list")), 17
	before := b.rows()
	if _, err := b.post(m, e); code(err) != CodeUnknownChallenge {
		t.Fatalf("a foreign nonce with a bad signature: %v", err)
	}
	before["audit_events"]++
	b.sameRows(before)
	if keys, logs := len(b.keys.entries), len(b.logs.entries); keys != 0 || logs != 0 {
		t.Errorf("%d keys and %d logs were parsed for it", keys, logs)
	}
	// The same with a nonce of ours is judged, so that the test would see what it looks for.
	if _, err := b.post(m, m.quote(b.nonce(m))); err != nil {
		t.Fatal(err)
	}
	if keys, logs := len(b.keys.entries), len(b.logs.entries); keys != 1 || logs != 1 {
		t.Errorf("%d keys and %d logs were parsed for good evidence", keys, logs)
	}
}

// BenchmarkForeignNonce is what the MAC costs that refuses evidence: no more than decoding the nonce.
func BenchmarkForeignNonce(b *testing.B) {
	service := newBench(b)
	tenant, machine := store.DefaultTenant, store.DefaultTenant
	nonce := bytes.Repeat([]byte{7}, nonceSize)
	now := service.now()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := service.nonces.check(tenant, machine, nonce, now); err == nil {
			b.Fatal("it is ours")
		}
	}
}

// BenchmarkUnknownChallenge is the whole refusal, its audit record included, which costs the most of it.
func BenchmarkUnknownChallenge(b *testing.B) {
	service := newBench(b)
	m := service.enrolled("sb-on-1")
	body := m.quote(bytes.Repeat([]byte{7}, nonceSize)).body(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := service.Appraise(service.ctx, service.tenant, m.id, "application/json", body, admin, ByKey(m.keyID)); code(err) != CodeUnknownChallenge {
			b.Fatal(err)
		}
	}
}
