package event_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/notify/event"
)

func full() event.Event {
	at := time.Date(2026, 3, 1, 14, 2, 0, 0, time.UTC)
	verdict := uuid.MustParse("0195a000-0000-7000-8000-000000000004")
	return event.Event{
		SchemaVersion: event.SchemaVersion, ID: uuid.MustParse("0195a000-0000-7000-8000-000000000001"), Kind: event.AlertOpened, Time: at,
		TenantID: uuid.MustParse("0195a000-0000-7000-8000-000000000002"),
		Alert: &event.Alert{ID: uuid.MustParse("0195a000-0000-7000-8000-000000000003"), Code: "attestation_failed", Title: "Attestation failed for your virtual machine",
			Description: "grubx64.efi changed", Severity: "medium", Status: "active", Reason: "baseline_deviation", Remediation: []string{"Look at it."},
			Count: 3, FirstSeen: at, LastSeen: at.Add(time.Minute)},
		Machine: &event.Machine{ID: uuid.MustParse("0195a000-0000-7000-8000-000000000005"), Name: "web-1", Platform: "azure", OS: "linux",
			SecurityType: "trusted_launch", ScaleSet: "web", Labels: map[string]string{"env": "prod"}},
		VerdictID: &verdict, Link: "https://assay.example/ui/alerts/0195a000-0000-7000-8000-000000000003",
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	want := full()
	document, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := event.Read(document)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("read %+v, wrote %+v", *got, want)
	}
}

// FuzzRead: what is read is written and read again as it was, and says who it is about.
func FuzzRead(f *testing.F) {
	document, err := json.Marshal(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(document)
	f.Add([]byte(`{"schema_version":1}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		e, err := event.Read(document)
		if err != nil {
			return
		}
		written, err := json.Marshal(e)
		if err != nil {
			return // a time that RFC 3339 does not have
		}
		again, err := event.Read(written)
		if err != nil {
			t.Fatalf("%v: %s", err, written)
		}
		if again.Subject() != e.Subject() {
			t.Fatalf("it is about %s, and then about %s", e.Subject(), again.Subject())
		}
	})
}

func TestLaterVersionIsRefused(t *testing.T) {
	for _, document := range []string{`{"schema_version":2}`, `{}`, `[]`, `{"schema_version":1,"id":7}`} {
		if _, err := event.Read([]byte(document)); err == nil {
			t.Errorf("%s was read", document)
		}
	}
}

func TestWhatAnEventSays(t *testing.T) {
	alert := full()
	many := full()
	many.Machine = nil
	incident := event.Event{ID: uuid.New(), Kind: event.IncidentOpened, Incident: &event.Incident{ID: uuid.New(), Title: "grubx64.efi changed", Severity: "high", Status: "active", Machines: 312}}
	shown := full()
	shown.Kind = event.AlertUnsuppressed
	disabled := event.Event{ID: uuid.New(), Kind: event.ChannelDisabled, Channel: &event.Channel{Name: "siem"}}
	test := event.Event{ID: uuid.New(), Kind: event.Test, Channel: &event.Channel{Name: "siem"}}
	exempt := event.Event{Kind: event.ExemptionEnded, Machine: alert.Machine, Compliance: &event.Compliance{Title: "Secure Boot should be enabled", Status: "active", Severity: "low"}}
	for _, c := range []struct {
		e                 event.Event
		summary, severity string
	}{
		{alert, "Attestation failed for your virtual machine: active on web-1", "medium"},
		{many, "Attestation failed for your virtual machine: active", "medium"},
		{incident, "grubx64.efi changed: incident active (312 machines)", "high"},
		{shown, "Attestation failed for your virtual machine: active on web-1, no longer suppressed", "medium"},
		{disabled, "Notification channel siem was disabled", ""},
		{test, "Test notification of Assay", ""},
		{event.Event{Kind: "later.kind"}, "later.kind", ""},
		{exempt, "Secure Boot should be enabled: active on web-1", "low"},
	} {
		if got := c.e.Summary(); got != c.summary {
			t.Errorf("summary %q, want %q", got, c.summary)
		}
		if got := c.e.Severity(); got != c.severity {
			t.Errorf("severity %q, want %q", got, c.severity)
		}
		if strings.Contains(c.e.Summary(), "\n") {
			t.Errorf("the summary has two lines: %q", c.e.Summary())
		}
	}
}
