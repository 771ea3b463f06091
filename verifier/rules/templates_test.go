package rules_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/boottest"
	"github.com/assay-verifier/assay/verifier/rules"
)

const root = "../.."

// template is one of the templates.
func template(t testing.TB, name string) verifier.Policy {
	t.Helper()
	all, err := rules.Templates()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(x rules.Template) bool { return x.Name == name })
	if i < 0 {
		t.Fatalf("no template %s", name)
	}
	return all[i].Policy
}

// judge judges a specimen by a policy's rules and demands.
func judge(t testing.TB, specimen string, policy verifier.Policy) *verifier.Appraisal {
	t.Helper()
	ev, in := boottest.Evidence(t, boottest.Read(t, specimen))
	policy.PCRs, policy.AllowSHA1PCRs = in.Policy.PCRs, true
	set, err := rules.Compile(policy.Rules)
	if err != nil {
		t.Fatal(err)
	}
	in.Policy, in.Rules, in.Machine = policy, set, &verifier.MachineFacts{Name: "m", OS: "linux", Labels: map[string]string{"env": "prod"}}
	return verifier.Appraise(ev, in)
}

// check is the check policy.rules.
func check(t testing.TB, a *verifier.Appraisal) verifier.Check {
	t.Helper()
	for _, c := range a.Checks {
		if c.Code == verifier.CheckPolicyRules {
			return c
		}
	}
	t.Fatal("no check policy.rules")
	return verifier.Check{}
}

// broken are the names of the rules that do not hold, as the detail of the check gives them.
func broken(c verifier.Check) string {
	if c.Status == verifier.Pass {
		return ""
	}
	var names []string
	for _, part := range strings.Split(c.Detail, "; ") {
		name, _, _ := strings.Cut(part, ":")
		name, unknown := strings.CutSuffix(name, " could not be evaluated")
		if unknown {
			name += "?"
		}
		names = append(names, name)
	}
	return string(c.Status) + " " + strings.Join(names, " ")
}

func TestTemplatesOnRealLogs(t *testing.T) {
	for _, path := range boottest.Specimens(t, root) {
		name := boottest.Name(path)
		var got [4]string
		for i, kind := range []string{"windows", "grub", "uki", "cloud_vm"} {
			got[i] = broken(check(t, judge(t, path, template(t, kind))))
		}
		if want, ok := templateTable[name]; !ok || got != want {
			t.Errorf("%q: {%q, %q, %q, %q},", name, got[0], got[1], got[2], got[3])
		}
	}
	if len(templateTable) != len(boottest.Specimens(t, root)) {
		t.Errorf("the table has %d specimens, and there are %d", len(templateTable), len(boottest.Specimens(t, root)))
	}
}

