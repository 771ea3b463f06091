package server

import (
	"encoding/json"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Media types of a body that may be sent in two forms.
const (
	jsonMedia = "application/json"
	formMedia = "application/x-www-form-urlencoded"
)

// readEither checks a body that is JSON or a form, and gives it as JSON, in the request's Content-Type too: what comes after knows
// one form only. The guard has checked before that it is one of the two.
func (b *bodyRule) readEither(r *http.Request, body []byte) ([]byte, error) {
	media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || media != formMedia {
		r.Header.Set("Content-Type", jsonMedia)
		return body, b.check(body)
	}
	object, err := formObject(string(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", jsonMedia)
	return object, checkBody(object, b.form)
}

// formObject is a form as a JSON object of texts. A parameter that is given twice is refused (RFC 6749, section 3.1), since readers differ
// in which of the two they take.
func formObject(body string) ([]byte, error) {
	fields := map[string]string{}
	for part := range strings.SplitSeq(body, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		key, errKey := url.QueryUnescape(name)
		text, errText := url.QueryUnescape(value)
		if errKey != nil || errText != nil || !utf8.ValidString(key) || !utf8.ValidString(text) { // the value may be a token: it is not repeated
			return nil, refuseField(codeInvalidField, "", "the body is no form of UTF-8 texts")
		}
		if _, twice := fields[key]; twice {
			return nil, refuseField(codeInvalidField, "/"+escapePointer(key), "this parameter is given twice")
		}
		if len(fields) == maxFieldProblems {
			return nil, refuseField(codeInvalidField, "", "the form has too many parameters")
		}
		fields[key] = text
	}
	return json.Marshal(fields)
}
