package predict

import (
	"fmt"
	"strings"
)

// Bounds of a GRUB script.
const (
	maxScript      = 1 << 20
	maxScriptDepth = 64 // of nested blocks and conditions
)

// scriptNode is one statement of GRUB's script language (GRUB manual, "Shell-like scripting").
type scriptNode struct {
	kind  string // command, if, for, while, until, function
	line  int
	words []scriptWord // a command's; of for, what it runs over
	name  string       // of for and function
	// branches of if, with their conditions; of loops and functions there is one. The last of if may lack a condition.
	branches []scriptBranch
}

type scriptBranch struct {
	condition, body []scriptNode
}

// scriptWord is one argument: parts that are written together.
type scriptWord []scriptPart

type scriptPart struct {
	kind   byte // 't' text, 'v' variable, 'b' block
	quoted bool
	text   string
}

type scriptParser struct {
	file   string
	source string
	at     int
	line   int
	depth  int
	// pending is a token that was read ahead: a word, or a separator, brace or the end.
	pending *scriptToken
}

type scriptToken struct {
	kind byte // 'w' word, ';' separator, '{', '}', 0 end
	word scriptWord
	at   int
	line int
}

// plain is the token's word if it is bare text, so that it may be a reserved word.
func (t *scriptToken) plain() string {
	if t.kind == 'w' && len(t.word) == 1 && t.word[0].kind == 't' && !t.word[0].quoted {
		return t.word[0].text
	}
	return ""
}

func (p *scriptParser) fail(line int, format string, args ...any) error {
	return errorf(CodeMalformedGRUB, p.file, fmt.Sprintf("line %d", line), format, args...)
}

// parseScript reads a whole script.
func parseScript(file, source string) ([]scriptNode, error) {
	if len(source) > maxScript {
		return nil, errorf(CodeTooLarge, file, "", "%d bytes; at most %d are accepted", len(source), maxScript)
	}
	p := &scriptParser{file: file, source: source, line: 1}
	nodes, end, err := p.statements()
	if err != nil {
		return nil, err
	}
	if end.kind != 0 {
		return nil, p.fail(end.line, "unexpected %q", p.shown(end))
	}
	return nodes, nil
}

func (p *scriptParser) shown(t *scriptToken) string {
	switch t.kind {
	case 'w':
		return t.plain()
	case 0:
		return "end of the file"
	}
	return string(t.kind)
}

// statements reads up to a token that ends a list: a reserved word in `until`, a closing brace, or the end.
func (p *scriptParser) statements(until ...string) ([]scriptNode, *scriptToken, error) {
	if p.depth++; p.depth > maxScriptDepth {
		return nil, nil, p.fail(p.line, "nested more than %d deep", maxScriptDepth)
	}
	defer func() { p.depth-- }()
	var out []scriptNode
	for {
		t, err := p.next()
		if err != nil {
			return nil, nil, err
		}
		word := t.plain()
		for _, u := range until {
			if word == u {
				return out, t, nil
			}
		}
		switch {
		case t.kind == ';':
			continue
		case t.kind != 'w':
			return out, t, nil
		}
		n, err := p.statement(t, word)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, *n)
	}
}

func (p *scriptParser) statement(t *scriptToken, word string) (*scriptNode, error) {
	n := &scriptNode{kind: "command", line: t.line}
	switch word {
	case "if":
		return p.conditional(n)
	case "while", "until":
		n.kind = word
		return n, p.loop(n)
	case "for":
		n.kind = word
		name, err := p.next()
		if err != nil {
			return nil, err
		}
		in, err := p.next()
		if err != nil {
			return nil, err
		}
		if n.name = name.plain(); n.name == "" || in.plain() != "in" {
			return nil, p.fail(n.line, "for needs a name and \"in\"")
		}
		if n.words, err = p.arguments(nil); err != nil {
			return nil, err
		}
		return n, p.body(n, nil, "do", "done")
	case "function":
		n.kind = word
		name, err := p.next()
		if err != nil {
			return nil, err
		}
		open, err := p.next()
		if err != nil {
			return nil, err
		}
		for open.kind == ';' {
			if open, err = p.next(); err != nil {
				return nil, err
			}
		}
		if n.name = name.plain(); n.name == "" || open.kind != '{' {
			return nil, p.fail(n.line, "function needs a name and a block")
		}
		body, end, err := p.statements()
		if err != nil {
			return nil, err
		}
		if end.kind != '}' {
			return nil, p.fail(end.line, "the function of line %d is not closed", n.line)
		}
		n.branches = []scriptBranch{{body: body}}
		return n, nil
	case "then", "elif", "else", "fi", "do", "done":
		return nil, p.fail(t.line, "unexpected %q", word)
	}
	var err error
	n.words, err = p.arguments([]scriptWord{t.word})
	return n, err
}

