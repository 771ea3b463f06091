package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // #nosec G505 -- the kernel's IMA lists hold it
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"strconv"
	"time"

	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// machine is one machine of the fleet. Its TPM is a key in software, which signs what a TPM would: this is
// the load generator, and nothing of it is measured.
type machine struct {
	id, token string
	key       *rsa.PrivateKey
	public    []byte // TPMT_PUBLIC
	nonce     []byte // of the challenge to answer next
	nonceAt   time.Time

	pcrs       [tpm.NumPCRs][]byte // SHA-256 bank
	resetCount uint32
	clock      uint64
	log        []byte
	ima        *imaList
	platform   map[string]any // hardware evidence; nil if it has none
}

// quoted is the selection of the default policy: PCRs 0 to 14.
const quoted = 1<<15 - 1

// primes are what keys are made of. No two machines may have one key (fleet detection takes them for clones), and to find two
// primes for each takes minutes; each pair of some is a key of its own.
type primes struct{ found []*big.Int }

// key is key n, which is of the primes i > j with n = i(i-1)/2 + j.
func (p *primes) key(n int) (*rsa.PrivateKey, error) {
	i := 1
	for i*(i+1)/2 <= n {
		i++
	}
	j := n - i*(i-1)/2
	for len(p.found) <= i {
		prime, err := rand.Prime(rand.Reader, 1024)
		if err != nil {
			return nil, err
		}
		const exponent = 65537
		if new(big.Int).Mod(prime, big.NewInt(exponent)).Cmp(big.NewInt(1)) != 0 {
			p.found = append(p.found, prime)
		}
	}
	one := big.NewInt(1)
	a, b := p.found[i], p.found[j]
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: new(big.Int).Mul(a, b), E: 65537}, Primes: []*big.Int{a, b}}
	phi := new(big.Int).Mul(new(big.Int).Sub(a, one), new(big.Int).Sub(b, one))
	key.D = new(big.Int).ModInverse(big.NewInt(int64(key.E)), phi)
	key.Precompute()
	return key, nil
}

// newMachine makes a machine whose attestation key is that one.
func newMachine(key *rsa.PrivateKey, log []byte) (*machine, error) {
	// No two machines tell the same instant at each boot: fleet detection would take them for one TPM.
	started, err := rand.Int(rand.Reader, big.NewInt(1<<40))
	if err != nil {
		return nil, err
	}
	m := &machine{key: key, resetCount: 1, clock: started.Uint64(), ima: &imaList{}}
	b := binary.BigEndian.AppendUint16(nil, uint16(tpm.AlgRSA))
	b = binary.BigEndian.AppendUint16(b, uint16(tpm.SHA256))
	b = binary.BigEndian.AppendUint32(b, uint32(tpm.FixedTPM|tpm.FixedParent|tpm.SensitiveDataOrigin|tpm.Restricted|tpm.Sign))
	b = append2B(b, nil)                                      // authPolicy
	b = binary.BigEndian.AppendUint16(b, uint16(tpm.AlgNull)) // symmetric
	b = binary.BigEndian.AppendUint16(b, uint16(tpm.AlgRSASSA))
	b = binary.BigEndian.AppendUint16(b, uint16(tpm.SHA256))
	b = binary.BigEndian.AppendUint16(b, uint16(key.N.BitLen())) //nolint:gosec // 2048
	b = binary.BigEndian.AppendUint32(b, 0)                      // exponent 65537
	m.public = append2B(b, key.N.Bytes())
	return m, m.boot(log)
}

func append2B(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...) //nolint:gosec // short
}

// boot sets the PCRs to what a log leaves behind.
func (m *machine) boot(log []byte) error {
	parsed, err := eventlog.Parse(log)
	if err != nil {
		return err
	}
	for i := range m.pcrs {
		value, _, ok := parsed.PCR(tpm.SHA256, i)
		if !ok {
			return fmt.Errorf("the log has no SHA-256 value of PCR %d", i)
		}
		m.pcrs[i] = bytes.Clone(value)
	}
	m.log = log
	m.ima = &imaList{}
	return nil
}

// quote makes a TPMS_ATTEST (TPM 2.0 Part 2, section 10.12.8) over the nonce, signed.
func (m *machine) quote() (message, signature []byte, err error) {
	h := sha256.New()
	for i := range 15 {
		h.Write(m.pcrs[i])
	}
	m.clock += 60_000
	b := binary.BigEndian.AppendUint32(nil, 0xff544347) // TPM_GENERATED_VALUE
	b = binary.BigEndian.AppendUint16(b, uint16(tpm.AttestQuote))
	b = append2B(b, m.public[len(m.public)-34:]) // qualifiedSigner: any name
	b = append2B(b, m.nonce)
	b = binary.BigEndian.AppendUint64(b, m.clock)
	b = binary.BigEndian.AppendUint32(b, m.resetCount)
	b = binary.BigEndian.AppendUint32(b, 0)               // restartCount
	b = append(b, 1)                                      // safe
	b = binary.BigEndian.AppendUint64(b, 0x2024012500120) // firmwareVersion
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint16(b, uint16(tpm.SHA256))
	b = append(b, 3, quoted&0xff, quoted>>8&0xff, quoted>>16)
	message = append2B(b, h.Sum(nil))
	digest := sha256.Sum256(message)
	sig, err := rsa.SignPKCS1v15(rand.Reader, m.key, crypto.SHA256, digest[:])
	return message, (&tpm.Signature{Scheme: tpm.Scheme{Alg: tpm.AlgRSASSA, Hash: tpm.SHA256}, RSA: sig}).Marshal(), err
}

