// Package integration_test runs the real programs against each other: assayd on a real Postgres,
// assay-agent and the CLI, with software TPMs (swtpm) that booted the recorded boots of testdata.
//
// The programs are built once, as `make build` builds them. Tests whose machines do not get in each
// other's way share one service; those that kill it, or count what it holds, start their own.
package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/assay-verifier/assay/integration/swtpm"
)

// The folders of this run, made by TestMain.
var (
	workDir  string // mode 0711: as root, Postgres runs as another user below it
	binDir   string
	vendorCA string // of every software TPM
)

func TestMain(m *testing.M) {
	code, err := runAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	os.Exit(code)
}

func runAll(m *testing.M) (code int, err error) {
	if workDir, err = os.MkdirTemp("", "assay-e2e"); err != nil {
		return 1, err
	}
	defer func() {
		if removeErr := os.RemoveAll(workDir); err == nil {
			err = removeErr
		}
	}()
	if err := os.Chmod(workDir, 0o711); err != nil { // #nosec G302 -- see workDir
		return 1, err
	}
	binDir, vendorCA = filepath.Join(workDir, "bin"), filepath.Join(workDir, "ca")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binDir+string(filepath.Separator), "../cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	code = m.Run()
	return code, stopShared()
}

// program is the path of a built program.
func program(name string) string { return filepath.Join(binDir, name) }

var folders atomic.Int64

// newFolder makes a folder that another user may pass through; it goes with workDir.
func newFolder(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(workDir, fmt.Sprintf("t%d", folders.Add(1)))
	if err := os.Mkdir(dir, 0o711); err != nil { // #nosec G301 -- see workDir
		t.Fatal(err)
	}
	return dir
}

// bootFile is a file of a recorded boot.
func bootFile(t testing.TB, boot, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", "boots", boot, "evidence", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func bootLog(t testing.TB, boot string) string {
	t.Helper()
	return bootFile(t, boot, "binary_bios_measurements")
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	raw, err := os.ReadFile(path) // #nosec G304 -- a test's own file
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// newTPM makes a software TPM of the vendor that services trust.
func newTPM(t testing.TB, name string) *swtpm.TPM {
	t.Helper()
	return swtpm.New(t, swtpm.Options{CADir: vendorCA, Name: name, Banks: []string{"sha1", "sha256"}})
}

// vendorPEM is the vendor's root and intermediate.
func vendorPEM(t testing.TB, box *swtpm.TPM) string {
	t.Helper()
	root, err := box.RootPEM()
	if err != nil {
		t.Fatal(err)
	}
	intermediate, err := box.IntermediatePEM()
	if err != nil {
		t.Fatal(err)
	}
	return string(root) + string(intermediate)
}

var shared struct {
	mu    sync.Mutex
	svc   *service
	seen  map[string]bool // tests that have used it
	count int
}

// sharedService is one service for all tests that need none of their own. A test that comes again (go test
// -count) would find its machines, so another service begins then.
func sharedService(t *testing.T) *service {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.svc != nil && shared.seen[t.Name()] {
		err := shared.svc.terminate()
		shared.svc = nil
		if err != nil {
			t.Fatal(err)
		}
	}
	if shared.svc == nil {
		shared.count++
		svc, err := startService(filepath.Join(workDir, fmt.Sprintf("shared%d", shared.count)), "--max-machine-requests", "0") // tests race one machine against itself
		if err != nil {
			t.Fatal(err)
		}
		shared.svc, shared.seen = svc, map[string]bool{}
	}
	shared.seen[t.Name()] = true
	return shared.svc
}

func stopShared() error {
	if shared.svc == nil {
		return nil
	}
	return shared.svc.terminate()
}
