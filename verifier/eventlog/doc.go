// Package eventlog reads the boot log that firmware and boot loaders keep beside a TPM's PCRs, proves
// it against a verified quote, and says in plain words and in typed claims what was booted.
//
// A log is a list of records; each says which PCR was extended, with which digests, and carries data
// that explains the digest. The log itself is untrusted: it comes from the operating system that is
// being judged. What can be believed is decided in three steps, each with its own type:
//
//	log, err := eventlog.Parse(raw)            // *Log: structure only; nothing in it is believed
//	m, report := eventlog.Replay(quote, log)   // *Measurements: what the quoted PCRs prove
//	claims := m.Claims()                       // *Claims: what proven digests prove of the data
//
// Replay accepts nothing but a *tpm.VerifiedQuote, and only Replay makes *Measurements. A PCR whose
// replayed value is not the quoted one proves nothing, and no claim is drawn from it.
//
// Of a record in a PCR that replayed, the PCR, the order within that PCR and the digests are proven.
// The event type is not: no claim is decided by it. The data is proven only where the digest is the
// hash of it (Event.Covered); the file name of a boot loader, for example, is not.
//
// # Registers of TDX guests
//
// A CC event log is proven by ReplayRTMR against the run-time measurement registers of a *tee.Report, which only
// tee.Verify makes. Its events are decoded as those of a TPM's log are, and its claims are fewer: what a TPM keeps
// apart in PCRs shares a register, where more can be dressed up (registers.go, claims_registers.go).
//
// # Formats
//
// Parse reads the SHA-1 log of TCG 1.2 (TCG_PCR_EVENT), the crypto-agile log of TPM 2.0
// (TCG_PCR_EVENT2 after a Spec ID Event03 header), the Windows WBCL and CC event logs (CCEL, whose
// "PCR" is a measurement register index). Several logs in one
// buffer, as Windows keeps them, are separate logs: the last one that replays counts.
//
// # Sources
//
// TCG PC Client Platform Firmware Profile 1.06 (records: section 10), TCG EFI Protocol 2.0, UEFI 2.10
// (variables and signature lists: section 32; device paths: section 10; GPT: section 5), shim, GRUB
// and systemd documentation, Windows SDK wbcl.h.
package eventlog
