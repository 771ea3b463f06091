// Package cmdline reads the command line of a Linux kernel as the kernel reads it.
//
// The rules are those of next_arg and parse_args (Linux, lib/cmdline.c and kernel/params.c; admin-guide/
// kernel-parameters): parameters are separated by white space, double quotes hold white space together and can
// neither be nested nor escaped, the first "=" parts name and value, dashes and underscores of a name are the same, and
// "--" ends the kernel's parameters. What follows it is for init. User space (systemd, dracut, initramfs-tools) reads
// /proc/cmdline by itself and does not stop there.
//
// The package is pure. A line is walked once, and nothing is copied but the parameters' own text.
package cmdline

import "strings"

// Parameter is one parameter of a command line.
type Parameter struct {
	// Name has its dashes written as underscores, since the kernel takes either.
	Name string
	// Value is what follows the first "=", without its quotes; empty where there is none.
	Value string
	// Given says that there was a "=".
	Given bool
	// Text is the parameter as it stands in the line, quotes included.
	Text string
	// ForInit says that it follows "--": the kernel hands it to init and reads no parameter of its own from it.
	ForInit bool
}

// Line is the parameters of a command line, in order.
type Line []Parameter

// Parse reads a command line. It knows no errors: whatever the kernel would make of a line, it makes.
func Parse(line string) Line {
	if i := strings.IndexByte(line, 0); i >= 0 {
		line = line[:i] // it ends there for the kernel
	}
	var out Line
	forInit := false
	for line = skipSpaces(line); line != ""; line = skipSpaces(line) {
		var p Parameter
		var dashes bool
		p, dashes, line = next(line)
		if dashes && !forInit {
			forInit = true
			continue
		}
		p.ForInit = forInit
		out = append(out, p)
	}
	return out
}

// next takes one parameter off the line, which does not begin with white space. dashes tells that it is "--".
func next(line string) (p Parameter, dashes bool, rest string) {
	args, quoted := line, line[0] == '"'
	if quoted {
		args = args[1:]
	}
	inQuote, equals, end := quoted, 0, 0
	for ; end < len(args); end++ {
		c := args[end]
		if isSpace(c) && !inQuote {
			break
		}
		if c == '=' && equals == 0 {
			equals = end // a "=" that a name does not precede parts nothing
		}
		if c == '"' {
			inQuote = !inQuote
		}
	}
	p.Text = line[:len(line)-len(args)+end]
	arg := args[:end]
	if equals > 0 {
		name, value := arg[:equals], arg[equals+1:]
		ended := false
		if strings.HasPrefix(value, `"`) {
			value, ended = cutQuote(value[1:])
		}
		if quoted && !ended {
			value, _ = cutQuote(value)
		}
		p.Name, p.Value, p.Given = normalise(name), value, true
	} else {
		if quoted {
			arg, _ = cutQuote(arg)
		}
		p.Name, dashes = normalise(arg), arg == "--"
	}
	return p, dashes, args[end:]
}

// cutQuote drops a final quote.
func cutQuote(s string) (rest string, found bool) { return strings.CutSuffix(s, `"`) }

func normalise(name string) string { return strings.ReplaceAll(name, "-", "_") }

// isSpace is the kernel's isspace (lib/ctype.c), which also counts Latin-1's no-break space.
func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' || c == 0xA0 }

func skipSpaces(s string) string {
	i := 0
	for i < len(s) && isSpace(s[i]) {
		i++
	}
	return s[i:]
}

// Last is the last of the kernel's own parameters of a name, since of most parameters the last one counts.
func (l Line) Last(name string) (p Parameter, ok bool) {
	for i := len(l) - 1; i >= 0; i-- {
		if l[i].Name == name && !l[i].ForInit {
			return l[i], true
		}
	}
	return Parameter{}, false
}

// Bool reads a value as the kernel's kstrtobool does, which looks at the first letter or two. known is false for a value
// that it refuses, or that only some versions take.
func (p *Parameter) Bool() (on, known bool) {
	if p.Value == "" {
		return !p.Given, !p.Given // a flag without a value is on (param_set_bool)
	}
	switch p.Value[0] {
	case 'y', 'Y', '1':
		return true, true
	case 'n', 'N', '0':
		return false, true
	case 'o', 'O':
		switch {
		case len(p.Value) > 1 && (p.Value[1] == 'n' || p.Value[1] == 'N'):
			return true, true
		case len(p.Value) > 1 && (p.Value[1] == 'f' || p.Value[1] == 'F'):
			return false, true
		}
	}
	return false, false
}
