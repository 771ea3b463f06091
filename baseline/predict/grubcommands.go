package predict

import (
	"errors"
	"slices"
	"strings"
)

var errReturned = errors.New("return")

// quiet are commands that always succeed as far as what follows is concerned, and measure nothing by themselves.
var quiet = map[string]bool{"echo": true, "true": true, "clear": true, "sleep": true, "export": true, "setparams": true}

// loaders are commands that leave what this package follows.
var loaders = map[string]string{
	"chainloader": "starts another image", "blscfg": "reads boot loader entries", "multiboot": "loads a multiboot kernel",
	"multiboot2": "loads a multiboot kernel", "xen_hypervisor": "loads a hypervisor", "exit": "leaves GRUB", "halt": "halts",
	"reboot": "reboots", "eval": "runs a text", "extract_entries_source": "runs another file's entries", "legacy_source": "runs a GRUB Legacy file",
	"fwsetup": "may enter the firmware's setup", "devicetree": "loads a device tree", "module": "loads a module of a hypervisor",
}

// builtin does what one of GRUB's commands does, as far as it matters here.
func (g *grubRun) builtin(n *scriptNode, words []string) error {
	name, args := words[0], words[1:]
	g.status = yes
	switch name {
	case "set":
		for _, a := range args {
			if variable, value, found := strings.Cut(a, "="); found {
				g.assign(variable, value)
			}
			if strings.HasPrefix(a, "prefix=") {
				g.readLists()
			}
		}
		if dir := g.vars["locale_dir"]; g.vars["lang"] != "" && dir != "" && g.isFolder(dir) {
			return g.stop(n.line, "GRUB reads translations from %s, which is not followed", dir)
		}
		if theme := g.vars["theme"]; theme != "" && g.lookup(theme) != nil {
			return g.stop(n.line, "GRUB reads the theme %s, which is not followed", theme)
		}
		return nil
	case "unset":
		for _, a := range args {
			delete(g.vars, a)
			delete(g.unknown, a)
		}
		return nil
	case "[", "test":
		return g.test(n, name, args)
	case "false":
		g.status = no
		return nil
	case "return":
		if len(args) > 0 {
			g.status = triOf(args[0] == "0")
		}
		return errReturned
	case "break", "continue":
		return g.stop(n.line, "%s is not followed", name)
	case "shift":
		if len(g.arguments) > 0 {
			g.arguments = g.arguments[1:]
		}
		return nil
	case "source", ".", "configfile", "normal":
		return g.sourceFile(n, name, args)
	case "search", "search.fs_uuid", "search.fs_label", "search.file":
		return g.search(n, name, args)
	case "menuentry", "submenu":
		return g.addEntry(n, name, args)
	case "load_env":
		return g.loadEnvironment(n, args)
	case "save_env":
		if g.lookup(g.vars["prefix"]+"/grubenv") != nil {
			return g.stop(n.line, "save_env changes the file grubenv, which the next boot may read")
		}
		g.status = no
		return nil
	case "linux", "linuxefi", "linux16":
		return g.linux(n, args)
	case "initrd", "initrdefi", "initrd16":
		return g.initrd(n, args)
	case "boot":
		if !g.loaded {
			return g.stop(n.line, "it boots before a kernel is loaded")
		}
		return errBooted
	case "insmod":
		return g.insmod(n, args)
	}
	if why, found := loaders[name]; found && (name != "fwsetup" || len(args) == 0) {
		return g.stop(n.line, "%s %s, which is not followed", name, why)
	}
	if variable, value, found := strings.Cut(name, "="); found && isVariable(variable) {
		g.assign(variable, value)
		return nil
	}
	if quiet[name] {
		return nil
	}
	for _, a := range args {
		if strings.Contains(a, "/") && g.lookup(a) != nil {
			return g.stop(n.line, "%s may read the file %s, which is not followed", name, a)
		}
	}
	g.status = maybe
	if succeeds, stated := g.in.Outcomes[name]; stated {
		g.status = triOf(succeeds)
	}
	return nil
}

// insmod loads a module: one that is built in is not read from the disk.
func (g *grubRun) insmod(n *scriptNode, args []string) error {
	var builtIn []string
	if g.in.GRUB != nil && g.in.GRUB.GRUB != nil {
		builtIn = g.in.GRUB.GRUB.Modules
	}
	for _, a := range args {
		if slices.Contains(builtIn, a) {
			continue
		}
		if f := g.lookup(g.vars["prefix"] + "/x86_64-efi/" + a + ".mod"); f != nil {
			return g.stop(n.line, "whether GRUB reads the module %s from the disk depends on what is built into it, and on Secure Boot", a)
		}
		g.status = maybe
	}
	return nil
}

