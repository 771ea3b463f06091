package integration_test

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

type finding struct {
	ID            string
	Code          string
	Severity      string
	Status        string
	Reason        string
	Cause         string
	Description   string
	DisplayName   string  `json:"display_name"`
	VerdictID     string  `json:"verdict_id"`
	SuppressedBy  *string `json:"suppressed_by"`
	StatusChanged string  `json:"status_changed_at"`
	Count         int64
}

type findings struct{ Items []finding }

// list reads alerts, recommendations or assessments of a machine.
func (m *machine) list(kind, query string) []finding {
	m.t.Helper()
	var f findings
	m.svc.get(m.t, "/v1/"+kind+"?machine_id="+m.id()+query, &f)
	return f.Items
}

// openAlert is the machine's one open alert.
func (m *machine) openAlert(reason string) finding {
	m.t.Helper()
	alerts := m.list("alerts", "&status=active&code=attestation_failed")
	if len(alerts) != 1 || alerts[0].Reason != reason || alerts[0].Severity != "medium" {
		m.t.Fatalf("alerts of %s: %+v, want one of severity medium with reason %s", m.name, alerts, reason)
	}
	return alerts[0]
}

// assessment is the machine's assessment of a code.
func (m *machine) assessment(code string) finding {
	m.t.Helper()
	list := m.list("assessments", "&code="+code)
	if len(list) != 1 {
		m.t.Fatalf("assessments %s of %s: %+v", code, m.name, list)
	}
	return list[0]
}

// The story of `make demo`, told to the API: a machine's life from its enrolment, what is said when its boot
// is changed, and that it is healthy again afterwards.
func TestStory(t *testing.T) {
	svc := sharedService(t)
	web := booted(t, svc, "story-web", "story", "sb-on-1")
	first := web.attest().must(t, "affirming", "")
	if first.Assurance != "ek_activated" {
		t.Errorf("assurance %s", first.Assurance)
	}
	cli(t, svc, "baselines", "capture", "--machine", "story-web", "--name", "story golden", "--scale-set", "story")
	if v := web.attest().must(t, "affirming", ""); v.check("baseline.match").Status != "pass" {
		t.Errorf("baseline.match is %+v", v.check("baseline.match"))
	}
	web.reboot("sb-on-2")
	healthy := web.attest().must(t, "affirming", "")
	if healthy.ID == first.ID || len(healthy.Deviations) != 0 {
		t.Errorf("the reboot gave %+v", healthy)
	}
	if a := web.assessment("guest_attestation_healthy"); a.Status != "Healthy" || a.Severity != "medium" {
		t.Errorf("assessment %+v", a)
	}

	for _, c := range []struct {
		boot  string
		pcr   int
		words []string // in a deviation, and in the alert
	}{
		{"cmdline", 8, []string{"kernel command line", "apparmor=0"}},
		{"grubcfg-tampered", 9, []string{"boot loader config", "grub.cfg"}},
		{"initrd-tampered", 9, []string{"initrd"}},
	} {
		web.reboot(c.boot)
		v := web.attest().must(t, "contraindicated", "baseline_deviation", "baseline.match")
		if !v.describes(c.pcr, c.words...) {
			t.Errorf("%s: no deviation in PCR %d says %q: %+v", c.boot, c.pcr, c.words, v.Deviations)
		}
		alert := web.openAlert("baseline_deviation")
		if alert.VerdictID != v.ID || alert.DisplayName != "Attestation failed for your virtual machine" {
			t.Errorf("%s: alert %+v for verdict %s", c.boot, alert, v.ID)
		}
		for _, w := range c.words {
			if !strings.Contains(strings.ToLower(alert.Description), w) {
				t.Errorf("%s: the alert does not say %q: %s", c.boot, w, alert.Description)
			}
		}
	}
	if a := web.assessment("guest_attestation_healthy"); a.Status != "Unhealthy" || a.Cause != "baseline_deviation" {
		t.Errorf("assessment %+v", a)
	}
	alert := web.openAlert("baseline_deviation")
	web.reboot("sb-on-1")
	web.attest().must(t, "affirming", "")
	if open := web.list("alerts", "&status=active"); len(open) != 0 {
		t.Errorf("the machine is healthy and has open alerts: %+v", open)
	}
	var resolved finding
	svc.get(t, "/v1/alerts/"+alert.ID, &resolved)
	if resolved.Status != "resolved" {
		t.Errorf("the alert is %s after a healthy boot", resolved.Status)
	}
}

