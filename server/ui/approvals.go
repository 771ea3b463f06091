package ui

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
)

// approvalView is what approving an alert would do, and the choices that lead to it.
type approvalView struct {
	*attest.Approval        // nil where it cannot be approved, for Why
	Why              string // it cannot
	Scope            string
	Replace          bool
	Choices          []choice
}

// approvalOf previews the approval of an open alert about a baseline; the query chooses scope and replacement.
func (h *handler) approvalOf(r *http.Request, s session, a *store.Alert) (*approvalView, error) {
	if h.PreviewApproval == nil || a.Code != "attestation_failed" || a.Status != "active" && a.Status != "in_progress" {
		return nil, nil
	}
	q := r.URL.Query()
	view := &approvalView{Scope: attest.ScopeBaseline, Replace: q.Get("replace") != ""}
	if q.Get("scope") == attest.ScopeMachine {
		view.Scope = attest.ScopeMachine
	}
	for _, c := range []struct{ scope, replace, label string }{
		{attest.ScopeBaseline, "", "All that the baseline covers: allow it too"},
		{attest.ScopeBaseline, "1", "All that the baseline covers: in place of what was"},
		{attest.ScopeMachine, "", "This machine: allow it too"},
		{attest.ScopeMachine, "1", "This machine: in place of what was"},
	} {
		view.Choices = append(view.Choices, choice{Label: c.label, Selected: c.scope == view.Scope && (c.replace != "") == view.Replace,
			Link: withQuery(r, "scope", c.scope, "replace", c.replace, "done", "")})
	}
	var err error
	view.Approval, err = h.PreviewApproval(r.Context(), s.Tenant, a.ID, attest.ApprovalChoice{Scope: view.Scope, Replace: view.Replace})
	var cannot *attest.Error
	if errors.As(err, &cannot) {
		view.Why = cannot.Detail
		return view, nil
	}
	return view, err
}

// formID reads an id out of the form; nil where it is empty.
func formID(r *http.Request, name string) (*uuid.UUID, error) {
	text := r.PostForm.Get(name)
	if text == "" {
		return nil, nil
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return nil, errBadForm
	}
	return &id, nil
}

// formNumber reads a number out of the form; nil where it is empty.
func formNumber(r *http.Request, name string, least, most int) (*int, error) {
	text := strings.TrimSpace(r.PostForm.Get(name))
	if text == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return nil, &pageError{http.StatusBadRequest, "The form cannot be read", fmt.Sprintf("%q is no number from %d to %d. Go back and correct it.", text, least, most)}
	}
	return &n, nil
}

// maxGraceHours is a year.
const maxGraceHours = 366 * 24

// formGrace reads for how long the version that is replaced stays valid.
func (h *handler) formGrace(r *http.Request) (g store.Grace, err error) {
	hours, err := formNumber(r, "grace_hours", 1, maxGraceHours)
	if err != nil {
		return g, err
	}
	if hours != nil {
		until := h.now().Add(time.Duration(*hours) * time.Hour)
		g.Until = &until
	}
	g.MovedPercent, err = formNumber(r, "grace_percent", 1, 100)
	return g, err
}

const maxComment = 4096

// formComment is why somebody decided so.
func formComment(r *http.Request, needed bool) (string, error) {
	text := strings.TrimSpace(r.PostForm.Get("comment"))
	if needed && text == "" || len(text) > maxComment || strings.ContainsRune(text, 0) {
		return "", &pageError{http.StatusBadRequest, "Say why", fmt.Sprintf("A comment of at most %d characters is kept with the decision. Go back and write one.", maxComment)}
	}
	return text, nil
}

