package tpm

import (
	"bytes"
	"encoding/pem"
	"runtime"
	"testing"
)

// allocated is how many bytes f allocates in all, garbage included.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Large hostile input costs less memory than it has bytes, whatever sizes it claims inside.
func TestLargeInputCostsNoMemory(t *testing.T) {
	const size = 1 << 20
	good := capture(t, "sb-on-1", "rsassa-sha256")
	inputs := map[string][]byte{
		"zeros":                          make([]byte, size),
		"ones":                           bytes.Repeat([]byte{0xff}, size),
		"PEM":                            pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: make([]byte, size/2)}),
		"a quote and much behind it":     append(bytes.Clone(good.quote.Message), make([]byte, size)...),
		"a signature and much behind it": append(bytes.Clone(good.quote.Signature), make([]byte, size)...),
		"a key and much behind it":       append(good.ak.Raw(), make([]byte, size)...),
	}
	for name, b := range inputs {
		for parser, parse := range map[string]func(){
			"ParseAttest":        func() { _, _ = ParseAttest(b) },
			"PeekExtraData":      func() { _, _ = PeekExtraData(b) },
			"ParseSignature":     func() { _, _ = ParseSignature(b) },
			"ParsePublic":        func() { _, _ = ParsePublic(b) },
			"ParseEKCertificate": func() { _, _ = ParseEKCertificate(b) },
			"Verify": func() {
				_, _ = Verify(good.ak, []Quote{{b, b}, {good.quote.Message, b}, {b, good.quote.Signature}}, nil, Expectation{})
			},
		} {
			if n := allocated(parse); n > size/2 {
				t.Errorf("%s of %s allocates %d bytes", parser, name, n)
			}
		}
	}
}

// What is small enough to be read may claim anything; its cost stays within a page or two.
func TestClaimedSizesCostNoMemory(t *testing.T) {
	good := capture(t, "sb-on-1", "ecdsa256-sha256")
	for i := 0; i+4 <= len(good.quote.Message); i++ {
		b := bytes.Clone(good.quote.Message)
		copy(b[i:], []byte{0xff, 0xff, 0xff, 0xff})
		if n := allocated(func() { _, _ = ParseAttest(b) }); n > 8<<10 {
			t.Errorf("ones at byte %d cost %d bytes", i, n)
		}
	}
}
