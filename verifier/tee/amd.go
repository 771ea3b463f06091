package tee

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Product is a line of AMD processors. Keys, the layout of a TCB version and the length of a chip id go by it.
type Product string

// The product lines, as claims and names of collateral spell them.
const (
	Milan Product = "milan"
	Genoa Product = "genoa"
	Turin Product = "turin"
)

// amdName is the product as AMD's certificates spell it.
func (p Product) amdName() string {
	if p == "" {
		return ""
	}
	return strings.ToUpper(string(p[:1])) + string(p[1:])
}

// productOfCPUID tells the product of a report of version 3 and later (AMD 56860, table 23: family, model of
// CPUID Fn0000_0001_EAX). Siena is a Genoa, and Bergamo too.
func productOfCPUID(family, model byte) (Product, bool) {
	switch {
	case family == 0x19 && model <= 0x0f:
		return Milan, true
	case family == 0x19 && (model >= 0x10 && model <= 0x1f || model >= 0xa0 && model <= 0xaf):
		return Genoa, true
	case family == 0x1a && model <= 0x1f:
		return Turin, true
	}
	return "", false
}

// TCB is a TCB_VERSION by its parts (AMD 56860, section 2.2). FMC exists from Turin on.
type TCB struct {
	FMC        *uint8 `json:"fmc,omitempty"`
	Bootloader uint8  `json:"bootloader"`
	TEE        uint8  `json:"tee"`
	SNP        uint8  `json:"snp"`
	Microcode  uint8  `json:"microcode"`
}

// tcbOf reads the 8 bytes of a TCB_VERSION as they stand in a report. Turin has another layout than the lines
// before it (AMD 56860, tables 3 and 4).
func tcbOf(p Product, b []byte) TCB {
	if p == Turin {
		fmc := b[0]
		return TCB{FMC: &fmc, Bootloader: b[1], TEE: b[2], SNP: b[3], Microcode: b[7]}
	}
	return TCB{Bootloader: b[0], TEE: b[1], SNP: b[6], Microcode: b[7]}
}

// String lists the parts as people write them.
func (t TCB) String() string {
	s := fmt.Sprintf("bootloader %d, tee %d, snp %d, microcode %d", t.Bootloader, t.TEE, t.SNP, t.Microcode)
	if t.FMC != nil {
		s = fmt.Sprintf("fmc %d, ", *t.FMC) + s
	}
	return s
}

// key is the TCB in the name of a VCEK: the parts in hex, most significant last, "-" where there is no FMC.
func (t TCB) key() string {
	fmc := "-"
	if t.FMC != nil {
		fmc = fmt.Sprintf("%02x", *t.FMC)
	}
	return fmt.Sprintf("%s.%02x.%02x.%02x.%02x", fmc, t.Bootloader, t.TEE, t.SNP, t.Microcode)
}

// equal compares every part.
func (t TCB) equal(o TCB) bool { return t.key() == o.key() }

// below names the first part that is lower than the minimum's; empty if none is.
func (t TCB) below(minimum TCB) string {
	if behind := t.behind(minimum); len(behind) > 0 {
		return behind[0]
	}
	return ""
}

// behind names each part that is lower than the minimum's. A minimum of an FMC asks for a processor that has one.
func (t TCB) behind(minimum TCB) (parts []string) {
	lower := func(name string, have, want uint8) {
		parts = append(parts, fmt.Sprintf("%s %d, at least %d is required", name, have, want))
	}
	var have uint8
	if t.FMC != nil {
		have = *t.FMC
	}
	if minimum.FMC != nil && (t.FMC == nil || have < *minimum.FMC) {
		lower("fmc", have, *minimum.FMC)
	}
	for _, part := range [...]struct {
		name       string
		have, want uint8
	}{
		{"bootloader", t.Bootloader, minimum.Bootloader}, {"tee", t.TEE, minimum.TEE},
		{"snp", t.SNP, minimum.SNP}, {"microcode", t.Microcode, minimum.Microcode},
	} {
		if part.have < part.want {
			lower(part.name, part.have, part.want)
		}
	}
	return parts
}

// The extensions of a VCEK or VLEK (AMD 57230, VCEK Certificate and KDS Interface Specification, tables 8 to 10).
var (
	oidAMD         = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}
	oidProductName = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 2}
	oidBootloader  = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 1}
	oidTEE         = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 2}
	oidSNP         = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 3}
	oidMicrocode   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 8}
	oidFMC         = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 9}
	oidHWID        = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 4}
	oidCSPID       = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 5}
)

// endorsement is what the certificate of a VCEK or VLEK says.
type endorsement struct {
	certificate *x509.Certificate
	kind        Kind
	product     Product // by the issuer's name: some early VCEKs name another product in their extension
	chipID      []byte  // VCEK: 64 bytes, of Turin 8
	cspID       string  // VLEK
	tcb         TCB
}

// name is the name of the certificate as collateral.
func (e *endorsement) name() string {
	who := e.cspID
	if e.kind == KindVCEK {
		who = hex.EncodeToString(e.chipID)
	}
	return string(e.product) + "/" + who + "/" + e.tcb.key()
}

// isAMD tells whether a certificate carries AMD's extensions.
func isAMD(cert *x509.Certificate) bool {
	for _, ext := range cert.Extensions {
		if ext.Id[:min(len(ext.Id), len(oidAMD))].Equal(oidAMD) {
			return true
		}
	}
	return false
}

