package tpm

import (
	"slices"
	"testing"
)

func TestSelectionStep(t *testing.T) {
	f := newForger(t)
	value := func(alg HashAlg, i int) []byte { return f.pcrs.Bank(alg).Values[i] }
	sha256 := func(mask uint32) Selection { return Selection{SHA256, mask} }
	for _, c := range []struct {
		name     string
		quoted   []Selection
		claimed  []Selection
		change   func(*PCRs)
		required []Selection
		sha1     bool
		detail   string // empty: verifies
		banks    []HashAlg
	}{
		{name: "as claimed", quoted: []Selection{sha256(0xff)}, claimed: []Selection{sha256(0xff)}, banks: []HashAlg{SHA256}},
		{name: "nothing quoted", quoted: nil, detail: "no PCR was quoted"},
		{name: "empty selection", quoted: []Selection{sha256(0)}, detail: "no PCR was quoted"},
		{name: "PCR dropped from the selection", quoted: []Selection{sha256(0xef)}, claimed: []Selection{sha256(0xff)}, detail: "PCR 4 of bank sha256 is claimed, but was not quoted"},
		{name: "claimed PCR left out", quoted: []Selection{sha256(0xff)}, claimed: []Selection{sha256(0xef)}, detail: "PCR 4 of bank sha256 was quoted, but no value"},
		{name: "resettable PCR as another", quoted: []Selection{sha256(1 << 16)}, claimed: []Selection{sha256(1 << 16)},
			change: func(p *PCRs) { (*p)[0] = Bank{Alg: SHA256, Mask: 1 << 4}; (*p)[0].Values[4] = value(SHA256, 16) }, detail: "PCR 16 of bank sha256 was quoted"},
		{name: "PCR 23 as PCR 7", quoted: []Selection{sha256(0x7f | 1<<23)}, claimed: []Selection{sha256(0x7f)},
			change: func(p *PCRs) { (*p)[0].Values[7] = value(SHA256, 23); (*p)[0].Mask = 0xff }, detail: "PCR 23 of bank sha256 was quoted"},
		{name: "whole bank not quoted", quoted: []Selection{sha256(0xff)}, claimed: []Selection{sha256(0xff), {SHA384, 1}}, detail: "PCR 0 of bank sha384 is claimed, but"},
		{name: "other bank quoted", quoted: []Selection{{SHA384, 0xff}}, claimed: []Selection{sha256(0xff)}, detail: "of bank sha384 was quoted, but no value"},
		{name: "bank claimed twice", quoted: []Selection{sha256(1)}, claimed: []Selection{sha256(1), sha256(1)}, detail: "claimed twice"},
		{name: "short value", quoted: []Selection{sha256(1)}, claimed: []Selection{sha256(1)}, change: func(p *PCRs) { (*p)[0].Values[0] = make([]byte, 20) }, detail: "a value of 20 bytes"},
		{name: "no value", quoted: []Selection{sha256(1)}, claimed: []Selection{sha256(1)}, change: func(p *PCRs) { (*p)[0].Values[0] = nil }, detail: "a value of 0 bytes"},
		{name: "value outside the mask", quoted: []Selection{sha256(1)}, claimed: []Selection{sha256(1)}, change: func(p *PCRs) { (*p)[0].Values[3] = make([]byte, 32) }, detail: "has a value but is not claimed"},
		{name: "PCR 24 claimed", quoted: []Selection{sha256(1)}, claimed: []Selection{sha256(1)}, change: func(p *PCRs) { (*p)[0].Mask |= 1 << 24 }, detail: "beyond 23"},
		{name: "unknown bank", quoted: []Selection{sha256(1)}, claimed: []Selection{sha256(1)}, change: func(p *PCRs) {
			b := Bank{Alg: 0x7777, Mask: 1}
			b.Values[0] = make([]byte, 32)
			*p = append(*p, b)
		}, detail: "alg_0x7777"},

		{name: "an RTMR as a bank", quoted: []Selection{sha256(1)}, claimed: []Selection{sha256(1)}, change: func(p *PCRs) {
			b := Bank{Alg: RTMR, Mask: 1}
			b.Values[0] = make([]byte, 48)
			*p = append(*p, b)
		}, detail: "rtmr is no PCR bank of a TPM"},

		{name: "only sha1", quoted: []Selection{{SHA1, 0xff}}, claimed: []Selection{{SHA1, 0xff}}, detail: "only the sha1 bank"},
		{name: "only sha1, allowed", quoted: []Selection{{SHA1, 0xff}}, claimed: []Selection{{SHA1, 0xff}}, sha1: true, banks: []HashAlg{SHA1}},
		{name: "sha1 beside sha256", quoted: []Selection{{SHA1, 0xff}, sha256(0xff)}, claimed: []Selection{{SHA1, 0xff}, sha256(0xff)}, banks: []HashAlg{SHA256}},
		{name: "sha1 beside sha256, allowed", quoted: []Selection{{SHA1, 0xff}, sha256(0xff)}, claimed: []Selection{{SHA1, 0xff}, sha256(0xff)}, sha1: true, banks: []HashAlg{SHA1, SHA256}},

		{name: "required is there", quoted: []Selection{sha256(0xff)}, claimed: []Selection{sha256(0xff)}, required: []Selection{sha256(0x11)}, banks: []HashAlg{SHA256}},
		{name: "required is missing", quoted: []Selection{sha256(0xff)}, claimed: []Selection{sha256(0xff)}, required: []Selection{sha256(0x301)}, detail: "PCR 8, 9 is required in bank sha256"},
		{name: "a stronger bank serves", quoted: []Selection{{SHA384, 0xff}}, claimed: []Selection{{SHA384, 0xff}}, required: []Selection{sha256(0xff)}, banks: []HashAlg{SHA384}},
		{name: "a weaker bank does not", quoted: []Selection{sha256(0xff)}, claimed: []Selection{sha256(0xff)}, required: []Selection{{SHA384, 0x01}}, detail: "PCR 0 is required in bank sha384"},
		{name: "two banks do not add up", quoted: []Selection{sha256(0x0f), {SHA384, 0xf0}}, claimed: []Selection{sha256(0x0f), {SHA384, 0xf0}}, required: []Selection{sha256(0xff)}, detail: "is required in bank sha256"},
		{name: "sha1 does not serve for sha256", quoted: []Selection{{SHA1, 0xff}, sha256(0x0f)}, claimed: []Selection{{SHA1, 0xff}, sha256(0x0f)}, sha1: true, required: []Selection{sha256(0xff)}, detail: "PCR 4, 5, 6, 7 is required"},
		{name: "sha1 required, not allowed", quoted: []Selection{{SHA1, 0xff}, sha256(0x0f)}, claimed: []Selection{{SHA1, 0xff}, sha256(0x0f)}, required: []Selection{{SHA1, 0xff}}, detail: "required in bank sha1"},
		{name: "sha1 required and allowed", quoted: []Selection{{SHA1, 0xff}}, claimed: []Selection{{SHA1, 0xff}}, sha1: true, required: []Selection{{SHA1, 0xff}}, banks: []HashAlg{SHA1}},
		{name: "sha256 serves for sha1", quoted: []Selection{sha256(0xff)}, claimed: []Selection{sha256(0xff)}, required: []Selection{{SHA1, 0xff}}, banks: []HashAlg{SHA256}},
		{name: "sm3 required is served by itself only", quoted: []Selection{sha256(0xff)}, claimed: []Selection{sha256(0xff)}, required: []Selection{{SM3, 1}}, detail: "required in bank sm3_256"},
	} {
		t.Run(c.name, func(t *testing.T) {
			claims := restrict(f.pcrs, c.claimed)
			if c.change != nil {
				c.change(&claims)
			}
			e := fresh()
			e.Required, e.AllowSHA1PCRs = c.required, c.sha1
			v, r := Verify(f.ak, []Quote{f.quote(c.quoted...)}, claims, e)
			if c.detail != "" {
				mustFail(t, StepSelection, c.detail, v, r)
				if outcome(r) != "pass pass pass fail skipped pass" {
					t.Error(describe(r))
				}
				return
			}
			mustPass(t, v, r)
			if !slices.Equal(v.Banks(), c.banks) {
				t.Error(v.Banks())
			}
			if _, ok := v.PCR(SHA1, 0); ok != slices.Contains(c.banks, SHA1) {
				t.Errorf("PCR 0 of sha1 exposed: %v", ok)
			}
		})
	}
}

// An empty bank in the claims says nothing and is no reason to refuse.
func TestEmptyBanksAreNoClaims(t *testing.T) {
	f := newForger(t)
	claims := append(restrict(f.pcrs, []Selection{{SHA256, 1}}), Bank{Alg: SHA384})
	v, r := Verify(f.ak, []Quote{f.quote(Selection{SHA256, 1}, Selection{SHA384, 0})}, claims, fresh())
	mustPass(t, v, r)
}
