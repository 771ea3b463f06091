package store

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)






func (s *Store) AppraisalInputs(ctx context.Context, tenant, machineID uuid.UUID, now time.Time) (AppraisalInputs, error) {
	panic("")
}
func (s *Store) PolicyFor(ctx context.Context, tenant uuid.UUID, m Machine) (verifier.Policy, verifier.VersionRef, error) {
	panic("")
}
func (s *Store) RecordAppraisal(ctx context.Context, tenant uuid.UUID, rec AppraisalRecord) (Recorded, error) {
	panic("")
}

func (s *Store) HasBootLog(ctx context.Context, tenant uuid.UUID, digest []byte) (bool, error) {
	panic("")
}
func (s *Store) PutBootLog(ctx context.Context, tenant uuid.UUID, digest, raw []byte, now time.Time) error {
	panic("")
}
func (s *Store) GetBootLog(ctx context.Context, tenant uuid.UUID, digest []byte) ([]byte, error) {
	panic("")
}

func (s *Store) GetVerdict(ctx context.Context, tenant, id uuid.UUID) (Verdict, error) { panic("") }
func (s *Store) ListVerdicts(ctx context.Context, tenant uuid.UUID, f VerdictFilter, page Page) (items []Verdict, next string, err error) {
	panic("")
}
func (s *Store) GetEvidence(ctx context.Context, tenant, verdictID uuid.UUID) (StoredEvidence, error) {
	panic("")
}
func (s *Store) LastGenuineVerdict(ctx context.Context, tenant, machineID uuid.UUID) (Verdict, StoredEvidence, error) {
	panic("")
}


func (s *Store) ListAssessments(ctx context.Context, tenant uuid.UUID, f AssessmentFilter, page Page) (items []Assessment, next string, err error) {
	panic("")
}

func (s *Store) ListRecommendations(ctx context.Context, tenant uuid.UUID, f RecommendationFilter, page Page, now time.Time) (items []Recommendation, next string, err error) {
	panic("")
}
func (s *Store) GetRecommendation(ctx context.Context, tenant, id uuid.UUID, now time.Time) (Recommendation, error) {
	panic("")
}
func (s *Store) ExemptRecommendation(ctx context.Context, tenant, id uuid.UUID, e Exemption, now time.Time, actor Actor) (Recommendation, error) {
	panic("")
}

func (s *Store) ListAlerts(ctx context.Context, tenant uuid.UUID, f AlertFilter, page Page, now time.Time) (items []Alert, next string, err error) {
	panic("")
}
func (s *Store) GetAlert(ctx context.Context, tenant, id uuid.UUID, now time.Time) (Alert, error) {
	panic("")
}
func (s *Store) SetAlertStatus(ctx context.Context, tenant, id uuid.UUID, to string, now time.Time, actor Actor) (Alert, error) {
	panic("")
}


func (s *Store) CreateBaseline(ctx context.Context, tenant uuid.UUID, name string, selector verifier.Selector, v BaselineVersion, now time.Time, actor Actor) (BaselineVersion, error) {
	panic("")
}
func (s *Store) AddBaselineVersion(ctx context.Context, tenant, baselineID uuid.UUID, v BaselineVersion, now time.Time, actor Actor) (BaselineVersion, error) {
	panic("")
}
func (s *Store) PromoteVersion(ctx context.Context, tenant, baselineID uuid.UUID, n int, graceUntil *time.Time, now time.Time, actor Actor) (BaselineVersion, error) {
	panic("")
}
func (s *Store) RetireVersion(ctx context.Context, tenant, baselineID uuid.UUID, n int, now time.Time, actor Actor) (BaselineVersion, error) {
	panic("")
}
func (s *Store) GetBaseline(ctx context.Context, tenant, id uuid.UUID) (Baseline, error) { panic("") }
func (s *Store) GetBaselineVersion(ctx context.Context, tenant, id uuid.UUID, n int) (BaselineVersion, error) {
	panic("")
}
func (s *Store) ListBaselines(ctx context.Context, tenant uuid.UUID, page Page) (items []Baseline, next string, err error) {
	panic("")
}

func (s *Store) GetPolicy(ctx context.Context, tenant uuid.UUID, name string) (PolicyVersion, error) {
	panic("")
}
func (s *Store) PutPolicy(ctx context.Context, tenant uuid.UUID, name string, p verifier.Policy, now time.Time, actor Actor) (PolicyVersion, error) {
	panic("")
}
func (s *Store) ListPolicies(ctx context.Context, tenant uuid.UUID) ([]PolicyVersion, error) {
	panic("")
}


func (s *Store) Overview(ctx context.Context, tenant uuid.UUID, now time.Time) (Overview, error) {
	panic("")
}

