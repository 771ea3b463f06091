package rules

import (
	"embed"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/assay-verifier/assay/verifier"
)

//go:embed templates
var templateFiles embed.FS

// templateNames are the templates in the order in which they are listed.
var templateNames = []string{"windows", "grub", "uki", "cloud_vm", "confidential_vm"}

// Template is a policy to begin with, for one kind of machine.
type Template struct {
	Name        string
	Title       string
	Description string
	Policy      verifier.Policy
}

var templates = sync.OnceValues(func() ([]Template, error) {
	out := make([]Template, len(templateNames))
	for i, name := range templateNames {
		raw, err := templateFiles.ReadFile("templates/" + name + ".json")
		if err != nil {
			return nil, err
		}
		var file struct {
			Name        string          `json:"name"`
			Title       string          `json:"title"`
			Description string          `json:"description"`
			Policy      json.RawMessage `json:"policy"`
		}
		if err := verifier.DecodeStrict(raw, &file); err != nil {
			return nil, fmt.Errorf("template %s: %w", name, err)
		}
		policy, err := verifier.ParsePolicy(file.Policy)
		if err == nil {
			_, err = Compile(policy.Rules)
		}
		if err != nil {
			return nil, fmt.Errorf("template %s: %w", name, err)
		}
		out[i] = Template{Name: file.Name, Title: file.Title, Description: file.Description, Policy: policy}
	}
	return out, nil
})

// Templates are the policies that come with Assay, one for each kind of machine. The answer is shared and must not be
// changed. It fails only where a file that is built in does not fit, which a test rules out.
func Templates() ([]Template, error) { return templates() }
