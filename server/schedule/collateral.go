package schedule

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/tee"
)

// CollateralConfig is what the job collateral-fetch needs.
type CollateralConfig struct {
	Store  *store.Store
	Tenant uuid.UUID
	Now    func() time.Time
	// AMDKDS is AMD's Key Distribution Service, IntelPCS Intel's Provisioning Certification Service (or a PCCS), and
	// IntelRootCRL where the CRL of the Intel SGX Root CA is. An empty one is not asked.
	AMDKDS, IntelPCS, IntelRootCRL string
	// Gap is the least time between two requests to one source; 0 means 10 s, at which AMD's does not throttle.
	Gap time.Duration
	// PerRound is the most requests to one source in one round; 0 means 20.
	PerRound int
	// sleep waits, but for tests.
	sleep func(context.Context, time.Duration) error
}

// The defaults of the sources.
const (
	DefaultAMDKDS       = "https://kdsintf.amd.com"
	DefaultIntelPCS     = "https://api.trustedservices.intel.com"
	DefaultIntelRootCRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
)

const (
	refreshBefore = 7 * 24 * time.Hour // what expires within is fetched again
	lease         = 10 * time.Minute   // of a want that is being fetched; longer than a request may take
	firstBackOff  = time.Minute        // of a source that cannot be reached or throttles
	firstRefusal  = time.Hour          // of a want that the source does not have, or answers with nonsense
	longestWait   = 24 * time.Hour     // of our own back-off
	longestAsked  = 7 * 24 * time.Hour // of a Retry-After
	giveUpAfter   = 10                 // failures, and giveUpAge: a want that nobody has is forgotten
	giveUpAge     = 30 * 24 * time.Hour
	// postponed begins the reason of a failure that is the source's and not the want's: see store.PostponedUntil.
	postponed = "the source is left alone: "
)

// source is one service of a vendor.
type source struct {
	name  string
	kinds []tee.Kind
	// request says where a want is found; an error is a want that it cannot have.
	request func(base string, w tee.Want) (address, chainHeader string, err error)
	base    string
	last    time.Time // of the last request
	// failures in a row that were the source's, as this round found them.
	failures int
}

// Collateral makes the job that fetches what checks have lacked, and what expires soon. It asks one source after the
// other, with a gap between two requests, and stores only what is signed up to the tenant's anchors. A source that
// throttles or fails is left alone for as long as it asks, or ever longer; that is remembered in collateral_wants.
func Collateral(cfg CollateralConfig) Job {
	if cfg.Gap == 0 {
		cfg.Gap = 10 * time.Second
	}
	if cfg.PerRound == 0 {
		cfg.PerRound = 20
	}
	if cfg.sleep == nil {
		cfg.sleep = sleep
	}
	f := &fetcher{CollateralConfig: cfg, client: newClient(), sources: []*source{
		{name: "AMD KDS", base: cfg.AMDKDS, kinds: []tee.Kind{tee.KindVCEK, tee.KindSNPCRL, tee.KindVLEK}, request: requestAMD},
		{name: "Intel PCS", base: cfg.IntelPCS, kinds: []tee.Kind{tee.KindTCBInfo, tee.KindQEIdentity, tee.KindPCKCRL}, request: requestIntel},
		{name: "Intel root CRL", base: cfg.IntelRootCRL, kinds: []tee.Kind{tee.KindRootCRL},
			request: func(base string, _ tee.Want) (string, string, error) { return base, "", nil }},
	}}
	return Job{Name: "collateral-fetch", Every: 5 * time.Minute, Run: f.run,
		About: "Fetches endorsement keys, CRLs and TCB info that checks lacked or that expire within a week from AMD and Intel."}
}

type fetcher struct {
	CollateralConfig
	client  *client
	sources []*source
}

// tally is what a round did.
type tally struct{ fetched, unchanged, failed int }

