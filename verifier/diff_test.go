package verifier

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/verifier/eventlog"
)

func hexOf(b byte, size int) string { return strings.Repeat(fmt.Sprintf("%02x", b), size) }

func diffText(t *testing.T, before, after string) string {
	t.Helper()
	var lines []string
	for _, d := range Diff(parsed(t, before), parsed(t, after)) {
		lines = append(lines, string(d.Kind)+" "+d.Description+" ["+strings.Join(d.Allows, " ")+"]")
	}
	return strings.Join(lines, "\n")
}

// Each version here accepts more than the one before it: the diff, which is what the second person reads, says so and
// names what becomes allowed.
func TestDiffTellsWhatIsAcceptedBesides(t *testing.T) {
	a, b, c := hexOf(0xaa, 32), hexOf(0xbb, 32), hexOf(0xcc, 32)
	a384, b384 := hexOf(0xaa, 48), hexOf(0xbb, 48)
	event := func(body string) string {
		return `{"events": [{"pcr": 9, "description": "vmlinuz", "key": "k", ` + body + `}]}`
	}
	both := `"digests": {"sha384": ["` + a384 + `"], "sha256": ["` + a + `"]}`
	for _, tt := range []struct{ name, before, after, want string }{
		{"another value", `{"pcrs": {"sha256": {"4": ["` + a + `"]}}, "events": [{"pcr": 4, "digests": {"sha256": ["` + c + `"]}}]}`, `{"pcrs": {"sha256": {"4": ["` + b + `"]}}, "events": [{"pcr": 4, "digests": {"sha256": ["` + c + `"]}}]}`,
			"changed PCR 4 (boot loader): accepted sha256 values changed: added " + b + "; removed " + a + " [sha256:" + b + "]"},
		{"a digest in the weaker bank", event(both), event(strings.Replace(both, `"sha256": [`, `"sha256": ["`+b+`", `, 1)),
			"added PCR 9 (files read by the boot loader: kernel and initrd): vmlinuz may also have the sha256 digest " + b + " [sha256:" + b + "]"},
		{"not required", event(`"required": true, ` + both), event(both),
			"changed PCR 9 (files read by the boot loader: kernel and initrd): vmlinuz is no longer required []"},
		{"one of two is enough", `{"events": [{"pcr": 9, "description": "x", "required": true, "digests": {"sha256": ["` + a + `"]}}, {"pcr": 9, "description": "y", "required": true, "digests": {"sha256": ["` + b + `"]}}]}`,
			`{"events": [{"pcr": 9, "description": "z", "required": true, "digests": {"sha256": ["` + a + `", "` + b + `"]}}]}`,
			"changed PCR 9 (files read by the boot loader: kernel and initrd): x is no longer required []\nchanged PCR 9 (files read by the boot loader: kernel and initrd): y is no longer required []"},
		{"what takes its place is not required", event(`"required": true, "digests": {"sha256": ["` + a + `"]}`), event(`"digests": {"sha256": ["` + b + `"]}`),
			"changed kernel changed: vmlinuz [sha256:" + b + "]\nchanged PCR 9 (files read by the boot loader: kernel and initrd): vmlinuz is no longer required []"},
		{"a change allows its digests of all banks", event(both), event(`"digests": {"sha384": ["` + b384 + `"], "sha256": ["` + b + `"]}`),
			"changed kernel changed: vmlinuz [sha384:" + b384 + " sha256:" + b + "]"},
		{"values along with events", `{"pcrs": {"sha256": {"9": ["` + a + `"]}}, "events": [{"pcr": 9, "key": "k", "description": "v", "digests": {"sha256": ["` + a + `"]}}]}`,
			`{"pcrs": {"sha256": {"9": ["` + b + `"]}}, "events": [{"pcr": 9, "key": "k", "description": "v", "digests": {"sha256": ["` + b + `"]}}]}`,
			"changed kernel changed: v [sha256:" + b + "]\nchanged accepted values changed with the events: PCR 9 (sha256: 1 added, 1 removed) [PCR 9 sha256:" + b + "]"},
		{"a register is not judged", `{"pcrs": {"sha256": {"0": ["` + a + `"], "4": ["` + a + `"]}}}`, `{"pcrs": {"sha256": {"4": ["` + a + `"]}}}`,
			"removed PCR 0 (platform firmware): is no longer judged []"},
		{"IMA", `{"ima": {"keyrings": {".ima": []}}}`, `{"ima": {"ignored_keyrings": ["*"], "keyrings": {".ima": ["sha256:` + a + `"]}, "buffers": {"kexec-cmdline": ["sha256:` + b + `"]}}}`,
			"changed keyring .ima: now also sha256:" + a + " [sha256:" + a + "]\n" + `added keys of keyring * are no longer judged ("*" is all keyrings) []` + "\nadded measured buffer kexec-cmdline may have the contents that are listed [sha256:" + b + "]"},
	} {
		if got := diffText(t, tt.before, tt.after); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
		if got := diffText(t, tt.after, tt.after); got != "" {
			t.Errorf("%s: differs from itself: %s", tt.name, got)
		}
	}
}

