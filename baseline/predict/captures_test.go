package predict_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/assay-verifier/assay/baseline/predict"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// boots are captures of real boots; what was on their disks is in truth.json, a file manifest.
const boots = "../../integration/testdata/boots"

func read(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func manifest(t testing.TB, path ...string) *predict.Manifest {
	t.Helper()
	m, err := predict.ParseManifest(path[len(path)-1], read(t, path...))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func database(t testing.TB, path ...string) *predict.Database {
	t.Helper()
	db, err := predict.ParseDatabase(path, [][]byte{read(t, append([]string{"testdata", "efivars"}, path...)...)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// bootCase is a capture and what is known of it from outside: whose keys its firmware holds, and whether Secure Boot is on.
type bootCase struct {
	name, keys string
	off, mok   bool
	determined []int // PCRs that the given files determine
	banks      []tpm.HashAlg
}

var (
	allBanks  = []tpm.HashAlg{tpm.SHA256, tpm.SHA384, tpm.SHA1}
	grubPCRs  = []int{4, 7, 8, 9, 14}
	ukiPCRs   = []int{4, 7, 9, 11, 12, 13}
	bootCases = []bootCase{
		{name: "sb-on-1", keys: "microsoft", determined: grubPCRs},
		{name: "sb-on-2", keys: "microsoft", determined: grubPCRs},
		{name: "sb-on-otherbox", keys: "microsoft", determined: grubPCRs},
		{name: "sb-on-sha384bank", keys: "microsoft", determined: grubPCRs, banks: []tpm.HashAlg{tpm.SHA384}},
		{name: "cmdline", keys: "microsoft", determined: grubPCRs},
		{name: "grubcfg-tampered", keys: "microsoft", determined: grubPCRs},
		{name: "initrd-tampered", keys: "microsoft", determined: grubPCRs},
		{name: "hw-changed", keys: "microsoft", determined: grubPCRs},
		{name: "ima-critical", keys: "microsoft", determined: grubPCRs},
		{name: "ima-ng", keys: "microsoft", determined: grubPCRs},
		{name: "ima-tcb-1", keys: "microsoft", determined: grubPCRs},
		{name: "ima-tcb-2", keys: "microsoft", determined: grubPCRs},
		{name: "mok-signed", keys: "microsoft", determined: grubPCRs, mok: true},
		{name: "sb-disabled", keys: "microsoft", determined: grubPCRs, off: true},
		{name: "sb-off", determined: grubPCRs, off: true},
		{name: "snakeoil", keys: "snakeoil", determined: ukiPCRs},
		{name: "uki-direct", keys: "own", determined: ukiPCRs},
		{name: "uki-sdboot-1", keys: "own", determined: ukiPCRs},
		// PCR 9 was extended behind the log's back, so that no prediction can be right there.
		{name: "unlogged-extend", keys: "microsoft", determined: []int{4, 7, 8, 14}},
	}
)

// input is what is given for the capture: its truth.json, and what the packages' own files say (debian-12.manifest.json
// and uki.manifest.json, which ReadFile made of them) where the hashes are the same.
func (c bootCase) input(t testing.TB) *predict.Input {
	t.Helper()
	in := &predict.Input{Banks: c.banks, SecureBoot: predict.On}
	if in.Banks == nil {
		in.Banks = allBanks
	}
	truth := manifest(t, boots, c.name, "truth.json")
	packages := manifest(t, "testdata/debian-12.manifest.json")
	for path, f := range truth.Files {
		if known := packages.Files[path]; known != nil && known.Digests["sha256"] == f.Digests["sha256"] {
			truth.Files[path] = known
		}
	}
	if err := truth.Roles(in, ""); err != nil {
		t.Fatal(err)
	}
	if in.UKI != nil {
		images := manifest(t, "testdata/uki.manifest.json")
		in.UKI.UKI = images.Files["/EFI/Linux/test.efi"].UKI
		if in.SystemdBoot != nil {
			in.SystemdBoot.SystemdBoot = images.Files["/EFI/BOOT/BOOTX64.EFI"].SystemdBoot
		}
	}
	if c.off {
		in.SecureBoot = predict.Off
	}
	in.PK, in.KEK, in.DB, in.DBX = &predict.Database{}, &predict.Database{}, &predict.Database{}, &predict.Database{}
	if c.keys != "" {
		in.PK, in.KEK, in.DB, in.DBX = database(t, c.keys, "PK"), database(t, c.keys, "KEK"), database(t, c.keys, "db"), database(t, c.keys, "dbx")
	}
	if c.mok {
		in.MOK = database(t, "MokListRT")
		owner := in.MOK.Entries[len(in.MOK.Entries)-1].Raw
		truth.Files["/vmlinuz"].Signatures = [][][]byte{{owner[16:]}}
	}
	return in
}

func predicted(t testing.TB, in *predict.Input) *predict.Result {
	t.Helper()
	r, err := predict.Predict(in)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// measuredPCRs are the values that the capture's TPM reported: bank, PCR.
func measuredPCRs(t testing.TB, name string) map[string]map[string]string {
	t.Helper()
	var doc struct {
		PCRs map[string]map[string]string `json:"pcrs"`
	}
	if err := json.Unmarshal(read(t, boots, name, "evidence", "tpm.json"), &doc); err != nil {
		t.Fatal(err)
	}
	return doc.PCRs
}

// TestCaptures: what is predicted of the files of each captured boot is what that boot measured, event by event and
// PCR by PCR, for every PCR that the files determine; of the others there is a reason.
func TestCaptures(t *testing.T) {
	for _, c := range bootCases {
		t.Run(c.name, func(t *testing.T) {
			in := c.input(t)
			r := predicted(t, in)
			measured := measuredPCRs(t, c.name)
			var determined []int
			for _, f := range r.PCRs {
				if f.Reason == "" {
					t.Errorf("PCR %d: no reason is given", f.PCR)
				}
				if f.Status != predict.Determined {
					continue
				}
				if c.name != "unlogged-extend" || f.PCR != 9 {
					determined = append(determined, f.PCR)
				}
				for _, alg := range in.Banks {
					value := measured[alg.String()][strconv.Itoa(f.PCR)]
					if got := f.Values[alg.String()]; !slices.Contains(got, value) && slices.Contains(c.determined, f.PCR) {
						t.Errorf("PCR %d of %s: predicted %v, measured %s", f.PCR, alg, got, value)
					} else if f.PCR != 11 && len(got) != 1 {
						t.Errorf("PCR %d of %s: %d values; these files leave no choice", f.PCR, alg, len(got))
					}
				}
			}
			if !slices.Equal(determined, c.determined) {
				t.Errorf("determined are %v, want %v", determined, c.determined)
			}
			compareEvents(t, c, in, r)
		})
	}
}

// compareEvents compares the predicted events with the log's, in their order, with their words for what they are.
func compareEvents(t *testing.T, c bootCase, in *predict.Input, r *predict.Result) {
	raw, err := os.ReadFile(filepath.Join(boots, c.name, "evidence", "binary_bios_measurements"))
	if c.off {
		if err == nil {
			t.Error("a boot without Secure Boot has a log here")
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	for _, pcr := range c.determined {
		var got, want []string
		for _, e := range r.Events {
			if e.PCR == pcr {
				got = append(got, e.Type+" "+e.Component+" "+e.Key+" "+e.Digests[in.Banks[0].String()][0])
			}
		}
		for _, e := range log.Events() {
			for _, d := range e.Digests {
				if e.PCR == pcr && d.Alg == in.Banks[0] {
					key := e.Key
					want = append(want, e.Type.String()+" "+string(e.Component)+" "+key+" "+hex.EncodeToString(d.Bytes))
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("PCR %d: predicted\n%v\nmeasured\n%v", pcr, got, want)
		}
	}
}

// TestTruthAlone: the hashes and texts of truth.json alone, without the images, their packages or the firmware's keys,
// determine what GRUB measures; of the rest there is a reason, and no value.
func TestTruthAlone(t *testing.T) {
	for _, c := range bootCases {
		in := &predict.Input{Banks: c.banks}
		if in.Banks == nil {
			in.Banks = allBanks
		}
		if err := manifest(t, boots, c.name, "truth.json").Roles(in, ""); err != nil {
			t.Fatal(err)
		}
		var want []int
		if in.GRUB != nil {
			want = []int{4, 8, 9}
		}
		var got []int
		measured := measuredPCRs(t, c.name)
		for _, f := range predicted(t, in).PCRs {
			switch {
			case f.Status == predict.Determined:
				got = append(got, f.PCR)
			case f.Reason == "" || len(f.Values) > 0:
				t.Errorf("%s: PCR %d: %+v", c.name, f.PCR, f)
			}
			for _, alg := range in.Banks {
				if value := measured[alg.String()][strconv.Itoa(f.PCR)]; f.Status == predict.Determined && slices.Contains(c.determined, f.PCR) && !slices.Contains(f.Values[alg.String()], value) {
					t.Errorf("%s: PCR %d of %s: predicted %v, measured %s", c.name, f.PCR, alg, f.Values, value)
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: determined are %v, want %v", c.name, got, want)
		}
	}
}
