package chain_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/verifier/chain"
)

var at = time.Date(2026, 11, 25, 12, 0, 0, 123456789, time.UTC)

// The bytes that are hashed, written out as the documentation has them, so that somebody who reads it gets the same.
func TestHashesAreThoseOfTheDocumentation(t *testing.T) {
	after := `{"a": "ä"}`
	e := chain.Event{TenantID: "t", EventID: "e", Seq: 1, At: at, ActorKind: "admin", ActorID: "1", Action: "a.b", Target: "x:1", After: &after}
	sum := sha256.Sum256([]byte("20:assay-audit-event-v1,64:" + strings.Repeat("0", 64) + ",1:t,1:1,1:e,27:2026-11-25T12:00:00.123456Z,5:admin,1:1,0:,0:,3:a.b,3:x:1,-,11:" + after + ","))
	if e.Hash() != sum {
		t.Error("an audit event is hashed otherwise")
	}
	hash := func(s string) string { x := sha256.Sum256([]byte(s)); return "64:" + hex.EncodeToString(x[:]) + "," }
	v := chain.Verdict{TenantID: "t", MachineID: "m", VerdictID: "v", Seq: 1, Earlier: 7, Status: "none", FirstAt: at, Appraisal: []byte("{}"), Supersedes: "not hashed"}
	sum = sha256.Sum256([]byte("16:assay-verdict-v1,-,1:t,1:m,1:1,1:7,1:v,4:none,0:,0:,5:false,27:2026-11-25T12:00:00.123456Z,-,-," + hash("{}") + "-,-,-,-,-,-,-,-,"))
	if v.Hash() != sum {
		t.Error("a first verdict is hashed otherwise")
	}
	v = chain.Verdict{TenantID: "t", MachineID: "m", VerdictID: "v", Seq: 2, Status: "affirming", Reason: "r", Assurance: "a", Genuine: true, FirstAt: at, KeyID: "k", Trigger: "boot",
		Appraisal: []byte("{}"), JudgedBy: []byte("[]"), EventLogDigest: []byte{1}, EvidenceDigest: []byte{2}, Supersedes: "s", EvidenceID: "e", ReappraisalID: "p",
		PreviousLastAt: at, PreviousCount: 3, PrevHash: []byte{3}}
	sum = sha256.Sum256([]byte("16:assay-verdict-v1,2:03,1:t,1:m,1:2,-,1:v,9:affirming,1:r,1:a,4:true,27:2026-11-25T12:00:00.123456Z,1:k,4:boot," + hash("{}") + hash("[]") +
		"2:01,2:02,1:s,1:e,1:p,27:2026-11-25T12:00:00.123456Z,1:3,"))
	if v.Hash() != sum {
		t.Error("a second verdict is hashed otherwise")
	}
}

// naive is the tree hash as RFC 9162, section 2.1.1, defines it.
func naive(h chain.Heads, from, to int) chain.Hash {
	n := to - from
	switch n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		head := h.At(from)
		return sha256.Sum256(head.Append([]byte{0}))
	}
	k := 1
	for k*2 < n {
		k *= 2
	}
	left, right := naive(h, from, from+k), naive(h, from+k, to)
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

func heads(n int) (out chain.Heads) {
	for i := range n {
		h := chain.Head{Seq: int64(i + 1), Hash: sha256.Sum256([]byte{byte(i)})}
		h.MachineID[14], h.MachineID[15] = byte(i>>8), byte(i)
		out = h.Append(out)
	}
	return out
}

