package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// testAudit checks the record of the whole story, keeps a checkpoint, takes a bundle and judges it without the service.
func testAudit(t *testing.T, s *liveService) {
	s.wants(0, []string{"baseline.create", "machine:", "admin:"}, "audit", "list", "--all")
	s.wants(0, []string{"verdict.change"}, "audit", "list", "--action", "verdict.change", "--target-kind", "machine")
	s.wants(0, []string{"HOLDS", "the service itself says which keys to trust"}, "audit", "verify")
	s.wants(0, []string{"covers", "verdicts of 1 machine"}, "audit", "checkpoint", "create") // by itself the service makes one too
	dir := t.TempDir()
	kept := filepath.Join(dir, "checkpoint.json")
	s.run(0, "audit", "checkpoint", "export", "--file", kept)
	s.wants(2, []string{"cannot be written"}, "audit", "checkpoint", "export", "--file", kept)
	s.wants(0, []string{"HOLDS", "with the verdicts", "nothing before it was changed or dropped"}, "audit", "verify", "--checkpoint", kept)
	var report auditReport
	s.json(&report, "audit", "verify", "--checkpoint", kept)
	if !report.Valid || report.Pinned != 1 || report.Compared < 1 || report.Trees < 1 || report.FirstSeq != 1 || report.Events < 20 {
		t.Errorf("%+v", report)
	}
	// A checkpoint of somebody else's service.
	body, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	var signed struct{ JWS, JWK any }
	if err := json.Unmarshal(body, &signed); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(signed.JWS.(string), ".")
	forged := writeFile(t, bytes.Replace(body, []byte(parts[2][:8]), []byte("AAAAAAAA"), 1))
	s.wants(2, []string{"checkpoint"}, "audit", "verify", "--checkpoint", forged)

	file := filepath.Join(dir, "bundle.zip")
	s.wants(0, []string{"verdicts of 1 machine"}, "export", "--bundle", file)
	s.wants(2, []string{"cannot be written"}, "export", "--bundle", file)
	s.wants(1, []string{"no such thing"}, "export", "--bundle", filepath.Join(dir, "none.zip"), "--machine", "01900000-0000-7000-8000-0000000000ff")
	if _, err := os.Stat(filepath.Join(dir, "none.zip")); err == nil {
		t.Error("a bundle that failed was left behind")
	}
	offline := assay(t, nil, "verify", "--bundle", file, "--checkpoint", kept)
	if offline.code != 0 || !strings.Contains(offline.stdout, "HOLDS") || !strings.Contains(offline.stdout, "agreed") || !strings.Contains(offline.stdout, "0 came later") {
		t.Errorf("offline: exit %d\n%s%s", offline.code, offline.stdout, offline.stderr)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	broken := writeFile(t, raw[:len(raw)/2])
	if r := assay(t, nil, "verify", "--bundle", broken); r.code != 2 || !strings.Contains(r.stderr, "ZIP") {
		t.Errorf("half a bundle: exit %d\n%s", r.code, r.stderr)
	}
	if r := assay(t, nil, "verify", "--bundle", file, "--nonce", "00"); r.code != 2 {
		t.Errorf("--nonce with a bundle: exit %d", r.code)
	}
}
