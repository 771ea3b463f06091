package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/verifier"
)

// AlertDecision is what somebody decided about the deviations behind an alert.
type AlertDecision struct {
	ID              uuid.UUID
	AlertID         uuid.UUID
	Decision        string // approved, refused
	VerdictID       uuid.UUID
	DeviationDigest []byte // SHA-256 over the set of deviations
	Comment         string
	By              string // principal, kind:id
	At              time.Time
	// BaselineID and Version are what an approval made; nil for a refusal.
	BaselineID *uuid.UUID
	Version    *int
	// Baseline is its name, and State its state now.
	Baseline, State *string
}

// The decisions about an alert.
const (
	DecisionApproved = "approved"
	DecisionRefused  = "refused"
)

// RefusedBeforeError tells that somebody has refused the same deviations.
type RefusedBeforeError struct{ What string }

// Error implements error.
func (e *RefusedBeforeError) Error() string { return e.What }

const selectDecisions = `SELECT d.decision_id, d.alert_id, d.decision, d.verdict_id, d.deviation_digest, d.comment, d.decided_by, d.decided_at,
		d.baseline_id, d.version, b.name, v.state
	FROM alert_decisions d
	LEFT JOIN baselines b ON b.tenant_id = d.tenant_id AND b.baseline_id = d.baseline_id
	LEFT JOIN baseline_versions v ON v.tenant_id = d.tenant_id AND v.baseline_id = d.baseline_id AND v.version = d.version
	WHERE d.tenant_id = $1 `

func readDecisions(ctx context.Context, db querier, where string, args ...any) ([]AlertDecision, error) {
	rows, err := db.Query(ctx, selectDecisions+where, args...)
	if err != nil {
		return nil, fmt.Errorf("read decisions: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[AlertDecision])
	if err != nil {
		return nil, fmt.Errorf("read decisions: %w", err)
	}
	return out, nil
}

// AlertDecisions lists what was decided about an alert, newest first.
func (s *Store) AlertDecisions(ctx context.Context, tenant, alertID uuid.UUID) ([]AlertDecision, error) {
	ctx = withTenant(ctx, tenant)
	return readDecisions(ctx, s.pool, `AND d.alert_id = $2 ORDER BY d.decision_id DESC`, pgUUID(tenant), pgUUID(alertID))
}

// Refusal is the refusal of a set of deviations, on whatever machine, that no approval has followed; nil if there is none.
func (s *Store) Refusal(ctx context.Context, tenant uuid.UUID, deviations []byte) (*AlertDecision, error) {
	ctx = withTenant(ctx, tenant)
	return lastRefusal(ctx, s.pool, tenant, deviations)
}

func lastRefusal(ctx context.Context, db querier, tenant uuid.UUID, deviations []byte) (*AlertDecision, error) {
	last, err := readDecisions(ctx, db, `AND d.deviation_digest = $2 ORDER BY d.decision_id DESC LIMIT 1`, pgUUID(tenant), deviations)
	if err != nil || len(last) == 0 || last[0].Decision != DecisionRefused {
		return nil, err
	}
	return &last[0], nil
}

// Decision is what a person decides about an alert. VerdictID is the verdict that was looked at.
type Decision struct {
	AlertID, VerdictID uuid.UUID
	DeviationDigest    []byte
	Comment            string
}

// AlertApproval is a version that is to be made of what was measured.
type AlertApproval struct {
	Decision
	Force bool // also where the same deviations were refused before
	// BaselineID is the baseline that gets a version, and BasedOn its active version that the reference values were made
	// out of; nil: a baseline of Name and Selector is made.
	BaselineID *uuid.UUID
	BasedOn    int
	Name       string
	Selector   verifier.Selector
	Version    BaselineVersion // Reference and Provenance are taken
	Activate   bool            // at once, or as soon as the second person has approved
	Grace      Grace           // for the version that it replaces
}

// decide locks an open alert and makes sure that it still is about what was decided.
func decide(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, d *Decision, now time.Time) (Alert, error) {
	a, err := scanAlert(tx.QueryRow(ctx, selectAlert+` FOR UPDATE OF a`, pgUUID(tenant), now, pgUUID(d.AlertID)))
	if err != nil {
		return a, notFound(err, "alert", d.AlertID)
	}
	if a.Status != "active" && a.Status != "in_progress" {
		return a, &VersionChangedError{fmt.Sprintf("the alert is %s, since %s", a.Status, a.UpdatedAt.UTC().Format(time.RFC3339))}
	}
	if a.VerdictID != d.VerdictID {
		return a, &VersionChangedError{fmt.Sprintf("the machine has attested otherwise since: the alert is of verdict %s now", a.VerdictID)}
	}
	made, err := readDecisions(ctx, tx, `AND d.alert_id = $2 AND d.verdict_id = $3 ORDER BY d.decision_id DESC`, pgUUID(tenant), pgUUID(d.AlertID), pgUUID(d.VerdictID))
	if err != nil {
		return a, err
	}
	for i := range made {
		if m := &made[i]; m.Decision == DecisionApproved && m.State != nil && *m.State != "retired" {
			return a, &VersionChangedError{fmt.Sprintf("the alert was approved by %s at %s: baseline %q version %d is %s",
				m.By, m.At.UTC().Format(time.RFC3339), *m.Baseline, *m.Version, *m.State)}
		}
	}
	return a, nil
}

const insertDecision = `INSERT INTO alert_decisions
	(tenant_id, alert_id, decision_id, decision, verdict_id, deviation_digest, comment, decided_by, decided_at, baseline_id, version)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`

// RefuseAlert records that what was measured is not to be allowed. The alert stays as it is. ErrNotFound;
// *VersionChangedError where the alert is closed, of another verdict, or approved.
func (s *Store) RefuseAlert(ctx context.Context, tenant uuid.UUID, d Decision, now time.Time, actor Actor) error {
	ctx = withTenant(ctx, tenant)
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		if _, err := decide(ctx, tx, tenant, &d, now); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, insertDecision, tenant, d.AlertID, newID(now), DecisionRefused, d.VerdictID, d.DeviationDigest, d.Comment,
			actor.String(), now, nil, nil); err != nil {
			return err
		}
		if _, err := noteAlert(ctx, tx, tenant, d.AlertID, DecisionRefused, d.Comment, now, actor); err != nil {
			return err
		}
		return audit(ctx, tx, tenant, now, actor, "alert.refuse", "alert:"+d.AlertID.String(), nil,
			map[string]any{"verdict_id": d.VerdictID, "comment": d.Comment, "deviations_sha256": fmt.Sprintf("%x", d.DeviationDigest)})
	})
	if err != nil {
		return fmt.Errorf("refuse an alert: %w", err)
	}
	return nil
}

