package tpm

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestPublishedQuotesVerify(t *testing.T) {
	for _, s := range published(t) {
		t.Run(s.name, func(t *testing.T) {
			claims := s.claims(t)
			v, r := Verify(s.ak, []Quote{s.quote}, claims, s.expectation())
			if s.name == "goattest-windows-gce-shielded-vm" {
				// Its AK signs with SHA-1. The signature holds, but SHA-1 signatures never count.
				mustFail(t, StepSignature, "sha1", v, r)
				return
			}
			mustPass(t, v, r)
			if outcome(r) != "pass pass pass pass pass pass" {
				t.Error(describe(r))
			}
			for _, bank := range claims {
				for i, value := range bank.Values {
					if bank.Alg == SHA1 {
						continue // beside a stronger bank it is tolerated, but counts for nothing
					}
					got, ok := v.PCR(bank.Alg, i)
					if ok != (value != nil) || !bytes.Equal(got, value) {
						t.Errorf("PCR %d of %s is %x", i, bank.Alg, got)
					}
				}
			}
			if slices.Contains(v.Banks(), SHA1) {
				t.Error("the sha1 bank is exposed")
			}
		})
	}
}

func TestCapturedQuotesVerify(t *testing.T) {
	count := 0
	for _, boot := range bootsWithEvidence(t) {
		for _, s := range captured(t, boot) {
			count++
			v, r := Verify(s.ak, []Quote{s.quote}, s.claims(t), s.expectation())
			if v == nil || outcome(r) != "pass pass pass pass pass pass" {
				t.Errorf("%s: %s", s.name, describe(r))
				continue
			}
			if !v.Fresh() || !bytes.Equal(v.ExtraData(), s.nonce) {
				t.Errorf("%s: fresh %v, nonce %x", s.name, v.Fresh(), v.ExtraData())
			}
			name := read(t, boots, boot, "evidence", "ak-"+strings.Split(s.name, "-")[strings.Count(boot, "-")+1]+".name")
			if !bytes.Equal(s.ak.Name(), name) {
				t.Errorf("%s: name %x, the TPM says %x", s.name, s.ak.Name(), name)
			}
		}
	}
	if count < 16*15 {
		t.Errorf("only %d quotes", count)
	}
}

func TestAllBanksInQuotesOfTheirOwn(t *testing.T) {
	sha256, sha384 := capture(t, "sb-on-1", "rsassa-sha256"), capture(t, "sb-on-1", "rsassa-sha384")
	claims := append(sha256.claims(t), sha384.claims(t)...)
	v, r := Verify(sha256.ak, []Quote{sha256.quote, sha384.quote}, claims, sha256.expectation())
	mustPass(t, v, r)
	if !slices.Equal(v.Selections(), []Selection{{SHA256, allPCRs}, {SHA384, allPCRs}}) {
		t.Error(v.Selections())
	}
}

func TestQuoteOfAnotherMachinesKeyFails(t *testing.T) {
	all := published(t)
	for _, s := range all {
		if s.name != "kinvolk-azure-snp-vtpm" {
			continue
		}
		// The set mixes VMs: the AK that the hardware report binds is not the one that signed.
		ak := hclAK(t, "testdata/azure-hcl/kinvolk-snp/hcl-report.runtime.json")
		v, r := Verify(ak, []Quote{s.quote}, s.claims(t), s.expectation())
		mustFail(t, StepSignature, "does not verify", v, r)
		if outcome(r) != "fail skipped skipped skipped skipped skipped" {
			t.Error(describe(r))
		}
		return
	}
	t.Fatal("no specimen")
}

// The four captures that between them have every scheme and both curves.
var flipped = []string{"rsassa-sha256", "rsapss-all-banks", "ecdsa256-sha256", "ecdsa384-all-banks"}

func TestEveryFlippedByteOfAQuoteFails(t *testing.T) {
	for _, name := range flipped {
		s := capture(t, "sb-on-1", name)
		claims, e := s.claims(t), s.expectation()
		for _, bit := range []byte{0x01, 0x80, 0xff} {
			for i := range s.quote.Message {
				q := Quote{Message: bytes.Clone(s.quote.Message), Signature: s.quote.Signature}
				q.Message[i] ^= bit
				v, r := Verify(s.ak, []Quote{q}, claims, e)
				mustFail(t, StepSignature, "", v, r)
			}
			for i := range s.quote.Signature {
				q := Quote{Message: s.quote.Message, Signature: bytes.Clone(s.quote.Signature)}
				q.Signature[i] ^= bit
				v, r := Verify(s.ak, []Quote{q}, claims, e)
				mustFail(t, StepSignature, "", v, r)
			}
		}
	}
}

