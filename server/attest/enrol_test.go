package attest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// The whole story: enrol by EK certificate, open the credential in the TPM, activate; then the machine
// has a key, a token and a challenge.
func TestEnrolByCredentialActivation(t *testing.T) {
	b := newBench(t)
	m := newMachine(t, "sb-on-1")
	b.trust(m, "ek")
	e, err := b.Enrol(b.ctx, b.tenant, m.request("web-1"), b.join, admin)
	if err != nil {
		t.Fatal(err)
	}
	if e.Status != StatusActivationRequired || e.MachineToken != "" || e.Challenge != nil || len(e.CredentialBlob) == 0 {
		t.Fatalf("before the proof: %+v", e)
	}
	secret, err := m.open(e.CredentialBlob, e.EncryptedSecret)
	if err != nil {
		t.Fatal(err)
	}
	a, err := b.Activate(b.ctx, b.tenant, e.EnrollmentID, secret, admin)
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != StatusActive || a.Assurance != verifier.EKActivated || a.MachineID != e.MachineID || a.Challenge == nil {
		t.Fatalf("%+v", a)
	}
	of, err := b.token.VerifyMachineToken(a.MachineToken, b.now())
	if err != nil || of.Tenant != b.tenant || of.MachineID != e.MachineID {
		t.Fatalf("token of %+v, %v", of, err)
	}
	in, err := b.store.AppraisalInputs(b.ctx, b.tenant, of.MachineID, b.now())
	if err != nil || in.Key == nil || in.Key.ID != of.KeyID || in.Key.Assurance != verifier.EKActivated {
		t.Fatalf("inputs %+v, %v", in.Key, err)
	}
	// The store never sees the secret.
	if row, err := b.store.GetEnrollment(b.ctx, b.tenant, e.EnrollmentID); err != nil || row.Status != "active" {
		t.Fatalf("%+v, %v", row, err)
	}
}

// One try: a wrong secret uses the enrolment up, and the right one comes too late (CVE-2023-38201: it could be tried again).
func TestActivationHasOneTry(t *testing.T) {
	b := newBench(t)
	m := newMachine(t, "sb-on-1")
	b.trust(m, "ek")
	enrol := func() (*EnrolResult, []byte) {
		t.Helper()
		e, err := b.Enrol(b.ctx, b.tenant, m.request("web-1"), b.join, admin)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := m.open(e.CredentialBlob, e.EncryptedSecret)
		if err != nil {
			t.Fatal(err)
		}
		return e, secret
	}
	e, secret := enrol()
	wrong := append([]byte{}, secret...)
	wrong[0] ^= 1
	if _, err := b.Activate(b.ctx, b.tenant, e.EnrollmentID, wrong, admin); code(err) != CodeActivationFailed {
		t.Fatalf("wrong secret: %v", err)
	}
	if _, err := b.Activate(b.ctx, b.tenant, e.EnrollmentID, secret, admin); code(err) != CodeActivationUsed {
		t.Fatalf("right secret after a wrong one: %v", err)
	}
	if in, err := b.store.AppraisalInputs(b.ctx, b.tenant, e.MachineID, b.now()); err != nil || in.Key != nil {
		t.Fatalf("a key became active: %+v, %v", in.Key, err)
	}
	b.wait(activationLifetime + time.Second)
	late, secret := enrol()
	b.wait(activationLifetime)
	if _, err := b.Activate(b.ctx, b.tenant, late.EnrollmentID, secret, admin); code(err) != CodeActivationFailed {
		t.Fatalf("right secret, too late: %v", err)
	}
	again, secret := enrol() // the agent may begin again with the same keys
	if _, err := b.Activate(b.ctx, b.tenant, again.EnrollmentID, secret, admin); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Activate(b.ctx, b.tenant, again.EnrollmentID, secret, admin); code(err) != CodeActivationUsed {
		t.Fatalf("the same secret twice: %v", err)
	}
	if _, err := b.Activate(b.ctx, b.tenant, uuid.New(), secret, admin); code(err) != CodeNotFound {
		t.Fatalf("unknown enrolment: %v", err)
	}
}