func TestTree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := heads(rapid.IntRange(1, 70).Draw(t, "n"))
		if err := h.Check(); err != nil {
			t.Fatal(err)
		}
		tree := chain.NewTree(h)
		if tree.Root() != naive(h, 0, h.Len()) {
			t.Fatal("the root is not that of RFC 9162")
		}
		i := rapid.IntRange(0, h.Len()-1).Draw(t, "i")
		head, path := h.At(i), tree.Path(i)
		if place, ok := h.Find(head.MachineID); !ok || place != i {
			t.Fatalf("machine %d is found at %d", i, place)
		}
		if root, ok := chain.RootOf(&head, int64(i), int64(h.Len()), path); !ok || root != tree.Root() {
			t.Fatal("the path does not lead to the root")
		}
		// Nothing else does.
		other := head
		other.Seq++
		if root, ok := chain.RootOf(&other, int64(i), int64(h.Len()), path); ok && root == tree.Root() {
			t.Fatal("another head leads there too")
		}
		j := rapid.IntRange(-1, h.Len()).Draw(t, "j")
		if root, ok := chain.RootOf(&head, int64(j), int64(h.Len()), path); j != i && ok && root == tree.Root() {
			t.Fatal("another place leads there too")
		}
		if _, ok := chain.RootOf(&head, int64(i), int64(h.Len()), append(path, chain.Hash{})); ok {
			t.Fatal("a longer path is taken")
		}
	})
	if heads(0).Root() != sha256.Sum256(nil) {
		t.Error("the root of nothing")
	}
	if err := append(heads(2), heads(1)...).Check(); err == nil {
		t.Error("heads out of order are taken")
	}
	if _, ok := heads(5).Find([16]byte{9}); ok {
		t.Error("a machine is found that is not there")
	}
}

type event struct {
	chain.Event
	hash chain.Hash
}

// record is a chain with events from before it, verdicts of machines, and a checkpoint after each five.
func record(t testing.TB, earlier, n int) (events []event, checkpoints []chain.Checkpoint) {
	t.Helper()
	var last chain.Hash
	for i := range earlier {
		e := event{Event: chain.Event{TenantID: "t", EventID: fmt.Sprint("old", i), Seq: int64(-1 - i), At: at, Action: "old", PrevHash: last}}
		e.hash = e.Hash()
		last = e.hash
		events = append([]event{e}, events...)
	}
	committed := fmt.Sprintf(`{"events":%d,"seq":%d,"hash":"%x"}`, earlier, -earlier, last)
	last = chain.Hash{}
	var h chain.Heads
	for i := range n {
		e := event{Event: chain.Event{TenantID: "t", EventID: fmt.Sprint("e", i), Seq: int64(i + 1), At: at, Action: "x.y", PrevHash: last}}
		switch {
		case i == 2 && earlier > 0:
			e.Action, e.After = "audit.earlier_chained", &committed
		case i%2 == 1:
			head := chain.Head{Seq: 1, Hash: sha256.Sum256([]byte{byte(i)})}
			head.MachineID[15] = byte(i)
			h = head.Append(h)
			said := fmt.Sprintf(`{"seq":1,"hash":"%x"}`, head.Hash)
			e.Action, e.After, e.Target = "verdict.change", &said, fmt.Sprintf("machine:00000000-0000-0000-0000-0000000000%02x", i)
		}
		e.hash = e.Hash()
		last = e.hash
		events = append(events, e)
		if i%5 == 4 {
			c := chain.NewCheckpoint("t", "c", at)
			c.Number, c.Audit.Seq, c.Audit.Hash = int64(i/5+1), e.Seq, hex.EncodeToString(last[:])
			root := h.Root()
			c.Verdicts.Machines, c.Verdicts.Root = int64(h.Len()), hex.EncodeToString(root[:])
			checkpoints = append(checkpoints, c)
		}
	}
	return events, checkpoints
}

func walk(events []event, checkpoints []chain.Checkpoint, trimmed bool) (*chain.Walk, *chain.Fault) {
	w := chain.NewWalk(checkpoints)
	w.Trimmed = trimmed
	for i := range events {
		if f := w.Next(&events[i].Event, events[i].hash); f != nil {
			return w, f
		}
	}
	return w, w.End()
}

