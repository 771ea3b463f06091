package corim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/importtest"
	"github.com/assay-verifier/assay/verifier"
)

func TestSpecimens(t *testing.T) {
	trust := trusting(veraison(t).Public())
	const undecided = "/tags/0/triples/reference-triples/0/measurements/0/mval/digests: a value of "
	for _, test := range []struct{ file, kind, want string }{
		{"comid-1.cbor", baseline.ImportUnsupported, "a map without a tag"},
		{"comid-integrity-registers.cbor", baseline.ImportUnsupported, "a map without a tag"},
		{"comid-raw-value.cbor", baseline.ImportUnsupported, "a map without a tag"},
		{"corim-1.cbor", baseline.ImportNothingFound, "/tags/0/triples/reference-triples/0/measurements/0/mval/version: not compared"},
		{"corim-2.cbor", baseline.ImportNothingFound, undecided + "ACME Inc. ACME RoadRunner Firmware"},
		{"corim-design-cd.cbor", baseline.ImportUnsupported, "/profile: the profile 2.16.840.1.113741.1.15.6 is not known"},
		{"corim-firmware-cd.cbor", baseline.ImportUnsupported, "/profile: the profile 2.16.840.1.113741.1.15.6 is not known"},
		{"signed-corim-with-extensions.cbor", baseline.ImportUnsupported, "/profile: the profile http://example.com/test-profile is not known"},
		{"signed-example-corim.cbor", baseline.ImportUnsupported, "/profile: the profile http://example.com/example-profile is not known"},
		{"signed-good-corim.cbor", baseline.ImportNothingFound, undecided + "ACME RoadRunner"},
		{"unsigned-good-corim.cbor", baseline.ImportNothingFound, undecided + "ACME RoadRunner"},
	} {
		t.Run(test.file, func(t *testing.T) {
			_, err := Import(specimen(t, test.file), trust)
			importtest.WantError(t, err, test.kind, test.want)
			// The signed ones are only read at all with their key, and in their time.
			if strings.HasPrefix(test.file, "signed-") {
				_, err = Import(specimen(t, test.file), trusting())
				importtest.WantError(t, err, baseline.ImportUntrusted, "/signature: no trusted key verifies the signature")
				late := trusting(veraison(t).Public())
				late.Now = now.AddDate(2, 0, 0)
				_, err = Import(specimen(t, test.file), late)
				importtest.WantError(t, err, baseline.ImportUntrusted, "/protected/corim-meta/signature-validity: not valid after 2025-12-31T00:00:00Z")
			}
		})
	}
}

// The CoMIDs of the specimens, read inside of a CoRIM.
func TestSpecimenComids(t *testing.T) {
	for file, want := range map[string]string{
		"comid-1.cbor":                   "mval/version: not compared",
		"comid-integrity-registers.cbor": "mval/integrity-registers/my-ir: not the name of a PCR or RTMR",
		"comid-raw-value.cbor":           "mval/raw-value: a value of ACME Inc. ACME RoadRunner",
	} {
		got, err := Import(corimOf(t, nil, specimen(t, file), comidOf(class("x", "y"), m{1: m{14: m{0: l{l{1, hash(32, 1)}}}}})), trusting())
		if err != nil {
			t.Fatal(err)
		}
		if notes := strings.Join(got.Notes, "\n"); !strings.Contains(notes, want) || got.Signer != nil || got.Provenance["tag_creator"] != "ACME Inc." {
			t.Errorf("%s: %s\n%v", file, notes, got.Provenance)
		}
	}
}

