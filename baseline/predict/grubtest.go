package predict

import (
	"strconv"
	"strings"
)

// test evaluates an expression (GRUB manual, "test"): -o binds less than -a, which binds less than !.
func (g *grubRun) test(n *scriptNode, name string, args []string) error {
	if name == "[" {
		if len(args) == 0 || args[len(args)-1] != "]" {
			return g.stop(n.line, "[ lacks its ]")
		}
		args = args[:len(args)-1]
	}
	e := testExpression{run: g, args: args}
	result := e.or()
	if e.fault != "" || len(e.args) > 0 {
		return g.stop(n.line, "the test %q is not understood", strings.Join(args, " "))
	}
	g.status = triOf(result)
	return nil
}

type testExpression struct {
	run   *grubRun
	args  []string
	depth int
	fault string
}

func (e *testExpression) or() bool {
	result := e.and()
	for len(e.args) > 0 && e.args[0] == "-o" {
		e.args = e.args[1:]
		right := e.and()
		result = result || right
	}
	return result
}

func (e *testExpression) and() bool {
	result := e.not()
	for len(e.args) > 0 && e.args[0] == "-a" {
		e.args = e.args[1:]
		right := e.not()
		result = result && right
	}
	return result
}

func (e *testExpression) not() bool {
	inverted := false
	for len(e.args) > 1 && e.args[0] == "!" {
		inverted, e.args = !inverted, e.args[1:]
	}
	return e.primary() != inverted
}

func (e *testExpression) primary() bool {
	if len(e.args) == 0 {
		return false
	}
	if e.args[0] == "(" {
		if e.depth++; e.depth > maxScriptDepth {
			e.fault = "nested"
			return false
		}
		e.args = e.args[1:]
		result := e.or()
		if len(e.args) == 0 || e.args[0] != ")" {
			e.fault = "parenthesis"
			return false
		}
		e.args = e.args[1:]
		return result
	}
	if len(e.args) >= 3 {
		if result, ok := e.binary(e.args[0], e.args[1], e.args[2]); ok {
			e.args = e.args[3:]
			return result
		}
	}
	if len(e.args) >= 2 {
		if result, ok := e.unary(e.args[0], e.args[1]); ok {
			e.args = e.args[2:]
			return result
		}
	}
	result := e.args[0] != ""
	e.args = e.args[1:]
	return result
}

func (e *testExpression) binary(a, op, b string) (result, ok bool) {
	switch op {
	case "=", "==":
		return a == b, true
	case "!=":
		return a != b, true
	case "<":
		return a < b, true
	case ">":
		return a > b, true
	}
	compare, numeric := map[string]func(a, b int64) bool{
		"-eq": func(a, b int64) bool { return a == b }, "-ne": func(a, b int64) bool { return a != b },
		"-lt": func(a, b int64) bool { return a < b }, "-le": func(a, b int64) bool { return a <= b },
		"-gt": func(a, b int64) bool { return a > b }, "-ge": func(a, b int64) bool { return a >= b },
	}[op]
	if !numeric {
		return false, false
	}
	x, err1 := strconv.ParseInt(a, 0, 64)
	y, err2 := strconv.ParseInt(b, 0, 64)
	if err1 != nil || err2 != nil {
		e.fault = "numbers"
	}
	return compare(x, y), true
}

func (e *testExpression) unary(op, a string) (result, ok bool) {
	switch op {
	case "-n":
		return a != "", true
	case "-z":
		return a == "", true
	case "-e":
		return e.run.lookup(a) != nil || e.run.isFolder(a), true
	case "-f":
		return e.run.lookup(a) != nil, true
	case "-d":
		return e.run.isFolder(a), true
	case "-s":
		f := e.run.lookup(a)
		if f != nil { // GRUB opens it to learn its size
			e.run.emit(grubMeasurement{kind: "file", text: a, file: f})
		}
		return f != nil && f.Size > 0, true
	}
	return false, false
}

func itoa(n int) string { return strconv.Itoa(n) }
