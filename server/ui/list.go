package ui

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/store"
)

const (
	pageSize       = 50
	maxFilterValue = 256 // characters of one filter
)

// choice is one entry of a filter's menu, or one tab.
type choice struct {
	Value    string
	Label    string
	Selected bool
	Link     string
}

// choices makes a menu: the empty value first, which filters nothing.
func choices(any string, selected string, label func(string) string, values ...string) []choice {
	out := []choice{{Label: any, Selected: selected == ""}}
	for _, v := range values {
		out = append(out, choice{Value: v, Label: label(v), Selected: v == selected})
	}
	return out
}

// filterValue reads one filter of a list; absurd lengths are cut off by refusing the page.
func filterValue(r *http.Request, name string) (string, error) {
	v := strings.TrimSpace(r.URL.Query().Get(name))
	if len(v) > maxFilterValue {
		return "", errBadFilter
	}
	return v, nil
}

// filterValues reads filters into their fields, in one place for all lists.
func filterValues(r *http.Request, fields map[string]*string) error {
	for name, field := range fields {
		v, err := filterValue(r, name)
		if err != nil {
			return err
		}
		*field = v
	}
	return nil
}

func pageOf(r *http.Request) store.Page {
	return store.Page{Limit: pageSize, Cursor: r.URL.Query().Get("cursor"), Sort: r.URL.Query().Get("sort")}
}

// withQuery is the request's address with some query values replaced; an empty value removes one.
func withQuery(r *http.Request, pairs ...string) string {
	q := r.URL.Query()
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			q.Del(pairs[i])
		} else {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return r.URL.Path
	}
	return (&url.URL{Path: r.URL.Path, RawQuery: q.Encode()}).String()
}

// paging is what the foot of a list needs: keyset pages go forward, and back to the first.
type paging struct {
	Next   string
	First  string
	Export string // the list as CSV; empty where there is none
}

func pagingOf(r *http.Request, next string) paging {
	var p paging
	if next != "" {
		p.Next = withQuery(r, "cursor", next)
	}
	if r.URL.Query().Get("cursor") != "" {
		p.First = withQuery(r, "cursor", "")
	}
	return p
}

// filtered tells whether a list is narrowed, so that an empty one can say why it is empty.
func filtered(r *http.Request) bool {
	for name, values := range r.URL.Query() {
		if name != "cursor" && name != "sort" && name != "status" && len(values) > 0 && values[0] != "" {
			return true
		}
	}
	return false
}

// pathID reads the id in the path. What is no id names no page.
func pathID(r *http.Request) (uuid.UUID, error) {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return uuid.Nil, errNoPage
	}
	return id, nil
}

// queryID reads an optional id of the query.
func queryID(r *http.Request, name string) (*uuid.UUID, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return nil, nil
	}
	id, err := uuid.Parse(v)
	if err != nil {
		return nil, errBadFilter
	}
	return &id, nil
}

// sortLink is the heading of a column that the list can be ordered by.
type sortLink struct {
	Label string
	Link  string
	Aria  string // the value of aria-sort; empty where the list is in another order
}

// sortLinks are the headings of sortable columns, by the name of the order. What is chosen again is turned round.
func sortLinks(r *http.Request, initial string, pairs ...string) map[string]sortLink {
	now := r.URL.Query().Get("sort")
	if now == "" {
		now = initial
	}
	out := make(map[string]sortLink, len(pairs)/2)
	for i := 0; i+1 < len(pairs); i += 2 {
		name := pairs[i]
		l := sortLink{Label: pairs[i+1], Link: withQuery(r, "sort", name, "cursor", "")}
		switch now {
		case name:
			l.Aria, l.Link = "ascending", withQuery(r, "sort", "-"+name, "cursor", "")
		case "-" + name:
			l.Aria = "descending"
		}
		out[name] = l
	}
	return out
}

// queryDay reads an optional day, or a time, of the query; a day begins in UTC.
func queryDay(r *http.Request, name string) (*time.Time, string, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return nil, "", nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, v); err == nil {
			return &at, v, nil
		}
	}
	return nil, "", errBadFilter
}

// dayText is a day as the API takes it.
func dayText(at *time.Time) string {
	if at == nil {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}

// idText is an optional id as the API takes it.
func idText(id *uuid.UUID) string {
	if id == nil {
		return ""
	}
	return id.String()
}
