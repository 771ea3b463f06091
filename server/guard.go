package server

import (
	"bytes"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline/formats"
	"github.com/assay-verifier/assay/store"
)

// guard stands before one operation: nothing behind it runs, and nothing is stored, before the caller,
// the parameters and the body have been checked.
type guard struct {
	s          *Server
	route      route
	write      bool // may carry an Idempotency-Key
	parameters parameters
	body       bodyRule
	export     *export // nil but for lists
	gate       gate    // where the work waits for its turn
	unlimited  bool    // health: asked by those who watch, however often and whatever else is going on
}

// newGuard compiles the checks of an operation out of the contract. It fails where the contract and the
// route disagree about the role, or promise what cannot be enforced.
func (s *Server) newGuard(rt route, op *openapi3.Operation, doc *openapi3.T) (*guard, error) {
	where := rt.method + " " + rt.path
	if err := rt.check(where, op); err != nil {
		return nil, err
	}
	if err := s.checkDocumentedCodes(where, op); err != nil {
		return nil, err
	}
	g := &guard{s: s, route: rt, write: rt.method != http.MethodGet, unlimited: op.OperationID == "getHealth" || op.OperationID == "getReadiness"}
	g.gate = gateOf(op.OperationID, g.write)
	var err error
	if g.parameters, err = compileParameters("server: "+where, op); err != nil {
		return nil, err
	}
	if _, has := g.parameters.header["Idempotency-Key"]; has != g.write {
		return nil, fmt.Errorf("server: %s: exactly the writes take an Idempotency-Key", where)
	}
	if g.body, err = compileBody("server: "+where, rt, op); err != nil {
		return nil, err
	}
	if g.export, err = newExport(s, "server: "+where, rt, op); err != nil {
		return nil, err
	}
	return g, nil
}

// check refuses a route whose permission or scope is not the contract's, or is none.
func (rt route) check(where string, op *openapi3.Operation) error {
	needs, _ := op.Extensions["x-assay-permission"].(string)
	scope, _ := op.Extensions["x-assay-scope"].(string)
	parameter := scopedParameter[rt.scope]
	switch {
	case permission(needs) != rt.needs:
		return fmt.Errorf("server: %s: the route needs %q, openapi.yaml says %q", where, rt.needs, needs)
	case scoping(scope) != rt.scope:
		return fmt.Errorf("server: %s: the route's scope is %q, openapi.yaml says %q", where, rt.scope, scope)
	case !rt.needs.known():
		return fmt.Errorf("server: %s: no role has the permission %q", where, rt.needs)
	case !rt.scope.known():
		return fmt.Errorf("server: %s: there is no scope %q", where, rt.scope)
	case parameter != "" && !strings.Contains(rt.path, "{"+parameter+"}"):
		return fmt.Errorf("server: %s: the scope %s needs {%s} in the path", where, rt.scope, parameter)
	case roleMachine.may(rt.needs) && rt.needs != permPublic && rt.scope != scopeMachine:
		return fmt.Errorf("server: %s: a machine may call it, so that it has to be about the machine in the path", where)
	}
	return nil
}

// checkDocumentedCodes refuses an operation that documents a code which the catalogue does not have.
func (s *Server) checkDocumentedCodes(where string, op *openapi3.Operation) error {
	codes, ok := op.Extensions["x-problem-codes"].([]any)
	if !ok {
		return fmt.Errorf("server: %s: no x-problem-codes", where)
	}
	for _, c := range codes {
		code, _ := c.(string)
		if _, known := s.problems[code]; !known {
			return fmt.Errorf("server: %s: problem code %q is not in the catalogue", where, code)
		}
	}
	return nil
}

// ServeHTTP implements http.Handler: the order of the checks is the order of the package documentation.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r, err := g.admit(r)
	if err != nil {
		g.s.fail(w, r, err)
		return
	}
	if asked := principalOf(r.Context()).asked; asked != nil {
		w = &scopeFence{ResponseWriter: w, asked: asked, fail: func(w http.ResponseWriter) {
			g.s.fail(w, r, fmt.Errorf("%s %s answers a principal with a scope without asking for it", g.route.method, g.route.path))
		}}
	}
	p := principalOf(r.Context())
	turn, err := g.s.limits.begin(r.Context(), w, &p, g.gate)
	if err != nil {
		g.s.fail(w, r, err)
		return
	}
	defer turn.end()
	if !g.write {
		if err := g.start(r, turn); err != nil {
			g.s.fail(w, r, err)
			return
		}
		w = turn
		if g.export != nil {
			w.Header().Add("Vary", "Accept")
			if media := wantedExport(r); media != "" {
				g.export.serve(w, r, media)
				return
			}
		}
		g.route.handle(w, r)
		return
	}
	body, release, err := g.readBody(w, r)
	if err != nil {
		g.s.fail(w, r, err)
		return
	}
	defer release()
	if err := g.start(r, turn); err != nil {
		g.s.fail(w, r, err)
		return
	}
	w = turn
	r.Body = &heldBody{Reader: bytes.NewReader(body), bytes: body}
	r.ContentLength = int64(len(body))
	if key := r.Header.Get("Idempotency-Key"); key != "" {
		g.serveOnce(w, r, key, body)
		return
	}
	g.route.handle(w, r)
}

