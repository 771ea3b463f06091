package predict

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// GRUB is what a GRUB image carries: where it looks for its files, and the configuration it runs by itself.
type GRUB struct {
	Prefix string `json:"prefix,omitempty"`
	// EarlyConfig is the configuration that the image runs first as GRUB script, and so measures: that of its memory
	// disk. nil if none was found.
	EarlyConfig *string `json:"early_config,omitempty"`
	// Modules are built in: GRUB reads them from no disk.
	Modules []string `json:"modules,omitempty"`
}

// The types of the objects behind a GRUB image (GRUB, include/grub/kernel.h).
const (
	grubObjectELF     = 0
	grubObjectMemdisk = 1
	grubObjectConfig  = 2
	grubObjectPrefix  = 3
	grubModuleMagic   = 0x676d696d
	maxGRUBObjects    = 4096
	maxGRUBConfig     = 256 << 10
	maxMemdisk        = 32 << 20
)

// readGRUB walks the objects in the section mods; nil if the image is no GRUB.
func (p *image) readGRUB() (*GRUB, error) {
	mods, found := p.find("mods")
	if !found {
		return nil, nil
	}
	end := mods.offset + int64(mods.rawSize)
	// grub_module_info64: magic 4, padding 4, offset 8, size 8; of 32-bit images magic, offset, size of 4 each.
	head, err := p.read("section mods", mods.offset, min(24, int64(mods.rawSize)))
	if err != nil || len(head) < 24 || binary.LittleEndian.Uint32(head) != grubModuleMagic {
		return nil, p.fail("section mods", "no list of GRUB's modules")
	}
	offset, size := uint64(binary.LittleEndian.Uint32(head[4:])), uint64(binary.LittleEndian.Uint32(head[8:]))
	if offset == 0 {
		offset, size = binary.LittleEndian.Uint64(head[8:]), binary.LittleEndian.Uint64(head[16:])
	}
	if offset < 12 || offset > size || size > uint64(mods.rawSize) {
		return nil, p.fail("section mods", "its list of %d bytes does not fit", size)
	}
	end = min(end, mods.offset+int64(size)) // #nosec G115 -- within the section
	g := &GRUB{}
	var config string
	var memdisk section
	at := mods.offset + int64(offset) // #nosec G115 -- likewise
	for n := 0; at+8 <= end; n++ {
		object, err := p.read("section mods", at, 8)
		if err != nil {
			return nil, err
		}
		kind, length := binary.LittleEndian.Uint32(object), int64(binary.LittleEndian.Uint32(object[4:]))
		if length < 8 || length > end-at || n == maxGRUBObjects {
			return nil, p.fail("section mods", "the object at offset %d has %d bytes", at, length)
		}
		body := section{name: "mods", offset: at + 8, rawSize: uint32(length - 8), virtualSize: uint32(length - 8)} // #nosec G115 -- read as uint32
		switch kind {
		case grubObjectELF:
			if name := p.moduleName(body); name != "" {
				g.Modules = append(g.Modules, name)
			}
		case grubObjectMemdisk:
			memdisk = body
		case grubObjectConfig, grubObjectPrefix:
			b, err := p.bounded(body, maxGRUBConfig)
			if err != nil {
				return nil, err
			}
			text, _, _ := bytes.Cut(b, []byte{0})
			if kind == grubObjectConfig {
				config = string(text)
			} else {
				g.Prefix = string(text)
			}
		}
		at += length
	}
	g.EarlyConfig, err = p.earlyConfig(config, memdisk)
	return g, err
}

