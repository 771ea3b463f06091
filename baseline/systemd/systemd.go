// Package systemd imports what systemd says of measurements: predicted PCR values (`systemd-measure calculate --json`),
// their signed policies (.pcrsig, `systemd-measure sign`), and components of a boot (.pcrlock, systemd.pcrlock(5)).
package systemd

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sort"
	"strconv"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/jsondoc"
	"github.com/assay-verifier/assay/baseline/signed"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// The names of the formats in provenance.
const (
	FormatMeasure = "systemd-measure"
	FormatPCRSig  = "systemd-pcrsig"
	FormatPCRLock = "systemd-pcrlock"
)

// Bounds of the documents.
const (
	maxRecords  = 20000
	maxPolicies = 1000
)

// phase is one predicted value.
type phase struct {
	name  string
	pcr   int
	value []byte
}

// Measure imports predicted PCR values: each is accepted, since a machine is somewhere between its phases. They have no
// signature; see PCRSig for the same with one. The error is a *baseline.ImportError.
func Measure(b []byte) (*baseline.Imported, error) {
	phases, err := parseMeasure(b)
	if err != nil {
		return nil, err
	}
	out := &baseline.Imported{Format: FormatMeasure, Provenance: map[string]string{}}
	for bank, list := range phases {
		for _, p := range list {
			addValue(out, bank, p)
		}
	}
	return out, check(out)
}

func check(out *baseline.Imported) error {
	return baseline.CheckValues(out.Values, func(string) string { return "" })
}

func addValue(out *baseline.Imported, bank tpm.HashAlg, p phase) {
	if out.Values.PCRs == nil {
		out.Values.PCRs = map[string]map[string][]string{}
	}
	name := bank.String()
	if out.Values.PCRs[name] == nil {
		out.Values.PCRs[name] = map[string][]string{}
	}
	key, value := strconv.Itoa(p.pcr), hex.EncodeToString(p.value)
	for _, have := range out.Values.PCRs[name][key] {
		if have == value {
			return
		}
	}
	out.Values.PCRs[name][key] = append(out.Values.PCRs[name][key], value)
	if p.name != "" {
		out.Provenance["phase "+p.name+" "+name] = value
	}
}

func parseMeasure(b []byte) (map[tpm.HashAlg][]phase, error) {
	out := map[tpm.HashAlg][]phase{}
	count := 0
	r := jsondoc.New(b, "")
	r.Object(func(name string) {
		bank, ok := bankOf(r, name)
		r.Array(func() {
			var p phase
			r.Object(func(field string) {
				switch field {
				case "phase":
					if !r.Null() {
						p.name = r.Text()
					}
				case "pcr":
					p.pcr = int(r.Int(tpm.NumPCRs - 1))
				case "hash":
					p.value = hexText(r, bank.Size())
				default:
					r.Unknown()
				}
			})
			if p.value == nil {
				r.Fail(baseline.ImportMalformed, "hash is needed")
			}
			if count++; count > maxPolicies {
				r.Fail(baseline.ImportTooLarge, "more than %d values", maxPolicies)
			}
			if ok {
				out[bank] = append(out[bank], p)
			}
		})
	})
	r.End()
	if r.Err() == nil && count == 0 {
		r.FailAt(baseline.ImportNothingFound, "", "it holds no PCR value")
	}
	return out, r.Err()
}

func bankOf(r *jsondoc.Reader, name string) (tpm.HashAlg, bool) {
	bank, ok := tpm.ParseHashAlg(name)
	if !ok || !bank.PCRBank() {
		r.Fail(baseline.ImportUnsupported, "%q is no PCR bank", name)
		return 0, false
	}
	return bank, true
}

// hexText reads hex of a size in bytes.
func hexText(r *jsondoc.Reader, size int) []byte {
	text := r.Text()
	b, err := hex.DecodeString(text)
	if r.Err() == nil && (err != nil || len(b) != size) {
		r.Fail(baseline.ImportMalformed, "%d hex digits are needed", 2*size)
		return nil
	}
	return b
}

type policy struct {
	at      string
	pcrs    []int
	key     []byte // fingerprint of the signer's key
	digest  []byte
	sig     []byte
	signer  *baseline.Signer
	matched bool
}