// A kernel that GRUB has it measured twice changed once.
func TestDiffTellsARepeatedEventOnce(t *testing.T) {
	list := func(digest string) string {
		var events []string
		for _, key := range []string{"image:vmlinuz", "file:vmlinuz"} {
			events = append(events, `{"pcr": 9, "component": "kernel", "key": "`+key+`", "required": true, "description": "vmlinuz", "digests": {"sha256": ["`+digest+`"]}}`)
		}
		return `{"events": [` + strings.Join(events, ",") + `]}`
	}
	a, b := hexOf(0xaa, 32), hexOf(0xbb, 32)
	if got := diffText(t, list(a), list(b)); got != "changed kernel changed: vmlinuz [sha256:"+b+"]" {
		t.Error(got)
	}
	if got := diffText(t, list(a), `{"events": [{"pcr": 9, "component": "kernel", "required": true, "key": "file:vmlinuz", "description": "vmlinuz", "digests": {"sha256": ["`+b+`"]}}]}`); got != "changed kernel changed: vmlinuz [sha256:"+b+"]" {
		t.Error(got)
	}
}

// decides is what of reference values decides about a machine, in one form for all that decide alike. Type, Description,
// Component and Key are for people or pair changes, and decide nothing; the order of lists neither.
func decides(t require, rv ReferenceValues) string {
	out := map[string]any{}
	judged := map[string]bool{}
	sets, groups := map[string]map[string]bool{}, map[string][][]string{}
	for bank, registers := range rv.PCRs {
		for index, values := range registers {
			judged[kindKey(bank)+index] = true
			if len(values) > 0 {
				out["value "+bank+index] = sortedSet(lowerCase(values))
			}
		}
	}
	for _, e := range rv.Events {
		for bank, digests := range e.Digests {
			index := fmt.Sprint(e.PCR)
			judged[kindKey(bank)+index] = true
			key := "events " + bank + index
			if sets[key] == nil {
				sets[key] = map[string]bool{}
			}
			for _, digest := range digests {
				sets[key][strings.ToLower(digest)] = true
			}
			if e.Required {
				groups[key] = append(groups[key], sortedSet(lowerCase(digests)))
			}
		}
	}
	for key, set := range sets {
		out[key] = sortedKeys(set)
	}
	for key, list := range groups { // of two groups the one that holds the other asks nothing more
		var least []string
		for i, g := range list {
			if !slices.ContainsFunc(list, func(o []string) bool { return len(o) < len(g) && len(wordDifference(o, g)) == 0 }) {
				least = append(least, strings.Join(list[i], " "))
			}
		}
		out["required "+key] = sortedSet(least)
	}
	out["judged"] = judged
	for name, raw := range rv.Claims {
		out["claim "+name] = string(raw)
	}
	if r := rv.IMA; r != nil {
		out["ima"] = []any{filesOf(r), sortedSet(r.Exclude), lowerTable(r.Keyrings), sortedSet(r.IgnoredKeyrings), lowerTable(r.Buffers),
			sortedSet(keyNames(r.VerificationKeys)), sortedSet(r.RequireSignatures)}
	}
	out["launch"] = sortedSet(lowerCase(rv.LaunchMeasurements))
	text, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

type require interface{ Fatal(args ...any) }

func kindKey(bank string) string {
	if bank == "rtmr" {
		return "rtmr "
	}
	return "pcr "
}

const testKey = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n-----END PUBLIC KEY-----\n"

// drawValues draws reference values of few parts, so that two of them are often alike in some.
func drawValues(t *rapid.T) ReferenceValues {
	maybe := rapid.Bool()
	bank := rapid.SampledFrom([]string{"sha256", "sha384", "rtmr"})
	digests := func(bank string, least int) []string {
		size := 32
		if bank != "sha256" {
			size = 48
		}
		return rapid.SliceOfN(rapid.Map(rapid.SampledFrom([]byte{1, 2, 3}), func(b byte) string { return hexOf(b, size) }), least, 2).Draw(t, "digests")
	}
	rv := ReferenceValues{Claims: map[string]json.RawMessage{"setup_mode": json.RawMessage("false")}}
	if maybe.Draw(t, "values") {
		b := bank.Draw(t, "bank")
		rv.PCRs = map[string]map[string][]string{b: {"1": digests(b, 0)}}
	}
	for range rapid.IntRange(0, 3).Draw(t, "events") {
		e := ReferenceEvent{PCR: rapid.IntRange(1, 2).Draw(t, "pcr"), Required: maybe.Draw(t, "required"), Digests: map[string][]string{},
			Key: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "key")}
		for range rapid.IntRange(1, 2).Draw(t, "banks") {
			b := bank.Draw(t, "bank")
			e.Digests[b] = digests(b, 1)
		}
		rv.Events = append(rv.Events, e)
	}
	if maybe.Draw(t, "claim") {
		rv.Claims["secure_boot"] = json.RawMessage(rapid.SampledFrom([]string{"true", "false"}).Draw(t, "secure_boot"))
	}
	if maybe.Draw(t, "ima") {
		table := func() map[string][]string {
			list := digests("sha256", 0)
			for i := range list {
				list[i] = "sha256:" + list[i]
			}
			return map[string][]string{"n" + rapid.SampledFrom([]string{"1", "2"}).Draw(t, "name"): list}
		}
		rv.IMA = &ReferenceIMA{}
		rapid.SampledFrom([]func(){
			func() {}, func() { rv.IMA.Keyrings = table() }, func() { rv.IMA.Buffers = table() },
			func() { rv.IMA.IgnoredKeyrings = []string{"*"} }, func() { rv.IMA.Exclude = []string{"/a"} },
			func() { rv.IMA.VerificationKeys = []string{testKey} },
			func() { rv.IMA.VerificationKeys, rv.IMA.RequireSignatures = []string{testKey}, []string{"/b"} },
			func() {
				for path, list := range table() {
					rv.IMA.Allow = []ReferenceFile{{path, list}}
				}
			},
		}).Draw(t, "rule")()
	}
	if maybe.Draw(t, "launch") {
		rv.LaunchMeasurements = digests("sha384", 1)
	}
	return rv
}

