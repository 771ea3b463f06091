package finding

import (
	"fmt"
	"strings"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/cmdline"
)

// What the kernel is told at its start decides what everything after it is worth. Each parameter of dangers has its own
// reason and severity; the recommendation has the highest of them.
var kernelCommandLineDangerous = &Rule{
	Code:      "kernel_command_line_dangerous",
	Title:     "The Linux kernel's command line should weaken nothing",
	Severity:  Medium,
	Area:      "kernel",
	Kinds:     []Kind{KindRecommendation},
	Condition: "The proven kernel command line, or one of several that were measured, has a parameter that opens a root shell or runs foreign code (high), that turns a protection off or opens a mode for repairs (medium), or that weakens a protection (low).",
	Why:       "Whoever can write the command line can become root without a password, or take away what would have stopped him, and no signature covers it where a boot loader reads it from a file.",
	Needs:     []string{"claims.kernel_cmdline", "claims.kernel_cmdline_candidates", "claims.secure_boot_effective", "inventory.os"},
	Citations: []Citation{
		{"Linux kernel, admin-guide", "The kernel's command-line parameters", "https://www.kernel.org/doc/html/latest/admin-guide/kernel-parameters.html"},
		{"Linux kernel, admin-guide", "Hardware vulnerabilities", "https://www.kernel.org/doc/html/latest/admin-guide/hw-vuln/index.html"},
		{"kernel-command-line(7)", "Core OS Command Line Arguments", "https://www.freedesktop.org/software/systemd/man/latest/kernel-command-line.html"},
		{"dracut.cmdline(7)", "Misc, Debug", "https://man7.org/linux/man-pages/man7/dracut.cmdline.7.html"},
		{"initramfs-tools(7)", "KERNEL PARAMETERS", "https://manpages.debian.org/stable/initramfs-tools-core/initramfs-tools.7.en.html"},
	},
	Steps: map[string][]string{
		"linux": {
			"On Linux, compare with `cat /proc/cmdline`, and ask who put the named parameters there: one that was typed into the boot menu is gone after the next boot, one in a file stays.",
			"Debian, Ubuntu: take them out of GRUB_CMDLINE_LINUX in /etc/default/grub and run `sudo update-grub`. Fedora, Red Hat: `sudo grubby --update-kernel=ALL --remove-args=\"PARAMETER\"`. systemd-boot: edit /etc/kernel/cmdline and run `sudo kernel-install add-all`. A unified kernel image: build it anew.",
			"Set a password for the boot loader's menu (`grub-mkpasswd-pbkdf2`; `editor no` in loader.conf), or use a signed unified kernel image, so that nobody at the console can add parameters.",
			"Reboot, and register the new command line in the baseline. If nobody knows where a parameter that opens a shell came from, treat the machine as broken into.",
		},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		if in.Machine.OS == "windows" {
			r.settle(out)
			return
		}
		if in.Appraisal == nil {
			return
		}
		lines, certain := kernelCmdlines(in.Appraisal)
		severity, parts := weakened(lines, in.Appraisal)
		switch {
		case len(parts) > 0:
			what := "The proven kernel command line of " + in.subject()
			if !certain {
				what = "Several kernel command lines were measured on " + in.subject() + ", and the log does not tell which one the kernel was given; what they hold"
			}
			r.recommendAt(severity, in, out, what+" weakens it: "+strings.Join(parts, "; ")+".")
		case certain:
			r.settle(out)
		}
	},
}

// weakened names the dangers in the lines, in the order of the table, and the highest severity of them.
func weakened(lines []string, a *verifier.Appraisal) (severity Severity, parts []string) {
	seen, more := map[string]bool{}, 0
	for _, line := range lines {
		parsed := cmdline.Parse(line)
		for i := range dangers {
			d := &dangers[i]
			for _, text := range d.found(parsed, a) {
				if seen[text] {
					continue
				}
				seen[text] = true
				severity = higher(severity, d.severity)
				if len(parts) == maxListed {
					more++
					continue
				}
				parts = append(parts, "`"+shorten(text)+"` "+d.reason)
			}
		}
	}
	if more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return severity, parts
}

var severityRank = map[Severity]int{Low: 1, Medium: 2, High: 3}

func higher(a, b Severity) Severity {
	if severityRank[b] > severityRank[a] {
		return b
	}
	return a
}
