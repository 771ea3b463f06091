package ui_test

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// chromium starts a headless browser and gives a context for one tab.
func chromium(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("the pages are tested in a real browser; this installs it:\n  apt-get install -y chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WindowSize(1440, 900),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("allow-pre-commit-input", true)) // without it a click before the first frame is dropped, and never answered
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	ctx, expire := context.WithTimeout(ctx, 3*time.Minute) // a browser that stalls fails its test and no other
	t.Cleanup(expire)
	must(t, chromedp.Do(ctx, chromedp.Navigate("about:blank"))) // the browser lives as long as this context
	return ctx
}

// open signs in through the form, as a person does.
func open(t *testing.T, ctx context.Context, site *httptest.Server, token string) {
	t.Helper()
	must(t, chromedp.Do(ctx, chromedp.Navigate(site.URL+"/ui/"), chromedp.SendKeys(chromedp.CSS("#token"), token+"\n"), chromedp.WaitVisible(chromedp.CSS(".side"))))
}

// evaluate runs a script in the page, from outside: the page's own policy does not bind it.
func evaluate[T any](t *testing.T, ctx context.Context, script string) T {
	t.Helper()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](script))
	must(t, err)
	return v
}

// lowContrast lists texts whose contrast to what is behind them is below WCAG 2.1 AA (4.5, large text 3).
const lowContrast = `(() => {
  const parse = (c) => {
    const n = (c.match(/-?[\d.]+(e-?\d+)?/g) || []).map(Number);
    return c.startsWith("color(") ? [n[0] * 255, n[1] * 255, n[2] * 255, n[3] ?? 1] : [n[0], n[1], n[2], n[3] ?? 1];
  };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat(1);
  const behind = (e) => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]);
  };
  const light = (c) => {
    const [r, g, b] = c.slice(0, 3).map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const bad = new Set();
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility() || e.closest("svg, .sr, .skip")) continue;
    const style = getComputedStyle(e), back = behind(e), front = over(parse(style.color), back);
    const [hi, lo] = [light(front), light(back)].sort((a, b) => b - a), ratio = (hi + .05) / (lo + .05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) bad.add(e.tagName + "." + e.className + " " + ratio.toFixed(2));
  }
  return [...bad];
})()`

// structure lists what a screen reader would miss: fields without a name, a page without one main part and
// one first heading, pictures without text, ids used twice, headings that skip a level.
const structure = `(() => {
  const bad = [];
  for (const f of document.querySelectorAll("input:not([type=hidden]), select, textarea")) if (!f.labels || !f.labels.length) bad.push("no label: " + f.name);
  for (const s of ["main", "h1"]) if (document.querySelectorAll(s).length !== 1) bad.push(document.querySelectorAll(s).length + " " + s);
  for (const i of document.querySelectorAll("img:not([alt]), svg:not([aria-hidden]):not([aria-label])")) bad.push("no text: " + i.outerHTML.slice(0, 60));
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) bad.push("id twice: " + id);
  for (const a of document.querySelectorAll("[aria-labelledby]")) if (!document.getElementById(a.getAttribute("aria-labelledby"))) bad.push("labelled by nothing: " + a.getAttribute("aria-labelledby"));
  for (const a of document.querySelectorAll("a, button")) if (!a.textContent.trim()) bad.push("empty: " + a.outerHTML.slice(0, 60));
  for (const th of document.querySelectorAll("th")) if (!th.scope) bad.push("th without scope");
  let level = 1;
  for (const h of document.querySelectorAll("h1, h2, h3")) { const l = +h.tagName[1]; if (l > level + 1) bad.push("heading skips: " + h.textContent); level = l; }
  return [...new Set(bad)];
})()`

// TestEveryPageInABrowser: no page asks another host for anything, breaks its own content security policy
// or logs an error; every text can be read in light and dark; nothing runs out of a phone's screen.
func TestEveryPageInABrowser(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	ctx := chromium(t)
	var asked sync.Map // addresses that pages asked for
	must(t, chromedp.Listen(ctx, func(ev any) {
		if e, ok := ev.(*network.EventRequestWillBeSent); ok {
			asked.Store(e.Request.URL, true)
		}
	}))
	console := chromedp.Console(ctx)
	open(t, ctx, site, f.admin)
	for _, path := range append(f.paths(), "/ui/nothing") {
		must(t, chromedp.Do(ctx, chromedp.EmulateViewport(1440, 900), chromedp.Navigate(site.URL+path), chromedp.WaitVisible(chromedp.CSS("main"))))
		for _, bad := range evaluate[[]string](t, ctx, structure) {
			t.Errorf("%s: %s", path, bad)
		}
		for _, scheme := range []string{"light", "dark"} {
			_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			must(t, err)
			for _, bad := range evaluate[[]string](t, ctx, lowContrast) {
				t.Errorf("%s, %s: too little contrast: %s", path, scheme, bad)
			}
		}
		must(t, chromedp.Do(ctx, chromedp.EmulateViewport(390, 844)))
		if wide := evaluate[float64](t, ctx, `document.documentElement.scrollWidth`); wide > 390 {
			t.Errorf("%s: %v pixels wide on a screen of 390", path, wide)
		}
	}
	count := 0
	asked.Range(func(address, _ any) bool {
		count++
		// The browser's own style sheet draws the icon of a date field from a data URL, which asks nobody.
		if !strings.HasPrefix(address.(string), site.URL+"/ui/") && !strings.HasPrefix(address.(string), "data:image/svg+xml;base64,") {
			t.Errorf("a page asks for %s", address)
		}
		return true
	})
	if count < len(f.paths()) {
		t.Errorf("only %d requests were seen", count)
	}
	must(t, chromedp.Do(ctx, chromedp.Navigate(site.URL+"/ui/machines")))
	noErrors(t, ctx, console)
}

