package tee

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

// bigCRL is an Intel root's with many entries.
func bigCRL(t testing.TB, i *teetest.Intel, entries int) []byte {
	t.Helper()
	list := make([]x509.RevocationListEntry, entries)
	for n := range list {
		list[n] = x509.RevocationListEntry{SerialNumber: big.NewInt(int64(n % 100)), RevocationTime: teetest.CollateralFrom}
	}
	b, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: teetest.CollateralFrom, NextUpdate: teetest.CRLUntil,
		RevokedCertificateEntries: list}, i.Root, i.RootKey)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sameAsX509 compares with crypto/x509, the oracle.
func sameAsX509(t *testing.T, der []byte) {
	t.Helper()
	want, wantErr := x509.ParseRevocationList(der)
	got, err := parseCRL(der)
	if err != nil {
		return // what is refused revokes nothing, and is not held
	}
	if wantErr != nil {
		return // the extensions of an entry, which are passed over here: the entry counts
	}
	if !bytes.Equal(got.RawTBSRevocationList, want.RawTBSRevocationList) || !bytes.Equal(got.Signature, want.Signature) || !bytes.Equal(got.RawIssuer, want.RawIssuer) ||
		!got.ThisUpdate.Equal(want.ThisUpdate) || !got.NextUpdate.Equal(want.NextUpdate) || got.SignatureAlgorithm != want.SignatureAlgorithm {
		t.Fatal("another CRL than x509 reads")
	}
	var revoked []string
	for _, e := range want.RevokedCertificateEntries {
		if e.SerialNumber.Sign() >= 0 {
			revoked = append(revoked, string(e.SerialNumber.Bytes()))
		}
	}
	var read []string
	_ = got.each(func(serial []byte, _ time.Time) bool { read = append(read, string(serial)); return true })
	if !slices.Equal(read, revoked) {
		t.Fatalf("revoked are %x, not %x", revoked, read)
	}
}

func TestACRLIsReadAsX509ReadsIt(t *testing.T) {
	amd, intel := teetest.NewAMD(t, teetest.Milan), teetest.NewIntel(t)
	real := collateral2023(t)
	for _, der := range [][]byte{real[2].Body, real[3].Body, bigCRL(t, intel, 20), amd.CRL(teetest.CollateralFrom, teetest.CRLUntil),
		amd.CRL(teetest.CollateralFrom, teetest.CRLUntil, amd.ASK, amd.ASVK)} {
		if _, err := parseCRL(der); err != nil {
			t.Fatal(err)
		}
		sameAsX509(t, der)
		for at := range der {
			altered := bytes.Clone(der)
			for _, with := range []byte{1, 0x80, 0xff} {
				altered[at] = der[at] ^ with
				sameAsX509(t, altered)
			}
			if at < 600 {
				sameAsX509(t, der[:at])
			}
		}
	}
	c, err := parseCRL(amd.CRL(teetest.CollateralFrom, teetest.CRLUntil, amd.ASK, amd.ASVK))
	if err != nil {
		t.Fatal(err)
	}
	if at, found := c.revoked(amd.ASVK); !found || !at.Equal(teetest.CollateralFrom) {
		t.Error(at, found)
	}
	if _, found := c.revoked(amd.ARK); found {
		t.Error("the root")
	}
}

