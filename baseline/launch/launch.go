// Package launch imports the launch endorsements of clouds: signed statements of what the hardware measures when a
// confidential VM starts with the cloud's firmware.
//
// Read is Google's VMLaunchEndorsement (google/gce-tcb-verifier, proto/endorsement.proto, Apache-2.0). Its wire is read
// field by field, because the generated decoder would take a multiple of its size in memory.
package launch

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/assay-verifier/assay/baseline"
)

// Format is the name of the format in provenance.
const Format = "google-launch-endorsement"

// Bounds of an endorsement.
const (
	maxMeasurements = 1000
	maxCertificates = 8
	measurementSize = 48 // SHA-384
)

// golden is what VMGoldenMeasurement says that matters here.
type golden struct {
	cert, bundle, digest, commit []byte
	changelist                   uint64
	at                           time.Time
	snp, tdx                     [][]byte
	snpSVN, tdxSVN               uint64
	hasSNP, hasTDX               bool
}

// Import verifies the endorsement's signature (RSA-PSS with SHA-256, by the certificate inside it, which must lead to a
// root of trust) and takes its measurements. The error is a *baseline.ImportError whose element is a path of fields.
func Import(b []byte, trust *baseline.ImportTrust) (*baseline.Imported, error) {
	var document, signature []byte
	err := eachField("VMLaunchEndorsement", b, func(f field) error {
		switch f.number {
		case 1:
			document = f.bytes
		case 2:
			signature = f.bytes
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(document) == 0 || len(signature) == 0 {
		return nil, baseline.ImportErrorf(baseline.ImportMalformed, "VMLaunchEndorsement", "serialized_uefi_golden and signature are needed")
	}
	// The certificate is inside of what it signs: nothing else is believed before the signature holds.
	g, err := parseGolden(document)
	if err != nil {
		return nil, err
	}
	signer, err := verify(document, signature, g, trust)
	if err != nil {
		return nil, err
	}
	return g.imported(signer)
}

func verify(document, signature []byte, g *golden, trust *baseline.ImportTrust) (*baseline.Signer, error) {
	leaf, err := x509.ParseCertificate(g.cert)
	if err != nil {
		return nil, baseline.ImportErrorf(baseline.ImportMalformed, "serialized_uefi_golden.cert", "it is no certificate in DER")
	}
	chain, err := bundle(g.bundle)
	if err != nil {
		return nil, err
	}
	signer, err := trust.SignerOf(leaf, chain)
	if err != nil {
		return nil, baseline.ImportErrorf(baseline.ImportUntrusted, "serialized_uefi_golden.cert", "%s", err)
	}
	key, ok := leaf.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, baseline.ImportErrorf(baseline.ImportUnsupported, "serialized_uefi_golden.cert", "its key is no RSA key")
	}
	sum := sha256.Sum256(document)
	if rsa.VerifyPSS(key, crypto.SHA256, sum[:], signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: crypto.SHA256}) != nil {
		return nil, baseline.ImportErrorf(baseline.ImportUntrusted, "signature", "it is not one of the certificate's key over serialized_uefi_golden")
	}
	return signer, nil
}

func bundle(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if len(out) == maxCertificates {
			return nil, baseline.ImportErrorf(baseline.ImportTooLarge, "serialized_uefi_golden.ca_bundle", "more than %d certificates", maxCertificates)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, baseline.ImportErrorf(baseline.ImportMalformed, "serialized_uefi_golden.ca_bundle", "certificate %d cannot be read", len(out)+1)
		}
		out = append(out, c)
	}
	if len(bytes.TrimSpace(text)) > 0 {
		return nil, baseline.ImportErrorf(baseline.ImportMalformed, "serialized_uefi_golden.ca_bundle", "it is no PEM")
	}
	return out, nil
}