// PCRSig imports the values of measure (the JSON of `systemd-measure calculate` with the same options) that the
// document's signatures cover. A signature is over a TPM policy, and that over a hash of PCR values: the values cannot be
// read from it, only compared with it, so that without measure there is nothing to judge by. Every value must be covered by a
// signature of a trusted key. The error is a *baseline.ImportError.
func PCRSig(b, measure []byte, trust *baseline.ImportTrust) (*baseline.Imported, error) {
	policies, err := parsePCRSig(b)
	if err != nil {
		return nil, err
	}
	if err := verifyPolicies(policies, trust); err != nil {
		return nil, err
	}
	if measure == nil {
		return nil, baseline.ImportErrorf(baseline.ImportUnsupported, "", "the signatures hold, but they are over TPM policies, from which no PCR value can be read: add the output of systemd-measure calculate --json=short as support")
	}
	phases, err := parseMeasure(measure)
	if err != nil {
		return nil, err
	}
	out := &baseline.Imported{Format: FormatPCRSig, Provenance: map[string]string{}}
	for bank, list := range phases {
		for _, p := range list {
			signer := coveredBy(policies[bank], bank, p)
			if signer == nil {
				return nil, baseline.ImportErrorf(baseline.ImportUntrusted, "/"+bank.String(), "no signature covers the value %x of PCR %d (phase %q)", p.value, p.pcr, p.name)
			}
			out.Signer = signer
			addValue(out, bank, p)
		}
	}
	for bank, list := range policies {
		unused := 0
		for _, p := range list {
			if !p.matched {
				unused++
			}
		}
		if unused > 0 {
			out.Notes = append(out.Notes, fmt.Sprintf("%d signed policies of the bank %s are of values that were not given", unused, bank))
		}
	}
	sort.Strings(out.Notes)
	return out, check(out)
}

func coveredBy(policies []*policy, bank tpm.HashAlg, p phase) *baseline.Signer {
	want := policyPCR(bank, p.pcr, p.value)
	for _, have := range policies {
		if len(have.pcrs) == 1 && have.pcrs[0] == p.pcr && bytes.Equal(have.digest, want) {
			have.matched = true
			return have.signer
		}
	}
	return nil
}

// policyPCR is the policy digest after TPM2_PolicyPCR in a session of SHA-256 (TPM 2.0 Part 3, section 23.7): the hash of
// the digest before it (zeros), the command's code, the selection (TPML_PCR_SELECTION) and the hash of the values.
func policyPCR(bank tpm.HashAlg, pcr int, value []byte) []byte {
	const commandPolicyPCR, selectSize = 0x0000017f, 3
	values := sha256.Sum256(value)
	b := make([]byte, sha256.Size, 2*sha256.Size+14)
	b = binary.BigEndian.AppendUint32(b, commandPolicyPCR)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint16(b, uint16(bank))
	bits := [selectSize]byte{}
	bits[pcr/8] = 1 << (pcr % 8)
	b = append(append(b, selectSize), bits[:]...)
	sum := sha256.Sum256(append(b, values[:]...))
	return sum[:]
}

// verifyPolicies checks the signature of each policy, by the key whose fingerprint it names.
func verifyPolicies(policies map[tpm.HashAlg][]*policy, trust *baseline.ImportTrust) error {
	keys := map[string]baseline.TrustedKey{}
	for _, c := range signed.Candidates(trust) {
		if b := publicKeyBytes(c.Key); b != nil {
			sum := sha256.Sum256(b)
			keys[string(sum[:])] = c
		}
	}
	for _, list := range policies {
		for _, p := range list {
			c, known := keys[string(p.key)]
			if !known {
				return baseline.ImportErrorf(baseline.ImportUntrusted, p.at+"/pkfp", "no key with the fingerprint %x is trusted for reference values", p.key)
			}
			if err := signed.Verify(c.Key, p.digest, p.sig); err != nil {
				return baseline.ImportErrorf(baseline.ImportUntrusted, p.at+"/sig", "%s", err)
			}
			p.signer = &c.Signer
		}
	}
	return nil
}

// publicKeyBytes is what systemd takes the fingerprint of (openssl-util.c, pubkey_fingerprint; OpenSSL, i2d_PublicKey): the
// key without its algorithm. nil for keys that systemd does not sign with.
func publicKeyBytes(key crypto.PublicKey) []byte {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return x509.MarshalPKCS1PublicKey(key)
	case *ecdsa.PublicKey:
		b, err := key.Bytes()
		if err != nil {
			return nil
		}
		return b
	}
	return nil
}

