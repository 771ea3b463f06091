// Package ima reads the runtime measurement list of the Linux Integrity Measurement Architecture and
// proves it against a quoted PCR 10.
//
// The use is three steps:
//
//	list, err := ima.Parse(raw)                // ascii_ or binary_runtime_measurements, told apart by content
//	next, rep := list.Replay(quotedPCR10, from) // which entries does the quote prove?
//	judgement := list.Judge(policy, rep)        // are the proven entries the expected files?
//
// Parse believes nothing and proves nothing: an Entry is a claim until Replay says how many entries, from
// the first on, the quoted PCR 10 accounts for. Only those are judged.
//
// What the quote proves of an entry is its template data (file digest, path, signature, buffer), because
// PCR 10 is extended with the hash of that data. It does not prove:
//
//   - the template's name: an entry whose data does not read as its template says has a Fault, and Judge
//     reports it;
//   - the data of a violation: for it the kernel extends all ones, whatever the list says
//     (Entry.Violation). A violation's path therefore decides nothing;
//   - entries beyond the quote: the list grows after the quote was taken, so they are counted and left
//     for the next time;
//   - entries of another PCR than 10 (an IMA policy rule may say pcr=N): they are counted, and reported.
//
// Reading goes on where it stopped: the State that Replay returns holds the entry count and the value of
// PCR 10 in each bank, and the next list starts with entry State.Entries. An entry costs two or three
// hashes and no allocation.
//
// # Formats
//
// The layout is that of the kernel's security/integrity/ima/ima_fs.c (functions
// ima_measurements_show and ima_ascii_measurements_show), ima_template.c and ima_template_lib.c. All
// templates that the kernel defines are known: ima, ima-ng, ima-ngv2, ima-sig, ima-sigv2, ima-buf,
// ima-modsig, evm-sig, and formats of the boot option ima_template_fmt= that begin with a digest and a
// name. Any other template is kept as data; in a binary list it still replays, in an ASCII list it
// replays in the SHA-1 bank only, since the bytes that were hashed cannot be rebuilt.
//
// Binary lists of big-endian machines (written without ima_canonical_fmt) are detected and read. Lists
// whose template hash is not SHA-1 (binary_runtime_measurements_sha256 and its siblings, Linux 6.10) are
// read as well. Binary is the better format: in the ASCII one a file name with a line feed is
// indistinguishable from two lines, which makes Parse or Replay fail.
package ima
