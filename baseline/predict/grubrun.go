package predict

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Bounds of a run.
const (
	maxCommands  = 10_000
	maxMeasured  = 4 << 20 // bytes of command text
	maxRunDepth  = 32      // of functions, sourced files and submenus
	maxArguments = 4096
)

// tri is the outcome of a command: it may be unknown.
type tri int8

const (
	no tri = iota
	yes
	maybe
)

func triOf(b bool) tri {
	if b {
		return yes
	}
	return no
}

// grubRun follows a GRUB script as the machine will, and emits what GRUB measures on the way. It stops where what
// follows depends on something that is not known; open then says on what.
type grubRun struct {
	in         *Input
	secureBoot bool
	emit       func(grubMeasurement)

	vars      map[string]string
	unknown   map[string]string // variables whose value is not known, and why
	functions map[string][]scriptNode
	entries   []menuEntry
	arguments []string // $1, $2, …
	status    tri
	commands  int
	measured  int
	depth     int
	loaded    bool // a kernel is loaded
	cmdline   string
	file      string
	// open is why the rest is not known; of "" GRUB has handed over to a kernel.
	open string
}

// grubMeasurement is one thing that GRUB's tpm module measures: a command, a command line, or a file.
type grubMeasurement struct {
	kind string // "command", "cmdline", "file", "kernel", "initrd"
	text string // the text, or the file's name as GRUB logs it
	file *File
}

type menuEntry struct {
	title, id string
	arguments []string // for setparams: the title and what is left of the arguments
	body      string   // source between the braces
	line      int
	file      string
	submenu   bool
}

var (
	errBooted  = errors.New("GRUB hands over to the kernel")
	errStopped = errors.New("what follows is not known")
)

// stop ends the run because what follows is not known.
func (g *grubRun) stop(line int, format string, args ...any) error {
	where := g.file
	if line > 0 {
		where += fmt.Sprintf(", line %d", line)
	}
	g.open = where + ": " + fmt.Sprintf(format, args...)
	return errStopped
}

func newGRUBRun(in *Input, secureBoot bool, prefix string, emit func(grubMeasurement)) *grubRun {
	device := in.bootDevice()
	g := &grubRun{in: in, secureBoot: secureBoot, emit: emit, unknown: map[string]string{}, functions: map[string][]scriptNode{},
		vars: map[string]string{
			"root": device, "prefix": "(" + device + ")" + prefix, "cmdpath": "(" + device + ")" + path.Dir(in.grubPath()),
			"grub_cpu": "x86_64", "grub_platform": "efi",
		}}
	// GRUB, grub-core/normal/main.c, features[].
	for _, feature := range []string{"chainloader_bpb", "ntldr", "platform_search_hint", "default_font_path", "all_video_module",
		"menuentry_id", "menuentry_options", "200_final", "nativedisk_cmd", "timeout_style"} {
		g.vars["feature_"+feature] = "y"
	}
	if secureBoot {
		g.vars["lockdown"], g.vars["shim_lock"] = "y", "y"
	}
	return g
}

// boot runs a configuration and, if it does not boot by itself, the default entry of its menu.
func (g *grubRun) boot(name, source string) error {
	g.file = name
	g.readLists()
	err := g.script(name, source)
	if err == nil {
		err = g.menu(nil)
	}
	if errors.Is(err, errBooted) || errors.Is(err, errStopped) {
		return nil
	}
	if errors.Is(err, errReturned) {
		_ = g.stop(0, "it returns without booting")
		return nil
	}
	return err
}

// menu runs the default entry. Nobody is expected at the keyboard.
func (g *grubRun) menu(choice []string) error {
	if g.loaded {
		return errBooted // GRUB boots what is loaded
	}
	if len(g.entries) == 0 {
		return g.stop(0, "it neither boots nor has a menu entry")
	}
	if why, unknown := g.unknown["default"]; unknown && choice == nil {
		return g.stop(0, "which entry is the default depends on %s", why)
	}
	if choice == nil {
		choice = strings.Split(g.vars["default"], ">")
	}
	e := g.entries[0]
	if number, err := strconv.Atoi(choice[0]); err == nil && number >= 0 && number < len(g.entries) {
		e = g.entries[number]
	} else {
		for _, candidate := range g.entries {
			if candidate.id == choice[0] || candidate.title == choice[0] {
				e = candidate
				break
			}
		}
	}
	if g.depth++; g.depth > maxRunDepth {
		return g.stop(e.line, "menus are nested more than %d deep", maxRunDepth)
	}
	g.file, g.arguments, g.entries = e.file, e.arguments, nil
	if err := g.measure(e.line, "setparams "+strings.Join(e.arguments, " ")); err != nil {
		return err
	}
	if err := g.script(e.file, e.body); err != nil {
		return err
	}
	if e.submenu {
		rest := choice[1:]
		if len(rest) == 0 {
			rest = []string{""}
		}
		return g.menu(rest)
	}
	if !g.loaded {
		return g.stop(e.line, "the menu entry %q loads no kernel", e.title)
	}
	return errBooted
}

func (g *grubRun) script(name, source string) error {
	nodes, err := parseScript(name, source)
	if err != nil {
		return err
	}
	return g.run(nodes)
}

func (g *grubRun) run(nodes []scriptNode) error {
	for i := range nodes {
		if err := g.node(&nodes[i]); err != nil {
			return err
		}
	}
	return nil
}

