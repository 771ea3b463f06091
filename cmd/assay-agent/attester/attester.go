// Package attester is what assay-agent does: it enrols this machine with an Assay server, by credential
// activation, by a key that its cloud certified, or by hardware evidence of a confidential VM (package platform), and
// attests it, once or for as long as the machine runs.
//
//	a, err := attester.New(attester.Config{Server: "https://assay.example:8440", StateDir: "/var/lib/assay-agent"})
//	enrollment, err := a.Enroll(ctx, attester.Enrollment{JoinToken: token, Machine: machine})
//	verdict, err := a.Attest(ctx)
//	err = a.Run(ctx, hooks)
//
// The TPM is open only while something is asked of it, so that other programs may use it between two
// attestations. What survives a restart is in the state directory (see State); the attestation key
// there can be used by this TPM only.
package attester

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/platform"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
)

// Where Linux shows the measurements.
const (
	DefaultEventLog = "/sys/kernel/security/tpm0/binary_bios_measurements"
	DefaultIMALog   = "/sys/kernel/security/ima/binary_runtime_measurements"
	asciiIMALog     = "/sys/kernel/security/ima/ascii_runtime_measurements"
)

// Config says where things are. Empty fields take the default.
type Config struct {
	Server   string         // base address; default: the server of the enrolment
	RootCAs  *x509.CertPool // that the server's certificate chains to; default: the system's
	StateDir string         // required
	// Certificate gives the client certificate for a server that asks for one; nil: none.
	Certificate func() (*tls.Certificate, error)
	TPM         string // device or socket; default: tpmdevice.DefaultPaths
	EventLog    string // default DefaultEventLog; a file that is absent or empty is not sent
	IMALog      string // default DefaultIMALog, else the ASCII list; likewise
	Version     string // of the agent, for the User-Agent and the evidence
	Host        fs.FS  // the root file system, to see what machine this is; default "/"

	// Platform says what hardware evidence is collected. Its StateDir is set here.
	Platform platform.Options
}

// Attester is used by one goroutine at a time.
type Attester struct {
	config Config
	client *client.Client
	state  *State
	next   nextChallenge

	collector *platform.Collector
	// random is a number in [0, 1) for jitter.
	random func() float64
}

// ErrNotEnrolled is the error for what needs an enrolment first.
var ErrNotEnrolled = errors.New("this machine is not enrolled; run assay-agent enroll first")

// New reads the state directory, which need not exist yet. It touches neither TPM nor network.
func New(c Config) (*Attester, error) {
	if c.StateDir == "" {
		return nil, errors.New("a state directory is needed")
	}
	state, err := LoadState(c.StateDir)
	if err != nil {
		return nil, err
	}
	if c.Server == "" {
		c.Server = state.Server
	}
	if c.EventLog == "" {
		c.EventLog = DefaultEventLog
	}
	if c.IMALog == "" {
		c.IMALog = DefaultIMALog
		if _, err := os.Stat(c.IMALog); errors.Is(err, fs.ErrNotExist) {
			c.IMALog = asciiIMALog
		}
	}
	if c.Host == nil {
		c.Host = os.DirFS("/")
	}
	if c.Platform.Warn == nil {
		c.Platform.Warn = func(string) {}
	}
	c.Platform.StateDir = c.StateDir
	collector, err := platform.New(c.Platform)
	if err != nil {
		return nil, err
	}
	a := &Attester{config: c, state: state, collector: collector, random: rand.Float64}
	if c.Server == "" {
		return a, nil // only State is of use
	}
	a.client, err = client.New(c.Server, client.Options{RootCAs: c.RootCAs, Certificate: c.Certificate, UserAgent: "assay-agent/" + c.Version})
	if err != nil {
		return nil, err
	}
	return a, nil
}

// State is what the agent knows.
func (a *Attester) State() *State { return a.state }

// Server is the server's address; empty when none is known.
func (a *Attester) Server() string { return a.config.Server }

// Close closes the connection to the server.
func (a *Attester) Close() {
	if a.client != nil {
		a.client.Close()
	}
}

// withAK opens the TPM and loads the attestation key for the time of use.
func (a *Attester) withAK(use func(*tpmdevice.Device, *tpmdevice.Key) error) (err error) {
	device, err := tpmdevice.Open(a.config.TPM)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	ak, err := loadAK(device, &a.state.AK)
	if errors.Is(err, tpmdevice.ErrForeignKey) {
		return fmt.Errorf("%w: was the TPM cleared, or the state directory copied from another machine? Enrol again", err)
	}
	if err != nil {
		return fmt.Errorf("load the attestation key: %w", err)
	}
	defer func() { err = errors.Join(err, ak.Close()) }()
	return use(device, ak)
}

// loadAK gets the key ready. A key that the cloud made is found again, and must be the one that was enrolled.
func loadAK(device *tpmdevice.Device, stored *AK) (key *tpmdevice.Key, err error) {
	switch {
	case stored.Handle != 0:
		key, err = device.PersistentKey(stored.Handle)
	case stored.Template != 0:
		key, err = device.AKFromTemplate(stored.Template)
	default:
		return device.LoadAK(stored.Blob)
	}
	if err != nil {
		return nil, err
	}
	if key == nil || !bytes.Equal(key.Public, stored.Public) {
		return nil, errors.Join(tpmdevice.ErrForeignKey, key.Close())
	}
	return key, nil
}

// nextChallenge is the challenge that came with the last verdict.
type nextChallenge struct {
	challenge *client.Challenge
	until     time.Time // by this machine's monotonic clock
}

// challengeMargin is how long before its end a challenge is no more used.
const challengeMargin = 5 * time.Second

// keep remembers the challenge of a verdict. Its lifetime is the difference of two times of the server, so
// that this machine's wall clock does not matter: evidence over an expired nonce would be an alert.
func (n *nextChallenge) keep(v *client.Verdict, asked time.Time) {
	*n = nextChallenge{}
	server := v.ServerTime
	if v.ReceivedAt.After(server) {
		server = v.ReceivedAt
	}
	if c := v.NextChallenge; c != nil && len(c.Nonce) > 0 && !server.IsZero() {
		n.challenge, n.until = c, asked.Add(c.ExpiresAt.Sub(server)-challengeMargin)
	}
}

// take returns the challenge if it is still good, once.
func (n *nextChallenge) take(now time.Time) *client.Challenge {
	c := n.challenge
	if c != nil && !now.Before(n.until) {
		c = nil
	}
	*n = nextChallenge{}
	return c
}
