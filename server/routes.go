package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"

	"github.com/assay-verifier/assay/openapi"
)

// route is one operation: the permission that it needs, and what it is to a principal that sees only some machines. Both
// are repeated from the contract on purpose: New compares the two, so that neither can be loosened alone.
type route struct {
	method, path string
	needs        permission
	scope        scoping
	handle       http.HandlerFunc
}

// routes is the whole public API: one line an operation of the contract.
func (s *Server) routes() []route {
	api := openapi.ServerInterfaceWrapper{
		Handler: openapi.NewStrictHandlerWithOptions(s, nil, openapi.StrictHTTPServerOptions{
			RequestErrorHandlerFunc:  s.failBinding,
			ResponseErrorHandlerFunc: s.fail,
		}),
		ErrorHandlerFunc: s.failBinding,
	}
	return []route{
		{"POST", "/v1/enrollments", permEnrol, scopeSame, s.createEnrollment},
		{"POST", "/v1/enrollments/{enrollment_id}/activation", permPublic, scopeSame, api.ActivateEnrollment},
		{"POST", "/v1/machines/{machine_id}/challenges", permAgent, scopeMachine, api.CreateChallenge},
		{"POST", "/v1/machines/{machine_id}/evidence", permAgent, scopeMachine, s.submitEvidence},
		{"PUT", "/v1/machines/{machine_id}/event-logs/{sha256}", permAgent, scopeMachine, s.putEventLog},

		{"GET", "/v1/machines", permMachinesRead, scopeFiltered, api.ListMachines},
		{"POST", "/v1/machines", permMachinesWrite, scopeForbidden, api.UpsertMachine},
		{"POST", "/v1/machines/batch", permMachinesWrite, scopeForbidden, api.UpsertMachines},
		{"GET", "/v1/machines/{machine_id}", permMachinesRead, scopeMachine, api.GetMachine},
		{"GET", "/v1/machines/{machine_id}/verdicts", permVerdictsRead, scopeMachine, api.ListMachineVerdicts},
		{"POST", "/v1/machines/{machine_id}/baseline", permCapture, scopeMachine, api.CaptureBaseline},
		{"POST", "/v1/machines/{machine_id}/attestation-keys", permKeysWrite, scopeMachine, api.VouchAttestationKey},
		{"DELETE", "/v1/machines/{machine_id}/attestation-keys", permKeysWrite, scopeMachine, api.RevokeAttestationKey},
		{"GET", "/v1/verdicts", permVerdictsRead, scopeFiltered, api.ListVerdicts},
		{"GET", "/v1/verdicts/{verdict_id}", permVerdictsRead, scopeVerdict, api.GetVerdict},
		{"GET", "/v1/verdicts/{verdict_id}/event-log", permVerdictsRead, scopeVerdict, api.GetVerdictEventLog},

		{"GET", "/v1/assessments", permFindingsRead, scopeFiltered, api.ListAssessments},
		{"GET", "/v1/recommendations", permFindingsRead, scopeFiltered, api.ListRecommendations},
		{"GET", "/v1/recommendations/{recommendation_id}", permFindingsRead, scopeRecommendation, api.GetRecommendation},
		{"POST", "/v1/recommendations/{recommendation_id}/exempt", permExempt, scopeRecommendation, api.ExemptRecommendation},
		{"POST", "/v1/recommendations/{recommendation_id}/unexempt", permExempt, scopeRecommendation, api.UnexemptRecommendation},
		{"GET", "/v1/recommendations/{recommendation_id}/history", permFindingsRead, scopeRecommendation, api.ListRecommendationHistory},
		{"GET", "/v1/catalog", permFindingsRead, scopeFiltered, api.ListCatalog},
		{"GET", "/v1/catalog/{code}", permFindingsRead, scopeFiltered, api.GetCatalogEntry},
		{"GET", "/v1/alerts", permFindingsRead, scopeFiltered, api.ListAlerts},
		{"GET", "/v1/alerts/{alert_id}", permFindingsRead, scopeAlert, api.GetAlert},
		{"POST", "/v1/alerts/{alert_id}/dismiss", permAlertsWrite, scopeAlert, api.DismissAlert},
		{"POST", "/v1/alerts/{alert_id}/resolve", permAlertsWrite, scopeAlert, api.ResolveAlert},
		{"POST", "/v1/alerts/{alert_id}/activate", permAlertsWrite, scopeAlert, api.ActivateAlert},
		{"POST", "/v1/alerts/{alert_id}/in-progress", permAlertsWrite, scopeAlert, api.ProgressAlert},
		{"GET", "/v1/alerts/{alert_id}/approval", permFindingsRead, scopeAlert, api.PreviewApproval},
		{"POST", "/v1/alerts/{alert_id}/approve", permApprove, scopeAlert, api.ApproveAlert},
		{"POST", "/v1/alerts/{alert_id}/refuse", permAlertsRefuse, scopeAlert, api.RefuseAlert},
		{"GET", "/v1/alerts/{alert_id}/occurrences", permFindingsRead, scopeAlert, api.ListAlertOccurrences},
		{"GET", "/v1/alerts/{alert_id}/history", permFindingsRead, scopeAlert, api.ListAlertHistory},
		{"POST", "/v1/alerts/{alert_id}/comments", permAlertsWrite, scopeAlert, api.CommentAlert},
		{"GET", "/v1/incidents", permFindingsRead, scopeFiltered, api.ListIncidents},
		{"GET", "/v1/incidents/{incident_id}", permFindingsRead, scopeIncident, api.GetIncident},
		{"GET", "/v1/incidents/{incident_id}/members", permFindingsRead, scopeIncident, api.ListIncidentMembers},
		{"POST", "/v1/incidents/{incident_id}/dismiss", permAlertsWrite, scopeIncident, api.DismissIncident},
		{"POST", "/v1/incidents/{incident_id}/resolve", permAlertsWrite, scopeIncident, api.ResolveIncident},
		{"POST", "/v1/incidents/{incident_id}/in-progress", permAlertsWrite, scopeIncident, api.ProgressIncident},
		{"POST", "/v1/incidents/{incident_id}/comments", permAlertsWrite, scopeIncident, api.CommentIncident},
		{"GET", "/v1/suppression-rules", permFindingsRead, scopeForbidden, api.ListSuppressionRules},
		{"POST", "/v1/suppression-rules", permSuppress, scopeForbidden, api.CreateSuppressionRule},
		{"POST", "/v1/suppression-rules/simulate", permFindingsRead, scopeForbidden, api.SimulateSuppressionRule},
		{"GET", "/v1/suppression-rules/{rule_id}", permFindingsRead, scopeForbidden, api.GetSuppressionRule},
		{"PATCH", "/v1/suppression-rules/{rule_id}", permSuppress, scopeForbidden, api.UpdateSuppressionRule},
		{"DELETE", "/v1/suppression-rules/{rule_id}", permSuppress, scopeForbidden, api.DeleteSuppressionRule},
		{"GET", "/v1/overview", permFindingsRead, scopeFiltered, api.GetOverview},
		{"GET", "/v1/fleet/conflicts", permFindingsRead, scopeFiltered, api.ListFleetConflicts},
		{"GET", "/v1/overview/series", permFindingsRead, scopeForbidden, api.GetSeries},
		{"GET", "/v1/reappraisals", permVerdictsRead, scopeForbidden, api.ListReappraisals},
		{"POST", "/v1/reappraisals", permReappraise, scopeForbidden, api.CreateReappraisal},
		{"GET", "/v1/reappraisals/{reappraisal_id}", permVerdictsRead, scopeForbidden, api.GetReappraisal},
		{"GET", "/v1/reappraisals/{reappraisal_id}/machines", permVerdictsRead, scopeForbidden, api.ListReappraisalMachines},

		{"GET", "/v1/baselines", permBaselinesRead, scopeFiltered, api.ListBaselines},
		{"POST", "/v1/baselines", permBaselinesWrite, scopeFiltered, api.CreateBaseline},
		{"POST", "/v1/baselines/import", permBaselinesWrite, scopeFiltered, s.importBaseline},
		{"GET", "/v1/baselines/{baseline_id}", permBaselinesRead, scopeBaseline, api.GetBaseline},
		{"GET", "/v1/baselines/{baseline_id}/rollout", permBaselinesStudy, scopeBaseline, api.GetBaselineRollout},
		{"GET", "/v1/baselines/{baseline_id}/versions", permBaselinesRead, scopeBaseline, api.ListBaselineVersions},
		{"POST", "/v1/baselines/{baseline_id}/versions", permBaselinesWrite, scopeBaseline, api.CreateBaselineVersion},
		{"GET", "/v1/baselines/{baseline_id}/versions/{version}", permBaselinesRead, scopeBaseline, api.GetBaselineVersion},
		{"GET", "/v1/baselines/{baseline_id}/versions/{version}/export", permBaselinesStudy, scopeBaseline, s.exportBaselineVersion},
		{"POST", "/v1/baselines/{baseline_id}/versions/{version}/promote", permPromote, scopeBaseline, api.PromoteBaselineVersion},
		{"POST", "/v1/baselines/{baseline_id}/versions/{version}/retire", permApprove, scopeBaseline, api.RetireBaselineVersion},
		{"POST", "/v1/baselines/{baseline_id}/versions/{version}/dry-run", permBaselinesRead, scopeBaseline, s.dryRunVersion},
		{"POST", "/v1/baselines/dry-run", permBaselinesRead, scopeFiltered, s.dryRunValues},
		{"POST", "/v1/baselines/{baseline_id}/versions/{version}/approve", permApprove, scopeBaseline, api.ApproveBaselineVersion},
		{"GET", "/v1/baselines/{baseline_id}/versions/{version}/diff", permBaselinesStudy, scopeBaseline, api.DiffBaselineVersion},

		{"GET", "/v1/join-tokens", permJoinTokens, scopeForbidden, api.ListJoinTokens},
		{"POST", "/v1/join-tokens", permJoinTokens, scopeForbidden, api.CreateJoinToken},
		{"DELETE", "/v1/join-tokens/{token_id}", permJoinTokens, scopeForbidden, api.RevokeJoinToken},
		{"GET", "/v1/api-tokens", permTokensWrite, scopeFiltered, api.ListAPITokens},
		{"POST", "/v1/api-tokens", permTokensWrite, scopeFiltered, api.CreateAPIToken},
		{"DELETE", "/v1/api-tokens/{token_id}", permTokensWrite, scopeFiltered, api.RevokeAPIToken},
		{"GET", "/v1/webhooks", permConfigRead, scopeForbidden, api.ListWebhooks},
		{"POST", "/v1/webhooks", permChannelsWrite, scopeForbidden, api.CreateWebhook},
		{"GET", "/v1/webhooks/{webhook_id}", permConfigRead, scopeForbidden, api.GetWebhook},
		{"PUT", "/v1/webhooks/{webhook_id}", permChannelsWrite, scopeForbidden, api.PutWebhook},
		{"DELETE", "/v1/webhooks/{webhook_id}", permChannelsWrite, scopeForbidden, api.DeleteWebhook},
		{"POST", "/v1/webhooks/{webhook_id}/test", permChannelsWrite, scopeForbidden, api.TestWebhook},
		{"POST", "/v1/webhooks/{webhook_id}/rotate-secret", permChannelsWrite, scopeForbidden, api.RotateWebhookSecret},
		{"GET", "/v1/notification-channels", permConfigRead, scopeForbidden, api.ListNotificationChannels},
		{"POST", "/v1/notification-channels", permChannelsWrite, scopeForbidden, api.CreateNotificationChannel},
		{"GET", "/v1/notification-channels/{channel_id}", permConfigRead, scopeForbidden, api.GetNotificationChannel},
		{"PUT", "/v1/notification-channels/{channel_id}", permChannelsWrite, scopeForbidden, api.PutNotificationChannel},
		{"DELETE", "/v1/notification-channels/{channel_id}", permChannelsWrite, scopeForbidden, api.DeleteNotificationChannel},
		{"POST", "/v1/notification-channels/{channel_id}/test", permChannelsWrite, scopeForbidden, api.TestNotificationChannel},
		{"POST", "/v1/notification-channels/{channel_id}/replay", permChannelsWrite, scopeForbidden, api.ReplayNotificationChannel},
		{"GET", "/v1/deliveries", permConfigRead, scopeForbidden, api.ListDeliveries},
		{"GET", "/v1/deliveries/{delivery_id}", permConfigRead, scopeForbidden, api.GetDelivery},
		{"POST", "/v1/deliveries/{delivery_id}/replay", permChannelsWrite, scopeForbidden, api.ReplayDelivery},
		{"GET", "/v1/identity-providers", permConfigRead, scopeForbidden, api.ListIdentityProviders},
		{"POST", "/v1/identity-providers", permIdentityWrite, scopeForbidden, api.CreateIdentityProvider},
		{"GET", "/v1/identity-providers/{provider_id}", permConfigRead, scopeForbidden, api.GetIdentityProvider},
		{"PUT", "/v1/identity-providers/{provider_id}", permIdentityWrite, scopeForbidden, api.PutIdentityProvider},
		{"DELETE", "/v1/identity-providers/{provider_id}", permIdentityWrite, scopeForbidden, api.DeleteIdentityProvider},
		{"GET", "/v1/pipeline-rules", permConfigRead, scopeForbidden, api.ListPipelineRules},
		{"POST", "/v1/pipeline-rules", permIdentityWrite, scopeForbidden, api.CreatePipelineRule},
		{"POST", "/v1/pipeline-rules/test", permConfigRead, scopeForbidden, api.TestPipelineRules},
		{"GET", "/v1/pipeline-rules/{rule_id}", permConfigRead, scopeForbidden, api.GetPipelineRule},
		{"PUT", "/v1/pipeline-rules/{rule_id}", permIdentityWrite, scopeForbidden, api.PutPipelineRule},
		{"DELETE", "/v1/pipeline-rules/{rule_id}", permIdentityWrite, scopeForbidden, api.DeletePipelineRule},
		{"GET", "/v1/roles", permConfigRead, scopeSame, api.ListRoles},
		{"GET", "/v1/role-bindings", permRolesRead, scopeForbidden, api.ListRoleBindings},
		{"POST", "/v1/role-bindings", permRolesWrite, scopeForbidden, api.CreateRoleBinding},
		{"GET", "/v1/role-bindings/{binding_id}", permRolesRead, scopeForbidden, api.GetRoleBinding},
		{"PUT", "/v1/role-bindings/{binding_id}", permRolesWrite, scopeForbidden, api.PutRoleBinding},
		{"DELETE", "/v1/role-bindings/{binding_id}", permRolesWrite, scopeForbidden, api.DeleteRoleBinding},
		{"GET", "/v1/trust-anchors", permConfigRead, scopeForbidden, api.ListTrustAnchors},
		{"POST", "/v1/trust-anchors", permTrustWrite, scopeForbidden, api.CreateTrustAnchor},
		{"DELETE", "/v1/trust-anchors/{anchor_id}", permTrustWrite, scopeForbidden, api.DeleteTrustAnchor},
		{"POST", "/v1/trust-anchors/{anchor_id}/disable", permTrustWrite, scopeForbidden, api.DisableTrustAnchor},
		{"POST", "/v1/trust-anchors/{anchor_id}/enable", permTrustWrite, scopeForbidden, api.EnableTrustAnchor},
		{"GET", "/v1/trust-anchors/{anchor_id}/machines", permConfigRead, scopeForbidden, api.ListTrustAnchorMachines},
		{"GET", "/v1/trust-anchors/{anchor_id}/baselines", permConfigRead, scopeForbidden, api.ListTrustAnchorBaselines},
		{"GET", "/v1/collateral", permConfigRead, scopeForbidden, api.ListCollateral},
		{"PUT", "/v1/collateral/{kind}", permTrustWrite, scopeForbidden, s.putCollateral},
		{"GET", "/v1/collateral/{kind}/{name}", permConfigRead, scopeForbidden, s.getCollateral},
		{"DELETE", "/v1/collateral/{kind}/{name}", permTrustWrite, scopeForbidden, s.deleteCollateral},
		{"GET", "/v1/policies", permConfigRead, scopeForbidden, api.ListPolicies},
		{"POST", "/v1/policies/test", permConfigRead, scopeForbidden, s.testPolicy},
		{"GET", "/v1/policies/{name}", permConfigRead, scopeForbidden, api.GetPolicy},
		{"PUT", "/v1/policies/{name}", permPoliciesWrite, scopeForbidden, api.PutPolicy},
		{"GET", "/v1/policies/{name}/versions", permConfigRead, scopeForbidden, api.ListPolicyVersions},
		{"GET", "/v1/policy-templates", permConfigRead, scopeSame, api.ListPolicyTemplates},
		{"GET", "/v1/revocations", permConfigRead, scopeForbidden, api.ListRevocations},
		{"PUT", "/v1/revocations/{kind}", permTrustWrite, scopeForbidden, s.putRevocations},
		{"GET", "/v1/revocations/entries/{sha256}", permConfigRead, scopeForbidden, api.GetRevokedEntry},
		{"GET", "/v1/retention", permConfigRead, scopeSame, api.GetRetention},
		{"GET", "/v1/quotas", permConfigRead, scopeForbidden, api.GetQuotas},
		{"PUT", "/v1/retention", permRetention, scopeForbidden, api.PutRetention},
		{"GET", "/v1/audit-events", permAuditRead, scopeForbidden, api.ListAuditEvents},
		{"GET", "/v1/audit-events/{event_id}", permAuditRead, scopeForbidden, api.GetAuditEvent},
		{"GET", "/v1/audit-checkpoints", permAuditRead, scopeForbidden, api.ListAuditCheckpoints},
		{"POST", "/v1/audit-checkpoints", permAuditExport, scopeForbidden, api.CreateAuditCheckpoint},
		{"GET", "/v1/audit-checkpoints/{checkpoint_id}", permAuditRead, scopeForbidden, api.GetAuditCheckpoint},
		{"GET", "/v1/audit-bundle", permAuditExport, scopeForbidden, s.getAuditBundle},

		{"POST", "/v1/machines/{machine_id}/results", permResults, scopeMachine, api.CreateResult},
		{"POST", "/v1/results/introspect", permIntrospect, scopeFiltered, api.IntrospectResult},
		{"GET", "/v1/signing-keys", permConfigRead, scopeSame, api.ListSigningKeys},
		{"POST", "/v1/signing-keys/rotate", permSigningKeys, scopeForbidden, api.RotateSigningKeys},
		{"POST", "/v1/signing-keys/{key_id}/revoke", permSigningKeys, scopeForbidden, api.RevokeSigningKey},

		{"GET", "/.well-known/jwks.json", permPublic, scopeSame, s.getJWKS},
		{"GET", "/.well-known/openid-configuration", permPublic, scopeSame, s.getOpenIDConfiguration},
		{"GET", "/healthz", permPublic, scopeSame, api.GetHealth},
		{"GET", "/readyz", permPublic, scopeSame, api.GetReadiness},
		{"GET", "/openapi.yaml", permPublic, scopeSame, s.getOpenAPI},
		{"GET", "/docs", permPublic, scopeSame, s.getDocs},
	}
}

