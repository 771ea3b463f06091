package bundle

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/assay-verifier/assay/verifier/chain"
)

// Outcome is what came of judging a verdict's evidence again.
type Outcome string

// The outcomes.
const (
	Agreed    Outcome = "agreed"     // the same judgement
	Differs   Outcome = "differs"    // another one
	NotJudged Outcome = "not_judged" // something that is needed is not in the bundle
)

// The kinds of faults. Each says that the bundle is not what the service recorded, or recorded what the engine does not find.
const (
	FaultUnreadable = "unreadable"       // an entry cannot be read
	FaultAltered    = "altered"          // an entry is not what its name, or the verdict, says: its content was changed or exchanged
	FaultHash       = "hash_wrong"       // a verdict's hash is not that of its content
	FaultPlace      = "out_of_place"     // a verdict is not where its folder says
	FaultMissing    = "verdict_missing"  // a verdict is missing from the chain
	FaultLink       = "link_broken"      // a verdict was not made after the one before it
	FaultRun        = "run_altered"      // the next verdict says otherwise of how long, and how often, this one held
	FaultCheckpoint = "checkpoint_wrong" // the checkpoint is not signed by a trusted key, or cannot be read
	FaultHead       = "head_wrong"       // the chain is another one than the checkpoint covers
	FaultJudgement  = "judgement_differs"
)

// Fault is one thing that is wrong, where, with what was expected and what was found.
type Fault struct {
	Kind     string `json:"kind"`
	Entry    string `json:"entry"`
	Detail   string `json:"detail"`
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found,omitempty"`
}

// Result is what is said of one verdict, or, without VerdictID, of a machine's chain or the whole bundle.
type Result struct {
	MachineID string  `json:"machine_id,omitempty"`
	Seq       int64   `json:"seq,omitempty"`
	VerdictID string  `json:"verdict_id,omitempty"`
	Status    string  `json:"status,omitempty"`
	Outcome   Outcome `json:"outcome,omitempty"`
	Why       string  `json:"why,omitempty"`  // of NotJudged, in words
	Note      string  `json:"note,omitempty"` // agreed, but not word by word
	Faults    []Fault `json:"faults,omitempty"`
}

// Summary counts what was found.
type Summary struct {
	// Of is what the bundle says that it holds: of one machine, or of a time, it need not hold more.
	Of        Header `json:"of"`
	Machines  int    `json:"machines"`
	Verdicts  int    `json:"verdicts"`
	Agreed    int    `json:"agreed"`
	Differ    int    `json:"differ"`
	NotJudged int    `json:"not_judged"`
	Faults    int    `json:"faults"`
	// Checkpoint is the statement that the chains were compared with; nil where the bundle has none. Covered are the verdicts that it
	// covers; Uncovered came after it.
	Checkpoint *chain.Checkpoint `json:"checkpoint"`
	Covered    int               `json:"covered"`
	Uncovered  int               `json:"uncovered"`
	// AllMachines tells that every machine of the checkpoint is in the bundle.
	AllMachines bool `json:"all_machines"`
}

// Check judges each verdict of a bundle again, follows the chains, and compares them with the checkpoint. verify verifies the signature of a
// checkpoint by keys that the caller trusts, and gives its payload. each is called with every verdict, and with whatever
// else is wrong; its error ends the check. The error is its, or of ctx.
func Check(ctx context.Context, r *Reader, verify func(jws string) (payload []byte, err error), each func(Result) error) (Summary, error) {
	c := &checker{ctx: ctx, r: r, each: each, judge: newJudge(ctx, r)}
	machines, verdicts := r.Counts()
	c.sum = Summary{Of: r.Header, Machines: machines, Verdicts: verdicts}
	if err := c.checkpoint(verify); err != nil {
		return c.sum, err
	}
	places := map[int64]bool{}
	for i := range r.machines {
		if err := c.machine(&r.machines[i], places); err != nil {
			return c.sum, err
		}
	}
	if p := c.sum.Checkpoint; p != nil {
		c.sum.AllMachines = int64(len(places)) == p.Verdicts.Machines
		if !c.sum.AllMachines && r.Header.Machine == "" && r.Header.Since == nil && r.Header.Until == nil {
			err := c.tell(Result{Faults: []Fault{{Kind: FaultMissing, Entry: "bundle.json", Detail: "the bundle claims to be of all machines, and some that the checkpoint covers are not in it",
				Expected: fmt.Sprint(p.Verdicts.Machines), Found: fmt.Sprint(len(places))}}})
			if err != nil {
				return c.sum, err
			}
		}
	}
	return c.sum, nil
}

type checker struct {
	ctx   context.Context
	r     *Reader
	each  func(Result) error
	judge *judge
	sum   Summary
}

