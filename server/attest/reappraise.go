package attest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

const (
	// reappraisalLease is how long a page may take: whoever is not heard of for so long has died.
	reappraisalLease = 2 * time.Minute
	// A round that fails is tried again after a minute, and given up after so many rounds without a page.
	reappraisalPause    = time.Minute
	reappraisalAttempts = 10
)

// reappraiser is who supersedes verdicts, in the audit record.
var reappraiser = store.Actor{Kind: "system", ID: "reappraise"}

// Reappraise carries out the reappraisals that are waiting, one after the other, and says in words what it did: retroactive
// appraisal. Of each machine in scope the stored evidence is judged again by what is in force now; where that says
// something else than the standing verdict, a verdict is recorded that supersedes it, with findings and alerts as those
// of an attestation. No result is signed, and one that was signed before is good to its end, which is never further away
// than the policy's attestation interval.
//
// A crash, or an error, leaves a reappraisal at its last page: another worker, or the next call, goes on there.
func (s *Service) Reappraise(ctx context.Context, tenant uuid.UUID) (report string, err error) {
	for {
		job, err := s.store.ClaimReappraisal(ctx, tenant, reappraisalLease, s.now())
		if errors.Is(err, store.ErrNotFound) {
			return report, nil
		}
		if err != nil {
			return report, fmt.Errorf("reappraise: %w", err)
		}
		done, err := s.carryOut(ctx, tenant, job)
		if errors.Is(err, store.ErrConflict) {
			continue // another worker has it
		}
		if err != nil {
			return report, s.giveBack(ctx, tenant, &job, err)
		}
		if report != "" {
			report += "; "
		}
		report += fmt.Sprintf("%s %s: %d judged again, %d worse, %d better, %d otherwise, %d not judged, %d alerts opened", done.Cause.Kind, done.ID,
			done.Judged(), done.Worse, done.Better, done.Changed, done.NotJudged, done.AlertsOpened)
	}
}

// giveBack notes why a reappraisal did not go on, so that it is tried again.
func (s *Service) giveBack(ctx context.Context, tenant uuid.UUID, job *store.Reappraisal, why error) error {
	now, attempts, next := s.now(), reappraisalAttempts, s.now().Add(reappraisalPause)
	if ctx.Err() != nil { // the service ends: it is nobody's fault, and the next to come goes on at once
		attempts, next = int(^uint32(0)>>1), now
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(fmt.Errorf("reappraise: %w", why), s.store.FailReappraisal(ctx, tenant, job.ID, why.Error(), attempts, next, now))
}

// carryOut judges and records page by page, from where the reappraisal stands.
func (s *Service) carryOut(ctx context.Context, tenant uuid.UUID, job store.Reappraisal) (store.Reappraisal, error) {
	for {
		done, err := s.reappraisePage(ctx, tenant, &job)
		if err != nil || done.State == "done" {
			return done, err
		}
		job = done
	}
}

func (s *Service) reappraisePage(ctx context.Context, tenant uuid.UUID, job *store.Reappraisal) (store.Reappraisal, error) {
	now := s.now()
	page, err := s.store.StoredJudgements(ctx, tenant, job.Scope, job.After(), trialPage, true, now)
	if err != nil {
		return store.Reappraisal{}, err
	}
	judged, err := s.judgePage(ctx, tenant, page, assumption{}, now)
	if err != nil {
		return store.Reappraisal{}, err
	}
	results := make([]store.Rejudged, len(page))
	for i := range page {
		results[i] = store.Rejudged{Judgement: &page[i], NotJudged: string(judged[i].why)}
		if judged[i].appraisal == nil {
			continue
		}
		before, err := s.history(ctx, judged[i].request, judged[i].appraisal)
		if err != nil {
			return store.Reappraisal{}, err
		}
		if err := s.explainKnown(ctx, tenant, judged[i].appraisal.Deviations); err != nil {
			return store.Reappraisal{}, err
		}
		if results[i].Record = judged[i].request.superseding(&page[i], judged[i].appraisal, before); results[i].Record != nil {
			results[i].Record.JudgedBy = func() ([]byte, error) { return s.judgedBy(judged[i].request) }
		}
	}
	return s.store.RecordReappraisals(ctx, tenant, job, results, len(page) < trialPage, reappraisalLease, now, reappraiser)
}

// superseding is the record of a judgement of stored evidence; nil where it says what the standing verdict says. Only
// what differs by the number of the policy's version is the same.
func (a *appraisal) superseding(j *store.StoredJudgement, judged *verifier.Appraisal, h history) *store.AppraisalRecord {
	c := a.derive(judged, h)
	same := *judged
	same.Policy = j.Policy
	if print := a.fingerprint(&same, &c); string(print[:]) == string(j.Fingerprint) {
		return nil
	}
	r := &store.AppraisalRecord{
		MachineID: a.machineID, KeyID: j.KeyID, ReceivedAt: a.now, Appraisal: judged, Fingerprint: a.fingerprint(judged, &c),
		Trigger: a.trigger(), EventLogHash: a.logDigest, EvidenceDigest: a.bodyDigest, Findings: c.findings, Observed: c.observed, Actor: reappraiser,
	}
	if judged.Platform != nil {
		a.namePlatform(judged, r)
	}
	return r
}
