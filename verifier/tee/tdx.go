package tee

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"

	tdxabi "github.com/google/go-tdx-guest/abi"
	"github.com/google/go-tdx-guest/pcs"
	tpb "github.com/google/go-tdx-guest/proto/tdx"
	tdxverify "github.com/google/go-tdx-guest/verify"
)

// tdQuote is a decoded TD quote (Intel TDX DCAP Quoting Library API, appendix A.3).
type tdQuote struct {
	proto *tpb.QuoteV4
	chain *tdxverify.PCKCertificateChain
	pck   *pcs.PckExtensions
}

// parseTDX decodes a quote, its PCK chain and the extensions of the PCK certificate. Nothing is believed yet.
func parseTDX(raw []byte) (*tdQuote, error) {
	if len(raw) < tdxabi.QuoteMinSize || len(raw) > maxQuote {
		return nil, fmt.Errorf("a TD quote of %d bytes; %d to %d are possible", len(raw), tdxabi.QuoteMinSize, maxQuote)
	}
	if version := binary.LittleEndian.Uint16(raw); version != tdxabi.QuoteVersion {
		return nil, fmt.Errorf("unsupported: TD quote version %d; version %d is read", version, tdxabi.QuoteVersion)
	}
	q := &tdQuote{}
	err := guarded("TD quote", func() error {
		decoded, err := tdxabi.QuoteToProto(raw)
		if err != nil {
			return err
		}
		var ok bool
		if q.proto, ok = decoded.(*tpb.QuoteV4); !ok {
			return errors.New("not a quote of version 4")
		}
		if q.chain, err = tdxverify.ExtractChainFromQuote(q.proto); err != nil {
			return err
		}
		q.pck, err = pcs.PckCertificateExtensions(q.chain.PCKCertificate)
		return err
	})
	if err != nil {
		return nil, err
	}
	return q, nil
}

// ofTDREPORT checks that the quote was made from the TDREPORT in an HCL report: same report_data, TD and module
// (Intel TDX Module ABI, TDREPORT_STRUCT). Its MAC can be checked on its processor alone.
func (q *tdQuote) ofTDREPORT(b []byte) error {
	body := q.proto.GetTdQuoteBody()
	td := bytes.Join([][]byte{body.GetTdAttributes(), body.GetXfam(), body.GetMrTd(), body.GetMrConfigId(), body.GetMrOwner(),
		body.GetMrOwnerConfig(), bytes.Join(body.GetRtmrs(), nil)}, nil)
	module := bytes.Join([][]byte{body.GetTeeTcbSvn(), body.GetMrSeam(), body.GetMrSignerSeam(), body.GetSeamAttributes()}, nil)
	switch {
	case !bytes.Equal(b[128:192], body.GetReportData()):
		return errors.New("the HCL report's TDREPORT and the TD quote have different report_data")
	case !bytes.Equal(b[512:512+len(td)], td), !bytes.Equal(b[264:264+len(module)], module):
		return errors.New("the HCL report's TDREPORT and the TD quote are not of the same TD")
	}
	return nil
}

// tdx verifies a TD quote; h is the HCL report that its report_data covers, if there is one.
func (v *verification) tdx(raw []byte, h *hclReport) {
	q, err := parseTDX(raw)
	if err != nil {
		v.unsupported(err)
		return
	}
	var runtime *runtimeData
	if h != nil {
		runtime = h.runtime
	}
	v.result.claimed = claimTDX(q, runtime)
	if err := runtime.covered(q.proto.GetTdQuoteBody().GetReportData()); err != nil {
		v.fail("%s", err)
		return
	}
	if h != nil {
		if err := q.ofTDREPORT(h.hardware); err != nil {
			v.fail("%s", err)
			return
		}
	}
	if err := v.proveTDX(q); err != nil {
		v.fail("%s", err)
		return
	}
	status, err := v.tcbStatus(q)
	if err != nil {
		v.fail("%s", err)
		return
	}
	v.result.claimed.tcbStatus = status
	v.result.Report = v.result.claimed
	v.result.Steps = append(v.result.Steps, StepResult{StepReport, Pass, v.sentence("a TD quote, version 4, whose PCK certificate chains to " + v.result.Root.Subject.CommonName)})
}