// readEndorsement reads the certificate of a VCEK or VLEK. It verifies no signature.
func readEndorsement(cert *x509.Certificate) (*endorsement, error) {
	e := &endorsement{certificate: cert}
	issuer, ours := cert.Issuer.CommonName, false
	switch cert.Subject.CommonName {
	case "SEV-VCEK":
		e.kind = KindVCEK
		issuer, ours = strings.CutPrefix(issuer, "SEV-")
	case "SEV-VLEK":
		e.kind = KindVLEK
		issuer, ours = strings.CutPrefix(issuer, "SEV-VLEK-")
	default:
		return nil, fmt.Errorf("its subject is %q, neither SEV-VCEK nor SEV-VLEK", cert.Subject.CommonName)
	}
	for _, p := range [...]Product{Milan, Genoa, Turin} {
		if ours && issuer == p.amdName() {
			e.product = p
		}
	}
	if e.product == "" {
		return nil, fmt.Errorf("its issuer %q is of no known product (Milan, Genoa, Turin)", cert.Issuer.CommonName)
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, errors.New("its key is not ECDSA P-384")
	}
	return e, e.readExtensions()
}

func (e *endorsement) readExtensions() error {
	parts := map[string]*uint8{
		oidBootloader.String(): &e.tcb.Bootloader, oidTEE.String(): &e.tcb.TEE,
		oidSNP.String(): &e.tcb.SNP, oidMicrocode.String(): &e.tcb.Microcode,
	}
	if e.product == Turin {
		e.tcb.FMC = new(uint8)
		parts[oidFMC.String()] = e.tcb.FMC
	}
	needed := len(parts)
	seen := map[string]bool{}
	for _, ext := range e.certificate.Extensions {
		id := ext.Id.String()
		if seen[id] {
			return fmt.Errorf("its extension %s stands there twice", id)
		}
		seen[id] = true
		var err error
		switch part, isPart := parts[id]; {
		case isPart:
			needed--
			*part, err = derByte(ext.Value)
		case ext.Id.Equal(oidHWID):
			e.chipID, err = e.derChipID(ext.Value)
		case ext.Id.Equal(oidCSPID):
			e.cspID, err = derIA5(ext.Value)
		case ext.Id.Equal(oidProductName):
			_, err = derIA5(ext.Value)
		}
		if err != nil {
			return fmt.Errorf("its extension %s: %w", id, err)
		}
	}
	switch {
	case needed > 0:
		return errors.New("it does not name the whole TCB version that it is for")
	case e.kind == KindVCEK && e.chipID == nil:
		return errors.New("it names no chip (HWID)")
	case e.kind == KindVCEK && e.cspID != "", e.kind == KindVLEK && e.chipID != nil:
		return errors.New("it names both a chip and a cloud provider")
	case e.kind == KindVLEK && e.cspID == "":
		return errors.New("it names no cloud provider (CSP_ID)")
	}
	return nil
}

func derByte(der []byte) (uint8, error) {
	var n int
	if rest, err := asn1.Unmarshal(der, &n); err != nil || len(rest) != 0 || n < 0 || n > 255 {
		return 0, errors.New("it is no number from 0 to 255")
	}
	return uint8(n), nil
}

func derIA5(der []byte) (string, error) {
	var s string
	if rest, err := asn1.UnmarshalWithParams(der, &s, "ia5"); err != nil || len(rest) != 0 || len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return "", errors.New("it is no short IA5String")
	}
	return s, nil
}

// derChipID reads the HWID, which AMD writes without a tag.
func (e *endorsement) derChipID(value []byte) ([]byte, error) {
	size := 64
	if e.product == Turin {
		size = 8
	}
	if len(value) == size {
		return value, nil
	}
	var octets []byte
	if rest, err := asn1.Unmarshal(value, &octets); err == nil && len(rest) == 0 && len(octets) == size {
		return octets, nil
	}
	return nil, fmt.Errorf("a chip id of %s has %d bytes", e.product, size)
}

// ofChip tells whether the certificate is of the chip that a report names; the rest of the 64 bytes that a short
// chip id leaves are zero.
func (e *endorsement) ofChip(reported []byte) bool {
	return bytes.HasPrefix(reported, e.chipID) && isZero(reported[len(e.chipID):])
}

func isZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// selfSigned tells whether a certificate names itself as issuer: only such anchors are roots.
func selfSigned(cert *x509.Certificate) bool { return bytes.Equal(cert.RawSubject, cert.RawIssuer) }

// amdChain verifies the certificate of an endorsement key up to an ARK that is trusted, at a time. Others that came
// along help to build the chain and are believed nothing. The answer begins with the endorsement key's.
func (t *Trust) amdChain(e *endorsement, others []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	found := false
	for _, c := range t.SNP {
		if selfSigned(c) {
			roots.AddCert(c)
			found = true
		} else {
			intermediates.AddCert(c)
		}
	}
	if !found {
		return nil, errors.New("no AMD root key (ARK) is trusted")
	}
	if now.IsZero() {
		return nil, errors.New("the time to judge at is not given")
	}
	if chain, ok := t.Chains.verified(e.certificate, now); ok {
		return chain, nil
	}
	for _, c := range others {
		if c.IsCA && !selfSigned(c) {
			intermediates.AddCert(c)
		}
	}
	chains, err := e.certificate.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, plainChainError(err)
	}
	t.Chains.remember(chains[0])
	return chains[0], nil
}

// plainChainError drops x509's prefix.
func plainChainError(err error) error {
	return errors.New(strings.TrimPrefix(err.Error(), "x509: "))
}

// fingerprint is the SHA-256 of a certificate in hex.
func fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}
