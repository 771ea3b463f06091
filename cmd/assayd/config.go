package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/server/reach"
	"github.com/assay-verifier/assay/store/keyring"
	"github.com/assay-verifier/assay/verifier/finding"
)

// Config is the operator's manual: every setting with what it means, its default and its danger. Each is
// a flag, and an environment variable of the name given; the flag goes first.
type Config struct {
	// Listen is the address of the API, the pages and the documentation. Agents, people and pipelines use it.
	//
	// Danger: without TLSCert, or a proxy that ends TLS before it, tokens travel in the clear. Keep it on
	// loopback then.
	Listen string `env:"ASSAY_LISTEN" default:"127.0.0.1:8440" placeholder:"ADDR" help:"Address of API, pages and documentation. Without TLS keep it on loopback: tokens travel in the clear."`

	// AdminListen is the address of /metrics, /debug/pprof/ and /healthz, for operators. Empty: none.
	//
	// Danger: it asks for no token. Whoever reaches it can read profiles of the process, which may hold
	// secrets, and slow it down. Never expose it.
	AdminListen string `env:"ASSAY_ADMIN_LISTEN" default:"127.0.0.1:8441" placeholder:"ADDR" help:"Address of metrics and profiles; empty for none. It asks for no token: never expose it."`

	// DataDir holds the embedded Postgres and, on a fresh database, the first admin token. It is made with
	// mode 0700 (0711 for root, since Postgres runs as another user below it). Default: /var/lib/assay for
	// root, else $XDG_DATA_HOME/assay or ~/.local/share/assay.
	//
	// Danger: with the embedded Postgres this folder is all that Assay knows. Back it up (see deploy), and
	// never put it on a network file system.
	DataDir string `env:"ASSAY_DATA_DIR" default:"${data_dir}" placeholder:"DIR" help:"Folder of the embedded Postgres and of admin.token (${default})."`

	// DatabaseURL is the Postgres to use, postgres://user:password@host/database?sslmode=verify-full or
	// key=value pairs. Empty: a private Postgres in DataDir, started and stopped with the service.
	//
	// Danger: other users of the host can read a flag, so give a URL with a password by the variable, or
	// name a passfile= in it.
	DatabaseURL keyring.Secret `env:"ASSAY_DATABASE_URL" placeholder:"URL" help:"Postgres to use; without it the service runs a private one in the data folder. Give a password by the variable or by passfile=, not by the flag."`

	// Roles is what the connections act as; Owner is who migrates, and Login what assayd migrate makes for the service.
	Roles RoleConfig  `embed:""`
	Owner OwnerConfig `embed:""`
	Login LoginConfig `kong:"-"`

	ownerURL string // of the embedded Postgres, once it runs

	// DatabaseConnections bounds the connections to Postgres. One is busy with the group commit of verdicts;
	// the others answer queries. More than twice the database's cores gain nothing.
	DatabaseConnections int32 `env:"ASSAY_DATABASE_CONNECTIONS" default:"16" placeholder:"N" help:"Most connections to Postgres (${default})."`

	// NoMigrate leaves the schema as it is at start. By default serve brings it up to date first, and several
	// replicas may do so at once.
	//
	// Danger: with an older schema the service refuses to start; run assayd migrate.
	NoMigrate bool `env:"ASSAY_NO_MIGRATE" help:"Do not bring the schema up to date at start; the service refuses to start with an older one."`

	// AdminTokenFile is where the first admin token is written (mode 0600) when the database has none. It is
	// written once; only its SHA-256 is stored. Default: admin.token in DataDir.
	//
	// Danger: whoever reads it is administrator. Move it to where you keep secrets and delete the file.
	AdminTokenFile string `env:"ASSAY_ADMIN_TOKEN_FILE" placeholder:"FILE" help:"Where a fresh database's first admin token is written, mode 0600 (admin.token in the data folder)."`

	// MaxTokenLifetime is the longest life of an API token, and the life of one that is made without saying. 0: they may live
	// for ever. Tokens that are there already keep their end, the first one too.
	MaxTokenLifetime time.Duration `env:"ASSAY_MAX_TOKEN_LIFETIME" default:"0" placeholder:"DURATION" help:"Longest life of new API tokens, for example 2160h; 0 is for ever."`

	// TLS is how the public address speaks TLS, and whose certificates it asks for.
	TLSConfig `embed:""`

	// Limits bound what clients and tenants may take.
	Limits LimitConfig `embed:""`

	// PublicURL is the address that clients use, such as https://assay.example. Results name it as their
	// issuer, under which consumers of workload identities find /.well-known/openid-configuration, and cookies of the pages are
	// Secure where it is https. Empty: no issuer in results; assayd dev names the address that it listens on.
	PublicURL string `env:"ASSAY_PUBLIC_URL" placeholder:"URL" help:"Address that clients use, https://assay.example: the issuer in signed results. With https, the cookies of the pages are Secure."`

	// TrustBundle says how the roots of TPM vendors, clouds, AMD and Intel that this version ships begin in the
	// database: enabled, disabled, or none, which leaves them out. What is there already keeps its switch, whatever is
	// set here: assay trust-anchors disable withdraws one.
	//
	// Danger: what is enabled can prove a machine's identity. With disabled nothing can until somebody has enabled what
	// the fleet needs.
	TrustBundle string `env:"ASSAY_TRUST_BUNDLE" enum:"enabled,disabled,none" default:"enabled" help:"How newly shipped roots of TPM vendors, clouds, AMD and Intel begin: enabled, disabled, or none to leave them out. Those that are there keep their switch."`

	// Fetch is what is fetched from AMD and Intel, and whether it is.
	Fetch FetchConfig `embed:""`

	// Silence says when many silent machines are one event.
	Silence SilenceConfig `embed:""`

	// Retention is how long what was judged is kept.
	Retention RetentionConfig `embed:""`

	// Audit says how often checkpoints of the record of changes are made.
	Audit AuditConfig `embed:""`

	// Issuers is what the service may ask of identity providers.
	Issuers IssuerConfig `embed:""`

	// KEK is what encrypts the service's keys in the database.
	KEK KEKConfig `embed:""`

	// Results is how results for relying parties are signed.
	Results ResultConfig `embed:""`

	// Notify is where notifications may go.
	Notify NotifyConfig `embed:""`

	// LogLevel is debug, info, warn or error. At info there is a line for every request: at thousands of
	// attestations a second that costs more than judging them; use warn there. Tokens and bodies are never
	// logged.
	LogLevel string `env:"ASSAY_LOG_LEVEL" enum:"debug,info,warn,error" default:"info" help:"debug, info, warn or error. info has a line for every request; use warn for large fleets."`

	// LogFormat is json, one object a line, or text. Default: json for serve, text for dev.
	LogFormat string `env:"ASSAY_LOG_FORMAT" enum:",json,text" default:"" help:"json or text; json for serve and text for dev otherwise. To standard error."`

	// OTLPEndpoint is where traces go, http://collector:4318. Empty: no tracing, at no cost.
	OTLPEndpoint string `name:"otlp-endpoint" env:"ASSAY_OTLP_ENDPOINT,OTEL_EXPORTER_OTLP_ENDPOINT" placeholder:"URL" help:"OTLP/HTTP endpoint for traces, http://collector:4318; none otherwise."`

	// TraceRatio is the share of requests that are traced, 0 to 1, where the caller has not decided already.
	TraceRatio float64 `env:"ASSAY_TRACE_RATIO" default:"0.01" placeholder:"SHARE" help:"Share of requests traced, 0 to 1 (${default}); a caller's decision goes first."`

	// ShutdownTimeout is how long requests in flight may take after SIGTERM. Evidence that was accepted by
	// then is answered and stored; a second signal ends the process at once.
	//
	// Danger: the supervisor must wait longer than this (systemd TimeoutStopSec, Kubernetes
	// terminationGracePeriodSeconds), or it kills what is being finished.
	ShutdownTimeout time.Duration `env:"ASSAY_SHUTDOWN_TIMEOUT" default:"30s" placeholder:"DURATION" help:"How long requests in flight may take after SIGTERM (${default}). The supervisor must wait longer."`
}

