package server

import (
	"slices"

	"github.com/assay-verifier/assay/store"
)

// permission is what an operation needs of its caller; the contract's x-assay-permission. Each operation needs one.
type permission string

// The permissions. A few of the names say already who has them: whoever holds a credential of that kind, and nobody else.
const (
	permPublic     permission = "public"       // no token is looked at
	permEnrol      permission = "enrollments"  // a join token
	permAgent      permission = "agent"        // the machine token of the machine in the path
	permResults    permission = "results"      // to have a result signed: people, and the machine in the path
	permIntrospect permission = "results:test" // to ask whether a result holds

	permMachinesRead   permission = "machines:read"
	permMachinesWrite  permission = "machines:write"
	permKeysWrite      permission = "attestation_keys:write"
	permVerdictsRead   permission = "verdicts:read"
	permFindingsRead   permission = "findings:read" // assessments, recommendations, alerts, incidents, numbers of the fleet
	permExempt         permission = "recommendations:exempt"
	permAlertsWrite    permission = "alerts:write" // incidents too
	permAlertsRefuse   permission = "alerts:refuse"
	permSuppress       permission = "suppression_rules:write"
	permReappraise     permission = "reappraisals:write"
	permBaselinesRead  permission = "baselines:read"  // and judge stored evidence by them
	permBaselinesStudy permission = "baselines:study" // differences, exports, rollouts
	permBaselinesWrite permission = "baselines:write" // drafts
	permCapture        permission = "baselines:capture"
	permPromote        permission = "baselines:promote"
	permApprove        permission = "baselines:approve" // what is drafted or retired counts

	permConfigRead    permission = "configuration:read" // policies, anchors, collateral, channels, providers, rules, keys
	permPoliciesWrite permission = "policies:write"
	permTrustWrite    permission = "trust:write" // anchors, collateral, revocations
	permChannelsWrite permission = "channels:write"
	permJoinTokens    permission = "join_tokens:write" // #nosec G101 -- a permission's name
	permSigningKeys   permission = "signing_keys:write"
	permTokensWrite   permission = "api_tokens:write"
	permIdentityWrite permission = "identity:write" // identity providers, pipeline rules
	permAuditRead     permission = "audit:read"     // the record of changes, and its checkpoints
	permAuditExport   permission = "audit:export"   // verdicts with their evidence, and checkpoints on demand
	permRetention     permission = "retention:write"
	permRolesRead     permission = "role_bindings:read"
	permRolesWrite    permission = "role_bindings:write"
)

// role is a set of permissions, and the kind of a principal that is named after it in audit records.
type role string

// The roles that people's tokens and bindings give.
const (
	roleAdmin        role = "admin"
	roleViewer       role = "viewer"
	roleReader       role = "reader" // viewer's name before there were others; both are accepted
	roleResponder    role = "responder"
	roleAuthor       role = "baseline_author"
	roleApprover     role = "baseline_approver"
	roleOperator     role = "operator"
	roleRelyingParty role = "relying_party"
)

// The roles that a credential of its own kind gives, and no token or binding can.
const (
	rolePublic   role = "public"
	roleJoin     role = "join"
	roleMachine  role = "machine" // an agent
	rolePipeline role = "pipeline"
)

// viewing is what everybody may who works with the fleet: to look at it.
var viewing = []permission{permMachinesRead, permVerdictsRead, permFindingsRead, permBaselinesRead, permBaselinesStudy, permConfigRead, permAuditRead,
	permResults, permIntrospect}

// authoring, approving, responding and operating are what the roles of these names add to viewing.
var (
	responding = []permission{permAlertsWrite, permAlertsRefuse, permSuppress, permExempt}
	authoring  = []permission{permBaselinesWrite, permCapture}
	approving  = []permission{permPromote, permApprove}
	operating  = []permission{permMachinesWrite, permKeysWrite, permJoinTokens, permSigningKeys, permTrustWrite, permPoliciesWrite, permChannelsWrite, permReappraise}
	governing  = []permission{permTokensWrite, permIdentityWrite, permRetention, permAuditExport, permRolesRead, permRolesWrite}
)

// permissionsOf is the one table of who may do what. The table of what an operation needs is routes.
//
// No role but admin may both write a baseline and make it count; no role but admin may give access.
var permissionsOf = map[role][]permission{
	roleViewer:       viewing,
	roleReader:       viewing,
	roleResponder:    slices.Concat(viewing, responding),
	roleAuthor:       slices.Concat(viewing, authoring),
	roleApprover:     slices.Concat(viewing, approving, []permission{permAlertsRefuse}),
	roleOperator:     slices.Concat(viewing, operating),
	roleAdmin:        slices.Concat(viewing, responding, authoring, approving, operating, governing),
	roleRelyingParty: {permIntrospect},

	rolePublic:  {},
	roleJoin:    {permEnrol},
	roleMachine: {permAgent, permResults},
	// As far as a pipeline rule says: the handlers ask mayWrite and maySee.
	rolePipeline: {permBaselinesRead, permBaselinesWrite, permPromote},
}

// personal are the roles that a token or a binding can give.
var personal = []role{roleViewer, roleReader, roleResponder, roleAuthor, roleApprover, roleOperator, roleAdmin, roleRelyingParty}

// may tells whether a role has a permission. Everybody may what is public; an unknown role may nothing else.
func (r role) may(needs permission) bool {
	return needs == permPublic || slices.Contains(permissionsOf[r], needs)
}

// covers tells whether a role may all that another may, so that who has it gives nothing away that is not theirs.
func (r role) covers(other role) bool {
	return !slices.ContainsFunc(permissionsOf[other], func(p permission) bool { return !r.may(p) })
}

// RoleMay tells whether the role of a person's token has a permission, which is named as in the contract's
// x-assay-permission. It is for the web pages: the API's own guard decides by the same table.
func RoleMay(r store.Role, needs string) bool { return role(r).may(permission(needs)) }

// known tells whether there is such a permission at all.
func (p permission) known() bool {
	if p == permPublic {
		return true
	}
	for _, all := range permissionsOf {
		if slices.Contains(all, p) {
			return true
		}
	}
	return false
}

// scoping says what an operation is to a principal that is limited to some machines; the contract's x-assay-scope.
type scoping string

// The kinds of operations. The zero value is none of them: a route without a decision does not start.
const (
	// scopeFiltered answers with what is within the caller's scope, and nothing else: the handler asks callerScope.
	scopeFiltered scoping = "filtered"
	// scopeSame holds nothing of any machine, and is the same for everybody.
	scopeSame scoping = "same"
	// scopeForbidden is about the tenant as a whole, and refused to whoever sees only a part of it.
	scopeForbidden scoping = "forbidden"

	// These are about what the path names. Outside the scope that does not exist.
	scopeMachine        scoping = "machine"
	scopeVerdict        scoping = "verdict"
	scopeAlert          scoping = "alert"
	scopeRecommendation scoping = "recommendation"
	scopeIncident       scoping = "incident"
	scopeBaseline       scoping = "baseline"
)

// scopedParameter is the path parameter that each kind of operation is about.
var scopedParameter = map[scoping]string{
	scopeMachine: "machine_id", scopeVerdict: "verdict_id", scopeAlert: "alert_id", scopeRecommendation: "recommendation_id",
	scopeIncident: "incident_id", scopeBaseline: "baseline_id",
}

// known tells whether there is such a kind of operation.
func (s scoping) known() bool {
	return s == scopeFiltered || s == scopeSame || s == scopeForbidden || scopedParameter[s] != ""
}
