package ui

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/assay-verifier/assay/store"
)

const (
	maxTokenLength = 512
	maxFormBytes   = 8 << 10
	// sessionSeconds ends a session that nobody signs out of: a working day.
	sessionSeconds = 12 * 3600
)

// session is who is looking at a page. The zero value is nobody.
type session struct {
	Principal
	token string // never rendered
	may   func(role store.Role, permission string) bool
}

// SignedIn tells whether there is a principal.
func (s session) SignedIn() bool { return s.token != "" }

// The permissions that the pages ask for, as the contract's x-assay-permission names them.
const (
	mayLook     = "findings:read"
	mayAlerts   = "alerts:write"
	mayRefuse   = "alerts:refuse"
	maySuppress = "suppression_rules:write"
	mayPromote  = "baselines:promote"
	mayApprove  = "baselines:approve"
	mayChannels = "channels:write"
	mayKeys     = "signing_keys:write"
)

// May tells whether the principal has a permission. Pages hide what they may not.
func (s session) May(permission string) bool { return s.may != nil && s.may(s.Role, permission) }

// RoleName is the role in words.
func (s session) RoleName() string {
	if s.Role == store.RoleReader {
		return words(string(store.RoleViewer))
	}
	return words(string(s.Role))
}

// CSRF is the value that forms of this session carry. Keyed by the session's token, it can be computed
// neither by another site nor from another session, and needs no storage.
func (s session) CSRF() string {
	mac := hmac.New(sha256.New, []byte(s.token))
	mac.Write([]byte("assay ui form v1"))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (h *handler) cookieName() string {
	if h.SecureCookies {
		return "__Secure-assay_session" // browsers accept the prefix only from HTTPS with Secure set
	}
	return "assay_session"
}

func (h *handler) setCookie(w http.ResponseWriter, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{ // #nosec G124 -- Secure is the operator's choice, documented at Config.SecureCookies
		Name: h.cookieName(), Value: value, Path: "/ui/", MaxAge: maxAge,
		HttpOnly: true, Secure: h.SecureCookies, SameSite: http.SameSiteStrictMode,
	})
}

// authenticate finds the session of a request. No session is the zero value without error.
func (h *handler) authenticate(r *http.Request) (session, error) {
	cookies := r.CookiesNamed(h.cookieName())
	if len(cookies) == 0 || cookies[0].Value == "" {
		return session{}, nil
	}
	return h.sessionOf(r, cookies[0].Value)
}

// sessionOf authenticates a token; one that is no good, or not of a person, gives the zero session.
func (h *handler) sessionOf(r *http.Request, token string) (session, error) {
	if len(token) > maxTokenLength {
		return session{}, nil
	}
	p, err := h.Authenticate(r.Context(), token)
	if errors.Is(err, store.ErrTokenInvalid) || errors.Is(err, store.ErrNotFound) {
		return session{}, nil
	}
	if err != nil {
		return session{}, err
	}
	if s := (session{Principal: p, token: token, may: h.May}); s.May(mayLook) && p.Scope == nil {
		return s, nil
	}
	return session{}, nil
}

// pageFunc renders one page, or says why it cannot. It has written nothing when it returns an error.
type pageFunc func(w http.ResponseWriter, r *http.Request, s session) error

// page lets only signed-in people see a page; others are sent to sign in and come back.
func (h *handler) page(f pageFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s, err := h.authenticate(r)
		if err != nil {
			h.fail(w, r, s, err)
			return
		}
		if !s.SignedIn() && r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Method == http.MethodGet {
			// A link on another site: a strict cookie is not sent along. Asked again by our own page, it is.
			w.Header().Set("Refresh", "0; url="+r.URL.RequestURI())
			h.render(w, r, session{}, http.StatusOK, "continue", "Opening", r.URL.RequestURI())
			return
		}
		if !s.SignedIn() {
			http.Redirect(w, r, "/ui/sign-in?"+url.Values{"next": {r.URL.RequestURI()}}.Encode(), http.StatusSeeOther)
			return
		}
		if err := f(w, r, s); err != nil {
			h.fail(w, r, s, err)
		}
	}
}

