// Package software makes quotes with keys in memory, for load and for simulated time, which software TPMs are too slow for.
// To the service such a machine is one whose key an administrator vouched for.
package software

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Machine is a TPM without hardware, and what it has measured.
type Machine struct {
	Public []byte // TPMT_PUBLIC of its attestation key
	BootID string // what its agent says; empty for nothing
	Log    []byte // of its last boot

	key    *ecdsa.PrivateKey
	pcrs   [tpm.NumPCRs][]byte
	clock  uint64
	resets uint32
}

// New makes a machine with a key of its own, that has booted nothing.
func New() (*Machine, error) {
	m := &Machine{}
	var err error
	if m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	point, err := m.key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	m.Public = tpm2.Marshal(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}}),
	})
	return m, nil
}

// Boot starts anew with the events of a log.
func (m *Machine) Boot(raw []byte) error {
	log, err := eventlog.Parse(raw)
	if err != nil {
		return err
	}
	for i := range m.pcrs {
		m.pcrs[i] = make([]byte, sha256.Size)
	}
	for _, e := range log.Events() {
		for _, d := range e.Digests {
			if e.Extended && d.Alg == tpm.SHA256 {
				sum := sha256.Sum256(append(append([]byte{}, m.pcrs[e.PCR]...), d.Bytes...))
				m.pcrs[e.PCR] = sum[:]
			}
		}
	}
	m.Log = raw
	m.resets++
	return nil
}

// Evidence answers a challenge, with the log or only with its digest, as the JSON body of a POST.
func (m *Machine) Evidence(c *client.Challenge, withLog bool) ([]byte, error) {
	selected := tpm2.TPMSPCRSelection{Hash: tpm2.TPMAlgSHA256, PCRSelect: make([]byte, 3)}
	digest := sha256.New()
	values := map[string]string{}
	for _, i := range c.PCRSelection["sha256"] {
		selected.PCRSelect[i/8] |= 1 << (i % 8)
	}
	for i, v := range m.pcrs {
		if selected.PCRSelect[i/8]&(1<<(i%8)) != 0 {
			digest.Write(v)
			values[strconv.Itoa(i)] = hex.EncodeToString(v)
		}
	}
	m.clock += 1000
	message := tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote,
		ExtraData:       tpm2.TPM2BData{Buffer: c.Nonce},
		ClockInfo:       tpm2.TPMSClockInfo{Clock: m.clock, ResetCount: m.resets, Safe: true},
		FirmwareVersion: 1,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{selected}},
			PCRDigest: tpm2.TPM2BDigest{Buffer: digest.Sum(nil)}}),
	})
	sum := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, m.key, sum[:])
	if err != nil {
		return nil, err
	}
	signature := tpm2.Marshal(tpm2.TPMTSignature{SigAlg: tpm2.TPMAlgECDSA, Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
		Hash:       tpm2.TPMAlgSHA256,
		SignatureR: tpm2.TPM2BECCParameter{Buffer: r.FillBytes(make([]byte, 32))},
		SignatureS: tpm2.TPM2BECCParameter{Buffer: s.FillBytes(make([]byte, 32))}})})
	e := client.Evidence{
		Quotes: []client.Quote{{Message: message, Signature: signature}},
		PCRs:   map[string]map[string]string{"sha256": values},
		Agent:  client.Agent{BootID: m.BootID},
	}
	if withLog {
		e.EventLog = m.Log
	} else {
		sum := sha256.Sum256(m.Log)
		e.EventLogDigest = "sha256:" + hex.EncodeToString(sum[:])
	}
	return json.Marshal(e)
}
