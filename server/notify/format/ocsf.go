package format

import (
	"strings"
	"time"

	"github.com/assay-verifier/assay/server/notify/event"
)

// ocsfVersion is the version of the schema that the members below are of (https://schema.ocsf.io/1.5.0).
const ocsfVersion = "1.5.0"

// Class and category numbers of OCSF.
const (
	categoryFindings  = 2
	classCompliance   = 2003
	classDetection    = 2004
	activityCreate    = 1
	activityUpdate    = 2
	activityClose     = 3
	analyticRule      = 1
	complianceWarning = 2
)

// ocsf is a Detection Finding or a Compliance Finding. Times are milliseconds since 1970 (type timestamp_t).
type ocsf struct {
	ActivityID   int              `json:"activity_id"`
	ActivityName string           `json:"activity_name"`
	CategoryUID  int              `json:"category_uid"`
	CategoryName string           `json:"category_name"`
	ClassUID     int              `json:"class_uid"`
	ClassName    string           `json:"class_name"`
	TypeUID      int              `json:"type_uid"`
	TypeName     string           `json:"type_name"`
	Time         int64            `json:"time"`
	StartTime    int64            `json:"start_time,omitempty"`
	EndTime      int64            `json:"end_time,omitempty"`
	SeverityID   int              `json:"severity_id"`
	Severity     string           `json:"severity"`
	StatusID     int              `json:"status_id"`
	Status       string           `json:"status"`
	IsAlert      *bool            `json:"is_alert,omitempty"` // of a Detection Finding
	Message      string           `json:"message"`
	Comment      string           `json:"comment,omitempty"`
	Metadata     ocsfMetadata     `json:"metadata"`
	FindingInfo  ocsfFindingInfo  `json:"finding_info"`
	Compliance   *ocsfCompliance  `json:"compliance,omitempty"`
	Remediation  *ocsfRemediation `json:"remediation,omitempty"`
	Resources    []ocsfResource   `json:"resources,omitempty"`
	Unmapped     map[string]any   `json:"unmapped,omitempty"`
}

type ocsfMetadata struct {
	Version   string      `json:"version"`
	Product   ocsfProduct `json:"product"`
	UID       string      `json:"uid"`
	EventCode string      `json:"event_code"`
	TenantUID string      `json:"tenant_uid"`
}

type ocsfProduct struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
	Version    string `json:"version,omitempty"`
}

type ocsfFindingInfo struct {
	UID         string       `json:"uid"`
	Title       string       `json:"title"`
	Desc        string       `json:"desc,omitempty"`
	Types       []string     `json:"types,omitempty"`
	CreatedTime int64        `json:"created_time,omitempty"`
	FirstSeen   int64        `json:"first_seen_time,omitempty"`
	LastSeen    int64        `json:"last_seen_time,omitempty"`
	SourceURL   string       `json:"src_url,omitempty"`
	Analytic    ocsfAnalytic `json:"analytic"`
}

type ocsfAnalytic struct {
	TypeID int    `json:"type_id"`
	Type   string `json:"type"`
	UID    string `json:"uid"`
	Name   string `json:"name"`
}

type ocsfCompliance struct {
	Control      string   `json:"control"`
	Standards    []string `json:"standards"`
	StatusID     int      `json:"status_id"`
	Status       string   `json:"status"`
	StatusCode   string   `json:"status_code,omitempty"`
	StatusDetail string   `json:"status_detail,omitempty"`
}

type ocsfRemediation struct {
	Desc string `json:"desc"`
}

type ocsfResource struct {
	UID    string         `json:"uid"`
	Name   string         `json:"name"`
	Type   string         `json:"type"`
	Labels []string       `json:"labels,omitempty"`
	Data   map[string]any `json:"data,omitempty"`
}

// finding is the event as OCSF: an assessment or recommendation as Compliance Finding (2003), all else as Detection Finding
// (2004), where incidents too are findings, named by their own id and type.
func finding(e *event.Event, o Origin) ocsf {
	f := ocsf{
		CategoryUID: categoryFindings, CategoryName: "Findings", ClassUID: classDetection, ClassName: "Detection Finding",
		Time: milliseconds(e.Time), Message: e.Summary(),
		Metadata: ocsfMetadata{Version: ocsfVersion, Product: ocsfProduct{Name: "Assay", VendorName: "Assay", Version: o.Version},
			UID: e.ID.String(), EventCode: string(e.Kind), TenantUID: e.TenantID.String()},
	}
	f.ActivityID, f.ActivityName = activity(e)
	f.SeverityID, f.Severity = severity(e)
	f.StatusID, f.Status = status(e)
	f.FindingInfo = ocsfFindingInfo{UID: e.Subject().String(), Title: e.Summary(), SourceURL: e.Link,
		Analytic: ocsfAnalytic{TypeID: analyticRule, Type: "Rule", UID: code(e), Name: code(e)}}
	switch {
	case e.Alert != nil:
		f.detection(e.Alert)
	case e.Incident != nil:
		f.incident(e.Incident)
	case e.Compliance != nil:
		f.compliance(e, e.Compliance)
	}
	f.TypeUID = f.ClassUID*100 + f.ActivityID
	f.TypeName = f.ClassName + ": " + f.ActivityName
	if f.ClassUID == classDetection {
		alerting := f.ActivityID == activityCreate && e.Kind != event.Test
		f.IsAlert = &alerting
	}
	if m := e.Machine; m != nil {
		f.Resources = []ocsfResource{resource(m)}
	}
	return f
}

