package ui

import (
	"crypto/rand"
	"errors"
	"net/http"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
)

// pageError is an error with the words that its page shows.
type pageError struct {
	status int
	title  string
	detail string
}

// Error implements error.
func (e *pageError) Error() string { return e.title + ": " + e.detail }

// The errors of the pages.
var (
	errNoPage        = &pageError{http.StatusNotFound, "There is no such page", "The address may be mistyped, or what it named may have been removed."}
	errBadFilter     = &pageError{http.StatusBadRequest, "The filter cannot be read", "Go back, or start from the list without a filter."}
	errCursor        = &pageError{http.StatusBadRequest, "This page of the list cannot be found", "The link to it is not one of ours. Start from the first page."}
	errTrialRunning  = &pageError{http.StatusTooManyRequests, "A trial is under way", "The stored evidence of this fleet is judged by one dry run or policy test at a time. Try again in a moment."}
	errFormToken     = &pageError{http.StatusForbidden, "The form is not of this session", "You may have signed in again since the page was opened. Reload it and try again. Nothing was changed."}
	errCrossOrigin   = &pageError{http.StatusForbidden, "The request came from another site", "Nothing was changed. Open the page here and try again."}
	errBadForm       = &pageError{http.StatusBadRequest, "The form cannot be read", "Reload the page and try again. Nothing was changed."}
	errDeliveryState = &pageError{http.StatusConflict, "It cannot be sent again", "It is under way already, or its channel is disabled. Reload the page and look again."}
	errAlertState    = &pageError{http.StatusConflict, "The alert has moved on", "It cannot take that step from its present state; somebody may have changed it. Reload it and look again."}
)

// errNotYours says which permission is missing.
func errNotYours(s session, permission string) error {
	return &pageError{http.StatusForbidden, "Your role may not do this",
		"Your token has the role " + s.RoleName() + ", which lacks the permission " + permission + ". Ask somebody whose role has it. Nothing was changed."}
}

type errorView struct {
	Status int
	Detail string
	ID     string
}

// fail shows the page of an error. What is wrong inside goes to the log under an id that the page
// shows, and no further.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, s session, err error) {
	var known *pageError
	var refused *attest.Error
	var changed *store.VersionChangedError
	var second *store.SecondPersonError
	var before *store.RefusedBeforeError
	switch {
	case errors.As(err, &known):
	case errors.As(err, &changed):
		known = &pageError{http.StatusConflict, "Somebody has changed it meanwhile", changed.What + ". Nothing was done."}
	case errors.As(err, &second):
		known = &pageError{http.StatusForbidden, "A second person has to approve", second.What + "."}
	case errors.As(err, &before):
		known = &pageError{http.StatusConflict, "The same deviations were refused before", before.What + ". Tick the box to approve them all the same."}
	case errors.As(err, &refused):
		known = &pageError{http.StatusConflict, "This cannot be approved", refused.Detail + "."}
	case errors.Is(err, store.ErrNotFound):
		known = errNoPage
	case errors.Is(err, store.ErrInvalidSort):
		known = errBadFilter
	case errors.Is(err, store.ErrInvalidCursor):
		known = errCursor
	}
	if known != nil {
		h.render(w, r, s, known.status, "error", known.title, errorView{Status: known.status, Detail: known.detail})
		return
	}
	id := r.Header.Get("X-Request-Id")
	if id == "" || len(id) > 64 {
		id = rand.Text()
	}
	h.Logger.ErrorContext(r.Context(), "page failed", "error", err, "error_id", id, "path", r.URL.Path)
	h.render(w, r, s, http.StatusInternalServerError, "error", "Something went wrong on our side", errorView{
		Status: http.StatusInternalServerError, ID: id,
		Detail: "The page could not be made. Try again; if it stays, give the operator the id below, which is in the service's log.",
	})
}
