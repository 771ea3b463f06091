package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/tlsfile"
	"github.com/assay-verifier/assay/server/token"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// dialTLS connects as a client with a certificate, or none.
func dialTLS(t testing.TB, address string, pool *x509.CertPool, client *tls.Certificate, protocol string) *tls.Conn {
	t.Helper()
	cfg := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}}
	if client != nil {
		cfg.Certificates = []tls.Certificate{*client}
	}
	conn, err := tls.Dial("tcp", address, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// askOn makes one request on a connection; 0 where it is cut off.
func askOn(t testing.TB, conn *tls.Conn, bearer string) int {
	t.Helper()
	_, _ = fmt.Fprintf(conn, "GET /v1/overview HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", bearer)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	defer func() { _ = resp.Body.Close() }()
	var discard bytes.Buffer
	_, _ = discard.ReadFrom(resp.Body)
	return resp.StatusCode
}

// clientCA signs certificates for clients.
type clientCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

func newClientCA(t *testing.T) *clientCA {
	t.Helper()
	c := &clientCA{t: t}
	c.cert, c.key = c.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	return c
}

func (c *clientCA) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	c.n++
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(c.n), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := c.cert, c.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		c.t.Fatal(err)
	}
	return cert, key
}

// client makes a client's certificate; digest is its SHA-256.
func (c *clientCA) client() (pair *tls.Certificate, digest string) {
	c.t.Helper()
	cert, key := c.sign(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	sum := sha256.Sum256(cert.Raw)
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}, hex.EncodeToString(sum[:])
}

func (c *clientCA) write(name string) {
	c.t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// mutual is a service that asks clients for certificates.
type mutual struct {
	*bench
	address string
	pool    *x509.CertPool
	ca      *clientCA
	caFile  string
	reload  chan os.Signal
}

func newMutual(t *testing.T, require, bind bool) *mutual {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile, pool := selfSigned(t, dir)
	u := &mutual{pool: pool, ca: newClientCA(t), caFile: filepath.Join(dir, "clients.pem"), reload: make(chan os.Signal, 1)}
	u.ca.write(u.caFile)
	u.bench = newBench(t, func(c *Config) {
		c.TLS = loadTLS(t, tlsfile.Files{Certificate: certFile, Key: keyFile, ClientCA: u.caFile, RequireClient: require})
		c.BindMachineTokens, c.Reload = bind, u.reload
	})
	u.address = u.serving()
	return u
}

// as makes a request over TLS with a certificate, or none, and answers it checked against the contract; status 0 where the
// handshake fails.
func (u *mutual) as(client *tls.Certificate, method, path, bearer string, body any) answer {
	u.t.Helper()
	cfg := &tls.Config{RootCAs: u.pool, MinVersion: tls.VersionTLS13}
	if client != nil {
		cfg.Certificates = []tls.Certificate{*client}
	}
	transport := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}
	var r bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&r).Encode(body); err != nil {
			u.t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(context.Background(), method, "https://"+u.address+path, &r)
	if err != nil {
		u.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return answer{}
	}
	defer func() { _ = resp.Body.Close() }()
	var text bytes.Buffer
	if _, err := text.ReadFrom(resp.Body); err != nil {
		u.t.Fatal(err)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: text.Bytes()}
	u.checkContract(req, a)
	return a
}

