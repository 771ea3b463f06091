package store_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
)

// rootCertificate makes a self-signed certificate of that name.
func rootCertificate(t testing.TB, name string) store.TrustCertificate {
	t.Helper()
	key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: t0, NotAfter: t0.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return store.TrustCertificate{DER: der, Subject: name, Fingerprint: fmt.Sprintf("%x", sha256.Sum256(der)), NotAfter: template.NotAfter}
}

func trustOf(t testing.TB, s *store.Store) *store.TenantTrust {
	t.Helper()
	return must[*store.TenantTrust](t)(s.TenantTrust(t.Context(), tenant))
}

func anchorNamed(t testing.TB, s *store.Store, name string) store.TrustAnchor {
	t.Helper()
	items, _, err := s.ListTrustAnchors(t.Context(), tenant, store.TrustAnchorFilter{}, store.Page{})
	must0(t, err)
	for _, a := range items {
		if a.Name == name {
			return a
		}
	}
	t.Fatalf("no anchor %q in %+v", name, items)
	return store.TrustAnchor{}
}

func TestADisabledAnchorIsTrustedForNothing(t *testing.T) {
	s, conn := newStore(t)
	ctx := t.Context()
	c := rootCertificate(t, "ARK")
	a := must[store.TrustAnchor](t)(s.CreateTrustAnchor(ctx, tenant, store.TrustAnchor{Name: "AMD", Purpose: "snp", Certificates: []store.TrustCertificate{c}}, t0, system))
	broken := store.TrustCertificate{DER: []byte{1}, Subject: "broken", Fingerprint: "b0", NotAfter: t0}
	must[store.TrustAnchor](t)(s.CreateTrustAnchor(ctx, tenant, store.TrustAnchor{Name: "broken", Purpose: "tdx", Certificates: []store.TrustCertificate{broken}}, t0, system))
	other := rootCertificate(t, "RIM")
	must[store.TrustAnchor](t)(s.CreateTrustAnchor(ctx, tenant, store.TrustAnchor{Name: "RIM", Purpose: "reference_values", Certificates: []store.TrustCertificate{other}}, t0, system))

	on := trustOf(t, s)
	if len(on.SNP) != 1 || on.SNP[0].Subject.CommonName != "ARK" || len(on.TDX) != 0 || !on.AnchorFingerprints[c.Fingerprint] || !on.AnchorFingerprints[other.Fingerprint] {
		t.Errorf("trusted are %+v", on)
	}
	if again := trustOf(t, s); again != on {
		t.Error("what has not changed was read again")
	}
	if in := must[store.AppraisalInputs](t)(s.AppraisalInputs(ctx, tenant, active(t, s, joinToken(t, s, "j", 1), "a").MachineID, t0)); in.Trust != on {
		t.Error("an appraisal does not share what the tenant trusts")
	}
	for range 2 { // the second changes nothing
		if got := must[store.TrustAnchor](t)(s.SetTrustAnchorEnabled(ctx, tenant, a.ID, false, t0, system)); got.Enabled || got.Name != "AMD" || len(got.Certificates) != 1 {
			t.Errorf("disabled, the anchor is %+v", got)
		}
	}
	off := trustOf(t, s)
	if len(off.SNP) != 0 || off.AnchorFingerprints[c.Fingerprint] || off.Generation <= on.Generation {
		t.Errorf("with the anchor disabled %+v is trusted", off)
	}
	if for_ := must[[]store.TrustAnchor](t)(s.TrustAnchorsFor(ctx, tenant, "snp")); len(for_) != 0 {
		t.Errorf("for snp there is %+v", for_)
	}
	disabled := false
	items, _, err := s.ListTrustAnchors(ctx, tenant, store.TrustAnchorFilter{Enabled: &disabled}, store.Page{})
	if err != nil || len(items) != 1 || items[0].ID != a.ID {
		t.Errorf("disabled anchors are %+v, %v", items, err)
	}
	must[store.TrustAnchor](t)(s.SetTrustAnchorEnabled(ctx, tenant, a.ID, true, t0, system))
	if back := trustOf(t, s); len(back.SNP) != 1 {
		t.Errorf("enabled again, %+v is trusted", back)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action IN ('trust_anchor.disable', 'trust_anchor.enable')`); n != 2 {
		t.Errorf("%d records of two changes", n)
	}
	if _, err := s.SetTrustAnchorEnabled(ctx, tenant, uuid.New(), false, t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.TenantTrust(ctx, uuid.New()); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	must[store.TrustAnchor](t)(s.DeleteTrustAnchor(ctx, tenant, a.ID, t0, system))
	if gone := trustOf(t, s); len(gone.SNP) != 0 {
		t.Errorf("deleted, %+v is trusted", gone)
	}
}

func TestShippedAnchors(t *testing.T) {
	s, conn := newStore(t)
	ctx := t.Context()
	ark, ask, intel := rootCertificate(t, "ARK"), rootCertificate(t, "ASK"), rootCertificate(t, "Intel")
	bundle := []store.ShippedAnchor{
		{Name: "AMD", Purpose: "snp", Source: "somewhere", Certificates: []store.TrustCertificate{ark, ask}},
		{Name: "Intel", Purpose: "tdx", Source: "elsewhere", Certificates: []store.TrustCertificate{intel}},
	}
	sync := func(enabled bool) { t.Helper(); must0(t, s.SyncShippedAnchors(ctx, tenant, bundle, enabled, t0)) }
	syncs := func() int64 {
		return number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'trust_anchor.sync'`)
	}
	sync(true)
	generation := trustOf(t, s).Generation
	sync(true)
	amd := anchorNamed(t, s, "AMD")
	if amd.Origin != "shipped" || !amd.Enabled || amd.Source != "somewhere" || len(amd.Certificates) != 2 || syncs() != 1 || trustOf(t, s).Generation != generation {
		t.Errorf("synced twice, the anchor is %+v, with %d records", amd, syncs())
	}
	if _, err := s.DeleteTrustAnchor(ctx, tenant, amd.ID, t0, system); !errors.Is(err, store.ErrConflict) {
		t.Errorf("deleting a shipped anchor: %v", err)
	}
	must[store.TrustAnchor](t)(s.SetTrustAnchorEnabled(ctx, tenant, amd.ID, false, t0, system))
	bundle[0].Name, bundle[0].Source = "AMD SEV", "somewhere@2"
	bundle[0].Certificates = []store.TrustCertificate{ask, ark} // the order does not count
	sync(true)
	if got := anchorNamed(t, s, "AMD SEV"); got.ID != amd.ID || got.Enabled || got.Source != "somewhere@2" || syncs() != 2 {
		t.Errorf("renamed in the bundle, the anchor is %+v", got)
	}
	// A later bundle has another set with a certificate that was withdrawn, and a new anchor.
	bundle[0] = store.ShippedAnchor{Name: "AMD 2", Purpose: "snp", Certificates: []store.TrustCertificate{ark}}
	bundle = append(bundle, store.ShippedAnchor{Name: "new", Purpose: "ek", Certificates: []store.TrustCertificate{ark}})
	sync(true)
	if got := anchorNamed(t, s, "AMD 2"); got.Enabled {
		t.Error("an update of the bundle brought back what somebody had withdrawn")
	}
	if got := anchorNamed(t, s, "new"); !got.Enabled {
		t.Error("an anchor for another purpose was withdrawn too")
	}
	anchorNamed(t, s, "AMD SEV") // no longer shipped, and still there
	bundle = append(bundle, store.ShippedAnchor{Name: "off", Purpose: "tdx", Certificates: []store.TrustCertificate{ask}})
	sync(false)
	if got := anchorNamed(t, s, "off"); got.Enabled {
		t.Error("a new anchor began enabled where it should not")
	}
	if got := anchorNamed(t, s, "Intel"); !got.Enabled {
		t.Error("a known anchor was switched")
	}
}

