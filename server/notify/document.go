package notify

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/server/notify/event"
	"github.com/assay-verifier/assay/store"
	"github.com/assay-verifier/assay/verifier/finding"
)

// facts are what the event's row says of the moment of the change. A row has those that fit its kind.
type facts struct {
	Code         string     `json:"code"`
	Severity     string     `json:"severity"`
	Reason       string     `json:"reason"`
	From         string     `json:"from"`
	To           string     `json:"to"`
	Scope        string     `json:"scope"`
	MachineID    *uuid.UUID `json:"machine_id"`
	VerdictID    *uuid.UUID `json:"verdict_id"`
	SuppressedBy *uuid.UUID `json:"suppressed_by"`
	Status       string     `json:"status"`
	Title        string     `json:"title"`
	OpenAlerts   *int64     `json:"open_alerts"`
	Suppressed   bool       `json:"suppressed"`
	ID           uuid.UUID  `json:"id"`
	Name         string     `json:"name"`
	Kind         string     `json:"kind"`
	Detail       string     `json:"detail"`
	Description  string     `json:"description"`
	Cause        string     `json:"cause"`
	Remediation  []string   `json:"remediation_steps"`
	FirstSeen    time.Time  `json:"first_seen_at"`
}

// describe makes the document of an event: what it is about as it is now, and over that the facts of then.
func (s *Service) describe(tenant uuid.UUID, o *store.OutboxEvent) (*event.Event, error) {
	var e event.Event
	if err := json.Unmarshal(o.Subject, &e); err != nil {
		return nil, fmt.Errorf("describe event %s: %w", o.ID, err)
	}
	var f facts
	if err := json.Unmarshal(o.Payload, &f); err != nil {
		return nil, fmt.Errorf("describe event %s: %w", o.ID, err)
	}
	e.SchemaVersion, e.ID, e.Kind, e.Time, e.TenantID = event.SchemaVersion, o.ID, event.Kind(o.Kind), o.CreatedAt.UTC(), tenant
	family, _, _ := strings.Cut(o.Kind, ".")
	switch family {
	case "alert":
		describeAlert(&e, o.SubjectID, &f)
		e.Link = s.link("alerts", o.SubjectID)
	case "incident":
		describeIncident(&e, o.SubjectID, &f)
		e.Link = s.link("incidents", o.SubjectID)
	case "assessment":
		describeCompliance(&e, nil, &f)
		e.Link = s.linkMachine(&e)
	case "recommendation":
		describeCompliance(&e, &o.SubjectID, &f)
		e.Link = s.link("recommendations", uuid.Nil)
	case "channel":
		e.Channel = &event.Channel{ID: f.ID, Name: f.Name, Kind: f.Kind, Detail: f.Detail}
		e.Link = s.link("notifications", uuid.Nil)
	}
	return &e, nil
}

func describeAlert(e *event.Event, id uuid.UUID, f *facts) {
	if e.Alert == nil { // deleted since: what its row said is all there is
		e.Alert = &event.Alert{ID: id, Code: f.Code, Title: f.Code, Count: 1, FirstSeen: e.Time, LastSeen: e.Time, Scope: f.Scope}
	}
	a := e.Alert
	a.FirstSeen, a.LastSeen = a.FirstSeen.UTC(), a.LastSeen.UTC()
	if f.Severity != "" {
		a.Severity = f.Severity
	}
	switch e.Kind {
	case event.AlertOpened, event.AlertReopened:
		a.Status = "active"
		if f.Severity != "" { // a reopening by hand repeats none of this
			a.Reason, a.Suppressed = f.Reason, f.SuppressedBy != nil
		}
	case event.AlertUnsuppressed:
		a.Status, a.Reason, a.Suppressed = f.To, f.Reason, false
	case event.AlertResolved:
		a.Status = "resolved"
	default:
		a.Status = f.To
	}
	a.Previous = f.From
	if f.VerdictID != nil {
		e.VerdictID = f.VerdictID
	}
	if strings.HasPrefix(a.ChangedBy, "system:") {
		a.ChangedBy = ""
	}
	if a.Remediation == nil {
		a.Remediation = []string{}
	}
}