// What enrolment refuses, with its code; nothing is stored and no use of the join token is taken.
func TestEnrolRefusals(t *testing.T) {
	b := newBench(t)
	m := newMachine(t, "sb-on-1")
	other := newMachine(t, "sb-on-1")
	b.trust(m, "ek")
	before := b.rows()
	unknownToken := sha256.Sum256([]byte("nobody's"))
	for name, c := range map[string]struct {
		change func(*EnrolRequest)
		join   []byte
		want   Code
	}{
		"EK of an unknown CA":       {func(r *EnrolRequest) { *r = other.request("x") }, b.join, CodeEKUntrusted},
		"no chain to the root":      {func(r *EnrolRequest) { r.EKCertificateChain = nil }, b.join, CodeEKUntrusted},
		"no EK at all":              {func(r *EnrolRequest) { r.EKCertificate, r.EKPublic = nil, nil }, b.join, CodeEKUntrusted},
		"no EK certificate":         {func(r *EnrolRequest) { r.EKCertificate = nil }, b.join, CodeEKUntrusted},
		"certificate of another EK": {func(r *EnrolRequest) { r.EKPublic = other.ek.public }, b.join, CodeEKUntrusted},
		"AK that is an EK":          {func(r *EnrolRequest) { r.AKPublic = m.ek.public }, b.join, CodeAKRefused},
		"EK that is an AK":          {func(r *EnrolRequest) { r.EKPublic = m.ak.public }, b.join, CodeEKUntrusted},
		"AK that is garbage":        {func(r *EnrolRequest) { r.AKPublic = []byte{1, 2, 3} }, b.join, CodeInvalidField},
		"EK that is garbage":        {func(r *EnrolRequest) { r.EKPublic = []byte{1, 2, 3} }, b.join, CodeInvalidField},
		"certificate is garbage":    {func(r *EnrolRequest) { r.EKCertificate = []byte{1, 2, 3} }, b.join, CodeInvalidField},
		"chain is garbage":          {func(r *EnrolRequest) { r.EKCertificateChain = [][]byte{{1}} }, b.join, CodeInvalidField},
		"AK certificate of the EK":  {func(r *EnrolRequest) { r.AKCertificate = r.EKCertificate }, b.join, CodeInvalidField},
		"hardware report that does not hold": {func(r *EnrolRequest) {
			r.Platform = &tee.Evidence{Type: tee.TypeSEVSNP, Report: make([]byte, 1184)}
		}, b.join, CodePlatformUnsupported},
		"unknown join token": {func(*EnrolRequest) {}, unknownToken[:], CodeForbidden},
	} {
		r := m.request("web-1")
		c.change(&r)
		if _, err := b.Enrol(b.ctx, b.tenant, r, c.join, admin); code(err) != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
	b.sameRows(before)
	if _, err := b.Enrol(b.ctx, uuid.New(), m.request("web-1"), b.join, admin); code(err) != CodeForbidden {
		t.Errorf("join token of another tenant: %v", err)
	}
	b.wait(48 * time.Hour)
	if _, err := b.Enrol(b.ctx, b.tenant, m.request("web-1"), b.join, admin); code(err) != CodeForbidden {
		t.Errorf("expired join token: %v", err)
	}
}

// A certificate is judged at the time of the enrolment.
func TestEnrolJudgesTheCertificateNow(t *testing.T) {
	b := newBench(t)
	m := newMachine(t, "sb-on-1")
	b.trust(m, "ek")
	b.wait(-100 * 365 * 24 * time.Hour)
	if _, err := b.Enrol(b.ctx, b.tenant, m.request("web-1"), b.join, admin); code(err) != CodeEKUntrusted {
		t.Fatalf("a certificate of the future: %v", err)
	}
}

// Without a certificate, and with a policy that admits it, activation proves possession of the EK only.
func TestEnrolWithoutEKCertificate(t *testing.T) {
	b := newBench(t)
	m := newMachine(t, "sb-on-1")
	b.policy(func(p *verifier.Policy) { p.RequireEKCertificate = false })
	r := m.request("web-1")
	r.EKCertificate = nil
	r.EKPublic = m.ak.public
	if _, err := b.Enrol(b.ctx, b.tenant, r, b.join, admin); code(err) != CodeEKUntrusted || !strings.Contains(err.Error(), "not an acceptable endorsement key") {
		t.Errorf("an EK that is none: %v", err)
	}
	r.EKPublic = m.ek.public
	e, err := b.Enrol(b.ctx, b.tenant, r, b.join, admin)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := m.open(e.CredentialBlob, e.EncryptedSecret)
	if err != nil {
		t.Fatal(err)
	}
	a, err := b.Activate(b.ctx, b.tenant, e.EnrollmentID, secret, admin)
	if err != nil || a.Assurance != verifier.FirstUse {
		t.Fatalf("%+v, %v", a, err)
	}
}

// A machine cannot choose a weaker policy by the labels that it gives itself; its join token can.
func TestPolicyOfAnEnrolmentIsNotTheMachinesChoice(t *testing.T) {
	b := newBench(t)
	m := newMachine(t, "sb-on-1")
	weak := verifier.DefaultPolicy()
	weak.RequireEKCertificate = false
	weak.Selector = verifier.Selector{Labels: map[string]string{"env": "lab"}}
	if _, err := b.store.PutPolicy(b.ctx, b.tenant, "lab", weak, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	r := m.request("web-1")
	r.EKCertificate = nil
	r.Machine.Labels = map[string]string{"env": "lab"}
	if _, err := b.Enrol(b.ctx, b.tenant, r, b.join, admin); code(err) != CodeEKUntrusted {
		t.Fatalf("a claimed label chose the policy: %v", err)
	}
	lab := b.joinToken("", map[string]string{"env": "lab"})
	if _, err := b.Enrol(b.ctx, b.tenant, r, lab, admin); err != nil {
		t.Fatal(err)
	}
}

// akCertificate certifies an AK by a CA made for the test.
func akCertificate(t *testing.T, ak []byte) (leaf, root []byte) {
	t.Helper()
	return akCertificateUntil(t, ak, start.Add(time.Hour))
}

func akCertificateUntil(t *testing.T, ak []byte, until time.Time) (leaf, root []byte) {
	t.Helper()
	public, err := tpm.ParsePublic(ak)
	if err != nil {
		t.Fatal(err)
	}
	_, ca, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "AK CA"}, NotBefore: start.Add(-time.Hour), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	if root, err = x509.CreateCertificate(rand.Reader, issuer, issuer, ca.Public(), ca); err != nil {
		t.Fatal(err)
	}
	subject := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "instance 1"}, NotBefore: start.Add(-time.Hour), NotAfter: until}
	if leaf, err = x509.CreateCertificate(rand.Reader, subject, issuer, public.Key(), ca); err != nil {
		t.Fatal(err)
	}
	return leaf, root
}

