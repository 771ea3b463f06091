package server

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5/middleware"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/limit"
)

// Limits bound what clients may take. Of rates and numbers zero is no limit; of gates it is not allowed. deploy/LIMITS.md has them in
// one table.
type Limits struct {
	Machine   limit.Rate // requests of one machine
	Principal limit.Rate // of one person, pipeline or relying party
	Join      limit.Rate // with one join token
	Source    limit.Rate // without a token, from one address
	Failures  limit.Rate // refused tokens, from one address

	MachineShare   int // requests of one machine in work at once
	PrincipalShare int // of one person, pipeline or relying party

	Appraisals int // at work at once: evidence, challenges, event logs, results
	Enrolments int // enrolments and activations
	Imports    int // reference values, collateral, revocations: what is parsed and verified at length
	Trials     int // what judges stored evidence
	Queries    int // reads of the database, pages included
	Changes    int // all other writes
	Queue      int // requests that wait at each of these, or are still sending
	QueueWait  time.Duration

	Connections limit.Connections

	// Proxies are the networks of proxies whose X-Forwarded-For is believed.
	Proxies []netip.Prefix
}

// DefaultLimits are far above what a fleet does: ten thousand machines behind one address may boot at once.
func DefaultLimits() Limits {
	return Limits{
		Machine: limit.Rate{PerSecond: 50, Burst: 500}, Principal: limit.Rate{PerSecond: 200, Burst: 4000},
		Join: limit.Rate{PerSecond: 500, Burst: 20_000}, Source: limit.Rate{PerSecond: 500, Burst: 20_000}, Failures: limit.Rate{PerSecond: 50, Burst: 5000},
		MachineShare: 8, PrincipalShare: 64,
		Appraisals: 256, Enrolments: 16, Imports: 4, Trials: 4, Queries: 32, Changes: 32, Queue: 10_000, QueueWait: 10 * time.Second,
		Connections: limit.Connections{Most: 20_000, PerSource: 15_000, SourceRate: limit.Rate{PerSecond: 500, Burst: 20_000}},
	}
}

// gate names a kind of work that has slots of its own.
type gate string

const (
	gateNone      gate = ""
	gateAppraisal gate = "appraisal"
	gateEnrolment gate = "enrolment"
	gateImport    gate = "import"
	gateTrial     gate = "trial"
	gateQuery     gate = "query"
	gateChange    gate = "change"
)

// gates are the operations that are neither a plain read (gateQuery) nor a plain write (gateChange).
var gates = map[string]gate{
	"getHealth": gateNone, "getReadiness": gateNone, "getJWKS": gateNone, "getOpenIDConfiguration": gateNone, "getOpenAPI": gateNone, "getDocs": gateNone,
	"createChallenge": gateAppraisal, "submitEvidence": gateAppraisal, "putEventLog": gateAppraisal, "createResult": gateAppraisal,
	"createEnrollment": gateEnrolment, "activateEnrollment": gateEnrolment, "vouchAttestationKey": gateEnrolment,
	"importBaseline": gateImport, "createBaseline": gateImport, "createBaselineVersion": gateImport, "captureBaseline": gateImport,
	"putCollateral": gateImport, "putRevocations": gateImport, "createTrustAnchor": gateImport,
	"dryRunBaselineVersion": gateTrial, "dryRunReferenceValues": gateTrial, "testPolicy": gateTrial, "simulateSuppressionRule": gateTrial,
	"createReappraisal": gateTrial, "previewApproval": gateTrial, "approveAlert": gateTrial, "diffBaselineVersion": gateTrial,
}

func gateOf(operation string, write bool) gate {
	if g, own := gates[operation]; own {
		return g
	}
	if write {
		return gateChange
	}
	return gateQuery
}

// Bounds of what is remembered of who asks how often.
const (
	maxLimitedPrincipals = 1 << 18
	maxLimitedSources    = 1 << 16
)

// who is the key of a principal's limits.
type who struct {
	kind role
	id   string
}

