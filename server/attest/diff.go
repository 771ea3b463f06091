package attest

import (
	"context"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// MaxChanges bounds the changes that a VersionDiff tells.
const MaxChanges = 2000

// VersionDiff is what a version changes against another.
type VersionDiff struct {
	From    int // 0: there is nothing to compare with, and everything is new
	To      int
	Changes []verifier.Deviation
	More    int // beyond MaxChanges
}

// DiffVersion compares a version with version from; where that is 0, with the one that it was made out of, else the active
// one, else the one before it. The error is an *Error: not_found.
func (s *Service) DiffVersion(ctx context.Context, tenant, baselineID uuid.UUID, n, from int) (VersionDiff, error) {
	b, err := s.store.GetBaseline(ctx, tenant, baselineID)
	if err != nil {
		return VersionDiff{}, fromStore("compare versions", err)
	}
	to := versionOf(b.Versions, n)
	if to == nil {
		return VersionDiff{}, errorf(CodeNotFound, "the baseline has no version %d", n)
	}
	before := comparedWith(b.Versions, to)
	if from != 0 {
		if before = versionOf(b.Versions, from); before == nil {
			return VersionDiff{}, errorf(CodeNotFound, "the baseline has no version %d", from)
		}
	}
	out := VersionDiff{To: n}
	after, err := s.compile(to)
	if err != nil {
		return VersionDiff{}, err
	}
	was := verifier.NoReference()
	if before != nil {
		out.From = before.Version
		if was, err = s.compile(before); err != nil {
			return VersionDiff{}, err
		}
	}
	out.Changes = baseline.Diff(was, after)
	if more := len(out.Changes) - MaxChanges; more > 0 {
		out.Changes, out.More = out.Changes[:MaxChanges], more
	}
	return out, nil
}

func versionOf(versions []store.BaselineVersion, n int) *store.BaselineVersion {
	for i := range versions {
		if versions[i].Version == n {
			return &versions[i]
		}
	}
	return nil
}

// comparedWith is the version that a reader wants to see the changes from; nil for the first.
func comparedWith(versions []store.BaselineVersion, v *store.BaselineVersion) *store.BaselineVersion {
	if v.BasedOn != nil {
		return versionOf(versions, *v.BasedOn)
	}
	for i := range versions {
		if other := &versions[i]; other.State == baseline.StateActive && other.Version != v.Version && v.State == baseline.StateDraft {
			return other
		}
	}
	return versionOf(versions, v.Version-1)
}