// evidence makes the body of an evidence POST. extra are further fields, such as the log.
func (m *machine) evidence(extra map[string]any) (json.RawMessage, error) {
	message, signature, err := m.quote()
	if err != nil {
		return nil, err
	}
	pcrs := map[string]string{}
	for i := range 15 {
		pcrs[strconv.Itoa(i)] = hex.EncodeToString(m.pcrs[i])
	}
	body := map[string]any{
		"quotes": []any{map[string]string{"message": base64.StdEncoding.EncodeToString(message), "signature": base64.StdEncoding.EncodeToString(signature)}},
		"pcrs":   map[string]any{"sha256": pcrs},
		"agent":  map[string]any{"version": "bench"},
	}
	for k, v := range extra {
		body[k] = v
	}
	return json.Marshal(body)
}

func logDigest(log []byte) string {
	sum := sha256.Sum256(log)
	return hex.EncodeToString(sum[:])
}

// freshLog makes a log of at least size bytes that no other machine has: the events of the real one, again in
// PCR 13 (system extensions, in no baseline) until the size is reached, and one event that names the
// machine and the boot. All digests are true.
func freshLog(log []byte, size int, name string) ([]byte, error) {
	parsed, err := eventlog.Parse(log)
	if err != nil {
		return nil, err
	}
	banks := parsed.Banks()
	out := bytes.Clone(log)
	add := func(data []byte) {
		out = binary.LittleEndian.AppendUint32(out, 13)
		out = binary.LittleEndian.AppendUint32(out, 10) // EV_PLATFORM_CONFIG_FLAGS: its digest is of its data as it is
		out = binary.LittleEndian.AppendUint32(out, uint32(len(banks)))
		for _, alg := range banks {
			h := alg.Hash().New()
			h.Write(data)
			out = binary.LittleEndian.AppendUint16(out, uint16(alg))
			out = h.Sum(out)
		}
		out = binary.LittleEndian.AppendUint32(out, uint32(len(data))) //nolint:gosec // an event's
		out = append(out, data...)
	}
	events := parsed.Events()
	for i := 0; len(out) < size; i++ {
		if e := &events[i%len(events)]; e.Extended {
			add(append([]byte("again: "), e.Data...)) // so that it is not read as what it is a copy of
		}
	}
	add([]byte(name + "\x00"))
	return out, nil
}

// imaList is a machine's binary_runtime_measurements in the template ima-ng, with the kernel's SHA-1 of the
// template data in each entry; PCR 10 of the SHA-256 bank is extended with its SHA-256.
type imaList struct {
	entries int
	sent    int // what the service has read
	raw     []byte
}

// measure adds n files and extends PCR 10.
func (m *machine) measure(n int) {
	l := m.ima
	for range n {
		path := fmt.Sprintf("/usr/lib/x86_64-linux-gnu/bench/lib%06d.so.%d", l.entries, m.resetCount)
		file := sha256.Sum256([]byte(path))
		data := binary.LittleEndian.AppendUint32(nil, uint32(len("sha256:\x00")+len(file)))
		data = append(append(data, "sha256:\x00"...), file[:]...)
		data = binary.LittleEndian.AppendUint32(data, uint32(len(path)+1)) //nolint:gosec // short
		data = append(append(data, path...), 0)
		l.raw = appendEntry(l.raw, data)
		sum := sha256.Sum256(data)
		next := sha256.Sum256(append(bytes.Clone(m.pcrs[ima.PCR]), sum[:]...))
		m.pcrs[ima.PCR] = next[:]
		l.entries++
	}
}

func appendEntry(raw, data []byte) []byte {
	sum := sha1.Sum(data) // #nosec G401 -- what the kernel writes
	raw = binary.LittleEndian.AppendUint32(raw, ima.PCR)
	raw = append(raw, sum[:]...)
	raw = binary.LittleEndian.AppendUint32(raw, uint32(len("ima-ng")))
	raw = append(raw, "ima-ng"...)
	raw = binary.LittleEndian.AppendUint32(raw, uint32(len(data))) //nolint:gosec // short
	return append(raw, data...)
}