func TestValues(t *testing.T) {
	sha256 := func(fill byte) l { return l{1, hash(32, fill)} }
	sha384 := func(fill byte) l { return l{7, hash(48, fill)} }
	amd := m{0: m{0: tag(tagOID, []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0x9c, 0x78, 0x02, 0x01})}}
	for _, test := range []struct {
		name        string
		environment any
		measurement any
		want        verifier.ReferenceValues
		note        string
	}{
		{"registers by number", class("TCG", "TPM 2.0"), m{1: m{14: m{0: l{sha256(1), l{"sha1", hash(20, 2)}, l{-16, hash(32, 3)}}, 7: l{sha384(4)}}}},
			verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {"0": {hexOf(32, 1), hexOf(32, 3)}}, "sha1": {"0": {hexOf(20, 2)}}, "sha384": {"7": {hexOf(48, 4)}}}}, ""},
		{"registers by name", m{0: m{0: tag(tagUUID, hash(16, 1))}}, m{1: m{14: map[string]any{"PCR[4]": l{sha256(1)}, "rtmr1": l{sha384(2)}}}},
			verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {"4": {hexOf(32, 1)}}, "rtmr": {"1": {hexOf(48, 2)}}}}, ""},
		{"a measurement named after a register", class("a", "b"), m{0: "pcr-9", 1: m{2: l{sha256(1)}, 11: "kernel"}},
			verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {"9": {hexOf(32, 1)}}}}, "mval/name: not compared: the values beside it"},
		{"TDX registers", class("Intel", "TDX guest"), m{1: m{14: map[any]any{0: l{sha384(1)}, "mrtd": l{sha384(2)}, "pcr3": l{sha256(3)}}}},
			verifier.ReferenceValues{PCRs: map[string]map[string][]string{"rtmr": {"0": {hexOf(48, 1)}}, "sha256": {"3": {hexOf(32, 3)}}}, LaunchMeasurements: []string{hexOf(48, 2)}}, ""},
		{"TDX measurement", class("Intel", "TDX"), m{0: "MRTD", 1: m{2: l{sha384(2)}}}, verifier.ReferenceValues{LaunchMeasurements: []string{hexOf(48, 2)}}, ""},
		{"SEV-SNP by class id", amd, m{1: m{2: l{sha384(2), sha384(3)}, 1: tag(553, 4)}}, verifier.ReferenceValues{LaunchMeasurements: []string{hexOf(48, 2), hexOf(48, 3)}}, "mval/svn: not compared: the values beside it"},
		{"SEV-SNP by model, raw value", class("AMD", "SEV-SNP"), m{0: 641, 1: m{4: tag(tagBytes, hash(48, 2))}}, verifier.ReferenceValues{LaunchMeasurements: []string{hexOf(48, 2)}}, ""},
		{"one beside another", class("a", "b"), m{1: m{14: m{0: l{sha256(1)}}, 2: l{sha256(9)}}, 2: l{tag(tagBytes, hash(4, 1))}},
			verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {"0": {hexOf(32, 1)}}}}, "measurements/0/authorized-by: who may measure this is not compared"},
		{"one measurement without array", class("a", "b"), "single", verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {"0": {hexOf(32, 1)}}}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			comid := comidOf(test.environment, test.measurement)
			if test.measurement == "single" {
				comid[4] = m{0: l{l{test.environment, m{1: m{14: m{0: l{sha256(1)}}}}}}}
			}
			got, err := Import(corimOf(t, nil, comid), trusting())
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Values, test.want) {
				t.Errorf("got  %+v\nwant %+v", got.Values, test.want)
			}
			if notes := strings.Join(got.Notes, "\n"); !strings.Contains(notes, test.note) || test.note == "" && notes != "" {
				t.Errorf("notes: %s", notes)
			}
		})
	}
}

