package predict

import (
	"strings"
	"testing"
)

// runScript follows a configuration; what GRUB measures is in lines "command: …", "file: …", "cmdline: …".
func runScript(t testing.TB, in *Input, config string) (lines []string, open string) {
	t.Helper()
	run := newGRUBRun(in, false, "/boot/grub", nil)
	run.emit = func(m grubMeasurement) { lines = append(lines, m.kind+": "+m.text) }
	if err := run.boot("grub.cfg", config); err != nil {
		return lines, "error: " + err.Error()
	}
	return lines, run.open
}

func textFile(text string) *File {
	return &File{Size: int64(len(text)), Digests: digestOf(testBanks, []byte(text)), Text: &text}
}

func grubInput() *Input {
	return &Input{Banks: testBanks, Files: map[string]*File{
		"/vmlinuz": textFile("kernel"), "/initrd.img": textFile("initrd"), "/boot/grub/custom.cfg": textFile("set custom=1\n"),
		"/boot/grub/x86_64-efi/command.lst": textFile("list"), "/EFI/other.cfg": textFile("return 1\n"),
	}}
}

const load = "linux /vmlinuz quiet\ninitrd /initrd.img\nboot\n"

var loaded = []string{"command: linux /vmlinuz quiet", "file: /vmlinuz", "kernel: /vmlinuz", "cmdline: /vmlinuz quiet",
	"command: initrd /initrd.img", "file: /initrd.img", "initrd: /initrd.img", "command: boot"}

