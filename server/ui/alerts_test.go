package ui_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func (f *fleet) status(t testing.TB, machine string) string {
	t.Helper()
	a, err := db.GetAlert(context.Background(), f.tenant, f.alerts[machine].ID, f.now)
	must(t, err)
	return a.Status
}

// TestWhoMayChangeAnAlert: only an administrator, from a page of ours, in this session.
func TestWhoMayChangeAnAlert(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	admin, reader := signIn(t, site, f.admin), signIn(t, site, f.reader)
	address := site.URL + "/ui/alerts/" + f.alerts["web-3"].ID.String()
	_, page := get(t, admin, address)
	good := csrf(t, page)
	_, readerPage := get(t, reader, address)
	readers := csrf(t, readerPage)
	if strings.Contains(readerPage, "/dismiss") || !strings.Contains(readerPage, "may only read") {
		t.Error("a reader is offered to change the alert")
	}
	for name, try := range map[string]struct {
		client  *http.Client
		csrf    string
		headers []string
		want    int
	}{
		"nobody":                        {browser(t), good, nil, http.StatusSeeOther},
		"a reader":                      {reader, readers, nil, http.StatusForbidden},
		"without the form's token":      {admin, "", nil, http.StatusForbidden},
		"with another session's token":  {admin, readers, nil, http.StatusForbidden},
		"from another site":             {admin, good, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		"from a neighbouring site":      {admin, good, []string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		"from another origin, old ones": {admin, good, []string{"Origin", "https://evil.example"}, http.StatusForbidden},
		"as something else than a form": {admin, good, []string{"Content-Type", "text/plain"}, http.StatusForbidden},
	} {
		res, _ := post(t, try.client, address+"/dismiss", url.Values{"csrf": {try.csrf}}, try.headers...)
		if res.StatusCode != try.want {
			t.Errorf("%s: %s, want %d", name, res.Status, try.want)
		}
		if got := f.status(t, "web-3"); got != "active" {
			t.Fatalf("%s: the alert is %s", name, got)
		}
	}
	if res, _ := get(t, admin, address+"/dismiss"); res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("a link changes an alert: %s", res.Status)
	}
}

func TestAlertLifecycle(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	admin := signIn(t, site, f.admin)
	address := site.URL + "/ui/alerts/" + f.alerts["web-3"].ID.String()
	_, page := get(t, admin, address)
	form := url.Values{"csrf": {csrf(t, page)}, "comment": {"that <i>is</i> why"}}
	for _, step := range [][2]string{{"in-progress", "in_progress"}, {"resolve", "resolved"}, {"activate", "active"}, {"dismiss", "dismissed"}} {
		res, _ := post(t, admin, address+"/"+step[0], form)
		if want := strings.TrimPrefix(address, site.URL) + "?done=" + step[0]; res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != want {
			t.Fatalf("%s: %s to %q", step[0], res.Status, res.Header.Get("Location"))
		}
		if got := f.status(t, "web-3"); got != step[1] {
			t.Fatalf("%s: the alert is %s", step[0], got)
		}
		if _, page := get(t, admin, site.URL+res.Header.Get("Location")); !strings.Contains(page, `role="status"`) {
			t.Errorf("%s: the page does not say what was done", step[0])
		}
	}
	if _, page := get(t, admin, address); strings.Count(page, "that &lt;i&gt;is&lt;/i&gt; why") != 4 {
		t.Error("the history has not the comment of each step")
	}
	if res, _ := post(t, admin, address+"/activate", url.Values{"csrf": form["csrf"], "comment": {strings.Repeat("x", 4097)}}); res.StatusCode != http.StatusBadRequest {
		t.Errorf("a comment that is too long: %s", res.Status)
	}
	if res, body := post(t, admin, address+"/resolve", form); res.StatusCode != http.StatusConflict || !strings.Contains(body, "The alert has moved on") {
		t.Errorf("a step that the state does not allow: %s", res.Status)
	}
	if res, _ := post(t, admin, address+"/delete", form); res.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown step: %s", res.Status)
	}
	if res, _ := post(t, admin, site.URL+"/ui/alerts/"+uuid.NewString()+"/resolve", form); res.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown alert: %s", res.Status)
	}
	// Verdict and machine stay as they are.
	m, err := db.GetMachine(context.Background(), f.tenant, f.machines["web-3"])
	must(t, err)
	if m.Status.String() != "contraindicated" {
		t.Errorf("dismissing made the machine %s", m.Status)
	}
}

func TestSuppressedAlerts(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	c := signIn(t, site, f.reader)
	if _, page := get(t, c, site.URL+"/ui/alerts"); strings.Contains(page, "legacy-1") || !strings.Contains(page, "web-3") {
		t.Error("the list shows what a rule suppresses, or not what none does")
	}
	if _, page := get(t, c, site.URL+"/ui/alerts?suppressed=1"); !strings.Contains(page, "legacy-1") || !strings.Contains(page, "Suppressed") {
		t.Error("suppressed alerts cannot be found")
	}
	_, page := get(t, c, site.URL+"/ui/alerts/"+f.alerts["legacy-1"].ID.String())
	for _, want := range []string{"legacy driver needs Secure Boot off", "scale set is legacy", f.rule.ID.String()} {
		if !strings.Contains(page, want) {
			t.Errorf("the alert does not say %q", want)
		}
	}
}

