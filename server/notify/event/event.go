// Package event is what receivers are told: one document for each change, the same for every receiver, format and
// retry. Package server/notify makes it once, at the fan-out, and stores it as JSON; the formats (package
// server/notify/format) only write it differently. It holds values and no behaviour.
//
// # Versions
//
// SchemaVersion goes up only where a member changes its meaning or goes away. Members are added without that, so
// a receiver passes over what it does not know. The JSON is described in openapi.yaml (schema NotificationEvent).
package event

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// SchemaVersion is the version of the document that this code writes.
const SchemaVersion = 1

// Kind says what happened.
type Kind string

// The kinds of events.
const (
	AlertOpened        Kind = "alert.opened"
	AlertReopened      Kind = "alert.reopened"
	AlertResolved      Kind = "alert.resolved"
	AlertStatusChanged Kind = "alert.status_changed" // by hand: active, in_progress, dismissed
	// AlertUnsuppressed is an open alert that no suppression rule hides any more: the first that receivers hear of it, but for
	// those that are told of suppressed alerts too.
	AlertUnsuppressed Kind = "alert.unsuppressed"
	// AlertGrown is the alert of a mass silence that is twice as large as was told last.
	AlertGrown       Kind = "alert.grown"
	IncidentOpened   Kind = "incident.opened"
	IncidentGrown    Kind = "incident.grown" // ten times as many machines as were told before
	IncidentResolved Kind = "incident.resolved"
	// IncidentUnsuppressed is an incident whose open alerts were all hidden, and are not any more.
	IncidentUnsuppressed Kind = "incident.unsuppressed"
	AssessmentChanged    Kind = "assessment.changed" // its status became Unhealthy, or is Unhealthy no longer
	Recommended          Kind = "recommendation.opened"
	Heeded               Kind = "recommendation.resolved"
	ExemptionEnded       Kind = "recommendation.exemption_ended"
	ChannelDisabled      Kind = "channel.disabled" // the service gave a channel up; told to the others
	Test                 Kind = "test"             // somebody pressed the button: nothing happened
)

// Kinds are all of them, in the order of the documentation.
var Kinds = []Kind{AlertOpened, AlertReopened, AlertResolved, AlertStatusChanged, AlertUnsuppressed, AlertGrown, IncidentOpened, IncidentGrown, IncidentResolved,
	IncidentUnsuppressed, AssessmentChanged, Recommended, Heeded, ExemptionEnded, ChannelDisabled, Test}

// ByName are those that only who names them is told: there may be a dozen for each machine that enrols, or goes silent.
var ByName = []Kind{AssessmentChanged, Recommended, Heeded}

// Event is one change. What it is not about is absent (nil or empty).
type Event struct {
	SchemaVersion int       `json:"schema_version"`
	ID            uuid.UUID `json:"id"` // UUIDv7 of Time; the same at each retry and replay, for every receiver
	Kind          Kind      `json:"kind"`
	Time          time.Time `json:"time"` // UTC, when it happened (not when it was told)
	TenantID      uuid.UUID `json:"tenant_id"`
	Alert         *Alert    `json:"alert,omitempty"`
	Incident      *Incident `json:"incident,omitempty"`
	// Compliance is the assessment or recommendation that it is about.
	Compliance *Compliance `json:"compliance,omitempty"`
	Machine    *Machine    `json:"machine,omitempty"` // of the alert; absent where it is of many machines
	Channel    *Channel    `json:"channel,omitempty"` // that was disabled, or is tested
	// VerdictID is the verdict behind it; absent where none is.
	VerdictID *uuid.UUID `json:"verdict_id,omitempty"`
	// Link is the page about it; absent where the service does not know its public address.
	Link string `json:"link,omitempty"`
}

// Alert is an alert as it was when the event happened.
type Alert struct {
	ID          uuid.UUID `json:"id"`
	Code        string    `json:"code"`                 // stable, such as attestation_failed
	Title       string    `json:"title"`                // for people, one line
	Description string    `json:"description"`          // plain words, may have several lines
	Severity    string    `json:"severity"`             // low, medium or high
	Status      string    `json:"status"`               // active, in_progress, dismissed or resolved
	Previous    string    `json:"previous,omitempty"`   // the status before, where it was changed by hand
	Reason      string    `json:"reason,omitempty"`     // origin_unverified or baseline_deviation, where the code has one
	Remediation []string  `json:"remediation_steps"`    // in order; empty for none
	Count       int64     `json:"count"`                // occurrences, at least 1
	FirstSeen   time.Time `json:"first_seen_at"`        // UTC
	LastSeen    time.Time `json:"last_seen_at"`         // UTC
	Scope       string    `json:"scope,omitempty"`      // of an alert of many machines: what it is about
	Suppressed  bool      `json:"suppressed"`           // a suppression rule hid it when it happened
	Comment     string    `json:"comment,omitempty"`    // by who changed the status
	ChangedBy   string    `json:"changed_by,omitempty"` // kind:id of who changed the status, or what hid it, by hand
}

