package tee

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/google/go-tdx-guest/pcs"
)

// Want names collateral that a verification lacked.
type Want struct {
	Kind Kind
	Name string
}

// ParseCollateral reads one piece of collateral and checks its shape; nothing in it is believed yet.
// Certificates and CRLs may be DER or one PEM block; the JSON kinds are the body of Intel's PCS as it was answered,
// since its bytes are what was signed. issuerChain is PEM, and is needed for the JSON kinds and a PCK CRL.
func ParseCollateral(kind Kind, body, issuerChain []byte) (Collateral, error) {
	c := Collateral{Kind: kind, Body: body, IssuerChain: issuerChain}
	if len(issuerChain) > maxIssuerChain {
		return c, fmt.Errorf("an issuer chain of %d bytes; at most %d are accepted", len(issuerChain), maxIssuerChain)
	}
	var err error
	switch kind {
	case KindVCEK, KindVLEK:
		err = c.parseEndorsement()
	case KindSNPCRL, KindPCKCRL, KindRootCRL:
		err = c.parseCRL()
	case KindTCBInfo:
		err = c.parseTCBInfo()
	case KindQEIdentity:
		err = c.parseQEIdentity()
	default:
		err = fmt.Errorf("%q is no kind of collateral", string(kind))
	}
	if err != nil {
		return c, fmt.Errorf("%s: %w", kind, err)
	}
	if !c.NotAfter.After(c.NotBefore) {
		return c, fmt.Errorf("%s: it ends (%s) before it begins (%s)", kind, c.NotAfter.UTC().Format(time.RFC3339), c.NotBefore.UTC().Format(time.RFC3339))
	}
	return c, nil
}

// derOf takes PEM off.
func derOf(b []byte, blockType string, limit int) ([]byte, error) {
	if len(b) > limit {
		return nil, fmt.Errorf("%d bytes; at most %d are accepted", len(b), limit)
	}
	block, rest := pem.Decode(b)
	if block == nil {
		return b, nil
	}
	if block.Type != blockType || len(bytes.TrimSpace(rest)) > 0 {
		return nil, fmt.Errorf("one PEM block of type %s is needed", blockType)
	}
	return block.Bytes, nil
}

func (c *Collateral) parseEndorsement() error {
	der, err := derOf(c.Body, "CERTIFICATE", maxCertificate)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return plainChainError(err)
	}
	e, err := readEndorsement(cert)
	if err != nil {
		return err
	}
	if e.kind != c.Kind {
		return fmt.Errorf("the certificate is that of a %s", e.kind)
	}
	c.Body, c.Name, c.NotBefore, c.NotAfter = der, e.name(), cert.NotBefore, cert.NotAfter
	return nil
}

// crlIssuers are the issuers of each kind of CRL, by common name.
var crlIssuers = map[Kind][]string{
	KindSNPCRL:  {"ARK-Milan", "ARK-Genoa", "ARK-Turin"},
	KindPCKCRL:  {"Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"},
	KindRootCRL: {"Intel SGX Root CA"},
}

func (c *Collateral) parseCRL() error {
	der, err := derOf(c.Body, "X509 CRL", maxCRL)
	if err != nil {
		return err
	}
	if text := bytes.TrimSpace(der); bytes.HasPrefix(text, []byte("30")) { // Intel's PCS answers the root CRL in hex
		if der, err = hex.AppendDecode(nil, text); err != nil {
			return errors.New("it is neither DER nor hex")
		}
	}
	crl, err := parseCRL(der)
	if err != nil {
		return plainChainError(err)
	}
	if !slices.Contains(crlIssuers[c.Kind], crl.Issuer.CommonName) {
		return fmt.Errorf("its issuer is %q", crl.Issuer.CommonName)
	}
	if crl.NextUpdate.IsZero() {
		return errors.New("it does not say until when it is valid")
	}
	c.Body, c.Name, c.NotBefore, c.NotAfter = der, crl.Issuer.CommonName, crl.ThisUpdate, crl.NextUpdate
	return nil
}

// signedJSON is an answer of Intel's PCS: one object beside its signature, over exactly its bytes.
type signedJSON struct {
	TCBInfo         json.RawMessage `json:"tcbInfo"`
	EnclaveIdentity json.RawMessage `json:"enclaveIdentity"`
	Signature       string          `json:"signature"`
}

