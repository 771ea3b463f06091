package corim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/eventlog"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// drawValues draws reference values that can be compiled, in normal form.
func drawValues(t *rapid.T) verifier.ReferenceValues {
	banks := []tpm.HashAlg{tpm.SHA1, tpm.SHA256, tpm.SHA384, tpm.SHA512, tpm.SM3, tpm.SHA3_256, tpm.SHA3_384, tpm.SHA3_512, tpm.RTMR}
	digest := func(alg tpm.HashAlg) string {
		return hex.EncodeToString(rapid.SliceOfN(rapid.Byte(), alg.Size(), alg.Size()).Draw(t, "digest"))
	}
	digests := func(alg tpm.HashAlg, least int) []string {
		return rapid.SliceOfNDistinct(rapid.Custom(func(*rapid.T) string { return digest(alg) }), least, 3, rapid.ID).Draw(t, "digests")
	}
	index := func(alg tpm.HashAlg) int {
		if alg == tpm.RTMR {
			return rapid.IntRange(0, tpm.NumRTMRs-1).Draw(t, "rtmr")
		}
		return rapid.IntRange(0, tpm.NumPCRs-1).Draw(t, "pcr")
	}
	var v verifier.ReferenceValues
	for _, alg := range rapid.SliceOfNDistinct(rapid.SampledFrom(banks), 0, 4, rapid.ID).Draw(t, "banks") {
		if v.PCRs == nil {
			v.PCRs = map[string]map[string][]string{}
		}
		v.PCRs[alg.String()] = map[string][]string{}
		for range rapid.IntRange(1, 4).Draw(t, "registers") {
			v.PCRs[alg.String()][strconv.Itoa(index(alg))] = digests(alg, 0)
		}
	}
	for range rapid.IntRange(0, 5).Draw(t, "events") {
		e := verifier.ReferenceEvent{Digests: map[string][]string{}, Type: rapid.String().Draw(t, "type"), Description: rapid.String().Draw(t, "description"),
			Component: rapid.String().Draw(t, "component"), Key: rapid.String().Draw(t, "key"), Required: rapid.Bool().Draw(t, "required")}
		for _, alg := range rapid.SliceOfNDistinct(rapid.SampledFrom(banks), 1, 3, rapid.ID).Draw(t, "event banks") {
			e.Digests[alg.String()] = digests(alg, 1)
		}
		e.PCR = index(tpm.SHA256)
		if e.Digests["rtmr"] != nil {
			e.PCR = index(tpm.RTMR)
		}
		v.Events = append(v.Events, e)
	}
	for name, claim := range map[string]string{"secure_boot": `true`, "kernel_command_line": `{"pattern": "ro .*quiet"}`, "boot_loader": ` "a\u00e4" `} {
		if rapid.Bool().Draw(t, name) && claimKnown(name) {
			if v.Claims == nil {
				v.Claims = map[string]json.RawMessage{}
			}
			v.Claims[name] = json.RawMessage(claim)
		}
	}
	if rapid.Bool().Draw(t, "ima") {
		v.IMA = &verifier.ReferenceIMA{Allow: []verifier.ReferenceFile{{Path: "/usr/**", Digests: []string{"sha256:" + digest(tpm.SHA256)}}}, Exclude: []string{"^/run/"}}
	}
	v.LaunchMeasurements = rapid.SliceOfNDistinct(rapid.Custom(func(*rapid.T) string { return digest(tpm.SHA384) }), 0, 3, rapid.ID).Draw(t, "launch")
	if len(v.LaunchMeasurements) == 0 {
		v.LaunchMeasurements = nil
	}
	return v
}

func claimKnown(name string) bool {
	_, err := verifier.CompileReference(verifier.ReferenceValues{Claims: map[string]json.RawMessage{name: json.RawMessage("true")}})
	return err == nil
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := drawValues(t)
		document, err := Export(v, Meta{ID: "id"})
		if _, compileErr := verifier.CompileReference(v); compileErr != nil {
			if err == nil {
				t.Fatalf("exported what cannot be compiled: %v", compileErr)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := Import(document, trusting())
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.Values, v) || len(got.Notes) != 0 {
			t.Fatalf("got  %+v\nwant %+v\nnotes %v", got.Values, v, got.Notes)
		}
		again, err := Export(got.Values, Meta{ID: "id"})
		if err != nil || !bytes.Equal(again, document) {
			t.Fatalf("the same values make another document (%v)", err)
		}
	})
}