// What the templates windows, grub, uki and cloud_vm say of each real boot log; empty where they have nothing to say
// against it. Several specimens were made by machines that have no Secure Boot, or are parts of logs.
var templateTable = map[string][4]string{
	"eventlogs/baremetal/guard-binary_bios_measurements_15":                 {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"eventlogs/baremetal/guard-dell-notebook-5eventlogs-WBCL.log":           {"", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"eventlogs/baremetal/guard-linux_event_log":                             {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", "warn no_option_roms"},
	"eventlogs/baremetal/guard-set-elitebook830g6-mok-baseline":             {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"eventlogs/baremetal/guard-set-elitebook830g6-mokx-added":               {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"eventlogs/baremetal/guard-set-h12ssl-values":                           {"fail windows_measured", "", "fail unified_kernel_image no_grub", "warn no_option_roms"},
	"eventlogs/baremetal/guard-set-t480s-win10":                             {"", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"eventlogs/baremetal/guard-tpm12_windows_lenovo_x1carbonv3":             {"", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"eventlogs/gce/arch-linux-workstation.bin":                              {"fail windows_measured", "", "fail unified_kernel_image", "warn no_option_roms"},
	"eventlogs/gce/cos-101-amd-sev.bin":                                     {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"eventlogs/gce/cos-85-amd-sev.bin":                                      {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"eventlogs/gce/cs251200tpm.bin":                                         {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"eventlogs/gce/debian-10.bin":                                           {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"eventlogs/gce/eventlogwithsp800155.bin":                                {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"eventlogs/gce/gdc-host.bin":                                            {"fail windows_measured", "", "fail unified_kernel_image no_grub", "warn no_option_roms"},
	"eventlogs/gce/rhel8-uefi.bin":                                          {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"eventlogs/gce/ubuntu-1804-amd-sev.bin":                                 {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"eventlogs/gce/ubuntu-2104-no-secure-boot.bin":                          {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"eventlogs/misc/goattest-coreos_36_shielded_vm_no_secure_boot_eventlog": {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"eventlogs/misc/goattest-crypto_agile_eventlog":                         {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"eventlogs/misc/goattest-sb_cert_eventlog":                              {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"eventlogs/misc/hirs-TpmLog.bin":                                        {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"eventlogs/misc/ita-binary_bios_measurements20":                         {"fail windows_measured", "", "fail unified_kernel_image no_grub", "warn no_option_roms"},
	"eventlogs/misc/keylime-binary_bios_measurements":                       {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"eventlogs/misc/keylime-mb_log.bin":                                     {"fail windows_measured", "", "fail unified_kernel_image no_grub", "warn no_option_roms"},
	"eventlogs/misc/tpm2-tools-event-bootorder.bin":                         {"fail windows_measured", "", "fail unified_kernel_image no_grub", "warn no_option_roms"},
	"eventlogs/misc/tpm2-tools-event-postcode.bin":                          {"fail windows_measured", "", "fail unified_kernel_image no_grub", "warn no_option_roms"},
	"eventlogs/misc/tpm2-tools-event-uefi-sha1-log.bin":                     {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"eventlogs/misc/tpm2-tools-event-uefiaction.bin":                        {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", "fail boot_measured"},
	"eventlogs/misc/tpm2-tools-event-uefiservices.bin":                      {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", "fail boot_measured no_option_roms"},
	"eventlogs/misc/tpm2-tools-event.bin":                                   {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", "fail boot_measured"},
	"eventlogs/misc/tpm2-tools-specid-vendordata.bin":                       {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", "fail boot_measured"},
	"quotes/goattest-windows-gce-shielded-vm":                               {"", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"quotes/guard-dell-r340-win2019-a":                                      {"", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", "warn no_option_roms"},
	"quotes/guard-haruhi-gentoo-a":                                          {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"quotes/guard-haruhi-gentoo-b":                                          {"fail windows_measured", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"quotes/guard-supermicro-win2022-a":                                     {"", "fail grub_measured kernel_command_line_known", "fail unified_kernel_image", ""},
	"boots/cmdline":                                                         {"fail windows_measured", "fail no_rescue mandatory_access_control mitigations", "fail unified_kernel_image no_grub", ""},
	"boots/grubcfg-tampered":                                                {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"boots/hw-changed":                                                      {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"boots/ima-critical":                                                    {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"boots/ima-ng":                                                          {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"boots/ima-tcb-1":                                                       {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"boots/ima-tcb-2":                                                       {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"boots/initrd-tampered":                                                 {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"boots/mok-signed":                                                      {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"boots/sb-on-1":                                                         {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"boots/sb-on-2":                                                         {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"boots/sb-on-otherbox":                                                  {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"boots/sb-on-sha384bank":                                                {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
	"boots/snakeoil":                                                        {"fail windows_measured", "fail grub_measured kernel_command_line_known", "", ""},
	"boots/uki-direct":                                                      {"fail windows_measured", "fail grub_measured kernel_command_line_known", "", ""},
	"boots/uki-sdboot-1":                                                    {"fail windows_measured", "fail grub_measured", "warn no_other_command_line", ""},
	"boots/unlogged-extend":                                                 {"fail windows_measured", "", "fail unified_kernel_image no_grub", ""},
}
