package server

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"mime/multipart"
	"net/textproto"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/corim"
	"github.com/assay-verifier/assay/baseline/intoto"
)

const importPath = "/v1/baselines/import"

// envelopeOf signs a statement as a build pipeline does (DSSE, PAE).
func envelopeOf(t testing.TB, key *ecdsa.PrivateKey, payloadType, payload string) string {
	t.Helper()
	sum := sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return mustJSON(t, map[string]any{"payloadType": payloadType, "payload": base64.StdEncoding.EncodeToString([]byte(payload)),
		"signatures": []any{map[string]any{"keyid": "", "sig": base64.StdEncoding.EncodeToString(sig)}}})
}

func statementOf(values string) string {
	return `{"_type": "https://in-toto.io/Statement/v1", "subject": [{"name": "image.efi", "digest": {"sha256": "` + strings.Repeat("ab", 32) + `"}}],
		"predicateType": "` + intoto.PredicateType + `", "predicate": {"reference_values": ` + values + `, "provenance": {"repository": "acme/images", "commit": "4f2a9c1"}}}`
}

func newKey(t testing.TB) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// imports drives the import of documents, the export of versions, and the anchors that they rest on.
func imports(b *bench, _ *machine) {
	key, pemKey := newKey(b.t)
	stranger, _ := newKey(b.t)
	values := `{"pcrs": {"sha256": {"7": ["` + strings.Repeat("07", 32) + `"]}}}`
	envelope := envelopeOf(b.t, key, intoto.PayloadType, statementOf(values))
	const dsse = "application/vnd.dsse.envelope.v1+json"

	// A bare key is an anchor for reference values and for nothing else.
	b.refused("invalid_field", "/certificates_pem", "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "builds", "purpose": "ak", "certificates_pem": pemKey})
	before := b.rows()
	b.refused("import_untrusted", "/signatures/0", "POST", importPath+"?name=image", b.admin, envelope, "Content-Type", dsse)
	b.sameRows(before)
	anchor := b.want(201, "POST", "/v1/trust-anchors", b.admin, map[string]any{"name": "builds", "purpose": "reference_values", "certificates_pem": pemKey}).json(b.t)
	held := anchor["certificates"].([]any)[0].(map[string]any)
	if held["kind"] != "public_key" || held["subject"] != "ECDSA P-256" || held["not_after"] != nil {
		b.t.Errorf("the key is held as %v", held)
	}

	v := b.want(201, "POST", importPath+`?name=image&state=draft&selector={"scale_set":["web"]}`, b.admin, envelope, "Content-Type", dsse).json(b.t)
	document := v["imported"].(map[string]any)
	signer := document["signer"].(map[string]any)
	sum := sha256.Sum256([]byte(envelope))
	if v["state"] != "draft" || document["format"] != "in-toto" || document["unsigned"] != false || signer["subject"] != "builds" ||
		signer["anchor_sha256"] != held["fingerprint"] || document["sha256"] != hex.EncodeToString(sum[:]) || v["provenance"].(map[string]any)["commit"] != "4f2a9c1" {
		b.t.Errorf("imported: %v", v)
	}
	id := v["id"].(string)
	second := b.want(201, "POST", importPath+"?baseline_id="+id, b.admin, envelope, "Content-Type", "application/json").json(b.t)
	if second["version"] != 2.0 || second["imported"].(map[string]any)["content_type"] != "application/json" {
		b.t.Errorf("the second version: %v", second)
	}
	read := b.want(200, "GET", "/v1/baselines/"+id+"/versions/1", b.admin, nil).json(b.t)
	if mustJSON(b.t, read["imported"]) != mustJSON(b.t, document) {
		b.t.Errorf("read again, it was imported from %v", read["imported"])
	}
	export := "/v1/baselines/" + id + "/versions/1/export"
	if got := b.want(200, "GET", export+"?format=assay", b.admin, nil); mustJSON(b.t, got.json(b.t)) != `{"pcrs":{"sha256":{"7":["`+strings.Repeat("07", 32)+`"]}}}` {
		b.t.Errorf("exported: %s", got.body)
	}
	// A CoRIM says no state: what judges nobody is not signed.
	b.refused("conflict", "", "GET", export+"?format=corim", b.admin, nil)
	b.want(200, "POST", "/v1/baselines/"+id+"/versions/1/promote", b.admin, nil)
	document2 := b.want(200, "GET", export+"?format=corim", b.admin, nil)
	resultKey := func() crypto.PublicKey { signer, _, _ := b.server.token.DocumentSigner(); return signer.Public() }()
	out, err := corim.Import(document2.body, &baseline.ImportTrust{Keys: []baseline.ImportKey{{Name: "results", Key: resultKey}}, Now: time.Now()})
	if err != nil || document2.header.Get("Content-Type") != "application/rim+cose" || out.Signer == nil || out.Values.PCRs["sha256"]["7"][0] != strings.Repeat("07", 32) {
		b.t.Errorf("the exported CoRIM: %+v, %v", out, err)
	}
	if again := b.want(200, "GET", export+"?format=corim", b.admin, nil); !bytes.Equal(again.body, document2.body) {
		b.t.Error("a version that never changes is exported otherwise the second time")
	}
	b.refused("import_untrusted", "", "POST", importPath+"?name=x&allow_unsigned=true", b.admin, document2.body, "Content-Type", "application/rim+cose")
	b.refused("not_found", "", "GET", "/v1/baselines/"+id+"/versions/9/export", b.admin, nil)
	b.refused("invalid_field", "format", "GET", export+"?format=yaml", b.admin, nil)

	// What rests on the anchor is known, also once it is withdrawn; and then it vouches for nothing more.
	path := "/v1/trust-anchors/" + anchor["id"].(string)
	off := b.want(200, "POST", path+"/disable", b.admin, nil).json(b.t)["retired_versions"].([]any)
	if len(off) != 1 || off[0].(map[string]any)["baseline_id"] != id || off[0].(map[string]any)["version"] != 1.0 || off[0].(map[string]any)["state"] != "retired" {
		b.t.Errorf("retired with the anchor: %v", off)
	}
	b.refused("import_untrusted", "", "POST", "/v1/baselines/"+id+"/versions/2/promote", b.admin, nil)
	b.refused("conflict", "", "GET", export+"?format=corim", b.admin, nil)
	first := b.want(200, "GET", path+"/baselines?limit=1", b.admin, nil).json(b.t)
	rest := b.want(200, "GET", path+"/baselines?cursor="+first["next_cursor"].(string), b.admin, nil).json(b.t)
	if one, two := first["items"].([]any)[0].(map[string]any), rest["items"].([]any); one["version"] != 2.0 || len(two) != 1 || two[0].(map[string]any)["baseline_id"] != id {
		b.t.Errorf("on the anchor rest %v and %v", first, rest)
	}
	b.refused("not_found", "", "GET", "/v1/trust-anchors/"+nobody+"/baselines", b.admin, nil)
	b.refused("invalid_cursor", "cursor", "GET", path+"/baselines?cursor=x", b.admin, nil)
	b.refused("import_untrusted", "/signatures/0", "POST", importPath+"?name=again", b.admin, envelope, "Content-Type", dsse)
	b.want(200, "POST", path+"/enable", b.admin, nil)

	b.refused("conflict", "", "POST", importPath+"?name=image", b.admin, envelope, "Content-Type", dsse)
	b.refused("not_found", "", "POST", importPath+"?baseline_id="+nobody, b.admin, envelope, "Content-Type", dsse)
	b.refused("import_untrusted", "/signatures/0", "POST", importPath+"?name=x", b.admin, envelopeOf(b.t, stranger, intoto.PayloadType, statementOf(values)), "Content-Type", dsse)
	b.refused("import_unsupported", "/payloadType", "POST", importPath+"?name=x", b.admin, envelopeOf(b.t, key, "text/plain", statementOf(values)), "Content-Type", dsse)
	b.refused("import_malformed", "/payload/predicate/reference_values/pcrs/sha256/7/0", "POST", importPath+"?name=x", b.admin,
		envelopeOf(b.t, key, intoto.PayloadType, statementOf(`{"pcrs": {"sha256": {"7": ["abcd"]}}}`)), "Content-Type", dsse)
	b.refused("import_empty", "/payload/predicate/reference_values", "POST", importPath+"?name=x", b.admin, envelopeOf(b.t, key, intoto.PayloadType, statementOf(`{}`)), "Content-Type", dsse)

	unsigned(b)
	refusedImports(b, envelope)
}

// unsigned: a format that has no signature is taken where the caller vouches for it, which is kept and audited.
func unsigned(b *bench) {
	policy, err := os.ReadFile("../baseline/keylime/testdata/runtime-policy-test.json")
	if err != nil {
		b.t.Fatal(err)
	}
	const media = "application/vnd.keylime.runtime-policy+json"
	b.refused("import_untrusted", "", "POST", importPath+"?name=files", b.admin, string(policy), "Content-Type", media)
	v := b.want(201, "POST", importPath+"?name=files&allow_unsigned=true", b.admin, string(policy), "Content-Type", media).json(b.t)
	if document := v["imported"].(map[string]any); document["signer"] != nil || document["unsigned"] != true || v["state"] != "active" {
		b.t.Errorf("imported: %v", v)
	}
	if n := b.column(`SELECT count(*)::text FROM audit_events WHERE action = 'baseline.create' AND after->>'name' = 'files' AND after->'provenance'->'imported'->>'unsigned' = 'true'`); n != "1" {
		b.t.Errorf("%s audit events say that the caller vouched", n)
	}
	b.want(200, "GET", "/v1/baselines/"+v["id"].(string), b.admin, nil)
	b.want(200, "POST", "/v1/baselines/"+v["id"].(string)+"/versions/1/retire", b.admin, nil)
	// A signature that is there must hold, whatever the caller says.
	bad, err := os.ReadFile("../baseline/keylime/testdata/runtime-policy-test-signed.json")
	if err != nil {
		b.t.Fatal(err)
	}
	b.refused("import_untrusted", "/signatures/0", "POST", importPath+"?name=files2&allow_unsigned=true", b.admin, string(bad), "Content-Type", "application/vnd.dsse.envelope.v1+json")
}

func refusedImports(b *bench, envelope string) {
	const dsse = "application/vnd.dsse.envelope.v1+json"
	before := b.rows()
	for _, c := range []struct{ code, pointer, query, body, media string }{
		{"invalid_field", "name", "", envelope, dsse},
		{"invalid_field", "name", "?name=a&baseline_id=" + nobody, envelope, dsse},
		{"invalid_field", "baseline_id", "?baseline_id=7", envelope, dsse},
		{"invalid_field", "selector", "?baseline_id=" + nobody + "&selector={}", envelope, dsse},
		{"invalid_field", "selector", `?name=a&selector={"x":1}`, envelope, dsse},
		{"invalid_field", "selector", `?name=a&selector={"machine_ids":["x"]}`, envelope, dsse},
		{"invalid_field", "state", "?name=a&state=grace", envelope, dsse},
		{"unknown_field", "", "?name=a&trust=me", envelope, dsse},
		{"unsupported_media_type", "", "?name=a", envelope, "text/plain"},
		{"import_malformed", "", "?name=a", "", dsse},
		{"import_malformed", "/payload", "?name=a", `{"payload": "", "payload": ""}`, dsse},
		{"import_unsupported", "", "?name=a", `{"what": "is this"}`, "application/json"},
		{"import_unsupported", "", "?name=a", "\x00\x01\x02", "application/octet-stream"},
		{"import_too_large", "/digests/499999", "?name=a", `{"digests": {` + many(600_000, `"%d":[]`) + `}}`, "application/vnd.keylime.runtime-policy+json"},
		{"import_too_large", "", "?name=a", strings.Repeat(" ", 17<<20), dsse},
		{"body_too_large", "", "?name=a", strings.Repeat(" ", 25<<20), dsse},
	} {
		b.refused(c.code, c.pointer, "POST", importPath+c.query, b.admin, c.body, "Content-Type", c.media)
	}
	form := func(fill func(*multipart.Writer)) (body, media string) {
		var buf bytes.Buffer
		w := multipart.NewWriter(&buf)
		fill(w)
		if err := w.Close(); err != nil {
			b.t.Fatal(err)
		}
		return buf.String(), w.FormDataContentType()
	}
	part := func(w *multipart.Writer, name, file, media, content string) {
		h := textproto.MIMEHeader{"Content-Disposition": {fmt.Sprintf(`form-data; name=%q; filename=%q`, name, file)}}
		if media != "" {
			h.Set("Content-Type", media)
		}
		p, err := w.CreatePart(h)
		if err != nil {
			b.t.Fatal(err)
		}
		_, _ = p.Write([]byte(content))
	}
	for _, c := range []struct {
		code, pointer string
		fill          func(*multipart.Writer)
	}{
		{"invalid_field", "/document", func(w *multipart.Writer) { part(w, "support", "a.bin", "", "x") }},
		{"invalid_field", "/what", func(w *multipart.Writer) { part(w, "what", "a.bin", "", "x") }},
		{"invalid_field", "/document", func(w *multipart.Writer) { part(w, "document", "a", dsse, "{}"); part(w, "document", "b", dsse, "{}") }},
		{"invalid_field", "/support", func(w *multipart.Writer) { part(w, "support", "a", "", "x"); part(w, "support", "a", "", "y") }},
		{"unsupported_media_type", "", func(w *multipart.Writer) { part(w, "document", "a", "text/plain", "x") }},
		{"import_unsupported", "", func(w *multipart.Writer) { part(w, "document", "a", "", "x") }},
	} {
		body, media := form(c.fill)
		b.refused(c.code, c.pointer, "POST", importPath+"?name=a", b.admin, body, "Content-Type", media)
	}
	b.refused("malformed_encoding", "", "POST", importPath+"?name=a", b.admin, "--x\r\nContent-Disposition: form-data; name=\"document\"\r\n\r\ncut", "Content-Type", "multipart/form-data; boundary=x")
	b.sameRows(before)
	body, media := form(func(w *multipart.Writer) { part(w, "document", "image.json", dsse, envelope) })
	b.want(201, "POST", importPath+"?name=by-form&state=draft", b.admin, body, "Content-Type", media)
}

// many writes n elements with commas between them.
func many(n int, format string) string {
	var out strings.Builder
	for i := range n {
		if i > 0 {
			out.WriteByte(',')
		}
		fmt.Fprintf(&out, format, i)
	}
	return out.String()
}

// A document with a million entries costs a bounded multiple of its size, and is refused with its place.
func TestAnImportOfAMillionEntriesCostsBoundedMemory(t *testing.T) {
	b := newBench(t, nil)
	for name, body := range map[string]string{
		"files":   `{"digests": {` + many(1_000_000, `"%x":[]`) + `}}`,
		"digests": `{"digests": {"/a": [` + many(1_000_000, `"%d"`) + `]}}`,
		"deep":    `{"digests": ` + strings.Repeat("[", 4<<20),
		"events":  `{"events": [` + strings.Repeat(`{},`, 4_000_000) + `{}]}`,
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a := b.call("POST", importPath+"?name=large&allow_unsigned=true", b.admin, body, "Content-Type", "application/json")
		runtime.ReadMemStats(&after)
		if a.status != 413 && a.status != 422 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
		if cost := (after.TotalAlloc - before.TotalAlloc) >> 20; cost > 400 {
			t.Errorf("%s of %d MiB allocated %d MiB", name, len(body)>>20, cost)
		}
	}
	if files, err := filepath.Glob(filepath.Join(os.TempDir(), "multipart-*")); err == nil && len(files) > 0 {
		t.Errorf("left in files: %v", files)
	}
}
