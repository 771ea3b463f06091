package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestImportAndExport brings documents of other formats into a service, and a version out again.
func TestImportAndExport(t *testing.T) {
	s := startService(t)
	keylime, systemd := filepath.Join("..", "..", "baseline", "keylime", "testdata"), filepath.Join("..", "..", "baseline", "systemd", "testdata")
	signed := filepath.Join(keylime, "runtime-policy-test-signed.json")
	s.wants(1, []string{"import_untrusted", "/signatures/0"}, "baseline", "import", signed, "--name", "files", "--scale-set", "web")
	if refused := s.run(1, "baseline", "import", signed, "--name", "files", "--scale-set", "web"); strings.Count(refused, "/signatures/0") != 1 || !strings.Contains(refused, "trust-anchors add") || !strings.Contains(refused, "--allow-unsigned") {
		t.Errorf("refused: %s", refused)
	}
	s.wants(2, []string{"--everywhere"}, "baseline", "import", signed, "--name", "files")
	s.wants(0, []string{"files: 1 public key trusted for reference_values"}, "trust-anchors", "add", "--name", "files", "--purpose", "reference_values", filepath.Join(keylime, "runtime-policy-pubkey.pub"))
	s.wants(0, []string{"files", "ECDSA P-256"}, "trust-anchors", "--purpose", "reference_values", "--certificates")
	s.wants(0, []string{"files version 1 is active", "keylime-runtime-policy", "signed by", "boot_aggregate"}, "baseline", "import", signed, "--name", "files", "--scale-set", "web")
	s.wants(0, []string{"files version 2 is draft"}, "baselines", "import", signed, "--baseline", "files", "--content-type", "application/vnd.dsse.envelope.v1+json")
	s.wants(0, []string{"scale set web", "keylime-runtime-policy"}, "baseline", "show", "files@1")
	s.wants(0, []string{"files", "active", "draft"}, "trust-anchors", "baselines", "files")

	// Out again, in the form that the offline command takes, and without a signature only on somebody's word.
	out := filepath.Join(t.TempDir(), "files.json")
	s.wants(0, []string{"files.json"}, "baseline", "export", "files@1", "--out", out)
	if _, err := readReference(out, nil); err != nil {
		t.Error(err)
	}
	if text := s.run(0, "baseline", "export", "files@1"); !strings.Contains(text, `"keyrings"`) {
		t.Errorf("exported: %.200s", text)
	}
	s.wants(1, []string{"import_untrusted", "allow_unsigned"}, "baseline", "import", out, "--everywhere", "--name", "again")
	s.wants(0, []string{"again version 1 is draft", "vouched"}, "baseline", "import", out, "--everywhere", "--name", "again", "--allow-unsigned", "--state", "draft")

	s.wants(0, []string{"uki: 1 public key"}, "trust-anchors", "add", "--name", "uki", "--purpose", "reference_values", filepath.Join(systemd, "pub.pem"))
	pcrsig := filepath.Join(systemd, "pcrsig.json")
	s.wants(1, []string{"import_unsupported", "systemd-measure calculate"}, "baseline", "import", pcrsig, "--everywhere", "--name", "image")
	s.wants(0, []string{"image version 1 is draft", "systemd-pcrsig", "uki"}, "baseline", "import", pcrsig, "--everywhere", "--name", "image", "--state", "draft", "--support", filepath.Join(systemd, "measure256.json"))

	// Withdrawn, the anchor takes along what it vouched for.
	s.wants(0, []string{"files: disabled", "1 baseline version retired with it", "files", "1", "retired"}, "trust-anchors", "disable", "files")
	s.wants(1, []string{"422 import_untrusted", "withdrawn"}, "baseline", "promote", "files", "2")
	s.wants(0, []string{"files", "retired", "draft"}, "trust-anchors", "baselines", "files")
	s.wants(0, []string{"the trust anchor that vouched for it was withdrawn"}, "reappraisals")
	s.wants(0, []string{"image version 1 is active"}, "baseline", "promote", "image@1")
	s.wants(0, []string{"uki: deleted", "1 valid baseline version rested on it", "retired", "image"}, "trust-anchors", "delete", "uki")
	s.wants(0, []string{"image", "retired"}, "baseline", "show", "image")

	s.wants(2, []string{"--name"}, "baseline", "import", signed)
	s.wants(2, []string{"files is for scale set web"}, "baseline", "import", signed, "--baseline", "files", "--scale-set", "x")
	s.wants(2, []string{"no-such-file"}, "baseline", "import", "no-such-file", "--everywhere", "--name", "x")
	s.wants(2, []string{"no-such-file"}, "baseline", "import", signed, "--everywhere", "--name", "x", "--support", "no-such-file")
	s.wants(2, []string{"cannot be written"}, "baseline", "export", "files@1", "--out", filepath.Join(t.TempDir(), "none", "x"))
	if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}
