package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/keyring"
)

// serveCommand runs the service.
type serveCommand struct {
	Config
}

// Run serves until a signal.
func (s *serveCommand) Run(p *process) error {
	if s.LogFormat == "" {
		s.LogFormat = "json"
	}
	issuer := func(net.Listener) string { return strings.TrimRight(s.PublicURL, "/") }
	return serve(p, &s.Config, issuer, func(string, string) {})
}

// devCommand runs the service for trying out.
type devCommand struct {
	Config
}

// Run serves until a signal, and tells people where.
func (d *devCommand) Run(p *process) error {
	if d.LogFormat == "" {
		d.LogFormat = "text"
	}
	return serve(p, &d.Config, d.baseURL, func(url, newToken string) {
		fmt.Fprintf(p.stdout, "\nAssay %s runs at %s\n  pages          %s/ui/\n  documentation  %s/docs\n", version, url, url, url)
		if newToken != "" {
			fmt.Fprintf(p.stdout, "  admin token    %s\n", newToken)
		}
		fmt.Fprintf(p.stdout, "  token file     %s\n\nTry: assay --server %s --token-file %s overview\n\n", d.tokenFile(), url, d.tokenFile())
	})
}

// migrateCommand migrates the configured database.
type migrateCommand struct {
	DataDir     string         `env:"ASSAY_DATA_DIR" default:"${data_dir}" placeholder:"DIR" help:"As for serve; used without --database-url."`
	DatabaseURL keyring.Secret `env:"ASSAY_DATABASE_URL" placeholder:"URL" help:"As for serve; without it the embedded Postgres, which no running service may use."`
	LogFormat   string         `env:"ASSAY_LOG_FORMAT" enum:",json,text" default:"" help:"json or text."`

	Roles RoleConfig  `embed:""`
	Owner OwnerConfig `embed:""`
	Login LoginConfig `embed:""`
}

// Run migrates and prints the version.
func (m *migrateCommand) Run(p *process) (err error) {
	if m.LogFormat == "" {
		m.LogFormat = "text"
	}
	if (m.Login.DatabaseServiceLogin == "") != (m.Login.DatabaseServicePasswordFile == "") {
		return badConfig("--database-service-login and --database-service-password-file go together")
	}
	c := &Config{DataDir: m.DataDir, DatabaseURL: m.DatabaseURL, Roles: m.Roles, Owner: m.Owner, Login: m.Login}
	url, stop, err := startDatabase(p.ctx, c, newLogger(p.stderr, "warn", m.LogFormat))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := c.migrateDatabase(p.ctx, url); err != nil {
		return err
	}
	st, err := store.Open(p.ctx, url, store.Options{MaxConns: 2, Role: c.Roles.DatabaseAppRole})
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.CheckMigrations(p.ctx); err != nil {
		return err
	}
	v, _, err := st.MigrationVersion(p.ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "schema version %d\n", v)
	return nil
}

// adminTokenCommand makes an administrator's token where every other is lost.
type adminTokenCommand struct {
	DataDir     string         `env:"ASSAY_DATA_DIR" default:"${data_dir}" placeholder:"DIR" help:"As for serve; used without --database-url."`
	DatabaseURL keyring.Secret `env:"ASSAY_DATABASE_URL" placeholder:"URL" help:"As for serve; without it the embedded Postgres, which no running service may use."`
	Name        string         `default:"operator" help:"Name of the token, for the audit record."`
	Tenant      string         `placeholder:"UUID" help:"Tenant that the token is of; the service's own otherwise. assayd tenants list shows them."`

	Roles RoleConfig `embed:""`
}

