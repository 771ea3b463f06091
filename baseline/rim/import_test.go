package rim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/importtest"
	"github.com/assay-verifier/assay/verifier/eventlog"
)

func TestAlgorithms(t *testing.T) {
	log := bootLog(t)
	document := unsigned(fileElement("boot.rimel", log))
	curves := map[string]*authority{}
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		curves[name] = newAuthority(key, nil)
	}
	const more, newer = "http://www.w3.org/2001/04/xmldsig-more#", "http://www.w3.org/2007/05/xmldsig-more#"
	for _, test := range []struct {
		authority *authority
		signing   signing
	}{
		{theAuthority(), signing{method: more + "rsa-sha256"}},
		{theAuthority(), signing{method: more + "rsa-sha384", digest: more + "sha384"}},
		{theAuthority(), signing{method: more + "rsa-sha512", digest: "http://www.w3.org/2001/04/xmlenc#sha512"}},
		{theAuthority(), signing{method: newer + "sha256-rsa-MGF1"}},
		{theAuthority(), signing{method: newer + "sha512-rsa-MGF1"}},
		{theAuthority(), signing{c14n: algorithmC14N11, transforms: []string{algorithmC14N11}}},
		{theAuthority(), signing{c14n: algorithmExclusive, transforms: []string{algorithmExclusive}}},
		{curves["P-256"], signing{method: more + "ecdsa-sha256"}},
		{curves["P-384"], signing{method: more + "ecdsa-sha384"}},
		{curves["P-521"], signing{method: more + "ecdsa-sha512"}},
	} {
		t.Run(fmt.Sprintf("%+v", test.signing), func(t *testing.T) {
			signed := test.authority.sign(t, document, test.signing)
			if _, err := Import(signed, map[string][]byte{"boot.rimel": log}, test.authority.trust()); err != nil {
				t.Fatal(err)
			}
			_, err := Import(bytes.Replace(signed, []byte("Vendor"), []byte("Wender"), 1), map[string][]byte{"boot.rimel": log}, test.authority.trust())
			importtest.WantError(t, err, baseline.ImportUntrusted, "the digest does not match")
			other := newAuthority(test.authority.key, nil)
			_, err = Import(signed, map[string][]byte{"boot.rimel": log}, other.trust())
			importtest.WantError(t, err, baseline.ImportUntrusted, "chains to no trust anchor")
			// A signature over other bytes: SignedInfo changed, the digest of the document still right.
			_, err = Import(bytes.Replace(signed, []byte("<SignedInfo>"), []byte(`<SignedInfo Id="x">`), 1), map[string][]byte{"boot.rimel": log}, test.authority.trust())
			importtest.WantError(t, err, baseline.ImportUntrusted, "SignatureValue: the signature is not that of the certificate")
		})
	}
}

// Another implementation signs, and is read.
func TestSignedByAnother(t *testing.T) {
	log := bootLog(t)
	authority := theAuthority()
	context, err := dsig.NewSigningContext(authority.key, [][]byte{authority.cert.Raw})
	if err != nil {
		t.Fatal(err)
	}
	for name, canonicalizer := range map[string]dsig.Canonicalizer{"exclusive": dsig.MakeC14N10ExclusiveCanonicalizerWithPrefixList(""), "1.1": dsig.MakeC14N11Canonicalizer()} {
		t.Run(name, func(t *testing.T) {
			document := etree.NewDocument()
			// The other implementation does not carry xml:lang into SignedInfo, as Canonical XML 1.1 asks for.
			if err := document.ReadFromString(strings.Replace(unsigned(fileElement("boot.rimel", log)), ` xml:lang="en"`, "", 1)); err != nil {
				t.Fatal(err)
			}
			context.Canonicalizer = canonicalizer
			signed, err := context.SignEnveloped(document.Root())
			if err != nil {
				t.Fatal(err)
			}
			document.SetRoot(signed)
			b, err := document.WriteToBytes()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Import(b, map[string][]byte{"boot.rimel": log}, authority.trust()); err != nil {
				t.Fatalf("%s\n%s", err, b)
			}
		})
	}
}

