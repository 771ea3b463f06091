package main

import (
	"context"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
)

type tokenCmd struct {
	Audience  string `name:"audience" placeholder:"AUDIENCE" help:"Whom the result is made out to, as the relying party wants it."`
	Warning   bool   `name:"allow-warning" help:"With --audience: also where the machine's status is warning. Otherwise it has to be affirming."`
	AnyStatus bool   `name:"any-status" help:"With --audience: whatever the machine's status is. For relying parties that read it in the result."`
	Nonce     string `name:"nonce" placeholder:"BASE64" help:"The relying party's nonce, 8 to 88 characters of base64 or base64url."`
	Algorithm string `name:"algorithm" enum:"EdDSA,ES256" default:"EdDSA" help:"Signature: EdDSA, or ES256 for relying parties that do not have it."`
}

// Run prints the result, alone, on standard output.
func (c *tokenCmd) Run(ctx context.Context, a *app) error {
	at, err := a.attester()
	if err != nil {
		return err
	}
	defer at.Close()
	result, err := at.Result(ctx, &client.ResultRequest{Audience: c.Audience, Nonce: c.Nonce, Algorithm: c.Algorithm,
		AllowWarning: c.Warning, AnyStatus: c.AnyStatus})
	if err != nil {
		return err
	}
	if a.cli.Output == "json" {
		return a.json(result)
	}
	a.printf("%s\n", result.Token)
	return nil
}
