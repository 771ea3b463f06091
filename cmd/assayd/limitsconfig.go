package main

import (
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/server/limit"
	"github.com/assay-verifier/assay/server/tlsfile"
	"github.com/assay-verifier/assay/store"
)

// LimitConfig bounds what clients may take. A rate is the number a second in the long run and the number at once, such as
// 50:500, or off. deploy/LIMITS.md says of each what is answered beyond it.
//
// Danger: a limit that is off lets one client, one address or one tenant take all of the service.
type LimitConfig struct {
	// RateMachine is of requests with one machine's token. A machine that attests needs one to three every few minutes.
	RateMachine limit.Rate `env:"ASSAY_RATE_MACHINE" default:"50:500" placeholder:"RATE" help:"Requests of one machine: number a second and number at once, or off (${default})."`

	// RatePrincipal is of requests of one person, pipeline or relying party.
	RatePrincipal limit.Rate `env:"ASSAY_RATE_PRINCIPAL" default:"200:4000" placeholder:"RATE" help:"Requests of one person, pipeline or relying party (${default})."`

	// RateJoin is of enrolments with one join token, which a whole fleet may share.
	RateJoin limit.Rate `env:"ASSAY_RATE_JOIN" default:"500:20000" placeholder:"RATE" help:"Enrolments with one join token (${default})."`

	// RateSource is of requests without a token from one address (of IPv6 from one /64), pages included.
	RateSource limit.Rate `env:"ASSAY_RATE_SOURCE" default:"500:20000" placeholder:"RATE" help:"Requests without a token, and of pages, from one address (${default})."`

	// RateFailures is of tokens from one address that are refused. Beyond it, tokens from there are looked up no more, but for
	// those of machines and those that were looked up a moment ago.
	RateFailures limit.Rate `env:"ASSAY_RATE_FAILURES" default:"50:5000" placeholder:"RATE" help:"Refused tokens and sign-ins from one address (${default})."`

	// MaxMachineRequests is how many requests of one machine are in work at once.
	MaxMachineRequests int `env:"ASSAY_MAX_MACHINE_REQUESTS" default:"8" placeholder:"N" help:"Requests of one machine in work at once (${default}); 0 for any number."`

	// MaxPrincipalRequests is how many requests of one person, pipeline or relying party are in work at once.
	MaxPrincipalRequests int `env:"ASSAY_MAX_PRINCIPAL_REQUESTS" default:"64" placeholder:"N" help:"Requests of one person, pipeline or relying party in work at once (${default}); 0 for any number."`

	// MaxAppraisals and the five after it are how much of each kind of work is done at once. More wait, QueueLength of them at each for QueueWait at most, and are
	// refused with 503 then.
	MaxAppraisals int `env:"ASSAY_MAX_APPRAISALS" default:"256" placeholder:"N" help:"Evidence, challenges, logs and results in work at once (${default}); a commit takes up to 100 of them."`
	MaxEnrolments int `env:"ASSAY_MAX_ENROLMENTS" default:"16" placeholder:"N" help:"Enrolments and activations in work at once (${default})."`
	MaxImports    int `env:"ASSAY_MAX_IMPORTS" default:"4" placeholder:"N" help:"Imports of reference values, collateral, revocations and anchors at once (${default})."`
	MaxTrials     int `env:"ASSAY_MAX_TRIALS" default:"4" placeholder:"N" help:"Dry runs, tests of policies, approvals and other judgements of stored evidence at once (${default})."`
	MaxQueries    int `env:"ASSAY_MAX_QUERIES" default:"32" placeholder:"N" help:"Reads of the database and pages at once (${default})."`
	MaxChanges    int `env:"ASSAY_MAX_CHANGES" default:"32" placeholder:"N" help:"Other writes at once (${default})."`

	QueueLength int           `env:"ASSAY_QUEUE_LENGTH" default:"10000" placeholder:"N" help:"Requests that wait at each of these (${default})."`
	QueueWait   time.Duration `env:"ASSAY_QUEUE_WAIT" default:"10s" placeholder:"DURATION" help:"How long they wait at most (${default})."`

	// MaxConnections bounds the public address's connections. Where there are as many, one that is idle gives way to a new one.
	// An idle connection with TLS costs about 40 kB. The limit is lowered to four fifths of the files that the process may open.
	MaxConnections int `env:"ASSAY_MAX_CONNECTIONS" default:"20000" placeholder:"N" help:"Open connections (${default}); 0 for any number. Idle ones give way to new ones."`

	// MaxConnectionsPerSource bounds those from one address (of IPv6 from one /64). A fleet behind one address keeps as many as it has machines.
	MaxConnectionsPerSource int `env:"ASSAY_MAX_CONNECTIONS_PER_SOURCE" default:"15000" placeholder:"N" help:"Open connections from one address (${default}); 0 for any number."`

	// RateConnections is of new connections from one address: a TLS handshake costs as much as an attestation.
	RateConnections limit.Rate `env:"ASSAY_RATE_CONNECTIONS" default:"500:20000" placeholder:"RATE" help:"New connections from one address (${default})."`

	// TrustedProxies are the networks of proxies before the service. Of connections from there the client is the last address in X-Forwarded-For
	// that is no such proxy.
	//
	// Danger: whoever is in these networks can say where a request comes from, in the audit record too. Without it, all clients of a
	// proxy count as one address.
	TrustedProxies []string `env:"ASSAY_TRUSTED_PROXIES" placeholder:"CIDR,..." help:"Networks of proxies whose X-Forwarded-For is believed, such as 10.0.0.0/24."`

	// Quota are what each tenant may have, where nothing else was set for it (assayd quotas set): machines,
	// baselines, baseline_versions, join_tokens, api_tokens, notification_channels, evidence_bytes_per_day.
	Quota map[string]string `env:"ASSAY_QUOTA" mapsep:"," placeholder:"KIND=N,..." help:"What a tenant may have where nothing else was set for it, as machines=10000,api_tokens=100; unlimited for no limit."`
}

