package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/corim"
	"github.com/assay-verifier/assay/baseline/formats"
	"github.com/assay-verifier/assay/openapi"
	"github.com/assay-verifier/assay/server/auth"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tee"
)

// Bounds of an import.
const (
	maxImportBody     = 24 << 20 // the document with its support
	maxSupportFiles   = 32
	maxImportFacts    = 64 // of provenance and of notes
	maxImportText     = 1024
	purposeReferences = store.ReferenceAnchor
)

const multipartForm = "multipart/form-data"

// importRequest is what the query says; the guard has checked its parts.
type importRequest struct {
	name          string
	baselineID    *uuid.UUID
	selector      verifier.Selector
	state         string
	allowUnsigned bool
}

func importRequestOf(q url.Values) (importRequest, error) {
	in := importRequest{name: q.Get("name"), state: q.Get("state"), allowUnsigned: q.Get("allow_unsigned") == "true"}
	if text := q.Get("baseline_id"); text != "" {
		id, err := uuid.Parse(text)
		if err != nil {
			return in, refuseParameter(codeInvalidField, "baseline_id", "it is no UUID")
		}
		in.baselineID = &id
	}
	if (in.name == "") == (in.baselineID == nil) {
		return in, refuseParameter(codeInvalidField, "name", "give either name, for a new baseline, or baseline_id, for a version of one")
	}
	if text := q.Get("selector"); text != "" {
		if in.baselineID != nil {
			return in, refuseParameter(codeInvalidField, "selector", "a version has the selector of its baseline")
		}
		if err := verifier.DecodeStrict([]byte(text), &in.selector); err != nil {
			return in, refuseParameter(codeInvalidField, "selector", err.Error())
		}
		for _, id := range in.selector.MachineIDs {
			if _, err := uuid.Parse(id); err != nil {
				return in, refuseParameter(codeInvalidField, "selector", "machine_ids takes UUIDs; "+quoted(id)+" is none")
			}
		}
	}
	return in, nil
}

// importBaseline registers what a document of another format says.
func (s *Server) importBaseline(w http.ResponseWriter, r *http.Request) {
	v, err := s.storeImport(r)
	if err == nil {
		var dto openapi.BaselineVersion
		if dto, err = versionDTO(v, true); err == nil {
			err = (jsonAnswer{http.StatusCreated, dto}).write(w)
		}
	}
	if err != nil {
		s.fail(w, r, err)
	}
}

func (s *Server) storeImport(r *http.Request) (store.BaselineVersion, error) {
	var none store.BaselineVersion
	in, err := importRequestOf(r.URL.Query())
	if err != nil {
		return none, err
	}
	ctx, now := r.Context(), s.now()
	p := principalOf(ctx)
	if err := s.mayImport(ctx, &in); err != nil {
		return none, err
	}
	mediaType, request, err := importDocument(r)
	if err != nil {
		return none, err
	}
	if request.Trust, err = s.importTrust(ctx, p.tenant, now); err != nil {
		return none, err
	}
	imported, err := formats.Import(mediaType, request)
	if err != nil {
		return none, importRefused(err)
	}
	if imported.Signer == nil && !in.allowUnsigned {
		return none, importRefused(baseline.ImportErrorf(baseline.ImportUntrusted, "", "a document of the format %s has no signature here; with allow_unsigned=true the caller vouches for it", imported.Format))
	}
	facts := importFacts(mediaType, request.Document, imported)
	provenance, err := importProvenance(facts)
	if err != nil {
		return none, err
	}
	v := store.BaselineVersion{State: in.state, Reference: imported.Values, Provenance: provenance, Origin: originRegistered}
	if imported.Signer != nil {
		v.ImportAnchor = imported.Signer.AnchorSHA256
	}
	if in.baselineID != nil {
		return s.store.AddBaselineVersion(ctx, p.tenant, *in.baselineID, v, now, actorOf(ctx))
	}
	return s.store.CreateBaseline(ctx, p.tenant, in.name, in.selector, v, now, actorOf(ctx))
}

// mayImport decides whether the caller may register what a document says, as if the caller had said it.
func (s *Server) mayImport(ctx context.Context, in *importRequest) error {
	if in.baselineID != nil {
		var err error
		if _, in.state, err = firstState(ctx, in.state, string(openapi.BaselineStateDraft)); err != nil { // as of a version that is posted
			return err
		}
		if err := s.mayChange(ctx, *in.baselineID); err != nil {
			return err
		}
		return s.mayWriteTo(ctx, *in.baselineID, auth.ActionAddVersion, in.state)
	}
	state, asked, err := firstState(ctx, in.state, string(openapi.BaselineStateActive))
	if err != nil {
		return err
	}
	in.state = state
	return s.mayWrite(ctx, auth.Attempt{Action: auth.ActionCreate, Baseline: in.name, Selector: in.selector, State: asked})
}