func parseSigned(body []byte) (signedJSON, error) {
	var s signedJSON
	if len(body) > maxSignedJSON {
		return s, fmt.Errorf("%d bytes; at most %d are accepted", len(body), maxSignedJSON)
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("not JSON: %w", err)
	}
	return s, nil
}

// pcsHeader is what TCB info (Intel PCS API v4, TcbInfoV3) and a QE identity (EnclaveIdentityV2) say of themselves. The
// rest is decoded once its signature is verified, since a few bytes of a list would cost hundreds in memory.
type pcsHeader struct {
	ID         string    `json:"id"`
	Version    byte      `json:"version"`
	IssueDate  time.Time `json:"issueDate"`
	NextUpdate time.Time `json:"nextUpdate"`
	FMSPC      string    `json:"fmspc"`
}

// header decodes the header of the object that the kind is about.
func (c *Collateral) header() (*pcsHeader, error) {
	s, err := parseSigned(c.Body)
	if err != nil {
		return nil, err
	}
	name, content := s.content(c.Kind)
	if len(content) == 0 {
		return nil, fmt.Errorf("there is no %q", name)
	}
	var h pcsHeader
	if err := json.Unmarshal(content, &h); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &h, nil
}

// content is what the signature covers, and its name.
func (s *signedJSON) content(kind Kind) (string, []byte) {
	if kind == KindQEIdentity {
		return "enclaveIdentity", s.EnclaveIdentity
	}
	return "tcbInfo", s.TCBInfo
}

func (c *Collateral) parseTCBInfo() error {
	h, err := c.header()
	if err != nil {
		return err
	}
	fmspc, err := hex.DecodeString(h.FMSPC)
	switch {
	case h.ID != "TDX" || h.Version != 3:
		return fmt.Errorf("it is %q of version %d; TDX of version 3 is needed", h.ID, h.Version)
	case err != nil || len(fmspc) != 6:
		return errors.New("its FMSPC has not 6 bytes in hex")
	}
	c.Name, c.NotBefore, c.NotAfter = hex.EncodeToString(fmspc), h.IssueDate, h.NextUpdate
	return nil
}

func (c *Collateral) parseQEIdentity() error {
	h, err := c.header()
	if err != nil {
		return err
	}
	if h.ID != "TD_QE" || h.Version != 2 {
		return fmt.Errorf("it is %q of version %d; TD_QE of version 2 is needed", h.ID, h.Version)
	}
	c.Name, c.NotBefore, c.NotAfter = "td", h.IssueDate, h.NextUpdate
	return nil
}

// CheckCollateral verifies collateral up to an anchor, at a time: signature, issuer, validity. What it does not
// refuse may be stored; a verification checks it again all the same.
func (t *Trust) CheckCollateral(c Collateral, now time.Time) error {
	c, err := reread(c, now)
	if err != nil {
		return err
	}
	switch c.Kind {
	case KindVCEK, KindVLEK:
		err = t.checkEndorsement(c, now)
	case KindSNPCRL:
		err = checkCRL(c, t.SNP)
	case KindRootCRL:
		err = checkCRL(c, t.TDX)
	case KindPCKCRL:
		err = t.checkPCKCRL(c, now)
	case KindTCBInfo, KindQEIdentity:
		_, err = t.checkSigned(c, now)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", c.Kind, err)
	}
	return nil
}

// reread reads collateral again, since name and dates count as its content has them, and checks the dates.
func reread(c Collateral, now time.Time) (Collateral, error) {
	if now.IsZero() {
		return c, errors.New("the time to judge at is not given")
	}
	c, err := ParseCollateral(c.Kind, c.Body, c.IssuerChain)
	switch {
	case err != nil:
		return c, err
	case now.Before(c.NotBefore):
		return c, fmt.Errorf("%s: it is not valid before %s", c.Kind, c.NotBefore.UTC().Format(time.RFC3339))
	case !now.Before(c.NotAfter):
		return c, fmt.Errorf("%s: it is not valid since %s", c.Kind, c.NotAfter.UTC().Format(time.RFC3339))
	}
	return c, nil
}

func (t *Trust) checkEndorsement(c Collateral, now time.Time) error {
	cert, err := x509.ParseCertificate(c.Body)
	if err != nil {
		return plainChainError(err)
	}
	e, err := readEndorsement(cert)
	if err != nil {
		return err
	}
	_, err = t.amdChain(e, nil, now)
	return err
}

