package eventlog

import (
	"encoding/binary"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier/tpm"
)

func strongTraits(m *Measurements) []string {
	var out []string
	for _, t := range m.Traits() {
		if t.Strong {
			out = append(out, string(t.Kind)+":"+t.Value)
		}
	}
	return out
}

// The logs of the machines of the world: no two machines have a strong trait in common, but for captures of one machine under
// two names.
func TestStrongTraitsAreOfOneMachine(t *testing.T) {
	// Each pair is one machine, captured twice.
	same := map[string]string{
		"guard-set-elitebook830g6-mokx-added": "guard-set-elitebook830g6-mok-baseline", // before and after a key was forbidden
	}
	machineOf := func(path string) string {
		name := filepath.Base(path)
		if name == "eventlog.bin" {
			name = filepath.Base(filepath.Dir(path))
		}
		if first, ok := same[name]; ok {
			return first
		}
		return name
	}
	owners, found := map[string]string{}, map[string]bool{}
	for _, path := range specimens(t) {
		log := mustParse(t, path)
		m, _ := measure(t, log, own(log))
		if m == nil {
			continue
		}
		for _, trait := range strongTraits(m) {
			machine := machineOf(path)
			found[machine] = true
			if other, ok := owners[trait]; ok && other != machine {
				t.Errorf("%s and %s both have %s", other, machine, trait)
			}
			owners[trait] = machine
		}
	}
	if len(found) < 6 {
		t.Errorf("strong traits of %v only", slices.Sorted(maps.Keys(found)))
	}
}

func TestTraitsOfAServer(t *testing.T) {
	log := mustParse(t, "testdata/eventlogs/baremetal/guard-set-h12ssl-values/eventlog.bin")
	m, _ := measure(t, log, own(log))
	if got := strings.Join(strongTraits(m), " "); got != "mac:3cecef7ec348 mac:3cecef7ec349" {
		t.Error(got)
	}
	if !slices.ContainsFunc(m.Traits(), func(x Trait) bool {
		return x.Kind == TraitDisk && x.Value == "912ee527-30ce-4adf-af60-8c1f379b3f6b" && !x.Strong
	}) {
		t.Errorf("%v", m.Traits())
	}
	var nothing Measurements
	if len(nothing.Traits()) != 0 {
		t.Error("nothing was proved, and there are traits")
	}
}

// optionOf is the value of a boot option with that device path.
func optionOf(nodes ...[]byte) []byte {
	path := slices.Concat(append(nodes, []byte{0x7f, 0xff, 4, 0})...)
	value := binary.LittleEndian.AppendUint32(nil, 1)
	value = binary.LittleEndian.AppendUint16(value, uint16(len(path)))
	return slices.Concat(value, utf16Bytes("PXE\x00"), path)
}

func node(kind, sub byte, data ...byte) []byte {
	return append([]byte{kind, sub, byte(len(data) + 4), 0}, data...)
}

func macNode(hexMAC string) []byte {
	var mac [32]byte
	for i := range 6 {
		_, _ = fmt.Sscanf(hexMAC[2*i:2*i+2], "%02x", &mac[i])
	}
	return node(3, 11, append(mac[:], 1)...)
}

// What is strong, and what only supports: cards that are made up, plugged in from outside or not filled in are no proof.
func TestWhichTraitsAreStrong(t *testing.T) {
	pci := node(1, 1, 0, 0x1c)
	for story, c := range map[string]struct {
		value []byte
		want  string
	}{
		"a card":                     {optionOf(pci, macNode("3cecef7ec348")), "mac:3cecef7ec348:true"},
		"a card in a USB dock":       {optionOf(pci, node(3, 5, 1, 0), macNode("3cecef7ec348")), "mac:3cecef7ec348:false"},
		"QEMU's default":             {optionOf(pci, macNode("525400123456")), "mac:525400123456:false"},
		"Hyper-V's range":            {optionOf(pci, macNode("00155d012345")), "mac:00155d012345:false"},
		"VMware's range":             {optionOf(pci, macNode("005056a1b2c3")), "mac:005056a1b2c3:false"},
		"Google's, made of the IP":   {optionOf(pci, macNode("42010a800002")), "mac:42010a800002:false"},
		"zeros":                      {optionOf(pci, macNode("000000000000")), "mac:000000000000:false"},
		"a group address":            {optionOf(pci, macNode("01005e000001")), "mac:01005e000001:false"},
		"an NVMe disk":               {optionOf(pci, node(3, 23, 1, 0, 0, 0, 0, 0x25, 0x38, 1, 2, 3, 4, 5)), "nvme:0025380102030405:true"},
		"an NVMe disk without EUI":   {optionOf(pci, node(3, 23, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)), ""},
		"a USB device's serial":      {optionOf(node(3, 16, 0, 0, 1, 2, 3, 4, 'A', 0)), "usb_serial:0000010203044100:false"},
		"a path that ends too early": {optionOf(pci, []byte{3, 11, 37, 0, 1, 2}), ""},
		"no boot option":             {[]byte{1, 2, 3}, ""},
	} {
		t.Run(story, func(t *testing.T) {
			data := variableData(guidGlobal, "Boot0001", c.value)
			log, err := Parse(slices.Concat(header(tpm.SHA256), agileRecord(1, EvEFIVariableBoot, data, sum(tpm.SHA256, data))))
			if err != nil {
				t.Fatal(err)
			}
			m, _ := measure(t, log, own(log))
			var got []string
			for _, x := range m.Traits() {
				got = append(got, fmt.Sprintf("%s:%s:%t", x.Kind, x.Value, x.Strong))
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			// What the digest does not cover, and what lies in another PCR, names nobody.
			for _, record := range [][]byte{agileRecord(1, EvEFIVariableBoot, data, sum(tpm.SHA256, []byte("x"))), agileRecord(5, EvEFIVariableBoot, data, sum(tpm.SHA256, data))} {
				log, err := Parse(slices.Concat(header(tpm.SHA256), record))
				if err != nil {
					t.Fatal(err)
				}
				if m, _ := measure(t, log, own(log)); len(m.Traits()) != 0 {
					t.Errorf("%v", m.Traits())
				}
			}
		})
	}
}
