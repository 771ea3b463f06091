package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/baseline/predict"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// BaselinePredict computes what files will measure.
type BaselinePredict struct {
	UKI         string   `name:"uki" placeholder:"FILE" help:"Unified kernel image."`
	Shim        string   `placeholder:"FILE" help:"First stage boot loader, as shimx64.efi."`
	SystemdBoot string   `placeholder:"FILE" help:"systemd-boot, which starts --uki."`
	GRUB        string   `name:"grub" placeholder:"FILE" help:"GRUB, as grubx64.efi. What it carries on its memory disk is read."`
	Kernel      string   `placeholder:"FILE" help:"Kernel that GRUB's configuration loads, by whatever path."`
	Initrd      []string `placeholder:"FILE" sep:"none" help:"Likewise its initrd. May be repeated, in their order."`
	GRUBCfg     []string `name:"grub-cfg" placeholder:"[PATH=]FILE" sep:"none" help:"GRUB's configuration; PATH is where GRUB finds it, and grub.cfg in the image's own prefix otherwise. May be repeated."`
	File        []string `placeholder:"PATH=FILE" sep:"none" help:"Any further file that GRUB may read, as PATH on the boot partition or \"(hd0,gpt2)PATH\"; of a folder, all files in it. May be repeated."`
	Cmdline     *string  `placeholder:"TEXT" help:"Kernel command line that is meant: an error if the files say another."`
	Manifest    []string `aliases:"truth" placeholder:"FILE" sep:"none" help:"File manifest: hashes (and texts) of the files on the boot disk in place of the files. A further one adds what it says of the same files."`

	BootPath    string          `placeholder:"PATH" help:"Where firmware finds what it starts, as /EFI/BOOT/BOOTX64.EFI."`
	GRUBDevice  string          `name:"grub-device" default:"hd0,gpt1" placeholder:"DEVICE" help:"GRUB's name of the boot partition (${default})."`
	GRUBSearch  string          `name:"grub-search" placeholder:"DEVICE" help:"What GRUB's command search finds, as hd0,gpt2."`
	GRUBOutcome map[string]bool `name:"grub-outcome" placeholder:"COMMAND=true|false" help:"Whether a GRUB command succeeds that only the machine can tell, as loadfont=true. May be repeated."`
	EarlyConfig string          `name:"grub-early-config" placeholder:"FILE" help:"The configuration in the GRUB image, where it is not read from there."`

	SecureBoot    string   `enum:"auto,on,off" default:"auto" help:"on, off, or auto: on if a signature database is given."`
	PK            []string `name:"pk" placeholder:"FILE" sep:"none" help:"Platform key: signature lists (.esl), a signed update (.auth), a file of efivarfs, or a certificate (PEM, DER)."`
	KEK           []string `name:"kek" placeholder:"FILE" sep:"none" help:"Key exchange keys, likewise. May be repeated, in their order."`
	SecureBootDB  []string `name:"secure-boot-db" placeholder:"FILE" sep:"none" help:"Signature database db, likewise."`
	SecureBootDBX []string `name:"secure-boot-dbx" placeholder:"FILE" sep:"none" help:"Revocation database dbx, likewise; an empty file where it is empty."`
	MOK           []string `name:"mok" placeholder:"FILE" sep:"none" help:"Keys that the machine's owner enrolled in shim, or all of MokListRT."`
	MOKX          []string `name:"mokx" placeholder:"FILE" sep:"none" help:"What the machine's owner forbade in shim, or all of MokListXRT."`
	Owner         string   `placeholder:"GUID" help:"Owner of certificates that are given without one."`
	SBATLevel     string   `name:"sbat-level" placeholder:"FILE" help:"SBAT revocation level that the machines hold; shim's own otherwise."`

	Bank          []string `default:"sha256" help:"PCR banks (${default})."`
	Description   string   `help:"What this build is, for the document."`
	Provenance    `embed:""`
	WriteManifest string `placeholder:"FILE" help:"Also write what was read of the files, as a file manifest."`
}

// Provenance is where reference values come from.
type Provenance struct {
	Repository string `aliases:"provenance-repository" env:"GITHUB_REPOSITORY" help:"Provenance: where it was built from."`
	Commit     string `aliases:"provenance-commit" env:"GITHUB_SHA" help:"Provenance: the commit."`
	BuildURL   string `name:"build-url" aliases:"provenance-build-url" help:"Provenance: the pipeline's run."`
}

