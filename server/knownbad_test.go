package server

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/boottest"
	"github.com/assay-verifier/assay/verifier/revocations"
)

// policies drives rules, templates and the history of policies.
func policies(b *bench, _ *machine) {
	const path = "/v1/policies/rules"
	b.refused("not_found", "", "GET", path+"/versions", b.admin, nil)
	b.want(200, "PUT", path, b.admin, `{"selector": {"scale_set": ["none"]}, "rules": [{"name": "on", "expression": "claims.secure_boot == true"}]}`)
	second := b.want(200, "PUT", path, b.admin, `{"selector": {"scale_set": ["none"]}, "rules": [{"name": "on", "effect": "warn", "expression": "events.exists(e, e.pcr == 4)", "applies_when": "machine.os == 'linux'", "message": "no"}]}`).json(b.t)
	if list, _ := second["rules"].([]any); len(list) != 1 || second["version"] != 2.0 {
		b.t.Errorf("policy: %v", second)
	}
	before := b.rows()
	for body, pointer := range map[string]string{
		`{"rules": [{"name": "a", "expression": "true"}, {"name": "b", "expression": "claims.secure_bot"}]}`: "/rules/1/expression",
		`{"rules": [{"name": "a", "expression": "true", "applies_when": "1"}]}`:                              "/rules/0/applies_when",
		`{"rules": [{"name": "a", "expression": "true"}, {"name": "a", "expression": "true"}]}`:              "/rules/1/name",
		`{"rules": [{"name": "A", "expression": "true"}]}`:                                                   "/rules/0/name",
		`{"rules": [{"name": "a", "expression": "true", "effect": "deny"}]}`:                                 "/rules/0/effect",
		`{"rules": [{"name": "a"}]}`: "/rules/0/expression",
	} {
		b.refused("invalid_field", pointer, "PUT", path, b.admin, body)
	}
	if a := b.refused("invalid_field", "/rules/0/expression", "PUT", path, b.admin, `{"rules": [{"name": "a", "expression": "true &&\n  1"}]}`); !strings.Contains(string(a.body), "line 2, column 3: expected type") {
		b.t.Errorf("%s", a.body)
	}
	b.sameRows(before)
	first := b.want(200, "GET", path+"/versions?limit=1", b.admin, nil).json(b.t)
	items, _ := first["items"].([]any)
	cursor, _ := first["next_cursor"].(string)
	rest := b.want(200, "GET", path+"/versions?cursor="+cursor, b.admin, nil).json(b.t)
	older, _ := rest["items"].([]any)
	if len(items) != 1 || items[0].(map[string]any)["version"] != 2.0 || len(older) != 1 || older[0].(map[string]any)["version"] != 1.0 || rest["next_cursor"] != nil {
		b.t.Errorf("versions: %v, %v", first, rest)
	}
	templates, _ := b.want(200, "GET", "/v1/policy-templates", b.admin, nil).json(b.t)["items"].([]any)
	if len(templates) != 5 {
		b.t.Fatalf("templates: %v", templates)
	}
	for _, x := range templates { // each can be put as it is
		template := x.(map[string]any)
		policy := template["policy"].(map[string]any)
		policy["selector"] = map[string]any{"scale_set": []string{"none"}}
		b.want(200, "PUT", "/v1/policies/from-"+strings.ReplaceAll(template["name"].(string), "_", "-"), b.admin, policy)
	}
}

