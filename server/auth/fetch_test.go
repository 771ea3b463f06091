package auth

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/server/auth/authtest"
)

func fetcherOf(i *authtest.Issuer, r Reach) *fetcher { return newFetcher(r, i.Roots()) }

// fails makes sure that an issuer's keys cannot be had, and that the reason says so.
func fails(t *testing.T, f *fetcher, issuer, want string) {
	t.Helper()
	_, _, err := f.keys(t.Context(), issuer)
	var e *fetchError
	if !errors.As(err, &e) || !strings.Contains(e.text, want) {
		t.Errorf("%v, not %q", err, want)
	}
}

func TestDiscoveryMustBeOfTheIssuer(t *testing.T) {
	i := authtest.Start(t, true)
	f := fetcherOf(i, Reach{Private: true})
	if _, life, err := f.keys(t.Context(), i.URL()); err != nil || life != 10*time.Minute {
		t.Fatal(life, err)
	}
	for _, name := range []string{"https://evil.example", i.URL() + "/", strings.ToUpper(i.URL())} {
		i.Change(func(i *authtest.Issuer) { i.Name = name })
		fails(t, f, i.URL(), "of another issuer")
	}
}

func TestKeysAddress(t *testing.T) {
	i := authtest.Start(t, true)
	f := fetcherOf(i, Reach{Private: true})
	for address, want := range map[string]string{
		"http://" + strings.TrimPrefix(i.URL(), "https://") + "/keys": "jwks_uri", "file:///etc/passwd": "jwks_uri", "https://user:pass@127.0.0.1/keys": "jwks_uri",
		"https://169.254.169.254/latest/meta-data": "jwks_uri", "": "jwks_uri", "https://": "jwks_uri", i.URL() + "/nothing": "answers 404",
		i.URL() + "/.well-known/openid-configuration": "key set cannot be used", "gopher://127.0.0.1/x": "jwks_uri", "https://[fe80::1%25lo]/keys": "jwks_uri",
	} {
		i.Change(func(i *authtest.Issuer) { i.KeysURL = address })
		if address == "" {
			i.Change(func(i *authtest.Issuer) {
				i.Serve = func(w http.ResponseWriter, _ *http.Request) {
					_, _ = io.WriteString(w, `{"issuer":"`+i.URL()+`"}`)
				}
			})
		}
		fails(t, f, i.URL(), want)
		i.Change(func(i *authtest.Issuer) { i.Serve = nil })
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	target := authtest.Start(t, true)
	i := authtest.Start(t, true)
	for _, code := range []int{301, 302, 303, 307, 308} {
		i.Change(func(i *authtest.Issuer) {
			i.Serve = func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, target.URL()+r.URL.Path, code) }
		})
		fails(t, fetcherOf(i, Reach{Private: true}), i.URL(), "redirect")
	}
	if target.Asked() != 0 {
		t.Error("the target was asked")
	}
}

// endless is a document that never ends.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestGiantAnswersAreCutOff(t *testing.T) {
	i := authtest.Start(t, true)
	f := fetcherOf(i, Reach{Private: true})
	i.Change(func(i *authtest.Issuer) {
		i.Serve = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, endless{}) }
	})
	fails(t, f, i.URL(), "larger than 256 KiB")
	i.Change(func(i *authtest.Issuer) {
		i.Serve = func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/keys" {
				_, _ = io.Copy(w, endless{})
				return
			}
			_, _ = io.WriteString(w, `{"issuer":"`+i.URL()+`","jwks_uri":"`+i.URL()+`/keys"}`)
		}
	})
	fails(t, f, i.URL(), "larger than 512 KiB")
	i.Change(func(i *authtest.Issuer) {
		i.Serve = func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Long", strings.Repeat("x", 2*maxFetchedHeader))
			_, _ = io.WriteString(w, "{}")
		}
	})
	fails(t, f, i.URL(), "cannot be reached")
	// What a client that undid encodings would blow up arrives as it is, and is no JSON.
	i.Change(func(i *authtest.Issuer) {
		i.Serve = func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept-Encoding") != "" {
				t.Error("compressed answers are asked for")
			}
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>")
		}
	})
	fails(t, f, i.URL(), "a page")
}

func TestSlowIssuersAreGivenUp(t *testing.T) {
	i := authtest.Start(t, true)
	f := fetcherOf(i, Reach{Private: true})
	f.timeout = 50 * time.Millisecond
	i.Change(func(i *authtest.Issuer) {
		i.Serve = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	})
	fails(t, f, i.URL(), "cannot be reached")
	i.Change(func(i *authtest.Issuer) {
		i.Serve = func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, `{"issuer":`)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}
	})
	fails(t, f, i.URL(), "")
}