// importRefused makes a problem of why a document was refused, which names the element.
func importRefused(err error) error {
	var refused *baseline.ImportError
	if !errors.As(err, &refused) {
		return fmt.Errorf("import a document: %w", err)
	}
	e := refuse(refused.Kind, strings.ToValidUTF8(refused.Error(), "?"))
	e.errors = []fieldProblem{{Pointer: strings.ToValidUTF8(refused.Element, "?"), Detail: strings.ToValidUTF8(refused.Detail, "?")}}
	return e
}

// importDocument takes the body apart.
func importDocument(r *http.Request) (mediaType string, request *formats.Request, err error) {
	mediaType, parameters, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil { // the guard has parsed it
		return "", nil, refuse(codeUnsupportedMedia, "Content-Type cannot be read")
	}
	if mediaType != multipartForm {
		return mediaType, &formats.Request{Document: bodyOf(r)}, nil
	}
	request = &formats.Request{Support: map[string][]byte{}}
	form := multipart.NewReader(bytes.NewReader(bodyOf(r)), parameters["boundary"])
	for {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", nil, refuse(codeMalformedEncoding, "the multipart body cannot be read: "+strings.TrimPrefix(err.Error(), "multipart: "))
		}
		content, err := io.ReadAll(part)
		if err != nil {
			return "", nil, refuse(codeMalformedEncoding, "a part of the multipart body ends before it is complete")
		}
		switch name := part.FormName(); {
		case name == "document" && request.Document == nil:
			request.Document = content
			if mediaType, err = partType(part.Header.Get("Content-Type")); err != nil {
				return "", nil, err
			}
		case name == "support" && part.FileName() != "" && len(request.Support) < maxSupportFiles && request.Support[part.FileName()] == nil:
			request.Support[part.FileName()] = content
		default:
			return "", nil, refuseField(codeInvalidField, "/"+escapePointer(strings.ToValidUTF8(name, "?")),
				fmt.Sprintf("the parts are one document, and up to %d of the name support, each with a file name of its own", maxSupportFiles))
		}
	}
	if request.Document == nil {
		return "", nil, refuseField(codeInvalidField, "/document", "there is no such part")
	}
	return mediaType, request, nil
}

func partType(given string) (string, error) {
	if given == "" {
		return "application/octet-stream", nil
	}
	media, _, err := mime.ParseMediaType(given)
	if err != nil || media == multipartForm || !contains(formats.MediaTypes(), media) {
		return "", refuse(codeUnsupportedMedia, "Content-Type of the document is "+quoted(given)+"; accepted are "+strings.Join(formats.MediaTypes(), ", "))
	}
	return media, nil
}

// importTrust is whose signatures the tenant believes, for reference values.
func (s *Server) importTrust(ctx context.Context, tenant uuid.UUID, now time.Time) (*baseline.ImportTrust, error) {
	anchors, err := s.store.TrustAnchorsFor(ctx, tenant, purposeReferences)
	if err != nil {
		return nil, err
	}
	held, err := s.store.TenantTrust(ctx, tenant)
	if err != nil {
		return nil, err
	}
	trust := &baseline.ImportTrust{Now: now, Platform: &tee.Trust{SNP: held.SNP, TDX: held.TDX, Collateral: held.Collateral}}
	for _, a := range anchors {
		for _, c := range a.Certificates {
			// What cannot be parsed (any more) is trusted for nothing.
			if c.Kind == store.KeyAnchor {
				if key, err := x509.ParsePKIXPublicKey(c.DER); err == nil {
					trust.Keys = append(trust.Keys, baseline.ImportKey{Name: a.Name, Key: key})
				}
			} else if cert, err := x509.ParseCertificate(c.DER); err == nil {
				trust.Roots = append(trust.Roots, cert)
			}
		}
	}
	return trust, nil
}

// importFacts is what is kept of the document, bounded and without control characters: it is shown to people.
func importFacts(mediaType string, document []byte, in *baseline.Imported) *openapi.ImportedDocument {
	sum := sha256.Sum256(document)
	out := &openapi.ImportedDocument{Format: in.Format, ContentType: mediaType, Sha256: hex.EncodeToString(sum[:]), Unsigned: in.Signer == nil,
		Provenance: map[string]string{}, Notes: []string{}}
	if in.Signer != nil {
		out.Signer = &openapi.ImportSigner{Subject: shownText(in.Signer.Subject), KeySha256: in.Signer.KeySHA256, AnchorSha256: in.Signer.AnchorSHA256}
	}
	names := sortedKeys(in.Provenance)
	for _, name := range names[:min(len(names), maxImportFacts)] {
		out.Provenance[shownText(name)] = shownText(in.Provenance[name])
	}
	for _, note := range in.Notes[:min(len(in.Notes), maxImportFacts)] {
		out.Notes = append(out.Notes, shownText(note))
	}
	for what, n := range map[string]int{"facts of its origin": len(names), "notes": len(in.Notes)} {
		if n > maxImportFacts {
			out.Notes = append(out.Notes, fmt.Sprintf("of %d %s the first %d are kept", n, what, maxImportFacts))
		}
	}
	return out
}