// The canonical form is that of another implementation, on what is hard in it. The specimens are left out: the other
// implementation sorts attributes by names where prefixes are declared in the same element, so it cannot verify them;
// their signatures say that ours is right.
func TestCanonicalAgainstAnother(t *testing.T) {
	documents := []string{
		`<a/>`,
		`<a b="1" a="2" xmlns:z="urn:a" xmlns:y="urn:b" z:c="3" y:c="4"/>`,
		`<a xmlns="urn:d"><b xmlns="urn:e"><c xmlns="urn:d"/></b></a>`,
		`<p:a xmlns:p="urn:1" xmlns:q="urn:2"><p:b xmlns:p="urn:1"><q:c xmlns:p="urn:3"><p:d/></q:c></p:b></p:a>`,
		"<a>1 &lt; 2 &amp;&amp; 3 &gt; 2 \"'\r\nline&#13;<![CDATA[<raw>&]]></a>",
		`<a b="&lt;&gt;&amp;&quot;'&#x20;"> <!-- gone --> text<!-- gone --></a>`,
		"\xef\xbb\xbf<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<a>\u00e4\u20ac\U0001F600</a>\n",
		unsigned(fileElement("x", nil)),
	}
	for _, test := range []struct {
		name  string
		ours  canonicalization
		other dsig.Canonicalizer
	}{
		{"1.0", c14n10, dsig.MakeC14N10RecCanonicalizer()},
		{"exclusive", canonicalization{exclusive: true}, dsig.MakeC14N10ExclusiveCanonicalizerWithPrefixList("")},
	} {
		for _, document := range documents {
			root, err := parse([]byte(document))
			if err != nil {
				t.Fatal(err)
			}
			other := etree.NewDocument()
			other.ReadSettings.PreserveCData = false
			if err := other.ReadFromString(strings.TrimPrefix(document, "\xef\xbb\xbf")); err != nil {
				t.Fatal(err)
			}
			want, err := test.other.Canonicalize(other.Root())
			if err != nil {
				t.Fatal(err)
			}
			if got := test.ours.write(root); !bytes.Equal(got, want) {
				t.Errorf("%s of %s\n got %s\nwant %s", test.name, document, got, want)
			}
		}
	}
}

// What the standards say of parts of a document, which the other implementation does not do.
func TestCanonicalPart(t *testing.T) {
	root, err := parse([]byte(`<a xmlns="urn:d" xmlns:p="urn:p" xmlns:q="urn:q" xml:lang="en" xml:id="i"><p:b q:x="1"><c xmlns=""/></p:b></a>`))
	if err != nil {
		t.Fatal(err)
	}
	method := func(text string) canonicalization {
		t.Helper()
		n, err := parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		c, ok := canonicalizationOf(n)
		if !ok {
			t.Fatalf("%s is not known", text)
		}
		return c
	}
	for text, want := range map[string]string{
		`<T Algorithm="` + algorithmC14N10 + `"/>`:    `<p:b xmlns="urn:d" xmlns:p="urn:p" xmlns:q="urn:q" xml:id="i" xml:lang="en" q:x="1"><c xmlns=""></c></p:b>`,
		`<T Algorithm="` + algorithmC14N11 + `"/>`:    `<p:b xmlns="urn:d" xmlns:p="urn:p" xmlns:q="urn:q" xml:lang="en" q:x="1"><c xmlns=""></c></p:b>`,
		`<T Algorithm="` + algorithmExclusive + `"/>`: `<p:b xmlns:p="urn:p" xmlns:q="urn:q" q:x="1"><c></c></p:b>`,
		`<T Algorithm="` + algorithmExclusive + `"><InclusiveNamespaces xmlns="` + algorithmExclusive + `" PrefixList="#default none"/></T>`: `<p:b xmlns="urn:d" xmlns:p="urn:p" xmlns:q="urn:q" q:x="1"><c xmlns=""></c></p:b>`,
	} {
		if got := string(method(text).write(root.elements()[0])); got != want {
			t.Errorf("%s:\n got %s\nwant %s", text, got, want)
		}
	}
}