// An AK certificate that chains to an anchor of purpose "ak" makes the key active at once.
func TestEnrolByAKCertificate(t *testing.T) {
	b := newBench(t)
	m := newMachine(t, "sb-on-1")
	leaf, root := akCertificate(t, m.ak.public)
	r := m.request("cloud-1")
	r.EKCertificate, r.EKCertificateChain, r.EKPublic = nil, nil, nil
	r.AKCertificate = leaf
	if _, err := b.Enrol(b.ctx, b.tenant, r, b.join, admin); code(err) != CodeAKRefused {
		t.Fatalf("without an anchor: %v", err)
	}
	for _, purpose := range []string{"ek", "ak"} {
		b.anchor(purpose, root)
		if purpose == "ek" {
			if _, err := b.Enrol(b.ctx, b.tenant, r, b.join, admin); code(err) != CodeAKRefused {
				t.Fatalf("with an anchor of another purpose: %v", err)
			}
		}
	}
	other, _ := akCertificate(t, m.newAK().public)
	wrong := r
	wrong.AKCertificate = other
	if _, err := b.Enrol(b.ctx, b.tenant, wrong, b.join, admin); code(err) != CodeInvalidField {
		t.Fatalf("a certificate of another key: %v", err)
	}
	e, err := b.Enrol(b.ctx, b.tenant, r, b.join, admin)
	if err != nil {
		t.Fatal(err)
	}
	if e.Status != StatusActive || e.Assurance != verifier.AKCertified || e.Challenge == nil || e.MachineToken == "" || e.CredentialBlob != nil {
		t.Fatalf("%+v", e)
	}
	m.id = e.MachineID
	if m.keyID, err = b.keyOf(e.MachineToken); err != nil {
		t.Fatal(err)
	}
	result := b.attest(m)
	expect(t, result, verifier.Affirming, verifier.NoReason)
	if result.Appraisal.Assurance != verifier.AKCertified {
		t.Errorf("assurance %s", result.Appraisal.Assurance)
	}
}

