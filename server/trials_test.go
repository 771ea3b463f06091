package server

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/server/attest"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier"
)

// trials asks what would become of the fleet: of a version, of values that nobody registered, and of a policy.
func trials(b *bench, m *machine) {
	b.attest(m)
	// The machine's own baseline lies over all others.
	for _, item := range b.want(200, "GET", "/v1/baselines", b.admin, nil).json(b.t)["items"].([]any) {
		own := item.(map[string]any)
		if _, bound := own["selector"].(map[string]any)["machine_ids"]; bound && own["name"] != "golden" {
			b.want(200, "POST", "/v1/baselines/"+own["id"].(string)+"/versions/1/retire", b.admin, `{"release": true, "comment": "out of the way"}`)
		}
	}
	before := b.rows()
	captured := b.want(201, "POST", "/v1/machines/"+m.id+"/baseline", b.admin, `{"name": "for the trial", "selector": {"scale_set": ["web"]}}`)
	id := captured.text(b.t, "id")
	path := "/v1/baselines/" + id + "/versions/1/dry-run"
	good := b.want(200, "POST", path, b.admin, nil).json(b.t)
	if good["covered"] != 1.0 || good["healthy"] != 1.0 || good["unchanged"] != 1.0 || len(good["machines"].([]any)) != 0 {
		b.t.Errorf("the machine's own boot: %v", good)
	}
	values := map[string]any{}
	for name, v := range captured.json(b.t)["reference_values"].(map[string]any) {
		values[name] = v
	}
	const grub = 4
	var kept []any
	for _, e := range values["events"].([]any) {
		if e.(map[string]any)["pcr"] != float64(grub) {
			kept = append(kept, e)
		}
	}
	values["events"] = kept
	values["pcrs"] = map[string]any{"sha256": map[string]any{"4": []string{strings.Repeat("ab", 32)}}}
	for story, body := range map[string]map[string]any{
		"a new one":        {"reference_values": values, "selector": map[string]any{"machine_ids": []string{m.id}}},
		"the next version": {"reference_values": values, "baseline_id": id},
	} {
		bad := b.want(200, "POST", "/v1/baselines/dry-run", b.admin, body).json(b.t)
		list := bad["machines"].([]any)
		if bad["unhealthy"] != 1.0 || bad["become_unhealthy"] != 1.0 || len(list) != 1 || len(bad["deviations"].([]any)) == 0 {
			b.t.Fatalf("%s: %v", story, bad)
		}
		one := list[0].(map[string]any)
		if one["machine_id"] != m.id || one["status_now"] != "affirming" || one["status_then"] != "contraindicated" || one["reason_then"] != "baseline_deviation" ||
			one["failed_check"] != "baseline.match" || len(one["deviations"].([]any)) == 0 {
			b.t.Errorf("%s: %v", story, one)
		}
	}
	everyone := b.want(200, "POST", "/v1/policies/test", b.admin, `{"policy": {"require_ima": true}, "selector": {}}`).json(b.t)
	if everyone["covered"].(float64) < 4 || everyone["become_unhealthy"] != 1.0 || everyone["not_judged_because"].(map[string]any)["no_evidence"].(float64) < 3 {
		b.t.Errorf("a policy: %v", everyone)
	}
	if own := b.want(200, "POST", "/v1/policies/test", b.admin, `{"policy": {"selector": {"scale_set": ["nothing"]}}}`).json(b.t); own["covered"] != 0.0 {
		b.t.Errorf("the policy's own selector: %v", own)
	}
	before["baselines"]++
	before["baseline_versions"]++
	before["reference_values"] = b.rows()["reference_values"]
	before["audit_events"]++
	b.sameRows(before)

	for _, p := range []string{"/v1/baselines/" + nobody + "/versions/1/dry-run", strings.Replace(path, "/1/", "/9/", 1)} {
		b.refused("not_found", "", "POST", p, b.admin, nil)
	}
	b.refused("not_found", "", "POST", "/v1/baselines/dry-run", b.admin, `{"baseline_id": "`+nobody+`", "reference_values": {"claims": {"secure_boot": true}}}`)
	b.refused("invalid_field", "/selector", "POST", "/v1/baselines/dry-run", b.admin, `{"baseline_id": "`+id+`", "selector": {}, "reference_values": {"claims": {"secure_boot": true}}}`)
	b.refused("invalid_field", "/reference_values/claims/kernel_cmdline/pattern", "POST", "/v1/baselines/dry-run", b.admin, `{"reference_values": {"claims": {"kernel_cmdline": {"pattern": "("}}}}`)
	b.refused("invalid_field", "/policy/pcrs/sha256/0", "POST", "/v1/policies/test", b.admin, `{"policy": {"pcrs": {"sha256": [24]}}}`)
	b.lines(path)
	b.oneTrial(path)
}

// lines asks for progress.
func (b *bench) lines(path string) {
	b.t.Helper()
	a := b.want(200, "POST", path, b.admin, nil, "Accept", "application/x-ndjson")
	if got := a.header.Get("Content-Type"); got != "application/x-ndjson" {
		b.t.Errorf("Content-Type %q", got)
	}
	var progress, results int
	for _, line := range bytes.Split(bytes.TrimSpace(a.body), []byte("\n")) {
		var l struct {
			Progress *struct{ Done, Total int64 }
			Result   *attest.Trial
		}
		if err := json.Unmarshal(line, &l); err != nil {
			b.t.Fatalf("%s: %v", line, err)
		}
		switch {
		case l.Progress != nil && results == 0:
			progress++
		case l.Result != nil && l.Result.Healthy == 1:
			results++
		default:
			b.t.Errorf("line %s", line)
		}
	}
	if progress < 2 || results != 1 {
		b.t.Errorf("%d lines of progress, %d results", progress, results)
	}
	b.refused("not_found", "", "POST", strings.Replace(path, "/1/", "/9/", 1), b.admin, nil, "Accept", "application/x-ndjson")
}