func (h *handler) approveAlert(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if h.ApproveAlert == nil {
		return errNoPage
	}
	form := r.PostForm
	req := attest.ApprovalRequest{ApprovalChoice: attest.ApprovalChoice{Scope: form.Get("scope"), Replace: form.Get("replace") != ""},
		Activate: form.Get("state") != "draft", Force: form.Get("force") != ""}
	if req.Comment, err = formComment(r, true); err != nil {
		return err
	}
	if req.VerdictID, err = formID(r, "verdict_id"); err != nil {
		return err
	}
	if req.BasedOn, err = formNumber(r, "based_on", 0, 1<<31-1); err != nil {
		return err
	}
	if req.Grace, err = h.formGrace(r); err != nil {
		return err
	}
	if _, _, err := h.ApproveAlert(r.Context(), s.Tenant, id, req, s.actor(r)); err != nil {
		return err
	}
	http.Redirect(w, r, "/ui/alerts/"+id.String()+"?done="+store.DecisionApproved, http.StatusSeeOther) // #nosec G710 -- a parsed id
	return nil
}

func (h *handler) refuseAlert(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	if h.RefuseAlert == nil {
		return errNoPage
	}
	comment, err := formComment(r, true)
	if err != nil {
		return err
	}
	verdict, err := formID(r, "verdict_id")
	if err != nil {
		return err
	}
	if err := h.RefuseAlert(r.Context(), s.Tenant, id, comment, verdict, s.actor(r)); err != nil {
		return err
	}
	http.Redirect(w, r, "/ui/alerts/"+id.String()+"?done="+store.DecisionRefused, http.StatusSeeOther) // #nosec G710 -- a parsed id
	return nil
}

// versionLife adds to a version's page what it changes, and what the reader may do with it.
func (h *handler) versionLife(r *http.Request, s session, view *baselineVersionView) error {
	v := &view.BaselineVersion
	if h.DiffVersion != nil {
		d, err := h.DiffVersion(r.Context(), s.Tenant, v.BaselineID, v.Version, 0)
		if err != nil {
			return err
		}
		if d.From > 0 {
			view.Diff = &d
		}
	}
	view.Own = v.CreatedBy == s.actor(r).String()
	draft := v.State == "draft"
	view.MayApprove = s.May(mayApprove) && draft && !view.Own && len(v.Approvals) == 0
	view.MayPromote = s.May(mayPromote) && draft && (!v.NeedsSecond || !view.Own || len(v.Approvals) > 0) && (!view.Own || s.Role == store.RoleAdmin)
	view.MayRetire = s.May(mayApprove) && (v.State != "retired" || v.Activation != nil && !v.Released())
	view.Done = map[string]string{"approve": "You have approved the version.", "promote": "The version is active.", "retire": "The version is retired.", "propose": "You have proposed it; another principal can do it now."}[r.URL.Query().Get("done")]
	return nil
}

// changeVersion promotes, approves or retires a version, if it is still in the state that the page showed.
func (h *handler) changeVersion(action string) pageFunc {
	return func(w http.ResponseWriter, r *http.Request, s session) error {
		return h.changeVersionTo(action, w, r, s)
	}
}

func (h *handler) changeVersionTo(action string, w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil || n < 1 {
		return errNoPage
	}
	comment, err := formComment(r, false)
	if err != nil {
		return err
	}
	ctx, now, actor, expected := r.Context(), h.now(), s.actor(r), r.PostForm.Get("expected_state")
	switch action {
	case "promote":
		var g store.Grace
		if g, err = h.formGrace(r); err != nil {
			return err
		}
		_, err = h.Store.PromoteVersion(ctx, s.Tenant, id, n, store.Promotion{Grace: g, Expected: expected, Comment: comment, NeedsSecond: s.Role != store.RoleAdmin}, now, actor)
	case "approve":
		_, err = h.Store.ApproveVersion(ctx, s.Tenant, id, n, expected, comment, now, actor)
	case "retire":
		retirement := store.Retirement{Expected: expected, Release: r.PostForm.Get("release") != "", Propose: r.PostForm.Get("propose") != "", Comment: comment}
		if _, err = h.Store.RetireVersion(ctx, s.Tenant, id, n, retirement, now, actor); retirement.Propose {
			action = "propose"
		}
	default:
		return errNoPage
	}
	if err != nil {
		return err
	}
	http.Redirect(w, r, fmt.Sprintf("/ui/baselines/%s/versions/%d?done=%s", id, n, action), http.StatusSeeOther) // #nosec G710 -- a parsed id and number
	return nil
}
