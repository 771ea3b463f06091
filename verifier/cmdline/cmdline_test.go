package cmdline

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// written is a line as "name=value" or "name", separated by "|"; what is for init has a "+" before it.
func written(l Line) string {
	parts := make([]string, len(l))
	for i, p := range l {
		parts[i] = p.Name
		if p.Given {
			parts[i] += "=" + p.Value
		}
		if p.ForInit {
			parts[i] = "+" + parts[i]
		}
	}
	return strings.Join(parts, "|")
}

// The cases follow next_arg and parse_args step by step.
func TestParse(t *testing.T) {
	for line, want := range map[string]string{
		"":                                 "",
		" \t\n":                            "",
		"ro  quiet\troot=/dev/vda1":        "ro|quiet|root=/dev/vda1",
		"a=b=c":                            "a=b=c",
		"a=":                               "a=",
		"=a":                               "=a", // no name: it parts nothing
		"=a=b":                             "=a=b",
		"module.sig-enforce=1":             "module.sig_enforce=1",
		"intel-iommu=a-b":                  "intel_iommu=a-b", // only names
		`dm="1 vroot none" x`:              "dm=1 vroot none|x",
		`"dm=1 vroot none" x`:              "dm=1 vroot none|x",
		`"dm=1 vroot`:                      "dm=1 vroot",
		`a="b`:                             "a=b",
		`a=b"c d"e f`:                      `a=b"c d"e|f`, // quotes inside stay
		`a="b"c"`:                          `a=b"c`,
		`"a"`:                              "a",
		`"a="b"`:                           `a=b`,
		`"init=/bin/sh"`:                   "init=/bin/sh",
		`"x init=/bin/sh"`:                 "x init=/bin/sh", // one parameter of that odd name
		`x="y init=/bin/sh" z`:             "x=y init=/bin/sh|z",
		`a\"b c`:                           `a\"b c`, // no escapes: the quote opens, and nothing closes it
		"ro -- single":                     "ro|+single",
		"ro -- init=/bin/sh -- x=1":        "ro|+init=/bin/sh|+__|+x=1",
		"--x --=y a":                       "__x|__=y|a",
		`"--" a`:                           "+a",
		`--" a`:                            `__" a`,
		"a\x00 init=/bin/sh":               "a",
		"a\xa0b":                           "a|b", // no-break space of Latin-1
		"systemd.mask=a systemd.mask=b":    "systemd.mask=a|systemd.mask=b",
		`a="1" "b=2"c`:                     `a=1|b=2"c`,
		"BOOT_IMAGE=/vmlinuz console=tty0": "BOOT_IMAGE=/vmlinuz|console=tty0",
	} {
		if got := written(Parse(line)); got != want {
			t.Errorf("%q: %s, want %s", line, got, want)
		}
	}
}

func TestLast(t *testing.T) {
	l := Parse("mitigations=off mitigations=auto -- mitigations=off lockdown=integrity")
	if p, ok := l.Last("mitigations"); !ok || p.Value != "auto" {
		t.Errorf("%+v", p)
	}
	if p, ok := l.Last("lockdown"); ok {
		t.Errorf("init's parameter is taken for the kernel's: %+v", p)
	}
}

func TestBool(t *testing.T) {
	for line, want := range map[string][2]bool{
		"x": {true, true}, "x=1": {true, true}, "x=yes": {true, true}, "x=Y": {true, true}, "x=on": {true, true}, "x=ON": {true, true},
		"x=0": {false, true}, "x=no": {false, true}, "x=off": {false, true}, "x=oF": {false, true},
		"x=": {false, false}, "x=o": {false, false}, "x=true": {false, false}, "x=enforce": {false, false},
	} {
		p := Parse(line)[0]
		if on, known := p.Bool(); on != want[0] || known != want[1] {
			t.Errorf("%s: %t %t", line, on, known)
		}
	}
}

// Parameters that hold neither quotes nor white space come out as they were written, whatever stands between them.
func TestWrittenAndReadAgain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOf(rapid.StringMatching(`[a-z][a-z._]{0,8}(=[a-z0-9,=/-]{0,8})?`)).Draw(t, "words")
		space := rapid.SampledFrom([]string{" ", "\t", "  ", " \n"}).Draw(t, "space")
		if got, want := written(Parse(strings.Join(words, space))), strings.Join(words, "|"); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
		for _, w := range words {
			if p := Parse(`"` + w + `"`); len(p) != 1 || written(p) != w {
				t.Fatalf("quoted %q: %q", w, written(p))
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, line := range []string{
		"BOOT_IMAGE=/vmlinuz console=ttyS0,115200 apparmor=0 mitigations=off single",
		`BOOT_IMAGE=/syslinux/vmlinuz.A init=/usr/lib/systemd/systemd root=/dev/dm-0 "dm=1 vroot none ro 1,0 4077568 verity alg=sha256"`,
		`initrd=\intel-ucode.img cryptdevice=UUID=54:cryptroot root=/dev/mapper/cryptroot rw intel_iommu=on iommu=pt l1tf=off`,
		`a="b c" -- "d e"`, `"`, `a="`, "\xa0\x00",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		total, forInit := 0, false
		for _, p := range Parse(line) {
			total += len(p.Text)
			if !strings.Contains(line, p.Text) || len(p.Name)+len(p.Value) > len(p.Text) || p.Value != "" && !p.Given || p.Text == "" {
				t.Fatalf("%q: %+v", line, p)
			}
			if forInit && !p.ForInit {
				t.Fatalf("%q: the kernel's again after init's", line)
			}
			forInit = p.ForInit
		}
		if total > len(line) {
			t.Fatalf("%q: %d bytes of parameters", line, total)
		}
	})
}
