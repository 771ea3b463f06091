package schedule

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/tee"
)

// authority is a certificate authority of the test's own with a vendor's name.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var serial int64

func newAuthority(t testing.TB, name string, parent *authority, ca bool) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial++
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: t0.AddDate(-1, 0, 0), NotAfter: t0.AddDate(5, 0, 0),
		BasicConstraintsValid: true, IsCA: ca, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature}
	a := &authority{cert: template, key: key}
	signer := a
	if parent != nil {
		signer = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, key.Public(), signer.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a *authority) crl(t testing.TB, issued time.Time, valid time.Duration) []byte {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(issued.Unix()), ThisUpdate: issued, NextUpdate: issued.Add(valid)}, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// sign is an answer of Intel's PCS: the object beside the signature over its bytes.
func (a *authority) sign(t testing.TB, member, object string) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte(object))
	r, s, err := ecdsa.Sign(rand.Reader, a.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 64)
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return []byte(`{"` + member + `":` + object + `,"signature":"` + hex.EncodeToString(raw) + `"}`)
}

const fmspc = "50806f000000"

func tcbInfo(name string) string {
	return fmt.Sprintf(`{"id":"TDX","version":3,"issueDate":"2026-11-20T00:00:00Z","nextUpdate":"2026-12-20T00:00:00Z","fmspc":%q,"pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":17,"tcbLevels":[]}`, name)
}

const qeIdentity = `{"id":"TD_QE","version":2,"issueDate":"2026-11-20T00:00:00Z","nextUpdate":"2026-12-20T00:00:00Z","tcbEvaluationDataNumber":17,"miscselect":"00000000","miscselectMask":"FFFFFFFF","attributes":"11000000000000000000000000000000","attributesMask":"FBFFFFFFFFFFFFFF0000000000000000","mrsigner":"DC9E2A7C6F948F17474E34A7FC43ED030F7C1563F1BABDDF6340C82E0E54A8C5","isvprodid":2,"tcbLevels":[]}`

// vendors is AMD and Intel on one local server, and a tenant that trusts them.
type vendors struct {
	t     *testing.T
	store *store.Store
	http  *httptest.Server
	mu    sync.Mutex
	now   time.Time
	// answers by path and query; a path that has none is a 404.
	answers map[string]http.HandlerFunc
	asked   []string
	slept   []time.Duration

	ark, intel, platform, signer *authority
	vcek                         []byte
	vcekName, vcekPath           string
}

func newVendors(t *testing.T) *vendors {
	t.Helper()
	v := &vendors{t: t, store: newStore(t), now: t0, answers: map[string]http.HandlerFunc{},
		ark: newAuthority(t, "ARK-Milan", nil, true), intel: newAuthority(t, "Intel SGX Root CA", nil, true)}
	v.platform = newAuthority(t, "Intel SGX PCK Platform CA", v.intel, true)
	v.signer = newAuthority(t, "Intel SGX TCB Signing", v.intel, false)
	v.http = httptest.NewServer(http.HandlerFunc(v.serve))
	t.Cleanup(v.http.Close)
	amd, err := os.ReadFile(filepath.Join("..", "..", "verifier", "tee", "testdata", "amd-roots", "ask_ark_milan.pem"))
	if err != nil {
		t.Fatal(err)
	}
	v.trust("snp", string(amd)+v.ark.pem())
	v.trust("tdx", v.intel.pem())
	if v.vcek, err = os.ReadFile(filepath.Join("..", "..", "verifier", "tee", "testdata", "snp", "vcek.testcer")); err != nil {
		t.Fatal(err)
	}
	c, err := tee.ParseCollateral(tee.KindVCEK, v.vcek, nil)
	if err != nil {
		t.Fatal(err)
	}
	v.vcekName = c.Name
	var bl, teeLevel, snp, microcode int
	parts := strings.Split(c.Name, "/")
	if _, err := fmt.Sscanf(parts[2], "-.%02x.%02x.%02x.%02x", &bl, &teeLevel, &snp, &microcode); err != nil {
		t.Fatal(err)
	}
	v.vcekPath = fmt.Sprintf("/vcek/v1/Milan/%s?blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", parts[1], bl, teeLevel, snp, microcode)
	return v
}

