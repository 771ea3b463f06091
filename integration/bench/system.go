package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/store/embedded"
)

// system is what is measured: a Postgres and the service, each in processes of its own.
type system struct {
	postgres *embedded.Postgres
	service  *exec.Cmd
	counted  processes
	db       *pgx.Conn // the bench's own connection; its backend is counted with the rest, and idle

	url, adminURL, token string
	certificate          string // PEM file
	tls                  *tls.Config
	client               *http.Client
}

const patience = 60 * time.Second

// startSystem starts Postgres and the service below dir and waits until they are ready. The Postgres is the
// embedded one, started here rather than by the service so that the bench can fill tables by SQL.
func startSystem(ctx context.Context, o options, dir string) (s *system, err error) {
	s = &system{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if s.postgres, err = embedded.Start(ctx, embedded.Config{DataDir: filepath.Join(dir, "postgres")}); err != nil {
		return s, err
	}
	if s.db, err = pgx.Connect(ctx, s.postgres.URL()); err != nil {
		return s, err
	}
	postmaster, err := s.postmaster(ctx)
	if err != nil {
		return s, err
	}
	certificate, key, err := s.makeCertificate(dir)
	s.certificate = certificate
	if err != nil {
		return s, err
	}
	public, admin, err := freeAddresses()
	if err != nil {
		return s, err
	}
	data := filepath.Join(dir, "data")
	s.service = exec.Command(o.assayd, "serve", "--listen", public, "--admin-listen", admin, "--data-dir", data, // #nosec G204 -- the operator's choice
		"--tls-cert", certificate, "--tls-key", key, "--log-level", "error", "--notify-allow-networks", "127.0.0.0/8",
		// One client stands for a whole fleet and its operators.
		"--rate-machine", "off", "--rate-principal", "off", "--max-principal-requests", "0", "--max-machine-requests", "0") // a verdict that fails is a warning
	s.service.Env = append(os.Environ(), "ASSAY_DATABASE_URL="+s.postgres.URL())
	s.service.Stderr = os.Stderr
	if err := s.service.Start(); err != nil {
		return s, err
	}
	s.counted = processes{roots: []int{postmaster, s.service.Process.Pid}}
	s.url, s.adminURL = "https://"+public, "http://"+admin
	s.client = &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: s.tls, MaxIdleConnsPerHost: o.concurrency, MaxConnsPerHost: o.concurrency}}
	if err := s.waitReady(ctx); err != nil {
		return s, err
	}
	token, err := os.ReadFile(filepath.Join(data, "admin.token")) // #nosec G304 -- the service's own file
	s.token = strings.TrimSpace(string(token))
	return s, err
}

// postmaster is the process that all others of Postgres are children of: the parent of our own backend.
func (s *system) postmaster(ctx context.Context) (int, error) {
	var backend int
	if err := s.db.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&backend); err != nil {
		return 0, fmt.Errorf("find the postmaster: %w", err)
	}
	return parentOf(backend)
}

// makeCertificate makes the service's certificate for this run, which the load generator alone trusts.
func (s *system) makeCertificate(dir string) (certFile, keyFile string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "assay bench"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return "", "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return "", "", err
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	s.tls = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	return certFile, keyFile, errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

// freeAddresses are two loopback addresses that nothing listens on.
func freeAddresses() (public, admin string, err error) {
	var addresses []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", "", err
		}
		defer func() { _ = l.Close() }()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses[0], addresses[1], nil
}

func (s *system) waitReady(ctx context.Context) error {
	deadline := time.Now().Add(patience)
	for {
		err := s.call(ctx, http.MethodGet, "/readyz", "", nil, nil)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("assayd is not ready: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// stop ends the service and then Postgres.
func (s *system) stop() error {
	var err error
	if s.service != nil && s.service.Process != nil {
		err = errors.Join(s.service.Process.Signal(syscall.SIGTERM), s.service.Wait())
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if s.db != nil {
		err = errors.Join(err, s.db.Close(ctx))
	}
	if s.postgres != nil {
		err = errors.Join(err, s.postgres.Stop(ctx))
	}
	return err
}

// call makes a request and decodes its JSON answer into out. body is raw bytes for a log, anything else is
// marshalled. Every status but a success is an error.
func (s *system) call(ctx context.Context, method, path, bearer string, body, out any) error {
	contentType := "application/json"
	var raw []byte
	switch b := body.(type) {
	case nil:
	case rawLog:
		raw, contentType = b, "application/octet-stream"
	case json.RawMessage:
		raw = b
	default:
		var err error
		if raw, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", contentType)
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, answer[:min(len(answer), 500)])
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// rawLog is a body that is sent as it is.
type rawLog []byte

// profiled runs f while the service's CPU profile is taken, where one was asked for, and takes one of its
// allocations afterwards.
func (s *system) profiled(ctx context.Context, o options, name string, f func() error) error {
	if o.profile == "" {
		return f()
	}
	if err := os.MkdirAll(o.profile, 0o750); err != nil {
		return err
	}
	cpu := make(chan error, 1)
	go func() { cpu <- s.profile(ctx, "profile?seconds=5", filepath.Join(o.profile, name+".cpu.pprof")) }()
	err := f()
	return errors.Join(err, <-cpu, s.profile(ctx, "allocs", filepath.Join(o.profile, name+".allocs.pprof")))
}

// profile fetches a profile from the service's admin address.
func (s *system) profile(ctx context.Context, what, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.adminURL+"/debug/pprof/"+what, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	profile, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	return os.WriteFile(file, profile, 0o600)
}
