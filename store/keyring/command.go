package keyring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Command is a key-encryption key behind a program: the way to a KMS or an HSM. The program is started once for each
// operation, without a shell. It reads one JSON object on standard input and answers one on standard output:
//
//	{"operation": "wrap", "key_id": "k1", "data": "base64 of 32 bytes", "context": "base64"}
//	{"data": "base64 of the wrapped key"}
//
// "unwrap" is the way back. context is to be authenticated where the KMS can (AWS EncryptionContext, Vault's
// associated_data); it is authenticated by the envelope all the same. Another exit code than 0 is a refusal, whose reason on
// standard error is told to the operator, so that a program must not write secrets there.
type Command struct {
	id   string
	argv []string
}

// Bounds of a call of the program.
const (
	commandTime   = 20 * time.Second
	commandOutput = 64 << 10
)

// NewCommand makes the key id behind the program argv.
func NewCommand(id string, argv []string) (*Command, error) {
	if len(argv) == 0 || argv[0] == "" {
		return nil, errors.New("key command: a program is needed")
	}
	return &Command{id: id, argv: argv}, nil
}

// ID implements Wrapper.
func (c *Command) ID() string { return c.id }

// Wrap implements Wrapper.
func (c *Command) Wrap(ctx context.Context, key, context []byte) ([]byte, error) {
	return c.call(ctx, "wrap", key, context)
}

// Unwrap implements Wrapper.
func (c *Command) Unwrap(ctx context.Context, wrapped, context []byte) ([]byte, error) {
	return c.call(ctx, "unwrap", wrapped, context)
}

func (c *Command) call(ctx context.Context, operation string, data, aad []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	defer cancel()
	request, err := json.Marshal(map[string]any{"operation": operation, "key_id": c.id, "data": data, "context": aad})
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...) //nolint:gosec // the operator names it
	cmd.WaitDelay = time.Second
	cmd.Stdin = bytes.NewReader(request)
	out, complaint := &boundedBuffer{left: commandOutput}, &boundedBuffer{left: 2 << 10}
	cmd.Stdout, cmd.Stderr = out, complaint
	if err := cmd.Run(); err != nil {
		said := strings.Join(strings.Fields(complaint.String()), " ")
		return nil, fmt.Errorf("key command %s: %s: %w: %.500s", c.argv[0], operation, err, said)
	}
	var answer struct {
		Data []byte `json:"data"`
	}
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil || len(answer.Data) == 0 { // the answer may be a key: it is not repeated
		return nil, fmt.Errorf("key command %s: %s: it answered no JSON object with data in base64", c.argv[0], operation)
	}
	return answer.Data, nil
}

// boundedBuffer keeps the first bytes and passes over the rest.
type boundedBuffer struct {
	bytes.Buffer
	left int
}

// Write implements io.Writer.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	n := min(len(p), b.left)
	b.left -= n
	_, _ = b.Buffer.Write(p[:n])
	return len(p), nil
}
