package tee

import (
	"bytes"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/tee/teetest"
)

// azureOf is HCL evidence of the AMD's chip.
func azureOf(t testing.TB, a *teetest.AMD, vm map[string]any, o teetest.HCL) *Evidence {
	return &Evidence{Type: TypeAzureHCL, HCLReport: a.HCL(&teetest.RSAKey(t, "ak").PublicKey, vm, o), Certificates: [][]byte{a.VCEK(a.ChipID, a.TCB)}}
}

func TestEveryHCLVersionAndHashIsRead(t *testing.T) {
	amd := teetest.NewAMD(t, teetest.Milan)
	for _, version := range []uint32{1, 2} {
		for _, hash := range []uint32{1, 2, 3} {
			r := Verify(azureOf(t, amd, nil, teetest.HCL{Version: version, HashType: hash}), &Trust{SNP: amd.Anchors()}, teetest.Now)
			if !passes(t, r).Paravisor() || r.Binding(akKey(t), nil) != BoundRuntime {
				t.Errorf("version %d, hash type %d", version, hash)
			}
		}
	}
}

func TestAnHCLReportThatDoesNotFitTogetherIsNotRead(t *testing.T) {
	amd := teetest.NewAMD(t, teetest.Milan)
	good := azureOf(t, amd, nil, teetest.HCL{})
	set := func(at int, value uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint32(b[at:], value); return b }
	}
	size := binary.LittleEndian.Uint32(good.HCLReport[hclRuntimeStart+16:])
	for name, c := range map[string]struct {
		edit   func([]byte) []byte
		reason string
	}{
		"signature":           {set(0, 0), "at byte 0: not an HCL report"},
		"header version 0":    {set(4, 0), "unsupported: HCL header version 0"},
		"header version 3":    {set(4, 3), "unsupported: HCL header version 3"},
		"size of the report":  {set(8, 1), "at byte 8: the HCL report states 1 bytes"},
		"request type":        {set(12, 1), "unsupported: HCL request type 1"},
		"status":              {set(16, 5), "at byte 16: the HCL report has the status 5"},
		"reserved":            {set(28, 1), "at byte 20: reserved bytes"},
		"size of the data":    {set(hclRuntimeStart, size), fmt.Sprintf("at byte 1216: the runtime data states %d bytes, and holds %d", size, size+20)},
		"version of the data": {set(hclRuntimeStart+4, 2), "unsupported: runtime data version 2"},
		"report type 1":       {set(hclRuntimeStart+8, 1), "unsupported: HCL report type 1"},
		"report type 3":       {set(hclRuntimeStart+8, 3), "unsupported: HCL report type 3"},
		"hash type 0":         {set(hclRuntimeStart+12, 0), "unsupported: runtime data with hash type 0"},
		"hash type 4":         {set(hclRuntimeStart+12, 4), "unsupported: runtime data with hash type 4"},
		"another hash":        {set(hclRuntimeStart+12, 2), "not what the report's report_data covers"},
		"size of the JSON":    {set(hclRuntimeStart+16, 1<<31), "at byte 1232: runtime data of 2147483648 bytes, but only"},
		"all of the size":     {set(hclRuntimeStart+16, 0xffffffff), "at byte 1232: runtime data of 4294967295 bytes"},
		"short":               {func(b []byte) []byte { return b[:hclRuntimeStart+19] }, "an HCL report of 1235 bytes"},
		"no runtime data":     {func(b []byte) []byte { return b[:hclRuntimeStart+20] }, "but only 0 are there"},
		"long":                {func(b []byte) []byte { return append(b, make([]byte, maxHCL)...) }, "bytes; 1236 to 16384 are possible"},
		"cut":                 {func(b []byte) []byte { return b[:hclRuntimeStart+20+int(size)-1] }, "but only"},
	} {
		e := *good
		e.HCLReport = c.edit(bytes.Clone(good.HCLReport))
		r := Verify(&e, &Trust{SNP: amd.Anchors()}, teetest.Now)
		said(t, r, StepReport, c.reason)
		if r.Unsupported != strings.HasPrefix(c.reason, "unsupported") {
			t.Errorf("%s: unsupported %v", name, r.Unsupported)
		}
	}
	exact := *good
	exact.HCLReport = good.HCLReport[:hclRuntimeStart+20+int(size)]
	passes(t, Verify(&exact, &Trust{SNP: amd.Anchors()}, teetest.Now))
	full := *good
	full.HCLReport = append(bytes.Clone(good.HCLReport), make([]byte, maxHCL-len(good.HCLReport))...)
	passes(t, Verify(&full, &Trust{SNP: amd.Anchors()}, teetest.Now))
}