// FetchConfig is what the service fetches from vendors: nothing, unless CollateralFetch is set.
type FetchConfig struct {
	// CollateralFetch lets the service fetch what checks of hardware evidence lack (endorsement keys, CRLs, TCB info),
	// and what expires within a week, from the addresses below. Off: it is sent by machines or uploaded.
	//
	// Danger: AMD and Intel learn which chips and platforms the fleet has. The service needs a way out to these
	// addresses; it uses no proxy, also where the environment names one.
	CollateralFetch bool `env:"ASSAY_COLLATERAL_FETCH" help:"Fetch endorsement keys, CRLs and TCB info that checks lack from AMD and Intel, who then learn of the fleet's chips. Off: no outgoing traffic."`

	// AMDKDSURL is AMD's Key Distribution Service, or a mirror of it. Empty: it is not asked.
	AMDKDSURL string `name:"amd-kds-url" env:"ASSAY_AMD_KDS_URL" default:"${amd_kds}" placeholder:"URL" help:"AMD's Key Distribution Service, or a mirror (${default})."`

	// IntelPCSURL is Intel's Provisioning Certification Service, or a PCCS. Empty: it is not asked.
	IntelPCSURL string `name:"intel-pcs-url" env:"ASSAY_INTEL_PCS_URL" default:"${intel_pcs}" placeholder:"URL" help:"Intel's Provisioning Certification Service, or a PCCS (${default})."`

	// IntelRootCRLURL is where the CRL of the Intel SGX Root CA is; of a PCCS https://pccs/sgx/certification/v4/rootcacrl.
	IntelRootCRLURL string `name:"intel-root-crl-url" env:"ASSAY_INTEL_ROOT_CRL_URL" default:"${intel_root_crl}" placeholder:"URL" help:"The CRL of the Intel SGX Root CA (${default})."`
}

