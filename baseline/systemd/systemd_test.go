package systemd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/importtest"
	"github.com/assay-verifier/assay/baseline/systemd"
	"github.com/assay-verifier/assay/verifier"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func trusted(t testing.TB) *baseline.ImportTrust {
	t.Helper()
	return importtest.TrustKey(t, "builds", read(t, "pub.pem"))
}

func TestMeasure(t *testing.T) {
	out, err := systemd.Measure(read(t, "measure.json"))
	if err != nil {
		t.Fatal(err)
	}
	if out.Signer != nil || len(out.Values.PCRs["sha1"]["11"]) != 4 || len(out.Values.PCRs["sha256"]["11"]) != 4 ||
		out.Values.PCRs["sha256"]["11"][3] != "2282ea5f54e7f9b6ea9c2f6e83a068c3c8fda9c09e1bd46c6d7d3302b3c2615d" {
		t.Errorf("%+v", out)
	}
	for body, want := range map[string][2]string{
		`{"sha256": []}`:                          {baseline.ImportNothingFound, ""},
		`{"md5": []}`:                             {baseline.ImportUnsupported, "/md5"},
		`{"sha256": [{"pcr": 24, "hash": ""}]}`:   {baseline.ImportMalformed, "/sha256/0/pcr"},
		`{"sha256": [{"pcr": 11, "hash": "ab"}]}`: {baseline.ImportMalformed, "/sha256/0/hash"},
		`{"sha256": [{"pcr": 11, "pcr": 11}]}`:    {baseline.ImportMalformed, "/sha256/0/pcr"},
		`{"sha256": [{"what": 11}]}`:              {baseline.ImportMalformed, "/sha256/0/what"},
		`{"sha256": [{"pcr": 11}]}`:               {baseline.ImportMalformed, "/sha256/0"},
		`{"sha256": {}}`:                          {baseline.ImportMalformed, "/sha256"},
		`{} {}`:                                   {baseline.ImportMalformed, ""},
	} {
		_, err := systemd.Measure([]byte(body))
		importtest.Refused(t, err, want[0], want[1])
	}
}

// The signatures that systemd made with a TPM cover the values that it calculates without one.
func TestPCRSig(t *testing.T) {
	sig, values := read(t, "pcrsig.json"), read(t, "measure256.json")
	out, err := systemd.PCRSig(sig, values, trusted(t))
	if err != nil {
		t.Fatal(err)
	}
	if out.Signer == nil || out.Signer.Subject != "builds" || len(out.Values.PCRs["sha256"]["11"]) != 4 || len(out.Notes) != 0 {
		t.Errorf("%+v", out)
	}
	_, err = systemd.PCRSig(sig, nil, trusted(t))
	importtest.Refused(t, err, baseline.ImportUnsupported, "")
	_, err = systemd.PCRSig(sig, values, &baseline.ImportTrust{})
	importtest.Refused(t, err, baseline.ImportUntrusted, "/sha256/0/pkfp")
	_, err = systemd.PCRSig(sig, values, nil)
	importtest.Refused(t, err, baseline.ImportUntrusted, "/sha256/0/pkfp")
	_, err = systemd.PCRSig(sig, read(t, "measure.json"), trusted(t)) // its SHA-1 values are not signed
	importtest.Refused(t, err, baseline.ImportUntrusted, "/sha1")
	other := strings.Replace(string(values), "2282ea5f", "3282ea5f", 1)
	_, err = systemd.PCRSig(sig, []byte(other), trusted(t))
	importtest.Refused(t, err, baseline.ImportUntrusted, "/sha256")
	_, err = systemd.PCRSig(sig, []byte(strings.ReplaceAll(string(values), `"pcr":11`, `"pcr":12`)), trusted(t))
	importtest.Refused(t, err, baseline.ImportUntrusted, "/sha256")
	_, err = systemd.PCRSig([]byte(strings.Replace(string(sig), `"sig":"lcuu`, `"sig":"ocuu`, 1)), values, trusted(t))
	importtest.Refused(t, err, baseline.ImportUntrusted, "/sha256/0/sig")
	_, err = systemd.PCRSig([]byte(strings.Replace(string(sig), `"pol":"cc51`, `"pol":"cd51`, 1)), values, trusted(t))
	importtest.Refused(t, err, baseline.ImportUntrusted, "/sha256/0/sig")
	// A value that the signatures cover and nobody gave is said.
	var half map[string][]any
	if err := json.Unmarshal(values, &half); err != nil {
		t.Fatal(err)
	}
	half["sha256"] = half["sha256"][:2]
	short, _ := json.Marshal(half)
	if out, err = systemd.PCRSig(sig, short, trusted(t)); err != nil || len(out.Notes) != 1 || !strings.Contains(out.Notes[0], "2 signed policies") {
		t.Errorf("%+v, %v", out, err)
	}
	for body, want := range map[string][2]string{
		`{"sha256": []}`:                   {baseline.ImportNothingFound, ""},
		`{"sha256": [{}]}`:                 {baseline.ImportMalformed, "/sha256/0"},
		`{"sha256": [{"pkfp": "ab"}]}`:     {baseline.ImportMalformed, "/sha256/0/pkfp"},
		`{"sha256": [{"sig": "!"}]}`:       {baseline.ImportMalformed, "/sha256/0/sig"},
		`{"sha256": [{"pcrs": [11, 24]}]}`: {baseline.ImportMalformed, "/sha256/0/pcrs/1"},
		`{"sha256": [{"alg": "none"}]}`:    {baseline.ImportMalformed, "/sha256/0/alg"},
	} {
		_, err := systemd.PCRSig([]byte(body), values, trusted(t))
		importtest.Refused(t, err, want[0], want[1])
	}
}

