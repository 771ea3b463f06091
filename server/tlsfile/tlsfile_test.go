package tlsfile

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority signs certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, next: 1}
	a.key, a.cert = a.make(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, time.Now().Add(time.Hour))
	return a
}

func (a *authority) make(template *x509.Certificate, until time.Time) (*ecdsa.PrivateKey, *x509.Certificate) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.next++
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(a.next), time.Now().Add(-time.Hour), until
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return key, cert
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// pair makes a certificate and its key, in PEM.
func (a *authority) pair(name string, until time.Time, usage ...x509.ExtKeyUsage) (chain, key []byte) {
	a.t.Helper()
	private, cert := a.make(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: usage}, until)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func (a *authority) client(usage ...x509.ExtKeyUsage) tls.Certificate {
	a.t.Helper()
	pair, err := tls.X509KeyPair(a.pair("client", time.Now().Add(time.Hour), usage...))
	if err != nil {
		a.t.Fatal(err)
	}
	return pair
}

// world is files, and a server that answers a byte by them.
type world struct {
	t       *testing.T
	files   Files
	source  *Source
	server  *authority
	address string
}

func newWorld(t *testing.T, clientCA []byte, require bool) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, server: newAuthority(t, "server CA"), files: Files{Certificate: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"), RequireClient: require}}
	w.renew("first")
	if clientCA != nil {
		w.files.ClientCA = filepath.Join(dir, "ca.pem")
		w.write(w.files.ClientCA, clientCA)
	}
	var err error
	if w.source, err = Load(w.files, time.Now); err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", w.source.Config())
	if err != nil {
		t.Fatal(err)
	}
	w.address = l.Addr().String()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				if _, err := c.Write([]byte("x")); err == nil {
					_, _ = io.Copy(io.Discard, c)
				}
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return w
}

func (w *world) write(name string, text []byte) {
	w.t.Helper()
	if err := os.WriteFile(name, text, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) renew(name string) {
	w.t.Helper()
	chain, key := w.server.pair(name, time.Now().Add(time.Hour))
	w.write(w.files.Certificate, chain)
	w.write(w.files.Key, key)
}

// ask connects and says which certificate the server showed; resume keeps sessions.
func (w *world) ask(client *tls.Certificate, resume tls.ClientSessionCache) (name string, resumed bool, err error) {
	cfg := &tls.Config{RootCAs: w.server.pool(), MinVersion: tls.VersionTLS13, ClientSessionCache: resume}
	if client != nil {
		cfg.Certificates = []tls.Certificate{*client}
	}
	c, err := tls.Dial("tcp", w.address, cfg)
	if err != nil {
		return "", false, err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Read(make([]byte, 1)); err != nil { // the server refuses a client's certificate after its own side is done
		return "", false, err
	}
	state := c.ConnectionState()
	return state.PeerCertificates[0].Subject.CommonName, state.DidResume, nil
}

func (w *world) reload(loaded bool, problem string) Change {
	w.t.Helper()
	c, err := w.source.Reload()
	if c.Loaded != loaded || (problem == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), problem)) {
		w.t.Fatalf("reload: %+v, %v; wanted %v, %q", c, err, loaded, problem)
	}
	return c
}

