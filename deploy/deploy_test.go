// Package deploy holds no code: these tests hold the deployment files to what deploy/README.md promises,
// where no container engine and no init system is at hand.
package deploy

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/oasdiff/yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// instructions are the Dockerfile's lines, continued ones joined, comments left out.
func instructions(t *testing.T) []string {
	t.Helper()
	text := regexp.MustCompile(`(?m)^#.*\n`).ReplaceAllString(read(t, "Dockerfile"), "")
	text = strings.ReplaceAll(text, "\\\n", " ")
	var out []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

// pinnedImage is an image with a version down to the patch level, or with a digest.
var pinnedImage = regexp.MustCompile(`^[a-z0-9./-]+(:\d+\.\d+(\.\d+)?[a-z0-9.-]*|@sha256:[0-9a-f]{64})$`)

func TestDockerfile(t *testing.T) {
	stages := map[string][]string{}
	order := []string{}
	stage := ""
	for _, line := range instructions(t) {
		word, rest, _ := strings.Cut(line, " ")
		if word == "FROM" {
			image, name, named := strings.Cut(rest, " AS ")
			if !named {
				t.Fatalf("stage without a name: %s", line)
			}
			if image != "scratch" && !pinnedImage.MatchString(image) {
				t.Errorf("image %q is not pinned", image)
			}
			stage = name
			order = append(order, stage)
			stages[stage] = []string{"FROM " + image}
			continue
		}
		if stage == "" {
			t.Fatalf("%s comes before the first stage", line)
		}
		stages[stage] = append(stages[stage], line)
	}
	if last := order[len(order)-1]; last != "assayd" {
		t.Errorf("the image that is built by default is %q, not assayd", last)
	}
	for _, name := range []string{"assayd", "agent"} {
		lines := stages[name]
		text := strings.Join(lines, "\n")
		if len(lines) == 0 || lines[0] != "FROM scratch" {
			t.Errorf("%s: not made from scratch", name)
		}
		if !regexp.MustCompile(`(?m)^USER [1-9]\d{3,}:[1-9]\d{3,}$`).MatchString(text) {
			t.Errorf("%s: no numeric unprivileged USER; Kubernetes' runAsNonRoot needs one", name)
		}
		if strings.Contains(text, "\nRUN ") || strings.Contains(text, "\nADD ") {
			t.Errorf("%s: RUN or ADD in an image without a shell", name)
		}
		if !strings.Contains(text, "/etc/ssl/certs/ca-certificates.crt") {
			t.Errorf("%s: no CA certificates", name)
		}
		for _, line := range lines {
			for _, exec := range []string{"ENTRYPOINT", "CMD"} {
				if strings.HasPrefix(line, exec+" ") && !strings.HasPrefix(line, exec+" [") {
					t.Errorf("%s: %s needs a shell that the image does not have", name, line)
				}
			}
			if regexp.MustCompile(`(?i)^(ENV|ARG) .*(PASSWORD|TOKEN|SECRET)`).MatchString(line) {
				t.Errorf("%s: %s puts a secret into the image", name, line)
			}
		}
	}
	if !strings.Contains(strings.Join(stages["assayd"], "\n"), `HEALTHCHECK`) {
		t.Error("assayd: no HEALTHCHECK")
	}
	if build := strings.Join(stages["build"], "\n"); !strings.Contains(build, "CGO_ENABLED=0") || !strings.Contains(build, "-trimpath") {
		t.Error("build: the binaries must be static and carry no paths")
	}
	if !strings.Contains(read(t, "Dockerfile.dockerignore"), "deploy/secrets") {
		t.Error("secrets would become part of the build context")
	}
}

// TestBuildGoVersion: the image builds with a Go that go.mod accepts.
func TestBuildGoVersion(t *testing.T) {
	want := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(read(t, "../go.mod"))[1]
	if !strings.Contains(read(t, "Dockerfile"), "FROM golang:"+want+".") {
		t.Errorf("the Dockerfile does not build with Go %s of go.mod", want)
	}
}

type service struct {
	Image       string            `json:"image"`
	Build       map[string]any    `json:"build"`
	ReadOnly    bool              `json:"read_only"`
	CapDrop     []string          `json:"cap_drop"`
	SecurityOpt []string          `json:"security_opt"`
	Ports       []string          `json:"ports"`
	Networks    []string          `json:"networks"`
	Volumes     []string          `json:"volumes"`
	Secrets     []string          `json:"secrets"`
	Environment map[string]string `json:"environment"`
	Healthcheck map[string]any    `json:"healthcheck"`
	DependsOn   map[string]struct {
		Condition string `json:"condition"`
	} `json:"depends_on"`
}

type compose struct {
	Services map[string]service        `json:"services"`
	Networks map[string]map[string]any `json:"networks"`
	Volumes  map[string]map[string]any `json:"volumes"`
	Secrets  map[string]struct {
		File string `json:"file"`
	} `json:"secrets"`
}

func TestComposeFitsItsSchema(t *testing.T) {
	schema, err := jsonschema.UnmarshalJSON(strings.NewReader(read(t, "testdata/compose-spec.json")))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("compose-spec.json", schema); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("compose-spec.json")
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := yaml.YAMLToJSON([]byte(read(t, "../docker-compose.yml")))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
	if err != nil {
		t.Fatal(err)
	}
	if err := compiled.Validate(doc); err != nil {
		t.Errorf("docker-compose.yml: %v", err)
	}
	// The schema does refuse: a service with an unknown key must not pass.
	doc.(map[string]any)["services"].(map[string]any)["assay"].(map[string]any)["imagee"] = "x"
	if compiled.Validate(doc) == nil {
		t.Error("the schema accepts a misspelt key")
	}
}

func TestComposeIsHardened(t *testing.T) {
	asJSON, err := yaml.YAMLToJSON([]byte(read(t, "../docker-compose.yml")))
	if err != nil {
		t.Fatal(err)
	}
	var c compose
	if err := json.Unmarshal(asJSON, &c); err != nil {
		t.Fatal(err)
	}
	for name, s := range c.Services {
		if !s.ReadOnly || len(s.CapDrop) != 1 || s.CapDrop[0] != "ALL" || len(s.SecurityOpt) == 0 || s.SecurityOpt[0] != "no-new-privileges:true" {
			t.Errorf("%s: not hardened: %+v", name, s)
		}
		if s.Build == nil && !pinnedImage.MatchString(s.Image) {
			t.Errorf("%s: image %q is not pinned", name, s.Image)
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s: port %s is open to the world by default", name, p)
			}
		}
		for _, n := range s.Networks {
			if _, ok := c.Networks[n]; !ok {
				t.Errorf("%s: network %q is not declared", name, n)
			}
		}
		for _, v := range s.Volumes {
			if volume, _, _ := strings.Cut(v, ":"); c.Volumes[volume] == nil {
				t.Errorf("%s: volume %q is not declared", name, volume)
			}
		}
		for _, secret := range s.Secrets {
			if c.Secrets[secret].File == "" {
				t.Errorf("%s: secret %q has no file", name, secret)
			}
		}
		for key, value := range s.Environment {
			if regexp.MustCompile(`(?i)password|token|secret`).MatchString(key) && !strings.HasPrefix(value, "/run/secrets/") {
				t.Errorf("%s: %s holds a secret", name, key)
			}
			if regexp.MustCompile(`://[^/]*:[^/]*@`).MatchString(value) {
				t.Errorf("%s: %s holds a password", name, key)
			}
		}
	}
	if internal, _ := c.Networks["database"]["internal"].(bool); !internal {
		t.Error("the database's network is not internal")
	}
	if c.Services["postgres"].Healthcheck == nil || len(c.Services["postgres"].Ports) > 0 {
		t.Error("postgres: needs a health check and no open port")
	}
	if got := c.Services["assay"].DependsOn["migrate"].Condition; got != "service_completed_successfully" {
		t.Errorf("assay starts before the migration is done (%q)", got)
	}
	if got := c.Services["migrate"].DependsOn["postgres"].Condition; got != "service_healthy" {
		t.Errorf("migrate starts before Postgres answers (%q)", got)
	}
}