// readLists measures the lists of modules that GRUB reads whenever prefix is set (GRUB, grub-core/normal/main.c,
// read_lists).
func (g *grubRun) readLists() {
	for _, list := range []string{"command", "fs", "crypto", "terminal"} {
		name := g.vars["prefix"] + "/x86_64-efi/" + list + ".lst"
		if f := g.lookup(name); f != nil {
			g.emit(grubMeasurement{kind: "file", text: name, file: f})
		}
	}
}

// device splits a path into its device and the rest; the device is $root if none is named.
func (g *grubRun) device(name string) (device, rest string) {
	if strings.HasPrefix(name, "(") {
		if end := strings.IndexByte(name, ')'); end > 0 {
			return name[1:end], name[end+1:]
		}
	}
	return g.vars["root"], name
}

// lookup finds a file that was given. Paths without a device are of the boot device, and of the one that GRUB's search
// finds.
func (g *grubRun) lookup(name string) *File {
	device, rest := g.device(name)
	if f := g.in.Files["("+device+")"+rest]; f != nil {
		return f
	}
	if device != g.in.bootDevice() && device != g.in.SearchResult {
		return nil
	}
	if f := g.in.Files[rest]; f != nil {
		return f
	}
	if device == g.in.bootDevice() { // the EFI system partition is FAT: case does not matter
		for key, f := range g.in.Files {
			if strings.EqualFold(key, rest) {
				return f
			}
		}
	}
	return nil
}

// isFolder tells whether a file that was given is below the path.
func (g *grubRun) isFolder(name string) bool {
	device, rest := g.device(name)
	rest = strings.TrimSuffix(rest, "/") + "/"
	for key := range g.in.Files {
		inner := key
		if strings.HasPrefix(key, "(") {
			if !strings.HasPrefix(key, "("+device+")") {
				continue
			}
			inner = key[len(device)+2:]
		} else if device != g.in.bootDevice() && device != g.in.SearchResult {
			continue
		}
		if len(inner) >= len(rest) && strings.EqualFold(inner[:len(rest)], rest) {
			return true
		}
	}
	return false
}

func (g *grubRun) sourceFile(n *scriptNode, command string, args []string) error {
	if len(args) == 0 {
		g.status = no
		return nil
	}
	f := g.lookup(args[0])
	if f == nil {
		return g.stop(n.line, "it reads %s, which is not given", args[0])
	}
	g.emit(grubMeasurement{kind: "file", text: args[0], file: f})
	if f.Text == nil {
		return g.stop(n.line, "it runs %s, of which the text is not given", args[0])
	}
	if g.depth++; g.depth > maxRunDepth {
		return g.stop(n.line, "files are nested more than %d deep", maxRunDepth)
	}
	before := g.file
	g.file = args[0]
	if command != "source" && command != "." {
		g.vars["config_file"] = args[0]
		g.vars["config_directory"] = args[0][:max(strings.LastIndexByte(args[0], '/'), 0)]
		g.entries = nil
	}
	err := g.script(args[0], *f.Text)
	if errors.Is(err, errReturned) {
		err = nil
	}
	if err == nil && command != "source" && command != "." {
		err = g.menu(nil)
	}
	g.file = before
	g.depth--
	return err
}

// search finds a device by what it holds. What is given tells only of files on the boot disk.
func (g *grubRun) search(n *scriptNode, command string, args []string) error {
	// search [OPTIONS] NAME; search.file NAME [VARIABLE [HINT…]].
	variable, kind := "root", strings.TrimPrefix(command, "search.")
	var names []string
	for i := 0; i < len(args); i++ {
		option, value, joined := strings.Cut(args[i], "=")
		switch {
		case option == "--set" && joined:
			variable = value
		case option == "--file" || option == "-f":
			kind = "file"
		case strings.HasPrefix(option, "--hint") && !joined:
			i++ // its value
		case !strings.HasPrefix(args[i], "-"):
			names = append(names, args[i])
		}
	}
	if len(names) == 0 {
		g.status = no
		return nil
	}
	what := names[0]
	if command != "search" && len(names) > 1 {
		variable = names[1]
	}
	if kind == "file" {
		for _, device := range []string{g.in.bootDevice(), g.in.SearchResult} {
			name := "(" + device + ")" + what
			if f := g.lookup(name); device != "" && f != nil {
				g.emit(grubMeasurement{kind: "file", text: name, file: f})
				g.assign(variable, device)
				return nil
			}
		}
		g.status = no
		return nil
	}
	if g.in.SearchResult != "" {
		g.assign(variable, g.in.SearchResult)
		return nil
	}
	g.status = maybe
	g.unknown[variable] = "which device GRUB finds with \"search\" (line " + itoa(n.line) + ")"
	return nil
}

