package predict

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"sort"
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// Manifest is what is known of the files of a boot disk without the files: path on the disk (as GRUB writes it, with or
// without its device) to File. As JSON it is
//
//	{"format": "assay-file-manifest-v1", "boot_disk_files": {"/EFI/BOOT/BOOTX64.EFI": {"size": 1048504,
//	  "sha256": "…", "authenticode": {"sha256": "…"}}, "/EFI/debian/grub.cfg": {"size": 93, "sha256": "…", "text": "…"}}}
//
// Each entry has size, the digests of the file by bank (sha1, sha256, sha384, sha512), authenticode for PE images and
// text for configuration files, and may have what ReadFile finds in an image: signatures, sbat, systemd_boot, shim,
// grub and uki. Other members beside boot_disk_files describe the disk and take no part; within an entry an unknown
// member is refused. A file that is not listed is taken as absent.
type Manifest struct {
	Format string           `json:"format"`
	Files  map[string]*File `json:"boot_disk_files"`
}

// ManifestFormat is the format that WriteManifest writes.
const ManifestFormat = "assay-file-manifest-v1"

// Bounds of a manifest.
const (
	maxManifest      = 16 << 20
	maxManifestFiles = 10_000
)

// ParseManifest reads a file manifest.
func ParseManifest(name string, b []byte) (*Manifest, error) {
	fail := func(place, format string, args ...any) error {
		return errorf(CodeMalformedManifest, name, place, format, args...)
	}
	if len(b) > maxManifest {
		return nil, errorf(CodeTooLarge, name, "", "%d bytes; at most %d are accepted", len(b), maxManifest)
	}
	var top map[string]json.RawMessage
	if err := verifier.DecodeStrict(b, &top); err != nil {
		return nil, fail("", "%v", err)
	}
	m := &Manifest{Format: ManifestFormat, Files: map[string]*File{}}
	if raw, ok := top["format"]; ok && string(raw) != `"`+ManifestFormat+`"` {
		return nil, fail("/format", "%s is not %q", raw, ManifestFormat)
	}
	raw, ok := top["boot_disk_files"]
	if !ok {
		return nil, fail("/boot_disk_files", "it is missing")
	}
	var entries map[string]json.RawMessage
	if err := verifier.DecodeStrict(raw, &entries); err != nil {
		return nil, fail("/boot_disk_files", "%v", err)
	}
	if len(entries) == 0 || len(entries) > maxManifestFiles {
		return nil, fail("/boot_disk_files", "%d files; 1 to %d are accepted", len(entries), maxManifestFiles)
	}
	for key, entry := range entries {
		f, err := parseEntry(entry)
		if err != nil {
			return nil, fail("/boot_disk_files/"+strings.NewReplacer("~", "~0", "/", "~1").Replace(key), "%v", err)
		}
		f.Name = key
		m.Files[key] = f
	}
	return m, nil
}

func parseEntry(b []byte) (*File, error) {
	var members map[string]json.RawMessage
	if err := verifier.DecodeStrict(b, &members); err != nil {
		return nil, err
	}
	digests := Digests{}
	for _, alg := range supportedBanks {
		raw, ok := members[alg.String()]
		if !ok {
			continue
		}
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, fmt.Errorf("%s: no text", alg)
		}
		digests[alg.String()] = text
		delete(members, alg.String())
	}
	rest, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	var f File
	if err := verifier.DecodeStrict(rest, &f); err != nil {
		return nil, err
	}
	f.Digests = digests
	for _, d := range f.allDigests() {
		if err := d.check(); err != nil {
			return nil, err
		}
	}
	if len(f.Digests) == 0 && len(f.Authenticode) == 0 {
		return nil, fmt.Errorf("it has no digest")
	}
	return &f, nil
}

func (f *File) allDigests() []Digests {
	out := []Digests{f.Digests, f.Authenticode}
	if f.UKI != nil {
		out = append(out, f.UKI.Kernel)
		for _, s := range f.UKI.Sections {
			out = append(out, s.Digests)
		}
	}
	return out
}

func (d Digests) check() error {
	for bank, text := range d {
		alg, ok := tpm.ParseHashAlg(bank)
		if !ok || !alg.PCRBank() {
			return fmt.Errorf("%q is no PCR bank", bank)
		}
		if b, err := hex.DecodeString(text); err != nil || len(b) != alg.Size() || strings.ToLower(text) != text {
			return fmt.Errorf("%s is not %d lower-case hex digits", bank, 2*alg.Size())
		}
	}
	return nil
}

