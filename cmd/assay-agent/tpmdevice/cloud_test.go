package tpmdevice_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/integration/swtpm"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// A key that Google Compute Engine certified is made from its template and quotes; of two kinds the preferred one is
// taken, and of one that one. A template that does not give the certified key is refused.
func TestGoogleAKFromNV(t *testing.T) {
	s := swtpm.New(t, swtpm.Options{})
	d := open(t, s)
	if ak, err := d.CertifiedAK(tpmdevice.ECDSA); ak != nil || err != nil {
		t.Fatalf("%v, %v", ak, err)
	}
	try := func(preferred tpmdevice.AKAlg, kind string, certificate []byte) {
		t.Helper()
		ak, err := d.CertifiedAK(preferred)
		if err != nil || ak == nil {
			t.Fatalf("%v, %v", ak, err)
		}
		defer mustClose(t, ak)
		if ak.Kind() != kind || !bytes.Equal(ak.Certificate, certificate) {
			t.Errorf("%s", ak.Kind())
		}
		public, err := tpm.ParsePublic(ak.Public)
		if err != nil || tpm.CheckAK(public) != nil {
			t.Fatalf("%v, %v", err, tpm.CheckAK(public))
		}
		quoted, err := d.Quote(ak.Key, make([]byte, 32), []tpm.Selection{{Alg: tpm.SHA256, Mask: 1}})
		if err != nil {
			t.Fatal(err)
		}
		verified, report := tpm.Verify(public, []tpm.Quote{{Message: quoted.Message, Signature: quoted.Signature}}, quoted.PCRs,
			tpm.Expectation{Freshness: tpm.Freshness{Nonce: make([]byte, 32)}, Required: []tpm.Selection{{Alg: tpm.SHA256, Mask: 1}}})
		if verified == nil {
			t.Errorf("%+v", report)
		}
		again, err := d.AKFromTemplate(ak.Template)
		if err != nil || !bytes.Equal(again.Public, ak.Public) {
			t.Errorf("another key: %v", err)
		}
		mustClose(t, again)
	}
	_, _, rsaCert, err := s.GoogleAK(false)
	if err != nil {
		t.Fatal(err)
	}
	try(tpmdevice.ECDSA, "RSA-2048", rsaCert.Raw)
	_, _, eccCert, err := s.GoogleAK(true)
	if err != nil {
		t.Fatal(err)
	}
	try(tpmdevice.ECDSA, "ECC P-256", eccCert.Raw)
	try(tpmdevice.RSASSA, "RSA-2048", rsaCert.Raw)

	if err := s.WriteNV(0x01c10000, append(eccCert.Raw, bytes.Repeat([]byte{0xff}, 9)...)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.CertifiedAK(tpmdevice.RSASSA); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("%v", err)
	}
	if err := s.WriteNV(0x01c10001, []byte("no template")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.CertifiedAK(tpmdevice.RSASSA); err == nil || !strings.Contains(err.Error(), "no TPMT_PUBLIC") {
		t.Errorf("%v", err)
	}
	undefine(t, s, 0x01c10001)
	try(tpmdevice.RSASSA, "ECC P-256", eccCert.Raw)
}

func TestPersistentKey(t *testing.T) {
	s := swtpm.New(t, swtpm.Options{})
	d := open(t, s)
	if key, err := d.PersistentKey(0x81000003); key != nil || err != nil {
		t.Errorf("%v, %v", key, err)
	}
	want, err := s.PersistentAK(0x81000003, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := d.PersistentKey(0x81000003)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm.ParsePublic(key.Public)
	if err != nil || !want.Equal(public.Key()) {
		t.Errorf("%v", err)
	}
	mustClose(t, key)
	if again, err := d.PersistentKey(0x81000003); again == nil || err != nil {
		t.Errorf("closing a persistent key removes it: %v", err)
	}
}

// An index that is larger than one command can carry is read whole.
func TestNVIsReadWhole(t *testing.T) {
	s := swtpm.New(t, swtpm.Options{})
	d := open(t, s)
	want := make([]byte, 2048)
	for i := range want {
		want[i] = byte(i * 7 / 3)
	}
	if err := s.WriteNV(0x01400001, want); err != nil {
		t.Fatal(err)
	}
	if got, err := d.ReadNV(0x01400001); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestNoTPM(t *testing.T) {
	if _, err := tpmdevice.Open(tpmdevice.None); !errors.Is(err, tpmdevice.ErrNoTPM) {
		t.Errorf("%v", err)
	}
	present := false // whether the machine that runs the test has one
	for _, p := range tpmdevice.DefaultPaths {
		if d, err := tpmdevice.Open(p); err == nil {
			present = true
			d.Close()
		}
	}
	d, err := tpmdevice.Open("")
	if err == nil {
		d.Close()
	}
	if present && err != nil || !present && !errors.Is(err, tpmdevice.ErrNoTPM) {
		t.Errorf("with a TPM %v: %v", present, err)
	}
}