func (c *checker) tell(r Result) error {
	switch r.Outcome {
	case Agreed:
		c.sum.Agreed++
	case Differs:
		c.sum.Differ++
	case NotJudged:
		c.sum.NotJudged++
	}
	c.sum.Faults += len(r.Faults)
	return c.each(r)
}

// checkpoint verifies the checkpoint, if there is one.
func (c *checker) checkpoint(verify func(string) ([]byte, error)) error {
	s, err := c.r.Checkpoint()
	if err == nil && s == nil {
		return nil
	}
	var said chain.Checkpoint
	if err == nil {
		var payload []byte
		if payload, err = verify(s.JWS); err == nil {
			said, err = chain.ParseCheckpoint(payload)
		}
	}
	if err == nil && said.TenantID != c.r.Header.TenantID {
		err = errors.New("it is of another tenant")
	}
	if err != nil {
		return c.tell(Result{Faults: []Fault{{Kind: FaultCheckpoint, Entry: "checkpoint.json", Detail: err.Error()}}})
	}
	c.sum.Checkpoint = &said
	return nil
}

// machine checks the verdicts of one machine.
func (c *checker) machine(m *machineEntries, places map[int64]bool) error {
	name := "machines/" + m.id + "/machine.json"
	var doc Machine
	if err := c.r.json(name, &doc); err != nil {
		return c.tell(Result{MachineID: m.id, Faults: []Fault{faultOf(err, FaultUnreadable, name)}})
	}
	var faults []Fault
	if doc.MachineID != m.id {
		faults = append(faults, Fault{Kind: FaultPlace, Entry: name, Detail: "it is of another machine", Expected: m.id, Found: doc.MachineID})
	}
	faults = append(faults, c.segment(m, &doc, name)...)
	head, wrong := c.proof(&doc, name, places)
	if faults = append(faults, wrong...); len(faults) > 0 {
		if err := c.tell(Result{MachineID: m.id, Faults: faults}); err != nil {
			return err
		}
	}
	var previous *Verdict
	for _, seq := range m.seqs {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		v, result := c.verdict(m.id, seq, previous, head)
		if err := c.tell(result); err != nil {
			return err
		}
		previous = v
	}
	return nil
}

// segment checks that the stretch of the chain which the machine's entry states is there without a gap.
func (c *checker) segment(m *machineEntries, doc *Machine, name string) (faults []Fault) {
	missing := func(from, to int64) {
		what := fmt.Sprint(from)
		if to > from {
			what = fmt.Sprintf("%d to %d", from, to)
		}
		faults = append(faults, Fault{Kind: FaultMissing, Entry: name, Detail: "verdict " + what + " of the machine's chain is missing", Expected: what})
	}
	if doc.From < 1 || doc.To < doc.From {
		return append(faults, Fault{Kind: FaultUnreadable, Entry: name, Detail: "the stretch of the chain that it states is not possible"})
	}
	next := doc.From
	for _, seq := range m.seqs {
		if seq > next {
			missing(next, seq-1)
		}
		next = seq + 1
	}
	if next <= doc.To {
		missing(next, doc.To)
	}
	if len(m.seqs) > 0 && (m.seqs[0] < doc.From || m.seqs[len(m.seqs)-1] > doc.To) {
		faults = append(faults, Fault{Kind: FaultPlace, Entry: name, Detail: "verdicts are in the bundle that the machine's entry does not state",
			Expected: fmt.Sprintf("%d to %d", doc.From, doc.To), Found: fmt.Sprintf("%d to %d", m.seqs[0], m.seqs[len(m.seqs)-1])})
	}
	return faults
}

// proof checks the machine's place in the checkpoint's tree, and gives the head that the chain must have had.
func (c *checker) proof(doc *Machine, name string, places map[int64]bool) (*chain.Head, []Fault) {
	p := doc.Proof
	if c.sum.Checkpoint == nil || p == nil {
		return nil, nil
	}
	wrong := func(detail string) (*chain.Head, []Fault) {
		return nil, []Fault{{Kind: FaultHead, Entry: name, Detail: detail}}
	}
	id, err := uuid.Parse(doc.MachineID)
	hash, hashErr := decodeHash(p.Hash)
	if err != nil || hashErr != nil || p.Seq < 1 || p.Size != c.sum.Checkpoint.Verdicts.Machines || len(p.Path) > 64 {
		return wrong("the proof that the checkpoint covers the machine is not possible")
	}
	path := make([]chain.Hash, len(p.Path))
	for i, text := range p.Path {
		if path[i], err = decodeHash(text); err != nil {
			return wrong("the proof that the checkpoint covers the machine holds what is no hash")
		}
	}
	head := &chain.Head{MachineID: id, Seq: p.Seq, Hash: hash}
	root, ok := chain.RootOf(head, p.Place, p.Size, path)
	if !ok || hex.EncodeToString(root[:]) != c.sum.Checkpoint.Verdicts.Root {
		return nil, []Fault{{Kind: FaultHead, Entry: name, Detail: "the machine's last verdict is not in the checkpoint's tree", Expected: c.sum.Checkpoint.Verdicts.Root, Found: hex.EncodeToString(root[:])}}
	}
	places[p.Place] = true
	if c.r.Header.Until == nil && p.Seq > doc.To { // nothing was left out at the end on purpose
		return head, []Fault{{Kind: FaultHead, Entry: name, Detail: "the checkpoint covers later verdicts of the machine than the bundle has", Expected: fmt.Sprint(p.Seq), Found: fmt.Sprint(doc.To)}}
	}
	return head, nil
}

