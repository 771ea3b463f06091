package eventlog

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/assay-verifier/assay/verifier/tpm"
)

// grubEvent is a line as GRUB measures it: the hash leaves the prefix out.
func grubEvent(prefix, line string) []byte {
	return agileRecord(8, EvIPL, []byte(prefix+line+"\x00"), sum(tpm.SHA256, []byte(line)))
}

// grubBoot is what GRUB measures of a boot with a command line.
func grubBoot(line string) []byte {
	return join(grubEvent("grub_cmd: ", "linux /vmlinuz "+line), grubEvent("kernel_cmdline: ", "/vmlinuz "+line), grubEvent("grub_cmd: ", "initrd /initrd"))
}

// lines are the command lines that claims tell, and whether it is one for sure.
func lines(raw []byte, pcrs tpm.PCRs, t testing.TB) (all []string, certain bool, outcome Outcome) {
	t.Helper()
	m, report := parseOK(t, raw).replay(claimed(pcrs))
	c := m.Claims()
	if c.KernelCmdline != nil {
		if c.KernelCmdlineCandidates != nil {
			t.Error("a command line is certain, and there are others")
		}
		return []string{*c.KernelCmdline}, true, report.Outcome
	}
	return c.KernelCmdlineCandidates, false, report.Outcome
}

// Root extends PCR 8 after the boot and adds the events to the log. No separator ends what GRUB measures, so that the
// log cannot tell when: the true command line must stay visible, and no other one may pass for it.
func TestCommandLineAppendedAfterTheBoot(t *testing.T) {
	const truth, lie = "ro init=/bin/sh", "ro lockdown=integrity"
	for name, raw := range map[string][]byte{
		"another boot":         join(grubBoot(truth), grubBoot(lie)),
		"before the true one":  join(grubBoot(lie), grubBoot(truth)),
		"only its command":     join(grubBoot(truth), grubEvent("grub_cmd: ", "linux /vmlinuz "+lie)),
		"told to be a setting": join(grubBoot(truth), grubEvent("module_cmdline: ", "linux /vmlinuz "+lie), grubEvent("grub_cmd: ", "/vmlinuz "+lie)),
		"of systemd-boot":      join(grubBoot(truth), event(12, EvIPL, append(utf16Bytes(lie), 0, 0))),
		"of an old one":        join(grubBoot(truth), event(8, EvIPL, append(utf16Bytes(lie), 0, 0))),
	} {
		raw := join(header(tpm.SHA256), raw)
		all, certain, outcome := lines(raw, own(parseOK(t, raw)), t)
		if outcome != Replayed || !slices.Contains(all, "BOOT_IMAGE=/vmlinuz "+truth) {
			t.Errorf("%s: the true command line is hidden: %q", name, all)
		}
		if certain && len(all) == 1 && strings.Contains(all[0], lie) {
			t.Errorf("%s: %q passes for the kernel's", name, all[0])
		}
	}
	// What was measured first is hidden by data that is not what was hashed; then nothing is certain.
	first := grubBoot(truth)
	hidden := agileRecord(8, EvIPL, []byte("grub_cmd: true\x00"), sum(tpm.SHA256, []byte("linux /vmlinuz "+truth)))
	told := join(hidden, first[len(grubEvent("grub_cmd: ", "linux /vmlinuz "+truth)):])
	raw := join(header(tpm.SHA256), told, grubBoot(lie))
	if all, certain, outcome := lines(raw, own(parseOK(t, join(header(tpm.SHA256), first, grubBoot(lie)))), t); outcome != Replayed || certain {
		t.Errorf("%q is certain though something is hidden", all)
	}
}