// start waits for the request's turn, once all of it is there. What comes on the connection from here on is not this request.
func (g *guard) start(r *http.Request, t *turn) error {
	if r.ContentLength == 0 || g.write {
		// net/http takes a read that times out while the handler works for a client that went away.
		t.readUntil(time.Time{})
	}
	return t.enter(r.Context(), g.s.limits, g.gate)
}

// admit decides whether this caller may make this request. The request it answers carries the
// principal, also where it is refused.
func (g *guard) admit(r *http.Request) (*http.Request, error) {
	p := principal{kind: rolePublic, tenant: store.DefaultTenant}
	if g.route.needs != permPublic {
		var err error
		if p, err = g.s.authenticate(r); err == nil {
			err = p.holds(r)
		}
		if err != nil {
			return r, g.s.limits.failed(r.Context(), err)
		}
	}
	allowed := p.may(g.route.needs)
	if allowed {
		p.scope = p.scopeFor(g.route.needs)
		if p.scope != nil && g.route.scope == scopeFiltered {
			p.asked = new(bool)
		}
	}
	notePrincipal(r.Context(), p)
	r = r.WithContext(withPrincipal(r.Context(), p))
	if !g.unlimited {
		if err := g.s.limits.take(r.Context(), &p); err != nil {
			return r, err
		}
	}
	if !allowed {
		return r, refuse(codeForbidden, "this operation needs the permission "+string(g.route.needs)+", which "+p.roles()+" does not have")
	}
	if p.scope != nil && g.route.scope == scopeForbidden {
		return r, refuse(codeScopeForbids, "this is about the tenant as a whole, and you see only some of its machines")
	}
	if err := g.parameters.check(r); err != nil {
		return r, err
	}
	if p.pipeline != nil {
		if err := g.s.admitPipeline(r.Context(), p); err != nil {
			return r, err
		}
	}
	if p.kind == roleMachine && g.route.needs != permPublic {
		id, err := uuid.Parse(chi.URLParam(r, "machine_id"))
		if err != nil || id != p.machineID {
			return r, refuse(codeForbidden, "the token belongs to another machine")
		}
	}
	if parameter := scopedParameter[g.route.scope]; p.scope != nil && parameter != "" {
		id, err := uuid.Parse(chi.URLParam(r, parameter))
		if err == nil {
			err = g.s.store.InScope(r.Context(), p.tenant, p.scope, string(g.route.scope), id)
		}
		return r, err // what is outside does not exist: the answer is that of an id that nobody has
	}
	return r, nil
}

// readBody reads and checks the body of a write. release gives its bytes back to the budget.
func (g *guard) readBody(w http.ResponseWriter, r *http.Request) (body []byte, release func(), err error) {
	b := &g.body
	encoding := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding")))
	if encoding != "" && encoding != "identity" && !contains(b.encodings, encoding) {
		return nil, nil, refuse(codeUnsupportedEncoding, "Content-Encoding "+quoted(encoding)+" is not accepted here")
	}
	if r.ContentLength > b.limit {
		return nil, nil, b.tooLarge()
	}
	in := &bodyReader{from: r.Body, w: w, s: g.s, started: time.Now()}
	if err := in.reserve(minBodyWeight); err != nil {
		return nil, nil, err
	}
	err = b.checkMediaType(r)
	if err == nil {
		body, err = b.read(in, r.ContentLength)
	}
	switch {
	case err == nil && b.form != nil:
		body, err = b.readEither(r, body)
	case err == nil:
		err = b.check(body)
	}
	if err != nil {
		in.release()
		return nil, nil, err
	}
	return body, in.release, nil
}

