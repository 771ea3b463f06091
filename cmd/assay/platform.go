package main

import (
	"crypto/x509"
	"io"

	"github.com/assay-verifier/assay/verifier/anchors"
	"github.com/assay-verifier/assay/verifier/tee"
)

// shippedAnchors are the certificates of a purpose that come with this command.
func shippedAnchors(purpose string) []*x509.Certificate { return anchors.Purpose(purpose) }

// readCollateral reads one piece of collateral. The chain of whoever signed it is in chainFile, else in FILE.chain.pem.
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
	if chainHeader[kind] != "" {
		if chain, err = chainOf(file, chainFile, stdin); err != nil {
			return tee.Collateral{}, err
		}
	}
	c, err := tee.ParseCollateral(kind, body, chain)
	if err != nil {
		return tee.Collateral{}, unreadable(file, "collateral", err)
	}
	return c, nil
}