// moduleName is what a module calls itself in its section .modname; "" if it does not.
func (p *image) moduleName(s section) string {
	f, err := elf.NewFile(sectionAt{p.r, s.offset, int64(s.rawSize)})
	if err != nil {
		return ""
	}
	name := f.Section(".modname")
	if name == nil || name.Type == elf.SHT_NOBITS || name.Size == 0 || name.Size > 64 || name.Flags&elf.SHF_COMPRESSED != 0 {
		return ""
	}
	b, err := name.Data()
	if err != nil {
		return ""
	}
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// earlyConfig follows an embedded configuration to the one of the memory disk. GRUB's rescue parser runs the former,
// and measures no command; "normal FILE" runs a file as a script, whose commands are measured.
func (p *image) earlyConfig(config string, memdisk section) (*string, error) {
	var file string
	for _, line := range strings.Split(config, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		if file != "" || len(words) != 2 || words[0] != "normal" && words[0] != "configfile" {
			return nil, nil // more than a pointer to a file: what it does is not followed
		}
		file = words[1]
	}
	name, inMemory := strings.CutPrefix(file, "(memdisk)/")
	if !inMemory || memdisk.rawSize == 0 || strings.Contains(name, "/") {
		return nil, nil
	}
	if int64(memdisk.rawSize) > maxMemdisk {
		return nil, p.fail("GRUB's memory disk", "%d bytes; at most %d are read", memdisk.rawSize, maxMemdisk)
	}
	b, found, err := readFAT(io.NewSectionReader(p.r, memdisk.offset, int64(memdisk.rawSize)), name, maxGRUBConfig)
	if err != nil {
		return nil, p.fail("GRUB's memory disk", "%v", err)
	}
	if !found {
		return nil, nil
	}
	text := string(b)
	return &text, nil
}

// readFAT reads a file of the root directory of a FAT12 or FAT16 file system (ECMA-107), as GRUB's memory disks are;
// found is false if the file system is another one, or has no such file. Names are compared in their short form.
func readFAT(r *io.SectionReader, name string, limit int) (contents []byte, found bool, err error) {
	boot := make([]byte, 512)
	if _, err := r.ReadAt(boot, 0); err != nil || boot[510] != 0x55 || boot[511] != 0xAA {
		return nil, false, nil //nolint:nilerr // another file system
	}
	sector, cluster := int64(binary.LittleEndian.Uint16(boot[11:])), int64(boot[13])
	reserved, tables := int64(binary.LittleEndian.Uint16(boot[14:])), int64(boot[16])
	entries, tableSize := int64(binary.LittleEndian.Uint16(boot[17:])), int64(binary.LittleEndian.Uint16(boot[22:]))
	total := int64(binary.LittleEndian.Uint16(boot[19:]))
	if total == 0 {
		total = int64(binary.LittleEndian.Uint32(boot[32:]))
	}
	if sector < 512 || cluster == 0 || reserved == 0 || tables == 0 || entries == 0 || tableSize == 0 {
		return nil, false, nil
	}
	root := (reserved + tables*tableSize) * sector
	data := root + (entries*32+sector-1)/sector*sector
	wide := (total*sector-data)/(cluster*sector) >= 4085 // FAT16
	entry := make([]byte, 32)
	for i := range entries {
		if _, err := r.ReadAt(entry, root+32*i); err != nil {
			return nil, false, fmt.Errorf("directory entry %d is outside it", i)
		}
		if entry[0] == 0 {
			return nil, false, nil
		}
		if entry[11]&0x18 != 0 || !strings.EqualFold(shortName(entry), name) {
			continue
		}
		size := int64(binary.LittleEndian.Uint32(entry[28:]))
		if size > int64(limit) {
			return nil, false, fmt.Errorf("%s has %d bytes; at most %d are read", name, size, limit)
		}
		contents = make([]byte, 0, size)
		for at := int64(binary.LittleEndian.Uint16(entry[26:])); int64(len(contents)) < size; {
			chunk := make([]byte, min(cluster*sector, size-int64(len(contents))))
			if n, _ := r.ReadAt(chunk, data+(at-2)*cluster*sector); at < 2 || n < len(chunk) {
				return nil, false, fmt.Errorf("cluster %d of %s is outside it", at, name)
			}
			contents = append(contents, chunk...)
			if at, err = nextCluster(r, reserved*sector, at, wide); err != nil {
				return nil, false, err
			}
		}
		return contents, true, nil
	}
	return nil, false, nil
}

func shortName(entry []byte) string {
	name, ext := strings.TrimRight(string(entry[:8]), " "), strings.TrimRight(string(entry[8:11]), " ")
	if ext != "" {
		name += "." + ext
	}
	return name
}

func nextCluster(r *io.SectionReader, table, cluster int64, wide bool) (int64, error) {
	b := make([]byte, 2)
	at := cluster + cluster/2
	if wide {
		at = 2 * cluster
	}
	if _, err := r.ReadAt(b, table+at); err != nil {
		return 0, fmt.Errorf("the table entry of cluster %d is outside it", cluster)
	}
	next := int64(binary.LittleEndian.Uint16(b))
	switch {
	case wide:
	case cluster%2 == 0:
		next &= 0xFFF
	default:
		next >>= 4
	}
	return next, nil
}