func TestEveryFlippedByteOfAClaimedPCRFails(t *testing.T) {
	for _, name := range flipped {
		s := capture(t, "sb-on-1", name)
		e := s.expectation()
		claims := s.claims(t)
		for b := range claims {
			for i := range claims[b].Values {
				for j := range claims[b].Values[i] {
					claims[b].Values[i][j] ^= 1
					v, r := Verify(s.ak, []Quote{s.quote}, claims, e)
					mustFail(t, StepDigest, "other PCR values", v, r)
					claims[b].Values[i][j] ^= 1
				}
			}
		}
	}
}

func TestTruncatedQuoteFails(t *testing.T) {
	s := capture(t, "sb-on-1", "ecdsa256-sha256")
	for i := range s.quote.Message {
		v, r := Verify(s.ak, []Quote{{s.quote.Message[:i], s.quote.Signature}}, s.claims(t), s.expectation())
		mustFail(t, StepSignature, "", v, r)
	}
	for i := range s.quote.Signature {
		v, r := Verify(s.ak, []Quote{{s.quote.Message, s.quote.Signature[:i]}}, s.claims(t), s.expectation())
		mustFail(t, StepSignature, "TPMT_SIGNATURE", v, r)
	}
}

func TestTypeStep(t *testing.T) {
	f := newForger(t)
	sel := Selection{SHA256, 0xff}
	claims := restrict(f.pcrs, []Selection{sel})
	good := f.message(sel)
	for _, c := range []struct {
		name, detail string
		change       func(*message)
	}{
		{"not made by a TPM", "magic", func(m *message) { m.magic = 0x00544347 }},
		{"certification", "TPM2_Certify,", func(m *message) { m.kind = AttestCertify }},
		{"trailing byte", "1 bytes follow", func(m *message) { m.trailing = []byte{0} }},
		{"long nonce", "extraData", func(m *message) { m.extra = make([]byte, 67) }},
		{"17 banks", "17 PCR selections", func(m *message) { m.selections = make([]Selection, 17) }},
	} {
		m := good
		c.change(&m)
		v, r := Verify(f.ak, []Quote{f.sign(m.bytes())}, claims, fresh())
		t.Run(c.name, func(t *testing.T) { mustFail(t, StepType, c.detail, v, r) })
		if outcome(r) != "pass fail skipped skipped skipped skipped" {
			t.Error(c.name, describe(r))
		}
	}
	// A genuine attestation of a key's creation, signed by an AK, is not a quote.
	creation := read(t, "testdata/quotes/goattest-windows-gce-shielded-vm/ak.CreateAttestation.bin")
	v, r := Verify(f.ak, []Quote{f.sign(creation)}, claims, fresh())
	mustFail(t, StepType, "TPM2_CertifyCreation", v, r)

	other := good
	other.signer = []byte("another")
	v, r = Verify(f.ak, []Quote{f.sign(good.bytes()), f.sign(other.bytes())}, claims, fresh())
	mustFail(t, StepType, "quote 2 of 2 names another signer", v, r)
}

func TestNonceStep(t *testing.T) {
	f := newForger(t)
	sel := Selection{SHA256, 0xff}
	claims := restrict(f.pcrs, []Selection{sel})
	one, two := f.message(sel), f.message(sel)
	two.extra = []byte("of another challenge")
	q, q2 := f.sign(one.bytes()), f.sign(two.bytes())

	for _, c := range []struct {
		name    string
		quotes  []Quote
		fresh   Freshness
		outcome Outcome
		detail  string
	}{
		{"zero value", []Quote{q}, Freshness{}, Fail, "no nonce is expected"},
		{"right", []Quote{q}, Freshness{Nonce: testNonce}, Pass, ""},
		{"wrong", []Quote{q}, Freshness{Nonce: []byte("other")}, Fail, "the quote was made for another nonce"},
		{"prefix", []Quote{q}, Freshness{Nonce: testNonce[:31]}, Fail, "another nonce"},
		{"ours, but used", []Quote{q}, Freshness{Nonce: testNonce, Fault: "the nonce was used before"}, Fail, "used before"},
		{"fault though unchecked", []Quote{q}, Freshness{Fault: "expired", Unchecked: true}, Fail, "expired"},
		{"unchecked", []Quote{q}, Freshness{Unchecked: true}, Skipped, "without a nonce"},
		{"a nonce is compared though unchecked", []Quote{q}, Freshness{Nonce: []byte("other"), Unchecked: true}, Fail, "another nonce"},
		{"second quote of another challenge", []Quote{q, q2}, Freshness{Nonce: testNonce}, Fail, "quote 2 of 2"},
		{"unchecked, but mixed", []Quote{q, q2}, Freshness{Unchecked: true}, Fail, "different nonces"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v, r := Verify(f.ak, c.quotes, claims, Expectation{Freshness: c.fresh})
			got := r.Steps[StepNonce]
			if got.Outcome != c.outcome || !strings.Contains(got.Detail, c.detail) {
				t.Errorf("%s: %s", got.Outcome, got.Detail)
			}
			if (v != nil) != (c.outcome != Fail) {
				t.Errorf("verified %v", v != nil)
			}
			if v != nil && v.Fresh() != (c.outcome == Pass) {
				t.Errorf("fresh %v", v.Fresh())
			}
		})
	}
}

