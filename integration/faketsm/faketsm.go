// Package faketsm is a directory that behaves like Linux's configfs-tsm, for tests where there is no confidential VM:
// the files of a request appear with its directory, and its report is made when outblob is read, which is a pipe.
package faketsm

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Tree is the directory. Its Mkdir and Rmdir stand in for those of configfs.
type Tree struct {
	Dir      string
	Provider string                     // sev_guest, tdx_guest
	Report   func(inblob []byte) []byte // makes what outblob gives
	Aux      []byte                     // auxblob; nil for none
	Others   uint64                     // writes of another program between request and report
}

// TB is what New needs of a *testing.T.
type TB interface {
	Helper()
	TempDir() string
	Fatalf(format string, args ...any)
}

// New makes a tree for the duration of a test.
func New(tb TB, provider string, report func(inblob []byte) []byte) *Tree {
	tb.Helper()
	t := &Tree{Dir: filepath.Join(tb.TempDir(), "report"), Provider: provider, Report: report}
	if err := os.Mkdir(t.Dir, 0o700); err != nil {
		tb.Fatalf("%v", err)
	}
	return t
}

// Mkdir makes a request.
func (t *Tree) Mkdir(entry string) error {
	if err := os.Mkdir(entry, 0o700); err != nil {
		return err
	}
	files := map[string][]byte{"provider": []byte(t.Provider + "\n"), "generation": []byte("7\n"), "inblob": nil}
	if t.Aux != nil {
		files["auxblob"] = t.Aux
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(entry, name), content, 0o600); err != nil {
			return err
		}
	}
	pipe := filepath.Join(entry, "outblob")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		return err
	}
	go t.serve(entry, pipe)
	return nil
}

func (t *Tree) serve(entry, pipe string) {
	w, err := os.OpenFile(pipe, os.O_WRONLY, 0) // waits for the reader
	if err != nil {
		return
	}
	defer w.Close()
	in, err := os.ReadFile(filepath.Join(entry, "inblob"))
	if err != nil || len(in) == 0 {
		return
	}
	if os.WriteFile(filepath.Join(entry, "generation"), fmt.Appendf(nil, "%d\n", 8+t.Others), 0o600) == nil {
		_, _ = w.Write(t.Report(in))
	}
}

// Rmdir ends a request, also one that was not read.
func (t *Tree) Rmdir(entry string) error {
	if r, err := os.OpenFile(filepath.Join(entry, "outblob"), os.O_RDONLY|syscall.O_NONBLOCK, 0); err == nil {
		r.Close()
	}
	return os.RemoveAll(entry)
}

// Left lists the requests that were not ended.
func (t *Tree) Left() ([]os.DirEntry, error) { return os.ReadDir(t.Dir) }