// change lets only those through who have the permission, and only with the form's token.
func (h *handler) change(permission string, f pageFunc) http.HandlerFunc {
	return h.page(func(w http.ResponseWriter, r *http.Request, s session) error {
		if err := checkForm(w, r, s); err != nil {
			return err
		}
		if !s.May(permission) {
			return errNotYours(s, permission)
		}
		return f(w, r, s)
	})
}

// checkForm reads a bounded form and compares its token in constant time.
func checkForm(w http.ResponseWriter, r *http.Request, s session) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
	if err := r.ParseForm(); err != nil {
		return errBadForm
	}
	if !hmac.Equal([]byte(r.PostForm.Get("csrf")), []byte(s.CSRF())) {
		return errFormToken
	}
	return nil
}

type signInView struct {
	Next   string
	Notice string
	Failed bool
}

func (h *handler) signInPage(w http.ResponseWriter, r *http.Request) {
	s, err := h.authenticate(r)
	if err == nil && s.SignedIn() {
		http.Redirect(w, r, localPath(r.URL.Query().Get("next")), http.StatusSeeOther) // #nosec G710 -- localPath gives pages of ours only
		return
	}
	view := signInView{Next: localPath(r.URL.Query().Get("next"))}
	if r.URL.Query().Get("signed_out") != "" {
		view.Notice = "You are signed out."
	}
	h.render(w, r, session{}, http.StatusOK, "sign-in", "Sign in", view)
}

// signIn checks the token once and hands it to the browser. The answer is the same for a token that is
// unknown, expired or not meant for people.
func (h *handler) signIn(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
	if err := r.ParseForm(); err != nil {
		h.fail(w, r, session{}, errBadForm)
		return
	}
	next := localPath(r.PostForm.Get("next"))
	s, err := h.sessionOf(r, strings.TrimSpace(r.PostForm.Get("token")))
	if err != nil {
		h.fail(w, r, session{}, err)
		return
	}
	if !s.SignedIn() {
		h.render(w, r, session{}, http.StatusForbidden, "sign-in", "Sign in", signInView{Next: next, Failed: true})
		return
	}
	h.setCookie(w, s.token, sessionSeconds)
	http.Redirect(w, r, next, http.StatusSeeOther) // #nosec G710 -- next went through localPath
}

func (h *handler) signOut(w http.ResponseWriter, r *http.Request) {
	s, err := h.authenticate(r)
	if err == nil && s.SignedIn() {
		if err := checkForm(w, r, s); err != nil {
			h.fail(w, r, s, err)
			return
		}
	}
	h.setCookie(w, "", -1)
	http.Redirect(w, r, "/ui/sign-in?signed_out=1", http.StatusSeeOther)
}

// localPath returns target if it is a page of ours, else the overview: a link to the sign-in page must
// not be able to send people elsewhere afterwards.
func localPath(target string) string {
	u, err := url.Parse(target)
	if err != nil || u.IsAbs() || u.Host != "" || u.Opaque != "" || !strings.HasPrefix(u.Path, "/ui/") ||
		strings.Contains(u.Path, "..") || strings.Contains(u.Path, `\`) || u.Path == "/ui/sign-in" {
		return "/ui/"
	}
	return u.RequestURI()
}

// actor is how the audit record names the person behind a request.
func (s session) actor(r *http.Request) store.Actor {
	// As the API names the same token: the two-person rule tells people apart by it.
	return store.Actor{Kind: string(s.Role), ID: s.TokenID.String(), Owner: s.Owner,
		RemoteAddr: r.RemoteAddr, RequestID: r.Header.Get("X-Request-Id")}
}

// now is the request's one time.
func (h *handler) now() time.Time { return h.Now().UTC() }