// checkCRL verifies a CRL that a root itself signs.
func checkCRL(c Collateral, anchors []*x509.Certificate) error {
	crl, err := parseCRL(c.Body)
	if err != nil {
		return plainChainError(err)
	}
	found := false
	for _, a := range anchors {
		if selfSigned(a) && slices.Equal(a.RawSubject, crl.RawIssuer) {
			found = true
			if crl.CheckSignatureFrom(a) == nil {
				return nil
			}
		}
	}
	if !found {
		return fmt.Errorf("its issuer %q is not trusted", crl.Issuer.CommonName)
	}
	return errors.New("its signature does not verify with the trusted root")
}

func (t *Trust) checkPCKCRL(c Collateral, now time.Time) error {
	chain, err := parseChain(c.IssuerChain)
	if err != nil {
		return err
	}
	if _, err := t.intelChain(chain[0], chain[1:], now); err != nil {
		return err
	}
	crl, err := parseCRL(c.Body)
	if err != nil {
		return plainChainError(err)
	}
	if err := crl.CheckSignatureFrom(chain[0]); err != nil {
		return errors.New("its signature does not verify with the issuer chain's first certificate")
	}
	return nil
}

// parseChain reads the certificates of a PEM chain, leaf first.
func parseChain(pemChain []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := pemChain; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("issuer chain: %w", plainChainError(err))
		}
		if out = append(out, cert); len(out) > 4 {
			return nil, errors.New("issuer chain: more than 4 certificates")
		}
	}
	if len(out) == 0 {
		return nil, errors.New("the issuer chain is missing")
	}
	return out, nil
}

// intelChain verifies a certificate up to a trusted Intel root.
func (t *Trust) intelChain(leaf *x509.Certificate, others []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range t.TDX {
		if selfSigned(c) {
			roots.AddCert(c)
			found = true
		}
	}
	if !found {
		return nil, errors.New("no Intel root is trusted")
	}
	for _, c := range others {
		if c.IsCA && !selfSigned(c) {
			intermediates.AddCert(c)
		}
	}
	chains, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, plainChainError(err)
	}
	return chains[0], nil
}

// tcbSigner is the one key that signs TCB info and identities.
const tcbSigner = "Intel SGX TCB Signing"

// pcsAnswer is TCB info or a QE identity that is verified.
type pcsAnswer struct {
	collateral Collateral
	signers    []*x509.Certificate // the chain of its signer
	tcb        *pcs.TcbInfo
	qe         *pcs.EnclaveIdentity
	evaluation int // tcbEvaluationDataNumber: what Intel knew
}

// newer tells whether Intel knew more when it gave this answer.
func (a *pcsAnswer) newer(than *pcsAnswer) bool {
	if a.evaluation != than.evaluation {
		return a.evaluation > than.evaluation
	}
	return a.collateral.NotBefore.After(than.collateral.NotBefore)
}

// checkSigned verifies the signature of a JSON answer of Intel's PCS, and decodes it.
func (t *Trust) checkSigned(c Collateral, now time.Time) (*pcsAnswer, error) {
	s, err := parseSigned(c.Body)
	if err != nil {
		return nil, err
	}
	name, message := s.content(c.Kind)
	chain, err := parseChain(c.IssuerChain)
	if err != nil {
		return nil, err
	}
	if chain[0].Subject.CommonName != tcbSigner {
		return nil, fmt.Errorf("it is signed by %q, not by %q", chain[0].Subject.CommonName, tcbSigner)
	}
	verified, err := t.intelChain(chain[0], chain[1:], now)
	if err != nil {
		return nil, fmt.Errorf("its signer: %w", err)
	}
	signature, err := hex.DecodeString(s.Signature)
	if err != nil || len(signature) != 64 {
		return nil, errors.New("its signature has not 64 bytes in hex")
	}
	key, ok := chain[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("its signer has no P-256 key")
	}
	sum := sha256.Sum256(message)
	if !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		return nil, errors.New("its signature does not verify")
	}
	answer := &pcsAnswer{collateral: c, signers: verified}
	err = guarded(name, func() error {
		if c.Kind == KindQEIdentity {
			answer.qe = &pcs.EnclaveIdentity{}
			err := json.Unmarshal(message, answer.qe)
			answer.evaluation = answer.qe.TcbEvaluationDataNumber
			return err
		}
		answer.tcb = &pcs.TcbInfo{}
		err := json.Unmarshal(message, answer.tcb)
		answer.evaluation = answer.tcb.TcbEvaluationDataNumber
		return err
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}
