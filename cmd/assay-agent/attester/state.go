package attester

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
)

// State is what survives a restart. It lies in state.json of the state directory, and the machine's
// token in machine.token beside it, both readable by the owner only.
type State struct {
	Server     string    `json:"server,omitempty"`
	MachineID  string    `json:"machine_id,omitempty"`
	Assurance  string    `json:"assurance,omitempty"`
	EnrolledAt time.Time `json:"enrolled_at,omitzero"`
	EK         string    `json:"ek,omitempty"` // in words
	AK         AK        `json:"ak,omitzero"`
	Last       *Last     `json:"last,omitempty"`

	// Pending is a key whose enrolment has not been answered yet. It replaces AK when it is accepted; until
	// then the earlier enrolment stays as it is.
	Pending *AK `json:"pending_ak,omitempty"`

	// Token is the machine's bearer token.
	Token string `json:"-"`

	dir string
}

// AK is the attestation key. Blob can be loaded by the TPM that made it only.
type AK struct {
	Alg    tpmdevice.AKAlg `json:"alg"`
	Blob   []byte          `json:"blob"`
	Public []byte          `json:"public"` // TPMT_PUBLIC
}

// Last is the last verdict, and what the next attestation has to know of it.
type Last struct {
	At             time.Time `json:"at"`
	VerdictID      string    `json:"verdict_id"`
	Status         string    `json:"status"`
	Reason         string    `json:"reason,omitempty"`
	EventLogDigest string    `json:"event_log_digest,omitempty"`
	// BootID and ResetCount name the boot: an IMA list of another boot starts anew.
	BootID     string `json:"boot_id"`
	ResetCount uint32 `json:"reset_count"`
}

const (
	stateFile = "state.json"
	tokenFile = "machine.token"
)

// LoadState reads a state directory; one that does not exist is an empty state.
func LoadState(dir string) (*State, error) {
	s := &State{dir: dir}
	raw, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the state: %w", err)
	}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("read the state: %s: %w", filepath.Join(dir, stateFile), err)
	}
	token, err := os.ReadFile(filepath.Join(dir, tokenFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the machine token: %w", err)
	}
	s.Token = strings.TrimSpace(string(token))
	return s, nil
}

// Enrolled tells whether the machine can attest.
func (s *State) Enrolled() bool { return s.MachineID != "" && s.Token != "" && len(s.AK.Blob) > 0 }

// Save writes the state. The token goes first: a crash in between leaves an enrolment that is not known
// as one and is made again with the same key.
func (s *State) Save() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	if s.Token != "" {
		if err := replaceFile(filepath.Join(s.dir, tokenFile), []byte(s.Token+"\n")); err != nil {
			return fmt.Errorf("write the machine token: %w", err)
		}
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(s.dir, stateFile), append(raw, '\n')); err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	return nil
}

// replaceFile writes a file of mode 0600 whole or not at all, also when the machine crashes.
func replaceFile(path string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
