package attest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/uuid"
	"github.com/klauspost/compress/gzip"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tee/teetest"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// confidential is a machine with a software TPM on a chip of an AMD of the tests' own.
type confidential struct {
	*machine
	amd      *teetest.AMD
	rsa      *rsa.PublicKey // of the AK
	evidence map[string]any
}

// newRSAAK makes an AK as Azure's paravisor does: RSA, RSASSA with SHA-256.
func (m *machine) newRSAAK() (key, *rsa.PublicKey) {
	m.t.Helper()
	template := tpm2.TPMTPublic{Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true,
			NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048,
			Scheme: tpm2.TPMTRSAScheme{Scheme: tpm2.TPMAlgRSASSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})}})}
	r := execute[tpm2.CreatePrimaryResponse](m.t, m.device, tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(template)})
	k := key{r.ObjectHandle, r.Name, r.OutPublic.Bytes()}
	public, err := tpm.ParsePublic(k.public)
	if err != nil {
		m.t.Fatal(err)
	}
	return k, public.Key().(*rsa.PublicKey)
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// azure boots a machine whose paravisor's report names its AK.
func (b *bench) azure(amd *teetest.AMD, o teetest.HCL) *confidential {
	b.t.Helper()
	c := &confidential{machine: newMachine(b.t, "sb-on-1"), amd: amd}
	c.ak, c.rsa = c.newRSAAK()
	c.evidence = map[string]any{"type": "azure_hcl", "hcl_report": b64(amd.HCL(c.rsa, nil, o)), "certificates": []string{b64(amd.VCEK(amd.ChipID, amd.TCB))}}
	return c
}

// trustRoots makes roots an anchor.
func (b *bench) trustRoots(purpose string, roots []*x509.Certificate) store.TrustAnchor {
	b.t.Helper()
	a := store.TrustAnchor{Name: purpose + " " + uuid.NewString(), Purpose: purpose, Enabled: true}
	for _, c := range roots {
		a.Certificates = append(a.Certificates, store.TrustCertificate{DER: c.Raw, Subject: c.Subject.String(), Fingerprint: fingerprintOf(c.Raw), NotAfter: c.NotAfter})
	}
	a, err := b.store.CreateTrustAnchor(b.ctx, b.tenant, a, b.now(), admin)
	if err != nil {
		b.t.Fatal(err)
	}
	return a
}

// trustAMD makes the roots of an AMD anchors of purpose snp.
func (b *bench) trustAMD(amd *teetest.AMD) store.TrustAnchor {
	b.t.Helper()
	return b.trustRoots("snp", amd.Anchors())
}

