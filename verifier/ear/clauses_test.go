package ear

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
)

// object is a claims set as a relying party sees it.
func object(t *testing.T, v any) map[string]any {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// What the drafts ask of a claims set, clause by clause: "dots" are the names of draft-fv-rats-ear-05 and
// draft-ietf-rats-ear-00 to -02, "underscores" those of draft-ietf-rats-ear-04. Each is held against every kind of appraisal.
func TestClauses(t *testing.T) {
	type form struct {
		name, profile, status, vector, policy, verifierID string
		policies                                          bool // a list
	}
	forms := []form{
		{"dots", "tag:github.com,2023:veraison/ear", "ear.status", "ear.trustworthiness-vector", "ear.appraisal-policy-id", "ear.verifier-id", false},
		{"underscores", "tag:ietf.org,2026:rats/ear#04", "ear_status", "ear_trustworthiness_vector", "ear_appraisal_policy_ids", "ear_verifier_id", true},
	}
	tiers := []string{"none", "affirming", "warning", "contraindicated"}
	isWhole := func(v any) bool { n, ok := v.(float64); return ok && n == float64(int64(n)) }
	text := func(v any) bool { s, ok := v.(string); return ok && s != "" }
	type clause struct {
		citation string
		holds    func(f form, all, machine map[string]any) bool
	}
	clauses := []clause{
		{"section 3, eat_profile (mandatory): MUST be the tag URI of the profile", func(f form, all, _ map[string]any) bool { return all["eat_profile"] == f.profile }},
		{"section 3, iat (mandatory): no floating point (RFC 9711, section 4.3.1)", func(_ form, all, _ map[string]any) bool { return isWhole(all["iat"]) }},
		{"section 3, exp: no floating point; after iat", func(_ form, all, _ map[string]any) bool {
			return isWhole(all["exp"]) && all["exp"].(float64) > all["iat"].(float64)
		}},
		{"section 3, verifier id (mandatory): build and developer (AR4SI, section 2.2.2)", func(f form, all, _ map[string]any) bool {
			id, _ := all[f.verifierID].(map[string]any)
			return len(id) == 2 && text(id["build"]) && text(id["developer"])
		}},
		{"section 3, submods (mandatory): at least one entry", func(_ form, all, _ map[string]any) bool {
			m, _ := all["submods"].(map[string]any)
			return len(m) == 1
		}},
		{"section 3, status of the whole: a tier no higher than the worst submodule's", func(f form, all, machine map[string]any) bool {
			s, there := all[f.status]
			return !there || s == machine[f.status]
		}},
		{"section 3, eat_nonce: a text of 8 to 88 characters (RFC 9711, section 4.1)", func(_ form, all, _ map[string]any) bool {
			s, ok := all["eat_nonce"].(string)
			return ok && len(s) >= 8 && len(s) <= 88
		}},
		{"section 3, raw evidence (optional): left out", func(_ form, all, _ map[string]any) bool {
			return all["ear.raw-evidence"] == nil && all["ear_raw_evidence"] == nil
		}},
		{"section 3.1, status (mandatory): one of the four tiers", func(f form, _, machine map[string]any) bool {
			s, _ := machine[f.status].(string)
			return slices.Contains(tiers, s)
		}},
		{"section 3.1, trustworthiness vector: MUST be present", func(f form, _, machine map[string]any) bool {
			_, ok := machine[f.vector].(map[string]any)
			return ok
		}},
		{"AR4SI, section 2.3.3: only categories of the vector, each from -128 to 127", func(f form, _, machine map[string]any) bool {
			for name, v := range machine[f.vector].(map[string]any) {
				if !slices.Contains([]string{"instance-identity", "configuration", "executables", "file-system", "hardware", "runtime-opaque", "storage-opaque", "sourced-data"}, name) ||
					!isWhole(v) || v.(float64) < -128 || v.(float64) > 127 {
					return false
				}
			}
			return true
		}},
		{"section 3.1, status: no higher than the worst claim of the vector", func(f form, _, machine map[string]any) bool {
			for _, v := range machine[f.vector].(map[string]any) {
				worst := tierOf(int8(v.(float64))).String()
				if s := machine[f.status].(string); s != "none" && slices.Index(tiers, s) < slices.Index(tiers, worst) {
					return false
				}
			}
			return true
		}},
		{"section 3.1, appraisal policies: an identifier, a list of which MUST NOT be empty; absent where nothing judged", func(f form, _, machine map[string]any) bool {
			v, there := machine[f.policy]
			if !there {
				return true
			}
			if !f.policies {
				return text(v) && strings.HasPrefix(v.(string), "urn:uuid:")
			}
			list, _ := v.([]any)
			return len(list) == 1 && text(list[0])
		}},
		{"section 4: names of the other form do not occur, and what is not of the draft is named for its maker or of RFC 7519", func(f form, all, machine map[string]any) bool {
			for _, m := range []map[string]any{all, machine} {
				for name := range m {
					known := slices.Contains([]string{"eat_profile", "eat_nonce", "submods", "iss", "sub", "aud", "exp", "nbf", "iat", "jti", f.status, f.vector, f.policy, f.verifierID}, name)
					if !known && !strings.HasPrefix(name, "assay.") {
						return false
					}
				}
			}
			return true
		}},
		{"RFC 7519, section 4.1: sub, aud, nbf and a jti of its own", func(_ form, all, _ map[string]any) bool {
			return text(all["sub"]) && text(all["aud"]) && isWhole(all["nbf"]) && text(all["jti"]) && all["jti"] != all["assay.verdict_id"]
		}},
	}
	for story, a := range map[string]*verifier.Appraisal{
		"affirming": appraisal(verifier.Affirming, verifier.NoReason, nil), "warning": appraisal(verifier.Warning, verifier.NoReason, map[verifier.CheckCode]verifier.CheckStatus{verifier.CheckAKTrusted: verifier.Warn}),
		"deviating":    appraisal(verifier.Contraindicated, verifier.BaselineDeviation, map[verifier.CheckCode]verifier.CheckStatus{verifier.CheckBaselineMatch: verifier.Fail}),
		"not genuine":  appraisal(verifier.Contraindicated, verifier.OriginUnverified, map[verifier.CheckCode]verifier.CheckStatus{verifier.CheckQuoteSignature: verifier.Fail}),
		"confidential": confidential(verifier.Affirming, "compliant", "UpToDate", nil), "nothing": nil,
	} {
		c := context()
		c.Audience = "https://relying.example"
		claims := From(a, c)
		for _, f := range forms {
			all := object(t, claims)
			if f.policies {
				all = object(t, claims.IETF())
			}
			submods, _ := all["submods"].(map[string]any)
			machine, _ := submods[Submodule].(map[string]any)
			for _, cl := range clauses {
				if !cl.holds(f, all, machine) {
					t.Errorf("%s, %s: %s: %v", story, f.name, cl.citation, all)
				}
			}
		}
	}
}

// The relying party's nonce goes before the quote's, and is echoed as it is.
func TestRelyingNonce(t *testing.T) {
	c := context()
	c.RelyingNonce = "q3IvsnkD2zqDPi9sRZfJpA=="
	if got := From(nil, c).Nonce; got != c.RelyingNonce {
		t.Errorf("nonce %q", got)
	}
}

// A discovery document lists the names that results have.
func TestClaimNames(t *testing.T) {
	c := context()
	c.Audience = "x"
	all := object(t, From(nil, c))
	for _, name := range ClaimNames() {
		if _, ok := all[name]; !ok {
			t.Errorf("%s is listed, and no claim", name)
		}
		delete(all, name)
	}
	if len(all) > 0 {
		t.Errorf("not listed: %v", all)
	}
}
