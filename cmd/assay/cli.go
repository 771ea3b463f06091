package main

// CLI is the whole command line. Every flag can also be given by the environment variable that its help
// names.
type CLI struct {
	Server    string `default:"http://127.0.0.1:8440" env:"ASSAY_SERVER" placeholder:"URL" help:"Address of the service."`
	TokenFile string `env:"ASSAY_TOKEN_FILE" placeholder:"FILE" help:"File that holds the API token. ASSAY_TOKEN holds the token itself; the file goes first. There is no flag for the token, since other users can read command lines."`
	OIDC      string `name:"oidc" env:"ASSAY_OIDC" placeholder:"github|env:VAR|FILE" help:"Identity token of a pipeline in place of an API token: github asks GitHub Actions for one (permissions: id-token: write), env:VAR takes it from a variable (GitLab's id_tokens), FILE from a file."`
	Audience  string `name:"oidc-audience" env:"ASSAY_OIDC_AUDIENCE" placeholder:"AUDIENCE" help:"Whom the token that GitHub is asked for is made out to; the address of the service otherwise."`
	CA        string `name:"ca" env:"ASSAY_CA" placeholder:"PEM" help:"Certificates of the CA that the service's certificate must chain to, in place of the system's."`
	Output    string `short:"o" enum:"human,json,csv,ndjson" default:"human" env:"ASSAY_OUTPUT" help:"human, json, or, for lists with --all, csv or ndjson, streamed. JSON is the API's own, with RFC 3339 times; errors are then problem documents on standard error."`

	Overview        OverviewCommand        `cmd:"" group:"findings" help:"The fleet in numbers."`
	Machines        MachinesCommand        `cmd:"" group:"findings" help:"The inventory, and what is known of each machine."`
	Verdicts        VerdictsCommand        `cmd:"" group:"findings" help:"How machines were judged and why."`
	Alerts          AlertsCommand          `cmd:"" group:"findings" help:"What needs somebody now."`
	Fleet           FleetCommand           `cmd:"" group:"findings" help:"Machines that share an identity, and TPMs whose history went back or forked."`
	Incidents       IncidentsCommand       `cmd:"" group:"findings" help:"Causes, each with its alerts on however many machines."`
	Recommendations RecommendationsCommand `cmd:"" group:"findings" help:"What could be better."`
	Assessments     AssessmentsCommand     `cmd:"" group:"findings" help:"The state of each machine by code."`
	Catalog         CatalogCommand         `cmd:"" group:"findings" help:"The rules that findings follow from."`
	Reappraisals    ReappraisalsCommand    `cmd:"" group:"findings" help:"Stored evidence that was judged again, and what changed by it."`
	Suppressions    SuppressionsCommand    `cmd:"" group:"findings" help:"Rules that hide alerts of a scope."`

	Baselines    BaselinesCommand    `cmd:"" aliases:"baseline" group:"reference" help:"What machines are meant to boot."`
	Policies     PoliciesCommand     `cmd:"" aliases:"policy" group:"reference" help:"What evidence must cover and what machines must be."`
	TrustAnchors TrustAnchorsCommand `cmd:"" group:"reference" help:"Roots that keys and reports must chain to."`
	Revocations  RevocationsCommand  `cmd:"" group:"reference" help:"What is known to be bad: dbx, and SBAT levels."`
	Collateral   CollateralCommand   `cmd:"" group:"reference" help:"What hardware evidence is checked with: endorsement keys, CRLs, TCB info."`

	Notifications     NotificationsCommand     `cmd:"" aliases:"notification" group:"admin" help:"Who is told what happens: webhooks, syslog, mail; and what came of it."`
	Audit             AuditCommand             `cmd:"" group:"admin" help:"The record of changes: list it, check it, keep checkpoints of it."`
	Export            ExportCommand            `cmd:"" group:"admin" help:"Write verdicts, with all that they can be judged again with, to a file."`
	JoinTokens        JoinTokensCommand        `cmd:"" group:"admin" help:"Tokens that let agents enrol."`
	IdentityProviders IdentityProvidersCommand `cmd:"" name:"identity-providers" aliases:"identity-provider" group:"admin" help:"Issuers whose identity tokens are accepted."`
	PipelineRules     PipelineRulesCommand     `cmd:"" name:"pipeline-rules" aliases:"pipeline-rule" group:"admin" help:"Which pipelines may write which baselines."`
	APITokens         APITokensCommand         `cmd:"" name:"api-tokens" aliases:"api-token" group:"admin" help:"Tokens of people and programs: what they may, where, and for how long."`
	Roles             RolesCommand             `cmd:"" aliases:"role" group:"admin" help:"What each role may, and which people have it by their identity tokens."`
	Retention         RetentionCommand         `cmd:"" group:"admin" help:"How long evidence, verdicts and the audit record are kept."`
	SigningKeys       SigningKeysCommand       `cmd:"" name:"signing-keys" aliases:"signing-key" group:"admin" help:"Keys that sign results for relying parties."`

	Token   TokenCommand   `cmd:"" group:"offline" help:"Results for relying parties: verify one offline, ask whether it still holds, have one signed."`
	Verify  VerifyCommand  `cmd:"" group:"offline" help:"Judge evidence, or the verdicts of a bundle, with the service's engine."`
	Capture CaptureCommand `cmd:"" group:"offline" help:"Make reference values of genuine evidence."`
	Version VersionCommand `cmd:"" group:"offline" help:"Print the version of this command."`
}

// VersionCommand prints the version.
type VersionCommand struct{}

// Run prints it.
func (VersionCommand) Run(a *app) error {
	if a.json {
		return a.printJSON(map[string]string{"version": version})
	}
	a.print.line("assay %s", version)
	return nil
}