func (f *FetchConfig) check() error {
	for flag, text := range map[string]string{"--amd-kds-url": f.AMDKDSURL, "--intel-pcs-url": f.IntelPCSURL, "--intel-root-crl-url": f.IntelRootCRLURL} {
		if err := checkURL(flag, text); err != nil {
			return err
		}
	}
	return nil
}

// AuditConfig is about the record of changes.
type AuditConfig struct {
	// CheckpointInterval is how often a checkpoint of the record and of all verdicts is signed, where something was written. What
	// somebody with the database changes is found as far back as the last checkpoint that is kept elsewhere. 0: only on demand.
	CheckpointInterval time.Duration `env:"ASSAY_AUDIT_CHECKPOINT_INTERVAL" name:"audit-checkpoint-interval" default:"1h" placeholder:"DURATION" help:"How often a signed checkpoint of the record of changes and of all verdicts is made (${default}); 0 for on demand only."`
}

// every is the interval of the job, also where it is done by hand only.
func (c *AuditConfig) every() time.Duration {
	if c.CheckpointInterval > 0 {
		return c.CheckpointInterval
	}
	return time.Hour
}

func (c *AuditConfig) check() error {
	if c.CheckpointInterval != 0 && (c.CheckpointInterval < time.Minute || c.CheckpointInterval > 7*24*time.Hour) {
		return badConfig("--audit-checkpoint-interval: %s is outside 1m to 168h; 0 is for on demand only", c.CheckpointInterval)
	}
	return nil
}

// SilenceConfig says when machines that miss their deadlines have one alert between them, and not one each: when they are
// many, and a large part of their scale set, site, platform or fleet. Labels site and region say where a machine is.
type SilenceConfig struct {
	// SilenceMachines is how many have to be silent. Below it each has an alert of its own.
	SilenceMachines int `env:"ASSAY_SILENCE_MACHINES" default:"5" placeholder:"N" help:"Machines that fall silent together at least, to have one alert between them (${default})."`

	// SilencePercent is the share that they have to be of those of their scope that were expected meanwhile.
	SilencePercent int `env:"ASSAY_SILENCE_PERCENT" default:"50" placeholder:"PERCENT" help:"Share of their scale set, site, platform or fleet that they are at least (${default})."`

	// SilenceEndPercent ends the event once no more than that share of its largest extent is silent; those have alerts of
	// their own from then on.
	SilenceEndPercent int `env:"ASSAY_SILENCE_END_PERCENT" default:"20" placeholder:"PERCENT" help:"Share of its largest extent at which the event is over (${default}); who is still silent then has an alert of its own."`

	// SilenceMaxAge ends the event at that age, whatever its extent and whatever became of its alert.
	SilenceMaxAge time.Duration `env:"ASSAY_SILENCE_MAX_AGE" default:"24h" placeholder:"DURATION" help:"Age at which the event is over in any case (${default}); who is still silent then has an alert of its own."`
}

