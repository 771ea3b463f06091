package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// maxConcurrentUpserts bounds inventory writes: each holds a database connection while it asks for
// policies on another, so that without a bound they could take the whole pool and wait for each other.
const maxConcurrentUpserts = 2

func machineInput(in openapi.MachineInput) store.MachineInput {
	return store.MachineInput{
		ExternalID: value(in.ExternalID), Name: in.Name, OS: text(in.Os), Platform: text(in.Platform),
		SecurityType: text(in.SecurityType), ScaleSet: value(in.ScaleSet), Labels: labelsOf(in.Labels), Declared: postureOf(in.Declared),
	}
}

func machineDTO(m store.Machine) openapi.Machine {
	out := openapi.Machine{
		ID: m.ID, ExternalID: m.ExternalID, Name: m.Name, Os: m.OS, Platform: m.Platform, SecurityType: m.SecurityType,
		ScaleSet: m.ScaleSet, Labels: labelsDTO(m.Labels), Declared: postureDTO(m.Declared), Observed: postureDTO(m.Observed),
		State: openapi.MachineState(m.State), Reason: textOrNull(m.Reason), Assurance: textOrNull(m.Assurance),
		LastVerdictID: m.LastVerdict, LastSeenAt: utcOrNull(m.LastSeenAt), NextDueAt: utcOrNull(m.NextDueAt),
		StaleSince: utcOrNull(m.StaleSince), LastBootAt: utcOrNull(m.LastBootAt), BootCount: m.BootCount,
		CreatedAt: utc(m.CreatedAt), UpdatedAt: utc(m.UpdatedAt),
	}
	if m.LastVerdict != nil {
		out.Status = textOrNull(m.Status.String())
	}
	if len(m.Instance) > 0 {
		var instance map[string]any
		if json.Unmarshal(m.Instance, &instance) == nil { // it was written by us
			out.Instance = &instance
		}
	}
	out.PlatformEvidenceType, out.VMID = &m.PlatformEvidenceType, &m.VMID
	return out
}

// ListMachines lists the inventory.
func (s *Server) ListMachines(ctx context.Context, req openapi.ListMachinesRequestObject) (openapi.ListMachinesResponseObject, error) {
	q := req.Params
	f := store.MachineFilter{
		Scope: callerScope(ctx),
		Name:  value(q.Name), NamePrefix: value(q.Q), ScaleSet: value(q.ScaleSet), Platform: joined(q.Platform), OS: joined(q.Os),
		SecurityType: joined(q.SecurityType), Labels: value(q.Label), Status: joined(q.Status), Assurance: joined(q.Assurance),
		State: joined(q.State), SeenBefore: q.SeenBefore, DueBefore: q.DueBefore,
		Stale: q.Stale, SilenceAlert: q.SilenceAlertID,
	}
	items, next, err := s.store.ListMachines(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListMachines200JSONResponse{Items: each(items, machineDTO), NextCursor: nextCursor(next)}, nil
}

// GetMachine answers one machine.
func (s *Server) GetMachine(ctx context.Context, req openapi.GetMachineRequestObject) (openapi.GetMachineResponseObject, error) {
	m, err := s.store.GetMachine(ctx, principalOf(ctx).tenant, req.MachineID)
	if err != nil {
		return nil, err
	}
	return openapi.GetMachine200JSONResponse(machineDTO(m)), nil
}

// UpsertMachine puts one machine into the inventory.
func (s *Server) UpsertMachine(ctx context.Context, req openapi.UpsertMachineRequestObject) (openapi.UpsertMachineResponseObject, error) {
	machines, err := s.upsert(ctx, []store.MachineInput{machineInput(*req.Body)})
	if err != nil {
		return nil, err
	}
	return openapi.UpsertMachine200JSONResponse(machineDTO(machines[0])), nil
}

// UpsertMachines puts many machines into the inventory, all or none.
func (s *Server) UpsertMachines(ctx context.Context, req openapi.UpsertMachinesRequestObject) (openapi.UpsertMachinesResponseObject, error) {
	machines, err := s.upsert(ctx, each(req.Body.Items, machineInput))
	if err != nil {
		return nil, err
	}
	return openapi.UpsertMachines200JSONResponse{Items: each(machines, machineDTO)}, nil
}

// upsert writes machines with the findings that follow from the inventory alone, in one transaction.
func (s *Server) upsert(ctx context.Context, inputs []store.MachineInput) ([]store.Machine, error) {
	select {
	case s.upserts <- struct{}{}:
		defer func() { <-s.upserts }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	tenant := principalOf(ctx).tenant
	var failed error
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	derive := func(m store.Machine) finding.Result {
		policy, _, err := s.store.PolicyFor(ctx, tenant, m)
		if err != nil {
			failed = fmt.Errorf("policy of machine %s: %w", m.ID, err)
			cancel() // findings by a policy that is not known are not written
			return finding.Result{}
		}
		return attest.InventoryFindings(m, policy)
	}
	machines, err := s.store.UpsertMachines(ctx, tenant, inputs, derive, s.now(), actorOf(ctx))
	if failed != nil {
		return nil, errors.Join(failed, err)
	}
	return machines, err
}