func (v *vendors) trust(purpose, text string) {
	v.t.Helper()
	a := store.TrustAnchor{Name: purpose, Purpose: purpose}
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		sum := sha256.Sum256(block.Bytes)
		a.Certificates = append(a.Certificates, store.TrustCertificate{DER: block.Bytes, Subject: "x", Fingerprint: hex.EncodeToString(sum[:]), NotAfter: t0})
	}
	if _, err := v.store.CreateTrustAnchor(context.Background(), tenant, a, t0, system); err != nil {
		v.t.Fatal(err)
	}
}

func (v *vendors) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	v.asked = append(v.asked, r.URL.RequestURI())
	answer := v.answers[r.URL.RequestURI()]
	v.mu.Unlock()
	if answer == nil {
		http.NotFound(w, r)
		return
	}
	answer(w, r)
}

func (v *vendors) at(after time.Duration) { v.mu.Lock(); v.now = t0.Add(after); v.mu.Unlock() }

func (v *vendors) clock() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.now
}

// requests is what was asked since the last call.
func (v *vendors) requests() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := v.asked
	v.asked = nil
	return out
}

func send(body []byte, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		_, _ = w.Write(body)
	}
}

func refuse(status int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
	}
}

func (v *vendors) config() CollateralConfig {
	return CollateralConfig{Store: v.store, Tenant: tenant, Now: v.clock, AMDKDS: v.http.URL, IntelPCS: v.http.URL + "/", IntelRootCRL: v.http.URL + "/root.crl",
		sleep: func(_ context.Context, d time.Duration) error {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.slept = append(v.slept, d)
			return nil
		}}
}

// round is one round of a job that was just made, as after a restart.
func (v *vendors) round() string {
	v.t.Helper()
	report, err := Collateral(v.config()).Run(context.Background())
	if err != nil {
		v.t.Fatal(err)
	}
	return report
}

func (v *vendors) want(kind tee.Kind, names ...string) {
	v.t.Helper()
	for _, name := range names {
		if err := v.store.WantCollateral(context.Background(), tenant, []tee.Want{{Kind: kind, Name: name}}, v.clock()); err != nil {
			v.t.Fatal(err)
		}
	}
}

// reasons are the last errors of what is still wanted, by name.
func (v *vendors) reasons() map[string]string {
	v.t.Helper()
	wants, err := v.store.ListWants(context.Background(), tenant, 100)
	if err != nil {
		v.t.Fatal(err)
	}
	out := map[string]string{}
	for _, w := range wants {
		out[w.Name] = w.LastError
	}
	return out
}

func (v *vendors) held(kind tee.Kind, name string) *store.StoredCollateral {
	v.t.Helper()
	c, err := v.store.GetCollateral(context.Background(), tenant, kind, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		v.t.Fatal(err)
	}
	return &c
}

func TestFetchesWhatIsWanted(t *testing.T) {
	v := newVendors(t)
	if report := v.round(); report != "" || len(v.requests()) != 0 {
		t.Errorf("with nothing wanted: %q", report)
	}
	chain := func(leaf *authority) string { return url.PathEscape(leaf.pem() + v.intel.pem()) }
	bodies := map[tee.Kind][]byte{
		tee.KindVCEK: v.vcek, tee.KindSNPCRL: v.ark.crl(t, t0.AddDate(0, 0, -1), 60*24*time.Hour),
		tee.KindTCBInfo: v.signer.sign(t, "tcbInfo", tcbInfo(fmspc)), tee.KindQEIdentity: v.signer.sign(t, "enclaveIdentity", qeIdentity),
		tee.KindPCKCRL: v.platform.crl(t, t0.AddDate(0, 0, -1), 30*24*time.Hour), tee.KindRootCRL: v.intel.crl(t, t0.AddDate(0, 0, -1), 60*24*time.Hour),
	}
	v.answers = map[string]http.HandlerFunc{
		v.vcekPath:           send(bodies[tee.KindVCEK]),
		"/vcek/v1/Milan/crl": send(bodies[tee.KindSNPCRL]),
		"/tdx/certification/v4/tcb?fmspc=" + fmspc:              send(bodies[tee.KindTCBInfo], "TCB-Info-Issuer-Chain", chain(v.signer)),
		"/tdx/certification/v4/qe/identity":                     send(bodies[tee.KindQEIdentity], "SGX-Enclave-Identity-Issuer-Chain", chain(v.signer)),
		"/sgx/certification/v4/pckcrl?ca=platform&encoding=der": send(bodies[tee.KindPCKCRL], "SGX-PCK-CRL-Issuer-Chain", chain(v.platform)),
		"/root.crl": send(bodies[tee.KindRootCRL]),
	}
	names := map[tee.Kind]string{tee.KindVCEK: v.vcekName, tee.KindSNPCRL: "ARK-Milan", tee.KindTCBInfo: fmspc, tee.KindQEIdentity: "td",
		tee.KindPCKCRL: "Intel SGX PCK Platform CA", tee.KindRootCRL: "Intel SGX Root CA"}
	for kind, name := range names {
		v.want(kind, name)
	}
	if report := v.round(); report != "6 fetched, 0 not newer than what is held, 0 failed" {
		t.Errorf("%s; %v", report, v.reasons())
	}
	for kind, name := range names {
		if c := v.held(kind, name); c == nil || string(c.Body) != string(bodies[kind]) || c.Source != store.CollateralFetched || c.CreatedBy != "system:collateral-fetch" {
			t.Errorf("%s: held is %+v", kind, c)
		}
	}
	if left := v.reasons(); len(left) != 0 || len(v.requests()) != 6 {
		t.Errorf("still wanted are %v", left)
	}
	// Between two requests to one source there is a gap; AMD was asked twice, Intel three times, the root CRL once.
	if len(v.slept) != 3 || v.slept[0] != 10*time.Second {
		t.Errorf("waited %v", v.slept)
	}
	if report := v.round(); report != "" || len(v.requests()) != 0 {
		t.Errorf("with nothing wanted any more: %q", report)
	}
}

