package server

import (
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// notifications is the life of a webhook and of channels by mail and syslog.
func notifications(b *bench, _ *machine) {
	var body []byte
	var header http.Header
	var query string
	up := false
	rc := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		header, query = r.Header.Clone(), r.URL.RawQuery
		if !up {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer rc.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: rc.Certificate().Raw}))
	in := func(change map[string]any) map[string]any {
		out := map[string]any{"name": "siem", "url": rc.URL + "/in", "ca_pem": ca, "filter": map[string]any{"min_severity": "high", "kinds": []string{"alert.opened"},
			"alert_codes": []string{"x"}, "scale_sets": []string{"web"}, "labels": map[string]string{"env": "prod"}, "include_suppressed": true, "incidents_only": true}}
		for k, v := range change {
			out[k] = v
		}
		return out
	}
	made := b.want(201, "POST", "/v1/webhooks", b.admin, in(nil))
	secret, id := made.text(b.t, "secret"), made.text(b.t, "id")
	if !strings.HasPrefix(secret, "whsec_") {
		b.t.Errorf("secret %q", secret)
	}
	hook := "/v1/webhooks/" + id
	for _, path := range []string{"/v1/webhooks", hook, "/v1/notification-channels?kind=webhook", "/v1/notification-channels/" + id} {
		if got := b.want(200, "GET", path, b.admin, nil); strings.Contains(string(got.body), "whsec_") || !strings.Contains(string(got.body), "min_severity") {
			b.t.Errorf("%s: %s", path, got.body)
		}
	}
	b.refused("conflict", "", "POST", "/v1/webhooks", b.admin, in(nil))
	for pointer, change := range map[string]map[string]any{"/url": {"url": "http://siem.example"}, "/ca_pem": {"ca_pem": "none"}} {
		change["name"] = "other"
		b.refused("invalid_field", pointer, "POST", "/v1/webhooks", b.admin, in(change))
		b.refused("invalid_field", pointer, "PUT", hook, b.admin, in(change))
	}
	b.refused("invalid_field", "/url", "POST", "/v1/webhooks", b.admin, in(map[string]any{"url": "https://169.254.169.254"}))

	// The button, at a receiver that fails and at one that does not; the delivery is listed, and can be sent again.
	failed := b.want(200, "POST", hook+"/test", b.admin, nil).json(b.t)
	if failed["delivered"] != false || failed["status_code"].(float64) != 503 {
		b.t.Errorf("test: %v", failed)
	}
	up = true
	tested := b.want(200, "POST", hook+"/test", b.admin, nil).json(b.t)
	official, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := official.Verify(body, header); tested["delivered"] != true || err != nil {
		b.t.Errorf("test: %v %v", tested, err)
	}
	delivery := "/v1/deliveries/" + failed["delivery_id"].(string)
	detail := b.want(200, "GET", delivery, b.admin, nil).json(b.t)
	if detail["state"] != "dead" || len(detail["attempt_list"].([]any)) != 1 || detail["event"].(map[string]any)["kind"] != "test" {
		b.t.Errorf("delivery: %v", detail)
	}
	if got := b.want(200, "GET", "/v1/deliveries?state=dead&channel="+id, b.admin, nil); strings.Count(string(got.body), "delivery") > 0 || !strings.Contains(string(got.body), failed["delivery_id"].(string)) {
		b.t.Errorf("dead: %s", got.body)
	}
	b.want(200, "GET", "/v1/deliveries?subject="+nobody, b.admin, nil)
	if n := b.want(200, "POST", "/v1/notification-channels/"+id+"/replay", b.admin, nil).json(b.t)["deliveries"]; n.(float64) != 1 {
		b.t.Errorf("%v replayed", n)
	}
	b.refused("conflict", "", "POST", delivery+"/replay", b.admin, nil) // it is pending
	b.want(200, "POST", "/v1/deliveries/"+tested["delivery_id"].(string)+"/replay", b.admin, nil)

	rotated := b.want(200, "POST", hook+"/rotate-secret", b.admin, `{"overlap_seconds": 60}`)
	if rotated.text(b.t, "secret") == secret || rotated.json(b.t)["previous_secret_expires_at"] == nil {
		b.t.Errorf("rotated: %s", rotated.body)
	}
	b.want(200, "POST", hook+"/test", b.admin, nil)
	if err := official.Verify(body, header); err != nil || strings.Count(header.Get("webhook-signature"), "v1,") != 2 {
		b.t.Errorf("in the overlap: %v %q", err, header.Get("webhook-signature"))
	}
	if again := b.want(200, "POST", hook+"/rotate-secret", b.admin, `{"overlap_seconds": 0}`).json(b.t); again["previous_secret_expires_at"] != nil {
		b.t.Errorf("rotated without overlap: %v", again)
	}
	off := b.want(200, "PUT", hook, b.admin, in(map[string]any{"enabled": false, "format": "ocsf"})).json(b.t)
	if off["disabled_reason"] != "operator" || off["format"] != "ocsf" {
		b.t.Errorf("disabled: %v", off)
	}
	b.refused("conflict", "", "POST", "/v1/notification-channels/"+id+"/replay", b.admin, nil)
	if on := b.want(200, "PUT", hook, b.admin, in(nil)).json(b.t); on["enabled"] != true || on["disabled_reason"] != nil {
		b.t.Errorf("enabled: %v", on)
	}
	// A query is shown to nobody, and stays where the URL comes back as it was shown; it goes to no other address.
	hidden := "hidden=" + nobody
	was := b.want(200, "PUT", hook, b.admin, in(map[string]any{"url": rc.URL + "/in?" + hidden})).text(b.t, "url")
	if again := b.want(200, "PUT", hook, b.admin, in(map[string]any{"url": was})).text(b.t, "url"); was != rc.URL+"/in?…" || again != was {
		b.t.Errorf("shown as %q, then as %q", was, again)
	}
	if b.want(200, "POST", hook+"/test", b.admin, nil); query != hidden {
		b.t.Errorf("the receiver got the query %q", query)
	}
	for _, path := range []string{"/v1/webhooks", hook, "/v1/notification-channels", "/v1/notification-channels/" + id} {
		if got := b.want(200, "GET", path, b.admin, nil); strings.Contains(string(got.body), hidden) {
			b.t.Errorf("%s shows the query", path)
		}
	}
	if strings.Contains(b.column("SELECT string_agg(concat(before, after), ' ') FROM audit_events"), hidden) {
		b.t.Error("the audit record shows the query")
	}
	b.refused("invalid_field", "/url", "PUT", hook, b.admin, in(map[string]any{"url": rc.URL + "/other?…"}))
	b.refused("invalid_field", "/url", "POST", "/v1/webhooks", b.admin, in(map[string]any{"name": "other", "url": rc.URL + "/in?…"}))
	b.refused("invalid_field", "/url", "POST", "/v1/webhooks", b.admin, in(map[string]any{"name": "other", "url": "https://u:p@siem.example"}))
	second := b.want(201, "POST", "/v1/webhooks", b.admin, in(map[string]any{"name": "siem 2"})).text(b.t, "id")
	b.refused("conflict", "", "PUT", hook, b.admin, in(map[string]any{"name": "siem 2"}))
	b.want(204, "DELETE", "/v1/notification-channels/"+second, b.admin, nil)
	otherChannels(b, id, rc.Listener.Addr().String())
	b.want(204, "DELETE", hook, b.admin, nil)
	for _, c := range [][2]string{{"GET", ""}, {"DELETE", ""}, {"POST", "/test"}} {
		b.refused("not_found", "", c[0], hook+c[1], b.admin, nil)
		b.refused("not_found", "", c[0], "/v1/notification-channels/"+id+c[1], b.admin, nil)
	}
	b.refused("not_found", "", "PUT", hook, b.admin, in(nil))
	b.refused("not_found", "", "POST", hook+"/rotate-secret", b.admin, `{}`)
	b.refused("not_found", "", "POST", "/v1/notification-channels/"+id+"/replay", b.admin, nil)
	b.refused("not_found", "", "GET", delivery, b.admin, nil)
	b.refused("not_found", "", "POST", delivery+"/replay", b.admin, nil)
	for _, text := range []string{secret, strings.TrimPrefix(secret, "whsec_"), "mail-password"} {
		if strings.Contains(b.logs.String(), text) || strings.Contains(b.column("SELECT string_agg(concat(before, after), ' ') FROM audit_events"), text) {
			b.t.Error("a secret is in the logs or the audit record")
		}
	}
}

