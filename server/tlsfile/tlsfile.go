// Package tlsfile serves TLS by files that may change while the service runs: certificate chain, private key, and the
// certificates that clients' must chain to. What cannot be used is refused and changes nothing.
package tlsfile

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Files are PEM files. Certificate is the chain, leaf first, and Key its private key, which other users must not be able to
// read. ClientCA is empty where clients are not asked for a certificate.
type Files struct {
	Certificate, Key, ClientCA string
	// RequireClient ends a handshake without a certificate of the client's. Otherwise one may be shown, and has to hold.
	RequireClient bool
}

// maxFile bounds what is read of a file.
const maxFile = 4 << 20

// Source is what the files say, as they were read last. It is safe for concurrent use.
type Source struct {
	files   Files
	now     func() time.Time
	current atomic.Pointer[loaded]

	mu      sync.Mutex // one Reload at a time
	refused [sha256.Size]byte
}

// loaded is one reading of the files. It is not changed.
type loaded struct {
	digest   [sha256.Size]byte
	ca       [sha256.Size]byte
	config   *tls.Config
	notAfter time.Time
}

// Load reads the files. now is the clock.
func Load(f Files, now func() time.Time) (*Source, error) {
	s := &Source{files: f, now: now}
	l, err := s.read()
	if err != nil {
		return nil, err
	}
	s.current.Store(l)
	return s, nil
}

// Config is the configuration of a server. Each handshake goes by what the files said last.
func (s *Source) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return s.current.Load().config, nil
	}}
}

// NotAfter is when the certificate in use ends.
func (s *Source) NotAfter() time.Time { return s.current.Load().notAfter }

// AsksClients tells whether clients are asked for a certificate.
func (s *Source) AsksClients() bool { return s.files.ClientCA != "" }

// Change is what Reload found.
type Change struct {
	Loaded   bool // something else is in use now
	ClientCA bool // other client certificates are accepted now
}

// Reload reads the files again. Where they cannot be used, or the certificate is not valid now, what was in use stays in
// use, and the error says why, once for each content.
func (s *Source) Reload() (Change, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.current.Load()
	l, err := s.read()
	if err == nil && l.digest == was.digest {
		s.refused = [sha256.Size]byte{}
		return Change{}, nil
	}
	if err == nil && !s.now().Before(l.notAfter) {
		err = fmt.Errorf("TLS: the certificate in %s ended at %s", s.files.Certificate, l.notAfter.UTC().Format(time.RFC3339))
	}
	if err != nil {
		told := sha256.Sum256([]byte(err.Error()))
		if told == s.refused {
			return Change{}, nil
		}
		s.refused = told
		return Change{}, err
	}
	s.refused = [sha256.Size]byte{}
	s.current.Store(l)
	return Change{Loaded: true, ClientCA: l.ca != was.ca}, nil
}

// Watch calls Reload every so often, and when something comes on at, until ctx ends. report is told what changed and what was
// refused.
func (s *Source) Watch(ctx context.Context, every time.Duration, at <-chan os.Signal, report func(Change, error)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-at:
		}
		if change, err := s.Reload(); change.Loaded || err != nil {
			report(change, err)
		}
	}
}

func (s *Source) read() (*loaded, error) {
	chain, err := readFile(s.files.Certificate)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	key, err := readKey(s.files.Key)
	if err != nil {
		return nil, fmt.Errorf("TLS key: %w", err)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("TLS: %s and %s: %w", s.files.Certificate, s.files.Key, err)
	}
	l := &loaded{notAfter: pair.Leaf.NotAfter}
	l.config = &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"},
		// Records as large as the answer: by default Go begins with records of one packet each, and each is a
		// system call; for a verdict's ten that was a fifth of what an unchanged attestation costs the service.
		DynamicRecordSizingDisabled: true,
	}
	var ca []byte
	if s.files.ClientCA != "" {
		if ca, err = readFile(s.files.ClientCA); err != nil {
			return nil, fmt.Errorf("TLS client CA: %w", err)
		}
		if err := s.askClients(l, ca); err != nil {
			return nil, err
		}
	}
	l.ca = sha256.Sum256(ca)
	l.digest = sha256.Sum256(bytes.Join([][]byte{chain, key, ca}, []byte{0}))
	return l, nil
}

// askClients makes the configuration ask for certificates of clients.
func (s *Source) askClients(l *loaded, ca []byte) error {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return fmt.Errorf("TLS client CA: %s holds no certificate in PEM", s.files.ClientCA)
	}
	l.config.ClientCAs, l.config.ClientAuth = pool, tls.VerifyClientCertIfGiven
	if s.files.RequireClient {
		l.config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	l.config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return nil // where one is required, the handshake has failed before
		}
		return checkClient(&state, pool, s.now())
	}
	return nil
}

// checkClient adds to what crypto/tls has verified: that the certificate is meant for clients (without any extended key usage
// it would pass), and, on a session that was resumed, that it still chains to what is accepted now.
func checkClient(state *tls.ConnectionState, pool *x509.CertPool, now time.Time) error {
	leaf := state.PeerCertificates[0]
	meant := false
	for _, usage := range leaf.ExtKeyUsage {
		meant = meant || usage == x509.ExtKeyUsageClientAuth
	}
	if !meant {
		return errors.New("the client's certificate is not for clients: it lacks the extended key usage clientAuth (RFC 5280, section 4.2.1.12)")
	}
	if !state.DidResume {
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// readKey reads a private key, which only its owner may write, and only owner and group may read: Debian's group ssl-cert
// and Kubernetes' fsGroup give it to a service that way.
func readKey(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o027 != 0 {
		return nil, fmt.Errorf("%s can be read or written by other users (mode %04o): chmod 600 it, or 640 where a group has to read it", path, mode)
	}
	return readFile(path)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path) // #nosec G304 -- the operator names it
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxFile)
	}
	return text, nil
}
