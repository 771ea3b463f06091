package bundle

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"github.com/assay-verifier/assay/verifier/chain"
)

// Format is the version of the archive.
const Format = "assay-bundle-v1"

// Header is bundle.json.
type Header struct {
	Format   string `json:"format"`
	TenantID string `json:"tenant_id"`
	// Machine, Since and Until are what was asked for; absent where nothing was.
	Machine string     `json:"machine_id,omitempty"`
	Since   *time.Time `json:"since,omitempty"`
	Until   *time.Time `json:"until,omitempty"`
}

// Signed is checkpoint.json, and what `assay audit checkpoint export` writes: a checkpoint, and the public key that it can be checked
// with by whoever trusts the file.
type Signed struct {
	JWS string          `json:"jws"`
	JWK json.RawMessage `json:"jwk"`
}

// Machine is machine.json.
type Machine struct {
	MachineID string `json:"machine_id"`
	Name      string `json:"name"`
	Earlier   int64  `json:"verdicts_before_chain"`
	From      int64  `json:"first_seq"`
	To        int64  `json:"last_seq"`
	// Proof is the machine's place in the checkpoint's tree; null where there is no checkpoint, or it is not in it.
	Proof *Proof `json:"proof"`
}

// Proof is a Merkle audit path (RFC 9162, section 2.1.3).
type Proof struct {
	Place int64    `json:"place"` // of the leaf, from 0
	Size  int64    `json:"size"`  // leaves of the tree
	Seq   int64    `json:"seq"`   // of the machine's last verdict at the checkpoint
	Hash  string   `json:"hash"`  // of that verdict
	Path  []string `json:"path"`
}

// Verdict is verdict.json.
type Verdict struct {
	VerdictID      string     `json:"verdict_id"`
	MachineID      string     `json:"machine_id"`
	Seq            int64      `json:"seq"`
	Earlier        *int64     `json:"verdicts_before_chain,omitempty"`
	Status         string     `json:"status"`
	Reason         string     `json:"reason"`
	Assurance      string     `json:"assurance"`
	Genuine        bool       `json:"genuine"`
	FirstAt        time.Time  `json:"first_at"`
	KeyID          string     `json:"key_id,omitempty"`
	Trigger        string     `json:"trigger,omitempty"`
	EventLogDigest string     `json:"event_log_sha256,omitempty"`
	EvidenceDigest string     `json:"evidence_sha256,omitempty"`
	EvidenceType   string     `json:"evidence_content_type,omitempty"`
	Supersedes     string     `json:"supersedes,omitempty"`
	EvidenceID     string     `json:"evidence_of,omitempty"`
	ReappraisalID  string     `json:"reappraisal_id,omitempty"`
	PreviousLastAt *time.Time `json:"previous_last_at,omitempty"`
	PreviousCount  *int64     `json:"previous_count,omitempty"`
	PrevHash       string     `json:"prev_hash,omitempty"`
	Hash           string     `json:"hash"`
	// Not hashed: LastAt and Count become part of the next verdict's hash.
	LastAt       time.Time `json:"last_at"`
	Count        int64     `json:"count"`
	SupersededBy string    `json:"superseded_by,omitempty"`
}

// newVerdict writes a verdict of the chain as an entry.
func newVerdict(c *chain.Verdict, hash []byte) Verdict {
	v := Verdict{VerdictID: c.VerdictID, MachineID: c.MachineID, Seq: c.Seq, Status: c.Status, Reason: c.Reason, Assurance: c.Assurance, Genuine: c.Genuine,
		FirstAt: c.FirstAt.UTC(), KeyID: c.KeyID, Trigger: c.Trigger, EventLogDigest: hex.EncodeToString(c.EventLogDigest), EvidenceDigest: hex.EncodeToString(c.EvidenceDigest),
		Supersedes: c.Supersedes, EvidenceID: c.EvidenceID, ReappraisalID: c.ReappraisalID, PrevHash: hex.EncodeToString(c.PrevHash), Hash: hex.EncodeToString(hash)}
	if c.Seq == 1 {
		v.Earlier = &c.Earlier
	} else {
		at := c.PreviousLastAt.UTC()
		v.PreviousLastAt, v.PreviousCount = &at, &c.PreviousCount
	}
	return v
}

// link is the verdict as it is hashed.
func (v *Verdict) link(tenant string, appraisal, judgedBy []byte) (*chain.Verdict, error) {
	c := &chain.Verdict{TenantID: tenant, MachineID: v.MachineID, VerdictID: v.VerdictID, Seq: v.Seq, Status: v.Status, Reason: v.Reason, Assurance: v.Assurance,
		Genuine: v.Genuine, FirstAt: v.FirstAt, KeyID: v.KeyID, Trigger: v.Trigger, Appraisal: appraisal, JudgedBy: judgedBy,
		Supersedes: v.Supersedes, EvidenceID: v.EvidenceID, ReappraisalID: v.ReappraisalID}
	if v.Earlier != nil {
		c.Earlier = *v.Earlier
	}
	if v.PreviousLastAt != nil {
		c.PreviousLastAt = *v.PreviousLastAt
	}
	if v.PreviousCount != nil {
		c.PreviousCount = *v.PreviousCount
	}
	for _, part := range []struct {
		text string
		into *[]byte
	}{{v.EventLogDigest, &c.EventLogDigest}, {v.EvidenceDigest, &c.EvidenceDigest}, {v.PrevHash, &c.PrevHash}} {
		if part.text == "" {
			continue
		}
		b, err := hex.DecodeString(part.text)
		if err != nil || len(b) != chain.Size {
			return nil, fmt.Errorf("%.80q is no SHA-256 in hexadecimal", part.text)
		}
		*part.into = b
	}
	return c, nil
}

// The kinds of entries that are named by their content, as folders.
const (
	folderLogs       = "event-logs/"
	folderReferences = "reference-values/"
	folderPlatforms  = "platform-evidence/"
	folderCollateral = "collateral/"
	folderAnchors    = "anchors/"
)

const uuidPattern = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`

// entryKinds are all entries that there may be, with the most that one may hold in bytes.
var entryKinds = []struct {
	name  *regexp.Regexp
	limit uint64
}{
	{regexp.MustCompile(`^(bundle|checkpoint)\.json$`), 256 << 10},
	{regexp.MustCompile(`^machines/` + uuidPattern + `/machine\.json$`), 64 << 10},
	{regexp.MustCompile(`^machines/` + uuidPattern + `/[0-9]{12}/verdict\.json$`), 64 << 10},
	{regexp.MustCompile(`^machines/` + uuidPattern + `/[0-9]{12}/(appraisal|judged-by)\.json$`), 32 << 20},
	{regexp.MustCompile(`^machines/` + uuidPattern + `/[0-9]{12}/evidence$`), 64 << 20},
	{regexp.MustCompile(`^(event-logs/[0-9a-f]{64}|(reference-values|platform-evidence|collateral)/[0-9a-f]{64}\.json)$`), 64 << 20},
	{regexp.MustCompile(`^anchors/[0-9a-f]{64}\.der$`), 64 << 10},
}

func verdictFolder(machine string, seq int64) string {
	return fmt.Sprintf("machines/%s/%012d/", machine, seq)
}
