package server

import (
	"context"
	"fmt"
	"time"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
)

// GetOverview answers the fleet in numbers.
func (s *Server) GetOverview(ctx context.Context, _ openapi.GetOverviewRequestObject) (openapi.GetOverviewResponseObject, error) {
	o, err := s.store.Overview(ctx, principalOf(ctx).tenant, callerScope(ctx), s.now())
	if err != nil {
		return nil, err
	}
	out := openapi.GetOverview200JSONResponse{
		Machines: o.Machines, MachinesByStatus: o.MachinesByStatus, MachinesByPlatform: o.MachinesByPlatform,
		MachinesByAssurance: o.MachinesByAssurance, MachinesBySecurityType: o.MachinesBySecurityType, MachinesOverdue: o.MachinesOverdue,
		FailingScaleSets: o.FailingScaleSets, OpenAlertsBySeverity: o.OpenAlertsBySeverity, OpenAlertsByReason: o.OpenAlertsByReason,
		OpenAlertsByCode: o.OpenAlertsByCode, OldestOpenAlertAt: utcOrNull(o.OldestOpenAlert), SuppressedAlerts: o.SuppressedAlerts,
		RecommendationsByCode: o.RecommendationsByCode, RecommendationsBySeverity: o.RecommendationsBySev, RecommendationsExempt: o.RecommendationsExempt,
		AssessmentsByStatus: o.AssessmentsByStatus, OldestAttestationAt: utcOrNull(o.OldestAttestation), OldestAttestationMachineID: o.OldestAttestationOwner,
		StaleMachines: o.StaleMachines,
	}
	out.LastDay.Since = utc(o.Since)
	out.LastDay.VerdictsByStatus, out.LastDay.AlertsOpened, out.LastDay.AlertsClosed = o.RecentVerdicts, o.RecentAlertsOpened, o.RecentAlertsClosed
	return out, nil
}

// seriesSteps are the steps of time series; a step of hours goes back as far as hours are kept.
var seriesSteps = map[string]time.Duration{"1h": time.Hour, "6h": 6 * time.Hour, "1d": 24 * time.Hour, "7d": 7 * 24 * time.Hour}

const maxSeriesPoints = 1000

// GetSeries answers a time series.
func (s *Server) GetSeries(ctx context.Context, req openapi.GetSeriesRequestObject) (openapi.GetSeriesResponseObject, error) {
	q := req.Params
	r := store.SeriesRange{Until: s.now(), Step: seriesSteps["1h"]}
	step := openapi.SeriesStep("1h")
	if q.Step != nil {
		step = openapi.SeriesStep(*q.Step)
		r.Step = seriesSteps[string(step)]
	}
	if q.Until != nil {
		r.Until = *q.Until
	}
	r.Since = r.Until.Add(-24 * time.Hour)
	if q.Since != nil {
		r.Since = *q.Since
	}
	kept := store.KeepDays
	if r.Step%(24*time.Hour) != 0 {
		kept = store.KeepHours
	}
	switch {
	case !r.Since.Before(r.Until):
		return nil, refuseParameter(codeInvalidField, "since", "it must be before until")
	case r.Until.Sub(r.Since) > maxSeriesPoints*r.Step:
		return nil, refuseParameter(codeInvalidField, "since", fmt.Sprintf("there are more than %d steps of %s until then", maxSeriesPoints, step))
	case s.now().Sub(r.Since) > kept:
		return nil, refuseParameter(codeInvalidField, "since", fmt.Sprintf("counts for this step are kept for %d days", int(kept.Hours()/24)))
	case r.Until.Sub(s.now()) > 366*24*time.Hour:
		return nil, refuseParameter(codeInvalidField, "until", "it is more than a year ahead")
	}
	metric := store.Metric(q.Metric)
	points, err := s.store.Series(ctx, principalOf(ctx).tenant, metric, r)
	if err != nil {
		return nil, err
	}
	out := openapi.GetSeries200JSONResponse{Metric: openapi.SeriesMetric(metric), Step: step, Keys: metric.Keys()}
	for _, p := range points {
		out.Points = append(out.Points, openapi.SeriesPoint{At: utc(p.At), Counts: p.Counts, QuantileSeconds: quantilesOf(metric, p)})
	}
	return out, nil
}

func quantilesOf(m store.Metric, p store.SeriesPoint) *map[string]int64 {
	if m != store.TimeToAttest {
		return nil
	}
	out := map[string]int64{}
	for name, share := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99} {
		if seconds, ok := p.Quantile(share); ok {
			out[name] = seconds
		}
	}
	return &out
}
