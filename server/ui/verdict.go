package ui

import (
	"errors"
	"net/http"
	"sort"
	"strconv"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// eventsPerPage bounds the rows of a boot log on one page; real logs have 30 to some hundred events.
const eventsPerPage = 500

type verdictView struct {
	store.Verdict
	Machine store.Machine
	Chain   []hop
	Claims  claimsView
	Log     logView
}

// logEvent is a row of the boot log. Deviation is the kind of the deviation that the event is, if any.
type logEvent struct {
	attest.DecodedEvent
	Bank      string // of Digest: the strongest that the event has of those commonly used
	Digest    string
	Deviation verifier.DeviationKind
}

type logView struct {
	Events   []logEvent
	Total    int // of the whole log
	Matching int // that the filter lets through
	Fault    string
	PCRs     []choice
	Show     []choice
	Filtered bool
	Next     string
	First    string
}

func (h *handler) verdict(w http.ResponseWriter, r *http.Request, s session) error {
	id, err := pathID(r)
	if err != nil {
		return err
	}
	view := verdictView{}
	if view.Verdict, err = h.Store.GetVerdict(r.Context(), s.Tenant, id); err != nil {
		return err
	}
	if view.Machine, err = h.Store.GetMachine(r.Context(), s.Tenant, view.MachineID); err != nil {
		return err
	}
	view.Chain = chain(view.Appraisal.Checks)
	if view.Claims, err = describeClaims(view.Appraisal.Claims); err != nil {
		return err
	}
	if view.Log, err = h.bootLog(r, s, view.Verdict); err != nil {
		return err
	}
	h.render(w, r, s, http.StatusOK, "verdict", "Verdict on "+view.Machine.Name, view)
	return nil
}

// bootLog decodes the verdict's log and filters it. That a log cannot be read is part of the page.
func (h *handler) bootLog(r *http.Request, s session, v store.Verdict) (logView, error) {
	var pcrFilter, show, from string
	if err := filterValues(r, map[string]*string{"pcr": &pcrFilter, "show": &show, "from": &from}); err != nil {
		return logView{}, err
	}
	events, err := h.EventLog(r.Context(), s.Tenant, v.ID)
	var refused *attest.Error
	if errors.As(err, &refused) {
		return logView{Fault: refused.Detail}, nil
	}
	if err != nil {
		return logView{}, err
	}
	start := 0
	if from != "" {
		if start, err = strconv.Atoi(from); err != nil || start < 0 {
			return logView{}, errBadFilter
		}
	}
	view := logView{Total: len(events), Filtered: pcrFilter != "" || show != ""}
	for _, e := range markDeviations(events, v.Appraisal.Deviations) {
		if pcrFilter != "" && pcrFilter != strconv.Itoa(e.PCR) {
			continue
		}
		if (show == "changed" && e.Deviation == "") || (show == "verified" && !e.Verified) || (show == "unverified" && e.Verified) {
			continue
		}
		if view.Matching >= start && len(view.Events) < eventsPerPage {
			view.Events = append(view.Events, e)
		}
		view.Matching++
	}
	view.PCRs = pcrChoices(events, pcrFilter)
	view.Show = choices("All events", show, showName, "changed", "verified", "unverified")
	if start+eventsPerPage < view.Matching {
		view.Next = withQuery(r, "from", strconv.Itoa(start+eventsPerPage)) + "#event-log"
	}
	if start > 0 {
		view.First = withQuery(r, "from", "") + "#event-log"
	}
	return view, nil
}

func showName(s string) string {
	return map[string]string{"changed": "Deviating only", "verified": "Verified only", "unverified": "Not verified only"}[s]
}

func pcrChoices(events []attest.DecodedEvent, selected string) []choice {
	seen := make(map[int]bool)
	var indices []int
	for _, e := range events {
		if !seen[e.PCR] {
			seen[e.PCR] = true
			indices = append(indices, e.PCR)
		}
	}
	sort.Ints(indices)
	values := make([]string, len(indices))
	for i, n := range indices {
		values[i] = strconv.Itoa(n)
	}
	return choices("All PCRs", selected, func(s string) string { return "PCR " + s }, values...)
}

// markDeviations finds the events that a deviation speaks of: same PCR, and one of its digests is the
// one that was measured.
func markDeviations(events []attest.DecodedEvent, deviations []verifier.Deviation) []logEvent {
	type place struct {
		pcr    int
		digest string
	}
	kinds := make(map[place]verifier.DeviationKind, len(deviations))
	for _, d := range deviations {
		if d.Actual != "" {
			kinds[place{d.PCR, d.Actual}] = d.Kind
		}
	}
	out := make([]logEvent, 0, len(events))
	for _, e := range events {
		row := logEvent{DecodedEvent: e}
		for _, bank := range []string{"sha256", "sha384", "sha512", "sha1"} {
			if d, ok := e.Digests[bank]; ok {
				row.Bank, row.Digest = bank, d
				break
			}
		}
		for _, digest := range e.Digests {
			if kind, ok := kinds[place{e.PCR, digest}]; ok {
				row.Deviation = kind
			}
		}
		out = append(out, row)
	}
	return out
}