// runtimeOf is runtime data with an AK and more.
func runtimeOf(t testing.TB, members string) []byte {
	b, err := json.Marshal(teetest.JWK("HCLAkPub", &teetest.RSAKey(t, "ak").PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	if members == "AK" {
		return b
	}
	// Where a key can stand, and nowhere else: one modulus in twelve has these two letters in its base64.
	return []byte(strings.NewReplacer("[AK", "["+string(b), ",AK", ","+string(b)).Replace(members))
}

func TestRuntimeDataThatIsNotAParavisors(t *testing.T) {
	good := &teetest.RSAKey(t, "ak").PublicKey
	u := base64.RawURLEncoding.EncodeToString
	jwk := func(edit func(map[string]any)) string {
		k := teetest.JWK("HCLAkPub", good)
		edit(k)
		b, _ := json.Marshal(k)
		return `{"keys":[` + string(b) + `]}`
	}
	n := func(n *big.Int) string {
		return jwk(func(k map[string]any) { k["n"] = u(n.Bytes()) })
	}
	odd := func(bits uint) *big.Int {
		return new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), bits-1), big.NewInt(1))
	}
	e := func(b ...byte) string { return jwk(func(k map[string]any) { k["e"] = u(b) }) }
	many := `{"keys":[AK` + strings.Repeat(`,{"kid":"x"}`, maxRuntimeKeys) + `]}`
	for name, c := range map[string]struct{ runtime, reason string }{
		"no JSON":               {`no`, "not the JSON of a paravisor"},
		"two values":            {`{"keys":[AK]}{}`, "not the JSON of a paravisor"},
		"no object":             {`[]`, "not the JSON of a paravisor"},
		"keys are no array":     {`{"keys":{}}`, "keys is no array"},
		"a key is no object":    {`{"keys":[1]}`, "unmarshal JSON number into"},
		"keys that do not end":  {`{"keys":[AK`, "not the JSON of a paravisor"},
		"a name twice":          {`{"keys":[AK],"keys":[AK]}`, "duplicate"},
		"a name twice, inside":  {`{"keys":[AK],"vm-configuration":{"secure-boot":true,"secure-boot":false}}`, "duplicate"},
		"a name twice, unknown": {`{"keys":[AK],"x":1,"x":2}`, "duplicate"},
		"no keys":               {`{}`, "holds no HCLAkPub"},
		"another key":           {strings.ReplaceAll(jwk(func(map[string]any) {}), "HCLAkPub", "HCLEkPub"), "holds no HCLAkPub"},
		"AK twice":              {`{"keys":[AK,AK]}`, "holds key HCLAkPub twice"},
		"EK twice":              {strings.ReplaceAll(`{"keys":[AK,EK,EK]}`, "EK", string(bytes.ReplaceAll(runtimeOf(t, "AK"), []byte("HCLAkPub"), []byte("HCLEkPub")))), "holds key HCLEkPub twice"},
		"too many keys":         {many, "more than 16 keys"},
		"no RSA":                {jwk(func(k map[string]any) { k["kty"] = "EC" }), "it is no RSA key in JWK form"},
		"modulus no base64":     {jwk(func(k map[string]any) { k["n"] = "!" }), "it is no RSA key in JWK form"},
		"no modulus":            {jwk(func(k map[string]any) { delete(k, "n") }), "a modulus of 0 bits"},
		"2047 bits":             {n(odd(2047)), "a modulus of 2047 bits"},
		"4097 bits":             {n(odd(4097)), "a modulus of 4097 bits"},
		"even modulus":          {n(new(big.Int).Lsh(big.NewInt(1), 2047)), "odd, are accepted"},
		"exponent 1":            {e(1), "its exponent 1 is not odd and at least 3"},
		"exponent even":         {e(1, 0), "its exponent 256 is not odd"},
		"exponent of 5 bytes":   {e(1, 0, 0, 0, 1), "its exponent cannot be read"},
		"no exponent":           {e(), "its exponent cannot be read"},
		"modulus of 2049 bits":  {n(odd(2049)), "key HCLAkPub: an RSA key of 2049 bits is not supported"},
		"exponent of 32 bits":   {e(0xff, 0xff, 0xff, 0xff), "key HCLAkPub: 4294967295 is no RSA exponent"},
		"exponent goes on":      {jwk(func(k map[string]any) { k["e"] = "AQAB!" }), "its exponent cannot be read"},
		"exponent no base64":    {jwk(func(k map[string]any) { k["e"] = "!" }), "its exponent cannot be read"},
		"user-data no hex":      {`{"keys":[AK],"user-data":"xy"}`, "user-data is not up to 64 bytes in hex"},
		"user-data of 65 bytes": {`{"keys":[AK],"user-data":"` + strings.Repeat("00", 65) + `"}`, "user-data is not up to 64 bytes in hex"},
		"secure boot a word":    {`{"keys":[AK],"vm-configuration":{"secure-boot":"true"}}`, "not the JSON of a paravisor"},
	} {
		if _, err := parseRuntime(runtimeOf(t, c.runtime), 1); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v, want %q", name, err, c.reason)
		}
	}
}

