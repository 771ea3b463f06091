package integration_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/migrations"
	"github.com/assay-verifier/assay/store/embedded"
)

// assayd runs a command of the service that ends by itself.
func assayd(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program("assayd"), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + workDir}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// With --database-url the service uses a Postgres that somebody else runs, migrates it when asked to, and
// starts none of its own.
func TestExternalDatabase(t *testing.T) {
	folder := filepath.Join(newFolder(t), "pg")
	postgres, err := embedded.Start(t.Context(), embedded.Config{DataDir: folder})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := postgres.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	databaseURL := "postgres://assay@/assay?" + url.Values{"host": {filepath.Join(folder, "run")}, "sslmode": {"disable"}}.Encode()

	dataDir := filepath.Join(newFolder(t), "data")
	if out, err := assayd(t, "serve", "--database-url", databaseURL, "--no-migrate", "--data-dir", dataDir,
		"--listen", "127.0.0.1:0", "--admin-listen", ""); err == nil || !strings.Contains(out, "migrate") {
		t.Errorf("on a database without schema serve --no-migrate says: %v %s", err, out)
	}
	for range 2 { // the second time there is nothing to do
		out, err := assayd(t, "migrate", "--database-url", databaseURL)
		if want := fmt.Sprintf("schema version %d\n", migrations.Last()); err != nil || !strings.HasSuffix(out, want) {
			t.Fatalf("migrate: %v %q, want %q", err, out, want)
		}
	}

	svc, err := startService(dataDir, "--database-url", databaseURL, "--no-migrate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := svc.terminate(); err != nil {
			t.Error(err)
		}
	})
	if _, err := os.Stat(filepath.Join(dataDir, "postgres")); !os.IsNotExist(err) {
		t.Errorf("the service has a Postgres of its own: %v", err)
	}
	m := newSoftMachine(t, svc, "external-db")
	if err := m.Boot(readFile(t, bootLog(t, "sb-on-1"))); err != nil {
		t.Fatal(err)
	}
	var c client.Challenge
	svc.call(t, "POST", "/v1/machines/"+m.id+"/challenges", m.token, nil, 201, &c)
	body, err := m.Evidence(&c, true)
	if err != nil {
		t.Fatal(err)
	}
	got, err := svc.send(t.Context(), "POST", "/v1/machines/"+m.id+"/evidence", m.token, "application/json", body)
	if err != nil {
		t.Fatal(err)
	}
	v := parseVerdict(t, got.body).must(t, "affirming", "")
	db := connect(t, databaseURL)
	if n := one[int](t, db, `SELECT count(*) FROM verdicts WHERE verdict_id = $1`, v.ID); n != 1 {
		t.Errorf("the verdict is stored %d times", n)
	}

	// Another start finds all of it, the admin token included.
	if err := svc.terminate(); err != nil {
		t.Fatal(err)
	}
	if err := svc.start(); err != nil {
		t.Fatal(err)
	}
	var again verdict
	svc.get(t, "/v1/verdicts/"+v.ID, &again)
	if again.Status != v.Status || again.MachineID != m.id {
		t.Errorf("after the restart: %+v", again)
	}
}
