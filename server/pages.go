package server

import (
	"embed"
	"html/template"
	"net/http"
	"strconv"

	"github.com/go-chi/chi/v5"

	"github.com/assay-verifier/assay/openapi"
)

//go:embed docs/index.html docs/init.js docs/redoc.standalone.js.gz
var docsFiles embed.FS

// docsPolicy lets the page at /docs load its own files and nothing else. Redoc styles by inline
// elements and searches in a worker that it makes from a blob.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:; " +
	"connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// mountPages mounts what is not part of the contract: the files of the docs page, the pages that
// explain problem codes, and the web pages.
func (s *Server) mountPages(router chi.Router) {
	router.Get("/docs/redoc.standalone.js", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		s.sendFile(w, r, "docs/redoc.standalone.js.gz", "text/javascript; charset=utf-8", "public, max-age=86400")
	})
	router.Get("/docs/init.js", func(w http.ResponseWriter, r *http.Request) {
		s.sendFile(w, r, "docs/init.js", "text/javascript; charset=utf-8", "public, max-age=3600")
	})
	router.Get("/docs/problems/{code}", s.getProblemPage)
	router.Get("/", func(w http.ResponseWriter, r *http.Request) {
		target := "/docs"
		if s.cfg.UI != nil {
			target = "/ui/"
		}
		http.Redirect(w, r, target, http.StatusFound)
	})
	if s.cfg.UI == nil {
		return
	}
	router.Get("/ui", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ui/", http.StatusMovedPermanently) })
	pages := s.limitedPages(s.cfg.UI)
	router.Handle("/ui/*", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Del("Content-Security-Policy") // the pages set their own
		pages.ServeHTTP(w, r)
	}))
}

func (s *Server) sendFile(w http.ResponseWriter, r *http.Request, name, contentType, caching string) {
	b, err := docsFiles.ReadFile(name)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", caching)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b)
}

func (s *Server) getDocs(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Security-Policy", docsPolicy)
	s.sendFile(w, r, "docs/index.html", "text/html; charset=utf-8", "public, max-age=3600")
}

func (s *Server) getOpenAPI(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/yaml")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("Content-Length", strconv.Itoa(len(openapi.Document)))
	_, _ = w.Write(openapi.Document)
}

var problemPage = template.Must(template.New("problem").Parse(`<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{{.Code}}</title></head>
<body>
<h1>{{.Title}}</h1>
<p><code>{{.Code}}</code>, HTTP {{.Status}}</p>
<p>{{.Detail}}</p>
<p><a href="/docs">All operations</a></p>
</body>
</html>
`))

// getProblemPage explains a code: it is what a problem's type points to.
func (s *Server) getProblemPage(w http.ResponseWriter, r *http.Request) {
	code := chi.URLParam(r, "code")
	kind, ok := s.problems[code]
	if !ok {
		s.fail(w, r, refuse(codeNotFound, "there is no such problem code"))
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "public, max-age=3600")
	_ = problemPage.Execute(w, map[string]any{"Code": code, "Title": kind.title, "Status": kind.status, "Detail": kind.detail})
}
