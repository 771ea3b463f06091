package integration_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/verifier"
	"github.com/assay-verifier/assay/verifier/tpm"
)

// signer quotes with a machine's enrolled AK.
type signer struct {
	device *tpmdevice.Device
	ak     *tpmdevice.Key
}

// forge answers a challenge with what change makes of the evidence that an honest machine sends.
func (m *machine) forge(c *client.Challenge, change func(s *signer, e *client.Evidence)) []byte {
	m.t.Helper()
	var e client.Evidence
	if err := json.Unmarshal(m.evidence(c), &e); err != nil {
		m.t.Fatal(err)
	}
	m.with(func(d *tpmdevice.Device) error {
		ak, err := d.LoadAK(m.agentState().AK.Blob)
		if err != nil {
			return err
		}
		change(&signer{d, ak}, &e)
		return ak.Close()
	})
	body, err := json.Marshal(e)
	if err != nil {
		m.t.Fatal(err)
	}
	return body
}

// over quotes other PCRs than were asked for.
func (s *signer) over(t *testing.T, nonce []byte, selections ...tpm.Selection) (client.Quote, map[string]map[string]string) {
	t.Helper()
	q, err := s.device.Quote(s.ak, nonce, selections)
	if err != nil {
		t.Fatal(err)
	}
	return client.Quote{Message: q.Message, Signature: q.Signature}, client.PCRValues(q.PCRs)
}

// distrusted fails the test unless everybody is told that the machine failed: alert, assessment, and no result for anybody who asks for one.
func (m *machine) distrusted(what string) {
	m.t.Helper()
	m.openAlert("origin_unverified")
	if a := m.assessment("guest_attestation_healthy"); a.Status != "Unhealthy" {
		m.t.Errorf("%s: the assessment is %s", what, a.Status)
	}
	got, err := m.svc.send(m.t.Context(), http.MethodPost, "/v1/machines/"+m.id()+"/results", m.svc.admin, "application/json", []byte(`{"audience": "https://vault.example"}`))
	if err != nil || got.status != http.StatusConflict || problemCode(m.t, got) != "not_affirming" {
		m.t.Errorf("%s: a result for a relying party: %v %d %s", what, err, got.status, got.body)
	}
}

// TestCVE20233674EveryBrokenSignatureIsAVerdict: a quote whose signature did not verify was written to the log, and the machine stayed
// trusted (CVE-2023-3674). Here each way to break a signature fails the check, the verdict, the assessment and the results that others
// get, and raises the alert; none of them is an error that leaves the old verdict standing.
func TestCVE20233674EveryBrokenSignatureIsAVerdict(t *testing.T) {
	svc := sharedService(t)
	m := booted(t, svc, "signature-web", "", "sb-on-1")
	m.attest().must(t, "affirming", "")
	whole := func(r, s []byte) []byte {
		part := func(b []byte) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }
		return append(append([]byte{0, 0x18, 0, 0x0b}, part(r)...), part(s)...) // TPM_ALG_ECDSA with TPM_ALG_SHA256
	}
	zero, full := make([]byte, 32), bytes.Repeat([]byte{0xff}, 32)
	for name, change := range map[string]func(q *client.Quote){
		"a bit of the signature":  func(q *client.Quote) { q.Signature[len(q.Signature)-1] ^= 1 },
		"a bit of the message":    func(q *client.Quote) { q.Message[len(q.Message)-1] ^= 1 },
		"zeros":                   func(q *client.Quote) { q.Signature = whole(zero, zero) },
		"r and s of no bytes":     func(q *client.Quote) { q.Signature = whole(nil, nil) },
		"r and s above the order": func(q *client.Quote) { q.Signature = whole(full, full) },
		"r and s swapped": func(q *client.Quote) {
			r := bytes.Clone(q.Signature[6 : 6+32])
			q.Signature = whole(q.Signature[6+32+2:], r)
		},
		"the null scheme": func(q *client.Quote) { q.Signature = []byte{0, 0x10} },
		"an HMAC":         func(q *client.Quote) { q.Signature = append([]byte{0, 5, 0, 0x0b}, zero...) },
	} {
		c := m.challenge()
		body := m.forge(c, func(_ *signer, e *client.Evidence) { change(&e.Quotes[0]) })
		got := m.submit(body)
		if got.status == http.StatusBadRequest {
			// What is no signature by its form is no evidence at all: nothing is stored, and nothing gets better.
			if problemCode(t, got) != "invalid_field" {
				t.Errorf("%s: %s", name, got.body)
			}
			continue
		}
		if got.status != http.StatusCreated {
			t.Fatalf("%s: %d %s", name, got.status, got.body)
		}
		parseVerdict(t, got.body).must(t, "contraindicated", "origin_unverified", "quote.signature")
		m.distrusted(name)
		m.attest().must(t, "affirming", "")
	}
}