func (p *scriptParser) conditional(n *scriptNode) (*scriptNode, error) {
	n.kind = "if"
	for {
		condition, end, err := p.statements("then")
		if err != nil {
			return nil, err
		}
		if end.plain() != "then" {
			return nil, p.fail(end.line, "the condition of line %d lacks \"then\"", n.line)
		}
		if len(condition) == 0 {
			return nil, p.fail(end.line, "there is no condition before \"then\"")
		}
		body, end, err := p.statements("elif", "else", "fi")
		if err != nil {
			return nil, err
		}
		n.branches = append(n.branches, scriptBranch{condition, body})
		switch end.plain() {
		case "elif":
			continue
		case "else":
			if body, end, err = p.statements("fi"); err != nil {
				return nil, err
			}
			n.branches = append(n.branches, scriptBranch{body: body})
		}
		if end.plain() != "fi" {
			return nil, p.fail(end.line, "the condition of line %d lacks \"fi\"", n.line)
		}
		return n, nil
	}
}

func (p *scriptParser) loop(n *scriptNode) error {
	condition, end, err := p.statements("do")
	if err != nil {
		return err
	}
	if len(condition) == 0 {
		return p.fail(end.line, "the loop of line %d has no condition", n.line)
	}
	p.pending = end
	return p.body(n, condition, "do", "done")
}

// body reads "do … done".
func (p *scriptParser) body(n *scriptNode, condition []scriptNode, open, closing string) error {
	t, err := p.next()
	for err == nil && t.kind == ';' {
		t, err = p.next()
	}
	if err != nil {
		return err
	}
	if t.plain() != open {
		return p.fail(t.line, "the loop of line %d lacks %q", n.line, open)
	}
	body, end, err := p.statements(closing)
	if err != nil {
		return err
	}
	if end.plain() != closing {
		return p.fail(end.line, "the loop of line %d lacks %q", n.line, closing)
	}
	n.branches = []scriptBranch{{condition, body}}
	return nil
}

// arguments reads words up to the end of the command. A block is an argument: its source with its braces.
func (p *scriptParser) arguments(words []scriptWord) ([]scriptWord, error) {
	for {
		t, err := p.next()
		if err != nil {
			return nil, err
		}
		switch t.kind {
		case 'w':
			words = append(words, t.word)
		case '{':
			_, end, err := p.statements()
			if err != nil {
				return nil, err
			}
			if end.kind != '}' {
				return nil, p.fail(end.line, "the block of line %d is not closed", t.line)
			}
			words = append(words, scriptWord{{kind: 'b', quoted: true, text: p.source[t.at : end.at+1]}})
		case '}':
			p.pending = t
			return words, nil
		default:
			return words, nil
		}
	}
}

// next reads a token (GRUB, grub-core/script/yylex.l).
func (p *scriptParser) next() (*scriptToken, error) {
	if t := p.pending; t != nil {
		p.pending = nil
		return t, nil
	}
	p.blanks()
	t := &scriptToken{at: p.at, line: p.line}
	if p.at == len(p.source) {
		return t, nil
	}
	switch c := p.source[p.at]; c {
	case '\n':
		p.line++
		fallthrough
	case ';':
		p.at++
		t.kind = ';'
		return t, nil
	case '{', '}':
		p.at++
		t.kind = c
		return t, nil
	case '|', '&', '<', '>':
		return nil, p.fail(p.line, "%q has no meaning in GRUB", c)
	}
	t.kind = 'w'
	var err error
	t.word, err = p.word()
	return t, err
}

// blanks passes over spaces, continued lines and comments.
func (p *scriptParser) blanks() {
	for p.at < len(p.source) {
		switch c := p.source[p.at]; {
		case c == ' ' || c == '\t' || c == '\r':
			p.at++
		case strings.HasPrefix(p.source[p.at:], "\\\n"):
			p.at, p.line = p.at+2, p.line+1
		case c == '#':
			for p.at < len(p.source) && p.source[p.at] != '\n' {
				p.at++
			}
		default:
			return
		}
	}
}

