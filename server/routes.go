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

// role is what an operation needs; the contract's x-assay-role.
type role string

// The roles of operations.
const (
	rolePublic  role = "public"  // no token is looked at
	roleJoin    role = "join"    // a join token
	roleMachine role = "machine" // the machine token of the machine in the path
	roleReader  role = "reader"  // an API token, reader or admin
	roleAdmin   role = "admin"   // an API token of an administrator

	// A pipeline may call these two as far as a pipeline rule says: the handlers ask mayWrite and maySee.
	roleBaselineReader role = "baseline_reader" // a reader, or a pipeline
	roleBaselineWriter role = "baseline_writer" // an administrator, or a pipeline

	roleResultReader role = "result_reader" // a reader, or the machine token of the machine in the path
	roleRelyingParty role = "relying_party" // an API token of a relying party, or a reader
)

// rolePipeline is what a principal is that proved itself by an identity token. No operation is for it alone.
const rolePipeline role = "pipeline"

// route is one operation. Needs is repeated from the contract on purpose: New compares the two, so that
// neither can be loosened alone.
type route struct {
	method, path string
	needs        role
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
		{"POST", "/v1/enrollments", roleJoin, s.createEnrollment},
		{"POST", "/v1/enrollments/{enrollment_id}/activation", rolePublic, api.ActivateEnrollment},
		{"POST", "/v1/machines/{machine_id}/challenges", roleMachine, api.CreateChallenge},
		{"POST", "/v1/machines/{machine_id}/evidence", roleMachine, s.submitEvidence},
		{"PUT", "/v1/machines/{machine_id}/event-logs/{sha256}", roleMachine, s.putEventLog},

		{"GET", "/v1/machines", roleReader, api.ListMachines},
		{"POST", "/v1/machines", roleAdmin, api.UpsertMachine},
		{"POST", "/v1/machines/batch", roleAdmin, api.UpsertMachines},
		{"GET", "/v1/machines/{machine_id}", roleReader, api.GetMachine},
		{"GET", "/v1/machines/{machine_id}/verdicts", roleReader, api.ListMachineVerdicts},
		{"POST", "/v1/machines/{machine_id}/baseline", roleAdmin, api.CaptureBaseline},
		{"POST", "/v1/machines/{machine_id}/attestation-keys", roleAdmin, api.VouchAttestationKey},
		{"DELETE", "/v1/machines/{machine_id}/attestation-keys", roleAdmin, api.RevokeAttestationKey},
		{"GET", "/v1/verdicts", roleReader, api.ListVerdicts},
		{"GET", "/v1/verdicts/{verdict_id}", roleReader, api.GetVerdict},
		{"GET", "/v1/verdicts/{verdict_id}/event-log", roleReader, api.GetVerdictEventLog},

		{"GET", "/v1/assessments", roleReader, api.ListAssessments},
		{"GET", "/v1/recommendations", roleReader, api.ListRecommendations},
		{"GET", "/v1/recommendations/{recommendation_id}", roleReader, api.GetRecommendation},
		{"POST", "/v1/recommendations/{recommendation_id}/exempt", roleAdmin, api.ExemptRecommendation},
		{"POST", "/v1/recommendations/{recommendation_id}/unexempt", roleAdmin, api.UnexemptRecommendation},
		{"GET", "/v1/recommendations/{recommendation_id}/history", roleReader, api.ListRecommendationHistory},
		{"GET", "/v1/catalog", roleReader, api.ListCatalog},
		{"GET", "/v1/catalog/{code}", roleReader, api.GetCatalogEntry},
		{"GET", "/v1/alerts", roleReader, api.ListAlerts},
		{"GET", "/v1/alerts/{alert_id}", roleReader, api.GetAlert},
		{"POST", "/v1/alerts/{alert_id}/dismiss", roleAdmin, api.DismissAlert},
		{"POST", "/v1/alerts/{alert_id}/resolve", roleAdmin, api.ResolveAlert},
		{"POST", "/v1/alerts/{alert_id}/activate", roleAdmin, api.ActivateAlert},
		{"POST", "/v1/alerts/{alert_id}/in-progress", roleAdmin, api.ProgressAlert},
		{"GET", "/v1/alerts/{alert_id}/approval", roleReader, api.PreviewApproval},
		{"POST", "/v1/alerts/{alert_id}/approve", roleAdmin, api.ApproveAlert},
		{"POST", "/v1/alerts/{alert_id}/refuse", roleAdmin, api.RefuseAlert},
		{"GET", "/v1/alerts/{alert_id}/occurrences", roleReader, api.ListAlertOccurrences},
		{"GET", "/v1/alerts/{alert_id}/history", roleReader, api.ListAlertHistory},
		{"POST", "/v1/alerts/{alert_id}/comments", roleAdmin, api.CommentAlert},
		{"GET", "/v1/incidents", roleReader, api.ListIncidents},
		{"GET", "/v1/incidents/{incident_id}", roleReader, api.GetIncident},
		{"GET", "/v1/incidents/{incident_id}/members", roleReader, api.ListIncidentMembers},
		{"POST", "/v1/incidents/{incident_id}/dismiss", roleAdmin, api.DismissIncident},
		{"POST", "/v1/incidents/{incident_id}/resolve", roleAdmin, api.ResolveIncident},
		{"POST", "/v1/incidents/{incident_id}/in-progress", roleAdmin, api.ProgressIncident},
		{"POST", "/v1/incidents/{incident_id}/comments", roleAdmin, api.CommentIncident},
		{"GET", "/v1/suppression-rules", roleReader, api.ListSuppressionRules},
		{"POST", "/v1/suppression-rules", roleAdmin, api.CreateSuppressionRule},
		{"POST", "/v1/suppression-rules/simulate", roleReader, api.SimulateSuppressionRule},
		{"GET", "/v1/suppression-rules/{rule_id}", roleReader, api.GetSuppressionRule},
		{"PATCH", "/v1/suppression-rules/{rule_id}", roleAdmin, api.UpdateSuppressionRule},
		{"DELETE", "/v1/suppression-rules/{rule_id}", roleAdmin, api.DeleteSuppressionRule},
		{"GET", "/v1/overview", roleReader, api.GetOverview},
		{"GET", "/v1/fleet/conflicts", roleReader, api.ListFleetConflicts},
		{"GET", "/v1/overview/series", roleReader, api.GetSeries},
		{"GET", "/v1/reappraisals", roleReader, api.ListReappraisals},
		{"POST", "/v1/reappraisals", roleAdmin, api.CreateReappraisal},
		{"GET", "/v1/reappraisals/{reappraisal_id}", roleReader, api.GetReappraisal},
		{"GET", "/v1/reappraisals/{reappraisal_id}/machines", roleReader, api.ListReappraisalMachines},

		{"GET", "/v1/baselines", roleBaselineReader, api.ListBaselines},
		{"POST", "/v1/baselines", roleBaselineWriter, api.CreateBaseline},
		{"POST", "/v1/baselines/import", roleBaselineWriter, s.importBaseline},
		{"GET", "/v1/baselines/{baseline_id}", roleBaselineReader, api.GetBaseline},
		{"GET", "/v1/baselines/{baseline_id}/rollout", roleReader, api.GetBaselineRollout},
		{"GET", "/v1/baselines/{baseline_id}/versions", roleBaselineReader, api.ListBaselineVersions},
		{"POST", "/v1/baselines/{baseline_id}/versions", roleBaselineWriter, api.CreateBaselineVersion},
		{"GET", "/v1/baselines/{baseline_id}/versions/{version}", roleBaselineReader, api.GetBaselineVersion},
		{"GET", "/v1/baselines/{baseline_id}/versions/{version}/export", roleReader, s.exportBaselineVersion},
		{"POST", "/v1/baselines/{baseline_id}/versions/{version}/promote", roleBaselineWriter, api.PromoteBaselineVersion},
		{"POST", "/v1/baselines/{baseline_id}/versions/{version}/retire", roleAdmin, api.RetireBaselineVersion},
		{"POST", "/v1/baselines/{baseline_id}/versions/{version}/dry-run", roleBaselineReader, s.dryRunVersion},
		{"POST", "/v1/baselines/dry-run", roleBaselineReader, s.dryRunValues},
		{"POST", "/v1/baselines/{baseline_id}/versions/{version}/approve", roleAdmin, api.ApproveBaselineVersion},
		{"GET", "/v1/baselines/{baseline_id}/versions/{version}/diff", roleReader, api.DiffBaselineVersion},

		{"GET", "/v1/join-tokens", roleAdmin, api.ListJoinTokens},
		{"POST", "/v1/join-tokens", roleAdmin, api.CreateJoinToken},
		{"DELETE", "/v1/join-tokens/{token_id}", roleAdmin, api.RevokeJoinToken},
		{"GET", "/v1/api-tokens", roleAdmin, api.ListAPITokens},
		{"POST", "/v1/api-tokens", roleAdmin, api.CreateAPIToken},
		{"DELETE", "/v1/api-tokens/{token_id}", roleAdmin, api.RevokeAPIToken},
		{"GET", "/v1/webhooks", roleReader, api.ListWebhooks},
		{"POST", "/v1/webhooks", roleAdmin, api.CreateWebhook},
		{"GET", "/v1/webhooks/{webhook_id}", roleReader, api.GetWebhook},
		{"PUT", "/v1/webhooks/{webhook_id}", roleAdmin, api.PutWebhook},
		{"DELETE", "/v1/webhooks/{webhook_id}", roleAdmin, api.DeleteWebhook},
		{"POST", "/v1/webhooks/{webhook_id}/test", roleAdmin, api.TestWebhook},
		{"POST", "/v1/webhooks/{webhook_id}/rotate-secret", roleAdmin, api.RotateWebhookSecret},
		{"GET", "/v1/notification-channels", roleReader, api.ListNotificationChannels},
		{"POST", "/v1/notification-channels", roleAdmin, api.CreateNotificationChannel},
		{"GET", "/v1/notification-channels/{channel_id}", roleReader, api.GetNotificationChannel},
		{"PUT", "/v1/notification-channels/{channel_id}", roleAdmin, api.PutNotificationChannel},
		{"DELETE", "/v1/notification-channels/{channel_id}", roleAdmin, api.DeleteNotificationChannel},
		{"POST", "/v1/notification-channels/{channel_id}/test", roleAdmin, api.TestNotificationChannel},
		{"POST", "/v1/notification-channels/{channel_id}/replay", roleAdmin, api.ReplayNotificationChannel},
		{"GET", "/v1/deliveries", roleReader, api.ListDeliveries},
		{"GET", "/v1/deliveries/{delivery_id}", roleReader, api.GetDelivery},
		{"POST", "/v1/deliveries/{delivery_id}/replay", roleAdmin, api.ReplayDelivery},
		{"GET", "/v1/audit-events", roleReader, api.ListAuditEvents},
		{"GET", "/v1/audit-events/{event_id}", roleReader, api.GetAuditEvent},
		{"GET", "/v1/audit-checkpoints", roleReader, api.ListAuditCheckpoints},
		{"POST", "/v1/audit-checkpoints", roleAdmin, api.CreateAuditCheckpoint},
		{"GET", "/v1/audit-checkpoints/{checkpoint_id}", roleReader, api.GetAuditCheckpoint},
		{"GET", "/v1/audit-bundle", roleAdmin, s.getAuditBundle},
		{"GET", "/v1/identity-providers", roleReader, api.ListIdentityProviders},
		{"POST", "/v1/identity-providers", roleAdmin, api.CreateIdentityProvider},
		{"GET", "/v1/identity-providers/{provider_id}", roleReader, api.GetIdentityProvider},
		{"PUT", "/v1/identity-providers/{provider_id}", roleAdmin, api.PutIdentityProvider},
		{"DELETE", "/v1/identity-providers/{provider_id}", roleAdmin, api.DeleteIdentityProvider},
		{"GET", "/v1/pipeline-rules", roleReader, api.ListPipelineRules},
		{"POST", "/v1/pipeline-rules", roleAdmin, api.CreatePipelineRule},
		{"POST", "/v1/pipeline-rules/test", roleReader, api.TestPipelineRules},
		{"GET", "/v1/pipeline-rules/{rule_id}", roleReader, api.GetPipelineRule},
		{"PUT", "/v1/pipeline-rules/{rule_id}", roleAdmin, api.PutPipelineRule},
		{"DELETE", "/v1/pipeline-rules/{rule_id}", roleAdmin, api.DeletePipelineRule},
		{"GET", "/v1/trust-anchors", roleReader, api.ListTrustAnchors},
		{"POST", "/v1/trust-anchors", roleAdmin, api.CreateTrustAnchor},
		{"DELETE", "/v1/trust-anchors/{anchor_id}", roleAdmin, api.DeleteTrustAnchor},
		{"POST", "/v1/trust-anchors/{anchor_id}/disable", roleAdmin, api.DisableTrustAnchor},
		{"POST", "/v1/trust-anchors/{anchor_id}/enable", roleAdmin, api.EnableTrustAnchor},
		{"GET", "/v1/trust-anchors/{anchor_id}/machines", roleReader, api.ListTrustAnchorMachines},
		{"GET", "/v1/trust-anchors/{anchor_id}/baselines", roleReader, api.ListTrustAnchorBaselines},
		{"GET", "/v1/collateral", roleReader, api.ListCollateral},
		{"PUT", "/v1/collateral/{kind}", roleAdmin, s.putCollateral},
		{"GET", "/v1/collateral/{kind}/{name}", roleReader, s.getCollateral},
		{"DELETE", "/v1/collateral/{kind}/{name}", roleAdmin, s.deleteCollateral},
		{"GET", "/v1/policies", roleReader, api.ListPolicies},
		{"POST", "/v1/policies/test", roleReader, s.testPolicy},
		{"GET", "/v1/policies/{name}", roleReader, api.GetPolicy},
		{"PUT", "/v1/policies/{name}", roleAdmin, api.PutPolicy},
		{"GET", "/v1/policies/{name}/versions", roleReader, api.ListPolicyVersions},
		{"GET", "/v1/policy-templates", roleReader, api.ListPolicyTemplates},
		{"GET", "/v1/revocations", roleReader, api.ListRevocations},
		{"PUT", "/v1/revocations/{kind}", roleAdmin, s.putRevocations},
		{"GET", "/v1/revocations/entries/{sha256}", roleReader, api.GetRevokedEntry},

		{"POST", "/v1/machines/{machine_id}/results", roleResultReader, api.CreateResult},
		{"POST", "/v1/results/introspect", roleRelyingParty, api.IntrospectResult},
		{"GET", "/v1/signing-keys", roleReader, api.ListSigningKeys},
		{"POST", "/v1/signing-keys/rotate", roleAdmin, api.RotateSigningKeys},
		{"POST", "/v1/signing-keys/{key_id}/revoke", roleAdmin, api.RevokeSigningKey},

		{"GET", "/.well-known/jwks.json", rolePublic, s.getJWKS},
		{"GET", "/.well-known/openid-configuration", rolePublic, s.getOpenIDConfiguration},
		{"GET", "/healthz", rolePublic, api.GetHealth},
		{"GET", "/readyz", rolePublic, api.GetReadiness},
		{"GET", "/openapi.yaml", rolePublic, s.getOpenAPI},
		{"GET", "/docs", rolePublic, s.getDocs},
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