func (g *golden) imported(signer *baseline.Signer) (*baseline.Imported, error) {
	out := &baseline.Imported{Format: Format, Signer: signer, Provenance: map[string]string{
		"uefi_sha384": hex.EncodeToString(g.digest), "changelist": fmt.Sprint(g.changelist), "commit": hex.EncodeToString(g.commit)}}
	if !g.at.IsZero() {
		out.Provenance["timestamp"] = g.at.UTC().Format(time.RFC3339)
	}
	if g.hasSNP {
		out.Provenance["sev_snp_svn"] = fmt.Sprint(g.snpSVN)
	}
	if g.hasTDX {
		out.Provenance["tdx_svn"] = fmt.Sprint(g.tdxSVN)
	}
	for _, m := range append(slices.Clone(g.snp), g.tdx...) {
		if text := hex.EncodeToString(m); !slices.Contains(out.Values.LaunchMeasurements, text) {
			out.Values.LaunchMeasurements = append(out.Values.LaunchMeasurements, text)
		}
	}
	if len(out.Values.LaunchMeasurements) == 0 {
		return nil, baseline.ImportErrorf(baseline.ImportNothingFound, "serialized_uefi_golden", "it has no launch measurements of SEV-SNP or TDX")
	}
	out.Notes = append(out.Notes, "that a measurement is of a number of processors or a size of memory is not judged: each is accepted of each machine",
		"the launch policy, family and image of SEV-SNP are not judged here: a policy's platform_evidence can name them")
	return out, baseline.CheckValues(out.Values, func(string) string { return "serialized_uefi_golden" })
}

func parseGolden(b []byte) (*golden, error) {
	g := &golden{}
	return g, eachField("serialized_uefi_golden", b, func(f field) error {
		switch f.number {
		case 1:
			return g.timestamp(f.bytes)
		case 2:
			g.changelist = f.varint
		case 3:
			g.commit = f.bytes
		case 4:
			g.cert = f.bytes
		case 5:
			g.digest = f.bytes
		case 6:
			g.bundle = f.bytes
		case 7:
			g.hasSNP = true
			return g.sevSNP(f.bytes)
		case 8:
			g.hasTDX = true
			return g.vmTDX(f.bytes)
		}
		return nil
	})
}

// timestamp reads google.protobuf.Timestamp.
func (g *golden) timestamp(b []byte) error {
	return eachField("serialized_uefi_golden.timestamp", b, func(f field) error {
		if f.number == 1 && f.varint < 1<<40 {
			g.at = time.Unix(int64(f.varint), 0)
		}
		return nil
	})
}

// sevSNP reads VMSevSnp: measurements is a map of the number of processors to a measurement.
func (g *golden) sevSNP(b []byte) error {
	const place = "serialized_uefi_golden.sev_snp"
	return eachField(place, b, func(f field) error {
		switch f.number {
		case 1:
			g.snpSVN = f.varint
		case 2:
			var m []byte
			if err := eachField(place+".measurements", f.bytes, func(f field) error {
				if f.number == 2 {
					m = f.bytes
				}
				return nil
			}); err != nil {
				return err
			}
			return add(&g.snp, m, place+".measurements")
		}
		return nil
	})
}

func (g *golden) vmTDX(b []byte) error {
	const place = "serialized_uefi_golden.tdx"
	return eachField(place, b, func(f field) error {
		switch f.number {
		case 1:
			g.tdxSVN = f.varint
		case 2:
			var m []byte
			if err := eachField(place+".measurements", f.bytes, func(f field) error {
				if f.number == 3 {
					m = f.bytes
				}
				return nil
			}); err != nil {
				return err
			}
			return add(&g.tdx, m, place+".measurements.mrtd")
		}
		return nil
	})
}

func add(to *[][]byte, m []byte, place string) error {
	if len(m) != measurementSize {
		return baseline.ImportErrorf(baseline.ImportMalformed, place, "a measurement of %d bytes; SHA-384 has %d", len(m), measurementSize)
	}
	if len(*to) == maxMeasurements {
		return baseline.ImportErrorf(baseline.ImportTooLarge, place, "more than %d measurements", maxMeasurements)
	}
	*to = append(*to, m)
	return nil
}

type field struct {
	number protowire.Number
	bytes  []byte // of a length-delimited field, aliasing the message
	varint uint64
}

func eachField(place string, b []byte, each func(field) error) error {
	for offset := 0; offset < len(b); {
		number, typ, n := protowire.ConsumeTag(b[offset:])
		if n < 0 {
			return baseline.ImportErrorf(baseline.ImportMalformed, place, "no field tag at byte %d", offset)
		}
		offset += n
		f := field{number: number}
		switch typ {
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(b[offset:])
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(b[offset:])
		case protowire.Fixed32Type, protowire.Fixed64Type:
			n = protowire.ConsumeFieldValue(number, typ, b[offset:])
		default:
			n = -1 // groups: these messages have none
		}
		if n < 0 {
			return baseline.ImportErrorf(baseline.ImportMalformed, place, "field %d at byte %d cannot be read", number, offset)
		}
		offset += n
		if err := each(f); err != nil {
			return err
		}
	}
	return nil
}