// crl is collateral that all appraisals share; vcek is not.
func crl(name string, issued time.Time, body string) tee.Collateral {
	return tee.Collateral{Kind: tee.KindSNPCRL, Name: name, Body: []byte(body), NotBefore: issued, NotAfter: issued.AddDate(1, 0, 0)}
}

func vcek(name, body string) tee.Collateral {
	return tee.Collateral{Kind: tee.KindVCEK, Name: name, Body: []byte(body), NotBefore: t0, NotAfter: t0.AddDate(7, 0, 0)}
}

func TestCollateralIsReplacedOnlyByNewer(t *testing.T) {
	s, conn := newStore(t)
	ctx := t.Context()
	put := func(story string, c tee.Collateral, want bool, held string) {
		t.Helper()
		stored, err := s.PutCollateral(ctx, tenant, c, store.CollateralUploaded, t0, system)
		if err != nil || stored != want {
			t.Errorf("%s: stored %v, %v", story, stored, err)
		}
		if got := must[store.StoredCollateral](t)(s.GetCollateral(ctx, tenant, c.Kind, c.Name)); string(got.Body) != held || got.SHA256 != sha256.Sum256([]byte(held)) || got.Source != "uploaded" {
			t.Errorf("%s: held is %+v", story, got)
		}
	}
	put("first", crl("ARK-Milan", t0, "1"), true, "1")
	generation := trustOf(t, s).Generation
	put("the same", crl("ARK-Milan", t0, "1"), false, "1")
	put("older", crl("ARK-Milan", t0.Add(-time.Hour), "0"), false, "1")
	longer := crl("ARK-Milan", t0.Add(-time.Hour), "0")
	longer.NotAfter = t0.AddDate(9, 0, 0)
	put("older, valid for longer", longer, false, "1")
	if trust := trustOf(t, s); trust.Generation != generation || len(trust.Collateral) != 1 {
		t.Errorf("after nothing was stored %+v is trusted", trust)
	}
	put("newer", crl("ARK-Milan", t0.Add(time.Hour), "2"), true, "2")
	reissued := crl("ARK-Milan", t0.Add(time.Hour), "3")
	reissued.NotAfter = reissued.NotAfter.Add(time.Second)
	put("of the same time, valid for longer", reissued, true, "3")
	if trust := trustOf(t, s); trust.Generation <= generation || string(trust.Collateral[0].Body) != "3" || !trust.Collateral[0].NotAfter.Equal(reissued.NotAfter) {
		t.Errorf("after a change %+v is trusted", trust)
	}
	generation = trustOf(t, s).Generation
	put("an endorsement key", vcek("milan/aa/bb", "key"), true, "key")
	if trust := trustOf(t, s); trust.Generation != generation || len(trust.Collateral) != 1 {
		t.Errorf("an endorsement key is shared by all: %+v", trust)
	}
	for range 2 {
		if got := must[tee.Collateral](t)(s.Collateral(ctx, tenant, tee.KindVCEK, "milan/aa/bb")); string(got.Body) != "key" {
			t.Errorf("the endorsement key is %+v", got)
		}
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'collateral.store' AND after->>'source' = 'uploaded'`); n != 4 {
		t.Errorf("%d records of four changes", n)
	}
	names := func(f store.CollateralFilter) string {
		var out []string
		for _, c := range allOf(t, func(p store.Page) ([]store.StoredCollateral, string, error) {
			p.Limit = 1
			return s.ListCollateral(ctx, tenant, f, p)
		}) {
			out = append(out, c.Name)
		}
		return strings.Join(out, " ")
	}
	soon := t0.AddDate(2, 0, 0)
	for want, f := range map[string]store.CollateralFilter{"ARK-Milan milan/aa/bb": {}, "milan/aa/bb": {Kind: tee.KindVCEK}, "ARK-Milan": {ExpiringBefore: &soon}} {
		if got := names(f); got != want {
			t.Errorf("%+v lists %q, want %q", f, got, want)
		}
	}
	must0(t, s.DeleteCollateral(ctx, tenant, tee.KindSNPCRL, "ARK-Milan", t0, system))
	must0(t, s.DeleteCollateral(ctx, tenant, tee.KindVCEK, "milan/aa/bb", t0, system))
	if err := s.DeleteCollateral(ctx, tenant, tee.KindVCEK, "milan/aa/bb", t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleting twice: %v", err)
	}
	if _, err := s.Collateral(ctx, tenant, tee.KindVCEK, "milan/aa/bb"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after it was deleted: %v", err)
	}
	if trust := trustOf(t, s); len(trust.Collateral) != 0 {
		t.Errorf("after it was deleted %+v is trusted", trust)
	}
}

func TestEvidenceBringsCollateralOnce(t *testing.T) {
	s, conn := newStore(t)
	e := active(t, s, joinToken(t, s, "j", 1), "a")
	rec := judgement(e, t0, verifier.Affirming, "good")
	rec.Collateral = []tee.Collateral{vcek("milan/aa/bb", "key"), crl("ARK-Milan", t0, "old"), crl("ARK-Milan", t0.Add(time.Hour), "new")}
	rec.CollateralWants = []tee.Want{{Kind: tee.KindVCEK, Name: "milan/cc/dd"}}
	used := rec
	record(t, s, rec)
	used.Collateral = []tee.Collateral{crl("ARK-Genoa", t0, "refused")}
	if _, err := s.RecordAppraisal(t.Context(), tenant, used); !errors.Is(err, store.ErrNonceUsed) {
		t.Fatal(err)
	}
	trust := trustOf(t, s)
	if len(trust.Collateral) != 1 || string(trust.Collateral[0].Body) != "new" {
		t.Errorf("trusted is %+v", trust.Collateral)
	}
	if got := must[store.StoredCollateral](t)(s.GetCollateral(t.Context(), tenant, tee.KindVCEK, "milan/aa/bb")); got.Source != "evidence" || got.CreatedBy != "machine:"+e.MachineID.String() {
		t.Errorf("stored is %+v", got)
	}
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'collateral.store' AND actor_kind = 'machine'`); n != 2 {
		t.Errorf("%d records of two changes", n)
	}
	// The unchanged judgement after it writes nothing of it, and a later one that brings something does.
	again := judgement(e, t0.Add(time.Minute), verifier.Affirming, "good")
	again.Collateral, again.CollateralWants = rec.Collateral, rec.CollateralWants
	if got := record(t, s, again); got.New || got.Count != 2 || trustOf(t, s) != trust {
		t.Errorf("the same again is %+v", got)
	}
	more := judgement(e, t0.Add(2*time.Minute), verifier.Affirming, "good")
	more.Collateral = []tee.Collateral{crl("ARK-Genoa", t0, "genoa"), vcek("milan/cc/dd", "wanted")}
	if got := record(t, s, more); got.New || got.Count != 3 || len(trustOf(t, s).Collateral) != 2 {
		t.Errorf("an unchanged judgement with a new CRL is %+v, trusted %+v", got, trustOf(t, s))
	}
	if n := number(t, conn, `SELECT count(*) FROM collateral_wants`); n != 0 {
		t.Errorf("%d wants are left of one that was satisfied", n)
	}
}

