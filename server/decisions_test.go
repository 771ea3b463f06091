package server

import (
	"crypto/rand"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

var writeDecisions = flag.Bool("write-decisions", false, "write testdata/decisions.txt anew, to be read by a person before it is committed")

const decisionsHead = `# Who may call what: every operation of the contract as every kind of principal, as the service answered it.
#
# An administrative route that is open to anonymous callers is the failure of CVE-2026-1709; here it would be a line with
# "anonymous" under "let in" that is not public. TestDecisions fails where an answer differs from this file, and where an
# operation has no block here. go test ./server -run TestDecisions -write-decisions writes it anew; read the difference.
#
# All that a path names is of one machine of the scale set "web", or does not exist.
# let in             the request reached the operation
# 404                a GET reached the operation, and for this principal there is nothing
# 404 outside        the same answer, given because what the path names is outside of the principal's scope
`

// deciders are one credential of each kind.
func deciders(b *bench, f *fixture) map[string]string {
	b.t.Helper()
	out := map[string]string{"anonymous": "", "garbage": "assay_adm_" + strings.Repeat("A", 43), "join token": b.joinToken(), "agent": f.m.token, "agent of another": f.otherToken}
	for _, r := range personal {
		out[string(r)] = b.newToken(map[string]any{"name": string(r), "role": r})
	}
	inside, outside := map[string]any{"scale_set": []string{"web"}}, map[string]any{"scale_set": []string{"db"}}
	for _, r := range []role{roleViewer, roleResponder, roleAuthor, roleApprover, roleOperator, roleAdmin} {
		out[string(r)+" of web"] = b.newToken(map[string]any{"name": "in", "role": r, "selector": inside})
		out[string(r)+" of db"] = b.newToken(map[string]any{"name": "out", "role": r, "selector": outside})
	}
	revoked := b.want(201, "POST", "/v1/api-tokens", b.admin, `{"name": "revoked", "role": "admin"}`)
	b.want(204, "DELETE", "/v1/api-tokens/"+revoked.text(b.t, "id"), b.admin, nil)
	out["revoked admin"] = revoked.text(b.t, "token")
	out["expired admin"] = b.storedToken(store.DefaultTenant, store.APIToken{Name: "expired", Role: store.RoleAdmin, ExpiresAt: ptr(time.Now().Add(-time.Second))})
	out["admin of another tenant"] = b.storedToken(b.otherTenant(), store.APIToken{Name: "other", Role: store.RoleAdmin})
	out["pipeline with a rule"] = b.ci.token(nil)
	out["pipeline without a rule"] = b.ci.token(map[string]any{"repository": "stranger/images"})
	out["person without a binding"] = b.ci.token(map[string]any{"sub": "mallory", "repository": nil, "ref": nil})
	out["person, expired"] = b.ci.token(map[string]any{"sub": "alice", "exp": time.Now().Add(-time.Hour).Unix(), "iat": time.Now().Add(-2 * time.Hour).Unix()})
	for _, x := range []struct {
		subject  string
		role     role
		selector any
	}{{"alice", roleResponder, nil}, {"bob", roleResponder, inside}, {"carol", roleResponder, outside}} {
		b.want(201, "POST", "/v1/role-bindings", b.admin, bindingBody(b.ci.provider, map[string]any{"name": x.subject, "role": x.role, "selector": x.selector, "subject": map[string]any{"in": []string{x.subject}}}))
	}
	out["person (responder)"] = b.ci.token(map[string]any{"sub": "alice"})
	out["person (responder of web)"] = b.ci.token(map[string]any{"sub": "bob"})
	out["person (responder of db)"] = b.ci.token(map[string]any{"sub": "carol"})
	return out
}

func ptr[T any](v T) *T { return &v }

// storedToken puts a token into the database that the API would not make.
func (b *bench) storedToken(tenant uuid.UUID, t store.APIToken) string {
	b.t.Helper()
	secret, hash, err := newSecret(prefixes[role(t.Role)], rand.Reader)
	if err != nil {
		b.t.Fatal(err)
	}
	t.CreatedAt = time.Now().Add(-time.Hour)
	if err := b.store.CreateAPIToken(b.t.Context(), tenant, t, hash, store.Actor{Kind: "system"}); err != nil {
		b.t.Fatal(err)
	}
	return secret
}

func (b *bench) otherTenant() uuid.UUID {
	b.t.Helper()
	other := uuid.MustParse("01900000-0000-7000-8000-000000000002")
	if err := b.store.EnsureTenant(b.t.Context(), other, time.Now()); err != nil {
		b.t.Fatal(err)
	}
	return other
}

// decide sends a request that changes nothing: a write breaks off behind the guard's decision, since no operation takes a
// body in that encoding.
func decide(b *bench, o *operation, secret string) string {
	var header []string
	body := o.body
	if o.write() {
		header = []string{"Content-Encoding", "br"}
	} else {
		body = nil
	}
	a := b.call(o.method, o.path, secret, body, header...)
	code := a.code(b.t)
	switch {
	case o.write() && code == codeUnsupportedEncoding:
		return "let in"
	case code == codeNotFound && o.write():
		return "404 outside"
	case a.status == 401, a.status == 403:
		return fmt.Sprintf("%d %s", a.status, code)
	case a.status == 404:
		return "404"
	case a.status >= 500 && code != codeNotReady:
		b.t.Errorf("%s: %d %s", o.name, a.status, a.body)
	}
	return "let in"
}

// TestDecisions is the whole table of who may call what, as it is on the wire.
func TestDecisions(t *testing.T) {
	b := newBench(t, nil)
	f := newFixture(b)
	who := deciders(b, f)
	names := sortedKeys(who)
	before := b.rows()
	var out strings.Builder
	out.WriteString(decisionsHead)
	for _, o := range operations(t, f.m) {
		o.path = f.fill(strings.SplitN(o.name, " ", 2)[1], o.path)
		by := map[string][]string{}
		for _, name := range names {
			d := decide(b, &o, who[name])
			by[d] = append(by[d], name)
		}
		fmt.Fprintf(&out, "\n%s  [%s, scope %s]\n", o.name, o.needs, o.scope)
		decisions := sortedKeys(by)
		slices.SortFunc(decisions, func(a, b string) int {
			return strings.Compare(strings.Replace(a, "let in", "0", 1), strings.Replace(b, "let in", "0", 1))
		})
		for _, d := range decisions {
			line := strings.Join(by[d], ", ")
			if len(by[d]) == len(names) {
				line = "everybody"
			}
			fmt.Fprintf(&out, "  %-20s %s\n", d, line)
		}
	}
	b.unchangedBut(before, "audit_events") // the issuer's keys were fetched
	file := filepath.Join("testdata", "decisions.txt")
	if *writeDecisions {
		if err := os.WriteFile(file, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	was, is := strings.Split(string(golden), "\n\n"), strings.Split(out.String(), "\n\n")
	for _, block := range is {
		if !slices.Contains(was, block) {
			t.Errorf("%s does not have:\n%s", file, block)
		}
	}
	for _, block := range was {
		if !slices.Contains(is, block) {
			t.Errorf("%s has, and the service answers otherwise:\n%s", file, block)
		}
	}
}

func (b *bench) unchangedBut(before map[string]int, table string) {
	b.t.Helper()
	now := b.rows()
	before[table] = now[table]
	b.sameRows(before)
}

// TestTheTableIsWhole says once more what the golden file must never come to say.
func TestTheTableIsWhole(t *testing.T) {
	for _, needs := range permissionsOf[roleAdmin] {
		for _, kind := range []role{rolePublic, roleJoin, "", "made up", kindPerson} {
			if kind.may(needs) {
				t.Errorf("%q may %s", kind, needs)
			}
		}
	}
	for r, permissions := range permissionsOf {
		if slices.Contains(permissions, permPublic) {
			t.Errorf("%s is given what everybody may", r)
		}
		if len(permissions) != len(slices.Compact(slices.Sorted(slices.Values(permissions)))) {
			t.Errorf("%s has a permission twice", r)
		}
		if r != roleAdmin && (r.may(permTokensWrite) || r.may(permRolesWrite) || r.may(permIdentityWrite)) {
			t.Errorf("%s gives access", r)
		}
		if r != roleAdmin && r != rolePipeline && r.may(permBaselinesWrite) && (r.may(permPromote) || r.may(permApprove)) {
			t.Errorf("%s makes its own baselines count", r)
		}
	}
	for _, r := range personal {
		if !roleAdmin.covers(r) || (r != roleAdmin && r.covers(roleAdmin)) || prefixes[r] == "" {
			t.Errorf("%s is not below admin", r)
		}
	}
}