// TestGHSA99cg575x774pGivenIsNotQuoted: PCR values that came along were believed although the quote did not cover them
// (GHSA-99cg-575x-774p). Here values outside the quote's selection fail the evidence, however they are put beside it.
func TestGHSA99cg575x774pGivenIsNotQuoted(t *testing.T) {
	svc := sharedService(t)
	m := booted(t, svc, "unquoted-web", "", "sb-on-1")
	m.attest().must(t, "affirming", "")
	low := tpm.Selection{Alg: tpm.SHA256, Mask: 0x0f}
	for name, change := range map[string]func(c *client.Challenge, s *signer, e *client.Evidence){
		"all values with a quote of four": func(c *client.Challenge, s *signer, e *client.Evidence) {
			q, _ := s.over(t, c.Nonce, low)
			e.Quotes = []client.Quote{q}
		},
		"one more value": func(c *client.Challenge, _ *signer, e *client.Evidence) {
			given := bank(e, "sha256")
			for i := range 24 {
				if given[strconv.Itoa(i)] == "" {
					given[strconv.Itoa(i)] = hex.EncodeToString(make([]byte, 32))
					return
				}
			}
			t.Fatal("every PCR is quoted")
		},
		"a bank of its own": func(c *client.Challenge, s *signer, e *client.Evidence) {
			q, values := s.over(t, c.Nonce, tpm.Selection{Alg: tpm.SHA1, Mask: 0x0f})
			e.Quotes = []client.Quote{q}
			maps.Copy(e.PCRs, values)
		},
		"the other values quoted over another nonce": func(c *client.Challenge, s *signer, e *client.Evidence) {
			q, _ := s.over(t, c.Nonce, low)
			var rest tpm.Selection
			for _, required := range (&verifier.Policy{PCRs: c.PCRSelection}).RequiredSelections() {
				if required.Alg == tpm.SHA256 {
					rest = tpm.Selection{Alg: tpm.SHA256, Mask: required.Mask &^ low.Mask}
				}
			}
			old, _ := s.over(t, bytes.Repeat([]byte{7}, 32), rest)
			e.Quotes = []client.Quote{q, old}
		},
	} {
		c := m.challenge()
		v := m.judged(m.forge(c, func(s *signer, e *client.Evidence) { change(c, s, e) }))
		v.must(t, "contraindicated", "origin_unverified")
		m.distrusted(name)
		m.attest().must(t, "affirming", "")
	}
}

func bank(e *client.Evidence, name string) map[string]string {
	if e.PCRs[name] == nil {
		e.PCRs[name] = map[string]string{}
	}
	return e.PCRs[name]
}

// TestRelabelledPCRsAreSeen: root on a machine can reset PCR 16 and 23 and extend them with what a good boot measures. A genuine quote over
// them, told to be of the boot's PCRs, does not pass; nor do values told in another order, or under another bank's name.
func TestRelabelledPCRsAreSeen(t *testing.T) {
	svc := sharedService(t)
	m := booted(t, svc, "relabel-web", "relabel", "sb-on-1")
	m.attest().must(t, "affirming", "")
	cli(t, svc, "baselines", "capture", "--machine", m.name, "--name", "relabel golden", "--scale-set", "relabel")
	good := bank(mustEvidence(t, m.evidence(m.challenge())), "sha256")

	m.reboot("cmdline") // a boot that is not the baseline's: PCR 8 and 9 tell
	m.attest().must(t, "contraindicated", "baseline_deviation", "baseline.match")
	c := m.challenge()
	m.judged(m.forge(c, func(s *signer, e *client.Evidence) {
		mask := uint32(1 << 23)
		for _, i := range c.PCRSelection["sha256"] {
			if i != 8 {
				mask |= 1 << i
			}
		}
		extend(t, s.device, 23, good["8"])
		q, values := s.over(t, c.Nonce, tpm.Selection{Alg: tpm.SHA256, Mask: mask})
		e.Quotes = []client.Quote{q}
		values["sha256"]["8"] = values["sha256"]["23"]
		delete(values["sha256"], "23")
		e.PCRs = values
		e.EventLog = readFile(t, bootLog(t, "sb-on-1"))
	})).must(t, "contraindicated", "origin_unverified", "quote.selection")

	for name, change := range map[string]func(c *client.Challenge, s *signer, e *client.Evidence){
		"two values exchanged": func(_ *client.Challenge, _ *signer, e *client.Evidence) {
			v := bank(e, "sha256")
			v["8"], v["9"] = v["9"], v["8"]
		},
		"the good value told": func(_ *client.Challenge, _ *signer, e *client.Evidence) { bank(e, "sha256")["8"] = good["8"] },
		"a bank under another name": func(_ *client.Challenge, _ *signer, e *client.Evidence) {
			e.PCRs["sha384"], e.PCRs["sha256"] = e.PCRs["sha256"], nil
			delete(e.PCRs, "sha256")
		},
	} {
		c := m.challenge()
		got := m.submit(m.forge(c, func(s *signer, e *client.Evidence) { change(c, s, e) }))
		if got.status == http.StatusBadRequest && name == "a bank under another name" {
			continue // values of 32 bytes are none of SHA-384
		}
		if got.status != http.StatusCreated {
			t.Fatalf("%s: %d %s", name, got.status, got.body)
		}
		parseVerdict(t, got.body).must(t, "contraindicated", "origin_unverified")
	}
	m.reboot("sb-on-1")
	m.attest().must(t, "affirming", "")
}

