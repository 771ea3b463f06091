package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// heldBody is a request body that the guard has read: the generated code reads it as a stream, the
// handlers with decoders of their own take the bytes as they are.
type heldBody struct {
	*bytes.Reader
	bytes []byte
}

// Close implements io.Closer.
func (*heldBody) Close() error { return nil }

// bodyOf is the body that the guard has read and checked; nil where it has read none.
func bodyOf(r *http.Request) []byte {
	if b, ok := r.Body.(*heldBody); ok {
		return b.bytes
	}
	return nil
}

// firstRead is how much is allocated before a byte of the body has arrived: a client that declares a
// large body and sends nothing costs no more.
const firstRead = 32 << 10

// Time of a body: what is small has so long, what is larger so much more as has come at the least rate, up to a bound.
const (
	bodyGrace   = 15 * time.Second
	bodyRate    = 64 << 10 // bytes a second
	bodyMaxTime = 100 * time.Second
)

// bodyReader is a body on its way. It counts against the budget of all bodies what has been allocated for it, and not what
// was announced: a client that announces much and sends nothing takes nothing from others.
type bodyReader struct {
	from    io.Reader
	w       http.ResponseWriter
	s       *Server
	started time.Time
	weight  int64
	got     int64
}

// reserve counts n bytes more.
func (r *bodyReader) reserve(n int64) error {
	if !r.s.budget.TryAcquire(n) {
		return r.s.limits.overloaded("bodies", "too many bodies of requests are in work")
	}
	r.weight += n
	return nil
}

// grow makes room for a buffer of size bytes in all, and gives the client time for the rest.
func (r *bodyReader) grow(size int64) error {
	if size > r.weight {
		if err := r.reserve(size - r.weight); err != nil {
			return err
		}
	}
	allowed := min(bodyGrace+time.Duration(r.got)*time.Second/bodyRate, bodyMaxTime)
	setReadDeadline(r.w, r.started.Add(allowed))
	return nil
}

// Read implements io.Reader.
func (r *bodyReader) Read(b []byte) (int, error) {
	n, err := r.from.Read(b)
	r.got += int64(n)
	return n, err
}

func (r *bodyReader) release() {
	r.s.budget.Release(r.weight)
	r.weight = 0
}

// setReadDeadline sets until when more of the request may come. A writer without deadlines (that of a test) is left alone.
func setReadDeadline(w http.ResponseWriter, until time.Time) {
	_ = http.NewResponseController(w).SetReadDeadline(until)
}

// read reads at most limit bytes. The buffer doubles as the body arrives, up to the declared length, so
// that all that was ever allocated for it is below three times the body.
func (b *bodyRule) read(from *bodyReader, declared int64) ([]byte, error) {
	size := int64(firstRead)
	if declared >= 0 {
		size = min(size, declared)
	}
	buf := make([]byte, 0, size+1)
	for {
		n, err := from.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > b.limit {
			return nil, b.tooLarge()
		}
		switch {
		case errors.Is(err, io.EOF):
			return buf, nil
		case err != nil:
			code := codeMalformedJSON
			if !b.jsonOnly {
				code = codeMalformedEncoding
			}
			return nil, refuseField(code, "", "the body ended before it was complete").with("Connection", "close")
		case len(buf) == cap(buf):
			next := 2 * int64(cap(buf))
			if declared >= 0 {
				next = min(next, declared+1)
			}
			next = min(next, b.limit+1)
			if err := from.grow(next); err != nil {
				return nil, err
			}
			grown := make([]byte, len(buf), next)
			copy(grown, buf)
			buf = grown
		}
	}
}

// A compressed log may grow to this many times the body, or to the floor, whichever is more. Logs of
// real machines grow less than five times; what grows more is mostly padding and is sent as it is.
const (
	maxGrowth      = 8
	growthFloor    = 256 << 10
	maxZstdWindow  = 8 << 20
	decompressStep = 32 << 10
)

// errGrowth is a body that decompresses to more than it may.
var errGrowth = errors.New("grows too much")

// decompress undoes a content encoding within the bounds of growth.
func decompress(encoding string, body []byte) ([]byte, error) {
	limit := min(int64(maxEventLog), max(maxGrowth*int64(len(body)), growthFloor))
	var out []byte
	var err error
	switch encoding {
	case "", "identity":
		return body, nil
	case "gzip":
		out, err = gunzip(body, limit)
	case "zstd":
		out, err = unzstd(body, limit)
	default: // the guard has refused it before
		return nil, refuse(codeUnsupportedEncoding, "Content-Encoding "+quoted(encoding)+" is not accepted here")
	}
	switch {
	case errors.Is(err, errGrowth):
		return nil, refuse(codeBodyTooLarge, fmt.Sprintf("the body decompresses to more than the %d bytes that are accepted for its size; send it uncompressed", limit))
	case err != nil:
		return nil, refuse(codeMalformedEncoding, "the body is not "+encoding)
	}
	return out, nil
}

func gunzip(body []byte, limit int64) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out, err := readWithin(r, limit)
	return out, errors.Join(err, r.Close())
}

// zstdReaders are reused: a decoder's tables cost more than most logs.
var zstdReaders = sync.Pool{New: func() any {
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxZstdWindow), zstd.WithDecoderMaxMemory(maxEventLog+1))
	if err != nil { // only for invalid options
		panic(err)
	}
	return r
}}

func unzstd(body []byte, limit int64) ([]byte, error) {
	r := zstdReaders.Get().(*zstd.Decoder)
	defer func() {
		_ = r.Reset(nil)
		zstdReaders.Put(r)
	}()
	if err := r.Reset(bytes.NewReader(body)); err != nil {
		return nil, err
	}
	return readWithin(r, limit)
}

// readWithin reads all of r, or errGrowth where it is more than limit.
func readWithin(r io.Reader, limit int64) ([]byte, error) {
	out := bytes.NewBuffer(make([]byte, 0, decompressStep))
	n, err := io.Copy(out, io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, errGrowth
	}
	return out.Bytes(), nil
}