// noErrors fails where a page has said something on the console.
func noErrors[M any](t *testing.T, ctx context.Context, console iter.Seq2[M, error]) {
	t.Helper()
	_ = evaluate[bool](t, ctx, `console.log("the end"), true`)
	for m, err := range console {
		must(t, err)
		text := fmt.Sprint(m)
		if strings.Contains(text, "the end") {
			break
		}
		if !strings.HasPrefix(text, "debug:") && !strings.Contains(text, "404") { // the page that does not exist
			t.Errorf("console: %s", text)
		}
	}
}

// TestHostileTextInABrowser: nothing that a machine calls itself runs.
func TestHostileTextInABrowser(t *testing.T) {
	f, handler := hostileFleet(t)
	site := httptest.NewServer(handler)
	defer site.Close()
	ctx := chromium(t)
	open(t, ctx, site, f.admin)
	for _, path := range f.hostilePaths() {
		must(t, chromedp.Do(ctx, chromedp.EmulateViewport(390, 844), chromedp.Navigate(site.URL+path), chromedp.WaitVisible(chromedp.CSS("main"))))
		title, err := chromedp.Run(ctx, chromedp.Title())
		must(t, err)
		if title == "owned" || !strings.HasSuffix(title, "Assay") {
			t.Errorf("%s: the title is %q", path, title)
		}
		if n := evaluate[int](t, ctx, `document.querySelectorAll("script:not([src]), img[src=x]").length`); n != 0 {
			t.Errorf("%s: %d live elements out of text", path, n)
		}
		if wide := evaluate[float64](t, ctx, `document.documentElement.scrollWidth`); wide > 390 {
			t.Errorf("%s: long text makes the page %v pixels wide", path, wide)
		}
	}
}

// TestWithoutJavaScript: sign in, filter a log, dismiss an alert, sign out, all of it by the keyboard. A click goes to
// where its button was a moment ago, and misses it if the page is laid out anew meanwhile, as on a loaded machine.
func TestWithoutJavaScript(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	ctx := chromium(t)
	_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	must(t, err)
	open(t, ctx, site, f.admin)
	must(t, chromedp.Do(ctx,
		chromedp.Navigate(site.URL+"/ui/verdicts/"+f.verdicts["web-3"].String()),
		chromedp.SendKeys(chromedp.CSS("select[name=show]"), "Deviating"), chromedp.SendKeys(chromedp.CSS(".card .filter button"), "\n"), chromedp.WaitVisible(chromedp.CSS(".filter .buttons a"))))
	where, err := chromedp.Run(ctx, chromedp.Location())
	must(t, err)
	if !strings.Contains(where, "show=changed") {
		t.Errorf("the filter leads to %s", where)
	}
	must(t, chromedp.Do(ctx,
		chromedp.Navigate(site.URL+"/ui/alerts/"+f.alerts["web-3"].ID.String()),
		chromedp.SendKeys(chromedp.CSS("button.danger"), "\n"), chromedp.WaitVisible(chromedp.CSS(".notice.good"))))
	if got := f.status(t, "web-3"); got != "dismissed" {
		t.Errorf("the alert is %s", got)
	}
	must(t, chromedp.Do(ctx,
		chromedp.Navigate(site.URL+"/ui/alerts/"+f.alerts["web-3"].ID.String()),
		chromedp.SendKeys(chromedp.CSS(`form[action$="/activate"] button`), "\n"), chromedp.WaitVisible(chromedp.CSS(".notice.good")),
		chromedp.SendKeys(chromedp.CSS("#comment"), "asked the owner"), chromedp.SendKeys(chromedp.CSS(`form[action$="/comments"] button`), "\n"), chromedp.WaitVisible(chromedp.CSS("ul.plain .prose")), // the notice was there before
		chromedp.Navigate(site.URL+"/ui/incidents/"+f.incident.String()),
		chromedp.SendKeys(chromedp.CSS(`button[formaction$="/resolve"]`), "\n"), chromedp.WaitVisible(chromedp.CSS(".notice.good"))))
	if got := f.status(t, "web-3"); got != "resolved" {
		t.Errorf("after its incident was resolved the alert is %s", got)
	}
	must(t, chromedp.Do(ctx, chromedp.SendKeys(chromedp.CSS(".who button"), "\n"), chromedp.WaitVisible(chromedp.CSS("#token")), chromedp.Navigate(site.URL+"/ui/machines"), chromedp.WaitVisible(chromedp.CSS("#token"))))
}

