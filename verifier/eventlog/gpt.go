package eventlog

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Partition is one entry of a GUID partition table.
type Partition struct {
	Type  string `json:"type"` // GUID
	ID    string `json:"id"`   // GUID
	Name  string `json:"name,omitempty"`
	First uint64 `json:"first_block"`
	Last  uint64 `json:"last_block"`
}

// PartitionTable is the GUID partition table of the disk that was booted from.
type PartitionTable struct {
	Disk       string      `json:"disk"` // GUID
	Partitions []Partition `json:"partitions"`

	exact bool // nothing follows the last entry
}

const gptHeaderSize = 92

// maxPartitions is the most partitions that a claim lists.
const maxPartitions = 128

func isGPT(data []byte) bool {
	return len(data) >= gptHeaderSize+8 && bytes.HasPrefix(data, []byte("EFI PART"))
}

// parseGPT reads a UEFI_GPT_DATA (PFP 1.06, section 10.2.7): the GPT header of 92 bytes, the number of
// entries 8, and the entries that are in use.
func parseGPT(data []byte) (t PartitionTable, ok bool) {
	if !isGPT(data) {
		return t, false
	}
	t.Disk = guid(data[56:])
	size := uint64(binary.LittleEndian.Uint32(data[84:]))
	count := binary.LittleEndian.Uint64(data[gptHeaderSize:])
	entries := data[gptHeaderSize+8:]
	if size < 128 || size > 4096 || count > uint64(len(entries))/size {
		return t, false
	}
	t.exact = count*size == uint64(len(entries))
	for range min(count, maxPartitions) {
		e := entries[:size]
		t.Partitions = append(t.Partitions, Partition{
			Type: guid(e), ID: guid(e[16:]),
			First: binary.LittleEndian.Uint64(e[32:]), Last: binary.LittleEndian.Uint64(e[40:]),
			Name: partitionName(e[56:]),
		})
		entries = entries[size:]
	}
	return t, true
}

func partitionName(b []byte) string {
	if name, _, ok := utf16Prefix(b); ok {
		return printable(name)
	}
	return printable(utf16String(b))
}

func gptMeaning(data []byte) meaning {
	m := meaning{component: ComponentPartitionTable, key: "gpt"}
	t, ok := parseGPT(data)
	if !ok {
		m.description = "GUID partition table (malformed)"
		return m
	}
	m.machineSpecific = t.exact
	m.description = fmt.Sprintf("GPT of disk %s: %s", t.Disk, plural(len(t.Partitions), "partition"))
	return m
}
