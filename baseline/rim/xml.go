package rim

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/baseline"
)

// Bounds of a base RIM. Real ones have some kilobytes and a few dozen elements; one that lists each file of a firmware
// has some thousand.
const (
	maxTag        = 1 << 20
	maxDepth      = 32
	maxElements   = 20000
	maxAttributes = 64 // of one element
	maxNamespaces = 32 // declared in an element and those around it
	maxStep       = 64 // bytes of a name in a place
)

const (
	spaceXML   = "http://www.w3.org/XML/1998/namespace"
	spaceXMLNS = "http://www.w3.org/2000/xmlns/"
)

// node is an element. Its attributes and namespace declarations are apart, as canonical XML has them.
type node struct {
	parent        *node
	prefix, local string
	space         string // the namespace that prefix stands for
	attributes    []attribute
	namespaces    []namespace
	declared      int // namespaces declared in it and around it
	children      []child
}

type attribute struct {
	prefix, local, space, value string
}

// namespace is a declaration: the empty prefix is the default namespace.
type namespace struct {
	prefix, uri string
}

// child is an element or, where element is nil, text. No two texts follow each other.
type child struct {
	element *node
	text    string
}

// refuse makes an error. Names and texts of the document are in it, so it is cut.
func refuse(kind, element, format string, args []any) error {
	const most = 500
	return baseline.ImportErrorf(kind, baseline.Shown(element, most), "%s", baseline.Shown(fmt.Sprintf(format, args...), most))
}

func malformed(element, format string, args ...any) error {
	return refuse(baseline.ImportMalformed, element, format, args)
}

func untrusted(element, format string, args ...any) error {
	return refuse(baseline.ImportUntrusted, element, format, args)
}

func unsupported(element, format string, args ...any) error {
	return refuse(baseline.ImportUnsupported, element, format, args)
}

func tooLarge(element, format string, args ...any) error {
	return refuse(baseline.ImportTooLarge, element, format, args)
}

// parse reads a document into a tree. What the tree cannot hold exactly as canonical XML would is refused: document
// types, processing instructions, and line breaks in attributes. Comments are dropped, as canonical XML without
// comments drops them, and the text around them becomes one.
func parse(document []byte) (*node, error) {
	if len(document) > maxTag {
		return nil, tooLarge("", "the base RIM has %d bytes; at most %d are read", len(document), maxTag)
	}
	for _, declaration := range []string{"<!DOCTYPE", "<!ENTITY", "<!ELEMENT", "<!ATTLIST", "<!NOTATION"} {
		if i := bytes.Index(document, []byte(declaration)); i >= 0 {
			return nil, malformed("", "%s at byte %d: document types and entities are not read", declaration, i)
		}
	}
	document = bytes.TrimPrefix(document, []byte("\xef\xbb\xbf"))
	p := parser{decoder: xml.NewDecoder(bytes.NewReader(document))}
	for {
		token, err := p.decoder.RawToken()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, p.malformed("%s", err)
		}
		if err := p.add(token); err != nil {
			return nil, err
		}
	}
	switch {
	case p.current != nil:
		return nil, malformed(path(p.current), "the element has no end")
	case p.root == nil:
		return nil, malformed("", "there is no element: this is no XML document")
	}
	return p.root, nil
}

type parser struct {
	decoder       *xml.Decoder
	root, current *node
	depth, count  int
	begun         bool // a token was read
}

func (p *parser) malformed(format string, args ...any) error {
	line, column := p.decoder.InputPos()
	return malformed(path(p.current), "line %d, column %d: %s", line, column, fmt.Sprintf(format, args...))
}

func (p *parser) add(token xml.Token) error {
	first := !p.begun
	p.begun = true
	switch t := token.(type) {
	case xml.StartElement:
		return p.start(&t)
	case xml.EndElement:
		return p.end(&t)
	case xml.CharData:
		return p.text(string(t))
	case xml.Comment:
	case xml.ProcInst:
		if !first || t.Target != "xml" {
			return p.malformed("the processing instruction %q: none is read", t.Target)
		}
	default:
		return p.malformed("document types and entities are not read")
	}
	return nil
}

func (p *parser) text(text string) error {
	if p.current == nil {
		if strings.TrimSpace(text) != "" {
			return p.malformed("text outside the root element")
		}
		return nil
	}
	children := p.current.children
	if n := len(children); n > 0 && children[n-1].element == nil {
		children[n-1].text += text
		return nil
	}
	p.current.children = append(children, child{text: text})
	return nil
}

func (p *parser) end(t *xml.EndElement) error {
	if p.current == nil || t.Name.Space != p.current.prefix || t.Name.Local != p.current.local {
		return p.malformed("</%s> ends no element", joined(t.Name))
	}
	p.current = p.current.parent
	p.depth--
	return nil
}

func (p *parser) start(t *xml.StartElement) error {
	if p.current == nil && p.root != nil {
		return p.malformed("<%s> after the root element", joined(t.Name))
	}
	if p.depth++; p.depth > maxDepth {
		return tooLarge(path(p.current), "elements are nested more than %d deep", maxDepth)
	}
	if p.count++; p.count > maxElements {
		return tooLarge(path(p.current), "more than %d elements", maxElements)
	}
	if len(t.Attr) > maxAttributes {
		return tooLarge(path(p.current), "<%s> has %d attributes; at most %d are read", joined(t.Name), len(t.Attr), maxAttributes)
	}
	n := &node{parent: p.current, prefix: t.Name.Space, local: t.Name.Local}
	if err := p.declarations(n, t.Attr); err != nil {
		return err
	}
	var ok bool
	if n.space, ok = n.resolve(n.prefix); !ok || strings.Contains(n.local, ":") {
		return p.malformed("the prefix of <%s> is not declared", joined(t.Name))
	}
	if err := p.attributes(n, t.Attr); err != nil {
		return err
	}
	if p.current == nil {
		p.root = n
	} else {
		p.current.children = append(p.current.children, child{element: n})
	}
	p.current = n
	return nil
}

