package rim

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// pcrAssertion reads a list of PCR values, in one of two forms. Both are read to the last byte, so that nothing else can
// be taken for them:
//   - what TPM2_PCR_Read answers: a TPML_PCR_SELECTION and a TPML_DIGEST with the value of each selected PCR, repeated
//     until the end, since a list holds eight digests (TPM 2.0 Library, Part 3, section 22.4; big endian);
//   - what the tool tpm2_pcrread prints: a line "sha256:" for the bank, a line "0 : 0x…" for each PCR.
func pcrAssertion(c *content) (verifier.ReferenceValues, error) {
	banks := map[string]map[string][]string{}
	if !readSelections(c.bytes, banks) {
		clear(banks)
		if !readText(string(c.bytes), banks) {
			return verifier.ReferenceValues{}, unsupported(c.file.element,
				"%s holds neither answers of TPM2_PCR_Read nor the text of tpm2_pcrread", shown(c.file.name))
		}
	}
	return verifier.ReferenceValues{PCRs: banks}, nil
}

// add notes a value; false means that it is of no bank, has another length, or was given before.
func add(banks map[string]map[string][]string, alg tpm.HashAlg, pcr int, value []byte) bool {
	if !alg.PCRBank() || len(value) != alg.Size() || pcr < 0 || pcr >= tpm.NumPCRs {
		return false
	}
	bank, index := alg.String(), strconv.Itoa(pcr)
	if banks[bank] == nil {
		banks[bank] = map[string][]string{}
	}
	if banks[bank][index] != nil {
		return false
	}
	banks[bank][index] = []string{hex.EncodeToString(value)}
	return true
}

func readSelections(b []byte, banks map[string]map[string][]string) bool {
	r := reader{rest: b, ok: true}
	for r.ok && len(r.rest) > 0 {
		type selected struct {
			alg tpm.HashAlg
			pcr int
		}
		var want []selected
		count := r.uint32()
		for range min(count, 16) {
			alg, size := tpm.HashAlg(r.uint16()), int(r.byte())
			for i, mask := range r.take(size) {
				for bit := range 8 {
					if mask&(1<<bit) != 0 {
						want = append(want, selected{alg, 8*i + bit})
					}
				}
			}
		}
		if !r.ok || count == 0 || count > 16 || int64(r.uint32()) != int64(len(want)) || len(want) == 0 {
			return false
		}
		for _, s := range want {
			if value := r.take(int(r.uint16())); !r.ok || !add(banks, s.alg, s.pcr, value) {
				return false
			}
		}
	}
	return r.ok && len(banks) > 0
}

// reader takes big-endian fields; ok turns false at the first one that is not there.
type reader struct {
	rest []byte
	ok   bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.ok = false
		return nil
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.take(1); r.ok {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); r.ok {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.take(4); r.ok {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func readText(text string, banks map[string]map[string][]string) bool {
	var alg tpm.HashAlg
	for line := range strings.Lines(text) {
		name, value, found := strings.Cut(strings.TrimSpace(line), ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !found {
			if name != "" {
				return false
			}
			continue
		}
		if value == "" {
			var ok bool
			if alg, ok = tpm.ParseHashAlg(name); !ok || !alg.PCRBank() {
				return false
			}
			continue
		}
		pcr, err := strconv.Atoi(name)
		if err != nil {
			return false
		}
		digest, err := hex.DecodeString(strings.TrimPrefix(strings.ToLower(value), "0x"))
		if err != nil || !add(banks, alg, pcr, digest) {
			return false
		}
	}
	return len(banks) > 0
}
