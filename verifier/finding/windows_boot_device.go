package finding

import "github.com/assay-verifier/assay/verifier/eventlog"

// The device is what the loader was told to start Windows from. Of other systems the log tells no such thing: the paths of
// images are covered by no digest, and which of the boot options was taken is not measured.
var windowsBootDevice = &Rule{
	Code:      "windows_boot_device",
	Title:     "Windows should start from its own disk",
	Severity:  Medium,
	Area:      "windows",
	Kinds:     []Kind{KindRecommendation},
	Condition: "Windows measured that it was loaded from a removable disk, a CD-ROM, a RAM disk or the network.",
	Why:       "Whoever brings the medium, or answers on the network, decides which Windows runs, and the machine's own disk lies open to it.",
	Needs:     []string{"claims.windows", "inventory.os"},
	Citations: []Citation{
		{"Windows SDK, wbcl.h", "SIPAEVENT_OSDEVICE, OSDEVICE_TYPE", "https://learn.microsoft.com/en-us/windows/win32/api/wbcl/"},
		{"Microsoft Learn, BCD WMI Provider", "BcdOSLoaderDevice_OSDevice", "https://learn.microsoft.com/en-us/previous-versions/windows/desktop/bcd/bcdosloaderelementtypes"},
	},
	Steps: map[string][]string{
		"windows": {
			"Ask whether somebody repairs or installs the machine right now (Windows Setup and the recovery environment run from a RAM disk).",
			"Take out removable media, put the machine's own disk first in the firmware's boot order, and turn off network boot where it is not wanted.",
			"Set a password for the firmware's setup and boot menu.",
			"Reboot; the next attestation confirms the change.",
		},
	},
	evaluate: aboutWindows(func(in *Input, w *eventlog.Windows) judgement {
		if w.OSDevice == nil {
			return judgement{}
		}
		if from, odd := oddDevices[*w.OSDevice]; odd {
			return judgement{text: "Windows on " + in.subject() + " was loaded from " + from + " and not from the machine's own disk."}
		}
		return judgement{known: true}
	}),
}

// oddDevices are what a machine's own Windows does not start from, in words.
var oddDevices = map[string]string{
	eventlog.DeviceRemovable: "a removable disk", eventlog.DeviceCDROM: "a CD-ROM",
	eventlog.DeviceRAMDisk: "a RAM disk", eventlog.DeviceNetwork: "the network",
}
