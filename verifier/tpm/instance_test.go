package tpm

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm-tools/proto/attest"
	"google.golang.org/protobuf/proto"
)

// Google's CA names the instance in the AK certificate that gotpm sends.
func TestInstanceOfARealCertificate(t *testing.T) {
	var a attest.Attestation
	if err := proto.Unmarshal(read(t, "testdata/gotpm/gce-cos-85-nonce9009.pb"), &a); err != nil {
		t.Fatal(err)
	}
	cert, err := ParseEKCertificate(a.GetAkCert())
	if err != nil {
		t.Fatal(err)
	}
	got, err := InstanceOf(cert)
	if err != nil || got == nil {
		t.Fatalf("%+v, %v", got, err)
	}
	want := Instance{Zone: "us-central1-a", ProjectID: "google.com:wuale-gcp-testing", ProjectNumber: 117478743145, Name: "cos-test", ID: 6797026933021542085, production: true}
	if *got != want {
		t.Errorf("%+v", got)
	}
	if name := got.ResourceName(); name != "//compute.googleapis.com/projects/117478743145/zones/us-central1-a/instances/6797026933021542085" {
		t.Error(name)
	}
	files, err := filepath.Glob("testdata/certs/gce/*sign*")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, err := InstanceOf(certificate(t, filepath.Dir(f), filepath.Base(f))); err != nil {
			t.Errorf("%s: %v", f, err)
		}
	}
}

type wireInstance struct {
	Zone          string `asn1:"utf8"`
	ProjectNumber *big.Int
	ProjectID     string `asn1:"utf8"`
	ID            *big.Int
	Name          string `asn1:"utf8"`
	Security      struct {
		Version    int64 `asn1:"explicit,tag:0,optional"`
		Production bool  `asn1:"explicit,tag:1,optional"`
	} `asn1:"explicit,optional"`
}

func instanceExtension(t testing.TB, change func(*wireInstance)) []byte {
	t.Helper()
	w := wireInstance{Zone: "europe-west4-a", ProjectNumber: big.NewInt(42), ProjectID: "p", ID: new(big.Int).SetUint64(1 << 63), Name: "web-1"}
	w.Security.Production = true
	change(&w)
	der, err := asn1.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestInstanceOf(t *testing.T) {
	of := func(values ...[]byte) *x509.Certificate {
		c := &x509.Certificate{}
		for _, v := range values {
			c.Extensions = append(c.Extensions, pkix.Extension{Id: oidGCEInstance, Value: v})
		}
		return c
	}
	good := instanceExtension(t, func(*wireInstance) {})
	if i, err := InstanceOf(of(good)); err != nil || i.ID != 1<<63 || i.ResourceName() != "//compute.googleapis.com/projects/42/zones/europe-west4-a/instances/9223372036854775808" {
		t.Errorf("%+v, %v", i, err)
	}
	if i, err := InstanceOf(of(instanceExtension(t, func(w *wireInstance) { w.Name = strings.Repeat("!", 252) + "~" }))); err != nil || len(i.Name) != 253 {
		t.Errorf("the longest name: %+v, %v", i, err)
	}
	if i, err := InstanceOf(of()); err != nil || i != nil {
		t.Errorf("%+v, %v", i, err)
	}
	if i, err := InstanceOf(of(instanceExtension(t, func(w *wireInstance) { w.Security.Production = false }))); err != nil || i != nil {
		t.Errorf("not of production: %+v, %v", i, err)
	}
	for name, c := range map[string]*x509.Certificate{
		"two":                 of(good, good),
		"cut":                 of(good[:len(good)-3]),
		"followed":            of(append(append([]byte{}, good...), 0)),
		"negative":            of(instanceExtension(t, func(w *wireInstance) { w.ID = big.NewInt(-1) })),
		"too large":           of(instanceExtension(t, func(w *wireInstance) { w.ProjectNumber = new(big.Int).Lsh(big.NewInt(1), 64) })),
		"a path in a name":    of(instanceExtension(t, func(w *wireInstance) { w.Zone = "../../other" })),
		"a control character": of(instanceExtension(t, func(w *wireInstance) { w.Name = "a\nb" })),
		"a space":             of(instanceExtension(t, func(w *wireInstance) { w.Name = "a b" })),
		"a delete":            of(instanceExtension(t, func(w *wireInstance) { w.Name = "a\x7f" })),
		"another script":      of(instanceExtension(t, func(w *wireInstance) { w.Name = "wäb" })),
		"a long name":         of(instanceExtension(t, func(w *wireInstance) { w.ProjectID = strings.Repeat("a", 254) })),
	} {
		if i, err := InstanceOf(c); err == nil || i != nil {
			t.Errorf("%s: %+v", name, i)
		}
	}
}

func FuzzInstanceOf(f *testing.F) {
	f.Add(instanceExtension(f, func(*wireInstance) {}))
	f.Fuzz(func(t *testing.T, der []byte) {
		i, err := InstanceOf(&x509.Certificate{Extensions: []pkix.Extension{{Id: oidGCEInstance, Value: der}}})
		if err == nil && i != nil && strings.ContainsAny(i.ResourceName()[2:], "\n \x00") {
			t.Errorf("%q", i.ResourceName())
		}
	})
}