// limiter decides who has to wait. Nothing of it is shared with other replicas: behind a balancer a client has the limits of
// each.
type limiter struct {
	machine, principal, join     *limit.Buckets[who]
	source, failures             *limit.Buckets[netip.Addr]
	machineShare, principalShare *limit.Shares[who]
	gates                        map[gate]*limit.Gate
	proxies                      []netip.Prefix
	now                          func() time.Time
	refused                      func(limit string)
}

func newLimiter(l Limits, now func() time.Time, refused func(string)) (*limiter, error) {
	start := now()
	out := &limiter{
		machine:   limit.NewBuckets[who](l.Machine, maxLimitedPrincipals, start),
		principal: limit.NewBuckets[who](l.Principal, maxLimitedPrincipals, start),
		join:      limit.NewBuckets[who](l.Join, maxLimitedPrincipals, start),
		source:    limit.NewBuckets[netip.Addr](l.Source, maxLimitedSources, start),
		failures:  limit.NewBuckets[netip.Addr](l.Failures, maxLimitedSources, start),

		machineShare: limit.NewShares[who](l.MachineShare), principalShare: limit.NewShares[who](l.PrincipalShare),
		gates: map[gate]*limit.Gate{}, proxies: l.Proxies, now: now, refused: refused,
	}
	for name, size := range map[gate]int{gateAppraisal: l.Appraisals, gateEnrolment: l.Enrolments, gateImport: l.Imports,
		gateTrial: l.Trials, gateQuery: l.Queries, gateChange: l.Changes} {
		if size < 1 || l.Queue < 0 || l.QueueWait <= 0 {
			return nil, errors.New("server: Limits: each kind of work needs a slot, and a time to wait")
		}
		out.gates[name] = limit.NewGate(size, l.Queue, l.QueueWait)
	}
	return out, nil
}

// limited is the refusal of who asks too often.
func (l *limiter) limited(which, detail string, wait time.Duration) error {
	l.refused(which)
	seconds := int(min(wait/time.Second+1, 3600))
	return refuse(codeRateLimited, detail).with("Retry-After", strconv.Itoa(seconds))
}

// Who is told to come back later does so between these times, by chance, so that those who were refused together do not come
// back together.
const (
	minRetry = 2 // seconds
	maxRetry = 15
)

func (l *limiter) overloaded(which, detail string) error {
	l.refused(which)
	return refuse(codeOverloaded, detail).with("Retry-After", strconv.Itoa(minRetry+rand.IntN(maxRetry-minRetry+1))) // #nosec G404 -- spreads clients, decides nothing
}

// take counts a request of a principal that was let in; of one without a token by its address.
func (l *limiter) take(ctx context.Context, p *principal) error {
	if isInner(ctx) {
		return nil
	}
	switch p.kind {
	case rolePublic:
		if wait, ok := l.source.Take(traceOf(ctx).source(), 1, l.now()); !ok {
			return l.limited("rate_source", "too many requests without a token come from this address", wait)
		}
	case roleMachine:
		if wait, ok := l.machine.Take(who{p.kind, p.id}, 1, l.now()); !ok {
			return l.limited("rate_machine", "this machine asks too often", wait)
		}
	case roleJoin:
		if wait, ok := l.join.Take(who{p.kind, p.id}, 1, l.now()); !ok {
			return l.limited("rate_join", "too many machines enrol with this token at once", wait)
		}
	default:
		if wait, ok := l.principal.Take(who{p.kind, p.id}, 1, l.now()); !ok {
			return l.limited("rate_principal", "this principal asks too often", wait)
		}
	}
	return nil
}

// mayTry refuses an address from which too many tokens were refused, before one more is looked up or its signature verified. A
// token that is known without (a machine's, or one that was looked up a moment ago) is not asked about its address.
func (l *limiter) mayTry(ctx context.Context) error {
	if wait, ok := l.failures.Has(traceOf(ctx).source(), l.now()); !ok {
		return l.limited("rate_failures", "too many tokens that are not valid come from this address", wait)
	}
	return nil
}

