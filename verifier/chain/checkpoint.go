package chain

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
)

// CheckpointType is the typ in the header of a checkpoint's JWS, so that it is no token of any other kind (RFC 8725, section 3.11).
// The payload has none of the claims that tokens are accepted by: neither iss nor aud nor exp.
const CheckpointType = "assay-checkpoint+jws"

// checkpointFormat is the version of the statement.
const checkpointFormat = "assay-checkpoint-v1"

// Checkpoint is what a checkpoint states, the payload of a JWS.
type Checkpoint struct {
	Format       string `json:"format"`
	TenantID     string `json:"tenant_id"`
	CheckpointID string `json:"checkpoint_id"`
	Number       int64  `json:"number"` // from 1 without a gap
	At           string `json:"at"`     // RFC 3339
	Audit        struct {
		Seq  int64  `json:"seq"`  // of the last event; 0 for none
		Hash string `json:"hash"` // of that event, in hex; 64 zeros for none
	} `json:"audit"`
	Verdicts struct {
		Machines int64  `json:"machines"` // machines with a chain: the leaves of the tree
		Count    int64  `json:"count"`    // verdicts in all chains
		Root     string `json:"root"`     // Merkle root of the heads, in hex
	} `json:"verdicts"`
	// Previous is the SHA-256, in hex, of the compact JWS of the checkpoint before; null for the first.
	Previous *string `json:"previous"`
}

// NewCheckpoint fills in what is the same for all.
func NewCheckpoint(tenant, id string, at time.Time) Checkpoint {
	return Checkpoint{Format: checkpointFormat, TenantID: tenant, CheckpointID: id, At: Time(at)}
}

var hexHash = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ParseCheckpoint reads a payload whose signature has been verified.
func ParseCheckpoint(payload []byte) (Checkpoint, error) {
	var c Checkpoint
	if err := jsonv2.Unmarshal(payload, &c, jsonv2.RejectUnknownMembers(true)); err != nil {
		return Checkpoint{}, fmt.Errorf("the statement cannot be read: %w", err)
	}
	switch {
	case c.Format != checkpointFormat:
		return Checkpoint{}, fmt.Errorf("the statement is %.40q, not %s", c.Format, checkpointFormat)
	case !hexHash.MatchString(c.Audit.Hash) || !hexHash.MatchString(c.Verdicts.Root) || (c.Previous != nil && !hexHash.MatchString(*c.Previous)):
		return Checkpoint{}, errors.New("a hash of the statement is not 64 hexadecimal digits")
	case c.Number < 1 || c.Audit.Seq < 0 || c.Verdicts.Machines < 0 || c.Verdicts.Count < c.Verdicts.Machines:
		return Checkpoint{}, errors.New("a number of the statement is not possible")
	case (c.Previous == nil) != (c.Number == 1):
		return Checkpoint{}, errors.New("exactly the first checkpoint has none before it")
	}
	return c, nil
}

// StatementHash is what the next checkpoint says of this one.
func StatementHash(jws string) string {
	sum := sha256.Sum256([]byte(jws))
	return hex.EncodeToString(sum[:])
}
