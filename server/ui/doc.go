// Package ui is the web page of the service: the fleet, each machine, each verdict hop by hop with its
// deviations and its decoded boot log, alerts, recommendations, baselines and suppression rules.
//
// Pages are rendered on the server from html/template; they work without JavaScript, ask no other host
// for anything and carry a Content-Security-Policy that forbids it. New returns one handler, to be
// mounted at /ui/ with the path left whole:
//
//	handler, err := ui.New(ui.Config{Store: st, EventLog: att.DecodedLog, Authenticate: auth, Now: time.Now})
//	mux.Handle("/ui/", handler)
//
// # Sessions
//
// A person signs in with an API token (admin or reader). The browser keeps it in a cookie that scripts
// cannot read and other sites cannot send (HttpOnly, SameSite=Strict, Path=/ui/), so that no session is
// stored and every replica can answer; the token is authenticated again on every request, so that a
// revoked token ends the session at once. It never appears in a URL or in a page. Each form that changes
// something carries an HMAC keyed by the token (session.go), and cross-origin requests are refused
// before anything else is looked at.
//
// # Hostile content
//
// Machine names and the text of boot logs are chosen by whoever controls the machine. html/template
// escapes them for their place in the page; what remains, control characters and the Unicode controls
// that reorder or hide text, is made visible in the finished page (visible.go), so that no template can
// forget to.
package ui