func (g *grubRun) node(n *scriptNode) error {
	switch n.kind {
	case "function":
		g.functions[n.name] = n.branches[0].body
		return nil
	case "if":
		for _, b := range n.branches {
			if len(b.condition) > 0 {
				taken, err := g.condition(n, b.condition)
				if err != nil {
					return err
				}
				if !taken {
					continue
				}
			}
			return g.run(b.body)
		}
		g.status = yes
		return nil
	case "for":
		words, err := g.expand(n)
		if err != nil {
			return err
		}
		for _, w := range words {
			if err := g.step(n.line, 0); err != nil {
				return err
			}
			g.assign(n.name, w)
			if err := g.run(n.branches[0].body); err != nil {
				return err
			}
		}
		return nil
	case "while", "until":
		for {
			if err := g.step(n.line, 0); err != nil {
				return err
			}
			taken, err := g.condition(n, n.branches[0].condition)
			if err != nil || taken == (n.kind == "until") {
				return err
			}
			if err := g.run(n.branches[0].body); err != nil {
				return err
			}
		}
	}
	return g.command(n)
}

func (g *grubRun) condition(n *scriptNode, condition []scriptNode) (bool, error) {
	if err := g.run(condition); err != nil {
		return false, err
	}
	if g.status == maybe {
		last := condition[len(condition)-1]
		return false, g.stop(last.line, "whether %q succeeds depends on the machine, and what follows depends on that", g.source(&last))
	}
	return g.status == yes, nil
}

// source is a command in short, for a reason.
func (g *grubRun) source(n *scriptNode) string {
	words, err := g.expand(n)
	if err != nil || len(words) == 0 {
		return n.kind
	}
	text := strings.Join(words, " ")
	return text[:min(len(text), 80)]
}

// expand expands a command's words (GRUB, grub-core/script/execute.c, grub_script_arglist_to_argv).
func (g *grubRun) expand(n *scriptNode) ([]string, error) {
	var out []string
	total := 0
	for _, w := range n.words {
		var current strings.Builder
		present := false
		for _, part := range w {
			switch part.kind {
			case 't', 'b':
				if part.kind == 't' && !part.quoted && strings.Contains(part.text, "*") {
					return nil, g.stop(n.line, "a pattern (%s) is filled in by what the disk holds", part.text)
				}
				current.WriteString(part.text)
				present = true
			case 'v':
				value, err := g.value(n.line, part.text)
				if err != nil {
					return nil, err
				}
				if total += len(value); total > maxScript {
					return nil, g.stop(n.line, "the command is too long")
				}
				if part.quoted {
					current.WriteString(value)
					present = true
					continue
				}
				out, present = splitInto(out, &current, present, value)
			}
			if len(out) > maxArguments {
				return nil, g.stop(n.line, "the command is too long")
			}
		}
		if present {
			out = append(out, current.String())
		}
	}
	return out, nil
}

// splitInto adds an unquoted value: its blanks separate arguments.
func splitInto(out []string, current *strings.Builder, present bool, value string) ([]string, bool) {
	for i := range len(value) {
		if c := value[i]; c != ' ' && c != '\t' && c != '\n' {
			current.WriteByte(c)
			present = true
		} else if present {
			out = append(out, current.String())
			current.Reset()
			present = false
		}
	}
	return out, present
}

func (g *grubRun) value(line int, name string) (string, error) {
	if why, unknown := g.unknown[name]; unknown {
		return "", g.stop(line, "the value of $%s is not known: it depends on %s", name, why)
	}
	switch name {
	case "?":
		if g.status == maybe {
			return "", g.stop(line, "$? depends on the machine")
		}
		return strconv.Itoa(1 - int(g.status)), nil
	case "#":
		return strconv.Itoa(len(g.arguments)), nil
	case "@", "*":
		return strings.Join(g.arguments, " "), nil
	}
	if i, err := strconv.Atoi(name); err == nil {
		if i >= 1 && i <= len(g.arguments) {
			return g.arguments[i-1], nil
		}
		return "", nil
	}
	return g.vars[name], nil
}

func (g *grubRun) assign(name, value string) {
	// GRUB strips the parentheses of a device that root is set to.
	if name == "root" {
		value = strings.TrimSuffix(strings.TrimPrefix(value, "("), ")")
	}
	delete(g.unknown, name)
	g.vars[name] = value
}

// measure emits a command line as GRUB's tpm module measures it: the words after expansion, with a blank between them.
func (g *grubRun) measure(line int, text string) error {
	if err := g.step(line, len(text)); err != nil {
		return err
	}
	g.emit(grubMeasurement{kind: "command", text: text})
	return nil
}

// step counts a command or a turn of a loop, so that every run ends.
func (g *grubRun) step(line, size int) error {
	g.commands++
	g.measured += size
	if g.commands > maxCommands || g.measured > maxMeasured {
		return g.stop(line, "more than %d commands or %d bytes of them", maxCommands, maxMeasured)
	}
	return nil
}

func (g *grubRun) command(n *scriptNode) error {
	words, err := g.expand(n)
	if err != nil {
		return err
	}
	if len(words) == 0 {
		return nil
	}
	if err := g.measure(n.line, strings.Join(words, " ")); err != nil {
		return err
	}
	invert := words[0] == "!"
	if invert {
		if words = words[1:]; len(words) == 0 {
			g.status = no
			return nil
		}
	}
	if body, isFunction := g.functions[words[0]]; isFunction {
		err = g.call(n, body, words[1:])
	} else {
		err = g.builtin(n, words)
	}
	if invert && g.status != maybe {
		g.status = yes - g.status
	}
	return err
}

func (g *grubRun) call(n *scriptNode, body []scriptNode, arguments []string) error {
	if g.depth++; g.depth > maxRunDepth {
		return g.stop(n.line, "functions are nested more than %d deep", maxRunDepth)
	}
	before := g.arguments
	g.arguments, g.status = arguments, yes
	err := g.run(body)
	if errors.Is(err, errReturned) {
		err = nil
	}
	g.arguments = before
	g.depth--
	return err
}