func shownText(s string) string {
	s = strings.Map(func(r rune) rune {
		if isControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxImportText {
		s = strings.ToValidUTF8(s[:maxImportText], "") + "…"
	}
	return s
}

// importProvenance is the version's provenance: what the document says of a pipeline's run, and the document itself.
func importProvenance(facts *openapi.ImportedDocument) (json.RawMessage, error) {
	out := map[string]any{"imported": facts}
	for _, name := range []string{"repository", "commit", "build_url"} {
		if text := facts.Provenance[name]; text != "" {
			out[name] = text
		}
	}
	return json.Marshal(out)
}

// exportBaselineVersion answers a version as a document.
func (s *Server) exportBaselineVersion(w http.ResponseWriter, r *http.Request) {
	if err := s.writeExport(w, r); err != nil {
		s.fail(w, r, err)
	}
}

func (s *Server) writeExport(w http.ResponseWriter, r *http.Request) error {
	id, version, err := versionInPath(r)
	if err != nil {
		return err
	}
	v, err := s.store.GetBaselineVersion(r.Context(), principalOf(r.Context()).tenant, id, version)
	if err != nil {
		return err
	}
	if r.URL.Query().Get("format") != string(openapi.Corim) {
		return (jsonAnswer{http.StatusOK, v.Reference}).write(w)
	}
	if v.State != baseline.StateActive && v.State != baseline.StateGrace {
		return refuse(codeConflict, fmt.Sprintf("version %d is %s: only one that is active or in grace is signed as a CoRIM, which does not say a state; format=assay writes it unsigned", v.Version, v.State))
	}
	document, err := s.corimOf(&v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/rim+cose")
	h.Set("Content-Length", strconv.Itoa(len(document)))
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(document) //nolint:gosec // its own content type and nosniff; an error means that the client went away
	return nil
}

// corimOf is a version as a signed CoRIM. The version never changes, and so its id and its bytes do not either.
func (s *Server) corimOf(v *store.BaselineVersion) ([]byte, error) {
	unsigned, err := corim.Export(v.Reference, corim.Meta{ID: fmt.Sprintf("%s/%d", v.BaselineID, v.Version), TagID: v.BaselineID.String(), TagVersion: uint64(v.Version), Creator: "Assay"}) //nolint:gosec // versions count from 1
	if err != nil {
		return nil, fmt.Errorf("export baseline %s version %d: %w", v.BaselineID, v.Version, err)
	}
	signer, keyID, err := s.token.DocumentSigner()
	if err != nil {
		return nil, fmt.Errorf("sign baseline %s version %d: %w", v.BaselineID, v.Version, err)
	}
	signed, err := corim.Sign(unsigned, signer, []byte(keyID), corim.SignerMeta{Name: "Assay"})
	if err != nil {
		return nil, fmt.Errorf("sign baseline %s version %d: %w", v.BaselineID, v.Version, err)
	}
	return signed, nil
}

// versionInPath reads what the guard has checked.
func versionInPath(r *http.Request) (uuid.UUID, int, error) {
	id, err := uuid.Parse(pathParameter(r, "baseline_id"))
	if err != nil {
		return id, 0, refuseParameter(codeInvalidField, "baseline_id", "it is no UUID")
	}
	version, err := strconv.Atoi(pathParameter(r, "version"))
	if err != nil {
		return id, 0, refuseParameter(codeInvalidField, "version", "it is no number")
	}
	return id, version, nil
}

// ListTrustAnchorBaselines lists the versions that rest on an anchor.
func (s *Server) ListTrustAnchorBaselines(ctx context.Context, req openapi.ListTrustAnchorBaselinesRequestObject) (openapi.ListTrustAnchorBaselinesResponseObject, error) {
	items, next, err := s.store.VersionsRestingOn(ctx, principalOf(ctx).tenant, req.AnchorID, pageOf(req.Params.Limit, req.Params.Cursor, req.Params.Sort))
	if err != nil {
		return nil, err
	}
	out := openapi.ListTrustAnchorBaselines200JSONResponse{NextCursor: nextCursor(next)}
	if out.Items, err = restingVersions(items); err != nil {
		return nil, err
	}
	return out, nil
}

func restingVersions(items []store.BaselineVersion) ([]openapi.RestingVersion, error) {
	out := []openapi.RestingVersion{}
	for _, v := range items {
		dto, err := versionDTO(v, false)
		if err != nil {
			return nil, err
		}
		out = append(out, openapi.RestingVersion{BaselineID: dto.ID, Name: dto.Name, Version: dto.Version, State: dto.State, Imported: *dto.Imported})
	}
	return out, nil
}
