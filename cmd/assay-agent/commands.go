package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/assay-verifier/assay/cmd/assay-agent/attester"
	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/store/keyring"
	"github.com/assay-verifier/assay/verifier/tpm"
)

type enrollCmd struct {
	JoinToken     keyring.Secret    `name:"join-token" placeholder:"TOKEN" xor:"token" help:"Join token. On the command line every user of the machine can see it: prefer ASSAY_JOIN_TOKEN or a file."`
	JoinTokenFile string            `name:"join-token-file" placeholder:"FILE" xor:"token" help:"File with the join token."`
	AKAlg         string            `name:"ak-alg" enum:"ecdsa,rsassa,rsapss" default:"ecdsa" help:"Attestation key that the agent makes: ecdsa (P-256), rsassa or rsapss (RSA-2048). Where the cloud made one, that is used, of this kind if there are several."`
	EKChain       string            `name:"ek-certificate-chain" placeholder:"FILE" help:"PEM intermediates of the EK certificate that the TPM does not hold itself."`
	AKChain       string            `name:"ak-chain" placeholder:"FILE" help:"PEM intermediates of an attestation key that the cloud certified (Google Compute Engine)."`
	Name          string            `name:"name" help:"Name in the inventory. Default: the host name."`
	ExternalID    string            `name:"external-id" placeholder:"ID" help:"Id that the cloud or the inventory gives this machine. Default: /etc/machine-id."`
	ScaleSet      string            `name:"scale-set" placeholder:"NAME" help:"Uniform scale set that the machine belongs to."`
	Label         map[string]string `name:"label" placeholder:"KEY=VALUE" help:"Label in the inventory; may be repeated, or separated by semicolons."`
	Platform      string            `name:"platform" enum:"azure,gcp,aws,vmware,qemu,physical,other," default:"" help:"Where the machine runs. Default: what is detected."`
	SecurityType  string            `name:"security-type" enum:"confidential_snp,confidential_tdx,trusted_launch,standard,physical," default:"" help:"Kind of machine. Default: what is detected."`
}

// Run enrols.
func (c *enrollCmd) Run(ctx context.Context, a *app) error {
	at, err := a.attester()
	if err != nil {
		return err
	}
	defer at.Close()
	token := string(c.JoinToken.Reveal())
	if c.JoinTokenFile != "" {
		if err := keyring.CheckNotPublic(c.JoinTokenFile); err != nil {
			return err
		}
		text, err := os.ReadFile(c.JoinTokenFile)
		if err != nil {
			return err
		}
		token = string(text)
	}
	var ekChain, akChain [][]byte
	if c.EKChain != "" {
		if _, ekChain, err = readCertificates(c.EKChain); err != nil {
			return err
		}
	}
	if c.AKChain != "" {
		if _, akChain, err = readCertificates(c.AKChain); err != nil {
			return err
		}
	}
	enrolled, err := at.Enroll(ctx, attester.Enrollment{
		JoinToken:          keyring.NewSecret([]byte(strings.TrimSpace(token))),
		AKAlg:              tpmdevice.AKAlg(c.AKAlg),
		EKCertificateChain: ekChain,
		AKCertificateChain: akChain,
		Machine: client.Machine{
			Name: c.Name, ExternalID: c.ExternalID, ScaleSet: c.ScaleSet, Labels: c.Label,
			Platform: c.Platform, SecurityType: c.SecurityType,
		},
	})
	if err != nil {
		return err
	}
	if a.cli.Output == "json" {
		return a.json(enrolled)
	}
	a.printf("enrolled %s as machine %s\n", enrolled.Machine.Name, enrolled.MachineID)
	a.printf("  server     %s\n", enrolled.Server)
	a.printf("  assurance  %s\n", enrolled.Assurance)
	a.printf("  EK         %s\n", enrolled.EK)
	a.printf("  AK         %s\n", enrolled.AKText)
	a.printf("  platform   %s, %s\n", enrolled.Machine.Platform, enrolled.Machine.SecurityType)
	a.printf("  evidence   %s\n", evidenceText(enrolled.PlatformEvidence))
	return nil
}

// evidenceText is the type of platform evidence for people.
func evidenceText(kind string) string {
	return cmp.Or(kind, "of the TPM alone")
}

type attestCmd struct{}