func (c *SilenceConfig) limits() finding.SilenceLimits {
	return finding.SilenceLimits{Machines: c.SilenceMachines, Percent: c.SilencePercent, EndPercent: c.SilenceEndPercent, MaxAge: c.SilenceMaxAge}
}

func (c *SilenceConfig) check() error {
	switch {
	case c.SilenceMachines < 1:
		return badConfig("--silence-machines: %d is less than 1", c.SilenceMachines)
	case c.SilencePercent < 1 || c.SilencePercent > 100:
		return badConfig("--silence-percent: %d is outside 1 to 100", c.SilencePercent)
	case c.SilenceEndPercent < 1 || c.SilenceEndPercent > 100:
		return badConfig("--silence-end-percent: %d is outside 1 to 100", c.SilenceEndPercent)
	case c.SilenceMaxAge < time.Hour || c.SilenceMaxAge > 30*24*time.Hour:
		return badConfig("--silence-max-age: %s is outside 1h to 720h", c.SilenceMaxAge)
	}
	return nil
}

// NotifyConfig is where notifications may go.
type NotifyConfig struct {
	// NotifyAllowNetworks are networks that receivers of notifications may be in although they are private or loopback, such
	// as 10.1.0.0/16. Addresses of clouds' metadata services are never asked.
	//
	// Danger: an administrator of any tenant can then make the service connect to them. It tells him little of what answers,
	// but more than nothing.
	NotifyAllowNetworks []string `env:"ASSAY_NOTIFY_ALLOW_NETWORKS" placeholder:"CIDR,..." help:"Private networks that receivers of notifications may be in, such as 10.1.0.0/16. Administrators can then make the service ask addresses there."`

	// NotifyAllowHTTP lets webhooks be at http://.
	//
	// Danger: whoever is on the way can read what happens to the fleet. Signatures hold all the same.
	NotifyAllowHTTP bool `name:"notify-allow-http" env:"ASSAY_NOTIFY_ALLOW_HTTP" help:"Webhooks may be at http://: whoever is on the way can then read them."`
}

// reach is the addresses that may be asked.
func (c *NotifyConfig) reach() (reach.Rules, error) {
	allowed, err := networks("--notify-allow-networks", c.NotifyAllowNetworks)
	return reach.Rules{Networks: allowed}, err
}

// IssuerConfig bounds which identity providers are asked for their keys. None is, unless an administrator has configured
// one and a token of it comes.
type IssuerConfig struct {
	// AllowPrivateIssuers lets identity providers be at private and loopback addresses, such as a GitLab of one's own.
	// Addresses of clouds' metadata services are never asked.
	//
	// Danger: an administrator of any tenant can then make the service ask addresses that only it can reach. It tells
	// him little of what answers, but more than nothing.
	AllowPrivateIssuers bool `env:"ASSAY_ALLOW_PRIVATE_ISSUERS" help:"Identity providers may be at private and loopback addresses. Administrators can then make the service ask those."`

	// AllowInsecureIssuers lets identity providers be at http://127.0.0.1 and http://localhost, for development.
	//
	// Danger: whoever can listen on this host's ports can then be such a provider.
	AllowInsecureIssuers bool `env:"ASSAY_ALLOW_INSECURE_ISSUERS" help:"Identity providers may be at http:// on loopback. For development only."`

	// IssuerCA is a PEM file with the certificates that identity providers' certificates must chain to, in place of
	// the system's. It is read at start.
	IssuerCA string `env:"ASSAY_ISSUER_CA" placeholder:"PEM" help:"Certificates that identity providers' must chain to, in place of the system's. Read at start."`
}

func (c *IssuerConfig) reach() auth.Reach {
	return auth.Reach{Private: c.AllowPrivateIssuers, Insecure: c.AllowInsecureIssuers}
}

