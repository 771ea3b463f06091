// Package platform collects what the hardware under a confidential VM says of it, for the verifier to judge:
//
//	collector, err := platform.New(platform.Options{Mode: platform.Auto, StateDir: dir})
//	kind, err := collector.Detect(device)                   // azure_hcl, sev_snp, tdx, or none
//	evidence, err := collector.Collect(ctx, kind, device, platform.Binding{Nonce: nonce, AK: ak.Public})
//
// Where it comes from:
//
//	azure_hcl  the HCL report in NV index 0x01400001 of the vTPM, with the VCEK chain or the TD quote beside it, for
//	           which the metadata service is asked if that is allowed, and then not again until the report changes
//	sev_snp    configfs-tsm (Documentation/ABI/testing/configfs-tsm-report of Linux), else /dev/sev-guest
//	tdx        configfs-tsm, and the CC event log from ACPI
//
// Nothing is verified here: what is checked is checked so that a mistake shows at once and with a name, and not as a
// verdict. No request is made to anywhere but the metadata service, and none unless FetchEndorsements says so.
package platform

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Mode says what is to be collected.
type Mode string

// The modes.
const (
	Auto   Mode = "auto" // what there is
	None   Mode = "none" // the TPM alone, with a key that the agent makes
	Azure  Mode = "azure"
	SEVSNP Mode = "sev-snp"
	TDX    Mode = "tdx"
)

// Kind is the type of evidence that a mode is about; empty for Auto and None.
func (m Mode) Kind() string {
	switch m {
	case Azure:
		return client.AzureHCL
	case SEVSNP:
		return client.SEVSNP
	case TDX:
		return client.TDX
	}
	return ""
}

// Where Linux has it.
const (
	DefaultTSMDir     = "/sys/kernel/config/tsm/report"
	DefaultCCEventLog = "/sys/firmware/acpi/tables/data/CCEL"
	defaultSEVGuest   = "/dev/sev-guest"
	metadataService   = "http://169.254.169.254"
)

var defaultTDXGuests = []string{"/dev/tdx_guest", "/dev/tdx-guest"}

// Options of a Collector. Empty fields take the default.
type Options struct {
	Mode Mode
	// FetchEndorsements allows requests to the cloud's link-local metadata service.
	FetchEndorsements bool
	StateDir          string // where certificates and TD quotes are kept; none are kept when empty
	TSMDir            string // default DefaultTSMDir
	CCEventLog        string // default DefaultCCEventLog; a file that is absent or empty is not sent
	// Warn is told what goes wrong and does not end the collection.
	Warn func(text string)

	// Seams for tests, where there is neither such hardware nor such a cloud.
	MetadataURL string             // default the link-local address
	Mkdir       func(string) error // makes an entry in TSMDir; default mkdir(2)
	Rmdir       func(string) error // default rmdir(2)
	SEVGuest    string             // default /dev/sev-guest
	TDXGuests   []string           // default /dev/tdx_guest and its older name
}

// Collector is used by one goroutine at a time.
type Collector struct {
	options Options
	cache   *cache
	ioctl   ioctl
	now     func() time.Time
	// notBefore is when the metadata service may be asked for certificates again, after it failed.
	notBefore time.Time
}

// New makes a collector. It touches nothing yet.
func New(o Options) (*Collector, error) {
	if o.Mode == "" {
		o.Mode = Auto
	}
	if !slices.Contains([]Mode{Auto, None, Azure, SEVSNP, TDX}, o.Mode) {
		return nil, fmt.Errorf("platform evidence %q is none of auto, none, azure, sev-snp, tdx", o.Mode)
	}
	for _, f := range []struct {
		to          *string
		replacement string
	}{{&o.TSMDir, DefaultTSMDir}, {&o.CCEventLog, DefaultCCEventLog}, {&o.MetadataURL, metadataService}, {&o.SEVGuest, defaultSEVGuest}} {
		if *f.to == "" {
			*f.to = f.replacement
		}
	}
	if o.TDXGuests == nil {
		o.TDXGuests = defaultTDXGuests
	}
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	if o.Mkdir == nil {
		o.Mkdir = func(path string) error { return os.Mkdir(path, 0o700) }
	}
	if o.Rmdir == nil {
		o.Rmdir = unix.Rmdir
	}
	c := &Collector{options: o, ioctl: deviceIoctl, now: time.Now, cache: &cache{}}
	if o.StateDir != "" {
		c.cache.path = filepath.Join(o.StateDir, cacheFile)
	}
	return c, nil
}