// Incident is many alerts of one cause.
type Incident struct {
	ID        uuid.UUID `json:"id"`
	Code      string    `json:"code"`     // of its alerts
	Title     string    `json:"title"`    // for people, one line
	Severity  string    `json:"severity"` // low, medium or high
	Status    string    `json:"status"`   // active, in_progress, dismissed or resolved
	Machines  int64     `json:"machines"` // members
	FirstSeen time.Time `json:"first_seen_at"`
	LastSeen  time.Time `json:"last_seen_at"`
	// Suppressed: suppression rules hid all of its open alerts when it happened.
	Suppressed bool `json:"suppressed"`
}

// Compliance is the state of one rule for one machine, as it was when the event happened.
type Compliance struct {
	ID          *uuid.UUID `json:"id,omitempty"` // of a recommendation; an assessment is named by machine and code
	Code        string     `json:"code"`
	Title       string     `json:"title"`              // for people, one line
	Description string     `json:"description"`        // plain words
	Severity    string     `json:"severity"`           // low, medium or high
	Status      string     `json:"status"`             // Healthy, Unhealthy or NotApplicable; active, resolved or exempt
	Previous    string     `json:"previous,omitempty"` // the status before
	Cause       string     `json:"cause,omitempty"`    // of an assessment, a stable word
	Remediation []string   `json:"remediation_steps"`  // in order; empty for none
	Citations   []string   `json:"citations"`          // the texts that demand it; empty for none
	FirstSeen   time.Time  `json:"first_seen_at"`
}

// Machine is the machine that it is about.
type Machine struct {
	ID           uuid.UUID         `json:"id"`
	Name         string            `json:"name"`
	ExternalID   string            `json:"external_id,omitempty"`
	Platform     string            `json:"platform"` // azure, gcp, aws, vmware, qemu, physical or other
	OS           string            `json:"os"`       // linux or windows
	SecurityType string            `json:"security_type"`
	ScaleSet     string            `json:"scale_set,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
}

// Channel is where notifications go.
type Channel struct {
	ID     uuid.UUID `json:"id"`
	Name   string    `json:"name"`
	Kind   string    `json:"kind"`             // webhook, syslog or smtp
	Detail string    `json:"detail,omitempty"` // why it was disabled, in words
}

// Severity is that of the alert, incident or compliance; empty for an event that has none.
func (e *Event) Severity() string {
	switch {
	case e.Alert != nil:
		return e.Alert.Severity
	case e.Incident != nil:
		return e.Incident.Severity
	case e.Compliance != nil:
		return e.Compliance.Severity
	}
	return ""
}

// Summary says in one line what happened, for the subject of a mail or the text of a log line. It is made of texts
// that come from machines too: whoever writes it into a protocol escapes it there.
func (e *Event) Summary() string {
	text := e.summary()
	switch e.Kind {
	case AlertUnsuppressed, IncidentUnsuppressed:
		text += ", no longer suppressed"
	case AlertGrown:
		text += ", twice as large as before"
	}
	return text
}

func (e *Event) summary() string {
	switch {
	case e.Kind == Test:
		return "Test notification of Assay"
	case e.Channel != nil:
		return fmt.Sprintf("Notification channel %s was disabled", e.Channel.Name)
	case e.Incident != nil:
		return fmt.Sprintf("%s: incident %s (%d machines)", e.Incident.Title, e.Incident.Status, e.Incident.Machines)
	case e.Compliance != nil && e.Machine != nil:
		return fmt.Sprintf("%s: %s on %s", e.Compliance.Title, e.Compliance.Status, e.Machine.Name)
	case e.Compliance != nil:
		return fmt.Sprintf("%s: %s", e.Compliance.Title, e.Compliance.Status)
	case e.Alert != nil && e.Machine != nil:
		return fmt.Sprintf("%s: %s on %s", e.Alert.Title, e.Alert.Status, e.Machine.Name)
	case e.Alert != nil:
		return fmt.Sprintf("%s: %s", e.Alert.Title, e.Alert.Status)
	}
	return string(e.Kind)
}

// Subject is what events are in order about: the alert, incident or recommendation, for an assessment the machine, else the
// event itself.
func (e *Event) Subject() uuid.UUID {
	switch {
	case e.Alert != nil:
		return e.Alert.ID
	case e.Incident != nil:
		return e.Incident.ID
	case e.Compliance != nil && e.Compliance.ID != nil:
		return *e.Compliance.ID
	case e.Compliance != nil && e.Machine != nil:
		return e.Machine.ID
	}
	return e.ID
}

// Read decodes a stored event. It refuses a document of a later version, whose members may mean something else.
func Read(document []byte) (*Event, error) {
	var e Event
	if err := json.Unmarshal(document, &e); err != nil {
		return nil, fmt.Errorf("read an event: %w", err)
	}
	if e.SchemaVersion < 1 || e.SchemaVersion > SchemaVersion {
		return nil, fmt.Errorf("read an event: schema version %d is not known (up to %d)", e.SchemaVersion, SchemaVersion)
	}
	return &e, nil
}
