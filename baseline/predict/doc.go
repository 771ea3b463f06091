// Package predict computes what a machine will measure from the files that it boots, before it boots: the event
// digests and PCR values of shim, GRUB, systemd-boot, unified kernel images, Linux kernels and the Secure Boot
// variables, with the words and keys of verifier/eventlog, so that a prediction pairs with a captured log.
//
// What the given files do not determine is never guessed. Each PCR from 0 to 15 has a Finding that says whether it is
// determined, and in plain words why not. Where software of different versions is known to measure in different ways
// and the version is not known, all of the ways are computed: an event that only some of them have is allowed and not
// required, and each of their PCR values is acceptable.
//
// Sources: Windows Authenticode Portable Executable Signature Format 1.0; TCG PC Client Platform Firmware Profile
// 1.06; UEFI 2.10; shim (mok.c, sbat.c, shim.c); GRUB manual 2.12, "Measured Boot"; systemd-stub(7) and
// https://systemd.io/TPM2_PCR_MEASUREMENTS/. The package is pure: files come in as io.ReaderAt or as hashes.
package predict