// Each value that nothing can be judged by is named, and none is taken for something else.
func TestNotes(t *testing.T) {
	good := m{1: m{14: m{0: l{l{1, hash(32, 1)}}}}}
	for _, test := range []struct {
		name        string
		environment any
		measurement any
		note        string
	}{
		{"a digest of anything", class("a", "b"), m{0: "bios", 1: m{2: l{l{1, hash(32, 2)}}}}, "mval/digests: a value of a b; it says neither"},
		{"a digest of an SNP guest by another key", class("AMD", "SEV-SNP"), m{0: "id-key", 1: m{2: l{l{7, hash(48, 2)}}}}, "mval/digests: a value of AMD SEV-SNP"},
		{"a launch measurement by SHA-256", class("AMD", "SEV-SNP"), m{1: m{2: l{l{1, hash(32, 2)}}}}, "a launch measurement is a SHA-384 digest"},
		{"a masked launch measurement", class("AMD", "SEV-SNP"), m{1: m{4: tag(tagMaskedValues, l{hash(48, 2), hash(48, 0)})}}, "mval/raw-value: a value of"},
		{"an RTMR by SHA-256", class("Intel", "TDX"), m{1: m{14: m{1: l{l{1, hash(32, 2)}}}}}, "integrity-registers/1: RTMRs are extended with SHA-384"},
		{"an unknown algorithm", class("a", "b"), m{1: m{14: m{1: l{l{"blake3", hash(32, 2)}}}}}, "integrity-registers/1: the algorithm blake3 is none"},
		{"a truncated hash", class("a", "b"), m{1: m{14: m{1: l{l{2, hash(16, 2)}}}}}, "integrity-registers/1: the algorithm 2 is none"},
		{"a register of an SNP guest", class("AMD", "SEV-SNP"), m{1: m{14: m{1: l{l{7, hash(48, 2)}}}}}, "integrity-registers/1: not the name"},
		{"MRTD of no TDX guest", class("a", "b"), m{1: m{14: map[string]any{"mrtd": l{l{7, hash(48, 2)}}}}}, "integrity-registers/mrtd: not the name"},
		{"text that looks like a number", class("a", "b"), m{1: m{14: map[string]any{"1": l{l{7, hash(48, 2)}}}}}, "integrity-registers/1: not the name"},
		{"keys of another profile", class("a", "b"), m{1: m{keyRegister: 4, 2: l{l{1, hash(32, 2)}}, 14: m{0: l{l{1, hash(32, 1)}}}}}, "mval/-1: not a key"},
		{"an event without our profile", class(ourVendor, modelTPM), m{0: "event/0", 1: m{keyRegister: 4, 2: l{l{1, hash(32, 2)}}}}, "mval/digests: a value of Assay TPM"},
		{"a claim without our profile", class(ourVendor, modelClaims), m{0: "secure_boot", 1: m{keyClaim: "true"}}, "mval/-8: not a key"},
		{"an unknown key of an environment", m{0: m{1: "a"}, 9: 1}, good, "environment/9: not a key"},
		{"an unknown key of a class", m{0: m{1: "a", 9: 1}}, good, "environment/class/9: not a key"},
		{"an unknown key of a measurement", class("a", "b"), m{1: m{14: m{0: l{l{1, hash(32, 1)}}}}, 9: 1}, "measurements/0/9: not a key"},
		{"a group", m{0: m{1: "a"}, 2: tag(tagBytes, hash(4, 1))}, good, "environment/group: the group is not compared"},
		{"an instance", m{0: m{1: "a"}, 1: tag(550, hash(7, 2))}, good, "environment/instance: the values are of the machine 02020202020202"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Import(corimOf(t, nil, comidOf(class("x", "y"), good), comidOf(test.environment, test.measurement)), trusting())
			if err != nil {
				t.Fatal(err)
			}
			if notes := strings.Join(got.Notes, "\n"); !strings.Contains(notes, test.note) {
				t.Errorf("notes: %s", notes)
			}
			if want := (verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {"0": {hexOf(32, 1)}}}}); !reflect.DeepEqual(got.Values, want) {
				t.Errorf("%+v", got.Values)
			}
		})
	}
	comid := comidOf(class("x", "y"), good)
	triples := comid[4].(m)
	for key := 1; key <= 11; key++ {
		triples[key] = l{}
	}
	comid[2] = l{m{0: "Maker", 2: l{1}, 9: 1}}
	comid[3] = l{}
	comid[99] = 1
	got, err := Import(corimOf(t, func(c m) {
		c[2] = l{}
		c[6] = "x"
		c[1] = append(c[1].(l), tag(tagCoSWID, []byte{0}), tag(tagTagList, []byte{0}), tag(tagTrustStore, []byte{0}), tag(999, 0))
	}, comid), trusting())
	if err != nil {
		t.Fatal(err)
	}
	notes := strings.Join(got.Notes, "\n")
	for _, want := range []string{"/dependent-rims: ", "/6: ", "/tags/0/linked-tags: ", "/tags/0/entities/0/9: ", "/tags/0/99: ", "/tags/0/triples/endorsed-triples: ", "/tags/0/triples/11: ",
		"/tags/1: a CoSWID", "/tags/2: a list of tags", "/tags/3: a store", "/tags/4: tag 999 is not known"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note has %q:\n%s", want, notes)
		}
	}
	var many []any
	for range 100 {
		many = append(many, m{0: "bios", 1: m{2: l{l{1, hash(32, 2)}}}})
	}
	got, err = Import(corimOf(t, nil, comidOf(class("x", "y"), append(many, good)...)), trusting())
	if err != nil || len(got.Notes) != maxNotes+1 || got.Notes[maxNotes] != "and 50 more places that are not judged by" {
		t.Errorf("%v, %d notes", err, len(got.Notes))
	}
}

