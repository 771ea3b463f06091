package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// calibrate measures what an attestation cannot do without, on this machine in this run, in
// microseconds of CPU time. R is the first.
func calibrate(ctx context.Context, s *system, o options, r *report) error {
	digest := sha256.Sum256([]byte("calibration"))
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	rsaSig, err := rsa.SignPKCS1v15(rand.Reader, rsaKey, crypto.SHA256, digest[:])
	if err != nil {
		return err
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	ecSig, err := ecdsa.SignASN1(rand.Reader, ecKey, digest[:])
	if err != nil {
		return err
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]string{"event_log": base64.StdEncoding.EncodeToString(make([]byte, 75_000))})
	if err != nil {
		return err
	}
	for _, c := range []struct {
		name string
		n    int
		to   *float64
		f    func() error
	}{
		{"RSA-2048 verify (R)", 300, &r.R, func() error { return rsa.VerifyPKCS1v15(&rsaKey.PublicKey, crypto.SHA256, digest[:], rsaSig) }},
		{"P-256 verify", 200, nil, func() error { return mustHold(ecdsa.VerifyASN1(&ecKey.PublicKey, digest[:], ecSig)) }},
		{"Ed25519 sign", 300, nil, func() error { return mustHold(len(ed25519.Sign(edKey, digest[:])) > 0) }},
		{"encoding/json decode of 100 KB", 30, nil, func() error {
			var v struct {
				EventLog []byte `json:"event_log"`
			}
			return json.Unmarshal(body, &v)
		}},
	} {
		value, err := perCall(c.n, c.f)
		if err != nil {
			return fmt.Errorf("calibrate %s: %w", c.name, err)
		}
		if c.to != nil {
			*c.to = value
		}
		r.Calibrators = append(r.Calibrators, figure{Name: c.name, Micros: value})
	}
	commit, err := calibrateCommit(ctx, s)
	if err != nil {
		return fmt.Errorf("calibrate a commit: %w", err)
	}
	request, err := calibrateRequest(s, o)
	if err != nil {
		return fmt.Errorf("calibrate a request: %w", err)
	}
	r.Calibrators = append(r.Calibrators, figure{Name: "one-row commit, in Postgres", Micros: commit},
		figure{Name: "keep-alive request over TLS, in net/http", Micros: request})
	return nil
}

func mustHold(ok bool) error {
	if !ok {
		return fmt.Errorf("a signature does not verify")
	}
	return nil
}

// calibrateCommit is the CPU time of all Postgres processes for one insert in a transaction of its own.
func calibrateCommit(ctx context.Context, s *system) (float64, error) {
	if _, err := s.db.Exec(ctx, `CREATE TABLE bench_commit (id bigint PRIMARY KEY, body bytea)`); err != nil {
		return 0, err
	}
	const n = 200
	var all []float64
	for window := range 5 {
		before, err := s.counted.usage()
		if err != nil {
			return 0, err
		}
		for i := range n {
			if _, err := s.db.Exec(ctx, `INSERT INTO bench_commit VALUES ($1, $2)`, window*n+i, make([]byte, 64)); err != nil {
				return 0, err
			}
		}
		after, err := s.counted.usage()
		if err != nil {
			return 0, err
		}
		all = append(all, micros(after.since(before)-after.of(before, s.service.Process.Pid))/n)
	}
	_, err := s.db.Exec(ctx, `DROP TABLE bench_commit`)
	return median(all), err
}

const calibrateServerArg = "calibrate-server"

// calibrateServer is another process of this program: a net/http server that reads a body and answers as
// many bytes as an attestation does. args are address, certificate and key.
func calibrateServer(args []string) int {
	answer := make([]byte, 4096)
	srv := &http.Server{Addr: args[0], ReadHeaderTimeout: 5 * time.Second, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = w.Write(answer)
		})}
	fmt.Fprintln(os.Stderr, "bench:", srv.ListenAndServeTLS(args[1], args[2]))
	return 1
}

// calibrateRequest is the CPU time of such a server for a request of the fleet's concurrency.
func calibrateRequest(s *system, o options) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	address, _, err := freeAddresses()
	if err != nil {
		return 0, err
	}
	dir := filepath.Dir(s.certificate)
	server := exec.Command(self, calibrateServerArg, address, s.certificate, filepath.Join(dir, "tls.key")) // #nosec G204 -- this program
	if err := server.Start(); err != nil {
		return 0, err
	}
	defer func() { _, _ = server.Process.Kill(), server.Wait() }()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: s.tls, MaxIdleConnsPerHost: o.concurrency}}
	ask := func() error {
		resp, err := client.Post("https://"+address, "application/json", &zeroes{n: 1800})
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return err
	}
	for started := time.Now(); ask() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Since(started) > patience {
			return 0, fmt.Errorf("the calibration server does not answer")
		}
	}
	clock := processCPUClock(server.Process.Pid)
	const n = 2000
	var all []float64
	for window := range 4 {
		before, _ := readClock(clock)
		if err := inParallel(o.concurrency, n, func(int) error { return ask() }); err != nil {
			return 0, err
		}
		after, _ := readClock(clock)
		if window > 0 { // the first one makes the connections
			all = append(all, micros(after-before)/n)
		}
	}
	return median(all), nil
}

// zeroes is a body of n bytes.
type zeroes struct{ n int }

func (z *zeroes) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	k := min(len(p), z.n)
	clear(p[:k])
	z.n -= k
	return k, nil
}

// inParallel calls f for 0 to n-1, at most workers at once, and returns the first error.
func inParallel(workers, n int, f func(i int) error) error {
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	var wg sync.WaitGroup
	var once sync.Once
	var first error
	for range min(workers, n) {
		wg.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					once.Do(func() { first = err })
					return
				}
			}
		})
	}
	wg.Wait()
	return first
}
