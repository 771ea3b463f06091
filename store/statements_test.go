package store

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// withoutTenant are the exported methods of Store that are about no tenant, and why.
var withoutTenant = map[string]string{
	"Close":                "ends the store",
	"Ping":                 "asks whether the database answers",
	"Fence":                "asks how the connections stand",
	"MigrationVersion":     "of the schema",
	"CheckMigrations":      "of the schema",
	"MakePartitions":       "partitions are by month, for all tenants at once; the function that makes them runs as their owner",
	"DropEmptyPartitions":  "partitions are by month, for all tenants at once; the function that drops them runs as their owner",
	"OpenAllKeys":          "asks each tenant in turn, for the operator",
	"UseKeys":              "gives the store its key-encryption keys",
	"JobClient":            "the job queue, whose tables hold ids of tenants in the arguments of jobs, and nothing of theirs",
	"Tenants":              "lists the tenants, for jobs that do the work of each",
	"ListTenants":          "reads each tenant as itself, for the operator",
	"NotificationTenants":  "lists the tenants that have something to be told",
	"LookupAPIToken":       "the token is what tells the tenant",
	"LookupJoinToken":      "the token is what tells the tenant",
	"EnrollmentTenant":     "the id of the enrolment is what tells the tenant",
	"KEKsInUse":            "asks each tenant in turn, for the operator",
	"ReencryptServiceKeys": "changes the keys of each tenant in turn, for the operator",
}

// inGroups are the methods whose statements are made for many callers at once, by withTenants.
var inGroups = []string{"AppraisalInputs", "RecordAppraisal", "PutBootLog"}

// source is the package without its tests.
func source(t *testing.T) (files map[string]*ast.File, fset *token.FileSet) {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	files, fset = map[string]*ast.File{}, token.NewFileSet()
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if files[name], err = parser.ParseFile(fset, name, nil, parser.SkipObjectResolution); err != nil {
			t.Fatal(err)
		}
	}
	return files, fset
}

// TestEachMethodTakesItsTenant: an exported method of Store takes the tenant after the context, and says so to its connections before
// it does anything else; or it is listed with its reason.
func TestEachMethodTakesItsTenant(t *testing.T) {
	files, fset := source(t)
	seen := map[string]bool{}
	for _, file := range files {
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv == nil || !f.Name.IsExported() || !isStore(f.Recv.List[0].Type) {
				continue
			}
			name := f.Name.Name
			seen[name] = true
			takes := len(f.Type.Params.List) > 1 && len(f.Type.Params.List[1].Names) > 0 && f.Type.Params.List[1].Names[0].Name == "tenant"
			switch _, listed := withoutTenant[name]; {
			case takes && listed:
				t.Errorf("%s takes a tenant: take it off withoutTenant", name)
			case !takes && !listed:
				t.Errorf("%s: %s takes no tenant after its context, and withoutTenant does not say why", fset.Position(f.Pos()), name)
			case takes && !slices.Contains(inGroups, name) && !tellsFirst(f.Body):
				t.Errorf("%s: the first line of %s has to be ctx = withTenant(ctx, tenant): without it no row is seen", fset.Position(f.Pos()), name)
			}
		}
	}
	for name := range withoutTenant {
		if !seen[name] {
			t.Errorf("withoutTenant lists %s, which there is not", name)
		}
	}
	for _, name := range inGroups {
		if !seen[name] {
			t.Errorf("inGroups lists %s, which there is not", name)
		}
	}
}

func isStore(receiver ast.Expr) bool {
	star, ok := receiver.(*ast.StarExpr)
	if !ok {
		return false
	}
	id, ok := star.X.(*ast.Ident)
	return ok && id.Name == "Store"
}

// tellsFirst tells whether a body begins with ctx = withTenant(ctx, tenant).
func tellsFirst(body *ast.BlockStmt) bool {
	if len(body.List) == 0 {
		return false
	}
	a, ok := body.List[0].(*ast.AssignStmt)
	if !ok || len(a.Rhs) != 1 {
		return false
	}
	call, ok := a.Rhs[0].(*ast.CallExpr)
	if !ok || len(call.Args) != 2 {
		return false
	}
	fun, _ := call.Fun.(*ast.Ident)
	tenant, _ := call.Args[1].(*ast.Ident)
	return fun != nil && fun.Name == "withTenant" && tenant != nil && tenant.Name == "tenant"
}