// ApproveAlert makes a version of what was measured. Without the two-person rule it is activated where that is asked
// for; with it the version is a draft that waits for the second person (ApproveVersion). The alert is in progress
// until the machine's next evidence ends it.
//
// Errors: ErrNotFound; *VersionChangedError where the alert is closed, of another verdict or approved, or BasedOn is no
// longer the active version; *RefusedBeforeError; ErrConflict where the name is taken.
func (s *Store) ApproveAlert(ctx context.Context, tenant uuid.UUID, p AlertApproval, now time.Time, actor Actor) (BaselineVersion, error) {
	ctx = withTenant(ctx, tenant)
	v := p.Version
	v.State, v.Origin = "draft", "captured"
	var err error
	if p.BaselineID == nil {
		v.Name, v.Selector = p.Name, p.Selector
		err = s.inTx(ctx, func(tx pgx.Tx) error {
			if len(p.Selector.MachineIDs) == 0 {
				return errors.New("a baseline that an approval makes names its machine")
			}
			return s.approveAlert(ctx, tx, tenant, &p, &v, now, actor, func() error {
				v, err = createBaseline(ctx, tx, tenant, v, now, actor)
				return err
			})
		})
	} else {
		err = s.changeBaseline(ctx, tenant, *p.BaselineID, now, func(tx pgx.Tx, b Baseline, newest int) error {
			v.Name, v.Selector, v.BasedOn = b.Name, b.Selector, &p.BasedOn
			active, err := activeVersion(ctx, tx, tenant, b.ID)
			if err != nil {
				return err
			}
			if active == nil || active.Version != p.BasedOn {
				based, err := lockedVersion(ctx, tx, tenant, b.ID, p.BasedOn)
				if err != nil {
					return err
				}
				return &VersionChangedError{"the baseline has changed since: " + based.happened()}
			}
			return s.approveAlert(ctx, tx, tenant, &p, &v, now, actor, func() error {
				v, err = addVersion(ctx, tx, tenant, b, newest, v, now, actor)
				return err
			})
		})
	}
	if isViolation(err, "baselines_name") {
		err = &StateError{fmt.Sprintf("a baseline has the name %q", p.Name)}
	}
	if err != nil {
		return BaselineVersion{}, fmt.Errorf("approve an alert: %w", err)
	}
	return v, nil
}

// approveAlert is the part that both ways share; insert writes v as a draft.
func (s *Store) approveAlert(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, p *AlertApproval, v *BaselineVersion, now time.Time, actor Actor, insert func() error) error {
	two, err := s.twoPersons(ctx, tx, tenant, v.Selector)
	if err != nil {
		return err
	}
	a, err := decide(ctx, tx, tenant, &p.Decision, now)
	if err != nil {
		return err
	}
	if !p.Force {
		refused, err := lastRefusal(ctx, tx, tenant, p.DeviationDigest)
		if err != nil {
			return err
		}
		if refused != nil {
			return &RefusedBeforeError{refused.Told()}
		}
	}
	if two && p.Activate {
		v.Proposal = &Proposal{Activate: true, Grace: p.Grace, AlertID: &p.AlertID}
	}
	if err := insert(); err != nil {
		return err
	}
	v.NeedsSecond = two
	if !two && p.Activate {
		if err := activate(ctx, tx, tenant, v, p.Grace, now, actor); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, insertDecision, tenant, p.AlertID, newID(now), DecisionApproved, p.VerdictID, p.DeviationDigest, p.Comment,
		actor.String(), now, v.BaselineID, v.Version); err != nil {
		return err
	}
	if _, err := noteAlert(ctx, tx, tenant, p.AlertID, DecisionApproved, p.Comment, now, actor); err != nil {
		return err
	}
	if a.Status != "in_progress" {
		if err := setAlerts(ctx, tx, tenant, []uuid.UUID{p.AlertID}, AlertChange{To: "in_progress"}, now, actor); err != nil {
			return err
		}
	}
	return audit(ctx, tx, tenant, now, actor, "alert.approve", "alert:"+p.AlertID.String(), map[string]any{"status": a.Status},
		map[string]any{"status": "in_progress", "verdict_id": p.VerdictID, "comment": p.Comment, "version": baselineTarget(*v), "state": v.State,
			"forced": p.Force, "deviations_sha256": fmt.Sprintf("%x", p.DeviationDigest)})
}

// Told says who refused, when and why.
func (d *AlertDecision) Told() string {
	text := fmt.Sprintf("the same deviations were refused by %s at %s", d.By, d.At.UTC().Format(time.RFC3339))
	if d.Comment != "" {
		text += ": " + d.Comment
	}
	return text
}