func (f *fetcher) run(ctx context.Context) (string, error) {
	if err := f.wantExpiring(ctx); err != nil {
		return "", err
	}
	var t tally
	var errs []error
	for _, s := range f.sources {
		if s.base == "" {
			continue
		}
		if err := f.ask(ctx, s, &t); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	if _, err := f.Store.DropWants(ctx, f.Tenant, giveUpAfter, f.Now().Add(-giveUpAge)); err != nil {
		errs = append(errs, err)
	}
	report := ""
	if t != (tally{}) {
		report = fmt.Sprintf("%d fetched, %d not newer than what is held, %d failed", t.fetched, t.unchanged, t.failed)
	}
	return report, errors.Join(errs...)
}

// wantExpiring notes as wanted what expires soon, but for VLEKs, which no public source has.
func (f *fetcher) wantExpiring(ctx context.Context) error {
	soon := f.Now().Add(refreshBefore)
	page := store.Page{Limit: 500}
	for {
		items, next, err := f.Store.ListCollateral(ctx, f.Tenant, store.CollateralFilter{ExpiringBefore: &soon}, page)
		if err != nil {
			return err
		}
		var wants []tee.Want
		for _, c := range items {
			if c.Kind != tee.KindVLEK {
				wants = append(wants, tee.Want{Kind: c.Kind, Name: c.Name})
			}
		}
		if err := f.Store.WantCollateral(ctx, f.Tenant, wants, f.Now()); err != nil {
			return err
		}
		if page.Cursor = next; next == "" {
			return nil
		}
	}
}

// ask fetches what is due of one source.
func (f *fetcher) ask(ctx context.Context, s *source, t *tally) error {
	until, failures, err := f.Store.PostponedUntil(ctx, f.Tenant, s.kinds, postponed)
	if err != nil || f.Now().Before(until) {
		return err
	}
	s.failures = failures
	for range f.PerRound {
		due, err := f.Store.ClaimWants(ctx, f.Tenant, s.kinds, 1, lease, f.Now())
		if err != nil || len(due) == 0 {
			return err
		}
		goOn, err := f.fetch(ctx, s, due[0], t)
		if err != nil || !goOn {
			return err
		}
	}
	return nil
}

// fetch gets one want. goOn is false where the source is to be left alone.
func (f *fetcher) fetch(ctx context.Context, s *source, w store.CollateralWant, t *tally) (goOn bool, err error) {
	address, chainHeader, err := s.request(strings.TrimRight(s.base, "/"), w.Want)
	if err != nil {
		t.failed++
		return true, f.failed(ctx, w, backOff(firstRefusal, w.Attempts), err.Error())
	}
	if gap := s.last.Add(f.Gap).Sub(f.Now()); !s.last.IsZero() && gap > 0 {
		if err := f.sleep(ctx, gap); err != nil {
			return false, errors.Join(err, f.giveBack(w)) //nolint:contextcheck // ctx has ended
		}
	}
	got, err := f.client.get(ctx, address, chainHeader, f.Now)
	s.last = f.Now()
	var unavailable *unavailableError
	switch {
	case ctx.Err() != nil:
		return false, errors.Join(ctx.Err(), f.giveBack(w)) //nolint:contextcheck // ctx has ended
	case errors.As(err, &unavailable):
		t.failed++
		wait := max(backOff(firstBackOff, max(w.Attempts, s.failures)), min(unavailable.retryAfter, longestAsked))
		if err := f.failed(ctx, w, wait, postponed+err.Error()); err != nil {
			return false, err
		}
		return false, f.Store.PostponeWants(ctx, f.Tenant, s.kinds, f.Now().Add(wait))
	}
	s.failures = 0
	if err != nil {
		t.failed++
		return true, f.failed(ctx, w, backOff(firstRefusal, w.Attempts), err.Error())
	}
	return true, f.keep(ctx, w, got, t)
}

// keep checks what was fetched, and stores it.
func (f *fetcher) keep(ctx context.Context, w store.CollateralWant, got fetched, t *tally) error {
	c, err := tee.ParseCollateral(w.Kind, got.body, got.chain)
	if err == nil && c.Name != w.Name {
		err = fmt.Errorf("it is the %s of %q", c.Kind, c.Name)
	}
	if err == nil {
		var trust *store.TenantTrust
		if trust, err = f.Store.TenantTrust(ctx, f.Tenant); err != nil {
			return err
		}
		err = (&tee.Trust{SNP: trust.SNP, TDX: trust.TDX}).CheckCollateral(c, f.Now())
	}
	if err != nil {
		t.failed++
		return f.failed(ctx, w, backOff(firstRefusal, w.Attempts), "the answer was not accepted: "+err.Error())
	}
	stored, err := f.Store.PutCollateral(ctx, f.Tenant, c, store.CollateralFetched, f.Now(), store.Actor{Kind: "system", ID: "collateral-fetch"})
	switch {
	case err != nil:
		return err
	case stored:
		t.fetched++
		return f.Store.WantSucceeded(ctx, f.Tenant, w.Want)
	case c.NotAfter.After(f.Now().Add(refreshBefore)):
		t.unchanged++ // somebody else brought it meanwhile
		return f.Store.WantSucceeded(ctx, f.Tenant, w.Want)
	}
	t.unchanged++
	return f.failed(ctx, w, longestWait/2, "the source has nothing newer yet")
}

// maxReason bounds what is kept of an error, parts of which a stranger may have written.
const maxReason = 500

func (f *fetcher) failed(ctx context.Context, w store.CollateralWant, wait time.Duration, reason string) error {
	reason = strings.ToValidUTF8(strings.ReplaceAll(reason[:min(len(reason), maxReason)], "\x00", "?"), "?")
	return f.Store.WantFailed(ctx, f.Tenant, w.Want, f.Now().Add(wait), reason)
}

// giveBack lets a want that was claimed and not fetched be due again.
func (f *fetcher) giveBack(w store.CollateralWant) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return f.Store.ReleaseWant(ctx, f.Tenant, w.Want, f.Now())
}

