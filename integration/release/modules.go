package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const self = "github.com/assay-verifier/assay"

// programs are what a release consists of, with their build tags. The last is the service with PKCS #11.
var programs = []struct{ name, pkg, tags string }{
	{"assay", self + "/cmd/assay", ""},
	{"assay-agent", self + "/cmd/assay-agent", ""},
	{"assayd", self + "/cmd/assayd", ""},
	{"assayd with PKCS #11", self + "/cmd/assayd", "pkcs11"},
}

// module is one that a program is linked from.
type module struct {
	Path, Version, Dir string
	needs              map[string]bool // paths of modules whose packages its own packages import
}

// modulesOf lists what the packages of a program come from, ours included, by path. environment holds GOOS and the like.
func modulesOf(pkg, tags string, environment ...string) (map[string]*module, error) {
	cmd := exec.Command("go", "list", "-deps", "-tags", tags, "-json=ImportPath,Standard,Module,Imports", pkg)
	cmd.Env = append(os.Environ(), environment...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, stderr.String())
	}
	type listed struct {
		ImportPath string
		Standard   bool
		Module     *struct{ Path, Version, Dir string }
		Imports    []string
	}
	var all []listed
	owner := map[string]string{} // a package's module
	modules := map[string]*module{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		if p.Standard || p.Module == nil {
			continue
		}
		all = append(all, p)
		owner[p.ImportPath] = p.Module.Path
		if modules[p.Module.Path] == nil {
			modules[p.Module.Path] = &module{Path: p.Module.Path, Version: p.Module.Version, Dir: p.Module.Dir, needs: map[string]bool{}}
		}
	}
	for _, p := range all {
		for _, imported := range p.Imports {
			if to := owner[imported]; to != "" && to != p.Module.Path {
				modules[p.Module.Path].needs[to] = true
			}
		}
	}
	return modules, nil
}

// files reads the files of a module's folder that begin with one of the names, whatever their case, in their order.
func files(dir string, names ...string) (map[string]string, []string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	texts := map[string]string{}
	var order []string
	for _, e := range entries {
		upper := strings.ToUpper(e.Name())
		if e.IsDir() || !slices.ContainsFunc(names, func(n string) bool { return upper == n || strings.HasPrefix(upper, n+".") }) {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, nil, err
		}
		texts[e.Name()] = string(raw)
		order = append(order, e.Name())
	}
	return texts, order, nil
}

// licence is what a module says of its use: the SPDX expression, and the texts that a copy has to carry.
type licence struct {
	expression string
	texts      []string
}

// moreTexts are licences of parts of a module that stand in files of another place, with the expression for the whole.
var moreTexts = map[string]struct {
	files      []string
	expression string
}{
	"github.com/wneessen/go-mail": {[]string{"LICENSES/BSD-3-Clause.txt"}, "BSD-3-Clause AND MIT"}, // package smtp comes from Go; CC-BY-ND-4.0 is its logo's
}

// licenceOfModule reads the licence of a module from its own folder.
func licenceOfModule(path, dir string) (licence, error) {
	texts, order, err := files(dir, "LICENSE", "LICENCE", "COPYING")
	if err != nil {
		return licence{}, fmt.Errorf("%s: %w", path, err)
	}
	if len(order) != 1 {
		return licence{}, fmt.Errorf("%s: %d files say a licence, and not one", path, len(order))
	}
	text := texts[order[0]]
	expression, err := licenceOf(path, text)
	if err != nil {
		return licence{}, err
	}
	found := licence{expression, []string{text}}
	if more, ok := moreTexts[path]; ok {
		found.expression = more.expression
		for _, file := range more.files {
			raw, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				return licence{}, fmt.Errorf("%s: %w", path, err)
			}
			if _, err := licenceOf(path, string(raw)); err != nil {
				return licence{}, err
			}
			found.texts = append(found.texts, string(raw))
		}
	}
	notices, order, err := files(dir, "NOTICE", "PATENTS")
	if err != nil {
		return licence{}, fmt.Errorf("%s: %w", path, err)
	}
	for _, file := range order {
		found.texts = append(found.texts, notices[file])
	}
	return found, nil
}
