package tpm

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
)

// firstCertificate is the first of a PEM file.
func firstCertificate(t testing.TB, path ...string) *x509.Certificate {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		t.Fatal("no PEM")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestIdentityOfRealCertificates(t *testing.T) {
	for path, want := range map[string]Identity{
		"testdata/certs/gce/uca_tpm_rsa_enc_cert.pem":  {Manufacturer: "GOOG", Model: "vTPM", Version: "id:20160511"},
		"testdata/certs/keylime/iak_idevid_chain.pem":  {},
		"testdata/certs/keylime-store/IFX15.pem":       {},
		"testdata/certs/keylime-store/GS_TPM_RT.pem":   {},
		"testdata/certs/keylime-store/IFX_ECC_042.pem": {},
	} {
		got, ok := IdentityOf(firstCertificate(t, path))
		if got != want || ok != (want.Manufacturer != "") {
			t.Errorf("%s: %+v, %t", path, got, ok)
		}
	}
}

// swtpm names IBM's number, which is no vendor id of four letters.
func TestIdentityOfSoftwareTPM(t *testing.T) {
	raw, err := os.ReadFile("../../integration/testdata/boots/sb-on-1/evidence/ek-rsa2048.der")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ParseEKCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := IdentityOf(cert); !ok || got != (Identity{"id:00001014", "swtpm", "id:20191023"}) {
		t.Errorf("%+v, %t", got, ok)
	}
}

func TestManufacturer(t *testing.T) {
	for text, want := range map[string]string{
		"id:49465800": "IFX", "id:53544D20": "STM", "id:494E5443": "INTC", "id:414D4400": "AMD", "id:4E544300": "NTC",
		"id:00000001": "id:00000001", "id:49": "id:49", "IFX": "IFX", "": "",
	} {
		if got := manufacturer(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// Bytes that are no names are no identity, and no panic.
func FuzzIdentity(f *testing.F) {
	for _, path := range []string{"testdata/certs/gce/uca_tpm_rsa_enc_cert.pem", "testdata/certs/keylime/iak_idevid_chain.pem"} {
		for _, e := range firstCertificate(f, path).Extensions {
			f.Add(e.Value)
		}
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		var id Identity
		for _, name := range directoryNames(der) {
			id.read(name)
		}
		for _, text := range []string{id.Manufacturer, id.Model, id.Version} {
			if len(text) > maxIdentityText {
				t.Errorf("%q", text)
			}
		}
	})
}
