package notify_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	netmail "net/mail"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/assay-verifier/assay/server/notify"
	"github.com/assay-verifier/assay/server/notify/event"
	"github.com/assay-verifier/assay/server/notify/receivertest"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// other makes a channel of another kind than a webhook.
func (b *bench) other(s *notify.Service, kind, format string, config store.ChannelConfig, secrets notify.Secrets) store.Channel {
	b.t.Helper()
	id := store.NewChannelID(b.clock())
	sealed, err := s.Seal(tenant, id, secrets)
	if err != nil {
		b.t.Fatal(err)
	}
	c, err := b.store.CreateChannel(b.t.Context(), tenant, store.Channel{ID: id, Kind: kind, Name: id.String(), Enabled: true, Format: format, Config: config, Secrets: sealed}, b.clock(), system)
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

// expectFailure holds that the last attempt failed with the text, and that the delivery waits.
func (b *bench) expectFailure(text string) {
	b.t.Helper()
	for _, d := range b.deliveries(store.DeliveryFilter{}) {
		if d.State != store.DeliveryPending || d.Attempts > 0 && !strings.Contains(d.LastError, text) {
			b.t.Errorf("%+v, want an error with %q", d, text)
		}
	}
}

// Syslog by TLS: a session that closes early and a certificate that is not trusted are no deliveries; then both events of the
// alert arrive, in order.
func TestSyslogEndToEnd(t *testing.T) {
	b := newBench(t)
	s := b.service()
	sessions, frames := 0, make(chan string, 10)
	address, certificate, _ := receivertest.Syslog(t, true, func(conn net.Conn) {
		if sessions++; sessions == 1 {
			_ = conn.Close()
			return
		}
		receivertest.ReadFrames(conn, frames)
	})
	c := b.other(s, store.ChannelSyslog, "cef", store.ChannelConfig{Address: address, Security: "tls", CAPEM: receivertest.PEM(certificate)}, notify.Secrets{})
	b.alerts("web-1")
	b.pass(time.Second)
	b.healthy("web-1")
	b.deliver(s, c)
	b.expectFailure("")
	if is := b.channel(c); is.ConsecutiveFailures != 1 {
		t.Errorf("%+v", is)
	}
	b.pass(time.Hour)
	if n := b.deliver(s, c); n != 2 {
		t.Errorf("%d attempts", n)
	}
	for _, kind := range []string{"alert.opened", "alert.resolved"} {
		if got := <-frames; !strings.Contains(got, " "+kind+" ") || !strings.Contains(got, "CEF:0|Assay|") || !strings.Contains(got, "web-1") {
			t.Errorf("%q, want %s", got, kind)
		}
	}

	untrusted := b.other(s, store.ChannelSyslog, "cef", store.ChannelConfig{Address: address, Security: "tls"}, notify.Secrets{})
	if _, r, err := s.Test(t.Context(), tenant, untrusted.ID, system); err != nil || !strings.Contains(r.Error, "certificate") {
		t.Errorf("%+v %v", r, err)
	}
	if len(frames) != 0 {
		t.Errorf("it was told %q", <-frames)
	}
}

// Mail by STARTTLS with a password: refused for now, tried again, and taken, both events in one thread. Nobody without the
// receiver's certificate is told the password, and it is in no log.
func TestMailEndToEnd(t *testing.T) {
	b := newBench(t)
	s := b.service()
	box := &receivertest.Mailbox{NeedAuth: true, Refuse: map[string]*smtp.SMTPError{"soc@example.org": {Code: 451, Message: "not now"}}}
	address, certificate := box.Serve(t, "starttls")
	config := store.ChannelConfig{Address: address, Security: "starttls", CAPEM: receivertest.PEM(certificate), Username: "assay", From: "assay@example.org", To: []string{"soc@example.org"}}
	c := b.other(s, store.ChannelSMTP, "assay", config, notify.Secrets{Password: receivertest.MailPassword})
	b.alerts("web-1")
	b.pass(time.Second)
	b.healthy("web-1")
	b.deliver(s, c)
	b.expectFailure("not now")
	delete(box.Refuse, "soc@example.org")
	b.pass(time.Hour)
	if n := b.deliver(s, c); n != 2 || len(box.Mails()) != 2 {
		t.Fatalf("%d attempts, %d mails", n, len(box.Mails()))
	}
	for i, kind := range []string{"alert.opened", "alert.resolved"} {
		m, err := netmail.ReadMessage(bytes.NewReader(box.Mails()[i]))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(m.Body)
		var d store.Delivery
		for _, d = range b.deliveries(store.DeliveryFilter{}) {
			if d.EventKind == kind {
				break
			}
		}
		if m.Header.Get("Assay-Event") != kind || m.Header.Get("Message-Id") != "<"+d.EventID.String()+"@example.org>" ||
			m.Header.Get("In-Reply-To") != "<"+d.SubjectID.String()+"@example.org>" || !bytes.Contains(text, []byte("web-1")) {
			t.Errorf("%s: %v %s", kind, m.Header, text)
		}
	}
	config.CAPEM = ""
	untrusted := b.other(s, store.ChannelSMTP, "assay", config, notify.Secrets{Password: receivertest.MailPassword})
	if _, r, err := s.Test(t.Context(), tenant, untrusted.ID, system); err != nil || !strings.Contains(r.Error, "certificate") {
		t.Errorf("%+v %v", r, err)
	}
	if strings.Contains(b.logs.String(), receivertest.MailPassword) {
		t.Error("the password is in the log")
	}
}

// Incidents that open, grow and are over, and exemptions whose time is over, reach a receiver by the same way, incidents in
// order.
func TestIncidentsAndExemptionsAreTold(t *testing.T) {
	b := newBench(t)
	s := b.service()
	rc := newReceiver(t, nil)
	c := b.webhook(s, "siem", rc.URL, rc.ca(), store.ChannelFilter{Kinds: []string{"incident.opened", "incident.grown", "incident.resolved", "recommendation.exemption_ended"}})
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprintf("web-%02d", i))
	}
	count := func() {
		t.Helper()
		b.pass(time.Minute)
		if _, err := b.store.CountIncidents(t.Context(), tenant, b.clock()); err != nil {
			t.Fatal(err)
		}
	}
	b.alerts(names[:3]...)
	count()
	b.alerts(names[3:]...)
	count()
	b.healthy(names...)
	count()

	if _, err := b.store.UpsertMachines(t.Context(), tenant, []store.MachineInput{{Name: "db-1", OS: "linux", Platform: "qemu", SecurityType: "standard"}}, func(store.Machine) finding.Result {
		return finding.Result{EvaluatedRecommendations: []string{"secure_boot_enabled"}, Recommendations: []finding.Recommendation{{Code: "secure_boot_enabled", DisplayName: "Turn Secure Boot on", Severity: finding.Low}}}
	}, b.clock(), system); err != nil {
		t.Fatal(err)
	}
	list, _, err := b.store.ListRecommendations(t.Context(), tenant, store.RecommendationFilter{}, store.Page{}, b.clock())
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	until := b.clock().Add(time.Hour)
	if _, err := b.store.ExemptRecommendation(t.Context(), tenant, list[0].ID, store.Exemption{Reason: "waiver", ExpiresAt: &until}, b.clock(), system); err != nil {
		t.Fatal(err)
	}
	b.pass(time.Hour)
	if n, err := b.store.EndExemptions(t.Context(), tenant, b.clock(), system); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	b.deliver(s, c)
	var incidents []string
	var ended *event.Event
	for _, in := range rc.all() {
		var p struct{ Data event.Event }
		if err := json.Unmarshal(in.body, &p); err != nil {
			t.Fatal(err)
		}
		if i := p.Data.Incident; i != nil {
			incidents = append(incidents, fmt.Sprintf("%s %s %d", p.Data.Kind, i.Status, i.Machines))
			continue
		}
		ended = &p.Data
	}
	if want := []string{"incident.opened active 3", "incident.grown active 12", "incident.resolved resolved 0"}; !slices.Equal(incidents, want) {
		t.Errorf("told %q, want %q", incidents, want)
	}
	if ended == nil || ended.Kind != event.ExemptionEnded || ended.Compliance == nil || *ended.Compliance.ID != list[0].ID || ended.Compliance.Status != "active" ||
		ended.Compliance.Code != "secure_boot_enabled" || ended.Machine == nil || ended.Machine.Name != "db-1" {
		t.Errorf("told %+v", ended)
	}
}
