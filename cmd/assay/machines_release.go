package main

import (
	"github.com/assay-verifier/assay/openapi/client"
)

// MachinesRelease revokes a machine's keys.
type MachinesRelease struct {
	Machine string `arg:"" help:"Id or name."`
}

// Help is the longer text of --help.
func (*MachinesRelease) Help() string {
	return `Use it where enrolment is refused with identity_conflict and you know why: the machine was
reinstalled and its agent lost its attestation key, or its TPM was replaced. Use it also to shut a
machine out.

The attestation key is revoked and the EK forgotten. The machine's token stops working and its evidence
is refused until it enrols again, with a join token and whatever keys it then has. So whoever holds a
join token can then enrol under this machine's name: revoke join tokens that you do not know.

Verdicts, alerts and baselines stay. A machine that has no active key is refused (conflict).`
}

// Run releases it.
func (c *MachinesRelease) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	id, err := a.machineID(c.Machine)
	if err != nil {
		return err
	}
	resp, err := api.RevokeAttestationKeyWithResponse(a.ctx, id, &client.RevokeAttestationKeyParams{})
	if _, _, err = answer[struct{}](a, resp, err); err != nil || a.json {
		return err
	}
	a.print.line("%s is released: its keys are revoked, and it may enrol again  %s", clean(c.Machine), a.print.paint(dim, id.String()))
	return nil
}