// TestGRUBScripts: what is measured, in the words that GRUB's own logs have (GRUB 2.06 and 2.12 on real machines).
func TestGRUBScripts(t *testing.T) {
	first := "file: (hd0,gpt1)/boot/grub/x86_64-efi/command.lst"
	for _, c := range []struct {
		name, config string
		want         []string
		open         string
	}{
		{"plain", load, loaded, ""},
		{"variables", "set a='x y'\nset b=\"$a ${a}z\"\necho $a \"$a\" $nothing \"$nothing\" ${b}\\$a '$a'\n" + load,
			append([]string{"command: set a=x y", "command: set b=x y x yz", "command: echo x y x y  x y x yz$a $a"}, loaded...), ""},
		{"tests", "if [ \"${x}\" ]; then echo no; elif [ x$feature_menuentry_id = xy -a ! -e /none ]; then echo yes; else echo no; fi\n" + load,
			append([]string{"command: [  ]", "command: [ xy = xy -a ! -e /none ]", "command: echo yes"}, loaded...), ""},
		{"negation", "if ! false; then echo a; fi\nif ! true; then echo b; fi\n" + load, append([]string{"command: ! false", "command: echo a", "command: ! true"}, loaded...), ""},
		{"numbers", "set n=1\nwhile [ $n -lt 3 ]; do\n if [ $n = 1 ]; then set n=2; else set n=3; fi\ndone\n" + load,
			append([]string{"command: set n=1", "command: [ 1 -lt 3 ]", "command: [ 1 = 1 ]", "command: set n=2", "command: [ 2 -lt 3 ]", "command: [ 2 = 1 ]", "command: set n=3", "command: [ 3 -lt 3 ]"}, loaded...), ""},
		{"for", "for i in a b; do echo $i; done\n" + load, append([]string{"command: echo a", "command: echo b"}, loaded...), ""},
		{"function", "function f {\n  echo $1 $#\n  return 1\n  echo never\n}\nif f a b; then echo yes; else echo no; fi\n" + load,
			append([]string{"command: f a b", "command: echo a 2", "command: return 1", "command: echo no"}, loaded...), ""},
		{"assignment", "timeout=3\necho $timeout\n" + load, append([]string{"command: timeout=3", "command: echo 3"}, loaded...), ""},
		{"size", "if [ -s $prefix/custom.cfg ]; then source $prefix/custom.cfg; fi\n" + load, append([]string{"command: [ -s (hd0,gpt1)/boot/grub/custom.cfg ]",
			"file: (hd0,gpt1)/boot/grub/custom.cfg", "command: source (hd0,gpt1)/boot/grub/custom.cfg", "file: (hd0,gpt1)/boot/grub/custom.cfg", "command: set custom=1"}, loaded...), ""},
		{"prefix", "set prefix=(hd0,gpt1)/boot/grub\n" + load, append([]string{"command: set prefix=(hd0,gpt1)/boot/grub", first}, loaded...), ""},
		{"search for a file", "search --file --set=root /vmlinuz\necho $root\n" + load,
			append([]string{"command: search --file --set=root /vmlinuz", "file: (hd0,gpt1)/vmlinuz", "command: echo hd0,gpt1"}, loaded...), ""},
		{"menu", "set default=b\nmenuentry 'A' --id a {\n\techo a\n}\nmenuentry \"B C\" --class x --id b {\n\tlinux /vmlinuz quiet\n\tinitrd /initrd.img\n}\n",
			append([]string{"command: set default=b", "command: menuentry A --id a {\n\techo a\n}", "command: menuentry B C --class x --id b {\n\tlinux /vmlinuz quiet\n\tinitrd /initrd.img\n}", "command: setparams B C"},
				loaded[:7]...), ""},
		{"submenu", "set default='1>0'\nmenuentry A {\n}\nsubmenu B {\nmenuentry C {\n" + strings.TrimSuffix(load, "boot\n") + "}\n}\n",
			append([]string{"command: set default=1>0", "command: menuentry A {\n}", "command: submenu B {\nmenuentry C {\n" + strings.TrimSuffix(load, "boot\n") + "}\n}", "command: setparams B",
				"command: menuentry C {\n" + strings.TrimSuffix(load, "boot\n") + "}", "command: setparams C"}, loaded[:7]...), ""},
		{"quoted arguments", "linux /vmlinuz \"a=b c\" x\\'y\nboot\n", []string{"command: linux /vmlinuz a=b c x'y", "file: /vmlinuz", "kernel: /vmlinuz", `cmdline: /vmlinuz "a=b c" x\'y`, "command: boot"}, ""},

		{"unknown branch", "if loadfont unicode; then echo x; fi\n" + load, []string{"command: loadfont unicode"}, `line 1: whether "loadfont unicode" succeeds`},
		{"unknown device", "search --fs-uuid --set=root 1234\nlinux ($root)/vmlinuz\n", []string{"command: search --fs-uuid --set=root 1234"}, "$root is not known"},
		{"unknown default", "search --fs-uuid --set=default 1\nmenuentry A {\n}\n", []string{"command: search --fs-uuid --set=default 1", "command: menuentry A {\n}"}, "which entry is the default"},
		{"unknown status", "insmod x\necho $?\n", []string{"command: insmod x"}, "$? depends"},
		{"absent file", "configfile /none.cfg\n", []string{"command: configfile /none.cfg"}, "/none.cfg, which is not given"},
		{"absent kernel", "linux /other\n", []string{"command: linux /other"}, "kernel /other, which is not given"},
		{"other loader", "chainloader /x.efi\n", []string{"command: chainloader /x.efi"}, "starts another image"},
		{"hidden reading", "hwmatch /boot/grub/custom.cfg 3\n", []string{"command: hwmatch /boot/grub/custom.cfg 3"}, "may read the file"},
		{"translations", "set locale_dir=/boot/grub\nset lang=en_US\n", []string{"command: set locale_dir=/boot/grub", "command: set lang=en_US"}, "translations"},
		{"theme", "set theme=/boot/grub/custom.cfg\n", []string{"command: set theme=/boot/grub/custom.cfg"}, "theme"},
		{"pattern", "echo /boot/*\n", nil, "pattern"},
		{"nothing", "echo x\n", []string{"command: echo x"}, "neither boots"},
		{"endless", "while true; do echo; done", nil, "commands"},
		{"silent loop", "for a in 1 2 3 4 5 6 7 8 9 0; do for b in 1 2 3 4 5 6 7 8 9 0; do for c in 1 2 3 4 5 6 7 8 9 0; do for d in 1 2 3 4 5 6 7 8 9 0; do for e in 1 2 3; do for f in 1 2; do done; done; done; done; done; done", nil, "commands"},
		{"doubling", "set a=xxxxxxxxxxxxxxxx\nwhile true; do set a=$a$a$a$a$a$a$a$a; done", nil, "command"},
		{"no condition", "if then echo; fi", nil, "no condition"},
		{"loop without condition", "while do echo; done", nil, "no condition"},
		{"recursion", "function f { f; }\nf\n", nil, "nested more than"},
		{"empty entry", "menuentry A {\n}\n", []string{"command: menuentry A {\n}", "command: setparams A"}, "loads no kernel"},
		{"not closed", "if true; then echo", nil, "error: grub.cfg: line 1: the condition of line 1 lacks \"fi\""},
		{"quotation", "echo 'x\n", nil, "error: grub.cfg: line 1: a quotation is not closed"},
		{"double quotation", "\necho \"x\n", nil, "error: grub.cfg: line 2: a quotation is not closed"},
		{"stray", "fi\n", nil, `error: grub.cfg: line 1: unexpected "fi"`},
		{"brace", "}\n", nil, `unexpected "}"`},
		{"deep", strings.Repeat("if true; then ", 200), nil, "nested more than 64 deep"},
		{"block", "menuentry A {\n", nil, "is not closed"},
		{"pipe", "a | b\n", nil, "has no meaning"},
		{"for without in", "for x; do y; done\n", nil, "for needs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lines, open := runScript(t, grubInput(), c.config)
			if c.want != nil || c.open == "" {
				if got, want := strings.Join(lines, "|"), strings.Join(append([]string{first}, c.want...), "|"); got != want {
					t.Errorf("measured\n%s\nwant\n%s", got, want)
				}
			}
			if c.open == "" && open != "" || !strings.Contains(open, c.open) {
				t.Errorf("open %q, want %q", open, c.open)
			}
		})
	}
}

