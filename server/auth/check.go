package auth

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/verifier"
)

// maxPattern bounds a pattern, in bytes. RE2 runs in time linear in the text, whatever the pattern.
const maxPattern = 1024

// shared are issuers that give tokens to everybody who asks, with the claims of which a rule must name one: those
// that say whose the pipeline is.
var shared = map[string][]string{
	"https://token.actions.githubusercontent.com": {"repository", "repository_id", "repository_owner", "repository_owner_id", "job_workflow_ref", "workflow_ref", "enterprise", "enterprise_id"},
	"https://gitlab.com":                          {"project_path", "project_id", "namespace_path", "namespace_id", "root_namespace_path", "ci_config_ref_uri", "job_project_path", "job_project_id"},
	"https://oauth.circleci.com":                  {"oidc.circleci.com/project-id"},
	"https://agent.buildkite.com":                 {"organization_slug", "organization_id", "pipeline_slug", "pipeline_id"},
	"https://accounts.google.com":                 {"email", "hd"}, // hd: the domain of a Workspace account
}

// strangers are texts that no rule is meant to admit, by their form: texts of any kind, addresses, domains, numbers and
// UUIDs. A Match that takes all of one form says nothing of whom it means.
var strangers = [][]string{
	{"x", "repo:somebody-else/anything:ref:refs/heads/main", "somebody-else/anything", "0"},
	{"somebody@elsewhere.invalid", "x.y+z@mail.elsewhere.example"},
	{"elsewhere.invalid", "mail.elsewhere.example"},
	{"7", "104857600000000000001"},
	{"6f1c9d0e-52b1-4b0a-9d6e-0c7f3a1b2c3d", "01900000-0000-7000-8000-0000000000ff"},
}

// Check tells why a rule cannot be used, as a *verifier.FieldError with a JSON pointer into it; nil if it can.
func (r *Rule) Check(issuer string) error {
	if err := r.checkWho(issuer); err != nil {
		return err
	}
	if err := r.Baselines.check("/baselines"); err != nil {
		return err
	}
	if r.WholeFleet == bounds(r.Selector) {
		return field("/selector", "say which machines the baselines may be for, or whole_fleet, and not both")
	}
	return r.checkAllowed()
}

// checkWho looks at whom the rule is about: never at everybody.
func (r *Rule) checkWho(issuer string) error {
	narrow := false // one condition at least does not admit everybody
	owner := shared[issuer] == nil
	if r.Subject != nil {
		if err := r.Subject.check("/subject"); err != nil {
			return err
		}
		narrow = !r.Subject.takesStrangers()
		owner = owner || narrow
	}
	for i := range r.Conditions {
		c := &r.Conditions[i]
		if err := c.check("/conditions/" + strconv.Itoa(i)); err != nil {
			return err
		}
		if !c.takesStrangers() {
			narrow = true
			owner = owner || slices.Contains(shared[issuer], c.Claim)
		}
	}
	switch {
	case !narrow:
		return field("/conditions", "the rule admits every token of the issuer: say which subject, repository or project is meant")
	case !owner:
		return field("/conditions", "this issuer gives tokens to everybody: name the subject, or one of the claims "+strings.Join(shared[issuer], ", "))
	}
	return nil
}

func (r *Rule) checkAllowed() error {
	if len(r.Actions) == 0 {
		return field("/actions", "a rule that allows nothing is of no use")
	}
	makes := slices.Contains(r.Actions, ActionCreate) || slices.Contains(r.Actions, ActionAddVersion)
	if makes != (len(r.States) > 0) {
		return field("/states", "the states of new versions go with the actions create and add_version")
	}
	return nil
}

func (m *Match) check(pointer string) error {
	if (len(m.In) > 0) == (m.Pattern != "") {
		return field(pointer, "exactly one of in and pattern is needed")
	}
	if len(m.Pattern) > maxPattern {
		return field(pointer+"/pattern", "it is longer than 1024 bytes")
	}
	if _, err := regexp.Compile(m.Pattern); err != nil {
		return field(pointer+"/pattern", "no RE2 expression: "+strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
	return nil
}

// takesStrangers tells whether a pattern admits whatever comes.
func (m *Match) takesStrangers() bool {
	return slices.ContainsFunc(strangers, func(form []string) bool {
		return !slices.ContainsFunc(form, func(s string) bool { return !m.matches(s) })
	})
}

func field(pointer, detail string) error {
	return &verifier.FieldError{Pointer: pointer, Detail: detail}
}
