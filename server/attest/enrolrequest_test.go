package attest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"github.com/assay-verifier/assay/verifier"
	"strings"
	"testing"
)

const goodEnrolment = `{"machine": {"name": "web-1", "external_id": "e-1", "os": "linux", "platform": "azure",
 "security_type": "confidential_snp", "scale_set": "web", "labels": {"env": "prod"}},
 "ek_certificate": "AAAA", "ek_certificate_chain": ["AAAA"], "ek_public": "AAAA", "ak_public": "AQID"}`

func TestParseEnrolRequest(t *testing.T) {
	r, err := ParseEnrolRequest([]byte(goodEnrolment))
	if err != nil {
		t.Fatal(err)
	}
	m := r.Machine
	if m.Name != "web-1" || m.ExternalID != "e-1" || m.OS != "linux" || m.Platform != "azure" || m.SecurityType != "confidential_snp" ||
		m.ScaleSet != "web" || m.Labels["env"] != "prod" || string(r.AKPublic) != "\x01\x02\x03" || len(r.EKCertificateChain) != 1 {
		t.Fatalf("%+v", r)
	}
	// What is not given stays unknown, so that it overwrites nothing.
	short, err := ParseEnrolRequest([]byte(`{"machine": {"name": "a"}, "ak_public": "AQID"}`))
	if err != nil || short.Machine.OS != "" || short.Machine.Platform != "" || short.Machine.SecurityType != "" {
		t.Fatalf("%+v, %v", short, err)
	}
}

// Each refusal names its code and its place.
func TestParseEnrolRequestRefusals(t *testing.T) {
	machine := func(fields string) string {
		return `{"machine": {"name": "a", "os": "linux"` + fields + `}, "ak_public": "AQID"}`
	}
	keys := func(fields string) string {
		return `{"machine": {"name": "a", "os": "linux"}, "ak_public": "AQID"` + fields + `}`
	}
	big := base64.StdEncoding.EncodeToString(make([]byte, maxCertificateSize+1))
	many := strings.Repeat(`"AAAA",`, maxChainCertificates) + `"AAAA"`
	labels := make([]string, maxLabels+1)
	for i := range labels {
		labels[i] = fmt.Sprintf(`"k%d": ""`, i)
	}
	for name, c := range map[string]struct {
		body    string
		code    Code
		pointer string
	}{
		"empty":                     {``, CodeMalformedJSON, ""},
		"no JSON":                   {`{"machine"`, CodeMalformedJSON, "/machine"},
		"not an object":             {`[]`, CodeInvalidField, ""},
		"something after it":        {goodEnrolment + `{}`, CodeMalformedJSON, ""},
		"deeply nested":             {strings.Repeat("[", 100_000), CodeInvalidField, ""},
		"no machine":                {`{"ak_public": "AQID"}`, CodeInvalidField, "/machine"},
		"no AK":                     {`{"machine": {"name": "a", "os": "linux"}}`, CodeInvalidField, "/ak_public"},
		"unknown field":             {keys(`, "assurance": "tee_bound"`), CodeUnknownField, "/assurance"},
		"unknown machine field":     {machine(`, "declared": {}`), CodeUnknownField, "/machine/declared"},
		"a field twice":             {keys(`, "ak_public": "AQID"`), CodeMalformedJSON, "/ak_public"},
		"base64 without padding":    {keys(`, "ek_public": "AQI"`), CodeInvalidField, "/ek_public"},
		"base64url":                 {keys(`, "ek_public": "-_-_"`), CodeInvalidField, "/ek_public"},
		"a number for bytes":        {keys(`, "ek_public": 1`), CodeInvalidField, "/ek_public"},
		"no name":                   {`{"machine": {"os": "linux"}, "ak_public": "AQID"}`, CodeInvalidField, "/machine/name"},
		"unknown platform":          {machine(`, "platform": "moon"`), CodeInvalidField, "/machine/platform"},
		"unknown security type":     {machine(`, "security_type": "x"`), CodeInvalidField, "/machine/security_type"},
		"NUL in a name":             {machine(`, "external_id": "a\u0000b"`), CodeInvalidField, "/machine/external_id"},
		"a line break in a name":    {machine(`, "scale_set": "a\nb"`), CodeInvalidField, "/machine/scale_set"},
		"a name too long":           {machine(`, "scale_set": "` + strings.Repeat("x", maxNameLength+1) + `"`), CodeInvalidField, "/machine/scale_set"},
		"a label without name":      {machine(`, "labels": {"": "x"}`), CodeInvalidField, "/machine/labels"},
		"a label with a line break": {machine(`, "labels": {"a/b": "x\ny"}`), CodeInvalidField, "/machine/labels/a~1b"},
		"a label name too long":     {machine(`, "labels": {"` + strings.Repeat("k", maxLabelKeyLength+1) + `": ""}`), CodeInvalidField, "/machine/labels/" + strings.Repeat("k", maxLabelKeyLength+1)},
		"too many labels":           {machine(`, "labels": {` + strings.Join(labels, ",") + `}`), CodeInvalidField, "/machine/labels"},
		"certificate too large":     {keys(`, "ek_certificate": "` + big + `"`), CodeInvalidField, "/ek_certificate"},
		"public too large":          {keys(`, "ek_public": "` + big + `"`), CodeInvalidField, "/ek_public"},
		"chain too long":            {keys(`, "ek_certificate_chain": [` + many + `]`), CodeInvalidField, "/ek_certificate_chain"},
		"empty certificate":         {keys(`, "ak_certificate_chain": ["AAAA", ""]`), CodeInvalidField, "/ak_certificate_chain/1"},
		"unknown platform evidence": {keys(`, "platform_evidence": {"type": "x"}`), CodeInvalidField, "/platform_evidence/type"},
	} {
		_, err := ParseEnrolRequest([]byte(c.body))
		e, ok := err.(*Error)
		if !ok || e.Code != c.code || e.Pointer != c.pointer {
			t.Errorf("%s: %v, want %s at %q", name, err, c.code, c.pointer)
		}
	}
}