func (p *scriptParser) word() (scriptWord, error) {
	var w scriptWord
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			w = append(w, scriptPart{kind: 't', text: text.String()})
			text.Reset()
		}
	}
	for p.at < len(p.source) {
		c := p.source[p.at]
		switch {
		case strings.IndexByte(" \t\r\n;{}|&<>", c) >= 0:
			flush()
			return w, nil
		case c == '\\':
			if p.at+1 == len(p.source) {
				return nil, p.fail(p.line, "a backslash ends the file")
			}
			if p.source[p.at+1] == '\n' {
				p.line++
			} else {
				flush()
				w = append(w, scriptPart{kind: 't', quoted: true, text: p.source[p.at+1 : p.at+2]})
			}
			p.at += 2
		case c == '\'':
			flush()
			end := strings.IndexByte(p.source[p.at+1:], '\'')
			if end < 0 {
				return nil, p.fail(p.line, "a quotation is not closed")
			}
			quoted := p.source[p.at+1 : p.at+1+end]
			p.line += strings.Count(quoted, "\n")
			w = append(w, scriptPart{kind: 't', quoted: true, text: quoted})
			p.at += end + 2
		case c == '"':
			flush()
			parts, err := p.doubleQuoted()
			if err != nil {
				return nil, err
			}
			w = append(w, parts...)
		case c == '$':
			if name := p.variable(); name != "" {
				flush()
				w = append(w, scriptPart{kind: 'v', text: name})
			} else {
				text.WriteByte('$')
				p.at++
			}
		default:
			text.WriteByte(c)
			p.at++
		}
	}
	flush()
	return w, nil
}

// doubleQuoted reads "…", in which variables are expanded.
func (p *scriptParser) doubleQuoted() ([]scriptPart, error) {
	parts := []scriptPart{{kind: 't', quoted: true}} // so that "" is an argument
	start := p.line
	var text strings.Builder
	flush := func() {
		if text.Len() > 0 {
			parts = append(parts, scriptPart{kind: 't', quoted: true, text: text.String()})
			text.Reset()
		}
	}
	for p.at++; p.at < len(p.source); {
		switch c := p.source[p.at]; c {
		case '"':
			p.at++
			flush()
			return parts, nil
		case '\\':
			if p.at+1 < len(p.source) && strings.IndexByte("\"$\\\n", p.source[p.at+1]) >= 0 {
				if p.source[p.at+1] == '\n' {
					p.line++
				} else {
					text.WriteByte(p.source[p.at+1])
				}
				p.at += 2
				continue
			}
			text.WriteByte(c)
			p.at++
		case '$':
			if name := p.variable(); name != "" {
				flush()
				parts = append(parts, scriptPart{kind: 'v', quoted: true, text: name})
				continue
			}
			text.WriteByte(c)
			p.at++
		default:
			if c == '\n' {
				p.line++
			}
			text.WriteByte(c)
			p.at++
		}
	}
	return nil, p.fail(start, "a quotation is not closed")
}

// variable reads $name, ${name}, $1, $@, $*, $# and $?; "" if none of them follows.
func (p *scriptParser) variable() string {
	rest := p.source[p.at+1:]
	if strings.HasPrefix(rest, "{") {
		end := strings.IndexByte(rest, '}')
		if end < 2 || !isVariable(rest[1:end]) {
			return ""
		}
		p.at += end + 2
		return rest[1:end]
	}
	end := 0
	for end < len(rest) && (rest[end] == '_' || isLetter(rest[end]) || end > 0 && isDigit(rest[end])) {
		end++
	}
	if end == 0 {
		if rest == "" || !isDigit(rest[0]) && strings.IndexByte("@*#?", rest[0]) < 0 {
			return ""
		}
		for end = 1; isDigit(rest[0]) && end < len(rest) && isDigit(rest[end]); end++ {
		}
	}
	p.at += end + 1
	return rest[:end]
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }

func isVariable(name string) bool {
	for i := range len(name) {
		if c := name[i]; c != '_' && !isLetter(c) && !isDigit(c) && (len(name) > 1 || strings.IndexByte("@*#?", c) < 0) {
			return false
		}
	}
	return name != ""
}