func otherChannels(b *bench, webhook, address string) {
	mail := func(change map[string]any) map[string]any {
		out := map[string]any{"kind": "smtp", "name": "mail", "address": address, "security": "tls", "username": "assay", "password": "mail-password",
			"from": "Assay <assay@example.org>", "to": []string{"soc@example.org"}}
		for k, v := range change {
			out[k] = v
		}
		return out
	}
	made := b.want(201, "POST", "/v1/notification-channels", b.admin, mail(nil))
	if made.json(b.t)["has_password"] != true || strings.Contains(string(made.body), "mail-password") {
		b.t.Errorf("channel: %s", made.body)
	}
	channel := "/v1/notification-channels/" + made.text(b.t, "id")
	b.refused("conflict", "", "POST", "/v1/notification-channels", b.admin, mail(nil))
	kept := mail(nil)
	delete(kept, "password")
	if got := b.want(200, "PUT", channel, b.admin, kept).json(b.t); got["has_password"] != true {
		b.t.Errorf("the password was not kept: %v", got)
	}
	b.want(201, "POST", "/v1/notification-channels", b.admin, mail(map[string]any{"name": "second"}))
	b.refused("conflict", "", "PUT", channel, b.admin, mail(map[string]any{"name": "second"}))
	if got := b.want(200, "PUT", channel, b.admin, mail(map[string]any{"password": ""})).json(b.t); got["has_password"] != false {
		b.t.Errorf("the password was not removed: %v", got)
	}
	if got := b.want(200, "POST", channel+"/test", b.admin, nil).json(b.t); got["delivered"] != false || got["error"] == nil {
		b.t.Errorf("test: %v", got)
	}
	for pointer, change := range map[string]map[string]any{"/security": {"security": "none"}, "/from": {"from": "nobody"}, "/to": {"to": []string{}}, "/to/0": {"to": []string{"nobody"}},
		"/address": {"address": "mail.example:0"}, "/ca_pem": {"ca_pem": "x"}, "/kind": {"kind": "webhook"}} {
		b.refused("invalid_field", pointer, "POST", "/v1/notification-channels", b.admin, mail(change))
	}
	syslog := map[string]any{"kind": "syslog", "name": "syslog", "address": "syslog.example:6514", "format": "cef"}
	b.want(201, "POST", "/v1/notification-channels", b.admin, syslog)
	syslog["name"] = "more"
	for pointer, v := range map[string]any{"/security": "starttls", "/username": "x", "/password": "x", "/from": "a@example.org", "/to": []string{"a@example.org"}} {
		syslog[pointer[1:]] = v
		b.refused("invalid_field", pointer, "POST", "/v1/notification-channels", b.admin, syslog)
		delete(syslog, pointer[1:])
	}
	b.refused("invalid_field", "/kind", "PUT", channel, b.admin, syslog)
	b.refused("invalid_field", "/kind", "PUT", "/v1/notification-channels/"+webhook, b.admin, syslog)
	b.refused("not_found", "", "PUT", "/v1/notification-channels/"+nobody, b.admin, syslog)
	b.refused("not_found", "", "GET", "/v1/webhooks/"+made.text(b.t, "id"), b.admin, nil)
	b.refused("not_found", "", "DELETE", "/v1/webhooks/"+made.text(b.t, "id"), b.admin, nil)
	b.want(204, "DELETE", channel, b.admin, nil)
}
