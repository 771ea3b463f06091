// Command release makes what is published with the programs: the list of what others made, and bills of materials.
//
//	release licenses                        THIRD_PARTY.md
//	release sbom VERSION FOLDER PROGRAM...  FOLDER/NAME.cdx.json for each program that was built
//
// It runs in the repository's folder and needs the modules that the programs were built from, and no network. The same input gives the
// same bytes: the time in a bill is that of SOURCE_DATE_EPOCH, else of the commit.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "licenses":
		text, err := thirdParty(".")
		if err != nil {
			return err
		}
		return os.WriteFile("THIRD_PARTY.md", []byte(text), 0o644)
	case len(args) > 3 && args[0] == "sbom":
		at, err := commitTime(os.Getenv("SOURCE_DATE_EPOCH"))
		if err != nil {
			return err
		}
		for _, program := range args[3:] {
			bill, err := sbom(".", program, args[1], at)
			if err != nil {
				return err
			}
			to := filepath.Join(args[2], filepath.Base(program)+".cdx.json")
			if err := os.WriteFile(to, bill, 0o644); err != nil {
				return err
			}
			fmt.Println(to)
		}
		return nil
	}
	return fmt.Errorf("usage: release licenses | release sbom VERSION FOLDER PROGRAM...")
}

// commitTime is the time that a bill bears: epoch, in seconds since 1970, where it is given
// (https://reproducible-builds.org/specs/source-date-epoch/), else the time of the commit.
func commitTime(epoch string) (time.Time, error) {
	if epoch == "" {
		out, err := exec.Command("git", "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH is not set, and git tells no time of a commit: %w", err)
		}
		epoch = strings.TrimSpace(string(out))
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil || seconds < 0 {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q: not a number of seconds", epoch)
	}
	return time.Unix(seconds, 0), nil
}
