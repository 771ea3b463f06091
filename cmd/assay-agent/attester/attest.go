package attester

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// The problem codes that the agent has an answer to.
const (
	codeUnknownChallenge = "unknown_challenge"
	codeEventLogRequired = "event_log_required"
)

// Attest gathers evidence, posts it and returns the verdict. It uses the challenge that came with the
// last verdict while that is good, and asks for one otherwise.
func (a *Attester) Attest(ctx context.Context) (*client.Verdict, error) {
	if !a.state.Enrolled() {
		return nil, ErrNotEnrolled
	}
	challenge := a.next.take(time.Now())
	kept := challenge != nil
	verdict, err := a.attest(ctx, challenge)
	if kept && client.IsProblem(err, codeUnknownChallenge) {
		// The server does not know its own challenge, as after a change of its keys.
		return a.attest(ctx, nil)
	}
	return verdict, err
}

func (a *Attester) attest(ctx context.Context, challenge *client.Challenge) (*client.Verdict, error) {
	s := a.state
	if challenge == nil {
		var err error
		if challenge, err = a.client.Challenge(ctx, s.MachineID, s.Token); err != nil {
			return nil, err
		}
	}
	e, err := a.collect(challenge)
	if err != nil {
		return nil, err
	}
	if e.logToSend != nil {
		// Raw and ahead of the evidence: in the evidence it would be base64 in JSON. A server that wants it
		// otherwise gets it there.
		if err := a.client.PutEventLog(ctx, s.MachineID, s.Token, e.logDigest, e.logToSend); err != nil {
			var p *client.Problem
			if !errors.As(err, &p) || (p.Status != 404 && p.Status != 405) {
				return nil, err
			}
			e.evidence.EventLogDigest, e.evidence.EventLog = "", e.log
		}
	}
	asked := time.Now()
	verdict, err := a.client.SubmitEvidence(ctx, s.MachineID, s.Token, e.evidence)
	if client.IsProblem(err, codeEventLogRequired) && e.log != nil {
		e.evidence.EventLogDigest, e.evidence.EventLog = "", e.log
		asked = time.Now()
		verdict, err = a.client.SubmitEvidence(ctx, s.MachineID, s.Token, e.evidence)
	}
	if err != nil {
		return nil, err
	}
	a.next.keep(verdict, asked)
	s.Last = &Last{
		At: verdict.ReceivedAt, VerdictID: verdict.ID, Status: verdict.Status, Reason: verdict.Reason,
		EventLogDigest: e.logDigest, BootID: e.evidence.Agent.BootID, ResetCount: e.resetCount,
	}
	return verdict, s.Save()
}

// collected is evidence, and what is decided about its event log.
type collected struct {
	evidence   *client.Evidence
	log        []byte // nil: this machine has none
	logDigest  string // hex
	logToSend  []byte // nil: the server has it
	resetCount uint32
}

// collect quotes first and reads the lists afterwards: they only grow, so that they hold all that is in
// the quoted PCRs.
func (a *Attester) collect(c *client.Challenge) (*collected, error) {
	selection, err := wanted(c.PCRSelection)
	if err != nil {
		return nil, err
	}
	var quoted *tpmdevice.Quoted
	err = a.withAK(func(d *tpmdevice.Device, ak *tpmdevice.Key) (err error) {
		quoted, err = d.Quote(ak, c.Nonce, selection)
		return err
	})
	if err != nil {
		return nil, err
	}
	attest, err := tpm.ParseAttest(quoted.Message)
	if err != nil {
		return nil, fmt.Errorf("the TPM's quote: %w", err)
	}
	out := &collected{resetCount: attest.Clock.ResetCount, evidence: &client.Evidence{
		Quotes: []client.Quote{{Message: quoted.Message, Signature: quoted.Signature}},
		PCRs:   client.PCRValues(quoted.PCRs),
		Agent:  agentInfo(a.config.Host, a.config.Version),
	}}
	if err := out.addEventLog(a.config.EventLog, c); err != nil {
		return nil, err
	}
	return out, out.addIMALog(a.config.IMALog, c, a.state.Last)
}

func (o *collected) addEventLog(path string, c *client.Challenge) (err error) {
	if o.log, err = measurements(path); err != nil || o.log == nil {
		return err
	}
	sum := sha256.Sum256(o.log)
	o.logDigest = hex.EncodeToString(sum[:])
	o.evidence.EventLogDigest = "sha256:" + o.logDigest
	if c.KnownEventLog != o.evidence.EventLogDigest {
		o.logToSend = o.log
	}
	return nil
}

// addIMALog sends the entries that the server has not read. It counts them by boot: when the machine
// or its TPM has been reset since, the list is another and is sent whole.
func (o *collected) addIMALog(path string, c *client.Challenge, last *Last) error {
	list, err := measurements(path)
	if err != nil || list == nil {
		return err
	}
	offset := c.IMALogOffset
	if last == nil || last.BootID != o.evidence.Agent.BootID || last.ResetCount != o.resetCount {
		offset = 0
	}
	rest, err := ima.Skip(list, offset)
	if err != nil {
		rest, offset = list, 0
	}
	o.evidence.IMALog, o.evidence.IMALogOffset = rest, offset
	return nil
}

// maxMeasurements bounds what is read of a log; the server takes no more in one POST.
const maxMeasurements = 16 << 20

// measurements reads a log of the kernel; nil when it is absent or empty.
func measurements(path string) ([]byte, error) {
	f, err := os.Open(path) // #nosec G304 -- the operator names it
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the measurements: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	b, err := io.ReadAll(io.LimitReader(f, maxMeasurements+1))
	if err != nil {
		return nil, fmt.Errorf("read the measurements: %w", err)
	}
	if len(b) > maxMeasurements {
		return nil, fmt.Errorf("read the measurements: %s is longer than %d bytes", path, maxMeasurements)
	}
	if len(b) == 0 {
		return nil, nil
	}
	return b, nil
}

// wanted reads a challenge's selection.
func wanted(banks map[string][]int) ([]tpm.Selection, error) {
	var out []tpm.Selection
	for _, name := range slices.Sorted(maps.Keys(banks)) {
		alg, ok := tpm.ParseHashAlg(name)
		if !ok || !alg.PCRBank() {
			return nil, fmt.Errorf("the server wants PCR bank %q, which this agent does not know", name)
		}
		s := tpm.Selection{Alg: alg}
		for _, i := range banks[name] {
			if i < 0 || i >= tpm.NumPCRs {
				return nil, fmt.Errorf("the server wants PCR %d", i)
			}
			s.Mask |= 1 << uint(i)
		}
		out = append(out, s)
	}
	return out, nil
}
