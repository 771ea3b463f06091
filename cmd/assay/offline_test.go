package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/assay-verifier/assay/openapi/client"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// TestVerifyBoots judges every captured boot against the baseline captured from the first healthy one.
// What deviates is what the boot's README and truth.json say was changed, and nothing else.
func TestVerifyBoots(t *testing.T) {
	healthy := captured(t, "sb-on-1")
	// Another operating system image: own Secure Boot keys, no shim, no GRUB, a unified kernel image.
	otherImage := []string{"4 boot_loader", "4 kernel", "7 boot_authority", "7 secure_boot_policy", "7 shim", "8 boot_loader_config", "8 kernel_command_line",
		"9 boot_loader_config", "9 kernel", "9 kernel_command_line", "11 uki_section", "14 machine_owner_key"}
	commandLine := []string{"8 boot_loader_config", "8 kernel_command_line", "9 boot_loader_config"}
	for _, c := range []struct {
		boot       string
		status     string
		reason     string
		deviations []string // PCR and component, as a set
		says       string   // in one of the deviations
	}{
		{boot: "sb-on-1", status: "affirming"},
		{boot: "sb-on-2", status: "affirming"},
		{boot: "sb-on-otherbox", status: "affirming"},
		{"cmdline", "contraindicated", "baseline_deviation", commandLine, "apparmor=0 mitigations=off single"},
		{"grubcfg-tampered", "contraindicated", "baseline_deviation", []string{"8 boot_loader_config", "9 boot_loader_config"}, "set superuser=attacker"},
		{"initrd-tampered", "contraindicated", "baseline_deviation", []string{"9 initrd"}, "/initrd.img"},
		{"hw-changed", "contraindicated", "baseline_deviation", []string{"0 firmware"}, "firmware"},
		{"mok-signed", "contraindicated", "baseline_deviation", []string{"7 boot_authority", "9 kernel", "14 machine_owner_key"}, "my-mok"},
		{"sb-disabled", "contraindicated", "baseline_deviation", []string{"4 boot_loader", "7 secure_boot_policy"}, "no event log"},
		{"sb-off", "contraindicated", "baseline_deviation", []string{"0 firmware", "4 boot_loader", "7 secure_boot_policy"}, "no event log"},
		{"unlogged-extend", "contraindicated", "origin_unverified", []string{"9 kernel"}, "PCR 9"},
		{"snakeoil", "contraindicated", "baseline_deviation", otherImage, "SnakeOil"},
		{"uki-direct", "contraindicated", "baseline_deviation", append([]string{"0 firmware"}, otherImage...), "my-db"},
		{"uki-sdboot-1", "contraindicated", "baseline_deviation", append([]string{"0 firmware", "12 kernel_command_line"}, otherImage...), "my-db"},
		{"ima-tcb-1", "contraindicated", "baseline_deviation", commandLine, "ima_policy=tcb"},
		{"ima-tcb-2", "contraindicated", "baseline_deviation", commandLine, "ima_policy=tcb"},
		{"ima-ng", "contraindicated", "baseline_deviation", commandLine, "ima_template=ima-ng"},
		{"ima-critical", "contraindicated", "baseline_deviation", commandLine, "ima_template=ima-buf"},
	} {
		t.Run(c.boot, func(t *testing.T) {
			v, r := verify(t, "--evidence", bootEvidence(t, c.boot), "--nonce", bootNonce(t, c.boot), "--baseline", healthy)
			if v.Status != c.status || text(v.Reason) != c.reason {
				t.Errorf("status %s reason %q, want %s %q", v.Status, text(v.Reason), c.status, c.reason)
			}
			if want := map[bool]int{true: 0, false: 1}[c.status == "affirming"]; r.code != want {
				t.Errorf("exit code %d, want %d", r.code, want)
			}
			got := map[string]bool{}
			all := ""
			for _, d := range v.Deviations {
				got[fmt.Sprintf("%d %s", d.PCR, d.Component)] = true
				all += d.Description + "\n"
			}
			for _, want := range c.deviations {
				if !got[want] {
					t.Errorf("no deviation of %s", want)
				}
				delete(got, want)
			}
			for extra := range got {
				t.Errorf("unexpected deviation of %s", extra)
			}
			if !strings.Contains(all, c.says) {
				t.Errorf("no deviation says %q:\n%s", c.says, all)
			}
			if v.Baseline == nil || v.Baseline.ID != "file" {
				t.Errorf("baseline %+v", v.Baseline)
			}
		})
	}
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// TestVerifySecureBoot tells what is known of Secure Boot: off cannot be told apart from unknown where
// Linux got no log at all, and required means proven.
func TestVerifySecureBoot(t *testing.T) {
	optional := writeJSON(t, document{"require_secure_boot": false})
	for _, c := range []struct {
		boot, check, claim string
	}{
		{"sb-on-1", "pass", "true"}, {"snakeoil", "pass", "true"}, {"uki-direct", "pass", "true"},
		{"sb-disabled", "fail", "null"}, {"sb-off", "fail", "null"}, {"unlogged-extend", "skipped", "null"},
	} {
		v, _ := verify(t, "--evidence", bootEvidence(t, c.boot), "--nonce", bootNonce(t, c.boot))
		if got, detail := v.check("secure_boot.enabled"); got != c.check {
			t.Errorf("%s: secure_boot.enabled %s (%s), want %s", c.boot, got, detail, c.check)
		}
		if got, _ := json.Marshal(v.Claims["secure_boot"]); string(got) != c.claim {
			t.Errorf("%s: claim secure_boot %s, want %s", c.boot, got, c.claim)
		}
	}
	v, r := verify(t, "--evidence", bootEvidence(t, "sb-off"), "--nonce", bootNonce(t, "sb-off"), "--policy", optional, "--baseline", captureWith(t, "sb-off", optional))
	if v.Status != "affirming" || r.code != 0 {
		t.Errorf("a machine without Secure Boot that matches its own baseline, where none is required: %s\n%+v", v.Status, v.Checks)
	}
}

func captureWith(t *testing.T, boot, policy string) string {
	t.Helper()
	r := assay(t, nil, "capture", "--evidence", bootEvidence(t, boot), "--policy", policy)
	if r.code != 0 {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	return writeFile(t, []byte(r.stdout))
}

// TestVerifyEveryKeyAndBank judges the same boot by each of its keys, over each bank and over all at once.
func TestVerifyEveryKeyAndBank(t *testing.T) {
	sha1 := writeJSON(t, document{"pcrs": document{"sha1": []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}, "allow_sha1_pcrs": true})
	for _, ak := range []string{"rsassa", "rsapss", "ecdsa256", "ecdsa384"} {
		for _, bank := range []string{"sha1", "sha256", "sha384", "all-banks"} {
			args := []string{"--evidence", writeJSON(t, evidenceDocument(t, "sb-on-1", ak, bank, false)), "--nonce", bootNonce(t, "sb-on-1")}
			v, _ := verify(t, args...)
			want := "affirming"
			switch bank {
			case "sha1":
				want = "contraindicated" // the policy has not allowed it
			case "sha384":
				want = "warning" // the policy names sha256
			}
			if v.Status != want {
				t.Errorf("%s over %s: %s, want %s: %+v", ak, bank, v.Status, want, v.Checks)
			}
			if bank != "sha1" {
				continue
			}
			if v, _ := verify(t, append(args, "--policy", sha1)...); v.Status != "affirming" {
				t.Errorf("%s over sha1, allowed: %s: %+v", ak, v.Status, v.Checks)
			}
		}
	}
	file := writeJSON(t, evidenceDocument(t, "sb-on-sha384bank", "rsassa", "sha384", false))
	v, _ := verify(t, "--evidence", file, "--nonce", bootNonce(t, "sb-on-sha384bank"), "--baseline", capturedFile(t, file))
	if v.Status != "warning" || len(v.Deviations) > 0 {
		t.Errorf("a TPM with only a SHA-384 bank, in place of the policy's: %s: %+v", v.Status, v.Checks)
	}
	sha384 := writeJSON(t, document{"pcrs": document{"sha384": []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}})
	v, _ = verify(t, "--evidence", file, "--nonce", bootNonce(t, "sb-on-sha384bank"), "--baseline", capturedFile(t, file), "--policy", sha384)
	if v.Status != "affirming" {
		t.Errorf("a TPM with only a SHA-384 bank, which the policy names: %s: %+v", v.Status, v.Checks)
	}
}

func capturedFile(t *testing.T, evidence string) string {
	t.Helper()
	r := assay(t, nil, "capture", "--evidence", evidence)
	if r.code != 0 {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	return writeFile(t, []byte(r.stdout))
}

// TestVerifyIMA sends the runtime list of two boots of one machine.
func TestVerifyIMA(t *testing.T) {
	for _, boot := range []string{"ima-tcb-1", "ima-tcb-2", "ima-ng", "ima-critical"} {
		v, _ := verify(t, "--evidence", writeJSON(t, evidenceDocument(t, boot, "rsassa", "sha256", true)), "--nonce", bootNonce(t, boot),
			"--baseline", captured(t, boot))
		if got, detail := v.check("ima.replay"); got != "pass" || v.Status != "affirming" {
			t.Errorf("%s: %s, ima.replay %s (%s)", boot, v.Status, got, detail)
		}
	}
	doc := evidenceDocument(t, "ima-tcb-1", "rsassa", "sha256", true)
	list := doc["ima_log"].([]byte)
	list[len(list)-20] ^= 1
	if v, _ := verify(t, "--evidence", writeJSON(t, doc)); v.Status != "contraindicated" || text(v.Reason) != "origin_unverified" {
		t.Errorf("a changed list: %s %s", v.Status, text(v.Reason))
	}
}

// TestVerifyNonce: without a nonce the verdict is at best warning; a wrong one is origin_unverified.
func TestVerifyNonce(t *testing.T) {
	file := bootEvidence(t, "sb-on-1")
	v, r := verify(t, "--evidence", file)
	if got, _ := v.check("quote.nonce"); got != "skipped" || v.Status != "warning" || r.code != 1 {
		t.Errorf("without a nonce: %s, quote.nonce %s, exit %d", v.Status, got, r.code)
	}
	v, r = verify(t, "--evidence", file, "--nonce", strings.Repeat("22", 32))
	if got, _ := v.check("quote.nonce"); got != "fail" || v.Status != "contraindicated" || text(v.Reason) != "origin_unverified" || r.code != 1 {
		t.Errorf("with another nonce: %s %s, quote.nonce %s, exit %d", v.Status, text(v.Reason), got, r.code)
	}
	for _, bad := range []string{"zz", "1", strings.Repeat("11", 65)} {
		if r := assay(t, nil, "verify", "--evidence", file, "--nonce", bad); r.code != 2 {
			t.Errorf("--nonce %s: exit %d, want 2", bad, r.code)
		}
	}
}

// TestVerifyForgeries changes one thing at a time; each is caught by the check that is made for it.
func TestVerifyForgeries(t *testing.T) {
	flip := func(b []byte, i int) []byte {
		c := slices.Clone(b)
		c[i] ^= 0x40
		return c
	}
	quote := func(d document) document { return d["quotes"].([]document)[0] }
	for _, c := range []struct {
		name, check string
		change      func(document)
	}{
		{"no key", "ak.trusted", func(d document) { delete(d, "enrollment") }},
		{"empty enrollment", "ak.trusted", func(d document) { d["enrollment"] = document{} }},
		{"another machine's key", "quote.signature", func(d document) {
			d["enrollment"] = evidenceDocument(t, "sb-on-otherbox", "rsassa", "sha256", false)["enrollment"]
		}},
		{"message", "quote.signature", func(d document) { quote(d)["message"] = flip(quote(d)["message"].([]byte), 60) }},
		{"signature", "quote.signature", func(d document) { quote(d)["signature"] = flip(quote(d)["signature"].([]byte), 60) }},
		{"PCR value", "quote.digest", func(d document) {
			d["pcrs"].(document)["sha256"].(document)["4"] = strings.Repeat("ab", 32)
		}},
		{"PCR left out", "quote.selection", func(d document) { delete(d["pcrs"].(document)["sha256"].(document), "4") }},
		{"event", "eventlog.replay", func(d document) {
			log := d["event_log"].([]byte)
			d["event_log"] = flip(log, digestOffset(t, log, 4))
		}},
		{"log that is none", "eventlog.replay", func(d document) { d["event_log"] = []byte("not a log") }},
		{"log cut off", "eventlog.replay", func(d document) { d["event_log"] = d["event_log"].([]byte)[:10000] }},
		{"IMA list that is none", "ima.replay", func(d document) { d["ima_log"] = []byte{1, 2, 3} }},
	} {
		doc := evidenceDocument(t, "sb-on-1", "rsassa", "sha256", false)
		c.change(doc)
		v, r := verify(t, "--evidence", writeJSON(t, doc), "--nonce", bootNonce(t, "sb-on-1"))
		if got, _ := v.check(c.check); got != "fail" || v.Status != "contraindicated" || text(v.Reason) != "origin_unverified" || r.code != 1 {
			t.Errorf("%s: %s %s, %s %s, exit %d", c.name, v.Status, text(v.Reason), c.check, got, r.code)
		}
		if r := assay(t, nil, "capture", "--evidence", writeJSON(t, doc)); r.code != 1 || r.stdout != "" || !strings.Contains(r.stderr, c.check) {
			t.Errorf("%s: capture: exit %d, stdout %q, stderr %q", c.name, r.code, r.stdout, r.stderr)
		}
	}
}

// digestOffset finds the SHA-256 digest of the first event of a PCR in the log.
func digestOffset(t *testing.T, raw []byte, pcr int) int {
	t.Helper()
	log, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range log.Events() {
		for _, d := range e.Digests {
			if e.PCR == pcr && e.Extended && d.Alg == tpm.SHA256 {
				return bytes.Index(raw, d.Bytes)
			}
		}
	}
	t.Fatalf("no event in PCR %d", pcr)
	return 0
}

// TestVerifyAlteredData: data that its digest covers was changed after it was measured. The digests still
// replay, so the evidence is genuine, but it is not affirming.
func TestVerifyAlteredData(t *testing.T) {
	doc := evidenceDocument(t, "sb-on-1", "rsassa", "sha256", false)
	log := doc["event_log"].([]byte)
	at := bytes.Index(log, []byte("Debian UEFI Secure Boot"))
	if at < 0 {
		t.Fatal("the platform key is not in the log")
	}
	log[at] ^= 1
	v, r := verify(t, "--evidence", writeJSON(t, doc), "--nonce", bootNonce(t, "sb-on-1"))
	if got, detail := v.check("eventlog.replay"); got != "warn" || v.Status == "affirming" || r.code != 1 {
		t.Errorf("%s, eventlog.replay %s (%s)", v.Status, got, detail)
	}
}

// TestUnreadableInput: exit code 2 and a problem document with code and place.
func TestUnreadableInput(t *testing.T) {
	good := bootEvidence(t, "sb-on-1")
	with := func(change func(document)) string {
		doc := evidenceDocument(t, "sb-on-1", "rsassa", "sha256", false)
		change(doc)
		return writeJSON(t, doc)
	}
	raw := func(s string) string { return writeFile(t, []byte(s)) }
	for _, c := range []struct {
		name, code, pointer string
		args                []string
	}{
		{"no such file", "unreadable_input", "", []string{"--evidence", "no-such-file"}},
		{"empty", "malformed_protobuf", "", []string{"--evidence", raw("")}},
		{"not JSON", "malformed_json", "", []string{"--evidence", raw("{")}},
		{"not protobuf", "malformed_protobuf", "", []string{"--evidence", raw("\xff\xff\xff")}},
		{"nested", "invalid_field", "/quotes/0", []string{"--evidence", raw(`{"quotes":` + strings.Repeat("[", 20000))}},
		{"twice", "malformed_json", "/pcrs", []string{"--evidence", raw(`{"pcrs":{},"pcrs":{}}`)}},
		{"unknown field", "unknown_field", "/force", []string{"--evidence", with(func(d document) { d["force"] = true })}},
		{"bad base64", "invalid_field", "/event_log", []string{"--evidence", with(func(d document) { d["event_log"] = "§" })}},
		{"no quote", "invalid_field", "/quotes", []string{"--evidence", with(func(d document) { d["quotes"] = []document{} })}},
		{"PCR 24", "invalid_field", "/pcrs/sha256/24", []string{"--evidence", with(func(d document) {
			d["pcrs"].(document)["sha256"].(document)["24"] = strings.Repeat("00", 32)
		})}},
		{"short digest", "invalid_field", "/pcrs/sha256/0", []string{"--evidence", with(func(d document) { d["pcrs"].(document)["sha256"].(document)["0"] = "00" })}},
		{"AK", "invalid_field", "/enrollment/ak_public", []string{"--evidence", with(func(d document) { d["enrollment"] = document{"ak_public": []byte{1, 2}} })}},
		{"AK certificate", "invalid_field", "/enrollment/ak_certificate", []string{"--evidence", with(func(d document) { d["enrollment"].(document)["ak_certificate"] = []byte{1, 2} })}},
		{"log by name", "event_log_required", "/event_log_digest", []string{"--evidence", with(func(d document) {
			delete(d, "event_log")
			d["event_log_digest"] = "sha256:" + strings.Repeat("00", 32)
		})}},
		{"baseline", "unknown_field", "/what", []string{"--evidence", good, "--baseline", raw(`{"what":1}`)}},
		{"baseline that judges nothing", "invalid_field", "", []string{"--evidence", good, "--baseline", raw(`{}`)}},
		{"policy", "invalid_field", "/challenge_lifetime_seconds", []string{"--evidence", good, "--policy", raw(`{"challenge_lifetime_seconds":1}`)}},
		{"anchors", "unreadable_input", "", []string{"--evidence", good, "--trust-anchors", raw("no PEM")}},
		{"anchors with a key", "unreadable_input", "", []string{"--evidence", good, "--trust-anchors", raw("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")}},
		{"time", "usage", "", []string{"--evidence", good, "--at", "yesterday"}},
		{"flag", "usage", "", []string{"--evidence", good, "--force"}},
		{"no evidence", "usage", "", nil},
	} {
		r := assay(t, nil, append([]string{"verify", "--output", "json"}, c.args...)...)
		var p problem
		if err := json.Unmarshal([]byte(r.stderr), &p); err != nil {
			t.Errorf("%s: exit %d, stderr is no problem document: %q", c.name, r.code, r.stderr)
			continue
		}
		pointer := ""
		if len(p.Errors) > 0 {
			pointer = p.Errors[0].Pointer
		}
		if r.code != 2 || p.Code != c.code || pointer != c.pointer || p.Title == "" || r.stdout != "" {
			t.Errorf("%s: exit %d, code %q, pointer %q (want %q, %q), stdout %q\n%s", c.name, r.code, p.Code, pointer, c.code, c.pointer, r.stdout, r.stderr)
		}
		human := assay(t, nil, append([]string{"verify"}, c.args...)...)
		if human.code != 2 || !strings.HasPrefix(human.stderr, "assay: ") || !strings.Contains(human.stderr, c.pointer) || human.stdout != "" {
			t.Errorf("%s, for people: exit %d: %s%s", c.name, human.code, human.stdout, human.stderr)
		}
	}
}

// TestVerifyGotpm judges what gotpm writes: the protobuf carries the AK itself.
func TestVerifyGotpm(t *testing.T) {
	doc := evidenceDocument(t, "sb-on-1", "rsassa", "sha256", false)
	quote := doc["quotes"].([]document)[0]
	var pcrs []byte
	pcrs = protowire.AppendVarint(protowire.AppendTag(pcrs, 1, protowire.VarintType), uint64(tpm.SHA256))
	for key, value := range doc["pcrs"].(document)["sha256"].(document) {
		var index uint64
		var digest []byte
		if _, err := fmt.Sscanf(key+" "+value.(string), "%d %x", &index, &digest); err != nil {
			t.Fatal(err)
		}
		var entry []byte
		entry = protowire.AppendVarint(protowire.AppendTag(entry, 1, protowire.VarintType), index)
		entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), digest)
		pcrs = protowire.AppendBytes(protowire.AppendTag(pcrs, 2, protowire.BytesType), entry)
	}
	field := func(b []byte, n protowire.Number, v []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
	}
	q := field(field(field(nil, 1, quote["message"].([]byte)), 2, quote["signature"].([]byte)), 3, pcrs)
	body := field(field(field(nil, 1, doc["enrollment"].(document)["ak_public"].([]byte)), 2, q), 3, doc["event_log"].([]byte))
	v, r := verify(t, "--evidence", writeFile(t, body), "--nonce", bootNonce(t, "sb-on-1"), "--baseline", captured(t, "sb-on-1"))
	if v.Status != "affirming" || r.code != 0 {
		t.Errorf("%s, exit %d: %+v", v.Status, r.code, v.Checks)
	}
}

// TestVerdictShape: the offline verdict is the API's verdict.
func TestVerdictShape(t *testing.T) {
	r := assay(t, nil, "verify", "--output", "json", "--evidence", bootEvidence(t, "cmdline"), "--baseline", captured(t, "sb-on-1"), "--at", "2026-01-02T03:04:05Z")
	var v client.Verdict
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, c := range v.Checks {
		order = append(order, c.Code)
		if c.Detail == "" || c.Citation == "" {
			t.Errorf("check %s has no detail or citation", c.Code)
		}
	}
	if got, want := strings.Join(order, " "), "ak.trusted platform.report platform.binding quote.signature quote.type quote.nonce quote.selection quote.digest quote.clock eventlog.replay secure_boot.enabled baseline.match ima.replay ima.policy policy.rules"; got != want {
		t.Errorf("checks\n%s, want\n%s", got, want)
	}
	if v.ReceivedAt.Format("2006-01-02T15:04:05Z07:00") != "2026-01-02T03:04:05Z" || v.Policy.ID != "default" || v.Assurance != "first_use" || len(v.Deviations) == 0 {
		t.Errorf("%+v", v)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(r.stdout), &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"id", "machine_id", "received_at", "status", "reason", "assurance", "checks", "deviations", "claims", "baseline", "policy"} {
		if fields[name] == nil {
			t.Errorf("field %s is missing", name)
		}
	}
}

// TestVerifyForPeople: marks, deviations in plain words, nothing that a terminal would obey.
func TestVerifyForPeople(t *testing.T) {
	r := assay(t, nil, "verify", "--evidence", bootEvidence(t, "cmdline"), "--nonce", bootNonce(t, "cmdline"), "--baseline", captured(t, "sb-on-1"))
	for _, want := range []string{"contraindicated  baseline_deviation", "✓ quote.signature", "– ima.replay", "✗ baseline.match       3 deviations", "Deviations (3)",
		"PCR 8   kernel command line changed", "`apparmor=0 mitigations=off single` added", "secure_boot_effective"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%q is not in\n%s", want, r.stdout)
		}
	}
	if strings.Contains(r.stdout, "\x1b") {
		t.Error("escape sequences, though the output is no terminal")
	}
}

// TestStandardInput: "-" is standard input.
func TestStandardInput(t *testing.T) {
	body, err := os.ReadFile(bootEvidence(t, "sb-on-1"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := readFile("-", 1<<20, strings.NewReader(string(body)))
	if err != nil || string(got) != string(body) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := readFile("-", 10, strings.NewReader(string(body))); err == nil {
		t.Error("a file over the limit was read")
	}
}
