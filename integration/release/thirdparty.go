package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// shipped is a file of somebody else's that assayd carries and that is no Go module.
type shipped struct {
	name, version, purl, expression string
	file                            string // of this repository
	texts                           []string
}

var embedded = []shipped{
	{"redoc", "2.5.4", "pkg:npm/redoc@2.5.4", "MIT", "server/docs/redoc.standalone.js.gz", []string{"server/docs/redoc.LICENSE", "server/docs/redoc.standalone.js.LICENSE.txt"}},
	{"uplot", "1.6.32", "pkg:npm/uplot@1.6.32", "MIT", "server/ui/static/uplot.js", []string{"server/ui/static/uplot.LICENSE"}},
}

// part is a line of the list: something that programs of ours carry.
type part struct {
	name, version, where, expression string
	in                               []string // programs
	texts                            []string
}

// parts lists all that the programs carry, by name. root is the repository's folder.
func parts(root string) ([]part, error) {
	byName := map[string]*part{}
	for _, program := range programs {
		modules, err := modulesOf(program.pkg, program.tags, "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED="+cgo(program.tags))
		if err != nil {
			return nil, err
		}
		for path, m := range modules {
			if path == self {
				continue
			}
			if byName[path] == nil {
				l, err := licenceOfModule(path, m.Dir)
				if err != nil {
					return nil, err
				}
				byName[path] = &part{name: path, version: m.Version, where: "https://pkg.go.dev/" + path + "@" + m.Version, expression: l.expression, texts: l.texts}
			}
			byName[path].in = append(byName[path].in, program.name)
		}
	}
	std, err := standardLibrary(byName["golang.org/x/sys"])
	if err != nil {
		return nil, err
	}
	byName[std.name] = &std
	for _, e := range embedded {
		p := part{name: e.name, version: e.version, where: "https://www.npmjs.com/package/" + e.name + "/v/" + e.version, expression: e.expression, in: []string{"assayd", "assayd with PKCS #11"}}
		for _, file := range e.texts {
			raw, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				return nil, err
			}
			p.texts = append(p.texts, string(raw))
		}
		byName[e.name] = &p
	}
	list := make([]part, 0, len(byName))
	for _, p := range byName {
		list = append(list, *p)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].name < list[j].name })
	return list, nil
}

func cgo(tags string) string {
	if tags == "" {
		return "0"
	}
	return "1"
}

// standardLibrary is Go's own. Its licence is that of golang.org/x/sys, word by word; an installed Go does not always bring it along.
func standardLibrary(likewise *part) (part, error) {
	if likewise == nil {
		return part{}, errors.New("golang.org/x/sys, whose licence is Go's, is in no program")
	}
	p := part{name: "std", version: "of the Go that builds", where: "https://pkg.go.dev/std", expression: likewise.expression, texts: likewise.texts}
	for _, program := range programs {
		p.in = append(p.in, program.name)
	}
	return p, nil
}

// thirdParty writes THIRD_PARTY.md: the list, and each text once, with those that it is of.
func thirdParty(root string) (string, error) {
	list, err := parts(root)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(`# What the programs carry that others made

Made by ` + "`make licenses`" + ` from what each program is linked from (linux/amd64) and from the licences that came with it; a test fails
where it is out of date, or where a licence is not among those that are allowed (integration/release). Nothing here was changed: the
source of each part, those under the Mozilla Public License included, is where its name leads. Programs and libraries that only tests
and builds use are not listed.

| Part | Version | Licence | In |
|---|---|---|---|
`)
	used := map[string][]string{}
	var order []string
	for _, p := range list {
		fmt.Fprintf(&b, "| [%s](%s) | %s | %s | %s |\n", p.name, p.where, p.version, p.expression, carriers(p.in))
		for _, text := range p.texts {
			text = tidy(text)
			if used[text] == nil {
				order = append(order, text)
			}
			if !slices.Contains(used[text], p.name) {
				used[text] = append(used[text], p.name)
			}
		}
	}
	for _, text := range order {
		fmt.Fprintf(&b, "\n## %s\n\n```text\n%s\n```\n", strings.Join(used[text], ", "), strings.ReplaceAll(text, "```", "'''"))
	}
	return b.String(), nil
}

// carriers names the programs shortly.
func carriers(in []string) string {
	in = slices.Clone(in)
	if slices.Contains(in, "assayd") {
		in = slices.DeleteFunc(in, func(p string) bool { return p == "assayd with PKCS #11" })
	}
	return strings.Join(in, ", ")
}

// tidy takes away the space around and at the ends of lines, so that one text is one.
func tidy(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " \t\f")
	}
	return strings.Trim(strings.Join(lines, "\n"), "\n")
}
