package platform

import (
	"bytes"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/integration/faketsm"
	"github.com/assay-verifier/assay/integration/swtpm"
	"github.com/assay-verifier/assay/verifier/tpm"
)

func specimen(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// warnings collects what a collector warns of.
type warnings []string

func (w *warnings) add(text string) { *w = append(*w, text) }

func collector(t testing.TB, o Options) (*Collector, *warnings) {
	t.Helper()
	w := &warnings{}
	o.Warn = w.add
	if o.TSMDir == "" {
		o.TSMDir = filepath.Join(t.TempDir(), "none")
	}
	if o.SEVGuest == "" {
		o.SEVGuest = filepath.Join(t.TempDir(), "none")
	}
	if o.TDXGuests == nil {
		o.TDXGuests = []string{}
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return c, w
}

func open(t testing.TB, box *swtpm.TPM) *tpmdevice.Device {
	t.Helper()
	d, err := tpmdevice.Open(box.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func contains(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v\n  does not say %q", err, want)
	}
}

func TestModes(t *testing.T) {
	for _, m := range []Mode{"", Auto, None, Azure, SEVSNP, TDX} {
		if _, err := New(Options{Mode: m}); err != nil {
			t.Error(err)
		}
	}
	_, err := New(Options{Mode: "sgx"})
	contains(t, err, `"sgx" is none of auto`)
}

// The data that a report is made over, by a second implementation.
func TestReportData(t *testing.T) {
	nonce := bytes.Repeat([]byte{0xab}, 32)
	data, err := Binding{Nonce: nonce}.ReportData()
	if err != nil || !bytes.Equal(data[:32], nonce) || !bytes.Equal(data[32:], make([]byte, 32)) {
		t.Errorf("%x, %v", data, err)
	}
	box := swtpm.New(t, swtpm.Options{})
	_, ak, err := open(t, box).CreateAK(tpmdevice.ECDSA)
	if err != nil {
		t.Fatal(err)
	}
	defer ak.Close()
	data, err = Binding{Nonce: nonce, AK: ak.Public}.ReportData()
	h := sha512.New()
	_, _ = io.WriteString(h, "assay-platform-binding-v1")
	h.Write([]byte{0})
	h.Write(nonce)
	h.Write(ak.Name)
	if err != nil || !bytes.Equal(data[:], h.Sum(nil)) || len(ak.Name) != 34 {
		t.Errorf("%x, %v", data, err)
	}
	_, err = Binding{Nonce: nonce[:31]}.ReportData()
	contains(t, err, "31 bytes")
	_, err = Binding{Nonce: nonce, AK: []byte("no key")}.ReportData()
	contains(t, err, "attestation key")
}

func TestRealHCLReports(t *testing.T) {
	for name, want := range map[string]struct {
		kind     string
		hardware int
		security string
	}{
		"kinvolk-snp":    {client.SEVSNP, 1184, "confidential_snp"},
		"trustee-snp-v0": {client.SEVSNP, 1184, "confidential_snp"},
		"trustee-snp-v2": {client.SEVSNP, 1184, "confidential_snp"},
		"trustee-tdx-v0": {client.TDX, 1024, "confidential_tdx"},
	} {
		raw := specimen(t, name+".hcl")
		r, err := parseHCL(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.kind != want.kind || len(r.hardware) != want.hardware || !json.Valid(r.runtime) || r.ak.N.BitLen() != 2048 || r.ak.E != 65537 {
			t.Errorf("%s: %s, %d bytes, %q", name, r.kind, len(r.hardware), r.runtime)
		}
		if got := SecurityType(&client.PlatformEvidence{Type: client.AzureHCL, HCLReport: raw}); got != want.security {
			t.Errorf("%s: %s", name, got)
		}
	}
	snp, err := parseHCL(specimen(t, "trustee-snp-v0.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	resigned := bytes.Clone(snp.raw)
	resigned[hclHeader+snpSignature+5] ^= 1
	again, err := parseHCL(resigned)
	if err != nil || again.content() != snp.content() {
		t.Errorf("another signature is other content: %v", err)
	}
	resigned[hclHeader+snpReportedTCB] ^= 1
	if again, err = parseHCL(resigned); err != nil || again.content() == snp.content() || again.chip() == snp.chip() {
		t.Errorf("another TCB is the same content: %v", err)
	}
}

func TestBadHCLReports(t *testing.T) {
	good := specimen(t, "trustee-snp-v0.hcl")
	change := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	for want, raw := range map[string][]byte{
		"are no HCL report":                    {},
		"bytes in NV index 0x01400001 are no":  good[:hclRuntime-1],
		"the 2600 bytes in NV":                 change(func(b []byte) { b[0] = 'h' }),
		"not of a confidential VM: its type":   change(func(b []byte) { b[hclDescription+8] = 1 }),
		"runtime data has 4294967295 bytes":    change(func(b []byte) { binary.LittleEndian.PutUint32(b[hclDescription+16:], 0xffffffff) }),
		"runtime data: unexpected end of JSON": change(func(b []byte) { binary.LittleEndian.PutUint32(b[hclDescription+16:], 20) }),
		"names no HCLAkPub":                    bytes.ReplaceAll(good, []byte("HCLAkPub"), []byte("HCLAkPuc")),
		"HCLAkPub: illegal base64":             change(func(b []byte) { b[bytes.Index(b, []byte(`"n":"`))+6] = '!' }),
		"HCLAkPub is no RSA key of":            bytes.Replace(good, []byte(`"kty":"RSA"`), []byte(`"kty":"RSB"`), 1),
	} {
		_, err := parseHCL(raw)
		contains(t, err, want)
	}
}

func FuzzHCL(f *testing.F) {
	for _, name := range []string{"kinvolk-snp", "trustee-snp-v0", "trustee-snp-v2", "trustee-tdx-v0"} {
		f.Add(specimen(f, name+".hcl"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseHCL(b)
		if err == nil && (r.ak == nil || r.content() == "" || len(r.runtime) > len(b)) {
			t.Errorf("%+v", r)
		}
		if err == nil && r.kind == client.SEVSNP {
			_, _ = r.chip(), r.tcb()
		}
	})
}

// The report in the TPM is of another machine than the key: somebody's report with one's own quote.
func TestForeignHCLReportIsRefused(t *testing.T) {
	box := swtpm.New(t, swtpm.Options{})
	d := open(t, box)
	c, w := collector(t, Options{})
	if kind, err := c.Detect(d); kind != "" || err != nil || len(*w) != 0 {
		t.Errorf("a machine without anything: %q, %v, %v", kind, err, *w)
	}
	azure, _ := collector(t, Options{Mode: Azure})
	_, err := azure.Detect(d)
	contains(t, err, "no confidential VM of Azure")
	_, err = azure.Detect(nil)
	contains(t, err, "no TPM")

	if err := box.WriteNV(hclIndex, specimen(t, "kinvolk-snp.hcl")); err != nil {
		t.Fatal(err)
	}
	if kind, err := c.Detect(d); kind != client.AzureHCL || err != nil || len(*w) != 0 {
		t.Errorf("%q, %v, %v", kind, err, *w)
	}
	if got := AzureSecurityType(d); got != "confidential_snp" {
		t.Errorf("%q", got)
	}
	_, err = c.AzureAK(d)
	contains(t, err, "no attestation key at handle 0x81000003")
	if _, err := box.PersistentAK(hclAKHandle, ""); err != nil {
		t.Fatal(err)
	}
	_, err = c.AzureAK(d)
	contains(t, err, "is not the HCLAkPub of the HCL report")
	contains(t, err, "--platform-evidence none")
	key, err := d.PersistentKey(hclAKHandle)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Collect(t.Context(), client.AzureHCL, d, Binding{Nonce: NoNonce(), AK: key.Public})
	contains(t, err, "is not the HCLAkPub of the HCL report")

	none, _ := collector(t, Options{Mode: None})
	if kind, err := none.Detect(d); kind != "" || err != nil {
		t.Errorf("%q, %v", kind, err)
	}
	// What is no report is a warning where a TPM can do without it, and an error where it was asked for.
	if err := box.WriteNV(hclIndex, []byte("something else")); err != nil {
		t.Fatal(err)
	}
	if kind, err := c.Detect(d); kind != "" || err != nil || len(*w) != 1 || !strings.Contains((*w)[0], "no HCL report; going on without") {
		t.Errorf("%q, %v, %v", kind, err, *w)
	}
	_, err = azure.Detect(d)
	contains(t, err, "no HCL report")
	// A trusted-launch machine has a report of another type.
	vbs := specimen(t, "kinvolk-snp.hcl")
	vbs[hclDescription+8] = 1
	if err := box.WriteNV(hclIndex, vbs); err != nil {
		t.Fatal(err)
	}
	if kind, err := c.Detect(d); kind != "" || err != nil || len(*w) != 1 {
		t.Errorf("%q, %v, %v", kind, err, *w)
	}
}

// azureBox is a software TPM as Azure's paravisor would leave it; the report in it is constructed around its key.
func azureBox(t *testing.T, hardware []byte, reportType uint32) (*swtpm.TPM, *tpmdevice.Device, Binding) {
	t.Helper()
	box := swtpm.New(t, swtpm.Options{})
	ak, err := box.PersistentAK(hclAKHandle, "")
	if err != nil {
		t.Fatal(err)
	}
	report, err := swtpm.HCLReport(ak, hardware, reportType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := box.WriteNV(hclIndex, report); err != nil {
		t.Fatal(err)
	}
	d := open(t, box)
	c, _ := collector(t, Options{})
	key, err := c.AzureAK(d)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm.ParsePublic(key.Public)
	if err != nil || tpm.CheckAK(public) != nil {
		t.Fatalf("%v", err)
	}
	return box, d, Binding{Nonce: NoNonce(), AK: key.Public}
}

// imds is a metadata service that gives recorded answers.
type imds struct {
	*httptest.Server
	calls   []string
	reports [][]byte
	answer  func(w http.ResponseWriter, r *http.Request)
}

func newIMDS(t *testing.T) *imds {
	t.Helper()
	s := &imds{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.calls = append(s.calls, r.Method+" "+r.URL.Path)
		if r.Header.Get("Metadata") != "true" {
			http.Error(w, "Bad request. Required metadata header not specified", http.StatusBadRequest)
			return
		}
		if r.Method == http.MethodPost {
			var in struct {
				Report string `json:"report"`
			}
			body, _ := io.ReadAll(r.Body)
			err := json.Unmarshal(body, &in)
			report, err2 := base64.RawURLEncoding.DecodeString(in.Report)
			if err := errors.Join(err, err2); err != nil || r.Header.Get("Content-Type") != "application/json" {
				http.Error(w, fmt.Sprint(err), http.StatusBadRequest)
				return
			}
			s.reports = append(s.reports, report)
		}
		s.answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// thim is the answer that Azure gives for the machine of trustee-snp-v0: its certificates are real.
func thim(t *testing.T, tcb string) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]string{"vcekCert": string(specimen(t, "trustee-snp-v0.vcek.pem")), "tcbm": tcb,
		"certificateChain": string(specimen(t, "ask_ark_milan.pem")), "cacheControl": "86400"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func pemCertificates(t *testing.T, names ...string) (out [][]byte) {
	t.Helper()
	for _, name := range names {
		for block, rest := pem.Decode(specimen(t, name)); block != nil; block, rest = pem.Decode(rest) {
			out = append(out, block.Bytes)
		}
	}
	return out
}

// The certificates of the chip are asked for once, also by the next process, and not without leave.
func TestAzureIMDSRecordedAnswer(t *testing.T) {
	box, d, b := azureBox(t, specimen(t, "trustee-snp-v0.hcl")[hclHeader:hclDescription], hclTypeSNP)
	s := newIMDS(t)
	s.answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(thim(t, "DB18000000000004")) }
	dir := filepath.Join(t.TempDir(), "state")
	offline, w := collector(t, Options{StateDir: dir, MetadataURL: s.URL})
	e, err := offline.Collect(t.Context(), client.AzureHCL, d, b)
	if err != nil || len(s.calls) != 0 || len(*w) != 0 {
		t.Fatalf("a request without leave: %v, %v, %v", s.calls, *w, err)
	}
	report, err := d.ReadNV(hclIndex)
	if err != nil || e.Type != client.AzureHCL || !bytes.Equal(e.HCLReport, report) || e.Certificates != nil || e.Quote != nil || e.Report != nil {
		t.Errorf("%+v, %v", e, err)
	}
	var digest string
	for range 2 {
		online, w := collector(t, Options{StateDir: dir, MetadataURL: s.URL, FetchEndorsements: true})
		e, err := online.Collect(t.Context(), client.AzureHCL, d, b)
		if err != nil || len(*w) != 0 {
			t.Fatalf("%v, %v", err, *w)
		}
		if want := pemCertificates(t, "trustee-snp-v0.vcek.pem", "ask_ark_milan.pem"); !slices.EqualFunc(e.Certificates, want, bytes.Equal) {
			t.Errorf("%d certificates", len(e.Certificates))
		}
		if digest != "" && e.Digest() != digest {
			t.Error("unchanged evidence has another digest")
		}
		digest = e.Digest()
	}
	if !slices.Equal(s.calls, []string{"GET /metadata/THIM/amd/certification"}) {
		t.Errorf("%v", s.calls)
	}
	if info, err := os.Stat(filepath.Join(dir, cacheFile)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	// What was fetched is of use without leave to fetch; and a report that only its signature tells from the kept one
	// is not sent as another.
	report[hclHeader+snpSignature] ^= 1
	if err := box.WriteNV(hclIndex, report); err != nil {
		t.Fatal(err)
	}
	if e, err = offline.Collect(t.Context(), client.AzureHCL, d, b); err != nil || e.Digest() != digest {
		t.Errorf("%v", err)
	}
	// Another TCB is another certificate.
	report[hclHeader+snpReportedTCB] ^= 1
	if err := box.WriteNV(hclIndex, report); err != nil {
		t.Fatal(err)
	}
	if e, err = offline.Collect(t.Context(), client.AzureHCL, d, b); err != nil || e.Certificates != nil || !bytes.Equal(e.HCLReport, report) {
		t.Errorf("%v", err)
	}
	// A damaged cache is as good as none.
	if err := os.WriteFile(filepath.Join(dir, cacheFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = offline.Collect(t.Context(), client.AzureHCL, d, b); err != nil {
		t.Error(err)
	}
}

// A certificate for another TCB than the report's is sent, and asked for again later.
func TestAzureIMDSRecordedAnswerOfAnotherTCB(t *testing.T) {
	_, d, b := azureBox(t, specimen(t, "trustee-snp-v0.hcl")[hclHeader:hclDescription], hclTypeSNP)
	s := newIMDS(t)
	s.answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(thim(t, "DB19000000000004")) }
	c, w := collector(t, Options{StateDir: t.TempDir(), MetadataURL: s.URL, FetchEndorsements: true})
	now := time.Now()
	c.now = func() time.Time { return now }
	for range 2 {
		if e, err := c.Collect(t.Context(), client.AzureHCL, d, b); err != nil || len(e.Certificates) != 3 {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	if len(s.calls) != 1 || len(*w) != 1 || !strings.Contains((*w)[0], "TCB db19000000000004, the report has db18000000000004") {
		t.Errorf("%v, %v", s.calls, *w)
	}
	now = now.Add(afterMismatch + time.Second)
	s.answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(thim(t, "DB18000000000004")) }
	for range 2 {
		if e, err := c.Collect(t.Context(), client.AzureHCL, d, b); err != nil || len(e.Certificates) != 3 {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	if len(s.calls) != 2 || len(*w) != 1 {
		t.Errorf("%v, %v", s.calls, *w)
	}
}

// badAnswers are answers of a metadata service that is in trouble, or is none.
var badAnswers = map[string]struct {
	answer http.HandlerFunc
	want   string
}{
	"throttled": {func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "37")
		w.WriteHeader(429)
	}, "answered 429 Too Many Requests; it throttles"},
	"too long": {func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(bytes.Repeat([]byte(" "), maxMetadata+1))
	}, "longer than"},
	"a redirect": {func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/metadata/THIM/amd/elsewhere", http.StatusFound)
	}, "a redirect is not followed"},
	"no JSON": {func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<html>secret-of-a-page</html>")
	}, "not the JSON"},
	"no Azure":     {func(w http.ResponseWriter, _ *http.Request) { http.NotFound(w, nil) }, "is this a confidential VM of Azure?"},
	"other JSON":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "[]") }, "not the JSON"},
	"an empty one": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }, "the answer"},
	"a broken one": {func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"vcekCert":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----","quote":"!!"}`)
	}, "the answer"},
}

// A metadata service in trouble does not stop an SEV-SNP machine, and is left alone for a time.
func TestAzureIMDSBadAnswersForCertificates(t *testing.T) {
	_, d, b := azureBox(t, specimen(t, "trustee-snp-v0.hcl")[hclHeader:hclDescription], hclTypeSNP)
	for name, bad := range badAnswers {
		s := newIMDS(t)
		s.answer = bad.answer
		c, w := collector(t, Options{MetadataURL: s.URL, FetchEndorsements: true})
		now := time.Now()
		c.now = func() time.Time { return now }
		for range 3 {
			if e, err := c.Collect(t.Context(), client.AzureHCL, d, b); err != nil || e.Certificates != nil || e.HCLReport == nil {
				t.Fatalf("%s: %+v, %v", name, e, err)
			}
		}
		if len(s.calls) != 1 || len(*w) != 1 || !strings.Contains((*w)[0], bad.want) || strings.Contains((*w)[0], "secret-of-a-page") {
			t.Errorf("%s: %v, %v", name, s.calls, *w)
		}
		wait := afterFailure
		if name == "throttled" {
			wait = 37 * time.Second
		}
		now = now.Add(wait - time.Second)
		if _, err := c.Collect(t.Context(), client.AzureHCL, d, b); err != nil || len(s.calls) != 1 {
			t.Errorf("%s: asked again too early: %v", name, err)
		}
		now = now.Add(time.Second)
		s.answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(thim(t, "DB18000000000004")) }
		if e, err := c.Collect(t.Context(), client.AzureHCL, d, b); err != nil || len(e.Certificates) != 3 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAzureIMDSTooManyCertificates(t *testing.T) {
	s := newIMDS(t)
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"tcbm": "00", "vcekCert": strings.Repeat(string(specimen(t, "trustee-snp-v0.vcek.pem"))+"\n", 9)})
	}
	_, _, err := newMetadata(s.URL).certificates(t.Context())
	contains(t, err, "more than 8 certificates")
	s.answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(thim(t, "not hex")) }
	_, _, err = newMetadata(s.URL).certificates(t.Context())
	contains(t, err, "tcbm")
}

