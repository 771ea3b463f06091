package finding

// Firmware should keep devices from reading and writing memory before the operating system does. Firmware that could and
// is told not to says so in PCR 7; firmware that cannot says nothing, and then nothing is known.
var dmaProtectionDisabled = &Rule{
	Code:      "dma_protection_disabled",
	Title:     "Protection against DMA should be on in firmware",
	Severity:  Medium,
	Area:      "firmware",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Firmware measured \"DMA Protection Disabled\" in PCR 7.",
	Why:       "A device on Thunderbolt or PCIe can read keys out of memory and change what boots, before the operating system sets up the IOMMU; the measurements stay those of an honest boot.",
	Needs:     []string{"claims.dma_protection_disabled"},
	Citations: []Citation{
		{"Microsoft, Kernel DMA Protection for OEMs", "requirements of the platform firmware (PCR 7)", "https://learn.microsoft.com/windows-hardware/design/device-experiences/oem-kernel-dma-protection"},
		{"TCG PC Client Platform Firmware Profile 1.06", "section 3.3.4.8 (PCR 7)", "https://trustedcomputinggroup.org/resource/pc-client-specific-platform-firmware-profile-specification/"},
	},
	Steps: map[string][]string{
		"": {
			"Turn on the IOMMU (VT-d, AMD-Vi) and the protection against DMA before boot in the firmware setup; makers call it Kernel DMA Protection, Pre-boot DMA Protection or DMA Security.",
			"Boot again and capture a new baseline, since PCR 7 changes.",
		},
		"linux":   {"On Linux, `fwupdmgr security` shows Pre-boot DMA protection and IOMMU; `cat /sys/bus/thunderbolt/devices/domain0/iommu_dma_protection` must be 1."},
		"windows": {"On Windows, `msinfo32` shows Kernel DMA Protection, which must be On."},
	},
	evaluate: func(r *Rule, in *Input, out *Result) {
		c := provenClaims(in)
		switch {
		case c == nil:
		case isTrue(c.DMAProtectionDisabled):
			r.recommend(in, out, "The firmware of "+in.subject()+" measured that its protection against DMA is disabled: until the operating system takes over, a device can read and write all memory.")
		case c.FirmwareDebugger != nil: // PCR 7 is known to its separator, and says nothing of the kind
			r.settle(out)
		}
	},
}
