// Package format writes an event in the way that its receiver reads: our own JSON, CloudEvents, OCSF, CEF, or a mail's text.
// It holds no state and knows no transport. An event always becomes the same bytes, so that a retry repeats a message and
// a signature over it.
package format

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/assay-verifier/assay/server/notify/event"
)

// Format is how an event is written.
type Format string

// The formats.
const (
	Assay       Format = "assay"       // the payload that Standard Webhooks recommends: type, timestamp, data
	CloudEvents Format = "cloudevents" // CloudEvents 1.0.2, structured mode in JSON
	OCSF        Format = "ocsf"        // Open Cybersecurity Schema Framework: Detection Finding, Compliance Finding
	CEF         Format = "cef"         // Common Event Format, one line
)

// All are the formats in the order of the documentation.
var All = []Format{Assay, CloudEvents, OCSF, CEF}

// Known tells whether there is such a format.
func Known(f Format) bool {
	for _, k := range All {
		if f == k {
			return true
		}
	}
	return false
}

// Origin says who writes.
type Origin struct {
	Version string // of the software
	Source  string // the service's public address; empty where it does not know it
	Host    string // the machine that the service runs on; for CEF
}

// Encode writes the event. The body of CEF is one line without its end.
func Encode(f Format, e *event.Event, o Origin) (contentType string, body []byte, err error) {
	switch f {
	case Assay:
		contentType = "application/json"
		body, err = json.Marshal(envelope{Type: string(e.Kind), Timestamp: e.Time.UTC(), Data: e})
	case CloudEvents:
		contentType = "application/cloudevents+json; charset=utf-8" // JSON Event Format, section 3
		body, err = json.Marshal(cloudEvent(e, o))
	case OCSF:
		contentType = "application/json"
		body, err = json.Marshal(finding(e, o))
	case CEF:
		return "text/plain; charset=utf-8", cef(e, o), nil
	default:
		return "", nil, fmt.Errorf("there is no format %q", f)
	}
	if err != nil {
		return "", nil, fmt.Errorf("write event %s as %s: %w", e.ID, f, err)
	}
	return contentType, body, nil
}

// envelope is a payload after Standard Webhooks, "Payload structure".
type envelope struct {
	Type      string       `json:"type"`
	Timestamp time.Time    `json:"timestamp"`
	Data      *event.Event `json:"data"`
}

// typePrefix makes our kinds unique among those of others (CloudEvents 1.0.2, section 3.1: reverse-DNS name).
const typePrefix = "io.github.assay-verifier.assay."

// cloud is an event after CloudEvents 1.0.2 (JSON Event Format, section 3.1).
type cloud struct {
	SpecVersion     string       `json:"specversion"`
	ID              string       `json:"id"`
	Source          string       `json:"source"`
	Type            string       `json:"type"`
	Subject         string       `json:"subject,omitempty"`
	Time            time.Time    `json:"time"`
	DataContentType string       `json:"datacontenttype"`
	Severity        string       `json:"severity,omitempty"` // extension: what a broker filters by
	Data            *event.Event `json:"data"`
}

func cloudEvent(e *event.Event, o Origin) cloud {
	source := o.Source
	if source == "" {
		source = "urn:assay"
	}
	return cloud{
		SpecVersion: "1.0", ID: e.ID.String(), Source: source + "/tenants/" + e.TenantID.String(), Type: typePrefix + string(e.Kind),
		Subject: subject(e), Time: e.Time.UTC(), DataContentType: "application/json", Severity: e.Severity(), Data: e,
	}
}

// subject is what the event is about, as a path below the source.
func subject(e *event.Event) string {
	switch {
	case e.Alert != nil:
		return "alerts/" + e.Alert.ID.String()
	case e.Incident != nil:
		return "incidents/" + e.Incident.ID.String()
	case e.Compliance != nil && e.Compliance.ID != nil:
		return "recommendations/" + e.Compliance.ID.String()
	case e.Compliance != nil && e.Machine != nil:
		return "machines/" + e.Machine.ID.String() + "/assessments/" + e.Compliance.Code
	case e.Channel != nil:
		return "channels/" + e.Channel.ID.String()
	}
	return ""
}

// Over tells that what the event reports has ended.
func Over(e *event.Event) bool {
	switch {
	case e.Alert != nil:
		return e.Alert.Status == "resolved" || e.Alert.Status == "dismissed"
	case e.Incident != nil:
		return e.Kind == event.IncidentResolved
	case e.Compliance != nil:
		return e.Compliance.Status != "Unhealthy" && e.Compliance.Status != "active"
	}
	return false
}

// code is the stable word of what it is about.
func code(e *event.Event) string {
	switch {
	case e.Alert != nil:
		return e.Alert.Code
	case e.Incident != nil:
		return e.Incident.Code
	case e.Compliance != nil:
		return e.Compliance.Code
	}
	return string(e.Kind)
}