func parsePCRSig(b []byte) (map[tpm.HashAlg][]*policy, error) {
	out := map[tpm.HashAlg][]*policy{}
	count := 0
	r := jsondoc.New(b, "")
	r.Object(func(name string) {
		bank, ok := bankOf(r, name)
		n := 0
		r.Array(func() {
			p := readPolicy(r)
			p.at = fmt.Sprintf("/%s/%d", name, n)
			n++
			if r.Err() == nil && (len(p.pcrs) == 0 || p.key == nil || p.digest == nil || p.sig == nil) {
				r.FailAt(baseline.ImportMalformed, p.at, "pcrs, pkfp, pol and sig are needed")
			}
			if count++; count > maxPolicies {
				r.Fail(baseline.ImportTooLarge, "more than %d policies", maxPolicies)
			}
			if ok {
				out[bank] = append(out[bank], p)
			}
		})
	})
	r.End()
	if r.Err() == nil && count == 0 {
		r.FailAt(baseline.ImportNothingFound, "", "it holds no signed policy")
	}
	return out, r.Err()
}

func readPolicy(r *jsondoc.Reader) *policy {
	p := &policy{}
	r.Object(func(field string) {
		switch field {
		case "pcrs":
			r.Array(func() { p.pcrs = append(p.pcrs, int(r.Int(tpm.NumPCRs-1))) })
		case "pkfp":
			p.key = hexText(r, sha256.Size)
		case "pol":
			p.digest = hexText(r, sha256.Size)
		case "sig":
			text := r.Text()
			var err error
			if p.sig, err = base64.StdEncoding.DecodeString(text); err != nil {
				r.Fail(baseline.ImportMalformed, "it is not base64")
			}
		default:
			r.Unknown()
		}
	})
	return p
}

// PCRLock imports components of a boot, each a file: every record is an event that is accepted in its PCR. They have no
// signature. The error is a *baseline.ImportError, whose element begins with the name of the file where there are several.
func PCRLock(b []byte, more map[string][]byte) (*baseline.Imported, error) {
	out := &baseline.Imported{Format: FormatPCRLock}
	l := &lockReader{out: out, seen: map[string]bool{}}
	if err := l.component(b, ""); err != nil {
		return nil, err
	}
	names := make([]string, 0, len(more))
	for name := range more {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if err := l.component(more[name], name); err != nil {
			return nil, err
		}
	}
	if len(out.Values.Events) == 0 {
		return nil, baseline.ImportErrorf(baseline.ImportNothingFound, "/records", "it holds no record")
	}
	out.Notes = append(out.Notes, "all that is measured into a PCR that the document names must be in it, so give the components of a boot together; their order is not judged")
	return out, check(out)
}

type lockReader struct {
	out  *baseline.Imported
	seen map[string]bool
}

func (l *lockReader) component(b []byte, file string) error {
	r := jsondoc.New(b, file)
	r.Object(func(name string) {
		if name != "records" {
			r.Unknown()
			return
		}
		r.Array(func() { l.record(r, file) })
	})
	r.End()
	return r.Err()
}

// record reads one of the records; recnum, content and content_type are not used (systemd.pcrlock(5)).
func (l *lockReader) record(r *jsondoc.Reader, file string) {
	event := verifier.ReferenceEvent{PCR: -1, Digests: map[string][]string{}, Description: file}
	r.Object(func(field string) {
		switch field {
		case "pcr":
			event.PCR = int(r.Int(tpm.NumPCRs - 1))
		case "digests":
			r.Array(func() { readDigest(r, &event) })
		case "recnum", "content", "content_type":
			r.Skip()
		default:
			r.Unknown()
		}
	})
	if r.Err() != nil {
		return
	}
	if event.PCR < 0 || len(event.Digests) == 0 {
		r.Fail(baseline.ImportMalformed, "a record needs pcr and digests")
		return
	}
	id := fmt.Sprint(event.PCR, event.Digests)
	if l.seen[id] {
		return
	}
	l.seen[id] = true
	if len(l.out.Values.Events) == maxRecords {
		r.Fail(baseline.ImportTooLarge, "more than %d records", maxRecords)
		return
	}
	l.out.Values.Events = append(l.out.Values.Events, event)
}

func readDigest(r *jsondoc.Reader, event *verifier.ReferenceEvent) {
	var alg string
	var text string
	r.Object(func(field string) {
		switch field {
		case "hashAlg":
			alg = r.Text()
		case "digest":
			text = r.Text()
		default:
			r.Unknown()
		}
	})
	if r.Err() != nil {
		return
	}
	bank, ok := tpm.ParseHashAlg(alg)
	if !ok || !bank.PCRBank() {
		return // of a bank that no TPM here quotes: the others of the record judge
	}
	if b, err := hex.DecodeString(text); err != nil || len(b) != bank.Size() {
		r.Fail(baseline.ImportMalformed, "digest is no hex of %d bytes", bank.Size())
		return
	}
	event.Digests[bank.String()] = []string{text}
}