// Reference values gain fields; the profile must carry each of them, or what is exported loses it silently. Whoever adds
// a field adds it to the profile (or, within the IMA list, has nothing to do) and then here.
func TestEveryFieldIsCarried(t *testing.T) {
	for _, test := range []struct {
		of   reflect.Type
		want []string
	}{
		{reflect.TypeFor[verifier.ReferenceValues](), []string{"PCRs", "Events", "Claims", "IMA", "LaunchMeasurements"}},
		{reflect.TypeFor[verifier.ReferenceEvent](), []string{"PCR", "Type", "Digests", "Description", "Component", "Key", "Required"}},
	} {
		var got []string
		for i := range test.of.NumField() {
			got = append(got, test.of.Field(i).Name)
		}
		if !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s has the fields %v; the profile carries %v", test.of, got, test.want)
		}
	}
}

func TestExportOfARealLog(t *testing.T) {
	raw, err := os.ReadFile("../../verifier/eventlog/testdata/eventlogs/misc/hirs-TpmLog.bin")
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	v := baseline.OfLog(log)
	document, err := Export(v, Meta{ID: "id", TagID: "tag", TagVersion: 2, Creator: "Creator", CreatorURI: "https://creator.example", NotBefore: now.AddDate(0, 0, -1), NotAfter: now.AddDate(0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Import(document, trusting())
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Values.Events) != 44 || !reflect.DeepEqual(got.Values, v) || len(got.Notes) != 0 {
		t.Errorf("%d events, notes %v", len(got.Values.Events), got.Notes)
	}
	for name, want := range map[string]string{"corim_id": "id", "tag_id": "tag", "tag_version": "2", "tag_creator": "Creator", "manifest_creator": "Creator",
		"tag_creator_uri": "https://creator.example", "profile": Profile, "valid_until": "2024-11-26T12:00:00Z"} {
		if got.Provenance[name] != want {
			t.Errorf("%s is %q, want %q", name, got.Provenance[name], want)
		}
	}
	t.Logf("%d events in %d bytes", len(v.Events), len(document))
}

// Another reader, who knows the draft and not our profile, finds the standard part where the draft puts it.
func TestAnotherReadersView(t *testing.T) {
	v := verifier.ReferenceValues{
		PCRs: map[string]map[string][]string{"sha256": {"0": {hexOf(32, 1)}, "7": {hexOf(32, 2), hexOf(32, 3)}}, "rtmr": {"1": {hexOf(48, 4)}}},
		Events: []verifier.ReferenceEvent{{PCR: 4, Type: "EV_EFI_BOOT_SERVICES_APPLICATION", Digests: map[string][]string{"sha256": {hexOf(32, 5)}},
			Description: "boot loader", Required: true}},
		LaunchMeasurements: []string{hexOf(48, 6)},
	}
	document, err := Export(v, Meta{ID: "id", Creator: "Creator"})
	if err != nil {
		t.Fatal(err)
	}
	// corim-map, concise-mid-tag, environment-map and measurement-map as the CDDL of draft-ietf-rats-corim-11 has them.
	type digestPair struct {
		_   struct{} `cbor:",toarray"`
		Alg any
		Val []byte
	}
	type measurement struct {
		Key  any `cbor:"0,keyasint,omitempty"`
		Mval struct {
			Digests   []digestPair            `cbor:"2,keyasint"`
			Name      string                  `cbor:"11,keyasint"`
			Registers map[uint64][]digestPair `cbor:"14,keyasint"`
		} `cbor:"1,keyasint"`
	}
	type triple struct {
		_           struct{} `cbor:",toarray"`
		Environment struct {
			Class struct {
				Vendor string `cbor:"1,keyasint"`
				Model  string `cbor:"2,keyasint"`
			} `cbor:"0,keyasint"`
		}
		Measurements []measurement
	}
	type entity struct {
		Name  string `cbor:"0,keyasint"`
		Roles []int  `cbor:"2,keyasint"`
	}
	var corim struct {
		ID       string        `cbor:"0,keyasint"`
		Tags     []cbor.RawTag `cbor:"1,keyasint"`
		Profile  cbor.Tag      `cbor:"3,keyasint"`
		Entities []entity      `cbor:"5,keyasint"`
	}
	var outer cbor.RawTag
	decode(t, document, &outer)
	decode(t, outer.Content, &corim)
	if outer.Number != 501 || corim.ID != "id" || corim.Profile.Number != 32 || len(corim.Tags) != 1 || corim.Tags[0].Number != 506 || corim.Entities[0].Roles[0] != 1 {
		t.Fatalf("%+v", corim)
	}
	var inner []byte
	decode(t, corim.Tags[0].Content, &inner)
	var comid struct {
		Identity struct {
			ID string `cbor:"0,keyasint"`
		} `cbor:"1,keyasint"`
		Entities []entity `cbor:"2,keyasint"`
		Triples  struct {
			Reference []triple `cbor:"0,keyasint"`
		} `cbor:"4,keyasint"`
	}
	decode(t, inner, &comid)
	if comid.Identity.ID != "id" || len(comid.Triples.Reference) != 3 || comid.Entities[0].Name != "Creator" {
		t.Fatalf("%+v", comid)
	}
	tpmValues, tdxValues, tee := comid.Triples.Reference[0], comid.Triples.Reference[1], comid.Triples.Reference[2]
	registers := tpmValues.Measurements[0].Mval.Registers
	if tpmValues.Environment.Class.Model != "TPM" || len(registers) != 2 || !bytes.Equal(registers[7][1].Val, hash(32, 3)) || registers[0][0].Alg != uint64(1) {
		t.Errorf("%+v", tpmValues)
	}
	if event := tpmValues.Measurements[1]; event.Key != "event/0" || event.Mval.Name != "boot loader" || !bytes.Equal(event.Mval.Digests[0].Val, hash(32, 5)) {
		t.Errorf("%+v", event)
	}
	if tdxValues.Environment.Class.Model != "TDX" || tdxValues.Measurements[0].Mval.Registers[1][0].Alg != uint64(7) {
		t.Errorf("%+v", tdxValues)
	}
	if tee.Environment.Class.Model != "TEE" || tee.Measurements[0].Key != nil || !bytes.Equal(tee.Measurements[0].Mval.Digests[0].Val, hash(48, 6)) {
		t.Errorf("%+v", tee)
	}
}

func decode(t *testing.T, b []byte, to any) {
	t.Helper()
	if err := cbor.Unmarshal(b, to); err != nil {
		t.Fatal(err)
	}
}

func TestExportRefuses(t *testing.T) {
	good := verifier.ReferenceValues{LaunchMeasurements: []string{hexOf(48, 1)}}
	if _, err := Export(good, Meta{}); err == nil || err.Error() != "a CoRIM needs an id" {
		t.Error(err)
	}
	if _, err := Export(good, Meta{ID: "x", NotBefore: now}); err == nil {
		t.Error("a validity without end was exported")
	}
	var field *verifier.FieldError
	if _, err := Export(verifier.ReferenceValues{}, Meta{ID: "x"}); !errors.As(err, &field) {
		t.Error(err)
	}
	// Digests in capitals come back in lower case.
	document, err := Export(verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha1": {"0": {"ABCDEF0123456789ABCDEF0123456789ABCDEF01"}}, "sha256": {}}}, Meta{ID: "x"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Import(document, trusting())
	if err != nil || got.Values.PCRs["sha1"]["0"][0] != "abcdef0123456789abcdef0123456789abcdef01" || len(got.Values.PCRs) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// The largest set of reference values goes through, and what would not come back is not exported.
func TestExportBounds(t *testing.T) {
	v := verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha1": {"0": {hexOf(20, 1)}}}}
	for i := range 20000 {
		v.Events = append(v.Events, verifier.ReferenceEvent{PCR: 4, Digests: map[string][]string{"sha256": {hexOf(32, byte(i))}}, Description: strconv.Itoa(i)})
	}
	for i := range maxValues {
		v.LaunchMeasurements = append(v.LaunchMeasurements, hexOf(46, 0)+hex.EncodeToString([]byte{byte(i >> 8), byte(i)}))
	}
	document, err := Export(v, Meta{ID: "id"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Import(document, trusting())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Values, v) {
		t.Error("not the same values")
	}
	v.LaunchMeasurements = append(v.LaunchMeasurements, hexOf(48, 9))
	if _, err := Export(v, Meta{ID: "id"}); err == nil {
		t.Error("more launch measurements than are read were exported")
	}
	v.LaunchMeasurements = nil
	v.Events[0].Description = string(bytes.Repeat([]byte("x"), maxDocument))
	if _, err := Export(v, Meta{ID: "id"}); err == nil {
		t.Error("a document larger than is read was exported")
	}
}

func FuzzCoRIM(f *testing.F) {
	for _, name := range []string{"comid-1.cbor", "corim-1.cbor", "corim-2.cbor", "corim-design-cd.cbor", "corim-firmware-cd.cbor",
		"signed-corim-with-extensions.cbor", "signed-example-corim.cbor", "signed-good-corim.cbor", "unsigned-good-corim.cbor"} {
		f.Add(specimen(f, name))
	}
	for _, name := range []string{"comid-integrity-registers.cbor", "comid-raw-value.cbor"} {
		f.Add(corimOf(f, nil, specimen(f, name)))
	}
	v := verifier.ReferenceValues{
		PCRs: map[string]map[string][]string{"sha256": {"0": {hexOf(32, 1)}, "7": {}}, "rtmr": {"1": {hexOf(48, 4)}}, "sm3_256": {"3": {hexOf(32, 1)}}},
		Events: []verifier.ReferenceEvent{{PCR: 1, Type: "t", Digests: map[string][]string{"sha256": {hexOf(32, 5)}, "rtmr": {hexOf(48, 5)}}, Required: true},
			{PCR: 2, Digests: map[string][]string{"rtmr": {hexOf(48, 5)}}, Key: "k"}},
		Claims: map[string]json.RawMessage{"secure_boot": json.RawMessage("true")}, IMA: &verifier.ReferenceIMA{Exclude: []string{"^/run/"}},
		LaunchMeasurements: []string{hexOf(48, 6)},
	}
	document, err := Export(v, Meta{ID: "id", Creator: "c", CreatorURI: "u", NotAfter: now.Add(time.Hour)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(document)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	signed, err := Sign(document, key, []byte("k"), SignerMeta{Name: "n", URI: "u", NotAfter: now.Add(time.Hour)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add(corimOf(f, nil, comidOf(class("AMD", "SEV-SNP"), m{1: m{2: l{l{7, hash(48, 1)}}, 4: tag(tagBytes, hash(48, 2))}})))
	f.Add(corimOf(f, nil, comidOf(class("Intel", "TDX"), m{1: m{14: map[any]any{0: l{l{7, hash(48, 1)}}, "mrtd": l{l{7, hash(48, 1)}}}}})))
	trust := trusting(veraison(f).Public(), key.Public())
	f.Fuzz(func(t *testing.T, document []byte) {
		got, err := Import(document, trust)
		if err != nil {
			var at *baseline.ImportError
			if got != nil || !errors.As(err, &at) || at.Kind == "" {
				t.Fatalf("%+v, %#v", got, err)
			}
			return
		}
		// What was read can be written, and read again.
		again, err := Export(got.Values, Meta{ID: "again"})
		if err != nil {
			t.Fatal(err)
		}
		back, err := Import(again, trust)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(back.Values.PCRs, got.Values.PCRs) || len(back.Values.Events) != len(got.Values.Events) || len(back.Values.Claims) != len(got.Values.Claims) {
			t.Fatalf("got  %+v\nwant %+v", back.Values, got.Values)
		}
	})
}