// provenanceDocument is the JSON of a Provenance, in the API's words.
type provenanceDocument struct {
	Repository string `json:"repository,omitempty"`
	Commit     string `json:"commit,omitempty"`
	BuildURL   string `json:"build_url,omitempty"`
}

// predictionDocument is what --output json prints.
type predictionDocument struct {
	Description string              `json:"description,omitempty"`
	Provenance  *provenanceDocument `json:"provenance,omitempty"`
	*predict.Result
}

// Help explains the two forms of output.
func (c *BaselinePredict) Help() string {
	return "Prints reference_values as JSON, ready for `assay baseline register --reference-values -` and `assay verify --baseline`, and on standard " +
		"error which PCRs the files determine. With --output json it prints one document: reference_values, the predicted events in their order, " +
		"and for each PCR its values, or why they are not determined; both commands take that too. Exit code: 0 predicted, 1 the files determine no PCR, 2 input that cannot be read."
}

// Run predicts.
func (c *BaselinePredict) Run(a *app) error {
	r := &predictReader{stdin: a.stdin}
	defer r.close()
	in, err := c.input(r)
	if err != nil {
		return err
	}
	result, err := predict.Predict(in)
	if err != nil {
		return unpredictable(err)
	}
	if c.WriteManifest != "" {
		if err := r.writeManifest(c.WriteManifest, in); err != nil {
			return err
		}
	}
	if a.json {
		document := predictionDocument{Description: c.Description, Result: result}
		if p := provenanceDocument(c.Provenance); p != (provenanceDocument{}) {
			document.Provenance = &p
		}
		if err := a.printJSON(document); err != nil || result.Judges() {
			return err
		}
		return quietExit(exitFailed)
	}
	notes := &printer{w: a.stderr, color: a.useColor(a.stderrTerminal), now: a.now}
	notes.prediction(result)
	if !result.Judges() {
		return &problem{Title: "No reference values were made", Code: "nothing_determined", Detail: "the given files determine no PCR; the table says what is missing"}
	}
	return a.printJSON(result.ReferenceValues)
}

// prediction tells people what is determined and what it rests on.
func (p *printer) prediction(r *predict.Result) {
	rows := make([][]cell, len(r.PCRs))
	for i, f := range r.PCRs {
		color := yellow
		switch f.Status {
		case predict.Determined, predict.EventsOnly:
			color = green
		case predict.Untouched, predict.Undetermined:
			color = dim
		}
		rows[i] = []cell{plain(strconv.Itoa(f.PCR)), {strings.ReplaceAll(f.Status, "_", " "), color}, plain(f.Reason)}
	}
	p.table([]string{"PCR", "STATUS", "WHY"}, rows)
	for _, list := range []struct {
		title string
		texts []string
	}{{"This holds if", r.Assumptions}, {"Warnings", r.Warnings}} {
		if len(list.texts) > 0 {
			p.heading("%s", list.title)
			for _, text := range list.texts {
				p.line("  %s", clean(text))
			}
		}
	}
}

// unpredictable makes a problem of what predict refuses: exit code 2.
func unpredictable(err error) error {
	var at *predict.Error
	if !errors.As(err, &at) {
		return err
	}
	p := &problem{Title: "Nothing was predicted", Code: at.Code, Detail: err.Error(), exit: exitBadCall}
	if at.Place != "" {
		p.Errors = []problemError{{Pointer: at.Place, Detail: at.Detail}}
	}
	return p
}

// maxOpenFiles bounds the files of one prediction, which stay open until it is made.
const maxOpenFiles = 800

// predictReader opens the files of a prediction.
type predictReader struct {
	stdin io.Reader
	banks []tpm.HashAlg
	files []*os.File
}

func (r *predictReader) close() {
	for _, f := range r.files {
		_ = f.Close()
	}
}

