package ui_test

import (
	"context"
	"crypto/sha256"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/server/ui"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/store/embedded"
)

// db is one real Postgres for all tests of the package, started by the first that needs it; each fleet is a
// tenant of its own.
var (
	db           *store.Store
	startDB      sync.Once
	stopDatabase = func() {}
)

func TestMain(m *testing.M) {
	code := m.Run()
	stopDatabase()
	os.Exit(code)
}

// database starts Postgres. Its life is the test binary's, not one test's.
func database(t testing.TB) *store.Store {
	t.Helper()
	startDB.Do(func() {
		ctx := context.Background()
		dir, err := os.MkdirTemp("", "ui")
		must(t, err)
		pg, err := embedded.Start(ctx, embedded.Config{DataDir: dir})
		must(t, err)
		stopDatabase = func() {
			if db != nil {
				db.Close()
			}
			_ = pg.Stop(ctx)
			_ = os.RemoveAll(dir)
		}
		must(t, store.Migrate(ctx, pg.URL()))
		db, err = store.Open(ctx, pg.URL(), store.Options{})
		must(t, err)
	})
	if db == nil {
		t.Fatal("the database did not start")
	}
	return db
}

// authenticate is what the service does with a bearer token.
func authenticate(now func() time.Time) func(context.Context, string) (ui.Principal, error) {
	return func(ctx context.Context, bearer string) (ui.Principal, error) {
		sum := sha256.Sum256([]byte(bearer))
		tenant, token, err := db.LookupAPIToken(ctx, sum[:], now())
		if err != nil {
			return ui.Principal{}, err
		}
		return ui.Principal{Tenant: tenant, TokenID: token.ID, Name: token.Name, Role: token.Role, Owner: token.Owner, Scope: token.Scope}, nil
	}
}

// site is the pages of a fleet behind a real HTTP server.
func (f *fleet) site(t testing.TB) *httptest.Server {
	t.Helper()
	handler, err := ui.New(ui.Config{May: server.RoleMay, Store: db, EventLog: f.eventLog, Authenticate: authenticate(f.clock), Now: f.clock, Version: "1.2.3"})
	must(t, err)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// browser is an HTTP client that keeps cookies and does not follow redirects.
func browser(t testing.TB) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	must(t, err)
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func signIn(t testing.TB, site *httptest.Server, token string) *http.Client {
	t.Helper()
	c := browser(t)
	res, err := c.PostForm(site.URL+"/ui/sign-in", url.Values{"token": {token}})
	must(t, err)
	_ = res.Body.Close()
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/ui/" {
		t.Fatalf("sign in: %s to %q", res.Status, res.Header.Get("Location"))
	}
	return c
}

// clock is the fleet's: it stands still.
func (f *fleet) clock() time.Time { return f.now }
