package bundle

import (
	"archive/zip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
)

// Bounds of a bundle, which anybody may have made.
const (
	maxEntries   = 400_000
	maxDirectory = 96 << 20 // bytes that are read to list the entries
	// What unpacks to more than so many times its size, and to more than the slack, is no bundle of ours.
	maxRatio   = 200
	ratioSlack = 64 << 20
)

// Error tells what is wrong with a bundle before anything of it is judged, and where.
type Error struct {
	Entry  string // name of the entry; empty for the archive itself
	Detail string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Entry == "" {
		return "bundle: " + e.Detail
	}
	return fmt.Sprintf("bundle, %.200q: %s", e.Entry, e.Detail)
}

// Reader reads a bundle. It holds the list of the entries, and one entry at a time.
type Reader struct {
	Header   Header
	entries  map[string]*zip.File
	machines []machineEntries // in the order of the ids
}

// machineEntries are the verdicts of a machine by their folders' seq.
type machineEntries struct {
	id   string
	seqs []int64 // ascending
}

// bounded lets an archive be read as far as a budget goes.
type bounded struct {
	r      io.ReaderAt
	budget int64 // negative: no bound any more
}

var errDirectory = errors.New("its list of entries is too large")

func (b *bounded) ReadAt(p []byte, at int64) (int, error) {
	if b.budget >= 0 {
		if b.budget -= int64(len(p)); b.budget < 0 {
			b.budget = 0
			return 0, errDirectory
		}
	}
	return b.r.ReadAt(p, at)
}

// Open reads the list of entries and the header. Every name has to be one that a bundle has, and no entry, nor all together,
// may unpack to more than a bundle holds. The error is an *Error.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	in := &bounded{r: r, budget: maxDirectory}
	archive, err := zip.NewReader(in, size)
	if err != nil {
		return nil, &Error{Detail: "it cannot be read as a ZIP archive: " + err.Error()}
	}
	in.budget = -1
	if len(archive.File) > maxEntries {
		return nil, &Error{Detail: fmt.Sprintf("it has more than %d entries", maxEntries)}
	}
	out := &Reader{entries: make(map[string]*zip.File, len(archive.File))}
	total := uint64(0)
	for _, f := range archive.File {
		if err := out.admit(f); err != nil {
			return nil, err
		}
		total += f.UncompressedSize64 // each is bounded, and so is their number: it cannot overflow
	}
	if total > ratioSlack && total/maxRatio > uint64(max(size, 0)) {
		return nil, &Error{Detail: fmt.Sprintf("it unpacks to more than %d times its size", maxRatio)}
	}
	if err := out.json("bundle.json", &out.Header); err != nil {
		return nil, err
	}
	if out.Header.Format != Format {
		return nil, &Error{Entry: "bundle.json", Detail: fmt.Sprintf("the format is %.40q, not %s", out.Header.Format, Format)}
	}
	return out, out.index()
}

// admit takes an entry into the list.
func (r *Reader) admit(f *zip.File) error {
	if _, twice := r.entries[f.Name]; twice {
		return &Error{Entry: f.Name, Detail: "it is there twice"}
	}
	for _, kind := range entryKinds {
		if !kind.name.MatchString(f.Name) {
			continue
		}
		if f.UncompressedSize64 > kind.limit {
			return &Error{Entry: f.Name, Detail: fmt.Sprintf("it has more than %d bytes", kind.limit)}
		}
		if f.Method != zip.Deflate && f.Method != zip.Store {
			return &Error{Entry: f.Name, Detail: "its compression is not one that a bundle has"}
		}
		if f.UncompressedSize64 > ratioSlack/8 && f.UncompressedSize64/2000 > f.CompressedSize64 { // deflate gives 1032 at most
			return &Error{Entry: f.Name, Detail: "it claims to unpack to more than it can"}
		}
		r.entries[f.Name] = f
		return nil
	}
	return &Error{Entry: f.Name, Detail: "a bundle has no entry of this name"}
}

// index sorts the verdicts by machine and seq.
func (r *Reader) index() error {
	of := map[string]int{}
	for name := range r.entries {
		parts := strings.Split(name, "/")
		if parts[0] != "machines" {
			continue
		}
		i, known := of[parts[1]]
		if !known {
			i = len(r.machines)
			of[parts[1]], r.machines = i, append(r.machines, machineEntries{id: parts[1]})
		}
		if len(parts) == 4 && parts[3] == "verdict.json" {
			seq, err := strconv.ParseInt(parts[2], 10, 64) // twelve digits
			if err != nil {
				return &Error{Entry: name, Detail: "its folder is no number"}
			}
			r.machines[i].seqs = append(r.machines[i].seqs, seq)
		}
	}
	for name := range r.entries { // nothing may lie beside a verdict that is not there
		if parts := strings.Split(name, "/"); parts[0] == "machines" && len(parts) == 4 {
			if _, ok := r.entries[parts[0]+"/"+parts[1]+"/"+parts[2]+"/verdict.json"]; !ok {
				return &Error{Entry: name, Detail: "there is no verdict.json beside it"}
			}
		}
	}
	slices.SortFunc(r.machines, func(a, b machineEntries) int { return strings.Compare(a.id, b.id) })
	for i := range r.machines {
		slices.Sort(r.machines[i].seqs)
	}
	return nil
}

// Counts are the numbers of machines and verdicts.
func (r *Reader) Counts() (machines, verdicts int) {
	for i := range r.machines {
		verdicts += len(r.machines[i].seqs)
	}
	return len(r.machines), verdicts
}

func (r *Reader) has(name string) bool { return r.entries[name] != nil }

// read unpacks an entry, which has exactly the size that the list states; its checksum is verified.
func (r *Reader) read(name string) ([]byte, error) {
	f := r.entries[name]
	if f == nil {
		return nil, &Error{Entry: name, Detail: "it is not in the bundle"}
	}
	in, err := f.Open()
	if err != nil {
		return nil, &Error{Entry: name, Detail: err.Error()}
	}
	defer func() { _ = in.Close() }()
	// The stated size may lie: memory grows with what is there, up to the bound that the name has.
	body, err := io.ReadAll(io.LimitReader(in, int64(f.UncompressedSize64)+1)) //nolint:gosec // bounded by admit
	if err != nil {
		return nil, &Error{Entry: name, Detail: err.Error()}
	}
	if uint64(len(body)) != f.UncompressedSize64 {
		return nil, &Error{Entry: name, Detail: "it has not the size that the list of entries states"}
	}
	return body, nil
}

// json reads an entry whose members have to be known ones, and there once.
func (r *Reader) json(name string, into any) error {
	body, err := r.read(name)
	if err != nil {
		return err
	}
	if err := jsonv2.Unmarshal(body, into, jsonv2.RejectUnknownMembers(true)); err != nil {
		return &Error{Entry: name, Detail: err.Error()}
	}
	return nil
}

// Checkpoint is the checkpoint in the bundle; nil where there is none.
func (r *Reader) Checkpoint() (*Signed, error) {
	if !r.has("checkpoint.json") {
		return nil, nil //nolint:nilnil // a bundle may have none
	}
	var s Signed
	if err := r.json("checkpoint.json", &s); err != nil {
		return nil, err
	}
	return &s, nil
}

// parseInputs reads judged-by.json. Members that are not known are passed over: they are of a later release.
func parseInputs(body []byte) (*Inputs, error) {
	var in Inputs
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	return &in, nil
}
