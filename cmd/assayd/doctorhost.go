package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/assay-verifier/assay/store/keyring"
)

// examineHost looks at what needs no database.
func (d *doctorCommand) examineHost(ctx context.Context, r *doctorReport) {
	if err := d.check(); err != nil {
		message, _ := explain(err)
		r.fail("settings", "assayd serve --help says what each may be", "%s", message)
	} else {
		r.ok("settings", "they can be used")
	}
	d.examineFiles(r)
	d.examineCertificate(r)
	examineDisk(r, d.DataDir)
	examineAddress(ctx, r, "listen", d.Listen, d.TLSCert != "")
	if d.AdminListen != "" {
		examineAddress(ctx, r, "admin_listen", d.AdminListen, false)
	}
	if !loopback(d.Listen) && d.TLSCert == "" {
		r.warn("tls", "set --tls-cert and --tls-key, or listen on loopback behind a proxy that ends TLS", "%s is no loopback address and has no TLS: tokens travel in the clear", d.Listen)
	}
	if d.AdminListen != "" && !loopback(d.AdminListen) {
		r.warn("admin_exposed", "listen on loopback: it asks for no token", "%s is no loopback address: whoever reaches it reads profiles of the process", d.AdminListen)
	}
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// examineFiles looks at the modes of all files that hold secrets.
func (d *doctorCommand) examineFiles(r *doctorReport) {
	before := len(r.Checks)
	files := []string{d.tokenFile(), d.KEK.PKCS11.KeyPKCS11PINFile, d.KEK.KeyFile}
	if d.DatabaseURL.Empty() && d.KEK.KeyFile == "" {
		files = append(files, d.ownKeyFile())
	}
	for _, file := range files {
		if file == "" {
			continue
		}
		if err := keyring.CheckPrivate(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.fail("file_modes", "chmod 600 "+file, "%v", err)
		}
	}
	if d.TLSKey != "" {
		if err := keyring.CheckNotPublic(d.TLSKey); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.fail("file_modes", "chmod 640 "+d.TLSKey, "%v", err)
		}
	}
	if info, err := os.Stat(d.DataDir); err == nil && info.Mode().Perm()&0o022 != 0 {
		r.fail("file_modes", "chmod go-w "+d.DataDir, "others can write into %s (mode %04o)", d.DataDir, info.Mode().Perm())
	}
	if len(r.Checks) == before {
		r.ok("file_modes", "only their owner can read files with secrets")
	}
}

// The ends of certificates that are told.
const certificateSoon = 14 * 24 * time.Hour

func (d *doctorCommand) examineCertificate(r *doctorReport) {
	if d.TLSCert == "" {
		r.skip("no --tls-cert is set", "tls_certificate")
		return
	}
	pair, err := tls.LoadX509KeyPair(d.TLSCert, d.TLSKey)
	if err != nil {
		r.fail("tls_certificate", "put certificate and key, PEM, where the settings say", "%v", err)
		return
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		r.fail("tls_certificate", "have it issued anew", "it cannot be read: %v", err)
		return
	}
	const renew = "renew it, and restart the service where it does not read it again by itself"
	switch left := time.Until(leaf.NotAfter); {
	case left <= 0:
		r.fail("tls_certificate", renew, "it ended on %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	case time.Now().Before(leaf.NotBefore):
		r.fail("tls_certificate", "set this host's clock, or wait", "it begins on %s", leaf.NotBefore.UTC().Format(time.RFC3339))
	case left < certificateSoon:
		r.warn("tls_certificate", renew, "it ends on %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	default:
		r.ok("tls_certificate", "until %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
}

// The space that is needed to go on, and the one below which Postgres may stop at any moment.
const (
	spaceLow  = 2 << 30
	spaceNone = 256 << 20
)

func examineDisk(r *doctorReport, dir string) {
	for ; !exists(dir) && dir != filepath.Dir(dir); dir = filepath.Dir(dir) { // where it will be made
	}
	free, err := freeSpace(dir)
	if err != nil {
		r.warn("disk_space", "see that this user may enter the folder", "%s cannot be looked at: %v", dir, err)
		return
	}
	text := fmt.Sprintf("%.1f GB free for %s", float64(free)/1e9, dir)
	switch {
	case free < spaceNone:
		r.fail("disk_space", "make room: without space nothing is accepted", "%s", text)
	case free < spaceLow:
		r.warn("disk_space", "make room, or shorten the retention (assay retention set)", "%s", text)
	default:
		r.ok("disk_space", "%s", text)
	}
}

// examineAddress tells whether a service of ours answers there, the address is free, or somebody else has it.
func examineAddress(ctx context.Context, r *doctorReport, code, address string, withTLS bool) {
	const other = "choose another address, or end what listens there"
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err == nil {
		_ = l.Close()
		r.ok(code, "%s is free", address)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	scheme, transport := "http", &http.Transport{DisableKeepAlives: true}
	if withTLS {
		scheme = "https"
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true} //nolint:gosec // nothing is sent: it is only asked who is there
	}
	req, failed := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+reachable(address)+"/healthz", nil)
	if failed != nil {
		r.fail(code, other, "%v", failed)
		return
	}
	resp, failed := (&http.Client{Transport: transport}).Do(req)
	if failed != nil {
		r.fail(code, other, "%v", err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		r.fail(code, other, "something answers at %s, and it is no service of ours", address)
		return
	}
	r.ok(code, "a service answers at %s", address)
}
