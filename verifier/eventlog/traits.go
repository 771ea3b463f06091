package eventlog

import (
	"encoding/hex"
	"slices"
	"strings"
)

// TraitKind says what a trait is.
type TraitKind string

// The kinds of traits.
const (
	TraitMAC       TraitKind = "mac"        // of a network card, in the device path of a boot option
	TraitNVMe      TraitKind = "nvme"       // EUI-64 of an NVMe namespace, in the device path of a boot option
	TraitUSBSerial TraitKind = "usb_serial" // of a USB device, in the device path of a boot option
	TraitDisk      TraitKind = "disk"       // GUID of a partition table
	TraitPartition TraitKind = "partition"  // GUID of a partition
)

// Trait is a proven fact of a boot that names the machine and not its software.
type Trait struct {
	Kind  TraitKind
	Value string // lower case, as it is written in device paths
	// Strong says that no other machine should ever have it. Others only support what a strong one says: disks are copied
	// from one template with their GUIDs, and a hypervisor makes addresses up.
	Strong bool
}

// maxTraits bounds what one log may name: more is not what firmware measures.
const maxTraits = 256

// Traits are what proven events say of which machine this is: only events that name the machine, in the PCR where
// firmware measures them, whose data the digest covers (see Event.MachineSpecific). Each is listed once, sorted.
//
// Neither serial numbers nor UUIDs of the system are among them: PFP 1.06, section 3.3.4.2 (PCR 1) has firmware leave
// out of the measured SMBIOS what is unique, and what it logs beside that (EV_EFI_HANDOFF_TABLES) no digest covers.
func (m *Measurements) Traits() []Trait {
	var t traits
	for i := range m.Events() {
		e := &m.Events()[i]
		if !e.MachineSpecific {
			continue
		}
		switch e.Component {
		case ComponentPartitionTable:
			t.table(e.Data)
		case ComponentBootOrder:
			if v, ok := parseVariable(e.Data); ok {
				t.option(v.value)
			}
		}
	}
	slices.SortFunc(t.list, func(a, b Trait) int {
		return strings.Compare(string(a.Kind)+a.Value, string(b.Kind)+b.Value)
	})
	return slices.Compact(t.list)
}

type traits struct{ list []Trait }

func (t *traits) add(kind TraitKind, value string, strong bool) {
	if len(t.list) < maxTraits {
		t.list = append(t.list, Trait{kind, value, strong})
	}
}

func (t *traits) table(data []byte) {
	table, ok := parseGPT(data)
	if !ok {
		return
	}
	t.add(TraitDisk, table.Disk, false)
	for _, p := range table.Partitions {
		t.add(TraitPartition, p.ID, false)
	}
}

func (t *traits) option(value []byte) {
	o, ok := parseLoadOption(value)
	if !ok {
		return
	}
	removable := false
	walkPath(o.path, func(kind, sub byte, d []byte) {
		switch {
		case kind == 3 && sub == 5: // what comes after it hangs on USB, and is plugged from one machine into another
			removable = true
		case kind == 3 && sub == 11 && len(d) >= 6:
			t.add(TraitMAC, hex.EncodeToString(d[:6]), !removable && ownMAC(d[:6]))
		case kind == 3 && sub == 23 && len(d) >= 12 && !uniform(d[4:12]):
			t.add(TraitNVMe, hex.EncodeToString(d[4:12]), true)
		case kind == 3 && sub == 16 && len(d) > 6:
			t.add(TraitUSBSerial, hex.EncodeToString(d), false)
		case kind == 4 && sub == 1 && len(d) >= 38 && d[37] == 2:
			t.add(TraitPartition, guid(d[20:36]), false)
		}
	})
}

// madeUp are the prefixes from which hypervisors give addresses to virtual cards, each host for itself: two machines of one
// fleet may well have the same. (IEEE MA-L: Microsoft's for Hyper-V, VMware, VirtualBox, Xen, Parallels.)
var madeUp = []string{"00155d", "000569", "000c29", "001c14", "005056", "080027", "0a0027", "00163e", "001c42"}

// ownMAC tells whether the address is one that its maker has given to one card only: universally administered (IEEE 802,
// section 8.4: the second bit is 0), of one station, and of no hypervisor's range.
func ownMAC(mac []byte) bool {
	if mac[0]&3 != 0 || uniform(mac) {
		return false
	}
	return !slices.Contains(madeUp, hex.EncodeToString(mac[:3]))
}

// uniform tells that all bytes are one: what stands where nothing was filled in.
func uniform(b []byte) bool {
	for _, c := range b {
		if c != b[0] {
			return false
		}
	}
	return true
}
