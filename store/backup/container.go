package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	magic      = "assaybk\x01"
	magicName  = 7       // bytes of magic before the version of the format
	chunk      = 1 << 20 // rows in a record, before compression
	maxFrame   = chunk + chunk/8 + 1024
	maxObject  = 4 << 20
	digestSize = sha256.Size
)

// The kinds of records.
const (
	recordHeader  = 'H'
	recordTable   = 'T'
	recordData    = 'D'
	recordEnd     = 'E'
	recordTrailer = 'Z'
)

// ErrDamaged is a file that is not what was written: cut off, changed, or no backup at all.
var ErrDamaged = errors.New("the backup is damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// Header is what a file begins with.
type Header struct {
	CreatedAt time.Time `json:"created_at"` // of the snapshot, by the database's clock
	Assay     string    `json:"assay"`      // version of the program that wrote it
	Postgres  string    `json:"postgres"`   // version of the server
	// SchemaVersion is the last migration, JobsVersion that of the job queue; 0 where it has none yet.
	SchemaVersion uint `json:"schema_version"`
	JobsVersion   int  `json:"jobs_version"`
	Tenants       int  `json:"tenants"`
	// KeyEncryptionKeys are the ids of the keys that sealed the service's keys, none of which is in the file. PlainKeys counts the
	// service's keys that are in it as they are.
	KeyEncryptionKeys []string `json:"key_encryption_keys"`
	PlainKeys         int      `json:"plain_keys"`
	Tables            []Table  `json:"tables"`
}

// Table is what of a table is in the file. A name without a schema is of the schema that the service uses.
type Table struct {
	Name    string   `json:"name"`
	Columns []string `json:"columns"`
	// Months are those that the table had a partition for (2026-11), by its column PartitionKey.
	PartitionKey string   `json:"partition_key,omitempty"`
	Months       []string `json:"months,omitempty"`
}

// TableEnd is what was written of a table.
type TableEnd struct {
	Name   string `json:"name"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`  // of the text form
	SHA256 string `json:"sha256"` // of the text form
}

// Trailer is what a file ends with.
type Trailer struct {
	Contents []TableEnd `json:"contents"`
	Rows     int64      `json:"rows"`
}

// Manifest is all that a file says of itself.
type Manifest struct {
	Header
	Trailer
	SHA256 string `json:"sha256"` // of the file before its digest
}

// writer writes a file. Its methods are called in the order of the records.
type writer struct {
	to      *bufio.Writer
	sum     hash.Hash
	encoder *zstd.Encoder
	buffer  []byte // rows that are not written yet
	frame   []byte
	header  Header
	table   int // the place of the table that is being written
	end     TableEnd
	rows    hash.Hash
	trailer Trailer
}

func newWriter(to io.Writer, h Header) (*writer, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	w := &writer{to: bufio.NewWriterSize(to, 64<<10), sum: sha256.New(), encoder: encoder, buffer: make([]byte, 0, chunk), header: h, table: -1}
	if err := w.write([]byte(magic)); err != nil {
		return nil, err
	}
	return w, w.object(recordHeader, h)
}

func (w *writer) write(b []byte) error {
	_, _ = w.sum.Write(b)
	_, err := w.to.Write(b)
	return err
}

func (w *writer) record(kind byte, content []byte) error {
	if err := w.write(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(content)))); err != nil {
		return err
	}
	return w.write(content)
}

func (w *writer) object(kind byte, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(text) > maxObject {
		return fmt.Errorf("a record of %d bytes is more than a backup may hold", len(text))
	}
	return w.record(kind, text)
}

// begin begins the next table of the header.
func (w *writer) begin() error {
	w.table++
	w.end = TableEnd{Name: w.header.Tables[w.table].Name}
	w.rows = sha256.New()
	return w.record(recordTable, binary.BigEndian.AppendUint32(nil, uint32(w.table)))
}