// Run makes the token and prints it, alone, on standard output.
func (t *adminTokenCommand) Run(p *process) (err error) {
	tenant := store.DefaultTenant
	if t.Tenant != "" {
		if tenant, err = uuid.Parse(t.Tenant); err != nil {
			return badConfig("--tenant: %q is no UUID; assayd tenants list shows those of the tenants", t.Tenant)
		}
	}
	c := &Config{DataDir: t.DataDir, DatabaseURL: t.DatabaseURL, Roles: t.Roles}
	url, stop, err := startDatabase(p.ctx, c, newLogger(p.stderr, "warn", "text"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	st, err := store.Open(p.ctx, url, store.Options{MaxConns: 2, Role: c.Roles.DatabaseAppRole})
	if err != nil {
		return err
	}
	defer st.Close()
	if err := st.CheckMigrations(p.ctx); err != nil {
		return err
	}
	if tenant == store.DefaultTenant {
		err = st.EnsureTenant(p.ctx, tenant, time.Now())
	} else {
		_, err = st.GetTenant(p.ctx, tenant)
	}
	if err != nil {
		return err
	}
	secret, err := server.NewAdminToken(p.ctx, st, tenant, t.Name, time.Now(), rand.Reader)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(p.stdout, secret)
	return err
}

// healthcheckCommand asks the local service.
type healthcheckCommand struct {
	Listen  string `env:"ASSAY_LISTEN" default:"127.0.0.1:8440" placeholder:"ADDR" help:"As for serve."`
	TLSCert string `env:"ASSAY_TLS_CERT" placeholder:"PEM" help:"As for serve."`
	TLSKey  string `env:"ASSAY_TLS_KEY" placeholder:"PEM" help:"As for serve."`

	TLSClientCA   string `env:"ASSAY_TLS_CLIENT_CA" placeholder:"PEM" help:"As for serve."`
	TLSClientAuth string `env:"ASSAY_TLS_CLIENT_AUTH" enum:"require,request" default:"require" help:"As for serve. Where clients need a certificate, the admin address is asked."`
	AdminListen   string `env:"ASSAY_ADMIN_LISTEN" default:"127.0.0.1:8441" placeholder:"ADDR" help:"As for serve."`

	Timeout time.Duration `default:"4s" help:"How long to wait."`
}

// Run asks /readyz and fails unless the service is ready.
func (h *healthcheckCommand) Run(p *process) error {
	if err := checkAddress("--listen", h.Listen); err != nil {
		return err
	}
	transport := &http.Transport{}
	scheme, address := "http", h.Listen
	if h.TLSCert != "" && h.TLSClientCA != "" && h.TLSClientAuth == "require" {
		if address = h.AdminListen; address == "" {
			return badConfig("--admin-listen is needed: the public address asks for a certificate")
		}
	} else if h.TLSCert != "" {
		scheme = "https"
		own, err := tls.LoadX509KeyPair(h.TLSCert, h.TLSKey)
		if err != nil {
			return badConfig("--tls-cert and --tls-key: %v", err)
		}
		transport.TLSClientConfig = onlyThisCertificate(own.Certificate[0])
	}
	ctx, cancel := context.WithTimeout(p.ctx, h.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+reachable(address)+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return fmt.Errorf("the service does not answer: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return fmt.Errorf("the service does not answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the service is not ready: %s %s", resp.Status, bytes.TrimSpace(body))
	}
	return nil
}

// onlyThisCertificate accepts the service's own certificate and no other. Its names are those that
// clients use, never the loopback address that is asked here, so comparing it is the check that can hold.
func onlyThisCertificate(leaf []byte) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection compares the certificate itself
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 || !bytes.Equal(state.PeerCertificates[0].Raw, leaf) {
				return errors.New("another service answers there: its certificate is not ours")
			}
			return nil
		},
	}
}

// versionCommand prints the version.
type versionCommand struct {
	Output string `short:"o" enum:"human,json" default:"human" help:"human or json."`
}

// Run prints it.
func (v *versionCommand) Run(p *process) error {
	info := struct {
		Version string `json:"version"`
		Commit  string `json:"commit,omitempty"`
		Go      string `json:"go"`
	}{Version: version, Go: runtime.Version()}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, s := range build.Settings {
			if s.Key == "vcs.revision" {
				info.Commit = s.Value
			}
		}
	}
	if v.Output == "json" {
		return json.NewEncoder(p.stdout).Encode(info)
	}
	fmt.Fprintf(p.stdout, "assayd %s (%s)\n", info.Version, info.Go)
	return nil
}