// TestTenantsAreApart: ids of one tenant are nothing to another.
func TestTenantsAreApart(t *testing.T) {
	f, other := newFleet(t), emptyFleet(t)
	site := f.site(t)
	c := signIn(t, site, other.admin)
	for _, path := range f.paths() {
		res, page := get(t, c, site.URL+path)
		if strings.Contains(page, "web-1") || strings.Contains(page, "web-3") {
			t.Errorf("%s: shows another tenant's machines", path)
		}
		if strings.Count(path, "/") > 2 && res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	_, page := get(t, c, site.URL+"/ui/")
	res, _ := post(t, c, site.URL+"/ui/alerts/"+f.alerts["web-3"].ID.String()+"/dismiss", url.Values{"csrf": {csrf(t, page)}})
	if res.StatusCode != http.StatusNotFound || f.status(t, "web-3") != "active" {
		t.Errorf("another tenant's administrator changes an alert: %s", res.Status)
	}
}

// TestIncidentLifecycle: what is done to an incident is done to its open alerts, and each alert's page tells it.
func TestIncidentLifecycle(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	admin, reader := signIn(t, site, f.admin), signIn(t, site, f.reader)
	address := site.URL + "/ui/incidents/" + f.incident.String()
	_, list := get(t, reader, site.URL+"/ui/incidents")
	contains(t, "/ui/incidents", list, f.incident.String(), "Active", "web 1")
	_, page := get(t, admin, address)
	contains(t, address, page, "on 1 machine of scale set web since", "web-3", "Dismiss all", "Open alerts")
	form := url.Values{"csrf": {csrf(t, page)}, "comment": {"the new command line"}}
	if _, readers := get(t, reader, address); strings.Contains(readers, "Dismiss all") || !strings.Contains(readers, "may only read") {
		t.Error("a reader is offered to change the incident")
	}
	if res, _ := post(t, admin, address+"/comments", url.Values{"csrf": form["csrf"]}); res.StatusCode != http.StatusBadRequest {
		t.Errorf("an empty comment: %s", res.Status)
	}
	for _, step := range [][2]string{{"comments", "active"}, {"in-progress", "in_progress"}, {"dismiss", "dismissed"}} {
		res, _ := post(t, admin, address+"/"+step[0], form)
		if res.StatusCode != http.StatusSeeOther || f.status(t, "web-3") != step[1] {
			t.Fatalf("%s: %s, the alert is %s", step[0], res.Status, f.status(t, "web-3"))
		}
		if _, page := get(t, admin, site.URL+res.Header.Get("Location")); !strings.Contains(page, `role="status"`) {
			t.Errorf("%s: the page does not say what was done", step[0])
		}
	}
	if res, _ := post(t, admin, address+"/resolve", form); res.StatusCode != http.StatusConflict {
		t.Errorf("nothing is open, and %s", res.Status)
	}
	if res, _ := post(t, admin, address+"/delete", form); res.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown step: %s", res.Status)
	}
	alert := site.URL + "/ui/alerts/" + f.alerts["web-3"].ID.String()
	if res, _ := post(t, admin, alert+"/comments", url.Values{"csrf": form["csrf"], "comment": {"<b>said</b> so"}}); res.StatusCode != http.StatusSeeOther {
		t.Errorf("a comment: %s", res.Status)
	}
	_, page = get(t, admin, alert)
	contains(t, alert, page, "the new command line", "&lt;b&gt;said&lt;/b&gt; so", "Dismissed", "Opened", "system:alerts", "Occurrences", address[len(site.URL):], f.verdicts["web-3"].String())
}

// TestSuppressionIsSimulatedBeforeItIsSaved: the form shows what the rule would have hidden, and changes nothing until then.
func TestSuppressionIsSimulatedBeforeItIsSaved(t *testing.T) {
	f := newFleet(t)
	site := f.site(t)
	admin := signIn(t, site, f.admin)
	address := site.URL + "/ui/suppressions"
	_, page := get(t, admin, address)
	form := url.Values{"csrf": {csrf(t, page)}, "code": {"attestation_failed"}, "reason": {"web is rebuilt"}, "scale_set": {"web"}, "days": {"7"}}
	res, page := post(t, admin, address+"/simulate", form)
	if res.StatusCode != http.StatusOK {
		t.Fatal(res.Status)
	}
	contains(t, address, page, "Would have hidden 1 alert of the last 30 days", "on 1 machine", "1 open now", "web-3", `value="web is rebuilt"`)
	if _, list := get(t, admin, site.URL+"/ui/alerts"); !strings.Contains(list, "web-3") {
		t.Error("the simulation hides the alert")
	}
	if res, _ := post(t, admin, address, form); res.StatusCode != http.StatusSeeOther {
		t.Fatalf("saved: %s", res.Status)
	}
	if _, list := get(t, admin, site.URL+"/ui/alerts"); strings.Contains(list, "web-3") {
		t.Error("the rule does not hide the alert")
	}
	_, page = get(t, admin, address)
	contains(t, address, page, "web is rebuilt", "scale set is web", "in 7 days")
	for _, field := range []string{"code", "scale_set", "reason"} {
		bad := url.Values{"csrf": form["csrf"], "code": form["code"], "reason": form["reason"], "scale_set": form["scale_set"]}
		bad.Set(field, "")
		if res, _ := post(t, admin, address, bad); res.StatusCode != http.StatusBadRequest {
			t.Errorf("without %s: %s", field, res.Status)
		}
	}
	form.Set("scale_set", "web\x00")
	if res, _ := post(t, admin, address+"/simulate", form); res.StatusCode != http.StatusBadRequest {
		t.Errorf("a control character: %s", res.Status)
	}
}