func (g *grubRun) addEntry(n *scriptNode, name string, args []string) error {
	if len(args) == 0 || !strings.HasPrefix(args[len(args)-1], "{") {
		return g.stop(n.line, "%s without a block is not followed", name)
	}
	block := args[len(args)-1]
	e := menuEntry{body: block[1 : len(block)-1], line: n.line, file: g.file, submenu: name == "submenu"}
	for rest := args[:len(args)-1]; len(rest) > 0; rest = rest[1:] {
		option, value, joined := strings.Cut(rest[0], "=")
		switch option {
		case "--id", "--class", "--users", "--hotkey", "--source":
			if !joined {
				if rest = rest[1:]; len(rest) == 0 {
					return g.stop(n.line, "%s has no value", option)
				}
				value = rest[0]
			}
			if option == "--id" {
				e.id = value
			}
		case "--unrestricted":
		default:
			e.arguments = append(e.arguments, rest[0])
		}
	}
	if len(e.arguments) == 0 {
		return g.stop(n.line, "%s without a title is not followed", name)
	}
	e.title = e.arguments[0]
	g.entries = append(g.entries, e)
	return nil
}

// loadEnvironment reads grubenv: lines NAME=VALUE (GRUB manual, "load_env").
func (g *grubRun) loadEnvironment(n *scriptNode, args []string) error {
	name, only := g.vars["prefix"]+"/grubenv", map[string]bool{}
	for i := 0; i < len(args); i++ {
		switch {
		case (args[i] == "-f" || args[i] == "--file") && i+1 < len(args):
			i++
			name = args[i]
		case strings.HasPrefix(args[i], "--file="):
			name = strings.TrimPrefix(args[i], "--file=")
		case !strings.HasPrefix(args[i], "-"):
			only[args[i]] = true
		}
	}
	f := g.lookup(name)
	if f == nil {
		g.status = no
		return nil
	}
	if f.Text == nil {
		return g.stop(n.line, "it reads variables from %s, of which the text is not given", name)
	}
	g.emit(grubMeasurement{kind: "file", text: name, file: f})
	for _, line := range strings.Split(*f.Text, "\n") {
		variable, value, found := strings.Cut(line, "=")
		if found && !strings.HasPrefix(line, "#") && (len(only) == 0 || only[variable]) {
			g.assign(variable, value)
		}
	}
	return nil
}

func (g *grubRun) linux(n *scriptNode, args []string) error {
	if len(args) == 0 {
		g.status = no
		return nil
	}
	f := g.lookup(args[0])
	if f == nil {
		f = g.in.Kernel
	}
	if f == nil {
		return g.stop(n.line, "it loads the kernel %s, which is not given", args[0])
	}
	g.emit(grubMeasurement{kind: "file", text: args[0], file: f})
	g.emit(grubMeasurement{kind: "kernel", text: args[0], file: f})
	line := make([]string, len(args))
	for i, a := range args {
		line[i] = quoted(a)
	}
	g.cmdline = strings.Join(line, " ")
	g.emit(grubMeasurement{kind: "cmdline", text: g.cmdline})
	g.loaded = true
	return nil
}

// quoted writes an argument as GRUB does in a kernel's command line (GRUB, grub-core/lib/cmdline.c).
func quoted(a string) string {
	a = strings.NewReplacer(`\`, `\\`, `'`, `\'`, `"`, `\"`).Replace(a)
	if strings.Contains(a, " ") {
		return `"` + a + `"`
	}
	return a
}

func (g *grubRun) initrd(n *scriptNode, args []string) error {
	for i, a := range args {
		if strings.HasPrefix(a, "newc:") {
			return g.stop(n.line, "initrd with newc: is not followed")
		}
		f := g.lookup(a)
		if f == nil && len(g.in.Initrds) == len(args) {
			f = g.in.Initrds[i]
		}
		if f == nil {
			return g.stop(n.line, "it loads the initrd %s, which is not given", a)
		}
		g.emit(grubMeasurement{kind: "file", text: a, file: f})
		g.emit(grubMeasurement{kind: "initrd", text: a, file: f})
	}
	return nil
}
