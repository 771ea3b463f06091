package server

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/store"
)

// authority is a certificate authority of the test's own with a vendor's name.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string, parent *authority) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true, IsCA: parent == nil,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature}
	a := &authority{key: key}
	signer := a
	if parent != nil {
		signer = parent
	} else {
		a.cert = template
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

func (a *authority) crl(t testing.TB, issued time.Time) []byte {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(issued.Unix()), ThisUpdate: issued, NextUpdate: issued.Add(24 * time.Hour)}, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// tcbInfo is TCB info as Intel's PCS answers it, with the signature over exactly its bytes.
func (a *authority) tcbInfo(t testing.TB) []byte {
	t.Helper()
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	info := fmt.Sprintf(`{"id":"TDX","version":3,"issueDate":%q,"nextUpdate":%q,"fmspc":"50806F000000","pceId":"0000","tcbType":0,"tcbEvaluationDataNumber":17,"tcbLevels":[]}`, at(-time.Hour), at(time.Hour))
	return []byte(`{"tcbInfo":` + info + `,"signature":"` + a.signature(t, info) + `"}`)
}

func (a *authority) signature(t testing.TB, text string) string {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, a.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	raw := make([]byte, 64)
	r.FillBytes(raw[:32])
	s.FillBytes(raw[32:])
	return hex.EncodeToString(raw)
}

func specimen(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "verifier", "tee", "testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func collateral(b *bench, _ *machine) {
	vcek := specimen(b.t, "snp/vcek.testcer")
	put := func(status int, kind string, body []byte, header ...string) answer {
		b.t.Helper()
		return b.want(status, "PUT", "/v1/collateral/"+kind, b.admin, body, header...)
	}
	refused := func(code, pointer, kind string, body []byte, header ...string) answer {
		b.t.Helper()
		return b.refused(code, pointer, "PUT", "/v1/collateral/"+kind, b.admin, body, header...)
	}
	before := b.rows()
	refused("collateral_invalid", "", "vcek", vcek) // no root is trusted yet
	b.sameRows(before)
	amd := b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "AMD", "purpose": "snp", "certificates_pem": string(specimen(b.t, "amd-roots/ask_ark_milan.pem"))}).text(b.t, "id")
	c := put(201, "vcek", vcek, "Content-Type", "application/pkix-cert").json(b.t)
	name, _ := c["name"].(string)
	if sum := sha256.Sum256(vcek); c["kind"] != "vcek" || !strings.HasPrefix(name, "milan/") || c["source"] != "uploaded" || c["sha256"] != hex.EncodeToString(sum[:]) {
		b.t.Errorf("stored is %v", c)
	}
	asPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vcek})
	if again := put(200, "vcek", asPEM, "Content-Type", "application/x-pem-file").json(b.t); again["created_at"] != c["created_at"] {
		b.t.Errorf("what was held was stored again: %v", again)
	}
	path := "/v1/collateral/vcek/" + url.PathEscape(name)
	if got := b.want(200, "GET", path, b.admin, nil); !bytes.Equal(got.body, vcek) || got.header.Get("Content-Type") != "application/pkix-cert" {
		b.t.Errorf("%v %x", got.header, cut(got.body))
	}
	if a := b.call("GET", "/v1/collateral/vcek/"+name, b.admin, nil); a.status != http.StatusNotFound {
		b.t.Errorf("a name whose slashes are not escaped: %d", a.status)
	}

	// The vendors' CRLs and TCB info expire within weeks; those of the test's own authorities do not.
	ark, intel := newAuthority(b.t, "ARK-Milan", nil), newAuthority(b.t, "Intel SGX Root CA", nil)
	signer := newAuthority(b.t, "Intel SGX TCB Signing", intel)
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "own ARK", "purpose": "snp", "certificates_pem": ark.pem()})
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "own Intel", "purpose": "tdx", "certificates_pem": intel.pem()})
	newer := ark.crl(b.t, time.Now().Add(-time.Minute))
	sum := sha256.Sum256(newer)
	put(201, "snp_crl", newer, "Content-Type", "application/pkix-crl")
	if held := put(200, "snp_crl", ark.crl(b.t, time.Now().Add(-time.Hour))).json(b.t); held["sha256"] != hex.EncodeToString(sum[:]) {
		b.t.Errorf("an older CRL replaced a newer one: %v", held)
	}
	refused("collateral_invalid", "", "snp_crl", newAuthority(b.t, "ARK-Milan", nil).crl(b.t, time.Now()))
	refused("collateral_invalid", "", "tdx_root_crl", newer)
	info, chain := signer.tcbInfo(b.t), url.PathEscape(signer.pem()+intel.pem())
	refused("collateral_invalid", "", "tdx_tcb_info", info, "Content-Type", "application/json")
	refused("collateral_invalid", "", "tdx_tcb_info", bytes.Replace(info, []byte("50806F"), []byte("50806E"), 1), "TCB-Info-Issuer-Chain", chain)
	refused("invalid_field", "TCB-Info-Issuer-Chain", "tdx_qe_identity", info, "TCB-Info-Issuer-Chain", chain)
	refused("invalid_field", "", "tdx_tcb_info", info, "TCB-Info-Issuer-Chain", chain, "SGX-TCB-Info-Issuer-Chain", url.PathEscape(signer.pem()))
	refused("invalid_field", "TCB-Info-Issuer-Chain", "tdx_tcb_info", info, "TCB-Info-Issuer-Chain", "%zz")
	put(201, "tdx_tcb_info", info, "SGX-TCB-Info-Issuer-Chain", chain, "Content-Type", "application/json")
	if got := b.want(200, "GET", "/v1/collateral/tdx_tcb_info/50806f000000", b.admin, nil); !bytes.Equal(got.body, info) || got.header.Get("TCB-Info-Issuer-Chain") != chain {
		b.t.Errorf("%v %s", got.header, got.body)
	}
	if got := b.want(200, "GET", "/v1/collateral/snp_crl/ARK-Milan", b.admin, nil); !bytes.Equal(got.body, newer) || got.header.Get("Content-Type") != "application/pkix-crl" {
		b.t.Errorf("%v", got.header)
	}

	tomorrow := time.Now().Add(48 * time.Hour).UTC().Format(time.RFC3339)
	for query, n := range map[string]int{"": 3, "?kind=vcek": 1, "?kind=vlek": 0, "?name=ARK-Milan": 1, "?expiring_before=" + tomorrow: 2} {
		if items := b.want(200, "GET", "/v1/collateral"+query, b.admin, nil).json(b.t)["items"].([]any); len(items) != n {
			b.t.Errorf("%q lists %d", query, len(items))
		}
	}
	seen := 0
	for cursor := ""; ; {
		page := b.want(200, "GET", "/v1/collateral?limit=1"+cursor, b.admin, nil).json(b.t)
		seen += len(page["items"].([]any))
		if page["next_cursor"] == nil {
			break
		}
		cursor = "&cursor=" + page["next_cursor"].(string)
	}
	if seen != 3 {
		b.t.Errorf("pages list %d", seen)
	}
	refused("invalid_field", "kind", "nonsense", vcek)
	b.refused("not_found", "", "GET", "/v1/collateral/vlek/"+url.PathEscape(name), b.admin, nil)
	b.refused("invalid_field", "kind", "GET", "/v1/collateral/nonsense/x", b.admin, nil)
	b.refused("invalid_field", "name", "DELETE", "/v1/collateral/vcek/"+strings.Repeat("x", 513), b.admin, nil)
	b.want(204, "DELETE", path, b.admin, nil)
	b.refused("not_found", "", "DELETE", path, b.admin, nil)
	if n := b.column(`SELECT count(*)::text FROM audit_events WHERE action LIKE 'collateral.%'`); n != "4" {
		b.t.Errorf("%s records of three uploads and a deletion", n)
	}
	b.truncated("PUT", "/v1/collateral/vcek")

	// What a withdrawn root signed is not accepted any more.
	b.want(200, "POST", "/v1/trust-anchors/"+amd+"/disable", b.admin, nil)
	refused("collateral_invalid", "", "vcek", vcek)
}