func TestWants(t *testing.T) {
	s, conn := newStore(t)
	ctx := t.Context()
	e := active(t, s, joinToken(t, s, "j", 1), "a")
	rec := judgement(e, t0, verifier.Affirming, "good")
	for i := range 20 {
		rec.CollateralWants = append(rec.CollateralWants, tee.Want{Kind: tee.KindVCEK, Name: fmt.Sprint("milan/", i)})
	}
	record(t, s, rec)
	if n := number(t, conn, `SELECT count(*) FROM collateral_wants`); n != 8 {
		t.Errorf("one piece of evidence asks for %d things", n)
	}
	must0(t, s.WantCollateral(ctx, tenant, []tee.Want{{Kind: tee.KindSNPCRL, Name: "ARK-Milan"}}, t0))

	// Two replicas that claim at once get different wants.
	var mu sync.Mutex
	var wg sync.WaitGroup
	claimed := map[string]int{}
	kinds := []tee.Kind{tee.KindVCEK}
	for range 4 {
		wg.Go(func() {
			got, err := s.ClaimWants(ctx, tenant, kinds, 3, time.Minute, t0)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			for _, w := range got {
				claimed[w.Name]++
			}
		})
	}
	wg.Wait()
	for name, n := range claimed {
		if n != 1 {
			t.Errorf("%s was claimed %d times", name, n)
		}
	}
	rest := must[[]store.CollateralWant](t)(s.ClaimWants(ctx, tenant, kinds, 99, time.Minute, t0))
	if len(claimed)+len(rest) != 8 {
		t.Errorf("%d and %d were claimed of 8", len(claimed), len(rest))
	}
	if early := must[[]store.CollateralWant](t)(s.ClaimWants(ctx, tenant, kinds, 99, time.Minute, t0.Add(59*time.Second))); len(early) != 0 {
		t.Errorf("claimed before the lease ended: %+v", early)
	}
	late := must[[]store.CollateralWant](t)(s.ClaimWants(ctx, tenant, kinds, 99, time.Minute, t0.Add(time.Minute)))
	if len(late) != 8 || late[0].Attempts != 0 {
		t.Errorf("after a crash %d are due", len(late))
	}
	must0(t, s.WantSucceeded(ctx, tenant, late[0].Want))
	must0(t, s.WantFailed(ctx, tenant, late[1].Want, t0.Add(time.Hour), "the vendor says 404"))
	must0(t, s.PostponeWants(ctx, tenant, kinds, t0.Add(10*time.Minute)))
	due := func(after time.Duration) int {
		return len(must[[]store.CollateralWant](t)(s.ClaimWants(ctx, tenant, kinds, 99, 0, t0.Add(after))))
	}
	if a, b, c := due(9*time.Minute), due(10*time.Minute), due(time.Hour); a != 0 || b != 6 || c != 7 {
		t.Errorf("due are %d, %d and %d", a, b, c)
	}
	all := must[[]store.CollateralWant](t)(s.ListWants(ctx, tenant, 99))
	failed := 0
	for _, w := range all {
		if w.Want == late[1].Want && w.Attempts == 1 && w.LastError == "the vendor says 404" {
			failed++
		}
	}
	if len(all) != 8 || failed != 1 {
		t.Errorf("wanted are %+v", all)
	}
	if n := must[int64](t)(s.DropWants(ctx, tenant, 1, t0.Add(time.Second))); n != 1 {
		t.Errorf("%d were dropped", n)
	}
}

