package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// failures are what SECURITY.md has to name a test for.
var failures = []string{"CVE-2026-6420", "CVE-2026-1709", "CVE-2025-13609", "CVE-2025-1057", "CVE-2023-38201", "CVE-2023-38200", "CVE-2023-44487", "CVE-2023-3674",
	"CVE-2022-3500", "CVE-2022-1053", "CVE-2022-23948", "CVE-2022-23949", "CVE-2022-23950", "CVE-2022-23951", "CVE-2022-23952", "CVE-2021-3406",
	"GHSA-99cg-575x-774p", "GHSA-hcm6-rjfh-f25p", "event types confused", "PCRs relabelled", "two machines combined", "baseline not evaluated", "ended session", "relayed evidence"}

// attackers are those that the threat model has a section for.
var attackers = []string{"On the network", "In the guest", "In the hypervisor", "In CI", "Another tenant", "In the database"}

var named = regexp.MustCompile("`((?:[a-z0-9_-]+/)*[a-z0-9_-]+)\\.((?:Test|Fuzz|Benchmark)[A-Za-z0-9_]+)`")

// testsOf are the functions in the test files of a package, with the text of their file.
func testsOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("../..", dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, path := range paths {
		text := read(t, path)
		f, err := parser.ParseFile(token.NewFileSet(), path, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && len(f.Type.Params.List) == 1 {
				found[f.Name.Name] = text
			}
		}
	}
	return found
}

// TestSecurityNamesTestsThatExist: every test that SECURITY.md names is in the tree, each failure of the list has one that says in its name
// or beside it, in its file, which failure it is, and each attacker has one, and something that does not hold.
func TestSecurityNamesTestsThatExist(t *testing.T) {
	text := read(t, "../../SECURITY.md")
	packages := map[string]map[string]string{}
	file := func(dir, name string) (string, bool) {
		if packages[dir] == nil {
			packages[dir] = testsOf(t, dir)
		}
		text, ok := packages[dir][name]
		return text, ok
	}
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		if _, ok := file(m[1], m[2]); !ok {
			t.Errorf("SECURITY.md names %s.%s, which is no test of that package", m[1], m[2])
		}
	}
	rows := map[string]string{}
	for line := range strings.Lines(text) {
		if cells := strings.Split(line, "|"); len(cells) == 5 {
			rows[strings.TrimSpace(cells[1])] = cells[3]
		}
	}
	for _, failure := range failures {
		tests := named.FindAllStringSubmatch(rows[failure], -1)
		if len(tests) == 0 {
			t.Errorf("SECURITY.md names no test for %s", failure)
		}
		if !strings.HasPrefix(failure, "CVE-") && !strings.HasPrefix(failure, "GHSA-") {
			continue
		}
		for _, m := range tests {
			if f, _ := file(m[1], m[2]); !strings.Contains(f, failure) && !strings.Contains(m[2], strings.ReplaceAll(failure, "-", "")) {
				t.Errorf("%s.%s does not say that it is about %s", m[1], m[2], failure)
			}
		}
	}
	sections := map[string]string{}
	for _, section := range strings.Split(text, "\n### ")[1:] {
		section, _, _ = strings.Cut(section, "\n## ")
		title, body, _ := strings.Cut(section, "\n")
		sections[title] = body
	}
	if len(sections) != len(attackers) {
		t.Errorf("%d attackers are described", len(sections))
	}
	for _, attacker := range attackers {
		said := false
		for title, body := range sections {
			if strings.HasPrefix(title, attacker) {
				said = strings.Contains(body, "*Can*") && strings.Contains(body, "*Does not hold:*") && named.MatchString(body)
			}
		}
		if !said {
			t.Errorf("of the attacker %q SECURITY.md does not say what he can do, what holds with its test, and what does not hold", attacker)
		}
	}
}