// statements are the texts of a package that are SQL: each whole concatenation of literals, with the named texts put in; what is
// only known when it runs is "…".
func statements(files map[string]*ast.File, fset *token.FileSet) map[string]string {
	named := map[string]ast.Expr{}
	for _, file := range files {
		for _, decl := range file.Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range g.Specs {
				if v, ok := spec.(*ast.ValueSpec); ok && len(v.Names) == len(v.Values) {
					for i, name := range v.Names {
						named[name.Name] = v.Values[i]
					}
				}
			}
		}
	}
	var text func(e ast.Expr, depth int) string
	text = func(e ast.Expr, depth int) string {
		switch e := e.(type) {
		case *ast.BasicLit:
			if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
				return s
			}
		case *ast.BinaryExpr:
			if e.Op == token.ADD {
				return text(e.X, depth) + text(e.Y, depth)
			}
		case *ast.Ident:
			if v := named[e.Name]; v != nil && depth < 5 {
				return text(v, depth+1)
			}
		case *ast.ParenExpr:
			return text(e.X, depth)
		}
		return "…"
	}
	out := map[string]string{}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			e, ok := n.(ast.Expr)
			if !ok {
				return true
			}
			if b, ok := e.(*ast.BinaryExpr); ok && b.Op == token.ADD {
				out[fset.Position(b.Pos()).String()] = text(b, 0)
				return false
			}
			if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
				out[fset.Position(l.Pos()).String()] = text(l, 0)
			}
			return true
		})
	}
	return out
}

// tablesOfTenants are those that the migrations make with a tenant_id, which is all but one.
func tablesOfTenants(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("../migrations/*.up.sql")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	var tables []string
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`CREATE TABLE (\w+) \(`).FindAllStringSubmatch(string(text), -1) {
			if m[1] != "table_access" {
				tables = append(tables, m[1])
			}
		}
	}
	return tables
}

// spared are statements that name a table of tenants more often than they name a tenant, by a part of their text, and why.
var spared = map[string]string{
	"WITH machines AS NOT MATERIALIZED":                                   "each of the tables that follow is joined with machines, or incidents, of the tenant",
	"FROM notification_channels c …":                                      "the condition follows in queryChannels, whose callers begin it with c.tenant_id = $1",
	" FROM machines m JOIN machine_attestation_state st USING (tenant_id": "the condition follows where it is used, and begins with m.tenant_id = $1",
}

// TestEachStatementNamesItsTenant: each table of tenants that a statement reads or writes is one more tenant_id in it: a condition, a
// join or a column. It is the first fence; the database keeps the second.
func TestEachStatementNamesItsTenant(t *testing.T) {
	tables := tablesOfTenants(t)
	uses := regexp.MustCompile(`\b(FROM|JOIN|UPDATE|INTO|USING)\s+(` + strings.Join(tables, "|") + `)\b`)
	files, fset := source(t)
	found := 0
	hit := map[string]bool{}
	for place, text := range statements(files, fset) {
		if strings.HasPrefix(place, "doctor.go:") { // for the operator, who looks at all tenants by a connection that does nothing else
			continue
		}
		n := len(uses.FindAllString(text, -1))
		if n == 0 {
			continue
		}
		found++
		named := strings.Count(text, "tenant_id")
		excused := false
		for part := range spared {
			if strings.Contains(text, part) {
				excused, hit[part] = true, true
			}
		}
		if named < n && !excused {
			t.Errorf("%s: %d uses of tables of tenants, and tenant_id %d times:\n%s", place, n, named, text)
		}
	}
	if found < 250 {
		t.Errorf("only %d statements were found", found)
	}
	for part, why := range spared {
		if !hit[part] || why == "" {
			t.Errorf("spared lists %q, which there is not", part)
		}
	}
}

// Statements are the SQL texts of the package, by place.
func Statements(t *testing.T) map[string]string {
	files, fset := source(t)
	return statements(files, fset)
}