// A TD report is quoted once, until it changes.
func TestAzureIMDSRecordedTDQuote(t *testing.T) {
	quote := specimen(t, "trustee-tdx-v0.quote")
	tdReport := specimen(t, "trustee-tdx-v0.hcl")[hclHeader : hclHeader+tdReportSize]
	_, d, b := azureBox(t, tdReport, hclTypeTDX)
	s := newIMDS(t)
	padding := ""
	s.answer = func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"quote": base64.RawURLEncoding.EncodeToString(quote) + padding})
	}
	dir := t.TempDir()
	offline, _ := collector(t, Options{StateDir: dir, MetadataURL: s.URL})
	_, err := offline.Collect(t.Context(), client.AzureHCL, d, b)
	contains(t, err, "allow the request with --fetch-endorsements")
	for range 2 {
		c, _ := collector(t, Options{StateDir: dir, MetadataURL: s.URL, FetchEndorsements: true})
		e, err := c.Collect(t.Context(), client.AzureHCL, d, b)
		if err != nil || !bytes.Equal(e.Quote, quote) || SecurityType(e) != "confidential_tdx" {
			t.Fatalf("%v", err)
		}
		padding = "=="
	}
	if e, err := offline.Collect(t.Context(), client.AzureHCL, d, b); err != nil || !bytes.Equal(e.Quote, quote) {
		t.Errorf("%v", err)
	}
	if !slices.Equal(s.calls, []string{"POST /acc/tdquote"}) || len(s.reports) != 1 || !bytes.Equal(s.reports[0], tdReport) {
		t.Errorf("%v, %d reports", s.calls, len(s.reports))
	}
	for name, bad := range badAnswers {
		s.answer = bad.answer
		c, _ := collector(t, Options{MetadataURL: s.URL, FetchEndorsements: true})
		_, err := c.Collect(t.Context(), client.AzureHCL, d, b)
		var refused *RefusedError
		if contains(t, err, bad.want); name == "throttled" && (!errors.As(err, &refused) || refused.RetryAfter != 37*time.Second) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Link-local means this machine's host: no proxy of the environment comes between.
func TestAzureIMDSWithoutProxy(t *testing.T) {
	s := newIMDS(t)
	s.answer = func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(thim(t, "00")) }
	transport := newMetadata(s.URL).http.Transport.(*http.Transport)
	if transport.Proxy != nil {
		t.Error("a proxy")
	}
	if _, _, err := newMetadata("http://127.0.0.1:1").certificates(t.Context()); err == nil {
		t.Error("nobody answers")
	}
}

