package attester

import (
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/platform"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
)

// text reads a small file of the host; empty when it cannot be read.
func text(host fs.FS, name string) string {
	b, err := fs.ReadFile(host, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(strings.TrimRight(string(b), "\x00"))
}

// DetectMachine says what machine this is, as well as can be seen from within: for the inventory, and
// never trusted. host is the root file system. device may be nil; it tells Azure's confidential VMs.
func DetectMachine(host fs.FS, device *tpmdevice.Device) client.Machine {
	m := client.Machine{OS: runtime.GOOS, ExternalID: text(host, "etc/machine-id"), Platform: hostPlatform(host)}
	if name, err := os.Hostname(); err == nil {
		m.Name = name
	}
	m.SecurityType = securityType(host, m.Platform, device)
	return m
}

// azureChassis is the SMBIOS asset tag of every Azure virtual machine, and of nothing else on Hyper-V.
const azureChassis = "7783-7084-3265-9085-8269-3286-77"

func hostPlatform(host fs.FS) string {
	dmi := func(name string) string { return text(host, "sys/class/dmi/id/"+name) }
	vendor, product := dmi("sys_vendor"), dmi("product_name")
	hypervisor := false
	for field := range strings.FieldsSeq(text(host, "proc/cpuinfo")) {
		if field == "hypervisor" {
			hypervisor = true
			break
		}
	}
	switch {
	case dmi("chassis_asset_tag") == azureChassis:
		return "azure"
	case product == "Google Compute Engine":
		return "gcp"
	case vendor == "Amazon EC2" && !strings.HasSuffix(product, ".metal"), strings.Contains(dmi("bios_version"), "amazon"):
		return "aws"
	case strings.HasPrefix(vendor, "VMware"):
		return "vmware"
	case vendor == "QEMU", strings.HasPrefix(product, "Standard PC"), product == "KVM":
		return "qemu"
	case hypervisor || vendor == "":
		return "other"
	}
	return "physical"
}

func securityType(host fs.FS, where string, device *tpmdevice.Device) string {
	exists := func(name string) bool { _, err := fs.Stat(host, name); return err == nil }
	switch {
	case exists("dev/sev-guest"):
		return "confidential_snp"
	case exists("dev/tdx_guest"), exists("dev/tdx-guest"):
		return "confidential_tdx"
	}
	if where == "azure" && device != nil {
		if t := platform.AzureSecurityType(device); t != "" {
			return t
		}
	}
	switch where {
	case "physical":
		return "physical"
	case "azure", "gcp", "aws": // a virtual TPM comes with their trusted-launch kinds only
		return "trusted_launch"
	}
	return "standard"
}

// agentInfo is what evidence says of the running system.
func agentInfo(host fs.FS, version string) client.Agent {
	info := client.Agent{
		Version: version,
		BootID:  text(host, "proc/sys/kernel/random/boot_id"),
		Kernel:  text(host, "proc/sys/kernel/osrelease"),
	}
	up, _, _ := strings.Cut(text(host, "proc/uptime"), " ")
	if seconds, err := strconv.ParseFloat(up, 64); err == nil && seconds >= 0 {
		info.UptimeSeconds = seconds
	}
	return info
}