// The diff is empty exactly where both decide alike.
func TestDiffIsEmptyOnlyWhereNothingChanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := drawValues(t)
		b := drawValues(t)
		if rapid.Bool().Draw(t, "one part differs") { // else two of them hardly ever come close
			all := b
			b = a
			from, to := reflect.ValueOf(all), reflect.ValueOf(&b).Elem()
			i := rapid.IntRange(0, to.NumField()-1).Draw(t, "part")
			to.Field(i).Set(from.Field(i))
		}
		before, err := CompileReference(a)
		if err != nil {
			t.Fatal(err)
		}
		after, err := CompileReference(b)
		if err != nil {
			t.Fatal(err)
		}
		changes := Diff(before, after)
		if same := decides(t, a) == decides(t, b); same != (len(changes) == 0) {
			t.Fatalf("alike: %v; %d changes: %+v\n%s\n%s", same, len(changes), changes, decides(t, a), decides(t, b))
		}
	})
}

// Every field of reference values is told of, or is listed here with why it is not. A field that is added fails this test
// until it is one or the other.
func TestDiffKnowsEveryField(t *testing.T) {
	a, sha := hexOf(0xaa, 32), "sha256:"+hexOf(0xbb, 32)
	base := func() ReferenceValues {
		return ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {"4": {a}}},
			Events: []ReferenceEvent{{PCR: 9, Digests: map[string][]string{"sha256": {a}, "sha384": {a + a[:32]}}}},
			Claims: map[string]json.RawMessage{"secure_boot": json.RawMessage("true")},
			IMA:    &ReferenceIMA{Allow: []ReferenceFile{{Path: "/a", Digests: []string{sha}}}, VerificationKeys: []string{testKey}}}
	}
	changes := map[string]func(*ReferenceValues){
		"ReferenceValues.PCRs": func(rv *ReferenceValues) { rv.PCRs["sha256"]["4"] = nil },
		"ReferenceValues.Events": func(rv *ReferenceValues) {
			rv.Events = append(rv.Events, ReferenceEvent{PCR: 9, Digests: map[string][]string{"sha1": {a[:40]}}})
		},
		"ReferenceValues.Claims":             func(rv *ReferenceValues) { delete(rv.Claims, "secure_boot") },
		"ReferenceValues.IMA":                func(rv *ReferenceValues) { rv.IMA = nil },
		"ReferenceValues.LaunchMeasurements": func(rv *ReferenceValues) { rv.LaunchMeasurements = []string{a + a[:32]} },
		"ReferenceEvent.PCR":                 func(rv *ReferenceValues) { rv.Events[0].PCR = 10 },
		"ReferenceEvent.Digests":             func(rv *ReferenceValues) { rv.Events[0].Digests["sha256"] = []string{a, hexOf(1, 32)} },
		"ReferenceEvent.Required":            func(rv *ReferenceValues) { rv.Events[0].Required = true },
		"ReferenceIMA.Allow":                 func(rv *ReferenceValues) { rv.IMA.Allow = nil },
		"ReferenceIMA.Exclude":               func(rv *ReferenceValues) { rv.IMA.Exclude = []string{"/x"} },
		"ReferenceIMA.Keyrings":              func(rv *ReferenceValues) { rv.IMA.Keyrings = map[string][]string{".ima": {sha}} },
		"ReferenceIMA.IgnoredKeyrings":       func(rv *ReferenceValues) { rv.IMA.IgnoredKeyrings = []string{"*"} },
		"ReferenceIMA.Buffers":               func(rv *ReferenceValues) { rv.IMA.Buffers = map[string][]string{"x": {sha}} },
		"ReferenceIMA.VerificationKeys":      func(rv *ReferenceValues) { rv.IMA.VerificationKeys = nil },
		"ReferenceIMA.RequireSignatures":     func(rv *ReferenceValues) { rv.IMA.RequireSignatures = []string{"/x"} },
		"ReferenceFile.Path":                 func(rv *ReferenceValues) { rv.IMA.Allow[0].Path = "/b" },
		"ReferenceFile.Digests":              func(rv *ReferenceValues) { rv.IMA.Allow[0].Digests = nil },
	}
	decidesNothing := map[string]string{
		"ReferenceEvent.Type":        "no digest covers it",
		"ReferenceEvent.Description": "a text for people",
		"ReferenceEvent.Component":   "sorts changes for people",
		"ReferenceEvent.Key":         "pairs an event with its successor in what is told",
	}
	for _, typ := range []reflect.Type{reflect.TypeFor[ReferenceValues](), reflect.TypeFor[ReferenceEvent](), reflect.TypeFor[ReferenceIMA](), reflect.TypeFor[ReferenceFile]()} {
		for i := range typ.NumField() {
			name := typ.Name() + "." + typ.Field(i).Name
			change := changes[name]
			if (change == nil) == (decidesNothing[name] == "") {
				t.Errorf("%s is neither told of nor excepted, or both", name)
			}
			if change == nil {
				continue
			}
			rv := base()
			change(&rv)
			before, after := compiled(t, base()), compiled(t, rv)
			if len(Diff(before, after)) == 0 || len(Diff(after, before)) == 0 {
				t.Errorf("a change of %s is not told", name)
			}
		}
	}
}

// A claim that is not told because its register deviates is kept with that deviation, so that both are approved together.
func TestDeviationKeepsItsRegistersClaims(t *testing.T) {
	off := false
	told := []Deviation{{PCR: 9, Bank: "sha256"}, {PCR: 7, Bank: "sha256"}}
	more := parsed(t, `{"claims": {"secure_boot": true}}`).matchClaims(measured{claims: &Claims{Claims: &eventlog.Claims{SecureBoot: &off}}}, 0, 0, told)
	if want := []UnmetClaim{{"secure_boot", "true", "false"}}; len(more) != 0 || told[0].Claims != nil || !slices.Equal(told[1].Claims, want) {
		t.Errorf("%+v %+v", more, told)
	}
}
