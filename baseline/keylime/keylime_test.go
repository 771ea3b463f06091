package keylime_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/importtest"
	"github.com/assay-verifier/assay/baseline/keylime"
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
	return importtest.TrustKey(t, "keylime", read(t, "runtime-policy-pubkey.pub"))
}

func TestRuntimePolicy(t *testing.T) {
	out, err := keylime.Import(read(t, "runtime-policy-test.json"), nil)
	if err != nil {
		t.Fatal(err)
	}
	ima := out.Values.IMA
	if out.Format != keylime.FormatRuntimePolicy || out.Signer != nil || len(ima.Allow) != 20 || ima.Allow[0].Path != "/boot/loader.0/entries/ostree-2-fedora-coreos.conf" ||
		ima.Allow[0].Digests[0] != "sha1:856ce73f0736eba033eaa18d1c90efd4b38a4a4f" || len(ima.Keyrings[".ima"]) != 1 ||
		ima.Keyrings[".ima"][0] != "sha256:a7d52aaa18c23d2d9bb2abb4308c0eeee67387a42259f4a6b1a42257065f3d5a" {
		t.Errorf("%+v", ima)
	}
	if len(out.Notes) != 1 || !strings.Contains(out.Notes[0], "boot_aggregate") {
		t.Errorf("notes %q", out.Notes)
	}
}

func TestSignedRuntimePolicy(t *testing.T) {
	signed := read(t, "runtime-policy-test-signed.json")
	out, err := keylime.Import(signed, trusted(t))
	if err != nil {
		t.Fatal(err)
	}
	if out.Signer == nil || out.Signer.Subject != "keylime" || len(out.Values.IMA.Allow) != 20 {
		t.Errorf("%+v", out)
	}
	_, err = keylime.Import(signed, nil)
	importtest.Refused(t, err, baseline.ImportUntrusted, "/signatures/0")
	// Its signature has lost its padding and its first character.
	_, err = keylime.Import(read(t, "runtime-policy-test-signed-bad.json"), trusted(t))
	importtest.Refused(t, err, baseline.ImportMalformed, "/signatures/0/sig")
	_, err = keylime.Import([]byte(strings.Replace(string(signed), `"sig": "MEUCICUQ`, `"sig": "MEUCICUR`, 1)), trusted(t))
	importtest.Refused(t, err, baseline.ImportUntrusted, "/signatures/0")
	// The type is signed too.
	_, err = keylime.Import([]byte(strings.Replace(string(signed), "vnd.keylime+json", "vnd.in-toto+json", 1)), trusted(t))
	importtest.Refused(t, err, baseline.ImportUntrusted, "/signatures/0")
	// One letter of the payload.
	_, err = keylime.Import([]byte(strings.Replace(string(signed), `"payload": "eyJt`, `"payload": "eyJu`, 1)), trusted(t))
	importtest.Refused(t, err, baseline.ImportUntrusted, "/signatures/0")
}