func TestSupport(t *testing.T) {
	log := bootLog(t)
	second := importtest.Read(t, "../../verifier/eventlog/testdata/eventlogs/gce/arch-linux-workstation.bin")
	text := []byte("sha256:\n  0 : 0x" + strings.Repeat("AB", 32) + "\n  14: 0x" + strings.Repeat("0c", 32) + "\nsha1:\n  0 : 0x" + strings.Repeat("11", 20) + "\n")
	const place = "/SoftwareIdentity/Payload/Directory/File"
	for _, test := range []struct {
		name     string
		document string
		support  map[string][]byte
		kind     string // "" is accepted
		want     string // of the error, or of a note
		events   int
		pcrs     map[string]map[string][]string // nil is not compared
	}{
		{"by another name", fileElement("a.rimel", log), map[string][]byte{"b.bin": log}, "", "", 44, nil},
		{"missing", fileElement("a.rimel", log), nil, baseline.ImportMalformed, place + ": the support RIM a.rimel is not given", 0, nil},
		{"wrong", fileElement("a.rimel", log), map[string][]byte{"a.rimel": second}, baseline.ImportUntrusted, place + ": the support RIM a.rimel is not the one that was signed", 0, nil},
		{"one more", fileElement("a.rimel", log), map[string][]byte{"a.rimel": log, "b": second}, baseline.ImportUntrusted, "/SoftwareIdentity/Payload: the payload does not name the file b", 0, nil},
		{"another size", strings.Replace(fileElement("a.rimel", log), `size="7549"`, `size="7548"`, 1), map[string][]byte{"a.rimel": log}, baseline.ImportUntrusted, place + "/@size: the payload says 7548 bytes", 0, nil},
		{"no size", strings.Replace(fileElement("a.rimel", log), ` size="7549"`, ``, 1), map[string][]byte{"a.rimel": log}, "", "", 44, nil},
		{"bad size", strings.Replace(fileElement("a.rimel", log), `size="7549"`, `size="-1"`, 1), map[string][]byte{"a.rimel": log}, baseline.ImportMalformed, place + `/@size: "-1" is no size`, 0, nil},
		{"no name", strings.Replace(fileElement("a.rimel", log), `name="a.rimel"`, ``, 1), nil, baseline.ImportMalformed, place + ": the file has no name", 0, nil},
		{"no hash", `<File name="a.rimel"/>`, map[string][]byte{"a.rimel": log}, baseline.ImportUntrusted, place + ": the file a.rimel has no hash by SHA-256", 0, nil},
		{"only SHA-1", `<File name="a.rimel" xmlns:H="http://www.w3.org/2000/09/xmldsig#sha1" H:hash="da39a3ee5e6b4b0d3255bfef95601890afd80709"/>`, map[string][]byte{"a.rimel": nil}, baseline.ImportUntrusted, "has no hash by SHA-256", 0, nil},
		{"a short hash", `<File name="a.rimel" S:hash="aa"/>`, map[string][]byte{"a.rimel": log}, baseline.ImportMalformed, place + "/@S:hash: 64 hex digits are needed", 0, nil},
		{"no log", fileElement("a.rimel", []byte("no log at all, but some text of 40 bytes")), map[string][]byte{"a.rimel": []byte("no log at all, but some text of 40 bytes")}, baseline.ImportMalformed, place + ": a.rimel is no boot log", 0, nil},
		{"another base RIM", fileElement("a.swidtag", []byte("<?xml?>")), map[string][]byte{"a.swidtag": []byte("<?xml?>")}, baseline.ImportUnsupported, place + ": a.swidtag is XML", 0, nil},
		{"an empty log", fileElement("a.rimel", nil), map[string][]byte{"a.rimel": nil}, baseline.ImportNothingFound, "the support RIMs hold neither events nor PCR values", 0, nil},
		{"no file", ``, nil, baseline.ImportNothingFound, "the support RIMs hold neither", 0, nil},
		{"something else than a file", `<Process name="x"/>` + fileElement("a.rimel", log), map[string][]byte{"a.rimel": log}, "", "/SoftwareIdentity/Payload/Directory/Process: only files are support RIMs", 44, nil},
		{"two logs", fileElement("a.rimel", log) + fileElement("b.rimel", second), map[string][]byte{"a.rimel": log, "b.rimel": second}, "",
			place + "[2]: several logs share PCRs: their events count, their PCR values do not", 63, map[string]map[string][]string(nil)},
		{"PCR values as text", fileElement("a.rimpcr", text), map[string][]byte{"a.rimpcr": text}, "", "", 0,
			map[string]map[string][]string{"sha256": {"0": {strings.Repeat("ab", 32)}, "14": {strings.Repeat("0c", 32)}}, "sha1": {"0": {strings.Repeat("11", 20)}}}},
		{"PCR values of TPM2_PCR_Read", fileElement("a.RIMPCR", answers()), map[string][]byte{"a.RIMPCR": answers()}, "", "", 0,
			map[string]map[string][]string{"sha256": {"0": {strings.Repeat("aa", 32)}, "9": {strings.Repeat("bb", 32)}}, "sha1": {"1": {strings.Repeat("cc", 20)}}}},
		{"PCR values and a byte", fileElement("a.rimpcr", append(answers(), 0)), map[string][]byte{"a.rimpcr": append(answers(), 0)}, baseline.ImportUnsupported, place + ": a.rimpcr holds neither answers of TPM2_PCR_Read", 0, nil},
		{"PCR values twice", fileElement("a.rimpcr", append(answers(), answers()...)), map[string][]byte{"a.rimpcr": append(answers(), answers()...)}, baseline.ImportUnsupported, "a.rimpcr holds neither", 0, nil},
		{"PCR values of no bank", fileElement("a.rimpcr", []byte("  0 : 0xaa")), map[string][]byte{"a.rimpcr": []byte("  0 : 0xaa")}, baseline.ImportUnsupported, "a.rimpcr holds neither", 0, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Import(theAuthority().sign(t, unsigned(test.document), signing{}), test.support, theAuthority().trust())
			if test.kind != "" {
				importtest.WantError(t, err, test.kind, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Values.Events) != test.events || !strings.Contains(strings.Join(got.Notes, "\n"), test.want) {
				t.Errorf("%d events, notes %q", len(got.Values.Events), got.Notes)
			}
			if (test.pcrs != nil || strings.Contains(test.name, "logs")) && !reflect.DeepEqual(got.Values.PCRs, test.pcrs) {
				t.Errorf("PCRs: %v", got.Values.PCRs)
			}
		})
	}
	t.Run("too much", func(t *testing.T) {
		_, err := Import(theAuthority().sign(t, unsigned(fileElement("a", nil)), signing{}), map[string][]byte{"a": make([]byte, maxSupport+1)}, theAuthority().trust())
		importtest.WantError(t, err, baseline.ImportTooLarge, "more than 16777216 bytes in all")
	})
	t.Run("too many events", func(t *testing.T) {
		long := legacyLog(0, maxEvents+1)
		_, err := Import(theAuthority().sign(t, unsigned(fileElement("a", long)), signing{}), map[string][]byte{"a": long}, theAuthority().trust())
		importtest.WantError(t, err, baseline.ImportTooLarge, place+": a has 20001 events; at most 20000 are read")
		one, two := legacyLog(0, 15000), legacyLog(15000, 15000)
		_, err = Import(theAuthority().sign(t, unsigned(fileElement("a", one)+fileElement("b", two)), signing{}), map[string][]byte{"a": one, "b": two}, theAuthority().trust())
		importtest.WantError(t, err, baseline.ImportTooLarge, place+"[2]: more than 20000 events")
	})
	t.Run("too many", func(t *testing.T) {
		many := map[string][]byte{}
		for i := range maxFiles + 1 {
			many[fmt.Sprint(i)] = nil
		}
		_, err := Import(theAuthority().sign(t, unsigned(fileElement("a", nil)), signing{}), many, theAuthority().trust())
		importtest.WantError(t, err, baseline.ImportTooLarge, "more than 256 support RIMs")
	})
}

