package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// A rule of a policy file is asked offline as by the service; what its author got wrong is told with line and column.
func TestVerifyPolicyRules(t *testing.T) {
	evidence, nonce := bootEvidence(t, "sb-on-1"), bootNonce(t, "sb-on-1")
	judge := func(rule string, args ...string) (status, detail string) {
		t.Helper()
		policy := writeFile(t, []byte(`{"rules": [`+rule+`]}`))
		v, _ := verify(t, append([]string{"--evidence", evidence, "--nonce", nonce, "--policy", policy}, args...)...)
		for _, c := range v.Checks {
			if c.Code == "policy.rules" {
				return c.Status, c.Detail
			}
		}
		return "", ""
	}
	const onLinux = `{"name": "linux", "expression": "machine.os == 'linux' && machine.labels['env'] == 'prod'"}`
	for _, c := range []struct {
		rule, status, detail string
		args                 []string
	}{
		{`{"name": "on", "expression": "claims.secure_boot == true"}`, "pass", "1 of 1 rules hold", nil},
		{`{"name": "locked", "expression": "claims.kernel_cmdline.contains('lockdown=')", "message": "not locked down"}`, "fail", "locked: not locked down", nil},
		{`{"name": "locked", "effect": "warn", "expression": "claims.kernel_cmdline.contains('lockdown=')"}`, "warn", "locked: it is not true that", nil},
		{onLinux, "fail", "linux could not be evaluated: no inventory tells of the machine", nil},
		{onLinux, "pass", "1 of 1 rules hold", []string{"--machine", "os=linux", "--machine", "labels.env=prod"}},
	} {
		if status, detail := judge(c.rule, c.args...); status != c.status || !strings.HasPrefix(detail, c.detail) {
			t.Errorf("%s: %s %q, want %s %q", c.rule, status, detail, c.status, c.detail)
		}
	}
	if r := assay(t, nil, "verify", "--evidence", evidence, "--machine", "colour=red"); r.code != 2 || !strings.Contains(r.stderr, `no field "colour"`) {
		t.Errorf("%d %s", r.code, r.stderr)
	}
	bad := writeFile(t, []byte(`{"rules": [{"name": "a", "expression": "true &&\n  claims.secure_bot"}, {"name": "b", "expression": "1 +", "applies_when": "2"}]}`))
	for _, args := range [][]string{{"verify", "--evidence", evidence, "--policy", bad}, {"policy", "lint", bad}} {
		r := assay(t, nil, args...)
		for _, text := range []string{"/rules/0/expression: line 2, column 9: claims have no field", "/rules/1/applies_when: line 1, column 1: ", "/rules/1/expression: line 1, column 4: "} {
			if r.code != 2 || !strings.Contains(r.stderr, text) {
				t.Errorf("%v: exit %d lacks %q:\n%s", args, r.code, text, r.stderr)
			}
		}
	}
}

// Each template is listed, can be printed, and passes lint; none needs a service.
func TestPolicyTemplates(t *testing.T) {
	var list struct {
		Items []templateHead `json:"items"`
	}
	if err := json.Unmarshal([]byte(assay(t, nil, "policy", "template", "-o", "json").stdout), &list); err != nil || len(list.Items) != 5 {
		t.Fatal(list, err)
	}
	human := assay(t, nil, "policy", "template").stdout
	for _, x := range list.Items {
		if !strings.Contains(human, x.Name) || !strings.Contains(human, x.Title) {
			t.Errorf("%s is not in\n%s", x.Name, human)
		}
		printed := assay(t, nil, "policy", "template", x.Name)
		if printed.code != 0 || !strings.Contains(printed.stderr, x.Title) {
			t.Errorf("%s: %d %s", x.Name, printed.code, printed.stderr)
		}
		if r := assay(t, nil, "policy", "lint", writeFile(t, []byte(printed.stdout))); r.code != 0 || !strings.Contains(r.stdout, "which all compile") {
			t.Errorf("%s: %d %s%s", x.Name, r.code, r.stdout, r.stderr)
		}
	}
	if r := assay(t, nil, "policy", "template", "mainframe"); r.code != 1 || !strings.Contains(r.stderr, "mainframe") {
		t.Errorf("%d %s", r.code, r.stderr)
	}
	if r := assay(t, nil, "policy", "lint", writeFile(t, []byte(`{"rulez": []}`))); r.code != 2 || !strings.Contains(r.stderr, "/rulez") {
		t.Errorf("%d %s", r.code, r.stderr)
	}
}
