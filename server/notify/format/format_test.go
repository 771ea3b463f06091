package format_test

import (
	"encoding/json"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/server/notify/event"
	"github.com/assay-verifier/assay/server/notify/format"
)

var (
	at     = time.Date(2026, 3, 1, 14, 2, 3, 450e6, time.UTC)
	origin = format.Origin{Version: "1.2.3", Source: "https://assay.example", Host: "verifier-1"}
)

func id(n byte) uuid.UUID { return uuid.UUID{0: 1, 6: 0x70, 8: 0x80, 15: n} }

func machine() *event.Machine {
	return &event.Machine{ID: id(5), Name: "web-1", ExternalID: "i-12", Platform: "azure", OS: "linux", SecurityType: "trusted_launch",
		ScaleSet: "web", Labels: map[string]string{"env": "prod", "a": "b"}}
}

// events are one of each kind, and one of each status that a kind can have.
func events() map[string]*event.Event {
	verdict := id(9)
	base := func(kind event.Kind) *event.Event {
		return &event.Event{SchemaVersion: event.SchemaVersion, ID: id(1), Kind: kind, Time: at, TenantID: id(2), Link: "https://assay.example/ui/alerts/3"}
	}
	alert := func(kind event.Kind, status string) *event.Event {
		e := base(kind)
		e.Alert = &event.Alert{ID: id(3), Code: "attestation_failed", Title: "Attestation failed for your virtual machine",
			Description: "grubx64.efi changed | a=b\nsecond \\ line", Severity: "medium", Status: status, Reason: "baseline_deviation",
			Remediation: []string{"Look at it.", "Mend it."}, Count: 3, FirstSeen: at.Add(-time.Hour), LastSeen: at}
		e.Machine, e.VerdictID = machine(), &verdict
		return e
	}
	changed := alert(event.AlertStatusChanged, "in_progress")
	changed.Alert.Previous, changed.Alert.ChangedBy, changed.Alert.Comment, changed.Alert.Suppressed = "active", "token:7", "on it", true
	many := alert(event.AlertOpened, "active")
	many.Machine, many.Alert.Scope, many.Alert.Severity = nil, "scale_set:web", "high"
	incident := func(kind event.Kind, status string) *event.Event {
		e := base(kind)
		e.Incident = &event.Incident{ID: id(6), Code: "attestation_failed", Title: "grubx64.efi changed", Severity: "high", Status: status, Machines: 312, FirstSeen: at, LastSeen: at}
		return e
	}
	compliance := func(kind event.Kind, status, before string, recommendation *uuid.UUID) *event.Event {
		e := base(kind)
		e.Machine = machine()
		e.Compliance = &event.Compliance{ID: recommendation, Code: "secure_boot_enabled", Title: "Secure Boot should be enabled", Description: "It is off.", Severity: "low",
			Status: status, Previous: before, Cause: "secure_boot_off", Remediation: []string{"Turn it on."}, Citations: []string{"UEFI 2.10, section 32"}, FirstSeen: at}
		return e
	}
	recommendation := id(8)
	disabled := base(event.ChannelDisabled)
	disabled.Channel = &event.Channel{ID: id(7), Name: "siem", Kind: "webhook", Detail: "410 Gone"}
	test := base(event.Test)
	test.Channel = disabled.Channel
	return map[string]*event.Event{
		"opened": alert(event.AlertOpened, "active"), "reopened": alert(event.AlertReopened, "active"), "resolved": alert(event.AlertResolved, "resolved"), "dismissed": alert(event.AlertStatusChanged, "dismissed"),
		"shown again": alert(event.AlertUnsuppressed, "in_progress"), "grew": alert(event.AlertGrown, "active"), "incident shown": incident(event.IncidentUnsuppressed, "open"),
		"in progress": changed, "of many machines": many,
		"incident": incident(event.IncidentOpened, "open"), "incident grew": incident(event.IncidentGrown, "open"), "incident over": incident(event.IncidentResolved, "resolved"),
		"unhealthy": compliance(event.AssessmentChanged, "Unhealthy", "Healthy", nil), "healthy": compliance(event.AssessmentChanged, "Healthy", "Unhealthy", nil),
		"not applicable": compliance(event.AssessmentChanged, "NotApplicable", "Unhealthy", nil), "recommended": compliance(event.Recommended, "active", "", &recommendation),
		"heeded": compliance(event.Heeded, "resolved", "active", &recommendation), "exempt": compliance(event.Heeded, "exempt", "active", &recommendation),
		"exemption ended": compliance(event.ExemptionEnded, "active", "exempt", &recommendation), "channel disabled": disabled, "test": test,
	}
}

