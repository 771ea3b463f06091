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
	key      string
}

// claimsView is the claims of a verdict: those that are known, and the names of those that are not. What the hardware
// report of a confidential VM proves stands by itself, with what could not be checked of it.
type claimsView struct {
	Platform  []claimNode
	Unchecked []string // of the hardware report, for want of collateral
	Known     []claimNode
	Unknown   []string
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
		switch {
		case n.key == "platform" && len(n.Children) > 0:
			view.Platform, view.Unchecked = platformClaims(n.Children)
		case n.key == "platform" || n.key == "relying_party" && len(n.Children) == 0 && n.Value == "":
			// an ordinary machine: that no processor speaks for it is no claim that it lacks
		case n.Value == "" && len(n.Children) == 0:
			view.Unknown = append(view.Unknown, n.Label)
		default:
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
			name, key := "", ""
			if v == '{' {
				token, err := d.Token()
				if err != nil {
					return node, false, err
				}
				key = fmt.Sprint(token)
				name = claimLabel(key)
			}
			child, known, err := readClaim(d, name, depth+1)
			if err != nil {
				return node, false, err
			}
			child.key = key
			if word, ok := claimValues[key][child.Value]; ok {
				child.Value = word
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

// claimValues are the words of claims whose values are codes.
var claimValues = map[string]map[string]string{
	"tee_type":  {"sev_snp": "AMD SEV-SNP", "tdx": "Intel TDX"},
	"product":   {"milan": "AMD EPYC Milan", "genoa": "AMD EPYC Genoa", "turin": "AMD EPYC Turin"},
	"signed_by": {"vcek": "the chip's own key (VCEK)", "vlek": "a cloud provider's key (VLEK)", "pck": "the platform's key (PCK)"},
}

// platformFirst are the claims of a hardware report that are read most, in their order. What else there is follows,
// folded away, so that a claim that is added to the verifier appears by itself.
var platformFirst = []string{
	"tee_type", "product", "launch_measurement", "tcb", "committed_tcb", "tee_tcb_svn", "tcb_status", "vmpl", "debug", "migratable",
	"vm_id", "secure_boot", "tpm_enabled", "console_enabled", "signed_by", "root", "collateral_until",
}

// platformClaims orders what a hardware report proves. What its paravisor says of the virtual machine stands among it.
func platformClaims(nodes []claimNode) (list []claimNode, unchecked []string) {
	var all []claimNode
	for _, n := range nodes {
		switch n.key {
		case "unknown":
			unchecked = append(unchecked, leaves(n)...)
		case "vm_configuration":
			if len(n.Children) == 0 { // compact has put its only claim in its place
				n.key, n.Label = "vm_id", claimLabel("vm_id")
				all = append(all, n)
			}
			for _, c := range n.Children {
				if c.key != "vm_id" {
					c.Label += ", as the paravisor says"
				}
				all = append(all, c)
			}
		case "tcb", "committed_tcb", "current_tcb":
			all = append(all, inOneLine(n))
		case "tcb_status":
			if n.Summary == "" && len(n.Children) > 0 {
				n.Summary = n.Children[0].Value
			}
			all = append(all, n)
		default:
			all = append(all, n)
		}
	}
	rest := claimNode{Label: "Further fields"}
	first := make(map[string]bool, len(platformFirst))
	for _, key := range platformFirst {
		first[key] = true
		for _, n := range all {
			if n.key == key {
				list = append(list, n)
			}
		}
	}
	for _, n := range all {
		if !first[n.key] {
			rest.Children = append(rest.Children, n)
		}
	}
	if len(rest.Children) > 0 {
		list = append(list, rest)
	}
	return list, unchecked
}

// leaves are the values of a claim that is a list.
func leaves(n claimNode) (values []string) {
	if n.Value != "" {
		return []string{n.Value}
	}
	for _, c := range n.Children {
		values = append(values, leaves(c)...)
	}
	return values
}

// inOneLine writes a structure of numbers as one value: "bootloader 4, tee 0, snp 24, microcode 219".
func inOneLine(n claimNode) claimNode {
	parts := make([]string, 0, len(n.Children))
	for _, c := range n.Children {
		if c.Value == "" {
			return n
		}
		parts = append(parts, c.Label+" "+c.Value)
	}
	if len(parts) > 0 {
		n.Value, n.Children = strings.Join(parts, ", "), nil
	}
	return n
}

func isDigest(s string) bool {
	return len(s) >= 40 && strings.Trim(s, "0123456789abcdef") == ""
}

var claimLabels = map[string]string{
	"pk": "PK", "kek": "KEK", "db": "db", "dbx": "dbx", "mok_list": "Machine owner keys", "gpt": "Partition tables",
	"uki": "Unified kernel image", "uki_sections": "Unified kernel image sections", "grub_commands": "GRUB commands",
	"tpm": "TPM", "ima": "Runtime measurements (IMA)", "kernel_cmdline": "Kernel command line", "option_roms": "Option ROMs",
	"secure_boot": "Secure Boot", "secure_boot_effective": "Secure Boot effective", "initrd": "Initial RAM disk",
	"relying_party": "For relying parties", "tee_type": "TEE type", "vm_id": "VM id", "tcb": "TCB", "committed_tcb": "TCB that is committed to",
	"current_tcb": "TCB that is installed", "tcb_status": "TCB status", "tee_tcb_svn": "TEE TCB SVN", "vmpl": "VMPL", "smt": "SMT", "guest_svn": "Guest SVN",
	"debug": "Debugging allowed", "migratable": "Migration allowed", "root": "Root", "root_sha256": "Root, SHA-256", "csp_id": "Cloud provider",
	"chip_id": "Chip id", "fmspc": "FMSPC", "id_key_digest": "ID key digest", "author_key_digest": "Author key digest", "mr_seam": "MRSEAM",
	"mr_signer_seam": "MRSIGNERSEAM", "seam_attributes": "SEAMATTRIBUTES", "mr_config_id": "MRCONFIGID", "mr_owner": "MROWNER", "mr_owner_config": "MROWNERCONFIG", "rtmrs": "RTMRs",
	"tpm_enabled": "TPM enabled", "console_enabled": "Serial console enabled", "tpm_persisted": "TPM persisted", "collateral_until": "Proven with what is valid until",
	"fmc": "fmc", "bootloader": "bootloader", "tee": "tee", "snp": "snp", "microcode": "microcode",
	"shim_sbat_level": "Shim SBAT level", "sha1": "SHA-1", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512",
}

func claimLabel(key string) string {
	if l, ok := claimLabels[key]; ok {
		return l
	}
	return words(key)
}