func decodeHash(text string) (h chain.Hash, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != chain.Size {
		return h, errors.New("no SHA-256 in hexadecimal")
	}
	return chain.Hash(b), nil
}

// verdict checks one verdict: its place, its hash, its link, what it was judged with, and the judgement itself.
func (c *checker) verdict(machine string, seq int64, previous *Verdict, head *chain.Head) (*Verdict, Result) {
	folder := verdictFolder(machine, seq)
	result := Result{MachineID: machine, Seq: seq, Outcome: NotJudged, Why: "the verdict cannot be read"}
	fail := func(err error, entry string) (*Verdict, Result) {
		result.Faults = append(result.Faults, faultOf(err, FaultUnreadable, entry))
		return nil, result
	}
	var v Verdict
	if err := c.r.json(folder+"verdict.json", &v); err != nil {
		return fail(err, folder+"verdict.json")
	}
	result.VerdictID, result.Status = v.VerdictID, v.Status
	appraisal, err := c.r.read(folder + "appraisal.json")
	if err != nil {
		return fail(err, folder+"appraisal.json")
	}
	var judgedBy []byte
	if c.r.has(folder + "judged-by.json") {
		if judgedBy, err = c.r.read(folder + "judged-by.json"); err != nil {
			return fail(err, folder+"judged-by.json")
		}
	}
	link, err := v.link(c.r.Header.TenantID, appraisal, judgedBy)
	if err != nil {
		return fail(err, folder+"verdict.json")
	}
	result.Faults = c.linked(folder, machine, seq, &v, link, previous, head)
	if c.sum.Checkpoint != nil {
		if head != nil && seq <= head.Seq {
			c.sum.Covered++
		} else {
			c.sum.Uncovered++
		}
	}
	j := c.judge.verdict(folder, &v, link)
	result.Outcome, result.Why, result.Note = j.outcome, j.why, j.note
	result.Faults = append(result.Faults, j.faults...)
	return &v, result
}

// linked checks a verdict's place in the chain.
func (c *checker) linked(folder, machine string, seq int64, v *Verdict, link *chain.Verdict, previous *Verdict, head *chain.Head) (faults []Fault) {
	add := func(kind, detail, expected, found string) {
		faults = append(faults, Fault{Kind: kind, Entry: folder + "verdict.json", Detail: detail, Expected: expected, Found: found})
	}
	if v.Seq != seq || v.MachineID != machine {
		add(FaultPlace, "the verdict is in the place of another one", fmt.Sprintf("%s %d", machine, seq), fmt.Sprintf("%s %d", v.MachineID, v.Seq))
	}
	hash := link.Hash()
	found := hex.EncodeToString(hash[:])
	if found != v.Hash {
		add(FaultHash, "the verdict's hash is not that of its content: it was altered after it was written", v.Hash, found)
	}
	if head != nil && seq == head.Seq && hex.EncodeToString(head.Hash[:]) != v.Hash {
		add(FaultHead, "this is not the verdict that the checkpoint covers", hex.EncodeToString(head.Hash[:]), v.Hash)
	}
	switch {
	case seq == 1 && v.PrevHash != "":
		add(FaultLink, "the first verdict of a chain has none before it", "", v.PrevHash)
	case previous == nil || previous.Seq != seq-1: // the stretch begins here, or what is missing has been said
	case v.PrevHash != previous.Hash:
		add(FaultLink, "the verdict was made after another one than the one before it", previous.Hash, v.PrevHash)
	case v.PreviousLastAt == nil || v.PreviousCount == nil || chain.Time(*v.PreviousLastAt) != chain.Time(previous.LastAt) || *v.PreviousCount != previous.Count:
		add(FaultRun, "how long, and how often, the verdict before this one held was altered", runOf(v.PreviousLastAt, v.PreviousCount), runOf(&previous.LastAt, &previous.Count))
	}
	return faults
}

// faultOf is a fault out of an error of the reader.
func faultOf(err error, kind, entry string) Fault {
	var e *Error
	if errors.As(err, &e) {
		return Fault{Kind: kind, Entry: entry, Detail: e.Detail}
	}
	return Fault{Kind: kind, Entry: entry, Detail: err.Error()}
}