// backOff doubles with each failure, give or take a tenth.
func backOff(first time.Duration, failures int) time.Duration {
	wait := longestWait
	if failures < 12 { // 12 doublings of a minute are more than a day
		wait = min(first<<failures, longestWait)
	}
	return wait - wait/10 + chance(wait/5)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// products are AMD's product lines as KDS spells them.
var products = map[string]string{"milan": "Milan", "genoa": "Genoa", "turin": "Turin"}

// requestAMD is AMD 57230, VCEK Certificate and KDS Interface Specification, section 4. The name of a VCEK comes out of a
// report that nobody has verified, and is taken apart strictly.
func requestAMD(base string, w tee.Want) (address, chainHeader string, err error) {
	switch w.Kind {
	case tee.KindVLEK:
		return "", "", errors.New("AMD has no public source of VLEKs: the cloud gives one to its VMs")
	case tee.KindSNPCRL:
		product := strings.TrimPrefix(w.Name, "ARK-")
		if product == "" || products[strings.ToLower(product)] != product {
			return "", "", fmt.Errorf("%q is the root of no product that is known", w.Name)
		}
		return base + "/vcek/v1/" + product + "/crl", "", nil
	}
	id, err := parseVCEKName(w.Name)
	if err != nil {
		return "", "", err
	}
	q := fmt.Sprintf("blSPL=%02d&teeSPL=%02d&snpSPL=%02d&ucodeSPL=%02d", id.tcb[1], id.tcb[2], id.tcb[3], id.tcb[4])
	if id.hasFMC {
		q = fmt.Sprintf("fmcSPL=%02d&", id.tcb[0]) + q
	}
	return base + "/vcek/v1/" + id.product + "/" + id.chip + "?" + q, "", nil
}

// vcekID is the parts of a VCEK's name: product, chip id in hex, and the TCB as FMC, boot loader, TEE, SNP, microcode.
type vcekID struct {
	product, chip string
	hasFMC        bool
	tcb           [5]uint8
}

func parseVCEKName(name string) (id vcekID, err error) {
	bad := fmt.Errorf("%q is no name of a VCEK", name)
	parts := strings.Split(name, "/")
	if len(parts) != 3 {
		return id, bad
	}
	id.product, id.chip = products[parts[0]], parts[1]
	if id.product == "" || (len(id.chip) != 128 && len(id.chip) != 16) || !isHex(id.chip) || strings.Trim(id.chip, "0") == "" {
		return id, bad
	}
	levels := strings.Split(parts[2], ".")
	if len(levels) != len(id.tcb) {
		return id, bad
	}
	for i, text := range levels {
		if i == 0 && text == "-" {
			continue
		}
		if len(text) != 2 || !isHex(text) {
			return id, bad
		}
		id.hasFMC = id.hasFMC || i == 0
		if _, err := fmt.Sscanf(text, "%02x", &id.tcb[i]); err != nil {
			return id, bad
		}
	}
	return id, nil
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// requestIntel is Intel's PCS API, version 4.
func requestIntel(base string, w tee.Want) (address, chainHeader string, err error) {
	switch w.Kind {
	case tee.KindTCBInfo:
		if len(w.Name) != 12 || !isHex(w.Name) {
			return "", "", fmt.Errorf("%q is no FMSPC", w.Name)
		}
		return base + "/tdx/certification/v4/tcb?fmspc=" + url.QueryEscape(w.Name), "TCB-Info-Issuer-Chain", nil
	case tee.KindQEIdentity:
		return base + "/tdx/certification/v4/qe/identity", "SGX-Enclave-Identity-Issuer-Chain", nil
	}
	for ca, name := range map[string]string{"platform": "Intel SGX PCK Platform CA", "processor": "Intel SGX PCK Processor CA"} {
		if w.Name == name {
			return base + "/sgx/certification/v4/pckcrl?ca=" + ca + "&encoding=der", "SGX-PCK-CRL-Issuer-Chain", nil
		}
	}
	return "", "", fmt.Errorf("%q is no PCK CA", w.Name)
}