// proveTDX checks chain, revocation and signatures.
func (v *verification) proveTDX(q *tdQuote) error {
	if v.now.IsZero() {
		return errors.New("the time to judge at is not given")
	}
	chain, err := v.trust.intelChain(q.chain.PCKCertificate, []*x509.Certificate{q.chain.IntermediateCertificate}, v.now)
	if err != nil {
		return fmt.Errorf("the PCK certificate does not chain to a trusted Intel root: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(chain[len(chain)-1])
	err = guarded("TD quote", func() error {
		at := v.now
		return tdxverify.TdxQuote(q.proto, &tdxverify.Options{TrustedRoots: roots,
			Now: &tdxverify.TimeSet{PckCertChain: at, TcbInfo: at, QeIdentity: at, PckCrl: at, RootCaCrl: at}})
	})
	if err != nil {
		return fmt.Errorf("the quote does not verify: %w", err)
	}
	if err := intelQE(q); err != nil {
		return fmt.Errorf("the quote does not verify: %w", err)
	}
	if err := v.pckNotRevoked(chain); err != nil {
		return err
	}
	v.result.Root = chain[len(chain)-1]
	for _, c := range chain {
		v.until(c.NotAfter)
	}
	return nil
}

// pckNotRevoked asks the CRLs of each issuer in the PCK chain.
func (v *verification) pckNotRevoked(chain []*x509.Certificate) error {
	for i := 0; i+1 < len(chain); i++ {
		cert, issuer := chain[i], chain[i+1]
		kind := KindPCKCRL
		if i+1 == len(chain)-1 {
			kind = KindRootCRL
		}
		held, err := v.askCRLs(kind, issuer, cert)
		if err != nil {
			return err
		}
		if held {
			continue
		}
		v.want(kind, issuer.Subject.CommonName)
		if v.trust.RequireCRL {
			return fmt.Errorf("no valid CRL of %s is held, and the policy requires one", issuer.Subject.CommonName)
		}
		v.note("no CRL of %s is held, so nothing tells whether %s was revoked", issuer.Subject.CommonName, cert.Subject.CommonName)
	}
	return nil
}

// newest finds the newest collateral of a JSON kind that holds now: what a machine sends may be valid still, and
// older than what is held.
func (v *verification) newest(kind Kind, name string) (*pcsAnswer, string) {
	why := "is not held"
	var best *pcsAnswer
	for _, c := range v.collateral(kind, name) {
		answer, err := v.holds(c, name)
		if err != nil {
			why = "does not hold: " + err.Error()
			continue
		}
		if best == nil || answer.newer(best) {
			best = answer
		}
	}
	if best == nil {
		v.want(kind, name)
		return nil, why
	}
	v.until(best.collateral.NotAfter)
	for _, cert := range best.signers {
		v.until(cert.NotAfter)
	}
	v.used(best.collateral)
	return best, ""
}

// holds checks collateral of a JSON kind, and that it is what its name says and its signer was not revoked.
func (v *verification) holds(c Collateral, name string) (*pcsAnswer, error) {
	c, err := reread(c, v.now)
	if err != nil {
		return nil, err
	}
	answer, err := v.trust.checkSigned(c, v.now)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", c.Kind, err)
	case c.Name != name:
		return nil, fmt.Errorf("%s: it is of %s", c.Kind, c.Name)
	}
	for i := 0; i+1 < len(answer.signers); i++ {
		if _, err := v.askCRLs(KindRootCRL, answer.signers[i+1], answer.signers[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", c.Kind, err)
		}
	}
	return answer, nil
}

// tcbStatus judges TCB and quoting enclave by TCB info and QE identity, as far as they are held. An error says that
// the quote contradicts them.
func (v *verification) tcbStatus(q *tdQuote) (*TCBStatus, error) {
	info, why := v.newest(KindTCBInfo, lowerHex(q.pck.FMSPC))
	if info == nil {
		v.note("TCB info of %s %s, so the TCB's status is unknown", lowerHex(q.pck.FMSPC), why)
	}
	identity, why := v.newest(KindQEIdentity, "td")
	if identity == nil {
		v.note("Intel's current identity of its quoting enclave %s, so the enclave's own TCB status is unknown", why)
	}
	status := &TCBStatus{}
	if identity != nil {
		if err := status.byQEIdentity(q, identity.qe); err != nil {
			return nil, fmt.Errorf("the quoting enclave is not Intel's: %w", err)
		}
	}
	if info != nil {
		if err := status.byTCBInfo(q, info.tcb); err != nil {
			return nil, fmt.Errorf("the TD is not of the platform in Intel's TCB info: %w", err)
		}
	}
	if status.Platform == "" && status.QE == "" {
		return nil, nil
	}
	return status, nil
}