func TestPlainHTTPAndForeignCertificates(t *testing.T) {
	plain := authtest.Start(t, false)
	if err := (Reach{Private: true}).CheckIssuer(plain.URL()); err == nil {
		t.Error("http is accepted")
	}
	if err := (Reach{Insecure: true}).CheckIssuer(plain.URL()); err != nil {
		t.Error(err)
	}
	if err := (Reach{Insecure: true, Private: true}).CheckIssuer("http://10.0.0.1"); err == nil {
		t.Error("http to another host is accepted")
	}
	if _, _, err := newFetcher(Reach{Insecure: true}, nil).keys(t.Context(), plain.URL()); err != nil {
		t.Error(err)
	}
	secure := authtest.Start(t, true)
	fails(t, newFetcher(Reach{Private: true}, nil), secure.URL(), "cannot be reached") // a certificate that nobody vouches for
}

func TestPrivateAddressesAreRefusedWhenDialled(t *testing.T) {
	i := authtest.Start(t, true)
	f := fetcherOf(i, Reach{})
	fails(t, f, i.URL(), "may not ask")
	if i.Asked() != 0 {
		t.Error("it was asked")
	}
	// By a name too: what counts is the address that is dialled.
	fails(t, f, strings.Replace(i.URL(), "127.0.0.1", "localhost", 1), "may not ask")
	if err := (Reach{}).CheckIssuer("https://localhost.example"); err != nil {
		t.Error(err) // a name is judged when it is resolved
	}
}

func TestReach(t *testing.T) {
	for address, want := range map[string]struct{ public, private bool }{
		"140.82.112.3": {true, true}, "2606:50c0:8000::153": {true, true},
		"127.0.0.1": {false, true}, "::1": {false, true}, "10.1.2.3": {false, true}, "172.31.0.1": {false, true}, "192.168.1.1": {false, true}, "100.64.0.1": {false, true},
		"fd12::1": {false, true}, "64:ff9b::a9fe:a9fe": {false, false}, "2002:a9fe:a9fe::1": {false, false}, "192.0.2.1": {false, true}, "172.32.0.1": {true, true},
		"169.254.169.254": {false, false}, "::ffff:169.254.169.254": {false, false}, "fe80::1": {false, false}, "fd00:ec2::254": {false, false}, "100.100.100.200": {false, false},
		"168.63.129.16": {false, false}, "0.0.0.0": {false, false}, "::": {false, false}, "224.0.0.1": {false, false}, "255.255.255.255": {false, false}, "ff02::1": {false, false}, "0.1.2.3": {false, false},
		"::ffff:10.0.0.1": {false, true}, "::ffff:127.0.0.1": {false, true},
	} {
		a := netip.MustParseAddr(address)
		if (Reach{}).allows(a) != want.public || (Reach{Private: true}).allows(a) != want.private {
			t.Errorf("%s: public %v, private %v", address, (Reach{}).allows(a), (Reach{Private: true}).allows(a))
		}
	}
	if (Reach{}).allows(netip.Addr{}) || (Reach{Private: true}).allows(netip.Addr{}) {
		t.Error("no address is allowed")
	}
	for issuer, ok := range map[string]bool{
		"https://token.actions.githubusercontent.com": true, "https://gitlab.example:8443/sub": true, "https://a.example/?x=1": false, "https://a.example/?": false, "https://a.example/#x": false,
		"https://a.example/#": false, "https://u@a.example": false, "ftp://a.example": false, "a.example": false, "": false, "https://": false, "https://:443": false, "https://169.254.169.254": false,
		"https://127.0.0.1": false, "https://a.example/|": false, "https:a.example": false, "https://" + strings.Repeat("a", 512): false,
	} {
		if err := (Reach{}).CheckIssuer(issuer); (err == nil) != ok {
			t.Errorf("%q: %v", issuer, err)
		}
	}
}

func TestLifeOfKeys(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"": usualLife, "public": usualLife, "max-age=600": 10 * time.Minute, "public, max-age=7200": 2 * time.Hour, "max-age=0": shortestLife, "max-age=-5": shortestLife,
		"max-age=99999999999": longestLife, "max-age=99999999999999999999999": usualLife, "no-store": shortestLife, "no-cache, max-age=7200": shortestLife, `max-age="900"`: 15 * time.Minute, "max-age": usualLife, "MAX-AGE=600": 10 * time.Minute,
	} {
		if got := lifeOf([]string{header}); got != want {
			t.Errorf("%q: %s", header, got)
		}
	}
}

func TestTheFetchOutlivesTheRequestThatAsked(t *testing.T) {
	s := newScene(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.issuer.Change(func(i *authtest.Issuer) {
		i.Serve = func(w http.ResponseWriter, r *http.Request) {
			cancel()
			s.issuer.Change(func(i *authtest.Issuer) { i.Serve = nil })
			s.issuer.ServeHTTP(w, r)
		}
	})
	if _, err := s.verifier.Verify(ctx, s.token(nil)); err != nil {
		t.Error(err)
	}
	if s.provider.Keys == nil {
		t.Error("the keys were not kept")
	}
}
