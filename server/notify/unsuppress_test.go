package notify_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-verifier/assay/server/notify/format"
	"github.com/assay-verifier/assay/store"
)

// An alert that no rule hides any more is the first that a receiver hears of it, in every format; one that is told of what is
// suppressed too hears both, in order, and the end after them.
func TestWhatIsSuppressedNoMoreEndToEnd(t *testing.T) {
	b := newBench(t)
	s := b.service()
	rules := b.hideWeb()
	var told []*receiver
	var channels []store.Channel
	for _, f := range format.All {
		rc := newReceiver(t, nil)
		told, channels = append(told, rc), append(channels, b.webhookAs(s, string(f), string(f), rc.URL, rc.ca(), store.ChannelFilter{}))
	}
	everything := newReceiver(t, nil)
	channels = append(channels, b.webhook(s, "everything", everything.URL, everything.ca(), store.ChannelFilter{IncludeSuppressed: true}))
	incidents := newReceiver(t, nil)
	channels = append(channels, b.webhook(s, "incidents", incidents.URL, incidents.ca(), store.ChannelFilter{IncidentsOnly: true}))
	count := func() {
		t.Helper()
		if _, err := b.store.CountIncidents(t.Context(), tenant, b.clock()); err != nil {
			t.Fatal(err)
		}
	}
	b.alerts("web-1")
	count()
	b.pass(time.Minute)
	if err := b.store.DeleteSuppressionRule(t.Context(), tenant, rules, b.clock(), system); err != nil {
		t.Fatal(err)
	}
	count()
	b.pass(time.Minute)
	b.healthy("web-1")
	count()
	for _, c := range channels {
		b.deliver(s, c)
	}
	for i, want := range []struct{ shown, over, alerting string }{
		{`"type":"alert.unsuppressed"`, `"type":"alert.resolved"`, `"suppressed":false`}, {`alert.unsuppressed"`, `alert.resolved"`, `"suppressed":false`},
		{`"event_code":"alert.unsuppressed"`, `"event_code":"alert.resolved"`, `"is_alert":true`}, {" cat=alert.unsuppressed ", " cat=alert.resolved ", " outcome=active "},
	} {
		var bodies []string
		for _, r := range told[i].all() {
			if body := string(r.body); strings.Contains(body, "alert.") {
				bodies = append(bodies, body)
			}
		}
		if len(bodies) != 2 || !strings.Contains(bodies[0], want.shown) || !strings.Contains(bodies[0], want.alerting) || !strings.Contains(bodies[1], want.over) {
			t.Errorf("%s was told %q", format.All[i], bodies)
		}
	}
	alertsOnly := slices.DeleteFunc(kindsOf(everything), func(k string) bool { return !strings.HasPrefix(k, "alert.") })
	if want := []string{"alert.opened", "alert.unsuppressed", "alert.resolved"}; !slices.Equal(alertsOnly, want) {
		t.Errorf("told everything: %v", alertsOnly)
	}
	if got, want := kindsOf(incidents), []string{"incident.unsuppressed", "incident.resolved"}; !slices.Equal(got, want) {
		t.Errorf("told incidents: %v", got)
	}
}