func encode(t *testing.T, f format.Format, e *event.Event) []byte {
	t.Helper()
	contentType, body, err := format.Encode(f, e, origin)
	if err != nil {
		t.Fatal(err)
	}
	if contentType == "" || len(body) == 0 {
		t.Fatalf("%s: content type %q, %d bytes", f, contentType, len(body))
	}
	_, again, _ := format.Encode(f, e, origin)
	if string(again) != string(body) {
		t.Errorf("%s: written twice, it differs:\n%s\n%s", f, body, again)
	}
	return body
}

// Every kind of event that there is has an example here.
func TestEveryKindIsWritten(t *testing.T) {
	var kinds []event.Kind
	for _, e := range events() {
		kinds = append(kinds, e.Kind)
	}
	for _, k := range event.Kinds {
		if !slices.Contains(kinds, k) {
			t.Errorf("no example of %s", k)
		}
	}
	if _, _, err := format.Encode("pdf", events()["opened"], origin); err == nil || !strings.Contains(err.Error(), `"pdf"`) {
		t.Errorf("an unknown format: %v", err)
	}
	for _, f := range format.All {
		if !format.Known(f) {
			t.Errorf("%s is not known", f)
		}
	}
	if format.Known("pdf") {
		t.Error("pdf is known")
	}
}