func TestProvenance(t *testing.T) {
	comid := comidOf(class("vendor", "model"), m{1: m{14: m{0: l{l{1, hash(32, 1)}}}}})
	comid[1] = m{0: hash(16, 1), 1: 3}
	comid[2] = l{m{0: "Maker", 1: tag(tagURI, "https://maker.example"), 2: l{0, 1, 7}}}
	got, err := Import(corimOf(t, func(c m) {
		c[0] = tag(tagUUID, hash(16, 2))
		c[3] = l{tag(tagURI, "http://amd.com/please-permalink-me")}
		c[4] = m{0: tag(1, now.Unix()), 1: tag(1, now.Unix())}
		c[5] = l{m{0: "Author", 2: l{1}}}
	}, comid), trusting())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"corim_id": "02020202-0202-0202-0202-020202020202", "tag_id": "01010101-0101-0101-0101-010101010101", "tag_version": "3",
		"vendor": "Maker", "vendor_uri": "https://maker.example", "tag_creator": "Maker", "entity": "Maker", "model": "model", "manifest_creator": "Author",
		"profile": "http://amd.com/please-permalink-me", "valid_from": "2024-11-25T12:00:00Z", "valid_until": "2024-11-25T12:00:00Z"} {
		if got.Provenance[name] != want {
			t.Errorf("%s is %q, want %q", name, got.Provenance[name], want)
		}
	}
}