// bodyRule is what an operation accepts as its body.
type bodyRule struct {
	limit      int64 // bytes on the wire
	mediaTypes []string
	accept     string // header that lists them: Accept-Post, or Accept-Patch
	required   bool
	encodings  []string // content encodings beside identity
	schema     *rule    // of a JSON body; nil where the handler has a decoder of its own
	form       *rule    // of the same body as a form; nil where none is accepted
	jsonOnly   bool
}

// Limits of bodies on the wire.
const (
	maxBody         = 1 << 20
	maxEvidenceBody = 16 << 20 // event log and IMA list in base64
	maxEventLog     = 8 << 20  // raw, also the limit after decompression
)

// minBodyWeight is what the smallest request counts against the body budget: the handler's own memory.
const minBodyWeight = 16 << 10

func compileBody(where string, rt route, op *openapi3.Operation) (bodyRule, error) {
	b := bodyRule{limit: maxBody, accept: "Accept-Post", jsonOnly: true}
	if rt.method == http.MethodPatch {
		b.accept = "Accept-Patch"
	}
	if op.RequestBody == nil {
		return b, nil
	}
	b.required = op.RequestBody.Value.Required
	b.mediaTypes = sortedKeys(op.RequestBody.Value.Content)
	switch op.OperationID {
	case "submitEvidence": // verifier.Decode checks it in one pass
		b.limit = maxEvidenceBody
		return b, nil
	case "putEventLog": // not JSON
		b.limit, b.encodings, b.jsonOnly = maxEventLog, []string{"gzip", "zstd"}, false
		return b, nil
	case "putCollateral", // tee.ParseCollateral reads it; JSON too, whose exact bytes were signed
		"putRevocations": // package revocations reads them
		b.jsonOnly = false
		return b, nil
	case "importBaseline": // baseline/formats reads it; the contract lists its media types beside the body
		b.limit, b.jsonOnly, b.mediaTypes = maxImportBody, false, append(formats.MediaTypes(), multipartForm)
		return b, sameMediaTypes(where, b.mediaTypes, op)
	}
	content, form := op.RequestBody.Value.Content[jsonMedia], op.RequestBody.Value.Content[formMedia]
	if content == nil || (len(b.mediaTypes) != 1 && (form == nil || len(b.mediaTypes) != 2)) {
		return b, fmt.Errorf("%s: a body that is not JSON needs a decoder", where)
	}
	var err error
	if b.schema, err = compileRule(where+" body", content.Schema); err == nil && form != nil {
		b.form, err = compileRule(where+" form", form.Schema)
	}
	return b, err
}

// sameMediaTypes compares what is accepted with the contract's x-media-types.
func sameMediaTypes(where string, accepted []string, op *openapi3.Operation) error {
	documented, _ := op.Extensions["x-media-types"].([]any)
	for i, m := range documented {
		if i >= len(accepted) || accepted[i] != m {
			break
		}
		if i == len(accepted)-1 && len(documented) == len(accepted) {
			return nil
		}
	}
	return fmt.Errorf("%s: x-media-types is %v, accepted are %v", where, documented, accepted)
}

func (b *bodyRule) tooLarge() error {
	return refuse(codeBodyTooLarge, fmt.Sprintf("at most %d bytes are accepted", b.limit)).with("Connection", "close")
}

// checkMediaType refuses a body of another type. An absent optional body needs none.
func (b *bodyRule) checkMediaType(r *http.Request) error {
	if len(b.mediaTypes) == 0 || (!b.required && r.ContentLength == 0) {
		return nil
	}
	given := r.Header.Get("Content-Type")
	for _, m := range b.mediaTypes {
		if given == m { // the common case costs no parsing
			return nil
		}
	}
	list := strings.Join(b.mediaTypes, ", ")
	media, parameters, err := mime.ParseMediaType(given)
	if err == nil && contains(b.mediaTypes, media) {
		if charset, has := parameters["charset"]; !has || strings.EqualFold(charset, "utf-8") {
			return nil
		}
	}
	return refuse(codeUnsupportedMedia, "Content-Type is "+quoted(given)+"; accepted are "+list).with(b.accept, list)
}

// check looks at a body that was read whole.
func (b *bodyRule) check(body []byte) error {
	switch {
	case b.schema != nil && len(body) == 0 && !b.required:
		return nil
	case b.schema != nil:
		return checkBody(body, b.schema)
	case len(b.mediaTypes) == 0 && len(bytes.TrimSpace(body)) > 0 && string(bytes.TrimSpace(body)) != "{}":
		return refuseField(codeInvalidField, "", "this operation takes no body")
	}
	return nil
}
