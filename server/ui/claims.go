package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier"
)

// claimNode is one claim as a page shows it: a value, or a list of further nodes.
type claimNode struct {
	Label    string
	Summary  string // of a nested one: what it is, in one line
	Value    string
	Digest   bool // Value is a long hex text
	Children []claimNode
}

// claimsView is the claims of a verdict: those that are known, and the names of those that are not.
type claimsView struct {
	Known   []claimNode
	Unknown []string
}

// maxClaimDepth bounds the nesting that is shown. Claims are our own structures and far flatter.
const maxClaimDepth = 8

// describeClaims reads claims by their JSON form, in its order, so that a claim that is added to the
// verifier appears on the page by itself. Unknown (null) is told apart from "no".
func describeClaims(c verifier.Claims) (claimsView, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return claimsView{}, fmt.Errorf("claims: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	root, _, err := readClaim(d, "", 0)
	if err != nil {
		return claimsView{}, fmt.Errorf("claims: %w", err)
	}
	var view claimsView
	for _, n := range root.Children {
		if n.Value == "" && len(n.Children) == 0 {
			view.Unknown = append(view.Unknown, n.Label)
		} else {
			view.Known = append(view.Known, n)
		}
	}
	return view, nil
}

// readClaim reads one JSON value. known is false for null and for what holds nothing.
func readClaim(d *json.Decoder, label string, depth int) (node claimNode, known bool, err error) {
	node.Label = label
	if depth > maxClaimDepth {
		return node, false, fmt.Errorf("nested deeper than %d", maxClaimDepth)
	}
	token, err := d.Token()
	if err != nil {
		return node, false, err
	}
	switch v := token.(type) {
	case json.Delim:
		for d.More() {
			name := ""
			if v == '{' {
				key, err := d.Token()
				if err != nil {
					return node, false, err
				}
				name = claimLabel(fmt.Sprint(key))
			}
			child, known, err := readClaim(d, name, depth+1)
			if err != nil {
				return node, false, err
			}
			if known || depth == 0 {
				node.Children = append(node.Children, child)
			}
		}
		if _, err := d.Token(); err != nil {
			return node, false, err
		}
		return compact(node), len(node.Children) > 0, nil
	case nil:
		return node, false, nil
	case bool:
		node.Value = yesNo(v)
	default:
		node.Value = fmt.Sprint(v)
		node.Digest = isDigest(node.Value)
	}
	return node, node.Value != "", nil
}

// compact makes a nested claim easier to read: an only child with a value takes its parent's place, and
// the child that names a thing becomes its summary.
func compact(n claimNode) claimNode {
	if len(n.Children) == 1 && n.Children[0].Value != "" && n.Children[0].Label != "" && n.Label != "" {
		child := n.Children[0]
		if n.Label != "Digests" {
			child.Label = n.Label + ", " + child.Label
		}
		return child
	}
	for _, name := range []string{"Subject", "Name", "File", "Description", "Source", "Path"} {
		for i, c := range n.Children {
			if c.Label == name && c.Value != "" {
				n.Summary = c.Value
				n.Children = append(n.Children[:i:i], n.Children[i+1:]...)
				return n
			}
		}
	}
	return n
}

// Long tells whether a nested claim is better folded away.
func (n claimNode) Long() bool { return n.leaves() > 4 }

func (n claimNode) leaves() int {
	count := 1
	for _, c := range n.Children {
		count += c.leaves()
	}
	return count
}

func isDigest(s string) bool {
	return len(s) >= 40 && strings.Trim(s, "0123456789abcdef") == ""
}

var claimLabels = map[string]string{
	"pk": "PK", "kek": "KEK", "db": "db", "dbx": "dbx", "mok_list": "Machine owner keys", "gpt": "Partition tables",
	"uki": "Unified kernel image", "uki_sections": "Unified kernel image sections", "grub_commands": "GRUB commands",
	"tpm": "TPM", "ima": "Runtime measurements (IMA)", "kernel_cmdline": "Kernel command line", "option_roms": "Option ROMs",
	"secure_boot": "Secure Boot", "secure_boot_effective": "Secure Boot effective", "initrd": "Initial RAM disk",
	"shim_sbat_level": "Shim SBAT level", "sha1": "SHA-1", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512",
}

func claimLabel(key string) string {
	if l, ok := claimLabels[key]; ok {
		return l
	}
	return words(key)
}