func (f *ocsf) detection(a *event.Alert) {
	f.FindingInfo.Title, f.FindingInfo.Desc, f.FindingInfo.Types = a.Title, a.Description, []string{a.Code}
	f.FindingInfo.CreatedTime, f.FindingInfo.FirstSeen, f.FindingInfo.LastSeen = milliseconds(a.FirstSeen), milliseconds(a.FirstSeen), milliseconds(a.LastSeen)
	f.FindingInfo.Analytic.Name = a.Title
	f.StartTime, f.EndTime, f.Comment = milliseconds(a.FirstSeen), milliseconds(a.LastSeen), a.Comment
	f.Remediation = remediation(a.Remediation)
	f.Unmapped = map[string]any{"count": a.Count, "suppressed": a.Suppressed}
	for name, value := range map[string]string{"reason": a.Reason, "scope": a.Scope, "changed_by": a.ChangedBy} {
		if value != "" {
			f.Unmapped[name] = value
		}
	}
}

func (f *ocsf) incident(i *event.Incident) {
	f.FindingInfo.Title, f.FindingInfo.Types = i.Title, []string{"incident", i.Code}
	f.FindingInfo.CreatedTime, f.FindingInfo.FirstSeen, f.FindingInfo.LastSeen = milliseconds(i.FirstSeen), milliseconds(i.FirstSeen), milliseconds(i.LastSeen)
	f.StartTime, f.EndTime = milliseconds(i.FirstSeen), milliseconds(i.LastSeen)
	f.Unmapped = map[string]any{"machines": i.Machines}
}

func (f *ocsf) compliance(e *event.Event, c *event.Compliance) {
	f.ClassUID, f.ClassName = classCompliance, "Compliance Finding"
	f.FindingInfo.Title, f.FindingInfo.Desc, f.FindingInfo.Types = c.Title, c.Description, []string{c.Code}
	f.FindingInfo.CreatedTime, f.FindingInfo.FirstSeen = milliseconds(c.FirstSeen), milliseconds(c.FirstSeen)
	f.FindingInfo.Analytic.Name = c.Title
	f.Remediation = remediation(c.Remediation)
	f.Compliance = &ocsfCompliance{Control: c.Title, Standards: append([]string{}, c.Citations...), StatusCode: c.Cause, StatusDetail: c.Description}
	switch {
	case !Over(e):
		f.Compliance.StatusID, f.Compliance.Status = 3, "Fail"
	case c.Status == "NotApplicable" || c.Status == "exempt":
		f.Compliance.StatusID, f.Compliance.Status = complianceWarning, "Warning"
	default:
		f.Compliance.StatusID, f.Compliance.Status = 1, "Pass"
	}
}

// activity is what happened to the finding (attribute activity_id of the class Finding). What is suppressed no more is new to most
// receivers: so it is Create, and an alert, for all; the finding's uid tells the others that they know it.
func activity(e *event.Event) (id int, name string) {
	switch {
	case Over(e):
		return activityClose, "Close"
	case e.Kind == event.AlertReopened || e.Kind == event.AlertStatusChanged || e.Kind == event.AlertGrown || e.Kind == event.IncidentGrown:
		return activityUpdate, "Update"
	}
	return activityCreate, "Create"
}

// severity is attribute severity_id of the base event.
func severity(e *event.Event) (id int, name string) {
	switch e.Severity() {
	case "low":
		return 2, "Low"
	case "medium":
		return 3, "Medium"
	case "high":
		return 4, "High"
	}
	return 1, "Informational"
}

// status is where the finding stands (attribute status_id of the class Finding).
func status(e *event.Event) (id int, name string) {
	switch {
	case e.Alert != nil && e.Alert.Status == "dismissed", e.Compliance != nil && e.Compliance.Status == "exempt":
		return 3, "Suppressed"
	case Over(e):
		return 4, "Resolved"
	case e.Alert != nil && e.Alert.Status == "in_progress":
		return 2, "In Progress"
	}
	return 1, "New"
}

func remediation(steps []string) *ocsfRemediation {
	if len(steps) == 0 {
		return nil
	}
	return &ocsfRemediation{Desc: strings.Join(steps, "\n")}
}

func resource(m *event.Machine) ocsfResource {
	r := ocsfResource{UID: m.ID.String(), Name: m.Name, Type: "Machine", Labels: labels(m.Labels), Data: map[string]any{}}
	for name, value := range map[string]string{"external_id": m.ExternalID, "platform": m.Platform, "os": m.OS, "security_type": m.SecurityType, "scale_set": m.ScaleSet} {
		if value != "" {
			r.Data[name] = value
		}
	}
	return r
}

func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