// Where the guest has defined the index, what the evidence is for goes into the report; where not, nothing is missed.
func TestAzureUserData(t *testing.T) {
	box, d, b := azureBox(t, specimen(t, "trustee-snp-v0.hcl")[hclHeader:hclDescription], hclTypeSNP)
	c, w := collector(t, Options{})
	b.Nonce = bytes.Repeat([]byte{3}, 32)
	if _, err := c.Collect(t.Context(), client.AzureHCL, d, b); err != nil {
		t.Fatal(err)
	}
	if err := box.WriteNV(userDataIndex, make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Collect(t.Context(), client.AzureHCL, d, b); err != nil {
		t.Fatal(err)
	}
	want, err := b.ReportData()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := box.ReadNV(userDataIndex); err != nil || !bytes.Equal(got, want[:]) {
		t.Errorf("%x, %v", got, err)
	}
	if len(*w) != 0 {
		t.Errorf("%v", *w)
	}
}

// table makes a certificate table.
func table(entries ...any) []byte {
	var head, body []byte
	offset := (len(entries)/2 + 1) * tableEntrySize
	for i := 0; i < len(entries); i += 2 {
		guid, _ := hex.DecodeString(strings.ReplaceAll(entries[i].(string), "-", ""))
		content := entries[i+1].([]byte)
		head = append(head, guid...)
		head = binary.LittleEndian.AppendUint32(head, uint32(offset+len(body)))
		head = binary.LittleEndian.AppendUint32(head, uint32(len(content)))
		body = append(body, content...)
	}
	return slices.Concat(head, make([]byte, tableEntrySize), body)
}

const (
	guidVCEK = "63da758d-e664-4564-adc5-f4b93be8accd"
	guidVLEK = "a8074bc2-a25a-483e-aae6-39c045a0b8a1"
	guidASK  = "4ab7b379-bbac-4fe4-a02f-05aef327c782"
	guidARK  = "c0b406a4-a803-4952-9743-3fb6014cd0ae"
)

func realTable(t testing.TB) ([]byte, [][]byte) {
	t.Helper()
	vcek := specimen(t, "test-vcek.der")
	block, rest := pem.Decode(specimen(t, "ask_ark_milan.pem"))
	ask := block.Bytes
	block, _ = pem.Decode(rest)
	// Out of order, one in PEM, one of an unknown kind, padded to whole pages as the kernel gives it.
	b := table(guidARK, block.Bytes, "00112233-4455-6677-8899-aabbccddeeff", []byte("unknown"),
		guidASK, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ask}), guidVCEK, vcek)
	return append(b, make([]byte, pageSize-len(b)%pageSize)...), [][]byte{vcek, ask, block.Bytes}
}

