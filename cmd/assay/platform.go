package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/assay-verifier/assay/verifier/anchors"
	"github.com/assay-verifier/assay/verifier/tee"
)

// shippedAnchors are the certificates of a purpose that come with this command.
func shippedAnchors(purpose string) []*x509.Certificate { return anchors.Purpose(purpose) }

// kindOf tells by its content what a piece of collateral is.
func kindOf(body []byte) (tee.Kind, error) {
	trimmed := bytes.TrimSpace(body)
	if bytes.HasPrefix(trimmed, []byte("{")) {
		switch {
		case bytes.Contains(trimmed, []byte(`"tcbInfo"`)):
			return tee.KindTCBInfo, nil
		case bytes.Contains(trimmed, []byte(`"enclaveIdentity"`)):
			return tee.KindQEIdentity, nil
		}
		return "", errors.New(`it is JSON, but neither of "tcbInfo" nor of "enclaveIdentity"`)
	}
	der := body
	if block, _ := pem.Decode(body); block != nil {
		der = block.Bytes
	}
	if cert, err := x509.ParseCertificate(der); err == nil {
		if cert.Subject.CommonName == "SEV-VLEK" {
			return tee.KindVLEK, nil
		}
		return tee.KindVCEK, nil
	}
	for _, kind := range []tee.Kind{tee.KindSNPCRL, tee.KindPCKCRL, tee.KindRootCRL} {
		if _, err := tee.ParseCollateral(kind, body, nil); err == nil {
			return kind, nil
		}
	}
	return "", errors.New("it is none of a VCEK or VLEK certificate, a CRL of AMD's or Intel's, TCB info or a QE identity")
}

// readCollateral reads one piece of collateral. The issuer chain that Intel sends beside its JSON and the CRLs of its
// PCK CAs is in chainFile, or in FILE.chain.pem where there is such a file.
func readCollateral(file, chainFile string, stdin io.Reader) (tee.Collateral, error) {
	body, err := readFile(file, maxSmallFile, stdin)
	if err != nil {
		return tee.Collateral{}, unreadable(file, "collateral", err)
	}
	kind, err := kindOf(body)
	if err != nil {
		return tee.Collateral{}, unreadable(file, "collateral", err)
	}
	var chain []byte
	if slices.Contains([]tee.Kind{tee.KindTCBInfo, tee.KindQEIdentity, tee.KindPCKCRL}, kind) {
		if chain, err = readIssuerChain(file, chainFile); err != nil {
			return tee.Collateral{}, unreadable(file, "collateral", err)
		}
	}
	c, err := tee.ParseCollateral(kind, body, chain)
	if err != nil {
		return tee.Collateral{}, unreadable(file, "collateral", err)
	}
	return c, nil
}

func readIssuerChain(file, chainFile string) ([]byte, error) {
	if chainFile != "" {
		return os.ReadFile(chainFile)
	}
	chain, err := os.ReadFile(file + ".chain.pem")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("its issuer chain is needed, in %s.chain.pem", file)
	}
	return chain, err
}