// TestReload serves the new certificate to who connects after it was put there, keeps who is connected, and serves the old one
// for as long as the new files cannot be used.
func TestReload(t *testing.T) {
	w := newWorld(t, nil, false)
	shows := func(want string) {
		t.Helper()
		if got, _, err := w.ask(nil, nil); err != nil || got != want {
			t.Fatalf("shown is %q, %v; want %q", got, err, want)
		}
	}
	shows("first")
	before, err := tls.Dial("tcp", w.address, &tls.Config{RootCAs: w.server.pool(), MinVersion: tls.VersionTLS13})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = before.Close() }()
	w.reload(false, "")
	w.renew("second")
	shows("first")
	w.reload(true, "")
	shows("second")
	if _, err := io.ReadFull(before, make([]byte, 1)); err != nil {
		t.Errorf("who was connected was cut off: %v", err)
	}

	chain, key := w.server.pair("third", time.Now().Add(time.Hour))
	w.write(w.files.Certificate, chain) // half of a change
	w.reload(false, "private key does not match")
	w.reload(false, "") // said once
	shows("second")
	w.write(w.files.Key, key)
	w.reload(true, "")
	shows("third")

	w.write(w.files.Certificate, []byte("nothing"))
	w.reload(false, "cert.pem")
	w.write(w.files.Certificate, bytes.Repeat([]byte("x"), maxFile+1))
	w.reload(false, "longer than")
	if err := os.Remove(w.files.Certificate); err != nil {
		t.Fatal(err)
	}
	w.reload(false, "no such file")
	chain, key = w.server.pair("ended", time.Now().Add(-time.Minute))
	w.write(w.files.Certificate, chain)
	w.write(w.files.Key, key)
	w.reload(false, "ended at")
	shows("third")
	w.renew("fourth")
	w.reload(true, "")
	shows("fourth")
}

// TestKeyModes refuses a key that others can read, at the start and later; a group may read it.
func TestKeyModes(t *testing.T) {
	w := newWorld(t, nil, false)
	for mode, fine := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: true, 0o440: true, 0o644: false, 0o604: false, 0o660: false, 0o602: false} {
		if err := os.Chmod(w.files.Key, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Load(w.files, time.Now)
		if (err == nil) != fine || (err != nil && !strings.Contains(err.Error(), "chmod 600")) {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
}

// TestClientCertificates: what a client has to show, where it is required and where it is asked for.
func TestClientCertificates(t *testing.T) {
	ours, theirs := newAuthority(t, "our clients"), newAuthority(t, "their clients")
	good, bare, forServers, foreign := ours.client(x509.ExtKeyUsageClientAuth), ours.client(), ours.client(x509.ExtKeyUsageServerAuth), theirs.client(x509.ExtKeyUsageClientAuth)
	for _, require := range []bool{true, false} {
		w := newWorld(t, ours.pem(), require)
		for name, c := range map[string]struct {
			client *tls.Certificate
			fine   bool
		}{
			"none": {nil, !require}, "good": {&good, true}, "without a usage": {&bare, false}, "for servers": {&forServers, false}, "of another CA": {&foreign, false},
		} {
			// A client of Go shows no certificate of a CA that the server has not named.
			want := c.fine || (name == "of another CA" && !require)
			if _, _, err := w.ask(c.client, nil); (err == nil) != want {
				t.Errorf("required %v, certificate %s: %v", require, name, err)
			}
		}
	}
}

// TestSessionsEndWithTheirCA: a session of before cannot be resumed once the CA of its certificate is not accepted any more.
func TestSessionsEndWithTheirCA(t *testing.T) {
	ours, theirs := newAuthority(t, "our clients"), newAuthority(t, "their clients")
	w := newWorld(t, ours.pem(), true)
	client, other := ours.client(x509.ExtKeyUsageClientAuth), theirs.client(x509.ExtKeyUsageClientAuth)
	sessions := tls.NewLRUClientSessionCache(4)
	if _, _, err := w.ask(&client, sessions); err != nil {
		t.Fatal(err)
	}
	if _, resumed, err := w.ask(&client, sessions); err != nil || !resumed {
		t.Fatalf("resumed %v, %v: the test shows nothing", resumed, err)
	}
	w.write(w.files.ClientCA, theirs.pem())
	if c := w.reload(true, ""); !c.ClientCA {
		t.Error("the change of the CA is not told")
	}
	if _, _, err := w.ask(&client, sessions); err == nil {
		t.Error("a session of the CA before was resumed")
	}
	if _, _, err := w.ask(&other, nil); err != nil {
		t.Errorf("the new CA: %v", err)
	}
	w.write(w.files.ClientCA, []byte("nothing"))
	w.reload(false, "holds no certificate")
}
