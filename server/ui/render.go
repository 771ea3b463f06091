package ui

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"
)

//go:embed templates/*.html
var templateFiles embed.FS

// layout is what every page's template gets.
type layout struct {
	Title   string
	Nav     string // the entry of the menu that the page belongs to
	Session session
	Now     time.Time
	Version string
	Server  string // scheme and host as the browser sees them, for the commands of empty pages
	Style   string // address of the style sheet, its content in the query, so that it can be kept for good
	Script  string
	Icon    string
	HasKeys bool // there is a page of signing keys
	View    any
}

// parsePages compiles each page together with the base. A page file that does not compile stops the start.
func parsePages() (map[string]*template.Template, error) {
	base, err := template.New("base").Funcs(functions).ParseFS(templateFiles, "templates/base.html", "templates/parts.html", "templates/fleet.html")
	if err != nil {
		return nil, fmt.Errorf("parse base templates: %w", err)
	}
	files, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		return nil, err
	}
	pages := make(map[string]*template.Template)
	for _, file := range files {
		name := strings.TrimSuffix(path.Base(file), ".html")
		if name == "base" || name == "parts" || name == "fleet" {
			continue
		}
		page, err := base.Clone()
		if err == nil {
			page, err = page.ParseFS(templateFiles, file)
		}
		if err != nil {
			return nil, fmt.Errorf("parse page %s: %w", name, err)
		}
		pages[name] = page
	}
	return pages, nil
}

// render writes a page. It is made whole in memory first, so that a failure never shows half of one.
func (h *handler) render(w http.ResponseWriter, r *http.Request, s session, status int, page, title string, view any) {
	nav, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/ui/"), "/")
	if nav == "verdicts" {
		nav = "machines"
	}
	data := layout{
		Title: title, Nav: nav, Session: s, Now: h.now(), Version: h.Version, Server: h.address(r), HasKeys: h.Tokens != nil, View: view,
		Style: assetURL("app.css"), Script: assetURL("app.js"), Icon: assetURL("icon.svg"),
	}
	var out bytes.Buffer
	if err := h.pages[page].ExecuteTemplate(&out, "base", data); err != nil {
		h.Logger.ErrorContext(r.Context(), "page cannot be rendered", "page", page, "error", err)
		http.Error(w, "The page could not be made. The reason is in the service's log.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(visible(out.Bytes())) // a reader that went away is nobody's error
}

// address is the service's own address as this browser sees it. The Host header is only shown back to
// whoever sent it.
func (h *handler) address(r *http.Request) string {
	if h.SecureCookies || r.TLS != nil {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}
