package rules

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/types"

	"github.com/assay-verifier/assay/verifier"
)

// Bounds, in CEL's units of cost (about a comparison each).
const (
	maxEstimate = 20_000_000 // the most that a rule may cost on the largest log, estimated
	maxCost     = 1_000_000  // the most that a rule costs
	maxTotal    = 4_000_000  // the most that all rules of a policy cost
	maxNodes    = 2_000      // of an expression, macros expanded
	maxDepth    = 48         // of its nesting
	maxRegex    = 500        // instructions of a regular expression
	maxMemory   = 1_000_000  // elements and bytes that a value may have
)

// Event is one event of the boot log as expressions see it.
type Event struct {
	Index       int64             `json:"index"`
	PCR         int64             `json:"pcr"`
	Type        string            `json:"type"`
	Component   string            `json:"component"`
	Description string            `json:"description"`
	Digests     map[string]string `json:"digests"`
	Verified    bool              `json:"verified"`
}

// Machine is the inventory's word of the machine as expressions see it.
type Machine struct {
	Name         string            `json:"name"`
	Platform     string            `json:"platform"`
	OS           string            `json:"os"`
	SecurityType string            `json:"security_type"`
	ScaleSet     string            `json:"scale_set"`
	Labels       map[string]string `json:"labels"`
}

// Variables are the names that expressions see.
const (
	varClaims       = "claims"
	varEvents       = "events"
	varEventLog     = "event_log"
	varVerifiedPCRs = "verified_pcrs"
	varPCRs         = "pcrs"
	varAssurance    = "assurance"
	varMachine      = "machine"
	varNow          = "now"
)

var environment = sync.OnceValues(func() (*cel.Env, error) {
	tags := types.ParseStructTag("json")
	return cel.NewEnv(
		cel.Types(cel.NativeTypeFor[Event](tags), cel.NativeTypeFor[Machine](tags)),
		cel.OptionalTypes(),
		cel.Variable(varClaims, cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable(varEvents, cel.ListType(cel.ObjectType("rules.Event"))),
		cel.Variable(varEventLog, cel.BoolType),
		cel.Variable(varVerifiedPCRs, cel.ListType(cel.IntType)),
		cel.Variable(varPCRs, cel.MapType(cel.StringType, cel.MapType(cel.IntType, cel.StringType))),
		cel.Variable(varAssurance, cel.StringType),
		cel.Variable(varMachine, cel.ObjectType("rules.Machine")),
		cel.Variable(varNow, cel.TimestampType),
		cel.ParserExpressionSizeLimit(verifier.MaxRuleExpression),
		cel.ParserRecursionLimit(maxDepth),
		cel.ParserErrorRecoveryLimit(4),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxRegex),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
		cel.CrossTypeNumericComparisons(true),
		cel.DefaultUTCTimeZone(true),
	)
})

// Set is the compiled rules of a policy. It is immutable and safe for concurrent use.
type Set struct{ rules []compiled }

type compiled struct {
	applies cel.Program // nil: always
	holds   cel.Program
}

// Compile compiles the rules of a policy. The error is a *verifier.FieldError: it points at the expression, and gives
// line and column in it.
func Compile(list []verifier.PolicyRule) (*Set, error) {
	set, faults := compileAll(list, true)
	if len(faults) > 0 {
		return nil, faults[0]
	}
	return set, nil
}

// Lint is all that is wrong with the rules, in their order; empty where they compile.
func Lint(list []verifier.PolicyRule) []*verifier.FieldError {
	_, faults := compileAll(list, false)
	return faults
}

func compileAll(list []verifier.PolicyRule, first bool) (*Set, []*verifier.FieldError) {
	var faults []*verifier.FieldError
	set := &Set{rules: make([]compiled, len(list))}
	for i := range list {
		at := "/rules/" + strconv.Itoa(i)
		if list[i].AppliesWhen != "" {
			program, err := compileOne(list[i].AppliesWhen)
			if err != nil {
				faults = append(faults, &verifier.FieldError{Pointer: at + "/applies_when", Detail: err.Error()})
			}
			set.rules[i].applies = program
		}
		program, err := compileOne(list[i].Expression)
		if err != nil {
			faults = append(faults, &verifier.FieldError{Pointer: at + "/expression", Detail: err.Error()})
		}
		set.rules[i].holds = program
		if first && len(faults) > 0 {
			break
		}
	}
	return set, faults
}

