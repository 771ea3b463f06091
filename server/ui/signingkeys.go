package ui

import (
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/assay-verifier/assay/server/token"
)

type signingKeysView struct {
	Items     []signingKeyRow
	CanChange bool
	Done      string
}

type signingKeyRow struct {
	token.KeyInfo
	When      string // what Time is
	Time      *time.Time
	UntilWhen string // what Until is
	Until     *time.Time
	CanRevoke bool
}

// stateWords says what a state of a key means.
var stateWords = map[token.State]string{
	token.Next: "Published, and signs later", token.Active: "Signs results", token.Retiring: "Verifies what it signed until that has ended",
	token.Gone: "Has ended", token.Revoked: "Was withdrawn",
}

// StateText says what the state means.
func (k *signingKeyRow) StateText() string { return stateWords[k.State] }

// StateClass is the colour of the state's tag.
func (k *signingKeyRow) StateClass() string {
	switch k.State {
	case token.Active:
		return "bstate-active"
	case token.Next:
		return "bstate-draft"
	case token.Retiring:
		return "bstate-grace"
	case token.Gone, token.Revoked:
	}
	return ""
}

// signingKeysDone is what the page says after a change.
var signingKeysDone = map[string]string{
	"rotated": "The next keys sign, at once or as soon as relying parties have had time to fetch them.",
	"revoked": "The key was withdrawn. What it signed is inactive; relying parties that have kept the key set believe it for up to five minutes more.",
}

var (
	errKeysOfOthers = &pageError{http.StatusForbidden, "The keys are not this tenant's", "They sign for every tenant of the service. An administrator of its own tenant can change them. Nothing was changed."}
	errKeyEnded     = &pageError{http.StatusConflict, "The key has ended", "It is published no more, or was withdrawn before. Nothing was changed."}
	errNoReason     = &pageError{http.StatusBadRequest, "A reason is needed", "Say in 1 to 253 characters why the key is withdrawn. Nothing was changed."}
)

// signingKeys lists the keys that sign results.
func (h *handler) signingKeys(w http.ResponseWriter, r *http.Request, s session) error {
	if h.Tokens == nil {
		return errNoPage
	}
	keys, err := h.Tokens.Keys(r.Context())
	if err != nil {
		return err
	}
	view := signingKeysView{CanChange: s.May(mayKeys) && s.Tenant == h.Tokens.Tenant(), Done: signingKeysDone[r.URL.Query().Get("done")]}
	for i := range keys {
		view.Items = append(view.Items, keyRow(keys[i]))
	}
	h.render(w, r, s, http.StatusOK, "signing-keys", "Signing keys", view)
	return nil
}

// keyRow says since when a key is what it is, and until when.
func keyRow(k token.KeyInfo) signingKeyRow {
	row := signingKeyRow{KeyInfo: k, CanRevoke: k.State != token.Gone && k.State != token.Revoked}
	switch k.State {
	case token.Next:
		row.When, row.Time = "published", &k.PublishedAt
		if k.ActivatedAt != nil {
			row.UntilWhen, row.Until = "signs from", k.ActivatedAt
		}
	case token.Active:
		row.When, row.Time = "signs since", k.ActivatedAt
		if k.Until != nil {
			row.UntilWhen, row.Until = "next key follows", k.Until
		}
	case token.Retiring:
		row.When, row.Time, row.UntilWhen, row.Until = "signed since", k.ActivatedAt, "published until", k.EndsAt
	case token.Revoked:
		row.When, row.Time = "withdrawn", k.RevokedAt
	case token.Gone:
		row.When, row.Time = "signed since", k.ActivatedAt
	}
	return row
}

// rotateSigningKeys lets the next key of each algorithm sign.
func (h *handler) rotateSigningKeys(w http.ResponseWriter, r *http.Request, s session) error {
	if err := h.mayChangeKeys(s); err != nil {
		return err
	}
	if err := h.Tokens.Rotate(r.Context(), "", s.actor(r)); err != nil {
		return err
	}
	http.Redirect(w, r, "/ui/signing-keys?done=rotated", http.StatusSeeOther)
	return nil
}

// maxKeyReason bounds a reason, in characters, as the API does.
const maxKeyReason = 253

// revokeSigningKey withdraws one for the reason of the form.
func (h *handler) revokeSigningKey(w http.ResponseWriter, r *http.Request, s session) error {
	if err := h.mayChangeKeys(s); err != nil {
		return err
	}
	reason := strings.TrimSpace(r.PostForm.Get("reason"))
	if n := utf8.RuneCountInString(reason); n == 0 || n > maxKeyReason || !utf8.ValidString(reason) || strings.IndexFunc(reason, unicode.IsControl) >= 0 {
		return errNoReason
	}
	err := h.Tokens.Revoke(r.Context(), r.PathValue("kid"), reason, s.actor(r))
	switch {
	case errors.Is(err, token.ErrUnknownKey):
		return errNoPage
	case errors.Is(err, token.ErrKeyEnded):
		return errKeyEnded
	case err != nil:
		return err
	}
	http.Redirect(w, r, "/ui/signing-keys?done=revoked", http.StatusSeeOther)
	return nil
}

// mayChangeKeys refuses administrators of other tenants than the one whose keys they are.
func (h *handler) mayChangeKeys(s session) error {
	switch {
	case h.Tokens == nil:
		return errNoPage
	case s.Tenant != h.Tokens.Tenant():
		return errKeysOfOthers
	}
	return nil
}