func TestCertificateTable(t *testing.T) {
	good, want := realTable(t)
	got, err := parseCertificateTable(good)
	if err != nil || !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%d certificates, %v", len(got), err)
	}
	for _, empty := range [][]byte{nil, make([]byte, tableEntrySize), make([]byte, pageSize), table(guidVCEK, []byte{})} {
		if got, err := parseCertificateTable(empty); len(got) != 0 || err != nil {
			t.Errorf("%v, %v", got, err)
		}
	}
	vcek := want[0]
	entry := func(offset, length uint32) []byte {
		b := table(guidVCEK, vcek)
		binary.LittleEndian.PutUint32(b[16:], offset)
		binary.LittleEndian.PutUint32(b[20:], length)
		return b
	}
	for want, bad := range map[string][]byte{
		"more than 262144":        make([]byte, maxTable+1),
		"ends within entry 1":     bytes.Repeat([]byte{7}, tableEntrySize+3),
		"ends within entry 0":     {1},
		"outside of the":          entry(48, uint32(len(vcek)+1)),
		"to 8589934590":           entry(0xffffffff, 0xffffffff),
		"bytes 0 to 10":           entry(0, 10),
		"bytes 23 to 33":          entry(23, 10),
		"the VCEK in the":         entry(48, uint32(len(vcek)-1)),
		"two VCEKs":               table(guidVCEK, vcek, guidVCEK, vcek),
		"more than 32 entries":    bytes.Repeat([]byte{7}, 40*tableEntrySize),
		"17000 bytes are more":    table(guidVLEK, make([]byte, 17000)),
		"VLEK in the certificate": table(guidVLEK, []byte("no certificate")),
	} {
		_, err := parseCertificateTable(bad)
		contains(t, err, want)
	}
}