func compileOne(expression string) (cel.Program, error) {
	if len(expression) > verifier.MaxRuleExpression {
		return nil, fmt.Errorf("%d bytes are more than %d", len(expression), verifier.MaxRuleExpression)
	}
	env, err := environment()
	if err != nil {
		return nil, err
	}
	tree, issues := env.Compile(expression)
	if issues.Err() != nil {
		e := issues.Errors()[0]
		// The parser counts columns from 0.
		return nil, fault(max(e.Location.Line(), 1), max(e.Location.Column(), 0)+1, e.Message)
	}
	if !tree.OutputType().IsExactType(cel.BoolType) && !tree.OutputType().IsExactType(cel.DynType) {
		return nil, fault(1, 1, "the result has to be true or false, and it is of type "+tree.OutputType().String())
	}
	if err := checkClaims(tree.NativeRep()); err != nil {
		return nil, err
	}
	estimate, err := env.EstimateCost(tree, sizes{})
	if err != nil {
		return nil, fault(1, 1, "its cost cannot be estimated: "+err.Error())
	}
	if estimate.Max > maxEstimate {
		return nil, fault(1, 1, fmt.Sprintf("it may cost %d, and at most %d is allowed: ask fewer lists inside of each other", estimate.Max, uint64(maxEstimate)))
	}
	program, err := env.Program(tree, cel.CostLimit(maxCost), cel.MemoryLimit(maxMemory), cel.InterruptCheckFrequency(100), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, fault(1, 1, err.Error())
	}
	return program, nil
}

func fault(line, column int, message string) error {
	if len(message) > 300 {
		message = strings.ToValidUTF8(message[:300], "") + "…"
	}
	return fmt.Errorf("line %d, column %d: %s", line, column, message)
}

// checkClaims refuses fields of claims that do not exist, so that a slip of the pen is found when a policy is stored
// and not when it has failed a fleet.
func checkClaims(tree *ast.AST) error {
	var wrong error
	ast.PreOrderVisit(tree.Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if wrong != nil || e.Kind() != ast.SelectKind {
			return
		}
		of, known := claimsType(e.AsSelect().Operand())
		if !known || of.Kind() != reflect.Struct {
			return
		}
		name := e.AsSelect().FieldName()
		if _, ok := field(of, name); !ok {
			at := tree.SourceInfo().GetStartLocation(e.ID())
			wrong = fault(max(at.Line(), 1), max(at.Column(), 0)+1, fmt.Sprintf("claims have no field %q here; there are %s", name, strings.Join(fieldNames(of), ", ")))
		}
	}))
	return wrong
}

// claimsType is the Go type of a chain of fields that begins with claims; known is false for other expressions.
func claimsType(e ast.Expr) (of reflect.Type, known bool) {
	switch e.Kind() {
	case ast.IdentKind:
		return reflect.TypeFor[claimsShape](), e.AsIdent() == varClaims
	case ast.SelectKind:
		if e.AsSelect().IsTestOnly() {
			return nil, false
		}
		of, known = claimsType(e.AsSelect().Operand())
		if !known || of.Kind() != reflect.Struct {
			return nil, false
		}
		f, ok := field(of, e.AsSelect().FieldName())
		if !ok {
			return nil, false
		}
		for f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		return f, true
	}
	return nil, false
}

// field finds a field of a struct by its JSON name.
func field(of reflect.Type, name string) (reflect.Type, bool) {
	for _, f := range reflect.VisibleFields(of) {
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag == name && f.IsExported() {
			return f.Type, true
		}
	}
	return nil, false
}

func fieldNames(of reflect.Type) []string {
	var out []string
	for _, f := range reflect.VisibleFields(of) {
		if tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); tag != "" && tag != "-" && f.IsExported() {
			out = append(out, tag)
		}
	}
	return out
}

// sizes are the sizes of variables that costs are estimated with. What is larger all the same ends at the limit of
// the evaluation.
type sizes struct{}

// EstimateSize implements cost.Estimator.
func (sizes) EstimateSize(node cost.AstNode) *cost.SizeEstimate {
	path := node.Path()
	if len(path) == 0 {
		return nil
	}
	most := uint64(128)
	switch {
	case len(path) == 1 && path[0] == varEvents:
		most = 4096
	case path[len(path)-1] == "description":
		most = 512
	case path[0] == varClaims:
		most = 256
	}
	return &cost.SizeEstimate{Min: 0, Max: most}
}

// EstimateCallCost implements cost.Estimator.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}
