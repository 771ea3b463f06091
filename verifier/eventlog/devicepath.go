package eventlog

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// maxPathNodes bounds how much of a device path is written.
const maxPathNodes = 64

// walkPath calls visit with each node of a device path up to its end (UEFI 2.10, section 10.3.1: type
// 1, subtype 1, length of the node 2, data). A malformed rest is left out.
func walkPath(b []byte, visit func(kind, sub byte, data []byte)) {
	for range maxPathNodes {
		if len(b) < 4 {
			return
		}
		size := int(binary.LittleEndian.Uint16(b[2:]))
		if size < 4 || size > len(b) || b[0] == 0x7F {
			return
		}
		visit(b[0], b[1], b[4:size])
		b = b[size:]
	}
}

// filePath is the file name in a device path; "" if it has none.
func filePath(b []byte) string {
	var file string
	walkPath(b, func(kind, sub byte, data []byte) {
		if kind == 4 && sub == 4 {
			if s := strings.TrimRight(utf16String(data), "\x00"); file == "" || strings.HasSuffix(file, `\`) {
				file += s
			} else {
				file += `\` + strings.TrimLeft(s, `\`)
			}
		}
	})
	return printable(file)
}

// hasPathNode tells whether a device path has a node of this type and subtype.
func hasPathNode(b []byte, kind, sub byte) (found bool) {
	walkPath(b, func(k, s byte, _ []byte) { found = found || k == kind && s == sub })
	return found
}

// devicePath writes a device path as text, in the form of UEFI 2.10, section 10.6, as far as its node
// types are common; others appear as Path(type,subtype).
func devicePath(b []byte) string {
	var nodes []string
	walkPath(b, func(kind, sub byte, data []byte) {
		nodes = append(nodes, printable(pathNode(kind, sub, data)))
	})
	return printable(strings.Join(nodes, "/"))
}

func pathNode(kind, sub byte, d []byte) string {
	u16, u32, u64 := binary.LittleEndian.Uint16, binary.LittleEndian.Uint32, binary.LittleEndian.Uint64
	switch {
	case kind == 1 && sub == 1 && len(d) >= 2:
		return fmt.Sprintf("Pci(0x%x,0x%x)", d[1], d[0])
	case kind == 1 && sub == 3 && len(d) >= 20:
		return fmt.Sprintf("MemoryMapped(0x%x,0x%x,0x%x)", u32(d), u64(d[4:]), u64(d[12:]))
	case kind == 1 && sub == 4 && len(d) >= 16:
		return "VenHw(" + guid(d) + ")"
	case kind == 2 && sub == 1 && len(d) >= 8:
		if u32(d) == 0x0a0341d0 {
			return fmt.Sprintf("PciRoot(0x%x)", u32(d[4:]))
		}
		return fmt.Sprintf("Acpi(0x%x,0x%x)", u32(d), u32(d[4:]))
	case kind == 3 && sub == 1 && len(d) >= 4:
		return fmt.Sprintf("Ata(0x%x,0x%x,0x%x)", d[0], d[1], u16(d[2:]))
	case kind == 3 && sub == 2 && len(d) >= 4:
		return fmt.Sprintf("Scsi(0x%x,0x%x)", u16(d), u16(d[2:]))
	case kind == 3 && sub == 5 && len(d) >= 2:
		return fmt.Sprintf("USB(0x%x,0x%x)", d[0], d[1])
	case kind == 3 && sub == 10 && len(d) >= 16:
		return "VenMsg(" + guid(d) + ")"
	case kind == 3 && sub == 11 && len(d) >= 6:
		return fmt.Sprintf("MAC(%x)", d[:6])
	case kind == 3 && sub == 12 && len(d) >= 8:
		return fmt.Sprintf("IPv4(%d.%d.%d.%d)", d[4], d[5], d[6], d[7])
	case kind == 3 && sub == 13 && len(d) >= 32:
		return fmt.Sprintf("IPv6(%x)", d[16:32])
	case kind == 3 && sub == 18 && len(d) >= 6:
		return fmt.Sprintf("Sata(0x%x,0x%x,0x%x)", u16(d), u16(d[2:]), u16(d[4:]))
	case kind == 3 && sub == 23 && len(d) >= 12:
		return fmt.Sprintf("NVMe(0x%x,%x)", u32(d), d[4:12])
	case kind == 3 && sub == 24:
		return "Uri(" + string(d) + ")"
	case kind == 4 && sub == 1 && len(d) >= 38:
		return hardDrive(d)
	case kind == 4 && sub == 2 && len(d) >= 4:
		return fmt.Sprintf("CDROM(0x%x)", u32(d))
	case kind == 4 && sub == 3 && len(d) >= 16:
		return "VenMedia(" + guid(d) + ")"
	case kind == 4 && sub == 4:
		return strings.TrimRight(utf16String(d), "\x00")
	case kind == 4 && sub == 6 && len(d) >= 16:
		return "FvFile(" + guid(d) + ")"
	case kind == 4 && sub == 7 && len(d) >= 16:
		return "Fv(" + guid(d) + ")"
	case kind == 4 && sub == 8 && len(d) >= 20:
		return fmt.Sprintf("Offset(0x%x,0x%x)", u64(d[4:]), u64(d[12:]))
	case kind == 5 && sub == 1 && len(d) >= 4:
		return "BBS(" + strings.TrimRight(string(d[4:]), "\x00") + ")"
	}
	return fmt.Sprintf("Path(%d,%d)", kind, sub)
}

// hardDrive writes a partition: number, start, size, signature, type of table and of signature.
func hardDrive(d []byte) string {
	number := binary.LittleEndian.Uint32(d)
	switch {
	case d[37] == 2:
		return fmt.Sprintf("HD(%d,GPT,%s)", number, guid(d[20:36]))
	case d[37] == 1:
		return fmt.Sprintf("HD(%d,MBR,0x%08x)", number, binary.LittleEndian.Uint32(d[20:]))
	}
	return fmt.Sprintf("HD(%d)", number)
}