// A machine that exists with another EK or AK: refused, and the stored rows are as they were.
func TestIdentityConflictChangesNothing(t *testing.T) {
	b := newBench(t)
	m, thief := newMachine(t, "sb-on-1"), newMachine(t, "sb-on-1")
	b.trust(m, "ek")
	b.trust(thief, "ek")
	b.enrol(m, "web-1")
	stored, err := b.store.GetMachine(b.ctx, b.tenant, m.id)
	if err != nil {
		t.Fatal(err)
	}
	before := b.rows()

	r := thief.request("web-1") // another TPM takes the machine's id
	r.Machine.SecurityType, r.Machine.Labels = "standard", map[string]string{"stolen": "yes"}
	if _, err := b.Enrol(b.ctx, b.tenant, r, b.join, admin); code(err) != CodeIdentityConflict {
		t.Errorf("another EK and AK: %v", err)
	}
	r = m.request("web-1") // the same TPM with another AK
	r.AKPublic = m.newAK().public
	if _, err := b.Enrol(b.ctx, b.tenant, r, b.join, admin); code(err) != CodeIdentityConflict {
		t.Errorf("another AK: %v", err)
	}
	r = m.request("web-2") // the same TPM under another name
	if _, err := b.Enrol(b.ctx, b.tenant, r, b.join, admin); code(err) != CodeIdentityConflict {
		t.Errorf("another id: %v", err)
	}
	after, err := b.store.GetMachine(b.ctx, b.tenant, m.id)
	if err != nil || after.SecurityType != stored.SecurityType || len(after.Labels) != len(stored.Labels) || after.State != stored.State {
		t.Errorf("the machine changed: %+v, then %+v, %v", stored, after, err)
	}
	in, err := b.store.AppraisalInputs(b.ctx, b.tenant, m.id, b.now())
	if err != nil || in.Key == nil || in.Key.ID != m.keyID {
		t.Errorf("the key changed: %+v, %v", in.Key, err)
	}
	// What was tried is on record, and an alert; nothing else is.
	b.sameRows(before, "audit_events", "alerts", "alert_events", "alert_occurrences", "fleet_changes", "fleet_conflicts", "incident_changes", "incident_members", "incident_touches", "outbox", "rollup_deltas")
	// The same keys enrol again at will: an agent that lost its state.
	if _, err := b.Enrol(b.ctx, b.tenant, m.request("web-1"), b.join, admin); err != nil {
		t.Errorf("the same keys: %v", err)
	}
}

