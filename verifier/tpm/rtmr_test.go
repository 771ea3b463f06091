package tpm

import (
	"bytes"
	"strings"
	"testing"
)

// RTMR is named where a bank is, and is none: no quote can name it.
func TestRTMRIsNoBank(t *testing.T) {
	if alg, ok := ParseHashAlg("rtmr"); !ok || alg != RTMR || RTMR.String() != "rtmr" || RTMR.Size() != 48 || RTMR.Hash() != 0 || RTMR.PCRBank() {
		t.Errorf("%v %v", alg, ok)
	}
	for _, alg := range []HashAlg{SHA1, SHA256, SHA384, SHA512, SM3, SHA3_256, SHA3_384, SHA3_512} {
		if !alg.PCRBank() {
			t.Errorf("%v is no bank", alg)
		}
	}
	if HashAlg(0x7777).PCRBank() || HashAlg(0).PCRBank() {
		t.Error("an unknown algorithm is a bank")
	}
	f := newForger(t)
	quote := f.quote(Selection{SHA384, 0xff})
	message := bytes.Replace(quote.Message, []byte{0x00, 0x0C, 3}, []byte{0xFF, 0xFE, 3}, 1)
	if bytes.Equal(message, quote.Message) {
		t.Fatal("the quote does not name SHA-384")
	}
	if _, err := ParseAttest(message); err == nil || !strings.Contains(err.Error(), "0xfffe") {
		t.Errorf("%v", err)
	}
	if q, _ := Verify(f.ak, []Quote{f.sign(message)}, f.pcrs, fresh()); q != nil {
		t.Error("a quote of RTMRs verifies")
	}
}