func TestTheWantsOfATenantAreBounded(t *testing.T) {
	s, conn := newStore(t)
	if _, err := conn.Exec(t.Context(), `INSERT INTO collateral_wants (tenant_id, kind, name, first_wanted_at, next_attempt_at) SELECT $1, 'vcek', i::text, $2, $2 FROM generate_series(1, 10000) i`, tenant, t0); err != nil {
		t.Fatal(err)
	}
	must0(t, s.WantCollateral(t.Context(), tenant, []tee.Want{{Kind: tee.KindVCEK, Name: "one too many"}}, t0))
	if n := number(t, conn, `SELECT count(*) FROM collateral_wants`); n != 10000 {
		t.Errorf("%d wants", n)
	}
}

func TestPlatformEvidenceIsStoredOnceAndRemembered(t *testing.T) {
	s, conn := newStore(t)
	ctx := t.Context()
	e := active(t, s, joinToken(t, s, "j", 1), "a")
	inputs := func() store.AppraisalInputs {
		t.Helper()
		return must[store.AppraisalInputs](t)(s.AppraisalInputs(ctx, tenant, e.MachineID, t0))
	}
	body := []byte(`{"type":"azure_hcl"}`)
	with := func(at time.Duration, what string, digest []byte) store.AppraisalRecord {
		rec := judgement(e, t0.Add(at), verifier.Affirming, what)
		rec.PlatformDigest, rec.PlatformType, rec.VMID = digest, "azure_hcl", "vm-1"
		return rec
	}
	rec := with(0, "good", hash("report"))
	rec.PlatformEvidence = body
	record(t, s, rec)
	if got := must[[]byte](t)(s.GetPlatformEvidence(ctx, tenant, hash("report"))); !bytes.Equal(got, body) || !must[bool](t)(s.HasPlatformEvidence(ctx, tenant, hash("report"))) {
		t.Errorf("held is %q", got)
	}
	in := inputs()
	if !bytes.Equal(in.LastPlatform, hash("report")) || in.Machine.PlatformEvidenceType != "azure_hcl" || in.Machine.VMID != "vm-1" {
		t.Errorf("remembered is %x of %+v", in.LastPlatform, in.Machine)
	}
	// An unchanged judgement over another report moves it on, whether it brings the body or not.
	if got := record(t, s, with(time.Minute, "good", hash("report 2"))); got.New || !bytes.Equal(inputs().LastPlatform, hash("report 2")) {
		t.Errorf("after %+v it is %x", got, inputs().LastPlatform)
	}
	rec = with(2*time.Minute, "good", hash("report 3"))
	rec.PlatformEvidence = body
	if got := record(t, s, rec); got.New || got.Count != 3 || !bytes.Equal(inputs().LastPlatform, hash("report 3")) || !must[bool](t)(s.HasPlatformEvidence(ctx, tenant, hash("report 3"))) {
		t.Errorf("after %+v it is %x", got, inputs().LastPlatform)
	}
	// What is not genuine leaves nothing.
	rec = with(3*time.Minute, "forged", hash("forged"))
	rec.Appraisal.Genuine, rec.Clock, rec.PlatformType, rec.VMID = false, nil, "tdx", "vm-2"
	record(t, s, rec)
	if in := inputs(); !bytes.Equal(in.LastPlatform, hash("report 3")) || in.Machine.PlatformEvidenceType != "azure_hcl" || in.Machine.VMID != "vm-1" || !in.Machine.LastSeenAt.Equal(t0.Add(2*time.Minute)) {
		t.Errorf("after a forgery it is %x of %+v", in.LastPlatform, in.Machine)
	}
	record(t, s, judgement(e, t0.Add(4*time.Minute), verifier.Affirming, "good"))
	if in := inputs(); in.LastPlatform != nil {
		t.Errorf("after evidence without a report it is %x", in.LastPlatform)
	}
	record(t, s, with(5*time.Minute, "good", hash("report")))
	must0(t, s.RevokeAttestationKey(ctx, tenant, e.MachineID, t0.Add(6*time.Minute), system))
	if in := inputs(); in.LastPlatform != nil {
		t.Errorf("after the key was revoked it is %x", in.LastPlatform)
	}
	if n := number(t, conn, `SELECT count(*) FROM platform_evidence`); n != 2 {
		t.Errorf("%d pieces of hardware evidence are stored", n)
	}
	if _, err := s.GetPlatformEvidence(ctx, tenant, hash("none")); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

// A guest without a TPM has no clock, and is remembered all the same.
func TestAGuestWithoutATPM(t *testing.T) {
	s, _ := newStore(t)
	in := enrolment(joinToken(t, s, "j", 2), store.MachineInput{Name: "td"}, "", "")
	end := t0.AddDate(1, 0, 0)
	in.AKPublic, in.AKName, in.Assurance = nil, hash("guest"), verifier.TEEBound
	in.Kind, in.AnchorFingerprint, in.CertificateNotAfter = store.KeyTEE, "abcd", &end
	in.Machine.Instance = json.RawMessage(`{"project":"p","zone":"z"}`)
	e := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, in, t0, system))
	inputs := func() store.AppraisalInputs {
		t.Helper()
		return must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, e.MachineID, t0))
	}
	got := inputs()
	if k := got.Key; k == nil || k.Kind != "tee" || len(k.Public) != 0 || k.AnchorFingerprint != "abcd" || k.CertificateNotAfter == nil || !k.CertificateNotAfter.Equal(end) || k.Assurance != verifier.TEEBound {
		t.Errorf("the key is %+v", got.Key)
	}
	if !strings.Contains(string(got.Machine.Instance), `"project": "p"`) {
		t.Errorf("the instance is %s", got.Machine.Instance)
	}
	rec := judgement(e, t0, verifier.Affirming, "good")
	rec.Clock, rec.EventLogHash, rec.PlatformDigest, rec.PlatformType = nil, hash("ccel"), hash("quote"), "tdx"
	record(t, s, rec)
	got = inputs()
	if got.LastClock != nil || !bytes.Equal(got.LastLog, hash("ccel")) || !bytes.Equal(got.LastPlatform, hash("quote")) || got.Machine.LastSeenAt == nil {
		t.Errorf("remembered is %+v", got)
	}
	// It enrols again with a renewed endorsement and another instance: both are proven, and replace.
	later := end.AddDate(1, 0, 0)
	in.CertificateNotAfter, in.AnchorFingerprint, in.Machine.Instance = &later, "ef01", json.RawMessage(`{"project":"q"}`)
	again := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, in, t0, system))
	got = inputs()
	if again.KeyID != e.KeyID || got.Key.AnchorFingerprint != "ef01" || !got.Key.CertificateNotAfter.Equal(later) || string(got.Machine.Instance) != `{"project": "q"}` {
		t.Errorf("renewed, the key is %+v of %s", got.Key, got.Machine.Instance)
	}
}