func mustEvidence(t *testing.T, body []byte) *client.Evidence {
	t.Helper()
	var e client.Evidence
	if err := json.Unmarshal(body, &e); err != nil {
		t.Fatal(err)
	}
	return &e
}

// extend extends a PCR with a digest of the SHA-256 bank.
func extend(t *testing.T, d *tpmdevice.Device, pcr int, digest string) {
	t.Helper()
	raw, err := hex.DecodeString(digest)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha1.Sum(raw)
	if err := d.Extend(pcr, map[tpm.HashAlg][]byte{tpm.SHA256: raw, tpm.SHA1: sum[:]}); err != nil {
		t.Fatal(err)
	}
}

// TestPartsOfTwoMachinesProveNothing: a machine that booted something else borrows from a healthy one that is enrolled beside it: its log,
// its values, its whole quote over the borrower's challenge, one of two quotes. Nothing of it makes the borrower healthy.
func TestPartsOfTwoMachinesProveNothing(t *testing.T) {
	svc := sharedService(t)
	healthy, borrower := booted(t, svc, "parts-good", "parts", "sb-on-1"), booted(t, svc, "parts-bad", "parts", "cmdline")
	healthy.attest().must(t, "affirming", "")
	cli(t, svc, "baselines", "capture", "--machine", healthy.name, "--name", "parts golden", "--scale-set", "parts")
	borrower.attest().must(t, "contraindicated", "baseline_deviation", "baseline.match")
	for name, change := range map[string]func(own, lent *client.Evidence){
		"the log":             func(own, lent *client.Evidence) { own.EventLog = lent.EventLog },
		"the values":          func(own, lent *client.Evidence) { own.PCRs = lent.PCRs },
		"log and values":      func(own, lent *client.Evidence) { own.PCRs, own.EventLog = lent.PCRs, lent.EventLog },
		"all but the token":   func(own, lent *client.Evidence) { *own = *lent },
		"a quote beside":      func(own, lent *client.Evidence) { own.Quotes = append(own.Quotes, lent.Quotes...) },
		"a quote before":      func(own, lent *client.Evidence) { own.Quotes = append(lent.Quotes, own.Quotes...) },
		"message of a quote":  func(own, lent *client.Evidence) { own.Quotes[0].Message = lent.Quotes[0].Message },
		"all but a signature": func(own, lent *client.Evidence) { lent.Quotes[0].Signature = own.Quotes[0].Signature; *own = *lent },
	} {
		c := borrower.challenge()
		lent := mustEvidence(t, healthy.evidence(c)) // the relay: its TPM answers the borrower's challenge
		v := borrower.judged(borrower.forge(c, func(_ *signer, e *client.Evidence) { change(e, lent) }))
		if v.Status != "contraindicated" || v.Reason != "origin_unverified" {
			t.Errorf("%s: %s %s", name, v.Status, v.Reason)
		}
	}
	healthy.attest().must(t, "affirming", "")
}