// image reads a file of any size in pieces. as is the name that it has on the boot disk, if that is known.
func (r *predictReader) image(file, as string) (*predict.File, error) {
	if file == "" {
		return nil, nil
	}
	if len(r.files) == maxOpenFiles {
		return nil, badFlag("more than %d files: name with --file only what GRUB can read", maxOpenFiles)
	}
	f, err := os.Open(file) //nolint:gosec // the user names the file
	if err != nil {
		return nil, unreadable(file, "a file of the boot disk", err)
	}
	r.files = append(r.files, f)
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, unreadable(file, "a file of the boot disk", errors.Join(err, errors.New("it is no regular file")))
	}
	if as == "" {
		as = file
	}
	out, err := predict.ReadFile(as, f, info.Size(), r.banks)
	if err != nil {
		return nil, unpredictable(err)
	}
	return out, nil
}

func (r *predictReader) database(files []string, owner *[16]byte) (*predict.Database, error) {
	if len(files) == 0 {
		return nil, nil
	}
	contents := make([][]byte, len(files))
	for i, file := range files {
		var err error
		if contents[i], err = readFile(file, maxSmallFile, r.stdin); err != nil {
			return nil, unreadable(file, "a signature database", err)
		}
	}
	db, err := predict.ParseDatabase(files, contents, owner)
	if err != nil {
		return nil, unpredictable(err)
	}
	return db, nil
}

func (r *predictReader) text(file, what string) (string, error) {
	if file == "" {
		return "", nil
	}
	b, err := readFile(file, maxSmallFile, r.stdin)
	if err != nil {
		return "", unreadable(file, what, err)
	}
	return string(b), nil
}

// input reads what the flags name.
func (c *BaselinePredict) input(r *predictReader) (*predict.Input, error) {
	in := &predict.Input{Cmdline: c.Cmdline, BootPath: c.BootPath, BootDevice: c.GRUBDevice, SearchResult: strings.Trim(c.GRUBSearch, "()"), Outcomes: c.GRUBOutcome}
	for _, name := range c.Bank {
		alg, ok := tpm.ParseHashAlg(name)
		if !ok || !alg.PCRBank() {
			return nil, badFlag("--bank: %q is no PCR bank", name)
		}
		in.Banks = append(in.Banks, alg)
	}
	r.banks = in.Banks
	if err := c.images(r, in); err != nil {
		return nil, err
	}
	if err := c.keys(r, in); err != nil {
		return nil, err
	}
	if c.EarlyConfig != "" {
		text, err := r.text(c.EarlyConfig, "a GRUB configuration")
		if err != nil {
			return nil, err
		}
		in.EarlyConfig = &text
	}
	return in, nil
}

func badFlag(format string, args ...any) error {
	return &problem{Title: "The command line cannot be used", Code: "usage", Detail: fmt.Sprintf(format, args...), Hint: "assay baseline predict --help", exit: exitBadCall}
}

// images reads manifests and files, and says what each does.
func (c *BaselinePredict) images(r *predictReader, in *predict.Input) error {
	if len(c.Manifest) > 0 {
		if err := c.manifests(r, in); err != nil {
			return err
		}
	}
	for _, role := range []struct {
		file string
		into **predict.File
		flag string
	}{{c.UKI, &in.UKI, "--uki"}, {c.Shim, &in.Shim, "--shim"}, {c.SystemdBoot, &in.SystemdBoot, "--systemd-boot"}, {c.GRUB, &in.GRUB, "--grub"}, {c.Kernel, &in.Kernel, "--kernel"}} {
		f, err := r.image(role.file, "")
		if err != nil {
			return err
		}
		if f == nil {
			continue
		}
		if old := *role.into; old != nil && !sameImage(old, f) {
			return badFlag("%s: %s is another file than the manifest's %s", role.flag, role.file, old.Name)
		}
		*role.into = f
	}
	if in.GRUB == nil && (c.Kernel != "" || len(c.Initrd) > 0 || len(c.GRUBCfg) > 0) {
		return badFlag("--kernel, --initrd and --grub-cfg are what GRUB reads: --grub is needed")
	}
	for _, file := range c.Initrd {
		f, err := r.image(file, "")
		if err != nil {
			return err
		}
		in.Initrds = append(in.Initrds, f)
	}
	return c.diskFiles(r, in)
}

func sameImage(a, b *predict.File) bool {
	for bank, digest := range a.Authenticode {
		if b.Authenticode[bank] != "" && b.Authenticode[bank] != digest {
			return false
		}
	}
	return true
}

