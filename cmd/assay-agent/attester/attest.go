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
	"github.com/assay-verifier/assay/cmd/assay-agent/platform"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/store/keyring"
	"github.com/assay-verifier/assay/verifier/ima"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// The problem codes that the agent has an answer to.
const (
	codeUnknownChallenge = "unknown_challenge"
	codeEventLogRequired = "event_log_required"
	codePlatformRequired = "platform_evidence_required"
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
		if challenge, err = a.client.Challenge(ctx, s.MachineID, s.Bearer()); err != nil {
			return nil, err
		}
	}
	e, err := a.collect(ctx, challenge)
	if err != nil {
		return nil, err
	}
	if e.logToSend != nil {
		// Raw and ahead of the evidence: in the evidence it would be base64 in JSON. A server that wants it
		// otherwise gets it there.
		if err := a.client.PutEventLog(ctx, s.MachineID, s.Bearer(), e.logDigest, e.logToSend); err != nil {
			var p *client.Problem
			if !errors.As(err, &p) || (p.Status != 404 && p.Status != 405) {
				return nil, err
			}
			e.evidence.EventLogDigest, e.evidence.EventLog = "", e.log
		}
	}
	var verdict *client.Verdict
	var asked time.Time
	for again := true; again; {
		asked = time.Now()
		verdict, err = a.client.SubmitEvidence(ctx, s.MachineID, s.Bearer(), e.evidence)
		// What was named by its digest is sent whole when the server does not hold it; each once.
		switch again = false; {
		case client.IsProblem(err, codeEventLogRequired) && e.log != nil && e.evidence.EventLog == nil:
			e.evidence.EventLogDigest, e.evidence.EventLog, again = "", e.log, true
		case client.IsProblem(err, codePlatformRequired) && e.platform != nil && e.evidence.PlatformEvidence == nil:
			e.evidence.PlatformEvidenceDigest, e.evidence.PlatformEvidence, again = "", e.platform, true
		}
	}
	if err != nil {
		return nil, err
	}
	a.next.keep(verdict, asked)
	if verdict.MachineToken != "" && verdict.MachineID == s.MachineID {
		s.Token = keyring.NewSecret([]byte(verdict.MachineToken)) // the one before stays good: a crash before it is stored costs nothing
	}
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
	platform   *client.PlatformEvidence // nil: none is sent
}

// collect quotes first and reads the lists afterwards: they only grow, so that they hold all that is in
// the quoted PCRs.
func (a *Attester) collect(ctx context.Context, c *client.Challenge) (*collected, error) {
	kind, err := a.platformKind()
	if err != nil {
		return nil, err
	}
	out := &collected{evidence: &client.Evidence{Agent: agentInfo(a.config.Host, a.config.Version)}}
	hasTPM := a.state.AK.exists()
	if hasTPM {
		err = a.quote(ctx, c, kind, out)
	} else {
		out.platform, err = a.collector.Collect(ctx, kind, nil, platform.Binding{Nonce: c.Nonce})
	}
	if err != nil {
		return nil, err
	}
	if kind == client.TDX && hasTPM {
		if out.platform.EventLog, err = a.collector.EventLog(); err != nil {
			return nil, err
		}
	}
	if out.platform != nil {
		if digest := out.platform.Digest(); digest == c.KnownPlatformEvidence {
			out.evidence.PlatformEvidenceDigest = digest
		} else {
			out.evidence.PlatformEvidence = out.platform
		}
	}
	if !hasTPM { // its run-time measurements are in registers of the hardware, and the CC event log is all there is of lists
		log, err := a.collector.EventLog()
		if err != nil {
			return nil, err
		}
		out.addEventLog(log, c)
		return out, nil
	}
	log, err := measurements(a.config.EventLog)
	if err != nil {
		return nil, err
	}
	out.addEventLog(log, c)
	return out, out.addIMALog(a.config.IMALog, c, a.state.Last)
}

// platformKind is the type of hardware evidence to send: what the flags say, else what the machine was enrolled with. A
// machine that was enrolled without has a key that the server knows for something else.
func (a *Attester) platformKind() (string, error) {
	kind := a.collector.Mode().Kind()
	if a.collector.Mode() == platform.Auto {
		kind = a.state.Platform
	}
	switch {
	case kind == client.AzureHCL && a.state.AK.Handle == 0:
		return "", errors.New("the HCL report proves the paravisor's key, and this machine was enrolled with another one: enrol again with --platform-evidence azure")
	case kind == "" && !a.state.AK.exists():
		return "", errors.New("this machine was enrolled without a TPM: --platform-evidence none leaves nothing to attest with")
	}
	return kind, nil
}

// quote gets a quote, and the hardware evidence that goes with its key.
func (a *Attester) quote(ctx context.Context, c *client.Challenge, kind string, out *collected) error {
	selection, err := wanted(c.PCRSelection)
	if err != nil {
		return err
	}
	var quoted *tpmdevice.Quoted
	binding := platform.Binding{Nonce: c.Nonce}
	err = a.withAK(func(d *tpmdevice.Device, ak *tpmdevice.Key) (err error) {
		binding.AK = ak.Public
		if quoted, err = d.Quote(ak, c.Nonce, selection); err != nil || kind != client.AzureHCL {
			return err
		}
		out.platform, err = a.collector.Collect(ctx, kind, d, binding)
		return err
	})
	if err != nil {
		return err
	}
	if kind != "" && out.platform == nil { // it needs no TPM, which others may use meanwhile
		if out.platform, err = a.collector.Collect(ctx, kind, nil, binding); err != nil {
			return err
		}
	}
	attest, err := tpm.ParseAttest(quoted.Message)
	if err != nil {
		return fmt.Errorf("the TPM's quote: %w", err)
	}
	out.resetCount = attest.Clock.ResetCount
	out.evidence.Quotes = []client.Quote{{Message: quoted.Message, Signature: quoted.Signature}}
	out.evidence.PCRs = client.PCRValues(quoted.PCRs)
	return nil
}

// addEventLog names the log, and marks it as to be sent when the server does not hold it.
func (o *collected) addEventLog(log []byte, c *client.Challenge) {
	if log == nil {
		return
	}
	sum := sha256.Sum256(log)
	o.log, o.logDigest = log, hex.EncodeToString(sum[:])
	o.evidence.EventLogDigest = "sha256:" + o.logDigest
	if c.KnownEventLog != o.evidence.EventLogDigest {
		o.logToSend = log
	}
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