func TestActivationCarriesWhatTheProofEndedIn(t *testing.T) {
	s, _ := newStore(t)
	in := enrolment(joinToken(t, s, "j", 1), store.MachineInput{Name: "vm"}, "ek", "ak")
	end := t0.AddDate(1, 0, 0)
	in.Proved, in.SecretHash, in.Assurance = false, hash("secret"), verifier.EKActivated
	in.AnchorFingerprint, in.CertificateNotAfter, in.Machine.Instance = "abcd", &end, json.RawMessage(`{"zone":"z"}`)
	e := must[store.Enrollment](t)(s.CreateEnrollment(t.Context(), tenant, in, t0, system))
	if m := must[store.Machine](t)(s.GetMachine(t.Context(), tenant, e.MachineID)); m.Instance != nil {
		t.Errorf("before it is proved the instance is %s", m.Instance)
	}
	must[store.Enrollment](t)(s.ActivateEnrollment(t.Context(), tenant, e.ID, hash("secret"), t0, system))
	got := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, e.MachineID, t0))
	if k := got.Key; k.Kind != "tpm" || k.AnchorFingerprint != "abcd" || k.CertificateNotAfter == nil || !k.CertificateNotAfter.Equal(end) || string(got.Machine.Instance) != `{"zone": "z"}` {
		t.Errorf("active is %+v of %s", k, got.Machine.Instance)
	}
}

