package corim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-verifier/assay/baseline"
)

var now = time.Date(2024, 11, 25, 12, 0, 0, 0, time.UTC)

func specimen(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// veraison is the key of the specimens.
func veraison(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	var jwk struct{ X, Y, D string }
	if err := json.Unmarshal(specimen(t, "ec-p256.jwk"), &jwk); err != nil {
		t.Fatal(err)
	}
	number := func(text string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return new(big.Int).SetBytes(b)
	}
	return &ecdsa.PrivateKey{PublicKey: ecdsa.PublicKey{Curve: elliptic.P256(), X: number(jwk.X), Y: number(jwk.Y)}, D: number(jwk.D)}
}

func trusting(keys ...crypto.PublicKey) *baseline.ImportTrust {
	trust := &baseline.ImportTrust{Now: now}
	for _, key := range keys {
		trust.Keys = append(trust.Keys, baseline.ImportKey{Name: "test key", Key: key})
	}
	return trust
}

func wantError(t *testing.T, err error, kind, contains string) {
	t.Helper()
	var at *baseline.ImportError
	if !errors.As(err, &at) {
		t.Fatalf("got %v, want an ImportError %s", err, kind)
	}
	if at.Kind != kind || !strings.Contains(at.Error(), contains) {
		t.Fatalf("got %s: %s\nwant %s: …%s…", at.Kind, at, kind, contains)
	}
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := encoding.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tag(number uint64, content any) cbor.Tag { return cbor.Tag{Number: number, Content: content} }

type m = map[int]any
type l = []any

// corimOf is an unsigned CoRIM with the CoMIDs; change alters its map.
func corimOf(t testing.TB, change func(m), comids ...any) []byte {
	t.Helper()
	var tags l
	for _, c := range comids {
		if raw, ok := c.([]byte); ok {
			tags = append(tags, tag(tagCoMID, raw))
		} else {
			tags = append(tags, tag(tagCoMID, marshal(t, c)))
		}
	}
	corim := m{0: "test", 1: tags}
	if change != nil {
		change(corim)
	}
	return marshal(t, tag(tagUnsigned, corim))
}

// comidOf is a CoMID with one reference triple.
func comidOf(environment any, measurements ...any) m {
	return m{1: m{0: "tag"}, 4: m{0: l{l{environment, measurements}}}}
}

func class(vendor, model string) m { return m{0: m{1: vendor, 2: model}} }

func hash(size int, fill byte) []byte { return []byte(strings.Repeat(string([]byte{fill}), size)) }

func hexOf(size int, fill byte) string { return hex.EncodeToString(hash(size, fill)) }
