package token

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/assay-verifier/assay/server/token/relying"
	"github.com/assay-verifier/assay/verifier/chain"
)

// SignCheckpoint signs what a checkpoint states, with the key that signs results by EdDSA. A checkpoint is no token: its typ is its own,
// it has none of the claims that tokens are accepted by, and Verify refuses it. It outlives the key, whose public
// half stays in Keys after it has left the key set.
func (s *Service) SignCheckpoint(ctx context.Context, c chain.Checkpoint) (statement, keyID string, err error) {
	k, err := s.fresh(ctx, staleAfter)
	if err != nil {
		return "", "", fmt.Errorf("sign a checkpoint: %w", err)
	}
	key, err := k.active(relying.EdDSA, s.cfg.Now())
	if err != nil {
		return "", "", fmt.Errorf("sign a checkpoint: %w", err)
	}
	header, err := json.Marshal(map[string]string{"alg": relying.EdDSA, "kid": key.jwk.Kid, "typ": chain.CheckpointType})
	if err != nil {
		return "", "", fmt.Errorf("sign a checkpoint: %w", err)
	}
	payload, err := json.Marshal(c)
	if err != nil {
		return "", "", fmt.Errorf("sign a checkpoint: %w", err)
	}
	enc := base64.RawURLEncoding
	out := enc.AppendEncode(append(enc.AppendEncode(nil, header), '.'), payload)
	if out, err = key.sign(out, s.cfg.Random); err != nil {
		return "", "", fmt.Errorf("sign a checkpoint: %w", err)
	}
	return string(out), key.jwk.Kid, nil
}

// PublicKey is the public key with an id, whatever has become of it since; ok is false where there is none.
func (s *Service) PublicKey(ctx context.Context, id string) (key relying.JWK, ok bool, err error) {
	k, err := s.fresh(ctx, staleAfter)
	if err != nil {
		return key, false, fmt.Errorf("look up a signing key: %w", err)
	}
	found, _ := k.byID(id, s.cfg.Now())
	if found == nil {
		return key, false, nil
	}
	return found.jwk, true, nil
}
