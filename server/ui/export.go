package ui

import (
	"net/http"
	"net/url"
)

// exported are the lists that pages offer as CSV, by the last part of the API's path.
var exported = map[string]bool{"machines": true, "verdicts": true, "alerts": true, "recommendations": true, "baselines": true, "audit-events": true, "suppression-rules": true}

// exportLink is the address of a list as CSV; query is the API's. Empty where there is no API to ask.
func (h *handler) exportLink(list string, pairs ...string) string {
	if h.API == nil {
		return ""
	}
	query := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			query.Set(pairs[i], pairs[i+1])
		}
	}
	return (&url.URL{Path: "/ui/export/" + list, RawQuery: query.Encode()}).String()
}

// export asks the API for a list as CSV, in the name of whoever is signed in.
func (h *handler) export(w http.ResponseWriter, r *http.Request, s session) error {
	list := r.PathValue("list")
	if h.API == nil || !exported[list] {
		return errNoPage
	}
	ask := r.Clone(r.Context())
	ask.URL = &url.URL{Path: "/v1/" + list, RawQuery: r.URL.RawQuery}
	ask.RequestURI = ask.URL.RequestURI()
	ask.Header = http.Header{"Accept": {"text/csv"}, "Authorization": {"Bearer " + s.token}}
	h.API.ServeHTTP(w, ask)
	return nil
}