// knownBad drives the data of what is known to be bad.
func knownBad(b *bench, _ *machine) {
	list := func() []any {
		items, _ := b.want(200, "GET", "/v1/revocations", b.admin, nil).json(b.t)["items"].([]any)
		return items
	}
	shipped := list()
	if len(shipped) != 7 || shipped[0].(map[string]any)["origin"] != "shipped" || shipped[0].(map[string]any)["version"] != nil || shipped[5].(map[string]any)["version"] != "2026-05-21" {
		b.t.Errorf("shipped: %v", shipped)
	}
	const hash = "80b4d96931bf0d02fd91a61e19d14f1da452e66db2408ca8604d411f92659f0a"
	if e := b.want(200, "GET", "/v1/revocations/entries/"+hash, b.admin, nil).json(b.t); e["file"] != "shim.efi" || e["kind"] != "image" || e["signed"] != true || e["optional"] != false || e["added"] != "2018-04-01" {
		b.t.Errorf("entry: %v", e)
	}
	if e := b.want(200, "GET", "/v1/revocations/entries/e8e95f0733a55e8bad7be0a1413ee23c51fcea64b3c8fa6a786935fddcc71961", b.admin, nil).json(b.t); e["kind"] != "certificate" || e["optional"] != true {
		b.t.Errorf("entry: %v", e)
	}
	b.refused("not_found", "", "GET", "/v1/revocations/entries/"+strings.Repeat("ab", 32), b.admin, nil)
	b.refused("invalid_field", "sha256", "GET", "/v1/revocations/entries/AB", b.admin, nil)
	b.refused("invalid_field", "kind", "PUT", "/v1/revocations/db", b.admin, []byte("x"))

	own := boottest.NewKeyExchangeKey(b.t)
	put := func(status int, kind string, body []byte) map[string]any {
		b.t.Helper()
		return b.want(status, "PUT", "/v1/revocations/"+kind, b.admin, body).json(b.t)
	}
	refused := func(code, says, kind string, body []byte) {
		b.t.Helper()
		before := b.rows()
		if a := b.refused(code, "", "PUT", "/v1/revocations/"+kind, b.admin, body); !strings.Contains(string(a.body), says) {
			b.t.Errorf("%s: %s lacks %q", kind, a.body, says)
		}
		b.sameRows(before)
	}
	update := own.Update(b.t, "dbx", [32]byte{1})
	refused("revocations_invalid", "does not lead to a key exchange key", "dbx", update)
	b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "own KEK", "purpose": "reference_values", "certificates_pem": own.PEM()})
	refused("revocations_invalid", "does not hold", "dbx", own.Update(b.t, "db", [32]byte{1}))
	refused("revocations_invalid", "offset 0", "dbx", []byte("short"))
	refused("revocations_invalid", "/images", "dbx_info", []byte(`{"images": {}}`))
	refused("revocations_invalid", "line 1", "sbat_level", []byte("shim,2\n"))
	sum := sha256.Sum256(update)
	if got := put(201, "dbx", update); got["origin"] != "imported" || got["name"] != hex.EncodeToString(sum[:]) || got["entries"] != 1.0 || got["version"] != nil {
		b.t.Errorf("imported: %v", got)
	}
	put(200, "dbx", update)
	b.want(200, "GET", "/v1/revocations/entries/01"+strings.Repeat("00", 31), b.admin, nil)
	refused("revocations_not_newer", "each entry of the update is known", "dbx", own.Update(b.t, "dbx", [32]byte{1}, [32]byte{1}))

	put(200, "dbx", shippedFile(b.t, "DBXUpdate-arm64.bin")) // exactly what is shipped
	refused("revocations_not_newer", "one of 2025021800 is held", "sbat_level", []byte("sbat,1,2024010900\nshim,4\n"))
	put(201, "sbat_level", []byte("sbat,1,2026110100\nshim,5\ngrub,6\n"))
	put(201, "sbat_level", []byte("sbat,1,2026120100\nshim,5\ngrub,7\n"))
	refused("revocations_not_newer", "one of 2026120100 is held", "sbat_level", []byte("sbat,1,2026110100\nshim,5\ngrub,6\n"))
	info := func(date string) []byte {
		return []byte(`{"images": {"x64": [{"authenticodeHash": "` + strings.Repeat("cd", 32) + `", "hashType": "SHA256", "filename": "x.efi", "description": "CVE-2026-99999", "dateOfAddition": "` + date + `"}]}}`)
	}
	refused("revocations_not_newer", "one of 2026-05-21 is held", "dbx_info", info("2026-05-21"))
	if got := put(201, "dbx_info", info("2026-11-24")); got["version"] != "2026-11-24" {
		b.t.Errorf("imported: %v", got)
	}
	if e := b.want(200, "GET", "/v1/revocations/entries/"+strings.Repeat("cd", 32), b.admin, nil).json(b.t); e["signed"] != false || len(e["cves"].([]any)) != 1 {
		b.t.Errorf("entry: %v", e)
	}
	if got := list(); len(got) != len(shipped)+3 {
		b.t.Errorf("%d pieces after the imports: %v", len(got), got)
	}
	for i := byte(2); ; i++ {
		a := b.call("PUT", "/v1/revocations/dbx", b.admin, own.Update(b.t, "dbx", [32]byte{i}))
		if a.status == 201 && i < 100 {
			continue
		}
		if a.status != 409 || i != 65 || !strings.Contains(string(a.body), `"conflict"`) {
			b.t.Errorf("update %d: %d %s", i, a.status, a.body)
		}
		break
	}
	b.truncated("PUT", "/v1/revocations/dbx")

}

// shippedFile is one of the updates that come with the service.
func shippedFile(t testing.TB, name string) []byte {
	t.Helper()
	raw, err := os.ReadFile("../verifier/revocations/data/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := revocations.ParseUpdate(raw); err != nil {
		t.Fatal(err)
	}
	return raw
}