// TestGRUBEnvironment: grubenv is read and measured; a boot that rewrites it leaves the next one open.
func TestGRUBEnvironment(t *testing.T) {
	in := grubInput()
	in.Files["/boot/grub/grubenv"] = textFile("# GRUB Environment Block\nsaved=b\nother=c\n####")
	lines, open := runScript(t, in, "load_env saved\necho $saved $other\n"+load)
	if got := strings.Join(lines[1:4], "|"); got != "command: load_env saved|file: (hd0,gpt1)/boot/grub/grubenv|command: echo b" || open != "" {
		t.Errorf("%s, open %q", got, open)
	}
	if _, open := runScript(t, in, "save_env x\n"+load); !strings.Contains(open, "grubenv") {
		t.Errorf("open %q", open)
	}
	if _, open := runScript(t, grubInput(), "save_env x\n"+load); open != "" {
		t.Errorf("without grubenv: open %q", open)
	}
	in.Files["/boot/grub/grubenv"].Text = nil
	if _, open := runScript(t, in, "load_env\n"+load); !strings.Contains(open, "text is not given") {
		t.Errorf("open %q", open)
	}
}

// TestGRUBSearch: with the device that search finds, files are looked for there too.
func TestGRUBSearch(t *testing.T) {
	in := grubInput()
	in.SearchResult = "hd0,gpt2"
	in.Files["(hd0,gpt2)/k"] = textFile("other kernel")
	lines, open := runScript(t, in, "search.fs_uuid 1234 root hd9,gpt9\nlinux /k\nboot\n")
	if open != "" || lines[2] != "command: linux /k" || lines[3] != "file: /k" {
		t.Errorf("%q, open %q", lines, open)
	}
}

// TestGRUBOutcomes: what only the machine can tell may be stated; built-in modules are not read.
func TestGRUBOutcomes(t *testing.T) {
	config := "insmod gzio\nif loadfont unicode; then set gfxmode=auto; fi\nfwsetup --is-supported\nif [ $? = 0 ]; then echo setup; fi\n" + load
	in := grubInput()
	in.Files["/boot/grub/x86_64-efi/gzio.mod"] = textFile("module")
	if _, open := runScript(t, in, config); !strings.Contains(open, "gzio") {
		t.Errorf("open %q", open)
	}
	in.GRUB = &File{GRUB: &GRUB{Modules: []string{"gzio"}}}
	if _, open := runScript(t, in, config); !strings.Contains(open, "loadfont") {
		t.Errorf("open %q", open)
	}
	in.Outcomes = map[string]bool{"loadfont": true, "fwsetup": false}
	lines, open := runScript(t, in, config)
	if all := strings.Join(lines, "|"); open != "" || !strings.Contains(all, "set gfxmode=auto|command: fwsetup --is-supported|command: [ 1 = 0 ]|command: linux") {
		t.Errorf("open %q: %s", open, all)
	}
}

// TestLoadOptions: the digest is that of the log of a real machine with GRUB 2.12 and Linux 6.9 (evidence of
// go-tpm-tools, gdc-host.bin, event 155).
func TestLoadOptions(t *testing.T) {
	in := &Input{Banks: testBanks}
	s := &sequence{in: in, out: &prediction{in: in}, open: map[int]string{}}
	run := "BOOT_IMAGE=/vmlinuz-6.9.0-rc7+ root=/dev/mapper/ubuntu--vg-ubuntu--lv ro nohibernate kvm_intel.tdx=on intel_iommu=on"
	s.stub(run, utf16Bytes(run), nil)
	if got := s.records[0].digests[0]["sha256"]; !strings.HasPrefix(got, "af659874066dd96c") {
		t.Errorf("%s", got)
	}
}
