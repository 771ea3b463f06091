package ui

import (
	"errors"
	"net/http"
	"strconv"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
)

// trialView is the result of a dry run.
type trialView struct {
	store.BaselineVersion
	*attest.Trial
}

// dryRun judges stored evidence by a version and shows what would become of the fleet. It changes nothing, so that
// readers may ask too; it is a form all the same, since it is work that no other site may set off.
func (h *handler) dryRun(w http.ResponseWriter, r *http.Request, s session) error {
	if err := checkForm(w, r, s); err != nil {
		return err
	}
	id, err := pathID(r)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil || n < 1 || h.DryRun == nil {
		return errNoPage
	}
	v, err := h.Store.GetBaselineVersion(r.Context(), s.Tenant, id, n)
	if err != nil {
		return err
	}
	trial, err := h.DryRun(r.Context(), s.Tenant, id, n, func(int64, int64) {})
	var refused *attest.Error
	if errors.As(err, &refused) && refused.Code == attest.CodeTrialRunning {
		return errTrialRunning
	}
	if err != nil {
		return err
	}
	h.render(w, r, s, http.StatusOK, "dry-run", "Dry run of "+v.Name+", version "+strconv.Itoa(n), trialView{v, trial})
	return nil
}