// roots reads IssuerCA; nil means the system's.
func (c *IssuerConfig) roots() (*x509.CertPool, error) {
	if c.IssuerCA == "" {
		return nil, nil
	}
	text, err := os.ReadFile(c.IssuerCA)
	if err != nil {
		return nil, badConfig("--issuer-ca: %v", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, badConfig("--issuer-ca: %s holds no certificate in PEM", c.IssuerCA)
	}
	return pool, nil
}

// configError is a setting that cannot be used.
type configError struct{ text string }

func (e *configError) Error() string { return e.text }

func badConfig(format string, args ...any) error {
	return &configError{fmt.Sprintf(format, args...)}
}

func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/assay"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "assay")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "share", "assay")
	}
	return "assay-data"
}

// check refuses settings that cannot work before anything is started.
func (c *Config) check() error {
	if err := checkAddress("--listen", c.Listen); err != nil {
		return err
	}
	if c.AdminListen != "" {
		if err := checkAddress("--admin-listen", c.AdminListen); err != nil {
			return err
		}
	}
	if err := c.TLSConfig.check(); err != nil {
		return err
	}
	if c.MaxTokenLifetime < 0 {
		return badConfig("--max-token-lifetime: %s is less than nothing", c.MaxTokenLifetime)
	}
	if err := c.Limits.check(); err != nil {
		return err
	}
	if err := checkURL("--public-url", c.PublicURL); err != nil {
		return err
	}
	if err := checkURL("--otlp-endpoint", c.OTLPEndpoint); err != nil {
		return err
	}
	if err := errors.Join(c.Fetch.check(), c.Silence.check(), c.Audit.check()); err != nil {
		return err
	}
	if err := c.Retention.check(); err != nil {
		return err
	}
	if _, err := c.Issuers.roots(); err != nil {
		return err
	}
	if err := c.Results.check(); err != nil {
		return err
	}
	if _, err := c.Notify.reach(); err != nil {
		return err
	}
	if c.DatabaseConnections < 2 || c.DatabaseConnections > 1000 {
		return badConfig("--database-connections: %d is outside 2 to 1000", c.DatabaseConnections)
	}
	if c.TraceRatio < 0 || c.TraceRatio > 1 {
		return badConfig("--trace-ratio: %g is outside 0 to 1", c.TraceRatio)
	}
	if c.ShutdownTimeout < time.Second {
		return badConfig("--shutdown-timeout: at least 1s is needed")
	}
	if c.DataDir == "" {
		return badConfig("--data-dir: a folder is needed")
	}
	return nil
}

func checkAddress(flag, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "" {
		return badConfig("%s: %q is no address; give HOST:PORT, such as 127.0.0.1:8440", flag, address)
	}
	if strings.ContainsAny(host, " /") {
		return badConfig("%s: %q is no host", flag, host)
	}
	return nil
}

func checkURL(flag, text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return badConfig("%s takes a URL such as https://assay.example", flag)
	}
	return nil
}

// tokenFile is where the first admin token goes.
func (c *Config) tokenFile() string {
	if c.AdminTokenFile != "" {
		return c.AdminTokenFile
	}
	return filepath.Join(c.DataDir, "admin.token")
}

// makeDataDir makes the data folder. Root's must let Postgres, which runs as another user, pass through.
func (c *Config) makeDataDir() error {
	mode := os.FileMode(0o700)
	if os.Geteuid() == 0 {
		mode = 0o711
	}
	info, err := os.Stat(c.DataDir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := os.MkdirAll(c.DataDir, mode); err != nil {
			return badConfig("the data folder cannot be made: %v; --data-dir names another", err)
		}
		return nil
	case err != nil:
		return badConfig("the data folder cannot be used: %v; --data-dir names another", err)
	case !info.IsDir():
		return badConfig("the data folder cannot be used: %s is no folder", c.DataDir)
	case info.Mode().Perm()&0o022 != 0:
		return badConfig("the data folder %s can be written by other users (mode %04o): chmod go-w it", c.DataDir, info.Mode().Perm())
	}
	probe, err := os.CreateTemp(c.DataDir, ".writable-*")
	if err != nil {
		return badConfig("the data folder cannot be written: %v; --data-dir names another", err)
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}
