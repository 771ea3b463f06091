package relying

import (
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	jsonv2 "github.com/go-json-experiment/json"

	"github.com/assay-verifier/assay/verifier/ear"
)

// Claims are the claims of a result in either of its two forms (package ear).
type Claims struct {
	Profile   string   `json:"eat_profile"`
	Issuer    string   `json:"iss"`
	Subject   string   `json:"sub"`
	Audience  audience `json:"aud"`
	ID        string   `json:"jti"`
	IssuedAt  *int64   `json:"iat"`
	NotBefore *int64   `json:"nbf"`
	Expires   *int64   `json:"exp"`
	Nonce     string   `json:"eat_nonce"`
	VerdictID string   `json:"assay.verdict_id"`
	// Raw is all claims as they were signed.
	Raw json.RawMessage `json:"-"`

	Submods map[string]json.RawMessage `json:"submods"`
}

// audience is one text or a list of them (RFC 7519, section 4.1.3).
type audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

// Submod is what a result says of its one attester.
type Submod struct {
	Status string         // affirming, warning, contraindicated, none
	Vector map[string]int // AR4SI trustworthiness vector
	Policy []string       // identifiers of the policies that judged
	Claims map[string]any // assay.claims
}

// ReadClaims reads the claims of a token whose signature holds. An error means that it is no result.
func ReadClaims(t Token) (Claims, error) {
	var c Claims
	if err := jsonv2.Unmarshal(t.Payload, &c); err != nil { // floating point times too (RFC 9711, section 4.3.1)
		return Claims{}, errors.New("a claim has not the type that it should have")
	}
	if c.Profile != ear.Profile && c.Profile != ear.ProfileIETF {
		return Claims{}, fmt.Errorf("its eat_profile %.80q is none that is known here: %s or %s", c.Profile, ear.Profile, ear.ProfileIETF)
	}
	c.Raw = t.Payload
	return c, nil
}

// Machine is the result's appraisal of the machine, in the names of its profile.
func (c *Claims) Machine() (Submod, error) {
	raw, ok := c.Submods[ear.Submodule]
	if !ok || len(c.Submods) != 1 {
		return Submod{}, fmt.Errorf("it has not the one submodule %q", ear.Submodule)
	}
	var s struct {
		Status     string         `json:"ear.status"`
		StatusIETF string         `json:"ear_status"`
		Vector     map[string]int `json:"ear.trustworthiness-vector"`
		VectorIETF map[string]int `json:"ear_trustworthiness_vector"`
		Policy     string         `json:"ear.appraisal-policy-id"`
		PolicyIETF []string       `json:"ear_appraisal_policy_ids"`
		Claims     map[string]any `json:"assay.claims"`
	}
	if err := jsonv2.Unmarshal(raw, &s); err != nil {
		return Submod{}, errors.New("its submodule has not the form that it should have")
	}
	out := Submod{Status: s.Status, Vector: s.Vector, Claims: s.Claims}
	if s.Policy != "" {
		out.Policy = []string{s.Policy}
	}
	if c.Profile == ear.ProfileIETF {
		out.Status, out.Vector, out.Policy = s.StatusIETF, s.VectorIETF, s.PolicyIETF
	}
	if !slices.Contains([]string{"affirming", "warning", "contraindicated", "none"}, out.Status) {
		return Submod{}, errors.New("its status is none of affirming, warning, contraindicated and none")
	}
	return out, nil
}

// Expect is what a relying party asks of a result. An empty Issuer or Nonce is not compared. An empty Audience refuses a
// result that is made out to somebody: who does not find himself in aud must not take it (RFC 7519, section 4.1.3).
type Expect struct {
	Now      time.Time
	Leeway   time.Duration // by which clocks may differ
	Issuer   string
	Audience string
	Nonce    string
}

// Check is one question about a result, and its answer in plain words.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"` // pass, fail, skipped
	Detail string `json:"detail"`
}

// Check compares the claims with what is expected, question by question.
func (c *Claims) Check(e Expect) []Check {
	var out []Check
	add := func(name string, asked, holds bool, pass, fail string) {
		switch {
		case !asked:
			out = append(out, Check{name, "skipped", pass})
		case holds:
			out = append(out, Check{name, "pass", pass})
		default:
			out = append(out, Check{name, "fail", fail})
		}
	}
	add("type", true, c.Subject != "" && c.ID != "" && c.IssuedAt != nil && c.Expires != nil,
		"it is an attestation result of profile "+c.Profile, "sub, jti, iat or exp is missing")
	if c.Expires != nil && c.IssuedAt != nil {
		ends, issued := time.Unix(*c.Expires, 0).UTC(), time.Unix(*c.IssuedAt, 0).UTC()
		add("expiry", true, e.Now.Before(ends.Add(e.Leeway)), "it is valid until "+ends.Format(time.RFC3339), "it ended at "+ends.Format(time.RFC3339))
		from := issued
		if c.NotBefore != nil {
			from = time.Unix(*c.NotBefore, 0).UTC()
		}
		add("start", true, !e.Now.Add(e.Leeway).Before(from), "it is valid since "+from.Format(time.RFC3339), "it begins only at "+from.Format(time.RFC3339))
	}
	add("issuer", e.Issuer != "", c.Issuer == e.Issuer, fmt.Sprintf("it was issued by %q", c.Issuer), fmt.Sprintf("it was issued by %q, not by %q", c.Issuer, e.Issuer))
	if e.Audience == "" {
		add("audience", len(c.Audience) > 0, false, "it is for nobody in particular", fmt.Sprintf("it is for %q: say that this is the audience which you are", []string(c.Audience)))
	} else {
		add("audience", true, slices.Contains(c.Audience, e.Audience), fmt.Sprintf("it is for %q", []string(c.Audience)), fmt.Sprintf("it is for %q, not for %q", []string(c.Audience), e.Audience))
	}
	add("nonce", e.Nonce != "", subtle.ConstantTimeCompare([]byte(c.Nonce), []byte(e.Nonce)) == 1, "its nonce is "+fmt.Sprintf("%q", c.Nonce), "it does not carry the nonce that was asked for")
	return out
}

// Holds tells whether nothing failed.
func Holds(checks []Check) bool {
	return !slices.ContainsFunc(checks, func(c Check) bool { return c.Status == "fail" })
}
