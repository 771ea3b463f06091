package openapi

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strings"
	"testing"
)

// TestGeneratedCodeIsCurrent compares what the code was generated from with what is there now. It needs
// neither the generator nor a network.
func TestGeneratedCodeIsCurrent(t *testing.T) {
	list, err := os.ReadFile("generated.sha256")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(list)), "\n")
	if len(lines) != 5 {
		t.Fatalf("generated.sha256 names %d files", len(lines))
	}
	for _, line := range lines {
		want, name, _ := strings.Cut(line, "  ")
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != want {
			t.Errorf("%s has changed since the code was generated: run go generate ./openapi", name)
		}
	}
}
