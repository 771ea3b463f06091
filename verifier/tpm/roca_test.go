package tpm

import (
	"bufio"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The moduli of the project that published the weakness: keys of the flawed library are found, and others are not, also
// those made to have a logarithm modulo each prime without there being one modulo their product.
func TestWeakROCAOfPublishedKeys(t *testing.T) {
	f, err := os.Open(filepath.Join("testdata", "roca", "moduli.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	counts := map[string]int{}
	for scan := bufio.NewScanner(f); scan.Scan(); {
		kind, text, found := strings.Cut(scan.Text(), " ")
		if !found || kind == "#" {
			continue
		}
		n, ok := new(big.Int).SetString(text, 0)
		if !ok {
			t.Fatalf("%q is no number", text)
		}
		counts[kind]++
		if got, want := WeakROCA(n), kind == "weak"; got != want {
			t.Errorf("%s %.20s…: %t", kind, text, got)
		}
	}
	if counts["weak"] < 2 || counts["sound"] < 1 || counts["fake"] != 10 {
		t.Errorf("specimens: %v", counts)
	}
}

// A key made as the paper tells is found at each size that TPMs use.
func TestWeakROCAOfKeysMadeSo(t *testing.T) {
	for bits, primes := range map[int]int{512: 39, 1024: 71, 2048: 126} {
		p, q := rocaPrime(t, bits/2, primes), rocaPrime(t, bits/2, primes)
		if n := new(big.Int).Mul(p, q); !WeakROCA(n) {
			t.Errorf("%d bits: not found", bits)
		}
		sound, err := rand.Prime(rand.Reader, bits/2)
		if err != nil {
			t.Fatal(err)
		}
		if WeakROCA(new(big.Int).Mul(p, sound)) {
			t.Errorf("%d bits: one prime of two is enough", bits)
		}
	}
}

// rocaPrime makes a prime k·M + (65537^a mod M).
func rocaPrime(t *testing.T, bits, primes int) *big.Int {
	t.Helper()
	m := big.NewInt(1)
	for n, left := int64(2), primes; left > 0; n++ {
		if big.NewInt(n).ProbablyPrime(10) {
			m.Mul(m, big.NewInt(n))
			left--
		}
	}
	room := new(big.Int).Div(new(big.Int).Lsh(big.NewInt(1), uint(bits)), m) //nolint:gosec // a small constant
	for {
		k, err := rand.Int(rand.Reader, room)
		if err != nil {
			t.Fatal(err)
		}
		a, err := rand.Int(rand.Reader, m)
		if err != nil {
			t.Fatal(err)
		}
		p := new(big.Int).Exp(big.NewInt(rocaGenerator), a, m)
		if p.Add(p, k.Mul(k, m)); p.BitLen() >= bits-8 && p.ProbablyPrime(20) {
			return p
		}
	}
}

// No key of a maker whose library is sound is taken for weak, nor what is no key.
func TestWeakROCAOfSoundKeys(t *testing.T) {
	for _, n := range []*big.Int{nil, {}, big.NewInt(1), big.NewInt(-7), new(big.Int).Lsh(big.NewInt(1), 2048)} {
		if WeakROCA(n) {
			t.Errorf("%v is taken for a weak key", n)
		}
	}
	for range 3 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		if WeakROCA(key.N) {
			t.Errorf("%v is taken for a weak key", key.N)
		}
	}
	keys := 0
	for _, file := range []string{"ek-infineon.pem", "ek-stmicroelectronics.pem", "ek-nuvoton.pem", "ek-intel.pem", "ek-amd.pem"} {
		rest, err := os.ReadFile(filepath.Join("..", "anchors", "bundle", file))
		if err != nil {
			t.Fatal(err)
		}
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				continue
			}
			if key, ok := cert.PublicKey.(*rsa.PublicKey); ok {
				keys++
				if WeakROCA(key.N) {
					t.Errorf("%s: %s", file, cert.Subject)
				}
			}
		}
	}
	if keys < 10 {
		t.Errorf("only %d keys", keys)
	}
}

func BenchmarkWeakROCA(b *testing.B) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		WeakROCA(key.N)
	}
}
