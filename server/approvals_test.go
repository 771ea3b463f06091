package server

import (
	"fmt"
	"strings"
)

// approvals drives the life of versions: an update that deviates, its refusal and approval, a machine that goes back, and
// the two-person rule.
func approvals(b *bench, m *machine) {
	captured := b.baselineOf(m)
	versions := "/v1/baselines/" + captured + "/versions"
	if v := b.attest(m).json(b.t); v["status"] != "affirming" {
		b.t.Fatalf("before the update: %v", v)
	}
	// A version that expects another kernel.
	values := b.want(200, "GET", versions+"/1", b.admin, nil).json(b.t)["reference_values"].(map[string]any)
	delete(values["pcrs"].(map[string]any)["sha256"].(map[string]any), "9")
	for _, e := range values["events"].([]any) {
		if event := e.(map[string]any); event["component"] == "kernel" && event["pcr"] == 9.0 {
			event["digests"] = map[string]any{"sha256": []string{strings.Repeat("ab", 32)}}
			event["description"] = "vmlinuz 6.1.0-27"
		}
	}
	b.want(201, "POST", versions, b.admin, map[string]any{"reference_values": values})
	b.want(200, "POST", versions+"/2/promote", b.admin, `{"expected_state": "draft"}`)
	v := b.attest(m).json(b.t)
	if v["status"] != "contraindicated" || v["reason"] != "baseline_deviation" || !strings.Contains(fmt.Sprint(v["deviations"]), "(known from baseline ") {
		b.t.Fatalf("after the update: %v", v)
	}
	alert := b.openAlert("attestation_failed")

	preview := b.want(200, "GET", alert+"/approval", b.readerToken(), nil).json(b.t)
	if changes := preview["changes"].([]any); len(changes) != 1 || preview["based_on"] != 2.0 || len(preview["remaining"].([]any)) != 0 || preview["refused_before"] != nil ||
		!strings.Contains(fmt.Sprint(changes[0]), "kernel added: /vmlinuz") {
		b.t.Errorf("preview: %v", preview)
	}
	if change := preview["changes"].([]any)[0].(map[string]any); fmt.Sprint(change["allows"]) != fmt.Sprintf("[sha256:%s]", change["actual"]) {
		b.t.Errorf("what the preview allows: %v", change)
	}
	own := b.want(200, "GET", alert+"/approval?scope=machine&replace=true", b.admin, nil).json(b.t)
	if own["baseline_id"] != captured { // the captured baseline is the machine's own
		b.t.Errorf("preview for the machine: %v", own)
	}
	b.refused("not_approvable", "", "GET", alert+"/approval?baseline_id="+nobody, b.admin, nil)
	b.refused("version_changed", "", "POST", alert+"/approve", b.admin, `{"comment": "x", "verdict_id": "`+nobody+`"}`)
	b.refused("version_changed", "", "POST", alert+"/approve", b.admin, `{"comment": "x", "based_on": 1}`)
	b.refused("invalid_field", "/comment", "POST", alert+"/approve", b.admin, `{"comment": ""}`)
	b.refused("invalid_field", "/grace_until", "POST", alert+"/approve", b.admin, `{"comment": "x", "grace_until": "2001-01-01T00:00:00Z"}`)
	admin := b.signIn(b.admin)
	b.want(200, "PUT", "/v1/policies/default", b.admin, `{"two_person_approval": true}`)
	if p := b.want(200, "GET", alert+"/approval", b.admin, nil).json(b.t); p["second_person_required"] != true {
		b.t.Errorf("preview under the two-person rule: %v", p)
	}
	admin.contains(admin.see(strings.Replace(alert, "/v1/", "/ui/", 1)), "a second person has to approve it")
	b.want(200, "PUT", "/v1/policies/default", b.admin, `{"two_person_approval": false}`)
	admin.refuseOnPage(alert, "nobody announced it")
	refused := b.want(200, "GET", alert, b.admin, nil).json(b.t)
	if d := refused["decisions"].([]any); len(d) != 1 || refused["status"] != "active" || d[0].(map[string]any)["decision"] != "refused" {
		b.t.Errorf("refused: %v", refused)
	}
	b.refused("refused_before", "", "POST", alert+"/approve", b.admin, `{"comment": "it was"}`)
	if again := b.want(200, "GET", alert+"/approval", b.admin, nil).json(b.t); again["refused_before"].(map[string]any)["comment"] != "nobody announced it" {
		b.t.Errorf("preview after the refusal: %v", again)
	}
	admin.approveOnPage(alert)
	if v := b.want(200, "GET", versions+"/3", b.admin, nil).json(b.t); v["state"] != "active" || v["based_on"] != 2.0 || v["origin"] != "captured" {
		b.t.Errorf("approved: %v", v)
	}
	b.refused("version_changed", "", "POST", alert+"/refuse", b.admin, `{"comment": "no"}`)
	if v := b.attest(m).json(b.t); v["status"] != "affirming" || v["baseline"].(map[string]any)["version"] != 3.0 {
		b.t.Errorf("after the approval: %v", v)
	}
	if a := b.want(200, "GET", alert, b.admin, nil).json(b.t); a["status"] != "resolved" || len(a["decisions"].([]any)) != 2 {
		b.t.Errorf("the alert: %v", a)
	}
	b.refused("not_approvable", "", "POST", alert+"/approve", b.admin, `{"comment": "again"}`)

	goesBack(b, m, versions)
	unverified(b, m)
	secondPerson(b, versions)
}

