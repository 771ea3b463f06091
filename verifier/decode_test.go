package verifier_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	pb "github.com/google/go-tpm-tools/proto/attest"
	"google.golang.org/protobuf/proto"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

const zeroPCR = "0000000000000000000000000000000000000000000000000000000000000000"

func evidenceBody(t testing.TB, c capture) []byte {
	t.Helper()
	pcrs := map[string]map[string]string{}
	for _, bank := range c.ev.PCRs {
		values := map[string]string{}
		for i, v := range bank.Values {
			if v != nil {
				values[fmt.Sprint(i)] = fmt.Sprintf("%x", v)
			}
		}
		pcrs[bank.Alg.String()] = values
	}
	b, err := json.Marshal(map[string]any{
		"quotes":    []map[string]any{{"message": c.ev.Quotes[0].Message, "signature": c.ev.Quotes[0].Signature}},
		"pcrs":      pcrs,
		"event_log": c.ev.EventLog,
		"agent":     map[string]any{"version": "1", "boot_id": "b", "kernel": "6.1", "uptime_seconds": 1.5},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestDecodeJSON(t *testing.T) {
	c := loadCapture(t, "sb-on-1", "rsassa", "all-banks")
	ev, err := verifier.Decode("application/json; charset=utf-8", evidenceBody(t, c))
	if err != nil {
		t.Fatal(err)
	}
	in := c.inputs(t)
	withLogs(&in, ev)
	if got := verifier.Appraise(ev, in); got.Status != verifier.Affirming {
		t.Errorf("decoded evidence is %s\n%s", got.Status, render(got))
	}
	if ev.Agent.Kernel != "6.1" || ev.Agent.UptimeSeconds != 1.5 {
		t.Errorf("agent %+v", ev.Agent)
	}
}

func TestDecodeRefuses(t *testing.T) {
	q := `"quotes":[{"message":"AA==","signature":"AA=="}]`
	p := `"pcrs":{"sha256":{"0":"` + zeroPCR + `"}}`
	tests := []struct {
		name, body, code, pointer string
	}{
		{"empty", ``, "malformed_json", ""},
		{"not JSON", `evidence`, "malformed_json", ""},
		{"cut short", `{"quotes":[`, "malformed_json", "/quotes"},
		{"trailing data", `{` + q + `,` + p + `} {}`, "malformed_json", ""},
		{"invalid UTF-8", "{\"agent\":{\"kernel\":\"\xff\"}}", "malformed_json", "/agent/kernel"},
		{"array", `[]`, "invalid_field", ""},
		{"unknown field", `{` + q + `,` + p + `,"nonce":"AA=="}`, "unknown_field", "/nonce"},
		{"unknown field inside", `{"quotes":[{"message":"AA==","sig":""}]}`, "unknown_field", "/quotes/0/sig"},
		{"wrong letter case", `{"Quotes":[]}`, "unknown_field", "/Quotes"},
		{"field twice", `{` + q + `,` + q + `,` + p + `}`, "malformed_json", "/quotes"},
		{"PCR twice", `{` + q + `,"pcrs":{"sha256":{"0":"` + zeroPCR + `","0":"` + zeroPCR + `"}}}`, "malformed_json", "/pcrs/sha256/0"},
		{"no quotes", `{` + p + `}`, "invalid_field", "/quotes"},
		{"empty quote list", `{"quotes":[],` + p + `}`, "invalid_field", "/quotes"},
		{"nine quotes", `{"quotes":[` + strings.TrimSuffix(strings.Repeat(`{"message":"AA==","signature":"AA=="},`, 9), ",") + `],` + p + `}`, "invalid_field", "/quotes"},
		{"no message", `{"quotes":[{"signature":"AA=="}],` + p + `}`, "invalid_field", "/quotes/0/message"},
		{"no signature", `{"quotes":[{"message":"AA=="}],` + p + `}`, "invalid_field", "/quotes/0/signature"},
		{"bad base64", `{"quotes":[{"message":"A!==","signature":"AA=="}],` + p + `}`, "invalid_field", "/quotes/0/message"},
		{"base64 without padding", `{"quotes":[{"message":"AA","signature":"AA=="}],` + p + `}`, "invalid_field", "/quotes/0/message"},
		{"number for base64", `{"quotes":[{"message":1,"signature":"AA=="}],` + p + `}`, "invalid_field", "/quotes/0/message"},
		{"no PCRs", `{` + q + `}`, "invalid_field", "/pcrs"},
		{"empty bank", `{` + q + `,"pcrs":{"sha256":{}}}`, "invalid_field", "/pcrs/sha256"},
		{"unknown bank", `{` + q + `,"pcrs":{"md5":{"0":"00"}}}`, "invalid_field", "/pcrs/md5"},
		{"bank with a slash", `{` + q + `,"pcrs":{"a/b":{"0":"00"}}}`, "invalid_field", "/pcrs/a~1b"},
		{"PCR 24", `{` + q + `,"pcrs":{"sha256":{"24":"` + zeroPCR + `"}}}`, "invalid_field", "/pcrs/sha256/24"},
		{"PCR -1", `{` + q + `,"pcrs":{"sha256":{"-1":"` + zeroPCR + `"}}}`, "invalid_field", "/pcrs/sha256/-1"},
		{"PCR 01", `{` + q + `,"pcrs":{"sha256":{"01":"` + zeroPCR + `"}}}`, "invalid_field", "/pcrs/sha256/01"},
		{"short digest", `{` + q + `,"pcrs":{"sha256":{"0":"00"}}}`, "invalid_field", "/pcrs/sha256/0"},
		{"digest not hex", `{` + q + `,"pcrs":{"sha256":{"0":"zz` + zeroPCR[2:] + `"}}}`, "invalid_field", "/pcrs/sha256/0"},
		{"log and digest", `{` + q + `,` + p + `,"event_log":"AA==","event_log_digest":"sha256:` + zeroPCR + `"}`, "invalid_field", "/event_log_digest"},
		{"digest without algorithm", `{` + q + `,` + p + `,"event_log_digest":"` + zeroPCR + `"}`, "invalid_field", "/event_log_digest"},
		{"negative offset", `{` + q + `,` + p + `,"ima_log_offset":-1}`, "invalid_field", "/ima_log_offset"},
		{"huge offset", `{` + q + `,` + p + `,"ima_log_offset":9999999999999999999999}`, "invalid_field", "/ima_log_offset"},
		{"platform type", `{` + q + `,` + p + `,"platform_evidence":{"type":"sgx"}}`, "invalid_field", "/platform_evidence/type"},
		{"HCL without report", `{` + q + `,` + p + `,"platform_evidence":{"type":"azure_hcl"}}`, "invalid_field", "/platform_evidence/hcl_report"},
		{"SNP without report", `{` + q + `,` + p + `,"platform_evidence":{"type":"sev_snp"}}`, "invalid_field", "/platform_evidence/report"},
		{"TDX without quote", `{` + q + `,` + p + `,"platform_evidence":{"type":"tdx"}}`, "invalid_field", "/platform_evidence/quote"},
		{"control characters", `{` + q + `,` + p + `,"agent":{"kernel":"a\u0000b"}}`, "invalid_field", "/agent/kernel"},
		{"deep nesting", `{"quotes":` + strings.Repeat(`[`, 100000), "invalid_field", "/quotes/0"},
		{"deep nesting of an unknown field", `{"x":` + strings.Repeat(`[`, 100000), "unknown_field", "/x"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ev, err := verifier.Decode("application/json", []byte(tt.body))
			var de *verifier.DecodeError
			if !errors.As(err, &de) {
				t.Fatalf("decoded to %+v, error %v", ev, err)
			}
			if de.Code != tt.code || de.Pointer != tt.pointer || de.Detail == "" {
				t.Errorf("code %q at %q (%s), want %q at %q", de.Code, de.Pointer, de.Detail, tt.code, tt.pointer)
			}
		})
	}
}

func TestDecodeContentType(t *testing.T) {
	for _, contentType := range []string{"", "text/plain", "application/jsonx", "application/json; charset=latin1", "application/octet-stream"} {
		_, err := verifier.Decode(contentType, []byte(`{}`))
		var de *verifier.DecodeError
		if !errors.As(err, &de) || de.Code != verifier.CodeUnsupportedMedia {
			t.Errorf("%q: %v", contentType, err)
		}
	}
}

func gotpmAttestation(t testing.TB) []byte {
	t.Helper()
	return read(t, "testdata/gce-cos-85-nonce9009.pb")
}

// The protobuf of gotpm attest, read by our own field reader and by the generated type, is the same.
func TestDecodeProtobuf(t *testing.T) {
	body := gotpmAttestation(t)
	ev, err := verifier.Decode("application/x-protobuf", body)
	if err != nil {
		t.Fatal(err)
	}
	var want pb.Attestation
	if err := proto.Unmarshal(body, &want); err != nil {
		t.Fatal(err)
	}
	if len(ev.Quotes) != len(want.Quotes) || string(ev.EventLog) != string(want.EventLog) {
		t.Fatalf("%d quotes and %d bytes of log, want %d and %d", len(ev.Quotes), len(ev.EventLog), len(want.Quotes), len(want.EventLog))
	}
	for i, q := range want.Quotes {
		if string(ev.Quotes[i].Message) != string(q.Quote) || string(ev.Quotes[i].Signature) != string(q.RawSig) {
			t.Errorf("quote %d differs", i)
		}
		bank := ev.PCRs.Bank(tpm.HashAlg(q.Pcrs.Hash))
		for index, value := range q.Pcrs.Pcrs {
			if bank == nil || string(bank.Values[index]) != string(value) {
				t.Errorf("quote %d PCR %d differs", i, index)
			}
		}
	}
	if string(ev.Enrollment.AKCertificate) != string(want.AkCert) || string(ev.Enrollment.AKPublic.Raw()) != string(want.AkPub) {
		t.Error("the AK differs")
	}
}

func TestDecodeProtobufRefuses(t *testing.T) {
	encode := func(change func(*pb.Attestation)) []byte {
		var a pb.Attestation
		if err := proto.Unmarshal(gotpmAttestation(t), &a); err != nil {
			t.Fatal(err)
		}
		change(&a)
		b, err := proto.Marshal(&a)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tests := map[string][]byte{
		"empty":           {},
		"cut short":       gotpmAttestation(t)[:1000],
		"no quotes":       encode(func(a *pb.Attestation) { a.Quotes = nil }),
		"bank twice":      encode(func(a *pb.Attestation) { a.Quotes = append(a.Quotes, a.Quotes[0]) }),
		"no signature":    encode(func(a *pb.Attestation) { a.Quotes[0].RawSig = nil }),
		"no PCRs":         encode(func(a *pb.Attestation) { a.Quotes[0].Pcrs = nil }),
		"PCR 24":          encode(func(a *pb.Attestation) { a.Quotes[0].Pcrs.Pcrs[24] = a.Quotes[0].Pcrs.Pcrs[0] }),
		"short PCR":       encode(func(a *pb.Attestation) { a.Quotes[0].Pcrs.Pcrs[0] = []byte{1} }),
		"unknown bank":    encode(func(a *pb.Attestation) { a.Quotes[0].Pcrs.Hash = 99 }),
		"bad AK":          encode(func(a *pb.Attestation) { a.AkPub = []byte{1, 2, 3} }),
		"17 certificates": encode(func(a *pb.Attestation) { a.IntermediateCerts = make([][]byte, 17) }),
		"group":           {0x0b, 0x0c},
		"million quotes":  []byte(strings.Repeat("\x12\x00", 1_000_000)),
	}
	for name, body := range tests {
		_, err := verifier.Decode("application/x-protobuf", body)
		var de *verifier.DecodeError
		if !errors.As(err, &de) || de.Code != verifier.CodeMalformedProtobuf {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// decodeBudget is what decoding may allocate: eight times the body, and a fixed start.
func decodeBudget(n int) uint64 { return uint64(8*n) + 64<<10 }

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Bodies made to cost memory are refused, or decoded, within eight times their size.
func TestDecodeMemory(t *testing.T) {
	big := strings.Repeat("A", 4<<20)
	bodies := map[string]struct{ contentType, body string }{
		"one long string":   {"application/json", `{"event_log":"` + big + `"}`},
		"many quotes":       {"application/json", `{"quotes":[` + strings.TrimSuffix(strings.Repeat(`{},`, 1<<20), ",") + `]}`},
		"many banks":        {"application/json", `{"pcrs":{` + manyMembers(200000, `{}`) + `}}`},
		"many PCRs":         {"application/json", `{"pcrs":{"sha256":{` + manyMembers(200000, `""`) + `}}}`},
		"many certificates": {"application/json", `{"platform_evidence":{"type":"tdx","certificates":[` + strings.TrimSuffix(strings.Repeat(`"",`, 1<<20), ",") + `]}}`},
		"protobuf quotes":   {"application/x-protobuf", strings.Repeat("\x12\x00", 2<<20)},
		"protobuf certs":    {"application/x-protobuf", strings.Repeat("\x3a\x00", 2<<20)},
		"nesting":           {"application/json", strings.Repeat(`[`, 4<<20)},
	}
	for name, b := range bodies {
		body := []byte(b.body)
		got := allocated(func() { _, _ = verifier.Decode(b.contentType, body) })
		if got > decodeBudget(len(body)) {
			t.Errorf("%s: %d bytes allocated for a body of %d", name, got, len(body))
		}
	}
}

func manyMembers(n int, value string) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"k%d":%s`, i, value)
	}
	return b.String()
}

func FuzzDecode(f *testing.F) {
	f.Add("application/json", []byte(`{"quotes":[{"message":"AA==","signature":"AA=="}],"pcrs":{"sha256":{"0":"`+zeroPCR+`"}}}`))
	if b, err := os.ReadFile("testdata/gce-cos-85-nonce9009.pb"); err == nil {
		f.Add("application/x-protobuf", b)
	}
	f.Add("application/json", evidenceBody(f, loadCapture(f, "sb-on-1", "ecdsa256", "sha256")))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		ev, err := verifier.Decode(contentType, body)
		if err != nil {
			var de *verifier.DecodeError
			if !errors.As(err, &de) || de.Code == "" || de.Detail == "" {
				t.Fatalf("error without code or detail: %v", err)
			}
			return
		}
		if len(ev.Quotes) == 0 || len(ev.PCRs) == 0 {
			t.Fatal("evidence without quotes or PCRs was accepted")
		}
		for _, bank := range ev.PCRs {
			for i, v := range bank.Values {
				if (bank.Mask&(1<<i) != 0) != (v != nil) || v != nil && len(v) != bank.Alg.Size() {
					t.Fatalf("PCR %d of %s has %d bytes", i, bank.Alg, len(v))
				}
			}
		}
	})
}
