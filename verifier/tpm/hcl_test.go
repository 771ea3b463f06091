package tpm

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"testing"
)

// hclAK is the AK that an Azure runtime JSON names as HCLAkPub.
func hclAK(t *testing.T, path string) *Public {
	t.Helper()
	var runtime struct {
		Keys []struct{ Kid, N string }
	}
	if err := json.Unmarshal(read(t, path), &runtime); err != nil {
		t.Fatal(err)
	}
	for _, key := range runtime.Keys {
		if key.Kid != "HCLAkPub" {
			continue
		}
		n, err := base64.RawURLEncoding.DecodeString(key.N)
		if err != nil {
			t.Fatal(err)
		}
		ak, err := PublicFromCrypto(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537})
		if err != nil {
			t.Fatal(err)
		}
		return ak
	}
	t.Fatal("no HCLAkPub")
	return nil
}
