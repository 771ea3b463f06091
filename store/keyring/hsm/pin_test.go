package hsm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadPIN(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pin")
	put := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"831 04729", "831 04729\n", "831 04729\r\n"} {
		put(text, 0o600)
		if pin, err := ReadPIN(path); err != nil || string(pin.Reveal()) != "831 04729" {
			t.Errorf("%q: %v", text, err)
		}
	}
	for story, c := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"others can read it": {"83104729", 0o644, "chmod 600"}, "the group can": {"83104729", 0o640, "chmod 600"}, "nothing": {"\n", 0o600, "one line"},
		"two lines": {"83104729\n83104729\n", 0o600, "one line"}, "NUL": {"83104729\x00", 0o600, "one line"}, "long": {strings.Repeat("83104729", 40), 0o600, "one line"},
	} {
		put(c.text, c.mode)
		if _, err := ReadPIN(path); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "83104729") {
			t.Errorf("%s: %v", story, err)
		}
	}
	if _, err := ReadPIN(path + ".nothing"); err == nil {
		t.Error("a file that is not there was read")
	}
}
