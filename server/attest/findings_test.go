package attest

import (
	"crypto/rand"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/finding"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

const day = 24 * time.Hour

// anchor makes a certificate one that the tenant trusts for a purpose.
func (b *bench) anchor(purpose string, certificates ...[]byte) {
	b.t.Helper()
	a := store.TrustAnchor{Name: uuid.NewString(), Purpose: purpose, CreatedAt: b.now()}
	for _, der := range certificates {
		a.Certificates = append(a.Certificates, store.TrustCertificate{DER: der, Subject: purpose, Fingerprint: fingerprintOf(der)})
	}
	if _, err := b.store.CreateTrustAnchor(b.ctx, b.tenant, a, b.now(), admin); err != nil {
		b.t.Fatal(err)
	}
}

// recommended is the severity of the machine's active recommendation of a code; empty if there is none.
func (b *bench) recommended(m *machine, code string) finding.Severity {
	b.t.Helper()
	list, _, err := b.store.ListRecommendations(b.ctx, b.tenant, store.RecommendationFilter{MachineID: &m.id, Code: code, Status: "active"}, store.Page{Limit: 10}, b.now())
	if err != nil {
		b.t.Fatal(err)
	}
	if len(list) == 0 {
		return ""
	}
	return list[0].Severity
}

// assessment is the machine's assessment of a code.
func (b *bench) assessment(m *machine, code string) finding.Assessment {
	b.t.Helper()
	list, _, err := b.store.ListAssessments(b.ctx, b.tenant, store.AssessmentFilter{MachineID: &m.id, Code: code}, store.Page{Limit: 10})
	if err != nil {
		b.t.Fatal(err)
	}
	if len(list) != 1 {
		return finding.Assessment{}
	}
	return list[0].Assessment
}

// A steady machine whose AK certificate comes to its end: nothing about it changes but the time, and the finding
// appears all the same, once.
func TestExpiringAKCertificateAppearsByTimeAlone(t *testing.T) {
	b := newBench(t)
	m := newMachine(t, "sb-on-1")
	leaf, root := akCertificateUntil(t, m.ak.public, start.Add(40*day))
	b.anchor("ak", root)
	r := m.request("cloud-1")
	r.EKCertificate, r.EKCertificateChain, r.EKPublic, r.AKCertificate = nil, nil, nil, leaf
	b.admit(m, r)
	const code = "ak_certificate_expiring"
	for _, step := range []struct {
		wait time.Duration
		new  bool
		want finding.Severity
	}{
		{0, true, ""}, {9 * day, false, ""}, {day, true, finding.Low}, {day, false, finding.Low}, {40 * day, false, finding.Low},
	} {
		b.wait(step.wait)
		result := b.attest(m)
		expect(t, result, verifier.Affirming, verifier.NoReason)
		if got := b.recommended(m, code); result.New != step.new || got != step.want {
			t.Errorf("on %s: new run %t, severity %q; want %t, %q", b.now().Format(time.DateOnly), result.New, got, step.new, step.want)
		}
	}
	// The inventory does not know the key, and writing it resolves nothing.
	b.rewrite(m)
	if b.recommended(m, code) != finding.Low {
		t.Error("writing the inventory resolved the recommendation")
	}
}

// rewrite writes the machine's inventory again, as an inventory system does.
func (b *bench) rewrite(m *machine) {
	b.t.Helper()
	now, err := b.store.GetMachine(b.ctx, b.tenant, m.id)
	if err != nil {
		b.t.Fatal(err)
	}
	_, err = b.store.UpsertMachines(b.ctx, b.tenant, []store.MachineInput{{ExternalID: now.ExternalID, Name: now.Name, OS: now.OS, Platform: now.Platform,
		SecurityType: now.SecurityType, Labels: map[string]string{"written": b.now().String()}}},
		func(m store.Machine) finding.Result { return InventoryFindings(m, verifier.DefaultPolicy()) }, b.now(), admin)
	if err != nil {
		b.t.Fatal(err)
	}
}

// guest is an SEV-SNP guest without a TPM.
type guest struct {
	machine
	amd  *teetest.AMD
	vcek []byte
	edit func(*teetest.Report)
}

func (b *bench) guest(name string, vcekUntil time.Time) *guest {
	b.t.Helper()
	g := &guest{machine: machine{t: b.t}, amd: teetest.NewAMD(b.t, teetest.Milan)}
	g.vcek = g.amd.VCEK(g.amd.ChipID, g.amd.TCB, func(c *x509.Certificate) { c.NotAfter = vcekUntil })
	b.anchor("snp", g.amd.ARK.Raw, g.amd.ASK.Raw)
	var nonce [32]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		b.t.Fatal(err)
	}
	b.admit(&g.machine, EnrolRequest{
		Machine:  store.MachineInput{ExternalID: "ext-" + name, Name: name, OS: "linux", Platform: "other", SecurityType: "standard", Labels: map[string]string{}},
		Platform: &tee.Evidence{Type: tee.TypeSEVSNP, Report: g.report(nonce[:]), Certificates: [][]byte{g.vcek}},
	})
	return g
}

