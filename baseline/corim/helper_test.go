package corim

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/assay-verifier/assay/baseline"
	"github.com/assay-verifier/assay/baseline/importtest"
)

var now = time.Date(2024, 11, 25, 12, 0, 0, 0, time.UTC)

func specimen(t testing.TB, name string) []byte {
	t.Helper()
	return importtest.Read(t, filepath.Join("testdata", name))
}

// veraison is the key of the specimens.
func veraison(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	var jwk struct{ D string }
	if err := json.Unmarshal(specimen(t, "ec-p256.jwk"), &jwk); err != nil {
		t.Fatal(err)
	}
	scalar, err := base64.RawURLEncoding.DecodeString(jwk.D)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func trusting(keys ...crypto.PublicKey) *baseline.ImportTrust {
	trust := &baseline.ImportTrust{Now: now}
	for _, key := range keys {
		trust.Keys = append(trust.Keys, baseline.ImportKey{Name: "test key", Key: key})
	}
	return trust
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