// Of two TPMs that race for one id exactly one gets it.
func TestRacingEnrolments(t *testing.T) {
	b := newBench(t)
	one, two := newMachine(t, "sb-on-1"), newMachine(t, "sb-on-1")
	b.trust(one, "ek")
	b.trust(two, "ek")
	requests := []EnrolRequest{one.request("web-1"), two.request("web-1")}
	errs := make([]error, len(requests))
	var wg sync.WaitGroup
	for i := range requests {
		wg.Add(1)
		go func() {
			defer wg.Done()
			_, errs[i] = b.Enrol(b.ctx, b.tenant, requests[i], b.join, admin)
		}()
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if code(err) != CodeIdentityConflict {
			t.Errorf("%v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d enrolments succeeded", won)
	}
}

// An administrator vouches for a key of a client that cannot activate a credential.
func TestVouchKey(t *testing.T) {
	b := newBench(t)
	m := newMachine(t, "sb-on-1")
	machines, err := b.store.UpsertMachines(b.ctx, b.tenant, []store.MachineInput{{ExternalID: "e", Name: "by-hand", OS: "linux", Platform: "qemu",
		SecurityType: "standard"}}, nothing, b.now(), admin)
	if err != nil {
		t.Fatal(err)
	}
	m.id = machines[0].ID
	if _, err := b.VouchKey(b.ctx, b.tenant, m.id, m.ek.public, "", admin); code(err) != CodeAKRefused {
		t.Errorf("an EK: %v", err)
	}
	if _, err := b.VouchKey(b.ctx, b.tenant, m.id, m.ak.public, "a\nb", admin); code(err) != CodeInvalidField {
		t.Errorf("a comment of two lines: %v", err)
	}
	if _, err := b.VouchKey(b.ctx, b.tenant, uuid.New(), m.ak.public, "", admin); code(err) != CodeNotFound {
		t.Errorf("unknown machine: %v", err)
	}
	key, err := b.VouchKey(b.ctx, b.tenant, m.id, m.ak.public, "lab machine", admin)
	if err != nil || key.Assurance != verifier.FirstUse {
		t.Fatalf("%+v, %v", key, err)
	}
	m.keyID = key.ID
	if r := b.attest(m); r.Appraisal.Status != verifier.Affirming || r.Appraisal.Assurance != verifier.FirstUse {
		t.Errorf("%s %s: %s", r.Appraisal.Status, r.Appraisal.Assurance, firstFailure(r.Appraisal))
	}
	// An activated key is not replaced by somebody's word.
	strong := newMachine(t, "sb-on-1")
	b.trust(strong, "ek")
	b.enrol(strong, "strong")
	if _, err := b.VouchKey(b.ctx, b.tenant, strong.id, strong.newAK().public, "", admin); code(err) != CodeIdentityConflict {
		t.Errorf("replacing an activated key: %v", err)
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]Config{
		"no store":      {Token: b.token, Now: b.now, Random: rand.Reader},
		"no token":      {Store: b.store, Now: b.now, Random: rand.Reader},
		"no clock":      {Store: b.store, Token: b.token, Random: rand.Reader},
		"no randomness": {Store: b.store, Token: b.token, Now: b.now},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: a service was made", name)
		}
	}
	if !errors.Is(fromStore("x", store.ErrNonceUsed), store.ErrNonceUsed) {
		t.Error("a failure of ours lost its cause")
	}
}

// A machine that enrols again, or anybody with a join token and its public keys, changes neither its policy nor
// its row; with the proof, only what was empty is filled.
func TestEnrollingAgainDoesNotChooseThePolicy(t *testing.T) {
	b := newBench(t)
	m := newMachine(t, "sb-on-1")
	b.trust(m, "ek")
	lab := verifier.DefaultPolicy()
	lab.Selector = verifier.Selector{Labels: map[string]string{"env": "lab"}}
	if _, err := b.store.PutPolicy(b.ctx, b.tenant, "lab", lab, b.now(), admin); err != nil {
		t.Fatal(err)
	}
	r := m.request("web-1")
	prod := b.joinToken("pool", map[string]string{"env": "prod"})
	enrol := func(join []byte) *EnrolResult {
		t.Helper()
		e, err := b.Enrol(b.ctx, b.tenant, r, join, admin)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	prove := func(e *EnrolResult) {
		t.Helper()
		secret, err := m.open(e.CredentialBlob, e.EncryptedSecret)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Activate(b.ctx, b.tenant, e.EnrollmentID, secret, admin); err != nil {
			t.Fatal(err)
		}
	}
	first := enrol(prod)
	prove(first)
	stored := func() store.Machine {
		t.Helper()
		row, err := b.store.GetMachine(b.ctx, b.tenant, first.MachineID)
		if err != nil {
			t.Fatal(err)
		}
		return row
	}
	before := stored()
	r.Machine.ScaleSet, r.Machine.Labels = "lab", map[string]string{"env": "lab"}
	again := enrol(b.join)
	if now := stored(); !reflect.DeepEqual(now, before) {
		t.Errorf("unproved, it changed %+v to %+v", before, now)
	}
	prove(again)
	now := stored()
	if now.ScaleSet != "pool" || now.Labels["env"] != "prod" {
		t.Errorf("proved, it changed %+v to %+v", before, now)
	}
	if policy, _, err := b.store.PolicyFor(b.ctx, b.tenant, now); err != nil || policy.Selector.Labels["env"] == "lab" {
		t.Errorf("it chose its policy: %+v, %v", policy, err)
	}
}