func TestDigestStepFollowsTheOrderOfTheSelection(t *testing.T) {
	f := newForger(t)
	// sha384 first, and sha256 in two parts: legal, and the digest runs in this order.
	sel := []Selection{{SHA384, 0x81}, {SHA256, 0xf0}, {SHA256, 0x0f}, {SHA1, 0}}
	claims := restrict(f.pcrs, []Selection{{SHA384, 0x81}, {SHA256, 0xff}})
	v, r := Verify(f.ak, []Quote{f.quote(sel...)}, claims, fresh())
	mustPass(t, v, r)
	if !slices.Equal(v.Banks(), []HashAlg{SHA256, SHA384}) {
		t.Error(v.Banks())
	}
	m := f.message(sel...)
	m.selections[0], m.selections[1] = m.selections[1], m.selections[0]
	v, r = Verify(f.ak, []Quote{f.sign(m.bytes())}, claims, fresh())
	mustFail(t, StepDigest, "", v, r)
}

// One PCR in two quotes with two values: whichever is claimed, the other quote's digest disagrees.
func TestSamePCRQuotedTwiceWithDifferentValues(t *testing.T) {
	f := newForger(t)
	sel := Selection{SHA256, 0xff}
	before, q1 := restrict(f.pcrs, []Selection{sel}), f.quote(sel)
	f.pcrs[1].Values[4] = bytes.Repeat([]byte{0xee}, 32)
	after, q2 := restrict(f.pcrs, []Selection{sel}), f.quote(sel)
	for _, claims := range []PCRs{before, after} {
		v, r := Verify(f.ak, []Quote{q1, q2}, claims, fresh())
		mustFail(t, StepDigest, "", v, r)
	}
}

func TestVerifiedQuoteIsACopy(t *testing.T) {
	s := capture(t, "sb-on-1", "rsassa-sha256")
	claims := s.claims(t)
	want := bytes.Clone(claims[0].Values[4])
	v, r := Verify(s.ak, []Quote{s.quote}, claims, s.expectation())
	mustPass(t, v, r)
	claims[0].Values[4][0] ^= 0xff
	claims[0].Values[5] = nil
	if got, _ := v.PCR(SHA256, 4); !bytes.Equal(got, want) {
		t.Error("the verified value changed with the input")
	}
	if got, ok := v.PCR(SHA256, 5); !ok || len(got) != 32 {
		t.Error("the verified value went with the input")
	}
	for _, index := range []int{-1, 24} {
		if _, ok := v.PCR(SHA256, index); ok {
			t.Errorf("there is a PCR %d", index)
		}
	}
	if _, ok := v.PCR(SHA512, 0); ok {
		t.Error("there is a bank that was not quoted")
	}
}

func TestReportNamesEveryStepInOrder(t *testing.T) {
	want := []string{"quote.signature", "quote.type", "quote.nonce", "quote.selection", "quote.digest", "quote.clock"}
	v, r := Verify(nil, nil, nil, Expectation{})
	for i, s := range r.Steps {
		if s.Step.Code() != want[i] || s.Step.Citation() == "" {
			t.Errorf("step %d is %q, %q", i, s.Step.Code(), s.Step.Citation())
		}
	}
	if v != nil || outcome(r) != "fail skipped skipped skipped skipped skipped" || !r.Failed() {
		t.Error(describe(r))
	}
	for _, s := range []Step{-1, numSteps} {
		if s.Code() != "quote.unknown" || s.Citation() != "" {
			t.Errorf("step %d is %q", s, s.Code())
		}
	}
	if (Report{}).allows(Freshness{Unchecked: true}) {
		t.Error("an empty report is good enough")
	}
}

func TestVerifyAllocations(t *testing.T) {
	s := capture(t, "sb-on-1", "rsassa-sha256")
	claims, e, quotes := s.claims(t), s.expectation(), []Quote{s.quote}
	allocs := testing.AllocsPerRun(100, func() {
		if v, _ := Verify(s.ak, quotes, claims, e); v == nil {
			t.Fatal("not verified")
		}
	})
	t.Logf("%v allocations", allocs)
	if allocs > 60 {
		t.Errorf("%v allocations for one RSA quote over one bank, the goal is 60", allocs)
	}
}

func BenchmarkVerify(b *testing.B) {
	for _, name := range []string{"rsassa-sha256", "rsapss-sha256", "ecdsa256-sha256", "ecdsa384-sha256", "rsassa-all-banks"} {
		b.Run(name, func(b *testing.B) {
			s := capture(b, "sb-on-1", name)
			claims, e, quotes := s.claims(b), s.expectation(), []Quote{s.quote}
			b.ReportAllocs()
			for b.Loop() {
				if v, _ := Verify(s.ak, quotes, claims, e); v == nil {
					b.Fatal("not verified")
				}
			}
		})
	}
}
