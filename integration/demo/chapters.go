package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/assay-verifier/assay/cmd/assay-agent/attester"
	"github.com/assay-verifier/assay/cmd/assay-agent/client"
	"github.com/assay-verifier/assay/cmd/assay-agent/tpmdevice"
	"github.com/assay-verifier/assay/verifier"
)

// prepare does what an operator does once: trust the TPM vendor, make a join token.
func (s *story) prepare() error {
	s.tokenFile = filepath.Join(s.DataDir, "admin.token")
	title("A new service. The operator trusts a TPM vendor and makes a join token.")
	first, err := s.newMachine("web-1", "web", "trusted_launch")
	if err != nil {
		return err
	}
	root, err := first.tpm.RootPEM()
	if err != nil {
		return err
	}
	intermediate, err := first.tpm.IntermediatePEM()
	if err != nil {
		return err
	}
	bundle := filepath.Join(s.WorkDir, "vendor.pem")
	if err := os.WriteFile(bundle, append(root, intermediate...), 0o600); err != nil {
		return err
	}
	if err := s.show("trust-anchors", "add", "--name", "demo TPM vendor", "--purpose", "ek", bundle); err != nil {
		return err
	}
	out, err := s.assay("join-tokens", "create", "--name", "demo fleet", "--uses", "20", "--output", "json")
	if err != nil {
		return err
	}
	var token struct{ Token string }
	if err := json.Unmarshal([]byte(out), &token); err != nil {
		return fmt.Errorf("reading the join token: %w", err)
	}
	s.joinToken = token.Token
	return nil
}