func TestMalformed(t *testing.T) {
	good := comidOf(class("x", "y"), m{1: m{14: m{0: l{l{1, hash(32, 1)}}}}})
	with := func(measurement any) []byte { return corimOf(t, nil, comidOf(class("x", "y"), measurement)) }
	ours := func(model string, measurements ...any) []byte {
		return corimOf(t, func(c m) { c[3] = tag(tagURI, Profile) }, comidOf(class(ourVendor, model), measurements...))
	}
	event := func(change m) m {
		values := m{keyRegister: 4, 2: l{l{1, hash(32, 2)}}}
		for key, value := range change {
			if value == nil {
				delete(values, key)
			} else {
				values[key] = value
			}
		}
		return m{0: "event/0", 1: values}
	}
	duplicate := []byte{0xd9, 0x01, 0xf5, 0xa3, 0x00, 0x61, 'a', 0x01, 0x80, 0x18, 0x00, 0x61, 'b'} // 0 and 0 in two bytes
	for _, test := range []struct {
		name     string
		document []byte
		kind     string
		want     string
	}{
		{"nothing", nil, baseline.ImportMalformed, "EOF"},
		{"rest", append(corimOf(t, nil, good), 0), baseline.ImportMalformed, "1 bytes of extraneous data"},
		{"cut", corimOf(t, nil, good)[:40], baseline.ImportMalformed, "unexpected EOF"},
		{"a number", []byte{0x00}, baseline.ImportUnsupported, "this is an integer"},
		{"another tag", marshal(t, tag(505, m{})), baseline.ImportUnsupported, "this is tag 505"},
		{"a CoMID alone", marshal(t, tag(tagCoMID, marshal(t, good))), baseline.ImportUnsupported, "this is a CoMID tag (506) alone"},
		{"too many outer tags", marshal(t, tag(500, tag(500, tag(500, tag(501, m{}))))), baseline.ImportUnsupported, "this is tag 500"},
		{"no map", marshal(t, tag(tagUnsigned, l{})), baseline.ImportMalformed, "a map is needed; this is an array"},
		{"no id", corimOf(t, func(c m) { delete(c, 0) }, good), baseline.ImportMalformed, "a CoRIM has an id (0) and tags (1)"},
		{"an id that is an array", corimOf(t, func(c m) { c[0] = l{} }, good), baseline.ImportMalformed, "/id: a text is needed; this is an array"},
		{"no tags", corimOf(t, func(c m) { c[1] = l{} }), baseline.ImportMalformed, "/tags: an array of at least one element"},
		{"no tag", corimOf(t, func(c m) { c[1] = l{1} }), baseline.ImportMalformed, "/tags/0: a tag is needed"},
		{"a key twice, encoded in two ways", duplicate, baseline.ImportMalformed, "the key 0 is there twice"},
		{"a key of a float", []byte{0xd9, 0x01, 0xf5, 0xa1, 0xf9, 0x3c, 0x00, 0x00}, baseline.ImportMalformed, "neither an integer nor a text"},
		{"a register twice", bytes.Replace(with(m{1: m{14: m{0: l{l{1, hash(32, 1)}}, 1: l{l{1, hash(32, 2)}}}}}), append([]byte{0x01, 0x81, 0x82, 0x01, 0x58, 0x20}, hash(32, 2)...), append([]byte{0x00, 0x81, 0x82, 0x01, 0x58, 0x20}, hash(32, 2)...), 1), baseline.ImportMalformed, "mval/integrity-registers: the key 0 is there twice"},
		{"no UTF-8", corimOf(t, func(c m) { c[0] = cbor.RawMessage{0x61, 0xff} }, good), baseline.ImportMalformed, "/id: the text is not UTF-8"},
		{"indefinite length", []byte{0xd9, 0x01, 0xf5, 0xa1, 0x00, 0x7f, 0x61, 'a', 0xff}, baseline.ImportUnsupported, "indefinite-length"},
		{"a CoMID that is no CBOR", corimOf(t, nil, []byte{0xff}), baseline.ImportMalformed, "/tags/0: "},
		{"a CoMID with a rest", corimOf(t, nil, append(marshal(t, good), 0)), baseline.ImportMalformed, "/tags/0: cbor: 1 bytes of extraneous data"},
		{"no triples", corimOf(t, nil, m{1: m{0: "x"}}), baseline.ImportMalformed, "/tags/0: a CoMID has an identity (1) and triples (4)"},
		{"no tag id", corimOf(t, nil, m{1: m{}, 4: m{}}), baseline.ImportMalformed, "/tags/0/tag-identity: an identity has a tag-id"},
		{"a version of 64 bits", corimOf(t, nil, m{1: m{0: "x", 1: uint64(1) << 63}, 4: m{0: l{}}}), baseline.ImportMalformed, "/tags/0/tag-identity/tag-version: the integer has more than 63 bits"},
		{"an empty triple", corimOf(t, nil, m{1: m{0: "x"}, 4: m{0: l{l{}}}}), baseline.ImportMalformed, "/tags/0/triples/reference-triples/0: a triple has"},
		{"no measurements", corimOf(t, nil, m{1: m{0: "x"}, 4: m{0: l{l{m{}, l{}}}}}), baseline.ImportMalformed, "measurements: an array of at least one"},
		{"no values", with(m{0: "x"}), baseline.ImportMalformed, "/tags/0/triples/reference-triples/0/measurements/0: a measurement has values"},
		{"empty values", with(m{1: m{}}), baseline.ImportMalformed, "mval: the measurement has no value"},
		{"no registers", with(m{1: m{14: m{}}}), baseline.ImportMalformed, "at least one register"},
		{"a negative register", with(m{1: m{14: m{-1: l{l{1, hash(32, 1)}}}}}), baseline.ImportMalformed, "integrity-registers/-1: a register's number is not negative"},
		{"PCR 24", with(m{1: m{14: m{24: l{l{1, hash(32, 1)}}}}}), baseline.ImportMalformed, "integrity-registers/24: PCR 24: there are 0 to 23"},
		{"a huge PCR", with(m{1: m{14: map[uint64]any{1 << 63: l{l{1, hash(32, 1)}}}}}), baseline.ImportMalformed, "neither an integer nor a text"},
		{"RTMR 4", corimOf(t, nil, comidOf(class("Intel", "TDX"), m{1: m{14: m{4: l{l{7, hash(48, 1)}}}}})), baseline.ImportMalformed, "RTMR 4: there are 0 to 3"},
		{"a digest of another length", with(m{1: m{14: m{0: l{l{1, hash(31, 1)}}}}}), baseline.ImportMalformed, "integrity-registers/0/0: a sha256 digest has 32 bytes; this has 31"},
		{"a digest of three", with(m{1: m{14: m{0: l{l{1, hash(32, 1), 0}}}}}), baseline.ImportMalformed, "a digest has an algorithm and a value; this has 3 elements"},
		{"a digest that is text", with(m{1: m{14: m{0: l{l{1, "x"}}}}}), baseline.ImportMalformed, "a byte string is needed; this is a text"},
		{"no digests", with(m{1: m{14: m{0: l{}}}}), baseline.ImportMalformed, "at least one element"},
		{"two machines", corimOf(t, nil, comidOf(m{1: tag(550, hash(7, 1))}, m{1: m{2: l{l{1, hash(32, 1)}}}}), comidOf(m{1: tag(550, hash(7, 2))}, m{1: m{2: l{l{1, hash(32, 1)}}}})), baseline.ImportUnsupported, "values of several machines"},
		{"a nameless entity", corimOf(t, func(c m) { c[5] = l{m{2: l{1}}} }, good), baseline.ImportMalformed, "/entities/0: an entity has a name"},
		{"over", corimOf(t, func(c m) { c[4] = m{1: tag(1, now.Unix()-1)} }, good), baseline.ImportUntrusted, "/rim-validity: not valid after 2024-11-25T11:59:59Z"},
		{"to come", corimOf(t, func(c m) { c[4] = m{0: tag(1, now.Unix()+1), 1: now.Unix() + 2} }, good), baseline.ImportUntrusted, "/rim-validity: not valid before 2024-11-25T12:00:01Z"},
		{"validity without end", corimOf(t, func(c m) { c[4] = m{0: tag(1, now.Unix())} }, good), baseline.ImportMalformed, "/rim-validity: a validity has"},
		{"a time in text", corimOf(t, func(c m) { c[4] = m{1: "2030"} }, good), baseline.ImportMalformed, "/rim-validity/not-after: a time is needed"},
		{"a time far away", corimOf(t, func(c m) { c[4] = m{1: int64(1) << 60} }, good), baseline.ImportMalformed, "beyond the year 9999"},
		{"an unknown profile", corimOf(t, func(c m) { c[3] = tag(tagURI, "urn:x") }, good), baseline.ImportUnsupported, "/profile: the profile urn:x is not known"},
		{"a known and an unknown profile", corimOf(t, func(c m) { c[3] = l{tag(tagURI, Profile), tag(tagURI, "urn:x")} }, good), baseline.ImportUnsupported, "/profile/1: the profile urn:x"},
		{"an event without register", ours(modelTPM, event(m{keyRegister: nil})), baseline.ImportMalformed, "an event has the number of its register (-1)"},
		{"an event of PCR 24", ours(modelTPM, event(m{keyRegister: 24})), baseline.ImportMalformed, "mval/register: register 24 is outside"},
		{"an event without digests", ours(modelTPM, event(m{2: nil})), baseline.ImportMalformed, "/events/0/digests: at least one digest is needed"},
		{"an event of an unknown algorithm", ours(modelTPM, event(m{2: l{l{99, hash(32, 1)}}})), baseline.ImportMalformed, "mval/digests: the algorithm 99"},
		{"an RTMR's event by SHA-256", ours(modelTDX, event(m{keyRegister: 1})), baseline.ImportMalformed, "RTMRs are extended with SHA-384"},
		{"an event that is required by a number", ours(modelTPM, event(m{keyRequired: 1})), baseline.ImportMalformed, "mval/required: true or false is needed"},
		{"an event at no position", ours(modelTPM, m{0: "event/x", 1: m{keyRegister: 1}}), baseline.ImportMalformed, "event/x is no position"},
		{"an event beyond all", ours(modelTPM, m{0: "event/20000", 1: m{keyRegister: 1}}), baseline.ImportMalformed, "event/20000 is no position"},
		{"a claim without text", ours(modelClaims, m{0: "secure_boot", 1: m{11: "x"}}), baseline.ImportMalformed, "a claim has its name"},
		{"a claim twice", ours(modelClaims, m{0: "secure_boot", 1: m{keyClaim: "true"}}, m{0: "secure_boot", 1: m{keyClaim: "false"}}), baseline.ImportMalformed, "mval/claim: the claim secure_boot is there twice"},
		{"a claim that is no JSON", ours(modelClaims, m{0: "secure_boot", 1: m{keyClaim: "{"}}), baseline.ImportMalformed, "/claims/secure_boot"},
		{"files that are no JSON", ours(modelIMA, m{1: m{keyIMA: "{"}}), baseline.ImportMalformed, "mval/ima: not a list of files"},
		{"files with unknown fields", ours(modelIMA, m{1: m{keyIMA: `{"alow":[]}`}}), baseline.ImportMalformed, "mval/ima: not a list of files"},
		{"files twice", ours(modelIMA, m{1: m{keyIMA: "{}"}}, m{1: m{keyIMA: "{}"}}), baseline.ImportMalformed, "the list of files is there twice"},
		{"no files", ours(modelIMA, m{1: m{11: "x"}}), baseline.ImportMalformed, "the list of files has a JSON text"},
		{"a register without values and index", ours(modelTPM, m{1: m{keyEmpty: l{l{"sha1"}}}}), baseline.ImportMalformed, "registers-without-values/0: a bank and an index are needed"},
		{"a register without values of no bank", ours(modelTPM, m{1: m{keyEmpty: l{l{"md5", 0}}}}), baseline.ImportMalformed, "registers-without-values/0: md5 0 is no register"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Import(test.document, trusting())
			importtest.WantError(t, err, test.kind, test.want)
		})
	}
	t.Run("no time", func(t *testing.T) {
		_, err := Import(corimOf(t, func(c m) { c[4] = m{1: tag(1, now.Unix())} }, good), nil)
		importtest.WantError(t, err, baseline.ImportUntrusted, "/rim-validity: the time to judge the validity at is not given")
		if got, err := Import(corimOf(t, nil, good), nil); err != nil || got.Signer != nil {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

func TestOuterTags(t *testing.T) {
	document := corimOf(t, nil, comidOf(class("x", "y"), m{1: m{14: m{0: l{l{1, hash(32, 1)}}}}}))
	for _, wrapped := range [][]byte{document, marshal(t, tag(tagCorim, cbor.RawMessage(document)))} {
		if _, err := Import(wrapped, trusting()); err != nil {
			t.Error(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := Sign(document, key, nil, SignerMeta{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	for _, wrapped := range [][]byte{signed, marshal(t, tag(tagSigned, cbor.RawMessage(signed))), marshal(t, tag(tagCorim, tag(tagSigned, cbor.RawMessage(signed))))} {
		got, err := Import(wrapped, trusting(key.Public()))
		if err != nil || got.Signer == nil || got.Signer.Subject != "test key" {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

func TestBombs(t *testing.T) {
	head := func(major byte, n uint32) []byte {
		return []byte{major<<5 | 26, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	}
	million := append(head(majorArray, 1000000), make([]byte, 1000000)...)
	var pairs bytes.Buffer
	pairs.Write(head(majorMap, 1000000))
	for i := range uint32(1000000) {
		pairs.Write(head(majorUnsigned, i))
		pairs.WriteByte(0)
	}
	full := bytes.Repeat(append(head(majorArray, 20000), make([]byte, 20000)...), 800)
	var events []any
	for i := range 20000 {
		events = append(events, m{0: fmt.Sprintf("event/%d", i), 1: m{keyRegister: 4, 2: l{l{1, hash(32, 2)}}}})
	}
	ours := func(c m) { c[3] = tag(tagURI, Profile) }
	for _, test := range []struct {
		name     string
		document []byte
		kind     string // "" is accepted
		want     string
	}{
		{"10^6 elements", million, baseline.ImportTooLarge, "exceeded max number of elements 32768"},
		{"10^6 keys", pairs.Bytes(), baseline.ImportTooLarge, "exceeded max number of key-value pairs 4096"},
		{"10^6 tags in a CoRIM", append([]byte{0xd9, 0x01, 0xf5, 0xa2, 0x00, 0x61, 'a', 0x01}, million...), baseline.ImportTooLarge, "exceeded max number of elements"},
		{"10^6 elements in a CoMID", corimOf(t, nil, million), baseline.ImportTooLarge, "/tags/0: cbor: exceeded max number of elements"},
		{"16 million elements in full arrays", corimOf(t, func(c m) { c[9] = cbor.RawMessage(append(head(majorArray, 800), full...)) }, comidOf(class("x", "y"), m{1: m{14: m{0: l{l{1, hash(32, 1)}}}}})), "", ""},
		{"deep arrays", bytes.Repeat([]byte{0x81}, 1000000), baseline.ImportTooLarge, "exceeded max nested level 24"},
		{"deep tags", bytes.Repeat([]byte{0xc1}, 1000000), baseline.ImportTooLarge, "exceeded max nested level 24"},
		{"deep arrays in a CoMID", corimOf(t, nil, bytes.Repeat([]byte{0x81}, 1000000)), baseline.ImportTooLarge, "/tags/0: cbor: exceeded max nested level"},
		{"a length that is not there", []byte{0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, baseline.ImportMalformed, ""},
		{"an array that is not there", []byte{0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, baseline.ImportTooLarge, "elements"},
		{"an array that is cut", head(majorArray, 20000), baseline.ImportMalformed, "EOF"},
		{"a map that is not there", []byte{0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, baseline.ImportTooLarge, "pairs"},
		{"17 MiB", make([]byte, 17<<20), baseline.ImportTooLarge, "17825792 bytes; at most 16777216"},
		{"a large header", marshal(t, tag(tagSign1, l{hash(1<<20, 0), m{}, []byte{1}, []byte{1}})), baseline.ImportTooLarge, "/protected: 1048581 bytes"},
		{"a large unprotected header", marshal(t, tag(tagSign1, l{[]byte{0xa0}, m{1: hash(1<<20, 0)}, []byte{1}, []byte{1}})), baseline.ImportTooLarge, "/unprotected: "},
		{"as many events as may be", corimOf(t, ours, comidOf(class(ourVendor, modelTPM), events...)), "", ""},
		{"more events, in two CoMIDs", corimOf(t, ours, comidOf(class(ourVendor, modelTPM), events...), comidOf(class(ourVendor, modelTPM), events[0])), baseline.ImportTooLarge, "more than 20000 events"},
		{"many values", corimOf(t, nil, comidOf(class("x", "y"), m{1: m{14: m{0: manyDigests(1, 32)}}})), baseline.ImportTooLarge, "more than 4096 register values"},
		{"many launch measurements", corimOf(t, nil, comidOf(class("AMD", "SEV-SNP"), m{1: m{2: manyDigests(7, 48)}})), baseline.ImportTooLarge, "more than 4096 launch measurements"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Import(test.document, trusting())
			runtime.ReadMemStats(&after)
			if test.kind != "" {
				importtest.WantError(t, err, test.kind, test.want)
			} else if err != nil {
				t.Fatal(err)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
				t.Errorf("%d bytes were allocated for a document of %d", used, len(test.document))
			}
		})
	}
}

func manyDigests(alg, size int) l {
	var out l
	for i := range 5000 {
		b := hash(size, 0)
		b[0], b[1] = byte(i), byte(i>>8)
		out = append(out, l{alg, b})
	}
	return out
}

// A document cannot fill an error.
func TestLongTexts(t *testing.T) {
	long := strings.Repeat("n", 100000)
	ours := func(c m) { c[3] = tag(tagURI, Profile) }
	for _, document := range [][]byte{
		corimOf(t, ours, comidOf(class(ourVendor, modelClaims), m{0: long, 1: m{keyClaim: "true"}})),
		corimOf(t, ours, comidOf(class(ourVendor, modelIMA), m{1: m{keyIMA: `{"exclude":["(` + long + `"]}`}})),
		corimOf(t, func(c m) { c[3] = tag(tagURI, long) }, comidOf(class("x", "y"), m{1: m{0: 1}})),
		corimOf(t, nil, comidOf(class(long, long), m{0: long, 1: m{2: l{l{long, []byte{1}}}}})),
	} {
		_, err := Import(document, trusting())
		if err == nil || len(err.Error()) > 1100 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
}
