package attest

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // a bank of the log
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/finding"
)

// lenovoLog is the log of a real notebook, with another version of its firmware.
func lenovoLog(t *testing.T, version string) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "verifier", "eventlog", "testdata", "eventlogs", "baremetal", "guard-set-t480s-win10", "eventlog.bin"))
	if err != nil {
		t.Fatal(err)
	}
	wide := func(s string) []byte {
		var out []byte
		for _, u := range utf16.Encode([]rune(s + "\x00")) {
			out = append(out, byte(u), byte(u>>8))
		}
		return out
	}
	const own = "N22ET50W " // padded
	before, after := wide(own), wide(version+" ")
	if bytes.Count(raw, before) != 1 {
		t.Fatalf("%q is in the log %d times", own, bytes.Count(raw, before))
	}
	a1, b1 := sha1.Sum(before), sha1.Sum(after) //nolint:gosec // a bank of the log
	a256, b256 := sha256.Sum256(before), sha256.Sum256(after)
	for _, pair := range [][2][]byte{{before, after}, {a1[:], b1[:]}, {a256[:], b256[:]}} {
		if bytes.Count(raw, pair[0]) != 1 {
			t.Fatalf("%x is in the log %d times", pair[0], bytes.Count(raw, pair[0]))
		}
		raw = bytes.Replace(raw, pair[0], pair[1], 1)
	}
	return raw
}

// A machine whose firmware stays behind is found once two others of the model are ahead, and no more when it follows.
func TestFirmwareBehindTheFleet(t *testing.T) {
	b := newBench(t)
	const code = "firmware_older_than_fleet"
	var machines []*machine
	for range 3 {
		m := b.enrolled("uki-direct")
		m.reboot(lenovoLog(t, "N22ET50W"))
		expect(t, b.attest(m), verifier.Affirming, verifier.NoReason)
		machines = append(machines, m)
	}
	behind := machines[0]
	for i, m := range machines[1:] {
		m.reboot(lenovoLog(t, "N22ET72W"))
		b.attest(m)
		b.wait(2 * fleetLife)
		b.attest(behind)
		if got := b.recommended(behind, code); (got == finding.Low) != (i == 1) || got != "" && got != finding.Low {
			t.Errorf("with %d machines ahead: %q", i+1, got)
		}
	}
	for _, m := range machines[1:] {
		if got := b.recommended(m, code); got != "" {
			t.Errorf("a machine that is ahead: %q", got)
		}
	}
	behind.reboot(lenovoLog(t, "N22ET73W"))
	b.attest(behind)
	if got := b.recommended(behind, code); got != "" {
		t.Errorf("after the update: %q", got)
	}
	if seen, err := b.store.FleetFirmware(b.ctx, uuid.New(), "lenovo N22"); err != nil || len(seen) != 0 {
		t.Errorf("another tenant sees %v %v", seen, err)
	}
	for _, family := range []string{"lenovo N22", "lenovo N32"} {
		seen, err := b.store.FleetFirmware(b.ctx, b.tenant, family)
		if err != nil || (len(seen) == 0) != (family == "lenovo N32") {
			t.Errorf("%s: %v %v", family, seen, err)
		}
	}
}

// What is known of a machine's endorsement key reaches the rules, also after the key was proved anew.
func TestWeakEndorsementKeyIsFound(t *testing.T) {
	b := newBench(t)
	m := b.enrolled("sb-on-1")
	const code = "weak_endorsement_key"
	expect(t, b.attest(m), verifier.Affirming, verifier.NoReason)
	if got := b.recommended(m, code); got != "" {
		t.Errorf("a sound key: %q", got)
	}
	if got := b.recommended(m, "attestation_key_first_use"); got != "" {
		t.Errorf("an activated key: %q", got)
	}
	moduli, err := os.ReadFile(filepath.Join("..", "..", "verifier", "tpm", "testdata", "roca", "moduli.txt"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(moduli), "\nweak ")
	line, _, _ := strings.Cut(rest, "\n")
	n, ok := new(big.Int).SetString(line, 0)
	if !ok {
		t.Fatal(line)
	}
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n, E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(b.ctx, b.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(b.ctx) }()
	if _, err := conn.Exec(b.ctx, "UPDATE attestation_keys SET ek_public = $1", der); err != nil {
		t.Fatal(err)
	}
	b.Service = b.service() // a replica that has not read the key yet
	b.attest(m)
	if got := b.recommended(m, code); got != finding.High {
		t.Errorf("a key of the flawed library: %q", got)
	}
}

func TestEndorsementOf(t *testing.T) {
	if got := finding.EndorsementOf(nil, nil); got != nil {
		t.Errorf("without a key: %+v", got)
	}
	raw := specimen(t, "sb-on-1", "ek-rsa2048.der")
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	got := finding.EndorsementOf(cert.RawSubjectPublicKeyInfo, raw)
	if got == nil || !got.Certified || got.RSABits != 2048 || got.ROCA || got.TPM.Model != "swtpm" || got.NotAfter == nil || got.Unusable != "" {
		t.Errorf("swtpm's: %+v", got)
	}
	if got = finding.EndorsementOf(cert.RawSubjectPublicKeyInfo, nil); got.Certified || got.RSABits != 2048 {
		t.Errorf("without a certificate: %+v", got)
	}
	for _, broken := range []*finding.Endorsement{finding.EndorsementOf([]byte{1}, raw), finding.EndorsementOf(cert.RawSubjectPublicKeyInfo, []byte{1})} {
		if broken == nil || broken.Unusable == "" || broken.TPM.Model != "" {
			t.Errorf("broken: %+v", broken)
		}
	}
}
