package tpm

import "math/big"

// rocaGenerator is the base of the primes that the flawed library makes: p = k·M + (65537^a mod M), where M is the
// product of the first primes (Nemec, Sys, Svenda, Klinec, Matyas: The Return of Coppersmith's Attack, CCS 2017,
// section 2.2).
const rocaGenerator = 65537

// minROCABits is the size from which a modulus is judged: two primes of 256 bits make 496 bits or a few more.
const minROCABits = 496

// rocaPrimes are the primes whose product divides M at every size of key that the library makes, from 512 bits on.
var rocaPrimes = [...]int64{2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
	101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167}

// rocaLogs holds, by prime, the discrete logarithm of each residue to the base 65537, or -1 where it has none; and the
// order of 65537.
var rocaLogs = func() (tables [len(rocaPrimes)]struct {
	log   []int16
	order int64
}) {
	for i, p := range rocaPrimes {
		t := &tables[i]
		t.log = make([]int16, p)
		for r := range t.log {
			t.log[r] = -1
		}
		for power := int64(1) % p; t.log[power] < 0; power = power * rocaGenerator % p {
			t.log[power] = int16(t.order) // #nosec G115 -- below 167
			t.order++
		}
	}
	return tables
}()

// WeakROCA tells whether an RSA modulus has the form that the flawed key generation of Infineon's library gives it
// (CVE-2017-15361): then its private key can be computed from it. It asks whether the discrete logarithm of the modulus
// to the base 65537 exists modulo the product of the first 39 primes (the paper's section 2.3): it must exist modulo
// each prime, and the logarithms must agree wherever the orders have factors in common. A random modulus
// passes with a probability below 2^-150.
func WeakROCA(modulus *big.Int) bool {
	if modulus == nil || modulus.BitLen() < minROCABits {
		return false
	}
	// exponents[q] is what is known of the logarithm modulo the highest power of q so far; orders are below 167, and so are q.
	var exponents [167]struct{ modulus, value int64 }
	var residue, prime big.Int
	for i, p := range rocaPrimes {
		t := &rocaLogs[i]
		log := int64(t.log[residue.Mod(modulus, prime.SetInt64(p)).Int64()])
		if log < 0 {
			return false
		}
		rest := t.order
		for q := int64(2); rest > 1; q++ {
			power := int64(1)
			for rest%q == 0 {
				rest, power = rest/q, power*q
			}
			if power == 1 {
				continue
			}
			known := &exponents[q]
			common := min(max(known.modulus, 1), power)
			if known.value%common != log%common {
				return false
			}
			if power > known.modulus {
				known.modulus, known.value = power, log%power
			}
		}
	}
	return true
}