// What is accepted says the same when it is written out and read again.
func FuzzParseEnrolRequest(f *testing.F) {
	f.Add([]byte(goodEnrolment))
	f.Add([]byte(`{"machine": {"name": "a", "os": "windows"}, "ak_public": "AQID", "platform_evidence": {"type": "tdx", "quote": "AAAA"}}`))
	f.Add([]byte(`{"machine": {"name": "\u0000"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := ParseEnrolRequest(body)
		if err != nil {
			if _, ok := err.(*Error); !ok {
				t.Fatalf("error %T: %v", err, err)
			}
			return
		}
		m := r.Machine
		w := wireEnrolment{Machine: &wireMachine{Name: m.Name, ExternalID: m.ExternalID, OS: m.OS, Platform: m.Platform,
			SecurityType: m.SecurityType, ScaleSet: m.ScaleSet, Labels: m.Labels},
			EKCertificate: r.EKCertificate, EKCertificateChain: r.EKCertificateChain, EKPublic: r.EKPublic,
			AKPublic: r.AKPublic, AKCertificate: r.AKCertificate, AKCertificateChain: r.AKCertificateChain}
		if p := r.Platform; p != nil {
			w.PlatformEvidence = &verifier.WirePlatform{Type: p.Type, HCLReport: p.HCLReport, Report: p.Report, Quote: p.Quote,
				Certificates: p.Certificates, EventLog: p.EventLog}
		}
		written, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseEnrolRequest(written)
		if err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		if (again.Platform == nil) != (r.Platform == nil) || again.Platform != nil && again.Platform.Digest() != r.Platform.Digest() {
			t.Fatalf("%+v\nthen\n%+v", r.Platform, again.Platform)
		}
		r.Platform, again.Platform = nil, nil
		if fmt.Sprint(again) != fmt.Sprint(r) {
			t.Fatalf("%+v\nthen\n%+v", r, again)
		}
	})
}
