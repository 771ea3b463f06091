package chain

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
)

// Head is the last verdict of a machine.
type Head struct {
	MachineID [16]byte
	Seq       int64
	Hash      Hash
}

// HeadSize is the length of a head as a leaf of the tree.
const HeadSize = 16 + 8 + Size

// Append writes the head as a leaf: machine id, seq as 8 bytes big-endian, hash.
func (h *Head) Append(b []byte) []byte {
	b = append(b, h.MachineID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Seq))
	return append(b, h.Hash[:]...)
}

// Heads are leaves, one after the other, in the order of the machines' ids.
type Heads []byte

// Len is their number.
func (h Heads) Len() int { return len(h) / HeadSize }

// At is one of them.
func (h Heads) At(i int) Head {
	leaf := h.leaf(i)
	return Head{MachineID: [16]byte(leaf[:16]), Seq: int64(binary.BigEndian.Uint64(leaf[16:24])), Hash: Hash(leaf[24:])}
}

func (h Heads) leaf(i int) []byte { return h[i*HeadSize : (i+1)*HeadSize] }

// Find is the place of a machine among them; ok is false where it has none.
func (h Heads) Find(machine [16]byte) (place int, ok bool) {
	low, high := 0, h.Len()
	for low < high {
		mid := (low + high) / 2
		switch bytes.Compare(h.leaf(mid)[:16], machine[:]) {
		case 0:
			return mid, true
		case -1:
			low = mid + 1
		default:
			high = mid
		}
	}
	return 0, false
}

// Check tells whether they are whole leaves in strict order.
func (h Heads) Check() error {
	if len(h)%HeadSize != 0 {
		return errors.New("the heads are no whole number of leaves")
	}
	for i := 1; i < h.Len(); i++ {
		if bytes.Compare(h.leaf(i - 1)[:16], h.leaf(i)[:16]) >= 0 {
			return errors.New("the heads are not in the order of the machines' ids")
		}
	}
	return nil
}

// Root is the Merkle tree hash of the leaves (RFC 9162, section 2.1.1). Of none it is the hash of nothing.
func (h Heads) Root() Hash { return NewTree(h).Root() }

// Tree is a Merkle tree over heads. A node without a sibling stands for its parent, which gives the tree of RFC 9162.
type Tree struct{ levels [][]Hash }

// NewTree hashes the leaves; it takes 64 bytes a leaf.
func NewTree(h Heads) *Tree {
	level := make([]Hash, h.Len())
	for i := range level {
		level[i] = leafHash(h.leaf(i))
	}
	t := &Tree{levels: [][]Hash{level}}
	for len(level) > 1 {
		next := make([]Hash, 0, (len(level)+1)/2)
		for i := 0; i+1 < len(level); i += 2 {
			next = append(next, nodeHash(level[i], level[i+1]))
		}
		if len(level)%2 == 1 {
			next = append(next, level[len(level)-1])
		}
		t.levels = append(t.levels, next)
		level = next
	}
	return t
}

// Root is the hash of the whole tree.
func (t *Tree) Root() Hash {
	top := t.levels[len(t.levels)-1]
	if len(top) == 0 {
		return sha256.Sum256(nil)
	}
	return top[0]
}

// Path proves that leaf i is in the tree (RFC 9162, section 2.1.3.1), lowest first.
func (t *Tree) Path(i int) []Hash {
	path := []Hash{}
	for _, level := range t.levels[:len(t.levels)-1] {
		if sibling := i ^ 1; sibling < len(level) {
			path = append(path, level[sibling])
		}
		i /= 2
	}
	return path
}

// RootOf is the root that a head at a place among size leaves leads to along a path (RFC 9162, section 2.1.3.2); ok is false
// where the path has not the length that it must have.
func RootOf(h *Head, place, size int64, path []Hash) (root Hash, ok bool) {
	if place < 0 || place >= size {
		return root, false
	}
	root = leafHash(h.Append(nil))
	fn, sn := uint64(place), uint64(size-1)
	for _, p := range path {
		if sn == 0 {
			return root, false
		}
		if fn&1 == 1 || fn == sn {
			root = nodeHash(p, root)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			root = nodeHash(root, p)
		}
		fn, sn = fn>>1, sn>>1
	}
	return root, sn == 0
}

func leafHash(leaf []byte) Hash {
	var buf [1 + HeadSize]byte
	copy(buf[1:], leaf)
	return sha256.Sum256(buf[:])
}

func nodeHash(left, right Hash) Hash {
	var buf [1 + 2*Size]byte
	buf[0] = 1
	copy(buf[1:], left[:])
	copy(buf[1+Size:], right[:])
	return sha256.Sum256(buf[:])
}
