package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/integration/software"
	"github.com/assay-verifier/assay/store"
)

// fuzzedOperation is an operation of the contract, and which parameter of paths names what it lists.
type fuzzedOperation struct {
	method, path string
	op           *openapi3.Operation
	lists        string
}

// apiFuzz sends requests that the contract's own schemas make, valid or nearly, of every operation and by every kind of
// principal. What answers tell (ids, names, cursors) goes into later requests.
type apiFuzz struct {
	b          *bench
	heard      *complaints
	ops        []fuzzedOperation
	known      map[string][]string // by name of the field or parameter
	spared     map[string]bool     // what the run itself needs
	principals map[string]string   // tokens
	ci         *ci
	machine    *software.Machine
	machineID  string
	bodies     map[string]func() any // what schemas cannot make, by operationId: real keys, real evidence
	answered   map[string]map[int]int
	authority  string // a root certificate in PEM
	names      int    // given so far
}

// complaints collects what the checks of an answer find wrong, so that the request can be told with it.
type complaints struct {
	testing.TB
	found []string
}

func (c *complaints) Helper()                           {}
func (c *complaints) Error(args ...any)                 { c.found = append(c.found, fmt.Sprint(args...)) }
func (c *complaints) Errorf(format string, args ...any) { c.Error(fmt.Sprintf(format, args...)) }

// TestAPIFuzz holds every answer to the contract: its status, content type and schema are documented, a problem's code is one
// that its operation lists, and nothing is the service's fault but to be busy. With ASSAY_TEST_LONG there are many more
// requests, and each run has its own; -rapid.seed repeats one.
func TestAPIFuzz(t *testing.T) {
	checks, seed := "24", "20261125"
	if os.Getenv("ASSAY_TEST_LONG") != "" {
		checks, seed = "400", "0"
	}
	for name, value := range map[string]string{"rapid.checks": checks, "rapid.seed": seed, "rapid.nofailfile": "true", "rapid.shrinktime": "10s"} {
		f := flag.Lookup(name)
		if before := f.Value.String(); before == f.DefValue { // else somebody wants it otherwise
			if err := flag.Set(name, value); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = flag.Set(name, before) })
		}
	}
	z := newAPIFuzz(t)
	rapid.Check(t, func(rt *rapid.T) {
		z.newPrincipals()
		for _, op := range rapid.Permutation(z.ops).Draw(rt, "operations") {
			z.request(rt, op)
		}
	})
	z.report(t)
}

func newAPIFuzz(t *testing.T) *apiFuzz {
	z := &apiFuzz{b: newBench(t, nil), heard: &complaints{TB: t}, known: map[string][]string{}, spared: map[string]bool{}, answered: map[string]map[int]int{}}
	doc, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	parameter := map[string]string{} // "/v1/alerts" -> "alert_id"
	for path := range doc.Paths.Map() {
		if list, rest, found := strings.Cut(path, "/{"); found {
			name, _, _ := strings.Cut(rest, "}")
			parameter[list] = name
		}
	}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths.Map())) {
		list, _, _ := strings.Cut(path, "/{")
		operations := doc.Paths.Find(path).Operations()
		for _, method := range slices.Sorted(maps.Keys(operations)) {
			z.ops = append(z.ops, fuzzedOperation{method, path, operations[method], parameter[list]})
		}
	}
	for _, token := range z.b.want(200, "GET", "/v1/api-tokens", z.b.admin, nil).json(t)["items"].([]any) {
		z.spared[token.(map[string]any)["id"].(string)] = true
	}
	z.bodies = map[string]func() any{
		"vouchAttestationKey": func() any { return map[string]any{"ak_public": z.machine.Public} },
		"submitEvidence":      func() any { return z.evidence(true) },
	}
	z.authority = fuzzedRoot(t)
	z.ci = newCI(z.b, time.Now)
	z.spared[z.ci.provider], z.spared[z.ci.rule] = true, true
	z.populate()
	return z
}