// report is one that the guest asked for over a nonce.
func (g *guest) report(nonce []byte) []byte {
	f := g.amd.Fields(3)
	f.ReportData = append(slices.Clone(nonce), make([]byte, 64-len(nonce))...)
	if g.edit != nil {
		g.edit(&f)
	}
	return g.amd.Report(f)
}

func (b *bench) attestGuest(g *guest) *Result {
	b.t.Helper()
	body := []byte(`{"platform_evidence": {"type": "sev_snp", "report": "` + b64(g.report(b.nonce(&g.machine))) + `", "certificates": ["` + b64(g.vcek) + `"]}}`)
	r, err := b.Appraise(b.ctx, b.tenant, g.id, "application/json", body, admin, ByKey(g.keyID))
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// The collateral of a steady confidential VM without a TPM comes to its end: told of a month before, and as more
// pressing in the last week.
func TestExpiringCollateralAppearsByTimeAlone(t *testing.T) {
	b := newBench(t)
	b.policy(func(p *verifier.Policy) { p.RequireSecureBoot = false })
	g := b.guest("td-1", start.Add(40*day))
	for _, step := range []struct {
		wait time.Duration
		new  bool
		want finding.Severity
	}{
		{0, true, ""}, {9 * day, false, ""}, {day, true, finding.Low}, {day, false, finding.Low}, {22 * day, true, finding.Medium}, {day, false, finding.Medium},
	} {
		b.wait(step.wait)
		result := b.attestGuest(g)
		if !result.Appraisal.Genuine || result.Appraisal.Assurance != verifier.TEEBound {
			t.Fatalf("%s: %s", result.Appraisal.Status, firstFailure(result.Appraisal))
		}
		if got := b.recommended(&g.machine, "tee_collateral_expiring"); result.New != step.new || got != step.want {
			t.Errorf("on %s: new run %t, severity %q; want %t, %q", b.now().Format(time.DateOnly), result.New, got, step.new, step.want)
		}
	}
}

// A confidential VM without a TPM is not told to turn one on, is known as confidential by its hardware, and its failures
// are alerts like those of any machine.
func TestFindingsOfAMachineWithoutTPM(t *testing.T) {
	b := newBench(t)
	b.policy(func(p *verifier.Policy) { p.RequireSecureBoot = false })
	g := b.guest("td-1", start.Add(400*day))
	b.attestGuest(g)
	check := func(when string) {
		t.Helper()
		if a := b.assessment(&g.machine, "vtpm_enabled"); a.Status != finding.NotApplicable || a.Cause != "no_tpm" {
			t.Errorf("%s: vtpm_enabled %+v", when, a)
		}
		if a := b.assessment(&g.machine, "guest_attestation_installed"); a.Status != finding.Healthy {
			t.Errorf("%s: guest_attestation_installed %+v", when, a)
		}
		if a := b.assessment(&g.machine, "secure_boot_enabled"); a.Cause != "unknown" { // asked, since its hardware says that it is confidential
			t.Errorf("%s: secure_boot_enabled %+v", when, a)
		}
	}
	check("attested")
	b.rewrite(&g.machine)
	check("inventory written")
	if len(b.alerts(&g.machine)) != 0 {
		t.Error("an alert for a healthy machine")
	}
	g.edit = func(f *teetest.Report) { f.Policy |= 1 << 19 }
	expect(t, b.attestGuest(g), verifier.Contraindicated, verifier.OriginUnverified)
	if a := b.alerts(&g.machine); len(a) != 1 || a[0].Code != "attestation_failed" {
		t.Errorf("a guest under debug: alerts %+v", a)
	}
	if got := b.recommended(&g.machine, "tee_debug_enabled"); got != finding.High {
		t.Errorf("a guest under debug: severity %q", got)
	}
	check("failed")
	g.edit = nil
	b.attestGuest(g)
	if a := b.assessment(&g.machine, "tee_debug_enabled"); b.recommended(&g.machine, "tee_debug_enabled") != "" || a.Status != finding.Healthy {
		t.Errorf("launched anew without debugging: %+v", a)
	}
}

// What a machine shows of Secure Boot: the log's word first, then that of a paravisor whose report is bound.
func TestObservedSecureBoot(t *testing.T) {
	yes, no := true, false
	key := &store.AttestationKey{Kind: store.KeyTPM}
	for name, c := range map[string]struct {
		log     eventlog.Claims
		relying *verifier.RelyingClaims
		want    *bool
	}{
		"nothing tells":                       {eventlog.Claims{}, &verifier.RelyingClaims{}, nil},
		"effective":                           {eventlog.Claims{SecureBoot: &yes, SecureBootEffective: &yes}, &verifier.RelyingClaims{SecureBoot: &yes}, &yes},
		"on, but shim does not check":         {eventlog.Claims{SecureBoot: &yes, SecureBootEffective: &no}, &verifier.RelyingClaims{SecureBoot: &no}, &no},
		"on, and whether shim checks unknown": {eventlog.Claims{SecureBoot: &yes}, &verifier.RelyingClaims{SecureBoot: &yes}, nil},
		"off":                                 {eventlog.Claims{SecureBoot: &no}, &verifier.RelyingClaims{SecureBoot: &no}, &no},
		"no log, the paravisor says on":       {eventlog.Claims{}, &verifier.RelyingClaims{SecureBoot: &yes}, &yes},
		"no log, the paravisor says off":      {eventlog.Claims{}, &verifier.RelyingClaims{SecureBoot: &no}, &no},
		"no log, and no relying claims":       {eventlog.Claims{}, nil, nil},
	} {
		a := &verifier.Appraisal{Genuine: true, Claims: verifier.Claims{Claims: &c.log, Relying: c.relying}}
		got := observe(finding.Posture{}, a, key)
		if (got.SecureBoot == nil) != (c.want == nil) || c.want != nil && *got.SecureBoot != *c.want {
			t.Errorf("%s: %v", name, got.SecureBoot)
		}
		if (got.SecureBootSupported != nil) != (c.want != nil) {
			t.Errorf("%s: supported %v", name, got.SecureBootSupported)
		}
		a.Genuine = false
		if got := observe(finding.Posture{SecureBoot: &yes}, a, key); got.SecureBoot != &yes {
			t.Errorf("%s, not genuine: what was known before is gone", name)
		}
	}
	if p := observe(finding.Posture{VTPM: &yes}, &verifier.Appraisal{}, &store.AttestationKey{Kind: store.KeyTEE}); *p.VTPM || !*p.AgentInstalled {
		t.Errorf("a machine without a TPM: %+v", p)
	}
}

// Only an AK certificate is asked for again at its end: the certificates of other keys were needed once.
func TestKeyExpiryIsThatOfAnAKCertificate(t *testing.T) {
	end := start
	for assurance, want := range map[verifier.Assurance]bool{verifier.AKCertified: true, verifier.EKActivated: false, verifier.TEEBound: false, verifier.FirstUse: false} {
		m := findingMachine(&store.Machine{}, &store.AttestationKey{Assurance: assurance, CertificateNotAfter: &end})
		if (m.KeyExpiresAt != nil) != want {
			t.Errorf("%s: %v", assurance, m.KeyExpiresAt)
		}
	}
}