// legacyLog is a log of TCG 1.2 with events of PCR 4, each of another digest.
func legacyLog(first, count int) []byte {
	var b []byte
	for i := range count {
		b = binary.LittleEndian.AppendUint32(b, 4)
		b = binary.LittleEndian.AppendUint32(b, 13) // EV_IPL
		b = binary.LittleEndian.AppendUint64(append(b, make([]byte, 12)...), uint64(first+i))
		b = binary.LittleEndian.AppendUint32(b, 0)
	}
	return b
}

// answers are two answers of TPM2_PCR_Read: PCR 0 and 9 of SHA-256, then PCR 1 of SHA-1.
func answers() []byte {
	var b []byte
	b = binary.BigEndian.AppendUint32(b, 1)
	b = append(b, 0x00, 0x0b, 3, 0x01, 0x02, 0x00)
	b = binary.BigEndian.AppendUint32(b, 2)
	for _, fill := range []byte{0xaa, 0xbb} {
		b = append(binary.BigEndian.AppendUint16(b, 32), bytes.Repeat([]byte{fill}, 32)...)
	}
	b = binary.BigEndian.AppendUint32(b, 1)
	b = append(b, 0x00, 0x04, 3, 0x02, 0x00, 0x00)
	b = binary.BigEndian.AppendUint32(b, 1)
	return append(binary.BigEndian.AppendUint16(b, 20), bytes.Repeat([]byte{0xcc}, 20)...)
}