// buildHandler mounts the routes behind their guards.
func (s *Server) buildHandler(doc *openapi3.T) (http.Handler, error) {
	router := chi.NewRouter()
	router.Use(s.telemetry)
	router.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, refuse(codeNotFound, "there is no such path"))
	})
	router.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		allowed := allowedMethods(router, r.URL.Path)
		s.fail(w, r, refuse(codeMethodNotAllowed, "this path takes "+allowed).with("Allow", allowed))
	})
	mounted := map[string]bool{}
	for _, rt := range s.routes() {
		op := operationOf(doc, rt.method, rt.path)
		if op == nil {
			return nil, fmt.Errorf("server: %s %s is not in openapi.yaml", rt.method, rt.path)
		}
		g, err := s.newGuard(rt, op, doc)
		if err != nil {
			return nil, err
		}
		router.Method(rt.method, rt.path, g)
		mounted[rt.method+" "+rt.path] = true
		if rt.path == "/healthz" || rt.path == "/readyz" { // load balancers probe with HEAD; net/http leaves the body out
			router.Method(http.MethodHead, rt.path, g)
		}
	}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			if !mounted[method+" "+path] {
				return nil, fmt.Errorf("server: %s %s of openapi.yaml has no route", method, path)
			}
		}
	}
	s.mountPages(router)
	return s.traced(router), nil
}

func operationOf(doc *openapi3.T, method, path string) *openapi3.Operation {
	item := doc.Paths.Find(path)
	if item == nil {
		return nil
	}
	return item.GetOperation(method)
}

func allowedMethods(router chi.Routes, path string) string {
	var allowed []string
	for _, m := range []string{"DELETE", "GET", "HEAD", "PATCH", "POST", "PUT"} {
		if router.Match(chi.NewRouteContext(), m, path) {
			allowed = append(allowed, m)
		}
	}
	return strings.Join(allowed, ", ")
}

// failBinding answers what the generated code could not bind. The guard has checked the request against
// the contract before, so this is only reached where the two disagree about a parameter's form.
func (s *Server) failBinding(w http.ResponseWriter, r *http.Request, err error) {
	var format *openapi.InvalidParamFormatError
	var required *openapi.RequiredParamError
	switch {
	case errors.As(err, &format):
		err = refuseParameter(codeInvalidField, format.ParamName, "it does not fit")
	case errors.As(err, &required):
		err = refuseParameter(codeInvalidField, required.ParamName, "it is needed")
	default:
		err = refuseField(codeInvalidField, "", "the body does not fit this operation")
	}
	s.fail(w, r, err)
}
