// Package ear turns an appraisal into an EAT Attestation Result (EAR), the form in which relying
// parties of the RATS world read a verifier's judgement.
//
// The claims are those of draft-ietf-rats-ear, in its JSON serialisation, in two forms that a reader tells apart by
// eat_profile alone:
//
//   - Profile, the default: the dotted names of draft-fv-rats-ear-05, adopted as draft-ietf-rats-ear-00 and kept to -02
//     (section 3), which most published EAR libraries read.
//   - ProfileIETF, on request: the names with underscores that came with -03, in the profile of draft-ietf-rats-ear-04 of
//     26 May 2026 (sections 3 and 3.1), the newest when this was written.
//
// What the drafts ask for is listed, clause by clause, in clauses_test.go. The trustworthiness vector is that of
// draft-ietf-rats-ar4si-08, section 2.3. The claims iss, sub, aud, exp, nbf, iat and jti are those of RFC 7519, eat_nonce that of
// RFC 9711, section 4.1. ear.raw-evidence is not used: the evidence is kept by the service, and a relying party has no need of it.
//
// The package is pure: it signs nothing and reads no clock. server/token signs.
package ear

import (
	"encoding/base64"
	"strconv"
	"time"

	"github.com/assay-verifier/assay/verifier"
)

// Profile is the EAT profile that a result states (draft-fv-rats-ear-05, section 3), unless another is asked for.
const Profile = "tag:github.com,2023:veraison/ear"

// ProfileIETF is the profile of draft-ietf-rats-ear-04, section 3.
const ProfileIETF = "tag:ietf.org,2026:rats/ear#04"

// Developer names the maker of this verifier in ear.verifier-id.
const Developer = "https://github.com/assay-verifier/assay"

// Submodule is the label of the one attester that a result is about: the machine.
const Submodule = "machine"

// Claims is the claims set of one result. Times are seconds since 1970.
type Claims struct {
	Profile    string            `json:"eat_profile"`
	Issuer     string            `json:"iss,omitempty"`
	Subject    string            `json:"sub"` // machine id
	Audience   string            `json:"aud,omitempty"`
	ID         string            `json:"jti"` // of this token, another for each
	IssuedAt   int64             `json:"iat"`
	NotBefore  int64             `json:"nbf"`
	Expires    int64             `json:"exp"`
	Nonce      string            `json:"eat_nonce,omitempty"` // the relying party's, else base64url of the quote's
	VerdictID  string            `json:"assay.verdict_id"`    // private: the verdict that it is about
	VerifierID VerifierID        `json:"ear.verifier-id"`
	Submods    map[string]Submod `json:"submods"`
}

// VerifierID says which software judged (draft-ietf-rats-ar4si, section 2.2.2).
type VerifierID struct {
	Build     string `json:"build"`
	Developer string `json:"developer"`
}

// Submod is the appraisal of one attester.
type Submod struct {
	Status   string `json:"ear.status"` // affirming, warning, contraindicated, none
	Vector   Vector `json:"ear.trustworthiness-vector"`
	PolicyID string `json:"ear.appraisal-policy-id,omitempty"`
	// Claims is a private extension, which readers that do not know it pass over: what relying parties of confidential VMs
	// decide by, in one place. It is left out where the evidence is not genuine.
	Claims *RelyingClaims `json:"assay.claims,omitempty"`
}

// RelyingClaims are verifier.RelyingClaims with the assurance. What is not known is left out, and never false.
type RelyingClaims struct {
	SecureBoot  *bool  `json:"secure_boot,omitempty"`
	Debug       *bool  `json:"debug,omitempty"`
	TestSigning *bool  `json:"test_signing,omitempty"`
	TEEType     string `json:"tee_type,omitempty"`   // sev_snp, tdx
	Compliance  string `json:"compliance,omitempty"` // compliant, noncompliant
	VMID        string `json:"vm_id,omitempty"`
	TCB         string `json:"tcb,omitempty"`
	TCBStatus   string `json:"tcb_status,omitempty"`
	Assurance   string `json:"assurance,omitempty"`
}

// Vector is the AR4SI trustworthiness vector as far as measured boot speaks to it. Zero makes no
// claim and is left out. 2 to 31 affirm, 32 to 95 warn, 96 to 127 contraindicate.
type Vector struct {
	InstanceIdentity int8 `json:"instance-identity,omitempty"`
	Configuration    int8 `json:"configuration,omitempty"`
	Executables      int8 `json:"executables,omitempty"`
	Hardware         int8 `json:"hardware,omitempty"`
}