// systemd-stub gives the kernel the command lines of addons joined to its own, and the EFI stub says what it was given.
// Both can be extended after the boot too, so that of several lines none is certain, and none is left out.
func TestCommandLinesOfAddons(t *testing.T) {
	text := func(s string) []byte { return event(12, EvIPL, append(utf16Bytes(s), 0, 0)) }
	options := func(s string) []byte {
		return agileRecord(9, EvEventTag, join(le32(tagLoadOptions), le32(4), []byte("opt\x00")), sum(tpm.SHA256, append(utf16Bytes(s), 0, 0)))
	}
	for name, c := range map[string]struct {
		raw     []byte
		want    string
		certain bool
	}{
		"measured twice, by loader and stub":   {join(text("quiet"), text("quiet")), "quiet", true},
		"and given":                            {join(text("quiet"), text("quiet"), options("quiet")), "quiet", true},
		"given joined, or added later":         {join(text("quiet"), text("debug"), options("quiet debug")), "quiet|debug|quiet debug", false},
		"only the first was given":             {join(text("quiet"), text("debug"), options("quiet")), "quiet|debug", false},
		"nobody says what was given":           {join(text("quiet"), text("debug")), "quiet|debug", false},
		"something else was given":             {join(text("quiet"), text("debug"), options("x")), "", false},
		"two stubs, the second after the boot": {join(text("quiet"), text("debug"), options("quiet"), options("debug")), "quiet|debug", false},
		"a stub of which nothing is told":      {join(text("quiet"), options("quiet"), options("x")), "quiet", false},
	} {
		raw := join(header(tpm.SHA256), c.raw)
		all, certain, _ := lines(raw, own(parseOK(t, raw)), t)
		if got := strings.Join(all, "|"); got != c.want || certain != c.certain {
			t.Errorf("%s: %q (%t), want %q (%t)", name, got, certain, c.want, c.certain)
		}
	}
}

// Whatever is appended to a true boot, and however the log tells of it, the true command line is told of or nothing is.
func TestAppendedEventsHideNoCommandLine(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const truth = "ro rd.break"
		honest, told := [][]byte{header(tpm.SHA256), grubBoot(truth)}, [][]byte{header(tpm.SHA256), grubBoot(truth)}
		for i := range rapid.IntRange(1, 6).Draw(rt, "events") {
			line := rapid.SampledFrom([]string{"linux /vmlinuz ro", "/vmlinuz ro", "linux /vmlinuz " + truth, "/vmlinuz " + truth, "set x=1", "quiet"}).Draw(rt, fmt.Sprint("line", i))
			pcr := rapid.SampledFrom([]int{8, 9, 12}).Draw(rt, fmt.Sprint("pcr", i))
			hashed := []byte(line)
			if rapid.Bool().Draw(rt, fmt.Sprint("wide", i)) {
				hashed = append(utf16Bytes(line), 0, 0)
			}
			data := bytes.Clone(hashed)
			switch rapid.IntRange(0, 3).Draw(rt, fmt.Sprint("told", i)) {
			case 0:
				data = append([]byte("grub_cmd: "), hashed...)
			case 1:
				data = append([]byte("kernel_cmdline: "), hashed...)
			case 2:
				data = []byte("junk")
			}
			typ := rapid.SampledFrom([]EventType{EvIPL, EvEventTag, EvSeparator, EvNoAction, EvEFIAction}).Draw(rt, fmt.Sprint("type", i))
			honest = append(honest, agileRecord(uint32(pcr), EvIPL, data, sum(tpm.SHA256, hashed)))
			told = append(told, agileRecord(uint32(pcr), typ, data, sum(tpm.SHA256, hashed)))
		}
		all, certain, outcome := lines(join(told...), own(parseOK(t, join(honest...))), t)
		if outcome != Replayed {
			return
		}
		if !slices.Contains(all, "BOOT_IMAGE=/vmlinuz "+truth) {
			rt.Fatalf("the true command line is hidden: %q (certain: %t)", all, certain)
		}
		if certain && all[0] != "BOOT_IMAGE=/vmlinuz "+truth {
			rt.Fatalf("%q passes for the kernel's", all[0])
		}
	})
}
