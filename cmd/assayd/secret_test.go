package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestNoSettingShowsASecret: however the settings of any command are printed, logged or marshalled, the password in the database's URL
// does not show.
func TestNoSettingShowsASecret(t *testing.T) {
	t.Parallel()
	const password = "hunter2-in-the-url"
	t.Log("every command that takes a URL")
	for _, args := range [][]string{{"serve"}, {"dev"}, {"migrate"}, {"admin-token"}, {"job", "run", "partitions"}, {"keys", "list"}, {"keys", "rotate"}, {"keys", "rewrap"}, {"backup", "f"}, {"restore", "f"}, {"doctor"}} {
		cli := &commands{}
		parser, err := kong.New(cli, kong.Vars{"data_dir": "d", "amd_kds": "", "intel_pcs": "", "intel_root_crl": ""}, kong.Exit(func(int) {}))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(append(args, "--database-url", "postgres://assay:"+password+"@db/assay")); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		var shown bytes.Buffer
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			fmt.Fprintf(&shown, verb+"\n", cli)
			fmt.Fprintf(&shown, verb+"\n", *cli)
		}
		if err := json.NewEncoder(&shown).Encode(cli); err != nil {
			t.Fatal(err)
		}
		slog.New(slog.NewJSONHandler(&shown, nil)).Info("settings", "of", cli)
		slog.New(slog.NewTextHandler(&shown, nil)).Info("settings", "of", *cli)
		if strings.Contains(shown.String(), password) || strings.Contains(shown.String(), fmt.Sprintf("%x", password)) {
			t.Errorf("%v shows the password", args)
		}
		if !strings.Contains(shown.String(), "[redacted]") {
			t.Errorf("%v shows nothing in its place", args)
		}
	}
}
