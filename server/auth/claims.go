package auth

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Claims are the claims of a token by name, as they were sent.
type Claims map[string]jsontext.Value

// ParseClaims reads a JSON object of claims. A repeated name is an error.
func ParseClaims(raw []byte) (Claims, error) {
	var c Claims
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, err
	}
	return c, nil
}

func (c Claims) text(name string) (string, error) {
	raw, ok := c[name]
	if !ok {
		return "", nil
	}
	var s string
	if raw.Kind() != '"' || json.Unmarshal(raw, &s) != nil {
		return "", refuse(CodeMalformed, "the claim "+name+" is no text")
	}
	return s, nil
}

// latest is the last second that a time of a token may be: the year 9999.
const latest = 253402300799

// time reads a NumericDate (RFC 7519, section 2): seconds, possibly with a fraction, which is cut off.
func (c Claims) time(name string) (time.Time, error) {
	raw, ok := c[name]
	if !ok {
		return time.Time{}, nil
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if raw.Kind() != '0' || err != nil || f < 0 || f > latest {
		return time.Time{}, refuse(CodeMalformed, "the claim "+name+" is no time")
	}
	return time.Unix(int64(math.Floor(f)), 0), nil
}

// audiences reads aud: a text or a list of texts (RFC 7519, section 4.1.3).
func (c Claims) audiences() ([]string, error) {
	raw, ok := c["aud"]
	if !ok {
		return nil, nil
	}
	if raw.Kind() == '"' {
		one, err := c.text("aud")
		return []string{one}, err
	}
	var list []string
	if raw.Kind() != '[' || json.Unmarshal(raw, &list) != nil || len(list) > maxAudiences {
		return nil, refuse(CodeMalformed, "the claim aud is neither a text nor a list of at most 32 texts")
	}
	return list, nil
}

// maxClaimText bounds a value that is compared or shown, in bytes; a longer one matches nothing.
const maxClaimText = 4096

// Values gives what a rule may compare of a claim: a text as it is, a number or truth value as JSON writes it,
// and of a list each of its elements of these kinds. name is a claim, or an RFC 6901 pointer into one
// (/kubernetes.io/namespace). Absent claims, objects and null give nothing.
func (c Claims) Values(name string) []string {
	raw, ok := c.find(name)
	if !ok {
		return nil
	}
	if raw.Kind() != '[' {
		if text, ok := scalar(raw); ok {
			return []string{text}
		}
		return nil
	}
	var list []jsontext.Value
	if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	var out []string
	for _, element := range list {
		if text, ok := scalar(element); ok {
			out = append(out, text)
		}
	}
	return out
}

func (c Claims) find(name string) (jsontext.Value, bool) {
	if !strings.HasPrefix(name, "/") {
		raw, ok := c[name]
		return raw, ok
	}
	object := c
	steps := strings.Split(name[1:], "/")
	for i, step := range steps {
		raw, ok := object[unescape.Replace(step)]
		if !ok || i == len(steps)-1 {
			return raw, ok
		}
		object = nil
		if raw.Kind() != '{' || json.Unmarshal(raw, &object) != nil {
			return nil, false
		}
	}
	return nil, false
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

// scalar is a value as text. A literal text "true" and the truth value are the same here, since issuers differ
// (GitLab writes ref_protected as a text).
func scalar(raw jsontext.Value) (string, bool) {
	var text string
	switch raw.Kind() {
	case '"':
		if json.Unmarshal(raw, &text) != nil {
			return "", false
		}
	case '0', 't', 'f':
		text = string(raw)
	default:
		return "", false
	}
	return text, len(text) <= maxClaimText
}

// shown is a claim's value for people: cut short, without control characters, quoted.
func shown(s string) string {
	const limit = 120
	if len(s) <= limit {
		return strconv.Quote(s)
	}
	cut := limit
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut]) + "…"
}