// Mode is what the collector was made for.
func (c *Collector) Mode() Mode { return c.options.Mode }

// Detect tells the type of evidence that this machine can give and the mode allows; empty for none. device is nil on
// a machine without TPM. With Auto, what is there but cannot be read is a warning, as long as a TPM can prove the
// machine by itself; what is there and contradicts itself is an error. A mode that names its evidence only succeeds
// with that.
func (c *Collector) Detect(device *tpmdevice.Device) (string, error) {
	switch c.options.Mode {
	case None:
		return "", nil
	case Azure:
		if device == nil {
			return "", errors.New("azure evidence lies in the machine's vTPM, and no TPM is there")
		}
		_, err := readHCL(device)
		return client.AzureHCL, err
	case SEVSNP, TDX:
		kind, err := c.provider()
		if err == nil && kind != c.options.Mode.Kind() {
			err = fmt.Errorf("this machine gives %s evidence, not %s", kind, c.options.Mode.Kind())
		}
		return kind, err
	}
	if device != nil {
		report, err := readHCL(device)
		switch {
		case err == nil && report != nil:
			return client.AzureHCL, nil
		case err != nil && !errors.Is(err, errNoHCL) && !errors.Is(err, errNotConfidential):
			c.options.Warn(err.Error() + "; going on without")
		}
	}
	kind, err := c.provider()
	switch {
	case errors.Is(err, errNoProvider):
		return "", nil
	case err != nil && device != nil:
		c.options.Warn(err.Error() + "; going on with the TPM alone")
		return "", nil
	}
	return kind, err
}

// errNoProvider is the error of provider where nothing speaks for a confidential VM.
var errNoProvider = errors.New("this machine gives no SEV-SNP or TDX evidence")