func FuzzCertificateTable(f *testing.F) {
	good, _ := realTable(f)
	f.Add(good)
	f.Add(table(guidVLEK, good[:64]))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseCertificateTable(b)
		if err != nil && got != nil {
			t.Error("certificates with an error")
		}
		for _, der := range got {
			if len(der) == 0 || len(der) > maxCertificate {
				t.Errorf("a certificate of %d bytes", len(der))
			}
		}
	})
}

// guest are the options for a fake of configfs-tsm.
func guest(tsm *faketsm.Tree, mode Mode) Options {
	return Options{Mode: mode, TSMDir: tsm.Dir, Mkdir: tsm.Mkdir, Rmdir: tsm.Rmdir}
}

// empty checks that no request is left.
func empty(t *testing.T, tsm *faketsm.Tree) {
	t.Helper()
	if left, err := tsm.Left(); err != nil || len(left) != 0 {
		t.Errorf("requests are left: %v, %v", left, err)
	}
}

// snpOver is the real report with other data in it; its signature no longer fits, which is not for the agent to see.
func snpOver(t testing.TB) func([]byte) []byte {
	base := specimen(t, "snp-report.bin")
	return func(data []byte) []byte {
		b := bytes.Clone(base)
		copy(b[snpReportData:], data)
		return b
	}
}