// TestBoundAPITokens: a token that is bound to a certificate is worth nothing on a connection that has not shown it.
func TestBoundAPITokens(t *testing.T) {
	u := newMutual(t, false, false)
	mine, digest := u.ca.client()
	another, _ := u.ca.client()
	made := u.as(nil, "POST", "/v1/api-tokens", u.admin, map[string]any{"name": "bound", "role": "reader", "certificate_sha256": digest})
	if made.status != 201 || made.json(t)["certificate_sha256"] != digest {
		t.Fatalf("%d %s", made.status, made.body)
	}
	bearer := made.text(t, "token")
	for range 2 { // looked up, and from memory
		for name, c := range map[string]struct {
			client *tls.Certificate
			want   int
		}{"its own": {mine, 200}, "another": {another, 401}, "none": {nil, 401}} {
			if a := u.as(c.client, "GET", "/v1/overview", bearer, nil); a.status != c.want {
				t.Errorf("certificate %s: %d %s", name, a.status, a.body)
			}
		}
	}
	if a := u.as(mine, "GET", "/v1/overview", u.admin, nil); a.status != 200 {
		t.Errorf("a token that is bound to nothing, with a certificate: %d", a.status)
	}
	list := u.as(nil, "GET", "/v1/api-tokens", u.admin, nil)
	if !strings.Contains(string(list.body), digest) {
		t.Errorf("the list does not say what it is bound to: %s", list.body)
	}
	// The pages look tokens up by themselves.
	sum := sha256.Sum256([]byte(bearer))
	_, held, err := u.store.LookupAPIToken(t.Context(), sum[:], time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckBinding(t.Context(), &held); err == nil {
		t.Error("a page takes a bound token without its certificate")
	}
	plain := newBench(t, nil)
	plain.refused("invalid_field", "/certificate_sha256", "POST", "/v1/api-tokens", plain.admin, map[string]any{"name": "bound", "role": "reader", "certificate_sha256": digest})
}

// TestCertificateRequired: nobody gets in without one, whatever their token; another CA counts at once after a reload, and
// who was connected by the one before is disconnected.
func TestCertificateRequired(t *testing.T) {
	u := newMutual(t, true, false)
	mine, _ := u.ca.client()
	if a := u.as(nil, "GET", "/v1/overview", u.admin, nil); a.status != 0 {
		t.Errorf("without a certificate: %d", a.status)
	}
	conn := dialTLS(t, u.address, u.pool, mine, "http/1.1")
	defer func() { _ = conn.Close() }()
	if status := askOn(t, conn, u.admin); status != 200 {
		t.Errorf("with a certificate: %d", status)
	}
	next := newClientCA(t)
	theirs, _ := next.client()
	next.write(u.caFile)
	u.reload <- os.Interrupt
	waitFor(t, func() bool { return u.as(theirs, "GET", "/v1/overview", u.admin, nil).status == 200 })
	if a := u.as(mine, "GET", "/v1/overview", u.admin, nil); a.status != 0 {
		t.Errorf("a certificate of the CA before: %d", a.status)
	}
	if status := askOn(t, conn, u.admin); status != 0 {
		t.Errorf("a connection of the CA before is answered %d", status)
	}
	for _, want := range []string{`assay_tls_reloads_total{result="loaded"} 1`, "assay_tls_certificate_expiry_seconds "} {
		if !strings.Contains(u.metrics(), want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if err := os.WriteFile(u.caFile, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	u.reload <- os.Interrupt
	waitFor(t, func() bool { return strings.Contains(u.metrics(), `assay_tls_reloads_total{result="refused"} 1`) })
	if a := u.as(theirs, "GET", "/v1/overview", u.admin, nil); a.status != 200 {
		t.Errorf("after a file that cannot be used: %d", a.status)
	}
}

// TestBoundMachineTokens: a machine that enrols with a certificate gets a token that is bound to it, and stays so when it is
// renewed.
func TestBoundMachineTokens(t *testing.T) {
	u := newMutual(t, true, true)
	mine, digest := u.ca.client()
	thief, _ := u.ca.client()
	m := newMachine(t, "sb-on-1")
	must := func(want int, a answer) answer {
		t.Helper()
		if a.status != want {
			t.Fatalf("%d, not %d: %s", a.status, want, a.body)
		}
		return a
	}
	must(201, u.as(mine, "POST", "/v1/trust-anchors", u.admin, map[string]any{"name": "swtpm", "purpose": "ek", "certificates_pem": m.rootPEM()}))
	join := must(201, u.as(mine, "POST", "/v1/join-tokens", u.admin, map[string]any{"name": "one"})).text(t, "token")
	e := must(201, u.as(mine, "POST", "/v1/enrollments", join, m.enrollment("web-1")))
	a := must(200, u.as(mine, "POST", "/v1/enrollments/"+e.text(t, "enrollment_id")+"/activation", "", map[string]any{"secret": m.open(e.bytes(t, "credential_blob"), e.bytes(t, "encrypted_secret"))}))
	m.id, m.token = a.text(t, "machine_id"), a.text(t, "machine_token")
	held, err := u.server.token.VerifyMachineToken(m.token, time.Now())
	if err != nil || hex.EncodeToString(held.Certificate) != digest {
		t.Fatalf("the token is bound to %x, %v", held.Certificate, err)
	}
	must(401, u.as(thief, "POST", "/v1/machines/"+m.id+"/challenges", m.token, nil))
	nonce := must(201, u.as(mine, "POST", "/v1/machines/"+m.id+"/challenges", m.token, nil)).bytes(t, "nonce")
	held.Issued = time.Now().Add(-2 * token.RenewAfter)
	old := u.server.token.MachineToken(held)
	evidence := m.evidence(nonce)
	evidence["event_log"] = m.log
	must(401, u.as(thief, "POST", "/v1/machines/"+m.id+"/evidence", old, evidence))
	v := must(201, u.as(mine, "POST", "/v1/machines/"+m.id+"/evidence", old, evidence))
	renewed, err := u.server.token.VerifyMachineToken(v.text(t, "machine_token"), time.Now())
	if err != nil || hex.EncodeToString(renewed.Certificate) != digest || !renewed.Issued.After(held.Issued) {
		t.Errorf("renewed: %+v, %v", renewed, err)
	}
}

// TestMachineTokens: what a machine's token is worth. With genuine evidence it is renewed; it lets no evidence of another machine
// in; and it ends with the attestation key that it was issued for, on every replica at once.
func TestMachineTokens(t *testing.T) {
	b := newBench(t, nil)
	replica := b.replica()
	m, other := newMachine(t, "sb-on-1"), newMachine(t, "sb-on-1")
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "swtpm", "purpose": "ek", "certificates_pem": m.rootPEM() + other.rootPEM()})
	b.enrol(m, "web-1", b.joinToken())
	b.enrol(other, "web-2", b.joinToken())
	path := "/v1/machines/" + m.id
	held, err := b.server.token.VerifyMachineToken(m.token, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	aged := held
	aged.Issued = time.Now().Add(-token.RenewAfter)
	old := b.server.token.MachineToken(aged)

	post := func(bearer string, of *machine, nonce []byte) answer {
		t.Helper()
		e := of.evidence(nonce)
		e["event_log"] = of.log
		return b.call("POST", path+"/evidence", bearer, e)
	}
	if v := post(m.token, m, b.nonce(m)); v.status != 201 || v.json(t)["machine_token"] != nil {
		t.Errorf("a young token is renewed: %s", v.body)
	}
	// Stolen: the thief has another machine, whose TPM signs what it likes. The verdict is about this one's key, and earns nothing.
	v := post(old, other, b.nonce(m)).json(t)
	if v["status"] != "contraindicated" || v["reason"] != "origin_unverified" || v["machine_token"] != nil {
		t.Errorf("evidence of another machine: %v, %v, token %v", v["status"], v["reason"], v["machine_token"])
	}
	b.refused("forbidden", "", "POST", "/v1/machines/"+other.id+"/evidence", old, other.evidence(b.nonce(other)))
	b.refused("unknown_challenge", "", "POST", path+"/evidence", old, other.evidence(b.nonce(other)))
	fresh := post(old, m, b.nonce(m)).text(t, "machine_token")
	if got, err := b.server.token.VerifyMachineToken(fresh, time.Now()); err != nil || got.MachineID != held.MachineID || got.KeyID != held.KeyID || !got.Issued.After(aged.Issued) {
		t.Errorf("renewed: %+v, %v", got, err)
	}
	m.token = fresh
	b.attest(m)

	// The session ends: no token of it is taken, here or by a replica that has taken it a moment ago.
	use := func(on *bench, want string) {
		t.Helper()
		on.t = t
		for _, bearer := range []string{fresh, old} {
			on.refused(want, "", "POST", path+"/challenges", bearer, nil)
			on.refused(want, "", "POST", path+"/evidence", bearer, m.evidence(make([]byte, 32)))
			on.refused(want, "", "POST", path+"/results", bearer, `{}`)
			on.refused(want, "", "PUT", path+"/event-logs/"+hexSHA256(m.log), bearer, m.log)
		}
	}
	replica.want(201, "POST", path+"/challenges", fresh, nil)
	b.want(204, "DELETE", path+"/attestation-keys", b.admin, nil)
	use(b, "unauthenticated")
	use(replica, "unauthenticated")
	b.enrol(m, "web-1", b.joinToken()) // again, by the same keys
	use(b, "unauthenticated")
	use(replica, "unauthenticated")
	b.attest(m)
}

// TestRenewalNeedsGenuineEvidence at the function that decides: whatever else holds, no token is made for evidence that is not
// genuine, nor for anybody but a machine.
func TestRenewalNeedsGenuineEvidence(t *testing.T) {
	b := newBench(t, nil)
	ctx := func(p principal) context.Context { return withPrincipal(context.Background(), p) }
	old := principal{kind: roleMachine, tenant: store.DefaultTenant, tokenIssued: time.Now().Add(-48 * time.Hour)}
	genuine, not := resultOf(true), resultOf(false)
	if b.server.renewed(ctx(old), genuine) == "" {
		t.Error("genuine evidence with an old token earns none")
	}
	if b.server.renewed(ctx(old), not) != "" {
		t.Error("evidence that is not genuine earns a token")
	}
	old.kind = roleAdmin
	if b.server.renewed(ctx(old), genuine) != "" {
		t.Error("somebody else earns a machine's token")
	}
}

func resultOf(genuine bool) *attest.Result {
	return &attest.Result{Appraisal: &verifier.Appraisal{Genuine: genuine}}
}