// Run attests once.
func (attestCmd) Run(ctx context.Context, a *app) error {
	at, err := a.attester()
	if err != nil {
		return err
	}
	defer at.Close()
	verdict, err := at.Attest(ctx)
	if verdict == nil {
		return err
	}
	if err != nil {
		a.warnf("%v", err) // the verdict stands, though the state could not be written
	}
	a.verdict(verdict, "")
	if verdict.Status != "affirming" {
		return exitCode(exitNotAffirming)
	}
	return nil
}

// verdict prints a verdict; after says what comes next.
func (a *app) verdict(v *client.Verdict, after string) {
	if a.cli.Output == "json" {
		a.printf("%s\n", strings.TrimSpace(string(v.Raw)))
		return
	}
	line := v.Status
	if v.Reason != "" {
		line += " (" + v.Reason + ")"
	}
	a.printf("%s  assurance %s  verdict %s%s\n", line, v.Assurance, v.ID, after)
	for _, c := range v.Checks {
		if c.Status == "fail" || c.Status == "warn" {
			a.printf("  %s %s: %s\n", c.Status, c.Code, c.Detail)
		}
	}
	for _, d := range v.Deviations {
		where := ""
		if d.PCR >= 0 {
			where = fmt.Sprintf(" in PCR %d", d.PCR)
			if d.Bank == tpm.RTMR.String() {
				where = fmt.Sprintf(" in RTMR %d", d.PCR)
			}
		}
		a.printf("  %s %s%s: %s\n", d.Kind, d.Component, where, d.Description)
	}
}

type runCmd struct{}

// Run attests until ctx ends.
func (runCmd) Run(ctx context.Context, a *app) error {
	at, err := a.attester()
	if err != nil {
		return err
	}
	defer at.Close()
	if !at.State().Enrolled() {
		return attester.ErrNotEnrolled
	}
	if err := notify("READY=1"); err != nil {
		a.warnf("tell systemd: %v", err)
	}
	err = at.Run(ctx, attester.Hooks{
		Verdict: func(v *client.Verdict, next time.Duration) {
			a.verdict(v, "  next in "+next.Round(time.Second).String())
		},
		Error: func(err error, next time.Duration) {
			a.warnf("%v; next try in %s", err, next.Round(100*time.Millisecond))
		},
	})
	return errors.Join(err, notify("STOPPING=1"))
}

// notify tells a service manager about a change (sd_notify(3)); without one it does nothing.
func notify(state string) error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"}) // "@…" is abstract here too
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte(state))
	return errors.Join(err, conn.Close())
}

type statusCmd struct{}

// Run prints the state.
func (statusCmd) Run(_ context.Context, a *app) error {
	at, err := a.attester()
	if err != nil {
		return err
	}
	s := at.State()
	if a.cli.Output == "json" {
		if err := a.json(map[string]any{
			"enrolled": s.Enrolled(), "server": at.Server(), "machine_id": s.MachineID, "assurance": s.Assurance,
			"enrolled_at": s.EnrolledAt, "ek": s.EK, "ak": s.AK.Alg, "last": s.Last, "platform_evidence": s.Platform,
		}); err != nil {
			return err
		}
	} else {
		a.status(at, s)
	}
	if !s.Enrolled() {
		return exitCode(exitError)
	}
	return nil
}

func (a *app) status(at *attester.Attester, s *attester.State) {
	if !s.Enrolled() {
		a.printf("not enrolled (state in %s)\n", a.cli.StateDir)
		return
	}
	a.printf("machine    %s\n", s.MachineID)
	a.printf("server     %s\n", at.Server())
	a.printf("enrolled   %s, assurance %s\n", s.EnrolledAt.Format(time.RFC3339), s.Assurance)
	a.printf("EK         %s\n", s.EK)
	a.printf("AK         %s\n", s.AK.Text())
	a.printf("evidence   %s\n", evidenceText(s.Platform))
	if s.Last == nil {
		a.printf("verdict    none yet\n")
		return
	}
	reason := ""
	if s.Last.Reason != "" {
		reason = " (" + s.Last.Reason + ")"
	}
	a.printf("verdict    %s%s at %s, %s\n", s.Last.Status, reason, s.Last.At.Format(time.RFC3339), s.Last.VerdictID)
}

// warnPlain warns where the machine token would be readable on its way.
func (a *app) warnPlain(server string) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "http" {
		return
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() == "localhost" || (ip != nil && ip.IsLoopback()) {
		return
	}
	a.warnf("%s is not encrypted: whoever reads along can use this machine's token", server)
}
