package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/openapi/client"
)

// SelectorFlags choose the machines that a baseline is for.
type SelectorFlags struct {
	ScaleSet []string          `placeholder:"NAME" help:"For machines of these scale sets."`
	Label    map[string]string `placeholder:"KEY=VALUE" help:"For machines with these labels."`
	Platform []string          `placeholder:"PLATFORM" help:"For machines on these platforms."`
	For      []string          `name:"for" placeholder:"ID|NAME" help:"For these machines."`
}

func (f *SelectorFlags) given() bool {
	return len(f.ScaleSet)+len(f.Label)+len(f.Platform)+len(f.For) > 0
}

// selector is what the flags choose; nil where none is given.
func (f *SelectorFlags) selector(a *app) (*client.Selector, error) {
	if !f.given() {
		return nil, nil
	}
	s := &client.Selector{}
	if len(f.ScaleSet) > 0 {
		s.ScaleSet = &f.ScaleSet
	}
	if len(f.Label) > 0 {
		labels := client.Labels(f.Label)
		s.Labels = &labels
	}
	if len(f.Platform) > 0 {
		platforms := make([]client.Platform, len(f.Platform))
		for i, p := range f.Platform {
			platforms[i] = client.Platform(p)
		}
		s.Platform = &platforms
	}
	if len(f.For) > 0 {
		ids := make([]uuid.UUID, len(f.For))
		for i, name := range f.For {
			id, err := a.machineID(name)
			if err != nil {
				return nil, err
			}
			ids[i] = id
		}
		s.MachineIds = &ids
	}
	return s, nil
}

// BaselineRegister registers reference values.
type BaselineRegister struct {
	Name          string `required:"" help:"Name of the baseline."`
	File          string `required:"" placeholder:"FILE" help:"reference_values, as assay capture prints them; - is standard input."`
	AddVersion    bool   `help:"Add a version to the baseline of that name; it is made if there is none yet."`
	Draft         bool   `help:"Store it without using it; promote makes it active."`
	SelectorFlags `embed:""`
	Repository    string `env:"GITHUB_REPOSITORY" help:"Provenance: where it was built from."`
	Commit        string `env:"GITHUB_SHA" help:"Provenance: the commit."`
	BuildURL      string `name:"build-url" help:"Provenance: the pipeline's run."`
}

// Run registers them.
func (c *BaselineRegister) Run(a *app) error {
	reference, err := readReference(c.File, a.stdin)
	if err != nil {
		return err
	}
	values, err := json.Marshal(reference.Values())
	if err != nil {
		return fmt.Errorf("write reference values: %w", err)
	}
	api, err := a.api()
	if err != nil {
		return err
	}
	selector, err := c.selector(a)
	if err != nil {
		return err
	}
	var provenance *client.Provenance
	if c.Repository+c.Commit+c.BuildURL != "" {
		provenance = &client.Provenance{Repository: optional(c.Repository), Commit: optional(c.Commit), BuildURL: optional(c.BuildURL)}
	}
	state := baseline.StateActive
	if c.Draft {
		state = baseline.StateDraft
	}
	if c.AddVersion {
		id, err := a.baselineID(c.Name)
		if err == nil {
			if selector != nil {
				return &problem{Title: "The command line cannot be used", Code: "usage", exit: exitBadCall,
					Detail: "a baseline keeps the machines it was registered for: leave --scale-set, --label, --platform and --for out"}
			}
			body := client.BaselineVersionInput{ReferenceValues: values, Provenance: provenance, State: optionalAs[client.BaselineVersionInputState](state)}
			resp, err := api.CreateBaselineVersionWithResponse(a.ctx, id, &client.CreateBaselineVersionParams{}, body)
			return a.showVersion(resp, err)
		}
		var p *problem
		if !errors.As(err, &p) || p.Code != "not_found" {
			return err
		}
	}
	body := client.BaselineInput{Name: c.Name, ReferenceValues: values, Selector: selector, Provenance: provenance, State: optionalAs[client.BaselineInputState](state)}
	resp, err := api.CreateBaselineWithResponse(a.ctx, &client.CreateBaselineParams{}, body)
	err = a.showVersion(resp, err)
	var p *problem
	if errors.As(err, &p) && p.Code == "conflict" {
		p.Hint = "--add-version, to add a version to the baseline of that name"
	}
	return err
}

// showVersion prints the version that a call answered.
func (a *app) showVersion(resp reply, err error) error {
	v, raw, err := answer[client.BaselineVersion](a, resp, err)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	a.print.line("%s version %d is %s  %s", clean(v.Name), v.Version, clean(string(v.State)), a.print.paint(dim, v.ID.String()))
	return nil
}

// BaselineCapture captures from a machine.
type BaselineCapture struct {
	Machine       string `required:"" placeholder:"ID|NAME" help:"Machine that is known to be good."`
	Name          string `help:"Name of the baseline; the machine's otherwise."`
	SelectorFlags `embed:""`
}

// Run captures.
func (c *BaselineCapture) Run(a *app) error {
	api, err := a.api()
	if err != nil {
		return err
	}
	id, err := a.machineID(c.Machine)
	if err != nil {
		return err
	}
	selector, err := c.selector(a)
	if err != nil {
		return err
	}
	resp, err := api.CaptureBaselineWithResponse(a.ctx, id, &client.CaptureBaselineParams{}, client.CaptureRequest{Name: optional(c.Name), Selector: selector})
	return a.showVersion(resp, err)
}