// baselineOf is the baseline that was captured from the machine.
func (b *bench) baselineOf(m *machine) string {
	b.t.Helper()
	for _, item := range b.want(200, "GET", "/v1/baselines", b.admin, nil).json(b.t)["items"].([]any) {
		if x := item.(map[string]any); strings.HasPrefix(x["name"].(string), "captured from web-1") {
			return x["id"].(string)
		}
	}
	b.t.Fatalf("no baseline of machine %s", m.id)
	return ""
}

func (b *bench) openAlert(code string) string {
	b.t.Helper()
	open := b.want(200, "GET", "/v1/alerts?status=active&code="+code, b.admin, nil).json(b.t)["items"].([]any)
	if len(open) != 1 {
		b.t.Fatalf("%d open alerts %s", len(open), code)
	}
	return "/v1/alerts/" + open[0].(map[string]any)["id"].(string)
}

// goesBack lets the machine move to version 4 and be affirmed by version 3 afterwards.
func goesBack(b *bench, m *machine, versions string) {
	rollout := strings.TrimSuffix(versions, "/versions") + "/rollout"
	same := b.want(200, "GET", versions+"/3", b.admin, nil).json(b.t)["reference_values"]
	b.want(201, "POST", versions, b.admin, map[string]any{"reference_values": same})
	b.want(200, "POST", versions+"/4/promote", b.admin, `{"grace_until_moved_percent": 100, "grace_until": "2099-01-01T00:00:00Z"}`)
	r := b.want(200, "GET", rollout, b.admin, nil).json(b.t)
	grace := r["grace"].([]any)[0].(map[string]any)
	if r["active_version"] != 4.0 || r["moved"] != 0.0 || r["behind"] != 1.0 || grace["version"] != 3.0 || grace["until_moved_percent"] != 100.0 || len(r["not_moved"].(map[string]any)["items"].([]any)) != 1 {
		b.t.Errorf("rollout: %v", r)
	}
	b.attest(m)
	if r := b.want(200, "GET", rollout+"?limit=1", b.admin, nil).json(b.t); r["moved"] != 1.0 || r["moved_percent"] != 100.0 || len(r["not_moved"].(map[string]any)["items"].([]any)) != 0 {
		b.t.Errorf("rollout: %v", r)
	}
	b.want(200, "POST", versions+"/4/retire", b.admin, `{"expected_state": "active"}`)
	if v := b.attest(m).json(b.t); v["status"] != "affirming" || v["baseline"].(map[string]any)["version"] != 3.0 {
		b.t.Errorf("gone back: %v", v)
	}
	alert := b.openAlert("baseline_rollback")
	if a := b.want(200, "GET", alert, b.admin, nil).json(b.t); a["severity"] != "medium" || a["reason"] != nil || !strings.Contains(a["description"].(string), "only version 3, which is still valid") {
		b.t.Errorf("alert: %v", a)
	}
	b.refused("not_approvable", "", "GET", alert+"/approval", b.admin, nil)
	b.refused("not_approvable", "", "POST", alert+"/refuse", b.admin, `{"comment": "x"}`)
	// It ends by itself when the machine moves on again.
	b.want(201, "POST", versions, b.admin, map[string]any{"reference_values": same})
	b.want(200, "POST", versions+"/5/promote", b.admin, nil)
	b.attest(m)
	if a := b.want(200, "GET", alert, b.admin, nil).json(b.t); a["status"] != "resolved" {
		b.t.Errorf("moved on: %v", a)
	}
	// Also where the older version is retired: the machine then deviates, and has gone back besides.
	other := b.want(200, "GET", versions+"/2", b.admin, nil).json(b.t)["reference_values"]
	b.want(201, "POST", versions, b.admin, map[string]any{"reference_values": other})
	b.want(200, "POST", versions+"/6/promote", b.admin, nil)
	b.want(200, "POST", versions+"/3/retire", b.admin, nil)
	if v := b.attest(m).json(b.t); v["status"] != "contraindicated" {
		b.t.Errorf("a retired version affirms: %v", v)
	}
	if a := b.want(200, "GET", b.openAlert("baseline_rollback"), b.admin, nil).json(b.t); !strings.Contains(a["description"].(string), "version 5 affirmed it before, and now it matches only version 4, which is retired") {
		b.t.Errorf("alert: %v", a)
	}
	made := b.want(201, "POST", b.openAlert("attestation_failed")+"/approve", b.admin, `{"comment": "set back", "force": true, "replace": true, "based_on": 6, "grace_until_moved_percent": 50}`).json(b.t)
	if version := made["version"].(map[string]any); version["state"] != "active" || version["version"] != 7.0 || version["based_on"] != 6.0 || len(made["changes"].([]any)) != 1 {
		b.t.Errorf("approved: %v", made)
	}
	b.attest(m)
	b.refused("not_found", "", "GET", "/v1/alerts/"+nobody+"/approval", b.admin, nil)
	b.refused("not_found", "", "POST", "/v1/alerts/"+nobody+"/approve", b.admin, `{"comment": "x"}`)
	b.refused("not_found", "", "POST", "/v1/alerts/"+nobody+"/refuse", b.admin, `{"comment": "x"}`)
	b.refused("not_found", "", "GET", "/v1/baselines/"+nobody+"/rollout", b.admin, nil)
	if d := b.want(200, "GET", versions+"/3/diff", b.admin, nil).json(b.t); d["from"] != 2.0 || len(d["changes"].([]any)) != 1 {
		b.t.Errorf("diff: %v", d)
	}
	if d := b.want(200, "GET", versions+"/1/diff", b.admin, nil).json(b.t); d["from"] != 0.0 || len(d["changes"].([]any)) < 20 {
		b.t.Errorf("diff from nothing: %v", d)
	}
	b.refused("not_found", "", "GET", versions+"/3/diff?from=9", b.admin, nil)
	b.refused("not_found", "", "GET", versions+"/9/diff", b.admin, nil)
}