// A source that throttles is left alone for as long as it asks, by a service that was restarted too, and whatever is
// wanted of it meanwhile. The other sources are asked.
func TestThrottled(t *testing.T) {
	for story, header := range map[string]string{"seconds": "7200", "time": t0.Add(2 * time.Hour).Format(http.TimeFormat)} {
		t.Run(story, func(t *testing.T) {
			v := newVendors(t)
			throttle := refuse(http.StatusTooManyRequests, "Retry-After", header)
			v.answers = map[string]http.HandlerFunc{"/vcek/v1/Genoa/crl": throttle, "/vcek/v1/Milan/crl": throttle, v.vcekPath: throttle,
				"/root.crl": send(v.intel.crl(t, t0, 60*24*time.Hour))}
			v.want(tee.KindSNPCRL, "ARK-Milan", "ARK-Genoa")
			v.want(tee.KindVCEK, v.vcekName)
			v.want(tee.KindRootCRL, "Intel SGX Root CA")
			v.round()
			if got := v.requests(); len(got) != 2 {
				t.Errorf("asked %v", got)
			}
			if v.held(tee.KindRootCRL, "Intel SGX Root CA") == nil {
				t.Error("another source was left alone too")
			}
			v.answers["/vcek/v1/Milan/crl"] = send(v.ark.crl(t, t0, 60*24*time.Hour))
			delete(v.answers, "/vcek/v1/Genoa/crl")
			v.answers[v.vcekPath] = send(v.vcek)
			v.at(119 * time.Minute)
			v.answers["/vcek/v1/Turin/crl"] = send(nil)
			v.want(tee.KindSNPCRL, "ARK-Turin")
			if v.round(); len(v.requests()) != 0 {
				t.Error("it was asked before it allowed it")
			}
			v.at(2*time.Hour + 2*time.Second)
			v.round()
			if v.held(tee.KindSNPCRL, "ARK-Milan") == nil || v.held(tee.KindVCEK, v.vcekName) == nil {
				t.Errorf("after that time it was not fetched: %v", v.reasons())
			}
		})
	}
}

// A source that fails without saying for how long is asked at ever longer intervals.
func TestBackOffGrows(t *testing.T) {
	v := newVendors(t)
	v.answers["/root.crl"] = refuse(http.StatusServiceUnavailable)
	v.want(tee.KindRootCRL, "Intel SGX Root CA")
	var at []time.Duration
	for minute := 0; minute < 4*24*60; minute += 20 {
		v.at(time.Duration(minute) * time.Minute)
		v.round()
		for range v.requests() {
			at = append(at, time.Duration(minute)*time.Minute)
		}
	}
	if len(at) < 8 || len(at) > 14 {
		t.Fatalf("in four days it was asked at %v", at)
	}
	for i := 5; i < len(at)-1; i++ {
		if last, next := at[i]-at[i-1], at[i+1]-at[i]; next < min(last, 20*time.Hour) || next > 28*time.Hour {
			t.Errorf("waited %s, then %s", last, next)
		}
	}
	if why := v.reasons()["Intel SGX Root CA"]; !strings.Contains(why, "503") {
		t.Errorf("the reason is %q", why)
	}
}