func quoteOver(t testing.TB) func([]byte) []byte {
	base := specimen(t, "trustee-tdx-v0.quote")
	return func(data []byte) []byte {
		b := bytes.Clone(base)
		copy(b[quoteReportData:], data)
		return b
	}
}

func TestFakeConfigFSReports(t *testing.T) {
	certificates, want := realTable(t)
	nonce := bytes.Repeat([]byte{9}, 32)
	data := append(bytes.Clone(nonce), make([]byte, 32)...)

	snp := faketsm.New(t, "sev_guest", snpOver(t))
	snp.Aux = certificates
	for _, mode := range []Mode{Auto, SEVSNP} {
		c, w := collector(t, guest(snp, mode))
		kind, err := c.Detect(nil)
		if kind != client.SEVSNP || err != nil {
			t.Fatalf("%q, %v", kind, err)
		}
		e, err := c.Collect(t.Context(), kind, nil, Binding{Nonce: nonce})
		if err != nil || !bytes.Equal(e.Report[snpReportData:snpReportData+64], data) || !slices.EqualFunc(e.Certificates, want, bytes.Equal) ||
			e.Quote != nil || e.HCLReport != nil || len(*w) != 0 {
			t.Errorf("%+v, %v, %v", e, err, *w)
		}
		if SecurityType(e) != "confidential_snp" {
			t.Error(SecurityType(e))
		}
	}
	empty(t, snp)
	snp.Aux = []byte("no table")
	c, w := collector(t, guest(snp, SEVSNP))
	if e, err := c.Collect(t.Context(), client.SEVSNP, nil, Binding{Nonce: nonce}); err != nil || e.Certificates != nil || len(*w) != 1 {
		t.Errorf("%v, %v", err, *w)
	}
	c, _ = collector(t, guest(snp, TDX))
	_, err := c.Detect(nil)
	contains(t, err, "gives sev_snp evidence, not tdx")
	_, err = c.Collect(t.Context(), client.TDX, nil, Binding{Nonce: nonce})
	contains(t, err, "configfs-tsm gives sev_snp reports, not tdx")

	tdx := faketsm.New(t, "tdx_guest", quoteOver(t))
	c, _ = collector(t, guest(tdx, Auto))
	kind, err := c.Detect(nil)
	if kind != client.TDX || err != nil {
		t.Fatalf("%q, %v", kind, err)
	}
	e, err := c.Collect(t.Context(), kind, nil, Binding{Nonce: nonce})
	if err != nil || !bytes.Equal(e.Quote[quoteReportData:quoteReportData+64], data) || e.Report != nil || e.Certificates != nil || SecurityType(e) != "confidential_tdx" {
		t.Errorf("%+v, %v", e, err)
	}
	empty(t, tdx)
}

