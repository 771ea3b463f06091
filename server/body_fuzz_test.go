package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
)

// FuzzDecompress: no body grows beyond its bound or into a failure of the service; what was compressed comes back.
func FuzzDecompress(f *testing.F) {
	log := bootLog(f, "sb-on-1")
	f.Add("gzip", gzipOf(f, log))
	f.Add("zstd", zstdOf(f, log))
	f.Add("gzip", gzipOf(f, make([]byte, 1<<20)))
	f.Add("zstd", zstdOf(f, make([]byte, 1<<20)))
	f.Add("identity", log)
	f.Add("br", []byte{})
	f.Fuzz(func(t *testing.T, encoding string, body []byte) {
		out, err := decompress(encoding, body)
		var refused *requestError
		switch {
		case err != nil && !errors.As(err, &refused):
			t.Fatalf("not a request error: %v", err)
		case err == nil && len(out) > max(maxGrowth*len(body), growthFloor):
			t.Fatalf("%d bytes became %d", len(body), len(out))
		}
		if len(body) > growthFloor {
			return
		}
		if again, err := decompress("zstd", zstdOf(t, body)); err != nil || !bytes.Equal(again, body) {
			t.Fatalf("%d bytes came back as %d: %v", len(body), len(again), err)
		}
	})
}

// FuzzForm: a form becomes an object of texts, or is refused without repeating what it holds.
func FuzzForm(f *testing.F) {
	for _, s := range []string{"token=x&audience=https%3A%2F%2Frelying.example", "a=1&a=2", "a", "=", "&&", "%zz=1", "a=%ff", "%00=%00", "a=b=c", "+=%2B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		object, err := formObject(body)
		if err != nil {
			var refused *requestError
			if !errors.As(err, &refused) || refused.code != codeInvalidField {
				t.Fatalf("not a request error: %v", err)
			}
			return
		}
		var fields map[string]string
		if err := json.Unmarshal(object, &fields); err != nil || len(fields) > maxFieldProblems {
			t.Fatalf("%v: %d fields in %s", err, len(fields), object)
		}
	})
}
