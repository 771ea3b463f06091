package rim

import (
	"slices"
	"strings"
)

// canonicalization is one of the ways to write a tree so that equal documents have equal bytes. All leave comments out.
type canonicalization struct {
	exclusive bool
	// inclusive are the prefixes that exclusive canonicalization treats as inclusive does; "" is the default namespace.
	inclusive []string
	// inherits tells which attributes of the namespace xml a part of a document takes from the elements around it.
	inherits func(local string) bool
}

// The algorithms that may be named (Canonical XML 1.0 section 2, 1.1 section 2, Exclusive XML Canonicalization section 3).
const (
	algorithmC14N10    = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
	algorithmC14N11    = "http://www.w3.org/2006/12/xml-c14n11"
	algorithmExclusive = "http://www.w3.org/2001/10/xml-exc-c14n#"
)

var c14n10 = canonicalization{inherits: func(string) bool { return true }}

// canonicalizationOf reads a CanonicalizationMethod or a Transform that names a canonicalization; ok is false for any other.
func canonicalizationOf(method *node) (c canonicalization, ok bool) {
	switch method.attribute("Algorithm") {
	case algorithmC14N10:
		c = c14n10
	case algorithmC14N11:
		// xml:id belongs to one element; a document with xml:base, which would have to be joined, is refused.
		c = canonicalization{inherits: func(local string) bool { return local != "id" }}
	case algorithmExclusive:
		c = canonicalization{exclusive: true}
		if list := method.child(algorithmExclusive, "InclusiveNamespaces"); list != nil {
			for _, prefix := range strings.Fields(list.attribute("PrefixList")) {
				if prefix == "#default" {
					prefix = ""
				}
				c.inclusive = append(c.inclusive, prefix)
			}
			return c, len(method.elements()) == 1
		}
	default:
		return c, false
	}
	return c, len(method.elements()) == 0
}

// write writes the element and all in it.
func (c canonicalization) write(apex *node) []byte {
	var b strings.Builder
	var inherited []attribute
	if !c.exclusive {
		for at := apex.parent; at != nil; at = at.parent {
			for _, a := range at.attributes {
				if a.space == spaceXML && c.inherits(a.local) && !has(apex.attributes, a) && !has(inherited, a) {
					inherited = append(inherited, a)
				}
			}
		}
	}
	c.element(&b, apex, inScope(apex.parent), nil, inherited)
	return []byte(b.String())
}

func has(list []attribute, a attribute) bool {
	return slices.ContainsFunc(list, func(b attribute) bool { return a.space == b.space && a.local == b.local })
}

// inScope are the namespaces in scope inside an element.
func inScope(n *node) []namespace {
	if n == nil {
		return nil
	}
	return declare(inScope(n.parent), n.namespaces)
}

// declare lays declarations over those in scope; neither is changed.
func declare(scope, declared []namespace) []namespace {
	if len(declared) == 0 {
		return scope
	}
	out := slices.Clone(scope)
	for _, d := range declared {
		out = slices.DeleteFunc(out, func(ns namespace) bool { return ns.prefix == d.prefix })
		if d.uri != "" {
			out = append(out, d)
		}
	}
	return out
}

func lookup(scope []namespace, prefix string) string {
	for _, ns := range scope {
		if ns.prefix == prefix {
			return ns.uri
		}
	}
	return ""
}

// element writes one element. scope are the namespaces in scope around it, rendered those that were written around it.
func (c canonicalization) element(b *strings.Builder, n *node, scope, rendered []namespace, inherited []attribute) {
	scope = declare(scope, n.namespaces)
	var declarations []namespace
	for _, prefix := range c.prefixes(n, scope) {
		uri := lookup(scope, prefix)
		if uri != lookup(rendered, prefix) {
			declarations = append(declarations, namespace{prefix, uri})
		}
	}
	slices.SortFunc(declarations, func(x, y namespace) int { return strings.Compare(x.prefix, y.prefix) })
	rendered = declare(rendered, declarations)

	name := qualified(n.prefix, n.local)
	b.WriteString("<" + name)
	for _, d := range declarations {
		if d.prefix == "" {
			b.WriteString(` xmlns="`)
		} else {
			b.WriteString(" xmlns:" + d.prefix + `="`)
		}
		b.WriteString(escapeAttribute.Replace(d.uri) + `"`)
	}
	attributes := append(slices.Clone(n.attributes), inherited...)
	slices.SortFunc(attributes, func(x, y attribute) int {
		if order := strings.Compare(x.space, y.space); order != 0 {
			return order
		}
		return strings.Compare(x.local, y.local)
	})
	for _, a := range attributes {
		b.WriteString(" " + qualified(a.prefix, a.local) + `="` + escapeAttribute.Replace(a.value) + `"`)
	}
	b.WriteString(">")
	for _, child := range n.children {
		if child.element != nil {
			c.element(b, child.element, scope, rendered, nil)
		} else {
			b.WriteString(escapeText.Replace(child.text))
		}
	}
	b.WriteString("</" + name + ">")
}

// prefixes are those whose declarations an element may have to show: all that are in scope, or the visibly used ones;
// and the default namespace, which may have to be taken back.
func (c canonicalization) prefixes(n *node, scope []namespace) []string {
	var out []string
	add := func(prefix string) {
		if prefix != "xml" && !slices.Contains(out, prefix) {
			out = append(out, prefix)
		}
	}
	if !c.exclusive {
		add("")
		for _, ns := range scope {
			add(ns.prefix)
		}
		return out
	}
	add(n.prefix)
	for _, a := range n.attributes {
		if a.prefix != "" {
			add(a.prefix)
		}
	}
	for _, prefix := range c.inclusive {
		if prefix == "" || lookup(scope, prefix) != "" {
			add(prefix)
		}
	}
	return out
}

func qualified(prefix, local string) string {
	if prefix == "" {
		return local
	}
	return prefix + ":" + local
}

var (
	escapeText      = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "\r", "&#xD;")
	escapeAttribute = strings.NewReplacer("&", "&amp;", "<", "&lt;", `"`, "&quot;", "\t", "&#x9;", "\n", "&#xA;", "\r", "&#xD;")
)