func TestRuntimeDataSaysWhatItSays(t *testing.T) {
	read := func(s string) *runtimeData {
		t.Helper()
		r, err := parseRuntime(runtimeOf(t, s), 1)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := read(`{"keys":[AK` + strings.Repeat(`,{"kid":"x"}`, maxRuntimeKeys-1) + `]}`); r.vm != (VMConfiguration{}) || r.userData != nil || r.ek != nil {
		t.Errorf("%+v", r)
	}
	r := read(`{"keys":[AK,` + string(bytes.ReplaceAll(runtimeOf(t, "AK"), []byte("HCLAkPub"), []byte("HCLEkPub"))) + `],"vm-configuration":{"secure-boot":false,"tpm-enabled":true,"console-enabled":true,"tpm-persisted":false,"vmUniqueId":"ABC-1"},"user-data":"00ff"}`)
	if r.ek == nil || *r.vm.SecureBoot || !*r.vm.TPMEnabled || !*r.vm.ConsoleEnabled || *r.vm.TPMPersisted || r.vm.VMID != "abc-1" || !bytes.Equal(r.userData, []byte{0, 255}) {
		t.Errorf("%+v", r)
	}
	for _, id := range []string{strings.Repeat("a", 65), "a b", "ä", `a\u0007`, "a\u007f"} {
		if r := read(`{"keys":[AK],"vm-configuration":{"vmUniqueId":"` + id + `"}}`); r.vm.VMID != "" {
			t.Errorf("%q is passed on as %q", id, r.vm.VMID)
		}
	}
	if r := read(`{"keys":[AK],"vm-configuration":{"vmUniqueId":"` + strings.Repeat("a", 62) + `!~"}}`); len(r.vm.VMID) != 64 {
		t.Errorf("%q", r.vm.VMID)
	}
	// 3 and the largest exponent of 4 bytes, 2048 and 4096 bits: RSA as TPMs have it.
	for _, bits := range []uint{2048, 4096} {
		for _, exponent := range []int{3, 65537, 1<<31 - 1} {
			n := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), bits-1), big.NewInt(1))
			b, _ := json.Marshal(map[string]any{"keys": []any{teetest.JWK("HCLAkPub", &rsa.PublicKey{N: n, E: exponent})}})
			if _, err := parseRuntime(b, 1); err != nil {
				t.Errorf("%d bits, exponent %d: %v", bits, exponent, err)
			}
		}
	}
}

// A's report with B's runtime data, and the other way round.
func TestPartsOfTwoAzureVMsProveNothing(t *testing.T) {
	a, b := teetest.NewAMD(t, teetest.Milan), teetest.NewAMD(t, teetest.Milan)
	trust := &Trust{SNP: a.Anchors()}
	ofA, ofB := azureOf(t, a, nil, teetest.HCL{}), azureOf(t, b, map[string]any{"secure-boot": false}, teetest.HCL{Size: len(azureOf(t, a, nil, teetest.HCL{}).HCLReport)})
	mixed := *ofA
	mixed.HCLReport = append(bytes.Clone(ofA.HCLReport[:hclRuntimeStart]), ofB.HCLReport[hclRuntimeStart:]...)
	binary.LittleEndian.PutUint32(mixed.HCLReport[8:], binary.LittleEndian.Uint32(ofB.HCLReport[8:]))
	said(t, Verify(&mixed, trust, teetest.Now), StepReport, "not what the report's report_data covers")
	mixed = *ofA
	mixed.HCLReport = append(bytes.Clone(ofA.HCLReport[:32]), append(bytes.Clone(ofB.HCLReport[32:hclRuntimeStart]), ofA.HCLReport[hclRuntimeStart:]...)...)
	said(t, Verify(&mixed, trust, teetest.Now), StepReport, "not what the report's report_data covers")
	mixed = *ofA
	mixed.Certificates = ofB.Certificates
	said(t, Verify(&mixed, trust, teetest.Now), StepReport, "the signature does not verify")
	r := Verify(ofA, trust, teetest.Now)
	passes(t, r)
	if other := akOfKey(t, "another ak"); r.Binding(other, nil) != Unbound || r.Binding(nil, nil) != Unbound {
		t.Error("bound to another key")
	}
	// report_data goes on with zeros behind the hash.
	tail := azureOf(t, a, nil, teetest.HCL{Fields: func(f *teetest.Report) { f.ReportData[63] = 1 }})
	said(t, Verify(tail, trust, teetest.Now), StepReport, "not what the report's report_data covers")
}

// What JSON lists cost is bounded before they are decoded.
func TestALongListOfKeysCostsNoMemory(t *testing.T) {
	b := []byte(`{"keys":[` + strings.Repeat(`{},`, 5000) + `{}]}`)
	if n := allocated(func() { _, _ = parseRuntime(b, 1) }); n > 8*uint64(len(b)) {
		t.Errorf("%d bytes for %d", n, len(b))
	}
}
