package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// root is the repository's folder, where the tool runs.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestListOfLicences: THIRD_PARTY.md is of what go.mod names now, and everything in it has a licence that is allowed.
func TestListOfLicences(t *testing.T) {
	want, err := thirdParty(root(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, "../../THIRD_PARTY.md"); got != want {
		t.Error("THIRD_PARTY.md is out of date: run `make licenses`, and read what has changed")
	}
}

// TestLicencesAreToldByTheirWholeText: what stands in a licence beside its known text is not passed over.
func TestLicencesAreToldByTheirWholeText(t *testing.T) {
	apache := read(t, "../../LICENSE")
	mit := read(t, "../../server/ui/static/uplot.LICENSE")
	for name, c := range map[string]struct{ text, want, problem string }{
		"Apache":                     {apache, "Apache-2.0", ""},
		"MIT":                        {mit, "MIT", ""},
		"both":                       {mit + "\n" + apache, "Apache-2.0 AND MIT", ""},
		"MIT with another condition": {mit + "\nThe Software shall be used for Good, not Evil.", "", "more than a licence"},
		"Apache with a clause":       {apache + "\nCommons Clause License Condition v1.0: the grant does not include the right to Sell the Software.", "", "more than a licence"},
		"Apache with a word changed": {strings.Replace(apache, "perpetual", "revocable", 1), "", "another text"},
		"MIT with a word changed":    {strings.Replace(mit, "without restriction", "with restriction", 1), "", "no licence that is known"},
		"GPL":                        {"GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007", "", "no licence that is known"},
		"nothing":                    {"", "", "no licence that is known"},
	} {
		got, err := classify(c.text)
		if got != c.want || (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := licenceOf("go.yaml.in/yaml/v3", "a text that nobody has read"); err == nil || !strings.Contains(err.Error(), "has changed") {
		t.Errorf("another text of a module whose licence was read: %v", err)
	}
}

// TestUnwantedLicenceIsRefused: a licence that is known and not allowed is refused.
func TestUnwantedLicenceIsRefused(t *testing.T) {
	if !allowed["MIT"] {
		t.Fatal("MIT is not allowed")
	}
	delete(allowed, "MIT")
	defer func() { allowed["MIT"] = true }()
	if _, err := licenceOf("example.org/m", read(t, "../../server/ui/static/uplot.LICENSE")); err == nil || !strings.Contains(err.Error(), "not among those") {
		t.Errorf("a licence that is not allowed: %v", err)
	}
}

// TestShippedFilesAreOfTheirVersion: what the list says of files that are no modules is what the files say.
func TestShippedFilesAreOfTheirVersion(t *testing.T) {
	for _, e := range embedded {
		said := read(t, filepath.Join("../..", filepath.Dir(e.file), "README.md"))
		if !regexp.MustCompile("`" + e.name + "` " + regexp.QuoteMeta(e.version) + "\\b").MatchString(said) {
			t.Errorf("%s is not said to be of version %s where it lies", e.file, e.version)
		}
	}
}

// schema compiles the published schema of CycloneDX 1.6.
func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	packed, err := gzip.NewReader(strings.NewReader(read(t, "testdata/bom-1.6.schema.json.gz")))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	add := func(name string, doc any, err error) {
		t.Helper()
		if err == nil {
			err = c.AddResource("http://cyclonedx.org/schema/"+name, doc)
		}
		if err != nil {
			t.Fatal(name, err)
		}
	}
	main, err := jsonschema.UnmarshalJSON(packed)
	add("bom-1.6.schema.json", main, err)
	spdx, err := jsonschema.UnmarshalJSON(strings.NewReader(read(t, "testdata/spdx.schema.json")))
	add("spdx.schema.json", spdx, err)
	jsf, err := jsonschema.UnmarshalJSON(strings.NewReader(read(t, "testdata/jsf-0.82.schemax.json")))
	add("jsf-0.82.schema.json", jsf, err)
	c.AssertFormat()
	s, err := c.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestBillsOfMaterials: the bill of each program that is built holds to the published schema, names every module that the file says it
// was linked from with its version, hash and licence, and is the same when it is made again.
func TestBillsOfMaterials(t *testing.T) {
	t.Chdir(root(t))
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", dir+"/", "./cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Chdir("integration/release")
	compiled := schema(t)
	t.Chdir(root(t))
	for program, carries := range map[string][]string{
		"assay-agent": {"pkg:golang/github.com/google/go-tpm@", "pkg:golang/std@"},
		"assay":       {"pkg:golang/cel.dev/cel-go@", "pkg:golang/std@"},
		"assayd":      {"pkg:golang/github.com/jackc/pgx/v5@", "pkg:npm/uplot@1.6.32", "pkg:npm/redoc@2.5.4"},
	} {
		file := filepath.Join(dir, program)
		first, err := sbom(".", file, "v1.2.3", at)
		if err != nil {
			t.Fatal(program, err)
		}
		again, err := sbom(".", file, "v1.2.3", at)
		if err != nil || !bytes.Equal(first, again) {
			t.Errorf("%s: made again it is another bill (%v)", program, err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(first))
		if err != nil {
			t.Fatal(program, err)
		}
		if err := compiled.Validate(doc); err != nil {
			t.Errorf("%s: against the schema: %v", program, err)
		}
		var b bom
		if err := json.Unmarshal(first, &b); err != nil {
			t.Fatal(err)
		}
		refs := map[string]bool{b.Metadata.Component.Ref: true}
		for _, c := range b.Components {
			refs[c.Ref] = true
			if len(c.Licences) != 1 || c.Version == "" || c.Name != "std" && len(c.Hashes) != 1 {
				t.Errorf("%s: %s: %+v", program, c.Ref, c)
			}
		}
		if len(refs) != len(b.Components)+1 || len(b.Dependencies) != len(refs) {
			t.Errorf("%s: %d components, %d references, %d dependencies", program, len(b.Components), len(refs), len(b.Dependencies))
		}
		reached := map[string]bool{}
		for _, d := range b.Dependencies {
			for _, to := range d.Depends {
				if reached[to] = true; !refs[to] {
					t.Errorf("%s: %s depends on %s, which is not in the bill", program, d.Ref, to)
				}
			}
		}
		for _, c := range b.Components {
			if !reached[c.Ref] {
				t.Errorf("%s: nothing depends on %s", program, c.Ref)
			}
		}
		for _, want := range carries {
			if !strings.Contains(string(first), `"purl": "`+want) {
				t.Errorf("%s: no component %s", program, want)
			}
		}
	}
	broken, err := jsonschema.UnmarshalJSON(strings.NewReader(`{"bomFormat": "CycloneDX", "specVersion": "1.6", "components": [{"type": "librarie", "name": "x"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if compiled.Validate(broken) == nil {
		t.Error("the schema passes a type of component that does not exist")
	}
}

// TestBillIsOfTheFile: a file that was not built from the sources that are here gets no bill, nor does a module without its hash.
func TestBillIsOfTheFile(t *testing.T) {
	sources := map[string]*module{self: {Path: self}, "example.org/m": {Path: "example.org/m", Version: "v1.0.0"}}
	m := &debug.Module{Path: "example.org/m", Version: "v1.0.0"}
	if err := agree("assay", []*debug.Module{m}, sources); err != nil {
		t.Error(err)
	}
	for name, linked := range map[string][]*debug.Module{
		"another version": {{Path: "example.org/m", Version: "v1.0.1"}},
		"another module":  {m, {Path: "example.org/n", Version: "v1.0.0"}},
		"one less":        {},
		"replaced":        {{Path: "example.org/m", Version: "v1.0.0", Replace: &debug.Module{Path: "example.org/fork"}}},
	} {
		if agree("assay", linked, sources) == nil {
			t.Errorf("%s: file and sources agree", name)
		}
	}
	for _, sum := range []string{"", "h1:", "h2:" + strings.Repeat("A", 43) + "=", "h1:AAAA"} {
		if _, err := moduleComponent(sources["example.org/m"], sum); err == nil || !strings.Contains(err.Error(), "no SHA-256") {
			t.Errorf("%q is a hash: %v", sum, err)
		}
	}
}

// TestTimeOfABill: the time is given or the commit's, never that of the run.
func TestTimeOfABill(t *testing.T) {
	if at, err := commitTime("1764028800"); err != nil || at.Unix() != 1764028800 {
		t.Errorf("%v, %v", at, err)
	}
	for _, bad := range []string{"yesterday", "-1", "1.5"} {
		if _, err := commitTime(bad); err == nil {
			t.Errorf("%q is a time", bad)
		}
	}
}