func describeIncident(e *event.Event, id uuid.UUID, f *facts) {
	if e.Incident == nil {
		e.Incident = &event.Incident{ID: id, Code: f.Code, Title: f.Code, Severity: f.Severity, FirstSeen: e.Time, LastSeen: e.Time}
	}
	i := e.Incident
	i.FirstSeen, i.LastSeen = i.FirstSeen.UTC(), i.LastSeen.UTC()
	if f.OpenAlerts != nil {
		i.Machines = *f.OpenAlerts
	}
	if f.Severity != "" {
		i.Severity = f.Severity
	}
	if f.Title != "" {
		i.Title = f.Title
	}
	if f.Status != "" {
		i.Status = f.Status
	}
	i.Suppressed = f.Suppressed
}

// describeCompliance makes what an assessment or recommendation was. Its row holds it whole: an assessment that is Unhealthy
// for a moment only is told with the reason of that moment.
func describeCompliance(e *event.Event, id *uuid.UUID, f *facts) {
	if e.Compliance == nil { // an assessment, or deleted since
		e.Compliance = &event.Compliance{ID: id, FirstSeen: e.Time}
	}
	c := e.Compliance
	if f.To != "" { // the end of an exemption says nothing of it
		c.Code, c.Title, c.Description, c.Severity = f.Code, f.Title, f.Description, f.Severity
		c.Status, c.Previous, c.Cause = f.To, f.From, f.Cause
		c.Remediation, c.FirstSeen = f.Remediation, f.FirstSeen
	}
	c.FirstSeen = c.FirstSeen.UTC()
	if f.VerdictID != nil {
		e.VerdictID = f.VerdictID
	}
	if c.Remediation == nil {
		c.Remediation = []string{}
	}
	c.Citations = []string{}
	if r := finding.By(c.Code); r != nil {
		for _, cited := range r.Citations {
			c.Citations = append(c.Citations, cited.Document+", "+cited.Section)
		}
	}
}

func (s *Service) linkMachine(e *event.Event) string {
	if e.Machine == nil {
		return ""
	}
	return s.link("machines", e.Machine.ID)
}

func (s *Service) link(page string, id uuid.UUID) string {
	if s.cfg.PublicURL == "" {
		return ""
	}
	if id == uuid.Nil {
		return s.cfg.PublicURL + "/ui/" + page
	}
	return s.cfg.PublicURL + "/ui/" + page + "/" + id.String()
}

var severities = []string{"low", "medium", "high"}

// closes tells whether an event is the end of what it is about, as far as receivers are concerned. The store's
// closingEvent says the same of rows.
func closes(e *event.Event) bool {
	switch e.Kind {
	case event.AlertResolved, event.IncidentResolved:
		return true
	case event.AlertStatusChanged:
		return e.Alert != nil && e.Alert.Status == "dismissed"
	}
	return false
}

// wants tells whether a channel is told an event. What is about no single machine passes the filters by machine. The end of
// what the channel was told of (toldOpen) passes all filters but that of kinds: the subject may have changed meanwhile, or be
// hidden by now, and the receiver would hold it open for ever.
func wants(f *store.ChannelFilter, e *event.Event, toldOpen bool) bool {
	kind := string(e.Kind)
	switch {
	case (len(f.Kinds) > 0 || slices.Contains(event.ByName, e.Kind)) && !slices.Contains(f.Kinds, kind):
		return false
	case toldOpen && closes(e):
		return true
	case !f.IncludeSuppressed && (e.Alert != nil && e.Alert.Suppressed || e.Incident != nil && e.Incident.Suppressed):
		return false
	case f.IncidentsOnly && e.Incident == nil && e.Channel == nil:
		return false
	case len(f.AlertCodes) > 0 && codeOf(e) != "" && !slices.Contains(f.AlertCodes, codeOf(e)):
		return false
	case f.MinSeverity != "" && e.Severity() != "" && slices.Index(severities, e.Severity()) < slices.Index(severities, f.MinSeverity):
		return false
	}
	if e.Machine == nil {
		return true
	}
	if len(f.ScaleSets) > 0 && !slices.Contains(f.ScaleSets, e.Machine.ScaleSet) {
		return false
	}
	for name, value := range f.Labels {
		if has, ok := e.Machine.Labels[name]; !ok || has != value {
			return false
		}
	}
	return true
}

func codeOf(e *event.Event) string {
	switch {
	case e.Alert != nil:
		return e.Alert.Code
	case e.Incident != nil:
		return e.Incident.Code
	case e.Compliance != nil:
		return e.Compliance.Code
	}
	return ""
}