// The values of the vector that are used here (draft-ietf-rats-ar4si-08, section 2.3.4).
const (
	noClaim int8 = 0

	identityTrustworthy    int8 = 2  // recognised, and not known to be compromised
	identityUnproven       int8 = 32 // warning tier: the key is plausible, nothing proves it
	identityNotRecognised  int8 = 97
	configurationApproved  int8 = 2  // known and approved
	configurationNotShown  int8 = 36 // elements relevant to security are unavailable to the verifier
	configurationUnsafe    int8 = 96 // exposes unacceptable vulnerabilities
	executablesApproved    int8 = 2  // approved ones only, during and after boot
	executablesApprovedNow int8 = 3  // approved ones only, during boot
	executablesUnknown     int8 = 33 // includes some that are not recognised
	executablesRefused     int8 = 96
	hardwareGenuine        int8 = 2
	hardwareVulnerable     int8 = 32 // genuine, but with known vulnerabilities
	hardwareNotGenuine     int8 = 96 // not genuine, or not to be trusted as it is run
	cryptographyFailed     int8 = 99 // cryptographic validation of the evidence has failed
)

// Context is what a result says beside the judgement itself.
type Context struct {
	TokenID   string // unique
	VerdictID string
	MachineID string
	Issuer    string // URL of this verifier; left out when empty
	Audience  string // whom the result is for; left out when empty
	Build     string // software and version, e.g. "assay 1.0.0"
	Nonce     []byte // of the quote, only where this verifier made it for this machine
	// RelyingNonce is the relying party's nonce, 8 to 88 characters of base64 or base64url, which is echoed as it is. It goes
	// before Nonce.
	RelyingNonce string
	IssuedAt     time.Time
	Lifetime     time.Duration // keep it near the attestation interval: a result is about a moment
}

// From builds the claims set of an appraisal. Its status is the appraisal's, or worse where the vector
// is worse (draft-fv-rats-ear-05, section 3.1), and never better. A nil appraisal gives status none.
func From(a *verifier.Appraisal, c Context) Claims {
	out := Claims{
		Profile:    Profile,
		Issuer:     c.Issuer,
		Subject:    c.MachineID,
		Audience:   c.Audience,
		ID:         c.TokenID,
		IssuedAt:   c.IssuedAt.Unix(),
		NotBefore:  c.IssuedAt.Unix(),
		VerdictID:  c.VerdictID,
		Expires:    c.IssuedAt.Add(c.Lifetime).Unix(),
		VerifierID: VerifierID{Build: c.Build, Developer: Developer},
	}
	switch {
	case c.RelyingNonce != "":
		out.Nonce = c.RelyingNonce
	case len(c.Nonce) > 0:
		out.Nonce = base64.RawURLEncoding.EncodeToString(c.Nonce)
	}
	submod := Submod{Status: verifier.None.String()}
	if a != nil {
		submod.Vector = vector(a)
		submod.Status = worse(a.Status, tier(submod.Vector)).String()
		submod.PolicyID = policyURN(a.Policy)
		submod.Claims = relying(a)
		if submod.Claims != nil && submod.Status == verifier.Contraindicated.String() && submod.Claims.Compliance != "" {
			submod.Claims.Compliance = "noncompliant"
		}
	}
	out.Submods = map[string]Submod{Submodule: submod}
	return out
}

// relying are the claims of genuine evidence.
func relying(a *verifier.Appraisal) *RelyingClaims {
	if !a.Genuine || a.Claims.Relying == nil {
		return nil
	}
	r := a.Claims.Relying
	return &RelyingClaims{SecureBoot: r.SecureBoot, Debug: r.Debug, TestSigning: r.TestSigning, TEEType: r.TEEType, Compliance: r.Compliance,
		VMID: r.VMID, TCB: r.TCB, TCBStatus: r.TCBStatus, Assurance: string(a.Assurance)}
}

// policyURN identifies the version of the policy that judged: "urn:uuid:<id>#<version>".
func policyURN(p verifier.VersionRef) string {
	if p.ID == "" {
		return ""
	}
	return "urn:uuid:" + p.ID + "#" + strconv.Itoa(p.Version)
}

// ClaimNames are the top-level claims of a result under Profile, as Discovery documents list them.
func ClaimNames() []string {
	return []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "eat_profile", "eat_nonce", "ear.verifier-id", "submods", "assay.verdict_id"}
}