// oneTrial holds a trial in its middle, and asks for others.
func (b *bench) oneTrial(path string) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	entered, ended := make(chan struct{}), make(chan error)
	go func() {
		_, err := b.server.attest.TestPolicy(ctx, store.DefaultTenant, verifier.DefaultPolicy(), nil, func(done, _ int64) {
			if done == 0 {
				close(entered)
				<-ctx.Done()
			}
		})
		ended <- err
	}()
	<-entered
	for _, try := range []struct{ path, body string }{{path, ""}, {"/v1/baselines/dry-run", `{"reference_values": {"claims": {"secure_boot": true}}}`}, {"/v1/policies/test", `{"policy": {}}`}} {
		var body any
		if try.body != "" {
			body = try.body
		}
		if a := b.refused("trial_running", "", "POST", try.path, b.admin, body); a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") == "" {
			b.t.Errorf("%d, %v", a.status, a.header)
		}
	}
	cancel() // the client goes away
	if err := <-ended; err == nil {
		b.t.Error("a trial whose client went away was finished")
	}
	b.want(200, "POST", path, b.admin, nil)
}

// reappraisals has the fleet judged again by hand, and after a version was retired.
func reappraisals(b *bench, m *machine) {
	b.runReappraisals() // of what was retired so far
	asked := b.want(202, "POST", "/v1/reappraisals", b.admin, `{"comment": "an audit", "selector": {"machine_ids": ["`+m.id+`"]}}`)
	path := "/v1/reappraisals/" + asked.text(b.t, "id")
	if r := asked.json(b.t); r["state"] != "queued" || r["machines"] != nil || r["cause"].(map[string]any)["detail"] != "an audit" {
		b.t.Errorf("%v", r)
	}
	reference := `{"claims": {"secure_boot": false}}`
	wrong := b.want(201, "POST", "/v1/baselines", b.admin, `{"name": "wrong", "selector": {"machine_ids": ["`+m.id+`"]}, "reference_values": `+reference+`}`).text(b.t, "id")
	b.runReappraisals()
	if r := b.want(200, "GET", path, b.admin, nil).json(b.t); r["state"] != "done" || r["judged"] != 1.0 || r["worse"] != 1.0 || r["machines"] != 1.0 || r["finished_at"] == nil {
		b.t.Fatalf("%v", r)
	}
	changed := b.want(200, "GET", path+"/machines?outcome=worse&limit=1", b.admin, nil).json(b.t)["items"].([]any)
	if len(changed) != 1 {
		b.t.Fatalf("%v", changed)
	}
	one := changed[0].(map[string]any)
	if one["machine_id"] != m.id || one["status_before"] != "affirming" || one["status_after"] != "contraindicated" || one["reason_after"] != "baseline_deviation" {
		b.t.Errorf("%v", one)
	}
	v := b.want(200, "GET", "/v1/verdicts/"+one["verdict_id"].(string), b.admin, nil).json(b.t)
	if v["origin"] != "reappraisal" || v["supersedes"] != one["superseded_verdict_id"] || "/v1/reappraisals/"+v["reappraisal_id"].(string) != path || v["received_at"] == v["first_at"] {
		b.t.Errorf("%v: %v, supersedes %v, of %v", v["id"], v["origin"], v["supersedes"], v["reappraisal_id"])
	}
	old := b.want(200, "GET", "/v1/verdicts/"+one["superseded_verdict_id"].(string), b.admin, nil).json(b.t)
	if old["superseded_by"] != v["id"] || old["status"] != "affirming" {
		b.t.Errorf("%v is %v, superseded by %v", old["id"], old["status"], old["superseded_by"])
	}
	b.want(200, "GET", "/v1/verdicts/"+v["id"].(string)+"/event-log", b.admin, nil)

	b.want(200, "POST", "/v1/baselines/"+wrong+"/versions/1/retire", b.admin, `{"release": true, "comment": "out of the way"}`)
	b.runReappraisals()
	list := b.want(200, "GET", "/v1/reappraisals?state=done", b.admin, nil).json(b.t)["items"].([]any)
	newest := list[0].(map[string]any)
	if cause := newest["cause"].(map[string]any); cause["kind"] != "baseline_version" || cause["id"] != wrong+"/1" || newest["better"] != 1.0 {
		b.t.Errorf("%v", newest)
	}
	b.want(200, "GET", "/v1/reappraisals", b.admin, nil)
	b.refused("invalid_field", "/comment", "POST", "/v1/reappraisals", b.admin, `{"comment": ""}`)
	b.refused("not_found", "", "GET", "/v1/reappraisals/"+nobody, b.admin, nil)
	b.refused("not_found", "", "GET", "/v1/reappraisals/"+nobody+"/machines", b.admin, nil)
}

// runReappraisals does what the job does.
func (b *bench) runReappraisals() {
	b.t.Helper()
	if _, err := b.server.attest.Reappraise(context.Background(), store.DefaultTenant); err != nil {
		b.t.Fatal(err)
	}
}

func TestAccepts(t *testing.T) {
	for header, want := range map[string]bool{"": false, "*/*": false, "application/json": false, "application/x-ndjson": true,
		"application/json, Application/X-NDJSON;q=0.5": true} {
		r, err := http.NewRequest(http.MethodPost, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", header)
		if accepts(r, mediaNDJSON) != want {
			t.Errorf("%q: not %v", header, want)
		}
	}
}