func TestAssay(t *testing.T) {
	for name, e := range events() {
		var got struct {
			Type      string       `json:"type"`
			Timestamp time.Time    `json:"timestamp"`
			Data      *event.Event `json:"data"`
		}
		if err := json.Unmarshal(encode(t, format.Assay, e), &got); err != nil {
			t.Fatal(err)
		}
		if got.Type != string(e.Kind) || !got.Timestamp.Equal(at) || got.Data.ID != e.ID {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// What CloudEvents 1.0.2 asks of an event: required attributes, their types, and names of extensions (sections 3.1 and 3.2).
func TestCloudEvents(t *testing.T) {
	known := []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data"}
	for name, e := range events() {
		var got map[string]any
		if err := json.Unmarshal(encode(t, format.CloudEvents, e), &got); err != nil {
			t.Fatal(err)
		}
		if got["specversion"] != "1.0" || got["id"] != e.ID.String() || got["type"] != "io.github.assay-verifier.assay."+string(e.Kind) {
			t.Errorf("%s: %v", name, got)
		}
		if u, err := url.Parse(got["source"].(string)); err != nil || u.String() != "https://assay.example/tenants/"+e.TenantID.String() {
			t.Errorf("%s: source %v (%v)", name, got["source"], err)
		}
		if s, told := got["subject"]; told && s == "" {
			t.Errorf("%s: the subject is there and empty", name)
		}
		if stamp, err := time.Parse(time.RFC3339Nano, got["time"].(string)); err != nil || !stamp.Equal(at) {
			t.Errorf("%s: time %v", name, got["time"])
		}
		for attribute := range got {
			if !regexp.MustCompile(`^[a-z0-9]{1,20}$`).MatchString(attribute) {
				t.Errorf("%s: attribute %q", name, attribute)
			}
			if !slices.Contains(known, attribute) && attribute != "severity" {
				t.Errorf("%s: attribute %q is told nowhere", name, attribute)
			}
		}
	}
	e := events()["opened"]
	_, body, _ := format.Encode(format.CloudEvents, e, format.Origin{})
	if !strings.Contains(string(body), `"source":"urn:assay/tenants/`) {
		t.Errorf("without an address: %s", body)
	}
}

// class is a class or object of OCSF, with what it inherits.
type class struct {
	Extends    string
	Attributes map[string]struct {
		Requirement string
		Enum        []float64
	}
}

func ocsfClass(t *testing.T, name string) class {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "ocsf", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	var c class
	if err := json.Unmarshal(text, &c); err != nil {
		t.Fatal(err)
	}
	if c.Extends != "" && c.Extends != "object" {
		parent := ocsfClass(t, c.Extends)
		maps.Copy(parent.Attributes, c.Attributes)
		c.Attributes = parent.Attributes
	}
	return c
}

// objects are the attributes whose value is an object, with its definition.
var objects = map[string]string{"metadata": "metadata", "product": "product", "finding_info": "finding_info", "analytic": "analytic",
	"compliance": "compliance", "remediation": "remediation", "resources": "resource_details"}

func checkOCSF(t *testing.T, place, name string, value map[string]any) {
	t.Helper()
	c := ocsfClass(t, name)
	for attribute, a := range c.Attributes {
		if _, there := value[attribute]; a.Requirement == "required" && !there {
			t.Errorf("%s: %s has no %s", place, name, attribute)
		}
	}
	for attribute, v := range value {
		a, known := c.Attributes[attribute]
		if !known {
			t.Errorf("%s: %s knows no %s", place, name, attribute)
		}
		if n, number := v.(float64); len(a.Enum) > 0 && (!number || !slices.Contains(a.Enum, n)) {
			t.Errorf("%s: %s of %s cannot be %v", place, attribute, name, v)
		}
		inner, isObject := objects[attribute]
		switch v := v.(type) {
		case map[string]any:
			if isObject {
				checkOCSF(t, place, inner, v)
			}
		case []any:
			for _, one := range v {
				if m, ok := one.(map[string]any); ok && isObject {
					checkOCSF(t, place, inner, m)
				}
			}
		}
	}
}

func TestOCSF(t *testing.T) {
	want := map[string][4]int{ // class, activity, severity, status
		"opened": {2004, 1, 3, 1}, "reopened": {2004, 2, 3, 1}, "resolved": {2004, 3, 3, 4}, "dismissed": {2004, 3, 3, 3}, "in progress": {2004, 2, 3, 2}, "of many machines": {2004, 1, 4, 1},
		"shown again": {2004, 1, 3, 2}, "grew": {2004, 2, 3, 1}, "incident shown": {2004, 1, 4, 1}, "incident": {2004, 1, 4, 1}, "incident grew": {2004, 2, 4, 1}, "incident over": {2004, 3, 4, 4},
		"unhealthy": {2003, 1, 2, 1}, "healthy": {2003, 3, 2, 4}, "not applicable": {2003, 3, 2, 4}, "recommended": {2003, 1, 2, 1}, "exemption ended": {2003, 1, 2, 1}, "heeded": {2003, 3, 2, 4}, "exempt": {2003, 3, 2, 3},
		"channel disabled": {2004, 1, 1, 1}, "test": {2004, 1, 1, 1},
	}
	results := map[string]float64{"unhealthy": 3, "recommended": 3, "exemption ended": 3, "healthy": 1, "heeded": 1, "not applicable": 2, "exempt": 2}
	for name, e := range events() {
		var got map[string]any
		if err := json.Unmarshal(encode(t, format.OCSF, e), &got); err != nil {
			t.Fatal(err)
		}
		numbers := [4]int{}
		for i, attribute := range []string{"class_uid", "activity_id", "severity_id", "status_id"} {
			n, _ := got[attribute].(float64)
			numbers[i] = int(n)
		}
		if numbers != want[name] {
			t.Errorf("%s: class, activity, severity, status are %v, want %v", name, numbers, want[name])
		}
		if got["type_uid"] != float64(numbers[0]*100+numbers[1]) || got["time"] != float64(at.UnixMilli()) {
			t.Errorf("%s: type_uid %v, time %v", name, got["type_uid"], got["time"])
		}
		definition := "detection_finding"
		if numbers[0] == 2003 {
			definition = "compliance_finding"
			if r := got["compliance"].(map[string]any)["status_id"]; r != results[name] {
				t.Errorf("%s: the check's result is %v, want %v", name, r, results[name])
			}
		} else if alerting := got["is_alert"]; alerting != (numbers[1] == 1 && e.Kind != event.Test) {
			t.Errorf("%s: is_alert %v", name, alerting)
		}
		checkOCSF(t, name, definition, got)
	}
}

// parseCEF reads a line as a receiver does, by the rules of the format alone.
func parseCEF(t testing.TB, line string) (fields []string, pairs map[string]string) {
	t.Helper()
	if strings.ContainsAny(line, "\n\r") {
		t.Fatalf("more than one line: %q", line)
	}
	var field strings.Builder
	i := 0
	for ; i < len(line) && len(fields) < 7; i++ {
		switch {
		case line[i] == '\\' && i+1 < len(line):
			i++
			field.WriteByte(line[i])
		case line[i] == '|':
			fields = append(fields, field.String())
			field.Reset()
		default:
			field.WriteByte(line[i])
		}
	}
	pairs = map[string]string{}
	keys := regexp.MustCompile(`(?:^| )([A-Za-z0-9]+)=`)
	rest := line[i:]
	masked := regexp.MustCompile(`\\.`).ReplaceAllString(rest, "__") // an escaped equals sign begins no pair
	found := keys.FindAllStringSubmatchIndex(masked, -1)
	for n, m := range found {
		end := len(rest)
		if n+1 < len(found) {
			end = found[n+1][0]
		}
		key := rest[m[2]:m[3]]
		if _, twice := pairs[key]; twice {
			t.Errorf("%s comes twice: %s", key, line)
		}
		pairs[key] = strings.NewReplacer(`\\`, `\`, `\=`, `=`, `\n`, "\n", `\r`, "\r").Replace(rest[m[1]:end])
	}
	return fields, pairs
}

func TestCEF(t *testing.T) {
	severities := map[string]string{"shown again": "6", "grew": "6", "incident shown": "8", "opened": "6", "reopened": "6", "exemption ended": "3", "in progress": "6", "of many machines": "8", "incident": "8", "incident grew": "8", "unhealthy": "3", "recommended": "3"}
	for name, e := range events() {
		fields, pairs := parseCEF(t, string(encode(t, format.CEF, e)))
		if len(fields) != 7 || fields[0] != "CEF:0" || fields[1] != "Assay" || fields[3] != "1.2.3" {
			t.Errorf("%s: header %q", name, fields)
		}
		want := severities[name]
		if want == "" {
			want = "0"
		}
		if fields[6] != want {
			t.Errorf("%s: severity %s, want %s", name, fields[6], want)
		}
		if pairs["cat"] != string(e.Kind) || pairs["rt"] != "1772373723450" || pairs["dvchost"] != "verifier-1" {
			t.Errorf("%s: %v", name, pairs)
		}
		if a := e.Alert; a != nil && (pairs["msg"] != a.Description || pairs["externalId"] != a.ID.String() || pairs["outcome"] != a.Status || pairs["cnt"] != "3" || fields[4] != a.Code) {
			t.Errorf("%s: %v", name, pairs)
		}
		if m := e.Machine; m != nil && (pairs["dhost"] != m.Name || pairs["cs1"] != m.ID.String() || pairs["cs3"] != "a=b,env=prod") {
			t.Errorf("%s: %v", name, pairs)
		}
	}
}

// Whatever a machine calls itself, a line stays one line, and its fields stay apart.
func TestCEFKeepsFieldsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringOfN(rapid.RuneFrom([]rune("a=|\\\n\r \u2028\x00é")), 0, 30, -1),
			rapid.StringN(1000, 1100, -1))
		e := events()["opened"]
		e.Machine.Name, e.Alert.Title, e.Alert.Description = text.Draw(t, "name"), text.Draw(t, "title"), text.Draw(t, "description")
		_, body, err := format.Encode(format.CEF, e, origin)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range string(body) {
			if r < ' ' || r == 0x7f || r == 0x2028 || r == 0x2029 {
				t.Fatalf("a control character in %q", body)
			}
		}
	})
	for _, hostile := range []string{"x cs1=forged", `x\`, "a|b", "a\nCEF:0|Evil|", `\=`, "é=1"} {
		e := events()["opened"]
		e.Machine.Name, e.Alert.Title = hostile, hostile
		fields, pairs := parseCEF(t, string(encode(t, format.CEF, e)))
		if len(fields) != 7 || fields[6] != "6" || pairs["cs1"] != e.Machine.ID.String() || strings.ReplaceAll(pairs["dhost"], "\n", " ") != strings.ReplaceAll(hostile, "\n", " ") {
			t.Errorf("%q: %q %v", hostile, fields, pairs)
		}
	}
	e := events()["opened"]
	e.Alert.Description = strings.Repeat("ä", 5000)
	_, pairs := parseCEF(t, string(encode(t, format.CEF, e)))
	if n := len([]rune(pairs["msg"])); n != 1023 || !strings.HasSuffix(pairs["msg"], "…") {
		t.Errorf("a long description has %d characters", n)
	}
}

func TestMail(t *testing.T) {
	all := events()
	subject, text := format.Mail(all["in progress"])
	if subject != "[Assay, medium] Attestation failed for your virtual machine: in_progress on web-1" {
		t.Error(subject)
	}
	for _, want := range []string{"grubx64.efi changed | a=b", "Status:      in_progress (was active)", "Changed by:  token:7", "Comment:     on it", "Suppressed:", "Machine:     web-1",
		"Labels:      a=b, env=prod", "Verdict:", "3 times", "What to do:\n 1. Look at it.\n 2. Mend it.\n", "\nhttps://assay.example/ui/alerts/3\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "Scope:") {
		t.Errorf("what is not known is told:\n%s", text)
	}
	subject, text = format.Mail(all["resolved"])
	if strings.Contains(subject, "medium") || strings.Contains(text, "What to do") {
		t.Errorf("what is over asks for something: %s\n%s", subject, text)
	}
	for name, e := range all {
		subject, text := format.Mail(e)
		if !strings.HasPrefix(subject, "[Assay") || !strings.HasPrefix(text, e.Summary()) {
			t.Errorf("%s: %q\n%s", name, subject, text)
		}
	}
}

func TestSyslogSeverity(t *testing.T) {
	want := map[string]int{"shown again": 4, "grew": 4, "incident shown": 2, "opened": 4, "reopened": 4, "exemption ended": 5, "in progress": 4, "of many machines": 2, "incident": 2, "incident grew": 2, "unhealthy": 5, "recommended": 5}
	for name, e := range events() {
		expected, told := want[name]
		if !told {
			expected = 6
		}
		if got := format.SyslogSeverity(e); got != expected {
			t.Errorf("%s: %d, want %d", name, got, expected)
		}
	}
}
