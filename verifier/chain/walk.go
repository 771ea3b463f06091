package chain

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// The kinds of faults of an audit chain.
const (
	FaultMissing    = "event_missing"      // an event of the chain is not there
	FaultBeginning  = "beginning_missing"  // the oldest events are not there
	FaultHash       = "hash_wrong"         // an event's hash is not that of its content
	FaultLink       = "link_broken"        // an event was not made after the one before it
	FaultEarlier    = "earlier_wrong"      // the events from before the chain are others than the chain states
	FaultCheckpoint = "checkpoint_differs" // the chain is another one than a checkpoint covers
	FaultVerdicts   = "verdict_root_wrong" // the verdicts of the chain are others than a checkpoint covers
	FaultEnd        = "end_missing"        // the chain ends before a checkpoint's last event
)

// Fault is what is wrong with a chain, at which event, with what was expected and what was found.
type Fault struct {
	Kind     string `json:"kind"`
	Seq      int64  `json:"seq"`
	EventID  string `json:"event_id,omitempty"`
	Detail   string `json:"detail"`
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found,omitempty"`
}

// Error implements error.
func (f *Fault) Error() string {
	text := fmt.Sprintf("event %d: %s", f.Seq, f.Detail)
	if f.Expected != "" || f.Found != "" {
		text += fmt.Sprintf("; expected %s, found %s", f.Expected, f.Found)
	}
	return text
}

// Walk checks the audit events of a tenant, handed to it in ascending order of seq, against one another and against checkpoints
// whose signatures the caller has verified. It holds a head for each machine, and no event.
type Walk struct {
	// Trimmed lets a chain begin later than with its first event: the oldest were deleted, as retention does. What they were is
	// then covered by the hash that the first event states, and by checkpoints alone.
	Trimmed bool

	checkpoints []Checkpoint // ascending by the event that they reach
	last        Hash         // of the event before; zeros before the first
	lastSeq     int64
	wanted      *Hash // what the next event from before the chain has to be
	oldest      Hash  // of the oldest event from before the chain
	oldestSeq   int64 // 0 for none
	heads       map[[16]byte]Head
	unknown     map[[16]byte]struct{} // machines whose head is not known, since the release before wrote their last verdict
	begun       int64

	// Events and Checked count what was compared; Rooted the checkpoints whose tree was computed.
	Events, Checked, Rooted int64
	// EarlierCovered tells that the chain states the events from before it.
	EarlierCovered bool
}

// NewWalk begins at the oldest event.
func NewWalk(checkpoints []Checkpoint) *Walk {
	w := &Walk{checkpoints: slices.Clone(checkpoints), heads: map[[16]byte]Head{}, unknown: map[[16]byte]struct{}{}}
	slices.SortStableFunc(w.checkpoints, func(a, b Checkpoint) int { return int(a.Audit.Seq - b.Audit.Seq) })
	return w
}

// Begun is the seq of the first event from 1 on; 0 for none.
func (w *Walk) Begun() int64 { return w.begun }

// Last is the last event's seq.
func (w *Walk) Last() int64 { return w.lastSeq }

// Next checks the next event, of which stated is the hash that came with it. The first fault is the end: what comes after it
// proves nothing.
func (w *Walk) Next(e *Event, stated Hash) *Fault {
	fault := func(kind, detail, expected, found string) *Fault {
		return &Fault{Kind: kind, Seq: e.Seq, EventID: e.EventID, Detail: detail, Expected: expected, Found: found}
	}
	hash := e.Hash()
	if hash != stated {
		return fault(FaultHash, "its hash is not that of its content: it was altered after it was written", hex.EncodeToString(stated[:]), hex.EncodeToString(hash[:]))
	}
	w.Events++
	if e.Seq < 0 {
		return w.earlier(e, hash, fault)
	}
	if w.begun == 0 {
		if w.wanted != nil && *w.wanted != (Hash{}) {
			return fault(FaultMissing, "the newest events from before the chain are missing", fmt.Sprint(w.lastSeq+1), fmt.Sprint(e.Seq))
		}
		w.begun, w.lastSeq = e.Seq, e.Seq-1
		if e.Seq != 1 {
			if !w.Trimmed {
				return fault(FaultBeginning, "the events before it are missing: retention has deleted them, or somebody has dropped them", "1", fmt.Sprint(e.Seq))
			}
			w.last = e.PrevHash
		}
	}
	switch {
	case e.Seq != w.lastSeq+1:
		return fault(FaultMissing, "events are missing before it", fmt.Sprint(w.lastSeq+1), fmt.Sprint(e.Seq))
	case e.PrevHash != w.last:
		return fault(FaultLink, "it was written after another event than the one before it", hex.EncodeToString(w.last[:]), hex.EncodeToString(e.PrevHash[:]))
	}
	w.last, w.lastSeq = hash, e.Seq
	if f := w.content(e, fault); f != nil {
		return f
	}
	return w.reached(e, hash, fault)
}

