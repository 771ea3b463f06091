package tpmdevice

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Quoted is a quote and the PCR values that it is over.
type Quoted struct {
	Message   []byte   // TPMS_ATTEST
	Signature []byte   // TPMT_SIGNATURE
	PCRs      tpm.PCRs // in the order of the quote
}

// quoteTries bounds how often PCRs are read again because one moved between the quote and the reading.
const quoteTries = 8

// Quote signs the selected PCRs with the AK over a nonce, and reads their values. Banks that this TPM does
// not have are replaced as Available says.
func (d *Device) Quote(ak *Key, nonce []byte, want []tpm.Selection) (*Quoted, error) {
	active, err := d.Banks()
	if err != nil {
		return nil, err
	}
	selection, err := Available(want, active)
	if err != nil {
		return nil, err
	}
	hash, err := signingHash(&ak.public)
	if err != nil {
		return nil, err
	}
	for range quoteTries {
		rsp, err := tpm2.Quote{
			SignHandle:     tpm2.AuthHandle{Handle: ak.handle, Name: tpm2.TPM2BName{Buffer: ak.Name}, Auth: tpm2.PasswordAuth(nil)},
			QualifyingData: tpm2.TPM2BData{Buffer: nonce},
			InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
			PCRSelect:      toTPML(selection),
		}.Execute(d.tpm)
		if err != nil {
			return nil, explain("TPM2_Quote", err)
		}
		attest, err := rsp.Quoted.Contents()
		if err != nil {
			return nil, fmt.Errorf("TPM2_Quote: %w", err)
		}
		info, err := attest.Attested.Quote()
		if err != nil {
			return nil, fmt.Errorf("TPM2_Quote: %w", err)
		}
		values, err := d.ReadPCRs(selection)
		if err != nil {
			return nil, err
		}
		if bytes.Equal(pcrDigest(hash, values), info.PCRDigest.Buffer) {
			return &Quoted{Message: rsp.Quoted.Bytes(), Signature: tpm2.Marshal(rsp.Signature), PCRs: values}, nil
		}
	}
	return nil, fmt.Errorf("the PCRs moved between quote and reading, %d times in a row", quoteTries)
}

// pcrDigest is the digest that a quote holds: the hash of the values in the order of the selection.
func pcrDigest(h crypto.Hash, pcrs tpm.PCRs) []byte {
	sum := h.New()
	for i := range pcrs {
		for _, v := range pcrs[i].Values {
			sum.Write(v)
		}
	}
	return sum.Sum(nil)
}

// signingHash is the hash of the AK's own scheme.
func signingHash(p *tpm2.TPMTPublic) (crypto.Hash, error) {
	parsed, err := tpm.ParsePublic(tpm2.Marshal(p))
	if err != nil {
		return 0, err
	}
	h := parsed.Scheme().Hash.Hash()
	if h == 0 {
		return 0, errors.New("the attestation key has no signing scheme of its own")
	}
	return h, nil
}

// Banks lists the PCR banks of the TPM that are active, with their PCRs.
func (d *Device) Banks() ([]tpm.Selection, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapPCRs, PropertyCount: 1}.Execute(d.tpm)
	if err != nil {
		return nil, explain("TPM2_GetCapability", err)
	}
	list, err := rsp.CapabilityData.Data.AssignedPCR()
	if err != nil {
		return nil, fmt.Errorf("TPM2_GetCapability: %w", err)
	}
	var out []tpm.Selection
	for _, s := range list.PCRSelections {
		if sel := fromTPMS(s); sel.Mask != 0 {
			out = append(out, sel)
		}
	}
	return out, nil
}

