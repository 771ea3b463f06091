package ear

// IETFClaims is a claims set in the names of draft-ietf-rats-ear-04.
type IETFClaims struct {
	Profile    string                `json:"eat_profile"`
	Status     string                `json:"ear_status"` // of the whole: that of its one submodule
	Issuer     string                `json:"iss,omitempty"`
	Subject    string                `json:"sub"`
	Audience   string                `json:"aud,omitempty"`
	ID         string                `json:"jti"`
	IssuedAt   int64                 `json:"iat"`
	NotBefore  int64                 `json:"nbf"`
	Expires    int64                 `json:"exp"`
	Nonce      string                `json:"eat_nonce,omitempty"`
	VerdictID  string                `json:"assay.verdict_id"`
	VerifierID VerifierID            `json:"ear_verifier_id"`
	Submods    map[string]IETFSubmod `json:"submods"`
}

// IETFSubmod is the appraisal of one attester in these names.
type IETFSubmod struct {
	Status    string         `json:"ear_status"`
	Vector    Vector         `json:"ear_trustworthiness_vector"`
	PolicyIDs []string       `json:"ear_appraisal_policy_ids,omitempty"`
	Claims    *RelyingClaims `json:"assay.claims,omitempty"`
}

// IETF says the same in the names, and under the profile, of draft-ietf-rats-ear-04.
func (c *Claims) IETF() IETFClaims {
	m := c.Submods[Submodule]
	submod := IETFSubmod{Status: m.Status, Vector: m.Vector, Claims: m.Claims}
	if m.PolicyID != "" {
		submod.PolicyIDs = []string{m.PolicyID} // the list must not be empty
	}
	return IETFClaims{
		Profile: ProfileIETF, Status: m.Status, Issuer: c.Issuer, Subject: c.Subject, Audience: c.Audience, ID: c.ID,
		IssuedAt: c.IssuedAt, NotBefore: c.NotBefore, Expires: c.Expires, Nonce: c.Nonce, VerdictID: c.VerdictID,
		VerifierID: c.VerifierID, Submods: map[string]IETFSubmod{Submodule: submod},
	}
}