// TestAssignedBaselineIsEvaluated: a baseline that covers a machine is judged by, whatever the evidence leaves out. Without its log, with an
// empty one, or with IMA's list in its place, a boot that deviates does not pass, and the check is never skipped.
func TestAssignedBaselineIsEvaluated(t *testing.T) {
	svc := sharedService(t)
	m := booted(t, svc, "assigned-web", "assigned", "sb-on-1")
	m.attest().must(t, "affirming", "")
	cli(t, svc, "baselines", "capture", "--machine", m.name, "--name", "assigned golden", "--scale-set", "assigned")
	m.attest().must(t, "affirming", "")
	for _, boot := range []string{"sb-on-1", "cmdline", "initrd-tampered"} {
		m.reboot(boot)
		for name, change := range map[string]func(e *client.Evidence){
			"whole":        func(*client.Evidence) {},
			"without log":  func(e *client.Evidence) { e.EventLog = nil },
			"a log of one": func(e *client.Evidence) { e.EventLog = e.EventLog[:73] },
		} {
			got := m.submit(m.forge(m.challenge(), func(_ *signer, e *client.Evidence) { change(e) }))
			if got.status != http.StatusCreated {
				t.Fatalf("%s, %s: %d %s", boot, name, got.status, got.body)
			}
			v := parseVerdict(t, got.body)
			match := v.check("baseline.match").Status
			if v.Status == "affirming" && (match != "pass" || boot != "sb-on-1") || boot != "sb-on-1" && v.Status != "contraindicated" {
				t.Errorf("%s, %s: %s, baseline.match %q", boot, name, v.Status, match)
			}
		}
	}
}

// TestGHSAhcm6rjfhf25pNestingIsBounded: events nested in events made a parser recurse until its process ended (GHSA-hcm6-rjfh-f25p). Here a
// log that is genuine by its digests, and holds Windows events nested as deep as their bytes allow, is judged, and the service lives.
func TestGHSAhcm6rjfhf25pNestingIsBounded(t *testing.T) {
	svc := sharedService(t)
	m := newSoftMachine(t, svc, "nested-web")
	const room = 4 << 20
	nested := make([]byte, room)
	for at := 0; at+8 <= room; at += 8 {
		binary.LittleEndian.PutUint32(nested[at:], 0x40010001) // SIPAEVENT_TRUSTBOUNDARY, an aggregation
		binary.LittleEndian.PutUint32(nested[at+4:], uint32(room-at-8))
	}
	for _, pcr := range []uint32{11, 12, 13} {
		log := bytes.Clone(agileHeader())
		log = append(log, agileEvent(pcr, 6 /* EV_EVENT_TAG */, nested)...)
		if err := m.Boot(log); err != nil {
			t.Fatal(err)
		}
		var c client.Challenge
		svc.call(t, http.MethodPost, "/v1/machines/"+m.id+"/challenges", m.token, nil, http.StatusCreated, &c)
		body, err := m.Evidence(&c, true)
		if err != nil {
			t.Fatal(err)
		}
		got, err := svc.send(t.Context(), http.MethodPost, "/v1/machines/"+m.id+"/evidence", m.token, "application/json", body)
		if err != nil || got.status != http.StatusCreated {
			t.Fatalf("PCR %d: %v %d %.300s", pcr, err, got.status, got.body)
		}
		if v := parseVerdict(t, got.body); v.check("eventlog.replay").Status != "pass" {
			t.Errorf("PCR %d: the log does not replay, so it was not read to its end: %+v", pcr, v.Checks)
		}
	}
	svc.call(t, http.MethodGet, "/healthz", "", nil, http.StatusOK, nil)
}

// agileHeader is the first record of a log with a SHA-256 bank (TCG PC Client Platform Firmware Profile, section 10.4.5.1).
func agileHeader() []byte {
	data := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2)
	data = binary.LittleEndian.AppendUint32(data, 1)
	data = binary.LittleEndian.AppendUint16(data, uint16(tpm2.TPMAlgSHA256))
	data = append(binary.LittleEndian.AppendUint16(data, sha256.Size), 0)
	record := binary.LittleEndian.AppendUint32(nil, 0)
	record = binary.LittleEndian.AppendUint32(record, 3) // EV_NO_ACTION
	record = append(record, make([]byte, sha1.Size)...)
	return append(binary.LittleEndian.AppendUint32(record, uint32(len(data))), data...)
}

// agileEvent is a record whose digest is the SHA-256 of its data.
func agileEvent(pcr, kind uint32, data []byte) []byte {
	record := binary.LittleEndian.AppendUint32(nil, pcr)
	record = binary.LittleEndian.AppendUint32(record, kind)
	record = binary.LittleEndian.AppendUint32(record, 1)
	record = binary.LittleEndian.AppendUint16(record, uint16(tpm2.TPMAlgSHA256))
	sum := sha256.Sum256(data)
	record = append(record, sum[:]...)
	return append(binary.LittleEndian.AppendUint32(record, uint32(len(data))), data...)
}