// earlier checks an event from before the chain: the oldest comes first, and is linked to the next newer one.
func (w *Walk) earlier(e *Event, hash Hash, fault func(kind, detail, expected, found string) *Fault) *Fault {
	switch {
	case w.oldestSeq == 0:
		w.oldest, w.oldestSeq = hash, e.Seq
	case e.Seq != w.lastSeq+1:
		return fault(FaultMissing, "events from before the chain are missing before it", fmt.Sprint(w.lastSeq+1), fmt.Sprint(e.Seq))
	case hash != *w.wanted:
		return fault(FaultLink, "it is another event than the one that the event before it is linked to", hex.EncodeToString(w.wanted[:]), hex.EncodeToString(hash[:]))
	}
	previous := e.PrevHash
	w.wanted, w.lastSeq = &previous, e.Seq
	return nil
}

// content looks at the events that say something about other chains.
func (w *Walk) content(e *Event, fault func(kind, detail, expected, found string) *Fault) *Fault {
	if e.After == nil {
		return nil
	}
	var said struct {
		Seq  int64  `json:"seq"`
		Hash string `json:"hash"`
	}
	switch e.Action {
	case "audit.earlier_chained":
		if err := json.Unmarshal([]byte(*e.After), &said); err != nil || said.Seq != w.oldestSeq || said.Hash != hex.EncodeToString(w.oldest[:]) {
			return fault(FaultEarlier, "the events from before the chain are not those that it states", fmt.Sprintf("%d %s", said.Seq, said.Hash), fmt.Sprintf("%d %x", w.oldestSeq, w.oldest))
		}
		w.EarlierCovered = true
	case "verdict.change":
		id, err := uuid.Parse(strings.TrimPrefix(e.Target, "machine:"))
		if err != nil || json.Unmarshal([]byte(*e.After), &said) != nil {
			return nil //nolint:nilerr // it is no event of ours; its hash is checked all the same
		}
		b, err := hex.DecodeString(said.Hash)
		if err != nil || len(b) != Size {
			w.unknown[id] = struct{}{}
			return nil //nolint:nilerr // the release before did not say it
		}
		delete(w.unknown, id)
		w.heads[id] = Head{MachineID: id, Seq: said.Seq, Hash: Hash(b)}
	}
	return nil
}

// reached compares with the checkpoints that reach to this event.
func (w *Walk) reached(e *Event, hash Hash, fault func(kind, detail, expected, found string) *Fault) *Fault {
	for len(w.checkpoints) > 0 && w.checkpoints[0].Audit.Seq <= e.Seq {
		c := w.checkpoints[0]
		w.checkpoints = w.checkpoints[1:]
		if c.Audit.Seq < e.Seq { // before the first event that is here
			continue
		}
		if found := hex.EncodeToString(hash[:]); found != c.Audit.Hash {
			return fault(FaultCheckpoint, fmt.Sprintf("checkpoint %d covers another event in its place", c.Number), c.Audit.Hash, found)
		}
		w.Checked++
		if w.begun != 1 || len(w.unknown) > 0 || len(w.checkpoints) > keepRooting && w.Checked%rootEvery != 0 {
			continue
		}
		w.Rooted++
		if root := hex.EncodeToString(w.root()); root != c.Verdicts.Root {
			return fault(FaultVerdicts, fmt.Sprintf("the last verdicts of the machines, as the events tell them, are not those that checkpoint %d covers", c.Number), c.Verdicts.Root, root)
		}
	}
	return nil
}

// Trees take time for each machine: of many checkpoints every hundredth is compared with its tree, and the last ones.
const (
	keepRooting = 3
	rootEvery   = 100
)

func (w *Walk) root() []byte {
	ids := make([][16]byte, 0, len(w.heads))
	for id := range w.heads {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) })
	var heads Heads
	for _, id := range ids {
		h := w.heads[id]
		heads = h.Append(heads)
	}
	root := heads.Root()
	return root[:]
}

// End tells what is missing at the end: nil for nothing.
func (w *Walk) End() *Fault {
	for _, c := range w.checkpoints {
		if c.Audit.Seq > w.lastSeq {
			return &Fault{Kind: FaultEnd, Seq: w.lastSeq, Detail: fmt.Sprintf("the chain ends here, and checkpoint %d covers more", c.Number), Expected: fmt.Sprint(c.Audit.Seq), Found: fmt.Sprint(w.lastSeq)}
		}
	}
	if w.begun == 0 && w.wanted != nil && *w.wanted != (Hash{}) {
		return &Fault{Kind: FaultMissing, Seq: w.lastSeq, Detail: "the newest events from before the chain are missing"}
	}
	return nil
}
