package client

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// serve answers every request with one handler.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := New(s.URL+"/", Options{UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestProblemsAreReadable(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(400)
		_, _ = io.WriteString(w, `{"type":"x","title":"A field does not fit","status":400,"detail":"see errors","code":"invalid_field","errors":[{"pointer":"/machine/name","detail":"too long"}]}`)
	})
	_, err := c.Challenge(t.Context(), "m", "t")
	var p *Problem
	if !errors.As(err, &p) || !IsProblem(err, "invalid_field") || p.RetryAfter != 7*time.Second {
		t.Fatalf("%#v", err)
	}
	want := "ask for a challenge: the server answered 400 invalid_field: A field does not fit: see errors\n  /machine/name: too long"
	if err.Error() != want {
		t.Errorf("%s", err)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	for _, c := range []struct {
		name    string
		handler http.HandlerFunc
		want    string
	}{
		{"an HTML error page", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", 502) }, "502: Bad Gateway"},
		{"a problem that is no JSON", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(500)
			_, _ = io.WriteString(w, "{")
		}, "500: Internal Server Error"},
		{"another success", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }, "is this an Assay server"},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); _, _ = io.WriteString(w, "hello") }, "not what the API promises"},
		{"no verdict", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201); _, _ = io.WriteString(w, "{}") }, "no verdict"},
		{"too much", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(201)
			_, _ = w.Write(make([]byte, maxAnswer+1))
		}, "longer than"},
	} {
		_, err := serve(t, c.handler).SubmitEvidence(t.Context(), "m", "t", &Evidence{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A redirect would carry the token to another place.
func TestRedirectIsNotFollowed(t *testing.T) {
	calls := 0
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls++
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	if _, err := c.Challenge(t.Context(), "m", "t"); err == nil || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func TestRequests(t *testing.T) {
	var got []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, strings.Join([]string{r.Method, r.URL.EscapedPath(), r.Header.Get("Authorization"), r.Header.Get("Content-Type"), r.UserAgent(), string(body)}, " | "))
		switch r.Method {
		case http.MethodPut:
			w.WriteHeader(204)
		default:
			w.WriteHeader(201)
			_, _ = io.WriteString(w, `{"nonce":"AAEC","known_event_log":null,"pcr_selection":{"sha256":[0]},"ima_log_offset":4}`)
		}
	})
	challenge, err := c.Challenge(t.Context(), "a/b", "tok")
	if err != nil || string(challenge.Nonce) != "\x00\x01\x02" || challenge.KnownEventLog != "" || challenge.IMALogOffset != 4 {
		t.Errorf("%+v, %v", challenge, err)
	}
	if err := c.PutEventLog(t.Context(), "m", "tok", "ab", []byte("log")); err != nil {
		t.Error(err)
	}
	want := "POST | /v1/machines/a%2Fb/challenges | Bearer tok |  | test | \nPUT | /v1/machines/m/event-logs/ab | Bearer tok | application/octet-stream | test | log"
	if strings.Join(got, "\n") != want {
		t.Errorf("%s", strings.Join(got, "\n"))
	}
}

func TestServerAddress(t *testing.T) {
	for _, bad := range []string{"", "assay.example", "ftp://x", "https://", "https://x?y", "https://u:p@x", "http://a b"} {
		if _, err := New(bad, Options{}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := "Mon, 23 Nov 2026 12:00:00 GMT"
	for value, want := range map[string]time.Duration{
		"": 0, "12": 12 * time.Second, "-3": 0, "99999999999": 24 * time.Hour, "999999": 24 * time.Hour, "soon": 0,
		"Mon, 23 Nov 2026 12:00:30 GMT": 30 * time.Second, "Mon, 23 Nov 2026 11:00:00 GMT": 0, "Mon, 23 Nov 2099 11:00:00 GMT": 24 * time.Hour,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %s, not %s", value, got, want)
		}
	}
	if got := retryAfter("Mon, 23 Nov 2026 12:00:30 GMT", ""); got != 0 {
		t.Errorf("without the server's date: %s", got)
	}
}

func TestPCRValues(t *testing.T) {
	bank := tpm.Bank{Alg: tpm.SHA256, Mask: 1 << 7}
	bank.Values[7] = []byte{0xab}
	if got := PCRValues(tpm.PCRs{bank}); len(got) != 1 || len(got["sha256"]) != 1 || got["sha256"]["7"] != "ab" {
		t.Errorf("%v", got)
	}
}

// The digest is the verifier's: these are its answers (tee.Evidence.Digest).
func TestPlatformEvidenceDigest(t *testing.T) {
	whole := &PlatformEvidence{Type: AzureHCL, HCLReport: []byte("hcl"), Report: []byte("report"), Quote: []byte("quote"), EventLog: []byte("log"),
		Certificates: [][]byte{[]byte("one"), []byte("two")}}
	for want, e := range map[string]*PlatformEvidence{
		"sha256:239bbc7aa368d48a08999536354afcf2012450b1659b7caa0fcfd07b94287d8e": whole,
		"sha256:bd05b17adc7cdb826a8fbda77529ccb0346c56d97080045e344527b5d040b9c2": {Type: TDX},
	} {
		if got := e.Digest(); got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
	for _, other := range []*PlatformEvidence{{Type: AzureHCL, HCLReport: []byte("ab")}, {Type: AzureHCL, HCLReport: []byte("a"), Report: []byte("b")}, {Type: AzureHCL, Report: []byte("ab")}} {
		if other.Digest() == (&PlatformEvidence{Type: AzureHCL, Quote: []byte("ab")}).Digest() {
			t.Errorf("%+v", other)
		}
	}
}