// Roles finds what the files of a boot disk do, by their places: the firmware boots EFI/BOOT/BOOT<arch>.EFI (UEFI 2.10,
// section 3.5.1.1), or bootPath if that is given. With grub<arch>.efi beside it, it is shim, and what that is boots the
// rest: GRUB, unless it is known to be another; with EFI/Linux/*.efi it is systemd-boot and a unified kernel image; alone it is what the firmware starts, a
// unified kernel image where that is known.
func (m *Manifest) Roles(in *Input, bootPath string) error {
	paths := make([]string, 0, len(m.Files))
	for p := range m.Files {
		paths = append(paths, p)
	}
	sort.Strings(paths)
	first := bootPath
	var ukis []string
	for _, p := range paths {
		lower := strings.ToLower(p)
		if bootPath == "" && strings.HasPrefix(lower, "/efi/boot/boot") && strings.HasSuffix(lower, ".efi") {
			if first != "" {
				return errorf(CodeContradiction, p, "", "%s could be booted too: say which one is", first)
			}
			first = p
		}
		if strings.HasPrefix(lower, "/efi/linux/") && strings.HasSuffix(lower, ".efi") {
			ukis = append(ukis, p)
		}
	}
	if m.Files[first] == nil {
		return errorf(CodeMissingInput, first, "", "there is no such file to boot from: EFI/BOOT/BOOTX64.EFI or the path that was given")
	}
	in.Files, in.BootPath = m.Files, first
	booted := m.Files[first]
	grub := ""
	for _, p := range paths {
		base := strings.ToLower(path.Base(p))
		if path.Dir(p) == path.Dir(first) && strings.HasPrefix(base, "grub") && strings.HasSuffix(base, ".efi") && p != first {
			grub = p
		}
	}
	switch {
	case grub != "" && m.Files[grub].UKI != nil:
		in.Shim, in.UKI = booted, m.Files[grub]
	case grub != "" && m.Files[grub].SystemdBoot != "" && len(ukis) == 1:
		in.Shim, in.SystemdBoot, in.UKI = booted, m.Files[grub], m.Files[ukis[0]]
	case grub != "":
		in.Shim, in.GRUB = booted, m.Files[grub]
	case booted.GRUB != nil:
		in.GRUB = booted
	case len(ukis) == 1:
		in.SystemdBoot, in.UKI = booted, m.Files[ukis[0]]
	case len(ukis) > 1:
		return errorf(CodeContradiction, ukis[1], "", "systemd-boot can boot %s too: leave one in the manifest", ukis[0])
	default:
		in.UKI = booted
	}
	return nil
}

// Add takes over what another manifest says of the same files. Two that say different things of one path contradict
// each other; a path that m lacks is not added, since m is the list of what is there.
func (m *Manifest) Add(other *Manifest) error {
	for key, f := range other.Files {
		mine := m.Files[key]
		if mine == nil {
			continue
		}
		for _, pair := range [][2]Digests{{mine.Digests, f.Digests}, {mine.Authenticode, f.Authenticode}} {
			for bank, digest := range pair[0] {
				if pair[1][bank] != "" && pair[1][bank] != digest {
					return errorf(CodeContradiction, key, bank, "one manifest says %s, another %s", digest, pair[1][bank])
				}
			}
		}
		mine.take(f)
	}
	return nil
}

// take fills in what f does not say from another description of the same file.
func (f *File) take(other *File) {
	merge := func(into *Digests, from Digests) {
		if *into == nil {
			*into = Digests{}
		}
		for bank, digest := range from {
			(*into)[bank] = digest
		}
	}
	merge(&f.Digests, other.Digests)
	merge(&f.Authenticode, other.Authenticode)
	if f.Text == nil {
		f.Text = other.Text
	}
	if len(f.Signatures) == 0 {
		f.Signatures = other.Signatures
	}
	if f.SBAT == "" {
		f.SBAT = other.SBAT
	}
	if f.SystemdBoot == "" {
		f.SystemdBoot = other.SystemdBoot
	}
	if f.Shim == nil {
		f.Shim = other.Shim
	}
	if f.GRUB == nil {
		f.GRUB = other.GRUB
	}
	if f.UKI == nil {
		f.UKI = other.UKI
	}
}

// ManifestOf describes the files of an input, by their places on the boot disk. Files whose place is not known are
// listed where such files usually are.
func ManifestOf(in *Input) *Manifest {
	m := &Manifest{Format: ManifestFormat, Files: map[string]*File{}}
	listed := map[*File]bool{}
	for key, f := range in.Files {
		m.Files[key], listed[f] = f, true
	}
	put := func(f *File, at string) {
		if f != nil && !listed[f] && m.Files[at] == nil {
			m.Files[at], listed[f] = f, true
		}
	}
	first := in.BootPath
	if first == "" {
		first = "/EFI/BOOT/BOOTX64.EFI"
	}
	for _, f := range []*File{in.Shim, in.SystemdBoot, in.GRUB} {
		if f != nil {
			put(f, first)
			break
		}
	}
	put(in.GRUB, path.Dir(first)+"/grubx64.efi")
	put(in.SystemdBoot, path.Dir(first)+"/grubx64.efi")
	if in.UKI != nil && in.SystemdBoot != nil {
		put(in.UKI, "/EFI/Linux/"+path.Base(in.UKI.Name))
	}
	put(in.UKI, first)
	put(in.UKI, path.Dir(first)+"/grubx64.efi")
	for _, f := range append([]*File{in.Kernel}, in.Initrds...) {
		if f != nil {
			put(f, "/"+path.Base(f.Name))
		}
	}
	return m
}
