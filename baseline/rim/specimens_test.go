package rim

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/importtest"
	"github.com/assay-verifier/assay/verifier"
)

const reindented = "was indented after it was signed"

func TestSpecimens(t *testing.T) {
	log := map[string][]byte{"Example.com.BIOS.01.rimel": bootLog(t)}
	for _, test := range []struct {
		file, signedAt, note string
	}{
		{"generated_default_cert.swidtag", "", reindented},
		{"generated_user_cert.swidtag", "", reindented},
		{"generated_user_cert_embed.swidtag", "", reindented},
		{"generated_timestamp_rfc3339.swidtag", "2023-01-01T00:00:00Z", "the signer says that it was signed at 2023-01-01T00:00:00Z"},
		{"generated_timestamp_rfc3852.swidtag", "", "TimeStamp: a time stamp token, which is not verified"},
	} {
		t.Run(test.file, func(t *testing.T) {
			got, err := Import(specimen(t, test.file), log, hirs(t))
			if err != nil {
				t.Fatal(err)
			}
			if got.Format != "tcg-rim" || got.Signer == nil || got.Signer.Subject != "CN=example.RIM.signer,OU=PCClient,O=Example,ST=VA,C=US" ||
				got.Signer.KeySHA256 != "bfa6ef2796a51c2c04c14fff99557c9723db6f4a328d2e7a5f2f49e989f80a48" {
				t.Errorf("signer: %+v", got.Signer)
			}
			if notes := strings.Join(got.Notes, "\n"); !strings.Contains(notes, test.note) || got.Provenance["signed_at"] != test.signedAt {
				t.Errorf("notes: %s", notes)
			}
			checkValues(t, got.Values)
			checkProvenance(t, got.Provenance)
		})
	}
}

// checkValues compares with the PCR values that are known of the log.
func checkValues(t *testing.T, got verifier.ReferenceValues) {
	t.Helper()
	var known map[string]map[string]string
	if err := json.Unmarshal(importtest.Read(t, "../../verifier/eventlog/testdata/eventlogs/misc/hirs-TpmLog.bin.pcrs.json"), &known); err != nil {
		t.Fatal(err)
	}
	if len(got.PCRs) != 1 || len(got.PCRs["sha256"]) != 8 {
		t.Fatalf("PCRs: %v", got.PCRs)
	}
	for index, values := range got.PCRs["sha256"] {
		if len(values) != 1 || values[0] != known["sha256"][index] {
			t.Errorf("PCR %s is %v, want %s", index, values, known["sha256"][index])
		}
	}
	if len(got.Events) != 44 {
		t.Errorf("%d events, want 44", len(got.Events))
	}
	for _, e := range got.Events {
		if !e.Required || e.Component == "" || len(e.Digests["sha256"]) != 1 {
			t.Errorf("event %+v", e)
		}
	}
	if _, err := verifier.CompileReference(got); err != nil {
		t.Error(err)
	}
}

// checkProvenance compares with the file that the specimens were made of.
func checkProvenance(t *testing.T, got map[string]string) {
	t.Helper()
	var fields struct {
		SoftwareIdentity struct{ Name, Version, TagID, TagVersion string }
		Entity           struct{ Name, Regid string }
		Meta             map[string]string
	}
	if err := json.Unmarshal(specimen(t, "rim_fields.json"), &fields); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"name": fields.SoftwareIdentity.Name, "version": fields.SoftwareIdentity.Version, "tag_id": fields.SoftwareIdentity.TagID,
		"tag_version": fields.SoftwareIdentity.TagVersion, "vendor": fields.Entity.Name, "tag_creator": fields.Entity.Name, "tag_creator_regid": fields.Entity.Regid}
	for name, value := range fields.Meta {
		want[metaNames[name]] = value
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("provenance %s is %q, want %q", name, got[name], value)
		}
	}
}

// The signature of this one is good, and its support RIM is not there, or is another one: it must not become a baseline.
func TestBadSpecimen(t *testing.T) {
	bad := specimen(t, "laptop_badOemInstall_oem.1.swidtag")
	const place = "/SoftwareIdentity/Payload/Directory/File"
	_, err := Import(bad, nil, hirs(t))
	importtest.WantError(t, err, baseline.ImportMalformed, place+": the support RIM laptop_badOemInstall_oem.1.rimel is not given")
	_, err = Import(bad, map[string][]byte{"laptop_badOemInstall_oem.1.rimel": bootLog(t)}, hirs(t))
	importtest.WantError(t, err, baseline.ImportUntrusted, place+": the support RIM laptop_badOemInstall_oem.1.rimel is not the one that was signed")
	// The good one of the same profile is signed as well, without indentation.
	_, err = Import(specimen(t, "laptop.default.1.swidtag"), nil, hirs(t))
	importtest.WantError(t, err, baseline.ImportMalformed, "laptop.default.1.rimel is not given")
	root, err := parse(specimen(t, "laptop.default.1.swidtag"))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := verify(root, hirs(t)); err != nil || v.reindented {
		t.Fatalf("%+v, %v", v, err)
	}
}

