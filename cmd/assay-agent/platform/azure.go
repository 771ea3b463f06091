package platform

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// How long the metadata service is left alone.
const (
	afterFailure  = 10 * time.Minute // unless it says how long
	afterMismatch = time.Hour        // when its certificate is for another TCB than the report has
)

// AzureAK is the attestation key that the paravisor made for this machine. The report must name it: a report with
// another key says nothing of this TPM. It is to be closed.
func (c *Collector) AzureAK(device *tpmdevice.Device) (*tpmdevice.Key, error) {
	report, err := readHCL(device)
	if err != nil {
		return nil, err
	}
	key, err := device.PersistentKey(hclAKHandle)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, fmt.Errorf("the vTPM has no attestation key at handle 0x%08x; was it evicted? A redeployed VM gets it back", hclAKHandle)
	}
	if err := report.names(key.Public); err != nil {
		return nil, errors.Join(err, key.Close())
	}
	return key, nil
}

// AzureAKHandle is where AzureAK finds the key.
const AzureAKHandle = hclAKHandle

// names checks that the report's HCLAkPub is a key.
func (r *hclReport) names(public []byte) error {
	ak, err := tpm.ParsePublic(public)
	if err != nil {
		return fmt.Errorf("the key at handle 0x%08x: %w", hclAKHandle, err)
	}
	if !r.ak.Equal(ak.Key()) {
		return fmt.Errorf("the attestation key at handle 0x%08x is not the HCLAkPub of the HCL report: the report is of another machine, "+
			"or somebody replaced the key; redeploy the VM, or enrol by the TPM alone with --platform-evidence none", hclAKHandle)
	}
	return nil
}

// azure reads the HCL report and adds what it is verified with.
func (c *Collector) azure(ctx context.Context, device *tpmdevice.Device, b Binding) (*client.PlatformEvidence, error) {
	if device == nil {
		return nil, errors.New("azure evidence lies in the machine's vTPM, and no TPM is there")
	}
	data, err := b.ReportData()
	if err != nil {
		return nil, err
	}
	// Where the guest has defined this index, the paravisor puts its content into the report. It is of use, and not
	// needed: the quote is over the challenge already.
	if _, err := device.WriteNV(userDataIndex, data[:]); err != nil {
		c.options.Warn(fmt.Sprintf("the HCL report's user data: %v; going on without", err))
	}
	report, err := readHCL(device)
	if err != nil {
		return nil, err
	}
	if err := report.names(b.AK); err != nil {
		return nil, err
	}
	kept := c.cache.load()
	e := &client.PlatformEvidence{Type: client.AzureHCL, HCLReport: report.raw}
	if a := kept.Azure; a != nil && a.Content == report.content() {
		// The same bytes as before, so that the server knows their digest.
		e.HCLReport, e.Quote = a.Report, a.Quote
	} else {
		if report.kind == client.TDX {
			if e.Quote, err = c.tdQuote(ctx, report); err != nil {
				return nil, err
			}
		}
		kept.Azure = &keptReport{Content: report.content(), Report: e.HCLReport, Quote: e.Quote}
		c.keep(kept)
	}
	if report.kind == client.SEVSNP {
		e.Certificates = c.vcek(ctx, report, kept)
	}
	return e, nil
}

// tdQuote has the host's quoting enclave turn a TD report into a quote: no one else can.
func (c *Collector) tdQuote(ctx context.Context, report *hclReport) ([]byte, error) {
	if !c.options.FetchEndorsements {
		return nil, errors.New("the TD quote of an Azure TDX machine comes from its metadata service (" + metadataService + "): " +
			"allow the request with --fetch-endorsements, or enrol by the TPM alone with --platform-evidence none")
	}
	quote, err := newMetadata(c.options.MetadataURL).tdQuote(ctx, report.hardware)
	if err != nil {
		return nil, fmt.Errorf("TD quote: %w", err)
	}
	return quote, nil
}

// vcek is the certificate chain of the chip's key; nil where it is neither kept nor to be had: the server may hold it.
func (c *Collector) vcek(ctx context.Context, report *hclReport, kept *keptData) [][]byte {
	now := c.now()
	old := kept.Certificates
	if old != nil && old.Chip != report.chip() {
		old = nil
	}
	if old != nil && (old.Until.IsZero() || now.Before(old.Until)) {
		return old.DER
	}
	var stale [][]byte
	if old != nil {
		stale = old.DER
	}
	if !c.options.FetchEndorsements || now.Before(c.notBefore) {
		return stale
	}
	der, tcb, err := newMetadata(c.options.MetadataURL).certificates(ctx)
	if err != nil {
		wait := afterFailure
		var refused *RefusedError
		if errors.As(err, &refused) && refused.RetryAfter > 0 {
			wait = refused.RetryAfter
		}
		c.notBefore = now.Add(wait)
		c.options.Warn(fmt.Sprintf("the chip's certificates: %v; going on without new ones, next try in %s", err, wait))
		return stale
	}
	kept.Certificates = &keptCertificates{Chip: report.chip(), DER: der}
	if tcb != report.tcb() {
		kept.Certificates.Until = now.Add(afterMismatch)
		c.options.Warn(fmt.Sprintf("the metadata service gives the chip's certificate for TCB %016x, the report has %016x; asking again after %s",
			tcb, report.tcb(), afterMismatch))
	}
	c.keep(kept)
	return der
}

func (c *Collector) keep(kept *keptData) {
	if err := c.cache.store(kept); err != nil {
		c.options.Warn(fmt.Sprintf("keep the hardware evidence for the next time: %v", err))
	}
}