func TestExcludesMeanWhatPythonMeans(t *testing.T) {
	out, err := keylime.Import([]byte(`{"digests": {"/bin/sh": ["`+strings.Repeat("AB", 32)+`"]}, "excludes": ["/tmp/", "/var/log|/run$", ""],
		"ima": {"ignored_keyrings": ["*"], "log_hash_alg": "sha256", "dm_policy": {"x": 1}}, "ima-buf": {"kexec-cmdline": ["sha256:`+strings.Repeat("ab", 32)+`"]}}`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(out.Values.IMA.Exclude); got != `[(?:/tmp/)(?s:.*) (?:/var/log|/run$)(?s:.*)]` {
		t.Error(got)
	}
	if out.Values.IMA.Allow[0].Digests[0] != "sha256:"+strings.Repeat("ab", 32) || len(out.Notes) != 1 || out.Values.IMA.IgnoredKeyrings[0] != "*" || len(out.Values.IMA.Buffers) != 1 {
		t.Errorf("%+v %q", out.Values.IMA, out.Notes)
	}
}

func TestVerificationKeys(t *testing.T) {
	block, _ := pem.Decode(read(t, "runtime-policy-pubkey.pub"))
	ring := fmt.Sprintf(`{"meta": {"version": 1}, "keyids": [1], "pubkeys": [%q]}`, base64.StdEncoding.EncodeToString(block.Bytes))
	for _, text := range []string{ring, quoted(t, ring)} {
		out, err := keylime.Import([]byte(`{"digests": {}, "verification-keys": `+quoted(t, text)+`}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		if keys := out.Values.IMA.VerificationKeys; len(keys) != 1 || keys[0] != string(read(t, "runtime-policy-pubkey.pub")) {
			t.Errorf("%q", keys)
		}
	}
	_, err := keylime.Import([]byte(`{"digests": {}, "verification-keys": "{\"pubkeys\": [\"AAAA\"]}"}`), nil)
	importtest.Refused(t, err, baseline.ImportMalformed, "/verification-keys")
	_, err = keylime.Import([]byte(`{"digests": {}, "verification-keys": "{\"pubkeys\": [7]}"}`), nil)
	importtest.Refused(t, err, baseline.ImportMalformed, "/verification-keys/pubkeys/0")
}

func quoted(t *testing.T, s string) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRuntimePolicyRefused(t *testing.T) {
	for body, want := range map[string][2]string{
		`{"digests": {}}`:                                      {baseline.ImportNothingFound, ""},
		`{"digests": {"/a": ["abcd"]}}`:                        {baseline.ImportMalformed, "/digests/~1a/0"},
		`{"digests": {"": []}}`:                                {baseline.ImportMalformed, "/digests/"},
		`{"digests": {"/a": ["md5:00"]}}`:                      {baseline.ImportMalformed, "/digests"},
		`{"digests": {"/a": [], "/a": []}}`:                    {baseline.ImportMalformed, "/digests/~1a"},
		`{"meta": {"version": 2}, "digests": {}}`:              {baseline.ImportUnsupported, "/meta/version"},
		`{"digests": {}, "excludes": ["(?!x)"]}`:               {baseline.ImportUnsupported, "/excludes/0"},
		`{"digests": {}, "hashes": {}}`:                        {baseline.ImportMalformed, "/hashes"},
		`{"digests": {}, "ima": {"require": 1}}`:               {baseline.ImportMalformed, "/ima/require"},
		`{"digests": {}, "keyrings": {".ima": ["sha256:00"]}}`: {baseline.ImportMalformed, "/keyrings/.ima/0"},
		`{"digests": [` + strings.Repeat(`[`, 200) + `]}`:      {baseline.ImportMalformed, "/digests"},
		`[]`:          {baseline.ImportMalformed, ""},
		`{"what": 1}`: {baseline.ImportMalformed, "/what"},
	} {
		_, err := keylime.Import([]byte(body), nil)
		importtest.Refused(t, err, want[0], want[1])
	}
}

func TestRefState(t *testing.T) {
	out, err := keylime.Import(read(t, "example_reference_state.json"), nil)
	if err != nil {
		t.Fatal(err)
	}
	byPCR := map[int]int{}
	for _, e := range out.Values.Events {
		byPCR[e.PCR]++
	}
	if got := fmt.Sprint(byPCR); got != "map[0:3 4:3 14:4]" {
		t.Errorf("events by PCR: %s", got)
	}
	if e := out.Values.Events[0]; e.PCR != 0 || e.Digests["sha256"][0] != "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7" {
		t.Errorf("%+v", e)
	}
	if string(out.Values.Claims["secure_boot"]) != "true" || !strings.Contains(string(out.Values.Claims["kernel_cmdline"]), "pattern") {
		t.Errorf("claims %s", out.Values.Claims)
	}
	if text := strings.Join(out.Notes, "\n"); !strings.Contains(text, "initrd_plain_sha256 is not judged") || !strings.Contains(text, "pk, kek, db, dbx are not judged") {
		t.Errorf("notes %s", text)
	}
}

func TestRefStateRefused(t *testing.T) {
	for body, want := range map[string][2]string{
		`{}`:             {baseline.ImportNothingFound, ""},
		`{"kernels": 1}`: {baseline.ImportMalformed, "/kernels"},
		`{"kernels": [{"shim_authcode_sha256": "0f"}]}`:    {baseline.ImportMalformed, "/kernels/0/shim_authcode_sha256"},
		`{"kernels": [{"kernel_cmdline": "(?<x"}]}`:        {baseline.ImportUnsupported, "/kernels/0/kernel_cmdline"},
		`{"kernels": [{"windows": ""}]}`:                   {baseline.ImportMalformed, "/kernels/0/windows"},
		`{"scrtm_and_bios": [{"scrtm": {}}]}`:              {baseline.ImportMalformed, "/scrtm_and_bios/0/scrtm"},
		`{"scrtm_and_bios": [{"scrtm": {"md5": "0x00"}}]}`: {baseline.ImportUnsupported, "/scrtm_and_bios/0/scrtm/md5"},
		`{"kernels": [], "db": [{"SignatureData": "00"}]}`: {baseline.ImportMalformed, "/db/0/SignatureData"},
		`{"kernels": [], "db": [{"Data": "00"}]}`:          {baseline.ImportMalformed, "/db/0/Data"},
		`{"kernels": [], "has_secureboot": "yes"}`:         {baseline.ImportMalformed, "/has_secureboot"},
		`{"kernels": [], "mokdig": [{"sha256": "0xab"}]}`:  {baseline.ImportMalformed, "/mokdig/0/sha256"},
	} {
		_, err := keylime.Import([]byte(body), nil)
		importtest.Refused(t, err, want[0], want[1])
	}
}

func FuzzKeylime(f *testing.F) {
	for _, name := range []string{"example_reference_state.json", "runtime-policy-test.json", "runtime-policy-test-signed.json", "runtime-policy-test-signed-bad.json"} {
		f.Add(read(f, name))
	}
	f.Add([]byte(`{"digests": {}, "excludes": ["a"], "verification-keys": "{\"pubkeys\": [\"AAAA\"]}", "ima": {"ignored_keyrings": null}}`))
	trust := trusted(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := keylime.Import(b, trust)
		importtest.Usable(t, out, err)
	})
}