// unverified: evidence that is not genuine can be refused and never approved.
func unverified(b *bench, m *machine) {
	e := m.evidence(b.nonce(m))
	e["event_log"] = m.log
	for range 2 {
		b.want(201, "POST", "/v1/machines/"+m.id+"/evidence", m.token, e)
	}
	alert := b.openAlert("attestation_failed")
	b.refused("origin_unverified", "", "GET", alert+"/approval", b.admin, nil)
	b.refused("origin_unverified", "", "POST", alert+"/approve", b.admin, `{"comment": "x", "force": true}`)
	b.want(200, "POST", alert+"/refuse", b.admin, `{"comment": "a replay"}`)
	b.attest(m)
}

func secondPerson(b *bench, versions string) {
	second := b.want(201, "POST", "/v1/api-tokens", b.admin, `{"name": "second", "role": "admin"}`).text(b.t, "token")
	b.want(200, "PUT", "/v1/policies/default", b.admin, `{"two_person_approval": true}`)
	values := `{"reference_values": {"pcrs": {"sha256": {"7": ["` + strings.Repeat("ef", 32) + `"]}}}}`
	with := func(member string) string { return strings.Replace(values, "{", "{"+member+", ", 1) }
	b.refused("second_person_required", "", "POST", "/v1/baselines", b.admin, with(`"name": "alone", "state": "active"`))
	b.refused("second_person_required", "", "POST", versions, b.admin, with(`"state": "active"`))
	byTwo := b.want(201, "POST", "/v1/baselines", b.admin, with(`"name": "by two", "selector": {"scale_set": ["none"]}`)).json(b.t)
	if byTwo["state"] != "draft" {
		b.t.Errorf("a baseline under the rule: %v", byTwo)
	}
	keylime := `{"digests": {"/usr/bin/true": ["` + strings.Repeat("ef", 32) + `"]}}`
	media := []string{"Content-Type", "application/vnd.keylime.runtime-policy+json"}
	b.refused("second_person_required", "", "POST", importPath+"?name=imported&allow_unsigned=true&state=active", b.admin, keylime, media...)
	if v := b.want(201, "POST", importPath+`?name=imported&allow_unsigned=true&selector={"scale_set":["none"]}`, b.admin, keylime, media...).json(b.t); v["state"] != "draft" {
		b.t.Errorf("an import under the rule: %v", v)
	}
	draft := b.want(201, "POST", versions, b.admin, values).json(b.t)
	path := fmt.Sprintf("%s/%v", versions, draft["version"])
	b.refused("second_person_required", "", "POST", path+"/approve", b.admin, nil)
	b.refused("second_person_required", "", "POST", path+"/promote", b.admin, nil)
	if v := b.want(200, "GET", path, b.admin, nil).json(b.t); v["approval"].(map[string]any)["status"] != "pending" {
		b.t.Errorf("before the approval: %v", v)
	}
	b.refused("not_found", "", "POST", versions+"/99/approve", second, nil)
	// The pages offer the author nothing, and know that the same token is the same person.
	page := strings.Replace(path, "/v1/", "/ui/", 1)
	author, other := b.signIn(b.admin), b.signIn(second)
	mine := author.see(page)
	author.contains(mine, "it cannot be you, who made it", "Changes from version 7")
	form := author.form(mine, page+"/retire")
	if status, text := author.send(page+"/approve", form); status != 403 || !strings.Contains(text, "A second person has to approve") {
		b.t.Errorf("the author approved on the page: %d", status)
	}
	form = other.form(other.see(page), page+"/approve")
	form.Set("comment", "looked at")
	if status, text := other.send(page+"/approve", form); status != 200 || !strings.Contains(text, "You have approved the version.") {
		b.t.Errorf("approved on the page: %d %s", status, text)
	}
	author.contains(author.see(strings.TrimSuffix(page, fmt.Sprintf("/versions/%v", draft["version"]))), "100.0 %", "1 of 1 attesting machines have moved to version 7")
	v := b.want(200, "GET", path, second, nil).json(b.t)
	if x := v["approval"].(map[string]any); x["status"] != "approved" || x["approvals"].([]any)[0].(map[string]any)["comment"] != "looked at" {
		b.t.Errorf("after the approval: %v", v)
	}
	if a := b.refused("version_changed", "", "POST", path+"/approve", second, nil); !strings.Contains(string(a.body), "approved by admin:") {
		b.t.Errorf("approved twice: %s", a.body)
	}
	b.refused("version_changed", "", "POST", path+"/promote", b.admin, `{"expected_state": "active"}`)
	more := b.want(201, "POST", versions, b.admin, values).json(b.t)
	if v := b.want(200, "POST", fmt.Sprintf("%s/%v/approve", versions, more["version"]), second, `{"comment": "too", "expected_state": "draft"}`).json(b.t); v["state"] != "draft" {
		b.t.Errorf("approved: %v", v)
	}
	b.want(200, "POST", path+"/retire", b.admin, nil)
	releasedByTwo(b, "/v1/baselines/"+byTwo["id"].(string)+"/versions/1", second)
	b.want(200, "PUT", "/v1/policies/default", b.admin, `{}`)
}