// A key of another kind with a trusted key's fingerprint cannot be given: the key decides how a signature is checked.
func TestPCRSigOfAnotherKey(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	trust := &baseline.ImportTrust{Keys: []baseline.ImportKey{{Name: "other", Key: &key.PublicKey}}}
	_, err = systemd.PCRSig(read(t, "pcrsig.json"), read(t, "measure256.json"), trust)
	importtest.Refused(t, err, baseline.ImportUntrusted, "/sha256/0/pkfp")
}

// Constructed by systemd.pcrlock(5): there is no specimen of a real machine.
const constructedLock = `{"records": [
	{"pcr": 4, "recnum": 7, "content_type": "pcclient_std", "content": {"anything": [1]}, "digests": [
		{"hashAlg": "sha256", "digest": "aa93b5b28ece549880bf3aa74913c6a337cb3ef307dda12d80d3eab97098a54a"},
		{"hashAlg": "sha1", "digest": "fc88eb0863dcb6f9e5b9aa8ccfda0fc28e2a83eb"},
		{"hashAlg": "sm3-256", "digest": "00"}]},
	{"pcr": 11, "digests": [{"hashAlg": "sha256", "digest": "0de9628b39154a015864f685ac6dab6072d34e3e5d1db1f73daffab9e3a3c5ff"}]}]}`

func TestPCRLockOfAConstructedComponent(t *testing.T) {
	out, err := systemd.PCRLock([]byte(constructedLock), map[string][]byte{"650-kernel.pcrlock": []byte(constructedLock), "700.pcrlock": []byte(`{"records": [{"pcr": 9,
		"digests": [{"hashAlg": "sha256", "digest": "00909bedeaa0fe666e8188f5a16e5c01e6e4bda8ec7ae5f50641c6aa43efce31"}]}]}`)})
	if err != nil {
		t.Fatal(err)
	}
	events := out.Values.Events
	if len(events) != 3 || len(events[0].Digests) != 2 || events[2].PCR != 9 || events[2].Description != "700.pcrlock" || out.Signer != nil {
		t.Errorf("%+v", events)
	}
	if _, err := verifier.CompileReference(out.Values); err != nil {
		t.Error(err)
	}
	for body, want := range map[string][2]string{
		`{}`:                         {baseline.ImportNothingFound, "/records"},
		`{"records": []}`:            {baseline.ImportNothingFound, "/records"},
		`{"records": [{"pcr": 4}]}`:  {baseline.ImportMalformed, "/records/0"},
		`{"records": [{"pcr": -1}]}`: {baseline.ImportMalformed, "/records/0/pcr"},
		`{"records": [{"pcr": 4, "digests": [{"hashAlg": "sha256", "digest": "00"}]}]}`: {baseline.ImportMalformed, "/records/0/digests/0"},
		`{"policy": 1}`: {baseline.ImportMalformed, "/policy"},
	} {
		_, err := systemd.PCRLock([]byte(body), nil)
		importtest.Refused(t, err, want[0], want[1])
	}
	_, err = systemd.PCRLock([]byte(constructedLock), map[string][]byte{"b": []byte(`{"records": 1}`)})
	importtest.Refused(t, err, baseline.ImportMalformed, "b/records")
}

func FuzzSystemd(f *testing.F) {
	f.Add(read(f, "measure.json"))
	f.Add(read(f, "pcrsig.json"))
	f.Add([]byte(constructedLock))
	trust, values := trusted(f), read(f, "measure256.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, imported := range []func() (*baseline.Imported, error){
			func() (*baseline.Imported, error) { return systemd.Measure(b) },
			func() (*baseline.Imported, error) { return systemd.PCRLock(b, nil) },
			func() (*baseline.Imported, error) { return systemd.PCRSig(b, values, trust) },
			func() (*baseline.Imported, error) { return systemd.PCRSig(read(t, "pcrsig.json"), b, trust) },
		} {
			out, err := imported()
			importtest.Usable(t, out, err)
		}
	})
}
