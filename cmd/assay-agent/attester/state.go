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
	"github.com/assay-verifier/assay/store/keyring"
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

	// Platform is the type of the platform evidence that the machine was enrolled with; empty for none.
	Platform string `json:"platform_evidence,omitempty"`

	// Pending is a key whose enrolment has not been answered yet. It replaces AK when it is accepted; until
	// then the earlier enrolment stays as it is.
	Pending *AK `json:"pending_ak,omitempty"`

	// Token is the machine's bearer token.
	Token keyring.Secret `json:"-"`

	dir string
}

// AK is the attestation key: one that the agent made, or one that the cloud made with the machine. A machine without
// TPM has none.
type AK struct {
	Alg    tpmdevice.AKAlg `json:"alg"`
	Blob   []byte          `json:"blob,omitempty"` // of a key of the agent's own; it can be loaded by the TPM that made it only
	Public []byte          `json:"public"`         // TPMT_PUBLIC

	Handle   uint32 `json:"handle,omitempty"`   // of a persistent key: Azure's HCLAkPub
	Template uint32 `json:"template,omitempty"` // NV index of the template of a key that the cloud certified
}

// exists tells whether there is a key.
func (k *AK) exists() bool { return len(k.Blob) > 0 || k.Handle != 0 || k.Template != 0 }

// Text is the key for people.
func (k *AK) Text() string {
	switch {
	case !k.exists():
		return "none"
	case k.Handle != 0:
		return string(k.Alg) + ", made by the paravisor"
	case k.Template != 0:
		return string(k.Alg) + ", certified by the cloud"
	}
	return string(k.Alg)
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
	if err := keyring.CheckNotPublic(filepath.Join(dir, tokenFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the machine token: %w", err)
	}
	token, err := os.ReadFile(filepath.Join(dir, tokenFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the machine token: %w", err)
	}
	s.Token = keyring.NewSecret([]byte(strings.TrimSpace(string(token))))
	return s, nil
}

// Bearer is what requests are authenticated with.
func (s *State) Bearer() string { return string(s.Token.Reveal()) }

// Enrolled tells whether the machine can attest.
func (s *State) Enrolled() bool {
	return s.MachineID != "" && !s.Token.Empty() && (s.AK.exists() || s.Platform != "")
}

// Save writes the state. The token goes first: a crash in between leaves an enrolment that is not known
// as one and is made again with the same key.
func (s *State) Save() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return fmt.Errorf("write the state: %w", err)
	}
	if !s.Token.Empty() {
		if err := replaceFile(filepath.Join(s.dir, tokenFile), []byte(s.Bearer()+"\n")); err != nil {
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