// What is not what was asked for, or not signed up to an anchor, is not stored, and tells why.
func TestLies(t *testing.T) {
	v := newVendors(t)
	other := newAuthority(t, "ARK-Milan", nil, true)
	chain := url.PathEscape(v.signer.pem() + v.intel.pem())
	ok := v.signer.sign(t, "tcbInfo", tcbInfo(fmspc))
	const path = "/tdx/certification/v4/tcb?fmspc="
	chip := strings.Repeat("ab", 64)
	v.answers = map[string]http.HandlerFunc{
		path + "000000000001": send(ok, "TCB-Info-Issuer-Chain", chain),
		path + "000000000002": send([]byte("garbage"), "TCB-Info-Issuer-Chain", chain),
		path + "000000000003": send(v.signer.sign(t, "tcbInfo", tcbInfo("000000000003"))),
		path + "000000000004": send(v.signer.sign(t, "tcbInfo", tcbInfo("000000000004")), "TCB-Info-Issuer-Chain", "%zz"),
		path + "000000000005": send([]byte(strings.Replace(string(v.signer.sign(t, "tcbInfo", tcbInfo("000000000006"))), "000000000006", "000000000005", 1)), "TCB-Info-Issuer-Chain", chain),
		path + "000000000007": send(make([]byte, 2<<20), "TCB-Info-Issuer-Chain", chain),
		"/vcek/v1/Milan/crl":  send(other.crl(t, t0, 60*24*time.Hour)),
		"/vcek/v1/Milan/" + chip + "?blSPL=01&teeSPL=02&snpSPL=03&ucodeSPL=255": send(v.vcek),
	}
	wrongChip := "milan/" + chip + "/-.01.02.03.ff"
	v.want(tee.KindTCBInfo, "000000000001", "000000000002", "000000000003", "000000000004", "000000000005", "000000000007", "000000000008", fmspc)
	v.answers[path+fmspc] = send(ok, "TCB-Info-Issuer-Chain", chain)
	v.want(tee.KindSNPCRL, "ARK-Milan", "ARK-Naples")
	v.want(tee.KindVCEK, wrongChip, "milan/../../secret/-.01.02.03.04")
	v.want(tee.KindVLEK, "milan/cloud/-.01.02.03.04")
	if report := v.round(); report != "1 fetched, 0 not newer than what is held, 12 failed" {
		t.Errorf("%s", report)
	}
	reasons := v.reasons()
	for name, want := range map[string]string{
		"000000000001": `it is the tdx_tcb_info of "` + fmspc + `"`, "000000000002": "not JSON", "000000000003": "TCB-Info-Issuer-Chain", "000000000004": "TCB-Info-Issuer-Chain",
		"000000000005": "signature", "000000000007": "larger than", "000000000008": "404", "ARK-Milan": "not accepted", "ARK-Naples": "no product",
		wrongChip: "it is the vcek of", "milan/../../secret/-.01.02.03.04": "no name of a VCEK", "milan/cloud/-.01.02.03.04": "no public source",
	} {
		if !strings.Contains(reasons[name], want) || strings.HasPrefix(reasons[name], postponed) {
			t.Errorf("%s: %q, want %q", name, reasons[name], want)
		}
	}
	if items, _, err := v.store.ListCollateral(t.Context(), tenant, store.CollateralFilter{}, store.Page{}); err != nil || len(items) != 1 || items[0].Name != fmspc {
		t.Errorf("held are %+v, %v", items, err)
	}
	for _, asked := range v.requests() {
		if strings.Contains(asked, "secret") || strings.Contains(asked, "Naples") {
			t.Errorf("asked %s", asked)
		}
	}
	v.at(30 * time.Minute)
	if v.round(); len(v.requests()) != 0 {
		t.Error("what was refused was asked for again at once")
	}
}

