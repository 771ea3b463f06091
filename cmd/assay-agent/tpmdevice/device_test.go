package tpmdevice_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/integration/swtpm"
	"github.com/assay-verifier/assay/verifier/tpm"
)

func open(t *testing.T, s *swtpm.TPM) *tpmdevice.Device {
	t.Helper()
	d, err := tpmdevice.Open(s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left := loaded(t, s); left != 0 {
			t.Errorf("%d keys are left in the TPM", left)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// loaded counts the transient objects that the TPM holds.
func loaded(t *testing.T, s *swtpm.TPM) int {
	t.Helper()
	raw, err := linuxudstpm.Open(s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: 0x80000000, PropertyCount: 16}.Execute(raw)
	if err != nil {
		t.Fatal(err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		t.Fatal(err)
	}
	return len(list.Handle)
}

func mustClose(t *testing.T, keys ...interface{ Close() error }) {
	t.Helper()
	for _, k := range keys {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
}

// The whole way of a key: EK with its certificate, AK, credential, quote.
func TestAttestationKeyProvesItself(t *testing.T) {
	s := swtpm.New(t, swtpm.Options{})
	d := open(t, s)
	ek, err := d.EK()
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, ek)
	want, err := s.EKCertificate("rsa2048")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ek.Certificate, want) || ek.Kind() != "RSA-2048" {
		t.Errorf("EK %s, certificate of %s", ek.Kind(), ek.Subject)
	}
	for _, alg := range []tpmdevice.AKAlg{tpmdevice.ECDSA, tpmdevice.RSASSA, tpmdevice.RSAPSS} {
		t.Run(string(alg), func(t *testing.T) {
			blob, created, err := d.CreateAK(alg)
			if err != nil {
				t.Fatal(err)
			}
			mustClose(t, created)
			ak, err := d.LoadAK(blob)
			if err != nil {
				t.Fatal(err)
			}
			defer mustClose(t, ak)
			public, err := tpm.ParsePublic(ak.Public)
			if err != nil {
				t.Fatal(err)
			}
			if err := tpm.CheckAK(public); err != nil || !bytes.Equal(public.Name(), ak.Name) {
				t.Fatalf("AK: %v, name %x", err, ak.Name)
			}
			activate(t, d, ak, ek)

			nonce := bytes.Repeat([]byte{7}, 32)
			quoted, err := d.Quote(ak, nonce, []tpm.Selection{{Alg: tpm.SHA256, Mask: 0xffffff}, {Alg: tpm.SHA1, Mask: 0x3ff}})
			if err != nil {
				t.Fatal(err)
			}
			verified, report := tpm.Verify(public, []tpm.Quote{{Message: quoted.Message, Signature: quoted.Signature}}, quoted.PCRs,
				tpm.Expectation{Freshness: tpm.Freshness{Nonce: nonce}, Required: []tpm.Selection{{Alg: tpm.SHA256, Mask: 0xff}}})
			if verified == nil {
				t.Fatalf("%+v", report)
			}
			if verified.Clock().FirmwareVersion == 0 || verified.Clock().ResetCount > 100 {
				t.Errorf("the clock is obfuscated: %+v", verified.Clock())
			}
		})
	}
}

func activate(t *testing.T, d *tpmdevice.Device, ak *tpmdevice.Key, ek *tpmdevice.EK) {
	t.Helper()
	public, err := tpm.ParsePublic(ek.Public)
	if err != nil {
		t.Fatal(err)
	}
	if err := tpm.CheckEK(public); err != nil {
		t.Fatal(err)
	}
	secret := []byte("a secret of thirty-two bytes ...")
	blob, encrypted, err := tpm.MakeCredential(public, ak.Name, secret, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	got, err := d.Activate(ak, ek, blob, encrypted)
	if err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("activation: %q, %v", got, err)
	}
	other := bytes.Clone(ak.Name)
	other[5] ^= 1
	if blob, encrypted, err = tpm.MakeCredential(public, other, secret, rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Activate(ak, ek, blob, encrypted); err == nil {
		t.Error("a credential for another key is opened")
	}
}

// evict removes a persistent key, so that it must be made from its template.
func evict(t *testing.T, s *swtpm.TPM, h tpm2.TPMHandle) {
	t.Helper()
	raw, err := linuxudstpm.Open(s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	public, err := tpm2.ReadPublic{ObjectHandle: h}.Execute(raw)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle:     &tpm2.NamedHandle{Handle: h, Name: public.Name},
		PersistentHandle: h,
	}.Execute(raw)
	if err != nil {
		t.Fatal(err)
	}
}

// The EK is made from the TCG's template where it is not persistent.
func TestEKFromTemplate(t *testing.T) {
	s := swtpm.New(t, swtpm.Options{})
	d := open(t, s)
	evict(t, s, 0x81010001)
	ek, err := d.EK()
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, ek)
	if ek.Kind() != "RSA-2048" || ek.Certificate == nil {
		t.Errorf("%s", ek.Kind())
	}
	_, ak, err := d.CreateAK(tpmdevice.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, ak)
	activate(t, d, ak, ek)
}

// undefine removes the RSA EK certificate, so that the next in order is taken. swtpm_setup locks it to the
// platform, whose password is empty.
func undefine(t *testing.T, s *swtpm.TPM, index tpm2.TPMHandle) {
	t.Helper()
	raw, err := linuxudstpm.Open(s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(raw)
	if err != nil {
		t.Fatal(err)
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
	}.Execute(raw)
	if err != nil {
		t.Fatal(err)
	}
}

// A TPM that has only an ECC P-384 EK certificate (template H-3), the key persistent or not; and one
// that has no certificate at all.
func TestOtherEKs(t *testing.T) {
	s := swtpm.New(t, swtpm.Options{})
	d := open(t, s)
	undefine(t, s, 0x01c00002)
	try := func(kind string, certified bool) {
		t.Helper()
		ek, err := d.EK()
		if err != nil {
			t.Fatal(err)
		}
		defer mustClose(t, ek)
		if ek.Kind() != kind || (ek.Certificate != nil) != certified {
			t.Errorf("EK %s, certificate %q", ek.Kind(), ek.Subject)
		}
		_, ak, err := d.CreateAK(tpmdevice.ECDSA)
		if err != nil {
			t.Fatal(err)
		}
		defer mustClose(t, ak)
		activate(t, d, ak, ek)
	}
	try("ECC P-384", true)
	evict(t, s, 0x81010016)
	try("ECC P-384", true)
	undefine(t, s, 0x01c00016)
	try("RSA-2048", false)
}

// A key of one TPM is refused by another.
func TestForeignKey(t *testing.T) {
	a, b := open(t, swtpm.New(t, swtpm.Options{})), open(t, swtpm.New(t, swtpm.Options{}))
	blob, ak, err := a.CreateAK(tpmdevice.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, ak)
	if _, err := b.LoadAK(blob); !errors.Is(err, tpmdevice.ErrForeignKey) {
		t.Errorf("%v", err)
	}
	for _, bad := range [][]byte{nil, {0}, blob[:20], blob[:len(blob)-3], append([]byte{0xff, 0xff}, blob...)} {
		if _, err := a.LoadAK(bad); err == nil {
			t.Error("a damaged key is loaded")
		}
	}
}

// A TPM without the bank that is asked for quotes a stronger one.
func TestStrongerBank(t *testing.T) {
	s := swtpm.New(t, swtpm.Options{Banks: []string{"sha384"}})
	d := open(t, s)
	_, ak, err := d.CreateAK(tpmdevice.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, ak)
	quoted, err := d.Quote(ak, make([]byte, 32), []tpm.Selection{{Alg: tpm.SHA256, Mask: 0x7fff}})
	if err != nil {
		t.Fatal(err)
	}
	if len(quoted.PCRs) != 1 || quoted.PCRs[0].Alg != tpm.SHA384 || quoted.PCRs[0].Mask != 0x7fff {
		t.Errorf("%+v", quoted.PCRs)
	}
}

func TestAvailable(t *testing.T) {
	all := uint32(0xffffff)
	for _, c := range []struct {
		name         string
		want, active []tpm.Selection
		expect       string
	}{
		{"as wanted", []tpm.Selection{sel(tpm.SHA256, 1)}, []tpm.Selection{sel(tpm.SHA1, all), sel(tpm.SHA256, all)}, "[{sha256 1}]"},
		{"stronger", []tpm.Selection{sel(tpm.SHA256, 3)}, []tpm.Selection{sel(tpm.SHA1, all), sel(tpm.SHA512, all)}, "[{sha512 3}]"},
		{"joined", []tpm.Selection{sel(tpm.SHA256, 1), sel(tpm.SHA384, 2)}, []tpm.Selection{sel(tpm.SHA384, all)}, "[{sha384 3}]"},
		{"never weaker", []tpm.Selection{sel(tpm.SHA256, 1)}, []tpm.Selection{sel(tpm.SHA1, all)}, "neither it nor a stronger"},
		{"a bank with too few PCRs", []tpm.Selection{sel(tpm.SHA256, 3)}, []tpm.Selection{sel(tpm.SHA256, 1)}, "neither it nor a stronger"},
		{"nothing", []tpm.Selection{sel(tpm.SHA256, 0)}, []tpm.Selection{sel(tpm.SHA256, all)}, "no PCR"},
	} {
		got, err := tpmdevice.Available(c.want, c.active)
		text := ""
		if err != nil {
			text = err.Error()
		} else {
			text = describe(got)
		}
		if !strings.Contains(text, c.expect) {
			t.Errorf("%s: %s", c.name, text)
		}
	}
}

func sel(alg tpm.HashAlg, mask uint32) tpm.Selection { return tpm.Selection{Alg: alg, Mask: mask} }

func describe(s []tpm.Selection) string {
	var b strings.Builder
	for _, x := range s {
		b.WriteString("[{" + x.Alg.String() + " " + string(rune('0'+x.Mask)) + "}]")
	}
	return b.String()
}

// Values that are extended are the values that are quoted.
func TestExtend(t *testing.T) {
	d := open(t, swtpm.New(t, swtpm.Options{}))
	digest := sha256.Sum256([]byte("event"))
	if err := d.Extend(4, map[tpm.HashAlg][]byte{tpm.SHA256: digest[:]}); err != nil {
		t.Fatal(err)
	}
	pcrs, err := d.ReadPCRs([]tpm.Selection{{Alg: tpm.SHA256, Mask: 0xffffff}})
	if err != nil {
		t.Fatal(err)
	}
	want := sha256.Sum256(append(make([]byte, 32), digest[:]...))
	if !bytes.Equal(pcrs[0].Values[4], want[:]) || len(pcrs[0].Values[23]) != 32 {
		t.Errorf("%x", pcrs[0].Values[4])
	}
}

func TestOpenErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tpm")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + "-missing"} {
		if _, err := tpmdevice.Open(path); err == nil || !strings.Contains(err.Error(), "open the TPM") {
			t.Errorf("%s: %v", path, err)
		}
	}
}