// entry is one of revokedCertificates.
func entry(t *testing.T, parts ...any) []byte {
	t.Helper()
	var content []byte
	for _, p := range parts {
		if b, ok := p.([]byte); ok {
			content = append(content, b...)
			continue
		}
		b, err := asn1.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		content = append(content, b...)
	}
	b, err := asn1.Marshal(asn1.RawValue{Tag: asn1.TagSequence, IsCompound: true, Bytes: content})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestElementsOfDER(t *testing.T) {
	long := func(head []byte, size int) []byte { return append(head, make([]byte, size)...) }
	for name, c := range map[string]struct {
		b             []byte
		content, rest int
		ok            bool
	}{
		"empty":                     {[]byte{5, 0}, 0, 0, true},
		"with a rest":               {[]byte{4, 1, 9, 7}, 1, 1, true},
		"of 127 bytes":              {long([]byte{4, 0x7f}, 127), 127, 0, true},
		"of 128 bytes":              {long([]byte{4, 0x81, 0x80}, 128), 128, 0, true},
		"of 70000 bytes":            {long([]byte{4, 0x83, 0x01, 0x11, 0x70}, 70_001), 70_000, 1, true},
		"a tag alone":               {[]byte{4}, 0, 0, false},
		"nothing":                   {nil, 0, 0, false},
		"cut":                       {[]byte{4, 2, 9}, 0, 0, false},
		"a length without its end":  {[]byte{4, 0x82, 1}, 0, 0, false},
		"a long form of less":       {[]byte{4, 0x81, 1, 9}, 0, 0, false},
		"a long form with a zero":   {long([]byte{4, 0x82, 0, 0x80}, 128), 0, 0, false},
		"an endless one":            {[]byte{4, 0x80}, 0, 0, false},
		"a length that overflows":   {long([]byte{4, 0x89, 1, 0, 0, 0, 0, 0, 0, 0, 0x80}, 128), 0, 0, false},
		"a tag of more than a byte": {[]byte{0x3f, 0}, 0, 0, false},
	} {
		tag, content, rest := element(c.b)
		if (tag != 0) != c.ok || len(content) != c.content || len(rest) != c.rest || tag != 0 && tag != c.b[0] {
			t.Errorf("%s: tag %d, %d and %d bytes", name, tag, len(content), len(rest))
		}
	}
}

// The parts of a CRL stand in their order, and nothing stands beside them.
func TestPartsOfACRL(t *testing.T) {
	good := teetest.NewAMD(t, teetest.Milan).CRL(teetest.CollateralFrom, teetest.CRLUntil, teetest.NewAMD(t, teetest.Milan).ASK)
	_, list, _ := element(good)
	_, body, after := element(list)
	var parts [][]byte
	for rest := body; len(rest) > 0; {
		_, _, next := element(rest)
		parts = append(parts, rest[:len(rest)-len(next)])
		rest = next
	}
	if len(parts) != 7 {
		t.Fatalf("%d parts", len(parts))
	}
	with := func(p ...[]byte) []byte { return sequence(sequence(p...), after) }
	for name, c := range map[string]struct {
		der []byte
		ok  bool
	}{
		"whole":                      {good, true},
		"made again":                 {with(parts...), true},
		"no entries":                 {with(slices.Delete(slices.Clone(parts), 5, 6)...), true},
		"no nextUpdate":              {with(slices.Delete(slices.Clone(parts), 4, 5)...), true},
		"a tail":                     {append(bytes.Clone(good), 0), false},
		"another tag":                {append([]byte{0x31}, good[1:]...), false},
		"a part more":                {with(append(slices.Clone(parts), []byte{5, 0})...), false},
		"extensions twice":           {with(append(slices.Clone(parts), parts[6])...), false},
		"entries twice":              {with(append(slices.Clone(parts[:6]), parts[5], parts[6])...), false},
		"entries of another tag":     {with(append(slices.Clone(parts[:5]), append([]byte{0x31}, parts[5][1:]...), parts[6])...), false},
		"no issuer":                  {with(slices.Delete(slices.Clone(parts), 2, 3)...), false},
		"no version":                 {with(parts[1:]...), false},
		"half a part":                {with(append(slices.Clone(parts[:6]), []byte{0xa0})...), false},
		"nothing":                    {with(), false},
		"an entry that is none":      {with(append(slices.Clone(parts[:5]), sequence([]byte{5, 0}), parts[6])...), false},
		"no algorithm, no signature": {sequence(sequence(parts...)), false},
	} {
		list, err := parseCRL(c.der)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if c.ok && !bytes.Equal(list.Raw, c.der) {
			t.Errorf("%s: what was parsed is another", name)
		}
	}
}

func TestEntriesOfACRL(t *testing.T) {
	when := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	generalized := []byte("\x18\x0f20510102030405Z")
	lastCentury := []byte("\x17\x0d510102030405Z")
	reason := []byte{0x30, 0x02, 0x05, 0x00}
	for name, c := range map[string]struct {
		b  []byte
		ok bool
		at time.Time
	}{
		"ordinary":            {entry(t, 7, when), true, when},
		"with a reason":       {entry(t, 7, when, reason), true, when},
		"in 2049":             {entry(t, 7, []byte("\x17\x0d490102030405Z")), true, when.AddDate(23, 0, 0)},
		"in 1950":             {entry(t, 7, []byte("\x17\x0d500102030405Z")), true, when.AddDate(-76, 0, 0)},
		"in 2051":             {entry(t, 7, generalized), true, when.AddDate(25, 0, 0)},
		"in 1951":             {entry(t, 7, lastCentury), true, when.AddDate(-75, 0, 0)},
		"a leading zero":      {entry(t, []byte{2, 2, 0, 7}, when), true, when},
		"no time":             {entry(t, 7), false, when},
		"no serial":           {entry(t, when), false, when},
		"an empty serial":     {entry(t, []byte{2, 0}, when), false, when},
		"a time of words":     {entry(t, 7, []byte("\x17\x0dnever, really")), false, when},
		"a time of another":   {entry(t, 7, "text"), false, when},
		"a tail":              {entry(t, 7, when, reason, []byte{5, 0}), false, when},
		"another tail":        {entry(t, 7, when, []byte{5, 0}), false, when},
		"no sequence":         {[]byte{5, 0}, false, when},
		"cut":                 {entry(t, 7, when)[:10], false, when},
		"half an element":     {[]byte{0x30}, false, when},
		"a long form of less": {[]byte{0x30, 0x81, 0x02, 0x02, 0x00}, false, when},
		"an endless length":   {[]byte{0x30, 0x80, 0, 0}, false, when},
		"a length of 5 bytes": {[]byte{0x30, 0x85, 1, 0, 0, 0, 0}, false, when},
		"a length with zeros": {append([]byte{0x30, 0x82, 0, 0x80}, make([]byte, 128)...), false, when},
		"a length cut":        {[]byte{0x30, 0x82, 1}, false, when},
		"a tag of many bytes": {[]byte{0x3f, 0x00}, false, when},
	} {
		list := &crl{entries: c.b}
		err := list.each(func([]byte, time.Time) bool { return true })
		at, found := list.revoked(&x509.Certificate{SerialNumber: big.NewInt(7)})
		if (err == nil) != c.ok || found != c.ok || found && !at.Equal(c.at) {
			t.Errorf("%s: %v, found %v at %s", name, err, found, at)
		}
	}
	negative := &crl{entries: entry(t, -7, when)}
	if _, found := negative.revoked(&x509.Certificate{SerialNumber: big.NewInt(0xf9)}); found {
		t.Error("-7 is not 249")
	}
	several := &crl{entries: append(entry(t, 7, when), append(entry(t, 8, when.AddDate(0, 0, 1)), entry(t, 9, when.AddDate(0, 0, 2))...)...)}
	if at, found := several.revoked(&x509.Certificate{SerialNumber: big.NewInt(8)}); !found || !at.Equal(when.AddDate(0, 0, 1)) {
		t.Errorf("the second of three: %v at %s", found, at)
	}
	first := &crl{entries: append(entry(t, 0x80, when), entry(t, 0x7f, when)...)}
	if _, found := first.revoked(&x509.Certificate{SerialNumber: big.NewInt(0x80)}); !found {
		t.Error("128")
	}
	zero := &crl{entries: append(entry(t, 7, when), entry(t, 0, when)...)} // AMD's VCEKs have the serial number 0
	if _, found := zero.revoked(&x509.Certificate{SerialNumber: big.NewInt(0)}); !found {
		t.Error("0 is 0")
	}
}

func TestALongCRLCostsLittleMemory(t *testing.T) {
	intel := teetest.NewIntel(t)
	b := bigCRL(t, intel, 50_000)
	trust := under(intel)
	var c Collateral
	if n := allocated(func() { c, _ = ParseCollateral(KindRootCRL, b, nil) }); n > 8*uint64(len(b)) {
		t.Errorf("parsing %d bytes takes %d", len(b), n)
	}
	if n := allocated(func() {
		if err := trust.CheckCollateral(c, teetest.Now); err != nil {
			t.Error(err)
		}
	}); n > 8*uint64(len(b)) {
		t.Errorf("checking %d bytes takes %d", len(b), n)
	}
	if _, err := ParseCollateral(KindRootCRL, []byte("30xy"), nil); err == nil || !strings.Contains(err.Error(), "neither DER nor hex") {
		t.Error(err)
	}
}