// TestFilterActsAtOnce is the comfort that the script adds.
func TestFilterActsAtOnce(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	ctx := chromium(t)
	open(t, ctx, site, f.reader)
	must(t, chromedp.Do(ctx, chromedp.Navigate(site.URL+"/ui/machines"), chromedp.WaitVisible(chromedp.CSS("select[name=platform]"))))
	_ = evaluate[bool](t, ctx, `(() => { const s = document.querySelector("select[name=platform]"); s.value = "gcp"; s.dispatchEvent(new Event("change")); return true })()`)
	must(t, chromedp.Do(ctx, chromedp.WaitVisible(chromedp.CSS(".filter .buttons a"))))
	if text := evaluate[string](t, ctx, `document.querySelector("tbody").innerText`); !strings.Contains(text, "db-1") || strings.Contains(text, "web-1") {
		t.Errorf("the list shows %q", text)
	}
}

// TestLinkFromAnotherSite: strict cookies are not sent along a link in a chat or a ticket, and yet somebody
// who is signed in gets to the page without signing in again.
func TestLinkFromAnotherSite(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	target := site.URL + "/ui/alerts/" + f.alerts["web-3"].ID.String()
	chat := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `<!doctype html><title>chat</title><a id="link" href="%s">see the alert</a>`, target)
	}))
	defer chat.Close()
	ctx := chromium(t)
	open(t, ctx, site, f.reader)
	elsewhere := strings.Replace(chat.URL, "127.0.0.1", "localhost", 1)
	must(t, chromedp.Do(ctx, chromedp.Navigate(elsewhere), chromedp.Click(chromedp.CSS("#link")), chromedp.WaitVisible(chromedp.CSS("#what"))))
	where, err := chromedp.Run(ctx, chromedp.Location())
	must(t, err)
	if where != target {
		t.Errorf("the link leads to %s", where)
	}
}

// The charts are drawn from their tables, whose range and order are chosen by links; without a script the tables are all.
func TestCharts(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	ctx := chromium(t)
	console := chromedp.Console(ctx)
	open(t, ctx, site, f.admin)
	must(t, chromedp.Do(ctx, chromedp.Navigate(site.URL+"/ui/?range=7d"), chromedp.WaitVisible(chromedp.CSS(".chart.drawn canvas"))))
	if n := evaluate[float64](t, ctx, `document.querySelectorAll(".chart.drawn canvas").length`); n != 4 {
		t.Errorf("%v charts are drawn", n)
	}
	rows := evaluate[float64](t, ctx, `document.querySelectorAll("#chart-machines tbody tr").length`)
	machines := evaluate[float64](t, ctx, `[...document.querySelectorAll("#chart-machines tbody tr:last-child td")].reduce((sum, td) => sum + Number(td.dataset.n), 0)`)
	if rows < 28 || machines != float64(len(f.machines)) {
		t.Errorf("%v steps, and at the end %v machines", rows, machines)
	}
	// By keyboard: the summary opens the table, the link of another range is followed.
	must(t, chromedp.Do(ctx, chromedp.Focus(chromedp.CSS("#chart-alerts summary")), chromedp.SendKeys(chromedp.CSS("#chart-alerts summary"), "\n"),
		chromedp.WaitVisible(chromedp.CSS("#chart-alerts table"))))
	must(t, chromedp.Do(ctx, chromedp.Focus(chromedp.CSS(`.tabs a[href*="range=30d"]`)), chromedp.SendKeys(chromedp.CSS(`.tabs a[href*="range=30d"]`), "\n"),
		chromedp.WaitVisible(chromedp.CSS(`.tabs a[href*="range=30d"][aria-current]`)), chromedp.WaitVisible(chromedp.CSS(".chart.drawn canvas"))))
	must(t, chromedp.Do(ctx, chromedp.Navigate(site.URL+"/ui/machines"), chromedp.WaitVisible(chromedp.CSS("thead th a")),
		chromedp.Focus(chromedp.CSS("thead th:first-child a")), chromedp.SendKeys(chromedp.CSS("thead th:first-child a"), "\n"),
		chromedp.WaitVisible(chromedp.CSS(`thead th[aria-sort="ascending"]`))))
	names := evaluate[[]string](t, ctx, `[...document.querySelectorAll("tbody tr td:first-child")].map((td) => td.textContent.trim())`)
	if !slices.IsSorted(names) || len(names) < 2 {
		t.Errorf("by name: %q", names)
	}
	noErrors(t, ctx, console)
}
