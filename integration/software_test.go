package integration_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// softMachine makes quotes with a key in memory, for load that software TPMs are too slow for. To the
// service it is a machine whose key an administrator vouched for.
type softMachine struct {
	id, token string
	key       *ecdsa.PrivateKey
	public    []byte // TPMT_PUBLIC
	pcrs      [tpm.NumPCRs][]byte
	log       []byte
	clock     uint64
	resets    uint32
}

// newSoftMachine makes the key and has it vouched for.
func newSoftMachine(t *testing.T, svc *service, name string) *softMachine {
	t.Helper()
	m := &softMachine{}
	var err error
	if m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	point, err := m.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	m.public = tpm2.Marshal(tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})}}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]}}),
	})
	var machine struct{ ID string }
	svc.call(t, http.MethodPost, "/v1/machines", svc.admin, map[string]any{"name": name, "os": "linux", "platform": "qemu", "security_type": "trusted_launch", "scale_set": "soft"}, http.StatusOK, &machine)
	var key struct {
		Token string `json:"machine_token"`
	}
	svc.post(t, "/v1/machines/"+machine.ID+"/attestation-keys", map[string]any{"ak_public": m.public}, &key)
	m.id, m.token = machine.ID, key.Token
	return m
}

// boot starts anew with the events of a log.
func (m *softMachine) boot(raw []byte) error {
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
	m.log = raw
	m.resets++
	return nil
}

// evidence answers a challenge, with the log or only with its digest.
func (m *softMachine) evidence(c *client.Challenge, withLog bool) ([]byte, error) {
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
	}
	if withLog {
		e.EventLog = m.log
	} else {
		hash := crypto.SHA256.New()
		hash.Write(m.log)
		e.EventLogDigest = "sha256:" + hex.EncodeToString(hash.Sum(nil))
	}
	return json.Marshal(e)
}