func TestRedirects(t *testing.T) {
	v := newVendors(t)
	var elsewhere int
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		elsewhere++
		_, _ = w.Write(v.intel.crl(t, t0, 60*24*time.Hour))
	}))
	defer other.Close()
	to := func(address string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, address, http.StatusFound) }
	}
	v.answers["/root.crl"] = to(other.URL + "/root.crl")
	v.want(tee.KindRootCRL, "Intel SGX Root CA")
	v.round()
	if why := v.reasons()["Intel SGX Root CA"]; elsewhere != 0 || !strings.Contains(why, "another host") {
		t.Errorf("followed %d times; %q", elsewhere, why)
	}
	v.answers["/root.crl"] = to("/root.crl")
	v.at(time.Hour)
	v.round()
	if why := v.reasons()["Intel SGX Root CA"]; !strings.Contains(why, "too often") {
		t.Errorf("in a circle: %q", why)
	}
	v.answers["/root.crl"] = to("/moved.crl")
	v.answers["/moved.crl"] = send(v.intel.crl(t, t0, 60*24*time.Hour))
	v.at(2 * time.Hour)
	v.round()
	if v.held(tee.KindRootCRL, "Intel SGX Root CA") == nil {
		t.Errorf("within the host it was not followed: %v", v.reasons())
	}
}

// A certificate that does not hold ends the request; so does a source that is not there.
func TestWhoeverAnswersMustProveWhoItIs(t *testing.T) {
	v := newVendors(t)
	impostor := httptest.NewTLSServer(send(v.intel.crl(t, t0, 60*24*time.Hour)))
	impostor.Config.ErrorLog = nil
	defer impostor.Close()
	v.want(tee.KindRootCRL, "Intel SGX Root CA")
	cfg := v.config()
	cfg.IntelRootCRL = impostor.URL
	if _, err := Collateral(cfg).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if why := v.reasons()["Intel SGX Root CA"]; v.held(tee.KindRootCRL, "Intel SGX Root CA") != nil || !strings.Contains(why, "certificate") {
		t.Errorf("%q", why)
	}
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	if transport := newClient().http.Transport.(*http.Transport); transport.Proxy != nil {
		t.Error("the environment's proxy is used")
	}
	v.at(time.Hour)
	gone := httptest.NewServer(nil)
	gone.Close()
	cfg.IntelRootCRL = gone.URL
	if _, err := Collateral(cfg).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if why := v.reasons()["Intel SGX Root CA"]; !strings.Contains(why, "cannot be reached") || strings.Contains(why, gone.URL) {
		t.Errorf("%q", why)
	}
}