// failed counts a token that was refused. From an address with too many of them the answer is no longer what was wrong.
func (l *limiter) failed(ctx context.Context, err error) error {
	var e *requestError
	if !errors.As(err, &e) || e.code == codeRateLimited || e.header.Get("WWW-Authenticate") == "" {
		return err
	}
	if wait, ok := l.failures.Take(traceOf(ctx).source(), 1, l.now()); !ok {
		return l.limited("rate_failures", "too many tokens that are not valid come from this address", wait)
	}
	return err
}

// foreignCost is what evidence counts whose nonce was never ours: each leaves an audit record, and may be compared with the keys
// of other machines.
const foreignCost = 10

// refusedEvidence counts evidence that was refused for its nonce as more than a request.
func (l *limiter) refusedEvidence(p *principal, err error) {
	var use *attest.Error
	if errors.As(err, &use) && use.Code == attest.CodeUnknownChallenge {
		l.machine.Charge(who{p.kind, p.id}, foreignCost-1, l.now())
	}
}

// turn is a request that was let in. It is the writer of its answer, too, and gives its slot back when the answer begins:
// what is written then is ready, and a client that does not read it holds nothing that others wait for.
type turn struct {
	http.ResponseWriter
	pass  limit.Pass
	share *limit.Shares[who]
	who   who
}

// begin lets a request in, before its body is read: its principal must not have its share in work already, nor may too many
// wait at the gate. End must be called.
func (l *limiter) begin(ctx context.Context, w http.ResponseWriter, p *principal, at gate) (*turn, error) {
	t := &turn{ResponseWriter: w}
	if isInner(ctx) {
		return t, nil
	}
	pass, err := l.gates[at].Reserve()
	if err != nil {
		return nil, l.overloaded("gate_"+string(at), "too many requests wait already")
	}
	t.pass = pass
	var which string
	switch p.kind {
	case rolePublic, roleJoin: // stands for many
		return t, nil
	case roleMachine:
		t.share, which = l.machineShare, "share_machine"
	default:
		t.share, which = l.principalShare, "share_principal"
	}
	t.who = who{p.kind, p.id}
	if !t.share.Enter(t.who) {
		t.pass.Leave()
		return nil, l.limited(which, "too many requests of this principal are in work", 0)
	}
	return t, nil
}

// enter waits for a slot, once all is there that the work needs.
func (t *turn) enter(ctx context.Context, l *limiter, at gate) error {
	err := t.pass.Enter(ctx)
	if errors.Is(err, limit.ErrOverloaded) {
		return l.overloaded("gate_"+string(at), "the request waited too long for its turn")
	}
	return err
}

// readUntil sets until when more may come on the connection.
func (t *turn) readUntil(until time.Time) { setReadDeadline(t.ResponseWriter, until) }

func (t *turn) end() {
	t.pass.Leave()
	t.share.Leave(t.who)
}

// Write implements http.ResponseWriter.
func (t *turn) Write(b []byte) (int, error) {
	t.pass.Leave()
	return t.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController find what it controls.
func (t *turn) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// pageReadTime is how long the form of a page may take to come, and a page that has one to be made.
const pageReadTime = time.Minute

// limitedPages lets pages in as reads, and counts requests and refused sign-ins by their address.
func (s *Server) limitedPages(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, l := r.Context(), s.limits
		signIn := r.Method == http.MethodPost && r.URL.Path == "/ui/sign-in"
		err := l.take(ctx, &principal{kind: rolePublic})
		if err == nil && signIn {
			err = l.mayTry(ctx)
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		t, err := l.begin(ctx, w, &principal{kind: rolePublic}, gateQuery)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		defer t.end()
		if err := t.enter(ctx, l, gateQuery); err != nil {
			s.fail(w, r, err)
			return
		}
		t.readUntil(time.Now().Add(pageReadTime))
		answer := middleware.NewWrapResponseWriter(t, r.ProtoMajor)
		next.ServeHTTP(answer, r)
		if signIn && answer.Status() == http.StatusForbidden {
			l.failures.Charge(traceOf(ctx).source(), 1, l.now())
		}
	})
}

type innerKey struct{}

// isInner tells of a request that a page makes out of one that was let in already.
func isInner(ctx context.Context) bool { return ctx.Value(innerKey{}) != nil }
