package relying

import (
	"fmt"

	"github.com/assay-verifier/assay/verifier/chain"
)

// VerifyCheckpoint verifies a checkpoint's signature with the key that it names among keys, and gives its payload. A token of another
// type is none, whoever signed it.
func VerifyCheckpoint(jws string, keys []Key) ([]byte, error) {
	t, err := Verify(jws, keys)
	if err != nil {
		return nil, err
	}
	if t.Header.Type != chain.CheckpointType {
		return nil, fmt.Errorf("its type is %.40q, not %s: %w", t.Header.Type, chain.CheckpointType, ErrMalformed)
	}
	return t.Payload, nil
}