// What expires within a week is fetched again, unless the source has nothing newer, which is asked for twice a day.
func TestRefresh(t *testing.T) {
	v := newVendors(t)
	keep := func(issued time.Time, valid time.Duration) []byte {
		t.Helper()
		body := v.ark.crl(t, issued, valid)
		c, err := tee.ParseCollateral(tee.KindSNPCRL, body, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.store.PutCollateral(t.Context(), tenant, c, store.CollateralUploaded, t0, system); err != nil {
			t.Fatal(err)
		}
		return body
	}
	old := keep(t0.Add(-time.Hour), 10*24*time.Hour)
	v.answers["/vcek/v1/Milan/crl"] = send(old)
	if v.round(); len(v.requests()) != 0 {
		t.Error("what is valid for ten days was fetched")
	}
	v.at(4 * 24 * time.Hour)
	if report := v.round(); report != "0 fetched, 1 not newer than what is held, 0 failed" || v.reasons()["ARK-Milan"] != "the source has nothing newer yet" {
		t.Errorf("%s; %v", report, v.reasons())
	}
	v.at(4*24*time.Hour + 11*time.Hour)
	v.requests()
	if v.round(); len(v.requests()) != 0 {
		t.Error("asked again at once")
	}
	newer := v.ark.crl(t, t0.Add(4*24*time.Hour), 30*24*time.Hour)
	v.answers["/vcek/v1/Milan/crl"] = send(newer)
	v.at(4*24*time.Hour + 13*time.Hour)
	v.round()
	if c := v.held(tee.KindSNPCRL, "ARK-Milan"); string(c.Body) != string(newer) || len(v.reasons()) != 0 {
		t.Errorf("held is %+v, wanted %v", c, v.reasons())
	}
	// Wanted by one machine, brought by another: there is nothing to be done any more.
	v.want(tee.KindSNPCRL, "ARK-Milan")
	if report := v.round(); report != "0 fetched, 1 not newer than what is held, 0 failed" || len(v.reasons()) != 0 {
		t.Errorf("%s; %v", report, v.reasons())
	}
}

// A want that a stop interrupts is due again at once.
func TestAStopGivesBack(t *testing.T) {
	v := newVendors(t)
	ctx, cancel := context.WithCancel(t.Context())
	v.answers["/root.crl"] = func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}
	v.want(tee.KindRootCRL, "Intel SGX Root CA")
	if _, err := Collateral(v.config()).Run(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	v.answers["/root.crl"] = send(v.intel.crl(t, t0, 60*24*time.Hour))
	v.round()
	if v.held(tee.KindRootCRL, "Intel SGX Root CA") == nil {
		t.Errorf("it was not due again: %v", v.reasons())
	}
}

func TestASourceThatIsNotSetIsNotAsked(t *testing.T) {
	v := newVendors(t)
	v.want(tee.KindSNPCRL, "ARK-Milan")
	cfg := v.config()
	cfg.AMDKDS = ""
	if _, err := Collateral(cfg).Run(t.Context()); err != nil || len(v.requests()) != 0 {
		t.Error(err)
	}
}

// A name that came out of a report becomes an address only where it is exactly a name.
func TestAddresses(t *testing.T) {
	chip, turin := strings.Repeat("0a", 64), strings.Repeat("0a", 8)
	for _, c := range []struct {
		request    func(string, tee.Want) (string, string, error)
		kind       tee.Kind
		name, want string
	}{
		{requestAMD, tee.KindVCEK, "genoa/" + chip + "/-.0a.00.17.48", "/vcek/v1/Genoa/" + chip + "?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=72"},
		{requestAMD, tee.KindVCEK, "turin/" + turin + "/01.02.00.04.ff", "/vcek/v1/Turin/" + turin + "?fmcSPL=01&blSPL=02&teeSPL=00&snpSPL=04&ucodeSPL=255"},
		{requestAMD, tee.KindVCEK, "naples/" + chip + "/-.01.02.03.04", ""},
		{requestAMD, tee.KindVCEK, "genoa/" + strings.Repeat("00", 64) + "/-.01.02.03.04", ""},
		{requestAMD, tee.KindVCEK, "genoa/" + chip[1:] + "/-.01.02.03.04", ""},
		{requestAMD, tee.KindVCEK, "genoa/" + strings.ToUpper(chip) + "/-.01.02.03.04", ""},
		{requestAMD, tee.KindVCEK, "genoa/" + chip + "/-.01.02.03", ""},
		{requestAMD, tee.KindVCEK, "genoa/" + chip + "/-.01.02.03.4", ""},
		{requestAMD, tee.KindVCEK, "genoa/" + chip + "/-.01.02.03.-", ""},
		{requestAMD, tee.KindVCEK, "genoa/" + chip + "/-.01.02.03.04/x", ""},
		{requestAMD, tee.KindVCEK, "genoa", ""},
		{requestAMD, tee.KindSNPCRL, "ARK-Turin", "/vcek/v1/Turin/crl"},
		{requestAMD, tee.KindSNPCRL, "ARK-turin", ""},
		{requestAMD, tee.KindSNPCRL, "ARK-", ""},
		{requestAMD, tee.KindVLEK, "milan/cloud/-.01.02.03.04", ""},
		{requestIntel, tee.KindTCBInfo, "50806f00000", ""},
		{requestIntel, tee.KindTCBInfo, "50806f00000&", ""},
		{requestIntel, tee.KindPCKCRL, "Intel SGX PCK Processor CA", "/sgx/certification/v4/pckcrl?ca=processor&encoding=der"},
		{requestIntel, tee.KindPCKCRL, "Intel SGX Root CA", ""},
	} {
		got, _, err := c.request("", tee.Want{Kind: c.kind, Name: c.name})
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s %s: %q, %v; want %q", c.kind, c.name, got, err, c.want)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "120": 2 * time.Minute, " 5 ": 5 * time.Second, "-5": 0, "soon": 0, "99999999999999": 0,
		t0.Add(time.Minute).Format(http.TimeFormat): time.Minute, t0.Add(-time.Minute).Format(http.TimeFormat): 0} {
		if got := retryAfter(text, t0); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