// TestUnits: what a unit must have whatever else is set in it. systemd-analyze sees to the rest (lint.sh).
func TestUnits(t *testing.T) {
	for _, unit := range []string{"assayd.service", "assay-agent.service"} {
		text := read(t, filepath.Join("systemd", unit))
		for _, line := range []string{"NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "CapabilityBoundingSet=",
			"SystemCallFilter=@system-service", "UMask=0077", "StateDirectoryMode=0700", "WantedBy=multi-user.target"} {
			if !strings.Contains(text, "\n"+line+"\n") {
				t.Errorf("%s: no %s", unit, line)
			}
		}
		if strings.Contains(text, "\nUser=root") || !strings.Contains(text, "\nUser=assay") {
			t.Errorf("%s: needs a user of its own", unit)
		}
	}
	agent := read(t, "systemd/assay-agent.service")
	if !strings.Contains(agent, "DevicePolicy=closed\n") || !strings.Contains(agent, "DeviceAllow=/dev/tpmrm0 rw\n") {
		t.Error("the agent may use the TPM and no other device")
	}
	// Outside of its own state the drop-in opens one path, and no capability but the one that this path needs.
	dropIn := read(t, "systemd/assay-agent.service.d/confidential.conf")
	for _, setting := range []string{"CapabilityBoundingSet=", "AmbientCapabilities=", "ReadWritePaths=", "DeviceAllow="} {
		if strings.Count(dropIn, "\n"+setting) != 1 {
			t.Errorf("confidential.conf: %s", setting)
		}
	}
	if strings.Count(dropIn, "CAP_") != 2 || !strings.Contains(dropIn, "\nReadWritePaths=-/sys/kernel/config/tsm/report\n") {
		t.Error("confidential.conf opens more than it needs")
	}
}

// TestLint runs the linter of this folder, so that it cannot rot.
func TestLint(t *testing.T) {
	if out, err := exec.Command("./lint.sh").CombinedOutput(); err != nil {
		t.Errorf("lint.sh: %v\n%s", err, out)
	}
}

// TestSecrets: made once, for their owner alone, the two files with one password.
func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "secrets.sh")
	if err := os.WriteFile(script, []byte(read(t, "secrets.sh")), 0o700); err != nil { //nolint:gosec // a script has to be executable
		t.Fatal(err)
	}
	run := func() {
		t.Helper()
		if out, err := exec.Command(script).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	run()
	password := read(t, filepath.Join(dir, "secrets/postgres_password"))
	if !regexp.MustCompile(`^[a-zA-Z0-9]{40}$`).MatchString(password) {
		t.Errorf("password %q", password)
	}
	if got, want := read(t, filepath.Join(dir, "secrets/pgpass")), "postgres:5432:assay:assay:"+password+"\n"; got != want {
		t.Errorf("pgpass is %q, want %q", got, want)
	}
	info, err := os.Stat(filepath.Join(dir, "secrets"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the folder: %v, %v", info.Mode(), err)
	}
	run()
	if read(t, filepath.Join(dir, "secrets/postgres_password")) != password {
		t.Error("a second run replaced the password")
	}
}
