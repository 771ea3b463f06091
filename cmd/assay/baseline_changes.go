package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/verifier"
)

// SelectorFlags choose the machines that a baseline is for.
type SelectorFlags struct {
	ScaleSet []string          `placeholder:"NAME" help:"For machines of these scale sets."`
	Label    map[string]string `placeholder:"KEY=VALUE" help:"For machines with these labels."`
	Platform []string          `placeholder:"PLATFORM" help:"For machines on these platforms."`
	For      []string          `name:"for" placeholder:"ID|NAME" help:"For these machines."`
	Selector string            `placeholder:"JSON" help:"All of this as the API has it, for example {\"scale_set\":[\"web\"]}."`
}

// anyGiven tells whether a flag chooses machines, also as JSON.
func (f *SelectorFlags) anyGiven() bool { return f.given() || f.Selector != "" }

func (f *SelectorFlags) given() bool {
	return len(f.ScaleSet)+len(f.Label)+len(f.Platform)+len(f.For) > 0
}

// selector is what the flags choose; nil where none is given.
func (f *SelectorFlags) selector(a *app) (*client.Selector, error) {
	s := &client.Selector{}
	if f.Selector != "" {
		if f.given() {
			return nil, badSelector("--selector says all: leave --scale-set, --label, --platform and --for out")
		}
		if err := verifier.DecodeStrict([]byte(f.Selector), s); err != nil {
			return nil, badSelector("--selector: " + err.Error())
		}
		return s, nil
	}
	if !f.given() {
		return nil, nil
	}
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

func badSelector(detail string) error {
	return &problem{Title: "The command line cannot be used", Code: "usage", Detail: detail, exit: exitBadCall}
}

// BaselineRegister registers reference values.
type BaselineRegister struct {
	Name          string `help:"Name of the baseline."`
	Baseline      string `placeholder:"ID|NAME" help:"Add a version to this baseline, which must be there."`
	File          string `required:"" aliases:"reference-values" placeholder:"FILE" help:"reference_values, as assay capture and assay baseline predict print them, alone or in a document; - is standard input."`
	AddVersion    bool   `help:"Add a version to the baseline of that name; it is made if there is none yet."`
	Draft         bool   `help:"Store it without using it; promote makes it active."`
	State         string `enum:"draft,active," default:"" placeholder:"STATE" help:"draft or active. A new baseline's version is active otherwise, a further one a draft; under the two-person rule each is a draft."`
	SelectorFlags `embed:""`
	Everywhere    bool `help:"For all machines, where no flag chooses any."`
	Provenance    `embed:""`
}

// Run registers them.
func (c *BaselineRegister) Run(a *app) error {
	if (c.Name == "") == (c.Baseline == "") {
		return &problem{Title: "The command line cannot be used", Code: "usage", Detail: "give --name, or --baseline for a version of one that is there", exit: exitBadCall}
	}
	body, err := readFile(c.File, maxSmallFile, a.stdin)
	if err != nil {
		return unreadable(c.File, "reference values", err)
	}
	reference, said, err := parseReference(c.File, body)
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
	provenance := c.provenance(said)
	state := c.State
	if c.Draft {
		state = baseline.StateDraft
	}
	if c.AddVersion || c.Baseline != "" {
		b, err := a.baseline(c.Baseline + c.Name)
		if err == nil {
			if err := keepsSelector(b, selector, c.Everywhere); err != nil {
				return err
			}
			body := client.BaselineVersionInput{ReferenceValues: values, Provenance: provenance, State: optionalAs[client.BaselineVersionInputState](state)}
			resp, err := api.CreateBaselineVersionWithResponse(a.ctx, b.ID, &client.CreateBaselineVersionParams{}, body)
			return conflictHint(a.showVersion(resp, err), "--draft, and then assay baselines promote")
		}
		var p *problem
		if c.Baseline != "" || !errors.As(err, &p) || p.Code != "not_found" {
			return err
		}
	}
	if selector == nil && !c.Everywhere {
		return everywhereUsage()
	}
	input := client.BaselineInput{Name: c.Name, ReferenceValues: values, Selector: selector, Provenance: provenance, State: optionalAs[client.BaselineInputState](state)}
	resp, err := api.CreateBaselineWithResponse(a.ctx, &client.CreateBaselineParams{}, input)
	return conflictHint(a.showVersion(resp, err), "--add-version, to add a version to the baseline of that name")
}

func conflictHint(err error, hint string) error {
	var p *problem
	if errors.As(err, &p) && p.Code == "conflict" {
		p.Hint = hint
	}
	return err
}

func everywhereUsage() error {
	return badUsage("choose machines by --scale-set, --label, --platform, --for or --selector, or all of them by --everywhere")
}

// keepsSelector refuses flags that choose other machines than the baseline has: it keeps those it was registered for.
func keepsSelector(b *client.Baseline, asked *client.Selector, everywhere bool) error {
	if asked == nil && everywhere {
		asked = &client.Selector{}
	}
	if asked == nil || reflect.DeepEqual(sorted(*asked), sorted(b.Selector)) {
		return nil
	}
	return badSelector(fmt.Sprintf("a baseline keeps the machines it was registered for: %s is for %s, and the flags choose %s", b.Name, machinesText(b.Selector), machinesText(*asked)))
}

// sorted is a selector in one form: an empty list is as good as none, and none has an order.
func sorted(s client.Selector) (out [4][]string) {
	out[0] = slices.Clone(value(s.ScaleSet))
	for _, x := range value(s.Platform) {
		out[1] = append(out[1], string(x))
	}
	for _, x := range value(s.MachineIds) {
		out[2] = append(out[2], x.String())
	}
	for name, x := range value(s.Labels) {
		out[3] = append(out[3], name+"="+x)
	}
	for i := range out {
		slices.Sort(out[i])
		out[i] = slices.Compact(out[i])
	}
	return out
}

// value is what p points to; the zero value where it is nil.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// machinesText names the machines of a selector.
func machinesText(s client.Selector) string {
	if text := selectorText(s); text != "all" {
		return text
	}
	return "all machines"
}

// provenance is what the flags say, and for what they do not, what the document says.
func (c *BaselineRegister) provenance(said provenanceDocument) *client.Provenance {
	p := provenanceDocument(c.Provenance)
	p.Repository = cmp.Or(p.Repository, said.Repository)
	p.Commit = cmp.Or(p.Commit, said.Commit)
	p.BuildURL = cmp.Or(p.BuildURL, said.BuildURL)
	if p == (provenanceDocument{}) {
		return nil
	}
	return &client.Provenance{Repository: optional(p.Repository), Commit: optional(p.Commit), BuildURL: optional(p.BuildURL)}
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
	a.print.version(&v)
	a.print.retirement(&v)
	return nil
}

// version says in which state a version is, and for whom.
func (p *printer) version(v *client.BaselineVersion) {
	p.line("%s version %d is %s, for %s  %s", clean(v.Name), v.Version, clean(string(v.State)), clean(machinesText(v.Selector)), p.paint(dim, v.ID.String()))
}

// BaselineCapture captures from a machine.
type BaselineCapture struct {
	Machine       string `required:"" placeholder:"ID|NAME" help:"Machine that is known to be good."`
	Name          string `help:"Name of the baseline; the machine's otherwise."`
	IncludeIMA    bool   `name:"include-ima" help:"Also take the files, keys and buffers that its IMA list proves."`
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
	resp, err := api.CaptureBaselineWithResponse(a.ctx, id, &client.CaptureBaselineParams{}, client.CaptureRequest{Name: optional(c.Name), Selector: selector, IncludeIma: c.includeIMA()})
	return a.showVersion(resp, err)
}

func (c *BaselineCapture) includeIMA() *bool {
	if !c.IncludeIMA {
		return nil
	}
	return &c.IncludeIMA
}
