package anchors

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write subject, fingerprint and end of each certificate into bundle.json; sources are written by hand")

// derived is bundle.json with all that follows from the files taken from them. A certificate keeps the source that
// its fingerprint is listed with.
func derived(t *testing.T, index []byte) []byte {
	t.Helper()
	var entries []entry
	if err := json.Unmarshal(index, &entries); err != nil {
		t.Fatal(err)
	}
	sources := map[string]string{}
	for _, e := range entries {
		for _, c := range e.Certificates {
			sources[e.File+" "+c.SHA256] = c.Source
		}
	}
	for i := range entries {
		e := &entries[i]
		body, err := files.ReadFile("bundle/" + e.File)
		if err != nil {
			t.Fatal(err)
		}
		cs, err := certificates(body)
		if err != nil {
			t.Fatalf("%s: %v", e.File, err)
		}
		e.Certificates = nil
		for _, c := range cs {
			print := fingerprint(c)
			e.Certificates = append(e.Certificates, listed{Subject: c.Subject.String(), SHA256: print, NotAfter: c.NotAfter.UTC(), Source: sources[e.File+" "+print]})
		}
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(entries); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestTheListIsWhatTheFilesHold(t *testing.T) {
	index, err := files.ReadFile("bundle/bundle.json")
	if err != nil {
		t.Fatal(err)
	}
	want := derived(t, index)
	if *update {
		if err := os.WriteFile("bundle/bundle.json", want, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(index, want) {
		t.Error("bundle.json differs from the files; go test ./verifier/anchors -update writes it")
	}
	names, err := filepath.Glob("bundle/*.pem")
	if err != nil {
		t.Fatal(err)
	}
	all, err := Bundle()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for _, a := range all {
		if i := slices.Index(names, "bundle/"+a.File); i < 0 {
			t.Errorf("%s is listed twice, or is no file", a.File)
		} else {
			names = slices.Delete(names, i, i+1)
		}
		if !strings.HasPrefix(a.File, a.Purpose+"-") || a.Name == "" || !strings.Contains(a.Source, "@") || len(a.Certificates) == 0 {
			t.Errorf("%s is listed as %q for %q from %q", a.File, a.Name, a.Purpose, a.Source)
		}
		for _, c := range a.Certificates {
			key := a.Purpose + " " + fingerprint(c)
			if seen[key] != "" {
				t.Errorf("%s is in %s and in %s", c.Subject, seen[key], a.File)
			}
			seen[key] = a.File
		}
	}
	if len(names) > 0 {
		t.Errorf("not listed are %v", names)
	}
	var entries []entry
	if err := json.Unmarshal(index, &entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		for _, c := range e.Certificates {
			project, _, found := strings.Cut(c.Source, ":")
			if !found || !strings.Contains(e.Source, project) || !strings.HasSuffix(c.Source, ")") {
				t.Errorf("%s: %q comes from %q, the file from %q", e.File, c.Subject, c.Source, e.Source)
			}
		}
	}
}

func TestPurposes(t *testing.T) {
	names := func(purpose string) string {
		var out []string
		for _, c := range Purpose(purpose) {
			out = append(out, c.Subject.CommonName)
		}
		return strings.Join(out, ", ")
	}
	if got := names(SNP); got != "ARK-Genoa, ARK-Milan, ARK-Turin, SEV-Genoa, SEV-Milan, SEV-Turin, SEV-VLEK-Genoa, SEV-VLEK-Milan, SEV-VLEK-Turin" {
		t.Errorf("for snp there are %s", got)
	}
	if got := names(TDX); got != "Intel SGX Root CA" {
		t.Errorf("for tdx there are %s", got)
	}
	if a, e := names(AK), names(EK); a == "" || !strings.Contains(e, a) || !strings.Contains(e, "Infineon OPTIGA(TM) RSA Root CA") {
		t.Errorf("for ak there are %s; for ek %s", a, e)
	}
	if got := names("other"); got != "" {
		t.Error(got)
	}
}

func TestWhatIsNotAsListedIsAnError(t *testing.T) {
	index, _ := files.ReadFile("bundle/bundle.json")
	open := func(name string) ([]byte, error) { return files.ReadFile("bundle/" + name) }
	if _, err := read(index, open); err != nil {
		t.Fatal(err)
	}
	root, _ := files.ReadFile("bundle/tdx-intel.pem")
	with := func(body []byte) func(string) ([]byte, error) {
		return func(name string) ([]byte, error) {
			if name == "tdx-intel.pem" {
				return body, nil
			}
			return open(name)
		}
	}
	other, _ := files.ReadFile("bundle/ek-nationz.pem")
	leaf, err := os.ReadFile("../tee/testdata/snp/test-vcek.der")
	if err != nil {
		t.Fatal(err)
	}
	leafPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf})
	leafCerts, err := certificates(leafPEM)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(from, to string) []byte {
		if !bytes.Contains(index, []byte(from)) {
			t.Fatalf("bundle.json has no %q", from)
		}
		return bytes.Replace(index, []byte(from), []byte(to), 1)
	}
	asLeaf, _ := json.Marshal([]entry{{File: "tdx-intel.pem", Purpose: TDX, Certificates: []listed{
		{Subject: leafCerts[0].Subject.String(), SHA256: fingerprint(leafCerts[0]), NotAfter: leafCerts[0].NotAfter}}}})
	for story, c := range map[string]struct {
		index []byte
		open  func(string) ([]byte, error)
		want  string
	}{
		"another certificate":    {index, with(other), "SHA-256"},
		"one more":               {index, with(slices.Concat(root, other)), "2 certificates, 1 are listed"},
		"none":                   {index, with(nil), "0 certificates"},
		"a key beside it":        {index, with(append(root, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}})...)), "something else"},
		"text after it":          {index, with(append(root, "text"...)), "something else"},
		"what is no certificate": {index, with(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}})), "certificate 1"},
		"no authority":           {asLeaf, with(leafPEM), "no authority"},
		"another subject":        {replace(`"subject": "CN=Intel SGX Root CA`, `"subject": "CN=Other`), open, "subject"},
		"another end":            {replace(`"not_after": "2049-12-31`, `"not_after": "2048-12-31`), open, "ends"},
		"no purpose":             {replace(`"purpose": "tdx"`, `"purpose": "everything"`), open, "no purpose"},
		"no such file":           {replace(`"file": "tdx-intel.pem"`, `"file": "none.pem"`), open, "none.pem"},
		"no JSON":                {[]byte("["), open, "bundle.json"},
	} {
		if _, err := read(c.index, c.open); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", story, err, c.want)
		}
	}
}