func TestSpecimenTrust(t *testing.T) {
	log := map[string][]byte{"log": bootLog(t)} // found by its hash
	signer := certificates(t, "RimSignCert.pem")[0]
	chain := certificates(t, "RimCertChain.pem")
	bare := []baseline.ImportKey{{Name: "hirs", Key: signer.PublicKey}}
	stranger := theAuthority()
	for _, test := range []struct {
		name, file string
		trust      *baseline.ImportTrust
		kind, want string // no kind: accepted, and the signer's subject
	}{
		{"embedded certificate, its CA", "generated_user_cert_embed.swidtag", &baseline.ImportTrust{Roots: chain[:1], Now: now}, "", "CN=example.RIM.signer,OU=PCClient,O=Example,ST=VA,C=US"},
		{"embedded certificate, its key", "generated_user_cert_embed.swidtag", &baseline.ImportTrust{Keys: bare, Now: now}, "", "hirs"},
		{"key name, its key", "generated_user_cert.swidtag", &baseline.ImportTrust{Keys: bare, Now: now}, "", "hirs"},
		{"key name, only the CA", "generated_user_cert.swidtag", &baseline.ImportTrust{Roots: chain[:1], Now: now}, baseline.ImportUntrusted, "no trusted key verifies the signature; the document calls it 2fdeb8e7"},
		{"another CA", "generated_user_cert_embed.swidtag", stranger.trust(), baseline.ImportUntrusted, "/SoftwareIdentity/Signature/KeyInfo: CN=example.RIM.signer"},
		{"another key", "generated_user_cert.swidtag", &baseline.ImportTrust{Keys: []baseline.ImportKey{{Name: "x", Key: stranger.key.Public()}}, Now: now}, baseline.ImportUntrusted, "no trusted key verifies"},
		{"nobody", "generated_user_cert_embed.swidtag", &baseline.ImportTrust{Now: now}, baseline.ImportUntrusted, "chains to no trust anchor"},
		{"no trust at all", "generated_user_cert_embed.swidtag", nil, baseline.ImportUntrusted, "no trust anchors"},
		{"no trust at all, key name", "generated_user_cert.swidtag", nil, baseline.ImportUntrusted, "no trusted key verifies"},
		{"expired", "generated_user_cert_embed.swidtag", &baseline.ImportTrust{Roots: chain[:1], Now: now.AddDate(5, 0, 0)}, baseline.ImportUntrusted, "expired on 2030-05-30T21:45:00Z"},
		{"expired, key name", "generated_user_cert.swidtag", &baseline.ImportTrust{Roots: certificates(t, "RimSignCert.pem"), Now: now.AddDate(5, 0, 0)}, baseline.ImportUntrusted, "expired on 2030-05-30T21:45:00Z"},
		{"CA expired", "generated_user_cert_embed.swidtag", &baseline.ImportTrust{Roots: chain[:1], Now: now.AddDate(3, 2, 0)}, baseline.ImportUntrusted, "chains to no trust anchor"},
		{"not yet valid", "generated_user_cert.swidtag", &baseline.ImportTrust{Roots: certificates(t, "RimSignCert.pem"), Now: now.AddDate(-10, 0, 0)}, baseline.ImportUntrusted, "is not valid before 2020-07-21T21:45:00Z"},
		{"no time", "generated_user_cert_embed.swidtag", &baseline.ImportTrust{Roots: chain[:1]}, baseline.ImportUntrusted, "the time to judge certificates at is not given"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Import(specimen(t, test.file), log, test.trust)
			if test.kind != "" {
				importtest.WantError(t, err, test.kind, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Signer.Subject != test.want {
				t.Errorf("signer %+v", got.Signer)
			}
		})
	}
}

// Whichever byte of the document is changed (each third is tried), it is refused or says what it said before.
func TestEveryByteIsCovered(t *testing.T) {
	log := map[string][]byte{"Example.com.BIOS.01.rimel": bootLog(t)}
	trust := &baseline.ImportTrust{Roots: []*x509.Certificate{certificates(t, "RimCertChain.pem")[0]}, Now: now}
	for _, name := range []string{"generated_user_cert_embed.swidtag", "generated_timestamp_rfc3339.swidtag"} {
		if strings.Contains(name, "timestamp") {
			trust = hirs(t)
		}
		document := specimen(t, name)
		want, err := Import(document, log, trust)
		if err != nil {
			t.Fatal(err)
		}
		accepted, stride := 0, 3
		for i := 0; i < len(document); i += stride {
			changed := bytes.Clone(document)
			changed[i] ^= 1 << (i / stride % 7)
			got, err := Import(changed, log, trust)
			if err != nil {
				continue
			}
			accepted++
			if !reflect.DeepEqual(got.Values, want.Values) || !reflect.DeepEqual(got.Provenance, want.Provenance) || !reflect.DeepEqual(got.Signer, want.Signer) {
				t.Fatalf("%s: byte %d changed (%q) is accepted and says something else", name, i, document[max(0, i-20):i+20])
			}
		}
		// Names of keys, white space in base64 and in what is not covered may change.
		if accepted > len(document)/stride/4 {
			t.Errorf("%s: %d of %d changes were accepted", name, accepted, len(document)/stride)
		}
		t.Logf("%s: %d of %d changes made no difference", name, accepted, len(document)/stride)
	}
}
