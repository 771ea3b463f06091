package integration_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// proxy stands between agents and the service: it counts connections and keeps what was sent.
type proxy struct {
	url string

	mu       sync.Mutex
	target   *url.URL
	conns    int
	requests []request
}

type request struct {
	method, path string
	body         []byte
}

func newProxy(t *testing.T, svc *service) *proxy {
	t.Helper()
	p := &proxy{}
	p.to(t, svc)
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		p.mu.Lock()
		defer p.mu.Unlock()
		r.SetURL(p.target)
	}, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		p.requests = append(p.requests, request{r.Method, r.URL.Path, body})
		p.mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		forward.ServeHTTP(w, r)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			p.mu.Lock()
			p.conns++
			p.mu.Unlock()
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// to makes it forward to this service from now on.
func (p *proxy) to(t *testing.T, svc *service) {
	t.Helper()
	u, err := url.Parse(svc.url)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = u
}

// take gives what was sent since it was last asked.
func (p *proxy) take() (requests []request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	requests, p.requests = p.requests, nil
	return requests
}

func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns
}

// only are the requests of a method whose path has this part.
func only(all []request, method, part string) (out []request) {
	for _, r := range all {
		if r.method == method && strings.Contains(r.path, part) {
			out = append(out, r)
		}
	}
	return out
}