// fuzzedRoot is a self-signed root.
func fuzzedRoot(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "fuzzed"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// populate makes something of each kind that no random request would: a baseline, machines that deviate, their alerts and
// incidents, a channel.
func (z *apiFuzz) populate() {
	b := z.b
	z.newPrincipals()
	b.want(201, "POST", "/v1/machines/"+z.machineID+"/evidence", z.principals["machine"], z.evidence(false))
	b.want(201, "POST", "/v1/machines/"+z.machineID+"/baseline", b.admin, `{}`)
	b.want(201, "POST", "/v1/machines/"+z.machineID+"/evidence", z.principals["machine"], z.evidence(true))
	if _, err := b.server.store.CountIncidents(b.t.Context(), store.DefaultTenant, b.server.now()); err != nil {
		b.t.Fatal(err)
	}
	b.want(201, "POST", "/v1/webhooks", b.admin, `{"name": "siem", "url": "https://127.0.0.1:1/"}`)
	b.want(201, "POST", "/v1/machines/"+z.machineID+"/results", z.principals["machine"], `{"audience": "https://relying.example", "any_status": true}`)
	for _, op := range z.ops {
		if op.method == http.MethodGet && !strings.Contains(op.path, "{") && op.op.Security == nil {
			z.learn(op, b.call(op.method, op.path, b.admin, nil))
		}
	}
}

// newPrincipals makes a machine and tokens anew: what came before may have been revoked.
func (z *apiFuzz) newPrincipals() {
	b := z.b
	b.t.Helper()
	var err error
	if z.machine, err = software.New(); err != nil {
		b.t.Fatal(err)
	}
	if err := z.machine.Boot(bootLog(b.t, "sb-on-1")); err != nil {
		b.t.Fatal(err)
	}
	name := fmt.Sprintf("fuzzed-%d", len(z.known["machine_id"]))
	z.machineID = b.want(200, "POST", "/v1/machines", b.admin, map[string]any{"name": name, "os": "linux", "platform": "qemu", "security_type": "trusted_launch", "scale_set": "fuzz"}).text(b.t, "id")
	key := b.want(201, "POST", "/v1/machines/"+z.machineID+"/attestation-keys", b.admin, map[string]any{"ak_public": z.machine.Public})
	z.principals = map[string]string{"admin": b.admin, "machine": key.text(b.t, "machine_token"), "join": b.joinToken(), "pipeline": z.ci.token(nil), "nobody": "", "garbage": "assay_x"}
	for _, role := range []string{"reader", "relying_party"} {
		a := b.want(201, "POST", "/v1/api-tokens", b.admin, map[string]any{"name": role, "role": role, "expires_in_seconds": 36000})
		z.principals[role] = a.text(b.t, "token")
	}
	z.remember("machine_id", z.machineID)
	for _, op := range z.ops { // what came before may have been deleted
		if op.method == http.MethodPost && !strings.Contains(op.path, "{") && op.op.OperationID != "createEnrollment" {
			if body := z.fittingBody(op.op.OperationID); body != nil {
				z.learn(op, b.call(op.method, op.path, b.admin, body))
			}
		}
	}
}

// fittingBody is the contract test's body of an operation, with what it refers to, and names of its own; nil if there is none.
func (z *apiFuzz) fittingBody(operation string) any {
	raw, found := fittingBodies[operation]
	if !found {
		return nil
	}
	body := parsedJSON(z.b.t, []byte(raw))
	top, isObject := body.(map[string]any)
	if !isObject {
		return body
	}
	for field, value := range top {
		switch field {
		case "name":
			z.names++
			top[field] = fmt.Sprintf("fuzzed.%d", z.names)
		case "certificates_pem":
			top[field] = z.authority
		case "ak_public":
			top[field] = z.machine.Public
		case "provider_id":
			top[field] = z.ci.provider
		default:
			if places := unreachable[field]; places != nil {
				top[field] = places[0]
			} else if known := z.known[field]; len(known) > 0 && (strings.HasSuffix(field, "_id") || value == "x" && field == "token") {
				top[field] = known[len(known)-1]
			}
		}
	}
	return body
}

// evidence answers a fresh challenge; nil where the machine gets none any more.
func (z *apiFuzz) evidence(deviates bool) any {
	a := z.b.call("POST", "/v1/machines/"+z.machineID+"/challenges", z.principals["machine"], nil)
	if a.status != http.StatusCreated {
		return nil
	}
	boot := "sb-on-1"
	if deviates {
		boot = "cmdline"
	}
	if err := z.machine.Boot(bootLog(z.b.t, boot)); err != nil {
		z.b.t.Fatal(err)
	}
	body, err := z.machine.Evidence(fuzzedChallenge(z.b.t, a), true)
	if err != nil {
		z.b.t.Fatal(err)
	}
	return parsedJSON(z.b.t, body)
}

// report says how far the requests got, and fails where they were not near enough to valid to say much.
func (z *apiFuzz) report(t *testing.T) {
	t.Helper()
	requests, succeeded := 0, 0
	var never []string
	for _, op := range z.ops {
		name, good := op.method+" "+op.path, false
		for status, n := range z.answered[name] {
			requests += n
			good = good || status < 300
		}
		if good {
			succeeded++
		} else {
			never = append(never, name)
		}
	}
	t.Logf("%d requests; %d of %d operations succeeded at least once; the others: %s", requests, succeeded, len(z.ops), strings.Join(never, ", "))
	if succeeded < len(z.ops)*2/3 {
		t.Errorf("only %d of %d operations ever succeeded: the generators are too far from valid", succeeded, len(z.ops))
	}
}