// truncated sends a body that ends before its declared length.
func (b *bench) truncated(method, path string) {
	b.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.http.URL, "http://"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/octet-stream\r\nContent-Length: 100\r\n\r\nshort", method, path, b.admin)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		b.t.Fatal(err)
	}
	raw, err := io.ReadAll(conn)
	if err != nil {
		b.t.Fatal(err)
	}
	req, err := http.NewRequest(method, b.http.URL+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	resp := readResponse(b.t, raw, req)
	if b.checkContract(req, resp); resp.code(b.t) != codeMalformedEncoding {
		b.t.Errorf("a truncated body: %s", raw)
	}
}

func anchors(b *bench, m *machine) {
	list := func(query string) int {
		b.t.Helper()
		return len(b.want(200, "GET", "/v1/trust-anchors"+query, b.admin, nil).json(b.t)["items"].([]any))
	}
	var swtpm map[string]any
	for _, item := range b.want(200, "GET", "/v1/trust-anchors?purpose=ek", b.admin, nil).json(b.t)["items"].([]any) {
		if a := item.(map[string]any); a["name"] == "swtpm" {
			swtpm = a
		}
	}
	if swtpm["origin"] != "tenant" || swtpm["enabled"] != true || swtpm["source"] != "" {
		b.t.Errorf("the anchor is %v", swtpm)
	}
	path := "/v1/trust-anchors/" + swtpm["id"].(string)
	print := swtpm["certificates"].([]any)[0].(map[string]any)["fingerprint"].(string)
	b.column(`WITH one AS (UPDATE attestation_keys SET anchor_fingerprint = '` + print + `' WHERE machine_id = '` + m.id + `' AND state = 'active' RETURNING 1) SELECT count(*)::text FROM one`)
	off := b.want(200, "POST", path+"/disable", b.admin, nil).json(b.t)
	resting, _ := off["resting_machines"].(map[string]any)
	if want := fmt.Sprintf(`{"count":1,"items":[{"how":"attestation_key","machine_id":%q,"name":"web-1"}]}`, m.id); off["enabled"] != false || mustJSON(b.t, resting) != want {
		b.t.Errorf("disabled, it says %v", off)
	}
	if list("?purpose=ek&enabled=false") != 1 || list("?purpose=ek&enabled=true") != 0 {
		b.t.Error("the filter does not tell which are enabled")
	}
	b.refused("ek_untrusted", "", "POST", "/v1/enrollments", b.joinToken(), m.enrollment("web-1"))
	if items := b.want(200, "GET", path+"/machines", b.admin, nil).json(b.t)["items"].([]any); len(items) != 1 {
		b.t.Errorf("%d machines rest on it", len(items))
	}
	if on := b.want(200, "POST", path+"/enable", b.admin, nil).json(b.t); on["enabled"] != true || on["name"] != "swtpm" || on["resting_machines"] == nil {
		b.t.Errorf("enabled again, it is %v", on)
	}
	b.want(201, "POST", "/v1/enrollments", b.joinToken(), m.enrollment("web-1"))
	for _, call := range []struct{ method, path string }{{"POST", "/disable"}, {"POST", "/enable"}, {"GET", "/machines"}} {
		b.refused("not_found", "", call.method, "/v1/trust-anchors/"+nobody+call.path, b.admin, nil)
	}
	if err := b.store.SyncShippedAnchors(b.t.Context(), store.DefaultTenant, []store.ShippedAnchor{{Name: "shipped", Purpose: "reference_values", Source: "project@commit",
		Certificates: []store.TrustCertificate{{DER: []byte{1}, Subject: "x", Fingerprint: "00", NotAfter: time.Now()}}}}, true, time.Now()); err != nil {
		b.t.Fatal(err)
	}
	shipped := b.want(200, "GET", "/v1/trust-anchors?purpose=reference_values", b.admin, nil).json(b.t)["items"].([]any)[0].(map[string]any)
	if shipped["origin"] != "shipped" || shipped["source"] != "project@commit" {
		b.t.Errorf("the shipped anchor is %v", shipped)
	}
	b.refused("conflict", "", "DELETE", "/v1/trust-anchors/"+shipped["id"].(string), b.admin, nil)
}

// An intermediate alone is no root for hardware evidence.
func TestAnIntermediateIsNoRoot(t *testing.T) {
	b := newBench(t, nil)
	for block, rest := pem.Decode(specimen(t, "amd-roots/ask_ark_milan.pem")); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if c.Subject.CommonName == "SEV-Milan" {
			b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "ASK", "purpose": "snp", "certificates_pem": string(pem.EncodeToMemory(block))})
		}
	}
	b.refused("collateral_invalid", "", "PUT", "/v1/collateral/vcek", b.admin, specimen(t, "snp/vcek.testcer"))
}

func readResponse(t testing.TB, raw []byte, req *http.Request) answer {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), req)
	if err != nil {
		t.Fatalf("%v in %q", err, raw)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: body}
}
