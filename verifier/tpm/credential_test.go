package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
)

func TestMakeCredentialErrors(t *testing.T) {
	dir := filepath.Join(boots, "sb-on-1", "evidence")
	ek := mustParse(t, read(t, dir, "ek-rsa2048.tpmt_public"))
	ak := mustParse(t, read(t, dir, "ak-ecdsa256.tpmt_public"))
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	weakEK, err := PublicFromCrypto(&weak.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	sha1Name := append([]byte{0, 4}, make([]byte, 20)...)
	for name, c := range map[string]struct {
		ek     *Public
		name   []byte
		secret []byte
		random io.Reader
		want   string
	}{
		"no EK":             {nil, ak.Name(), []byte{1}, rand.Reader, "There is no key"},
		"an AK as EK":       {ak, ak.Name(), []byte{1}, rand.Reader, "lacks the attribute decrypt"},
		"weak EK":           {weakEK, ak.Name(), []byte{1}, rand.Reader, "fewer than 2048 bits"},
		"no name":           {ek, nil, []byte{1}, rand.Reader, "AK name of 0 bytes"},
		"short name":        {ek, ak.Name()[:33], []byte{1}, rand.Reader, "AK name of 33 bytes"},
		"SHA-1 name":        {ek, sha1Name, []byte{1}, rand.Reader, "nameAlg sha1"},
		"no secret":         {ek, ak.Name(), nil, rand.Reader, "a secret of 0 bytes"},
		"long secret":       {ek, ak.Name(), make([]byte, 33), rand.Reader, "a secret of 33 bytes"},
		"no randomness":     {ek, ak.Name(), []byte{1}, nil, "no source of randomness"},
		"little randomness": {ek, ak.Name(), []byte{1}, bytes.NewReader(make([]byte, 40)), "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			blob, sealed, err := MakeCredential(c.ek, c.name, c.secret, c.random)
			if err == nil || !strings.Contains(err.Error(), c.want) || blob != nil || sealed != nil {
				t.Errorf("%v", err)
			}
		})
	}
}

// All randomness comes from the caller: the same source gives the same credential.
func TestMakeCredentialUsesOnlyTheGivenRandomness(t *testing.T) {
	dir := filepath.Join(boots, "sb-on-1", "evidence")
	name := mustParse(t, read(t, dir, "ak-ecdsa256.tpmt_public")).Name()
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		ek, err := PublicFromCrypto(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		source := make([]byte, 4096)
		if _, err := rand.Read(source); err != nil {
			t.Fatal(err)
		}
		blob1, sealed1, err1 := MakeCredential(ek, name, []byte("secret"), bytes.NewReader(source))
		blob2, sealed2, err2 := MakeCredential(ek, name, []byte("secret"), bytes.NewReader(source))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(blob1, blob2) || !bytes.Equal(sealed1, sealed2) {
			t.Errorf("%s: two results from one source", ek)
		}
		// An ephemeral key of zero is none: drawing it for ever must end.
		if _, _, err := MakeCredential(ek, name, []byte("secret"), zeros{}); err == nil {
			t.Errorf("%s: a source of zeros is good enough", ek)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }
