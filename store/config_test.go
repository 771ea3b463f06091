package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

func reference(pcr7 string) store.BaselineVersion {
	return store.BaselineVersion{Reference: verifier.ReferenceValues{PCRs: map[string]map[string][]string{"sha256": {"7": {pcr7}}}}, Provenance: []byte(`{"commit":"c"}`)}
}

// valid is the reference values that a machine is judged against, in order.
func valid(t *testing.T, s *store.Store, machine uuid.UUID, now time.Time) string {
	t.Helper()
	in := must[store.AppraisalInputs](t)(s.AppraisalInputs(t.Context(), tenant, machine, now))
	out := ""
	for _, v := range in.Versions {
		out += v.Reference.PCRs["sha256"]["7"][0] + " "
	}
	return out
}

func TestBaselineVersions(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	e := active(t, s, joinToken(t, s, "j", 9), "web-1") // in scale set web
	at := func(minutes int) time.Time { return t0.Add(time.Duration(minutes) * time.Minute) }
	expect := func(now time.Time, want string) {
		t.Helper()
		if got := valid(t, s, e.MachineID, now); got != want {
			t.Errorf("judged against %q, want %q", got, want)
		}
	}
	expect(t0, "")
	v1 := must[store.BaselineVersion](t)(s.CreateBaseline(ctx, tenant, "web", verifier.Selector{ScaleSet: []string{"web"}}, reference("v1"), t0, system))
	if v1.Version != 1 || v1.State != "active" || v1.Origin != "registered" || v1.CreatedBy != "system:test" {
		t.Errorf("version 1 is %+v", v1)
	}
	expect(t0, "v1 ")
	if _, err := s.CreateBaseline(ctx, tenant, "web", verifier.Selector{}, reference("x"), t0, system); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a second baseline of the name: %v", err)
	}
	must[store.BaselineVersion](t)(s.CreateBaseline(ctx, tenant, "other", verifier.Selector{ScaleSet: []string{"db"}}, reference("db"), t0, system))
	must[store.BaselineVersion](t)(s.CreateBaseline(ctx, tenant, "all", verifier.Selector{}, reference("all"), t0, system))
	must[store.BaselineVersion](t)(s.CreateBaseline(ctx, tenant, "mine", verifier.Selector{MachineIDs: []string{e.MachineID.String()}}, reference("mine"), t0, system))
	expect(t0, "mine v1 all ")

	v2 := must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, v1.BaselineID, reference("v2"), at(1), system))
	if v2.State != "draft" || v2.Version != 2 {
		t.Errorf("version 2 is %+v", v2)
	}
	expect(at(1), "mine v1 all ")
	grace := at(10)
	must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, v1.BaselineID, 2, store.Promotion{Grace: store.Grace{Until: &grace}}, at(2), system))
	expect(at(9), "mine v2 all v1 ")
	expect(at(10), "mine v2 all ")
	if _, err := s.PromoteVersion(ctx, tenant, v1.BaselineID, 2, store.Promotion{}, at(2), system); !errors.Is(err, store.ErrConflict) {
		t.Errorf("promoting the active version: %v", err)
	}
	if _, err := s.PromoteVersion(ctx, tenant, v1.BaselineID, 9, store.Promotion{}, at(2), system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("promoting no version: %v", err)
	}
	active := reference("v3")
	active.State = "active"
	if _, err := s.AddBaselineVersion(ctx, tenant, v1.BaselineID, active, at(3), system); !errors.Is(err, store.ErrConflict) {
		t.Errorf("adding a second active version: %v", err)
	}
	must[store.BaselineVersion](t)(s.AddBaselineVersion(ctx, tenant, v1.BaselineID, reference("v3"), at(3), system))
	must[store.BaselineVersion](t)(s.PromoteVersion(ctx, tenant, v1.BaselineID, 3, store.Promotion{}, at(4), system))
	expect(at(5), "mine v3 all v1 ")
	must[store.BaselineVersion](t)(s.RetireVersion(ctx, tenant, v1.BaselineID, 3, store.Retirement{}, at(6), system))
	if _, err := s.RetireVersion(ctx, tenant, v1.BaselineID, 3, store.Retirement{}, at(6), system); !errors.Is(err, store.ErrConflict) {
		t.Errorf("retiring twice: %v", err)
	}
	expect(at(6), "mine all v1 ")

	b := must[store.Baseline](t)(s.GetBaseline(ctx, tenant, v1.BaselineID))
	states := ""
	for _, v := range b.Versions {
		states += fmt.Sprintf("%d:%s ", v.Version, v.State)
	}
	if states != "3:retired 2:retired 1:grace " || b.Versions[2].Reference.PCRs["sha256"]["7"][0] != "v1" || b.Name != "web" || !b.UpdatedAt.Equal(at(6)) {
		t.Errorf("versions %s of %+v", states, b)
	}
	one := must[store.BaselineVersion](t)(s.GetBaselineVersion(ctx, tenant, v1.BaselineID, 1))
	if one.Reference.PCRs["sha256"]["7"][0] != "v1" || string(one.Provenance) != `{"commit":"c"}` {
		t.Errorf("version 1 is %+v", one)
	}
	if _, err := s.GetBaseline(ctx, tenant, uuid.New()); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.GetBaselineVersion(ctx, tenant, v1.BaselineID, 9); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	list, next, err := s.ListBaselines(ctx, tenant, store.BaselineFilter{}, store.Page{Limit: 3})
	must0(t, err)
	more, end, err := s.ListBaselines(ctx, tenant, store.BaselineFilter{}, store.Page{Limit: 3, Cursor: next})
	must0(t, err)
	versions := 0
	for _, b := range append(list, more...) {
		versions += len(b.Versions)
	}
	if len(list) != 3 || len(more) != 1 || end != "" || versions != 6 {
		t.Errorf("pages of %d and %d baselines with %d versions", len(list), len(more), versions)
	}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if _, err := s.AddBaselineVersion(ctx, tenant, v1.BaselineID, reference("race"), at(7), system); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if b := must[store.Baseline](t)(s.GetBaseline(ctx, tenant, v1.BaselineID)); b.Versions[0].Version != 13 || len(b.Versions) != 13 {
		t.Errorf("after ten concurrent additions the newest of %d versions is %d", len(b.Versions), b.Versions[0].Version)
	}
}

// A replica sees at once what another has configured.
func TestConfigurationReachesOtherReplicas(t *testing.T) {
	u := emptyDatabase(t, "template_assay")
	one, two := open(t, u, store.Options{}), open(t, u, store.Options{})
	must0(t, one.EnsureTenant(t.Context(), tenant, t0))
	must0(t, two.EnsureTenant(t.Context(), tenant, t0))
	e := active(t, one, joinToken(t, one, "j", 9), "web-1")
	interval := func() int {
		return must[store.AppraisalInputs](t)(two.AppraisalInputs(t.Context(), tenant, e.MachineID, t0)).Policy.AttestationIntervalSeconds
	}
	if interval() != 300 {
		t.Errorf("the default interval is %d", interval())
	}
	put := func(name string, seconds int, sel verifier.Selector) store.PolicyVersion {
		p := verifier.DefaultPolicy()
		p.AttestationIntervalSeconds, p.Selector = seconds, sel
		return must[store.PolicyVersion](t)(one.PutPolicy(t.Context(), tenant, name, p, t0, system))
	}
	if v := put("default", 60, verifier.Selector{}); v.Version != 2 || interval() != 60 {
		t.Errorf("version %d of the default policy, interval %d", v.Version, interval())
	}
	put("a-platform", 70, verifier.Selector{Platform: []string{"gcp"}})
	put("b-web", 80, verifier.Selector{ScaleSet: []string{"web"}})
	if interval() != 80 {
		t.Errorf("with a policy for the scale set the interval is %d", interval())
	}
	put("c-machine", 90, verifier.Selector{MachineIDs: []string{e.MachineID.String()}})
	if interval() != 90 {
		t.Errorf("with a policy for the machine the interval is %d", interval())
	}
	m := must[store.Machine](t)(two.GetMachine(t.Context(), tenant, e.MachineID))
	if p, ref, err := two.PolicyFor(t.Context(), tenant, m); err != nil || p.AttestationIntervalSeconds != 90 || ref.Version != 1 {
		t.Errorf("PolicyFor: %+v %+v %v", p, ref, err)
	}
	got := must[store.PolicyVersion](t)(two.GetPolicy(t.Context(), tenant, "b-web"))
	all := allOf(t, func(p store.Page) ([]store.PolicyVersion, string, error) {
		return two.ListPolicies(t.Context(), tenant, "", p)
	})
	if got.Policy.AttestationIntervalSeconds != 80 || len(all) != 4 || all[0].Name != "a-platform" {
		t.Errorf("policies %+v", all)
	}
	if _, err := two.GetPolicy(t.Context(), tenant, "none"); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

func TestTokensAndKeys(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	expires := t0.Add(time.Hour)
	must0(t, s.CreateAPIToken(ctx, tenant, store.APIToken{Name: "n", Role: store.RoleReader, ExpiresAt: &expires, CreatedAt: t0}, hash("api"), system))
	who, tok, err := s.LookupAPIToken(ctx, hash("api"), t0)
	if err != nil || who != tenant || tok.Role != store.RoleReader || tok.Name != "n" || !tok.LastUsed.Equal(t0) {
		t.Errorf("token %+v of %s, %v", tok, who, err)
	}
	for story, err := range map[string]error{
		"unknown": second(s.LookupAPIToken(ctx, hash("other"), t0)), "expired": second(s.LookupAPIToken(ctx, hash("api"), expires)),
	} {
		if !errors.Is(err, store.ErrTokenInvalid) {
			t.Errorf("%s token: %v", story, err)
		}
	}
	if list, _, err := s.ListAPITokens(ctx, tenant, store.TokenFilter{}, store.Page{}); err != nil || len(list) != 1 || list[0].ID != tok.ID {
		t.Errorf("tokens %+v, %v", list, err)
	}
	joinToken(t, s, "j", 2)
	if _, j, err := s.LookupJoinToken(ctx, hash("j"), t0); err != nil || j.UsesLeft != 2 {
		t.Errorf("join token %+v, %v", j, err)
	}
	if list, _, err := s.ListJoinTokens(ctx, tenant, store.TokenFilter{}, store.Page{}); err != nil || len(list) != 1 {
		t.Errorf("join tokens %+v, %v", list, err)
	}

	var wg sync.WaitGroup
	var mu sync.Mutex
	keys := map[string]bool{}
	for i := range 10 {
		wg.Go(func() {
			k, err := s.ServiceKey(ctx, tenant, "mac", func() ([]byte, error) { return fmt.Appendf(nil, "key %d", i), nil })
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			keys[string(k)] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	rows := must[[]store.ServiceKeyRow](t)(s.ServiceKeys(ctx, tenant, "mac"))
	if len(keys) != 1 || len(rows) != 1 || !keys[string(rows[0].Key.Reveal())] {
		t.Errorf("ten replicas have the keys %v, stored are %d", keys, len(rows))
	}
	if _, err := s.ServiceKey(ctx, tenant, "broken", func() ([]byte, error) { return nil, errAny }); !errors.Is(err, errAny) {
		t.Errorf("generate failed, and ServiceKey says %v", err)
	}
}

func second[A, B any](_ A, _ B, err error) error { return err }

func TestTrustAnchors(t *testing.T) {
	s, _ := newStore(t)
	ctx := t.Context()
	a := must[store.TrustAnchor](t)(s.CreateTrustAnchor(ctx, tenant, store.TrustAnchor{Name: "vendor", Purpose: "ek",
		Certificates: []store.TrustCertificate{{DER: []byte{1}, Subject: "one", Fingerprint: "f1", NotAfter: t0}, {DER: []byte{2}, Subject: "two", Fingerprint: "f2", NotAfter: t0}}}, t0, system))
	must[store.TrustAnchor](t)(s.CreateTrustAnchor(ctx, tenant, store.TrustAnchor{Name: "cloud", Purpose: "ak"}, t0.Add(time.Second), system))
	ek := must[[]store.TrustAnchor](t)(s.TrustAnchorsFor(ctx, tenant, "ek"))
	all := allOf(t, func(p store.Page) ([]store.TrustAnchor, string, error) {
		return s.ListTrustAnchors(ctx, tenant, store.TrustAnchorFilter{}, p)
	})
	if len(ek) != 1 || len(ek[0].Certificates) != 2 || ek[0].Certificates[1].Subject != "two" || ek[0].Certificates[0].DER[0] != 1 || len(all) != 2 || all[0].Name != "cloud" {
		t.Errorf("anchors %+v of %+v", ek, all)
	}
	must[store.TrustAnchor](t)(s.DeleteTrustAnchor(ctx, tenant, a.ID, t0, system))
	if _, err := s.DeleteTrustAnchor(ctx, tenant, a.ID, t0, system); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleting twice: %v", err)
	}
	if left := must[[]store.TrustAnchor](t)(s.TrustAnchorsFor(ctx, tenant, "ek")); len(left) != 0 {
		t.Errorf("left are %+v", left)
	}
}

func TestIdempotency(t *testing.T) {
	s, _ := newStore(t)
	begin := func(principal, key, request string, now time.Time) (*store.IdempotentResponse, error) {
		return s.BeginIdempotent(t.Context(), tenant, principal, key, hash(request), now)
	}
	expect := func(story string, err error, r *store.IdempotentResponse, wantErr error, wantBody string) {
		t.Helper()
		body := ""
		if r != nil {
			body = string(r.Body)
		}
		if !errors.Is(err, wantErr) || body != wantBody {
			t.Errorf("%s: %q, %v; want %q, %v", story, body, err, wantBody, wantErr)
		}
	}
	r, err := begin("p", "k", "request", t0)
	expect("first", err, r, nil, "")
	r, err = begin("p", "k", "request", t0)
	expect("while it runs", err, r, store.ErrConflict, "")
	must0(t, s.FinishIdempotent(t.Context(), tenant, "p", "k", store.IdempotentResponse{Status: 201, ContentType: "x", Body: []byte("answer")}, t0))
	r, err = begin("p", "k", "request", t0)
	expect("again", err, r, nil, "answer")
	r, err = begin("p", "k", "other", t0)
	expect("another request", err, r, store.ErrConflict, "")
	r, err = begin("q", "k", "other", t0)
	expect("another principal", err, r, nil, "")
	must0(t, s.AbandonIdempotent(t.Context(), tenant, "q", "k"))
	r, err = begin("q", "k", "third", t0)
	expect("after it was abandoned", err, r, nil, "")
	r, err = begin("q", "k", "third", t0.Add(3*time.Minute))
	expect("after the service was killed", err, r, nil, "")
	r, err = begin("p", "k", "other", t0.Add(24*time.Hour))
	expect("a day later", err, r, nil, "")
}

// A page begins where the one before it ended, whatever is inserted meanwhile.
func TestPagesAreStableWhileRowsAreInserted(t *testing.T) {
	s, _ := newStore(t)
	add := func(from, to int) {
		for i := from; i < to; i++ {
			must[[]store.Machine](t)(s.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: fmt.Sprintf("m%03d", i)}}, nil, t0.Add(time.Duration(i)*time.Second), system))
		}
	}
	add(0, 25)
	var names []string
	cursor := ""
	for page := 0; ; page++ {
		items, next, err := s.ListMachines(t.Context(), tenant, store.MachineFilter{}, store.Page{Limit: 10, Cursor: cursor})
		must0(t, err)
		for _, m := range items {
			names = append(names, m.Name)
		}
		add(100+10*page, 110+10*page)
		if cursor = next; next == "" {
			break
		}
	}
	if len(names) != 25 || names[0] != "m024" || names[24] != "m000" {
		t.Errorf("pages hold %v", names)
	}
	token := joinToken(t, s, "j", 99)
	for i := range 5 {
		record(t, s, judgement(active(t, s, token, fmt.Sprint("a", i)), t0, verifier.Affirming, "good"))
	}
	seen := map[uuid.UUID]bool{}
	for cursor = ""; ; {
		items, next, err := s.ListAssessments(t.Context(), tenant, store.AssessmentFilter{}, store.Page{Limit: 2, Cursor: cursor})
		must0(t, err)
		for _, a := range items {
			seen[a.MachineID] = true
		}
		if cursor = next; next == "" {
			break
		}
	}
	if len(seen) != 5 {
		t.Errorf("pages of assessments show %d machines, want 5", len(seen))
	}
	_, foreign, err := s.ListMachines(t.Context(), tenant, store.MachineFilter{}, store.Page{Limit: 1})
	must0(t, err)
	for _, bad := range []string{"x", "!", foreign} {
		if _, _, err := s.ListVerdicts(t.Context(), tenant, store.VerdictFilter{}, store.Page{Cursor: bad}); !errors.Is(err, store.ErrInvalidCursor) {
			t.Errorf("cursor %q: %v", bad, err)
		}
	}
}

func TestMigrate(t *testing.T) {
	u := emptyDatabase(t, "")
	s := open(t, u, store.Options{})
	if err := s.CheckMigrations(t.Context()); err == nil {
		t.Error("an empty database passes for migrated")
	}
	must0(t, store.Migrate(t.Context(), u))
	must0(t, store.Migrate(t.Context(), u))
	must0(t, s.CheckMigrations(t.Context()))
	must0(t, s.Ping(t.Context()))
	if v, dirty, err := s.MigrationVersion(t.Context()); err != nil || dirty || v == 0 {
		t.Errorf("version %d, dirty %v, %v", v, dirty, err)
	}
	if n := must[int](t)(s.MakePartitions(t.Context(), t0, 2)); n != 9 {
		t.Errorf("made %d partitions, want three of three tables", n)
	}
	must0(t, s.EnsureTenant(t.Context(), tenant, t0))
	record(t, s, judgement(active(t, s, joinToken(t, s, "j", 1), "a"), t0, verifier.Affirming, "good"))
}

func TestBootLogs(t *testing.T) {
	s, _ := newStore(t)
	if err := s.PutBootLog(t.Context(), tenant, hash("other"), []byte("log"), t0); err == nil {
		t.Error("a log was stored under a name that it does not hash to")
	}
	for range 2 {
		must0(t, s.PutBootLog(t.Context(), tenant, hash("log"), []byte("log"), t0))
	}
	if !must[bool](t)(s.HasBootLog(t.Context(), tenant, hash("log"))) || must[bool](t)(s.HasBootLog(t.Context(), uuid.New(), hash("log"))) {
		t.Error("HasBootLog is wrong about a log or a tenant")
	}
	if _, err := s.GetBootLog(t.Context(), tenant, hash("none")); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

func TestAuditOfUnknownChallenge(t *testing.T) {
	s, conn := newStore(t)
	must0(t, s.RecordUnknownChallenge(t.Context(), tenant, uuid.New(), []byte(`{"nonce":"aa"}`), t0, store.Actor{Kind: "machine", ID: "m", RemoteAddr: "192.0.2.1", RequestID: "r"}))
	if n := number(t, conn, `SELECT count(*) FROM audit_events WHERE action = 'evidence.unknown_challenge' AND remote_addr = '192.0.2.1' AND request_id = 'r' AND after->>'nonce' = 'aa'`); n != 1 {
		t.Errorf("%d audit records", n)
	}
}