func TestFakeConfigFSTroubles(t *testing.T) {
	b := Binding{Nonce: NoNonce()}
	good := snpOver(t)
	for name, c := range map[string]struct {
		report   func([]byte) []byte
		others   uint64
		provider string
		want     string
	}{
		"another program writes":   {good, 1, "sev_guest", "was written to 2 times between request and report"},
		"a report over other data": {func([]byte) []byte { return good(bytes.Repeat([]byte{1}, 64)) }, 0, "sev_guest", "over other data"},
		"a short report":           {func(in []byte) []byte { return good(in)[:1183] }, 0, "sev_guest", "1183 bytes, not 1184"},
		"a report too long":        {func([]byte) []byte { return make([]byte, maxBlob+1) }, 0, "sev_guest", "longer than"},
		"another hardware":         {good, 0, "arm_cca_guest", `"arm_cca_guest"; this agent knows`},
	} {
		tsm := faketsm.New(t, c.provider, c.report)
		tsm.Others = c.others
		collector, _ := collector(t, guest(tsm, SEVSNP))
		_, err := collector.Collect(t.Context(), client.SEVSNP, nil, b)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		empty(t, tsm)
	}
	tdx := faketsm.New(t, "tdx_guest", func([]byte) []byte { return nil })
	c, _ := collector(t, guest(tdx, TDX))
	_, err := c.Collect(t.Context(), client.TDX, nil, b)
	contains(t, err, "0 bytes, less than its fixed part")
	tdx.Report = func([]byte) []byte { return quoteOver(t)(bytes.Repeat([]byte{1}, 64)) }
	_, err = c.Collect(t.Context(), client.TDX, nil, b)
	contains(t, err, "over other data")
	tdx.Report = func([]byte) []byte { // of a version that lays it out in another way
		q := quoteOver(t)(bytes.Repeat([]byte{1}, 64))
		q[0] = 5
		return q
	}
	if _, err = c.Collect(t.Context(), client.TDX, nil, b); err != nil {
		t.Error(err)
	}
	_, err = c.Collect(t.Context(), client.TDX, nil, Binding{Nonce: []byte{1}})
	contains(t, err, "nonce has 1 bytes")
	_, err = c.Collect(t.Context(), "sgx", nil, b)
	contains(t, err, `"sgx" is none of`)
}

// What is tried, what it says, and what becomes of it with a TPM and without.
func TestFakeDetectionOfGuests(t *testing.T) {
	dir := t.TempDir()
	node := filepath.Join(dir, "guest")
	if err := os.WriteFile(node, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	device := open(t, swtpm.New(t, swtpm.Options{}))

	c, _ := collector(t, Options{})
	if kind, err := c.Detect(nil); kind != "" || err != nil {
		t.Errorf("%q, %v", kind, err)
	}
	c, _ = collector(t, Options{Mode: SEVSNP})
	_, err := c.Detect(nil)
	contains(t, err, "no SEV-SNP or TDX evidence: tried")

	c, _ = collector(t, Options{SEVGuest: node})
	if kind, err := c.Detect(nil); kind != client.SEVSNP || err != nil {
		t.Errorf("%q, %v", kind, err)
	}
	tdx := Options{TDXGuests: []string{node + "-none", node}}
	c, w := collector(t, tdx)
	_, err = c.Detect(nil)
	contains(t, err, "TD quotes come through configfs-tsm only")
	if kind, err := c.Detect(device); kind != "" || err != nil || len(*w) != 1 || !strings.Contains((*w)[0], "going on with the TPM alone") {
		t.Errorf("%q, %v, %v", kind, err, *w)
	}
	tdx.Mode = TDX
	c, _ = collector(t, tdx)
	_, err = c.Detect(device)
	contains(t, err, "TD quotes come through configfs-tsm only")

	// No right to make a request; no provider registered.
	for cause, what := range map[error]string{unix.EACCES: "warning", unix.ENXIO: ""} {
		c, w := collector(t, Options{Mkdir: func(string) error { return &os.PathError{Op: "mkdir", Path: dir, Err: cause} }})
		kind, err := c.Detect(nil)
		if what == "" && (kind != "" || err != nil) {
			t.Errorf("%v: %q, %v", cause, kind, err)
		}
		if what != "" {
			contains(t, err, "permission denied")
		}
		if kind, err := c.Detect(device); kind != "" || err != nil || (what != "") != (len(*w) == 1) {
			t.Errorf("%v: %q, %v, %v", cause, kind, err, *w)
		}
	}
}

// fakeGuest answers the ioctls of /dev/sev-guest.
func fakeGuest(t *testing.T, answers ...func(call *guestCall) error) (*Collector, *warnings, *int) {
	t.Helper()
	device := filepath.Join(t.TempDir(), "sev-guest")
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, w := collector(t, Options{Mode: SEVSNP, SEVGuest: device})
	calls := new(int)
	c.ioctl = func(path string, call *guestCall) error {
		if path != device || *calls >= len(answers) {
			t.Fatalf("call %d of %s", *calls+1, path)
		}
		*calls++
		return answers[*calls-1](call)
	}
	return c, w, calls
}

func TestSEVGuestConstructedAnswers(t *testing.T) {
	tsmPause = time.Millisecond
	defer func() { tsmPause = time.Second }()
	over := snpOver(t)
	certificates, want := realTable(t)
	give := func(call *guestCall) error {
		binary.LittleEndian.PutUint32(call.response[4:], snpReportSize)
		copy(call.response[snpReportOffset:], over(call.data[:]))
		return nil
	}
	withTable := func(call *guestCall) error {
		call.certificatesLength = uint32(copy(call.certificates, certificates))
		return give(call)
	}
	fail := func(err error, exit uint64, length uint32) func(*guestCall) error {
		return func(call *guestCall) error {
			call.exit, call.certificatesLength = exit, length
			return err
		}
	}
	status := func(call *guestCall) error {
		call.response[0] = 0x16
		return nil
	}
	tooLong := func(call *guestCall) error {
		binary.LittleEndian.PutUint32(call.response[4:], snpResponse)
		return nil
	}
	large := func(call *guestCall) error {
		if len(call.certificates) != 8*pageSize {
			return unix.EINVAL
		}
		return withTable(call)
	}
	without := func(call *guestCall) error {
		if call.certificates != nil {
			return unix.EINVAL
		}
		return give(call)
	}
	const invalidLength, busy = vmmInvalidLength << 32, vmmBusy << 32
	for name, c := range map[string]struct {
		answers      []func(*guestCall) error
		certificates int
		want         string // of the error
	}{
		"with certificates":            {[]func(*guestCall) error{withTable}, 3, ""},
		"a host without certificates":  {[]func(*guestCall) error{give}, 0, ""},
		"a table that is larger":       {[]func(*guestCall) error{fail(unix.EIO, invalidLength, 8*pageSize), large}, 3, ""},
		"a host that throttles":        {[]func(*guestCall) error{fail(unix.EIO, busy, 0), fail(unix.EAGAIN, 0, 0), withTable}, 3, ""},
		"no extended report":           {[]func(*guestCall) error{fail(unix.ENOTTY, 0, 0), without}, 0, ""},
		"a table without end":          {[]func(*guestCall) error{fail(unix.EIO, invalidLength, maxTable+pageSize), without}, 0, ""},
		"a host that always throttles": {slices.Repeat([]func(*guestCall) error{fail(unix.EIO, busy, 0)}, tsmTries), 0, "input/output error"},
		"no report":                    {[]func(*guestCall) error{fail(unix.ENOTTY, 0, 0), fail(unix.EIO, 0xff, 0)}, 0, "exitinfo2 0xff"},
		"no right":                     {[]func(*guestCall) error{fail(unix.EACCES, 0, 0)}, 0, "permission denied"},
		"a refusal of the firmware":    {[]func(*guestCall) error{status}, 0, "status 0x16"},
		"a report that is too long":    {[]func(*guestCall) error{tooLong}, 0, "4000 bytes in an answer of 4000"},
	} {
		collector, w, calls := fakeGuest(t, c.answers...)
		if kind, err := collector.Detect(nil); kind != client.SEVSNP || err != nil {
			t.Fatalf("%q, %v", kind, err)
		}
		e, err := collector.Collect(t.Context(), client.SEVSNP, nil, Binding{Nonce: NoNonce()})
		if c.want != "" {
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "tried") {
				t.Errorf("%s: %v", name, err)
			}
		} else if err != nil || len(e.Report) != snpReportSize || len(e.Certificates) != c.certificates || len(*w) != 0 {
			t.Errorf("%s: %v, %v", name, err, *w)
		} else if c.certificates > 0 && !slices.EqualFunc(e.Certificates, want, bytes.Equal) {
			t.Errorf("%s: other certificates", name)
		}
		if *calls != len(c.answers) {
			t.Errorf("%s: %d calls, not %d", name, *calls, len(c.answers))
		}
	}
}