// declarations keeps the namespace declarations of an element (Namespaces in XML 1.0, sections 3 and 5).
func (p *parser) declarations(n *node, attrs []xml.Attr) error {
	for _, a := range attrs {
		var prefix string
		switch {
		case a.Name.Space == "xmlns":
			prefix = a.Name.Local
		case a.Name.Space == "" && a.Name.Local == "xmlns":
		default:
			continue
		}
		switch {
		case prefix == "xml" || prefix == "xmlns" || a.Value == spaceXML || a.Value == spaceXMLNS:
			return p.malformed("the namespaces of XML itself are declared")
		case prefix != "" && a.Value == "":
			return p.malformed("the prefix %q is declared for no namespace", prefix)
		}
		for _, before := range n.namespaces {
			if before.prefix == prefix {
				return p.malformed("the prefix %q is declared twice in one element", prefix)
			}
		}
		n.namespaces = append(n.namespaces, namespace{prefix, a.Value})
	}
	if n.declared = len(n.namespaces); n.parent != nil {
		n.declared += n.parent.declared
	}
	if n.declared > maxNamespaces {
		return tooLarge(path(p.current), "<%s> is inside of more than %d namespace declarations", n.local, maxNamespaces)
	}
	return nil
}

func (p *parser) attributes(n *node, attrs []xml.Attr) error {
	for _, a := range attrs {
		if a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns" {
			continue
		}
		name := joined(a.Name)
		attr := attribute{prefix: a.Name.Space, local: a.Name.Local, value: a.Value}
		if attr.prefix != "" {
			var ok bool
			if attr.space, ok = n.resolve(attr.prefix); !ok {
				return p.malformed("the prefix of the attribute %s is not declared", name)
			}
		}
		if strings.Contains(attr.local, ":") {
			return p.malformed("%q is no attribute", name)
		}
		// A parser must make spaces of literal line breaks and keep those written as references (XML 1.0, section 3.3.3);
		// the decoder does not tell them apart, and a signature covers only one of the two.
		if strings.ContainsAny(attr.value, "\t\n\r") {
			return p.malformed("the attribute %s of <%s> has a line break or a tabulator", name, n.local)
		}
		for _, before := range n.attributes {
			if before.local == attr.local && before.space == attr.space {
				return p.malformed("<%s> has the attribute %s twice", n.local, name)
			}
		}
		n.attributes = append(n.attributes, attr)
	}
	return nil
}

func joined(name xml.Name) string {
	if name.Space == "" {
		return name.Local
	}
	return name.Space + ":" + name.Local
}

// resolve finds the namespace of a prefix; ok is false where it is not declared. No prefix and no default namespace is
// the empty namespace.
func (n *node) resolve(prefix string) (uri string, ok bool) {
	if prefix == "xml" {
		return spaceXML, true
	}
	for at := n; at != nil; at = at.parent {
		for _, ns := range at.namespaces {
			if ns.prefix == prefix {
				return ns.uri, true
			}
		}
	}
	return "", prefix == ""
}

// path is the place of an element, like an XPath without prefixes: /SoftwareIdentity/Payload/Directory/File[2].
func path(n *node) string {
	if n == nil {
		return ""
	}
	step := "/" + baseline.Shown(n.local, maxStep)
	if n.parent != nil {
		position, total := 0, 0
		for _, c := range n.parent.children {
			if c.element != nil && c.element.local == n.local {
				total++
			}
			if c.element == n {
				position = total
			}
		}
		if total > 1 && position > 0 {
			step += "[" + strconv.Itoa(position) + "]"
		}
	}
	return path(n.parent) + step
}

// elements are the child elements.
func (n *node) elements() []*node {
	var out []*node
	for _, c := range n.children {
		if c.element != nil {
			out = append(out, c.element)
		}
	}
	return out
}

func (n *node) is(space, local string) bool { return n.space == space && n.local == local }

// child is the only child element of the name; nil where there is none or more than one.
func (n *node) child(space, local string) *node {
	var found *node
	for _, e := range n.elements() {
		if e.is(space, local) {
			if found != nil {
				return nil
			}
			found = e
		}
	}
	return found
}

// attribute is the value of an attribute without a namespace.
func (n *node) attribute(local string) string {
	for _, a := range n.attributes {
		if a.space == "" && a.local == local {
			return a.value
		}
	}
	return ""
}

// content is the text directly in the element.
func (n *node) content() string {
	var b strings.Builder
	for _, c := range n.children {
		if c.element == nil {
			b.WriteString(c.text)
		}
	}
	return b.String()
}

// walk visits the element and all below it, until visit returns false.
func (n *node) walk(visit func(*node) bool) bool {
	if !visit(n) {
		return false
	}
	for _, c := range n.children {
		if c.element != nil && !c.element.walk(visit) {
			return false
		}
	}
	return true
}

// without is the element without one of its child elements, and without the white space between elements if strip is
// set. The tree that it is made of stays as it is.
func (n *node) without(removed *node, strip bool) *node {
	out := *n
	out.children = nil
	for _, c := range n.children {
		switch {
		case c.element == nil:
			if strip && isSpace(c.text) {
				continue
			}
		case c.element == removed:
			continue
		default:
			c.element = c.element.without(removed, strip)
			c.element.parent = &out
		}
		out.children = append(out.children, c)
	}
	return &out
}

func isSpace(text string) bool { return strings.Trim(text, " \t\r\n") == "" }