// provider tells which kind of report the guest's kernel can get.
func (c *Collector) provider() (string, error) {
	o := &c.options
	kind, tsmErr := c.tsmProvider()
	if tsmErr == nil {
		return kind, nil
	}
	if exists(o.SEVGuest) {
		return client.SEVSNP, nil
	}
	if i := slices.IndexFunc(o.TDXGuests, exists); i >= 0 {
		return "", fmt.Errorf("%s gives TD reports, but TD quotes come through configfs-tsm only (Linux 6.7 or later with configfs mounted, "+
			"tdx_guest loaded, and the right to make a directory in %s): %w", o.TDXGuests[i], o.TSMDir, tsmErr)
	}
	if errors.Is(tsmErr, fs.ErrNotExist) || errors.Is(tsmErr, unix.ENXIO) {
		return "", fmt.Errorf("%w: tried %s and %s: %w", errNoProvider, o.TSMDir, o.SEVGuest, tsmErr)
	}
	return "", fmt.Errorf("tried %s and %s: %w", o.TSMDir, o.SEVGuest, tsmErr)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Binding is what fresh evidence is made over.
type Binding struct {
	Nonce []byte // 32 bytes, of the challenge; zeros at enrolment, where there is none
	AK    []byte // TPMT_PUBLIC of the key that signs the quote; nil on a machine without TPM
}

// NoNonce is the nonce of an enrolment.
func NoNonce() []byte { return make([]byte, nonceSize) }

const nonceSize = 32

// ReportData is what the report has to hold: with a key, SHA-512 over "assay-platform-binding-v1", a zero byte, the
// nonce and the key's Name (TPM 2.0 Part 1, section 16); without, the nonce and 32 zero bytes.
func (b Binding) ReportData() (data [64]byte, err error) {
	if len(b.Nonce) != nonceSize {
		return data, fmt.Errorf("the server's nonce has %d bytes; hardware evidence needs %d", len(b.Nonce), nonceSize)
	}
	if b.AK == nil {
		copy(data[:], b.Nonce)
		return data, nil
	}
	ak, err := tpm.ParsePublic(b.AK)
	if err != nil {
		return data, fmt.Errorf("the attestation key: %w", err)
	}
	return sha512.Sum512(slices.Concat([]byte("assay-platform-binding-v1\x00"), b.Nonce, ak.Name())), nil
}

// Collect gathers evidence of a kind that Detect told. device may be nil for all but azure_hcl.
func (c *Collector) Collect(ctx context.Context, kind string, device *tpmdevice.Device, b Binding) (*client.PlatformEvidence, error) {
	switch kind {
	case client.AzureHCL:
		return c.azure(ctx, device, b)
	case client.SEVSNP, client.TDX:
		return c.guest(ctx, kind, b)
	}
	return nil, fmt.Errorf("platform evidence %q is none of %s, %s, %s", kind, client.AzureHCL, client.SEVSNP, client.TDX)
}

// guest gets a report through the guest's kernel.
func (c *Collector) guest(ctx context.Context, kind string, b Binding) (*client.PlatformEvidence, error) {
	data, err := b.ReportData()
	if err != nil {
		return nil, err
	}
	out, aux, err := c.tsmReport(ctx, kind, data)
	if err != nil && kind == client.SEVSNP && exists(c.options.SEVGuest) {
		var deviceErr error
		if out, aux, deviceErr = c.sevGuestReport(ctx, data); deviceErr != nil {
			return nil, fmt.Errorf("SEV-SNP report: tried %s: %w; tried %s: %w", c.options.TSMDir, err, c.options.SEVGuest, deviceErr)
		}
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s evidence: %w", kind, err)
	}
	e := &client.PlatformEvidence{Type: kind}
	if kind == client.TDX {
		if err := checkQuote(out, data); err != nil {
			return nil, err
		}
		e.Quote = out
		return e, nil
	}
	if err := checkReport(out, data); err != nil {
		return nil, err
	}
	e.Report = out
	if e.Certificates, err = parseCertificateTable(aux); err != nil {
		// The host made it, and the report is good without.
		c.options.Warn(fmt.Sprintf("the certificates that came with the SEV-SNP report: %v; going on without", err))
	}
	return e, nil
}

// The layouts of a report (AMD 56860, table 22) and of a TD quote (Intel TDX DCAP Quoting Library API, A.3).
const (
	snpReportSize   = 1184
	snpReportData   = 0x50
	snpReportedTCB  = 0x180
	snpChipID       = 0x1a0
	snpSignature    = 0x2a0
	tdReportSize    = 1024
	quoteHeaderSize = 48
	quoteReportData = quoteHeaderSize + 520
	minQuote        = quoteHeaderSize + 584
)

func checkReport(report []byte, data [64]byte) error {
	if len(report) != snpReportSize {
		return fmt.Errorf("the SEV-SNP report has %d bytes, not %d", len(report), snpReportSize)
	}
	if [64]byte(report[snpReportData:]) != data {
		return errors.New("the SEV-SNP report is over other data than was asked for; does another program write to the same entry?")
	}
	return nil
}

func checkQuote(quote []byte, data [64]byte) error {
	if len(quote) < minQuote {
		return fmt.Errorf("the TD quote has %d bytes, less than its fixed part; does the quote generation service of the host answer?", len(quote))
	}
	// In other versions the report lies elsewhere.
	if quote[0] == 4 && quote[1] == 0 && [64]byte(quote[quoteReportData:]) != data {
		return errors.New("the TD quote is over other data than was asked for; does another program write to the same entry?")
	}
	return nil
}

// maxEventLog bounds what is read of the CC event log; its ACPI area has 64 KB on common machines.
const maxEventLog = 4 << 20

// EventLog reads the CC event log; nil when there is none.
func (c *Collector) EventLog() ([]byte, error) {
	b, err := readBounded(c.options.CCEventLog, maxEventLog)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && len(b) == 0) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the CC event log: %w", err)
	}
	return b, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path) // #nosec G304 -- the operator names it
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return b, err
}

// SecurityType is what the inventory calls a machine with this evidence; empty when it does not tell.
func SecurityType(e *client.PlatformEvidence) string {
	if e.Type != client.AzureHCL {
		return securityTypes[e.Type]
	}
	report, err := parseHCL(e.HCLReport)
	if err != nil {
		return ""
	}
	return securityTypes[report.kind]
}

// AzureSecurityType is that of a machine by its HCL report, whatever else there is of evidence.
func AzureSecurityType(device *tpmdevice.Device) string {
	report, err := readHCL(device)
	if err != nil {
		return ""
	}
	return securityTypes[report.kind]
}

var securityTypes = map[string]string{client.SEVSNP: "confidential_snp", client.TDX: "confidential_tdx"}