func TestKindsOfTag(t *testing.T) {
	log := bootLog(t)
	support := map[string][]byte{"a.rimel": log}
	document := unsigned(fileElement("a.rimel", log))
	root := func(attributes string) string {
		return strings.Replace(document, ` name="Test"`, ` name="Test" `+attributes, 1)
	}
	for _, test := range []struct {
		name, document, kind, want string
		values                     bool
	}{
		{"primary", root(`patch="false" supplemental="false" corpus="false"`), "", "", true},
		{"patch", root(`patch="true"`), "", "/SoftwareIdentity/@patch: a patch tag adds to another RIM", false},
		{"supplemental", root(`supplemental="true"`), "", "/SoftwareIdentity/@supplemental: a supplemental tag adds to another RIM", false},
		{"corpus", root(`corpus="true"`), baseline.ImportUnsupported, "/SoftwareIdentity/@corpus", false},
		{"another binding", strings.Replace(document, "PC Client RIM", "IoT RIM", 1), baseline.ImportUnsupported, `/SoftwareIdentity/Meta/@bindingSpec: "IoT RIM"`, false},
		{"another namespace", strings.Replace(document, "19770/-2/2015", "19770/-2/2009", 1), baseline.ImportUnsupported, "a SoftwareIdentity of ISO/IEC 19770-2:2015 is needed", false},
		{"no payload", strings.NewReplacer("<Payload>", "<Evidence>", "</Payload>", "</Evidence>").Replace(document), baseline.ImportMalformed, "/SoftwareIdentity: 0 Payload elements", false},
		{"two payloads", strings.Replace(document, "<Payload>", "<Payload/><Payload>", 1), baseline.ImportMalformed, "2 Payload elements", false},
		{"evidence besides", strings.Replace(document, "<Payload>", "<Evidence/><Payload>", 1), "", "/SoftwareIdentity/Evidence: not an element", true},
		{"much text", strings.Replace(document, `rim:bindingSpec`, `rim:other="`+strings.Repeat("ä", 1000)+`" rim:bindingSpec`, 1), "", "", true},
		{"much of it", strings.Replace(document, `<Payload>`, strings.Repeat(`<Evidence/>`, 1000)+`<Payload>`, 1), "", "and 950 more elements", true},
		{"many facts", strings.Replace(document, `<Payload>`, manyLinks()+`<Payload>`, 1), baseline.ImportTooLarge, "more than 64", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Import(theAuthority().sign(t, test.document, signing{}), support, theAuthority().trust())
			if test.kind != "" {
				importtest.WantError(t, err, test.kind, test.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Values.Events) != 44 || (len(got.Values.PCRs) > 0) != test.values || !strings.Contains(strings.Join(got.Notes, "\n"), test.want) {
				t.Errorf("%d events, PCRs %v, notes %q", len(got.Values.Events), got.Values.PCRs, got.Notes)
			}
			if len(got.Notes) > maxNotes+1 || len(got.Provenance["other"]) > maxProvenance+len("…") {
				t.Errorf("%d notes, %d bytes of a fact", len(got.Notes), len(got.Provenance["other"]))
			}
		})
	}
}

