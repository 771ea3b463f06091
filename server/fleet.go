package server

import (
	"context"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

func fleetConflictDTO(c store.FleetConflict) openapi.FleetConflict {
	return openapi.FleetConflict{ID: c.ID, Code: c.Code, Details: conflictDetailsDTO(&c.Details), FirstSeenAt: utc(c.FirstSeenAt), LastSeenAt: utc(c.LastSeenAt),
		Count: c.Count, EndedAt: utcOrNull(c.EndedAt), EndedBecause: c.EndedWhy}
}

func conflictDetailsDTO(c *finding.Conflict) openapi.FleetConflictDetails {
	out := openapi.FleetConflictDetails{Kind: openapi.FleetConflictKind(c.Kind), First: conflictStateDTO(c.First), Second: conflictStateDTO(c.Second)}
	for _, m := range c.Machines {
		dto := openapi.FleetConflictMachine{Name: m.Name}
		if id, err := uuid.Parse(m.ID); err == nil {
			dto.ID = &id
		}
		out.Machines = append(out.Machines, dto)
	}
	o, seen := &out.Observed, &c.Observed
	o.What, o.Sha256, o.RemoteAddr = given(seen.What), given(seen.SHA256), given(seen.RemoteAddr)
	o.Proved, o.MachinesSharing, o.Boots, o.AheadMs = seen.Proved, given(seen.Sharing), given(seen.Boots), given(seen.AheadMS)
	if len(seen.MayBe) > 0 {
		o.MayBe = &seen.MayBe
	}
	return out
}

func conflictStateDTO(s *finding.ConflictState) *openapi.FleetConflictState {
	if s == nil {
		return nil
	}
	return &openapi.FleetConflictState{At: utc(s.At), ResetCount: int64(s.ResetCount), RestartCount: int64(s.RestartCount),
		ClockMs: int64(s.ClockMS), FirmwareVersion: given(s.FirmwareVersion), BootSha256: given(s.Boot)} // #nosec G115 -- 292 million years
}

// given is nil for the zero value, which stands for what does not belong there.
func given[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// ListFleetConflicts lists machines that cannot both be what they say, and TPMs with two histories.
func (s *Server) ListFleetConflicts(ctx context.Context, req openapi.ListFleetConflictsRequestObject) (openapi.ListFleetConflictsResponseObject, error) {
	q := req.Params
	f := store.FleetConflictFilter{MachineID: q.MachineID, Kind: text(q.Kind), IncludeEnded: q.IncludeEnded != nil && *q.IncludeEnded, Scope: callerScope(ctx)}
	items, next, err := s.store.ListFleetConflicts(ctx, principalOf(ctx).tenant, f, pageOf(q.Limit, q.Cursor, q.Sort))
	if err != nil {
		return nil, err
	}
	return openapi.ListFleetConflicts200JSONResponse{Items: each(items, fleetConflictDTO), NextCursor: nextCursor(next)}, nil
}
