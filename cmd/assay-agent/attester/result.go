package attester

import (
	"context"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
)

// Result asks the server to sign what this machine was judged to be last, for a relying party.
func (a *Attester) Result(ctx context.Context, r *client.ResultRequest) (*client.Result, error) {
	if !a.state.Enrolled() {
		return nil, ErrNotEnrolled
	}
	return a.client.Result(ctx, a.state.MachineID, a.state.Bearer(), r)
}