// What an attacker on the machine's path can send: what was sent before, and fresh quotes of another TPM or
// of another key.
func TestForgedEvidence(t *testing.T) {
	svc := sharedService(t)
	m := booted(t, svc, "forged-web", "forged", "sb-on-1")
	body := m.evidence(m.challenge())
	m.judged(body).must(t, "affirming", "")

	m.judged(body).must(t, "contraindicated", "origin_unverified", "quote.nonce")
	replay := m.openAlert("origin_unverified")

	other := newTPM(t, "forger")
	m.judged(m.evidenceFrom(m.challenge(), other.Socket, true)).must(t, "contraindicated", "origin_unverified", "quote.signature")
	m.judged(m.evidenceFrom(m.challenge(), m.box.Socket, true)).must(t, "contraindicated", "origin_unverified", "quote.signature")
	if again := m.openAlert("origin_unverified"); again.ID != replay.ID || again.Count != 3 {
		t.Errorf("the alert is %+v after two more forgeries; it was %+v", again, replay)
	}
	if a := m.assessment("guest_attestation_healthy"); a.Status != "Unhealthy" || a.Cause != "origin_unverified" {
		t.Errorf("assessment %+v", a)
	}
	m.attest().must(t, "affirming", "")
	if open := m.list("alerts", "&status=active"); len(open) != 0 {
		t.Errorf("the machine answered for itself and has open alerts: %+v", open)
	}
}

// A confidential VM with Secure Boot off gets a recommendation and does not attest; a suppression rule
// hides its alert and nothing else.
func TestSecureBootOffAndSuppressed(t *testing.T) {
	svc := sharedService(t)
	m := newMachine(t, svc, "cvm-off", "")
	m.kind = "confidential_snp"
	log, err := filepath.Abs(filepath.Join("testdata", "eventlogs", "ubuntu-1804-amd-sev.bin"))
	if err != nil {
		t.Fatal(err)
	}
	m.boot(log)
	m.enroll()
	v := m.attest().must(t, "contraindicated", "baseline_deviation", "secure_boot.enabled")
	alert := m.openAlert("baseline_deviation")
	recommended := m.list("recommendations", "&status=active&code=secure_boot_enabled")
	if len(recommended) != 1 || recommended[0].Severity != "low" {
		t.Errorf("recommendations %+v", recommended)
	}
	before := m.assessment("guest_attestation_healthy")

	var rule struct{ ID string }
	svc.post(t, "/v1/suppression-rules", `{"alert_code": "attestation_failed", "reason": "the driver is unsigned until the next release",
		"comment": "SEC-1042", "expires_at": null, "state": "enabled", "scope": {"all_of": [{"field": "machine.name", "in": ["cvm-off"]}]}}`, &rule)
	hidden := func() {
		t.Helper()
		if open := m.list("alerts", ""); len(open) != 0 {
			t.Errorf("the alert is not hidden: %+v", open)
		}
		all := m.list("alerts", "&include_suppressed=true")
		if len(all) != 1 || all[0].ID != alert.ID || all[0].SuppressedBy == nil || *all[0].SuppressedBy != rule.ID {
			t.Errorf("the suppressed alert is %+v", all)
		}
	}
	hidden()
	again := m.attest().must(t, "contraindicated", "baseline_deviation", "secure_boot.enabled")
	hidden()
	if again.ID != v.ID {
		t.Errorf("the suppression changed the verdict: %s, it was %s", again.ID, v.ID)
	}
	if after := m.assessment("guest_attestation_healthy"); after != before {
		t.Errorf("the suppression changed the assessment: %+v, it was %+v", after, before)
	}
	svc.call(t, http.MethodDelete, "/v1/suppression-rules/"+rule.ID, svc.admin, nil, http.StatusNoContent, nil)
	m.attest().must(t, "contraindicated", "baseline_deviation")
	if shown := m.openAlert("baseline_deviation"); shown.SuppressedBy != nil {
		t.Errorf("without the rule the alert is %+v", shown)
	}
}

// A machine that could attest and has no agent gets the recommendation to install it.
func TestInventoryOnly(t *testing.T) {
	svc := sharedService(t)
	var db struct{ ID string }
	svc.call(t, http.MethodPost, "/v1/machines", svc.admin, `{"name": "inventory-db", "external_id": "ext-inventory-db", "platform": "qemu", "os": "linux",
		"security_type": "trusted_launch", "scale_set": "inventory",
		"declared": {"secure_boot_supported": true, "secure_boot": true, "vtpm": true, "agent_installed": false}}`, http.StatusOK, &db)
	var recommended findings
	svc.get(t, "/v1/recommendations?status=active&machine_id="+db.ID, &recommended)
	if !slices.ContainsFunc(recommended.Items, func(f finding) bool {
		return f.Code == "guest_attestation_installed" && f.Severity == "low"
	}) {
		t.Errorf("recommendations %+v", recommended.Items)
	}
	var alerts findings
	svc.get(t, "/v1/alerts?machine_id="+db.ID, &alerts)
	if len(alerts.Items) != 0 {
		t.Errorf("a machine without agent raised %+v", alerts.Items)
	}
}