func (c *BaselinePredict) manifests(r *predictReader, in *predict.Input) error {
	var all *predict.Manifest
	for _, file := range c.Manifest {
		b, err := readFile(file, maxSmallFile, r.stdin)
		if err != nil {
			return unreadable(file, "a file manifest", err)
		}
		m, err := predict.ParseManifest(file, b)
		if err != nil {
			return unpredictable(err)
		}
		if all == nil {
			all = m
		} else if err := all.Add(m); err != nil {
			return unpredictable(err)
		}
	}
	if err := all.Roles(in, c.BootPath); err != nil {
		return unpredictable(err)
	}
	return nil
}

// diskFiles reads what GRUB may find on the boot disk.
func (c *BaselinePredict) diskFiles(r *predictReader, in *predict.Input) error {
	if in.Files == nil {
		in.Files = map[string]*predict.File{}
	}
	put := func(at, file string, config bool) error {
		f, err := r.image(file, at)
		if err != nil {
			return err
		}
		if config && f.Text == nil {
			text, err := r.text(file, "a GRUB configuration")
			if err != nil {
				return err
			}
			f.Text = &text
		}
		in.Files[at] = f
		return nil
	}
	for i, given := range c.GRUBCfg {
		at, file, found := strings.Cut(given, "=")
		if !found {
			if i > 0 || in.GRUB.GRUB == nil {
				return badFlag("--grub-cfg %s: say where GRUB finds it, as --grub-cfg /EFI/debian/grub.cfg=%s", given, given)
			}
			at, file = path.Join("/", in.GRUB.GRUB.Prefix, "grub.cfg"), given
		}
		if err := put(at, file, true); err != nil {
			return err
		}
	}
	for _, given := range c.File {
		at, file, found := strings.Cut(given, "=")
		if !found {
			return badFlag("--file takes PATH=FILE, not %q", given)
		}
		err := filepath.WalkDir(file, func(found string, entry fs.DirEntry, err error) error {
			if err != nil {
				return unreadable(file, "files of the boot disk", err)
			}
			if !entry.Type().IsRegular() {
				return nil
			}
			return put(path.Join(at, filepath.ToSlash(strings.TrimPrefix(found, file))), found, false)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// keys reads the Secure Boot variables.
func (c *BaselinePredict) keys(r *predictReader, in *predict.Input) error {
	var owner *[16]byte
	if c.Owner != "" {
		g, err := predict.ParseGUID(c.Owner)
		if err != nil {
			return badFlag("--owner: %v", err)
		}
		owner = &g
	}
	for _, v := range []struct {
		files []string
		into  **predict.Database
	}{{c.PK, &in.PK}, {c.KEK, &in.KEK}, {c.SecureBootDB, &in.DB}, {c.SecureBootDBX, &in.DBX}, {c.MOK, &in.MOK}, {c.MOKX, &in.MOKX}} {
		db, err := r.database(v.files, owner)
		if err != nil {
			return err
		}
		*v.into = db
	}
	switch {
	case c.SecureBoot == "on", c.SecureBoot == "auto" && in.DB != nil:
		in.SecureBoot = predict.On
	case c.SecureBoot == "off":
		in.SecureBoot = predict.Off
	}
	var err error
	in.SBATLevel, err = r.text(c.SBATLevel, "an SBAT revocation level")
	return err
}

// writeManifest writes what was read of the files, by their places on the boot disk.
func (r *predictReader) writeManifest(file string, in *predict.Input) error {
	b, err := json.MarshalIndent(predict.ManifestOf(in), "", " ")
	if err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil { //nolint:gosec // it holds no secret
		return &problem{Title: "The manifest cannot be written", Code: "unwritable_output", Detail: err.Error()}
	}
	return nil
}

// referenceValues finds reference values in a document that holds them, as predict --output json prints, or gives the
// document itself back. The provenance is what such a document says.
func referenceValues(body []byte) (values []byte, provenance provenanceDocument, err error) {
	var members map[string]json.RawMessage
	if err := verifier.DecodeStrict(body, &members); err != nil {
		return nil, provenance, err
	}
	raw, found := members["reference_values"]
	if !found {
		return body, provenance, nil
	}
	if said, found := members["provenance"]; found {
		if err := json.Unmarshal(said, &provenance); err != nil {
			return nil, provenance, &verifier.DecodeError{Code: verifier.CodeInvalidField, Pointer: "/provenance", Detail: "not an object of texts"}
		}
	}
	return raw, provenance, nil
}
