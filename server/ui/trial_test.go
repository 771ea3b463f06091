package ui_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server"
	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/server/ui"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// trialSite is the pages of a fleet whose dry run is that function.
func (f *fleet) trialSite(t testing.TB, run func(version int) (*attest.Trial, error)) *httptest.Server {
	t.Helper()
	handler, err := ui.New(ui.Config{May: server.RoleMay, Store: db, EventLog: f.eventLog, Authenticate: authenticate(f.clock), Now: f.clock,
		DryRun: func(_ context.Context, tenant, baseline uuid.UUID, version int, _ attest.Progress) (*attest.Trial, error) {
			if tenant != f.tenant || baseline != f.baseline.BaselineID {
				return nil, errors.New("another tenant's, or another baseline")
			}
			return run(version)
		}})
	must(t, err)
	site := httptest.NewServer(handler)
	t.Cleanup(site.Close)
	return site
}

// The button is a form, for readers too, and its answer says in words what would become of which machine.
func TestDryRunPage(t *testing.T) {
	f := newFleet(t)
	judged, err := db.GetVerdict(context.Background(), f.tenant, f.verdicts["web-3"])
	must(t, err)
	bad := judged.Appraisal
	answer := func(int) (*attest.Trial, error) {
		return &attest.Trial{Covered: 1240, Judged: 1238, Healthy: 1237, Unhealthy: 1, NotJudged: 2, BecomeUnhealthy: 1,
			NotJudgedBecause: map[attest.NotJudged]int64{attest.NoEvidence: 2},
			Deviations:       []attest.TrialDeviation{{Deviation: bad.Deviations[0], Machines: 312}}, MoreDeviations: 5,
			Machines: []attest.TrialMachine{{MachineID: f.machines["web-3"], MachineName: "web-3", StatusNow: verifier.Affirming, StatusThen: bad.Status,
				ReasonThen: bad.Reason, Deviations: bad.Deviations, MoreDeviations: 3}}, MoreMachines: 7}, nil
	}
	site := f.trialSite(t, func(v int) (*attest.Trial, error) { return answer(v) })
	c := signIn(t, site, f.reader)
	version := site.URL + "/ui/baselines/" + f.baseline.BaselineID.String() + "/versions/1"
	_, page := get(t, c, version)
	contains(t, version, page, "/versions/1/dry-run", "Dry run")
	form := url.Values{"csrf": {csrf(t, page)}}
	res, page := post(t, c, version+"/dry-run", form)
	if res.StatusCode != http.StatusOK {
		t.Errorf("%s", res.Status)
	}
	contains(t, "dry run", page, "Of 1,240 machines that it would cover, 1,237 would be healthy", "312", "mitigations=off", "web-3", "Affirming", "Contraindicated",
		"and 3 more", "7 more", "5 occurrences of others", "Not judged: No evidence", "nothing was recorded")
	if res, _ := post(t, c, version+"/dry-run", url.Values{"csrf": {"guess"}}); res.StatusCode != http.StatusForbidden {
		t.Errorf("without the form's token: %s", res.Status)
	}
	if res, _ := get(t, c, version+"/dry-run"); res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("by a link: %s", res.Status)
	}
	for _, path := range []string{strings.Replace(version, "/versions/1", "/versions/9", 1), strings.Replace(version, "/versions/1", "/versions/x", 1)} {
		if res, _ := post(t, c, path+"/dry-run", form); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
	answer = func(int) (*attest.Trial, error) { return nil, &attest.Error{Code: attest.CodeTrialRunning} }
	if res, page := post(t, c, version+"/dry-run", form); res.StatusCode != http.StatusTooManyRequests || !strings.Contains(page, "A trial is under way") {
		t.Errorf("%s", res.Status)
	}
	answer = func(int) (*attest.Trial, error) { return nil, errors.New("secret inside") }
	if res, page := post(t, c, version+"/dry-run", form); res.StatusCode != http.StatusInternalServerError || strings.Contains(page, "secret inside") {
		t.Errorf("%s", res.Status)
	}
	without := f.site(t)
	_, page = get(t, signIn(t, without, f.admin), strings.Replace(version, site.URL, without.URL, 1))
	if strings.Contains(page, "dry-run") {
		t.Error("a button that leads nowhere")
	}
}

// A verdict that was superseded says so, and so does the one that supersedes it.
func TestSupersededVerdictPage(t *testing.T) {
	f := newFleet(t)
	ctx := context.Background()
	id, was := f.machines["web-1"], f.verdicts["web-1"]
	_, err := db.RequestReappraisal(ctx, f.tenant, verifier.Selector{}, "test", f.now, lead)
	must(t, err)
	job, err := db.ClaimReappraisal(ctx, f.tenant, 1e9, f.now)
	must(t, err)
	page, err := db.StoredJudgements(ctx, f.tenant, store.MachineScope{Selector: verifier.Selector{MachineIDs: []string{id.String()}}}, uuid.Nil, 10, true, f.now)
	must(t, err)
	old, err := db.GetVerdict(ctx, f.tenant, was)
	must(t, err)
	again := old.Appraisal
	again.Status, again.Reason, again.Genuine = verifier.Contraindicated, verifier.OriginUnverified, false
	record := &store.AppraisalRecord{MachineID: id, KeyID: page[0].KeyID, ReceivedAt: f.now, Appraisal: &again, Actor: lead}
	_, err = db.RecordReappraisals(ctx, f.tenant, &job, []store.Rejudged{{Judgement: &page[0], Record: record}}, true, 1e9, f.now, lead)
	must(t, err)
	m, err := db.GetMachine(ctx, f.tenant, id)
	must(t, err)
	site := f.site(t)
	c := signIn(t, site, f.reader)
	_, text := get(t, c, site.URL+"/ui/verdicts/"+was.String())
	contains(t, "the earlier one", text, "Superseded", "/ui/verdicts/"+m.LastVerdict.String(), "Affirming")
	_, text = get(t, c, site.URL+"/ui/verdicts/"+m.LastVerdict.String())
	contains(t, "the later one", text, "Stored evidence, judged again", "/ui/verdicts/"+was.String(), "Contraindicated")
}