func TestMachinesRestingOnAnAnchor(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	c, other := rootCertificate(t, "root"), rootCertificate(t, "other")
	a := must[store.TrustAnchor](t)(s.CreateTrustAnchor(ctx, tenant, store.TrustAnchor{Name: "a", Purpose: "snp", Certificates: []store.TrustCertificate{other, c}}, t0, system))
	empty := must[store.TrustAnchor](t)(s.CreateTrustAnchor(ctx, tenant, store.TrustAnchor{Name: "b", Purpose: "snp", Certificates: []store.TrustCertificate{rootCertificate(t, "x")}}, t0, system))
	token := joinToken(t, s, "j", 9)
	var last store.Enrollment
	rest := func(name, print string, root string) {
		t.Helper()
		in := enrolment(token, store.MachineInput{Name: name}, "ek "+name, "ak "+name)
		in.AnchorFingerprint = print
		e := must[store.Enrollment](t)(s.CreateEnrollment(ctx, tenant, in, t0, system))
		rec := judgement(e, t0, verifier.Affirming, "good")
		if root != "" {
			rec.Appraisal.Claims.Platform = &tee.Claims{RootSHA256: root}
		}
		record(t, s, rec)
		last = e
	}
	rest("by key", c.Fingerprint, "")
	rest("by report", "", c.Fingerprint)
	rest("by both", other.Fingerprint, c.Fingerprint)
	rest("by neither", "ffff", "ffff")
	var got []string
	for _, m := range allOf(t, func(p store.Page) ([]store.RestingMachine, string, error) {
		p.Limit = 1
		return s.MachinesRestingOn(ctx, tenant, a.ID, p)
	}) {
		got = append(got, m.Name+"="+m.How)
	}
	if want := "by key=attestation_key, by report=platform_report, by both=attestation_key, by both=platform_report"; !sameSet(got, strings.Split(want, ", ")) {
		t.Errorf("resting are %q", got)
	}
	count := func() int64 { t.Helper(); return must[int64](t)(s.CountMachinesRestingOn(ctx, tenant, a.ID)) }
	if n := count(); n != 3 {
		t.Errorf("%d machines", n)
	}
	rest("for a while", "", c.Fingerprint)
	if n := count(); n != 4 {
		t.Errorf("with one more there are %d machines", n)
	}
	record(t, s, judgement(last, t0.Add(time.Minute), verifier.Affirming, "no hardware evidence"))
	if n := count(); n != 3 {
		t.Errorf("after its next verdict there are %d machines", n)
	}
	if items, _, err := s.MachinesRestingOn(ctx, tenant, empty.ID, store.Page{}); err != nil || len(items) != 0 {
		t.Errorf("on another anchor rest %+v, %v", items, err)
	}
	if _, _, err := s.MachinesRestingOn(ctx, tenant, uuid.New(), store.Page{}); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if _, _, err := s.MachinesRestingOn(ctx, tenant, a.ID, store.Page{Cursor: "x"}); !errors.Is(err, store.ErrInvalidCursor) {
		t.Error(err)
	}
}

func sameSet(a, b []string) bool {
	count := map[string]int{}
	for _, x := range a {
		count[x]++
	}
	for _, x := range b {
		count[x]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}
