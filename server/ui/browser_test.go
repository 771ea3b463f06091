package ui_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
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
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.UserDataDir(t.TempDir()))
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	must(t, chromedp.Do(ctx, chromedp.Navigate("about:blank"))) // the browser lives as long as this context
	return ctx
}

// TestLook writes pictures of every page into the folder that ASSAY_UI_SHOTS names, for people to look at.
func TestLook(t *testing.T) {
	dir := os.Getenv("ASSAY_UI_SHOTS")
	f := newFleet(t)
	site := f.site(t)
	ctx := chromium(t)
	must(t, chromedp.Do(ctx, chromedp.Navigate(site.URL+"/ui/"), chromedp.SendKeys("#token", f.admin+"\n"), chromedp.WaitVisible(".side")))
	pages := map[string]string{
		"overview": "/ui/", "machines": "/ui/machines", "machine": "/ui/machines/" + f.machines["web-3"].String(),
		"verdict": "/ui/verdicts/" + f.verdicts["web-3"].String(), "verdict-origin": "/ui/verdicts/" + f.verdicts["db-1"].String(),
		"verdict-good": "/ui/verdicts/" + f.verdicts["web-1"].String(),
		"alerts":       "/ui/alerts", "alert": "/ui/alerts/" + f.alerts["web-3"].ID.String(), "recommendations": "/ui/recommendations",
		"baselines": "/ui/baselines", "baseline": "/ui/baselines/" + f.baseline.BaselineID.String(), "version": "/ui/baselines/" + f.baseline.BaselineID.String() + "/versions/1", "suppressions": "/ui/suppressions",
	}
	for name, path := range pages {
		if only := os.Getenv("ONLY"); only != "" && !strings.Contains(only, name+";") {
			continue
		}
		for _, scheme := range strings.Fields(os.Getenv("SCHEMES")) {
			_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			must(t, err)
			must(t, chromedp.Do(ctx, chromedp.Navigate(site.URL+path), chromedp.WaitVisible("footer")))
			png, err := chromedp.Run(ctx, chromedp.FullScreenshot(90))
			must(t, err)
			if dir != "" {
				must(t, os.WriteFile(filepath.Join(dir, name+"-"+scheme+".jpg"), png, 0o600))
			}
		}
	}
}
