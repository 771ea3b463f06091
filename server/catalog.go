package server

import (
	"context"

	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

func catalogDTO(r *finding.Rule, system, platform string, open map[string]store.OpenFindings) openapi.CatalogEntry {
	out := openapi.CatalogEntry{
		Code: r.Code, DisplayName: r.Title, Area: openapi.CatalogArea(r.Area), Severity: openapi.Severity(r.Severity),
		Condition: r.Condition, Why: r.Why, Needs: orEmpty(r.Needs), FoundBy: textOrNull(r.FoundBy), RemediationSteps: map[string][]string{},
		Kinds:     each(r.Kinds, func(k finding.Kind) openapi.CatalogKind { return openapi.CatalogKind(k) }),
		Citations: each(r.Citations, func(c finding.Citation) openapi.CatalogCitation { return openapi.CatalogCitation(c) }),
	}
	for key, steps := range r.StepsFor(system, platform) {
		if key == "" {
			key = "all"
		}
		out.RemediationSteps[key] = steps
	}
	if open != nil {
		o := open[r.Code]
		out.Open = &openapi.CatalogOpen{Assessments: o.Assessments, Recommendations: o.Recommendations, Alerts: o.Alerts}
	}
	return out
}

// openFindings counts open findings where the caller asks for that; nil otherwise.
func (s *Server) openFindings(ctx context.Context, asked *bool) (map[string]store.OpenFindings, error) {
	scope := callerScope(ctx) // the rules are the same for everybody, the counts are not
	if !value(asked) {
		return nil, nil
	}
	return s.store.CountOpenFindings(ctx, principalOf(ctx).tenant, scope, s.now())
}

// ListCatalog lists the rules that findings follow from.
func (s *Server) ListCatalog(ctx context.Context, req openapi.ListCatalogRequestObject) (openapi.ListCatalogResponseObject, error) {
	q := req.Params
	open, err := s.openFindings(ctx, q.Counts)
	if err != nil {
		return nil, err
	}
	system, platform := text(q.Os), text(q.Platform)
	rules := finding.Catalog(finding.Filter{Kind: finding.Kind(text(q.Kind)), Severity: finding.Severity(text(q.Severity)), Area: text(q.Area), System: system, Platform: platform})
	return openapi.ListCatalog200JSONResponse{Items: each(rules, func(r *finding.Rule) openapi.CatalogEntry { return catalogDTO(r, system, platform, open) })}, nil
}

// GetCatalogEntry answers the rule of one code.
func (s *Server) GetCatalogEntry(ctx context.Context, req openapi.GetCatalogEntryRequestObject) (openapi.GetCatalogEntryResponseObject, error) {
	r := finding.By(req.Code)
	if r == nil {
		return nil, store.ErrNotFound
	}
	open, err := s.openFindings(ctx, req.Params.Counts)
	if err != nil {
		return nil, err
	}
	return openapi.GetCatalogEntry200JSONResponse(catalogDTO(r, "", "", open)), nil
}