func (c *confidential) enrolment(t testing.TB, with func(map[string]any)) EnrolRequest {
	t.Helper()
	body := map[string]any{"machine": map[string]any{"name": "cvm-" + uuid.NewString()[:8], "os": "linux", "platform": "azure", "security_type": "confidential_snp"},
		"platform_evidence": c.evidence}
	if with != nil {
		with(body)
	}
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	req, err := ParseEnrolRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func (b *bench) admit(m *machine, req EnrolRequest) *EnrolResult {
	b.t.Helper()
	e, err := b.Enrol(b.ctx, b.tenant, req, b.join, admin)
	if err != nil {
		b.t.Fatal(err)
	}
	if e.Status != StatusActive || e.MachineToken == "" || e.Challenge == nil {
		b.t.Fatalf("%+v", e)
	}
	m.id = e.MachineID
	if m.keyID, err = b.keyOf(e.MachineToken); err != nil {
		b.t.Fatal(err)
	}
	return e
}

// prove quotes and adds hardware evidence.
func (b *bench) prove(c *confidential, with func(*evidence)) *Result {
	b.t.Helper()
	e := c.quote(b.nonce(c.machine))
	e.Platform = c.evidence
	if with != nil {
		with(e)
	}
	r, err := b.post(c.machine, e)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func failsAt(t testing.TB, r *Result, code verifier.CheckCode, reason verifier.Reason, detail string) {
	t.Helper()
	expect(t, r, verifier.Contraindicated, reason)
	if c := checkOf(r.Appraisal, code); c.Status != verifier.Fail || !strings.Contains(c.Detail, detail) {
		t.Errorf("%+v", c)
	}
	if r.Appraisal.Assurance == verifier.TEEBound && reason == verifier.OriginUnverified {
		t.Error("still bound")
	}
}

// An Azure confidential VM enrols by its HCL report alone, and each verdict begins at AMD's key.
func TestAzureConfidentialVM(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	b.trustAMD(amd)
	c := b.azure(amd, teetest.HCL{})
	e := b.admit(c.machine, c.enrolment(t, nil))
	if e.Assurance != verifier.TEEBound {
		t.Fatalf("%+v", e)
	}
	r := b.prove(c, nil)
	expect(t, r, verifier.Affirming, verifier.NoReason)
	if r.Appraisal.Assurance != verifier.TEEBound || r.Appraisal.Claims.Platform.Product != tee.Milan ||
		r.Appraisal.Claims.Relying.Compliance != "compliant" || r.Appraisal.Claims.Relying.VMID == "" {
		t.Errorf("%+v %+v", r.Appraisal.Claims.Platform, r.Appraisal.Claims.Relying)
	}
	for _, code := range []verifier.CheckCode{verifier.CheckPlatformReport, verifier.CheckPlatformConfig, verifier.CheckPlatformBinding, verifier.CheckEventLogReplay} {
		if check := checkOf(r.Appraisal, code); check.Status != verifier.Pass {
			t.Errorf("%+v", check)
		}
	}
	known := r.NextChallenge.KnownPlatformEvidence
	if known == nil || !strings.HasPrefix(*known, "sha256:") {
		t.Fatalf("%v", known)
	}
	machines, err := b.store.GetMachine(b.ctx, b.tenant, c.id)
	if err != nil || machines.PlatformEvidenceType != "azure_hcl" || machines.VMID != r.Appraisal.Claims.Relying.VMID {
		t.Errorf("%+v, %v", machines, err)
	}

	// From now on the evidence is named, and the verdict is the same run; on a replica that has nothing in memory, too.
	named := func(e *evidence) { e.Platform, e.PlatformDigest = nil, *known }
	for _, s := range []*Service{b.Service, b.service()} {
		b.Service = s
		again := b.prove(c, named)
		expect(t, again, verifier.Affirming, verifier.NoReason)
		if again.New || again.ID != r.ID || again.Appraisal.Assurance != verifier.TEEBound {
			t.Errorf("%+v", again)
		}
	}
	ev := c.quote(b.nonce(c.machine))
	ev.PlatformDigest = "sha256:" + strings.Repeat("00", 32)
	if _, err := b.post(c.machine, ev); code(err) != CodePlatformRequired {
		t.Errorf("%v", err)
	}
	// What was decoded for people is proven by the same evidence.
	if _, err := b.DecodedLog(b.ctx, b.tenant, r.ID); err != nil {
		t.Error(err)
	}
}

// A machine that was bound by its report and stops sending it is not healthy.
func TestReportIsWithheld(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	b.trustAMD(amd)
	c := b.azure(amd, teetest.HCL{})
	b.admit(c.machine, c.enrolment(t, nil))
	expect(t, b.prove(c, nil), verifier.Affirming, verifier.NoReason)
	r := b.prove(c, func(e *evidence) { e.Platform = nil })
	failsAt(t, r, verifier.CheckPlatformReport, verifier.OriginUnverified, "this evidence brings none")
	// The genuine evidence that is remembered stays that of the last genuine verdict.
	if r.NextChallenge.KnownPlatformEvidence == nil {
		t.Error("forgotten")
	}
	expect(t, b.prove(c, nil), verifier.Affirming, verifier.NoReason)
}

// A genuine report that names nothing of the machine does not stand in for the one that is withheld, nor for the one
// that the policy requires.
func TestReportOfAStrangerStandsForNone(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	b.trustAMD(amd)
	stranger := func(nonce []byte) map[string]any {
		f := amd.Fields(3)
		f.ReportData = append(bytes.Clone(nonce), make([]byte, 64-len(nonce))...)
		return map[string]any{"type": "sev_snp", "report": b64(amd.Report(f)), "certificates": []string{b64(amd.VCEK(amd.ChipID, amd.TCB))}}
	}
	swap := func(m *machine) *Result {
		t.Helper()
		nonce := b.nonce(m)
		e := m.quote(nonce)
		e.Platform = stranger(nonce)
		r, err := b.post(m, e)
		if err != nil {
			t.Fatal(err)
		}
		if r.Appraisal.Claims.Platform != nil {
			t.Error("a report that is bound to nothing made claims")
		}
		return r
	}
	c := b.azure(amd, teetest.HCL{})
	b.admit(c.machine, c.enrolment(t, nil))
	expect(t, b.prove(c, nil), verifier.Affirming, verifier.NoReason)
	failsAt(t, swap(c.machine), verifier.CheckPlatformBinding, verifier.OriginUnverified, "of any confidential VM")

	plain := b.enrolled("sb-on-1")
	expect(t, swap(plain), verifier.Affirming, verifier.NoReason) // it raises nothing, and nothing was asked
	b.policy(func(p *verifier.Policy) { p.PlatformEvidence.Require = true })
	r := swap(plain)
	expect(t, r, verifier.Contraindicated, verifier.OriginUnverified)
	if got := checkOf(r.Appraisal, verifier.CheckPlatformBinding); got.Status != verifier.Fail || !strings.Contains(got.Detail, "the policy requires") {
		t.Errorf("%+v", got)
	}
}

// A genuine report of one VM beside a genuine quote of another.
func TestReportOfAnotherMachine(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	b.trustAMD(amd)
	one, other := b.azure(amd, teetest.HCL{}), b.azure(amd, teetest.HCL{UserData: []byte{1}})
	b.admit(one.machine, one.enrolment(t, nil))
	r := b.prove(one, func(e *evidence) { e.Platform = other.evidence })
	failsAt(t, r, verifier.CheckPlatformBinding, verifier.OriginUnverified, "another attestation key")
	if c := checkOf(r.Appraisal, verifier.CheckPlatformReport); c.Status != verifier.Pass {
		t.Errorf("%+v", c)
	}
	if r.Appraisal.Claims.Platform != nil {
		t.Error("a report of another machine made claims")
	}
	// The quote of the other machine, beside its own report.
	e := other.quote(b.nonce(one.machine))
	e.Platform = one.evidence
	r, err := b.post(one.machine, e)
	if err != nil {
		t.Fatal(err)
	}
	failsAt(t, r, verifier.CheckPlatformBinding, verifier.OriginUnverified, "not of one machine")
	// Enrolment with the key of one and the report of the other.
	_, err = b.Enrol(b.ctx, b.tenant, other.enrolment(t, func(m map[string]any) { m["ak_public"] = b64(one.ak.public) }), b.join, admin)
	if code(err) != CodePlatformRefused || !strings.Contains(err.Error(), "/ak_public") {
		t.Errorf("%v", err)
	}
}

// What was verified is verified again once what it rests on is withdrawn or revoked, though nothing was sent anew.
func TestTrustIsWithdrawn(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	anchor := b.trustAMD(amd)
	c := b.azure(amd, teetest.HCL{})
	b.admit(c.machine, c.enrolment(t, nil))
	expect(t, b.prove(c, nil), verifier.Affirming, verifier.NoReason)

	resting, _, err := b.store.MachinesRestingOn(b.ctx, b.tenant, anchor.ID, store.Page{})
	if err != nil || len(resting) == 0 || resting[0].MachineID != c.id {
		t.Errorf("%+v, %v", resting, err)
	}
	if _, err := b.store.SetTrustAnchorEnabled(b.ctx, b.tenant, anchor.ID, false, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	r := b.prove(c, nil)
	failsAt(t, r, verifier.CheckPlatformReport, verifier.OriginUnverified, "no AMD root key (ARK) is trusted")
	if ak := checkOf(r.Appraisal, verifier.CheckAKTrusted); ak.Status != verifier.Fail || !strings.Contains(ak.Detail, "not trusted any more") {
		t.Errorf("%+v", ak)
	}
	if _, err := b.store.SetTrustAnchorEnabled(b.ctx, b.tenant, anchor.ID, true, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	expect(t, b.prove(c, nil), verifier.Affirming, verifier.NoReason)

	crl, err := tee.ParseCollateral(tee.KindSNPCRL, amd.CRL(b.now().Add(-time.Hour), b.now().Add(time.Hour), amd.ASK), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.store.PutCollateral(b.ctx, b.tenant, crl, store.CollateralUploaded, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	failsAt(t, b.prove(c, nil), verifier.CheckPlatformReport, verifier.OriginUnverified, "was revoked")
}

// The withdrawn root of an EK ends the trust in the keys that were activated against it.
func TestAnchorOfAnEKIsWithdrawn(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	expect(t, b.attest(m), verifier.Affirming, verifier.NoReason)
	anchors, _, err := b.store.ListTrustAnchors(b.ctx, b.tenant, store.TrustAnchorFilter{Purpose: "ek"}, store.Page{})
	if err != nil || len(anchors) != 1 {
		t.Fatalf("%+v, %v", anchors, err)
	}
	if _, err := b.store.DeleteTrustAnchor(b.ctx, b.tenant, anchors[0].ID, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	failsAt(t, b.attest(m), verifier.CheckAKTrusted, verifier.OriginUnverified, "not trusted any more")
}

// Each demand of the policy fails at its own check, in attestation and in enrolment.
func TestPlatformPolicy(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	b.trustAMD(amd)
	c := b.azure(amd, teetest.HCL{})
	b.admit(c.machine, c.enrolment(t, nil))
	zero := uint32(0)
	for name, p := range map[string]struct {
		policy tee.Policy
		code   tee.Step
		reason verifier.Reason
	}{
		"TCB":         {tee.Policy{SNP: tee.SNPPolicy{MinimumTCB: map[tee.Product]tee.TCB{tee.Milan: {SNP: 255}}}}, tee.StepTCB, verifier.OriginUnverified},
		"measurement": {tee.Policy{LaunchMeasurements: []string{strings.Repeat("00", 48)}}, tee.StepMeasurement, verifier.BaselineDeviation},
		"signer":      {tee.Policy{SNP: tee.SNPPolicy{IDKeyDigests: []string{strings.Repeat("00", 48)}}}, tee.StepSigner, verifier.BaselineDeviation},
		"CRL":         {tee.Policy{RequireCRL: true}, tee.StepReport, verifier.OriginUnverified},
	} {
		p.policy.SNP.MaxVMPL = &zero
		b.policy(func(q *verifier.Policy) { q.PlatformEvidence = p.policy })
		r := b.prove(c, nil)
		failsAt(t, r, verifier.CheckCode(p.code), p.reason, "")
		for _, check := range r.Appraisal.Checks {
			if check.Status == verifier.Fail && check.Code != verifier.CheckCode(p.code) {
				t.Errorf("%s: %+v fails too", name, check)
			}
		}
		other := b.azure(amd, teetest.HCL{UserData: []byte{2}})
		if _, err := b.Enrol(b.ctx, b.tenant, other.enrolment(t, nil), b.join, admin); code(err) != CodePlatformRefused || !strings.Contains(err.Error(), string(p.code)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, fields := range map[tee.Step]func(*teetest.Report){
		tee.StepDebug:     func(f *teetest.Report) { f.Policy |= teetest.PolicyDebug },
		tee.StepMigration: func(f *teetest.Report) { f.Policy |= teetest.PolicyMigrateMA },
		tee.StepVMPL:      func(f *teetest.Report) { f.VMPL = 1 },
		tee.StepChipID:    func(f *teetest.Report) { f.ChipID = bytes.Repeat([]byte{7}, 64) },
	} {
		b.policy(func(*verifier.Policy) {})
		bad := amd.HCL(c.rsa, nil, teetest.HCL{Fields: fields})
		r := b.prove(c, func(e *evidence) {
			e.Platform = map[string]any{"type": "azure_hcl", "hcl_report": b64(bad), "certificates": c.evidence["certificates"]}
		})
		failsAt(t, r, verifier.CheckCode(name), verifier.OriginUnverified, "")
	}
	b.policy(func(q *verifier.Policy) { q.PlatformEvidence = tee.Policy{Require: true} })
	b2 := b.enrolled("sb-on-1")
	failsAt(t, b.attest(b2), verifier.CheckPlatformReport, verifier.OriginUnverified, "the policy requires")
}

// The certificate of the chip may be held instead of sent; what is lacked is noted for the job that fetches it.
func TestHeldEndorsement(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	b.trustAMD(amd)
	c := b.azure(amd, teetest.HCL{})
	certificate := amd.VCEK(amd.ChipID, amd.TCB)
	delete(c.evidence, "certificates")
	_, err := b.Enrol(b.ctx, b.tenant, c.enrolment(t, nil), b.join, admin)
	if code(err) != CodePlatformRefused || !strings.Contains(err.Error(), "neither sent nor is it held") {
		t.Fatalf("%v", err)
	}
	wants, err := b.store.ListWants(b.ctx, b.tenant, 10)
	if err != nil || len(wants) != 1 || wants[0].Kind != tee.KindVCEK {
		t.Fatalf("%+v, %v", wants, err)
	}
	vcek, err := tee.ParseCollateral(tee.KindVCEK, certificate, nil)
	if err != nil || vcek.Name != wants[0].Name {
		t.Fatalf("%s, wanted %s, %v", vcek.Name, wants[0].Name, err)
	}
	if _, err := b.store.PutCollateral(b.ctx, b.tenant, vcek, store.CollateralUploaded, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	b.admit(c.machine, c.enrolment(t, nil))
	expect(t, b.prove(c, nil), verifier.Affirming, verifier.NoReason)
}

// The certificate that came with evidence is kept, with its end.
func TestEvidenceBringsCollateral(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Genoa)
	b.trustAMD(amd)
	c := b.azure(amd, teetest.HCL{})
	b.admit(c.machine, c.enrolment(t, nil))
	crl := amd.CRL(b.now().Add(-time.Hour), b.now().Add(24*time.Hour))
	c.evidence["collateral"] = []map[string]any{{"kind": "snp_crl", "body": b64(crl)}}
	r := b.prove(c, nil)
	expect(t, r, verifier.Affirming, verifier.NoReason)
	if until := r.Appraisal.Claims.Platform.CollateralUntil; !until.Equal(b.now().Add(24 * time.Hour)) {
		t.Errorf("until %s", until)
	}
	kept, _, err := b.store.ListCollateral(b.ctx, b.tenant, store.CollateralFilter{}, store.Page{})
	if err != nil || len(kept) != 2 {
		t.Errorf("%+v, %v", kept, err)
	}
	// Once it has ended, the same evidence is verified anew: nothing tells of revocation again.
	b.wait(25 * time.Hour)
	r = b.prove(c, func(e *evidence) { delete(e.Platform, "collateral") })
	expect(t, r, verifier.Affirming, verifier.NoReason)
	if d := checkOf(r.Appraisal, verifier.CheckPlatformReport).Detail; !strings.Contains(d, "no CRL") {
		t.Error(d)
	}
}

// A plain SEV-SNP guest has no TPM: its report stands in place of key and quote.
func TestGuestWithoutTPM(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Turin)
	b.trustAMD(amd)
	f := amd.Fields(5)
	report := func(nonce []byte) map[string]any {
		f.ReportData = append(bytes.Clone(nonce), make([]byte, 64-len(nonce))...)
		return map[string]any{"type": "sev_snp", "report": b64(amd.Report(f)), "certificates": []string{b64(amd.VCEK(amd.ChipID, amd.TCB))}}
	}
	c := &confidential{machine: &machine{t: t}, evidence: report(make([]byte, 32))}
	b.policy(func(p *verifier.Policy) {
		p.RequireSecureBoot = false
		p.PlatformEvidence.LaunchMeasurements = []string{hex.EncodeToString(f.Measurement)}
	})
	if e := b.admit(c.machine, c.enrolment(t, nil)); e.Assurance != verifier.TEEBound {
		t.Fatalf("%+v", e)
	}
	post := func(platform map[string]any) (*Result, error) {
		return b.post(c.machine, &evidence{Platform: platform})
	}
	good := report(b.nonce(c.machine))
	r, err := post(good)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
	if r.Appraisal.Assurance != verifier.TEEBound || checkOf(r.Appraisal, verifier.CheckQuoteNonce).Status != verifier.Pass ||
		checkOf(r.Appraisal, verifier.CheckQuoteSignature).Status != verifier.Skipped {
		t.Errorf("%+v", r.Appraisal.Checks)
	}
	if r.NextChallenge.KnownPlatformEvidence != nil {
		t.Error("a report that is made for each challenge is not one to name")
	}
	// The same report again was used before; one for a nonce that was never ours is refused.
	if r, err = post(good); err != nil {
		t.Fatal(err)
	}
	failsAt(t, r, verifier.CheckQuoteNonce, verifier.OriginUnverified, "answered already")
	if _, err := post(report(bytes.Repeat([]byte{9}, 32))); code(err) != CodeUnknownChallenge {
		t.Errorf("%v", err)
	}
	// A report that its key did not sign.
	bad := report(b.nonce(c.machine))
	raw, _ := base64.StdEncoding.DecodeString(bad["report"].(string))
	raw[0x90] ^= 1
	bad["report"] = b64(raw)
	if r, err = post(bad); err != nil {
		t.Fatal(err)
	}
	failsAt(t, r, verifier.CheckPlatformReport, verifier.OriginUnverified, "signature does not verify")
	// A quote, of which no key is known.
	m := newMachine(t, "sb-on-1")
	if r, err = b.post(c.machine, m.quote(b.nonce(c.machine))); err != nil {
		t.Fatal(err)
	}
	failsAt(t, r, verifier.CheckAKTrusted, verifier.OriginUnverified, "without a TPM")
	// Where nothing names its launch measurement, it is held against that of the enrolment.
	b.policy(func(p *verifier.Policy) { p.RequireSecureBoot = false })
	launched := f.Measurement
	for _, want := range []struct {
		measurement []byte
		check       verifier.CheckStatus
	}{{bytes.Repeat([]byte{0x55}, 48), verifier.Warn}, {launched, ""}} {
		f.Measurement = want.measurement
		if r, err = post(report(b.nonce(c.machine))); err != nil {
			t.Fatal(err)
		}
		if got := checkOf(r.Appraisal, "platform.measurement"); got.Status != want.check {
			t.Errorf("%+v", got)
		}
	}
	b.policy(func(p *verifier.Policy) {
		p.RequireSecureBoot = false
		p.PlatformEvidence.LaunchMeasurements = []string{hex.EncodeToString(launched)}
	})
	// A baseline can be captured from it, and judges its launch.
	if r, err = post(report(b.nonce(c.machine))); err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
	if _, err := b.CaptureBaseline(b.ctx, b.tenant, c.id, "guest", nil, admin); err != nil {
		t.Fatal(err)
	}
	b.policy(func(p *verifier.Policy) { p.RequireSecureBoot = false })
	if r, err = post(report(b.nonce(c.machine))); err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
	f.Measurement = bytes.Repeat([]byte{0x77}, 48)
	if r, err = post(report(b.nonce(c.machine))); err != nil {
		t.Fatal(err)
	}
	failsAt(t, r, verifier.CheckBaselineMatch, verifier.BaselineDeviation, "launch measurement changed")
	// It cannot take the name of a machine that exists, its own included.
	again := c.enrolment(t, func(m map[string]any) { m["machine"].(map[string]any)["name"] = mustMachine(b, c.id).Name })
	if _, err := b.Enrol(b.ctx, b.tenant, again, b.join, admin); code(err) != CodeIdentityConflict {
		t.Errorf("%v", err)
	}
}

// A TDX guest without a TPM is judged by its registers, and its CC event log can be read like a TPM's.
func TestLogOfAGuestWithoutTPM(t *testing.T) {
	const name = "cos-113-intel-tdx.bin"
	dir := filepath.Join("..", "..", "verifier", "eventlog", "testdata", "tdx")
	packed, err := os.Open(filepath.Join(dir, "ccel", name+".gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = packed.Close() }()
	unpacked, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	log, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	var rtmrs map[string]map[string]string
	if raw, err := os.ReadFile(filepath.Join(dir, "rtmrs.json")); err != nil || json.Unmarshal(raw, &rtmrs) != nil {
		t.Fatal(err)
	}
	b := newBench(t)
	intel := teetest.NewIntel(t)
	b.trustRoots("tdx", intel.Anchors())
	q := intel.Fields()
	b.policy(func(p *verifier.Policy) {
		p.RequireSecureBoot = false
		p.PlatformEvidence.LaunchMeasurements = []string{hex.EncodeToString(q.MRTD)}
	})
	for i := range 3 {
		if q.RTMRs[i], err = hex.DecodeString(rtmrs[name][strconv.Itoa(i)]); err != nil {
			t.Fatal(err)
		}
	}
	report := func(nonce, log []byte) map[string]any {
		q.ReportData = append(bytes.Clone(nonce), make([]byte, 64-len(nonce))...)
		return map[string]any{"type": "tdx", "quote": b64(intel.Quote(q)), "event_log": b64(log)}
	}
	c := &confidential{machine: &machine{t: t}, evidence: report(make([]byte, 32), log)}
	b.admit(c.machine, c.enrolment(t, nil))
	decoded := func(log []byte) (*Result, []DecodedEvent, error) {
		t.Helper()
		r, err := b.post(c.machine, &evidence{Platform: report(b.nonce(c.machine), log)})
		if err != nil {
			t.Fatal(err)
		}
		events, err := b.DecodedLog(b.ctx, b.tenant, r.ID)
		return r, events, err
	}
	verified := func(events []DecodedEvent) (n int) {
		for _, e := range events {
			if e.Verified {
				n++
			}
		}
		return n
	}
	r, events, err := decoded(log)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Affirming, verifier.NoReason)
	if len(events) < 20 || verified(events) < 20 {
		t.Errorf("%d events, %d of them verified", len(events), verified(events))
	}
	// One that the registers contradict is read all the same, and proves nothing.
	q.RTMRs[1] = bytes.Repeat([]byte{1}, 48)
	if r, events, err = decoded(log); err != nil {
		t.Fatal(err)
	}
	expect(t, r, verifier.Contraindicated, verifier.OriginUnverified)
	if checkOf(r.Appraisal, verifier.CheckEventLogReplay).Status != verifier.Fail {
		t.Errorf("%+v", r.Appraisal.Checks)
	}
	if len(events) < 20 || verified(events) != 0 {
		t.Errorf("%d events, %d of them verified", len(events), verified(events))
	}
	if _, _, err = decoded([]byte("no log")); code(err) != CodeInvalidField {
		t.Errorf("%v", err)
	}
	if _, events, err = decoded(nil); err != nil || events == nil || len(events) != 0 {
		t.Errorf("%v, %v", events, err)
	}
}

func mustMachine(b *bench, id uuid.UUID) store.Machine {
	b.t.Helper()
	m, err := b.store.GetMachine(b.ctx, b.tenant, id)
	if err != nil {
		b.t.Fatal(err)
	}
	return m
}

// A guest with a TPM of its host's binds the report that it makes to the key that signs the quote.
func TestReportOfTheGuestsOwnMaking(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	b.trustAMD(amd)
	m := b.enrolled("sb-on-1")
	name := m.ak.name.Buffer
	report := func(data []byte) map[string]any {
		f := amd.Fields(3)
		f.ReportData = append(bytes.Clone(data), make([]byte, 64-len(data))...)
		return map[string]any{"type": "sev_snp", "report": b64(amd.Report(f)), "certificates": []string{b64(amd.VCEK(amd.ChipID, amd.TCB))}}
	}
	post := func(data func(nonce []byte) []byte) *Result {
		nonce := b.nonce(m)
		e := m.quote(nonce)
		e.Platform = report(data(nonce))
		r, err := b.post(m, e)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := post(func(nonce []byte) []byte { d := tee.KeyBinding(nonce, name); return d[:] })
	expect(t, r, verifier.Affirming, verifier.NoReason)
	if r.Appraisal.Assurance != verifier.TEEBound {
		t.Errorf("%s", r.Appraisal.Assurance)
	}
	r = post(func(nonce []byte) []byte { return nonce })
	expect(t, r, verifier.Affirming, verifier.NoReason)
	if c := checkOf(r.Appraisal, verifier.CheckPlatformBinding); c.Status != verifier.Skipped || r.Appraisal.Assurance != verifier.EKActivated || r.Appraisal.Claims.Platform != nil {
		t.Errorf("%+v, %s", c, r.Appraisal.Assurance)
	}
	failsAt(t, post(func([]byte) []byte { return bytes.Repeat([]byte{1}, 64) }), verifier.CheckPlatformBinding, verifier.OriginUnverified, "nothing binds the two")
	failsAt(t, post(func(nonce []byte) []byte { d := tee.KeyBinding(nonce, []byte("another")); return d[:] }), verifier.CheckPlatformBinding, verifier.OriginUnverified, "")

	// A key on an administrator's word is not raised: the guest could have made it up.
	other := newMachine(t, "sb-on-1")
	machines, err := b.store.UpsertMachines(b.ctx, b.tenant, []store.MachineInput{{Name: "vouched", ExternalID: "vouched"}}, func(m store.Machine) finding.Result {
		return InventoryFindings(m, verifier.DefaultPolicy())
	}, b.now(), admin)
	if err != nil {
		t.Fatal(err)
	}
	k, err := b.VouchKey(b.ctx, b.tenant, machines[0].ID, other.ak.public, "", admin)
	if err != nil {
		t.Fatal(err)
	}
	m, name = other, other.ak.name.Buffer
	m.id, m.keyID = machines[0].ID, k.ID
	r = post(func(nonce []byte) []byte { d := tee.KeyBinding(nonce, name); return d[:] })
	expect(t, r, verifier.Affirming, verifier.NoReason)
	if r.Appraisal.Assurance != verifier.FirstUse {
		t.Errorf("%s", r.Appraisal.Assurance)
	}
}

// A report that does not hold admits nobody, and says at which check; the join token keeps its use.
func TestEnrolmentByAReportIsRefused(t *testing.T) {
	b := newBench(t)
	amd := teetest.NewAMD(t, teetest.Milan)
	b.trustAMD(amd)
	c := b.azure(amd, teetest.HCL{})
	before := b.rows()
	for name, w := range map[string]struct {
		change func(map[string]any)
		code   Code
		detail string
	}{
		"another AMD": {func(e map[string]any) {
			e["hcl_report"] = b64(teetest.NewFalseAMD(t, teetest.Milan).HCL(c.rsa, nil, teetest.HCL{}))
		}, CodePlatformRefused, "platform.report"},
		"no HCL report":   {func(e map[string]any) { e["hcl_report"] = b64(make([]byte, 1300)) }, CodePlatformRefused, "HCLA"},
		"a later version": {func(e map[string]any) { e["hcl_report"] = b64(amd.HCL(c.rsa, nil, teetest.HCL{Version: 9})) }, CodePlatformUnsupported, "version 9"},
		"debug": {func(e map[string]any) {
			e["hcl_report"] = b64(amd.HCL(c.rsa, nil, teetest.HCL{Fields: func(f *teetest.Report) { f.Policy |= teetest.PolicyDebug }}))
		}, CodePlatformRefused, "platform.debug"},
	} {
		bad := map[string]any{}
		for k, v := range c.evidence {
			bad[k] = v
		}
		w.change(bad)
		_, err := b.Enrol(b.ctx, b.tenant, c.enrolment(t, func(m map[string]any) { m["platform_evidence"] = bad }), b.join, admin)
		if code(err) != w.code || !strings.Contains(err.Error(), w.detail) {
			t.Errorf("%s: %v", name, err)
		}
	}
	after := b.rows()
	for _, table := range []string{"machines", "attestation_keys", "enrollments", "audit_events"} {
		if before[table] != after[table] {
			t.Errorf("%s: %d rows, %d before", table, after[table], before[table])
		}
	}
}

// A Google VM enrols by the certificate of its AK, which names the instance: that is what the machine is known by.
func TestInstanceOfAnAKCertificate(t *testing.T) {
	b := newBench(t)
	m := newMachine(t, "sb-on-1")
	public, err := tpm.ParsePublic(m.ak.public)
	if err != nil {
		t.Fatal(err)
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cloud"}, NotBefore: start.Add(-time.Hour), NotAfter: start.Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	ca := teetest.Issue(t, withKey(template, &caKey.PublicKey), withKey(template, &caKey.PublicKey), caKey)
	type security struct {
		Production bool `asn1:"explicit,tag:1"`
	}
	identity := teetest.DER(t, struct {
		Zone      string `asn1:"utf8"`
		Project   int64
		ProjectID string `asn1:"utf8"`
		ID        int64
		Name      string   `asn1:"utf8"`
		Security  security `asn1:"explicit"`
	}{"europe-west4-a", 42, "p", 4711, "web-1", security{true}})
	end := start.Add(500 * time.Hour)
	ak := teetest.Issue(t, withKey(&x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: start.Add(-time.Hour), NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 1, 21}, Value: identity}}}, public.Key()), ca, caKey)
	if _, err := b.store.CreateTrustAnchor(b.ctx, b.tenant, store.TrustAnchor{Name: "cloud", Purpose: "ak", Enabled: true,
		Certificates: []store.TrustCertificate{{DER: ca.Raw, Subject: "cloud", Fingerprint: fingerprintOf(ca.Raw), NotAfter: ca.NotAfter}}}, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(map[string]any{"machine": map[string]any{"name": "web-1", "os": "linux"}, "ak_public": b64(m.ak.public), "ak_certificate": b64(ak.Raw)})
	if err != nil {
		t.Fatal(err)
	}
	req, err := ParseEnrolRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	if e := b.admit(m, req); e.Assurance != verifier.AKCertified {
		t.Errorf("%+v", e)
	}
	known := mustMachine(b, m.id)
	if known.ExternalID != "//compute.googleapis.com/projects/42/zones/europe-west4-a/instances/4711" || known.Platform != "gcp" || !strings.Contains(string(known.Instance), `"web-1"`) {
		t.Errorf("%+v %s", known, known.Instance)
	}
	in, err := b.store.AppraisalInputs(b.ctx, b.tenant, m.id, b.now())
	if err != nil || in.Key.CertificateNotAfter == nil || !in.Key.CertificateNotAfter.Equal(end.Truncate(time.Second)) || in.Key.AnchorFingerprint != fingerprintOf(ca.Raw) {
		t.Errorf("%+v, %v", in.Key, err)
	}
	expect(t, b.attest(m), verifier.Affirming, verifier.NoReason)
}

func withKey(template *x509.Certificate, key any) *x509.Certificate {
	c := *template
	c.PublicKey = key
	return &c
}
