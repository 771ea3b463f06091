package ui

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"time"
)

//go:embed static
var staticFiles embed.FS

type asset struct {
	contentType string
	body        []byte
	version     string // of the content, so that an address always means the same bytes
}

// assets are the files that pages refer to.
var assets = map[string]asset{
	"charts.js": loadAsset("charts.js", "text/javascript; charset=utf-8"),
	"uplot.js":  loadAsset("uplot.js", "text/javascript; charset=utf-8"),
	"uplot.css": loadAsset("uplot.css", "text/css; charset=utf-8"),
	"app.css":   loadAsset("app.css", "text/css; charset=utf-8"),
	"app.js":    loadAsset("app.js", "text/javascript; charset=utf-8"),
	"icon.svg":  loadAsset("icon.svg", "image/svg+xml"),
}

func loadAsset(name, contentType string) asset {
	body, err := staticFiles.ReadFile("static/" + name)
	if err != nil {
		panic("ui: " + err.Error()) // the file is part of the binary
	}
	sum := sha256.Sum256(body)
	return asset{contentType: contentType, body: body, version: hex.EncodeToString(sum[:6])}
}

func assetURL(name string) string { return "/ui/static/" + name + "?v=" + assets[name].version }

// static serves a file without a session: it is the same for everyone.
func (h *handler) static(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	a, ok := assets[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if r.URL.Query().Get("v") == a.version {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		w.Header().Set("Cache-Control", "no-cache")
	}
	w.Header().Set("Content-Type", a.contentType)
	w.Header().Set("ETag", `"`+a.version+`"`)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(a.body))
}