func manyLinks() string {
	var b strings.Builder
	for i := range 100 {
		fmt.Fprintf(&b, `<Link rel="r%d" href="x"/>`, i)
	}
	return b.String()
}

// A log of Windows gives no values of the PCRs that differ at every boot, and one without a bank that is computed none.
func TestOfLog(t *testing.T) {
	log, err := eventlog.Parse(importtest.Read(t, "../../verifier/eventlog/testdata/eventlogs/baremetal/guard-set-t480s-win10/eventlog.bin"))
	if err != nil {
		t.Fatal(err)
	}
	values := baseline.OfLog(log)
	if len(values.Events) == 0 || len(values.PCRs["sha256"]) == 0 {
		t.Fatalf("%d events, PCRs %v", len(values.Events), values.PCRs)
	}
	for bank, pcrs := range values.PCRs {
		for _, volatile := range []string{"11", "12", "13"} {
			if pcrs[volatile] != nil {
				t.Errorf("PCR %s of %s is not left out", volatile, bank)
			}
		}
	}
	for _, e := range values.Events {
		if e.PCR >= 11 && e.PCR <= 13 {
			t.Errorf("%+v is not left out", e)
		}
	}
}

// Of several logs in one buffer, values and events are those of the last.
func TestOfLogsInOneBuffer(t *testing.T) {
	second := importtest.Read(t, "../../verifier/eventlog/testdata/eventlogs/gce/arch-linux-workstation.bin")
	log, err := eventlog.Parse(append(bytes.Clone(bootLog(t)), second...))
	if err != nil {
		t.Fatal(err)
	}
	all, last := log.Events(), log.LastEvents()
	if len(last) == 0 || len(last) >= len(all) || !reflect.DeepEqual(last, all[len(all)-len(last):]) {
		t.Fatalf("%d events, %d in the last log", len(all), len(last))
	}
	known := map[string]bool{}
	for i := range last {
		for _, d := range last[i].Digests {
			known[fmt.Sprintf("%x", d.Bytes)] = true
		}
	}
	for _, e := range baseline.OfLog(log).Events {
		for bank, digests := range e.Digests {
			if !known[digests[0]] {
				t.Errorf("%+v (%s) is of an earlier log", e, bank)
			}
		}
	}
}

func FuzzRIM(f *testing.F) {
	log := bootLog(f)
	for _, name := range []string{"generated_user_cert_embed.swidtag", "generated_timestamp_rfc3339.swidtag", "laptop.default.1.swidtag", "laptop_badOemInstall_oem.1.swidtag"} {
		f.Add(specimen(f, name), log)
	}
	f.Add(theAuthority().sign(f, unsigned(fileElement("a.rimel", log)), signing{c14n: algorithmExclusive, transforms: []string{algorithmExclusive}}), log)
	f.Add(theAuthority().sign(f, unsigned(fileElement("a.rimpcr", answers())), signing{}), answers())
	f.Add([]byte(`<a xmlns="u" xmlns:p="v"><p:b p:c="&#13;"/></a>`), []byte(nil))
	trust := theAuthority().trust()
	trust.Roots = append(trust.Roots, hirs(f).Roots...)
	f.Fuzz(func(t *testing.T, document, support []byte) {
		for _, name := range []string{"a.rimel", "a.rimpcr"} {
			got, err := Import(document, map[string][]byte{name: support}, trust)
			if (got == nil) == (err == nil) {
				t.Fatalf("%v, %v", got, err)
			}
			if got != nil && got.Signer == nil {
				t.Fatal("accepted without a signer")
			}
		}
		// The canonical form is itself a document, of the same canonical form.
		root, err := parse(document)
		if err != nil {
			return
		}
		for _, c := range []canonicalization{c14n10, {exclusive: true}} {
			once := c.write(root)
			again, err := parse(once)
			if err != nil {
				t.Fatalf("%s\n%q", err, once)
			}
			if twice := c.write(again); !bytes.Equal(once, twice) {
				t.Fatalf("%q\n%q", once, twice)
			}
		}
		readText(string(support), map[string]map[string][]string{})
		readSelections(support, map[string]map[string][]string{})
	})
}