// The structures have the sizes and places of include/uapi/linux/sev-guest.h, and the ioctls their numbers.
func TestSEVGuestStructures(t *testing.T) {
	var request snpExtReportRequest
	var message snpGuestRequest
	for what, pair := range map[string][2]uintptr{
		"snp_report_req":          {unsafe.Sizeof(request.report), 96},
		"snp_ext_report_req":      {unsafe.Sizeof(request), 112},
		"certs_address":           {unsafe.Offsetof(request.certificatesAddress), 96},
		"certs_len":               {unsafe.Offsetof(request.certificatesLength), 104},
		"vmpl":                    {unsafe.Offsetof(request.report.vmpl), 64},
		"snp_guest_request_ioctl": {unsafe.Sizeof(message), 32},
		"req_data":                {unsafe.Offsetof(message.request), 8},
		"resp_data":               {unsafe.Offsetof(message.response), 16},
		"exitinfo2":               {unsafe.Offsetof(message.exit), 24},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %d, not %d", what, pair[0], pair[1])
		}
	}
	iowr := func(number uint32) uint32 { return 3<<30 | 32<<16 | 'S'<<8 | number }
	if snpGetReport != iowr(0) || snpGetExtReport != iowr(2) {
		t.Errorf("%x %x", iowr(0), iowr(2))
	}
	// The kernel's refusal reaches the caller: a file is no such device.
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := deviceIoctl(file, &guestCall{certificates: make([]byte, pageSize)}); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("%v", err)
	}
	if err := deviceIoctl(file+"-none", &guestCall{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

func TestEventLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "CCEL")
	c, _ := collector(t, Options{CCEventLog: file})
	if log, err := c.EventLog(); log != nil || err != nil {
		t.Errorf("%v, %v", log, err)
	}
	want := specimen(t, "ccel.bin")
	if err := os.WriteFile(file, want, 0o600); err != nil {
		t.Fatal(err)
	}
	if log, err := c.EventLog(); !bytes.Equal(log, want) || err != nil {
		t.Errorf("%d bytes, %v", len(log), err)
	}
	if err := os.WriteFile(file, make([]byte, maxEventLog+1), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := c.EventLog()
	contains(t, err, "longer than")
}
