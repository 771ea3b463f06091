package verifier_test

import (
	"bytes"
	"compress/gzip"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sevabi "github.com/google/go-sev-guest/abi"
	sevpb "github.com/google/go-sev-guest/proto/sevsnp"
	tdxabi "github.com/google/go-tdx-guest/abi"
	tdxpb "github.com/google/go-tdx-guest/proto/tdx"
	"github.com/google/go-tpm-tools/proto/attest"
	"google.golang.org/protobuf/proto"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/anchors"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

func slurp(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func inflate(t testing.TB, path string) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(slurp(t, path)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// azureBody is the evidence POST of a real Azure set: the quote of one directory of tpm/testdata, the report of one of
// tee/testdata, which are the same machine's or not.
func azureBody(t testing.TB, quote, report string) []byte {
	t.Helper()
	b64 := base64.StdEncoding.EncodeToString
	signature := slurp(t, "tpm/testdata", quote, "quote.rsassa-sig.bin")
	tpmt := append(binary.BigEndian.AppendUint16([]byte{0x00, 0x14, 0x00, 0x0b}, uint16(len(signature))), signature...)
	var pcrs map[string]map[string]string
	if err := json.Unmarshal(slurp(t, "tpm/testdata", quote, "pcrs.json"), &pcrs); err != nil {
		t.Fatal(err)
	}
	platform := map[string]any{"type": "azure_hcl", "hcl_report": b64(slurp(t, "tee/testdata/azure", report, "hcl-report.bin"))}
	for _, name := range []string{"vcek.pem", "vcek.der", "certs.pem"} {
		b, err := os.ReadFile(filepath.Join("tee/testdata/azure", report, name))
		if err != nil {
			continue
		}
		if block, _ := pem.Decode(b); block != nil {
			b = block.Bytes
		}
		platform["certificates"] = []string{b64(b)}
	}
	if b, err := os.ReadFile(filepath.Join("tee/testdata/azure", report, "td-quote.bin")); err == nil {
		platform["quote"] = b64(b)
	}
	body, err := json.Marshal(map[string]any{
		"quotes": []any{map[string]string{"message": b64(slurp(t, "tpm/testdata", quote, "quote.attest.bin")), "signature": b64(tpmt)}},
		"pcrs":   pcrs, "platform_evidence": platform})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

var platformTime = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// judgePlatform judges evidence whose key its own report names.
func judgePlatform(t testing.TB, body []byte, nonce []byte, change func(*verifier.Inputs)) *verifier.Appraisal {
	t.Helper()
	ev, err := verifier.DecodeOffline(body)
	if err != nil {
		t.Fatal(err)
	}
	return appraisePlatform(ev, nonce, change)
}

func appraisePlatform(ev *verifier.Evidence, nonce []byte, change func(*verifier.Inputs)) *verifier.Appraisal {
	result := tee.Verify(ev.Platform, &tee.Trust{SNP: anchors.Purpose("snp"), TDX: anchors.Purpose("tdx")}, platformTime)
	in := verifier.Inputs{Now: platformTime, Policy: verifier.DefaultPolicy(), Platform: result,
		Freshness: tpm.Freshness{Nonce: nonce, Unchecked: nonce == nil},
		AK:        verifier.AttestationKey{Public: result.AK(), Assurance: verifier.TEEBound, NoTPM: ev.NoTPM}}
	if change != nil {
		change(&in)
	}
	return verifier.Appraise(ev, in)
}

func checkOf(a *verifier.Appraisal, code verifier.CheckCode) verifier.Check {
	for _, c := range a.Checks {
		if c.Code == code {
			return c
		}
	}
	return verifier.Check{Status: "absent"}
}

// The real sets whose chain holds are affirmed, bound to the silicon; the mixed one is not.
func TestRealAzureSets(t *testing.T) {
	long := slurp(t, "tpm/testdata/azure-hcl/trustee-snp-v2/quote.attest.bin")
	nonce2, err := tpm.PeekExtraData(long)
	if err != nil {
		t.Fatal(err)
	}
	for set, nonce := range map[string][]byte{"trustee-snp-v0": []byte("challenge"), "trustee-snp-v2": nonce2, "trustee-tdx-v0": []byte("challenge")} {
		a := judgePlatform(t, azureBody(t, "azure-hcl/"+set, set), nonce, nil)
		if a.Status != verifier.Affirming || a.Assurance != verifier.TEEBound || !a.Genuine {
			t.Errorf("%s: %s %s %s: %+v", set, a.Status, a.Reason, a.Assurance, a.Checks)
		}
		if c := checkOf(a, verifier.CheckPlatformBinding); c.Status != verifier.Pass || c.Citation == "" {
			t.Errorf("%s: %+v", set, c)
		}
		if r := a.Claims.Relying; r == nil || r.Compliance != "compliant" || r.SecureBoot == nil || !*r.SecureBoot || r.Debug == nil || *r.Debug || r.VMID == "" || r.TCB == "" {
			t.Errorf("%s: %+v", set, r)
		}
		// Another nonce, and none.
		if a := judgePlatform(t, azureBody(t, "azure-hcl/"+set, set), []byte("another"), nil); a.Reason != verifier.OriginUnverified || a.Assurance == verifier.TEEBound {
			t.Errorf("%s: %s", set, a.Status)
		}
		if a := judgePlatform(t, azureBody(t, "azure-hcl/"+set, set), nil, nil); a.Status != verifier.Warning || a.Assurance != verifier.TEEBound {
			t.Errorf("%s without a nonce: %s %s", set, a.Status, a.Assurance)
		}
	}
	a := judgePlatform(t, azureBody(t, "quotes/kinvolk-azure-snp-vtpm", "kinvolk-snp"), nil, nil)
	for _, code := range []verifier.CheckCode{verifier.CheckPlatformReport, verifier.CheckPlatformBinding} {
		if c := checkOf(a, code); c.Status != verifier.Fail {
			t.Errorf("%+v", c)
		}
	}
	if a.Reason != verifier.OriginUnverified || a.Assurance == verifier.TEEBound || a.Claims.Platform != nil {
		t.Errorf("%+v", a)
	}
}

// A genuine report of one real VM with a genuine quote of another, whether the key is that of the report or of the quote.
func TestReportAndQuoteOfTwoMachines(t *testing.T) {
	sets := []string{"trustee-snp-v0", "trustee-snp-v2", "trustee-tdx-v0"}
	for _, quote := range sets {
		for _, report := range sets {
			if quote == report {
				continue
			}
			body := azureBody(t, "azure-hcl/"+quote, report)
			for _, whose := range []string{quote, report} {
				a := judgePlatform(t, body, nil, func(in *verifier.Inputs) {
					own := tee.Verify(mustPlatform(t, azureBody(t, "azure-hcl/"+whose, whose)), &tee.Trust{}, platformTime)
					in.AK = verifier.AttestationKey{Public: own.AK(), Assurance: verifier.EKActivated}
				})
				if c := checkOf(a, verifier.CheckPlatformReport); c.Status != verifier.Pass {
					t.Errorf("%+v", c)
				}
				if c := checkOf(a, verifier.CheckPlatformBinding); c.Status != verifier.Fail || a.Reason != verifier.OriginUnverified || a.Claims.Platform != nil || a.Assurance == verifier.TEEBound {
					t.Errorf("quote of %s, report of %s, key of %s: %+v", quote, report, whose, c)
				}
			}
		}
	}
}

func mustPlatform(t testing.TB, body []byte) *tee.Evidence {
	t.Helper()
	ev, err := verifier.DecodeOffline(body)
	if err != nil {
		t.Fatal(err)
	}
	return ev.Platform
}

// The verdict fails closed: a report that nobody verified, one that is withheld, one that the policy asks for.
func TestReportThatIsNotThere(t *testing.T) {
	body := azureBody(t, "azure-hcl/trustee-snp-v0", "trustee-snp-v0")
	nonce := []byte("challenge")
	a := judgePlatform(t, body, nonce, func(in *verifier.Inputs) {
		key := in.AK.Public
		in.Platform, in.AK = nil, verifier.AttestationKey{Public: key, Assurance: verifier.EKActivated}
	})
	if c := checkOf(a, verifier.CheckPlatformReport); c.Status != verifier.Fail || a.Reason != verifier.OriginUnverified {
		t.Errorf("not verified: %+v", c)
	}
	ev, err := verifier.DecodeOffline(body)
	if err != nil {
		t.Fatal(err)
	}
	key := tee.Verify(ev.Platform, &tee.Trust{}, platformTime).AK()
	ev.Platform = nil
	for assurance, policy := range map[verifier.Assurance]tee.Policy{verifier.TEEBound: {}, verifier.EKActivated: {Require: true}} {
		in := verifier.Inputs{Now: platformTime, Policy: verifier.DefaultPolicy(), Freshness: tpm.Freshness{Nonce: nonce},
			AK: verifier.AttestationKey{Public: key, Assurance: assurance}}
		in.Policy.PlatformEvidence = policy
		a := verifier.Appraise(ev, in)
		if c := checkOf(a, verifier.CheckPlatformReport); c.Status != verifier.Fail || a.Reason != verifier.OriginUnverified || a.Assurance == verifier.TEEBound {
			t.Errorf("%s: %+v", assurance, c)
		}
		in.Policy.PlatformEvidence, in.AK.Assurance = tee.Policy{}, verifier.EKActivated
		if a := verifier.Appraise(ev, in); checkOf(a, verifier.CheckPlatformReport).Status != verifier.Skipped {
			t.Error("asked for though nobody asks")
		}
	}
}

// What the paravisor says of Secure Boot counts only where no log tells it, and only if the report is bound; what it
// contradicts is told.
func TestParavisorsWord(t *testing.T) {
	body := azureBody(t, "azure-hcl/trustee-snp-v0", "trustee-snp-v0")
	nonce := []byte("challenge")
	a := judgePlatform(t, body, nonce, func(in *verifier.Inputs) { in.Log, _ = eventlog.Parse(nil) })
	if c := checkOf(a, verifier.CheckSecureBoot); c.Status == verifier.Pass {
		t.Errorf("with a log that is empty: %+v", c)
	}
	a = judgePlatform(t, body, nonce, func(in *verifier.Inputs) { in.LogFault = "broken" })
	if a.Status == verifier.Affirming {
		t.Error("a log that cannot be read is no reason to believe the paravisor instead")
	}
	a = judgePlatform(t, body, nonce, func(in *verifier.Inputs) {
		in.Policy.PlatformEvidence.LaunchMeasurements = []string{strings.Repeat("00", 48)}
	})
	if c := checkOf(a, verifier.CheckSecureBoot); c.Status == verifier.Pass || a.Reason != verifier.BaselineDeviation {
		t.Errorf("of a paravisor that is not allowed: %+v", c)
	}
	if c := checkOf(a, verifier.CheckCode(tee.StepMeasurement)); c.Status != verifier.Fail || a.Claims.Relying.Compliance != "noncompliant" {
		t.Errorf("%+v %+v", c, a.Claims.Relying)
	}
}

// Reference values judge the launch measurement of a report that is bound, and of no other.
func TestLaunchMeasurementInReferenceValues(t *testing.T) {
	body := azureBody(t, "azure-hcl/trustee-snp-v0", "trustee-snp-v0")
	measurement := judgePlatform(t, body, []byte("challenge"), nil).Claims.Platform.LaunchMeasurement
	judge := func(value string, change func(*verifier.Inputs)) *verifier.Appraisal {
		reference, err := verifier.CompileReference(verifier.ReferenceValues{LaunchMeasurements: []string{value}})
		if err != nil {
			t.Fatal(err)
		}
		return judgePlatform(t, body, []byte("challenge"), func(in *verifier.Inputs) {
			in.Candidates = []verifier.Candidate{{Reference: reference}}
			if change != nil {
				change(in)
			}
		})
	}
	for _, value := range []string{measurement, strings.ToUpper(measurement)} {
		if a := judge(value, nil); checkOf(a, verifier.CheckBaselineMatch).Status != verifier.Pass {
			t.Errorf("%+v", a.Deviations)
		}
	}
	a := judge(strings.Repeat("ab", 48), nil)
	if a.Reason != verifier.BaselineDeviation || len(a.Deviations) != 1 || a.Deviations[0].Component != verifier.ComponentLaunch ||
		a.Deviations[0].Kind != verifier.Changed || a.Deviations[0].Actual != measurement {
		t.Errorf("%+v", a.Deviations)
	}
	a = judge(measurement, func(in *verifier.Inputs) {
		in.AK.Assurance = verifier.EKActivated
		in.Platform = tee.Verify(&tee.Evidence{Type: tee.TypeSEVSNP, Report: make([]byte, 1184)}, &tee.Trust{}, platformTime)
	})
	if c := checkOf(a, verifier.CheckBaselineMatch); c.Status != verifier.Fail || a.Deviations[0].Kind != verifier.Removed {
		t.Errorf("%+v", c)
	}
}

// A real GCE TDX machine: the quote of its report and its CC event log, judged without a TPM. The log's events are those
// of a boot log, and its values become a baseline that holds for it and for no other.
func TestRealTDXMachineWithoutTPM(t *testing.T) {
	quote := slurp(t, "tee/testdata/tdx/cos-113-tdx-quote.dat")
	nonce := slurp(t, "tee/testdata/tdx/nonce.dat")
	log, err := eventlog.Parse(inflate(t, "eventlog/testdata/tdx/ccel/cos-113-intel-tdx.bin.gz"))
	if err != nil {
		t.Fatal(err)
	}
	ev := &verifier.Evidence{NoTPM: true, Platform: &tee.Evidence{Type: tee.TypeTDX, Quote: quote}}
	judge := func(change func(*verifier.Inputs)) *verifier.Appraisal {
		return appraisePlatform(ev, nonce, func(in *verifier.Inputs) {
			in.Log = log
			in.Policy.RequireSecureBoot = false
			if change != nil {
				change(in)
			}
		})
	}
	a := judge(nil)
	if a.Status != verifier.Affirming || a.Assurance != verifier.TEEBound || checkOf(a, verifier.CheckEventLogReplay).Status != verifier.Pass ||
		checkOf(a, verifier.CheckQuoteNonce).Status != verifier.Pass || a.RTMRMeasurements == nil || len(a.RTMRMeasurements.Events()) == 0 {
		t.Fatalf("%s %s: %+v", a.Status, a.Assurance, a.Checks)
	}
	// Secure Boot: the log tells the firmware's part, a baseline of the registers the rest.
	rtmr := func(i int) []string {
		value, _ := a.RTMRs.RTMR(i)
		return []string{hex.EncodeToString(value)}
	}
	secured := func(zero, one []string) verifier.Check {
		reference, err := verifier.CompileReference(verifier.ReferenceValues{PCRs: map[string]map[string][]string{"rtmr": {"0": zero, "1": one}}})
		if err != nil {
			t.Fatal(err)
		}
		return checkOf(judge(func(in *verifier.Inputs) {
			in.Policy.RequireSecureBoot, in.Candidates = true, []verifier.Candidate{{Reference: reference}}
		}), verifier.CheckSecureBoot)
	}
	other384 := []string{strings.Repeat("ab", 48)}
	if c := secured(rtmr(0), rtmr(1)); a.Claims.SecureBoot == nil || (c.Status == verifier.Pass) != *a.Claims.SecureBoot {
		t.Errorf("%+v", c)
	}
	for _, c := range []verifier.Check{secured(other384, rtmr(1)), secured(rtmr(0), other384),
		checkOf(judge(func(in *verifier.Inputs) { in.Policy.RequireSecureBoot = true }), verifier.CheckSecureBoot)} {
		if c.Status != verifier.Fail {
			t.Errorf("%+v", c)
		}
	}
	if a := judge(func(in *verifier.Inputs) { in.Freshness.Nonce = bytes.Repeat([]byte{1}, 64) }); a.Reason != verifier.OriginUnverified || a.Assurance == verifier.TEEBound {
		t.Errorf("another nonce: %s", a.Status)
	}
	if a := judge(func(in *verifier.Inputs) { in.Freshness = tpm.Freshness{Fault: "used"} }); a.Reason != verifier.OriginUnverified {
		t.Errorf("a used nonce: %s", a.Status)
	}
	if a := judge(func(in *verifier.Inputs) { in.Freshness = tpm.Freshness{} }); a.Reason != verifier.OriginUnverified {
		t.Errorf("no nonce: %s", a.Status)
	}
	other, err := eventlog.Parse(inflate(t, "eventlog/testdata/tdx/ccel/gdc-tdx.bin.gz"))
	if err != nil {
		t.Fatal(err)
	}
	if a := judge(func(in *verifier.Inputs) { in.Log = other }); checkOf(a, verifier.CheckEventLogReplay).Status != verifier.Fail || a.Reason != verifier.OriginUnverified {
		t.Errorf("the log of another machine: %s", a.Status)
	}
	enrolled := func(launched string, change func(*verifier.Inputs)) verifier.Check {
		return checkOf(judge(func(in *verifier.Inputs) {
			in.AK.Launched = launched
			change(in)
		}), "platform.measurement")
	}
	nothing := func(*verifier.Inputs) {}
	if c := enrolled(hex.EncodeToString(a.Platform.Measurement()), nothing); c.Status != "absent" {
		t.Errorf("%+v", c)
	}
	if c := enrolled(other384[0], nothing); c.Status != verifier.Warn || !strings.Contains(c.Detail, other384[0]) {
		t.Errorf("%+v", c)
	}
	if a := judge(func(in *verifier.Inputs) { in.AK.Launched = other384[0] }); a.Status != verifier.Warning {
		t.Errorf("launched with other firmware: %s", a.Status)
	}
	if c := enrolled(other384[0], func(in *verifier.Inputs) {
		reference, err := verifier.CompileReference(verifier.ReferenceValues{LaunchMeasurements: []string{hex.EncodeToString(a.Platform.Measurement())}})
		if err != nil {
			t.Fatal(err)
		}
		in.Candidates = []verifier.Candidate{{Reference: reference}}
	}); c.Status != "absent" {
		t.Errorf("a baseline tells, and yet: %+v", c)
	}
	if a := judge(func(in *verifier.Inputs) { in.AK.NoTPM = false }); checkOf(a, verifier.CheckAKTrusted).Status != verifier.Fail {
		t.Error("a machine with an attestation key that sends no quote")
	}
	if a := judge(func(in *verifier.Inputs) { in.Policy.RequireIMA = true }); checkOf(a, verifier.CheckIMAPolicy).Status != verifier.Fail {
		t.Error("an IMA list is required, and nothing could prove it")
	}
}

// gotpm's protobuf carries reports and quotes taken apart; put together again they are what was signed.
func TestGotpmPlatformEvidence(t *testing.T) {
	attestation := func(change func(*attest.Attestation)) []byte {
		var a attest.Attestation
		if err := proto.Unmarshal(slurp(t, "tpm/testdata/gotpm/gce-cos-85-nonce9009.pb"), &a); err != nil {
			t.Fatal(err)
		}
		change(&a)
		b, err := proto.Marshal(&a)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, name := range []string{"attestation.bin", "test-report.bin", "test-vlek-report.bin"} {
		raw := slurp(t, "tee/testdata/snp", name)
		report, err := sevabi.ReportToProto(raw)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := verifier.Decode(verifier.MediaTypeProtobuf, attestation(func(a *attest.Attestation) {
			a.TeeAttestation = &attest.Attestation_SevSnpAttestation{SevSnpAttestation: &sevpb.Attestation{Report: report,
				CertificateChain: &sevpb.CertificateChain{VcekCert: []byte("vcek"), AskCert: []byte("ask"), ArkCert: []byte("ark"), Extras: map[string][]byte{"x": {1}}}}}
		}))
		if err != nil || !bytes.Equal(ev.Platform.Report, raw) || len(ev.Platform.Certificates) != 3 {
			t.Errorf("%s: %v", name, err)
		}
	}
	raw := slurp(t, "tee/testdata/tdx/cos-113-tdx-quote.dat")
	decoded, err := tdxabi.QuoteToProto(raw)
	if err != nil {
		t.Fatal(err)
	}
	quote := decoded.(*tdxpb.QuoteV4)
	ev, err := verifier.Decode(verifier.MediaTypeProtobuf, attestation(func(a *attest.Attestation) {
		a.TeeAttestation = &attest.Attestation_TdxAttestation{TdxAttestation: quote}
	}))
	if err != nil || !bytes.Equal(ev.Platform.Quote, raw[:len(ev.Platform.Quote)]) {
		t.Fatalf("%v", err)
	}
	if r := tee.Verify(ev.Platform, &tee.Trust{TDX: anchors.Purpose("tdx")}, platformTime); r.Report == nil {
		t.Errorf("%+v", r.Steps)
	}
	for name, change := range map[string]func(*attest.Attestation){
		"a short field": func(a *attest.Attestation) {
			a.TeeAttestation = &attest.Attestation_SevSnpAttestation{SevSnpAttestation: &sevpb.Attestation{Report: &sevpb.Report{ChipId: []byte{1}}}}
		},
		"a number that is too large": func(a *attest.Attestation) {
			q := proto.Clone(quote).(*tdxpb.QuoteV4)
			q.Header.Version = 1 << 20
			a.TeeAttestation = &attest.Attestation_TdxAttestation{TdxAttestation: q}
		},
		"three RTMRs": func(a *attest.Attestation) {
			q := proto.Clone(quote).(*tdxpb.QuoteV4)
			q.TdQuoteBody.Rtmrs = q.TdQuoteBody.Rtmrs[:3]
			a.TeeAttestation = &attest.Attestation_TdxAttestation{TdxAttestation: q}
		},
	} {
		_, err := verifier.Decode(verifier.MediaTypeProtobuf, attestation(change))
		if d, ok := err.(*verifier.DecodeError); !ok || d.Code != verifier.CodeMalformedProtobuf {
			t.Errorf("%s: %v", name, err)
		}
	}
	twice := attestation(func(a *attest.Attestation) {
		a.TeeAttestation = &attest.Attestation_TdxAttestation{TdxAttestation: quote}
	})
	if _, err := verifier.Decode(verifier.MediaTypeProtobuf, append(twice, twice[len(twice)-6000:]...)); err == nil {
		t.Error("two attestations of a TEE")
	}
}

// The shape of platform evidence, each error with its place.
func TestDecodePlatformEvidence(t *testing.T) {
	body := func(platform string) []byte { return []byte(`{"platform_evidence": ` + platform + `}`) }
	for _, c := range []struct{ body, pointer, detail string }{
		{`{"type": "sgx"}`, "/platform_evidence/type", "none of"},
		{`{"type": "azure_hcl"}`, "/platform_evidence/hcl_report", "needs it"},
		{`{"type": "sev_snp", "quote": "AAAA"}`, "/platform_evidence/report", "needs it"},
		{`{"type": "tdx", "report": "AAAA"}`, "/platform_evidence/quote", "needs it"},
		{`{"type": "tdx", "quote": "AAAA", "report": "AAAA"}`, "/platform_evidence/report", "no such part"},
		{`{"type": "sev_snp", "report": "AAAA", "hcl_report": "AAAA"}`, "/platform_evidence/hcl_report", "no such part"},
		{`{"type": "sev_snp", "report": "AAAA", "quote": "AAAA"}`, "/platform_evidence/quote", "no such part"},
		{`{"type": "tdx", "quote": "AAAA", "hcl_report": "AAAA"}`, "/platform_evidence/hcl_report", "no such part"},
		{`{"type": "azure_hcl", "hcl_report": "AAAA", "report": "AAAA"}`, "/platform_evidence/report", "no such part"},
		{`{"type": "azure_hcl", "hcl_report": "AAAA"}`, "/quotes", "at least one quote"},
		{`{"type": "sev_snp", "report": "AAAA", "collateral": [{"kind": "x", "body": "AAAA"}]}`, "/platform_evidence/collateral/0", "no kind"},
		{`{"type": "sev_snp", "report": "AAAA", "collateral": [{"kind": "vcek", "body": "AAAA"}]}`, "/platform_evidence/collateral/0", "vcek"},
		{`{"type": "sev_snp", "report": "AAAA", "extra": 1}`, "/platform_evidence/extra", "no such field"},
		{`{"type": "sev_snp", "report": "AAAA"}, "pcrs": {"sha256": {"0": "` + strings.Repeat("00", 32) + `"}}`, "/quotes", "at least one quote"},
		{`{"type": "sev_snp", "report": "AAAA"}, "platform_evidence_digest": "sha256:` + strings.Repeat("00", 32) + `"`, "/platform_evidence_digest", "not both"},
		{`null, "platform_evidence_digest": "sha256:00"`, "/platform_evidence_digest", "64 hex"},
		{`null, "platform_evidence_digest": "sha256:` + strings.Repeat("00", 32) + `"`, "/quotes", "at least one quote"},
	} {
		_, err := verifier.Decode("application/json", body(c.body))
		if d, ok := err.(*verifier.DecodeError); !ok || d.Pointer != c.pointer || !strings.Contains(d.Detail, c.detail) {
			t.Errorf("%s: %v", c.body, err)
		}
	}
	ev, err := verifier.Decode("application/json", body(`{"type": "sev_snp", "report": "AAAA"}`))
	if err != nil || !ev.NoTPM {
		t.Errorf("%+v, %v", ev, err)
	}
	many := `{"type": "sev_snp", "report": "AAAA", "collateral": [` + strings.Repeat(`{"kind":"x"},`, 20) + `{}]}`
	if _, err := verifier.Decode("application/json", body(many)); err == nil || !strings.Contains(err.Error(), "more than 16") {
		t.Errorf("%v", err)
	}
}

// No certificate that the evidence brings becomes a root.
func TestEvidenceIsNoAnchor(t *testing.T) {
	ev := mustPlatform(t, azureBody(t, "azure-hcl/trustee-snp-v0", "trustee-snp-v0"))
	for _, c := range anchors.Purpose("snp") {
		ev.Certificates = append(ev.Certificates, c.Raw)
	}
	if r := tee.Verify(ev, &tee.Trust{TDX: anchors.Purpose("tdx")}, platformTime); r.Report != nil {
		t.Error("the evidence's own root was believed")
	}
	var roots []*x509.Certificate
	for _, c := range anchors.Purpose("snp") {
		if bytes.Equal(c.RawSubject, c.RawIssuer) {
			roots = append(roots, c)
		}
	}
	if r := tee.Verify(ev, &tee.Trust{SNP: roots}, platformTime); r.Report == nil {
		t.Errorf("with AMD's roots alone, and the rest from the evidence: %+v", r.Steps)
	}
}
