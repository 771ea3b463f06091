package ui

import (
	"encoding/json"
	"time"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// conflictView is the pair of an alert about two machines, or about two states of one TPM.
type conflictView struct {
	finding.Conflict
	Now    time.Time
	Sides  []conflictSide
	Proved string // in words; empty where it is no question
}

// conflictSide is one of the two.
type conflictSide struct {
	Title string
	ID    string // of the machine; empty where it is none, or where both sides are states of one
	State *finding.ConflictState
}

// conflictOf reads the pair out of an alert's details; nil for an alert about something else.
func conflictOf(a *store.Alert, now time.Time) *conflictView {
	if (a.Code != "identity_conflict" && a.Code != "rollback_detected") || len(a.Details) == 0 {
		return nil
	}
	v := &conflictView{Now: now}
	if err := json.Unmarshal(a.Details, &v.Conflict); err != nil {
		return nil // of another version of the service: the description says it in words
	}
	if p := v.Observed.Proved; p != nil {
		v.Proved = "No, it was only claimed"
		if *p {
			v.Proved = "Yes, with the key itself"
		}
	}
	if v.Kind.Rollback() {
		v.Sides = []conflictSide{{Title: "Earlier", State: v.First}, {Title: "Later", State: v.Second}}
		return v
	}
	for _, m := range v.Machines {
		v.Sides = append(v.Sides, conflictSide{Title: m.Name, ID: m.ID})
	}
	return v
}
