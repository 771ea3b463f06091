// Package backup writes the whole database into one file, and makes a database of such a file again.
//
// It needs no pg_dump: neither the image of the service nor the embedded Postgres of an npm package has one, and a
// pg_dump that is older than the server refuses to work. It reads by COPY in the text form, which every version of Postgres
// reads, in one REPEATABLE READ snapshot, so that a service may go on writing meanwhile: what is in the file is what was
// committed when the snapshot was taken, of all tables at once.
//
// # The file
//
// Eight bytes "assaybk" and the version of the format, 1. Then records, each a byte that tells its kind, the length of its content
// as 32 bits big endian, and the content:
//
//	H  first: Header, a JSON object
//	T  begin of a table: its place in Header.Tables, 32 bits big endian; the tables come in that order
//	D  up to a MiB of the table's rows in the text form of COPY, as a zstd frame
//	E  end of the table: TableEnd, a JSON object
//	Z  last: Trailer, a JSON object
//
// and at the very end the SHA-256 of all bytes before it. So every bit of the file is covered, and a file that was cut off is
// told from a whole one. Memory is bounded by the length of a record, whatever the file says.
//
// The digest tells damage and no forgery: who can write the file can write its digest. Keep it as you keep the
// database, or sign it.
//
// # What is in it
//
// Every table whose primary key begins with tenant_id, and the jobs that wait (river_job, river_queue). Not the schema: it
// is made again by the migrations up to the version that Header names, so a file is restored by the service of its version or any
// later one, which then migrates on. Not the key-encryption key: it is in no database (see package keyring). Header names
// the keys that are needed, and whether any key is in the file unsealed.
package backup