// Available turns a wanted selection into one that the active banks can fulfil. A bank that is not
// active is replaced by the next stronger one (sha256, sha384, sha512) with the same indices; banks that
// so become the same are joined. The result is in ascending order of bank.
func Available(want, active []tpm.Selection) ([]tpm.Selection, error) {
	has := func(s tpm.Selection) bool {
		return slices.ContainsFunc(active, func(a tpm.Selection) bool { return a.Alg == s.Alg && a.Mask&s.Mask == s.Mask })
	}
	masks := map[tpm.HashAlg]uint32{}
	for _, s := range want {
		if s.Mask == 0 {
			continue
		}
		found := has(s)
		for _, stronger := range [...]tpm.HashAlg{tpm.SHA256, tpm.SHA384, tpm.SHA512} {
			if !found && stronger.Size() > s.Alg.Size() && has(tpm.Selection{Alg: stronger, Mask: s.Mask}) {
				s.Alg, found = stronger, true
			}
		}
		if !found {
			return nil, fmt.Errorf("PCR bank %s is wanted, but neither it nor a stronger one is active in this TPM (active: %v)", s.Alg, bankNames(active))
		}
		masks[s.Alg] |= s.Mask
	}
	if len(masks) == 0 {
		return nil, errors.New("no PCR is wanted")
	}
	var out []tpm.Selection
	for _, alg := range slices.Sorted(maps.Keys(masks)) {
		out = append(out, tpm.Selection{Alg: alg, Mask: masks[alg]})
	}
	return out, nil
}

func bankNames(s []tpm.Selection) []string {
	out := make([]string, len(s))
	for i := range s {
		out[i] = s[i].Alg.String()
	}
	return out
}

// ReadPCRs reads the selected PCRs; a TPM answers at most eight at a time.
func (d *Device) ReadPCRs(selection []tpm.Selection) (tpm.PCRs, error) {
	out := make(tpm.PCRs, len(selection))
	for i, s := range selection {
		out[i].Alg, out[i].Mask = s.Alg, s.Mask
		for left := s.Mask; left != 0; {
			rsp, err := tpm2.PCRRead{PCRSelectionIn: toTPML([]tpm.Selection{{Alg: s.Alg, Mask: left}})}.Execute(d.tpm)
			if err != nil {
				return nil, explain("TPM2_PCR_Read", err)
			}
			if len(rsp.PCRSelectionOut.PCRSelections) != 1 || len(rsp.PCRValues.Digests) == 0 {
				return nil, fmt.Errorf("TPM2_PCR_Read of bank %s answered nothing", s.Alg)
			}
			got := fromTPMS(rsp.PCRSelectionOut.PCRSelections[0])
			indices := got.Indices()
			if got.Alg != s.Alg || got.Mask&^left != 0 || len(indices) != len(rsp.PCRValues.Digests) {
				return nil, fmt.Errorf("TPM2_PCR_Read of bank %s answered other PCRs", s.Alg)
			}
			for j, index := range indices {
				out[i].Values[index] = rsp.PCRValues.Digests[j].Buffer
			}
			left &^= got.Mask
		}
	}
	return out, nil
}

// Extend extends a PCR in the given banks, as firmware and kernel do; for software TPMs.
func (d *Device) Extend(index int, digests map[tpm.HashAlg][]byte) error {
	var values []tpm2.TPMTHA
	for _, alg := range slices.Sorted(maps.Keys(digests)) {
		values = append(values, tpm2.TPMTHA{HashAlg: tpm2.TPMAlgID(alg), Digest: digests[alg]})
	}
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(index), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: values},
	}.Execute(d.tpm)
	if err != nil {
		return explain(fmt.Sprintf("TPM2_PCR_Extend %d", index), err)
	}
	return nil
}

func toTPML(selection []tpm.Selection) tpm2.TPMLPCRSelection {
	var out tpm2.TPMLPCRSelection
	for _, s := range selection {
		out.PCRSelections = append(out.PCRSelections, tpm2.TPMSPCRSelection{
			Hash:      tpm2.TPMAlgID(s.Alg),
			PCRSelect: []byte{byte(s.Mask), byte(s.Mask >> 8), byte(s.Mask >> 16)},
		})
	}
	return out
}

func fromTPMS(s tpm2.TPMSPCRSelection) tpm.Selection {
	out := tpm.Selection{Alg: tpm.HashAlg(s.Hash)}
	for i, b := range s.PCRSelect {
		if i < tpm.NumPCRs/8 {
			out.Mask |= uint32(b) << (8 * i)
		}
	}
	return out
}
