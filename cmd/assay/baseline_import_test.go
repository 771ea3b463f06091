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
	s.wants(1, []string{"import_untrusted", "/signatures/0"}, "baseline", "import", signed, "--name", "files")
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
	s.wants(1, []string{"import_untrusted", "allow_unsigned"}, "baseline", "import", out, "--name", "again")
	s.wants(0, []string{"again version 1 is draft", "vouched"}, "baseline", "import", out, "--name", "again", "--allow-unsigned", "--state", "draft")

	s.wants(0, []string{"uki: 1 public key"}, "trust-anchors", "add", "--name", "uki", "--purpose", "reference_values", filepath.Join(systemd, "pub.pem"))
	pcrsig := filepath.Join(systemd, "pcrsig.json")
	s.wants(1, []string{"import_unsupported", "systemd-measure calculate"}, "baseline", "import", pcrsig, "--name", "image")
	s.wants(0, []string{"image version 1 is draft", "systemd-pcrsig", "uki"}, "baseline", "import", pcrsig, "--name", "image", "--state", "draft", "--support", filepath.Join(systemd, "measure256.json"))

	s.wants(2, []string{"--name"}, "baseline", "import", signed)
	s.wants(2, []string{"--scale-set"}, "baseline", "import", signed, "--baseline", "files", "--scale-set", "x")
	s.wants(2, []string{"no-such-file"}, "baseline", "import", "no-such-file", "--name", "x")
	s.wants(2, []string{"no-such-file"}, "baseline", "import", signed, "--name", "x", "--support", "no-such-file")
	s.wants(2, []string{"cannot be written"}, "baseline", "export", "files@1", "--out", filepath.Join(t.TempDir(), "none", "x"))
	if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
}