// releasedByTwo ends a baseline: the first proposes it on the page, the second does it.
func releasedByTwo(b *bench, path, second string) {
	b.want(200, "POST", path+"/promote", second, nil)
	b.refused("second_person_required", "", "POST", path+"/retire", b.admin, nil)
	b.refused("second_person_required", "", "POST", path+"/retire", second, `{"release": true}`)
	page := strings.Replace(path, "/v1/", "/ui/", 1)
	author, other := b.signIn(b.admin), b.signIn(second)
	form := author.form(author.see(page), page+"/retire")
	form.Set("release", "1")
	form.Set("propose", "1")
	if status, text := author.send(page+"/retire", form); status != 200 || !strings.Contains(text, "You have proposed it") {
		b.t.Errorf("proposed on the page: %d %s", status, text)
	}
	v := b.want(200, "GET", path, second, nil).json(b.t)
	p, _ := v["approval"].(map[string]any)["proposal"].(map[string]any)
	if v["state"] != "active" || p["retire"] != true || p["release"] != true || p["by"] != v["created_by"] {
		b.t.Errorf("proposed: %v", v)
	}
	b.refused("second_person_required", "", "POST", path+"/retire", b.admin, `{"release": true, "expected_state": "active"}`)
	other.contains(other.see(page), "has proposed to retire it and to release its machines")
	if v := b.want(200, "POST", path+"/retire", second, `{"release": true, "comment": "the scale set is gone"}`).json(b.t); v["state"] != "retired" || v["released"] != true {
		b.t.Errorf("released: %v", v)
	}
	b.refused("version_changed", "", "POST", path+"/retire", second, `{"release": true}`)
}
