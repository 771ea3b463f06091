package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/server/auth/authtest"
)

// TestPipelineWithoutSecrets is the whole story by the command line: an administrator accepts an issuer and writes a
// rule; a job of GitHub Actions, which holds no secret of ours, registers what it built.
func TestPipelineWithoutSecrets(t *testing.T) {
	s := startService(t)
	issuer := authtest.Start(t, false)
	s.wants(0, []string{"github", "enabled", "at most 1h0m0s"}, "identity-providers", "add", "--name", "github", "--issuer", issuer.URL(), "--audience", s.url)
	s.wants(0, []string{"github", issuer.URL()}, "identity-provider", "list")
	s.wants(1, []string{"409 conflict"}, "identity-providers", "add", "--name", "github", "--issuer", issuer.URL(), "--audience", "x")
	s.wants(1, []string{"must be https"}, "identity-providers", "add", "--name", "x", "--issuer", "ftp://x", "--audience", "x")
	s.wants(0, nil, "pipeline-rules", "add", "--name", "images", "--provider", "github", "--claim", "repository=example/images", "--claim", "ref=refs/heads/main", "--claim", "ref=refs/heads/release",
		"--baseline-pattern", "web-.*", "--scale-set", "web")
	s.wants(2, []string{"--claim takes NAME=VALUE"}, "pipeline-rules", "add", "--name", "x", "--provider", "github", "--claim", "repository", "--baseline", "x", "--whole-fleet")
	s.wants(1, []string{"admits every token"}, "pipeline-rules", "add", "--name", "x", "--provider", "github", "--claim-pattern", "repository=.*", "--baseline", "x", "--whole-fleet")
	s.wants(0, []string{"images", "repository example/images; ref refs/heads/main, refs/heads/release", "/web-.*/", "scale set web", "create add_version dry_run (draft)"}, "pipeline-rules")
	testRoles(t, s)

	// What the runner gives a job: an address with a query, and a secret to ask there with.
	asked := 0
	claims := func(audience any) map[string]any { return issuer.Claims(audience, time.Now(), nil) }
	runner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Header.Get("Authorization") != "Bearer runner-secret" || r.URL.Query().Get("api-version") != "2.0" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"count": 1, "value": issuer.Token(claims(r.URL.Query().Get("audience")))})
	}))
	defer runner.Close()
	job := &liveService{t: t, url: s.url, env: []string{"ASSAY_SERVER=" + s.url, "ASSAY_OIDC=github", githubTokenURL + "=" + runner.URL + "/token?api-version=2.0", githubTokenBearer + "=runner-secret", "GITHUB_REPOSITORY=example/images"}}
	values := filepath.Join(t.TempDir(), "reference.json")
	if err := os.WriteFile(values, []byte(`{"claims": {"secure_boot": true}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	register := []string{"baselines", "register", "--file", values, "--add-version", "--draft"}
	job.wants(0, []string{"web-images version 1 is draft"}, append(register, "--name", "web-images", "--scale-set", "web")...)
	job.wants(0, []string{"web-images version 2 is draft"}, append(register, "--name", "web-images", "--scale-set", "web")...) // the workflow runs again
	job.wants(1, []string{"403 rule_denied", "not about baselines of this name"}, append(register, "--name", "db-images", "--scale-set", "web")...)
	job.wants(1, []string{"rule_denied", "does not allow the action promote"}, "baselines", "promote", "web-images@1")
	job.wants(1, []string{"403 forbidden", "which the role pipeline does not have"}, "machines")
	job.wants(0, []string{"Made by a pipeline, verified", "repo:example/images:ref:refs/heads/main", "run_id", "4711"}, "baselines", "show", "web-images@1")
	if asked == 0 {
		t.Error("the runner was not asked")
	}

	// The other forms, and what is missing.
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(issuer.Token(claims(s.url))+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	with := func(env ...string) *liveService {
		return &liveService{t: t, url: s.url, env: append([]string{"ASSAY_SERVER=" + s.url}, env...)}
	}
	with().wants(0, []string{"web-images"}, "--oidc", file, "baselines")
	with("ID_TOKEN="+issuer.Token(claims(s.url))).wants(0, []string{"web-images"}, "--oidc", "env:ID_TOKEN", "baselines")
	with("ID_TOKEN="+issuer.Token(claims("other"))).wants(1, []string{"401 token_audience"}, "--oidc", "env:ID_TOKEN", "baselines")
	with().wants(2, []string{"the variable ID_TOKEN does not hold one JWT"}, "--oidc", "env:ID_TOKEN", "baselines")
	with().wants(2, []string{"id-token: write"}, "--oidc", "github", "baselines")
	with(githubTokenURL+"=http://runner.example/", githubTokenBearer+"=x").wants(2, []string{"--oidc github needs"}, "--oidc", "github", "baselines")
	with(githubTokenURL+"="+runner.URL, githubTokenBearer+"=other").wants(1, []string{"answers 403"}, "--oidc", "github", "baselines")
	s.wants(2, []string{"exclude each other"}, "--oidc", "github", "baselines")

	said := filepath.Join(t.TempDir(), "claims.json")
	if err := os.WriteFile(said, []byte(`{"sub": "x", "repository": "example/images", "ref": "refs/heads/dev"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.wants(1, []string{"images  does not admit", `the claim ref is "refs/heads/dev"`}, "pipeline-rules", "test", "--provider", "github", "--claims", said)
	s.wants(0, []string{"images  admits"}, "pipeline-rules", "test", "--provider", "github", "--claims", file)
	s.wants(0, []string{"images  allows"}, "pipeline-rules", "test", "--provider", "github", "--claims", file, "--action", "create", "--baseline", "web-1", "--state", "draft", "--scale-set", "web")
	s.wants(1, []string{"images  admits, and does not allow", `begin as "active"`}, "pipeline-rules", "test", "--provider", "github", "--claims", file, "--action", "create", "--baseline", "web-1", "--scale-set", "web")
	list := filepath.Join(t.TempDir(), "list.json")
	if err := os.WriteFile(list, []byte(`[]`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.wants(2, []string{"neither a JSON object nor a token"}, "pipeline-rules", "test", "--provider", "github", "--claims", list)
	s.wants(0, []string{"disabled"}, "identity-providers", "disable", "github")
	job.wants(1, []string{"401 token_issuer"}, "baselines")
	s.wants(0, []string{"enabled", "fetched"}, "identity-providers", "enable", "github")
	s.wants(0, []string{`"pattern": "web-.*"`}, "pipeline-rules", "show", "images")
	s.wants(1, []string{"409 conflict"}, "identity-providers", "remove", "github")
	s.run(0, "pipeline-rules", "remove", "images")
	s.run(0, "identity-providers", "remove", "github")
	if out := job.run(1, "baselines"); strings.Contains(out, "eyJ") {
		t.Errorf("a token is shown: %s", out)
	}
}

// testRoles gives people a role by their identity tokens, and tokens for some machines, and takes both away.
func testRoles(t *testing.T, s *liveService) {
	t.Helper()
	s.wants(0, []string{"baseline_approver", "baselines:promote", "relying_party"}, "roles")
	s.wants(0, nil, "roles", "bind", "--name", "security", "--provider", "github", "--role", "responder", "--claim", "groups=sec", "--scale-set", "web")
	s.wants(0, []string{"security", "responder", "scale set web", "groups sec"}, "roles", "bindings")
	s.wants(1, []string{"409 conflict"}, "roles", "bind", "--name", "security", "--provider", "github", "--role", "viewer", "--subject", "alice")
	s.wants(1, []string{"admits every token"}, "roles", "bind", "--name", "all", "--provider", "github", "--role", "viewer", "--subject-pattern", ".*")
	s.wants(2, []string{"--role"}, "roles", "bind", "--name", "x", "--provider", "github", "--role", "root", "--subject", "alice")
	var list struct {
		Items []struct{ ID string } `json:"items"`
	}
	s.json(&list, "roles", "bindings", "--all")
	s.wants(0, []string{`"role": "responder"`}, "roles", "show", list.Items[0].ID)
	s.run(0, "roles", "unbind", list.Items[0].ID)
	s.wants(1, []string{"404 not_found"}, "roles", "show", list.Items[0].ID)
	s.wants(2, []string{"no id of a role binding"}, "roles", "unbind", "security")
	s.run(0, "roles", "bindings")

	web := strings.TrimSpace(s.run(0, "api-tokens", "create", "--name", "web team", "--role", "operator", "--scale-set", "web", "--owner", "person:https://login.example|alice", "--expires-in", "1h"))
	s.wants(0, []string{"web team", "operator", "scale set web", "person:https://login.example|alice"}, "api-tokens")
	if r := assay(t, []string{s.env[0], "ASSAY_TOKEN=" + web}, "policies"); r.code != 1 || !strings.Contains(r.stderr, "403 scope_forbids") {
		t.Errorf("a token for some machines: %+v", r)
	}
}