// check refuses settings that cannot work.
func (c *LimitConfig) check() error {
	for flag, n := range map[string]int{"--max-appraisals": c.MaxAppraisals, "--max-enrolments": c.MaxEnrolments, "--max-imports": c.MaxImports,
		"--max-trials": c.MaxTrials, "--max-queries": c.MaxQueries, "--max-changes": c.MaxChanges, "--queue-length": c.QueueLength} {
		if n < 1 || n > 1_000_000 {
			return badConfig("%s: %d is outside 1 to 1000000", flag, n)
		}
	}
	for flag, n := range map[string]int{"--max-machine-requests": c.MaxMachineRequests, "--max-principal-requests": c.MaxPrincipalRequests,
		"--max-connections": c.MaxConnections, "--max-connections-per-source": c.MaxConnectionsPerSource} {
		if n < 0 || n > 10_000_000 {
			return badConfig("%s: %d is outside 0 to 10000000", flag, n)
		}
	}
	if c.QueueWait < 100*time.Millisecond || c.QueueWait > time.Minute {
		return badConfig("--queue-wait: %s is outside 100ms to 1m", c.QueueWait)
	}
	if _, err := c.proxies(); err != nil {
		return err
	}
	_, err := c.quotas()
	return err
}

func (c *LimitConfig) proxies() ([]netip.Prefix, error) {
	return networks("--trusted-proxies", c.TrustedProxies)
}

// networks reads networks of a flag.
func networks(flag string, texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, text := range texts {
		network, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil || network != network.Masked() {
			return nil, badConfig("%s: %q is no network such as 10.1.0.0/16", flag, text)
		}
		out = append(out, network)
	}
	return out, nil
}

func (c *LimitConfig) quotas() (map[store.QuotaKind]int64, error) {
	out := map[store.QuotaKind]int64{}
	for name, text := range c.Quota {
		kind, n, err := readQuota(name, text)
		if err != nil {
			return nil, err
		}
		if n == nil {
			return nil, badConfig("--quota: %s=default says nothing here: leave it out", name)
		}
		out[kind] = *n
	}
	return out, nil
}

// readQuota reads one quota; nil for the service's default.
func readQuota(name, text string) (store.QuotaKind, *int64, error) {
	known := false
	var names []string
	for _, k := range store.QuotaKinds() {
		known = known || string(k) == name
		names = append(names, string(k))
	}
	if !known {
		return "", nil, badConfig("there is no quota %q: there are %s", name, strings.Join(names, ", "))
	}
	switch text {
	case "default":
		return store.QuotaKind(name), nil, nil
	case "unlimited":
		n := store.Unlimited
		return store.QuotaKind(name), &n, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return "", nil, badConfig("%s: %q is no quota: give a number, unlimited or default", name, text)
	}
	return store.QuotaKind(name), &n, nil
}

