package predict

import (
	"encoding/hex"
	"hash"
	"io"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// Digests are digests of one thing: bank name to lower-case hex.
type Digests map[string]string

// supportedBanks are the banks that a prediction can be made for.
var supportedBanks = []tpm.HashAlg{tpm.SHA1, tpm.SHA256, tpm.SHA384, tpm.SHA512}

// hasher computes several digests in one pass.
type hasher struct {
	algs   []tpm.HashAlg
	hashes []hash.Hash
}

func newHasher(algs []tpm.HashAlg) *hasher {
	h := &hasher{algs: algs}
	for _, a := range algs {
		h.hashes = append(h.hashes, a.Hash().New())
	}
	return h
}

// Write implements io.Writer; it never fails.
func (h *hasher) Write(b []byte) (int, error) {
	for _, each := range h.hashes {
		each.Write(b)
	}
	return len(b), nil
}

func (h *hasher) sum() Digests {
	out := make(Digests, len(h.algs))
	for i, a := range h.algs {
		out[a.String()] = hex.EncodeToString(h.hashes[i].Sum(nil))
	}
	return out
}

func digestOf(algs []tpm.HashAlg, parts ...[]byte) Digests {
	h := newHasher(algs)
	for _, p := range parts {
		_, _ = h.Write(p)
	}
	return h.sum()
}

func digestReader(algs []tpm.HashAlg, r io.Reader) (Digests, error) {
	h := newHasher(algs)
	if _, err := io.Copy(h, r); err != nil {
		return nil, err
	}
	return h.sum(), nil
}

// extend is TPM2_PCR_Extend on a value in hex.
func extend(alg tpm.HashAlg, value []byte, digest string) ([]byte, bool) {
	d, err := hex.DecodeString(digest)
	if err != nil || len(d) != alg.Size() {
		return nil, false
	}
	h := alg.Hash().New()
	h.Write(value)
	h.Write(d)
	return h.Sum(nil), true
}