// Each kind of change of a record is found at the first event that shows it.
func TestWalk(t *testing.T) {
	fresh := func() ([]event, []chain.Checkpoint) { return record(t, 4, 12) }
	events, checkpoints := fresh()
	w, fault := walk(events, checkpoints, false)
	if fault != nil || w.Events != 16 || w.Checked != 2 || w.Rooted != 2 || !w.EarlierCovered || w.Begun() != 1 || w.Last() != 12 {
		t.Fatalf("%+v, %v", w, fault)
	}
	const first = 4                               // of the chain
	rehash := func(e []event, from int) []event { // as somebody can who has the database
		for i := from; i < len(e); i++ {
			if i > first {
				e[i].PrevHash = e[i-1].hash
			}
			e[i].hash = e[i].Hash()
		}
		return e
	}
	for name, c := range map[string]struct {
		tamper  func([]event, []chain.Checkpoint) ([]event, []chain.Checkpoint)
		kind    string
		seq     int64
		trimmed bool
	}{
		"altered": {func(e []event, c []chain.Checkpoint) ([]event, []chain.Checkpoint) {
			e[first+3].ActorID = "somebody else"
			return e, c
		}, chain.FaultHash, 4, false},
		"altered and hashed": {func(e []event, c []chain.Checkpoint) ([]event, []chain.Checkpoint) {
			e[first+3].ActorID = "x"
			e[first+3].hash = e[first+3].Hash()
			return e, c
		}, chain.FaultLink, 5, false},
		"made anew": {func(e []event, c []chain.Checkpoint) ([]event, []chain.Checkpoint) {
			e[first+3].ActorID = "x"
			return rehash(e, first+3), c
		}, chain.FaultCheckpoint, 5, false},
		"dropped": {func(e []event, c []chain.Checkpoint) ([]event, []chain.Checkpoint) {
			return append(e[:first+3:first+3], e[first+4:]...), c
		}, chain.FaultMissing, 5, false},
		"dropped at the end":       {func(e []event, c []chain.Checkpoint) ([]event, []chain.Checkpoint) { return e[:first+9], c }, chain.FaultEnd, 9, false},
		"dropped at the beginning": {func(e []event, c []chain.Checkpoint) ([]event, []chain.Checkpoint) { return e[first+2:], c }, chain.FaultBeginning, 3, false},
		"exchanged": {func(e []event, c []chain.Checkpoint) ([]event, []chain.Checkpoint) {
			e[first+3], e[first+4] = e[first+4], e[first+3]
			return e, c
		}, chain.FaultMissing, 5, false},
		"an earlier one altered": {func(e []event, c []chain.Checkpoint) ([]event, []chain.Checkpoint) {
			e[1].ActorID = "x"
			e[1].hash = e[1].Hash()
			return e, c
		}, chain.FaultLink, -3, false},
		"the oldest dropped": {func(e []event, c []chain.Checkpoint) ([]event, []chain.Checkpoint) { return e[1:], c }, chain.FaultEarlier, 3, false},
		"a newer old one dropped": {func(e []event, c []chain.Checkpoint) ([]event, []chain.Checkpoint) {
			return append(e[:3:3], e[4:]...), c
		}, chain.FaultMissing, 1, false},
		"a verdict made anew": {func(e []event, c []chain.Checkpoint) ([]event, []chain.Checkpoint) {
			said := fmt.Sprintf(`{"seq":1,"hash":"%064x"}`, 1)
			e[first+1].After = &said
			e = rehash(e, first+1)
			c[0].Audit.Hash, c[1].Audit.Hash = hex.EncodeToString(e[first+4].hash[:]), hex.EncodeToString(e[first+9].hash[:])
			return e, c
		}, chain.FaultVerdicts, 5, false},
	} {
		e, k := c.tamper(fresh())
		if _, fault := walk(e, k, c.trimmed); fault == nil || fault.Kind != c.kind || fault.Seq != c.seq {
			t.Errorf("%s: %+v, want %s at %d", name, fault, c.kind, c.seq)
		}
	}
	events, checkpoints = fresh()
	if w, fault := walk(events[first+3:], checkpoints, true); fault != nil || w.Checked != 2 || w.Rooted != 0 || w.Begun() != 4 {
		t.Errorf("trimmed by retention: %+v, %v", w, fault)
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add([]byte(`{"format":"assay-checkpoint-v1","tenant_id":"t","checkpoint_id":"c","number":1,"at":"x","audit":{"seq":0,"hash":"` + strings.Repeat("0", 64) + `"},"verdicts":{"machines":0,"count":0,"root":"` + strings.Repeat("0", 64) + `"},"previous":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := chain.ParseCheckpoint(b)
		if err == nil && (c.Number < 1 || len(c.Audit.Hash) != 64) {
			t.Errorf("%+v", c)
		}
	})
}