// limits are the settings as the server takes them; proxies were checked before.
func (c *LimitConfig) limits(log *slog.Logger) (*server.Limits, error) {
	proxies, err := c.proxies()
	if err != nil {
		return nil, err
	}
	most := c.MaxConnections
	if files := openFiles(); files > 0 && (most == 0 || most > files/5*4) {
		most = files / 5 * 4
		log.Warn("the limit of connections was lowered: the process may not open more files (ulimit -n, LimitNOFILE=)", "max_connections", most, "files", files)
	}
	return &server.Limits{
		Machine: c.RateMachine, Principal: c.RatePrincipal, Join: c.RateJoin, Source: c.RateSource, Failures: c.RateFailures,
		MachineShare: c.MaxMachineRequests, PrincipalShare: c.MaxPrincipalRequests,
		Appraisals: c.MaxAppraisals, Enrolments: c.MaxEnrolments, Imports: c.MaxImports, Trials: c.MaxTrials, Queries: c.MaxQueries, Changes: c.MaxChanges,
		Queue: c.QueueLength, QueueWait: c.QueueWait,
		Connections: limit.Connections{Most: most, PerSource: c.MaxConnectionsPerSource, SourceRate: c.RateConnections},
		Proxies:     proxies,
	}, nil
}

// openFiles is how many files the process may open; 0 where that is not known, or no limit.
func openFiles() int {
	var r syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &r); err != nil || r.Cur > 1<<31-1 {
		return 0
	}
	return int(r.Cur)
}

// TLSConfig is how the public address speaks TLS. All files are looked at every ten seconds, and on SIGHUP: what changed is used from then on. What cannot
// be used is logged, and what was there before stays in use.
type TLSConfig struct {
	// TLSCert and TLSKey are PEM files; with both the public address speaks TLS 1.2 and 1.3 only.
	//
	// Danger: a key that other users can read is refused; a group may read it (mode 0640).
	TLSCert string `env:"ASSAY_TLS_CERT" placeholder:"PEM" help:"Certificate chain of the public address, leaf first. Read again when it changes."`
	TLSKey  string `env:"ASSAY_TLS_KEY" placeholder:"PEM" help:"Its private key, which other users must not be able to read (0600 or 0640). Read again when it changes."`

	// TLSClientCA are the certificates that those of clients must chain to: clients are then asked for one, beside their token.
	TLSClientCA string `env:"ASSAY_TLS_CLIENT_CA" placeholder:"PEM" help:"Certificates that clients' must chain to. With it clients are asked for a certificate, beside their token. Read again when it changes."`

	// TLSClientAuth is require, where nobody gets in without a certificate (health checks and web browsers neither), or request,
	// where one that is shown has to hold and a token that is bound to one needs it.
	TLSClientAuth string `env:"ASSAY_TLS_CLIENT_AUTH" enum:"require,request" default:"require" help:"With --tls-client-ca: require a certificate of every client, or request one and take who has none by the token alone (${default})."`

	// BindMachineTokens binds the tokens of machines to the certificate that the agent shows when it enrols, or when its token is renewed.
	//
	// Danger: a machine that gets another certificate has to enrol again.
	BindMachineTokens bool `env:"ASSAY_BIND_MACHINE_TOKENS" help:"Bind machine tokens to the client certificate that the agent shows: the token alone is then worth nothing. A machine with another certificate has to enrol again."`

	// MachineTokenLifetime ends a machine's token. One that attests has a new one each day; one that does not for so long has to enrol again.
	MachineTokenLifetime time.Duration `env:"ASSAY_MACHINE_TOKEN_LIFETIME" default:"8760h" placeholder:"DURATION" help:"How long a machine token is valid, 1h or more (${default}). It is renewed each day with genuine evidence."`
}

// load reads the files; nil without TLS.
func (c *TLSConfig) load() (*tlsfile.Source, error) {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return nil, badConfig("--tls-cert and --tls-key go together")
	}
	if c.TLSCert == "" {
		if c.TLSClientCA != "" || c.BindMachineTokens {
			return nil, badConfig("--tls-client-ca and --bind-machine-tokens need --tls-cert and --tls-key")
		}
		return nil, nil //nolint:nilnil // no TLS
	}
	if c.BindMachineTokens && c.TLSClientCA == "" {
		return nil, badConfig("--bind-machine-tokens needs --tls-client-ca")
	}
	source, err := tlsfile.Load(tlsfile.Files{Certificate: c.TLSCert, Key: c.TLSKey, ClientCA: c.TLSClientCA, RequireClient: c.TLSClientAuth != "request"}, time.Now)
	if err != nil {
		return nil, badConfig("--tls-cert, --tls-key, --tls-client-ca: %v", err)
	}
	return source, nil
}

func (c *TLSConfig) check() error {
	if c.MachineTokenLifetime < time.Hour {
		return badConfig("--machine-token-lifetime: %s is less than 1h", c.MachineTokenLifetime)
	}
	_, err := c.load()
	return err
}

// hangups are the SIGHUPs of the process.
func hangups(notify func(chan<- os.Signal, ...os.Signal)) <-chan os.Signal {
	c := make(chan os.Signal, 1)
	notify(c, syscall.SIGHUP)
	return c
}
