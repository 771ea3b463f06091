package finding

import "github.com/assay-verifier/assay/verifier/eventlog"

// The loader measures how it unlocked each volume that it read; 0 is a volume without BitLocker.
var windowsBitLocker = &Rule{
	Code:      "windows_bitlocker",
	Title:     "The disk of Windows should be protected by BitLocker",
	Severity:  Low,
	Area:      "windows",
	Kinds:     []Kind{KindRecommendation},
	Condition: "All that Windows measured is known, and no volume that its loader read was unlocked by BitLocker; or one was unlocked with a recovery password.",
	Why:       "Without BitLocker whoever has the disk, or starts another system on the machine, reads and changes all of it. A recovery password is asked for where the TPM found the boot changed.",
	Needs:     []string{"claims.windows", "inventory.os"},
	Citations: []Citation{
		{"Microsoft Learn, BitLocker overview", "Practical applications", "https://learn.microsoft.com/en-us/windows/security/operating-system-security/data-protection/bitlocker/"},
		{"Microsoft Learn, Azure Attestation, examples of policies for TPM attestation", "BitLocker status from EVENT_BITLOCKER_UNLOCK", "https://learn.microsoft.com/en-us/azure/attestation/tpm-attestation-sample-policies"},
		{"Windows SDK, wbcl.h", "SIPAEVENT_BITLOCKER_UNLOCK, FVEB_UNLOCK_FLAG_*", "https://learn.microsoft.com/en-us/windows/win32/api/wbcl/"},
	},
	Steps: map[string][]string{
		"windows": {
			"On Windows, `manage-bde -status` shows which volumes are protected and how.",
			"Turn BitLocker on: `Enable-BitLocker -MountPoint C: -TpmProtector`, and keep the recovery password in the directory.",
			"Where a recovery password was used: ask who used it and why. It is expected after an update of firmware or a change of Secure Boot's keys; otherwise find out what changed in the boot, which the verdict's deviations tell.",
		},
	},
	evaluate: aboutWindows(func(in *Input, w *eventlog.Windows) judgement {
		if w.BitLockerUnlock == nil || !w.Complete {
			return judgement{}
		}
		var all uint32
		for _, flags := range w.BitLockerUnlock {
			all |= flags
		}
		switch {
		case all == 0:
			return judgement{text: "The disk that Windows on " + in.subject() + " was loaded from is not protected by BitLocker: none of the volumes that its loader read had to be unlocked."}
		case all&unlockedByRecovery != 0:
			return judgement{text: "A volume of " + in.subject() + " was unlocked with a BitLocker recovery password, and not by the TPM."}
		}
		return judgement{known: true}
	}),
}

// unlockedByRecovery is FVEB_UNLOCK_FLAG_RECOVERY.
const unlockedByRecovery = 0x40
