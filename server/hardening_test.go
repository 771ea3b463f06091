package server

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/url"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// The failures of CVE-2022-23948 to CVE-2022-23952 (Keylime before 6.3.0): ids that were not checked and forged lines of the log, archives that
// filled memory, files that others could read. Of the last there are tests of file modes in cmd/assayd, cmd/assay-agent, server/tlsfile and
// store/keyring.

// TestForgedIdsCVE202223949: an id with control characters, a path in it, or beyond its length is refused everywhere, and nothing of it
// is in the log as it came.
func TestForgedIdsCVE202223949(t *testing.T) {
	b := newBench(t, nil)
	m := &machine{t: t, id: nobody}
	forged := []string{"x\n{\"level\":\"ERROR\",\"msg\":\"forged\"}", "a\x00b", "a\x1b[31mred", "../../etc/passwd", strings.Repeat("a", 5000), "a\u202eb", nobody + "\r\nX-Forged: 1"}
	for _, o := range operations(t, m) {
		if !strings.Contains(o.path, nobody) {
			continue
		}
		for _, id := range forged {
			a := b.call(o.method, strings.Replace(o.path, nobody, url.PathEscape(id), 1), b.admin, o.body)
			if a.status < 400 || a.status >= 500 || a.header.Get("X-Forged") != "" {
				t.Errorf("%s with %.40q: %d %s", o.name, id, a.status, cut(a.body))
			}
		}
	}
	for _, name := range []string{"a\nb", "a\x00", "a\x7f", "a\u0085b", strings.Repeat("n", 254)} {
		b.refused("invalid_field", "/name", "POST", "/v1/machines", b.admin, map[string]any{"name": name, "os": "linux"})
		b.refused("invalid_field", "/external_id", "POST", "/v1/machines", b.admin, map[string]any{"name": "x", "os": "linux", "external_id": name + strings.Repeat("n", 300)})
		b.refused("invalid_field", "/name", "POST", "/v1/api-tokens", b.admin, map[string]any{"name": name, "role": "reader"})
	}
	for _, line := range strings.Split(b.logs.String(), "\n") {
		if strings.Contains(line, `"msg":"forged"`) || strings.ContainsAny(line, "\x00\x1b") {
			t.Errorf("a line of the log was forged: %s", line)
		}
	}
}

// TestDecompressionBombsCVE202223951: what a compressed log grows to is bounded by its own size and by a size of its own, whatever it
// says of itself; each of these takes at most a few times that much memory.
func TestDecompressionBombsCVE202223951(t *testing.T) {
	zeros := make([]byte, 64<<20)
	var nested bytes.Buffer
	w := gzip.NewWriter(&nested)
	for range 50 { // members one after the other
		_, _ = w.Write(zeros[:1<<20])
		_ = w.Close()
		w.Reset(&nested)
	}
	lying := gzipOf(t, zeros[:9<<20])
	binary.LittleEndian.PutUint32(lying[len(lying)-4:], 10)                                   // ISIZE
	binary.LittleEndian.PutUint32(lying[len(lying)-8:], crc32.ChecksumIEEE(make([]byte, 10))) // CRC32
	encoder, err := zstd.NewWriter(nil, zstd.WithWindowSize(64<<20), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	wide := encoder.EncodeAll(zeros, nil)
	_ = encoder.Close()
	declared := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0x01, 0, 0} // a frame that says it holds 2^63-1 bytes
	for name, c := range map[string]struct {
		encoding string
		body     []byte
	}{
		"gzip": {"gzip", gzipOf(t, zeros)}, "gzip, many members": {"gzip", nested.Bytes()}, "gzip that lies about its size": {"gzip", lying},
		"zstd": {"zstd", zstdOf(t, zeros)}, "zstd with a wide window": {"zstd", wide}, "zstd that declares a size": {"zstd", declared},
	} {
		allocated := testing.AllocsPerRun(1, func() {
			if out, err := decompress(c.encoding, c.body); err == nil {
				t.Errorf("%s: %d bytes became %d", name, len(c.body), len(out))
			}
		})
		if allocated > 2000 {
			t.Errorf("%s: %g allocations", name, allocated)
		}
	}
	// A log of honest growth is taken.
	honest := bytes.Repeat([]byte("event "), 40_000)
	for _, c := range []struct {
		encoding string
		body     []byte
	}{{"gzip", gzipOf(t, honest)}, {"zstd", zstdOf(t, honest)}} {
		if out, err := decompress(c.encoding, c.body); err != nil || !bytes.Equal(out, honest) {
			t.Errorf("%s of %d bytes to %d: %v", c.encoding, len(c.body), len(honest), err)
		}
	}
}

// TestBodiesThatDeceive: a body whose length is not what it says, nests too deep, or says a field twice.
func TestBodiesThatDeceive(t *testing.T) {
	b := newBench(t, nil)
	for code, body := range map[string]string{
		"malformed_json": `{"name": "a", "name": "b", "os": "linux"}`,
		"invalid_field":  `{"name": ` + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + `, "os": "linux"}`,
		"body_too_large": `{"name": "` + strings.Repeat("a", maxBody) + `"}`,
	} {
		b.refused(code, "", "POST", "/v1/machines", b.admin, body)
		b.refused(code, "", "POST", "/v1/machines", b.admin, strings.NewReader(body), "Transfer-Encoding", "chunked")
	}
}