// Write takes rows of the table.
func (w *writer) Write(p []byte) (int, error) {
	n := len(p)
	_, _ = w.rows.Write(p)
	w.end.Bytes += int64(n)
	for len(p) > 0 {
		free := min(chunk-len(w.buffer), len(p))
		w.buffer = append(w.buffer, p[:free]...)
		p = p[free:]
		if len(w.buffer) == chunk {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (w *writer) flush() error {
	if len(w.buffer) == 0 {
		return nil
	}
	w.frame = w.encoder.EncodeAll(w.buffer, w.frame[:0])
	w.buffer = w.buffer[:0]
	return w.record(recordData, w.frame)
}

// finish ends the table.
func (w *writer) finish(rows int64) error {
	if err := w.flush(); err != nil {
		return err
	}
	w.end.Rows, w.end.SHA256 = rows, hex.EncodeToString(w.rows.Sum(nil))
	w.trailer.Contents = append(w.trailer.Contents, w.end)
	w.trailer.Rows += rows
	return w.object(recordEnd, w.end)
}

// close writes the end of the file.
func (w *writer) close() (Manifest, error) {
	if err := w.object(recordTrailer, w.trailer); err != nil {
		return Manifest{}, err
	}
	sum := w.sum.Sum(nil)
	if _, err := w.to.Write(sum); err != nil {
		return Manifest{}, err
	}
	if err := w.to.Flush(); err != nil {
		return Manifest{}, err
	}
	return Manifest{Header: w.header, Trailer: w.trailer, SHA256: hex.EncodeToString(sum)}, w.encoder.Close()
}

// reader reads a file. What it gives was not altered by chance; what is missing at the end shows only at finish.
type reader struct {
	from    *bufio.Reader
	sum     hash.Hash
	decoder *zstd.Decoder
	buffer  []byte // of a record
	plain   []byte // of rows
	left    []byte // of plain
	Header  Header
	table   int
	open    bool
	end     TableEnd
	rows    hash.Hash
	ends    []TableEnd
}

func newReader(from io.Reader) (*reader, error) {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(chunk), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	r := &reader{from: bufio.NewReaderSize(from, 64<<10), sum: sha256.New(), decoder: decoder, plain: make([]byte, 0, chunk), table: -1}
	got := make([]byte, len(magic))
	if err := r.read(got); err != nil || string(got[:magicName]) != magic[:magicName] {
		return nil, errors.Join(damaged("it does not begin as a backup of Assay does"), noEOF(err))
	}
	if got[magicName] != magic[magicName] {
		return nil, fmt.Errorf("the backup has format %d, and this program reads %d: use a newer one", got[magicName], magic[magicName])
	}
	kind, err := r.record()
	if err != nil {
		return nil, err
	}
	if kind != recordHeader {
		return nil, damaged("its first record is %q and no header", kind)
	}
	if err := json.Unmarshal(r.buffer, &r.Header); err != nil {
		return nil, damaged("its header cannot be read: %v", err)
	}
	return r, nil
}

// noEOF is an error of reading; the end of the file is none, since it is told as damage.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

func (r *reader) read(b []byte) error {
	_, err := io.ReadFull(r.from, b)
	if err == nil {
		_, _ = r.sum.Write(b)
	}
	return err
}

// record reads the next record into buffer.
func (r *reader) record() (kind byte, err error) {
	var head [5]byte
	if err := r.read(head[:]); err != nil {
		return 0, errors.Join(damaged("it is cut off"), noEOF(err))
	}
	limit := maxObject
	if head[0] == recordData {
		limit = maxFrame
	}
	n := int64(binary.BigEndian.Uint32(head[1:]))
	if n > int64(limit) {
		return 0, damaged("a record of %d bytes is longer than any", n)
	}
	if cap(r.buffer) < int(n) {
		r.buffer = make([]byte, 0, n)
	}
	r.buffer = r.buffer[:n]
	if err := r.read(r.buffer); err != nil {
		return 0, errors.Join(damaged("it is cut off"), noEOF(err))
	}
	return head[0], nil
}

// next goes to the next table; ok is false behind the last.
func (r *reader) next() (t Table, ok bool, err error) {
	if r.table+1 == len(r.Header.Tables) {
		return Table{}, false, nil
	}
	kind, err := r.record()
	if err != nil {
		return Table{}, false, err
	}
	r.table++
	if kind != recordTable || len(r.buffer) != 4 || int64(binary.BigEndian.Uint32(r.buffer)) != int64(r.table) {
		return Table{}, false, damaged("table %s does not come where it should", r.Header.Tables[r.table].Name)
	}
	r.open, r.end, r.rows = true, TableEnd{Name: r.Header.Tables[r.table].Name}, sha256.New()
	return r.Header.Tables[r.table], true, nil
}

// Read gives the rows of the table, to io.EOF, which comes only where all of them were whole.
func (r *reader) Read(p []byte) (int, error) {
	for len(r.left) == 0 {
		if !r.open {
			return 0, io.EOF
		}
		if err := r.more(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// more reads a record of rows, or the end of the table.
func (r *reader) more() error {
	kind, err := r.record()
	if err != nil {
		return err
	}
	switch kind {
	case recordData:
		r.plain, err = r.decoder.DecodeAll(r.buffer, r.plain[:0])
		if err != nil || len(r.plain) > chunk {
			return damaged("rows of table %s cannot be unpacked", r.end.Name)
		}
		r.left = r.plain
		r.end.Bytes += int64(len(r.plain))
		_, _ = r.rows.Write(r.plain)
		return nil
	case recordEnd:
		var said TableEnd
		if err := json.Unmarshal(r.buffer, &said); err != nil {
			return damaged("the end of table %s cannot be read", r.end.Name)
		}
		r.end.Rows, r.end.SHA256 = said.Rows, hex.EncodeToString(r.rows.Sum(nil))
		if said != r.end {
			return damaged("the rows of table %s are not those that were written", r.end.Name)
		}
		r.ends, r.open = append(r.ends, said), false
		return nil
	}
	return damaged("a record of kind %q is where rows of table %s should be", kind, r.end.Name)
}

// finish reads the end of the file, and tells whether all of it is what was written.
func (r *reader) finish() (Manifest, error) {
	kind, err := r.record()
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{Header: r.Header}
	if kind != recordTrailer || json.Unmarshal(r.buffer, &m.Trailer) != nil || len(m.Contents) != len(r.ends) {
		return Manifest{}, damaged("its end is not that of a backup")
	}
	for i, e := range r.ends {
		if m.Contents[i] != e {
			return Manifest{}, damaged("its end says something else of table %s", e.Name)
		}
	}
	sum := r.sum.Sum(nil)
	said := make([]byte, digestSize)
	if err := r.read(said); err != nil {
		return Manifest{}, errors.Join(damaged("it is cut off"), noEOF(err))
	}
	if !bytes.Equal(sum, said) {
		return Manifest{}, damaged("its digest is another")
	}
	if _, err := r.from.ReadByte(); !errors.Is(err, io.EOF) {
		return Manifest{}, errors.Join(damaged("something follows its end"), err)
	}
	m.SHA256 = hex.EncodeToString(sum)
	return m, nil
}

// close frees the memory of the decoder.
func (r *reader) close() { r.decoder.Close() }

// Verify reads a whole file and says what is in it. ErrDamaged where it is not what was written.
func Verify(from io.Reader) (Manifest, error) {
	r, err := newReader(from)
	if err != nil {
		return Manifest{}, err
	}
	defer r.close()
	for {
		_, ok, err := r.next()
		if err != nil {
			return Manifest{}, err
		}
		if !ok {
			return r.finish()
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return Manifest{}, err
		}
	}
}
