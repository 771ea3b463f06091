package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"time"

	"github.com/google/go-sev-guest/abi"
	sevtesting "github.com/google/go-sev-guest/testing"

	"github.com/assay-verifier/assay/verifier/tee"
)

// chip is a processor of the load generator's own: it signs what an AMD would, under a root that the bench makes the
// service trust.
type chip struct {
	signer *sevtesting.AmdSigner
}

func newChip() (*chip, error) {
	signer, err := sevtesting.DefaultTestOnlyCertChain("Milan-B1", time.Now().Add(-time.Hour))
	return &chip{signer}, err
}

// anchors is the chip's root with its intermediate, in PEM.
func (c *chip) anchors() string {
	var out []byte
	for _, der := range [][]byte{c.signer.Ark.Raw, c.signer.Ask.Raw} {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return string(out)
}

// evidence is the HCL report of a confidential VM whose vTPM's attestation key is the machine's.
func (c *chip) evidence(m *machine) (*tee.Evidence, error) {
	u := base64.RawURLEncoding.EncodeToString
	runtime, err := json.Marshal(map[string]any{
		"keys": []any{map[string]any{"kid": "HCLAkPub", "key_ops": []string{"sign"}, "kty": "RSA",
			"e": u(big.NewInt(int64(m.key.E)).Bytes()), "n": u(m.key.N.Bytes())}},
		"vm-configuration": map[string]any{"secure-boot": true, "tpm-enabled": true, "console-enabled": false, "vmUniqueId": m.id},
	})
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(runtime)
	raw := sevtesting.CreateRawReport(&sevtesting.TestReportOptions{Version: 3, FMS: 0x00a00f11, ReportData: append(sum[:], make([]byte, 32)...)})
	report := raw[:abi.ReportSize]
	binary.LittleEndian.PutUint64(report[0x08:], abi.SnpPolicyToBytes(abi.SnpPolicy{SMT: true}))
	r, s, err := c.signer.Sign(abi.SignedComponent(report))
	if err != nil {
		return nil, err
	}
	for i, n := range [...]*big.Int{r, s} {
		part := n.FillBytes(make([]byte, 72))
		slices.Reverse(part) // AMD writes numbers little-endian
		copy(report[0x2A0+72*i:], part)
	}
	hcl := make([]byte, 2600)
	u32 := binary.LittleEndian.PutUint32
	copy(hcl, "HCLA")
	u32(hcl[4:], 1)
	u32(hcl[8:], uint32(32+abi.ReportSize+20+len(runtime))) //nolint:gosec // some 2,000
	u32(hcl[12:], 2)
	copy(hcl[32:], report)
	fixed := hcl[32+abi.ReportSize:]
	for i, n := range []int{20 + len(runtime), 1, 2, 1, len(runtime)} {
		u32(fixed[4*i:], uint32(n)) //nolint:gosec // some 1,000
	}
	copy(fixed[20:], runtime)
	return &tee.Evidence{Type: tee.TypeAzureHCL, HCLReport: hcl, Certificates: [][]byte{c.signer.Vcek.Raw}}, nil
}

// confidential is W1 for machines that are bound to their silicon: their report is unchanged and named by its
// digest. Half of the fleet is bound and half is not, and their windows alternate, so that both are measured on
// the same machine in the same minutes.
func (f *fleet) confidential(ctx context.Context, r *report) error {
	c, err := newChip()
	if err != nil {
		return err
	}
	anchor := map[string]any{"name": "bench silicon", "purpose": "snp", "certificates_pem": c.anchors()}
	if err := f.s.call(ctx, http.MethodPost, "/v1/trust-anchors", f.s.token, anchor, nil); err != nil {
		return err
	}
	half := len(f.machines) / 2
	plain, bound := f.machines[:half], f.machines[half:]
	log := "sha256:" + logDigest(f.log)
	digests := make(map[*machine]string, len(bound))
	for _, m := range bound {
		e, err := c.evidence(m)
		if err != nil {
			return err
		}
		digest := e.Digest()
		digests[m] = "sha256:" + hex.EncodeToString(digest[:])
		m.platform = map[string]any{"type": e.Type, "hcl_report": e.HCLReport, "certificates": e.Certificates}
	}
	// A machine goes back to the healthy boot first.
	boot := func(m *machine) ([]request, error) {
		m.resetCount++
		if err := m.boot(f.log); err != nil {
			return nil, err
		}
		extra := map[string]any{"event_log_digest": log}
		if m.platform != nil {
			extra["platform_evidence"] = m.platform
		}
		return m.post(extra)
	}
	if _, err := f.window(ctx, f.machines, boot); err != nil {
		return fmt.Errorf("first reports: %w", err)
	}
	unchanged := func(m *machine) ([]request, error) {
		extra := map[string]any{"event_log_digest": log}
		if digest, isBound := digests[m]; isBound {
			extra["platform_evidence_digest"] = digest
		}
		return m.post(extra)
	}
	if _, err := f.window(ctx, f.machines, unchanged); err != nil { // warm
		return err
	}
	var totals, services [2][]float64
	err = f.s.profiled(ctx, f.o, "W1T", func() error {
		for range f.o.windows {
			for i, machines := range [][]*machine{plain, bound} {
				w, err := f.window(ctx, machines, unchanged)
				if err != nil {
					return err
				}
				totals[i], services[i] = append(totals[i], w.total), append(services[i], w.service)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.add("W1 beside tee_bound ones", spent{median(totals[0]), median(services[0])}, 5.8, "86–106 µs")
	w := spent{median(totals[1]), median(services[1])}
	r.add("W1 tee_bound, report unchanged", w, 1.1*5.8, "1.1 × W1")
	r.BoundOverPlain = w.total / median(totals[0])
	return nil
}
