package tpm

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestParseAttestErrors(t *testing.T) {
	good := message{magic: generatedValue, kind: AttestQuote, signer: []byte("s"), extra: []byte("n"),
		selections: []Selection{{SHA256, 1}}, digest: []byte("d")}.bytes()
	// magic 0, type 4, signer 6, extra 9, clock 12, resets 20, restarts 24, safe 28, firmware 29,
	// count 37, hash 41, octets 43, mask 44, digest 47
	at := func(off int, v ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[off:], v)
		return b
	}
	if a, err := ParseAttest(good); err != nil || a.Selections[0] != (Selection{SHA256, 1}) {
		t.Fatal(a, err)
	}
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":            {nil, "empty"},
		"magic":            {at(0, 0), "at byte 0: magic"},
		"type":             {at(4, 0x80, 0x17), "at byte 4: the attestation comes from TPM2_Certify,"},
		"safe":             {at(28, 2), "clockInfo.safe is 2"},
		"selections":       {at(37, 0xff, 0xff, 0xff, 0xff), "4294967295 PCR selections"},
		"octets":           {at(43, 5), "5 octets"},
		"PCR 24":           {append(append(bytes.Clone(good[:43]), 4, 0, 0, 0, 1), good[47:]...), "PCR 24 is selected"},
		"ends early":       {good[:len(good)-1], "pcrDigest needs 1 bytes, 0 are left"},
		"trailing":         {append(bytes.Clone(good), 0), "1 bytes follow"},
		"digest too large": {at(47, 0, 65), "pcrDigest has a size of 65"},
		"signer too large": {at(6, 0, 67), "at byte 6: qualifiedSigner has a size of 67"},
	} {
		t.Run(name, func(t *testing.T) {
			if a, err := ParseAttest(c.b); err == nil || !strings.Contains(err.Error(), c.want) || a != nil {
				t.Errorf("%v, %v", a, err)
			}
		})
	}
	for i := range good {
		if _, err := ParseAttest(good[:i]); err == nil || i > 0 && !errors.Is(err, errShort) {
			t.Errorf("%d bytes: %v", i, err)
		}
	}
	var wrongType *TypeError
	creation := read(t, "testdata/quotes/goattest-windows-gce-shielded-vm/ak.CreateAttestation.bin")
	if _, err := ParseAttest(creation); !errors.As(err, &wrongType) || wrongType.Type != AttestCreation {
		t.Error(err)
	}
}

func TestPeekExtraData(t *testing.T) {
	s := capture(t, "sb-on-1", "ecdsa256-sha256")
	if extra, err := PeekExtraData(s.quote.Message); err != nil || !bytes.Equal(extra, s.nonce) {
		t.Errorf("%x, %v", extra, err)
	}
	// It finds the nonce of what is no quote too, so that such a message becomes a verdict.
	b := message{magic: 1, kind: AttestCertify, extra: []byte("nonce")}.bytes()
	if extra, err := PeekExtraData(b); err != nil || string(extra) != "nonce" {
		t.Errorf("%x, %v", extra, err)
	}
	for _, broken := range [][]byte{nil, b[:7], b[:14], make([]byte, 2000)} {
		if extra, err := PeekExtraData(broken); err == nil {
			t.Errorf("%x: %x", broken, extra)
		}
	}
}
