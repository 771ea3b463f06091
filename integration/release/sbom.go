package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// A bill of materials in the form of CycloneDX 1.6 (ECMA-424), as far as it is written here. Its schema checks it in a test.
type bom struct {
	Schema       string       `json:"$schema"`
	Format       string       `json:"bomFormat"`
	Spec         string       `json:"specVersion"`
	Serial       string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Lifecycle []phase   `json:"lifecycles"`
	Component component `json:"component"`
}

type phase struct {
	Phase string `json:"phase"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Licences   []choice   `json:"licenses,omitempty"`
	PURL       string     `json:"purl"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

// choice is a licence by its SPDX identifier, or an expression of several.
type choice struct {
	Licence    *identified `json:"license,omitempty"`
	Expression string      `json:"expression,omitempty"`
}

type identified struct {
	ID string `json:"id"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref     string   `json:"ref"`
	Depends []string `json:"dependsOn,omitempty"`
}

// serialSpace is the name space of serial numbers: the number of a bill is a UUID of version 5 over the SHA-256 of the program's file, so
// that the same file has the same bill.
var serialSpace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://"+self+"/sbom"))

func licences(expression string) []choice {
	if strings.Contains(expression, " ") {
		return []choice{{Expression: expression}}
	}
	return []choice{{Licence: &identified{expression}}}
}

func purl(modulePath, version string) string { return "pkg:golang/" + modulePath + "@" + version }

// sbom makes the bill of a program that was built: what its file itself says it was linked from (debug/buildinfo), with the hashes of
// go.sum, and the licence and the dependencies that the sources of just these modules show. It fails where file and sources disagree.
func sbom(root, file, version string, at time.Time) ([]byte, error) {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(raw)
	program := path.Base(info.Path)
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	modules, err := modulesOf(info.Path, settings["-tags"], "GOOS="+settings["GOOS"], "GOARCH="+settings["GOARCH"], "CGO_ENABLED="+settings["CGO_ENABLED"])
	if err != nil {
		return nil, err
	}
	refs := map[string]string{self: purl(self, version) + "#cmd/" + program}
	b := bom{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", Spec: "1.6", Version: 1,
		Serial: "urn:uuid:" + uuid.NewSHA1(serialSpace, sum[:]).String(),
		Metadata: metadata{Timestamp: at.UTC().Format(time.RFC3339), Lifecycle: []phase{{"build"}}, Component: component{
			Type: "application", Ref: refs[self], Name: program, Version: version, Hashes: []hash{{"SHA-256", hex.EncodeToString(sum[:])}},
			Licences: licences("Apache-2.0"), PURL: refs[self], Properties: buildProperties(info.GoVersion, settings),
		}},
	}
	if err := agree(file, info.Deps, modules); err != nil {
		return nil, err
	}
	for _, m := range info.Deps {
		c, err := moduleComponent(modules[m.Path], m.Sum)
		if err != nil {
			return nil, err
		}
		refs[m.Path] = c.Ref
		b.Components = append(b.Components, c)
	}
	for _, p := range slices.Sorted(maps.Keys(modules)) {
		d := dependency{Ref: refs[p]}
		for _, to := range slices.Sorted(maps.Keys(modules[p].needs)) {
			d.Depends = append(d.Depends, refs[to])
		}
		b.Dependencies = append(b.Dependencies, d)
	}
	others, err := besidesModules(root, program, info.GoVersion)
	if err != nil {
		return nil, err
	}
	for _, c := range others {
		b.Components = append(b.Components, c)
		i := slices.IndexFunc(b.Dependencies, func(d dependency) bool { return d.Ref == refs[self] })
		b.Dependencies[i].Depends = append(b.Dependencies[i].Depends, c.Ref)
		b.Dependencies = append(b.Dependencies, dependency{Ref: c.Ref})
	}
	out, err := json.MarshalIndent(b, "", "  ")
	return append(out, '\n'), err
}

// agree tells whether a file was linked from the modules that the sources here need, in their versions.
func agree(file string, linked []*debug.Module, modules map[string]*module) error {
	for _, m := range linked {
		if m.Replace != nil {
			return fmt.Errorf("%s: module %s is replaced by %s: a release is built from what go.sum names", file, m.Path, m.Replace.Path)
		}
		if listed := modules[m.Path]; listed == nil || listed.Version != m.Version {
			return fmt.Errorf("%s was linked from %s %s, and the sources here are not: build it anew", file, m.Path, m.Version)
		}
	}
	if ours := len(modules) - 1; len(linked) != ours {
		return fmt.Errorf("%s was linked from %d modules, and the sources here need %d: build it anew", file, len(linked), ours)
	}
	return nil
}

// buildProperties are what has to be the same to get the same bytes.
func buildProperties(goVersion string, settings map[string]string) []property {
	list := []property{{"assay:build:go", goVersion}}
	for _, key := range []string{"GOOS", "GOARCH", "GOAMD64", "GOARM64", "CGO_ENABLED", "-tags", "-trimpath"} {
		if v, ok := settings[key]; ok {
			list = append(list, property{"assay:build:" + key, v})
		}
	}
	return list
}

// moduleComponent describes a module. Its hash is that of go.sum (h1: SHA-256 over the names and hashes of its files), in hexadecimal.
func moduleComponent(m *module, sum string) (component, error) {
	digest, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sum, "h1:"))
	if err != nil || !strings.HasPrefix(sum, "h1:") || len(digest) != sha256.Size {
		return component{}, fmt.Errorf("module %s %s: go.sum says %q, which is no SHA-256", m.Path, m.Version, sum)
	}
	l, err := licenceOfModule(m.Path, m.Dir)
	if err != nil {
		return component{}, err
	}
	ref := purl(m.Path, m.Version)
	return component{Type: "library", Ref: ref, Name: m.Path, Version: m.Version, Hashes: []hash{{"SHA-256", hex.EncodeToString(digest)}},
		Licences: licences(l.expression), PURL: ref, Properties: []property{{"assay:go.sum", sum}}}, nil
}

// besidesModules are Go's standard library, and files that the service carries.
func besidesModules(root, program, goVersion string) ([]component, error) {
	std := purl("std", strings.TrimPrefix(goVersion, "go"))
	list := []component{{Type: "library", Ref: std, Name: "std", Version: strings.TrimPrefix(goVersion, "go"), Licences: licences("BSD-3-Clause"), PURL: std}}
	if program != "assayd" {
		return list, nil
	}
	for _, e := range embedded {
		raw, err := os.ReadFile(filepath.Join(root, e.file))
		if err != nil {
			return nil, err
		}
		digest := sha256.Sum256(raw)
		list = append(list, component{Type: "library", Ref: e.purl, Name: e.name, Version: e.version, Hashes: []hash{{"SHA-256", hex.EncodeToString(digest[:])}},
			Licences: licences(e.expression), PURL: e.purl, Properties: []property{{"assay:file", e.file}}})
	}
	return list, nil
}