// healthy enrols two machines of a scale set, makes the first one golden, and judges both.
func (s *story) healthy() error {
	title("Two web servers boot (Debian, Secure Boot on), enrol by credential activation and attest.")
	web1 := s.machines[0]
	web2, err := s.newMachine("web-2", "web", "trusted_launch")
	if err != nil {
		return err
	}
	for _, step := range []func() error{
		func() error { return web1.bootRecorded("sb-on-1") },
		web1.enroll,
		func() error { return web1.attestAndTell("affirming", "") },
		func() error {
			return s.show("baselines", "capture", "--machine", "web-1", "--name", "web golden", "--scale-set", "web")
		},
		func() error { return web1.attestAndTell("affirming", "") },
		func() error { return web2.bootRecorded("sb-on-otherbox") },
		web2.enroll,
		func() error { return web2.attestAndTell("affirming", "") },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// rebooted resets the first machine's TPM and boots the same software again.
func (s *story) rebooted() error {
	title("web-1 reboots, with the same software: still healthy.")
	web1 := s.machines[0]
	if err := web1.rebootInto("sb-on-2"); err != nil {
		return err
	}
	return web1.attestAndTell("affirming", "")
}

// changed boots machines of the same scale set with something changed.
func (s *story) changed() error {
	for _, c := range []struct{ name, boot, what string }{
		{"web-3", "cmdline", "web-3 booted with another kernel command line."},
		{"web-4", "grubcfg-tampered", "web-4 booted with one more line in its boot loader configuration."},
		{"web-5", "initrd-tampered", "web-5 booted an initrd with one more file in it."},
	} {
		title("%s", c.what)
		m, err := s.newMachine(c.name, "web", "trusted_launch")
		if err != nil {
			return err
		}
		if err := m.bootRecorded(c.boot); err != nil {
			return err
		}
		if err := m.enroll(); err != nil {
			return err
		}
		if err := m.attestAndTell("contraindicated", "baseline_deviation"); err != nil {
			return err
		}
	}
	return nil
}

// secureBootOff boots a confidential VM whose real log shows that Secure Boot is off.
func (s *story) secureBootOff() error {
	title("cvm-1, a confidential VM (the boot log of a real one), has Secure Boot off: attestation does not succeed.")
	m, err := s.newMachine("cvm-1", "", "confidential_snp")
	if err != nil {
		return err
	}
	if err := m.boot(filepath.Join(s.Logs, "ubuntu-1804-amd-sev.bin")); err != nil {
		return err
	}
	if err := m.enroll(); err != nil {
		return err
	}
	if err := m.attestAndTell("contraindicated", "baseline_deviation"); err != nil {
		return err
	}
	return s.show("recommendations", "--machine", "cvm-1")
}

// forged shows what an attacker in the middle can send: evidence that was sent before, and a fresh
// quote of another TPM.
func (s *story) forged() error {
	title("Somebody on web-2's network path answers for it, first with evidence recorded earlier, then with a TPM of his own.")
	web2 := s.machines[1]
	state, err := attester.LoadState(web2.stateDir())
	if err != nil {
		return err
	}
	id, token := state.MachineID, state.Bearer()
	api, err := client.New(s.Server, client.Options{})
	if err != nil {
		return err
	}
	defer api.Close()

	recorded, err := web2.evidence(api, state, web2.tpm.Socket, false)
	if err != nil {
		return err
	}
	if _, err := api.SubmitEvidence(s.ctx, id, token, recorded); err != nil {
		return err
	}
	replayed, err := api.SubmitEvidence(s.ctx, id, token, recorded)
	if err != nil {
		return err
	}
	v, err := parseVerdict(replayed.Raw)
	if err != nil {
		return err
	}
	if err := web2.tell(v, "contraindicated", "origin_unverified"); err != nil {
		return err
	}

	web3 := s.machines[2]
	foreign, err := web2.evidence(api, state, web3.tpm.Socket, true)
	if err != nil {
		return err
	}
	answer, err := api.SubmitEvidence(s.ctx, id, token, foreign)
	if err != nil {
		return err
	}
	if v, err = parseVerdict(answer.Raw); err != nil {
		return err
	}
	return web2.tell(v, "contraindicated", "origin_unverified")
}

// evidence answers a fresh challenge for the machine with the TPM at socket, signed by the machine's
// own AK or, with foreign set, by a new AK of that TPM.
func (m *machine) evidence(api *client.Client, state *attester.State, socket string, foreign bool) (*client.Evidence, error) {
	challenge, err := api.Challenge(m.story.ctx, state.MachineID, state.Bearer())
	if err != nil {
		return nil, err
	}
	device, err := tpmdevice.Open(socket)
	if err != nil {
		return nil, err
	}
	defer device.Close()
	var ak *tpmdevice.Key
	if foreign {
		_, ak, err = device.CreateAK(tpmdevice.ECDSA)
	} else {
		ak, err = device.LoadAK(state.AK.Blob)
	}
	if err != nil {
		return nil, err
	}
	defer ak.Close()
	banks, err := device.Banks()
	if err != nil {
		return nil, err
	}
	policy := verifier.Policy{PCRs: challenge.PCRSelection}
	want, err := tpmdevice.Available(policy.RequiredSelections(), banks)
	if err != nil {
		return nil, err
	}
	quoted, err := device.Quote(ak, challenge.Nonce, want)
	if err != nil {
		return nil, err
	}
	log, err := os.ReadFile(m.log)
	if err != nil {
		return nil, err
	}
	return &client.Evidence{
		Quotes:   []client.Quote{{Message: quoted.Message, Signature: quoted.Signature}},
		PCRs:     client.PCRValues(quoted.PCRs),
		EventLog: log,
	}, nil
}

// noAgent puts a machine into the inventory that could attest but has no agent.
func (s *story) noAgent() error {
	title("db-1 is in the inventory with Secure Boot and a vTPM, but has no agent.")
	body := `{"name": "db-1", "external_id": "demo-db-1", "platform": "qemu", "os": "linux", "security_type": "trusted_launch", "scale_set": "db",
 "declared": {"secure_boot_supported": true, "secure_boot": true, "vtpm": true, "agent_installed": false}}`
	if err := s.post("/v1/machines", body); err != nil {
		return err
	}
	return s.show("recommendations", "--machine", "db-1")
}

// post calls the API as an administrator.
func (s *story) post(path, body string) error {
	token, err := os.ReadFile(s.tokenFile)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(s.ctx, http.MethodPost, strings.TrimSuffix(s.Server, "/")+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	req.Header.Set("Content-Type", "application/json")
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
		return fmt.Errorf("POST %s: %s: %s", path, answer.Status, text)
	}
	return nil
}

// azureNonce is what the quote of the Azure machine was made for.
const azureNonce = "982f5c6e45df0ed3f10b6f60b02f0c8390e281300f3805e2279c16168cd6ae9aa398f647caa2338748cd0fd9f5f819ef"

// confidential judges real evidence of confidential VMs, offline: first one machine's, then parts of two.
func (s *story) confidential() error {
	title("A real Azure confidential VM, judged offline: AMD's root vouches for the chip, the report for the TPM, the TPM for the boot.")
	evidence := filepath.Join("integration", "demo", "testdata")
	if err := s.verdict("verify", "--evidence", filepath.Join(evidence, "azure-snp.json"), "--nonce", azureNonce); err != nil {
		return err
	}
	title("The same quote beside the genuine report of another Azure machine: each part is real, and together they prove nothing.")
	return s.verdict("verify", "--evidence", filepath.Join(evidence, "azure-snp-mixed.json"), "--nonce", azureNonce)
}

// suppressed hides the alert of a machine that must keep Secure Boot off; its verdict stays.
func (s *story) suppressed() error {
	title("cvm-1 has to keep Secure Boot off for now: its alert is suppressed, its verdict is not.")
	body := `{"alert_code": "attestation_failed", "reason": "vendor driver is unsigned until the next release", "comment": "SEC-1042",
 "expires_at": null, "state": "enabled", "scope": {"all_of": [{"field": "machine.name", "in": ["cvm-1"]}]}}`
	if err := s.post("/v1/suppression-rules", body); err != nil {
		return err
	}
	return s.show("alerts")
}

// ending prints the fleet and how to go on.
func (s *story) ending() error {
	title("The fleet")
	if err := s.show("machines"); err != nil {
		return err
	}
	token, err := filepath.Abs(s.tokenFile)
	if err != nil {
		return err
	}
	out, err := s.assay("alerts", "--output", "json")
	if err != nil {
		return err
	}
	var alerts struct {
		Items []struct {
			VerdictID string `json:"verdict_id"`
		}
	}
	if err := json.Unmarshal([]byte(out), &alerts); err != nil || len(alerts.Items) == 0 {
		return fmt.Errorf("there are no alerts to show: %w", err)
	}
	title("The service keeps running.")
	fmt.Printf(`  page    %[1]s/ui/      (sign in with the token)
  API     %[1]s/docs
  token   %[2]s

  curl -s -H "Authorization: Bearer $(cat %[2]s)" %[1]s/v1/alerts | jq '.items[] | {machine_id, reason, description}'
  curl -s -H "Authorization: Bearer $(cat %[2]s)" %[1]s/v1/verdicts/%[3]s | jq '.checks[] | {code, status, detail}'
  curl -s -H "Authorization: Bearer $(cat %[2]s)" %[1]s/v1/verdicts/%[3]s/event-log | jq -r '.[] | "\(.pcr) \(.component): \(.description)"'

  make demo-stop ends it.
`, strings.TrimSuffix(s.Server, "/"), token, alerts.Items[0].VerdictID)
	return nil
}
