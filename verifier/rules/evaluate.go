package rules

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"maps"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/interpreter"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tee"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// claimsShape is what the variable claims holds: the verdict's claims without those that are drawn from the checks.
type claimsShape struct {
	*eventlog.Claims
	TPM      verifier.TPMClaims  `json:"tpm"`
	IMA      *verifier.IMAClaims `json:"ima,omitempty"`
	Platform *tee.Claims         `json:"platform,omitempty"`
}

// Evaluate implements verifier.RuleSet.
func (s *Set) Evaluate(f *verifier.RuleFacts) []verifier.RuleOutcome {
	return s.evaluate(context.Background(), f)
}

// Within is the set bound to a context: when that ends, so does the evaluation.
func (s *Set) Within(ctx context.Context) verifier.RuleSet { return bound{s, ctx} }

type bound struct {
	set *Set
	ctx context.Context //nolint:containedctx // it lives for one judgement
}

// Evaluate implements verifier.RuleSet.
func (b bound) Evaluate(f *verifier.RuleFacts) []verifier.RuleOutcome {
	return b.set.evaluate(b.ctx, f)
}

func (s *Set) evaluate(ctx context.Context, f *verifier.RuleFacts) []verifier.RuleOutcome {
	run := evaluation{ctx: ctx, vars: &variables{facts: f}}
	out := make([]verifier.RuleOutcome, len(s.rules))
	for i := range s.rules {
		out[i] = run.rule(&s.rules[i])
	}
	return out
}

// evaluation is one evaluation of a set.
type evaluation struct {
	ctx   context.Context //nolint:containedctx // it lives for one judgement
	vars  *variables
	spent uint64
}

func (e *evaluation) rule(r *compiled) verifier.RuleOutcome {
	if r.applies != nil {
		switch applies, why := e.ask(r.applies); {
		case why != "":
			return verifier.RuleOutcome{Why: "whether it applies is unknown: " + why}
		case !applies:
			return verifier.RuleOutcome{State: verifier.RuleNotApplicable}
		}
	}
	switch holds, why := e.ask(r.holds); {
	case why != "":
		return verifier.RuleOutcome{Why: why}
	case !holds:
		return verifier.RuleOutcome{State: verifier.RuleBroken}
	}
	return verifier.RuleOutcome{State: verifier.RuleHolds}
}

// ask evaluates one expression; why tells that it could not be.
func (e *evaluation) ask(p cel.Program) (yes bool, why string) {
	if e.spent >= maxTotal {
		return false, "the rules before it have used up what all may cost"
	}
	out, details, err := p.ContextEval(e.ctx, e.vars)
	if details != nil && details.ActualCost() != nil {
		e.spent += *details.ActualCost()
	}
	if err != nil {
		return false, strings.TrimPrefix(err.Error(), "operation cancelled: ")
	}
	b, ok := out.Value().(bool)
	if !ok {
		return false, "its result is neither true nor false, but of type " + out.Type().TypeName()
	}
	return b, ""
}

// variables makes the variables that an expression asks for, and each but once.
type variables struct {
	facts  *verifier.RuleFacts
	claims map[string]any
}

// Parent implements interpreter.Activation.
func (v *variables) Parent() interpreter.Activation { return nil }

// ResolveName implements interpreter.Activation.
func (v *variables) ResolveName(name string) (any, bool) {
	f := v.facts
	switch name {
	case varClaims:
		if v.claims == nil {
			claims, err := claimsOf(f)
			if err != nil {
				return types.NewErr("the claims cannot be read: %s", err), true
			}
			v.claims = claims
		}
		return v.claims, true
	case varEventLog:
		return f.Measurements != nil && !f.Measurements.Empty(), true
	case varEvents:
		if f.Measurements == nil || f.Measurements.Empty() {
			return types.NewErr("no event log is proven, so events are unknown"), true
		}
		return eventsOf(f.Measurements), true
	case varVerifiedPCRs:
		return verifiedPCRs(f.Measurements), true
	case varPCRs:
		return quotedPCRs(f.Quote), true
	case varAssurance:
		return string(f.Assurance), true
	case varMachine:
		if f.Machine == nil {
			return types.NewErr("no inventory tells of the machine"), true
		}
		return Machine(*f.Machine), true
	case varNow:
		return f.Now, true
	}
	return nil, false
}

// claimsKey and eventsKey name what is kept with a log.
type (
	claimsKey struct{}
	eventsKey struct{}
)

// claimsOf is the variable claims. What the log proves is decoded once for all machines that booted it.
func claimsOf(f *verifier.RuleFacts) (map[string]any, error) {
	type decoded struct {
		fields map[string]any
		err    error
	}
	var own *eventlog.Measurements
	if f.Measurements != nil && f.Claims.Claims == f.Measurements.Claims() {
		own = f.Measurements
	}
	log := eventlog.Derived(own, claimsKey{}, func() decoded {
		fields, err := object(f.Claims.Claims)
		return decoded{fields, err}
	})
	if log.err != nil {
		return nil, log.err
	}
	rest, err := object(claimsShape{TPM: f.Claims.TPM, IMA: f.Claims.IMA, Platform: f.Claims.Platform})
	if err != nil {
		return nil, err
	}
	maps.Copy(rest, log.fields)
	return rest, nil
}

// object is a value in the form that its JSON has.
func object(v any) (map[string]any, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	out := map[string]any{}
	if err := d.Decode(&out); err != nil {
		return nil, err
	}
	return numbers(out).(map[string]any), nil //nolint:errcheck // it gives back what it takes
}

// numbers makes whole numbers int, others double.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, field := range v {
			v[name] = numbers(field)
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i])
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		n, err := v.Float64()
		if err != nil {
			return v.String()
		}
		return n
	}
	return v
}

func eventsOf(m *eventlog.Measurements) []Event {
	return eventlog.Derived(m, eventsKey{}, func() []Event {
		events := m.Events()
		out := make([]Event, len(events))
		for i := range events {
			e := &events[i]
			out[i] = Event{Index: int64(e.Index), PCR: int64(e.PCR), Type: e.Type.String(), Component: string(e.Component),
				Description: e.Description, Digests: make(map[string]string, len(e.Digests)), Verified: e.Covered}
			for _, d := range e.Digests {
				out[i].Digests[d.Alg.String()] = hex.EncodeToString(d.Bytes)
			}
		}
		return out
	})
}

func verifiedPCRs(m *eventlog.Measurements) []int64 {
	out := []int64{}
	for i := range tpm.NumPCRs {
		if m != nil && m.Verified(i) {
			out = append(out, int64(i))
		}
	}
	return out
}

func quotedPCRs(q *tpm.VerifiedQuote) map[string]map[int64]string {
	out := map[string]map[int64]string{}
	if q == nil {
		return out
	}
	for _, alg := range q.Banks() {
		bank := map[int64]string{}
		for i := range tpm.NumPCRs {
			if value, ok := q.PCR(alg, i); ok {
				bank[int64(i)] = hex.EncodeToString(value)
			}
		}
		out[alg.String()] = bank
	}
	return out
}
