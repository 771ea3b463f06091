// Package revocations is what is known to be bad: the official lists of dbx, and the revocation levels of SBAT. It
// reads them, verifies signed updates, and says what of a boot is revoked. It is pure.
//
//	set, err := revocations.Shipped()                     // or With what a tenant adds
//	assessment := set.Assess(appraisal.Measurements, appraisal.Claims.Claims)
//
// Three kinds of data make a set:
//
//   - dbx: signed updates as uefi.org and Microsoft publish them. Verify checks the PKCS#7 signature as firmware does.
//     Their timestamps say nothing (all are of 2010, since they append), so an update only ever adds, and an old one
//     takes nothing away.
//   - dbx_info: Microsoft's JSON that says of each digest which file it is, of whom and why. It is not signed. What it
//     lists and no signed update revokes counts on the word of whoever imported it.
//   - sbat_level: the text of shim's SbatLevel.
//
// What cannot be told: which generation of shim or GRUB booted, since their .sbat sections are not measured. A level
// tells what shim refuses; GRUB of an older generation did not run under it. Entries that revoke a certificate by the
// digest of its to-be-signed part are kept, but no log shows that digest.
package revocations
